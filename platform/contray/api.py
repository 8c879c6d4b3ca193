"""What `import contray` offers; the CLI calls the same functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import RunConfig
from .errors import UserError

if TYPE_CHECKING:
    from .encoder import Encoder
    from .exchange.embedding import Embedded
    from .syncing import Synced
    from .training.launch import Result
    from .tuning import SweepResult


def train(config: RunConfig, *, quiet: bool = False) -> Result:
    """Train as `contray train` does: to the end, or on from where an unfinished run of the same config stands."""
    from .training.launch import launch

    return launch(config, quiet=quiet)


def tune(space: str, overrides: Mapping[str, Any] | None = None, **options: Any) -> SweepResult:
    """Search as `contray tune` does; `options` are those of contray.tuning.sweep."""
    from .tuning import sweep

    return sweep(space, overrides or {}, **options)


def sync(runs: Sequence[str] = (), *, storage: str = "contray_runs", uri: str = "") -> list[Synced]:
    """Send what MLflow lacks of ended runs as `contray sync` does: of these (names or folders), or of all under `storage`."""
    from .syncing import sync

    return sync(runs, storage=storage, uri=uri)


def load(run_id: str, *, uri: str = "") -> Encoder:
    """The trained encoder of an MLflow run, with its evaluation transform."""
    from . import track
    from .encoder import read_folder

    uri = track.resolve_uri(uri)
    track.check(uri, exists=True)
    return read_folder(track.fetch_encoder(uri, run_id))


def export(to: str, out: Path, *, run: str = "", checkpoint: str = "", uri: str = "") -> Path:
    """Write an encoder for another library into the new folder `out`, as `contray export` does; the file of its weights."""
    from . import track
    from .encoder import read_checkpoint
    from .exchange import exporting
    from .exchange.cards import Origin

    if bool(run) == bool(checkpoint):
        raise UserError("name what to export: either --run RUN_ID or --checkpoint PATH")
    exporting.check(to, out)
    if checkpoint:
        return exporting.export_to(read_checkpoint(checkpoint), to, out, Origin(Path(checkpoint).name))
    trained = load(run, uri=uri)
    metrics, tags = track.attach(track.resolve_uri(uri), run).results()
    origin = Origin(f"MLflow run `{run}`", tags.get("contray.dataset", ""), tags.get("mlflow.source.git.commit", ""), metrics)
    return exporting.export_to(trained, to, out, origin)


def embed(source: str, out: str, *, run: str = "", checkpoint: str = "", uri: str = "", **options: Any) -> Embedded:
    """Features of all images of `source` as Parquet files in the folder `out`; `options` are those of contray.exchange.embedding.embed."""
    from .encoder import read_checkpoint
    from .exchange.embedding import embed as run_embedding

    if bool(run) == bool(checkpoint):
        raise UserError("name whose features: either --run RUN_ID or --checkpoint PATH")
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
    protocols: tuple[str, ...],
    *,
    run: str = "",
    checkpoint: str = "",
    overrides: Mapping[str, Any] | None = None,
    labels: str = "1.0",
    quiet: bool = True,
    out: Path = Path("similarities.png"),
) -> dict[str, float]:
    """What a run's encoder or a checkpoint is worth, by protocols of `contray.evaluation.suite.PROTOCOLS`.

    overrides: dotted keys of data.* and eval.*, e.g. another data.source, and for "distill" the student's backbone.*; others would change
    the encoder and are refused. With `run`, the metrics are logged to it, all at the end: under their own names, or after `DATASET.` where the data is not the run's own.
    labels: how many of them "finetune" gets: a fraction, or "10-per-class"; quiet: no progress bar. "geometry", alone, needs no labels, draws
    the similarities into `out` and, with `run`, keeps the picture there.
    """
    from . import data, model, track
    from .evaluation.diagnosis import geometry_of
    from .evaluation.suite import run_protocols
    from .progress import TrainingBar

    overrides = dict(overrides or {})
    students = {key: overrides.pop(key) for key in list(overrides) if key.startswith("backbone.") and protocols == ("distill",)}
    encoder, uri = _encoder(run, checkpoint, overrides)
    config = encoder.config.replace(overrides)
    student = config.replace(students)
    source = data.open_source(config.data)
    geometry = protocols == ("geometry",)
    if source.train.labels is None and not geometry:
        raise UserError(f"data.source: {source.name} has no labels, and an evaluation needs them")
    device = model.device_of(config)
    if geometry:
        metrics = geometry_of(config, source, encoder.method.to(device), device, out=out)
    else:
        with TrainingBar(" ".join(protocols), quiet) as bar:
            metrics = run_protocols(protocols, config, source, encoder.method.to(device), device, bar.show, labels, student)
    if run:
        own = config.data.source == encoder.config.data.source and config.data.label_column == encoder.config.data.label_column
        tracked = track.attach(track.resolve_uri(uri), run)
        tracked.log_metrics({key if own else f"{source.name}.{key}": value for key, value in metrics.items()}, step=0)
        if geometry:
            tracked.log_artifact(out, "" if own else source.name)
    return metrics


def evaluate_dense(
    task: str,
    head: str = "",
    *,
    run: str = "",
    checkpoint: str = "",
    place: str = "scenes",
    supervised: str = "train",
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = True,
) -> dict[str, float]:
    """What a ResNet encoder is worth for "detection" (head: fpn, c4, mask) or "segmentation" (fcn, deeplab), fine-tuned whole on `place`.

    place: "scenes", the built-in digits with boxes and masks, or a folder in COCO's format. Beside it the same network untrained
    (`scratch_*`) and `supervised_*`: "train" trains it with the labels of the run's own data for as many steps, a checkpoint or an
    imported encoder of the same backbone takes its place, "none" leaves it out. overrides: as of `evaluate`. With `run`, the metrics are
    logged to it: under their own names for the scenes, else after `FOLDER.`.
    """
    from . import model, track
    from .evaluation.dense.coco import SCENES, open_sets
    from .evaluation.dense.protocol import Task, check_head, measured
    from .evaluation.dense.rows import rows_of
    from .progress import TrainingBar

    head = check_head(task, head)
    encoder, uri = _encoder(run, checkpoint, overrides or {})
    config = encoder.config.replace(overrides or {})
    device = model.device_of(config)
    rows = rows_of(config, encoder.method, supervised, device)
    name, train, test = open_sets(place, config.data.max_broken)
    work = Task(task, head, train, test, 0.0 if place == SCENES else config.eval.dense_flip)
    work.check(config.eval)
    with TrainingBar(f"{task} {head}", quiet) as bar:
        metrics = measured(work, rows, config, device, bar.show)
    if run:
        named = {key if place == SCENES else f"{name}.{key}": value for key, value in metrics.items()}
        track.attach(track.resolve_uri(uri), run).log_metrics(named, step=0)
    return metrics


def _encoder(run: str, checkpoint: str, overrides: Mapping[str, Any]) -> tuple[Encoder, str]:
    """What an evaluation measures, and the tracking URI as it was given. Raises UserError for keys that would change the encoder."""
    from .encoder import read_checkpoint

    foreign = [key for key in overrides if not key.startswith(("data.", "eval.", "track.", "train.device"))]
    if foreign:
        raise UserError(
            f"{foreign[0]}: an evaluation takes data.*, eval.*, track.uri and train.device; the rest comes with the encoder"
        )
    if bool(run) == bool(checkpoint):
        raise UserError("name what to evaluate: either --run RUN_ID or --checkpoint PATH")
    uri = RunConfig.make(overrides={key: value for key, value in overrides.items() if key == "track.uri"}).track.uri
    return load(run, uri=uri) if run else read_checkpoint(checkpoint), uri
