"""Images encoded by all ranks of a process group, or by this process alone: rank 0 asks, every rank encodes its batches, rank 0 gathers.

Batch k of what is asked holds the same ids on any number of ranks, and rank r takes the batches k with k mod W == r: the features are bit
for bit those of one rank. Legend of shapes: n images that could be read, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ... import data, model
from ...config import RunConfig
from ...config.registry import load_method
from ...data.digests import digest
from ...errors import UserError
from ...methods._base import Method, View
from ...methods._ranks import side_group, world_size
from ...model.hardware import loaders
from .._base import ENCODERS, Show
from .parts import Kept, Rows, Whole
from .protocol import pixels
from .tokens import last_blocks

PART = 64  # batches after which rank 0 gathers


@dataclass(frozen=True)
class Asked:
    """Images to be encoded, in plain values that ranks tell each other.

    tested: ids of the test set, not of the training set; draw: (seed, number) of an augmented draw of `views`, None: the evaluation inputs;
    held: a name under which each rank keeps its pixels, to be encoded again; empty: they are read each time. there: parts that rank 0 has.
    blocks: (n, average) of `last_blocks`, which features are asked for in place of what the method encodes.
    """

    ids: np.ndarray
    tested: bool = False
    views: Mapping[str, View] | None = None
    draw: tuple[int, int] | None = None
    held: str = ""
    there: frozenset[int] = frozenset()
    blocks: tuple[int, bool] | None = None


class Crew:
    """The ranks that encode, or this process alone (shared False).

    show: is told how far one is; keeps: rank 0 keeps the parts of large sets on disk until `forget`, so that an interrupted call goes on.
    """

    def __init__(
        self,
        config: RunConfig,
        source: data.Source,
        device: torch.device,
        show: Show = lambda message: None,
        shared: bool = False,
        keeps: bool = False,
    ) -> None:
        self.config, self.source, self.device, self.show = config, source, device, show
        self.world = world_size() if shared else 1
        self.rank = dist.get_rank() if self.world > 1 else 0
        self._held: dict[str, tuple[data.EvalImages, list[dict[str, Any]]]] = {}
        self._problem: Exception | None = None  # that rank 0 met between two parts
        self._trained: Method | None = None  # what "" stands for on rank 0; the other ranks have their copies of it
        self.kept = Kept(config.data.scratch) if keeps else None

    @cached_property
    def untrained(self) -> Method:
        """The method as it was before it trained."""
        return model.build(self.config, len(self.source.train)).to(self.device)

    # ---------------------------------------------------------------- who asks, and who follows

    def encode(self, asked: Asked, methods: Mapping[str, Method | None]) -> tuple[list[Tensor], Tensor]:
        """(n, D) float32 features by each of these encoders, (n,) ids, on the CPU; images are read once for all. On rank 0.

        methods: by the names of ENCODERS, None: the pixels themselves; none: images are read and kept (`held`).
        Raises DataError where more images are broken, on all ranks together, than data.max_broken allows, or all that were asked for.
        """
        images, found = self._images(asked), Whole(self.config, len(asked.ids), len(methods))
        kept = self.kept.folder(self._key(asked, images, methods)) if self.kept and len(asked.ids) >= Kept.FROM else None
        if kept:
            asked = replace(asked, there=frozenset(kept.there()))
        if self.world > 1:
            self._trained = self._trained or methods.get("")
            theirs = self._copies(self._trained)
            if any(name not in theirs or theirs[name]() is not method for name, method in methods.items()):
                raise ValueError(f"other ranks have no copy of what is to encode here as {' and '.join(map(repr, methods))}")
        self._tell((asked, list(methods)))
        self._problem = None
        for number, rows in self._parts(asked, images, methods):
            try:
                if rows is None:
                    rows = kept.read(number) if kept else None
                elif kept:
                    kept.write(number, rows)
                if rows is None:
                    raise UserError(
                        f"data.scratch: part {number} of the features that were kept is gone; the same command makes it again"
                    )
                images.note(rows.broken)
                found.add(rows)
            except Exception as error:  # the others are at work on the next part, where they hear of it
                self._problem = self._problem or error
        if self._problem:
            raise self._problem
        images.check()
        return found.done()

    def follow(self, method: Method) -> None:
        """Encode what rank 0 asks for, until it has led. `method` is this rank's copy of what trains. On the other ranks."""
        while (order := self._told()) is not None:
            asked, names = order
            encoders = self._copies(method)
            with suppress(_Heard):
                for _ in self._parts(asked, self._images(asked), {name: encoders[name]() for name in names}):
                    pass

    def _copies(self, trained: Method | None) -> Mapping[str, Callable[[], Method | None]]:
        """By the names of ENCODERS what every rank has a copy of."""
        return {"": lambda: trained, "random_": lambda: self.untrained, "pixels_": lambda: None}

    @contextmanager
    def leading(self) -> Iterator[None]:
        """The others follow for as long as this lasts. On rank 0; whatever kills it ends the others with the process group."""
        try:
            yield
        except Exception:
            self._tell(None)
            raise
        self._tell(None)

    def _tell(self, order: tuple[Asked, list[str]] | None) -> None:
        if self.world > 1:
            dist.broadcast_object_list([order], 0, group=side_group())

    def _told(self) -> tuple[Asked, list[str]] | None:
        told: list[Any] = [None]
        dist.broadcast_object_list(told, 0, group=side_group())
        return told[0]

    def forget(self) -> None:
        """What was kept on disk is no longer needed."""
        if self.kept:
            self.kept.forget()

    # ---------------------------------------------------------------- the work

    def _images(self, asked: Asked) -> data.EvalImages:
        if asked.held in self._held:
            return self._held[asked.held][0]
        config = self.config
        split = self.source.test if asked.tested else self.source.train
        assert split is not None
        if self.world == 1:
            split.prepare()  # else all ranks would decode all of it
        views = asked.views or load_method(config.method.name).method.eval_views(config.views)
        draw = None if asked.draw is None else (*asked.draw, config.augment.strength)
        return data.EvalImages(split, views, asked.ids, config.eval.batch_size, draw, config.data.max_broken, loaders(config))

    def _parts(
        self, asked: Asked, images: data.EvalImages, methods: Mapping[str, Method | None]
    ) -> Iterator[tuple[int, Rows | None]]:
        """Each part's number and, on rank 0, its rows; None where it has them."""
        parts = [range(first, min(first + PART, len(images))) for first in range(0, len(images), PART)]
        own = [k for number, part in enumerate(parts) if number not in asked.there for k in part if k % self.world == self.rank]
        with closing(self._stream(asked, images, own)) as stream:
            for number, part in enumerate(parts):
                mine = [k for k in part if k % self.world == self.rank]
                yield (
                    number,
                    None if number in asked.there else self._gathered(part, *self._own(stream, mine, methods, asked)),
                )

    def _stream(self, asked: Asked, images: data.EvalImages, own: Sequence[int]) -> Generator[dict[str, Any], None, None]:
        """This rank's batches."""
        if asked.held in self._held:
            yield from self._held[asked.held][1]
            return
        loaded = list[dict[str, Any]]()
        for batch in images.stream(own, pin=self.device.type == "cuda"):
            if asked.held:
                loaded.append(batch)
            yield batch
        if asked.held:
            self._held[asked.held] = images, loaded

    def _own(
        self, stream: Iterator[dict[str, Any]], batches: Sequence[int], methods: Mapping[str, Method | None], asked: Asked
    ) -> tuple[list[Rows], Exception | None]:
        """The rows of this rank's batches of these numbers, and what kept it from going on."""
        found = list[Rows]()
        if self._problem:
            return found, self._problem
        words, total = " and ".join(ENCODERS[name] for name in methods), len(asked.ids)
        try:
            for k, batch in zip(batches, stream, strict=False):
                xs = [self._forward(method, batch, asked) for method in methods.values()] if len(batch["index"]) else []
                found.append(Rows(xs, batch["index"], batch["broken"]))
                done = min((k + 1) * self.config.eval.batch_size, total)
                self.show({"step": done, "total": total, "unit": "image", "phase": f"features of the {words}" if words else ""})
        except Exception as error:
            return found, error
        return found, None

    @torch.no_grad()
    def _forward(self, method: Method | None, batch: Mapping[str, Any], asked: Asked) -> Tensor:
        """(b, D) float32 on the CPU. The method's mode is left as it was."""
        normalise = model.normaliser(self.config, self.device)
        training = method is not None and method.training
        if method is not None:
            method.eval()
        try:
            with model.autocast(self.config, self.device) if method is not None else nullcontext():
                inputs = {
                    name: normalise(torch.as_tensor(view).to(self.device, non_blocking=True))
                    for name, view in batch["views"].items()
                }
                if method is None:
                    return pixels(inputs).float().cpu()
                return (last_blocks(method, inputs, *asked.blocks) if asked.blocks else method.encode(inputs)).float().cpu()
        finally:
            if method is not None:
                method.train(training)

    def _gathered(self, part: range, own: list[Rows], error: Exception | None) -> Rows | None:
        """The rows of a part, in the order of its batches, on rank 0. Raises on rank 0 what one met, on the others _Heard."""
        if self.world == 1:
            if error:
                raise error
            return Rows.joined(own)
        told: list[Any] = [None] * self.world
        dist.all_gather_object(told, ([each.facts() for each in own], _portable(error)), group=side_group())
        problem = error or next((each for _, each in told if each is not None), None)
        if problem is not None:
            raise problem if self.rank == 0 else _Heard
        if self.rank:
            for x in (x for rows in own for x in rows.xs):
                dist.send(x.contiguous(), 0, group=side_group())
            return None
        ranks = [own, *([Rows.like(facts) for facts in each] for each, _ in told[1:])]
        for rank, batches in enumerate(ranks[1:], 1):
            for x in (x for rows in batches for x in rows.xs):
                dist.recv(x, rank, group=side_group())
        batches = [iter(each) for each in ranks]
        return Rows.joined([next(batches[k % self.world]) for k in part])

    def _key(self, asked: Asked, images: data.EvalImages, methods: Mapping[str, Method | None]) -> str:
        """What features are a function of."""
        weights = [digest(*map(_bytes, method.state_dict().values())) if method else name for name, method in methods.items()]
        how = (
            torch.__version__,
            self.device.type,
            self.config.train.precision,
            self.config.augment,
            images.batch_size,
            PART,
            *(asked.blocks or ()),
        )
        return digest(weights, asked.ids, images.split.content(), images.views, images.draw, how)


class _Heard(Exception):
    """Something went wrong on a rank, and all know."""


def _portable(error: Exception | None) -> Exception | None:
    """As it can travel to other ranks."""
    return error if error is None or isinstance(error, (UserError, OSError)) else RuntimeError(f"{type(error).__name__}: {error}")


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
