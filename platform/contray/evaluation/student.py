"""SimCLR v2's third stage: a fine-tuned teacher labels all images softly, and a student of any backbone learns from that alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from methods._base import Batch, Method

from .. import data, model
from ..config import RunConfig
from ..errors import DataError
from .distill import distillation_kl
from .finetune import Budget, Classifier, FewLabels, best_of, finetuned, rate_scales
from .labelled import Show, check_labels, first_inputs


def distilled(
    config: RunConfig, student: RunConfig, source: data.Source, method: Method, device: torch.device, labels: str, show: Show
) -> dict[str, float]:
    """finetune_1pct_top1 of the teacher, `method` fine-tuned on `labels`, and distill_1pct_top1 of its student.

    Chen et al. 2020 (arXiv 2006.10029, eq. 2): the student starts untrained and sees no label, only what the teacher says of the same crop
    of every training image, both softened by eval.distill_temperature. The metric's name ends in what of the student's backbone is not the
    teacher's, as distill_1pct_width8_top1. The subset's held-out labels pick the student's rate; the teacher has been trained on them, so
    that score only ranks rates and is no result. Raises DataError without a labelled test set, as `finetuned` and `model.check` do.
    """
    if check_labels(source) is None:
        raise DataError(f"data.source: {source.name} has no labelled test images, and a student is measured on nothing else")
    few = FewLabels.of(config, source, labels)
    model.check(student, len(source.train))
    inputs = first_inputs(config, source.train, few.subset.ids, device)
    start = model.build(student, len(source.train)).to(device)

    def build() -> Classifier:
        return Classifier(start, inputs, len(source.train.classes))

    rate_scales(build(), config.eval.layer_decay)
    taught = finetuned(config, source, method, device, labels, show, kinds=("finetune",))
    teacher = taught.networks[f"finetune_{few.subset.name}"]

    def by_teacher(scores: Tensor, batch: Batch, y: Tensor) -> Tensor:
        with torch.no_grad(), model.autocast(config, device):
            goal = teacher(batch.views).float()  # (B, C)
        return distillation_kl(scores, goal, config.eval.distill_temperature)

    batch = min(config.train.batch_size, len(source.train))
    budget = Budget(
        np.arange(len(source.train)), few.val, batch, config.eval.distill_epochs * (len(source.train) // batch), refit=False
    )
    name = f"distill_{few.subset.name}{differing(config, student)}"
    metrics = best_of({name: build}, config, source, device, budget, show, by_teacher).metrics
    return {
        f"finetune_{few.subset.name}_top1": taught.metrics[f"finetune_{few.subset.name}_top1"],
        f"{name}_top1": metrics[f"{name}_top1"],
    }


def differing(config: RunConfig, student: RunConfig) -> str:
    """What of the student's backbone is not the teacher's, for names of metrics: _width8, _resnet18; empty for the same backbone."""
    old, new = dataclasses.asdict(config.backbone), dataclasses.asdict(student.backbone)
    parts = [f"{'' if key == 'name' else key}{value}" for key, value in new.items() if value != old[key]]
    return "".join(f"_{part}".replace(".", "_") for part in parts)
