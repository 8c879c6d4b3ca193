"""The command line. Dotted options (`--train.epochs 10`) set config keys; every error that a user can mend is one line and exit code 2."""

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..errors import UserError, nearest
from ..pictures import check_out
from ..storage.logins import scrubbed
from .encoder_commands import embed, export, import_, plot
from .evaluate import distill, evaluate
from .options import METHOD_HELP, URI_HELP, arg, config_from, parse

if TYPE_CHECKING:
    from ..config import RunConfig

HELP = """\
usage: contray COMMAND [OPTIONS]

Self-supervised visual representation learning on Ray: from images to a verdict in MLflow.

  train [METHOD]        pretrain, then measure k-NN and a linear probe against the untrained encoder and raw pixels
  tune SPACE            search a space of tune_spaces/ (temperature, queue, momentum, augmentation strength, ...)
  eval WHAT             measure a run's encoder or a checkpoint, on its own data or on others: knn; linear --protocol cached | paper |
                        last_n | attentive; finetune --labels 0.01, beside from scratch; supervised, the reference; geometry, without labels;
                        detection --head fpn | c4 | mask, segmentation --head fcn | deeplab, beside untrained and supervised
  plot WHAT             draw a run's encoder or a checkpoint: neighbours, map, attention, reconstruction, prototypes, similarities; curves of runs
  distill --labels 0.01 fine-tune a run's encoder and let it teach a student of the same or a smaller backbone, on all images
  export                write an encoder for torchvision, timm, ONNX, or register it in MLflow
  import FILE           take a public checkpoint, to measure it beside ours
  embed SRC             features of a folder of images or Parquet files, on all workers
  compare [RUN_ID ...]  a table of runs (mean and std over seeds), a plot, the MLflow link
  sync [RUN ...]        send what an MLflow outage left unsent of ended runs
  ui                    MLflow's UI on this machine, opened at the right page
  methods               what can be trained
  spaces                what can be searched
  data preview METHOD   draw the views as the method will see them
  data scenes           write the built-in detection set as a folder in COCO's format

Start here:   contray train                          SimCLR on the built-in digits, about three minutes on two cores
Then:         contray train moco --data.source DIR   your images: DIR/train/CLASS/*.jpg, or a folder without classes
Any option:   contray COMMAND --help                 every key with its unit, range and default
"""


PLAIN = warnings.formatwarning


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed, 2 refused, 130 interrupted, 141 nobody reads on)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text, and a terminal may lack a character
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _one_line
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `contray eval --help | head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning of ours without the place in the code that it comes from; others as they are."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"contray: {scrubbed(' '.join(str(message).split()))}\n"
    return PLAIN(message, category, filename, lineno, line)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"contray {version('contray')}")
        except PackageNotFoundError:  # a job's nodes get the sources alone
            print("contray, from its sources (not installed)")
        return 0
    name, rest = words[0], words[1:]
    if name == "data" and rest[:1] in (["preview"], ["scenes"]):
        name, rest = f"data {rest[0]}", rest[1:]
    try:
        if name not in COMMANDS:
            raise UserError(f"no command {name!r}; {nearest(name, COMMANDS)} (contray --help)")
        return COMMANDS[name](rest)
    except UserError as error:
        print(f"contray: {scrubbed(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("contray: interrupted", file=sys.stderr)
        return 130


# ---------------------------------------------------------------- commands


def train(words: list[str]) -> int:
    """contray train"""
    from tyro.conf import Positional

    @dataclass(frozen=True)
    class Options:
        """Pretrain METHOD and measure what it learnt. An unfinished run of the same config goes on exactly where it stopped."""

        method: Annotated[
            Positional[str], arg("method: a name from `contray methods`, or the path of your own .py file (default simclr)")
        ] = ""
        preset: Annotated[
            str, arg("named settings of the method (contray methods); default: the data source's own, else paper")
        ] = ""
        config: Annotated[Path | None, arg("YAML of dotted or nested keys, such as the config.yaml that every run keeps")] = None
        dry_run: Annotated[bool, arg("print the resolved run with its estimates and start nothing")] = False
        seeds: Annotated[
            int, arg("run this many seeds as children of one MLflow run; the same command goes on with those that are left")
        ] = 1
        quiet: Annotated[bool, arg("no progress bar and no table")] = False

    def keys(plain: list[str]) -> "RunConfig":
        found = parse(Options, plain, "train")[0]
        return config_from(found.method, found.preset, found.config, {})

    options, dotted = parse(Options, words, "train", keys)
    config = config_from(options.method, options.preset, options.config, dotted)
    if options.seeds < 1:
        raise UserError(f"--seeds: got {options.seeds}, must be at least 1")
    if options.dry_run:
        from .dryrun import describe

        describe(config)
        return 0
    from ..training.launch import launch
    from ..training.seeds import launch_seeds
    from .report import show_result, show_seeds, show_unmeasured, show_unsent

    if options.seeds > 1:
        results = launch_seeds(config, options.seeds, quiet=options.quiet)
        finished = all(result.finished for result in results)
        if finished:
            show_seeds(config, results)
        else:
            print(
                f"{len(results) - 1} of {options.seeds} seeds are finished; the same command goes on with the others", flush=True
            )
        show_unsent(config, results)
        return (1 if show_unmeasured(results) else 0) if finished else 130
    result = launch(config, quiet=options.quiet)
    if not options.quiet:
        show_result(config, result)
    show_unsent(config, [result])
    return (1 if show_unmeasured([result]) else 0) if result.finished else 130


def tune(words: list[str]) -> int:
    """contray tune"""
    from tyro.conf import Positional

    @dataclass(frozen=True)
    class Options:
        """Search SPACE: trials are children of one MLflow run; ranked on held-out training data, the test set opened once, for the winner."""

        space: Annotated[Positional[str], arg("a name from `contray spaces`, or the path of your own .py file")]
        samples: Annotated[int, arg("trials to draw; a grid is repeated this often [default: the space's own]")] = 0
        preset: Annotated[str, arg("named settings of the method; default: the data source's own, else paper")] = ""
        config: Annotated[Path | None, arg("YAML of the settings that all trials share")] = None
        metric: Annotated[
            str, arg("what trials are ranked on: knn_val_top1, linear_val_top1, or rankme, which needs no labels")
        ] = "linear_val_top1"
        scheduler: Annotated[
            str,
            arg(
                "asha: stop hopeless trials early; pbt: copy and mutate the best; none: no stops [default: the space's own, else asha]"
            ),
        ] = ""
        grace: Annotated[float, arg("asha: share of a run that every trial gets [fraction]")] = 0.4
        concurrent: Annotated[int, arg("trials at once; 0: as many as there are CPUs (or GPUs)")] = 0
        minutes: Annotated[float, arg("time budget [minutes]; 0: none")] = 0.0
        resume: Annotated[bool, arg("go on with the newest sweep of this space and these settings")] = False

    def keys(plain: list[str]) -> "RunConfig":
        from ..config.registry import load_space

        found = parse(Options, plain or ["simclr"], "tune")[0]
        return config_from(load_space(found.space).METHOD, found.preset, found.config, {})

    options, dotted = parse(Options, words, "tune", keys)
    from ..tuning import sweep

    result = sweep(
        options.space, dotted, samples=options.samples, preset=options.preset, config_file=options.config, metric=options.metric, scheduler=options.scheduler,
        grace=options.grace, concurrent=options.concurrent, minutes=options.minutes, resume=options.resume,
    )  # fmt: skip
    from .report import show_sweep

    show_sweep(result)
    return 0 if result.best else 1


def compare(words: list[str]) -> int:
    """contray compare"""
    from tyro.conf import Positional

    @dataclass(frozen=True)
    class Options:
        """A table of runs, configurations as rows (mean and std over seeds), a plot, and the link to MLflow's comparison."""

        runs: Annotated[Positional[tuple[str, ...]], arg("MLflow run ids; none: all finished runs of the experiment")] = ()
        experiment: Annotated[str, arg("MLflow experiment")] = "contray"
        track__uri: Annotated[str, arg(URI_HELP, name="track.uri")] = ""
        out: Annotated[Path, arg("where the plot goes")] = Path("compare.png")

    options, _ = parse(Options, words, "compare")
    from .. import track
    from ..track.comparing import compare as run_comparison

    run_comparison(track.resolve_uri(options.track__uri), list(options.runs), options.experiment, options.out)
    return 0


def sync(words: list[str]) -> int:
    """contray sync"""
    from tyro.conf import Positional

    @dataclass(frozen=True)
    class Options:
        """Send what MLflow lacks of runs that have ended: points, pictures, encoder, status. Nothing is sent twice."""

        runs: Annotated[Positional[tuple[str, ...]], arg("names of runs, or their folders; none: all runs in the storage")] = ()
        storage: Annotated[str, arg("where the runs are kept: a path or an address, as scale.storage")] = "contray_runs"
        track__uri: Annotated[str, arg("where MLflow is now; empty: where each run was recorded", name="track.uri")] = ""
        track__again: Annotated[bool, arg("a new MLflow run takes the place of one that is gone", name="track.again")] = False
        method: Annotated[str, arg(METHOD_HELP)] = ""

    options, _ = parse(Options, words, "sync")
    from ..training.syncing import sync as run_sync

    done = run_sync(
        options.runs, storage=options.storage, uri=options.track__uri, method=options.method, again=options.track__again
    )
    for each in done:
        print(each)
    if not done:
        print(f"MLflow lacks nothing of the runs in {options.storage}")
    return 1 if any(each.unsent or each.problem for each in done) else 0


def ui(words: list[str]) -> int:
    """contray ui"""

    @dataclass(frozen=True)
    class Options:
        """MLflow's own UI for this folder's store, on loopback, opened at the experiment used last. Ctrl-C stops it."""

        port: Annotated[int, arg("port on this machine")] = 5000
        track__uri: Annotated[str, arg(URI_HELP, name="track.uri")] = ""
        host: Annotated[str, arg("address to listen on; MLflow has no login, so think before you change it")] = "127.0.0.1"
        browser: Annotated[bool, arg("open a browser")] = True

    options, _ = parse(Options, words, "ui")
    from .. import track
    from ..track.ui import serve

    serve(track.resolve_uri(options.track__uri), port=options.port, open_browser=options.browser, host=options.host)
    return 0


def methods(words: list[str]) -> int:
    """contray methods"""

    @dataclass(frozen=True)
    class Options:
        """List the methods: paper, year, what each contrasts, its presets and what to expect of them."""

        json: Annotated[bool, arg("as JSON")] = False

    options, _ = parse(Options, words, "methods")
    from .report import show_methods

    show_methods(options.json)
    return 0


def spaces(words: list[str]) -> int:
    """contray spaces"""

    @dataclass(frozen=True)
    class Options:
        """List the search spaces: the keys that each searches and over what."""

        json: Annotated[bool, arg("as JSON")] = False

    options, _ = parse(Options, words, "spaces")
    from .report import show_spaces

    show_spaces(options.json)
    return 0


def preview(words: list[str]) -> int:
    """contray data preview"""
    from tyro.conf import Positional

    @dataclass(frozen=True)
    class Options:
        """Draw the views of a few samples as METHOD will see them."""

        method: Annotated[Positional[str], arg("method")] = "simclr"
        out: Annotated[Path, arg("the picture to write")] = Path("views.png")
        preset: Annotated[str, arg("named settings of the method")] = ""
        config: Annotated[Path | None, arg("YAML of settings")] = None
        samples: Annotated[int, arg("samples (rows) to draw")] = 6

    def keys(plain: list[str]) -> "RunConfig":
        found = parse(Options, plain, "data preview")[0]
        return config_from(found.method, found.preset, found.config, {})

    options, dotted = parse(Options, words, "data preview", keys)
    config = config_from(options.method, options.preset, options.config, dotted)
    if options.samples < 1:
        raise UserError(f"--samples: got {options.samples}, must be at least 1")
    check_out(options.out)
    from .. import data
    from ..pictures.preview import draw

    source = data.announced(config)
    draw(source.train, config.views, strength=config.augment.strength, seed=config.seed, samples=options.samples, out=options.out)
    print(f"wrote {options.out}")
    return 0


def scenes(words: list[str]) -> int:
    """contray data scenes"""

    @dataclass(frozen=True)
    class Options:
        """Write the scenes of `contray eval detection` as files: several digits on each picture, with boxes and masks, in COCO's format."""

        out: Annotated[Path, arg("the new folder: train.json, val.json, and the pictures in train/ and val/")] = Path("scenes")

    options, _ = parse(Options, words, "data scenes")
    from ..data.scenes import write
    from ..exchange.drafts import draft

    with draft(options.out) as folder:
        write(folder)
    print(f"wrote {options.out}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train, "tune": tune, "eval": evaluate, "plot": plot, "distill": distill, "export": export, "import": import_, "embed": embed, "compare": compare,
    "sync": sync, "ui": ui, "methods": methods, "spaces": spaces, "data preview": preview, "data scenes": scenes,
}  # fmt: skip
