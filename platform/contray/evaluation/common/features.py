"""Frozen features of a subject: of a trained encoder and what stands beside it, and of one that is training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
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
from .._base import ENCODERS, Features, Parts, Show, Subject
from .protocol import encode, pixels


def images_of(config: RunConfig, split: data.Split, ids: Sequence[int] | np.ndarray) -> data.EvalImages:
    """The evaluation inputs of some samples, as the method declares them; more broken ones than data.max_broken allows are refused."""
    views = load_method(config.method.name).method.eval_views(config.views)
    return data.EvalImages(split, views, np.asarray(ids), config.eval.batch_size, max_broken=config.data.max_broken)


def features_of(
    config: RunConfig,
    method: Method,
    split: data.Split,
    ids: Sequence[int] | np.ndarray,
    device: torch.device,
    show: Show = lambda message: None,
) -> tuple[Tensor, Tensor]:
    """(n, D) features and the (n,) ids they belong to (broken images are left out). The method's mode is left as it was."""
    return encoded(config, method, _told(images_of(config, split, ids), len(ids), "", show), device)


def _told(images: Iterable[Mapping[str, Any]], total: int, phase: str, show: Show) -> Iterator[Mapping[str, Any]]:
    """The batches, and how far one is with them."""
    done = 0
    for batch in images:
        yield batch
        done += len(batch["index"])
        show({"step": done, "total": total, "unit": "image", "phase": phase})


def encoded(config: RunConfig, method: Method, images, device: torch.device) -> tuple[Tensor, Tensor]:
    training = method.training
    method.eval()
    try:
        with model.autocast(config, device):
            return encode(method.encode, images, normalise=model.normaliser(config, device), device=device)
    finally:
        method.train(training)


def parts(subject: Subject, encoder: str) -> Parts:
    """See `Subject.features`. Of many evaluations' features what does not fit in data.memory_gb is mapped from a file that nobody sees."""
    config, device, train = subject.config, subject.device, subject.source.train
    tested, (fit, val) = subject.test, subject.held_out
    method = subject.method if not encoder else subject.untrained if encoder == "random_" else None

    def features(split: data.Split, ids: np.ndarray) -> Features:
        images = _told(images_of(config, split, ids), len(ids), f"features of the {ENCODERS[encoder]}", subject.show)
        if method is not None:
            x, kept = encoded(config, method, images, device)
        else:
            x, kept = encode(pixels, images, normalise=model.normaliser(config, device), device=device)
        return Features(_kept(x.float(), config), torch.as_tensor(split.labels)[kept], kept)

    shown = None if tested is None else features(tested, np.arange(len(tested)))
    return Parts(features(train, fit), features(train, val), shown)


def _kept(x: Tensor, config: RunConfig) -> Tensor:
    """x, where the encoders' features of a set may lie in memory side by side; else a copy that is mapped from a file."""
    if x.numel() * x.element_size() * len(ENCODERS) < config.data.memory_gb * 2**30:
        return x
    if config.data.scratch:
        Path(config.data.scratch).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=config.data.scratch or None) as file:  # gone when nobody maps it any longer
        mapped = np.memmap(file, np.float32, "w+", shape=tuple(x.shape))
    mapped[:] = x.numpy()
    return torch.from_numpy(mapped)


class OnlineSubject(Subject):
    """A subject that is still training: held-out images of the training set are asked, the test set is not opened. The images are drawn once.

    Of a set beyond eval.online_limit a part of every class fits and a part is asked, the same ones at each call.
    """

    def __init__(self, config: RunConfig, device: torch.device, source: data.Source) -> None:
        """The method is told with `again`."""
        super().__init__(config, None, device, tests=False, online=True, given=source)  # pyright: ignore[reportArgumentType]
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
    def images(self) -> Iterable[Mapping[str, Any]]:
        """Evaluation inputs of those that fit, then of those that are asked; kept as they are drawn where they fit in data.memory_gb."""
        ids = np.concatenate(self.held_out)
        images = images_of(self.config, self.source.train, ids)
        size = max(map(backbones.image_side, self.config.views.values()))
        return list(images) if len(ids) * size * size * 3 < self.config.data.memory_gb * 2**30 else images

    def features(self, encoder: str = "") -> Parts:
        """Raises DataError where no image of a side can be read, FloatingPointError where a feature is not finite."""
        if encoder not in self._features:
            x, ids = encoded(self.config, self.method, self.images, self.device)
            asked = set(self.held_out[1].tolist())
            held = torch.tensor([int(i) in asked for i in ids])
            labels = torch.as_tensor(self.source.train.labels)[ids]
            self.counts = {"fit_images": int((~held).sum()), "val_images": int(held.sum())}
            if not all(self.counts.values()):
                words = "asks" if held.sum() == 0 else "searches"
                raise DataError(f"data.source: none of the images that the online k-NN {words} can be read")
            self._features[encoder] = Parts(
                Features(x[~held], labels[~held], ids[~held]), Features(x[held], labels[held], ids[held]), None
            )
        return self._features[encoder]


def online_parts(fit: np.ndarray, val: np.ndarray, labels: np.ndarray, limit: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(bank ids, asked ids): at most `limit` in all, in the proportion of fit and val; at least one image of each class is asked, where
    that is no more than half of the limit.
    """
    share = min(1.0, limit / (len(fit) + len(val)))
    asked = min(len(val), max(round(len(val) * share), min(len(np.unique(labels[val])), limit // 2)))
    bank = min(len(fit), max(limit - asked, 1))
    return data.part(fit, labels, bank, seed, "online"), data.part(val, labels, asked, seed, "online")
