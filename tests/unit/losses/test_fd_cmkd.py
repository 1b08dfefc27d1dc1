"""FD-CMKD: against the released code's numbers, and its bands against a Fourier transform written out."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd_framework.errors import ConfigError
from msd_framework.losses.fd_cmkd import FrequencyDecoupled
from msd_framework.registry import FEATURE_LOSSES
from msd_framework.run import run
from msd_framework.structures import Batch, Feature, FeatureShape
from msd_framework.testing import made_batch


def prepared(width: int, **options) -> FrequencyDecoupled:
    torch.manual_seed(0)
    loss = FrequencyDecoupled(**options)
    loss.prepare(FeatureShape("pooled", width), FeatureShape("pooled", width))
    return loss.double()


def vectors(width: int, batch: int = 3) -> tuple[Tensor, Tensor]:
    n = torch.arange(float(batch * width), dtype=torch.float64).view(batch, width)
    return torch.sin(n * n / 7) + 0.3, 2 * torch.cos(n**1.5 / 11)


def labelled(targets: list[int]) -> Batch:
    return replace(made_batch(len(targets)), targets=torch.tensor(targets))


RELEASED = (0.004193464784074917, 0.003572760449460351, 4.56905249570328, 2.9873622284643844, 20.668417435483082)
"""Low and high distance, the classifiers' losses on the low and the high band, and the summed size of the student's gradient.

From FDFilter, norm_feat, log and Classifier of the released code (as in zxn0710/re-FD-CMKD-main at feda414), run in float64.
"""


def test_loss_and_gradient_are_the_released_code_s() -> None:
    loss, (student, teacher) = prepared(512, num_classes=4), vectors(512)
    place = torch.arange(4 * 512.0, dtype=torch.float64).view(4, 512)
    with torch.no_grad():
        for classify, weight, bias in zip(loss.classifiers, (place.sin() / 10, place.cos() / 10), (torch.arange(4) / 4, 0)):
            classify.weight.copy_(weight)
            classify.bias.copy_(torch.as_tensor(bias))
    student.requires_grad_()
    found = loss(Feature(student), Feature(teacher), labelled([0, 3, 1])).mean()
    found.backward()
    assert found.item() == pytest.approx(sum(RELEASED[:4]), rel=1e-10)  # the same float64 formulas
    assert student.grad.abs().sum().item() == pytest.approx(RELEASED[4], rel=1e-10)
    distances = prepared(512, classifier_weight=0)(Feature(student), Feature(teacher), labelled([0, 3, 1])).mean()
    assert distances.item() == pytest.approx(RELEASED[0] + RELEASED[1], rel=1e-10)


@settings(max_examples=20)
@given(width=st.integers(6, 21), cutoff=st.sampled_from([0.3, 0.5, 0.7]))
def test_bands_are_sums_of_waves(width: int, cutoff: float) -> None:
    x = vectors(width)[0].numpy()
    n, num_low = np.arange(width), round(cutoff * (width // 2))
    wanted = {True: np.zeros_like(x), False: np.zeros_like(x)}
    for k in range(1, width // 2 + 1):
        strength = 1 if 2 * k == width else 2  # the highest frequency of an even width is its own mirror image
        for wave in (np.cos(2 * math.pi * k * n / width), np.sin(2 * math.pi * k * n / width)):
            wanted[k <= num_low] += strength / width * np.outer(x @ wave, wave)
    low, high = prepared(width, cutoff=cutoff).bands(torch.from_numpy(x))
    np.testing.assert_allclose(low, wanted[True], atol=1e-11)
    np.testing.assert_allclose(high, wanted[False], atol=1e-11)
    np.testing.assert_allclose(low + high, x - x.mean(1, keepdims=True), atol=1e-11)  # the bands lack the constant alone


def test_a_high_frequency_that_is_off_costs_less_than_a_low_one() -> None:
    loss, n = prepared(64, classifier_weight=0), torch.arange(64.0, dtype=torch.float64)
    slow, fast = torch.cos(2 * math.pi * 3 * n / 64), torch.cos(2 * math.pi * 29 * n / 64)
    teacher = (slow + fast)[None]
    off_low, off_high = (-slow + fast)[None], (slow - fast)[None]
    cost = [loss(Feature(x), Feature(teacher), labelled([0])).item() for x in (off_low, off_high)]
    assert cost[1] < cost[0]


def test_neither_size_nor_level_counts_and_nothing_is_nearer_than_the_teacher() -> None:
    loss, (student, teacher) = prepared(16, classifier_weight=0), vectors(16)
    batch = labelled([0, 1, 2])
    found = loss(Feature(5 * student + 3), Feature(teacher), batch)
    torch.testing.assert_close(found, loss(Feature(student), Feature(teacher), batch), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss(Feature(2 * teacher), Feature(teacher), batch), torch.zeros(3).double(), rtol=0, atol=1e-20)
    assert (found > 0).all()


def test_an_example_without_a_label_is_compared_and_not_classified() -> None:
    batch = replace(labelled([2, -100, 0]), num_labelled=torch.tensor(3.0, dtype=torch.float64))
    loss, (student, teacher) = prepared(16, num_classes=3), vectors(16)
    found = loss(Feature(student), Feature(teacher), batch)
    loss.classifier_weight = 0
    alone = loss(Feature(student), Feature(teacher), batch)
    assert found[1] == alone[1]
    assert (found > alone).tolist() == [True, False, True]


def test_several_targets_of_an_example_are_classified_by_their_mean() -> None:
    loss, (student, teacher) = prepared(16, num_classes=3), vectors(16)
    batch = replace(labelled([2, 1, 0]), targets=torch.tensor([2, 0, 1, 0]), example_of=torch.tensor([0, 0, 1, 2]))
    found = loss(Feature(student), Feature(teacher), batch)
    first, second = (loss(Feature(student), Feature(teacher), labelled(targets)) for targets in ([2, 1, 0], [0, 1, 0]))
    torch.testing.assert_close(found, (first + second) / 2)


def test_several_labels_are_classified_by_a_sigmoid_each() -> None:
    loss, (student, teacher) = prepared(16, num_classes=2, task="multi_label"), vectors(16)
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    found = loss(Feature(student), Feature(teacher), replace(made_batch(3), targets=targets))
    wanted = prepared(16, classifier_weight=0)(Feature(student), Feature(teacher), labelled([0, 0, 0]))
    for classify, *bands in zip(loss.classifiers, loss.bands(student), loss.bands(teacher)):
        for band in bands:
            each = F.binary_cross_entropy_with_logits(classify(band.relu()), targets, reduction="none")
            wanted = wanted + each.sum(1)
    torch.testing.assert_close(found, wanted)


REFUSED = [({"cutoff": 1.0}, "cutoff must be above 0 and below 1, got 1.0"), ({"classifier_weight": -1.0}, "must be 0 or more")]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_options_out_of_range_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FEATURE_LOSSES.build({"type": "fd_cmkd", **options})


def test_too_few_features_for_two_bands_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cutoff=0\.1 leaves a band without any of the 3 frequencies of 6 features"):
        prepared(6, cutoff=0.1)


def test_it_is_one_line_of_a_configuration_across_modalities(tiny_config, tiny_teacher, tmp_path) -> None:
    view = "{teacher: text, student: image}"
    features = f"[{{loss: fd_cmkd, teacher: text.pooled, student: image.pooled, view: {view}}}]"
    words = [f"objective={{type: distillation, views: [{view}], features: {features}}}"]
    run(tiny_config, [*words, f"teacher.checkpoint={tiny_teacher}", "training.log_every=1", f"env.save_dir={tmp_path}"])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any(name.endswith("feature/fd_cmkd/text>image/text.pooled>image.pooled") for line in lines for name in line)
