"""Encoders and the layers they are made of, against torch, torchvision and transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from msd_framework.maskers.attention import AttentionMasker
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.encoders.bert import Bert
from msd_framework.models.encoders.patches import Patches
from msd_framework.models.encoders.region_features import RegionFeatures
from msd_framework.models.encoders.resnet import ResNet
from msd_framework.models.encoders.text_transformer import TextTransformer
from msd_framework.models.layers.pooling import masked_mean
from msd_framework.models.layers.transformer import LayerSizes, Transformer, TransformerLayer
from msd_framework.models.pretrained.weights import read_tensors
from msd_framework.registry import ENCODERS
from msd_framework.structures import ModalityInputs
from tests.hidden import hidden_at_full_width

BERT_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}


def text() -> ModalityInputs:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 40, (3, 6), generator=generator)
    return ModalityInputs(ids, torch.arange(6) < torch.tensor([6, 2, 4])[:, None])


def images(size: int = 64, channels: int = 3) -> ModalityInputs:
    values = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    return ModalityInputs(values, torch.tensor([[True], [False]]))


def same(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    """Float64 by default: sums in another order."""
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# ---- layers ----


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer_layer_is_that_of_torch(norm_first: bool) -> None:
    torch.manual_seed(0)
    ours = TransformerLayer(LayerSizes(16, 4, 24, norm_first=norm_first, layer_norm_eps=1e-5)).double().eval()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, activation="gelu", batch_first=True, norm_first=norm_first).double()
    attention = ours.attention
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        projections = (attention.query, attention.key, attention.value)
        theirs.self_attn.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
    theirs.self_attn.out_proj = attention.output  # type: ignore[assignment]
    theirs.linear1, theirs.linear2, theirs.norm1, theirs.norm2 = ours.expand, ours.contract, ours.attention_norm, ours.mlp_norm
    theirs.dropout.p = theirs.dropout1.p = theirs.dropout2.p = theirs.self_attn.dropout = 0.0
    theirs.train()  # its plain path
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    same(ours(x, mask)[mask], theirs(x, src_key_padding_mask=~mask)[mask])


def test_norms_first_end_in_a_norm() -> None:
    stack = Transformer(2, LayerSizes(16, 4, 24, norm_first=True)).eval()
    x = stack(torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool))
    same(x.mean(-1), torch.zeros(3, 5), 1e-5)  # float32
    same(x.var(-1, unbiased=False), torch.ones(3, 5), 1e-4)


def test_every_hidden_state_is_that_of_a_shorter_stack() -> None:
    stack = Transformer(3, LayerSizes(16, 4, 24, norm_first=True)).eval()
    x, mask = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    last, states = stack.trace(x, mask, [0, 1, 2, 3])
    assert torch.equal(states[0], x)
    assert torch.equal(states[2], stack.layers[1](states[1], mask))
    assert torch.equal(states[3], last)
    assert torch.equal(last, stack(x, mask))


def test_dropout_is_on_in_training_only() -> None:
    layer = TransformerLayer(LayerSizes(16, 4, 24, dropout=0.5))
    x, mask = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    assert not torch.equal(layer(x, mask), layer(x, mask))
    layer.eval()
    assert torch.equal(layer(x, mask), layer(x, mask))


def test_masked_mean_is_the_mean_of_what_is_seen() -> None:
    tokens = torch.randn(3, 4, 5, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, False], [True] * 4, [False] * 4])
    expected = torch.stack([tokens[0, [0, 2]].mean(0), tokens[1].mean(0), torch.zeros(5, dtype=torch.float64)])
    same(masked_mean(tokens, mask), expected)


# ---- text ----


def test_text_transformer_takes_the_positions_it_is_told() -> None:
    encoder, x = TextTransformer(vocab_size=40, hidden_size=16, max_positions=10).double().eval(), text()
    moved = ModalityInputs(x.values, x.mask, {"positions": torch.arange(6).expand(3, 6)})
    same(encoder(moved).pooled, encoder(x).pooled)
    moved = ModalityInputs(x.values, x.mask, {"positions": torch.arange(6).expand(3, 6) + 1})
    assert not torch.allclose(encoder(moved).pooled, encoder(x).pooled)


def test_text_transformer_refuses_what_is_too_long() -> None:
    with pytest.raises(ValueError, match="a text has 6 positions and this encoder takes 4; set max_positions"):
        TextTransformer(vocab_size=40, hidden_size=16, max_positions=4)(text())


@pytest.mark.parametrize(("model_type", "padding"), [("bert", 0), ("roberta", 1), ("electra", 0)])
def test_bert_is_that_of_transformers(tmp_path: Path, model_type: str, padding: int) -> None:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **BERT_SIZES, max_position_embeddings=12, pad_token_id=padding)
    reference = AutoModel.from_config(config).eval()
    reference.save_pretrained(tmp_path)
    encoded = Bert(name=str(tmp_path)).eval()(text())
    expected = reference(input_ids=text().values, attention_mask=text().mask.long())
    mask = text().mask
    same(encoded.tokens[mask], expected.last_hidden_state[mask], 1e-5)  # float32, eager against fused attention
    pooled = expected.pooler_output if "pooler_output" in expected else expected.last_hidden_state[:, 0]
    same(encoded.pooled, pooled, 1e-5)


ROBERTAS = ("roberta", "xlm-roberta", "camembert", "mpnet")
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{name: {"pad_token_id": 1} for name in ROBERTAS},
    **{name: {} for name in ("bert", "albert", "electra", "convbert", "roformer", "modernbert")},
    "deberta": RELATIVE,
    "deberta-v2": RELATIVE | {"position_biased_input": False},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
}


def large_bert(model_type: str, **options: Any) -> Bert:
    """An encoder with weights large enough for a shifted position to show, in float64."""
    import transformers

    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    torch.manual_seed(0)
    sizes = {k: v for k, v in BERT_SIZES.items() if model_type != "distilbert" or k == "vocab_size"}
    encoder = Bert(
        config={"model_type": model_type, **sizes, "pad_token_id": 0, "max_position_embeddings": 20}
        | ARCHITECTURES[model_type]
        | options
    )
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return encoder.double().eval()


def sentences() -> ModalityInputs:
    """Three texts of 12, 9 and 7 words, the first and the last of each special."""
    place, lengths = torch.arange(12), torch.tensor([12, 9, 7])[:, None]
    ids = torch.randint(3, 40, (3, 12), generator=torch.Generator().manual_seed(0))
    extras = {"special": (place == 0) | (place == lengths - 1), "segments": (place > 5).long().expand(3, 12)}
    return ModalityInputs(ids, place < lengths, extras)


@pytest.mark.parametrize("model_type", [name for name in ARCHITECTURES if name != "convbert"])  # it convolves over padding
def test_bert_gives_the_same_for_dropped_and_for_masked_words(model_type: str) -> None:
    encoder, x = large_bert(model_type), sentences()
    dropped = DropMasker().hide("text", x)
    assert dropped is not None
    masked, rest = encoder(hidden_at_full_width(x)), encoder(dropped)
    same(rest.pooled, masked.pooled)
    same(rest.tokens, masked.tokens[:, :2])
    assert not torch.allclose(encoder(x).pooled, masked.pooled, atol=1e-3)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_masked_words_are_never_matters_to_bert(model_type: str) -> None:
    encoder, x = large_bert(model_type), sentences()
    masked = AttentionMasker().hide("text", x)
    other = replace(masked, values=torch.where(masked.mask, x.values, (x.values + 5) % 40))
    same(encoder(other).pooled, encoder(masked).pooled)


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2"])
def test_what_is_masked_among_the_words_that_are_left_lands_nowhere(model_type: str) -> None:
    encoder, x = large_bert(model_type), sentences()
    third = (torch.arange(12) == 3) & (torch.arange(3) == 1)[:, None]  # one example keeps a word more than the others
    dropped = DropMasker().hide("text", replace(x, extras=x.extras | {"special": x.special | third}))
    assert dropped is not None
    assert not dropped.mask.all()
    alone = DropMasker().hide("text", ModalityInputs(x.values[:1], x.mask[:1], {n: e[:1] for n, e in x.extras.items()}))
    assert alone is not None
    assert alone.mask.all()
    same(encoder(dropped).pooled[:1], encoder(alone).pooled)


def test_relative_positions_of_bert_itself_are_heeded() -> None:
    encoder, x = large_bert("bert", position_embedding_type="relative_key"), sentences()
    at_place, first = (encoder(masker.hide("text", x)) for masker in (AttentionMasker(), DropMasker()))
    same(encoder(hidden_at_full_width(x)).pooled, first.pooled)
    assert not torch.allclose(at_place.pooled, first.pooled, atol=1e-6)  # [SEP] is as far from [CLS] as the text was long


def test_bert_reads_segments() -> None:
    encoder, x = Bert(config={"model_type": "bert", **BERT_SIZES}).eval(), text()
    second = ModalityInputs(x.values, x.mask, {"segments": torch.ones_like(x.values)})
    assert not torch.allclose(encoder(second).pooled, encoder(x).pooled, atol=1e-5)


def test_bert_computes_in_float32_at_least(tmp_path: Path) -> None:
    Bert(config={"model_type": "bert", **BERT_SIZES}).model.half().save_pretrained(tmp_path)
    assert {p.dtype for p in Bert(name=str(tmp_path)).parameters()} == {torch.float32}


def test_bert_takes_the_vocabulary_of_the_tokenizer() -> None:
    sizes = {k: v for k, v in BERT_SIZES.items() if k != "vocab_size"}
    assert Bert(config={"model_type": "bert", **sizes}, vocab_size=77).model.config.vocab_size == 77


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either name or config, got name None and config None"),
        ({"name": "x", "config": {}}, "give either name or config, got name 'x'"),
        ({"config": {}}, "config must say its model_type, such as bert, got only nothing"),
        ({"config": {"model_type": "brt"}}, "transformers knows no model_type 'brt'"),
        (
            {"config": {"model_type": "bert", **BERT_SIZES}, "vocab_size": 41},
            "the tokenizer has 41 words and config has embeddings for 40",
        ),
    ],
)
def test_bert_refuses_what_it_cannot_build(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bert(**options)


def test_the_mean_of_bert_is_that_of_sentence_transformers() -> None:
    torch.manual_seed(0)
    encoder, x = Bert(config={"model_type": "bert", **BERT_SIZES}, summary="mean").double().eval(), text()
    states = encoder.model(input_ids=x.values * x.mask, attention_mask=x.mask.long()).last_hidden_state
    shown = x.mask[..., None].double()
    same(encoder(x).pooled, (states * shown).sum(1) / shown.sum(1).clamp(min=1e-9))  # as their models.Pooling has it


def test_bert_refuses_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"the folder {tmp_path} has no config.json"):
        Bert(name=str(tmp_path))


# ---- images ----


def their_resnet(name: str) -> Any:
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval()


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("resnet50", 2048)])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_resnet_is_that_of_torchvision(tmp_path: Path, name: Any, width: int, suffix: str) -> None:
    reference, file = their_resnet(name), tmp_path / f"weights.{suffix}"
    save_file(reference.state_dict(), file) if suffix == "safetensors" else torch.save(reference.state_dict(), file)
    encoder, x = ResNet(name, weights=str(file)).eval(), images()
    encoded = encoder(x)
    assert encoded.tokens.shape == (2, 4, width) == (2, 4, encoder.width)
    same(reference.fc(encoded.pooled[0]), reference(x.values)[0], 1e-4)  # float32, fifty layers
    assert not encoded.pooled[1].any()  # hidden


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    x = images()
    frozen, loose = ResNet(freeze_batch_norm=True).train(), ResNet().train()
    alone = frozen(ModalityInputs(x.values[:1], x.mask[:1])).pooled
    same(frozen(x).pooled[:1], alone, 1e-5)
    loose.load_state_dict(frozen.state_dict(), strict=False)
    assert not torch.allclose(loose(x).pooled[:1], alone, atol=1e-2)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "there is no weight file .*weights.pth"),
        (
            {"conv1.weight": torch.zeros(1)},
            r"do not fit: it lacks bn1\.bias, .*; of another shape conv1\.weight \[1\], wanted \[64, 3, 7, 7\]",
        ),
        ({"epoch": 3}, "holds something else than tensors by name; save the model's state_dict alone"),
        (Path("code"), "is not a file of tensors alone, so it is not read"),
    ],
    ids=["missing", "other", "checkpoint", "code"],
)
def test_resnet_refuses_weights_that_do_not_fit(tmp_path: Path, write: Any, message: str) -> None:
    file = tmp_path / "weights.pth"
    if write is not None:
        torch.save(write, file)
    with pytest.raises(ValueError, match=message):
        ResNet(weights=str(file))


def test_resnet_knows_torchvisions_names_alone() -> None:
    with pytest.raises(
        ValueError, match="torchvision's weights of resnet50 are IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, got 'IMAGENET'"
    ):
        ResNet("resnet50", weights="IMAGENET")


def test_resnet_asks_torchvision_for_weights_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = their_resnet("resnet18")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: reference.state_dict())
    monkeypatch.setattr(
        "torchvision._internally_replaced_utils.load_state_dict_from_url", lambda *_, **__: reference.state_dict(), raising=False
    )
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: reference.state_dict())
    assert torch.equal(ResNet(weights="DEFAULT").grid.conv1.weight, reference.conv1.weight)


def test_read_tensors_gives_what_was_saved(tmp_path: Path) -> None:
    saved = {"a": torch.randn(3), "b": torch.arange(4)}
    torch.save(saved, tmp_path / "x.pth")
    torch.testing.assert_close(read_tensors(tmp_path / "x.pth"), saved)


def test_a_patch_is_a_token_of_its_own() -> None:
    encoder, x = Patches(image_size=8, patch_size=4, hidden_size=16).eval(), images(8)
    x = replace(x, mask=torch.ones(2, 1, dtype=torch.bool))
    tokens = encoder(x).tokens
    lit = x.values.clone()
    lit[:, :, :4, 4:] += 1  # the upper right patch
    changed = (encoder(ModalityInputs(lit, x.mask)).tokens != tokens).any(-1)
    assert changed.tolist() == [[False, True, False, False]] * 2


@pytest.mark.parametrize("encoder", [ResNet(), ResNet(freeze_batch_norm=True), Patches(image_size=64, hidden_size=16)])
def test_not_even_a_masked_nan_reaches_a_pixel_encoder(encoder: Any) -> None:
    x = images()
    spoiled = ModalityInputs(x.values.masked_fill(~x.mask[..., None, None], torch.nan), x.mask)
    encoder.train()(spoiled).pooled.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert all(b.isfinite().all() for b in encoder.buffers())


def test_patches_embed_what_a_convolution_would() -> None:
    encoder, x = Patches(image_size=8, patch_size=4, hidden_size=16).double().eval(), images(8)
    x = ModalityInputs(x.values.double(), torch.ones(2, 1, dtype=torch.bool))
    first = encoder.embed[0]
    grid = nn.functional.conv2d(x.values, first.weight.view(16, 3, 4, 4), first.bias, stride=4)
    expected = encoder.embed[2](nn.functional.gelu(grid.flatten(2).transpose(1, 2))) + encoder.position
    same(encoder(x).tokens, expected)


@pytest.mark.parametrize("image_size", [9, [8, 9], [9, 8]])
def test_patches_must_fill_the_image(image_size: Any) -> None:
    with pytest.raises(ValueError, match=r"patch_size must divide image_size, got 4 for "):
        Patches(image_size=image_size, patch_size=4)


def test_patches_refuse_images_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"images must be \[3, 8, 8\], got \[3, 12, 12\]"):
        Patches(image_size=8, patch_size=4, hidden_size=16)(images(12))


def test_region_features_are_a_perceptron_and_a_mean() -> None:
    encoder = RegionFeatures(feature_size=5, hidden_size=8).double().eval()
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    encoded = encoder(ModalityInputs(x.masked_fill(~mask[..., None], torch.nan), mask))
    same(encoded.tokens[mask], encoder.perceptron(x)[mask])
    same(encoded.pooled[0], encoder.perceptron(x)[0, :2].mean(0))
    encoded.pooled.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("name", ["transformer", "bert"])
def test_an_encoder_is_rebuilt_from_its_own_options(name):
    config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    spec = {"type": "bert", "config": config} if name == "bert" else {"type": "transformer", "hidden_size": 8, "num_heads": 2}
    facts = {"vocab_size": 50}
    encoder = ENCODERS.build(spec, "encoder", facts)
    rebuilt = json.loads(json.dumps(encoder.rebuild_spec(spec)))  # as a checkpoint keeps it
    again = ENCODERS.build(rebuilt, "encoder", facts)
    again.load_state_dict(encoder.state_dict())
    assert again.width == encoder.width
