"""What features tell without labels, while a method trains and after: their geometry, and the norms of its layers' gradients.

Legend of shapes: N images, P pairs of views, D features, E embeddings (what the loss compares).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import data, model
from ...config import RunConfig
from ...config.registry import load_method
from ...errors import UserError
from ...methods._base import Method, View, evaluation_view
from ...model import backbones
from ...model.seeds import fold
from .. import geometry
from .crew import Asked, Crew
from .parts import in_memory

IMAGES, PAIRS = 2048, 512  # at most: images whose features are looked at, pairs of augmented views
SEED = 20_221_005  # of what part of a larger set they are, the same for every run; the date of RankMe's first version


@dataclass(frozen=True)
class Similarities:
    """Cosine similarities of P samples' views: positive (P,), of a sample's two views; negative (P * (P - 1),), of different samples'."""

    positive: Tensor
    negative: Tensor


class Diagnosis:
    """The geometry of an encoder on images of the training set, always the same ones; the test set is not opened, labels are not read.

    Pairs are two draws of each sample by the policy of the training view that an evaluation view belongs to, a pure function of the seed.
    """

    def __init__(self, config: RunConfig, source: data.Source, device: torch.device, crew: Crew | None = None) -> None:
        self.config, self.device, self.crew = config, device, crew or Crew(config, source, device)
        count = min(config.eval.online_limit, IMAGES)
        ids = data.part(np.arange(len(source.train)), None, count, SEED)
        pairs, count = data.part(ids, None, PAIRS, SEED), len(ids)
        inputs = load_method(config.method.name).method.eval_views(config.views)
        drawn, seed = drawn_views(inputs, config.views), fold(config.seed, "diagnosis")
        side = max(map(backbones.image_side, config.views.values()))
        held = in_memory(config, (count + 2 * len(pairs)) * side * side * 3)
        self.asked = [Asked(ids, held="geometry" * held)]
        self.asked += [Asked(pairs, views=drawn, draw=(seed, i), held=f"pairs {i}" * held) for i in (0, 1) if drawn]

    def features(self, method: Method, encoder: str = "") -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """(N, D) of the images as evaluation shows them, and (P, D) of each of two views (None where the method has no such views).

        encoder: what of ENCODERS the method is.
        """
        plain, *views = (self.crew.encode(asked, {encoder: method})[0][0] for asked in self.asked)
        return plain, (views[0], views[1]) if views else None

    def measure(self, method: Method, encoder: str = "") -> dict[str, float]:
        """rankme, rankme_share (of the most it can be), feature_std (of 1 / sqrt(D)), uniformity; alignment and mean similarities of pairs;
        embedding_rankme, embedding_rankme_share and embedding_std (of 1 / sqrt(E)), of what the loss compares, where a projector stands between.

        effective_temperature, where the method has a temperature: in units of the standard deviation of what it divides, the similarities
        of negatives. Far below 1 the softmax sees the nearest negatives alone, far above 1 all alike.
        """
        plain, pairs = self.features(method, encoder)
        found, embedded = describe(plain, pairs), self.embed(method, plain)
        if embedded.shape != plain.shape or not torch.equal(embedded, plain):
            found |= ranks("embedding_rankme", embedded)
            found["embedding_std"] = geometry.spread(embedded) * math.sqrt(embedded.shape[1])
        temperature = getattr(method.config, "temperature", None)
        if pairs and temperature:
            spread = float(similarities(self.embed(method, pairs[0]), self.embed(method, pairs[1])).negative.std())
            found["effective_temperature"] = temperature / max(spread, 1e-12)
        return found

    @torch.no_grad()
    def embed(self, method: Method, features: Tensor) -> Tensor:
        """(N, E) on the CPU, of features (N, D), in evaluation mode."""
        training, like = method.training, next(method.parameters())
        method.eval()
        try:
            with model.autocast(self.config, self.device):
                return method.embedding(features.to(like)).float().cpu()
        finally:
            method.train(training)


def drawn_views(inputs: Mapping[str, View], views: Mapping[str, View]) -> dict[str, View]:
    """For each evaluation view the training view that it is the deterministic counterpart of; none where one has no counterpart."""
    found = {
        name: dataclasses.replace(view, count=1)
        for name, shown in inputs.items()
        for view in reversed(list(views.values()))
        if evaluation_view(view) == shown
    }
    return found if found.keys() == inputs.keys() else {}


def describe(plain: Tensor, pairs: tuple[Tensor, Tensor] | None) -> dict[str, float]:
    """The metrics of `Diagnosis.measure` of features (N, D) and of two views (P, D) each."""
    found = {
        **ranks("rankme", plain),
        "feature_std": geometry.spread(plain) * math.sqrt(plain.shape[1]),
        "uniformity": geometry.uniformity(plain),
    }
    if pairs:
        similar = similarities(*pairs)
        found["alignment"] = geometry.alignment(*pairs)
        found["positive_similarity"] = float(similar.positive.mean())
        found["negative_similarity"] = float(similar.negative.mean())
    return found


def ranks(name: str, x: Tensor) -> dict[str, float]:
    """RankMe of x (N, D) and its share of the most it can be; no numbers where a feature is none (the loop stops at that by itself)."""
    rank = geometry.rankme(x) if x.isfinite().all() else math.nan
    return {name: rank, f"{name}_share": rank / min(x.shape)}


def similarities(x: Tensor, y: Tensor) -> Similarities:
    """Of two views' features (P, D)."""
    similar = F.normalize(x.double(), dim=1) @ F.normalize(y.double(), dim=1).T  # (P, P)
    return Similarities(similar.diagonal(), similar[~torch.eye(len(x), dtype=torch.bool, device=x.device)])


def draw(diagnosis: Diagnosis, trained: Method, untrained: Method, out: Path) -> None:
    """Similarities of the untrained encoder's features, of the trained one's, and of what its loss compares; beside them the numbers of `measure`."""
    from ...drawing import draw_similarities

    panels: dict[str, tuple[Similarities, dict[str, str]]] = {}
    images = 0
    for name, method, encoder in (
        ("untrained encoder", untrained, "random_"),
        ("trained encoder", trained, ""),
        ("trained, what the loss compares", trained, ""),
    ):
        plain, pairs = diagnosis.features(method, encoder)
        if pairs is None:
            raise UserError(
                f"{diagnosis.config.method.name} has no training view of what it evaluates: there are no positives to draw"
            )
        if name.startswith("trained,"):
            embedded = diagnosis.embed(method, plain)
            if embedded.shape == plain.shape and torch.equal(embedded, plain):
                continue
            plain, pairs = embedded, (diagnosis.embed(method, pairs[0]), diagnosis.embed(method, pairs[1]))
        images = len(plain)
        numbers = {"alignment": f"{geometry.alignment(*pairs):.3f}", "uniformity": f"{geometry.uniformity(plain):.3f}",
                   "rank": f"{geometry.rankme(plain):.1f} of {min(plain.shape)}"}  # fmt: skip
        panels[name] = similarities(*pairs), numbers
    config = diagnosis.config
    of = f"{Path(config.method.name).stem} preset {config.method.preset} on {Path(config.data.source).name}"
    count = len(panels["trained encoder"][0].positive)
    draw_similarities(panels, f"{of}: {count:,} samples, two views of each; uniformity and rank of {images:,} images", out)


class LayerNorms:
    """The norm of the gradient of each layer: the children of the backbone by their names, and the method's other modules.

    MoCo v3 (Chen et al. 2021, https://arxiv.org/abs/2104.02057, §4.2) finds unstable training as spikes that begin in the first layer.
    """

    def __init__(self, method: Method) -> None:
        self.groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in method.named_parameters():
            if parameter.requires_grad:
                self.groups.setdefault(layer_of(name), []).append(parameter)

    def __call__(self) -> Tensor:
        """(groups,) norms of the gradients as they are, on their device; a group without gradients has 0."""
        like = next(iter(self.groups.values()))[0]
        none = [torch.zeros((), device=like.device)]
        return torch.stack(
            [
                torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads) if (grads := _grads(group)) else none).to(like))
                for group in self.groups.values()
            ]
        )

    def named(self, norms: Tensor) -> dict[str, float]:
        """As metrics; the one time that the accelerator is waited for."""
        return dict(zip((f"grad_norm/{name}" for name in self.groups), norms.tolist(), strict=True))


def layer_of(parameter: str) -> str:
    """`backbone.layer1.0.conv1.weight` is of layer1, `backbone.encoder.layers.encoder_layer_0.ln_1.bias` of
    encoder.layers.encoder_layer_0, `projector.0.weight` of projector: modules of the backbone as far as the first that is numbered.
    """
    first, *path = parameter.split(".")[:-1] or [parameter]
    if first != "backbone" or not path:
        return first
    numbered = [i for i, name in enumerate(path) if name[-1].isdigit()]
    return ".".join(path[: numbered[0] + 1]) if numbered else path[0]


def _grads(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
