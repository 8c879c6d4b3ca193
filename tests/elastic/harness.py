"""A real Ray cluster of several nodes on this machine, a `contray train` on it as a user starts it, and faults."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch

from contray.storage.checkpoint import latest
from contray.storage.folder import Storage
from contray.training.audit import Attempt, History, attempts, history
from contray.training.elastic import NODE_HEALTH
from tests.stores import fresh

SLOW = """
import time

from contray.methods.{module} import PAPER, PRESETS, RECIPE, VIEWS, Config, {name}


class Slow(Method := {name}):
    def after_backward(self, clock):
        super().after_backward(clock)
        time.sleep({seconds})
"""
# Storage that misbehaves in this process while a file says so: `slow` holds every write up, `stale` hides the newest checkpoint from rank 1.
LYING = """
import os
from pathlib import Path

import torch.distributed as dist

from contray.storage.checkpoint import PATTERN
from contray.storage.folder import Storage

read, write, names = Storage.read, Storage.write, Storage.names


def now(fault):
    return Path("{control}", fault).exists()


def hidden(self):
    if not (now("stale") and dist.is_initialized() and dist.get_rank() == 1):
        return ""
    return max((name for name in names(self) if PATTERN.fullmatch(name)), default="")


def lying_read(self, name):
    if name == hidden(self):
        Path("{control}", "stale").unlink(missing_ok=True)  # the listing is renewed a moment later
        raise FileNotFoundError(2, "No such file or directory", name)
    return read(self, name)


def slow_write(self, name, content):
    if now("slow"):
        time.sleep({hold})
    return write(self, name, content)


Storage.read, Storage.write = lying_read, slow_write
Storage.names = lambda self: [name for name in names(self) if name != hidden(self)]
"""
NICE = {"RAY_worker_niceness": "0"}  # stock 15: whatever else the machine does would slow Ray's workers alone
# glibc fills what is freed with this byte: who reads it later crashes at once, not now and then
SWEPT = ("MALLOC_PERTURB_", "165")
METHODS = {"moco": "MoCo", "instdisc": "InstDisc", "dino": "DINO"}  # a queue; a bank by sample id; an EMA target with multi-crop

# A network of few channels in double precision under SGD, at a rate where its dynamics are not chaotic; 13 rows are 7 + 6 on two workers.
SMALL: dict[str, Any] = {
    "data.size": 16, "data.renderings": 1, "data.workers": 0, "backbone.width": 4, "train.batch_size": 13, "train.precision": "fp64",
    "train.norm_groups": 1, "train.log_every": 1, "train.checkpoint_seconds": 2, "train.audit": True, "optim.name": "sgd", "optim.lr": 0.002,
    "optim.lr_scaling": "none", "eval.every_epochs": 0, "eval.final": (), "track.model": False, "scale.cpus_per_worker": 1,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "moco": {"views.query.size": 16, "views.key.size": 16, "method.queue_size": 130, "method.dim": 8, "method.temperature": 1.0},
    "instdisc": {"views.view.size": 16},
    "dino": {"views.large_a.size": 16, "views.large_b.size": 16},
}


def slow_method(folder: Path, method: str, seconds: float, control: Path | None = None, hold: float = 3.0) -> Path:
    """The method as a user's own file, each step taking `seconds` longer: a fault must find the run in its middle.

    control: a folder in which a file `slow` makes every write to the storage take `hold` seconds longer, and a file `stale` hides the
    newest checkpoint from rank 1 until it has looked for it once.
    """
    path = folder / f"slow_{method}.py"
    lying = LYING.format(control=control, hold=hold) if control else ""
    path.write_text(SLOW.format(module=method, name=METHODS[method], seconds=seconds) + lying)
    return path


class Disk:
    """A small file system of its own under a run's folder (a tmpfs, which only root can mount): it fills up and turns read-only.

    The audit of the steps lies elsewhere: it is what the run is judged by. What the folder holds at the end stays.
    """

    def __init__(self, run: Driver, megabytes: int = 8) -> None:
        self.place, self.megabytes, self.run = Path(run.storage.address), megabytes, run
        self._filler = self.place / "filler"

    def __enter__(self) -> Self:
        self.place.mkdir(parents=True)
        self._mount(f"size={self.megabytes}m", "tmpfs")
        audit = self.run.folder / f"{self.run.name}-audit"
        audit.mkdir()
        (self.place / "audit").symlink_to(audit)
        return self

    def __exit__(self, *error: object) -> None:
        kept = self.place.with_name(f"{self.place.name}-kept")
        shutil.copytree(self.place, kept, symlinks=True)
        subprocess.run(["umount", "--lazy", str(self.place)], check=True)
        self.place.rmdir()
        kept.rename(self.place)

    def _mount(self, options: str, *kind: str) -> None:
        subprocess.run(["mount", *(["-t", *kind] if kind else []), "-o", options, *(kind or ()), str(self.place)], check=True)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """No byte is left."""
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            self._filler.unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be written."""
        self._again("remount,ro")
        try:
            yield
        finally:
            self._again("remount,rw")

    def _again(self, options: str) -> None:
        for _ in range(100):  # busy while a file is just being written
            with contextlib.suppress(subprocess.CalledProcessError):
                return self._mount(options)
            time.sleep(0.05)
        raise RuntimeError(f"{self.place} could not be mounted with {options}")

    def zero_a_page(self) -> str:
        """Overwrite 4 KiB in the middle of the newest checkpoint with zeros, as a lost page does; its name."""
        path = max(self.place.glob("step-*.pt"))
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2 // 4096 * 4096)
            file.write(bytes(4096))
        return path.name


class Nodes:
    """Ray nodes of one CPU each, besides a head of none, with the health checks of `ray_cluster.yaml`."""

    def __init__(self, count: int = 1) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(NICE)
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": dict(NODE_HEALTH)}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self.cluster.address
        self.all: list[Any] = [self.add() for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.cluster.shutdown()

    def add(self) -> Any:
        node = self.cluster.add_node(num_cpus=1)
        with contextlib.suppress(AttributeError):
            self.all.append(node)
        return node

    def kill(self, node: Any) -> None:
        """The node is gone at once, as when its machine loses power."""
        self.all.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any, seconds: float) -> None:
        """The node's machine will be taken away in `seconds`, and says so: a spot machine's notice. The caller kills it then."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        taken, why = GcsClient(address=self.address).drain_node(node.node_id, reason, "spot", int((time.time() + seconds) * 1000))
        if not taken:
            raise RuntimeError(f"the node refused to drain: {why}")


class Driver:
    """`contray train` in a process of its own, and what its run has written so far."""

    def __init__(self, folder: Path, method: str | Path, keys: Mapping[str, Any], name: str, preset: str = "digits") -> None:
        self.folder, self.name = folder, name
        keys = {"scale.storage": str(folder / "runs"), "track.uri": fresh(folder), "track.name": name, **keys}
        options = []
        for key, value in keys.items():
            options += [f"--{key}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
        self.command = [sys.executable, "-m", "contray", "train", str(method), "--preset", preset, *options]
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def storage(self) -> Storage:
        return Storage(str(self.folder / "runs" / self.name))

    def start(self) -> Self:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **NICE}
            )
        return self

    def end(self, seconds: float) -> int:
        """Its exit code, waited for."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the run did not end within {seconds:g} s\n{self.told()}") from None

    def told(self) -> str:
        return self.log.read_text()[-4000:]

    def lives(self) -> list[Attempt]:
        return attempts(self.storage)

    def step(self) -> int:
        return max((max(life.ids, default=life.begin) for life in self.lives()), default=0)

    def until(self, what: str, true: Callable[[list[Attempt]], Any], seconds: float) -> list[Attempt]:
        """The lives of the run, once `true` is true of them."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            lives = self.lives()
            if true(lives):
                return lives
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"the run ended with {self.process.returncode} before {what}\n{self.told()}")
            time.sleep(0.1)
        raise TimeoutError(
            f"waited {seconds:g} s for {what}: {[(life.world, life.begin, len(life.ids)) for life in self.lives()]}\n{self.told()}"
        )

    def until_step(self, step: int, seconds: float = 120) -> list[Attempt]:
        return self.until(f"step {step}", lambda lives: lives and max(lives[-1].ids, default=0) >= step, seconds)

    def kill_worker(self, rank: int) -> None:
        os.kill(self.lives()[-1].pids[rank], signal.SIGKILL)

    def history(self) -> History:
        return history(self.lives())

    def state(self) -> dict[str, Any]:
        state = latest(self.storage)
        assert state is not None
        return state

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        self.start()
        try:
            yield self
        finally:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()


def apart(one: Driver, other: Driver) -> dict[str, float]:
    """How far two runs are from each other: relative differences of losses and of state tensors, and whether their ids are the same."""
    a, b = one.history(), other.history()
    losses = max(abs(a.losses[step] - b.losses[step]) / abs(a.losses[step]) for step in a.losses)
    state, theirs = one.state()["method"], other.state()["method"]
    norms = {
        key: float((value - theirs[key]).norm() / value.norm().clamp(min=1e-30))
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return {"loss": losses, "state": max(norms.values()), "ids": float(a.ids == b.ids), "steps": float(len(a.ids))}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
