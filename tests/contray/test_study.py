"""Studies: what a file may say, which runs are made and which are shared, budgets, and how planted claims come out. Training is tiny, or planted."""

from __future__ import annotations

import json
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from contray import track
from contray.cli import main
from contray.config.sources import computed
from contray.errors import UserError
from contray.storage.folder import Storage
from contray.studies import Above, Agrees, At, Minus, Order, listing, picture
from contray.studies import study as studies
from contray.studies.form import Study, load_study, study_of
from contray.studies.listing import judged
from contray.studies.result import StudyResult
from contray.studies.rounds import Made, Rounds, _why
from contray.studies.runs import Found, Pace, Wanted, found, wanted
from contray.studies.trial import conditions
from contray.training.finite import NonFiniteLoss, NonFiniteState
from contray.training.launch import launch
from contray.training.lease import held
from contray.training.signature import TAG

TINY = {
    **{"data.size": 16, "data.renderings": 1, "views.view.size": 16, "backbone.width": 4, "method.projector_hidden": 16},
    **{"method.projector_dim": 8, "train.precision": "fp32", "train.device": "cpu", "train.steps": 1, "optim.warmup_epochs": 0},
    **{"eval.final": ("knn",), "track.model": False},
}
FILE = f"""\
from contray.studies import Above

CLAIM = "cold is above hot"
SOURCE = "Nobody 2020, table 1, https://example.org"
METHOD = "simclr"
SPACE = {{"method.temperature": [0.1, 1.0]}}
PAPER = {{0.1: 64.0, 1.0: 58.0}}
PAPER_METRIC = "top-1 %"
METRIC = "knn_top1"
EXPECT = [Above(0.1, 1.0)]
BASE = {TINY!r}
SCALES = {{"digits": {{"train.batch_size": 32}}}}
COST = {{"digits": 3}}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "cold.py"
    path.write_text(FILE)
    return str(path)


@pytest.fixture
def here(tmp_path: Path, store: str) -> dict[str, Any]:
    """Where a study of these tests keeps all."""
    return {"scale.storage": str(tmp_path / "runs"), "track.uri": store}


# ---------------------------------------------------------------- files


def _module(**changed: Any) -> ModuleType:
    module = ModuleType("cold")
    exec(FILE, vars(module))
    for name, value in changed.items():
        vars(module).pop(name) if value is None else setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"CLAIM": None}, "CLAIM is missing"),
        ({"CLAIM": " "}, "CLAIM must be a text"),
        ({"SOURCE": "Nobody 2020"}, "SOURCE must hold the paper's address"),
        ({"SPACE": ["a"]}, "SPACE must be a dictionary"),
        ({"SPACE": {"method.temperature": [0.1]}}, "SPACE must have two arms"),
        ({"SPACE": {"method.temperature": [0.1, 0.1, 1.0]}}, "SPACE has a value twice"),
        ({"SPACE": {"a": {"seed": 1}, "b": {}}}, "SPACE must not set seed"),
        ({"SPACE": {"a": {}, "method.temperature": [0.1, 1.0]}}, "SPACE must be a grid"),
        ({"EXPECT": []}, "EXPECT must be a list of forms"),
        ({"EXPECT": [Above(0.1, 0.7)]}, "EXPECT: Above: got arm 0.7"),
        ({"EXPECT": ["cold"]}, "EXPECT holds 'cold'"),
        ({"PAPER": {0.7: 1.0}}, "PAPER names the arm 0.7"),
        ({"PAPER": {0.1: "64"}}, "PAPER of 0.1 must be a number"),
        ({"SCALES": {"moon": {}}}, "SCALES has no scale 'moon'"),
        ({"SCALES": {}}, "SCALES must name at least one"),
        ({"COST": {}}, "COST must say what the scale digits costs"),
        ({"SEEDS": 0}, "SEEDS must be a whole number"),
        ({"SEEDS": True}, "SEEDS must be a whole number"),
        ({"COST": {"digits": -5}}, "COST of digits must be minutes"),
        ({"COST": {"digits": math.nan}}, "COST of digits must be minutes"),
        ({"COST": {"digits": ()}}, "COST of digits must be minutes"),
        ({"PAPER": {0.1: math.nan}}, "PAPER of 0.1 must be a number"),
        ({"BASE": {"seed": 1}}, "BASE must not set seed"),
        ({"BASE": {1: 1}}, "BASE has the key 1"),
        ({"SCALES": {"digits": {"track.name": "x"}}}, "SCALES of digits must not set track.name"),
        ({"SPACE": {"data.size": [{"a": 1}, {"b": 1}]}}, "SPACE has a value that is a dictionary"),
        ({"EXPECTS": 1}, "EXPECTS is no field of a study"),
        ({"EXPECT": [Agrees("knn_top1")]}, "study cold: EXPECT: Agrees: sets knn_top1 against itself"),
        ({"EXPECT": [Above(At(0.1, "knn_top1"), 0.1)]}, "EXPECT: Above: sets 0.1 against itself"),
        ({"EXPECT": [Above(Minus(0.1, At(0.1, "knn_top1")), 1.0)]}, "EXPECT: Above: sets 0.1 against itself"),
    ],
)
def test_a_fault_of_a_file_is_named_with_its_field(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=r"^study cold: ") as error:
        study_of(_module(**changed), "cold")
    assert said in str(error.value)


def test_arms_stand_above_the_line_that_stands_above_the_file(file: str) -> None:
    study = load_study(file)
    arms = study.arms("digits", {"train.batch_size": 48, "method.temperature": 0.5, "data.size": 20})
    assert list(arms) == [0.1, 1.0]
    assert [config.method.temperature for config in arms.values()] == [0.1, 1.0], "an arm's own"
    assert {(config.train.batch_size, config.data.size) for config in arms.values()} == {(48, 20)}
    assert study.arms("digits")[0.1].train.batch_size == 32
    assert study.arms("digits")[0.1].eval.every_epochs == 0, "of the scale"


def test_a_list_of_a_grid_is_an_arm() -> None:
    space = {"eval.linear.lrs": ([0.1, 1.0], [0.3])}
    study = study_of(_module(SPACE=space, PAPER={(0.3,): 1.0}, EXPECT=[Above((0.1, 1.0), (0.3,))]), "s")
    assert study.settings("digits") == {arm: {"eval.linear.lrs": arm} for arm in ((0.1, 1.0), (0.3,))}


def test_a_scale_has_its_own_grid_and_an_arm_its_own_method() -> None:
    space = {"a": {"method.name": "simsiam", "train.steps": 2}, "b": {}}
    study = study_of(
        _module(SPACE={"x": {}, "y": {}}, PAPER={}, EXPECT=[Above("a", "b")], SCALES={"digits": {"SPACE": space}}, BASE={}), "s"
    )
    arms = study.arms("digits")
    assert [(arm, config.method.name, config.method.preset) for arm, config in arms.items()] == [
        ("a", "simsiam", "digits"),
        ("b", "simclr", "digits"),
    ]
    both = study_of(_module(SPACE={"method.temperature": [0.1, 1.0], "train.steps": [1, 2]}, PAPER={}, EXPECT=[Order()]), "s")
    assert list(both.settings("digits")) == [(0.1, 1), (0.1, 2), (1.0, 1), (1.0, 2)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study", "simclr_temperatur"], "did you mean simclr_temperature"),
        (["study", "simclr"], "is a search space: contray tune simclr"),
        (["tune", "simclr_temperature"], "is a study: contray study simclr_temperature"),
        (["study", "simclr_temperature", "--scale", "moon"], "--scale: simclr_temperature has no scale moon"),
        (["study", "simclr_temperature", "--seeds", "-1"], "--seeds: got -1"),
        (["study", "simclr_temperature", "--budget", "soon"], "--budget: got 'soon'"),
        (["study", "simclr_temperature", "--seed", "3"], "seed: is the study's own to set"),
        (["study", "simclr_temperature", "--scale.workers", "2", "2"], "scale.workers: a study makes several runs at once"),
        (["study", "simclr_temperature", "--train.batch_size", "1"], "train.batch_size"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    words: list[str], said: str, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--track.uri", store]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


# ---------------------------------------------------------------- signatures


def test_a_signature_is_of_what_is_computed(tmp_path: Path, file: str) -> None:
    study = load_study(file)
    first = {(each.arm, each.seed): each.signature for each in wanted(study, "digits", 2, {})}
    assert len(set(first.values())) == 4
    elsewhere = wanted(study, "digits", 2, {"scale.storage": str(tmp_path), "track.experiment": "x", "data.workers": 1})
    assert {(each.arm, each.seed): each.signature for each in elsewhere} == first
    other = wanted(study, "digits", 2, {"data.contrast": 0.1})
    assert not {each.signature for each in other} & {*first.values()}
    assert [(each.arm, each.seed) for each in other] == [(0.1, 0), (1.0, 0), (0.1, 1), (1.0, 1)], "rounds of seeds"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"SPACE": {"a": {}, "b": {"method.temperature": 0.1}}}, "the arms a and b are the same run"),
        ({"METRIC": "knn_topp1"}, "got the metric knn_topp1, which no run"),
        ({"METRIC": "knnn_top1"}, "got the metric knnn_top1, which no run"),
        ({"METRIC": "xknny_top1"}, "got the metric xknny_top1, which no run"),
        ({"METRIC": "linear_top1"}, "eval.final knn gives knn_top1"),
        ({"EXPECT": [Above("a", At("b", "rankmee"))]}, "got the metric rankmee"),
    ],
)
def test_what_no_run_could_tell_is_refused_before_any_is_made(changed: dict[str, Any], said: str) -> None:
    base = {"SPACE": {"a": {}, "b": {"method.temperature": 0.7}}, "PAPER": {}, "EXPECT": [Above("a", "b")]}
    base["BASE"] = TINY | {"method.temperature": 0.1}
    with pytest.raises(UserError) as error:
        wanted(study_of(_module(**base | changed), "cold"), "digits", 1, {})
    assert said in str(error.value)
    for metric in (
        "knn_embedding_top1",
        "random_knn_top1",
        "knn_val_top1",
        "knn_gain",
        "random_rankme",
        "seconds",
        "contrast_top1",
    ):
        assert wanted(study_of(_module(**base | {"METRIC": metric}), "cold"), "digits", 1, {})


def test_code_counts_and_words_about_it_do_not(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        path = tmp_path / "code.py"
        path.write_text(text)
        module = ModuleType("contray.methods.code")
        module.__file__, module.__package__ = str(path), "contray.methods"
        return computed(module, "contray.methods", ("PAPER",))

    text = "PAPER = 1\n\ndef f(x):\n    return x + 1\n"
    assert digest(text) == digest('"""Words."""\nPAPER = 2  # other\n\n\ndef f(x):\n    """More."""\n    return x + 1\n')
    assert digest(text) != digest(text.replace("+ 1", "+ 2"))
    assert digest("from .byol import f\n") != digest("from .moco import f\n")


# ---------------------------------------------------------------- planted runs


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs are not trained but planted in MLflow: `value(arm, seed)` is their knn_top1, `made` who was; `after` of them Ctrl-C."""
    how: dict[str, Any] = {"value": lambda arm, seed: 0.5, "made": [], "after": math.inf}

    def make_all(title: str, name: str, todo: list[Wanted], parent: str, *others: Any, **options: Any) -> Made:
        made = Made()
        for each in todo:
            if len(how["made"]) >= how["after"]:
                return Made(made.failed, interrupted=True)
            plant(each, how["value"](each.arm, each.seed), parent, made)
            how["made"].append((each.arm, each.seed))
        return made

    def draw(study: Study, result: StudyResult, path: Path) -> None:
        path.write_bytes(b"a picture")

    monkeypatch.setattr(studies, "make_all", make_all)
    monkeypatch.setattr(picture, "draw", draw)
    monkeypatch.setattr(studies, "ray_session", lambda config: nullcontext())
    return how


def plant(each: Wanted, value: float | str, parent: str | None, made: Made) -> None:
    """A run as it ended: with its metric, diverged, or failed."""
    if value == "failed":
        made.failed[each.signature] = "the disk is full"
        return
    tags = {TAG: each.signature, **({"contray.diverged": "step 3: the loss is not finite"} if value == "diverged" else {})}
    run = track.begin(each.config.track.uri, each.config.track.experiment, each.name, params={}, tags=tags, parent_id=parent)
    if value != "diverged":
        run.log_metrics({"knn_top1": float(value), "random_knn_top1": 0.2, "seconds": 9.0}, step=1)
    run.finish("FAILED" if value == "diverged" else "FINISHED")


def test_a_planted_truth_is_supported_a_planted_falsehood_is_not(
    file: str, here: dict[str, Any], planted: dict[str, Any]
) -> None:
    noise = {0: 0.0, 1: 0.01, 2: -0.01}
    planted["value"] = lambda arm, seed: (0.7 if arm == 0.1 else 0.5) + noise[seed] * (1 if arm == 0.1 else 0.5)
    result = studies.study(file, here, quiet=True)
    assert result.verdict.word == "supported"
    assert result.seeds_of(0.1) == pytest.approx({0: 0.7, 1: 0.71, 2: 0.69})
    assert result.left == 0
    parent = track.client(here["track.uri"]).get_run(result.run_id)
    kept = {each.path for each in track.client(here["track.uri"]).list_artifacts(result.run_id)}
    assert {"study.json", "table.md", "picture.png"} <= kept
    tags = {name: parent.data.tags[f"contray.{name}"] for name in ("kind", "study", "scale", "verdict", "left")}
    assert tags == {"kind": "study", "study": "cold", "scale": "digits", "verdict": "supported", "left": "0"}
    assert parent.info.status == "FINISHED"
    read = StudyResult.from_json(json.loads(json.dumps(result.as_json())))
    assert (read.values, read.verdict, read.runs, str(read)) == (result.values, result.verdict, result.runs, str(result))
    assert "64" in result.markdown(), "the paper's numbers"

    planted["value"] = lambda arm, seed: (0.5 if arm == 0.1 else 0.7) + noise[seed] * (1 if arm == 0.1 else 0.5)
    assert studies.study(file, {**here, "track.experiment": "false"}, quiet=True).verdict.word == "contradicted"
    planted["value"] = lambda arm, seed: 0.5 + noise[seed] * (1 if arm == 0.1 else -1)
    assert studies.study(file, {**here, "track.experiment": "nothing"}, quiet=True).verdict.word == "undecided"


def test_the_second_call_answers_from_the_firsts_runs(file: str, here: dict[str, Any], planted: dict[str, Any]) -> None:
    first = studies.study(file, here, quiet=True)
    assert planted["made"] == [(0.1, 0), (1.0, 0), (0.1, 1), (1.0, 1), (0.1, 2), (1.0, 2)]
    began = time.monotonic()
    second = studies.study(file, here, quiet=True)
    assert time.monotonic() - began < 10
    assert len(planted["made"]) == 6, "runs were made again"
    assert (second.runs, second.verdict, second.run_id) == (first.runs, first.verdict, first.run_id)
    more = studies.study(file, here, seeds=4, quiet=True)
    assert planted["made"][6:] == [(0.1, 3), (1.0, 3)]
    assert more.run_id == first.run_id, "one run of MLflow's for the same arms"


def test_fewer_seeds_take_nothing_from_a_verdict_and_settings_make_no_verdict_of_the_study(
    file: str, here: dict[str, Any], planted: dict[str, Any]
) -> None:
    study = load_study(file)
    whole = studies.study(file, here, seeds=4, quiet=True)
    fewer = studies.study(file, here, seeds=1, quiet=True)
    assert (fewer.values, fewer.run_id) == (whole.values, whole.run_id)
    toy = studies.study(file, {**here, "train.steps": 2}, seeds=5, quiet=True)
    assert toy.run_id != whole.run_id
    (counts,) = judged(here["track.uri"], "contray", [study]).values()
    assert (counts.info.run_id, counts.data.tags["contray.seeds"]) == (whole.run_id, "4")


def test_the_second_of_two_at_once_is_told_to_wait(file: str, here: dict[str, Any], planted: dict[str, Any]) -> None:
    home = Storage(here["scale.storage"]) / studies.plan(file, here).name
    home.create()
    with held(home), pytest.raises(UserError, match=r"study cold: is being run by process .*; wait for its end") as error:
        studies.study(file, here, quiet=True)
    assert "track.name" not in str(error.value)


def test_a_study_that_was_interrupted_goes_on(file: str, here: dict[str, Any], planted: dict[str, Any]) -> None:
    planted["after"] = 3
    result = studies.study(file, here, quiet=True)
    assert (result.interrupted, result.left, result.verdict.word) == (True, 3, "undecided")
    assert "3 runs are still to be made" in str(result)
    assert track.client(here["track.uri"]).get_run(result.run_id).info.status == "KILLED"
    planted["after"] = math.inf
    again = studies.study(file, here, quiet=True)
    assert (again.interrupted, again.left, again.run_id) == (False, 0, result.run_id)
    assert len(planted["made"]) == len(set(planted["made"])) == 6


def test_studies_share_runs_and_a_run_that_diverged_or_failed_says_so(
    tmp_path: Path, file: str, here: dict[str, Any], planted: dict[str, Any]
) -> None:
    studies.study(file, here, quiet=True)
    other = tmp_path / "warm.py"
    named = {"cold": {}, "warm": {"method.temperature": 0.3}, "none": {"method.temperature": 0.4}}
    text = FILE.replace("{'method.temperature': [0.1, 1.0]}", "").replace(
        'SPACE = {"method.temperature": [0.1, 1.0]}', f"SPACE = {named}"
    )
    text = text.replace("PAPER = {0.1: 64.0, 1.0: 58.0}", "").replace("Above(0.1, 1.0)", "Above('cold', 'warm')")
    other.write_text(text.replace("BASE = {", "BASE = {'method.temperature': 0.1, "))
    planted["made"].clear()
    planted["value"] = lambda arm, seed: "diverged" if arm == "warm" else "failed"
    result = studies.study(str(other), here, quiet=True)
    assert [arm for arm, _ in planted["made"]] == ["warm", "none"] * 3, "the other study's runs were made again"
    assert result.values["warm"] == {seed: {"knn_top1": None} for seed in range(3)}
    assert result.values["none"] == {}
    assert result.notes["none"][0] == "the disk is full"
    assert "not finite" in result.notes["warm"][2]
    assert result.left == 3, "those that failed are tried again, those that diverged would do so again"


def test_what_is_no_run_of_its_config_is_not_taken_for_one(file: str, here: dict[str, Any]) -> None:
    """One that was trained on anyway; and one that ended at a loss that is no number, where such steps are to be left out."""
    first = studies.plan(file, here, seeds=1)
    for each, value in zip(first.todo, (0.5, "diverged"), strict=True):
        plant(each, value, None, Made())
    assert not studies.plan(file, here, seeds=1).todo
    skips = studies.plan(file, here | {"train.on_nan": "skip"}, seeds=1)
    assert len(skips.todo) == 2
    talk = track.client(here["track.uri"])
    kept = found(here["track.uri"], "contray", [first.todo[0].signature], "", False)[first.todo[0].signature]
    talk.set_tag(kept.run_id, track.INEXACT, "trained on from 6 to 12 steps, whose schedules differ")
    assert [each.arm for each in studies.plan(file, here, seeds=1).todo] == [0.1]


@pytest.mark.parametrize("value", ["3", 2.5, True, -1])
def test_seeds_are_a_whole_number(file: str, here: dict[str, Any], value: Any) -> None:
    with pytest.raises(UserError, match=r"--seeds: got .*, must be a whole number, at least 0"):
        studies.plan(file, here, seeds=value)


def test_a_budget_is_spent_on_studies_without_a_verdict_cheapest_first(
    tmp_path: Path, here: dict[str, Any], planted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {}
    for name, cost in (("dear", 40), ("cheap", 2), ("judged", 1), ("endless", 9000)):
        (tmp_path / f"{name}.py").write_text(FILE.replace('"digits": 3', f'"digits": {cost}').replace("0.1", f"0.{len(name)}"))
        files[name] = str(tmp_path / f"{name}.py")
    (tmp_path / "broken.py").write_text(FILE.replace("Above(0.1, 1.0)", "Above(0.1, 7.0)"))
    monkeypatch.setattr(studies, "study_names", lambda: [str(tmp_path / "broken.py"), *files.values()])
    studies.study(files["judged"], here, quiet=True)
    planted["made"].clear()
    summary = studies.study_all(here, minutes=60, jobs=1, quiet=True)
    assert [each.study.name for each in summary.results] == ["cheap", "dear", "judged", "endless"], (
        "at last a part of what is too long"
    )
    assert not summary.not_reached
    assert "got arm 7.0" in summary.failed[str(tmp_path / "broken.py")], "the others went on"
    assert "verdict" in str(summary)


def test_where_all_fails_the_command_says_so(
    file: str, here: dict[str, Any], planted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--scale.storage", here["scale.storage"], "--track.uri", here["track.uri"]]
    planted["value"] = lambda arm, seed: "failed"
    assert main(["study", file, *line]) == 1
    planted["value"] = lambda arm, seed: "failed" if seed == 1 else 0.5
    assert main(["study", file, *line]) == 0, "the others tell"
    broken = Path(file).with_name("broken.py")
    broken.write_text(FILE.replace("Above(0.1, 1.0)", "Above(0.1, 7.0)"))
    one = load_study(file)

    def load(name: str) -> Study:
        return load_study(str(broken)) if name == "broken" else one

    monkeypatch.setattr(listing, "study_names", lambda: ["broken", "cold"])
    monkeypatch.setattr(listing, "load_study", load)
    monkeypatch.setattr(studies, "load_study", load)
    assert main(["study", "all", "--dry-run", *line]) == 0
    shown = capsys.readouterr()
    assert "left out: study broken" in shown.err
    assert "cold is above hot" in shown.out


# ---------------------------------------------------------------- pace and budget


def test_no_run_is_begun_that_would_not_end_in_time(file: str) -> None:
    study = load_study(file)
    runs = wanted(study, "digits", 2, {})
    pace = Pace(study, "digits", runs, {})
    assert pace.of(0.1) == pytest.approx(0.5), "of three minutes for six runs"
    pace = Pace(study, "digits", runs, {runs[0].signature: Found("r", {}, 4.0)})
    assert (pace.of(0.1), pace.of(1.0)) == (4.0, 4.0), "what was measured counts more than what is stated"
    pace.took(1.0, 0.1)
    named = {each.name: each for each in runs}
    rounds = Rounds(list(named), named, pace, time.monotonic() + 60, [False], Made())
    assert [rounds.next() for _ in range(3)] == [runs[1].name, runs[3].name, None], "of the arm that takes 4 minutes none"
    assert rounds.ended(runs[1].name, {}, "Killed") == f"{runs[1].name} failed: Killed"
    lost = _why(SimpleNamespace(get_error=lambda: None))  # what Ray keeps of a process that was lost
    assert rounds.ended(runs[3].name, {}, lost) == f"{runs[3].name} failed: its process died"
    rounds.asked[0] = True
    assert rounds.over


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (NonFiniteLoss(3, "loss or gradients are not finite"), "diverged"),
        (NonFiniteState(3, "a weight is not finite, although loss and gradients were"), "step 3: a weight is not finite"),
        (UserError("the disk is full"), "the disk is full"),
    ],
)
def test_a_loss_that_is_no_number_has_diverged_and_another_fault_has_not(
    error: UserError, ended: str, file: str, here: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import tune

    from contray.studies import trial

    (run, *_), told, kept = wanted(load_study(file), "digits", 1, here), list[dict[str, Any]](), list[str]()

    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(trial, "launch", fail)
    monkeypatch.setattr(tune, "report", told.append)
    monkeypatch.setattr(trial, "diverged", lambda config, name, signature, words: kept.append(signature))
    orders = trial.Orders({"r": run.config.to_yaml()}, {"r": "a run"}, {"r": run.signature}, "", None, 1)
    trial.make({"run": "r"}, orders)
    assert told[0]["ended"].startswith(ended)
    assert kept == ([run.signature] if ended == "diverged" else [])


def test_where_time_suffices_for_no_run_ray_is_not_started(file: str, here: dict[str, Any]) -> None:
    planned = studies.plan(file, here)
    assert [studies._begins(planned, time.monotonic() + seconds) for seconds in (-1, 5, 60)] == [False, False, True]
    assert not studies._begins(replace(planned, runs=[]), time.monotonic() + 60), "nothing is left"


def test_time_and_memory_count_where_they_are_comparable(file: str, here: dict[str, Any]) -> None:
    first, second, *_ = wanted(load_study(file), "digits", 1, here)
    for each, tagged in ((first, conditions(2)), (second, "another machine, 2 at once")):
        plant(each, 0.5, None, Made())
        run = next(iter(found(here["track.uri"], "contray", [each.signature], "", False).values()))
        track.TrackedRun(here["track.uri"], "", run.run_id).set_tags({"contray.conditions": tagged})
    both = [first.signature, second.signature]
    known = found(here["track.uri"], "contray", both, conditions(2), False)
    assert [known[each].metrics.get("seconds") for each in both] == [9.0, None]
    assert list(found(here["track.uri"], "contray", both, conditions(2), True)) == [first.signature], (
        "a study of time makes it anew"
    )


# ---------------------------------------------------------------- on Ray


@pytest.mark.ray
def test_a_study_makes_the_runs_that_nobody_has_made(file: str, here: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """`contray train` has made one arm; the other is an ordinary run of Tune's, finished, measured and a child of the study's."""
    (mine, other) = wanted(load_study(file), "digits", 1, here)
    trained = launch(mine.config.replace({"scale.workers": (0, 0), "scale.cpus_per_worker": 1}), quiet=True)
    line = ["study", file, "--seeds", "1", "--jobs", "1", *(word for key, value in here.items() for word in (f"--{key}", value))]
    assert main([*line, "--dry-run", "--json"]) == 0
    (dry,) = json.loads(capsys.readouterr().out)
    assert [(each["there"], each["left"]) for each in dry["arms"]] == [([0], []), ([], [0])]
    assert main([*line, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["left"], done["verdict"]["word"]) == (0, "undecided")
    assert done["arms"][0]["seeds"]["0"]["run_id"] == trained.run_id
    run = track.client(here["track.uri"]).get_run(done["arms"][1]["seeds"]["0"]["run_id"])
    assert run.info.status == "FINISHED"
    tags = {name: run.data.tags[name] for name in (TAG, "mlflow.parentRunId", "contray.conditions", "contray.kind")}
    assert tags == {
        TAG: other.signature, "mlflow.parentRunId": done["run_id"], "contray.conditions": conditions(1), "contray.kind": "run",
    }  # fmt: skip
    assert {"seconds", "memory_gb", "knn_top1"} <= run.data.metrics.keys()
    assert 0 < float(run.data.tags["contray.minutes"]) < 5
    assert Path(done["picture"]).is_file()
