"""contray data scenes"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .options import arg

EXAMPLES = (
    ("contray data scenes", "into the new folder scenes"),
    ("contray data scenes --out /data/scenes", "into another"),
    ("contray data scenes --help", "what is written"),
)


@dataclass(frozen=True)
class Options:
    """Write the scenes of `contray eval detection` as files: several digits on each picture, with boxes and masks, in COCO's format."""

    out: Annotated[Path, arg("the new folder: train.json, val.json, and the pictures in train/ and val/")] = Path("scenes")


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Write the folder."""
    from ..data.scenes import write
    from ..exchange.drafts import draft

    with draft(options.out) as folder:
        write(folder)
    print(f"wrote {options.out}")
    return 0
