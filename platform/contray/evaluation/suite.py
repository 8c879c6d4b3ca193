"""Evaluations by name: what `contray eval` and `contray.evaluate` can be asked for."""

from __future__ import annotations

import torch

from .. import data
from ..config import RunConfig
from ..errors import UserError, nearest
from ..methods._base import Method
from ..model.determinism import make_deterministic
from .finetune import finetuned, supervised
from .labelled import Show
from .online import verdict
from .paper import last_n_probe, trained_probe
from .student import distilled

PROTOCOLS = ("knn", "linear", "paper", "last_n", "attentive", "finetune", "supervised", "distill")


def run_protocols(
    protocols: tuple[str, ...],
    config: RunConfig,
    source: data.Source,
    method: Method,
    device: torch.device,
    show: Show,
    labels: str = "1.0",
    student: RunConfig | None = None,
    by: str = "soft_labels",
    own: Method | None = None,
) -> dict[str, float]:
    """The metrics of all the protocols; `show` is told how far those that train are. Raises UserError for an unknown one.

    labels: how many of them `finetune` and `distill` get (see `labelled_subset`); student: of `distill`, the same network
    where it is None; by, own: see `distilled`.
    """
    for name in protocols:
        if name not in PROTOCOLS:
            raise UserError(f"no evaluation {name!r}; {nearest(name, PROTOCOLS)}")
    make_deterministic(config.train, device, method)
    metrics: dict[str, float] = {}
    frozen = tuple(name for name in protocols if name in ("knn", "linear"))
    if frozen:
        metrics |= verdict(config, source, method, device, only=frozen)
    for name in protocols:
        if name in ("paper", "attentive"):
            metrics |= trained_probe(config, source, method, device, attentive=name == "attentive", show=show)
        elif name == "last_n":
            metrics |= last_n_probe(config, source, method, device)
        elif name == "finetune":
            metrics |= finetuned(config, source, method, device, labels, show).metrics
        elif name == "supervised":
            metrics |= supervised(config, source, device, show).metrics
        elif name == "distill":
            metrics |= distilled(config, student or config, source, method, device, labels, show, by, own)
    return metrics
