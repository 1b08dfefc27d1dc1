"""BERT and its relatives: any text encoder of transformers, by name, by folder, or from a configuration."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch

from msd_framework.models.base import Encoded, Encoder
from msd_framework.registry import ENCODERS
from msd_framework.structures import ModalityInputs


@ENCODERS.register("bert")
class Bert(Encoder):
    """A text encoder of transformers; its summary is the pooler's, or the first word where it has no pooler.

    Position ids of a text whose words were dropped are handed on to the models that take them.

    Args:
        name: a folder or a name on the Hugging Face hub.
        config: what its config.json would say, `model_type` included, to start from random weights instead.
        vocab_size: how many word ids there are; the model must have an embedding for each.

    Raises:
        ValueError: if not exactly one of `name` and `config` is given, if there is no such model, or if its vocabulary is
            too small.

    >>> config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    >>> Bert(config=config, vocab_size=50).width
    8
    """

    def __init__(self, name: str | None = None, config: dict[str, Any] | None = None, vocab_size: int | None = None):
        super().__init__()
        if (name is None) == (config is None):
            raise ValueError(f"give either name or config, got name {name!r} and config {config!r}")
        self.model = _published(name) if name is not None else _random(dict(config or {}), vocab_size)
        sizes = self.model.config
        if vocab_size is not None and vocab_size > sizes.vocab_size:
            raise ValueError(f"the tokenizer has {vocab_size} words and {name or 'config'} has embeddings for {sizes.vocab_size}")
        self.width = sizes.hidden_size
        self.takes = frozenset(inspect.signature(self.model.forward).parameters)
        positions = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        padding = getattr(positions, "padding_idx", None)
        self.first_position = 0 if padding is None else padding + 1  # RoBERTa counts positions from the padding's on

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        config = {"model_type": self.model.config.model_type, **self.model.config.to_diff_dict()}
        return {**options, "name": None, "config": json.loads(json.dumps(config, default=str))}

    def forward(self, inputs: ModalityInputs) -> Encoded:
        length = inputs.values.shape[1]
        positions = inputs.extras.get("positions", torch.arange(length, device=inputs.values.device).expand(inputs.values.shape))
        aligned = {"position_ids": positions + self.first_position, "token_type_ids": inputs.extras.get("segments")}
        arguments = {name: ids for name, ids in aligned.items() if name in self.takes and ids is not None}
        output = self.model(input_ids=inputs.values, attention_mask=inputs.mask.long(), **arguments)
        tokens, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)  # [B, L, D], [B, D]
        return Encoded(tokens, inputs.mask, tokens[:, 0] if pooled is None else pooled)


def _published(name: str) -> Any:
    from transformers import AutoModel

    try:
        return AutoModel.from_pretrained(name, attn_implementation="eager").float()
    except (OSError, ValueError) as error:
        raise ValueError(f"transformers finds no model {name!r}: {str(error).splitlines()[0]}") from error


def _random(config: dict[str, Any], vocab_size: int | None) -> Any:
    from transformers import AutoConfig, AutoModel

    if "model_type" not in config:
        raise ValueError(f"config must say its model_type, such as bert, got only {', '.join(config) or 'nothing'}")
    sizes = config if vocab_size is None else {"vocab_size": vocab_size} | config
    try:
        built = AutoConfig.for_model(**sizes)
    except ValueError as error:
        raise ValueError(f"transformers knows no model_type {config['model_type']!r}") from error
    return AutoModel.from_config(built, attn_implementation="eager")
