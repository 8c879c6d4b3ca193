"""Features of the whole training set, for methods that assign clusters: embedded by all ranks, gathered on the first."""

from __future__ import annotations

import torch
import torch.distributed as dist

from .. import data
from ..config import RunConfig
from ..methods._base import Method
from ..methods._ranks import shares, side_group
from .agreement import Ranks


def embed(config: RunConfig, method: Method, source: data.Source, device: torch.device, ranks: Ranks) -> torch.Tensor:
    """(N, D) features of the whole training set in id order on rank 0, (0, D) on the others; broken images are given the mean.

    To be called by every rank. Each takes whole batches of eval.batch_size, so that the features are bit for bit those of one rank.
    """
    from ..evaluation.common.features import features_of

    size, count = config.eval.batch_size, len(source.train)
    part = shares(-(-count // size), ranks.world)[ranks.rank]
    own = range(part.start * size, min(part.stop * size, count))
    rows, ids = features_of(config, method, source.train, own, device) if own else (torch.empty(0, 0), torch.empty(0).long())
    parts = ranks.all((len(rows), rows.shape[1]))
    width = max(dim for _, dim in parts)
    if ranks.rank:
        if own:
            dist.send(rows.contiguous(), 0, group=side_group())
            dist.send(ids, 0, group=side_group())
        return torch.empty(0, width, device=device)
    found, known = torch.empty(sum(n for n, _ in parts), width), torch.empty(sum(n for n, _ in parts), dtype=torch.long)
    start = 0
    for rank, (n, _) in enumerate(parts):
        if rank == 0:
            found[:n], known[:n] = rows, ids
        elif n:
            dist.recv(found[start : start + n], rank, group=side_group())
            dist.recv(known[start : start + n], rank, group=side_group())
        start += n
    if len(found) == count:
        return found.to(device)
    features = found.mean(0).repeat(count, 1)
    features[known] = found
    return features.to(device)
