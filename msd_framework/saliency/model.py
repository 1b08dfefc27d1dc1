"""Saliency from inside the teacher rather than from its predictions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from msd_framework.losses.base import at_least_float32
from msd_framework.models.base import MultimodalModel
from msd_framework.models.single_sequence import SingleSequence
from msd_framework.saliency.base import SALIENCIES, Saliency
from msd_framework.structures import Inputs, ModelOutput, Outcomes, Task, outcomes_of
from msd_framework.views import FULL


class ModelSaliency(Saliency):
    """A score that is read off a single-stream model, such as VisualBERT, as it predicts the full view."""

    non_negative: ClassVar[bool] = True
    needs_model: ClassVar[bool] = True

    def views(self, modalities: Sequence[str]) -> tuple[str, ...]:
        return (FULL,)

    def forward(self, predictions: Mapping[str, ModelOutput], targets: Tensor, modalities: Sequence[str]) -> Tensor:
        return torch.stack([predictions[FULL].features[m] for m in modalities], -1)  # [B, M]

    def look(self, model: MultimodalModel, inputs: Inputs) -> dict[str, Tensor]:
        return self.read(cast(SingleSequence, model), inputs)

    @abstractmethod
    def read(self, model: SingleSequence, inputs: Inputs) -> dict[str, Tensor]:
        """The score [B] of each modality on the full view."""


@SALIENCIES.register("gradient_x_input")
class GradientXInput(ModelSaliency):
    r"""How much the teacher's answer hangs on the modality's tokens, to first order.

    .. math::
        S_m(x) = \sum_{i \in m} \left|e_i^\top \frac{\partial F}{\partial e_i}\right|, \qquad
        F = \log \frac{p(\hat y \mid x)}{1 - p(\hat y \mid x)}

    with :math:`e_i` the embedded words, regions or sounds that the transformer reads, and F the log-odds of the teacher's own
    answer :math:`\hat y`, added up over labels where each is a question of its own. Log-odds keep their slope where the
    teacher is sure. [CLS] and [SEP] belong to no modality.

    Source: Shrikumar et al., Not Just a Black Box, 2016, arXiv:1605.01713, section 3.

    Args:
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if null.
    """

    def __init__(self, task: Task = "single_label", outcomes: Outcomes | None = None):
        super().__init__()
        self.outcomes = outcomes_of(task, outcomes)

    def read(self, model: SingleSequence, inputs: Inputs) -> dict[str, Tensor]:
        trace = trace_tokens(model, inputs)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(log_odds(trace.logits, self.outcomes).sum(), trace.tokens)
        relevance = (trace.tokens.detach() * slope).sum(-1).abs()  # [B, L]
        return {m: (relevance * own).sum(1) for m, own in trace.content.items()}


@SALIENCIES.register("attention_rollout")
class AttentionRollout(ModelSaliency):
    r"""The share of the modality's tokens in what the classifier's token has gathered by attention.

    .. math::
        S_m(x) = \sum_{i \in m} R_{1i}, \qquad R = \bar A_K \cdots \bar A_1, \qquad
        \bar A_k = \tfrac12 \left(I + \tfrac1H \sum_h A_{kh}\right)

    with :math:`A_{kh}` the attention weights of head h in layer k of K; the identity stands for the residual. Scores of an
    example add up to 1 less the share of [CLS] and [SEP]. They do not depend on the answer at all.

    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3.
    """

    def read(self, model: SingleSequence, inputs: Inputs) -> dict[str, Tensor]:
        trace = trace_tokens(model, inputs)
        flow = torch.eye(trace.tokens.shape[1], dtype=trace.tokens.dtype, device=trace.tokens.device)  # [L, L]
        for weights in trace.attention:  # [B, H, L, L]
            flow = (flow + weights.mean(1) @ flow) / 2  # [B, L, L]
        return {m: (flow[:, 0] * own).sum(1) for m, own in trace.content.items()}


@dataclass(frozen=True)
class TokenTrace:
    """A single-stream model's forward pass on the full view."""

    tokens: Tensor  # float [B, L, D], the sequence before the first layer; a leaf of the logits' graph
    content: Mapping[str, Tensor]  # which positions hold content of a modality, bool [B, L]
    attention: tuple[Tensor, ...]  # the weights of each layer, float [B, H, L, L], without graph
    logits: Tensor  # float [B, C]


def trace_tokens(model: SingleSequence, inputs: Inputs) -> TokenTrace:
    """Runs a model, packed or not, on the padded full view and records its transformer's tokens and attention."""
    (parts,) = model.parts([inputs])
    tokens, mask = model.embed(parts)  # [B, L, D], [B, L]
    tokens = tokens.detach().requires_grad_()
    attention: list[Tensor] = []

    def record_attention(layer: nn.Module, arguments: tuple[Tensor, Tensor]) -> None:
        with torch.no_grad():
            attention.append(_weights(layer, *arguments))

    layers: Any = model.encoder.layers
    hooks = [layer.attention.register_forward_pre_hook(record_attention) for layer in layers]
    try:
        with torch.enable_grad():
            logits = model.classify(model.pool(model.encoder(tokens, mask)[:, 0]))
    finally:
        for hook in hooks:
            hook.remove()
    spans, length = model.spans(parts), mask.shape[1]
    content = {}
    for modality in model.modalities:
        span = spans[modality]
        content[modality] = nn.functional.pad(span.mask, (span.start, length - span.stop))  # [B, L]
    return TokenTrace(tokens, content, tuple(attention), logits)


def _weights(attention: Any, x: Tensor, mask: Tensor) -> Tensor:
    """The attention weights of a sequence [B, L, D], [B, H, L, L]."""
    heads = (*x.shape[:2], attention.num_heads, -1)
    query, key = attention.query(x).view(heads).transpose(1, 2), attention.key(x).view(heads).transpose(1, 2)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    weights: Tensor = scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1)
    return weights


def log_odds(logits: Tensor, outcomes: Outcomes) -> Tensor:
    """How sure a model is of its own answer, float [N]: of a class against all others, or of each label, added up."""
    z = at_least_float32(logits)
    if outcomes == "bernoulli":
        return z.abs().sum(1)
    top, answer = z.max(1)
    return top - z.scatter(1, answer[:, None], -torch.inf).logsumexp(1)
