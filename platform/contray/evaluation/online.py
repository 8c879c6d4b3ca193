"""Features of a method's encoder, k-NN while it trains, and the verdict at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import data, model
from ..config import RunConfig
from ..config.registry import load_method
from ..errors import DataError, UserError
from ..methods._base import Method
from ..model import backbones
from .knn import knn_top1
from .protocol import Features, encode, gain_error, pixels, scored
from .samples import check_labels, counts_of_test, held_out


def images_of(config: RunConfig, split: data.Split, ids: Sequence[int] | np.ndarray) -> data.EvalImages:
    """The evaluation inputs of some samples, as the method declares them; more broken ones than data.max_broken allows are refused."""
    views = load_method(config.method.name).method.eval_views(config.views)
    return data.EvalImages(split, views, np.asarray(ids), config.eval.batch_size, max_broken=config.data.max_broken)


def features_of(
    config: RunConfig, method: Method, split: data.Split, ids: Sequence[int] | np.ndarray, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(n, D) features and the (n,) ids they belong to (broken images are left out). The method's mode is left as it was."""
    return encoded(config, method, images_of(config, split, ids), device)


def encoded(config: RunConfig, method: Method, images, device: torch.device) -> tuple[Tensor, Tensor]:
    training = method.training
    method.eval()
    try:
        with model.autocast(config, device):
            return encode(method.encode, images, normalise=model.normaliser(config, device), device=device)
    finally:
        method.train(training)


class OnlineKNN:
    """k-NN on a held-out part of the training set; the test set is not opened. The images are drawn once.

    Of a set beyond eval.online_limit a part of every class fits and a part is asked, the same ones at each call.
    """

    def __init__(self, config: RunConfig, source: data.Source, device: torch.device) -> None:
        self.config, self.device = config, device
        assert source.train.labels is not None
        fit, val = held_out(config, source)
        bank, asked = online_parts(fit, val, source.train.labels, config.eval.online_limit, config.seed)
        self.ids = np.concatenate([bank, asked])
        self.val = set(asked.tolist())
        self.counts = {"fit_images": len(bank), "val_images": len(asked)}  # those that could be read, once they were
        self.labels = torch.as_tensor(source.train.labels)
        self.classes = len(source.train.classes)
        self.images = images_of(config, source.train, self.ids)
        size = max(map(backbones.image_side, config.views.values()))
        if len(self.ids) * size * size * 3 < config.data.cache_gb * 2**30:
            self.images = list(self.images)

    def top1(self, method: Method) -> float:
        """Top-1 accuracy, in [0, 1]; NaN where a feature is not finite. Raises DataError where no image of a side can be read."""
        features, ids = encoded(self.config, method, self.images, self.device)
        held = torch.tensor([int(i) in self.val for i in ids])
        labels, options = self.labels[ids], self.config.eval
        self.counts = {"fit_images": int((~held).sum()), "val_images": int(held.sum())}
        if not all(self.counts.values()):
            raise DataError(
                f"data.source: none of the images that the online k-NN {'asks' if held.sum() == 0 else 'searches'} can be read"
            )
        if not features.isfinite().all():
            return math.nan
        return knn_top1(
            features[~held],
            labels[~held],
            features[held],
            labels[held],
            k=options.knn_k,
            temperature=options.knn_temperature,
            classes=self.classes,
        )


def verdict(
    config: RunConfig,
    source: data.Source,
    method: Method,
    device: torch.device,
    only: tuple[str, ...] = ("knn", "linear"),
    test: bool = True,
) -> dict[str, float]:
    """k-NN and linear probe of the trained encoder, of the untrained one and of raw pixels. The test set is opened here, once.

    With the metrics of `measure`, what they stand on: see `Measured`.
    test=False: of the trained encoder alone, on held-out training data; the test set stays shut.
    """
    if source.train.labels is None:
        raise UserError(
            f"{source.name} has no labels, so k-NN and linear probe have nothing to measure; pretraining does not need them"
        )
    tested = check_labels(source)
    fit, val = held_out(config, source)
    tested = tested if test else None
    methods = {"": method, **({"random_": model.build(config, len(source.train)).to(device)} if test else {})}
    results: dict[str, float] = {}
    about: dict[str, float] = {}
    hits: dict[str, dict[str, Tensor]] = {}
    for prefix in [*methods, *(["pixels_"] if test else [])]:

        def features(split: data.Split, ids: np.ndarray, prefix: str = prefix) -> Features:
            if prefix in methods:
                x, kept = features_of(config, methods[prefix], split, ids, device)
            else:
                normalise = model.normaliser(config, device)
                x, kept = encode(pixels, images_of(config, split, ids), normalise=normalise, device=device)
            return Features(x.float(), torch.as_tensor(split.labels)[kept], kept)

        parts = {"fit": features(source.train, fit), "val": features(source.train, val)}
        parts |= {"test": features(tested, np.arange(len(tested)))} if tested else {}
        about |= {f"{name}_images": len(each.ids) for name, each in parts.items()}
        about |= counts_of_test(source) if tested else {}
        values, hits[prefix] = scored(
            prefix,
            parts["fit"],
            parts["val"],
            parts.get("test"),
            config.eval,
            classes=len(source.train.classes),
            seed=config.seed,
            device=device,
        )
        results |= values
        for name, hit in hits[prefix].items() if prefix else ():
            about[f"{prefix}{name}_gain_error"] = gain_error(hits[""][name], hit)
    asked = {key: value for key, value in (results | about).items() if any(protocol in key for protocol in only)}
    return asked | {key: value for key, value in about.items() if "_images" in key}


def online_parts(fit: np.ndarray, val: np.ndarray, labels: np.ndarray, limit: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(bank ids, asked ids): at most `limit` in all, in the proportion of fit and val; at least one image of each class is asked, where
    that is no more than half of the limit.
    """
    share = min(1.0, limit / (len(fit) + len(val)))
    asked = min(len(val), max(round(len(val) * share), min(len(np.unique(labels[val])), limit // 2)))
    bank = min(len(fit), max(limit - asked, 1))
    return data.part(fit, labels, bank, seed, "online"), data.part(val, labels, asked, seed, "online")
