"""A login in an address stays in the process: whatever is kept, printed or digested has the bare address."""

from __future__ import annotations

import gzip
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contray import RunConfig, track
from contray.cli import main
from contray.errors import ConfigError
from contray.storage import logins
from contray.storage.folder import Storage

SECRET = "hunter2-swordfish"
FORMS = [
    ("http://me:{}@host:5000", "http://host:5000"),
    ("https://{}@host", "https://host"),
    ("postgresql://me:{}@db:5432/mlflow", "postgresql://db:5432/mlflow"),
    ("postgresql+psycopg2://db/mlflow?sslpassword={}&sslmode=require", "postgresql+psycopg2://db/mlflow?sslmode=require"),
    ("s3://KEY:{}@bucket/runs", "s3://bucket/runs"),
    (
        "s3://bucket/runs?secret_key={}&endpoint_override=http://minio:9000",
        "s3://bucket/runs?endpoint_override=http://minio:9000",
    ),
    ("abfss://container/x?sig={}", "abfss://container/x"),
    ("gs://bucket/x?any_name={}", "gs://bucket/x"),
]


@pytest.fixture(autouse=True)
def _no_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "_logins", {})


@pytest.mark.parametrize(("given", "shown"), FORMS)
@pytest.mark.parametrize("key", ["track.uri", "scale.storage", "data.source", "data.root", "scale.address"])
def test_a_config_keeps_the_bare_address_and_the_process_the_login(key: str, given: str, shown: str) -> None:
    config = RunConfig.make("simclr", {key: given.format(SECRET)}, preset="digits")
    assert config.flat()[key] == shown
    for text in (config.to_yaml(), repr(config), str(config.flat()), config.run_name):
        assert SECRET not in text
    again = RunConfig.from_yaml(config.to_yaml())
    assert again == config
    assert again.digest() == RunConfig.make("simclr", {key: given.format("other")}, preset="digits").digest()
    logins.bare(given.format(SECRET))
    assert SECRET in logins.full(shown)
    assert logins.full(logins.full(shown)) == logins.full(shown)
    assert SECRET not in logins.scrubbed(f"cannot open {given.format(SECRET)}: {SECRET} was refused")


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    scheme=st.sampled_from(["http", "postgresql", "mysql+pymysql", "s3"]),
    user=st.text("abcXYZ09-_.~", min_size=1, max_size=8),
    secret=st.text(min_size=4, max_size=12),
    path=st.sampled_from(["", "/", "/a", "/a/b c", "/a@b", "/a:b"]),
)
def test_no_login_survives(scheme: str, user: str, secret: str, path: str) -> None:
    word = "§" + quote(secret, safe="")  # a character that nothing else here has
    shown = logins.bare(f"{scheme}://{user}:{word}@host{path}?key={word}")
    assert shown == f"{scheme}://host{path}"
    assert logins.full(shown) == f"{scheme}://{user}:{word}@host{path}?key={word}"


@pytest.mark.parametrize(
    "text", ["", "digits", "a/b@c", "/tmp/me:you@there", "sqlite:///a@b/mlflow.db", "sqlite:////x/y%3F.db", "C:\\x"]
)
def test_paths_stay_as_they_are(text: str) -> None:
    assert logins.bare(text) == logins.full(text) == text


def test_the_environment_s_login_counts_for_a_config_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@host:5000/")
    assert track.resolve_uri("http://host:5000") == track.resolve_uri("") == "http://host:5000"
    assert logins.full("http://host:5000") == f"http://me:{SECRET}@host:5000"


def test_folders_of_a_storage_share_its_login() -> None:
    storage = Storage(f"s3://KEY:{SECRET}@bucket/runs?region=eu-west-1&endpoint_override=http://127.0.0.1:1")
    below = storage / "run"
    assert (storage.address, below.address, below.root) == ("s3://bucket/runs", "s3://bucket/runs/run", "bucket/runs/run")
    assert below.system == storage.system
    assert below.system.region == "eu-west-1"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_section_that_was_built_with_a_login_is_refused() -> None:
    import dataclasses

    config = RunConfig.make("simclr", preset="digits")
    with pytest.raises(ConfigError, match=r"^track\.uri: http://h was given with its login") as refused:
        dataclasses.replace(config, track=dataclasses.replace(config.track, uri=f"http://me:{SECRET}@h"))
    assert SECRET not in str(refused.value)


# ---------------------------------------------------------------- what a run leaves


class Ill(http.server.BaseHTTPRequestHandler):
    """A tracking server that wants a login, and says in its error what it was asked."""

    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("Authorization", ""))  # pyright: ignore[reportAttributeAccessIssue]
        self.send_response(200 if self.path == "/health" else 401)
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ill) as serves:
        serves.seen = []  # pyright: ignore[reportAttributeAccessIssue]
        thread = threading.Thread(target=serves.serve_forever, daemon=True)
        thread.start()
        yield serves
        serves.shutdown()


def test_a_server_gets_the_login_and_nobody_else(
    server: http.server.ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"http://me:{SECRET}@127.0.0.1:{server.server_port}"
    assert main(["compare", "--track.uri", uri]) == 2
    assert any(word.startswith("Basic ") for word in server.seen)  # pyright: ignore[reportAttributeAccessIssue]
    for words in (
        ["train", "--track.uri", uri],
        ["train", "--trak.uri", uri],
        ["eval", "knn", "--run", "x", "--track.uri", uri],
        ["ui", uri],
    ):
        assert main(words) == 2
    said = "".join(capsys.readouterr())
    assert f"127.0.0.1:{server.server_port}" in said
    assert SECRET not in said


def contents(place: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below `place`, archives and compressed files unpacked."""
    for path in filter(Path.is_file, place.rglob("*")):
        content = path.read_bytes()
        yield path, content
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                yield from ((path / name, archive.read(name)) for name in archive.namelist())
        if content[:2] == b"\x1f\x8b":
            yield path, gzip.decompress(content)


def test_nothing_that_a_run_leaves_holds_the_secret(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The store is reached as one with a password would be: by an address whose bare form means nothing to MLflow."""
    monkeypatch.chdir(tmp_path)
    client = track.store.full
    monkeypatch.setattr(track.store, "full", lambda uri: store if SECRET in client(uri) else client(uri))
    monkeypatch.setattr(track.model, "full", lambda uri: store if SECRET in client(uri) else client(uri))
    monkeypatch.setattr(track.store, "_check_driver", lambda uri: None)
    uri = f"postgresql://me:{SECRET}@db/mlflow?sslpassword={SECRET}"
    keys = {
        **{"data.size": 16, "data.renderings": 1, "data.workers": 0, "views.view.size": 16, "backbone.width": 4},
        **{"method.projector_hidden": 16, "method.projector_dim": 8, "train.batch_size": 64, "train.precision": "fp32"},
        **{"train.steps": 2, "train.device": "cpu", "eval.online_limit": 100, "eval.linear.epochs": 1, "eval.linear.lrs": 1.0},
        **{"data.root": f"s3://KEY:{SECRET}@bucket/x", "track.name": "r", "track.uri": uri},
    }
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    assert main(["train", "--preset", "digits", *words, "--scale.workers", "0", "0", "--eval.linear.decays", "0"]) == 0
    (run,) = track.client("postgresql://db/mlflow").search_runs(["1"])
    of = ["--run", run.info.run_id, "--track.uri", uri]
    assert main(["eval", "knn", *of]) == 0
    assert main(["plot", "similarities", *of]) == 0
    assert main(["export", *of, "--to", "safetensors", "--out", "exported", "--register", "mine"]) == 0
    assert main(["compare", "--track.uri", uri]) == 0
    assert main(["train", "--dry-run", *words]) == 0
    assert main(["sync", "r", "--track.uri", uri]) == 0
    said = capfd.readouterr()
    found = [*contents(tmp_path), (Path("stdout"), said.out.encode()), (Path("stderr"), said.err.encode())]
    assert any(path.suffix == ".pt" or "data.pkl" in path.name for path, _ in found)
    assert [path for path, content in found if SECRET.encode() in content] == []
    assert "sqlite" not in (tmp_path / "contray_runs" / "r" / "config.yaml").read_text()
