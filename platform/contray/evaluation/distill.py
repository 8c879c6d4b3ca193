"""Distillation: what a student learns from a teacher's outputs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def distillation_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softened predictions of logits (B, C), the mean over the batch; no gradient to the teacher.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531, §2: gradients shrink as 1 / T^2, hence the factor.
    """
    goal = (teacher.detach() / temperature).softmax(1)  # (B, C)
    return temperature**2 * F.kl_div((student / temperature).log_softmax(1), goal, reduction="batchmean")
