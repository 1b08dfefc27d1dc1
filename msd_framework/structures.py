"""What flows through the framework: a batch in, a model's output out, a loss at the end.

One legend of shapes for the whole library: B examples, N targets, V views, M modalities, L positions, D features, C classes.

A **target** is one thing that is predicted: the label of an example, or one token of its answer. A classifier has one target an
example, N = B. Where examples have several, `Batch.example_of` says whose each is, and logits are [N, C] or [V, N, C].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from msd_framework.errors import ConfigError
from msd_framework.views import MIXED, rows_shown

T = TypeVar("T")
K = TypeVar("K")

Task: TypeAlias = Literal["single_label", "multi_label", "soft_target"]
"""How targets are read: a class [N], a set of labels [N, C] of 0 and 1, or a score a class [N, C] in [0, 1]."""

IGNORED = -100  # the class of an unknown target; where examples have several targets, of padding, which is no target

Outcomes: TypeAlias = Literal["softmax", "bernoulli"]
"""How logits become probabilities: of C classes that exclude each other, or of yes or no for each class by itself."""

ModalityKind: TypeAlias = Literal["tokens", "features", "pixels", "waveform"]
"""What the values of a modality are: ids [B, L], features [B, L, D], pixels [B, C, H, W], samples [B, T]."""


@dataclass(frozen=True)
class Distinct:
    """Which examples of a batch have the same input, where some do."""

    first: Tensor  # int64 [U], the first row of each of the U distinct inputs
    of: Tensor  # int64 [B], which of them each row is


@dataclass(frozen=True)
class ModalityInputs:
    """One modality of a batch.

    Args:
        values: token ids, int64 [B, L]; features, float [B, L, D]; pixels, float [B, C, H, W]; or a waveform, float [B, T].
        mask: bool [B, L], True where a position holds something; [B, 1] for pixels, [B, T] for a waveform.
        extras: tensors aligned with the positions. ``special``, bool [B, L]: positions that belong to the model
            rather than to the content, such as [CLS] and [SEP]; they stay when the modality is hidden.
            ``positions``, int64 [B, L]: position ids where they are not 0, 1, 2 and so on, which models of transformers and
            of MMF, and `module`, refuse. ``boxes``, float [B, L, 4 or 5]; ``segments``, int64 [B, L].
        num_special: the most special positions that an example has, where they were counted before the batch went to the
            device: shapes that depend on it then need not wait for the device.
        distinct: which rows are the same, extras included; None if unknown or if all differ. Code that changes single rows
            leaves it out.
    """

    values: Tensor
    mask: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    num_special: int | None = None
    distinct: Distinct | None = None

    @property
    def special(self) -> Tensor:
        """Positions that belong to the model rather than to the content, bool [B, L]."""
        return self.extras["special"] if "special" in self.extras else torch.zeros_like(self.mask)

    @property
    def present(self) -> Tensor:
        """Whether an example has any content of this modality, bool [B]."""
        return (self.mask & ~self.special).any(1)

    def once(self, encode: Callable[[ModalityInputs], T]) -> T:
        """A function that treats each row by itself, with rows that are the same computed once; their gradients are added up.

        If it drops features at random, rows that are the same lose the same ones.

        >>> rows = torch.tensor([[1.0], [2.0], [1.0]])
        >>> same = Distinct(torch.tensor([0, 1]), torch.tensor([0, 1, 0]))
        >>> ModalityInputs(rows, rows > 0, distinct=same).once(lambda x: print(len(x.values)) or 10 * x.values).flatten()
        2
        tensor([10., 20., 10.])
        """
        if self.distinct is None:
            return encode(self)
        first, of = self.distinct.first, self.distinct.of
        rows = tree_map(lambda x: x.index_select(0, first), replace(self, distinct=None))  # [U, ..]
        return tree_map(lambda x: x.index_select(0, of), encode(rows))  # [B, ..]


Inputs: TypeAlias = Mapping[str, ModalityInputs]
"""The modalities of a batch by name, in sorted order."""

TeacherKey: TypeAlias = tuple[str, tuple[int, ...]]
"""A modality, and the numbers of the teachers that see the same tensors of it, other ones than the student."""


@dataclass(frozen=True)
class Batch:
    """B examples, and the N targets that are predicted of them.

    Args:
        targets: int64 [N], or float [N, C] for several labels or soft targets.
        ids: B strings, stable over epochs and runs.
        places: where they stand in their split, where that matters.
        num_labelled: where examples may lack a label, how many have one; in training, their mean over the parts of an update.
            A float64 scalar.
        having: for each modality that some example lacks, which examples have it, bool [B]. An example has a modality if it
            has a position of it that is neither masked nor special.
        teacher_inputs: the modalities that teachers see as other tensors than the student; empty where all see the same.
            None stands for tensors that a cached teacher does not need.
        teacher_having: `having` of those modalities, as these teachers see them.
        example_of: int64 [N], the example that each target belongs to, where examples have several; None where N = B.
        others: for each example another row, by the name that views have for it: ``*`` in `image+text*`, ``**`` for a second one,
            ``^`` for one that it is mixed with; ``*@3`` is the row of the fourth turn, where a teacher is asked about all turns at
            once. They hold the modalities that views want. `having` of those that it is mixed with is that of the mixtures.
        turns: which turn each example is at, where it meets a few other rows in turn; a cached teacher keeps an answer for each.
        own_share: of rows that examples are mixed with, how much the example itself counts, float [B] between 0 and 1.
    """

    inputs: Inputs
    targets: Tensor
    ids: tuple[str, ...]
    places: tuple[int, ...] = ()
    num_labelled: Tensor | None = None
    having: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_inputs: Mapping[TeacherKey, ModalityInputs | None] = field(default_factory=dict)
    teacher_having: Mapping[TeacherKey, Tensor] = field(default_factory=dict)
    example_of: Tensor | None = None
    others: Mapping[str, Batch] = field(default_factory=dict)
    turns: tuple[int, ...] = ()
    own_share: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, name: str) -> Batch:
        """The batch itself for the name "", or the other rows that a view takes a modality from."""
        if not name:
            return self
        if name not in self.others:
            raise ValueError(
                f"a view takes a modality from another row ({name!r}), and the batch brings none. Batches of a run do; in a loop "
                f"of your own call batch.paired([{name!r}]) first, which takes other rows of the batch."
            )
        return self.others[name]

    def paired(self, names: Iterable[str]) -> Batch:
        """The batch with other rows out of itself: for the k-th name, the row that stands k rows above, counted in circles.

        Of a mixture, the example's own share is drawn at random.
        """
        others = {}
        for k, name in enumerate(names, 1):
            rows = Batch(
                {m: replace(x, distinct=None) for m, x in self.inputs.items()},
                self.targets[:0],  # nothing is predicted of them
                self.ids,
                having=self.having,
                teacher_inputs={key: x and replace(x, distinct=None) for key, x in self.teacher_inputs.items()},
                teacher_having=self.teacher_having,
                own_share=torch.rand(len(self), device=self.targets.device) if name == MIXED else None,
            )
            rows = replace(tree_map(partial(torch.roll, shifts=k, dims=0), rows), ids=self.ids[-k:] + self.ids[:-k])
            others[name] = rows if rows.own_share is None else self.mixed_with(rows, rows.token_inputs)
        return replace(self, others=others)

    def mixed_with(self, rows: Batch, tokens: Collection[object]) -> Batch:
        """Other rows whose `having` is that of their mixtures with these.

        Tokens of a mixture are those of the row with the larger share, so it has them if that row does; what is added up is there
        if either row has it.
        """
        assert rows.own_share is not None
        is_own = rows.own_share >= 0.5  # [B]
        having = _having_mixed(self.having, rows.having, is_own, tokens)
        return replace(rows, having=having, teacher_having=_having_mixed(self.teacher_having, rows.teacher_having, is_own, tokens))

    @property
    def token_inputs(self) -> set[str | TeacherKey]:
        """The modalities whose values are tokens, as the student sees them and as teachers do."""
        inputs: list[tuple[str | TeacherKey, ModalityInputs | None]] = [*self.inputs.items(), *self.teacher_inputs.items()]
        return {key for key, x in inputs if x is not None and not x.values.is_floating_point()}

    @property
    def without_labels(self) -> Batch:
        """The batch with all targets unknown: of two rows made one nobody knows the label."""
        return replace(self, targets=unknown_like(self.targets), num_labelled=self.targets.new_zeros((), dtype=torch.float64))

    @property
    def labelled(self) -> Tensor:
        """Which targets are known, bool [N]."""
        return has_label(self.targets)

    @property
    def is_target(self) -> Tensor | None:
        """Which of N targets are no padding, bool [N]; None of a classifier, whose unlabelled examples are distilled too."""
        return None if self.example_of is None else self.labelled

    def spread(self, values: Tensor) -> Tensor:
        """Values of examples, [.., B], as those of their targets, [.., N]."""
        return values if self.example_of is None else values.index_select(-1, self.example_of)

    def mean_of_targets(self, values: Tensor) -> Tensor:
        """Values of targets, [.., N], averaged over those of each example, [.., B]; padding does not count.

        >>> answers = Batch({}, torch.tensor([5, 7, -100, 2]), ("a", "b"), example_of=torch.tensor([0, 0, 0, 1]))
        >>> answers.mean_of_targets(torch.tensor([1.0, 3.0, 9.0, 4.0]))
        tensor([2., 4.])
        """
        share = self.target_share(values.dtype)
        if self.example_of is None or share is None:
            return values
        weighted = torch.where(share > 0, values, 0.0) * share
        return values.new_zeros(*values.shape[:-1], len(self)).index_add(-1, self.example_of, weighted)

    def target_share(self, dtype: torch.dtype) -> Tensor | None:
        """How much each target counts in the mean of its example, float [N], 0 of padding; None of a classifier."""
        if self.example_of is None:
            return None
        counted = self.labelled.to(dtype)
        num_targets = counted.new_zeros(len(self)).index_add(0, self.example_of, counted)  # [B]
        return counted / self.spread(num_targets).clamp(min=1)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(sorted(self.inputs))

    def shown(self, view: str, modalities: Sequence[str]) -> Tensor | None:
        """Which examples have something that a view shows to a model of some modalities, bool [B]; None where all of them do."""
        having = []
        for modality, row in rows_shown(view, modalities).items():
            there = self.row(row).having
            if modality not in there:
                return None
            having.append(there[modality])
        return torch.stack(having).any(0)

    @property
    def teacher_side(self) -> Batch:
        """The same examples as the teacher sees them, or the first of several."""
        return self.for_teacher(0)

    def for_teacher(self, number: int) -> Batch:
        """The same examples as one of several teachers sees them; the batch itself where all see what the student does."""
        if not self.teacher_inputs:
            return self
        others = {name: rows.for_teacher(number) for name, rows in self.others.items()}
        own = {m: x for (m, teachers), x in self.teacher_inputs.items() if number in teachers}
        if not own:
            return replace(self, teacher_inputs={}, teacher_having={}, others=others)
        inputs = {m: x for m, x in sorted({**self.inputs, **own}.items()) if x is not None}
        having = {m: rows for m, rows in self.having.items() if m not in own}
        having |= {m: rows for (m, teachers), rows in self.teacher_having.items() if number in teachers}
        return replace(self, inputs=inputs, having=having, teacher_inputs={}, teacher_having={}, others=others)

    def with_inputs(self, inputs: Inputs) -> Batch:
        return replace(self, inputs=dict(sorted(inputs.items())))

    def to(self, device: torch.device) -> Batch:
        return tree_map(lambda t: t.to(device, non_blocking=True), self)

    def pin_memory(self) -> Batch:
        """The batch in memory that a GPU copies faster; torch's loader calls this."""
        return tree_map(lambda t: t.pin_memory(), self)


def _having_mixed(
    own: Mapping[K, Tensor], other: Mapping[K, Tensor], is_own: Tensor, tokens: Collection[object]
) -> dict[K, Tensor]:
    having, everyone = {}, torch.ones_like(is_own)
    for key in dict.fromkeys([*own, *other]):
        mine, theirs = own.get(key, everyone), other.get(key, everyone)
        having[key] = torch.where(is_own, mine, theirs) if key in tokens else mine | theirs
    return having


FeatureKind: TypeAlias = Literal["pooled", "hidden", "attention", "scores"]
"""A summary [B, D], a state for each position [B, L, D], attention probabilities [B, H, L, L], or scores before their softmax."""


@dataclass(frozen=True)
class FeatureShape:
    """The shape of an intermediate, from a dry run before training."""

    kind: FeatureKind
    width: int  # D, or the heads H of an attention
    num_positions: int = 1  # L in the dry run; 1 for a summary
    num_examples: int | None = None  # of the training split, if known


@dataclass(frozen=True)
class Feature:
    """An intermediate of a model: a summary, float [B, D]; hidden states, float [B, L, D]; or attention, float [B, H, L, L]."""

    values: Tensor  # zeros where the mask is False
    mask: Tensor | None = None  # bool [B, L], the positions with something of the feature's modality; None for a summary


@dataclass(frozen=True)
class ModelOutput:
    """A model's predictions for a batch."""

    logits: Tensor  # float [N, C], or [V, N, C] for several views
    features: Mapping[str, Tensor] = field(default_factory=dict)  # those wanted, by <modality or fused>.<layer>.<kind>


@dataclass(frozen=True)
class LossTerm:
    r"""A term of a loss, with its graph: :math:`s \, \frac1B \sum_i w_i t_i`."""

    name: str  # as in the log, such as `task` or `distill/text`
    values: Tensor  # t, float [B], or [N] where the term has a value for each target, or a scalar
    share: float = 1.0  # s, what the term and its neighbours are multiplied by, such as lambda
    weight: Tensor | float = 1.0  # w, what it alone is multiplied by; a number, or float [1], or of the shape of t
    option: str = ""  # the option that sets the weight, such as `objective.features[0].weight`; empty if none does
    setting: float | None = None  # the value of that option; the mean weight if None

    @property
    def contribution(self) -> Tensor:
        """What it adds to the loss, a scalar with its graph."""
        return self.share * (self.weight * self.values).mean()


@dataclass(frozen=True)
class StepOutput:
    """What an objective computes for a batch."""

    loss: Tensor  # scalar to be minimised, with its graph
    terms: Mapping[str, Tensor]  # detached scalars by name, to be logged
    output: ModelOutput  # of the trained model on the full view
    loss_terms: tuple[LossTerm, ...] = ()  # what the loss is the sum of; empty where an objective of your own does not say


def check_logits(logits: Tensor, batch: Batch, name: str) -> Tensor:
    """The logits of several views of a batch, once they are [V, N, C], with a row for each target.

    Of others, such as [V, B, T, C], a mean over positions that are no target would be taken, or they'd broadcast where T = B.
    """
    num_targets = len(batch.targets)
    if logits.ndim == 3 and logits.shape[1] == num_targets:
        return logits
    got, wanted = list(logits.shape[1:]), f"[{num_targets}, C]"
    raise ConfigError(
        f"{name} gives logits {got} for {len(batch)} examples with {num_targets} targets, wanted {wanted}: [B, C] of a classifier, "
        f"or [N, C], a row for each target, with Batch.example_of for whose it is. A model that writes text gives the rows before "
        f"the tokens of its answers alone."
    )


def unknown_like(targets: Tensor) -> Tensor:
    """Targets of the same shape, none of which is known."""
    return torch.full_like(targets, math.nan if targets.is_floating_point() else IGNORED)


def has_label(targets: Tensor) -> Tensor:
    """Which of N targets are known, bool [N]: not those that are all -100, nor those with a score that is NaN."""
    rows = targets.flatten(1) if targets.ndim > 1 else targets[:, None]
    return ~rows.isnan().any(1) if rows.is_floating_point() else (rows != IGNORED).any(1)


def outcomes_of(task: Task, trained: Outcomes | None = None) -> Outcomes:
    """How a model's logits are read: as it was trained, if that is given, else as is usual for the task."""
    return trained or ("softmax" if task == "single_label" else "bernoulli")


def probabilities(logits: Tensor, outcomes: Outcomes) -> Tensor:
    """Logits [.., C] as probabilities: of the classes, or of yes for each class."""
    return logits.softmax(-1) if outcomes == "softmax" else logits.sigmoid()


@dataclass(frozen=True)
class DatasetInfo:
    """A description of a data set, and how a run reads its model's logits for it."""

    modalities: Mapping[str, ModalityKind]
    num_classes: int
    task: Task
    class_names: tuple[str, ...] = ()  # C names, for reports; empty if the classes have none
    trained: Outcomes | None = None  # how the run's task loss reads logits, where that is not the usual way of the task

    @property
    def outcomes(self) -> Outcomes:
        """How the logits of the run's model are read."""
        return outcomes_of(self.task, self.trained)


@dataclass(frozen=True)
class Setting:
    """What a component is checked against, before anything is loaded."""

    data: DatasetInfo
    student_modalities: tuple[str, ...]
    teacher_modalities: tuple[str, ...] | None  # None without a teacher
    kinds: Mapping[str, ModalityKind]  # of values as the processors make them: an image may be pixels or features


def tree_map(function: Callable[[Tensor], Tensor], tree: T) -> T:
    """Applies a function to every tensor of a nest of data classes, mappings and sequences."""
    result: Any = tree
    if isinstance(tree, Tensor):
        result = function(tree)
    elif is_dataclass(tree) and not isinstance(tree, type):
        result = replace(tree, **{f.name: tree_map(function, getattr(tree, f.name)) for f in fields(tree)})
    elif isinstance(tree, Mapping):
        result = {key: tree_map(function, value) for key, value in tree.items()}
    elif isinstance(tree, (list, tuple)):
        result = type(tree)(tree_map(function, value) for value in tree)
    return cast(T, result)
