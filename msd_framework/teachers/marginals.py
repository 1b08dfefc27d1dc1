"""A teacher that was trained by a softmax, for students whose classes are questions of their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from msd_framework.losses.base import at_least_float32
from msd_framework.maskers.base import Views
from msd_framework.structures import Batch, Feature, FeatureKind, ModelOutput
from msd_framework.teachers.base import Teacher


class MarginalsTeacher(Teacher):
    r"""Gives the marginal of each class of another teacher, as a logit of its own.

    .. math:: \sigma(z'_c) = p_c, \qquad z'_c = \log p_c - \log (1 - p_c) = z_c - \log \sum_{k \neq c} e^{z_k}

    with :math:`p` the softmax of the other teacher's logits z. The reverse needs no class: labels that are independent, with
    probabilities :math:`\sigma(z_c)`, follow the softmax of z once it is known that one alone is right.
    """

    def __init__(self, teacher: Teacher):
        self.teacher, self.modalities, self.num_classes = teacher, teacher.modalities, teacher.num_classes

    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        output = self.teacher.predict(batch, views, shown)
        return replace(output, logits=marginals(output.logits))

    @property
    def feature_kinds(self) -> Mapping[str, FeatureKind]:
        return self.teacher.feature_kinds

    def predict_features(
        self, batch: Batch, views: Sequence[str], wanted: Sequence[Collection[str]], shown: Views | None = None
    ) -> tuple[ModelOutput, Sequence[Mapping[str, Feature]]]:
        output, features = self.teacher.predict_features(batch, views, wanted, shown)
        return replace(output, logits=marginals(output.logits)), features


def marginals(logits: Tensor) -> Tensor:
    """Logits [.., C] whose sigmoid is the softmax of others.

    >>> marginals(torch.tensor([3.0, 1.0])).tolist()  # of two classes: how far apart they are
    [2.0, -2.0]
    """
    z = at_least_float32(logits)
    log_p = z.log_softmax(-1)
    top, answer = z.max(-1, keepdim=True)
    # 1 - p of the surest class is summed over the others, for as a difference it would be lost to rounding
    surest = top - z.scatter(-1, answer, -torch.inf).logsumexp(-1, keepdim=True)
    return (log_p - torch.log1p(-log_p.exp().clamp(max=0.5))).scatter(-1, answer, surest)
