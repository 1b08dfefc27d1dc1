"""What flows through the framework."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.structures import Batch, ModalityInputs, ModelOutput, tree_map
from msd_framework.views import View, visible_modalities

NAMES = ["audio", "image", "text"]


def example_batch() -> Batch:
    text = ModalityInputs(
        torch.tensor([[2, 7, 3]]), torch.ones(1, 3, dtype=torch.bool), {"special": torch.tensor([[True, False, True]])}
    )
    image = ModalityInputs(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.bool))
    return Batch({"image": image, "text": text}, torch.tensor([1]), ("a",))


def test_nothing_that_flows_can_be_changed_in_place():
    batch = example_batch()
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.ids = ("b",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.inputs["text"].mask = torch.zeros(1, 3)


def test_a_modality_is_present_where_it_has_content_beside_special_and_masked_positions():
    batch = example_batch()
    assert batch.inputs["text"].present.tolist() == [True]
    assert batch.inputs["image"].present.tolist() == [False]
    text = batch.inputs["text"]
    assert dataclasses.replace(text, mask=text.special).present.tolist() == [False]


def test_inputs_of_a_batch_are_in_sorted_order():
    batch = example_batch()
    turned = batch.with_inputs({"text": batch.inputs["text"], "image": batch.inputs["image"]})
    assert list(turned.inputs) == ["image", "text"]
    assert turned.modalities == ("image", "text")
    assert len(turned) == 1


def test_a_batch_moves_with_all_its_tensors():
    moved = example_batch().to(torch.device("meta"))
    assert {moved.targets.device.type, moved.inputs["text"].extras["special"].device.type} == {"meta"}
    assert moved.ids == ("a",)


def test_a_tree_keeps_its_shape():
    tree = {"a": [torch.ones(2), "x"], "b": (ModelOutput(torch.ones(1)), 3)}
    doubled = tree_map(lambda t: 2 * t, tree)
    assert doubled["a"][0].tolist() == [2, 2]
    assert doubled["b"][0].logits.tolist() == [2]
    assert (doubled["a"][1], doubled["b"][1]) == ("x", 3)


def test_a_view_is_named_by_what_the_student_sees_and_by_both_where_they_differ():
    assert View.parse("image") == View("image", "image")
    assert View.parse("image").name == "image"
    assert View.parse({"teacher": "audio", "student": "image"}).name == "audio>image"


@pytest.mark.parametrize("spec", [{"teacher": "audio"}, {"teacher": "a", "student": "b", "x": "c"}, {}])
def test_a_view_of_two_sides_names_both(spec):
    with pytest.raises(ValueError, match=r"a view is a name or \{teacher: name, student: name\}, got"):
        View.parse(spec)


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        ("full", ("audio", "image", "text")),
        ("text", ("text",)),
        ("~text", ("audio", "image")),
        ("text+audio", ("audio", "text")),
        ("~text+audio", ("image",)),
    ],
)
def test_a_views_name_says_what_is_visible(view, shown):
    assert visible_modalities(view, NAMES) == shown


def test_a_view_of_an_unknown_modality_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"view 'txt' names 'txt', which is not one of .*Did you mean 'text'\?"):
        visible_modalities("txt", NAMES)


def test_a_view_that_shows_nothing_is_refused():
    with pytest.raises(ValueError, match=r"view '~audio\+image\+text' hides every modality of audio, image, text\."):
        visible_modalities("~audio+image+text", NAMES)


@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=2))
def test_a_view_and_its_opposite_show_each_modality_once(names):
    joined = "+".join(sorted(names))
    shown, hidden = visible_modalities(joined, NAMES), visible_modalities(f"~{joined}", NAMES)
    assert sorted(shown + hidden) == NAMES
