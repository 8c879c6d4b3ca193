"""What a run's folder has of the points of an MLflow run that is gone, for the one that takes its place."""

from __future__ import annotations

import re

from .. import track
from ..storage import sealed
from ..storage.checkpoint import latest
from ..storage.folder import Storage
from . import spool
from .audit import AUDIT, attempts, history

OLDER = re.compile(r"verdict-(\d+)\.json")


def resend(folder: Storage, run: track.TrackedRun) -> str:
    """Send what is there to the new `run`; in words, what that is.

    A checkpoint carries the points alone that MLflow had not acknowledged, and whoever goes on from it sends them. Every step's loss is there
    with train.audit, and what an extended run measured at an earlier end.
    """
    words = f"MLflow run {run.run_id} takes the place of one that is gone; its curves begin at the newest checkpoint"
    for name in filter(OLDER.fullmatch, folder.names()):
        try:
            run.log_metrics(sealed.read(folder, name, sealed.NUMBER) or {}, int(name[len("verdict-") : -len(".json")]))
        except sealed.Damaged as error:  # it is on record here alone, and keeps nothing else from going on
            words += f"; {error}, so what was measured at that step is not sent"
    state = latest(folder)
    if state is None or not folder.local or AUDIT not in folder.folders():
        return words
    waiting = {(name, step) for name, _, _, step in [*state["points"], *spool.get(folder)]}
    losses = history(attempts(folder)).losses
    log = track.MetricLog(run)
    for step, loss in losses.items():
        if step <= state["step"] and ("loss", step) not in waiting:
            log.log(step, {"loss": loss})
    log.durable(state["step"])
    unsent = log.close(60)
    return f"{words}, that of the loss at the first step (train.audit){f'; {unsent} points of it could not be sent' if unsent else ''}"
