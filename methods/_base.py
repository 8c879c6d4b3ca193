"""The method interface: what a method is given, what it gives back, and how it describes itself.

A method is a module of fixed exports, read from top to bottom:

    PAPER     what to cite and how to list it          (Paper)
    Config    its hyperparameters, a frozen dataclass  (subclass of MethodConfig)
    VIEWS     what the data pipeline draws per sample  (dict of View)
    RECIPE    optimiser, schedule, batch               (dotted config keys)
    PRESETS   named settings on top of the recipe      (dict of Preset)
    one Method subclass: represent, loss, update

and, for its page in the documentation, METRICS (what each value that `loss` returns says) and DIFFERS (what differs from the paper, in sentences).

Legend of shapes: B rows of this rank, N rows of the global batch, V crops, D features, K queue.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ._draws import bits, uniform
from ._norms import Scope, norm_scope
from ._views import View as View
from ._views import evaluation_view as evaluation_view
from ._views import setting as setting

Reps = dict[str, Tensor]  # whatever `represent` computed; the first axis of every tensor is the rows


@dataclass(frozen=True)
class Paper:
    """Where a method comes from and how the method table lists it."""

    title: str
    year: int
    url: str
    contrasts: str
    negatives: str = "none"
    queue: str = "no"
    ema: str = "no"
    predictor: str = "no"
    crops: str = "2"


@dataclass(frozen=True)
class MethodConfig:
    """Fields that every method's Config has; `name` and `preset` are filled in when the config is resolved."""

    name: str = setting("", "method: a file of methods/, an entry point of `contray.methods`, or a path to a .py file")
    preset: str = setting("", "preset: named settings of the method's file")


@dataclass(frozen=True)
class Preset:
    """Settings on top of the recipe: dotted config keys and, where they differ, the views. `about` says what to expect of it."""

    about: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    views: Mapping[str, View] | None = None


@dataclass(frozen=True)
class Limit:
    """From where to where a whole number of a Config can be, on given data: `least` and `most`, each with its reason in words.

    wise: above it the number works and does not pay; a plan (preset auto) stays below; 0: up to `most`.
    """

    least: int
    most: int
    least_is: str = ""
    most_is: str = ""
    wise: int = 0


@dataclass(frozen=True)
class Clock:
    """Progress in samples. Every schedule is a pure function of it.

    samples: seen before this step; total: of the whole run; dataset: samples in an epoch (full batches only); batch: global batch size.
    """

    samples: int
    total: int
    dataset: int
    batch: int

    @property
    def fraction(self) -> float:
        """Share of the run that lies behind, in [0, 1]."""
        return self.samples / self.total

    @property
    def epoch(self) -> float:
        """Epochs seen, fractional."""
        return self.samples / self.dataset

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.samples // self.batch


@dataclass
class Batch:
    """This rank's rows of one global batch. There are no labels: no method can peek.

    views: name -> (B, C, H, W), or patches (B, P, C, h, w), arrays (B, C, T), tokens (B, T) int64
    index: (B,) global sample ids; slot: (B,) places in the global batch of `size` rows
    groups: of batch norm; track: whether it keeps running statistics.
    Ranks hold contiguous slots in rank order, so rows gathered over ranks stand in slot order.
    strided: in a chunk, the slots of the rows of the method's `strided` views.
    """

    views: dict[str, Tensor]
    index: Tensor
    slot: Tensor
    size: int
    seed: int = 0
    step: int = 0
    groups: int = 1
    track: bool = True
    strided: Tensor | None = None

    def norm(self, layout: str) -> AbstractContextManager[Scope]:
        """Batch norm within it runs over the norm groups of the global batch, laid out in blocks or strided (see `norm_scope`)."""
        rows = self if layout == "blocks" or self.strided is None else dataclasses.replace(self, slot=self.strided)
        return norm_scope(rows.slot, self.size, self.groups, layout, self.track, rows.rand)

    def crops(self, name: str) -> Tensor:
        """All crops of one view entry, crop-major: (V*B, C, H, W)."""
        if name in self.views:
            return self.views[name]
        found = [view for key, view in self.views.items() if key.startswith(name) and key[len(name) :].isdigit()]
        if not found:
            raise KeyError(f"no view {name!r} in this batch; it has {', '.join(self.views)}")
        return torch.cat(found)

    def rand(self, name: str, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform draws in [0, 1) for each row: (B, *shape), a pure function of (seed, step, slot, name), hence of no world size."""
        drawn = bits(self.slot, self._key(name), math.prod(shape))  # (B, count)  # pyright: ignore[reportCallIssue]
        return uniform(drawn, dtype).reshape(-1, *shape)

    def draw(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform draws in [0, 1) that the whole batch shares: `shape`, a pure function of (seed, step, name), the same on every rank and in every chunk.

        Normal ones are `_draws.normal` of draws in float64.
        """
        drawn = bits(self.slot.new_zeros(1), self._key(name, b"batch"), math.prod(shape))  # pyright: ignore[reportCallIssue]
        return uniform(drawn, dtype).reshape(shape)

    def _key(self, name: str, of: bytes = b"") -> int:
        text = f"{self.seed}/{self.step}/{name}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=of).digest(), "little", signed=True)


@dataclass(frozen=True)
class Reconstruction:
    """Images of which a method saw a part, and what it made of the rest.

    images: (B, 3, H, W) normalised; patches: (B, L, P) painted, in the images' units and the order of `_parts.patchify`;
    masked: (B, L) bool, not seen; about: what the painted patches are, in words.
    """

    images: Tensor
    patches: Tensor
    masked: Tensor
    about: str


class Frozen(Protocol):
    """An encoder to learn from: pixels (B, C, H, W) in [0, 1] -> features (B, out_dim), last feature map (B, map_dim, h, w); map_dim 0: it has none."""

    out_dim: int
    map_dim: int

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]: ...


class Method(nn.Module):
    """A self-supervised method. A step reads as a paper does: represent, compare (`loss`), remember (`update`).

    The engine calls `represent` and `loss` under autocast, sums the ranks' gradients, steps the optimiser, moves the EMA pairs and
    then calls `update` once. It knows no method by name.
    """

    couples: ClassVar[bool] = (
        True  # False: the loss is a sum over rows; it may be called chunk by chunk and leaves nothing in `reps`
    )
    strided: ClassVar[tuple[str, ...]] = ()  # views, and reps of the same names, that `represent` runs in `batch.norm("strided")`

    guides: ClassVar[tuple[str, ...]] = ()  # fields of the config that name frozen encoders (see `frozen`)
    # what it needs of a vision transformer (see `needs_vit`)
    reach: ClassVar[tuple[str, ...]] = ("patches", "tokens", "positions", "patch_size", "image_size")

    samples: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: Any, backbone: Callable[..., nn.Module], samples: int) -> None:
        """`backbone()` builds one backbone: a module (B, C, H, W) -> (B, D) with the attribute `out_dim` = D, for the images' C channels; `backbone(C)` one of others.

        samples: size of the training set, for banks by sample id; kept as a buffer, so that a checkpoint can be built again without the data.
        """
        super().__init__()
        self.config = config
        self.frozen: Mapping[str, Frozen] = getattr(backbone, "frozen", {})  # what `guides` name; no part of the method's state
        self.register_buffer("samples", torch.tensor(samples))
        # the engine writes what it normalises images by
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.ones(3, 1, 1), persistent=False)
        self.backbone = backbone()
        self.out_dim: int = self.backbone.out_dim  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]

    @classmethod
    def needs_vit(cls, config: Any) -> bool:
        """Whether the backbone must be a vision transformer, whose patches and tokens are in reach: it must have what `reach` names.

        A masked patch is a row of `project(x)` that the method replaces by its mask token before it adds `positions`.
        """
        return False

    @classmethod
    def needs_map(cls, config: Any) -> bool:
        """Whether the backbone must have its last feature map in reach: `feature_map(x)` -> (B, D) features and (B, M, h, w), M `map_dim`."""
        return False

    @classmethod
    def limits(cls, config: Any, *, samples: int, batch: int) -> Mapping[str, Limit]:
        """What fields of the config can be on `samples` training samples in global batches of `batch`, where that is a matter of numbers.

        Whatever lies beyond is refused together with a value that would do, and plans keep within.
        """
        return {}

    @classmethod
    def check(cls, config: Any, *, samples: int, batch: int, views: Mapping[str, View]) -> None:
        """Refuse values that cannot work on `samples` training samples in global batches of `batch`, or with these views, and are no `limits`.

        `views` of images have `channels`, as the backbone is given them.
        Raises ValueError whose text starts with the field's name, as in "queue_size: got ...".
        """

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Of runs from before, tensors of the method's own that had no leading axis of length 1 (mask tokens)."""
        for name, own in self._parameters.items():
            kept = state_dict.get(prefix + name)
            if own is not None and kept is not None and own.shape == (1, *kept.shape):
                state_dict[prefix + name] = kept[None]
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def negatives(self, batch: int) -> int:
        """Negatives that one anchor is compared with, for the dry run; 0 where the method has none."""
        return 0

    def represent(self, batch: Batch, clock: Clock) -> Reps:
        """The backbones, row by row: may be run in chunks and replayed."""
        raise NotImplementedError

    def loss(self, reps: Reps, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """Heads and loss, undivided, over the global batch: "loss" and scalars worth logging.

        Every value is this rank's share: the shares of all ranks sum to the value of the global batch.
        It may leave in `reps` what `update` needs.
        """
        raise NotImplementedError

    def update(self, reps: Reps, batch: Batch, clock: Clock) -> None:
        """Writes the method's buffers (queue, bank, centre), once per accepted step, from gathered values only."""

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) as they were, in [0, 1]."""
        return images * self.pixel_std + self.pixel_mean

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, D) features: what probes, k-NN and export see. `inputs` holds the evaluation views by name (see `eval_views`)."""
        return self.backbone(inputs["image"])

    def embedding(self, features: Tensor) -> Tensor:
        """(B, P) what the loss compares, of features (B, D): the output of `projector` where the method has one, else the features."""
        projector = getattr(self, "projector", None)
        return features if projector is None else projector(features)

    def prototype_scores(self, features: Tensor) -> Tensor:
        """(B, K) how near features (B, D) of `encode` are to each prototype, for pictures. Raises NotImplementedError that says why not."""
        raise NotImplementedError("has no prototypes")

    def reconstruct(self, batch: Batch, clock: Clock) -> Reconstruction:
        """What the method paints of its views of a batch, for pictures. Raises NotImplementedError that says why not."""
        raise NotImplementedError("paints no images")

    @classmethod
    def eval_views(cls, views: Mapping[str, View]) -> dict[str, View]:
        """The evaluation inputs, from the training views: by default the centre crop of the first, called `image`."""
        return {"image": evaluation_view(next(iter(views.values())))}

    def taps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named inner features. `backbone` is the output of the plain torchvision module."""
        return {"backbone": self.backbone(inputs["image"])}

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of trainable parameters; a group may carry `lr_scale` and `schedule` ("constant": no decay)."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def ema_pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """(online, target) modules of the same structure; the engine moves the targets after the optimiser's step."""
        return iter(())

    def ema_momentum(self, clock: Clock) -> float:
        """target <- m * target + (1 - m) * online, with this m."""
        raise NotImplementedError

    def begin_epoch(self, clock: Clock, embed: Callable[[], Tensor]) -> Iterable[nn.Parameter]:
        """Once at the start of an epoch, never on a mid-epoch resume; `embed()` gives (N_dataset, D) features in id order, on rank 0.

        All ranks call `embed` or none: each embeds its share, and the others than rank 0 are given (0, D).
        Returns the parameters that it set anew: the optimiser forgets what it knows of them.
        """
        return ()

    def after_backward(self, clock: Clock) -> None:
        """After the gradients were summed, before the step: e.g. frozen prototypes."""
