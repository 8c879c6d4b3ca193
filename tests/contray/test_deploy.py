"""What a team starts contray with: the image, the manifests for KubeRay, the scripts for Slurm."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from contray.training.elastic import NODE_HEALTH

REPO = Path(__file__).parents[2]
DEPLOY = REPO / "deploy"
FIELDS = json.loads((Path(__file__).parent / "kuberay.json").read_text())
MANIFESTS = ("ray_cluster", "ray_job")


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())


def cluster_of(written: dict[str, Any]) -> dict[str, Any]:
    return written["spec"].get("rayClusterSpec", written["spec"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_knows_every_field(name: str) -> None:
    written = manifest(name)
    assert written["apiVersion"] == "ray.io/v1"
    jsonschema.validate(written["spec"], FIELDS[written["kind"]])


@pytest.mark.parametrize("slip", ["workerGroupSpec", "rayversion"])
def test_a_mistyped_field_is_seen(slip: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=slip):
        jsonschema.validate({**manifest("ray_cluster")["spec"], slip: {}}, FIELDS["RayCluster"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_cluster_is_one_that_a_run_can_live_on(name: str) -> None:
    cluster = cluster_of(manifest(name))
    head = cluster["headGroupSpec"]
    (container,) = head["template"]["spec"]["containers"]
    health = {
        each["name"].removeprefix("RAY_"): int(each["value"]) for each in container["env"] if "health_check" in each["name"]
    }
    assert health == NODE_HEALTH
    assert head["rayStartParams"]["num-cpus"] == "0", "the head takes no work"
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    (group,) = cluster["workerGroupSpecs"]
    pod = group["template"]["spec"]
    (worker,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in worker["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert worker["image"] == container["image"]
    assert worker["envFrom"] == container["envFrom"], "workers reach storage and MLflow with the same login"
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == worker["resources"]["requests"]["nvidia.com/gpu"]


def test_all_speak_of_one_ray() -> None:
    launched = yaml.safe_load((REPO / "ray_cluster.yaml").read_text())["docker"]["head_image"]
    version = re.search(r"ray:([\d.]+)-", launched).group(1)  # pyright: ignore[reportOptionalMemberAccess]
    assert {cluster_of(manifest(name))["rayVersion"] for name in MANIFESTS} == {version}
    assert set(re.findall(r"rayproject/ray:([\d.]+)-", (DEPLOY / "Dockerfile").read_text())) == {version}


def test_the_image_is_built_of_files_that_are_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[2:-1]]
    assert "pyproject.toml" in copied
    sent = [line[1:] for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in copied:
        assert (REPO / path).exists(), path
        assert path in sent, f"{path} is not sent to the builder"
    needs = text.index("pip install --extra-index-url")
    assert needs < text.index("COPY --chown=ray platform"), "a change of the code does not install dependencies anew"
    inline = re.search(r"python -c '(.*)' >/tmp", text).group(1)  # pyright: ignore[reportOptionalMemberAccess]
    listed = subprocess.run([sys.executable, "-c", inline], cwd=REPO, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert set(tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["dependencies"]) < set(listed)


def test_the_image_s_files_make_the_package(tmp_path: Path) -> None:
    """`pip install .` of what is sent to the builder, and of nothing else; the examples are a link to the documentation's."""
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            *copied, to = line.split()[2:]
            for path in copied:
                place = tmp_path / to / Path(path).name if to.endswith("/") else tmp_path / to
                skipped = shutil.ignore_patterns("__pycache__")
                if (REPO / path).is_dir():
                    shutil.copytree(REPO / path, place, symlinks=True, ignore=skipped)
                else:
                    shutil.copy(REPO / path, place)
    made = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "made", "."],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = (tmp_path / "made").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "contray/methods/moco.py" in names
    assert any(name.startswith("contray/examples/") for name in names)


# ---------------------------------------------------------------- Slurm

STUBS = {
    "scontrol": 'if [ "$1" = show ]; then echo n1; sleep 0.2; echo n2; else echo "scontrol $*" >>"$SAID"; fi',
    "srun": 'echo "srun $*" >>"$SAID"; while [ "${1#-}" != "$1" ]; do [ "$1" = -w ] && shift; [ "$1" = --exclude ] && shift; shift; done; exec "$@"',
    "ray": 'echo "ray $*" >>"$SAID"; port=$(echo "$*" | sed "s/.*--port \\([0-9]*\\).*/\\1/")\n'
    'case "$*" in *--head*) exec python3 -m http.server --bind 127.0.0.1 "$port" ;; esac; exec sleep 60',
    "hostname": "echo 127.0.0.1",
    "python": 'if [ "$1" = -c ]; then exec python3 "$@"; fi; trap \'echo "run: checkpoint" >>"$SAID"; exit 130\' TERM\n'
    'echo "RAY_ADDRESS=${RAY_ADDRESS:-} python $*" >>"$SAID"; for i in $(seq 300); do sleep 0.1; done',
}  # fmt: skip


def submitted(
    script: str, tmp_path: Path, *words: str, python: str = "", **variables: str
) -> tuple[subprocess.Popen[bytes], Path]:
    """The script as Slurm starts it, with commands that only say what they were asked."""
    commands, said = tmp_path / "bin", tmp_path / "said"
    commands.mkdir()
    said.touch()
    for name, body in {**STUBS, **({"python": python} if python else {})}.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (commands / name).chmod(0o755)
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_ON_NODE": "8",
        "SLURM_GPUS_ON_NODE": "4",
    }
    env = {**os.environ, **job, **variables, "PATH": f"{commands}:{os.environ['PATH']}", "SAID": str(said)}
    env.pop("USER", None)  # not set on every cluster
    return subprocess.Popen(["bash", DEPLOY / "slurm" / script, *words], env=env, cwd=tmp_path, start_new_session=True), said


def heard(job: subprocess.Popen[bytes], said: Path, words: str, seconds: float = 120) -> str:
    ends = time.monotonic() + seconds
    while words not in said.read_text():
        assert job.poll() is None, f"ended with {job.returncode} before {words!r}: {said.read_text()}"
        assert time.monotonic() < ends, f"{words!r} is not in {said.read_text()}"
        time.sleep(0.05)
    return said.read_text()


@pytest.mark.parametrize("script", ["train.sbatch", "seeds.sbatch"])
def test_notice_brings_a_checkpoint_and_a_place_in_the_queue(script: str, tmp_path: Path) -> None:
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "7"} if script == "seeds.sbatch" else {}
    job, said = submitted(script, tmp_path, "moco", "--data.source", "my images", **array)
    try:
        started = heard(job, said, "-m contray train moco --data.source my images")
        if array:
            assert "--seed 3" in started
        else:
            port = re.search(r"--head --node-ip-address 127.0.0.1 --port (\d+) --num-cpus 8 --num-gpus 4", started)
            assert port, started
            assert f"ray start --block --address 127.0.0.1:{port.group(1)} --num-cpus 8 --num-gpus 4" in heard(
                job, said, "--block --address"
            )
            assert f"RAY_ADDRESS=127.0.0.1:{port.group(1)} python" in started
            assert "--scale.workers 1 8" in started
        time.sleep(0.3)  # the script has set its trap
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=120) == 130
        ended = said.read_text()
        assert ended.index("run: checkpoint") < ended.index("scontrol requeue 7" + "_3" * bool(array))
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


@pytest.mark.parametrize("script", ["train.sbatch", "seeds.sbatch"])
def test_a_run_that_ends_after_the_notice_is_not_begun_again(script: str, tmp_path: Path) -> None:
    """The time is over while it is measured, which it finishes: in the queue again it would train a second run."""
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "7"} if script == "seeds.sbatch" else {}
    ends = STUBS["python"].replace("exit 130", "exit 0")
    job, said = submitted(script, tmp_path, "moco", python=ends, **array)
    try:
        heard(job, said, "-m contray train moco")
        time.sleep(0.3)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=120) == 0
        assert "requeue" not in said.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def test_a_run_s_own_end_is_the_job_s(tmp_path: Path) -> None:
    array = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7"}
    job, said = submitted("seeds.sbatch", tmp_path, "nonsense", python="exit 2", **array)
    assert job.wait(timeout=120) == 2
    assert "requeue" not in said.read_text()
