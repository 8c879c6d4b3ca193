"""Evaluations run one after the other on a subject: what they need is checked first, what they give is checked, the method stays as it was."""

from __future__ import annotations

import contextlib
import logging
import math
import numbers
import random
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from ... import data
from ...config.evaluations import EvaluationFile, load_evaluation, needing_labels
from ...config.registry import builtin, told
from ...errors import UserError
from ...model.determinism import make_deterministic
from .._base import Measured, Subject
from .samples import counts_of_test, measurable

log = logging.getLogger(__name__)


def run(names: Iterable[str], subject: Subject) -> Measured:
    """The metrics of these evaluations together. Raises UserError for an unknown one and where the data lack labels that one needs."""
    names = list(names)
    files = [load_evaluation(name) for name in names]
    if needing_labels(names) and subject.source.train.labels is None:
        raise UserError(f"data.source: {subject.source.name} has no labels, and an evaluation needs them")
    if not subject.online:  # a run has set them for itself
        make_deterministic(subject.config.train, subject.device, subject.method)
    found = [measured(file, subject) for file in files]
    clash(files, found)
    counts = counts_of_test(subject.source) if needing_labels(names) and subject.tests else {}
    on = {each.on for each in found}
    if len(on) > 1:
        raise UserError(f"{' and '.join(names)} are of different data: ask for one after the other")
    metrics = {name: value for each in found for name, value in {**each, **each.about}.items()}
    pictures = tuple(picture for each in found for picture in each.pictures)
    return Measured(metrics | counts, pictures, *on, tested=subject.source.tested if counts else "")


def finals(subject: Subject) -> tuple[Measured, str]:
    """What the evaluations of eval.final give that the data can serve, and why some could not measure, if so; the others' metrics stand.

    Of a subject that is not to be tested only those that rank trials.
    """
    metrics: dict[str, float] = {}
    problems = []
    for name in served_by(subject.source, subject.config.eval.final):
        if not subject.tests and not load_evaluation(name).metrics:
            continue
        try:
            found = run([name], subject)
            metrics |= {**found, **found.about}
        except Exception as error:
            if not subject.tests:
                raise  # a trial that cannot be measured cannot be ranked
            if not isinstance(error, UserError):
                log.exception("evaluation %s", name)  # the place of a fault of our own
            problems.append(told(error, None))
    return Measured(metrics), "; ".join(dict.fromkeys(problems))


def served_by(source: data.Source, names: Iterable[str]) -> list[str]:
    """Of these evaluations those that the data's labels can serve, if they need any."""
    names = list(dict.fromkeys(names))
    lacking = [] if measurable(source) else needing_labels(names)
    return [name for name in names if name not in lacking]


def measured(file: EvaluationFile, subject: Subject) -> Measured:
    """One evaluation. Raises UserError, which names it, where code that is not ours raises, changes the method, or gives something else than
    numbers by names; a number must be finite, but for a method that is still training.
    """
    called = f"evaluation {file.name}"
    with undisturbed(subject, called):
        try:
            found = file.evaluate(subject, subject.config.parts[file.prefix])
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            if file.name in builtin("evaluation"):
                raise
            raise UserError(f"{called}: {told(error, file.evaluate.__code__.co_filename)}") from error
    if not isinstance(found, Mapping):
        raise UserError(f"{called}: evaluate must return numbers by name, it returned {type(found).__name__}")
    for name, value in {**found, **(found.about if isinstance(found, Measured) else {})}.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w./ -]+", name):
            raise UserError(f"{called}: a metric is called {name!r}; give it a name of letters, digits and _ . / -")
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise UserError(f"{called}: {name} is of type {type(value).__name__}, must be a number")
        if not math.isfinite(value) and not subject.online:
            raise UserError(f"{called}: {name} is {value}, must be a finite number")
    return found if isinstance(found, Measured) else Measured(found)


def clash(files: list[EvaluationFile], found: list[Measured]) -> None:
    """Raises UserError where one's own evaluation gives a metric that another one gives too."""
    givers: dict[str, str] = {}
    for file, each in zip(files, found, strict=True):
        for name in each:
            other = givers.setdefault(name, file.name)
            if other != file.name and not {other, file.name} <= set(builtin("evaluation")):
                raise UserError(f"evaluation {file.name}: {name} is a metric of evaluation {other} too; give it another name")


@contextlib.contextmanager
def undisturbed(subject: Subject, called: str) -> Iterator[None]:
    """Training goes on as if nothing had been: the method's mode, what of it is trained, its gradients, the global generators and torch's
    grad mode are as before.

    Raises UserError where a weight or a buffer was changed, by whatever way (`x.data` tells no version counter), or is another tensor.
    """
    method = subject.method
    training, tensors = method.training, [*method.parameters(), *method.buffers()]
    leaves = [(x, x.grad, x.requires_grad) for x in method.parameters() if x.is_leaf]
    versions, bits = [x._version for x in tensors], _bits(tensors)
    states = random.getstate(), np.random.get_state()
    method.eval()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if subject.device.type == "cuda" else []), torch.enable_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        method.train(training)
        for x, gradient, trained in leaves:
            x.grad = None  # one of another type would not give way
            x.requires_grad_(trained)
            x.grad = gradient
    now = [*method.parameters(), *method.buffers()]
    if [*map(id, now)] != [*map(id, tensors)] or [x._version for x in now] != versions or _bits(now) != bits:
        raise UserError(f"{called}: it changed the method that it measures; let it work on a copy (copy.deepcopy)")


def _bits(tensors: list[Tensor]) -> list[object]:
    """Of each tensor its type, its shape and a sum of its bits."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [x.detach().reshape(-1).view(whole[x.element_size()]).sum(dtype=torch.int64).to(tensors[0].device) for x in tensors]
    total = torch.stack(sums).tolist() if sums else []
    return [(x.dtype, x.device, x.shape, each) for x, each in zip(tensors, total, strict=True)]
