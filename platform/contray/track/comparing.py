"""Runs beside each other: configurations over their seeds, what they differ in, and whether by more than chance. Facts and tables; nothing is drawn."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import mean, stdev
from typing import TYPE_CHECKING

from .. import track
from ..config import FREE
from ..config.registry import builtin, part_name
from ..config.renamed import FINALS, translated
from ..errors import UserError, nearest
from ..tables import Shown, Table
from .compared import tables_of
from .runs import all_runs, common_name, experiment_id, find_runs, known_as, trainings, without_parents
from .significance import Difference, against

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TEST = ("knn_top1", "linear_top1")
HELD_OUT = ("knn_val_top1", "linear_val_top1")  # all that a sweep's trials have: the test set is for the winner
UNLABELLED = ("rankme",)  # by which runs are held against each other where none has labels
# on demand
FURTHER = re.compile(
    r"(linear_paper|linear_last\d+(_avg)?|linear_layer\d+|attentive|(finetune|scratch|distill|crd|noisy_student)_\w+(?<!_val)|supervised)_top1"
    r"|([\w-]+\.)?((scratch|supervised)_)?(detection_(fpn|c4|mask)(_segm)?_ap|segmentation_(fcn|deeplab)_miou)"
)
TESTED = ("data.source", "data.size", "data.contrast", "data.test_share")  # params that decide what the test images are
OWN = ("seed", "scale.", "track.", "train.planned")  # params in which runs of one configuration may differ
NO_DIFFERENCE = FREE - {"train.on_nan"}  # nothing that a run computes depends on these
TOLD_BY = ("linear_top1", "knn_top1", "linear_val_top1", "knn_val_top1")  # what differences are judged on, most telling first


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for a single value, which has none) over `n` seeds."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def over(cls, values: Iterable[float]) -> Spread | None:
        """None when there is nothing to average."""
        known = list(values)
        return cls(mean(known), stdev(known) if len(known) > 1 else None, len(known)) if known else None


@dataclass(frozen=True)
class Row:
    """One configuration. `settings`, `differs`: params in which it differs from other rows of its method, preset and data, in words and by name.

    metrics: over the seeds that have a number; by_seed: of what rows are judged on, metric -> seed -> value; tests: its test images, told from
    those of other rows: numbers of different ones are not held against each other.
    """

    method: str
    preset: str
    dataset: str
    settings: str
    seeds: int
    steps: int
    metrics: Mapping[str, Spread]  # as logged, and knn_gain and linear_gain over the untrained encoder
    run_ids: tuple[str, ...]
    name: str = ""
    names: tuple[str, ...] = ()  # of the runs, as run_ids
    differs: Mapping[str, str] = field(default_factory=dict)
    by_seed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tests: str = ""


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Configurations, best first; how many runs were left out as they have not ended, or nothing was measured of them; MLflow's page of the runs.

    Rows of the same test images follow each other. further: metrics besides k-NN, the linear probe and their gains that are shown; against: each
    row beside the best of its test images. It prints as its tables.
    """

    rows: list[Row]
    left_out: int
    url: str
    further: tuple[str, ...] = ()
    against: list[Difference] = field(default_factory=list)

    @property
    def differing(self) -> list[str]:
        """The settings in which rows of one method, preset and data differ."""
        return list(dict.fromkeys(key for row in self.rows for key in row.differs))

    @cached_property
    def tables(self) -> list[Table]:
        """The rows, what they differ in, evaluations where there are several, and the differences over seeds."""
        return tables_of(self)

    def csv(self) -> str:
        """A line per configuration: name, settings, and of each metric mean, standard deviation and number of seeds, as MLflow has them."""
        metrics = sorted({name for row in self.rows for name in row.metrics})
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        heads = [f"{name}{part}" for name in metrics for part in ("", "_std", "_n")]
        writer.writerow(["name", "method", "preset", "dataset", *self.differing, "seeds", "steps", *heads, "run_ids"])
        for row in self.rows:
            spreads = [row.metrics.get(name) for name in metrics]
            cells = [
                cell for each in spreads for cell in ((each.mean, each.std, each.n) if each else ("", "", ""))
            ]  # None is empty
            settings = [row.differs.get(key, "") for key in self.differing]
            first = [*map(_no_formula, [row.name, row.method, row.preset, row.dataset, *settings]), row.seeds, row.steps]
            writer.writerow([*first, *cells, " ".join(row.run_ids)])
        return text.getvalue()

    @property
    def shown(self) -> list[Table]:
        """As it prints."""
        return self.tables


def _no_formula(text: str) -> str:
    """What a spreadsheet takes for text: names come from whoever writes into the store, and =, +, - or @ would begin a formula."""
    return f"'{text}" if re.match(r"[=+\-@\t\r]", text) and not re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", text) else text


def compare(uri: str, runs: Sequence[str], experiment: str, metrics: Sequence[str] = ()) -> Comparison:
    """Runs by their ids or names; without any, all of `experiment`.

    metrics: columns besides those of the evaluations that runs made at their end and of the built-in ones.
    Raises UserError for an unknown run, experiment or metric, and when no run was evaluated yet.
    """
    track.check(uri, exists=True)
    with track.asking(uri, "reading runs") as talk:
        asked = find_runs(talk, uri, runs) or trainings(all_runs(talk, experiment_id(talk, uri, experiment)))
        found = without_parents(talk, asked)
        known = {name for run in found for name in run.data.metrics}
        for name in metrics:
            if name not in known:
                raise UserError(f"--metric: no run has {name!r}; {nearest(name, known)}")
        further = sorted({*_own(found), *metrics, *filter(FURTHER.fullmatch, known)} - {*TEST, *HELD_OUT})
        if not _scores(known, further):  # no labels
            further = [name for name in UNLABELLED if name in known]
        named = {run.info.run_id for run in asked} if runs else set()  # whoever names a run means it, finished or not
        evaluated = [
            run
            for run in found
            if _scores(run.data.metrics, further) and (run.info.status == "FINISHED" or run.info.run_id in named)
        ]
        if not evaluated:
            where = "these runs" if runs else f"experiment {experiment!r}"
            raise UserError(f"nothing to compare: none of the {len(found)} runs of {where} has finished and been evaluated yet")
        rows = _rows(talk, evaluated, further)
    experiments = sorted({run.info.experiment_id for run in evaluated})
    link = track.compared_url(uri, experiments, [run.info.run_id for run in evaluated])
    shown = [name for name in further if any(name in row.metrics for row in rows)]
    return Comparison(rows, len(found) - len(evaluated), link, tuple(shown), _judged(rows, shown))


def _judged(rows: Sequence[Row], further: Sequence[str]) -> list[Difference]:
    """The rows beside the best of their test images, on what they are ordered by."""
    found: list[Difference] = []
    for tests in dict.fromkeys(row.tests for row in rows):
        mine = [row for row in rows if row.tests == tests]
        metric = _decisive(mine, further)
        images = [row.metrics["test_images"].mean for row in mine if "test_images" in row.metrics]
        finest = 1 / min(images) if len(images) == len(mine) and metric.endswith("_top1") and "_val_" not in metric else 0.0
        found += against([row.by_seed.get(metric, {}) if row.tests == tests else {} for row in rows], metric, finest)
    return found


def _decisive(rows: Sequence[Row], further: Sequence[str]) -> str:
    """What most rows were measured by, of equals the most telling."""
    names = (*TOLD_BY, *further)
    return max(names, key=lambda name: sum(name in row.by_seed for row in rows))


def _scores(metrics: Iterable[str], further: Sequence[str]) -> list[str]:
    """Those of the metrics that say what a run is worth, most telling first."""
    known = list(metrics)
    return [name for name in (*TEST, *HELD_OUT, *further) if name in known]


def _own(runs: Iterable[Run]) -> set[str]:
    """Metrics of one's own evaluations that these runs made at their end (eval.final): those that begin with its name; held-out ones only by themselves."""
    found: set[str] = set()
    for run in runs:
        names = set(re.findall(r"[^\s'\",()\[\]]+", run.data.params.get("eval.final", ""))) - {
            *builtin("evaluation"),
            *FINALS,
            "True",
            "False",
        }
        stems = tuple(part_name(name) for name in names)
        mine = {name for name in run.data.metrics if stems and name.startswith(stems)}
        found |= {name for name in mine if "_val" not in name or name.replace("_val", "") not in mine}
    return found


# ---------------------------------------------------------------- rows


def _rows(talk: MlflowClient, runs: Iterable[Run], further: Sequence[str]) -> list[Row]:
    """Those of the test images that most have come first; of the same ones best first by what most of them have, those that lack it last: a test
    set's number is not held against another's, nor against a held-out one.
    """
    known: dict[str, str] = {}
    rows = [replace(_row(talk, group, differs, further), tests=_tests(group[0], known)) for group, differs in grouped(runs)]
    sizes = Counter(row.tests for row in rows)
    decisive = {tests: _decisive([row for row in rows if row.tests == tests], further) for tests in sizes}

    def rank(row: Row) -> tuple[int, str, bool, float]:
        names = [decisive[row.tests]] if decisive[row.tests] in row.metrics else _ranking(row.metrics, further)
        best = max((row.metrics[name].mean for name in names if name in row.metrics), default=-math.inf)
        return -sizes[row.tests], row.tests, names != [decisive[row.tests]], -best

    return sorted(rows, key=rank)


def grouped(runs: Iterable[Run]) -> list[tuple[list[Run], dict[str, str]]]:
    """The runs of each configuration (its seeds), and the settings in which it differs from others of its method, preset and data."""
    groups: dict[object, list[Run]] = defaultdict(list)
    for run in runs:
        settings = _configuration(run)
        groups[run.data.tags.get("contray.group") or frozenset(settings.items()), settings["train.extend"]].append(run)
    families: dict[tuple[str, str, str], list[Mapping[str, str]]] = defaultdict(list)
    for group in groups.values():
        families[family_of(group[0])].append(_configuration(group[0]))
    return [(group, _differing(_configuration(group[0]), families[family_of(group[0])])) for group in groups.values()]


def _differing(own: Mapping[str, str], family: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {key: own[key] for key in own if len({other[key] for other in family if key in other}) > 1}


def settings_of(differs: Mapping[str, str]) -> str:
    """Settings in one line."""
    return ", ".join(f"{key}={value}" for key, value in differs.items())


def _ranking(metrics: Mapping[str, Spread], further: Sequence[str]) -> list[str]:
    """What rows are ordered by: k-NN and linear probe; the other evaluations only where neither was made."""
    scores = _scores(metrics, further)
    return [name for name in scores if name in TEST + HELD_OUT] or scores


def _row(talk: MlflowClient, runs: Sequence[Run], differs: Mapping[str, str], further: Sequence[str]) -> Row:
    names = sorted({name for run in runs for name in run.data.metrics})
    seeds = {name: _by_seed(runs, name) for name in names}
    metrics = {name: Spread.over(seeds[name].values()) for name in names}
    for kind, name in zip(("knn_gain", "linear_gain"), TEST, strict=True):
        trained, untrained = seeds.get(name, {}), seeds.get(f"random_{name}", {})
        metrics[kind] = Spread.over(trained[seed] - untrained[seed] for seed in trained if seed in untrained)
    called = tuple(known_as(run) for run in runs)
    return Row(
        *family_of(runs[0]),
        settings=settings_of(differs),
        seeds=len({run.data.params.get("seed") for run in runs}),
        steps=max(_last_step(talk, run) for run in runs),
        metrics={name: spread for name, spread in metrics.items() if spread},
        run_ids=tuple(run.info.run_id for run in runs),
        name=common_name(called),
        names=called,
        differs=dict(differs),
        by_seed={name: seeds[name] for name in (*TEST, *HELD_OUT, *further) if seeds.get(name)},
    )


def _tests(run: Run, known: dict[str, str]) -> str:
    """What tells a run's test images: where they come from and how they are made; data that MLflow knows by a digest are one wherever they lie."""
    where = ", ".join(_configuration(run).get(key, "") for key in TESTED)
    for each in run.inputs.dataset_inputs if run.inputs else []:
        if any(tag.key == "mlflow.data.context" and tag.value == "test" for tag in each.tags):
            return known.setdefault(each.dataset.digest, where)
    return where


def _by_seed(runs: Sequence[Run], name: str) -> dict[str, float]:
    """The metric of each seed that has a number; the mean of runs that repeat one, which would pass for agreement between seeds."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if math.isfinite(run.data.metrics.get(name, math.nan)):
            found[run.data.params.get("seed", "")].append(run.data.metrics[name])
    return {seed: mean(values) for seed, values in found.items()}


def _configuration(run: Run) -> dict[str, str]:
    """Params by their names of today: runs of earlier versions stand beside new ones."""
    params = {
        key: str(value)
        for key, value in translated(run.data.params).items()
        if not key.startswith(OWN) and key not in NO_DIFFERENCE
    }
    if run.data.tags.get("contray.extended"):  # its params are those of its first length
        params = {key: value for key, value in params.items() if key not in ("train.steps", "train.epochs")}
    return params | {"train.extend": run.data.tags.get(track.INEXACT, "no")}


def family_of(run: Run) -> tuple[str, str, str]:
    """Method, preset and data source."""
    method, preset, dataset = (run.data.params.get(key, "") for key in ("method.name", "method.preset", "data.source"))
    return method, preset, dataset


def _last_step(talk: MlflowClient, run: Run) -> int:
    """Further evaluations are logged at step 0, as `contray eval` logs all of its own: training's last loss tells the steps then."""
    names = [name for name in (*TEST, *HELD_OUT, "loss") if name in run.data.metrics]
    return max((point.step for point in talk.get_metric_history(run.info.run_id, names[0])), default=0) if names else 0
