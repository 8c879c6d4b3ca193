"""contray.evaluate"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunConfig
from ..config.registry import name_files, name_parts
from ..errors import ConfigError
from ..storage.names import slug
from .load import load
from .opened import Opened, encoder_of, uri_of

if TYPE_CHECKING:
    from ..evaluation import Measured


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
    from .. import evaluation, model, track
    from ..config.evaluations import load_evaluation
    from ..config.registry import name_code
    from ..evaluation.common.run import run as run_evaluations
    from ..training.progress import TrainingBar

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
    encoder = encoder_of(given, run, checkpoint, tuple(f"{file.prefix}.*" for file in files))
    config = encoder.config.replace({**given, **own})
    opened = Opened(encoder, config, track.attach(track.resolve_uri(uri_of(given)), run) if run else None)
    device = model.device_of(config)
    with TrainingBar(" ".join(Path(name).stem for name in names), quiet) as bar:
        subject = evaluation.Subject(
            config, encoder.method.to(device), device, show=bar.show, out=out, taken=taken, load=lambda each: load(each, uri=uri_of(given))
        )  # fmt: skip
        measured = run_evaluations(names, subject)
    name = opened.data_name(lambda: subject.source) if measured.on is None else measured.on and slug(measured.on)
    opened.keep({**measured, **measured.about}, measured.pictures, name)
    return measured
