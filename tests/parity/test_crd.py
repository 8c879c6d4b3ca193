"""CRD against a slow, literal transcription of its equations, sample by sample."""

import math
from types import SimpleNamespace

import torch
from torch.testing import assert_close

from contray.evaluation.common.losses import distillation_kl
from contray.evaluation.crd import Config, ContrastiveDistillation
from contray.methods._base import Batch

N, B, K, S, T, D, TAU, MOMENTUM = 11, 4, 6, 5, 7, 3, 0.3, 0.5
OPTIONS = SimpleNamespace(negatives=K, temperature=TAU, momentum=MOMENTUM, dim=D)


def embed(layer, row):
    out = [dot(weights, row) + b for weights, b in zip(layer.weight, layer.bias, strict=True)]
    norm = dot(out, out).sqrt()
    return [x / norm for x in out]


def dot(a, b):
    return torch.stack([x * y for x, y in zip(a, b, strict=True)]).sum()


def literal(contrast, students, teachers, index, drawn, banks, constants):
    """The loss of one step; moves `banks` and, at the first step, `constants`, as plain lists."""
    embedded = {
        "student": [embed(contrast.embed_student, row) for row in students],
        "teacher": [embed(contrast.embed_teacher, row) for row in teachers],
    }
    loss = torch.zeros((), dtype=torch.float64)
    for anchor, other in (("student", "teacher"), ("teacher", "student")):
        scores = [
            [(dot(banks[other][j], anchored) / TAU).exp() for j in (i, *negatives)]
            for i, anchored, negatives in zip(index, embedded[anchor], drawn, strict=True)
        ]
        if anchor not in constants:  # the mean score times N, of the first batch
            constants[anchor] = N * sum(e.item() for row in scores for e in row) / (B * (1 + K))
        for row in scores:
            h = [e / constants[anchor] / (e / constants[anchor] + K / N) for e in row]
            loss = loss - (h[0].log() + torch.stack([(1 - h_j).log() for h_j in h[1:]]).sum()) / B
    for side, rows in embedded.items():
        for i, row in zip(index, rows, strict=True):
            moved = [MOMENTUM * old.item() + (1 - MOMENTUM) * new.item() for old, new in zip(banks[side][i], row, strict=True)]
            norm = math.sqrt(sum(x * x for x in moved))
            banks[side][i] = torch.tensor([x / norm for x in moved], dtype=torch.float64)
    return loss


def test_crd_is_its_equation_through_three_steps():
    contrast = ContrastiveDistillation(S, T, N, OPTIONS, seed=0).double()  # pyright: ignore[reportArgumentType]
    banks = {"student": list(contrast.bank_student.clone()), "teacher": list(contrast.bank_teacher.clone())}
    constants: dict[str, float] = {}
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        index = torch.randperm(N, generator=generator)[:B]
        students = torch.randn(B, S, generator=generator, dtype=torch.float64, requires_grad=True)
        teachers = torch.randn(B, T, generator=generator, dtype=torch.float64, requires_grad=True)
        batch = Batch({}, index, torch.arange(B), B, seed=1, step=step)
        drawn = (batch.rand("crd", (K,), torch.float64) * N).long().tolist()
        ours = contrast(students, teachers, batch)
        slow = literal(contrast, students, teachers.detach(), index.tolist(), drawn, banks, constants)
        assert_close(ours, slow, rtol=1e-6, atol=1e-6)  # the release adds 1e-7 to denominators
        wanted = [students, *contrast.parameters()]
        for mine, theirs in zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(slow, wanted), strict=True):
            assert mine.abs().max() > 0
            assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
        assert_close(contrast.bank_student, torch.stack(banks["student"]))
        assert_close(contrast.bank_teacher, torch.stack(banks["teacher"]))
        assert_close(contrast.constants, torch.tensor([constants["student"], constants["teacher"]], dtype=torch.float64))


def test_the_teacher_gets_no_gradient():
    contrast = ContrastiveDistillation(S, T, N, OPTIONS, seed=0)  # pyright: ignore[reportArgumentType]
    students, teachers = torch.randn(B, S, requires_grad=True), torch.randn(B, T, requires_grad=True)
    contrast(students, teachers, Batch({}, torch.arange(B), torch.arange(B), B)).backward()
    assert students.grad is not None
    assert teachers.grad is None


def test_soft_labels_carry_the_square_of_the_temperature_as_both_releases_have_it():
    """`add_kd_loss` of SimCLR v2's distillation_self_training.ipynb, whose eq. 2 prints no factor, and `DistillKL` of RepDistiller: literal."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    goal = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    for temperature in (0.1, 1.0, 4.0):
        probs = torch.softmax(goal / temperature, 1)
        simclr = temperature**2 * -(probs * torch.log_softmax(scores / temperature, 1)).sum(1).mean()
        p_s, p_t = torch.log_softmax(scores / temperature, 1), torch.softmax(goal / temperature, 1)
        repdistiller = torch.nn.functional.kl_div(p_s, p_t, reduction="sum") * temperature**2 / scores.shape[0]
        ours = distillation_kl(scores, goal, temperature)
        assert_close(ours, repdistiller)
        wanted = torch.autograd.grad(simclr, scores)[0]
        assert_close(torch.autograd.grad(ours, scores)[0], wanted, msg=f"T {temperature}")


def test_the_defaults_are_the_release_s():
    """train_student.py's of RepDistiller, and `--distill crd -a 0 -b 0.8` of its run_cifar_distill.sh; 16384 negatives are for 50,000 images."""
    options = Config()
    assert (options.labelled, options.soft, options.weight) == (1.0, 0.0, 0.8), "-r, -a, -b"
    assert (options.soft_temperature, options.temperature, options.momentum, options.dim) == (4.0, 0.07, 0.5, 128)
