"""What a method is given of a sample: the specification of a view. And what fields of a configuration are made of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    empty: str = "",
) -> Any:
    """A config field: default, help, unit, allowed range (of each number of a tuple), and the word for an empty tuple, where that means something."""
    bounds = {name: bound for name, bound in (("ge", ge), ("gt", gt), ("le", le), ("lt", lt)) if bound is not None}
    meta = {"help": help, "unit": unit, "bounds": bounds, "empty": empty}
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


@dataclass(frozen=True)
class View:
    """What is drawn of one sample for one input of a method. Geometry first, then the photometric policy in the order of the fields.

    `augment.strength` scales the policy (`rotation` and every field after it up to `noise`), never the crop and the flip.
    """

    size: int = setting(224, "side of the drawn square", unit="px", ge=1)
    count: int = setting(1, "how many crops of this kind are drawn per sample", ge=1)
    source: str = setting("image", "column of the data source")
    kind: Literal["image", "patches", "array", "tokens"] = setting(
        "image",
        "one image, a grid of overlapping patches (see grid), a window of `size` values of an array, or `size` tokens of a text; "
        "crop, flip and the photometric policy are of images",
    )
    merges: str = setting(
        "", "tokens: a file of byte pair merges (CLIP's bpe_simple_vocab_16e6.txt.gz); empty: a token is a byte"
    )
    channels: int = setting(1, "arrays: channels, the first of two axes; images have data.channels", ge=1)
    crop: tuple[float, float] = setting(
        (0.08, 1.0), "area of the random resized crop; (0, 0): resize and centre crop", unit="fraction", ge=0, le=1
    )
    ratio: tuple[float, float] = setting((3 / 4, 4 / 3), "aspect ratio of the crop", ge=0.1, le=10)
    flip: float = setting(0.5, "horizontal flip", unit="probability", ge=0, le=1)
    geometry: str = setting("", "views of one geometry group share crop and flip; empty: a geometry of its own")
    interpolation: Literal["linear", "cubic", "area", "antialiased", "antialiased_cubic"] = setting(
        "linear",
        "how the crop is resized: linear as TensorFlow does it, cubic with a = -0.75 (OpenCV, TensorFlow 1; Pillow has -0.5), antialiased as Pillow "
        "and torchvision, area by means",
    )
    rotation: float = setting(0.0, "largest rotation", unit="degrees", ge=0, le=180)
    shear: float = setting(0.0, "shearing to both sides by up to 0.3 of the length", unit="probability", ge=0, le=1)
    elastic: float = setting(
        0.0, "elastic deformation: smooth shifts of a standard deviation of 0.03 of the side", unit="probability", ge=0, le=1
    )
    jitter: tuple[float, float, float, float] = setting(
        (0.0, 0.0, 0.0, 0.0), "brightness, contrast, saturation, hue", unit="fraction", ge=0
    )
    jitter_p: float = setting(0.0, "colour jitter", unit="probability", ge=0, le=1)
    jitter_as: Literal["torchvision", "tensorflow", "added"] = setting(
        "torchvision",
        "whose, of RGB (data.channels has torchvision's brightness and contrast alone): torchvision's; TensorFlow's, with contrast of each channel and "
        "saturation of HSV (SimCLR v2); added: that, with brightness added (SimCLR, BYOL)",
    )
    gray: float = setting(0.0, "conversion to grey", unit="probability", ge=0, le=1)
    gray_order: Literal["after_jitter", "before_jitter", "last"] = setting(
        "after_jitter", "when the conversion to grey happens, after what else is done where last"
    )
    blur: float = setting(0.0, "Gaussian blur", unit="probability", ge=0, le=1)
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "standard deviation of the blur", unit="px", gt=0)
    randaugment: tuple[int, int] = setting((0, 10), "RandAugment: number of operations and magnitude (0 to 10)", ge=0)
    randaugment_as: Literal["torchvision", "timm"] = setting(
        "torchvision",
        "whose: torchvision's, or timm's first, which does each operation with probability 0.5 and varies its magnitude",
    )
    solarize: float = setting(0.0, "solarisation (threshold 128)", unit="probability", ge=0, le=1)
    cutout: float = setting(0.0, "cutout of one square of half the side", unit="probability", ge=0, le=1)
    noise: float = setting(0.0, "Gaussian noise of standard deviation 0.1", unit="probability", ge=0, le=1)
    sobel: bool = setting(False, "replace the image by its Sobel gradient magnitude")
    space: Literal["rgb", "gray", "lab", "ycbcr"] = setting(
        "rgb", "colour space of the drawn pixels; gray: lightness in all channels"
    )
    grid: tuple[int, int, int] = setting((0, 0, 0), "patches: rows (= columns), side and stride in px", ge=0)
    grid_shift: int = setting(0, "patches: each is moved down and right at random by up to this", unit="px", ge=0)
    grid_kept: int = setting(
        0,
        "patches: of each, a square of this side at a random place is kept, in the middle of black; 0: all of it",
        unit="px",
        ge=0,
    )
    per_patch: bool = setting(False, "patches: the photometric policy is drawn for each patch by itself, not for the whole crop")

    def names(self, name: str) -> list[str]:
        """The keys of `Batch.views` that this entry fills: its own name, or name0, name1, ... where it is drawn several times."""
        return [name] if self.count == 1 else [f"{name}{i}" for i in range(self.count)]


def evaluation_view(view: View) -> View:
    """The deterministic counterpart of a training view: resize, centre crop, the same colour space and size."""
    return View(
        interpolation=view.interpolation,
        size=view.size,
        source=view.source,
        kind=view.kind,
        channels=view.channels,
        crop=(0.0, 0.0),
        flip=0.0,
        sobel=view.sobel,
        space=view.space,
        grid=view.grid,
    )
