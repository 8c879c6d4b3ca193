"""What `import contray` offers; the CLI calls the same functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .config import RunConfig
from .errors import UserError

if TYPE_CHECKING:
    from .encoder import Encoder
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


def evaluate(
    protocols: tuple[str, ...],
    *,
    run: str = "",
    checkpoint: str = "",
    overrides: Mapping[str, Any] | None = None,
    labels: str = "1.0",
    quiet: bool = True,
) -> dict[str, float]:
    """What a run's encoder or a checkpoint is worth, by protocols of `contray.evaluation.suite.PROTOCOLS`.

    overrides: dotted keys of data.* and eval.*, e.g. another data.source, and for "distill" the student's backbone.*; others would change
    the encoder and are refused. With `run`, the metrics are logged to it, all at the end: under their own names, or after `DATASET.` where the data is not the run's own.
    labels: how many of them "finetune" gets: a fraction, or "10-per-class"; quiet: no progress bar.
    """
    from . import data, model, track
    from .encoder import read_checkpoint
    from .evaluation.suite import run_protocols
    from .progress import TrainingBar

    overrides = dict(overrides or {})
    students = {key: overrides.pop(key) for key in list(overrides) if key.startswith("backbone.") and protocols == ("distill",)}
    foreign = [key for key in overrides if not key.startswith(("data.", "eval.", "track.", "train.device"))]
    if foreign:
        raise UserError(
            f"{foreign[0]}: an evaluation takes data.*, eval.*, track.uri and train.device; the rest comes with the encoder"
        )
    if bool(run) == bool(checkpoint):
        raise UserError("name what to evaluate: either --run RUN_ID or --checkpoint PATH")
    uri = RunConfig.make(overrides={key: value for key, value in overrides.items() if key == "track.uri"}).track.uri
    encoder = load(run, uri=uri) if run else read_checkpoint(checkpoint)
    config = encoder.config.replace(overrides)
    student = config.replace(students)
    source = data.open_source(config.data)
    if source.train.labels is None:
        raise UserError(f"data.source: {source.name} has no labels, and an evaluation needs them")
    device = model.device_of(config)
    with TrainingBar(" ".join(protocols), quiet) as bar:
        metrics = run_protocols(protocols, config, source, encoder.method.to(device), device, bar.show, labels, student)
    if run:
        own = config.data.source == encoder.config.data.source and config.data.label_column == encoder.config.data.label_column
        tracked = track.attach(track.resolve_uri(uri), run)
        tracked.log_metrics({key if own else f"{source.name}.{key}": value for key, value in metrics.items()}, step=0)
    return metrics
