"""What a run does, from its file to its report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from msd_framework.build.facts import RunFacts
from msd_framework.build.run import Run, Training, build
from msd_framework.build.teachers import dry_run
from msd_framework.build.training import fit_objective
from msd_framework.build.try_out import try_out, try_run
from msd_framework.callbacks.logging import NO_TENSORBOARD, tensorboard_is_installed
from msd_framework.checks.resume import at_its_place, leaves, resume_changes
from msd_framework.checks.run import checked
from msd_framework.config.load import Config, Overrides, Source, load, locating, resolve
from msd_framework.config.schema import RunConfig
from msd_framework.config.values import dump
from msd_framework.engine.distributed import World
from msd_framework.engine.memory import keep_freed_memory
from msd_framework.engine.precision import AUTO
from msd_framework.engine.resume import resume
from msd_framework.files import write_json, write_text
from msd_framework.launch import launched
from msd_framework.randomness import seed_everything
from msd_framework.report import SPLITS, environment, report
from msd_framework.screen import say


def run(config: Config, overrides: Overrides = ()) -> dict[str, Any]:
    """Runs a configuration: load, check, build, fit, report.

    Args:
        config: a YAML file, or the values of one: a dict, or a `DictConfig` of OmegaConf.
        overrides: words ``a.b=value`` over it, or a dict such as ``{"a.b": value}``.

    Returns:
        The report, which is also written to `report.json`; empty for ``run_type=check``.
    """
    source = _read(config, overrides)
    if launched().size == 1 or source.values.get("run_type") == "check":
        return run_checked(checked(source), World.join, source)
    with World.join(_device(source)) as world:  # first of all: a mistake of one machine's must end all processes
        values = {key: str(value) for key, value in leaves(resolve(source).values, "")}
        world.agree(values, "Start all with the same configuration.")
        return run_checked(world.together(lambda: checked(source)), lambda _: nullcontext(world), source)


def check(config: Config, overrides: Overrides = ()) -> None:
    """Looks for what is wrong with a run, and tries its first update out where its files are at hand; trains nothing.

    Raises:
        MSDError: a ConfigError with every problem, or of another kind if the run would stop before its end.
    """
    source = _read(config, overrides)
    source.overlay(Source({"run_type": "check"}))
    run_checked(checked(source), World.join, source)


def _read(config: Config, overrides: Overrides) -> Source:
    source = load(config, overrides)
    return source if isinstance(config, Mapping) else at_its_place(source, Path(config))


def run_checked(config: RunConfig, join: Callable[[str], AbstractContextManager[World]], source: Source) -> dict[str, Any]:
    """Builds a run, fits it if it is one that trains, and reports."""
    if config.env.threads and config.run_type != "check":
        torch.set_num_threads(config.env.threads)
    seed_everything(config.seed)  # every process makes the same weights
    started = time.monotonic()
    with locating(source):  # a constructor may refuse its options only once data was read
        if config.run_type == "check":
            try_out(config)
            return {}
        with join(config.env.device) as world:
            world.share(Path(config.env.save_dir))
            built = build(RunFacts(config), world)
            if built.training is None:
                for batches in built.data.evaluation.values():
                    batches.reader.check_files()
                return report(built, {})
            fit(built, built.training, resolve(source))
            runner, seconds = built.training.runner, round(time.monotonic() - started, 2)
            facts = {"updates": runner.update, "stopped": runner.stop_reason, "seconds": seconds}
            return report(built, {**facts, "skipped_updates": runner.skipped} if runner.skipped else facts)


def fit(run: Run, training: Training, source: Source) -> None:
    """Tries a run out, lets its parts learn what they ask for before the first update, and trains it."""
    config, world, runner = run.config, run.world, training.runner
    resumed = config.goes_on
    if resumed:
        changes = resume_changes(config)
        seed_everything(config.seed, world.rank)  # for a process that was not there before
        notes = resume(runner)
        if world.is_first:
            for note in [*changes, *notes]:
                say(f"resume: {note}")
    elif config.checkpoint.resume and (run.folder / "metrics.jsonl").exists() and world.is_first:
        say(f"resume: {run.folder} has no checkpoint yet, so the run begins at update 0")
    if world.is_first:  # a run that cannot be gone on with keeps its own
        values = dict(source.values)
        if len(config.teacher_folders) > 1:  # by their names, so that what a pattern matches later changes nothing
            values["teacher"] = {**values["teacher"], "checkpoint": list(config.teacher_folders)}
        write_text(run.folder / "config.yaml", dump(values))
    world.wait()
    trial, _ = try_run(run, training)
    # maskers first, for answers hang on what they learned; then the objective, which may ask for answers
    if not resumed:
        run.maskers.fit(run.data.all_training_examples())
    if run.teachers.open_caches(run.data, ("train", *SPLITS["train"])):
        trial = dry_run(run.data)  # without the rows that have no answer
    if not resumed:
        fit_objective(run.data, training.objective)
        seed_everything(config.seed, world.rank)  # and then draws noise of its own
    trial.step(training.objective)
    keep_freed_memory()  # from here on: what opening files has taken is not asked for again
    choice = runner.choose_precision()
    if world.is_first:
        write_json(run.folder / "environment.json", {**environment(world), "precision": asdict(choice)})
        if config.training.precision == AUTO:
            say(choice.line)
        if not tensorboard_is_installed():
            say(NO_TENSORBOARD)
    runner.fit()


def _device(source: Source) -> str:
    """What processes meet on, of a configuration that is not checked yet."""
    env = source.values.get("env")
    named = env.get("device", "auto") if isinstance(env, Mapping) else "auto"
    return named if named == "auto" or (named == "cuda" and torch.cuda.is_available()) else "cpu"
