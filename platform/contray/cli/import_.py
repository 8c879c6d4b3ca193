"""contray import"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from . import documents
from .options import Positional, arg, config_from, json_note
from .output import answer

if TYPE_CHECKING:
    from ..config import RunConfig

LAYOUTS = ("torchvision", "timm", "moco", "simsiam", "barlow_twins", "dino", "dinov2", "dinov3", "mae", "moco_v3")
EXAMPLES = (
    ("contray import dino_vits16.pth --layout dino", "writes the folder dino_vits16"),
    ("contray import vit.pth --layout mae --backbone.heads 6", "with what the file does not tell"),
    ("contray import timm/vit_small_patch16_224.dino", "published weights, from the library's cache or the network"),
)
FEW = ("backbone.heads", "augment.mean", "augment.std", "views.image.size")


@dataclass(frozen=True)
class Options:
    """Take the backbone of a public checkpoint; `contray eval knn --checkpoint FOLDER` measures it beside ours. Nothing is unpickled."""

    file: Annotated[
        Positional[str], arg("a torch file of tensors, .safetensors, or published weights: timm/NAME[.TAG], torchvision/NAME")
    ]
    layout: Annotated[
        str,
        arg(
            ", ".join(LAYOUTS[:-1]) + f" or {LAYOUTS[-1]}: whose code wrote the file; default: as its names tell", choices=LAYOUTS
        ),
    ] = ""
    out: Annotated[Path | None, arg("the new folder; empty: the file's name without its ending, here")] = None
    json: Annotated[bool, json_note(documents.IMPORTED)] = False


def keys(options: Options) -> RunConfig:
    """The config of an imported encoder."""
    return config_from("imported", "", None, {})


def takes(options: Options) -> tuple[str, ...]:
    """What a file may leave untold."""
    from ..exchange.importing import SECTIONS

    return tuple(f"{section}*" for section in SECTIONS)


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Write the folder."""
    from ..config.sections import LIBRARIES
    from ..exchange.importing import import_file

    published = options.file.startswith(LIBRARIES)
    out = options.out or Path(options.file.rpartition("/")[2] if published else Path(options.file).stem)
    with answer(options.json) as tell:
        config = import_file(options.file, options.layout, out, dotted).config
        size = config.views["image"].size
        print(f"wrote {out}: {config.backbone.name} of {size} px images")
        tell({"out": out, "backbone": config.backbone.name, "size": size})
    return 0
