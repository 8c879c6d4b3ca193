"""Images that are there more than once: of equal bytes, of equal pixels, or nearly so after rescaling, recompression, brightening, a slight crop.

Near ones are found by the discrete cosine transform of a thumbnail of brightness, as perceptual hashes are (Zauner 2010), kept as numbers and not
cut to bits: its lowest frequencies (24) propose, more of them (63) dispose, and at last the thumbnails themselves decide, laid over each other also
as if one were cut out of the other. Who is compared with whom: drawn images are pivots, about the root of all; each image lies in the cell of its
nearest pivot, and is compared with the cells of its PROBES nearest. So n images take about n^1.5 comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from .records import CHROMA, GREY

PROPOSE, DISPOSE = 0.85, 0.7  # correlation of 24 frequencies, and of 63 emphasised ones, below which a pair is none
DECIDE = 0.92  # correlation of two emphasised thumbnails at their best fit, from which a pair is one
COLOUR = (8.0, 0.25)  # how far colours may lie apart: levels of 255, and as a share of how colourful the images are
FLAT = 3.0  # levels of 255: images whose brightness deviates less show nothing that could be compared
SMALLEST = 8  # px: below, an image is a thumbnail of nothing
PROBES, FEW = 4, 2048  # up to FEW images all are compared with all
NEAREST = 16  # candidates of an image in a cell that are decided on
BLOCK = 2**22  # numbers of a product that are in memory at once
ZOOMS, SHIFTS = (0.95, 0.9), (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Duplicates:
    """group: (n,) the number of the group that an image is in, -1: it is alone; groups are numbered by their first image.

    kind: of each group "bytes" where all its files are equal, "pixels" where all its pixels are, else "near". compared: pairs that were compared.
    same: (n,) the first image of the same pixels; pairs: (p, 2) of those first images, nearly equal. A group hangs together by its pairs, so that the
    first and the last frame of a film are in one group though they share nothing.
    """

    group: np.ndarray
    kind: list[str]
    compared: int
    same: np.ndarray
    pairs: np.ndarray

    def members(self) -> Iterator[np.ndarray]:
        """(m,) places of the images of each group, in order."""
        order = np.argsort(self.group, kind="stable")
        begins = np.searchsorted(self.group[order], np.arange(len(self.kind) + 1))
        return (order[begins[i] : begins[i + 1]] for i in range(len(self.kind)))


def find(records: np.ndarray, seed: int = 0, show: Callable[[float], None] = lambda done: None) -> Duplicates:
    """Of all readable images together. records: (n,) of `records.dtype`; show: takes the share that is done."""
    readable = np.flatnonzero(records["state"] == 2)
    files, pixels = (number(records[name][readable]) for name in ("file", "pixels"))
    known = (records["file"][readable] != 0).any(1)  # arrays in memory have no file
    _, first = np.unique(pixels, return_index=True)  # of equal pixels one is compared
    able = comparable(records, readable[first])
    pairs, compared = near(records["grey"], records["chroma"], readable[first][able], seed, show)
    near_group = components(len(records), pairs)
    group = np.full(len(records), -1)
    _, joined = np.unique(near_group[readable[first]][pixels], return_inverse=True)
    group[readable] = joined
    counts = np.bincount(joined)
    group[readable[counts[joined] < 2]] = -1
    alone = group < 0
    _, begin, inverse = np.unique(group[~alone], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(begin, kind="stable"), kind="stable")
    group[~alone] = rank[inverse]
    same = np.arange(len(records))
    same[readable] = readable[first][pixels]
    found, kinds = Duplicates(group, [""] * len(begin), compared, same, pairs), []
    by_place = {name: np.full(len(records), -1) for name in ("file", "pixels")}
    by_place["file"][readable] = np.where(known, files, -1)
    by_place["pixels"][readable] = pixels
    for members in found.members():
        one_file, one_image = (len(np.unique(by_place[name][members])) == 1 for name in ("file", "pixels"))
        kinds.append("bytes" if one_file and by_place["file"][members[0]] >= 0 else "pixels" if one_image else "near")
    return replace(found, kind=kinds)


def number(digests: np.ndarray) -> np.ndarray:
    """(n,) a number for each of (n, 2) digests, equal where these are."""
    flat = np.ascontiguousarray(digests).view([("a", "u8"), ("b", "u8")])[:, 0]
    return np.unique(flat, return_inverse=True)[1].reshape(-1)


def comparable(records: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(m,) bool: those of the places whose images show something."""
    some = np.empty(len(places), bool)
    for begin in range(0, len(places), 65536):
        part = places[begin : begin + 65536]
        sides = np.minimum(records["width"][part], records["height"][part])
        some[begin : begin + 65536] = (records["grey"][part].reshape(len(part), -1).std(1) >= FLAT) & (sides >= SMALLEST)
    return some


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """(count,) the number of the connected component that each is in."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


# ---------------------------------------------------------------- near ones


def near(
    grey: np.ndarray, chroma: np.ndarray, places: np.ndarray, seed: int, show: Callable[[float], None]
) -> tuple[np.ndarray, int]:
    """((p, 2) pairs of places that show the same, how many were compared). grey, chroma: as in the records of all images."""
    coarse = frequencies(grey, places, waves(5), np.float32, np.ones((5, 5), np.float32))
    fine = frequencies(grey, places, waves(8), np.float16, weights(8))
    found, compared, done = [np.empty((0, 2), int)], 0, 0
    cells = list(compare(coarse, seed))
    for rows, columns in cells:
        compared += len(rows) * len(columns)
        one, other = candidates(coarse, fine, rows, columns)
        for begin in range(0, len(one), 512):
            a, b = places[one[begin : begin + 512]], places[other[begin : begin + 512]]
            fits = alike(grey[a], grey[b], chroma[a], chroma[b])
            found.append(np.stack([a[fits], b[fits]], 1))
        done += len(rows)
        show(done / max(sum(len(rows) for rows, _ in cells), 1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0), compared


def frequencies(grey: np.ndarray, places: np.ndarray, wave: np.ndarray, kind: type, weight: np.ndarray) -> np.ndarray:
    """(m, side^2 - 1) the lowest frequencies of thumbnails but the mean, weighted, of length 1. wave: (side, GREY); weight: (side, side)."""
    found = np.empty((len(places), weight.size - 1), kind)
    for begin in range(0, len(places), 65536):
        part = (wave @ grey[places[begin : begin + 65536]].astype(np.float32) @ wave.T) * weight
        flat = part.reshape(len(part), -1)[:, 1:]
        found[begin : begin + 65536] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return found


def compare(vectors: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, columns): the images (by number) of which each of the former is to be compared with each of the latter."""
    count = len(vectors)
    if count <= FEW:
        yield np.arange(count), np.arange(count)
        return
    pivots = vectors[np.sort(np.random.default_rng(seed).choice(count, round(count**0.5), replace=False))]
    nearest = np.empty((count, PROBES), np.int32)
    step = max(1, BLOCK // len(pivots))
    for begin in range(0, count, step):
        close = vectors[begin : begin + step] @ pivots.T
        some = np.argpartition(-close, PROBES - 1, axis=1)[:, :PROBES]
        order = np.argsort(-np.take_along_axis(close, some, 1), axis=1)
        nearest[begin : begin + step] = np.take_along_axis(some, order, 1)
    own, probing = np.argsort(nearest[:, 0], kind="stable"), np.argsort(nearest.reshape(-1), kind="stable")
    begins = np.searchsorted(nearest[own, 0], np.arange(len(pivots) + 1))
    asked = np.searchsorted(nearest.reshape(-1)[probing], np.arange(len(pivots) + 1))
    for cell in range(len(pivots)):
        columns = own[begins[cell] : begins[cell + 1]]
        if len(columns):
            yield probing[asked[cell] : asked[cell + 1]] // PROBES, columns


def candidates(coarse: np.ndarray, fine: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (one, other) that the frequencies leave: of each row the NEAREST columns."""
    ones, others = [], []
    step = max(1, BLOCK // max(len(columns), 1))
    for begin in range(0, len(rows), step):
        part = rows[begin : begin + step]
        at, to = np.nonzero(coarse[part] @ coarse[columns].T >= PROPOSE)
        one, other = part[at], columns[to]
        keep = one != other
        one, other = one[keep], other[keep]
        close = np.concatenate([
            np.einsum("ij,ij->i", fine[one[k : k + 65536]].astype(np.float32), fine[other[k : k + 65536]].astype(np.float32))
            for k in range(0, len(one), 65536)
        ] or [np.empty(0, np.float32)])  # fmt: skip
        keep = close >= DISPOSE
        one, other, close = one[keep], other[keep], close[keep]
        order = np.lexsort((-close, one))
        one, other = one[order], other[order]
        rank = np.arange(len(one)) - np.searchsorted(one, one)
        ones.append(one[rank < NEAREST])
        others.append(other[rank < NEAREST])
    return (np.concatenate(ones), np.concatenate(others)) if ones else (np.empty(0, int), np.empty(0, int))


def alike(one: np.ndarray, other: np.ndarray, colour: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(p,) bool of pairs of thumbnails (p, GREY, GREY) and (p, 2, CHROMA, CHROMA): whether the other is the one, or cut out of it.

    Either image of a pair is the one once: each lies in the cell of the other, but for rare pairs of which one is known from one side alone.
    """
    within = fit(one, other) >= DECIDE
    a, b = colour.astype(np.float32), colours.astype(np.float32)
    apart = np.abs(a - b).mean((1, 2, 3))
    colourful = np.maximum(np.abs(a), np.abs(b)).mean((1, 2, 3))
    return within & (apart <= COLOUR[0] + COLOUR[1] * colourful)


def fit(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(p,) the best correlation of `part` with any window of `whole`, both (p, GREY, GREY)."""
    cut = whole.reshape(len(whole), -1).astype(np.float32) @ windows()
    cut = cut.reshape(len(whole), -1, GREY * GREY)
    seen = part.reshape(len(part), -1).astype(np.float32) @ emphasis()
    length = np.linalg.norm(cut, axis=2) * np.linalg.norm(seen, axis=1)[:, None]
    return ((cut @ seen[:, :, None])[:, :, 0] / np.maximum(length, 1e-6)).max(1)


def waves(side: int) -> np.ndarray:
    """(side, GREY) the orthonormal cosines of the lowest frequencies."""
    found = np.sqrt(2 / GREY) * np.cos(np.pi * (2 * np.arange(GREY) + 1) * np.arange(side)[:, None] / (2 * GREY))
    found[0] /= np.sqrt(2)
    return found.astype(np.float32)


def weights(side: int) -> np.ndarray:
    """(side, side): frequency f is emphasised by f exp(-(f / 8)^2).

    Photographs have amplitudes of 1 / f, so that any two skies correlate by their lowest frequencies: details count more, as copies share them, and
    the finest less, as compression and crops change them.
    """
    frequency = np.hypot(*np.indices((side, side)))
    return (frequency * np.exp(-((frequency / 8) ** 2))).astype(np.float32)


@cache
def emphasis() -> np.ndarray:
    """(GREY^2, GREY^2): takes the mean off a thumbnail and emphasises its frequencies."""
    wave = np.einsum("uy,vx->uvyx", waves(GREY), waves(GREY)).reshape(GREY * GREY, -1)
    return wave.T @ (weights(GREY).reshape(-1, 1) * wave)


@cache
def windows() -> np.ndarray:
    """(GREY^2, w * GREY^2): from a thumbnail to those of its w windows, itself among them, by linear interpolation, emphasised."""
    boxes = [(0.0, 0.0, 1.0)] + [((1 - zoom) * y, (1 - zoom) * x, zoom) for zoom in ZOOMS for y in SHIFTS for x in SHIFTS]

    def along(start: float, length: float) -> np.ndarray:
        at = np.clip((start + length * (np.arange(GREY) + 0.5) / GREY) * GREY - 0.5, 0, GREY - 1)
        below = np.minimum(np.floor(at).astype(int), GREY - 2)
        taken = np.zeros((GREY, GREY), np.float32)
        taken[np.arange(GREY), below] = 1 - (at - below)
        taken[np.arange(GREY), below + 1] += at - below
        return taken

    each = [np.einsum("yi,xj->ijyx", along(top, zoom), along(left, zoom)).reshape(GREY * GREY, -1) for top, left, zoom in boxes]
    return np.concatenate([window @ emphasis() for window in each], 1)


__all__ = ["CHROMA", "Duplicates", "find"]
