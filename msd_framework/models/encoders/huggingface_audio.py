"""Sound encoders of transformers: Wav2Vec2, HuBERT and their kind, the Audio Spectrogram Transformer, and Whisper's encoder."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from msd_framework.errors import did_you_mean
from msd_framework.models.base import ENCODERS, Encoded, LayeredEncoder
from msd_framework.models.encoders.sound_features import KaldiMel, RawSamples, SoundFeatures, WhisperMel
from msd_framework.models.features import KINDS, Features, Span, cut, layer_features, of_layers
from msd_framework.models.layers.pooling import masked_mean, visible
from msd_framework.models.pretrained.transformers import load_published, model_type, start_at_random, written_config
from msd_framework.ranges import positive
from msd_framework.structures import FeatureKind, ModalityInputs


@ENCODERS.register("huggingface_audio")
class HuggingFaceAudio(LayeredEncoder):
    """A sound encoder of transformers, from the waveform on: what its feature extractor does is done here, on the device.

    Each sound gives what transformers makes of that sound alone, however long the others of its batch are.

    - Wav2Vec2, HuBERT, WavLM, UniSpeech, UniSpeech-SAT: a token for each step of their convolutions; the summary is their mean.
    - Audio Spectrogram Transformer: [CLS], the distillation token and the patches of its fixed length; the summary is its pooler's.
    - Whisper's encoder: a token for each position of its 30 seconds; the summary is the mean of those with sound.

    In training, whole layers are not skipped (`layerdrop`) and spans of time are not masked (SpecAugment): both draw numbers on the
    CPU and leave parameters without gradients.

    Args:
        sample_rate: samples a second.
        name: a folder or a name on the Hugging Face hub.
        config: what its config.json would say, `model_type` included, to start from random weights instead.
        extractor: what its preprocessor_config.json would say, such as `{do_normalize: false}`; goes before that of a `name`.
    """

    kinds = frozenset({"waveform"})
    reads = frozenset({"name"})

    def __init__(
        self,
        sample_rate: int,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        extractor: dict[str, Any] | None = None,
        freeze: bool = False,
    ):
        super().__init__()
        positive(sample_rate=sample_rate)
        kind = model_type(name, config)
        if kind not in ARCHITECTURES:
            raise ValueError(f"{name or 'config'} is a model of type {kind}; sound encoders are {', '.join(ARCHITECTURES)}")
        self.architecture = ARCHITECTURES[kind]
        if name is not None:
            model = load_published(name, encoder_only=True, attn_implementation="eager")
        else:
            model = start_at_random(config or {}, {}, encoder_only=True)
        sizes = {"sampling_rate": sample_rate}
        sizes |= {option: getattr(model.config, key) for option, key in self.architecture.sizes.items()}
        prepares = _extractor(model.config, name, extractor or {}, {} if name else sizes)
        if prepares.sampling_rate != sample_rate:
            rates = f"{prepares.sampling_rate} samples a second, and the sounds have {sample_rate}"
            hint = "convert the files, and set the processor's sample_rate"
            raise ValueError(f"{name or 'the model'} is for {rates}; {hint}")
        options = _options(type(prepares))
        self.settings = json.loads(json.dumps({key: value for key, value in prepares.to_dict().items() if key in options}))
        self.published = model.config
        self.front = self.architecture.front(model.config, prepares, sample_rate)
        self.model = self.architecture.encoder(model)
        self.width = int(model.config.hidden_size)
        if freeze:
            self.requires_grad_(False)

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**options, "name": None, "config": written_config(self.model), "extractor": self.settings}

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        return super().feature_kinds | layer_features("", self.published.num_hidden_layers, ("hidden", "mean"))

    def forward_features(self, inputs: ModalityInputs, wanted: Collection[str]) -> tuple[Encoded, Features]:
        samples, is_sound = self._cut(inputs)
        with torch.autocast(samples.device.type, enabled=False):
            read = self.front(samples, is_sound)
        layered = of_layers(wanted)
        output, mask = self.architecture.encode(self.model, read, is_sound, bool(layered))
        mask = mask & inputs.mask.any(1, keepdim=True)  # [B, L]; a sound that is masked as a whole has no position
        tokens, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
        encoded = Encoded(tokens, mask, masked_mean(tokens, mask) if pooled is None else pooled)
        features, span = encoded.features(wanted), Span(mask)
        for name, (_, layer, what) in layered.items():
            features[name] = cut(KINDS[what], output.hidden_states[layer], span)
        return encoded, features

    def _cut(self, inputs: ModalityInputs) -> tuple[Tensor, Tensor]:
        """Samples [B, T] at a length that the architecture takes, and which of them are of a sound, bool [B, T]."""
        samples = visible(inputs.values, inputs.mask)[:, : self.front.most]  # [B, T]
        samples = samples.to(torch.promote_types(next(self.model.parameters()).dtype, torch.float32))
        samples = nn.functional.pad(samples, (0, max(0, self.front.least - samples.shape[1])))
        last = (inputs.mask * torch.arange(1, inputs.mask.shape[1] + 1, device=samples.device)).amax(1)  # [B]
        return samples, torch.arange(samples.shape[1], device=samples.device) < last.clamp(min=self.front.fewest)[:, None]


class Architecture(ABC):
    """How one kind of architecture is run."""

    sizes: Mapping[str, str] = {}  # options of the feature extractor that are sizes of the model's, and what those are called

    @abstractmethod
    def front(self, config: Any, extractor: Any, sample_rate: int) -> SoundFeatures:
        """What makes of a sound what the architecture reads."""

    @abstractmethod
    def encode(self, model: Any, read: Tensor, is_sound: Tensor, states: bool) -> tuple[Any, Tensor]:
        """Its output for what `front` made of sounds, whose samples are `is_sound` [B, T], and which positions are, bool [B, L]."""

    def encoder(self, model: Any) -> Any:
        """The part that is a sound encoder, made ready to be trained."""
        return model


class Convolved(Architecture):
    """Wav2Vec2 and those that followed it: convolutions over samples, then a transformer."""

    def front(self, config: Any, extractor: Any, sample_rate: int) -> SoundFeatures:
        return RawSamples(config.conv_kernel, config.conv_stride, bool(extractor.do_normalize))

    def encoder(self, model: Any) -> Any:
        config = model.config
        for unknown in ("add_adapter", "conv_pos_batch_norm"):
            if getattr(config, unknown, False):
                raise ValueError(f"{unknown} is not known here: with it, what a sound is padded with changes what is made of it")
        config.apply_spec_augment, config.layerdrop = False, 0.0
        if getattr(model, "masked_spec_embed", None) is not None:
            model.masked_spec_embed.requires_grad_(False)  # what SpecAugment puts in the place of sound
        return model

    def encode(self, model: Any, read: Tensor, is_sound: Tensor, states: bool) -> tuple[Any, Tensor]:
        lengths = is_sound.sum(1)
        with _own_statistics(model, lengths):
            output = model(read, attention_mask=is_sound.long(), output_hidden_states=states)
        return output, _first(output.last_hidden_state, model._get_feat_extract_output_lengths(lengths))


class Spectrogram(Architecture):
    """The Audio Spectrogram Transformer: patches of a spectrogram of fixed length, as of an image."""

    sizes: Mapping[str, str] = {"num_mel_bins": "num_mel_bins", "max_length": "max_length"}

    def front(self, config: Any, extractor: Any, sample_rate: int) -> SoundFeatures:
        sizes = sample_rate, config.num_mel_bins, config.max_length
        return KaldiMel(*sizes, extractor.mean, extractor.std, bool(extractor.do_normalize))

    def encode(self, model: Any, read: Tensor, is_sound: Tensor, states: bool) -> tuple[Any, Tensor]:
        output = model(read, output_hidden_states=states)
        return output, torch.ones_like(output.last_hidden_state[..., 0], dtype=torch.bool)


class Whisper(Architecture):
    """Whisper's encoder: two convolutions and a transformer over a spectrogram of fixed length."""

    sizes: Mapping[str, str] = {"feature_size": "num_mel_bins"}

    def front(self, config: Any, extractor: Any, sample_rate: int) -> SoundFeatures:
        filters = torch.as_tensor(extractor.mel_filters, dtype=torch.float32)
        return WhisperMel(filters, extractor.n_fft, extractor.hop_length, 2 * config.max_source_positions)

    def encoder(self, model: Any) -> Any:
        model.config.encoder_layerdrop = 0.0
        return model.get_encoder()

    def encode(self, model: Any, read: Tensor, is_sound: Tensor, states: bool) -> tuple[Any, Tensor]:
        output = model(read, output_hidden_states=states)
        samples_per_position = is_sound.shape[1] // output.last_hidden_state.shape[1]
        return output, _first(output.last_hidden_state, -(-is_sound.sum(1) // samples_per_position))


ARCHITECTURES: Mapping[str, Architecture] = {
    **dict.fromkeys(("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"), Convolved()),
    "audio-spectrogram-transformer": Spectrogram(),
    "whisper": Whisper(),
}


def _first(tokens: Tensor, count: Tensor) -> Tensor:
    """The first positions of tokens [B, L, D], as many as an example has [B]: bool [B, L]."""
    return torch.arange(tokens.shape[1], device=tokens.device) < count[:, None]


@contextmanager
def _own_statistics(model: Any, lengths: Tensor) -> Iterator[None]:
    """While this lasts, a group norm over time takes each sound's statistics from its own positions, and none from the padding."""
    layer = model.feature_extractor.conv_layers[0]
    norm = getattr(layer, "layer_norm", None)
    if not isinstance(norm, nn.GroupNorm):
        yield
        return
    count = (lengths - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1  # [B]
    handle = norm.register_forward_hook(lambda _, inputs, output: _group_norm(norm, inputs[0], count))
    try:
        yield
    finally:
        handle.remove()


def _group_norm(norm: nn.GroupNorm, x: Tensor, count: Tensor) -> Tensor:
    """The group norm of channels [B, C, L], a group each, over the first positions of each row."""
    own = (torch.arange(x.shape[2], device=x.device) < count[:, None])[:, None]  # [B, 1, L]
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    of = count[:, None, None].to(x.dtype)
    centred = torch.where(own, x - torch.where(own, x, 0.0).sum(2, keepdim=True) / of, 0.0)
    scaled = centred * (centred.square().sum(2, keepdim=True) / of + norm.eps).rsqrt()
    return scaled * norm.weight[:, None] + norm.bias[:, None]


def _extractor(config: Any, name: str | None, given: Mapping[str, Any], sizes: Mapping[str, Any]) -> Any:
    from transformers import FEATURE_EXTRACTOR_MAPPING

    kind = FEATURE_EXTRACTOR_MAPPING[type(config)]
    published: dict[str, Any] = {}
    if name is not None:
        try:
            published = kind.get_feature_extractor_dict(name)[0]
        except OSError as error:
            if not given:
                hint = "say so in `extractor`, such as {sampling_rate: 16000}"
                why = f"{name} has no preprocessor_config.json, which tells how sounds are prepared for it"
                raise ValueError(f"{why}; {hint}") from error
    known = _options(kind)
    for option in given:
        if option not in known:
            hint = did_you_mean(option, known)
            raise ValueError(f"extractor.{option}: {kind.__name__} has no such option.{hint} It takes: {', '.join(known)}")
    options = {**sizes, **published, **given}
    return kind(**{option: value for option, value in options.items() if option in known})


def _options(kind: type[Any]) -> list[str]:
    return [option for option in inspect.signature(kind.__init__).parameters if option not in ("self", "kwargs")]
