"""Metrics of evaluations as tables."""

from __future__ import annotations

from collections.abc import Mapping

from ...tables import Table
from .._base import Measured

DENSE = tuple(prefix + task for task in ("detection_", "segmentation_") for prefix in ("", "scratch_", "supervised_"))

GEOMETRY = {  # what is measured of the features, and of what the loss compares
    "rankme": "effective rank (RankMe)",
    "rankme_share": "... of the most it can be",
    "feature_std": "spread, of evenly spread features'",
    "uniformity": "uniformity (0: collapse, lower: more even)",
    "alignment": "alignment of two views (0: perfect, 2: chance)",
    "positive_similarity": "cosine similarity of two views of a sample",
    "negative_similarity": "cosine similarity of two samples",
    "embedding_rankme": "embeddings: effective rank",
    "embedding_rankme_share": "... of the most it can be",
    "embedding_std": "embeddings: spread, of evenly spread ones'",
    "effective_temperature": "temperature, in standard deviations of negatives",
}


def tables_of(measured: Measured) -> list[Table]:
    """What evaluations give: detection and segmentation, geometry, and the rest, each in a table of its own."""
    dense = {name: value for name, value in measured.items() if name.startswith(DENSE)}
    shape = {name: value for name, value in measured.items() if name.removeprefix("random_") in GEOMETRY}
    rest = {name: value for name, value in measured.items() if name not in dense | shape}
    made = [dense_table(dense)] if dense else []
    made += [geometry_table(shape)] if shape else []
    return made + ([metrics_table(type(measured)({**rest, **measured.about}, tested=measured.tested))] if rest else [])


def metrics_table(metrics: Measured) -> Table:
    """Metrics of an evaluation: trained encoder and, where they were measured, untrained encoder and raw pixels; and of how many images."""
    rows = {"": "trained encoder", "random_": "untrained encoder", "pixels_": "raw pixels"}
    names = [name for name in metrics if not name.startswith(("random_", "pixels_"))]
    of = {
        "on {:,} test images": "test_images",
        "_val_ on {:,} held-out training images": "val_images",
        "by the labels of {:,} images": "labelled_images",
    }
    if metrics.tested:
        of = {f"on {metrics.tested} ({{:,}} images)" if name == "test_images" else words: name for words, name in of.items()}
    where = [words.format(int(metrics.about[name])) for words, name in of.items() if name in metrics.about]
    shares = all(name.endswith("top1") for name in names)
    title = "top-1 accuracy in per cent" if shares else "metrics; top-1 accuracy in per cent"
    table = Table(", ".join([title, *where]), "features", *names)
    for prefix, title in rows.items():
        if any(prefix + name in metrics for name in names):
            table.add(title, *(_value(name, metrics.get(prefix + name)) for name in names))
    broken = int(metrics.about.get("test_images_broken", 0))
    table.caption = f"{broken:,} more test images could not be read" if broken else ""
    return table


def _value(metric: str, value: float | None) -> str:
    return share(value) if metric.endswith("top1") or value is None else f"{value:.4g}"


def dense_table(metrics: Mapping[str, float]) -> Table:
    """Detection or segmentation: the pretrained encoder, and what it is compared with, in per cent."""
    rows = {"": "pretrained", "scratch_": "untrained", "supervised_": "supervised"}
    names = list(dict.fromkeys(name.removeprefix("scratch_").removeprefix("supervised_") for name in metrics))
    table = Table("on the test images, in per cent", "backbone", *names)
    for prefix, title in rows.items():
        if any(prefix + name in metrics for name in names):
            table.add(title, *(share(metrics.get(prefix + name)) for name in names))
    return table


def geometry_table(metrics: Mapping[str, float]) -> Table:
    """What the geometry of features tells, trained beside untrained."""
    table = Table("geometry of the features on training images, without labels", "", "trained", "untrained")
    for name, words in GEOMETRY.items():
        values = [metrics.get(prefix + name) for prefix in ("", "random_")]
        if values != [None, None]:
            table.add(words, *("-" if value is None else f"{value:.3f}" for value in values))
    return table


def share(top1: float | None) -> str:
    """An accuracy in per cent."""
    return "-" if top1 is None else f"{100 * top1:.1f}"
