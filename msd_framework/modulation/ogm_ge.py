"""On-the-fly gradient modulation: the modality that is learned fastest is slowed down, so that the others are learned too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from msd_framework.data.batches.plan import stream_seed
from msd_framework.losses.base import at_least_float32
from msd_framework.models.base import MultimodalModel, evaluated
from msd_framework.modulation.base import MODULATIONS, GradientModulation
from msd_framework.ranges import not_negative
from msd_framework.schedules import Mean, Progress
from msd_framework.structures import IGNORED, Batch, Outcomes, Task, outcomes_of, probabilities

SMALLEST = 1e-12  # the least score that another is compared with


@MODULATIONS.register("ogm_ge")
class OnTheFlyModulation(GradientModulation):
    r"""The gradient of an encoder shrinks by how much better its modality alone knows the answer than the others do.

    .. math::
        g_m &\leftarrow k_m g_m + \epsilon, \qquad \epsilon \sim \mathcal N\left(0, \mathrm{sd}(g_m)^2\right) \\
        k_m &= \begin{cases} 1 - \tanh(\alpha \rho_m) & \text{if } \rho_m > 1 \\ 1 & \text{else} \end{cases}, \qquad
        \rho_m = \frac{s_m}{\frac{1}{M - 1} \sum_{n \ne m} s_n}, \qquad
        s_m = \sum_i p(y_i \mid x_{im})

    with :math:`p(y \mid x_m)` the probability that the student gives the right class when it is shown modality m alone (Peng
    et al., CVPR 2022, arXiv:2203.15332, equations 8 to 13; the noise, GE, is what SGD would have lost of its own). The sums are
    over the whole batch, all processes and all parts of `training.accumulate`; :math:`\mathrm{sd}` is that of the
    numbers in one parameter's gradient. Encoders are modulated, what comes after them is not; it happens before
    `training.clip_norm`, and the noise is the same on all processes and in a resumed run. `modulation/<modality>` in
    the log is :math:`k_m` of the update before.

    What differs from the paper: it splits a linear classifier into one for each modality; here the student predicts from each
    modality alone, in eval mode and without a gradient, which is one more forward pass of each encoder in each update. It has
    two modalities; with more, :math:`s_m` is compared with the mean of the others'. It has single labels; for several,
    :math:`p` is the mean probability of the labels that an example has. The released code changes convolutions only; here all
    parameters of an encoder are changed.

    Args:
        alpha: how strongly it acts, at least 0; 0 changes nothing but for the noise.
        noise: whether noise of the gradient's own size is added (GE).
        until: the part of the run after which gradients are left alone, between 0 and 1; the released code stops half way.
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if null.
        seed: of the noise.
    """

    coefficients: Tensor

    def __init__(
        self,
        alpha: float = 0.3,
        noise: bool = True,
        until: float = 0.5,
        task: Task = "single_label",
        outcomes: Outcomes | None = None,
        seed: int = 0,
    ):
        super().__init__()
        not_negative(alpha=alpha)
        if not 0 <= until <= 1:
            raise ValueError(f"until must lie between 0 and 1, got {until}.")
        self.alpha, self.noise, self.until, self.seed = alpha, noise, until, seed
        self.right = right_class if task == "single_label" else partial(right_labels, outcomes=outcomes_of(task, outcomes))
        self.modalities: tuple[str, ...] = ()
        self.update, self.acts = 0, False
        self.scores: list[Tensor] = []  # what s is made of, of each part of this update, [3, M]
        self.encoders: list[list[nn.Parameter]] = []  # of the model that was looked at last

    def prepare(self, modalities: tuple[str, ...]) -> None:
        self.modalities = modalities
        self.register_buffer("coefficients", torch.ones(len(modalities), dtype=torch.float64))  # [M]

    def begin_update(self, progress: Progress) -> None:
        self.update, self.acts = progress.update, progress.share < self.until
        self.scores.clear()
        if not self.acts:
            self.coefficients.fill_(1.0)

    def forward(self, model: MultimodalModel, batch: Batch) -> dict[str, Tensor]:
        if not model.separable:
            raise ValueError(
                f"ogm_ge needs a model with an encoder of its own for each modality, and {type(model).__name__} is not."
            )
        if self.training and self.acts:
            self.encoders = [list(model.get_submodule(f"encoders.{m}").parameters()) for m in self.modalities]
            self.scores.append(self._scores(model, batch))
        return {f"modulation/{m}": k for m, k in zip(self.modalities, self.coefficients.clone())}

    @torch.no_grad()
    def _scores(self, model: MultimodalModel, batch: Batch) -> Tensor:
        """What s is made of, float64 [3, M]."""
        with evaluated(model):
            logits = model.forward_views([{m: batch.inputs[m]} for m in self.modalities]).logits  # [M, B, C]
        return confidence_sums(self.right, logits, batch, list(map(batch.having.get, self.modalities)))

    def after_backward(self, mean: Mean) -> None:
        if not self.scores:
            return
        s = summed_confidence(mean(torch.stack(self.scores).sum(0)))  # [M]
        rho = s / ((s.sum() - s) / max(1, len(s) - 1)).clamp(min=SMALLEST)
        self.coefficients.copy_(torch.where(rho > 1, 1 - torch.tanh(self.alpha * rho), 1.0))
        generator = torch.Generator(s.device).manual_seed(stream_seed(self.seed, self.update))
        for k, parameters in zip(self.coefficients, self.encoders):
            for g in (p.grad for p in parameters if p.grad is not None):
                # The noise is as large as the gradient was before it shrinks.
                noise = _noise(g, generator) if self.noise else 0.0
                g.mul_(k.to(g.dtype)).add_(noise)


def _noise(gradient: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype, device=gradient.device)
    return drawn * gradient.std(correction=0)


def confidence_sums(
    right: Callable[[Tensor, Tensor], Tensor], logits: Iterable[Tensor], batch: Batch, having: Sequence[Tensor | None]
) -> Tensor:
    """What `summed_confidence` is made of, for M modalities' logits [N, C]; that of parts of a batch adds up to that of the whole.

    Args:
        having: which examples have each modality, bool [B]; None where all do.

    Returns:
        float64 [3, M]: the probability of what is right, summed over the examples that have the modality; how many of those with a
        label have it; and how many have a label.
    """
    labelled = batch.mean_of_targets(batch.labelled.double()) > 0  # [B]
    confidence, known = [], []
    for z, there in zip(logits, having):
        values = batch.mean_of_targets(right(at_least_float32(z), batch.targets).double())  # [B]
        confidence.append(values if there is None else values * there)
        known.append(labelled if there is None else labelled & there)
    sums, counts = torch.stack(confidence).sum(1), torch.stack(known).sum(1)  # [M] each
    return torch.stack([sums, counts, labelled.sum().expand_as(counts)])


def summed_confidence(sums: Tensor) -> Tensor:
    """The probability of what is right, summed over examples, [M]: of those that lack a modality, as if the others spoke for them.

    >>> summed_confidence(torch.tensor([[3.0, 2.0], [4.0, 2.0], [4.0, 4.0]]))  # two of four have the second modality
    tensor([3., 4.])
    """
    confidence, num_there, num_labelled = sums.unbind()
    return confidence * (num_labelled / num_there.clamp(min=SMALLEST))


def right_class(logits: Tensor, targets: Tensor) -> Tensor:
    """The probability of the right class, 0 where it is not known, from logits [B, C] or [B, L, C], targets [B] or [B, L]."""
    p = logits.softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return p.masked_fill(targets == IGNORED, 0.0)


def right_labels(logits: Tensor, targets: Tensor, outcomes: Outcomes = "bernoulli") -> Tensor:
    """The mean probability of the labels that an example has, by their scores from 0 to 1, NaN where nobody knows; 0 without any.

    >>> right_labels(torch.tensor([[0.0, 100.0, -100.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    tensor([0.7500])
    """
    scores = targets.nan_to_num(nan=0.0).to(logits.dtype)
    return (scores * probabilities(logits, outcomes)).sum(-1) / scores.sum(-1).clamp(min=SMALLEST)
