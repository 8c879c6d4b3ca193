"""What a vision transformer's class token looks at in the last block, and how well that is the object where its mask is known.

DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294, §4.2.2 and figure 4).

Legend of shapes: B images, A heads, L patches, h x w their grid, H x W pixels that the grid covers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import data, model
from ..evaluation.common.attended import COLUMN, MASS, attended, enlarged, jaccard, keep, overlap
from ..methods._base import Method, View, evaluation_view
from .preview import as_seen
from .sheet import RIGHT, Sheet
from .subject import Subject, apart

SHOWN, MEASURED = 8, 2000
OUTLINE = "#00e5ff"  # a colour that the map has not


@dataclasses.dataclass(frozen=True)
class Looked:
    """Images as the encoder sees them (B, H, W, 3) uint8, attention of their class tokens (B, A, h, w), objects (B, H, W) bool or None."""

    images: np.ndarray
    attention: Tensor
    objects: Tensor | None

    @property
    def kept(self) -> Tensor:
        """(B, A, H, W) bool: pixels of the patches that hold MASS of a head's attention."""
        return enlarged(keep(self.attention, MASS), self.images.shape[1:3])


def draw(subject: Subject, out: Path) -> dict[str, float]:
    """Image, each head and their mean; what holds MASS of the attention is outlined. Where the data have masks of the objects:
    attention_jaccard, and random_attention_jaccard of the same network untrained.
    """
    split, ids, kind = subject.asked()
    shown = apart(subject.limited(split, ids, MEASURED), SHOWN)
    looked = next(look(subject, subject.method, split, shown, len(shown)))
    found: dict[str, float] = {}
    measured = 0
    if looked.objects is not None:
        untrained = model.build(subject.config, len(subject.source.train)).to(subject.device).eval()
        ids = subject.limited(split, ids, MEASURED)
        for prefix, method in (("", subject.method), ("random_", untrained)):
            pairs = [(each.attention, each.objects) for each in look(subject, method, split, ids) if each.objects is not None]
            best = torch.cat([overlap(*pair) for pair in pairs])
            found[f"{prefix}attention_jaccard"], measured = float(best.mean()), len(best)
    _sheet(subject, f"{measured:,} {kind}", looked, found).save(out)
    return found


def look(subject: Subject, method: Method, split: data.Split, ids: np.ndarray, size: int = 0) -> Iterator[Looked]:
    """Batch by batch, of eval.batch_size or `size` images. Raises UserError where the encoder has no class token of the whole image."""
    name, view = next(iter(subject.views.items()))
    views = dict(subject.views)
    if split.columns.get(COLUMN) == "image" and view.kind == "image":
        views[COLUMN] = evaluation_view(View(size=view.size, source=COLUMN))  # cut as the image is
    for batch in subject.drawn(split, ids, views, size):
        drawn: dict[str, Tensor] = batch["views"]
        objects = drawn.pop(COLUMN)[..., 0] > 127 if COLUMN in views else None  # (B, S, S)
        with torch.no_grad(), model.autocast(subject.config, subject.device):
            attention = attended(method, subject.inputs(drawn), name).float().cpu()
        side = drawn[name].shape[1] // attention.shape[2] * attention.shape[2]
        pixels = np.stack([as_seen(each, view, subject.look) for each in drawn[name].numpy()])
        yield Looked(pixels[:, :side, :side], attention, None if objects is None else objects[:, :side, :side])


def _sheet(subject: Subject, kind: str, looked: Looked, found: Mapping[str, float]) -> Sheet:
    heads = looked.attention.shape[1]
    title = f"{subject.name}: attention of the class token in the last block"
    note = f"outlined: the patches that hold {MASS:.0%} of the attention"
    if found:
        note += (
            f"; in the image: the object\nframed: the head whose patches overlap most with it; their Jaccard overlap, mean over {kind}: "
            f"{found['attention_jaccard']:.3f}\nthe same of the untrained network: {found['random_attention_jaccard']:.3f}"
        )
    maps = torch.cat([looked.attention, looked.attention.mean(1, keepdim=True)], 1)  # (B, A+1, h, w)
    masks = enlarged(keep(maps, MASS), looked.images.shape[1:3])
    sheet = Sheet(len(maps), heads + 2.3, title, note=note, top=0.28)
    for column, word in enumerate(["image", *(f"head {i + 1}" for i in range(heads)), "mean"]):
        sheet.word(-0.12, (column + 0.5 if column <= heads else column + 0.7) + 0.1 * (column > 0), word, size=9)
    best = jaccard(masks[:, :heads], looked.objects[:, None]).argmax(1) if looked.objects is not None else None
    for row, image in enumerate(looked.images):
        sheet.tile(row, 0, image)
        if looked.objects is not None:
            sheet.outline(row, 0, looked.objects[row].numpy(), OUTLINE)
        for head in range(heads + 1):
            column = head + 1.1 + 0.2 * (head == heads)
            chosen = best is not None and head == best[row]
            sheet.tile(row, column, maps[row, head].numpy(), cmap="inferno", vmin=0, frame=RIGHT if chosen else "")
            sheet.outline(row, column, masks[row, head].numpy(), OUTLINE)
    return sheet
