"""InstDisc, CMC and InvaSpread against what the reference implementations gave."""

import torch
from torch.testing import assert_close

from contray import RunConfig, model
from contray.methods import invaspread
from contray.methods._base import Batch, Clock
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


def test_instdisc_softmax_is_cross_entropy_among_the_whole_bank():
    """lemniscate.pytorch with --nce-k 0: LinearAverage's logits in a plain cross-entropy."""
    torch.manual_seed(0)
    method = model.build(
        RunConfig.make("instdisc", {"method.negatives": 0, "train.precision": "fp64"}, preset="digits"), 50
    ).eval()
    assert method.negatives(8) == 49
    h, index = torch.randn(6, method.out_dim, dtype=torch.float64), torch.tensor([4, 9, 0, 49, 7, 3])
    before, batch = method.bank.clone(), Batch({}, index, torch.arange(6), 6)
    reps = {"h": h}
    out = method.loss(reps, batch, Clock(0, 10, 10, 5))
    v = torch.nn.functional.normalize(method.head(h), dim=1)
    logits = v @ before.T / method.config.temperature
    assert_close(out["loss"], torch.nn.functional.cross_entropy(logits, index))
    assert_close(out["contrast_top1"], (logits.argmax(1) == index).double().mean())
    method.update(reps, batch, Clock(0, 10, 10, 5))
    moved = before[index] * 0.5 + v.detach() * 0.5
    assert_close(method.bank[index], moved / moved.norm(dim=1, keepdim=True))
    assert float(method.constant) == 0


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
