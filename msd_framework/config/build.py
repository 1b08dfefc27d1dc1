"""A checked configuration to the objects that run it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from msd_framework.build.facts import RunFacts, known_facts
from msd_framework.callbacks.base import Callback
from msd_framework.callbacks.logging import JsonLines, TensorBoard, tensorboard_is_installed
from msd_framework.callbacks.progress import ProgressBar
from msd_framework.components.registry import plain, split
from msd_framework.config.cache import AskedSplit
from msd_framework.config.cards import card_of, learned_processors, read_as, rebuilt, weights_of
from msd_framework.config.dry_run import DryRun
from msd_framework.config.extreme_rows import ExtremeRows
from msd_framework.config.initial import start_from
from msd_framework.config.schema import RunConfig
from msd_framework.config.splits import shared_problems
from msd_framework.config.teacher_cache import opened
from msd_framework.config.values import flow
from msd_framework.data.base import MultimodalDataset, Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.labels import HiddenLabels
from msd_framework.data.batches.lengths import LengthPools, measure_lengths
from msd_framework.data.batches.loader import EvaluationBatches, TrainingBatches
from msd_framework.data.batches.plan import HELD_OUT, Indices, TrainingPlan, hold_out, stream_seed
from msd_framework.data.batches.reader import DecodedInputs, ExampleReader
from msd_framework.engine.checkpoint import CheckpointFolder, find_checkpoint, load_weights, read_json
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import PredictedBatches, measure, predict
from msd_framework.engine.optim import OptimizerRecipe
from msd_framework.engine.precision import FP32, Choice
from msd_framework.engine.runner import Plan, Runner
from msd_framework.errors import CheckpointError, ConfigError, DataError, Problem
from msd_framework.hashing import digest
from msd_framework.losses.class_weights import WeighedTaskLoss
from msd_framework.maskers.base import Masker
from msd_framework.metrics.base import Metric
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import Objective
from msd_framework.registry import CALLBACKS, DATASETS, MASKERS, METRICS, MODELS, OBJECTIVES, OPTIMIZERS, PROCESSORS, SCHEDULERS
from msd_framework.structures import FULL, Batch, DatasetInfo, Outcomes, has_label, shows
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.cached import CachedTeacher
from msd_framework.teachers.ema import EmaTeacher
from msd_framework.teachers.ensemble import EnsembleTeacher, asked_of, union
from msd_framework.teachers.filling import only_head
from msd_framework.teachers.live import LiveTeacher
from msd_framework.teachers.marginals import MarginalsTeacher
from msd_framework.teachers.masked import keep_channels

T = TypeVar("T")

DRY_RUN_EXAMPLES = 4
"""How many training examples an objective looks at to know the shapes of what goes on inside the models."""

COUNTED = 1024
"""How many training examples have their labels counted at once."""

MOST_VALIDATIONS = 10**6
"""The most validations of a run, which are all planned before it begins."""

SHARED = ("before", "known", "modalities", "processors", "masker", "teacher_masker", "decoded", "evaluation", "_opened")
"""Parts of a run that are the same for each of its teachers."""


@dataclass(frozen=True)
class Assembly:
    """The parts of a run, each made from its part of the configuration when it is first asked for.

    Args:
        config: what the run is.
        world: this process among all.
        number: which of several teachers is meant where one is asked; all of them together if None.
    """

    config: RunConfig
    world: World
    number: int | None = None

    @property
    def folder(self) -> Path:
        return Path(self.config.env.save_dir)

    @cached_property
    def before(self) -> RunFacts:
        """What is known of the run before anything is loaded."""
        return RunFacts(self.config)

    @property
    def info(self) -> DatasetInfo:
        return self.before.info

    def dataset(self, use: str, whole: bool = False) -> MultimodalDataset:
        """The split that is used for `train`, `validation` or `test`, as much of it as is wanted or all of it."""
        data = self.config.data
        name = getattr(data, use)
        limit = None if whole else self.limit(use)
        if (name, limit) in self._opened:
            return self._opened[name, limit]
        read: dict[str, Any] = {"split": name, "on_error": data.on_error, "max_examples": limit}
        built = DATASETS.build(data.dataset, "data.dataset", self.known, **read, unlabelled=use == "train" and data.unlabelled)
        if len(built) == 0:
            raise DataError(f"data.{use}: the split {name!r} of {plain(data.dataset)['type']} is empty.")
        if use == "train" and data.labelled_share < 1:
            built = HiddenLabels(built, data.labelled_share, self.config.seed)
        return self._opened.setdefault((name, limit), built)

    def open_splits(self) -> None:
        """Opens every split that the run uses and checks the labels of each.

        Raises:
            ConfigError: if two of them have rows in common.
            DataError: if one cannot be read, or a label is wrong.
        """
        problems = shared_problems(self.config.data, {use: self.dataset(use) for use in self.config.uses}, self.info)
        if problems:
            raise ConfigError(*problems)

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
        return {**known_facts(self.info), "seed": self.config.seed}

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """What the student or its teacher takes; nothing else is read."""
        taken = self.before.student.modalities
        return union([taken, *self.teacher_modalities])

    @cached_property
    def processors(self) -> dict[str, Processor]:
        """How each modality becomes tensors. What is not yet learned is learned from the training split."""
        specs, learned = self.config.data.processors, self._learned
        built = {m: PROCESSORS.build(specs[m], f"data.processors.{m}", self.known) for m in self.modalities}
        if not self.config.is_evaluated:
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
        sources = list(reversed(config.teacher_folders)) if config.has_teacher else []
        if config.is_evaluated:
            sources.append(self.config.evaluated)
        else:
            start = config.init_folder if config.init is not None and not config.goes_on else None
            sources = [start, *sources] if start else sources
            sources += [config.data.processors_from] if config.data.processors_from else []
            sources += [str(self.folder)] if config.goes_on else []
        return {m: path for source in sources for m, path in learned_processors(source, config).items()}

    def _learn(self, processors: Mapping[str, Processor]) -> None:
        if not processors:
            return
        examples = self.dataset("train")
        for modality, processor in processors.items():
            is_sorted_out = self.config.data.on_error == "skip" and processor.fits_on_loaded
            inputs = _Inputs(examples, modality, processor if is_sorted_out else None)
            if next(iter(inputs), None) is None:
                raise DataError(
                    f"data.train: no example of {self.config.data.train!r} has {modality!r}, which is to be learned from."
                )
            processor.fit(inputs)

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
        if self.config.init is not None and not self.config.is_evaluated and not self.config.goes_on:
            path = self.config.init_folder
            assert path is not None
            for modality in self._other_tensors(card_of(path, self.config)):
                text = f"init: the model of {path} was trained on other {modality} tensors than this run makes."
                raise CheckpointError(f"{text} Set data.processors_from={path}.")
            start_from(built, path, self.config.init, self.config)
        with _under("optimizer"):
            self.optimizer.parts.freeze(built)
        return built.to(self.world.device)

    @cached_property
    def optimizer(self) -> OptimizerRecipe:
        """How weights are changed, and which are not."""
        facts = {**self.facts, "fine_tunes": self.before.may_be_pretrained}
        return OPTIMIZERS.build(self.config.optimizer, "optimizer", facts)

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
        """Who is asked about a split: the teachers, or what they said before; None where there is none to ask."""
        teacher = self.config.teacher
        if teacher is None or not self.config.has_teacher:
            return None
        if teacher.ema is not None:
            return self.average
        if self.number is None and len(self.teachers) > 1:
            alone = [one.asked_alone(use) for one in self.teachers]
            return EnsembleTeacher(alone, self.before.combination, self.info.task, self.info.outcomes)
        return self.asked_alone(use)

    def asked_alone(self, use: str) -> Teacher:
        """One teacher, or what it said of a split before, in logits that are read as the student's are."""
        assert self.config.teacher is not None
        taught = self.teacher_cache[use] if self.config.teacher.cache else self.live_teacher
        is_converted = (self.teacher_outcomes, self.info.outcomes) == ("softmax", "bernoulli")
        return MarginalsTeacher(taught) if is_converted else taught

    @cached_property
    def average(self) -> EmaTeacher:
        """The teacher that is an average of the student, and a part of what is saved with it."""
        assert self.config.teacher is not None
        assert self.config.teacher.ema is not None
        return EmaTeacher(self.model, self.teacher_masker or self.masker, self.config.teacher.ema)

    @cached_property
    def teacher_folders(self) -> tuple[str, ...]:
        """Where each teacher comes from."""
        return self.config.teacher_folders

    @property
    def teacher_folder(self) -> str:
        """Where the teacher comes from that is meant."""
        return self.teacher_folders[self.number or 0]

    @cached_property
    def teacher_outcomes(self) -> Outcomes:
        """How the logits of the teacher that is meant are read: as it was trained."""
        assert self.config.teacher is not None
        return read_as(card_of(self.teacher_folder, self.config)) if self.config.teacher.ema is None else self.info.outcomes

    @cached_property
    def teacher_modalities(self) -> list[tuple[str, ...]]:
        """What each teacher takes; nothing where there is none to ask."""
        there = self.config.has_teacher
        return [tuple(card_of(folder, self.config)["modalities"]) for folder in self.teacher_folders] if there else []

    @cached_property
    def teachers(self) -> tuple[Assembly, ...]:
        """The run with each of its teachers alone; they share what does not depend on the teacher."""
        if len(self.teacher_folders) == 1:
            return (self,)
        alone = tuple(replace(self, number=k) for k in range(len(self.teacher_folders)))
        for one in alone:
            vars(one).update({name: getattr(self, name) for name in SHARED})
        return alone

    @cached_property
    def teacher_cache(self) -> dict[str, CachedTeacher]:
        """What the teacher said of each split, where it is kept on disk; a store is opened at the first question."""

        def kept(use: str) -> CachedTeacher:
            modalities = card_of(self.teacher_folder, self.config)["modalities"]
            opening = partial(opened, partial(self.asked_split, use), self.world.device)
            return CachedTeacher(modalities, self.info.num_classes, opening)

        return _Made(kept)

    def asked_split(self, use: str) -> AskedSplit:
        """The split that is used for `train`, `validation` or `test`, and the teacher that is asked about it."""
        return AskedSplit(
            config=self.config,
            world=self.world,
            info=self.info,
            use=use,
            dataset=self.raw(use),
            content=self.content(use),
            processors=self.processors,
            decoded=self.decoded,
            folder=self.teacher_folder,
            views=self.asked_views(use),
            masker=self.teacher_masker or self.masker,
            outcomes=self.teacher_outcomes,
            live=lambda: self.live_teacher,
            try_out=lambda: self.dry_run().teacher(self.live_teacher, self.asked_views("train")),
        )

    def open_teacher_cache(self, uses: Sequence[str]) -> None:
        """Has the teacher's answers to splits that are used ready, if they are kept on disk; its weights are then let go."""
        teacher = self.config.teacher
        if teacher is not None and teacher.cache and self.config.has_teacher:
            for one in self.teachers:
                asked = [use for use in uses if getattr(self.config.data, use) and one.asked_views(use)]
                stores = [one.teacher_cache[use].opened for use in asked]
                live = vars(one).pop("live_teacher", None)
                if live is not None and any(store.classify is not None for store in stores):
                    only_head(live.model)

    def asked_views(self, use: str) -> tuple[str, ...]:
        """The views that the teacher is asked about: in training, those of the objective; else those of the evaluation."""
        modalities = union(self.teacher_modalities)
        if use == "train":
            views = self.before.stand_in_objective.teacher_views
        else:
            views = tuple(v for v in self.config.evaluation.views if v == FULL or shows(v, modalities))
        return views if self.number is None else asked_of(views, self.teacher_modalities, self.before.combination)[self.number]

    def raw(self, use: str) -> MultimodalDataset:
        """The raw examples of a split, as much of it as is wanted."""
        return self.training_reader.dataset if use == "train" else self.evaluation[use].reader.dataset

    @property
    def contents(self) -> dict[str, str]:
        """What stands for the content of the files that all processes read, by the keys that name them."""
        config = self.config
        found = {f"data.{use}": digest(self.dataset(use).fingerprint) for use in config.uses}
        folders = {"teacher.checkpoint": self.teacher_folders if config.has_teacher else ()}
        if config.is_evaluated:
            folders["checkpoint.load" if config.checkpoint.load else "env.save_dir"] = (config.evaluated,)
        elif config.init is not None and not config.goes_on:
            folders["init"] = (str(config.init_folder),)
        for key, paths in folders.items():
            found[key] = digest([read_json(find_checkpoint(path) / "files.json") for path in paths])
        return {key: f"content {value[:12]}" for key, value in found.items()}

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
        folder, checkpoint = weights_of(self.teacher_folder, self.config)
        for modality in self._other_tensors(checkpoint.card):
            raise CheckpointError(
                f"{folder}: the teacher was trained on other {modality} tensors than this run makes (another vocabulary or "
                f"length). Set data.processors_from={self.teacher_folder}."
            )
        with torch.random.fork_rng(devices=[]):
            model = rebuilt(checkpoint.card, folder)
        load_weights(model, checkpoint.model, str(folder))
        if teacher.channels is not None:
            keep_channels(model, **vars(teacher.channels))
        return LiveTeacher(model.to(self.world.device), self.teacher_masker or self.masker)

    def _other_tensors(self, card: Mapping[str, Any]) -> list[str]:
        """Modalities of a saved model of which this run makes other tensors than it was trained on."""
        saved = card["processors"]
        known = [m for m in card["modalities"] if m in self.processors]
        return [m for m in known if saved[m]["fingerprint"] != fingerprint(self.processors[m])]

    @cached_property
    def objective(self) -> Objective:
        """What is minimised; it holds the maskers, so that what they learned is saved with it."""
        context = {"model": self.model, "teacher": self.teacher, "masker": self.masker}
        built = OBJECTIVES.build(self.config.objective, "objective", self.facts, **context)
        built.masker, built.teacher_masker = self.masker, self.teacher_masker
        built = built.to(self.world.device)
        if built.needs_dry_run:
            self._show_examples(built)
        return built

    def _show_examples(self, objective: Objective) -> None:
        """Shows an objective the first training examples; a teacher whose answers are kept is asked itself."""
        reader, teacher = self.training_reader, self.config.teacher
        batch = next(iter(EvaluationBatches(reader, Collator(self.processors, self.info), DRY_RUN_EXAMPLES)))
        live = self.live_teacher if teacher is not None and teacher.cache else None
        with _under("objective.features"):
            objective.dry_run(batch.to(self.world.device), live, len(reader.dataset))

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
        return math.ceil(training.max_epochs * self.num_trained_on / training.batch_size)

    @cached_property
    def chosen(self) -> tuple[Indices, Indices] | None:
        """The examples of the training split that are trained on, and those that are held out for the objective to learn from."""
        held_out = self.objective.held_out
        if held_out is None:
            return None
        length = len(self.training_reader.dataset)
        rest, held = hold_out(length, held_out.share, self.config.seed)
        if not len(rest) or not len(held):
            raise DataError(
                f"holding {held_out.share} of {length} training examples out leaves {len(rest)} and {len(held)} of them."
            )
        return rest, held

    @property
    def num_trained_on(self) -> int:
        """Examples of an epoch."""
        return len(self.training_reader.dataset) if self.chosen is None else len(self.chosen[0])

    @cached_property
    def plan(self) -> Plan:
        training, evaluation, checkpoint = self.config.training, self.config.evaluation, self.config.checkpoint
        epoch = self.num_trained_on / training.batch_size
        every = evaluation.every_updates or epoch
        if self.num_updates / every > MOST_VALIDATIONS:
            text = f"a validation every {every:,.4g} of {self.num_updates:,} updates is more than {MOST_VALIDATIONS:,} of them."
            raise ConfigError(Problem("evaluation.every_updates", f"{text} Make fewer."))
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
            measured=self.measured,
            examples=self.training_reader.dataset.fingerprint,
        )

    @property
    def measured(self) -> dict[str, Any]:
        """What the monitored metric's value depends on beside the model."""
        specs = {plain(spec)["type"]: plain(spec) for spec in self.config.evaluation.metrics}
        examples = self.dataset("validation").fingerprint if self.config.data.validation else None
        found = {"metric": specs[self.monitor.rpartition("/")[2]], "examples": examples, "at_most": self.limit("validation")}
        return dict(json.loads(json.dumps(found)))

    @cached_property
    def training_batches(self) -> TrainingBatches:
        training, length = self.config.training, self.num_trained_on
        place = (self.world.rank, self.world.size)
        plan = TrainingPlan(
            length, training.batch_size, self.num_updates, training.accumulate, *place, self.config.seed, self.length_pools
        )
        return self._batches(plan, None if self.chosen is None else self.chosen[0])

    @cached_property
    def held_out_batches(self) -> TrainingBatches | None:
        """What an objective learns from beside the batches, in an order of its own."""
        held_out = self.objective.held_out
        if held_out is None or self.chosen is None:
            return None
        place, looks = (self.world.rank, self.world.size), -(-self.num_updates // held_out.every)
        seed = stream_seed(self.config.seed, HELD_OUT)
        plan = TrainingPlan(len(self.chosen[1]), held_out.batch_size, looks, 1, *place, seed)
        return self._batches(plan, self.chosen[1])

    def _batches(self, plan: TrainingPlan, among: Indices | None) -> TrainingBatches:
        data = self.config.data
        collator = Collator(self.processors, self.info, data.unlabelled or data.labelled_share < 1)
        return TrainingBatches(self.training_reader, collator, plan, data.workers, self.world.device.type == "cuda", among)

    @cached_property
    def length_pools(self) -> LengthPools | None:
        """The lengths of the training examples, measured by all processes together, where batches are to be pooled by them."""
        if self.config.data.length_pool == 0:
            return None
        shares = self.world.gather(measure_lengths(self.training_reader, self.world.rank, self.world.size))
        lengths = np.empty(sum(map(len, shares)), np.int32)
        for rank, share in enumerate(shares):
            lengths[rank :: len(shares)] = share
        return LengthPools(lengths if self.chosen is None else lengths[self.chosen[0]], self.config.data.length_pool)

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
    def optimization(self) -> tuple[Optimizer, LRScheduler]:
        """What changes the weights, and its learning rate."""
        objective, recipe = self.objective, self.optimizer
        schedule = SCHEDULERS.build(self.config.scheduler, "scheduler", self.facts)
        with _under("optimizer"):
            optimizer: object = recipe.build(objective)
            if not isinstance(optimizer, Optimizer):
                raise ValueError(f"build of {type(recipe).__name__} returns a {type(optimizer).__name__}, no optimizer of torch.")
        with _under("scheduler"):
            return optimizer, schedule.build(optimizer, self.num_updates)

    @cached_property
    def runner(self) -> Runner:
        """The runner, before its first update."""
        optimizer, schedule = self.optimization
        return Runner(
            self.objective,
            self.training_batches,
            optimizer,
            schedule,
            self.plan,
            self.world,
            (lambda: measure(self.predict("validation"), self.metrics)) if self.config.data.validation else None,
            self.checkpoints,
            self.card,
            self.callbacks,
            self.held_out_batches,
        )

    def dry_run(self, finite: bool = True) -> DryRun:
        """What tries the run on its longest and shortest rows."""
        rows = ExtremeRows(self.config, self.world.device, self.processors, self.info, self.dataset)
        return DryRun(self.config, rows, finite)

    def try_models(self, dry_run: DryRun) -> None:
        """Tries the student, and teachers that are asked anew each time, on the views that the run asks for.

        Raises:
            ConfigError: if one cannot take a row, with the key to change and the row.
            DataError: if a row cannot be read.
        """
        model, masker, teacher = self.model, self.masker, self.config.teacher
        dry_run.rows.check_files()
        dry_run.rows.check_texts()
        views = [*self.config.evaluation.views, *getattr(self.objective, "student_views", ())]
        dry_run.student(model, masker, views, self.metrics)
        if teacher is not None and teacher.ema is None and not teacher.cache:
            for one in self.teachers:
                dry_run.teacher(one.live_teacher, one.asked_views("train"))

    @property
    def precision(self) -> Choice:
        """What the run trains and evaluates in; where only `auto` is said of a trained model, what it was trained in."""
        if not self.config.is_evaluated:
            return self.runner.choose_precision()
        saved = read_json(find_checkpoint(self.config.evaluated) / "state.json").get("precision")
        trained = Choice(**saved) if saved else Choice(FP32.name, "precision: fp32, as the checkpoint names no other")
        return Choice.given(self.config.training.precision) or trained

    def predict(self, use: str, batches: Iterable[Batch] | None = None) -> PredictedBatches:
        """The trained model's predictions of a split, on every view that the configuration asks for.

        Args:
            use: what the split is used for.
            batches: the same batches as `evaluation` has of it, where they are shared with the teacher.
        """
        views = self.config.evaluation.views

        def ask(batch: Batch, names: Sequence[str]) -> Tensor:
            return self.model.forward_views([self.masker.view(batch, n).inputs for n in names]).logits

        self.model.eval()
        self.masker.eval()
        batches = self.evaluation[use] if batches is None else batches
        return predict(ask, batches, views, self.world, self.precision.precision, self.model.modalities)

    def ask_teacher(self, use: str, batches: Iterable[Batch]) -> PredictedBatches | None:
        """The teacher's predictions of batches of a split on the same views, of those that it can be shown."""
        teacher, views = self.teacher_of(use), self.config.evaluation.views
        if teacher is None:
            return None
        views = [v for v in views if v == FULL or shows(v, teacher.modalities)]
        for masker in (self.masker, self.teacher_masker):
            if masker is not None:
                masker.eval()

        def ask(batch: Batch, names: Sequence[str]) -> Tensor:
            return teacher.predict(batch, names).logits

        return predict(ask, batches, views, self.world, self.precision.precision, teacher.modalities)

    @property
    def waits_before_training(self) -> bool:
        """Whether the training split is gone through before the first update: for statistics, or a teacher's answers."""
        teacher = self.config.teacher
        parts = (self.masker, self.teacher_masker, self.objective)
        return any(part is not None and part.needs_fit for part in parts) or (teacher is not None and bool(teacher.cache))

    def fit_statistics(self) -> None:
        """Lets the maskers, and then the objective, look at the training split once, if they have to."""
        self.fit_maskers()
        self._fit(self.objective)
        for loss in self.objective.modules():
            if isinstance(loss, WeighedTaskLoss) and loss.needs_counts:
                loss.balance(*self.class_counts)

    @cached_property
    def class_counts(self) -> tuple[Tensor, int]:
        """How many training examples have each class, or their sum of scores, float64 [C]; and how many have a label."""
        examples, collator = self.dataset("train"), Collator({}, self.info)
        counts, num_labelled = torch.zeros(self.info.num_classes, dtype=torch.float64), 0
        for first in range(0, len(examples), COUNTED):
            targets = collator.targets([examples[i] for i in range(first, min(first + COUNTED, len(examples)))])
            targets = targets[has_label(targets)]
            num_labelled += len(targets)
            counts += targets.bincount(minlength=len(counts)) if targets.ndim == 1 else targets.sum(0)
        return counts, num_labelled

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
        folder, checkpoint = weights_of(path, self.config)
        for modality in self._other_tensors(checkpoint.card):
            raise CheckpointError(
                f"{folder}: was trained on other {modality} tensors than this run makes. Give data.processors.{modality} the "
                f"options that it was trained with: {flow(checkpoint.card['processors'][modality]['spec'])}."
            )
        load_weights(self.model, checkpoint.model, str(folder))
        for name, masker in {"masker.": self.masker, "teacher_masker.": self.teacher_masker}.items():
            if masker is not None:
                masker.load_state_dict(_part(checkpoint.objective, name), strict=False)
        if self.config.teacher is not None and self.config.teacher.ema is not None:
            load_weights(self.average.average, _part(checkpoint.objective, "teacher.average."), f"{folder} (teacher.ema)")
        return int(checkpoint.state["update"])


@dataclass(frozen=True)
class _Inputs:
    """One modality's raw inputs of the examples of a split that have it, read whenever they are gone through.

    Args:
        examples: the split.
        modality: which of its inputs.
        reader: leaves out those that it cannot load; all are taken if None.
    """

    examples: MultimodalDataset
    modality: str
    reader: Processor | None = None

    def __iter__(self) -> Iterator[Any]:
        values = (self.examples[i].inputs[self.modality] for i in range(len(self.examples)))
        return (value for value in values if value is not None and self._can_be_read(value))

    def _can_be_read(self, value: Any) -> bool:
        if self.reader is None:
            return True
        try:
            self.reader.load(value)
        except DataError:
            return False
        return True


@dataclass(frozen=True)
class _OnDevice:
    """Batches on this process's device, to be gone through as often as needed."""

    batches: EvaluationBatches
    world: World

    def __iter__(self) -> Iterator[Batch]:
        return (batch.to(self.world.device) for batch in self.batches)


class _Made(dict[str, T]):
    """What is made when it is first asked for."""

    def __init__(self, make: Callable[[str], T]):
        super().__init__()
        self.make = make

    def __missing__(self, key: str) -> T:
        self[key] = self.make(key)
        return self[key]


def fingerprint(processor: Processor) -> str:
    """What a teacher and its student, or a model that is trained and then evaluated, must share of a processor."""
    return processor.deterministic().fingerprint


@contextmanager
def _under(key: str) -> Iterator[None]:
    """What is refused while this lasts is a problem of a key."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(Problem(key, str(error))) from error


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those whose names begin like this, without it."""
    return {key.removeprefix(name): tensor for key, tensor in tensors.items() if key.startswith(name)}
