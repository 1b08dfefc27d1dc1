"""The Modality Focusing Hypothesis on features and on models: Venn diagrams, Algorithm 1, and teachers that keep some channels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from torch import Tensor, nn

from msd_framework.analysis.mfh.channels import channel_saliency, draw_permutations, layer_saliency, min_max
from msd_framework.analysis.mfh.venn import Venn, basis_of, estimate_venn, explained
from msd_framework.errors import ConfigError
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.encoders.region_features import RegionFeatures
from msd_framework.models.layers.layer import Layer
from msd_framework.models.logit_fusion import LogitFusion
from msd_framework.structures import Batch, ModalityInputs
from msd_framework.teachers.live import LiveTeacher
from msd_framework.teachers.masked import SALIENCY_FILE, choose_channels, keep_channels, read_saliency
from projects.mfh_gauss.worlds import Modality, World

EXACT = 1e-12  # float64: the same sums in another order


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# ---- the Venn diagram ----


@given(a=st.frozensets(st.integers(0, 12)), b=st.frozensets(st.integers(0, 12)))
def test_the_parts_of_a_diagram_are_those_of_sets(a: frozenset[int], b: frozenset[int]) -> None:
    venn = Venn(len(a), len(b), len(a & b))
    assert venn.alpha == (len(a - b) / len(a) if a else 0)
    assert venn.beta == (len(b - a) / len(b) if b else 0)
    assert venn.gamma == (len(a & b) / len(a | b) if a | b else 0)


def shown_by(overlap: int, size: int = 4000, seed: int = 0) -> tuple[World, Tensor, Tensor, Tensor]:
    """A world of the paper's figure 2, 10 of whose features decide for either modality, and what each shows."""
    world = World(20, Modality(range(10 - overlap, 20 - overlap), 25), Modality(range(10), 50))
    sample = world.sample(np.random.default_rng(seed), np.ones(20), size)
    return world, sample.teacher[0].double(), sample.student[0].double(), sample.y[0]


@pytest.mark.parametrize("overlap", [0, 4, 8, 10])
def test_an_estimated_diagram_is_that_of_the_world_it_was_drawn_from(overlap: int) -> None:
    world, teacher, student, y = shown_by(overlap)
    venn = estimate_venn(teacher, student, y, num_permutations=5)
    assert venn.gamma == pytest.approx(world.gamma, abs=0.06)  # three standard deviations over seeds
    assert venn.alpha == pytest.approx(world.alpha, abs=0.12)  # which moves twice as far


def test_features_that_decide_more_count_more() -> None:
    """The weights of features 0 to 5 are 1 to 6: gamma is the share of the squares."""
    z, w = randn(10_000, 6), torch.arange(1.0, 7.0, dtype=torch.float64)
    venn = estimate_venn(z[:, :4], z[:, 2:], (z @ w > 0).long(), num_permutations=5)
    assert venn.teacher == pytest.approx(2 / np.pi * 30 / 91, abs=0.02)  # of a sign, a line explains 2 / pi
    assert venn.gamma == pytest.approx((9 + 16) / 91, abs=0.03)
    assert venn.beta == pytest.approx((25 + 36) / (9 + 16 + 25 + 36), abs=0.03)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "rotated": lambda x: x @ torch.linalg.qr(randn(50, 50, seed=1))[0],
    "mixed and in other units": lambda x: 100 * x @ randn(50, 50, seed=1) + 7,
    "each column twice": lambda x: torch.cat([x, x], 1),
    "rotated beside itself": lambda x: torch.cat([x, x @ torch.linalg.qr(randn(50, 50, seed=1))[0]], 1),
    "a constant beside it": lambda x: torch.cat([x, torch.full((len(x), 3), 5.0, dtype=x.dtype)], 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_how_columns_show_the_same_space_changes_nothing(change: str) -> None:
    _, teacher, student, y = shown_by(4, size=1000)
    plain, turned = (estimate_venn(teacher, x, y, num_permutations=5) for x in (student, CHANGES[change](student)))
    for part in ("teacher", "student", "shared", "gamma"):
        assert getattr(turned, part) == pytest.approx(getattr(plain, part), abs=1e-9)


def test_columns_twice_in_float32_are_no_more_than_once() -> None:
    _, teacher, student, y = shown_by(4, size=1000)
    turned = torch.cat([student, student @ torch.linalg.qr(randn(50, 50, seed=1))[0]], 1).float()
    assert estimate_venn(teacher, turned, y).gamma == pytest.approx(estimate_venn(teacher, student, y).gamma, abs=1e-3)


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_noisy_copies_of_columns_change_next_to_nothing(noise: float) -> None:
    _, teacher, student, y = shown_by(4)
    copied = torch.cat([student, student + noise * randn(*student.shape, seed=1)], 1)
    venn = estimate_venn(teacher, copied, y, num_permutations=5)
    assert venn.gamma == pytest.approx(estimate_venn(teacher, student, y, num_permutations=5).gamma, abs=0.03)


def test_a_shared_feature_that_one_sees_through_noise_counts_as_far_as_it_agrees() -> None:
    """With noise as large as the feature, half of its variance is left: |A| = 1, |B| = |A and B| = 1/2."""
    z = randn(20_000, 1)
    venn = estimate_venn(z, z + randn(20_000, 1, seed=1), (z[:, 0] > 0).long(), num_permutations=5)
    assert (venn.gamma, venn.alpha, venn.beta) == pytest.approx((0.5, 0.5, 0.0), abs=0.02)


def test_several_classes_are_explained_together() -> None:
    z = randn(8000, 6)
    y = (z[:, :3] + z[:, 3:]).argmax(1)  # each class by two features, one a modality
    venn = estimate_venn(z[:, :3], z[:, 3:], y, num_permutations=5)
    assert venn.gamma == pytest.approx(0, abs=0.03)
    assert venn.teacher == pytest.approx(venn.student, abs=0.03)


def test_where_nothing_decides_nothing_is_found() -> None:
    x, y = randn(500, 8), (randn(500, seed=1) > 0).long()
    venn = estimate_venn(x, randn(500, 5, seed=2), y)
    assert (venn.teacher, venn.student, venn.shared, venn.gamma) == (0, 0, 0, 0)


def test_what_is_explained_is_the_adjusted_share_of_scikit_learns_regression() -> None:
    x, y = randn(60, 7), F.one_hot(torch.arange(60) % 3).double()
    share = r2_score(y, LinearRegression().fit(x, y).predict(x), multioutput="variance_weighted")
    assert explained(basis_of(x), y) == pytest.approx(1 - (1 - share) * 59 / (59 - 7), abs=1e-12)


def test_more_dimensions_than_examples_are_refused() -> None:
    with pytest.raises(
        ValueError, match="wanted more examples than the features have dimensions, got 20 examples and 19 dimensions"
    ):
        estimate_venn(randn(20, 30), randn(20, 3, seed=1), torch.arange(20) % 2)


@pytest.mark.parametrize(
    ("teacher", "student", "y", "text"),
    [
        ((20, 3), (19, 3), 20, r"wanted two matrices of the same 8 or more examples, got \[20, 3\] and \[19, 3\] for 20 labels"),
        ((20, 3), (20,), 20, r"got \[20, 3\] and \[20\] for 20 labels"),
        ((7, 3), (7, 3), 7, "8 or more"),
        ((20, 3), (20, 3), 8, "for 8 labels"),
    ],
)
def test_matrices_of_other_examples_are_refused(teacher: Any, student: Any, y: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        estimate_venn(torch.zeros(teacher), torch.zeros(student), torch.zeros(y, dtype=torch.long))


def test_options_of_the_estimate_must_lie_in_range() -> None:
    with pytest.raises(ValueError, match="num_permutations must be above 0"):
        estimate_venn(torch.zeros(9, 1), torch.zeros(9, 1), torch.zeros(9).long(), num_permutations=0)


# ---- Algorithm 1 ----


def algorithm_1(answer: Callable[[Tensor], Tensor], channels: Tensor, reference: Tensor, permutations: Tensor) -> Tensor:
    """Steps 2 to 5 as they are printed, one channel and one permutation after another; channels last."""
    distances = torch.zeros(len(permutations), channels.shape[-1], dtype=channels.dtype)
    for m, drawn in enumerate(permutations):
        for d in range(channels.shape[-1]):
            shuffled = channels.clone()
            for n in range(len(channels)):
                shuffled[n, ..., d] = channels[drawn[d, n], ..., d]
            distances[m, d] = F.mse_loss(answer(shuffled), reference)
    found = distances.mean(0)
    return (found - found.min()) / (found.max() - found.min())


@pytest.mark.parametrize("at_once", [1, 4, 1000])
@pytest.mark.parametrize("shape", [(7, 4), (7, 3, 4), (7, 2, 3, 4)])
def test_channel_saliency_is_algorithm_1(shape: tuple[int, ...], at_once: int) -> None:
    weight = randn(shape[-1], 3, seed=1)

    def answer(h: Tensor) -> Tensor:
        return (h.tanh() @ weight).flatten(1, -2).sum(1) if h.ndim > 2 else h.tanh() @ weight

    h, reference, drawn = randn(*shape), randn(7, 3, seed=2), draw_permutations(5, shape[-1], 7)
    with torch.no_grad():
        torch.testing.assert_close(
            channel_saliency(answer, h, reference, drawn, at_once), algorithm_1(answer, h, reference, drawn), atol=EXACT, rtol=0
        )


class Conv(nn.Module):
    """A convolution whose channels stand second, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x).relu().flatten(1))
        return logits


def test_the_saliency_of_a_layer_is_algorithm_1_wherever_its_channels_stand() -> None:
    torch.manual_seed(0)
    net, x, reference, drawn = Conv().double(), randn(6, 1, 5, 5), randn(6, 3, seed=2), draw_permutations(3, 4, 6)

    def answer(h: Tensor) -> Tensor:
        logits: Tensor = net.head(h.movedim(-1, 1).relu().flatten(1))
        return logits

    found = layer_saliency(Layer(net, "conv", channel_dim=1), lambda: net(x), reference, lambda size: drawn)
    with torch.no_grad():
        wanted = algorithm_1(answer, net.conv(x).movedim(1, -1), reference, drawn)
    torch.testing.assert_close(found, wanted, atol=EXACT, rtol=0)
    assert not net.conv._forward_hooks


def test_a_layer_in_the_middle_of_a_transformer_is_shuffled_as_a_whole_row_at_a_time() -> None:
    from msd_framework.models.layers.transformer import LayerSizes, Transformer

    torch.manual_seed(0)
    net, x, mask = Transformer(2, LayerSizes(8, 2, 12)).double().eval(), randn(5, 4, 8), torch.ones(5, 4, dtype=torch.bool)
    name = next(n for n, m in net.named_modules() if isinstance(m, nn.Linear) and m.out_features == 12)
    drawn, reference = draw_permutations(2, 12, 5), randn(5, 8, seed=3)

    def run() -> Tensor:
        out: Tensor = net(x, mask)[:, 0]
        return out

    layer = Layer(net, name)
    with torch.no_grad():
        found = layer_saliency(layer, run, reference, lambda size: drawn, at_once=1)
        wanted = algorithm_1(lambda h: layer.replaced(h, run), layer.read(run), reference, drawn)
    torch.testing.assert_close(found, wanted, atol=EXACT, rtol=0)


def test_planted_general_channels_are_found() -> None:
    """Linear models of two modalities that share the first three of eight features, in closed form: a shared channel that is
    shuffled moves the models apart, a private one that the model does not weigh moves nothing."""
    h = randn(400, 8)
    weight = torch.tensor([3.0, 2.0, 1.0, 0, 0, 0, 0, 0], dtype=torch.float64)[:, None].repeat(1, 2)
    found = channel_saliency(lambda x: x @ weight, h, h @ weight, draw_permutations(30, 8, 400))
    # E (w (h - h'))^2 = 2 w^2, over the largest
    torch.testing.assert_close(found, (weight[:, 0] / 3).square(), atol=0.05, rtol=0)


def test_scores_are_scaled_to_one_and_equal_ones_are_zero() -> None:
    assert min_max(torch.tensor([3.0, 3.0])).tolist() == [0, 0]
    assert min_max(torch.tensor([1.0, 5.0, 2.0])).tolist() == [0, 1, 0.25]


def test_permutations_are_permutations_of_their_own_by_seed() -> None:
    drawn = draw_permutations(3, 4, 50, seed=1)
    assert drawn.sort(-1).values.eq(torch.arange(50)).all()
    assert len(drawn.flatten(0, 1).unique(dim=0)) == 12
    assert torch.equal(drawn, draw_permutations(3, 4, 50, seed=1))
    assert not torch.equal(drawn, draw_permutations(3, 4, 50, seed=2))


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 7), (3, 5, 6)])
def test_permutations_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"permutations must be \[M, 4, 6\], got"):
        channel_saliency(lambda h: h, randn(6, 4), randn(6, 4), torch.zeros(shape, dtype=torch.long))


def test_answers_to_other_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="the models must answer the same examples, got 6 of one and 5 of the other"):
        channel_saliency(lambda h: h, randn(6, 4), randn(5, 4), draw_permutations(1, 4, 6))


# ---- layers by name ----


def test_a_layer_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"there is no layer 'cnv'. Did you mean 'conv'\? Layers: conv, head"):
        Layer(Conv(), "cnv")
    with pytest.raises(ValueError, match="there is no layer ''"):
        Layer(Conv(), "")


def test_a_layer_that_is_called_twice_or_puts_out_no_tensor_is_told() -> None:
    net = Conv()
    with pytest.raises(ValueError, match=r"layer 'conv' must put out one tensor \[N, .., D\], got 2 outputs"):
        Layer(net, "conv").read(lambda: (net(torch.ones(2, 1, 5, 5)), net(torch.ones(2, 1, 5, 5))))
    attention = nn.MultiheadAttention(4, 1)
    with pytest.raises(ValueError, match=r"layer '0' must put out one tensor .* got tuple"):
        Layer(nn.Sequential(attention), "0").read(lambda: attention(*[torch.ones(2, 1, 4)] * 3))


def test_what_a_layer_puts_out_is_read_and_replaced_and_nothing_stays() -> None:
    net, x, other = Conv().double(), randn(2, 1, 5, 5), randn(2, 1, 5, 5, seed=1)
    before, layer = net(x), Layer(net, "conv", channel_dim=1)
    h = layer.read(lambda: net(other))
    assert h.shape == (2, 3, 3, 4)
    assert not h.requires_grad
    torch.testing.assert_close(layer.replaced(h, lambda: net(x)), net(other), atol=EXACT, rtol=0)
    torch.testing.assert_close(net(x), before, atol=0, rtol=0)


# ---- teachers that keep some channels ----


@given(size=st.integers(1, 40), share=st.floats(0.01, 1), seed=st.integers(0, 5))
def test_channels_are_chosen_by_their_scores(size: int, share: float, seed: int) -> None:
    scores = torch.rand(size, generator=generator(seed))
    general, specific, random = (choose_channels(by, share, size, scores, seed) for by in ("general", "specific", "random"))  # type: ignore[arg-type]
    count = max(1, round(share * size))
    assert general.sum() == specific.sum() == random.sum() == count
    assert scores[general].min() >= scores[~general].max() if count < size else True
    assert scores[specific].max() <= scores[~specific].min() if count < size else True
    assert torch.equal(random, choose_channels("random", share, size, None, seed))


def test_random_channels_are_drawn_without_replacement_and_by_seed() -> None:
    drawn = torch.stack([choose_channels("random", 0.25, 16, seed=s) for s in range(200)])
    assert drawn.sum(1).eq(4).all()
    assert drawn.double().mean(0).sub(0.25).abs().max() < 0.12  # 4 standard errors of 200 draws
    assert len(drawn.unique(dim=0)) > 150


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="the share of channels that are kept must be above 0 and at most 1, got"):
        choose_channels("random", share, 4)


@pytest.mark.parametrize(("scores", "got"), [(None, "none"), (torch.zeros(3), "3")])
def test_scores_that_do_not_fit_are_refused(scores: Tensor | None, got: str) -> None:
    with pytest.raises(ValueError, match=f"wanted a score for each of the 4 channels, got {got}"):
        choose_channels("general", 0.5, 4, scores)


def pair(seed: int = 0) -> LogitFusion:
    torch.manual_seed(seed)
    encoders: dict[str, Any] = {m: RegionFeatures(feature_size=5) for m in ("audio", "image")}
    return LogitFusion(encoders, num_classes=3, hidden_size=6, dropout=0.3).double().eval()


def batch() -> Batch:
    every = torch.ones(7, 2, dtype=torch.bool)
    inputs = {m: ModalityInputs(randn(7, 2, 5, seed=s), every) for s, m in enumerate(("audio", "image"))}
    return Batch(inputs, torch.zeros(7, dtype=torch.long), tuple("abcdefg"))


def write_scores(folder: Path, scores: Any, layer: str = "projections.audio") -> str:
    (folder / SALIENCY_FILE).write_text(json.dumps({"layer": layer, "saliency": scores}))
    return str(folder)


@pytest.mark.parametrize(("by", "kept"), [("general", [1, 4]), ("specific", [0, 3])])
def test_a_teacher_that_keeps_channels_is_the_model_without_the_weights_of_the_others(
    tmp_path: Path, by: Any, kept: list[int]
) -> None:
    folder = write_scores(tmp_path, [0.0, 1.0, 0.5, 0.1, 0.9, 0.4])
    masked, cut, examples = pair(), pair(), batch()
    keep_channels(masked, "projections.audio", by, share=1 / 3, saliency=folder)
    with torch.no_grad():
        lost = [d for d in range(6) if d not in kept]
        cut.classifiers["audio"].weight[:, lost] = 0
    views = ("full", "audio", "image")
    asked = [LiveTeacher(model, DropMasker()).predict(examples, views).logits for model in (masked, cut, pair())]
    torch.testing.assert_close(asked[0], asked[1], atol=EXACT, rtol=0)
    assert not torch.allclose(asked[0][1], asked[2][1])
    torch.testing.assert_close(asked[0][2], asked[2][2], atol=0, rtol=0)  # the other modality's view is left as it was


def test_convolution_channels_are_kept_where_they_stand() -> None:
    net = Conv()
    keep_channels(net, "conv", "random", share=0.5, channel_dim=1)
    out = net.conv(torch.rand(3, 1, 5, 5))
    assert (out.abs().sum((0, 2, 3)) == 0).sum() == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read .* Make it with the experiment `channel_saliency`"),
        ("{", "cannot be read"),
        ('{"layer": "a"}', "cannot be read"),
        ('{"layer": "a", "saliency": ["x"]}', "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"layer": "b", "saliency": [1]}', "is of layer 'b', and channels of 'a' are to be kept"),
    ],
)
def test_scores_that_are_missing_damaged_or_of_another_layer_are_told(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / SALIENCY_FILE).write_text(text)
    with pytest.raises(ConfigError, match=f"teacher.channels.saliency: .*{said}"):
        read_saliency(str(tmp_path), "a")


def test_a_teacher_without_the_layer_is_told() -> None:
    with pytest.raises(ConfigError, match=r"teacher.channels.layer: there is no layer 'projections.audo'. Did you mean"):
        keep_channels(pair(), "projections.audo", "random", 0.5)


# ---- the pair that is trained to agree ----


def test_averaged_logits_are_those_of_the_unimodal_models() -> None:
    model, examples = pair(), batch()
    alone = {m: model(DropMasker().view(examples, m).inputs).logits for m in model.modalities}
    torch.testing.assert_close(model(examples.inputs).logits, (alone["audio"] + alone["image"]) / 2, atol=EXACT, rtol=0)
    hidden = torch.arange(7) < 4
    audio = ModalityInputs(examples.inputs["audio"].values, examples.inputs["audio"].mask & hidden[:, None])
    some = model({**examples.inputs, "audio": audio}).logits
    torch.testing.assert_close(some[4:], alone["image"][4:], atol=EXACT, rtol=0)


def test_a_model_of_no_modality_is_refused() -> None:
    with pytest.raises(ValueError, match="encoders must name at least one modality, got none"):
        LogitFusion({}, num_classes=3)
