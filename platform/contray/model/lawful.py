"""Other people's networks under our laws: batch norm over norm groups, draws per row, no other state; and whether one keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..methods._base import Batch
from ..methods._norms import BatchNorm, Dropout, DropPath, folding

DROPOUTS = {nn.Dropout: False, nn.Dropout1d: True, nn.Dropout2d: True, nn.Dropout3d: True}  # whether whole channels go
ROWS = 8  # that `broken` tries: two norm groups; over two rows of one pixel each, batch norm would blow rounding up


class NormAct(BatchNorm):
    """Batch norm, then dropout, then an activation, as timm's BatchNormAct2d."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def lawful(net: nn.Module) -> nn.Module:
    """`net` with its batch norms and draws replaced by ours, in place. Raises ValueError that names what cannot be replaced."""
    return folding(convert_draws(convert_norms(net)))


def convert_norms(net: nn.Module) -> nn.Module:
    """Replace torch's and timm's batch norms, in place, by ours with the same parameters; returns the network."""
    return _replace(net, _norm)


def convert_draws(net: nn.Module) -> nn.Module:
    """Replace dropout and stochastic depth, in place, by layers that draw per row; returns the network.

    Known are torch's dropouts, DropPath (`drop_prob`, of timm and the official ViTs) and torchvision's StochasticDepth (mode row).
    Attention that drops in a fused kernel (timm's) is computed step by step: the kernel would draw from the global generator.
    """
    return _replace(net, _draw)


def _replace(net: nn.Module, ours: Callable[[nn.Module, str], nn.Module | None]) -> nn.Module:
    """Every module for which `ours(module, its name)` gives another, wherever it is used."""
    done: dict[nn.Module, nn.Module] = {}
    for name, module in list(net.named_modules()):
        other = ours(module, name) if name else None
        if other is not None:
            done[module] = other.train(module.training)
    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if child in done:
                parent._modules[name] = done[child]
    return net


def _norm(layer: nn.Module, name: str) -> BatchNorm | None:
    if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return None
    kind = type(layer).__name__
    acts = all(isinstance(getattr(layer, part, None), nn.Module) for part in ("act", "drop"))
    if not acts and type(layer).forward not in (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward):
        raise ValueError(f"{name} ({kind}) is a batch norm of its own kind, which no norm group can span")
    if not layer.track_running_stats or layer.momentum is None:
        raise ValueError(f"{name} ({kind}) keeps no moving average of its statistics (its momentum and track_running_stats)")
    ours = (NormAct if acts else BatchNorm)(layer.num_features, layer.eps, layer.momentum, scale=layer.affine, shift=layer.affine)
    if isinstance(ours, NormAct):
        ours.drop, ours.act = layer.drop, layer.act  # pyright: ignore[reportAttributeAccessIssue]
    ours.load_state_dict(layer.state_dict())
    return ours


def _draw(layer: Any, name: str) -> nn.Module | None:
    kind = type(layer).__name__
    if getattr(layer, "fused_attn", False) and getattr(getattr(layer, "attn_drop", None), "p", 0):
        layer.fused_attn = False
    if type(layer) in DROPOUTS:
        return Dropout(layer.p, name, whole=DROPOUTS[type(layer)])
    if kind == "DropPath" and hasattr(layer, "drop_prob") and getattr(layer, "scale_by_keep", True):
        return DropPath(float(layer.drop_prob or 0), name)
    if kind == "StochasticDepth" and getattr(layer, "mode", "") == "row":
        return DropPath(float(layer.p), name)
    return None


# ---------------------------------------------------------------- whether a network keeps the laws


def broken(net: nn.Module, channels: int, side: int) -> str:
    """The law that the network breaks in training mode on images of `side` px, in words; empty: none.

    It must draw nothing from torch's global generator, keep no state but batch norm's, give the same images the same features again, and the
    rows of one norm group alone what it gives them among the others. Its weights are not its own afterwards.
    """
    try:
        return _broken(net.train().double(), torch.float64, channels, side, 1e-7)
    except RuntimeError:  # a layer that makes numbers of its own in single precision
        return _broken(net.float(), torch.float32, channels, side, 1e-3)


def _broken(net: nn.Module, dtype: torch.dtype, channels: int, side: int, close: float) -> str:
    drawn_by = torch.Generator().manual_seed(0)
    x = torch.rand(ROWS, channels, side, side, dtype=dtype, generator=drawn_by)
    for weight in net.parameters():  # branches that start at nothing would hide what they do
        if weight.numel() and weight.detach().abs().max() < 1e-2:
            weight.data = 0.1 + 0.1 * torch.rand(weight.shape, dtype=dtype, generator=drawn_by)
    own = {id(buffer) for layer in net.modules() if isinstance(layer, BatchNorm) for buffer in layer.buffers(recurse=False)}
    others = {name: buffer for name, buffer in net.named_buffers() if id(buffer) not in own}
    before = {name: buffer.clone() for name, buffer in others.items()}
    first: list[Tensor] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        drawn = _drawing(net, lambda: first.append(_run(net, x, torch.arange(ROWS))))
        if drawn:
            return f"{drawn} draws from torch's global generator, where each worker draws otherwise; set its rate to 0"
        changed = [name for name, buffer in others.items() if not torch.equal(buffer, before[name])]
        if changed:
            return f"{changed[0]} changes while it trains, and each worker would have its own; leave that layer out"
        half = torch.arange(ROWS // 2, ROWS)
        among, alone = _run(net, x, torch.arange(ROWS)), _run(net, x[half], half)
    scale = close * among.abs().max().clamp(min=1e-12)
    if not torch.isfinite(scale):
        return ""
    if (among - first[0]).abs().max() > scale:
        return (
            "the same images have other features when it sees them again: it draws or counts by itself, what no checkpoint holds"
        )
    if (among[half] - alone).abs().max() > scale:
        return "a row's features depend on other rows than those of its norm group, so that workers would compute otherwise"
    return ""


def _run(net: nn.Module, x: Tensor, slot: Tensor) -> Tensor:
    with Batch({}, slot, slot, ROWS, groups=2).norm("blocks"):
        return net(x)


def _drawing(net: nn.Module, run: Callable[[], object]) -> str:
    """The innermost module that draws from the global generator while `run()`, by name and kind; empty: none."""
    found: list[str] = []
    begun: dict[nn.Module, Tensor] = {}
    names = {module: name for name, module in net.named_modules()}

    def enter(module: nn.Module, given: Any) -> None:
        begun[module] = torch.get_rng_state()

    def leave(module: nn.Module, given: Any, output: Any) -> None:
        if not found and not torch.equal(begun[module], torch.get_rng_state()):
            found.append(f"{names[module] or 'its forward'} ({type(module).__name__})")

    hooks = [hook for module in names for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""
