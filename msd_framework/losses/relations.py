"""Losses on relations between the examples of a batch: the student shall find the same ones alike as its teacher."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.losses.base import FEATURE_LOSSES, FeatureLoss, at_least_float32
from msd_framework.losses.distributions import kl
from msd_framework.ranges import not_negative
from msd_framework.schedules import Number, positive_scheduled
from msd_framework.structures import Batch, Feature, FeatureKind, FeatureShape

SHORTEST = 1e-6  # the length below which a vector has no direction
SMALLEST = 1e-7  # added to probabilities before their logarithm, as in the released code of PKT


def summary(feature: Feature) -> Tensor:
    """A summary [B, D] as it is; of hidden states [B, L, D] the mean over the positions that count, 0 where none does."""
    values = at_least_float32(feature.values)
    if feature.mask is None:
        return values if values.ndim == 2 else values.mean(1)
    kept = values.masked_fill(~feature.mask[..., None], 0.0)
    return kept.sum(1) / feature.mask.sum(1, keepdim=True).clamp(min=1)  # [B, D]


class _Relations(FeatureLoss):
    """A loss on the relations between the examples of a batch, from a summary of each."""

    takes: ClassVar[frozenset[FeatureKind]] = frozenset({"pooled", "hidden"})
    mixes_examples: ClassVar[bool] = True

    def forward(self, student: Feature, teacher: Feature, batch: Batch) -> Tensor:
        s, t = summary(student), summary(teacher).detach()  # [B, D] and [B, D']
        # autocast would compute products in half precision
        with torch.autocast(s.device.type, enabled=False):
            return self.compare(s, t)

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """One value an example, float [B], from summaries [B, D] and [B, D']."""


@FEATURE_LOSSES.register("rkd")
class RelationalDistances(_Relations):
    r"""How differently distances within a batch, and angles of three examples, look to student and teacher.

    .. math::
        D_i &= \frac{\lambda_d}{B} \sum_j h\left(\lVert s_i - s_j \rVert / \mu_s - \lVert t_i - t_j \rVert / \mu_t\right)
        + \frac{\lambda_a}{B^2} \sum_{jk} h\left(\langle e^s_{ij}, e^s_{ik} \rangle - \langle e^t_{ij}, e^t_{ik} \rangle\right) \\
        e_{ij} &= \frac{x_j - x_i}{\lVert x_j - x_i \rVert}

    with :math:`s` [B, D] and :math:`t` [B, D'] the summaries, :math:`\mu` the mean of the distances above 0, and
    :math:`h` the Huber loss with its bend at 1 (Park et al., CVPR 2019, arXiv:1904.05068, sections 3.2.1 and 3.2.2). The mean
    over the batch is the loss of the released code, which takes means over all pairs and all triples, an example with itself
    included. The angles take memory of :math:`B^2 D` and :math:`B^3` numbers; those between equal examples count as 0.

    Args:
        distance_weight: :math:`\lambda_d`, at least 0.
        angle_weight: :math:`\lambda_a`, at least 0; twice that of distances where the paper has both.
    """

    def __init__(self, distance_weight: float = 1.0, angle_weight: float = 2.0):
        super().__init__()
        not_negative(distance_weight=distance_weight, angle_weight=angle_weight)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        value = student.new_zeros(len(student))
        if self.distance_weight:
            off = F.smooth_l1_loss(_distances(student), _distances(teacher), reduction="none")  # [B, B]
            value = value + self.distance_weight * off.mean(1)
        if self.angle_weight:
            off = F.smooth_l1_loss(_angles(student), _angles(teacher), reduction="none")  # [B, B, B]
            value = value + self.angle_weight * off.mean((1, 2))
        return value


@FEATURE_LOSSES.register("sp")
class SimilarityPreserving(_Relations):
    r"""How differently the examples of a batch resemble each other to student and teacher.

    .. math:: D_i = \frac1B \sum_j \left(G^s_{ij} - G^t_{ij}\right)^2,
        \qquad G_{i \cdot} = \frac{x_i X^\top}{\lVert x_i X^\top \rVert}

    with :math:`X` [B, D] the summaries of student or teacher (Tung and Mori, ICCV 2019, arXiv:1907.09682, section 3.1). The mean
    over the batch is the paper's :math:`\lVert G^s - G^t \rVert_F^2 / B^2`.
    """

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (_likenesses(student) - _likenesses(teacher)).square().mean(1)


@FEATURE_LOSSES.register("pkt")
class ProbabilisticTransfer(_Relations):
    r"""How differently student and teacher choose a neighbour of each example within the batch.

    .. math:: D_i = \sum_j p_{ij} \log \frac{p_{ij} + \varepsilon}{q_{ij} + \varepsilon},
        \qquad p_{ij} = \frac{1 + \cos(t_i, t_j)}{\sum_k 1 + \cos(t_i, t_k)}

    with :math:`q` the same of the student (Passalis and Tefas, ECCV 2018, arXiv:1803.10837, section 3, with the cosine
    kernel). As in the released code an example is among its own neighbours, and :math:`\varepsilon` is 1e-7. The mean over the
    batch is B times what the released code has, which divides the sum by :math:`B^2`; the paper has the sum.
    """

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        q, p = _neighbours(student), _neighbours(teacher)  # [B, B]
        return (p * ((p + SMALLEST).log() - (q + SMALLEST).log())).sum(1)


@FEATURE_LOSSES.register("affinity")
class Affinity(_Relations):
    r"""How differently student and teacher share an example's attention out among the others of the batch.

    .. math:: D_i = \sum_{j \ne i} p_{ij} \log \frac{p_{ij}}{q_{ij}},
        \qquad p_{ij} = \frac{e^{\cos(t_i, t_j) / T}}{\sum_{k \ne i} e^{\cos(t_i, t_k) / T}}

    with :math:`q` the same of the student: the affinity of CLIP's distillations (sources: `modality_affinity`) within one feature.
    Batches of one and two examples leave nothing to choose.

    Args:
        temperature: T, above 0, or a schedule such as `{start: 0.2, end: 0.07}`; small ones favour the nearest examples.
    """

    def __init__(self, temperature: Number = 0.07):
        super().__init__()
        self.temperature = positive_scheduled("temperature", temperature)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl(self._log_shares(teacher), self._log_shares(student))

    def _log_shares(self, x: Tensor) -> Tensor:
        """Log-probabilities of the other examples, [B, B - 1]."""
        return _others(_cosines(x, x) / self.temperature.value).log_softmax(1)


@FEATURE_LOSSES.register("modality_affinity")
class ModalityAffinity(FeatureLoss):
    r"""How differently student and teacher find an example's image among all texts of the batch, and its text among all images.

    .. math:: D_i = \frac{1}{M_i (M - 1)} \sum_{m \ne n} \sum_j p^{mn}_{ij} \log \frac{p^{mn}_{ij}}{q^{mn}_{ij}},
        \qquad p^{mn}_{ij} = \frac{e^{\cos(t_{im}, t_{jn}) / T}}{\sum_k e^{\cos(t_{im}, t_{kn}) / T}}

    with :math:`t` [B, M, D] hidden states whose M positions are the summaries of modalities (`fused.projected` of
    `late_fusion`), :math:`M_i` of which example i has, and :math:`q` the same of the student. With image and text it is the
    affinity mimicking of TinyCLIP (Wu et al., ICCV 2023, arXiv:2309.12314, which writes the cross-entropy) and the relational loss
    of CLIP-KD (Yang et al., CVPR 2024, arXiv:2307.12732), the mean of both directions. Their temperatures are the models' own and
    learned; here there is one for both. Masked positions, of modalities that an example lacks, do not count.

    Args:
        temperature: T, above 0, or a schedule such as `{start: 0.2, end: 0.07}`.
    """

    takes: ClassVar[frozenset[FeatureKind]] = frozenset({"hidden"})
    same_positions: ClassVar[bool] = True
    mixes_examples: ClassVar[bool] = True

    def __init__(self, temperature: Number = 0.07):
        super().__init__()
        self.temperature = positive_scheduled("temperature", temperature)

    def prepare(self, student: FeatureShape, teacher: FeatureShape) -> None:
        if student.num_positions != teacher.num_positions:
            raise ValueError(
                f"modality_affinity takes a position for each modality, the same of both, and the student's feature has "
                f"{student.num_positions} where the teacher's has {teacher.num_positions}."
            )

    def forward(self, student: Feature, teacher: Feature, batch: Batch) -> Tensor:
        there = _positions(student) & _positions(teacher)  # [M, B]
        log_q, log_p = self.log_affinities(student, there), self.log_affinities(teacher, there).detach()  # [M, M, B, B]
        # each modality is compared with the others that some example has
        others = there.any(1) & ~torch.eye(len(there), dtype=torch.bool, device=there.device)  # [M, M]
        counts = there[:, None] & others[..., None]  # [M, M, B]
        return (kl(log_p, log_q) * counts).sum((0, 1)) / counts.sum((0, 1)).clamp(min=1)

    def log_affinities(self, feature: Feature, there: Tensor) -> Tensor:
        """Of each modality (first) of an example (third dimension) with each modality (second) of all examples (fourth)."""
        x = at_least_float32(feature.values).transpose(0, 1).masked_fill(~there[..., None], 0.0)  # [M, B, D]
        with torch.autocast(x.device.type, enabled=False):
            logits = _cosines(x[:, None], x[None]) / self.temperature.value
        return logits.masked_fill(~there[None, :, None], torch.finfo(logits.dtype).min).log_softmax(-1)


def _positions(feature: Feature) -> Tensor:
    """Which positions hold something, bool [M, B]."""
    whole = torch.ones(feature.values.shape[:2], dtype=torch.bool, device=feature.values.device)
    return (whole if feature.mask is None else feature.mask).T


def _unit(x: Tensor) -> Tensor:
    """Vectors scaled to length 1; those without a direction are 0, and so is their gradient."""
    square = x.square().sum(-1, keepdim=True)
    return x * torch.where(square > SHORTEST**2, square, torch.inf).rsqrt()


def _cosines(x: Tensor, y: Tensor) -> Tensor:
    """[.., B, D] and [.., B', D] to [.., B, B']."""
    return _unit(x) @ _unit(y).mT


def _distances(x: Tensor) -> Tensor:
    """Distances [B, B] in units of their mean over pairs that differ; differences are taken first, so that none is lost."""
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / mean.clamp(min=SHORTEST)


def _angles(x: Tensor) -> Tensor:
    """Cosines [B, B, B] of the angles at each first example between all second and third ones."""
    e = _unit(x - x[:, None])  # [B, B, D], from i to j
    return e @ e.mT


def _likenesses(x: Tensor) -> Tensor:
    """Rows of the Gram matrix, [B, B], each of length 1, which does not depend on the length of its own vector."""
    return _unit(_unit(x) @ x.T)


def _neighbours(x: Tensor) -> Tensor:
    """Probabilities [B, B] of choosing each example as a neighbour of each."""
    kernel = (1 + _cosines(x, x)) / 2
    return kernel / kernel.sum(1, keepdim=True)


def _others(x: Tensor) -> Tensor:
    """A matrix [B, B] without its diagonal, [B, B - 1]."""
    size = len(x)
    return x.flatten()[1:].view(size - 1, size + 1)[:, :-1].reshape(size, size - 1)
