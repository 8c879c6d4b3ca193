"""contray tune"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from . import documents
from .options import Positional, arg, config_from, json_note
from .output import answer

if TYPE_CHECKING:
    from ..config import RunConfig

EXAMPLES = (
    ("contray tune moco --samples 8", "temperature, queue, momentum and augmentation strength"),
    ("contray tune simclr_cost --against seconds", "accuracy against training time: what no other trial beats in both"),
    ("contray tune moco --metric rankme --minutes 60", "an hour, ranked without any label"),
)
FEW = (
    "data.source",
    "data.label_column",
    "train.epochs",
    "train.batch_size",
    "scale.workers",
    "scale.storage",
    "track.uri",
    "track.experiment",
    "track.name",
)


@dataclass(frozen=True)
class Options:
    """Search SPACE: trials are children of one MLflow run; ranked on held-out training data, the test set opened once, for the winner."""

    space: Annotated[Positional[str], arg("a name from `contray spaces`, or the path of your own .py file")]
    samples: Annotated[int, arg("trials to draw; a grid is repeated this often; 0: the space's own number")] = 0
    preset: Annotated[str, arg("named settings of the method; default: of a named set its own, of your own data auto")] = ""
    config: Annotated[Path | None, arg("YAML of the settings that all trials share")] = None
    metric: Annotated[
        str,
        arg(
            "what trials are ranked on: a held-out metric of an evaluation of eval.final, such as knn_val_top1, or rankme, which needs no labels"
        ),
    ] = "linear_val_top1"
    against: Annotated[
        str,
        arg(
            "a cost to search for too; the table and pareto.png have what no trial beats in both",
            choices=("seconds", "memory_gb", "images_per_second"),
        ),
    ] = ""
    warm: Annotated[
        str,
        arg(
            "a finished sweep to learn from, by id or name; where other settings differ too, its best trials are only tried first"
        ),
    ] = ""
    scheduler: Annotated[
        str,
        arg(
            "which trials go on. asha, median: those that are behind stop; pbt: they take over the state of better ones, with other values; none: all; "
            "asha keeps the best third at --grace of a run, median what is above the median of running means; empty: the space's own, else asha",
            choices=("asha", "median", "pbt", "none"),
        ),
    ] = ""
    grace: Annotated[float, arg("asha, median: share of a run that every trial gets [fraction]")] = 0.4
    concurrent: Annotated[int, arg("trials at once; 0: as many as there are CPUs (or GPUs)")] = 0
    minutes: Annotated[float, arg("time budget [minutes]; 0: none")] = 0.0
    resume: Annotated[bool, arg("go on with the newest sweep of this space and these settings")] = False
    json: Annotated[bool, json_note(documents.SWEEP)] = False


def keys(options: Options) -> RunConfig:
    """The config whose keys all trials share."""
    from ..config.spaces import load_space

    return config_from(load_space(options.space or "simclr").METHOD, options.preset, options.config, {})


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Search; 1 where no trial finished."""
    from ..tuning import sweep
    from .results import show_sweep

    with answer(options.json) as tell:
        result = sweep(
            options.space, dotted, samples=options.samples, preset=options.preset, config_file=options.config, metric=options.metric,
            against=options.against, warm=options.warm,
            scheduler=options.scheduler, grace=options.grace, concurrent=options.concurrent, minutes=options.minutes, resume=options.resume,
        )  # fmt: skip
        show_sweep(result)
        tell(documents.of_sweep(result))
    return 0 if result.best else 1
