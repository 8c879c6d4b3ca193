"""What a run takes in seconds and bytes, from measured costs: how its parts add up on the cores that there are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import model
from ..config import RunConfig
from ..config.evaluations import needing_labels
from ..evaluation.common.protocol import PIXELS_SIDE
from ..model.hardware import spared
from .facts import Images, Machine
from .trial import Trial

MARGIN = 0.75  # of the time that is planned with: a laptop's clock, a neighbour's job, the last batch of an epoch
CONTENDED = 1.15  # a step's threads wait for each other while a loader has one of their cores: 0 to 20 % on two cores
OVERHEAD = 0.003  # seconds of the loop around a step: metrics, the loader's queue, agreement among ranks
# seconds before the first step and after the last: imports, MLflow, the model that is kept; Ray's besides
START, START_RAY = (
    15.0,
    40.0,
)
PROBES = {
    "cpu": 8e-8,
    "cuda": 8e-10,
}  # seconds of the grid of linear probes for each image that fits it, class, and dimension of the features
LEAST_SHARE = 0.3  # of the budget that trains, even where the verdict takes more than the rest
LOADER = 0.15e9  # bytes of a process that prepares batches
PROCESS = 0.7e9  # bytes of a worker with torch, before it has anything


@dataclass(frozen=True)
class Cost:
    """Seconds by part: `sample` of one sample's step with its views, `extra` of a step besides, `epoch` between epochs, `encode` of an image;
    `before`, `verdict`: of the whole run before its first step and after its last.
    """

    images: Images
    machine: Machine
    trial: Trial
    loaders: int
    sample: float
    extra: float
    epoch: float
    encode: float
    before: float
    verdict: float
    budget: float

    @classmethod
    def of(cls, config: RunConfig, images: Images, machine: Machine, trial: Trial) -> Cost:
        cores, loaders = machine.cores, config.data.workers
        load = trial.views + (0.0 if images.cached else images.decode)
        speed = min(trial.speed, float(cores)) if machine.kind == "cpu" else 1.0
        if loaders == "auto":
            planned = "data.workers" in config.train.planned
            loaders = loaders_for(load, trial.seconds / speed, machine) if planned else spare(config, images, machine)[0]
        shared = sharing(config, machine)
        sample = sample_seconds(load, trial.seconds / speed, loaders, machine) / shared
        encode = sample_seconds(images.decode * (not images.cached), trial.encode / speed, loaders, machine) / shared
        labels = images.classes > 1 and bool(needing_labels(config.eval.final))
        measured = (images.count + images.test if labels else min(images.count, 2048)) if config.eval.final else 0
        verdict = 2 * measured * encode + (probes(config, images, machine) if labels and config.eval.final else 0.0)
        start = START if config.scale.workers == (0, 0) else START_RAY
        before = start + (images.count * images.decode / cores if images.cached else 0.0)
        return cls(
            images, machine, trial, loaders, sample, trial.update / speed + OVERHEAD, trial.epoch * images.count / speed / shared, encode, before, verdict,
            config.train.budget * 60,
        )  # fmt: skip

    def step(self, batch: int) -> float:
        """Seconds of a step of so many samples."""
        return self.sample * batch + self.extra

    @property
    def training(self) -> float:
        """Seconds of the budget that are for training, its evaluations included."""
        return max(MARGIN * (self.budget - self.before - self.verdict), LEAST_SHARE * self.budget)

    def steps(self, config: RunConfig, images: Images) -> int:
        """Steps that the budget buys, evaluations while training left out of it."""
        batch = config.train.batch_size
        each = self.step(batch) + self.epoch / max(images.count // batch, 1)
        share = 0.95 if config.eval.online else 1.0
        return max(10, int(share * self.training / each))

    def online_limit(self) -> int:
        """Images that an evaluation while training may use, so that four of them take no more than a twentieth of the training."""
        fits = 0.05 * self.training / 4 / max(self.encode, 1e-9)
        return next((limit for limit in (10_000, 5_000, 2_000, 1_000) if limit <= fits), 500)

    def evaluations(self, config: RunConfig, steps: int, limit: int) -> int:
        """How many there are while training: ten, or as many as a twentieth of the time has room for, one at least."""
        each = self.encode * min(limit, self.images.count) + 0.2
        fits = 0.05 * steps * self.step(config.train.batch_size) / each
        return max(1, min(10, int(fits), steps))

    def total(self, config: RunConfig) -> float:
        """Seconds of the whole run, its evaluations included."""
        batch = config.train.batch_size
        epochs = max(self.images.count // batch, 1)
        steps = config.total_steps(self.images.count)
        evals = 0.0
        if config.eval.every_epochs and config.eval.online:
            each = self.encode * min(config.eval.online_limit, self.images.count) + 0.2
            evals = each * steps / max(config.eval.every_epochs * epochs, 1)
        return self.before + steps * self.step(batch) + steps / epochs * self.epoch + evals + self.verdict

    def memory(self, config: RunConfig, rows: int) -> tuple[float, float]:
        """Bytes on the device and in the host's memory of a worker through which `rows` go at once; on a CPU they are one, in the second."""
        used = float(self.trial.fixed + rows * self.trial.activations)
        if config.scale.shard_optimizer:
            used -= self.trial.optimizer * (1 - 1 / max(config.scale.workers[0], 1))
        host = PROCESS + (self.images.nbytes * self.images.count if self.images.cached and not self.images.generated else 0)
        host += LOADER * self.loaders
        return (used, host) if self.machine.kind == "cuda" else (0.0, host + used)


def sharing(config: RunConfig, machine: Machine) -> int:
    """How many GPUs of this machine share a step; processes on CPUs have no cores of their own."""
    return min(max(config.scale.workers[0], 1), max(machine.gpus, 1)) if machine.kind == "cuda" else 1


def uncounted(config: RunConfig) -> list[str]:
    """The evaluations at the end whose time no estimate has: all but those of cached features."""
    return [name for name in config.eval.final if name not in ("knn", "linear")]


def probes(config: RunConfig, images: Images, machine: Machine) -> float:
    """Seconds that linear probes take on features of the trained encoder, of the untrained one, and on pixels, which have the most dimensions."""
    method, dims = model.sketch(config), 0
    for view in type(method).eval_views(config.views).values():
        rows, side, _ = view.grid if view.kind == "patches" else (1, min(view.size, PIXELS_SIDE), 0)
        dims += config.channels * rows**2 * side**2
    each = PROBES[machine.kind] / (machine.cores if machine.kind == "cpu" else 1)
    return each * images.count * images.classes * (dims + 2 * method.out_dim)


def sample_seconds(load: float, compute: float, loaders: int, machine: Machine) -> float:
    """Seconds that a sample takes: `load` CPU seconds to decode it and draw its views, in loader processes or before its step of `compute`."""
    if loaders == 0:
        return compute + load
    if machine.kind == "cpu":  # a loader takes its time from the same cores
        return max(CONTENDED * (compute + load / machine.cores), load / min(loaders, machine.cores))
    return max(compute, load / min(loaders, machine.cores))


def spare(config: RunConfig, images: Images, machine: Machine) -> tuple[int, str]:
    """What data.workers auto comes to on this machine, as model.hardware.loaders has it on a worker, and why."""
    scale = config.scale
    count = scale.cpus_per_worker or max(machine.cores // max(scale.workers[1], 1), 1)
    return spared(count, images.cached, machine.kind)


def loaders_for(load: float, compute: float, machine: Machine) -> int:
    """Loader processes: as many as make a sample quickest on the cores that they share with the step; beside a GPU as many as keep it fed."""
    if machine.cores == 1:
        return 0
    if machine.kind == "cpu":
        return min(range(machine.cores + 1), key=lambda loaders: sample_seconds(load, compute, loaders, machine))
    return min(max(1, math.ceil(1.3 * load / max(compute, 1e-9))), max(machine.cores - 1, 1))
