"""Data in COCO's format: one JSON file per part that lists images, annotations and categories; the images lie beside it.

C categories in the order of their ids, N objects of an image
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...data.pixels import BrokenImage, Depth, decode, of_set, survey
from ...data.scenes import scenes
from ...errors import DataError, UserError, shown

SCENES = "scenes"
_SURVEYED = 64  # images that tell what range a set's values have
IGNORE = 255  # pixels that count for no class: crowds and padding

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Objects:
    """What an image shows, without crowds: boxes (N, 4) float32 x1 y1 x2 y2 in px, labels (N,) int64 in [1, C], masks (N, H, W) uint8 or None."""

    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None


class CocoSet:
    """One part of a data set, checked. `truth` is pycocotools' own index of it; image i is the i-th of the file."""

    def __init__(self, where: str, found: Any, read: Callable[[int], np.ndarray], max_empty: float) -> None:
        """where: what to call the file in messages; read(i) gives image i as (H, W, 3) uint8.

        Boxes are cut at the image's border; those of which nothing is left are left out and named, and more than the share `max_empty`
        of them is refused. Raises DataError for whatever else does not hang together.
        """
        from pycocotools.coco import COCO

        self.where, self.read = where, read
        found = _checked(where, found, max_empty)
        self.images: list[dict[str, Any]] = found["images"]
        categories = sorted(found["categories"], key=lambda each: each["id"])
        self.ids: list[int] = [each["id"] for each in categories]  # of label 1, 2, ... C
        self.classes: list[str] = [each["name"] for each in categories]
        self.label = {category: label for label, category in enumerate(self.ids, 1)}
        self.truth: Any = COCO()  # typed as files have it, not as they may be given
        self.truth.dataset = found
        with contextlib.redirect_stdout(io.StringIO()):
            self.truth.createIndex()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """The median of the images' shorter sides, in px."""
        return int(np.median([min(each["height"], each["width"]) for each in self.images]))

    def image(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8. Raises DataError where it cannot be read or has another size than the file says."""
        pixels, own = self.read(i), self.images[i]
        if pixels.shape[:2] != (own["height"], own["width"]):
            raise DataError(
                f"--data: {own['file_name']} is {pixels.shape[1]} x {pixels.shape[0]} px, "
                f"but {self.where} says {own['width']} x {own['height']}"
            )
        return pixels

    def annotations(self, i: int) -> list[dict[str, Any]]:
        return self.truth.imgToAnns[self.images[i]["id"]]

    def objects(self, i: int, masks: bool) -> Objects:
        """The boxes of image i and, where they are asked for, its masks."""
        own = [each for each in self.annotations(i) if not each["iscrowd"]]
        x, y, w, h = np.array([each["bbox"] for each in own], np.float32).reshape(-1, 4).T
        boxes = np.stack([x, y, x + w, y + h], 1)
        labels = np.array([self.label[each["category_id"]] for each in own], np.int64)
        if not masks:
            return Objects(boxes, labels)
        size = self.images[i]["height"], self.images[i]["width"]
        return Objects(boxes, labels, np.array([self.mask(each) for each in own], np.uint8).reshape(-1, *size))

    def mask(self, annotation: Mapping[str, Any]) -> np.ndarray:
        """(H, W) uint8 of an annotation's polygons or RLE."""
        return self.truth.annToMask(annotation)

    def semantic(self, i: int) -> np.ndarray:
        """(H, W) uint8: label of the object that each pixel belongs to, of several the smallest; 0 background, IGNORE crowds."""
        shown = np.zeros((self.images[i]["height"], self.images[i]["width"]), np.uint8)
        for each in sorted(self.annotations(i), key=lambda each: -each["area"]):
            shown[self.mask(each) > 0] = IGNORE if each["iscrowd"] else self.label[each["category_id"]]
        return shown

    def check_masks(self) -> None:
        """Raises DataError where an object has no mask, or more classes are named than a byte can tell apart."""
        images = {image["id"]: image for image in self.images}
        for each in self.truth.dataset["annotations"]:
            drawn, image = each.get("segmentation"), images[each["image_id"]]
            if not _is_mask(drawn, image):
                raise DataError(
                    f"--data: {self.where}: annotation {each['named']} has the segmentation {str(drawn)[:60]}, must be polygons of at least "
                    f"three points or an RLE of {image['height']} x {image['width']}; detection with --head fpn or c4 needs none"
                )
        if len(self.classes) >= IGNORE:
            raise DataError(f"--data: {self.where} has {len(self.classes)} categories; masks can tell {IGNORE - 1} apart")


def open_sets(place: str, max_empty: float) -> tuple[str, CocoSet, CocoSet]:
    """(name, training part, test part) of "scenes" or a folder. Raises UserError and DataError, one line each; images are read later.

    In a folder: train.json and val.json (or test.json), or annotations/instances_train*.json and instances_val*.json. Images lie in a
    folder named as the part (train, train2017), in images/, or beside the file.
    """
    if place == SCENES:
        parts = []
        for part in ("train", "val"):
            described, pictures = scenes(part)
            parts.append(CocoSet(f"the {part} scenes", described, pictures.__getitem__, max_empty))
        return SCENES, parts[0], parts[1]
    root = Path(place).expanduser()
    if not root.is_dir():
        raise UserError(
            f"--data: there is no folder {place}; {SCENES}, or a folder with train.json and val.json in COCO's format"
        )
    files = [_described(root, names) for names in (("train",), ("val", "test"))]
    train, test = (_read_set(root, file, part, max_empty) for file, part in zip(files, ("train", "val"), strict=True))
    named = [dict(zip(part.ids, part.classes, strict=True)) for part in (train, test)]
    if named[0] != named[1]:
        odd = sorted({f"{i} {name}" for i, name in named[0].items() ^ named[1].items()})
        raise DataError(f"--data: {files[0].name} and {files[1].name} have other categories: {', '.join(odd[:5])}")
    return re.sub(r"[^A-Za-z0-9_-]", "_", root.resolve().name), train, test


def _described(root: Path, parts: Sequence[str]) -> Path:
    """The one JSON file of a part."""
    for part in parts:
        plain = root / f"{part}.json"
        found = [plain] if plain.is_file() else sorted((root / "annotations").glob(f"instances_{part}*.json"))
        if len(found) > 1:
            raise DataError(f"--data: {root} has {', '.join(file.name for file in found)}; copy or link one as {part}.json")
        if found:
            return found[0]
    raise DataError(f"--data: {root} has neither {parts[0]}.json nor annotations/instances_{parts[0]}*.json")


def _read_set(root: Path, file: Path, part: str, max_empty: float) -> CocoSet:
    try:
        found = json.loads(file.read_bytes())  # also UTF-16 and with a mark of its order
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"--data: {file} is no JSON ({error})") from None
    own = file.stem.removeprefix("instances_")
    places = [root / own, root / "images" / own, root / "images", root / part, root]
    paths: list[Path] = []

    def read(i: int) -> np.ndarray:
        try:  # boxes are of the stored pixels
            return decode(paths[i].read_bytes(), shown(paths[i]), partial(of_set, depth(), shown(paths[i])), stored=True)
        except (BrokenImage, OSError) as error:
            raise DataError(f"--data: {shown(paths[i])} is no image that can be read ({_why(error)})") from None

    @cache
    def depth() -> Depth | None:
        """One range of the images of more than 8 bits, as everywhere."""
        places = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, _SURVEYED).astype(int)).tolist()]
        return survey((shown(place), place.read_bytes()) for place in places).depth

    made = CocoSet(str(file), found, read, max_empty)
    names = [each["file_name"] for each in made.images]
    folder = next((place for place in places if _is_file(place / names[0])), None)
    if folder is None:
        looked = ", ".join(str(place.relative_to(root)) for place in places)
        raise DataError(f"--data: image {names[0]} of {file} lies in none of {looked} of {root}")
    paths.extend(folder / name for name in names)
    gone = [path for path in paths if not _is_file(path)]
    if gone:
        raise DataError(f"--data: {len(gone)} of {len(paths)} images of {file} are missing, the first is {gone[0]}")
    return made


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:  # e.g. a name that is too long
        return False


def _why(error: BrokenImage | OSError) -> str:
    return error.reason if isinstance(error, BrokenImage) else str(error.strerror)


# ---------------------------------------------------------------- checks


def _checked(where: str, found: Any, max_empty: float) -> dict[str, list[dict[str, Any]]]:
    """A copy of the three lists with boxes cut at the border, or a DataError that names what is wrong."""

    def refuse(problem: str) -> DataError:
        return DataError(f"--data: {where}: {problem}")

    if not isinstance(found, Mapping):
        raise refuse("no JSON object with images, annotations and categories")
    needed = {"images": ("id", "file_name", "height", "width"), "categories": ("id", "name"), "annotations": ("image_id", "category_id", "bbox")}  # fmt: skip
    lists: dict[str, list[dict[str, Any]]] = {}
    for kind, keys in needed.items():
        rows = found.get(kind)
        if not isinstance(rows, list) or not rows:
            raise refuse(f"it has no {kind}")
        for row in rows:
            lacking = [key for key in keys if not isinstance(row, Mapping) or key not in row]
            if lacking:
                raise refuse(f"one of its {kind}, {str(row)[:80]}, has no {lacking[0]}")
            numbers = [key for key in keys if key.endswith("id") and type(row[key]) is not int]
            if numbers:
                raise refuse(f"one of its {kind} has the {numbers[0]} {row[numbers[0]]!r}, must be a whole number")
            words = [key for key in keys if key.endswith("name") and not (isinstance(row[key], str) and row[key])]
            if words:
                raise refuse(f"one of its {kind} has the {words[0]} {row[words[0]]!r}, must be a text")
        lists[kind] = [dict(row) for row in rows]
    for kind in ("images", "categories"):
        number, times = Counter(row["id"] for row in lists[kind]).most_common(1)[0]
        if times > 1:
            raise refuse(f"{times} of its {kind} have the id {number}")
    images, categories = ({row["id"]: row for row in lists[kind]} for kind in ("images", "categories"))
    for image in lists["images"]:
        if not all(type(image[side]) is int and image[side] > 0 for side in ("height", "width")):
            raise refuse(
                f"image {image['id']} has width {image['width']} and height {image['height']}, must be whole and above 0"
            )
    kept, empty = [], []
    for number, row in enumerate(lists["annotations"], 1):
        # for messages: pycocotools takes a detection of annotation 0 for a wrong one, and one of two alike
        own = row.get("id", number)
        image = images.get(row["image_id"])
        if image is None:
            raise refuse(f"annotation {own} is of image {row['image_id']}, which does not exist")
        if row["category_id"] not in categories:
            raise refuse(f"annotation {own} is of category {row['category_id']}, which does not exist")
        box = row["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(_number(v) for v in box):
            raise refuse(f"annotation {own} has the box {box}, must be four numbers: left, top, width, height")
        left, top = max(box[0], 0), max(box[1], 0)
        right, bottom = min(box[0] + box[2], image["width"]), min(box[1] + box[3], image["height"])
        if right <= left or bottom <= top:
            empty.append(row | {"id": own})
            continue
        area, crowd = row.get("area"), row.get("iscrowd")
        if not (area is None or _number(area)):
            raise refuse(f"annotation {own} has the area {str(area)[:60]}, must be a number")
        if crowd not in (None, 0, 1):
            raise refuse(f"annotation {own} has the iscrowd {str(crowd)[:60]}, must be 0 or 1")
        box = [left, top, right - left, bottom - top]
        kept.append(
            row
            | {
                "id": number,
                "named": own,
                "bbox": box,
                "area": box[2] * box[3] if area is None else area,
                "iscrowd": int(crowd or 0),
            }
        )
    if empty:
        named = f"{len(empty)} of {len(lists['annotations'])} boxes are empty, the first is {empty[0]['bbox']} of annotation {empty[0]['id']}"
        if len(empty) > max_empty * len(lists["annotations"]):
            raise refuse(f"{named}; data.max_broken {max_empty:g} is the most")
        logger.warning("%s: %s; they are left out", where, named)
    if all(row["iscrowd"] for row in kept):
        raise refuse("all annotations are crowds, which nothing is trained or measured on")
    return {**lists, "annotations": kept}


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e15  # nor NaN, nor what no float holds


def _is_mask(drawn: Any, image: Mapping[str, Any]) -> bool:
    """Whether a segmentation is polygons, or an RLE of the image's size, compressed or not."""
    if isinstance(drawn, list):
        return bool(drawn) and all(
            isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0 and all(map(_number, one)) for one in drawn
        )
    size, pixels = [image["height"], image["width"]], image["height"] * image["width"]
    if not isinstance(drawn, Mapping) or drawn.get("size") != size:
        return False
    counts = drawn.get("counts")
    if isinstance(counts, list):
        return all(type(each) is int and each >= 0 for each in counts) and sum(counts) == pixels
    return isinstance(counts, str) and _pixels_of(counts) == pixels


def _pixels_of(counts: str) -> int:
    """How many pixels a compressed RLE counts, -1 where it is none: pycocotools would read beyond its end."""
    runs: list[int] = []
    value = shift = 0
    for sign in counts:
        bits = ord(sign) - 48
        if not 0 <= bits < 64:
            return -1
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            return -1
        value = shift = 0
    return -1 if shift else sum(runs)
