"""Optimisers and the learning-rate schedule, each a pure function of the Clock and the config."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from ..config import RunConfig
from ..config.sections import OptimConfig
from ..methods._base import Clock, Method
from ..methods._parts import cosine
from .anatomy import undecayed


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman & Ginsburg 2017, arXiv 1708.03888), fused over tensors.

    mu <- momentum * mu + q (g + wd w), w <- w - lr mu, where q = trust |w| / |g + wd w| for tensors of two and more dimensions and
    1-D parameters (biases, norms) get neither decay nor q. A group whose `adapted` is False has q = 1.

    clip_lr: q = min(trust |w| / (|g| + wd |w|) / lr, 1) (vturrisi/solo-learn, `solo/utils/lars.py`). rate_in_velocity: mu <- momentum * mu +
    lr q (g + wd w), w <- w - mu (google-research/simclr, `lars_optimizer.py`); while lr is constant that is the same.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        clip_lr: bool = False,
        rate_in_velocity: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})
        self.clip_lr, self.rate_in_velocity = clip_lr, rate_in_velocity

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            wide = [i for i, p in enumerate(params) if p.ndim > 1]
            if wide:
                weights, raw = [params[i] for i in wide], [grads[i] for i in wide]
                updates = torch._foreach_add(raw, weights, alpha=group["weight_decay"])
                if group.get("adapted", True):
                    torch._foreach_mul_(updates, self.ratios(_norms(weights), _norms(raw if self.clip_lr else updates), group))
                for i, update in zip(wide, updates, strict=True):
                    grads[i] = update
            buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, grads, alpha=group["lr"] if self.rate_in_velocity else 1)
            torch._foreach_add_(params, buffers, alpha=-1 if self.rate_in_velocity else -group["lr"])

    def ratios(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> tuple[Tensor, ...]:
        """q of each tensor, from their norms and those of their gradients (updates, without clip_lr); 1 where one of them is zero."""
        if self.clip_lr:
            q = (group["trust"] * w / (g + group["weight_decay"] * w + 1e-8) / max(group["lr"], 1e-30)).clamp(max=1)
        else:
            q = group["trust"] * w / g
        return torch.where((w > 0) & (g > 0), q, torch.ones_like(w)).unbind()


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """(n,) of n tensors: scalars apart would take a kernel for each operation of each."""
    return torch.stack(torch._foreach_norm(list(tensors)))


class LARC(Optimizer):
    """LARS as SwAV trains with it (NVIDIA apex's LARC, clip=False), fused over tensors: every tensor is adapted, 1-D ones included.

    q = trust |w| / (|g| + wd |w|), or 1 where w or g is zero; mu <- momentum * mu + q (g + wd w); w <- w - lr mu.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 0.001
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads, decay = [p.grad for p in params], group["weight_decay"]
            updates = torch._foreach_add(grads, params, alpha=decay)
            w, g = _norms(params), _norms(grads)
            ratios = torch.where((w > 0) & (g > 0), group["trust"] * w / (g + decay * w), torch.ones_like(w))
            torch._foreach_mul_(updates, ratios.unbind())
            buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])


def scaled_lr(config: OptimConfig, batch_size: int) -> float:
    """The peak rate of a run: the base rate times batch / 256, times the root of the batch (SimCLR v2), or as it stands."""
    factor = {"linear": batch_size / 256, "sqrt": batch_size**0.5, "none": 1.0}[config.lr_scaling]
    return config.lr * factor


def warmup_steps(config: OptimConfig, steps_per_epoch: int) -> int:
    """Steps of linear warm-up."""
    return round(config.warmup_epochs * steps_per_epoch)


def learning_rate(config: RunConfig, clock: Clock, constant: bool = False) -> float:
    """The rate of the step that `clock` stands before; `constant` leaves out the decay (SimSiam's predictor)."""
    optim, peak = config.optim, scaled_lr(config.optim, config.train.batch_size)
    warm, total = warmup_steps(optim, clock.dataset // clock.batch), clock.total // clock.batch
    if clock.step < warm:
        share = clock.step / max(warm - 1, 1)  # from the start to the peak, both included
        return peak * (optim.warmup_start + (1 - optim.warmup_start) * share)
    if constant or optim.schedule == "constant":
        return peak
    if optim.schedule == "step":
        return peak * optim.gamma ** bisect.bisect_right(sorted(optim.milestones), clock.fraction)
    return cosine(peak, peak * optim.lr_end, (clock.step - warm) / max(total - warm, 1))


def build(config: RunConfig, method: Method) -> Optimizer:
    """The configured optimiser over the method's parameter groups; those that do not decay apart (optim.decay_norms false): 1-D
    parameters, and what networks of others name in no_weight_decay().
    """
    optim, groups = config.optim, []
    exempt = undecayed(method)
    for group in method.param_groups():
        options = {"lr_scale": 1.0, "decay_scale": 1.0, "schedule": "decay"} | {
            key: value for key, value in group.items() if key != "params"
        }
        decayed = [p for p in group["params"] if optim.decay_norms or (p.ndim > 1 and id(p) not in exempt)]
        bare = [p for p in group["params"] if not optim.decay_norms and (p.ndim <= 1 or id(p) in exempt)]
        groups.append({"params": decayed, **options})
        if bare:
            groups.append({"params": bare, **options, "decay_scale": 0.0})
    if optim.name in ("lars", "larc"):
        shared = {"lr": optim.lr, "momentum": optim.momentum, "weight_decay": optim.weight_decay, "trust": optim.trust}
        own = {"clip_lr": optim.clip_lr, "rate_in_velocity": optim.rate_in_velocity}
        return LARS(groups, **shared, **own) if optim.name == "lars" else LARC(groups, **shared)
    if optim.name == "adamw":
        return AdamW(groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True)
    return SGD(groups, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay, fused=True)


def weight_decay(config: RunConfig, clock: Clock) -> float:
    """The decay of the step that `clock` stands before."""
    optim = config.optim
    return (
        optim.weight_decay if optim.weight_decay_end < 0 else cosine(optim.weight_decay, optim.weight_decay_end, clock.fraction)
    )


def set_schedules(optimizer: Optimizer, config: RunConfig, clock: Clock) -> float:
    """Sets rate and weight decay of every group for this step; returns the rate of the first."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr_scale"] * learning_rate(config, clock, constant=group["schedule"] == "constant")
        group["weight_decay"] = group["decay_scale"] * weight_decay(config, clock)
    return optimizer.param_groups[0]["lr"]


def clip_gradients(config: OptimConfig, params: Sequence[Tensor]) -> Tensor:
    """Clips the summed gradients in place where the config asks for it; returns the norm over all of them from before."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    if config.clip and config.clip_by == "tensor":
        for p in params:
            torch.nn.utils.clip_grad_norm_(p, config.clip)
    elif config.clip:
        torch.nn.utils.clip_grads_with_norm_(params, config.clip, norm)
    return norm


class Average:
    """The averaged networks of a method (its ema_pairs), all moved at once after the optimiser's step."""

    def __init__(self, method: Method) -> None:
        self.method, pairs = method, list(method.ema_pairs())
        self.online: list[Tensor] = [p for online, _ in pairs for p in online.parameters()]
        self.targets: list[Tensor] = [p for _, target in pairs for p in target.parameters()]

    @torch.no_grad()
    def move(self, clock: Clock) -> None:
        """target <- m * target + (1 - m) * online."""
        if self.targets:
            torch._foreach_lerp_(self.targets, self.online, 1 - self.method.ema_momentum(clock))
