"""Terms of an objective that compare intermediates of a student with those of its teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from msd_framework.components.registry import Registry
from msd_framework.errors import did_you_mean
from msd_framework.losses.adaptors import Adaptor, Choice
from msd_framework.losses.base import FEATURE_LOSSES, FeatureLoss
from msd_framework.models.base import MultimodalModel
from msd_framework.models.features import FUSED, listing, numbered, parsed
from msd_framework.schedules import Number, Scheduled
from msd_framework.structures import Batch, Feature, FeatureKind, FeatureShape, LossTerm, Setting
from msd_framework.teachers.base import Teacher
from msd_framework.views import FULL, View, visible_modalities

Shown: TypeAlias = Callable[[Batch, View], Tensor | None]
"""Which examples of a batch have something of a view, bool [B]; None if all do."""

FeaturesByView: TypeAlias = Mapping[str, Mapping[str, Feature]]
"""Intermediates by view and by name."""


class FeatureTerm:
    r"""A loss between an intermediate of the student and one of its teacher; or, with a `*` for the layer, between several.

    The student's layers 1 to N are paired with the teacher's 1 to M: evenly, layer i with layer i M / N (rounded), or by `layers`.
    Each pair has a loss and an adaptor of its own.

    Args:
        loss: what compares them.
        student: the name of the student's, such as `image.2.hidden`, `fused.last.attention`, `text.*.hidden`, `fused.pooled`.
        teacher: the name of the teacher's; the same as the student's if null.
        view: the view on which both are compared, or `{teacher: name, student: name}`.
        weight: beta, the weight of each pair, 0 or more; `{start: 1, end: 0}` changes it as the run goes.
        layers: the teacher's layer for each of the student's where the names have a `*`: `even`, or such as `{1: 4, 2: 12}`, in
            which layers may be left out.
        adaptor: what makes the student's as wide as the teacher's, or gives it as many heads: `auto` learns a linear map where they
            differ and the loss minds, `linear` in any case, `none` never.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        loss: FeatureLoss,
        student: str,
        teacher: str | None = None,
        view: str | dict[str, str] = FULL,
        weight: Number = 1.0,
        layers: Literal["even"] | dict[int, int] = "even",
        adaptor: Choice = "auto",
    ):
        self.loss, self.student, self.teacher, self.view = loss, student, teacher or student, View.parse(view)
        self.weight, self.layers, self.adaptor = weight, layers, adaptor
        if min(Scheduled("weight", weight).ends) < 0:
            raise ValueError(f"weight must be 0 or more, got {weight}.")
        if ("*" in self.student) != ("*" in self.teacher):
            raise ValueError(f"both names or none must have a * for the layer, got {self.student!r} and {self.teacher!r}.")
        if layers != "even" and "*" not in self.student:
            raise ValueError(f"layers: are for names with a * in the layer's place, got {self.student!r}.")

    def pairs(self, student: Mapping[str, FeatureKind], teacher: Mapping[str, FeatureKind]) -> list[tuple[str, str]]:
        """The names of what is compared, the student's first.

        Args:
            student: the kind of each intermediate that the student has.
            teacher: the same of the teacher.

        Raises:
            ValueError: if there is no such intermediate, or the loss does not compare its kind.
        """
        if "*" in self.student:
            of_student, of_teacher = _numbered("student", self.student, student), _numbered("teacher", self.teacher, teacher)
            layers = self._layers(len(of_student), len(of_teacher))
            pairs = [(of_student[i], of_teacher[j]) for i, j in layers.items()]
        else:
            pairs = [(_resolved("student", self.student, student), _resolved("teacher", self.teacher, teacher))]
        for s, t in pairs:
            self._check_kinds(s, student[s], t, teacher[t])
        return pairs

    def _layers(self, num_student: int, num_teacher: int) -> Mapping[int, int]:
        if self.layers == "even":
            return even_layers(num_student, num_teacher)
        for i, j in self.layers.items():
            for side, layer, count in (("student", i, num_student), ("teacher", j, num_teacher)):
                if not 1 <= layer <= count:
                    raise ValueError(f"layers: the {side} has layers 1 to {count}, got {layer}.")
        return self.layers

    def _check_kinds(self, student: str, kind: FeatureKind, teacher: str, other: FeatureKind) -> None:
        name, takes = FEATURE_LOSSES.name_of(self.loss), self.loss.takes
        if kind not in takes:
            fitting = [n for n in FEATURE_LOSSES.names() if kind in FEATURE_LOSSES.get(n).takes]
            known = f"For it there are {', '.join(fitting)}."
            raise ValueError(f"loss: {name} compares {' and '.join(sorted(takes))}, and {student!r} is {kind}. {known}")
        if kind != other:
            raise ValueError(f"teacher: {teacher!r} is {other}, and the student's {student!r} is {kind}. Name two of a kind.")

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        """What would not work in a run with any models of these modalities, as sentences."""
        modalities = {
            "teacher": setting.teacher_modalities or tuple(setting.data.modalities),
            "student": setting.student_modalities,
        }
        try:
            view = View.parse(options.get("view", FULL))
            views = {"teacher": view.teacher, "student": view.student}
            visible = {side: visible_modalities(views[side], modalities[side]) for side in views}
        except ValueError as error:
            return [f"view: {error}"]
        problems = []
        for side in ("student", "teacher"):
            name = options.get(side) or options["student"]
            part = name.partition(".")[0]
            if part in modalities[side] and part not in visible[side]:
                problems.append(f"{side}: {name!r} belongs to {part}, which the view {views[side]!r} hides.")
        return problems


FEATURE_TERMS: Registry[FeatureTerm] = Registry("feature term", "feature_terms", FeatureTerm, usual="feature")
FEATURE_TERMS.register("feature")(FeatureTerm)


def even_layers(num_student: int, num_teacher: int) -> dict[int, int]:
    """The teacher's layer for each of the student's, evenly spaced, its last one for the last.

    Source: the uniform mapping of TinyBERT (Jiao et al., 2020, arXiv:1909.10351, section 3.1).

    >>> even_layers(4, 12), even_layers(3, 4)
    ({1: 3, 2: 6, 3: 9, 4: 12}, {1: 1, 2: 3, 3: 4})
    """
    nearest = {i: (2 * i * num_teacher + num_student) // (2 * num_student) for i in range(1, num_student + 1)}
    return {i: max(1, j) for i, j in nearest.items()}


class Pair(nn.Module):
    """An intermediate of the student beside one of its teacher.

    Args:
        term: what it is a part of.
        student: the name of the student's.
        teacher: the name of the teacher's.
        option: the option that sets its weight.
    """

    def __init__(self, term: FeatureTerm, student: str, teacher: str, option: str = ""):
        super().__init__()
        self.option = option
        self.view, self.student, self.teacher, self.choice = term.view, student, teacher, term.adaptor
        self.loss, self.weight = deepcopy(term.loss), Scheduled("weight", term.weight)
        on = "" if self.view.name == FULL else f"{self.view.name}/"
        names = student if student == teacher else f"{teacher}>{student}"
        self.name = f"{FEATURE_LOSSES.name_of(term.loss)}/{on}{names}"

    def prepare(
        self, kind: FeatureKind, student: Tensor, teacher: Tensor, num_examples: int | None, apart: Sequence[str] = ()
    ) -> None:
        """Makes the adaptor and what else depends on shapes.

        Args:
            kind: what both are.
            student: the values of the student's in a dry run.
            teacher: the values of the teacher's.
            num_examples: how many examples the training split has.
            apart: modalities that have other positions for student and teacher.

        Raises:
            ValueError: if they cannot be compared.
        """
        student_shape, teacher_shape = shape_of(kind, student, num_examples), shape_of(kind, teacher, num_examples)
        if self.loss.same_positions:
            wrong = other_positions((self.student, self.teacher), student_shape, teacher_shape, apart)
            if wrong:
                raise ValueError(f"{self.name}: {wrong}")
        try:
            self.adaptor = Adaptor(self.loss, student_shape, teacher_shape, self.choice)
            self.loss.prepare(self.adaptor.shape, teacher_shape)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        self.to(student.device, student.dtype)

    def forward(self, student: FeaturesByView, teacher: FeaturesByView, batch: Batch) -> Tensor:
        """One value an example, float [B]."""
        target = teacher[self.view.teacher][self.teacher]
        feature = self.adaptor(student[self.view.student][self.student], target.values.shape[1])
        value: Tensor = self.loss(feature, target, batch)
        return value


class FeatureTerms(nn.Module):
    """All terms of an objective. What they learn is saved and resumed with it, and is no part of the student.

    Args:
        terms: as they are written.
    """

    def __init__(self, terms: Sequence[FeatureTerm] = ()):
        super().__init__()
        self.terms = tuple(terms)
        self.pairs = nn.ModuleList()

    @property
    def student_views(self) -> tuple[str, ...]:
        return tuple(term.view.student for term in self.terms)

    @property
    def teacher_views(self) -> tuple[str, ...]:
        return tuple(term.view.teacher for term in self.terms)

    def of_student(self, views: Sequence[str]) -> list[set[str]]:
        """The names of the student's intermediates that are compared on each of some views."""
        wanted: dict[str, set[str]] = {view: set() for view in views}
        for pair in self._ready():
            wanted[pair.view.student].add(pair.student)
        return list(wanted.values())

    def of_teacher(self, views: Sequence[str]) -> list[set[str]]:
        """The same of the teacher."""
        wanted: dict[str, set[str]] = {view: set() for view in views}
        for pair in self._ready():
            wanted[pair.view.teacher].add(pair.teacher)
        return list(wanted.values())

    def prepare(self, batch: Batch, model: MultimodalModel, teacher: Teacher, num_examples: int | None = None) -> None:
        """Finds the pairs and makes what depends on shapes by a pass of both over the full view; no random number is drawn before.

        Args:
            batch: some examples.
            model: the student.
            teacher: the teacher.
            num_examples: how many examples the training split has.

        Raises:
            ValueError: if there is no such intermediate, or two cannot be compared.
        """
        pairs = []
        for i, term in enumerate(self.terms):
            for s, t in term.pairs(model.feature_kinds, teacher.feature_kinds):
                pairs.append(Pair(term, s, t, f"objective.features[{i}].weight"))
        for name, count in Counter(pair.name for pair in pairs).items():
            if count > 1:
                raise ValueError(f"{name} is listed twice. Give it one weight instead.")
        was_training = model.training
        with torch.no_grad():
            (student,) = model.eval().forward_features([batch.inputs], [{pair.student for pair in pairs}])[1]
            (of_teacher,) = teacher.predict_features(batch, [FULL], [{pair.teacher for pair in pairs}])[1]
        model.train(was_training)
        apart = otherwise_cut(batch)
        for pair in pairs:
            kind = model.feature_kinds[pair.student]
            pair.prepare(kind, student[pair.student].values, of_teacher[pair.teacher].values, num_examples, apart)
        self.pairs = nn.ModuleList(pairs)

    def forward(self, student: FeaturesByView, teacher: FeaturesByView, batch: Batch, shown: Shown | None = None) -> list[LossTerm]:
        """The term of each pair, float [B]; 0 where an example lacks what is compared.

        Args:
            student: the student's intermediates, by view.
            teacher: the teacher's.
            batch: the examples.
            shown: which of them have something of a view; all of them if left out.
        """
        terms = []
        for pair in self._ready():
            values = pair(student, teacher, batch)
            for rows in (
                shown and shown(batch, pair.view),
                batch.having.get(parsed(pair.student)[0]),
                batch.teacher_side.having.get(parsed(pair.teacher)[0]),
            ):
                values = values if rows is None else values.where(rows, 0.0)
            terms.append(LossTerm(f"feature/{pair.name}", values, weight=pair.weight.value, option=pair.option))
        return terms

    def _ready(self) -> list[Pair]:
        if self.terms and not self.pairs:
            raise ValueError("an objective with features must look at a batch before it is used: call its dry_run(batch).")
        return [pair for pair in self.pairs if isinstance(pair, Pair)]


def otherwise_cut(batch: Batch) -> list[str]:
    """Modalities that have other positions for the teacher; images of two sizes have not, as two grids of the same picture."""
    return [m for m, x in batch.teacher_inputs.items() if x is not None and x.values.ndim != 4]


def other_positions(names: Sequence[str], student: FeatureShape, teacher: FeatureShape, apart: Sequence[str]) -> str:
    """Why intermediates cannot be compared position by position, a sentence; empty if they can, or have none.

    Args:
        names: the student's and the teacher's.
        student: the shape of the student's.
        teacher: the shape of the teacher's.
        apart: modalities of which both see other positions. No position of one tokenizer's text is one of another's, and where
            padding ends is another place in every batch.
    """
    if student.kind == "pooled":
        return ""
    parts = {parsed(name)[0] for name in names}
    others = apart if FUSED in parts else [m for m in apart if m in parts]
    if others:
        text = f"student and teacher see other tensors of {', '.join(others)}, and it compares position by position"
        return f"{text}. Take a loss of summaries, such as pkd or sp."
    if FUSED in parts and student.num_positions != teacher.num_positions:
        text = f"the student has {student.num_positions} positions and the teacher {teacher.num_positions}, of several modalities"
        return f"{text}. Name the modalities one by one."
    return ""


def shape_of(kind: FeatureKind, values: Tensor, num_examples: int | None) -> FeatureShape:
    if kind in ("attention", "scores"):
        return FeatureShape(kind, values.shape[1], values.shape[2], num_examples)
    return FeatureShape(kind, values.shape[-1], values.shape[1] if kind == "hidden" else 1, num_examples)


def _numbered(side: str, name: str, feature_kinds: Mapping[str, FeatureKind]) -> dict[int, str]:
    """The intermediates of a name with a `*`, counted from 1.

    Raises:
        ValueError: if there are none.
    """
    layers = numbered(name, feature_kinds)
    if not layers:
        patterns: dict[str, None] = {}
        for part, layer, what in map(parsed, feature_kinds):
            if layer is not None:
                patterns[f"{part}.*.{what}"] = None
        hint = did_you_mean(name, patterns)
        raise ValueError(f"{side}: it has no layers of the name {name!r}.{hint} {_offers(feature_kinds)}")
    return layers


def _resolved(side: str, name: str, feature_kinds: Mapping[str, FeatureKind]) -> str:
    """The name of an intermediate that a model has; `last` is the last numbered layer.

    Raises:
        ValueError: if there is none.
    """
    if name in feature_kinds:
        return name
    layers = numbered(name.replace(".last.", ".*."), feature_kinds) if ".last." in name else {}
    if not layers:
        raise ValueError(f"{side}: it offers no {name!r}.{did_you_mean(name, feature_kinds)} {_offers(feature_kinds)}")
    return layers[max(layers)]


def _offers(feature_kinds: Mapping[str, FeatureKind]) -> str:
    return f"It offers {listing(feature_kinds)}."
