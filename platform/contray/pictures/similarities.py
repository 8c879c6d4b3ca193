"""Cosine similarities of positives and negatives: the picture of `contray eval geometry`."""

from __future__ import annotations

from pathlib import Path

from ..evaluation.diagnosis import geometry_of
from .subject import Subject


def draw(subject: Subject, out: Path) -> dict[str, float]:
    """Of the untrained encoder, the trained one, and of what its loss compares; the metrics are geometry's."""
    return geometry_of(subject.config, subject.source, subject.method, subject.device, out=out)
