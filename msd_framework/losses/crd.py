"""Contrastive distillation of representations (CRD)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msd_framework.losses.base import FEATURE_LOSSES, FeatureLoss
from msd_framework.losses.relations import summary
from msd_framework.ranges import below_one, positive
from msd_framework.structures import Batch, Feature, FeatureKind, FeatureShape

SMALLEST = 1e-7  # added to the denominators, as in the released code


@FEATURE_LOSSES.register("crd")
class ContrastiveRepresentation(FeatureLoss):
    r"""Noise-contrastive estimation of which of N training examples two vectors are of.

    .. math::
        D_i &= -\sum_{(u, v)} \left[\log \frac{h(u_i, v_i)}{h(u_i, v_i) + K / N}
        + \sum_{k=1}^K \log \frac{K / N}{h(u_i, v_{j_k}) + K / N}\right] \\
        h(u, v) &= e^{\langle u, v \rangle / T} / Z

    summed over both directions: u the student's vector and v the teacher's as remembered, and the other way round. The
    vectors are learned linear maps of the summaries, scaled to length 1; :math:`j_k` are examples drawn from the training
    split but for i; Z is N times the mean of the first batch's exponentials (Tian et al., ICLR 2020, arXiv:1910.10699,
    section 3; estimator and memory after Wu et al., CVPR 2018, arXiv:1805.01978). The mean over the batch is the loss of the
    released code, whose negatives of other classes alone are left out.

    The memories hold 2 N `embedding_size` numbers and are saved with the objective. Training refreshes those of a batch:
    :math:`v \leftarrow \mu v + (1 - \mu) v_\text{now}`, scaled to length 1. **Under data-parallel training** the first
    process's memory is copied to the others before each forward pass: 1/n of an epoch's examples are refreshed. Each process
    draws its own negatives, so n processes are not bit for bit one.

    Args:
        num_negatives: K; the released code takes 16384. A step takes memory of B K `embedding_size` numbers, twice.
        embedding_size: features of the vectors that are compared.
        temperature: T, above 0.
        momentum: :math:`\mu`, how much of what it remembered stays, at least 0 and below 1.
    """

    takes: ClassVar[frozenset[FeatureKind]] = frozenset({"pooled", "hidden"})

    student_memory: Tensor
    teacher_memory: Tensor
    student_z: Tensor
    teacher_z: Tensor

    def __init__(self, num_negatives: int = 1024, embedding_size: int = 128, temperature: float = 0.07, momentum: float = 0.5):
        super().__init__()
        positive(num_negatives=num_negatives, embedding_size=embedding_size, temperature=temperature)
        below_one(momentum=momentum)
        self.num_negatives, self.embedding_size = num_negatives, embedding_size
        self.temperature, self.momentum = temperature, momentum

    def prepare(self, student: FeatureShape, teacher: FeatureShape) -> None:
        if student.num_examples is None:
            raise ValueError("crd remembers each training example, and nobody said how many there are. Take another feature loss.")
        if student.num_examples < 2:
            raise ValueError(f"crd compares a training example with others, and there is {student.num_examples}.")
        self.student_map = nn.Linear(student.width, self.embedding_size)
        self.teacher_map = nn.Linear(teacher.width, self.embedding_size)
        bound = (3 / self.embedding_size) ** 0.5  # vectors of length 1 on average
        for name in ("student", "teacher"):
            memory = torch.empty(student.num_examples, self.embedding_size).uniform_(-bound, bound)
            self.register_buffer(f"{name}_memory", memory)  # [N, E]
            self.register_buffer(f"{name}_z", torch.zeros(()))  # 0 until the first batch

    def forward(self, student: Feature, teacher: Feature, batch: Batch) -> Tensor:
        if len(batch.places) != len(batch.targets):
            raise ValueError(
                "crd must know where the examples of a batch stand in the training split, and this batch has no places."
            )
        with torch.autocast(student.values.device.type, enabled=False):
            s = F.normalize(self.student_map(summary(student)), dim=1)  # [B, E]
            t = F.normalize(self.teacher_map(summary(teacher).detach()), dim=1)
            places = torch.tensor(batch.places).to(s.device, non_blocking=True)
            examples = torch.cat([places[:, None], self.draw(places)], 1)  # [B, 1 + K], the right one first
            value = self.contrast(s, self.teacher_memory[examples], self.student_z)
            value = value + self.contrast(t, self.student_memory[examples], self.teacher_z)
        if self.training:
            self.remember(self.student_memory, s, places)
            self.remember(self.teacher_memory, t, places)
        return value

    def draw(self, places: Tensor) -> Tensor:
        """K examples other than each one, int64 [B, K]."""
        drawn = torch.randint(len(self.student_memory) - 1, (len(places), self.num_negatives), device=places.device)
        return drawn + (drawn >= places[:, None])

    def contrast(self, anchors: Tensor, candidates: Tensor, z: Tensor) -> Tensor:
        """How badly each anchor [B, E] points to the first of its candidates [B, 1 + K, E], float [B]."""
        scores = torch.exp((candidates @ anchors[..., None])[..., 0] / self.temperature)  # [B, 1 + K]
        constant = torch.where(z > 0, z, scores.detach().mean() * len(self.student_memory))
        if self.training:
            z.copy_(constant)
        h = scores / constant
        noise = self.num_negatives / len(self.student_memory)
        right = torch.log(h[:, 0] / (h[:, 0] + noise + SMALLEST))
        wrong = torch.log(noise / (h[:, 1:] + noise + SMALLEST))
        return -(right + wrong.sum(1))

    @torch.no_grad()
    def remember(self, memory: Tensor, vectors: Tensor, places: Tensor) -> None:
        """Moves the remembered vectors of some examples towards their new ones."""
        memory[places] = F.normalize(torch.lerp(vectors.to(memory.dtype), memory[places], self.momentum), dim=1)
