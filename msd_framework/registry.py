"""Every registry by name; each stands beside the contract that its components extend."""

from __future__ import annotations

from typing import Any

from msd_framework.callbacks.base import CALLBACKS
from msd_framework.components.registry import Registry
from msd_framework.data.base import DATASETS, PROCESSORS
from msd_framework.engine.optim import OPTIMIZERS, SCHEDULERS
from msd_framework.experiment import EXPERIMENTS
from msd_framework.losses.base import DISTILLATION_LOSSES, FEATURE_LOSSES, TASK_LOSSES
from msd_framework.maskers.base import MASKERS
from msd_framework.metrics.base import METRICS
from msd_framework.models.base import ENCODERS, MODELS
from msd_framework.modulation.base import MODULATIONS
from msd_framework.objectives.base import OBJECTIVES
from msd_framework.objectives.features import FEATURE_TERMS
from msd_framework.saliency.base import SALIENCIES
from msd_framework.teachers.ensemble import COMBINATIONS
from msd_framework.weighting.base import WEIGHTINGS

__all__ = ["CALLBACKS", "COMBINATIONS", "DATASETS", "DISTILLATION_LOSSES", "ENCODERS", "EXPERIMENTS", "FEATURE_LOSSES"]
__all__ += ["FEATURE_TERMS", "MASKERS", "METRICS", "MODELS", "MODULATIONS", "OBJECTIVES", "OPTIMIZERS", "PROCESSORS"]
__all__ += ["REGISTRIES", "SALIENCIES", "SCHEDULERS", "TASK_LOSSES", "WEIGHTINGS"]

# in the order in which `msd components` shows them
_OF_A_MODEL = (MODELS, ENCODERS, MASKERS, TASK_LOSSES, DISTILLATION_LOSSES, FEATURE_LOSSES, SALIENCIES, WEIGHTINGS, MODULATIONS)
_OF_A_RUN = (OBJECTIVES, COMBINATIONS, FEATURE_TERMS, DATASETS, PROCESSORS, METRICS, CALLBACKS, OPTIMIZERS, SCHEDULERS)
_ALL: tuple[Registry[Any], ...] = (*_OF_A_MODEL, *_OF_A_RUN, EXPERIMENTS)
REGISTRIES: dict[str, Registry[Any]] = {registry.plural: registry for registry in _ALL}
"""Every registry by the plural of its kind, which is also the name of its entry-point group."""
