"""A run goes on from its last whole checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from msd_framework.callbacks.base import Callback
from msd_framework.components.registry import raised_at
from msd_framework.engine.checkpoint import Checkpoint, CheckpointFolder, misfit, part_of, put_under, read
from msd_framework.engine.precision import Choice
from msd_framework.engine.runner import Runner
from msd_framework.errors import CheckpointError, ConfigError, MSDError, Problem
from msd_framework.randomness import restore_random_state


def resume(runner: Runner) -> list[str]:
    """Puts a runner where the last whole checkpoint of its folder was written; sentences on what became of what that held."""
    checkpoints = runner.checkpoints
    path, damaged = checkpoints.newest_whole() if checkpoints else (None, [])
    if path is None or checkpoints is None:
        return []
    saved = read(path)
    state = saved.state
    try:
        notes = [*damaged, f"goes on from {path}, update {state['update']} of {runner.plan.num_updates}"]
        _check_form(runner, path, state)
        _check_data(runner, path, saved)
        notes += _restore_tensors(runner, path, saved)
        notes += _restore_best(runner, checkpoints, state)
        notes += _restore_callbacks(runner, state)
        runner.update = state["update"]
        notes += _restore_length(runner, state)
        own = f"{runner.world.rank}."
        restore_random_state(part_of(saved.random, own))
    except MSDError:
        raise
    except Exception as error:  # what was edited can make anything raise
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise _unlike(path, reason) from error
    return notes


def _check_form(runner: Runner, path: Path, state: Mapping[str, Any]) -> None:
    own = {
        "update": 0,
        "best": state.get("best") and 0.0,
        "optimizer": {"param_groups": runner.world.optimizer_state_of(runner.optimizer)[1]["param_groups"]},
        "scheduler": runner.scheduler.state_dict(),
        "scaler": runner.scaler.state_dict(),
        "window": runner.window.state(),
    }
    wrong = misfit(state, own)
    if not wrong and state["update"] < 0:
        wrong = f"update is {state['update']}"
    if wrong:
        raise _unlike(path, wrong)


def _unlike(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: its state.json is not that of a run like this one: {why}. Name another env.save_dir.")


def _check_data(runner: Runner, path: Path, saved: Checkpoint) -> None:
    if saved.state.get("examples", runner.plan.examples) != runner.plan.examples:
        raise CheckpointError(
            f"{path}: was made on other training examples than those that are there now, whose order it has stored. "
            f"Bring the files of data.train back as they were, or name another env.save_dir."
        )
    before, now = (card.get("facts", {}).get("class_names") for card in (saved.card, runner.card))
    if before and now and list(before) != list(now):
        text = f"its classes are {', '.join(map(str, before))}, and now they are {', '.join(map(str, now))}"
        raise CheckpointError(f"{path}: {text}. Bring the data back as it was, or name another env.save_dir.")


def _restore_tensors(runner: Runner, path: Path, saved: Checkpoint) -> list[str]:
    state, world = saved.state, runner.world
    weights = put_under("model.", saved.model) | dict(saved.objective)
    world.load_weights(runner.objective, weights, str(path))
    world.load_optimizer_state(runner.optimizer, saved.optimizer, state["optimizer"])
    runner.scheduler.load_state_dict(state["scheduler"])
    runner.scaler.load_state_dict(state["scaler"])
    runner.window.restore(state["window"])
    if runner.choice is None and state.get("precision"):
        runner.choice = Choice(**state["precision"])
    processes = len({name.partition(".")[0] for name in saved.random})
    if processes == world.size:
        return []
    return [f"{processes} processes before, {world.size} now: the rest of the noise is drawn anew"]


def _restore_best(runner: Runner, checkpoints: CheckpointFolder, state: Mapping[str, Any]) -> list[str]:
    """A best value is compared with values of the same metric on the same examples alone."""
    is_same = state.get("watched") == runner.watched
    checkpoints.go_on_from(state, keeps_best=is_same)
    if is_same:
        runner.best = state["best"]
    if is_same or state["best"] is None:
        return []
    before = state.get("watched", {}).get("monitor", "what was watched")
    text = f"the best {before} so far, {state['best']:.4g}, was measured otherwise: its checkpoint is kept"
    return [f"{text}, and the best {runner.plan.monitor} is looked for from here on"]


def _restore_callbacks(runner: Runner, state: Mapping[str, Any]) -> list[str]:
    """Each gets the state of its own name; what has no state yet begins afresh."""
    # older versions wrote them down by their places alone
    states = state["callbacks"] if isinstance(state["callbacks"], Mapping) else {}
    own = dict(runner.named_callbacks)
    for name, callback in own.items():
        try:
            if name in states:
                callback.restore(states[name])
        except Exception as error:  # a class of a user's may raise anything
            text = f"{name} cannot take back the state that it has in the checkpoint: {raised_at(error)}"
            raise ConfigError(Problem("callbacks", text)) from error
    notes = []
    for name in states:
        if name not in own and states[name]:
            notes.append(f"{name} is not among the callbacks any more: what it knew is dropped")
    for name, callback in own.items():
        if name not in states and callback.state():
            notes.append(f"{name} is new among the callbacks: it begins afresh")
    return [*notes, *_restore_stop(runner, own.get(state.get("stopped_by") or ""), state)]


def _restore_stop(runner: Runner, stopper: Callback | None, state: Mapping[str, Any]) -> list[str]:
    """A run that a callback has stopped stays so if the callback still wants that."""
    reason = state["stop_reason"]
    if not reason:
        return []
    if stopper is None or not stopper.still_stops(runner):
        return [f"had stopped, since {reason}; that holds no longer, so it trains on"]
    runner.stop_reason, runner.stopped_by = reason, state["stopped_by"]
    if state["num_updates"] != runner.plan.num_updates:
        why = f"the run has stopped at update {state['update']}, since {reason}, and that still holds"
        raise ConfigError(Problem("callbacks", f"{why}. Leave the callback out or raise its patience to train on."))
    return [f"no update is made: {reason}"]


def _restore_length(runner: Runner, state: Mapping[str, Any]) -> list[str]:
    """Where the run has another length than before, the schedule of the learning rate is that of the new one."""
    notes, scheduler = [], runner.scheduler
    before, now = state.get("num_updates", runner.plan.num_updates), runner.plan.num_updates
    if runner.update > now:
        text = f"the run ends after {now} updates, and its checkpoint is from update {runner.update}. Name a later end."
        raise ConfigError(Problem("training.max_updates", text))
    if runner.update == now and not runner.stop_reason:
        notes.append("no update is made: the run is at its end")
    if before == now or not isinstance(scheduler, LambdaLR):
        return notes
    rates = [base * rate(runner.update) for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas)]
    for group, rate in zip(runner.optimizer.param_groups, rates):
        group["lr"] = rate
    old, scheduler._last_lr = scheduler.get_last_lr()[0], rates
    if old != rates[0]:
        notes.append(f"the schedule is that of {now} updates: the learning rate goes on at {rates[0]:.3g}, from {old:.3g}")
    return notes
