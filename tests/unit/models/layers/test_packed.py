"""All views in one pass without padding, against the padded form that runs them one at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from msd_framework.maskers.attention import AttentionMasker
from msd_framework.maskers.base import Masker
from msd_framework.maskers.composite import ModalityMasker
from msd_framework.maskers.constant import ConstantMasker
from msd_framework.maskers.drop import DropMasker
from msd_framework.maskers.resample import OtherMasker
from msd_framework.models.encoders.patches import Patches
from msd_framework.models.layers import packed
from msd_framework.models.layers.packed import _cuts, read_layers
from msd_framework.models.layers.transformer import LayerSizes, Transformer, whole
from msd_framework.models.visual_bert import VisualBert
from msd_framework.structures import Batch, Inputs, ModalityInputs

VIEWS = ["full", "image", "text", "~text"]
SIZES = {"hidden_size": 12, "num_layers": 3, "num_heads": 3, "intermediate_size": 20, "max_positions": 16}
MASKERS: dict[str, Masker] = {
    "drop": DropMasker(),
    "attention": AttentionMasker(),
    "constant": ConstantMasker(token=7),
    "other": OtherMasker(),
    "drop image, attention on text": ModalityMasker({"image": DropMasker(), "text": AttentionMasker()}),
    "constant image, drop text": ModalityMasker({"image": ConstantMasker(), "text": DropMasker()}),
}
SHORT, PADDED = "short rows", "padded rows"


def build(seed: int = 0, **options: Any) -> VisualBert:
    """A tiny model with every parameter random, so that nothing is equal for want of a bias."""
    torch.manual_seed(seed)
    facts = {"num_classes": 3, "vocab_size": 30, "feature_size": 5, "pad_id": 4, "cls_id": 1, "sep_id": 2}
    model = VisualBert(**(facts | SIZES | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().eval()


def two_forms(**options: Any) -> tuple[VisualBert, VisualBert]:
    return build(**options), build(**options, packed=False)


def make_batch(lengths: list[tuple[int, int]], marked: bool = True, dtype: torch.dtype = torch.float64, seed: int = 0) -> Batch:
    """Texts and images with these numbers of words and regions; regions that are not there are not numbers."""
    generator = torch.Generator().manual_seed(seed)
    num_words, num_regions = (torch.tensor(n)[:, None] for n in zip(*lengths))
    place = torch.arange(int(num_words.max()) + 1)
    mask = place < num_words
    special = ((place == 0) | (place == num_words - 1)) & mask
    extras = {"segments": torch.randint(0, 2, mask.shape, generator=generator)} | ({"special": special} if marked else {})
    text = ModalityInputs(torch.randint(5, 30, mask.shape, generator=generator), mask, extras)
    shown = torch.arange(int(num_regions.max()) + 1) < num_regions
    regions = torch.randn(*shown.shape, 5, generator=generator, dtype=torch.float64).to(dtype)
    image = ModalityInputs(regions.masked_fill(~shown[..., None], torch.nan), shown)
    return Batch({"image": image, "text": text}, torch.zeros(len(lengths)), tuple(map(str, range(len(lengths)))))


def views_of(batch: Batch, masker: Masker, names: list[str] = VIEWS) -> list[Inputs]:
    return [masker.view(batch, name).inputs for name in names]


def gradients(model: VisualBert, logits: Tensor) -> dict[str, Tensor]:
    """Of a score in which every logit counts differently."""
    weights = torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype).view_as(logits)
    found = torch.autograd.grad((logits * weights).sum(), list(model.parameters()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(model.named_parameters(), found)}


def same_with_gradients(model: VisualBert, padded: VisualBert, views: list[Inputs], tolerance: float) -> None:
    logits, expected = model.forward_views(views).logits, padded.forward_views(views).logits
    assert logits.isfinite().all()
    torch.testing.assert_close(logits, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(gradients(model, logits), gradients(padded, expected), atol=tolerance, rtol=tolerance)


@contextmanager
def rows(form: str, tolerance: int | None = None) -> Iterator[None]:
    """Lays rows out as on a CPU, or as where lengths cannot be looked up; a block may hold so many padded positions."""
    with pytest.MonkeyPatch.context() as patch:
        if form == PADDED:
            patch.setattr(packed, "can_look", lambda tensor: False)
            patch.setattr("msd_framework.models.visual_bert.can_look", lambda tensor: False)
        if tolerance is not None:
            patch.setattr(packed, "BLOCK_COST", tolerance * (4 * 12**2 + 2 * 12 * 20))
        yield


any_lengths = st.lists(st.tuples(st.integers(2, 10), st.integers(0, 6)), min_size=2, max_size=5)
layouts = pytest.mark.parametrize(("form", "tolerance"), [(SHORT, 0), (SHORT, 3), (SHORT, None), (PADDED, None)])


# ---- the same numbers ----


@layouts
@settings(max_examples=25)
@given(
    lengths=any_lengths,
    masker=st.sampled_from(sorted(MASKERS)),
    names=st.lists(st.sampled_from(VIEWS), min_size=1, max_size=4),
    train=st.booleans(),
    share=st.booleans(),
)
def test_packed_equals_padded(
    form: str, tolerance: int | None, lengths: list[tuple[int, int]], masker: str, names: list[str], train: bool, share: bool
) -> None:
    model, padded = two_forms(dropout=0.0, attention_dropout=0.0, share_embedding_dropout=share)
    batch = make_batch(lengths)
    with rows(form, tolerance):
        same_with_gradients(model.train(train), padded.train(train), views_of(batch, MASKERS[masker], names), 1e-9)


@layouts
@settings(max_examples=25)
@given(lengths=any_lengths, num_views=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_packed_equals_padded_under_any_mask(
    form: str, tolerance: int | None, lengths: list[tuple[int, int]], num_views: int, seed: int
) -> None:
    model, padded = two_forms()
    inputs = make_batch(lengths).inputs
    generator = torch.Generator().manual_seed(seed)

    def some(x: ModalityInputs, always: int | None) -> ModalityInputs:
        seen = torch.rand(x.mask.shape, generator=generator) < 0.5
        return replace(x, mask=x.mask & (seen | (torch.arange(x.mask.shape[1]) == always)))

    views = [{"image": some(inputs["image"], None), "text": some(inputs["text"], 1)} for _ in range(num_views)]
    with rows(form, tolerance):
        same_with_gradients(model, padded, views, 1e-9)


@layouts
def test_packed_equals_padded_in_single_precision(form: str, tolerance: int | None) -> None:
    model, padded = (m.float() for m in two_forms())
    views = views_of(make_batch([(9, 3), (4, 6), (4, 1), (7, 5)], dtype=torch.float32), DropMasker())
    with rows(form, tolerance):
        same_with_gradients(model, padded, views, 1e-5)  # float32: sums of dozens of terms in another order


@layouts
def test_a_row_that_begins_with_a_hidden_position_reads_as_when_padded(form: str, tolerance: int | None) -> None:
    model, padded = two_forms()
    batch = make_batch([(9, 3), (4, 6), (5, 2)], marked=False)  # without marks, an image-only view hides all words
    text = batch.inputs["text"]
    some = text.mask & torch.tensor([[True], [False], [True]])
    views = [*views_of(batch, AttentionMasker()), {**batch.inputs, "text": replace(text, mask=some)}]
    with rows(form, tolerance):
        same_with_gradients(model, padded, views, 1e-9)


@layouts
def test_views_with_text_left_out_equal_padded_ones(form: str, tolerance: int | None) -> None:
    model, padded = two_forms()
    batch = make_batch([(9, 3), (4, 6), (5, 2)], marked=False)  # without marks, dropping leaves no text
    with rows(form, tolerance):
        same_with_gradients(model, padded, views_of(batch, DropMasker()), 1e-9)


@layouts
@pytest.mark.parametrize("masker", ["drop", "attention", "constant"])
def test_an_image_encoder_in_front_gives_the_same(form: str, tolerance: int | None, masker: str) -> None:
    model, padded = (build(image_encoder=Patches(8, 4, hidden_size=8, num_layers=1), packed=form) for form in (True, False))
    padded.load_state_dict(model.state_dict())
    batch = make_batch([(9, 1), (4, 1), (5, 1)])
    image = ModalityInputs(torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([[True], [True], [False]]))
    with rows(form, tolerance):
        same_with_gradients(model, padded, views_of(batch.with_inputs({**batch.inputs, "image": image}), MASKERS[masker]), 1e-9)


@pytest.mark.parametrize("norm_first", [True, False])
def test_first_positions_of_any_stack_are_those_of_the_padded_one(norm_first: bool) -> None:
    torch.manual_seed(0)
    stack = Transformer(3, LayerSizes(8, 2, 16, norm_first=norm_first)).double().eval()
    mask = torch.arange(6) < torch.tensor([6, 2, 4, 1])[:, None]
    x = torch.randn(4, 6, 8, dtype=torch.float64)
    part = packed.Segment((x,), mask, (x,), lambda content: content)
    embeddings, found = packed.pack([[part]], token_cost=10**9)
    first, _ = read_layers(stack, found.place(embeddings), found, whole, ())
    torch.testing.assert_close(first, stack(x, mask)[:, 0], atol=1e-12, rtol=1e-12)


def test_an_example_of_which_nothing_is_shown_has_finite_logits_and_gradients() -> None:
    model, batch = build(), make_batch([(9, 3), (4, 6)], marked=False)
    hidden = {m: replace(x, mask=x.mask & torch.tensor([[True], [False]])) for m, x in batch.inputs.items()}
    logits = model.forward_views([batch.inputs, hidden]).logits
    assert logits.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(model, logits).values())


def test_a_view_gives_the_same_whatever_others_stand_beside_it() -> None:
    model, views = build(), views_of(make_batch([(9, 3), (4, 6), (5, 2)]), DropMasker())
    together = model.forward_views(views).logits
    alone = torch.stack([model(view).logits for view in views])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=1e-12)


# ---- forward mode, and derivatives of derivatives ----


class Score(nn.Module):
    """A number that depends on the logits of all views."""

    def __init__(self, model: VisualBert, views: list[Inputs]):
        super().__init__()
        self.model, self.views = model, views

    def forward(self) -> Tensor:
        return self.model.forward_views(self.views).logits.square().sum()


@layouts
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # torch's own, when it first loads its forward mode
def test_forward_mode_derivative_of_all_views_is_the_backward_one(form: str, tolerance: int | None) -> None:
    score = Score(build(), views_of(make_batch([(9, 3), (4, 6), (5, 2)]), DropMasker()))
    weights = {n: p.detach() for n, p in score.named_parameters()}
    generator = torch.Generator().manual_seed(3)
    direction = {n: torch.randn(w.shape, dtype=w.dtype, generator=generator) for n, w in weights.items()}

    def at(weights: dict[str, Tensor]) -> Tensor:
        found: Tensor = torch.func.functional_call(score, weights, ())
        return found

    with rows(form, tolerance):
        _, forward = torch.func.jvp(at, (weights,), (direction,))
        gradient = torch.func.grad(at)(weights)
    backward = sum((gradient[n] * direction[n]).sum() for n in weights)
    torch.testing.assert_close(forward, backward, atol=1e-9, rtol=1e-10)  # sums of thousands of terms


def test_a_second_derivative_is_the_padded_one() -> None:
    model, padded = two_forms()
    views = views_of(make_batch([(9, 3), (4, 6)]), DropMasker())

    def curvature(model: VisualBert) -> Tensor:
        weight = model.embeddings.visual_projection.weight
        (slope,) = torch.autograd.grad(model.forward_views(views).logits.square().sum(), weight, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), weight)
        return second

    torch.testing.assert_close(curvature(model), curvature(padded), atol=1e-8, rtol=1e-8)  # squares of sums


# ---- what is computed ----


class Seen:
    """How many tokens each call of a module is given."""

    def __init__(self, module: nn.Module):
        self.calls: list[int] = []
        self.inputs: list[Tensor] = []
        module.register_forward_pre_hook(self._look)

    def _look(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.inputs.append(arguments[0].detach())
        self.calls.append(arguments[0].shape[:-1].numel() if arguments[0].is_floating_point() else arguments[0].numel())


@pytest.mark.parametrize("masker", ["drop", "attention"])
def test_each_region_is_projected_once(masker: str) -> None:
    model = build()
    seen = Seen(model.embeddings.visual_projection)
    model.forward_views(views_of(make_batch([(9, 3), (4, 6), (5, 2)]), MASKERS[masker]))
    assert seen.calls == [3 + 6 + 2]


def test_each_word_that_is_only_masked_is_embedded_once() -> None:
    model = build()
    seen = Seen(model.embeddings.word)
    model.forward_views(views_of(make_batch([(9, 3), (4, 6), (5, 2)]), AttentionMasker()))
    assert seen.calls == [9 + 4 + 5]


def test_other_content_is_embedded_for_itself_in_the_same_call() -> None:
    model = build()
    seen = Seen(model.embeddings.visual_projection)
    model.forward_views(views_of(make_batch([(9, 3), (4, 6), (5, 2)]), ConstantMasker(), ["full", "text"]))
    assert seen.calls == [11 + 3]  # one region stands in for those of each image


def test_no_padding_is_computed_where_a_token_costs_more_than_a_block() -> None:
    model = build()
    first, last = Seen(model.encoder.layers[0].expand), Seen(model.encoder.layers[-1].expand)
    with rows(SHORT, tolerance=0):
        model.forward_views(views_of(make_batch([(9, 3), (4, 6), (5, 2)]), DropMasker(), ["full", "image", "text"]))
    assert first.calls == [(12 + 10 + 7) + (5 + 8 + 4) + (9 + 4 + 5)]
    assert last.calls == [3 * 3]  # the last layer sees the first position of each row


def test_an_image_encoder_runs_once_for_views_of_the_same_image() -> None:
    model = build(image_encoder=Patches(8, 4, hidden_size=8))
    seen = Seen(model.image_encoder.embed)
    batch = make_batch([(9, 1), (4, 1)])
    image = ModalityInputs(torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.ones(2, 1, dtype=torch.bool))
    model.forward_views(views_of(batch.with_inputs({**batch.inputs, "image": image}), DropMasker()))
    assert seen.calls == [2 * 4]


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), tolerance=st.integers(0, 50))
def test_blocks_cover_all_rows_and_hold_no_more_padding_than_tolerated(lengths: list[int], tolerance: int) -> None:
    lengths = sorted(lengths, reverse=True)
    begin = 0
    for end, length in _cuts(lengths, tolerance):
        rows_of = lengths[begin:end]
        assert rows_of
        assert rows_of[0] == length
        assert sum(length - shorter for shorter in rows_of) <= tolerance
        begin = end
    assert begin == len(lengths)


def test_nothing_depends_on_what_a_device_would_have_to_be_asked_for() -> None:
    """On the meta device there are no values, so whatever asks for one fails."""
    model = build().to("meta")
    views = views_of(make_batch([(9, 3), (4, 6), (5, 2)]), DropMasker())
    there = [{m: ModalityInputs(x.values.to("meta"), x.mask.to("meta"), _to_meta(x.extras)) for m, x in v.items()} for v in views]
    output = model.forward_views(there).logits
    output.sum().backward()
    assert output.shape == (4, 3, 3)


def _to_meta(extras: Any) -> dict[str, Tensor]:
    return {name: t.to("meta") for name, t in extras.items()}


# ---- dropout ----


@pytest.mark.parametrize("share", [False, True])
def test_embedding_dropout_keeps_its_share_and_is_shared_if_asked_for(share: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(dropout=0.3, attention_dropout=0.0, share_embedding_dropout=share).train()
    sequences: list[Tensor] = []

    def look(transformer: Transformer, x: Tensor, rows: packed.PackedRows, place: packed.Move, layers: Collection[int]) -> Any:
        sequences.append(place(x).detach())
        return read_layers(transformer, x, rows, place, layers)

    monkeypatch.setattr("msd_framework.models.single_sequence.read_layers", look)
    model.forward_views([make_batch([(9, 6)] * 40).inputs] * 2)  # one view twice
    kept = sequences[0].view(2, 40 * 15, 12) != 0  # rows of one length, in the order of the views
    count = kept.numel() / 2
    assert kept.double().mean().item() == pytest.approx(0.7, abs=4 * (0.3 * 0.7 / count) ** 0.5)  # 4 standard errors
    agreement = (kept[0] == kept[1]).double().mean().item()
    assert agreement == pytest.approx(1.0 if share else 0.7**2 + 0.3**2, abs=4 * (0.58 * 0.42 / count) ** 0.5)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_first_layer_projects_each_token_once_where_views_share_it(num_layers: int) -> None:
    model = build(num_layers=num_layers)
    seen = Seen(model.encoder.layers[0].attention.key)
    model.forward_views(views_of(make_batch([(9, 3), (4, 6), (5, 2)]), AttentionMasker()))
    assert seen.calls == [(9 + 4 + 5) + (3 + 6 + 2)]


@pytest.mark.parametrize("share", [False, True])
def test_dropout_gives_each_view_the_same_distribution_as_when_padded(share: bool) -> None:
    model, padded = (m.train() for m in two_forms(dropout=0.2, attention_dropout=0.2, share_embedding_dropout=share))
    batch = make_batch([(9, 3), (4, 6)])
    draws = 1000
    many = batch.with_inputs(
        {
            m: ModalityInputs(x.values.repeat(draws, *[1] * (x.values.ndim - 1)), x.mask.repeat(draws, 1), _repeat(x, draws))
            for m, x in batch.inputs.items()
        }
    )
    views = views_of(many, DropMasker(), ["full", "image", "text"])
    torch.manual_seed(1)
    with torch.no_grad():
        a, b = (m.forward_views(views).logits.view(3, draws, 2, 3) for m in (model, padded))
    error = ((a.var(1) + b.var(1)) / draws).sqrt()
    assert ((a.mean(1) - b.mean(1)).abs() < 4.5 * error).all()  # 18 comparisons
    assert (a.std(1) / b.std(1) - 1).abs().max() < 0.2  # the standard error of each is about 0.04


def _repeat(x: ModalityInputs, draws: int) -> dict[str, Tensor]:
    return {name: t.repeat(draws, 1) for name, t in x.extras.items()}


@pytest.mark.parametrize("module", ["dropout", "attention"])
def test_every_dropout_of_the_padded_form_is_there(module: str) -> None:
    """With everything dropped the logits are those of the head's bias, or of no attention at all, in either form."""
    options = {"dropout": 1.0, "attention_dropout": 0.0} if module == "dropout" else {"dropout": 0.0, "attention_dropout": 1.0}
    model, padded = (m.train() for m in two_forms(**options))
    views = views_of(make_batch([(9, 3), (4, 6)]), DropMasker())
    torch.testing.assert_close(model.forward_views(views).logits, padded.forward_views(views).logits, atol=1e-12, rtol=1e-12)


# ---- the same weights ----


def test_either_form_has_the_same_weights_under_the_same_names() -> None:
    model, padded = two_forms()
    theirs = padded.state_dict()
    assert list(model.state_dict()) == list(theirs)
    assert all(torch.equal(t, theirs[n]) for n, t in model.state_dict().items())
