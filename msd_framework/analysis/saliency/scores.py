"""What a teacher's saliency says of a split: by class, example by example, and beside what is known to decide each example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msd_framework.analysis.apart import apart
from msd_framework.analysis.saliency.config import SaliencyRun, load_saliency
from msd_framework.analysis.saliency.report import write_report
from msd_framework.analysis.saliency.scored import Scored
from msd_framework.analysis.saliency.statistics import Floats, Interval, auroc, spearman, with_interval
from msd_framework.build.data import Data, build_data
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import Maskers, build_maskers
from msd_framework.build.splits import open_splits
from msd_framework.build.teachers import Teachers, build_teachers
from msd_framework.components.registry import plain
from msd_framework.data.base import MultimodalDataset
from msd_framework.data.batches.collate import Collator
from msd_framework.engine.evaluation import Predictions, predict
from msd_framework.errors import DataError
from msd_framework.saliency.base import Saliency
from msd_framework.saliency.reading import together
from msd_framework.screen import bar
from msd_framework.structures import Batch, ModelOutput
from msd_framework.views import FULL
from msd_framework.worlds import read_oracle

DECIDED_BY = "decided_by"
"""The fact of an example that says what decides it: a modality, or all of them together."""

ROWS = 1024


def run_saliency(path: str | Path, words: Sequence[str] = ()) -> dict[str, Any]:
    """Asks the teacher of a run what each modality is to it, and writes down what comes out.

    Args:
        path: the run's YAML.
        words: options ``key=value``, of `SaliencyConfig` or of the run.

    Returns:
        what `saliency_<split>.json` holds, by the use of the split.

    Raises:
        MSDError: if the user can mend what is wrong.
    """
    asked = load_saliency(path, words)
    found: dict[str, Any] = {}
    with apart(asked.run, asked.source) as (config, world):
        uses = asked.options.uses
        facts = RunFacts(config)
        data = build_data(facts, world, open_splits(facts, world, list(dict.fromkeys(["train", *uses]))))
        maskers = build_maskers(data)
        maskers.fit(data.all_training_examples())
        teaching = Teaching(data, maskers, build_teachers(data, maskers))
        saliencies = {name: s.to(world.device) for name, s in asked.saliencies(training_prior(data)).items()}
        for use in uses:
            scored = score(teaching, use, saliencies)
            found[use] = summarise(asked, scored)
            if world.is_first:
                write_report(asked, scored, found[use])
    return found


@dataclass(frozen=True)
class Teaching:
    """The parts of a run that its teacher is asked with.

    Args:
        data: what the run reads.
        maskers: how views hide a modality, once they have learned what they ask for.
        teachers: who teaches.
    """

    data: Data
    maskers: Maskers
    teachers: Teachers


def training_prior(data: Data) -> list[float]:
    """The share of each class among the targets of the training split, with one more example of each and, where every label is a
    question of its own, one without it, so that nothing is impossible. No input is read.
    """
    examples, info, read = data.splits["train"], data.info, Collator({}, data.info).targets
    counts, total = torch.ones(info.num_classes, dtype=torch.float64), 2
    for first in range(0, len(examples), ROWS):
        y = read([examples[i] for i in range(first, min(first + ROWS, len(examples)))])
        known = y[y >= 0] if y.ndim == 1 else y[~y.isnan().any(1)]
        counts += known.bincount(minlength=info.num_classes) if y.ndim == 1 else known.double().sum(0)
        total += len(known)
    prior: list[float] = (counts / (counts.sum() if info.outcomes == "softmax" else total)).tolist()
    return prior


def score(teaching: Teaching, use: str, saliencies: Mapping[str, Saliency]) -> Scored:
    """Every score of every labelled example of a split that lacks no modality, from one question to the teacher.

    Raises:
        DataError: if no example has a label.
    """
    data, teacher = teaching.data, teaching.teachers.of(use)
    assert teacher is not None
    teaching.maskers.eval()
    modalities = teacher.modalities
    views = list(dict.fromkeys([FULL, *(v for s in saliencies.values() for v in s.views(modalities))]))

    def ask(batch: Batch, labels: Sequence[str]) -> Tensor:
        outputs = {view: ModelOutput(logits.float()) for view, logits in zip(views, teacher.predict(batch, views).logits)}
        targets = batch.targets.nan_to_num() if batch.targets.is_floating_point() else batch.targets
        scores = []
        for label in labels:
            looks = saliencies[label].asks_model
            looked = saliencies[label].look(teaching.teachers.trained[0].live().model, batch.teacher_side.inputs) if looks else {}
            seen = outputs | {FULL: ModelOutput(outputs[FULL].logits, looked)}
            scores.append(saliencies[label](seen, targets, modalities))
        return torch.stack(scores)  # [K, B, M]

    reader = data.reader(data.splits[use])
    if any(saliency.asks_model for saliency in saliencies.values()):
        reader = reader.with_teacher(data.teacher_overrides)  # which is looked at itself, though its answers may be cached
    batches = data.in_order(reader)
    with bar(f"asking the teacher ({use})", len(batches), data.world.is_first) as advance:
        found = predict(ask, _told(batches, advance), list(saliencies), data.world).together()
    lacking = {place for places in batches.reader.lacking.values() for place in places}
    lacking = {place for share in data.world.gather(lacking) for place in share}
    whole = torch.tensor([place not in lacking for place in found.places.tolist()])  # of the others nothing is to be compared
    found = found if whole.all() else found.at(whole)
    return _labelled(found, use, data.splits[use], saliencies, modalities)


def _told(batches: Any, advance: Any) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        advance(1)


def _labelled(
    found: Predictions, use: str, dataset: MultimodalDataset, saliencies: Mapping[str, Saliency], modalities: tuple[str, ...]
) -> Scored:
    known = found.labelled
    if not known.any():
        raise DataError(f"no example of the split for {use} has a label, as in a blind test; take another split.")
    scores = {label: values[known].double().numpy() for label, values in found.logits.items()}
    readings = {label: s.reading for label, s in saliencies.items()}
    return Scored(use, dataset, found.places[known].numpy(), found.targets[known].numpy(), scores, readings, modalities)


def summarise(asked: SaliencyRun, scored: Scored) -> dict[str, Any]:
    """What a split's scores say, as JSON has it: by class, the examples at the ends, and beside the truth where it is known."""
    teacher = asked.run.teacher
    assert teacher is not None
    classes = scored.classes(asked.facts.info.class_names, asked.facts.info.num_classes)
    truth, oracle = known_truth(scored), oracle_saliency(asked, scored)
    scores = {}
    for label, values in scored.scores.items():
        told: dict[str, Any] = {
            "reading": scored.readings[label],
            "classes": {name: table(values[rows], scored.modalities) for name, rows in classes.items()},
        }
        if truth:
            told["truth"] = compare(scored.decided(label), truth, asked.options.resamples)
        if oracle is not None:
            told["oracle"] = {
                m: asdict(with_interval(spearman, values[:, i], oracle[:, i], asked.options.resamples))
                for i, m in enumerate(scored.modalities)
            }
        scores[label] = told
    first = next(iter(scored.scores))
    # the run itself reads what stands for pixels as an image file; a text may hold any path
    processors = RunFacts(asked.run).teacher_processors
    return {
        "teacher": teacher.checkpoint,
        "split": getattr(asked.run.data, scored.use),
        "examples": len(scored.places),
        "modalities": list(scored.modalities),
        "pictures": [m for m in scored.modalities if processors[m].cls.kind == "pixels"],
        "scores": scores,
        "picked_by": first,
        "picked": {name: pick(scored, values, asked.options.examples) for name, values in scored.decided(first).items()},
    }


def table(scores: Floats, modalities: Sequence[str]) -> dict[str, Any]:
    """Of N examples, how each modality's scores are spread, and how often it is the most salient one."""
    if not len(scores):
        return {m: {"n": 0} for m in modalities}
    winner = scores.argmax(1)
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75], axis=0)
    return {
        m: {
            "n": len(scores),
            "mean": float(scores[:, i].mean()),
            "sd": float(scores[:, i].std(ddof=1)) if len(scores) > 1 else float("nan"),
            "q25": float(low[i]),
            "median": float(middle[i]),
            "q75": float(high[i]),
            "most_salient": float((winner == i).mean()),
        }
        for i, m in enumerate(modalities)
    }


def pick(scored: Scored, values: Floats, count: int) -> list[dict[str, Any]]:
    """The examples with the largest values, the largest first."""
    rows = np.argsort(-values, kind="stable")[:count]
    return [told(scored, int(row)) for row in rows]


def told(scored: Scored, row: int) -> dict[str, Any]:
    """An example as JSON has it."""
    example = scored.example(row)
    target = scored.targets[row].tolist()
    return {
        "id": example.id,
        "label": target,
        "scores": {label: dict(zip(scored.modalities, s[row].tolist())) for label, s in scored.scores.items()},
        "inputs": {m: str(value) for m, value in example.inputs.items() if isinstance(value, (str, Path))},
        "facts": dict(example.facts),
    }


def known_truth(scored: Scored) -> dict[str, Floats]:
    """Which examples are known to be decided by each modality alone and by all together, 1 or 0 [N]; empty if none is."""
    names = (*scored.modalities, together(scored.modalities))
    facts = [scored.example(row).facts.get(DECIDED_BY) for row in range(len(scored.places))]
    if not all(fact in names for fact in facts):
        return {}
    return {name: np.array([float(fact == name) for fact in facts]) for name in names if name in facts}


def oracle_saliency(asked: SaliencyRun, scored: Scored) -> Floats | None:
    """The exact saliency of each example of a made world that has one, float [N, M]."""
    root = plain(asked.run.data.dataset).get("root")
    split = getattr(asked.run.data, scored.use)
    if not isinstance(root, str) or not (Path(root) / f"oracle_{split}.jsonl").is_file():
        return None
    try:
        known = read_oracle(root, split)
    except DataError:  # of a layout without exact posteriors
        return None
    rows = [known.get(scored.example(row).id) for row in range(len(scored.places))]
    if any(row is None for row in rows):
        return None
    return np.array([[row.saliency[m] for m in scored.modalities] for row in rows if row is not None])


def compare(found: Mapping[str, Floats], truth: Mapping[str, Floats], num_resamples: int) -> dict[str, Any]:
    """How well each kind of example is told from all others, as an area under the ROC curve, and their mean."""
    areas = {name: with_interval(auroc, found[name], is_one, num_resamples) for name, is_one in truth.items()}
    mean = float(np.mean([a.value for a in areas.values()]))
    return {name: asdict(area) for name, area in areas.items()} | {"mean": asdict(Interval(mean, float("nan"), float("nan")))}
