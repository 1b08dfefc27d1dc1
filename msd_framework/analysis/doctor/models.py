"""What a teacher and a student do with one batch: what they look at, what hiding does, what a step costs, which term pulls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from msd_framework.engine.precision import Precision
from msd_framework.losses.adaptors import Adaptor
from msd_framework.losses.features import Hint
from msd_framework.losses.labelled import labelled_losses
from msd_framework.maskers.base import Masker, Views
from msd_framework.maskers.content import over
from msd_framework.models.base import MultimodalModel
from msd_framework.models.features import numbered
from msd_framework.objectives.base import Objective
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.features import Pair, even_layers
from msd_framework.structures import (
    Batch,
    Feature,
    FeatureKind,
    FeatureShape,
    ModalityInputs,
    ModelOutput,
    Outcomes,
    probabilities,
    tree_map,
)
from msd_framework.views import FULL, visible_modalities

Ask = Callable[[Batch, str], Tensor]
"""Logits [B, C] of a view of a batch: a student's, or a teacher's."""

SAME = 1e-6
"""The largest change of a logit that counts as none, as a share of the largest logit and 1."""

LEAK = 1e-4
"""The largest change of a logit by what is hidden that counts as rounding, in the same measure."""

TRIED_ROWS = 4
"""Rows that are changed one by one where what is hidden shows other rows."""

ROUNDS, MOST_SECONDS = 3, 5.0
"""How often a step is timed, and after how many seconds no more."""


@dataclass(frozen=True)
class Shape:
    """One modality of the batch.

    Args:
        modality: its name.
        values: the shape of its values.
        positions: L, what its mask counts.
        tokens: positions with content, the mean over the rows.
        most: the most that a row has.
        special: positions that belong to the model, the mean over the rows.
        padding: the share of positions that hold nothing.
        absent: rows without any content.
        distinct: rows whose content differs from that of the row that they change places with.
    """

    modality: str
    values: tuple[int, ...]
    positions: int
    tokens: float
    most: int
    special: float
    padding: float
    absent: int
    distinct: int


@dataclass(frozen=True)
class Effect:
    """What a modality is to a model.

    Args:
        modality: its name.
        swap: the total variation distance of answers when rows exchange the modality, the mean; None if that could not be tried.
        moved: the largest change of a logit by it, as a share of the largest logit and 1.
        hide: the distance when the masker hides the modality, the mean.
        leak: the largest change of a logit when what is hidden is another content, in the same measure as `moved`.
        untried: why something could not be tried, empty if all was.
    """

    modality: str
    swap: float | None = None
    moved: float | None = None
    hide: float | None = None
    leak: float | None = None
    untried: str = ""


@dataclass(frozen=True)
class ModelCheck:
    """What was found of a model.

    Args:
        who: `student`, `teacher`, or which of several teachers.
        parameters: how many it has.
        trained: how many of them are trained.
        megabytes: what parameters and buffers take.
        not_finite: names of those that hold NaN or infinity.
        logits: the shape of its answer on the full view.
        answers: whether all logits of the full view are finite.
        repeats: the largest change of a logit between two passes in eval mode, as a share of the largest logit and 1.
        training: parts that are in training mode though the model is to be in eval mode.
        effects: what each modality is to it.
    """

    who: str
    parameters: int
    trained: int
    megabytes: float
    not_finite: tuple[str, ...]
    logits: tuple[int, ...]
    answers: bool
    repeats: float
    training: tuple[str, ...]
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class StepCheck:
    """What a training step costs, and whether it is sound.

    Args:
        precision: what it is computed in.
        teacher_seconds: the teacher's answers to all views of the step; None without a teacher.
        student_seconds: forward and backward pass of the whole step less that, the median.
        activations: megabytes that the forward pass keeps for the backward pass.
        peak: megabytes of the GPU at the step's worst moment; None on a CPU.
        loss: its value.
        terms: what it logs.
        not_finite: names of parameters whose gradient holds NaN or infinity.
        without_gradient: trained parameters of the student that the step does not reach.
        lr: the learning rate at its highest.
        losses: of the batch, before and after each of some updates on it alone.
    """

    precision: str
    teacher_seconds: float | None
    student_seconds: float
    activations: float
    peak: float | None
    loss: float
    terms: Mapping[str, float]
    not_finite: tuple[str, ...]
    without_gradient: tuple[str, ...]
    lr: float = 0.0
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Term:
    """A part of the loss, with its graph.

    Args:
        name: what it is called in logs.
        option: the option that says what it counts, such as `objective.features[0].weight`.
        value: its mean over the batch as it enters the loss, weight included, a scalar.
        weight: what it counts there.
        share: what the option says, of which the weight is a multiple.
    """

    name: str
    option: str
    value: Tensor
    weight: float
    share: float


@dataclass(frozen=True)
class TermCheck:
    """How hard a part of the loss pulls at the student.

    Args:
        name: what it is called in logs.
        option: the option that says what it counts.
        value: its mean over the batch, without its weight.
        weight: what it counts.
        gradient: the norm of the gradient of the student's parameters, weight included.
        ratio: that norm as a multiple of the first term's that has one.
        setting: the option's value.
        suggested: the value with which it pulls as hard as the first term; None for that term itself, or where it has no gradient.
    """

    name: str
    option: str
    value: float
    weight: float
    gradient: float
    ratio: float
    setting: float
    suggested: float | None


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


# ---- the batch ----


def swapped(inputs: ModalityInputs) -> tuple[ModalityInputs, int]:
    """A modality with its rows moved on in a circle, as far as makes most rows differ from what they were; and how many do.

    >>> rows = torch.tensor([[1.0], [1.0], [2.0], [2.0]])
    >>> other, differ = swapped(ModalityInputs(rows, rows > 0))
    >>> other.values.flatten(), differ
    (tensor([2., 2., 1., 1.]), 4)
    """
    alone = replace(inputs, distinct=None)
    size = len(inputs.values)
    found = [(_differ(alone, shift), -shift) for shift in range(1, min(size, 8))] or [(0, 0)]
    differ, shift = max(found)
    return tree_map(lambda x: x.roll(-shift, 0), alone), differ


def with_other_content(inputs: ModalityInputs, rows: Sequence[int]) -> ModalityInputs:
    """A modality whose content, in some rows, is that of other rows, at the same positions: mask and special positions stay.

    >>> text = ModalityInputs(torch.tensor([[1, 7, 2], [1, 8, 2]]), torch.ones(2, 3, dtype=torch.bool),
    ...                       {"special": torch.tensor([[True, False, True]] * 2)})
    >>> with_other_content(text, [0]).values
    tensor([[1, 8, 2],
            [1, 8, 2]])
    """
    other, _ = swapped(inputs)
    chosen = torch.zeros(len(inputs.values), 1, dtype=torch.bool, device=inputs.mask.device)
    chosen[list(rows)] = True
    content = inputs.mask & ~inputs.special & other.mask & ~other.special & chosen  # [B, L]
    values = torch.where(over(content, inputs.values), other.values, inputs.values)
    extras = {
        k: torch.where(over(content, x), other.extras[k], x) if x.is_floating_point() else x for k, x in inputs.extras.items()
    }
    return replace(inputs, values=values, extras=extras, distinct=None)


def shapes(batch: Batch) -> list[Shape]:
    """What each modality of a batch is like."""
    return [_shape(m, inputs) for m, inputs in batch.inputs.items()]


def _shape(modality: str, inputs: ModalityInputs) -> Shape:
    content, special = inputs.mask & ~inputs.special, inputs.mask & inputs.special
    tokens = content.sum(1)
    return Shape(
        modality,
        tuple(inputs.values.shape),
        inputs.mask.shape[1],
        float(tokens.float().mean()),
        int(tokens.max()),
        float(special.sum(1).float().mean()),
        float((~inputs.mask).float().mean()),
        int((tokens == 0).sum()),
        swapped(inputs)[1],
    )


def _differ(inputs: ModalityInputs, shift: int) -> int:
    """How many rows differ from the one that takes their place."""
    values, mask = inputs.values.flatten(1), inputs.mask
    return int(((values != values.roll(shift, 0)).any(1) | (mask != mask.roll(shift, 0)).any(1)).sum())


# ---- a model ----


def check_model(
    who: str, model: MultimodalModel, ask: Ask, masker: Masker, batch: Batch, outcomes: Outcomes, with_effects: bool = True
) -> ModelCheck:
    """What a model in eval mode does with a batch.

    Args:
        who: what it is called.
        model: the model; what of it is in training mode is told, not changed.
        ask: how it is asked.
        masker: hides modalities from it.
        batch: the batch in full.
        outcomes: how its logits are read.
        with_effects: whether modalities are exchanged and hidden.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    training = tuple(name or "the model" for name, module in model.named_modules() if module.training)
    with torch.no_grad():
        first, second = ask(batch, FULL).float(), ask(batch, FULL).float()
        finite = bool(first.isfinite().all())
        looked_at = model.modalities if finite and with_effects else ()
        effects = [check_effect(m, model, ask, masker, batch, outcomes) for m in looked_at]
    return ModelCheck(
        who,
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        sum(t.numel() * t.element_size() for t in tensors.values()) / 1e6,
        not_finite(tensors),
        tuple(first.shape),
        finite,
        moved(first, second),
        training,
        tuple(effects),
    )


def check_effect(modality: str, model: MultimodalModel, ask: Ask, masker: Masker, batch: Batch, outcomes: Outcomes) -> Effect:
    """Exchanges a modality between rows, hides it, and changes what is hidden."""
    found = Effect(modality)
    if len(batch) < 2:
        return replace(found, untried="the batch has one row")
    full = ask(batch, FULL).float()
    other, differ = swapped(batch.inputs[modality])
    if differ:
        seen = ask(_with(batch, modality, other), FULL).float()
        found = replace(found, swap=distance(full, seen, outcomes), moved=moved(full, seen))
    else:
        found = replace(found, untried=f"all {len(batch)} rows have the same {modality}")
    if len(model.modalities) < 2:
        return found
    if not model.takes_subsets and masker.hidden(batch, modality) is None:
        return replace(found, untried=found.untried or "the masker leaves it out, and the model needs all modalities")
    view = f"~{modality}"
    visible_modalities(view, batch.modalities)
    hidden = ask(batch, view).float()
    found = replace(found, hide=distance(full, hidden, outcomes))
    return replace(found, leak=check_leak(modality, ask, masker, batch)) if differ else found


@torch.no_grad()
def check_leak(modality: str, ask: Ask, masker: Masker, batch: Batch) -> float:
    """The largest change of a logit when the content of a hidden modality is another one, as a share of the largest logit and 1.

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
    r"""The mean total variation distance of predictions, :math:`\frac12 \sum_c |p_c - q_c|`; for labels that are questions of their
    own the largest of theirs, :math:`\max_c |p_c - q_c|`.

    >>> distance(torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]]), "softmax")
    1.0
    """
    apart = (probabilities(a, outcomes) - probabilities(b, outcomes)).abs()
    return float((apart.sum(-1) / 2 if outcomes == "softmax" else apart.amax(-1)).mean())


def moved(a: Tensor, b: Tensor) -> float:
    """The largest change of a logit, as a share of the largest logit and 1; infinite where one is not finite."""
    change = float((a - b).abs().max() / (1 + a.abs().max()))
    return change if change == change else float("inf")


def not_finite(tensors: Mapping[str, Tensor | None]) -> tuple[str, ...]:
    """The names of those that hold NaN or infinity."""
    return tuple(k for k, t in tensors.items() if t is not None and t.is_floating_point() and not t.isfinite().all())


def _with(batch: Batch, modality: str, inputs: ModalityInputs) -> Batch:
    return batch.with_inputs({**batch.inputs, modality: inputs})


# ---- a step ----


def check_step(
    objective: Objective, batch: Batch, ask_teacher: Callable[[], object] | None, precision: Precision, device: torch.device
) -> StepCheck:
    """Makes a step of the objective without changing weights, and times it.

    Args:
        objective: in training mode.
        batch: its examples, on the device.
        ask_teacher: asks the teacher what a step asks it.
        precision: what both are computed in.
        device: where both are.
    """
    objective.zero_grad(set_to_none=True)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    with precision.products(), kept(objective) as sizes:
        with precision.autocast(device):
            output = objective(batch)
        activations = sum(sizes.values()) / 1e6
        output.loss.backward()
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if cuda else None
    gradients = {name: p.grad for name, p in objective.named_parameters()}
    trained = {n: p for n, p in objective.model.named_parameters() if p.requires_grad}
    terms = {name: float(value) for name, value in output.terms.items()}
    loss, bad = float(output.loss.detach()), not_finite(gradients)
    unreached = tuple(n for n, p in trained.items() if p.grad is None)
    del output
    forget(objective)

    def step() -> None:
        objective.zero_grad(set_to_none=True)
        with precision.products():
            with precision.autocast(device):
                again = objective(batch).loss
            again.backward()
        forget(objective)

    def answers() -> None:
        assert ask_teacher is not None
        with precision.active(device), torch.no_grad():
            ask_teacher()

    whole = seconds_of(step, device)
    teacher = None if ask_teacher is None else seconds_of(answers, device)
    objective.zero_grad(set_to_none=True)
    return StepCheck(precision.name, teacher, max(whole - (teacher or 0.0), 0.0), activations, peak, loss, terms, bad, unreached)


def losses_of_updates(objective: Objective, batch: Batch, optimizer: Optimizer, num_updates: int) -> tuple[float, ...]:
    """The losses of a batch before and after each of some updates on it alone, in eval mode; the student is changed by it.

    Args:
        objective: what is minimised.
        batch: the examples, on the device.
        optimizer: makes the updates.
        num_updates: how many.
    """
    objective.eval()
    losses, started = [], time.perf_counter()
    for _ in range(num_updates + 1):
        loss = objective(batch).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        forget(objective)
        if time.perf_counter() - started > MOST_SECONDS:
            break
    return tuple(losses)


def forget(objective: Objective) -> None:
    """Lets go of passes that weights would have been learned from at the end of an update."""
    if isinstance(objective, DistillationObjective):
        objective.followed.clear()


@contextmanager
def kept(module: nn.Module) -> Iterator[dict[int, int]]:
    """The bytes that forward passes keep for backward passes, by where they lie; parameters are not counted.

    >>> layer = nn.Linear(2, 3)
    >>> with kept(layer) as sizes:
    ...     made = layer(torch.ones(5, 2)).sigmoid()
    >>> sum(sizes.values())  # the input and the sigmoid: 5 x (2 + 3) numbers of 4 bytes
    100
    """
    own, sizes = {p.untyped_storage().data_ptr() for p in module.parameters()}, dict[int, int]()

    def pack(values: Tensor) -> Tensor:
        storage = values.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return values

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        yield sizes


def seconds_of(function: Callable[[], None], device: torch.device) -> float:
    """The median time of a call, of up to `ROUNDS` of them."""
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) < MOST_SECONDS:
        _settled(device)
        started = time.perf_counter()
        function()
        _settled(device)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def _settled(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- the loss, term by term ----


def terms_of(objective: Objective, batch: Batch) -> list[Term]:
    """The parts of the loss with their graph; they add up to it but for what a weighting adds of its own.

    An objective that does not learn from a teacher has one part, the loss itself.
    """
    if not isinstance(objective, DistillationObjective):
        return [Term("loss", "objective", objective(batch).loss, 1.0, 1.0)]
    shown = Views(objective.masker, batch)
    output, told = objective.student_outputs([shown[name].inputs for name in objective.student_views], None)
    student = objective.by_view(output.logits)  # [1 + V, B, C]
    teacher, taught = objective.teacher_outputs(shown)
    distill = objective.distill_losses(student, teacher, batch.targets)  # [V, B]
    w = objective.weighting(objective.evidence(batch, teacher, student[1:], distill)).detach()  # [V] or [V, B]
    w = w if w.ndim == 2 else w[:, None]
    lam = objective.distill_weight.value
    task = (1 - lam) * labelled_losses(objective.task_loss, ModelOutput(student[0]), batch).mean()
    found = [Term("task", "objective.distill_weight", task, 1 - lam, lam)]
    for view, weight, values in zip(objective.views, w, distill):
        share = float(weight.mean())
        value = lam * (weight * values).mean()
        found.append(Term(f"distill/{view.name}", f"weights.{view.name} of objective.weighting", value, lam * share, share))
    inner = objective.features(told, taught, batch)
    names, pairs = iter(inner), {p.name: p for p in objective.features.pairs if isinstance(p, Pair)}
    for i, term in enumerate(objective.features.terms):
        mine = [next(names) for _ in term.pairs(objective.model.offered, objective.teacher.offered)]
        beta = float(pairs[mine[0]].weight.value)
        value = lam * beta * torch.stack([inner[name].mean() for name in mine]).sum()
        label = mine[0] if len(mine) == 1 else f"{mine[0]} and {len(mine) - 1} more"
        found.append(Term(f"feature/{label}", f"objective.features[{i}].weight", value, lam * beta, beta))
    return found


def check_terms(terms: Sequence[Term], model: nn.Module) -> list[TermCheck]:
    r"""How hard each part of the loss pulls at the student, beside the first that pulls at all, which is the task's as a rule.

    .. math:: w_k' = w_k \, \lVert \nabla L_1 \rVert / \lVert \nabla L_k \rVert

    is the weight with which part k, :math:`L_k` with its weight :math:`w_k` in it, has as large a gradient as the first.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    norms = [gradient_norm(term.value, parameters) for term in terms]
    reference = next((i for i, norm in enumerate(norms) if norm > 0), 0)
    found = []
    for i, (term, norm) in enumerate(zip(terms, norms)):
        ratio = norm / norms[reference] if norms[reference] else 0.0
        value = float(term.value.detach()) / term.weight if term.weight else 0.0
        other = None if i == reference or not ratio or term.name == "task" else float(f"{term.share / ratio:.3g}")
        found.append(TermCheck(term.name, term.option, value, term.weight, norm, ratio, term.share, other))
    return found


def gradient_norm(value: Tensor, parameters: Sequence[nn.Parameter]) -> float:
    """The norm of a scalar's gradient with respect to all parameters as one vector; the graph is kept."""
    if not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    norms = [g.float().norm() for g in gradients if g is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


# ---- intermediates ----


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
        mine, theirs = (numbered(f"{part}.*.hidden", offered) for offered in (student, teacher))
        if mine and theirs:
            found += [(mine[i], theirs[j]) for i, j in even_layers(len(mine), len(theirs)).items()]
    names = [f"{part}.{what}" for part in (*modalities, "fused") for what in ("pooled", "projected")]
    return found + [(name, name) for name in names if name in student and student[name] == teacher.get(name)]


def check_pairs(
    pairs: Sequence[tuple[str, str, Adaptor | None]],
    kinds: Mapping[str, FeatureKind],
    mine: Mapping[str, Feature],
    theirs: Mapping[str, Feature],
) -> list[PairCheck]:
    """What each pair of intermediates is like.

    Args:
        pairs: the student's name, the teacher's, and what makes the first comparable; None where nothing compares them.
        kinds: what each of the student's is.
        mine: the student's on the batch.
        theirs: the teacher's on the same batch.
    """
    found = []
    for student, teacher, adaptor in pairs:
        kind, a, b = kinds[student], tuple(mine[student].values.shape), tuple(theirs[teacher].values.shape)
        told = told_adaptor(kind, a, b, adaptor) if adaptor else needed_adaptor(kind, a, b)
        found.append(PairCheck(student, teacher, kind, a, b, told, adaptor is not None))
    return found


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
