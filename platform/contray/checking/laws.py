"""The laws that a method keeps, held against what its steps gave: each function returns what is wrong, nothing where all is well.

The steps are those of `steps.some_steps`; `alone` are they on one rank. Exact means to 1e-9 in double precision.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..config import RunConfig
from ..methods._base import Method
from ..methods._norms import BatchNorm
from ..model.chunks import divide
from .findings import Wrong
from .gaps import Gap, gaps
from .places import line_of
from .steps import evaluation_inputs, some_steps

EXACT = 1e-9
GATHER = "gather(x, batch.size) of contray.methods"


def same_on_ranks(together: Sequence[Mapping[str, Any]], alone: Mapping[str, Any], file: str = "") -> list[Wrong]:
    """Losses, gradients, buffers and weights of each rank against those of one alone."""
    world = len(together)
    for rank, found in enumerate(together):
        for step in range(len(found["steps"])):
            ours, theirs = found["steps"][step], alone["steps"][step]
            values = list(gaps(ours["values"], theirs["values"], EXACT, EXACT))
            if values:
                return [_of_values(values, world, step, file)]
            gradients = list(gaps(ours["gradients"], theirs["gradients"], EXACT, EXACT))
            if gradients:
                return [_of_gradients(gradients, world, step, file)]
            states = list(gaps(found["states"][step], alone["states"][step], EXACT, EXACT))
            if states:
                return [_of_states(states, world, rank, step, file)]
    return []


def _of_values(found: Sequence[Gap], world: int, step: int, file: str) -> Wrong:
    line = line_of(file, "loss")
    loss = next((gap for gap in found if gap.path == ("loss",)), None)
    if loss is None:
        name = found[0].path[0] if found[0].path else "what the loss returns"
        return Wrong(
            f"the metric {name} of step {step + 1} is {found[0].size} on {world} ranks",
            "what `loss` returns are shares, which are summed over ranks: divide a sum over own rows by batch.size, "
            "and what every rank computes whole by world_size()",
            line,
        )
    values = f"the loss of step {step + 1} is {loss.actual.item():.6g} on {world} ranks and {loss.expected.item():.6g} on one"
    times = next(
        (gap for gap in found if gap.expected.item() and abs(gap.actual.item() / gap.expected.item() / world - 1) < 0.1), None
    )
    if step == 0 and times is not None:
        part = "" if times is loss else f"{times.path[0]} is "
        return Wrong(
            f"{values}: {part}about {world} times as much, as it is where it is divided by this rank's rows or computed whole on every rank",
            "the ranks' losses are summed: divide a sum over own rows by batch.size (not by len(x), not .mean()), and what every rank "
            "computes whole by world_size() of contray.methods",
            line,
        )
    if step == 0:
        return Wrong(
            f"{values}: a row meets other rows on several ranks than on one, such as negatives or statistics of this rank alone",
            f"compare with the rows of the whole batch, {GATHER}, where row i stands at place batch.slot[i]; "
            "norms over the batch are BatchNorm of contray.methods; draws per row come from batch.rand(name, shape), those that all rows share from batch.draw",
            line,
        )
    return Wrong(
        f"{values}, though the first was the same", "what `update` remembers must be the same on any number of ranks", line
    )


def _of_gradients(found: Sequence[Gap], world: int, step: int, file: str) -> Wrong:
    gap = found[0]
    factors = {round(each.factor, 6) for each in found}
    off = f", {gap.factor:.4g} times that on one" if len(factors) == 1 and gap.factor else ""
    return Wrong(
        f"the loss of step {step + 1} is the same on {world} ranks and on one, the gradient of {gap.path[0]} is not{off} ({gap.size})",
        f"gathers must pass gradients on: {GATHER} does, torch.distributed.all_gather does not; sums over ranks are total(x)",
        line_of(file, "loss"),
    )


def _of_states(found: Sequence[Gap], world: int, rank: int, step: int, file: str) -> Wrong:
    gap = found[0]
    name = gap.path[-1] if gap.path[0] == "method" else "/".join(gap.path)
    return Wrong(
        f"loss and gradients of step {step + 1} are the same on {world} ranks and on one, {name} is not afterwards (rank {rank}: {gap.size})",
        f"`update` writes from the rows of the whole batch: {GATHER} first, in slot order",
        line_of(file, "update") or line_of(file, name.split(".")[0]),
    )


def equal_buffers(together: Sequence[Mapping[str, Any]], names: Sequence[str], file: str = "") -> list[Wrong]:
    """Buffers, bit for bit, on all ranks; names: of the method's buffers, of which those that are in no state are constant."""
    first, *others = [found["states"][-1]["method"] for found in together]
    return [
        Wrong(
            f"the buffer {name} is not the same on all of {len(together)} ranks",
            f"buffers are written by `update` alone, from gathered values: {GATHER}",
            line_of(file, "update") or line_of(file, name),
        )
        for name in sorted(set(names) & first.keys())
        if not all(torch.equal(first[name], other[name]) for other in others)
    ]


def graphless(names: Sequence[str], file: str = "") -> list[Wrong]:
    """Parameters and buffers are leaves after some steps; names: of those that are not. Memory grows with every step else."""
    return [
        Wrong(
            f"{name} drags the graph of every step along that was made",
            "write what stays from step to step under torch.no_grad(), from detached values",
            line_of(file, "update") or line_of(file, name.partition(".")[0]),
        )
        for name in names
    ]


def finite(steps: Sequence[Mapping[str, Any]], file: str = "") -> list[Wrong]:
    """Losses, metrics and gradients that are numbers."""
    for number, step in enumerate(steps, 1):
        for name, value in step["values"].items():
            if not value.isfinite():
                what = "the loss" if name == "loss" else f"the metric {name}"
                return [
                    Wrong(
                        f"{what} of step {number} is {value.item():g}",
                        "look for a division by zero, a log or a root of it",
                        line_of(file, "loss"),
                    )
                ]
        for name, grad in step["gradients"].items():
            if grad is not None and not grad.isfinite().all():
                mend = "the loss is finite, its derivative is not: a root or a norm of zero, such as of x - x, needs an epsilon within"
                return [Wrong(f"the gradient of {name} in step {number} is not finite", mend, line_of(file, "loss"))]
    return []


def trained(steps: Sequence[Mapping[str, Any]], file: str = "") -> list[Wrong]:
    """Every parameter that wants a gradient gets one in some step."""
    dead = [
        name
        for name in steps[0]["gradients"]
        if not any((grad := step["gradients"][name]) is not None and grad.abs().sum() > 0 for step in steps)
    ]
    found: dict[str, list[str]] = {}
    for name in dead:
        found.setdefault(name.split(".")[0], []).append(name)
    return [
        Wrong(
            f"{names[0]}{f' and {len(names) - 1} more of {part}' if len(names) > 1 else ''} gets no gradient: the loss does not depend on it",
            "use it in the loss, or leave it out; an average network or a fixed one is made with .requires_grad_(False), and the average "
            "one is named in ema_pairs()",
            line_of(file, part),
        )
        for part, names in found.items()
    ]


def goes_on(config: RunConfig, whole: Mapping[str, Any], why: Callable[[], str] = str, file: str = "") -> list[Wrong]:
    """From the state after each step the rest is bit-equal. why: what may be behind it, in words."""
    for cut in range(1, len(whole["states"])):
        rest = some_steps(0, 1, config, range(cut, len(whole["states"])), whole["states"][cut - 1])
        found = [*gaps(rest["steps"], whole["steps"][cut:], 0, 0), *gaps(rest["states"], whole["states"][cut:], 0, 0)]
        if found:
            told = why()
            return [
                Wrong(
                    f"gone on from a checkpoint after step {cut}, step {cut + 1} is another ({found[0]})"
                    + (f": {told}" if told else ""),
                    "whatever changes while it trains is a parameter, a persistent buffer (register_buffer) or a function of the clock",
                    line_of(file, told.split(" ")[0].removeprefix("self.")) if told else 0,
                )
            ]
    return []


def whole_in_chunks(config: RunConfig, method: Method, file: str = "") -> list[Wrong]:
    """One step represented in chunks against the whole; config: of 24 rows in 8 norm groups."""
    whole = some_steps(0, 1, config, range(1))
    size, groups = config.train.batch_size, config.train.norm_groups
    for limit, chunks in ((size // 2, 2), (size // groups, groups)):
        if len(divide(method, size, groups, limit, 1, 0)) != chunks:
            return [Wrong(f"{limit} rows at a time are not {chunks} chunks of {size} rows")]
        found = list(gaps(some_steps(0, 1, config.replace({"scale.max_batch_per_worker": limit}), range(1)), whole, EXACT, EXACT))
        if found:
            return [_of_chunks(found[0], chunks, method, file)]
    return []


def _of_chunks(gap: Gap, chunks: int, method: Method, file: str) -> Wrong:
    if not method.couples:
        mend = "couples = False says that the loss is a sum over rows, divided by batch.size: leave it at True where rows meet"
        return Wrong(f"in {chunks} chunks the step is another ({gap})", mend, line_of(file, "couples"))
    mend = "`represent` treats each row by itself and writes nothing; what compares rows, and heads, stand in `loss`; draws come from batch.rand and batch.draw"
    return Wrong(f"represented in {chunks} chunks the step is another ({gap})", mend, line_of(file, "represent"))


def exact_copies(method: Method, declared: str = "optional", file: str = "") -> list[Wrong]:
    """Average networks start as their online ones and are trained by nothing; declared: what PAPER.ema says."""
    pairs, line = list(method.ema_pairs()), line_of(file, "ema_pairs")
    found = []
    if declared != "optional" and bool(pairs) != (declared != "no"):
        words = f"PAPER says EMA {declared!r}, and ema_pairs() gives {len(pairs)} pairs"
        found.append(Wrong(words, 'PAPER.ema is "no", "constant", "cosine to 1" or "optional"', line or line_of(file, "PAPER")))
    for online, target in pairs:
        ours, theirs = online.state_dict(), target.state_dict()
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
            found.append(
                Wrong(
                    "a target of ema_pairs() is no exact copy of its online network at the start",
                    "make it by copy.deepcopy",
                    line,
                )
            )
        if any(p.requires_grad for p in target.parameters()):
            found.append(
                Wrong("a target of ema_pairs() is trained by the optimiser too", "make it with .requires_grad_(False)", line)
            )
    return found


def forgotten_copies(method: Method, before: Mapping[str, torch.Tensor], file: str = "") -> list[Wrong]:
    """A frozen copy of a trained part which nothing moves; before: the state at the start, the method is some steps on."""
    after, targets = method.state_dict(), {id(target) for _, target in method.ema_pairs()}
    parts = {name: part for name, part in method.named_children() if any(True for _ in part.parameters())}
    shapes = {name: {key: value.shape for key, value in part.state_dict().items()} for name, part in parts.items()}
    found = []
    for name, part in parts.items():
        online = next(
            (
                other
                for other, twin in parts.items()
                if other != name and shapes[other] == shapes[name] and all(p.requires_grad for p in twin.parameters())
            ),
            "",
        )
        frozen = not any(p.requires_grad for p in part.parameters())
        weights = [f"{name}.{key}" for key, _ in part.named_parameters()]
        if online and frozen and id(part) not in targets and all(torch.equal(before[key], after[key]) for key in weights):
            words = f"{name} is a frozen copy of {online}, and nothing moves it"
            found.append(Wrong(words, f"name it in ema_pairs(): yield self.{online}, self.{name}", line_of(file, name)))
    return found


def encodes(config: RunConfig, method: Method, file: str = "") -> list[Wrong]:
    """(B, out_dim) features, finite, of each row by itself, the same again, and nothing is changed by it. The method is in evaluation mode."""
    line, inputs = line_of(file, "encode"), evaluation_inputs(config, 5)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with torch.no_grad():
        features = method.encode(inputs)
        if not isinstance(features, torch.Tensor) or features.shape != (5, method.out_dim):
            got = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            mend = "one row of features for each image; a method that gives others than its backbone's sets self.out_dim"
            return [Wrong(f"encode gives {got} of 5 images, must give (5, {method.out_dim})", mend, line)]
        found = [
            (not torch.equal(features, method.encode(inputs)), "encode gives the same images other features when asked again", "draw nothing in it"),
            (
                not torch.allclose(features[:2], method.encode({key: value[:2] for key, value in inputs.items()}), rtol=1e-4, atol=1e-5),
                "encode gives an image other features in other company", "leave out norms and comparisons over the batch",
            ),
            (not features.isfinite().all(), "encode gives features that are not finite", "look for a division by zero"),
            (
                not all(torch.equal(value, before[name]) for name, value in method.state_dict().items()),
                "encode changes buffers or weights", "only `update` writes",
            ),
            (not set(method.taps(inputs)) >= {"backbone"}, "taps() has no `backbone`", "call the inherited taps, and add to what it gives"),
        ]  # fmt: skip
    return [Wrong(words, mend, line) for bad, words, mend in found if bad]


def own_buffers(method: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All buffers but those of batch norm."""
    theirs = {id(buffer) for layer in method.modules() if isinstance(layer, BatchNorm) for buffer in layer.buffers(recurse=False)}
    return ((name, buffer) for name, buffer in method.named_buffers() if id(buffer) not in theirs)


def copies(method: Method) -> list[Wrong]:
    """It can be copied, as trials and average networks are."""
    try:
        copy.deepcopy(method)
    except (Exception, SystemExit) as error:
        return [
            Wrong(
                f"it cannot be copied by copy.deepcopy ({type(error).__name__}: {error})",
                "keep files, locks and generators out of it",
            )
        ]
    return []
