"""Losses, queue, EMA, LARS and schedules against what the reference implementations gave."""

import numpy as np
import torch
from torch import nn
from torch.testing import assert_close

from contray.config import RunConfig
from contray.methods import moco
from contray.methods._base import Batch, Clock
from contray.methods._parts import cosine, normalize, nt_xent
from contray.model.optim import LARS, learning_rate

VALUES = {"rtol": 1e-4, "atol": 1e-5}
GRADIENTS = {"rtol": 1e-3, "atol": 1e-5}


def tensors(vectors):
    return {name: torch.as_tensor(value) for name, value in vectors.items()}


def test_nt_xent(golden):
    g = tensors(golden("nt_xent"))
    z1, z2 = g["z1"].requires_grad_(), g["z2"].requires_grad_()
    loss, _ = nt_xent(normalize(z1), normalize(z2), float(g["temperature"]), torch.arange(len(z1)), len(z1))
    loss.backward()
    assert_close(loss, g["loss"], **VALUES)
    assert_close(z1.grad, g["grad_z1"], **GRADIENTS)
    assert_close(z2.grad, g["grad_z2"], **GRADIENTS)


class Identity(nn.Module):
    out_dim = 10

    def forward(self, x):
        return x


def test_moco_step(golden):
    g = tensors(golden("moco_step"))
    config = moco.Config(
        temperature=float(g["temperature"]), queue_size=len(g["queue"]), momentum=float(g["momentum"]), head="linear", dim=8
    )
    method = moco.MoCo(config, Identity, 100)
    batch = Batch({"query": g["x_q"], "key": g["x_k"]}, torch.arange(8), torch.arange(8), 8)
    clock = Clock(0, 8, 8, 8)
    with torch.no_grad():
        method.head[0].weight.copy_(g["weight_q"])
        method.head[0].bias.copy_(g["bias_q"])
        method.key_head[0].weight.copy_(g["weight_k"])
        method.key_head[0].bias.copy_(g["bias_k"])
        method.queue.copy_(g["queue"])
        # the engine moves the targets after the step before, which is the reference's move before the keys
        for online, target in method.ema_pairs():
            for a, b in zip(online.parameters(), target.parameters(), strict=True):
                b.lerp_(a, 1 - method.ema_momentum(clock))
    assert_close(method.key_head[0].weight, g["weight_k_after"], **VALUES)
    reps = method.represent(batch, clock)
    loss = method.loss(reps, batch, clock)["loss"]
    loss.backward()
    method.update(reps, batch, clock)
    assert_close(loss, g["loss"], **VALUES)
    assert_close(method.head[0].weight.grad, g["grad_weight_q"], **GRADIENTS)
    assert_close(method.queue, g["queue_after"], **VALUES)
    assert int(method.pointer) == int(g["pointer_after"])
    assert method.key_head[0].weight.grad is None


def test_moco_logits(golden):
    """The positive first, the queue after it, over the temperature: the loss of the golden logits is the golden loss."""
    g = tensors(golden("moco_step"))
    target = torch.zeros(len(g["logits"]), dtype=torch.long)
    assert_close(nn.functional.cross_entropy(g["logits"], target), g["loss"], **VALUES)


def test_lars(golden):
    g = tensors(golden("lars"))
    weight, bias = nn.Parameter(g["weight"].clone()), nn.Parameter(g["bias"].clone())
    optimizer = LARS(
        [weight, bias],
        lr=float(g["lr"]),
        momentum=float(g["momentum"]),
        weight_decay=float(g["weight_decay"]),
        trust=float(g["trust_coefficient"]),
    )
    for step in range(4):
        weight.grad, bias.grad = g["grad_weight"][step].clone(), g["grad_bias"][step].clone()
        optimizer.step()
        assert_close(weight.detach(), g["weight_after"][step], **VALUES)
        assert_close(bias.detach(), g["bias_after"][step], **VALUES)


def test_cosine_schedule(golden):
    g = golden("cosine_schedule")
    total = int(g["epochs"]) * int(g["steps_per_epoch"])
    ours = [cosine(float(g["base"]), float(g["final"]), step / total) for step in range(total)]
    np.testing.assert_allclose(ours, g["values"], rtol=1e-12)


def test_learning_rate_with_warm_up(golden):
    g = golden("cosine_schedule")
    per_epoch, epochs = int(g["steps_per_epoch"]), int(g["epochs"])
    base, end = float(g["warmup_base"]), float(g["warmup_final"])
    config = RunConfig.make(
        "simclr",
        {
            "optim.lr": base,
            "optim.lr_scaling": "none",
            "optim.lr_end": end / base,
            "optim.warmup_epochs": float(g["warmup_epochs"]),
            "train.batch_size": 10,
        },
    )
    clocks = [Clock(step * 10, epochs * per_epoch * 10, per_epoch * 10, 10) for step in range(epochs * per_epoch)]
    np.testing.assert_allclose([learning_rate(config, clock) for clock in clocks], g["warmup_values"], rtol=1e-9, atol=1e-12)


def test_step_schedule_drops_at_120_and_160_of_200_epochs():
    config = RunConfig.make("moco", preset="v1")
    rates = [learning_rate(config, Clock(epoch * 256, 200 * 256, 256, 256)) for epoch in (0, 119, 120, 159, 160, 199)]
    np.testing.assert_allclose(rates, [0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])
