"""A linear probe of the last blocks of a vision transformer."""

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

ABOUT = "linear probes, a grid of them trained at once, of the class tokens of a vision transformer's last blocks"
PAPER = Citation("Emerging Properties in Self-Supervised Vision Transformers", 2021, "https://arxiv.org/abs/2104.14294")
NEEDS = ("labels", "transformer blocks")
METRICS = ("linear_last*_val_top1",)


@dataclass(frozen=True)
class Config(Probe):
    """Keys eval.last_n.*."""

    blocks: int = setting(4, "class tokens of how many of the last blocks (DINO: 4)", unit="blocks", ge=1)
    average: bool = setting(False, "the last block's mean patch token as well (DINO's ViT-B, with 1 block)")


def evaluate(subject: Subject, options: Config) -> Measured:
    """linear_last{n}_val_top1 and, on the test set, linear_last{n}_top1: the cached grid on class tokens of the last n blocks, see linear.

    With eval.last_n.average the names have `_avg` after the number. Raises as `last_blocks` does, before anything is encoded.
    """
    import numpy as np
    import torch

    from ._base import Features, Parts
    from .common.crew import Asked
    from .common.labelled import first_inputs
    from .common.tokens import last_blocks

    config, source, device, method = subject.config, subject.source, subject.device, subject.method
    test = subject.test
    fit, val = subject.held_out
    blocks = (options.blocks, options.average)

    def features(split: data.Split, ids: np.ndarray) -> Features:
        (x,), kept = subject.crew.encode(Asked(ids, tested=split is test, blocks=blocks), {"": method})
        return Features(x, torch.as_tensor(split.labels)[kept], kept)

    with torch.no_grad():
        last_blocks(method, first_inputs(config, source.train, val, device), *blocks)
    tested = features(test, np.arange(len(test))) if test is not None else None
    parts = Parts(features(source.train, fit), features(source.train, val), tested)
    name = f"linear_last{options.blocks}{'_avg' if options.average else ''}"
    return Measured(probed(subject, parts, options, name="last_n").top1(name + "{which}_top1"))
