"""How hard each part of the loss pulls at the student, and the weights with which all would pull alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from msd_framework.analysis.doctor.finding import Finding
from msd_framework.losses.labelled import labelled_losses
from msd_framework.maskers.base import Views
from msd_framework.objectives.base import Objective
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.features import Pair
from msd_framework.structures import Batch, ModelOutput

LOPSIDED = 30.0
"""How many times as hard as the first term another may pull at the student."""

COLUMNS = ("term", "value", "counts", "gradient", "x the first", "option", "now", "suggested")


@dataclass(frozen=True)
class Term:
    """A part of the loss, with its graph.

    Args:
        name: what it is called in logs.
        option: the option that says what it counts, such as `objective.features[0].weight`.
        value: its mean over the batch as it enters the loss, weight included, a scalar.
        weight: what it counts there.
        share: what the option says, of which the weight is a multiple.
    """

    name: str
    option: str
    value: Tensor
    weight: float
    share: float


@dataclass(frozen=True)
class TermCheck:
    """How hard a part of the loss pulls at the student.

    Args:
        name: what it is called in logs.
        option: the option that says what it counts.
        value: its mean over the batch, without its weight.
        weight: what it counts.
        gradient: the norm of the gradient of the student's parameters, weight included.
        ratio: that norm as a multiple of the first term's that has one.
        setting: the option's value.
        suggested: the value with which it pulls as hard as the first term; None for that term itself, or where it has no gradient.
    """

    name: str
    option: str
    value: float
    weight: float
    gradient: float
    ratio: float
    setting: float
    suggested: float | None


def terms_of(objective: Objective, batch: Batch) -> list[Term]:
    """The parts of the loss with their graph; they add up to it but for what a weighting adds of its own.

    An objective that does not learn from a teacher has one part, the loss itself.
    """
    if not isinstance(objective, DistillationObjective):
        return [Term("loss", "objective", objective(batch).loss, 1.0, 1.0)]
    shown = Views(objective.masker, batch)
    output, told = objective.student_outputs([shown[name].inputs for name in objective.student_views], None)
    student = objective.by_view(output.logits)  # [1 + V, B, C]
    teacher, taught = objective.teacher_outputs(shown)
    distill = objective.distill_losses(student, teacher, batch.targets)  # [V, B]
    w = objective.weighting(objective.evidence(batch, teacher, student[1:], distill)).detach()  # [V] or [V, B]
    w = w if w.ndim == 2 else w[:, None]
    lam = objective.distill_weight.value
    task = (1 - lam) * labelled_losses(objective.task_loss, ModelOutput(student[0]), batch).mean()
    found = [Term("task", "objective.distill_weight", task, 1 - lam, lam)]
    for view, weight, values in zip(objective.views, w, distill):
        share = float(weight.mean())
        value = lam * (weight * values).mean()
        found.append(Term(f"distill/{view.name}", f"weights.{view.name} of objective.weighting", value, lam * share, share))
    inner = objective.features(told, taught, batch)
    names, pairs = iter(inner), {p.name: p for p in objective.features.pairs if isinstance(p, Pair)}
    for i, term in enumerate(objective.features.terms):
        mine = [next(names) for _ in term.pairs(objective.model.feature_kinds, objective.teacher.feature_kinds)]
        beta = float(pairs[mine[0]].weight.value)
        value = lam * beta * torch.stack([inner[name].mean() for name in mine]).sum()
        label = mine[0] if len(mine) == 1 else f"{mine[0]} and {len(mine) - 1} more"
        found.append(Term(f"feature/{label}", f"objective.features[{i}].weight", value, lam * beta, beta))
    return found


def measure(terms: Sequence[Term], model: nn.Module) -> list[TermCheck]:
    r"""How hard each part of the loss pulls at the student, beside the first that pulls at all, which is the task's as a rule.

    .. math:: w_k' = w_k \, \lVert \nabla L_1 \rVert / \lVert \nabla L_k \rVert

    is the weight with which part k, :math:`L_k` with its weight :math:`w_k` in it, has as large a gradient as the first.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    norms = [gradient_norm(term.value, parameters) for term in terms]
    reference = next((i for i, norm in enumerate(norms) if norm > 0), 0)
    found = []
    for i, (term, norm) in enumerate(zip(terms, norms)):
        ratio = norm / norms[reference] if norms[reference] else 0.0
        value = float(term.value.detach()) / term.weight if term.weight else 0.0
        other = None if i == reference or not ratio or term.name == "task" else float(f"{term.share / ratio:.3g}")
        found.append(TermCheck(term.name, term.option, value, term.weight, norm, ratio, term.share, other))
    return found


def judge(terms: Sequence[TermCheck]) -> Iterator[Finding]:
    """Which parts pull far harder or less than the first."""
    first = next((t.name for t in terms if t.ratio == 1), "")
    for term in (t for t in terms if first and t.name not in (first, "task")):
        if term.ratio > LOPSIDED:
            text = f"{term.name} pulls {term.ratio:.0f} times as hard at the student as {first}"
        elif term.setting and term.ratio < 1 / LOPSIDED:
            text = f"{term.name} pulls {term.ratio:.1e} times as hard at the student as {first}, and so does next to nothing"
        else:
            continue
        do = f"Set {term.option} to {term.suggested:g} (now {term.setting:g}), which makes both equal." if term.suggested else ""
        yield Finding(term.option, text, f"between 1/{LOPSIDED:g} and {LOPSIDED:g}", do, term.ratio > LOPSIDED)


def row(term: TermCheck) -> list[str]:
    """A part of the loss in the table."""
    pull = [f"{term.value:.4g}", f"{term.weight:.3g}", f"{term.gradient:.3g}", f"{term.ratio:.2f}"]
    return [term.name, *pull, term.option, f"{term.setting:.3g}", "" if term.suggested is None else f"{term.suggested:.3g}"]


def gradient_norm(value: Tensor, parameters: Sequence[nn.Parameter]) -> float:
    """The norm of a scalar's gradient with respect to all parameters as one vector; the graph is kept."""
    if not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    norms = [g.float().norm() for g in gradients if g is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
