"""contray doctor"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from . import documents
from .options import arg, config_from, json_note
from .output import answer, show

if TYPE_CHECKING:
    from ..config import RunConfig

EXAMPLES = (
    ("contray doctor", "this machine: GPUs, libraries, shared memory, open files, storage, MLflow"),
    (
        "contray doctor --cluster auto --scale.storage s3://bucket/runs",
        "every node of the cluster that this machine belongs to, as a run would find it",
    ),
    (
        "contray doctor --cluster auto --scale.workers 4 8 --scale.gpus_per_worker 1",
        "also whether the cluster can give a run what it would ask for",
    ),
)
FEW = ("scale.storage", "track.uri", "scale.workers", "scale.cpus_per_worker", "scale.gpus_per_worker", "data.source")


@dataclass(frozen=True)
class Options:
    """Look at a machine, or at every node of a cluster, before days of training: what a run would lack there, and how to mend it.

    Give the storage, the tracking, the data and the workers that the run will have. Versions are compared over nodes, GPUs with what Ray counts and torch
    can use, clocks with this one; every node reaches every other, writes to the storage (32 MB, removed again) and asks MLflow. 0 where nothing is
    wrong, 1 where something is; what is odd may be meant.
    """

    cluster: Annotated[str, arg("Ray cluster: HOST:PORT of its head, or auto; empty: RAY_ADDRESS, else this machine alone")] = ""
    quiet: Annotated[bool, arg("no word of what is being looked at")] = False
    json: Annotated[bool, json_note(documents.DIAGNOSED)] = False


def keys(options: Options) -> RunConfig:
    """The config whose places are looked at."""
    return config_from("simclr", "digits", None, {})


def takes(options: Options) -> tuple[str, ...]:
    """Patterns of the keys that mean something here."""
    return ("scale.*", "track.uri", "data.source", "train.device")


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Look, and show what was found."""
    from ..api import doctor

    with answer(options.json) as tell:
        found = doctor(dotted, cluster=options.cluster, quiet=options.quiet)
        tell(found.document())
        if not options.json:
            show(*found.shown)
    return 0 if found.ok else 1
