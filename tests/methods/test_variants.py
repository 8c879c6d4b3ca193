"""Ablations do what they say, and with their defaults are the method itself."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from contray import RunConfig, model
from contray.methods import byol, deepcluster, mae, simsiam, swav
from contray.methods._base import Batch, Clock
from contray.methods.variants import (
    byol_ablated,
    byol_multicrop,
    deepcluster_ablated,
    mae_masks,
    simsiam_ablated,
    simsiam_em,
    swav_ablated,
)

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


def test_simsiam_in_inner_steps() -> None:
    method = built(simsiam_em, "AlternatingSimSiam", dim=8, hidden=4, inner_steps=3)
    views = {"view0": rows(0), "view1": rows(1)}
    targets = {"target0": views["view0"], "target1": views["view1"]}
    healthy = built(simsiam, "SimSiam", dim=8, hidden=4).loss(dict(views), batch_of(6), CLOCK)
    torch.testing.assert_close(method.loss(views | targets, batch_of(6), CLOCK), healthy), "fresh targets are SimSiam's own"
    momenta = [method.ema_momentum(Clock(10 * step, 100, 100, 10)) for step in range(6)]
    assert momenta == [1, 1, 0, 1, 1, 0], "copied after every third step"


def test_byol_without_a_predictor() -> None:
    plain, ablated = built(byol, "BYOL", dim=8, hidden=4), built(byol_ablated, "AblatedBYOL", dim=8, hidden=4, predictor=False)
    reps = {"online0": rows(0), "online1": rows(1), "target0": rows(0), "target1": rows(1)}
    assert not list(ablated.predictor.parameters())
    plain.predictor = nn.Identity()
    assert torch.equal(plain.loss(reps, batch_of(6), CLOCK)["loss"], ablated.loss(reps, batch_of(6), CLOCK)["loss"])


def test_byol_with_small_crops() -> None:
    plain, many = built(byol, "BYOL", dim=8, hidden=4), built(byol_multicrop, "MultiCropBYOL", dim=8, hidden=4)
    large = {"online0": rows(0), "online1": rows(1), "target0": rows(2), "target1": rows(3)}
    small = torch.stack([rows(4), rows(5)], 1)  # (B, 2, 8)

    def loss(method: nn.Module, reps: dict[str, Tensor]) -> Tensor:
        return method.loss(reps, batch_of(6), CLOCK)["loss"]

    torch.testing.assert_close(loss(plain, dict(large)), loss(many, dict(large)))  # of two crops it is BYOL's
    alone = [loss(plain, large | {"online0": a, "online1": b}) for a, b in ((small[:, 0],) * 2, (small[:, 1],) * 2)]
    # a small crop predicts both targets: with it in both large ones' place the loss is its two pairs', as is that of the large ones
    torch.testing.assert_close(loss(many, large | {"small": small}), torch.stack([loss(plain, large), *alone]).mean())

    views = {"first": rows(0), "second": rows(1), "small0": rows(4), "small1": rows(5)}
    reps = many.represent(Batch(views, torch.arange(6), torch.arange(6), 6), CLOCK)
    assert torch.equal(reps["small"], small)
    assert {key for key in reps if key.startswith("target")} == {"target0", "target1"}, "the target network sees no small crop"


def test_swav_s_codes_without_balance() -> None:
    z = nn.functional.normalize(rows(0) + 5, dim=1)  # all much alike
    tiny = {"prototypes": 4, "dim": 8, "hidden": 4}
    balanced, free = (built(swav_ablated, "AblatedSwAV", **tiny, balanced=each).assign(z, 0) for each in (True, False))
    assert torch.equal(balanced, built(swav, "SwAV", **tiny).assign(z, 0))
    torch.testing.assert_close(balanced.sum(0), torch.full((4,), 6 / 4, dtype=z.dtype), rtol=0.1, atol=0)
    torch.testing.assert_close(free.sum(1), torch.ones(6, dtype=z.dtype))
    assert free.sum(0).max() > 3, "one prototype takes most rows"


def test_mae_s_masks() -> None:
    orders = {}
    for masks in ("random", "blocks", "grid"):
        method = mae_masks.MaskedMAE.__new__(mae_masks.MaskedMAE)
        nn.Module.__init__(method)
        method.config = mae_masks.Config(masks=masks)
        orders[masks] = method.order(batch_of(6), 64)  # (B, L)
        assert torch.equal(orders[masks].sort(1).values, torch.arange(64).expand(6, -1)), "every patch once"
    assert torch.equal(orders["random"], mae.MAE.order(method, batch_of(6), 64))
    seen = orders["grid"][:, :16]
    assert not (seen // 8 % 2).any(), "one of each four, always the same"
    assert not (seen % 8 % 2).any()

    def borders(hidden: Tensor) -> float:
        """Pairs of neighbours of which one is masked, on average."""
        cells = torch.zeros(6, 64).scatter_(1, hidden, 1.0).unflatten(1, (8, 8))
        return float((cells.diff(dim=1).abs().sum() + cells.diff(dim=2).abs().sum()) / 6)

    assert borders(orders["blocks"][:, 32:]) < borders(orders["random"][:, 32:]) - 10


def test_deepcluster_that_clusters_once() -> None:
    features = rows(0, count=40).float()
    tiny = {"clusters": 4, "pca": 4, "input": "rgb"}
    for kind, settings, changes, head in (
        (deepcluster_ablated, {"reassign": False}, False, True),
        (deepcluster_ablated, {"reassign": False, "new_head": False}, False, False),
        (deepcluster_ablated, {}, True, True),
        (deepcluster, {}, True, True),
    ):
        name = "DeepCluster" if kind is deepcluster else "AblatedDeepCluster"
        method = getattr(kind, name)(kind.Config(**tiny, **settings), Identity, 40)
        method.begin_epoch(Clock(0, 100, 40, 10), lambda: features)
        first, classifier = method.assignments.clone(), method.classifier.weight.clone()
        assert len(first.unique()) == 4
        drawn = list(method.begin_epoch(Clock(40, 100, 40, 10), lambda: features.flip(0) ** 3))
        assert torch.equal(first, method.assignments) is not changes
        assert torch.equal(classifier, method.classifier.weight) is not head
        assert bool(drawn) is head, "what is drawn anew begins without the optimiser's memory"


def test_cae_s_features() -> None:
    settings = {"backbone.width": 16, "method.heads": 4}
    inputs = {"image": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    changed = {"image": inputs["image"].clone()}
    changed["image"][:, :, :4, 4:8] += 1.0  # a patch that is not seen: row 0, column 1
    for features in ("encoder", "regressor"):
        torch.manual_seed(0)
        config = RunConfig.make("cae_probed", settings | {"method.features": features}, preset="digits")
        method = model.build(config, 100).eval()
        tokens = method.taps(inputs)["tokens"]
        assert tokens.shape == (2, 32, 16), "half of the patches"
        assert torch.equal(method.encode(changed), method.encode(inputs)), "neither looks at the other half"
