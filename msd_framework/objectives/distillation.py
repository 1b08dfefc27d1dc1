"""Learning from a teacher, one view of an example at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any, ClassVar

import torch
from torch import Tensor

from msd_framework.components.registry import split
from msd_framework.losses import default_distillation_loss, default_task_loss
from msd_framework.losses.base import DistillationLoss, TaskLoss, compare_shown
from msd_framework.losses.labelled import known_losses, labelled_losses
from msd_framework.maskers.base import Masker, Views
from msd_framework.models.base import MultimodalModel
from msd_framework.models.layers.distinct import mixes_examples
from msd_framework.modulation.base import GradientModulation
from msd_framework.objectives.base import OBJECTIVES, Objective
from msd_framework.objectives.features import FEATURE_TERMS, FeaturesByView, FeatureTerm, FeatureTerms
from msd_framework.objectives.shown import shown_to_both, targets_shown
from msd_framework.objectives.traced import MIXED, TracedPass, trace
from msd_framework.saliency.base import scores_of
from msd_framework.schedules import HeldOut, Number, Step, share_scheduled
from msd_framework.structures import (
    Batch,
    Feature,
    Inputs,
    LossTerm,
    ModelOutput,
    Setting,
    StepOutput,
    Task,
    check_logits,
    unknown_like,
)
from msd_framework.teachers.base import Teacher
from msd_framework.views import FULL, View, refuse_other_rows, visible_modalities
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy, mean_of_shown
from msd_framework.weighting.fixed import UniformWeights


@dataclass(frozen=True)
class DistillationTerms:
    r"""The terms of a batch, with their graphs.

    .. math:: L = \frac1B \sum_i \left[(1 - \lambda) \, \ell_i + \frac{\lambda}{N_i} \sum_{n \in i} \sum_v w_{vn} D_{vn}\right]
        + \lambda \sum_k \beta_k \frac1B \sum_i F_{ki} + \lambda P

    with :math:`N_i` the targets of example i, one of a classifier.
    """

    batch: Batch  # B examples, and their N targets
    views: Sequence[View]
    distill_weight: float  # lambda
    task: Tensor  # l, float [B]
    distill: Tensor  # D, float [V, N]
    weights: Tensor  # w, float [V, 1] or [V, N]
    features: Sequence[LossTerm]  # F and beta
    penalty: Tensor | None  # P, what the weighting adds, a scalar
    shown: Tensor | None  # bool [V, N], which targets are distilled on a view; None if all are on each

    def loss(self) -> Tensor:
        """L, a scalar."""
        lam = self.distill_weight
        distill = self.batch.mean_of_targets((self.weights * self.distill).sum(0))  # [B]
        loss = ((1 - lam) * self.task + lam * distill).mean()
        if self.features:
            loss = loss + lam * torch.stack([term.weight * term.values.mean() for term in self.features]).sum()
        if self.penalty is not None:
            loss = loss + lam * self.penalty
        return loss

    def each(self) -> Iterator[LossTerm]:
        """The terms one by one; their contributions add up to the loss."""
        lam = self.distill_weight
        yield LossTerm("task", self.task, 1 - lam, option="objective.distill_weight", setting=lam)
        distill, share = self.distill, self.batch.target_share(self.distill.dtype)
        if share is not None:
            # the mean over N targets of these is the mean over examples of the mean over their targets
            distill = distill * share * (distill.shape[1] / len(self.batch))
        for view, values, weight in zip(self.views, distill, self.weights):
            yield LossTerm(f"distill/{view.name}", values, lam, weight, f"weights.{view.name} of objective.weighting")
        for term in self.features:
            yield replace(term, share=lam)
        if self.penalty is not None:
            yield LossTerm("penalty", self.penalty, lam)

    def logged(self) -> dict[str, Tensor]:
        """Detached batch means for the log; those of a view are over the targets that are distilled on it."""
        means = {"task": self.task.detach().mean()}
        for kind, values in (("distill", self.distill), ("weight", self.weights)):
            for view, mean in zip(self.views, mean_of_shown(values.detach(), self.shown)):
                means[f"{kind}/{view.name}"] = mean
        for term in self.features:
            means[term.name] = term.values.detach().mean()
        return means


@OBJECTIVES.register("distillation")
class DistillationObjective(Objective):
    r"""Task loss plus weighted distillation over views of the same example.

    .. math:: L = (1 - \lambda) \, \ell(f(x), y)
        + \lambda \left[\sum_v w_v(x) \, D(f(x_v), f_T(x_v)) + \sum_k \beta_k \, F_k(f(x_{v_k}), f_T(x_{v_k}))\right]

    averaged over the batch, with :math:`f` the student, :math:`f_T` the teacher, :math:`x_v` the example with the
    modalities that view :math:`v` shows, and :math:`F_k` losses of their intermediates. Where an example has several targets,
    :math:`\ell` and :math:`w_v D` are means over them, but for -100. Where an example has nothing of a view, D and F are 0.
    The single view `full` is distillation as in Hinton et al. (2015, arXiv:1503.02531); the views `full` and each modality
    alone are modality-specific distillation (Jin et al., 2021, arXiv:2101.01881); a view `{teacher: audio, student: image}`
    is crossmodal distillation (Xue et al., 2023, arXiv:2206.06487); in a view `image+text*` the text is that of another row, and
    in `image^+text^` both are mixtures of two rows: teacher and student meet more inputs than there are rows.

    Args:
        views: names of views (`full`, `text`, `image+text`, `~text`, `image+text*`), or `{teacher: name, student: name}` where the
            two differ.
        distill_weight: lambda, the share of the teacher in the loss, between 0 and 1, or a schedule `{start: 0.9, end: 0.5}`.
        distill_loss: D; the divergence of what the task loss reads logits as if null.
        task_loss: l; the task's usual one if null.
        task_views: the views on which the student learns the label, by the mean of their losses; `full` alone if null.
        weighting: w, the weight of each view of each example; 1 each if null.
        features: F and beta, such as `[{loss: hint, student: image.2.hidden, teacher: image.9.hidden}]`; nothing if null.
        modulation: balances how fast the encoders of the student's modalities learn; nothing if null.
        task: how targets are read.
    """

    needs_teacher: ClassVar[bool] = True
    takes_unlabelled: ClassVar[bool] = True

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
        task_views: list[str] | None = None,
        weighting: WeightingStrategy | None = None,
        features: list[FeatureTerm] | None = None,
        modulation: GradientModulation | None = None,
        task: Task = "single_label",
    ):
        super().__init__()
        self.distill_weight = share_scheduled("distill_weight", distill_weight)
        self.model, self.teacher, self.masker = model, teacher, masker
        self.views = tuple(map(View.parse, views))
        self.task_loss, self.task_views = task_loss or default_task_loss(task), tuple(task_views or [FULL])
        self.distill_loss = distill_loss or default_distillation_loss(task, self.task_loss.outcomes)
        self.weighting = weighting or UniformWeights()
        self.weighting.prepare(self.views)
        self.features = FeatureTerms(features or ())
        self.take(modulation)
        self.traced: list[TracedPass] = []  # passes of this update that weights are learned from
        if self.weighting.held_out is not None and mixes_examples(model):
            raise ValueError(MIXED)
        if self.weighting.held_out is not None and modulation is not None:
            raise ValueError("weights are learned from the gradient as it is, and a modulation changes it. Take one of the two.")

    def forward(self, batch: Batch) -> StepOutput:
        views = Views(self.masker, batch)
        inputs = [views[name].inputs for name in self.student_views]
        # Learned weights go back to this pass once the update is made.
        traced = trace(self, self.model, inputs, self.own_rows()) if self.weighting.looks_ahead else None
        logits, features = self.student_outputs(inputs, traced)
        student = self.by_view(check_logits(logits, batch, type(self.model).__name__))  # [1 + V, N, C], the full view first
        teacher, teacher_features = self.teacher_outputs(views)
        full = ModelOutput(student[0])
        shown = targets_shown(batch, self.views, self.teacher, self.model.modalities)  # [V, N]

        lam = self.distill_weight.value
        task = self.task_losses(dict(zip(self.student_views, logits)), batch)  # l, [B]
        distill = self.distill_losses(student, teacher, batch.targets, shown)  # D, [V, N]
        weights = self.weights(self.evidence(batch, teacher, student[1:], distill, shown), batch)  # w, [V, 1] or [V, N]
        compared = self.features(features, teacher_features, batch, self.shown_in)  # beta and F, [B] each
        penalty = self.weighting.penalty()
        terms = DistillationTerms(batch, self.views, lam, task, distill, weights, compared, penalty, shown)

        if traced is not None:
            share = batch.target_share(weights.dtype)
            factors = lam * weights / len(batch) if share is None else lam * weights * share / len(batch)
            self.traced.append(
                traced.weighed(lambda z: self.distill_losses(self.by_view(z), teacher, batch.targets, shown), factors)
            )
        if self.modulation is not None:
            self.modulation.watch_teacher(batch, teacher, partial(self.teacher.shown, batch))
        logged = {**terms.logged(), **self.distill_loss.logged(), **self.modulate(batch)}
        return StepOutput(terms.loss(), logged, full, tuple(terms.each()))

    @property
    def student_views(self) -> tuple[str, ...]:
        """The V' distinct views on which the student predicts, the full view first."""
        return tuple(dict.fromkeys([FULL, *self.task_views, *(v.student for v in self.views), *self.features.views("student")]))

    @property
    def teacher_views(self) -> tuple[str, ...]:
        modulation = () if self.modulation is None else self.modulation.teacher_views
        compared = [*(v.teacher for v in self.views), *self.features.views("teacher")]
        return tuple(dict.fromkeys([*compared, *self.saliency_views(), *modulation]))

    def shown_in(self, batch: Batch, view: View) -> Tensor | None:
        """Which examples have something of a view on the teacher's side and on the student's, bool [B]; None where all do."""
        return shown_to_both(batch, view, self.teacher, self.model.modalities)

    def student_outputs(self, inputs: Sequence[Inputs], traced: TracedPass | None) -> tuple[Tensor, FeaturesByView]:
        """The student's logits on its views, [V', N, C], and the intermediates that are compared.

        A pass that is traced has logits alone, so intermediates are of a second one.
        """
        wanted = self.features.wanted("student", self.student_views)
        features: Sequence[Mapping[str, Feature]] = []
        if any(wanted):
            output, features = self.model.forward_features(inputs, wanted)
        elif traced is None:
            output = self.model.forward_views(inputs)
        return (output if traced is None else traced).logits, dict(zip(self.student_views, features))

    def teacher_outputs(self, views: Views) -> tuple[dict[str, ModelOutput], FeaturesByView]:
        """The teacher's predictions by view, and the intermediates that are compared."""
        names = self.teacher_views
        wanted = self.features.wanted("teacher", names)
        features: Sequence[Mapping[str, Feature]] = []
        if any(wanted):
            output, features = self.teacher.predict_features(views.batch, names, wanted, views)
        else:
            output = self.teacher.predict(views.batch, names, views)
        check_logits(output.logits, views.batch, self.teacher.name)
        return dict(zip(names, map(ModelOutput, output.logits))), dict(zip(names, features))

    def by_view(self, logits: Tensor) -> Tensor:
        """The student's logits on the full view and on its side of each view, [1 + V, N, C], of those on its views [V', N, C]."""
        of = dict(zip(self.student_views, logits))
        return torch.stack([of[FULL], *(of[v.student] for v in self.views)])

    def task_losses(self, logits: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Losses of the label, float [B], by the student's logits on each view; 0 on a view that shows nothing of it."""
        losses = []
        for view in self.task_views:
            values, rows = labelled_losses(self.task_loss, ModelOutput(logits[view]), batch), None
            if view != FULL:
                rows = batch.shown(view, self.model.modalities)
            losses.append(values if rows is None else values.where(rows, 0.0))
        return torch.stack(losses).mean(0)

    def distill_losses(self, student: Tensor, teacher: Mapping[str, ModelOutput], targets: Tensor, shown: Tensor | None) -> Tensor:
        """D of each view, [V, N]; 0 of a target that is not shown."""
        losses = []
        unknown = unknown_like(targets)
        for view, logits, rows in zip(self.views, student[1:], shown if shown is not None else repeat(None)):
            labels = unknown if view.recombines else targets  # of two rows made one, nobody knows the label
            losses.append(compare_shown(self.distill_loss, logits, teacher[view.teacher].logits, labels, rows))
        return torch.stack(losses)

    def evidence(
        self, batch: Batch, teacher: Mapping[str, ModelOutput], student: Tensor, losses: Tensor, shown: Tensor | None
    ) -> Evidence:
        """The evidence of the weighting, without a graph."""
        logits, teacher_losses, scores = [], [], None
        for view in self.views:
            logits.append(teacher[view.teacher].logits)
            labels = batch.without_labels if view.recombines else batch
            teacher_losses.append(known_losses(self.task_loss, teacher[view.teacher], labels))
        if self.weighting.saliency is not None:
            scores = self._scores(batch, teacher, lacking=0.0)
        return Evidence(
            views=self.views,
            modalities=self.teacher.modalities,
            teacher=torch.stack(logits),
            student=student.detach(),
            losses=losses.detach(),
            teacher_losses=torch.stack(teacher_losses),
            saliency=scores,
            targets=batch.targets,
            gradients=self.gradients(losses, shown),
            shown=shown,
            example_of=batch.example_of,
        )

    def weights(self, evidence: Evidence, batch: Batch) -> Tensor:
        """The weight of each view of each target, [V, 1] where targets share it, else [V, N]; 0 of a target that is not shown."""
        weights: Tensor = self.weighting(evidence)
        if weights.ndim == 1:
            weights = weights[:, None]
        elif self.weighting.per_example:
            weights = batch.spread(weights)
        if weights.shape[1] not in (1, len(batch.targets)):
            raise ValueError(
                f"{type(self.weighting).__name__} gives weights {list(weights.shape)} for {len(batch)} examples with "
                f"{len(batch.targets)} targets, wanted [V], [V, N], or with per_example = True [V, B]."
            )
        return weights if evidence.shown is None else weights.where(evidence.shown, 0.0)

    def gradients(self, losses: Tensor, shown: Tensor | None) -> Tensor | None:
        """The gradient of each view's mean loss with respect to the parameters that the weighting watches, [V, P]."""
        watched = self.weighting.watched(self.model)
        if not watched or not losses.requires_grad:
            return None
        gradients = []
        for loss in mean_of_shown(losses, shown):
            # the graph is kept for the backward pass of the step
            parts = torch.autograd.grad(loss, watched, retain_graph=True, materialize_grads=True)
            gradients.append(torch.cat([part.flatten() for part in parts]))
        return torch.stack(gradients)

    @property
    def held_out(self) -> HeldOut | None:
        return self.weighting.held_out

    @property
    def rehearses(self) -> bool:
        return self.weighting.looks_ahead and self.held_out is not None and self.held_out.rehearsed

    def own_rows(self) -> list[int | None] | None:
        """The student's row of logits of each view whose weight is learned; None if another loss reads one of them too."""
        if self.distill_loss.mixes_examples:
            return None
        names = [*dict.fromkeys([FULL, *self.task_views]), *(v.student for v in self.views)]
        rows: list[int | None] = []
        for view, is_learned in zip(self.views, self.weighting.learned(self.views)):
            if is_learned and names.count(view.student) > 1:
                return None
            rows.append(self.student_views.index(view.student) if is_learned else None)
        return rows

    def held_out_loss(self, batch: Batch) -> Tensor:
        """The task loss of the full view."""
        return labelled_losses(self.task_loss, self.model(batch.inputs), batch).mean()

    def after_step(self, step: Step) -> None:
        super().after_step(step)
        if not self.weighting.looks_ahead:
            return
        direction = step.look_ahead(self.held_out_loss)
        # A pass that is made again must be the same one, and so in the same precision.
        with step.autocast():
            slopes = [passed.slopes(direction, 1 / len(self.traced)) for passed in self.traced]
            self.traced.clear()
            self.weighting.learn(slopes, step.mean)

    def saliency_views(self) -> tuple[str, ...]:
        saliency = self.weighting.saliency
        return () if saliency is None else saliency.views(self.teacher.modalities)

    @property
    def needs_dry_run(self) -> bool:
        return bool(self.features.terms)

    def dry_run(self, batch: Batch, teacher: Teacher | None = None, num_examples: int | None = None) -> None:
        self.features.prepare(batch, self.model, teacher or self.teacher, num_examples)

    @property
    def needs_fit(self) -> bool:
        return self.weighting.needs_fit

    def fit(self, batches: Iterable[Batch]) -> None:
        self.weighting.fit(self._training_scores(batches))

    def _training_scores(self, batches: Iterable[Batch]) -> Iterable[Tensor]:
        assert self.weighting.saliency is not None
        for batch in batches:
            names = self.saliency_views()
            logits = check_logits(self.teacher.predict(batch, names).logits, batch, self.teacher.name)
            predictions = dict(zip(names, map(ModelOutput, logits)))
            yield self._scores(batch, predictions)

    def _scores(self, batch: Batch, predictions: Mapping[str, ModelOutput], lacking: float = math.nan) -> Tensor:
        teacher, saliency = self.teacher, self.weighting.saliency
        assert saliency is not None
        return scores_of(saliency, predictions, teacher.side_of(batch), teacher.modalities, lacking, partial(teacher.shown, batch))

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        if not options["views"]:
            return ["views: wanted at least one view, got none; `[full]` is plain distillation."]
        problems, views = [], []
        names: dict[tuple[tuple[tuple[str, str], ...], ...], str] = {}
        for i, spec in enumerate(options["views"]):
            try:
                view = View.parse(spec)
                of_teacher = setting.teacher_modalities or tuple(setting.data.modalities)
                for_teacher, for_student = view.rows_shown(of_teacher, setting.student_modalities)
            except ValueError as error:
                problems.append(f"views[{i}]: {error}")
                continue
            views.append(view)
            first = names.setdefault((tuple(for_teacher.items()), tuple(for_student.items())), view.name)
            if first != view.name:
                problems.append(f"views[{i}]: {view.name!r} shows the same as {first!r}.")
        if len(set(views)) < len(views):
            problems.append("views: a view is listed twice.")
        learned: dict[tuple[str, ...], str] = {}
        for i, name in enumerate(options.get("task_views") or ()):
            try:
                shown = visible_modalities(name, setting.student_modalities)
                refuse_other_rows(name)
            except ValueError as error:
                problems.append(f"task_views[{i}]: {error}")
                continue
            if shown in learned:
                same = "is listed twice" if learned[shown] == name else f"shows the same as {learned[shown]!r}"
                problems.append(f"task_views[{i}]: {name!r} {same}.")
            learned.setdefault(shown, name)
        if options.get("weighting") is not None:
            name, given = split(options["weighting"], "weighting", WEIGHTINGS)
            problems += [f"weighting.{text}" for text in WEIGHTINGS.get(name).check(given, setting, tuple(views))]
        for i, spec in enumerate(options.get("features") or ()):
            _, given = split(spec, "features", FEATURE_TERMS)
            problems += [f"features[{i}].{text}" for text in FeatureTerm.check(given, setting)]
        return problems
