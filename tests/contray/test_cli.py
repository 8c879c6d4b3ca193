"""The command line: how words become dotted keys, and that a saved config starts the same run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contray import RunConfig
from contray.cli import main
from contray.cli.options import config_from, split_dotted
from contray.config.registry import method_names

KEYS = {"track.uri": "sqlite:///elsewhere.db", "seed": "3", "data.share": ["digit", "position"], "views.key.blur": "0.25"}


@pytest.mark.parametrize(
    ("words", "dotted", "plain"),
    [
        ("simclr --train.epochs 3", {"train.epochs": ["3"]}, ["simclr"]),
        ("--train.epochs=3 simclr", {"train.epochs": ["3"]}, ["simclr"]),
        ("simclr --seed 3 --quiet", {"seed": ["3"]}, ["simclr", "--quiet"]),
        ("--seeds 3", {}, ["--seeds", "3"]),
        ("--scale.workers 1 4 --dry-run", {"scale.workers": ["1", "4"]}, ["--dry-run"]),
        ("--scale.workers=1,4", {"scale.workers": ["1,4"]}, []),
        ("--train.compile --train.steps 5", {"train.compile": [], "train.steps": ["5"]}, []),
        ("--optim.lr -1e-3 --seed -1", {"optim.lr": ["-1e-3"], "seed": ["-1"]}, []),
        ("--data.source=a=b", {"data.source": ["a=b"]}, []),
        ("--train.batch-size 64", {"train.batch_size": ["64"]}, []),
        ("--train.steps 5 --train.steps 6", {"train.steps": ["6"]}, []),
        ("--views.view.jitter 0.4 0.4 0.4 0.1", {"views.view.jitter": ["0.4", "0.4", "0.4", "0.1"]}, []),
        ("--config run.yaml", {}, ["--config", "run.yaml"]),
        ("mine.py --preset v1", {}, ["mine.py", "--preset", "v1"]),
    ],
)
def test_words_become_dotted_keys(words: str, dotted: dict[str, list[str]], plain: list[str]) -> None:
    assert split_dotted(words.split()) == (dotted, plain)


def test_a_value_may_hold_spaces_and_may_be_empty() -> None:
    dotted, plain = split_dotted(["--track.name", "my run", "--data.label_column", "", "--quiet"])
    assert dotted == {"track.name": ["my run"], "data.label_column": [""]}
    assert plain == ["--quiet"]


def test_a_saved_config_repeats_the_run(tmp_path: Path) -> None:
    config = RunConfig.make("moco", KEYS, preset="digits_v1")
    saved = tmp_path / "config.yaml"
    saved.write_text(config.to_yaml())
    again = config_from("", "", saved, {})
    assert again == config
    assert again.run_name == config.run_name
    assert config_from("", "", saved, {"seed": ["4"]}) == config.replace({"seed": 4})


def test_dry_run_prints_a_config_that_repeats_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "moco", "--preset", "digits_v1", "--seed", "3", "--data.share", "digit", "position"]
    words += ["--track.name", "mine"]
    assert main([*words, "--dry-run", "--show-config"]) == 0
    resolved, told = capsys.readouterr()
    assert "contray_runs/mine," in told, "the dry run is of another run than the one that will be"
    saved = tmp_path / "config.yaml"
    saved.write_text(resolved)  # as `> config.yaml` does
    assert main(["train", "--config", str(saved), "--dry_run", "--show-config"]) == 0
    assert capsys.readouterr().out == resolved


@pytest.mark.parametrize("method", method_names())
def test_every_method_has_a_dry_run(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One small step of its digits preset: memory and time are measured, nothing is started."""
    assert main(["train", method, "--preset", "digits", "--dry-run"]) == 0
    assert "nothing was started" in capsys.readouterr().out


def test_who_reads_may_stop_reading() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "contray", "train", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_warning_of_ours_is_one_line_without_the_code_it_comes_from(tmp_path: Path) -> None:
    code = "import warnings; from contray.cli import main; main(['--version']); "
    ours = "warnings.warn_explicit('step-4.pt: it is\\n damaged', UserWarning, __import__('contray').__file__, 3); "
    ended = subprocess.run([sys.executable, "-c", code + ours], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ended.stderr == "contray: step-4.pt: it is damaged\n"
    ended = subprocess.run([sys.executable, "-c", code + "warnings.warn('theirs')"], capture_output=True, text=True, check=True)
    assert "UserWarning: theirs" in ended.stderr
