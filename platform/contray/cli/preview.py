"""contray data preview"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..pictures import check_out
from .options import CHANNELS_HELP, Positional, arg, at_least, config_from

if TYPE_CHECKING:
    from ..config import RunConfig

EXAMPLES = (
    ("contray data preview moco", "the views of six digits, as views.png"),
    ("contray data preview simclr --data.source photos/ --out photos.png", "of your images"),
    ("contray data preview dino --augment.strength 2 --images 12", "with a stronger policy, of twelve images"),
)
FEW = ("data.source", "augment.strength", "views.*.size", "views.*.crop", "views.*.jitter", "views.*.blur", "seed")


@dataclass(frozen=True)
class Options:
    """Draw the views of a few images as METHOD will see them."""

    method: Annotated[Positional[str], arg("a name from `contray methods`, or the path of your own .py file")] = "simclr"
    preset: Annotated[str, arg("named settings of the method; default: for your own data auto")] = ""
    config: Annotated[Path | None, arg("YAML of dotted or nested keys, such as the config.yaml that every run keeps")] = None
    out: Annotated[Path, arg("the picture to write: .png, .jpg, .pdf or .svg")] = Path("views.png")
    images: Annotated[int, arg("images to draw, a row of views of each")] = 6
    channels: Annotated[tuple[int, ...], arg(CHANNELS_HELP)] = ()


def keys(options: Options) -> RunConfig:
    """The config whose views are drawn."""
    return config_from(options.method, options.preset, options.config, {})


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Write the picture."""
    config = config_from(options.method, options.preset, options.config, dotted)
    at_least("--images", options.images, 1)
    check_out(options.out)
    from .. import data
    from ..pictures.look import Look
    from ..pictures.preview import draw

    source = data.announced(config)
    if config.unplanned:
        from ..planning import planned

        config, _ = planned(config, source)
        source = data.open_source(config)  # as a run reads it
    look = Look.of(config, source.train, options.channels)
    draw(
        source.train, config.views, strength=config.augment.strength, seed=config.seed, samples=options.images, out=options.out, look=look
    )  # fmt: skip
    print(f"wrote {options.out}")
    return 0
