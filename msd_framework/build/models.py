"""The student of a run, and how views hide a modality from it and from its teacher."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from msd_framework.build.data import Data, OnDevice
from msd_framework.components.registry import plain
from msd_framework.components.specs import differences
from msd_framework.config.cards import card_of, fingerprint, make_card, rebuilt, weights_of
from msd_framework.config.schema import InitConfig, RunConfig
from msd_framework.config.values import flow
from msd_framework.engine.checkpoint import find_checkpoint, load_weights, misfit, part_of, read_json
from msd_framework.engine.optim import OptimizerRecipe
from msd_framework.engine.precision import FP32, PRECISIONS, Choice
from msd_framework.errors import CheckpointError, ConfigError, Problem
from msd_framework.maskers.base import Masker
from msd_framework.metrics.base import Metric
from msd_framework.models.base import MultimodalModel
from msd_framework.models.pretrained.inherit import Inheritance
from msd_framework.randomness import random_numbers_apart
from msd_framework.registry import MASKERS, METRICS, MODELS, OPTIMIZERS

STUDENT = "student"  # the side of a teacher that sees what the student sees


@dataclass(frozen=True)
class Maskers:
    """How views hide a modality from the student and from each teacher."""

    student: Masker
    teachers: Sequence[Masker] = ()  # the student's, unless it is another way or the teacher sees other tensors
    sides: Sequence[str] = ()  # a name for the tensors that each teacher sees, whatever the order of the teachers
    evaluation: Maskers | None = None  # the same where a split is measured; None where that is as in training

    def of(self, use: str) -> Maskers:
        """Those of a split's views, by the use of the split."""
        return self if use == "train" or self.evaluation is None else self.evaluation

    @property
    def each(self) -> dict[Masker, int | None]:
        """The student's, those that only teachers have and those of evaluations, with the number of a teacher that sees the
        same tensors; None where the student does.
        """
        numbers: dict[Masker, int | None] = {}
        for maskers in (self, self.of("test")):
            numbers.setdefault(maskers.student, None)
            for number, masker in enumerate(maskers.teachers):
                numbers.setdefault(masker, number)
        return numbers

    @property
    def own(self) -> dict[str, Masker]:
        """Those that only teachers have, by their sides."""
        return {side: masker for side, masker in zip(self.sides, self.teachers) if masker is not self.student}

    @property
    def own_of_teachers(self) -> nn.Module | None:
        """Those that only teachers have, as they are saved with the student; None if they have none."""
        return nn.ModuleDict(self.own) if len(self.own) > 1 else next(iter(self.own.values()), None)

    @property
    def own_of_evaluation(self) -> dict[str, Masker]:
        """Those that only evaluations have, by their sides; on each side there is one at most."""
        theirs, trained_with = self.of("test"), (self.student, *self.teachers)
        by_side = zip((STUDENT, *theirs.sides), (theirs.student, *theirs.teachers))
        return {side: masker for side, masker in by_side if masker not in trained_with}

    def load(self, objective: Mapping[str, Tensor], where: Path) -> None:
        """Takes what each has learned from a checkpoint."""
        _load_masker(self.student, part_of(objective, "masker."), f"{where}: holds nothing that `masker` has learned")
        saved = part_of(objective, "teacher_masker.")
        for side, masker in self.own.items():
            learned = part_of(saved, f"{side}.") or saved  # one alone is saved without its side
            _load_masker(masker, learned, f"{where}: holds nothing that a masker has learned from what these teachers see")
        for side, masker in self.own_of_evaluation.items():
            learned = part_of(objective, f"evaluation_masker.{side}.")
            _load_masker(masker, learned, f"{where}: holds nothing that `evaluation.masker` has learned")

    def fit(self, batches: OnDevice) -> None:
        """Lets each learn the statistics that it asks for, from the same examples as its side sees them."""
        for masker, number in self.each.items():
            if masker.needs_fit:
                masker.fit(batches if number is None else batches.of_teacher(number))

    def eval(self) -> None:
        for masker in self.each:
            masker.eval()


def build_maskers(data: Data) -> Maskers:
    """How views hide a modality from student and teachers; `fit` has still to show them the training split, if they ask for it."""
    num_teachers = 0 if data.config.teacher is None else max(1, len(data.config.teacher_folders))
    sides, built = [_side(data, number) for number in range(num_teachers)], dict[tuple[str, str], Masker]()

    def of_side(use: str, number: int | None = None) -> Masker:
        """Models that see the same tensors have one, and training and evaluation where both hide in the same way."""
        at, spec = data.facts.masker_of(use, number)
        trained_at, trained_with = data.facts.masker_of("train", number)
        if not differences(MASKERS, spec, trained_with):
            at = trained_at
        side, known = (STUDENT, data.known) if number is None else (sides[number], data.known_to_teacher(number))
        if (side, at) not in built:
            built[side, at] = MASKERS.build(spec, at, known).to(data.world.device)
        return built[side, at]

    with random_numbers_apart():
        student, teachers = of_side("train"), [of_side("train", k) for k in range(num_teachers)]
        evaluation = Maskers(of_side("test"), [of_side("test", k) for k in range(num_teachers)], sides)
    return Maskers(student, teachers, sides, evaluation)


def _side(data: Data, number: int) -> str:
    """A name for the tensors that a teacher sees, the same in every run and order of teachers."""
    own = {m: fingerprint(p) for (m, teachers), p in data.teacher_overrides.items() if number in teachers}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16] if own else STUDENT


def _load_masker(masker: Masker, learned: Mapping[str, Tensor], problem: str) -> None:
    unknown = masker.load_state_dict(learned, strict=False).unexpected_keys
    if masker.needs_fit and (unknown or not learned):
        raise CheckpointError(f"{problem}. Evaluate with the masker and the teachers that the run was trained with.")


def build_recipe(data: Data) -> OptimizerRecipe:
    """How weights are changed, and which are not."""
    facts = {**data.known, "fine_tunes": data.facts.may_be_pretrained}
    return OPTIMIZERS.build(data.config.optimizer, "optimizer", facts)


def build_model(data: Data, recipe: OptimizerRecipe) -> MultimodalModel:
    """The student with its first weights: random ones, published ones, or those that `init` names.

    They are the first that the run draws after its seed; what is made beside it draws apart from the run.
    """
    config = data.config
    model = MODELS.build(config.model, "model", data.known)
    path = config.starts_from
    if path is not None and config.init is not None:
        for modality in other_tensors_of(card_of(path, config), data):
            text = f"init: the model of {path} was trained on other {modality} tensors than this run makes."
            raise CheckpointError(f"{text} Set data.processors_from={path}.")
        start_from(model, path, config.init, config)
    with problems_of("optimizer"):
        recipe.parts.freeze(model)
    return model.to(data.world.device)


def start_from(model: MultimodalModel, path: str, init: InitConfig, config: RunConfig) -> None:
    """Gives a model its first weights, of a run or checkpoint."""
    folder, saved = weights_of(path, config)
    with random_numbers_apart():
        source = rebuilt(saved.card, folder)
    load_weights(source, saved.model, path)
    try:
        taken = Inheritance(model, source, init.layers, init.cut, init.only).tensors()
    except ValueError as error:
        raise ConfigError(Problem("init", str(error))) from error
    model.load_state_dict(taken, strict=False)


def card_of_student(data: Data, model: MultimodalModel) -> dict[str, Any]:
    """How the student is rebuilt, kept with its weights."""
    return make_card(model, data.config.model, dict(data.known), data.processors, data.config.data.processors)


def other_tensors_of(card: Mapping[str, Any], data: Data) -> list[str]:
    """Modalities of a saved model of which a run makes other tensors than it was trained on."""
    saved = card["processors"]
    known = [m for m in card["modalities"] if m in data.processors]
    return [m for m in known if saved[m]["fingerprint"] != fingerprint(data.processors[m])]


def build_metrics(data: Data) -> dict[str, Metric]:
    """What predictions are measured with, by name."""
    specs = data.config.evaluation.metrics
    return {plain(s)["type"]: METRICS.build(s, f"evaluation.metrics[{i}]", data.known) for i, s in enumerate(specs)}


def load_trained(data: Data, model: MultimodalModel, maskers: Maskers, average: MultimodalModel | None) -> int:
    """Gives a run the weights of a trained model, and what its maskers learned; returns the update of its checkpoint."""
    folder, checkpoint = weights_of(data.config.evaluated, data.config)
    for modality in other_tensors_of(checkpoint.card, data):
        raise CheckpointError(
            f"{folder}: was trained on other {modality} tensors than this run makes. Give data.processors.{modality} the "
            f"options that it was trained with: {flow(checkpoint.card['processors'][modality]['spec'])}."
        )
    load_weights(model, checkpoint.model, str(folder))
    maskers.load(checkpoint.objective, folder)
    if average is not None:
        load_weights(average, part_of(checkpoint.objective, "teacher.average."), f"{folder} (teacher.ema)")
    return int(checkpoint.state["update"])


def trained_precision(config: RunConfig) -> Choice:
    """What a trained model is evaluated in: as the configuration says; where that says `auto`, what it was trained in."""
    path = find_checkpoint(config.evaluated) / "state.json"
    saved = read_json(path).get("precision")
    if saved and (misfit(saved, asdict(Choice(FP32.name, ""))) or saved.get("name") not in PRECISIONS):
        text = f"{path}: its precision is {saved!r:.100}, wanted one of {', '.join(PRECISIONS)}."
        raise CheckpointError(f"{text} Take another checkpoint.")
    saved = saved or {"name": FP32.name, "line": "precision: fp32, as the checkpoint names no other"}
    return Choice.given(config.training.precision) or Choice(saved["name"], str(saved.get("line", "")))


@contextmanager
def problems_of(key: str) -> Iterator[None]:
    """What is refused while this lasts is a problem of a key, unless it names one itself."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, ConfigError) and all(problem.path for problem in error.problems):
            raise
        raise ConfigError(Problem(key, str(error))) from error
