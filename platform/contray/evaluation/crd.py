"""Contrastive representation distillation: a student's features of an image are to identify the teacher's, and the other way round.

Tian, Krishnan & Isola, "Contrastive Representation Distillation", ICLR 2020, https://arxiv.org/abs/1910.10699.

B minibatch, N training images, K negatives, S and T features of student and teacher, D features of the embeddings
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config.sections import EvalConfig
from ..methods._base import Batch
from ..methods._parts import bank_scores, constant_of, nce, new_bank, normalize, write_bank
from ..model.seeds import seeded


class ContrastiveDistillation(nn.Module):
    """The two linear embeddings and their memory banks; `forward` is the loss and writes the banks, once per step.

    The critic's objective (§3.1) with the memory banks and the noise-contrastive form of the authors' release: each side's embedding
    is scored against the other side's bank, h = e / (e + K/N) with e = exp(t . s / temperature) / Z, Z from the first batch.
    Negatives are drawn from all images, as the paper does without labels (i != j, up to K/N chance hits): the labels of most are unknown here.
    """

    bank_student: Tensor
    bank_teacher: Tensor
    constants: Tensor

    def __init__(self, student: int, teacher: int, samples: int, options: EvalConfig, seed: int) -> None:
        super().__init__()
        self.options = options
        with seeded(seed, "crd"):
            self.embed_student = nn.Linear(student, options.crd_dim)
            self.embed_teacher = nn.Linear(teacher, options.crd_dim)
            self.register_buffer("bank_student", new_bank(samples, options.crd_dim))  # (N, D)
            self.register_buffer("bank_teacher", new_bank(samples, options.crd_dim))  # (N, D)
        self.register_buffer("constants", torch.zeros(2))  # Z of both directions; 0 until the first step

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """student: (B, S) and teacher: (B, T) penultimate features of the batch's images -> the mean over the batch."""
        options, samples, index = self.options, len(self.bank_student), batch.index.to(student.device)
        s = normalize(self.embed_student(student))  # (B, D)
        t = normalize(self.embed_teacher(teacher.detach()))  # (B, D)
        draws = batch.rand("crd", (options.crd_negatives,), torch.float64)  # (B, K)
        loss = s.new_zeros(())  # ()
        for side, (query, bank) in enumerate(((s, self.bank_teacher), (t, self.bank_student))):
            scores = bank_scores(query, bank, index, draws, options.crd_temperature)  # (B, 1+K)
            if not self.constants[side]:
                self.constants[side] = constant_of(scores, samples, batch.size)  # ()
            loss = loss + nce(scores, self.constants[side].clone(), samples, batch.size)  # ()
        write_bank(self.bank_student, index, s, options.crd_momentum)
        write_bank(self.bank_teacher, index, t, options.crd_momentum)
        return loss
