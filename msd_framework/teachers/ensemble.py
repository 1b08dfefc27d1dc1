"""Several teachers combined into one: by their mean, by fixed weights, a view each, or by confidence."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.components.registry import Registry
from msd_framework.losses.base import at_least_float32
from msd_framework.maskers.base import Views
from msd_framework.ranges import not_negative, positive
from msd_framework.structures import Batch, ModelOutput, Outcomes, Task, outcomes_of
from msd_framework.teachers.base import Teacher
from msd_framework.views import FULL, rows_shown, view_name, visible_modalities


class Combination(ABC):
    """How much each of several teachers counts in their common output."""

    renamed: ClassVar[Mapping[str, str]] = {"asked": "choose"}

    def choose(self, view: str, teachers: Sequence[int]) -> Sequence[int]:
        """The numbers of the teachers that predict for a view, among those that take a modality that it shows."""
        return teachers

    @abstractmethod
    def weights(self, teachers: Sequence[int], log_p: Tensor) -> Tensor:
        """The weight of each of K teachers, not negative, float [K] or [K, B]; they are divided by their sum.

        Log-probabilities are float [K, B, Q, O]: of Q questions with O outcomes each. One label of C is one question
        with C outcomes, several labels are C questions with two.
        """

    def problems(self, modalities: Sequence[Sequence[str]]) -> list[str]:
        """What does not fit teachers of these modalities, as sentences."""
        return []


COMBINATIONS: Registry[Combination] = Registry("combination", "combinations", Combination)


@COMBINATIONS.register("mean")
class MeanOfTeachers(Combination):
    r"""The mean of the teachers' probabilities, :math:`p = \frac{1}{K} \sum_k p_k`.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015 (arXiv:1503.02531), section 1.
    """

    def weights(self, teachers: Sequence[int], log_p: Tensor) -> Tensor:
        return log_p.new_ones(len(teachers))


@COMBINATIONS.register("weighted")
class WeightedTeachers(Combination):
    r"""A mean of the teachers' probabilities in which each counts as you say, :math:`p = \sum_k w_k p_k / \sum_k w_k`.

    Args:
        weights: a number above 0 for each teacher, in their order.
    """

    def __init__(self, weights: list[float]):
        positive(**{f"weights[{k}]": weight for k, weight in enumerate(weights)})
        self.teacher_weights = weights

    def weights(self, teachers: Sequence[int], log_p: Tensor) -> Tensor:
        return log_p.new_tensor(self.teacher_weights)[list(teachers)]

    def problems(self, modalities: Sequence[Sequence[str]]) -> list[str]:
        return _one_each("weights", self.teacher_weights, modalities)


@COMBINATIONS.register("by_view")
class TeacherOfEachView(Combination):
    """Each view is taught by the teacher that is named for it, and any other view by the teacher of `full`.

    If several are named for a view, they teach it by the mean of their probabilities.

    Args:
        views: the view that each teacher teaches, in their order.
    """

    def __init__(self, views: list[str]):
        self.views = views

    def choose(self, view: str, teachers: Sequence[int]) -> Sequence[int]:
        named = [k for k in teachers if self.views[k] == view]
        return named or [k for k in teachers if self.views[k] == FULL]

    def weights(self, teachers: Sequence[int], log_p: Tensor) -> Tensor:
        return log_p.new_ones(len(teachers))

    def problems(self, modalities: Sequence[Sequence[str]]) -> list[str]:
        problems, known = _one_each("views", self.views, modalities), union(modalities)
        for k, (view, own) in enumerate(zip(self.views, modalities)):
            try:
                if not set(visible_modalities(view, known)) & set(own):
                    problems.append(f"views[{k}]: the view {view!r} hides all that its teacher takes, {', '.join(own)}.")
            except ValueError as error:
                problems.append(f"views[{k}]: {error}")
        return problems


@COMBINATIONS.register("confidence")
class SurestTeachers(Combination):
    r"""Each example is taught by the teachers that are sure of it, view by view.

    .. math:: p = \sum_k w_k p_k, \qquad w_k = \frac{e^{-h_k / T}}{\sum_j e^{-h_j / T}}

    with :math:`h_k` the entropy of teacher k's answer as a share of the largest there is, between 0 (sure) and 1 (knows
    nothing); for several labels, the mean over them. Sure is not right: a teacher that was trained without labels smoothed or
    modalities dropped may be sure of anything.

    Args:
        temperature: T, 0 or more; large ones give the mean, and 0 the surest teacher alone.
    """

    def __init__(self, temperature: float = 0.1):
        not_negative(temperature=temperature)
        self.temperature = temperature

    def weights(self, teachers: Sequence[int], log_p: Tensor) -> Tensor:
        unsure = -(log_p.exp() * log_p).sum(-1).mean(-1) / math.log(log_p.shape[-1])  # [K, B]
        if self.temperature == 0:
            return F.one_hot(unsure.argmin(0), len(unsure)).T.to(unsure.dtype)
        return (-unsure / self.temperature).softmax(0)


class EnsembleTeacher(Teacher):
    r"""Several teachers of the same classes, live or cached, with a common output.

    .. math:: f_T(x) = \log \sum_k w_k p_k(x) + \sum_k w_k \log \sum_c e^{f_k(x)_c}

    where logits are read by a softmax, as for one label, with :math:`p_k` that of teacher k's logits :math:`f_k`; the
    second term, which no softmax feels, gives the logits the level of the teachers' own. Where each class is read by a
    sigmoid, as for several labels, it is the logit of :math:`\sum_k w_k p_k`, with :math:`p_k` the sigmoid. A teacher
    does not count for a view that shows nothing of its modalities.
    """

    def __init__(
        self, teachers: Sequence[Teacher], combination: Combination, task: Task = "single_label", outcomes: Outcomes | None = None
    ):
        classes = sorted({teacher.num_classes for teacher in teachers})
        if len(classes) != 1:
            raise ValueError(f"teachers must tell the same classes apart, got {' and '.join(map(str, classes))} of them.")
        self.teachers, self.combination, self.outcomes = tuple(teachers), combination, outcomes_of(task, outcomes)
        self.modalities, self.num_classes = union([t.modalities for t in teachers]), classes[0]

    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        modalities = [teacher.modalities for teacher in self.teachers]
        names_by_view = {view: names_by_teacher(view, modalities, self.combination) for view in views}
        sides = self._sides(batch)
        logits: list[dict[str, Tensor]] = []  # of each teacher, by its own name of a view
        for teacher, side, names in zip(self.teachers, sides, views_of_teachers(views, modalities, self.combination)):
            logits.append(dict(zip(names, teacher.predict(side, names, shown).logits)) if names else {})
        combined = []
        for own_names in names_by_view.values():
            has_input = {k: sides[k].shown(name, modalities[k]) for k, name in own_names.items()}
            combined.append(self._combine({k: logits[k][name] for k, name in own_names.items()}, has_input))
        return ModelOutput(torch.stack(combined))

    def side_of(self, batch: Batch) -> Batch:
        sides = self._sides(batch)
        having = {}
        for modality in self.modalities:
            each = [side.having[modality] for side in sides if modality in side.having]
            if len(each) == len(sides):
                having[modality] = torch.stack(each).any(0)
        return replace(sides[0], having=having)

    def shown(self, batch: Batch, view: str) -> Tensor | None:
        each, modalities = [], [teacher.modalities for teacher in self.teachers]
        for k, own_name in names_by_teacher(view, modalities, self.combination).items():
            examples = batch.for_teacher(k).shown(own_name, modalities[k])
            if examples is None:
                return None
            each.append(examples)
        return torch.stack(each).any(0) if each else None

    def _sides(self, batch: Batch) -> list[Batch]:
        return list(map(batch.for_teacher, range(len(self.teachers))))

    def _combine(self, logits: Mapping[int, Tensor], has_input: Mapping[int, Tensor | None]) -> Tensor:
        """The common logits [B, C] of some teachers; one does not count for examples that it sees nothing of."""
        z = at_least_float32(torch.stack(list(logits.values())))  # [K, B, C]
        if len(z) == 1:
            return z[0]
        is_softmax = self.outcomes == "softmax"
        log_p = z.log_softmax(-1) if is_softmax else torch.stack([F.logsigmoid(z), F.logsigmoid(-z)], -1)  # [K, B, .., O]
        questions = log_p.flatten(2, -2) if log_p.ndim > 3 else log_p[:, :, None]  # [K, B, Q, O]
        w = self.combination.weights(tuple(logits), questions)  # [K] or [K, B]
        if any(examples is not None for examples in has_input.values()):
            every = torch.ones(z.shape[1], dtype=torch.bool, device=z.device)
            counts = torch.stack([every if examples is None else examples for examples in has_input.values()])  # [K, B]
            counts = counts | ~counts.any(0)  # an example without any input keeps all of them
            w = (w if w.ndim == 2 else w[:, None]) * counts
        w = w / w.sum(0)
        w = w.view(*w.shape, *[1] * (log_p.ndim - w.ndim))  # [K, B or 1, 1, ..]
        log_mean = (log_p + w.log()).logsumexp(0)  # [B, .., O]
        if not is_softmax:
            return log_mean[..., 0] - log_mean[..., 1]
        return log_mean + (w * z.logsumexp(-1, keepdim=True)).sum(0)


def names_by_teacher(view: str, modalities: Sequence[Sequence[str]], combination: Combination) -> dict[int, str]:
    """The teachers that predict for a view, by number, with its name where only the teacher's modalities are.

    >>> both, image = ("image", "text"), ("image",)
    >>> names_by_teacher("full", [both, image], MeanOfTeachers()), names_by_teacher("text", [both, image], MeanOfTeachers())
    ({0: 'full', 1: 'full'}, {0: 'text'})
    """
    every = union(modalities)
    rows = rows_shown(view, every)
    visible_to = {}  # the teachers that are shown something
    for k, own in enumerate(modalities):
        shown = {m: row for m, row in rows.items() if m in own}
        if shown:
            visible_to[k] = shown
    names = {}
    for k in combination.choose(view, list(visible_to)):
        names[k] = view if tuple(modalities[k]) == every else view_name(visible_to[k], modalities[k])
    return names


def views_of_teachers(views: Sequence[str], modalities: Sequence[Sequence[str]], combination: Combination) -> list[tuple[str, ...]]:
    """The views that each of several teachers predicts for, by its own names of them."""
    names_by_view = [names_by_teacher(view, modalities, combination) for view in views]
    views_of = []
    for k in range(len(modalities)):
        own = [names[k] for names in names_by_view if k in names]
        views_of.append(tuple(dict.fromkeys(own)))
    return views_of


def union(modalities: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All modalities that a teacher takes, sorted."""
    return tuple(sorted(set[str]().union(*modalities)))


def _one_each(option: str, given: Sequence[object], teachers: Sequence[object]) -> list[str]:
    wanted = f"wanted one for each of the {len(teachers)} teachers, in their order, got {len(given)}."
    return [] if len(given) == len(teachers) else [f"{option}: {wanted}"]
