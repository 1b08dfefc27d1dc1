"""Whether a model is sound: its weights, which modalities its predictions depend on, and whether a hidden one leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msd_framework.analysis.doctor.finding import Finding, listed, percent, sizes
from msd_framework.analysis.doctor.inputs import swapped, with_other_content
from msd_framework.maskers.base import Masker
from msd_framework.models.base import MultimodalModel
from msd_framework.structures import Batch, ModalityInputs, Outcomes, check_logits, probabilities
from msd_framework.views import FULL

Ask = Callable[[Batch, str], Tensor]
"""Logits [B, C] of a view of a batch: a student's, or a teacher's."""

# Changes of a logit are shares of the largest logit and 1.
SAME = 1e-6  # the largest that counts as none
LEAK = 1e-4  # the largest, by what is hidden, that counts as rounding
TRIED_ROWS = 4
WEAK = 0.005  # the mean change of a teacher's answers (total variation) below which it hardly looks at a modality

COLUMNS = ("model", "parameters", "trained", "MB", "logits", "two passes", "weights")
EFFECT_COLUMNS = ("model", "modality", "exchanged", "hidden", "shines through")


@dataclass(frozen=True)
class Effect:
    """What a modality is to a model; None is what could not be tried."""

    modality: str
    swap: float | None = None  # the mean total variation distance of answers when rows exchange the modality
    moved: float | None = None  # the largest change of a logit by it
    hide: float | None = None  # the mean distance when the masker hides the modality
    leak: float | None = None  # the largest change of a logit when what is hidden is another content
    untried: str = ""  # why something could not be tried


@dataclass(frozen=True)
class ModelCheck:
    """A model in eval mode."""

    who: str  # `student`, `teacher`, or which of several teachers
    parameters: int
    trained: int  # how many of them are trained
    megabytes: float  # of parameters and buffers
    not_finite: tuple[str, ...]  # names of those that hold NaN or infinity
    logits: tuple[int, ...]  # the shape of its answer on the full view
    answers: bool  # whether all those are finite
    repeats: float  # the largest change of a logit between two passes
    training: tuple[str, ...]  # parts that are in training mode nevertheless
    effects: tuple[Effect, ...]


def measure(
    who: str, model: MultimodalModel, ask: Ask, masker: Masker, batch: Batch, outcomes: Outcomes, with_effects: bool = True
) -> ModelCheck:
    """What a model in eval mode does with a batch; its mode is left as it is."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    with torch.no_grad():
        first, second = ask(batch, FULL).float(), ask(batch, FULL).float()
        check_logits(first[None], batch, type(model).__name__)
        finite = bool(first.isfinite().all())
        effects = []
        for modality in model.modalities if finite and with_effects else ():
            effects.append(check_effect(modality, model, ask, masker, batch, outcomes))
    return ModelCheck(
        who,
        parameters=sum(map(Tensor.numel, model.parameters())),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        megabytes=sum(t.nbytes for t in tensors.values()) / 1e6,
        not_finite=not_finite(tensors),
        logits=tuple(first.shape),
        answers=finite,
        repeats=moved(first, second),
        training=tuple(training),
        effects=tuple(effects),
    )


def judge(model: ModelCheck) -> Iterator[Finding]:
    who, is_student = model.who, model.who == "student"
    if model.not_finite:
        text = f"{listed(model.not_finite)} of its weights hold NaN or infinity"
        do = "Look at data it was made of." if is_student else "The checkpoint is of a run that went wrong; take another one."
        yield Finding(who, text, "finite numbers", do)
    elif not model.answers:
        yield Finding(who, "its logits on the batch hold NaN or infinity", "finite numbers", "Look at its inputs and its forward.")
    if model.training:
        text = f"{listed(model.training)} in training mode when it is asked"
        do = "Its train() or eval() must reach every part: call super().train(mode), and keep parts in attributes."
        yield Finding(who, text, "eval mode everywhere, so that dropout and batch norms are still", do)
    if model.answers and model.repeats > SAME:
        text = f"two passes over the same rows differ by {model.repeats:.1e} of the largest logit"
        do = "Something draws random numbers in eval mode: dropout must ask self.training."
        yield Finding(who, text, "the same answer twice", do)
        return  # what moves by itself tells nothing of what moves it
    for effect in model.effects:
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


def row(model: ModelCheck) -> list[str]:
    counts = [f"{model.parameters:,}", f"{model.trained:,}", f"{model.megabytes:.2f}"]
    passes = "equal" if model.repeats == 0 else f"differ by {model.repeats:.0e}"
    return [model.who, *counts, sizes(model.logits), passes, "not finite" if model.not_finite else "finite"]


def effect_rows(model: ModelCheck) -> Iterator[list[str]]:
    for effect in model.effects:
        leak = "" if effect.leak is None else f"{effect.leak:.0e}" if effect.leak else "0"
        yield [model.who, effect.modality, percent(effect.swap), percent(effect.hide), leak]


def check_effect(modality: str, model: MultimodalModel, ask: Ask, masker: Masker, batch: Batch, outcomes: Outcomes) -> Effect:
    """Exchanges a modality between rows, hides it, and changes what is hidden."""
    if len(batch) < 2:
        return Effect(modality, untried="the batch has one row")
    full = ask(batch, FULL).float()
    other, differ = swapped(batch.inputs[modality])
    if differ:
        exchanged = ask(_with(batch, modality, other), FULL).float()
        effect = Effect(modality, swap=distance(full, exchanged, outcomes), moved=moved(full, exchanged))
    else:
        effect = Effect(modality, untried=f"all {len(batch)} rows have the same {modality}")
    if len(model.modalities) < 2:
        return effect
    if not model.takes_subsets and masker.hidden(batch, modality) is None:
        return replace(effect, untried=effect.untried or "the masker leaves it out, and the model needs all modalities")
    hidden = ask(batch, f"~{modality}").float()
    effect = replace(effect, hide=distance(full, hidden, outcomes))
    # a masker that leaves a part on purpose leaks
    return replace(effect, leak=check_leak(modality, ask, masker, batch)) if differ and not masker.leaves_some else effect


@torch.no_grad()
def check_leak(modality: str, ask: Ask, masker: Masker, batch: Batch) -> float:
    """The largest change of a logit when the content of a hidden modality is another one.

    A masker that shows other rows in place of one is tried row by row: the row's own answer must not change.
    """
    view, size = f"~{modality}", len(batch)
    hidden = ask(batch, view).float()
    groups = [[row] for row in range(min(size, TRIED_ROWS))] if masker.random else [list(range(size))]
    changes = []
    for rows in groups:
        changed = _with(batch, modality, with_other_content(batch.inputs[modality], rows))
        changes.append(moved(hidden[rows], ask(changed, view).float()[rows]))
    return max(changes)


def distance(a: Tensor, b: Tensor, outcomes: Outcomes) -> float:
    r"""The mean of :math:`\frac12 \sum_c |p_c - q_c|`, or :math:`\max_c |p_c - q_c|` for labels that are questions of their own."""
    apart = (probabilities(a, outcomes) - probabilities(b, outcomes)).abs()
    return float((apart.sum(-1) / 2 if outcomes == "softmax" else apart.amax(-1)).mean())


def moved(a: Tensor, b: Tensor) -> float:
    """The largest change of a logit, as a share of the largest logit and 1; infinite where one is not finite."""
    change = float((a - b).abs().max() / (1 + a.abs().max()))
    return change if change == change else float("inf")


def not_finite(tensors: Mapping[str, Tensor | None]) -> tuple[str, ...]:
    """The names of those that hold NaN or infinity."""
    names = []
    for name, tensor in tensors.items():
        if tensor is not None and tensor.is_floating_point() and not tensor.isfinite().all():
            names.append(name)
    return tuple(names)


def _with(batch: Batch, modality: str, inputs: ModalityInputs) -> Batch:
    return batch.with_inputs({**batch.inputs, modality: inputs})
