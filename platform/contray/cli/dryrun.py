"""`--dry-run`: what a run would be, what it would cost, and nothing started."""

from __future__ import annotations

import time

import torch

from .. import data, model
from ..config import RunConfig
from ..data.splits import ArraySplit, EncodedSplit
from ..evaluation.common.samples import check_measurable
from ..methods._base import Batch, Clock
from ..model import backbones, hardware, optim, shapes
from ..model.chunks import divide


def describe(config: RunConfig) -> tuple[RunConfig, dict[str, str]]:
    """Print the resolved config, then what follows from it, and give both. One small step on random pixels is measured, here and now."""
    from rich.console import Console
    from rich.table import Table

    source = data.announced(config)
    asked, kind = model.open_keys(config), model.device_of(config).type
    config = model.settled(config, kind)
    model.check(config, len(source.train))
    data.check_views(source.train, config.views)
    check_measurable(config, source)
    batch, samples = config.train.batch_size, len(source.train)
    per_epoch = samples // batch
    total = config.total_steps(samples)
    method = model.build(config, samples)
    rows = min(batch, 32 if max(map(backbones.image_side, config.views.values())) <= 64 else 8)
    seconds, activations = trial_step(config, rows, samples)
    weights = sum(p.nbytes for p in method.parameters())
    trained = sum(p.nbytes for p in method.parameters() if p.requires_grad)
    states = {"sgd": 1, "lars": 1, "larc": 1, "adamw": 2}[config.optim.name]
    fixed = weights + sum(b.nbytes for b in method.buffers()) + trained * (1 + states)
    least, most = config.scale.workers
    limit, share = config.scale.max_batch_per_worker, -(-batch // max(most, 1))
    passes = {
        world: len(divide(method, batch, config.train.norm_groups, limit, world, 0))
        for world in sorted({max(least, 1), max(most, 1)})
    }
    chunked = "; ".join(
        f"{count} of at most {limit} samples each at {world} worker{'s' if world > 1 else ''}"
        for world, count in passes.items()
        if count > 1
    )
    rate = optim.scaled_lr(config.optim, batch)
    warm = optim.warmup_steps(config.optim, per_epoch)
    counts = [sum(p.numel() for p in method.parameters() if p.requires_grad or every) / 1e6 for every in (False, True)]
    facts = {
        "run": config.track.name or config.run_name,
        "data": f"{source.name}, {samples:,} training samples, {'no labels' if source.train.labels is None else f'{len(source.train.classes)} classes'}",
        "steps": f"{total:,} of {batch} samples ({total / per_epoch:.1f} epochs of {per_epoch} full batches)",
        "learning rate": f"{rate:.4g} at its peak ({config.optim.lr:g} per 256, {config.optim.lr_scaling} scaling), "
        f"{warm} warm-up steps, then {config.optim.schedule}",
        "effective negatives": f"{method.negatives(batch):,} per anchor" if method.negatives(batch) else "none",
        "norm groups": f"{config.train.norm_groups} of {batch // config.train.norm_groups} samples, whatever the number of workers",
        "workers": "this process, without Ray"
        if most == 0
        else f"{least} to {most}, {batch // max(most, 1)} samples each at {most}",
        **({"chunks": chunked} if chunked else {}),
        "precision": _precision(config, asked, kind),
        "parameters": f"{counts[0]:.1f} M trained, {counts[1]:.1f} M in all",
        "memory": f"about {_bytes(fixed + activations * (min(share, limit) if limit else share))} per worker ({_bytes(fixed)} weights and optimiser, "
        f"{_bytes(activations)} per sample)",
        "data's memory": _data_memory(config, source),
        "time": f"about {_duration(seconds * batch * total)} on this machine's {model.device_of(config).type} alone "
        f"(a step of {rows} samples was measured; augmentation not included)",
        "checkpoints": f"{config.scale.storage}/{config.track.name or config.run_name}, every {config.train.checkpoint_seconds:g} s",
    }
    table = Table("", "dry run: nothing was started", show_header=True)
    for name, text in facts.items():
        table.add_row(name, text)
    print(config.to_yaml())
    Console(highlight=False).print(table)
    return config, facts


def trial_step(config: RunConfig, rows: int, samples: int) -> tuple[float, int]:
    """(seconds per sample, bytes kept for the backward pass per sample) of a forward and backward step on random pixels.

    samples: size of the training set.
    """
    device = model.device_of(config)
    method = model.build(config, samples).to(device).train()
    names = [(key, view) for name, view in config.views.items() for key in view.names(name)]
    dtype = model.DTYPES[config.train.precision]
    views = {key: shapes.noise(view, rows, device, dtype) for key, view in names}
    if model.channels_last(config):
        views = {key: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for key, x in views.items()}
    slot = torch.arange(rows, device=device)
    batch = Batch(views, slot, slot, rows, track=False)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in [*method.parameters(), *method.buffers()]}
    best = float("inf")
    for _ in range(3):
        kept.clear()
        began = time.perf_counter()
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            model.autocast(config, device),
            batch.norm("blocks"),
        ):
            loss = method.loss(method.represent(batch, Clock(0, rows, rows, rows)), batch, Clock(0, rows, rows, rows))["loss"]
        loss.backward()
        loss.item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return best / rows, sum(size for place, size in kept.items() if place not in own) // rows


def _precision(config: RunConfig, asked: list[str], kind: str) -> str:
    """What the numbers are, and why."""
    layout = "channels last" if model.channels_last(config) else "channels first"
    if "train.precision" not in asked:
        return f"{config.train.precision}, {layout}"
    where = "; a cluster's workers may have others" if config.scale.address else ""
    return f"{config.train.precision}, {layout} (auto: {hardware.quick_bf16(kind)[1]}{where})"


def _data_memory(config: RunConfig, source: data.Source) -> str:
    """What images take once decoded, or encoded where they do not fit."""
    split = source.train
    if isinstance(split, ArraySplit):
        return f"{_bytes(split.images.nbytes)} decoded, in each worker"
    if not isinstance(split, EncodedSplit):
        return "drawn when they are asked for"
    decoded = split.decoded_bytes()
    if decoded <= config.data.cache_gb * 1e9:
        return f"{_bytes(decoded)} decoded once and kept (data.cache_gb {config.data.cache_gb:g}), in each worker"
    return f"decoded at each access: {_bytes(decoded)} would not fit data.cache_gb {config.data.cache_gb:g}; {split.encoded.memory()}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
