"""Intermediates of student and teacher that are compared, or could be, and what makes them comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msd_framework.analysis.doctor.finding import sizes
from msd_framework.losses.adaptors import Adaptor
from msd_framework.losses.features import Hint
from msd_framework.models.features import numbered
from msd_framework.objectives.features import even_layers, other_positions, shape_of
from msd_framework.structures import Feature, FeatureKind, FeatureShape

COLUMNS = ("student", "shape", "teacher", "shape", "adaptor")


@dataclass(frozen=True)
class PairCheck:
    """An intermediate of the student beside one of the teacher.

    Args:
        student: its name.
        teacher: its name.
        kind: what both are.
        student_shape: of its values on the batch.
        teacher_shape: the same.
        adaptor: what makes the first comparable with the second.
        used: whether the objective compares them, or only could.
    """

    student: str
    teacher: str
    kind: FeatureKind
    student_shape: tuple[int, ...]
    teacher_shape: tuple[int, ...]
    adaptor: str
    used: bool


def possible_pairs(
    student: Mapping[str, FeatureKind], teacher: Mapping[str, FeatureKind], modalities: Sequence[str]
) -> list[tuple[str, str]]:
    """Intermediates that both offer: the hidden states of each part's layers, evenly paired, and what the classifiers read.

    >>> mine = {"fused.1.hidden": "hidden", "fused.pooled": "pooled"}
    >>> possible_pairs(mine, {**mine, "fused.2.hidden": "hidden"}, [])
    [('fused.1.hidden', 'fused.2.hidden'), ('fused.pooled', 'fused.pooled')]
    """
    found = []
    for part in (*modalities, "fused"):
        mine, theirs = (numbered(f"{part}.*.hidden", feature_kinds) for feature_kinds in (student, teacher))
        if mine and theirs:
            found += [(mine[i], theirs[j]) for i, j in even_layers(len(mine), len(theirs)).items()]
    names = [f"{part}.{what}" for part in (*modalities, "fused") for what in ("pooled", "projected")]
    return found + [(name, name) for name in names if name in student and student[name] == teacher.get(name)]


def measure(
    pairs: Sequence[tuple[str, str, Adaptor | None]],
    kinds: Mapping[str, FeatureKind],
    mine: Mapping[str, Feature],
    theirs: Mapping[str, Feature],
    apart: Sequence[str] = (),
) -> list[PairCheck]:
    """What each pair of intermediates is like.

    Args:
        pairs: the student's name, the teacher's, and what makes the first comparable; None where nothing compares them.
        kinds: what each of the student's is.
        mine: the student's on the batch.
        theirs: the teacher's on the same batch.
        apart: modalities of which both see other positions.
    """
    found = []
    for student, teacher, adaptor in pairs:
        kind, a, b = kinds[student], tuple(mine[student].values.shape), tuple(theirs[teacher].values.shape)
        told = told_adaptor(kind, a, b, adaptor) if adaptor else needed_adaptor(kind, a, b)
        of_student, of_teacher = shape_of(kind, mine[student].values, None), shape_of(kind, theirs[teacher].values, None)
        if adaptor is None and other_positions((student, teacher), of_student, of_teacher, apart):
            told = "summaries alone"
        found.append(PairCheck(student, teacher, kind, a, b, told, adaptor is not None))
    return found


def row(pair: PairCheck) -> list[str]:
    """A pair in the table."""
    return [pair.student, sizes(pair.student_shape), pair.teacher, sizes(pair.teacher_shape), pair.adaptor]


def needed_adaptor(kind: FeatureKind, student: Sequence[int], teacher: Sequence[int]) -> str:
    """What makes the student's comparable with the teacher's by a loss that minds width and positions, such as `hint`.

    >>> needed_adaptor("hidden", (4, 10, 8), (4, 12, 16))
    'linear 8 -> 16, positions 10 -> 12'
    """
    mine, theirs = (FeatureShape(kind, *_sizes(kind, shape)) for shape in (student, teacher))
    return told_adaptor(kind, student, teacher, Adaptor(Hint(), mine, theirs))


def told_adaptor(kind: FeatureKind, student: Sequence[int], teacher: Sequence[int], adaptor: Adaptor) -> str:
    """An adaptor in words.

    Args:
        kind: what it adapts.
        student: the shape of the student's.
        teacher: the shape of the teacher's.
        adaptor: the adaptor.
    """
    (width, length), (other, positions) = _sizes(kind, student), _sizes(kind, teacher)
    name = "heads" if kind in ("attention", "scores") else "linear"
    parts = [f"{name} {width} -> {other}"] if adaptor.inner is not None else []
    parts += [f"positions {length} -> {positions}"] if adaptor.resamples and length != positions else []
    return ", ".join(parts) or "none"


def _sizes(kind: FeatureKind, shape: Sequence[int]) -> tuple[int, int]:
    """Width, or heads, and positions."""
    if kind in ("attention", "scores"):
        return shape[1], shape[2]
    return shape[-1], shape[1] if kind == "hidden" else 1
