"""Cosine similarities of positives and negatives: the picture of `contray eval geometry`."""

from __future__ import annotations

from pathlib import Path

from .. import evaluation
from ..evaluation import geometry
from .subject import Subject


def draw(subject: Subject, out: Path) -> dict[str, float]:
    """Of the untrained encoder, the trained one, and of what its loss compares; the metrics are geometry's."""
    measured = evaluation.Subject(subject.config, subject.method, subject.device, out=out, given=subject.source)
    return dict(geometry.evaluate(measured, geometry.Config()))
