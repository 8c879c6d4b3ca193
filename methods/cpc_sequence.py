"""CPC on sequences: Representation Learning with Contrastive Predictive Coding.

Van den Oord, Li & Vinyals, 2018, https://arxiv.org/abs/1807.03748, §2 and §3.1: the paper's first form, for waveforms or any array.
A strided encoder makes frames of the signal, a recurrent network sums up the past, and each past tells the frames of the next steps
from all others of the batch.

B batch rows, N rows of the global batch, C channels, T values, S frames, F features of a frame, H features of the context
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._base import Batch, Clock, Method, MethodConfig, Paper, Preset, Reps, View, evaluation_view, setting
from ._parts import compare
from ._ranks import gather

PAPER = Paper(
    title="Representation Learning with Contrastive Predictive Coding (§3.1: sequences)",
    year=2018,
    url="https://arxiv.org/abs/1807.03748",
    contrasts="what follows a past against all other frames of the batch",
    negatives="batch",
    predictor="yes",
    crops="1 window",
)
METRICS = {
    "loss": "InfoNCE of the predicted next frames among all frames of the global batch, mean over how far ahead; log of the number of frames at chance",
    "contrast_top1": "share of predictions whose own frame is the nearest of all",
}
DIFFERS = ("there are labels of a whole window, none of each frame, so the paper's phone classification cannot be repeated",)


@dataclass(frozen=True)
class Config(MethodConfig):
    channels: int = setting(1, "channels of the signal; as the view's", ge=1)
    strides: tuple[int, ...] = setting((5, 4, 2, 2, 2), "stride of each convolution of the encoder (§3.1)", unit="values", ge=1)
    kernels: tuple[int, ...] = setting((10, 8, 4, 4, 4), "width of each convolution of the encoder (§3.1)", unit="values", ge=1)
    features: int = setting(512, "features of a frame (§3.1)", unit="features", ge=1)
    context: int = setting(256, "features of the recurrent context (§3.1: a GRU)", unit="features", ge=1)
    steps: int = setting(12, "how many frames ahead are predicted (§3.1, figure 4)", unit="frames", ge=1)


VIEWS = {"signal": View(source="audio", kind="array", size=20480)}

RECIPE = {
    "optim.name": "adamw",
    "optim.lr": 2e-4,
    "optim.lr_scaling": "none",
    "optim.weight_decay": 0.0,
    "optim.schedule": "constant",
    "train.batch_size": 64,
    "train.epochs": 100,
    "train.channels_last": False,
}
LINES = {"method.strides": (4, 4, 2), "method.kernels": (8, 8, 4), "method.features": 128, "method.context": 128}

PRESETS = {
    "paper": Preset("waveforms of 20,480 values (1.28 s at 16 kHz) in the column audio: 64.6 % phones, 97.4 % speakers on LibriSpeech"),
    "sequence": Preset("the same as paper"),
    "cifar": Preset("signals of 1,024 values in the column signal", LINES | {"optim.lr": 1e-3},
                    {"signal": View(source="signal", kind="array", size=1024)}),
    "digits": Preset("the built-in digits, read line by line as a signal of 1,024 values: a frame is a line", LINES | {"optim.lr": 3e-3,
                     "optim.schedule": "cosine", "optim.warmup_epochs": 0.5, "train.steps": 600, "eval.every_epochs": 2},
                     {"signal": View(source="scanlines", kind="array", size=1024)}),
}  # fmt: skip


class CPCSequence(Method):
    def __init__(self, config: Config, backbone: Callable[..., nn.Module], samples: int) -> None:
        super().__init__(config, lambda: Frames(config), samples)
        self.context = nn.GRU(config.features, config.context, batch_first=True)
        self.predictors = nn.ModuleList(nn.Linear(config.context, config.features, bias=False) for _ in range(config.steps))
        self.out_dim = config.context

    @classmethod
    def check(cls, config: Config, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        if len(config.strides) != len(config.kernels):
            raise ValueError(f"kernels: got {len(config.kernels)} of them for {len(config.strides)} strides")
        (name, view), *_ = views.items()
        if view.channels != config.channels:
            raise ValueError(f"channels: got {config.channels}, but views.{name}.channels is {view.channels}")
        frames = view.size
        for stride in config.strides:
            frames = -(-frames // stride)
        if frames <= config.steps:
            raise ValueError(f"steps: got {config.steps}, must be below the {frames} frames of views.{name}.size {view.size}")

    def negatives(self, batch: int) -> int:
        return batch - 1  # signals; every frame of each is one

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        return {"frames": self.backbone(batch.views["signal"])}  # (B, S, F)

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        frames = reps["frames"]  # (B, S, F)
        context = self.context(frames)[0]  # (B, S, H)
        targets = gather(frames, batch.size)  # (N, S, F)
        length = frames.shape[1]
        place = batch.slot[:, None] * length + torch.arange(length, device=frames.device)  # (B, S), among the targets
        terms = []
        for ahead, predict in enumerate(self.predictors, 1):
            predicted = predict(context[:, :-ahead]).flatten(0, 1)  # (B*(S-K), F): W_k c_t (eq. 3)
            terms.append(compare(predicted, targets.flatten(0, 1), place[:, ahead:].flatten(), batch.size * (length - ahead)))
        loss, accuracy = (torch.stack(values).mean() for values in zip(*terms, strict=True))
        return {"loss": loss, "contrast_top1": accuracy}

    @classmethod
    def eval_views(cls, views: Mapping[str, View]) -> dict[str, View]:
        """The middle window of the signal."""
        return {"signal": evaluation_view(next(iter(views.values())))}

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.context(self.backbone(inputs["signal"]))[0].mean(1)  # (B, H)

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        frames = self.backbone(inputs["signal"])  # (B, S, F)
        return {"backbone": frames.mean(1), "frames": frames, "context": self.context(frames)[0]}


class Frames(nn.Module):
    """The strided convolutions of §3.1, each followed by ReLU: (B, C, T) -> (B, S, F). Padded so that S is T over all strides, rounded up."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [config.channels, *[config.features] * len(config.strides)]
        self.layers = nn.ModuleList(
            nn.Conv1d(inputs, outputs, kernel, stride)
            for inputs, outputs, kernel, stride in zip(widths, widths[1:], config.kernels, config.strides, strict=False)
        )
        self.out_dim = config.features

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, nn.Conv1d)
            (kernel,), (stride,) = layer.kernel_size, layer.stride
            missing = max((-(-x.shape[2] // stride) - 1) * stride + kernel - x.shape[2], 0)
            x = layer(nn.functional.pad(x, (missing, 0))).relu()  # padded in front: a frame never sees what follows it
        return x.transpose(1, 2)
