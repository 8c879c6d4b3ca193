"""What the pretrained encoder is compared with: the same network untrained, and the same network trained with labels."""

from __future__ import annotations

import dataclasses

from torch import nn

from ... import model
from ...config import RunConfig
from ...errors import DataError, UserError
from ...model.encoder import read_checkpoint
from .._base import Show, Subject
from ..common.classifier import supervised
from ..common.samples import check_labels
from ..common.settings import Dense
from .bodies import body_of
from .protocol import Row

NETWORK = ("name", "stem", "width", "norm", "selective_kernels", "patch", "heads")  # keys of backbone.* that make another network


def rows_of(subject: Subject, options: Dense, key: str) -> list[Row]:
    """The pretrained row, scratch_ and, unless `options.supervised` is "none", supervised_; key: what the options' keys start with.

    "train": as `contray eval supervised` trains on the run's own data, in as many steps; else a checkpoint or imported encoder.
    Raises UserError and ConfigError before anything is trained.
    """
    config, method, other = subject.config, subject.method, options.supervised
    mean, std = config.augment.mean, config.augment.std
    pretrained, samples = body_of(config, method), int(method.samples)
    rows = [
        Row("", lambda show: pretrained, mean, std),
        Row("scratch_", lambda show: body_of(config, model.build(config, samples)), mean, std),
    ]
    if other == "none":
        return rows
    if other != "train":
        return [*rows, _given(config, other)]
    if config.method.name == "imported":
        raise UserError(
            "--supervised: imported weights tell no data and steps to train as long on; give a supervised checkpoint, or none"
        )
    try:
        check_labels(subject.source)
    except DataError as error:
        raise DataError(f"{error}; --supervised none leaves that row out") from None
    steps = len(options.supervised_lrs) * config.total_steps(len(subject.source.train))

    def taught(show: Show) -> nn.Module:
        # its test images have no part in this
        untested = dataclasses.replace(subject, tests=False, show=show, given=subject.source)
        return body_of(config, supervised(untested, options.training, f"{key}supervised_").networks["supervised"].method)

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
    net = body_of(found.config, found.method)
    return Row("supervised_", lambda show: net, found.config.augment.mean, found.config.augment.std)
