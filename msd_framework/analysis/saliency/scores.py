"""The saliency of a split's examples to a teacher: by class, by example, and beside what is known to decide each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msd_framework.analysis.apart import apart
from msd_framework.analysis.saliency.config import SaliencyRun, load_saliency, views_of
from msd_framework.analysis.saliency.report import write_report
from msd_framework.analysis.saliency.scored import Scored
from msd_framework.analysis.saliency.statistics import Floats, auroc, spearman, with_interval
from msd_framework.build.data import Data, build_data
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import build_maskers
from msd_framework.build.splits import open_splits
from msd_framework.build.teachers import Teachers, build_teachers
from msd_framework.components.registry import plain
from msd_framework.data.batches.collate import Collator
from msd_framework.engine.evaluation import PredictedBatches
from msd_framework.errors import DataError
from msd_framework.saliency.base import SALIENCIES, Saliency
from msd_framework.saliency.reading import together
from msd_framework.screen import bar
from msd_framework.structures import Batch, ModelOutput
from msd_framework.views import FULL
from msd_framework.worlds import find_oracle

DECIDED_BY = "decided_by"  # the fact of an example that says what decides it: a modality, or all of them together
ROWS = 1024


def run_saliency(path: str | Path, words: Sequence[str] = ()) -> dict[str, Any]:
    """Scores the modalities of examples by a run's teacher, writes a report, and returns what its JSON holds, by split."""
    job = load_saliency(path, words)
    summaries: dict[str, Any] = {}
    with apart(job.run, job.source) as (config, world):
        uses = job.options.uses
        facts = RunFacts(config)
        data = build_data(facts, world, open_splits(facts, world, list(dict.fromkeys(["train", *uses]))))
        maskers = build_maskers(data)
        maskers.fit(data.all_training_examples())
        teachers = build_teachers(data, maskers)
        maskers.eval()
        known, saliencies = job.facts.assumed | {"prior": training_prior(data)}, {}
        for name, spec in job.specs.items():
            saliencies[name] = SALIENCIES.build(spec, f"scores.{name}", known).to(world.device)
        for use in uses:
            scored = score(data, teachers, use, saliencies)
            summaries[use] = summarise(job, scored)
            if world.is_first:
                write_report(job, scored, summaries[use])
    return summaries


def training_prior(data: Data) -> list[float]:
    """The share of each class among the training targets, with one more example of each, so that none is impossible; where
    every label is a question of its own, with one without it, too. No input is read.
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


def score(data: Data, teachers: Teachers, use: str, saliencies: Mapping[str, Saliency]) -> Scored:
    """Every score of every labelled example that lacks no modality, in one pass of the teacher in eval mode."""
    teacher = teachers.of(use)
    assert teacher is not None
    modalities = teacher.modalities
    views = views_of(saliencies.values(), modalities)

    def scores_of(batch: Batch, labels: Sequence[str]) -> Tensor:
        outputs = {view: ModelOutput(logits.float()) for view, logits in zip(views, teacher.predict(batch, views).logits)}
        full = outputs[FULL].logits
        targets = batch.targets.nan_to_num() if batch.targets.is_floating_point() else batch.targets
        scores = []
        for label in labels:
            features = {}
            if saliencies[label].needs_model:
                features = saliencies[label].look(teachers.trained[0].live().model, batch.teacher_side.inputs)
            scores.append(saliencies[label](outputs | {FULL: ModelOutput(full, features)}, targets, modalities))
        return torch.stack(scores)  # [K, B, M]

    def counted() -> Iterator[Batch]:
        for batch in batches:
            yield batch
            advance(1)

    reader = data.reader(data.splits[use])
    if any(saliency.needs_model for saliency in saliencies.values()):
        reader = reader.with_teacher(data.teacher_overrides)  # its weights read the inputs, though its logits may be cached
    batches = data.in_order(reader)
    with bar(f"asking the teacher ({use})", len(batches), data.world.is_first) as advance:
        predictions = PredictedBatches(scores_of, counted(), list(saliencies), data.world).together()
    # an example that lacks a modality has nothing to compare
    mine = set(chain.from_iterable(batches.reader.lacking.values()))
    lacking = set(chain.from_iterable(data.world.gather(mine)))
    whole = ~torch.isin(predictions.places, torch.tensor(sorted(lacking), dtype=torch.int64))
    known = predictions.at(whole & predictions.labelled)
    if not len(known.places):
        raise DataError(f"no example of the split for {use} has a label, as in a blind test; take another split.")
    scores = {label: values.double().numpy() for label, values in known.logits.items()}
    readings = {label: saliency.reading for label, saliency in saliencies.items()}
    return Scored(use, data.splits[use], known.places.numpy(), known.targets.numpy(), scores, readings, modalities)


def summarise(job: SaliencyRun, scored: Scored) -> dict[str, Any]:
    """A split's scores as JSON has them: by class, the examples at the ends, and beside the truth where it is known."""
    info, num_resamples = job.facts.info, job.options.resamples
    classes = scored.classes(info.class_names, info.num_classes)
    truth, oracle = known_truth(scored), oracle_saliency(job, scored)
    scores = {}
    for label, values in scored.scores.items():
        by_class = {name: table(values[rows], scored.modalities) for name, rows in classes.items()}
        scores[label] = {"reading": scored.readings[label], "classes": by_class}
        if truth:
            scores[label]["truth"] = compare(scored.decided(label), truth, num_resamples)
        if oracle is not None:
            rho = {}
            for i, modality in enumerate(scored.modalities):
                rho[modality] = with_interval(spearman, values[:, i], oracle[:, i], num_resamples)
            scores[label]["oracle"] = rho
    first = next(iter(scored.scores))
    # only what the run reads as pixels is shown as a picture: a text may hold any path
    settings = RunFacts(job.run).teacher_settings
    return {
        "teacher": ", ".join(job.run.teacher_folders),
        "split": getattr(job.run.data, scored.use),
        "examples": len(scored.places),
        "modalities": list(scored.modalities),
        "pictures": [m for m in scored.modalities if any(one.kinds.get(m) == "pixels" for one in settings)],
        "scores": scores,
        "picked_by": first,
        "picked": {name: pick(scored, values, job.options.examples) for name, values in scored.decided(first).items()},
    }


def table(scores: Floats, modalities: Sequence[str]) -> dict[str, Any]:
    """Of N examples, how each modality's scores are spread, and how often it is the most salient one."""
    if not len(scores):
        return {m: {"n": 0} for m in modalities}
    winner = scores.argmax(1)
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75], axis=0)
    rows = {}
    for i, modality in enumerate(modalities):
        rows[modality] = {
            "n": len(scores),
            "mean": float(scores[:, i].mean()),
            "sd": float(scores[:, i].std(ddof=1)) if len(scores) > 1 else float("nan"),
            "q25": float(low[i]),
            "median": float(middle[i]),
            "q75": float(high[i]),
            "most_salient": float((winner == i).mean()),
        }
    return rows


def pick(scored: Scored, values: Floats, count: int) -> list[dict[str, Any]]:
    """The examples with the largest values as JSON has them, the largest first."""
    picked = []
    for row in np.argsort(-values, kind="stable")[:count].tolist():
        example = scored.example(row)
        scores = {label: dict(zip(scored.modalities, s[row].tolist())) for label, s in scored.scores.items()}
        inputs = {m: str(value) for m, value in example.inputs.items() if isinstance(value, (str, Path))}
        label, facts = scored.targets[row].tolist(), dict(example.facts)
        picked.append({"id": example.id, "label": label, "scores": scores, "inputs": inputs, "facts": facts})
    return picked


def known_truth(scored: Scored) -> dict[str, Floats]:
    """Which examples are known to be decided by each modality alone and by all together, 1 or 0 [N]."""
    names = (*scored.modalities, together(scored.modalities))
    facts = [scored.example(row).facts.get(DECIDED_BY) for row in range(len(scored.places))]
    if not all(fact in names for fact in facts):
        return {}
    decided_by = np.array(facts)
    return {name: (decided_by == name).astype(float) for name in names if name in facts}


def oracle_saliency(job: SaliencyRun, scored: Scored) -> Floats | None:
    """The exact saliency of each example of a made world that has one, float [N, M]."""
    oracle = find_oracle(plain(job.run.data.dataset).get("root"), getattr(job.run.data, scored.use))
    if not oracle:
        return None
    rows = []
    for row in range(len(scored.places)):
        known = oracle.get(scored.example(row).id)
        if known is None:
            return None
        rows.append([known.saliency[m] for m in scored.modalities])
    return np.array(rows)


def compare(decided: Mapping[str, Floats], truth: Mapping[str, Floats], num_resamples: int) -> dict[str, Any]:
    """How well each kind of example is told from all others, as an area under the ROC curve, and their mean."""
    areas = {name: with_interval(auroc, decided[name], is_one, num_resamples) for name, is_one in truth.items()}
    mean = float(np.mean([area["value"] for area in areas.values()]))
    return areas | {"mean": {"value": mean, "low": float("nan"), "high": float("nan")}}
