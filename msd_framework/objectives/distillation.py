"""Learning from a teacher, one view of an example at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from msd_framework.losses import default_distillation_loss, default_task_loss
from msd_framework.losses.base import DistillationLoss, TaskLoss, compare
from msd_framework.maskers.base import Masker, Views
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import Objective
from msd_framework.progress import Dial, Number
from msd_framework.registry import OBJECTIVES, WEIGHTINGS, split
from msd_framework.saliency.base import Saliency
from msd_framework.structures import FULL, Batch, ModelOutput, Setting, StepOutput, Task, View, visible_modalities
from msd_framework.teachers.base import Teacher
from msd_framework.weighting.base import Evidence, WeightingStrategy
from msd_framework.weighting.fixed import UniformWeights


@OBJECTIVES.register("distillation")
class DistillationObjective(Objective):
    r"""Task loss plus weighted distillation over views of the same example.

    .. math:: L = (1 - \lambda) \, \ell(f(x), y) + \lambda \sum_v w_v(x) \, D(f(x_v), f_T(x_v))

    averaged over the batch, with :math:`f` the student, :math:`f_T` the teacher, :math:`x_v` the example with the
    modalities that view :math:`v` shows. The single view `full` is distillation as in Hinton et al. (2015,
    arXiv:1503.02531); the views `full` and each modality alone are modality-specific distillation (Jin et al., 2021,
    arXiv:2101.01881); a view `{teacher: audio, student: image}` is crossmodal distillation (Xue et al., 2023,
    arXiv:2206.06487).

    Args:
        views: what is distilled: names of views (`full`, `text`, `image+text`, `~text`), or
            `{teacher: name, student: name}` where the two see different modalities.
        distill_weight: lambda, the share of the teacher in the loss, between 0 and 1; `{start: 0.9, end: 0.5}` changes it as the
            run goes (options `begin`, `over`, `shape`).
        distill_loss: D; the task's usual one if null.
        task_loss: l; the task's usual one if null.
        weighting: w, how much each view of each example counts; 1 each if null.
        task: how targets are read.
    """

    needs_teacher: ClassVar[bool] = True

    masker: Masker

    def __init__(
        self,
        model: MultimodalModel,
        teacher: Teacher,
        masker: Masker,
        views: list[str | dict[str, str]],
        distill_weight: Number = 0.5,
        distill_loss: DistillationLoss | None = None,
        task_loss: TaskLoss | None = None,
        weighting: WeightingStrategy | None = None,
        task: Task = "single_label",
    ):
        super().__init__()
        self.distill_weight = Dial("distill_weight", distill_weight)
        for value in self.distill_weight.ends:
            if not 0 <= value <= 1:
                raise ValueError(f"distill_weight must lie between 0 and 1, got {value}.")
        self.model, self.teacher, self.masker = model, teacher, masker
        self.views = tuple(View.parse(v) for v in views)
        self.distill_loss = distill_loss or default_distillation_loss(task)
        self.task_loss = task_loss or default_task_loss(task)
        self.weighting = weighting or UniformWeights()
        self.weighting.prepare(self.views)

    def forward(self, batch: Batch) -> StepOutput:
        shown = Views(self.masker, batch)
        student = self.student_logits(shown)  # [1 + V, B, C], the full view first
        teacher = self.teacher_outputs(shown)
        full, *seen = (ModelOutput(logits) for logits in student)
        taught = [teacher[v.teacher] for v in self.views]

        task = self.task_loss(full, batch.targets)  # [B]
        distill = torch.stack([compare(self.distill_loss, s, t, batch.targets) for s, t in zip(seen, taught)])  # [V, B]
        w = self.weighting(self.evidence(batch, teacher, student[1:], distill))  # [V] or [V, B]
        w = w if w.ndim == 2 else w[:, None]

        lam = self.distill_weight.value
        loss = ((1 - lam) * task + lam * (w * distill).sum(0)).mean()
        penalty = self.weighting.penalty()
        loss = loss if penalty is None else loss + lam * penalty
        return StepOutput(loss, self.terms(task, distill, w), full)

    def student_logits(self, shown: Views) -> Tensor:
        """The student's logits on the full view and on its side of each view, [1 + V, B, C]; each view is asked for once."""
        names = list(dict.fromkeys([FULL, *(v.student for v in self.views)]))
        logits = dict(zip(names, self.model.forward_views([shown[name].inputs for name in names]).logits))
        return torch.stack([logits[FULL], *(logits[v.student] for v in self.views)])

    def teacher_outputs(self, shown: Views) -> dict[str, ModelOutput]:
        """What the teacher says of its side of each view and of each view that the saliency looks at, by name."""
        names = self.teacher_views
        logits = self.teacher.predict(shown.batch, names, shown).logits  # [V', B, C]
        return {name: ModelOutput(one) for name, one in zip(names, logits)}

    def evidence(self, batch: Batch, teacher: Mapping[str, ModelOutput], student: Tensor, losses: Tensor) -> Evidence:
        """What the weighting may look at, with no graph in it."""
        taught = [teacher[v.teacher] for v in self.views]
        return Evidence(
            views=self.views,
            modalities=self.teacher.modalities,
            teacher=torch.stack([t.logits for t in taught]),
            student=student.detach(),
            losses=losses.detach(),
            teacher_losses=torch.stack([self.task_loss(t, batch.targets) for t in taught]),
            saliency=self.scores(batch, teacher),
            targets=batch.targets,
            gradients=self.gradients(losses),
        )

    def gradients(self, losses: Tensor) -> Tensor | None:
        """The gradient of each view's mean loss with respect to the parameters that the weighting watches, [V, P]."""
        watched = self.weighting.watched(self.model)
        if not watched or not losses.requires_grad:
            return None
        return torch.stack([_gradient(one.mean(), watched) for one in losses])

    def terms(self, task: Tensor, distill: Tensor, w: Tensor) -> dict[str, Tensor]:
        """Batch means of the loss's parts, for the log."""
        losses = {f"distill/{v.name}": d.detach().mean() for v, d in zip(self.views, distill)}
        weights = {f"weight/{v.name}": one.detach().mean() for v, one in zip(self.views, w)}
        return {"task": task.detach().mean(), **losses, **weights}

    @property
    def saliency(self) -> Saliency | None:
        return self.weighting.saliency

    @property
    def teacher_views(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*(v.teacher for v in self.views), *self.saliency_views()]))

    def saliency_views(self) -> tuple[str, ...]:
        return self.saliency.views(self.teacher.modalities) if self.saliency else ()

    def scores(self, batch: Batch, teacher: Mapping[str, ModelOutput]) -> Tensor | None:
        """The saliency of each of the teacher's modalities, [B, M], if the weighting wants it."""
        return self.saliency(teacher, batch.targets, self.teacher.modalities) if self.saliency else None

    @property
    def needs_fit(self) -> bool:
        return self.weighting.needs_fit

    def fit(self, batches: Iterable[Batch]) -> None:
        self.weighting.fit(self._training_scores(batches))

    def _training_scores(self, batches: Iterable[Batch]) -> Iterable[Tensor]:
        assert self.saliency is not None
        for batch in batches:
            names = self.saliency_views()
            outputs = dict(zip(names, map(ModelOutput, self.teacher.predict(batch, names).logits)))
            yield self.saliency(outputs, batch.targets, self.teacher.modalities)

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        problems, views = [], []
        shown: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}
        if not options["views"]:
            return ["views: wanted at least one view, got none; `[full]` is plain distillation."]
        for i, spec in enumerate(options["views"]):
            try:
                view = View.parse(spec)
                taught = visible_modalities(view.teacher, setting.teacher_modalities or tuple(setting.data.modalities))
                learned = visible_modalities(view.student, setting.student_modalities)
                views.append(view)
                first = shown.setdefault((taught, learned), view.name)
                if first != view.name:
                    problems.append(f"views[{i}]: {view.name!r} shows the same as {first!r}.")
            except ValueError as error:
                problems.append(f"views[{i}]: {error}")
        if len(set(views)) < len(views):
            problems.append("views: a view is listed twice.")
        if options.get("weighting") is not None:
            name, given = split(options["weighting"], "weighting", WEIGHTINGS)
            problems += [f"weighting.{text}" for text in WEIGHTINGS.get(name).check(given, setting, tuple(views))]
        return problems


def _gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient as one vector; the graph is kept, for the step itself goes back through it as well."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])
