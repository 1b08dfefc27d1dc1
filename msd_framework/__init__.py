"""Modality-specific knowledge distillation: any multimodal model teaches any other, one modality at a time.

What a program uses is here by name (`from msd_framework import load, run, DistillationObjective`), and imported when it is
first asked for.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; Python reads the same lines below, and imports none before it is asked for
    from msd_framework.commands.components import show_components
    from msd_framework.errors import CheckpointError as CheckpointError
    from msd_framework.errors import ConfigError as ConfigError
    from msd_framework.errors import DataError as DataError
    from msd_framework.errors import MSDError as MSDError
    from msd_framework.losses.crd import ContrastiveRepresentation as ContrastiveRepresentation
    from msd_framework.losses.ctkd import LearnedTemperature as LearnedTemperature
    from msd_framework.losses.ctkd import LearnedTemperatureOfLabels as LearnedTemperatureOfLabels
    from msd_framework.losses.decoupled import BernoulliNonTargetKL as BernoulliNonTargetKL
    from msd_framework.losses.decoupled import DecoupledKL as DecoupledKL
    from msd_framework.losses.decoupled import NonTargetKL as NonTargetKL
    from msd_framework.losses.dist import BernoulliMultiLevel as BernoulliMultiLevel
    from msd_framework.losses.dist import ClassRelations as ClassRelations
    from msd_framework.losses.dist import LabelRelations as LabelRelations
    from msd_framework.losses.dist import MultiLevel as MultiLevel
    from msd_framework.losses.fd_cmkd import FrequencyDecoupled as FrequencyDecoupled
    from msd_framework.losses.features import AttentionTransfer as AttentionTransfer
    from msd_framework.losses.features import CosineDistance as CosineDistance
    from msd_framework.losses.features import Hint as Hint
    from msd_framework.losses.features import PatientDistance as PatientDistance
    from msd_framework.losses.features import RelationTransfer as RelationTransfer
    from msd_framework.losses.logits import BernoulliJensenShannon as BernoulliJensenShannon
    from msd_framework.losses.logits import BernoulliKL as BernoulliKL
    from msd_framework.losses.logits import BernoulliReverseKL as BernoulliReverseKL
    from msd_framework.losses.logits import BernoulliTotalVariation as BernoulliTotalVariation
    from msd_framework.losses.logits import JensenShannon as JensenShannon
    from msd_framework.losses.logits import LogitMSE as LogitMSE
    from msd_framework.losses.logits import ReverseKL as ReverseKL
    from msd_framework.losses.logits import SoftenedKL as SoftenedKL
    from msd_framework.losses.logits import Standardised as Standardised
    from msd_framework.losses.logits import TotalVariation as TotalVariation
    from msd_framework.losses.relations import Affinity as Affinity
    from msd_framework.losses.relations import ModalityAffinity as ModalityAffinity
    from msd_framework.losses.relations import ProbabilisticTransfer as ProbabilisticTransfer
    from msd_framework.losses.relations import RelationalDistances as RelationalDistances
    from msd_framework.losses.relations import SimilarityPreserving as SimilarityPreserving
    from msd_framework.losses.task import BinaryCrossEntropy as BinaryCrossEntropy
    from msd_framework.losses.task import CrossEntropy as CrossEntropy
    from msd_framework.losses.task import SoftCrossEntropy as SoftCrossEntropy
    from msd_framework.maskers.attention import AttentionMasker as AttentionMasker
    from msd_framework.maskers.composite import ModalityMasker as ModalityMasker
    from msd_framework.maskers.constant import ConstantMasker as ConstantMasker
    from msd_framework.maskers.drop import DropMasker as DropMasker
    from msd_framework.maskers.partial import PartialMasker as PartialMasker
    from msd_framework.maskers.resample import MeanMasker as MeanMasker
    from msd_framework.maskers.resample import NoiseMasker as NoiseMasker
    from msd_framework.maskers.resample import OtherMasker as OtherMasker
    from msd_framework.models.base import MultimodalModel as MultimodalModel
    from msd_framework.modulation.g2d import SequentialPriority as SequentialPriority
    from msd_framework.modulation.ogm_ge import OnTheFlyModulation as OnTheFlyModulation
    from msd_framework.objectives.agreement import AgreementObjective as AgreementObjective
    from msd_framework.objectives.c2kd import ProxyObjective as ProxyObjective
    from msd_framework.objectives.distillation import DistillationObjective as DistillationObjective
    from msd_framework.objectives.features import FeatureTerm as FeatureTerm
    from msd_framework.objectives.supervised import SupervisedObjective as SupervisedObjective
    from msd_framework.run import check as check
    from msd_framework.run import run as run
    from msd_framework.saliency.error import GapSaliency as GapSaliency
    from msd_framework.saliency.error import LossSaliency as LossSaliency
    from msd_framework.saliency.model import AttentionRollout as AttentionRollout
    from msd_framework.saliency.model import GradientXInput as GradientXInput
    from msd_framework.saliency.prediction import DropSaliency as DropSaliency
    from msd_framework.saliency.prediction import KeepSaliency as KeepSaliency
    from msd_framework.saliency.shapley import ShapleySaliency as ShapleySaliency
    from msd_framework.schedules import Progress as Progress
    from msd_framework.structures import Batch as Batch
    from msd_framework.structures import ModalityInputs as ModalityInputs
    from msd_framework.structures import ModelOutput as ModelOutput
    from msd_framework.structures import StepOutput as StepOutput
    from msd_framework.teachers.ema import EmaTeacher as EmaTeacher
    from msd_framework.teachers.live import LiveTeacher as LiveTeacher
    from msd_framework.trained import TrainedModel as TrainedModel
    from msd_framework.trained import ViewPredictions as ViewPredictions
    from msd_framework.trained import load as load
    from msd_framework.weighting.adaptive import DynamicWeightAverage as DynamicWeightAverage
    from msd_framework.weighting.adaptive import GradNormWeights as GradNormWeights
    from msd_framework.weighting.adaptive import UncertaintyWeights as UncertaintyWeights
    from msd_framework.weighting.fixed import FixedWeights as FixedWeights
    from msd_framework.weighting.fixed import ScheduledWeights as ScheduledWeights
    from msd_framework.weighting.fixed import UniformWeights as UniformWeights
    from msd_framework.weighting.learned import LearnedWeights as LearnedWeights
    from msd_framework.weighting.meta_kd import ModalityImportance as ModalityImportance
    from msd_framework.weighting.rank_filter import RankFilter as RankFilter
    from msd_framework.weighting.routed import RoutedTeachers as RoutedTeachers
    from msd_framework.weighting.saliency import InstanceWeights as InstanceWeights
    from msd_framework.weighting.saliency import PopulationWeights as PopulationWeights
    from msd_framework.weighting.teacher import TeacherLossWeights as TeacherLossWeights

    components = show_components

__version__ = "0.1.0"

# where each name is defined
_HOMES = {
    "msd_framework.errors": ("CheckpointError", "ConfigError", "DataError", "MSDError"),
    "msd_framework.losses.crd": ("ContrastiveRepresentation",),
    "msd_framework.losses.ctkd": ("LearnedTemperature", "LearnedTemperatureOfLabels"),
    "msd_framework.losses.decoupled": ("BernoulliNonTargetKL", "DecoupledKL", "NonTargetKL"),
    "msd_framework.losses.dist": ("BernoulliMultiLevel", "ClassRelations", "LabelRelations", "MultiLevel"),
    "msd_framework.losses.fd_cmkd": ("FrequencyDecoupled",),
    "msd_framework.losses.features": ("AttentionTransfer", "CosineDistance", "Hint", "PatientDistance", "RelationTransfer"),
    "msd_framework.losses.logits": (
        "BernoulliJensenShannon",
        "BernoulliKL",
        "BernoulliReverseKL",
        "BernoulliTotalVariation",
        "JensenShannon",
        "LogitMSE",
        "ReverseKL",
        "SoftenedKL",
        "Standardised",
        "TotalVariation",
    ),
    "msd_framework.losses.relations": (
        "Affinity",
        "ModalityAffinity",
        "ProbabilisticTransfer",
        "RelationalDistances",
        "SimilarityPreserving",
    ),
    "msd_framework.losses.task": ("BinaryCrossEntropy", "CrossEntropy", "SoftCrossEntropy"),
    "msd_framework.maskers.attention": ("AttentionMasker",),
    "msd_framework.maskers.composite": ("ModalityMasker",),
    "msd_framework.maskers.constant": ("ConstantMasker",),
    "msd_framework.maskers.drop": ("DropMasker",),
    "msd_framework.maskers.partial": ("PartialMasker",),
    "msd_framework.maskers.resample": ("MeanMasker", "NoiseMasker", "OtherMasker"),
    "msd_framework.models.base": ("MultimodalModel",),
    "msd_framework.modulation.g2d": ("SequentialPriority",),
    "msd_framework.modulation.ogm_ge": ("OnTheFlyModulation",),
    "msd_framework.objectives.agreement": ("AgreementObjective",),
    "msd_framework.objectives.c2kd": ("ProxyObjective",),
    "msd_framework.objectives.distillation": ("DistillationObjective",),
    "msd_framework.objectives.features": ("FeatureTerm",),
    "msd_framework.objectives.supervised": ("SupervisedObjective",),
    "msd_framework.run": ("check",),
    "msd_framework.saliency.error": ("GapSaliency", "LossSaliency"),
    "msd_framework.saliency.model": ("AttentionRollout", "GradientXInput"),
    "msd_framework.saliency.prediction": ("DropSaliency", "KeepSaliency"),
    "msd_framework.saliency.shapley": ("ShapleySaliency",),
    "msd_framework.schedules": ("Progress",),
    "msd_framework.structures": ("Batch", "ModalityInputs", "ModelOutput", "StepOutput"),
    "msd_framework.teachers.ema": ("EmaTeacher",),
    "msd_framework.teachers.live": ("LiveTeacher",),
    "msd_framework.trained": ("TrainedModel", "ViewPredictions", "load"),
    "msd_framework.weighting.adaptive": ("DynamicWeightAverage", "GradNormWeights", "UncertaintyWeights"),
    "msd_framework.weighting.fixed": ("FixedWeights", "ScheduledWeights", "UniformWeights"),
    "msd_framework.weighting.learned": ("LearnedWeights",),
    "msd_framework.weighting.meta_kd": ("ModalityImportance",),
    "msd_framework.weighting.rank_filter": ("RankFilter",),
    "msd_framework.weighting.routed": ("RoutedTeachers",),
    "msd_framework.weighting.saliency": ("InstanceWeights", "PopulationWeights"),
    "msd_framework.weighting.teacher": ("TeacherLossWeights",),
}
# functions that are called as a part of the package is: the module, and the function in it
_CALLED = {"run": ("msd_framework.run", "run"), "components": ("msd_framework.commands.components", "show_components")}
_HOME_OF: dict[str, str] = {}
for _module, _names in _HOMES.items():
    _HOME_OF |= dict.fromkeys(_names, _module)

__all__ = sorted([*_HOME_OF, *_CALLED])


def __getattr__(name: str) -> Any:
    if name in _CALLED:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    found = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CalledModule(ModuleType):
    """A module that is called like the function of its name."""

    @property
    def _function(self) -> Any:
        module, function = _CALLED[self.__name__.rpartition(".")[2]]
        return getattr(importlib.import_module(module), function)

    @property
    def __signature__(self) -> Any:
        return importlib.import_module("inspect").signature(self._function)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._function(*arguments, **options)


class _Package(ModuleType):
    """The package, which lets the modules that have a function's name be called.

    `from msd_framework import run` asks for a function, and `from msd_framework.run import run` imports a module of the
    same name. Python sets that as an attribute of its package, so both get the module, in whichever order they come.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CALLED and type(value) is ModuleType:
            value.__class__ = _CalledModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
