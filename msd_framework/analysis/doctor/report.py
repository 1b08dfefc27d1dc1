"""The doctor's report: all that was measured, the sentences that follow from it, and tables of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
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


@dataclass
class Diagnosis:
    """All that was measured of a run's teachers and student, filled as it is looked at.

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
        cache: a sentence for each store of a teacher's outputs.
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


def findings(diagnosis: Diagnosis) -> list[Finding]:
    """What follows from what was measured, faults first."""
    found: list[Finding] = []
    for shape in diagnosis.shapes:
        found += inputs.judge(shape, diagnosis.rows)
    for model in diagnosis.models:
        found += models.judge(model)
    for check in diagnosis.scores:
        found += score.judge(check)
    if diagnosis.step is not None:
        found += step.judge(diagnosis.step)
    found += terms.judge(diagnosis.terms)
    return sorted(dict.fromkeys(found), key=lambda finding: not finding.is_fault)


def as_json(diagnosis: Diagnosis, found: Sequence[Finding]) -> dict[str, Any]:
    """All of it as plain values."""
    sentences = [{**asdict(finding), "sentence": str(finding)} for finding in found]
    return {"ok": is_ok(found), "findings": sentences, **asdict(diagnosis)}


def is_ok(found: Sequence[Finding]) -> bool:
    """Whether nothing has to be mended."""
    return not any(finding.is_fault for finding in found)


def show(diagnosis: Diagnosis, found: Sequence[Finding]) -> None:
    """Prints tables, what is good to know, and at the end `OK` or what has to be mended."""
    Screen().show(*tables(diagnosis), *lines(diagnosis, found))


def lines(diagnosis: Diagnosis, found: Sequence[Finding]) -> Iterator[str]:
    """The lines below the tables."""
    if diagnosis.classes:
        yield f"classes: {diagnosis.classes}"
    yield from diagnosis.cache
    yield from (f"note: {finding}" for finding in found if not finding.is_fault)
    faults = [f"fix: {finding}" for finding in found if finding.is_fault]
    yield from faults
    yield f"{len(faults)} to fix, in {diagnosis.seconds:.1f} s." if faults else OK


def tables(diagnosis: Diagnosis) -> Iterator[Table]:
    """The tables that have rows."""
    d = diagnosis
    batch = f"{d.name}: a batch of {d.rows} rows, targets {sizes(d.targets)} {d.task}, on {d.device}"
    pairs = "features that are compared" if any(p.used for p in d.pairs) else "features that could be compared"
    pull = "loss terms, and how hard each pulls at the student"
    effects = list(chain.from_iterable(map(models.effect_rows, d.models)))
    scores = list(chain.from_iterable(map(score.rows, d.scores)))
    for table in (
        Table(inputs.COLUMNS, [*map(inputs.row, d.shapes)], batch),
        Table(models.COLUMNS, [*map(models.row, d.models)], "models"),
        Table(models.EFFECT_COLUMNS, effects, "what modalities do to the answers"),
        Table(step.COLUMNS, [step.row(d.step)] if d.step else [], "a step"),
        Table(terms.COLUMNS, [*map(terms.row, d.terms)], pull),
        Table(features.COLUMNS, [*map(features.row, d.pairs)], pairs),
        Table(score.COLUMNS, scores, "the teacher on the validation split"),
    ):
        if table.rows:
            yield table
