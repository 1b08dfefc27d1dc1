"""MST-Distill's routing: against the released code's numbers, and what must hold of any choice."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd_framework.errors import ConfigError
from msd_framework.losses.logits import SoftenedKL
from msd_framework.registry import WEIGHTINGS
from msd_framework.run import run
from msd_framework.structures import DatasetInfo, ModelOutput, Setting
from msd_framework.views import View
from msd_framework.weighting.base import Evidence
from msd_framework.weighting.routed import RoutedTeachers

VIEWS = tuple(View(name, "image") for name in ("full", "audio", "image", "text"))
N = torch.arange(15.0, dtype=torch.float64).view(5, 3)
STUDENT = 3 * torch.sin(N * N)
TEACHERS = torch.stack([4 * torch.cos((v + 1) * N / 3) for v in range(4)])


def routed(num_teachers: int = 1, **options: Any) -> RoutedTeachers:
    strategy = RoutedTeachers(num_teachers, num_classes=3, **options)
    strategy.prepare(VIEWS)
    return strategy.double()


def waves(strategy: RoutedTeachers) -> RoutedTeachers:
    """Known parameters in place of drawn ones."""
    with torch.no_grad():
        for i, p in enumerate(strategy.net.parameters()):
            p.copy_(torch.sin(torch.arange(float(p.numel()), dtype=p.dtype) * (i + 2)).view_as(p))
    return strategy


def evidence(student: Tensor = STUDENT, losses: Tensor | None = None, shown: Tensor | None = None) -> Evidence:
    num_targets = len(student)
    nothing = torch.zeros(4, num_targets, dtype=torch.float64)
    teacher = TEACHERS[:, :num_targets]
    return Evidence(
        views=VIEWS,
        modalities=("audio", "image", "text"),
        teacher=teacher,
        student=student.expand(4, -1, -1),
        losses=nothing if losses is None else losses,
        teacher_losses=nothing,
        saliency=None,
        targets=torch.zeros(num_targets, dtype=torch.int64),
        shown=shown,
    )


RELEASED: dict[int, tuple[float, float, list[list[int]]]] = {
    1: (0.1366108502210504, 3.422455540553913, [[3], [3], [0], [0], [0]]),
    2: (0.1366108502210504, 2.9741650408348788, [[3, 0], [3, 0], [0, 1], [0, 1], [0, 1]]),
}
"""The balance, the loss at T = 4, and which teachers teach each example, for k = 1 and 2.

From GateNet, load_balancing_loss and k_ways_MTGdistillation_detached of Gray-OREO/MST-Distill at 093b2fe, run in float64.
"""
RELEASED_SLOPES = [1.888988769453279, 0.42372028283117885, 1.630685922938998, 0.18689473213602845]
"""The summed size of the gradient of each of the net's parameters."""


@pytest.mark.parametrize("num_teachers", [1, 2])
def test_choice_loss_balance_and_gradient_are_the_released_code_s(num_teachers: int) -> None:
    balance, loss, teachers = RELEASED[num_teachers]
    kl = SoftenedKL(4.0)
    losses = torch.stack([kl(ModelOutput(STUDENT), ModelOutput(teacher)) for teacher in TEACHERS])
    strategy = waves(routed(num_teachers))
    weights = strategy(evidence(losses=losses))
    assert [sorted(row.nonzero().flatten().tolist()) for row in weights.T] == [sorted(row) for row in teachers]
    assert (weights * losses).sum(0).mean().item() == pytest.approx(loss, rel=1e-12)  # the same float64 formulas
    penalty = strategy.penalty()
    assert penalty.item() == pytest.approx(balance, rel=1e-12)
    penalty.backward()
    assert [p.grad.abs().sum().item() for p in strategy.net.parameters()] == pytest.approx(RELEASED_SLOPES, rel=1e-10)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), k=st.integers(1, 4), hidden=st.booleans())
def test_as_many_views_as_wanted_teach_each_example_equally(seed: int, k: int, hidden: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    shown = torch.rand(4, 6, generator=generator) < 0.6 if hidden else None
    found = WEIGHTINGS.build({"type": "routed", "num_teachers": k, "num_classes": 3, "seed": seed})
    found.prepare(VIEWS)
    given_evidence = replace(evidence(student[:5]), student=student.expand(4, -1, -1), losses=torch.zeros(4, 6), shown=shown)
    weights = found(given_evidence)
    possible = torch.full((6,), 4) if shown is None else shown.sum(0)
    assert torch.equal(weights.gt(0).sum(0), possible.clamp(max=k))
    torch.testing.assert_close(weights.sum(0), (possible > 0).float())
    if shown is not None:
        assert weights[~shown].eq(0).all()


def test_targets_that_no_view_shows_are_no_part_of_the_balance() -> None:
    strategy = waves(routed())
    strategy(evidence(STUDENT[:3]))
    wanted = strategy.penalty().item()
    shown = torch.tensor([True, True, True, False, False]).expand(4, -1)
    strategy(evidence(shown=shown))
    assert strategy.penalty().item() == pytest.approx(wanted, rel=1e-12)


def test_the_balance_brings_all_views_into_use() -> None:
    generator = torch.Generator().manual_seed(0)
    student = 2 * torch.randn(64, 3, generator=generator, dtype=torch.float64)
    given_evidence = replace(evidence(), student=student.expand(4, -1, -1), losses=torch.zeros(4, 64))
    strategy = waves(routed(balance=2.0))
    optimizer, penalties = torch.optim.Adam(strategy.parameters(), lr=0.02), []
    for _ in range(300):
        strategy(given_evidence)
        penalty = strategy.penalty()
        penalties.append(penalty.item())
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
    assert penalties[-1] < 1e-4 < penalties[0]
    torch.testing.assert_close(strategy.load, torch.full((4,), 0.25).double(), rtol=0, atol=0.02)


def test_the_net_is_that_of_the_seed() -> None:
    same, other = (torch.nn.utils.parameters_to_vector(routed(seed=seed).net.parameters()) for seed in (0, 1))
    assert torch.equal(torch.nn.utils.parameters_to_vector(routed().net.parameters()), same)
    assert not torch.equal(same, other)


def check(options: dict, views: tuple) -> list[str]:
    kinds: Any = {"audio": "waveform", "image": "pixels"}
    setting = Setting(DatasetInfo(kinds, 3, "single_label"), ("audio", "image"), ("audio", "image"), kinds)
    return RoutedTeachers.check(options, setting, tuple(View.parse(v) for v in views))


def test_views_that_do_not_fit_are_told() -> None:
    assert check({}, ("image", {"teacher": "full", "student": "image"})) == []
    (many,) = check({"num_teachers": 2}, ("image",))
    assert many == "num_teachers: wanted at most the 1 views, got 2."
    assert len(check({}, ("full", "audio+image*"))) == 1  # the same modalities, and the image of another row
    (sides,) = check({}, ("full", "image"))
    assert sides == (
        "type: routed chooses among teachers of one prediction of the student, and the views have those of 'full' and 'image'. "
        "Write {teacher: .., student: full} in each."
    )
    with pytest.raises(ValueError, match="num_teachers must be at most the 4 views, got 5"):
        RoutedTeachers(5).prepare(VIEWS)


@pytest.mark.parametrize(
    ("options", "said"), [({"num_teachers": 0}, "num_teachers must be above 0"), ({"balance": 0.0}, "balance")]
)
def test_options_out_of_range_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WEIGHTINGS.build({"type": "routed", **options})


def test_it_is_one_line_of_a_configuration(tiny_config, tiny_teacher, tmp_path) -> None:
    views = "[{teacher: full, student: image}, {teacher: text, student: image}, image]"
    words = [f"objective={{type: distillation, views: {views}, weighting: {{type: routed, num_teachers: 2}}}}"]
    run(tiny_config, [*words, f"teacher.checkpoint={tiny_teacher}", "training.log_every=1", f"env.save_dir={tmp_path}"])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    names = ("train/weight/full>image", "train/weight/text>image", "train/weight/image")
    shares = [sum(row[name] for name in names) for row in rows if names[0] in row]
    assert shares == [pytest.approx(1.0), pytest.approx(1.0)]
