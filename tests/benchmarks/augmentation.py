"""Two-view CIFAR augmentation on one core: contray's Pipeline against lightly's SimCLRTransform, interleaved in one run.

    pip install "contray[bench]" && python tests/benchmarks/augmentation.py

Both draw SimCLR's CIFAR policy (crop (0.08, 1), flip, jitter 0.4/0.4/0.4/0.1 at 0.8, grey 0.2, no blur) from decoded images
(lightly from PIL images, as its data sets give them) and end in a batch of normalised float tensors. Ours includes setting the
generator to (seed, epoch, sample, view) for every view; lightly's draws are not reproducible at all.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from contray.data.views import Pipeline
from contray.methods._base import View

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POLICY = View(size=32, count=2, crop=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.2)


def ours(images: list[np.ndarray]) -> Callable[[], list[torch.Tensor]]:
    """A batch by contray: uint8 views, stacked, normalised in torch as the training loop does."""
    pipeline = Pipeline({"view": POLICY}, 1.0)
    mean, std = (torch.tensor(value).mul(255).view(1, 3, 1, 1) for value in (MEAN, STD))

    def batch() -> list[torch.Tensor]:
        drawn = [pipeline(lambda column, rng, i=i: images[i], (0, 0, i)) for i in range(len(images))]
        views = (torch.from_numpy(np.stack([sample[name] for sample in drawn])) for name in ("view0", "view1"))
        return [(view.permute(0, 3, 1, 2).float() - mean) / std for view in views]

    return batch


def lightlys(images: list[np.ndarray]) -> Callable[[], list[torch.Tensor]]:
    """The same batch by lightly."""
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    pictures = [Image.fromarray(image) for image in images]

    def batch() -> list[torch.Tensor]:
        drawn = [transform(picture) for picture in pictures]
        return [torch.stack([sample[number] for sample in drawn]) for number in (0, 1)]

    return batch


def main() -> None:
    parser = argparse.ArgumentParser(description="Two-view CIFAR augmentation on one core, against lightly")
    parser.add_argument("--images", type=int, default=512, help="images per batch")
    parser.add_argument("--repeats", type=int, default=9, help="batches per side")
    parser.add_argument(
        "--parquet", default="", help="real images: a Parquet file in the Hugging Face layout; empty: synthetic ones"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = pictures(options.images, options.parquet)
    sides = {"contray": ours(images), "lightly": lightlys(images)}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(options.repeats + 1):
        for name, batch in sides.items():
            start = time.perf_counter()
            views = batch()
            seconds = time.perf_counter() - start
            assert [(view.shape, view.dtype) for view in views] == [((len(images), 3, 32, 32), torch.float32)] * 2
            if repeat:  # the first is a warm-up
                rates[name].append(len(images) / seconds)
    for name, values in rates.items():
        print(f"{name}: {statistics.median(values):.0f} images/s (two views each), range {min(values):.0f} to {max(values):.0f}")
    ratios = [a / b for a, b in zip(rates["contray"], rates["lightly"], strict=True)]
    print(f"ratio: {statistics.median(ratios):.2f}, range {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} repeats")


def pictures(count: int, parquet: str) -> list[np.ndarray]:
    """`count` images of 32 x 32 px."""
    if not parquet:
        rng = np.random.default_rng(0)
        return list(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))
    from contray.config.sections import DataConfig
    from contray.data import open_source

    split = open_source(DataConfig(source=parquet)).train
    return [split.image(i, None) for i in range(count)]


if __name__ == "__main__":
    main()
