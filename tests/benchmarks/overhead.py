"""What the platform costs over a bare PyTorch loop: images/s of `contray train`, Ray included, start-up excluded.

    python tests/benchmarks/overhead.py [--method simclr] [--steps 16] [--rounds 3] [--threads N] [--data.source cifar10 --dotted.key VALUE ...]

Each round measures four loops over the same config, model, optimiser and number of torch threads, one after the other:
`contray` (a Ray Train worker, with tracking, checkpoints and augmentation in its loader's process), `loop alone` (contray's loop in this
process: no Ray, no checkpoints, nothing logged), `bare` (the step alone, on ready batches held in memory, which no loop with augmentation
can pass) and `bare + loader` (the same step, fed by contray's loader); in all of them malloc keeps what is freed, as contray's loop has
it. So contray / loop alone is the price of checkpoints, logging and elasticity together. Rounds alternate so that what else the machine
does meets all alike. Default: ResNet-18 with CIFAR's stem, batch 64, 32 px.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import contray
from contray import RunConfig, data, model, track
from contray.cli.options import split_dotted
from contray.methods._base import Batch, Clock
from contray.model import optim
from contray.model.hardware import loaders
from contray.training.loop import Listener, train
from contray.training.memory import kept
from contray.training.ray_train import ray_session

WARM = (
    1  # steps before the clock starts, as contray logs its pace after the first one: processes start, oneDNN chooses its kernels
)
LOOPS = ["contray", "loop alone", "bare", "bare + loader"]
READY = 4  # batches that the bare loop goes round


def bare_rate(config: RunConfig, source: data.Source, batches: Iterable[dict[str, Any]]) -> float:
    """images/s of the plain loop over `batches` (as the loader gives them, or normalised already)."""
    device, size, steps = model.device_of(config), config.train.batch_size, config.train.steps
    method = model.build(config, len(source.train)).to(device).train()
    if model.channels_last(config):
        method = method.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer, normalise = optim.build(config, method), model.normaliser(config, device)
    pairs: list[list[list[torch.Tensor]]] = [[list(module.parameters()) for module in pair] for pair in method.ema_pairs()]
    began = 0.0
    for step, raw in enumerate(batches):
        if step == WARM:
            began = _now(device)
        views = {name: pixels if pixels.is_floating_point() else normalise(pixels) for name, pixels in raw["views"].items()}
        slot, clock = raw["slot"].to(device), Clock(step * size, steps * size, len(source.train), size)
        batch = Batch(views, raw["index"].to(device), slot, size, config.seed, step, config.train.norm_groups)
        optim.set_schedules(optimizer, config, clock)
        with model.autocast(config, device), batch.norm("blocks"):
            reps = method.represent(batch, clock)
            loss = method.loss(reps, batch, clock)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for online, target in pairs:
            torch._foreach_lerp_(target, online, 1 - method.ema_momentum(clock))
        with model.autocast(config, device):
            method.update(reps, batch, clock)
    return (steps - WARM) * size / (_now(device) - began)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def loaded(config: RunConfig, source: data.Source, steps: int, workers: int) -> Iterable[dict[str, Any]]:
    """contray's own loader over the run's first `steps` batches."""
    drawn = data.GlobalBatches(
        source.train, config.views, strength=config.augment.strength, batch_size=config.train.batch_size, seed=config.seed
    )
    pin = model.device_of(config).type == "cuda"
    return data.loader(drawn, range(steps), range(config.train.batch_size), workers=workers, pin=pin)


def contray_rate(config: RunConfig, name: str) -> float:
    """images/s of a run on a Ray Train worker after its first steps."""
    result = contray.train(config.replace({"track.name": name}), quiet=True)
    return mean_rate(config, track.attach(track.resolve_uri(config.track.uri), result.run_id).history("images_per_second"))


def alone_rate(config: RunConfig, source: data.Source) -> float:
    """images/s of contray's loop by itself after its first steps."""
    pace = Pace()
    train(config, source, listener=pace)
    return mean_rate(config, pace.points)


class Pace(Listener):
    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.points.append((step, values["images_per_second"]))


def mean_rate(config: RunConfig, points: Iterable[tuple[int, float]]) -> float:
    """images/s over all steps after the first logged one, from the pace that the loop gives with each metric point."""
    pace, size = sorted(points), config.train.batch_size
    seconds = sum((step - before) * size / rate for (before, _), (step, rate) in itertools.pairwise(pace))
    return (pace[-1][0] - pace[0][0]) * size / seconds


def measure(config: RunConfig, rounds: int, chosen: list[str]) -> dict[str, list[float]]:
    """images/s of each chosen loop in each round."""
    source, device, steps = data.open_source(config.data), model.device_of(config), config.train.steps
    normalise = model.normaliser(config, device)
    ready = [
        {**raw, "views": {name: normalise(pixels) for name, pixels in raw["views"].items()}}
        for raw in loaded(config, source, READY, 0)
    ]
    loops: dict[str, Callable[[int], float]] = {
        "contray": lambda turn: contray_rate(config, f"round-{turn}"),
        "loop alone": lambda turn: alone_rate(config, source),
        "bare": lambda turn: bare_rate(config, source, (ready[step % READY] for step in range(steps))),
        "bare + loader": lambda turn: bare_rate(config, source, loaded(config, source, steps, loaders(config))),
    }
    rates: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(rounds):
        for name in chosen:
            with kept(device):
                rates[name].append(loops[name](turn))
            print(f"round {turn + 1}: {name} {rates[name][-1]:.1f} images/s", flush=True)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="simclr", help="method (contray methods)")
    parser.add_argument("--steps", type=int, default=16, help=f"optimiser steps per loop and round, above {WARM}")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all loops")
    parser.add_argument("--loops", nargs="+", choices=LOOPS[1:], default=LOOPS[1:], help="which are measured beside contray")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads of each loop")
    dotted, plain = split_dotted(sys.argv[1:])
    options = parser.parse_args(plain)
    if options.steps <= WARM or options.rounds < 1:
        parser.error(f"--steps must be above {WARM} and --rounds at least 1")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        own = {
            "train.batch_size": 64, "train.steps": options.steps, "eval.every_epochs": 0, "eval.final": (), "track.model": False,
            "scale.workers": (1, 1), "scale.cpus_per_worker": options.threads, "scale.storage": f"{folder}/runs",
            "track.uri": f"sqlite:///{Path(folder) / 'mlflow.db'}",
        }  # fmt: skip
        config = RunConfig.make(options.method, {**own, **dotted}, preset="cifar")
        with ray_session(config):
            rates = measure(config, options.rounds, [LOOPS[0], *options.loops])
    table = Table("loop", "images/s, median", "contray / loop, median", "range")
    for name, measured in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["contray"], measured, strict=True)]
        table.add_row(
            name, f"{statistics.median(measured):.1f}", f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f} to {max(ratios):.3f}"
        )  # fmt: skip
    size = max(view.size for view in config.views.values())
    print(
        f"{options.method}, {config.backbone.name}, {config.data.source} at {size} px, batch {config.train.batch_size}, {config.train.precision}, "
        f"{options.steps} steps x {options.rounds} rounds, {options.threads} thread(s), {loaders(config)} loader process(es)"
    )
    Console().print(table)


if __name__ == "__main__":
    main()
