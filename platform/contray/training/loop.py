"""The training loop: one function, top to bottom. It knows neither Ray nor MLflow nor any method by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from .. import data, model
from ..config import RunConfig
from ..errors import UserError
from ..evaluation.common.diagnosis import LayerNorms
from ..evaluation.common.watch import Collapsed, Watch
from ..methods._base import Batch, Clock, Method
from ..methods._ranks import shares
from ..model import optim
from ..model.determinism import make_deterministic
from ..storage.folder import Storage
from .agreement import MENDING, NEVER, NON_FINITE, NonFiniteLoss, NonFiniteState, Ranks, State, meet, note, same_data
from .audit import Audit
from .checkpoints import Checkpoints
from .clustering import embed
from .draws import Draws
from .restore import check_fits, choose
from .step import Stepper

HURRY_SECONDS = 1.0  # between checkpoints while the run may lose its machines
MOST_SKIPPED = 10  # steps that train.on_nan skip leaves out of one run


def free_to_read(device: torch.device) -> bool:
    """Whether reading a tensor waits for nothing."""
    return device.type == "cpu"


def caught(stream: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], UserError | None]]:
    """The batches, and what ends them if it is for all ranks to hear."""
    try:
        for raw in stream:
            yield raw, None
    except UserError as error:
        yield {"broken": {}}, error


class Listener:
    """What a run tells the outside, on rank 0. This one ignores everything; tracking, progress and Tune each override some."""

    speaks: ClassVar[bool] = False  # whether `trouble` reaches who watches the run; else it is also a warning

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics after `step` optimiser steps."""

    def evaluated(self, step: int, fraction: float, values: Mapping[str, float], save: Callable[[], dict[str, Any]]) -> None:
        """Online evaluation after `step` steps, `fraction` of the run; `save()` gives the state that a checkpoint would hold."""

    def collapsed(self, step: int, words: str) -> None:
        """The collapse alarm, once in a run, after the evaluation at `step`."""

    def durable(self, step: int) -> None:
        """A checkpoint covers everything logged up to `step`. Called from the writing thread."""

    def trouble(self, what: str, words: str) -> None:
        """Something that must be known goes wrong (`what`: "checkpoint", "damage", "storage"), or, with no words, is mended. Called from any thread."""

    def pending(self) -> list[tuple[str, float, int, int]]:
        """Points (name, value, time in ms, step) that are not known to have arrived; they travel in checkpoints."""
        return []

    def restore(self, state: Mapping[str, Any]) -> None:
        """The run goes on from this checkpoint."""

    def stop(self) -> bool:
        """Whether someone asked the run to stop; it then leaves a checkpoint."""
        return False

    def hurry(self) -> bool:
        """Whether checkpoints should follow each other closely, since the run may soon lose its machines. Asked before every step."""
        return False


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
    ranks = Ranks()
    rank, world = ranks.rank, ranks.world
    device = model.device_of(config)
    size, seed = config.train.batch_size, config.seed

    model.check(config, len(source.train))
    method = model.build(config, len(source.train))
    make_deterministic(config.train, device, method)
    method = method.to(device)
    if model.channels_last(config):
        method = method.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    method.train()
    params = [p for p in method.parameters() if p.requires_grad]
    optimizer = optim.build(config, method)
    pairs = [[list(module.parameters()) for module in pair] for pair in method.ema_pairs()]
    targets: list[torch.Tensor] = [p for pair in pairs for p in pair[1]]
    online: list[torch.Tensor] = [p for pair in pairs for p in pair[0]]
    if config.train.compile:
        method.represent = torch.compile(method.represent, dynamic=False)

    step = Stepper(config, method, rank, world, storage)
    draws = Draws(config.method.name, device, rank)

    # Go on where the newest checkpoint stands, if there is one.
    checkpoints = (
        Checkpoints(
            storage,
            config.train.keep,
            listener.durable,
            listener.trouble,
            config.scale.max_unsaved_minutes,
            warns=not listener.speaks,
        )
        if storage
        else None
    )
    fingerprint = data.fingerprint(source, config.data)
    same_data(ranks, fingerprint)
    state = start or choose(ranks, checkpoints)
    done, broken, worlds, best, seconds_before = 0, {}, [world], -1.0, 0.0
    if skipped and not state:
        listener.restore({"step": 0, "points": []})
    if state:
        check_fits(state, config, fingerprint)
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        done, broken, best, seconds_before = state["step"], dict(state["broken"]), state["best"], state.get("seconds", 0.0)
        skipped |= set(state.get("skipped", ()))
        worlds = state["worlds"] if state["worlds"][-1] == world else [*state["worlds"], world]
        listener.restore(state)
    source.train.prepare()
    for found in ranks.all(source.train.broken):
        broken = {**found, **broken}

    batches = data.GlobalBatches(
        source.train,
        config.views,
        strength=config.augment.strength,
        batch_size=size,
        seed=seed,
        broken=broken,
        max_broken=config.data.max_broken,
    )
    note(batches, broken)
    epoch_steps = batches.steps_per_epoch
    total = config.total_steps(len(source.train))
    own = shares(size, world)[rank]
    normalise = model.normaliser(config, device)
    watch = Watch(config, source, device, state) if config.eval.every_epochs and rank == 0 else None
    layers = LayerNorms(method) if config.train.log_layers else None
    eval_steps = max(1, round(config.eval.every_epochs * epoch_steps))

    def snapshot() -> dict[str, Any]:
        return {
            "format": 1,
            "step": done,
            "config": config.to_yaml(),
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
            "broken": broken,
            "skipped": sorted(skipped),
            "best": best,
            "worlds": worlds,
            "seconds": seconds_before + time.monotonic() - began,
            "fingerprint": fingerprint,
            "points": listener.pending(),
            "watch": watch.state if watch else {},
        }

    def asked() -> tuple[bool, bool, UserError | None]:
        """What rank 0 asks of all ranks before a step: a checkpoint after it, an end after it, an end now."""
        if rank:
            return False, False, None
        most = config.train.checkpoint_seconds
        pace = min(most, HURRY_SECONDS) if listener.hurry() else most
        due = checkpoints is not None and time.monotonic() - saved > pace and not checkpoints.busy
        stops = listener.stop() or (watch is not None and watch.stops)
        return due, stops, checkpoints.overdue() if checkpoints else None

    def facts() -> dict[str, Any]:
        return {"step": done, "broken": sorted(broken.items()), "skipped": sorted(skipped)}

    # The first step whose gradients (on all ranks alike) or own share of the loss were not finite: read where the loop synchronises anyway.
    bad_gradients = bad_loss = torch.tensor(NEVER, device=device)
    began = saved = window = time.monotonic()
    window_done, rate, trained_seconds, started_at, lr = done, 0.0, 0.0, done, 0.0
    agreed = State(ranks, method, optimizer)
    agreed.check(done, NEVER, facts())
    audit = Audit(storage, done, world, rank, device) if storage and config.train.audit else None
    stream = iter(data.loader(batches, range(done, total), own, workers=config.data.workers, pin=device.type == "cuda"))
    try:
        for raw, error in caught(stream):
            saves, stop, met = meet(ranks, raw["broken"], error, *asked())
            if met:
                broken = {**broken, **met}
                note(batches, met)
            clock = Clock(done * size, total * size, epoch_steps * size, size)
            if done % epoch_steps == 0:
                for param in method.begin_epoch(clock, lambda: embed(config, method, source, device, ranks)):
                    optimizer.state.pop(param, None)
            done += 1
            logs = (done % config.train.log_every == 0 or done in (1, total)) and done not in skipped
            evaluates = config.eval.every_epochs > 0 and (done in (1, total) or done % eval_steps == 0)
            saves = saves or done == total or bool(config.train.checkpoint_steps and done % config.train.checkpoint_steps == 0)

            if done not in skipped:
                slot, index = (raw[key].to(device, non_blocking=True) for key in ("slot", "index"))
                views = {name: normalise(pixels) for name, pixels in raw["views"].items()}
                batch = Batch(views, index, slot, size, seed, done - 1, groups=config.train.norm_groups)
                lr = optim.set_schedules(optimizer, config, clock)
                generators = draws.states()
                reps, out = step(batch, clock)  # represent, loss, backward
                optim.sum_gradients(params, world)
                layer_norms = layers() if layers and logs and rank == 0 else None  # before they are clipped
                grad_norm = optim.clip_gradients(config.optim, params)
                method.after_backward(clock)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if targets:
                    torch._foreach_lerp_(targets, online, 1 - method.ema_momentum(clock))
                with model.autocast(config, device):
                    method.update(reps, batch, clock)
                draws.check(done, generators)
                bad_gradients = torch.where(grad_norm.isfinite(), bad_gradients, bad_gradients.clamp(max=done))
                bad_loss = torch.where(out["loss"].detach().isfinite(), bad_loss, bad_loss.clamp(max=done))

            if (logs or free_to_read(device)) and int(bad_gradients) < NEVER:
                raise NonFiniteLoss(int(bad_gradients), f"{NON_FINITE} (learning rate {lr:.3g}); {MENDING}")
            if logs:
                wide = torch.float64 if torch.float64 in {value.dtype for value in out.values()} else torch.float32
                values = torch.stack([value.detach().to(wide) for value in out.values()])
                if world > 1:
                    dist.all_reduce(values)
                totals = values.tolist()
                now = time.monotonic()
                if done > window_done:
                    rate = (done - window_done) * size / (now - window)
                    trained_seconds += now - window
                window, window_done = now, done
                if audit:
                    audit.step(done, batch.index.tolist(), dict(zip(out, totals, strict=True))["loss"])
                if rank == 0:
                    listener.log(
                        done,
                        {
                            **dict(zip(out, totals, strict=True)),
                            "lr": lr,
                            "grad_norm": float(grad_norm),
                            "images_per_second": rate,
                            **(layers.named(layer_norms) if layers and layer_norms is not None else {}),
                        },
                    )
                if not all(map(math.isfinite, totals)):
                    raise NonFiniteLoss(done, f"{NON_FINITE} ({dict(zip(out, totals, strict=True))}); {MENDING}")
            if saves or stop or evaluates:
                agreed.check(done, min(int(bad_gradients), int(bad_loss)), facts())
            improved = False
            if watch and evaluates:
                pause = time.monotonic()
                if done == 1 < min(eval_steps, total):
                    listener.log(done, watch.begin(method))
                else:
                    values = watch(method)
                    top1 = values.get("knn_val_top1", best)
                    improved, best = top1 > best, max(best, top1)
                    told = (
                        values if done < total else watch.without(config.eval.final)
                    )  # the verdict logs the others at this step
                    if told:
                        listener.log(done, told)
                    if watch.news:
                        listener.collapsed(done, watch.news)
                    listener.evaluated(done, done / total, values, snapshot)
                window += time.monotonic() - pause  # images_per_second is of training alone
            if checkpoints and rank == 0 and (saves or improved or stop):
                checkpoints.save(done, snapshot(), best=improved, wait=stop or done == total)
                saved = time.monotonic()
            if stop:
                if watch and watch.stops and done < total:
                    raise Collapsed(done, watch.alarm.words)
                break
    finally:
        close = getattr(stream, "close", None)
        if close:
            close()
        if checkpoints:
            checkpoints.join()
        if audit:
            audit.close()
    speed = (done - started_at) * size / trained_seconds if trained_seconds else 0.0
    return Outcome(method, done, total, worlds, seconds_before + time.monotonic() - began, speed, broken)
