"""Evaluations run on a method at hand, as `contray eval` runs them on a stored one."""

from __future__ import annotations

from typing import Any

import torch

from contray import RunConfig, data
from contray.evaluation import Measured, Subject
from contray.evaluation.common.run import run
from contray.methods._base import Method

CPU = torch.device("cpu")
TAUGHT = ("distill", "crd", "noisy_student")


def subject_of(config: RunConfig, source: data.Source, method: Method, **more: Any) -> Subject:
    return Subject(config, method, CPU, given=source, **more)


def evaluated(names: str, config: RunConfig, source: data.Source, method: Method, **more: Any) -> Measured:
    """The metrics of the evaluations named, with a space between; more: fields of the subject."""
    return run(names.split(), subject_of(config, source, method, **more))


def verdict(config: RunConfig, source: data.Source, method: Method) -> dict[str, float]:
    """k-NN and linear probe, with what they stand on."""
    found = evaluated("knn linear", config, source, method)
    return {**found, **found.about}


def taught(**keys: Any) -> dict[str, Any]:
    """The same keys of all evaluations that have a teacher and a student."""
    return {f"eval.{name}.{key}": value for name in TAUGHT for key, value in keys.items()}
