"""Terms of an objective that compare intermediates of a student with those of its teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, TypeAlias, cast

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
from msd_framework.views import FULL, View, named_in

Side: TypeAlias = Literal["student", "teacher"]
Shown: TypeAlias = Callable[[Batch, View], Tensor | None]  # which examples have something of a view, bool [B]; None if all do
FeaturesByView: TypeAlias = Mapping[str, Mapping[str, Feature]]  # by view and by name


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
        layers: the teacher's layer for each of the student's under a `*`: `even`, or such as `{1: 4, 2: 12}`, with any left out.
        adaptor: a learned map to the teacher's width or heads: `auto` where the loss needs it, `linear` always, `none` never.
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
        """The names of what is compared, the student's first, of the intermediates that both have."""
        pairs = []
        if "*" in self.student:
            of_student, of_teacher = _numbered("student", self.student, student), _numbered("teacher", self.teacher, teacher)
            for i, j in self._layers(len(of_student), len(of_teacher)).items():
                pairs.append((of_student[i], of_teacher[j]))
        else:
            pairs.append((_resolved("student", self.student, student), _resolved("teacher", self.teacher, teacher)))
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
        try:
            view = View.parse(options.get("view", FULL))
            all_of_teacher = setting.teacher_modalities or tuple(setting.data.modalities)
            of_teacher, of_student = view.rows_shown(all_of_teacher, setting.student_modalities)
        except ValueError as error:
            return [f"view: {error}"]
        problems = []
        for side, name, visible, modalities, shown in (
            ("student", options["student"], of_student, setting.student_modalities, view.student),
            ("teacher", options.get("teacher") or options["student"], of_teacher, all_of_teacher, view.teacher),
        ):
            part = name.partition(".")[0]
            if part in modalities and part not in visible:
                problems.append(f"{side}: {name!r} belongs to {part}, which the view {shown!r} hides.")
        return problems


FEATURE_TERMS: Registry[FeatureTerm] = Registry("feature term", "feature_terms", FeatureTerm, usual="feature")
FEATURE_TERMS.register("feature")(FeatureTerm)


def even_layers(num_student: int, num_teacher: int) -> dict[int, int]:
    """The teacher's layer for each of the student's, evenly spaced, its last one for the last.

    Source: the uniform mapping of TinyBERT (Jiao et al., 2020, arXiv:1909.10351, section 3.1).

    >>> even_layers(4, 12), even_layers(3, 4)
    ({1: 3, 2: 6, 3: 9, 4: 12}, {1: 1, 2: 3, 3: 4})
    """
    layers = {}
    for i in range(1, num_student + 1):
        nearest = (2 * i * num_teacher + num_student) // (2 * num_student)
        layers[i] = max(1, nearest)
    return layers


class Pair(nn.Module):
    """An intermediate of the student beside one of its teacher; `option` is the one that sets its weight."""

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
        """Makes the adaptor and what else depends on shapes; modalities `apart` have other positions for student and teacher."""
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
        value: Tensor = self.loss(feature, target, batch.without_labels if self.view.recombines else batch)
        return value


class FeatureTerms(nn.Module):
    """All terms of an objective. What they learn is saved and resumed with it, and is no part of the student."""

    def __init__(self, terms: Sequence[FeatureTerm] = ()):
        super().__init__()
        self.terms = tuple(terms)
        self.pairs = nn.ModuleList()

    def views(self, side: Side) -> tuple[str, ...]:
        return tuple(getattr(term.view, side) for term in self.terms)

    def wanted(self, side: Side, views: Sequence[str]) -> list[set[str]]:
        """The names of the student's or the teacher's intermediates that are compared on each of some views."""
        wanted: dict[str, set[str]] = {view: set() for view in views}
        for pair in self._ready():
            wanted[getattr(pair.view, side)].add(getattr(pair, side))
        return list(wanted.values())

    def prepare(self, batch: Batch, model: MultimodalModel, teacher: Teacher, num_examples: int | None = None) -> None:
        """Finds the pairs and makes what depends on shapes by a pass of both over the full view; draws no random number before."""
        pairs, student_names, teacher_names = [], set(), set()
        for i, term in enumerate(self.terms):
            for s, t in term.pairs(model.feature_kinds, teacher.feature_kinds):
                pairs.append(Pair(term, s, t, f"objective.features[{i}].weight"))
                student_names.add(s)
                teacher_names.add(t)
        for name, count in Counter(pair.name for pair in pairs).items():
            if count > 1:
                raise ValueError(f"{name} is listed twice. Give it one weight instead.")
        was_training = model.training
        with torch.no_grad():
            (student,) = model.eval().forward_features([batch.inputs], [student_names])[1]
            (of_teacher,) = teacher.predict_features(batch, [FULL], [teacher_names])[1]
        model.train(was_training)
        apart = otherwise_cut(batch)
        for pair in pairs:
            kind = model.feature_kinds[pair.student]
            pair.prepare(kind, student[pair.student].values, of_teacher[pair.teacher].values, num_examples, apart)
        self.pairs = nn.ModuleList(pairs)

    def forward(self, student: FeaturesByView, teacher: FeaturesByView, batch: Batch, shown: Shown) -> list[LossTerm]:
        """The term of each pair, float [B]; 0 where an example lacks what is compared."""
        terms = []
        for pair in self._ready():
            values = pair(student, teacher, batch)
            for rows in (
                shown(batch, pair.view),
                _having(batch, pair.view.student, parsed(pair.student)[0]),
                _having(batch.teacher_side, pair.view.teacher, parsed(pair.teacher)[0]),
            ):
                values = values if rows is None else values.where(rows, 0.0)
            terms.append(LossTerm(f"feature/{pair.name}", values, weight=pair.weight.value, option=pair.option))
        return terms

    def _ready(self) -> list[Pair]:
        if self.terms and not self.pairs:
            raise ValueError("an objective with features must look at a batch before it is used: call its dry_run(batch).")
        return cast(list[Pair], list(self.pairs))


def _having(batch: Batch, view: str, modality: str) -> Tensor | None:
    """Which examples have a modality in a view, bool [B]; None where all do, and for what is fused."""
    return batch.row(named_in(view).get(modality, "")).having.get(modality)


def otherwise_cut(batch: Batch) -> list[str]:
    """Modalities that have other positions for the teacher; images of two sizes have not, as two grids of the same picture."""
    return [m for (m, _), x in batch.teacher_inputs.items() if x is not None and x.values.ndim != 4]


def other_positions(names: Sequence[str], student: FeatureShape, teacher: FeatureShape, apart: Sequence[str]) -> str:
    """Why intermediates cannot be compared position by position, a sentence; empty if they can, or have none.

    Of modalities `apart` both see other positions: no position of one tokenizer's text is one of another's, and where padding ends
    is another place in every batch.
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


def _numbered(side: Side, name: str, feature_kinds: Mapping[str, FeatureKind]) -> dict[int, str]:
    """The intermediates of a name with a `*`, counted from 1."""
    layers = numbered(name, feature_kinds)
    if not layers:
        patterns: dict[str, None] = {}
        for part, layer, what in map(parsed, feature_kinds):
            if layer is not None:
                patterns[f"{part}.*.{what}"] = None
        hint = f"{did_you_mean(name, patterns)} It offers {listing(feature_kinds)}."
        raise ValueError(f"{side}: it has no layers of the name {name!r}.{hint}")
    return layers


def _resolved(side: Side, name: str, feature_kinds: Mapping[str, FeatureKind]) -> str:
    """The name of an intermediate that a model has; `last` is the last numbered layer."""
    if name in feature_kinds:
        return name
    layers = numbered(name.replace(".last.", ".*."), feature_kinds) if ".last." in name else {}
    if not layers:
        hint = f"{did_you_mean(name, feature_kinds)} It offers {listing(feature_kinds)}."
        raise ValueError(f"{side}: it offers no {name!r}.{hint}")
    return layers[max(layers)]
