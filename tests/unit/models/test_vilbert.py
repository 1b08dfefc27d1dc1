"""ViLBERT against its published equations, with the same weights under their published names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from msd_framework.maskers.attention import AttentionMasker
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.encoders.patches import Patches
from msd_framework.models.vilbert import Vilbert
from msd_framework.registry import MODELS
from msd_framework.structures import Inputs, ModalityInputs
from tests.bert_equations import (
    Weights,
    attend,
    bert_layer,
    gelu,
    layer_shapes,
    linear,
    norm,
    random_weights,
    transform_head,
    word_embeddings,
    word_shapes,
)

WORDS, REGION, WIDTH, INNER, V_WIDTH, V_INNER, CO = 50, 10, 12, 20, 24, 14, 16
HEADS, V_HEADS, CO_HEADS = 3, 2, 4
LAYERS, V_LAYERS, CONNECTIONS = 4, 3, 2
T_CONNECTED, V_CONNECTED = (2, 3), (1, 2)
"""The layers that a connection stands before, as the authors' configurations list them: the last ones of either stream."""

HEAD_COUNTS = {"num_heads": HEADS, "image_num_heads": V_HEADS, "co_num_heads": CO_HEADS}
SIZES = HEAD_COUNTS | {
    "vocab_size": WORDS,
    "feature_size": REGION,
    "hidden_size": WIDTH,
    "num_layers": LAYERS,
    "intermediate_size": INNER,
    "max_positions": 20,
    "image_hidden_size": V_WIDTH,
    "image_num_layers": V_LAYERS,
    "image_intermediate_size": V_INNER,
    "co_hidden_size": CO,
    "num_connections": CONNECTIONS,
}


# ---- the published model ----


def published(seed: int = 0) -> Weights:
    """Both streams, as they stand in a checkpoint under their prefix."""
    shapes = word_shapes("embeddings", WORDS, 20, 2, WIDTH)
    shapes |= {"v_embeddings.image_embeddings": (V_WIDTH, REGION), "v_embeddings.image_location_embeddings": (V_WIDTH, 5)}
    shapes |= {"v_embeddings.LayerNorm": (V_WIDTH,), "t_pooler.dense": (CO, WIDTH), "v_pooler.dense": (CO, V_WIDTH)}
    for i in range(LAYERS):
        shapes |= layer_shapes(f"encoder.layer.{i}", WIDTH, INNER)
    for i in range(V_LAYERS):
        shapes |= layer_shapes(f"encoder.v_layer.{i}", V_WIDTH, V_INNER)
    for i in range(CONNECTIONS):
        for number, stream, width, inner in ((1, "v", V_WIDTH, V_INNER), (2, "t", WIDTH, INNER)):
            at = f"encoder.c_layer.{i}"
            shapes |= {f"{at}.biattention.{part}{number}": (CO, width) for part in ("query", "key", "value")}
            shapes |= {f"{at}.biOutput.{part}{number}": (width, CO) for part in ("dense", "q_dense")}
            shapes |= {f"{at}.biOutput.LayerNorm{number}": (width,), f"{at}.{stream}_output.LayerNorm": (width,)}
            shapes |= {f"{at}.{stream}_intermediate.dense": (inner, width), f"{at}.{stream}_output.dense": (width, inner)}
    return random_weights(shapes, seed)


def classifier(num_classes: int = 3) -> Weights:
    return random_weights({"0.dense": (CO, CO), "0.LayerNorm": (CO,), "1": (num_classes, CO)}, seed=5)


def mmf_file(folder: Path, weights: Weights, prefix: str = "model.", name: str = "vilbert.pth", **heads: Weights) -> str:
    """A checkpoint as MMF writes it."""
    tensors = {f"{prefix}bert.{n}": t for n, t in weights.items()}
    for head, own in heads.items():
        tensors |= {f"{prefix}{head}.{n}": t for n, t in own.items()}
    if name.endswith(".safetensors"):
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)
    return str(folder / name)


def connection(w: Weights, at: str, v: Tensor, v_mask: Tensor, t: Tensor, t_mask: Tensor) -> tuple[Tensor, Tensor]:
    """One of the published co-attention layers: 1 is vision and 2 is text."""
    parts = ("query", "key", "value")
    query1, key1, value1 = (linear(w, f"{at}.biattention.{part}1", v) for part in parts)
    query2, key2, value2 = (linear(w, f"{at}.biattention.{part}2", t) for part in parts)
    read_by_text = attend(query2, key1, value1, v_mask, CO_HEADS)
    read_by_vision = attend(query1, key2, value2, t_mask, CO_HEADS)
    v = norm(w, f"{at}.biOutput.LayerNorm1", linear(w, f"{at}.biOutput.dense1", read_by_vision) + v)
    t = norm(w, f"{at}.biOutput.LayerNorm2", linear(w, f"{at}.biOutput.dense2", read_by_text) + t)
    v = norm(w, f"{at}.v_output.LayerNorm", linear(w, f"{at}.v_output.dense", gelu(linear(w, f"{at}.v_intermediate.dense", v))) + v)
    t = norm(w, f"{at}.t_output.LayerNorm", linear(w, f"{at}.t_output.dense", gelu(linear(w, f"{at}.t_intermediate.dense", t))) + t)
    return v, t


def reference(w: Weights, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The published pooled outputs of text and vision, of examples that have both."""
    text, image = inputs["text"], inputs["image"]
    t, t_mask = word_embeddings(w, "embeddings", text.values, text.extras["segments"]), text.mask
    v, v_mask = linear(w, "v_embeddings.image_embeddings", image.values), image.mask
    v = norm(w, "v_embeddings.LayerNorm", v + linear(w, "v_embeddings.image_location_embeddings", image.extras["boxes"]))
    t_done = v_done = 0
    for i, (t_end, v_end) in enumerate(zip(T_CONNECTED, V_CONNECTED)):
        for layer in range(t_done, t_end):
            t = bert_layer(w, f"encoder.layer.{layer}", t, t_mask, HEADS)
        for layer in range(v_done, v_end):
            v = bert_layer(w, f"encoder.v_layer.{layer}", v, v_mask, V_HEADS)
        v, t = connection(w, f"encoder.c_layer.{i}", v, v_mask, t, t_mask)
        t_done, v_done = t_end, v_end
    for layer in range(v_done, V_LAYERS):
        v = bert_layer(w, f"encoder.v_layer.{layer}", v, v_mask, V_HEADS)
    for layer in range(t_done, LAYERS):
        t = bert_layer(w, f"encoder.layer.{layer}", t, t_mask, HEADS)
    return linear(w, "t_pooler.dense", t[:, 0]).relu(), linear(w, "v_pooler.dense", v[:, 0]).relu()


def make_inputs(dtype: torch.dtype = torch.float64, regions: tuple[int, ...] = (2, 7, 1, 5)) -> dict[str, ModalityInputs]:
    generator = torch.Generator().manual_seed(0)
    place, lengths = torch.arange(8), torch.tensor([8, 3, 6, 5])
    mask = place < lengths[:, None]
    special = (place == 0) | (place == lengths[:, None] - 1)
    ids, segments = (torch.randint(low, high, (4, 8), generator=generator) for low, high in ((3, WORDS), (0, 2)))
    text = ModalityInputs(ids, mask, {"special": special & mask, "segments": segments})
    values = torch.randn(4, 7, REGION, generator=generator, dtype=torch.float64).to(dtype)
    boxes = torch.rand(4, 7, 5, generator=generator, dtype=torch.float64).to(dtype)
    image = ModalityInputs(values, torch.arange(7) < torch.tensor(regions)[:, None], {"boxes": boxes})
    return {"image": image, "text": text}


def cast(weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float64) -> Weights:
    return {n: t.to(dtype) for n, t in weights.items()}


def build(seed: int = 0, **options: Any) -> Vilbert:
    torch.manual_seed(seed)
    return Vilbert(**({"num_classes": 3, "cls_id": 1, "sep_id": 2} | SIZES | options)).eval()


def loaded(folder: Path, **options: Any) -> Vilbert:
    """Ours with the published weights and classifier; all other sizes are read off them."""
    path = mmf_file(folder, published(), classifier=classifier())
    return Vilbert(3, pretrained=path, pretrained_head=True, cls_id=1, sep_id=2, **(HEAD_COUNTS | options)).eval()


def same(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    """Float64 by default: sums in another order."""
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# ---- numbers ----


@pytest.mark.parametrize(("fusion", "fuse"), [("mul", torch.mul), ("sum", torch.add)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)], ids=["float64", "float32"])
def test_logits_are_those_of_the_published_equations(
    tmp_path: Path, fusion: str, fuse: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    """The logits here are of size 5; in float32 they keep 5 digits."""
    model, inputs = loaded(tmp_path, fusion=fusion).to(dtype), make_inputs(dtype)
    expected = transform_head(cast(classifier(), dtype), fuse(*reference(cast(published(), dtype), inputs)))
    same(model(inputs).logits, expected, tolerance)


def test_gradients_are_those_of_the_published_equations(tmp_path: Path) -> None:
    model, inputs = loaded(tmp_path).double(), make_inputs()
    weights = {n: t.requires_grad_() for n, t in cast(published()).items()}
    torch.mul(*reference(weights, inputs)).square().sum().backward()
    model.summarise_views([inputs]).square().sum().backward()
    first, last = model.connections[0], model.connections[-1]
    for ours, theirs in (
        (first.image.attention.query, "encoder.c_layer.0.biattention.query1"),
        (first.text.attention.key, "encoder.c_layer.0.biattention.key1"),
        (last.image.attention.output, "encoder.c_layer.1.biOutput.dense1"),
        (last.text.expand, "encoder.c_layer.1.t_intermediate.dense"),
        (model.image_embeddings.location, "v_embeddings.image_location_embeddings"),
        (model.text_layers[0].attention.value, "encoder.layer.0.attention.self.value"),
        (model.image_layers[2].contract, "encoder.v_layer.2.output.dense"),
    ):
        same(ours.weight.grad, weights[f"{theirs}.weight"].grad, 1e-9)  # gradients of size 100


def test_the_default_layout_is_the_published_one() -> None:
    with torch.device("meta"):
        model = Vilbert(num_classes=2)
    assert [len(x) for x in (model.text_layers, model.image_layers, model.connections)] == [12, 6, 6]
    connection = model.connections[0]
    assert connection.text.attention.key.weight.shape == (1024, 1024)
    assert connection.text.attention.query.weight.shape == (1024, 768)
    assert connection.text.attention.output.weight.shape == (768, 1024)
    assert connection.image.expand.weight.shape == (1024, 1024)
    assert model.image_embeddings.location.weight.shape == (1024, 5)
    assert model.text_pooler.weight.shape == (1024, 768)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # torch's own, when it first loads its forward mode
def test_forward_mode_derivative_is_the_backward_one() -> None:
    model, inputs = build().double(), make_inputs(regions=(2, 7, 0, 5))
    weights = {n: p.detach() for n, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(3)
    direction = {n: torch.randn(w.shape, dtype=w.dtype, generator=generator) for n, w in weights.items()}

    def score(weights: Weights) -> Tensor:
        found: Tensor = torch.func.functional_call(model, weights, (inputs,)).logits.square().sum()
        return found

    _, forward = torch.func.jvp(score, (weights,), (direction,))
    gradient = torch.func.grad(score)(weights)
    same(forward, sum((gradient[n] * direction[n]).sum() for n in weights), 1e-10)  # sums of thousands of terms


# ---- one modality ----


def text_alone(w: Weights, text: ModalityInputs) -> Tensor:
    """The published text stream where nothing is read in a connection but the bias of its output."""
    t = word_embeddings(w, "embeddings", text.values, text.extras["segments"])
    for layer in range(LAYERS):
        if layer in T_CONNECTED:
            at = f"encoder.c_layer.{T_CONNECTED.index(layer)}"
            t = norm(w, f"{at}.biOutput.LayerNorm2", w[f"{at}.biOutput.dense2.bias"] + t)
            inner = gelu(linear(w, f"{at}.t_intermediate.dense", t))
            t = norm(w, f"{at}.t_output.LayerNorm", linear(w, f"{at}.t_output.dense", inner) + t)
        t = bert_layer(w, f"encoder.layer.{layer}", t, text.mask, HEADS)
    return linear(w, "t_pooler.dense", t[:, 0]).relu()


@pytest.mark.parametrize("fusion", ["mul", "sum"])
def test_without_regions_the_text_reads_zeros_and_is_alone_in_the_fusion(tmp_path: Path, fusion: str) -> None:
    model, inputs = loaded(tmp_path, fusion=fusion).double(), make_inputs()
    expected = transform_head(cast(classifier()), text_alone(cast(published()), inputs["text"]))
    same(model({"text": inputs["text"]}).logits, expected, 1e-11)
    hidden = AttentionMasker().hide("image", inputs["image"])
    assert hidden is not None
    same(model({"text": inputs["text"], "image": hidden}).logits, expected, 1e-11)
    some = make_inputs(regions=(2, 7, 0, 5))
    same(model(some).logits[2], expected[2], 1e-11)
    same(model(some).logits[[0, 1, 3]], model(inputs).logits[[0, 1, 3]], 1e-11)


def test_without_any_word_the_image_is_alone_in_the_fusion() -> None:
    model, inputs = build().double(), make_inputs()
    text = replace(inputs["text"], mask=torch.zeros_like(inputs["text"].mask), extras={})
    (streams,) = model.streams([{**inputs, "text": text}], keep=False)
    assert streams[1] is not None
    same(model.summarise(*streams), model.image_pooler(streams[1].first).relu())


def test_a_view_of_one_modality_tells_examples_apart() -> None:
    model, inputs = build().double(), make_inputs()
    for modality in model.modalities:
        logits = model({modality: inputs[modality]}).logits
        assert torch.pdist(logits).min() > 1e-6


def test_text_left_out_is_cls_and_sep_alone() -> None:
    model, image = build().double(), make_inputs()["image"]
    marks, shown = torch.tensor([[1, 2]]).expand(4, 2), torch.ones(4, 2, dtype=torch.bool)
    only_marks = ModalityInputs(marks, shown, {"special": shown})
    same(model({"image": image}).logits, model({"image": image, "text": only_marks}).logits)
    with pytest.raises(ValueError, match="cls_id and sep_id that stand in for it are not among the 50 words"):
        build(sep_id=102)({"image": make_inputs(torch.float32)["image"]})


def test_what_is_not_a_number_under_the_mask_reaches_neither_logits_nor_gradients() -> None:
    model, inputs = build(), make_inputs(torch.float32, regions=(2, 7, 0, 5))
    image = inputs["image"]
    spoiled = replace(image, values=image.values.masked_fill(~image.mask[..., None], torch.nan))
    model({**inputs, "image": spoiled}).logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert torch.equal(model({**inputs, "image": spoiled}).logits, model(inputs).logits)


# ---- boxes ----


def test_four_numbers_a_box_get_their_area() -> None:
    model, inputs = build().double(), make_inputs()
    image = inputs["image"]
    corners = image.extras["boxes"][..., :4]
    area = (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1])
    five = replace(image, extras={"boxes": torch.cat([corners, area[..., None]], -1)})
    four = replace(image, extras={"boxes": corners.float()})
    same(model({**inputs, "image": four}).logits, model({**inputs, "image": five}).logits, 1e-6)  # boxes in float32


def test_a_region_without_a_box_is_the_whole_image() -> None:
    model, inputs = build().double(), make_inputs()
    image = inputs["image"]
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64).expand(4, 7, 5)
    given, left_out = (replace(image, extras=extras) for extras in ({"boxes": whole}, {}))
    same(model({**inputs, "image": left_out}).logits, model({**inputs, "image": given}).logits)
    with pytest.raises(ValueError, match=r"boxes must be \[x1, y1, x2, y2\] or .*, got 3 numbers a box"):
        model({**inputs, "image": replace(image, extras={"boxes": whole[..., :3]})})


# ---- views and features ----


class Calls:
    """How often a module runs."""

    def __init__(self, module: nn.Module):
        self.count = 0
        module.register_forward_hook(self._add)

    def _add(self, *_: Any) -> None:
        self.count += 1


def test_views_share_the_layers_before_the_first_connection() -> None:
    model, inputs = build(), make_inputs(torch.float32)
    text = DropMasker().hide("text", inputs["text"])
    assert text is not None
    shared, regions, later = Calls(model.text_layers[1]), Calls(model.image_layers[0]), Calls(model.text_layers[2])
    model.forward_views([inputs, {"text": inputs["text"]}, {**inputs, "text": text}])
    assert (shared.count, regions.count, later.count) == (2, 1, 3)


def test_an_image_encoder_runs_once_for_views_of_the_same_image() -> None:
    model = build(image_encoder=Patches(8, 4, hidden_size=6), feature_size=99)
    assert model.sizes.feature_size == 6
    inputs = make_inputs(torch.float32)
    pixels = ModalityInputs(torch.randn(4, 3, 8, 8), torch.ones(4, 1, dtype=torch.bool))
    assert isinstance(model.image_encoder, Patches)
    calls = Calls(model.image_encoder)
    model.forward_views([{**inputs, "image": pixels}, {"image": pixels}])
    assert calls.count == 1


def test_features_are_the_published_states(tmp_path: Path) -> None:
    model, inputs, w = loaded(tmp_path).double(), make_inputs(), cast(published())
    wanted = ["text.0.hidden", "text.1.cls", "image.0.mean", "text.4.cls", "image.3.cls", "fused.pooled"]
    views = [inputs, {"text": inputs["text"]}]
    output, (full, alone) = model.forward_features(views, [wanted, ["text.4.cls"]])
    same(output.logits, model.forward_views(views).logits)
    assert sorted(full) == sorted(wanted)
    text, image = inputs["text"], inputs["image"]
    words = word_embeddings(w, "embeddings", text.values, text.extras["segments"])
    own = text.mask & ~text.special
    same(full["text.0.hidden"].values, words * own[..., None])
    assert torch.equal(full["text.0.hidden"].mask, own)
    same(full["text.1.cls"].values, bert_layer(w, "encoder.layer.0", words, text.mask, HEADS)[:, 0])
    regions = linear(w, "v_embeddings.image_embeddings", image.values)
    regions = norm(
        w, "v_embeddings.LayerNorm", regions + linear(w, "v_embeddings.image_location_embeddings", image.extras["boxes"])
    )
    shown = image.mask[..., None]
    same(full["image.0.mean"].values, (regions * shown).sum(1) / shown.sum(1))
    t, v = reference(w, inputs)
    same(linear(w, "t_pooler.dense", full["text.4.cls"].values).relu(), t, 1e-11)
    same(linear(w, "v_pooler.dense", full["image.3.cls"].values).relu(), v, 1e-11)
    same(full["fused.pooled"].values, t * v, 1e-11)
    same(linear(w, "t_pooler.dense", alone["text.4.cls"].values).relu(), text_alone(w, text), 1e-11)


def test_all_that_is_offered_can_be_had() -> None:
    model, inputs = build(), make_inputs(torch.float32)
    _, (found,) = model.forward_features([inputs], [list(model.feature_kinds)])
    assert sorted(found) == sorted(model.feature_kinds)
    assert all(f.values.ndim == (3 if model.feature_kinds[n] == "hidden" else 2) for n, f in found.items())


# ---- checkpoints ----


@pytest.mark.parametrize("name", ["vilbert.pth", "vilbert.bin", "vilbert.safetensors"])
@pytest.mark.parametrize(
    "prefix", ["model.", "module.model.", "bert.", "module."], ids=["mmf", "mmf-ddp", "mmf-old", "authors-ddp"]
)
def test_checkpoints_load_under_every_prefix(tmp_path: Path, prefix: str, name: str) -> None:
    other = random_weights({"predictions.bias": (3, 2)})
    model = Vilbert(3, pretrained=mmf_file(tmp_path, published(), prefix, name, cls=other), **HEAD_COUNTS).double().eval()
    same(model.summarise_views([make_inputs()])[0], torch.mul(*reference(cast(published()), make_inputs())), 1e-11)


def test_a_bare_checkpoint_with_the_names_of_2018_loads(tmp_path: Path) -> None:
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in published().items()
    }
    torch.save(old | {"embeddings.position_ids": torch.arange(20)}, tmp_path / "old.bin")
    model = Vilbert(3, pretrained=str(tmp_path / "old.bin"), **HEAD_COUNTS)
    assert torch.equal(model.text_layers[1].mlp_norm.weight, published()["encoder.layer.1.output.LayerNorm.weight"])


def test_the_classifier_is_taken_only_if_asked_for(tmp_path: Path) -> None:
    path = mmf_file(tmp_path, published(), classifier=classifier())
    own, theirs = (Vilbert(3, pretrained=path, pretrained_head=taken, **HEAD_COUNTS) for taken in (False, True))
    assert not torch.equal(own.head[3].weight, classifier()["1.weight"])
    for ours, name in ((0, "0.dense"), (2, "0.LayerNorm"), (3, "1")):
        assert torch.equal(theirs.head[ours].weight, classifier()[f"{name}.weight"])
        assert torch.equal(theirs.head[ours].bias, classifier()[f"{name}.bias"])


def test_the_text_stream_can_begin_with_a_bert(tmp_path: Path) -> None:
    import transformers

    sizes = {"vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config = transformers.BertConfig(**sizes, intermediate_size=INNER, max_position_embeddings=20)
    bert = transformers.BertForPreTraining(config)
    bert.save_pretrained(tmp_path)
    options = {n: s for n, s in SIZES.items() if n.startswith(("image_", "co_", "num_conn", "feature"))}
    torch.manual_seed(3)
    model = Vilbert(3, pretrained=str(tmp_path), **options)
    torch.manual_seed(3)
    random = Vilbert(3, **SIZES)
    assert model.sizes == random.sizes
    layer = bert.bert.encoder.layer[2]
    assert torch.equal(model.text_layers[2].expand.weight, layer.intermediate.dense.weight)
    assert torch.equal(model.embeddings.position.weight, bert.bert.embeddings.position_embeddings.weight)
    assert torch.equal(model.connections[1].text.attention.query.weight, random.connections[1].text.attention.query.weight)
    assert torch.equal(model.text_pooler.weight, random.text_pooler.weight)


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {n: t for n, t in weights.items() if part not in n}


def bent(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"hidden_size": 32}, r"hidden_size is 32, and the weights of .*vilbert\.pth have 12"),
        (None, {"num_connections": 1}, r"num_connections is 1, and the weights of .* have 2"),
        (None, {"vocab_size": 51}, r"vocab_size is 51, and the weights of .* have 50"),
        (None, {"num_heads": 5}, "^num_heads must divide hidden_size, got 5 heads for 12 features"),
        (without("v_embeddings."), {}, r"are not of a ViLBERT: there are no v_embeddings"),
        (without("c_layer.1.biOutput.dense1"), {}, r"it lacks connections\.1\.image\.attention\.output\.bias, connections"),
        (bent("embeddings.task_embeddings.weight"), {}, r"it has besides embeddings\.task_embeddings\.weight"),
        (bent("t_pooler.dense.bias"), {}, r"of another shape text_pooler\.bias \[2, 2\], wanted \[16\]"),
        (
            None,
            {"pretrained_head": True, "num_classes": 4},
            r"the classifier in .* do not fit: of another shape 3\.bias \[3\], wanted \[4\]",
        ),
        (
            None,
            {"pretrained_head": True, "head": "linear"},
            r"the classifier in .* do not fit: it lacks bias, weight; it has besides 0\.",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: Any, options: dict[str, Any], message: str) -> None:
    weights = published() if change is None else change(published())
    path = mmf_file(tmp_path, weights, classifier=classifier())
    with pytest.raises(ValueError, match=message):
        Vilbert(**({"num_classes": 3, "pretrained": path} | HEAD_COUNTS | options))


def test_a_classifier_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no classifier in .*vilbert\.pth, so pretrained_head cannot take it"):
        Vilbert(3, pretrained=mmf_file(tmp_path, published()), pretrained_head=True, **HEAD_COUNTS)
    with pytest.raises(ValueError, match="pretrained_head needs pretrained, the file that the classifier is in"):
        build(pretrained_head=True)
    with pytest.raises(ValueError, match=r"there is no weight file .*nowhere\.pth"):
        build(pretrained=str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vilt"}, "has model_type 'vilt', wanted 'bert'"),
        ({"hidden_act": "relu"}, "has hidden_act 'relu', wanted 'gelu'"),
        ({"layer_norm_eps": 1e-5}, "has layer_norm_eps 1e-05, wanted 1e-12"),
    ],
)
def test_folders_of_other_models_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    import json

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"} | changes))
    torch.save({"embeddings.word_embeddings.weight": torch.ones(2, 2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message):
        Vilbert(3, pretrained=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_num_heads": 5}, "image_num_heads must divide image_hidden_size, got 5 heads for 24 features"),
        ({"co_num_heads": 3}, "co_num_heads must divide co_hidden_size, got 3 heads for 16 features"),
        ({"num_connections": 4}, "num_connections must be at most 3, the layers of the shorter stream, got 4"),
        ({"num_connections": 0}, "num_connections must be above 0, got 0"),
        ({"pad_id": 50}, r"pad_id must be in 0\.\.49, got 50"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    long = ModalityInputs(torch.ones(2, 21, dtype=torch.long), torch.ones(2, 21, dtype=torch.bool))
    with pytest.raises(ValueError, match="a text has 21 positions and this model takes 20"):
        build()({"text": long})
    image = ModalityInputs(torch.zeros(2, 4, 11), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"image must be features \[B, L, 10\], got \[2, 4, 11\]; set feature_size, or give pixels"
    ):
        build()({"image": image})


def test_a_model_with_published_weights_is_rebuilt_without_their_files(tmp_path: Path) -> None:
    path = mmf_file(tmp_path, published(), classifier=classifier())
    options = {"pretrained": path, "pretrained_head": True, "fusion": "sum", **HEAD_COUNTS}
    facts = {"num_classes": 3, "vocab_size": 40}
    model = MODELS.build({"type": "vilbert", **options}, "model", facts)
    shutil.rmtree(tmp_path)
    again = MODELS.build({"type": "vilbert", **model.rebuild_options(options)}, "model", facts)
    again.load_state_dict(model.state_dict())
    assert again.sizes == model.sizes
