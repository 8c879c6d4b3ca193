"""Images/s of contray's loop on a GPU beside plain PyTorch loops over the same batches, and of the loader by itself.

`loop` is `contray.training.loop.train`, fed with ready uint8 batches in pinned memory; `step alone` the same method, optimiser and
batches in the fewest lines; `plain torch` torchvision's network with torch's own batch norm and no line of contray. All in bf16 autocast.
"""

from __future__ import annotations

import copy
import gc
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from contray import data, model
from contray.config import RunConfig
from contray.methods._base import Batch, Clock
from contray.model import optim
from contray.model.determinism import make_deterministic
from contray.training import checkpoints, loop
from tests.gpu.runs import TINY, Context, Result, Told, equal, state_gap

WARM, STEPS = 6, int(os.environ.get("SPEED_STEPS", "20"))

KEYS = {
    "train.precision": "bf16", "train.checkpoint_seconds": 1e6, "eval.every_epochs": 0, "eval.final": (), "optim.name": "sgd", "optim.lr": 1e-3,
    "optim.warmup_epochs": 0, "optim.clip": 0, "data.renderings": 64, "data.workers": 0,
    "data.augment_on": "cpu",
}  # fmt: skip


class Watch(loop.Listener):
    """Seconds from before step WARM + 1 to after the last."""

    def __init__(self, warm: int = WARM) -> None:
        self.warm, self.asked, self.began, self.ended = warm, 0, 0.0, 0.0

    def hurry(self) -> bool:
        self.asked += 1
        if self.asked == self.warm + 1:
            self.began = now()
        return False

    def log(self, step: int, values: Any) -> None:
        self.ended = now()


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def ready(config: RunConfig, count: int = 4) -> list[dict[str, Any]]:
    """`count` batches of noise as the loader gives them."""
    rng, size, views = np.random.default_rng(0), config.train.batch_size, {}
    batches = []
    for number in range(count):
        views = {}
        for name, view in config.views.items():
            for key in view.names(name):
                views[key] = torch.from_numpy(rng.integers(0, 256, (size, view.size, view.size, 3), np.uint8))
        batch = {"views": views, "index": torch.arange(size) + number * size, "slot": torch.arange(size)}
        if torch.cuda.is_available():
            batch = {"views": {name: value.pin_memory() for name, value in views.items()}} | {
                key: value.pin_memory() for key, value in batch.items() if key != "views"
            }
        batches.append(batch | {"broken": {}})
    return batches


def loop_seconds(config: RunConfig, source: data.Source, batches: list[dict[str, Any]]) -> float:
    plain, watch = data.loader, Watch()
    data.loader = lambda drawn, steps, slots, **options: (batches[i % len(batches)] for i in steps)
    try:
        loop.train(config, source, None, watch)
    finally:
        data.loader = plain
    return watch.ended - watch.began


def fed(config: RunConfig, listener: Any) -> tuple[dict[int, float], dict[str, torch.Tensor]]:
    """Losses and final state of the loop on batches of noise."""
    plain, batches = data.loader, ready(config, 2)
    data.loader = lambda drawn, steps, slots, **options: (batches[i % len(batches)] for i in steps)
    try:
        outcome = loop.train(config, data.open_source(config.data), None, listener)
    finally:
        data.loader = plain
    return listener.loss, {name: value.detach().cpu() for name, value in outcome.method.state_dict().items()}


def step_seconds(config: RunConfig, source: data.Source, batches: list[dict[str, Any]]) -> float:
    """The same method and optimiser, in the fewest lines; the gradient's norm is not watched."""
    device, size, steps = model.device_of(config), config.train.batch_size, config.train.steps
    config = model.settled(config, device.type)
    method = model.build(config, len(source.train)).to(device).train()
    if model.channels_last(config):
        method = method.to(memory_format=torch.channels_last)  # pyright: ignore
    if config.train.compile:
        method.represent = torch.compile(method.represent, dynamic=False)
    optimizer, normalise, began = optim.build(config, method), model.normaliser(config, device), 0.0
    pairs: Any = [[list(module.parameters()) for module in pair] for pair in method.ema_pairs()]
    for step in range(steps):
        if step == WARM:
            began = now()
        raw = batches[step % len(batches)]
        views = {name: normalise(pixels) for name, pixels in raw["views"].items()}
        index, slot = (raw[key].to(device, non_blocking=True) for key in ("index", "slot"))
        clock = Clock(step * size, steps * size, len(source.train), size)
        batch = Batch(views, index, slot, size, config.seed, step, config.train.norm_groups)
        optim.set_schedules(optimizer, config, clock)
        with model.autocast(config, device), batch.norm("blocks"):
            reps = method.represent(batch, clock)
            loss = method.loss(reps, batch, clock)["loss"]
        loss.backward()
        method.after_backward(clock)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for online, target in pairs:
            torch._foreach_lerp_(target, online, 1 - method.ema_momentum(clock))
        with model.autocast(config, device):
            method.update(reps, batch, clock)
    return now() - began


class PlainSimCLR(nn.Module):
    """As one writes it by hand: torchvision, torch's batch norm, NT-Xent over one matrix."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = nn.Sequential(
            nn.Linear(2048, 2048, bias=False), nn.BatchNorm1d(2048), nn.ReLU(), nn.Linear(2048, 128, bias=False), nn.BatchNorm1d(128)
        )  # fmt: skip

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        z = F.normalize(self.head(self.net(torch.cat(images))).float(), dim=1)
        with torch.autocast(z.device.type, enabled=False):
            logits = (z @ z.T / 0.1).fill_diagonal_(-torch.inf)
            return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z) // 2))


class PlainMoCo(nn.Module):
    """v2 with one batch norm group and no shuffling."""

    queue: torch.Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.query = nn.Sequential(net, nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 128))
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(65536, 128), dim=1))
        self.at = 0

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        q = F.normalize(self.query(images[0]).float(), dim=1)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.key.parameters()), list(self.query.parameters()), 0.001)
            k = F.normalize(self.key(images[1]).float(), dim=1)
        with torch.autocast(q.device.type, enabled=False):
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.clone().T], 1) / 0.2
            loss = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))
        self.queue[self.at : self.at + len(k)] = k
        self.at = (self.at + len(k)) % len(self.queue)
        return loss


def plain_seconds(kind: Callable[[nn.Module], nn.Module], config: RunConfig, batches: list[dict[str, Any]]) -> float:
    from torchvision.models import resnet50

    device, net = model.device_of(config), resnet50()
    net.fc = nn.Identity()  # pyright: ignore
    network = kind(net).to(device, memory_format=torch.channels_last).train()  # pyright: ignore
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-3, momentum=0.9, weight_decay=1e-4)
    mean, std = (torch.tensor(x, device=device).mul(255).view(1, 3, 1, 1) for x in (config.augment.mean, config.augment.std))
    began = 0.0
    for step in range(config.train.steps):
        if step == WARM:
            began = now()
        images = []
        for pixels in batches[step % len(batches)]["views"].values():
            image = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float().sub_(mean).div_(std)
            images.append(image.contiguous(memory_format=torch.channels_last))
        with torch.autocast(device.type, torch.bfloat16):
            loss = network(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return now() - began


def measure(context: Context) -> None:
    cuda = context.device == "cuda"
    size = {"batch": 256, "side": 224} if cuda else {"batch": 8, "side": 32}
    cases: list[tuple[str, str, str, dict[str, Any], Callable[[nn.Module], nn.Module] | None]] = [
        ("moco R50, 8 norm groups", "moco", "paper", {}, PlainMoCo),
        ("simclr R50", "simclr", "paper", {}, PlainSimCLR),
        ("moco R50, 1 norm group", "moco", "paper", {"train.norm_groups": 1}, PlainMoCo),
        ("moco_v3 ViT-S", "moco_v3", "vit_s", {}, None),
        ("dino ViT-S, 2 + 8 crops", "dino", "paper", {"train.batch_size": size["batch"] // 4}, None),
        ("simclr R50, not deterministic", "simclr", "paper", {"train.deterministic": False}, PlainSimCLR),
    ]
    for title, name, preset, keys, plain in cases if cuda else cases[1:2]:
        with context.report.case("speed", title):
            base = KEYS | {"train.batch_size": size["batch"], "train.steps": WARM + STEPS, "train.device": context.device} | keys
            config = RunConfig.make(name, base, preset=preset)
            if not cuda:
                config = config.replace({f"views.{view}.size": size["side"] for view in config.views})
            source, batches = data.open_source(config.data), ready(config)
            loops: dict[str, Callable[[], float]] = {
                "loop": lambda c=config, s=source, b=batches: loop_seconds(c, s, b),
                "step alone": lambda c=config, s=source, b=batches: step_seconds(c, s, b),
            }
            if plain:
                loops["plain torch"] = lambda p=plain, c=config, b=batches: plain_seconds(p, c, b)
            make_deterministic(config.train, model.device_of(config), model.sketch(config))
            compare(context, f"{title}, batch {config.train.batch_size}", loops, config.train.batch_size)
            if cuda and title in ("moco R50, 8 norm groups", "moco_v3 ViT-S"):
                profiled(title, config, source, batches)
    with context.report.case("speed", "checkpoint"):
        snapshot(context)
    with context.report.case("speed", "loader"):
        loader(context)


def compare(context: Context, title: str, loops: dict[str, Callable[[], float]], size: int, rounds: int = 2) -> None:
    """images/s of each loop, the fastest of alternating rounds, and memory."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    peak: dict[str, float] = dict.fromkeys(loops, 0.0)
    for _, (name, measured) in itertools.product(
        range(1 if context.quick else int(os.environ.get("SPEED_ROUNDS", rounds))), loops.items()
    ):
        gc.collect()
        if context.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds[name].append(measured())
        if context.device == "cuda":
            peak[name] = torch.cuda.max_memory_allocated() / 2**30
    ours = min(seconds["loop"])
    for name, values in seconds.items():
        rate, spread = STEPS * size / min(values), max(values) / min(values) - 1
        per = 1e3 * min(values) / STEPS
        words = f"{rate:.0f} images/s, {per:.1f} ms/step, {peak[name]:.1f} GiB, loop takes {100 * (ours / min(values) - 1):+.1f} %, spread {100 * spread:.1f} %"
        context.report.add("speed", f"{title}: {name}", words)


def profiled(title: str, config: RunConfig, source: data.Source, batches: list[dict[str, Any]]) -> None:
    """Prints what the device's time goes to."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step_seconds(config.replace({"train.steps": WARM + 1}), source, batches)
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_device_time_total)
    everything = sum(row.self_device_time_total for row in rows)
    for row in rows[:12]:
        print(
            f"     profile   {title}: {100 * row.self_device_time_total / everything:5.1f} % {row.count:6} x {row.key[:110]}",
            flush=True,
        )


def twice(context: Context) -> None:
    """Networks of real size, where kernels that add in no fixed order would show; `as it was`: attention's, under warn_only."""
    cases = [
        ("moco_v3", "vit_s", 64),
        ("dino", "paper", 32),
        ("mae", "small", 64),
        ("cae", "small", 48),
        ("simclr", "paper", 64),
        ("byol", "paper", 64),
    ]
    for name, preset, size in cases if context.device == "cuda" else []:
        for kind in ("bf16", "fp32"):
            with context.report.case("twice", f"{name} {preset} {kind}"):
                keys = TINY | {
                    "train.batch_size": size,
                    "train.steps": 5,
                    "train.precision": kind,
                    "data.renderings": 8,
                    "train.device": "cuda",
                }
                config = RunConfig.make(name, keys, preset=preset)
                one, two = (Result(*fed(config, Told())) for _ in range(2))
                context.report.add(
                    "twice",
                    f"{name} {preset} {kind}, 5 steps",
                    "bit-equal" if equal(one, two) else state_gap(one, two),
                    equal(one, two),
                )
                plain = loop.make_deterministic
                loop.make_deterministic = lambda train, device, method=None, plain=plain: plain(train, device)
                try:
                    one, two = (Result(*fed(config, Told())) for _ in range(2))
                finally:
                    loop.make_deterministic = plain
                context.report.add(
                    "twice", f"{name} {preset} {kind}, warn_only", "bit-equal" if equal(one, two) else state_gap(one, two)
                )


def snapshot(context: Context) -> None:
    """How long training waits for a checkpoint: the copy of the tensors; the rest is written in a thread."""
    config = RunConfig.make("moco", KEYS | {"train.device": context.device}, preset="paper")
    method = model.build(config, 100_000).to(model.device_of(config))
    optimizer = optim.build(config, method)
    for p in method.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    state = {"method": method.state_dict(), "optimizer": optimizer.state_dict()}
    times = []
    for _ in range(3):
        began = now()
        checkpoints._snapshot(state)
        times.append(now() - began)
    count = sum(value.nbytes for value in state["method"].values())
    context.report.add(
        "speed", "checkpoint's copy, moco R50", f"{1e3 * statistics.median(times):.0f} ms ({count >> 20} MiB of method)"
    )


def photos(folder: Path, count: int) -> None:
    """JPEGs of 500 x 375 px with some texture, about 60 kB each, in two classes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        where = folder / "train" / f"class{number % 2}"
        where.mkdir(parents=True, exist_ok=True)
        coarse = cv2.resize(rng.integers(0, 256, (24, 32, 3), np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC)
        fine = rng.normal(0, 12, (375, 500, 3))
        cv2.imwrite(str(where / f"{number}.jpg"), np.clip(coarse + fine, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])


def loader(context: Context) -> None:
    """The loader alone, then a whole run fed by it: MoCo v2 ResNet-50 from JPEGs."""
    cuda, cores = context.device == "cuda", os.cpu_count() or 1
    size = 128 if cuda else 32
    with tempfile.TemporaryDirectory() as folder:
        photos(Path(folder), 2 * size)
        for title, name, preset, more in (
            ("simclr", "simclr", "paper", {}),
            ("moco", "moco", "paper", {"method.queue_size": size}),
        ):
            keys = KEYS | {
                "data.source": folder, "data.memory_gb": 0.0, "data.workers": cores, "train.batch_size": size, "train.steps": 4 * cores,
                "train.device": context.device, "train.norm_groups": 1,
            }  # fmt: skip
            config = RunConfig.make(name, keys | more, preset=preset)
            source, steps = data.open_source(config.data), config.train.steps
            drawn = data.GlobalBatches(source.train, config.views, strength=1.0, batch_size=size, seed=0)
            stream: Iterator[Any] = iter(data.loader(drawn, range(steps), range(size), workers=cores, pin=cuda))
            arrivals = [time.perf_counter() for _ in stream]
            rate = (
                (steps - cores) * size / (arrivals[-1] - arrivals[cores - 1])
            )  # each process makes whole batches: from the end of its first
            context.report.add("speed", f"loader alone, {title}'s two views from JPEG", f"{rate:.0f} images/s, {cores} processes")
            if cuda and name == "moco":
                watch = Watch(cores)
                loop.train(config, source, None, watch)
                rate = (steps - cores) * size / (watch.ended - watch.began)
                context.report.add("speed", "moco R50 fed by it", f"{rate:.0f} images/s")
