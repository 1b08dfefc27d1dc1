"""The accuracy of VQA: how many people agree with an answer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from msd_framework.metrics.base import METRICS, MeanMetric
from msd_framework.structures import Task


@METRICS.register("vqa_accuracy")
class VQAAccuracy(MeanMetric):
    r"""How right the most probable answer is, on average, between 0 and 1.

    .. math:: \frac{1}{N} \sum_n s_n(\arg\max_c z_{nc})

    with the logits :math:`z` and the targets :math:`s_n(c)`, the official accuracy of answer c to question n, as
    `msd_framework.data.sets.vqa_answers.answer_scores` has it: the mean over ten times leaving out one of ten people of
    min(1, a third of the others who said so). It is the publisher's number for a model that answers from a list.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"soft_target"})

    def count(self, logits: Tensor, targets: Tensor) -> Tensor:
        chosen = logits.argmax(1, keepdim=True)  # [B, 1]
        scores = targets.gather(1, chosen).double()
        return torch.stack([scores.sum(), scores.new_tensor(len(scores))])
