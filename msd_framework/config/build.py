"""A checked configuration to the objects that run it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msd_framework.callbacks.base import Callback
from msd_framework.callbacks.logging import JsonLines, TensorBoard, tensorboard_is_installed
from msd_framework.callbacks.progress import ProgressBar
from msd_framework.config.folders import is_evaluated, learned_processors, teacher_is_there
from msd_framework.config.pairing import objective_on_stand_ins
from msd_framework.config.schema import RunConfig
from msd_framework.config.teacher_cache import TeacherCache
from msd_framework.data.base import MultimodalDataset, Processor
from msd_framework.data.collate import Collator
from msd_framework.data.lengths import LengthPools, measure_lengths
from msd_framework.data.loader import EvaluationBatches, TrainingBatches
from msd_framework.data.plan import TrainingPlan
from msd_framework.data.reader import DecodedInputs, ExampleReader
from msd_framework.engine.checkpoint import WEIGHTS, CheckpointFolder, find_checkpoint, load_weights, read, read_card, read_json
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import Predictions, measure, predict
from msd_framework.engine.precision import FP32, Choice
from msd_framework.engine.runner import Plan, Runner
from msd_framework.errors import CheckpointError, DataError
from msd_framework.maskers.base import Masker
from msd_framework.metrics.base import Metric
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import Objective
from msd_framework.registry import (
    CALLBACKS,
    DATASETS,
    MASKERS,
    METRICS,
    MODELS,
    OBJECTIVES,
    OPTIMIZERS,
    PROCESSORS,
    SCHEDULERS,
    plain,
    split,
)
from msd_framework.structures import FULL, Batch, DatasetInfo, visible_modalities
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.live import LiveTeacher
from msd_framework.teachers.masked import keep_channels


@dataclass(frozen=True)
class Assembly:
    """The parts of a run, each made from its part of the configuration when it is first asked for.

    Args:
        config: what the run is.
        world: this process among all.
    """

    config: RunConfig
    world: World

    @property
    def folder(self) -> Path:
        return Path(self.config.env.save_dir)

    @cached_property
    def info(self) -> DatasetInfo:
        name, options = split(self.config.data.dataset, "data.dataset", DATASETS)
        described = DATASETS.get(name).describe(options)
        return described

    def dataset(self, use: str, whole: bool = False) -> MultimodalDataset:
        """The split that is used for `train`, `validation` or `test`, as much of it as is wanted or all of it."""
        data = self.config.data
        name = getattr(data, use)
        limit = None if whole else self.limit(use)
        if (name, limit) in self._opened:
            return self._opened[name, limit]
        built = DATASETS.build(data.dataset, "data.dataset", self.known, split=name, on_error=data.on_error, max_examples=limit)
        if len(built) == 0:
            raise DataError(f"data.{use}: the split {name!r} of {plain(data.dataset)['type']} is empty.")
        return self._opened.setdefault((name, limit), built)

    @cached_property
    def _opened(self) -> dict[tuple[str, int | None], MultimodalDataset]:
        """Splits that were opened, which takes seconds where they are large, by name and limit."""
        return {}

    def limit(self, use: str) -> int | None:
        """How many examples of a split are used at most."""
        data = self.config.data
        return data.max_train_examples if use == "train" else data.max_eval_examples

    @cached_property
    def known(self) -> dict[str, Any]:
        """What is known before any data is read, for components that ask for it by name."""
        info = self.info
        facts = {"num_classes": info.num_classes, "task": info.task, "class_names": info.class_names}
        return {**facts, "seed": self.config.seed}

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """What the student or its teacher takes; nothing else is read."""
        taken = set(modalities_of(self.config.model))
        if self.config.teacher and teacher_is_there(self.config):
            taken |= set(read_card(self.config.teacher.checkpoint)["modalities"])
        return tuple(sorted(taken))

    @cached_property
    def processors(self) -> dict[str, Processor]:
        """How each modality becomes tensors. What is not yet learned is learned from the training split."""
        specs, learned = self.config.data.processors, self._learned
        built = {m: PROCESSORS.build(specs[m], f"data.processors.{m}", self.known) for m in self.modalities}
        if not is_evaluated(self.config):
            own = {m: self.folder / "processors" / m for m in built}
            if self.world.is_first:
                self._learn({m: p for m, p in built.items() if m not in learned})
                for modality, processor in built.items():
                    if modality in learned:
                        processor.restore(learned[modality])
                    own[modality].mkdir(parents=True, exist_ok=True)
                    processor.save(own[modality])
            self.world.wait()
            learned = own
        for modality, processor in built.items():
            processor.restore(learned[modality])
        return built

    @cached_property
    def _learned(self) -> dict[str, Path]:
        """Where what a modality's processor learned is, if it is: with what is evaluated or resumed, else where the user says."""
        config = self.config
        sources = [config.teacher.checkpoint] if config.teacher and teacher_is_there(config) else []
        if is_evaluated(config):
            sources.append(self.evaluated)
        else:
            sources += [config.data.processors_from] if config.data.processors_from else []
            sources += [str(self.folder)] if config.checkpoint.resume and self.checkpoints.path("last") else []
        return {m: path for source in sources for m, path in learned_processors(source).items()}

    def _learn(self, processors: Mapping[str, Processor]) -> None:
        if not processors:
            return
        examples = self.dataset("train")
        for modality, processor in processors.items():
            processor.fit(_Inputs(examples, modality))

    @property
    def evaluated(self) -> str:
        """The run or checkpoint whose model is evaluated."""
        return self.config.checkpoint.load or str(self.folder)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What components may ask for by name, the processors' part of it by modality."""
        return {**self.known, "modalities": {m: p.facts for m, p in self.processors.items()}}

    @cached_property
    def masker(self) -> Masker:
        """How views hide a modality, from the student and, where it has no masker of its own, from the teacher."""
        built = MASKERS.build(self.config.masker, "masker", self.facts)
        return built.to(self.world.device)

    @cached_property
    def teacher_masker(self) -> Masker | None:
        """How views hide a modality from the teacher, where it is another way than the student's."""
        teacher = self.config.teacher
        if teacher is None or teacher.masker is None:
            return None
        built = MASKERS.build(teacher.masker, "teacher.masker", self.facts)
        return built.to(self.world.device)

    @cached_property
    def model(self) -> MultimodalModel:
        built = MODELS.build(self.config.model, "model", self.facts)
        return built.to(self.world.device)

    @cached_property
    def card(self) -> dict[str, Any]:
        """How the model is rebuilt, kept with its weights."""
        specs = self.config.data.processors
        processors = {m: {"spec": plain(specs[m]), "fingerprint": fingerprint(p)} for m, p in self.processors.items()}
        name, options = split(self.config.model, "model", MODELS)
        return {
            "model": plain(self.config.model),
            "rebuild": {"type": name, **self.model.rebuild_options(options)},
            "facts": self.facts,
            "modalities": list(self.model.modalities),
            "processors": processors,
        }

    @property
    def teacher(self) -> Teacher | None:
        """Who is asked in training."""
        return self.teacher_of("train")

    def teacher_of(self, use: str) -> Teacher | None:
        """Who is asked about a split: the teacher, or what it said before; None where there is none to ask."""
        teacher = self.config.teacher
        if teacher is None or not teacher_is_there(self.config):
            return None
        return self.teacher_cache[use] if teacher.cache else self.live_teacher

    @cached_property
    def teacher_cache(self) -> TeacherCache:
        """What the teacher said of each split, where it is kept on disk."""
        return TeacherCache(self)

    def open_teacher_cache(self, uses: Sequence[str]) -> None:
        """Has the teacher's answers to splits that are used ready, if they are kept on disk; its weights are then let go."""
        teacher = self.config.teacher
        if teacher is not None and teacher.cache and teacher_is_there(self.config):
            self.teacher_cache.open([use for use in uses if getattr(self.config.data, use)])

    def asked_views(self, use: str) -> tuple[str, ...]:
        """The views that the teacher is asked about: in training, those of the objective; else those of the evaluation."""
        assert self.config.teacher is not None
        modalities = read_card(self.config.teacher.checkpoint)["modalities"]
        if use == "train":
            return objective_on_stand_ins(self.config, self.info, modalities_of(self.config.model), modalities).teacher_views
        return tuple(v for v in self.config.evaluation.views if v == FULL or _can_see(modalities, v))

    def raw(self, use: str) -> MultimodalDataset:
        """The raw examples of a split, as much of it as is wanted."""
        return self.training_reader.dataset if use == "train" else self.evaluation[use].reader.dataset

    def content(self, use: str) -> str:
        """What stands for the whole of a split's content."""
        return (self.raw(use) if self.limit(use) is None else self.dataset(use, whole=True)).fingerprint

    @cached_property
    def live_teacher(self) -> LiveTeacher:
        """The teacher, with its weights, in eval mode on this process's device. The run's random numbers know nothing of it.

        Raises:
            CheckpointError: if its weights are of another model, or its processors learned something else.
        """
        teacher = self.config.teacher
        assert teacher is not None
        folder = find_checkpoint(teacher.checkpoint)
        checkpoint = read(folder, WEIGHTS)
        for modality in self._other_tensors(checkpoint.card):
            raise CheckpointError(
                f"{folder}: the teacher was trained on other {modality} tensors than this run makes (another vocabulary or "
                f"length). Set data.processors_from={teacher.checkpoint}."
            )
        with torch.random.fork_rng(devices=[]):
            model = MODELS.build(checkpoint.card["rebuild"], "teacher", checkpoint.card["facts"])
        load_weights(model, checkpoint.model, str(folder))
        if teacher.channels is not None:
            keep_channels(model, **vars(teacher.channels))
        return LiveTeacher(model.to(self.world.device), self.teacher_masker or self.masker)

    def _other_tensors(self, card: Mapping[str, Any]) -> list[str]:
        """Modalities of a saved model of which this run makes other tensors than it was trained on."""
        saved = card["processors"]
        return [m for m in card["modalities"] if saved[m]["fingerprint"] != fingerprint(self.processors[m])]

    @cached_property
    def objective(self) -> Objective:
        """What is minimised; it holds the maskers, so that what they learned is saved with it."""
        context = {"model": self.model, "teacher": self.teacher, "masker": self.masker}
        built = OBJECTIVES.build(self.config.objective, "objective", self.facts, **context)
        built.masker, built.teacher_masker = self.masker, self.teacher_masker
        return built.to(self.world.device)

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        specs = self.config.evaluation.metrics
        return {plain(s)["type"]: METRICS.build(s, f"evaluation.metrics[{i}]", self.facts) for i, s in enumerate(specs)}

    @property
    def monitor(self) -> str:
        return self.config.evaluation.monitor or next(iter(self.metrics))

    @cached_property
    def decoded(self) -> DecodedInputs:
        """What is kept of inputs that were decoded once; each process that reads ahead has a share of the room for its own."""
        data = self.config.data
        splits = [split for split in (data.train, data.validation, data.test) if split]
        return DecodedInputs(data.cache_mb / max(1, data.workers * len(splits)))

    def reader(self, use: str) -> ExampleReader:
        """Reads a split; only training sees random transforms."""
        data, made = self.config.data, self.processors
        processors = made if use == "train" else {m: p.deterministic() for m, p in made.items()}
        return ExampleReader(self.dataset(use), processors, self.decoded, data.on_error == "skip")

    @cached_property
    def training_reader(self) -> ExampleReader:
        return self.reader("train")

    @cached_property
    def evaluation(self) -> dict[str, EvaluationBatches]:
        """The batches of a split by its use, made when they are first asked for and then kept."""
        return _Made(lambda use: self.in_order(self.reader(use)))

    def in_order(self, reader: ExampleReader, shared: bool = True) -> EvaluationBatches:
        """A split in its own order: shared out among the processes, or all of it on each of them."""
        place = (self.world.rank, self.world.size) if shared else (0, 1)
        pin = self.world.device.type == "cuda"
        collator = Collator(reader.processors, self.info)
        return EvaluationBatches(reader, collator, self.config.evaluation.batch_size, *place, self.config.data.workers, pin)

    @cached_property
    def num_updates(self) -> int:
        training = self.config.training
        if training.max_updates is not None:
            return training.max_updates
        assert training.max_epochs is not None
        return math.ceil(training.max_epochs * len(self.training_reader.dataset) / training.batch_size)

    @cached_property
    def plan(self) -> Plan:
        training, evaluation, checkpoint = self.config.training, self.config.evaluation, self.config.checkpoint
        epoch = len(self.training_reader.dataset) / training.batch_size
        every = evaluation.every_updates or epoch
        ends = {math.ceil(i * every) for i in range(1, math.floor(self.num_updates / every) + 1)}
        validations = {u for u in ends if u < self.num_updates} | {self.num_updates}
        regular = range(checkpoint.every_updates, self.num_updates, checkpoint.every_updates) if checkpoint.every_updates else None
        saves = {*(validations if regular is None else regular), self.num_updates}
        return Plan(
            num_updates=self.num_updates,
            accumulate=training.accumulate,
            clip_norm=training.clip_norm,
            precision=training.precision,
            log_every=training.log_every,
            validate_at=frozenset(validations),
            save_at=frozenset(saves),
            monitor=self.monitor,
            larger_is_better=self.metrics[self.monitor.rpartition("/")[2]].larger_is_better,
        )

    @cached_property
    def training_batches(self) -> TrainingBatches:
        training, data = self.config.training, self.config.data
        length = len(self.training_reader.dataset)
        place = (self.world.rank, self.world.size)
        plan = TrainingPlan(
            length, training.batch_size, self.num_updates, training.accumulate, *place, self.config.seed, self.length_pools
        )
        collator = Collator(self.processors, self.info)
        return TrainingBatches(self.training_reader, collator, plan, data.workers, self.world.device.type == "cuda")

    @cached_property
    def length_pools(self) -> LengthPools | None:
        """The lengths of the training examples, measured by all processes together, where batches are to be pooled by them."""
        if self.config.data.length_pool == 0:
            return None
        shares = self.world.gather(measure_lengths(self.training_reader, self.world.rank, self.world.size))
        lengths = np.empty(sum(map(len, shares)), np.int32)
        for rank, share in enumerate(shares):
            lengths[rank :: len(shares)] = share
        return LengthPools(lengths, self.config.data.length_pool)

    @cached_property
    def callbacks(self) -> list[Callback]:
        """What always watches, and what the configuration adds."""
        always: list[Callback] = [ProgressBar(self.config.name), JsonLines(str(self.folder / "metrics.jsonl"))]
        if tensorboard_is_installed():
            always.append(TensorBoard(str(self.folder / "tensorboard")))
        return always + [CALLBACKS.build(c, f"callbacks[{i}]", self.facts) for i, c in enumerate(self.config.callbacks)]

    @cached_property
    def checkpoints(self) -> CheckpointFolder:
        return CheckpointFolder(self.folder / "checkpoints", self.config.checkpoint.keep)

    @cached_property
    def runner(self) -> Runner:
        """The runner, before its first update."""
        optimizer = OPTIMIZERS.build(self.config.optimizer, "optimizer", self.facts).build(self.objective)
        schedule = SCHEDULERS.build(self.config.scheduler, "scheduler", self.facts)
        return Runner(
            self.objective,
            self.training_batches,
            optimizer,
            schedule.build(optimizer, self.num_updates),
            self.plan,
            self.world,
            (lambda: measure(self.predict("validation"), self.metrics)) if self.config.data.validation else None,
            self.checkpoints,
            self.card,
            self.callbacks,
        )

    @property
    def precision(self) -> Choice:
        """What the run trains and evaluates in; where only `auto` is said of a trained model, what it was trained in."""
        if not is_evaluated(self.config):
            return self.runner.choose_precision()
        saved = read_json(find_checkpoint(self.evaluated) / "state.json").get("precision")
        trained = Choice(**saved) if saved else Choice(FP32.name, "precision: fp32, as the checkpoint names no other")
        return Choice.given(self.config.training.precision) or trained

    def predict(self, use: str) -> Predictions:
        """The trained model's predictions of a split, on every view that the configuration asks for."""
        views = self.config.evaluation.views

        def ask(batch: Batch, names: Sequence[str]) -> Tensor:
            return self.model.forward_views([self.masker.view(batch, n).inputs for n in names]).logits

        self.model.eval()
        self.masker.eval()
        return predict(ask, self.evaluation[use], views, self.world, self.precision.precision)

    def ask_teacher(self, use: str) -> Predictions | None:
        """The teacher's predictions of a split on the same views, of those that it can be shown."""
        teacher, views = self.teacher_of(use), self.config.evaluation.views
        if teacher is None:
            return None
        views = [v for v in views if v == FULL or _can_see(teacher.modalities, v)]
        for masker in (self.masker, self.teacher_masker):
            if masker is not None:
                masker.eval()

        def ask(batch: Batch, names: Sequence[str]) -> Tensor:
            return teacher.predict(batch, names).logits

        return predict(ask, self.evaluation[use], views, self.world, self.precision.precision)

    def fit_statistics(self) -> None:
        """Lets the maskers, and then the objective, look at the training split once, if they have to."""
        self.fit_maskers()
        self._fit(self.objective)

    def fit_maskers(self) -> None:
        """Lets the maskers look at the training split once, if they have to."""
        self._fit(self.masker, self.teacher_masker)

    def _fit(self, *parts: Masker | Objective | None) -> None:
        batches = _OnDevice(self.in_order(self.training_reader, shared=False), self.world)
        for part in parts:
            if part is not None and part.needs_fit:
                part.fit(batches)

    def load_model(self, path: str | Path) -> int:
        """Takes the trained model, and what the maskers learned, from a checkpoint; returns its update.

        Raises:
            CheckpointError: if its weights are of another model, or it was trained on other tensors than this run makes.
        """
        folder = find_checkpoint(path)
        checkpoint = read(folder, WEIGHTS)
        for modality in self._other_tensors(checkpoint.card):
            raise CheckpointError(
                f"{folder}: was trained on other {modality} tensors than this run makes. Give data.processors.{modality} the "
                f"options that it was trained with: {checkpoint.card['processors'][modality]['spec']}."
            )
        load_weights(self.model, checkpoint.model, str(folder))
        for name, masker in {"masker.": self.masker, "teacher_masker.": self.teacher_masker}.items():
            learned = {k.removeprefix(name): v for k, v in checkpoint.objective.items() if k.startswith(name)}
            if masker is not None:
                masker.load_state_dict(learned, strict=False)
        return int(checkpoint.state["update"])


@dataclass(frozen=True)
class _Inputs:
    """One modality's raw inputs of a split, read whenever they are gone through."""

    examples: MultimodalDataset
    modality: str

    def __iter__(self) -> Iterator[Any]:
        return (self.examples[i].inputs[self.modality] for i in range(len(self.examples)))


@dataclass(frozen=True)
class _OnDevice:
    """Batches on this process's device, to be gone through as often as needed."""

    batches: EvaluationBatches
    world: World

    def __iter__(self) -> Iterator[Batch]:
        return (batch.to(self.world.device) for batch in self.batches)


class _Made(dict[str, EvaluationBatches]):
    """What is made when it is first asked for."""

    def __init__(self, make: Callable[[str], EvaluationBatches]):
        super().__init__()
        self.make = make

    def __missing__(self, key: str) -> EvaluationBatches:
        self[key] = self.make(key)
        return self[key]


def fingerprint(processor: Processor) -> str:
    """What a teacher and its student, or a model that is trained and then evaluated, must share of a processor."""
    return processor.deterministic().fingerprint


def modalities_of(model: Any) -> tuple[str, ...]:
    """The modalities that a model takes, from its part of a YAML."""
    name, options = split(model, "model", MODELS)
    return MODELS.get(name).modalities_of(options)


def _can_see(modalities: Sequence[str], view: str) -> bool:
    try:
        return bool(visible_modalities(view, modalities))
    except ValueError:
        return False
