"""Any model of transformers, with a linear classifier on its summary."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from msd_framework.errors import ConfigError, Problem, did_you_mean
from msd_framework.models.base import MODELS, MultimodalModel
from msd_framework.models.features import FUSED, KINDS, SUMMARY, Features, Span, cut, of_layers
from msd_framework.models.pretrained import transformers as of_transformers
from msd_framework.models.pretrained.adapters import CARRIERS, WORDS, Encodings, adapter_of, blanked
from msd_framework.structures import Feature, FeatureKind, Inputs, ModalityInputs, ModelOutput, Setting


@MODELS.register("huggingface")
class HuggingFace(MultimodalModel):
    r"""A model of transformers without its heads, and :math:`z = W\, \mathrm{dropout}(\mathrm{summary}(x)) + b`.

    `models/pretrained/adapters.py` has how an architecture is run, and docs/models.md how each of them hides a modality. What has
    no part in the summary is frozen, as is the scale of CLIP's logits.

    Args:
        num_classes: C.
        name: a folder, or a name on the Hugging Face hub, whose weights to start from.
        config: what its config.json would say, `model_type` included, to start from random weights instead.
        inputs: the argument of each modality, such as `{text: input_ids, image: pixel_values}`; all usual ones if not given.
        dropout: the share of the summary's features that is dropped before the classifier.
        vocab_size: how many word ids there are; the model must have an embedding for each.
        pad_id: the id of [PAD], which stands wherever no word is.
        cls_id: the id of [CLS], used only where the text is left out.
        sep_id: the id of [SEP], used only where the text is left out.
        image_size: pixels of a side, or [height, width]; for a `config` that does not say.
        image_channels: colours of a pixel; for a `config` that does not say.
        feature_size: F, features a region; for a `config` that does not say.
    """

    reads = frozenset({"name"})
    no_text: Tensor

    def __init__(
        self,
        num_classes: int,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        inputs: dict[str, str] | None = None,
        dropout: float = 0.1,
        vocab_size: int | None = None,
        pad_id: int = 0,
        cls_id: int = 101,
        sep_id: int = 102,
        image_size: int | list[int] | None = None,
        image_channels: int | None = None,
        feature_size: int | None = None,
    ):
        super().__init__()
        kind = of_transformers.model_type(name, config)
        self.num_classes, self.pad_id = num_classes, pad_id
        self.register_buffer("no_text", torch.tensor([cls_id, sep_id]), persistent=False)
        if name is not None:
            self.model = of_transformers.load_published(name, attn_implementation="eager")
        else:
            # one number for a square image, which is all that some architectures take
            side = image_size[0] if isinstance(image_size, list) and len(set(image_size)) == 1 else image_size
            sizes = {"vocab_size": vocab_size, "pad_token_id": pad_id, "image_size": side, "num_channels": image_channels}
            sizes |= dict.fromkeys(("visual_embedding_dim", "visual_feat_dim"), feature_size)
            self.model = of_transformers.start_at_random(config or {}, sizes)
        sizes_of_model = self.model.config
        self.adapter = adapter_of(kind)
        carriers = self.adapter.carriers(list(inspect.signature(self.model.forward).parameters))
        self.carriers = _chosen(kind, carriers, inputs)
        self.modalities = tuple(self.carriers)
        self.needs = frozenset(carriers).difference(self.adapter.optional)
        num_words, self.max_positions = _of_text(sizes_of_model, "vocab_size"), _longest_text(self.model)
        if vocab_size is not None and num_words is not None and WORDS in self.carriers.values() and vocab_size > num_words:
            raise ValueError(f"the tokenizer has {vocab_size} words and {name or 'config'} has embeddings for {num_words}")
        self.can_miss_text = num_words is None or max(cls_id, sep_id) < num_words
        self.image_shape = _image_shape(sizes_of_model)
        self.region_size = getattr(sizes_of_model, "visual_embedding_dim", getattr(sizes_of_model, "visual_feat_dim", 1))
        for part in self.adapter.unused(self.model):
            if part is not None:
                part.requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.summary_size = self.adapter.width(sizes_of_model)
        self.classifier = nn.Linear(self.summary_size, num_classes)

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        try:
            return tuple(_carriers(options))
        except ValueError as error:
            raise ConfigError(Problem("model", str(error))) from error

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        problems, carriers = [], _carriers(options)
        for modality, kind in setting.kinds.items():
            carrier = carriers.get(modality, "")
            if carrier in CARRIERS and kind != CARRIERS[carrier][1]:
                carried = CARRIERS[carrier][1]
                problems.append(f"{carrier!r} carries {carried}, and the processor of {modality!r} makes {kind}.")
        return problems

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**options, "name": None, "config": of_transformers.written_config(self.model)}

    def forward(self, inputs: Inputs) -> ModelOutput:
        return ModelOutput(self.classify(self.encode(inputs).summary))  # [B, C]

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        kinds: dict[str, FeatureKind] = {}
        modalities = {carrier: m for m, carrier in self.carriers.items()} | {FUSED: FUSED}
        for carrier, layers in self.adapter.layers(self.model.config, list(self.carriers.values())).items():
            if carrier in modalities:
                for layer in layers:
                    kinds[f"{modalities[carrier]}.{layer}.hidden"] = "hidden"
                    kinds[f"{modalities[carrier]}.{layer}.mean"] = "pooled"
        return kinds | {SUMMARY: "pooled"}

    def forward_features(self, views: Sequence[Inputs], wanted: Sequence[Collection[str]]) -> tuple[ModelOutput, list[Features]]:
        encodings = [self.encode(view, bool(set(names) - {SUMMARY})) for view, names in zip(views, wanted)]
        logits = self.classify(torch.stack([of_view.summary for of_view in encodings]))  # [V, B, C]
        return ModelOutput(logits), list(map(self._features, encodings, wanted))

    def summarise_views(self, views: Sequence[Inputs]) -> Tensor:
        return torch.stack([self.encode(view).summary for view in views])  # [V, B, D]

    def classify(self, summary: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.dropout(summary)))

    def encode(self, inputs: Inputs, states: bool = False) -> Encodings:
        """The encodings of a view, with the states of layers if they are wanted."""
        own = self.own(inputs)
        given = {carrier: own[m] for m, carrier in self.carriers.items() if m in own}
        like = next(iter(given.values())).mask
        for carrier in sorted(self.needs - given.keys()):
            given[carrier] = self._stand_in(carrier, like)
        length, most = given[WORDS].values.shape[1] if WORDS in given else 0, self.max_positions
        if most is not None and length > most:
            raise ValueError(f"a text has {length} positions and this model takes {most}; set the max_length of its processor")
        return self.adapter.encode(self.model, {c: blanked(x, self.pad_id) for c, x in given.items()}, states)

    def _stand_in(self, carrier: str, like: Tensor) -> ModalityInputs:
        batch, device = len(like), like.device
        if CARRIERS[carrier][1] == "tokens":
            if not self.can_miss_text:
                ids = "the cls_id and sep_id that stand in for it are not among the words of this model"
                raise ValueError(f"the text is left out, and {ids}; set them to the tokenizer's")
            words = self.no_text.expand(batch, -1)
            mask = torch.ones_like(words, dtype=torch.bool)
            return ModalityInputs(words, mask, {"special": mask})
        shape = {"pixels": self.image_shape, "features": (1, self.region_size), "waveform": (1,)}[CARRIERS[carrier][1]]
        zeros = torch.zeros(batch, *shape, device=device, dtype=self.classifier.weight.dtype)
        return ModalityInputs(zeros, torch.zeros(batch, 1, dtype=torch.bool, device=device))

    def _features(self, encodings: Encodings, names: Collection[str]) -> Features:
        features: Features = {SUMMARY: Feature(encodings.summary)} if SUMMARY in names else {}
        for name, (part, layer, what) in of_layers(names).items():
            carrier = self.carriers.get(part, part)
            if carrier in encodings.states:
                states, mask = encodings.states[carrier][layer], encodings.masks[carrier]
                features[name] = cut(KINDS[what], states, Span(mask))
        return features


def _carriers(options: Mapping[str, Any]) -> dict[str, str]:
    """The argument of each modality, by a YAML's options; the architecture is looked up only where these do not say."""
    if options.get("inputs"):
        return dict(sorted(options["inputs"].items()))
    kind = of_transformers.model_type(options.get("name"), options.get("config"))
    adapter = adapter_of(kind)
    return _chosen(kind, adapter.takes or adapter.carriers(of_transformers.forward_arguments(kind)), None)


def _chosen(kind: str, carriers: Sequence[str], inputs: Mapping[str, str] | None) -> dict[str, str]:
    if not carriers:
        raise ValueError(f"{kind} takes none of {', '.join(CARRIERS)}; give such a model as {{type: module, ...}}")
    chosen = {CARRIERS[carrier][0]: carrier for carrier in carriers} if inputs is None else inputs
    for modality, carrier in chosen.items():
        if carrier not in carriers:
            problem = f"{kind} has no {carrier!r} to carry a modality; it has {', '.join(carriers)}."
            raise ValueError(f"inputs.{modality}: {problem}{did_you_mean(carrier, carriers)}")
    return dict(sorted(chosen.items()))


def _of_text(config: Any, size: str) -> int | None:
    return cast("int | None", getattr(getattr(config, "text_config", None) or config, size, None))


def _longest_text(model: nn.Module) -> int | None:
    """The most positions of a text; None where there is no limit, for which some configurations say -1."""
    num_positions = _of_text(model.config, "max_position_embeddings")
    if num_positions is None or num_positions < 1:
        return None
    first = 0
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            first = max(first, part.padding_idx + 1)  # RoBERTa counts from the padding's on
    return num_positions - first


def _image_shape(config: Any) -> tuple[int, int, int]:
    """[C, H, W] of an image that stands in for one that is left out."""
    own = getattr(config, "vision_config", None) or getattr(config, "image_config", None) or config
    size, channels = getattr(own, "image_size", None) or 224, getattr(own, "num_channels", 3)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return channels, height, width
