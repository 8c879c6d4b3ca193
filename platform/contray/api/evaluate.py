"""contray.evaluate"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunConfig, dotted
from ..config.registry import name_files, name_parts
from ..errors import ConfigError
from ..storage.names import slug
from .load import load
from .named import named_one
from .opened import SCALE, check_keys, opened, uri_of

if TYPE_CHECKING:
    from ..evaluation import Measured
    from .named import Run


def evaluate(
    names: str | Path | Sequence[str | Path],
    run: Run = "",
    *,
    checkpoint: str | Path = "",
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
    code: str | Sequence[str] = (),
    out: str | Path = Path(),
) -> Measured:
    """What a run's encoder or a checkpoint is worth by these evaluations (`contray evaluations`, or paths of your own .py files).

        contray.evaluate("knn", result)
        contray.evaluate(["linear", "geometry"], "simclr-digits-1a2b3c4d", overrides={"data.source": "other_photos/"})

    It prints as tables; `.about` says what the metrics stand on, `.pictures` what was drawn into `out`: a folder, or the file of the only picture.
    run: as `contray.load` takes it; checkpoint: a step-N.pt or a folder with some, for whatever is not to be kept in MLflow.
    overrides: dotted keys of data.* and of these evaluations (eval.NAME.*), and what an evaluation takes besides, such as a student's
    backbone.*; others would change the encoder and are refused. scale.workers, (2, 4): frozen features are computed on Ray Train workers, as many
    of them as there is room for, and are the same; without it all is done in this process. With `run`, metrics and pictures are logged to it, all at
    the end: under their own names, or after `DATASET.` where the data is not the run's own. quiet: no progress bar. code: your own .py files that
    the encoder is made with.
    """
    import torch

    from .. import data, evaluation, model
    from ..config.evaluations import load_evaluation
    from ..config.registry import name_code
    from ..evaluation.common.run import run as run_evaluations
    from ..training.evaluating import on_workers
    from ..training.progress import TrainingBar

    names = [str(each) for each in ((names,) if isinstance(names, (str, Path)) else names)]
    name_files(code)
    name_code(*names)
    files = [load_evaluation(name) for name in names]
    given = dotted(overrides)
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
    check_keys(given, (*(f"{file.prefix}.*" for file in files), *SCALE, "scale.storage"))
    for key in given:
        if key.startswith("scale.") and "scale.workers" not in given:
            raise ConfigError(key, "is of workers, and without scale.workers an evaluation runs in this process; give that too")
    uri = uri_of(given)
    measuring = opened(
        named_one(run, checkpoint, uri, "evaluate"), given, own | {key: value for key, value in SCALE.items() if key not in given}
    )
    config, method, loads = measuring.config, measuring.encoder.method, partial(load, uri=uri)
    with TrainingBar(" ".join(Path(name).stem for name in names), quiet, patience=5) as bar:
        if config.scale.workers == (0, 0):
            device = model.device_of(config)
            subject = evaluation.Subject(
                config, method.to(device), device, show=bar.show, out=Path(out), taken=taken, load=loads, keeps=True
            )
            measured = run_evaluations(names, subject)
        else:
            subject = evaluation.Subject(config, method, torch.device("cpu"), given=data.announced(config))
            measured = on_workers(config, method, bar, Path(out), taken, loads)
    name = measuring.data_name(lambda: subject.source) if measured.on is None else measured.on and slug(measured.on)
    measuring.keep({**measured, **measured.about}, measured.pictures, name)
    subject.forget()
    if name and measured.on is None:
        measuring.name_data(subject.source)
    return measured
