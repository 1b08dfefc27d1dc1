r"""The task loss where some examples have no label.

An example without a label has the target -100 (`single_label`), or NaN for each class (`multi_label`, `soft_target`).

.. math:: \ell = \frac{1}{B_y} \sum_{i \in Y} \ell(f(x_i), y_i)

over the examples Y of an update that have a label, :math:`B_y` of them over all processes and all parts of an accumulated batch;
0 where none has one. An update is therefore the same however it is cut up. Where examples have several targets, the loss of an
example is the mean over them.
"""

from __future__ import annotations

from torch import Tensor

from msd_framework.losses.base import TaskLoss, one_each
from msd_framework.structures import Batch, ModelOutput

FEWEST = 1e-9  # stands in for a count of 0, where all that it divides is 0


def labelled_losses(task_loss: TaskLoss, output: ModelOutput, batch: Batch) -> Tensor:
    """Task losses, float [B], whose mean over the examples of an update is the mean over those that have a label."""
    losses = batch.mean_of_targets(known_losses(task_loss, output, batch))
    return losses if batch.num_labelled is None else losses * (len(batch) / batch.num_labelled.clamp(min=FEWEST))


def known_losses(task_loss: TaskLoss, output: ModelOutput, batch: Batch) -> Tensor:
    """The task loss of each target, float [N]; 0 where it is unknown, in a batch in which some may be."""
    if batch.num_labelled is None and batch.example_of is None:
        return one_each(task_loss, task_loss(output, batch.targets), len(batch))
    known = batch.labelled  # [N]
    targets = batch.targets.where(known.view(-1, *[1] * (batch.targets.ndim - 1)), 0)
    return one_each(task_loss, task_loss(output, targets), len(targets)).where(known, 0.0)
