"""What goes on inside models: by name, in every form of them, and beside transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from msd_framework.maskers.attention import AttentionMasker
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.base import Encoder, MultimodalModel
from msd_framework.models.features import FROM_BELOW, KINDS, SUMMARY, Span, listing, numbered, stack_features
from msd_framework.models.layers.transformer import LayerSizes, Transformer, TransformerLayer
from msd_framework.registry import ENCODERS, MODELS
from msd_framework.structures import Feature, Inputs, ModelOutput
from msd_framework.teachers import store
from tests.hidden import hidden_at_full_width
from tests.unit.models import test_visual_bert as published
from tests.unit.models.layers.test_packed import any_lengths, layouts, make_batch, rows, two_forms, views_of
from tests.unit.models.test_models_contract import (
    FACTS,
    MODEL_CASES,
    PATCHES,
    Case,
    build_encoder,
    build_model,
    change_masked,
    every_encoder,
    every_model,
    make_inputs,
    train_once,
)

SHAPES = {"pooled": 2, "hidden": 3, "attention": 4, "scores": 4}
CLOSE = {"atol": 1e-9, "rtol": 1e-9}  # float64: other sums, and in another order


def look(model: MultimodalModel, inputs: Inputs, names: Any = None) -> Mapping[str, Feature]:
    """The intermediates of one view, all of them if none are named."""
    ((features),) = model.forward_features([inputs], [model.feature_kinds if names is None else names])[1]
    return features


def as_tensors(features: Mapping[str, Feature]) -> dict[str, Tensor]:
    return {name: feature.values for name, feature in features.items()}


# ---- every model ----


@every_model
def test_a_model_tells_all_that_it_offers_in_the_shape_of_its_kind(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    features = look(model, inputs)
    assert set(features) == set(model.feature_kinds)
    for name, kind in model.feature_kinds.items():
        values, mask = features[name].values, features[name].mask
        assert (len(values), values.ndim) == (4, SHAPES[kind]), name
        assert (mask is None) == (kind == "pooled"), name
        if mask is not None:
            assert mask.shape == (4, values.shape[2 if kind in ("attention", "scores") else 1]), name
            hidden = values.movedim(1, -1) if values.ndim == 4 else values
            assert not hidden[~mask].any(), f"{name} is not 0 where nothing stands"


@every_model
def test_looking_inside_changes_no_logit_and_leaves_the_same_gradients(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    plain = model.forward_views([inputs]).logits
    looked = model.forward_features([inputs], [model.feature_kinds])[0].logits
    torch.testing.assert_close(looked, plain, **CLOSE)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found, wanted = (torch.autograd.grad(z.square().sum(), parameters, allow_unused=True) for z in (looked, plain))
    torch.testing.assert_close([g for g in found if g is not None], [g for g in wanted if g is not None], **CLOSE)


@every_model
def test_what_stands_under_a_mask_changes_nothing_inside(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    changed = {m: change_masked(x) for m, x in inputs.items()}
    torch.testing.assert_close(as_tensors(look(model, changed)), as_tensors(look(model, inputs)), **CLOSE)


@every_model
def test_only_what_is_wanted_is_told_and_nothing_if_nothing_is(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    if not model.feature_kinds:  # a module of a user's, which is not looked into
        return
    first, last = next(iter(model.feature_kinds)), list(model.feature_kinds)[-1]
    assert set(look(model, inputs, [first, last])) == {first, last}
    output, features = model.forward_features([inputs, inputs], [(), [first]])
    assert output.logits.shape[:2] == (2, 4)
    assert [set(found) for found in features] == [set(), {first}]


@every_encoder
def test_an_encoder_looked_into_says_what_it_says_otherwise(case: Case) -> None:
    encoder, inputs = build_encoder(case), make_inputs(case)["x"]
    encoded, features = encoder.forward_features(inputs, encoder.feature_kinds)
    plain = encoder(inputs)
    torch.testing.assert_close((encoded.tokens, encoded.pooled), (plain.tokens, plain.pooled), **CLOSE)
    assert set(features) == set(encoder.feature_kinds)
    torch.testing.assert_close(features["last.hidden"].values[plain.mask], plain.tokens[plain.mask], **CLOSE)


def test_the_summary_is_called_as_teacher_caches_call_it() -> None:
    assert store.SUMMARY == SUMMARY
    assert SUMMARY in build_model(MODEL_CASES["visual_bert"][0]).feature_kinds


# ---- the numbers ----


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_states_and_attention_are_those_of_transformers(tmp_path: Any, packed: bool) -> None:
    theirs = published.theirs(attn_implementation="eager").double()
    theirs.save_pretrained(tmp_path)
    model = published.build(pretrained=str(tmp_path), packed=packed).double()
    inputs = published.make_inputs()
    text, image = inputs["text"], inputs["image"]
    said = theirs(
        input_ids=text.values,
        attention_mask=text.mask.long(),
        token_type_ids=text.extras["segments"],
        visual_embeds=image.values,
        visual_attention_mask=image.mask.long(),
        visual_token_type_ids=torch.ones_like(image.mask, dtype=torch.int64),
        output_hidden_states=True,
        output_attentions=True,
    )
    features, shown = look(model, inputs), torch.cat([text.mask, image.mask], 1)
    content = text.mask & ~text.special
    for layer, states in enumerate(said.hidden_states):
        torch.testing.assert_close(features[f"fused.{layer}.hidden"].values[shown], states[shown], **CLOSE)
        torch.testing.assert_close(features[f"image.{layer}.hidden"].values[image.mask], states[:, 8:][image.mask], **CLOSE)
        mean = torch.stack([x[m].mean(0) for x, m in zip(states[:, :8], content)])
        torch.testing.assert_close(features[f"text.{layer}.mean"].values, mean, **CLOSE)
        torch.testing.assert_close(features[f"fused.{layer}.cls"].values, states[:, 0], **CLOSE)
    for layer, weights in enumerate(said.attentions, 1):
        pairs = (shown[:, None, :, None] & shown[:, None, None, :]).expand_as(weights)
        torch.testing.assert_close(features[f"fused.{layer}.attention"].values[pairs], weights[pairs], **CLOSE)
        scores = features[f"fused.{layer}.scores"].values.masked_fill(~shown[:, None, None], -torch.inf)
        torch.testing.assert_close(scores.softmax(-1)[pairs], weights[pairs], **CLOSE)
        words = features[f"text.{layer}.attention"].values[:, :, 1, 2]  # two words that every text has
        assert torch.equal(words[:1], features[f"fused.{layer}.attention"].values[:1, :, 1, 2])


@pytest.mark.parametrize("norm_first", [False, True])
def test_attention_and_values_of_a_layer_are_what_it_reads_with(norm_first: bool) -> None:
    spec = {"type": "transformer", "hidden_size": 8, "num_layers": 2, "num_heads": 2, "norm_first": norm_first}
    case = Case(spec, {"x": "tokens"})
    encoder, inputs = build_encoder(case), make_inputs(case)["x"]
    read: list[Tensor] = []
    for layer in encoder.transformer.layers:  # type: ignore[union-attr]
        layer.attention.register_forward_hook(lambda module, given, output: read.append(output))
    _, features = encoder.forward_features(inputs, encoder.feature_kinds)
    for number, layer in enumerate(encoder.transformer.layers, 1):  # type: ignore[union-attr,arg-type]
        value = features[f"{number}.value"].values.unflatten(-1, (2, 4)).transpose(1, 2)
        made = layer.attention.output((features[f"{number}.attention"].values @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(made[inputs.mask], read[number - 1][inputs.mask], **CLOSE)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "deberta-v2"])
@pytest.mark.parametrize("masker", [AttentionMasker(), DropMasker()], ids=["masked", "dropped"])
def test_a_published_text_encoder_tells_its_layers(model_type: str, masker: Any) -> None:
    from tests.unit.models.encoders.test_encoders import large_bert, sentences

    encoder, x = large_bert(model_type), sentences()
    hidden = masker.hide("text", x)
    features = encoder.forward_features(hidden, encoder.feature_kinds)[1]
    assert set(features) == set(encoder.feature_kinds)
    torch.testing.assert_close(features["2.hidden"].values, features["last.hidden"].values, **CLOSE)
    if masker.removes:  # what is left is seen as if the rest were masked behind it
        other = encoder.forward_features(hidden_at_full_width(x), encoder.feature_kinds)[1]
        kept = [f["1.hidden"].values[f["1.hidden"].mask] for f in (features, other)]
        torch.testing.assert_close(*kept, atol=1e-5, rtol=1e-5)  # float32
        kept = [f["1.attention"].values for f in (features, other)]
        torch.testing.assert_close(*(x.sum((2, 3)) for x in kept), atol=1e-4, rtol=1e-4)


def test_a_resnet_tells_the_grid_after_each_stage() -> None:
    case = Case({"type": "resnet"}, {"x": "pixels"})
    encoder, inputs = build_encoder(case), make_inputs(case)["x"]
    seen: dict[str, Tensor] = {}
    for name, module in encoder.grid.named_children():  # type: ignore[union-attr]
        module.register_forward_hook(lambda m, given, output, name=name: seen.update({name: output}))
    _, features = encoder.forward_features(inputs, ["2.hidden", "4.mean"])
    cells = seen["layer2"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(features["2.hidden"].values[inputs.mask[:, 0]], cells[inputs.mask[:, 0]], **CLOSE)
    assert features["4.mean"].values.shape == (4, 512)


# ---- packed and padded ----


@layouts
@settings(max_examples=8)
@given(lengths=any_lengths, masker=st.sampled_from([DropMasker(), AttentionMasker()]), train=st.booleans())
def test_inside_packed_equals_padded(form: str, tolerance: int | None, lengths: Any, masker: Any, train: bool) -> None:
    packed, padded = (m.train(train) for m in two_forms(dropout=0.0, attention_dropout=0.0))
    views = views_of(make_batch(lengths), masker, ["full", "image", "text"])
    shown = [("fused", "image", "text"), ("fused", "image"), ("fused", "text")]
    wanted = [[name for name in packed.feature_kinds if name.startswith(parts)] for parts in shown]
    with rows(form, tolerance):
        found, expected = (m.forward_features(views, wanted) for m in (packed, padded))
        torch.testing.assert_close(found[0].logits, expected[0].logits, **CLOSE)
        for one, other in zip(found[1], expected[1], strict=True):
            assert {n: f.mask is None or f.mask.tolist() for n, f in one.items()} == {
                n: f.mask is None or f.mask.tolist() for n, f in other.items()
            }
            torch.testing.assert_close(as_tensors(one), as_tensors(other), **CLOSE)
        sums = [sum((f.values**2).sum() for view in features for f in view.values()) for _, features in (found, expected)]
        gradients = [torch.autograd.grad(s, list(m.parameters()), allow_unused=True) for s, m in zip(sums, (packed, padded))]
        torch.testing.assert_close(*([g for g in gs if g is not None] for gs in gradients), atol=1e-7, rtol=1e-7)  # sums of many


@pytest.mark.parametrize(
    ("names", "positions"),
    [((), 2), (["fused.pooled"], 2), (["fused.2.hidden", "fused.3.scores"], 2), (["text.3.hidden"], 2 * 15)],
)
def test_the_last_layer_computes_all_positions_only_if_its_states_are_wanted(names: list[str], positions: int) -> None:
    (model, _), batch = two_forms(), make_batch([(9, 6), (7, 3)])
    seen: list[int] = []
    model.encoder.layers[-1].expand.register_forward_hook(lambda m, given, output: seen.append(len(output)))
    model.forward_features([batch.inputs], [names])
    assert seen == [positions]


@pytest.mark.parametrize("case", MODEL_CASES["late_fusion"][:2])
def test_views_that_show_the_same_are_encoded_once_when_looked_into(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    calls: list[int] = []
    model.encoders["text"].transformer.register_forward_pre_hook(lambda m, given: calls.append(1))  # type: ignore[union-attr]
    model.encoders["text"].transformer.layers[0].register_forward_pre_hook(lambda m, given: calls.append(1))  # type: ignore[union-attr]
    model.forward_features([inputs, {"text": inputs["text"]}], [["text.1.hidden"], ["text.pooled"]])
    assert len(calls) == 1


@pytest.mark.parametrize("case", [MODEL_CASES["late_fusion"][0], MODEL_CASES["visual_bert"][0]], ids=["late", "single"])
def test_in_training_the_same_draws_are_made_whether_one_looks_or_not(case: Case) -> None:
    def draws(wanted: Any) -> Tensor:
        model = build_model(case).train()
        torch.manual_seed(1)
        return model.forward_features([make_inputs(case)], [wanted(model)])[0].logits

    torch.testing.assert_close(draws(lambda model: ()), draws(lambda model: ["text.1.hidden"]), **CLOSE)


# ---- models of a user's own ----


class Bare(MultimodalModel):
    """Overrides `forward` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.modalities, self.num_classes = ("image",), 3
        self.features = nn.Linear(6, 3)  # a name that many models of others use

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("image",)

    def forward(self, inputs: Inputs) -> ModelOutput:
        return ModelOutput(self.features(inputs["image"].values.mean(1).float()))


def test_a_model_that_overrides_forward_alone_works_and_offers_nothing() -> None:
    batch = make_batch([(4, 3), (3, 2)])
    model = Bare()
    inputs = {"image": batch.inputs["image"].__class__(torch.ones(2, 3, 6), torch.ones(2, 3, dtype=torch.bool))}
    output, features = model.forward_features([inputs, inputs], [(), ()])
    assert output.logits.shape == (2, 2, 3)
    assert (model.feature_kinds, features) == ({}, [{}, {}])


def test_an_encoder_that_overrides_forward_alone_tells_its_tokens_and_summary() -> None:
    encoder = ENCODERS.build({"type": "features", "hidden_size": 8}, facts=FACTS)
    assert type(encoder).forward_features is Encoder.forward_features
    model = MODELS.build({"type": "unimodal_image", "encoder": {"type": "features", "hidden_size": 8}}, facts=FACTS)
    assert list(model.feature_kinds) == ["image.last.hidden", "image.last.mean", "image.pooled", "fused.pooled"]


# ---- names ----


def test_layers_of_a_pattern_leave_the_embeddings_out_and_take_no_other_part() -> None:
    feature_kinds = ["text.0.hidden", "text.10.hidden", "text.9.hidden", "xtext.1.hidden", "text.1.hiddenx", "text.last.hidden"]
    assert numbered("text.*.hidden", feature_kinds) == {9: "text.9.hidden", 10: "text.10.hidden"}


def test_a_model_of_many_layers_is_told_in_a_line() -> None:
    model = build_model(MODEL_CASES["visual_bert"][0])
    line = listing(model.feature_kinds)
    assert "image.{0..2}.hidden" in line
    assert "fused.{1..2}.attention" in line
    assert len(line) < 1000


def test_what_a_layer_makes_of_what_it_reads_has_no_layer_0() -> None:
    feature_kinds = build_model(MODEL_CASES["visual_bert"][0]).feature_kinds
    assert {name.split(".")[2] for name in feature_kinds if ".0." in name} == set(KINDS) - FROM_BELOW


@pytest.mark.parametrize("layers", [0, 1])
def test_patches_offer_layers_if_they_have_some(layers: int) -> None:
    encoder = ENCODERS.build(PATCHES | {"num_layers": layers, "num_heads": 2}, facts=FACTS)
    assert ("1.hidden" in encoder.feature_kinds) == bool(layers)
    assert not any(name.endswith(".cls") for name in encoder.feature_kinds)


def test_training_with_features_leaves_every_gradient_finite() -> None:
    case = MODEL_CASES["visual_bert"][0]
    assert all(t.isfinite().all() for t in train_once(build_model(case), make_inputs(case)).values())
    (model, _), batch = two_forms(), make_batch([(3, 0), (2, 2)])  # one example has no image at all
    (features,) = model.train().forward_features([batch.inputs], [model.feature_kinds])[1]
    sum(f.values.square().sum() for f in features.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_scores_of_a_layer_that_norms_first_give_the_bits_of_a_norm_for_query_and_key_each() -> None:
    torch.manual_seed(0)
    stack = Transformer(1, LayerSizes(64, 4, 128, norm_first=True))
    block, x, mask = cast(TransformerLayer, stack.layers[0]), torch.randn(8, 12, 64), torch.ones(8, 12, dtype=torch.bool)
    scores = stack_features(["1.scores"], stack, {0: x}, mask, {"": Span(mask)})["1.scores"].values
    query, key = block.attention.query(block.attention_norm(x)), block.attention.key(block.attention_norm(x))
    weights = list(block.attention_norm.parameters())
    gradients = torch.autograd.grad(scores.square().mean(), weights)
    expected = torch.autograd.grad(block.attention.scores(query, key).square().mean(), weights)
    assert all(map(torch.equal, gradients, expected))
