"""`contray eval` and `contray evaluations`: what they show and which words they understand."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex

import pytest

from contray import RunConfig
from contray.api import SCALE
from contray.cli import evaluate, main
from contray.cli.evaluate import spelled
from contray.cli.options import parse
from contray.config.evaluations import evaluation_names, load_evaluation
from contray.config.registry import builtin
from contray.errors import UserError

NAMES = {
    "knn", "linear", "paper", "last_n", "attentive", "finetune", "supervised", "distill", "crd", "noisy_student", "detection", "segmentation",
    "geometry", "finetune_mae", "layers", "attention", "transfer", "factors", "information",
}  # fmt: skip


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(words)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["finetune", "geometry", "crd"])
def test_help_shows_this_evaluations_keys_and_no_others(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    file, said = load_evaluation(name), shown(["eval", name, "--help"], capsys)
    assert file.about in " ".join(said.split())
    assert file.paper.url in said
    own = {f"{file.prefix}.{spec.name}" for spec in dataclasses.fields(file.config)}
    whole = shown(["eval", name, "--help-all"], capsys)
    for page, all_there in ((said, False), (whole, True)):  # the first screen is short
        keys = set(re.findall(r"--(eval\.[\w.]+)", page.partition("--run ")[2])) - {
            "eval.holdout",
            "eval.crop",
            "eval.batch_size",
        }
        assert keys == own if all_there else keys <= own
    assert {"--run", "--checkpoint", "--data.source"} <= set(re.findall(r"--[\w.]+", said))
    assert ("--backbone.width" in whole) == ("backbone" in file.takes)
    assert "--optim.lr" not in said


def test_evaluations_are_listed_with_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(builtin("evaluation")) == NAMES
    assert set(evaluation_names()) >= NAMES
    assert main(["evaluations", "--json"]) == 0
    rows = {row["evaluation"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["geometry"]["needs"] == []
    assert rows["knn"]["needs"] == ["labels"]
    assert rows["knn"]["ranks"] == ["knn_val_top1"]
    assert rows["knn"]["keys"] == ["eval.knn.k", "eval.knn.temperature", "eval.knn.embedding"]
    assert all(row["url"].startswith("https://") and row["about"] for row in rows.values())
    assert main(["evaluations"]) == 0
    assert "noisy_student" in capsys.readouterr().out
    assert "eval.noisy_student.threshold" in shown(["eval", "--help-all"], capsys)


def test_keys_may_be_given_by_their_last_word() -> None:
    assert spelled(["finetune", "--labels", "0.1", "--layer-decay=0.5"]) == [
        "finetune",
        "--eval.finetune.labels",
        "0.1",
        "--eval.finetune.layer_decay=0.5",
    ]
    assert spelled(["knn", "--run", "x", "--data.size", "3"]) == ["knn", "--run", "x", "--data.size", "3"]
    assert spelled(["knn", "linear", "--k", "3", "--epochs=2"])[2:] == ["--eval.knn.k", "3", "--eval.linear.epochs=2"]
    with pytest.raises(UserError, match=r"^--epochs: say of which: --eval\.finetune\.epochs or --eval\.linear\.epochs"):
        spelled(["finetune", "linear", "--epochs", "2"])
    with pytest.raises(UserError, match=r"^--head: is of eval detection and segmentation, not of eval knn"):
        spelled(["knn", "--head", "c4"])


@pytest.mark.parametrize("name", sorted(NAMES))
def test_help_has_examples_of_this_evaluation_and_keys_that_eval_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, few = load_evaluation(name), shown(["eval", name, "--help"], capsys)
    lines = [line.partition("    ")[0] for line in re.findall(r"^  (contray .*)", few, re.MULTILINE)]
    assert len(set(lines)) == 3
    for line in lines:
        options, dotted = parse(evaluate, shlex.split(line)[2:], "eval")
        assert options.name == (name,)
        for key, value in dotted.items():
            assert RunConfig.make(overrides={key: value})
    every = set(re.findall(r"^  --([a-z]+\.[\w.]+)", shown(["eval", name, "--help-all"], capsys), re.MULTILINE))
    assert set(re.findall(r"^  --([a-z]+\.[\w.]+)", few, re.MULTILINE)) < every
    assert f"contray eval {name} --help-all" in " ".join(few.split())
    allowed = (
        "data.",
        "eval.holdout",
        "eval.crop",
        "eval.batch_size",
        f"{file.prefix}.",
        "train.device",
        *SCALE,
        "scale.storage",
        "track.uri",
        *file.takes,
    )
    assert [key for key in every if not key.startswith(allowed)] == []
    assert main(["eval", name, "--help", "optim"]) == 2
    assert "takes no such keys" in capsys.readouterr().err
