"""Whole runs in a precision that is given, or measured."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from msd_framework.cli import main
from msd_framework.engine import runner as runner_module
from msd_framework.engine.checkpoint import read_json
from msd_framework.engine.evaluation import PredictedBatches
from msd_framework.engine.precision import BF16, FP32, MEDIUM, Choice, choose
from msd_framework.errors import ConfigError
from msd_framework.run import run
from tests.integration.test_docs import ROOT, blocks


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / "last" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Lets `auto` measure and then take bf16; what was measured each time."""
    seen: list[Any] = []

    def take_bf16(measured: Any) -> Choice:
        seen.append(measured)
        return Choice("bf16", "precision: bf16, as told")

    monkeypatch.setattr(runner_module, "choose", take_bf16)
    return seen


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions that predictions are made in, in their order."""
    seen: list[str] = []

    def watched(ask: Any, batches: Any, views: Any, world: Any, precision: Any, *others: Any) -> Any:
        seen.append(precision.name)
        return PredictedBatches(ask, batches, views, world, precision, *others)

    monkeypatch.setattr("msd_framework.build.run.PredictedBatches", watched)
    return seen


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_measures_is_bit_for_bit_the_run_that_is_told(tiny_config, tmp_path, told, workers):
    more = [f"data.workers={workers}", "training.max_updates=4"]
    run(tiny_config, [f"env.save_dir={tmp_path / 'given'}", "training.precision=bf16", *more])
    assert told == []
    run(tiny_config, [f"env.save_dir={tmp_path / 'auto'}", "training.precision=auto", *more])
    assert [m.name for m in told[0]] == ["fp32", "medium", "bf16"]
    assert same(tmp_path / "given", tmp_path / "auto")
    given, auto = (json.loads((tmp_path / n / "report.json").read_text()) for n in ("given", "auto"))
    assert given["metrics"] == auto["metrics"]


def test_random_transforms_and_maskers_that_draw_see_nothing_of_the_measurement(tiny_config, tiny_teacher, tmp_path, told):
    more = [
        "data.processors.image.augment=crop_flip",
        f"teacher.checkpoint={tiny_teacher}",
        "objective={type: distillation, views: [full, image, text], weighting: {type: population, saliency: drop}}",
        "masker={type: by_modality, maskers: {image: noise, text: other}}",
        "training.max_updates=4",
    ]
    run(tiny_config, [f"env.save_dir={tmp_path / 'given'}", "training.precision=bf16", *more])
    run(tiny_config, [f"env.save_dir={tmp_path / 'auto'}", "training.precision=auto", *more])
    assert same(tmp_path / "given", tmp_path / "auto")


def test_what_was_chosen_and_why_is_printed_and_kept(tiny_config, tmp_path, capsys):
    report = run(tiny_config, [f"env.save_dir={tmp_path / 'auto'}", "training.precision=auto"])
    kept = report["precision"]
    assert kept["name"] in ("fp32", "medium", "bf16")
    assert kept["line"].startswith(f"precision: {kept['name']}")
    assert kept["line"] in capsys.readouterr().err.splitlines()
    assert kept["line"] in (tmp_path / "auto" / "report.md").read_text()
    for name in ("report.json", "environment.json", "checkpoints/last/state.json"):
        assert read_json(tmp_path / "auto" / name)["precision"] == kept


def test_nothing_is_printed_of_a_precision_that_was_given(tiny_config, tmp_path, capsys):
    report = run(tiny_config, [f"env.save_dir={tmp_path / 'given'}"])
    assert report["precision"] == {"name": "fp32", "line": "precision: fp32, as the configuration says"}
    assert "precision" not in capsys.readouterr().err


def test_a_resumed_run_goes_on_in_what_it_took(tiny_config, tmp_path, told, monkeypatch):
    auto = [f"env.save_dir={tmp_path / 'auto'}", "training.precision=auto", "checkpoint.resume=true"]
    run(tiny_config, auto)
    monkeypatch.setattr(runner_module, "probe_objective", None)
    assert run(tiny_config, [*auto, "training.max_updates=4"])["precision"]["name"] == "bf16"


@pytest.mark.parametrize("precision", [FP32, MEDIUM, BF16], ids=lambda p: p.name)
def test_validation_test_and_the_teachers_answers_are_in_the_runs_precision(tiny_config, tiny_teacher, tmp_path, asked, precision):
    more = [f"teacher.checkpoint={tiny_teacher}", "objective={type: distillation, views: [full]}"]
    run(tiny_config, [f"env.save_dir={tmp_path / 'out'}", f"training.precision={precision.name}", *more])
    assert len(asked) >= 5  # a validation, and in the end two splits by student and teacher
    assert set(asked) == {precision.name}


@pytest.mark.parametrize(
    ("trained", "evaluated", "expected", "loaded"),
    [
        ("bf16", "auto", "bf16", False),
        ("auto", "auto", "bf16", True),
        ("fp32", "auto", "fp32", False),
        ("bf16", "fp32", "fp32", True),
    ],
)
def test_a_trained_model_is_evaluated_in_what_is_asked_for_or_what_it_was_trained_in(
    tiny_config, tmp_path, told, asked, trained, evaluated, expected, loaded
):
    run(tiny_config, [f"env.save_dir={tmp_path / 'out'}", f"training.precision={trained}"])
    asked.clear()
    where = [f"env.save_dir={tmp_path / 'other'}", f"checkpoint.load={tmp_path / 'out'}"] if loaded else []
    words = [f"env.save_dir={tmp_path / 'out'}", "run_type=test", f"training.precision={evaluated}", *where]
    assert run(tiny_config, words)["precision"]["name"] == expected
    assert asked == [expected]


def test_a_checkpoint_that_names_no_precision_is_evaluated_in_fp32(tiny_config, tmp_path, asked, monkeypatch):
    run(tiny_config, [f"env.save_dir={tmp_path / 'out'}"])
    monkeypatch.setattr("msd_framework.build.models.read_json", lambda path: {})
    asked.clear()
    found = run(tiny_config, [f"env.save_dir={tmp_path / 'out'}", "run_type=test", "training.precision=auto"])["precision"]
    assert found == {"name": "fp32", "line": "precision: fp32, as the checkpoint names no other"}
    assert asked == ["fp32"]


def test_auto_is_checked_like_any_other_and_measured_only_in_training(tiny_config, tmp_path, told):
    assert run(tiny_config, [f"env.save_dir={tmp_path / 'out'}", "run_type=check", "training.precision=auto"]) == {}
    assert told == []


@pytest.mark.parametrize(("wrong", "right"), [("atuo", "auto"), ("meduim", "medium"), ("bf61", "bf16")])
def test_a_slip_is_told_the_nearest_name(tiny_config, wrong, right):
    with pytest.raises(ConfigError, match=rf"training\.precision: .*got '{wrong}'\. Did you mean '{right}'\?"):
        run(tiny_config, [f"training.precision={wrong}", "run_type=check"])


def test_the_pages_commands_work_and_its_lines_are_what_is_printed(tmp_path, monkeypatch, capsys):
    page = ROOT / "docs" / "precision.md"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "projects").symlink_to(ROOT / "projects")
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert len(commands) == 3
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "msd"
        assert main(words) == 0, f"{command}\n{capsys.readouterr().err}"
    assert read_json(Path("runs/auto/report_test.json"))["precision"]["name"] == "bf16"


def test_a_gradient_that_is_no_number_leaves_fp32_to_tell_of_it(tiny_config, tmp_path, monkeypatch):
    seen: list[Choice] = []

    def watched(measured: Any) -> Choice:
        seen.append(choose(measured))
        assert all(m.gradient_error == math.inf for m in measured[1:])
        return seen[-1]

    monkeypatch.setattr(runner_module, "choose", watched)
    forward = runner_module.probe_objective

    def spoilt(objective: Any, batches: Any, device: Any) -> Any:
        with torch.no_grad():
            next(objective.parameters()).fill_(float("nan"))
        return forward(objective, batches, device)

    monkeypatch.setattr(runner_module, "probe_objective", spoilt)
    with pytest.raises(Exception, match="not finite since update 1"):
        run(tiny_config, [f"env.save_dir={tmp_path / 'out'}", "training.precision=auto"])
    assert seen[0].name == "fp32"
