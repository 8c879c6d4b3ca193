"""A report's own look at an encoder: a bounded part of the data, encoded once for the map, the neighbours, the probe and the geometry.

Legend of shapes: N images, D features.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import data, model
from ..evaluation import geometry
from ..evaluation.common.diagnosis import ranks
from ..evaluation.common.features import encoded, images_of
from ..evaluation.linear import LinearProbes, linear_probe
from ..methods._base import Method
from ..pictures.subject import Subject
from .confusion import Confusion

# images that are encoded at most: unseen ones, training ones, and those by the untrained encoder
ASKED, BANK, UNTRAINED = (
    700,
    900,
    400,
)
MANY = 50  # classes from which a few probes must do
EACH = 3  # training images of a class that a probe takes at least, in the mean

Show = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Sampled(Subject):
    """A subject of whose data a part counts. show: is told how many images are encoded; shut: test images that are not to be looked at."""

    shut: int = 0
    show: Show = lambda message: None
    known: dict[int, dict[int, Tensor | None]] = dataclasses.field(default_factory=dict)  # of each split, features by id
    done: list[int] = dataclasses.field(default_factory=list)  # sizes of the batches that were encoded

    @property
    def total(self) -> int:
        """Images that are to be encoded."""
        return len(self.asked()[1]) + 2 * min(len(self.searched()), UNTRAINED) + max(len(self.searched()) - UNTRAINED, 0)

    def asked(self) -> tuple[data.Split, np.ndarray, str]:
        split, ids, kind = super().asked()
        return split, data.part(ids, split.labels, ASKED, self.config.seed, "report"), kind

    def searched(self) -> np.ndarray:
        return data.part(super().searched(), self.source.train.labels, BANK, self.config.seed, "report")

    def features(self, split: data.Split, ids: Sequence[int] | np.ndarray) -> tuple[Tensor, np.ndarray]:
        found = self.known.setdefault(id(split), {})
        missing = [int(i) for i in ids if int(i) not in found]
        if missing:
            features, kept = self._encode(self.method, split, missing)
            found |= dict.fromkeys(missing) | dict(zip(kept.tolist(), features, strict=True))
        pairs = [(int(i), feature) for i in ids if (feature := found[int(i)]) is not None]
        return torch.stack([feature for _, feature in pairs]), np.array([i for i, _ in pairs], np.int64)

    def _encode(self, method: Method, split: data.Split, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        return encoded(self.config, method, self._counted(images_of(self.config, split, ids)), self.device)

    def _counted(self, images: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for batch in images:
            yield batch
            self.done.append(len(batch["index"]))
            self.show({"step": sum(self.done), "total": self.total, "unit": "image"})

    def confusion(self) -> Confusion | str:
        """Of a linear probe; in words why there is none."""
        split, ids, kind = self.asked()
        train = self.source.train
        if split.labels is None or train.labels is None:
            return "the images have no labels"
        classes, bank = len(train.classes), self.searched()
        if len(bank) < EACH * classes or len(np.unique(train.labels[bank])) < 2:
            return f"{len(bank):,} training images are too few for a probe of {classes:,} classes; contray eval linear takes all of them"
        x, kept = self.features(train, bank)
        held = torch.as_tensor(np.isin(kept, data.part(kept, train.labels, max(len(kept) // 10, 2), self.config.seed, "probe")))
        y, options = torch.as_tensor(train.labels[kept]), self.config.parts["eval.linear"]
        few = {"lrs": (0.3, 3.0), "decays": (1e-3,), "epochs": 20}
        grid = {name: getattr(options, name) for name in few} if classes <= MANY else few
        probe = linear_probe(
            x[~held], y[~held], x[held], y[held], **grid, classes=classes, seed=self.config.seed, device=self.device,
        )  # fmt: skip
        shown, asked = self.features(split, ids)
        fitted = LinearProbes(probe.mean, probe.std, probe.weights[..., None], probe.bias[:, None])
        told = fitted.logits(fitted.standardise(shown)).argmax(1)[:, 0].numpy()
        kind = "held-out training images" if split is train else kind
        return Confusion.of(split.labels[asked], told, train.classes, int((~held).sum()), kind)

    def geometry(self) -> dict[str, float]:
        """Rank, spread and uniformity of training images' features; after `random_` those of the untrained encoder."""
        ids = self.searched()[:UNTRAINED]
        untrained = model.build(self.config, len(self.source.train)).to(self.device).eval()
        found: dict[str, float] = {}
        for prefix, features in (
            ("", self.features(self.source.train, ids)[0]),
            ("random_", self._encode(untrained, self.source.train, ids.tolist())[0]),
        ):
            values = ranks("rankme", features) | {
                "feature_std": geometry.spread(features) * math.sqrt(features.shape[1]),
                "uniformity": geometry.uniformity(features),
            }
            found |= {f"{prefix}{name}": value for name, value in values.items()}
        return found
