"""Dropped images beside what they are like: whoever drops by features wants to see whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...config import RunConfig
from ...config.sections import DataConfig
from ...data.finding import find
from ...data.pixels import BrokenImage
from ...data.sources import open_source
from ...drawing import drawable
from ...pictures.look import Look
from ...pictures.sheet import Sheet

COLUMNS, GAP, SIDE = 4, 0.35, 160  # pairs in a row, tiles between two, px that are drawn of an image


def draw_pairs(keys: DataConfig, out: Path, dropped: Sequence[str], like: Sequence[str], similarity: Sequence[float]) -> Path:
    """A picture of pairs, the dropped image to the left. keys: of a source that has them all."""
    source = open_source(replace(keys, test_share=0.0, label_column=""))
    read = {"data.source": keys.source, "data.channels": keys.channels, "data.range": keys.range}
    look = Look.of(RunConfig.make("simclr", read), source.train) if keys.channels else Look()
    splits = [source.train, *([] if source.test is None else [source.test])]
    ids = find(splits, [*dropped, *like])
    rows = -(-len(dropped) // COLUMNS)
    title, note = "dropped images (left) and what they are like", "cosine similarity; from the least similar pair to the most"
    sheet = Sheet(rows, min(COLUMNS, len(dropped)) * (2 + GAP) - GAP, title, note=note, pitch=1.12)
    for place_in, (first, second, value) in enumerate(zip(ids[: len(dropped)], ids[len(dropped) :], similarity, strict=True)):
        row, column = divmod(place_in, COLUMNS)
        for side, i in enumerate((int(first), int(second))):
            split, own = (splits[0], i) if i < len(splits[0]) else (splits[1], i - len(splits[0]))
            try:
                image = _small(look(split.image(own, None)))
            except BrokenImage:
                continue
            word = f"{value:.3f}" if side else drawable(split.key(own).rpartition("/")[2], 14)
            sheet.tile(row, column * (2 + GAP) + side, image, below=word)
    sheet.save(out)
    return out


def _small(image: np.ndarray) -> np.ndarray:
    import cv2

    scale = SIDE / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
