"""`contray ui` in a process of its own, and the same server as a tracking store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest

from contray import track
from contray.errors import UserError
from contray.track import ui, watchdog

pytestmark = [  # MLflow 3.17's own, on import: about SQLAlchemy 2.1, about its schemas for chat agents
    pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes(word: str) -> list[str]:
    """The command lines of running processes that hold `word`."""
    return [line for _, line in commands(word)]


def commands(word: str) -> list[tuple[int, str]]:
    """(id, command line) of running processes whose command line holds `word`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append((int(path.parent.name), path.read_bytes().replace(b"\0", b" ").decode()))
        except OSError:  # it ended meanwhile
            continue
    return [(pid, line) for pid, line in lines if word in line]


def begin(uri: str, experiment: str) -> track.TrackedRun:
    return track.begin(uri, experiment, "run", params={"method.temperature": 0.2}, tags={})


def test_it_serves_until_ctrl_c_and_leaves_no_process(store: str, tmp_path: Path) -> None:
    first, second = begin(store, "first"), begin(store, "second")
    track.begin(store, "first", "later", params={}, tags={})
    (tmp_path / "config.yaml").write_text("seed: 0")
    first.log_artifact(tmp_path / "config.yaml")
    port = free_port()
    command = f"from contray.track.ui import serve; serve({store!r}, {port}, False)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", command], stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as shell:
        assert shell.stdout is not None
        lines = [shell.stdout.readline().strip() for _ in range(3)]
        address = f"http://127.0.0.1:{port}"
        assert track.run_url(store, "1", "2").startswith(f"{address}/"), "links name this port from now on"
        assert lines == [
            f"first: {track.runs_url(store, first.experiment_id)}",
            f"second: {track.runs_url(store, second.experiment_id)}",
            "Ctrl-C ends it",
        ]
        with urlopen(f"{address}/get-artifact?path=config.yaml&run_uuid={first.run_id}", timeout=10) as answer:
            assert answer.read() == b"seed: 0"
        _tracking_over_http(address, tmp_path)
        assert processes(str(port))
        shell.send_signal(signal.SIGINT)
        assert shell.wait(20) == 0
    assert processes(f"--port {port}") == []
    assert processes(f":{port}") == []


def test_it_ends_when_its_server_ends_and_says_so(store: str, tmp_path: Path) -> None:
    port = free_port()
    command = f"from contray.cli import main; import sys; sys.exit(main(['ui', '--browser', 'false', '--port', '{port}', '--track.uri', {store!r}]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as shell:
        try:
            assert shell.stdout is not None
            assert shell.stdout.readline().strip() == "Ctrl-C ends it"
            server = next(
                pid
                for pid, line in commands(f"-m mlflow server --workers 1 --host 127.0.0.1 --port {port}")
                if "watchdog" not in line
            )
            os.kill(server, signal.SIGKILL)
            _, err = shell.communicate(timeout=120)
        finally:
            shell.kill()
    assert shell.returncode == 2
    assert f"MLflow's server at http://127.0.0.1:{port} was ended by signal 9" in err
    assert processes(f"--port {port}") == processes(f":{port}") == []


def test_what_the_watchdog_runs_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """Killed, so that nothing of its own could end what it started."""
    word = f"import time  # {tmp_path}"
    starter = f"""
import subprocess, sys, time
command = [sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', {word!r} + chr(10) + 'time.sleep(600)'])"]
process = subprocess.Popen([sys.executable, "-I", {watchdog.__file__!r}, *command], stdin=subprocess.PIPE, start_new_session=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", starter]) as shell:
        wait_for(lambda: any(line.count("subprocess") == 0 for line in processes(word)))
        assert len(processes(word)) >= 3, "the watchdog, its command, and the child of that"
        shell.kill()
    wait_for(lambda: not processes(word))


def wait_for(what: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _tracking_over_http(address: str, tmp_path: Path) -> None:
    track.check(address)
    run = begin(address, "over http")
    log = track.MetricLog(run)
    log.log(10, {"loss": 1.0})
    log.inputs([track.Dataset("photos", "0123", "training", "/photos", 24, 0)])
    log.durable(10)
    assert log.close(20) == 0
    assert run.data_names() == {"photos"}
    key = track.runs_url(address, run.experiment_id).partition("viewStateShareKey=")[2]
    assert f"mlflow.sharedViewState.{key}" in track.client(address).get_experiment(run.experiment_id).tags
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.yaml").write_text("method: simclr")
    model_id = track.log_encoder(run, tmp_path / "export")
    run.log_metrics({"linear_top1": 0.9}, 10, model_id=model_id)
    assert (track.fetch_encoder(address, run.run_id) / "config.yaml").read_text() == "method: simclr"
    run.finish("FINISHED")
    kept = track.client(address).get_run(run.run_id)
    assert (kept.data.metrics, kept.info.status) == ({"loss": 1.0, "linear_top1": 0.9}, "FINISHED")
    assert run.url.startswith(f"{address}/#/")


def test_a_taken_port_is_refused_with_the_next_one(store: str) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"^port {port} on 127\.0\.0\.1.* --port {port + 1}$"):
            ui.serve(store, port, open_browser=False)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database at all " * 100)
    starting = ui.server(f"sqlite:///{tmp_path}/mlflow.db", free_port())
    with pytest.raises(UserError, match=r"^MLflow's server did not start: .*not a database"):
        starting.__enter__()


def test_a_tracking_server_is_only_opened(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(track, "check", lambda uri, exists: None)
    monkeypatch.setattr(ui, "experiment_links", lambda uri, address: {"contray": f"{address}/#/experiments/1"})
    monkeypatch.setattr(ui.webbrowser, "open", opened.append)
    ui.serve("http://tracker:5000")
    assert capsys.readouterr().out == "contray: http://tracker:5000/#/experiments/1\n"
    assert opened == ["http://tracker:5000/#/experiments/1"]


@pytest.mark.parametrize("port", [-1, 0, 65536, 99999])
def test_what_is_no_port_is_refused(store: str, port: int) -> None:
    with pytest.raises(UserError, match=rf"^--port: got {port}, must be an integer >= 1 and <= 65535"):
        ui.serve(store, port, open_browser=False)
