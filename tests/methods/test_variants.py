"""Ablations do what they say, and with their defaults are the method itself."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from contray.methods import simsiam
from contray.methods._base import Batch, Clock
from contray.methods.variants import simsiam_ablated

CLOCK = Clock(0, 100, 100, 10)


class Identity(nn.Identity):
    out_dim = 8


def batch_of(rows: int) -> Batch:
    return Batch({}, torch.arange(rows), torch.arange(rows), rows)


def rows(seed: int = 0, count: int = 6) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(file: ModuleType, kind: str, **settings) -> nn.Module:
    """The method of a file, drawn from seed 0, on a backbone that passes its input through."""
    torch.manual_seed(0)
    return getattr(file, kind)(file.Config(**settings), Identity, 100).double()


def test_simsiam() -> None:
    tiny = {"dim": 8, "hidden": 4}
    views = {"view0": rows(0).requires_grad_(), "view1": rows(1).requires_grad_()}

    def gradients(method: nn.Module) -> list[Tensor]:
        return list(torch.autograd.grad(method.loss(views, batch_of(6), CLOCK)["loss"], [*views.values()]))

    def ablated(**settings):
        return built(simsiam_ablated, "AblatedSimSiam", **tiny, **settings)

    healthy = gradients(built(simsiam, "SimSiam", **tiny))
    assert all(map(torch.equal, healthy, gradients(ablated())))
    without = gradients(ablated(stop_gradient=False))
    assert not any(map(torch.allclose, healthy, without))

    # without a predictor the loss is symmetric: through either side flows the same gradient
    for stopped, free in zip(
        gradients(ablated(predictor="none")), gradients(ablated(predictor="none", stop_gradient=False)), strict=True
    ):
        torch.testing.assert_close(2 * stopped, free)

    fixed = ablated(predictor="fixed")
    trained = {id(p) for group in fixed.param_groups() for p in group["params"]}
    assert trained == {id(p) for p in fixed.projector.parameters()}
    assert all(map(torch.equal, healthy, gradients(fixed))), "drawn as the learned one"
