"""The doctor's report: all that was measured, the sentences that follow from it, and tables of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from msd_framework.analysis.doctor import inputs, models, score, step, terms
from msd_framework.analysis.doctor.features import PairCheck
from msd_framework.analysis.doctor.finding import Finding, sizes
from msd_framework.analysis.doctor.inputs import Shape
from msd_framework.analysis.doctor.models import ModelCheck
from msd_framework.analysis.doctor.score import ScoreCheck
from msd_framework.analysis.doctor.step import StepCheck
from msd_framework.analysis.doctor.terms import TermCheck
from msd_framework.screen import Screen
from msd_framework.table import Table


@dataclass
class Diagnosis:
    """All that was measured of a run's teachers and student, filled as it is looked at."""

    name: str  # the run's
    device: str
    rows: int = 0  # examples of the batch
    targets: tuple[int, ...] = ()  # the shape of its targets
    task: str = ""
    classes: str = ""  # how many the data set has, and who names them in the same order
    shapes: tuple[Shape, ...] = ()  # each modality of the batch
    models: tuple[ModelCheck, ...] = ()  # the student and each teacher
    step: StepCheck | None = None  # None if none could be made
    terms: tuple[TermCheck, ...] = ()
    pairs: tuple[PairCheck, ...] = ()
    scores: tuple[ScoreCheck, ...] = ()  # of each teacher
    cache: tuple[str, ...] = ()  # a sentence for each store of a teacher's outputs
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
    sentences = [{**asdict(finding), "sentence": str(finding)} for finding in found]
    return {"ok": is_ok(found), "findings": sentences, **asdict(diagnosis)}


def is_ok(found: Sequence[Finding]) -> bool:
    """Whether nothing has to be mended."""
    return not any(finding.is_fault for finding in found)


def show(diagnosis: Diagnosis, found: Sequence[Finding]) -> None:
    """Prints tables, what is good to know, and at the end `OK` or what has to be mended."""
    Screen().show(*tables(diagnosis), *lines(diagnosis, found))


def lines(diagnosis: Diagnosis, found: Sequence[Finding]) -> list[str]:
    notes, faults = list[str](), list[str]()
    for finding in found:
        (faults if finding.is_fault else notes).append(f"{'fix' if finding.is_fault else 'note'}: {finding}")
    classes = [f"classes: {diagnosis.classes}"] if diagnosis.classes else []
    end = f"{len(faults)} to fix, in {diagnosis.seconds:.1f} s." if faults else "OK"
    return [*classes, *diagnosis.cache, *notes, *faults, end]


def tables(d: Diagnosis) -> list[Table]:
    batch = f"{d.name}: a batch of {d.rows} rows, targets {sizes(d.targets)} {d.task}, on {d.device}"
    pairs = "features that are compared" if any(p.used for p in d.pairs) else "features that could be compared"
    effects = list(chain.from_iterable(map(models.effect_rows, d.models)))
    compared = []
    for p in d.pairs:
        compared.append([p.student, sizes(p.student_shape), p.teacher, sizes(p.teacher_shape), p.adaptor])
    all_tables = (
        Table(inputs.COLUMNS, [*map(inputs.row, d.shapes)], batch),
        Table(models.COLUMNS, [*map(models.row, d.models)], "models"),
        Table(models.EFFECT_COLUMNS, effects, "what modalities do to the answers"),
        Table(step.COLUMNS, [step.row(d.step)] if d.step else [], "a step"),
        Table(terms.COLUMNS, [*map(terms.row, d.terms)], "loss terms, and how hard each pulls at the student"),
        Table(("student", "shape", "teacher", "shape", "adaptor"), compared, pairs),
        Table(score.COLUMNS, [*chain.from_iterable(map(score.rows, d.scores))], "the teacher on the validation split"),
    )
    return [table for table in all_tables if table.rows]
