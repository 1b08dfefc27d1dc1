"""How models of transformers are run: what carries each modality, how it is hidden, where the summary and the states are."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from msd_framework.models.base import refuse_positions
from msd_framework.models.features import FUSED
from msd_framework.models.layers.pooling import masked_mean
from msd_framework.structures import Inputs, ModalityInputs, ModalityKind

WORDS, PIXELS, REGIONS, VISUALS, SOUND = "input_ids", "pixel_values", "visual_feats", "visual_embeds", "input_values"

# arguments that carry a modality: its usual name, and the kind of its values
CARRIERS: Mapping[str, tuple[str, ModalityKind]] = {
    WORDS: ("text", "tokens"),
    PIXELS: ("image", "pixels"),
    REGIONS: ("image", "features"),
    VISUALS: ("image", "features"),
    SOUND: ("audio", "waveform"),
}
# the argument that says which positions of another one are looked at
MASKS = {WORDS: "attention_mask", REGIONS: "visual_attention_mask", VISUALS: "visual_attention_mask"}
SUMMARIES = ("pooler_output", "pooled_output")  # where a model puts its summary

States: TypeAlias = Sequence[Tensor]  # [B, L, D] by layer
Unused: TypeAlias = Sequence[nn.Module | nn.Parameter | None]


@dataclass(frozen=True)
class Encodings:
    """What a model made of its inputs; a part is the argument that carries a modality, or `fused`."""

    summary: Tensor  # float [B, D]
    states: Mapping[str, States] = field(default_factory=dict)  # by part
    masks: Mapping[str, Tensor] = field(default_factory=dict)  # by part, bool [B, L], the positions that hold something of it


class Adapter(ABC):
    """Runs one kind of architecture; what is masked has been replaced by zeros and padding before."""

    takes: tuple[str, ...] = ()  # the arguments that carry a modality, where they are known without loading transformers
    optional: tuple[str, ...] = ()  # those that need not have anything; others get a stand-in that is not looked at
    size = "hidden_size"  # where a configuration has D of the summary

    def carriers(self, arguments: Sequence[str]) -> tuple[str, ...]:
        return self.takes or tuple(name for name in CARRIERS if name in arguments)

    def width(self, config: Any) -> int:
        """D of the summary."""
        return int(attrgetter(self.size)(config))

    def unused(self, model: Any) -> Unused:
        """What has no part in the summary, and so learns nothing."""
        return ()

    @abstractmethod
    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        """The layers whose states it returns, by part."""

    @abstractmethod
    def encode(self, model: Any, inputs: Inputs, states: bool) -> Encodings:
        """The encodings of inputs, by the arguments that carry them, with the states of layers if they are wanted."""


def words(text: ModalityInputs, with_segments: bool = True) -> dict[str, Tensor]:
    arguments = {WORDS: text.values, "attention_mask": text.mask.long()}
    if with_segments and "segments" in text.extras:
        arguments["token_type_ids"] = text.extras["segments"]
    return arguments


def content(text: ModalityInputs) -> Tensor:
    """The words that are no special ones, bool [B, L]."""
    return text.mask & ~text.special


def whole(image: ModalityInputs, length: int) -> Tensor:
    """Whether an image is there, once for each of its positions, bool [B, L]."""
    return image.present[:, None].expand(-1, length)


def all_layers(configs: Mapping[str, Any]) -> dict[str, range]:
    return {part: range(config.num_hidden_layers + 1) for part, config in configs.items()}


@dataclass(frozen=True)
class ByArguments(Adapter):
    """Any architecture, by the names of its arguments; pixels and waveforms that are hidden or left out are zeros."""

    takes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    text_first: bool = False  # words and regions are one sequence in this order, so that states can be told apart
    num_summaries: int = 1  # how many times its hidden size is the summary's
    idle: tuple[str, ...] = ()  # names of its modules that have no part in the summary

    def width(self, config: Any) -> int:
        own = _hidden_size(config)
        if own is None and hasattr(config, "projection_dim"):
            return 2 * int(config.projection_dim)
        parts = [getattr(config, part, None) for part in ("text_config", "multimodal_config")]
        for size in (own, *map(_hidden_size, parts)):
            if size is not None:
                return int(size) * self.num_summaries
        raise ValueError(f"the configuration of {config.model_type} does not tell its hidden_size")

    def unused(self, model: Any) -> Unused:
        return list(map(model.get_submodule, self.idle))

    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        if not (getattr(config, "num_hidden_layers", None) is not None and getattr(config, "hidden_size", None)):
            return {}
        if self.text_first:
            return all_layers(dict.fromkeys([FUSED, *carriers], config))
        return all_layers(dict.fromkeys(carriers, config)) if len(carriers) == 1 else {}

    def encode(self, model: Any, inputs: Inputs, states: bool) -> Encodings:
        takes = inspect.signature(model.forward).parameters
        arguments: dict[str, Any] = {"output_hidden_states": True} if states else {}
        for carrier, x in inputs.items():
            if carrier == WORDS:
                arguments |= words(x, "token_type_ids" in takes)
                continue
            arguments[carrier] = x.values
            if MASKS.get(carrier) in takes:
                arguments[MASKS[carrier]] = x.mask.long()
        output = model(**arguments)
        summary = summary_of(output, inputs)
        if not states:
            return Encodings(summary)
        by_layer = output.hidden_states
        if self.text_first:
            image = (VISUALS, inputs[VISUALS].mask) if VISUALS in inputs else None
            return Encodings(summary, *split(by_layer, inputs[WORDS], image))
        ((carrier, x),) = inputs.items()
        mask = content(x) if carrier == WORDS else whole(x, by_layer[0].shape[1])
        return Encodings(summary, {carrier: by_layer}, {carrier: mask})


def _hidden_size(config: Any) -> Any:
    # convolutional networks have a list of them, one a stage
    return getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]


def split(states: States, text: ModalityInputs, image: tuple[str, Tensor] | None) -> tuple[dict[str, States], dict[str, Tensor]]:
    """States and masks by part, of a sequence of words and then of an image, given as its argument and its mask, bool [B, L]."""
    length = text.mask.shape[1]
    parts = {FUSED: states, WORDS: [x[:, :length] for x in states]}
    masks = {FUSED: text.mask, WORDS: content(text)}
    if image is not None:
        carrier, mask = image
        parts[carrier], masks[carrier] = [x[:, length:] for x in states], mask
        masks[FUSED] = torch.cat([text.mask, mask], 1)
    return parts, masks


def summary_of(output: Any, inputs: Inputs) -> Tensor:
    for name in SUMMARIES:
        if output.get(name) is not None:
            return _flat(output[name])
    if "text_embeds" in output and "image_embeds" in output:
        text, image = inputs[WORDS].present[:, None], inputs[PIXELS].present[:, None]
        return torch.cat([output["text_embeds"] * text, output["image_embeds"] * image], 1)
    if "last_hidden_state" not in output:
        raise ValueError(f"the model tells {', '.join(output)}, and none of {', '.join((*SUMMARIES, 'last_hidden_state'))}")
    tokens: Tensor = output["last_hidden_state"]
    if WORDS in inputs and inputs[WORDS].mask.shape[1] == tokens.shape[1]:
        return masked_mean(tokens, inputs[WORDS].mask)
    return _flat(tokens) if tokens.ndim == 4 else tokens.mean(1)


def _flat(pooled: Tensor) -> Tensor:
    """A summary [B, D] of one that may still have a height and a width, [B, D, H, W]."""
    return pooled.mean((2, 3)) if pooled.ndim == 4 else pooled


class Vilt(Adapter):
    """ViLT: words and patches, all of them and in order, in one sequence; an image is hidden by masking its patches."""

    takes = (WORDS, PIXELS)

    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        return all_layers(dict.fromkeys((FUSED, *carriers), config))

    def encode(self, model: Any, inputs: Inputs, states: bool) -> Encodings:
        text, image = inputs[WORDS], inputs[PIXELS]
        patches = self._patches(model.embeddings, image.values)  # [B, L, D]
        mask = whole(image, patches.shape[1])
        output = model(image_embeds=patches, pixel_mask=mask.long(), output_hidden_states=states, **words(text))
        return Encodings(output.pooler_output, *split(output.hidden_states or (), text, (PIXELS, mask)))

    def _patches(self, embeddings: Any, pixels: Tensor) -> Tensor:
        """Pixels to [CLS] of the image and its patches, at places that are stretched to the image."""
        projected = embeddings.patch_embeddings(pixels)  # [B, D, H, W]
        first, grid = embeddings.position_embeddings.split([1, embeddings.position_embeddings.shape[1] - 1], 1)
        side = embeddings.config.image_size // embeddings.config.patch_size
        grid = grid.transpose(1, 2).unflatten(2, (side, side))  # [1, D, side, side]
        places = nn.functional.interpolate(grid, projected.shape[2:], mode="bilinear", align_corners=True)
        patches = (projected + places).flatten(2).transpose(1, 2)  # [B, H W, D]
        marks = (embeddings.cls_token + first).expand(len(pixels), -1, -1).to(patches.dtype)
        return cast(Tensor, embeddings.dropout(torch.cat([marks, patches], 1)))


class Lxmert(Adapter):
    """LXMERT: a stream each of words and of regions, joined by cross-attention; without boxes, each region is the whole image."""

    takes = (WORDS, REGIONS)

    def unused(self, model: Any) -> Unused:
        last = model.encoder.x_layers[-1]  # the summary is of the words
        return last.visn_self_att, last.visn_inter, last.visn_output

    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        joined = config.x_layers + 1
        return {WORDS: range(1, config.l_layers + joined), REGIONS: range(1, config.r_layers + joined)}

    def encode(self, model: Any, inputs: Inputs, states: bool) -> Encodings:
        text, image = inputs[WORDS], inputs[REGIONS]
        everything = image.values.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(*image.mask.shape, -1)
        boxes = image.extras.get("boxes", everything)[..., :4].to(image.values.dtype) * image.mask[..., None]
        regions = {"visual_feats": image.values, "visual_pos": boxes, "visual_attention_mask": image.mask.long()}
        output = model(**words(text), **regions, output_hidden_states=states)
        # there is no layer 0 among the states, so the first of them stands in its place
        of_words, of_regions = output.language_hidden_states or (), output.vision_hidden_states or ()
        by_part = {WORDS: of_words[:1] + of_words, REGIONS: of_regions[:1] + of_regions}
        return Encodings(output.pooled_output, by_part, {WORDS: content(text), REGIONS: image.mask})


class Flava(Adapter):
    """FLAVA: an encoder each, and one of both whose first state is the summary; what is hidden or left out is masked there."""

    takes = optional = (WORDS, PIXELS)
    size = "multimodal_config.hidden_size"

    def unused(self, model: Any) -> Unused:
        text, image = model.text_model, model.image_model
        heads = [text.pooler, text.layernorm, image.pooler, image.layernorm, model.multimodal_model.pooler]
        return [*heads, model.image_projection, model.text_projection, model.logit_scale, image.embeddings.mask_token]

    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        return all_layers({WORDS: config.text_config, PIXELS: config.image_config, FUSED: config.multimodal_config})

    def encode(self, model: Any, inputs: Inputs, states: bool) -> Encodings:
        parts: dict[str, States] = {}
        masks: dict[str, Tensor] = {}
        tokens, seen = [], []
        if PIXELS in inputs:
            image = inputs[PIXELS]
            output = model.image_model(image.values, output_hidden_states=True)
            parts[PIXELS], masks[PIXELS] = output.hidden_states, whole(image, output.hidden_states[0].shape[1])
            tokens.append(model.image_to_mm_projection(output.hidden_states[-1]))
            seen.append(masks[PIXELS])
        if WORDS in inputs:
            text = inputs[WORDS]
            output = model.text_model(**words(text), output_hidden_states=True)
            parts[WORDS], masks[WORDS] = output.hidden_states, content(text)
            tokens.append(model.text_to_mm_projection(output.hidden_states[-1]))
            seen.append(text.mask)
        mask = torch.cat([torch.ones_like(seen[0][:, :1]), *seen], 1)  # with [CLS], which the model puts before
        joined = torch.cat(tokens, 1)
        output = model.multimodal_model(joined, attention_mask=mask.to(joined.dtype), output_hidden_states=states)
        if states:
            parts[FUSED], masks[FUSED] = output.hidden_states, mask
        return Encodings(output.last_hidden_state[:, 0], parts, masks)


@dataclass(frozen=True)
class TwoTowers(Adapter):
    """CLIP and SigLIP: an embedding each of text and image, side by side; zeros for what is hidden or left out."""

    # whether the text's encoder looks at the padding, up to its longest text, as SigLIP's was trained to
    all_words: bool = False
    # without annotations, which would make fields of them
    takes = optional = (WORDS, PIXELS)

    def width(self, config: Any) -> int:
        return sum(self._widths(config).values())

    def _widths(self, config: Any) -> dict[str, int]:
        if not self.all_words:
            return {WORDS: int(config.projection_dim), PIXELS: int(config.projection_dim)}
        text = getattr(config.text_config, "projection_size", None) or config.text_config.hidden_size
        return {WORDS: int(text), PIXELS: int(config.vision_config.hidden_size)}

    def unused(self, model: Any) -> Unused:
        return model.logit_scale, getattr(model, "logit_bias", None)

    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        return all_layers({WORDS: config.text_config, PIXELS: config.vision_config})

    def encode(self, model: Any, inputs: Inputs, states: bool) -> Encodings:
        like = next(iter(inputs.values())).mask
        parts: dict[str, States] = {}
        masks: dict[str, Tensor] = {}
        embedded: list[Tensor] = []
        for carrier, width in self._widths(model.config).items():
            if carrier not in inputs:
                embedded.append(torch.zeros(len(like), width, device=like.device, dtype=model.dtype))
                continue
            x = inputs[carrier]
            if carrier == WORDS:
                output, projection = self._text(model, x, states), getattr(model, "text_projection", None)
                pooled = output.pooler_output if self.all_words else _last(output.last_hidden_state, x.mask)
            else:
                output = model.vision_model(x.values, output_hidden_states=states)
                pooled, projection = output.pooler_output, getattr(model, "visual_projection", None)
            embedded.append((pooled if projection is None else projection(pooled)) * x.present[:, None])
            if states:
                parts[carrier] = output.hidden_states
                length = parts[carrier][0].shape[1]
                masks[carrier] = _longer(content(x), length) if carrier == WORDS else whole(x, length)
        return Encodings(torch.cat(embedded, 1), parts, masks)

    def _text(self, model: Any, text: ModalityInputs, states: bool) -> Any:
        if not self.all_words:
            return model.text_model(input_ids=text.values, attention_mask=text.mask.long(), output_hidden_states=states)
        sizes = model.config.text_config
        length, pad = sizes.max_position_embeddings, 1 if sizes.pad_token_id is None else sizes.pad_token_id
        ids = _longer(text.values.masked_fill(~text.mask, pad), length, pad)
        return model.text_model(input_ids=ids, output_hidden_states=states)


def _last(tokens: Tensor, mask: Tensor) -> Tensor:
    """The last word's state [B, D] of those of all words [B, L, D]; it is the end of the text, whatever its id."""
    place = torch.where(mask, torch.arange(mask.shape[1], device=mask.device), 0).amax(1)  # [B]
    return tokens.take_along_dim(place[:, None, None], 1)[:, 0]


def _longer(x: Tensor, length: int, fill: int = 0) -> Tensor:
    return nn.functional.pad(x, (0, max(0, length - x.shape[1])), value=fill)


# architectures that need more than the names of their arguments, or whose arguments are known
ADAPTERS: Mapping[str, Adapter] = {
    "bert": ByArguments((WORDS,)),
    "bridgetower": ByArguments((WORDS, PIXELS), num_summaries=2, idle=("text_model.pooler",)),
    "clip": TwoTowers(),
    "flava": Flava(),
    "lxmert": Lxmert(),
    "resnet": ByArguments((PIXELS,)),
    "siglip": TwoTowers(all_words=True),
    "vilt": Vilt(),
    "visual_bert": ByArguments((WORDS, VISUALS), optional=(VISUALS,), text_first=True),
    "vit": ByArguments((PIXELS,)),
}


def adapter_of(kind: str) -> Adapter:
    """How an architecture is run; one that is not known here, by the names of its arguments."""
    return ADAPTERS.get(kind, ByArguments())


def blanked(x: ModalityInputs, pad_id: int) -> ModalityInputs:
    """An input with zeros, or the id of [PAD] and segment 0, wherever nothing is to be seen."""
    refuse_positions(x)
    fill = 0 if x.values.is_floating_point() else pad_id
    shown = x.mask.view(x.mask.shape + (1,) * (x.values.ndim - x.mask.ndim))
    extras = dict(x.extras)
    if "segments" in extras:
        extras["segments"] = extras["segments"].masked_fill(~x.mask, 0)
    return replace(x, values=torch.where(shown, x.values, x.values.new_full((), fill)), extras=extras)
