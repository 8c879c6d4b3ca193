"""What a method paints of images of which it sees a part.

Legend of shapes: B images, L patches, P values of a patch.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import data, model
from ..errors import UserError
from ..methods._base import Batch, Clock, Reconstruction, evaluation_view
from ..methods._parts import patchify, unpatchify
from .look import Look
from .sheet import Sheet
from .subject import Subject, offering

IMAGES, GREY = 8, 0.5
END = Clock(samples=1, total=1, dataset=1, batch=1)  # of a run: schedules have nothing more to do


def draw(subject: Subject, out: Path) -> dict[str, float]:
    """Image, what is seen of it, and the seen patches among the painted ones. Raises UserError for a method that paints nothing."""
    split, ids, kind = subject.asked()
    found = reconstruct(subject, split, subject.limited(split, ids, IMAGES))
    seen, whole = pasted(found)
    rows = [subject.method.pixels(each).float().cpu() for each in (found.images, seen, whole)]
    # of RGB, and of what is stretched
    grey = subject.method.pixel_mean.float().cpu() if subject.look.chosen else torch.tensor(GREY)
    rows[1] = torch.where(unpatched(found, found.masked[..., None].expand_as(found.patches)).cpu(), grey, rows[1])
    hidden = float(found.masked.float().mean())
    title = f"{subject.name}: {hidden:.0%} of the patches masked; {found.about}"
    note = f"{kind}; in the reconstruction the patches that were seen are the image's own"
    sheet = Sheet(3, len(found.images), title, note=note, left=1.1, inches=1.0)
    for row, (word, images) in enumerate(zip(("image", "seen", "reconstruction"), rows, strict=True)):
        sheet.word(row + 0.5, -0.1, word, ha="right", size=9)
        for column, image in enumerate(images):
            sheet.tile(row, column, as_bytes(image, subject.look))
    sheet.save(out)
    return {}


def reconstruct(subject: Subject, split: data.Split, ids: np.ndarray) -> Reconstruction:
    """Of images as evaluation shows them. Raises UserError where the method has none."""
    views = {name: evaluation_view(view) for name, view in subject.config.views.items()}
    drawn = next(iter(subject.drawn(split, ids, views, len(ids))))
    rows, slots = len(drawn["index"]), torch.arange(len(drawn["index"]), device=subject.device)
    batch = Batch(subject.inputs(drawn["views"]), drawn["index"], slots, rows, seed=subject.config.seed)
    try:
        with model.autocast(subject.config, subject.device):
            return subject.method.reconstruct(batch, END)
    except NotImplementedError as error:
        raise UserError(
            f"plot reconstruction: {Path(subject.config.method.name).stem} {error}; {offering('reconstruct')}"
        ) from None


def pasted(found: Reconstruction) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) each: the images without what was masked (0 there), and with it as it was painted; what was seen is bit-equal."""
    true = patchify(found.images, _side(found))  # (B, L, P)
    masked = found.masked[..., None]  # (B, L, 1)
    whole = torch.where(masked, found.patches.to(true.dtype), true)
    return unpatched(found, true.masked_fill(masked, 0)), unpatched(found, whole)


def unpatched(found: Reconstruction, patches: Tensor) -> Tensor:
    """(B, L, P) -> (B, C, H, W) in the grid of the images."""
    return unpatchify(patches, found.images.shape[3] // _side(found), found.images.shape[1])


def _side(found: Reconstruction) -> int:
    """Side of a patch in px."""
    return math.isqrt(found.patches.shape[2] // found.images.shape[1])


def as_bytes(image: Tensor, look: Look) -> np.ndarray:
    """(C, H, W) in [0, 1] or beyond -> (H, W, 3) uint8."""
    if look.chosen:
        return look(image.clamp(0, 1).permute(1, 2, 0).numpy())
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
