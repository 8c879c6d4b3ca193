"""Losses in tiles are the losses in one piece: values, gradients, hits; and the similarities of all pairs never exist at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from contray.methods import _similarity, clip, invaspread, moco_v3
from contray.methods._parts import compare, info_nce, normalize, nt_xent
from contray.methods._ranks import shares, total
from tests.ranks import run_ranks

N, D, K = 12, 5, 31
SLOT = torch.arange(N)


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs() -> tuple[Tensor, ...]:
    """Two views of one another, a queue, a temperature."""
    one = rows(N, 0)
    temperature = torch.tensor(0.3, dtype=torch.float64)
    return tuple(x.requires_grad_() for x in (one, one.detach() + rows(N, 1), rows(K, 2), temperature))


NEAREST = (rows(N, 0) @ rows(K, 2).T).argmax(1).repeat(2)  # of the first view in the queue
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
LOSSES: dict[str, Loss] = {
    "nt_xent": lambda a, b, queue, t: nt_xent(normalize(a), normalize(b), 0.2, SLOT, N),
    "nt_xent with a memory": lambda a, b, queue, t: nt_xent(normalize(a), normalize(b), 0.2, SLOT, N, normalize(queue)),
    "info_nce": lambda a, b, queue, t: info_nce(normalize(a), normalize(b), normalize(queue), 0.07, N),
    "compare": lambda a, b, queue, t: compare(torch.cat([a, b]), queue, NEAREST, 2 * N),
    "moco_v3": lambda a, b, queue, t: moco_v3.contrast(a, b, 0.2, SLOT, N),
    "clip": lambda a, b, queue, t: clip.match(normalize(a), normalize(b), 1 / t, SLOT, N),
    "invaspread": lambda a, b, queue, t: invaspread.spreading(normalize(a), normalize(b), 0.1, SLOT, N),
}


@pytest.mark.parametrize("name", LOSSES)
def test_tiles_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs()
    whole, hits = LOSSES[name](*given)
    grads = torch.autograd.grad(2 * whole, given, allow_unused=True)
    for tile in (1, 5 * K, 7 * K + 3):  # a row at a time; tiles that do not divide the rows
        monkeypatch.setattr(_similarity, "TILE", tile)
        loss, found = LOSSES[name](*given)
        assert_close(loss, whole, rtol=1e-12, atol=1e-12)
        assert found == hits
        assert 0 < found < 1, "a case in which all or none are found would tell nothing"
        again = torch.autograd.grad(2 * loss, given, allow_unused=True)
        assert [grad is None for grad in again] == [grad is None for grad in grads]
        for ours, plain in zip(again, grads, strict=True):
            if plain is not None:
                assert_close(ours, plain, rtol=1e-12, atol=1e-12)
        with torch.no_grad():
            assert_close(LOSSES[name](*given), (whole.detach(), hits), rtol=1e-12, atol=1e-12)


def test_gradients_of_tiles_are_the_loss_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_similarity, "TILE", 4 * K)
    a, _, keys, temperature = inputs()
    target, excluded = SLOT * 2 % K, (SLOT * 2 + 1) % K
    assert torch.autograd.gradcheck(
        lambda *given: _similarity.identify(given[0], given[1], target, given[2], excluded)[0], (a, keys, temperature)
    )


class Largest(TorchDispatchMode):
    """The most elements that one tensor had among all that were made within it."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.untyped_storage().nbytes() // one.element_size())
        return made


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_is_larger_than_a_tile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs()
    linear = (2 * N + K) * D  # rows, keys and their gradients
    monkeypatch.setattr(_similarity, "TILE", 60)
    with Largest() as seen:
        LOSSES[name](*given)[0].backward()
    assert 0 < seen.elements <= linear
    monkeypatch.setattr(_similarity, "TILE", 2**24)
    with Largest() as plain:
        LOSSES[name](*given)[0].backward()
    assert plain.elements >= N * N
    assert name in ("moco_v3", "clip") or plain.elements > linear, "the plain loss would pass as well"


def test_similarities_stay_precise_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, queue, _ = (x.detach().float().requires_grad_() for x in inputs())
    expected = info_nce(normalize(a), normalize(b), normalize(queue), 0.07, N)[0]
    monkeypatch.setattr(_similarity, "TILE", 3 * K)
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(normalize(a), normalize(b), normalize(queue), 0.07, N)[0]
    assert loss.dtype == torch.float32
    assert_close(loss, expected)
    for ours, plain in zip(torch.autograd.grad(loss, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
        assert_close(ours, plain)


def on_ranks(rank: int, world: int, tile: int) -> list[Tensor]:
    """The summed loss of NT-Xent and CLIP, and the gradients of this rank's rows."""
    _similarity.TILE = tile if rank == 0 else _similarity.TILE  # ranks may differ in what fits into a tile
    own = shares(N, world)[rank]
    a, b = (x.detach()[own.start : own.stop].requires_grad_() for x in inputs()[:2])
    slot, scale = SLOT[own.start : own.stop], torch.tensor(4.0, dtype=torch.float64)
    loss = nt_xent(normalize(a), normalize(b), 0.2, slot, N)[0] + clip.match(normalize(a), normalize(b), scale, slot, N)[0]
    loss.backward()
    assert a.grad is not None
    assert b.grad is not None
    return [total(loss.detach()), a.grad, b.grad]


def test_tiles_on_any_world() -> None:
    (loss, *grads), *_ = run_ranks(on_ranks, 1, 2**24)
    parts = run_ranks(on_ranks, 2, 40)
    assert_close(parts[1][0], loss, rtol=1e-12, atol=1e-12)
    for i, grad in enumerate(grads, 1):
        assert_close(torch.cat([part[i] for part in parts]), grad, rtol=1e-12, atol=1e-12)
