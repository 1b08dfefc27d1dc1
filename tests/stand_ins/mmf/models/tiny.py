"""Models that read a SampleList as VisualBERT does (words, and regions that are counted), or pixels, or say something else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmf.common.registry import registry
from mmf.models.base_model import BaseModel
from mmf.modules import hf_layers


def mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


@registry.register_model("tiny")
class Tiny(BaseModel):
    @classmethod
    def config_path(cls) -> str:
        return "configs/models/tiny.yaml"

    @classmethod
    def format_state_key(cls, key: str) -> str:
        return key.replace("bert.words", "words")

    def build(self) -> None:
        if self.config.training_head_type != "classification":
            raise NotImplementedError("only classification")
        width = self.config.hidden_size
        self.words = nn.Embedding(self.config.vocab_size, width)
        self.places = nn.Embedding(16, width)
        self.segments = nn.Embedding(2, width)
        self.regions = nn.Linear(self.config.visual_embedding_dim, width)
        self.boxes = nn.Linear(5, width)
        self.head = nn.Linear(width, self.config.num_labels)
        hf_layers.replace_with_jit()

    def text(self, batch: Any) -> Tensor:
        ids = batch.input_ids
        words = self.words(ids) + self.places(torch.arange(ids.shape[1])) + self.segments(batch.segment_ids)
        return mean(words.tanh(), batch.input_mask)

    def image(self, batch: Any) -> Tensor:
        features, info = batch.image_feature_0, batch.image_info_0
        seen = torch.arange(features.shape[1]) < info.max_features[:, None]
        return mean((self.regions(features) + self.boxes(info.bbox)).tanh(), seen)

    def forward(self, batch: Any) -> Any:
        self.ran_with = hf_layers.BertEmbeddings().forward()
        self.read = dict(batch)
        return {"scores": self.head(self.text(batch) + self.image(batch))}


@registry.register_model("tiny_pixels")
class TinyPixels(Tiny):
    @classmethod
    def config_path(cls) -> None:
        return None

    def image(self, batch: Any) -> Tensor:
        return (self.regions(batch.image.flatten(1)[:, : self.config.visual_embedding_dim]) + self.boxes.bias).tanh()

    def build(self) -> None:
        super().build()
        self.boxes.weight.requires_grad_(False)


@registry.register_model("broken")
class Broken(BaseModel):
    def build(self) -> None:
        raise OSError("no such weights")
