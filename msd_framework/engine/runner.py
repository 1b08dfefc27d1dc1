"""The training loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from msd_framework.callbacks.base import CALLBACKS, Callback
from msd_framework.components.registry import raised_at
from msd_framework.engine.blame import find_cause
from msd_framework.engine.checkpoint import Checkpoint, CheckpointFolder, part_of
from msd_framework.engine.distributed import World
from msd_framework.engine.labels import parts_of_update
from msd_framework.engine.log_window import MOST_SKIPPED, LogWindow
from msd_framework.engine.look_ahead import Batches, LookAhead, OptimizerStep, undone
from msd_framework.engine.precision import Choice, Precision, choose, probe_objective
from msd_framework.errors import ConfigError, MSDError, Problem, TrainingError, is_ours
from msd_framework.objectives.base import Objective
from msd_framework.randomness import random_state
from msd_framework.schedules import Progress
from msd_framework.structures import Batch, StepOutput


@dataclass(frozen=True)
class Plan:
    """How long a run is and what happens when."""

    num_updates: int  # optimizer updates of the whole run
    accumulate: int = 1  # parts of a batch that are computed one after another
    clip_norm: float | None = None  # the largest norm of the gradient; None does not clip
    precision: str = "fp32"  # ``fp32``, ``medium``, ``bf16`` or ``fp16``; ``auto`` takes what `Runner.choose_precision` finds
    log_every: int = 50  # updates between two logs
    validate_at: frozenset[int] = frozenset()  # the updates that a validation follows
    save_at: frozenset[int] = frozenset()  # the updates that a checkpoint follows, beside those that are the best so far
    monitor: str = ""  # the metric that chooses the best checkpoint
    larger_is_better: bool = True  # whether it does so by its largest value
    # what else its value depends on, in JSON's types: the metric's options, the examples that it is measured on
    measured: Mapping[str, Any] = field(default_factory=dict)
    examples: str = ""  # what stands for the training examples, in their order


class Runner:
    """Minimises an objective; its `model` is what a checkpoint calls the model."""

    def __init__(
        self,
        objective: Objective,
        batches: Batches,  # this process's parts of each update's batch
        optimizer: Optimizer,
        scheduler: LRScheduler,
        plan: Plan,
        world: World | None = None,
        validate: Callable[[], dict[str, float]] | None = None,  # gives the same metrics on every process
        checkpoints: CheckpointFolder | None = None,
        card: Mapping[str, Any] | None = None,  # how the model is rebuilt, kept with each checkpoint
        callbacks: Sequence[Callback] = (),
        held_out: Batches | None = None,  # held-out examples, for an objective that learns from them
    ):
        self.objective, self.batches, self.plan, self.world = objective, batches, plan, world or World()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.validate, self.checkpoints, self.card, self.callbacks = validate, checkpoints, dict(card or {}), callbacks
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=plan.precision == "fp16")
        self.update = 0  # updates so far
        self.best: float | None = None  # the best value of the monitored metric so far
        self.skipped = 0  # updates that fp16 has skipped, as of the last log
        self.stop_reason = ""
        self.stopped_by: str | None = None
        self.choice = Choice.given(plan.precision)
        self.window = LogWindow(self.world.device)
        self.look_ahead: LookAhead | None = None
        if held_out is not None:
            self.look_ahead = LookAhead(objective, held_out, optimizer, self.world, plan.clip_norm)
        elif objective.held_out is not None:
            raise ValueError("the objective learns from held-out examples, and the runner was given none.")

    def fit(self) -> None:
        """Trains to the end of the plan, from wherever the runner stands.

        Raises:
            TrainingError: at the first log after a loss or a gradient that is not finite, naming its update; in fp16, after many
                updates in a row, or all of the run, that were skipped for their gradients.
        """
        precision = self.choose_precision().precision
        self._check_callbacks()
        module = self.world.wrap(self.objective).train()
        parts = self.batches.starting_at(self.update)
        self.emit("on_fit_start")
        try:
            while self.update < self.plan.num_updates and not self.stop_reason:
                with precision.products():
                    output = self.make_update(module, parts, precision)
                self.update += 1
                self.emit("on_step_end", output)
                if self.update % self.plan.log_every == 0 or self.update == self.plan.num_updates:
                    self.log()
                improved = self.update in self.plan.validate_at and self.improves()
                if improved or self.update in self.plan.save_at:
                    self.save(best=improved)
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                self.emit("on_fit_end")
            raise
        self.emit("on_fit_end")

    def make_update(self, module: nn.Module, parts: Iterator[Batch], precision: Precision) -> StepOutput:
        """One update and the hooks around it; the output of its last part.

        `module` is the objective as the world wraps it, `parts` those of this update and of later ones.
        """
        self.objective.begin_update(Progress(self.update, self.plan.num_updates))
        batches: Iterable[Batch] = parts_of_update(parts, self.plan.accumulate, self.world)
        if self.objective.rehearses:
            batches = list(batches)
            with undone(self.objective, self.optimizer, self.world.device):
                self.step(module, batches, precision, is_logged=False)
        output = self.step(module, batches, precision)
        self.scheduler.step()
        self.objective.end_update(self.world.mean)
        return output

    def step(self, module: nn.Module, batches: Iterable[Batch], precision: Precision, is_logged: bool = True) -> StepOutput:
        """One step of the optimizer: every part's gradient added up, clipped, applied; the output of the last part."""
        for i, batch in enumerate(batches):
            with self.world.accumulating(module, last=i == self.plan.accumulate - 1):
                with precision.autocast(self.world.device):
                    output: StepOutput = module(batch)
                self.scaler.scale(output.loss / self.plan.accumulate).backward()  # type: ignore[no-untyped-call]
            if is_logged:
                self.window.add(self.update + 1, output)
        self.scaler.unscale_(self.optimizer)
        self.objective.after_backward(self.world.mean)
        norm = self.world.clip(self.objective, self.plan.clip_norm)
        self.window.watch(self.update + 1, norm, self.scaler.is_enabled())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.objective.after_step(OptimizerStep(self.update, precision, norm, self.world, self.look_ahead))
        self.optimizer.zero_grad(set_to_none=True)
        return output

    def choose_precision(self) -> Choice:
        """What the run computes in; `auto` is measured on the next batches, once, and the first process's choice is everybody's.

        The choice is kept with every checkpoint: a resumed run takes the same one. Nothing else of the run is changed.
        """
        if self.choice is None:
            batches = (batch.to(self.world.device) for batch in self.batches.starting_at(self.update))
            self.choice = self.world.gather(choose(probe_objective(self.objective, batches, self.world.device)))[0]
        return self.choice

    def _check_callbacks(self) -> None:
        for name, callback in self.named_callbacks:
            try:
                json.dumps(callback.state())
            except (TypeError, ValueError) as error:
                raise ConfigError(Problem("callbacks", f"the state of {name} cannot be written as JSON: {error}")) from error

    def log(self) -> None:
        """Reads what the window held, the one place in training that waits for the device."""
        self.check()
        terms = self.window.read(self.world)
        self.emit("on_log", {**terms, "lr": self.scheduler.get_last_lr()[0]})

    def check(self) -> None:
        """Ends a run on every process whose numbers went wrong in any, with the update, the term and where it came from."""
        health = self.window.health(self.world)
        self.skipped = health.skipped
        if health.first:
            terms = [name for name in health.names if name != "loss"] or list(health.names) or ["gradient"]
            named = ", ".join(terms[:3]) + (f" and {len(terms) - 3} more" if len(terms) > 3 else "")
            what = f"{named} {'are' if len(terms) > 1 else 'is'} not finite since update {health.first}."
            cause = next(filter(None, self.world.gather(find_cause(self.objective, self._parts_of(health.first)))), "")
            advice = cause or "Lower optimizer.lr, set training.clip_norm, or take training.precision=fp32."
            raise TrainingError(f"the {what} {advice} {self._last_good()}")
        if health.in_a_row >= MOST_SKIPPED or health.skipped == self.update >= min(MOST_SKIPPED, self.plan.num_updates):
            first = self.update - health.in_a_row + 1
            what = f"the gradient is not finite in fp16 in any update from {first} to {self.update}"
            advice = "Take training.precision=bf16, or fp32, which names what is wrong."
            raise TrainingError(f"{what}, so none of them changed a weight. {advice} {self._last_good()}")

    def _parts_of(self, update: int) -> Iterator[Batch]:
        parts = self.batches.starting_at(update - 1)
        return (next(parts).to(self.world.device) for _ in range(self.plan.accumulate))

    def _last_good(self) -> str:
        path = self.checkpoints.path("last") if self.checkpoints else None
        return f"The last good state is in {path}." if path else "No checkpoint was written before."

    def improves(self) -> bool:
        """Makes a validation; whether the model is the best so far."""
        self.check()
        if self.validate is None:
            return False
        self.objective.eval()
        metrics = self.validate()
        self.objective.train()
        value = metrics[self.plan.monitor]
        if math.isnan(value):
            self.save()
            raise TrainingError(
                f"{self.plan.monitor} is undefined on the validation split, as where all of its examples are of one class. "
                f"Monitor another metric, or take a larger split; the model is in checkpoints/last."
            )
        better = self.best is None or (value > self.best if self.plan.larger_is_better else value < self.best)
        self.best = value if better else self.best
        self.emit("on_validation_end", metrics)
        return better

    def stop(self, reason: str) -> None:
        """Ends training after this update; for callbacks, which must ask for it on every process."""
        self.stop_reason = reason

    def save(self, best: bool = False) -> None:
        """Writes a checkpoint of everything that the rest of the run depends on."""
        checkpoints = self.checkpoints
        if checkpoints is None:
            return
        self.check()
        checkpoint = self._checkpoint()

        def write() -> None:
            if self.world.is_first:
                checkpoints.save(checkpoint, self.update, best)

        self.world.together(write)
        self.emit("on_checkpoint")

    def _checkpoint(self) -> Checkpoint:
        weights = self.world.weights_of(self.objective)
        tensors, rest = self.world.optimizer_state_of(self.optimizer)
        random: dict[str, Tensor] = {}
        for rank, state in enumerate(self.world.gather(random_state(self.world.device))):
            random |= {f"{rank}.{name}": value for name, value in state.items()}
        return Checkpoint(
            model=part_of(weights, "model."),
            objective={k: v for k, v in weights.items() if not k.startswith("model.")},
            optimizer=tensors,
            random=random,
            state={
                "update": self.update,
                "num_updates": self.plan.num_updates,
                "examples": self.plan.examples,
                "best": self.best,
                "watched": self.watched,
                "precision": asdict(self.choice) if self.choice else None,
                "optimizer": rest,
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "window": self.window.state(),
                "stop_reason": self.stop_reason,
                "stopped_by": self.stopped_by,
                "callbacks": {name: callback.state() for name, callback in self.named_callbacks},
            },
            card=self.card,
        )

    @property
    def watched(self) -> dict[str, Any]:
        """What a best value is the best of."""
        if not self.plan.monitor:
            return {}
        return {"monitor": self.plan.monitor, "larger_is_better": self.plan.larger_is_better, **self.plan.measured}

    @property
    def named_callbacks(self) -> list[tuple[str, Callback]]:
        """The callbacks by what they are registered as, the second one of a kind with a number."""
        named: list[tuple[str, Callback]] = []
        for callback in self.callbacks:
            name = CALLBACKS.name_of(callback)
            same = sum(type(other) is type(callback) for _, other in named)
            named.append((f"{name} {same + 1}" if same else name, callback))
        return named

    def emit(self, event: str, *arguments: Any) -> None:
        for place, callback in enumerate(self.callbacks):
            before = self.stop_reason
            try:
                getattr(callback, event)(self, *arguments)
            except (MSDError, OSError):
                raise
            except Exception as error:  # a class of a user's may raise anything
                if is_ours(error):
                    raise
                text = f"{event} of {self.named_callbacks[place][0]} at update {self.update}: {raised_at(error)}"
                raise ConfigError(Problem("callbacks", text)) from error
            if self.stop_reason != before:
                self.stopped_by = self.named_callbacks[place][0]
