"""Intermediates of student and teacher that are compared, or could be, and what makes them comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msd_framework.losses.adaptors import Adaptor
from msd_framework.losses.features import Hint
from msd_framework.models.features import numbered
from msd_framework.objectives.features import even_layers, other_positions, shape_of
from msd_framework.structures import Feature, FeatureKind, FeatureShape


@dataclass(frozen=True)
class PairCheck:
    """An intermediate of the student beside one of the teacher, by name."""

    student: str
    teacher: str
    kind: FeatureKind  # what both are
    student_shape: tuple[int, ...]
    teacher_shape: tuple[int, ...]
    adaptor: str  # what makes the first comparable with the second
    used: bool  # the objective compares them, and not only could


def possible_pairs(
    student: Mapping[str, FeatureKind], teacher: Mapping[str, FeatureKind], modalities: Sequence[str]
) -> list[tuple[str, str]]:
    """Intermediates that both have: the states of each part's layers, evenly paired, and what the classifiers read."""
    states, summaries = [], []
    for part in (*modalities, "fused"):
        mine, theirs = numbered(f"{part}.*.hidden", student), numbered(f"{part}.*.hidden", teacher)
        if mine and theirs:
            states += [(mine[i], theirs[j]) for i, j in even_layers(len(mine), len(theirs)).items()]
        for name in (f"{part}.pooled", f"{part}.projected"):
            if name in student and student[name] == teacher.get(name):
                summaries.append((name, name))
    return states + summaries


def measure(
    pairs: Sequence[tuple[str, str, Adaptor | None]],
    kinds: Mapping[str, FeatureKind],
    mine: Mapping[str, Feature],
    theirs: Mapping[str, Feature],
    apart: Sequence[str] = (),
) -> list[PairCheck]:
    """What pairs of intermediates are like on a batch; the adaptor is None where nothing compares them.

    Both models see other positions of modalities `apart`.
    """
    checks = []
    for student, teacher, adaptor in pairs:
        kind, a, b = kinds[student], mine[student].values, theirs[teacher].values
        shapes = shape_of(kind, a, None), shape_of(kind, b, None)
        is_apart = adaptor is None and other_positions((student, teacher), *shapes, apart)
        needed = "summaries alone" if is_apart else adaptor_text(*shapes, adaptor)
        checks.append(PairCheck(student, teacher, kind, tuple(a.shape), tuple(b.shape), needed, adaptor is not None))
    return checks


def adaptor_text(student: FeatureShape, teacher: FeatureShape, adaptor: Adaptor | None = None) -> str:
    """An adaptor in words; if there is none, that of a loss that minds width and positions, such as `hint`.

    >>> adaptor_text(FeatureShape("hidden", 8, 10), FeatureShape("hidden", 16, 12))
    'linear 8 -> 16, positions 10 -> 12'
    """
    adaptor = adaptor or Adaptor(Hint(), student, teacher)
    name = "heads" if student.kind in ("attention", "scores") else "linear"
    parts = [f"{name} {student.width} -> {teacher.width}"] if adaptor.inner is not None else []
    if adaptor.resamples and student.num_positions != teacher.num_positions:
        parts.append(f"positions {student.num_positions} -> {teacher.num_positions}")
    return ", ".join(parts) or "none"
