"""Students that are narrower, have fewer heads, or see an image in other pieces than their teachers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd_framework.losses.adaptors import Adaptor, MixHeads, Widen, resampled
from msd_framework.losses.features import AttentionTransfer, Hint, PatientDistance, RelationTransfer
from msd_framework.losses.relations import SimilarityPreserving
from msd_framework.models.layers.pooling import masked_mean
from msd_framework.structures import Feature, FeatureShape


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


HIDDEN = FeatureShape("hidden", 8, 5)
WIDER = FeatureShape("hidden", 12, 5)


# ---- what is learned ----


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "choice", "learns"),
    [
        (Hint(), HIDDEN, WIDER, "auto", Widen),
        (Hint(), HIDDEN, HIDDEN, "auto", None),
        (Hint(), HIDDEN, HIDDEN, "linear", Widen),
        (RelationTransfer(2), HIDDEN, WIDER, "auto", None),
        (RelationTransfer(2), HIDDEN, WIDER, "none", None),
        (SimilarityPreserving(), HIDDEN, WIDER, "auto", None),
        (PatientDistance(), FeatureShape("pooled", 8), FeatureShape("pooled", 12), "auto", Widen),
        (AttentionTransfer(), FeatureShape("attention", 2, 5), FeatureShape("attention", 4, 5), "auto", MixHeads),
        (AttentionTransfer(), FeatureShape("scores", 2, 5), FeatureShape("scores", 4, 5), "auto", MixHeads),
        (RelationTransfer(), FeatureShape("attention", 2, 5), FeatureShape("attention", 4, 5), "linear", MixHeads),
    ],
)
def test_something_is_learned_only_where_widths_differ_and_the_loss_minds(
    loss: Any, student: FeatureShape, teacher: FeatureShape, choice: Any, learns: Any
) -> None:
    adaptor = Adaptor(loss, student, teacher, choice)
    assert type(adaptor.inner) is (learns or type(None))
    assert adaptor.shape.width == (teacher.width if learns else student.width)


def test_a_wider_state_is_a_linear_map_of_each_position() -> None:
    adaptor = Adaptor(Hint(), HIDDEN, WIDER).double()
    states = Feature(noise(3, 5, 8), torch.ones(3, 5, dtype=torch.bool))
    found = adaptor(states, 5)
    (weight, bias) = adaptor.parameters()
    torch.testing.assert_close(found.values, states.values @ weight.T + bias)
    assert found.mask is states.mask


def test_mixed_heads_remain_probabilities_and_begin_as_their_mean() -> None:
    mix = MixHeads(3, 4).double()
    maps = noise(2, 3, 5, 5).softmax(-1)
    torch.testing.assert_close(mix(maps), maps.mean(1, keepdim=True).expand(2, 4, 5, 5))
    torch.nn.init.normal_(mix.weight)
    mixed = mix(maps)
    torch.testing.assert_close(mixed.sum(-1), torch.ones(2, 4, 5, dtype=torch.float64))
    wanted = sum(mix.weight.softmax(1)[2, h] * maps[:, h] for h in range(3))
    torch.testing.assert_close(mixed[:, 2], wanted)


# ---- positions ----


@pytest.mark.parametrize(("before", "after"), [(6, 3), (3, 6), (10, 7)])
def test_positions_in_a_line_are_pooled_as_torch_does(before: int, after: int) -> None:
    states = Feature(noise(2, before, 4), torch.ones(2, before, dtype=torch.bool))
    found = resampled(states, after)
    wanted = F.adaptive_avg_pool1d(states.values.transpose(1, 2), after).transpose(1, 2)
    torch.testing.assert_close(found.values, wanted)
    assert found.mask is not None
    assert found.mask.all()


@pytest.mark.parametrize(("before", "after"), [(16, 4), (4, 16), (49, 9)])
def test_square_numbers_of_positions_are_pooled_as_a_grid(before: int, after: int) -> None:
    states = Feature(noise(2, before, 4), torch.ones(2, before, dtype=torch.bool))
    grid = states.values.transpose(1, 2).reshape(2, 4, round(before**0.5), -1)
    wanted = F.adaptive_avg_pool2d(grid, round(after**0.5)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(resampled(states, after).values, wanted)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_hidden_positions_do_not_count_when_several_become_one(seed: int, length: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(3, length, generator=generator) < 0.5
    values = torch.randn(3, length, 2, generator=generator, dtype=torch.float64)
    found = resampled(Feature(values.masked_fill(~mask[..., None], 9.0), mask), 1)
    torch.testing.assert_close(found.values[:, 0], masked_mean(values, mask))
    assert found.mask is not None
    assert found.mask[:, 0].tolist() == mask.any(1).tolist()


def test_a_student_of_fewer_patches_is_compared_with_a_teacher_of_more() -> None:
    student, teacher = FeatureShape("hidden", 8, 4), FeatureShape("hidden", 8, 16)
    adaptor = Adaptor(Hint(), student, teacher)
    states = Feature(noise(2, 4, 8), torch.ones(2, 4, dtype=torch.bool))
    assert adaptor(states, 16).values.shape == (2, 16, 8)
    relations = Adaptor(SimilarityPreserving(), student, teacher)  # which compares examples, whatever their positions
    assert relations(states, 16).values.shape == (2, 4, 8)


# ---- refusals ----


def test_no_adaptor_where_one_is_needed_is_refused() -> None:
    with pytest.raises(ValueError, match="adaptor=none leaves 8 features beside 12, which the loss cannot compare"):
        Adaptor(Hint(), HIDDEN, WIDER, "none")
    with pytest.raises(ValueError, match="adaptor=none leaves 2 heads beside 4"):
        Adaptor(AttentionTransfer(), FeatureShape("attention", 2, 5), FeatureShape("attention", 4, 5), "none")


def test_attention_maps_of_other_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"maps of 4 positions cannot be compared with maps of 16\. Take hidden states"):
        Adaptor(AttentionTransfer(), FeatureShape("attention", 2, 4), FeatureShape("attention", 2, 16))
