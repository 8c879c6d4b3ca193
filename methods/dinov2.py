"""DINOv2: Learning Robust Visual Features without Supervision.

Oquab et al., TMLR 2024, https://arxiv.org/abs/2304.07193 (code: facebookresearch/dinov2).
iBOT with a head of its own for patches, SwAV's balanced assignments in place of centres, and a regulariser that spreads the features of
a batch. Registers: Darcet et al., ICLR 2024, https://arxiv.org/abs/2309.16588.

B batch rows, N rows of the global batch, V crops, L patches, M hidden ones of this rank's rows, F backbone features, K outputs
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, setting
from ._masks import blocks, front, rising
from ._parts import apart, average_of, cosine, precise
from ._ranks import full, gather, total, world_size
from ._self_distillation import CROPS, DIGITS_CROPS, SMALL, Head, crops, hidden_match, seen_in_part

PAPER = Paper(
    title="DINOv2: Learning Robust Visual Features without Supervision",
    year=2024,
    url="https://arxiv.org/abs/2304.07193",
    contrasts="a crop's and each hidden patch's output distribution with the average network's, balanced over the batch",
    ema="cosine to 1",
    crops="2 + 8 small",
)
METRICS = {
    "loss": "class_loss + patch_loss + method.koleo x koleo",
    "class_loss": "cross-entropy of the student's crops with the balanced code of the other large crop; log K while nothing is told apart",
    "patch_loss": "the same of hidden patches and their own codes, the mean over a crop's, then over crops, those without any counted as 0",
    "koleo": "minus the log distance of a large crop's features from the nearest of the batch, both crops summed: large where all are alike",
    "code_entropy": "entropy over log K of how often each prototype is used by crops: 1 all alike, near 0 one prototype for everything",
}
DIFFERS = (
    "KoLeo's nearest neighbours are those of the global batch; the release's of each GPU's rows",
    "stochastic depth rises with depth, the release's is the same in all blocks; the MLP is not SwiGLU",
    "gradients are clipped over all weights together; the release clips backbone and heads each by itself",
    "blocks are BEiT's, cut to exactly the drawn share of a crop's patches; the release's may leave a few out",
    "the last layers' rows have unit length; the release trains a length for each output, and decays it",
    "the rates are those of ssl_default_config.yaml, whose head is shared and whose centring is DINO's; balanced codes and two heads are of vitl14 and vitg14, "
    "which have 131,072 outputs, a rate of 2e-4 and no decay of it by layer",
    "the class token begins at 0.02, the release's at 1e-6",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    outputs: int = setting(65536, "K, prototypes of crops, and of patches in a head of their own (§4)", unit="features", ge=2)
    hidden: int = setting(2048, "width of the heads' two hidden layers", unit="features", ge=1)
    bottleneck: int = setting(256, "width of the heads before their last layers", unit="features", ge=1)
    mask_share: float = setting(0.5, "share of the batch's large crops of which patches are hidden", unit="fraction", gt=0, le=1)
    mask_ratio: tuple[float, float] = setting(
        (0.1, 0.5), "least and largest share of the patches that are hidden in these", unit="fraction", ge=0, lt=1
    )
    koleo: float = setting(0.1, "weight of the regulariser that spreads features (§4)", ge=0)
    student_temperature: float = setting(0.1, "temperature of the student", gt=0)
    teacher_temperature: float = setting(0.07, "smoothness of the assignments after their warm-up", gt=0)
    teacher_warmup_temperature: float = setting(0.04, "smoothness of the assignments at the start", gt=0)
    teacher_warmup: float = setting(30.0, "linear warm-up of that", unit="epochs", ge=0)
    iterations: int = setting(3, "Sinkhorn iterations (§4)", ge=1)
    momentum: float = setting(0.992, "momentum of the average network at the start; it rises to 1", ge=0, le=1)
    freeze_epochs: float = setting(1.0, "how long the last layers stay as they were drawn", unit="epochs", ge=0)
    layer_decay: float = setting(0.9, "rate of each block relative to the next one's", gt=0, le=1)
    patch_rate: float = setting(0.2, "rate of the patch projection relative to the tokens'", gt=0, le=1)


# DINO's blur is applied with 1 - p in the release, and its models were trained so (facebookresearch/dinov3, pull 342)
VIEWS = {
    "large_a": replace(CROPS["large_a"], crop=(0.32, 1.0), blur=0.0),
    "large_b": replace(CROPS["large_b"], crop=(0.32, 1.0), blur=0.9),
    "small": replace(CROPS["small"], count=8, crop=(0.05, 0.32)),
}

RECIPE = {
    "backbone.name": "vit_base",
    "backbone.init": "trunc_normal",
    "backbone.drop_path": 0.3,
    "backbone.layer_scale": 1e-5,
    "optim.name": "adamw",
    "optim.lr": 0.000125,  # 4e-3 for 1024
    "optim.lr_scaling": "sqrt",
    "optim.lr_end": 0.00025,  # 1e-6
    "optim.weight_decay": 0.04,
    "optim.weight_decay_end": 0.4,
    "optim.decay_norms": False,
    "optim.warmup_epochs": 10,
    "optim.schedule": "cosine",
    "optim.clip": 3.0,
    "train.batch_size": 1024,
    "train.epochs": 100,
    "train.channels_last": False,
}
MINI = {
    "backbone.name": "vit_mini", "backbone.init": "moco_v3", "backbone.patch": 4, "backbone.registers": 2, "backbone.drop_path": 0.0,
    "backbone.layer_scale": 0.0, "method.layer_decay": 1.0, "method.patch_rate": 1.0,
}  # fmt: skip

PRESETS = {
    "paper": Preset(
        "ViT-B/14 with 4 registers, batch 1024, 2 x 224 + 8 x 98 px, 100 epochs of ImageNet; the published ViT-B is distilled from a "
        "ViT-g; not run here",
        {"backbone.patch": 14, "backbone.registers": 4},
        VIEWS | {"small": replace(VIEWS["small"], size=98)},
    ),
    "vit_s": Preset("ViT-S/16 of 6 heads, without registers; not run here",
                    {"backbone.name": "vit_small", "backbone.heads": 6, "backbone.drop_path": 0.1}),
    "cifar": Preset(
        "a ViT of 6 M parameters for 32 px, patches of 4 px, 2 crops of 32 px and 4 of 16; not run here",
        MINI | {"backbone.width": 192, "method.outputs": 4096, "optim.lr": 6e-5, "train.batch_size": 256, "train.epochs": 500},
        crops((0.3, 1.0), replace(CROPS["small"], size=16, count=4, crop=(0.1, 0.3), blur=0.0), **SMALL),
    ),
    "digits": Preset(
        "the built-in digits on a small ViT with 2 registers, patches of 8 px, two crops, batch 64, 400 steps; measured over three seeds: "
        "47.2, 44.4 and 42.6 % k-NN, untrained 20.1, 23.3 and 26.2",
        MINI | {"backbone.width": 64, "backbone.patch": 8, "method.outputs": 128, "method.hidden": 128, "method.bottleneck": 64,
                "method.momentum": 0.95, "method.teacher_warmup": 0.0, "method.teacher_temperature": 0.05, "method.freeze_epochs": 0.0,
                "optim.lr": 1e-3, "optim.lr_scaling": "none", "optim.weight_decay_end": -1.0, "optim.warmup_epochs": 1,
                "train.batch_size": 64, "train.steps": 400, "eval.every_epochs": 4},
        DIGITS_CROPS,
    ),
}  # fmt: skip


class DINOv2(Method):
    reach: ClassVar[tuple[str, ...]] = (*Method.reach, "project")

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, backbone, samples)
        self.mask_token = nn.Parameter(torch.zeros(1, self.out_dim))  # (1, F): it decays
        self.head, self.patch_head = (Head(self.out_dim, config.outputs, config.hidden, config.bottleneck) for _ in range(2))
        self.teacher = average_of(self.backbone)
        self.teacher_head = average_of(self.head)
        self.teacher_patch_head = average_of(self.patch_head)

    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        rising(config, "mask_ratio")

    @classmethod
    def needs_vit(cls, config: Config) -> bool:
        return True

    def ema_pairs(self):
        yield self.backbone, self.teacher
        yield self.head, self.teacher_head
        yield self.patch_head, self.teacher_patch_head

    def ema_momentum(self, clock: Clock) -> float:
        return cosine(self.config.momentum, 1.0, clock.fraction)

    def temperature(self, clock: Clock) -> float:
        config = self.config
        rise = min(clock.epoch / config.teacher_warmup, 1.0) if config.teacher_warmup else 1.0
        return config.teacher_warmup_temperature + rise * (config.teacher_temperature - config.teacher_warmup_temperature)

    def param_groups(self) -> list[dict[str, Any]]:
        """Each block at its own rate; what stands before the first block at the lowest, the heads at the full one."""
        named = {name: p for name, p in self.named_parameters() if p.requires_grad}
        places = {name: re.search(r"(?:encoder_layer_|blocks\.)(\d+)\.", name) for name in named}
        depth = max((int(found[1]) for found in places.values() if found), default=-1) + 1
        groups: dict[float, list[nn.Parameter]] = {}
        for name, p in named.items():
            inner = name == "mask_token" or (
                name.startswith("backbone.") and ".ln." not in name and not name.startswith("backbone.norm.")
            )
            found = places[name]
            layer = int(found[1]) + 1 if found else 0 if inner else depth + 1
            patches = self.config.patch_rate if re.search(r"conv_proj\.|patch_embed\.", name) else 1.0
            groups.setdefault(self.config.layer_decay ** (depth + 1 - layer) * patches, []).append(p)
        return [{"params": params, "lr_scale": scale} for scale, params in groups.items()]

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return seen_in_part(self, batch)

    def hidden(self, batch: Batch, side: int) -> Tensor:
        """Which of L = side^2 patches of the two large crops the student does not see: (B, 2, L) bool.

        Of the 2N crops of the global batch a share is masked, from the least to the largest ratio in equal steps, whose order is drawn.
        """
        config = self.config
        masked = int(2 * batch.size * config.mask_share)
        place = (
            batch.draw("masked", (2 * batch.size,), torch.float64).argsort().argsort().unflatten(0, (2, -1))[:, batch.slot].T
        )  # (B, 2)
        least, most = config.mask_ratio
        share = least + (most - least) * (place + batch.rand("ratio", (2,))) / max(masked, 1)
        share = torch.where(place < masked, share, 0.0)
        count = (share * side**2).long().flatten()  # (B*2,)
        order = blocks(batch.rand("blocks", (2, 64, 4)).flatten(0, 1), side, 4 / side**2, count)  # (B*2, L)
        return front(order, count).unflatten(0, (-1, 2))

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        config, hidden = self.config, reps["hidden"]
        cold, sharp = config.student_temperature, self.temperature(clock)
        seen = torch.cat([reps[name] for name in ("whole", "small") if name in reps], 1).transpose(0, 1)  # (V, B, F)
        with torch.no_grad():
            codes = balanced(self.teacher_head(reps["teacher_whole"].transpose(0, 1)).flatten(0, 1), sharp, config.iterations)
            codes = codes.unflatten(0, (2, -1))  # (2, B, K)
            told = balanced(self.teacher_patch_head(reps["teacher_patches"][hidden]), sharp, config.iterations)  # (M, K)
        class_loss = pairs(self.head(seen), codes, cold, batch.size)
        patch_loss = hidden_match(self.patch_head(reps["patches"][hidden]), told, hidden, cold, batch.size)
        spread = torch.stack([koleo(reps["whole"][:, i], batch.slot, batch.size) for i in range(2)]).sum()
        mean = total(codes.sum((0, 1))) / (2 * batch.size)  # (K,)
        entropy = -(mean * mean.clamp(min=1e-30).log()).sum() / math.log(len(mean)) / world_size()
        values = {
            "class_loss": class_loss.detach(),
            "patch_loss": patch_loss.detach(),
            "koleo": spread.detach(),
            "code_entropy": entropy,
        }
        return {"loss": class_loss + patch_loss + config.koleo * spread} | values

    def after_backward(self, clock: Clock) -> None:
        if clock.epoch < self.config.freeze_epochs:
            self.head.last.grad = self.patch_head.last.grad = None

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.teacher(inputs["image"])  # (B, F)

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        net: Any = self.teacher
        whole, patches = apart(net, net.tokens(net.patches(inputs["image"])))  # (B, F), (B, L, F)
        return {"backbone": whole, "tokens": patches, "student": self.backbone(inputs["image"])}


@precise
@torch.no_grad()
def balanced(scores: Tensor, temperature: float, iterations: int) -> Tensor:
    """Cosines (M, K) of this rank's rows -> their codes (M, K): each sums to one, and over the rows of all ranks prototypes are used alike
    (Caron et al. 2020, §3.1). Ranks may have any numbers of rows.
    """
    q = ((full(scores) - 1) / temperature).exp().clamp(min=1e-30)  # (M, K), at most 1; else sums of nothing but underflow are 0
    rows = total(q.new_tensor(float(len(q))))
    q = q / total(q.sum())
    for _ in range(iterations):
        q = q / total(q.sum(0, keepdim=True)) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / rows
    return q * rows


@precise
def pairs(student: Tensor, codes: Tensor, temperature: float, size: int) -> Tensor:
    """Cross-entropy of each student crop (V, B, K) with the code of each other large crop (2, B, K): the mean over pairs, this rank's share."""
    log_p = (full(student) / temperature).log_softmax(-1)  # (V, B, K)
    terms = [-(codes[i] * log_p[v]).sum() for i in range(2) for v in range(len(log_p)) if v != i]
    return torch.stack(terms).mean() / size


@precise
def koleo(features: Tensor, slot: Tensor, size: int) -> Tensor:
    """Minus the log distance of features (B, F) from the nearest of the global batch (Sablayrolles et al. 2019, arXiv 1806.03198): this rank's
    share of the mean.
    """
    own = F.normalize(full(features), dim=-1, eps=1e-8)  # (B, F)
    everyone = gather(own, size)  # (N, F)
    near = (own @ everyone.T).detach()  # (B, N)
    near[torch.arange(len(own), device=own.device), slot] = -1.0
    return -(F.pairwise_distance(own, everyone[near.argmax(1)], eps=1e-8) + 1e-8).log().sum() / size
