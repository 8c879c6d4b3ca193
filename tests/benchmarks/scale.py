"""What a step asks of other ranks, counted on two processes of this machine, and what that costs on 8, 64 and 512 GPUs by a stated model.

    PYTHONPATH=platform:. python tests/benchmarks/scale.py [--latency 15 40 60] [--gbs 300 25 25]

Counted: collectives and bytes of one step of SimCLR and MoCo with a ResNet-50, as tests/methods/test_collectives.py counts them. Measured: milliseconds
of a step on one H200 (records/gpu_speed.yaml). Assumed: microseconds of a collective and GB/s of each GPU's link on 8, 64 and 512 GPUs of eight a node;
the backward pass is two thirds of a step, and gradients hide behind it but for the last bucket. See docs/SCALE.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from contray.checking.steps import batch_of, begun, clock_of
from contray.config import RunConfig
from contray.methods import _ranks
from contray.model.chunks import divide
from contray.model.gradients import Gradients
from contray.training.step import forward_backward
from tests.ranks import run_ranks

WORLDS, BATCH, COUNTED = (8, 64, 512), 256, 8  # GPUs; images of one; images of the counted step, on two ranks
MEASURED = {"simclr": 256 / 2389, "moco": 256 / 3081}  # seconds of a step of 256 images, H200, bf16 (records/gpu_speed.yaml)
BACKWARD = 2 / 3  # of a step, behind which gradients are sent
CASES = {"SimCLR, one norm group": ("simclr", 1), "MoCo, one norm group": ("moco", 1), "MoCo, a group a rank": ("moco", 0)}


@dataclass(frozen=True)
class Call:
    """A collective. sent: bytes that this rank has of it; rows: whether they grow with the batch."""

    what: str
    sent: int
    rows: bool

    def seconds(self, world: int, latency: float, bandwidth: float) -> float:
        """As a ring: a gather passes every other rank's bytes on, a sum its own bytes twice, one of which each rank keeps its part (scatter) once."""
        sent = self.sent * (BATCH / (COUNTED / 2) if self.rows else 1)
        if self.what == "gather":
            return latency + (world - 1) * sent / bandwidth
        sent *= world / 2 if self.rows else 1  # of the gradients of all rows
        return latency + (1 if self.what == "scatter" else 2) * (world - 1) / world * sent / bandwidth


def counted(rank: int, world: int, name: str, groups: int) -> dict[str, list[Call]]:
    """The collectives of a step, by what they are for."""
    keys: dict[str, Any] = {
        "train.batch_size": COUNTED, "train.norm_groups": groups or world, "backbone.name": "resnet50", "train.precision": "fp32", "data.renderings": 1,
    }  # fmt: skip
    views = {f"views.{view}.size": 32 for view in RunConfig.make(name, preset="paper").views}
    method = begun(config := RunConfig.make(name, {**keys, **views}, preset="paper"))
    found: dict[str, list[Call]] = {"statistics": [], "rows": [], "gradients": []}
    now = ["statistics"]

    def counting(each: str, real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            size = given[-1].numel() * given[-1].element_size()
            what = "gather" if "gather" in each else "scatter" if "scatter" in each else "sum"
            found["gradients" if "async_op" in named else now[0]].append(Call(what, size, now[0] == "rows"))
            return real(*given, **named)

        return call

    def of_rows(real: Any) -> Any:
        def call(*given: Any) -> Any:
            now[0] = "rows"
            try:
                return real(*given)
            finally:
                now[0] = "statistics"

        return staticmethod(call)

    for each in ("all_reduce", "all_gather_single", "all_gather_into_tensor", "reduce_scatter_single", "reduce_scatter_tensor"):
        if hasattr(dist, each):
            setattr(dist, each, counting(each, getattr(dist, each)))
    for each in ("forward", "backward"):
        setattr(_ranks._Gather, each, of_rows(getattr(_ranks._Gather, each)))
    batch = batch_of(config, 0, rank, world)
    chunks = divide(method, batch.size, batch.groups, 0, world, rank)
    forward_backward(config, method, batch, clock_of(0), chunks, Gradients(method))
    return found


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--latency", type=float, nargs=3, default=[15, 40, 60], help="microseconds of a collective on 8, 64 and 512 GPUs"
    )
    parser.add_argument("--gbs", type=float, nargs=3, default=[300, 25, 25], help="GB/s of a GPU's link on 8, 64 and 512 GPUs")
    options = parser.parse_args(words)
    heads = ["a step of 256 images a GPU", "collectives", "one GPU, ms", *(f"{world} GPUs, ms" for world in WORLDS)]
    print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    for title, (name, groups) in CASES.items():
        calls, own = run_ranks(counted, 2, name, groups)[0], 1e3 * MEASURED[name]
        cells = [title, ", ".join(f"{len(each)} for {what}" for what, each in calls.items()), f"{own:.0f}"]
        for world, latency, gbs in zip(WORLDS, options.latency, options.gbs, strict=True):
            parts = {
                what: 1e3 * sum(call.seconds(world, latency * 1e-6, gbs * 1e9) for call in each) for what, each in calls.items()
            }
            last = 1e3 * calls["gradients"][-1].seconds(world, latency * 1e-6, gbs * 1e9)
            parts["gradients"] = max(parts["gradients"] - own * BACKWARD, last)
            whole = own + sum(parts.values())
            told = ", ".join(f"{what} {value:.1f}" for what, value in parts.items())
            cells.append(f"{whole:.0f} ({100 * own / whole:.0f} % of it work; {told})")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
