"""What all ranks must agree on: decided once, told to all, and compared before anything is saved.

Everything here goes over gloo and CPU tensors, beside the gradients' group: it neither waits for the accelerator nor gives up after
minutes while one rank measures, reads or embeds.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..data import GlobalBatches
from ..errors import DataError, OnAllRanks, UserError
from ..methods._base import Method
from ..methods._ranks import side_group, world_size
from ..model.sharding import Sharded
from .finite import MENDING, NEVER, NON_FINITE, NonFiniteLoss, NonFiniteState

T = TypeVar("T")


class RanksDiffer(OnAllRanks):
    """Ranks hold, see or read what differs although it must not."""


class DataRefused(DataError, OnAllRanks):
    """The data that the ranks have met together are refused."""


class Ranks:
    """The ranks of the process group, or this process alone."""

    def __init__(self) -> None:
        self.world = world_size()
        self.rank = dist.get_rank() if self.world > 1 else 0

    def all(self, value: T) -> list[T]:
        """Each rank's value, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=side_group())
        return values

    def first(self, compute: Callable[[], T]) -> T:
        """What `compute()` gives on rank 0, on every rank; so with a UserError. Another error there is rank 0's own: the others end with the group."""
        if self.world == 1:
            return compute()
        told: list[Any] = [None]
        if self.rank == 0:
            try:
                told = [compute()]
            except UserError as error:
                told = [error]
        dist.broadcast_object_list(told, 0, group=side_group())
        if isinstance(told[0], UserError):
            raise told[0]
        return told[0]

    def most(self, values: Sequence[int] | Tensor) -> Tensor:
        """(n,) int64: the largest value at each place over ranks, on the CPU."""
        most = torch.as_tensor(values, dtype=torch.int64).cpu()
        if self.world > 1:
            dist.all_reduce(most, dist.ReduceOp.MAX, group=side_group())
        return most

    def refuse(self, problem: str) -> None:
        """Raises RanksDiffer on every rank where any has a problem, naming it and its host."""
        told = [
            f"rank {rank} on {host} {words}"
            for rank, (words, host) in enumerate(self.all((problem, socket.gethostname())))
            if words
        ]
        if told:
            raise RanksDiffer(f"the workers do not agree: {'; '.join(told[:3])}{f', and {len(told) - 3} more' * (len(told) > 3)}")


def same_data(ranks: Ranks, fingerprint: Mapping[str, str]) -> None:
    """Raises RanksDiffer, on every rank, where the data or the libraries of one are not those of rank 0."""
    theirs = ranks.all(fingerprint)[0]
    changed = [f"{key} {value} instead of {theirs.get(key)}" for key, value in fingerprint.items() if theirs.get(key) != value]
    ranks.refuse(f"sees other data or libraries than rank 0 ({', '.join(changed)})" if changed else "")


# ---------------------------------------------------------------- before each step


def caught(stream: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], UserError | None]]:
    """The batches, and what ends them if it is for all ranks to hear."""
    try:
        for raw in stream:
            yield raw, None
    except UserError as error:
        yield {"broken": {}}, error


def meet(
    ranks: Ranks, met: Mapping[int, str], error: UserError | None, save: bool, stop: bool, end: UserError | None
) -> tuple[bool, bool, dict[int, str]]:
    """What ranks tell each other before a step: whether it ends in a checkpoint, whether it is the last, and all broken images newly met.

    met: the broken images (id: reason) that this rank met in loading its rows; error: why it has none; save, stop, end: what rank 0 asks
    for, or has to end the run with. Raises one rank's error on all.
    """
    error = error or end
    failed, news, saves, stops = ranks.most([error is not None, len(met), save, stop]).tolist()
    if failed:
        error = next(each for each in ranks.all(error) if each is not None)
        raise DataRefused(str(error)) if isinstance(error, DataError) else error
    united = {i: reason for each in (ranks.all(met) if news else ()) for i, reason in each.items()}
    return bool(saves), bool(stops), united


def note(batches: GlobalBatches, broken: Mapping[int, str]) -> None:
    """Have the batches know of broken images that all ranks know; raises DataRefused where they are too many."""
    try:
        batches.note(broken)
    except DataError as error:
        raise DataRefused(str(error)) from None


# ---------------------------------------------------------------- the state


class State:
    """The tensors that a checkpoint is made of, to be compared between ranks by a checksum of each one's bits, where ranks have them in common."""

    def __init__(self, ranks: Ranks, method: Method, sharded: Sharded) -> None:
        self.ranks, self.method, self.sharded, self.optimizer = ranks, method, sharded, sharded.optimizer
        self.names = {param: name for name, param in method.named_parameters()}
        self.weights: dict[torch.device, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        """By name: `method.backbone.conv1.weight`, `optimizer.momentum_buffer of backbone.conv1.weight`."""
        found = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                for key, value in self.optimizer.state.get(param, {}).items():
                    if isinstance(value, Tensor):
                        found[f"optimizer.{key} of {self.names[param]}"] = value
        return found

    def check(self, step: int, bad: int, facts: Mapping[str, Any]) -> None:
        """Raises what forbids to save the state after `step`, on all ranks: NonFiniteLoss where any of them met loss or gradients that are no numbers
        (in step `bad`, or NEVER), RanksDiffer naming the first tensor or fact that differs, NonFiniteState.
        """
        tensors = self.tensors()
        common = {name: each for name, each in tensors.items() if not (self.sharded.shard and name.startswith("optimizer."))}
        told = {**{key: repr(value) for key, value in facts.items()}, "tensors": repr(list(common)), "groups": self._groups()}
        own = _number(repr(told))
        worst, *both = self.ranks.most([-bad, own, ~own]).tolist()
        if -worst < NEVER:
            raise NonFiniteLoss(-worst, f"{NON_FINITE}; {MENDING}")
        if both[0] != ~both[1]:
            first = self.ranks.all(told)[0]
            self.ranks.refuse(
                ", ".join(f"has {key} {told[key][:200]} instead of {first[key][:200]}" for key in told if told[key] != first[key])
            )
        if self.ranks.world > 1:
            sums = self._checksums(list(common.values()))
            most = self.ranks.most(torch.cat([sums, ~sums]))
            if bool((most[: len(sums)] != ~most[len(sums) :]).any()):
                self._name_the_differing(step, list(common), sums)
        strange = _not_finite(tensors)
        if self.sharded.shard:
            strange = next(filter(None, self.ranks.all(strange)), "")
        if strange:
            raise NonFiniteState(
                step, f"{strange} is not finite, although loss and gradients were; nothing of it is saved, the newest checkpoint is from before it. "
                "A lower optim.lr, optim.clip or train.precision fp32 may mend it"
            )  # fmt: skip

    def _groups(self) -> str:
        return repr([{key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups])

    def _name_the_differing(self, step: int, names: Sequence[str], sums: Tensor) -> None:
        first = self.ranks.all(sums)[0]
        differing = [name for name, same in zip(names, (sums == first).tolist(), strict=True) if not same]
        more = f" and {len(differing) - 1} more tensors" if len(differing) > 1 else ""
        self.ranks.refuse(
            f"has another {differing[0]}{more} than rank 0 after step {step}; nothing of it is saved" if differing else ""
        )

    @torch.no_grad()
    def _checksums(self, tensors: Sequence[Tensor]) -> Tensor:
        """(n,) int64 on the CPU: of each tensor a sum of its bits, weighted by their places, modulo 2^64.

        Weights are odd, so that one changed element always shows, and mixed, so that exchanged ones do.
        """
        return _collected([self._checksum(tensor) for tensor in tensors])

    def _checksum(self, tensor: Tensor) -> Tensor:
        bits = tensor.detach().reshape(-1).view(_INTEGERS[tensor.element_size()])
        if tensor.device not in self.weights:
            weights = torch.arange(1, PIECE + 1, device=tensor.device) * MIX
            self.weights[tensor.device] = (weights ^ (weights >> 31)) | 1
        weights = self.weights[tensor.device]
        total = torch.zeros((), dtype=torch.int64, device=tensor.device)
        for piece in bits.split(PIECE):
            total = total * MIX + (piece * weights[: len(piece)]).sum()
        return total


PIECE = 1 << 20  # elements that are summed at once: 8 MB
MIX = -7046029254386353131  # 2^64 divided by the golden ratio, as a signed number
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


@torch.no_grad()
def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first tensor that holds anything but numbers; empty where none does."""
    floats = {name: value for name, value in tensors.items() if value.is_floating_point() and value.numel()}
    largest = _collected([each.double() for each in torch._foreach_norm(list(floats.values()), float("inf"))] if floats else [])
    return next((name for name, fine in zip(floats, largest.isfinite().tolist(), strict=True) if not fine), "")


def _collected(values: Sequence[Tensor]) -> Tensor:
    """(n,) on the CPU of n scalars, by one copy from each device: AdamW's counts lie on the CPU."""
    found = torch.empty(len(values), dtype=values[0].dtype if values else None)
    for device in {each.device for each in values}:
        places = [i for i, each in enumerate(values) if each.device == device]
        found[places] = torch.stack([values[i] for i in places]).cpu()
    return found
