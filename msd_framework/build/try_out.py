"""A run that is only checked, tried out where its files are at hand."""

from __future__ import annotations

import tempfile
from dataclasses import replace

from msd_framework.build.facts import RunFacts
from msd_framework.build.run import build, try_models, waits_before_training
from msd_framework.build.splits import check_splits, open_splits
from msd_framework.build.teachers import dry_run
from msd_framework.config.schema import CheckpointConfig, RunConfig
from msd_framework.engine.distributed import World


def try_out(config: RunConfig) -> None:
    """Opens a run's splits, builds it and tries it on its longest rows if its weights are on disk; what it writes is thrown away.

    Args:
        config: what the run is, with nothing wrong that can be found without data.

    Raises:
        MSDError: if it would stop before its end.
    """
    with tempfile.TemporaryDirectory() as folder:
        env, data = replace(config.env, save_dir=folder), replace(config.data, workers=0, length_pool=0)
        config = replace(config, run_type="train", env=env, data=data, checkpoint=CheckpointConfig())
        world = World.alone(config.env.device)
        facts = RunFacts(config)
        splits = open_splits(facts, world)
        check_splits(facts, splits)
        if not facts.weights_are_at_hand:
            return
        run = build(facts, world, splits)
        assert run.training is not None
        objective, trial = run.training.objective, dry_run(run.data)
        try_models(trial, run.model, run.maskers, run.teachers, objective, run.metrics)
        if waits_before_training(config, run.maskers, objective):
            trial.training_mode(run.model)
        else:
            trial.step(objective)
