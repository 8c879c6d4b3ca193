"""A fine-tuned teacher, and a student of any backbone that learns from what it says of all images, beside the student's own references."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ... import model
from ...config import RunConfig
from ...config.registry import load_method
from ...errors import ConfigError, DataError, UserError
from ...methods._base import Method
from ...model.encoder import Encoder, read_checkpoint
from .._base import Measured, Subject
from .classifier import Budget, Classifier, FewLabels, Loss, Outcome, best_of, finetuned, rate_scales
from .labelled import first_inputs
from .settings import Teaching

Change = Callable[[RunConfig], Mapping[str, Any]]


@dataclass
class Lesson:
    """A teacher's and its student's parts, checked, before anything is trained.

    kind: how the names of the student's metrics start; name: how they do in whole, such as distill_1pct_width8: they end in what of the student's
    backbone is not the teacher's, or in _student for another run of the same backbone. given: what a `Classifier` of the student is made of.
    """

    subject: Subject
    options: Teaching
    key: str
    kind: str
    few: FewLabels
    suffix: str
    given: tuple[Any, ...]
    alone: dict[str, Method]

    @classmethod
    def of(cls, subject: Subject, options: Teaching, kind: str, change: Change = lambda student: {}) -> Lesson:
        """change: keys of the student's config, from that, which are other ones while it is taught.

        Raises DataError without a labelled test set, ConfigError and UserError.
        """
        key, config, source, device = f"eval.{kind}.", subject.config, subject.source, subject.device
        if subject.test is None:
            raise DataError(f"data.source: {source.name} has no labelled test images, and a student is measured on nothing else")
        own = _own(subject, options, key)
        if own is not None and subject.taken:
            raise UserError(
                f"{next(iter(subject.taken))}: the student's backbone is that of its run; leave the key out, or the run"
            )
        if options.start == "pretrained" and own is None:
            raise ConfigError(f"{key}start", f"got pretrained, but no student has been pretrained: give {key}student_run")
        student = config.replace(subject.taken) if own is None else student_config(config, own.config, key)
        samples, few = len(source.train), FewLabels.of(source, options.labels, options.holdout)
        model.check(student, samples)
        inputs = first_inputs(config, source.train, few.subset.ids, device)
        trained = own.method if own is not None and options.start == "pretrained" else None
        start = model.build(student.replace(change(student)), samples if trained is None else int(trained.samples))
        if trained is not None:
            start.load_state_dict(trained.state_dict())
        given = (start.to(device), inputs, subject.classes)
        rate_scales(Classifier(*given), options.layer_decay, key)
        alone = {"scratch": model.build(student, samples).to(device)}
        alone |= {"finetune": own.method.to(device)} if own is not None else {}
        suffix = differing(config, student) or ("_student" if own is not None else "")
        return cls(subject, options, key, kind, few, suffix, given, alone)

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.few.subset.name}{self.suffix}"

    @property
    def teacher(self) -> str:
        """The name of the teacher's metrics and networks."""
        return f"finetune_{self.few.subset.name}"

    @property
    def samples(self) -> int:
        return len(self.subject.source.train)

    @cached_property
    def taught(self) -> Outcome:
        """The teacher, fine-tuned. It has been trained on the held-out labels too; `picked` has not."""
        return finetuned(self.subject, self.few, self.options, self.key, self._reference, ("finetune",))

    @property
    def _reference(self) -> Budget:
        options = self.options
        return Budget(self.few.fit, self.few.val, options.finetune_batch, epochs=options.finetune_epochs, refit=True)

    @property
    def budget(self) -> Budget:
        """The student's: all images; the subset's held-out labels pick its rate."""
        batch = min(self.subject.config.train.batch_size, self.samples)
        steps = self.options.epochs * (self.samples // batch)
        return Budget(np.arange(self.samples), self.few.val, batch, steps)

    def references(self) -> dict[str, float]:
        """finetune_1pct_top1 of the teacher, and what the same labels give the student without one: scratch_1pct_width8_top1 and, of a
        pretrained student, finetune_1pct_width8_top1.
        """
        metrics = {f"{self.teacher}_top1": self.taught.metrics[f"{self.teacher}_top1"]}
        inputs, classes = self.given[1:]
        networks = {
            f"{kind}_{self.few.subset.name}{self.suffix}": partial(Classifier, each, inputs, classes)
            for kind, each in self.alone.items()
        }
        found = best_of(networks, self.subject, self.options, self.key, self._reference).metrics
        return metrics | {f"{name}_top1": found[f"{name}_top1"] for name in networks}

    def student(self, build: Any, loss: Loss) -> dict[str, float]:
        """The student's {name}_top1. The rate is picked by labels that the teacher has been trained on, so that score is no result."""
        found = best_of({self.name: build}, self.subject, self.options, self.key, self.budget, loss).metrics
        return {f"{self.name}_top1": found[f"{self.name}_top1"]}

    def measured(self, metrics: dict[str, float]) -> Measured:
        return Measured({**metrics, "labelled_images": len(self.few.subset.ids)})


def _own(subject: Subject, options: Teaching, key: str) -> Encoder | None:
    """The pretrained student, if one was named."""
    run, checkpoint = options.student_run, options.student_checkpoint
    if run and checkpoint:
        raise UserError(f"name one student: either {key}student_run RUN_ID or {key}student_checkpoint PATH")
    return subject.load(run) if run else read_checkpoint(checkpoint) if checkpoint else None


def student_config(config: RunConfig, own: RunConfig, key: str) -> RunConfig:
    """The teacher's config with the network of another run. Raises UserError where that one encodes other inputs than the teacher."""
    inputs = [load_method(each.method.name).method.eval_views(each.views) for each in (config, own)]
    pixels = [(each.augment.mean, each.augment.std) for each in (config, own)]
    if inputs[0] != inputs[1] or pixels[0] != pixels[1]:
        said = "is normalised by other means" if inputs[0] == inputs[1] else "encodes inputs of another size or kind"
        raise UserError(f"{key}student_run: the student {said} than the teacher, and both must see the same picture")
    parts = {prefix: part for prefix, part in own.parts.items() if prefix.startswith("backbone.")}
    return dataclasses.replace(config, method=own.method, backbone=own.backbone, views=own.views, parts={**config.parts, **parts})


def differing(config: RunConfig, student: RunConfig) -> str:
    """What of the student's backbone is not the teacher's, for names of metrics: _width8, _resnet18; empty for the same backbone."""
    old, new = dataclasses.asdict(config.backbone), dataclasses.asdict(student.backbone)
    parts = [f"{'' if key == 'name' else key}{value}" for key, value in new.items() if value != old[key]]
    return "".join(f"_{part}".replace(".", "_") for part in parts)
