"""The whole network fine-tuned on a part of the labels."""

from __future__ import annotations

from dataclasses import dataclass

from ._base import Citation, Measured, Subject, setting
from .common.settings import Augmented

ABOUT = "the whole network fine-tuned on all or a part of the labels, beside the same network from scratch"
PAPER = Citation("Big Self-Supervised Models are Strong Semi-Supervised Learners", 2020, "https://arxiv.org/abs/2006.10029")
NEEDS = ("labels",)
METRICS = ("finetune_*_val_top1",)


@dataclass(frozen=True)
class Config(Augmented):
    """Keys eval.finetune.*."""

    labels: str = setting(
        "1.0",
        "a fraction of the labels such as 0.01, 10-per-class, or a list of images such as 1percent.txt; the same images for every method and seed",
    )
    epochs: int = setting(60, "passes over the labelled images", unit="epochs", ge=1)
    batch: int = setting(64, "minibatch", unit="images", ge=2)
    holdout: float = setting(0.2, "share of the labelled images that picks the rate", ge=0.01, le=0.5)


def evaluate(subject: Subject, options: Config) -> Measured:
    """finetune_{part}_top1 and scratch_{part}_top1, and _val_top1: see `finetuned`. A trial, which is not tested, trains no network from scratch."""
    return tuned(subject, options, "finetune")


def tuned(subject: Subject, options: Config, name: str, crop: tuple[float, float] | None = None) -> Measured:
    """Of the evaluation `name`, after which the metrics are called: finetune... and scratch..., see `evaluate`. crop: see `cropped_views`."""
    from .common.augmented import recipe_of
    from .common.classifier import Budget, FewLabels, finetuned

    key = f"eval.{name}."
    recipe = recipe_of(subject.config, options, key, subject.classes, crop)
    few = FewLabels.of(subject.source, options.labels, options.holdout)
    budget = Budget(few.fit, few.val, options.batch, epochs=options.epochs, refit=subject.tests)
    kinds = (name, name.replace("finetune", "scratch")) if subject.tests else (name,)
    found = finetuned(subject, few, options, key, budget, kinds, recipe).metrics
    return Measured({**found, "labelled_images": len(few.subset.ids)})
