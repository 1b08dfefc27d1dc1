"""BERT and its relatives: any text encoder of transformers, by name, by folder, or from a configuration."""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch

from msd_framework.models.base import ENCODERS, Encoded, LayeredEncoder, refuse_positions
from msd_framework.models.features import KINDS, Features, Span, cut, layer_features, of_layers
from msd_framework.models.layers.pooling import masked_mean
from msd_framework.models.pretrained.transformers import load_published, refuse_generative
from msd_framework.structures import FeatureKind, ModalityInputs

BERT_FEATURES = ("hidden", "mean", "cls", "attention")  # what transformers returns of a layer


@ENCODERS.register("bert")
class Bert(LayeredEncoder):
    """A text encoder of transformers, with a summary of the text.

    Args:
        name: a folder or a name on the Hugging Face hub.
        config: what its config.json would say, `model_type` included, to start from random weights instead.
        vocab_size: how many word ids there are; the model must have an embedding for each.
        summary: the pooler's, or the first word where there is no pooler; or the mean over all words, special ones included, as
            sentence-transformers (Reimers & Gurevych, EMNLP 2019) such as MiniLM are trained.
    """

    kinds = frozenset({"tokens"})
    reads = frozenset({"name"})

    def __init__(
        self,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        vocab_size: int | None = None,
        summary: Literal["pooler", "mean"] = "pooler",
        freeze: bool = False,
    ):
        super().__init__()
        if (name is None) == (config is None):
            raise ValueError(f"give either name or config, got name {name!r} and config {config!r}")
        if name is not None:
            self.model = load_published(name, attn_implementation="eager")
        else:
            self.model = _random(dict(config or {}), vocab_size)
        sizes = self.model.config
        self.takes = frozenset(inspect.signature(self.model.forward).parameters)
        if "input_ids" not in self.takes:
            raise ValueError(f"{name or 'config'} is a model of type {sizes.model_type}, which does not take texts")
        if vocab_size is not None and vocab_size > sizes.vocab_size:
            raise ValueError(f"the tokenizer has {vocab_size} words and {name or 'config'} has embeddings for {sizes.vocab_size}")
        self.width, self.summary = sizes.hidden_size, summary
        self.pad_id = sizes.pad_token_id or 0
        positions = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        padding = getattr(positions, "padding_idx", None)
        self.first_position = 0 if padding is None else padding + 1  # RoBERTa counts positions from the padding's on
        self.max_positions = None if positions is None else positions.num_embeddings - self.first_position
        if freeze:
            self.requires_grad_(False)

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        config = {"model_type": self.model.config.model_type, **self.model.config.to_diff_dict()}
        return {**options, "name": None, "config": json.loads(json.dumps(config, default=str))}

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        # the attention has had its dropout in training
        return super().feature_kinds | layer_features("", getattr(self.model.config, "num_hidden_layers", 0), BERT_FEATURES)

    def forward_features(self, inputs: ModalityInputs, wanted: Collection[str]) -> tuple[Encoded, Features]:
        refuse_positions(inputs)
        length = inputs.values.shape[1]
        if self.max_positions is not None and length > self.max_positions:
            most = f"a text has {length} positions and this encoder takes {self.max_positions}"
            raise ValueError(f"{most}; set the max_length of its processor")
        arguments: dict[str, Any] = {"attention_mask": inputs.mask.long()}
        if "position_ids" in self.takes:
            positions = torch.arange(length, device=inputs.values.device).expand(inputs.values.shape)
            arguments["position_ids"] = positions + self.first_position
        if "segments" in inputs.extras and "token_type_ids" in self.takes:
            arguments["token_type_ids"] = inputs.extras["segments"].masked_fill(~inputs.mask, 0)
        layered = of_layers(wanted)
        if layered:
            whats = {what for _, _, what in layered.values()}
            arguments |= {"output_attentions": "attention" in whats, "output_hidden_states": bool(whats - {"attention"})}
        # some architectures convolve over masked words, so these become [PAD]
        output = self.model(input_ids=inputs.values.masked_fill(~inputs.mask, self.pad_id), **arguments)
        tokens, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)  # [B, L, D], [B, D]
        if self.summary == "mean":
            pooled = masked_mean(tokens, inputs.mask)
        encoded = Encoded(tokens, inputs.mask, tokens[:, 0] if pooled is None else pooled)
        features = encoded.features(wanted)
        for name, (_, layer, what) in layered.items():
            # layer 0 has states, but no attention
            values = output.attentions[layer - 1] if what == "attention" else output.hidden_states[layer]
            features[name] = cut(KINDS[what], values[:, 0] if what == "cls" else values, Span(inputs.mask))
        return encoded, features


def _random(config: dict[str, Any], vocab_size: int | None) -> Any:
    from transformers import AutoConfig, AutoModel

    if "model_type" not in config:
        raise ValueError(f"config must say its model_type, such as bert, got only {', '.join(config) or 'nothing'}")
    sizes = config if vocab_size is None else {"vocab_size": vocab_size} | config
    try:
        built = AutoConfig.for_model(**sizes)
    except ValueError as error:
        raise ValueError(f"transformers knows no model_type {config['model_type']!r}") from error
    refuse_generative(built.to_dict(), "config")
    return AutoModel.from_config(built, attn_implementation="eager", trust_remote_code=False)
