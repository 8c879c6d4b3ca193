"""The look at a data set as one HTML page: what to look at with the images themselves, classes, sizes, numbers to paste."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from markupsafe import Markup

from ..planning.words import nbytes
from ..reporting import html
from ..reporting.html import Section
from ..reporting.page import rendered
from .findings import Finding
from .groups import Group
from .result import Inspection

SIDE = 96  # px of a thumbnail
PAIRS, ALIKE = 24, 4  # groups that are shown, and images of one
BARS = 60  # classes that have a bar


def written(result: Inspection) -> str:
    """The HTML."""
    about = {"images": f"{sum(part.images for part in result.parts):,}", "looked at": "a sample" if result.sampled else "all"}
    wrong, look = (sum(each.severity == kind for each in result.findings) for kind in ("wrong", "look"))
    cards = [
        ("wrong", str(wrong), "spoils a training or its verdict"),
        ("to look at", str(look), "may do so"),
        ("broken", f"{sum(part.broken for part in result.parts):,}", "images that cannot be read"),
        (
            "repeated",
            f"{sum(len(group.members) - 1 for group in result.groups):,}",
            f"in {len(result.groups):,} groups of equal or nearly equal images",
        ),
    ]
    return rendered(f"{result.name}: before training", about, cards, list(_sections(result)))


def _sections(result: Inspection) -> Iterator[Section]:
    eye = [part for each in result.findings if each.severity != "note" for part in _finding(result, each)]
    yield Section("What to look at", eye or [html.text("Nothing.", "verdict")])
    if result.groups:
        shown = [_group(result, group) for group in result.groups[:PAIRS]]
        rest = len(result.groups) - PAIRS
        more = [html.text(f"{rest:,} further groups are listed in the JSON document.", "note")] if rest > 0 else []
        yield Section("Images that are there more than once", [*shown, *more])
    holds = [html.table(result.tables()[0]), *(html.text(note, "note") for note in result.notes)]
    yield Section("What was taken for what", holds)
    if result.classes:
        yield Section("Classes", list(_classes(result)))
    yield Section("Sizes", list(_sizes(result)))
    noted = [html.text(f"{each.words}: {each.mend}") for each in result.findings if each.severity == "note"]
    if noted:
        yield Section("Dealt with", noted)
    if advice := result.advice():
        yield Section("For the training", [*map(html.text, advice[:-1]), html.code(result.command, "the command")])


def _finding(result: Inspection, each: Finding) -> Iterator[Markup]:
    yield html.text(f"{each.words}. {each.mend[:1].upper()}{each.mend[1:]}.", "warning" if each.severity == "wrong" else "")
    thumbs = ((name, _thumb(result, split, place)) for (split, place), name in zip(each.images, each.names, strict=False))
    pictures = [(name, image) for name, image in thumbs if image is not None]
    if pictures:
        yield _row(pictures)
    told = each.names if len(pictures) < len(each.names) and each.kind not in ("train in test", "repeated") else ()
    if told:
        yield html.folded("names", Markup("<br>").join(told))


def _group(result: Inspection, group: Group) -> Markup:
    pictures = []
    for split, place, name, label in group.members[:ALIKE]:
        image = _thumb(result, split, place)
        if image is not None:
            pictures.append((f"{split}: {name}{f' ({label})' if label else ''}", image))
    kind = {"bytes": "equal files", "pixels": "equal pixels", "near": "nearly equal"}[group.kind]
    words = [
        kind,
        *(["in training and test"] if group.across else []),
        *(["of several classes"] if len(group.labels) > 1 else []),
    ]
    more = len(group.members) - len(pictures)
    return html.text(", ".join(words) + (f"; {more:,} more" if more > 0 else ""), "caption") + _row(pictures)


def _thumb(result: Inspection, split: str, place: int) -> np.ndarray | None:
    """(h, w, 3) of an image as training reads it, SIDE px at most; None where it is broken."""
    image = next(each for each in result.found if each.name == split).image(place)
    return None if image is None else small(image)


def small(image: np.ndarray) -> np.ndarray:
    """(h, w, 3), at most SIDE px; tiny images are enlarged with their pixels seen."""
    if image.ndim == 2 or image.shape[2] != 3:
        image = np.repeat(image.reshape(*image.shape[:2], -1)[:, :, :1], 3, 2)
    scale = SIDE / max(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)


def _row(pictures: Sequence[tuple[str, np.ndarray]]) -> Markup:
    figures = html.join(_figure(name, image) for name, image in pictures)
    return Markup('<div style="display:flex;flex-wrap:wrap;gap:.8rem;margin:0 0 1rem">{}</div>').format(figures)


def _figure(name: str, image: np.ndarray) -> Markup:
    png = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes()
    return Markup('<div style="max-width:{}px">{}</div>').format(SIDE + 40, html.image(png, name, name))


def _classes(result: Inspection) -> Iterator[Markup]:
    classes = result.classes
    assert classes is not None
    yield html.text(
        f"The largest class has {classes.ratio:.3g} times the images of the smallest; they are as uneven as {classes.effective:.4g} classes of one size."
    )
    for name, counts in (("training", classes.train), ("test", classes.test)):
        if counts:
            counted = sorted(zip(classes.names, counts, strict=True), key=lambda row: -row[1])
            shown = counted if len(counted) <= BARS else [*counted[: BARS // 2], *counted[-BARS // 2 :]]
            left = f", {len(counted) - BARS:,} between the largest and the smallest are left out" if len(counted) > BARS else ""
            yield html.bars(shown, f"{name} images{left}")


def _sizes(result: Inspection) -> Iterator[Markup]:
    """Histograms of the shorter side, in bins that double."""
    for part in result.parts:
        shorter = part.sizes.shorter
        if len(shorter):
            low, high = int(np.log2(max(shorter.min(), 1))), int(np.log2(max(shorter.max(), 1)))
            counted = [
                (f"{2**k:,} to {2 ** (k + 1) - 1:,} px", int(((shorter >= 2**k) & (shorter < 2 ** (k + 1))).sum()))
                for k in range(low, high + 1)
            ]
            yield html.bars(counted, f"{part.name}: shorter side; {nbytes(part.nbytes)} of files")


__all__ = ["small", "written"]
