"""Whether a teacher is that of its checkpoint: its validation score and predictions beside the recorded ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.analysis.doctor.finding import Finding, listed
from msd_framework.analysis.doctor.recorded import Recorded, read_predictions, read_recorded
from msd_framework.build.data import Data
from msd_framework.build.extreme_rows import evenly
from msd_framework.build.models import Maskers
from msd_framework.build.teachers import TrainedTeacher
from msd_framework.components.registry import plain
from msd_framework.data.base import MultimodalDataset
from msd_framework.data.batches.loader import EvaluationBatches
from msd_framework.data.batches.subset import Subset
from msd_framework.engine.evaluation import PredictedBatches
from msd_framework.engine.precision import FP32
from msd_framework.engine.prediction_table import MOST_COLUMNS
from msd_framework.errors import ConfigError
from msd_framework.metrics.base import Metric
from msd_framework.registry import METRICS
from msd_framework.structures import Batch, Outcomes, probabilities
from msd_framework.views import FULL, recombines

ROUNDING = 0.002  # how far a score of all rows may lie from the recorded one beside one row that is answered otherwise
OFF = {"fp32": 0.002, "medium": 0.005}  # how far a probability may lie from the one that was recorded in this precision
COARSE = 0.05  # the same for all other precisions
FEWEST = 20  # rows below which classes are not looked for in another order

COLUMNS = ("model", "rows", "metric", "now", "recorded", "allowed", "answers compared", "that differ")


@dataclass(frozen=True)
class ScoreCheck:
    """A teacher's score on the validation split, beside what its checkpoint recorded."""

    who: str
    checkpoint: str
    split: str | None = None  # its name; None where the run has none
    rows: int = 0  # how many of its examples were looked at, evenly spaced
    of: int = 0  # how many it has
    scores: Mapping[str, float] = field(default_factory=dict)  # by metric
    recorded: Mapping[str, float] = field(default_factory=dict)  # of the same metrics, on all rows
    allowed: float = 0.0  # how far both scores may lie apart, given how many rows were looked at
    compared: int = 0  # rows whose answer was compared with the recorded one
    off: int = 0  # those of them whose probabilities differ
    furthest: float = 0.0  # by how much at most
    bound: float = 0.0  # how far they may differ
    order: tuple[int, ...] = ()  # what class each output means, where another order fits far better
    right: Mapping[str, float] = field(default_factory=dict)  # the share of the labels that it gets right, by view
    constant: float = 0.0  # the same of the one answer that is right most often
    blind: tuple[str, ...] = ()  # views on which its answers have no more to do with the labels than chance has
    note: str = ""  # why something was not compared


def measure(who: str, data: Data, one: TrainedTeacher, maskers: Maskers, usual: Mapping[str, Metric], num_rows: int) -> ScoreCheck:
    """Scores a teacher on rows of the validation split, by its own run's metrics or else the usual ones.

    Its views are made as any run measures them; those of two rows have no label to be scored by.
    """
    name = data.config.data.validation
    if name is None:
        return ScoreCheck(who, one.folder, note="data.validation names no split, so the teacher was not scored")
    recorded = read_recorded(one.folder, data.config)
    whole = data.splits["validation"]
    places = evenly(len(whole), num_rows)
    views = list(dict.fromkeys([FULL, *(view for view in one.views["train"] if not recombines(view))]))
    teacher, batches = one.with_views_of(maskers, "validation"), batches_of(data, Subset(whole, places))

    def ask(batch: Batch, views: Sequence[str]) -> Tensor:
        return teacher.predict(batch.for_teacher(one.number), views).logits

    predictions = PredictedBatches(ask, batches, views, data.world, FP32).together()
    check = ScoreCheck(who, one.folder, name, len(predictions.places), len(whole))
    why_not = recorded.why_not or _other_rows(recorded, data, len(whole))
    if not why_not and recorded.predictions is not None:
        ids = [whole[int(places[i])].id for i in predictions.places.tolist()]
        p = probabilities(predictions.logits[FULL].double(), one.outcomes)
        check = _compare_answers(check, p, read_predictions(recorded.predictions, ids, data.info), recorded.precision)
    labelled = predictions.labelled
    if not labelled.any():
        return replace(check, note="no row of the validation split has a label, so the teacher was not scored")
    logits, targets = predictions.logits[FULL][labelled], predictions.targets[labelled]
    scores, shared, right, blind = dict[str, float](), dict[str, float](), dict[str, float](), []
    for metric, function in _metrics(data, {} if why_not else recorded.metrics, usual).items():
        score = float(function(logits, targets))
        if math.isfinite(score):
            scores[metric] = score
            if not why_not and metric in recorded.scores:
                shared[metric] = recorded.scores[metric]
    if not shared and not why_not:
        why_not = "its checkpoint has recorded no score of these metrics"
    for view, of_view in predictions.logits.items():
        right[view], constant, is_chance = beside_chance(of_view[labelled], targets, one.outcomes)
        if is_chance:
            blind.append(view)
    return replace(
        check,
        scores=scores,
        recorded=shared,
        allowed=allowance(int(labelled.sum()), len(whole)),
        order=tuple(other_order(logits, targets, one.outcomes)),
        right=right,
        constant=constant,
        blind=tuple(blind),
        note=why_not,
    )


def judge(score: ScoreCheck) -> Iterator[Finding]:
    where = f"{score.who} ({score.checkpoint})"
    if score.off:
        text = f"{score.off} of {score.compared} answers on {score.split} are not those that its run wrote down"
        text += f", by up to {score.furthest:.3f} of a probability"
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
        text = f"its outputs fit the labels far better in another order: {listed(pairs)}"
        do = "Put the data set's classes in the order it was trained with."
        yield Finding(where, text, "each output to mean its own class", do)
    for view, right in score.right.items():
        if right > score.constant or score.order:
            continue
        text = f"right about {right:.4f} of the labels, and the commonest answer alone about {score.constant:.4f}"
        if view != FULL:
            yield Finding(where, f"on the view {view} it is {text}", "", "It has little to teach there.", False)
        else:
            do = "Train it first, longer or with another optimizer.lr; a student learns next to nothing from it."
            yield Finding(where, f"it is {text}", "more than that", do, view in score.blind)
    if score.note:
        yield Finding(where, f"its score was not compared: {score.note}", "", "", False)


def rows(score: ScoreCheck) -> Iterator[list[str]]:
    """A teacher's scores in the table, a row a metric."""
    compared = [f"{score.compared:,}", f"{score.off:,}"] if score.compared else ["", ""]
    for name, now in score.scores.items():
        recorded = [f"{score.recorded[name]:.4f}", f"{score.allowed:.4f}"] if name in score.recorded else ["", ""]
        yield [score.who, f"{score.rows:,} of {score.of:,}", name, f"{now:.4f}", *recorded, *compared]


def _targets(targets: Tensor, num_classes: int) -> Tensor:
    """Labels int64 [N], or targets float [N, C], as float64 [N, C]."""
    return F.one_hot(targets, num_classes).double() if targets.ndim == 1 else targets.double()


def beside_chance(logits: Tensor, targets: Tensor, outcomes: Outcomes) -> tuple[float, float, bool]:
    r"""How often answers are right, how often the best constant answer is, and whether they tell nothing of the labels.

    They do tell where the mean of :math:`\sum_c (p_c - \bar p_c)(y_c - \bar y_c)` lies two standard errors above 0. Logits are
    float [N, C], targets int64 [N] or float [N, C], all labelled.

    >>> y = torch.tensor([0, 0, 0, 1])
    >>> beside_chance(torch.tensor([[1.0, 0.0]]).expand(4, 2), y, "softmax")
    (0.75, 0.75, True)
    """
    p = probabilities(logits.double(), outcomes)
    y = _targets(targets, p.shape[1])
    if outcomes == "softmax" or targets.ndim == 1 or bool(((y > 0) & (y < 1)).any()):
        right, constant = y.gather(1, p.argmax(1, keepdim=True)).mean(), y.mean(0).max()
    else:
        right, constant = ((p > 0.5) == (y > 0.5)).double().mean(), torch.maximum(y.mean(0), 1 - y.mean(0)).mean()
    together = ((p - p.mean(0)) * (y - y.mean(0))).sum(1)  # [N]
    error = float(together.std()) / math.sqrt(len(together)) if len(together) > 1 else math.inf
    return float(right), float(constant), float(together.mean()) <= 2 * error + 1e-9


def allowance(rows: int, of: int) -> float:
    r"""How far a score between 0 and 1 of some rows may lie from that of all of them.

    .. math:: \frac1n + \epsilon + \frac{3}{2\sqrt n} \sqrt{1 - n / N}

    one row that rounding may answer otherwise, and three standard errors of a share; none where all rows were looked at.
    """
    return 1 / rows + ROUNDING + 1.5 / math.sqrt(rows) * math.sqrt(max(0.0, 1 - rows / of))


def batches_of(data: Data, rows: MultimodalDataset) -> EvaluationBatches:
    return data.in_order(data.reader(rows), shared=False)


def other_order(logits: Tensor, targets: Tensor, outcomes: Outcomes) -> list[int]:
    """The class that each output seems to mean, where that is not its own and fits far better; else nothing.

    Outputs are matched with classes on one half of the rows, so that the covariances of probabilities and targets add up
    to the most. The match counts if on the other half it agrees better with the targets than the outputs' own order, by
    three standard errors and by a fifth. Of more than `MOST_COLUMNS` classes nothing is returned. Logits are float [N, C],
    targets int64 [N] or float [N, C], all labelled.
    """
    from scipy.optimize import linear_sum_assignment

    if len(logits) < FEWEST or logits.shape[1] > MOST_COLUMNS:
        return []
    p = probabilities(logits.double(), outcomes)
    y = _targets(targets, p.shape[1])
    p, y = p - p.mean(0), y - y.mean(0)
    means: list[int] = linear_sum_assignment(p[::2].T @ y[::2], maximize=True)[1].tolist()
    p, y = p[1::2], y[1::2]
    own, other = (p * y).sum(1), (p * y[:, means]).sum(1)  # [N / 2]
    gain, error = other - own, 3 * (other - own).std() / math.sqrt(len(own))
    is_better = float(gain.mean() - error) > 1e-6 and float(other.mean()) > 1.2 * float(own.mean())
    return means if is_better else []


def _other_rows(recorded: Recorded, data: Data, length: int) -> str:
    """Why what was recorded is not of the rows that are looked at here; empty if it is."""
    config = data.config.data
    here, there = (plain(config.dataset)["type"], config.validation), (recorded.dataset, recorded.split)
    if here != there:
        return f"its run was validated on {' '.join(map(str, there))}, and this one is on {' '.join(map(str, here))}"
    if recorded.rows not in (None, length):
        return f"its run was validated on {recorded.rows:,} rows, and this one is on {length:,}"
    return ""


def _compare_answers(check: ScoreCheck, p: Tensor, recorded: Sequence[dict[int, float]], precision: str) -> ScoreCheck:
    """Probabilities [N, C] beside N recorded ones by class, which were computed in a precision."""
    apart = []
    for i, row in enumerate(recorded):
        if row:
            apart.append(max(abs(float(p[i, c]) - value) for c, value in row.items()))
    bound = OFF.get(precision, COARSE)
    off = sum(x > bound for x in apart)
    return replace(check, compared=len(apart), off=off, furthest=max(apart, default=0.0), bound=bound)


def _metrics(data: Data, specs: Mapping[str, Any], usual: Mapping[str, Metric]) -> Mapping[str, Metric]:
    """Those of the teacher's run; those of this run where they are not known."""
    try:
        return {n: METRICS.build(spec, "evaluation.metrics", data.known) for n, spec in specs.items()} or usual
    except ConfigError:
        return usual
