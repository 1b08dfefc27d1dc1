"""A trained model with its processors, loaded from the folder of its run, to predict rows that a program holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msd_framework.build.facts import needs_all
from msd_framework.build.models import STUDENT, trained_precision
from msd_framework.build.run import student_predictions
from msd_framework.components.specs import Spec, differences
from msd_framework.config import cards
from msd_framework.config.load import load as load_config
from msd_framework.config.load import resolve
from msd_framework.config.schema import CheckpointConfig, RunConfig
from msd_framework.config.structure import structure_problems, structured
from msd_framework.data.base import Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.loader import EvaluationBatches
from msd_framework.data.batches.reader import ExampleReader, Kept
from msd_framework.data.overlap import target_problem
from msd_framework.data.records import Records
from msd_framework.engine.checkpoint import Checkpoint, load_weights, part_of
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import Predictions
from msd_framework.engine.precision import Precision
from msd_framework.engine.prediction_table import names_of, predicted_names
from msd_framework.errors import CheckpointError, ConfigError, DataError, Problem
from msd_framework.maskers.base import Masker
from msd_framework.models.base import MultimodalModel, evaluated
from msd_framework.randomness import random_numbers_apart
from msd_framework.ranges import too_large
from msd_framework.registry import MASKERS, PROCESSORS
from msd_framework.structures import Batch, DatasetInfo, probabilities
from msd_framework.views import FULL, refuse_other_rows, visible_modalities


@dataclass(frozen=True)
class ViewPredictions:
    """What a model predicts of N rows on one view: NaN, and None for a class, of a row of which the view shows nothing.

    Args:
        logits: float32 [N, C].
        probabilities: float32 [N, C], of the classes, or of yes for each of several labels.
        classes: the name of the likeliest class of each row; of several labels, a list of those above 0.5.
        shown: of which rows the view shows something, bool [N].
    """

    logits: Tensor
    probabilities: Tensor
    classes: list[Any]
    shown: Tensor

    @classmethod
    def of(cls, found: Predictions, view: str, info: DatasetInfo) -> ViewPredictions:
        logits, classes = found.logits[view], list[Any]()
        shown = found.shown.get(view, torch.ones(len(logits), dtype=torch.bool))
        for names, is_shown in zip(predicted_names(logits, info), shown.tolist()):
            predicted = list(names) if info.task == "multi_label" else names[0]
            classes.append(predicted if is_shown else None)
        logits = logits.masked_fill(~shown[:, None], float("nan"))
        return cls(logits, probabilities(logits, info.outcomes), classes, shown)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, how rows become its tensors, and how its views hide a modality.

    Args:
        model: the model, an `nn.Module` in eval mode on its device.
        facts: what it was built with, to build another model of the same inputs:
            ``MODELS.build({"type": ...}, facts=trained.facts)``.
        precision: what its run predicted in.
        batch_size: how many rows its run predicted at once.
    """

    model: MultimodalModel
    masker: Masker
    processors: Mapping[str, Processor]
    info: DatasetInfo
    facts: Mapping[str, Any]
    world: World
    precision: Precision
    batch_size: int

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.model.modalities

    @property
    def device(self) -> torch.device:
        return self.world.device

    @property
    def class_names(self) -> tuple[str, ...]:
        return names_of(self.info)

    def predict(self, rows: Any, views: str | Sequence[str] = FULL, batch_size: int | None = None) -> dict[str, ViewPredictions]:
        """What the model predicts of rows on each view, as its run would, in the order of the rows.

        Args:
            rows: dicts with a value for each modality, a single one, or a DataFrame. A text is a str; an image is the
                path of a file, a PIL image or an array; a sound is the path of a file or its samples; features are an
                array, or their name.
            views: names of views, such as ``["full", "image"]``.
            batch_size: how many rows are predicted at once; as in its run if None.

        Raises:
            ConfigError: if there is no such view, or no row in a batch.
            DataError: of the first row that cannot be read, with its place.
        """
        names = self._known([views] if isinstance(views, str) else views)
        batch_size = self.batch_size if batch_size is None else batch_size
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(Problem("batch_size", f"wanted a whole number above 0, got {batch_size!r}."))
        reader = ExampleReader(Records(rows, self.modalities, None), self.processors, names_modality=True)
        if not len(reader.dataset):
            raise DataError("there are no rows to predict")
        reader.check_files()
        batches = EvaluationBatches(reader, Collator(self.processors, self.info), batch_size)
        with evaluated(self.model), evaluated(self.masker):
            found = student_predictions(self.model, self.masker, batches, names, self.world, self.precision).together()
        return {view: ViewPredictions.of(found, view, self.info) for view in names}

    def batch(self, rows: Any, targets: Sequence[Any] | None = None) -> Batch:
        """Rows, as `predict` takes them, as the model's tensors, for a loop of one's own.

        Args:
            targets: a class a row, by its number, or C scores from 0 to 1; None of a row where nobody knows.
        """
        records, decoded, loaded = Records(rows, self.modalities, self._targets(targets)), Kept(), []
        reader = ExampleReader(records, self.processors, names_modality=True)
        if not len(reader.dataset):
            raise DataError("there are no rows, wanted at least one")
        for index in range(len(reader.dataset)):
            one = reader(index, decoded)
            assert one is not None  # nothing is skipped
            loaded.append(one)
        return Collator(self.processors, self.info)(loaded)

    def _targets(self, targets: Any) -> list[Any] | None:
        given, listed = _plain(targets), list[Any]()
        if given is None:
            return None
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise DataError(f"targets is a {type(targets).__name__}, wanted a list of one for each row")
        for i, target in enumerate(given):
            listed.append(_plain(target))
            if wanted := target_problem(listed[-1], self.info):
                raise DataError(f"targets[{i}]: is {listed[-1]!r}, wanted {wanted}")
        return listed

    def _known(self, views: Any) -> list[str]:
        if not isinstance(views, Collection) or not views or not all(isinstance(view, str) for view in views):
            raise ConfigError(Problem("views", f"wanted names of views, such as ['{FULL}'], got {views!r}."))
        names = list(dict.fromkeys(views))
        for view in names:
            try:
                visible_modalities(view, self.modalities)
                refuse_other_rows(view)
            except ValueError as error:
                raise ConfigError(Problem("views", str(error))) from error
        return names


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def load(folder: str | Path, device: str | torch.device = "auto", allow: str | Collection[str] = ()) -> TrainedModel:
    """The model of a finished run, with all that it needs to predict; nothing that the folder names is imported.

    Args:
        folder: the run's folder, whose best checkpoint is taken, or one of its checkpoints.
        device: such as ``cpu`` or ``cuda:1``; auto takes a GPU where there is one.
        allow: classes of your own that the folder may name, such as ``["package.MyModel"]``, or a single one.

    Raises:
        CheckpointError: if there is no run, if a file of it is missing or damaged, or if it names other code.
        ConfigError: if there is no such device.
    """
    given, own = str(Path(folder).expanduser()), frozenset([allow] if isinstance(allow, str) else allow)
    path, checkpoint = cards.weights_of(given, own)
    config, world = _config_of(given, path), World(device=_device(device))
    with random_numbers_apart():
        model = cards.rebuilt(checkpoint.card, path)
        processors = _processors(checkpoint, path, cards.learned_processors(given, own))
        kinds = {m: p.kind for m, p in processors.items()}
        masker = _masker(config, checkpoint, path, own, needs_all(model.takes_subsets, kinds))
    load_weights(model, checkpoint.model, str(path))
    facts = checkpoint.card["facts"]
    class_names = tuple(facts.get("class_names") or ())
    info = DatasetInfo(kinds, facts["num_classes"], facts["task"], class_names, cards.read_as(checkpoint.card))
    if model.modalities != tuple(processors) or not model.num_classes == info.num_classes == len(names_of(info)):
        raise CheckpointError(f"{path}: its card.json describes another model than it rebuilds. Take another checkpoint.")
    precision = trained_precision(config).precision
    model, masker = model.to(world.device).eval(), masker.to(world.device).eval()
    return TrainedModel(model, masker, processors, info, facts, world, precision, config.evaluation.batch_size)


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        if found.type not in ("cpu", "cuda"):
            raise RuntimeError("models are run on cpu and cuda alone")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(Problem("device", f"{device} cannot be used: {reason}. Take cpu, or auto.")) from error
    return found


def _config_of(folder: str, path: Path) -> RunConfig:
    file = (cards.processors_folder(folder).parent / "config.yaml").resolve()
    if not file.is_file():
        raise CheckpointError(f"{file}: is missing, which says how views hide a modality; copy the whole folder of the run.")
    try:
        values = resolve(load_config(file)).values
    except ConfigError as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    problems = structure_problems(values, RunConfig)
    if problems:
        raise CheckpointError(f"{file}: is not that of a run of this version: {problems[0]}")
    config = structured(values, RunConfig)
    if config.evaluation.batch_size < 1:
        raise CheckpointError(f"{file}: evaluation.batch_size must be above 0, got {config.evaluation.batch_size}.")
    return replace(config, checkpoint=CheckpointConfig(load=str(path)))


def _processors(checkpoint: Checkpoint, path: Path, learned: Mapping[str, Path]) -> dict[str, Processor]:
    found: dict[str, Processor] = {}
    for modality in checkpoint.card["modalities"]:
        kept, where = checkpoint.card["processors"][modality], f"{path}: its processor of {modality}"
        try:
            processor = PROCESSORS.build(kept["spec"], f"processors.{modality}.spec", checkpoint.card["facts"])
            processor.restore(learned[modality])
        except CheckpointError:
            raise
        except Exception as error:  # options that were edited can make a constructor raise anything
            raise CheckpointError(f"{where} cannot be made: {str(error) or type(error).__name__}") from error
        if cards.fingerprint(processor) != kept["fingerprint"]:
            raise CheckpointError(f"{where} makes other tensors than it was trained on; copy the whole folder of the run again.")
        found[modality] = processor.deterministic()
    return found


def _masker(config: RunConfig, checkpoint: Checkpoint, path: Path, own: frozenset[str], in_full: bool) -> Masker:
    """How the run's evaluations hide a modality from the model, of which `in_full` says whether it needs each."""
    where = f"{path}: the masker of its config.yaml"
    spec = config.evaluation.masker or (config.masker if in_full else "drop")
    try:
        for value in (config.masker, spec):
            foreign = next(cards.foreign_names(Spec("masker", MASKERS, value), own), None)
            if foreign is not None:
                text = f"names {foreign!r}, which is code and no registered component"
                raise CheckpointError(f"{where} {text}. If it is yours, allow it: load(..., allow=[{foreign!r}]).")
            for key, number in too_large({"masker": value}):
                raise CheckpointError(f"{where} has {key}={number}, more than any has.")
            masker = MASKERS.build(value, "masker", checkpoint.card["facts"])
        is_own = not differences(MASKERS, spec, config.masker)
    except CheckpointError:
        raise
    except Exception as error:  # options that were edited can make a constructor raise anything
        raise CheckpointError(f"{where} cannot be made: {str(error) or type(error).__name__}") from error
    learned = part_of(checkpoint.objective, "masker." if is_own else f"evaluation_masker.{STUDENT}.")
    if masker.needs_fit and not learned:
        text = "learns from the training examples, and nothing that it learned is in the checkpoint"
        raise CheckpointError(f"{where} {text}. Take another checkpoint.")
    masker.load_state_dict(learned, strict=False)
    return masker
