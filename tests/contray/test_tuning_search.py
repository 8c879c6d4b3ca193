"""What a sweep learns from its trials, and from those of another: the front, what mattered, a warm start. None of it needs Ray to run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray import tune

from contray import RunConfig, data, track
from contray.config.spaces import load_space
from contray.errors import UserError
from contray.storage import sealed
from contray.storage.folder import Storage
from contray.tuning.front import front
from contray.tuning.importance import LEAST, importance
from contray.tuning.launch import _fitting
from contray.tuning.outcome import Trial
from contray.tuning.picture import draw
from contray.tuning.search import Search, _optuna, _scheduler
from contray.tuning.shown import _study
from contray.tuning.trial import REPORTS
from contray.tuning.warm import CONDITIONS, GIVEN, Warm, identity, warm

METRIC, ONLINE = "linear_val_top1", "knn_val_top1"
SPACE = {
    "optim.lr": tune.loguniform(0.01, 1.0),
    "train.batch_size": tune.choice([64, 128, 256]),
    "augment.strength": tune.uniform(0, 2),
}


def trial(
    number: int, params: Mapping[str, Any], metrics: Mapping[str, float], status: str = "finished", folder: str = ""
) -> Trial:
    return Trial(f"{number:05d}", params, status, metrics, "", folder, 8)


def drawn(count: int, planted: float, folder: Path | None = None) -> list[Trial]:
    """Trials whose accuracy hangs on log lr by so many standard deviations of noise; with a folder, all but the upper half were stopped at 40 %."""
    rng, made = np.random.default_rng(3), []
    for number in range(count):
        params = {
            "optim.lr": 0.01 * 100 ** rng.random(),
            "train.batch_size": int(rng.choice([64, 128, 256])),
            "augment.strength": 2 * rng.random(),
        }
        value = 0.5 + 0.02 * (planted * math.log10(params["optim.lr"]) + rng.normal())
        made.append(trial(number, params, {METRIC: value, ONLINE: value, "seconds": params["train.batch_size"] / 10}))
    if folder is None:
        return made
    middle, stopped = sorted(each.metrics[METRIC] for each in made)[count // 2], []
    for each in made:
        place = Storage(str(folder / each.name))
        place.create()
        low = each.metrics[METRIC] < middle
        reports = [{"progress": at, "step": at, ONLINE: each.metrics[ONLINE]} for at in ((20, 40) if low else (20, 40, 60, 80))]
        sealed.write(place, REPORTS, {"reports": reports})
        metrics = {ONLINE: each.metrics[ONLINE]} if low else each.metrics
        stopped.append(trial(int(each.name), each.params, metrics, "stopped" if low else "finished", place.address))
    return stopped


def test_the_key_that_mattered_is_told_from_chance() -> None:
    found = importance(drawn(20, planted=4), SPACE, METRIC, ONLINE)
    assert found is not None
    assert next(iter(found.shares)) == "optim.lr"
    assert found.shares["optim.lr"] > max(0.6, found.chance["optim.lr"])
    assert all(found.shares[key] < found.chance[key] for key in ("train.batch_size", "augment.strength"))
    assert sum(found.shares.values()) == pytest.approx(1)
    nothing = importance(drawn(20, planted=0), SPACE, METRIC, ONLINE)
    assert nothing is not None
    assert all(nothing.shares[key] <= nothing.chance[key] for key in SPACE), "noise mattered"
    assert importance(drawn(LEAST - 1, planted=4), SPACE, METRIC, ONLINE) is None


def test_stopped_trials_count_where_all_were_measured_alike(tmp_path: Path) -> None:
    """Of what a scheduler let live alone, the key that it judged by is the same everywhere."""
    found = importance(drawn(20, 4, tmp_path), SPACE, METRIC, ONLINE)
    assert found is not None
    assert (found.metric, found.trials, found.progress) == (ONLINE, 20, 40)
    assert next(iter(found.shares)) == "optim.lr"


def test_the_front_is_what_no_other_trial_beats_in_both() -> None:
    points = [(0.9, 50), (0.8, 20), (0.8, 30), (0.7, 20), (0.6, 10), (0.6, 10), (math.nan, 1)]
    trials = [
        trial(number, {}, {METRIC: value, "seconds": cost, "images_per_second": cost})
        for number, (value, cost) in enumerate(points)
    ]
    trials.append(trial(7, {}, {METRIC: 0.99, "seconds": 1.0, "images_per_second": 99.0}, "stopped"))
    assert front(trials, METRIC, "seconds") == ["00000", "00001", "00004", "00005"]
    assert front(trials, METRIC, "images_per_second") == ["00000"], "of images per second, more is better"


@pytest.mark.parametrize("space", [SPACE, {"optim.lr": SPACE["optim.lr"]}, {key: {"grid_search": [1, 2]} for key in "abcdef"}])
def test_pictures_of_any_space(space: dict[str, Any], tmp_path: Path) -> None:
    if "a" in space:
        trials = [trial(n, {key: 1 + n % 2 for key in space}, {METRIC: 0.1 * n, "seconds": 1.0}) for n in range(3)]
    else:
        trials = [
            trial(int(each.name), {key: each.params[key] for key in space}, each.metrics, each.status) for each in drawn(6, 1)
        ]
    trials += [trial(9, trials[0].params, {ONLINE: 0.3}, "stopped"), trial(10, trials[0].params, {}, "failed")]
    on_front = front(trials, METRIC, "seconds")
    made = draw(trials, space, METRIC, ONLINE, tmp_path, against="seconds", front=on_front)
    assert [path.name for path in made] == ["parameters.png", *(["parallel.png"] if len(space) > 1 else []), "pareto.png"]
    assert all(path.stat().st_size > 5_000 for path in made)
    (tmp_path / "none").mkdir()
    assert [path.name for path in draw([], space, METRIC, ONLINE, tmp_path / "none")] == ["parameters.png"]


@pytest.fixture
def config() -> RunConfig:
    return RunConfig.make("simclr", {"train.steps": 8}, preset="digits")


@pytest.fixture
def own(config: RunConfig) -> dict[str, str]:
    return identity(config, data.open_source(config), 0)


def earlier(uri: str, config: RunConfig, values: list[tuple[float, float]], own: Mapping[str, str]) -> str:
    """A finished sweep over optim.lr in MLflow; values: (lr, held-out k-NN top-1) of each trial. Its run's id."""
    tags = {"contray.kind": "sweep", "contray.name": "tune-earlier", **own}
    parent = track.begin(uri, "contray", "earlier", params={"optim.lr": "a range"}, tags=tags)
    for lr, value in values:
        params = config.replace({"optim.lr": lr}).flat()
        child = track.begin(uri, "contray", "trial", params=params, tags={"contray.kind": "trial"}, parent_id=parent.run_id)
        child.log_metrics({ONLINE: value, "seconds": 5.0}, step=8)
        child.finish("FINISHED")
    parent.log_params({"best.optim.lr": values[0][0]})
    parent.finish("FINISHED")
    return parent.run_id


def test_a_search_goes_on_from_a_finished_sweep(config: RunConfig, store: str, own: dict[str, str]) -> None:
    space = {key: SPACE[key] for key in ("optim.lr", "augment.strength")}
    values = [(0.3, 0.9), (0.1, 0.5), (0.03, 0.4), (0.02, 0.3), (7.0, 0.8)]  # 7.0: outside of this space
    run_id = earlier(store, config, values, own)
    known = warm("tune-earlier", store, config.replace({"seed": 3}), space, [ONLINE], own)
    assert known.run_id == run_id
    assert [(each.params["optim.lr"], each.values) for each in known.told] == [(lr, [value]) for lr, value in values[:-1]]
    assert known.told[0].params["augment.strength"] == config.augment.strength, (
        "a key that was not searched is known all the same"
    )
    assert known.words == "4 of the 5 finished trials of tune-earlier are known to the search"

    other = warm(run_id, store, config.replace({"train.steps": 99}), space, [ONLINE], own)
    assert not other.told, "numbers of another length of training"
    assert [each["optim.lr"] for each in other.tried] == [0.3, 0.1, 0.03]
    assert other.words.endswith("as train.steps differ")

    for run, within, metrics, said in (
        (run_id, {"backbone.width": tune.choice([16])}, [ONLINE], r"searched optim\.lr; this space searches backbone\.width"),
        (run_id, space, [ONLINE, "memory_gb"], "no finished trial in this space with knn_val_top1 and memory_gb"),
        (track.begin(store, "contray", "x", params={}, tags={"contray.kind": "run"}).run_id, space, [ONLINE], "is no sweep"),
    ):
        with pytest.raises(UserError, match=said):
            warm(run, store, config, within, metrics, own)


def test_numbers_of_other_data_code_or_machines_are_not_told(config: RunConfig, store: str, own: dict[str, str]) -> None:
    """The config's keys may be the same all the same: a folder has other images, a method's file other code."""
    space = {"optim.lr": SPACE["optim.lr"]}
    run_id = earlier(store, config, [(0.3, 0.9), (0.1, 0.5)], own)

    def known(metrics: list[str], **changed: str) -> Warm:
        return warm(run_id, store, config, space, metrics, {**own, **changed})

    given, both = json.loads(own[GIVEN]), [ONLINE, "seconds"]
    assert {"data", "the method's code"} <= given.keys()
    assert len(known(both).told) == 2
    for name in ("data", "the method's code"):
        other = known([ONLINE], **{GIVEN: json.dumps({**given, name: "other"})})
        assert (len(other.told), len(other.tried)) == (0, 2)
        assert other.words.endswith(f"as {name} differ")
    away = {CONDITIONS: own[CONDITIONS].replace("--concurrent 0", "--concurrent 4")}
    assert known([ONLINE], **away).told, "accuracy is the same anywhere"
    assert not known(both, **away).told
    track.TrackedRun(store, "", run_id).set_tags({GIVEN: "{}"})
    assert "data and code (unknown) differ" in known([ONLINE]).words


@pytest.mark.parametrize("against", ["", "seconds"])
def test_what_is_known_is_in_the_sampler_and_what_is_tried_comes_after_what_was_begun(against: str) -> None:
    """With 40 trials known to be good at a rate of 0.1, what is drawn lies near it; nothing of them is drawn again."""
    import optuna

    from contray.tuning.domains import distribution

    space = {"optim.lr": SPACE["optim.lr"]}
    lrs = [0.01 * 100 ** (n / 39) for n in range(40)]
    told = [
        optuna.trial.create_trial(
            params={"optim.lr": lr}, distributions={"optim.lr": distribution(space["optim.lr"])},
            values=[-abs(math.log10(lr) + 1), *([10.0] if against else [])],
        ) for lr in lrs
    ]  # fmt: skip
    search = Search(9, "none", 0.4, 0, 0, METRIC, {}, against)
    tried = [{"optim.lr": 0.5}, {"optim.lr": 0.25}]

    def suggested(known: Warm) -> list[float]:
        algorithm = _optuna(search, ONLINE, known, [{"optim.lr": 0.25}], seed=0)
        algorithm.set_search_properties(None if against else ONLINE, None if against else "max", space)
        return [algorithm.suggest(str(n))["optim.lr"] for n in range(9)]

    assert suggested(Warm(tried=tried))[:2] == [0.25, 0.5], "what was begun, then what is tried, once"
    cold, warmed = suggested(Warm())[1:], suggested(Warm(told=told))[1:]
    spread = [float(np.mean(np.abs(np.log10(each) + 1))) for each in (cold, warmed)]
    assert spread[1] < 0.5 * spread[0], spread


@dataclass(frozen=True)
class Running:
    """As much of a Tune trial as schedulers look at."""

    trial_id: str


def test_the_median_rule_stops_what_is_behind_and_pauses_nothing() -> None:
    """A paused trial would begin anew."""
    rule = _scheduler(Search(9, "median", 0.4, 0, 0, METRIC, {}), {})
    rule.set_search_properties(ONLINE, "max")
    waiting = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])
    values = {0: 0.9, 1: 0.8, 2: 0.7, 3: 0.85, 4: 0.6}
    trials = {number: Running(str(number)) for number in values}
    said = dict.fromkeys(values, "")
    for number, trial in trials.items():
        rule.on_trial_add(waiting, trial)
        for at in (20, 50, 80):
            word = rule.on_trial_result(waiting, trial, {"progress": at, ONLINE: values[number] * at / 100})
            if word != "CONTINUE":
                said[number] = f"{word} at {at}"
                break
        else:
            rule.on_trial_complete(waiting, trial, {"progress": 100, ONLINE: values[number]})
    assert said == {0: "", 1: "", 2: "", 3: "", 4: "STOP at 50"}


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{}", "SPACE must be a dictionary of keys"),
        ("['optim.lr']", "SPACE must be a dictionary of keys"),
        ("{'optim.lr': [0.1, 0.2]}", r"optim\.lr: got list \[0\.1, 0\.2\], must be tune\.choice"),
        ("{'optim.lr': 0.1}", r"optim\.lr: got float 0\.1, must be"),
        ("{'optim.lr': tune.sample_from(lambda spec: 0.1)}", r"optim\.lr: got Function"),
        ("{'optim.lr': tune.choice([])}", r"optim\.lr: got Categorical"),
        ("{'optim.lr': {'grid_search': []}}", r"optim\.lr: got dict"),
        ("{'optim.lr': tune.randn(0, 1)}", r"optim\.lr: got Float"),
    ],
)
def test_what_nothing_can_be_drawn_from_is_refused_by_its_key(space: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f'from ray import tune\nABOUT = "x"\nMETHOD = "simclr"\nSPACE = {space}\n')
    with pytest.raises(UserError, match=rf"space .*mine\.py: {said}"):
        load_space(str(file))


def test_a_listed_value_that_is_a_list_may_be_left_out() -> None:
    config = RunConfig.make("simclr", preset="digits")
    space, words = _fitting(config, {"optim.betas": tune.choice([[0.9, 0.95], [0.9, 2.0]])}, 1000)
    assert space["optim.betas"].categories == [[0.9, 0.95]]
    assert words == ["optim.betas: [0.9, 2.0] left out (" + words[0].partition("(")[2]]


def test_values_of_several_types_stand_in_one_table_over_seeds() -> None:
    trials = [
        Trial(str(place), {"data.workers": value, "seed": place % 2}, "finished", {"linear_val_top1": 0.5}, "", "", 1)
        for place, value in enumerate(("auto", "auto", 10, 10, 2, 2))
    ]
    table = _study(SimpleNamespace(trials=trials, metric="linear_val_top1"), ["data.workers"])  # pyright: ignore[reportArgumentType]
    assert [row[0] for row in table.rows] == ["auto", "2", "10"]
