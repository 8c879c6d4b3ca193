"""What it costs that ranks agree: two gloo ranks of this machine, with and without, step by step in turn.

    python tests/benchmarks/agreement.py [--method simclr] [--steps 60] [--world 2] [--dotted.key VALUE ...]

In one run the ranks meet before every other block of steps only, so that what else the machine does strikes both kinds alike. The comparison of the
state, which comes with each checkpoint, is timed by itself, and counted once in train.checkpoint_seconds. Default: ResNet-18 with CIFAR's stem,
batch 64, 32 px, one thread a rank, images of the built-in digits.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from contray import RunConfig, data
from contray.cli.options import split_dotted
from contray.training import loop
from contray.training.agreement import State
from tests.ranks import run_ranks

BLOCK = 3  # steps with, then steps without
WARM = 6


def measure(rank: int, world: int, text: str) -> dict[str, Any]:
    """Seconds of each step by whether the ranks met before it, of each comparison of the state, and of each meeting on the processor."""
    config, marks, checks, meetings = RunConfig.from_yaml(text), [], [], []
    meet, check = loop.meet, State.check

    def sometimes(ranks: Any, met: Any, error: Any, save: bool, stop: bool, end: Any) -> Any:
        marks.append(time.perf_counter())
        if len(marks) // BLOCK % 2:
            began = time.process_time()
            told = meet(ranks, met, error, save, stop, end)
            meetings.append(time.process_time() - began)
            return told
        return False, False, dict(met)

    def timed(self: State, *given: Any) -> None:
        dist.barrier()  # what remains is the comparison's own
        began = time.process_time()
        check(self, *given)
        checks.append(time.process_time() - began)

    loop.meet, State.check = sometimes, timed
    began = time.process_time()
    loop.train(config, data.open_source(config.data))
    busy = time.process_time() - began
    steps = [(i // BLOCK % 2, later - now) for i, (now, later) in enumerate(itertools.pairwise(marks)) if i >= WARM]
    return {"with": [s for on, s in steps if on], "without": [s for on, s in steps if not on], "checks": checks,
            "meetings": meetings, "step": [busy / config.train.steps]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="simclr", help="method (contray methods)")
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps, half of them with")
    parser.add_argument("--world", type=int, default=2, help="ranks")
    dotted, plain = split_dotted(sys.argv[1:])
    options = parser.parse_args(plain)
    own = {
        "train.batch_size": 64, "train.steps": options.steps, "train.precision": "fp32", "train.log_every": 1000, "eval.every_epochs": 0,
        "data.workers": 0, "train.checkpoint_steps": 10,
    }  # fmt: skip
    config = RunConfig.make(options.method, {**own, **dotted}, preset="cifar")
    found = run_ranks(measure, options.world, config.to_yaml())[0]
    on, off, check, meeting, step = (statistics.median(found[name]) for name in ("with", "without", "checks", "meetings", "step"))
    print(
        f"{options.method}, {config.backbone.name}, {options.world} ranks, batch {config.train.batch_size}, torch {torch.__version__}"
    )
    print(
        f"a step: {1000 * on:.1f} ms with, {1000 * off:.1f} ms without the meeting ({100 * (on - off) / off:+.2f} %; medians of {len(found['with'])})"
    )
    print(f"a meeting: {1000 * meeting:.2f} ms of the processor, {100 * meeting / step:.2f} % of a step's")
    print(
        f"comparing the state: {1000 * check:.1f} ms of the processor, {100 * check / config.train.checkpoint_seconds:.2f} % of train.checkpoint_seconds"
    )


if __name__ == "__main__":
    main()
