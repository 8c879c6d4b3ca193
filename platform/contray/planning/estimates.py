"""What a run would cost, in thirteen lines, and the guard that holds it against the machine before anything is taken."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .. import data, model
from ..config import RunConfig
from ..data.splits import ArraySplit, EncodedSplit
from ..errors import ConfigError, UserError
from ..model import backbones, hardware, optim
from ..model.chunks import divide, normed
from ..model.laws import power_below
from ..tables import hanging
from .cost import LOADER, Cost, sharing, spare, uncounted
from .facts import look, machine
from .trial import measure
from .words import DAY, duration, nbytes

ALL = 0.95  # of the memory: what Ray's memory monitor leaves a machine
_SMALL = {
    "parameters": 5e6,
    "side": 64,
    "pixels": 6e5,
    "seen": 5e9,
}  # of a batch and of a run: some GB and half a day on a slow core at most


@dataclass(frozen=True)
class Estimate:
    """config: with what the hardware decides. seconds: of the whole run; memory: bytes of all its processes on one machine, host: of one worker, gpu: of one worker's
    GPU; disk: bytes of checkpoints; facts: these and what else follows from the config, by name, in words.
    """

    config: RunConfig
    cost: Cost
    seconds: float
    memory: float
    host: float
    gpu: float
    disk: float
    facts: Mapping[str, str]

    def __str__(self) -> str:
        return "\n".join(f"{name:<21}{text}" for name, text in self.facts.items())


def estimate(config: RunConfig, source: data.Source, cost: Cost | None = None, seeds: int = 1) -> Estimate:
    """The estimate of a config that is valid, under so many seeds, one after the other. Measures a few steps, if no `cost` of this config is known."""
    asked, kind = model.open_keys(config), model.device_of(config).type
    settled = model.settled(config, kind)
    if cost is None:
        images = look(config, source)
        cost = Cost.of(settled, images, machine(config), measure(settled, images))
    most = max(config.scale.workers[1], 1)
    share = -(-config.train.batch_size // most)
    limit = config.scale.max_batch_per_worker
    gpu, host = cost.memory(settled, min(share, limit) if limit else share)
    here = most if not (config.scale.address or kind == "cuda") else min(most, max(cost.machine.gpus, 1))
    memory = here * host + (0.0 if config.scale.workers == (0, 0) else 1e9)  # Ray's own processes and the driver
    disk = seeds * (config.train.keep + 1) * float(cost.trial.fixed)
    found = Estimate(settled, cost, seeds * cost.total(settled), memory, host, gpu, disk, {})
    facts = _facts(found, source, asked)
    if seeds > 1:
        facts["time"] = facts["time"].replace("about ", f"for {seeds} seeds about ", 1)
    return replace(found, facts=facts)


def guard(
    config: RunConfig, source: data.Source, *, yes: bool = False, quiet: bool = False, cost: Cost | None = None, seeds: int = 1
) -> None:
    """Hold a run that begins, or one under each of `seeds`, against this machine. Says nothing of a small one, and measures nothing for it.

    Raises ConfigError where it needs more memory or disk than there is, naming what would fit, and UserError where it takes more than a day on
    a CPU and nobody says yes.
    """
    if small(config, len(source.train)):
        return
    found = estimate(config, source, cost, seeds)
    if not quiet and cost is None:
        print(hanging(str(found), 21), flush=True)
    refuse(found)
    if found.seconds > DAY and found.cost.machine.kind == "cpu" and not yes:
        takes = f"about {duration(found.seconds)} {f'for {seeds} seeds ' if seeds > 1 else ''}on this machine's CPU"
        if sys.stdin.isatty() and sys.stderr.isatty() and not quiet:
            print(f"contray: this run takes {takes}. Start it? [y/N] ", end="", file=sys.stderr, flush=True)
            if sys.stdin.readline().strip().lower() in ("y", "yes"):
                return
        length = "train.steps" if config.train.steps else "train.epochs"
        raise UserError(
            f"{length}: {takes}, more than a day: --yes (in Python yes=True) starts it; --preset auto fits the run to 30 minutes, "
            "or to --budget 2h"
        )


def small(config: RunConfig, samples: int) -> bool:
    """Whether bounds from shapes alone show that a run fits any machine and takes no day: a small network, a batch of few pixels, and few seen."""
    sides = [
        (backbones.image_side(view), view.count * (view.grid[0] ** 2 if view.kind == "patches" else 1))
        for view in config.views.values()
    ]
    pixels = config.train.batch_size * sum(side * side * count for side, count in sides)
    bounds = {"side": max((side for side, _ in sides), default=0), "pixels": pixels, "seen": pixels * config.total_steps(samples)}
    if any(value > _SMALL[name] for name, value in bounds.items()):
        return False
    return sum(each.numel() for each in model.sketch(config).parameters()) <= _SMALL["parameters"]


def refuse(found: Estimate) -> None:
    """Raises ConfigError where the run needs more than this machine has."""
    config, cost = found.config, found.cost
    free = cost.machine.disk
    if found.disk > free:
        raise ConfigError(
            "scale.storage",
            f"{config.scale.storage} has {nbytes(free)} free, and train.keep {config.train.keep} checkpoints and the best one take "
            f"{nbytes(found.disk)}; give another --scale.storage",
        )
    most = max(config.scale.workers[1], 1)
    for what, needs, has, processes in (
        ("GPU memory", found.gpu, cost.machine.gpu_memory, 1), ("memory", found.memory, cost.machine.memory, most),
    ):  # fmt: skip
        if has and needs > ALL * has:
            raise ConfigError(*_fitting(found, what, needs, ALL * has, processes))


def _fitting(found: Estimate, what: str, needs: float, has: float, processes: int) -> tuple[str, str]:
    """(key, what is wrong and what would fit)"""
    config, trial = found.config, found.cost.trial
    batch = config.train.batch_size
    told = f"got {batch}, for which the run takes {nbytes(needs)} of {what}, and this machine has {nbytes(has / ALL)}"
    rows = (
        -(-batch // processes)
        if not config.scale.max_batch_per_worker
        else min(config.scale.max_batch_per_worker, -(-batch // processes))
    )
    loaders = processes * LOADER * found.cost.loaders
    if loaders > 0.5 * has:
        return (
            "data.workers",
            f"got {config.data.workers}: {told.partition(', ')[2]}, {nbytes(loaders)} of it theirs; auto suits the cores",
        )
    spare = has - (needs - processes * rows * trial.activations)
    fits = math.floor(0.9 * spare / processes / max(trial.activations, 1))
    auto = "--preset auto is fitted to this machine"
    if fits < 2:
        if processes > 1:
            return "scale.workers", f"got up to {processes}: {told.partition(', ')[2]}; fewer workers, or {auto}"
        return (
            "backbone.name",
            f"got {config.backbone.name}: {told.partition(', ')[2]}, most of it whatever the batch; a smaller one, or {auto}",
        )
    groups = config.train.norm_groups if normed(model.sketch(config)) else batch
    if -(-batch // groups) <= fits:
        return "train.batch_size", f"{told}; --scale.max_batch_per_worker {fits} would fit and computes the same; {auto}"
    return "train.batch_size", f"{told}; --train.batch_size {power_below(fits * processes)} would fit; {auto}"


# ---------------------------------------------------------------- in words


def _facts(found: Estimate, source: data.Source, asked: list[str]) -> dict[str, str]:
    config, cost, trial = found.config, found.cost, found.cost.trial
    batch, samples = config.train.batch_size, len(source.train)
    epoch, total = samples // batch, config.total_steps(samples)
    method = model.sketch(config)
    least, most = config.scale.workers
    warm = optim.warmup_steps(config.optim, epoch)
    counts = [sum(p.numel() for p in method.parameters() if p.requires_grad or every) / 1e6 for every in (False, True)]
    kinds = "no labels" if source.train.labels is None else f"{len(source.train.classes)} classes"
    workers = "this process, without Ray" if most == 0 else f"{least} to {most}, {batch // max(most, 1)} samples each at {most}"
    chunks = _chunks(config)
    on = cost.machine.kind.replace("cuda", "GPU").replace("cpu", "CPU")
    per_epoch = epoch * cost.step(batch) + cost.epoch
    gpu = f"{nbytes(found.gpu)} of a GPU's memory and " if found.gpu else ""
    without = f"; not counted: {', '.join(others)} (eval.final)" if (others := uncounted(config)) else ""
    return {
        "run": config.track.name or config.run_name,
        "data": f"{source.name}, {samples:,} training samples, {kinds}",
        "steps": f"{total:,} of {batch} samples ({total / epoch:.1f} epochs of {epoch} full batches)",
        "learning rate": f"{optim.scaled_lr(config.optim, batch):.4g} at its peak ({config.optim.lr:g} per 256, {config.optim.lr_scaling} scaling), "
        f"{warm} warm-up steps, then {config.optim.schedule}",
        "effective negatives": f"{method.negatives(batch):,} per anchor" if method.negatives(batch) else "none",
        "norm groups": f"{config.train.norm_groups} of {batch // config.train.norm_groups} samples, whatever the number of workers",
        "workers": f"{workers}; in chunks: {chunks}" if chunks else workers,
        "precision": _precision(config, asked, cost.machine.kind),
        "views": _views(config, asked, cost),
        "parameters": f"{counts[0]:.1f} M trained, {counts[1]:.1f} M in all",
        "memory": f"about {nbytes(found.memory)} in all, {gpu}{nbytes(found.host)} per worker ({nbytes(trial.fixed)} weights and optimiser, "
        f"{nbytes(trial.activations)} per sample of a step; data {_data_memory(config, source, cost)})",
        "time": f"about {duration(found.seconds)}, {duration(per_epoch)} an epoch, on {_where(config, cost, on)} (steps of {trial.rows} samples were "
        f"measured, and drawing views){without}",
        "checkpoints": f"{config.scale.storage}/{config.track.name or config.run_name}, every {config.train.checkpoint_seconds:g} s, "
        f"{nbytes(found.disk)} in all",
    }  # fmt: skip


def _where(config: RunConfig, cost: Cost, on: str) -> str:
    shared = sharing(config, cost.machine)
    return f"{shared} of this machine's {cost.machine.gpus} GPUs" if shared > 1 else f"this machine's {on} alone"


def _chunks(config: RunConfig) -> str:
    """What goes through the backbones at once, where it is not all of a worker's share."""
    limit, (least, most) = config.scale.max_batch_per_worker, config.scale.workers
    if not limit:
        return ""
    method, batch = model.sketch(config), config.train.batch_size
    worlds = sorted({max(least, 1), max(most, 1)})
    passes = {world: len(divide(method, batch, config.train.norm_groups, limit, world, 0)) for world in worlds}
    return "; ".join(
        f"{count} of at most {limit} samples each at {world} worker{'s' if world > 1 else ''}"
        for world, count in passes.items()
        if count > 1
    )


def _precision(config: RunConfig, asked: list[str], kind: str) -> str:
    """What the numbers are, and why."""
    layout = "channels last" if model.channels_last(config) else "channels first"
    if "train.precision" not in asked:
        return f"{config.train.precision}, {layout}"
    where = "; a cluster's workers may have others" if config.scale.address else ""
    return f"{config.train.precision}, {layout} (auto: {hardware.quick_bf16(kind)[1]}{where})"


def _views(config: RunConfig, asked: list[str], cost: Cost) -> str:
    """Where the views are made, and why."""
    rest, count = data.uncovered(config.views, config.data.channels), cost.loaders
    processes = f"{f'{count} process' if count else 'the training process'}{'es' if count > 1 else ''} of each worker"
    if config.data.workers == "auto":
        where = "; a cluster's workers may have others" if config.scale.address else ""
        processes += f" (auto: {spare(config, cost.images, cost.machine)[1]}{where})"
    if config.data.augment_on == "device":
        return f"made in batches on the device, from whole images of 8 bits that {processes} read{'s' * (count < 2)}"
    why = f" ({rest} is made there alone)" if rest and cost.machine.kind == "cuda" and "data.augment_on" in asked else ""
    return f"made on the CPU{why}, in {processes}"


def _data_memory(config: RunConfig, source: data.Source, cost: Cost) -> str:
    """What images take once decoded, or encoded where they do not fit."""
    split, decoded = source.train, cost.images.nbytes * cost.images.count
    if isinstance(split, ArraySplit):
        return f"{nbytes(split.images.nbytes)}, decoded"
    if not isinstance(split, EncodedSplit):
        return "drawn when they are asked for"
    if cost.images.cached:
        return f"{nbytes(decoded)}, decoded once and kept (data.memory_gb {config.data.memory_gb:g})"
    return f"decoded at each access: {nbytes(decoded)} would not fit data.memory_gb {config.data.memory_gb:g}; {split.encoded.memory()}{_copies(config, split)}"


def _copies(config: RunConfig, split: EncodedSplit) -> str:
    """What copies of shards take of the disk, where there are any."""
    shards = split.shards()
    if shards is None or not shards.sizes.any():
        return ""
    blocks = config.data.shuffle == "blocks"
    which = f"two windows of {config.data.window} of {len(shards):,} shards" if blocks else f"all {len(shards):,} shards"
    given = f"data.disk_gb {config.data.disk_gb:g}" if config.data.disk_gb else "nine tenths of what is free"
    return f", where {which} take {nbytes(shards.needed(config.data))} of {nbytes(shards.limit())} ({given})"
