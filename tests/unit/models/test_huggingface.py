"""Models of transformers: the same numbers as transformers' own forward, hidden modalities, files, and as teachers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from msd_framework.errors import ConfigError
from msd_framework.maskers.attention import AttentionMasker
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.encoders.bert import Bert
from msd_framework.models.huggingface import HuggingFace
from msd_framework.models.pretrained.adapters import ByArguments, summary_of
from msd_framework.models.pretrained.transformers import forward_arguments, model_type
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.registry import MODELS
from msd_framework.run import run
from msd_framework.structures import Batch, DatasetInfo, Inputs, ModalityInputs, Setting
from msd_framework.teachers.live import LiveTeacher
from tests.hidden import hidden_at_full_width

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
TEXT, IMAGE = SIZES | {"max_position_embeddings": 12}, SIZES | {"patch_size": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "vilt": TEXT | {"patch_size": 4},
    "visual_bert": TEXT,
    "lxmert": TEXT | {"l_layers": 2, "x_layers": 1, "r_layers": 1},
    "clip": {"projection_dim": 6, "text_config": TEXT | {"eos_token_id": 39}, "vision_config": IMAGE},
    "siglip": {"text_config": TEXT, "vision_config": IMAGE},
    "flava": {"projection_dim": 6, "text_config": TEXT, "image_config": IMAGE, "multimodal_config": SIZES},
    "bridgetower": SIZES
    | {
        "text_config": TEXT | {"num_hidden_layers": 3},
        "vision_config": {"hidden_size": 64, "num_hidden_layers": 3, "patch_size": 4},
    },
    "bert": TEXT,
    "vit": IMAGE,
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"},
    "distilbert": {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 12},
    "chinese_clip": {"projection_dim": 8, "text_config": TEXT, "vision_config": IMAGE},
}
FACTS = {"num_classes": 3, "vocab_size": 40, "pad_id": 0, "cls_id": 1, "sep_id": 2, "feature_size": 6}
FACTS |= {"image_size": [8, 8], "image_channels": 3}
REGIONS = ("visual_bert", "lxmert")
UNIMODAL = {"bert": "text", "distilbert": "text", "vit": "image", "resnet": "image"}


def build(kind: str, seed: int = 0, **options: Any) -> HuggingFace:
    torch.manual_seed(seed)
    config = {"model_type": kind, **CONFIGS[kind]}
    model = MODELS.build({"type": "huggingface", "config": config, **options}, facts=FACTS).eval()
    assert isinstance(model, HuggingFace)
    with torch.no_grad():
        for parameter in model.parameters():  # wider than transformers draws them, so that differences show
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def texts(padded: bool = False) -> ModalityInputs:
    ids = torch.tensor([[1, 7, 8, 9, 39], [1, 12, 30, 22, 39], [1, 4, 39, 0, 0] if padded else [1, 4, 5, 6, 39]])
    mask = torch.tensor([[True] * 5, [True] * 5, [True] * 3 + [not padded] * 2])
    return ModalityInputs(ids, mask, {"special": ((ids == 1) | (ids == 39)) & mask})


def images(kind: str) -> ModalityInputs:
    draw = torch.Generator().manual_seed(0)
    if kind not in REGIONS:
        return ModalityInputs(torch.randn(3, 3, 8, 8, generator=draw), torch.ones(3, 1, dtype=torch.bool))
    boxes = torch.rand(3, 4, 4, generator=draw)
    mask = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]])
    return ModalityInputs(torch.randn(3, 4, 6, generator=draw), mask, {"boxes": boxes})


def both(kind: str, padded: bool = True) -> dict[str, ModalityInputs]:
    found = {"image": images(kind), "text": texts(padded)}
    return {UNIMODAL[kind]: found[UNIMODAL[kind]]} if kind in UNIMODAL else found


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)  # float32, where transformers 4.41 can do no more for CLIP


def normal(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


# ---- numbers ----


def asked(kind: str, inputs: Inputs) -> dict[str, Tensor]:
    """What a user of transformers would write."""
    image, text = inputs["image"], inputs["text"]
    arguments = {"input_ids": text.values, "attention_mask": text.mask.long()}
    if kind in REGIONS:
        name = "visual_embeds" if kind == "visual_bert" else "visual_feats"
        visible = image.mask[..., None]
        boxes = {"visual_pos": image.extras["boxes"] * visible} if kind == "lxmert" else {}
        return arguments | boxes | {name: image.values * visible, "visual_attention_mask": image.mask.long()}
    return arguments | {"pixel_values": image.values}


SUMMARIES: dict[str, Callable[[Any], Tensor]] = {
    "vilt": lambda output: output.pooler_output,
    "visual_bert": lambda output: output.pooler_output,
    "lxmert": lambda output: output.pooled_output,
    "bridgetower": lambda output: output.pooler_output,
    "flava": lambda output: output.multimodal_embeddings[:, 0],
    "clip": lambda output: torch.cat([output.text_embeds, output.image_embeds], 1),
    "chinese_clip": lambda output: torch.cat([output.text_embeds, output.image_embeds], 1),
}


@pytest.mark.parametrize("kind", SUMMARIES)
def test_the_summary_is_that_of_transformers_own_forward(kind: str) -> None:
    model, inputs = build(kind), both(kind, padded=kind != "flava")  # transformers 4.41 shows FLAVA the padding
    summary = model.encode(inputs).summary
    if kind == "clip":
        summary = torch.cat([normal(half) for half in summary.chunk(2, 1)], 1)
    wanted = SUMMARIES[kind](model.model(**asked(kind, inputs)))
    close(summary, wanted)
    close(model(inputs).logits, model.classifier(model.encode(inputs).summary))
    assert (summary[0] - summary[1]).abs().max() > 1e-3


def test_siglip_reads_texts_padded_to_its_longest_as_it_was_trained() -> None:
    model, inputs = build("siglip"), both("siglip")
    ids = torch.nn.functional.pad(texts(True).values, (0, 7))
    pad = model.model.config.text_config.pad_token_id
    ids[~torch.nn.functional.pad(texts(True).mask, (0, 7))] = pad
    output = model.model(input_ids=ids, pixel_values=inputs["image"].values)
    text, image = model.encode(inputs).summary.chunk(2, 1)
    close(normal(text), output.text_embeds)
    close(normal(image), output.image_embeds)


@pytest.mark.parametrize(("kind", "summary"), [("bert", "pooler_output"), ("vit", "pooler_output"), ("resnet", "pooler_output")])
def test_a_model_of_one_modality_is_summarised_by_its_pooler(kind: str, summary: str) -> None:
    model, inputs = build(kind), both(kind)
    arguments = {"input_ids": texts(True).values, "attention_mask": texts(True).mask.long()}
    output = model.model(**(arguments if kind == "bert" else {"pixel_values": images(kind).values}))
    close(model.encode(inputs).summary, output[summary].flatten(1))


def test_without_a_pooler_the_summary_is_the_mean_of_the_words() -> None:
    model, text = build("distilbert"), texts(True)
    states = model.model(input_ids=text.values, attention_mask=text.mask.long()).last_hidden_state
    close(model.encode({"text": text}).summary[2], states[2, :3].mean(0))


def test_images_of_another_size_than_vilts_stretch_its_positions() -> None:
    model, inputs = build("vilt"), both("vilt")
    wide = replace(inputs["image"], values=torch.randn(3, 3, 8, 16))
    output = model.model(**asked("vilt", inputs | {"image": wide}), pixel_mask=torch.ones(3, 8, 16, dtype=torch.long))
    close(model.encode(inputs | {"image": wide}).summary, output.pooler_output)


# ---- hidden modalities ----


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind not in UNIMODAL])
def test_dropped_masked_and_left_out_images_give_the_same_and_whats_under_the_mask_changes_nothing(kind: str) -> None:
    model, inputs = build(kind), both(kind)
    hidden = AttentionMasker().hide("image", inputs["image"])
    assert hidden is not None
    changed = replace(hidden, values=hidden.values + 7)
    alone = model({"text": inputs["text"]}).logits
    close(model(inputs | {"image": hidden}).logits, alone)
    close(model(inputs | {"image": changed}).logits, alone)
    assert (model(inputs).logits - alone).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind not in UNIMODAL])
def test_a_dropped_text_is_a_masked_text(kind: str) -> None:
    model, inputs = build(kind), both(kind)
    masked, dropped = hidden_at_full_width(inputs["text"]), DropMasker().hide("text", inputs["text"])
    assert dropped is not None
    close(model(inputs | {"text": dropped}).logits, model(inputs | {"text": masked}).logits)
    assert model({"image": inputs["image"]}).logits.isfinite().all()


@pytest.mark.parametrize(("kind", "black"), [("vilt", False), ("flava", False), ("clip", False), ("bridgetower", True)])
def test_only_where_an_image_cannot_be_masked_is_it_black(kind: str, black: bool) -> None:
    model, inputs = build(kind), both(kind)
    shown = replace(inputs["image"], values=torch.zeros_like(inputs["image"].values))
    difference = (model(inputs | {"image": shown}).logits - model({"text": inputs["text"]}).logits).abs().max()
    assert (difference < 1e-6) == black


def test_clip_has_zeros_in_the_place_of_what_is_hidden() -> None:
    model, inputs = build("clip"), both("clip")
    text, image = model.encode({"text": inputs["text"]}).summary.chunk(2, 1)
    close(text, model.encode(inputs).summary[:, :6])
    assert image.eq(0).all()


@pytest.mark.parametrize("kind", ["clip", "lxmert", "flava", "bridgetower"])
def test_all_that_learns_gets_a_gradient(kind: str) -> None:
    model = build(kind)
    model.train()(both(kind)).logits.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None] == []


# ---- intermediates ----


@pytest.mark.parametrize("kind", ["vilt", "visual_bert", "lxmert", "clip", "siglip", "flava", "bert", "vit"])
def test_the_states_of_layers_are_told_by_name(kind: str) -> None:
    model, inputs = build(kind), both(kind)
    output, (features,) = model.forward_features([inputs], [tuple(model.feature_kinds)])
    assert features.keys() == model.feature_kinds.keys()
    close(output.logits[0], model(inputs).logits)
    for modality, x in inputs.items():
        last = features[f"{modality}.2.hidden"]
        assert last.mask is not None
        assert last.values.shape == (*last.mask.shape, 8)
        assert last.values[~last.mask].eq(0).all()
        if modality == "text":
            assert torch.equal(last.mask.sum(1), (x.mask & ~x.special).sum(1))
    close(features["fused.pooled"].values, model.encode(inputs).summary)


def test_vilts_states_are_those_of_transformers() -> None:
    model, inputs = build("vilt"), both("vilt", padded=False)
    _, (features,) = model.forward_features([inputs], [["text.1.hidden"]])
    output = model.model(**asked("vilt", inputs), output_hidden_states=True)
    close(features["text.1.hidden"].values[:, 1:4], output.hidden_states[1][:, 1:4])


def test_what_cannot_be_told_apart_is_not_offered() -> None:
    assert set(build("bridgetower").feature_kinds) == {"fused.pooled"}


# ---- files ----


@pytest.mark.parametrize("kind", ["vilt", "clip", "flava", "bridgetower", "siglip", "lxmert", "resnet"])
def test_a_folder_is_loaded_and_its_checkpoint_rebuilt_without_it(kind: str, tmp_path: Path) -> None:
    saved, inputs = build(kind), both(kind)
    saved.model.save_pretrained(tmp_path / "hub")
    spec = {"type": "huggingface", "name": str(tmp_path / "hub")}
    assert HuggingFace.modalities_of(spec) == saved.modalities
    loaded = MODELS.build(spec, facts=FACTS).eval()
    assert isinstance(loaded, HuggingFace)
    close(loaded.encode(inputs).summary, saved.encode(inputs).summary)

    options = json.loads(json.dumps(loaded.rebuild_options({"name": spec["name"]})))  # as a card holds it
    for file in (tmp_path / "hub").iterdir():
        file.unlink()
    again = MODELS.build({"type": "huggingface", **options}, facts=FACTS).eval()
    again.load_state_dict(loaded.state_dict())
    assert torch.equal(again(inputs).logits, loaded(inputs).logits)


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    build("bert").model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"], tensors["pooler.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights of .* lack encoder.layer.1.output.dense.weight$"):
        HuggingFace(num_classes=2, name=str(tmp_path))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model: the folder .* has no config.json"):
        HuggingFace.modalities_of({"name": str(tmp_path)})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **CONFIGS["bert"]}))
    assert HuggingFace.modalities_of({"name": str(tmp_path)}) == ("text",)
    with pytest.raises(ValueError, match="transformers finds no weights of"):
        HuggingFace(num_classes=2, name=str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: is not JSON"):
        HuggingFace(num_classes=2, name=str(tmp_path))


# ---- which argument carries what ----


def test_a_modality_may_have_another_name_and_others_may_be_left_alone() -> None:
    model = build("vilt", inputs={"title": "input_ids"})
    assert model.modalities == HuggingFace.modalities_of({"name": "not/read", "inputs": {"title": "input_ids"}}) == ("title",)
    close(model({"title": texts()}).logits, build("vilt")({"text": texts()}).logits)


def test_an_unknown_architecture_is_asked_by_the_names_of_its_arguments() -> None:
    assert {"input_ids", "attention_mask"} <= set(forward_arguments("electra"))
    assert HuggingFace.modalities_of({"config": {"model_type": "align"}}) == ("image", "text")
    assert HuggingFace.modalities_of({"config": {"model_type": "wav2vec2"}}) == ("audio",)


def test_sizes_that_the_data_tells_go_into_a_configuration_that_does_not() -> None:
    sizes = build("clip").model.config
    assert (sizes.text_config.vocab_size, sizes.vision_config.image_size) == (40, 8)
    own = HuggingFace(3, config={"model_type": "bert", **TEXT, "vocab_size": 50}, vocab_size=40)
    assert own.model.config.vocab_size == 50


def test_values_of_another_kind_are_found_before_anything_is_built() -> None:
    kinds = {"image": "features", "text": "tokens"}
    setting = Setting(DatasetInfo(kinds, 3, "single_label"), ("image", "text"), None, kinds)  # type: ignore[arg-type]
    options = {"config": {"model_type": "vilt"}}
    assert HuggingFace.check(options, setting) == ["'pixel_values' carries pixels, and the processor of 'image' makes features."]
    assert HuggingFace.check({"config": {"model_type": "lxmert"}}, setting) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "give either name or config, got name None and config None"),
        ({"config": {"hidden_size": 8}}, "config must say its model_type, such as vilt; it has hidden_size"),
        ({"config": {"model_type": "vilbertt"}}, "transformers makes no model of config, whose model_type is 'vilbertt'"),
        ({"config": {"model_type": "bert", **TEXT, "hidden_size": 9}}, "transformers makes no model of config.* 'bert'"),
        ({"config": {"model_type": "bert", **TEXT, "vocab_size": 30}, "vocab_size": 40}, "has 40 words and config .* for 30"),
        (
            {"config": {"model_type": "vit", **IMAGE}, "inputs": {"image": "pixel_value"}},
            "inputs.image: vit has no 'pixel_value' to carry a modality; it has pixel_values.* Did you mean 'pixel_values'",
        ),
        (
            {"config": {"model_type": "decision_transformer", "hidden_size": 8, "n_head": 2}},
            "takes none of input_ids, pixel_values",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        HuggingFace(num_classes=2, **options)


@pytest.mark.parametrize("kind", ["vilt", "clip"])
def test_a_text_that_is_too_long_is_refused(kind: str) -> None:
    long = ModalityInputs(torch.ones(1, 13, dtype=torch.long), torch.ones(1, 13, dtype=torch.bool))
    with pytest.raises(ValueError, match="a text has 13 positions and this model takes 12; set the max_length"):
        build(kind)({"text": long})


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"model_type": "roberta", **TEXT, "pad_token_id": 1}, 10),
        ({"model_type": "xlnet", "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 16}, None),
    ],
)
def test_the_longest_text_is_what_an_architecture_has_positions_for(config, longest):
    facts = {**FACTS, "pad_id": 1, "cls_id": 3}
    model = MODELS.build({"type": "huggingface", "config": config, "inputs": {"text": "input_ids"}}, facts=facts).eval()
    assert model.max_positions == longest
    length = longest or 12
    ids = ModalityInputs(torch.full((2, length), 7), torch.ones(2, length, dtype=torch.bool))
    assert model({"text": ids}).logits.shape == (2, 3)
    with pytest.raises((IndexError, RuntimeError)) if longest else nullcontext():
        model.model(input_ids=torch.full((2, length + 1), 7))


def test_a_text_that_no_words_stand_in_for_cannot_be_left_out() -> None:
    model = build("vilt", cls_id=101, sep_id=102)
    with pytest.raises(ValueError, match=r"stand in for it are not among the words of this model; set them to the tokenizer's$"):
        model({"image": images("vilt")})


def test_a_model_that_tells_nothing_of_use_is_refused() -> None:
    with pytest.raises(ValueError, match="the model tells logits, and none of pooler_output, pooled_output, last_hidden_state"):
        summary_of({"logits": torch.ones(1, 2)}, {})
    with pytest.raises(ValueError, match="the configuration of odd does not tell its hidden_size"):
        ByArguments().width(SimpleNamespace(model_type="odd"))


def test_an_architecture_that_there_is_not_has_no_modalities() -> None:
    with pytest.raises(ConfigError, match="transformers knows no model of model_type 'vilbertt'"):
        HuggingFace.modalities_of({"config": {"model_type": "vilbertt"}})
    assert model_type(None, {"model_type": "x"}) == "x"


# ---- as teachers ----

STUDENT = {
    "type": "late_fusion",
    "hidden_size": 8,
    "encoders": {
        "image": {"type": "patches", "patch_size": 4, "hidden_size": 8},
        "text": {"type": "transformer", "hidden_size": 8, "num_layers": 1, "num_heads": 2, "max_positions": 12},
    },
}


@pytest.mark.parametrize("kind", ["vilt", "clip"])
def test_a_model_of_transformers_teaches_one_of_ours(kind: str) -> None:
    torch.manual_seed(0)
    teacher, student = build(kind), MODELS.build(STUDENT, facts=FACTS)
    masker, weights = DropMasker(), {n: p.clone() for n, p in teacher.named_parameters()}
    views: list[Any] = ["full", "image", "text"]
    objective = DistillationObjective(student, LiveTeacher(teacher, masker), masker, views, distill_weight=1.0)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    batch = Batch(both(kind), torch.tensor([0, 2, 1]), ("a", "b", "c"))
    losses = []
    for _ in range(3):
        loss = objective.train()(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, weights[n]) for n, p in teacher.named_parameters())


def test_a_model_of_transformers_learns_from_one_of_ours() -> None:
    torch.manual_seed(0)
    student, teacher, masker = build("vilt"), MODELS.build(STUDENT, facts=FACTS), DropMasker()
    objective = DistillationObjective(student, LiveTeacher(teacher, masker), masker, ["full", "image", "text"])
    objective(Batch(both("vilt"), torch.tensor([0, 2, 1]), ("a", "b", "c"))).loss.backward()
    assert [n for n, p in student.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_run_saves_one_and_another_run_learns_from_its_checkpoint(tiny_config: Path, tmp_path: Path) -> None:
    hub, teacher = tmp_path / "hub", tmp_path / "teacher"
    build("clip").model.save_pretrained(hub)
    spec = {"type": "huggingface", "name": str(hub)}
    run(tiny_config, [f"model={json.dumps(spec)}", f"env.save_dir={teacher}"])
    shutil.rmtree(hub)
    words = [f"teacher.checkpoint={teacher}", "objective={type: distillation, views: [full, image, text]}"]
    student = {"type": "huggingface", "config": {"model_type": "vilt", **CONFIGS["vilt"]}}
    report = run(tiny_config, [*words, f"model={json.dumps(student)}", f"env.save_dir={tmp_path / 'student'}"])
    assert "agreement" in json.dumps(report)
    refused = {"type": "module", "target": "torch.nn.Bilinear", "inputs": {"text": "input1", "image": "input2"}}
    with pytest.raises(ConfigError, match="masker: leaves modalities out, and the model needs all of them"):
        run(tiny_config, [*words, f"model={json.dumps(refused)}", f"env.save_dir={tmp_path / 'refused'}"])


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.module."])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_names_that_torch_has_changed_are_taken_as_they_were(tmp_path: Path, prefix: str, file: str) -> None:
    model = build("bert").model
    model.save_pretrained(tmp_path)
    wrapped = {prefix + name: tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    (tmp_path / "model.safetensors").unlink()
    if file.endswith(".bin"):
        torch.save(wrapped, tmp_path / file)
    else:
        save_file(wrapped, tmp_path / file, {"format": "pt"})
    for found in (HuggingFace(num_classes=2, name=str(tmp_path)).model, Bert(name=str(tmp_path)).model):
        assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_an_encoder_does_not_start_from_random_weights_where_its_folder_lacks_some(tmp_path: Path) -> None:
    build("bert").model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights of .* lack encoder.layer.1.output.dense.weight$"):
        Bert(name=str(tmp_path))
