"""What the doctor has found: tables and sentences on the screen, and all of it as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from msd_framework.analysis.doctor.diagnosis import Diagnosis, Finding
from msd_framework.analysis.doctor.score import ScoreCheck
from msd_framework.screen import Screen

WIDTH = 132
"""Columns of what is printed to no terminal."""

OK = "OK"
"""The last line where nothing has to be mended."""

Row = Sequence[str]


def as_json(found: Diagnosis, told: Sequence[Finding]) -> dict[str, Any]:
    """All of it as plain values."""
    sentences = [{**asdict(finding), "sentence": str(finding)} for finding in told]
    return {"ok": is_ok(told), "findings": sentences, **asdict(found)}


def is_ok(told: Sequence[Finding]) -> bool:
    """Whether nothing has to be mended."""
    return not any(finding.is_fault for finding in told)


def show(found: Diagnosis, told: Sequence[Finding]) -> None:
    """Prints tables, what is good to know, and at the end `OK` or what has to be mended."""
    console = Screen(width=WIDTH)
    for table in tables(found):
        console.print(table)
    for line in lines(found, told):
        console.print(line, soft_wrap=True)


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
    made: dict[str, tuple[Sequence[str], Sequence[Row]]] = {
        f"{found.name}: a batch of {found.rows} rows, targets {_shape(found.targets)} {found.task}, on {found.device}": (
            ("modality", "values", "tokens a row", "most", "special", "padding", "empty rows"),
            _batch(found),
        ),
        "models": (("model", "parameters", "trained", "MB", "logits", "two passes", "weights"), _models(found)),
        "what modalities do to the answers": (
            ("model", "modality", "exchanged", "hidden", "shines through"),
            _effects(found),
        ),
        "a step": (("precision", "teacher", "student", "activations", "GPU peak", "loss", "gradients"), _step(found)),
        "loss terms, and how hard each pulls at the student": (
            ("term", "value", "counts", "gradient", "x the first", "option", "now", "suggested"),
            _terms(found),
        ),
        "features that are compared" if any(p.used for p in found.pairs) else "features that could be compared": (
            ("student", "shape", "teacher", "shape", "adaptor"),
            [(p.student, _shape(p.student_shape), p.teacher, _shape(p.teacher_shape), p.adaptor) for p in found.pairs],
        ),
        "the teacher on the validation split": (
            ("model", "rows", "metric", "now", "recorded", "allowed", "answers compared", "that differ"),
            [row for score in found.scores for row in _score(score)],
        ),
    }
    for title, (columns, rows) in made.items():
        if rows:
            yield _table(title, columns, rows)


def _batch(found: Diagnosis) -> list[Row]:
    return [
        (
            s.modality,
            _shape(s.values),
            f"{s.tokens:.1f}",
            f"{s.most}",
            f"{s.special:.1f}",
            f"{100 * s.padding:.0f} %",
            f"{s.absent}",
        )
        for s in found.shapes
    ]


def _models(found: Diagnosis) -> list[Row]:
    return [
        (
            m.who,
            f"{m.parameters:,}",
            f"{m.trained:,}",
            f"{m.megabytes:.2f}",
            _shape(m.logits),
            "equal" if m.repeats == 0 else f"differ by {m.repeats:.0e}",
            "finite" if not m.not_finite else "not finite",
        )
        for m in found.models
    ]


def _effects(found: Diagnosis) -> list[Row]:
    return [
        (m.who, e.modality, *(_percent(x) for x in (e.swap, e.hide)), "" if e.leak is None else f"{e.leak:.0e}" if e.leak else "0")
        for m in found.models
        for e in m.effects
    ]


def _step(found: Diagnosis) -> list[Row]:
    step = found.step
    if step is None:
        return []
    seconds = ["" if s is None else f"{1000 * s:.1f} ms" for s in (step.teacher_seconds, step.student_seconds)]
    peak = "" if step.peak is None else f"{step.peak:.0f} MB"
    gradients = "not finite" if step.not_finite else "finite"
    return [(step.precision, *seconds, f"{step.activations:.2f} MB", peak, f"{step.loss:.4f}", gradients)]


def _terms(found: Diagnosis) -> list[Row]:
    return [
        (
            t.name,
            f"{t.value:.4g}",
            f"{t.weight:.3g}",
            f"{t.gradient:.3g}",
            f"{t.ratio:.2f}",
            t.option,
            f"{t.setting:.3g}",
            "" if t.suggested is None else f"{t.suggested:.3g}",
        )
        for t in found.terms
    ]


def _score(score: ScoreCheck) -> list[Row]:
    rows = f"{score.rows:,} of {score.of:,}"
    compared = (f"{score.compared:,}", f"{score.off:,}") if score.compared else ("", "")
    return [
        (score.who, rows, name, f"{now:.4f}", *_recorded(score.recorded, name, score.allowed), *compared)
        for name, now in score.scores.items()
    ]


def _recorded(scores: Mapping[str, float], name: str, allowed: float) -> tuple[str, str]:
    return (f"{scores[name]:.4f}", f"{allowed:.4f}") if name in scores else ("", "")


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if value >= 5e-4 or value == 0 else f"{100 * value:.0e} %"


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _table(title: str, columns: Sequence[str], rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for i, column in enumerate(columns):
        is_number = all(row[i][:1].isdigit() or not row[i] for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
