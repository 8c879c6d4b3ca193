"""What a plan stands on: facts of the data, by decoding a few images, and of the machine, as far as this process may use it."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .. import data, model
from ..config import RunConfig
from ..data.splits import ArraySplit, BrokenImage, EncodedSplit
from ..processors import cores, words_in
from ..storage.folder import Storage

LOOKED, SECONDS = 64, 2.0  # images that are decoded at most, and how long it may take
_KEPT = 16  # of them, to draw views of


@dataclass(frozen=True)
class Images:
    """Training images. side, longest: px of the shorter and the longer side, medians; grey: all of them that were looked at.

    decode: CPU seconds to decode one; nbytes: of one, decoded; test: labelled test images; cached: decoded once and kept in memory.
    """

    count: int
    classes: int = 0
    test: int = 0
    side: int = 32
    longest: int = 32
    grey: bool = False
    decode: float = 0.0
    nbytes: int = 3072
    cached: bool = True
    generated: bool = False
    some: Sequence[np.ndarray] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        kinds = f"{self.classes} classes" if self.classes else "no classes"
        size = f"{self.side} px" if self.side == self.longest else f"{self.longest} x {self.side} px"
        return f"{self.count:,} {'grey ' if self.grey else ''}images of {size}, {kinds}, {f'{self.test:,}' if self.test else 'no'} test images"


@dataclass(frozen=True)
class Machine:
    """What this process may use. memory, gpu_memory, disk: bytes, in all (of the first GPU) and free; inf where it cannot be told."""

    kind: str = "cpu"
    cores: int = 1
    memory: float = math.inf
    gpus: int = 0
    gpu_memory: float = 0.0
    disk: float = math.inf

    def __str__(self) -> str:
        gpus = f"{self.gpus} GPU{'s' if self.gpus > 1 else ''} of {self.gpu_memory / 1e9:.0f} GB, " if self.kind == "cuda" else ""
        return f"{gpus}{self.cores} core{'s' if self.cores > 1 else ''}, {self.memory / 1e9:.0f} GB of memory"


def look(config: RunConfig, source: data.Source) -> Images:
    """The facts of a source, by decoding up to LOOKED images from all over it within SECONDS."""
    split, found, taken = source.train, [], []
    columns = {view.source for view in config.views.values() if view.kind in ("image", "patches")}
    column = "image" if "image" in columns or not columns else sorted(columns)[0]
    began = time.perf_counter()
    for i in np.unique(np.linspace(0, len(split) - 1, LOOKED).round().astype(int)).tolist() if columns else ():
        start = time.process_time()
        try:
            found.append(split.value(i, column, np.random.default_rng(i) if split.generated else None))
        except BrokenImage:
            continue
        taken.append(time.process_time() - start)
        if time.perf_counter() - began > SECONDS:
            break
    labels, test = split.labels, source.test
    facts = {
        "count": len(split), "classes": 0 if labels is None else len(np.unique(labels[split.known])), "generated": split.generated,
        "test": 0 if labels is None or test is None or test.labels is None else len(test),
    }  # fmt: skip
    if not found:
        return Images(**facts)
    sides = [sorted(image.shape[:2]) for image in found]
    nbytes = int(
        np.mean(
            [image.shape[0] * image.shape[1] * config.channels * (image.itemsize if split.channels else 1) for image in found]
        )
    )
    grey = not split.channels and all(
        image.ndim == 2 or image.shape[2] == 1 or bool((image == image[..., :1]).all()) for image in found
    )
    cached = split.decoded or (isinstance(split, EncodedSplit) and nbytes * len(split) <= config.data.memory_gb * 1e9)
    return Images(
        **facts, side=int(statistics.median(side[0] for side in sides)), longest=int(statistics.median(side[1] for side in sides)), grey=grey,
        decode=0.0 if isinstance(split, ArraySplit) else float(np.median(taken)), nbytes=nbytes, cached=cached,
        some=tuple(found[:_KEPT]),
    )  # fmt: skip


def machine(config: RunConfig) -> Machine:
    """This machine: cores and memory within the limits of the process (affinity, control group)."""
    cuda = model.device_of(config).type == "cuda"
    memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        memory = min(memory, _number(file))
    return Machine(
        "cuda" if cuda else "cpu", cores(), memory, torch.cuda.device_count() if cuda else 0,
        float(torch.cuda.get_device_properties(0).total_memory) if cuda else 0.0, free_disk(config.scale.storage),
    )  # fmt: skip


def cluster_of(config: RunConfig) -> str:
    """The Ray cluster to join; empty: none, or this machine's own."""
    address = config.scale.address or os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" or config.scale.workers == (0, 0) else address


def free_disk(address: str) -> float:
    """Bytes that are free where the storage lies, or would; inf for an object store."""
    if not Storage(address).local:
        return math.inf
    place = Path(address).expanduser().resolve()
    while not place.exists():
        place = place.parent
    return float(shutil.disk_usage(place).free)


def _number(file: str) -> float:
    word = next(iter(words_in(file)), "max")
    return math.inf if word == "max" else float(word)
