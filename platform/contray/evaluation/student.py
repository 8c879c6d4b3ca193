"""A fine-tuned teacher, and a student of any backbone that learns from what it says of all images: three ways, and the student's own references."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import data, model
from ..config import RunConfig
from ..config.registry import load_method
from ..errors import ConfigError, DataError, UserError, nearest
from ..methods._base import Batch, Method
from ..model.vit import SHAPES
from .crd import ContrastiveDistillation
from .distill import distillation_kl, label_weights, labelled_cross_entropy
from .finetune import Budget, Classifier, FewLabels, Loss, best_of, finetuned, rate_scales
from .labelled import Show, first_inputs
from .noisy import check_noisy, self_trained
from .samples import check_labels

NAMES = {"soft_labels": "distill", "crd": "crd", "noisy_student": "noisy_student"}  # --by, and how the metrics start


class Contrasted(Classifier):
    """A student with the two embeddings and memory banks of CRD, trained with it."""

    def __init__(self, teacher: Classifier, samples: int, config: RunConfig, *given: Any) -> None:
        super().__init__(*given)
        widths = self.head.in_features, teacher.head.in_features
        self.contrast = ContrastiveDistillation(*widths, samples, config.eval, config.seed).to(self.head.weight)


def check_by(by: str, options: Any = None) -> None:
    """Raises UserError for an unknown way, ConfigError for weights that would teach CRD's last layer nothing."""
    if by not in NAMES:
        raise UserError(f"--by: got {by!r}; {nearest(by, NAMES)}")
    if by == "crd" and options is not None and not options.crd_labelled and not options.crd_soft:
        raise ConfigError("eval.crd_labelled", "got 0, and eval.crd_soft is 0 too: nothing would teach the student the classes")


def student_config(config: RunConfig, own: RunConfig) -> RunConfig:
    """The teacher's config with the network of another run. Raises UserError where that one encodes other inputs than the teacher."""
    inputs = [load_method(each.method.name).method.eval_views(each.views) for each in (config, own)]
    pixels = [(each.augment.mean, each.augment.std) for each in (config, own)]
    if inputs[0] != inputs[1] or pixels[0] != pixels[1]:
        said = "is normalised by other means" if inputs[0] == inputs[1] else "encodes inputs of another size or kind"
        raise UserError(f"--student-run: the student {said} than the teacher, and both must see the same picture")
    return dataclasses.replace(config, method=own.method, backbone=own.backbone, views=own.views)


def distilled(
    config: RunConfig,
    student: RunConfig,
    source: data.Source,
    method: Method,
    device: torch.device,
    labels: str,
    show: Show,
    by: str = "soft_labels",
    own: Method | None = None,
) -> dict[str, float]:
    """finetune_1pct_top1 of the teacher, `method` fine-tuned on `labels`; of the student what the same labels give without a teacher,
    scratch_1pct_width8_top1 and, of the pretrained student `own`, finetune_1pct_width8_top1; and the student that was taught.

    soft_labels, distill_1pct_width8_top1: Chen et al. 2020 (arXiv 2006.10029, eq. 2). The student sees no label, only what the teacher says
    of the same crop of every training image, both softened by eval.distill_temperature. With eval.distill_labelled = w its eq. 3,
    w (cross-entropy of labelled images) + (1 - w) (eq. 2), so that its alpha is 1 - w; each of its sums is taken as a mean here, so that w
    means the same however few the labels. The paper's students learn by eq. 2, hence w = 0.
    crd, crd_1pct_width8_top1: eval.crd_labelled (cross-entropy) + eval.crd_soft (eq. 2) + eval.crd_weight (`ContrastiveDistillation`).
    noisy_student, noisy_student_1pct_top1: see `self_trained`; its teacher and students never see the labels that pick rates, so that
    ..._iter0_val_top1 (the teacher's) and the students' held-out accuracies are honest, at the price of that part of the labels.

    Names end in what of the student's backbone is not the teacher's, or in _student for another run of the same backbone. The subset's
    held-out labels pick the student's rate; in the first two ways the teacher has been trained on them, so that score only ranks rates
    and is no result. Raises DataError without a labelled test set, ConfigError and UserError, all before any training.
    """
    if check_labels(source) is None:
        raise DataError(f"data.source: {source.name} has no labelled test images, and a student is measured on nothing else")
    check_by(by, config.eval)
    options, samples, classes = config.eval, len(source.train), len(source.train.classes)
    if options.distill_start == "pretrained" and own is None:
        raise ConfigError("eval.distill_start", "got pretrained, but no student has been pretrained: give --student-run")
    few = FewLabels.of(config, source, labels)
    model.check(student, samples)
    inputs = first_inputs(config, source.train, few.subset.ids, device)
    suffix = differing(config, student) or ("_student" if own is not None else "")
    noisy = by == "noisy_student" and student.backbone.name in SHAPES
    trained = own if options.distill_start == "pretrained" else None
    start = model.build(
        student.replace({"backbone.drop_path": options.noisy_drop_path}) if noisy else student,
        samples if trained is None else int(trained.samples),
    )
    if trained is not None:
        start.load_state_dict(trained.state_dict())
    given = (start.to(device), inputs, classes)
    rate_scales(Classifier(*given), options.layer_decay)
    if by == "noisy_student":
        check_noisy(config, source, few, Classifier(*given), Classifier(method, inputs, classes))

    taught = finetuned(config, source, method, device, labels, show, kinds=("finetune",))
    teacher_name = f"finetune_{few.subset.name}"
    metrics = {f"{teacher_name}_top1": taught.metrics[f"{teacher_name}_top1"]}
    alone = {"scratch": model.build(student, samples).to(device)} | ({"finetune": own.to(device)} if own is not None else {})
    networks = {f"{kind}_{few.subset.name}{suffix}": partial(Classifier, each, inputs, classes) for kind, each in alone.items()}
    reference = Budget(few.fit, few.val, options.finetune_batch, None, refit=True)
    found = best_of(networks, config, source, device, reference, show).metrics
    metrics |= {f"{name}_top1": found[f"{name}_top1"] for name in networks}

    name = f"{NAMES[by]}_{few.subset.name}{suffix}"
    batch = min(config.train.batch_size, samples)
    budget = Budget(np.arange(samples), few.val, batch, options.distill_epochs * (samples // batch), refit=False)
    if by == "noisy_student":
        first = {f"{name}_iter0_val_top1": taught.metrics[f"{teacher_name}_val_top1"]}
        picked = taught.picked[teacher_name]
        build = partial(Classifier, *given)
        return metrics | first | self_trained(config, source, name, build, picked, few, device, budget, show)
    teacher = taught.networks[teacher_name]
    if by == "crd":
        build, loss = partial(Contrasted, teacher, samples, config, *given), by_contrast(config, teacher, few, samples)
    else:
        build, loss = partial(Classifier, *given), by_teacher(config, teacher, few, samples)
    found = best_of({name: build}, config, source, device, budget, show, loss).metrics
    return metrics | {f"{name}_top1": found[f"{name}_top1"]}


def by_teacher(config: RunConfig, teacher: Classifier, few: FewLabels, samples: int) -> Loss:
    """SimCLR v2's eq. 3 (see `distilled`); eq. 2 where eval.distill_labelled is 0."""
    share, weights = config.eval.distill_labelled, label_weights(few.fit, samples)

    def loss(network: Classifier, batch: Batch, y: Tensor) -> Tensor:
        with torch.no_grad():
            goal = teacher(batch.views).float()  # (B, C)
        scores = network(batch.views).float()  # (B, C)
        soft = distillation_kl(scores, goal, config.eval.distill_temperature)  # ()
        if not share:
            return soft
        return share * labelled_cross_entropy(scores, y, weights[batch.index].to(scores)) + (1 - share) * soft

    return loss


def by_contrast(config: RunConfig, teacher: Classifier, few: FewLabels, samples: int) -> Loss:
    """CRD's objective (see `distilled`) of a `Contrasted` student."""
    options, weights = config.eval, label_weights(few.fit, samples)

    def loss(network: Classifier, batch: Batch, y: Tensor) -> Tensor:
        assert isinstance(network, Contrasted)
        with torch.no_grad():
            shown = teacher.features(batch.views)  # (B, T)
            goal = teacher.head(shown).float()  # (B, C)
        features = network.features(batch.views)  # (B, S)
        scores = network.head(features).float()  # (B, C)
        labelled = labelled_cross_entropy(scores, y, weights[batch.index].to(scores))  # ()
        soft = distillation_kl(scores, goal, options.distill_temperature)  # ()
        contrast = network.contrast(features, shown, batch)  # ()
        return options.crd_labelled * labelled + options.crd_soft * soft + options.crd_weight * contrast

    return loss


def differing(config: RunConfig, student: RunConfig) -> str:
    """What of the student's backbone is not the teacher's, for names of metrics: _width8, _resnet18; empty for the same backbone."""
    old, new = dataclasses.asdict(config.backbone), dataclasses.asdict(student.backbone)
    parts = [f"{'' if key == 'name' else key}{value}" for key, value in new.items() if value != old[key]]
    return "".join(f"_{part}".replace(".", "_") for part in parts)
