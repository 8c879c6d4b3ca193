"""`contray compare`: runs grouped over seeds, as a table, a plot and a link to MLflow's comparison."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from .. import track
from ..config.registry import builtin, part_name
from ..config.renamed import FINALS, translated
from ..drawing import drawable
from ..errors import UserError, nearest
from ..storage.logins import bare

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TEST = ("knn_top1", "linear_top1")
HELD_OUT = ("knn_val_top1", "linear_val_top1")  # all that a sweep's trials have: the test set is for the winner
FURTHER = re.compile(
    r"(linear_paper|linear_last\d+(_avg)?|attentive|(finetune|scratch|distill|crd|noisy_student)_\w+(?<!_val)|supervised)_top1"
    r"|([\w-]+\.)?((scratch|supervised)_)?(detection_(fpn|c4|mask)(_segm)?_ap|segmentation_(fcn|deeplab)_miou)"
)  # on demand
PARENTS = ("seeds", "sweep")  # tag contray.kind of runs that stand for their children
OWN = ("seed", "scale.", "track.")  # params in which runs of one configuration may differ


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (0 for a single value) over `n` seeds."""

    mean: float
    std: float
    n: int

    @classmethod
    def over(cls, values: Iterable[float]) -> Spread | None:
        """None when there is nothing to average."""
        known = list(values)
        return cls(mean(known), stdev(known) if len(known) > 1 else 0.0, len(known)) if known else None


@dataclass(frozen=True)
class Row:
    """One configuration. `settings`: params in which it differs from other rows of its method, preset and data."""

    method: str
    preset: str
    dataset: str
    settings: str
    seeds: int
    steps: int
    metrics: Mapping[str, Spread]  # as logged, and knn_gain and linear_gain over the untrained encoder
    run_ids: tuple[str, ...]

    @property
    def name(self) -> str:
        """The row in one line."""
        return f"{self.method} {self.preset}{': ' + self.settings if self.settings else ''}"


@dataclass(frozen=True)
class Comparison:
    """Configurations, best first; how many runs were left out as nothing was measured of them; the plot, and MLflow's page of the runs."""

    rows: list[Row]
    left_out: int
    plot: Path
    url: str


def compare(uri: str, run_ids: Sequence[str], experiment: str, out: Path, metrics: Sequence[str] = ()) -> Comparison:
    """Print the table and the link, draw the plot into `out` (PNG); without `run_ids`, of all runs of `experiment`.

    metrics: columns besides those of the evaluations that runs made at their end and of the built-in ones.
    Raises UserError for an unknown run, experiment or metric, and when no run was evaluated yet.
    """
    track.check(uri, exists=True)
    with track.asking(uri, "reading runs") as talk:
        asked = find_runs(talk, uri, run_ids) or _all_runs(talk, _experiment_id(talk, uri, experiment))
        runs = without_parents(talk, asked)
        known = {name for run in runs for name in run.data.metrics}
        for name in metrics:
            if name not in known:
                raise UserError(f"--metric: no run has {name!r}; {nearest(name, known)}")
        further = sorted({*_own(runs), *metrics, *filter(FURTHER.fullmatch, known)} - {*TEST, *HELD_OUT})
        evaluated = [run for run in runs if _scores(run.data.metrics, further)]
        if not evaluated:
            where = "these runs" if run_ids else f"experiment {experiment!r}"
            raise UserError(f"nothing to compare: none of the {len(runs)} runs of {where} has been evaluated yet")
        rows = _rows(talk, evaluated, further)
    _draw(rows, out)
    experiments = sorted({run.info.experiment_id for run in evaluated})
    link = track.compare_url(uri, experiments, [run.info.run_id for run in evaluated])
    _show(rows, further, len(runs) - len(evaluated), out, link)
    return Comparison(rows, len(runs) - len(evaluated), out, link)


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


# ---------------------------------------------------------------- which runs


def find_runs(talk: MlflowClient, uri: str, run_ids: Iterable[str]) -> list[Run]:
    """The runs of these ids. Raises UserError for an id that the store does not have."""
    from mlflow.exceptions import MlflowException

    found: list[Run] = []
    for run_id in run_ids:
        try:
            found.append(talk.get_run(run_id))
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            where = bare(uri)
            raise UserError(
                f"there is no run {run_id!r} in {where}; contray compare without --run has all of --track.experiment"
            ) from None
    return found


def _experiment_id(talk: MlflowClient, uri: str, name: str) -> str:
    found = talk.get_experiment_by_name(name)
    if found is None:
        known = [known.name for known in talk.search_experiments()]
        raise UserError(f"there is no experiment {name!r} in {bare(uri)}; {nearest(name, known)}")
    return found.experiment_id


def _all_runs(talk: MlflowClient, experiment_id: str, where: str = "") -> list[Run]:
    runs, token = [], None
    while token is None or token:
        page = talk.search_runs([experiment_id], where, order_by=["attributes.start_time ASC"], page_token=token)
        runs, token = runs + list(page), page.token or ""
    return runs


def without_parents(talk: MlflowClient, runs: Iterable[Run]) -> list[Run]:
    """Each run once, its children in the place of a parent."""
    kept: dict[str, Run] = {}
    for run in runs:
        if run.data.tags.get("contray.kind") in PARENTS:
            of_parent = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
            kept.update(
                (child.info.run_id, child) for child in without_parents(talk, _all_runs(talk, run.info.experiment_id, of_parent))
            )
        else:
            kept[run.info.run_id] = run
    return list(kept.values())


# ---------------------------------------------------------------- rows


def _rows(talk: MlflowClient, runs: Iterable[Run], further: Sequence[str]) -> list[Row]:
    rows = [_row(talk, group, settings) for group, settings in grouped(runs)]
    return sorted(rows, key=lambda row: -max(row.metrics[name].mean for name in _ranking(row.metrics, further)))


def grouped(runs: Iterable[Run]) -> list[tuple[list[Run], str]]:
    """The runs of each configuration (its seeds), and the settings in which it differs from others of its method, preset and data."""
    groups: dict[object, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.data.tags.get("contray.group") or frozenset(_configuration(run).items())].append(run)
    families: dict[tuple[str, str, str], list[Mapping[str, str]]] = defaultdict(list)
    for group in groups.values():
        families[family_of(group[0])].append(_configuration(group[0]))
    return [(group, _differing(_configuration(group[0]), families[family_of(group[0])])) for group in groups.values()]


def _differing(own: Mapping[str, str], family: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(f"{key}={own[key]}" for key in own if len({other[key] for other in family if key in other}) > 1)


def _ranking(metrics: Mapping[str, Spread], further: Sequence[str]) -> list[str]:
    """What rows are ordered by: k-NN and linear probe; the other evaluations only where neither was made."""
    scores = _scores(metrics, further)
    return [name for name in scores if name in TEST + HELD_OUT] or scores


def _row(talk: MlflowClient, runs: Sequence[Run], settings: str) -> Row:
    names = sorted({name for run in runs for name in run.data.metrics})
    metrics = {name: Spread.over(_by_seed(runs, name)) for name in names}
    for kind, name in zip(("knn_gain", "linear_gain"), TEST, strict=True):
        both = [run.data.metrics for run in runs if name in run.data.metrics and f"random_{name}" in run.data.metrics]
        metrics[kind] = Spread.over(values[name] - values[f"random_{name}"] for values in both)
    return Row(
        *family_of(runs[0]),
        settings=settings,
        seeds=len({run.data.params.get("seed") for run in runs}),
        steps=max(_last_step(talk, run) for run in runs),
        metrics={name: spread for name, spread in metrics.items() if spread},
        run_ids=tuple(run.info.run_id for run in runs),
    )


def _by_seed(runs: Sequence[Run], name: str) -> list[float]:
    """The metric of each seed; the mean of runs that repeat one, which would pass for agreement between seeds."""
    found: dict[str | None, list[float]] = defaultdict(list)
    for run in runs:
        if name in run.data.metrics:
            found[run.data.params.get("seed")].append(run.data.metrics[name])
    return [mean(values) for values in found.values()]


def _configuration(run: Run) -> dict[str, str]:
    """Params by their names of today: runs of earlier versions stand beside new ones."""
    params = translated(run.data.params)
    return {key: str(value) for key, value in params.items() if not key.startswith(OWN)}


def family_of(run: Run) -> tuple[str, str, str]:
    """Method, preset and data source."""
    method, preset, dataset = (run.data.params.get(key, "") for key in ("method.name", "method.preset", "data.source"))
    return method, preset, dataset


def _last_step(talk: MlflowClient, run: Run) -> int:
    """Further evaluations are logged at step 0, as `contray eval` logs all of its own: training's last loss tells the steps then."""
    names = [name for name in (*TEST, *HELD_OUT, "loss") if name in run.data.metrics]
    return max((point.step for point in talk.get_metric_history(run.info.run_id, names[0])), default=0) if names else 0


# ---------------------------------------------------------------- table and plot


def _show(rows: Sequence[Row], further: Sequence[str], left_out: int, out: Path, link: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    has = {name for row in rows for name in row.metrics}
    shown = ["knn_top1", "knn_gain", "linear_top1", "linear_gain", "pixels_linear_top1"]
    shown += [name for name in further if name not in shown]
    if any(not row.metrics.keys() & set(TEST) for row in rows):  # next to test results, held-out ones would only confuse
        shown += HELD_OUT
    columns = {name: [_cell(row, name) for row in rows] for name in shown if name in has}

    title = "mean±standard deviation over seeds; gain: over the untrained encoder"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method preset, dataset\nsettings", overflow="fold")  # the numbers are never folded: this makes room
    headings = [name.removesuffix("_linear_top1").replace("_top1", "\ntop1").replace("_gain", "\ngain") for name in columns]
    headings = [
        re.sub("^(linear|finetune|scratch|distill|crd|noisy_student|supervised)_", "\\1\n", heading) for heading in headings
    ]
    headings = [re.sub("(detection|segmentation)_", "\\1\n", heading) for heading in headings]
    for name in ("seeds", "steps", *headings):
        table.add_column(name, justify="right", no_wrap=True)
    for row, *cells in zip(rows, *columns.values(), strict=True):
        name = f"{row.method} {row.preset}, {row.dataset}\n{row.settings}".rstrip()
        table.add_row(name, str(row.seeds), str(row.steps), *cells)
    console = Console(markup=False, emoji=False)
    whole = 24 + sum(
        3 + max(map(len, [*heading.split("\n"), *cells])) for heading, cells in zip(headings, columns.values(), strict=True)
    )
    # rich would cut numbers to fit, and the names to nothing: a narrow window folds the lines, and a file (taken for 80 wide) has room
    console.width = max(console.width if console.is_terminal else 140, whole + len("seeds steps") + 6)
    console.print(table)
    if left_out:
        console.print(
            f"{left_out} run{'s have' if left_out > 1 else ' has'} not been evaluated and {'are' if left_out > 1 else 'is'} left out"
        )
    console.print(f"plot: {out}\nMLflow: {link}", soft_wrap=True, highlight=False)


def _cell(row: Row, name: str) -> str:
    spread = row.metrics.get(name)
    if spread is None:
        return "-"
    if name.endswith("_gain"):
        return f"{spread.mean:+.3f}"
    return (
        f"{spread.mean:.3f}±{spread.std:.3f}"
        if spread.n > 1 and not name.startswith(("random_", "pixels_"))
        else f"{spread.mean:.3f}"
    )


def _draw(rows: Sequence[Row], out: Path) -> None:
    """A line per row: dots with a standard deviation over seeds, and what pixels and the untrained encoder reach."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(8, 1.5 + 0.5 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    styles = {"knn_top1": ("o", "C0"), "linear_top1": ("s", "C1"), "knn_val_top1": (".", "C0"), "linear_val_top1": (".", "C1")}
    styles |= {"random_linear_top1": ("|", "0.5"), "pixels_linear_top1": ("x", "0.5")}
    for name, (marker, colour) in styles.items():
        points = [(row.metrics[name], place) for place, row in enumerate(rows) if name in row.metrics]
        if points:
            spreads, places = zip(*points, strict=True)
            axes.errorbar(
                [s.mean for s in spreads], places, xerr=[s.std for s in spreads], fmt=marker, color=colour, capsize=3, label=name
            )
    axes.set_yticks(range(len(rows)), [drawable(row.name, 80) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("top-1 accuracy")
    axes.grid(axis="x", alpha=0.3)
    if axes.has_data():  # not where runs have detection alone
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
