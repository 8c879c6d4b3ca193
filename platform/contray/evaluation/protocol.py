"""The evaluation protocol: frozen features in, the numbers of the result table out. Selection sees held-out training data only.

The same protocol measures the trained encoder, the untrained one and raw pixels, so that the table shows what training bought.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.sections import EvalConfig
from ..errors import DataError
from .knn import knn_predict
from .linear import linear_probe

if TYPE_CHECKING:
    from rich.table import Table

ENCODERS = {"": "trained encoder", "random_": "untrained encoder", "pixels_": "raw pixels"}  # by the prefix of their metrics
ABOUT = re.compile("_images(_broken)?$|_gain_error$")  # metrics that say what others stand on
PIXELS_SIDE = 32  # larger images are averaged down to it before their pixels count as features

logger = logging.getLogger(__name__)


class Measured(dict[str, float]):
    """Metrics by name. about: what they stand on.

    fit_images, val_images, test_images: how many could be read and are counted; test_images_broken: how many could not, if any;
    labelled_images: how many labels fine-tuning was given; {prefix}{knn or linear}_gain_error: the standard error of the gain over that encoder.
    """

    def __init__(self, metrics: Mapping[str, float]) -> None:
        """metrics: with what is about them among them."""
        super().__init__({name: value for name, value in metrics.items() if not ABOUT.search(name)})
        self.about = {name: value for name, value in metrics.items() if ABOUT.search(name)}


@dataclass(frozen=True)
class Features:
    """Frozen features of one split: x (N, D) float32 on the CPU, y (N,) int64 or None where there are no labels, ids (N,) int64.

    Raises FloatingPointError where a feature is not finite.
    """

    x: Tensor
    y: Tensor | None
    ids: Tensor

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or len(self.ids) != len(self.x) or (self.y is not None and len(self.y) != len(self.x)):
            labels = None if self.y is None else len(self.y)
            raise ValueError(f"features {tuple(self.x.shape)}, {labels} labels and {len(self.ids)} ids do not belong together")
        broken = self.ids[~self.x.isfinite().all(1)].tolist()
        if broken:
            raise FloatingPointError(
                f"{len(broken)} of {len(self.x)} images have features that are not finite, the first is image {broken[0]}"
            )


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


def measure(
    prefix: str,
    fit: Features,
    val: Features,
    test: Features | None,
    cfg: EvalConfig,
    classes: int,
    seed: int,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """k-NN and linear probe of one encoder; `prefix` tells which: "" trained, "random_" untrained, "pixels_" raw pixels.

    Gives {prefix}knn_val_top1 and {prefix}linear_val_top1 (measured on `val` from `fit`) and, where `test` is given,
    {prefix}knn_top1 (its bank is fit and val) and {prefix}linear_top1 (of the probe that `val` picked), all in [0, 1].
    Only these last two depend on `test`.

    Raises DataError where labels are missing, out of [0, classes) or all the same, or where there is no image to fit, pick or test by.
    """
    return scored(prefix, fit, val, test, cfg, classes, seed, device=device)[0]


def scored(
    prefix: str,
    fit: Features,
    val: Features,
    test: Features | None,
    cfg: EvalConfig,
    classes: int,
    seed: int,
    *,
    device: torch.device | str = "cpu",
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """As `measure`; and by knn and linear which images are told right, (M,) bool each: of `test`, or of `val` where there is none."""
    fit_y, val_y = _labels(fit, classes), _labels(val, classes)
    for part, role in ((fit, "fit"), (val, "pick"), (test, "test")):
        if part is not None and not len(part.x):
            raise DataError(f"there is no image to {role} by: k-NN and the linear probe need some")
    if len(fit_y.unique()) < 2:
        raise DataError("all images have the same label: k-NN and the linear probe need at least two classes")
    predict = partial(knn_predict, k=cfg.knn_k, temperature=cfg.knn_temperature, classes=classes, device=device)
    probe = linear_probe(
        fit.x,
        fit_y,
        val.x,
        val_y,
        lrs=cfg.probe_lrs,
        decays=cfg.probe_decays,
        epochs=cfg.probe_epochs,
        classes=classes,
        seed=seed,
        device=device,
    )
    if probe.on_edge:
        logger.info(
            "%slinear probe: lr %g, decay %g is on the edge of eval.probe_lrs, eval.probe_decays", prefix, probe.lr, probe.decay
        )
    hits = {"knn": predict(fit.x, fit_y, val.x) == val_y, "linear": probe.hits(val.x, val_y)}
    results = {f"{prefix}knn_val_top1": hits["knn"].double().mean().item(), f"{prefix}linear_val_top1": probe.val_top1}
    if test is not None:
        test_y = _labels(test, classes)
        bank, bank_y = torch.cat([fit.x, val.x]), torch.cat([fit_y, val_y])
        hits = {"knn": predict(bank, bank_y, test.x) == test_y, "linear": probe.hits(test.x, test_y)}
        results |= {f"{prefix}{name}_top1": hit.double().mean().item() for name, hit in hits.items()}
    return results, hits


def gain_error(hits: Tensor, others: Tensor) -> float:
    """Standard error of the gain in top-1 of one encoder over another on the same images, of which each tells these right, (M,) bool.

    Paired: images that both tell right, or both wrong, say nothing about the gain.
    """
    return float((hits.double() - others.double()).std(correction=0) / math.sqrt(len(hits)))


def report(results: Mapping[str, float], images: int | None = None, knn_k: int = 0) -> Table:
    """The result table: top-1 in per cent with its binomial standard error, and what training gained, with its own where it is known.

    results: the merged dicts of `measure`, and what `verdict` says about them; an encoder that was not measured has no row. The numbers are those of
    the test images, or, where there are none, of held-out training images, and the title says which and how many. images: how many test
    images, where `results` does not say; knn_k: the neighbours that were to vote, which the table tells where there were fewer.
    """
    from rich.table import Table

    tested = any(prefix + score in results for prefix in ENCODERS for score in ("knn_top1", "linear_top1"))
    scores = ("knn_top1", "linear_top1") if tested else ("knn_val_top1", "linear_val_top1")
    count = int(results.get("test_images", images or 0) if tested else results.get("val_images", 0))
    table = Table("encoder", title=f"top-1 on {_which(results, count, tested)}")
    for column in ("k-NN %", "linear %"):
        table.add_column(column, justify="right")
    measured = [prefix for prefix in ENCODERS if any(prefix + score in results for score in scores)]
    for prefix in measured:
        table.add_row(ENCODERS[prefix], *(_percent(results.get(prefix + score), count) for score in scores))
    table.add_section()
    for prefix in measured:
        if prefix and "" in measured:
            table.add_row(f"gain over {ENCODERS[prefix]}", *(_points(results, prefix, score) for score in scores))
    bank = int(results.get("fit_images", 0) + (results.get("val_images", 0) if tested else 0))
    notes = [] if tested else ["no labelled test images; these picked the linear probes, whose numbers flatter"]
    notes += [f"k-NN: all {bank:,} labelled images vote, not eval.knn_k {knn_k}"] if 0 < bank < knn_k else []
    table.caption = "\n".join(notes) or None
    return table


def _which(results: Mapping[str, float], count: int, tested: bool) -> str:
    """The images that the numbers are of, in words."""
    number = f"{count:,} " if count else ""
    kind = f"{'test' if tested else 'held-out training'} image{'' if count == 1 else 's'}"
    broken = int(results.get("test_images_broken", 0)) if tested else 0
    return f"{number}{kind}" + (f" ({broken:,} more could not be read)" if broken else "")


def _percent(top1: float | None, images: int) -> str:
    """Where none or all are right the binomial error would be 0, however few they are: there it is half of Wilson's interval."""
    if top1 is None:
        return "-"
    if not images:
        return f"{100 * top1:.1f}"
    error = math.sqrt(top1 * (1 - top1) / images) or 1 / (2 * (images + 1))
    return f"{100 * top1:.1f} ± {100 * error:.1f}"


def _points(results: Mapping[str, float], prefix: str, score: str) -> str:
    top1, other = results.get(score), results.get(prefix + score)
    error = results.get(f"{prefix}{score.partition('_')[0]}_gain_error", 0.0)
    return "-" if top1 is None or other is None else f"{100 * (top1 - other):+.1f}" + (f" ± {100 * error:.1f}" if error else "")


def _labels(features: Features, classes: int) -> Tensor:
    if features.y is None:
        raise DataError("the images have no labels: k-NN and the linear probe need them (pretraining does not)")
    if len(features.y) and not 0 <= int(features.y.min()) <= int(features.y.max()) < classes:
        raise DataError(f"labels run from {int(features.y.min())} to {int(features.y.max())}, must be in [0, {classes})")
    return features.y
