"""MetaKD's importances: their gradient against second derivatives by autograd, and what must hold of the weights."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_framework.engine.optim import SGDRecipe
from msd_framework.errors import ConfigError
from msd_framework.losses.logits import SoftenedKL
from msd_framework.maskers.drop import DropMasker
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.traced import Recorded
from msd_framework.registry import WEIGHTINGS
from msd_framework.run import run
from msd_framework.schedules import Progress
from msd_framework.structures import DatasetInfo, Setting
from msd_framework.teachers.live import LiveTeacher
from msd_framework.views import View
from msd_framework.weighting.base import Evidence
from msd_framework.weighting.meta_kd import ModalityImportance
from tests.learned_runs import student
from tests.runs import tiny_model
from tests.unit.objectives.test_learned_weights import updates_of

PAIRS = [{"teacher": "image", "student": "text"}, {"teacher": "text", "student": "image"}]
SIGNS = torch.tensor([[0, 0], [1, -1], [-1, 1]], dtype=torch.float64)  # of full, image>text, text>image, by image and text


def test_importances_learn_by_the_exact_gradient_of_the_held_out_loss() -> None:
    masker, teacher = DropMasker(), tiny_model(1, 16)
    with torch.no_grad():
        for matrix in (p for p in teacher.parameters() if p.ndim >= 2):
            matrix.mul_(20)
    weighting = ModalityImportance(lr=0.3, weight_decay=0.1)
    views: list[Any] = ["full", *PAIRS]
    loss, live = SoftenedKL(2.0), LiveTeacher(teacher, masker)
    built = DistillationObjective(student(0.0), live, masker, views, 0.6, distill_loss=loss, weighting=weighting).double()
    wanted = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.AdamW([wanted], lr=0.3, weight_decay=0.1, eps=1e-12)
    for update in updates_of(built, SGDRecipe(lr=0.5), None, Recorded):
        torch.testing.assert_close(update.weights[:, 0], (SIGNS @ wanted).detach().exp(), rtol=1e-6, atol=0)
        # dL/da by the chain rule over the oracle's dL/dw, which is from second derivatives
        wanted.grad = (update.weights * update.gradient).sum(1) @ SIGNS
        adam.step()
        torch.testing.assert_close(weighting.importance, wanted.detach(), rtol=1e-6, atol=1e-9)
    assert weighting.importance.abs().min() > 0.1


def test_weights_are_ratios_of_a_softmax_and_other_views_count_one() -> None:
    names = ("audio", "image", "text")
    pairs = [View(t, s) for t, s in product(names, names) if t != s]
    others = [
        View("full", "full"),
        View("image", "image"),
        View("full", "text"),
        View("audio+text", "image"),
        View("~text", "text"),
    ]
    weighting = ModalityImportance()
    weighting.prepare((*pairs, *others))
    a = torch.tensor([0.3, -1.2, 0.8])
    weighting.importance.copy_(a)
    losses = torch.rand(11, 4, dtype=torch.float64)
    nothing = torch.zeros(11, 4, 2)
    found = weighting(Evidence((*pairs, *others), names, nothing, nothing, losses, losses, None, torch.zeros(4)))
    share = dict(zip(names, a.double().softmax(0).tolist()))
    wanted = [share[view.teacher] / share[view.student] for view in pairs]
    assert found.tolist() == pytest.approx([*wanted, 1, 1, 1, 1, 1], rel=1e-6)
    assert weighting.learned((*pairs, *others)) == (True,) * 6 + (False,) * 5


def test_parts_and_processes_are_averaged_before_a_step() -> None:
    def learned(parts: list[Tensor], mean: Any = lambda x: x) -> Tensor:
        weighting = ModalityImportance(weight_decay=0.0)
        weighting.prepare(tuple(View(p["teacher"], p["student"]) for p in PAIRS))
        weighting.learn(parts, mean)
        return weighting.adam.mean

    slopes = torch.tensor([[0.5, 0.1, 0.2, 0.1], [0.1, 0.0, 0.2, 0.0]])
    torch.testing.assert_close(learned([slopes[:, :1], slopes[:, 1:]]), learned([slopes]))
    torch.testing.assert_close(learned([slopes], lambda x: x / 2), learned([slopes]) / 2)
    torch.testing.assert_close(learned([slopes]), 0.1 * torch.tensor([0.9 - 0.3, 0.3 - 0.9]))  # Adam's first mean


def test_a_pair_is_of_two_modalities_whatever_they_are_called() -> None:
    pairs = [View("text-en", "image"), View("3d", "image 2"), View("audio", "image")]
    others = [View("~text-en", "image"), View("image*", "text"), View("audio+image", "text"), View("full", "text")]
    assert ModalityImportance().learned((*pairs, *others)) == (True,) * 3 + (False,) * 4


def test_they_learn_only_in_their_updates() -> None:
    weighting = ModalityImportance(every=3)
    weighting.prepare((View("image", "text"),))
    looks = []
    for update in range(7):
        weighting.begin_update(Progress(update, 7))
        looks.append(weighting.looks_ahead)
    assert looks == [True, False, False, True, False, False, True]


def test_views_without_a_pair_are_told() -> None:
    kinds: Any = {"image": "pixels", "text": "tokens"}
    setting = Setting(DatasetInfo(kinds, 3, "single_label"), ("image", "text"), ("image", "text"), kinds)
    (said,) = ModalityImportance.check({}, setting, (View("full", "full"), View("image", "image")))
    assert said == (
        "type: meta_kd weighs views in which one modality teaches another, such as {teacher: audio, student: image}, and these are "
        "full, image. Add one, or take learned."
    )
    assert ModalityImportance.check({}, setting, (View("full", "full"), View("image", "text"))) == []


REFUSED = [
    ({"held_out": 1.0}, "held_out must be above 0 and below 1, got 1.0"),
    ({"lr": 0.0}, "lr must be above 0"),
    ({"every": 0}, "every must be above 0"),
    ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_options_out_of_range_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WEIGHTINGS.build({"type": "meta_kd", **options})


@pytest.mark.parametrize("teacher", ["checkpoint", "ema"])
def test_it_is_one_line_of_a_configuration(teacher: str, tiny_config, tiny_teacher, tmp_path) -> None:
    views = "[full, {teacher: image, student: text}, {teacher: text, student: image}]"
    weighting = "{type: meta_kd, held_out: 0.3, held_out_batch_size: 4, lr: 0.5}"
    words = [f"objective={{type: distillation, views: {views}, weighting: {weighting}}}", "training.max_updates=3"]
    words += [f"teacher.checkpoint={tiny_teacher}" if teacher == "checkpoint" else "teacher={ema: 0.9}"]
    run(tiny_config, [*words, "training.log_every=1", f"env.save_dir={tmp_path}"])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "train/weight/full" in row]
    products = [row["train/weight/image>text"] * row["train/weight/text>image"] for row in rows]
    assert products == [pytest.approx(1.0, rel=1e-5)] * 3
    assert rows[0]["train/weight/image>text"] == 1.0
    assert rows[-1]["train/weight/image>text"] != 1.0
    assert [row["train/weight/full"] for row in rows] == [1.0] * 3
