"""What Noisy Student (Xie et al. 2020, https://arxiv.org/abs/1911.04252) trains its students on: images that the teacher labels, and their noise.

B minibatch, D features, C classes, U unlabelled images, M images of a pool
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ... import data, model
from ...config import RunConfig
from ...data.draws import generator
from ...data.subset import Subset
from ...errors import ConfigError, UserError
from ...methods._base import Batch, View
from .._base import Subject
from ..noisy_student import Config
from .classifier import Budget, Classifier, FewLabels, Loss, best_of
from .features import images_of
from .labelled import CroppedImages, cropped_views, score


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
        raise UserError(f"noisy_student noises images, and {config.method.name} encodes none")


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
    subject: Subject, options: Config, few: FewLabels, teacher: Classifier, iteration: int, batch: int
) -> CroppedImages:
    """Labelled and pseudo-labelled images, crops under RandAugment, each with probabilities (M, C).

    The labels that pick the rate are not among them: the held-out accuracy stays honest through all iterations.
    """
    config, source, classes, known = subject.config, subject.source, subject.classes, subject.source.train.labels
    assert known is not None
    unlabelled = np.setdiff1d(np.arange(len(source.train)), few.subset.ids)
    ids, told = pseudo_labels(config, source, unlabelled, teacher, subject.device)
    each = options.per_class or max(1, round(len(ids) / classes))
    rows = balanced(told, options.threshold, each, generator(config.seed, "noisy student", iteration))
    if not len(rows):
        raise ConfigError(
            "eval.noisy_student.threshold",
            f"got {options.threshold:g}, but the teacher is at most {float(told.max()):.2f} sure of any image; give less",
        )
    own = np.resize(few.fit, max(len(few.fit), round(len(rows) / options.ratio)))  # each label at least once
    labels = F.one_hot(torch.as_tensor(known[own]), classes).float()  # (M - R, C)
    pseudo = told[rows]  # (R, C)
    if options.pseudo == "hard":
        pseudo = F.one_hot(pseudo.argmax(1), classes).float()  # (R, C)
    pool = Subset(source.train, np.concatenate([own, ids[rows]]))
    return CroppedImages(
        config,
        pool,
        np.arange(len(pool)),
        batch,
        subject.device,
        views=noised_views(config, options.randaugment),
        labels=torch.cat([labels, pseudo]),
    )


def noised_views(config: RunConfig, randaugment: tuple[int, int]) -> dict[str, View]:
    """The crops that evaluations train on, under RandAugment."""
    views = cropped_views(config)
    return {name: dataclasses.replace(view, randaugment=randaugment) for name, view in views.items()}


def by_noised(dropout: float) -> Loss:
    """Cross-entropy with probabilities (B, C), under dropout of the features before the last layer."""

    def loss(network: Classifier, batch: Batch, y: Tensor) -> Tensor:
        features = network.features(batch.views)  # (B, D)
        kept = batch.rand("dropout", (features.shape[1],)) >= dropout  # (B, D)
        return F.cross_entropy(network.head(features * kept / (1 - dropout)).float(), y)

    return loss


def self_trained(
    subject: Subject,
    options: Config,
    name: str,
    build: Callable[[], Classifier],
    teacher: Classifier,
    few: FewLabels,
    budget: Budget,
) -> dict[str, float]:
    """{name}_iter1_val_top1 and so on of the students, each anew of `build`, and {name}_top1 of the last on the test set, opened then."""
    test, unseen = subject.test, dataclasses.replace(subject, tests=False, given=subject.source)
    assert test is not None
    metrics: dict[str, float] = {}
    for iteration in range(1, options.iterations + 1):
        images = noised_images(subject, options, few, teacher, iteration, budget.batch_size)
        kind = f"{name}_iter{iteration}"
        student = best_of({kind: build}, unseen, options, "eval.noisy_student.", budget, by_noised(options.dropout), images)
        metrics |= student.metrics
        teacher = student.networks[kind]
    top1, _ = score(subject.config, test, np.arange(len(test)), lambda inputs: teacher(inputs)[None], subject.device)
    return metrics | {f"{name}_top1": float(top1[0])}
