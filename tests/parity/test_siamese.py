"""SimSiam, BYOL, Barlow Twins and MoCo v3 against what the reference implementations gave."""

import torch
from torch import nn
from torch.testing import assert_close

from contray.methods import barlow_twins, byol, moco_v3, simsiam
from contray.methods._base import Batch, Clock
from contray.methods._parts import negative_cosine
from tests.parity.test_losses import GRADIENTS, VALUES, Identity, tensors

CLOCK = Clock(0, 100, 100, 10)


def batch_of(rows):
    return Batch({}, torch.arange(rows), torch.arange(rows), rows)


def test_negative_cosine(golden):
    g = tensors(golden("negative_cosine"))
    p = g["p"].requires_grad_()
    loss = negative_cosine(p, g["z"], len(p))
    loss.backward()
    assert_close(loss, g["loss"], **VALUES)
    assert_close(p.grad, g["grad_p"], **GRADIENTS)


def test_simsiam_is_the_mean_of_both_directions(golden):
    g = tensors(golden("negative_cosine"))
    method = simsiam.SimSiam(simsiam.Config(dim=7, hidden=4), Identity, 10)
    method.projector, method.predictor = nn.Identity(), nn.Linear(7, 7, bias=False)
    p, z = g["p"], g["z"].requires_grad_()
    loss = method.loss({"view0": p, "view1": z}, batch_of(9), CLOCK)["loss"]
    forth, back = negative_cosine(method.predictor(p), z, 9), negative_cosine(method.predictor(z), p, 9)
    assert_close(loss, (forth + back) / 2)
    loss.backward()
    there = z.grad.clone()
    z.grad = None
    (negative_cosine(method.predictor(z), p, 9) / 2).backward()
    assert_close(there, z.grad), "through the target flows no gradient"


def test_byol_regression(golden):
    g = tensors(golden("negative_cosine"))
    method = byol.BYOL(byol.Config(dim=7, hidden=4), Identity, 10)
    method.projector = method.predictor = method.target_projector = nn.Identity()
    loss = method.loss({"online0": g["p"], "online1": g["p"], "target0": g["z"], "target1": g["z"]}, batch_of(9), CLOCK)["loss"]
    assert_close(loss, 2 * g["byol_regression"], **VALUES)


def test_byol_s_momentum_rises_to_one():
    method = byol.BYOL(byol.Config(momentum=0.99, dim=7, hidden=4), Identity, 10)
    momenta = [method.ema_momentum(Clock(samples, 100, 100, 10)) for samples in (0, 50, 100)]
    assert momenta == [0.99, (0.99 + 1) / 2, 1.0]


def test_barlow_twins(golden):
    g = tensors(golden("barlow_twins"))
    method = barlow_twins.BarlowTwins(barlow_twins.Config(redundancy=float(g["lambd"]), hidden=4, dim=12), Identity, 20)
    method.projector = method.projector[-1]  # the norm without scale and shift
    z1, z2 = g["z1"].requires_grad_(), g["z2"].requires_grad_()
    loss = method.loss({"first": z1, "second": z2}, batch_of(16), CLOCK)["loss"]
    loss.backward()
    assert_close(loss, g["loss"], **VALUES)
    assert_close(z1.grad, g["grad_z1"], **GRADIENTS)
    assert_close(z2.grad, g["grad_z2"], **GRADIENTS)


def test_moco_v3(golden):
    g = tensors(golden("moco_v3_loss"))
    method = moco_v3.MoCoV3(moco_v3.Config(temperature=float(g["temperature"]), hidden=4, dim=12), Identity, 20)
    method.projector = method.predictor = method.key_projector = nn.Identity()
    q, k = g["q"].requires_grad_(), g["k"]
    loss = method.loss({"query0": q, "query1": q, "key0": k, "key1": k}, batch_of(10), CLOCK)["loss"]
    loss.backward()
    assert_close(loss, 2 * g["loss"], **VALUES)
    assert_close(q.grad, 2 * g["grad_q"], **GRADIENTS)
