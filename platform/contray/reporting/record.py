"""What is on record of a run: in MLflow, or, where that is not to be had, in its folder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import track
from ..drawing import CURVES
from ..errors import UserError
from ..model.encoder import WEIGHTS
from ..storage import sealed
from ..storage.folder import Storage
from ..track.comparing import Comparison, compare
from ..track.runs import PARENTS, children, find_run, known_as, points_of
from ..training.records import FOLDER, RECORD, SEEDS, SWEEP, read
from ..training.worker import VERDICT

CURVED = (*CURVES, "images_per_second", "effective_temperature", "feature_std")
PICTURES = ("views.png", "neighbours.png")


@dataclass
class Record:
    """A run as it stands. name: of what was asked for, which may be a group of seeds or a sweep whose first seed or winner the rest is of.

    tracked: None where only the folder is known; children: what stands under a group's name; checkpoint: where the encoder can be had beside MLflow.
    """

    name: str
    kind: str = "checkpoint"  # run, trial, seeds, sweep
    tracked: track.TrackedRun | None = None
    status: str = ""
    own: str = ""  # the name of the run that the rest is of, where that is another one
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    histories: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    config: str = ""
    started: int = 0  # ms since 1970
    ended: int = 0
    children: Comparison | None = None
    asked: track.TrackedRun | None = None  # the run that was asked for, which keeps the page
    checkpoint: str = ""
    kept: bool = False  # whether MLflow keeps the encoder
    lacks: str = ""  # why the page has nothing of the encoder, or of its data
    notes: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.status in ("FINISHED", "")

    @property
    def opened(self) -> bool:
        """Whether the test set may be looked at: it is for runs at their end, and of a sweep for the winner."""
        return self.finished and (self.kind not in ("trial", "sweep") or bool(self.tags.get("contray.winner")))


def find(run: str, checkpoint: str, uri: str) -> Record:
    """The record of a run, by its id, name or folder, or of a checkpoint. Raises UserError where there is none."""
    if bool(run) == bool(checkpoint):
        raise UserError("name what to report on: either a run (its id, name or folder) or --checkpoint PATH")
    if checkpoint:
        return of_folder(checkpoint)
    if "://" in run or (Path(run).is_dir() and _holds(Storage(run).names())):
        return _of_run_folder(run, uri)
    uri = track.resolve_uri(uri)
    track.check(uri, exists=True)
    return of_mlflow(uri, run)


def _holds(names: Sequence[str]) -> bool:
    """Whether a folder of these files is one of a run, or one with an encoder."""
    return bool({RECORD, SEEDS, SWEEP, WEIGHTS} & set(names)) or any(name.endswith(".pt") for name in names)


def _of_run_folder(address: str, uri: str) -> Record:
    """By what the folder knows of its run in MLflow; without MLflow, what lies there."""
    folder = Storage(address)
    known: dict[str, Any] = {}
    for name, kinds in ((RECORD, {}), (SEEDS, {"run_id": str}), (SWEEP, {"run_id": str})):
        if name in folder.names():
            known = read(folder) if name == RECORD else sealed.read(folder, name, kinds) or {}
            break
    if not known.get("run_id"):
        return of_folder(address)
    try:
        place = track.resolve_uri(uri or known.get("uri", ""))
        track.check(place, exists=True)
        return of_mlflow(place, known["run_id"])
    except UserError as error:
        made = of_folder(address)
        made.notes.append(f"MLflow could not be asked ({error}): what it keeps, such as the curves, is left out")
        return made


def of_folder(address: str) -> Record:
    """A checkpoint, and what of its run lies beside it."""
    place = address.rstrip("/")
    folder = Storage(place.rpartition("/")[0] or "." if place.endswith(".pt") else place)
    names = folder.names()
    if not names:
        raise UserError(f"--checkpoint: there is nothing in {folder.address}")
    made = Record(folder.name, checkpoint=address)
    if "config.yaml" in names:
        made.config = folder.read("config.yaml").decode(errors="replace")
    if VERDICT in names:
        try:
            made.metrics = sealed.read(folder, VERDICT, sealed.NUMBER) or {}
        except sealed.Damaged as error:
            made.notes.append(f"{error}: what the run measured at its end is left out")
    return made


def of_mlflow(uri: str, name: str) -> Record:
    """The record of a run by its id or name; of a group or a sweep with its first seed or its winner."""
    with track.asking(uri, f"reading run {name}") as talk:
        asked = find_run(talk, uri, name)
        kind = asked.data.tags.get("contray.kind", "run")
        below = children(talk, asked) if kind in PARENTS else []
        run = _chosen(kind, below) if below else asked
        made = Record(known_as(asked), kind, _tracked(uri, run), str(run.info.status))
        made.asked = _tracked(uri, asked)
        made.own = known_as(run) if run is not asked else ""
        made.metrics, made.params = dict(run.data.metrics), dict(run.data.params)
        made.tags = {**run.data.tags, **{key: text for key, text in asked.data.tags.items() if key == "contray.verdict"}}
        made.started, made.ended = run.info.start_time or 0, run.info.end_time or 0
        made.kept = bool(run.outputs and run.outputs.model_outputs)
        made.checkpoint = made.tags.get(FOLDER, "")
        made.histories = {each: points_of(talk, run.info.run_id, each) for each in CURVED if each in run.data.metrics}
        _fetch(talk, run, made)
    if kind in PARENTS:
        if not below:
            made.notes.append(f"this {'group of seeds' if kind == 'seeds' else kind} has no run of its own")
        try:
            made.children = compare(uri, [asked.info.run_id], "") if below else None
        except UserError as error:
            made.notes.append(str(error))
    return made


def _tracked(uri: str, run: Any) -> track.TrackedRun:
    return track.TrackedRun(uri, run.info.experiment_id, run.info.run_id)


def _chosen(kind: str, below: Sequence[Any]) -> Any:
    """A sweep's winner, or its best trial so far; of seeds the first that is finished."""
    if kind == "sweep":
        won = [run for run in below if run.data.tags.get("contray.winner")]
        return (won or sorted(below, key=lambda run: -max((run.data.metrics.get(name, -1.0) for name in RANKED), default=-1.0)))[
            0
        ]
    ended = [run for run in below if run.info.status == "FINISHED"]
    return min(ended or below, key=lambda run: int(run.data.params.get("seed", 0)))


RANKED = ("linear_val_top1", "knn_val_top1")


def _fetch(talk: Any, run: Any, made: Record) -> None:
    """The run's config and pictures; what cannot be had is noted."""
    there = {file.path for file in talk.list_artifacts(run.info.run_id)}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("config.yaml", *PICTURES):
            if name not in there:
                continue
            try:
                content = Path(talk.download_artifacts(run.info.run_id, name, folder)).read_bytes()
            except Exception as error:  # of whatever file system artifacts lie on
                made.notes.append(f"{name} could not be fetched ({' '.join(str(error).split())[:200] or type(error).__name__})")
                continue
            if name == "config.yaml":
                made.config = content.decode(errors="replace")
            else:
                made.pictures[name] = content
