"""Contrastive representation distillation: a student's features of an image are to identify the teacher's, and the other way round.

B minibatch, C classes, N training images, K negatives, S and T features of student and teacher, D features of the embeddings
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..methods._base import Batch
from ..methods._parts import bank_scores, constant_of, nce, new_bank, normalize, write_bank
from ._base import Citation, Measured, Subject, setting
from .common.settings import Teaching

if TYPE_CHECKING:
    from .common.classifier import Classifier, Loss
    from .common.student import Lesson

ABOUT = "a teacher fine-tuned on a part of the labels gives a student its features too, contrasted with the student's (CRD)"
PAPER = Citation("Contrastive Representation Distillation", 2020, "https://arxiv.org/abs/1910.10699")
NEEDS = ("labels", "test labels")
METRICS = ()
TAKES = ("backbone",)


@dataclass(frozen=True)
class Config(Teaching):
    """Keys eval.crd.*."""

    weight: float = setting(0.8, "weight of the contrast of the student's and the teacher's features (paper: 0.8)", gt=0)
    labelled: float = setting(1.0, "weight of the labelled images' cross-entropy (paper: 1)", ge=0)
    soft: float = setting(0.0, "weight of the teacher's soft labels (paper: CRD 0, CRD + KD 1)", ge=0)
    soft_temperature: float = setting(4.0, "temperature of the soft labels, the student's and the teacher's (paper: 4)", gt=0)
    negatives: int = setting(1024, "other images that each one is contrasted with (paper: 16384)", ge=1)
    temperature: float = setting(0.07, "temperature of the similarities (paper: 0.07)", gt=0)
    momentum: float = setting(0.5, "share of the old row in a memory bank's new one (paper: 0.5)", ge=0, lt=1)
    dim: int = setting(128, "features of the two linear embeddings (paper: 128)", ge=1)


def evaluate(subject: Subject, options: Config) -> Measured:
    """crd_1pct_width8_top1 of the student, and `Lesson.references`: labelled (cross-entropy) + soft (see distill) + weight (the contrast)."""
    from .common.classifier import Classifier
    from .common.student import Lesson

    if not options.labelled and not options.soft:
        raise ConfigError("eval.crd.labelled", "got 0, and eval.crd.soft is 0 too: nothing would teach the student the classes")
    lesson = Lesson.of(subject, options, "crd")
    metrics = lesson.references()
    teacher = lesson.taught.networks[lesson.teacher]

    def build() -> Classifier:
        return contrasted(Classifier(*lesson.given), teacher, lesson.samples, options, subject.config.seed)

    return lesson.measured(metrics | lesson.student(build, by_contrast(lesson, options, teacher)))


def contrasted(student: Classifier, teacher: Classifier, samples: int, options: Config, seed: int) -> Classifier:
    """The student with the two embeddings and memory banks of CRD, as `contrast`, trained with it."""
    widths = student.head.in_features, teacher.head.in_features
    student.contrast = ContrastiveDistillation(*widths, samples, options, seed).to(student.head.weight)
    return student


def by_contrast(lesson: Lesson, options: Config, teacher: Classifier) -> Loss:
    """CRD's objective (see `evaluate`) of a `contrasted` student."""
    from .common.losses import distillation_kl, label_weights, labelled_cross_entropy

    weights = label_weights(lesson.few.fit, lesson.samples)

    def loss(network: Classifier, batch: Batch, y: Tensor) -> Tensor:
        contrast = network.contrast
        assert isinstance(contrast, ContrastiveDistillation)
        with torch.no_grad():
            shown = teacher.features(batch.views)  # (B, T)
            goal = teacher.head(shown).float()  # (B, C)
        features = network.features(batch.views)  # (B, S)
        scores = network.head(features).float()  # (B, C)
        labelled = labelled_cross_entropy(scores, y, weights[batch.index].to(scores))  # ()
        soft = distillation_kl(scores, goal, options.soft_temperature)  # ()
        return options.labelled * labelled + options.soft * soft + options.weight * contrast(features, shown, batch)

    return loss


class ContrastiveDistillation(nn.Module):
    """The two linear embeddings and their memory banks; `forward` is the loss and writes the banks, once per step.

    The critic's objective (§3.1) with the memory banks and the noise-contrastive form of the authors' release: each side's embedding
    is scored against the other side's bank, h = e / (e + K/N) with e = exp(t . s / temperature) / Z, Z from the first batch.
    Negatives are drawn from all images, as the paper does without labels (i != j, up to K/N chance hits): the labels of most are unknown here.
    """

    bank_student: Tensor
    bank_teacher: Tensor
    constants: Tensor

    def __init__(self, student: int, teacher: int, samples: int, options: Config, seed: int) -> None:
        super().__init__()
        from ..model.seeds import seeded

        self.options = options
        with seeded(seed, "crd"):
            self.embed_student = nn.Linear(student, options.dim)
            self.embed_teacher = nn.Linear(teacher, options.dim)
            self.register_buffer("bank_student", new_bank(samples, options.dim))  # (N, D)
            self.register_buffer("bank_teacher", new_bank(samples, options.dim))  # (N, D)
        self.register_buffer("constants", torch.zeros(2))  # Z of both directions; 0 until the first step

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """student: (B, S) and teacher: (B, T) penultimate features of the batch's images -> the mean over the batch."""
        options, samples, index = self.options, len(self.bank_student), batch.index.to(student.device)
        s = normalize(self.embed_student(student))  # (B, D)
        t = normalize(self.embed_teacher(teacher.detach()))  # (B, D)
        draws = batch.rand("crd", (options.negatives,), torch.float64)  # (B, K)
        loss = s.new_zeros(())  # ()
        for side, (query, bank) in enumerate(((s, self.bank_teacher), (t, self.bank_student))):
            scores = bank_scores(query, bank, index, draws, options.temperature)  # (B, 1+K)
            if not self.constants[side]:
                self.constants[side] = constant_of(scores, samples, batch.size)  # ()
            loss = loss + nce(scores, self.constants[side].clone(), samples, batch.size)  # ()
        write_bank(self.bank_student, index, s, options.momentum)
        write_bank(self.bank_teacher, index, t, options.momentum)
        return loss
