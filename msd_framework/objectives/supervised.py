"""Learning from labels alone: how teachers are trained, and the students that nobody teaches."""

from __future__ import annotations

from typing import ClassVar

from msd_framework.losses import default_task_loss
from msd_framework.losses.base import TaskLoss
from msd_framework.losses.labelled import labelled_losses
from msd_framework.maskers.modality_dropout import modality_dropout
from msd_framework.models.base import MultimodalModel
from msd_framework.modulation.base import GradientModulation
from msd_framework.objectives.base import OBJECTIVES, Objective
from msd_framework.structures import Batch, LossTerm, StepOutput, Task, check_logits


@OBJECTIVES.register("supervised")
class SupervisedObjective(Objective):
    r"""The task loss of the full view.

    .. math:: L = \frac{1}{B} \sum_i \ell(f(x_i), y_i)

    over the B examples that have a label.

    Args:
        task_loss: what a prediction is compared with its target by; the task's usual one if null.
        modality_dropout: the probability of losing each of M modalities, at most 1 / M; beyond two, half the time all others.
        modulation: balances how fast the encoders of modalities learn; nothing if null.
        task: how targets are read.
    """

    takes_unlabelled: ClassVar[bool] = True

    def __init__(
        self,
        model: MultimodalModel,
        task_loss: TaskLoss | None = None,
        modality_dropout: float = 0.0,
        modulation: GradientModulation | None = None,
        task: Task = "single_label",
    ):
        super().__init__()
        if not 0 <= modality_dropout * len(model.modalities) <= 1:
            raise ValueError(f"modality_dropout must lie between 0 and 1/{len(model.modalities)}, got {modality_dropout}.")
        self.model = model
        self.task_loss = task_loss or default_task_loss(task)
        self.modality_dropout = modality_dropout
        self.take(modulation)

    def forward(self, batch: Batch) -> StepOutput:
        partial = modality_dropout(batch, self.modality_dropout if self.training else 0.0)
        output = self.model(partial.inputs)
        check_logits(output.logits[None], batch, type(self.model).__name__)
        task = labelled_losses(self.task_loss, output, batch)  # [B]
        loss = task.mean()
        return StepOutput(loss, {"task": loss.detach(), **self.modulate(batch)}, output, (LossTerm("task", task),))
