"""Frozen encoders that a method learns from: built when they are first asked, in evaluation mode, no part of the method's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..config.registry import load_method
from ..errors import ConfigError, UserError
from .anatomy import transformer_of
from .maps import with_map

UNTRAINED = "untrained"  # in place of an address: the config's own backbone as another seed draws it


class Frozen:
    """An encoder for `Method.frozen`: (B, C, H, W) pixels in [0, 1] -> (B, D) features and (B, M, h, w) of its last feature map.

    key: of the config, which names it, as KEY_size does the side of its images; out_dim, map_dim: D and M, 0 where it has no map. A call raises
    ConfigError for images that its patches do not fill, and, where places are compared, of which it has one only.
    """

    def __init__(self, key: str, config: RunConfig) -> None:
        self.key, self.config = key, config
        self.address: str = config.flat()[key]
        self._net: nn.Module | None = None
        self._mean = self._std = torch.zeros(())
        known = kept_of(config).get(key, "").split(":")
        self.digest = known[0]
        self._dims = (int(known[1]), int(known[2])) if len(known) == 3 else None

    @property
    def out_dim(self) -> int:
        return self.dims[0]

    @property
    def map_dim(self) -> int:
        return self.dims[1]

    @property
    def dims(self) -> tuple[int, int]:
        """D and M: as the run wrote them down, so that a checkpoint is built without the encoder."""
        if self._dims is None:
            net: Any = self.net()
            self._dims = net.out_dim, getattr(net, "map_dim", 0)
        return self._dims

    def net(self) -> nn.Module:
        """The network. Raises ConfigError where it is not to be had, is of other channels, or of other weights than the run began with."""
        if self._net is None:
            with torch.device("cpu"), torch.random.fork_rng(devices=[]):
                self._net = self._opened().eval().requires_grad_(False)
        return self._net

    def _opened(self) -> nn.Module:
        if self.address == UNTRAINED:
            from .backbones import factory

            ours = self.config.augment
            net, mean, std = factory(replace(self.config, seed=self.config.seed + 1))(), ours.mean, ours.std
        else:
            from . import layouts, weights
            from .plain import plain_backbone

            try:
                found = weights.given(self.address)
                check_digest(self.key, found.digest, self.digest)
                if found.unknown:
                    imported = f"contray import {self.address} --layout {found.layout} --out FOLDER"
                    raise UserError(f"{found.unknown}. A teacher goes through an import first: {imported}, and give that folder")
                encoder = weights.encoder_of(found)
                net = plain_backbone(encoder.config, encoder.method)
                if problem := layouts.unusable(net.state_dict()):
                    raise UserError(f"{self.address}: {problem}")
            except ConfigError:
                raise
            except UserError as error:
                raise ConfigError(self.key, str(error)) from None
            self.digest, theirs = found.digest, encoder.config
            mean, std = theirs.augment.mean, theirs.augment.std
            if theirs.channels != self.config.channels:
                raise ConfigError(
                    self.key, f"{self.address} is of {theirs.channels} channels, the images have {self.config.channels}"
                )
        self._mean, self._std = (torch.tensor(each or (1.0,)).reshape(-1, 1, 1) for each in (mean, std))
        return with_map(net)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        net: Any = self.net().to(pixels.device, pixels.dtype)
        patch = getattr(net, "patch_size", 1)
        if isinstance(patch, int) and min(pixels.shape[2:]) < patch:
            words = f"{self.address} has patches of {patch} px and would be given images of {min(pixels.shape[2:])} px"
            raise ConfigError(
                size if (size := f"{self.key}_size") in self.config.flat() else self.key, f"{words}; give {patch} or more"
            )
        self._mean, self._std = mean, std = self._mean.to(pixels), self._std.to(pixels)
        images, side, (found, size) = (pixels - mean) / std, min(pixels.shape[-2:]), (transformer_of(net), f"{self.key}_size")
        if found is not None and any(edge % found.patch for edge in images.shape[-2:]):
            words = (
                f"sees patches of {found.patch} px, which do not divide the {side} px of its images; {size} must be a multiple"
            )
            raise ConfigError(self.key, f"{self.address} {words}")
        if not self.map_dim:
            return net(images), images.new_zeros(len(images), 0, 0, 0)
        features, places = net.feature_map(images)
        if places[0, 0].numel() == 1 and load_method(self.config.method.name).method.needs_map(self.config.method):
            words = f"makes one cell of the {side} px of its images, and the method so configured compares places; {size} must be larger"
            raise ConfigError(self.key, f"{self.address} {words}")
        return features, places


def frozen_of(config: RunConfig) -> Mapping[str, Frozen]:
    """The frozen encoders that the config's method asks for, by the fields that name them."""
    names = load_method(config.method.name).method.guides
    return {name: Frozen(f"method.{name}", config) for name in names if getattr(config.method, name)}


def kept_of(config: RunConfig) -> dict[str, str]:
    """What train.given says of each key."""
    return {key: value for key, _, value in (each.partition("=") for each in config.train.given)}


def check_digest(key: str, found: str, known: str) -> None:
    """Raises ConfigError where weights are not those that a run was, or is to be, given."""
    if known and found != known:
        raise ConfigError(
            key,
            f"holds other weights ({found[:12]}) than the run was given ({known[:12]}, train.given); give it those, or begin another run",
        )
