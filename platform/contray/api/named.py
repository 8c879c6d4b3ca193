"""Which run is meant by what people have at hand: an id, a name, what training gave back, or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.registry import name_files
from ..config.sections import ScaleConfig
from ..errors import UserError

if TYPE_CHECKING:
    from ..model.encoder import Encoder
    from ..training.result import Result
    from ..tuning import SweepResult, Trial

    Run = str | Path | Result | Trial | SweepResult

FORMS = "give a run's id or name, its folder, or what contray.train gave back"


@dataclass(frozen=True)
class Named:
    """An MLflow run, the folder or file of its checkpoints, or both. uri: of the store that knows the run; empty: the one that is asked."""

    run_id: str = ""
    checkpoint: str = ""
    uri: str = ""


def named(run: Run, uri: str = "") -> Named:
    """uri: of the store that is asked for a name.

    A text is an id of 32 digits, else a path that is there, else the name of a folder among the runs (contray_runs), else a name in MLflow.
    Raises UserError for what names no run, and for a name that several runs have.
    """
    if isinstance(run, Path):
        return _folder(run)
    if not isinstance(run, str):
        return _given_back(run)
    if len(run) == 32 and set(run) <= set("0123456789abcdef"):
        return Named(run)
    for path in (Path(run), Path(ScaleConfig.storage, run)):
        if run and ((path.exists() and (path / "run.json").exists()) or path.suffix == ".pt"):
            return _folder(path)
    if run and ("/" in run or Path(run).is_dir()):
        return _folder(Path(run))
    return Named(_in_store(run, uri))


def named_one(run: Run, checkpoint: str | Path, uri: str, verb: str) -> Named:
    """The one that is named by `run` or by `checkpoint`. Raises UserError where neither or both are; verb: what is to be done with it."""
    if bool(run) == bool(checkpoint):
        raise UserError(f"name what to {verb}: either --run RUN_ID or --checkpoint PATH")
    return Named(checkpoint=str(checkpoint)) if checkpoint else named(run, uri)


def encoder_of(found: Named, uri: str = "", code: str | Sequence[str] = ()) -> Encoder:
    """The encoder of what was named: from its folder, else from MLflow."""
    from .. import track
    from ..model.encoder import read_checkpoint, read_folder

    name_files(code)
    if found.checkpoint:
        return read_checkpoint(found.checkpoint)
    uri = track.resolve_uri(uri or found.uri)
    track.check(uri, exists=True)
    return read_folder(track.fetch_encoder(uri, found.run_id))


def _given_back(run: Any) -> Named:
    """Of a Result, a Trial, or the best trial of a sweep."""
    best = getattr(run, "best", None)
    if best is not None:
        return _given_back(best)
    folder = getattr(run, "checkpoint", "") or getattr(run, "folder", "")
    if not (isinstance(folder, str) and folder):
        raise UserError(f"run: got {type(run).__name__}; {FORMS}")
    run_id, there = getattr(run, "run_id", ""), "://" in folder or Path(folder).exists()
    return Named(run_id, folder if there or not run_id else "", _recorded(Path(folder)).get("uri", ""))


def _folder(path: Path) -> Named:
    if not path.exists():
        raise UserError(f"run: there is no {path}; {FORMS}")
    known = _recorded(path)
    return Named(known.get("run_id", ""), str(path), known.get("uri", ""))


def _recorded(folder: Path) -> dict[str, Any]:
    """What a run's folder says of it; nothing where it is none, such as one that `export` wrote."""
    from ..storage.folder import Storage
    from ..training import records

    return dict(records.read(Storage(str(folder)))) if (folder / records.RECORD).exists() else {}


def _in_store(name: str, uri: str) -> str:
    from .. import track
    from ..track.runs import find_run

    uri = track.resolve_uri(uri)
    track.check(uri, exists=True)
    with track.asking(uri, f"looking for run {name}") as talk:
        return find_run(talk, uri, name).info.run_id
