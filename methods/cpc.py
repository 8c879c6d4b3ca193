"""CPC: Contrastive Predictive Coding on images, v1 and v2.

van den Oord, Li & Vinyals 2018, https://arxiv.org/abs/1807.03748 (§3.2); v2: Henaff et al., ICML 2020, https://arxiv.org/abs/1905.09272.
An image is a grid of overlapping patches. From the rows above, the features of patches some rows below are told from those of any other patch.

B batch rows, N rows of the global batch, G patches per side of the grid, F backbone features, D features that are compared, K rows predicted, A directions
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._parts import compare
from ._ranks import gather

PAPER = Paper(
    title="Representation Learning with Contrastive Predictive Coding (v1); Data-Efficient Image Recognition with Contrastive Predictive Coding (v2)",
    year=2018,
    url="https://arxiv.org/abs/1807.03748",
    contrasts="the predicted features of a patch against those of all other patches of the batch",
    negatives="batch",
    predictor="yes",
    crops="a grid of patches",
)
METRICS = {
    "loss": "InfoNCE of the predicted feature of each patch among all patches of the global batch, mean over directions and distances; log of their number at chance",
    "contrast_top1": "share of predictions whose own patch is the nearest of all",
}
DIFFERS = (
    "the networks are torchvision's ResNet-101 (v1) and ResNet-152 (v2) in the place of the papers' own, so that their numbers are not to be expected",
    "v2 augments each patch by elastic shifts, shearing, colours and grey; the paper also applies two of AutoAugment's operations to each, and a colour histogram's",
    "similarities are divided by the square root of their width (8); in the paper's pseudo-code of v2 by 10",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    nearest: int = setting(1, "nearest row that is predicted (patches of neighbouring rows overlap)", unit="rows", ge=1)
    farthest: int = setting(5, "farthest row that is predicted (v1 §3.2: up to five)", unit="rows", ge=1)
    directions: int = setting(1, "1: downwards (v1); 4: also upwards, to the right and to the left (v2 §4.1)", ge=1, le=4)
    context_blocks: int = setting(5, "masked residual blocks of the context network (v2, appendix A)", ge=1)
    context_width: int = setting(256, "channels inside a block of the context network", unit="channels", ge=1)
    dim: int = setting(64, "width of the space in which predictions meet targets", unit="features", ge=1)
    drop_channels: float = setting(
        0.0, "patches of which only one colour channel is kept (v2 §4.1)", unit="probability", ge=0, le=1
    )


# §3.2: grey patches of 64 px, of each a random 60 x 60, padded
V1_VIEW = View(size=256, kind="patches", grid=(7, 64, 32), grid_kept=60, crop=(0.6, 1.0), ratio=(1.0, 1.0), space="gray")
V2_VIEW = replace(V1_VIEW, size=260, grid=(6, 80, 36), grid_kept=0, space="rgb", per_patch=True, elastic=0.2, shear=0.2,
                  jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.25)  # §4.1 and appendix: each patch by itself  # fmt: skip
VIEWS = {"patches": V1_VIEW}

RECIPE = {
    "backbone.name": "resnet101",
    "backbone.norm": "none",  # batch norm would tell a patch of its image's other patches (§3.2)
    "optim.name": "adamw",
    "optim.lr": 2e-4,
    "optim.lr_scaling": "none",
    "optim.weight_decay": 0.0,
    "optim.schedule": "constant",
    "train.batch_size": 512,
    "train.epochs": 200,
}
V2 = {"backbone.name": "resnet152", "backbone.norm": "ln", "optim.lr": 4e-4, "optim.betas": (0.8, 0.999), "optim.clip": 0.01,
      "method.nearest": 3, "method.farthest": 3, "method.directions": 4, "method.drop_channels": 0.8}  # rows: as the pseudo-code  # fmt: skip
SMALL = {
    "backbone.stem": "cifar", "backbone.norm": "ln", "method.nearest": 1, "method.farthest": 3, "method.context_blocks": 2,
    "method.context_width": 64, "optim.schedule": "cosine", "train.batch_size": 64,
}  # fmt: skip
SMALL_VIEW = View(size=32, kind="patches", grid=(4, 14, 6), crop=(0.6, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.2)
DIGITS = SMALL | {"backbone.name": "resnet_small", "backbone.width": 16, "optim.lr": 2e-3, "optim.warmup_epochs": 0.5, "train.steps": 300,
                  "eval.every_epochs": 2}  # fmt: skip

PRESETS = {
    "paper": Preset("v1 with torchvision's ResNet-101 without norm (the paper: its third stack, 48.7 % linear on ImageNet)"),
    "v1": Preset("the same as paper"),
    "v2": Preset("layer norm, four directions, patch augmentation, ResNet-152 (the paper: ResNet-161, 71.5 % linear)", V2, {"patches": V2_VIEW}),
    "cifar": Preset("4 x 4 patches of 14 px on ResNet-18 with layer norm", SMALL | {"backbone.name": "resnet18", "optim.lr": 1e-3, "train.batch_size": 128},
                    {"patches": SMALL_VIEW}),
    "digits": Preset("v1 on the built-in digits: 4 x 4 patches of 14 px", DIGITS, {"patches": replace(SMALL_VIEW, flip=0.0)}),
    "digits_v2": Preset("four directions on the built-in digits", DIGITS | {"method.directions": 4, "method.drop_channels": 0.2},
                        {"patches": replace(V2_VIEW, size=32, grid=(4, 14, 6), ratio=SMALL_VIEW.ratio, flip=0.0)}),
}  # fmt: skip


class Block(nn.Module):
    """A residual block that sees the patch's own row and the rows above (v2, appendix A): one row up, one column to each side."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.narrow, self.across = nn.Conv2d(features, width, 1), nn.Conv2d(width, width, (1, 3), padding=(0, 1))
        self.above, self.widen = nn.Conv2d(width, width, (2, 1)), nn.Conv2d(width, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, G, G) -> (B, F, G, G)"""
        y = self.across(self.narrow(x).relu())
        return x + self.widen(self.above(F.pad(y, (0, 0, 1, 0))).relu())


class CPC(Method):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.rows = config.farthest - config.nearest + 1
        self.contexts, self.predictors = nn.ModuleList(), nn.ModuleList()
        for _ in range(config.directions):
            self.contexts.append(
                nn.Sequential(*[Block(self.out_dim, config.context_width) for _ in range(config.context_blocks)])
            )
            self.predictors.append(nn.Conv2d(self.out_dim, self.rows * config.dim, 1))
        self.target = nn.Linear(self.out_dim, config.dim, bias=False)

    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        if config.nearest > config.farthest:
            raise ValueError(f"nearest: got {config.nearest}, must be at most farthest ({config.farthest})")

    def negatives(self, batch: int) -> int:
        return batch - 1  # images; every patch of each is one

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        patches = batch.views["patches"]  # (B, G*G, 3, h, w)
        if self.config.drop_channels:
            draw = batch.rand("drop channels", (patches.shape[1], 2), patches.dtype)  # (B, G*G, 2)
            kept = F.one_hot((draw[..., 1] * 3).long().clamp(max=2), 3).to(patches.dtype)  # (B, G*G, 3)
            kept = torch.where((draw[..., 0] < self.config.drop_channels)[..., None], kept, 1.0)
            patches = patches * kept[..., None, None]
        return {"grid": self.features(patches)}

    def features(self, patches: Tensor) -> Tensor:
        """(B, G*G, 3, h, w) -> (B, G, G, F)"""
        side = round(patches.shape[1] ** 0.5)
        z = self.backbone(patches.transpose(0, 1).flatten(0, 1))  # (G*G*B, F), all rows of one place together, as crops are
        return z.unflatten(0, (side * side, -1)).transpose(0, 1).unflatten(1, (side, side))

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        grid = reps["grid"]  # (B, G, G, F)
        side = grid.shape[1]
        targets = gather(self.target(grid), batch.size)  # (N, G, G, D)
        place = torch.arange(batch.size * side * side, device=grid.device).view(-1, side, side)  # (N, G, G)
        terms = []
        for turns, (context, predict) in enumerate(zip(self.contexts, self.predictors, strict=True)):
            turned = grid.rot90(turns, (1, 2))  # (B, G, G, F), so that the direction is downwards
            own = place[batch.slot].rot90(turns, (1, 2))  # (B, G, G), where each patch stands among the targets
            seen = context(turned.permute(0, 3, 1, 2)).relu()  # (B, F, G, G)
            for down, rows in enumerate(predict(seen).chunk(self.rows, 1), self.config.nearest):
                if down < side:
                    predicted = rows[:, :, :-down].permute(0, 2, 3, 1).flatten(0, 2)  # (B*(G-K)*G, D)
                    total = batch.size * (side - down) * side
                    terms.append(compare(predicted, targets.flatten(0, 2), own[:, down:].flatten(), total))
        loss, accuracy = (torch.stack(values).mean() for values in zip(*terms, strict=True))
        return {"loss": loss, "contrast_top1": accuracy}

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.features(inputs["image"]).mean((1, 2))  # (B, F)

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        grid = self.features(inputs["image"])  # (B, G, G, F)
        return {"backbone": grid.mean((1, 2)), "grid": grid}
