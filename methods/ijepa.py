"""I-JEPA: Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture.

Assran et al., CVPR 2023, https://arxiv.org/abs/2301.08243 (code: facebookresearch/ijepa).
From one large block of an image's patches a narrow predictor tells the features, as the slow average of the encoder has them, of four
smaller blocks, given nothing of these but where they are.

B batch rows, N rows of the global batch, L patches, T target blocks of M patches, L' patches of the context, D features of a token, E of the
predictor
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._masks import inside, rising
from ._parts import apart, average_of, pick, precise, sincos_2d, standard, transformer
from ._ranks import full

PAPER = Paper(
    title="Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture",
    year=2023,
    url="https://arxiv.org/abs/2301.08243",
    contrasts="nothing: the average encoder's features of blocks are predicted from another block's",
    ema="linear to 1",
    crops="1",
)
METRICS = {
    "loss": "smooth L1 distance of predicted and true features, which have mean 0 and variance 1: 0.42 where nothing is predicted",
    "target_spread": "standard deviation of targets' features over an image's target patches: near 0 they are all alike, which is collapse",
    "context": "patches that the encoder sees, of those of the image",
}
DIFFERS = (
    "contexts are cut to the smallest one of the global batch, by leaving patches out at random; the release cuts at the bottom, to the "
    "smallest of each GPU's",
    "where targets leave too few patches for a context, the last target is let in at once; the release tries 20 other places first",
    "the encoder has a class token, as the other methods' has, which takes part in attention alone; the release's has none",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    targets: int = setting(4, "T, target blocks (§3)", unit="blocks", ge=1)
    target_scale: tuple[float, float] = setting((0.15, 0.2), "area of a target block (§3)", unit="fraction", gt=0, lt=1)
    target_ratio: tuple[float, float] = setting((0.75, 1.5), "aspect ratio of a target block (§3)", gt=0)
    context_scale: tuple[float, float] = setting((0.85, 1.0), "area of the context block (§3)", unit="fraction", gt=0, le=1)
    min_keep: int = setting(10, "a context has more patches than these", unit="patches", ge=1)
    predictor_dim: int = setting(
        384, "E, width of the predictor; a multiple of 4 and of its heads (appendix A)", unit="features", ge=4
    )
    predictor_depth: int = setting(6, "blocks of the predictor (appendix A: 6, of a ViT-L and above 12)", unit="blocks", ge=1)
    predictor_heads: int = setting(12, "attention heads of the predictor: the encoder's", ge=1)
    momentum: float = setting(0.996, "momentum of the average encoder at the start; it rises to 1 (appendix A)", ge=0, le=1)


VIEWS = {"view": View(crop=(0.3, 1.0), flip=0.0, interpolation="antialiased")}

RECIPE = {
    "backbone.name": "vit_base",
    "backbone.init": "trunc_normal",
    "backbone.positions": "sincos",
    "optim.name": "adamw",
    "optim.lr": 1.25e-4,  # 1e-3 for 2048
    "optim.lr_end": 0.001,
    "optim.weight_decay": 0.04,
    "optim.weight_decay_end": 0.4,
    "optim.decay_norms": False,
    "optim.warmup_epochs": 40,
    "optim.warmup_start": 0.2,
    "optim.schedule": "cosine",
    "train.batch_size": 2048,
    "train.epochs": 600,
    "train.channels_last": False,
}
MINI = {
    "backbone.name": "vit_mini", "backbone.init": "moco_v3", "backbone.patch": 4, "method.min_keep": 4, "method.predictor_depth": 2,
    "method.predictor_heads": 4,
}  # fmt: skip

PRESETS = {
    "paper": Preset("ViT-B/16, batch 2048, 600 epochs: 72.9 % linear on ImageNet"),
    "vit_l": Preset(
        "ViT-L/16, 600 epochs: 77.5 % linear on ImageNet",
        {"backbone.name": "vit_large", "method.predictor_depth": 12, "method.predictor_heads": 16},
    ),
    "cifar": Preset(
        "a ViT of 6 M parameters for 32 px, patches of 4 px; not run here",
        MINI | {"backbone.width": 192, "method.predictor_dim": 96, "optim.lr": 5e-4, "optim.warmup_epochs": 10, "train.batch_size": 512},
        {"view": View(size=32, crop=(0.3, 1.0))},
    ),
    "digits": Preset(
        "the built-in digits on a small ViT, patches of 4 px, batch 64, 500 steps: below its untrained encoder (with other first weights: 27.6 and 35.7 % linear)",
        MINI | {"backbone.width": 64, "method.predictor_dim": 32, "method.predictor_depth": 1, "method.momentum": 0.96, "optim.lr": 4e-3,
                "optim.weight_decay_end": -1.0, "optim.warmup_epochs": 1, "optim.warmup_start": 0.0, "train.batch_size": 64, "train.steps": 500,
                "eval.every_epochs": 4},
        {"view": View(size=32, crop=(0.6, 1.0), flip=0.0)},
    ),
}  # fmt: skip


class IJEPA(Method):
    couples: ClassVar[bool] = False
    positions: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        net: Any = self.backbone  # a ViT: its patches and tokens are in reach
        side, width = net.image_size // net.patch_size, config.predictor_dim
        left = left_over(config, side)
        if left <= config.min_keep:
            raise ValueError(
                f"min_keep: got {config.min_keep}, but of {side} x {side} patches a context has about {left:.0f} that no target holds: it would hold "
                "targets; give fewer or smaller targets, a larger context or smaller patches (method.targets, method.target_scale, "
                "method.context_scale, backbone.patch)"
            )
        self.embed = nn.Linear(self.out_dim, width)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, width), std=0.02))  # (1, E): it decays
        self.register_buffer("positions", sincos_2d(width, side, side), persistent=False)  # (L, E)
        self.predictor = transformer(width, config.predictor_heads, config.predictor_depth, 1e-6)
        self.project = nn.Linear(width, self.out_dim)
        for part in (self.embed, self.predictor, self.project):
            for name, weight in part.named_parameters():
                if weight.ndim > 1:
                    nn.init.trunc_normal_(weight, std=0.02)
                elif name.endswith("bias"):
                    nn.init.zeros_(weight)
        self.teacher = average_of(self.backbone)

    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        rising(config, "target_scale", "target_ratio", "context_scale")
        if config.predictor_dim % 4 or config.predictor_dim % config.predictor_heads:
            raise ValueError(
                f"predictor_dim: got {config.predictor_dim}, must be a multiple of 4 and of predictor_heads ({config.predictor_heads})"
            )

    @classmethod
    def needs_vit(cls, config: Config) -> bool:
        return True

    def ema_pairs(self):
        yield self.backbone, self.teacher

    def ema_momentum(self, clock: Clock) -> float:
        return self.config.momentum + (1 - self.config.momentum) * clock.fraction

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        net: Any = self.backbone
        teacher: Any = self.teacher
        images = batch.views["view"]
        targets, context = self.masks(batch, images.shape[-1] // net.patch_size)  # (B, T, M), (B, L')
        _, seen = apart(net, net.tokens(pick(net.patches(images), context)))  # (B, L', D)
        with torch.no_grad():
            _, whole = apart(teacher, teacher.tokens(teacher.patches(images)))  # (B, L, D)
            goal = pick(standard(whole), targets.flatten(1)).unflatten(1, targets.shape[1:])  # (B, T, M, D)
        return {"seen": seen, "context": context, "targets": targets, "goal": goal}

    def masks(self, batch: Batch, side: int) -> tuple[Tensor, Tensor]:
        """Places of the patches of the targets (B, T, M) and of the context (B, L'): sides per batch, places per row (§3).

        L' is the least that a row of the global batch has, so all rows are looked at.
        """
        config = self.config
        rows = replace(batch, slot=torch.arange(batch.size, device=batch.slot.device))
        size = block_size(batch.draw("target", ()), side, config.target_scale, config.target_ratio)
        most = block_size(batch.draw("context", ()), side, config.context_scale, (1.0, 1.0))
        targets = placed(rows.rand("targets", (config.targets, 2)), size, side)  # (N, T, L)
        context = allowed(placed(rows.rand("context", (1, 2)), most, side)[:, 0], targets, config.min_keep)  # (N, L)
        least = int(context.sum(1).min())
        order = torch.where(context, rows.rand("left out", (side**2,)), 2.0).argsort(1)[:, :least]  # (N, L')
        held = targets[batch.slot].to(torch.int8).argsort(dim=2, descending=True, stable=True)[..., : size[0] * size[1]]
        return held, order[batch.slot]

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        loss, spread = distance(self.predict(reps["seen"], reps["context"], reps["targets"]), reps["goal"], batch.size)
        seen = loss.new_full((), reps["context"].shape[1] / len(self.positions) * len(reps["context"]) / batch.size)
        return {"loss": loss, "target_spread": spread, "context": seen}

    def predict(self, seen: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        """Features (B, L', D) of patches `context` (B, L') -> predicted ones (B, T, M, D) of those at `targets` (B, T, M), block by block."""
        x = self.embed(seen) + self.positions[context].to(seen.dtype)  # (B, L', E)
        asked = self.mask_token.to(x.dtype) + self.positions[targets].to(x.dtype)  # (B, T, M, E)
        both = torch.cat([x[:, None].expand(-1, asked.shape[1], -1, -1), asked], 2)  # (B, T, L'+M, E)
        told = self.predictor(both.flatten(0, 1))[:, x.shape[1] :]  # (B*T, M, E)
        return self.project(told).unflatten(0, asked.shape[:2])

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.taps(inputs)["tokens"].mean(1)  # (B, D)

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        net: Any = self.teacher
        whole, patches = apart(net, net.tokens(net.patches(inputs["image"])))  # (B, D), (B, L, D)
        return {"backbone": whole, "tokens": patches}


def block_size(draw: Tensor | float, side: int, scale: tuple[float, float], ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of a block, in patches, of one draw for both its area and its aspect ratio, as in the release; less than the image's."""
    u = float(draw)
    patches = int(side**2 * (scale[0] + u * (scale[1] - scale[0])))
    aspect = ratio[0] + u * (ratio[1] - ratio[0])
    height, width = (round(edge) for edge in ((patches * aspect) ** 0.5, (patches / aspect) ** 0.5))
    return max(1, min(height, side - 1)), max(1, min(width, side - 1))


def left_over(config: Config, side: int) -> float:
    """Patches of a context of the middle size that targets of the middle size leave, where each stands anywhere."""
    (height, width), (rows, columns) = (
        block_size(0.5, side, *shape)
        for shape in ((config.context_scale, (1.0, 1.0)), (config.target_scale, config.target_ratio))
    )
    return height * width * (1 - rows * columns / side**2) ** config.targets


def placed(draws: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """(N, T, 2) draws -> which patches the blocks hold: (N, T, L) bool. None reaches the last row or column, as in the release."""
    sides = torch.stack([draws.new_full((), edge) for edge in size])
    return inside((draws * (side - sides)).floor(), sides.expand_as(draws), side)


def allowed(block: Tensor, targets: Tensor, min_keep: int) -> Tensor:
    """The context: of a block (N, L) what no target (N, T, L) holds; where no more than `min_keep` patches are left, the last targets are let in."""
    found = block
    for count in range(1, targets.shape[1] + 1):
        rest = block & ~targets[:, :count].any(1)
        found = torch.where((rest.sum(1) > min_keep)[:, None], rest, found)
    return found


@precise
def distance(predicted: Tensor, goal: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Smooth L1 of (B, T, M, D) predictions, the mean over patches, features and the global batch; and the goals' spread. Shares of this rank.

    The paper has squares (eq. 1), the release this.
    """
    wide = full(goal)
    loss = F.smooth_l1_loss(full(predicted), wide, reduction="none").mean((1, 2, 3)).sum() / size
    return loss, wide.flatten(1, 2).std(1, correction=0).mean(1).sum() / size
