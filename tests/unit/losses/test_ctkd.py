"""CTKD's learned temperature: against the released code's numbers, and its gradient against finite differences."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_framework.engine.optim import SGDRecipe
from msd_framework.errors import ConfigError
from msd_framework.losses.ctkd import LearnedTemperature
from msd_framework.losses.logits import BernoulliKL, SoftenedKL, Standardised
from msd_framework.registry import DISTILLATION_LOSSES
from msd_framework.run import run
from msd_framework.schedules import Progress
from msd_framework.structures import ModelOutput

ALL = torch.arange(12.0, dtype=torch.float64).view(3, 4)
STUDENT, TEACHER = 3 * torch.sin(ALL), 5 * torch.cos(1.7 * ALL)

RELEASED = [  # T, D and the summed size of the student's gradient before each of 6 steps of SGD at a rate of 2
    (15.621171572600097, 9.526196905365577, 3.5757224558884677),
    (15.621171572600097, 9.526196905365577, 3.5757224558884677),
    (15.713102992146105, 9.528058120984072, 3.5763025861598496),
    (16.01124820467679, 9.533892461142614, 3.5781184755039783),
    (16.45354834805014, 9.542015001842115, 3.5806396485840626),
    (16.87521333328442, 9.549216462626248, 3.5828678847689597),
]
"""From Global_T, DistillKL and CosineDecay(0, -1, 4 epochs) of zhengli97/CTKD at 7d52522, run in float64 on these logits."""


def test_temperature_loss_and_gradient_are_the_released_code_s() -> None:
    loss = LearnedTemperature(strength={"start": 0, "end": 1, "over": 0.04, "shape": "cosine"}).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=2.0)
    for update, (temperature, value, gradient) in enumerate(RELEASED):
        begin(loss, Progress(update, 100))  # the strength grows over the first 4 of 100 updates
        student = STUDENT.clone().requires_grad_()
        found = loss(ModelOutput(student), ModelOutput(TEACHER)).mean()
        optimizer.zero_grad()
        found.backward()
        got = loss.logged()["temperature"].item(), found.item(), student.grad.abs().sum().item()
        assert got == pytest.approx((temperature, value, gradient), rel=1e-12)  # the same float64 formulas
        optimizer.step()
        loss.end_update(lambda value: value)


def begin(loss: LearnedTemperature, progress: Progress) -> None:
    for hook in (loss, loss.strength):
        hook.begin_update(progress)


OPTIMIZERS = {"AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD, "RMSprop": torch.optim.RMSprop}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_temperature_of_a_hundredth_of_the_strength_moves_about_a_hundredth_of_the_way(optimizer: str) -> None:
    moved = {}
    for strength in (0.0, 0.01, 1.0):
        loss = LearnedTemperature(strength=strength).double()
        first, steps = loss.theta.item(), OPTIMIZERS[optimizer]([loss.theta], lr=1e-3)
        for update in range(20):
            begin(loss, Progress(update, 20))
            loss(ModelOutput(STUDENT), ModelOutput(TEACHER)).mean().backward()
            steps.step()
            steps.zero_grad()
            loss.end_update(lambda value: value)
        moved[strength] = loss.theta.item() - first
    assert moved[0.0] == 0
    assert moved[0.01] / moved[1.0] == pytest.approx(0.01, rel=0.05)  # gradients change a little on the way


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), name=st.sampled_from(["ctkd", "bernoulli_ctkd"]))
def test_the_temperature_climbs_what_the_student_descends(seed: int, name: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    loss = DISTILLATION_LOSSES.build({"type": name}).double()
    loss(ModelOutput(student), ModelOutput(teacher)).sum().backward()
    plain, around = {"ctkd": SoftenedKL, "bernoulli_ctkd": BernoulliKL}[name], []
    for theta in (1 + 1e-5, 1 - 1e-5):
        temperature = 1 + 20 / (1 + math.exp(-theta))
        around.append(plain(temperature)(ModelOutput(student), ModelOutput(teacher)).sum().item())
    slope = (around[0] - around[1]) / 2e-5
    assert loss.theta.grad.item() == pytest.approx(-slope, rel=1e-4, abs=1e-7)  # the error of the differences


def test_at_any_temperature_it_is_kl_at_that_temperature() -> None:
    loss = LearnedTemperature(smallest=2.0, largest=6.0).double()
    torch.nn.init.constant_(loss.theta, 0.0)
    found = loss(ModelOutput(STUDENT), ModelOutput(TEACHER))
    torch.testing.assert_close(found, SoftenedKL(4.0)(ModelOutput(STUDENT), ModelOutput(TEACHER)), rtol=1e-12, atol=0)


def test_a_loss_of_standardised_logits_tells_its_temperature() -> None:
    assert Standardised(LearnedTemperature()).logged().keys() == {"temperature"}
    assert Standardised(SoftenedKL()).logged() == {}


def test_the_temperature_has_a_rate_of_its_own() -> None:
    groups = SGDRecipe(lr=0.1, weight_decay=0.5).build(torch.nn.ModuleDict({"loss": LearnedTemperature(lr_factor=3)})).param_groups
    (own,) = [group for group in groups if group["params"]]
    assert (own["lr"], own["weight_decay"]) == (pytest.approx(0.3), 0.0)


REFUSED = [
    ({"smallest": 0.0}, "smallest must be above 0, got 0.0"),
    ({"smallest": 3.0, "largest": 2.0}, "largest must be above smallest, 3.0, got 2.0"),
    ({"strength": {"start": 0.0, "end": -1.0}}, r"strength\.end must be 0 or more, got -1.0"),
    ({"lr_factor": 0.0}, "lr_factor must be above 0, got 0.0"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_options_out_of_range_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DISTILLATION_LOSSES.build({"type": "ctkd", **options})


def test_it_is_one_line_of_a_configuration_and_its_temperature_is_logged(tiny_config, tiny_teacher, tmp_path) -> None:
    words = ["objective={type: distillation, views: [full, text], distill_loss: {type: ctkd, lr_factor: 100}}"]
    run(
        tiny_config,
        [
            *words,
            f"teacher.checkpoint={tiny_teacher}",
            "training.log_every=1",
            "training.max_updates=4",
            f"env.save_dir={tmp_path}",
        ],
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    temperatures = [value for line in lines for name, value in line.items() if name.endswith("temperature")]
    assert len(temperatures) == 4
    assert len(set(temperatures)) > 1
    assert all(1 < t < 21 for t in temperatures)
