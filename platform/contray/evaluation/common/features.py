"""Frozen features of a subject: of a trained encoder and what stands beside it, and of one that is training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import data, model
from ...config import RunConfig
from ...config.registry import load_method
from ...errors import DataError
from ...methods._base import Method
from ...model import backbones
from ...model.hardware import loaders
from .._base import Features, Parts, Show, Subject
from .crew import Asked, Crew
from .parts import in_memory
from .protocol import encode


def images_of(config: RunConfig, split: data.Split, ids: Sequence[int] | np.ndarray) -> data.EvalImages:
    """The evaluation inputs of some samples, as the method declares them; more broken ones than data.max_broken allows are refused."""
    views = load_method(config.method.name).method.eval_views(config.views)
    most, workers = config.data.max_broken, loaders(config)
    return data.EvalImages(split, views, np.asarray(ids), config.eval.batch_size, max_broken=most, workers=workers)


def features_of(
    config: RunConfig,
    method: Method,
    split: data.Split,
    ids: Sequence[int] | np.ndarray,
    device: torch.device,
    show: Show = lambda message: None,
) -> tuple[Tensor, Tensor]:
    """(n, D) features and the (n,) ids they belong to (broken images are left out). The method's mode is left as it was."""
    images = images_of(config, split, ids)

    def told() -> Iterator[Mapping[str, Any]]:
        done = 0
        for batch in images:
            yield batch
            done += len(batch["index"])
            show({"step": done, "total": len(ids), "unit": "image", "phase": ""})

    return encoded(config, method, told(), device)


def encoded(config: RunConfig, method: Method, images, device: torch.device) -> tuple[Tensor, Tensor]:
    training = method.training
    method.eval()
    try:
        with model.autocast(config, device):
            return encode(method.encode, images, normalise=model.normaliser(config, device), device=device)
    finally:
        method.train(training)


def parts(subject: Subject, encoders: Sequence[str]) -> dict[str, Parts]:
    """See `Subject.encode`. What does not fit in memory is mapped from files that nobody sees."""
    methods = {name: {"": subject.method, "pixels_": None}[name] if name != "random_" else subject.untrained for name in encoders}
    train, test, (fit, val) = subject.source.train, subject.test, subject.held_out

    def features(split: data.Split, ids: np.ndarray) -> list[Features]:
        xs, kept = subject.crew.encode(Asked(ids, tested=split is test), methods)
        return [Features(x, torch.as_tensor(split.labels)[kept], kept) for x in xs]

    shown = [None] * len(methods) if test is None else features(test, np.arange(len(test)))
    found = zip(features(train, fit), features(train, val), shown, strict=True)
    return {name: Parts(*each) for name, each in zip(methods, found, strict=True)}


class OnlineSubject(Subject):
    """A subject that is still training: held-out images of the training set are asked, the test set is not opened. The images are drawn once.

    Of a set beyond eval.online_limit a part of every class fits and a part is asked, the same ones at each call.
    """

    def __init__(self, config: RunConfig, device: torch.device, source: data.Source, crew: Crew | None = None) -> None:
        """The method is told with `again`."""
        super().__init__(config, None, device, tests=False, online=True, given=source)  # pyright: ignore[reportArgumentType]
        self.crew = crew or self.crew
        self.counts: dict[str, int] = {}  # fit_images, val_images: those that could be read, once they were

    def again(self, method: Method) -> None:
        """Measure this method; it may be the same one, trained further."""
        self.method = method
        self._features.clear()

    @cached_property
    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        fit, val = super().held_out
        labels = self.source.train.labels
        assert labels is not None
        return online_parts(fit, val, labels, self.config.eval.online_limit, self.config.seed)

    @cached_property
    def asked(self) -> Asked:
        """Those that fit, then those that are asked; each rank keeps its part of their pixels where they fit in memory."""
        ids = np.concatenate(self.held_out)
        size = max(map(backbones.image_side, self.config.views.values()))
        return Asked(ids, held="online" if in_memory(self.config, len(ids) * size * size * 3) else "")

    def read(self) -> None:
        """Read them now, where they are kept, so that what is wrong with them is said."""
        if self.asked.held:
            self.crew.encode(self.asked, {})

    def encode(self, encoders: Sequence[str]) -> None:
        """Raises DataError where no image of a side can be read, NotFinite where a feature is not finite."""
        if "" in self._features:
            return
        (x,), ids = self.crew.encode(self.asked, {"": self.method})
        held = torch.as_tensor(np.isin(ids, self.held_out[1]))
        labels = torch.as_tensor(self.source.train.labels)[ids]
        self.counts = {"fit_images": int((~held).sum()), "val_images": int(held.sum())}
        if not all(self.counts.values()):
            words = "asks" if held.sum() == 0 else "searches"
            raise DataError(f"data.source: none of the images that the online k-NN {words} can be read")
        fit, val = (Features(x[side], labels[side], ids[side]) for side in (~held, held))
        self._features[""] = Parts(fit, val, None)


def online_parts(fit: np.ndarray, val: np.ndarray, labels: np.ndarray, limit: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(bank ids, asked ids): at most `limit` in all, in the proportion of fit and val; at least one image of each class is asked, where
    that is no more than half of the limit.
    """
    share = min(1.0, limit / (len(fit) + len(val)))
    asked = min(len(val), max(round(len(val) * share), min(len(np.unique(labels[val])), limit // 2)))
    bank = min(len(fit), max(limit - asked, 1))
    return data.part(fit, labels, bank, seed, "online"), data.part(val, labels, asked, seed, "online")
