"""contray train"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import UserError
from . import declared, documents
from .options import Positional, arg, at_least, config_from, json_note
from .output import answer, aside

if TYPE_CHECKING:
    from ..config import RunConfig

EXAMPLES = (
    ("contray train", "SimCLR on the built-in digits, about two minutes on two cores"),
    (
        "contray train moco --data.source photos/ --budget 30m",
        "MoCo on your images (CLASS/*.jpg, or without classes), fitted to them and to this machine",
    ),
    ("contray train dino --preset digits --dry-run", "what a run would be and cost; starts nothing"),
)
FEW = (
    "data.source", "train.epochs", "train.batch_size", "optim.lr", "scale.workers", "method.*", "augment.strength", "backbone.name", "data.label_column",
    "eval.every_epochs", "eval.final", "track.experiment", "seed", "track.uri", "track.name",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Pretrain METHOD and measure what it learnt. An unfinished run of the same config goes on exactly where it stopped."""

    method: Annotated[
        Positional[str], arg("method: a name from `contray methods`, or the path of your own .py file; empty: simclr")
    ] = ""
    preset: Annotated[
        str,
        arg(
            "named settings of the method (contray methods); default: for your own data auto, which is fitted to data, machine and --budget"
        ),
    ] = ""
    config: Annotated[Path | None, arg("YAML of dotted or nested keys, such as the config.yaml that every run keeps")] = None
    dry_run: Annotated[bool, arg("print what the run would be and take, and start nothing")] = False
    budget: Annotated[
        str, arg("how long a run of preset auto may take from its start to its verdict: 90s, 30m, 2h, or minutes; default: 30m")
    ] = ""
    init: Annotated[
        str,
        arg(
            "begin with these weights: a public file (DINOv2's, timm's, torchvision's, ...), a run, an export's folder, timm/NAME, torchvision/NAME"
        ),
    ] = ""
    init_layout: Annotated[str, arg("whose code wrote the file of --init; default: as its names tell")] = ""
    yes: Annotated[bool, arg("start it although it takes more than a day on this CPU")] = False
    show_config: Annotated[bool, arg("with --dry-run: print every key as YAML for --config, and what is told to stderr")] = False
    seeds: Annotated[
        int, arg("run this many seeds as children of one MLflow run; the same command goes on with those that are left")
    ] = 1
    report: Annotated[
        bool, arg("write report.html, a page that can be shown, into the run's folder at the end (contray report)")
    ] = False
    quiet: Annotated[bool, arg("no progress bar and no table")] = False
    json: Annotated[bool, json_note(f"{documents.RUN}; {documents.SEEDS}; {documents.DRY}")] = False


def keys(options: Options) -> RunConfig:
    """The config whose keys the command takes."""
    return config_from(options.method, options.preset, options.config, {})


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Train, one run or one for each seed; 1 where it is trained but not measured, 130 where it was interrupted."""
    if not options.method:
        for key, words in dotted.items():
            if len(words) > 1 and words[-1] in declared.methods():
                raise UserError(
                    f"{words[-1]}: what stands behind --{key} is its value; the method comes first: contray train {words[-1]} ..."
                )
    if options.budget:
        from ..api.train import minutes

        dotted = {**dotted, "train.budget": [f"{minutes(options.budget, '--budget'):g}"]}
    dotted |= {key: [word] for key, word in (("train.init", options.init), ("train.init_layout", options.init_layout)) if word}
    config = config_from(options.method, options.preset, options.config, dotted)
    at_least("--seeds", options.seeds, 1)
    if options.show_config and not options.dry_run:
        raise UserError("--show-config: goes with --dry-run; a run keeps its config.yaml")
    with answer(options.json) as tell:
        if options.dry_run:
            from .dryrun import describe

            with aside() if options.show_config else nullcontext():
                resolved, facts = describe(config, options.seeds)
            if options.show_config:
                print(resolved.to_yaml(), end="")
            tell({"config": resolved.flat(), "facts": facts})
            return 0
        return _seeds(config, options, tell) if options.seeds > 1 else _one(config, options, tell)


def _one(config: RunConfig, options: Options, tell: Callable[[Any], None]) -> int:
    from ..training.launch import launch
    from .results import show_result, show_unmeasured, show_unsent

    result = launch(config, quiet=options.quiet, yes=options.yes)
    if not options.quiet:
        show_result(config, result)
    show_unsent(config, [result])
    if options.report and result.finished:
        _report(result.checkpoint, config, options)
    tell(documents.of_run(result))
    return (1 if show_unmeasured([result]) else 0) if result.finished else 130


def _seeds(config: RunConfig, options: Options, tell: Callable[[Any], None]) -> int:
    from ..training.result import Results
    from ..training.seeds import launch_seeds
    from .results import show_seeds, show_unmeasured, show_unsent

    results = Results(launch_seeds(config, options.seeds, quiet=options.quiet, yes=options.yes))
    if results.finished:
        show_seeds(results)
    else:
        print(f"{len(results) - 1} of {options.seeds} seeds are finished; the same command goes on with the others", flush=True)
    show_unsent(config, results)
    if options.report and results.finished:
        _report(results[0].checkpoint.rpartition("-s")[0], config, options)
    tell(documents.of_seeds(results, config.seed))
    return (1 if show_unmeasured(results) else 0) if results.finished else 130


def _report(folder: str, config: RunConfig, options: Options) -> None:
    """The page of the run or group in `folder`, and where it is. What keeps it from being written is said: the training is done."""
    from ..config.registry import code_of
    from ..reporting import NAME, report

    try:
        page = report(
            folder,
            uri=config.track.uri,
            out=Path(NAME) if "://" in folder else Path(folder) / NAME,
            code=code_of(config),
            quiet=options.quiet,
        )
        print(f"report      {page}", flush=True)
    except (UserError, OSError) as error:
        print(f"contray: the report was not written ({error})", file=sys.stderr, flush=True)
