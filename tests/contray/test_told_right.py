"""Tables, estimates and searches that once told something else than what was there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from contray import RunConfig, track
from contray.api import tune as api
from contray.api.compare import _single
from contray.cli import main
from contray.config.registry import name_code
from contray.config.spaces import load_space
from contray.errors import UserError
from contray.model import hardware
from contray.planning import rules
from contray.planning.cost import Cost, uncounted
from contray.planning.facts import Images, Machine
from contray.planning.trial import Trial as Measured
from contray.studies.claims import Above
from contray.studies.runs import found, precision_of
from contray.studies.verdict import judge
from contray.track.comparing import compare
from contray.training.result import Result, Results
from contray.training.signature import TAG, signature
from contray.tuning import launch, picture, shown
from contray.tuning.front import front
from contray.tuning.outcome import SweepResult, Trial
from contray.tuning.ranking import online_of
from contray.tuning.search import LIVE_KEYS, Search, _scheduler

BASE = {"method.name": "simclr", "method.preset": "digits", "data.source": "digits"}


def logged(store: str, name: str, rate: str, seed: int, finished: bool = True, **metrics: float) -> str:
    made = track.begin(store, "told", name, params=BASE | {"optim.lr": rate, "seed": seed}, tags={"contray.kind": "run"})
    made.log_metrics(metrics, 10)
    if finished:
        made.finish("FINISHED")
    return made.run_id


# ---------------------------------------------------------------- runs beside each other


def test_what_still_runs_is_in_no_mean_unless_it_is_named(store: str) -> None:
    for seed, value in enumerate((0.90, 0.91)):
        logged(store, f"a-s{seed}", "1", seed, knn_val_top1=value)
    running = logged(store, "a-s2", "1", 2, finished=False, knn_val_top1=0.25)
    for seed in range(3):
        logged(store, f"b-s{seed}", "2", seed, knn_val_top1=0.80)
    told = compare(store, [], "told")
    assert [(row.name, row.seeds) for row in told.rows] == [("a", 2), ("b", 3)]
    assert told.left_out == 1
    assert [row.run_ids for row in compare(store, [running], "told").rows] == [(running,)]


def test_rows_are_ordered_by_what_they_are_judged_by(store: str) -> None:
    for seed in range(3):
        logged(store, f"a-s{seed}", "1", seed, knn_top1=0.95, linear_top1=0.900 + 0.001 * seed)
        logged(store, f"b-s{seed}", "2", seed, knn_top1=0.80, linear_top1=0.940 + 0.001 * seed)
    logged(store, "winner", "3", 0, knn_val_top1=0.99)
    assert [row.name for row in compare(store, [], "told").rows] == ["b", "a", "winner"]


def test_several_seeds_and_a_sweep_are_compared_by_all_that_they_are(tmp_path: Path) -> None:
    config = RunConfig.make("simclr", preset="digits")
    seeds = Results([Result(f"r-s{i}", {}, f"{i:032x}", "", str(tmp_path), 10, True, {}, config) for i in range(2)])
    sweep = SweepResult("s", "linear_val_top1", [], None, None, "", "f" * 32, "", {}, "", "")
    assert _single([seeds, sweep, "name"]) == [*seeds, "f" * 32, "name"]
    assert _single(seeds) == list(seeds)


def test_a_champion_without_a_score_makes_way(store: str, tmp_path: Path) -> None:
    from contray import model
    from contray.model.encoder import export

    config = RunConfig.make("simsiam", {"backbone.width": 4, "method.dim": 8, "method.hidden": 4}, preset="digits")
    export(config, model.build(config, 100).eval(), tmp_path / "encoder")
    ids = []
    for score in ({}, {"linear_top1": 0.5}):
        run = track.begin(store, "told", "r", params={}, tags={"contray.dataset": "digits"})
        track.log_encoder(run, tmp_path / "encoder")
        run.log_metrics(score, step=0)
        ids.append(run.run_id)
    track.register(store, ids[0], "digits")
    track.client(store).set_registered_model_alias("digits", "champion", "1")
    assert track.register(store, ids[1], "digits") == "digits version 2: linear_top1 0.5000, the champion"


# ---------------------------------------------------------------- searches


def test_a_population_stays_in_its_space(tmp_path: Path) -> None:
    from ray.tune.schedulers.pbt import _explore

    space = load_space("moco").SPACE
    scheduler: Any = _scheduler(Search(4, "pbt", 0.4, 0, 0, "linear_val_top1", {}), space)
    random.seed(0)
    params, base = {key: None for key in space if key in LIVE_KEYS}, RunConfig.make("moco", preset="digits")
    params |= {"method.temperature": 0.2, "method.momentum": 0.999, "augment.strength": 1.4}
    listed, range_ = space["method.momentum"].categories, space["augment.strength"]
    drawn = [
        _explore(params, scheduler._hyperparam_mutations, 0.25, (1.2, 0.8), scheduler._custom_explore_fn)[0]  # pyright: ignore[reportArgumentType] for _ in range(200)
    ]
    assert all(each["method.momentum"] in listed for each in drawn)
    assert all(range_.lower <= each["augment.strength"] <= range_.upper for each in drawn)
    for each in drawn:
        base.replace(each)


def test_a_picture_takes_values_that_no_list_has(tmp_path: Path) -> None:
    space = load_space("moco").SPACE
    params = {"method.temperature": 0.2, "method.queue_size": 256, "method.momentum": 0.7992, "augment.strength": 1.0}
    trials = [Trial(f"{i:05}", params, "finished", {"linear_val_top1": 0.5 + 0.1 * i}, "r", "", 1) for i in range(2)]
    picture.slices(trials, space, "linear_val_top1", "knn_val_top1")
    picture.parallel(trials, space, "linear_val_top1")
    place = picture._place([0.5, 0.9, 0.99])
    assert [place(0.9), round(place(0.7), 3)] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ('{"optim.lr": tune.uniform(0.1, 0.01)}', r"optim\.lr: got a range of 0\.1 to 0\.01, must run from the lower end"),
        ('{"optim.lr": tune.uniform(0.01, 0.1)}\nSAMPLES = "x"', r"SAMPLES is 'x', must be a whole number of trials"),
        ('{"optim.lr": tune.uniform(0.01, 0.1)}\nBASE = 3', "BASE is 3, must be a dictionary"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_is_refused(space: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f'from ray import tune\n\nABOUT = "mine"\nMETHOD = "simclr"\nSPACE = {space}\n')
    with pytest.raises(UserError, match=said):
        load_space(str(file))


def test_where_nothing_is_measured_online_the_sampler_learns_from_the_end() -> None:
    from contray import data

    config = RunConfig.make("simclr", {"eval.final": ("linear",)}, preset="digits")
    source = data.open_source(config.data)
    assert online_of("linear_val_top1", config, source) == "knn_val_top1"
    assert online_of("linear_val_top1", config.replace({"eval.every_epochs": 0}), source) == "linear_val_top1"


def _trial(name: str, status: str = "finished", params: dict[str, Any] | None = None, **metrics: float) -> Trial:
    return Trial(name, params or {}, status, metrics, "r", "", 1)  # pyright: ignore[reportArgumentType]


def test_of_equally_good_trials_the_cheapest_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = _trial("0", linear_val_top1=0.9, seconds=100.0), _trial("1", linear_val_top1=0.9, seconds=30.0)
    assert front([slow, quick], "linear_val_top1", "seconds") == ["1"]
    assert launch._best([slow, quick], "linear_val_top1", ["1"]) is quick
    assert launch._best([slow, quick], "linear_val_top1", []) is slow
    assert launch._best([_trial("0", "stopped", linear_val_top1=0.9)], "linear_val_top1", []) is None


def test_the_table_over_seeds_has_finished_trials_and_their_spread() -> None:
    space = {"k": None, "seed": None}
    values = [(1, 0, 0.70), (1, 1, 0.74), (2, 0, 0.80), (3, 0, 0.60)]
    trials = [_trial(str(i), params={"k": k, "seed": s}, knn_val_top1=v) for i, (k, s, v) in enumerate(values)]
    trials.append(_trial("9", "stopped", {"k": 2, "seed": 1}, knn_val_top1=0.1))
    result = SweepResult("s", "knn_val_top1", trials, None, None, "", "", "", space, "", "")
    table = shown._study(result, ["k"])
    assert [list(row) for row in table.rows] == [["1", "2", "72.0", "2.8"], ["2", "1", "80.0", "-"], ["3", "1", "60.0", "-"]]
    assert "20.0 points = 7.1 times the standard deviation over seeds (2.83 points)" in table.caption


def test_a_sweep_takes_sections_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("contray.tuning.sweep", _sweep_like(given))
    api("simclr", {"optim.lr": 1}, data={"source": "photos/"}, metric="rankme")
    assert given == {"overrides": {"optim.lr": 1, "data.source": "photos/"}, "metric": "rankme"}


def _sweep_like(given: dict[str, Any]) -> Any:
    def sweep(
        name: str, overrides: dict[str, Any], *, samples: int = 0, preset: str = "", metric: str = "", warm: str = ""
    ) -> None:
        given.update(overrides=overrides, metric=metric)

    return sweep


# ---------------------------------------------------------------- studies


def test_a_signature_is_of_ones_own_evaluations_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "evaluation", "probe"]) == 0
    (file,) = tmp_path.glob("**/probe.py")
    name_code(str(file))
    config = RunConfig.make("simclr", {"eval.final": ("knn", str(file))}, preset="digits")
    before = signature(config, {})
    assert signature(config, {}) == before
    file.write_text(file.read_text().replace("return ", "return dict() or ", 1))
    assert signature(config, {}) != before
    assert signature(config.replace({"eval.final": ("knn",)}), {}) not in (before, signature(config, {}))


def test_arms_are_of_one_precision(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig.make("simclr", preset="digits")
    for name, precision in (("fp32", "fp32"), ("bf16", "bf16")):
        run = track.begin(store, "told", name, params={"train.precision": precision}, tags={TAG: "abc"})
        run.log_metrics({"knn_top1": 0.5 if precision == "fp32" else 0.6}, 1)
        run.finish("FINISHED")
    for units, value in (("no", 0.5), ("yes", 0.6)):
        monkeypatch.setenv(hardware.OVERRIDE, units)
        runs = found(store, "told", ["abc"], "", False, precision_of(config))
        assert runs["abc"].metrics["knn_top1"] == value
    assert precision_of(config.replace({"train.precision": "fp32"})) == ""
    assert precision_of(config.replace({"scale.address": "head:6379"})) == ""


def test_one_metric_without_a_number_is_no_divergence() -> None:
    a = {seed: {"knn_top1": 0.9, "rankme": None if seed == 0 else 30.0 + seed} for seed in range(4)}
    b = {seed: {"knn_top1": 0.9, "rankme": 20.0 + 0.1 * seed, "random_rankme": 10.0} for seed in range(4)}
    (claim,) = judge([Above("a", "b", metric="rankme")], {"a": a, "b": b}, "knn_top1").claims
    assert claim.seeds == 3
    assert claim.estimate == pytest.approx(11.8)


# ---------------------------------------------------------------- estimates

PHOTOS = Images(1_281_167, 1000, 50_000, side=375, longest=500, decode=0.008, nbytes=562_500, cached=False)
MEASURED = Measured(6e-4, 4e-3, 5e-4, 2e-4, 0.0, 100_000_000, 400_000_000, 256)


def cost(workers: tuple[int, int], gpus: int = 8, **keys: Any) -> Cost:
    config = RunConfig.make("simclr", {"scale.workers": workers, "train.budget": 120, **keys}, preset="auto")
    return rules.fit(config, PHOTOS, Machine("cuda", 64, 512e9, gpus, 80e9, 1e12), lambda config: MEASURED).cost


def test_gpus_share_a_step_as_far_as_there_are_any() -> None:
    one, eight, two = cost((1, 1)), cost((8, 8)), cost((8, 8), gpus=2)
    assert eight.step(256) < one.step(256) / 4
    assert two.sample == pytest.approx(one.sample / 2, rel=0.3)


def test_the_verdict_decodes_in_as_many_processes_as_the_training() -> None:
    found = cost((1, 1))
    assert found.loaders > 8
    assert found.encode < PHOTOS.decode / 8
    assert found.verdict < found.budget


def test_what_no_estimate_has_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert uncounted(RunConfig.make("simclr", {"eval.final": ("knn", "finetune")}, preset="digits")) == ["finetune"]
    assert main(["train", "simclr", "--preset", "digits", "--eval.final", "knn", "finetune", "--seeds", "5", "--dry-run"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "not counted: finetune (eval.final)" in told
    assert "for 5 seeds about" in told
