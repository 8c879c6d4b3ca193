"""Public checkpoints as encoders of contray: `contray import`. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.sections import LIBRARIES
from ..errors import UserError, nearest
from ..model import encoder, weights
from ..model.layouts import LAYOUTS
from . import drafts

SECTIONS = ("backbone.", "views.", "augment.", "data.")  # what a file does not tell


def import_file(file: Path | str, layout: str, out: Path, overrides: Mapping[str, Any] | None = None) -> encoder.Encoder:
    """Write the backbone in `file`, or timm/NAME or torchvision/NAME, to the new folder `out`, from which `contray eval --checkpoint` and
    `read_checkpoint` take it. layout: whose code wrote the file; empty: as its names tell.

    overrides: dotted keys of what the file does not tell: backbone.name of a network that is not built in (timm/NAME), backbone.heads of an
    unusual ViT, augment.mean and .std, views.image.size.
    Raises UserError, before anything is written, for a file that is no checkpoint, of another layout or of another architecture.
    """
    if layout and layout not in LAYOUTS:
        raise UserError(f"--layout: got {layout!r}; {nearest(layout, LAYOUTS)}")
    foreign = [key for key in overrides or {} if not key.startswith(SECTIONS)]
    if foreign:
        raise UserError(f"{foreign[0]}: an import takes {', '.join(f'{section}*' for section in SECTIONS)}")
    drafts.check(out)
    published = str(file).startswith(LIBRARIES)
    read = weights.encoder_of(weights.given(str(file)) if published else weights.of_file(Path(file), layout), overrides)
    with drafts.draft(out) as folder:
        encoder.export(read.config, read.method, folder)
    return read
