"""Hides a modality behind other content: the mean of the training examples, noise, or another example's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from msd_framework.errors import CheckpointError
from msd_framework.maskers.base import MASKERS, Masker
from msd_framework.maskers.content import replace_content, stand_in_shape
from msd_framework.ranges import positive
from msd_framework.structures import Batch, ModalityInputs, ModalityKind, Setting, tree_map


@MASKERS.register("mean")
class MeanMasker(Masker):
    r"""Replaces the content by its mean over the training examples.

    .. math:: \mu_m = \frac{1}{N} \sum_{i, l} x_{il}

    over the N unmasked, not special positions of modality m: a vector [D] for features, an image [C, H, W] for pixels, a
    number for a waveform.

    Args:
        length: positions that stand in for the content; 1 if null, 16,000 for a waveform. Pixels keep their size.
    """

    kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"features", "pixels", "waveform"})
    keeps_repeats = True
    needs_fit = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        positive(length=length)
        self.length = length
        # tells `_expect_means` which device to load onto
        self.register_buffer("_device", torch.empty(0), persistent=False)
        self.register_load_state_dict_pre_hook(_expect_means)  # type: ignore[no-untyped-call]

    def fit(self, batches: Iterable[Batch]) -> None:
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for batch in batches:
            for modality, inputs in batch.inputs.items():
                if inputs.values.is_floating_point():
                    values = inputs.values[:, None] if inputs.values.ndim == 4 else inputs.values  # an image is one position
                    x = values[inputs.mask & ~inputs.special]  # [N, ..]
                    sums[modality] = sums.get(modality, 0) + x.double().sum(0)
                    counts[modality] = counts.get(modality, 0) + len(x)
        for modality, count in counts.items():
            if count > 0:
                self.register_buffer(_name(modality), (sums[modality] / count).float())

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        if _name(modality) not in self._buffers:
            raise RuntimeError(f"the mean of {modality!r} is not known: fit the masker on training batches, or load a fitted one.")
        mean, shape = self.get_buffer(_name(modality)), stand_in_shape(inputs, self.length)
        if mean.shape != shape[len(shape) - mean.ndim :]:
            text = f"the mean of {modality!r} is of the shape {list(mean.shape)}, which inputs {list(inputs.values.shape)} have not"
            raise CheckpointError(f"{text}. Fit the masker on batches like these, or load the checkpoint that it was fitted for.")
        return replace_content(inputs, mean.expand(shape))


@MASKERS.register("noise")
class NoiseMasker(Masker):
    """Replaces the content by Gaussian noise, or by tokens drawn uniformly from the vocabulary, special ones included.

    In training mode each call draws anew. In eval mode the noise of an example depends on its id alone.

    Args:
        standard_deviation: that of the noise, whose mean is 0; above 0.
        vocab_size: the number of tokens to draw from; needed to hide tokens, and known to a run.
        length: positions that stand in for the content; 1 if null, 16,000 for a waveform. Pixels keep their size.
    """

    random = True

    def __init__(self, standard_deviation: float = 1.0, vocab_size: int | None = None, length: int | None = None):
        super().__init__()
        positive(standard_deviation=standard_deviation, length=length)
        if vocab_size is not None and vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {vocab_size}.")
        self.standard_deviation, self.vocab_size, self.length = standard_deviation, vocab_size, length

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        known = ["vocab_size: a run takes the tokenizer's, so that no token is drawn that the model lacks. Leave it out."]
        return super().check(options, setting) + known * ("vocab_size" in options)

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        like = inputs.values.new_empty(stand_in_shape(inputs, self.length))
        if like.is_floating_point():
            return replace_content(inputs, self.standard_deviation * torch.randn_like(like))
        return replace_content(inputs, torch.randint_like(like, self._num_tokens(modality)))

    def hide_in(self, batch: Batch, modality: str) -> ModalityInputs | None:
        inputs = batch.inputs[modality]
        if self.training:
            return self.hide(modality, inputs)
        shape, is_tokens = stand_in_shape(inputs, self.length)[1:], not inputs.values.is_floating_point()
        rows = np.stack([self._noise_of(modality, name, shape, is_tokens) for name in batch.ids])  # [B, N, ..]
        return replace_content(inputs, torch.from_numpy(rows).to(inputs.values.device))

    def _noise_of(self, modality: str, example: str, shape: tuple[int, ...], is_tokens: bool) -> Any:
        generator = np.random.default_rng([crc32(modality.encode()), crc32(example.encode())])
        if is_tokens:
            return generator.integers(self._num_tokens(modality), size=shape)
        return self.standard_deviation * generator.standard_normal(shape, np.float32)

    def _num_tokens(self, modality: str) -> int:
        if self.vocab_size is None:
            raise ValueError(f"noise needs vocab_size to hide {modality!r}, whose values are tokens.")
        return self.vocab_size


@MASKERS.register("other")
class OtherMasker(Masker):
    """Replaces the whole modality, its length included, by that of another example of the batch, a number of rows above.

    An example that is alone in its batch, such as the last of a split, gets the last one of the latest batch of several.

    Args:
        shift: how many rows above the other example is, at least 1, counted in circles; 1 where it would lead back to itself.
    """

    random = True

    def __init__(self, shift: int = 1):
        super().__init__()
        if shift < 1:
            raise ValueError(f"shift must be at least 1, got {shift}.")
        self.shift = shift
        self.latest: dict[str, ModalityInputs] = {}

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        size = len(inputs.values)
        if size > 1:
            self.latest[modality] = tree_map(lambda values: values[-1:].clone(), inputs)
            return tree_map(lambda values: values.roll(self.shift % size or 1, 0), inputs)
        if modality not in self.latest:
            raise ValueError(
                f"no other example to take {modality!r} from: the first batch holds a single one. Choose larger batches "
                f"(training.batch_size over all processes and parts, evaluation.batch_size)."
            )
        return self.latest[modality]


def _name(modality: str) -> str:
    return f"mean_{modality}"


def _expect_means(masker: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Makes room for the means in a state that is about to be loaded: their names are those of the modalities."""
    for key, value in state.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix + _name("")) and "." not in name:
            masker.register_buffer(name, torch.empty_like(value, device=masker.get_buffer("_device").device))
