"""SimMIM: a Simple Framework for Masked Image Modeling.

Xie et al., CVPR 2022, https://arxiv.org/abs/2111.09886 (code: microsoft/SimMIM).
The encoder sees the whole grid, a mask token in place of the hidden squares; one linear layer paints them.

B batch rows, L patches, D features of a token, P values of a patch
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reconstruction, Reps, View, setting
from ._masks import front, hide
from ._parts import apart, input_channels, narrow, patchify, precise
from ._ranks import full

PAPER = Paper(
    title="SimMIM: a Simple Framework for Masked Image Modeling",
    year=2022,
    url="https://arxiv.org/abs/2111.09886",
    contrasts="nothing: hidden squares are painted by one layer on a transformer that sees mask tokens",
    crops="1",
)
METRICS = {"loss": "mean absolute error of the hidden pixels, in standard deviations of the images' normalisation"}
DIFFERS = (
    "positions are added to the patches; the release's ViT has a relative position bias instead, one for all blocks",
    "the class token takes part in attention and in nothing else, as in the release; it decays here, and features are the mean patch token",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    mask_ratio: float = setting(0.6, "share of squares that are hidden (§4.1.2)", unit="fraction", gt=0, lt=1)
    mask_patch: int = setting(32, "side of a hidden square, a multiple of backbone.patch (§4.1.2); 0: one patch", unit="px", ge=0)


VIEWS = {"view": View(crop=(0.67, 1.0), interpolation="antialiased")}

RECIPE = {
    "backbone.name": "vit_base",
    "backbone.init": "beit",
    "backbone.positions": "sincos",
    "backbone.drop_path": 0.1,
    "backbone.layer_scale": 0.1,
    "optim.name": "adamw",
    "optim.lr": 5e-5,  # 1e-4 for 512
    "optim.weight_decay": 0.05,
    "optim.decay_norms": False,
    "optim.warmup_epochs": 10,
    "optim.warmup_start": 0.00125,  # 5e-7 of 4e-4
    "optim.schedule": "step",
    "optim.milestones": (0.875,),
    "optim.clip": 5.0,
    "train.batch_size": 2048,
    "train.epochs": 800,
    "train.channels_last": False,
}
MINI = {
    "backbone.name": "vit_mini", "backbone.init": "moco_v3", "backbone.patch": 4, "backbone.drop_path": 0.0, "backbone.layer_scale": 0.0,
}  # fmt: skip

PRESETS = {
    "paper": Preset("ViT-B/16, batch 2048, 800 epochs: 83.8 % fine-tuned on ImageNet"),
    "cifar": Preset(
        "a ViT of 6 M parameters for 32 px, patches of 4 px, hidden squares of 8; not run here",
        MINI | {"backbone.width": 192, "method.mask_patch": 8, "optim.lr": 5e-4, "optim.schedule": "cosine", "train.batch_size": 512},
        {"view": View(size=32, crop=(0.67, 1.0))},
    ),
    "digits": Preset(
        "the built-in digits on a small ViT, patches of 4 px, batch 64, 500 steps: does not beat its untrained encoder (once: 32.7 and 35.7 % linear)",
        MINI | {"backbone.width": 64, "method.mask_patch": 0, "optim.lr": 6e-3, "optim.schedule": "cosine", "optim.warmup_epochs": 1,
                "optim.warmup_start": 0.0, "train.batch_size": 64, "train.steps": 500, "eval.every_epochs": 4},
        {"view": View(size=32, crop=(0.6, 1.0), flip=0.0)},
    ),
}  # fmt: skip


class SimMIM(Method):
    couples: ClassVar[bool] = False
    reach: ClassVar[tuple[str, ...]] = (*Method.reach, "project")

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        net: Any = self.backbone  # a ViT: its patches and tokens are in reach
        self.patch: int = net.patch_size
        self.square = config.mask_patch or self.patch
        if self.square % self.patch:
            raise ValueError(f"mask_patch: got {config.mask_patch}, must be a multiple of backbone.patch ({self.patch})")
        self.mask_token = nn.Parameter(narrow(torch.empty(1, self.out_dim)))  # (1, D): it decays
        self.paint = nn.Linear(self.out_dim, input_channels(net) * self.patch**2)

    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        size = views["view"].size
        if config.mask_patch and (config.mask_patch > size // 2 or size % config.mask_patch):
            raise ValueError(
                f"mask_patch: got {config.mask_patch}, must divide the {size} px of views.view.size into at least 2 x 2 squares"
            )

    @classmethod
    def needs_vit(cls, config: Config) -> bool:
        return True

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        net: Any = self.backbone
        images = batch.views["view"]
        hidden = self.hidden(batch, images.shape[-1] // self.patch)  # (B, L)
        _, patches = apart(net, net.tokens(hide(net, images, hidden, self.mask_token)))  # (B, L, D)
        return {"patches": patches, "hidden": hidden}

    def hidden(self, batch: Batch, side: int) -> Tensor:
        """Which of L = side^2 patches a mask token stands for: (B, L) bool, as many in each row."""
        scale = self.square // self.patch  # patches along a square
        squares = side // scale
        count = min(math.ceil(squares**2 * self.config.mask_ratio), squares**2 - 1)
        chosen = front(batch.rand("mask", (squares**2,)).argsort(1), count)  # (B, squares^2)
        chosen = chosen.unflatten(1, (squares, squares)).repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        return chosen.flatten(1)

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        goal = patchify(batch.views["view"], self.patch)  # (B, L, P)
        return {"loss": absolute_error(self.paint(reps["patches"]), goal, reps["hidden"], batch.size)}

    @torch.no_grad()
    def reconstruct(self, batch: Batch, clock: Clock) -> Reconstruction:
        reps = self.represent(batch, clock)
        return Reconstruction(batch.views["view"], self.paint(reps["patches"]), reps["hidden"], "painted pixels")

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.taps(inputs)["tokens"].mean(1)  # (B, D)

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        net: Any = self.backbone
        whole, patches = apart(net, net.tokens(net.patches(inputs["image"])))  # (B, D), (B, L, D)
        return {"backbone": whole, "tokens": patches}


@precise
def absolute_error(painted: Tensor, goal: Tensor, hidden: Tensor, size: int) -> Tensor:
    """Mean absolute error of hidden patches (§3.4): painted, goal (B, L, P), hidden (B, L), as many in each row; this rank's share."""
    error = (full(painted) - full(goal)).abs().mean(-1)  # (B, L)
    return ((error * hidden).sum(1) / hidden.sum(1)).sum() / size
