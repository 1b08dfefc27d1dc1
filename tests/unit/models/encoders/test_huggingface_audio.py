"""Sound encoders of transformers, against transformers asked by hand, one sound at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from msd_framework.models.encoders.huggingface_audio import ARCHITECTURES, HuggingFaceAudio
from msd_framework.models.encoders.sound_features import kaldi_filters
from msd_framework.registry import ENCODERS
from msd_framework.structures import ModalityInputs

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # of WavLM in transformers

LENGTHS = (3000, 1700, 900)
RATE = 16000
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
WAVE = SIZES | {
    "conv_dim": [8, 12],
    "conv_kernel": [10, 8],
    "conv_stride": [5, 4],
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 2,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
WHISPER = {
    "model_type": "whisper",
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 8,
    "vocab_size": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "num_mel_bins": 20,
    "max_source_positions": 50,
}
SPECTROGRAM = SIZES | {
    "model_type": "audio-spectrogram-transformer",
    "num_mel_bins": 16,
    "max_length": 24,
    "patch_size": 8,
    "frequency_stride": 4,
    "time_stride": 4,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "wav2vec2": WAVE | {"model_type": "wav2vec2"},
    "wav2vec2 with layer norms": WAVE | LAYER_NORM | {"model_type": "wav2vec2"},
    "hubert": WAVE | {"model_type": "hubert"},
    "wavlm": WAVE | {"model_type": "wavlm"},
    "unispeech": WAVE | LAYER_NORM | {"model_type": "unispeech"},
    "unispeech-sat": WAVE | {"model_type": "unispeech-sat"},
    "spectrogram": SPECTROGRAM,
    "whisper": WHISPER,
}
CONVOLVED = [name for name in CONFIGS if name not in ("spectrogram", "whisper")]


def sounds(lengths: tuple[int, ...] = LENGTHS, longest: int | None = None) -> ModalityInputs:
    values = 0.3 * torch.randn(len(lengths), longest or max(lengths), generator=torch.Generator().manual_seed(0)) + 0.1
    return ModalityInputs(values, torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each model as transformers writes it, with its feature extractor."""
    from transformers import FEATURE_EXTRACTOR_MAPPING, AutoConfig, AutoModel

    root = tmp_path_factory.mktemp("sounds")
    extractors: dict[str, dict[str, Any]] = {
        "spectrogram": {"num_mel_bins": 16, "max_length": 24, "mean": -3.0, "std": 4.0},
        "whisper": {"feature_size": 20, "chunk_length": 1},
        "hubert": {"do_normalize": False},
    }
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.for_model(**config))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(root / name)
        FEATURE_EXTRACTOR_MAPPING[type(model.config)](**extractors.get(name, {})).save_pretrained(root / name)
    return root


def by_hand(folder: Path, samples: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
    """What transformers makes of one sound: tokens [L, D], and a summary [D]."""
    from transformers import AutoFeatureExtractor, AutoModel

    model, extractor = AutoModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)
    read = extractor(samples, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        if model.config.model_type == "whisper":
            tokens = model.get_encoder()(read["input_features"]).last_hidden_state[0]
            return tokens, tokens[: -(-len(samples) // 320)].mean(0)
        output = model(read["input_values"])
    if model.config.model_type == "audio-spectrogram-transformer":
        return output.last_hidden_state[0], output.pooler_output[0]
    return output.last_hidden_state[0], output.last_hidden_state[0].mean(0)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_sound_of_a_batch_gives_what_transformers_makes_of_it_alone(name: str, folders: Path) -> None:
    inputs = sounds()
    encoded = HuggingFaceAudio(RATE, name=str(folders / name)).eval()(inputs)
    for i, length in enumerate(LENGTHS):
        tokens, pooled = by_hand(folders / name, inputs.values[i, :length].numpy())
        counted = encoded.mask[i].sum() if name == "whisper" else len(tokens)
        assert encoded.mask[i].sum() == counted
        given = encoded.tokens[i][: len(tokens)]
        torch.testing.assert_close(given, tokens, atol=2e-4, rtol=1e-4)  # float32; their spectrum is complex64 of numpy's
        torch.testing.assert_close(encoded.pooled[i], pooled, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    encoder = HuggingFaceAudio(RATE, config=CONFIGS[name]).double().eval()
    short, long = sounds(), sounds(longest=3000 + 777)
    values = torch.cat([short.values, 9 * torch.ones(3, 777)], 1).double()
    found, wanted = encoder(replace(long, values=values)), encoder(replace(short, values=short.values.double()))
    torch.testing.assert_close(found.pooled, wanted.pooled, atol=1e-12, rtol=1e-12)  # float64: sums in another order
    torch.testing.assert_close(found.tokens[found.mask], wanted.tokens[wanted.mask], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_encoder_is_rebuilt_without_the_folder_that_it_came_from(name: str, folders: Path) -> None:
    first = HuggingFaceAudio(RATE, name=str(folders / name)).eval()
    spec = first.rebuild_spec({"type": "huggingface_audio", "name": str(folders / name)})
    assert spec["name"] is None
    again = ENCODERS.build(spec, facts={"sample_rate": RATE}).eval()
    again.load_state_dict(first.state_dict())
    assert torch.equal(again(sounds()).pooled, first(sounds()).pooled)


@pytest.mark.parametrize("name", ["wav2vec2", "spectrogram", "whisper"])
def test_its_layers_are_told(name: str, folders: Path) -> None:
    encoder = HuggingFaceAudio(RATE, name=str(folders / name)).eval()
    wanted = ["0.hidden", "2.mean", "last.hidden", "pooled"]
    assert set(wanted) <= set(encoder.feature_kinds)
    encoded, features = encoder.forward_features(sounds(), wanted)
    assert features["0.hidden"].values.shape == encoded.tokens.shape
    assert features["2.mean"].values.shape == (3, 16)
    assert torch.equal(features["pooled"].values, encoded.pooled)
    if name == "wav2vec2":
        torch.testing.assert_close(features["2.mean"].values, encoded.pooled)


@pytest.mark.parametrize("name", CONFIGS)
def test_sounds_too_short_and_none_at_all_are_taken(name: str) -> None:
    encoder = HuggingFaceAudio(RATE, config=CONFIGS[name]).eval()
    encoded = encoder(sounds((5, 0), 5))
    assert encoded.mask.any(1).tolist() == [True, False]
    assert encoded.pooled.isfinite().all()


@pytest.mark.parametrize("name", ["spectrogram", "whisper"])
def test_what_is_longer_than_a_model_takes_is_cut_off(name: str) -> None:
    encoder = HuggingFaceAudio(RATE, config=CONFIGS[name]).eval()
    most = encoder.front.most
    assert most is not None
    long = sounds((most + 500,))
    cut = ModalityInputs(long.values[:, :most], long.mask[:, :most])
    assert torch.equal(encoder(long).pooled, encoder(cut).pooled)


@pytest.mark.parametrize("name", CONVOLVED)
def test_nothing_is_drawn_on_the_cpu_in_training(name: str) -> None:
    encoder = HuggingFaceAudio(RATE, config=CONFIGS[name] | {"mask_time_prob": 0.5, "layerdrop": 0.9}).train()
    state = np.random.get_state()[1].copy()  # type: ignore[index]
    encoder(sounds()).pooled.sum().backward()
    assert np.array_equal(np.random.get_state()[1], state)  # type: ignore[index]
    assert [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("rate", [16000, 8000])
def test_kaldis_filters_are_those_of_transformers(rate: int) -> None:
    from transformers import ASTFeatureExtractor

    theirs = ASTFeatureExtractor(num_mel_bins=20, sampling_rate=rate)
    if not hasattr(theirs, "mel_filters"):
        pytest.skip("torchaudio is installed, which transformers then asks instead")
    np.testing.assert_allclose(kaldi_filters(rate, 512, 20).numpy(), theirs.mel_filters, atol=1e-6)  # float32


def test_a_pickle_is_not_read(folders: Path, tmp_path: Path) -> None:
    import shutil

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path(tmp_path / "was_run").touch, ())  # type: ignore[return-value]

    shutil.copytree(folders / "wav2vec2", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"feature_projection.projection.bias": Evil()}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights"):
        HuggingFaceAudio(RATE, name=str(tmp_path / "model"))
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "give either name or config, got name None and config None"),
        ({"config": {"model_type": "bert"}}, "config is a model of type bert; sound encoders are wav2vec2, hubert"),
        ({"config": CONFIGS["wav2vec2"] | {"add_adapter": True}}, "add_adapter is not known here"),
        (
            {"config": CONFIGS["hubert"], "extractor": {"sampling_rate": 8000}},
            "is for 8000 samples a second, and the sounds have 16000",
        ),
        (
            {"config": SPECTROGRAM, "extractor": {"men": 1}},
            "extractor.men: ASTFeatureExtractor has no such option. Did you mean 'mean'",
        ),
        ({"config": WHISPER, "sample_rate": 0}, "sample_rate must be above 0"),
    ],
)
def test_a_mistake_is_a_sentence(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        HuggingFaceAudio(**{"sample_rate": RATE} | options)


def test_a_folder_that_does_not_say_how_sounds_are_prepared_is_refused(folders: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folders / "hubert", tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no preprocessor_config.json, .* say so in `extractor`"):
        HuggingFaceAudio(RATE, name=str(tmp_path / "model"))
    encoder = HuggingFaceAudio(RATE, name=str(tmp_path / "model"), extractor={"do_normalize": False}).eval()
    whole = HuggingFaceAudio(RATE, name=str(folders / "hubert")).eval()
    assert torch.equal(encoder(sounds()).pooled, whole(sounds()).pooled)


def test_the_rate_of_a_published_model_is_asked_for(folders: Path) -> None:
    with pytest.raises(ValueError, match=r"wav2vec2 is for 16000 samples a second, and the sounds have 8000; convert the files"):
        HuggingFaceAudio(8000, name=str(folders / "wav2vec2"))


def test_every_kind_is_compared() -> None:
    assert {config["model_type"] for config in CONFIGS.values()} == set(ARCHITECTURES)
