"""A config that lies in a file loads no code by itself: only files that the user named run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contray import RunConfig, model
from contray.cli import main
from contray.config import registry
from contray.errors import ConfigError, UserError
from contray.model.encoder import export, read_checkpoint, read_folder
from contray.training.worker import Asked, TrainingJob, work

SCIENCE = (Path(__file__).parents[2] / "methods" / "simclr.py").read_text().replace("from ._", "from contray.methods._")
KEYS = {"backbone.width": 4, "views.view.size": 16, "method.projector_hidden": 16, "method.projector_dim": 8}
REFUSED = r"^method\.name: the config names the code .*theirs\.py, and only code that you name yourself runs: .*--code theirs\.py"


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder whose config names code, and beside it that code, which leaves `ran` when it runs. Nobody has named it."""
    file = tmp_path / "theirs.py"
    file.write_text(f"{SCIENCE}\nimport pathlib\n(pathlib.Path(__file__).parent / 'ran').touch()\n")
    monkeypatch.setattr(registry, "_named", {})
    config = RunConfig.make(str(file), KEYS, preset="digits")
    method = model.build(config, 100)
    export(config, method, tmp_path / "exported")
    (tmp_path / "run").mkdir()
    torch.save({"method": method.state_dict(), "config": config.to_yaml()}, tmp_path / "run" / "step-000000001.pt")
    (tmp_path / "ran").unlink()
    registry._named.clear()
    monkeypatch.setattr(registry, "_loaded", {})
    return tmp_path


def test_files_run_nothing_until_their_code_is_named(theirs: Path) -> None:
    text = (theirs / "exported" / "config.yaml").read_text()
    reads = [
        lambda: read_folder(theirs / "exported"),
        lambda: read_checkpoint(str(theirs / "exported")),
        lambda: read_checkpoint(str(theirs / "run")),
        lambda: read_checkpoint(str(theirs / "run" / "step-000000001.pt")),
        lambda: RunConfig.from_yaml(text),
        lambda: RunConfig.from_file(theirs / "exported" / "config.yaml", {"train.epochs": 1}),
        lambda: work(TrainingJob(text, str(theirs / "out"), None, 1), lambda message: Asked()),
        lambda: model.build(RunConfig.make("simclr", KEYS).replace({"method.name": str(theirs / "theirs.py")}), 100),
        lambda: registry.load_method(str(theirs / "theirs.py")),
    ]
    for read in reads:
        with pytest.raises(ConfigError, match=REFUSED) as refused:
            read()
        assert "\n" not in str(refused.value)
    assert not (theirs / "ran").exists()
    registry.name_files(str(theirs / "theirs.py"))
    for read in reads[:6]:
        read()
    assert (theirs / "ran").exists()


@pytest.mark.parametrize(
    "command",
    [
        "eval knn --checkpoint {run}", "eval detection --checkpoint {run}", "plot map --checkpoint {run}", "embed . --checkpoint {run}",
        "eval distill --checkpoint {run}", "export --checkpoint {run} --to safetensors --out out", "train --config {exported}/config.yaml",
        "train --dry-run --config {exported}/config.yaml", "data preview --config {exported}/config.yaml",
        "eval supervised --checkpoint {exported}",
    ],
)  # fmt: skip
def test_commands_refuse_code_of_files(
    command: str, theirs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(theirs)
    words = command.format(run=theirs / "run", exported=theirs / "exported").split()
    if words[:2] == ["data", "preview"]:  # names a method itself: the file's stays unread
        assert main(words) == 0
    else:
        assert main(words) == 2
        assert "theirs.py, and only code that you name yourself runs" in capsys.readouterr().err
    assert not (theirs / "ran").exists()


def test_the_named_file_stands_in_for_its_namesake_elsewhere(theirs: Path) -> None:
    (theirs / "mine").mkdir()
    (theirs / "mine" / "theirs.py").write_text(SCIENCE)
    registry.name_files(str(theirs / "mine" / "theirs.py"))
    encoder = read_checkpoint(str(theirs / "run"))
    assert encoder.config.method.name == str(theirs / "mine" / "theirs.py")
    assert encoder.config.method.preset == "digits"
    assert not (theirs / "ran").exists(), "what the checkpoint names ran"


def test_a_command_line_names_code(theirs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(theirs)
    out = theirs / "out"
    (theirs / "own.py").write_text("")
    assert main(["export", "--checkpoint", "run", "--to", "safetensors", "--out", str(out), "--code", "own.py", "theirs.py"]) == 0
    assert {Path(each).name for each in registry._named} == {"own.py", "theirs.py"}
    assert (theirs / "ran").exists()
    again = RunConfig.from_file(out / "config.yaml", method="theirs.py")
    assert again.method.preset == "digits", "naming the file's own method keeps its preset"
    capsys.readouterr()


def test_a_worker_is_told_what_its_driver_was(theirs: Path) -> None:
    config = RunConfig.make(str(theirs / "theirs.py"), KEYS, preset="digits")
    (theirs / "ran").unlink()
    code = registry.code_of(config)
    registry._named.clear()
    registry._loaded.clear()
    with pytest.raises(
        UserError, match=r"no such file|does not exist|there is no"
    ):  # past the code: it is the data that is missing
        work(
            TrainingJob(config.replace({"data.source": str(theirs / "gone")}).to_yaml(), str(theirs), None, 1, code=code),
            lambda message: Asked(),
        )
    assert (theirs / "ran").exists()
