"""Jobs on a cluster: where its nodes hold only the dependencies the code travels along, where they hold the wheel a user's own folder is enough.

The second takes two minutes on two cores: CONTRAY_JOBS=all asks for it. What a wheel holds is looked at in test_wheel.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

REPO = Path(__file__).parents[2]
OURS = ("contray", "methods", "tune_spaces", "__editable__", "_editable", "_contray", "__pycache__")
RAY = ("-m", "ray.scripts.scripts")

OWN_METHOD = """
from contray.methods.simclr import PAPER, PRESETS, RECIPE, VIEWS, Config, SimCLR


class Mine(SimCLR):
    pass
"""


def bare_python(folder: Path) -> Path:
    """A Python with all that this one has, but none of this project: what a node has that holds the dependencies only."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for source in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(source).iterdir():
            target = packages / entry.name
            if not entry.name.startswith(OURS) and not target.exists():
                target.symlink_to(entry)
    return folder / "bin" / "python"


def build(kind: str, source: Path, out: Path) -> Path:
    """A wheel or an sdist of a source tree, without isolation."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)], cwd=source, check=True, capture_output=True
    )
    (found,) = out.iterdir()
    return found


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def processes_of(mark: str) -> list[int]:
    """The processes that were started with `mark` in their environment or on their command line, without this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
                if mark.encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def end_all(mark: str) -> None:
    """End the processes that carry `mark`; not by `ray stop`, which would end every cluster of this machine."""
    while left := processes_of(mark):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """(the address that jobs are sent to, the environment of whoever sends them) of a one-node cluster without this project."""
    home = Path(tempfile.mkdtemp(prefix="contray-jobs-", dir="/tmp"))  # short: Ray's sockets lie below it, and their paths must
    dashboard, client, agent = free_ports(3)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "OMP_NUM_THREADS": "1"}
    python = bare_python(home / "venv")
    path = f"{python.parent}:{environment['PATH']}"  # a job's `python` is the first on the PATH of whoever started the node
    command = [
        str(python), *RAY, "start", "--head", "--block", "--num-cpus=2", "--port=0", "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}", f"--temp-dir={home}/ray", "--disable-usage-stats",
    ]  # fmt: skip
    try:
        assert subprocess.run([python, "-c", "import contray"], cwd=home, env=environment, capture_output=True).returncode == 1
        out = (home / "log").open("w")
        with out, subprocess.Popen(command, cwd=home, env={**environment, "PATH": path}, stdout=out, stderr=out) as head:
            try:
                address = f"http://127.0.0.1:{dashboard}"
                deadline = time.monotonic() + 60
                while not answers(address, environment["RAY_AUTH_TOKEN"]):
                    assert head.poll() is None, (home / "log").read_text()
                    assert time.monotonic() < deadline, f"no cluster after 60 s: {(home / 'log').read_text()}"
                    time.sleep(0.2)
                yield address, environment
            finally:
                end_all(str(home))
    finally:
        shutil.rmtree(home)


def answers(address: str, token: str) -> bool:
    """Whether the cluster takes jobs."""
    try:
        urlopen(Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"}), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A working tree with a user's method and images in it, and with what must stay at home."""
    tree = tmp_path / "tree"
    for name in ("platform", "methods", "tune_spaces"):
        shutil.copytree(REPO / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    assert (tree / "platform" / "contray" / "methods").is_symlink(), "as a checkout has it"
    shutil.copy(REPO / "runtime_env.yaml", tree)
    (tree / "mine.py").write_text(OWN_METHOD)
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 5)):
        for label in ("dark", "light"):
            folder = tree / "images" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 128, (32, 32, 3)) + (128 if label == "light" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    for left_behind in ("data", "docs", "tests", "contray_runs", "mlruns", ".venv"):
        (tree / left_behind).mkdir()
        (tree / left_behind / "stays_at_home").write_text(left_behind)
    (tree / "mlflow.db").write_text("stays_at_home")
    return tree


TRAIN = [
    "python", "-m", "contray", "train", "mine.py", "--preset", "digits", "--data.source", "images", "--data.workers", "0",
    "--train.batch_size", "16", "--train.steps", "4", "--eval.every_epochs", "0", "--eval.linear.epochs", "2", "--track.model", "false",
]  # fmt: skip


def submit(cluster: tuple[str, dict[str, str]], folder: Path, runtime: Sequence[str], entry: Sequence[str]) -> str:
    """Send a job from a folder; what it said. It must succeed."""
    command = [sys.executable, *RAY, "job", "submit", "--address", cluster[0], "--working-dir", ".", *runtime, "--", *entry]
    sent = subprocess.run(command, cwd=folder, env=cluster[1], capture_output=True, text=True)
    told = sent.stdout + sent.stderr
    assert sent.returncode == 0, told
    assert "succeeded" in told
    assert "trained encoder" in told
    return told


@pytest.mark.skipif(os.environ.get("CONTRAY_JOBS") != "all", reason="CONTRAY_JOBS=all asks for it")
@pytest.mark.ray
def test_where_the_nodes_have_the_wheel_a_folder_of_one_s_own_is_enough(
    cluster: tuple[str, dict[str, str]], tree: Path, store: str, tmp_path: Path
) -> None:
    build("wheel", REPO, tmp_path / "wheel")
    (wheel,) = (tmp_path / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path / "installed")
    (tmp_path / "own").mkdir()
    shutil.copy(tree / "mine.py", tmp_path / "own")
    shutil.copytree(tree / "images", tmp_path / "own" / "images")
    runtime = ["--runtime-env-json", json.dumps({"env_vars": {"PYTHONPATH": str(tmp_path / "installed")}})]
    keys = ["--track.uri", store, "--scale.storage", str(tmp_path / "runs")]
    submit(cluster, tmp_path / "own", runtime, [*TRAIN, *keys])
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.name.startswith("mine-digits-"))
    assert (run / "step-000000004.pt").exists()


@pytest.mark.ray
def test_a_job_brings_its_code_along(cluster: tuple[str, dict[str, str]], tree: Path, store: str, tmp_path: Path) -> None:
    address, environment = cluster
    train = [*TRAIN, "--track.uri", store, "--scale.storage", str(tmp_path / "runs")]
    entry = ["sh", "-c", f"echo carried: $(find . -name stays_at_home -o -name mlflow.db -o -name images) && {' '.join(train)}"]
    told = submit(cluster, tree, ["--runtime-env", "runtime_env.yaml"], entry)
    assert "carried: ./images\n" in told
    assert "the job's own folder" not in told
    with contextlib.closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as base:
        logged = set(base.execute("select key, step from metrics"))
        ended = "select value from tags join runs using (run_uuid) where key = 'contray.name' and status = 'FINISHED'"
        names = [name for (name,) in base.execute(ended)]
    assert {("loss", 1), ("loss", 4), ("knn_top1", 4), ("linear_top1", 4), ("pixels_linear_top1", 4)} <= logged
    assert [name.rpartition("-")[0] for name in names] == ["mine-digits"]
    assert (tmp_path / "runs" / names[0] / "step-000000004.pt").exists()
    assert answers(address, environment["RAY_AUTH_TOKEN"])
    assert not answers(address, "1" * 64), "a cluster takes jobs from nobody without its token"
