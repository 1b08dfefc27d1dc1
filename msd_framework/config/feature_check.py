"""Whether student and teacher offer the intermediates that a run compares, found before any data or weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from msd_framework.config.cards import card_of, rebuilt
from msd_framework.config.components import STAND_INS, known_facts
from msd_framework.config.models import Unfilled, empty_model
from msd_framework.config.parts import Part, parts
from msd_framework.config.schema import RunConfig
from msd_framework.errors import ConfigError, Problem
from msd_framework.registry import FEATURE_TERMS, OBJECTIVES
from msd_framework.structures import DatasetInfo, FeatureKind
from msd_framework.teachers.store import SUMMARY


def feature_problems(config: RunConfig, info: DatasetInfo) -> list[Problem]:
    """Names of intermediates that are not there, or that the loss does not compare.

    A model whose sizes are in files is asked once it is built.
    """
    terms = [p for p in parts(OBJECTIVES, config.objective, "objective") if p.registry is FEATURE_TERMS]
    if not terms or not config.has_teacher:
        return []
    assert config.teacher is not None
    if len(config.teacher_folders) > 1:
        text = "several teachers answer as one and have no intermediates in common. Name one teacher.checkpoint, or leave it out."
        return [Problem(terms[0].path, text)]
    built = empty_model(config, info)
    if built is None:
        return []
    student = built.offered
    teacher = student if config.teacher.ema is not None else _offered_by_teacher(config)
    return [problem for term in terms for problem in _problems(term, config, info, student, teacher)]


def _offered_by_teacher(config: RunConfig) -> Mapping[str, FeatureKind]:
    """What the teacher offers, whose sizes are all in its card."""
    (folder,) = config.teacher_folders
    card = card_of(folder, config)
    with Unfilled():
        return rebuilt(card, folder).offered


def _problems(
    term: Part, config: RunConfig, info: DatasetInfo, student: Mapping[str, FeatureKind], teacher: Mapping[str, FeatureKind]
) -> list[Problem]:
    assert config.teacher is not None
    try:
        pairs = FEATURE_TERMS.build(term.spec, term.path, STAND_INS | known_facts(info)).pairs(student, teacher)
    except ConfigError as error:
        return list(error.problems)
    except ValueError as error:
        key, _, text = str(error).partition(": ")
        return [Problem(f"{term.path}.{key}", text)]
    lost = [t for _, t in pairs if config.teacher.cache and t not in config.teacher.cache_features]
    if not lost:
        return []
    kept = f"set teacher.cache_features=[{SUMMARY}]" if lost == [SUMMARY] else f"compare {SUMMARY}, which it can keep"
    text = f"a teacher cache does not keep {lost[0]!r}. Set teacher.cache=false, or {kept}."
    return [Problem(f"{term.path}.{'teacher' if 'teacher' in term.options else 'student'}", text)]
