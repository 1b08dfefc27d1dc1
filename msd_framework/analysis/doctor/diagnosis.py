"""What is wrong with a teacher and a student, in sentences: where it is, what was got, what was wanted, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msd_framework.analysis.doctor.models import LEAK, SAME, Effect, ModelCheck, PairCheck, Shape, StepCheck, TermCheck
from msd_framework.analysis.doctor.score import ScoreCheck
from msd_framework.errors import Problem
from msd_framework.views import FULL

LOPSIDED = 30.0
"""How many times as hard as the first term another may pull at the student."""

WEAK = 0.005
"""The mean change of a teacher's answers, as a total variation distance, below which it hardly looks at a modality."""

STILL = 0.01
"""The share of a batch's loss that some updates on it must take away at least, for a learning rate that moves something."""

MOST_NAMES = 3
"""Names that are told of a long list."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        where: a key of the configuration, or a part of the pair.
        got: what was found.
        wanted: what it should be.
        do: what to do about it.
        is_fault: whether it has to be mended before a run; if not, it is good to know.
    """

    where: str
    got: str
    wanted: str = ""
    do: str = ""
    is_fault: bool = True

    def __str__(self) -> str:
        said = f"{self.got}; wanted {self.wanted}." if self.wanted else self.got.rstrip(".") + "." * (not self.got.endswith("?"))
        return " ".join(part for part in (f"{self.where}: {said}" if self.where else said, self.do) if part)


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


def of_problem(problem: Problem) -> Finding:
    """What a run would refuse, as it says it."""
    return Finding(problem.path, problem.message)


def findings(found: Diagnosis) -> list[Finding]:
    """What follows from what was measured, faults first."""
    told: list[Finding] = []
    for shape in found.shapes:
        told += _of_shape(shape, found.rows)
    for model in found.models:
        told += _of_model(model)
    for score in found.scores:
        told += _of_score(score)
    if found.step is not None:
        told += _of_step(found.step)
    told += _of_terms(found.terms)
    return sorted(dict.fromkeys(told), key=lambda finding: not finding.is_fault)


def _of_shape(shape: Shape, rows: int) -> Iterator[Finding]:
    where = f"data, {shape.modality}"
    if shape.absent:
        text = f"{shape.absent} of {rows} rows of the batch have no content"
        yield Finding(where, text, "some in every row", "Look at these rows, unless they lack it on purpose.", shape.absent == rows)
    if rows > 1 and not shape.distinct:
        do = f"Look at how the data set finds its {shape.modality}."
        yield Finding(where, f"all {rows} rows of the batch have the same content", "other content in other rows", do)


def _of_model(model: ModelCheck) -> Iterator[Finding]:
    who, is_student = model.who, model.who == "student"
    if model.not_finite:
        text = f"{_names(model.not_finite)} of its weights hold NaN or infinity"
        do = "Look at data it was made of." if is_student else "The checkpoint is of a run that went wrong; take another one."
        yield Finding(who, text, "finite numbers", do)
    elif not model.answers:
        yield Finding(who, "its logits on the batch hold NaN or infinity", "finite numbers", "Look at its inputs and its forward.")
    if model.training:
        text = f"{_names(model.training)} in training mode when it is asked"
        do = "Its train() or eval() must reach every part: call super().train(mode), and keep parts in attributes."
        yield Finding(who, text, "eval mode everywhere, so that dropout and batch norms are still", do)
    if model.answers and model.repeats > SAME:
        text = f"two passes over the same rows differ by {model.repeats:.1e} of the largest logit"
        do = "Something draws random numbers in eval mode: dropout must ask self.training."
        yield Finding(who, text, "the same answer twice", do)
        return  # what moves by itself tells nothing of what moves it
    for effect in model.effects:
        yield from _of_effect(who, effect, is_student)


def _of_effect(who: str, effect: Effect, is_student: bool) -> Iterator[Finding]:
    where = f"{who}, {effect.modality}"
    if effect.moved is not None and effect.moved <= SAME:
        text = f"the answers are the same with the {effect.modality} of another row: it is blind to it"
        do = f"Look at how its forward uses {effect.modality}, or take another {'model' if is_student else 'teacher'}."
        yield Finding(where, text, "other answers", do)
    elif effect.swap is not None and effect.swap < WEAK and not is_student:
        text = f"exchanging it between rows changes the answers by {100 * effect.swap:.2f} % (total variation)"
        yield Finding(where, text, "", "It hardly looks at it, so it has little to teach about it.", False)
    if effect.leak is not None and effect.leak > LEAK:
        text = f"hidden by the masker, its content still changes the answers, by {effect.leak:.1e} of the largest logit"
        do = "The masker leaves content in, or the model looks at positions that are masked out; masker=drop hides everything."
        yield Finding(where, text, "no change", do)
    if effect.untried:
        yield Finding(where, f"not all was tried: {effect.untried}", "", "", False)


def _of_score(score: ScoreCheck) -> Iterator[Finding]:
    where = f"{score.who} ({score.checkpoint})"
    if score.off:
        text = (
            f"{score.off} of {score.compared} answers on {score.split} are not those that its run wrote down, by up to "
            f"{score.furthest:.3f} of a probability"
        )
        do = "Its weights, or the files behind the rows, are not those of its run: take the checkpoint and the data as they were."
        yield Finding(where, text, f"at most {score.bound:g}", do)
    for name, recorded in score.recorded.items():
        now = score.scores[name]
        if abs(now - recorded) > score.allowed:
            text = f"{name} on {score.rows:,} of {score.of:,} rows of {score.split} is {now:.4f}"
            do = "The weights, the processors or the split are not those that were scored; compare them with its run's config.yaml."
            yield Finding(where, text, f"{recorded:.4f} +- {score.allowed:.4f}, which its checkpoint recorded", do)
    if score.order:
        pairs = [f"{c} means {m}" for c, m in enumerate(score.order) if c != m]
        text = f"its outputs fit the labels far better in another order: {_names(pairs)}"
        yield Finding(
            where, text, "each output to mean its own class", "Put the data set's classes in the order it was trained with."
        )
    for view, right in score.right.items():
        if right > score.constant or score.order:
            continue
        on = "it is" if view == FULL else f"on the view {view} it is"
        text = f"{on} right about {right:.4f} of the labels, and the commonest answer alone about {score.constant:.4f}"
        if view != FULL:
            yield Finding(where, text, "", "It has little to teach there.", False)
        else:
            do = "Train it first, longer or with another optimizer.lr; a student learns next to nothing from it."
            yield Finding(where, text, "more than that", do, view in score.blind)
    if score.note:
        yield Finding(where, f"its score was not compared: {score.note}", "", "", False)


def _of_step(step: StepCheck) -> Iterator[Finding]:
    if not _finite(step.loss):
        bad = [name for name, value in step.terms.items() if not _finite(value)]
        text = f"the loss is {step.loss}" + (f", by {_names(bad)}" if bad else "")
        yield Finding("objective", text, "a finite number", "Look at the terms that are not finite, and at both models' answers.")
    elif step.not_finite:
        text = f"the gradients of {_names(step.not_finite)} hold NaN or infinity"
        yield Finding("objective", text, "finite numbers", "Take training.precision=fp32, or another loss.")
    if step.without_gradient:
        text = f"the step reaches {len(step.without_gradient)} of its trained parameters not: {_names(step.without_gradient)}"
        yield Finding("student", text, "", "They stay as they are.", False)
    yield from _of_moves(step)


def _of_moves(step: StepCheck) -> Iterator[Finding]:
    """Whether the learning rate moves anything."""
    first, last = step.losses[:1], step.losses[-1:]
    if not first or not all(_finite(x) for x in step.losses):
        return
    went = f"{len(step.losses) - 1} updates on one batch take its loss from {first[0]:.4f} to {last[0]:.4f}"
    if last[0] > first[0] - STILL * abs(first[0]):
        way = "so next to nothing moves" if last[0] < 2 * first[0] else "so it leaves what it learned"
        hint = "weights from scratch usually learn at 1e-3, published ones at 5e-5"
        yield Finding("optimizer.lr", f"{went}: at {step.lr:g} {way}", "", f"Try others: {hint}.", False)


def _of_terms(terms: Sequence[TermCheck]) -> Iterator[Finding]:
    first = next((t.name for t in terms if t.ratio == 1), "")
    for term in (t for t in terms if first and t.name not in (first, "task")):
        if term.ratio > LOPSIDED:
            text = f"{term.name} pulls {term.ratio:.0f} times as hard at the student as {first}"
        elif term.setting and term.ratio < 1 / LOPSIDED:
            text = f"{term.name} pulls {term.ratio:.1e} times as hard at the student as {first}, and so does next to nothing"
        else:
            continue
        do = f"Set {term.option} to {term.suggested:g} (now {term.setting:g}), which makes both equal." if term.suggested else ""
        yield Finding(term.option, text, f"between 1/{LOPSIDED:g} and {LOPSIDED:g}", do, term.ratio > LOPSIDED)


def _finite(value: float) -> bool:
    return abs(value) < float("inf")


def _names(names: Sequence[Any]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(map(str, names[:MOST_NAMES])) + (f" and {more} more" if more > 0 else "")
