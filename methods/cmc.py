"""CMC: Contrastive Multiview Coding.

Tian, Krishnan & Isola, ECCV 2020, https://arxiv.org/abs/1906.05849 (code: HobbitLong/CMC).
Lightness and colour of one image, or its depth, normals and segmentation, are views of one scene: each view's feature is told from
other images' features of the other views.

B batch rows, N rows of the global batch, M views, F backbone features of one view, D projected features, K drawn negatives
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, evaluation_view, setting
from ._parts import bank_scores, constant_of, mlp, nce, new_bank, normalize, write_bank
from ._ranks import gather

PAPER = Paper(
    title="Contrastive Multiview Coding",
    year=2019,
    url="https://arxiv.org/abs/1906.05849",
    contrasts="a view of a scene (lightness, colour, depth) against the other views of drawn scenes",
    negatives="memory banks",
    crops="1, in channel groups",
)
METRICS = {
    "loss": "noise-contrastive estimation, summed over the pairs of views: each view's feature against the other view's bank rows of the image and of drawn ones",
    "contrast_top1": "share of rows whose own bank row scores above all drawn ones, mean over the pairs of views",
}
DIFFERS = (
    "method.head_norm, none in the paper, is batch norm in the presets of a few hundred steps",
    "an encoder of half the width has a first convolution of half the width; the release's keeps its 64 channels",
)


@dataclass(frozen=True)
class Config(MethodConfig):
    temperature: float = setting(0.07, "temperature of the softmax (§4)", gt=0)
    negatives: int = setting(16384, "images drawn from the bank per image", unit="images", ge=1)
    bank_momentum: float = setting(0.5, "how much of its past feature a bank row keeps", ge=0, lt=1)
    groups: tuple[int, ...] = setting(
        (1, 2),
        "channels of each view, over the images of a sample one after the other (Lab: L and ab; three for any other image, or data.channels)",
        unit="channels",
        ge=1,
    )
    graph: Literal["core", "full"] = setting("core", "pairs of views: the first with each other one, or all (§3.3, eq. 7 and 8)")
    dim: int = setting(128, "width of the projected space", unit="features", ge=1)
    head_norm: Literal["none", "bn"] = setting("none", "norm of the embedding (paper: none); runs of a few hundred steps need bn")


VIEWS = {"view": View(crop=(0.08, 1.0), interpolation="antialiased", space="lab")}
SCENE = View(crop=(0.2, 1.0), geometry="scene")  # images of one sample share the crop
RGBD_VIEWS = {
    "view": replace(SCENE, space="lab"),
    "depth": replace(SCENE, source="depth"),
    "normals": replace(SCENE, source="normals"),
}

RECIPE = {
    "backbone.name": "resnet50",
    "backbone.width": 32,  # each of the two encoders is half as wide
    "augment.mean": (0.5, 0.526, 0.476),  # of Lab in 8 bits
    "augment.std": (0.5, 0.362, 0.397),
    "optim.name": "sgd",
    "optim.lr": 0.06,
    "optim.weight_decay": 1e-4,
    "optim.schedule": "step",
    "optim.milestones": (0.5, 0.667, 0.833),
    "train.batch_size": 128,
    "train.epochs": 240,
}
CIFAR_VIEWS = {"view": replace(VIEWS["view"], size=32, interpolation="linear", crop=(0.2, 1.0))}
DIGITS = {
    "backbone.name": "resnet_small", "backbone.stem": "cifar", "backbone.width": 16, "method.negatives": 1024,
    "method.temperature": 0.1, "method.dim": 64, "method.head_norm": "bn", "optim.name": "adamw", "optim.lr": 6e-3, "optim.schedule": "cosine",
    "optim.warmup_epochs": 0.5, "train.steps": 600, "eval.every_epochs": 2,
}  # fmt: skip
DIGITS_VIEW = View(size=32, crop=(0.6, 1.0), flip=0.0, space="lab")  # a mirrored 2 is no digit
SHARED = replace(DIGITS_VIEW, geometry="scene")
EDGES = replace(SHARED, space="rgb", sobel=True)
PRESETS = {
    "paper": Preset("Lab on two half-width ResNet-50; the authors have 58.6 % linear on ImageNet for two such (PyContrast, YDbDr), 64.1 for two whole ones "
                    "(--backbone.width 64)"),
    "lab": Preset("the same as paper"),
    "rgbd": Preset(
        "L, ab, depth and surface normals (§4.3, NYU-RGBD): a Parquet file with the image columns image, depth and normals",
        {"method.groups": (1, 2, 3, 3), "method.graph": "full", "method.negatives": 1024, "train.epochs": 400}, RGBD_VIEWS,
    ),
    "rgbd_segments": Preset(
        "rgbd and a segmentation, in the column segments",
        {"method.groups": (1, 2, 3, 3, 3), "method.graph": "full", "method.negatives": 1024, "train.epochs": 400},
        RGBD_VIEWS | {"segments": replace(SCENE, source="segments")},
    ),
    "cifar": Preset(
        "Lab on two half-width ResNet-18 with a 3x3 stem",
        {"backbone.name": "resnet18", "backbone.stem": "cifar", "method.negatives": 4096, "method.temperature": 0.1},
        CIFAR_VIEWS,
    ),
    "cifar_short": Preset("Lab on two residual nets of width 16, for a few hundred steps", DIGITS, CIFAR_VIEWS),
    "digits": Preset(
        "the built-in digits and their edges: two residual nets of width 16, batch 128, 600 steps",
        DIGITS | {"method.groups": (3, 3)}, {"view": replace(SHARED, space="rgb"), "edges": EDGES},
    ),
    "digits_lab": Preset("Lab on the digits, whose colours show little of the digit", DIGITS, {"view": DIGITS_VIEW}),
    "digits_edges": Preset("three views of the digits: L, ab and edges", DIGITS | {"method.groups": (1, 2, 3)}, {"view": SHARED, "edges": EDGES}),
    "digits_scene": Preset(
        "four views of the digits, each pair contrasted: L, ab, edges and the digit's mask",
        DIGITS | {"method.groups": (1, 2, 3, 3), "method.graph": "full"},
        {"view": SHARED, "edges": EDGES, "mask": replace(EDGES, source="mask", sobel=False)},
    ),
}  # fmt: skip


class CMC(Method):
    bank: Tensor
    constant: Tensor

    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, lambda: backbone(config.groups[0]), samples)  # `backbone` is the first view's encoder
        self.others = nn.ModuleList(backbone(channels) for channels in config.groups[1:])
        views = len(config.groups)
        self.heads = nn.ModuleList(mlp(self.out_dim, config.dim, last_norm=config.head_norm) for _ in range(views))
        self.out_dim *= views
        self.register_buffer("bank", new_bank(views * samples, config.dim).view(views, samples, config.dim))  # (M, dataset, D)
        self.register_buffer("constant", torch.zeros(views, views))  # Z of each pair; 0 until the first step

    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        each = max(view.channels for view in views.values())
        channels = each * len(views)
        if len(config.groups) < 2 or sum(config.groups) != channels:
            half = f"; {each // 2} {each - each // 2} would do" if len(views) == 1 and each not in (1, 3) else ""
            raise ValueError(
                f"groups: got {' '.join(map(str, config.groups))}, must be two or more views of {channels} channels in all: "
                f"{'three' if each == 3 else each} for each of {', '.join(views)}{half}"
            )

    def negatives(self, batch: int) -> int:
        return self.config.negatives

    def features(self, images: Mapping[str, Tensor]) -> list[Tensor]:
        """Images (B, 3, H, W) of one scene -> M of (B, F)"""
        parts = torch.cat(list(images.values()), -3).split(self.config.groups, dim=-3)
        return [encoder(part) for encoder, part in zip((self.backbone, *self.others), parts, strict=True)]

    def pairs(self) -> Iterator[tuple[int, int]]:
        """(anchor, candidates): which view is scored against which view's bank."""
        views = range(len(self.config.groups))
        return ((i, j) for i in views for j in views if i != j and (self.config.graph == "full" or 0 in (i, j)))

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return {f"h{i}": h for i, h in enumerate(self.features(batch.views))}  # (B, F) each

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        v = [normalize(head(h)) for head, h in zip(self.heads, list(reps.values()), strict=True)]  # M of (B, D)
        samples, constant = self.bank.shape[1], self.constant.clone()
        draws = batch.rand("candidates", (self.config.negatives,), torch.float64)  # (B, K)
        terms, hits = [], []
        for i, j in self.pairs():
            scores = bank_scores(v[i], self.bank[j], batch.index, draws, self.config.temperature)  # (B, 1+K)
            estimate = constant_of(scores, samples, batch.size).to(constant)
            z = torch.where(self.constant[i, j] > 0, self.constant[i, j], estimate)
            constant[i, j] = z
            terms.append(nce(scores, z, samples, batch.size))
            hits.append((scores.detach().argmax(1) == 0).to(terms[-1].dtype).sum() / batch.size)
        rows = gather(torch.stack(v, 1).detach(), batch.size)  # (N, M, D)
        reps |= {"constant": constant, "rows": rows, "index": gather(batch.index, batch.size)}
        return {"loss": torch.stack(terms).sum(), "contrast_top1": torch.stack(hits).mean()}

    @torch.no_grad()
    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        self.constant.copy_(reps["constant"])
        for bank, rows in zip(self.bank, reps["rows"].unbind(1), strict=True):
            write_bank(bank, reps["index"], rows, self.config.bank_momentum)

    @classmethod
    def eval_views(cls, views: Mapping[str, View]) -> dict[str, View]:
        """Every image of the scene, under its view's name; a single one is called `image`."""
        return {name if len(views) > 1 else "image": evaluation_view(view) for name, view in views.items()}

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return torch.cat(self.features(inputs), 1)  # (B, M*F)

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`backbone` is the first view's encoder."""
        first, *others = self.features(inputs)  # (B, F) each
        return {"backbone": first, **{f"view{i}": h for i, h in enumerate(others, 1)}}
