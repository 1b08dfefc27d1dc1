"""The options of ``msd saliency``, and the run whose teacher it asks."""

# ruff: noqa: RUF009 -- component() is dataclasses.field() under a name of ours

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from msd_framework.build.facts import RunFacts
from msd_framework.checks.objective import looks_inside
from msd_framework.checks.run import checked, understood
from msd_framework.checks.words import own_options
from msd_framework.components.registry import plain
from msd_framework.components.specs import Spec
from msd_framework.config.cards import read_as
from msd_framework.config.load import Source, load, located, refuse, resolve
from msd_framework.config.schema import USES, Component, RunConfig, TeacherConfig, component
from msd_framework.errors import CheckpointError, ConfigError, Problem, did_you_mean
from msd_framework.registry import SALIENCIES
from msd_framework.saliency.base import Saliency
from msd_framework.saliency.shapley import MOST
from msd_framework.structures import Outcomes
from msd_framework.teachers.ensemble import union
from msd_framework.views import FULL, visible_modalities

TVD: Mapping[Outcomes, str] = {"softmax": "tvd", "bernoulli": "bernoulli_tvd"}
SOFT: Mapping[Outcomes, str] = {"softmax": "soft_cross_entropy", "bernoulli": "binary_cross_entropy"}
"""The loss of soft targets that a model is trained with whose logits are read so."""


@dataclass(frozen=True)
class SaliencyConfig:
    """What ``msd saliency`` takes beside the options of the run."""

    split: str | list[str] = "validation"
    """What the run uses the splits for that are looked at: train, validation or test."""
    scores: list[Component] = component("saliencies", default_factory=list)
    """The saliencies, the first of which picks the examples that are shown; all that fit the teacher if none is named."""
    examples: int = 12
    """How many examples are shown that one modality decides, and that all decide together."""
    resamples: int = 1000
    """Bootstrap resamples behind each interval; 0 computes none."""
    folder: str | None = None
    """Where it writes; the folder `saliency` in the run's `env.save_dir` if null."""

    @property
    def uses(self) -> tuple[str, ...]:
        return (self.split,) if isinstance(self.split, str) else tuple(self.split)


@dataclass(frozen=True)
class SaliencyRun:
    """A run whose teacher is asked, once nothing is wrong with it."""

    options: SaliencyConfig
    run: RunConfig  # its objective and evaluation ask for the views of all scores
    source: Source  # where its values were written
    facts: RunFacts  # before anything is loaded
    modalities: tuple[str, ...]  # the teacher's
    specs: Mapping[str, Component]  # the saliencies' parts of a YAML, by their labels
    folder: Path  # where it writes


def load_saliency(path: str | Path, words: Sequence[str]) -> SaliencyRun:
    """The run and the options of the command. The teacher of a run that has none is its own trained model."""
    options, options_source, of_run = own_options(words, SaliencyConfig)
    source = resolve(load(path, of_run))
    config, problems = understood(source.values)
    refuse(problems, source)
    assert config is not None
    folder = Path(options.folder or f"{config.env.save_dir}/saliency")
    teacher = config.teacher
    if teacher is None or teacher.ema is not None:
        teacher = TeacherConfig(config.env.save_dir)
    config = replace(config, teacher=teacher)
    facts = RunFacts(config)
    try:
        cards = list(map(facts.card, config.teacher_folders))
        modalities = union([card["modalities"] for card in cards])
    except CheckpointError as error:
        at = "teacher.checkpoint" if "teacher" in source.values else "env.save_dir"
        raise ConfigError(located(Problem(at, f"holds no teacher, nor a model of the run's own: {error}"), source)) from error
    loss = SOFT[read_as(cards[0])] if facts.info.task == "soft_target" else None
    objective = {"type": "distillation", "task_loss": loss}
    facts = RunFacts(replace(config, run_type="train", objective=objective))
    scores = options.scores or _fitting(facts, modalities)
    specs = [Spec(f"scores[{i}]", SALIENCIES, spec) for i, spec in enumerate(scores)]
    refuse(_problems(options, facts, modalities, specs), options_source)
    views = list(views_of(map(facts.build, specs), modalities))
    # Nothing is trained. The student is only there to make a run complete: the teacher that takes the most modalities stands in.
    largest = max(cards, key=lambda card: len(card["modalities"]))
    values = source.values
    run = {
        **values,
        "run_type": "train",
        "model": largest["rebuild"],
        "init": None,
        "teacher": asdict(teacher),
        "objective": {**objective, "views": views},
        "evaluation": {**values.get("evaluation", {}), "views": views, "monitor": None, "masker": teacher.masker or config.masker},
        "training": {"max_updates": 1},
        "checkpoint": {},
        "callbacks": [],
        "expected": {},
        "env": {**values.get("env", {}), "save_dir": f"{folder}/.asking"},
    }
    rewritten = Source(run, source.origins)
    return SaliencyRun(options, checked(rewritten), rewritten, facts, modalities, {label(s): s for s in scores}, folder)


def views_of(saliencies: Iterable[Saliency], modalities: Sequence[str]) -> tuple[str, ...]:
    """The views of a teacher with these modalities that any of the saliencies asks for, the full one first."""
    views = {FULL: None}
    for saliency in saliencies:
        views |= dict.fromkeys(saliency.views(modalities))
    return tuple(views)


def label(spec: Any) -> str:
    """What a saliency is called in tables.

    >>> label("drop"), label({"type": "keep", "distance": {"type": "kl", "temperature": 2}})
    ('drop', 'keep kl temperature=2')
    """
    options = plain(spec)
    named = [str(options.pop("type"))]
    for key, value in options.items():
        is_name = isinstance(value, str) or (isinstance(value, Mapping) and "type" in value)
        named.append(label(value) if is_name else f"{key}={value}")
    return " ".join(named)


def _problems(options: SaliencyConfig, run: RunFacts, modalities: Sequence[str], specs: Sequence[Spec]) -> list[Problem]:
    """What is wrong with the options, given the run."""
    problems = []
    for use in options.uses:
        if use not in USES:
            problems.append(Problem("split", f"wanted {', '.join(USES)}, got {use!r}.{did_you_mean(use, USES)}"))
        elif getattr(run.config.data, use) is None:
            problems.append(Problem("split", f"data.{use} names no split of the data set. Name one, or take another split."))
    if not options.uses:
        problems.append(Problem("split", f"wanted at least one of {', '.join(USES)}, got none."))
    if options.examples < 1:
        problems.append(Problem("examples", f"must be at least 1, got {options.examples}."))
    if options.resamples < 0:
        problems.append(Problem("resamples", f"must be at least 0, got {options.resamples}."))
    if len(modalities) < 2:
        text = f"the teacher takes {modalities[0]} alone; saliency compares two modalities or more."
        return [*problems, Problem("config", text)]
    counts = Counter[str]()
    for spec in specs:
        counts[label(spec.value)] += 1
        try:
            for view in run.build(spec).views(modalities):
                visible_modalities(view, modalities)
        except ConfigError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(Problem(spec.path, str(error)))
        problems += looks_inside(run, spec)
    for name, count in counts.items():
        if count > 1:
            problems.append(Problem("scores", f"{name} is listed twice."))
    return problems


def _fitting(run: RunFacts, modalities: Sequence[str]) -> list[Component]:
    """All scores, each with all distances, that fit the task and the teacher."""
    scores: list[Component] = []
    for name in ("drop", "keep"):
        scores += [{"type": name}, {"type": name, "distance": TVD[run.info.outcomes]}, {"type": name, "distance": "mse"}]
    scores += ["loss", "gap"]
    if len(modalities) <= MOST:
        scores += ["shapley", {"type": "shapley", "value": "loss"}]
    for name in ("gradient_x_input", "attention_rollout"):
        if not list(looks_inside(run, Spec("scores", SALIENCIES, name))):
            scores.append(name)
    return scores
