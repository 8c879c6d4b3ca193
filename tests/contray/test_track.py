"""Runs, links and models in a real MLflow store."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from contray import track
from contray.errors import ConfigError, UserError
from contray.track.store import PATIENCE, _undivided, uploading

pytestmark = [  # MLflow 3.17's own, on import: about SQLAlchemy 2.1, about its schemas for chat agents
    pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
]


def begin(uri: str, name: str = "moco-digits-1", **more) -> track.TrackedRun:
    given = {"params": {"method.temperature": 0.2}, "tags": {"contray.kind": "run"}, **more}
    return track.begin(uri, "contray", name, **given)


# ---------------------------------------------------------------- which store


def test_the_store_is_the_config_s_then_the_environment_s_then_a_file_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert track.resolve_uri("") == f"sqlite:///{tmp_path}/mlflow.db"
    assert track.resolve_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000/")
    assert track.resolve_uri("") == "http://tracker:5000"
    assert track.resolve_uri("sqlite:////abs/b.db") == "sqlite:////abs/b.db"


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "./mlruns", "mlruns", "sqlite:///:memory:", "sqlite://"])
def test_stores_that_cannot_work_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^track\.uri: .*sqlite:///mlflow.db"):
        track.resolve_uri(uri)


def test_a_server_that_does_not_answer_is_refused_at_once() -> None:
    with closing(socket.socket()) as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with pytest.raises(
            ConfigError, match=r"^track\.uri: no MLflow server answers at http://127\.0\.0\.1:\d+ \(.+\); start it"
        ) as caught:
            track.check(f"http://me:secret@127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - start < 4
        assert "secret" not in str(caught.value)
        port = silent.getsockname()[1]
    with pytest.raises(ConfigError, match="no MLflow server answers"):
        track.check(f"http://127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="no MLflow server answers at http://tracker:port"):
        track.check("http://tracker:port")


@pytest.fixture
def http_status() -> Iterator[list[int]]:
    """[port, status]: a server that answers everything with that status, /health to everybody, and all to whom knows the login."""
    answer = [0, 200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            right = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:open sesame").decode()
            self.send_response(200 if right or (answer[1] in (401, 403) and self.path == "/health") else answer[1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        answer[0] = http.server_port
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield answer
        http.shutdown()
        thread.join()


def test_another_server_and_an_ill_one_are_told(http_status: list[int]) -> None:
    uri = f"http://127.0.0.1:{http_status[0]}"
    track.check(uri)
    for status, message in ((404, "is no MLflow server"), (503, "HTTP 503")):
        http_status[1] = status
        with pytest.raises(ConfigError, match=message):
            track.check(uri)


def test_a_server_of_an_authority_that_only_mlflow_s_client_knows_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS behind a company's own authority: MLflow's variables say whom to trust, Python's own opener does not read them."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tracker")])
    made = x509.CertificateBuilder(
        name, name, key.public_key(), 1, datetime.now(UTC) - timedelta(1), datetime.now(UTC) + timedelta(1)
    )
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
    kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    own = tmp_path / "own.pem"
    own.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(kinds[0]) + key.private_bytes(*kinds))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own)
        http.socket = context.wrap_socket(http.socket, server_side=True)
        http.handle_error = lambda request, address: None  # who does not trust it hangs up
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            uri = f"https://127.0.0.1:{http.server_port}"
            with pytest.raises(
                ConfigError, match=rf"^track.uri: the MLflow server at {uri} does not answer .*CERTIFICATE_VERIFY_FAILED"
            ):
                track.check(uri)
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(own))
            track.check(uri)
        finally:
            http.shutdown()
            thread.join()


def test_an_upload_may_take_longer_than_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.setenv(name, PATIENCE[name])
    with uploading():
        assert os.environ[name] == "120"
    assert os.environ[name] == PATIENCE[name]
    monkeypatch.setenv(name, "7")
    with uploading():
        assert os.environ[name] == "7", "as the user says"


def test_the_first_of_two_uploads_to_end_leaves_the_other_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.setenv(name, PATIENCE[name])
    with uploading():
        with uploading():
            pass
        assert os.environ[name] == "120"
    assert os.environ[name] == PATIENCE[name]


def test_a_server_that_wants_a_login_says_how_to_give_it(http_status: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://127.0.0.1:{http_status[0]}"
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    mend = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    http_status[1] = 401
    with pytest.raises(ConfigError, match=rf"^track\.uri: the MLflow server at {uri} wants a login: {mend}$"):
        track.check(uri)
    http_status[1] = 403
    with pytest.raises(ConfigError, match=rf"^track\.uri: .* refuses \(.*\): {mend} .*--allowed-hosts"):
        track.check(uri)
    http_status[1] = 401
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with pytest.raises(ConfigError, match="does not take the login that it was given") as caught:
        track.check(uri)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "open sesame")
    track.check(uri)


def test_files_that_cannot_be_written_are_refused_and_nothing_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is no folder"):
        track.check(f"sqlite:///{tmp_path}/file/mlflow.db")
    (tmp_path / "file").write_text("text")
    with pytest.raises(ConfigError, match="file is no SQLite file"):
        track.check(f"sqlite:///{tmp_path}/file")
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        track.check(f"sqlite:///{tmp_path}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)  # for root every folder is writable
        with pytest.raises(ConfigError, match=f"cannot write to {tmp_path}"):
            track.check(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(ConfigError, match=r"there is no .*new/mlflow\.db yet"):
        track.check(f"sqlite:///{tmp_path}/new/mlflow.db", exists=True)
    track.check(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_importing_the_engine_s_tracking_imports_no_mlflow() -> None:
    probe = (
        "import sys, contray.track.comparing, contray.track.ui\n"
        "sys.exit(' '.join({'mlflow', 'matplotlib', 'ray', 'rich'} & sys.modules.keys()) or None)"
    )
    assert subprocess.run([sys.executable, "-c", probe], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


# ---------------------------------------------------------------- runs


def test_a_run_holds_params_tags_metrics_and_artifacts(store: str, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    params = {f"section.key{i}": i for i in range(230)} | {
        "views.a.policy": "x" * 7000,
        "scale.workers": (1, 1),
        "track.name": "",
    }
    run = begin(store, params=params, tags={"contray.kind": "run", "mlflow.source.git.commit": "abc"})
    assert pickle.loads(pickle.dumps(run)) == run
    (tmp_path / "config.yaml").write_text("seed: 0")
    run.log_artifact(tmp_path / "config.yaml", "config")
    run.log_figure(Figure(), "curves.png")
    run.log_metrics({"linear_top1": 0.9, "knn_top1": 0.8}, 100)
    run.log_metrics({"linear_top1": 0.9, "knn_top1": 0.85}, 100)  # evaluated again: one value is new
    run.set_tags({"contray.worlds": "1,2"})
    run.finish("FINISHED")

    talk = track.client(store)
    kept = talk.get_run(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == "moco-digits-1"
    assert kept.data.params == {key: str(value)[:6000] for key, value in params.items()}
    assert kept.data.tags | {"contray.kind": "run", "mlflow.source.git.commit": "abc", "contray.worlds": "1,2"} == kept.data.tags
    assert [point.value for point in talk.get_metric_history(run.run_id, "linear_top1")] == [0.9]
    assert sorted(point.value for point in talk.get_metric_history(run.run_id, "knn_top1")) == [0.8, 0.85]
    artifacts = tmp_path / "mlartifacts" / "contray" / run.run_id / "artifacts"
    assert (artifacts / "config" / "config.yaml").read_text() == "seed: 0"
    assert (artifacts / "curves.png").stat().st_size > 100
    assert talk.get_experiment(run.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_resumed_run_goes_on_and_keeps_its_params(store: str) -> None:
    first = begin(store, params={"a": 1})
    first.finish("FAILED")
    again = begin(store, params={"a": 2, "b": 3}, tags={"contray.kind": "run"}, run_id=first.run_id)
    assert again == first
    kept = track.client(store).get_run(first.run_id)
    assert (kept.info.status, kept.data.params) == ("RUNNING", {"a": "1", "b": "3"})


def test_children_know_their_parent_and_share_its_experiment(store: str) -> None:
    parent = begin(store, "sweep")
    child = begin(store, "trial", parent_id=parent.run_id)
    found = track.client(store).search_runs([parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    assert [run.info.run_id for run in found] == [child.run_id]


def test_what_mlflow_refuses_becomes_one_line(store: str) -> None:
    with pytest.raises(track.RunGone, match=r"^track\.uri: sqlite:.* has no run 0+ .*--track\.again true") as caught:
        begin(store, run_id="0" * 32)
    assert "\n" not in str(caught.value)
    with pytest.raises(track.TrackingError, match=r"^MLflow at sqlite:.*: setting tags failed: .+$") as caught:
        track.TrackedRun(store, "1", "0" * 32).set_tags({"a": "b"})
    assert "\n" not in str(caught.value)
    run = begin(store)
    talk = track.client(store)
    talk.delete_experiment(run.experiment_id)
    with pytest.raises(ConfigError, match=r"^track\.experiment: 'contray' was deleted.*restore -x"):
        begin(store)


def test_the_active_run_of_the_process_is_left_alone(store: str, tmp_path: Path) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    run = begin(store)
    track.log_encoder(run, _encoder(tmp_path))
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before


# ---------------------------------------------------------------- models


def _encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "export-7"
    folder.mkdir()
    (folder / "encoder.safetensors").write_bytes(b"weights")
    (folder / "config.yaml").write_text("method: simclr")
    return folder


def test_the_encoder_is_a_model_of_its_run_that_loads_without_pickle(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny_loader.py").write_text(
        "from pathlib import Path\n"
        "class Loaded:\n"
        "    def __init__(self, path): self.weights = (Path(path) / 'encoder.safetensors').read_bytes()\n"
        "    def predict(self, inputs, params=None): return self.weights\n"
        "_load_pyfunc = Loaded\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("contray.track.model.LOADER", "tiny_loader")
    run = begin(store)
    start = time.monotonic()
    model_id = track.log_encoder(run, _encoder(tmp_path), metadata={"method": "simclr"}, step=100)
    assert time.monotonic() - start < 5
    run.log_metrics({"linear_top1": 0.9}, 100, model_id=model_id)

    talk = track.client(store)
    (found,) = talk.search_logged_models([run.experiment_id], filter_string="metrics.linear_top1 > 0.8")
    assert (found.model_id, found.name, found.source_run_id, str(found.status)) == (model_id, "encoder", run.run_id, "READY")
    outputs = talk.get_run(run.run_id).outputs
    assert outputs is not None
    assert [output.model_id for output in outputs.model_outputs] == [model_id]
    assert (track.fetch_encoder(store, run.run_id) / "config.yaml").read_text() == "method: simclr"
    place = tmp_path / "mlartifacts" / "contray" / "models" / model_id / "artifacts"
    assert not [path for path in place.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]

    from mlflow.pyfunc import load_model

    assert load_model(str(place)).predict(np.zeros((1, 8, 8, 3), np.uint8)) == b"weights"


def test_a_run_without_an_encoder_says_so(store: str) -> None:
    with pytest.raises(UserError, match="keeps no encoder"):
        track.fetch_encoder(store, begin(store).run_id)


def test_two_processes_may_make_a_store_at_once(tmp_path: Path) -> None:
    script = "import sys; from contray import track; track.begin(sys.argv[1], 'contray', 'run', params={}, tags={})"
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path}/mlflow.db"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)


# ---------------------------------------------------------------- links


def test_an_interrupt_while_mlflow_is_imported_is_heard_after_it() -> None:
    whole = []

    def loaded() -> None:
        with _undivided():
            signal.raise_signal(signal.SIGINT)
            whole.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            loaded()
        assert whole
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_links_land_on_model_training_pages_without_a_login() -> None:
    assert (
        track.run_url("sqlite:////a.db", "1", "r") == "http://127.0.0.1:5000/#/experiments/1/runs/r?workflowType=machine_learning"
    )
    assert (
        track.experiment_url("http://me:pw@t:80/ml/", "1") == "http://t:80/ml/#/experiments/1/runs?workflowType=machine_learning"
    )
    link = track.compare_url("https://t", "1", ["r1", "r2"])
    assert not set('[]" ') & set(link)
    query = parse_qs(urlsplit(urlsplit(link).fragment).query)
    assert {key: json.loads(value) for key, (value,) in query.items()} == {"runs": ["r1", "r2"], "experiments": ["1"]}
    assert track.compare_url("https://t", ["1", "2"], ["r"]).endswith("experiments=%5B%221%22%2C%222%22%5D")


def test_a_look_at_a_store_in_use_loses_nothing(tmp_path: Path) -> None:
    """Closing the file drops this process's locks on it: the next to close the database took itself for the last and removed the log in use."""
    path = tmp_path / "mlflow.db"
    track.store.use_wal(path)
    count = (
        f"import sqlite3; c = sqlite3.connect({str(path)!r}); print(c.execute('select count(*) from t').fetchone()[0]); c.close()"
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as used:
        used.execute("create table t (a)")
        for number in (1, 2):
            used.execute("insert into t values (1)")
            track.check(f"sqlite:///{path}")
            told = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True).stdout
            assert int(told) == number
