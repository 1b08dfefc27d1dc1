"""MMBT against its published equations, with the same weights under their published names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from msd_framework.maskers.attention import AttentionMasker
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.encoders.resnet import ResNet
from msd_framework.models.mmbt import Mmbt
from msd_framework.registry import MODELS
from msd_framework.saliency.model import trace_tokens
from msd_framework.structures import Inputs, ModalityInputs
from tests.bert_equations import (
    Weights,
    bert_layer,
    encoded,
    layer_shapes,
    linear,
    norm,
    random_weights,
    transform_head,
    word_shapes,
)

WORDS, REGION, WIDTH, INNER, HEADS, LAYERS, POSITIONS = 50, 10, 12, 20, 3, 3, 24
CLS, SEP = 1, 2
SIZES = {
    "vocab_size": WORDS,
    "feature_size": REGION,
    "hidden_size": WIDTH,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "intermediate_size": INNER,
    "max_positions": POSITIONS,
    "num_segments": 3,
}
PUBLISHED = {"image_segment": 0, "text_segment": 1}
MMF = {"image_segment": 1, "text_segment": 0}


# ---- the published model ----


def published(region: int = REGION) -> Weights:
    """A BERT and a projection of the image, by transformers' names and one of our own."""
    shapes = word_shapes("embeddings", WORDS, POSITIONS, 3, WIDTH)
    shapes |= {"projection": (WIDTH, region), "pooler.dense": (WIDTH, WIDTH)}
    for i in range(LAYERS):
        shapes |= layer_shapes(f"encoder.layer.{i}", WIDTH, INNER)
    return random_weights(shapes)


def mmf_names(weights: Weights) -> Weights:
    """As MMF saves it: the tables stand there twice."""
    tables = {n.removeprefix("embeddings."): t for n, t in weights.items() if n.startswith("embeddings.")}
    bert = {n: t for n, t in weights.items() if not n.startswith("projection.")}
    projection = {n.removeprefix("projection."): t for n, t in weights.items() if n.startswith("projection.")}
    return (
        {f"model.bert.mmbt.transformer.{n}": t for n, t in bert.items()}
        | {f"model.bert.mmbt.modal_encoder.{n}": t.clone() for n, t in tables.items()}
        | {f"model.bert.mmbt.modal_encoder.proj_embeddings.{n}": t for n, t in projection.items()}
    )


def authors_names(weights: Weights) -> Weights:
    """As MMBT's authors save it, with a classifier that they never use."""
    tables = {n.removeprefix("embeddings."): t for n, t in weights.items() if n.startswith("embeddings.")}
    rest = {n: t for n, t in weights.items() if not n.startswith(("embeddings.", "projection."))}
    projection = {n.removeprefix("projection."): t for n, t in weights.items() if n.startswith("projection.")}
    return (
        {f"enc.txt_embeddings.{n}": t for n, t in tables.items()}
        | {f"enc.img_embeddings.{n}": t.clone() for n, t in tables.items()}
        | {f"enc.img_embeddings.img_embeddings.{n}": t for n, t in projection.items()}
        | {f"enc.{n}": t for n, t in rest.items()}
        | {"enc.clf.weight": torch.ones(3, WIDTH), "enc.clf.bias": torch.ones(3)}
    )


def saved(folder: Path, tensors: Weights, name: str = "mmbt.pth") -> str:
    if name.endswith(".safetensors"):
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)
    return str(folder / name)


def reference(w: Weights, inputs: Inputs, image_segment: int = 0, text_segment: int = 1) -> Tensor:
    """The published pooled output, each example as long as it is: [CLS] image [SEP], then the text without its [CLS]."""
    text, image = inputs["text"], inputs.get("image")
    pooled = []
    for i in range(len(text.values)):
        words = text.values[i][text.mask[i]][1:]
        segments = text.extras["segments"][i][text.mask[i]][1:] + text_segment
        places = text.extras.get("positions", torch.arange(8).expand(4, 8))[i][text.mask[i]][1:] - 1
        word, position, segment = (w[f"embeddings.{t}_embeddings.weight"] for t in ("word", "position", "token_type"))
        seen = word[[CLS]]
        if image is not None and image.mask[i].any():
            seen = torch.cat([seen, linear(w, "projection", image.values[i][image.mask[i]]), word[[SEP]]])
        x = torch.cat(
            [
                seen + position[: len(seen)] + segment[image_segment],
                word[words] + position[places] + segment[segments],
            ]
        )
        x = norm(w, "embeddings.LayerNorm", x)[None]
        for layer in range(LAYERS):
            x = bert_layer(w, f"encoder.layer.{layer}", x, torch.ones(1, x.shape[1]), HEADS)
        pooled.append(torch.tanh(linear(w, "pooler.dense", x[0, 0])))
    return torch.stack(pooled)


def make_inputs(dtype: torch.dtype = torch.float64) -> dict[str, ModalityInputs]:
    generator = torch.Generator().manual_seed(0)
    place, lengths = torch.arange(8), torch.tensor([8, 3, 6, 5])
    mask = place < lengths[:, None]
    last = place == lengths[:, None] - 1
    ids, segments = (torch.randint(low, high, (4, 8), generator=generator) for low, high in ((3, WORDS), (0, 2)))
    ids = torch.where(place == 0, CLS, torch.where(last, SEP, ids))
    text = ModalityInputs(ids, mask, {"special": (place == 0) | last, "segments": segments})
    values = torch.randn(4, 7, REGION, generator=generator, dtype=torch.float64).to(dtype)
    shown = torch.arange(7) < torch.tensor([2, 7, 0, 5])[:, None]
    shown[1, 3] = False  # a region in the middle that is masked is not counted
    return {"image": ModalityInputs(values, shown), "text": text}


def cast(weights: Weights, dtype: torch.dtype = torch.float64) -> Weights:
    return {n: t.to(dtype) for n, t in weights.items()}


def build(seed: int = 0, **options: Any) -> Mmbt:
    torch.manual_seed(seed)
    return Mmbt(**({"num_classes": 3, "cls_id": CLS, "sep_id": SEP} | SIZES | options)).eval()


def loaded(folder: Path, **options: Any) -> Mmbt:
    path = saved(folder, mmf_names(published()))
    return Mmbt(3, pretrained=path, num_heads=HEADS, cls_id=CLS, sep_id=SEP, **options).eval()


def pooled(model: Mmbt, inputs: Inputs) -> Tensor:
    return model.summarise_views([inputs])[0]


def same(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    """Float64 by default: sums in another order."""
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# ---- numbers ----


@pytest.mark.parametrize("segments", [PUBLISHED, MMF], ids=["published", "mmf"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("shown", [("image", "text"), ("text",)], ids=["image+text", "text"])
def test_the_summary_is_that_of_the_published_equations(
    tmp_path: Path, shown: tuple[str, ...], dtype: torch.dtype, tolerance: float, segments: dict[str, int]
) -> None:
    model = loaded(tmp_path, **segments).to(dtype)
    inputs = {m: x for m, x in make_inputs(dtype).items() if m in shown}
    expected = reference(cast(published(), dtype), inputs, **segments)
    same(pooled(model, inputs), expected, tolerance)
    same(encoded(model, inputs).pooled, expected, tolerance)


def test_gradients_are_those_of_the_published_equations(tmp_path: Path) -> None:
    model, inputs = loaded(tmp_path).double(), make_inputs()
    weights = {n: t.requires_grad_() for n, t in cast(published()).items()}
    reference(weights, inputs).square().sum().backward()
    pooled(model, inputs).square().sum().backward()
    same(model.image_projection.weight.grad, weights["projection.weight"].grad)
    same(model.embeddings.word.weight.grad[1:], weights["embeddings.word_embeddings.weight"].grad[1:])  # [PAD] learns nothing
    same(model.embeddings.position.weight.grad, weights["embeddings.position_embeddings.weight"].grad)
    key = "encoder.layer.1.attention.self.key.weight"
    same(model.encoder.layers[1].attention.key.weight.grad, weights[key].grad)


@pytest.mark.parametrize("masker", [AttentionMasker(), DropMasker()], ids=["attention", "drop"])
def test_a_hidden_image_leaves_cls_and_the_text(tmp_path: Path, masker: Any) -> None:
    model, inputs = loaded(tmp_path).double(), make_inputs()
    image = masker.hide("image", inputs["image"])
    seen = {"text": inputs["text"]} | ({} if image is None else {"image": image})
    same(pooled(model, seen), reference(cast(published()), {"text": inputs["text"]}))


@pytest.mark.parametrize("masker", [AttentionMasker(), DropMasker()], ids=["attention", "drop"])
def test_a_hidden_text_leaves_its_sep_at_its_place_by_attention_and_at_1_by_drop(tmp_path: Path, masker: Any) -> None:
    model, inputs = loaded(tmp_path).double(), make_inputs()
    text = inputs["text"]
    ends = torch.stack([torch.zeros(4, dtype=torch.long), text.mask.sum(1) - 1], 1)
    places = ends if isinstance(masker, AttentionMasker) else torch.tensor([[0, 1]] * 4)
    extras = {"positions": places, "segments": text.extras["segments"].gather(1, ends)}
    marks = ModalityInputs(text.values.gather(1, ends), ends >= 0, extras)
    expected = reference(cast(published()), {**inputs, "text": marks})
    same(pooled(model, {**inputs, "text": masker.hide("text", text)}), expected)


def test_text_left_out_is_sep_alone() -> None:
    model, image = build().double(), make_inputs()["image"]
    marks, shown = torch.tensor([[CLS, SEP]]).expand(4, 2), torch.ones(4, 2, dtype=torch.bool)
    same(model({"image": image}).logits, model({"image": image, "text": ModalityInputs(marks, shown)}).logits)


def test_a_text_of_cls_alone_can_be_read() -> None:
    model, image = build().double(), make_inputs()["image"]
    text = ModalityInputs(torch.full((4, 1), CLS), torch.ones(4, 1, dtype=torch.bool))
    assert model({"image": image, "text": text}).logits.isfinite().all()


def test_what_is_not_a_number_under_the_mask_reaches_neither_logits_nor_gradients() -> None:
    model, inputs = build(), make_inputs(torch.float32)
    image = inputs["image"]
    spoiled = {**inputs, "image": replace(image, values=image.values.masked_fill(~image.mask[..., None], torch.nan))}
    model(spoiled).logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert torch.equal(model(spoiled).logits, model(inputs).logits)
    assert encoded(model, spoiled).pooled.isfinite().all()


def test_nothing_depends_on_what_a_device_would_have_to_be_asked_for() -> None:
    """On the meta device there are no values, so whatever asks for one fails."""
    model, inputs = build().to("meta"), make_inputs(torch.float32)
    there = {
        m: ModalityInputs(x.values.to("meta"), x.mask.to("meta"), {n: e.to("meta") for n, e in x.extras.items()})
        for m, x in inputs.items()
    }
    assert model.forward_views([there, {"image": there["image"]}]).logits.shape == (2, 4, 3)


# ---- features ----


def test_features_are_those_of_the_padded_pass() -> None:
    model, inputs = build().double(), make_inputs()
    wanted = ["fused.3.hidden", "text.2.hidden", "image.1.mean", "fused.1.cls", "fused.2.attention", "fused.pooled"]
    output, (full, alone) = model.forward_features([inputs, {"text": inputs["text"]}], [wanted, ["text.2.hidden"]])
    sequence, mask = model.embed(model.parts([inputs])[0])
    _, states = model.encoder.trace(sequence, mask, range(4))
    words = inputs["text"].mask[:, 1:] & ~inputs["text"].special[:, 1:]
    same(full["fused.3.hidden"].values, states[3] * mask[..., None])
    same(full["text.2.hidden"].values, states[2][:, 9:] * words[..., None])
    assert torch.equal(full["text.2.hidden"].mask, words)
    shown = inputs["image"].mask[..., None]
    same(full["image.1.mean"].values, (states[1][:, 1:8] * shown).sum(1) / shown.sum(1).clamp(min=1))
    same(full["fused.1.cls"].values, states[1][:, 0])
    same(full["fused.pooled"].values, encoded(model, inputs).pooled)
    same(
        full["fused.2.attention"].values.sum(-1)[mask[:, None].expand(-1, HEADS, -1)], torch.ones(int(mask.sum()) * HEADS).double()
    )
    assert sorted(alone) == ["text.2.hidden"]
    same(output.logits, model.forward_views([inputs, {"text": inputs["text"]}]).logits)


def test_a_saliency_that_looks_inside_finds_either_modality() -> None:
    model, inputs = build(), make_inputs(torch.float32)
    seen = trace_tokens(model, inputs)
    torch.testing.assert_close(seen.logits, model(inputs).logits, atol=1e-5, rtol=1e-5)
    nobodys = torch.ones(4, 16, dtype=torch.bool)
    nobodys[:, 1:8], nobodys[:, 9:] = False, False  # [CLS], the image's [SEP]
    own = inputs["text"].mask[:, 1:] & ~inputs["text"].special[:, 1:]
    assert torch.equal(seen.content["image"][:, 1:8], inputs["image"].mask)
    assert torch.equal(seen.content["text"][:, 9:], own)
    assert not (nobodys & (seen.content["image"] | seen.content["text"])).any()


def test_all_that_is_offered_can_be_had() -> None:
    model, inputs = build(), make_inputs(torch.float32)
    _, (found, nothing) = model.forward_features([inputs, inputs], [list(model.feature_kinds), []])
    assert sorted(found) == sorted(model.feature_kinds)
    assert nothing == {}
    _, empty = model.forward_features([inputs], [[]])
    assert empty == [{}]


# ---- checkpoints ----


@pytest.mark.parametrize("name", ["mmbt.pth", "mmbt.safetensors"])
@pytest.mark.parametrize(
    "names",
    [
        mmf_names,
        lambda w: {f"module.{n}": t for n, t in mmf_names(w).items()},
        lambda w: {n.replace("model.", "base."): t for n, t in mmf_names(w).items()},
        authors_names,
    ],
    ids=["mmf", "mmf-ddp", "mmf-old", "authors"],
)
def test_checkpoints_load_under_every_prefix(tmp_path: Path, names: Callable[[Weights], Weights], name: str) -> None:
    model = Mmbt(3, pretrained=saved(tmp_path, names(published()), name), num_heads=HEADS, cls_id=CLS, sep_id=SEP).double().eval()
    same(pooled(model, make_inputs()), reference(cast(published()), make_inputs()))


def test_mmfs_classifier_and_the_authors_load(tmp_path: Path) -> None:
    head = random_weights({"0.dense": (WIDTH, WIDTH), "0.LayerNorm": (WIDTH,), "1": (3, WIDTH)})
    path = saved(tmp_path, mmf_names(published()) | {f"model.classifier.{n}": t for n, t in head.items()})
    model = Mmbt(3, pretrained=path, pretrained_head=True, head="transform", num_heads=HEADS, cls_id=CLS, sep_id=SEP, **MMF)
    expected = transform_head(cast(head), reference(cast(published()), make_inputs(), **MMF))
    same(model.double().eval()(make_inputs()).logits, expected, 1e-11)
    linear_head = {"clf.weight": torch.randn(3, WIDTH), "clf.bias": torch.randn(3)}
    path = saved(tmp_path, authors_names(published()) | linear_head)
    model = Mmbt(3, pretrained=path, pretrained_head=True, num_heads=HEADS, cls_id=CLS, sep_id=SEP)
    assert torch.equal(model.head.weight, linear_head["clf.weight"])
    with pytest.raises(ValueError, match=r"there is no classifier in .*, so pretrained_head cannot take it"):
        loaded(tmp_path, pretrained_head=True)


@pytest.mark.parametrize("freeze_batch_norm", [False, True])
@pytest.mark.parametrize("at", ["model.bert.mmbt.modal_encoder.encoder.model", "enc.img_encoder.model"], ids=["mmf", "authors"])
def test_the_image_encoder_of_a_checkpoint_loads(tmp_path: Path, at: str, freeze_batch_norm: bool) -> None:
    names = mmf_names if at.startswith("model.") else authors_names
    network = torchvision.models.resnet18()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
    parts = nn.Sequential(*list(network.children())[:-2])  # as both publish it
    tensors = names(published(512)) | {f"{at}.{n}": t for n, t in parts.state_dict().items()}
    encoder = ResNet("resnet18", freeze_batch_norm=freeze_batch_norm, grid_size=[3, 1])
    model = Mmbt(3, pretrained=saved(tmp_path, tensors), num_heads=HEADS, image_encoder=encoder, cls_id=CLS, sep_id=SEP).eval()
    pixels = ModalityInputs(torch.randn(4, 3, 96, 96), torch.ones(4, 1, dtype=torch.bool))
    with torch.no_grad():
        grid = nn.AdaptiveAvgPool2d((3, 1))(parts.eval()(pixels.values)).flatten(2).transpose(1, 2)
        inputs = {**make_inputs(), "image": ModalityInputs(grid, torch.ones(4, 3, dtype=torch.bool))}
        same(pooled(model, {**inputs, "image": pixels}), reference(published(512), inputs), 1e-5)  # float32


def test_the_grid_of_an_image_encoder_has_a_size() -> None:
    with pytest.raises(ValueError, match=r"grid_size must be \[rows, columns\] of 1 or more, got \[3\]"):
        ResNet(grid_size=[3])


def test_it_can_begin_with_a_bert(tmp_path: Path) -> None:
    import transformers

    sizes = {"vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config = transformers.BertConfig(**sizes, intermediate_size=INNER, max_position_embeddings=POSITIONS)
    bert = transformers.BertForPreTraining(config)
    bert.save_pretrained(tmp_path)
    model = Mmbt(3, pretrained=str(tmp_path), feature_size=REGION, cls_id=CLS, sep_id=SEP)
    assert model.sizes.num_heads == HEADS
    assert torch.equal(model.encoder.layers[2].contract.weight, bert.bert.encoder.layer[2].output.dense.weight)
    assert torch.equal(model.pooler.weight, bert.bert.pooler.dense.weight)
    assert model.image_projection.weight.shape == (WIDTH, REGION)


def bent(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {f"model.bert.mmbt.{name}": torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (bent("modal_encoder.encoder.model.0.weight"), {}, r"mmbt\.pth have an image encoder, a ResNet; give the model one as"),
        (None, {"hidden_size": 32}, r"hidden_size is 32, and the weights of .*mmbt\.pth have 12"),
        (None, {"vocab_size": 51}, r"vocab_size is 51, and the weights of .* have 50"),
        (
            lambda w: {n: t for n, t in w.items() if "proj_emb" not in n},
            {},
            r"are not of an MMBT: no image is projected under any of",
        ),
        (bent("transformer.more"), {}, r"do not fit: it has besides more"),
        (bent("transformer.pooler.dense.bias"), {}, r"of another shape pooler\.bias \[2, 2\], wanted \[12\]"),
        (lambda w: {n: t for n, t in w.items() if "pooler" not in n}, {}, r"it lacks pooler\.bias, pooler\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: Any, options: dict[str, Any], message: str) -> None:
    weights = mmf_names(published())
    path = saved(tmp_path, weights if change is None else change(weights))
    with pytest.raises(ValueError, match=message):
        Mmbt(3, pretrained=path, **({"num_heads": HEADS, "cls_id": CLS, "sep_id": SEP} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "num_heads must divide hidden_size, got 5 heads for 12 features"),
        ({"num_layers": 0}, "num_layers must be above 0, got 0"),
        ({"cls_id": 50}, r"cls_id must be in 0\.\.49, got 50"),
        ({"image_segment": 3}, r"image_segment must be in 0\.\.2, got 3"),
        ({"pretrained_head": True}, "pretrained_head needs pretrained"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_more_regions_than_positions_are_refused() -> None:
    image = ModalityInputs(torch.zeros(2, 23, REGION), torch.ones(2, 23, dtype=torch.bool))
    with pytest.raises(ValueError, match="an image has 23 regions and this model takes 22"):
        build()({"image": image})


def test_a_model_with_published_weights_is_rebuilt_without_their_files(tmp_path: Path) -> None:
    options = {"pretrained": saved(tmp_path, mmf_names(published())), "num_heads": HEADS, "cls_id": CLS, "sep_id": SEP}
    model = MODELS.build({"type": "mmbt", **options}, "model", {"num_classes": 3, "vocab_size": 40})
    shutil.rmtree(tmp_path)
    again = MODELS.build({"type": "mmbt", **model.rebuild_options(options)}, "model", {"num_classes": 3, "vocab_size": 40})
    again.load_state_dict(model.state_dict())
    assert again.sizes == model.sizes


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("file", ["mmbt.pth", "mmbt.safetensors"])
def test_names_that_torch_has_changed_are_taken_as_they_were(tmp_path: Path, prefix: str, file: str) -> None:
    path = saved(tmp_path, {prefix + name: tensor for name, tensor in mmf_names(published()).items()}, file)
    torch.manual_seed(0)
    found = Mmbt(3, pretrained=path, num_heads=HEADS, cls_id=CLS, sep_id=SEP).state_dict()
    torch.manual_seed(0)
    assert all(torch.equal(found[name], tensor) for name, tensor in loaded(tmp_path).state_dict().items())
