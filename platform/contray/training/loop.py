"""The training loop: one function, top to bottom. It knows neither Ray nor MLflow nor any method by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from methods._base import Batch, Clock, Method
from methods._ranks import shares, world_size

from .. import data, model, optim
from ..config import RunConfig
from ..errors import UserError
from ..evaluation.diagnosis import Collapsed, LayerNorms, Watch
from .audit import Audit
from .checkpoint import Checkpoints, Storage
from .extend import LENGTH
from .step import Stepper

HURRY_SECONDS = 1.0  # between checkpoints while the run may lose its machines
MOST_SKIPPED = 10  # steps that train.on_nan skip leaves out of one run


class NonFiniteLoss(UserError):
    """The loss or the gradients stopped being numbers in `step`."""

    def __init__(self, step: int, text: str) -> None:
        super().__init__(f"step {step}: {text}")
        self.step, self.text = step, text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.text)


class Listener:
    """What a run tells the outside, on rank 0. This one ignores everything; tracking, progress and Tune each override some."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics after `step` optimiser steps."""

    def evaluated(self, step: int, fraction: float, values: Mapping[str, float], save: Callable[[], dict[str, Any]]) -> None:
        """Online evaluation after `step` steps, `fraction` of the run; `save()` gives the state that a checkpoint would hold."""

    def collapsed(self, step: int, words: str) -> None:
        """The collapse alarm, once in a run, after the evaluation at `step`."""

    def durable(self, step: int) -> None:
        """A checkpoint covers everything logged up to `step`. Called from the writing thread."""

    def pending(self) -> list[tuple[str, float, int, int]]:
        """Points (name, value, time in ms, step) that are not known to have arrived; they travel in checkpoints."""
        return []

    def restore(self, state: Mapping[str, Any]) -> None:
        """The run goes on from this checkpoint."""

    def stop(self) -> bool:
        """Whether someone asked the run to stop; it then leaves a checkpoint."""
        return False

    def hurry(self) -> bool:
        """Whether checkpoints should follow each other closely, since the run may soon lose its machines. Asked after every step."""
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
    Raises UserError when a checkpoint does not fit, and, on rank 0 where train.on_collapse is "stop", Collapsed, after a checkpoint.
    """
    skipped: frozenset[int] = frozenset()
    while True:
        try:
            return _train(config, source, storage, listener or Listener(), start, skipped)
        except NonFiniteLoss as error:
            if config.train.on_nan == "stop" or error.step in skipped:
                raise
            if len(skipped) == MOST_SKIPPED:
                raise NonFiniteLoss(
                    error.step, f"the gradients are not finite after {MOST_SKIPPED} steps were left out already"
                ) from None
            skipped |= {error.step}
            print(
                f"contray: step {error.step} gave no finite gradients; the run goes back to its newest checkpoint and leaves it out",
                flush=True,
            )
            if world_size() > 1:
                dist.barrier()  # rank 0 has written what it was writing


def _train(
    config: RunConfig,
    source: data.Source,
    storage: Storage | None,
    listener: Listener,
    start: Mapping[str, Any] | None,
    skipped: frozenset[int],
) -> Outcome:
    rank, world = (dist.get_rank(), world_size()) if world_size() > 1 else (0, 1)
    device = model.device_of(config)
    size, seed = config.train.batch_size, config.seed

    model.check(config, len(source.train))
    method = model.build(config, len(source.train)).to(device)
    if config.train.channels_last:
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

    # Go on where the newest checkpoint stands, if there is one.
    checkpoints = Checkpoints(storage, config.train.keep, listener.durable) if storage else None
    state = start or (checkpoints.latest() if checkpoints else None)
    fingerprint = data.fingerprint(source, config.data)
    done, broken, worlds, best, seconds_before = 0, {}, [world], -1.0, 0.0
    if skipped and not state:
        listener.restore({"step": 0, "points": []})
    if state:
        check_fits(state, config, fingerprint)
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        done, broken, best, seconds_before = state["step"], dict(state["broken"]), state["best"], state.get("seconds", 0.0)
        skipped = skipped | set(state.get("skipped", ()))
        worlds = state["worlds"] if state["worlds"][-1] == world else [*state["worlds"], world]
        listener.restore(state)

    batches = data.GlobalBatches(
        source.train,
        config.views,
        strength=config.augment.strength,
        batch_size=size,
        seed=seed,
        broken=broken,
        max_broken=config.data.max_broken,
    )
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

    first_bad = torch.tensor(
        -1, device=device
    )  # first step whose gradients were not finite; read only where the loop synchronises anyway
    began = saved = window = time.monotonic()
    window_done, rate, trained_seconds, started_at = done, 0.0, 0.0, done
    audit = Audit(storage, done, world, rank, device) if storage and config.train.audit else None
    stream = iter(data.loader(batches, range(done, total), own, workers=config.data.workers, pin=device.type == "cuda"))
    try:
        for raw in stream:
            clock = Clock(done * size, total * size, epoch_steps * size, size)
            broken.update(raw["broken"])
            slot = raw["slot"].to(device)
            views = {name: normalise(pixels) for name, pixels in raw["views"].items()}
            batch = Batch(views, raw["index"].to(device), slot, size, seed, done, groups=config.train.norm_groups)
            if done % epoch_steps == 0:
                for param in method.begin_epoch(clock, lambda: embed(config, method, source, device)):
                    optimizer.state.pop(param, None)
            if done + 1 in skipped:
                done += 1
                continue
            lr = optim.set_schedules(optimizer, config, clock)

            reps, out = step(batch, clock)  # represent, loss, backward
            optim.sum_gradients(params, world)
            logs = (done + 1) % config.train.log_every == 0 or done + 1 in (1, total)
            layer_norms = layers() if layers and logs and rank == 0 else None  # before they are clipped
            grad_norm = optim.clip_gradients(config.optim, params)
            method.after_backward(clock)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if targets:
                torch._foreach_lerp_(targets, online, 1 - method.ema_momentum(clock))
            with model.autocast(config, device):
                method.update(reps, batch, clock)
            done += 1

            first_bad = torch.where((first_bad < 0) & ~grad_norm.isfinite(), done, first_bad)
            pace = (
                min(config.train.checkpoint_seconds, HURRY_SECONDS)
                if rank == 0 and listener.hurry()
                else config.train.checkpoint_seconds
            )
            saves = rank == 0 and checkpoints is not None and (
                done == total
                or (config.train.checkpoint_steps and done % config.train.checkpoint_steps == 0)
                or (time.monotonic() - saved > pace and not checkpoints.busy)
            )  # fmt: skip
            stop = False
            if (logs or device.type == "cpu") and int(first_bad) >= 0:  # on all ranks in the same step
                raise NonFiniteLoss(
                    int(first_bad), f"the gradients are not finite (learning rate {lr:.3g}); the newest checkpoint is from before it. "
                    "A lower optim.lr, optim.clip or train.precision fp32 may mend it, train.on_nan skip leaves the step out"
                )  # fmt: skip
            saves = saves and int(first_bad) < 0
            if logs:
                collapsed = watch is not None and watch.stops
                asked = torch.tensor(float(collapsed or (rank == 0 and listener.stop())), device=device)
                values = torch.stack(
                    [
                        asked,
                        *(
                            value.detach().to(asked.dtype if value.dtype != torch.float64 else value.dtype)
                            for value in out.values()
                        ),
                    ]
                )
                if world > 1:
                    dist.all_reduce(values)
                asked_sum, *totals = values.tolist()
                stop = asked_sum > 0
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
                    raise NonFiniteLoss(
                        done, f"the loss is not finite ({dict(zip(out, totals, strict=True))}); the newest checkpoint is from before it"
                    )  # fmt: skip
            improved = False
            if watch and (done in (1, total) or done % eval_steps == 0):
                pause = time.monotonic()
                if done == 1 < min(eval_steps, total):
                    listener.log(done, watch.begin(method))
                else:
                    values = watch(method)
                    top1 = values.get("knn_val_top1", best)
                    improved, best = top1 > best, max(best, top1)
                    if not (done == total and config.eval.final):  # else the verdict logs them at this step
                        listener.log(done, values)
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


def check_fits(state: Mapping[str, Any], config: RunConfig, fingerprint: Mapping[str, str]) -> None:
    """Refuse a checkpoint of another config, or, unless train.allow_changes, of other data or library versions."""
    theirs = RunConfig.from_yaml(state["config"])
    ours = {key: value for key, value in config.flat().items() if not key.startswith(("scale.", "track."))}
    differing = [key for key, value in ours.items() if theirs.flat().get(key, value) != value and key not in FREE]
    if config.train.extend != "no":  # the driver has held the schedules of both lengths against each other
        differing = [key for key in differing if key not in LENGTH]
    if differing:
        raise UserError(
            f"the checkpoint was made with another config; it differs in {', '.join(differing)}. Give the run another --track.name"
        )
    changed = [
        f"{key} ({state['fingerprint'].get(key, 'none')} -> {value})"
        for key, value in fingerprint.items()
        if state["fingerprint"].get(key) != value
    ]
    if changed and not config.train.allow_changes:
        raise UserError(
            f"resuming would not be exact: {', '.join(changed)} changed since the checkpoint; --train.allow_changes true goes on all the same"
        )


FREE = {
    "data.workers",
    "data.cache_gb",
    "data.root",
    "data.download",
    "train.keep",
    "train.checkpoint_seconds",
    "train.checkpoint_steps",
    "train.allow_changes",
    "train.extend",
    "train.on_nan",
    "train.on_collapse",
    "train.log_layers",
}


def embed(config: RunConfig, method: Method, source: data.Source, device: torch.device) -> torch.Tensor:
    """(N, D) features of the whole training set in id order, for methods that assign clusters; broken images are given the mean."""
    from ..evaluation.online import features_of

    rows, ids = features_of(config, method, source.train, range(len(source.train)), device)
    features = rows.mean(0).repeat(len(source.train), 1)
    features[ids.to(rows.device)] = rows
    return features.to(device)
