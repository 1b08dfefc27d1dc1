"""Maskers: what is hidden is hidden, what is not stays, and what was learned survives a checkpoint."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd_framework.errors import CheckpointError, ConfigError
from msd_framework.maskers.base import Masker
from msd_framework.maskers.composite import ModalityMasker
from msd_framework.maskers.content import replace_content, special_first
from msd_framework.maskers.drop import DropMasker
from msd_framework.maskers.resample import MeanMasker
from msd_framework.registry import MASKERS
from msd_framework.structures import Batch, DatasetInfo, ModalityInputs, ModalityKind, Setting
from msd_framework.views import visible_modalities
from tests.hidden import hidden_at_full_width

VOCAB = 50
KINDS: dict[str, ModalityKind] = {"audio": "waveform", "image": "pixels", "regions": "features", "text": "tokens"}
MODALITIES = tuple(KINDS)
MASKS = torch.tensor([[True] * 6, [True, True, True, True, False, False], [True, True, True, False, False, False]])
SPECIAL = torch.zeros(3, 6, dtype=torch.bool).index_fill(1, torch.tensor([0, 2]), True)  # [CLS] and [SEP] of short texts


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(seed: int = 0) -> ModalityInputs:
    values = torch.randint(3, VOCAB, (3, 6), generator=generator(seed))
    return ModalityInputs(values.masked_fill(SPECIAL, 1), MASKS, {"special": SPECIAL, "segments": torch.zeros(3, 6).long()})


def regions(seed: int = 0) -> ModalityInputs:
    return ModalityInputs(
        torch.randn(3, 6, 4, generator=generator(seed)), MASKS, {"boxes": torch.rand(3, 6, 5, generator=generator(seed + 1))}
    )


def image(seed: int = 0) -> ModalityInputs:
    return ModalityInputs(torch.randn(3, 2, 4, 4, generator=generator(seed)), torch.tensor([[True], [True], [False]]))


def audio(seed: int = 0) -> ModalityInputs:
    return ModalityInputs(torch.randn(3, 6, generator=generator(seed)), MASKS)


MAKE: dict[str, Callable[[int], ModalityInputs]] = {"audio": audio, "image": image, "regions": regions, "text": text}


def batch(seed: int = 0) -> Batch:
    return Batch({m: MAKE[m](seed) for m in MODALITIES}, torch.tensor([0, 1, 0]), ("a", "b", "c"))


def build(spec: object, fit: bool = True) -> Masker:
    masker = MASKERS.build(spec, facts={"vocab_size": VOCAB})
    if fit and masker.needs_fit:
        masker.fit([batch(100), batch(101)])
    return masker


def spread(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (like.ndim - 2)).expand(like.shape)


def visible(inputs: ModalityInputs | None) -> list[Tensor]:
    """Everything of a modality that a model may look at: the mask, and values and extras where it is True."""
    if inputs is None:
        return []
    shown = [inputs.values, *(inputs.extras[k] for k in sorted(inputs.extras))]
    return [inputs.mask, *(x.masked_fill(~spread(inputs.mask, x), 0) for x in shown)]


def with_other_content(inputs: ModalityInputs, other: ModalityInputs) -> ModalityInputs:
    """The same special positions and lengths, with the content of another."""
    content = inputs.mask & ~inputs.special
    extras = {
        k: torch.where(spread(content, x), other.extras[k], x) if x.is_floating_point() else x for k, x in inputs.extras.items()
    }
    return replace(inputs, values=torch.where(spread(content, inputs.values), other.values, inputs.values), extras=extras)


SPECS = ["drop", "attention", "constant", {"type": "constant", "token": 4, "feature": 0.5}, "mean", "noise", "other"]
HIDING = [s for s in SPECS if s != "other"]
BY_MODALITY = {"type": "by_modality", "maskers": {"text": "drop"}, "otherwise": "mean"}


def cases(specs: list) -> list:
    return [
        pytest.param(spec, m, id=f"{spec if isinstance(spec, str) else 'custom ' + spec['type']}-{m}")
        for spec in specs
        for m in MODALITIES
        if KINDS[m] in MASKERS.get(spec if isinstance(spec, str) else spec["type"]).kinds
    ]


# All maskers


def test_every_registered_masker_is_tested_here() -> None:
    tested = {s if isinstance(s, str) else s["type"] for s in [*SPECS, BY_MODALITY, "partial"]}
    assert tested == {name for name in MASKERS.names() if MASKERS.get(name).__module__.startswith("msd_framework.")}


@pytest.mark.parametrize(("spec", "modality"), cases([*HIDING, BY_MODALITY]))
@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_hidden_content_changes_nothing_that_a_model_sees(spec: object, modality: str, seed: int) -> None:
    masker, inputs = build(spec), MAKE[modality](seed)
    changed = with_other_content(inputs, MAKE[modality](seed + 7))
    assert not torch.equal(inputs.values, changed.values)
    torch.manual_seed(seed)
    one = visible(masker.hide(modality, inputs))
    torch.manual_seed(seed)
    other = visible(masker.hide(modality, changed))
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize(("spec", "modality"), [c for c in cases([*HIDING, BY_MODALITY]) if "attention" not in str(c.id)])
def test_how_much_was_hidden_shows_nowhere(spec: object, modality: str) -> None:
    masker, inputs = build(spec).eval(), MAKE[modality](0)
    if modality == "image":
        return
    shorter = replace(inputs, mask=inputs.mask & (torch.arange(6) < 4))
    if modality == "text":  # [SEP] stands elsewhere, and the batch is narrower
        place = torch.arange(5)
        special = ((place == 0) | (place == 4)).expand(3, 5)
        ids = torch.randint(3, VOCAB, (3, 5)).masked_fill(special, 1)
        shorter = ModalityInputs(
            ids, torch.ones(3, 5, dtype=torch.bool), {"special": special, "segments": torch.zeros(3, 5).long()}
        )
    one, other = (visible(masker.hide_in(batch().with_inputs({modality: x}), modality)) for x in (inputs, shorter))
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize(("spec", "modality"), cases([*SPECS, BY_MODALITY]))
def test_hiding_leaves_the_given_inputs_as_they_were(spec: object, modality: str) -> None:
    inputs = MAKE[modality](0)
    before = copy.deepcopy(inputs)
    build(spec).hide(modality, inputs)
    assert all(torch.equal(a, b) for a, b in zip(visible(inputs), visible(before)))
    assert torch.equal(inputs.values, before.values)


@pytest.mark.parametrize("spec", [s for s in HIDING if s != "mean"])
def test_special_tokens_stay(spec: object) -> None:
    hidden = build(spec).hide("text", text())
    assert hidden is not None
    assert hidden.values[hidden.mask & hidden.special].tolist() == [1] * 6


@pytest.mark.parametrize("spec", ["constant", "mean", "noise", {"type": "constant", "feature": 2.0}])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_stand_in_has_the_type_of_what_it_hides_and_one_position(spec: object, dtype: torch.dtype) -> None:
    inputs = replace(regions(), values=regions().values.to(dtype))
    hidden = build(spec).hide("regions", inputs)
    assert hidden is not None
    assert hidden.values.dtype == dtype
    assert hidden.values.shape == (3, 1, 4)
    assert hidden.mask.all()


@settings(max_examples=40)
@given(
    view=st.sets(st.sampled_from(MODALITIES), min_size=1, max_size=3).flatmap(
        lambda named: st.sampled_from(["+".join(sorted(named)), "~" + "+".join(sorted(named))])
    ),
    spec=st.sampled_from(["drop", "attention", "constant", "noise", "other", BY_MODALITY]),
)
def test_a_view_touches_only_what_it_hides(view: str, spec: object) -> None:
    full, masker = batch(), build(spec)
    seen = masker.view(full, view)
    shown = visible_modalities(view, MODALITIES)
    assert all(seen.inputs[m] is full.inputs[m] for m in shown)
    assert all(seen.inputs[m] is not full.inputs[m] for m in seen.inputs if m not in shown)
    assert seen.ids == full.ids
    assert seen.targets is full.targets
    assert list(seen.inputs) == sorted(seen.inputs)


@pytest.mark.parametrize("spec", ["attention", "constant", "noise", "other"])
def test_only_a_masker_that_removes_leaves_a_modality_out(spec: str) -> None:
    assert not build(spec).removes
    assert tuple(build(spec).view(batch(), "text").inputs) == MODALITIES


# Drop


def test_drop_moves_special_positions_to_the_front() -> None:
    hidden = DropMasker().hide("text", text())
    assert hidden is not None
    assert hidden.values.tolist() == [[1, 1]] * 3
    assert hidden.mask.all()
    assert hidden.special.all()
    assert set(hidden.extras) == {"special", "segments"}  # and no position ids: they are 0 and 1
    assert hidden.extras["segments"].shape == (3, 2)


def test_position_ids_that_were_given_tell_nothing_of_what_is_hidden() -> None:
    given_positions = text().extras | {"positions": torch.arange(10, 16).expand(3, 6)}
    inputs = replace(text(), extras=given_positions)
    hidden = DropMasker().hide("text", inputs)
    assert hidden is not None
    assert "positions" not in hidden.extras
    some = special_first(inputs, torch.tensor([True, False, True]))
    assert some.extras["positions"].tolist() == [list(range(6)), list(range(10, 16)), list(range(6))]


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.sampled_from("cs-x")] * 5), min_size=1, max_size=4), st.data())
def test_special_positions_first_is_what_a_loop_over_rows_makes(rows: list[tuple[str, ...]], data: st.DataObject) -> None:
    """c content, s special, - padding, x special but masked out."""
    mask = torch.tensor([[p in "cs" for p in row] for row in rows])
    special = torch.tensor([[p in "sx" for p in row] for row in rows])
    inputs = ModalityInputs(torch.arange(mask.numel()).view(mask.shape), mask, {"special": special, "segments": mask.long()})
    hidden = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    found = special_first(inputs, torch.tensor(hidden))
    wanted = hidden_at_full_width(inputs, [i for i, is_hidden in enumerate(hidden) if is_hidden])
    assert torch.equal(found.values, wanted.values)
    assert torch.equal(found.mask, wanted.mask)
    assert all(torch.equal(found.extras[name], wanted.extras[name]) for name in inputs.extras)


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.sampled_from("cs-x")] * 5), min_size=1, max_size=4), st.integers(0, 100))
def test_drop_keeps_just_the_special_positions_for_any_mixture(rows: list[tuple[str, ...]], seed: int) -> None:
    """c content, s special, - padding, x special but masked out."""
    mask = torch.tensor([[p in "cs" for p in row] for row in rows])
    special = torch.tensor([[p in "sx" for p in row] for row in rows])
    values = torch.randn(len(rows), 5, 2, generator=generator(seed))
    hidden = DropMasker().hide("regions", ModalityInputs(values, mask, {"special": special, "boxes": values.clone()}))
    kept = [[i for i, p in enumerate(row) if p == "s"] for row in rows]
    if not any(kept):
        assert hidden is None
        return
    assert hidden is not None
    assert hidden.values.shape[1] == max(map(len, kept))
    for row, places in enumerate(kept):
        assert hidden.mask[row].tolist() == [i < len(places) for i in range(hidden.mask.shape[1])]
        assert torch.equal(hidden.values[row][hidden.mask[row]], values[row, places])
        assert torch.equal(hidden.extras["boxes"][row][hidden.mask[row]], values[row, places])


@pytest.mark.parametrize("modality", ["audio", "image", "regions"])
def test_drop_leaves_out_a_modality_without_special_positions(modality: str) -> None:
    assert DropMasker().hide(modality, MAKE[modality](0)) is None
    assert modality not in DropMasker().view(batch(), f"~{modality}").inputs


# Attention and constants


def test_attention_masks_the_content_and_keeps_the_values() -> None:
    hidden = build("attention").hide("text", text())
    assert hidden is not None
    assert hidden.values is not None
    assert torch.equal(hidden.values, text().values)
    assert torch.equal(hidden.mask, SPECIAL)
    assert not hidden.present.any()


def test_a_constant_token_is_the_padding_unless_stated() -> None:
    padded = MASKERS.build("constant", facts={"pad_id": 9}).hide("text", text())
    stated = MASKERS.build({"type": "constant", "token": 3, "length": 2}, facts={"pad_id": 9}).hide("text", text())
    assert padded.values.tolist() == [[1, 9, 1]] * 3
    assert stated.values.tolist() == [[1, 3, 3, 1]] * 3
    assert stated.special.tolist() == [[True, False, False, True]] * 3
    assert stated.present.all()


@pytest.mark.parametrize("modality", ["audio", "image", "regions"])
def test_a_constant_feature_fills_every_hidden_number(modality: str) -> None:
    hidden = build({"type": "constant", "feature": 0.25}).hide(modality, MAKE[modality](0))
    assert hidden is not None
    assert (hidden.values[spread(hidden.mask, hidden.values)] == 0.25).all()


def test_what_stands_in_has_boxes_and_segments_of_0() -> None:
    assert replace_content(regions(), torch.zeros(3, 2, 4)).extras["boxes"].eq(0).all()
    segments = replace(text(), extras=text().extras | {"segments": torch.ones(3, 6).long()})
    assert replace_content(segments, torch.zeros(3, 2)).extras["segments"].tolist() == [[1, 0, 0, 1]] * 3


@pytest.mark.parametrize("spec", ["constant", "mean", "noise"])
def test_a_sound_is_hidden_by_one_of_the_same_length_for_all(spec: str) -> None:
    assert build(spec).hide("audio", audio()).mask.shape == (3, 16_000)
    assert build({"type": spec, "length": 7}).hide("audio", audio()).values.shape == (3, 7)


@pytest.mark.parametrize("spec", ["constant", "mean", "noise"])
def test_an_example_without_the_modality_gets_no_stand_in(spec: str) -> None:
    inputs = replace(regions(), mask=MASKS & torch.tensor([[True], [False], [True]]))
    assert build(spec).hide("regions", inputs).mask.tolist() == [[True], [False], [True]]


# Mean


def test_the_mean_of_features_is_over_unmasked_positions_that_are_not_special() -> None:
    values = torch.randn(3, 6, 4, dtype=torch.float64)
    inputs = ModalityInputs(values, MASKS, {"special": SPECIAL})
    masker = MeanMasker()
    masker.fit([Batch({"regions": inputs}, torch.zeros(3), ("a", "b", "c"))])
    wanted = values[MASKS & ~SPECIAL].numpy().mean(0)
    torch.testing.assert_close(masker.mean_regions, torch.from_numpy(wanted).float())


@pytest.mark.parametrize("modality", ["audio", "image", "regions"])
def test_the_mean_of_several_batches_is_that_of_all_examples(modality: str) -> None:
    batches = [batch(1), batch(2), batch(3)]
    masker = MeanMasker()
    masker.fit(iter(batches))
    rows = [b.inputs[modality] for b in batches]
    kept = [x.values[x.mask[:, 0]] if modality == "image" else x.values[x.mask] for x in rows]
    wanted = torch.cat(kept).double().mean(0).float()
    torch.testing.assert_close(masker.get_buffer(f"mean_{modality}"), wanted)  # one rounding to float32
    hidden = masker.hide(modality, rows[0])
    assert hidden is not None
    assert torch.equal(hidden.values[0], wanted.expand(hidden.values[0].shape))


@pytest.mark.parametrize("again", [False, True], ids=["a fresh masker", "a masker fitted on something else"])
def test_means_are_saved_and_restored(again: bool) -> None:
    fitted, other = build("mean"), build("mean", fit=False)
    if again:
        other.fit([batch(5)])
    other.load_state_dict(fitted.state_dict())
    assert set(fitted.state_dict()) == {"mean_audio", "mean_image", "mean_regions"}
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in fitted.state_dict().items())


def test_means_are_restored_inside_other_modules() -> None:
    spec = {"type": "by_modality", "maskers": {"image": "mean", "regions": "mean"}, "otherwise": "drop"}
    saved = torch.nn.ModuleDict({"masker": build(spec)}).state_dict()
    assert set(saved) == {"masker.maskers.image.mean_image", "masker.maskers.regions.mean_regions"}
    fresh = torch.nn.ModuleDict({"masker": build(spec, fit=False)})
    assert not fresh.load_state_dict(saved, strict=False).unexpected_keys
    hidden = fresh["masker"].hide("image", image())
    assert torch.equal(hidden.values[0], saved["masker.maskers.image.mean_image"])


def test_a_copy_of_a_masker_loads_into_itself() -> None:
    fresh = build("mean", fit=False)
    copied = copy.deepcopy(fresh)
    copied.load_state_dict(build("mean").state_dict())
    copied.hide("image", image())
    with pytest.raises(RuntimeError, match="is not known"):
        fresh.hide("image", image())


@pytest.mark.filterwarnings("ignore:for mean_:UserWarning")  # torch copies no numbers to its stand-in for a device
def test_loaded_means_are_on_the_device_of_the_masker() -> None:
    fresh = build("mean", fit=False).to("meta")
    fresh.load_state_dict(build("mean").state_dict())
    assert {b.device.type for b in fresh.buffers()} == {"meta"}


def test_a_mean_that_was_not_fitted_is_refused() -> None:
    with pytest.raises(RuntimeError, match="the mean of 'image' is not known: fit the masker on training batches"):
        MeanMasker().hide("image", image())


def test_a_mean_of_other_features_is_refused_with_a_sentence() -> None:
    masker, inputs = MeanMasker(), image()
    masker.load_state_dict({"mean_image": torch.zeros(inputs.values.shape[-1] + 1)})
    with pytest.raises(CheckpointError, match=r"the mean of 'image' is of the shape \[\d+\], which inputs \[.+\] have not\. Fit"):
        masker.hide("image", inputs)


def test_a_modality_that_no_training_example_has_has_no_mean() -> None:
    masker = MeanMasker()
    masker.fit([Batch({"image": replace(image(), mask=torch.zeros(3, 1, dtype=torch.bool))}, torch.zeros(3), ("a", "b", "c"))])
    with pytest.raises(RuntimeError, match="the mean of 'image' is not known"):
        masker.hide("image", image())


# Noise and other examples


def test_noise_has_the_standard_deviation_that_was_asked_for() -> None:
    torch.manual_seed(0)
    pixels = ModalityInputs(torch.zeros(4, 3, 100, 100), torch.ones(4, 1, dtype=torch.bool))
    hidden = build({"type": "noise", "standard_deviation": 3.0}).hide("image", pixels)
    assert hidden is not None
    # 120,000 draws: five standard errors are .043 for the mean and .031 for the standard deviation
    assert abs(float(hidden.values.mean())) < 0.043
    assert abs(float(hidden.values.std()) - 3) < 0.031


def test_noise_draws_tokens_from_the_whole_vocabulary() -> None:
    torch.manual_seed(0)
    tokens = ModalityInputs(torch.zeros(50, 100, dtype=torch.int64), torch.ones(50, 100, dtype=torch.bool))
    hidden = build({"type": "noise", "length": 100}).hide("text", tokens)
    assert hidden is not None
    assert set(hidden.values.flatten().tolist()) == set(range(VOCAB))


def test_noise_differs_between_calls_and_follows_the_global_seed() -> None:
    masker = build("noise")
    torch.manual_seed(1)
    first, second = (masker.hide("regions", regions()) for _ in range(2))
    torch.manual_seed(1)
    again = masker.hide("regions", regions())
    assert first is not None
    assert second is not None
    assert again is not None
    assert not torch.equal(first.values, second.values)
    assert torch.equal(first.values, again.values)


def one_by_one(several: Batch) -> list[Batch]:
    """Batches of a single example, as long as that example is."""

    def alone(x: ModalityInputs, i: int) -> ModalityInputs:
        length = int(x.mask[i].sum()) if x.values.ndim < 4 else x.values.shape[1]

        def cut(t: Tensor) -> Tensor:
            return t[i : i + 1, :length]

        return ModalityInputs(cut(x.values), cut(x.mask), {k: cut(e) for k, e in x.extras.items()})

    rows = range(len(several))
    return [Batch({m: alone(x, i) for m, x in several.inputs.items()}, several.targets[[i]], (several.ids[i],)) for i in rows]


@pytest.mark.parametrize("spec", ["noise", {"type": "by_modality", "maskers": {"text": "noise"}, "otherwise": "noise"}])
@pytest.mark.parametrize("modality", MODALITIES)
def test_noise_in_eval_mode_is_the_examples_own_in_any_batch(spec: object, modality: str) -> None:
    together = build(spec).eval().view(batch(), f"~{modality}").inputs[modality]
    torch.manual_seed(7)  # the run's random numbers have no part in it
    other_masker = build(spec).eval()
    for i, alone in enumerate(one_by_one(batch())):
        hidden = other_masker.view(alone, f"~{modality}").inputs[modality]
        assert torch.equal(hidden.mask[0], together.mask[i])
        assert torch.equal(hidden.values[0], together.values[i])


@pytest.mark.parametrize("modality", MODALITIES)
def test_noise_in_eval_mode_differs_between_examples_and_modalities(modality: str) -> None:
    shown = torch.ones(3, 1 if KINDS[modality] == "pixels" else 6, dtype=torch.bool)
    inputs = ModalityInputs(MAKE[modality](0).values, shown)
    both = Batch({"again": inputs, modality: inputs, "seen": inputs}, torch.zeros(3), ("a", "b", "c"))
    view = build("noise").eval().view(both, "seen")
    assert not torch.equal(view.inputs[modality].values, view.inputs["again"].values)
    assert len({tuple(row.flatten().tolist()) for row in view.inputs[modality].values}) == 3


def test_noise_in_eval_mode_has_the_distribution_that_was_asked_for() -> None:
    shown = torch.ones(4, 1, dtype=torch.bool)
    pixels, words = torch.zeros(4, 3, 100, 100), torch.zeros(4, 1000, dtype=torch.int64)
    inputs = {"image": ModalityInputs(pixels, shown), "seen": audio(), "text": ModalityInputs(words, shown.expand(4, 1000))}
    view = (
        build({"type": "noise", "standard_deviation": 3.0, "length": 1000})
        .eval()
        .view(Batch(inputs, torch.zeros(4), tuple("abcd")), "seen")
    )
    values = view.inputs["image"].values  # 120000 numbers; the tolerances are five standard errors
    assert abs(float(values.mean())) < 0.043
    assert abs(float(values.std()) - 3) < 0.031
    assert set(view.inputs["text"].values.flatten().tolist()) == set(range(VOCAB))


def test_noise_in_training_is_another_in_each_view() -> None:
    masker = build("noise")
    first, second = (masker.view(batch(), "~regions").inputs["regions"].values for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("training", [True, False])
def test_noise_without_a_vocabulary_cannot_hide_tokens(training: bool) -> None:
    with pytest.raises(ValueError, match="noise needs vocab_size to hide 'text'"):
        MASKERS.build("noise").train(training).view(batch(), "~text")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "noise", "standard_deviation": 0.0}, "standard_deviation must be above 0, got 0.0"),
        ({"type": "noise", "vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"type": "constant", "length": 0}, "length must be above 0, got 0"),
        ({"type": "mean", "length": -1}, "length must be above 0, got -1"),
        ({"type": "noise", "length": 0}, "length must be above 0, got 0"),
        ({"type": "other", "shift": 0}, "shift must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MASKERS.build(spec)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("shift", [1, 2, 4])
def test_other_shows_all_of_the_example_a_number_of_rows_above(modality: str, shift: int) -> None:
    inputs = MAKE[modality](0)
    hidden = build({"type": "other", "shift": shift}).hide(modality, inputs)
    assert hidden is not None
    for i in range(3):
        j = (i - shift) % 3
        assert j != i
        assert torch.equal(hidden.values[i], inputs.values[j])
        assert torch.equal(hidden.mask[i], inputs.mask[j])
        assert all(torch.equal(hidden.extras[k][i], inputs.extras[k][j]) for k in inputs.extras)


@given(st.integers(2, 9), st.integers(1, 30))
def test_other_never_shows_an_example_itself(size: int, shift: int) -> None:
    inputs = ModalityInputs(torch.arange(size)[:, None].float(), torch.ones(size, 1, dtype=torch.bool))
    hidden = build({"type": "other", "shift": shift}).hide("audio", inputs)
    assert hidden is not None
    assert (hidden.values != inputs.values).all()
    assert set(hidden.values.flatten().tolist()) == set(range(size))


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("times", [1, 2])
def test_an_example_alone_in_the_last_batch_is_shown_one_of_the_batch_before(modality: str, times: int) -> None:
    masker, before = build("other"), MAKE[modality](0)
    masker.view(batch(), f"~{modality}")
    lone = one_by_one(batch(1))[0]
    hidden = [masker.view(lone, f"~{modality}").inputs[modality] for _ in range(times)][-1]
    assert torch.equal(hidden.values, before.values[-1:])
    assert torch.equal(hidden.mask, before.mask[-1:])
    assert all(torch.equal(hidden.extras[k], before.extras[k][-1:]) for k in before.extras)


def test_other_refuses_a_first_batch_of_one() -> None:
    with pytest.raises(ValueError, match="no other example to take 'audio' from: the first batch holds a single one"):
        build("other").view(one_by_one(batch())[0], "~audio")


# By modality


def test_by_modality_hides_each_modality_its_own_way() -> None:
    maskers = {"text": {"type": "constant", "token": 3}, "image": "mean"}
    masker = build({"type": "by_modality", "maskers": maskers, "otherwise": "drop"})
    seen = masker.view(batch(), "audio")
    assert tuple(seen.inputs) == ("audio", "image", "text")
    assert seen.inputs["text"].values.tolist() == [[1, 3, 1]] * 3
    assert torch.equal(seen.inputs["image"].values[0], build("mean").get_buffer("mean_image"))


@pytest.mark.parametrize(
    ("maskers", "otherwise", "removes", "needs_fit"),
    [
        ({"text": "attention"}, "constant", False, False),
        ({"text": "drop"}, None, True, False),
        ({"text": "constant"}, "drop", True, False),
        ({"text": "constant", "image": "mean"}, None, False, True),
    ],
)
def test_by_modality_promises_what_its_maskers_do(maskers: dict, otherwise: str | None, removes: bool, needs_fit: bool) -> None:
    masker = build({"type": "by_modality", "maskers": maskers, "otherwise": otherwise}, fit=False)
    assert (masker.removes, masker.needs_fit) == (removes, needs_fit)


def test_only_what_has_no_special_tokens_is_left_out() -> None:
    masker = build({"type": "by_modality", "maskers": {"text": "drop"}, "otherwise": "attention"}, fit=False)
    assert masker.removes
    assert not any(masker.leaves_out(m, kind) for m, kind in KINDS.items())
    assert [m for m, kind in KINDS.items() if build("drop").leaves_out(m, kind)] == ["audio", "image", "regions"]


def test_by_modality_shows_each_masker_what_it_hides() -> None:
    masker = build({"type": "by_modality", "maskers": {"image": "mean", "text": "drop"}, "otherwise": "mean"})
    assert isinstance(masker, ModalityMasker)
    assert set(masker.state_dict()) == {"maskers.image.mean_image", "otherwise.mean_audio", "otherwise.mean_regions"}
    assert torch.equal(masker.state_dict()["maskers.image.mean_image"], build("mean").get_buffer("mean_image"))


def test_by_modality_without_a_masker_for_a_modality_refuses_to_hide_it() -> None:
    masker = build({"type": "by_modality", "maskers": {"image": "drop"}})
    with pytest.raises(ValueError, match="by_modality has no masker for 'text'"):
        masker.hide("text", text())


# Checks


def setting(**kinds: ModalityKind) -> Setting:
    return Setting(DatasetInfo(kinds, 2, "single_label"), tuple(kinds), tuple(kinds), kinds)


def check(spec: dict, **kinds: ModalityKind) -> list[str]:
    return MASKERS.get(spec["type"]).check({k: v for k, v in spec.items() if k != "type"}, setting(**kinds))


def test_a_mean_of_tokens_is_refused() -> None:
    (problem,) = check({"type": "mean"}, text="tokens", image="pixels")
    assert "MeanMasker cannot hide 'text', whose values are tokens; it hides features, pixels, waveform" in problem


@pytest.mark.parametrize("name", ["drop", "attention", "constant", "noise", "other"])
def test_the_other_maskers_hide_every_kind(name: str) -> None:
    assert check({"type": name}, **KINDS) == []


def test_by_modality_is_checked_with_its_maskers() -> None:
    spec = {"type": "by_modality", "maskers": {"text": "mean", "imge": "drop"}}
    problems = check(spec, text="tokens", image="pixels")
    assert problems[0] == "maskers: 'imge' is not one of the modalities image, text. Did you mean 'image'?"
    assert problems[1] == "maskers: 'image' has none. List it, or give `otherwise`."
    assert "MeanMasker cannot hide 'text'" in problems[2]
    assert len(problems) == 3


def test_by_modality_looks_at_the_kinds_that_a_masker_meets() -> None:
    spec = {"type": "by_modality", "maskers": {"text": {"type": "constant", "token": 3}}, "otherwise": "mean"}
    assert check(spec, text="tokens", image="pixels") == []
    assert "MeanMasker cannot hide 'caption'" in check(spec, text="tokens", caption="tokens")[0]


def test_by_modality_leaves_masker_names_to_the_registry() -> None:
    spec = {"type": "by_modality", "maskers": {"text": "atention"}}
    assert check(spec, text="tokens") == []
    (problem,) = MASKERS.check(spec)
    assert str(problem).startswith("masker.maskers.text: no masker is named 'atention'. Did you mean 'attention'?")


def test_drop_gives_the_same_whether_special_positions_were_counted_before_or_not():
    ids = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    special = torch.tensor([[True, False, False, True], [True, False, True, False]])
    counted = ModalityInputs(ids, ids != 0, {"special": special}, num_special=2)
    uncounted = ModalityInputs(ids, ids != 0, {"special": special})
    a, b = DropMasker().hide("text", counted), DropMasker().hide("text", uncounted)
    assert a is not None
    assert b is not None
    assert torch.equal(a.values, b.values)
    assert a.values.tolist() == [[2, 3], [2, 3]]


# A random part


@pytest.mark.parametrize("modality", MODALITIES)
def test_partial_hides_about_its_share_of_what_is_there_and_changes_nothing_else(modality: str) -> None:
    whole = {
        "audio": ModalityInputs(torch.ones(400, 64), torch.ones(400, 64, dtype=torch.bool)),
        "image": ModalityInputs(torch.ones(400, 1, 8, 8), torch.ones(400, 1, dtype=torch.bool)),
        "regions": ModalityInputs(torch.ones(400, 6, 4), torch.ones(400, 6, dtype=torch.bool)),
        "text": ModalityInputs(torch.ones(400, 6).long(), torch.ones(400, 6, dtype=torch.bool)),
    }[modality]
    hidden = build({"type": "partial", "share": 0.25}).hide(modality, whole)
    assert hidden is not None
    left = hidden.values if modality in ("audio", "image") else hidden.mask
    assert float(left.float().mean()) == pytest.approx(0.75, abs=0.03)
    assert torch.equal(
        hidden.values[left.bool() if modality in ("audio", "image") else hidden.mask].float().unique(), torch.ones(1)
    )
    assert (hidden.mask <= whole.mask).all()


def test_partial_leaves_special_tokens_and_hides_whole_cells_of_an_image() -> None:
    masker = build({"type": "partial", "share": 0.999, "grid": 2})
    hidden = masker.hide("text", text())
    assert hidden is not None
    assert torch.equal(hidden.mask, MASKS & SPECIAL)
    cells = build({"type": "partial", "grid": 2}).hide("image", ModalityInputs(torch.ones(50, 1, 4, 4), torch.ones(50, 1).bool()))
    assert cells is not None
    blocks = cells.values.view(50, 2, 2, 2, 2).transpose(2, 3).flatten(3)  # [B, 2, 2, 4]
    assert (blocks == blocks[..., :1]).all()
    assert 0 < float(blocks.mean()) < 1


def test_partial_in_eval_mode_hides_of_an_example_the_same_in_any_batch() -> None:
    masker, both = build("partial").eval(), batch()
    alone = replace(both, inputs={"regions": replace(regions(), extras={})}, ids=both.ids)
    first, again = masker.hidden(alone, "regions"), masker.hidden(alone, "regions")
    assert first is not None
    assert again is not None
    assert torch.equal(first.mask, again.mask)
    masker.train()
    drawn = [masker.hidden(alone, "regions") for _ in range(8)]
    assert any(not torch.equal(first.mask, other.mask) for other in drawn if other is not None)


def padded(inputs: ModalityInputs, more: int) -> ModalityInputs:
    """The inputs beside longer ones; pixels are as large in each row."""
    if inputs.values.ndim == 4:
        return inputs
    grown = F.pad(inputs.values, (0, 0) * (inputs.values.ndim - 2) + (0, more))
    return ModalityInputs(grown, F.pad(inputs.mask, (0, more)), {n: F.pad(x, (0, more)) for n, x in inputs.extras.items()})


@pytest.mark.parametrize("length", [5, 16, 37])  # shorter than, equal to and longer than the number of spans
@pytest.mark.parametrize("modality", ["audio", "image", "regions", "text"])
def test_partial_in_eval_mode_hides_of_a_row_the_same_beside_a_longer_one(modality: str, length: int) -> None:
    mask = torch.ones(4, length, dtype=torch.bool)
    inputs = {
        "audio": ModalityInputs(torch.ones(4, length), mask),
        "image": ModalityInputs(torch.ones(4, 1, 8, 8), mask[:, :1]),
        "regions": ModalityInputs(torch.ones(4, length, 3), mask),
        "text": ModalityInputs(torch.ones(4, length).long(), mask, {"special": torch.arange(length).expand(4, -1) == 0}),
    }[modality]
    masker, ids = build("partial").eval(), ("a", "b", "c", "d")
    alone, beside = (
        masker.hidden(Batch({modality: x}, torch.zeros(4).long(), ids), modality) for x in (inputs, padded(inputs, 29))
    )
    assert alone is not None
    assert beside is not None
    wanted = padded(alone, 29)
    assert torch.equal(beside.values, wanted.values)
    assert torch.equal(beside.mask, wanted.mask)
    assert not torch.equal(alone.values * alone.mask.view(4, -1, *[1] * (alone.values.ndim - 2)), inputs.values)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_partial_refuses_a_share_that_is_none(share: float) -> None:
    with pytest.raises(ConfigError, match=f"share must be above 0 and at most 1, got {share}"):
        MASKERS.build({"type": "partial", "share": share})
