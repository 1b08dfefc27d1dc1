"""How models of transformers are asked: what carries each modality, how it is hidden, where the summary and the states are."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from msd_framework.models.base import refuse_positions
from msd_framework.models.features import FUSED
from msd_framework.models.layers.pooling import masked_mean
from msd_framework.structures import Inputs, ModalityInputs, ModalityKind

WORDS, PIXELS, REGIONS, VISUALS, SOUND = "input_ids", "pixel_values", "visual_feats", "visual_embeds", "input_values"

CARRIERS: Mapping[str, tuple[str, ModalityKind]] = {
    WORDS: ("text", "tokens"),
    PIXELS: ("image", "pixels"),
    REGIONS: ("image", "features"),
    VISUALS: ("image", "features"),
    SOUND: ("audio", "waveform"),
}
"""Arguments that carry a modality: its usual name, and the kind of its values."""

MASKS = {WORDS: "attention_mask", REGIONS: "visual_attention_mask", VISUALS: "visual_attention_mask"}
"""The argument that says which positions of another one are looked at."""

SUMMARIES = ("pooler_output", "pooled_output")
"""Where a model puts the summary of what it saw."""


@dataclass(frozen=True)
class Seen:
    """What a model of transformers made of its inputs.

    Args:
        summary: float [B, D].
        states: float [B, L, D] by layer, by part: the argument that carries a modality, or `fused`.
        masks: bool [B, L] by part, the positions that hold something of it.
    """

    summary: Tensor
    states: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)


class Adapter(ABC):
    """Asks one kind of architecture. Inputs stand under the names of the arguments that carry them.

    What is masked has been replaced by zeros and padding before.

    Attributes:
        takes: the arguments of its forward that carry a modality, where they are known without asking transformers; else none.
        optional: those of them that need not have anything; all others get a stand-in of which nothing is looked at.
    """

    takes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def carriers(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """Those of the arguments of its forward that carry a modality."""
        return self.takes or tuple(name for name in CARRIERS if name in arguments)

    @abstractmethod
    def width(self, config: Any) -> int:
        """D of the summary."""

    def unused(self, model: Any) -> Sequence[nn.Module | nn.Parameter | None]:
        """What has no part in the summary, and so learns nothing."""
        return ()

    @abstractmethod
    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        """The layers whose states it tells, by part."""

    @abstractmethod
    def see(self, model: Any, inputs: Inputs, states: bool) -> Seen:
        """What a model makes of inputs, with the states of its layers if they are asked for."""


def words(text: ModalityInputs, takes: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The arguments of a text, of those that a model takes."""
    found = {WORDS: text.values, "attention_mask": text.mask.long()}
    if "segments" in text.extras and (takes is None or "token_type_ids" in takes):
        found["token_type_ids"] = text.extras["segments"]
    return found


def content(text: ModalityInputs) -> Tensor:
    """The words that are no special ones, bool [B, L]."""
    return text.mask & ~text.special


def whole(image: ModalityInputs, length: int) -> Tensor:
    """Whether an image is there, once for each of its positions, bool [B, L]."""
    return image.present[:, None].expand(-1, length)


def numbered(states: Sequence[Tensor], first: int = 0) -> dict[int, Tensor]:
    return dict(enumerate(states, first))


@dataclass(frozen=True)
class ByArguments(Adapter):
    """Any architecture, asked by the names of its arguments: words, pixels, regions or a waveform.

    Words and regions are masked where there is an argument for it. Pixels and waveforms that are hidden are zeros, and so are
    those that are left out. The summary is the pooler's; without one, the mean of the last states; of a model that tells an
    embedding each of text and image, both, with zeros for what is hidden.

    Args:
        takes: the arguments that carry a modality, where they are known without asking transformers.
        optional: those of them that need not have anything.
        text_first: whether words and regions are one sequence in this order, so that states can be told apart.
        num_summaries: how many times its hidden size is the summary's.
        idle: names of its modules that have no part in the summary.
    """

    takes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    text_first: bool = False
    num_summaries: int = 1
    idle: tuple[str, ...] = ()

    def width(self, config: Any) -> int:
        own = [config, *(c for p in ("text_config", "multimodal_config") if (c := getattr(config, p, None)) is not None)]
        sizes = [getattr(c, "hidden_size", None) or (getattr(c, "hidden_sizes", None) or [None])[-1] for c in own]
        if hasattr(config, "projection_dim") and sizes[0] is None:
            return 2 * int(config.projection_dim)
        found = next((size for size in sizes if size is not None), None)
        if found is None:
            raise ValueError(f"the configuration of {config.model_type} does not tell its hidden_size")
        return int(found) * self.num_summaries

    def unused(self, model: Any) -> Sequence[nn.Module | nn.Parameter | None]:
        return [model.get_submodule(name) for name in self.idle]

    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        parts = [FUSED, *carriers] if self.text_first else carriers if len(carriers) == 1 else []
        count = getattr(config, "num_hidden_layers", None) if getattr(config, "hidden_size", None) else None
        return {} if count is None else {part: range(count + 1) for part in parts}

    def see(self, model: Any, inputs: Inputs, states: bool) -> Seen:
        takes = inspect.signature(model.forward).parameters
        arguments: dict[str, Any] = {}
        for carrier, x in inputs.items():
            if carrier == WORDS:
                arguments |= words(x, list(takes))
            else:
                arguments[carrier] = x.values
                arguments |= {MASKS[carrier]: x.mask.long()} if MASKS.get(carrier) in takes else {}
        if states:
            arguments["output_hidden_states"] = True
        output = model(**arguments)
        summary = summary_of(output, inputs)
        if not states:
            return Seen(summary)
        return Seen(summary, *self._told(numbered(output.hidden_states), inputs))

    def _told(self, states: dict[int, Tensor], inputs: Inputs) -> tuple[dict[str, dict[int, Tensor]], dict[str, Tensor]]:
        if not self.text_first:
            (carrier,) = inputs
            x, length = inputs[carrier], states[0].shape[1]
            return {carrier: states}, {carrier: content(x) if carrier == WORDS else whole(x, length)}
        return cut(states, inputs[WORDS], None if VISUALS not in inputs else (VISUALS, inputs[VISUALS].mask))


def cut(
    states: dict[int, Tensor], text: ModalityInputs, image: tuple[str, Tensor] | None
) -> tuple[dict[str, dict[int, Tensor]], dict[str, Tensor]]:
    """States [B, L, D] of a sequence of words and then of an image: all of them, those of either, and what counts of them."""
    length = text.mask.shape[1]
    mask = text.mask if image is None else torch.cat([text.mask, image[1]], 1)
    parts, masks = {FUSED: states, WORDS: {i: x[:, :length] for i, x in states.items()}}, {FUSED: mask, WORDS: content(text)}
    if image is not None:
        parts[image[0]], masks[image[0]] = {i: x[:, length:] for i, x in states.items()}, image[1]
    return parts, masks


def summary_of(output: Any, inputs: Inputs) -> Tensor:
    """The summary [B, D] of an output of transformers.

    Raises:
        ValueError: if there is nothing in it that could be one.
    """
    found = next((output[name] for name in SUMMARIES if name in output and output[name] is not None), None)
    if found is not None:
        return _flat(found)
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
    """A summary [B, D] of one that may still have a place of its own in height and width, [B, D, H, W]."""
    return pooled.mean((2, 3)) if pooled.ndim == 4 else pooled


class Vilt(Adapter):
    """ViLT: words and patches in one sequence, an image hidden by masking its patches.

    All patches are looked at, in order; transformers draws them at random and samples some if there are more than
    `max_image_length`. Words stay at least as [CLS], which the summary is read at.
    """

    takes = (WORDS, PIXELS)

    def width(self, config: Any) -> int:
        return int(config.hidden_size)

    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        return {part: range(config.num_hidden_layers + 1) for part in (FUSED, *carriers)}

    def see(self, model: Any, inputs: Inputs, states: bool) -> Seen:
        text, image = inputs[WORDS], inputs[PIXELS]
        patches = self.patches(model.embeddings, image.values)  # [B, L, D]
        mask = whole(image, patches.shape[1])
        output = model(image_embeds=patches, pixel_mask=mask.long(), output_hidden_states=states, **words(text))
        told = cut(numbered(output.hidden_states), text, (PIXELS, mask)) if states else ({}, {})
        return Seen(output.pooler_output, *told)

    def patches(self, embeddings: Any, pixels: Tensor) -> Tensor:
        """Pixels to [CLS] of the image and its patches, at places that are stretched to the image."""
        projected = embeddings.patch_embeddings(pixels)  # [B, D, H, W]
        first, grid = embeddings.position_embeddings.split([1, embeddings.position_embeddings.shape[1] - 1], 1)
        side = embeddings.config.image_size // embeddings.config.patch_size
        grid = grid.transpose(1, 2).unflatten(2, (side, side))  # [1, D, side, side]
        places = nn.functional.interpolate(grid, projected.shape[2:], mode="bilinear", align_corners=True)
        patches = (projected + places).flatten(2).transpose(1, 2)  # [B, H W, D]
        marks = (embeddings.cls_token + first).expand(len(pixels), -1, -1).to(patches.dtype)
        dropped: Tensor = embeddings.dropout(torch.cat([marks, patches], 1))
        return dropped


class Lxmert(Adapter):
    """LXMERT: a stream each of words and of regions with their boxes, joined by cross-attention.

    To a text whose image is hidden, the cross-attention shows regions of zeros with boxes of zeros. Where an image has no boxes,
    each of its regions is all of it.
    """

    takes = (WORDS, REGIONS)

    def width(self, config: Any) -> int:
        return int(config.hidden_size)

    def unused(self, model: Any) -> Sequence[nn.Module | nn.Parameter | None]:
        last = model.encoder.x_layers[-1]  # the summary is of the words
        return last.visn_self_att, last.visn_inter, last.visn_output

    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        joined = config.x_layers + 1
        return {WORDS: range(1, config.l_layers + joined), REGIONS: range(1, config.r_layers + joined)}

    def see(self, model: Any, inputs: Inputs, states: bool) -> Seen:
        text, image = inputs[WORDS], inputs[REGIONS]
        everything = image.values.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(*image.mask.shape, -1)
        boxes = image.extras.get("boxes", everything)[..., :4].to(image.values.dtype) * image.mask[..., None]
        told = {"visual_feats": image.values, "visual_pos": boxes, "visual_attention_mask": image.mask.long()}
        output = model(**words(text), **told, output_hidden_states=states)
        if not states:
            return Seen(output.pooled_output)
        by_part = {WORDS: numbered(output.language_hidden_states, 1), REGIONS: numbered(output.vision_hidden_states, 1)}
        return Seen(output.pooled_output, by_part, {WORDS: content(text), REGIONS: image.mask})


class Flava(Adapter):
    """FLAVA: an encoder each, and one of both whose first state is the summary; what is hidden or left out is masked there."""

    takes = optional = (WORDS, PIXELS)

    def width(self, config: Any) -> int:
        return int(config.multimodal_config.hidden_size)

    def unused(self, model: Any) -> Sequence[nn.Module | nn.Parameter | None]:
        heads = [m for part in (model.text_model, model.image_model) for m in (part.pooler, part.layernorm)]
        contrast = [model.image_projection, model.text_projection, model.logit_scale]
        return [*heads, *contrast, model.multimodal_model.pooler, model.image_model.embeddings.mask_token]

    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        configs = {WORDS: config.text_config, PIXELS: config.image_config, FUSED: config.multimodal_config}
        return {part: range(c.num_hidden_layers + 1) for part, c in configs.items()}

    def see(self, model: Any, inputs: Inputs, states: bool) -> Seen:
        parts: dict[str, dict[int, Tensor]] = {}
        masks: dict[str, Tensor] = {}
        joined: list[tuple[Tensor, Tensor]] = []
        if PIXELS in inputs:
            image = inputs[PIXELS]
            parts[PIXELS] = numbered(model.image_model(image.values, output_hidden_states=True).hidden_states)
            masks[PIXELS] = whole(image, parts[PIXELS][0].shape[1])
            joined.append((model.image_to_mm_projection(parts[PIXELS][len(parts[PIXELS]) - 1]), masks[PIXELS]))
        if WORDS in inputs:
            text = inputs[WORDS]
            parts[WORDS] = numbered(model.text_model(**words(text), output_hidden_states=True).hidden_states)
            masks[WORDS] = content(text)
            joined.append((model.text_to_mm_projection(parts[WORDS][len(parts[WORDS]) - 1]), text.mask))
        tokens, mask = (torch.cat([pair[i] for pair in joined], 1) for i in (0, 1))
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)  # with [CLS], which the model puts before
        output = model.multimodal_model(tokens, attention_mask=mask.to(tokens.dtype), output_hidden_states=states)
        if states:
            parts[FUSED], masks[FUSED] = numbered(output.hidden_states), mask
        return Seen(output.last_hidden_state[:, 0], parts, masks)


@dataclass(frozen=True)
class TwoTowers(Adapter):
    """CLIP and SigLIP: an embedding each of text and image, side by side; zeros for what is hidden or left out.

    Args:
        all_words: whether the text's encoder looks at the padding, up to its longest text, as SigLIP's was trained to.
    """

    all_words: bool = False

    takes = optional = (WORDS, PIXELS)  # no annotations, which would make options of them

    def width(self, config: Any) -> int:
        return sum(self.widths(config).values())

    def widths(self, config: Any) -> dict[str, int]:
        """D of the embedding of either."""
        if not self.all_words:
            return {WORDS: int(config.projection_dim), PIXELS: int(config.projection_dim)}
        text = getattr(config.text_config, "projection_size", None) or config.text_config.hidden_size
        return {WORDS: int(text), PIXELS: int(config.vision_config.hidden_size)}

    def unused(self, model: Any) -> Sequence[nn.Module | nn.Parameter | None]:
        return model.logit_scale, getattr(model, "logit_bias", None)

    def layers(self, config: Any, carriers: Sequence[str]) -> dict[str, range]:
        configs = {WORDS: config.text_config, PIXELS: config.vision_config}
        return {part: range(c.num_hidden_layers + 1) for part, c in configs.items()}

    def see(self, model: Any, inputs: Inputs, states: bool) -> Seen:
        like = next(iter(inputs.values())).mask
        parts: dict[str, dict[int, Tensor]] = {}
        masks: dict[str, Tensor] = {}
        embedded: list[Tensor] = []
        for carrier, width in self.widths(model.config).items():
            if carrier not in inputs:
                embedded.append(torch.zeros(len(like), width, device=like.device, dtype=model.dtype))
                continue
            x = inputs[carrier]
            output = self.text(model, x, states) if carrier == WORDS else model.vision_model(x.values, output_hidden_states=states)
            pooled = output.pooler_output if carrier == PIXELS or self.all_words else _last(output.last_hidden_state, x.mask)
            projection = getattr(model, "text_projection" if carrier == WORDS else "visual_projection", nn.Identity())
            embedded.append(projection(pooled) * x.present[:, None])
            if states:
                parts[carrier] = numbered(output.hidden_states)
                length = parts[carrier][0].shape[1]
                masks[carrier] = _longer(content(x), length) if carrier == WORDS else whole(x, length)
        return Seen(torch.cat(embedded, 1), parts, masks)

    def text(self, model: Any, text: ModalityInputs, states: bool) -> Any:
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
    """Words [B, L] with others after them until there are so many."""
    return nn.functional.pad(x, (0, max(0, length - x.shape[1])), value=fill)


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
"""How architectures are asked that more is known of than the names of their arguments."""


def adapter_of(kind: str) -> Adapter:
    """How an architecture is asked; one that nothing is known of, by the names of its arguments."""
    return ADAPTERS.get(kind, ByArguments())


def blanked(x: ModalityInputs, pad_id: int) -> ModalityInputs:
    """An input with zeros, or the id of [PAD] and segment 0, wherever nothing is to be seen."""
    refuse_positions(x)
    fill = 0 if x.values.is_floating_point() else pad_id
    shown = x.mask.view(x.mask.shape + (1,) * (x.values.ndim - x.mask.ndim))
    segments = {"segments": x.extras["segments"].masked_fill(~x.mask, 0)} if "segments" in x.extras else {}
    return replace(x, values=torch.where(shown, x.values, x.values.new_full((), fill)), extras={**x.extras, **segments})
