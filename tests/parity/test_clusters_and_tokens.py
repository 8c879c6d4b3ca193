"""SwAV, DINO and MAE against what the reference implementations gave."""

import math

import numpy as np
import torch
from torch.testing import assert_close

from contray.methods import _self_distillation, dino, mae, swav
from contray.methods._base import Clock
from contray.methods._parts import sincos_2d
from tests.parity.test_losses import GRADIENTS, VALUES, Identity, tensors


def test_sinkhorn(golden):
    g = tensors(golden("sinkhorn"))
    codes = swav.sinkhorn(g["scores"], float(g["epsilon"]), int(g["iterations"]))
    assert_close(codes, g["assignments"], **VALUES)
    assert_close(codes.sum(1), torch.ones(24), **VALUES)
    mean = codes.mean(0)
    assert -(mean * mean.log()).sum() >= 0.9 * math.log(6)


def test_swapped_prediction_is_equations_1_and_2():
    torch.manual_seed(0)
    z, prototypes = torch.nn.functional.normalize(torch.randn(4, 5, 6), dim=-1), torch.randn(7, 6)
    codes = torch.softmax(torch.randn(2, 5, 7), -1)
    expected = 0.0
    for i in range(2):
        for n in range(5):
            others = [v for v in range(4) if v != i]
            for v in others:
                p = torch.stack([torch.exp(z[v, n] @ c / 0.1) for c in prototypes])
                expected -= sum(codes[i, n, k] * torch.log(p[k] / p.sum()) for k in range(7)) / (2 * 3 * 5)
    assert_close(swav.swapped(z, prototypes, codes, 0.1, 5), expected, **VALUES)


def test_dino_loss(golden):
    g = tensors(golden("dino_loss"))
    student, teacher = g["student"].requires_grad_(), g["teacher"]
    sharp = float(g["teacher_temp"])
    loss, _ = dino.match(student.view(5, 6, 14), teacher.view(2, 6, 14), g["center"][0], float(g["student_temp"]), sharp, 6)
    loss.backward()
    assert_close(loss, g["loss"], **VALUES)
    assert_close(student.grad, g["grad_student"], **GRADIENTS)


def dino_of(g):
    config = dino.Config(
        outputs=14, hidden=4, bottleneck=4, centre_momentum=float(g["center_momentum"]), teacher_temperature=float(g["final_teacher_temp"]),
        teacher_warmup_temperature=float(g["warmup_teacher_temp"]), teacher_warmup=int(g["warmup_epochs"]),
    )  # fmt: skip
    return dino.DINO(config, Identity, 10)


def test_dino_centre_and_teacher_temperature(golden):
    g = tensors(golden("dino_loss"))
    method = dino_of(g)
    method.centre.copy_(g["center"][0])
    method.update({"teacher_mean": g["teacher"].mean(0)}, None, None)  # pyright: ignore[reportArgumentType]
    assert_close(method.centre, g["center_after"][0], **VALUES)
    temperatures = [_self_distillation.by_epochs(method.config, Clock(epoch * 100 + 50, 1000, 100, 10)) for epoch in range(10)]
    np.testing.assert_allclose(temperatures, g["teacher_temp_schedule"])


def test_mae_loss(golden):
    g = tensors(golden("mae_loss"))
    patches = mae.patchify(g["images"], int(g["patch_size"]))
    assert torch.equal(patches, g["patches"])
    painted = g["prediction"].requires_grad_()
    assert_close(mae.masked_error(painted, patches, g["mask"], "pixels", 3), g["loss_raw"], **VALUES)
    loss = mae.masked_error(painted, patches, g["mask"], "norm_pix", 3)
    loss.backward()
    assert_close(loss, g["loss_norm_pix"], **VALUES)
    assert_close(painted.grad, g["grad_prediction"], **GRADIENTS)


def test_sincos_2d(golden):
    g = tensors(golden("sincos_2d"))
    assert_close(sincos_2d(16, 4, 4), g["values"][1:].float(), **VALUES)
    assert not g["values"][0].any()
