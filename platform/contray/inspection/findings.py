"""What of the facts a person must look at: how bad it is, which images, how to mend it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import shown
from .duplicates import FLAT
from .facts import Channels, Classes, Part
from .gather import Looked
from .groups import Group, counts
from .records import CUT_OFF, GREY, MISNAMED, MODES

SEVERITIES = ("wrong", "look", "note")  # spoils a training or its verdict; may do so; is dealt with, and told
UNEVEN = 10.0  # times the largest class is the smallest one
GIANT, LARGER = 5e7, 16  # px from which an image is a giant, and times the median from which a quarter as many suffice
THIN = 4.0  # longer over shorter side: evaluation sees the middle of such a picture alone
FEW = 10  # training images below which nothing is learnt
NAMED = 20  # images that are named
CLEAN = "--clean keep.txt lists what is left without them, for --data.subset"


@dataclass(frozen=True)
class Finding:
    """kind: its name, stable; words: what there is; mend: what to do; images: (split, place) of some of them; names: of these."""

    severity: str
    kind: str
    words: str
    mend: str = ""
    count: int = 0
    images: tuple[tuple[str, int], ...] = ()
    names: tuple[str, ...] = ()


def findings(
    found: Sequence[Looked], parts: Sequence[Part], classes: Classes | None, channels: Channels | None, listed: Sequence[Group], most: float, size: int
) -> list[Finding]:  # fmt: skip
    """The worst first. most: share of broken images above which training refuses; size: px of the views."""
    all_found = [
        *_broken(found, most),
        *_repeated(listed, found),
        *_classes(classes, len(found) > 1),
        *_pictures(found, parts, size),
    ]
    if channels is not None and (few := len(found[0].split) - len(found[0].broken)) < FEW:
        all_found.append(
            Finding("look", "few", f"{several(few, 'training image')} in all", "pretraining learns from thousands: add some", few)
        )
    if channels is None:
        all_found.append(Finding("wrong", "nothing", "no training image can be read", "look at the reasons above"))
    return sorted(all_found, key=lambda each: SEVERITIES.index(each.severity))


def several(count: int, noun: str) -> str:
    """1 image, 2 images, 3 classes."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def _broken(found: Sequence[Looked], most: float) -> Iterator[Finding]:
    for each in found:
        if not (count := len(each.broken)):
            continue
        places = sorted(each.broken)[:NAMED]
        refused = count > max(1, most * len(each.ids)) or (most == 0)
        yield Finding(
            "wrong", "broken", f"{count:,} of {len(each.ids):,} {each.name} images cannot be read",
            f"mend or remove them; {f'they are more than data.max_broken {most:g}, so training refuses' if refused else 'training takes others in their place'}",
            count, tuple((each.name, place) for place in places), tuple(f"{each.where(place)}: {each.broken[place]}" for place in places),
        )  # fmt: skip


def _repeated(listed: Sequence[Group], found: Sequence[Looked]) -> Iterator[Finding]:
    """Groups as they come: those across splits, then of several classes."""
    count = counts(listed)
    across, within = ([group for group in listed if group.across is side] for side in (True, False))
    if across:
        exact = sum(group.kind != "near" for group in across)
        yield Finding(
            "wrong" if exact else "look", "train in test",
            f"{several(count['train_in_test'], 'training image')} in the test set too, as {several(count['tested_twice'], 'test image')} "
            f"(groups: {exact:,} exact, {len(across) - exact:,} near): it tests what was trained on"
            + ("" if exact else ", unless different images of yours look alike when they are small"),
            f"leave them out of training: {CLEAN}", count["train_in_test"], names=tuple(group.words for group in across[:NAMED]),
        )  # fmt: skip
    two = [group for group in listed if len(group.labels) > 1]
    if two:
        exact = any(group.kind != "near" for group in two)
        why = "one of the labels is wrong" if exact else "either a label is wrong, or two images look alike"
        yield Finding(
            "wrong" if exact else "look", "two labels", f"{several(len(two), 'image' if exact else 'nearly equal image')} in more than one class",
            f"{why}: look at each, and move it", len(two), names=tuple(group.words for group in two[:NAMED]),
        )  # fmt: skip
    for split in (each.name for each in found):
        own = [group for group in within if group.members[0][0] == split]
        if own:
            spare = sum(len(group.members) - 1 for group in own)
            exact = sum(group.kind != "near" for group in own)
            yield Finding(
                "look", "repeated", f"{several(spare, f'{split} image')} that repeat others (groups: {exact:,} exact, {len(own) - exact:,} near)",
                CLEAN if split == "train" else "each counts several times in the verdict; keep one of each", spare, names=tuple(group.words for group in own[:NAMED]),
            )  # fmt: skip


def _classes(classes: Classes | None, tested: bool) -> Iterator[Finding]:
    if classes is None:
        return
    if classes.empty:
        yield Finding(
            "look", "empty class", f"{several(len(classes.empty), 'class')} without a training image",
            "fill or remove them", len(classes.empty), names=tuple(classes.empty[:NAMED]),
        )  # fmt: skip
    if tested and any(classes.test) and classes.untested:
        yield Finding(
            "look", "untested class", f"{several(len(classes.untested), 'class')} without a test image: the verdict says nothing of them",
            "add some, or say so beside the verdict", len(classes.untested), names=tuple(classes.untested[:NAMED]),
        )  # fmt: skip
    if classes.ratio >= UNEVEN:
        few = min(filter(None, classes.train))
        smallest = [name for name, count in zip(classes.names, classes.train, strict=True) if count == few]
        yield Finding(
            "look", "imbalance",
            f"the largest class has {classes.ratio:.3g} times the images of the smallest ({max(classes.train):,} to {few:,}): as uneven as "
            f"{classes.effective:.3g} classes of one size",
            "read the accuracy per class, not top-1 alone; pretraining favours what is frequent", len(classes.names), names=tuple(smallest[:NAMED]),
        )  # fmt: skip


def _pictures(found: Sequence[Looked], parts: Sequence[Part], size: int) -> Iterator[Finding]:
    for each, part in zip(found, parts, strict=True):
        records, read = each.records, each.read
        pixels = records["width"].astype(float) * records["height"]
        shorter = np.minimum(records["width"], records["height"])
        longer = np.maximum(records["width"], records["height"])
        median = float(np.median(pixels[read])) if read.any() else 0.0
        giant = pixels >= max(min(GIANT, LARGER * median), GIANT / 4)
        told = [
            ("look", "cut off", records["flags"] & CUT_OFF > 0, "that end before their picture does", "fetch them again"),
            ("look", "blank", _flat(records), "of one brightness all over", "remove them: two views of nothing teach nothing"),
            ("look", "giant", giant, f"far larger than the median of {median / 1e6:.2g} megapixels", "data.shorter_side reduces them as they are read"),
            ("look", "thin", longer > THIN * shorter, f"over {THIN:g} times as long as wide", "evaluation sees their middle alone: cut them up"),
            ("note", "small", shorter < size // 2, f"smaller than half the views of {size} px", "they are enlarged; take smaller views, or leave them out"),
            ("note", "misnamed", records["flags"] & MISNAMED > 0, "of another format than the suffix says", "they are read as what they are; other tools may not"),
            ("note", "deep", records["bits"] > 8, "of more than 8 bits", "one range of values, of the whole set, becomes 0 to 255"),
            *(("note", mode, records["mode"] == MODES.index(mode), word, "they are read as RGB") for mode, word in _MODES.items()),
        ]  # fmt: skip
        for severity, kind, mask, words, mend in told:
            places = np.flatnonzero(mask & read)
            if not len(places) or (severity == "note" and kind in _MODES and len(places) == int(read.sum())):
                continue  # of a set that is all grey there is nothing to tell
            some = places[:NAMED].tolist()
            yield Finding(
                severity, kind, f"{several(len(places), f'{part.name} image')} {words}", mend, len(places),
                tuple((part.name, place) for place in some), tuple(shown(each.key(place)) for place in some),
            )  # fmt: skip


_MODES = {
    "grey": "in grey", "grey with alpha": "in grey with an alpha channel, which is not used", "palette": "with a palette", "CMYK": "in CMYK",
    "RGB with alpha": "with an alpha channel, which is not used", "other": "of other colours",
}  # fmt: skip


def _flat(records: np.ndarray) -> np.ndarray:
    found = np.empty(len(records), bool)
    for begin in range(0, len(records), 65536):
        part = records["grey"][begin : begin + 65536]
        found[begin : begin + 65536] = part.reshape(len(part), GREY * GREY).std(1) < FLAT / 3
    return found


def empty_folders(source: str, found: Sequence[Looked]) -> list[Finding]:
    """Of folders beside those of classes that hold no image, where the source is a folder of this machine."""
    root = Path(source).expanduser()
    if found[0].labels is None or not root.is_dir():
        return []
    named = {each.split.key(i).rpartition("/")[0] for each in found for i in range(len(each.split))} - {""}
    holding = {"/".join(parts[: k + 1]) for name in named for parts in [name.split("/")] for k in range(len(parts))}
    empty = []
    for parent in sorted({name.rpartition("/")[0] for name in named}):
        for entry in sorted(os.scandir(root / parent), key=lambda each: each.name):
            name = f"{parent}/{entry.name}".lstrip("/")
            if entry.is_dir() and not entry.name.startswith((".", "@", "__")) and name not in holding:
                empty.append(shown(name))
    words = f"{several(len(empty), 'folder')} without an image, beside those of classes"
    return [Finding("look", "empty class", words, "fill or remove them", len(empty), names=tuple(empty[:NAMED]))] if empty else []
