"""The evaluation protocol: frozen features in, the numbers of the result table out. Selection sees held-out training data only.

The same protocol measures the trained encoder, the untrained one and raw pixels, so that the table shows what training bought.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import DataError
from ...tables import Table
from .._base import ENCODERS, Features, Measured, Parts, Subject

NO_NUMBER = "no number"
PIXELS_SIDE = 32  # larger images are averaged down to it before their pixels count as features


@torch.no_grad()
def encode(
    encoder: Callable[[dict[str, Tensor]], Tensor],
    images: Iterable[Mapping[str, Any]],
    *,
    normalise: Callable[[Tensor], Tensor],
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Features (N, D) float32 and image ids (N,) int64, both on the CPU, in the order of `images`.

    images: batches {"views": {name: (B, H, W, C) uint8}, "index": (B,)}; normalise: (B, H, W, C) uint8 -> (B, C, H, W) float,
    called on `device`; encoder: {name: (B, C, H, W)} -> (B, D), in evaluation mode (the caller sees to it).
    """
    features: list[Tensor] = []
    ids: list[Tensor] = []
    for batch in images:
        inputs = {name: normalise(torch.as_tensor(view).to(device, non_blocking=True)) for name, view in batch["views"].items()}
        features.append(encoder(inputs).float().cpu())
        ids.append(torch.as_tensor(batch["index"]).long().cpu())
    return torch.cat(features), torch.cat(ids)


def pixels(inputs: Mapping[str, Tensor]) -> Tensor:
    """The encoder that does nothing: the flattened pixels (B, D) of all views, each averaged down to at most 32 x 32; arrays as they are."""
    small = [
        F.interpolate(view.flatten(1, -3), size=[min(side, PIXELS_SIDE) for side in view.shape[-2:]], mode="area")
        if view.ndim > 3
        else view
        for view in inputs.values()
    ]
    return torch.cat([view.flatten(1) for view in small], dim=1)


Hits = Callable[[str, Parts], tuple[Tensor, Tensor | None]]


def beside(subject: Subject, name: str, hits: Hits) -> Measured:
    """{prefix}{name}_val_top1 of each of the subject's encoders and, where the test set is opened, {prefix}{name}_top1, all in [0, 1].

    hits(prefix, features): which held-out images are told right, and which test images, (M,) bool each, from those that fit. Besides, what it
    stands on: how many images, and the standard error of the gain over each encoder but the first.
    Raises DataError where labels are missing, out of [0, classes) or all the same, or where there is no image to fit, pick or test by.
    """
    metrics: dict[str, float] = {}
    first: Tensor | None = None
    subject.encode(subject.encoders)
    for prefix in subject.encoders:
        parts = subject.features(prefix)
        if not subject.online:  # an early part of the data may have one class alone
            check_parts(parts, subject.classes)
        held, tested = hits(prefix, parts)
        metrics[f"{prefix}{name}_val_top1"] = held.double().mean().item()
        metrics |= {"fit_images": len(parts.fit.ids), "val_images": len(parts.val.ids)}
        if tested is not None and parts.test is not None:
            metrics[f"{prefix}{name}_top1"] = tested.double().mean().item()
            metrics["test_images"] = len(parts.test.ids)
        shown = held if tested is None else tested
        if first is None:
            first = shown
        else:
            metrics[f"{prefix}{name}_gain_error"] = gain_error(first, shown)
    return Measured(metrics)


def check_parts(parts: Parts, classes: int) -> None:
    """Raises DataError as `beside` does."""
    fit_y = _labels(parts.fit, classes)
    _labels(parts.val, classes)
    for part, role in ((parts.fit, "fit"), (parts.val, "pick"), (parts.test, "test")):
        if part is not None and not len(part.x):
            raise DataError(f"there is no image to {role} by: k-NN and the linear probe need some")
    if len(fit_y.unique()) < 2:
        raise DataError("all images have the same label: k-NN and the linear probe need at least two classes")
    if parts.test is not None:
        _labels(parts.test, classes)


def gain_error(hits: Tensor, others: Tensor) -> float:
    """Standard error of the gain in top-1 of one encoder over another on the same images, of which each tells these right, (M,) bool.

    Paired: images that both tell right, or both wrong, say nothing about the gain.
    """
    return float((hits.double() - others.double()).std(correction=0) / math.sqrt(len(hits)))


def report(results: Mapping[str, float], images: int | None = None, knn_k: int = 0, tested_on: str = "", held: str = "") -> Table:
    """The result table: top-1 in per cent with its binomial standard error, and what training gained, with its own where it is known.

    results: what k-NN and linear probe give, and what they say about it; an encoder that was not measured has no row. The numbers are those of
    the test images, or, where there are none, of held-out training images, and the title says which and how many. images: how many test
    images, where `results` does not say; knn_k: the neighbours that were to vote, which the table tells where there were fewer; tested_on: what was
    set aside to test, in words, where the data have no test set; held: why the numbers are of held-out images, by default that there are no others.
    """
    tested = any(prefix + score in results for prefix in ENCODERS for score in ("knn_top1", "linear_top1"))
    scores = ("knn_top1", "linear_top1") if tested else ("knn_val_top1", "linear_val_top1")
    count = int(results.get("test_images", images or 0) if tested else results.get("val_images", 0))
    table = Table(f"top-1 on {_which(results, count, tested, tested_on)}", "encoder", "k-NN %", "linear %")
    measured = [prefix for prefix in ENCODERS if any(prefix + score in results for score in scores)]
    for prefix in measured:
        table.add(ENCODERS[prefix], *(_percent(results.get(prefix + score), count) for score in scores))
    table.divide()
    for prefix in measured:
        if prefix and "" in measured:
            table.add(f"gain over {ENCODERS[prefix]}", *(_points(results, prefix, score) for score in scores))
    bank = int(results.get("fit_images", 0) + (results.get("val_images", 0) if tested else 0))
    notes = [] if tested else [held or "no labelled test images; these picked the linear probes, whose numbers flatter"]
    notes += ["±: standard error over these images, of one run; what seeds differ by is not in it"] if count else []
    notes += [f"k-NN: all {bank:,} labelled images vote, not eval.knn.k {knn_k}"] if 0 < bank < knn_k else []
    table.caption = "\n".join(notes)
    return table


def _which(results: Mapping[str, float], count: int, tested: bool, tested_on: str) -> str:
    """The images that the numbers are of, in words."""
    number, plural = f"{count:,} " if count else "", "" if count == 1 else "s"
    broken = int(results.get("test_images_broken", 0)) if tested else 0
    said = f"{number}{'test' if tested else 'held-out training'} image{plural}"
    if tested and tested_on:
        said = f"{tested_on} ({number}image{plural})"
    return said + (f" ({broken:,} more could not be read)" if broken else "")


def _percent(top1: float | None, images: int) -> str:
    """Where none or all are right the binomial error would be 0, however few they are: there it is half of Wilson's interval."""
    if top1 is None:
        return "-"
    if not images or not math.isfinite(top1):
        return f"{100 * top1:.1f}" if math.isfinite(top1) else NO_NUMBER
    error = math.sqrt(top1 * (1 - top1) / images) or 1 / (2 * (images + 1))
    return f"{100 * top1:.1f} ± {100 * error:.1f}"


def _points(results: Mapping[str, float], prefix: str, score: str) -> str:
    top1, other = results.get(score), results.get(prefix + score)
    error = results.get(f"{prefix}{score.partition('_')[0]}_gain_error", 0.0)
    return (
        "-"
        if top1 is None or other is None or not math.isfinite(top1 - other)
        else f"{100 * (top1 - other):+.1f}" + (f" ± {100 * error:.1f}" if error else "")
    )


def _labels(features: Features, classes: int) -> Tensor:
    if features.y is None:
        raise DataError("the images have no labels: k-NN and the linear probe need them (pretraining does not)")
    if len(features.y) and not 0 <= int(features.y.min()) <= int(features.y.max()) < classes:
        raise DataError(f"labels run from {int(features.y.min())} to {int(features.y.max())}, must be in [0, {classes})")
    return features.y
