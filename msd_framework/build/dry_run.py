"""A run tried before its first update: its longest rows, and a step of the real size, once through teacher and student."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from msd_framework.build.extreme_rows import ExtremeRows, SideOfRows
from msd_framework.components.contract import OURS
from msd_framework.components.registry import raised_at
from msd_framework.config.schema import RunConfig
from msd_framework.data.base import Processor
from msd_framework.engine.precision import FP32, PRECISIONS, left_as_it_was
from msd_framework.errors import ConfigError, MSDError, Problem, is_memory, is_of_this_library, is_ours
from msd_framework.maskers.base import Masker
from msd_framework.metrics.base import Metric
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import Objective
from msd_framework.structures import Batch, Inputs
from msd_framework.teachers.live import LiveTeacher
from msd_framework.views import FULL

ONE_EXAMPLE = "Expected more than 1 value per channel"  # what torch says of a batch norm that sees one number of each feature
Predict = Callable[[Batch, Sequence[str]], None]  # refuses predictions that are none


class DryRun:
    """Tries what a run will do on its longest and shortest rows; random numbers and all that is kept stay as they were."""

    # the doctor looks for what is not finite itself, weight by weight
    def __init__(self, config: RunConfig, rows: ExtremeRows, finite: bool = True):
        self.config, self.rows, self.finite, self.device = config, rows, finite, rows.device
        self.precision = PRECISIONS.get(config.training.precision, FP32)

    def student(
        self, model: MultimodalModel, masker: Masker, views: Sequence[str], metrics: Mapping[str, Metric], at: str = "masker"
    ) -> None:
        """Runs the student on these rows, on the full input and the views that the run asks it for; the masker stands at a key."""

        def predict(batch: Batch, names: Sequence[str]) -> None:
            logits = model.forward_views([self._view(masker, batch, name, at) for name in names]).logits
            wanted = [len(names), len(batch.targets), self.rows.info.num_classes]
            if list(logits.shape) != wanted or not logits.is_floating_point():
                text = f"{type(model).__name__} gives logits {list(logits.shape)} of {logits.dtype}, wanted floats {wanted}"
                raise ConfigError(Problem("model", f"{text}: views, examples and classes."))
            key = "init" if self.config.init else "model"
            self._check_finite(logits, batch, names, key, "the student's", ", before any update.")

        with self._left_as_they_were(model, masker):
            model.eval()
            self._try("model", "the student", predict, masker, [FULL, *views], self.rows.of_student)
            self._try_metrics(model, metrics)

    def teacher(self, teacher: LiveTeacher, views: Sequence[str], number: int = 0) -> None:
        """Runs a teacher, with its weights, on these rows, on the full input and the views that the run asks it for."""

        def predict(batch: Batch, names: Sequence[str]) -> None:
            logits = teacher.predict(batch, names).logits
            self._check_finite(logits, batch, names, "teacher.checkpoint", "its", ". Take another checkpoint.")

        with self._left_as_they_were(teacher.model, teacher.masker):
            rows = self.rows.of_teacher(number)
            self._try("teacher.checkpoint", "the teacher", predict, teacher.masker, [FULL, *views], rows)

    def _check_finite(self, logits: Tensor, batch: Batch, views: Sequence[str], key: str, whose: str, end: str) -> None:
        for view, prediction in zip(views, logits):
            if self.finite and not prediction.isfinite().all():
                text = f"{whose} prediction of {self.rows.source(batch)} on the view {view!r} is not finite{end}"
                raise ConfigError(Problem(key, text))

    def _view(self, masker: Masker, batch: Batch, name: str, at: str) -> Inputs:
        """A view of a batch, in which each modality is still of as many examples."""
        with self._explaining(at, "the masker", batch):
            inputs = masker.view(batch, name).inputs
        for modality, whole in batch.inputs.items():
            hidden = inputs.get(modality)
            if hidden is None and not masker.removes:
                text = f"{type(masker).__name__} leaves {modality} out of the view {name!r}. If it may, set removes = True."
                raise ConfigError(Problem(at, text))
            if hidden is not None and not len(hidden.values) == len(hidden.mask) == len(whole.mask):
                sizes = f"values {list(hidden.values.shape)} and a mask {list(hidden.mask.shape)} of {len(whole.mask)} examples"
                raise ConfigError(Problem(at, f"{type(masker).__name__} makes {sizes} of {modality} in the view {name!r}."))
        return inputs

    def _try_metrics(self, model: MultimodalModel, metrics: Mapping[str, Metric]) -> None:
        """Computes each metric of a user's own on these rows."""
        batch = self.rows.of_student.together
        with torch.no_grad(), self.precision.active(self.device):
            logits = model.forward_views([batch.inputs]).logits[0].float().cpu()
        known = batch.labelled.cpu()
        for place, (name, metric) in enumerate(metrics.items()):
            if type(metric).__module__.partition(".")[0] == OURS:
                continue
            at = f"evaluation.metrics[{place}]"
            try:
                value: object = metric(logits[known], batch.targets.cpu()[known])
            except Exception as error:  # a class of a user's may raise anything
                raise ConfigError(Problem(at, f"{name}: {raised_at(error)}")) from error
            if not isinstance(value, (int, float, np.number)) and not (isinstance(value, Tensor) and value.numel() == 1):
                raise ConfigError(Problem(at, f"{name} gives {value!r}, wanted a number."))

    def training_mode(self, model: nn.Module) -> None:
        """Shows the student a step of rows in training mode, where the step itself can be tried only much later."""
        batch = self.rows.step
        with self._left_as_they_were(model), self._explaining("model", "the student", batch), torch.no_grad():
            model.train()
            with self.precision.active(self.device):
                model(batch.inputs)

    def step(self, objective: Objective) -> None:
        """Makes a training step of the real size on the longest rows, forward and backward, and forgets it."""
        batch = self.rows.step
        with self._left_as_they_were(objective), self._explaining("objective", "a training step", batch):
            objective.train()
            try:
                with self.precision.products():
                    with self.precision.autocast(self.device):
                        output = objective(batch)
                    if self.finite and not output.loss.isfinite():
                        text = f"the loss of {self.rows.source(batch)} is {output.loss.item()}, before any update."
                        raise ConfigError(Problem("objective", text))
                    output.loss.backward()
            finally:
                objective.zero_grad(set_to_none=True)

    def _try(self, key: str, name: str, predict: Predict, masker: Masker, views: Sequence[str], rows: SideOfRows) -> None:
        """Runs a model on each row by itself, on all of them on every view, and on the last word that there is."""
        masker.eval()
        views = [FULL] if masker.needs_fit else list(dict.fromkeys(views))
        for batch, names in [*((batch, [FULL]) for batch in rows.alone), (rows.together, views)]:
            with self._explaining(key, name, batch), torch.no_grad(), self.precision.active(self.device):
                predict(batch, names)
        for path, modality, processor in rows.processors:
            if processor.kind == "tokens":
                self._try_last_word(path, rows.alone[0], modality, processor, name, predict)

    def _try_last_word(self, path: str, batch: Batch, modality: str, processor: Processor, name: str, predict: Predict) -> None:
        size, inputs = processor.facts.get("vocab_size"), batch.inputs[modality]
        if size is None:
            return
        words = inputs.values.masked_fill(inputs.mask & ~inputs.special, size - 1)
        try:
            with torch.no_grad(), self.precision.active(self.device):
                predict(batch.with_inputs({**batch.inputs, modality: replace(inputs, values=words)}), [FULL])
        except IndexError as error:
            text = f"makes tokens from 0 to {size - 1}, and {name} has no embedding for the last one ({error})."
            hint = "Take the tokenizer that it was made for, or a model with as many embeddings."
            raise ConfigError(Problem(path, f"{text} {hint}")) from error

    @contextmanager
    def _left_as_they_were(self, *modules: nn.Module) -> Iterator[None]:
        try:
            with left_as_it_was(nn.ModuleList(modules), self.device):
                yield
        except RuntimeError as error:
            # a GPU that has failed once refuses to put anything back; what it failed at is what counts
            if isinstance(error.__context__, MSDError):
                raise error.__context__ from None
            raise

    @contextmanager
    def _explaining(self, key: str, name: str, batch: Batch) -> Iterator[None]:
        """What a model raises, as a sentence with the key to change and the row."""
        try:
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except MSDError:
            raise
        except Exception as error:  # a model of a user's may raise anything
            raise ConfigError(self._problem(key, name, batch, error)) from error

    def _problem(self, key: str, name: str, batch: Batch, error: Exception) -> Problem:
        training, text = self.config.training, str(error)
        if ONE_EXAMPLE in text and len(batch) == 1:
            parts = f"{training.batch_size} examples in {training.batch_size} parts"
            wanted = "and a batch norm that learns needs two: raise it, or lower training.accumulate or the number of processes."
            return Problem("training.batch_size", f"{parts} leaves one example to a part, {wanted} ({text})")
        if is_memory(error):
            hint = "Lower it, raise training.accumulate, or shorten the inputs."
            return Problem("training.batch_size", f"memory is full in {name} of {len(batch)} of the longest rows. {hint}")
        shapes = ", ".join(f"{m} {list(x.values.shape)}" for m, x in batch.inputs.items())
        named = next((m for m in batch.inputs if m in text.lower()), None)
        reason = text if is_ours(error) else f"{type(error).__name__}: {text}{_line_of_user(error)}"
        at = f"data.processors.{named}" if named else key
        stop = "" if reason.endswith(".") else "."
        return Problem(at, f"{name} cannot take {self.rows.source(batch)}, {shapes}: {reason}{stop}")


def _line_of_user(error: Exception) -> str:
    """The line of a user's own module that raised it; empty where only libraries are to be seen."""
    line = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if "site-packages" not in frame.filename and not is_of_this_library(frame.filename):
            line = f" ({frame.filename}:{frame.lineno})"
    return line
