"""InstDisc, CMC and InvaSpread against what the reference implementations gave."""

import torch
from torch.testing import assert_close

from contray.methods import invaspread
from contray.methods._parts import bank_scores, constant_of, nce, write_bank
from tests.parity.test_losses import GRADIENTS, VALUES, tensors


def draws_of(candidates, samples):
    """Uniform draws that pick these candidates."""
    return (candidates.double() + 0.5) / samples


def test_instdisc_nce(golden):
    g = tensors(golden("instdisc_nce"))
    features, bank = g["features"].requires_grad_(), g["bank"].clone()
    assert torch.equal(g["candidates"][:, 0], g["index"])
    scores = bank_scores(features, bank, g["index"], draws_of(g["candidates"][:, 1:], 50), float(g["temperature"]))
    assert_close(scores.detach() / g["z"], g["probabilities"], **VALUES)
    loss = nce(scores, g["z"], 50, 6)
    loss.backward()
    assert_close(loss, g["loss"], **VALUES)
    assert_close(features.grad, g["grad_features"], **GRADIENTS)
    write_bank(bank, g["index"], features, float(g["bank_momentum"]))
    assert_close(bank, g["bank_after"], **VALUES)


def test_instdisc_z(golden):
    g = tensors(golden("instdisc_z"))
    index, drawn = g["candidates"][:, 0], draws_of(g["candidates"][:, 1:], 50)
    scores = bank_scores(g["features"], g["bank"], index, drawn, float(g["temperature"]))
    assert_close(constant_of(scores, 50, 6), g["z"], **VALUES)


def test_cmc_nce(golden):
    g = tensors(golden("cmc_nce"))
    l, ab = g["l"].requires_grad_(), g["ab"].requires_grad_()
    drawn, temperature = draws_of(g["candidates"][:, 1:], 50), float(g["temperature"])
    scores_l = bank_scores(l, g["bank_ab"], g["index"], drawn, temperature)
    scores_ab = bank_scores(ab, g["bank_l"], g["index"], drawn, temperature)
    loss = nce(scores_l, g["z_l"], 50, 6) + nce(scores_ab, g["z_ab"], 50, 6)
    loss.backward()
    assert_close(loss, g["loss"], **VALUES)
    assert_close(l.grad, g["grad_l"], **GRADIENTS)
    assert_close(ab.grad, g["grad_ab"], **GRADIENTS)
    for bank, rows, after in (("bank_l", l, "bank_l_after"), ("bank_ab", ab, "bank_ab_after")):
        write_bank(g[bank], g["index"], rows, float(g["bank_momentum"]))
        assert_close(g[bank], g[after], **VALUES)


def test_invaspread(golden):
    g = tensors(golden("invaspread"))
    z1, z2 = g["z1"].requires_grad_(), g["z2"].requires_grad_()
    loss, _ = invaspread.spreading(z1, z2, float(g["temperature"]), torch.arange(8), 8)
    loss.backward()
    assert_close(loss, g["loss"], **VALUES)
    assert_close(z1.grad, g["grad_z1"], **GRADIENTS)
    assert_close(z2.grad, g["grad_z2"], **GRADIENTS)
