"""What a run costs, found out by doing a little of it: some steps on random pixels, some views of real images, some images encoded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import model
from ..config import RunConfig
from ..data.recipe import Recipes
from ..data.views import Pipeline
from ..methods._base import Batch, Clock, Method, View
from ..model import optim, shapes
from ..model.recompute import recompute, seen
from ..processors import cores
from .facts import Images

SECONDS = 0.6  # that the measured steps of one trial take, about
_CLUSTERED = 2048  # samples on which what a method does between epochs is measured


@dataclass(frozen=True)
class Trial:
    """Measured costs: on a CPU in seconds of one thread, by the process's own clock, so that neighbours on the machine do not count.

    seconds: a sample's forward and backward pass; update: a step's optimiser and buffers; views: CPU seconds to draw a sample's
    views; encode: an image's features; epoch: what comes between epochs, per sample; activations: bytes per sample that the backward pass needs;
    fixed: bytes of weights, gradients, optimiser and buffers; optimizer: of these the optimiser's; rows: of the measured step; speed: of a step
    on all cores, as a multiple of one thread's, by the wall's clock: two cores may do the work of 1.3, and small networks gain less.
    """

    seconds: float
    update: float
    views: float
    encode: float
    epoch: float
    activations: int
    fixed: int
    rows: int
    speed: float = 1.0
    optimizer: int = 0


def measure(config: RunConfig, images: Images) -> Trial:
    """Costs on this machine's device. Takes a second or two, more where a single small step does."""
    config = model.settled(config, model.device_of(config).type)
    device, samples = model.device_of(config), images.count
    with _unseen():
        method = model.build(config, samples).to(device).train()
        if model.channels_last(config):
            method = method.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        blocks = recompute(method) if config.scale.activation_checkpointing else []
        optimizer, average = optim.build(config, method), optim.Average(method)
        for (
            each
        ) in method.buffers():  # what a run's first step fits, such as the tokens of patches, is not measured in every step
            if each.is_floating_point() and not each.any():
                each.normal_()
        step = _Step(config, method, device, blocks)
        rows = min(config.train.batch_size, 2)
        seconds = step(rows)
        while seconds < 0.15 * SECONDS and rows < config.train.batch_size:
            rows = min(4 * rows, config.train.batch_size)
            seconds = step(rows)
        if seconds < SECONDS:
            seconds = min(seconds, _best(lambda: step(rows), 0.5 * SECONDS))
        bare = [each for each in method.parameters() if each.grad is not None]
        update = _best(lambda: _update(step, optimizer, average), 0.2 * SECONDS)
        encode = _best(lambda: step.encode(rows), 0.2 * SECONDS) / rows
        speed = _speed(step, rows, seconds, config.scale.cpus_per_worker or cores()) if device.type == "cpu" else 1.0
        state = _optimizer_bytes(optimizer)
        fixed = _nbytes([*method.parameters(), *method.buffers()]) + _nbytes(bare) + state
        epoch = _epoch(config, encode, device, step.now)
    views, kept = draw_seconds(config, images), step.kept // rows
    return Trial(seconds / rows, update, views, encode, epoch, kept, fixed, rows, speed, state)


class _Step:
    """Forward and backward passes on noise, timed; `kept`: bytes that the last one kept for its backward pass."""

    def __init__(self, config: RunConfig, method: Method, device: torch.device, blocks: Sequence[nn.Module]) -> None:
        self.config, self.method, self.device, self.kept, self.blocks = config, method, device, 0, blocks
        self.own = {each.untyped_storage().data_ptr() for each in [*method.parameters(), *method.buffers()]}
        self.reps: dict[str, Tensor] = {}
        self.now = time.process_time if device.type == "cpu" else time.perf_counter
        self.batch, self.clock = Batch({}, torch.zeros(1), torch.zeros(1), 1), Clock(0, 1, 1, 1)

    def __call__(self, rows: int) -> float:
        views = {key: self._noise(view, rows) for name, view in self.config.views.items() for key in view.names(name)}
        slot = torch.arange(rows, device=self.device)
        self.batch, self.clock = Batch(views, slot, slot, rows, track=False), Clock(rows, 2 * rows, rows, rows)
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        inputs = seen(self.blocks, keep)
        self.method.zero_grad(set_to_none=True)
        began = self.now()
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            model.autocast(self.config, self.device),
            self.batch.norm("blocks"),
        ):
            self.reps = self.method.represent(self.batch, self.clock)
            loss = self.method.loss(self.reps, self.batch, self.clock)["loss"]
        for hook in inputs:
            hook.remove()
        loss.backward()
        loss.item()  # waits for the device
        self.kept = sum(size for place, size in kept.items() if place not in self.own)
        return self.now() - began

    def encode(self, rows: int) -> float:
        inputs = {name: self._noise(view, rows) for name, view in type(self.method).eval_views(self.config.views).items()}
        began = self.now()
        with torch.no_grad(), model.autocast(self.config, self.device):
            self.method.eval()
            self.method.encode(inputs).sum().item()
            self.method.train()
        return self.now() - began

    def _noise(self, view: View, rows: int) -> Tensor:
        x = shapes.noise(view, rows, self.device, model.DTYPES[self.config.train.precision], self.config.channels)
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 and model.channels_last(self.config) else x


def _speed(step: _Step, rows: int, alone: float, threads: int) -> float:
    """How many times faster a step is on `threads` threads than on one, on which it takes `alone` seconds."""
    if threads == 1:
        return 1.0
    torch.set_num_threads(threads)
    try:
        step.now = time.perf_counter
        step(rows)  # starts the threads
        return min(max(alone / _best(lambda: step(rows), 0.5 * SECONDS), 0.5), float(threads))
    finally:
        step.now = time.process_time
        torch.set_num_threads(1)


def _update(step: _Step, optimizer: torch.optim.Optimizer, average: Any) -> float:
    began = step.now()
    optimizer.step()
    with model.autocast(step.config, step.device), torch.no_grad():
        average.move(step.clock)
        step.method.update(dict(step.reps), step.batch, step.clock)
    if step.device.type == "cuda":
        torch.cuda.synchronize()
    return step.now() - began


def _epoch(config: RunConfig, encode: float, device: torch.device, now: Callable[[], float]) -> float:
    """Seconds per sample of what a method does between epochs; the first time may be another one, so the second counts."""
    if type(model.sketch(config)).begin_epoch is Method.begin_epoch:
        return 0.0
    embedded = []
    try:
        method = model.build(config, _CLUSTERED).to(device)
        features = torch.randn(_CLUSTERED, method.out_dim, device=device)

        def embed() -> Tensor:
            embedded.append(1)
            return features

        clock = Clock(0, _CLUSTERED, _CLUSTERED, config.train.batch_size)
        method.begin_epoch(clock, embed)
        embedded.clear()
        began = now()
        method.begin_epoch(clock, embed)
        spent = (now() - began) / _CLUSTERED
    except (ValueError, RuntimeError, IndexError):  # more clusters than samples: such runs embed at least
        return encode
    return spent + (encode if embedded else 0.0)


def draw_seconds(config: RunConfig, images: Images) -> float:
    """CPU seconds to draw the views of one sample from decoded images, or what the device makes them of."""
    if not images.some:
        return 0.0
    if config.data.augment_on == "device":
        recipes, ids = Recipes(config.views, config.augment.strength), np.arange(256)
        sizes = {stage.name: np.full((256, 2), images.some[0].shape[:2]) for stage in recipes.stages}
        began = time.process_time()
        recipes((0, 0), ids, sizes)
        return (time.process_time() - began) / 256
    views = {name: view for name, view in config.views.items() if view.kind != "array"}  # which are read, not drawn
    pipeline = Pipeline(views, config.augment.strength, config.data.channels)
    texts = {view.source for view in views.values() if view.kind == "tokens"}

    def draw() -> float:
        began = time.process_time()
        for i, image in enumerate(images.some):
            pipeline(lambda column, rng, image=image: "text" if column in texts else image, (0, 0, i))
        return (time.process_time() - began) / len(images.some)

    draw()
    return min(draw() for _ in range(2))


def _best(run: Callable[[], float], seconds: float) -> float:
    """The shortest of three runs, or of one that takes long by itself."""
    best = run()
    for _ in range(2):
        if best > seconds:
            break
        best = min(best, run())
    return best


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """One thread, and torch's generator and threads left as they were: the run that follows draws what it had drawn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
            yield
    finally:
        torch.set_num_threads(threads)


def _nbytes(tensors: Any) -> int:
    return sum(each.nbytes for each in tensors)


def _optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    states: list[Mapping[str, Any]] = list(optimizer.state.values())
    return sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))
