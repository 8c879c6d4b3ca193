"""Noisy Student: a teacher labels the unlabelled images, a noised student of at least its size learns them and becomes the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ._base import Citation, Measured, Subject, setting
from .common.settings import Teaching

if TYPE_CHECKING:
    from ..config import RunConfig

ABOUT = "self-training in rounds: a student learns, under noise, what the fine-tuned teacher says of unlabelled images, and teaches next"
PAPER = Citation("Self-training with Noisy Student improves ImageNet classification", 2020, "https://arxiv.org/abs/1911.04252")
NEEDS = ("labels", "test labels")
METRICS = ()
TAKES = ("backbone",)


@dataclass(frozen=True)
class Config(Teaching):
    """Keys eval.noisy_student.*."""

    iterations: int = setting(3, "students in a row, each the next one's teacher (paper: 3)", ge=1)
    threshold: float = setting(
        0.3, "images of which the teacher is less sure are left out (paper: 0.3)", unit="probability", ge=0, lt=1
    )
    per_class: int = setting(
        0,
        "pseudo-labelled images of each class: the surest ones, copies where they are fewer (paper: 130000); 0: unlabelled images / classes",
        unit="images",
        ge=0,
    )
    pseudo: Literal["soft", "hard"] = setting("soft", "the teacher's probabilities or its likeliest class (paper: soft)")
    ratio: float = setting(14.0, "pseudo-labelled images to a labelled one (paper: 14, at last 28)", gt=0)
    randaugment: tuple[int, int] = setting(
        (2, 9), "RandAugment of the student's images: operations and magnitude, 0 to 10 (paper: 2 and 27 of 30)", ge=0, le=10
    )  # fmt: skip
    dropout: float = setting(0.5, "dropout before the last layer (paper: 0.5)", unit="probability", ge=0, lt=1)
    drop_path: float = setting(
        0.2, "stochastic depth of a ViT at its last block (paper: 0.2, survival 0.8)", unit="probability", ge=0, lt=1
    )


def evaluate(subject: Subject, options: Config) -> Measured:
    """noisy_student_1pct_top1 of the last student, noisy_student_1pct_iter1_val_top1 and so on, and `Lesson.references`.

    Teacher and students never see the labels that pick rates, so that ..._iter0_val_top1 (the teacher's) and the students' held-out
    accuracies are honest, at the price of that part of the labels.
    """
    from functools import partial

    from ..model.vit import SHAPES
    from .common.classifier import Classifier
    from .common.noisy import check_noisy, self_trained
    from .common.student import Lesson

    def noised(student: RunConfig) -> dict[str, float]:
        return {"backbone.drop_path": options.drop_path} if student.backbone.name in SHAPES else {}

    lesson = Lesson.of(subject, options, "noisy_student", noised)
    build = partial(Classifier, *lesson.given)
    inputs, classes = lesson.given[1:]
    check_noisy(subject.config, subject.source, lesson.few, build(), Classifier(subject.method, inputs, classes))
    metrics = lesson.references()
    metrics[f"{lesson.name}_iter0_val_top1"] = lesson.taught.metrics[f"{lesson.teacher}_val_top1"]
    teacher = lesson.taught.picked[lesson.teacher]
    return lesson.measured(metrics | self_trained(subject, options, lesson.name, build, teacher, lesson.few, lesson.budget))
