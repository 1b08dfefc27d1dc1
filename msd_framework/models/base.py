"""What every model and every encoder promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from msd_framework.components.registry import Registry, split
from msd_framework.models.features import Features, hidden_feature, prefixed
from msd_framework.models.layers.pooling import masked_mean
from msd_framework.models.layers.recorded import RecordedViews
from msd_framework.structures import Feature, FeatureKind, Inputs, ModalityInputs, ModalityKind, ModelOutput, Setting


class MultimodalModel(nn.Module, ABC):
    """A classifier of examples with several modalities.

    Any non-empty subset of its modalities will do; others are ignored, and a masked position never changes the logits. Hiding a
    modality by its mask, by dropping its positions, or by leaving it out of the inputs is the same to it.
    """

    renamed: ClassVar[Mapping[str, str]] = {"offered": "feature_kinds"}  # methods of earlier versions, and what took their place
    takes_subsets: ClassVar[bool] = True  # whether a modality may be absent from the inputs, as by the `drop` masker
    separable: ClassVar[bool] = False  # whether its `encoders`, a module for each modality by its name, see one modality each
    narrows: ClassVar[tuple[str, ...]] = ()  # how the names of tensors begin that are cut for a narrower model of the kind
    reads: ClassVar[frozenset[str]] = frozenset()  # options that name files or published weights

    modalities: tuple[str, ...]  # the names of what it takes, sorted
    num_classes: int  # C
    summary_size: int | None = None  # D, where a model makes its logits of a summary that it can return

    @classmethod
    @abstractmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The modalities of a model with these options of a YAML, without building it; sorted."""

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        """What would not work in a run, a sentence each, without building the model."""
        return []

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Its options of a YAML, changed so that the model can be built without the files that its first weights came from."""
        return dict(options)

    @abstractmethod
    def forward(self, inputs: Inputs) -> ModelOutput:
        """Logits [B, C] of one view."""

    def forward_views(self, views: Sequence[Inputs]) -> ModelOutput:
        """Logits [V, B, C] of several views of the same examples; one forward a view, unless a model shares work between them."""
        return ModelOutput(torch.stack([self(inputs).logits for inputs in views]))

    def output_layers(self) -> list[nn.Linear]:
        """The linear layers whose outputs are the logits, or are added up to them: the last one with C outputs of each head."""
        named = dict(self.named_children())
        parts = [named[name] for name in ("classifier", "head") if name in named]
        parts += named["classifiers"].children() if "classifiers" in named else []
        layers = []
        for part in parts or [self]:
            of_part = [m for m in part.modules() if isinstance(m, nn.Linear) and m.out_features == self.num_classes]
            layers += of_part[-1:]
        return layers

    @property
    def feature_kinds(self) -> Mapping[str, FeatureKind]:
        """The intermediates that `forward_features` can return, and what each is; `models/features.py` says how they are named."""
        return {}

    def forward_features(
        self, views: Sequence[Inputs], wanted: Sequence[Collection[str]]
    ) -> tuple[ModelOutput, Sequence[Mapping[str, Feature]]]:
        """What `forward_views` returns, and what was wanted of each view, by the names of `feature_kinds` that it can show."""
        assert not any(wanted), f"{type(self).__name__} offers no intermediates"
        return self.forward_views(views), [{} for _ in views]

    def record_views(self, views: Sequence[Inputs], watched: Collection[int]) -> RecordedViews | None:
        """A pass that gives inner products of a direction with the gradients of watched views; None where a model cannot."""
        return None

    def summarise_views(self, views: Sequence[Inputs]) -> Tensor:
        """The summaries [V, B, D] of several views: `classify` of them is `forward_views`."""
        raise NotImplementedError(f"{type(self).__name__} does not tell its summary")

    def classify(self, summary: Tensor) -> Tensor:
        """Summaries [.., D] to logits [.., C]."""
        raise NotImplementedError(f"{type(self).__name__} does not tell its summary")

    def own(self, inputs: Inputs) -> dict[str, ModalityInputs]:
        """The inputs that are this model's, in sorted order; at least one."""
        mine = {m: inputs[m] for m in self.modalities if m in inputs}
        if not mine:
            raise ValueError(f"this model takes {', '.join(self.modalities)} and got {', '.join(sorted(inputs)) or 'nothing'}")
        return mine


MODELS: Registry[MultimodalModel] = Registry("model", "models", MultimodalModel)


class SummaryModel(MultimodalModel):
    """A model that makes its logits of a summary, and can return both."""

    summary_size: int

    @abstractmethod
    def summarise_views(self, views: Sequence[Inputs]) -> Tensor: ...

    @abstractmethod
    def classify(self, summary: Tensor) -> Tensor: ...

    def forward(self, inputs: Inputs) -> ModelOutput:
        return ModelOutput(self.forward_views([inputs]).logits[0])  # [B, C]

    def forward_views(self, views: Sequence[Inputs]) -> ModelOutput:
        return ModelOutput(self.classify(self.summarise_views(views)))  # [V, B, C]


@dataclass(frozen=True)
class Encoded:
    """One modality, encoded."""

    tokens: Tensor  # float [B, L, D]
    mask: Tensor  # bool [B, L], True where a position holds something
    pooled: Tensor  # float [B, D], a summary of the unmasked positions

    def features(self, names: Collection[str]) -> Features:
        """The intermediates of these names, of those that every encoder has."""
        features: Features = {}
        if "last.hidden" in names:
            features["last.hidden"] = hidden_feature(self.tokens, self.mask)
        if "last.mean" in names:
            features["last.mean"] = Feature(masked_mean(self.tokens, self.mask))
        if "pooled" in names:
            features["pooled"] = Feature(self.pooled)
        return features


class Encoder(nn.Module, ABC):
    """Turns one modality into tokens and a summary of them. A masked position never changes either.

    Args:
        freeze: whether it does not learn, and drops nothing in training.
    """

    renamed: ClassVar[Mapping[str, str]] = {"offered": "feature_kinds"}
    kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"tokens", "features", "pixels", "waveform"})
    reads: ClassVar[frozenset[str]] = frozenset()  # options that name files or published weights
    width: int  # D

    @classmethod
    def shown_images(cls, options: Mapping[str, Any]) -> Mapping[str, list[float]]:
        """How the weights that options name were shown images, as `mean` and `std` of `pixels`; empty if their folder says it."""
        return {}

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return dict(options)

    def rebuild_spec(self, spec: Any) -> dict[str, Any]:
        name, options = split(spec, "encoder", ENCODERS)
        return {"type": name, **self.rebuild_options(options)}

    @abstractmethod
    def forward(self, inputs: ModalityInputs) -> Encoded: ...

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        """The intermediates that `forward_features` can return, without the modality in front; one with layers adds theirs."""
        return {"last.hidden": "hidden", "last.mean": "pooled", "pooled": "pooled"}

    def forward_features(self, inputs: ModalityInputs, wanted: Collection[str]) -> tuple[Encoded, Features]:
        """What `forward` returns, and what was wanted, by name."""
        encoded: Encoded = self(inputs)
        return encoded, encoded.features(wanted)


class LayeredEncoder(Encoder):
    """An encoder that can return intermediates of its layers as well."""

    def forward(self, inputs: ModalityInputs) -> Encoded:
        return self.forward_features(inputs, ())[0]

    @abstractmethod
    def forward_features(self, inputs: ModalityInputs, wanted: Collection[str]) -> tuple[Encoded, Features]: ...


ENCODERS: Registry[Encoder] = Registry("encoder", "encoders", Encoder)


def encoder_problems(at: str, spec: Any, modality: str, setting: Setting) -> list[str]:
    """A sentence if the encoder that a YAML has at an option is for other values than those that a modality has."""
    name, _ = split(spec, at, ENCODERS)
    kinds, kind = ENCODERS.get(name).kinds, setting.kinds.get(modality)
    if kind is None or kind in kinds:
        return []
    fitting = ", ".join(n for n in ENCODERS.names() if kind in ENCODERS.get(n).kinds)
    return [f"{at}: {name} takes {' or '.join(sorted(kinds))}, and the values of {modality!r} are {kind}. Take one of {fitting}."]


class ModelOfEncoders(MultimodalModel):
    """A model with the option ``encoders``, which a subclass registers among its modules.

    Args:
        encoders: an encoder for each modality, by its name.
        num_classes: C.
    """

    encoders: nn.ModuleDict

    def __init__(self, encoders: Mapping[str, Encoder], num_classes: int):
        super().__init__()
        if not encoders:
            raise ValueError("encoders must name at least one modality, got none")
        self.modalities, self.num_classes = tuple(sorted(encoders)), num_classes

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(sorted(options["encoders"]))

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        problems = []
        for modality, spec in options["encoders"].items():
            problems += encoder_problems(f"encoders.{modality}", spec, modality, setting)
        return problems

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        specs = options["encoders"]
        encoders = {m: encoder.rebuild_spec(specs[m]) for m, encoder in self.encoders.items() if isinstance(encoder, Encoder)}
        return {**options, "encoders": encoders}

    def encoder_feature_kinds(self) -> dict[str, FeatureKind]:
        """Those of each encoder, and the vector that the model makes of its summary as `projected`."""
        kinds: dict[str, FeatureKind] = {}
        for modality, encoder in self.encoders.items():
            assert isinstance(encoder, Encoder)
            kinds |= prefixed(modality, {**encoder.feature_kinds, "projected": "pooled"})
        return kinds


def summary_and_features(encoder: nn.Module, inputs: ModalityInputs, wanted: Collection[str]) -> tuple[Tensor, Features]:
    """An encoder's summary [B, D] of a modality, and the intermediates that are wanted."""
    if not wanted:
        # called as a module, so that hooks on it run
        return encoder(inputs).pooled, {}
    assert isinstance(encoder, Encoder)
    encoded, features = encoder.forward_features(inputs, wanted)
    return encoded.pooled, features


def refuse_positions(inputs: ModalityInputs) -> None:
    """Refuses words that come with their positions, for models that count these themselves."""
    if "positions" in inputs.extras:
        raise ValueError("this model counts positions itself, and got extras['positions']; mask words in place of dropping them")


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Within it nothing is dropped and no batch norm learns; then each part is in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
