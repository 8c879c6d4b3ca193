"""What the data mean for training: how fast a core prepares them, how many processes feed a GPU, whether they fit in memory, what to run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import data
from ..config import RunConfig
from ..planning.facts import Images, Machine, look, machine
from ..planning.rules import CPU_SIZES, SIZES, batch_for, reading
from ..planning.trial import draw_seconds
from .facts import Channels, Part

BATCH = 256  # images, where there are enough
RATES = (250, 1000, 4000)  # images/s of a GPU, of which numbers of processes are told
MEMORY = "data.memory_gb"  # the key of the memory for decoded sets


@dataclass(frozen=True)
class Speed:
    """CPU seconds of one core for an image: to read and decode it, and to draw the two views of SimCLR at `size` px.

    decoded: bytes of the whole training set, decoded; budget: bytes that may hold it, `kept` where they do.
    """

    decode: float
    draw: float
    size: int
    decoded: float
    budget: float

    @property
    def kept(self) -> bool:
        """Whether images are decoded once and not in every epoch."""
        return self.decoded <= self.budget

    @property
    def per_core(self) -> float:
        """Images/s that one process prepares."""
        return 1 / max(self.draw + (0 if self.kept else self.decode), 1e-9)

    def workers(self, rate: float) -> int:
        """Processes that feed a GPU of so many images/s."""
        return max(1, math.ceil(rate / self.per_core))


def suggestion(
    config: RunConfig,
    given: Mapping[str, Any],
    source: data.Source,
    part: Part,
    channels: Channels | None,
    rate: float,
    subset: str,
) -> tuple[Speed, str]:
    """How fast, and the command. given: the data.* keys that were given; rate: images/s of a GPU; subset: the file of `data.subset`, if any."""
    images, here = look(config, source), machine(config)
    size = view_size(part.sizes.side[1] or images.side, here)
    views = {f"views.{name}.size": size for name, view in config.views.items() if view.kind == "image"}
    dressed = config.replace({**views, "train.planned": tuple(key for key in config.train.planned if key != "views")})
    speed = Speed(
        images.decode, draw_seconds(dressed, images), size, part.decoded / max(part.looked - part.broken, 1) * part.images, config.data.memory_gb * 1e9
    )  # fmt: skip
    return speed, command(dressed, given, views, images, here, channels, speed.workers(rate) if rate else 0, subset)


def view_size(side: int, here: Machine) -> int:
    """px of a view of images whose shorter side is `side`: never much larger than they are; on a CPU at most what a CPU can do."""
    fitting = [size for size in SIZES if size <= max(SIZES[0], 1.2 * side)]
    return max(size for size in fitting if here.kind != "cpu" or size in CPU_SIZES)


def command(
    config: RunConfig, given: Mapping[str, Any], views: Mapping[str, int], images: Images, here: Machine, channels: Channels | None, workers: int, subset: str
) -> str:  # fmt: skip
    """A line to paste: preset auto plans what it leaves open."""
    keys = {"data.source": config.data.source, **given, **views, "train.batch_size": batch_for(BATCH, images.count)}
    if "data.shorter_side" not in given and (side := reading(config, images, here)):
        keys["data.shorter_side"] = side
    if workers and "data.workers" not in given:
        keys["data.workers"] = workers
    if subset and "data.subset" in config.flat():
        keys["data.subset"] = subset
    words = ["contray", "train", "simclr", "--preset", "auto"]
    for key, value in keys.items():
        words += [f"--{key}", *map(_word, value if isinstance(value, (list, tuple)) else [value])]
    return " ".join(filter(None, (shlex.join(words), channels.keys if channels else "")))


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
