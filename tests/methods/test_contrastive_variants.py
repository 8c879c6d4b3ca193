"""Ablations of contrastive methods do what they say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contray.methods import simclr, simclr_v2
from contray.methods._base import Batch, evaluation_view
from contray.methods.variants import (
    cmc_first,
    moco_bank,
    moco_end_to_end,
    simclr_ablated,
    simclr_asymmetric,
    simclr_patches,
    simclr_v2_ablated,
)
from tests.methods.test_variants import CLOCK, batch_of, built, rows


class Pooled(nn.Module):
    out_dim = 8

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        return x.mean((2, 3))


def pair(seed: int = 0) -> dict[str, Tensor]:
    return {"query": rows(seed).requires_grad_(), "key": rows(seed + 1).requires_grad_()}


def test_moco_end_to_end() -> None:
    method = built(moco_end_to_end, "EndToEnd", dim=8, hidden=4, queue_size=6)
    reps = method.represent(Batch(pair(), torch.arange(6), torch.arange(6), 6), CLOCK)
    found = torch.autograd.grad(method.loss(reps, batch_of(6), CLOCK)["loss"], [*reps.values()])
    assert all(gradient.norm() > 0 for gradient in found), "through keys as through queries"
    query, key = (nn.functional.normalize(method.head(each), dim=1) for each in reps.values())
    goal = nn.functional.cross_entropy(query @ key.T / method.config.temperature, torch.arange(6))
    torch.testing.assert_close(method.loss(reps, batch_of(6), CLOCK)["loss"], goal)
    assert not [*method.ema_pairs()]


def test_moco_bank() -> None:
    method = built(moco_bank, "Bank", dim=8, hidden=4, queue_size=5)
    batch = batch_of(6)
    reps = {"query": rows()}
    loss = method.loss(reps, batch, CLOCK)["loss"]
    query = nn.functional.normalize(method.head(rows()), dim=1)
    drawn = (batch.rand("candidates", (5,), torch.float64) * 100).long()  # (B, K)
    keys = method.bank[torch.cat([batch.index[:, None], drawn], 1)]  # (B, 1+K, D)
    logits = torch.einsum("bkd,bd->bk", keys, query) / method.config.temperature
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, torch.zeros(6, dtype=torch.long)))
    before = method.bank.clone()
    method.update(reps, batch, CLOCK)
    torch.testing.assert_close(method.bank[:6], query.detach())
    assert torch.equal(method.bank[6:], before[6:])


def test_simclr_heads_and_normalisation() -> None:
    tiny = {"projector_hidden": 4, "projector_dim": 8}
    reps = {"view": torch.stack([rows(0), rows(1)], 1)}  # (B, V, F)

    def ablated(**settings):
        return built(simclr_ablated, "Ablated", **tiny, **settings)

    def loss(method: nn.Module) -> Tensor:
        return method.loss(reps, batch_of(6), CLOCK)["loss"]

    assert torch.equal(loss(ablated()), loss(built(simclr, "SimCLR", **tiny)))
    straight = ablated(head="linear").projector
    assert [type(layer).__name__ for layer in straight] == [type(layer).__name__ for layer in ablated().projector[-2:]], (
        "normalised alike"
    )
    bare = ablated(head="linear", projector_norm="none").projector
    torch.testing.assert_close(bare(2 * rows()) - bare(0 * rows()), 2 * (bare(rows()) - bare(0 * rows())))
    assert torch.equal(ablated(head="none").embedding(rows()), rows())
    scaled = {"view": 3 * reps["view"]}
    for l2 in (True, False):
        method = ablated(head="none", l2=l2)
        same = torch.allclose(loss(method), method.loss(scaled, batch_of(6), CLOCK)["loss"])
        assert same == l2, "a length that is normalised away changes nothing"


def test_simclr_patches() -> None:
    method = built(simclr_patches, "Patches", projector_hidden=4, projector_dim=8, distance=2)
    places = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij"), -1).reshape(1, 36, 2)  # (1, G*G, 2)
    patches = nn.functional.pad(places.double(), (0, 6)).expand(50, 36, 8)  # a patch says where it lies
    batch = Batch({"patches": patches}, torch.arange(50), torch.arange(50), 50)
    first, second = method.represent(batch, CLOCK)["view"].unbind(1)  # (B, F)
    assert torch.equal((second - first)[:, :2], torch.full((50, 2), 2.0, dtype=torch.float64))
    assert set(first[:, 0].tolist()) == {0.0, 1.0, 2.0, 3.0}, "anywhere there is room"


def test_simclr_asymmetric() -> None:
    method = built(simclr_asymmetric, "Asymmetric", projector_hidden=4, projector_dim=8)
    batch = Batch({"view0": rows(0), "view1": rows(1)}, torch.arange(6), torch.arange(6), 6)
    assert torch.equal(method.represent(batch, CLOCK)["view"], torch.stack([rows(0), rows(1)], 1))
    views = simclr_asymmetric.PRESETS["digits"].views or {}
    assert next(iter(method.eval_views(views).values())) == evaluation_view(views["view0"]), "what is not augmented is evaluated"


def test_simclr_v2_head() -> None:
    tiny = {"projector_hidden": 4, "projector_dim": 8}
    layers = {n: built(simclr_v2_ablated, "Ablated", **tiny, layers=n).projector for n in (1, 2, 3)}
    assert [sum(isinstance(each, nn.Linear) for each in layers[n]) for n in (1, 2, 3)] == [1, 2, 3]
    assert str(layers[3]) == str(built(simclr_v2, "SimCLRv2", **tiny).projector)


def test_cmc_first() -> None:
    inputs = {"view": torch.randn(2, 3, 4, 4, dtype=torch.float64)}
    method = cmc_first.First(cmc_first.Config(dim=8), lambda channels=3: Pooled(channels), 100).double()
    assert torch.equal(method.encode(inputs), inputs["view"][:, :1].mean((2, 3)))
    assert method.out_dim == 8
