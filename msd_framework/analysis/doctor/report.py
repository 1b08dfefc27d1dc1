"""What the doctor has found: all that was measured, the sentences that follow from it, and tables of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from msd_framework.analysis.doctor import features, inputs, models, score, step, terms
from msd_framework.analysis.doctor.features import PairCheck
from msd_framework.analysis.doctor.finding import Finding, sizes
from msd_framework.analysis.doctor.inputs import Shape
from msd_framework.analysis.doctor.models import ModelCheck
from msd_framework.analysis.doctor.score import ScoreCheck
from msd_framework.analysis.doctor.step import StepCheck
from msd_framework.analysis.doctor.terms import TermCheck
from msd_framework.screen import Screen
from msd_framework.table import Table

OK = "OK"
"""The last line where nothing has to be mended."""


@dataclass(frozen=True)
class Diagnosis:
    """All that was measured of a run's teachers and student.

    Args:
        name: the run's.
        device: what computed it.
        rows: examples of the batch.
        targets: the shape of its targets.
        task: how they are read.
        classes: how many classes the data set has, and who names them in the same order.
        shapes: each modality of the batch.
        models: the student and each teacher.
        step: what a step costs; None if none could be made.
        terms: the parts of the loss.
        pairs: the intermediates that are compared, or could be.
        scores: of each teacher.
        cache: what was found of the teachers' cached answers, a sentence each.
        seconds: how long it took.
    """

    name: str
    device: str
    rows: int = 0
    targets: tuple[int, ...] = ()
    task: str = ""
    classes: str = ""
    shapes: tuple[Shape, ...] = ()
    models: tuple[ModelCheck, ...] = ()
    step: StepCheck | None = None
    terms: tuple[TermCheck, ...] = ()
    pairs: tuple[PairCheck, ...] = ()
    scores: tuple[ScoreCheck, ...] = ()
    cache: tuple[str, ...] = ()
    seconds: float = 0.0


def findings(found: Diagnosis) -> list[Finding]:
    """What follows from what was measured, faults first."""
    told: list[Finding] = []
    for shape in found.shapes:
        told += inputs.judge(shape, found.rows)
    for model in found.models:
        told += models.judge(model)
    for one in found.scores:
        told += score.judge(one)
    if found.step is not None:
        told += step.judge(found.step)
    told += terms.judge(found.terms)
    return sorted(dict.fromkeys(told), key=lambda finding: not finding.is_fault)


def as_json(found: Diagnosis, told: Sequence[Finding]) -> dict[str, Any]:
    """All of it as plain values."""
    sentences = [{**asdict(finding), "sentence": str(finding)} for finding in told]
    return {"ok": is_ok(told), "findings": sentences, **asdict(found)}


def is_ok(told: Sequence[Finding]) -> bool:
    """Whether nothing has to be mended."""
    return not any(finding.is_fault for finding in told)


def show(found: Diagnosis, told: Sequence[Finding]) -> None:
    """Prints tables, what is good to know, and at the end `OK` or what has to be mended."""
    Screen().show(*tables(found), *lines(found, told))


def lines(found: Diagnosis, told: Sequence[Finding]) -> Iterator[str]:
    """What is said below the tables."""
    if found.classes:
        yield f"classes: {found.classes}"
    yield from found.cache
    faults, notes = ([f for f in told if f.is_fault is wanted] for wanted in (True, False))
    yield from (f"note: {finding}" for finding in notes)
    yield from (f"fix: {finding}" for finding in faults)
    yield f"{len(faults)} to fix, in {found.seconds:.1f} s." if faults else OK


def tables(found: Diagnosis) -> Iterator[Table]:
    """The tables that have rows."""
    batch = f"{found.name}: a batch of {found.rows} rows, targets {sizes(found.targets)} {found.task}, on {found.device}"
    pairs = "features that are compared" if any(p.used for p in found.pairs) else "features that could be compared"
    pull = "loss terms, and how hard each pulls at the student"
    effects = [row for model in found.models for row in models.effect_rows(model)]
    scores = [row for one in found.scores for row in score.rows(one)]
    for table in (
        Table(inputs.COLUMNS, [*map(inputs.row, found.shapes)], batch),
        Table(models.COLUMNS, [*map(models.row, found.models)], "models"),
        Table(models.EFFECT_COLUMNS, effects, "what modalities do to the answers"),
        Table(step.COLUMNS, [step.row(found.step)] if found.step else [], "a step"),
        Table(terms.COLUMNS, [*map(terms.row, found.terms)], pull),
        Table(features.COLUMNS, [*map(features.row, found.pairs)], pairs),
        Table(score.COLUMNS, scores, "the teacher on the validation split"),
    ):
        if table.rows:
            yield table
