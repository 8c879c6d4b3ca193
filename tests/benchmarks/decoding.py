"""Milliseconds to read a JPEG and crop two views from it, whole and reduced, and how far the views' pixels lie from those of the whole image.

    OMP_NUM_THREADS=1 python tests/benchmarks/decoding.py

Synthetic photos (noise of several scales, quality 90); processor time of one thread, medians of interleaved turns.
"""

from __future__ import annotations

import statistics
import time

import cv2
import numpy as np
import torch

from contray.data.form import Form
from contray.data.views import Pipeline
from contray.methods._base import View

TURNS = 25
CASES = [((500, 375), 64), ((500, 375), 224), ((2000, 1500), 64), ((2000, 1500), 224), ((4000, 3000), 224)]
SPARE = 2.5  # times the view's side, as the plan has it


def photo(width: int, height: int) -> bytes:
    draws = np.random.default_rng(0)
    image = draws.normal(128, 9, (height, width, 3)).astype(np.float32)
    for scale in (8, 32, 128, 512):
        coarse = draws.normal(0, 60 / scale**0.5, (height * scale // 2000 + 2, width * scale // 2000 + 2, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    whole = np.clip(image, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", whole, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(
        "| photo | view | way | read as | read | two views | mean difference of a view of a quarter | largest |\n|---|---|---|---|---|---|---|---|"
    )
    for (width, height), size in CASES:
        encoded, side = photo(width, height), 32 * -(-int(SPARE * size) // 32)
        views = {name: View(size=size, interpolation="antialiased") for name in ("a", "b")}
        middle = Pipeline(
            {"view": View(size=size, crop=(0.25, 0.25), ratio=(1.0, 1.0), interpolation="antialiased", flip=0.0)}, 0.0
        )
        pipeline, ways = Pipeline(views, 0.0), {"whole": (Form(), 0), "area": (Form(), side), "dct": (Form(reduce="dct"), side)}
        spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        shown, shapes = {}, {}
        for turn in range(TURNS):
            for way, (form, shorter) in ways.items():
                began = time.process_time()
                image = form.decode(encoded, "photo", shorter_side=shorter)
                read = time.process_time()
                pipeline(lambda *_, image=image: image, (0, 0, turn))
                spent[way].append((read - began, time.process_time() - read))
                shapes[way], shown[way] = image.shape, middle(lambda *_, image=image: image, (0, 0, 0))["view"].astype(int)
        for way, times in spent.items():
            read, drawn = (1e3 * statistics.median(each) for each in zip(*times, strict=True))
            off = np.abs(shown[way] - shown["whole"])
            where = f"{shapes[way][1]} x {shapes[way][0]}"
            print(
                f"| {width} x {height} | {size} | {way} | {where} | {read:.1f} | {drawn:.1f} | {off.mean():.2f} | {off.max()} |"
            )


if __name__ == "__main__":
    main()
