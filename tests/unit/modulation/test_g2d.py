"""G2D's sequential prioritisation: the released code's rule written out, stages, parts and processes, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from msd_framework.errors import ConfigError
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.late_fusion import LateFusion
from msd_framework.modulation.g2d import SequentialPriority
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.supervised import SupervisedObjective
from msd_framework.registry import MODULATIONS
from msd_framework.run import run
from msd_framework.schedules import Progress
from msd_framework.structures import Batch, DatasetInfo, ModelOutput, Setting
from msd_framework.teachers.base import Teacher
from msd_framework.testing import made_batch, take
from tests.runs import tiny_model
from tests.unit.modulation.test_gradient_modulation import SIZES, alone, features_of, separable

THREE = {"image": 6, "sound": 4, "text": 5}


class Known(Teacher):
    """A teacher whose logits on each modality are given, by the example's id."""

    def __init__(self, logits: dict[str, Tensor], ids: tuple[str, ...]):
        self.logits, self.rows = logits, {name: row for row, name in enumerate(ids)}
        self.modalities, self.num_classes = tuple(sorted(logits)), 3

    def predict(self, batch: Batch, views: Any, shown: Any = None) -> ModelOutput:
        rows = [self.rows[name] for name in batch.ids]
        return ModelOutput(torch.stack([self.logits[view][rows] for view in views]))


def taught(batch: Batch, sizes: dict[str, int] = SIZES, seed: int = 0, sure: dict[str, float] | None = None) -> Known:
    """A teacher that is more or less sure of what is right on each modality."""
    generator = torch.Generator().manual_seed(seed)
    right = nn.functional.one_hot(batch.targets, 3).double()
    logits = {}
    for m in sizes:
        logits[m] = torch.randn(len(batch), 3, generator=generator, dtype=torch.float64) + (sure or {}).get(m, 0.0) * right
    return Known(logits, batch.ids)


def objective(teacher: Teacher, modulation: SequentialPriority | None, sizes: dict[str, int] = SIZES) -> DistillationObjective:
    views: list[Any] = [{"teacher": m, "student": "full"} for m in sizes]
    return DistillationObjective(separable(sizes=sizes), teacher, DropMasker(), views, modulation=modulation).train()


def gradients(built: DistillationObjective, parts: list[Batch], update: int = 0, of: int = 10) -> dict[str, Tensor]:
    built.begin_update(Progress(update, of))
    built.zero_grad()
    for part in parts:
        (built(part).loss / len(parts)).backward()
    built.after_backward(alone)
    return {name: p.grad.clone() for name, p in built.model.named_parameters() if p.grad is not None}


def learning(found: dict[str, Tensor]) -> set[str]:
    """The modalities whose encoder has a gradient, and `rest` for what comes after the encoders."""
    return {name.split(".")[1] if name.startswith("encoders.") else "rest" for name, g in found.items() if g.ne(0).any()}


@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
def test_the_modality_whose_teacher_is_surer_of_what_is_right_waits(seed: int) -> None:
    batch = features_of(made_batch(8, seed))
    teacher = taught(batch, seed=seed)
    score = dict.fromkeys(SIZES, 0.0)
    for m in SIZES:  # as the released code counts, example by example
        for z, y in zip(teacher.logits[m], batch.targets):
            score[m] += torch.softmax(z, 0)[y].item()
    plain = gradients(objective(teacher, None), [batch])
    found = gradients(objective(teacher, SequentialPriority()), [batch])
    waits = max(score, key=score.__getitem__)
    for name, gradient in plain.items():
        wanted = torch.zeros_like(gradient) if name.startswith(f"encoders.{waits}.") else gradient
        assert torch.equal(found[name], wanted)


def test_three_modalities_lead_from_the_weakest_on_and_then_learn_together() -> None:
    batch = features_of(made_batch(12), THREE)
    teacher = taught(batch, THREE, sure={"image": 3.0, "sound": 9.0, "text": 0.0})
    built = objective(teacher, SequentialPriority(until=0.6), THREE)
    leads = [learning(gradients(built, [batch], update)) - {"rest"} for update in range(10)]
    assert leads == [{"text"}] * 3 + [{"image"}] * 3 + [{"image", "sound", "text"}] * 4
    assert all("rest" in learning(gradients(built, [batch], update)) for update in (0, 3, 9))
    assert {k: v.item() for k, v in built(batch).terms.items() if k.startswith("modulation/")} == {
        f"modulation/{m}": 1.0 for m in THREE
    }


def test_parts_of_a_batch_are_ordered_as_the_whole() -> None:
    """In each part another modality would lead; together it is the sound."""
    batch = features_of(made_batch(8))
    right, zero = nn.functional.one_hot(batch.targets, 3).double(), torch.zeros(8, 3, dtype=torch.float64)
    first = (torch.arange(8) < 4)[:, None]
    teacher = Known({"image": torch.where(first, 1 * right, 8 * right), "sound": torch.where(first, 3 * right, zero)}, batch.ids)
    halves = [take(batch, [0, 1, 2, 3]), take(batch, [4, 5, 6, 7])]
    assert [learning(gradients(objective(teacher, SequentialPriority()), [half])) for half in halves] == [
        {"image", "rest"},
        {"sound", "rest"},
    ]
    assert learning(gradients(objective(teacher, SequentialPriority()), halves)) == {"sound", "rest"}
    modulation = SequentialPriority()
    built = objective(teacher, modulation)
    built.begin_update(Progress(0, 10))
    built(halves[0]).loss.backward()
    # the mean over two processes, in the other of which the image is known well
    built.after_backward(lambda s: s + torch.tensor([[9.0, 1.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    assert modulation.coefficients.tolist() == [0, 1]


def test_examples_without_a_modality_or_a_label_have_no_say() -> None:
    batch = features_of(made_batch(4))
    teacher = taught(batch)
    right = nn.functional.one_hot(batch.targets, 3).double()
    teacher.logits = {"image": 1.0 * right, "sound": torch.stack([9.0 * right[0], *0 * right[1:]])}
    assert learning(gradients(objective(teacher, SequentialPriority()), [batch])) == {"sound", "rest"}
    having = {"sound": torch.tensor([True, False, False, False])}
    assert learning(gradients(objective(teacher, SequentialPriority()), [replace(batch, having=having)])) == {"image", "rest"}
    targets = batch.targets.where(torch.tensor([True, False, False, False]), -100)
    unlabelled = replace(batch, targets=targets, num_labelled=torch.tensor(1.0, dtype=torch.float64))
    assert learning(gradients(objective(teacher, SequentialPriority()), [unlabelled])) == {"image", "rest"}


def test_the_teacher_is_asked_about_each_modality_alone() -> None:
    teacher = taught(features_of(made_batch(3)))
    built = DistillationObjective(separable(), teacher, DropMasker(), ["full"], modulation=SequentialPriority())
    assert built.teacher_views == ("full", "image", "sound")


def test_without_a_teacher_it_says_so_at_the_first_step() -> None:
    built = SupervisedObjective(separable(), modulation=SequentialPriority()).train()
    built.begin_update(Progress(0, 10))
    with pytest.raises(ValueError, match="g2d needs a teacher's predictions from each modality alone"):
        built(features_of(made_batch(3)))


def test_a_model_without_encoders_is_told_at_the_first_step() -> None:
    built = SupervisedObjective(tiny_model(0), modulation=SequentialPriority())
    with pytest.raises(ValueError, match="g2d needs a model with an encoder of its own for each modality, and VisualBert"):
        built(made_batch(3))


def test_until_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"until must lie between 0 and 1, got 1\.5"):
        MODULATIONS.build({"type": "g2d", "until": 1.5})


def test_what_a_run_lacks_is_a_sentence() -> None:
    kinds: Any = {"image": "pixels", "text": "tokens"}
    setting = Setting(DatasetInfo(kinds, 3, "single_label"), ("image", "text"), None, kinds)
    (without,) = SequentialPriority.check({}, setting, LateFusion)
    assert without == "needs a teacher's predictions from each modality alone. Take the objective distillation, or ogm_ge."
    (part,) = SequentialPriority.check({}, replace(setting, teacher_modalities=("image",)), LateFusion)
    assert part == "needs a teacher's predictions from text alone, and the teacher takes image. Add one, or take ogm_ge."
    assert SequentialPriority.check({}, replace(setting, teacher_modalities=("image", "text")), LateFusion) == []
    (one,) = SequentialPriority.check({}, replace(setting, student_modalities=("image",)), LateFusion)
    assert one.startswith("balances modalities")


def test_a_teacher_of_each_modality_is_a_line_of_a_configuration(tiny_config, tmp_path) -> None:
    encoders = {
        "image": "{type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}",
        "text": "{type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}",
    }
    for m, encoder in encoders.items():
        run(tiny_config, [f"model={{type: unimodal_{m}, encoder: {encoder}}}", f"env.save_dir={tmp_path / m}"])
    views = "[{teacher: image, student: full}, {teacher: text, student: full}]"
    words = [f"objective={{type: distillation, views: {views}, modulation: {{type: g2d, until: 0.5}}}}"]
    words += [f"teacher.checkpoint=[{tmp_path}/image, {tmp_path}/text]", "training.max_updates=4", "training.log_every=1"]
    run(tiny_config, [*words, f"env.save_dir={tmp_path / 'run'}"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    factors = [{row["train/modulation/image"], row["train/modulation/text"]} for row in rows if "train/modulation/image" in row]
    assert factors == [{1.0}, {0.0, 1.0}, {1.0}, {1.0}]  # the log has those of the update before, but for the last stage
