"""ConcatBERT and ConcatBow against their published equations, and what they do without a modality."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from msd_framework.errors import ConfigError
from msd_framework.models.concat import ConcatBert, ConcatBow
from msd_framework.registry import MODELS
from msd_framework.structures import DatasetInfo, ModalityInputs, Setting
from tests.bert_equations import Weights, bert_layer, layer_shapes, linear, random_weights, word_embeddings, word_shapes

WORDS, REGION, WIDTH, INNER, HEADS, LAYERS = 50, 10, 12, 20, 3, 2
BERT = {
    "model_type": "bert",
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": 20,
}
TEXT_ENCODER = {"type": "bert", "config": BERT}
FACTS = {"num_classes": 3, "vocab_size": WORDS, "feature_size": REGION}


def build(kind: str = "concat_bert", seed: int = 0, facts: dict[str, Any] | None = None, **options: Any) -> Any:
    torch.manual_seed(seed)
    spec = {"type": kind, "num_layers": 1, "hidden_size": 8} | ({"text_encoder": TEXT_ENCODER} if kind == "concat_bert" else {})
    return MODELS.build(spec | options, "model", FACTS if facts is None else facts).eval()


def make_inputs(dtype: torch.dtype = torch.float64) -> dict[str, ModalityInputs]:
    generator = torch.Generator().manual_seed(0)
    place, lengths = torch.arange(8), torch.tensor([8, 3, 6, 5])
    mask = place < lengths[:, None]
    special = ((place == 0) | (place == lengths[:, None] - 1)) & mask
    ids, segments = (torch.randint(low, high, (4, 8), generator=generator) for low, high in ((3, WORDS), (0, 2)))
    values = torch.randn(4, 5, REGION, generator=generator, dtype=torch.float64).to(dtype)
    image = ModalityInputs(values, torch.arange(5) < torch.tensor([2, 5, 1, 4])[:, None])
    return {"image": image, "text": ModalityInputs(ids, mask, {"special": special, "segments": segments})}


def same(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    """Float64 by default: sums in another order."""
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# ---- the published model ----


def published_bert() -> Weights:
    shapes = word_shapes("embeddings", WORDS, 20, 2, WIDTH) | {"pooler.dense": (WIDTH, WIDTH)}
    for i in range(LAYERS):
        shapes |= layer_shapes(f"encoder.layer.{i}", WIDTH, INNER)
    return random_weights(shapes)


def pooled(w: Weights, text: ModalityInputs) -> Tensor:
    x = word_embeddings(w, "embeddings", text.values, text.extras["segments"])
    for i in range(LAYERS):
        x = bert_layer(w, f"encoder.layer.{i}", x, text.mask, HEADS)
    return torch.tanh(linear(w, "pooler.dense", x[:, 0]))


def published_mlp(width: int, batch_norm: bool) -> Weights:
    """Two hidden layers, numbered as in a list that holds their ReLU and dropout too."""
    step = 4 if batch_norm else 3
    shapes = {"0": (8, width), f"{step}": (8, 8), f"{2 * step}": (3, 8)}
    norms = {"1": (8,), f"{step + 1}": (8,)} if batch_norm else {}
    weights = random_weights(shapes | norms)
    for name in norms:
        weights |= {f"{name}.running_mean": torch.randn(8), f"{name}.running_var": 1 + torch.rand(8)}
        weights |= {f"{name}.num_batches_tracked": torch.tensor(7)}
    return weights


def mlp(w: Weights, x: Tensor, batch_norm: bool) -> Tensor:
    step = 4 if batch_norm else 3
    for at in (0, step):
        x = linear(w, str(at), x)
        if batch_norm:
            x = (x - w[f"{at + 1}.running_mean"]) / (w[f"{at + 1}.running_var"] + 1e-5).sqrt()
            x = w[f"{at + 1}.weight"] * x + w[f"{at + 1}.bias"]
        x = x.relu()
    return linear(w, str(2 * step), x)


def saved(folder: Path, text: str, classifier: str, mlp_weights: Weights, **others: Tensor) -> str:
    tensors = {f"{text}{n}": t for n, t in published_bert().items()} | {f"{classifier}{n}": t for n, t in mlp_weights.items()}
    torch.save(tensors | others, folder / "concat.pth")
    return str(folder / "concat.pth")


NAMES = pytest.mark.parametrize(
    ("text", "classifier"),
    [
        ("base.text.", "classifier.layers."),
        ("module.base.text.", "module.classifier.layers."),
        ("txtenc.bert.", "clf."),
    ],
    ids=["mmf", "mmf-ddp", "authors"],
)


@NAMES
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("num_regions", [None, 5], ids=["mean", "side by side"])
def test_concat_bert_is_its_published_equations(
    tmp_path: Path, text: str, classifier: str, batch_norm: bool, num_regions: int | None
) -> None:
    inputs = make_inputs()
    image = inputs["image"]
    shown = image.values * image.mask[..., None]
    features = shown.sum(1) / image.mask.sum(1, keepdim=True) if num_regions is None else shown.flatten(1)
    weights = published_mlp(WIDTH + features.shape[1], batch_norm)
    path = saved(tmp_path, text, classifier, weights)
    options = {"num_layers": 2, "batch_norm": batch_norm, "num_regions": num_regions}
    model = build(pretrained=path, pretrained_head=True, **options).double()
    bert, layers = ({n: t.double() for n, t in w.items()} for w in (published_bert(), weights))
    same(model(inputs).logits, mlp(layers, torch.cat([pooled(bert, inputs["text"]), features], 1), batch_norm), 1e-11)


@pytest.mark.parametrize("at", ["base.modal.model", "imgenc.model"], ids=["mmf", "authors"])
def test_the_image_encoder_of_a_checkpoint_loads(tmp_path: Path, at: str) -> None:
    network = torchvision.models.resnet18()
    parts = nn.Sequential(*list(network.children())[:-2]).eval()  # as both publish it
    text = "base.text." if at.startswith("base") else "txtenc.bert."
    path = saved(tmp_path, text, "clf.", {}, **{f"{at}.{n}": t for n, t in parts.state_dict().items()})
    encoder = {"type": "resnet", "grid_size": [3, 1], "freeze_batch_norm": True}
    model = build(pretrained=path, image_encoder=encoder, num_regions=3)
    pixels = ModalityInputs(torch.randn(4, 3, 96, 96), torch.ones(4, 1, dtype=torch.bool))
    with torch.no_grad():
        grid = nn.AdaptiveAvgPool2d((3, 1))(parts(pixels.values)).flatten(2).transpose(1, 2).flatten(1)
        same(model.image_vector(pixels), grid, 1e-5)  # float32


@pytest.mark.parametrize(("pool", "divide"), [("mean", True), ("sum", False)])
def test_concat_bow_is_its_equation(pool: str, divide: bool) -> None:
    model, inputs = build("concat_bow", pool=pool, embedding_size=6, num_layers=0).double(), make_inputs()
    text, image = inputs["text"], inputs["image"]
    rows = []
    for i in range(4):
        words = model.embedding.weight[text.values[i][text.mask[i] & ~text.special[i]]]
        total = words.sum(0)
        rows.append(torch.cat([total / len(words) if divide else total, image.values[i][image.mask[i]].mean(0)]))
    (last,) = model.classifier
    same(model(inputs).logits, torch.stack(rows) @ last.weight.T + last.bias)


def test_the_order_of_words_does_not_matter_to_concat_bow() -> None:
    model, inputs = build("concat_bow").double(), make_inputs()
    turned = inputs["text"].values.clone()
    turned[0, 1:7] = turned[0, 1:7].flip(0)
    same(model({**inputs, "text": replace(inputs["text"], values=turned)}).logits, model(inputs).logits)


# ---- one modality, views ----


@pytest.mark.parametrize("kind", ["concat_bert", "concat_bow"])
@pytest.mark.parametrize("num_regions", [None, 7])
def test_what_an_example_lacks_is_zeros(kind: str, num_regions: int | None) -> None:
    model, inputs = build(kind, num_regions=num_regions).double(), make_inputs()
    whole = model.summarise_views([inputs])[0]
    for modality, zeros in (("text", slice(model.text_width, None)), ("image", slice(None, model.text_width))):
        alone = model.summarise_views([{modality: inputs[modality]}])[0]
        expected = whole.clone()
        expected[:, zeros] = 0.0
        same(alone, expected)


def test_a_batch_norm_takes_one_view_at_a_time() -> None:
    model, inputs = build(batch_norm=True).double().train(), make_inputs()
    model.classifier[-2].p = 0.0
    for module in model.text_encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    views = [inputs, {"text": inputs["text"]}]
    together = model.forward_views(views).logits
    same(together, torch.stack([model(view).logits for view in views]))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_view_shares_what_another_one_encoded(batch_norm: bool) -> None:
    model, inputs, calls = build(batch_norm=batch_norm), make_inputs(torch.float32), []
    model.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    model.train().forward_views([inputs, {"text": inputs["text"]}])
    assert len(calls) == 1


def test_the_summary_is_what_is_offered() -> None:
    model, inputs = build("concat_bow").double(), make_inputs()
    views = [inputs, {"text": inputs["text"]}]
    output, (full, alone) = model.forward_features(views, [list(model.feature_kinds), []])
    assert sorted(full) == ["fused.pooled", "image.pooled", "text.pooled"]
    same(model.classify(full["fused.pooled"].values), output.logits[0])
    same(torch.cat([full["text.pooled"].values, full["image.pooled"].values], 1), full["fused.pooled"].values)
    assert alone == {}
    same(output.logits, model.forward_views(views).logits)


# ---- what a user can get wrong ----


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("concat_bert", {"num_regions": 0}, "num_regions must be above 0, got 0"),
        ("concat_bert", {"num_layers": -1}, "num_layers must be 0 or more, got -1"),
        ("concat_bert", {"pretrained_head": True}, "pretrained_head needs pretrained, the file that the classifier is in"),
        ("concat_bow", {"embedding_size": 0}, "embedding_size must be above 0, got 0"),
    ],
)
def test_bad_options_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(kind, **options)


@pytest.mark.parametrize("kind", ["vilbert", "mmbt", "concat_bert", "concat_bow"])
def test_what_the_processors_make_must_fit(kind: str) -> None:
    def found(options: dict[str, Any], image: str, text: str = "tokens") -> list[str]:
        kinds = {"image": image, "text": text}
        setting = Setting(DatasetInfo(kinds, 3, "single_label"), ("image", "text"), None, kinds)
        return MODELS.get(kind).check({"text_encoder": TEXT_ENCODER} | options, setting)

    assert found({}, "features") == found({"image_encoder": "resnet"}, "pixels") == []
    assert found({}, "pixels") == ["image_encoder: must be given, since the values of 'image' are pixels and no features."]
    (wrong,) = found({"image_encoder": "resnet"}, "features")
    assert wrong.startswith("image_encoder: resnet takes pixels, and the values of 'image' are features.")
    assert "the values of 'text' must be tokens, and the processor makes features." in found({}, "features", "features")


def test_the_width_of_features_must_be_told() -> None:
    with pytest.raises(ConfigError, match="feature_size must be given, or an image_encoder for pixels"):
        build("concat_bow", facts={"num_classes": 3, "vocab_size": WORDS})


def test_more_regions_than_stand_side_by_side_are_refused() -> None:
    with pytest.raises(ValueError, match="an image has 5 regions and num_regions is 4"):
        build(num_regions=4)(make_inputs(torch.float32))


def test_an_image_encoder_that_the_model_has_none_of_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "base.text.", "clf.", {}, **{"base.modal.model.0.weight": torch.ones(2)})
    with pytest.raises(ConfigError, match=r"concat\.pth have an image encoder, a ResNet; give the model one as image_encoder"):
        build(pretrained=path)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("base.words.", {}, "are not of a ConcatBERT: there is no base.text or txtenc"),
        ("base.text.more.", {}, r"do not fit: it lacks text_encoder\.model\."),
        ("base.text.", {"pretrained_head": True}, r"there is no classifier in .*concat\.pth, so pretrained_head cannot take it"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    path = saved(tmp_path, text, "other.", {"0.weight": torch.ones(2)})
    with pytest.raises(ConfigError, match=message):
        build(pretrained=path, **options)


def test_a_model_with_published_weights_is_rebuilt_without_their_files(tmp_path: Path) -> None:
    options = {"text_encoder": TEXT_ENCODER, "pretrained": saved(tmp_path, "base.text.", "clf.", {}), "hidden_size": 8}
    model: ConcatBert = build(**options)
    shutil.rmtree(tmp_path)
    again = MODELS.build({"type": "concat_bert", **model.rebuild_options({"num_layers": 1, **options})}, "model", FACTS)
    again.load_state_dict(model.state_dict())
    bow: ConcatBow = build("concat_bow", image_encoder={"type": "resnet"})
    assert bow.rebuild_options({"image_encoder": "resnet"})["image_encoder"] == {"type": "resnet", "weights": None}
