"""What every model and every encoder promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from msd_framework.components.registry import Registry, split
from msd_framework.models.features import Features, hidden_feature
from msd_framework.models.layers.pooling import masked_mean
from msd_framework.models.layers.recorded import RecordedViews
from msd_framework.structures import Feature, FeatureKind, Inputs, ModalityInputs, ModalityKind, ModelOutput, Setting


class MultimodalModel(nn.Module, ABC):
    """A classifier of examples with several modalities.

    It takes any non-empty subset of its modalities, ignores modalities that are not its own, and a masked position
    never changes its logits. Hiding a modality by its mask, by dropping its positions, or by leaving it out of the
    inputs is the same to it.

    Attributes:
        modalities: the names of what it takes, sorted.
        num_classes: C.
    """

    renamed: ClassVar[Mapping[str, str]] = {"offered": "feature_kinds"}
    """Methods that earlier versions asked for, and those that took their place."""

    takes_subsets: ClassVar[bool] = True
    """Whether a modality may be absent from the inputs; a model that needs all of them cannot take the `drop` masker."""

    separable: ClassVar[bool] = False
    """Whether its `encoders`, a module for each modality by its name, see one modality each."""

    narrows: ClassVar[tuple[str, ...]] = ()
    """How the names of tensors begin whose first rows and columns are those of a narrower model of the kind."""

    reads: ClassVar[frozenset[str]] = frozenset()
    """Options that name files or published weights, which the constructor reads."""

    modalities: tuple[str, ...]
    num_classes: int

    @classmethod
    @abstractmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The modalities of a model with these options of a YAML, without building it; sorted."""

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        """What would not work in a run, as sentences, without building it."""
        return []

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options that rebuild this model where the files that its first weights came from are not at hand.

        Args:
            options: those that it was built with, of a YAML.
        """
        return dict(options)

    @abstractmethod
    def forward(self, inputs: Inputs) -> ModelOutput:
        """Logits [B, C] of one view.

        Raises:
            ValueError: if none of the model's modalities is among the inputs.
        """

    def forward_views(self, views: Sequence[Inputs]) -> ModelOutput:
        """Logits [V, B, C] of several views of the same examples; a model that shares work between views overrides this.

        One forward a view, so that a batch norm sees one view at a time.
        """
        return ModelOutput(torch.stack([self(inputs).logits for inputs in views]))

    def output_layers(self) -> list[nn.Linear]:
        """The linear layers whose outputs are the logits, or are added up to them.

        They are the last one with C outputs of what is called `classifier` or `head`, and of each of the `classifiers`; of a model
        without such a part, the last one with C outputs that it was given.
        """
        named = dict(self.named_children())
        parts = [named[name] for name in ("classifier", "head") if name in named]
        parts += named["classifiers"].children() if "classifiers" in named else []
        found = []
        for part in parts or [self]:
            wide = [m for m in part.modules() if isinstance(m, nn.Linear) and m.out_features == self.num_classes]
            found += wide[-1:]
        return found

    @property
    def feature_kinds(self) -> Mapping[str, FeatureKind]:
        """The intermediates that `forward_features` can tell, and what each is; `models/features.py` says how they are named."""
        return {}

    def forward_features(
        self, views: Sequence[Inputs], wanted: Sequence[Collection[str]]
    ) -> tuple[ModelOutput, Sequence[Mapping[str, Feature]]]:
        """What `forward_views` returns, and what was wanted of each view, by name.

        Args:
            views: V views of the same examples.
            wanted: names of `feature_kinds` for each view; it shows the modality that they belong to.
        """
        assert not any(wanted), f"{type(self).__name__} offers no intermediates"
        return self.forward_views(views), [{} for _ in views]

    def record_views(self, views: Sequence[Inputs], watched: Collection[int]) -> RecordedViews | None:
        """A forward pass whose gradients' inner products with a direction can be had once it was gone back through.

        None where a model has modules that are not linear in their parameters, or does not tell one view's part from another's.

        Args:
            views: V views of the same examples.
            watched: those that inner products are asked for.
        """
        return None

    @property
    def summary_size(self) -> int | None:
        """D, where a model makes its logits of a summary of what it saw and tells both parts; else None."""
        return None

    def summarise_views(self, views: Sequence[Inputs]) -> Tensor:
        """The summaries [V, B, D] of several views: `classify` of them is `forward_views`."""
        raise NotImplementedError(f"{type(self).__name__} does not tell its summary")

    def classify(self, summary: Tensor) -> Tensor:
        """Summaries [.., D] to logits [.., C]."""
        raise NotImplementedError(f"{type(self).__name__} does not tell its summary")

    def own(self, inputs: Inputs) -> dict[str, ModalityInputs]:
        """The inputs that are this model's, in sorted order.

        Raises:
            ValueError: if there is none.
        """
        mine = {m: inputs[m] for m in self.modalities if m in inputs}
        if not mine:
            raise ValueError(f"this model takes {', '.join(self.modalities)} and got {', '.join(sorted(inputs)) or 'nothing'}")
        return mine


MODELS: Registry[MultimodalModel] = Registry("model", "models", MultimodalModel)


class SummaryModel(MultimodalModel):
    """A model that makes its logits of a summary of what it saw, and can tell both apart."""

    @property
    @abstractmethod
    def summary_size(self) -> int: ...

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
    """One modality, encoded.

    Args:
        tokens: float [B, L, D].
        mask: bool [B, L], True where a position holds something.
        pooled: float [B, D], a summary of the unmasked positions.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor

    def features(self, names: Collection[str]) -> Features:
        """The intermediates of these names, of those that every encoder has."""
        made: dict[str, Callable[[], Feature]] = {
            "last.hidden": lambda: hidden_feature(self.tokens, self.mask),
            "last.mean": lambda: Feature(masked_mean(self.tokens, self.mask)),
            "pooled": lambda: Feature(self.pooled),
        }
        return {name: make() for name, make in made.items() if name in names}


class Encoder(nn.Module, ABC):
    """Turns one modality into tokens and a summary of them. A masked position never changes either.

    Attributes:
        width: D.
    """

    renamed: ClassVar[Mapping[str, str]] = {"offered": "feature_kinds"}
    """Methods that earlier versions asked for, and those that took their place."""

    kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"tokens", "features", "pixels", "waveform"})
    """The kinds of values that it takes."""

    reads: ClassVar[frozenset[str]] = frozenset()
    """Options that name files or published weights, which the constructor reads."""

    width: int

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options that rebuild this encoder where the files that its first weights came from are not at hand."""
        return dict(options)

    def rebuild_spec(self, spec: Any) -> dict[str, Any]:
        """The part of a YAML that this encoder was built from, with options that rebuild it."""
        name, options = split(spec, "encoder", ENCODERS)
        return {"type": name, **self.rebuild_options(options)}

    @abstractmethod
    def forward(self, inputs: ModalityInputs) -> Encoded: ...

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        """The intermediates that `forward_features` can tell, without the modality in front; one with layers adds theirs."""
        return {"last.hidden": "hidden", "last.mean": "pooled", "pooled": "pooled"}

    def forward_features(self, inputs: ModalityInputs, wanted: Collection[str]) -> tuple[Encoded, Features]:
        """What `forward` returns, and what was wanted, by name."""
        encoded: Encoded = self(inputs)
        return encoded, encoded.features(wanted)


ENCODERS: Registry[Encoder] = Registry("encoder", "encoders", Encoder)


def encoder_problems(at: str, spec: Any, modality: str, setting: Setting) -> list[str]:
    """A sentence if an encoder of a YAML is for other values than those that a modality has.

    Args:
        at: the option that holds the encoder, such as `encoders.text`.
        spec: what the YAML says there.
        modality: what it is to encode.
        setting: says the kinds of values.
    """
    name, _ = split(spec, at, ENCODERS)
    kinds, kind = ENCODERS.get(name).kinds, setting.kinds.get(modality)
    if kind is None or kind in kinds:
        return []
    fitting = ", ".join(n for n in ENCODERS.names() if kind in ENCODERS.get(n).kinds)
    return [f"{at}: {name} takes {' or '.join(sorted(kinds))}, and the values of {modality!r} are {kind}. Take one of {fitting}."]


def refuse_positions(inputs: ModalityInputs) -> None:
    """Refuses words that say themselves where they stand, for models that count them.

    Raises:
        ValueError: if they do.
    """
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
