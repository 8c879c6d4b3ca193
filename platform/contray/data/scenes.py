"""A detection set that is always there: several handwritten digits on a coloured texture, in COCO's format with boxes and masks.

What training pictures show is drawn from the digits that pretraining sees, what test pictures show from those that it does not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..config.sections import DataConfig
from .digits import _BANK, TEXTURES, WORDS, open_digits, paint, shaded, textures, tint
from .draws import generator

SIDE = 96
COUNTS = {"train": 400, "val": 200}
_FIXED = 20_191_113  # seed of the scenes; the date of MoCo's first version
_MOST = 5  # digits of a scene
_INK = 96  # grey value above which a pixel belongs to its digit
_OVERLAP = 0.15  # of the smaller square, at most
_CONTRAST = 0.35


def scenes(part: str, count: int = 0, side: int = SIDE) -> tuple[dict[str, Any], list[np.ndarray]]:
    """COCO's description of the pictures of "train" or "val", and the pictures (side, side, 3) uint8; count 0: as many as COUNTS says.

    A pure function of its arguments: picture i is the same among more or fewer. Category 1 is zero, 10 is nine. Masks are what is
    seen of a digit, as RLE.
    """
    from pycocotools import mask as rle

    split = open_digits(DataConfig(contrast=_CONTRAST))[part == "val"]
    images, annotations, pictures = [], [], []
    for i in range(count or COUNTS[part]):
        picture, labels, masks = _draw(split.digits, split._classes, side, generator(_FIXED, f"scenes {part}", i))
        images.append({"id": i + 1, "file_name": f"{i + 1:06d}.png", "width": side, "height": side})
        for label, mask in zip(labels, masks, strict=True):
            code: Any = rle.encode(np.asfortranarray(mask))
            y, x = np.nonzero(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": i + 1, "category_id": label + 1, "iscrowd": 0, "area": int(mask.sum()),
                    "bbox": [int(x.min()), int(y.min()), int(x.max() - x.min() + 1), int(y.max() - y.min() + 1)],
                    "segmentation": {"size": [side, side], "counts": code["counts"].decode()},
                }
            )  # fmt: skip
        pictures.append(picture)
    categories = [{"id": i + 1, "name": word, "supercategory": "digit"} for i, word in enumerate(WORDS)]
    return {"images": images, "annotations": annotations, "categories": categories}, pictures


def write(out: Path) -> None:
    """The scenes as files: train.json, val.json and the pictures in train/ and val/."""
    for part in COUNTS:
        described, pictures = scenes(part)
        (out / part).mkdir(parents=True)
        for image, picture in zip(described["images"], pictures, strict=True):
            cv2.imwrite(str(out / part / image["file_name"]), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        (out / f"{part}.json").write_text(json.dumps(described, indent=1))


def _draw(
    digits: np.ndarray, classes: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[int], list[np.ndarray]]:
    """The picture (side, side, 3), and the class and the visible mask (side, side) of each digit on it, 1 to _MOST of them."""
    texture = textures(side)[rng.integers(len(TEXTURES)), rng.integers(_BANK)]
    top, left = rng.integers(0, side + 1, 2)
    dark, light = rng.random((2, 3)).astype(np.float32)
    picture = shaded(texture[top : top + side, left : left + side], dark, light, _CONTRAST)  # (side, side, 3)
    squares: list[tuple[int, int, int]] = []
    labels: list[int] = []
    masks: list[np.ndarray] = []
    for _ in range(rng.integers(1, _MOST + 1)):
        size = int(rng.integers(side // 6, side * 5 // 12 + 1))
        places = [(int(y), int(x), size) for y, x in rng.integers(0, side - size + 1, (20, 2))]
        square = next((each for each in places if all(_shared(each, other) <= _OVERLAP for other in squares)), None)
        which, colour = int(rng.integers(len(digits))), tint(*rng.random(2))
        if square is None:
            continue
        y, x, _ = square
        ink = cv2.resize(digits[which], (size, size), interpolation=cv2.INTER_CUBIC)
        paint(picture[y : y + size, x : x + size], ink, colour)
        whole = np.zeros((side, side), np.uint8)
        whole[y : y + size, x : x + size] = ink > _INK
        for earlier in masks:
            earlier &= 1 - whole
        squares.append(square)
        labels.append(int(classes[which]))
        masks.append(whole)
    return picture, labels, masks


def _shared(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """What two squares (top, left, side) have in common, as a share of the smaller."""
    height, width = (min(a[i] + a[2], b[i] + b[2]) - max(a[i], b[i]) for i in (0, 1))
    return max(height, 0) * max(width, 0) / min(a[2], b[2]) ** 2
