"""A data source: images and labels in a NumPy file.

contray train simclr --data.source numpy_array.py --data.numpy_array.path photos.npz
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contray.data import ArraySplit, Source
from contray.errors import DataError
from contray.methods import setting


@dataclass(frozen=True)
class Config:
    path: str = setting(
        "", "train_images uint8 (N, H, W, 3), and train_labels (N,), test_images, test_labels, classes where there are any"
    )


def open_source(config, own: Config) -> Source:
    """config: the keys data.*; own: those of data.numpy_array.*."""
    file = Path(own.path).expanduser()
    if not file.is_file():
        raise DataError(f"path: there is no file {own.path!r}; give an .npz or .npy file")
    if file.suffix == ".npz":  # never with allow_pickle: data must run no code
        with np.load(file) as found:
            arrays = dict(found)
    else:
        arrays = {"train_images": np.load(file, mmap_mode="r")}
    if "train_images" not in arrays:
        raise DataError(f"path: {file} holds {', '.join(arrays)}, but no train_images")
    labels = arrays.get("train_labels")
    names = arrays["classes"] if "classes" in arrays else [] if labels is None else np.arange(labels.max() + 1)

    def split(part: str) -> ArraySplit:
        return ArraySplit(part, arrays[f"{part}_images"], arrays.get(f"{part}_labels"), list(map(str, names)))

    return Source(file.stem, split("train"), split("test") if "test_images" in arrays else None)
