"""Teacher and student of two modalities learn together, each through a proxy of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from msd_framework.errors import ConfigError, Problem, did_you_mean
from msd_framework.losses import default_distillation_loss, default_task_loss
from msd_framework.losses.base import DistillationLoss, TaskLoss, at_least_float32, compare_shown
from msd_framework.losses.decoupled import BernoulliNonTargetKL, NonTargetKL
from msd_framework.losses.labelled import labelled_losses
from msd_framework.maskers.base import Masker, Views
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import OBJECTIVES, Objective
from msd_framework.objectives.shown import targets_shown
from msd_framework.schedules import Number, share_scheduled
from msd_framework.structures import Batch, LossTerm, ModelOutput, Setting, StepOutput, Task, check_logits
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.live import LiveTeacher
from msd_framework.views import FULL, View, refuse_other_rows
from msd_framework.weighting.base import mean_of_shown
from msd_framework.weighting.rank_filter import kendall


class Proxy(nn.Sequential):
    """A classifier of a model's summary, float [B, D] to [B, C]."""

    def __init__(self, width: int, num_classes: int):
        super().__init__(nn.Linear(width, width), nn.LayerNorm(width), nn.LeakyReLU(0.1), nn.Linear(width, num_classes))


@OBJECTIVES.register("c2kd")
class ProxyObjective(Objective):
    r"""Both models learn from labels and from their own proxies, and the proxies from each other.

    .. math::
        L &= (1 - \lambda) \left[\ell(f(x), y) + \ell(z_T, y)\right]
            + \lambda \left[D(z_S, u_S) + D(u_S, z_S) + D(z_T, u_T) + D(u_T, z_T)\right] \\
            &\quad + \lambda \, r \left[D_{\ne y}(u_S, u_T) + D_{\ne y}(u_T, u_S)\right], \qquad
        r = \begin{cases} 1 & \text{if } \tau(u_S, u_T) > \tau_0 \\ 0 & \text{else} \end{cases}

    averaged over the batch, with :math:`f` the student, :math:`z_S, z_T` the logits of student and teacher on their sides of the
    view, and :math:`u_S, u_T` those of a proxy of either, a small net on its summary; :math:`D(a, b)` the divergence of a from b,
    through which only a learns; :math:`D_{\ne y}` that of the wrong classes alone (`non_target_kl`), and :math:`\tau` Kendall's
    rank correlation.
    Where the view hides all that an example has from one of both, only labels count. Source: Huo et al., C2KD: Bridging the
    Modality Gap for Cross-Modal Knowledge Distillation, CVPR 2024. The terms are those of the released code, with
    :math:`\lambda = \tfrac12` for its equal weights. `kept` in the log is the share of examples with :math:`r = 1`.

    The teacher that learns is a copy, which checkpoints hold with the objective; what its model has frozen (`freeze: true`) stays
    frozen. The finished run is not changed, and the agreement in reports is with that. Without a teacher that learns, take
    `non_target_kl` and `rank_filter`.

    **What differs from the paper.** A proxy reads a summary, through a linear map with a bias and a layer norm, where the paper's
    reads a map, through a convolution and a batch norm: so an example does not depend on its batch. The right class is taken out
    of :math:`D_{\ne y}`, where the released code sets its logit to 0.

    Args:
        view: what both see, `{teacher: name, student: name}`, or a name.
        student_summary: what the student's proxy reads, such as `fused.pooled` or `image.pooled`.
        teacher_summary: what the teacher's proxy reads; of the same name if null.
        distill_weight: lambda, between 0 and 1, or a schedule.
        threshold: :math:`\tau_0`, at least -1 and below 1.
        task_loss: l; the task's usual one if null.
        task: how targets are read.
    """

    needs_teacher: ClassVar[bool] = True
    copies_teacher: ClassVar[bool] = True
    takes_unlabelled: ClassVar[bool] = True

    masker: Masker

    def __init__(
        self,
        model: MultimodalModel,
        teacher: Teacher,
        masker: Masker,
        view: str | dict[str, str] = FULL,
        student_summary: str = "fused.pooled",
        teacher_summary: str | None = None,
        distill_weight: Number = 0.5,
        threshold: float = 0.0,
        task_loss: TaskLoss | None = None,
        task: Task = "single_label",
    ):
        super().__init__()
        self.distill_weight = share_scheduled("distill_weight", distill_weight)
        if not -1 <= threshold < 1:
            raise ValueError(f"threshold must be at least -1 and below 1, got {threshold}.")
        self.model, self.teacher, self.masker = model, teacher, masker
        self.view, self.threshold = _labelled_view(view), threshold
        self.student_summary, self.teacher_summary = student_summary, teacher_summary or student_summary
        self.task_loss = task_loss or default_task_loss(task)
        self.divergence = default_distillation_loss(task, self.task_loss.outcomes)
        self.wrong_classes = NonTargetKL() if task == "single_label" else BernoulliNonTargetKL()

    @property
    def needs_dry_run(self) -> bool:
        return True

    def dry_run(self, batch: Batch, teacher: Teacher | None = None, num_examples: int | None = None) -> None:
        live = self.teacher
        if not isinstance(live, LiveTeacher):
            text = f"c2kd trains a copy of one finished run that runs live and is read as the student is, got {live.name}."
            raise ConfigError(
                Problem("teacher", f"{text} Name one checkpoint, set cache=false, or take the objective distillation.")
            )
        self.peer, self.peer_masker = live.trainable_copy(), live.masker
        self.student_proxy = _proxy(self.model, batch, self.student_summary, "student_summary")
        self.teacher_proxy = _proxy(self.peer, batch.teacher_side, self.teacher_summary, "teacher_summary")

    def forward(self, batch: Batch) -> StepOutput:
        views, theirs = Views(self.masker, batch), Views(self.peer_masker, batch.teacher_side)
        names = self.student_views
        wanted = [{self.student_summary} if name == self.view.student else set[str]() for name in names]
        output, features = self.model.forward_features([views[name].inputs for name in names], wanted)
        z = dict(zip(names, check_logits(output.logits, batch, type(self.model).__name__)))
        summary = dict(zip(names, features))[self.view.student][self.student_summary].values
        z_s, u_s = z[self.view.student], self._proxied(self.student_proxy, summary, batch)
        output, features = self.peer.forward_features([theirs[self.view.teacher].inputs], [{self.teacher_summary}])
        (z_t,) = check_logits(output.logits, batch, type(self.peer).__name__)
        u_t = self._proxied(self.teacher_proxy, features[0][self.teacher_summary].values, batch)

        of_teacher = self.teacher.shown(batch, self.view.teacher)  # [B], or None
        shown = targets_shown(batch, [self.view], self.teacher, self.model.modalities)  # [1, N], or None
        task = labelled_losses(self.task_loss, ModelOutput(z[FULL]), batch)  # [B]
        teacher_task = labelled_losses(self.task_loss, ModelOutput(z_t), batch)
        teacher_task = teacher_task if of_teacher is None else teacher_task.where(of_teacher, 0.0)
        pairs = [(self.divergence, z_s, u_s), (self.divergence, u_s, z_s), (self.divergence, z_t, u_t), (self.divergence, u_t, z_t)]
        own = self._summed(pairs, batch, shown)
        kept = (kendall(u_s.detach(), u_t.detach()) > self.threshold).to(own.dtype)  # r, [N]
        across = kept * self._summed([(self.wrong_classes, u_s, u_t), (self.wrong_classes, u_t, u_s)], batch, shown)

        lam = self.distill_weight.value
        setting: Any = {"option": "objective.distill_weight", "setting": lam}
        terms = (
            LossTerm("task", task, 1 - lam, **setting),
            LossTerm("teacher_task", teacher_task, 1 - lam, **setting),
            LossTerm("proxies", batch.mean_of_targets(own), lam),
            LossTerm("across", batch.mean_of_targets(across), lam),
        )
        logged = {term.name: term.values.detach().mean() for term in terms}
        logged["kept"] = mean_of_shown(kept[None], shown)[0]
        loss = torch.stack([term.contribution for term in terms]).sum()
        return StepOutput(loss, logged, ModelOutput(z[FULL]), terms)

    def _proxied(self, proxy: nn.Module, summary: Tensor, batch: Batch) -> Tensor:
        """A proxy's logits of each target, [N, C]."""
        return batch.spread(at_least_float32(proxy(summary)).T).T

    def _summed(self, pairs: Sequence[tuple[DistillationLoss, Tensor, Tensor]], batch: Batch, shown: Tensor | None) -> Tensor:
        """The sum of some losses, each of logits [N, C] that learn and of others that do not, [N]; `shown` is bool [1, N]."""
        rows = None if shown is None else shown[0]
        return torch.stack([compare_shown(loss, z, fixed, batch.targets, rows) for loss, z, fixed in pairs]).sum(0)

    @property
    def trained_models(self) -> tuple[MultimodalModel, ...]:
        return (self.model, self.peer) if hasattr(self, "peer") else (self.model,)

    @property
    def student_views(self) -> tuple[str, ...]:
        """The distinct views on which the student predicts, the full view first."""
        return tuple(dict.fromkeys([FULL, self.view.student]))

    @property
    def teacher_views(self) -> tuple[str, ...]:
        return (self.view.teacher,)

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        problems = []
        if setting.data.task == "soft_target":
            problems.append(
                "type: c2kd leaves the right class out, and soft targets have several of some right. Take distillation."
            )
        elif setting.data.task == "single_label":
            problems += [f"type: c2kd {text}" for text in NonTargetKL.check(setting.data)]
        try:
            view = _labelled_view(options.get("view", FULL))
            view.rows_shown(setting.teacher_modalities or tuple(setting.data.modalities), setting.student_modalities)
        except ValueError as error:
            problems.append(f"view: {error}")
        return problems


def _labelled_view(spec: str | Mapping[str, str]) -> View:
    """A view of the example alone: both models learn its label."""
    view = View.parse(spec)
    refuse_other_rows(view.name)
    return view


def _proxy(model: MultimodalModel, batch: Batch, name: str, option: str) -> Proxy:
    """A proxy for a summary of a model, as wide as that is for a batch."""
    kinds = model.feature_kinds
    if kinds.get(name) != "pooled":
        summaries = [known for known, kind in kinds.items() if kind == "pooled"]
        text = f"wanted a summary of the {type(model).__name__}, got {name!r}.{did_you_mean(name, summaries)}"
        raise ConfigError(Problem(f"objective.{option}", f"{text} It has {', '.join(summaries) or 'none'}."))
    was_training = model.training
    with torch.no_grad():
        _, (features,) = model.eval().forward_features([batch.inputs], [{name}])
    model.train(was_training)
    values = features[name].values
    return Proxy(values.shape[-1], model.num_classes).to(values.device, next(model.parameters()).dtype)
