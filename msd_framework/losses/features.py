"""Losses between intermediates of student and teacher: states, attention and summaries."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.losses.base import FEATURE_LOSSES, FeatureLoss, at_least_float32
from msd_framework.ranges import positive
from msd_framework.structures import Batch, Feature, FeatureKind, FeatureShape


class _OfVectors(FeatureLoss):
    """A mean over positions of a distance between vectors."""

    takes: ClassVar[frozenset[FeatureKind]] = frozenset({"hidden", "pooled"})
    same_width: ClassVar[bool] = True
    same_positions: ClassVar[bool] = True

    def forward(self, student: Feature, teacher: Feature, batch: Batch) -> Tensor:
        s, t = at_least_float32(student.values), at_least_float32(teacher.values).detach()
        if s.ndim == 2:
            return self.distance(s, t)  # a summary is one position
        return _mean(self.distance(s, t), _both(student, teacher))

    @abstractmethod
    def distance(self, s: Tensor, t: Tensor) -> Tensor:
        """Of vectors [.., D'], float [..]."""


@FEATURE_LOSSES.register("hint")
class Hint(_OfVectors):
    r"""Mean squared difference of states or summaries.

    .. math:: D = \frac{1}{|P| \, D'} \sum_{l \in P} \lVert s_l - t_l \rVert^2

    with :math:`s, t` [B, L, D'] the student's states, made as wide as the teacher's, and the teacher's, and :math:`P` the
    positions of the example that hold something for both; a summary is one position. An example that has none counts 0.
    Source: Romero et al., FitNets, ICLR 2015 (arXiv:1412.6550), equation 3, but for the constant; the loss of hidden states
    and of embeddings in TinyBERT (Jiao et al., 2020, arXiv:1909.10351, equations 8 and 9).
    """

    def distance(self, s: Tensor, t: Tensor) -> Tensor:
        return (s - t).square().mean(-1)


@FEATURE_LOSSES.register("cosine")
class CosineDistance(_OfVectors):
    r"""How far states or summaries point in other directions, whatever their length.

    .. math:: D = \frac{1}{|P|} \sum_{l \in P} 1 - \frac{s_l^\top t_l}{\lVert s_l \rVert \lVert t_l \rVert}

    with the symbols of `hint`: the third loss of DistilBERT (Sanh et al., 2019, arXiv:1910.01108, section 2).
    """

    def distance(self, s: Tensor, t: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(s, t, dim=-1)


@FEATURE_LOSSES.register("attention_transfer")
class AttentionTransfer(FeatureLoss):
    r"""Mean squared difference of attention, head by head.

    .. math:: D = \frac{1}{H |P|^2} \sum_h \sum_{l, k \in P} (A^s_{hlk} - A^t_{hlk})^2

    with :math:`A` [B, H, L, L] the attention of a layer and :math:`P` the positions that hold something for both.
    Source: Jiao et al., TinyBERT, Findings of EMNLP 2020 (arXiv:1909.10351), equation 7, of the `scores` before the softmax.
    """

    takes: ClassVar[frozenset[FeatureKind]] = frozenset({"attention", "scores"})
    same_width: ClassVar[bool] = True
    same_positions: ClassVar[bool] = True

    def forward(self, student: Feature, teacher: Feature, batch: Batch) -> Tensor:
        both = _both(student, teacher)
        pairs = both[:, :, None] & both[:, None, :]  # [B, L, L]
        off = at_least_float32(student.values) - at_least_float32(teacher.values).detach()  # [B, H, L, L]
        return _mean(off.square().mean(1).flatten(1), pairs.flatten(1))


@FEATURE_LOSSES.register("minilm")
class RelationTransfer(FeatureLoss):
    r"""Divergence of the teacher's relations between positions from the student's.

    .. math::
        D = \frac{1}{A |P|} \sum_a \sum_{l \in P} \mathrm{KL}\left(R^t_{al} \,\Vert\, R^s_{al}\right), \qquad
        R_a = \mathrm{softmax}\left(\frac{X_a X_a^\top}{\sqrt{d}}\right)

    with :math:`X_a` [L, d] the part of queries, keys, values or states that belongs to relation head :math:`a` of A, and
    :math:`P` the positions that hold something for both; widths and numbers of heads may differ. Of attention probabilities
    [B, H, L, L], R is what they are among the positions of the feature, and both models need as many heads.
    Source: Wang et al., MiniLM, NeurIPS 2020 (arXiv:2002.10957), equations 4 to 6, of the last layer's `attention` and `value` (A
    the number of heads); MiniLMv2, Findings of ACL 2021 (arXiv:2012.15828), equations 4 to 6, of `query`, `key` and `value` of the
    teacher's last layer, or of one below it, and of the student's last.

    Args:
        num_heads: A, which divides the width of either model; attention has its own.
    """

    takes: ClassVar[frozenset[FeatureKind]] = frozenset({"attention", "hidden"})
    same_positions: ClassVar[bool] = True

    def __init__(self, num_heads: int = 12):
        super().__init__()
        positive(num_heads=num_heads)
        self.num_heads = num_heads

    def prepare(self, student: FeatureShape, teacher: FeatureShape) -> None:
        if student.kind == "attention" and student.width != teacher.width:
            raise ValueError(
                f"minilm compares attention head by head, and the student has {student.width} heads and the teacher "
                f"{teacher.width}. Take query, key and value, or set adaptor=linear."
            )
        for side, shape in (("student", student), ("teacher", teacher)):
            if shape.kind == "hidden" and shape.width % self.num_heads:
                raise ValueError(f"num_heads must divide the {side}'s {shape.width} features, got {self.num_heads}.")

    def forward(self, student: Feature, teacher: Feature, batch: Batch) -> Tensor:
        both = _both(student, teacher)
        # autocast would compute products in half precision
        with torch.autocast(both.device.type, enabled=False):
            log_q, log_p = self.relations(student, both), self.relations(teacher, both).detach()  # [B, A, L, L]
        return _mean((log_p.exp() * (log_p - log_q)).sum(-1).mean(1), both)

    def relations(self, feature: Feature, mask: Tensor) -> Tensor:
        """Logarithms of R, [B, A, L, L]; of positions whose mask [B, L] is False, a number that counts nothing."""
        values = at_least_float32(feature.values)
        if values.ndim == 4:
            related = values.clamp(min=torch.finfo(values.dtype).tiny).log()
        else:
            x = values.view(*values.shape[:2], self.num_heads, -1).transpose(1, 2)  # [B, A, L, d]
            related = x @ x.transpose(-1, -2) / x.shape[-1] ** 0.5
        return related.masked_fill(~mask[:, None, None, :], torch.finfo(values.dtype).min).log_softmax(-1)


@FEATURE_LOSSES.register("pkd")
class PatientDistance(FeatureLoss):
    r"""Squared distance of summaries that are brought to length 1.

    .. math:: D = \left\lVert \frac{s}{\lVert s \rVert} - \frac{t}{\lVert t \rVert} \right\rVert^2

    with :math:`s, t` [B, D'] the states of [CLS] in a layer, `fused.*.cls`: those of every second layer of the teacher (skip,
    which `layers: even` gives a student of half its depth), or of its last ones. Any other summary will do.
    Source: Sun et al., Patient Knowledge Distillation for BERT Model Compression, EMNLP 2019 (arXiv:1908.09355), equation 7.
    """

    takes: ClassVar[frozenset[FeatureKind]] = frozenset({"pooled"})
    same_width: ClassVar[bool] = True

    def forward(self, student: Feature, teacher: Feature, batch: Batch) -> Tensor:
        s, t = at_least_float32(student.values), at_least_float32(teacher.values).detach()
        return (F.normalize(s, dim=-1) - F.normalize(t, dim=-1)).square().sum(-1)


def _both(student: Feature, teacher: Feature) -> Tensor:
    """The positions that hold something for both, bool [B, L]."""
    assert student.mask is not None
    assert teacher.mask is not None
    return student.mask & teacher.mask


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of the values [B, N] that are counted, 0 where none is."""
    return values.where(counted, 0.0).sum(1) / counted.sum(1).clamp(min=1)
