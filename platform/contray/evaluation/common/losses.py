"""Distillation: what a student learns from a teacher's outputs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def distillation_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softened predictions of logits (B, C), the mean over the batch; no gradient to the teacher.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531, §2: gradients shrink as 1 / T^2, hence the factor. SimCLR v2 prints its eq. 2 without it,
    and its authors' code has it (google-research/simclr, colabs/distillation_self_training.ipynb: `add_kd_loss`), as CRD's has.
    """
    goal = (teacher.detach() / temperature).softmax(1)  # (B, C)
    return temperature**2 * F.kl_div((student / temperature).log_softmax(1), goal, reduction="batchmean")


def label_weights(labelled: np.ndarray, samples: int) -> Tensor:
    """(samples,): samples / n for the n `labelled` ids, 0 for the others.

    So the weighted mean over random batches of all images is, in expectation, the mean over the labelled ones: a batch needs none of them.
    """
    weights = torch.zeros(samples)
    weights[torch.as_tensor(labelled)] = samples / len(labelled)
    return weights


def labelled_cross_entropy(scores: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of class scores (B, C) with labels y (B,), the mean of the rows by `weights` (B,) of `label_weights`.

    A label of -1 is of an image that has no known one; its weight is 0.
    """
    return (weights * F.cross_entropy(scores, y, reduction="none", ignore_index=-1)).mean()
