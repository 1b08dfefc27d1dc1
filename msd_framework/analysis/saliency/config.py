"""The words of ``msd saliency``, and the run whose teacher it asks."""

# ruff: noqa: RUF009 -- component() is dataclasses.field() under a name of ours

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from msd_framework.config.load import Source, load, located, resolve
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
    """A run whose teacher is asked, once nothing is wrong with it.

    Args:
        options: what is wanted of it.
        run: the run, whose objective and evaluation ask for the views of all scores.
        source: where its values were written.
        facts: what is known of it before anything is loaded.
        modalities: the teacher's.
        specs: the saliencies' parts of a YAML, by what they are called.
        folder: where it writes.
    """

    options: SaliencyConfig
    run: RunConfig
    source: Source
    facts: RunFacts
    modalities: tuple[str, ...]
    specs: Mapping[str, Component]
    folder: Path

    def saliencies(self, prior: list[float]) -> dict[str, Saliency]:
        """The saliencies by what they are called.

        Args:
            prior: the share of each class in the training split, for those that ask for it and were given none.
        """
        facts = self.facts.assumed | {"prior": prior}
        return {name: SALIENCIES.build(spec, f"scores.{name}", facts) for name, spec in self.specs.items()}


def load_saliency(path: str | Path, words: Sequence[str]) -> SaliencyRun:
    """The run and what is wanted of its teacher. The teacher of a run that has none is its own trained model.

    Args:
        path: the run's YAML.
        words: options ``key=value``, of `SaliencyConfig` or of the run.

    Raises:
        ConfigError: with everything that is wrong.
    """
    options, asked, of_run = own_options(words, SaliencyConfig)
    source = resolve(load(path, of_run))
    config, problems = understood(source.values)
    if problems or config is None:
        raise ConfigError(*(located(p, source) for p in dict.fromkeys(problems)))
    folder = Path(options.folder or f"{config.env.save_dir}/saliency")
    given = config.teacher
    config = replace(config, teacher=TeacherConfig(config.env.save_dir) if given is None or given.ema is not None else given)
    assert config.teacher is not None
    asking = RunFacts(config)
    try:
        cards = [asking.card(folder) for folder in config.teacher_folders]
        modalities = union([card["modalities"] for card in cards])
        model = max(cards, key=lambda card: len(card["modalities"]))["rebuild"]
    except CheckpointError as error:
        at = "teacher.checkpoint" if "teacher" in source.values else "env.save_dir"
        raise ConfigError(located(Problem(at, f"holds no teacher, nor a model of the run's own: {error}"), source)) from error
    loss = SOFT[read_as(cards[0])] if asking.info.task == "soft_target" else None
    objective = {"type": "distillation", "task_loss": loss}
    asking = RunFacts(replace(config, run_type="train", objective=objective))
    scores = options.scores or _fitting(asking, modalities)
    specs = [Spec(f"scores[{i}]", SALIENCIES, spec) for i, spec in enumerate(scores)]
    problems = _problems(options, asking, modalities, specs)
    if problems:
        raise ConfigError(*(located(p, asked) for p in dict.fromkeys(problems)))
    wanted = [view for spec in specs for view in asking.build(spec).views(modalities)]
    views = list(dict.fromkeys([FULL, *wanted]))
    values = source.values
    run = {
        **values,
        "run_type": "train",
        "model": model,  # a teacher's: nobody is taught
        "init": None,
        "teacher": asdict(config.teacher),
        "objective": {**objective, "views": views},
        "evaluation": {**values.get("evaluation", {}), "views": views, "monitor": None},
        "training": {"max_updates": 1},
        "checkpoint": {},
        "callbacks": [],
        "expected": {},
        "env": {**values.get("env", {}), "save_dir": f"{folder}/.asking"},
    }
    rewritten = Source(run, source.origins)
    return SaliencyRun(options, checked(rewritten), rewritten, asking, modalities, {label(s): s for s in scores}, folder)


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


def _problems(
    options: SaliencyConfig,
    run: RunFacts,
    modalities: Sequence[str],
    specs: Sequence[Spec],
) -> list[Problem]:
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
        problems.append(Problem("config", f"the teacher takes {modalities[0]} alone; saliency compares two modalities or more."))
        return problems
    for spec in specs:
        try:
            for view in run.build(spec).views(modalities):
                visible_modalities(view, modalities)
        except ConfigError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(Problem(spec.path, str(error)))
        problems += looks_inside(run, spec)
    labels = [label(spec.value) for spec in specs]
    problems += [Problem("scores", f"{name} is listed twice.") for name in dict.fromkeys(labels) if labels.count(name) > 1]
    return problems


def _fitting(run: RunFacts, modalities: Sequence[str]) -> list[Component]:
    """All scores, each with all distances, that fit the task and the teacher."""
    apart: list[Component] = [
        {"type": name} | ({"distance": distance} if distance else {})
        for name in ("drop", "keep")
        for distance in (None, TVD[run.info.outcomes], "mse")
    ]
    shapley: list[Component] = [] if len(modalities) > MOST else ["shapley", {"type": "shapley", "value": "loss"}]
    looking = ("gradient_x_input", "attention_rollout")
    fitting = [name for name in looking if not list(looks_inside(run, Spec("scores", SALIENCIES, name)))]
    return [*apart, "loss", "gap", *shapley, *fitting]
