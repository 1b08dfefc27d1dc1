"""What is known of a run before anything is loaded, for the checks and for what builds the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from msd_framework.build.empty import LARGE_VOCABULARY, Unfilled, names_unloaded_code, reads_files, without_files
from msd_framework.components.facts import STAND_INS
from msd_framework.components.registry import Registry, raised_at, split
from msd_framework.components.specs import Spec, code_options
from msd_framework.config.cards import card_of, other_tensors, rebuilt
from msd_framework.config.schema import Component, RunConfig
from msd_framework.config.structure import component_specs
from msd_framework.data.base import Processor
from msd_framework.engine.optim import OptimizerRecipe
from msd_framework.errors import CheckpointError, ConfigError, DataError, Problem
from msd_framework.maskers.base import Masker, Views
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import Objective
from msd_framework.registry import COMBINATIONS, DATASETS, MASKERS, MODELS, OBJECTIVES, OPTIMIZERS, PROCESSORS, TASK_LOSSES
from msd_framework.structures import Batch, DatasetInfo, Inputs, ModalityKind, ModelOutput, Setting
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.ensemble import Combination, union
from msd_framework.views import other_rows

T = TypeVar("T")


@dataclass(frozen=True)
class Takes:
    """What is known of a model without building it."""

    modalities: tuple[str, ...]
    subsets: bool  # whether a modality may be left out of its inputs


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before anything is loaded; each fact is found when it is first asked for, and then kept."""

    config: RunConfig
    _cards: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def dataset(self) -> Spec:
        return Spec("data.dataset", DATASETS, self.config.data.dataset)

    @cached_property
    def model(self) -> Spec:
        return Spec("model", MODELS, self.config.model)

    @cached_property
    def objective(self) -> Spec:
        return Spec("objective", OBJECTIVES, self.config.objective)

    @cached_property
    def processors(self) -> dict[str, Spec]:
        """How each modality becomes tensors."""
        return {m: Spec(f"data.processors.{m}", PROCESSORS, spec) for m, spec in self.config.data.processors.items()}

    @cached_property
    def teacher_processors(self) -> tuple[dict[str, Spec], ...]:
        """How each modality becomes tensors for each trained teacher; empty where there is none, or one cannot be read.

        `teacher.processors` comes first, then the student's where it makes what the teacher was trained on, then its own.
        """
        sides = []
        given = self.config.teacher.processors if self.config.teacher is not None else {}
        for folder in self.config.teacher_folders if self.teachers else ():
            card, specs = self.card(folder), {}
            for m in card["modalities"]:
                saved, mine = card["processors"][m]["spec"], self.processors.get(m)
                if mine is not None and m not in given and not other_tensors(mine.value, saved):
                    specs[m] = mine
                else:
                    specs[m] = Spec(f"teacher.processors.{m}", PROCESSORS, given.get(m, saved))
            sides.append(specs)
        return tuple(sides)

    @cached_property
    def specs(self) -> tuple[Spec, ...]:
        """Every component of the configuration, those that are nested in another before it."""
        found: list[Spec] = []
        for component in component_specs(asdict(self.config)):
            found += component.with_nested
        return tuple(found)

    def of(self, *registries: Registry[Any]) -> list[Spec]:
        """The components of some kinds."""
        return [spec for spec in self.specs if spec.registry in registries]

    @cached_property
    def model_specs(self) -> tuple[Spec, ...]:
        """The model and what is nested in it, the innermost first."""
        return tuple(self.model.with_nested)

    @cached_property
    def info(self) -> DatasetInfo:
        """The data set's description; logits are read as the run's model is trained, or was, where one is evaluated."""
        info = dataset_info(self.config.data.dataset, self.config.objective)
        if not self.config.is_evaluated:
            return info
        try:
            outcomes = self.card(self.config.evaluated)["facts"].get("outcomes")
        except CheckpointError:  # checks/folders.py says what is wrong with it
            return info
        return replace(info, trained=outcomes or info.trained)

    @cached_property
    def known(self) -> dict[str, Any]:
        """What components may ask for by name and is known: what the data set's description says, and the seed."""
        return known_facts(self.info) | {"seed": self.config.seed}

    @cached_property
    def assumed(self) -> dict[str, Any]:
        """The same with stand-ins for what only data can say."""
        return STAND_INS | self.known

    def build(self, spec: Spec) -> Any:
        """A component, built with what is known and assumed."""
        return spec.registry.build(spec.value, spec.path, self.assumed)

    @cached_property
    def unfitted_processors(self) -> dict[str, Processor]:
        """The processors, which have learned nothing yet."""
        return {m: PROCESSORS.build(spec.value, spec.path, self.known) for m, spec in self.processors.items()}

    @cached_property
    def masker(self) -> Masker:
        """How the student's views hide a modality."""
        return MASKERS.build(self.config.masker, "masker", self.assumed)

    @cached_property
    def teacher_masker(self) -> Masker | None:
        """How the teacher's views hide one, where it is another way than the student's."""
        given = self.config.teacher.masker if self.config.teacher is not None else None
        return None if given is None else MASKERS.build(given, "teacher.masker", self.assumed)

    def masker_of(self, use: str, teacher: int | None = None) -> tuple[str, Component]:
        """The key and the masker of the student's views of a split, or of a teacher's by its number; `use` as in `USES`."""
        config, side = self.config, ("masker", self.config.masker)
        if teacher is not None and config.teacher is not None and config.teacher.masker is not None:
            side = "teacher.masker", config.teacher.masker
        if use == "train":
            return side
        if config.evaluation.masker is not None:
            return "evaluation.masker", config.evaluation.masker
        model, specs = self.student, self.processors
        if teacher is not None and self.teachers:
            model, specs = self.teachers[teacher], self.teacher_processors[teacher]
        kinds = {m: spec.cls.kind for m, spec in specs.items() if m in model.modalities}
        return side if needs_all(model.subsets, kinds) else ("evaluation.masker", "drop")

    @cached_property
    def optimizer(self) -> OptimizerRecipe:
        return OPTIMIZERS.build(self.config.optimizer, "optimizer", self.assumed)

    @cached_property
    def combination(self) -> Combination:
        """How several teachers answer as one; by their mean where the YAML says nothing."""
        given = self.config.teacher.combine if self.config.teacher is not None else None
        return COMBINATIONS.build(given or "mean", "teacher.combine", self.assumed)

    def card(self, path: str) -> dict[str, Any]:
        """How the model of a run or checkpoint is rebuilt."""
        if path not in self._cards:
            self._cards[path] = card_of(path, self.config)
        return self._cards[path]

    def saved_model(self, path: str) -> MultimodalModel:
        """The model of a checkpoint with empty weights; all its sizes are in its card."""
        card = self.card(path)
        with Unfilled():
            return rebuilt(card, path)

    @cached_property
    def student(self) -> Takes:
        """What the model takes."""
        name = self.model.name
        call = partial(self.model.cls.modalities_of, self.model.options)
        modalities = call_class_method(call, f"modalities_of of {name}", "model")
        if not isinstance(modalities, (tuple, list)) or not modalities or not all(isinstance(m, str) for m in modalities):
            raise ConfigError(Problem("model", f"modalities_of of {name} must return the names of modalities, got {modalities!r}."))
        return Takes(tuple(modalities), self.model.cls.takes_subsets)

    @cached_property
    def teachers(self) -> tuple[Takes, ...]:
        """What each trained teacher takes; nothing where none is there, or one cannot be read."""
        if not self.config.has_teacher:
            return ()
        teachers = []
        try:
            for card in map(self.card, self.config.teacher_folders):
                model = Spec("teacher.checkpoint", MODELS, card["model"]).cls
                teachers.append(Takes(tuple(card["modalities"]), model.takes_subsets))
        except (CheckpointError, ConfigError):  # checks/teacher.py says what is wrong with it
            return ()
        return tuple(teachers)

    @cached_property
    def teacher(self) -> Takes | None:
        """What the teachers take together; None where the objective needs none, or nothing is known of them."""
        if self.config.teacher is None or not self.objective.cls.needs_teacher:
            return None
        if self.config.teacher.ema is not None:
            return self.student
        if len(self.teachers) < 2:
            return next(iter(self.teachers), None)
        return Takes(union([one.modalities for one in self.teachers]), all(one.subsets for one in self.teachers))

    @cached_property
    def setting(self) -> Setting:
        """What a component's own check may look at."""
        kinds = {m: spec.cls.kind for m, spec in self.processors.items()}
        return Setting(self.info, self.student.modalities, self.teacher.modalities if self.teacher else None, kinds)

    @cached_property
    def teacher_settings(self) -> list[Setting]:
        """The same of the teachers' sides, whose values may be of other kinds; once where they are alike."""
        settings = []
        for specs in self.teacher_processors or ({},):
            kinds = {m: spec.cls.kind for m, spec in specs.items()}
            settings.append(replace(self.setting, kinds={**self.setting.kinds, **kinds}))
        return [setting for i, setting in enumerate(settings) if setting not in settings[:i]]

    @cached_property
    def stand_in_objective(self) -> Objective:
        """The objective with stand-ins for its models, which says what it needs of them."""
        teacher, num_classes = self.setting.teacher_modalities or tuple(self.info.modalities), self.info.num_classes
        models = {"model": _Student(self.student.modalities, num_classes), "teacher": _Teacher(teacher, num_classes)}
        return OBJECTIVES.build(self.config.objective, "objective", self.assumed, masker=self.masker, **models)

    @cached_property
    def other_rows(self) -> dict[str, tuple[str, ...]]:
        """The other rows that the objective's views show beside an example, by name, and the modalities that are wanted of each."""
        if self.config.is_evaluated:
            return {}
        objective = self.stand_in_objective
        return other_rows([*objective.teacher_views, *getattr(objective, "student_views", ())])

    @cached_property
    def empty_module(self) -> tuple[Spec, nn.Module] | None:
        """The outermost part of the model whose constructor reads no files, with empty weights.

        None if there is no such part, or if it cannot be built so: a module of a user's own may look at its weights.
        """
        spec = next((spec for spec in reversed(self.model_specs) if not reads_files(spec)), None)
        if spec is None:
            return None
        # a vocabulary has to be learned or read first, and a large one stands in for it
        of_modality = {m: p.facts for m, p in self.unfitted_processors.items() if p.kind != "tokens"}
        known = self.known | {"modalities": of_modality}
        value = without_files(spec.registry, spec.value, known, STAND_INS | {"vocab_size": LARGE_VOCABULARY})
        try:
            with Unfilled():
                return spec, spec.registry.build(value, spec.path, known)
        except ConfigError:
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and ("alloc" in str(error) or "overflow" in str(error)):
                text = f"needs more memory than there is: {str(error).splitlines()[0]}."
                raise ConfigError(Problem(spec.path, text)) from error
            return None

    @property
    def empty_model(self) -> MultimodalModel | None:
        """The model with empty weights; None where its sizes are in files that it reads, or where it cannot be built so."""
        if any(map(reads_files, self.model_specs)) or self.empty_module is None:
            return None
        model = self.empty_module[1]
        assert isinstance(model, MultimodalModel)
        return model

    def empty_model_on(self, facts: Mapping[str, Any]) -> MultimodalModel | None:
        """The same on the tensors of another run, of which its checkpoint's card tells more."""
        if any(map(reads_files, self.model_specs)):
            return None
        with Unfilled():
            return MODELS.build(self.config.model, "model", STAND_INS | dict(facts) | self.known)

    @cached_property
    def may_be_pretrained(self) -> bool:
        """Whether the model, or a part of it, starts from weights of others; nobody can tell of a user's own module, so it may."""
        names_code = any(code_options(spec.cls) for spec in self.model_specs)
        return self.config.init is not None or bool(self._files_of_model) or names_code

    @cached_property
    def _files_of_model(self) -> list[Any]:
        """The names of files, folders and published weights that the model reads."""
        named = []
        for spec in self.model_specs:
            named += [spec.options[key] for key in spec.cls.reads if spec.options.get(key) is not None]
        return named

    @cached_property
    def weights_are_at_hand(self) -> bool:
        """Whether all that the model and its tokenizers read is on disk, and no code is named that is not loaded."""
        if self.config.allow or any(map(names_unloaded_code, self.model_specs)):
            return False
        names = list(self._files_of_model)
        for spec in self.of(PROCESSORS):
            if spec.options.get("name") is not None:
                names.append(spec.options["name"])
        return all(Path(str(name)).expanduser().exists() for name in names)


def needs_all(takes_subsets: bool, kinds: Mapping[str, ModalityKind]) -> bool:
    """Whether `drop` leaves out one of a model's modalities, of which it needs each."""
    return not takes_subsets and any(DropMasker().leaves_out(m, kind) for m, kind in kinds.items())


def dataset_info(dataset: Any, objective: Any = None, at: str = "data.dataset") -> DatasetInfo:
    """What is known of a data set from its part of a YAML; the task loss of an objective says how logits are read."""
    name, options = split(dataset, at, DATASETS)
    info = call_class_method(lambda: DATASETS.get(name, at).describe(options), f"describe of {name}", at)
    if not isinstance(info, DatasetInfo):
        raise ConfigError(Problem(at, f"describe of {name} must return a DatasetInfo, got {info!r}."))
    loss = None if objective is None else Spec("objective", OBJECTIVES, objective).options.get("task_loss")
    if loss is None:
        return info
    return replace(info, trained=Spec("objective.task_loss", TASK_LOSSES, loss).cls.outcomes)


def known_facts(info: DatasetInfo) -> dict[str, Any]:
    """What components may ask for by name and a data set's description says."""
    return {"num_classes": info.num_classes, "task": info.task, "outcomes": info.outcomes, "class_names": info.class_names}


def call_class_method(call: Callable[[], T], what: str, at: str) -> T:
    """What a class method returns; what one of a user's own raises becomes a ConfigError that says what and where."""
    try:
        return call()
    except ConfigError:
        raise
    except (ValueError, DataError) as error:
        raise ConfigError(Problem(at, str(error))) from error
    except Exception as error:  # a class of a user's may raise anything
        raise ConfigError(Problem(at, f"{what} failed: {raised_at(error)}")) from error


class _Student(MultimodalModel):
    """Stands in for a model where an objective's constructor asks no more than its modalities and classes."""

    def __init__(self, modalities: tuple[str, ...], num_classes: int):
        super().__init__()
        self.modalities, self.num_classes = modalities, num_classes

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        raise NotImplementedError

    def forward(self, inputs: Inputs) -> ModelOutput:
        raise NotImplementedError


class _Teacher(Teacher):
    """Stands in for a teacher in the same way."""

    def __init__(self, modalities: tuple[str, ...], num_classes: int):
        self.modalities, self.num_classes = modalities, num_classes

    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        raise NotImplementedError
