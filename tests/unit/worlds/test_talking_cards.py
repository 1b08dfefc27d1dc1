"""The made world of three modalities: its oracle is exact, its tones sound as they should, any number of modalities is alike."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_framework.commands import data
from msd_framework.components.registry import split
from msd_framework.data.processors.audio import read_wav
from msd_framework.maskers.modality_dropout import modality_dropout
from msd_framework.registry import DATASETS
from msd_framework.saliency.reading import together
from msd_framework.structures import Batch, ModalityInputs
from msd_framework.views import visible_modalities
from msd_framework.worlds import make_world, read_oracle
from msd_framework.worlds.make import WorldPlan, draw_split
from msd_framework.worlds.oracle import posteriors_of, saliency
from msd_framework.worlds.talking_cards import CARDS, SIGNS, TalkingCardsLayout
from msd_framework.worlds.tones import LENGTHS, RATE, draw_tones

MODALITIES = ("audio", "image", "text")
VIEWS = ["full", *MODALITIES, "audio+image", "audio+text", "image+text"]


def rows(size: int, seed: int = 0, **options: Any) -> list[dict[str, Any]]:
    plan = WorldPlan("talking_cards", 1, seed, {"train": size}, TalkingCardsLayout.mix, 0.1, options.get("label_noise", 0.0))
    return [dict(row) | {"written": record["label"]} for b in draw_split(plan, "train") for row, record in zip(b.oracle, b.records)]


# The oracle


def test_shares_are_those_of_the_mix_and_half_of_the_rows_are_positive() -> None:
    table = CARDS.joint(TalkingCardsLayout.mix)
    assert table.sum() == pytest.approx(1)
    assert table[1].sum() == pytest.approx(0.5)
    found = Counter(row["kind"] for row in rows(4000))
    for kind, share in TalkingCardsLayout.mix.items():
        assert abs(found[kind] / 4000 - share) < 5 * np.sqrt(share * (1 - share) / 4000)  # five standard deviations


def test_probabilities_are_counted_from_the_definition_of_the_kinds() -> None:
    """Every kind, each of its combinations of signs as likely: what a view leaves open is added up."""
    worlds = [
        (share / np.prod([len(s) for s in kind.signs.values()]), kind.label, dict(zip(MODALITIES, shown)))
        for name, kind in CARDS.kinds.items()
        for share in [TalkingCardsLayout.mix[name]]
        for shown in np.array(np.meshgrid(*(kind.signs[m] for m in MODALITIES))).reshape(3, -1).T.tolist()
    ]
    for row in rows(60):
        for view in VIEWS:
            seen = visible_modalities(view, MODALITIES)
            fits = [(p, y) for p, y, signs in worlds if all(signs[m] == row["signs"][m] for m in seen)]
            wanted = sum(p for p, y in fits if y) / sum(p for p, _ in fits)
            assert row["posteriors"][view] == pytest.approx(wanted, abs=1e-12)
        assert set(row["posteriors"]) == set(VIEWS)
        assert row["posteriors"]["full"] == pytest.approx(row["label"])


def test_what_decides_a_row_alone_is_enough_and_all_that_is_needed() -> None:
    for row in rows(400):
        alone = row["decided_by"]
        if alone == together(MODALITIES):
            continue
        assert row["posteriors"][alone] == pytest.approx(row["label"])
        others = [row["saliency"][m] for m in MODALITIES if m != alone]
        assert others == pytest.approx([0, 0])
        assert row["saliency"][alone] > 0.1


def test_a_row_of_all_needs_each_of_them() -> None:
    found = [row for row in rows(400) if row["kind"] == "all"]
    assert found
    assert min(min(row["saliency"].values()) for row in found) > 0.1


@given(st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=30)
def test_posteriors_of_any_number_of_modalities_are_bayes(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    table = generator.uniform(0.1, 1, (2, *generator.integers(2, 4, count)))
    names = [f"m{i}" for i in range(count)]
    signs = {m: generator.integers(0, size, 5) for m, size in zip(names, table.shape[1:])}
    found = posteriors_of(table, signs)
    assert len(found) == 2**count - 1
    for size in range(1, count + 1):
        for shown in combinations(range(count), size):
            view = "full" if size == count else "+".join(names[i] for i in shown)
            for row in range(5):
                at = (slice(None), *(signs[m][row] if i in shown else slice(None) for i, m in enumerate(names)))
                p = table[at].reshape(2, -1).sum(1)
                assert found[view][row] == pytest.approx(p[1] / p.sum())
    if count > 1:
        assert list(saliency(found)) == names


def test_labels_are_wrong_as_often_as_asked() -> None:
    found = rows(2000, label_noise=0.2)
    assert abs(np.mean([row["label"] != row["written"] for row in found]) - 0.2) < 0.045  # five standard deviations


# Tones


def tone(rising: bool, buzzing: bool, noise: float = 0.0, size: int = 40) -> list[np.ndarray[Any, Any]]:
    return draw_tones(np.full(size, rising), np.full(size, buzzing), noise, np.random.default_rng(0))


def crossings(samples: np.ndarray[Any, Any]) -> float:
    """The mean frequency of a pure tone, in Hz."""
    return float((np.diff(np.signbit(samples)) != 0).sum() / 2 / len(samples) * RATE)


@pytest.mark.parametrize("rising", [True, False])
def test_a_tone_rises_or_falls(rising: bool) -> None:
    for samples in tone(rising, buzzing=False):
        first, second = np.array_split(samples, 2)
        assert (crossings(second) > crossings(first)) == rising
        assert LENGTHS[0] <= len(samples) <= LENGTHS[1]
        assert np.abs(samples).max() <= 0.6


def test_a_buzz_has_overtones_and_a_pure_tone_has_none() -> None:
    def high(samples: np.ndarray[Any, Any]) -> float:
        """The share of energy above 620 Hz, where no pure tone is."""
        power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
        return float(power[np.fft.rfftfreq(len(samples), 1 / RATE) > 620].sum() / power.sum())

    assert max(map(high, tone(True, buzzing=False))) < 0.01
    assert min(map(high, tone(True, buzzing=True))) > 0.3


def test_the_noise_of_a_tone_has_the_deviation_that_is_asked_for() -> None:
    noise = np.concatenate([a - b for a, b in zip(tone(True, True, 0.05, 5), tone(True, True, 0.0, 5)) if len(a) == len(b)])
    assert noise.std() == pytest.approx(0.05, rel=0.1)


# The files


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards") / "world"
    return make_world("talking_cards", folder, seed=2, sizes={"train": 12, "validation": 6, "test": 0}).folder


def test_files_are_read_by_the_data_set_for_data_of_ones_own(world: Path) -> None:
    name, options = split({**TalkingCardsLayout.dataset, "root": str(world)}, "dataset", DATASETS)
    dataset = DATASETS.build({"type": name, **options}, split="train")
    assert DATASETS.get(name).describe(options).modalities == {"audio": "waveform", "image": "pixels", "text": "tokens"}
    known = read_oracle(world, "train")
    assert len(dataset) == len(known) == 12
    for example in (dataset[i] for i in range(12)):
        row = known[example.id]
        assert (example.target, example.facts["decided_by"]) == (row.label, row.decided_by)
        assert len(read_wav(example.inputs["audio"], RATE)) >= LENGTHS[0]
        assert example.inputs["image"].is_file()
        assert set(row.saliency) == set(SIGNS)


def test_a_sound_on_disk_is_the_drawn_one(world: Path) -> None:
    plan = WorldPlan("talking_cards", 1, 2, {"train": 12}, TalkingCardsLayout.mix, 0.1, 0.0)
    (block,) = draw_split(plan, "train")
    for record, sound in zip(block.records, block.sounds):
        written = read_wav(world / "wav" / f"{record['id']}.wav", RATE) / 2**15
        np.testing.assert_allclose(written, sound, atol=0.51 / 2**15 + 1e-4)  # 16 bits, of which the largest is not quite 1
    assert [json.loads(line) for line in (world / "train.jsonl").read_text().splitlines()] == list(block.records)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda content: content[:300], "is cut off after"),
        (lambda content: b"not a sound", "cannot be read as a PCM .wav file"),
        (
            lambda content: content[:34] + b"\x08" + content[35:],
            "has 8 bits a sample at 4000 Hz, wanted 16 bits at any Hz",
        ),
    ],
)
def test_a_damaged_sound_is_found_by_the_check_of_a_folder(
    world: Path, tmp_path: Path, spoil: Any, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(world, tmp_path / "world"))
    words = [
        "check",
        "jsonl",
        f"root={root}",
        "splits=[validation]",
        'audio={audio: "wav/{id}.wav"}',
        "label=label",
        "id_column=id",
    ]
    assert data.main(words) == 0
    name = json.loads((root / "validation.jsonl").read_text().splitlines()[0])["id"]
    file = root / "wav" / f"{name}.wav"
    file.write_bytes(spoil(file.read_bytes()))
    assert data.main(words) == 1
    assert f"{name}.wav: {text}" in capsys.readouterr().out


# Modality dropout


@given(st.integers(2, 5), st.floats(0.01, 1.0), st.integers(0, 100))
@settings(max_examples=30)
def test_modality_dropout_leaves_every_example_something(count: int, share: float, seed: int) -> None:
    size, names = 3000, [f"m{i}" for i in range(count)]
    shown = ModalityInputs(torch.ones(size, 1, 1), torch.ones(size, 1, dtype=torch.bool))
    batch = Batch(dict.fromkeys(names, shown), torch.zeros(size, dtype=torch.long), tuple(map(str, range(size))))
    probability = share / count
    torch.manual_seed(seed)
    seen = modality_dropout(batch, probability)
    present = torch.stack([x.present for x in seen.inputs.values()])  # [M, B]
    visible = present.sum(0)
    without = (visible == count - 1)[:, None] & ~present.T  # [B, M]
    alone = (visible == 1)[:, None] & present.T & (count > 2)  # of two modalities, one alone is the other one left out
    assert (visible == count).logical_or(without.any(1)).logical_or(alone.any(1)).all()
    tolerance = 5 * (probability / size) ** 0.5  # five standard deviations
    for i in range(count):
        assert abs((without | alone)[:, i].double().mean().item() - probability) < tolerance
        if count > 2:
            assert abs(alone[:, i].double().mean().item() - probability / 2) < tolerance
