"""Fine-tuning under RandAugment, random erasing, mixup, CutMix, label smoothing and stochastic depth, as MAE's (He et al. 2022, appendix A).

Every draw is a function of (seed, epoch, sample) or (seed, step). B minibatch, C classes, H x W pixels
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from ...config import RunConfig
from ...data.draws import generator
from ...errors import ConfigError
from ...methods._base import Batch
from ...methods._norms import DropPath
from ...model.anatomy import transformers_in
from .classifier import Classifier, Loss, Recipe
from .labelled import cropped_views
from .settings import Augmented

AREA, RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of what is erased: Zhong et al. 2020 and timm, whose noise it is too


def recipe_of(config: RunConfig, options: Augmented, key: str, classes: int, crop: tuple[float, float] | None = None) -> Recipe:
    """What the options ask for; crop: see `cropped_views`. Raises ConfigError, of the keys that start with `key`, for inputs that cannot be so
    augmented.
    """
    views = cropped_views(config, crop)
    whole = all(view.kind == "image" for view in views.values()) and len({view.size for view in views.values()}) == 1
    for name in ("erasing", "mixup", "cutmix"):
        if getattr(options, name) and not whole:
            raise ConfigError(
                f"{key}{name}", f"got {getattr(options, name):g}, but {config.method.name} does not encode whole images; 0: none"
            )
    if options.randaugment[0]:
        if not all(view.kind in ("image", "patches") for view in views.values()):
            raise ConfigError(f"{key}randaugment", f"is of images, and {config.method.name} encodes none; 0 9: none")
        views = {
            name: dataclasses.replace(view, randaugment=options.randaugment, randaugment_as="timm")
            for name, view in views.items()
        }
    return Recipe(views, by_augmented(options, classes), lambda network: with_drop_path(network, options.drop_path, key))


def by_augmented(options: Augmented, classes: int) -> Loss:
    """Cross-entropy with the smoothed labels of images that are erased, then mixed in pairs."""
    mixing = [
        kind(alpha=alpha, num_classes=classes)
        for kind, alpha in ((v2.MixUp, options.mixup), (v2.CutMix, options.cutmix))
        if alpha
    ]
    mix = v2.RandomChoice(mixing) if mixing else None
    erase = v2.RandomErasing(options.erasing, AREA, RATIO, value="random") if options.erasing else None  # pyright: ignore[reportArgumentType]

    def loss(network: Classifier, batch: Batch, y: Tensor) -> Tensor:
        views: Mapping[str, Tensor] = batch.views
        if mix or erase:
            views, y = _augmented(batch, y, mix, erase)
        return F.cross_entropy(network(views).float(), y, label_smoothing=options.smoothing)

    return loss


def _augmented(batch: Batch, y: Tensor, mix: v2.Transform | None, erase: v2.Transform | None) -> tuple[dict[str, Tensor], Tensor]:
    """The batch's images, all inputs of one alike, and their labels, (B, C) where they were mixed. The global generator is as it was."""
    widths = [view.shape[1] for view in batch.views.values()]
    images = torch.cat(list(batch.views.values()), 1)  # (B, C, H, W)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(generator(batch.seed, "augmented", batch.step).integers(2**62)))
        if erase:
            images = torch.stack([erase(image) for image in images])
        if mix:
            images, y = mix(images, y)
    return dict(zip(batch.views, images.split(widths, 1), strict=True)), y


def with_drop_path(network: Classifier, rate: float, key: str) -> Classifier:
    """The network with stochastic depth that grows from 0 at the first block to `rate` at the last one; 0: as it is.

    Raises ConfigError where the backbone has no layer of it.
    """
    layers = [
        (layer, i / max(len(net.blocks) - 1, 1))
        for net in transformers_in(network)
        for i, block in enumerate(net.blocks)
        for layer in block.modules()
        if isinstance(layer, DropPath)
    ]
    if rate and not layers:
        raise ConfigError(
            f"{key}drop_path", f"got {rate:g}, but only the built-in vision transformers have stochastic depth; 0: none"
        )
    for layer, share in layers if rate else ():
        layer.rate = rate * share
    return network
