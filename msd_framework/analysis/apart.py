"""What looks at a run without doing it: in a folder of its own, so that the run's folder is left alone."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from msd_framework.config.load import Source, locating
from msd_framework.config.schema import RunConfig
from msd_framework.engine.distributed import World
from msd_framework.randomness import seed_everything


@contextmanager
def begun_anew(source: Source) -> Iterator[Source]:
    """A run as if it were trained from its first update, into a folder that goes again."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**source.values.get("env", {}), "save_dir": str(Path(folder) / "run")}
        yield Source({**source.values, "run_type": "train", "checkpoint": {}, "env": env}, source.origins)


@contextmanager
def apart(config: RunConfig, source: Source) -> Iterator[tuple[RunConfig, World]]:
    """Takes a run's threads, seed and processes; yields it with a folder of its own, which goes again, and this process."""
    if config.env.threads:
        torch.set_num_threads(config.env.threads)
    seed_everything(config.seed)
    with locating(source), World.join(config.env.device) as world:
        folder = world.gather(f"{config.env.save_dir}-{platform.node()}-{os.getpid()}")[0]
        try:
            yield replace(config, env=replace(config.env, save_dir=folder)), world
            world.wait()
        finally:
            if world.is_first:
                shutil.rmtree(folder, ignore_errors=True)
