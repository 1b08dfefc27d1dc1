"""How hard each term of the loss pulls at the student, and the weights with which all would pull alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from msd_framework.analysis.doctor.finding import Finding
from msd_framework.objectives.base import Objective
from msd_framework.structures import Batch, LossTerm

LOPSIDED = 30.0  # how many times as hard as the first term another may pull at the student

COLUMNS = ("term", "value", "counts", "gradient", "x the first", "option", "now", "suggested")


@dataclass(frozen=True)
class TermCheck:
    """How hard a term of the loss pulls at the student."""

    name: str  # as in the log
    option: str  # which sets its weight
    value: float  # its mean over the batch, without its weight
    weight: float  # its factor in the loss
    gradient: float  # the norm of the gradient of the student's parameters, weight included
    ratio: float  # that norm as a multiple of the first term's that has one
    setting: float  # the option's value
    suggested: float | None  # the value with which it pulls as hard as the first term; None for that one


def measure(objective: Objective, batch: Batch) -> list[TermCheck]:
    r"""How hard each term of the loss pulls at the student, beside the first that pulls at all, as a rule the task's.

    .. math:: w_k' = w_k \, \lVert \nabla L_1 \rVert / \lVert \nabla L_k \rVert

    is the weight with which term k, :math:`L_k` with its weight :math:`w_k` in it, has as large a gradient as the first.
    Terms that one option sets, such as those of several layers, are one. The objective makes one forward pass.
    """
    output = objective(batch)
    terms = output.loss_terms if len(output.loss_terms) > 1 else (LossTerm("loss", output.loss),)
    return compare(terms, [p for p in objective.model.parameters() if p.requires_grad])


def compare(terms: Sequence[LossTerm], parameters: Sequence[nn.Parameter]) -> list[TermCheck]:
    """The same of terms that are computed already; those that depend on no parameter are left out."""
    by_option: dict[str, list[LossTerm]] = {}
    for term in terms:
        by_option.setdefault(term.option or term.name, []).append(term)
    checks: list[TermCheck] = []
    for same in by_option.values():
        value = torch.stack([term.contribution for term in same]).sum()
        if not value.requires_grad:
            continue
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        norms = [g.float().norm() for g in gradients if g is not None]
        if norms:  # of the gradient as one vector
            checks.append(_check(same, float(value.detach()), float(torch.stack(norms).norm())))
    first = next((check for check in checks if check.gradient > 0), None)
    if first is None:
        return checks
    for i, check in enumerate(checks):
        ratio = check.gradient / first.gradient
        is_free = check is not first and check.name != "task" and ratio > 0
        checks[i] = replace(check, ratio=ratio, suggested=float(f"{check.setting / ratio:.3g}") if is_free else None)
    return checks


def _check(terms: Sequence[LossTerm], value: float, gradient: float) -> TermCheck:
    """Terms that one option sets, not yet compared with the others."""
    first = terms[0]
    weight = float(torch.as_tensor(first.weight).detach().mean())
    factor = first.share * weight
    setting = weight if first.setting is None else first.setting
    name = first.name if len(terms) == 1 else f"{first.name} and {len(terms) - 1} more"
    return TermCheck(name, first.option or "objective", value / factor if factor else 0.0, factor, gradient, 0.0, setting, None)


def judge(terms: Sequence[TermCheck]) -> Iterator[Finding]:
    first = next((t.name for t in terms if t.ratio == 1), "")
    for term in terms:
        if not first or term.name in (first, "task"):
            continue
        if term.ratio > LOPSIDED:
            text = f"{term.name} pulls {term.ratio:.0f} times as hard at the student as {first}"
        elif term.setting and term.ratio < 1 / LOPSIDED:
            text = f"{term.name} pulls {term.ratio:.1e} times as hard at the student as {first}, and so does next to nothing"
        else:
            continue
        do = f"Set {term.option} to {term.suggested:g} (now {term.setting:g}), which makes both equal." if term.suggested else ""
        yield Finding(term.option, text, f"between 1/{LOPSIDED:g} and {LOPSIDED:g}", do, term.ratio > LOPSIDED)


def row(term: TermCheck) -> list[str]:
    pull = [f"{term.value:.4g}", f"{term.weight:.3g}", f"{term.gradient:.3g}", f"{term.ratio:.2f}"]
    suggested = "" if term.suggested is None else f"{term.suggested:.3g}"
    return [term.name, *pull, term.option, f"{term.setting:.3g}", suggested]
