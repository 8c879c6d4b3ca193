"""A look at a data set before days of training: every image is read once, and what a person should know is said, with how to mend it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import data
from ..config import RunConfig
from ..data.lists import TABLES
from ..errors import ConfigError, UserError, check_writable
from ..processors import cores
from .duplicates import find
from .facts import Channels, Classes, Part
from .findings import SEVERITIES, empty_folders, findings
from .gather import Show, gather
from .groups import groups, kept, names_to_keep
from .keep import KINDS, write
from .result import Inspection
from .training import suggestion, view_size

METHOD = "simclr"  # whose two views are drawn, and which is suggested


def inspect(
    config: RunConfig,
    given: Mapping[str, Any],
    *,
    sample: int = 0,
    rate: float = 0.0,
    out: Path | None = None,
    clean: Path | None = None,
    show: Show = lambda message: None,
) -> Inspection:
    """Look at `config.data.source`. given: the data.* keys that were given besides it; the others as `contray.check_data` has them.

    Raises UserError for what cannot be done, before anything is read where that can be told.
    """
    if sample < 0 or rate < 0:
        raise UserError(f"--{'sample' if sample < 0 else 'gpu-images-per-second'}: got {min(sample, rate):g}, must be at least 0")
    if sample and clean:
        raise UserError("--clean: needs all images, and --sample looks at some; leave one of them out")
    if clean and clean.suffix.lower() in TABLES:
        raise UserError(f"--clean: got {clean}, but the list is a text of a name a line; end it in .txt")
    if out and out.suffix not in KINDS:
        raise UserError(f"--out: got {out}, must end in {', '.join(KINDS)}")
    for option, path in (("--out", out), ("--clean", clean)):
        if path:
            check_writable(option, path)
    began = time.monotonic()
    source = data.open_source(config)
    if source.train.columns.get("image", "image") != "image":
        raise ConfigError("data.source", f"{config.data.source} has no images to look at")
    notes = [*source.notes, *source.train.notes()]
    records, found = gather(source, sample, config.seed, cores(), config.data.scratch, show)
    equal = find(
        records, config.seed, lambda done: show({"step": round(1000 * done), "total": 1000, "unit": "part", "phase": "comparing"})
    )
    listed, parts = groups(found, equal), [Part.of(each) for each in found]
    classes, channels = Classes.of(found), Channels.of(found[0])
    show({"phase": "measuring"})
    speed, command = suggestion(config, given, source, parts[0], channels, rate, str(clean or "")) if channels else (None, "")
    told = findings(found, parts, classes, channels, listed, config.data.max_broken, speed.size if speed else 0)
    told += empty_folders(config.data.source, found)
    told.sort(key=lambda each: SEVERITIES.index(each.severity))
    result = Inspection(
        source.name, notes, parts, classes, channels, listed, told, speed, command, bool(sample), equal.compared,
        time.monotonic() - began, rate, found,
    )  # fmt: skip
    if clean:
        clean.write_text(names_to_keep(found[0], kept(found[0], equal)), encoding="utf-8", errors="surrogateescape")
    if out:
        write(result, config, source, out)
    return result


__all__ = ["METHOD", "Inspection", "inspect", "view_size"]
