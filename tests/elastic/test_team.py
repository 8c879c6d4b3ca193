"""What a team has: Postgres, MLflow with a login, an object store, a Ray cluster of a head and two nodes that wants a token.

    CONTRAY_TEAM=all pytest tests/elastic/test_team.py -n 0

It takes some minutes, a Postgres of the machine (apt-get install postgresql) and `pip install 'mlflow[auth]' 'psycopg[binary]'`; the suite leaves it out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.contray.test_jobs import end_all, free_ports
from tests.object_store import serving

REPO = Path(__file__).parents[2]
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
RAY = (sys.executable, "-m", "ray.scripts.scripts")
LOGIN = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "swordfish-and-more"}
LACKS = [
    *([] if os.environ.get("CONTRAY_TEAM") == "all" else ["CONTRAY_TEAM=all"]),
    *([] if POSTGRES else ["Postgres"]),
    *(name for name in ("psycopg", "flask_wtf") if importlib.util.find_spec(name) is None),
]
pytestmark = [pytest.mark.ray, pytest.mark.skipif(bool(LACKS), reason=f"needs {', '.join(LACKS)}"), pytest.mark.timeout(1200)]
TINY = [
    "--backbone.width", "4", "--data.size", "16", "--views.view.size", "16", "--data.renderings", "2", "--data.workers", "0", "--train.batch_size", "32",
    "--eval.every_epochs", "0", "--eval.final", "knn", "--train.checkpoint_seconds", "1", "--track.model", "false", "--scale.cpus_per_worker", "1",
]  # fmt: skip


def end_group(group: int) -> None:
    """A process that has a session of its own, with all that it started there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class Team:
    """All of it, on this machine. env: what whoever works with it has set."""

    def __init__(self, home: Path, stack: contextlib.ExitStack) -> None:
        self.home, self.stack = home, stack
        self.store = stack.enter_context(serving())
        base, server, self.port, self.dashboard, *self.agents = free_ports(7)
        self.uri = f"http://127.0.0.1:{server}"
        self.env = {
            **os.environ, **self.store.env, **LOGIN, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "7" * 64, "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPO / "platform"), "RAY_ADDRESS": f"127.0.0.1:{self.port}", "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "240",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        self.begin_postgres(base)
        self.begin_mlflow(base, server)
        head = [
            f"--port={self.port}",
            "--num-cpus=0",
            f"--dashboard-port={self.dashboard}",
            f"--temp-dir={home}/r",
            "--include-dashboard=true",
        ]
        self.start(
            "head",
            [
                *RAY,
                "start",
                "--head",
                "--block",
                "--node-ip-address=127.0.0.1",
                f"--dashboard-agent-listen-port={self.agents[0]}",
                *head,
            ],
        )
        self.until(lambda: self.opens(self.dashboard))
        self.nodes = []
        for i in (1, 2):  # one after the other: raylets that begin together on one machine take each other's ports
            self.nodes.append(self.add(i))
            self.until(lambda i=i: self.doctor()["nodes"] == i + 1)

    def start(self, name: str, command: Sequence[str], **env: str) -> subprocess.Popen[bytes]:
        log = (self.home / f"{name}.log").open("w")
        self.stack.callback(log.close)
        process = subprocess.Popen(
            command, cwd=self.home, env={**self.env, **env}, stdout=log, stderr=log, start_new_session=True
        )
        self.stack.callback(process.wait)
        self.stack.callback(end_group, process.pid)
        return process

    def begin_postgres(self, port: int) -> None:
        """As another user: it does not run as root."""
        assert POSTGRES
        folder = self.home / "pg"
        folder.mkdir()
        shutil.chown(folder, "postgres")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        for command in (
            f"{POSTGRES}/initdb -D {folder}/db -A trust",
            f"{POSTGRES}/pg_ctl -D {folder}/db -w -l {folder}/log -o '{options}' start",
        ):
            subprocess.run(["su", "postgres", "-c", command], check=True, capture_output=True)
        self.stack.callback(
            subprocess.run,
            ["su", "postgres", "-c", f"{POSTGRES}/pg_ctl -D {folder}/db -m immediate stop"],
            check=False,
            capture_output=True,
        )
        subprocess.run(["su", "postgres", "-c", f"{POSTGRES}/createdb -h 127.0.0.1 -p {port} mlflow"], check=True)

    def begin_mlflow(self, base: int, port: int) -> None:
        (self.home / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{self.home}/auth.db\nadmin_username = {LOGIN['MLFLOW_TRACKING_USERNAME']}\n"
            f"admin_password = {LOGIN['MLFLOW_TRACKING_PASSWORD']}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        command = [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1", "--host", "127.0.0.1", "--port", str(port),
            "--backend-store-uri", f"postgresql://postgres@127.0.0.1:{base}/mlflow", "--artifacts-destination", str(self.home / "artifacts"),
        ]  # fmt: skip
        self.start(
            "mlflow",
            command,
            MLFLOW_AUTH_CONFIG_PATH=str(self.home / "auth.ini"),
            MLFLOW_FLASK_SERVER_SECRET_KEY="k",
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        )
        self.until(lambda: self.opens(port) and urlopen(f"{self.uri}/health", timeout=5).status == 200)

    def add(self, number: int, *options: str) -> subprocess.Popen[bytes]:
        """One more node of two CPUs."""
        command = [*RAY, "start", "--block", f"--address=127.0.0.1:{self.port}", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
        return self.start(f"node{number}", [*command, *options])

    def opens(self, port: int) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
            return True
        return False

    def until(self, holds: Any, seconds: float = 180) -> None:
        ends = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, AssertionError):
                if holds():
                    return
            assert time.monotonic() < ends, {path.name: path.read_text()[-1500:] for path in self.home.glob("*.log")}
            time.sleep(0.5)

    def contray(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "contray", *words], cwd=self.home, env={**self.env, **env}, capture_output=True, text=True
        )

    def doctor(self, *words: str, **env: str) -> dict[str, Any]:
        """What it finds; with the team's places unless others are given."""
        given = {"--scale.storage": "s3://pictures/runs", "--track.uri": self.uri, "--scale.workers": "1 2"}
        names = [word for word in words if word.startswith("--")]
        usual = [word for key, value in given.items() if key not in names for word in (key, *value.split())]
        ended = self.contray("doctor", *usual, *words, "--json", **env)
        assert ended.returncode in (0, 1), ended.stderr
        return json.loads(ended.stdout)

    def job(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`contray ...` as a job."""
        entry = ["env", *(f"{key}={self.env[key]}" for key in (*LOGIN, *self.store.env)), "python", "-m", "contray", *words]
        command = [*RAY, "job", "submit", "--address", f"http://127.0.0.1:{self.dashboard}", "--", *entry]
        return subprocess.run(command, cwd=self.home, env=self.env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    home = Path(tempfile.mkdtemp(prefix="team-", dir="/tmp"))
    home.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        stack.callback(end_all, str(home))
        yield Team(home, stack)


def runs(team: Team, experiment: str) -> list[Any]:
    """As MLflow has them: asked in another process, which has the login."""
    ask = (
        "import json, mlflow; c = mlflow.MlflowClient(); e = c.get_experiment_by_name('%s');"
        "print(json.dumps([dict(r.data.tags, status=r.info.status) for r in c.search_runs([e.experiment_id])]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", ask % experiment],
        env={**team.env, "MLFLOW_TRACKING_URI": team.uri},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(said.stdout.splitlines()[-1])


def test_a_healthy_team_s_cluster_has_no_fault(team: Team) -> None:
    found = team.doctor()
    wrong = [
        each
        for each in found["findings"]
        if each["state"] == "wrong" and each["check"] not in ("disk", "shared memory", "open files")
    ]
    assert not wrong
    assert found["nodes"] == 3


FAULTS: dict[str, tuple[list[str], Mapping[str, str], str, str]] = {  # what is typed and set: the check that finds it, and its words
    "no token": ([], {"RAY_AUTH_TOKEN": "0" * 64}, "cluster", ""),
    "another head": ([], {"RAY_ADDRESS": "127.0.0.1:1"}, "cluster", "no Ray cluster answers"),
    "no login": ([], {"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}, "MLflow", "login"),
    "another password": ([], {"MLFLOW_TRACKING_PASSWORD": "wrong"}, "MLflow", "login"),
    "no MLflow": (["--track.uri", "http://127.0.0.1:1"], {}, "MLflow", "no MLflow server answers"),
    "a file for MLflow": (["--track.uri", "sqlite:///mlflow.db"], {}, "MLflow", "is a file, for one machine"),
    "no bucket": (["--scale.storage", "s3://nowhere/runs"], {}, "storage", ""),
    "no store": (["--scale.storage", "s3://pictures/runs?endpoint_override=127.0.0.1:1&scheme=http"], {}, "storage", ""),
    "more workers than there is room for": (["--scale.workers", "9", "9", "--scale.cpus_per_worker", "1"], {}, "demand", "at least 9 workers"),
    "GPUs that there are not": (["--scale.gpus_per_worker", "1"], {}, "demand", "no node can ever give that"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_doctor_finds(team: Team, fault: str) -> None:
    typed, env, check, words = FAULTS[fault]
    found = team.doctor(*typed, **env)
    wrong = {each["check"]: each for each in found["findings"] if each["state"] == "wrong"}
    assert check in wrong, found
    assert words in wrong[check]["words"]
    assert wrong[check]["mend"]
    assert not found["ok"]


def test_doctor_finds_a_node_on_which_few_files_may_be_open(team: Team) -> None:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = [
        "prlimit",
        "--nofile=900:900",
        *RAY,
        "start",
        "--block",
        f"--address=127.0.0.1:{team.port}",
        "--node-ip-address=127.0.0.1",
        "--num-cpus=1",
        "--num-gpus=2",
    ]
    ill = team.start("ill", command)
    try:
        team.until(lambda: team.doctor()["nodes"] == 4)
        found = team.doctor()["findings"]
        assert [each["words"] for each in found if (each["check"], each["state"]) == ("open files", "wrong")] == [
            "900 may be open"
        ]
        assert [each["words"] for each in found if (each["check"], each["state"]) == ("GPUs", "wrong")] == [
            "Ray counts 2, the driver shows 0"
        ]
    finally:
        end_group(ill.pid)
        team.until(lambda: team.doctor()["nodes"] == 3)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == usual


def test_a_job_outlives_its_node(team: Team) -> None:
    keys = [
        "--scale.storage",
        "s3://pictures/runs",
        "--track.uri",
        team.uri,
        "--track.experiment",
        "team",
        "--scale.workers",
        "1",
        "3",
    ]
    train = ["train", "simclr", "--train.steps", "150", "--track.name", "job", *TINY, *keys]
    command = [*RAY, "job", "submit", "--address", f"http://127.0.0.1:{team.dashboard}", "--"]
    entry = [
        "env",
        *(f"{key}={team.env[key]}" for key in (*LOGIN, *team.store.env)),
        "CONTRAY_USER=ada",
        "python",
        "-m",
        "contray",
        *train,
    ]
    job = team.start("job", [*command, *entry])
    from contray.storage.folder import Storage

    team.until(lambda: any(name.startswith("step-") for name in Storage("s3://pictures/runs/job").names()))
    end_group(team.nodes[0].pid)
    assert job.wait(timeout=600) == 0, (team.home / "job.log").read_text()[-3000:]
    (run,) = runs(team, "team")
    assert (run["status"], run["mlflow.user"]) == ("FINISHED", "ada")
    assert run["contray.job"].startswith("raysubmit_")
    assert "step-000000150.pt" in Storage("s3://pictures/runs/job").names()
    team.nodes[0] = team.add(3)
    team.until(lambda: team.doctor()["nodes"] == 3)


def test_a_sweep_is_a_job(team: Team) -> None:
    space = team.home / "space.py"
    space.write_text(
        'from ray import tune\nABOUT = "t"\nMETHOD = "simclr"\nBASE = {"method.preset": "digits"}\n'
        'SPACE = {"method.temperature": tune.grid_search([0.1, 0.5])}\nSCHEDULER = "none"\n'
    )
    keys = [
        "--scale.storage",
        "s3://pictures/sweeps",
        "--track.uri",
        team.uri,
        "--track.experiment",
        "sweeps",
        "--scale.workers",
        "1",
        "1",
    ]
    ended = team.job("tune", str(space), "--metric", "knn_val_top1", "--train.steps", "4", *TINY, *keys)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
    assert sum(run["status"] == "FINISHED" for run in runs(team, "sweeps")) >= 2
