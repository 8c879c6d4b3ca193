"""What a first hour with the command line met, and what it says now."""

from __future__ import annotations

import http.server
import socketserver
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contray import RunConfig, model, track
from contray.cli import main
from contray.inspection.findings import _repeated
from contray.inspection.groups import Group
from contray.machines.probe import Examiner
from contray.model.encoder import export
from contray.storage import sealed
from contray.storage.checkpoint import dump
from contray.storage.folder import Storage
from contray.tuning.launch import sweep


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    config = RunConfig.make("simsiam", {"backbone.width": 4, "method.dim": 8, "method.hidden": 4}, preset="digits")
    export(config, model.build(config, 100).eval(), tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
    return tmp_path / "images"


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert main([str(word) for word in words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err


def test_a_tilde_is_ones_home_in_every_option(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--checkpoint", str(encoder), "--to", "safetensors", "--out=~/enc"]) == 0
    assert (tmp_path / "home/enc/encoder.safetensors").is_file()
    assert not (tmp_path / "~").exists()


def test_a_locked_store_is_said_in_a_line(tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    error = OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))
    said = "creating a run failed: another program holds the file locked; wait"
    with pytest.raises(track.TrackingError, match=said), track.asking(f"sqlite:///{tmp_path}/mlflow.db", "creating a run"):
        raise MlflowException("(raised as a result of Query-invoked autoflush)") from error


def test_a_seed_that_nothing_takes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "train", "simclr", "--preset", "digits", "--seed", 10**22, "--dry-run")
    assert said.startswith("contray: seed: got 1")


def test_a_key_that_is_given_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "contray.tuning.launch._search", lambda search, config, space, *rest: seen.append((search, config, space))
    )
    overrides = {
        "method.temperature": 0.9, "scale.storage": str(tmp_path / "runs"), "track.uri": f"sqlite:///{tmp_path}/mlflow.db",
        "data.source": "digits", "scale.workers": (0, 0),
    }  # fmt: skip
    sweep("simclr", overrides, samples=1, preset="digits", quiet=True)
    ((search, config, space),) = seen
    assert config.method.temperature == 0.9
    assert "method.temperature" not in space
    assert len(space) > 1
    assert "method.temperature" not in search.space


def test_a_dry_run_names_no_config_that_there_is_not(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "simclr", "--data.source", str(images), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "config.yaml --" not in out
    assert "contray_runs/simclr-auto" not in out.partition("dry run:")[0]
    assert "--show-config" in out


def test_embed_names_its_own_options(encoder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    said = refused(capsys, "embed", images, "--checkpoint", encoder, "--out", tmp_path / "file")
    assert said.startswith("contray: --out: cannot write to")
    said = refused(capsys, "embed", tmp_path / "none", "--checkpoint", encoder, "--out", tmp_path / "out")
    assert said.startswith(f"contray: SOURCE: {tmp_path}/none does not exist")


def test_what_is_contrays_own_is_known(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is contray's own export; --checkpoint and --init take it" in refused(capsys, "import", encoder)
    (tmp_path / "kept.pt").write_bytes(dump({"config": "", "method": {}, "step": 1}))
    assert "is contray's own checkpoint; --checkpoint and --init take it" in refused(capsys, "import", tmp_path / "kept.pt")
    assert main(["export", "--checkpoint", str(encoder), "--to", "torchvision", "--out", str(tmp_path / "vision")]) == 0
    capsys.readouterr()
    said = refused(capsys, "eval", "knn", "--checkpoint", tmp_path / "vision")
    assert f"contray import {tmp_path}/vision/model.safetensors --out FOLDER makes one of it" in said


def test_a_card_has_the_numbers_of_a_runs_folder(encoder: Path, tmp_path: Path) -> None:
    for name, legend in (("bare", False), ("measured", True)):
        if legend:
            sealed.write(Storage(str(encoder)), "verdict.json", {"linear_top1": 0.875})
        assert main(["export", "--checkpoint", str(encoder), "--to", "safetensors", "--out", str(tmp_path / name)]) == 0
        card = (tmp_path / name / "README.md").read_text()
        assert ("| linear_top1 | 0.8750 |" in card) is legend
        assert ("None on record." in card) is not legend
        assert ("raw pixels." in card) is legend


@pytest.mark.parametrize("where", ["/dev/full", "closed"])
def test_where_nothing_can_be_printed_there_is_no_traceback(where: str) -> None:
    closed = where == "closed"
    found = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -m contray methods {'>&-' if closed else '> ' + where}"], capture_output=True, text=True
    )
    assert found.returncode == (0 if closed else 1)
    assert "Traceback" not in found.stderr
    assert closed or "no space is left where standard output goes" in found.stderr


def test_a_store_of_another_mlflow_is_no_good_one(tmp_path: Path) -> None:
    """As doctor asks, in a process that has not met the store before."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    track.begin(uri, "told", "a", params={}, tags={}).finish("FINISHED")
    ask = f"from contray.machines.probe import Examiner as Probe; print(Probe.tracking(None, {uri!r}))"

    def answer() -> str:
        return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()

    assert Examiner.tracking(None, uri) == ""  # pyright: ignore[reportArgumentType]
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        store.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        store.commit()
    assert "schema" in answer()


def test_nearly_equal_images_are_for_an_eye_and_no_fault(tmp_path: Path) -> None:
    found: Any = [SimpleNamespace(name="train"), SimpleNamespace(name="test")]
    for kind, severity in (("near", "look"), ("pixels", "wrong")):
        across = Group(kind, (("train", 0, "a", "cat"), ("test", 0, "b", "dog")))
        assert {each.severity for each in _repeated([across], found)} == {severity}


def test_a_dry_run_looks_at_what_lies_under_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "train",
        "simclr",
        "--preset",
        "digits",
        "--track.name",
        "a",
        "--scale.workers",
        "0",
        "0",
        "--backbone.width",
        "8",
        "--data.workers",
        "0",
    ]
    words += [
        "--train.batch_size",
        "16",
        "--data.renderings",
        "1",
        "--eval.final",
        "--scale.storage",
        str(tmp_path / "runs"),
        "--track.uri",
        "",
    ]
    words = [*words[:-1], f"sqlite:///{tmp_path}/mlflow.db"]

    def told(*more: str) -> str:
        assert main([*words, *more, "--dry-run"]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "would go on" not in told("--train.steps", "2")
    assert main([*words, "--train.steps", "2", "-q"]) == 0
    capsys.readouterr()
    assert "there a is finished: this would be a-2" in told("--train.steps", "2")
    (tmp_path / "file").write_text("")
    assert "refused scale.storage:" in told("--train.steps", "2", "--scale.storage", str(tmp_path / "file"))


def test_damage_is_named_by_whoever_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("step-000000002.pt", "best.pt"):
        (tmp_path / name).write_bytes(b"torn")
    said = refused(capsys, "eval", "knn", "--checkpoint", tmp_path)
    assert said.startswith(f"contray: --checkpoint: none of the checkpoints in {tmp_path} is whole")
    assert said.strip().endswith(f"best.pt beside them may be: give {tmp_path}/best.pt")


def test_a_web_server_that_is_not_there_is_no_missing_file() -> None:
    from contray.storage.reached import _answer

    with socketserver.TCPServer(("127.0.0.1", 0), None) as server:  # pyright: ignore[reportArgumentType]
        port = server.server_address[1]
    assert _answer(Storage(f"http://127.0.0.1:{port}/x.tar")).startswith("no server answers")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert _answer(Storage(f"http://127.0.0.1:{server.server_port}/nothing.tar")).startswith("the server says 404")
        server.shutdown()
