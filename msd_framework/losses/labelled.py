r"""The task loss where some examples have no label.

An example without a label has the target -100 (`single_label`), or NaN for each class (`multi_label`, `soft_target`).

.. math:: \ell = \frac{1}{N_y} \sum_{i \in Y} \ell(f(x_i), y_i)

over the examples Y of an update that have a label, :math:`N_y` of them over all processes and all parts of an accumulated batch;
0 where none has one. An update is therefore the same however it is cut up.
"""

from __future__ import annotations

from torch import Tensor

from msd_framework.losses.base import TaskLoss, one_each
from msd_framework.structures import Batch, ModelOutput

FEWEST = 1e-9
"""Stands in for a count of 0, where all that it divides is 0."""


def labelled_losses(task_loss: TaskLoss, output: ModelOutput, batch: Batch) -> Tensor:
    """Task losses, float [B], whose mean over the examples of an update is the mean over those that have a label.

    Args:
        task_loss: l.
        output: logits [B, C] of the batch.
        batch: tells how many examples count as labelled; if it does not, each is taken to have a label.
    """
    if batch.num_labelled is None:
        return known_losses(task_loss, output, batch)
    return known_losses(task_loss, output, batch) * (len(batch) / batch.num_labelled.clamp(min=FEWEST))


def known_losses(task_loss: TaskLoss, output: ModelOutput, batch: Batch) -> Tensor:
    """The task loss of each example, float [B]; 0 where it has no label, if the batch tells that some have none."""
    if batch.num_labelled is None:
        return one_each(task_loss, task_loss(output, batch.targets), len(batch))
    known = batch.labelled  # [B]
    targets = batch.targets.where(known.view(-1, *[1] * (batch.targets.ndim - 1)), 0)
    return one_each(task_loss, task_loss(output, targets), len(batch)).where(known, 0.0)
