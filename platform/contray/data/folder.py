"""A folder of images: `train/CLASS/*.jpg` with `test/` or `val/` beside it, or images in any nesting without labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import DataError
from .splits import Encoded, EncodedSplit, digest

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"}
TEST_NAMES = ("test", "val", "validation")
_SIZES = 10_000  # files whose size goes into the fingerprint at most: asking a network disk for a million sizes takes minutes


def open_folder(root: Path, cache_gb: float) -> tuple[EncodedSplit, EncodedSplit | None]:
    """(train, test or None). Classes are the subfolders of `train`; a folder without `train` is all training data, unlabelled."""
    if not (root / "train").is_dir():
        return _split(root, _images(root), None, cache_gb), None
    train = _images(root / "train")
    classes = _classes(train)
    test_root = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    fit = _split(root / "train", train, classes, cache_gb)
    return fit, None if test_root is None else _split(test_root, _images(test_root), classes, cache_gb)


def _images(root: Path) -> list[str]:
    """Paths of the image files below `root`, relative to it and sorted; hidden files (macOS's ._x.jpg) are none."""
    found = [
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
    ]
    if not found:
        raise DataError(f"data.source: no image under {root} (looked for {', '.join(sorted(SUFFIXES))} in all subfolders)")
    return sorted(found)


def _classes(names: list[str]) -> list[str] | None:
    """Names of the first-level subfolders, where every image lies in one and there are at least two."""
    heads = {Path(name).parts[0] if len(Path(name).parts) > 1 else "" for name in names}
    return None if "" in heads or len(heads) < 2 else sorted(heads)


def _split(root: Path, names: list[str], classes: list[str] | None, cache_gb: float) -> EncodedSplit:
    labels = None
    if classes is not None:
        numbers = {name: number for number, name in enumerate(classes)}
        unknown = {Path(name).parts[0] for name in names} - numbers.keys()
        if unknown:
            raise DataError(
                f"data.source: {root} has {sorted(unknown)[0]!r}, which is no class of train ({', '.join(classes[:10])})"
            )
        labels = np.array([numbers[Path(name).parts[0]] for name in names], np.int64)

    def content() -> str:
        some = names[:: max(1, -(-len(names) // _SIZES))]
        return digest(names, [_size(root / name) for name in some])

    encoded = Encoded(len(names), lambda i: (root / names[i]).read_bytes(), lambda i: str(root / names[i]), content)
    return EncodedSplit(encoded, cache_gb, labels, classes or ())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # gone since it was listed: the loader will count it as broken
        return -1
