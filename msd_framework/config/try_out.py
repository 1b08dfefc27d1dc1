"""A run that is only checked, tried out where its files are at hand."""

from __future__ import annotations

import tempfile
from dataclasses import replace

from msd_framework.build.facts import RunFacts
from msd_framework.config.build import Assembly
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
        assembly = Assembly(config, World.alone(config.env.device))
        assembly.open_splits()
        if not RunFacts(config).weights_are_at_hand:
            return
        assembly.optimization  # noqa: B018 -- made to see whether it can be
        dry_run = assembly.dry_run()
        assembly.try_models(dry_run)
        if assembly.waits_before_training:
            dry_run.training_mode(assembly.model)
        else:
            dry_run.step(assembly.objective)
