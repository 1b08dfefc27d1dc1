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
    """Intermediates that both have: the hidden states of each part's layers, evenly paired, and what the classifiers read.

    >>> mine = {"fused.1.hidden": "hidden", "fused.pooled": "pooled"}
    >>> possible_pairs(mine, {**mine, "fused.2.hidden": "hidden"}, [])
    [('fused.1.hidden', 'fused.2.hidden'), ('fused.pooled', 'fused.pooled')]
    """
    pairs = []
    for part in (*modalities, "fused"):
        mine, theirs = (numbered(f"{part}.*.hidden", feature_kinds) for feature_kinds in (student, teacher))
        if mine and theirs:
            pairs += [(mine[i], theirs[j]) for i, j in even_layers(len(mine), len(theirs)).items()]
    for part in (*modalities, "fused"):
        for name in (f"{part}.pooled", f"{part}.projected"):
            if name in student and student[name] == teacher.get(name):
                pairs.append((name, name))
    return pairs


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
    checks = []
    for student, teacher, adaptor in pairs:
        kind, a, b = kinds[student], mine[student].values, theirs[teacher].values
        if adaptor is not None:
            needed = adaptor_text(kind, a.shape, b.shape, adaptor)
        elif other_positions((student, teacher), shape_of(kind, a, None), shape_of(kind, b, None), apart):
            needed = "summaries alone"
        else:
            needed = needed_adaptor(kind, a.shape, b.shape)
        checks.append(PairCheck(student, teacher, kind, tuple(a.shape), tuple(b.shape), needed, adaptor is not None))
    return checks


def row(pair: PairCheck) -> list[str]:
    """A pair in the table."""
    return [pair.student, sizes(pair.student_shape), pair.teacher, sizes(pair.teacher_shape), pair.adaptor]


def needed_adaptor(kind: FeatureKind, student: Sequence[int], teacher: Sequence[int]) -> str:
    """What makes the student's comparable with the teacher's by a loss that minds width and positions, such as `hint`.

    >>> needed_adaptor("hidden", (4, 10, 8), (4, 12, 16))
    'linear 8 -> 16, positions 10 -> 12'
    """
    mine, theirs = (FeatureShape(kind, *_sizes(kind, shape)) for shape in (student, teacher))
    return adaptor_text(kind, student, teacher, Adaptor(Hint(), mine, theirs))


def adaptor_text(kind: FeatureKind, student: Sequence[int], teacher: Sequence[int], adaptor: Adaptor) -> str:
    """An adaptor in words, for features of a kind and of these shapes."""
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
