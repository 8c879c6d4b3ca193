"""What is judged of what was read: each check takes the facts of all nodes and says what is wrong, what is odd, and what is fine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from .findings import Finding

GIB = 2**30
SHM, FILES, DISK = 1 * GIB, 4096, 20 * GIB  # less than that is said
FEW_FILES = 1024  # Ray and loader processes run out of these
# seconds between clocks: curves in MLflow are out of order; object stores refuse signatures (15 minutes)
APART, SIGNED = (
    2.0,
    600.0,
)
SLOW = 20.0  # MB/s of the storage
SHARED = "give a path that all nodes share, or an address such as --scale.storage s3://bucket/runs"
SERVER = "run an MLflow server where all nodes reach it, and give --track.uri http://HOST:5000 (docs/CLUSTER.md)"
COMPARED = ("python", "ray", "torch", "torchvision", "numpy", "albumentations", "contray")
Facts = Mapping[str, Mapping[str, Any]]  # by the name of the node


def versions(facts: Facts) -> Iterator[Finding]:
    """Alike everywhere: workers' results are compared bit by bit."""
    mend = "give all nodes one image, or one environment: workers compare their results bit by bit"
    alike = True
    for library in COMPARED:
        found = {node: each["versions"][library] for node, each in facts.items()}
        usual = max(set(found.values()), key=lambda version: (list(found.values()).count(version), version))
        for node, version in found.items():
            if version == "not installed":
                alike = False
                how = (
                    "pip install contray there, or send it with the job (--runtime-env runtime_env.yaml)"
                    if library == "contray"
                    else mend
                )
                yield Finding("versions", "wrong", f"{library} is not installed", node, how)
            elif version != usual:
                alike = False
                yield Finding("versions", "wrong", f"{library} {version}, elsewhere {usual}", node, mend)
    if alike and facts:
        first = next(iter(facts.values()))["versions"]
        yield Finding("versions", "ok", ", ".join(f"{name} {first[name]}" for name in COMPARED))


def gpus(facts: Facts, counted: Mapping[str, float]) -> Iterator[Finding]:
    """counted: the GPUs of each node that Ray knows of; a node that is missing there is not asked of."""
    kinds: dict[str, list[str]] = {}
    builds = {
        node: each["torch_cuda"]["nccl"]
        for node, each in facts.items()
        if each["gpus"] and (each["torch_cuda"] or {}).get("nccl")
    }
    for node, each in facts.items():
        there, torch = each["gpus"], each["torch_cuda"] or {}
        for gpu in there:
            if node not in kinds.setdefault(gpu["name"], []):
                kinds[gpu["name"]].append(node)
        if there and not torch.get("built"):
            how = "install torch's build for CUDA: https://pytorch.org/get-started/locally"
            yield Finding("GPUs", "wrong", f"the driver shows {len(there)}, and torch is built for CPUs alone", node, how)
        elif there and not torch.get("usable"):
            words = f"torch is built for CUDA {torch['built']}, and cannot use it with driver {there[0]['driver']}"
            yield Finding("GPUs", "wrong", words, node, "update the driver, or install a torch that is built for an older CUDA")
        ray = counted.get(node, float(len(there)))
        if ray < len(there):
            how = f"start its Ray with --num-gpus {len(there)}, unless some are kept from it by intention"
            yield Finding("GPUs", "odd", f"the driver shows {len(there)}, Ray counts {ray:g}", node, how)
        elif ray > len(there):
            how = "look at `nvidia-smi` there: a driver that is gone, or a container without --gpus all"
            yield Finding("GPUs", "wrong", f"Ray counts {ray:g}, the driver shows {len(there)}", node, how)
    if len(kinds) > 1:
        words = "; ".join(f"{name} on {', '.join(nodes)}" for name, nodes in kinds.items())
        yield Finding(
            "GPUs",
            "odd",
            f"of several kinds: {words}",
            "",
            "let a run have one kind: others round otherwise, and workers compare bits",
        )
    if len(set(builds.values())) > 1:
        words = ", ".join(f"{version} on {node}" for node, version in builds.items())
        yield Finding("GPUs", "wrong", f"several versions of NCCL: {words}", "", "one image for all nodes")
    total = sum(len(each["gpus"]) for each in facts.values())
    if not total and any(counted.values()):
        return
    names = ", ".join(f"{len(nodes)} node{'s' * (len(nodes) > 1)} with {name}" for name, nodes in kinds.items())
    yield Finding("GPUs", "ok", f"{total}: {names}" if total else "none: runs take CPUs")


def network(facts: Facts, unreached: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """unreached: {from: {to: why}}."""
    for node, others in unreached.items():
        for other, why in others.items():
            how = "open all ports between the nodes (a security group that admits itself), and give an address that others reach: ray start --node-ip-address"
            yield Finding("network", "wrong", f"does not reach {other}: {why}", node, how)
    if len({each["host"] for each in facts.values()}) > 1:
        for node, each in facts.items():
            if each["own_address"].startswith("127."):
                how = "let its name in /etc/hosts stand for the address that others reach, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
                yield Finding(
                    "network", "odd", f"its own name means {each['own_address']}, which no other node reaches", node, how
                )
    if not any(unreached.values()):
        yield Finding("network", "ok", f"{len(facts)} nodes reach each other" if len(facts) > 1 else "one node")


def storage(address: str, local: bool, looks: Mapping[str, Mapping[str, Any]], left: set[str]) -> Iterator[Finding]:
    """looks: what each node said of it; left: names that the driver finds there afterwards, as the nodes have written them (their own names)."""
    fine = True
    for node, look in looks.items():
        if look.get("error"):
            how = (
                "rights of that path on the node"
                if local
                else "the address, its login (AWS_ACCESS_KEY_ID, ... in every node's environment), AWS_ENDPOINT_URL"
            )
            fine = False
            yield Finding("storage", "wrong", f"{address}: {look['error']}", node, f"look at {how}")
        elif not look["seen"] or node not in left:
            fine = False
            yield Finding("storage", "wrong", f"{address} is another folder there than for the driver", node, SHARED)
        elif not look["same"]:
            fine = False
            yield Finding(
                "storage",
                "wrong",
                f"{address} gives other bytes than were written",
                node,
                "look at what serves it before it is trusted with checkpoints",
            )
        elif min(look["write"], look["read"]) < SLOW:
            words = f"{address}: writes {look['write']:.0f} MB/s, reads {look['read']:.0f}"
            yield Finding(
                "storage", "odd", words, node, "checkpoints wait for it; train.checkpoint_seconds says how often they are written"
            )
    if fine and looks:
        write, read = (median(look[way] for look in looks.values()) for way in ("write", "read"))
        yield Finding("storage", "ok", f"{address}: writes {write:.0f} MB/s, reads {read:.0f} (median of nodes, 32 MB)")


def tracking(uri: str, apart: bool, troubles: Mapping[str, str]) -> Iterator[Finding]:
    """apart: the store is a file, and there are several nodes; troubles: {node: why it does not answer there, or nothing}."""
    if apart:
        yield Finding("MLflow", "wrong", f"{uri} is a file, for one machine", "", SERVER)
        return
    for node, words in troubles.items():
        if words:
            how = "start it, or look at --track.uri; a login goes into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of every node"
            yield Finding("MLflow", "wrong", words, node, how)
    if not any(troubles.values()):
        yield Finding("MLflow", "ok", f"{uri} answers")


def data(source: str, facts: Facts) -> Iterator[Finding]:
    """A source that is a path must be there for every worker."""
    lacking = [node for node, each in facts.items() if each["data"] is False]
    for node in lacking:
        how = "data belongs on storage that all nodes share, or at an address (s3://...)"
        yield Finding("data", "wrong", f"there is no {source}", node, how)
    if not lacking:
        yield Finding(
            "data",
            "ok",
            f"{source} is there"
            if any(each["data"] for each in facts.values())
            else f"{source} is built in or fetched by its name: no path to look for",
        )


def clocks(offsets: Mapping[str, tuple[float, float]]) -> Iterator[Finding]:
    """offsets: {node: (seconds ahead of the driver's, half of what the question took, so far it may be wrong)}."""
    fine = True
    for node, (ahead, unsure) in offsets.items():
        off = abs(ahead) - unsure
        if off > APART:
            fine = False
            state = "wrong" if off > SIGNED else "odd"
            words = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the driver's"
            yield Finding(
                "clocks",
                state,
                words,
                node,
                "let chrony or systemd-timesyncd set it; object stores refuse clocks that are 15 minutes off",
            )
    if fine and offsets:
        yield Finding("clocks", "ok", f"within {max(abs(ahead) + unsure for ahead, unsure in offsets.values()):.2f} s")


def limits(facts: Facts) -> Iterator[Finding]:
    """Shared memory, open files and the temporary folder."""
    said: set[str] = set()
    for node, each in facts.items():
        if each["shm_free"] is not None and each["shm_free"] < SHM:
            said.add("shared memory")
            how = "docker run --shm-size 8g; in Kubernetes an emptyDir of medium Memory on /dev/shm; else --data.workers 0"
            yield Finding("shared memory", "wrong", f"{each['shm_free'] / 2**20:.0f} MB are free in /dev/shm", node, how)
        if 0 <= each["open_files"] < FILES:
            said.add("open files")
            state = "wrong" if each["open_files"] < FEW_FILES else "odd"
            how = "ulimit -n 65536 before `ray start` (docker run --ulimit nofile=65536, LimitNOFILE of a service)"
            yield Finding("open files", state, f"{each['open_files']} may be open", node, how)
        if each["tmp_free"] < DISK:
            said.add("disk")
            how = "a larger disk, or `ray start --temp-dir` and TMPDIR on one"
            state = "wrong" if each["tmp_free"] < GIB else "odd"
            yield Finding("disk", state, f"{each['tmp_free'] / GIB:.1f} GB are free in {each['tmp']}", node, how)
    if facts:
        least = {
            "shared memory": min((each["shm_free"] for each in facts.values() if each["shm_free"] is not None), default=None),
            "open files": min(each["open_files"] for each in facts.values()),
            "disk": min(each["tmp_free"] for each in facts.values()),
        }
        for check, value in least.items():
            if check not in said and value is not None:
                words = f"{value} or more" if check == "open files" else f"{value / GIB:.1f} GB or more are free"
                yield Finding(check, "ok", words)
