"""Any torch module as a model: its arguments, its output, what it is refused for, and as a teacher and a student."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msd_framework.errors import ConfigError
from msd_framework.maskers.attention import AttentionMasker
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.base import MultimodalModel
from msd_framework.models.module import TorchModule
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.registry import MODELS
from msd_framework.structures import Batch, Inputs, ModalityInputs
from msd_framework.teachers.live import LiveTeacher

FACTS = {"num_classes": 3, "vocab_size": 20, "pad_id": 0}
INPUTS = {"image": "pixel_values", "text": "input_ids"}


@dataclass
class Answer:
    """An output of a class of its own."""

    logits: Tensor
    hidden: Tensor


Pair = namedtuple("Pair", ["logits", "hidden"])


class TwoParts(nn.Module):
    """Looks at words and pixels; both must be there."""

    def __init__(self, num_classes: int, width: int = 4, told_as: str = "mapping"):
        super().__init__()
        self.words, self.pixels = nn.Embedding(20, width), nn.Linear(3, width)
        self.head, self.told_as = nn.Linear(2 * width, num_classes), told_as

    def forward(self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None) -> Any:
        words = self.words(input_ids) if attention_mask is None else self.words(input_ids) * attention_mask[..., None]
        hidden = torch.cat([words.sum(1), self.pixels(pixel_values.mean((2, 3)))], 1)
        logits = self.head(hidden.tanh())
        made = {
            "mapping": {"logits": logits, "hidden": hidden},
            "object": Answer(logits, hidden),
            "named": Pair(logits, hidden),
            "sequence": (hidden, logits),
            "tensor": logits,
            "nothing": None,
        }
        return made[self.told_as]


class Anything(nn.Module):
    """Takes whatever it is given."""

    def __init__(self, **options: int):
        super().__init__()
        self.head = nn.Linear(options["width"], 3)

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.head(next(iter(inputs.values())))


def make_linear(width: int) -> nn.Module:
    return nn.Linear(width, 3)


def refuse() -> nn.Module:
    raise ValueError("no such sizes")


NOT_CALLABLE = 3


def here(name: str) -> str:
    return f"{__name__}.{name}"


def build(**options: Any) -> MultimodalModel:
    torch.manual_seed(0)
    return MODELS.build({"type": "module", "target": here("TwoParts"), "inputs": INPUTS, **options}, facts=FACTS)


def both() -> dict[str, ModalityInputs]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0]])
    text = ModalityInputs(ids, ids > 0, {"special": (ids == 1) | (ids == 2)})
    return {"image": ModalityInputs(torch.randn(2, 3, 4, 4, generator=draw), torch.ones(2, 1, dtype=torch.bool)), "text": text}


@pytest.mark.parametrize(
    ("told_as", "output"),
    [("mapping", "logits"), ("object", "logits"), ("named", "logits"), ("sequence", "1"), ("tensor", "logits")],
)
def test_the_logits_are_found_by_key_attribute_or_place(told_as: str, output: str) -> None:
    model, inputs = build(options={"told_as": told_as}, output=output), both()
    module = model.get_submodule("module")
    assert isinstance(module, TwoParts)
    hidden = torch.cat([module.words(inputs["text"].values).sum(1), module.pixels(inputs["image"].values.mean((2, 3)))], 1)
    torch.testing.assert_close(model(inputs).logits, module.head(hidden.tanh()))
    assert model.modalities == TorchModule.modalities_of({"inputs": INPUTS}) == ("image", "text")


def test_a_summary_is_classified() -> None:
    model = build(options={"width": 5}, output="hidden", summary_size=10)
    assert model(both()).logits.shape == (2, 3)
    assert model.get_parameter("classifier.weight").shape == (3, 10)


def test_a_mask_is_handed_on_to_who_takes_it() -> None:
    model, inputs = build(masks={"text": "attention_mask"}), both()
    module = model.get_submodule("module")
    wanted = module(inputs["text"].values, inputs["image"].values, inputs["text"].mask)["logits"]
    torch.testing.assert_close(model(inputs).logits, wanted)
    assert not torch.allclose(model(inputs).logits[1], build()(inputs).logits[1])


def test_what_is_hidden_is_zeros_and_padding() -> None:
    model, inputs = build(), both()
    hidden: Inputs = {m: found for m, x in inputs.items() if (found := AttentionMasker().hide(m, x)) is not None}
    blank = {
        "image": ModalityInputs(torch.zeros(2, 3, 4, 4), torch.ones(2, 1, dtype=torch.bool)),
        "text": ModalityInputs(torch.tensor([[1, 0, 0, 2], [1, 0, 2, 0]]), torch.ones(2, 4, dtype=torch.bool)),
    }
    assert torch.equal(model(hidden).logits, model(blank).logits)


def test_dropped_words_leave_the_special_ones_and_no_padding() -> None:
    model, inputs = build(), both()
    dropped = DropMasker().hide("text", inputs["text"])
    assert dropped is not None
    marks = ModalityInputs(torch.tensor([[1, 2]] * 2), torch.ones(2, 2, dtype=torch.bool))
    assert torch.equal(model(inputs | {"text": dropped}).logits, model(inputs | {"text": marks}).logits)


def test_a_function_may_make_the_module_and_options_are_its_arguments() -> None:
    sound = {"sound": ModalityInputs(torch.randn(2, 6), torch.ones(2, 6, dtype=torch.bool))}
    made = build(target=here("make_linear"), options={"width": 6}, inputs={"sound": "input"})
    assert made(sound).logits.shape == (2, 3)
    assert build(target=here("Anything"), options={"width": 6}, inputs={"sound": "wave"})(sound).logits.shape == (2, 3)


def test_a_network_of_torchvision_is_a_model_as_it_is() -> None:
    model = build(target="torchvision.models.squeezenet1_1", options={"num_classes": 3}, inputs={"image": "x"}).eval()
    image = ModalityInputs(torch.randn(2, 3, 32, 32), torch.ones(2, 1, dtype=torch.bool))
    assert model({"image": image}).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "TwoParts"}, "target must be a dotted name such as package.Class, got 'TwoParts'"),
        ({"target": "no.such.Class"}, "target 'no.such.Class' cannot be imported: .*No module named 'no'"),
        ({"target": here("TwoPart")}, ".* has no 'TwoPart'. Did you mean 'TwoParts'"),
        ({"target": here("NOT_CALLABLE")}, "must be a class of nn.Module, or a function .*, and is of type int"),
        (
            {"target": here("Pair"), "options": {"logits": 1, "hidden": 2}},
            "must be a class of nn.Module, or .*, and is the class Pair",
        ),
        (
            {"target": "subprocess.getoutput", "options": {"cmd": "true"}},
            "must be a class of nn.Module, or .*, and is of type function",
        ),
        ({"target": here("refuse")}, "cannot be made with options {}: no such sizes"),
        ({"options": {"widht": 4}}, "options.widht: .* has no such argument, only .* Did you mean 'width'"),
        ({"inputs": {}}, "inputs must name at least one modality, got none"),
        ({"inputs": {"text": "input_id"}}, "inputs.text: the forward of .* has no 'input_id', only .* Did you mean 'input_ids'"),
        ({"inputs": {"text": "input_ids"}}, "needs pixel_values, which no input or mask carries"),
        ({"masks": {"text": "mask"}}, "masks.text: the forward of .* has no 'mask'"),
        ({"masks": {"sound": "attention_mask"}}, "masks.sound: inputs has no such modality, only image, text"),
        ({"summary_size": 0}, "summary_size must be above 0, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"model: .*{sentence}"):
        build(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"output": "logit"}, "gives a dict of logits, hidden, in which 'logit' is no tensor; set output. Did you mean 'logits'"),
        ({"output": "7", "options": {"told_as": "sequence"}}, "gives a tuple of 0, 1, in which '7' is no tensor"),
        ({"options": {"told_as": "nothing"}}, "gives a NoneType, in which 'logits' is no tensor"),
        ({"output": "hidden"}, r"'hidden' of .* has the shape \[2, 8\], wanted \[B, 3\]"),
        ({"output": "hidden", "summary_size": 9}, r"has the shape \[2, 8\], wanted \[B, 9\]"),
    ],
)
def test_an_output_that_does_not_fit_is_told(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(**options)(both())


def test_a_modality_that_must_be_there_is_named_with_a_masker_that_keeps_it() -> None:
    with pytest.raises(ValueError, match=r"needs 'pixel_values' and 'image' was left out; .* such as attention"):
        build()({"text": both()["text"]})


@pytest.mark.parametrize("teaches", [True, False])
def test_a_module_teaches_and_learns(teaches: bool) -> None:
    student, teacher, masker = build(), build(options={"width": 6}), AttentionMasker()
    if not teaches:
        encoders = {"image": {"type": "patches", "patch_size": 4, "hidden_size": 4, "image_size": 4}}
        encoders["text"] = {"type": "transformer", "hidden_size": 4, "num_layers": 1, "num_heads": 1, "max_positions": 8}
        facts = FACTS | {"image_channels": 3}
        teacher = MODELS.build({"type": "late_fusion", "hidden_size": 4, "encoders": encoders}, facts=facts)
    views: list[Any] = ["full", "image", "text"]
    objective = DistillationObjective(student, LiveTeacher(teacher, masker), masker, views, distill_weight=1.0)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    batch, losses = Batch(both(), torch.tensor([0, 2]), ("a", "b")), []
    for _ in range(3):
        loss = objective.train()(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
