"""Optimizers and schedules against torch's and transformers' own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from msd_framework.engine.optim import AdamWRecipe, ConstantSchedule, CosineSchedule, LinearSchedule, SGDRecipe, decay_groups
from msd_framework.registry import OPTIMIZERS, SCHEDULERS


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_biases_and_normalisation_do_not_decay():
    matrices, others = decay_groups(model(), 0.1)
    assert [tuple(p.shape) for p in matrices["params"]] == [(4, 3), (2, 4)]
    assert len(others["params"]) == 4
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_frozen_parameters_are_left_out():
    frozen = model()
    frozen[0].requires_grad_(False)
    assert sum(len(g["params"]) for g in decay_groups(frozen, 0.1)) == 4


@pytest.mark.parametrize("warmup", [0, 3, 0.25])
def test_the_linear_schedule_is_transformers_own(warmup):
    from transformers import get_linear_schedule_with_warmup

    steps, rise = 20, int(warmup * 20) if warmup < 1 else warmup
    optimizer = torch.optim.SGD(model().parameters(), lr=1.0)
    oracle = get_linear_schedule_with_warmup(optimizer, rise, steps)
    schedule, optimizer_rate = LinearSchedule(warmup), []
    for _ in range(steps):
        optimizer_rate.append(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step()
    ours = [schedule.factor(u, steps) for u in range(steps)]
    # transformers' rise starts at 0, so its first update changes nothing; ours is one update ahead while it rises
    assert ours[:rise] == pytest.approx([(u + 1) / rise for u in range(rise)])
    assert ours[rise:] == pytest.approx(optimizer_rate[rise:])


def test_the_cosine_falls_from_one_to_zero():
    schedule = CosineSchedule(warmup=0)
    assert schedule.factor(0, 10) == pytest.approx(1.0)
    assert schedule.factor(5, 10) == pytest.approx(0.5)
    assert schedule.factor(10, 10) == pytest.approx(0.0)


def test_the_constant_schedule_rises_and_stays():
    assert [ConstantSchedule(warmup=4).factor(u, 10) for u in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_options_reach_the_optimizer():
    optimizer = OPTIMIZERS.build({"type": "sgd", "lr": 0.5, "momentum": 0.9, "nesterov": True}).build(model())
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.5, 0.9, True)
    assert AdamWRecipe(lr=1e-3, beta2=0.98).build(model()).defaults["betas"] == (0.9, 0.98)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AdamWRecipe(lr=0), "lr must be above 0, got 0"),
        (lambda: AdamWRecipe(eps=-1), "eps must be above 0, got -1"),
        (lambda: AdamWRecipe(lr=math.nan), "lr must be above 0, got nan"),
        (lambda: AdamWRecipe(lr=math.inf), "lr must be above 0, got inf"),
        (lambda: AdamWRecipe(beta1=1.5), "beta1 must be 0 or more and below 1, got 1.5"),
        (lambda: AdamWRecipe(beta2=-0.1), "beta2 must be 0 or more and below 1, got -0.1"),
        (lambda: AdamWRecipe(weight_decay=-1), "weight_decay must be 0 or more, got -1"),
        (lambda: SGDRecipe(momentum=-1), "momentum must be 0 or more, got -1"),
        (lambda: SGDRecipe(weight_decay=math.nan), "weight_decay must be 0 or more, got nan"),
        (lambda: SGDRecipe(nesterov=True), "nesterov needs a momentum above 0"),
        (lambda: SCHEDULERS.build({"type": "warmup_linear", "warmup": -1}), "warmup must be 0 or more, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize(("given", "lr"), [({"fine_tunes": True}, 5e-5), ({"fine_tunes": False}, 1e-3), ({"lr": 0.1}, 0.1)])
def test_adamw_learns_faster_from_scratch_than_from_weights_of_others_unless_a_rate_is_given(given, lr):
    assert AdamWRecipe(**given).build(model()).param_groups[0]["lr"] == lr
