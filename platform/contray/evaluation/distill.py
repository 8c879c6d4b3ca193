"""Distillation by soft labels: a student learns a fine-tuned teacher's class probabilities. B minibatch, C classes"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._base import Citation, Measured, Subject, setting
from .common.settings import Teaching

if TYPE_CHECKING:
    from torch import Tensor

    from ..methods._base import Batch
    from .common.classifier import Classifier, Loss
    from .common.student import Lesson

ABOUT = "a teacher fine-tuned on a part of the labels gives a student of any backbone its class probabilities of all images"
PAPER = Citation("Big Self-Supervised Models are Strong Semi-Supervised Learners", 2020, "https://arxiv.org/abs/2006.10029")
NEEDS = ("labels", "test labels")
METRICS = ()
TAKES = ("backbone",)


@dataclass(frozen=True)
class Config(Teaching):
    """Keys eval.distill.*."""

    temperature: float = setting(1.0, "temperature of both predictions (SimCLR v2: 0.1 to itself, 1 to a smaller one)", gt=0)
    labelled: float = setting(
        0.0, "weight w of the labelled images' cross-entropy, 1 - w of the distillation (SimCLR v2, eq. 3: 1 - alpha)", ge=0, lt=1
    )  # fmt: skip


def evaluate(subject: Subject, options: Config) -> Measured:
    """distill_1pct_width8_top1 of the student, and `Lesson.references`: Chen et al. 2020, eq. 2.

    The student sees no label, only what the teacher says of the same crop of every training image, both softened by eval.distill.temperature.
    With eval.distill.labelled = w its eq. 3, w (cross-entropy of labelled images) + (1 - w) (eq. 2), so that its alpha is 1 - w; each of its
    sums is taken as a mean here, so that w means the same however few the labels. The paper's students learn by eq. 2, hence w = 0.
    """
    from functools import partial

    from .common.classifier import Classifier
    from .common.student import Lesson

    lesson = Lesson.of(subject, options, "distill")
    metrics = lesson.references()
    teacher = lesson.taught.networks[lesson.teacher]
    return lesson.measured(metrics | lesson.student(partial(Classifier, *lesson.given), by_teacher(lesson, options, teacher)))


def by_teacher(lesson: Lesson, options: Config, teacher: Classifier) -> Loss:
    """SimCLR v2's eq. 3; eq. 2 where eval.distill.labelled is 0."""
    import torch

    from .common.losses import distillation_kl, label_weights, labelled_cross_entropy

    share, weights = options.labelled, label_weights(lesson.few.fit, lesson.samples)

    def loss(network: Classifier, batch: Batch, y: Tensor) -> Tensor:
        with torch.no_grad():
            goal = teacher(batch.views).float()  # (B, C)
        scores = network(batch.views).float()  # (B, C)
        soft = distillation_kl(scores, goal, options.temperature)  # ()
        if not share:
            return soft
        return share * labelled_cross_entropy(scores, y, weights[batch.index].to(scores)) + (1 - share) * soft

    return loss
