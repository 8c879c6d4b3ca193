"""What DINO, iBOT and DINOv2 share: crops, the head, and how a student's outputs are matched with those of its slow average.

B batch rows, V crops, L patches, M hidden patches of this rank's rows, F backbone features, K outputs
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Reps, View
from ._masks import hide
from ._parts import apart, encode_crops, mlp, normalize, precise
from ._ranks import full

_VIEW = View(crop=(0.4, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray=0.2, interpolation="antialiased_cubic")
CROPS = {
    "large_a": replace(_VIEW, blur=1.0),
    "large_b": replace(_VIEW, blur=0.1, solarize=0.2),
    "small": replace(_VIEW, size=96, count=8, crop=(0.05, 0.4), blur=0.5),
}


def crops(crop: tuple[float, float], small: View | None = None, **changes: Any) -> dict[str, View]:
    """DINO's large crops of this area and with these changes, and the small ones, if any."""
    large = {name: replace(CROPS[name], crop=crop, **changes) for name in ("large_a", "large_b")}
    return large | ({"small": small} if small else {})


SMALL = {"size": 32, "blur": 0.0, "interpolation": "linear"}
DIGITS_CROPS = crops((0.8, 1.0), **SMALL, flip=0.0, jitter=(0.2, 0.2, 0.2, 0.05), solarize=0.0)


class Head(nn.Module):
    """(R, F) -> (R, K): three layers, L2, and a last layer whose weights have unit length (appendix C)."""

    def __init__(self, inputs: int, outputs: int, hidden: int, bottleneck: int, norm: str = "none", layers: int = 3) -> None:
        """norm: batch norm in the head: none, hidden (layers) or all."""
        super().__init__()
        inner, last = "none" if norm == "none" else "bn", "bn" if norm == "all" else "none"
        self.layers = mlp(inputs, *[hidden] * (layers - 1), bottleneck, norm=inner, last_norm=last, activation=nn.GELU)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.last = nn.Parameter(nn.Linear(bottleneck, outputs, bias=False).weight.detach())  # (K, bottleneck), rows of norm 0.58

    def forward(self, x: Tensor) -> Tensor:
        y = normalize(self.layers(x.flatten(0, -2)).unflatten(0, x.shape[:-1]))  # batch norm takes crops as rows
        return cosines(y, self.last)


def two_crops(net: Any, patches: Tensor) -> Reps:
    """Of the patches of two crops (2B, L, F), crop-major: `whole` (B, 2, F), the class tokens, and `patches` (B, 2, L, F)."""
    found = zip(("whole", "patches"), apart(net, net.tokens(patches)), strict=True)
    return {name: value.unflatten(0, (2, -1)).transpose(0, 1) for name, value in found}


def by_epochs(config: Any, clock: Clock) -> float:
    """The average network's temperature, which rises by whole epochs."""
    epoch = int(clock.epoch)
    if epoch >= config.teacher_warmup:
        return config.teacher_temperature
    rise = epoch / max(config.teacher_warmup - 1, 1)
    return config.teacher_warmup_temperature + rise * (config.teacher_temperature - config.teacher_warmup_temperature)


def seen_in_part(method: Any, batch: Batch) -> Reps:
    """What the student sees of the large crops, whose `method.hidden` patches a mask token stands for, and of the small ones; and the average network of all.

    hidden: (B, 2, L) bool; whole, teacher_whole: (B, 2, F); patches, teacher_patches: (B, 2, L, F); small: (B, V-2, F), where there are any
    """
    net, teacher = method.backbone, method.teacher  # ViTs: their patches and tokens are in reach
    large = torch.cat([batch.views["large_a"], batch.views["large_b"]])  # (2B, C, H, W)
    hidden = method.hidden(batch, large.shape[-1] // net.patch_size)  # (B, 2, L)
    reps = {"hidden": hidden} | two_crops(net, hide(net, large, hidden.transpose(0, 1).flatten(0, 1), method.mask_token))
    reps |= encode_crops(net, batch, "small")  # (B, V-2, F)
    with torch.no_grad():
        reps |= {f"teacher_{name}": value for name, value in two_crops(teacher, teacher.patches(large)).items()}
    return reps


@precise
def cosines(y: Tensor, last: Tensor) -> Tensor:
    """Unit features (..., D) with the directions of (K, D): (..., K), in at least float32, of which the temperatures leave two digits in bf16."""
    return full(y) @ normalize(last).T


@precise
def match(student: Tensor, teacher: Tensor, centre: Tensor, cold: float, sharp: float, size: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy (eq. 1 to 3) of each student crop (V, B, K) with each other teacher crop (2, B, K); shares over the global batch.

    The mean over pairs of crops. Besides: the teacher's entropy over log K; 0 or 1 are the two ways to collapse (§5.3).
    """
    log_p = (full(student) / cold).log_softmax(-1)  # (V, B, K)
    target = ((full(teacher) - centre.to(full(teacher).dtype)) / sharp).softmax(-1).detach()  # (2, B, K)
    terms = [-(target[i] * log_p[v]).sum() for i in range(2) for v in range(len(log_p)) if v != i]
    entropy = -(target * target.clamp(min=1e-30).log()).sum() / (2 * size * math.log(target.shape[-1]))
    return torch.stack(terms).mean() / size, entropy


@precise
def hidden_match(student: Tensor, told: Tensor, hidden: Tensor, temperature: float, size: int) -> Tensor:
    """Cross-entropy (eq. 2) of hidden patches' scores (M, K) with distributions (M, K), `hidden` (B, 2, L) saying whose they are.

    The mean over each crop's hidden patches, then over all crops of the global batch, those without any among them: this rank's share.
    """
    terms = -(told * (full(student) / temperature).log_softmax(-1)).sum(-1)  # (M,)
    weight = (1 / hidden.sum(-1, keepdim=True).clamp(min=1)).expand(hidden.shape)[hidden]  # (M,)
    return (terms * weight).sum() / (2 * size)
