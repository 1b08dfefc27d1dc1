"""How alike the layers of a student and its teacher are, and which of both to pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import matrix_norm as norm

from msd_framework.build.data import Data
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.loader import EvaluationBatches
from msd_framework.errors import ConfigError, Problem, TrainingError, did_you_mean
from msd_framework.losses.relations import summary
from msd_framework.models.base import MultimodalModel
from msd_framework.models.features import listing, numbered, parsed


@dataclass(frozen=True)
class Alike:
    """How alike layers are, by name."""

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    cka: Tensor  # float [n, m]

    @property
    def layers(self) -> dict[int, int]:
        """The suggestion, as `layers` of a feature term takes it."""
        return suggested_layers(self.cka)


@torch.no_grad()
def alike_layers(
    data: Data,
    student: MultimodalModel,
    teacher: MultimodalModel,
    student_layers: str,
    teacher_layers: str,
    use: str,
    num_examples: int,
) -> Alike:
    """How alike the layers of a student and its (first) teacher are on the full view of a split's first examples.

    Layers are named such as `text.*.hidden`; each is read as its mean over an example's positions.
    """
    mine = _layers(student, "student_layers", student_layers)
    theirs = _layers(teacher, "teacher_layers", teacher_layers)
    reader = (data.training_reader if use == "train" else data.evaluation[use].reader).with_teacher(data.teacher_overrides)
    size = min(num_examples, data.config.evaluation.batch_size)
    collator = Collator(data.processors, data.info, teacher_overrides=reader.teacher_overrides)
    student.eval()
    means: dict[tuple[str, str], list[Tensor]] = {}
    count = 0
    for batch in EvaluationBatches(reader, collator, size):
        on_device = batch.to(data.world.device)
        sides = {"student": (student, on_device.inputs, mine), "teacher": (teacher, on_device.teacher_side.inputs, theirs)}
        for side, (model, inputs, names) in sides.items():
            (features,) = model.forward_features([inputs], [names])[1]
            for name in names:
                mean = summary(features[name]).double().cpu()
                if not mean.isfinite().all():
                    raise TrainingError(f"{name} of the {side} is not finite on data.{use}. Take another checkpoint.")
                means.setdefault((side, name), []).append(mean)
        count += len(batch)
        if count >= num_examples:
            break
    states = [torch.cat(of_name)[:num_examples] for of_name in means.values()]  # the student's, then the teacher's
    return Alike(tuple(mine), tuple(theirs), cka_table(states[: len(mine)], states[len(mine) :]))


def usual_layers(model: MultimodalModel) -> str:
    """The name of a model's layers that all modalities share; if none, of those of the first modality that has some."""
    states = [part for part, layer, what in map(parsed, model.feature_kinds) if layer is not None and what == "hidden"]
    part = "fused" if "fused" in states or not states else states[0]
    return f"{part}.*.hidden"


def _layers(model: MultimodalModel, at: str, pattern: str) -> list[str]:
    """The names of the layers of a pattern, that are states or summaries."""
    kinds: Mapping[str, str] = model.feature_kinds
    names = [name for name in numbered(pattern, kinds).values() if kinds[name] in ("hidden", "pooled")]
    if not names:
        known = dict.fromkeys(f"{part}.*.{what}" for part, layer, what in map(parsed, kinds) if layer is not None)
        text = f"there are no layers with states of the name {pattern!r}.{did_you_mean(pattern, known)}"
        raise ConfigError(Problem(at, f"{text} The model offers {listing(kinds)}."))
    return names


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Centred kernel alignment with a linear kernel: 1 if one is the other rotated and scaled, 0 if nothing is common.

    .. math:: \mathrm{CKA}(X, Y) = \frac{\lVert Y^\top X \rVert_F^2}{\lVert X^\top X \rVert_F \, \lVert Y^\top Y \rVert_F}

    with each feature of x [N, D] and of y [N, E] centred; 0 where one does not vary, too large for fewer examples than features.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019 (arXiv:1905.00414), equation 7.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    together, product = norm(y.T @ x), norm(x.T @ x) * norm(y.T @ y)
    return torch.where(product > 0, together.square() / product.clamp(min=torch.finfo(x.dtype).tiny), torch.zeros_like(product))


def cka_table(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The CKA of each of the student's n layers, float [N, D], with each of the teacher's m, float [N, E]: float [n, m]."""
    rows = []
    for x in student:
        rows.append(torch.stack([linear_cka(x, y) for y in teacher]))
    return torch.stack(rows)


def suggested_layers(table: Tensor) -> dict[int, int]:
    """The teacher's layer for each of the student's, counted from 1, that are most alike altogether.

    The order stays, and none is paired twice where the teacher has as many or more.

    >>> suggested_layers(torch.tensor([[0.9, 0.8, 0.1], [0.95, 0.7, 0.2]]))
    {1: 1, 2: 2}
    """
    n, m = table.shape
    apart = int(n <= m)  # 0 lets several of the student's layers share one of a shallower teacher's
    # best[i, j]: how alike the student's first i layers can be, if layer i is paired with one of the teacher's first j
    best = torch.full((n + 1, m + 1), -torch.inf, dtype=torch.float64)
    best[0] = 0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            best[i, j] = torch.maximum(best[i, j - 1], best[i - 1, j - apart] + table[i - 1, j - 1])
    # back from the last layer: the lowest j that is as good as m is the one that layer i was paired with
    layers, j = {}, m
    for i in range(n, 0, -1):
        while best[i, j - 1] == best[i, j]:
            j -= 1
        layers[i], j = j, j - apart
    return dict(sorted(layers.items()))
