"""What `import contray` offers; the CLI calls the same functions."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import RunConfig
from .config.registry import name_files, name_parts
from .errors import ConfigError, UserError
from .storage.names import slug

if TYPE_CHECKING:
    from . import data, track
    from .evaluation import Measured
    from .exchange.embedding import Embedded
    from .model.encoder import Encoder
    from .training.launch import Result
    from .training.syncing import Synced
    from .tuning import SweepResult


TAKEN = (
    "data.*",
    "eval.holdout",
    "eval.crop",
    "eval.batch_size",
    "train.device",
    "track.uri",
)  # keys that leave an encoder what it is


def train(config: RunConfig, *, quiet: bool = False) -> Result:
    """Train as `contray train` does: to the end, or on from where an unfinished run of the same config stands."""
    from .training.launch import launch

    return launch(config, quiet=quiet)


def tune(space: str, overrides: Mapping[str, Any] | None = None, **options: Any) -> SweepResult:
    """Search as `contray tune` does; `options` are those of contray.tuning.sweep."""
    from .tuning import sweep

    return sweep(space, overrides or {}, **options)


def sync(
    runs: Sequence[str] = (), *, storage: str = "contray_runs", uri: str = "", code: str | Sequence[str] = (), again: bool = False
) -> list[Synced]:
    """Send what MLflow lacks of ended runs as `contray sync` does: of these (names or folders), or of all under `storage`."""
    from .training.syncing import sync

    return sync(runs, storage=storage, uri=uri, code=code, again=again)


def load(run_id: str, *, uri: str = "", code: str | Sequence[str] = ()) -> Encoder:
    """The trained encoder of an MLflow run, with its evaluation transform. code: your own .py files that it is made with."""
    from . import track
    from .model.encoder import read_folder

    name_files(code)

    uri = track.resolve_uri(uri)
    track.check(uri, exists=True)
    return read_folder(track.fetch_encoder(uri, run_id))


def export(to: str, out: Path, *, run: str = "", checkpoint: str = "", uri: str = "", code: str | Sequence[str] = ()) -> Path:
    """Write an encoder for another library into the new folder `out`, as `contray export` does; the file of its weights."""
    from . import track
    from .exchange import exporting
    from .exchange.cards import Origin
    from .model.encoder import read_checkpoint

    if bool(run) == bool(checkpoint):
        raise UserError("name what to export: either --run RUN_ID or --checkpoint PATH")
    name_files(code)
    exporting.check(to, out)
    if checkpoint:
        return exporting.export_to(read_checkpoint(checkpoint), to, out, Origin(Path(checkpoint).name))
    trained = load(run, uri=uri)
    metrics, tags = track.attach(track.resolve_uri(uri), run).results()
    origin = Origin(f"MLflow run `{run}`", tags.get("contray.dataset", ""), tags.get("mlflow.source.git.commit", ""), metrics)
    return exporting.export_to(trained, to, out, origin)


def embed(
    source: str, out: str, *, run: str = "", checkpoint: str = "", uri: str = "", code: str | Sequence[str] = (), **options: Any
) -> Embedded:
    """Features of all images of `source` as Parquet files in the folder `out`; `options` are those of contray.exchange.embedding.embed."""
    from .exchange.embedding import embed as run_embedding
    from .model.encoder import read_checkpoint

    if bool(run) == bool(checkpoint):
        raise UserError("name whose features: either --run RUN_ID or --checkpoint PATH")
    name_files(code)
    return run_embedding(source, out, load(run, uri=uri) if run else read_checkpoint(checkpoint), **options)


def register(name: str, run: str, *, uri: str = "") -> str:
    """Register a run's encoder under `name` in MLflow, as its champion where its linear_top1 is the best; what was done, in words."""
    from . import track

    if not run:
        raise UserError("--register: only a run's encoder can be registered; give --run")
    uri = track.resolve_uri(uri)
    track.check(uri, exists=True)
    return track.register(uri, run, name)


def evaluate(
    names: str | Sequence[str],
    *,
    run: str = "",
    checkpoint: str = "",
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = True,
    code: str | Sequence[str] = (),
    out: Path = Path(),
) -> Measured:
    """What a run's encoder or a checkpoint is worth by these evaluations (`contray evaluations`, or paths of your own .py files).

    `.about` says what the metrics stand on, `.pictures` what was drawn into `out`: a folder, or the file of the only picture.
    overrides: dotted keys of data.* and of these evaluations (eval.NAME.*), and what an evaluation takes besides, such as a student's
    backbone.*; others would change the encoder and are refused. With `run`, metrics and pictures are logged to it, all at the end: under their
    own names, or after `DATASET.` where the data is not the run's own. quiet: no progress bar. code: your own .py files that the encoder is made with.
    """
    from . import evaluation, model, track
    from .config.evaluations import load_evaluation
    from .config.registry import name_code, name_parts
    from .evaluation.common.run import run as run_evaluations
    from .training.progress import TrainingBar

    names = (names,) if isinstance(names, str) else tuple(names)
    name_files(code)
    name_code(*names)
    files = [load_evaluation(name) for name in names]
    given = dict(overrides or {})
    name_parts(given)
    takes = tuple(f"{section}." for file in files for section in file.takes)
    taken = {key: given.pop(key) for key in list(given) if takes and key.startswith(takes)}
    for key in given:
        if key.startswith("eval.") and key.count(".") > 1 and not key.startswith(tuple(f"{file.prefix}." for file in files)):
            raise ConfigError(key, f"is a key of eval {key.split('.')[1]}, not of eval {' '.join(names)}")
        if key in ("eval.final", "eval.online", "eval.every_epochs"):
            raise ConfigError(key, "says what a run measures while it trains and at its end; an evaluation is named by itself")
    own = {"eval.final": names, **{key: value for key, value in given.items() if key.startswith("eval.")}}
    RunConfig.make(overrides=own)  # what is wrong with them is said before the encoder is read
    encoder = _encoder(given, run, checkpoint, tuple(f"{file.prefix}.*" for file in files))
    config = encoder.config.replace({**given, **own})
    opened = _Opened(encoder, config, track.attach(track.resolve_uri(_uri(given)), run) if run else None)
    device = model.device_of(config)
    with TrainingBar(" ".join(Path(name).stem for name in names), quiet) as bar:
        subject = evaluation.Subject(
            config, encoder.method.to(device), device, show=bar.show, out=out, taken=taken, load=lambda each: load(each, uri=_uri(given))
        )  # fmt: skip
        measured = run_evaluations(names, subject)
    name = opened.data_name(lambda: subject.source) if measured.on is None else measured.on and slug(measured.on)
    opened.keep({**measured, **measured.about}, measured.pictures, name)
    if name and measured.on is None:
        opened.name_data(subject.source)
    return measured


def plot(
    what: str,
    *,
    run: str = "",
    checkpoint: str = "",
    runs: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    out: Path | None = None,
    by: str = "tsne",
    images: int = 0,
    metric: str = "loss",
    code: str | Sequence[str] = (),
) -> dict[str, float]:
    """Draw a picture of `contray.pictures.KINDS` into `out` (default: WHAT.png), as `contray plot` does; the numbers that it yields.

    All but "curves" are of the encoder of a run or a checkpoint; with `run` the picture is kept in it, under pictures/, and the numbers are
    logged to it as `evaluate` logs its own. "curves" is of `metric` of the `runs`. overrides: dotted keys, as `evaluate` takes them.
    by: "map" by tsne or umap; images: how many are worked on at most, 0: the picture's own number.
    """
    from importlib import import_module

    from . import data, model, pictures, track

    name_files(code)
    out = out or Path(f"{what}.png")
    pictures.check(what, out, by, images)
    if what == "curves":
        if run or checkpoint or not runs:
            raise UserError("plot curves: name the MLflow runs: contray plot curves --run RUN_ID RUN_ID ...")
        from .pictures.curves import draw

        foreign = [key for key in overrides or {} if key != "track.uri"]
        if foreign:
            raise UserError(f"{foreign[0]}: curves of runs are what was logged; only track.uri can be given")
        draw(track.resolve_uri(RunConfig.make(overrides=overrides or {}).track.uri), runs, metric, out)
        return {}
    if runs:
        raise UserError(f"plot {what}: {' '.join(runs)} not understood; the one run that is drawn is given by --run RUN_ID")
    if metric != "loss":
        raise UserError(f"--metric: {metric} is of plot curves, not of plot {what}")
    from .pictures.subject import Subject

    overrides = dict(overrides or {})
    encoder = _encoder(overrides, run, checkpoint, (), "draw", "a picture")
    config = encoder.config.replace(overrides)
    drawn = _Opened(encoder, config, track.attach(track.resolve_uri(_uri(overrides)), run) if run else None)
    source, device = data.announced(config), model.device_of(config)
    subject = Subject(config, source, encoder.method.to(device), device, images, by)
    metrics: dict[str, float] = import_module(f".pictures.{what}", __package__).draw(subject, out)
    drawn.keep(metrics, [out], drawn.data_name(lambda: source), "pictures")
    return metrics


@dataclass(frozen=True)
class _Opened:
    """An encoder, the config that it is measured with, the encoder's with the overrides, and the run that results are kept in, if any."""

    encoder: Encoder
    config: RunConfig
    run: track.TrackedRun | None

    def data_name(self, source: Callable[[], data.Source]) -> str:
        """Of the data, as MLflow takes it in a metric's name; empty for the run's own."""
        ours, theirs = self.config.data, self.encoder.config.data
        shown = [
            "source",
            "image_column",
            "label_column",
            *(("size", "renderings", "contrast") if ours.source == "digits" else ()),
        ]
        parts, others = (
            {key: part for key, part in each.parts.items() if key.startswith("data.")}
            for each in (self.config, self.encoder.config)
        )
        return "" if parts == others and all(getattr(ours, key) == getattr(theirs, key) for key in shown) else slug(source().name)

    def keep(self, metrics: Mapping[str, float], pictures: Sequence[Path], name: str, folder: str = "") -> None:
        """Log to the run: metrics at step 0, after `NAME.` where there is a name, and pictures in a folder of that name."""
        if self.run is None:
            return
        if metrics:
            self.run.log_metrics({f"{name}.{key}" if name else key: value for key, value in metrics.items()}, step=0)
        for picture in pictures:
            self.run.log_artifact(picture, "/".join(filter(None, (folder, name))))

    def name_data(self, source: data.Source) -> None:
        """Have the run name the data of somebody else's that it was measured on; the results are kept, so that a refusal is only said."""
        from . import data, track

        if self.run is not None:
            keys = self.config.data
            sets = track.datasets_of(source, data.fingerprint(source, keys)["data"], keys.source)
            try:
                self.run.log_inputs([each for each in sets if each.context == "test"] or sets)
            except track.TrackingError as error:
                print(f"contray: {error}", file=sys.stderr)


def _encoder(
    overrides: Mapping[str, Any],
    run: str,
    checkpoint: str,
    own: tuple[str, ...] = (),
    verb: str = "evaluate",
    noun: str = "an evaluation",
) -> Encoder:
    """The encoder of a run or a checkpoint. Raises UserError for keys that are neither of TAKEN nor `own`, and where neither or both are named."""
    from .model.encoder import read_checkpoint

    name_parts(overrides)
    for key in overrides:
        if not any(fnmatch.fnmatchcase(key, each) for each in (*TAKEN, *own)):
            raise UserError(f"{key}: {noun} takes {', '.join((*own, *TAKEN))}; the rest comes with the encoder")
    if bool(run) == bool(checkpoint):
        raise UserError(f"name what to {verb}: either --run RUN_ID or --checkpoint PATH")
    return load(run, uri=_uri(overrides)) if run else read_checkpoint(checkpoint)


def _uri(overrides: Mapping[str, Any]) -> str:
    """The tracking URI that was asked for, not the one that the encoder's run had."""
    return RunConfig.make(overrides={key: value for key, value in overrides.items() if key == "track.uri"}).track.uri
