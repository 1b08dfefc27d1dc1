"""A summary of the text and the image's features side by side, and a perceptron on them: the simplest models of both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msd_framework.models.base import MODELS, Encoder
from msd_framework.models.features import SUMMARY, Features
from msd_framework.models.image_text import NO_WEIGHTS_OR_HEAD, ImageTextModel, regions_of
from msd_framework.models.layers.distinct import OncePerInput, encode_once, mixes_examples
from msd_framework.models.layers.heads import hidden_layers
from msd_framework.models.layers.pooling import masked_mean, visible
from msd_framework.models.pretrained.concat import HEAD, WEIGHTS
from msd_framework.models.pretrained.published import read_published
from msd_framework.ranges import not_negative, positive
from msd_framework.structures import Feature, FeatureKind, Inputs, ModalityInputs, ModelOutput

# how words [B, L, D] become one vector [B, D], of the positions where a mask [B, L] is True
POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": masked_mean,
    "sum": lambda words, mask: visible(words, mask).sum(1),
}


class ConcatModel(ImageTextModel):
    r"""A perceptron on the text's vector and the image's, side by side; a subclass says what the text's vector is.

    .. math:: z = \mathrm{mlp}([t; v]), \qquad \text{each layer of it } \mathrm{dropout}(\mathrm{ReLU}(\mathrm{norm}(W x + b)))

    and the last one :math:`W x + b` alone. What an example has no content of is zeros, however it was hidden.

    Args:
        feature_size: F, features a region. An image encoder sets it.
        num_regions: the image's vector is so many regions side by side, zeros where masked; their mean if left out.
        num_layers: hidden layers of the perceptron; MMF takes 2.
        hidden_size: features of each.
        dropout: the share of features that is dropped after each.
        batch_norm: whether each has a batch norm, as in MMF's weights and the authors'.
    """

    def __init__(
        self,
        text_width: int,
        num_classes: int,
        feature_size: int | None,
        image_encoder: Encoder | None,
        num_regions: int | None,
        num_layers: int,
        hidden_size: int,
        dropout: float,
        batch_norm: bool,
    ):
        super().__init__()
        width = feature_size if image_encoder is None else image_encoder.width
        if width is None:
            raise ValueError("feature_size must be given, or an image_encoder for pixels")
        positive(feature_size=width, num_regions=num_regions, hidden_size=hidden_size)
        not_negative(num_layers=num_layers)
        self.num_classes, self.feature_size, self.num_regions = num_classes, width, num_regions
        self.text_width, self.image_width = text_width, width * (num_regions or 1)
        self.summary_size = self.text_width + self.image_width
        self.image_encoder = image_encoder
        hidden = hidden_layers(self.summary_size, hidden_size, num_layers, dropout, batch_norm)
        self.classifier = nn.Sequential(*hidden, nn.Linear(hidden_size if num_layers else self.summary_size, num_classes))

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        return {"image.pooled": "pooled", "text.pooled": "pooled", SUMMARY: "pooled"}

    def forward_features(self, views: Sequence[Inputs], wanted: Sequence[Collection[str]]) -> tuple[ModelOutput, list[Features]]:
        summaries = self.summarise_views(views)
        features: list[Features] = []
        for summary, names in zip(summaries, wanted):
            text, image = summary.split([self.text_width, self.image_width], -1)
            of_view = {"image.pooled": Feature(image), "text.pooled": Feature(text), SUMMARY: Feature(summary)}
            features.append({name: of_view[name] for name in names})
        return ModelOutput(self.classify(summaries)), features

    def summarise_views(self, views: Sequence[Inputs]) -> Tensor:
        mixes = any(isinstance(part, Encoder) and mixes_examples(part) for part in self.children())
        text, image = OncePerInput(self.text_vector, mixes), OncePerInput(self.image_vector, mixes)
        return torch.stack([self._summary(self.own(view), text, image) for view in views])  # [V, B, D]

    def classify(self, summary: Tensor) -> Tensor:
        if summary.ndim > 2:  # one view at a time, since a batch norm would mix them
            return torch.stack(list(map(self.classify, summary)))
        return cast(Tensor, self.classifier(summary))

    @abstractmethod
    def text_vector(self, text: ModalityInputs) -> Tensor:
        """A summary of the text, float [B, text_width]."""

    def image_vector(self, image: ModalityInputs) -> Tensor:
        """The image's features as one vector, float [B, image_width]."""
        features, mask = regions_of(image, self.image_encoder, self.feature_size)
        if self.num_regions is None:
            return masked_mean(features, mask)  # [B, F]
        missing = self.num_regions - features.shape[1]
        if missing < 0:
            raise ValueError(f"an image has {features.shape[1]} regions and num_regions is {self.num_regions}")
        return F.pad(visible(features, mask), (0, 0, 0, missing)).flatten(1)  # [B, num_regions * F]

    def _summary(self, inputs: Inputs, text: OncePerInput[Tensor], image: OncePerInput[Tensor]) -> Tensor:
        """The text's and the image's vector side by side, [B, D], with zeros for what an example has no content of."""
        vectors = {}
        for modality, vector in (("text", text), ("image", image)):
            if modality in inputs:
                vectors[modality] = visible(vector(inputs[modality]), inputs[modality].present[:, None])
        some = next(iter(vectors.values()))
        for modality, width in (("text", self.text_width), ("image", self.image_width)):
            vectors.setdefault(modality, some.new_zeros(len(some), width))
        return torch.cat([vectors["text"], vectors["image"]], 1)


@MODELS.register("concat_bert")
class ConcatBert(ConcatModel):
    r"""The summary of a text encoder beside the image's features, numerically that of MMBT's authors and of MMF.

    .. math:: z = \mathrm{mlp}([\mathrm{encoder}(\mathrm{text}); v])

    with the perceptron of `ConcatModel`. A batch norm takes one view at a time in training and its running statistics from all of
    them, so it is off by default.

    Source: Kiela et al., Supervised Multimodal Bitransformers for Classifying Images and Text, 2019, section 4.1, "ConcatBert".

    Args:
        text_encoder: makes a summary of the text; `bert` for the published model.
        pretrained: a file of weights as MMF or the authors save them, .pth, .bin or .safetensors.
    """

    reads = frozenset({"pretrained"})
    without_weights = NO_WEIGHTS_OR_HEAD

    def __init__(
        self,
        text_encoder: Encoder,
        num_classes: int,
        feature_size: int | None = None,
        image_encoder: Encoder | None = None,
        num_regions: int | None = None,
        num_layers: int = 2,
        hidden_size: int = 768,
        dropout: float = 0.5,
        batch_norm: bool = False,
        pretrained: str | None = None,
        pretrained_head: bool = False,
    ):
        perceptron = (num_layers, hidden_size, dropout, batch_norm)
        super().__init__(text_encoder.width, num_classes, feature_size, image_encoder, num_regions, *perceptron)
        self.text_encoder = text_encoder
        weights = read_published(pretrained) if pretrained is not None else None
        WEIGHTS.load(self, weights)
        if pretrained_head:
            HEAD.load_head(self.classifier, weights)

    def text_vector(self, text: ModalityInputs) -> Tensor:
        return cast(Tensor, encode_once(self.text_encoder, text, lambda x: self.text_encoder(x).pooled))


@MODELS.register("concat_bow")
class ConcatBow(ConcatModel):
    r"""The mean of the words' embeddings beside the image's features: no order of words, and no attention.

    .. math:: z = \mathrm{mlp}\Bigl(\Bigl[\frac{1}{n} \sum_{i=1}^{n} \mathrm{word}_i; v\Bigr]\Bigr)

    over the n words that are neither masked nor special. Published models add the words up (``pool: sum``).

    Source: Kiela et al., Supervised Multimodal Bitransformers for Classifying Images and Text, 2019, section 4.1, "ConcatBow".

    Args:
        vocab_size: how many word ids there are.
        embedding_size: features of a word.
        pool: whether the text's vector is the mean of its words or their sum.
    """

    def __init__(
        self,
        num_classes: int,
        vocab_size: int,
        embedding_size: int = 300,
        pool: Literal["mean", "sum"] = "mean",
        feature_size: int | None = None,
        image_encoder: Encoder | None = None,
        num_regions: int | None = None,
        num_layers: int = 2,
        hidden_size: int = 768,
        dropout: float = 0.5,
        batch_norm: bool = False,
    ):
        positive(vocab_size=vocab_size, embedding_size=embedding_size)
        perceptron = (num_layers, hidden_size, dropout, batch_norm)
        super().__init__(embedding_size, num_classes, feature_size, image_encoder, num_regions, *perceptron)
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
        self.pool = POOLS[pool]

    def text_vector(self, text: ModalityInputs) -> Tensor:
        words = text.mask & ~text.special  # [B, L]
        return self.pool(self.embedding(text.values.masked_fill(~words, 0)), words)
