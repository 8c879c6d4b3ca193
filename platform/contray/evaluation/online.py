"""Features of a method's encoder, k-NN while it trains, and the verdict at the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from methods._base import Method

from .. import backbones, data, model
from ..config import RunConfig
from ..errors import UserError
from .knn import knn_top1
from .protocol import Features, encode, measure, pixels


def images_of(config: RunConfig, split: data.Split, ids: Sequence[int] | np.ndarray) -> data.EvalImages:
    """The evaluation inputs of some samples, as the method declares them."""
    views = model.load_method(config.method.name).method.eval_views(config.views)
    return data.EvalImages(split, views, np.asarray(ids), config.eval.batch_size)


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
    """k-NN on a held-out part of the training set; the test set is not opened. The images are drawn once."""

    def __init__(self, config: RunConfig, source: data.Source, device: torch.device) -> None:
        self.config, self.device = config, device
        assert source.train.labels is not None
        fit, val = data.holdout(source.train, config.eval.holdout, config.seed)
        share = min(1.0, config.eval.online_limit / (len(fit) + len(val)))
        self.ids = np.concatenate([fit[: round(len(fit) * share)], val[: max(1, round(len(val) * share))]])
        self.val = set(val.tolist())
        self.labels = torch.as_tensor(source.train.labels)
        self.classes = len(source.train.classes)
        self.images = images_of(config, source.train, self.ids)
        size = max(map(backbones.image_side, config.views.values()))
        if len(self.ids) * size * size * 3 < config.data.cache_gb * 2**30:
            self.images = list(self.images)

    def top1(self, method: Method) -> float:
        """Top-1 accuracy, in [0, 1]."""
        features, ids = encoded(self.config, method, self.images, self.device)
        held = torch.tensor([int(i) in self.val for i in ids])
        labels, options = self.labels[ids], self.config.eval
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

    test=False: of the trained encoder alone, on held-out training data; the test set stays shut.
    """
    if source.train.labels is None:
        raise UserError(
            f"{source.name} has no labels, so k-NN and linear probe have nothing to measure; pretraining does not need them"
        )
    fit, val = data.holdout(source.train, config.eval.holdout, config.seed)
    tested = source.test if test and source.test is not None and source.test.labels is not None else None
    methods = {"": method, **({"random_": model.build(config, len(source.train)).to(device)} if test else {})}
    results: dict[str, float] = {}
    for prefix in [*methods, *(["pixels_"] if test else [])]:

        def features(split: data.Split, ids: np.ndarray, prefix: str = prefix) -> Features:
            if prefix in methods:
                x, kept = features_of(config, methods[prefix], split, ids, device)
            else:
                normalise = model.normaliser(config, device)
                x, kept = encode(pixels, images_of(config, split, ids), normalise=normalise, device=device)
            return Features(x.float(), torch.as_tensor(split.labels)[kept], kept)

        results |= measure(
            prefix,
            features(source.train, fit),
            features(source.train, val),
            features(tested, np.arange(len(tested))) if tested else None,
            config.eval,
            classes=len(source.train.classes),
            seed=config.seed,
            device=device,
        )
    return {key: value for key, value in results.items() if any(protocol in key for protocol in only)}
