"""What settings of a run must hold together, whatever method it trains."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..storage.names import check_name

if TYPE_CHECKING:
    from .tree import RunConfig


def check_together(config: RunConfig) -> None:
    """What one field cannot know alone. Raises ConfigError naming the key."""
    if config.track.name:
        check_name("track.name", config.track.name)
    if not config.track.experiment or "\0" in config.track.experiment:
        raise ConfigError("track.experiment", f"got {config.track.experiment!r}, must be the name of an experiment")
    least, most = config.scale.workers
    if least > most:
        raise ConfigError("scale.workers", f"got {least} {most}, the least must not exceed the most")
    if (least == 0) != (most == 0):
        raise ConfigError("scale.workers", f"got {least} {most}; 0 0 (this process, without Ray) or at least 1")
    if most > config.train.batch_size:
        raise ConfigError(
            "scale.workers",
            f"got up to {most} workers for a global batch of {config.train.batch_size} (train.batch_size): at most one per row",
        )
    if config.train.compile and config.scale.activation_checkpointing:
        raise ConfigError(
            "scale.activation_checkpointing", "got true with train.compile, whose compiler does the same by itself; leave one out"
        )
    if config.train.batch_size < 2 * config.train.norm_groups:
        raise ConfigError(
            "train.norm_groups",
            f"got {config.train.norm_groups} for a batch of {config.train.batch_size}: each group needs at least 2 rows",
        )
    if config.train.on_collapse == "stop" and config.eval.every_epochs and "geometry" not in config.eval.online:
        raise ConfigError("train.on_collapse", "got stop, but eval.online lacks geometry, by which a collapse is seen")
    if config.train.audit and config.train.log_every != 1:
        raise ConfigError("train.audit", f"records every step, so train.log_every must be 1 (got {config.train.log_every})")
    if config.data.reduce == "dct" and not config.data.shorter_side and not config.fills("data.shorter_side"):
        raise ConfigError(
            "data.reduce", "got dct, but data.shorter_side 0 reduces nothing; give it, such as 2.5 times the largest view"
        )
    if config.data.reduce == "dct" and config.data.channels:
        raise ConfigError(
            "data.reduce", f"got dct, but with data.channels {config.data.channels} files are decoded whole; give area"
        )
    if len(config.data.range) not in (0, 2) or (config.data.range and not operator.lt(*config.data.range)):
        got = " ".join(f"{value:g}" for value in config.data.range)
        raise ConfigError("data.range", f"got {got}, must be two numbers, the lower one first, or measured")
    for key, given in (("augment.mean", config.augment.mean), ("augment.std", config.augment.std)):
        count = len(given)
        if count not in (0, 1, config.channels):
            raise ConfigError(
                key, f"got {count} numbers for {config.channels} channels; give one of each, one for all, or measured"
            )
    for name, view in config.views.items():
        if config.data.channels and view.space not in ("rgb", "gray"):
            raise ConfigError(
                f"views.{name}.space",
                f"got {view.space}, which is made of RGB; with data.channels {config.data.channels} give rgb or gray",
            )
        for spec in ("crop", "ratio", "blur_sigma"):
            low, high = getattr(view, spec)
            if low > high:
                raise ConfigError(f"views.{name}.{spec}", f"got {low:g} {high:g}, the first must not exceed the second")
        if view.jitter[3] > 0.5:
            raise ConfigError(f"views.{name}.jitter", f"got hue {view.jitter[3]:g}, must be at most 0.5")
        if view.per_patch and view.kind != "patches":
            raise ConfigError(f"views.{name}.per_patch", f"is of views of kind patches, but this one is of kind {view.kind}")
        if view.kind == "patches" and 0 in view.grid:
            raise ConfigError(f"views.{name}.grid", "a view of kind patches needs rows, side and stride above 0")
