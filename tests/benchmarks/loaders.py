"""Images per second of one core, from JPEGs on the disk to a batch of two views: contray against torchvision's ImageFolder, WebDataset and MosaicML Streaming.

    pip install webdataset mosaicml-streaming && taskset -c 0 python tests/benchmarks/loaders.py

All read the same JPEGs, draw SimCLR's policy at 224 px twice (and once more crops and flips alone), and end in batches of uint8 tensors; the loaders
take turns in one process. The others use torchvision's transforms on PIL images, as their documentation does.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from contray.config.sections import DataConfig
from contray.data import GlobalBatches, open_source
from contray.methods._base import View

BATCH, SIZE = 64, 224
FULL = View(
    size=SIZE, count=2, crop=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, gray=0.2, blur=0.5, blur_sigma=(0.1, 2.0)
)
PLAIN = View(size=SIZE, count=2, crop=(0.08, 1.0))


def write(root: Path, count: int, height: int = 375, width: int = 500) -> list[Path]:
    """JPEGs of ImageNet's usual size: textures of several scales, about 60 kB each; as files, in a tar and in Streaming's shards."""
    from streaming import MDSWriter
    from webdataset import TarWriter

    rng, files = np.random.default_rng(0), []
    (root / "folder" / "class").mkdir(parents=True)
    with TarWriter(str(root / "train.tar")) as tar, MDSWriter(out=str(root / "mds"), columns={"jpg": "bytes"}) as shards:
        for i in range(count):
            picture = np.zeros((height, width, 3), np.float32)
            for scale in (4, 16, 64, 256):
                noise = rng.standard_normal((max(2, height * scale // 1000), max(2, width * scale // 1000), 3)).astype(np.float32)
                picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * 28
            data = cv2.imencode(".jpg", np.clip(picture + 128, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])[
                1
            ].tobytes()
            files.append(root / "folder" / "class" / f"{i:06d}.jpg")
            files[-1].write_bytes(data)
            tar.write({"__key__": f"{i:06d}", "jpg": data})
            shards.write({"jpg": data})
    return files


def transform(view: View) -> Callable[[Any], list[torch.Tensor]]:
    """Two views of a PIL image by torchvision."""
    steps: list[Any] = [v2.RandomResizedCrop(SIZE, view.crop), v2.RandomHorizontalFlip()]
    if view.jitter_p:
        steps += [
            v2.RandomApply([v2.ColorJitter(*view.jitter)], view.jitter_p),
            v2.RandomGrayscale(view.gray),
            v2.RandomApply([v2.GaussianBlur(23, view.blur_sigma)], view.blur),
        ]
    one = v2.Compose([*steps, v2.PILToTensor()])
    return lambda image: [one(image), one(image)]


def contrays(source: Path, view: View) -> Iterator[Any]:
    batches = GlobalBatches(
        open_source(DataConfig(source=str(source), memory_gb=0.0)).train, {"view": view}, strength=1.0, batch_size=BATCH, seed=0
    )
    step = 0
    while True:
        yield batches.load(step, range(BATCH))
        step += 1


def endless(make: Callable[[], Any]) -> Iterator[Any]:
    while True:
        yield from make()


def loaders(root: Path, view: View) -> dict[str, Iterator[Any]]:
    import webdataset
    from streaming import StreamingDataset

    two = transform(view)

    class Streamed(StreamingDataset):
        def __getitem__(self, i: int) -> list[torch.Tensor]:
            return two(pillow(super().__getitem__(i)["jpg"]))

    files = datasets.ImageFolder(str(root / "folder"), two)
    tar = (
        webdataset.WebDataset(str(root / "train.tar"), shardshuffle=False, empty_check=False)
        .shuffle(1000)
        .decode("pil")
        .map(lambda each: two(each["jpg"]))
    )
    streamed = Streamed(local=str(root / "mds"), shuffle=True, batch_size=BATCH)
    keys: dict[str, Any] = {"batch_size": BATCH, "drop_last": True}
    return {
        "contray, folder": contrays(root / "folder", view),
        "contray, tar": contrays(root / "train.tar", view),
        "torchvision ImageFolder": endless(lambda: DataLoader(files, shuffle=True, **keys)),
        "WebDataset": endless(lambda: DataLoader(tar, **keys)),
        "MosaicML Streaming": endless(lambda: DataLoader(streamed, **keys)),
    }


def pillow(data: bytes) -> Any:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(data)).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5, help="batches of each loader, in turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = statistics.mean(file.stat().st_size for file in write(root, options.images))
        print(
            f"{options.images} JPEGs of 500 x 375 px, {size / 1e3:.0f} kB each; batches of {BATCH}, two views of {SIZE} px, one core"
        )
        for words, view in (("SimCLR's policy", FULL), ("crops and flips", PLAIN)):
            sides = loaders(root, view)
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for turn in range(options.rounds + 1):
                for name, side in sides.items():
                    begin = time.perf_counter()
                    next(side)
                    if turn:  # the first one warms up
                        seconds[name].append(time.perf_counter() - begin)
            rates = {name: BATCH / statistics.median(each) for name, each in seconds.items()}
            best = max(rate for name, rate in rates.items() if not name.startswith("contray"))
            for name, rate in rates.items():
                print(f"{words:16} {name:24} {rate:7.1f} images/s  {rate / best:.2f} of the best other")


if __name__ == "__main__":
    main()
