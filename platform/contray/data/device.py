"""Views made where the network is (`data.augment_on device`): tables of draws and whole uint8 images go there, pixels move there in batches.

Images that are held decoded go over once where they fit, else those of each batch, one batch ahead. Both ways, and any number of ranks, give the
same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..methods._base import View
from .batches import GlobalBatches
from .recipe import Recipes
from .rendering import coloured, cropped
from .splits import BrokenImage, Split

SHARE = 0.25  # of a device's free memory that the images of a set may take


class DeviceBatches(GlobalBatches):
    """Global batches whose rows are still to be made into views, by a `Renderer`.

    lies: where each image of the set lies among its pixels on the device, (N, 3) first pixel, height and width; None: the images go with each batch.
    """

    lies: np.ndarray | None = None

    def __init__(self, split: Split, views: Mapping[str, View], *, strength: float, **options: Any) -> None:
        super().__init__(split, views, strength=0.0, **options)
        self.recipes = Recipes(views, strength)
        drawn = split.generated and not self.fixed
        self.picture_of = {stage.name: stage.name if drawn else stage.view.source for stage in self.recipes.stages}

    def load(self, step: int, slots: range) -> dict[str, Any]:
        """The rows of `slots` of a global batch.

        tables: {view: (b, 15 + K) float32}; lies: {picture: (b, 3) int64}; pixels: {picture: (P, 3) uint8}, unless they are on the device;
        longest: side of any image; index, slot, broken: as of GlobalBatches.
        """
        epoch, first = self.place(step)
        known, ids = len(self.broken), self.ids(step, slots).tolist()
        if self.lies is None:
            self.split.expect([i for i in ids if i not in self.broken])
        rows = [self._pictures(epoch, first + slot, i) for slot, i in zip(slots, ids, strict=True)]
        index = np.array([i for i, _ in rows], np.int64)
        lies, pixels = self._laid(index, [pictures for _, pictures in rows])
        sizes = {name: lies[picture][:, 1:] for name, picture in self.picture_of.items()}
        return {
            "tables": {name: torch.from_numpy(table) for name, table in self.recipes((self.seed, epoch), index, sizes).items()},
            "lies": {picture: torch.from_numpy(each) for picture, each in lies.items()},
            "pixels": pixels,
            "longest": int(max((each[:, 1:].max(initial=1) for each in lies.values()), default=1)),
            "index": torch.from_numpy(index),
            "slot": torch.arange(slots.start, slots.stop, dtype=torch.int64),
            "broken": dict(list(self.broken.items())[known:]),
        }

    def _pictures(self, epoch: int, place: int, own: int) -> tuple[int, dict[str, np.ndarray]]:
        """The sample at a place of the order, or what replaces a broken one, and its pictures where they go with the batch."""
        for i in chain([own], self._others(epoch, place)):
            if i in self.broken:
                continue
            if i in self.split.broken:
                self.note({i: self.split.broken[i]})
                continue
            try:
                return i, {} if self.lies is not None else self._read(epoch, i)
            except BrokenImage as error:
                self.note({i: error.reason})
        raise DataError(f"data.source: none of the {len(self.split)} images can be read")

    def _read(self, epoch: int, i: int) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for stage in self.recipes.stages:
            picture = self.picture_of[stage.name]
            if picture not in found:
                draws = self.recipes.draws
                draws.move(self.seed, epoch, i, stage.place)
                drawn = draws.generator if self.split.generated and not self.fixed else None
                found[picture] = self.split.value(i, stage.view.source, drawn)
        return found

    def _laid(
        self, index: np.ndarray, rows: Sequence[Mapping[str, np.ndarray]]
    ) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
        if self.lies is not None:
            return {"image": self.lies[index]}, {}
        lies, pixels = {}, {}
        for picture in dict.fromkeys(self.picture_of.values()):
            images = [_rgb(row[picture]) for row in rows]
            lies[picture] = _places([image.shape[:2] for image in images])
            pixels[picture] = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images]))
        return lies, pixels


def _rgb(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 and image.shape[2] == 3 else np.repeat(image.reshape(*image.shape[:2], 1), 3, 2)


def _places(sizes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """(n, 3) int64 of images that lie one after the other."""
    sides = np.asarray(sizes, np.int64).reshape(-1, 2)
    ends = np.cumsum(sides.prod(1))
    return np.column_stack([ends - sides.prod(1), sides])


def held(split: Split, most: float) -> tuple[Tensor, np.ndarray] | None:
    """(pixels (P, 3) uint8, lies (N, 3)) of a set whose images are held decoded and take `most` bytes at most; of broken ones nothing lies there."""
    if not split.decoded or split.generated:
        return None
    images = [None if i in split.broken else _rgb(split.image(i, None)) for i in range(len(split))]
    if sum(image.nbytes for image in images if image is not None) > most:
        return None
    lies = _places([(0, 0) if image is None else image.shape[:2] for image in images])
    return torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images if image is not None])), lies


class Renderer:
    """Makes the views of the batches of a `DeviceBatches`: `renderer(raw)` -> {name: (b, S, S, 3) uint8} on the device."""

    def __init__(self, batches: DeviceBatches, device: torch.device, compiled: bool = False) -> None:
        """Puts the set's images on the device where it holds them decoded and they fit there. compiled: by torch.compile, of colours alone."""
        self.batches, self.device, self.pixels = batches, device, dict[str, Tensor]()
        self.colour: Callable[[Tensor, Tensor, str], Tensor] = torch.compile(coloured, dynamic=False) if compiled else coloured
        self.views = {stage.name: stage.view for stage in batches.recipes.stages}
        kinds: dict[Any, list[str]] = {}  # views that are made together
        for name, view in self.views.items():
            alike = (batches.picture_of[name], view.size, view.interpolation, view.jitter_as, batches.recipes.columns(view))
            kinds.setdefault(alike, []).append(name)
        self.alike = list(kinds.values())
        if set(batches.picture_of.values()) == {"image"}:
            most = SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else float("inf")
            found = held(batches.split, most)
            if found is not None:
                self.pixels, batches.lies = {"image": found[0].to(device)}, found[1]

    @torch.no_grad()
    def __call__(self, raw: Mapping[str, Any]) -> dict[str, Tensor]:
        def there(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.to(self.device, non_blocking=True) for name, value in values.items()}

        pixels, lies, tables = {**self.pixels, **there(raw["pixels"])}, there(raw["lies"]), there(raw["tables"])
        found = {}
        for names in self.alike:
            view, picture = self.views[names[0]], self.batches.picture_of[names[0]]
            table = torch.cat([tables[name] for name in names])
            images = cropped(pixels[picture], lies[picture].repeat(len(names), 1), table, view, raw["longest"])
            images = self.colour(images, table, view.jitter_as) if self.batches.recipes.strength else images
            found |= zip(names, images.chunk(len(names)), strict=True)
        return {name: found[name] for name in self.views}

    def ahead(self, stream: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The batches with their views, `raw["views"]`: on a GPU made on a stream of its own while the network works on the batch before.

        What ends the stream is raised in its place, after the batch that waits.
        """
        side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        if side:
            side.wait_stream(torch.cuda.current_stream(self.device))  # which brought the set's images

        def made(raw: dict[str, Any]) -> tuple[dict[str, Any], Any]:
            with torch.cuda.stream(side) if side else nullcontext():
                return {**raw, "views": self(raw)}, side.record_event() if side else None

        waiting, failed = None, None
        while failed is None:
            following = None
            try:
                following = made(next(stream))
            except Exception as error:
                failed = error
            if waiting is not None:
                raw, event = waiting
                if event is not None:
                    network = torch.cuda.current_stream(self.device)
                    network.wait_event(event)
                    for view in raw["views"].values():
                        view.record_stream(network)
                yield raw
            waiting = following
        if not isinstance(failed, StopIteration):
            raise failed
