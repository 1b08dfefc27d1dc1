"""What a run is built of, whatever else it has."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_framework.build.facts import RunFacts
from msd_framework.build.run import Run, build
from msd_framework.checks.run import checked
from msd_framework.config.load import load
from msd_framework.engine.distributed import World
from msd_framework.registry import MASKERS


def built(config: Path, folder: Path, *words: str) -> Run:
    run = checked(load(config, [f"env.save_dir={folder}", *words]))
    torch.manual_seed(0)
    return build(RunFacts(run), World())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_student_begins_with_the_same_weights_whoever_teaches_it(tiny_config: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    distils = "objective={type: distillation, views: [full, image]}"
    teaches = f"teacher.checkpoint={tiny_teacher}"
    runs = {
        "alone": [],
        "taught": [distils, teaches],
        "cached": [distils, teaches, "teacher.cache=true", f"teacher.cache_dir={tmp_path / 'cache'}"],
        "average": [distils, "teacher.ema=0.9"],
        "noise": [distils, teaches, "teacher.masker=noise"],
    }
    models = {name: built(tiny_config, tmp_path / name, *words).model.state_dict() for name, words in runs.items()}
    assert all(same(models["alone"], weights) for weights in models.values())


def test_a_masker_that_draws_when_it_is_made_changes_no_weight(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = built(tiny_config, tmp_path / "plain", "masker=constant")
    cls = MASKERS.get("constant")
    init = cls.__init__

    @functools.wraps(init)
    def drawing(self: Any, *args: Any, **options: Any) -> None:
        torch.rand(7)
        init(self, *args, **options)

    monkeypatch.setattr(cls, "__init__", drawing)
    assert same(plain.model.state_dict(), built(tiny_config, tmp_path / "drawn", "masker=constant").model.state_dict())


def test_a_run_that_evaluates_has_nothing_that_trains(tiny_config: Path, tiny_teacher: Path) -> None:
    evaluated = built(tiny_config, tiny_teacher, "run_type=val")
    assert evaluated.training is None
    assert list(evaluated.data.splits) == ["validation"]
