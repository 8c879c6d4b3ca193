"""Linear probes of a convolutional network's inner layers. B minibatch, D channels of a feature map, h x w its grid"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._base import Citation, Measured, Subject, setting
from .linear import Config as Probe
from .linear import probed

if TYPE_CHECKING:
    import numpy as np

    from .. import data
    from ._base import Features

ABOUT = "linear probes, a grid of them trained at once, of the feature maps of a convolutional network's layers, each pooled to some 9,000 features"
PAPER = Citation("Colorful Image Colorization (the linear evaluation)", 2016, "https://arxiv.org/abs/1603.08511")
NEEDS = ("labels", "feature maps")
METRICS = ("linear_layer*_val_top1",)


@dataclass(frozen=True)
class Config(Probe):
    """Keys eval.layers.*."""

    layers: tuple[int, ...] = setting(
        (), "which, counted from 1: convolutions with their ReLU (AlexNet: 1 to 5), of other networks the last map of each size", ge=1, empty="all"
    )  # fmt: skip
    features: int = setting(9600, "of a layer at most: maps are averaged down to the largest square grid that has no more", ge=1)


def evaluate(subject: Subject, options: Config) -> Measured:
    """linear_layer{n}_val_top1 and, on the test set, linear_layer{n}_top1 of each layer: the cached grid, see linear.

    DeepCluster's protocol (Caron et al. 2018, §4.2, and the release's eval_linear.py) but for its crops. Raises UserError where the encoder has no
    feature map, ConfigError for a layer that it has not, before anything is encoded.
    """
    import numpy as np
    import torch

    from .. import model
    from ..errors import ConfigError
    from ._base import Features, Parts
    from .common.features import images_of
    from .common.labelled import first_inputs
    from .common.protocol import encode
    from .common.tokens import conv_layers, layer_features

    config, source, device, method = subject.config, subject.source, subject.device, subject.method
    subject.alone("layers")
    test = subject.test
    fit, val = subject.held_out
    with torch.no_grad():
        layers = conv_layers(method, first_inputs(config, source.train, val, device))
    wanted = options.layers or tuple(range(1, len(layers) + 1))
    if max(wanted) > len(layers):
        raise ConfigError("eval.layers.layers", f"got {max(wanted)}, but the backbone has {len(layers)} layers with feature maps")

    def features(split: data.Split, ids: np.ndarray, number: int) -> Features:
        def encoder(inputs):
            return layer_features(method, inputs, layers[number - 1], options.features)

        with model.autocast(config, device):
            x, kept = encode(encoder, images_of(config, split, ids), normalise=model.normaliser(config, device), device=device)
        return Features(x, torch.as_tensor(split.labels)[kept], kept)

    results: dict[str, float] = {}
    for number in wanted:  # one after the other: all at once would be five times as much to hold
        tested = features(test, np.arange(len(test)), number) if test is not None else None
        parts = Parts(features(source.train, fit, number), features(source.train, val, number), tested)
        results |= probed(subject, parts, options, name="layers").top1(f"linear_layer{number}{{which}}_top1")
    return Measured(results)
