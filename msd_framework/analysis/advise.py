"""Which rows of the decision table apply to a run, from its configuration and its teacher's; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import yaml

from msd_framework.analysis.decision_table import ROWS, Row, Situation
from msd_framework.analysis.doctor.recorded import read_recorded
from msd_framework.build.facts import RunFacts
from msd_framework.build.splits import open_split
from msd_framework.build.training import updates_of
from msd_framework.checks.components import component_problems
from msd_framework.checks.resume import begun_with
from msd_framework.components.options import options_of
from msd_framework.components.registry import plain
from msd_framework.components.specs import Spec
from msd_framework.config.cards import processors_folder
from msd_framework.config.schema import RunConfig
from msd_framework.errors import CheckpointError, ConfigError, Problem
from msd_framework.registry import OBJECTIVES


def situation(facts: RunFacts, missing: bool = False) -> Situation:
    """What the table asks about a run; opens its training split, and counts labels where some may lack."""
    config = facts.config
    if facts.teacher is None:
        text = "must be given, for advice is on what a student learns from it."
        raise ConfigError(Problem("teacher", f"{text} Add teacher.checkpoint=FOLDER objective.type=distillation."))
    split = open_split(facts, "train")
    labelled = len(split)
    if config.data.unlabelled or config.data.labelled_share < 1:
        labelled = sum(split[i].target is not None for i in range(len(split)))
    updates = updates_of(config.training, len(split))
    found = Situation(
        rows=len(split),
        labelled=labelled,
        updates=updates,
        student=facts.student.modalities,
        teacher=facts.teacher.modalities,
        passes=updates * config.training.batch_size / len(split),
        views=tuple(view.name for view in getattr(facts.stand_in_objective, "views", ())),
        weighting=plain(facts.objective.options.get("weighting") or "uniform")["type"],
        chance={"auroc": 0.5, "accuracy": 1 / facts.info.num_classes} if facts.info.task == "single_label" else {},
        missing=missing,
    )
    return replace(found, **_of_teacher(facts, found)) if len(config.teacher_folders) == 1 else found


def _of_teacher(facts: RunFacts, student: Situation) -> dict[str, Any]:
    """What the run of the teacher says of it; nothing where its folder, or its config.yaml, is not there."""
    config, (path,) = facts.config, facts.config.teacher_folders
    try:
        begun = begun_with(processors_folder(path).parent, config)
        objective = Spec("objective", OBJECTIVES, begun.objective)
        known: dict[str, Any] = {}
        if not component_problems([objective]) and "modality_dropout" in options_of(objective.cls):
            known["teacher_lost_modalities"] = objective.options.get("modality_dropout", 0) > 0
        data, theirs = config.data, begun.data
        if (plain(theirs.dataset), theirs.train) == (plain(data.dataset), data.train):
            whole = student.rows if data.max_train_examples is None else len(open_split(facts, "train", whole=True))
            known["teacher_rows"] = min(whole, theirs.max_train_examples or whole)
    except (CheckpointError, ConfigError):
        return {}
    scores = read_recorded(path, config).scores if len(student.teacher) > 1 else {}
    return {**known, "alone": {key: score for key, score in scores.items() if key.partition("/")[0] in student.shared}}


def advice(run: Situation) -> list[Row]:
    """The rows that apply."""
    return [row for row in ROWS if row.applies(run)]


def has_lines(row: Row, run: Situation, config: RunConfig) -> bool:
    """Whether a configuration says already what a row's lines say."""
    return _within(yaml.safe_load(row.yaml(run)), asdict(config))


def _within(wanted: Any, given: Any) -> bool:
    if not isinstance(wanted, Mapping) or "teacher" in wanted:  # {teacher: ..., student: ...} is a view
        return bool(wanted == given) or given == {"type": wanted}
    return isinstance(given, Mapping) and all(_within(value, given.get(key)) for key, value in wanted.items())


def described(run: Situation) -> list[str]:
    """What is known of a run, a line each."""
    rows = f"{run.rows:,}, {run.labelled:,} of them labelled"
    teacher, lost = f"{', '.join(run.teacher)}", run.teacher_lost_modalities
    if lost is not None:
        teacher += "; lost modalities while it learned" if lost else "; never lost a modality while it learned"
    if run.teacher_rows is not None:
        teacher += f"; learned from {run.teacher_rows:,} rows of the same split"
    alone = ", ".join(f"{key} {score:.3f}" for key, score in run.alone.items())
    return [
        f"training rows   {rows}",
        f"budget          {run.updates:,} updates, {run.passes:.1f} passes over the rows",
        f"student         {', '.join(run.student)}",
        f"teacher         {teacher}",
        f"  alone         {alone or 'its run says nothing of its scores on one modality'}",
        f"views           {', '.join(run.views) or 'none'}; weights: {run.weighting}",
    ]


def shown(row: Row, run: Situation, config: RunConfig) -> list[str]:
    """A row, as lines for the screen."""
    lines = [f"{row.name}: {row.have}.", f"  run:      {row.do}."]
    lines += [f"              {line}" for line in row.yaml(run).splitlines()]
    if has_lines(row, run, config):
        lines.append("            The configuration says so already.")
    lines.append(f"  measured: {row.measured}.")
    if row.audit:
        lines.append(f"  audit:    an independent audit measured: {row.audit}.")
    return [*lines, f"  why:      {row.why}", f"  source:   {', '.join(row.sources)}", f"            {row.command}"]
