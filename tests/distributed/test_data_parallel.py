"""Several processes make the same updates as one."""

from __future__ import annotations

import json
import os
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from msd_framework.callbacks.base import Callback
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import PredictedBatches
from msd_framework.engine.resume import resume
from msd_framework.errors import TrainingError
from msd_framework.losses.features import Hint, PatientDistance
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.visual_bert import VisualBert
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.features import FeatureTerm
from msd_framework.structures import Inputs, ModelOutput
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch, run_processes, take
from tests.runs import SIZES, tiny_model, tiny_runner


def _gather_and_leave(folder: str, times: int) -> None:
    rank, values = int(os.environ["RANK"]), [None, {"long": "é" * 70_000}]
    used: list[weakref.ref[Tensor]] = []
    for name in ("all_gather", "all_reduce"):
        setattr(dist, name, partial(_noting, getattr(dist, name), used))
    for i in range(times):
        dist.init_process_group("gloo", init_method=f"file://{folder}/{i}", rank=rank, world_size=2)
        assert World(rank, 2).sum(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]
        assert World(rank, 2).gather(values[rank]) == values
        time.sleep(0.01)  # gloo drops its references within this
        assert len(used) == 7  # 1 of the sum; a size, a content and 2 results of each
        assert all(ref() is not None for ref in used), "gloo held the last reference"
        used.clear()
        dist.destroy_process_group()


def _noting(call: Callable[..., Any], used: list[weakref.ref[Tensor]], *tensors: Any) -> None:
    """Makes a call between processes, and notes its tensors without holding them."""
    for one in tensors:
        used.extend(weakref.ref(tensor) for tensor in (one if isinstance(one, list) else [one]))
    call(*tensors)


def test_processes_that_leave_right_after_a_call_end(tmp_path):
    """A group's destructor and a thread of gloo that dropped the call's last tensors waited for each other."""
    run_processes(_gather_and_leave, 2, str(tmp_path), 20)


def _train(folder: str, accumulate: int) -> None:
    with World.join("cpu") as world:
        runner, recorder = tiny_runner(world, accumulate)
        runner.fit()
        weights = nn.utils.parameters_to_vector(runner.objective.model.parameters())
        (Path(folder) / f"{world.rank}.json").write_text(json.dumps({"losses": recorder.losses, "weights": weights.tolist()}))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_have_the_losses_and_weights_of_one(tmp_path, accumulate):
    run_processes(_train, 2, str(tmp_path), accumulate)
    runner, recorder = tiny_runner()
    runner.fit()
    alone = nn.utils.parameters_to_vector(runner.objective.model.parameters())
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert max(abs(a - b) for a, b in zip(found["losses"], recorder.losses, strict=True)) <= 1e-10  # order of float64 sums
        torch.testing.assert_close(torch.tensor(found["weights"], dtype=torch.float64), alone, atol=1e-8, rtol=0)


def _predict(folder: str, num_examples: int) -> None:
    with World.join("cpu") as world:
        model, data = tiny_model(0).eval(), made_batch(num_examples)
        mine = list(range(world.rank, num_examples, world.size))
        parts = [mine[i : i + 2] for i in range(0, len(mine), 2)]
        batches = [replace(take(data, part), places=tuple(part)) for part in parts]
        found = PredictedBatches(lambda batch, _: model(batch.inputs).logits[None], batches, ["full"], world).together()
        result = {"places": found.places.tolist(), "logits": found.logits["full"].tolist()}
        (Path(folder) / f"{world.rank}.json").write_text(json.dumps(result))


@pytest.mark.parametrize("num_examples", [1, 7, 8])
def test_predictions_of_two_processes_are_gathered_each_example_once_and_in_order(tmp_path, num_examples):
    run_processes(_predict, 2, str(tmp_path), num_examples)
    data = made_batch(num_examples)
    logits = tiny_model(0).eval()(data.inputs).logits.float()
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["places"] == list(range(num_examples))
        torch.testing.assert_close(torch.tensor(found["logits"]), logits, atol=1e-6, rtol=0)


def _go_wrong(folder: str) -> None:
    with World.join("cpu") as world:
        runner, _ = tiny_runner(world)
        if world.rank == 1:
            runner.batches.data.inputs["image"].values.fill_(float("nan"))  # type: ignore[attr-defined]
        with pytest.raises(TrainingError, match="since update 1"):
            runner.fit()
        (Path(folder) / f"{world.rank}").touch()


def test_a_loss_that_is_no_number_in_one_process_stops_all_of_them(tmp_path):
    run_processes(_go_wrong, 2, str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1"]


def feature_objective() -> DistillationObjective:
    """A student whose teacher is wider, so that what compares them learns as well."""
    masker = DropMasker()
    features = [FeatureTerm(Hint(), "fused.*.hidden"), FeatureTerm(PatientDistance(), "image.1.mean", view="image")]
    teacher = LiveTeacher(tiny_model(1, 16), masker)
    objective = DistillationObjective(tiny_model(2), teacher, masker, ["full", "text"], features=features)
    torch.manual_seed(6)
    objective.dry_run(made_batch(4))
    return objective


def _train_with_features(folder: str) -> None:
    with World.join("cpu") as world:
        runner, recorder = tiny_runner(world, objective=feature_objective())
        runner.fit()
        weights = nn.utils.parameters_to_vector(runner.objective.parameters())
        (Path(folder) / f"{world.rank}.json").write_text(json.dumps({"losses": recorder.losses, "weights": weights.tolist()}))


def test_what_compares_features_learns_in_two_processes_as_in_one(tmp_path):
    run_processes(_train_with_features, 2, str(tmp_path))
    runner, recorder = tiny_runner(objective=feature_objective())
    runner.fit()
    alone = nn.utils.parameters_to_vector(runner.objective.parameters())
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert max(abs(a - b) for a, b in zip(found["losses"], recorder.losses, strict=True)) <= 1e-10  # order of float64 sums
        torch.testing.assert_close(torch.tensor(found["weights"], dtype=torch.float64), alone, atol=1e-8, rtol=0)


class PartlyUsed(VisualBert):
    """Has a head that nobody asks, and a part that only some examples go through."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        super().__init__(num_classes=3, hidden_size=8, num_layers=1, dropout=0.0, attention_dropout=0.0, **SIZES)  # type: ignore[arg-type]
        self.left_over, self.rare = nn.Linear(8, 20), nn.Linear(6, 3)
        self.double()

    def forward_views(self, views: Sequence[Inputs]) -> ModelOutput:
        logits = super().forward_views(views).logits
        regions = next(view["image"].values for view in views if "image" in view).mean(1)  # [B, F]
        chosen = regions[:, 0] > regions.new_tensor(RARE)
        return ModelOutput(logits + chosen[:, None] * self.rare(regions) if chosen.any() else logits)


RARE = 0.42
"""What the first feature of a row must be above on average to go through the part that few go through."""


def partly_used_objective() -> DistillationObjective:
    masker = DropMasker()
    return DistillationObjective(PartlyUsed(), LiveTeacher(tiny_model(1, 16), masker), masker, ["full"])


def _train_partly(folder: str, accumulate: int) -> None:
    with World.join("cpu") as world:
        runner, recorder = tiny_runner(world, accumulate, objective=partly_used_objective())
        runner.fit()
        weights = nn.utils.parameters_to_vector(runner.objective.model.parameters())
        (Path(folder) / f"{world.rank}.json").write_text(json.dumps({"losses": recorder.losses, "weights": weights.tolist()}))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_parts_of_a_model_without_a_part_in_some_or_all_steps_learn_in_two_processes_as_in_one(tmp_path, accumulate):
    batch = made_batch(20)
    rare = batch.inputs["image"].values.mean(1)[:, 0] > RARE
    assert 0 < int(rare.sum()) < 5  # so that some steps, and some processes of other steps, have none
    run_processes(_train_partly, 2, str(tmp_path), accumulate)
    objective = partly_used_objective()
    before = {name: p.detach().clone() for name, p in objective.model.named_parameters()}
    runner, recorder = tiny_runner(objective=objective)
    runner.fit()
    changed = {name: not torch.equal(p, before[name]) for name, p in objective.model.named_parameters()}
    assert (changed["left_over.weight"], changed["rare.weight"]) == (False, True)
    alone = nn.utils.parameters_to_vector(objective.model.parameters())
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert max(abs(a - b) for a, b in zip(found["losses"], recorder.losses, strict=True)) <= 1e-10  # order of float64 sums
        torch.testing.assert_close(torch.tensor(found["weights"], dtype=torch.float64), alone, atol=1e-8, rtol=0)


class InterruptionError(BaseException):
    pass


class InterruptAt(Callback):
    def __init__(self, update: int):
        self.update = update

    def on_step_end(self, runner, output):
        if runner.update == self.update:
            raise InterruptionError


def _resume(folder: str, stop_at: int) -> None:
    with World.join("cpu") as world:
        runner, _ = tiny_runner(world, folder=Path(folder), dropout=0.3, save_at=frozenset({6}))
        resume(runner)
        runner.callbacks = [*runner.callbacks, InterruptAt(stop_at)]
        with suppress(InterruptionError):
            runner.fit()
        weights = nn.utils.parameters_to_vector(runner.objective.model.parameters())
        torch.save(weights, Path(folder) / f"weights_{world.rank}.pt")


def test_two_processes_resume_to_the_same_bits(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    run_processes(_resume, 2, str(tmp_path / "whole"), 0)
    run_processes(_resume, 2, str(tmp_path / "cut"), 8)  # trains 8 updates, of which a checkpoint holds 6
    run_processes(_resume, 2, str(tmp_path / "cut"), 0)
    for rank in range(2):
        whole, cut = (torch.load(tmp_path / f / f"weights_{rank}.pt", weights_only=True) for f in ("whole", "cut"))
        assert torch.equal(whole, cut)
