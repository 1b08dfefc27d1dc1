"""Sequential modality prioritisation: the modality whose teacher knows least learns first, alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from msd_framework.models.base import MultimodalModel
from msd_framework.modulation.base import MODULATIONS, GradientModulation
from msd_framework.modulation.ogm_ge import confidence_sums, right_class, right_labels, summed_confidence
from msd_framework.schedules import Mean, Progress
from msd_framework.structures import Batch, ModelOutput, Outcomes, Setting, Task, outcomes_of


@MODULATIONS.register("g2d")
class SequentialPriority(GradientModulation):
    r"""One encoder learns at a time, from the weakest modality on; the strongest waits until all learn together.

    .. math::
        g_m \leftarrow k_m g_m, \qquad
        k_m = \begin{cases} 1 & \text{if } m = \pi_j \\ 0 & \text{else} \end{cases}, \qquad
        \rho_{\pi_1} \le \dots \le \rho_{\pi_M}, \qquad
        \rho_m = \sum_i p_T(y_i \mid x_{im})

    with :math:`p_T(y \mid x_m)` the probability that the teacher gives the right class when it is shown modality m alone. The
    first part of the run (`until`) has M - 1 stages of equal length, and :math:`\pi_j` leads in stage j; after them
    :math:`k = 1`. The order is that of the update's own examples, over all processes and all parts of `training.accumulate`.
    Encoders wait, what comes after them always learns. Source: Rakib and Bagavathi, G2D: Boosting Multimodal Learning with
    Gradient-Guided Distillation, ICCV 2025 (arXiv:2506.21514), the sequential prioritisation; for two modalities the
    coefficients are those of the released code. Its loss is made of views, `{teacher: image, student: full}` for each modality,
    and of teachers of one modality each, or one teacher of all of them. `modulation/<modality>` in the log is :math:`k_m` of
    the update before.

    **What differs from the paper.** It sets the length of each stage by hand; here they are equal. The released code holds back
    the convolutions of an encoder alone; here it is all of its parameters. A gradient of 0 stops neither momentum nor weight
    decay, there as here. Its distances between the features of student and teachers are `features: [{loss: hint, ..}]` here,
    which one teacher of all modalities offers and several together do not.

    Args:
        until: the part of the run in which one modality learns at a time, between 0 and 1; 0.5 as published.
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if null.
    """

    coefficients: Tensor

    def __init__(self, until: float = 0.5, task: Task = "single_label", outcomes: Outcomes | None = None):
        super().__init__()
        if not 0 <= until <= 1:
            raise ValueError(f"until must lie between 0 and 1, got {until}.")
        self.until = until
        self.right = right_class if task == "single_label" else partial(right_labels, outcomes=outcomes_of(task, outcomes))
        self.modalities: tuple[str, ...] = ()
        self.stage: int | None = None  # which of the weaker modalities leads, from 0; None once all learn together
        self.scores: list[Tensor] = []  # what rho is made of, of each part of this update, [3, M]
        self.encoders: list[list[nn.Parameter]] = []  # of the model that was looked at last

    def prepare(self, modalities: tuple[str, ...]) -> None:
        self.modalities = modalities
        self.register_buffer("coefficients", torch.ones(len(modalities), dtype=torch.float64))  # [M]

    @property
    def teacher_views(self) -> tuple[str, ...]:
        return self.modalities

    def begin_update(self, progress: Progress) -> None:
        self.scores.clear()
        self.stage = None
        if progress.share < self.until:
            self.stage = int(progress.share / self.until * (len(self.modalities) - 1))
        else:
            self.coefficients.fill_(1.0)

    def watch_teacher(self, batch: Batch, predictions: Mapping[str, ModelOutput], shown: Callable[[str], Tensor | None]) -> None:
        if self.training and self.stage is not None:
            logits = [predictions[m].logits for m in self.modalities]  # [M] of [N, C]
            self.scores.append(confidence_sums(self.right, logits, batch, list(map(shown, self.modalities))))

    def forward(self, model: MultimodalModel, batch: Batch) -> dict[str, Tensor]:
        if not model.separable:
            raise ValueError(f"g2d needs a model with an encoder of its own for each modality, and {type(model).__name__} is not.")
        if self.training and self.stage is not None:
            if not self.scores:
                raise ValueError("g2d needs a teacher's predictions from each modality alone. Take the objective distillation.")
            self.encoders = [list(model.get_submodule(f"encoders.{m}").parameters()) for m in self.modalities]
        return {f"modulation/{m}": k for m, k in zip(self.modalities, self.coefficients.clone())}

    def after_backward(self, mean: Mean) -> None:
        if self.stage is None or not self.scores:
            return
        rho = summed_confidence(mean(torch.stack(self.scores).sum(0)))  # [M]
        leads = rho.argsort(stable=True)[self.stage]
        self.coefficients.copy_(torch.arange(len(rho), device=rho.device) == leads)
        for k, parameters in zip(self.coefficients, self.encoders):
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(k.to(parameter.grad.dtype))

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting, model: type[MultimodalModel]) -> list[str]:
        problems = super().check(options, setting, model)
        if problems:
            return problems
        if setting.teacher_modalities is None:
            return ["needs a teacher's predictions from each modality alone. Take the objective distillation, or ogm_ge."]
        unknown = [m for m in setting.student_modalities if m not in setting.teacher_modalities]
        if unknown:
            takes = ", ".join(setting.teacher_modalities)
            return [
                f"needs a teacher's predictions from {unknown[0]} alone, and the teacher takes {takes}. Add one, or take ogm_ge."
            ]
        return []
