"""Weights that are learned by several processes are those of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msd_framework.engine.distributed import World
from msd_framework.testing import run_processes
from tests.learned_runs import learned_run, result

RUNS: dict[str, dict[str, Any]] = {
    "examples": {"accumulate": 2},
    "views": {"per": "view", "every": 2},
    "before": {"order": "before", "packed": False},
}


def _train(folder: str) -> None:
    with World.join("cpu") as world:
        for name, options in RUNS.items():
            runner, weights = learned_run(world, **options)
            runner.fit()
            (Path(folder) / f"{name}_{world.rank}.json").write_text(json.dumps(result(runner, weights)))


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    run_processes(_train, 2, str(folder))
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_the_weights_of_one(name: str, of_two_processes: Path) -> None:
    runner, weights = learned_run(**{k: v for k, v in RUNS[name].items() if k != "accumulate"})
    runner.fit()
    wanted = result(runner, weights)
    for rank in range(2):
        found = json.loads((of_two_processes / f"{name}_{rank}.json").read_text())
        for ours, theirs in zip(found["rows"], wanted["rows"], strict=True):
            assert ours == pytest.approx(theirs, abs=1e-9)  # order of float64 sums
        np.testing.assert_allclose(found["parameters"], wanted["parameters"], rtol=0, atol=1e-7)
