"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from msd_framework.callbacks.base import Callback
from msd_framework.engine.checkpoint import Checkpoint, CheckpointFolder, load_weights, optimizer_tensors, read, restore_optimizer
from msd_framework.engine.distributed import World
from msd_framework.engine.labels import parts_of_update
from msd_framework.engine.log_window import LogWindow
from msd_framework.engine.look_ahead import Batches, LookAhead, undone
from msd_framework.engine.precision import Choice, Precision, choose, probe_objective
from msd_framework.engine.random_state import random_state, restore_random_state
from msd_framework.errors import TrainingError
from msd_framework.objectives.base import Objective
from msd_framework.progress import Progress
from msd_framework.structures import Batch, StepOutput


@dataclass(frozen=True)
class Plan:
    """How long a run is and what happens when.

    Args:
        num_updates: optimizer updates of the whole run.
        accumulate: parts of a batch that are computed one after another.
        clip_norm: the largest norm of the gradient; None does not clip.
        precision: ``fp32``, ``medium``, ``bf16`` or ``fp16``; ``auto`` takes what `Runner.choose_precision` finds.
        log_every: updates between two logs.
        validate_at: the updates after which a validation is made.
        save_at: the updates after which a checkpoint is written, beside those that are the best so far.
        monitor: the metric that chooses the best checkpoint.
        larger_is_better: whether it does so by its largest value.
    """

    num_updates: int
    accumulate: int = 1
    clip_norm: float | None = None
    precision: str = "fp32"
    log_every: int = 50
    validate_at: frozenset[int] = frozenset()
    save_at: frozenset[int] = frozenset()
    monitor: str = ""
    larger_is_better: bool = True


class Runner:
    """Minimises an objective.

    Args:
        objective: what is minimised; its `model` is what a checkpoint calls the model.
        batches: this process's parts of each update's batch.
        optimizer: changes the objective's parameters.
        scheduler: changes the optimizer's learning rate, once an update.
        plan: how long, and what happens when.
        world: this process among all.
        validate: makes a validation and returns its metrics, the same ones on every process.
        checkpoints: where checkpoints go; None writes none.
        card: how the model is rebuilt, kept with each checkpoint.
        callbacks: what watches.
        held_out: held-out examples, for an objective that learns from them.

    Attributes:
        update: updates made so far.
        best: the best value of the monitored metric so far, None before the first validation.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        plan: Plan,
        world: World | None = None,
        validate: Callable[[], dict[str, float]] | None = None,
        checkpoints: CheckpointFolder | None = None,
        card: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        held_out: Batches | None = None,
    ):
        self.objective, self.batches, self.plan, self.world = objective, batches, plan, world or World()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.validate, self.checkpoints, self.card, self.callbacks = validate, checkpoints, dict(card or {}), callbacks
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=plan.precision == "fp16")
        self.update, self.stop_reason = 0, ""
        self.best: float | None = None
        self.choice = Choice.given(plan.precision)
        self.window = LogWindow(self.world.device)
        self.look_ahead = held_out and LookAhead(objective, held_out, optimizer, self.world, plan.clip_norm)
        if objective.held_out is not None and held_out is None:
            raise ValueError("the objective learns from held-out examples, and the runner was given none.")

    def fit(self) -> None:
        """Trains to the end of the plan, from wherever the runner stands.

        Raises:
            TrainingError: at the first log after a loss or a gradient that is not finite, naming its update.
        """
        precision = self.choose_precision().precision
        module = self.world.wrap(self.objective).train()
        parts = self.batches.starting_at(self.update)
        self.emit("on_fit_start")
        try:
            while self.update < self.plan.num_updates and not self.stop_reason:
                self.objective.begin_update(Progress(self.update, self.plan.num_updates))
                with precision.products():
                    output = self.step(module, parts, precision)
                self.objective.end_update(self.world.mean)
                self.update += 1
                self.emit("on_step_end", output)
                if self.update % self.plan.log_every == 0 or self.update == self.plan.num_updates:
                    self.log()
                improved = self.update in self.plan.validate_at and self.improves()
                if improved or self.update in self.plan.save_at:
                    self.save(best=improved)
        finally:
            self.emit("on_fit_end")

    def choose_precision(self) -> Choice:
        """What the run computes in; `auto` is measured on the next batches, once, and the first process's choice is everybody's.

        The choice is kept with every checkpoint: a resumed run takes the same one. Nothing else of the run is changed.
        """
        if self.choice is None:
            batches = (batch.to(self.world.device) for batch in self.batches.starting_at(self.update))
            self.choice = self.world.gather(choose(probe_objective(self.objective, batches, self.world.device)))[0]
        return self.choice

    def step(self, module: nn.Module, parts: Iterator[Batch], precision: Precision) -> StepOutput:
        """One update; made once before on trial where the objective learns its weights from where that leads."""
        batches: Iterable[Batch] = parts_of_update(parts, self.plan.accumulate, self.world)
        if self.objective.looks_ahead and self.objective.held_out is not None and self.objective.held_out.rehearsed:
            batches = list(batches)
            with undone(self.objective, self.optimizer, self.world.device):
                list(self.move(module, batches, precision))
        for output in self.move(module, batches, precision):
            self.window.add(self.update + 1, output)
        self.scheduler.step()
        return output

    def move(self, module: nn.Module, parts: Iterable[Batch], precision: Precision) -> Iterator[StepOutput]:
        """Changes the weights: every part's gradient added up, clipped, applied; yields what each part said."""
        for i, batch in enumerate(parts):
            with self.world.accumulating(module, last=i == self.plan.accumulate - 1):
                with precision.autocast(self.world.device):
                    output: StepOutput = module(batch)
                self.scaler.scale(output.loss / self.plan.accumulate).backward()  # type: ignore[no-untyped-call]
            yield output
        self.scaler.unscale_(self.optimizer)
        self.objective.change_gradients(self.world.mean)
        norm = self.clip()
        self.window.watch(self.update + 1, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.look_ahead:
            self.look_ahead(self.update, precision, norm)
        self.optimizer.zero_grad(set_to_none=True)

    def clip(self) -> Tensor | None:
        """Clips the gradient; its norm before that, None where a scaler answers for it."""
        largest = math.inf if self.plan.clip_norm is None else self.plan.clip_norm
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), largest)
        return None if self.scaler.is_enabled() else norm

    def log(self) -> None:
        """Reads what the window held, the one place in training that waits for the device."""
        terms = self.window.read(self.world)
        self.emit("on_log", {**terms, "lr": self.scheduler.get_last_lr()[0]})

    def improves(self) -> bool:
        """Makes a validation; whether the model is the best so far.

        Raises:
            TrainingError: if the monitored metric is undefined; a checkpoint is written first.
        """
        self.window.check(self.world)
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
        if self.checkpoints is None:
            return
        self.window.check(self.world)
        states = self.world.gather(random_state(self.world.device))
        if self.world.is_first:
            tensors, rest = optimizer_tensors(self.optimizer)
            objective = self.objective.state_dict()
            checkpoint = Checkpoint(
                model=self.objective.model.state_dict(),
                objective={k: v for k, v in objective.items() if not k.startswith("model.")},
                optimizer=tensors,
                random={f"{rank}.{name}": t for rank, state in enumerate(states) for name, t in state.items()},
                state={
                    "update": self.update,
                    "best": self.best,
                    "precision": asdict(self.choice) if self.choice else None,
                    "optimizer": rest,
                    "scheduler": self.scheduler.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "window": self.window.state(),
                    "stop_reason": self.stop_reason,
                    "callbacks": [c.state() for c in self.callbacks],
                },
                card=self.card,
            )
            self.checkpoints.save(checkpoint, self.update, best)
        self.world.wait()
        self.emit("on_checkpoint")

    def resume(self) -> bool:
        """Goes back to the last checkpoint, if there is one.

        Raises:
            CheckpointError: if it is damaged, or its weights are of another model.
        """
        path = self.checkpoints.path("last") if self.checkpoints else None
        if path is None:
            return False
        saved = read(path)
        load_weights(self.objective.model, saved.model, str(path))
        self.objective.load_state_dict(saved.objective, strict=False)
        restore_optimizer(self.optimizer, saved.optimizer, saved.state["optimizer"])
        self.scheduler.load_state_dict(saved.state["scheduler"])
        self.scaler.load_state_dict(saved.state["scaler"])
        self.window.restore(saved.state["window"])
        for callback, state in zip(self.callbacks, saved.state["callbacks"]):
            callback.restore(state)
        if self.choice is None and saved.state.get("precision"):
            self.choice = Choice(**saved.state["precision"])
        self.update, self.best, self.stop_reason = (saved.state[k] for k in ("update", "best", "stop_reason"))
        restore_random_state({k.partition(".")[2]: t for k, t in saved.random.items() if k.startswith(f"{self.world.rank}.")})
        return True

    def emit(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *arguments)
