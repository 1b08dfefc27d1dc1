"""VisualBERT against transformers' VisualBertModel, with the same weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from msd_framework.errors import ConfigError
from msd_framework.models.encoders.patches import Patches
from msd_framework.models.visual_bert import VisualBert
from msd_framework.registry import MODELS
from msd_framework.structures import ModalityInputs
from tests.bert_equations import encoded

SIZES = {"hidden_size": 24, "num_layers": 3, "num_heads": 4, "intermediate_size": 40, "max_positions": 20}
THEIR_SIZES = {
    "vocab_size": 50,
    "visual_embedding_dim": 10,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
}


def build(seed: int = 0, **options: Any) -> VisualBert:
    torch.manual_seed(seed)
    defaults = {"num_classes": 3, "vocab_size": 50, "feature_size": 10, "cls_id": 1, "sep_id": 2}
    return VisualBert(**(defaults | SIZES | options)).eval()


def shaken(module: nn.Module) -> Any:
    """With every parameter random, so that no bias or scale can be forgotten unseen."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def theirs(kind: str = "VisualBertModel", **options: Any) -> Any:
    import transformers

    config = transformers.VisualBertConfig(**(THEIR_SIZES | options))
    return shaken(getattr(transformers, kind)(config))


def their_bert(kind: str = "BertModel") -> Any:
    import transformers

    sizes = {k: v for k, v in THEIR_SIZES.items() if k != "visual_embedding_dim"}
    return shaken(getattr(transformers, kind)(transformers.BertConfig(**sizes)))


def make_inputs(dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, ModalityInputs]:
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(8)
    lengths = torch.tensor([8, 3, 6, 5])
    mask = place < lengths[:, None]
    special = (place == 0) | (place == lengths[:, None] - 1)
    text = ModalityInputs(
        torch.randint(1, 50, (4, 8), generator=generator),
        mask,
        {"special": special & mask, "segments": torch.randint(0, 2, (4, 8), generator=generator)},
    )
    regions = torch.randn(4, 7, 10, generator=generator, dtype=torch.float64).to(dtype)
    return {"image": ModalityInputs(regions, torch.arange(7) < torch.tensor([2, 7, 0, 5])[:, None]), "text": text}


def their_output(model: Any, inputs: dict[str, ModalityInputs], visual_token_type: int = 1) -> Any:
    text, image = inputs["text"], inputs.get("image")
    visual = {}
    if image is not None:
        visual = {
            "visual_embeds": image.values,
            "visual_attention_mask": image.mask.long(),
            "visual_token_type_ids": torch.full(image.mask.shape, visual_token_type),
        }
    return model(
        input_ids=text.values,
        attention_mask=text.mask.long(),
        token_type_ids=text.extras.get("segments"),
        position_ids=text.extras.get("positions"),
        **visual,
    )


both_forms = pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])


def same(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    """Float64 by default: sums in another order."""
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# ---- numbers ----


@pytest.mark.parametrize("visual_token_type", [0, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("shown", [("image", "text"), ("text",)], ids=["image+text", "text"])
def test_output_is_that_of_transformers(
    tmp_path: Path, shown: tuple[str, ...], dtype: torch.dtype, tolerance: float, visual_token_type: int
) -> None:
    reference = theirs()
    reference.save_pretrained(tmp_path)
    model = VisualBert(3, pretrained=str(tmp_path), visual_token_type=visual_token_type).to(dtype).eval()
    inputs = {m: x for m, x in make_inputs(dtype).items() if m in shown}
    found, expected = encoded(model, inputs), their_output(reference.to(dtype), inputs, visual_token_type)
    same(found.pooled, expected.pooler_output, tolerance)
    same(found.tokens[found.mask], expected.last_hidden_state[found.mask], tolerance)


@both_forms
def test_the_visual_token_type_matters(packed: bool) -> None:
    inputs = make_inputs(torch.float32)
    zero, one = (shaken(build(visual_token_type=t, packed=packed))(inputs).logits for t in (0, 1))
    assert (zero - one)[0].abs().max() > 1e-3


def test_gradients_are_those_of_transformers(tmp_path: Path) -> None:
    reference = theirs()
    reference.save_pretrained(tmp_path)
    model, reference, inputs = VisualBert(3, pretrained=str(tmp_path)).double().eval(), reference.double(), make_inputs()
    encoded(model, inputs).pooled.square().sum().backward()
    their_output(reference, inputs).pooler_output.square().sum().backward()
    same(model.embeddings.word.weight.grad, reference.embeddings.word_embeddings.weight.grad)
    same(model.embeddings.visual_projection.weight.grad, reference.embeddings.visual_projection.weight.grad)
    ours, other = model.encoder.layers[0].attention, reference.encoder.layer[0].attention
    same(ours.query.weight.grad, other.self.query.weight.grad)
    same(ours.output.weight.grad, other.output.dense.weight.grad)


@both_forms
def test_text_left_out_is_cls_and_sep_alone(packed: bool) -> None:
    model, inputs = shaken(build(packed=packed)).double(), make_inputs()
    marks = torch.tensor([[1, 2]]).expand(4, 2)
    shown = torch.ones(4, 2, dtype=torch.bool)
    only_marks = ModalityInputs(marks, shown, {"special": shown})
    same(model({"image": inputs["image"]}).logits, model({"image": inputs["image"], "text": only_marks}).logits)


@both_forms
@settings(max_examples=25)
@given(
    lengths=st.lists(st.tuples(st.integers(2, 9), st.integers(1, 6)), min_size=1, max_size=4),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_dropped_positions_equal_masked_ones(packed: bool, lengths: list[tuple[int, int]], padding: tuple[int, int]) -> None:
    model = shaken(build(packed=packed)).double()
    words, regions = (max(n) + extra for n, extra in zip(zip(*lengths), padding))
    generator = torch.Generator().manual_seed(len(lengths))
    place = torch.arange(words)
    ends = torch.tensor([n for n, _ in lengths])[:, None]
    ids = torch.randint(0, 50, (len(lengths), words), generator=generator)
    features = torch.randn(len(lengths), regions, 10, generator=generator, dtype=torch.float64)
    seen = torch.arange(regions) < torch.tensor([n for _, n in lengths])[:, None]
    marks = (place == 0) | (place == ends - 1)  # all that an image-only view keeps of the text
    masked = model({"image": ModalityInputs(features, seen), "text": ModalityInputs(ids, marks)}).logits
    for i, (n, r) in enumerate(lengths):
        kept = torch.tensor([[0, n - 1]])
        text = ModalityInputs(ids[i, kept], torch.ones(1, 2, dtype=torch.bool), {"positions": kept})
        image = ModalityInputs(features[i : i + 1, :r], torch.ones(1, r, dtype=torch.bool))
        same(model({"image": image, "text": text}).logits[0], masked[i])


@both_forms
def test_what_is_not_a_number_under_the_mask_reaches_neither_logits_nor_gradients(packed: bool) -> None:
    model, inputs = build(packed=packed), make_inputs(torch.float32)
    image = inputs["image"]
    spoiled = ModalityInputs(image.values.masked_fill(~image.mask[..., None], torch.nan), image.mask)
    model({**inputs, "image": spoiled}).logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert torch.equal(model({**inputs, "image": spoiled}).logits, model(inputs).logits)


def test_hidden_states_end_in_what_forward_returns() -> None:
    model, inputs = build(), make_inputs(torch.float32)
    last, states = model.encoder.trace(*model.embed(model.parts([inputs])[0]), range(4))
    assert list(states) == [0, 1, 2, 3]
    assert torch.equal(states[3], last)
    assert torch.equal(last, encoded(model, inputs).tokens)


@both_forms
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # torch's own, when it first loads its forward mode
def test_forward_mode_derivative_is_the_backward_one(packed: bool) -> None:
    model, inputs = build(packed=packed).double(), make_inputs()
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    direction = {n: torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(3)) for n, p in parameters.items()}

    def score(weights: dict[str, Tensor]) -> Tensor:
        output = torch.func.functional_call(model, weights, (inputs,))
        return output.logits.square().sum()

    _, forward = torch.func.jvp(score, (parameters,), (direction,))
    gradient = torch.func.grad(score)(parameters)
    same(forward, sum((gradient[n] * direction[n]).sum() for n in parameters), 1e-10)  # sums of thousands of terms


@both_forms
def test_a_small_one_learns_what_needs_both_modalities(packed: bool) -> None:
    torch.manual_seed(0)
    first, second = torch.randint(0, 2, (2, 64))
    words = torch.stack([torch.full((64,), 1), 10 + first, torch.full((64,), 2)], 1)
    regions = torch.randn(64, 2, 10) + 2 * second[:, None, None]
    inputs = {
        "image": ModalityInputs(regions, torch.ones(64, 2, dtype=torch.bool)),
        "text": ModalityInputs(words, torch.ones_like(words, dtype=torch.bool)),
    }
    model = build(num_classes=2, packed=packed, num_layers=1, dropout=0.0, attention_dropout=0.0, initializer_range=0.1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(inputs).logits, first ^ second)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    assert (model(inputs).logits.argmax(1) == (first ^ second)).float().mean() > 0.95


# ---- head and initial weights ----


def test_the_transform_head_is_that_of_mmf() -> None:
    from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

    model = shaken(build(head="transform"))
    import transformers

    transform = BertPredictionHeadTransform(transformers.BertConfig(hidden_size=24)).eval()
    transform.dense, transform.LayerNorm = model.head[0], model.head[2]
    pooled = torch.randn(5, 24)
    same(model.head(pooled), model.head[3](transform(pooled)), 1e-6)  # float32


def test_weights_start_with_the_spread_that_was_asked_for() -> None:
    model = build(hidden_size=96, initializer_range=0.3)
    assert model.embeddings.word.weight[1:].std().item() == pytest.approx(0.3, rel=0.1)
    assert model.encoder.layers[0].expand.weight.std().item() == pytest.approx(0.3, rel=0.1)
    assert not model.encoder.layers[0].expand.bias.any()
    assert not model.embeddings.word.weight[0].any()  # [PAD]


def test_an_image_encoder_keeps_its_own_initial_weights() -> None:
    torch.manual_seed(0)
    encoder = Patches(image_size=8, patch_size=4, hidden_size=10)
    before = encoder.embed[0].weight.clone()
    model = build(image_encoder=encoder, feature_size=99)
    assert torch.equal(model.image_encoder.embed[0].weight, before)
    assert model.embeddings.visual_projection.in_features == 10


# ---- published weights ----


@pytest.mark.parametrize(
    "kind", ["VisualBertModel", "VisualBertForPreTraining", "VisualBertForQuestionAnswering", "VisualBertForVisualReasoning"]
)
def test_heads_of_others_are_left_behind(tmp_path: Path, kind: str) -> None:
    reference = theirs(kind)
    reference.save_pretrained(tmp_path)
    model, inputs = VisualBert(3, pretrained=str(tmp_path)).double().eval(), make_inputs()
    body = reference if kind == "VisualBertModel" else reference.visual_bert
    same(encoded(model, inputs).pooled, their_output(body.double(), inputs).pooler_output)


def test_a_torch_file_of_tensors_loads(tmp_path: Path) -> None:
    reference = theirs()
    reference.config.save_pretrained(tmp_path)
    torch.save(reference.state_dict(), tmp_path / "pytorch_model.bin")
    model, inputs = VisualBert(3, pretrained=str(tmp_path)).double().eval(), make_inputs()
    same(encoded(model, inputs).pooled, their_output(reference.double(), inputs).pooler_output)


@pytest.mark.parametrize("visual_token_type", [0, 1])
def test_transformers_reads_what_is_saved(tmp_path: Path, visual_token_type: int) -> None:
    import transformers

    model = shaken(build(dropout=0.3, attention_dropout=0.2, visual_token_type=visual_token_type))
    model.save_transformers(tmp_path / "new" / "folder")
    reference, report = transformers.VisualBertModel.from_pretrained(tmp_path / "new" / "folder", output_loading_info=True)
    assert not any(report.values())
    config = reference.config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.pad_token_id) == (0.3, 0.2, 0)
    inputs = make_inputs()
    expected = their_output(reference.double().eval(), inputs, visual_token_type)
    same(encoded(model.double(), inputs).pooled, expected.pooler_output)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    model = shaken(build())
    model.save_transformers(tmp_path)
    again = VisualBert(3, pretrained=str(tmp_path), feature_size=10, vocab_size=50, hidden_size=24).eval()
    assert again.sizes == model.sizes
    inputs = make_inputs(torch.float32)
    assert torch.equal(encoded(again, inputs).pooled, encoded(model, inputs).pooled)


@pytest.mark.parametrize("kind", ["BertModel", "BertForPreTraining"])
def test_bert_weights_read_text_as_bert_does(tmp_path: Path, kind: str) -> None:
    reference = their_bert(kind)
    reference.save_pretrained(tmp_path)
    model = VisualBert(3, pretrained=str(tmp_path), feature_size=10).double().eval()
    inputs = {"text": make_inputs()["text"]}
    body = reference if kind == "BertModel" else reference.bert
    same(encoded(model, inputs).pooled, their_output(body.double(), inputs).pooler_output)
    assert torch.equal(model.embeddings.visual_position.weight, model.embeddings.position.weight)
    assert torch.equal(model.embeddings.visual_segment.weight, model.embeddings.segment.weight)
    assert model.embeddings.visual_projection.weight.shape == (24, 10)


def test_the_names_of_2018_are_understood(tmp_path: Path) -> None:
    reference = their_bert()
    reference.config.save_pretrained(tmp_path)
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t for n, t in state(reference)
    }
    torch.save(
        {"bert." + n: t for n, t in old.items()} | {"bert.embeddings.position_ids": torch.arange(20)},
        tmp_path / "pytorch_model.bin",
    )
    model = VisualBert(3, pretrained=str(tmp_path))
    assert torch.equal(model.encoder.layers[1].mlp_norm.weight, reference.encoder.layer[1].output.LayerNorm.weight)


def state(module: nn.Module) -> list[tuple[str, Tensor]]:
    return list(module.state_dict().items())


def test_a_hub_name_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils.hub

    reference = theirs()
    reference.config.save_pretrained(tmp_path)
    torch.save(reference.state_dict(), tmp_path / "pytorch_model.bin")

    def cached_file(name: str, file: str, local_files_only: bool) -> str:
        assert name == "someone/visualbert"
        if not (tmp_path / file).is_file():
            raise OSError(f"someone/visualbert has no {file}")
        return str(tmp_path / file)

    monkeypatch.setattr(transformers.utils.hub, "cached_file", cached_file)
    model = VisualBert(3, pretrained="someone/visualbert")
    assert torch.equal(model.pooler.weight, reference.pooler.dense.weight)


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    ("edit", "options", "message"),
    [
        (None, {"hidden_size": 32}, r"hidden_size is 32, and the weights of .* have 24"),
        (None, {"feature_size": 2048}, r"feature_size is 2048, and the weights of .* have 10"),
        (None, {"vocab_size": 51}, r"vocab_size is 51, and the weights of .* have 50"),
        (edit_config(hidden_act="relu"), {}, r"has hidden_act 'relu', and visual_bert computes with 'gelu' only"),
        (edit_config(bypass_transformer=True), {}, r"has bypass_transformer True, and visual_bert computes with False only"),
        (edit_config(model_type="vilt"), {}, r"holds a model of type 'vilt', wanted 'visual_bert' or 'bert'"),
        (edit_config(num_hidden_layers=4), {}, r"do not fit: it lacks encoder\.layers\.3\.attention\.key\.bias, .*"),
        (edit_config(num_hidden_layers=2), {}, r"do not fit: it has besides encoder\.layers\.2\.attention\.key\.bias, .*"),
        (
            edit_config(intermediate_size=41),
            {},
            r"of another shape encoder\.layers\.0\.contract\.weight \[24, 40\], wanted \[24, 41\]",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), {}, r"has no model\.safetensors or pytorch_model\.bin"),
        (lambda folder: (folder / "config.json").unlink(), {}, r"has no config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), {}, r"config\.json: is not JSON .Expecting property name"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), {}, r"is not a safetensors file"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, edit: Any, options: dict[str, Any], message: str) -> None:
    theirs().save_pretrained(tmp_path)
    if edit is not None:
        edit(tmp_path)
    with pytest.raises(ValueError, match=message):
        VisualBert(3, pretrained=str(tmp_path), **options)


def test_a_smaller_vocabulary_than_the_published_one_fits(tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path)
    assert VisualBert(3, pretrained=str(tmp_path), vocab_size=40).sizes.vocab_size == 50


def test_weights_that_are_nowhere_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils.hub

    def cached_file(name: str, file: str, local_files_only: bool) -> str:
        raise OSError("no connection\nto the hub")

    monkeypatch.setattr(transformers.utils.hub, "cached_file", cached_file)
    with pytest.raises(ValueError, match=r"'no/such' is neither a folder here nor a model with config\.json .* no connection$"):
        VisualBert(3, pretrained="no/such")


# ---- what a user can get wrong ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "num_heads must divide hidden_size, got 5 heads for 24 features"),
        ({"num_heads": 0}, "num_heads must be above 0, got 0"),
        ({"pad_id": 50}, r"pad_id must be in 0\.\.49, got 50"),
        ({"num_layers": 0}, "num_layers must be above 0, got 0"),
        ({"visual_token_type": 2}, r"visual_token_type must be in 0\.\.1, got 2"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_text_that_is_too_long_is_refused() -> None:
    text = ModalityInputs(torch.ones(2, 21, dtype=torch.long), torch.ones(2, 21, dtype=torch.bool))
    with pytest.raises(ValueError, match="a text has 21 positions and this model takes 20"):
        build()({"text": text})


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 4, 11)])
def test_images_of_another_kind_are_refused(shape: tuple[int, ...]) -> None:
    image = ModalityInputs(torch.zeros(shape), torch.ones(2, shape[1], dtype=torch.bool))
    with pytest.raises(ValueError, match=r"image must be features \[B, L, 10\], got \[2, .*set feature_size, or give pixels"):
        build()({"image": image})


def test_missing_text_needs_marks_of_the_vocabulary() -> None:
    with pytest.raises(ValueError, match="cls_id and sep_id that stand in for it are not among the 50 words"):
        build(sep_id=102)({"image": make_inputs(torch.float32)["image"]})


def test_a_yaml_builds_one_with_an_image_encoder() -> None:
    spec = {"type": "visual_bert", **SIZES, "image_encoder": {"type": "patches", "patch_size": 4, "hidden_size": 12}}
    facts = {"num_classes": 3, "vocab_size": 30, "image_size": [8, 4], "image_channels": 1}
    model = MODELS.build(spec, facts=facts)
    pixels = ModalityInputs(torch.randn(2, 1, 8, 4), torch.ones(2, 1, dtype=torch.bool))
    text = ModalityInputs(torch.ones(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.bool))
    assert encoded(model, {"image": pixels, "text": text}).tokens.shape == (2, 5 + 2, 24)
    with pytest.raises(ConfigError, match=r"model\.image_encoder: patch_size must divide image_size, got 3 for \[8, 4\]"):
        MODELS.build(spec | {"image_encoder": {"type": "patches", "patch_size": 3}}, facts=facts)


def test_a_model_with_published_weights_is_rebuilt_without_their_files(tmp_path):
    sizes = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 16, "feature_size": 6, "vocab_size": 110}
    VisualBert(num_classes=2, layer_norm_eps=1e-5, num_segments=3, **sizes).save_transformers(tmp_path / "published")
    options = {"pretrained": str(tmp_path / "published"), "dropout": 0.2}
    facts = {"num_classes": 2, "vocab_size": 105}
    model = MODELS.build({"type": "visual_bert", **options}, "model", facts)
    shutil.rmtree(tmp_path / "published")
    again = MODELS.build({"type": "visual_bert", **model.rebuild_options(options)}, "model", facts)
    again.load_state_dict(model.state_dict())
    assert again.sizes == model.sizes
