"""Weighted k-NN on frozen features (Wu et al. 2018, https://arxiv.org/abs/1805.01978, section 3.4): exact, in bounded memory.

Legend of shapes: N bank rows, M queries, D features, k neighbours, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ._base import ROWS, Citation, Features, Measured, Parts, Subject, setting

ABOUT = "k-NN vote of frozen features, beside the untrained encoder's and raw pixels'; nothing is trained, nothing is chosen"
PAPER = Citation(
    "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018, "https://arxiv.org/abs/1805.01978"
)
NEEDS = ("labels",)
METRICS = ("knn_val_top1",)


@dataclass(frozen=True)
class Config:
    """Keys eval.knn.*."""

    k: int = setting(200, "neighbours that vote", ge=1)
    temperature: float = setting(0.07, "temperature of the votes", gt=0)
    embedding: bool = setting(False, "of what the loss compares too, as InstDisc and InvaSpread publish it: knn_embedding_top1")


def evaluate(subject: Subject, options: Config) -> Measured:
    """{prefix}knn_val_top1 of held-out images by those that fit and, where the test set is opened, {prefix}knn_top1 by both.

    With eval.knn.embedding also {prefix}knn_embedding_val_top1 and _top1, of encoders. Raises ConfigError where nothing stands behind the features.
    """
    from .common.protocol import beside

    device = None if subject.online else subject.device  # its memory is full while a method trains

    def hits(encoder: str, parts: Parts) -> tuple[Tensor, Tensor | None]:
        fit, val, test = parts.fit, parts.val, parts.test
        assert fit.y is not None
        assert val.y is not None

        def right(bank: Sequence[Tensor], labels: Tensor, asked: Features) -> Tensor:
            return asked.y == knn_predict(
                bank, labels, asked.x, k=options.k, temperature=options.temperature, classes=subject.classes, device=device
            )

        held = right([fit.x], fit.y, val)  # (M,)
        return held, None if test is None else right([fit.x, val.x], torch.cat([fit.y, val.y]), test)

    found = beside(subject, "knn", hits)
    if not options.embedding:
        return found
    metrics = {**found, **found.about}
    for prefix in subject.encoders:
        if prefix != "pixels_":
            held, tested = hits(prefix, _embedded(subject, prefix))
            metrics[f"{prefix}knn_embedding_val_top1"] = held.double().mean().item()
            metrics |= {} if tested is None else {f"{prefix}knn_embedding_top1": tested.double().mean().item()}
    return Measured(metrics)


def _embedded(subject: Subject, prefix: str) -> Parts:
    """The features of an encoder, as its loss compares them."""
    method, parts = subject.untrained if prefix else subject.method, subject.features(prefix)

    def of(part: Features) -> Features:
        return replace(part, x=torch.cat([subject.diagnosis.embed(method, rows) for rows in part.x.split(ROWS)]))

    found = Parts(of(parts.fit), of(parts.val), None if parts.test is None else of(parts.test))
    if found.fit.x.shape == parts.fit.x.shape and torch.equal(found.fit.x, parts.fit.x):
        raise ConfigError("eval.knn.embedding", f"got true, but the loss of {subject.config.method.name} compares its features")
    return found


BLOCK = 8  # columns whose maximum decides whether they are looked at again
PLACE_BYTES = 12  # of a neighbour: its similarity and its row
QUERY_ROWS = 256  # enough rows for a matrix product at full speed, few enough that wide pieces of the bank fit beside them


@overload
def knn_predict(
    bank: Tensor | Sequence[Tensor],
    bank_labels: Tensor,
    queries: Tensor,
    *,
    k: int = 200,
    temperature: float = 0.07,
    classes: int,
    chunk_bytes: int = 256_000_000,
    device: torch.device | str | None = None,
) -> Tensor: ...
@overload
def knn_predict(
    bank: Tensor | Sequence[Tensor],
    bank_labels: Tensor,
    queries: Tensor,
    *,
    k: tuple[int, ...],
    temperature: float = 0.07,
    classes: int,
    chunk_bytes: int = 256_000_000,
    device: torch.device | str | None = None,
) -> dict[int, Tensor]: ...
@torch.no_grad()
def knn_predict(
    bank: Tensor | Sequence[Tensor],
    bank_labels: Tensor,
    queries: Tensor,
    *,
    k: int | tuple[int, ...] = 200,
    temperature: float = 0.07,
    classes: int,
    chunk_bytes: int = 256_000_000,
    device: torch.device | str | None = None,
) -> Tensor | dict[int, Tensor]:
    """The class of each query (M,) int64: its k nearest bank rows by cosine similarity s vote with weight exp(s / temperature).

    bank (N, D), or several that follow one another, and queries (M, D) need not be normalised; bank_labels (N,) int64 in [0, classes). A k above
    N means N. Of bank rows that are exactly as near, the earlier one counts first. Several k at once give a dict by k. Work is done on `device`
    (default: the bank's) in pieces of at most `chunk_bytes`, so neither the (M, N) similarities nor copies of the features are
    ever held whole, and a mapped bank is read once for as many queries as find their neighbours' place in `chunk_bytes`.

    Raises ValueError for shapes or labels that do not fit.
    """
    ks, banks = k if isinstance(k, tuple) else (k,), [bank] if isinstance(bank, Tensor) else list(bank)
    size = _check(banks, bank_labels, queries, ks, classes)
    device = torch.device(device) if device is not None else banks[0].device
    norms = [torch.linalg.vector_norm(each, dim=1) for each in banks]
    scale = torch.cat(norms).float().clamp_min(1e-12).reciprocal().to(device)  # (N,)
    labels = bank_labels.to(device)
    rows, columns = tile(len(queries), queries.shape[1], chunk_bytes)
    most = min(max(ks), size)
    predictions: dict[int, list[Tensor]] = {each: [] for each in ks}
    for group in queries.split(rows * max(1, chunk_bytes // (rows * most * PLACE_BYTES))):
        found = _search(group.split(rows), banks, scale, most, columns)
        for similarity, neighbours in found:  # (rows, k), nearest first
            weights = ((similarity - similarity[:, :1]).double() / temperature).exp()  # relative to the nearest: cannot overflow
            voters = labels[neighbours]
            for each in ks:
                votes = weights.new_zeros(len(weights), classes).scatter_add_(1, voters[:, :each], weights[:, :each])  # (rows, C)
                predictions[each].append(votes.argmax(1).to(bank_labels.device))
    result = {each: torch.cat(parts) for each, parts in predictions.items()}
    return result if isinstance(k, tuple) else result[k]


def knn_top1(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    *,
    k: int = 200,
    temperature: float = 0.07,
    classes: int,
    device: torch.device | str | None = None,
) -> float:
    """Share of the queries (M, D) whose k-NN class is their label (M,), in [0, 1]; see `knn_predict`. Raises ValueError where M is 0."""
    if not len(queries):
        raise ValueError("no queries: top-1 of no image is no number")
    predicted = knn_predict(bank, bank_labels, queries, k=k, temperature=temperature, classes=classes, device=device)
    return (predicted == labels.to(predicted.device)).double().mean().item()


def tile(queries: int, dim: int, chunk_bytes: int) -> tuple[int, int]:
    """Query rows and bank columns that are compared at once within `chunk_bytes`.

    A similarity costs 4 bytes, and 16 more where exact ties at the k-th place make us sort whole rows; a bank feature costs 4 for
    its copy on the device, a query's 8 (it is normalised as well).
    """
    rows = max(1, min(queries, QUERY_ROWS, chunk_bytes // (32 * dim)))
    columns = (chunk_bytes - 8 * rows * dim) // (20 * rows + 4 * dim)
    return rows, max(1, columns)


def _search(
    queries: Sequence[Tensor], banks: Sequence[Tensor], scale: Tensor, k: int, columns: int
) -> list[tuple[Tensor, Tensor]]:
    """For each (rows, D) of queries similarities and bank rows of the k nearest, both (rows, k): nearest first, of equally near ones the earlier first."""
    best = [(scale.new_empty(len(query), 0), scale.new_empty(len(query), 0, dtype=torch.int64)) for query in queries]
    for start in range(0, len(scale), columns):
        piece = _rows(banks, start, start + columns).to(scale.device).float()  # (columns, D)
        for number, (query, (known, ids)) in enumerate(zip(queries, best, strict=True)):
            query = F.normalize(query.to(scale.device).float(), dim=1)  # (rows, D)
            similarity = (query @ piece.T).mul_(scale[start : start + columns])  # (rows, columns)
            values, found = _nearest(similarity, min(k, len(piece)))
            values, order = torch.cat([known, values], 1).sort(dim=1, descending=True, stable=True)  # earlier pieces stand first
            best[number] = values[:, :k].clone(), torch.cat([ids, found + start], 1).gather(1, order)[:, :k].clone()
    return best


def _rows(banks: Sequence[Tensor], start: int, stop: int) -> Tensor:
    """Rows of the banks as if they were one."""
    found, first = list[Tensor](), 0
    for bank in banks:
        found.append(bank[max(start - first, 0) : max(stop - first, 0)])
        first += len(bank)
    found = [rows for rows in found if len(rows)]
    return found[0] if len(found) == 1 else torch.cat(found)


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, of equal ones the leftmost; `topk` alone picks among equals as it likes."""
    values, ids = _largest(similarity, min(k + 1, similarity.shape[1]))
    ids = ids[:, :k]
    if values.shape[1] > k:
        tied = values[:, k] == values[:, k - 1]  # the k-th place is contested
        if tied.any():
            ids[tied] = similarity[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
    ids = ids.sort(dim=1).values
    values, order = similarity.gather(1, ids).sort(dim=1, descending=True, stable=True)
    return values, ids.gather(1, order)


def _largest(similarity: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `topk`: the `count` largest of each row and where they stand. Most of a long row is looked at only once, for maxima.

    Of blocks of columns, the `count` with the largest maxima hold the `count` largest values: what lies elsewhere is no larger
    than any of these maxima.
    """
    rows, columns = similarity.shape
    stride = columns // BLOCK  # a block is every stride-th column, so that its maximum is of whole rows of memory
    if stride <= count:
        return similarity.topk(count, dim=1)
    maxima = similarity[:, : BLOCK * stride].view(rows, BLOCK, stride).amax(1)  # (rows, stride)
    first = maxima.topk(count, dim=1, sorted=False).indices  # (rows, count)
    ids = (first[:, None] + stride * torch.arange(BLOCK, device=first.device)[:, None]).flatten(1)  # (rows, BLOCK * count)
    rest = torch.arange(BLOCK * stride, columns, device=ids.device).expand(rows, -1)  # what no block has
    ids = torch.cat([ids, rest], 1)
    values, order = similarity.gather(1, ids).topk(count, dim=1)
    return values, ids.gather(1, order)


def _check(banks: Sequence[Tensor], bank_labels: Tensor, queries: Tensor, ks: tuple[int, ...], classes: int) -> int:
    """N, where all fits."""
    shapes, size = [tuple(bank.shape) for bank in banks], sum(map(len, banks))
    if queries.ndim != 2 or any(len(shape) != 2 or shape[1] != queries.shape[1] for shape in shapes) or not size:
        raise ValueError(
            f"the bank must be (N, D) with N > 0 and the queries (M, D), got {' and '.join(map(str, shapes))} and {tuple(queries.shape)}"
        )
    if bank_labels.shape != (size,) or not 0 <= int(bank_labels.min()) <= int(bank_labels.max()) < classes:
        raise ValueError(f"bank_labels must hold {size} classes in [0, {classes}), got shape {tuple(bank_labels.shape)}")
    if not ks or min(ks) < 1:
        raise ValueError(f"k must be at least 1, got {ks}")
    return size
