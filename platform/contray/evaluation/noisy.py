"""Noisy Student: a teacher labels the unlabelled images, a noised student of at least its size learns them and becomes the teacher.

Xie et al., "Self-training with Noisy Student improves ImageNet classification", CVPR 2020, https://arxiv.org/abs/1911.04252.

B minibatch, D features, C classes, U unlabelled images, M images of a pool
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import data, model
from ..config import RunConfig
from ..data.draws import generator
from ..data.splits import Split, digest
from ..errors import ConfigError, UserError
from ..methods._base import Batch, View
from .finetune import Budget, Classifier, FewLabels, Loss, best_of
from .labelled import CroppedImages, Show, cropped_views, score
from .online import images_of


class Pool(Split):
    """Samples of a split in any order and number: row j is its sample ids[j], so that copies of an image get crops of their own."""

    def __init__(self, split: Split, ids: np.ndarray) -> None:
        super().__init__(split.classes)
        self.split, self.ids = split, ids
        self.columns, self.generated = split.columns, split.generated

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int, rng: np.random.Generator | None) -> np.ndarray:
        return self.split.image(int(self.ids[i]), rng)

    def value(self, i: int, column: str, rng: np.random.Generator | None) -> Any:
        return self.split.value(int(self.ids[i]), column, rng)

    def describe(self, i: int) -> str:
        return self.split.describe(int(self.ids[i]))

    def content(self) -> str:
        return digest(self.split.content(), self.ids)

    def prepare(self) -> None:
        self.split.prepare()
        self.broken = {j: self.split.broken[i] for j, i in enumerate(self.ids.tolist()) if i in self.split.broken}


def check_noisy(config: RunConfig, source: data.Source, few: FewLabels, student: Classifier, teacher: Classifier) -> None:
    """Refuse what Noisy Student cannot do: no unlabelled image, a student smaller than its teacher, a picture without pixels."""
    if len(few.subset.ids) == len(source.train):
        raise UserError("--labels: got all of them, but noisy_student labels images by itself: leave it some, such as 0.1")
    sizes = [sum(p.numel() for p in network.parameters() if p.requires_grad) for network in (student, teacher)]
    if sizes[0] < sizes[1]:
        raise ConfigError(
            "backbone", f"a student of {sizes[0]:,} parameters, but noisy_student needs at least the teacher's {sizes[1]:,}"
        )
    if not any(view.kind in ("image", "patches") for view in cropped_views(config).values()):
        raise UserError(f"--by: noisy_student noises images, and {config.method.name} encodes none")


@torch.no_grad()
def pseudo_labels(
    config: RunConfig, source: data.Source, ids: np.ndarray, teacher: Classifier, device: torch.device
) -> tuple[np.ndarray, Tensor]:
    """The teacher's probabilities (U, C) of the evaluation inputs, without noise, and the ids (U,) that could be read."""
    normalise = model.normaliser(config, device)
    known: list[Tensor] = []
    told: list[Tensor] = []
    for batch in images_of(config, source.train, ids):
        inputs = {name: normalise(torch.as_tensor(view)) for name, view in batch["views"].items()}
        with model.autocast(config, device):
            told.append(teacher(inputs).float().softmax(1).cpu())  # (b, C)
        known.append(batch["index"])
    return torch.cat(known).numpy(), torch.cat(told)


def balanced(probabilities: Tensor, threshold: float, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of (U, C) probabilities, `per_class` of each class that has any (§3.1): the surest ones, or all of them and random copies.

    A row counts for its likeliest class, where that has at least `threshold`.
    """
    sure, guess = (each.numpy() for each in probabilities.max(1))  # (U,) each
    chosen: list[np.ndarray] = []
    for label in range(probabilities.shape[1]):
        members = np.flatnonzero((guess == label) & (sure >= threshold))
        members = members[np.argsort(-sure[members], kind="stable")][:per_class]
        if len(members):
            chosen += [members, rng.choice(members, per_class - len(members))]
    return np.concatenate(chosen) if chosen else np.empty(0, np.int64)


def noised_images(
    config: RunConfig, source: data.Source, few: FewLabels, teacher: Classifier, device: torch.device, iteration: int, batch: int
) -> CroppedImages:
    """Labelled and pseudo-labelled images, crops under RandAugment, each with probabilities (M, C).

    The labels that pick the rate are not among them: the held-out accuracy stays honest through all iterations.
    """
    options, classes, known = config.eval, len(source.train.classes), source.train.labels
    assert known is not None
    unlabelled = np.setdiff1d(np.arange(len(source.train)), few.subset.ids)
    ids, told = pseudo_labels(config, source, unlabelled, teacher, device)
    each = options.noisy_per_class or max(1, round(len(ids) / classes))
    rows = balanced(told, options.noisy_threshold, each, generator(config.seed, "noisy student", iteration))
    if not len(rows):
        raise ConfigError(
            "eval.noisy_threshold",
            f"got {options.noisy_threshold:g}, but the teacher is at most {float(told.max()):.2f} sure of any image; give less",
        )
    own = np.resize(few.fit, max(len(few.fit), round(len(rows) / options.noisy_ratio)))  # each label at least once
    labels = F.one_hot(torch.as_tensor(known[own]), classes).float()  # (M - R, C)
    pseudo = told[rows]  # (R, C)
    if options.noisy_labels == "hard":
        pseudo = F.one_hot(pseudo.argmax(1), classes).float()  # (R, C)
    pool = Pool(source.train, np.concatenate([own, ids[rows]]))
    return CroppedImages(
        config, pool, np.arange(len(pool)), batch, device, views=noised_views(config), labels=torch.cat([labels, pseudo])
    )


def noised_views(config: RunConfig) -> dict[str, View]:
    """The crops that evaluations train on, under RandAugment."""
    views = cropped_views(config)
    return {name: dataclasses.replace(view, randaugment=config.eval.noisy_randaugment) for name, view in views.items()}


def by_noised(dropout: float) -> Loss:
    """Cross-entropy with probabilities (B, C), under dropout of the features before the last layer."""

    def loss(network: Classifier, batch: Batch, y: Tensor) -> Tensor:
        features = network.features(batch.views)  # (B, D)
        kept = batch.rand("dropout", (features.shape[1],)) >= dropout  # (B, D)
        return F.cross_entropy(network.head(features * kept / (1 - dropout)).float(), y)

    return loss


def self_trained(
    config: RunConfig,
    source: data.Source,
    name: str,
    build: Callable[[], Classifier],
    teacher: Classifier,
    few: FewLabels,
    device: torch.device,
    budget: Budget,
    show: Show,
) -> dict[str, float]:
    """{name}_iter1_val_top1 and so on of the students, each anew of `build`, and {name}_top1 of the last on the test set, opened then."""
    assert source.test is not None
    unseen = dataclasses.replace(source, test=None)
    metrics: dict[str, float] = {}
    for iteration in range(1, config.eval.noisy_iterations + 1):
        images = noised_images(config, source, few, teacher, device, iteration, budget.batch_size)
        kind = f"{name}_iter{iteration}"
        student = best_of({kind: build}, config, unseen, device, budget, show, by_noised(config.eval.noisy_dropout), images)
        metrics |= student.metrics
        teacher = student.networks[kind]
    top1, _ = score(config, source.test, np.arange(len(source.test)), lambda inputs: teacher(inputs)[None], device)
    return metrics | {f"{name}_top1": float(top1[0])}
