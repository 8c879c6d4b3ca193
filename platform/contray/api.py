"""What `import contray` offers; the CLI calls the same functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import RunConfig
from .config.registry import name_method, name_parts
from .errors import UserError
from .storage.names import slug

if TYPE_CHECKING:
    from . import data, track
    from .evaluation.protocol import Measured
    from .exchange.embedding import Embedded
    from .model.encoder import Encoder
    from .training.launch import Result
    from .training.syncing import Synced
    from .tuning import SweepResult


def train(config: RunConfig, *, quiet: bool = False) -> Result:
    """Train as `contray train` does: to the end, or on from where an unfinished run of the same config stands."""
    from .training.launch import launch

    return launch(config, quiet=quiet)


def tune(space: str, overrides: Mapping[str, Any] | None = None, **options: Any) -> SweepResult:
    """Search as `contray tune` does; `options` are those of contray.tuning.sweep."""
    from .tuning import sweep

    return sweep(space, overrides or {}, **options)


def sync(
    runs: Sequence[str] = (), *, storage: str = "contray_runs", uri: str = "", method: str = "", again: bool = False
) -> list[Synced]:
    """Send what MLflow lacks of ended runs as `contray sync` does: of these (names or folders), or of all under `storage`."""
    from .training.syncing import sync

    return sync(runs, storage=storage, uri=uri, method=method, again=again)


def load(run_id: str, *, uri: str = "", method: str = "") -> Encoder:
    """The trained encoder of an MLflow run, with its evaluation transform. method: your own method's .py file, where it is of one."""
    from . import track
    from .model.encoder import read_folder

    name_method(method)

    uri = track.resolve_uri(uri)
    track.check(uri, exists=True)
    return read_folder(track.fetch_encoder(uri, run_id))


def export(to: str, out: Path, *, run: str = "", checkpoint: str = "", uri: str = "", method: str = "") -> Path:
    """Write an encoder for another library into the new folder `out`, as `contray export` does; the file of its weights."""
    from . import track
    from .exchange import exporting
    from .exchange.cards import Origin
    from .model.encoder import read_checkpoint

    if bool(run) == bool(checkpoint):
        raise UserError("name what to export: either --run RUN_ID or --checkpoint PATH")
    name_method(method)
    exporting.check(to, out)
    if checkpoint:
        return exporting.export_to(read_checkpoint(checkpoint), to, out, Origin(Path(checkpoint).name))
    trained = load(run, uri=uri)
    metrics, tags = track.attach(track.resolve_uri(uri), run).results()
    origin = Origin(f"MLflow run `{run}`", tags.get("contray.dataset", ""), tags.get("mlflow.source.git.commit", ""), metrics)
    return exporting.export_to(trained, to, out, origin)


def embed(
    source: str, out: str, *, run: str = "", checkpoint: str = "", uri: str = "", method: str = "", **options: Any
) -> Embedded:
    """Features of all images of `source` as Parquet files in the folder `out`; `options` are those of contray.exchange.embedding.embed."""
    from .exchange.embedding import embed as run_embedding
    from .model.encoder import read_checkpoint

    if bool(run) == bool(checkpoint):
        raise UserError("name whose features: either --run RUN_ID or --checkpoint PATH")
    name_method(method)
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
    by: str = "soft_labels",
    student_run: str = "",
    student_checkpoint: str = "",
    method: str = "",
) -> Measured:
    """What a run's encoder or a checkpoint is worth, by protocols of `contray.evaluation.suite.PROTOCOLS`; `.about` is what they stand on.

    overrides: dotted keys of data.* and eval.*, e.g. another data.source, and for "distill" the student's backbone.*; others would change
    the encoder and are refused. With `run`, the metrics are logged to it, all at the end: under their own names, or after `DATASET.` where the data is not the run's own.
    labels: how many of them "finetune" gets: a fraction, or "10-per-class"; quiet: no progress bar. "geometry", alone, needs no labels, draws
    the similarities into `out` and, with `run`, keeps the picture there. by: how "distill" teaches: soft_labels, crd or noisy_student;
    student_run, student_checkpoint: a pretrained student, whose own fine-tuning "distill" measures beside it.
    method: your own method's .py file, where the encoder is of one.
    """
    from . import model
    from .evaluation.diagnosis import geometry_of
    from .evaluation.finetune import labelled_subset
    from .evaluation.protocol import Measured
    from .evaluation.samples import counts_of_test
    from .evaluation.student import check_by, student_config
    from .evaluation.suite import run_protocols
    from .training.progress import TrainingBar

    name_method(method)
    overrides = dict(overrides or {})
    students = {key: overrides.pop(key) for key in list(overrides) if key.startswith("backbone.") and protocols == ("distill",)}
    if student_run and student_checkpoint:
        raise UserError("name one student: either --student-run RUN_ID or --student-checkpoint PATH")
    if students and (student_run or student_checkpoint):
        raise UserError(f"{next(iter(students))}: the student's backbone is that of its run; leave the key out, or the run")
    check_by(by)
    measured = _open(overrides, run, checkpoint, "evaluate", "an evaluation")
    config, source = measured.config, measured.source
    own = _encoder(overrides, student_run, student_checkpoint) if student_run or student_checkpoint else None
    student = config.replace(students) if own is None else student_config(config, own.config)
    geometry = protocols == ("geometry",)
    if source.train.labels is None and not geometry:
        raise UserError(f"data.source: {source.name} has no labels, and an evaluation needs them")
    device = model.device_of(config)
    network = measured.encoder.method.to(device)
    if geometry:
        metrics = geometry_of(config, source, network, device, out=out)
    else:
        with TrainingBar(" ".join(protocols), quiet) as bar:
            metrics = run_protocols(
                protocols, config, source, network, device, bar.show, labels, student, by,
                None if own is None else own.method.to(device),
            ) | counts_of_test(source)  # fmt: skip
        if {"finetune", "distill"} & set(protocols):
            metrics["labelled_images"] = len(labelled_subset(source.train, labels).ids)
    measured.keep(metrics, out if geometry else None)
    return Measured(metrics)


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
    method: str = "",
) -> dict[str, float]:
    """Draw a picture of `contray.pictures.KINDS` into `out` (default: WHAT.png), as `contray plot` does; the numbers that it yields.

    All but "curves" are of the encoder of a run or a checkpoint; with `run` the picture is kept in it, under pictures/, and the numbers are
    logged to it as `evaluate` logs its own. "curves" is of `metric` of the `runs`. overrides: dotted keys, as `evaluate` takes them.
    by: "map" by tsne or umap; images: how many are worked on at most, 0: the picture's own number.
    """
    from importlib import import_module

    from . import model, pictures, track

    name_method(method)
    out = out or Path(f"{what}.png")
    pictures.check(what, out, by, images)
    if what == "curves":
        if run or checkpoint or not runs:
            raise UserError("plot curves: name the MLflow runs: contray plot curves RUN_ID RUN_ID ...")
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

    drawn = _open(dict(overrides or {}), run, checkpoint, "draw", "a picture")
    device = model.device_of(drawn.config)
    subject = Subject(drawn.config, drawn.source, drawn.encoder.method.to(device), device, images, by)
    metrics: dict[str, float] = import_module(f".pictures.{what}", __package__).draw(subject, out)
    drawn.keep(metrics, out, "pictures")
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
    method: str = "",
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
    from .training.progress import TrainingBar

    name_method(method)
    head = check_head(task, head)
    overrides = overrides or {}
    encoder = _encoder(overrides, run, checkpoint)
    config = encoder.config.replace(overrides)
    device = model.device_of(config)
    rows = rows_of(config, encoder.method, supervised, device)
    name, train, test = open_sets(place, config.data.max_broken)
    work = Task(task, head, train, test, 0.0 if place == SCENES else config.eval.dense_flip)
    work.check(config.eval)
    with TrainingBar(f"{task} {head}", quiet) as bar:
        metrics = measured(work, rows, config, device, bar.show)
    if run:
        named = {key if place == SCENES else f"{name}.{key}": value for key, value in metrics.items()}
        track.attach(track.resolve_uri(_uri(overrides)), run).log_metrics(named, step=0)
    return metrics


@dataclass(frozen=True)
class _Opened:
    """An encoder, on its own data or others, and the run that results are kept in, if any. config: the encoder's with the overrides."""

    encoder: Encoder
    config: RunConfig
    source: data.Source
    run: track.TrackedRun | None

    def keep(self, metrics: Mapping[str, float], picture: Path | None, folder: str = "") -> None:
        """Log to the run: metrics at step 0, after `DATASET.` where the data is not the run's own, and a picture in a folder of that name."""
        if self.run is None:
            return
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
        own = parts == others and all(getattr(ours, key) == getattr(theirs, key) for key in shown)
        name = "" if own else slug(self.source.name)  # MLflow refuses many characters in a metric's name
        if metrics:
            self.run.log_metrics({f"{name}.{key}" if name else key: value for key, value in metrics.items()}, step=0)
        if picture is not None:
            self.run.log_artifact(picture, "/".join(filter(None, (folder, name))))


def _open(overrides: Mapping[str, Any], run: str, checkpoint: str, verb: str, noun: str) -> _Opened:
    """What `evaluate` and `plot` work on; raises as `_encoder` does."""
    from . import data, track

    encoder = _encoder(overrides, run, checkpoint, verb, noun)
    config = encoder.config.replace(overrides)
    source = data.announced(config)
    return _Opened(encoder, config, source, track.attach(track.resolve_uri(_uri(overrides)), run) if run else None)


def _encoder(
    overrides: Mapping[str, Any], run: str, checkpoint: str, verb: str = "evaluate", noun: str = "an evaluation"
) -> Encoder:
    """The encoder of a run or a checkpoint. Raises UserError for keys that would change it, and where neither or both are named."""
    from .model.encoder import read_checkpoint

    name_parts(overrides)
    foreign = [key for key in overrides if not key.startswith(("data.", "eval.", "track.", "train.device"))]
    if foreign:
        raise UserError(f"{foreign[0]}: {noun} takes data.*, eval.*, track.uri and train.device; the rest comes with the encoder")
    if bool(run) == bool(checkpoint):
        raise UserError(f"name what to {verb}: either --run RUN_ID or --checkpoint PATH")
    return load(run, uri=_uri(overrides)) if run else read_checkpoint(checkpoint)


def _uri(overrides: Mapping[str, Any]) -> str:
    """The tracking URI that was asked for, not the one that the encoder's run had."""
    return RunConfig.make(overrides={key: value for key, value in overrides.items() if key == "track.uri"}).track.uri
