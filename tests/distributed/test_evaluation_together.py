"""What several processes measure and write together is what one does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import PredictedBatches, in_order, measure
from msd_framework.registry import METRICS
from msd_framework.testing import made_batch, run_processes, take

NAMES = ["accuracy", "auroc", "average_precision", "cross_entropy", "f1_macro", "recall_weighted"]
NUM_EXAMPLES = 23


def _evaluate(folder: str) -> None:
    with World.join("cpu") as world:
        data = made_batch(NUM_EXAMPLES)
        data.targets[-3:] = -100
        table = torch.randn(2, NUM_EXAMPLES, 3, generator=torch.Generator().manual_seed(1)).double()
        mine = list(range(world.rank, NUM_EXAMPLES, world.size))
        batches = [replace(take(data, mine[i : i + 4]), places=tuple(mine[i : i + 4])) for i in range(0, len(mine), 4)]
        if world.rank == 1:
            del batches[1]  # of which no example could be read

        def ask(batch, views):
            return table[:, list(batch.places)]

        found = PredictedBatches(ask, batches, ["full", "image"], world)
        metrics = measure(found, {name: METRICS.build(name) for name in NAMES})
        rows = in_order(([(place, f"row {place}") for place in batch.places.tolist()] for batch in found), world)
        result = {"metrics": metrics, "rows": list(rows), "missing": [p for p in mine if all(p not in b.places for b in batches)]}
        (Path(folder) / f"{world.rank}.json").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("two")
    run_processes(_evaluate, 2, str(folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_metrics_are_those_of_all_examples_and_the_same_on_each_process(told: list[dict]) -> None:
    data = made_batch(NUM_EXAMPLES)
    missing = {*told[1]["missing"], *range(NUM_EXAMPLES - 3, NUM_EXAMPLES)}
    kept = [place for place in range(NUM_EXAMPLES) if place not in missing]
    table = torch.randn(2, NUM_EXAMPLES, 3, generator=torch.Generator().manual_seed(1))
    for view, prefix in enumerate(("", "image/")):
        for name in NAMES:
            wanted = METRICS.build(name)(table[view, kept], data.targets[kept])
            assert told[0]["metrics"][prefix + name] == pytest.approx(wanted, abs=1e-12)
    assert told[0]["metrics"] == told[1]["metrics"]


def test_rows_come_in_the_splits_order_each_once(told: list[dict]) -> None:
    kept = [place for place in range(NUM_EXAMPLES) if place not in told[1]["missing"]]
    assert len(kept) == NUM_EXAMPLES - 4
    assert told[0]["rows"] == told[1]["rows"] == [f"row {place}" for place in kept]
