"""Linear probes on frozen features: a grid of learning rates and decays trained together, the best picked on held-out rows.

Legend of shapes: N fit rows, B minibatch, D features, C classes, P probes of the grid. Class scores are laid out (B, C, P),
probes last: on a CPU the softmax over a middle axis is many times faster than over a last axis of ten classes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from ._base import Citation, Measured, Parts, Subject, setting

ABOUT = "linear probes of frozen features, a grid of them trained at once, beside the untrained encoder's and raw pixels'"
PAPER = Citation("Colorful Image Colorization (the linear evaluation)", 2016, "https://arxiv.org/abs/1603.08511")
NEEDS = ("labels",)
METRICS = ("linear_val_top1",)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Keys eval.linear.*."""

    lrs: tuple[float, ...] = setting(
        (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        "learning rates of the grid",
        unit="1 / largest eigenvalue of the features' correlation",
        gt=0,
    )
    decays: tuple[float, ...] = setting((0.0, 1e-3, 1e-2), "weight decays of the grid", ge=0)
    epochs: int = setting(60, "passes over the cached features", unit="epochs", ge=1)


def evaluate(subject: Subject, options: Config) -> Measured:
    """{prefix}linear_val_top1, which picked the rate and the decay, and, where the test set is opened, {prefix}linear_top1 of a probe that these
    fit to all labels, as papers do (Kornblith et al. 2019, https://arxiv.org/abs/1805.08974, appendix).
    """
    from .common.protocol import beside

    def hits(encoder: str, parts: Parts) -> tuple[Tensor, Tensor | None]:
        found = probed(subject, parts, options)
        if found.probe.on_edge:
            logger.info(
                "%slinear probe: lr %g, decay %g is on the edge of eval.linear.lrs, eval.linear.decays",
                encoder, found.probe.lr, found.probe.decay,
            )  # fmt: skip
        return found.held, found.tested

    return beside(subject, "linear", hits)


class Probed(NamedTuple):
    """A probe, which held-out rows it tells (M,) bool, and which test rows, where there are such, one of its settings does that these fit to all labels."""

    probe: ProbeResult
    held: Tensor
    tested: Tensor | None

    def top1(self, name: str) -> dict[str, float]:
        """Shares by `name`, whose {which} is `_val` for the held-out rows and empty for the test's."""
        hits = {"_val": self.held, "": self.tested}
        return {name.format(which=which): each.double().mean().item() for which, each in hits.items() if each is not None}


def probed(subject: Subject, parts: Parts, options: Config, *, classes: int = 0, name: str = "linear") -> Probed:
    """Fit the probes of eval.{name} to features, pick one on the held-out rows, fit that one again to all labels and try it on the test rows.

    classes: that the labels tell, where they are not the data's own.
    """
    fit, val, test = parts.fit, parts.val, parts.test
    assert fit.y is not None
    assert val.y is not None
    fitting: Any = {"epochs": options.epochs, "seed": subject.config.seed, "device": subject.device, "key": f"eval.{name}.lrs"}
    probe = linear_probe(
        fit.x, fit.y, val.x, val.y, lrs=options.lrs, decays=options.decays, classes=classes or subject.classes, **fitting
    )
    held = probe.hits(val.x, val.y)
    if test is None or test.y is None:
        return Probed(probe, held, None)
    return Probed(probe, held, probe.refitted([fit.x, val.x], torch.cat([fit.y, val.y]), **fitting).hits(test.x, test.y))


MOMENTUM = 0.9
SPECTRUM_ROWS = 4096  # rows that estimate the largest eigenvalue; it sets a unit, a few per cent do not matter
POWER_STEPS = 16
NO_CHANCE = 1e-12  # smaller probabilities count as 0: they teach nothing, and subnormal products slow a CPU down tenfold


@dataclass(frozen=True)
class ProbeResult:
    """The best linear probe of a grid: class scores are ((x - mean) / std) @ weights + bias.

    weights (D, C), bias (C,), mean and std (D,), on the CPU; lr, decay: its settings; val_top1: what it was picked by, in [0, 1];
    grid: (lr, decay, val_top1) of every probe, 0 where it diverged; on_edge: only probes on the edge of the grid reach val_top1,
    so that a wider grid may hold a better one (a decay of 0 is no edge).
    """

    weights: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    lr: float
    decay: float
    val_top1: float
    grid: list[tuple[float, float, float]]
    on_edge: bool

    def top1(self, x: Tensor, y: Tensor) -> float:
        """Share of the rows x (M, D) whose highest score is their label y (M,), in [0, 1]."""
        return self.hits(x, y).double().mean().item()

    def hits(self, x: Tensor, y: Tensor) -> Tensor:
        """(M,) bool: the rows x (M, D) whose highest score is their label y (M,)."""
        return LinearProbes(self.mean, self.std, self.weights[..., None], self.bias[:, None]).hits(x, y)[:, 0]

    def refitted(
        self,
        x: Sequence[Tensor],
        y: Tensor,
        *,
        epochs: int,
        seed: int,
        device: torch.device | str,
        batch_size: int = 256,
        key: str = "eval.linear.lrs",
    ) -> ProbeResult:
        """The probe of this rate and decay on other rows, (N_i, D) that follow one another and y (N,): all that have labels, once it is picked.

        Raises ConfigError where it diverges on these.
        """
        lr, decay = torch.tensor([self.lr]), torch.tensor([self.decay])
        probes = LinearProbes.fit(
            x, y, lr, decay, epochs=epochs, batch_size=batch_size, classes=len(self.bias), seed=seed, device=device
        )
        if not (probes.weights.isfinite().all() and probes.bias.isfinite().all()):
            raise ConfigError(key, f"the linear probe of rate {self.lr:g} diverged on all labels; give smaller ones")
        weights, bias, mean, std = (each.cpu() for each in (probes.weights[..., 0], probes.bias[:, 0], probes.mean, probes.std))
        return replace(self, weights=weights, bias=bias, mean=mean, std=std)


@dataclass(frozen=True)
class LinearProbes:
    """P linear probes on the same standardised features: mean, std (D,), weights (D, C, P), bias (C, P)."""

    mean: Tensor
    std: Tensor
    weights: Tensor
    bias: Tensor

    def standardise(self, x: Tensor) -> Tensor:
        """(B, D) features -> float32 features on the probes' device."""
        return x.to(self.mean.device).float().sub(self.mean).div_(self.std)

    def logits(self, z: Tensor) -> Tensor:
        """(B, D) standardised features -> class scores (B, C, P)."""
        return torch.addmm(self.bias.flatten(), z, self.weights.flatten(1)).view(len(z), *self.bias.shape)

    def top1(self, x: Tensor, y: Tensor) -> Tensor:
        """Share of the rows x (M, D) whose highest score is their label y (M,), for each probe: (P,) float64, on the CPU."""
        return self.hits(x, y).double().mean(0)

    @torch.no_grad()
    def hits(self, x: Tensor, y: Tensor, rows: int = 1024) -> Tensor:
        """(M, P) bool, on the CPU: the rows x (M, D) whose highest score is their label y (M,), for each probe."""
        predicted = [self.logits(self.standardise(features)).argmax(1).cpu() for features in x.split(rows)]  # (rows, P) each
        return torch.cat(predicted) == y.cpu()[:, None]

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        x: Tensor | Sequence[Tensor],
        y: Tensor,
        lr: Tensor,
        decay: Tensor,
        *,
        epochs: int,
        batch_size: int,
        classes: int,
        seed: int,
        device: torch.device | str,
    ) -> LinearProbes:
        """Train a probe for each (lr, decay), both (P,), on x (N, D), or several that follow one another, y (N,): softmax regression by SGD.

        Weights start at zero, momentum is 0.9, the rate falls to 0 along a cosine. Features are standardised by the mean and
        standard deviation of x (constant ones are only centred). `lr` is in units of 1 / the largest eigenvalue of their
        correlation matrix, so that one grid fits features of any width and redundancy; `decay` is the factor of the weights (not
        the bias) in the gradient, as in torch's SGD. Every row is seen once per epoch, in an order that is a pure function of
        `seed`; all probes see the same minibatches, and each trains as it would alone.
        """
        rows = Stacked([x] if isinstance(x, Tensor) else x)
        mean, std = rows.moments()
        std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)
        count, dim, device = len(lr), len(mean), torch.device(device)
        shape = (dim, classes, count)
        probes = cls(mean.to(device), std.to(device), torch.zeros(shape, device=device), torch.zeros(shape[1:], device=device))
        weights, bias = probes.weights.view(dim, -1), probes.bias.view(-1)  # (D, C*P), (C*P,)
        velocity, bias_velocity = torch.zeros_like(weights), torch.zeros_like(bias)
        decay = decay.to(device).repeat(classes)  # (C*P,)
        every = torch.arange(0, len(rows), math.ceil(len(rows) / SPECTRUM_ROWS))
        rate = lr.to(device).repeat(classes) / _largest_eigenvalue(probes.standardise(rows[every]))
        generator = torch.Generator().manual_seed(seed)
        step, steps = 0, epochs * math.ceil(len(rows) / batch_size)
        for _ in range(epochs):
            for chosen in torch.randperm(len(rows), generator=generator).split(batch_size):
                z = probes.standardise(rows[chosen])  # (B, D)
                gradient = torch.threshold_(probes.logits(z).softmax(1), NO_CHANCE, 0.0)  # (B, C, P)
                gradient[torch.arange(len(z), device=device), y[chosen.to(y.device)].to(device)] -= 1
                gradient = gradient.div_(len(z)).flatten(1)  # (B, C*P)
                velocity.addmm_(z.T, gradient, beta=MOMENTUM).addcmul_(weights, decay)
                bias_velocity.mul_(MOMENTUM).add_(gradient.sum(0))
                now = rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
                weights.addcmul_(velocity, now, value=-1)
                bias.addcmul_(bias_velocity, now, value=-1)
                step += 1
        return probes


class Stacked:
    """Features of several parts, (N_i, D) each, read as one (N, D) without a copy: some are mapped from files."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, chosen: Tensor) -> Tensor:
        """(B, D) rows of (B,) places, in their order."""
        if len(self.parts) == 1:
            return self.parts[0][chosen.to(self.parts[0].device)]
        found, first = self.parts[0].new_empty(len(chosen), self.parts[0].shape[1]), 0
        for part in self.parts:
            own = (chosen >= first) & (chosen < first + len(part))
            found[own.to(found.device)] = part[(chosen[own] - first).to(part.device)]
            first += len(part)
        return found

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (D,) each, float32."""
        shares = [len(part) / len(self) for part in self.parts]
        means, stds = [part.float().mean(0) for part in self.parts], [part.float().std(0, correction=0) for part in self.parts]
        mean = sum(share * each for share, each in zip(shares, means, strict=True))
        variance = sum(w * (std**2 + (each - mean) ** 2) for w, each, std in zip(shares, means, stds, strict=True))
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        return mean, variance.sqrt()


def linear_probe(
    fit_x: Tensor,
    fit_y: Tensor,
    val_x: Tensor,
    val_y: Tensor,
    *,
    lrs: tuple[float, ...],
    decays: tuple[float, ...],
    epochs: int,
    batch_size: int = 256,
    classes: int,
    seed: int,
    device: torch.device | str | None = None,
    key: str = "eval.linear.lrs",
) -> ProbeResult:
    """Train the probes of all pairs of `lrs` and `decays` on fit_x (N, D), fit_y (N,), pick the best on val_x (M, D), val_y (M,).

    Of equally good probes the one of the smaller lr wins, then the one of the smaller decay. What the numbers mean stands in
    `LinearProbes.fit`. Deterministic given `seed`; the global generator is not touched. Features may lie on the CPU while the
    work is done on `device` (default: theirs). Raises ConfigError where every probe diverges.
    """
    pairs = [(lr, decay) for lr in sorted(lrs) for decay in sorted(decays)]
    lr, decay = torch.tensor(pairs).T
    probes = LinearProbes.fit(
        fit_x, fit_y, lr, decay, epochs=epochs, batch_size=batch_size, classes=classes, seed=seed, device=device or fit_x.device
    )
    finite = (probes.weights.isfinite().all(0) & probes.bias.isfinite()).all(0).cpu()  # (P,)
    if not finite.any():
        raise ConfigError(key, f"every linear probe diverged with {' '.join(f'{lr:g}' for lr in lrs)}; give smaller ones")
    top1 = probes.top1(val_x, val_y).where(finite, 0.0).tolist()
    grid = [(lr, decay, score) for (lr, decay), score in zip(pairs, top1, strict=True)]
    best = max(range(len(grid)), key=lambda probe: top1[probe])  # the first of the best
    return ProbeResult(
        probes.weights[..., best].cpu(),
        probes.bias[:, best].cpu(),
        probes.mean.cpu(),
        probes.std.cpu(),
        *grid[best],
        grid=grid,
        on_edge=all(_on_edge(lr, lrs) or _on_edge(decay, decays) for lr, decay, score in grid if score == top1[best]),
    )


def _on_edge(value: float, values: tuple[float, ...]) -> bool:
    return len(values) > 1 and value > 0 and value in (min(values), max(values))


def _largest_eigenvalue(z: Tensor) -> Tensor:
    """Of z'z / N for standardised features z (N, D), by power iteration; at least 1, which it is wherever one feature varies."""
    direction = torch.randn(z.shape[1], generator=torch.Generator().manual_seed(0)).to(z.device)
    for _ in range(POWER_STEPS):
        direction = z.T @ (z @ (direction / direction.norm().clamp_min(1e-12))) / len(z)  # (D,)
    return direction.norm().clamp_min(1.0)
