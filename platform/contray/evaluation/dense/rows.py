"""What the pretrained encoder is compared with: the same network untrained, and the same network trained with labels."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from ... import data, model
from ...config import RunConfig
from ...errors import DataError, UserError
from ...methods._base import Method
from ...model.encoder import read_checkpoint
from ..finetune import supervised
from ..labelled import Show
from ..samples import check_labels
from .bodies import resnet_of
from .protocol import Row

NETWORK = ("name", "stem", "width", "norm", "selective_kernels")  # keys of backbone.* that make another network


def rows_of(config: RunConfig, method: Method, other: str, device: torch.device) -> list[Row]:
    """The pretrained row, scratch_ and, unless `other` is "none", supervised_.

    other: "train": as `contray eval supervised` trains on the run's own data, in as many steps; else a checkpoint or imported encoder.
    Raises UserError and ConfigError before anything is trained.
    """
    mean, std = config.augment.mean, config.augment.std
    pretrained, samples = resnet_of(config, method), int(method.samples)
    rows = [
        Row("", lambda show: pretrained, mean, std),
        Row("scratch_", lambda show: resnet_of(config, model.build(config, samples)), mean, std),
    ]
    if other == "none":
        return rows
    if other != "train":
        return [*rows, _given(config, other)]
    if config.method.name == "imported":
        raise UserError(
            "--supervised: imported weights tell no data and steps to train as long on; give a supervised checkpoint, or none"
        )
    source = data.open_source(config)
    try:
        check_labels(source)
    except DataError as error:
        raise DataError(f"{error}; --supervised none leaves that row out") from None
    labelled = dataclasses.replace(source, test=None)  # its test images have no part in this
    steps = len(config.eval.finetune_lrs) * config.total_steps(len(source.train))

    def taught(show: Show) -> nn.Module:
        return resnet_of(config, supervised(config, labelled, device, show).networks["supervised"].method)

    return [*rows, Row("supervised_", taught, mean, std, steps)]


def _given(config: RunConfig, place: str) -> Row:
    """The supervised row from an encoder that stands somewhere."""
    found = read_checkpoint(place)
    for key in NETWORK:
        own, its = getattr(config.backbone, key), getattr(found.config.backbone, key)
        if own != its:
            raise UserError(
                f"--supervised: {place} has backbone.{key} {its}, the encoder {own}; rows may differ in weights alone"
            )
    net = resnet_of(found.config, found.method)
    return Row("supervised_", lambda show: net, found.config.augment.mean, found.config.augment.std)
