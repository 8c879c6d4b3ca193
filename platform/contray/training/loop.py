"""The training loop: one function, top to bottom. It knows neither Ray nor MLflow nor any method by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import data, model
from ..config import RunConfig
from ..config.registry import own_code
from ..evaluation.common.crew import Crew
from ..methods._base import Batch, Clock, Method
from ..methods._ranks import shares
from ..model import optim
from ..model.determinism import make_deterministic
from ..model.hardware import loaders
from ..model.recompute import recompute
from ..model.sharding import Sharded
from ..model.weights import Given
from ..storage.folder import Storage
from .agreement import Ranks, State, caught, meet, note, same_data
from .audit import Audit
from .checkpoints import Checkpoints
from .clustering import embed
from .draws import Draws
from .finite import NEVER, Finite, NonFiniteLoss, NonFiniteState
from .listener import Listener
from .memory import kept
from .online import Online, watch_of
from .restore import choose
from .saving import Saver
from .start import begin, guide, marks
from .state import TrainState
from .step import Stepper
from .step_log import StepLog

MOST_SKIPPED = 10  # steps that train.on_nan skip leaves out of one run


@dataclass
class Outcome:
    """How training ended. `method` is the trained module on this rank; `worlds` the world sizes that the run has seen.

    `seconds` counts what led up to the checkpoint that the run went on from, `images_per_second` is of the last stretch alone.
    """

    method: Method
    step: int
    total: int
    worlds: list[int]
    seconds: float
    images_per_second: float
    broken: dict[int, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.step >= self.total


def train(
    config: RunConfig,
    source: data.Source,
    storage: Storage | None = None,
    listener: Listener | None = None,
    start: Mapping[str, Any] | None = None,
) -> Outcome:
    """Train, or go on from the newest checkpoint under `storage` (or from the state `start`). Runs on every rank of the process group, if any.

    Raises NonFiniteLoss naming the step, or with train.on_nan "skip" goes back to the newest checkpoint and leaves that step out.
    Raises RanksDiffer where ranks do not hold the same, Unsaved where checkpoints cannot be written, UserError when one does not fit, and, on
    rank 0 where train.on_collapse is "stop", Collapsed, after a checkpoint.
    """
    config = model.settled(config, model.device_of(config).type)  # what is trained, and saved, names its precision
    skipped: set[int] = set()  # with those that the checkpoint knows of, which a start after an interruption has from there alone
    while True:
        try:
            with kept(model.device_of(config)):
                return _train(config, source, storage, listener or Listener(), start, skipped)
        except NonFiniteLoss as error:
            if config.train.on_nan == "stop" or error.step in skipped or isinstance(error, NonFiniteState):
                raise
            if len(skipped) >= MOST_SKIPPED:
                raise NonFiniteLoss(
                    error.step, f"the gradients are not finite after {MOST_SKIPPED} steps were left out already"
                ) from None
            skipped.add(error.step)
            print(
                f"contray: step {error.step} gave no finite gradients; the run goes back to its newest checkpoint and leaves it out",
                flush=True,
            )


def _train(
    config: RunConfig,
    source: data.Source,
    storage: Storage | None,
    listener: Listener,
    start: Mapping[str, Any] | None,
    skipped: set[int],
) -> Outcome:
    ranks, device, size = Ranks(), model.device_of(config), config.train.batch_size
    model.check(config, len(source.train))

    # Go on where the newest checkpoint stands, if there is one.
    checkpoints = _checkpoints(config, storage, listener) if storage else None
    fingerprint = data.fingerprint(source, config.data) | own_code(config) | marks(config)
    same_data(ranks, fingerprint)
    state = start or choose(ranks, checkpoints)

    method = _built(config, len(source.train), device, None if state else begin(config, ranks))
    guide(method, ranks)
    params = [p for p in method.parameters() if p.requires_grad]
    optimizer, average = optim.build(config, method), optim.Average(method)
    sharded = Sharded(optimizer, config.scale.shard_optimizer)
    step = Stepper(config, method, ranks.rank, ranks.world, storage)
    draws = Draws(config.method.name, device, ranks.rank)
    run = TrainState(config, method, sharded, listener, fingerprint, skipped, [ranks.world])
    run.restore(state)
    listener.opened(source, fingerprint)
    source.train.prepare()
    for found in ranks.all(source.train.broken):
        run.broken = {**found, **run.broken}

    strength, most = config.augment.strength, config.data.max_broken
    on_device = config.data.augment_on == "device"
    batches = (data.DeviceBatches if on_device else data.GlobalBatches)(
        source.train,
        config.views,
        strength=strength,
        batch_size=size,
        seed=config.seed,
        broken=run.broken,
        max_broken=most,
        window=data.window(config.data),
    )
    note(batches, run.broken)
    epoch, total = batches.steps_per_epoch, config.total_steps(len(source.train))
    own, normalise = shares(size, ranks.world)[ranks.rank], model.normaliser(config, device)
    crew = Crew(config, source, device, shared=True)
    run.watch = watch_of(crew, method, state) if config.eval.every_epochs else None

    # What evaluates, saves, compares and logs on the way.
    run.begin()
    online, saver, finite = Online(run, crew, epoch, total), Saver(run, checkpoints, ranks, total), Finite(device)
    agreed = State(ranks, method, sharded)
    agreed.check(run.step, NEVER, run.facts())
    audit = Audit(storage, run.step, ranks.world, ranks.rank, device) if storage and config.train.audit else None
    log, lr = StepLog(config, method, ranks, listener, audit, run.step, total), 0.0
    renderer = data.Renderer(batches, device, config.train.compile) if isinstance(batches, data.DeviceBatches) else None
    workers = loaders(config, held=source.train.decoded)
    stream = iter(data.loader(batches, range(run.step, total), own, workers=workers, pin=device.type == "cuda"))
    try:
        for raw, error in caught(renderer.ahead(stream) if renderer else stream):
            saves, stops, met = meet(ranks, raw["broken"], error, *saver.asked())
            if met:
                run.broken = {**run.broken, **met}
                note(batches, met)
            clock = Clock(run.step * size, total * size, epoch * size, size)
            if run.step % epoch == 0:
                for param in method.begin_epoch(clock, lambda: embed(config, method, source, device, ranks)):
                    sharded.forget(param)
            run.step += 1
            trains = run.step not in run.skipped
            logs, evaluates = trains and log.due(run.step), online.due(run.step)
            saves = saves or saver.due(run.step)

            if trains:
                views = {name: normalise(pixels) for name, pixels in raw["views"].items()}
                index, slot = (raw[key].to(device, non_blocking=True) for key in ("index", "slot"))
                batch = Batch(views, index, slot, size, config.seed, run.step - 1, groups=config.train.norm_groups)
                lr = optim.set_schedules(optimizer, config, clock)
                with draws.guarded(run.step):
                    reps, out = step(batch, clock)  # represent, loss, backward, sums over ranks
                    if logs:
                        log.gradients()
                    grad_norm = optim.clip_gradients(config.optim, params)
                    method.after_backward(clock)
                    sharded.step()
                    optimizer.zero_grad(set_to_none=True)
                    average.move(clock)
                    with model.autocast(config, device):
                        method.update(reps, batch, clock)
                finite.see(run.step, grad_norm, out["loss"])

            finite.check_gradients(lr, waits=logs)
            if logs:
                finite.check_loss(run.step, log(run.step, batch, out, lr, grad_norm))
            if saves or stops or evaluates:
                agreed.check(run.step, finite.first, run.facts())
            improved = False
            if evaluates:
                with log.paused():
                    improved = bool(ranks.most([online()]))  # rank 0 knows, and all take part in saving
            if saves or stops or improved:
                saver(best=improved, last=stops or run.step == total)
            if stops:
                online.check_collapse()
                break
    finally:
        close = getattr(stream, "close", None)
        if close:
            close()
        if checkpoints:
            checkpoints.join()
        log.close()
    return Outcome(method, run.step, total, run.worlds, run.seconds, log.images_per_second(run.step), run.broken)


def _built(config: RunConfig, samples: int, device: torch.device, start: Given | None) -> Method:
    """The method as it trains on `device`: with the weights that it begins with, in its memory layout, compiled where that is asked."""
    method = model.build(config, samples, start)
    make_deterministic(config.train, device, method)
    method = method.to(device)
    if model.channels_last(config):
        method = method.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if config.scale.activation_checkpointing:
        recompute(method)
    if config.train.compile:
        method.represent = torch.compile(method.represent, dynamic=False)
    return method.train()


def _checkpoints(config: RunConfig, storage: Storage, listener: Listener) -> Checkpoints:
    keep, minutes = config.train.keep, config.scale.max_unsaved_minutes
    return Checkpoints(storage, keep, listener.durable, listener.trouble, minutes, warns=not listener.speaks)
