"""What every registered model and encoder promises, shown on each of them, built tiny."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msd_framework.maskers.attention import AttentionMasker
from msd_framework.maskers.base import Masker
from msd_framework.maskers.drop import DropMasker
from msd_framework.maskers.modality_dropout import modality_dropout
from msd_framework.models.base import Encoder, MultimodalModel
from msd_framework.registry import ENCODERS, MASKERS, MODELS
from msd_framework.structures import Batch, Inputs, ModalityInputs
from tests.hidden import hidden_at_full_width
from tests.mmf_stand_in import mmf_stand_in

FACTS = {
    "num_classes": 3,
    "vocab_size": 40,
    "pad_id": 0,
    "cls_id": 1,
    "sep_id": 2,
    "image_size": 8,
    "image_channels": 3,
    "feature_size": 6,
    "sample_rate": 8000,
}
EXACT = 1e-12  # float64: the same sums in another order

WORDS = {"type": "transformer", "hidden_size": 8, "num_layers": 1, "num_heads": 2, "max_positions": 16}
PATCHES = {"type": "patches", "patch_size": 4, "hidden_size": 8}
REGIONS = {"type": "features", "hidden_size": 8}
SERIES = {"type": "temporal_convolution", "hidden_size": 8, "num_layers": 2, "kernel_size": 3}
RESNET = {"type": "resnet"}
SOUND = {"type": "log_mel", "window": 16, "hop": 8, "num_bands": 8, "num_channels": 8, "hidden_size": 32}
SOUND_SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CONVOLVED = SOUND_SIZES | {
    "model_type": "wav2vec2",
    "conv_dim": [8, 8],
    "conv_kernel": [4, 3],
    "conv_stride": [2, 2],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
HUB_SOUND = {"type": "huggingface_audio", "config": CONVOLVED}
BERT_CONFIG = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
SINGLE_STREAM = {
    "type": "visual_bert",
    "hidden_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 16,
    "max_positions": 16,
}
TWO_STREAMS = {
    "type": "vilbert",
    "hidden_size": 8,
    "num_layers": 3,
    "num_heads": 2,
    "intermediate_size": 16,
    "max_positions": 16,
    "image_hidden_size": 12,
    "image_num_layers": 2,
    "image_num_heads": 3,
    "image_intermediate_size": 10,
    "co_hidden_size": 12,
    "co_num_heads": 4,
    "num_connections": 2,
}
BITRANSFORMER = SINGLE_STREAM | {"type": "mmbt", "num_segments": 3}
CONCAT = {"num_layers": 1, "hidden_size": 8}
HUB_SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
HUB_TEXT = HUB_SIZES | {"max_position_embeddings": 16}
HUB_IMAGE = HUB_SIZES | {"patch_size": 4}
HUB_CONFIGS: dict[str, dict[str, Any]] = {
    "vilt": HUB_TEXT | {"patch_size": 4},
    "visual_bert": HUB_TEXT,
    "lxmert": HUB_TEXT | {"l_layers": 1, "x_layers": 2, "r_layers": 1},
    "flava": {"projection_dim": 6, "text_config": HUB_TEXT, "image_config": HUB_IMAGE, "multimodal_config": HUB_SIZES},
    "siglip": {"text_config": HUB_TEXT, "vision_config": HUB_IMAGE},
    "bridgetower": HUB_SIZES
    | {
        "text_config": HUB_TEXT | {"num_hidden_layers": 3},
        "vision_config": {"hidden_size": 64, "num_hidden_layers": 3, "patch_size": 4},
    },
    "bert": HUB_TEXT,
    "vit": HUB_IMAGE,
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"},
    "electra": HUB_TEXT | {"embedding_size": 8},
}
"""Architectures of transformers; the last one is none that it has an adapter for."""

MMF_SIZES = {"hidden_size": 6, "vocab_size": 40, "visual_embedding_dim": 6}


def hub(kind: str) -> dict[str, Any]:
    return {"type": "huggingface", "config": {"model_type": kind, **HUB_CONFIGS[kind]}}


class Plain(nn.Module):
    """A module that knows nothing of this library."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.words = nn.Embedding(40, width)
        self.pixels = nn.Linear(3, width)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(
        self, ids: Tensor | None = None, image: Tensor | None = None, seen: Tensor | None = None, there: Tensor | None = None
    ) -> dict[str, Tensor]:
        like = self.head.weight.new_zeros(len(ids if ids is not None else image), self.words.embedding_dim)
        text = like if ids is None or seen is None else (self.words(ids).tanh() * seen[..., None]).sum(1)
        patch = like if image is None or there is None else self.pixels(image.mean((2, 3))) * there
        return {"scores": self.head(torch.cat([text, patch], 1))}


@dataclass(frozen=True)
class Case:
    """A tiny component, the kind of values of each of its modalities, and what it promises besides the contract."""

    spec: dict[str, Any]
    kinds: dict[str, str]
    absent_is_hidden: bool = False  # leaving a modality out, special positions and all, is hiding it


IMAGE_TEXT = {"image": "features", "text": "tokens"}
PIXELS_TEXT = {"image": "pixels", "text": "tokens"}
FUSED = {"type": "late_fusion", "hidden_size": 8}
READ_TOGETHER = {"type": "single_stream", "hidden_size": 8, "num_layers": 2, "num_heads": 2, "initializer_range": 0.2}

MODEL_CASES: dict[str, list[Case]] = {
    "visual_bert": [
        Case(SINGLE_STREAM, IMAGE_TEXT),
        Case(SINGLE_STREAM | {"packed": False}, IMAGE_TEXT),
        Case(SINGLE_STREAM | {"image_encoder": PATCHES, "head": "transform", "visual_token_type": 0}, PIXELS_TEXT),
        Case(SINGLE_STREAM | {"image_encoder": PATCHES, "packed": False}, PIXELS_TEXT),
    ],
    "late_fusion": [
        Case(FUSED | {"encoders": {"image": REGIONS, "text": WORDS}, "fusion": "concat"}, IMAGE_TEXT, True),
        Case(FUSED | {"encoders": {"image": SERIES, "text": WORDS}}, IMAGE_TEXT, True),
        Case(FUSED | {"encoders": {"image": PATCHES, "text": WORDS}, "fusion": "sum"}, PIXELS_TEXT, True),
        Case(
            FUSED | {"encoders": {"image": PATCHES, "text": {"type": "bert", "config": BERT_CONFIG}}, "fusion": "mean"},
            PIXELS_TEXT,
            True,
        ),
        Case(
            FUSED | {"encoders": {"audio": REGIONS, "image": PATCHES, "text": WORDS}, "fusion": "gated"},
            {"audio": "features"} | PIXELS_TEXT,
            True,
        ),
        Case(FUSED | {"encoders": {"image": RESNET, "text": WORDS}}, PIXELS_TEXT, True),
    ],
    "vilbert": [
        Case(TWO_STREAMS, IMAGE_TEXT),
        Case(TWO_STREAMS | {"image_encoder": PATCHES, "fusion": "sum", "head": "linear", "num_connections": 1}, PIXELS_TEXT),
    ],
    "mmbt": [
        Case(BITRANSFORMER, IMAGE_TEXT),
        Case(BITRANSFORMER | {"image_encoder": PATCHES, "head": "transform"}, PIXELS_TEXT),
    ],
    "concat_bert": [
        Case(CONCAT | {"type": "concat_bert", "text_encoder": {"type": "bert", "config": BERT_CONFIG}}, IMAGE_TEXT, True),
        Case(
            CONCAT | {"type": "concat_bert", "text_encoder": WORDS, "image_encoder": PATCHES, "num_regions": 4, "batch_norm": True},
            PIXELS_TEXT,
            True,
        ),
    ],
    "concat_bow": [
        Case(CONCAT | {"type": "concat_bow", "embedding_size": 6}, IMAGE_TEXT, True),
        Case(CONCAT | {"type": "concat_bow", "image_encoder": PATCHES, "pool": "sum", "num_layers": 0}, PIXELS_TEXT, True),
    ],
    "huggingface": [
        *(Case(hub(kind), PIXELS_TEXT) for kind in ("vilt", "flava", "siglip", "bridgetower")),
        *(Case(hub(kind), IMAGE_TEXT) for kind in ("visual_bert", "lxmert")),
        *(Case(hub(kind), {"text": "tokens"}) for kind in ("bert", "electra")),
        *(Case(hub(kind), {"image": "pixels"}) for kind in ("vit", "resnet")),
    ],
    "single_stream": [
        Case(READ_TOGETHER | {"encoders": {"image": REGIONS, "text": WORDS | {"num_layers": 0}}}, IMAGE_TEXT, True),
        Case(
            READ_TOGETHER | {"encoders": {"audio": SOUND, "image": PATCHES, "text": WORDS}},
            {"audio": "waveform"} | PIXELS_TEXT,
            True,
        ),
    ],
    "module": [
        Case(
            {
                "type": "module",
                "target": f"{__name__}.Plain",
                "options": {"width": 8},
                "inputs": {"image": "image", "text": "ids"},
                "masks": {"image": "there", "text": "seen"},
                "output": "scores",
            },
            PIXELS_TEXT,
        ),
    ],
    "mmf": [
        Case({"type": "mmf", "name": "tiny"}, IMAGE_TEXT),
        Case({"type": "mmf", "name": "tiny", "num_regions": 7}, IMAGE_TEXT),
        Case(
            {
                "type": "mmf",
                "name": "tiny_pixels",
                "config": {"training_head_type": "classification", **MMF_SIZES},
                "inputs": {"text": "input_ids", "image": "image"},
            },
            PIXELS_TEXT,
        ),
    ],
    "unimodal_text": [Case({"type": "unimodal_text", "encoder": WORDS}, {"text": "tokens"})],
    "unimodal_image": [Case({"type": "unimodal_image", "encoder": REGIONS}, {"image": "features"})],
    "unimodal_audio": [
        Case({"type": "unimodal_audio", "encoder": SOUND}, {"audio": "waveform"}),
        Case({"type": "unimodal_audio", "encoder": HUB_SOUND}, {"audio": "waveform"}),
    ],
    "logit_fusion": [
        Case(
            {"type": "logit_fusion", "encoders": {"audio": SOUND, "image": PATCHES}}, {"audio": "waveform", "image": "pixels"}, True
        ),
        Case(
            {"type": "logit_fusion", "encoders": {"audio": SOUND, "image": PATCHES}, "num_layers": 2, "batch_norm": True},
            {"audio": "waveform", "image": "pixels"},
            True,
        ),
        Case({"type": "logit_fusion", "encoders": {"image": REGIONS, "text": WORDS}}, IMAGE_TEXT),
    ],
}

ENCODER_CASES: dict[str, list[Case]] = {
    "bert": [
        Case({"type": "bert", "config": BERT_CONFIG}, {"x": "tokens"}),
        Case(
            {"type": "bert", "config": BERT_CONFIG | {"model_type": "roberta", "max_position_embeddings": 18, "pad_token_id": 1}},
            {"x": "tokens"},
        ),
        Case(
            {"type": "bert", "config": {"model_type": "distilbert", "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}},
            {"x": "tokens"},
        ),
    ],
    "transformer": [Case(WORDS, {"x": "tokens"}), Case(WORDS | {"norm_first": False}, {"x": "tokens"})],
    "features": [Case(REGIONS, {"x": "features"})],
    "temporal_convolution": [Case(SERIES, {"x": "features"})],
    "patches": [Case(PATCHES, {"x": "pixels"}), Case(PATCHES | {"num_layers": 1, "num_heads": 2}, {"x": "pixels"})],
    "log_mel": [Case(SOUND, {"x": "waveform"})],
    "huggingface_audio": [
        Case(HUB_SOUND, {"x": "waveform"}),
        Case(
            {"type": "huggingface_audio", "config": CONVOLVED | {"feat_extract_norm": "layer", "do_stable_layer_norm": True}},
            {"x": "waveform"},
        ),
    ],
    "resnet": [
        Case(RESNET, {"x": "pixels"}),
        Case({"type": "resnet", "freeze_batch_norm": True, "grid_size": [3, 1]}, {"x": "pixels"}),
    ],
    "timm": [
        Case({"type": "timm", "name": "test_efficientnet"}, {"x": "pixels"}),
        Case({"type": "timm", "name": "mobilenetv3_small_050", "freeze_batch_norm": True}, {"x": "pixels"}),
    ],
}


def named(cases: dict[str, list[Case]]) -> list[Any]:
    found = []
    for name, group in cases.items():
        marks = [pytest.mark.skipif(find_spec(name) is None, reason="timm is not installed")] if name == "timm" else []
        found += [pytest.param(case, id=f"{name}-{i}", marks=marks) for i, case in enumerate(group)]
    return found


every_model = pytest.mark.parametrize("case", named(MODEL_CASES))
every_encoder = pytest.mark.parametrize("case", named(ENCODER_CASES))


def tokens(generator: torch.Generator) -> ModalityInputs:
    """Four texts, [CLS] words [SEP]; the last one has its words hidden."""
    lengths = torch.tensor([7, 5, 4, 5])
    place = torch.arange(7)
    mask = place < lengths[:, None]
    special = (place == 0) | (place == lengths[:, None] - 1)
    ids = torch.randint(3, 40, (4, 7), generator=generator)
    ids = torch.where(place == 0, 1, torch.where(special, 2, ids))
    mask = mask & (special | (torch.arange(4) < 3)[:, None])
    segments = (place >= 3).long().expand(4, 7)
    return ModalityInputs(ids, mask, {"special": special & mask, "segments": segments})


def features(generator: torch.Generator) -> ModalityInputs:
    """Four images of regions; the third one has none."""
    mask = torch.arange(5) < torch.tensor([5, 3, 0, 4])[:, None]
    width = 6
    return ModalityInputs(torch.randn(4, 5, width, generator=generator, dtype=torch.float64), mask)


def pixels(generator: torch.Generator) -> ModalityInputs:
    """Four images; the third one is hidden."""
    values = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    return ModalityInputs(values, torch.tensor([[True], [True], [False], [True]]))


def sounds(generator: torch.Generator) -> ModalityInputs:
    """Four sounds; the third one is hidden."""
    values = torch.randn(4, 60, generator=generator, dtype=torch.float64)
    return ModalityInputs(values, torch.arange(60) < torch.tensor([60, 41, 0, 17])[:, None])


MAKERS: dict[str, Callable[[torch.Generator], ModalityInputs]] = {
    "tokens": tokens,
    "features": features,
    "pixels": pixels,
    "waveform": sounds,
}


def make_inputs(case: Case, seed: int = 0) -> dict[str, ModalityInputs]:
    generator = torch.Generator().manual_seed(seed)
    return {m: MAKERS[kind](generator) for m, kind in sorted(case.kinds.items())}


def build_model(case: Case, seed: int = 0) -> MultimodalModel:
    torch.manual_seed(seed)
    with mmf_stand_in():
        model: MultimodalModel = MODELS.build(case.spec, facts=FACTS)
    return shake(model)


def build_encoder(case: Case, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    encoder: Encoder = ENCODERS.build(case.spec, facts=FACTS)
    return shake(encoder)


def shake(module: Any) -> Any:
    """Moves every vector off its initial zeros, so that nothing is equal for want of a bias."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module.double().eval()


def hide(inputs: Inputs, names: tuple[str, ...], masker: Masker) -> Inputs:
    seen = {m: masker.hide(m, x) if m in names else x for m, x in inputs.items()}
    return {m: x for m, x in seen.items() if x is not None}


def change_masked(x: ModalityInputs, seed: int = 9) -> ModalityInputs:
    """Other values wherever the mask is False."""
    generator = torch.Generator().manual_seed(seed)
    if not x.values.is_floating_point():
        return replace(x, values=torch.where(x.mask, x.values, torch.randint(0, 40, x.values.shape, generator=generator)))
    shape = x.mask.shape + (1,) * (x.values.ndim - x.mask.ndim)
    return replace(x, values=torch.where(x.mask.view(shape), x.values, 100 * torch.ones_like(x.values)))


def train_once(module: Any, inputs: Any) -> dict[str, Tensor]:
    """What a step in training looks at and leaves behind: what is said, the gradients, and the buffers."""
    torch.manual_seed(5)
    output = module.train()(inputs)
    said = output.logits if isinstance(module, MultimodalModel) else output.pooled
    said.square().sum().backward()
    gradients = {f"grad {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"said": said, **gradients, **dict(module.named_buffers())}


def example(inputs: Inputs, index: int) -> Inputs:
    def one(t: Tensor) -> Tensor:
        return t[index : index + 1]

    return {m: ModalityInputs(one(x.values), one(x.mask), {n: one(e) for n, e in x.extras.items()}) for m, x in inputs.items()}


def proper_subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [c for size in range(1, len(names)) for c in combinations(names, size)]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize(("registry", "cases"), [(MODELS, MODEL_CASES), (ENCODERS, ENCODER_CASES)], ids=["models", "encoders"])
def test_every_registered_component_is_under_contract(registry: Any, cases: dict[str, list[Case]]) -> None:
    ours = [name for name in registry.names() if registry.get(name).__module__.startswith("msd_framework.")]
    assert sorted(cases) == ours


@every_model
def test_a_model_says_its_modalities_and_classes(case: Case) -> None:
    model = build_model(case)
    options = {k: v for k, v in case.spec.items() if k != "type"}
    assert model.modalities == type(model).modalities_of(options) == tuple(sorted(case.kinds))
    assert model(make_inputs(case)).logits.shape == (4, model.num_classes) == (4, 3)


@every_model
def test_a_model_takes_every_subset_of_its_modalities(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    full = model(inputs).logits
    for names in proper_subsets(model.modalities):
        logits = model({m: inputs[m] for m in names}).logits
        assert logits.shape == full.shape
        assert logits.isfinite().all()
        assert not torch.allclose(logits[:2], full[:2])  # the first two examples have content of each modality


@every_model
def test_masked_positions_never_change_the_logits(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    changed = {m: change_masked(x) for m, x in inputs.items()}
    assert any(not torch.equal(changed[m].values, inputs[m].values) for m in inputs)
    close(model(changed).logits, model(inputs).logits)


@every_model
def test_masked_positions_never_change_the_logits_in_training(case: Case) -> None:
    inputs = make_inputs(case)
    given, changed = (train_once(build_model(case), x) for x in (inputs, {m: change_masked(x) for m, x in inputs.items()}))
    torch.testing.assert_close(changed, given, atol=EXACT, rtol=EXACT)


@every_model
def test_hidden_by_dropping_is_hidden_by_mask(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    for names in [*proper_subsets(model.modalities), model.modalities]:
        masked = {m: hidden_at_full_width(x) if m in names else x for m, x in inputs.items()}
        dropped = hide(inputs, names, DropMasker())
        if not dropped:  # no special position is left either, so there is nothing to look at
            continue
        logits = model(masked).logits
        close(model(dropped).logits, logits)
        if names != model.modalities and case.absent_is_hidden:
            close(model({m: x for m, x in inputs.items() if m not in names}).logits, logits)


MASKER_SPECS: dict[str, list[dict[str, Any]]] = {
    "drop": [{"type": "drop"}],
    "constant": [{"type": "constant"}, {"type": "constant", "feature": 0.5, "token": 4}],
    "mean": [{"type": "mean"}],
    "noise": [{"type": "noise"}],
    "other": [{"type": "other"}],
    "by_modality": [{"type": "by_modality", "maskers": {"text": "drop", "image": "constant"}, "otherwise": "drop"}],
}
"""Each masker but `attention`, which leaves [SEP] where it was."""


def test_every_masker_is_asked_whether_it_tells_how_long_the_hidden_was() -> None:
    ours = {name for name in MASKERS.names() if MASKERS.get(name).__module__.startswith("msd_framework.")}
    assert {*MASKER_SPECS, "attention", "partial"} == ours  # `partial` leaves a part of what it hides


def masker_for(case: Case, spec: dict[str, Any]) -> Masker:
    """A masker in eval mode. What stands in for a sound is short, since the tiny encoders look at every sample of it."""
    options = dict(spec)
    if spec["type"] in ("constant", "mean", "noise"):
        each = {m: options | ({"length": 50} if kind == "waveform" else {"length": 2}) for m, kind in case.kinds.items()}
        if spec["type"] == "mean":  # there is no mean of tokens
            each |= {m: {"type": "drop"} for m, kind in case.kinds.items() if kind == "tokens"}
        options = {"type": "by_modality", "maskers": each}
    if spec["type"] == "by_modality":
        options["maskers"] = {m: s for m, s in spec["maskers"].items() if m in case.kinds}
    masker: Masker = MASKERS.build(options, facts=FACTS)
    masker.fit([Batch(make_inputs(case, 5), torch.zeros(4), tuple("abcd"))])
    return masker.eval()


def of_another_length(kind: str, x: ModalityInputs) -> ModalityInputs:
    """Other content, and more or less of it in every example that has any; pixels have no length."""
    generator = torch.Generator().manual_seed(17)
    if kind == "pixels":
        return replace(x, values=torch.randn(x.values.shape, generator=generator, dtype=torch.float64))
    lengths = {"tokens": [9, 4, 4, 8], "features": [2, 7, 0, 1], "waveform": [33, 77, 0, 60]}[kind]
    count = torch.tensor(lengths)[:, None]
    place = torch.arange(int(count.max()))
    mask = place < count
    if kind != "tokens":
        sizes = (*mask.shape, *x.values.shape[2:])
        return ModalityInputs(torch.randn(sizes, generator=generator, dtype=torch.float64), mask)
    special = (place == 0) | (place == count - 1)
    ids = torch.randint(3, 40, mask.shape, generator=generator)
    ids = torch.where(place == 0, 1, torch.where(special, 2, ids))
    return ModalityInputs(ids, mask, {"special": special & mask, "segments": (place >= 3).long().expand(mask.shape)})


every_masker = pytest.mark.parametrize("spec", [s for specs in MASKER_SPECS.values() for s in specs], ids=lambda s: s["type"])


def in_the_first_example(x: ModalityInputs, other: ModalityInputs) -> ModalityInputs:
    """The first example of another batch, and the rest of this one."""
    length = max(x.mask.shape[1], other.mask.shape[1])

    def joined(here: Tensor, there: Tensor) -> Tensor:
        if here.ndim == 4:
            return torch.cat([there[:1], here[1:]])
        wide = here.new_zeros(4, length, *here.shape[2:])
        wide[1:, : here.shape[1]] = here[1:]
        wide[0, : there.shape[1]] = there[0]
        return wide

    extras = {name: joined(e, other.extras[name]) for name, e in x.extras.items()}
    return ModalityInputs(joined(x.values, other.values), joined(x.mask, other.mask), extras)


@every_model
@every_masker
def test_a_hidden_modality_of_another_length_changes_no_logit(case: Case, spec: dict[str, Any]) -> None:
    model, inputs, masker = build_model(case), make_inputs(case), masker_for(case, spec)
    changed = {m: of_another_length(case.kinds[m], x) for m, x in inputs.items()}
    watched = [0, 1, 2, 3]
    if spec["type"] == "other":  # the second example is shown the first one's, which changes
        changed = {m: in_the_first_example(inputs[m], x) for m, x in changed.items()}
        watched = [0, 2, 3]
    for names in [*proper_subsets(model.modalities), model.modalities]:
        said = []
        for given in (inputs, inputs | {m: changed[m] for m in names}):
            batch = Batch(given, torch.zeros(4), tuple("abcd"))
            shown = {m: masker.hide_in(batch, m) if m in names else x for m, x in given.items()}
            said += [model(seen).logits[watched] for seen in [{m: x for m, x in shown.items() if x is not None}] if seen]
        if said:  # nothing is left where all is dropped
            close(*said)


@every_model
def test_attention_tells_how_long_a_hidden_text_was_and_nothing_else(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    for m in model.modalities:
        words = inputs[m].mask & ~inputs[m].special  # of any kind: what is no special token
        as_long = replace(inputs[m], values=change_masked(replace(inputs[m], mask=~words)).values)
        close(*(model(hide(dict(inputs) | {m: x}, (m,), AttentionMasker())).logits for x in (inputs[m], as_long)))
        changed = dict(inputs) | {m: of_another_length(case.kinds[m], inputs[m])}
        one, other = (model(hide(seen, (m,), AttentionMasker())).logits for seen in (inputs, changed))
        if case.kinds[m] != "tokens":
            close(one, other)
        elif case.spec["type"] in ("visual_bert", "vilbert", "mmbt", "unimodal_text"):
            assert (one - other).abs().amax(1)[:2].min() > 1e4 * EXACT  # the first two texts have other lengths


@every_model
def test_modality_dropout_shows_what_drop_shows(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    if len(model.modalities) < 2:
        return
    batch = Batch(inputs, torch.zeros(4), tuple("abcd"))
    torch.manual_seed(3)
    seen = modality_dropout(batch, 1 / len(model.modalities))  # every example loses something
    together = model(seen.inputs).logits
    lost = {m: (inputs[m].present & ~seen.inputs[m].present).tolist() for m in model.modalities}
    assert any(map(any, lost.values()))
    for row in range(4):
        names = tuple(m for m in model.modalities if lost[m][row])
        alone = hide(example(inputs, row), names, DropMasker())
        close(model(alone).logits, together[row : row + 1])


@every_model
def test_eval_is_deterministic(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    first = model(inputs).logits
    torch.manual_seed(123)
    assert torch.equal(model(inputs).logits, first)


@every_model
def test_gradients_reach_every_parameter(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    (model(inputs).logits * torch.arange(1, 4)).square().sum().backward()
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in learned.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("key.bias"):  # attention does not feel a shift of all keys
            assert parameter.grad.abs().sum() > 0, name


@every_model
def test_a_hidden_modality_leaves_no_parameter_without_a_gradient(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    for names in proper_subsets(model.modalities):
        model.zero_grad(set_to_none=True)
        model(hide(inputs, names, AttentionMasker())).logits.sum().backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@every_model
def test_examples_do_not_mix(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    together = model(inputs).logits
    close(torch.cat([model(example(inputs, i)).logits for i in range(4)]), together)


@every_model
def test_forward_views_is_one_forward_a_view(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    views = [inputs, *(hide(inputs, names, DropMasker()) for names in proper_subsets(model.modalities))]
    close(model.forward_views(views).logits, torch.stack([model(view).logits for view in views]))


@every_model
def test_a_model_runs_in_half_precision_under_autocast(case: Case) -> None:
    model = build_model(case).float().train()
    inputs = {m: replace(x, values=x.values.float()) if x.values.is_floating_point() else x for m, x in make_inputs(case).items()}
    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.stack([model(inputs).logits, *(model({m: inputs[m]}).logits for m in model.modalities)])
    logits.float().sum().backward()
    assert logits.isfinite().all()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@every_model
def test_a_state_dict_carries_a_model(case: Case) -> None:
    inputs = make_inputs(case)
    saved, other = build_model(case, seed=0), build_model(case, seed=1)
    assert not torch.allclose(other(inputs).logits, saved(inputs).logits)
    other.load_state_dict(saved.state_dict())
    assert torch.equal(other(inputs).logits, saved(inputs).logits)


@every_model
def test_modalities_of_others_are_ignored(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    stranger = ModalityInputs(torch.randn(4, 9), torch.ones(4, 9, dtype=torch.bool))
    assert torch.equal(model(inputs | {"smell": stranger}).logits, model(inputs).logits)
    with pytest.raises(ValueError, match=f"this model takes {', '.join(model.modalities)} and got smell"):
        model({"smell": stranger})


@every_encoder
def test_an_encoder_gives_tokens_a_mask_and_a_summary(case: Case) -> None:
    encoder, inputs = build_encoder(case), make_inputs(case)["x"]
    encoded = encoder(inputs)
    assert encoded.tokens.shape == (*encoded.mask.shape, encoder.width)
    assert encoded.pooled.shape == (4, encoder.width)
    assert encoded.mask.dtype == torch.bool
    assert torch.equal(encoded.mask.any(1), inputs.mask.any(1))


@every_encoder
def test_masked_positions_never_change_what_an_encoder_gives(case: Case) -> None:
    encoder, inputs = build_encoder(case), make_inputs(case)["x"]
    encoded, changed = encoder(inputs), encoder(change_masked(inputs))
    close(changed.tokens[encoded.mask], encoded.tokens[encoded.mask])
    close(changed.pooled, encoded.pooled)


@every_encoder
def test_masked_positions_never_change_what_an_encoder_gives_in_training(case: Case) -> None:
    x = make_inputs(case)["x"]
    given, changed = (train_once(build_encoder(case), inputs) for inputs in (x, change_masked(x)))
    torch.testing.assert_close(changed, given, atol=EXACT, rtol=EXACT)


@every_encoder
def test_an_encoder_gives_the_same_for_dropped_and_for_masked_words(case: Case) -> None:
    encoder, inputs = build_encoder(case), make_inputs(case)["x"]
    dropped = DropMasker().hide("x", inputs)
    if dropped is None:  # nothing is left to look at
        return
    whole, rest = encoder(hidden_at_full_width(inputs)), encoder(dropped)
    close(rest.pooled, whole.pooled)
    close(rest.tokens[dropped.mask], whole.tokens[:, : dropped.mask.shape[1]][dropped.mask])


@every_encoder
def test_examples_do_not_mix_in_an_encoder(case: Case) -> None:
    encoder, inputs = build_encoder(case), make_inputs(case)
    together = encoder(inputs["x"]).pooled
    close(torch.cat([encoder(example(inputs, i)["x"]).pooled for i in range(4)]), together)


@every_encoder
def test_gradients_reach_every_parameter_of_an_encoder(case: Case) -> None:
    encoder, inputs = build_encoder(case), make_inputs(case)["x"]
    (encoder(inputs).pooled * torch.arange(1, encoder.width + 1)).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []


@every_encoder
def test_a_state_dict_carries_an_encoder(case: Case) -> None:
    inputs = make_inputs(case)["x"]
    saved, other = build_encoder(case, seed=0), build_encoder(case, seed=1)
    other.load_state_dict(saved.state_dict())
    assert torch.equal(other(inputs).pooled, saved(inputs).pooled)
