"""contray train"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import documents
from .options import Positional, arg, at_least, config_from, json_note
from .output import answer

if TYPE_CHECKING:
    from ..config import RunConfig

EXAMPLES = (
    ("contray train", "SimCLR on the built-in digits, about three minutes on two cores"),
    (
        "contray train moco --data.source photos/ --train.epochs 100",
        "MoCo on your images: photos/train/CLASS/*.jpg, or without classes",
    ),
    ("contray train dino --preset digits --dry-run", "what a run would be and cost; starts nothing"),
)
FEW = (
    "method.*", "backbone.name", "data.source", "data.label_column", "augment.strength", "optim.lr", "train.epochs", "train.batch_size",
    "scale.workers", "eval.every_epochs", "eval.final", "track.uri", "track.experiment", "track.name", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Pretrain METHOD and measure what it learnt. An unfinished run of the same config goes on exactly where it stopped."""

    method: Annotated[
        Positional[str], arg("method: a name from `contray methods`, or the path of your own .py file; empty: simclr")
    ] = ""
    preset: Annotated[str, arg("named settings of the method (contray methods); default: the data source's own, else paper")] = ""
    config: Annotated[Path | None, arg("YAML of dotted or nested keys, such as the config.yaml that every run keeps")] = None
    dry_run: Annotated[bool, arg("print the resolved run with its estimates and start nothing")] = False
    seeds: Annotated[
        int, arg("run this many seeds as children of one MLflow run; the same command goes on with those that are left")
    ] = 1
    quiet: Annotated[bool, arg("no progress bar and no table")] = False
    json: Annotated[bool, json_note(f"{documents.RUN}; {documents.SEEDS}; {documents.DRY}")] = False


def keys(options: Options) -> RunConfig:
    """The config whose keys the command takes."""
    return config_from(options.method, options.preset, options.config, {})


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Train, one run or one for each seed; 1 where it is trained but not measured, 130 where it was interrupted."""
    config = config_from(options.method, options.preset, options.config, dotted)
    at_least("--seeds", options.seeds, 1)
    with answer(options.json) as tell:
        if options.dry_run:
            from .dryrun import describe

            resolved, facts = describe(config)
            tell({"config": resolved.flat(), "facts": facts})
            return 0
        return _seeds(config, options, tell) if options.seeds > 1 else _one(config, options, tell)


def _one(config: RunConfig, options: Options, tell: Callable[[Any], None]) -> int:
    from ..training.launch import launch
    from .results import show_result, show_unmeasured, show_unsent

    result = launch(config, quiet=options.quiet)
    if not options.quiet:
        show_result(config, result)
    show_unsent(config, [result])
    tell(documents.of_run(result))
    return (1 if show_unmeasured([result]) else 0) if result.finished else 130


def _seeds(config: RunConfig, options: Options, tell: Callable[[Any], None]) -> int:
    from ..training.seeds import launch_seeds
    from .results import show_seeds, show_unmeasured, show_unsent

    results = launch_seeds(config, options.seeds, quiet=options.quiet)
    finished = all(result.finished for result in results)
    if finished:
        show_seeds(config, results)
    else:
        print(f"{len(results) - 1} of {options.seeds} seeds are finished; the same command goes on with the others", flush=True)
    show_unsent(config, results)
    tell(documents.of_seeds(results, config.seed))
    return (1 if show_unmeasured(results) else 0) if finished else 130
