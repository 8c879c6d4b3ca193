"""The first three principal components of patch tokens as colours: what an encoder holds to be the same thing, without any label.

DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193, §7.6 and figure 1): the sign of the first component tells objects from background, then
those of the objects' patches alone are red, green and blue. Its sign is chosen so that fewer patches at the border are object.

Legend of shapes: N images, L patches of one, D features, h x w their grid, H x W pixels that the grid covers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import data, model
from ..errors import UserError
from ..evaluation.common.attended import COLUMN, enlarged, jaccard
from ..evaluation.common.tokens import tokens
from ..methods._base import Method, View, evaluation_view
from .attention import OUTLINE
from .preview import as_seen
from .sheet import Sheet
from .subject import Subject, apart

SHOWN, FITTED = 8, 256  # images that are drawn, and whose patches tell the components
ENDS = 0.02  # of the values at either end are as bright or as dark as can be


@dataclass(frozen=True)
class Patches:
    """Images as the encoder sees them (N, H, W, 3) uint8, their tokens (N, h, w, D) float32, objects (N, H, W) bool or None."""

    images: np.ndarray
    tokens: Tensor
    objects: Tensor | None


def draw(subject: Subject, out: Path) -> dict[str, float]:
    """Image, components of all patches, of the objects' alone, and of all of the untrained encoder's. Where the data have masks of the objects:
    patch_pca_jaccard, the overlap of object and foreground, and random_patch_pca_jaccard of the untrained encoder.
    """
    split, ids, kind = subject.asked()
    ids = subject.limited(split, ids, FITTED)
    untrained = model.build(subject.config, len(subject.source.train)).to(subject.device).eval()
    seen = [look(subject, method, split, ids) for method in (subject.method, untrained)]
    fronts = [foreground(each.tokens) for each in seen]  # (N, h, w)
    found: dict[str, float] = {}
    for prefix, each, front in zip(("", "random_"), seen, fronts, strict=True):
        if each.objects is not None:
            overlap = jaccard(enlarged(front, each.images.shape[1:3]), each.objects)
            found[f"{prefix}patch_pca_jaccard"] = float(overlap.mean())
    trained, rows = seen[0], apart(np.arange(len(seen[0].images)), SHOWN)
    everywhere = torch.ones_like(fronts[0])
    colours = [coloured(trained.tokens, everywhere), coloured(trained.tokens, fronts[0]), coloured(seen[1].tokens, everywhere)]
    note = f"red, green and blue: the first three components of the patches of {len(ids):,} {kind}; foreground: their own, of patches on the object's side of the first"
    if found:
        note += (
            f"\noutlined: the object; its Jaccard overlap with the foreground: {found['patch_pca_jaccard']:.3f}, "
            f"of the untrained encoder {found['random_patch_pca_jaccard']:.3f}"
        )
    sheet = Sheet(4, len(rows), f"{subject.name}: principal components of patch tokens", note=note, left=1.1, inches=1.0)
    for place, word in enumerate(("image", "all patches", "foreground", "untrained")):
        sheet.word(place + 0.5, -0.1, word, ha="right", size=9)
        for column, row in enumerate(rows):
            sheet.tile(place, column, trained.images[row] if place == 0 else colours[place - 1][row].numpy())
            if place in (0, 2) and trained.objects is not None:
                sheet.outline(place, column, trained.objects[row].numpy(), OUTLINE)
    sheet.save(out)
    return found


def look(subject: Subject, method: Method, split: data.Split, ids: np.ndarray) -> Patches:
    """Raises UserError where the encoder has no square grid of tokens of the whole image."""
    name, view = next(iter(subject.views.items()))
    views = dict(subject.views)
    if split.columns.get(COLUMN) == "image" and view.kind == "image":
        views[COLUMN] = evaluation_view(View(size=view.size, source=COLUMN))  # cut as the image is
    images, found, objects = list[np.ndarray](), list[Tensor](), list[Tensor]()
    for batch in subject.drawn(split, ids, views):
        drawn: dict[str, Tensor] = batch["views"]
        if COLUMN in views:
            objects.append(drawn.pop(COLUMN)[..., 0] > 127)
        with torch.no_grad(), model.autocast(subject.config, subject.device):
            tokened = tokens(method, subject.inputs(drawn)).float().cpu()  # (B, L, D)
        side = math.isqrt(tokened.shape[1])
        if view.kind != "image" or side < 2 or side**2 != tokened.shape[1]:
            raise UserError(
                "plot patch_pca: this encoder has no square grid of tokens of the whole image; it takes a vision transformer, or a map"
            )
        found.append(tokened.unflatten(1, (side, side)))
        images.append(np.stack([as_seen(each, view, subject.look) for each in drawn[name].numpy()]))
    whole, grid = np.concatenate(images), found[0].shape[1]
    covered = whole.shape[1] // grid * grid
    return Patches(whole[:, :covered, :covered], torch.cat(found), torch.cat(objects)[:, :covered, :covered] if objects else None)


def components(x: Tensor, count: int) -> Tensor:
    """Rows (R, D) in their first principal components: (R, count), float64, of each the sign whose largest loading is positive."""
    x = x.double() - x.double().mean(0)
    _, directions = torch.linalg.eigh(x.T @ x)
    basis = directions.flip(1)[:, :count]  # (D, count)
    signs = basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
    return x @ (basis * signs)


def foreground(x: Tensor) -> Tensor:
    """Tokens (N, h, w, D) -> (N, h, w) bool: patches on that side of the first component's mean that has the smaller share of the border."""
    first = components(x.flatten(0, 2), 1).unflatten(0, x.shape[:3])[..., 0]
    inner = torch.zeros(x.shape[1:3], dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    front = first > 0
    return front if not inner.any() or front[:, inner].double().mean() >= front[:, ~inner].double().mean() else first < 0


def coloured(x: Tensor, front: Tensor) -> Tensor:
    """Tokens (N, h, w, D) and which of them count (N, h, w) -> (N, h, w, 3) in [0, 1], black where they do not; colours mean the same in all images."""
    found = torch.zeros(*x.shape[:3], 3, dtype=torch.float64)
    if not front.any():
        return found
    values = components(x[front], min(3, x.shape[3]))  # (R, 3)
    low, high = torch.as_tensor(np.quantile(values.numpy(), (ENDS, 1 - ENDS), axis=0))
    shades = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    found[front] = torch.nn.functional.pad(shades, (0, 3 - shades.shape[1]))
    return found
