"""Channel saliency: how much of a layer's channel is of use to a model of another modality, too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from msd_framework.models.layers.layer import Layer


def channel_saliency(
    answer: Callable[[Tensor], Tensor], channels: Tensor, reference: Tensor, permutations: Tensor, at_once: int = 256
) -> Tensor:
    r"""How far two models come apart if a channel of one of them is shuffled among the examples.

    .. math:: s_d = \frac{1}{M} \sum_{m=1}^{M} \frac{1}{NC} \sum_{n,c} \bigl(z_{nc}(h^{(d, \pi_{md})}) - z'_{nc}\bigr)^2

    with :math:`h^{(d, \pi)}` the channels :math:`h` after :math:`h_{nd}` was replaced by :math:`h_{\pi(n) d}`, :math:`z` the
    model's logits and :math:`z'` the other's; then scaled from 0 to 1 (zeros if all are the same). Two models that were trained
    to agree do so through what both modalities show: the larger, the more general to both of them a channel is.

    Source: Xue et al., The Modality Focusing Hypothesis, ICLR 2023 (arXiv:2206.06487), Algorithm 1, steps 2 to 5.

    Args:
        answer: logits [N, C] of channels [N, .., D]: what of the model comes after them.
        channels: float [N, .., D].
        reference: logits of the other model for the same examples, [N, C].
        permutations: of the examples, int64 [M, D, N], one for each channel each time.
        at_once: how many times N examples are answered at once, by `torch.func.vmap`; 1 is for a model that it cannot take.
    """
    size, num_channels = len(channels), channels.shape[-1]
    if permutations.ndim != 3 or permutations.shape[1:] != (num_channels, size):
        raise ValueError(f"permutations must be [M, {num_channels}, {size}], got {list(permutations.shape)}.")
    if len(reference) != size:
        raise ValueError(f"the models must answer the same examples, got {size} of one and {len(reference)} of the other.")
    columns = channels.movedim(-1, 0)  # [D, N, ..]

    def distance(which: Tensor, column: Tensor, permutation: Tensor) -> Tensor:
        shuffled = torch.where(which, column[permutation][..., None], channels)  # [N, .., D]
        return (answer(shuffled) - reference).square().mean()

    times, own = len(permutations), torch.eye(num_channels, dtype=torch.bool, device=channels.device)
    shuffles = own.repeat(times, 1), columns.repeat(times, *[1] * (columns.ndim - 1)), permutations.flatten(0, 1)  # M D of each
    with torch.no_grad():
        if at_once > 1:
            distances = torch.func.vmap(distance, chunk_size=at_once)(*shuffles)
        else:
            distances = torch.stack([distance(*one) for one in zip(*shuffles)])
        return min_max(distances.view(times, num_channels).mean(0))


def min_max(scores: Tensor) -> Tensor:
    """Scores scaled to lie between 0 and 1; zeros if they are all the same."""
    spread = scores.max() - scores.min()
    return torch.where(spread > 0, (scores - scores.min()) / spread.clamp(min=torch.finfo(scores.dtype).tiny), 0.0)


def draw_permutations(num_permutations: int, num_channels: int, num_examples: int, seed: int = 0) -> Tensor:
    """Permutations of the examples for each channel, int64 [M, D, N]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_permutations, num_channels, num_examples, generator=generator).argsort(-1)


def layer_saliency(
    layer: Layer, run: Callable[[], Tensor], reference: Tensor, permutations: Callable[[int], Tensor], at_once: int = 256
) -> Tensor:
    """The `channel_saliency` of a layer; `run` makes logits [N, C], `permutations` those of D channels, [M, D, N]."""
    channels = layer.read(run)  # [N, .., D]
    drawn = permutations(channels.shape[-1]).to(channels.device)
    return channel_saliency(lambda h: layer.replaced(h, run), channels, reference, drawn, at_once)
