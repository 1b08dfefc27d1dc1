"""The made world of digit cards: its files are the public ones, its rows are what the options say, its oracle is exact."""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits

from msd_framework.errors import ConfigError, DataError
from msd_framework.worlds import LAYOUTS, cards, make_world, mm_imdb, oracle, read_oracle, snli_ve, vqa
from msd_framework.worlds.cards import INKS, RED, draw_card, draw_poster
from msd_framework.worlds.handwriting import glyph_bank
from msd_framework.worlds.hateful_memes import MEMES, HatefulMemesLayout, draw_memes
from msd_framework.worlds.kinds import SignedRows
from msd_framework.worlds.layout import Recipe, spoil
from msd_framework.worlds.make import WorldPlan, draw_split
from msd_framework.worlds.mm_imdb import COMMON_WORDS, GENRES
from msd_framework.worlds.words import LEXICONS
from msd_framework.worlds.write import write_image

SIZES = {
    "hateful_memes": {"train": 300, "dev_seen": 40, "test_seen": 60},
    "mm_imdb": {"train": 300, "dev": 40, "test": 60},
    "snli_ve": {"train": 300, "dev": 40, "test": 60},
    "talking_cards": {"train": 300, "validation": 40, "test": 60},
    "vqa_v2": {"train2014": 300, "val2014": 40, "test2015": 60},
}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    return {layout: make_world(layout, root / layout, seed=3, sizes=sizes).folder for layout, sizes in SIZES.items()}


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def pixels(path, size=128):
    with Image.open(path) as image:
        assert image.size == (128, 128)
        assert image.format == ("PNG" if path.suffix == ".png" else "JPEG")
        return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def plan(layout, split, size, seed=0, mix=None, noise=0.1, label_noise=0.0):
    mix = mix or LAYOUTS[layout].mix
    return WorldPlan(layout, 1, seed, {split: size}, mix, noise, label_noise)


def drawn(layout, split, size, **options):
    blocks = list(draw_split(plan(layout, split, size, **options), split))
    records = [record for block in blocks for record in block.records]
    known = [row for block in blocks for row in block.oracle]
    return np.concatenate([block.images for block in blocks]), records, known


def draw_signs(size, mix, seed):
    """The kinds, signs and digits of memes, without their cards."""
    return draw_memes(Recipe(range(size), glyph_bank("train"), mix, 0.0, 0.0, np.random.default_rng(seed)))


def five_sigma(share, size):
    """Five standard deviations of a share of `size` draws: a right generator fails once in two million tests."""
    return 5 * np.sqrt(share * (1 - share) / size)


# The public formats, read by nothing but json and PIL


def test_hateful_memes_files_are_the_public_ones(worlds):
    folder = worlds["hateful_memes"]
    for split, size in SIZES["hateful_memes"].items():
        rows = lines(folder / f"{split}.jsonl")
        assert len(rows) == size
        for row in rows:
            assert set(row) == {"id", "img", "label", "text", "decided_by"}
            assert row["img"] == f"img/{row['id']}.png"
            assert row["label"] in (0, 1)
            assert pixels(folder / row["img"]).shape == (128, 128, 3)
    assert len(list((folder / "img").iterdir())) == 400


def test_snli_ve_files_are_the_public_ones(worlds):
    folder = worlds["snli_ve"]
    for split, size in SIZES["snli_ve"].items():
        rows = lines(folder / f"snli_ve_{split}.jsonl")
        assert len(rows) == size
        for row in rows:
            assert {"annotator_labels", "captionID", "gold_label", "pairID", "sentence1", "sentence2", "Flickr30K_ID"} < set(row)
            assert row["gold_label"] in ("entailment", "neutral", "contradiction")
            assert row["annotator_labels"] == [row["gold_label"]] * 5
            assert row["pairID"].split(".jpg#")[0] == row["Flickr30K_ID"]
            assert pixels(folder / f"flickr30k_images/{row['Flickr30K_ID']}.jpg").shape == (128, 128, 3)


def test_mm_imdb_files_are_the_public_ones(worlds):
    folder = worlds["mm_imdb"]
    splits = json.loads((folder / "split.json").read_text())
    assert {split: len(ids) for split, ids in splits.items()} == SIZES["mm_imdb"]
    for number in (number for ids in splits.values() for number in ids):
        film = json.loads((folder / f"dataset/{number}.json").read_text())
        assert len(number) == 7
        assert len(film["plot"]) == 1
        assert len(film["plot"][0].split()) == 12
        assert 1 <= len(film["genres"]) <= 4
        assert set(film["genres"]) <= set(GENRES)
        assert pixels(folder / f"dataset/{number}.jpeg").shape == (128, 128, 3)


def test_vqa_files_are_the_public_ones(worlds):
    folder = worlds["vqa_v2"]
    for split, size in SIZES["vqa_v2"].items():
        questions = json.loads((folder / f"v2_OpenEnded_mscoco_{split}_questions.json").read_text())["questions"]
        annotations = json.loads((folder / f"v2_mscoco_{split}_annotations.json").read_text())["annotations"]
        assert len(questions) == len({q["question_id"] for q in questions}) == size
        for question, annotation in zip(questions, annotations, strict=True):
            assert question["question_id"] == annotation["question_id"]
            assert question["image_id"] == annotation["image_id"]
            assert question["question"].endswith("?")
            assert question["question"].startswith(annotation["question_type"])
            assert [a["answer_id"] for a in annotation["answers"]] == list(range(1, 11))
            assert (folder / split / f"COCO_{split}_{question['image_id']:012d}.jpg").is_file()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_are_unique_over_all_splits_and_the_oracle_has_each(worlds, layout):
    known = [row["id"] for split in SIZES[layout] for row in lines(worlds[layout] / f"oracle_{split}.jsonl")]
    assert len(known) == len(set(known)) == 400


def test_png_gives_the_canvas_back_exactly(tmp_path):
    canvas = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    write_image(canvas, tmp_path / "card.png")
    assert_array_equal(pixels(tmp_path / "card.png", 16), canvas)


def test_jpeg_gives_the_canvas_back_but_for_rounding(tmp_path):
    images, _, _ = drawn("snli_ve", "train", 1)
    write_image(images[0], tmp_path / "card.jpg")
    back = pixels(tmp_path / "card.jpg", 16).astype(int)
    assert np.abs(back - images[0]).max() <= 2  # every 8 x 8 block is of one colour, so that only YCbCr and its mean are rounded


def test_written_images_are_the_drawn_ones_in_order(worlds):
    images, records, _ = drawn("hateful_memes", "train", 300, seed=3)
    on_disk = [pixels(worlds["hateful_memes"] / r["img"], 16) for r in records]
    assert_array_equal(np.stack(on_disk), images)
    assert lines(worlds["hateful_memes"] / "train.jsonl") == records


# Handwriting


def test_banks_are_60_15_25_percent_and_share_no_scan():
    scans = {bank: glyph_bank(bank).scans for bank in ("train", "dev", "test")}
    assert {bank: len(s) for bank, s in scans.items()} == {"train": 1078, "dev": 269, "test": 450}
    assert_array_equal(np.sort(np.concatenate(list(scans.values()))), np.arange(1797))


@pytest.mark.parametrize("bank", ["train", "dev", "test"])
def test_a_bank_gives_a_scan_of_the_digit_that_is_asked_for(bank):
    source = load_digits()
    digits = np.arange(10).repeat(50).reshape(10, 50)
    glyphs = glyph_bank(bank).pick(digits, np.random.default_rng(0))
    of = {source.images[i].astype(np.float32).tobytes(): source.target[i] for i in glyph_bank(bank).scans}
    assert [of[(16 * g).tobytes()] for g in glyphs.reshape(-1, 8, 8)] == digits.ravel().tolist()


@pytest.mark.parametrize(
    ("split", "bank"), [("train", "train"), ("dev_seen", "dev"), ("test_seen", "test"), ("test_unseen", "test")]
)
def test_the_cards_of_a_split_show_its_own_handwriting_and_digit(split, bank):
    images, _, known = drawn("hateful_memes", split, 100, noise=0.0)
    scans = np.pad(load_digits().images.repeat(2, 1).repeat(2, 2), ((0, 0), (1, 1), (1, 1)))
    shifted = np.stack([scans[:, y : y + 16, x : x + 16] for y in range(3) for x in range(3)], axis=1).reshape(-1, 256)
    shown = images.max(axis=-1).reshape(-1, 256).astype(float)
    likeness = (shown / np.linalg.norm(shown, axis=1)[:, None]) @ (shifted / np.linalg.norm(shifted, axis=1)[:, None]).T
    nearest = likeness.argmax(axis=1) // 9
    assert likeness.max(axis=1).min() > 0.9999
    assert set(nearest) <= set(glyph_bank(bank).scans)
    assert load_digits().target[nearest].tolist() == [row["digit"] for row in known]


def test_each_ink_has_its_colour_and_red_is_only_where_the_image_decides():
    images, _, known = drawn("hateful_memes", "train", 400, noise=0.0)
    colours = images.reshape(400, -1, 3).max(axis=1).astype(int)
    red = (colours[:, 0] > 150) & (colours[:, 1] < 60) & (colours[:, 2] < 60)
    assert red.tolist() == [row["ink"] == "red" for row in known] == [row["decided_by"] == "image" for row in known]


def test_a_poster_puts_each_digit_in_its_quarter():
    bank, none = glyph_bank("train"), -1
    poster = draw_poster(np.array([[5, none, none, 8]]), np.full((1, 4), RED), bank, 0.0, np.random.default_rng(0))[0]
    assert poster[:8, :8].any()
    assert poster[8:, 8:].any()
    assert not poster[:8, 8:].any()
    assert not poster[8:, :8].any()


def test_the_noise_has_the_deviation_that_is_asked_for():
    digits = np.zeros(400, np.int64)
    clean, noisy = (
        draw_card(digits, digits + INKS.index("white"), glyph_bank("train"), noise, np.random.default_rng(0)).astype(float) / 255
        for noise in (0.0, 0.05)
    )
    inside = (clean > 0.3) & (clean < 0.7)  # where nothing is clipped
    assert_allclose((noisy - clean)[inside].std(), 0.05, rtol=0.02)  # 2 %: more than 40,000 channels


# Kinds and labels


def test_half_of_the_memes_are_hateful():
    _, records, _ = drawn("hateful_memes", "train", 3000)
    assert abs(np.mean([row["label"] for row in records]) - 0.5) < five_sigma(0.5, 3000)


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("both", 0.30),
        ("image_confounder", 0.20),
        ("text_confounder", 0.20),
        ("benign", 0.05),
        ("text", 0.10),
        ("image", 0.10),
        ("image_benign", 0.05),
    ],
)
def test_each_kind_of_meme_has_its_share_and_its_rule(kind, share):
    memes = draw_signs(100_000, HatefulMemesLayout.mix, seed=1)
    rows = np.array(memes.kinds) == kind
    assert abs(rows.mean() - share) < five_sigma(share, 100_000)
    pointed, bad = memes.signs["text"] == 1, memes.signs["text"] == 2
    high, red = memes.digits >= 5, memes.signs["image"] >= 2
    rule = np.where(red, high, bad | (pointed & high))
    assert_array_equal(memes.labels[rows], rule[rows])


def test_a_text_has_an_adjective_of_its_class_and_of_no_other():
    class_of = {word: name for name, words in LEXICONS.items() for word in words}
    assert len(class_of) == 48
    _, records, known = drawn("hateful_memes", "train", 500)
    found = [[class_of[word] for word in record["text"].split() if word in class_of] for record in records]
    assert found == [[row["adjective"]] for row in known]


def test_a_mix_of_ones_own_is_drawn():
    _, records, _ = drawn("hateful_memes", "train", 400, mix={"text": 0.75, "image_benign": 0.25})
    assert {(row["decided_by"], row["label"]) for row in records} == {("text", 1), ("image", 0)}
    assert abs(np.mean([row["label"] for row in records]) - 0.75) < five_sigma(0.75, 400)


def test_snli_ve_labels_are_decided_as_published():
    _, records, known = drawn("snli_ve", "train", 3000)
    decided = Counter(row["decided_by"] for row in records)
    for kind, share in {"text": 0.3, "image": 0.2, "both": 0.5}.items():
        assert abs(decided[kind] / 3000 - share) < five_sigma(share, 3000)
    labels = {kind: Counter(r["gold_label"] for r in records if r["decided_by"] == kind) for kind in decided}
    assert set(labels["text"]) == {"neutral"}
    assert set(labels["both"]) == {"entailment", "contradiction"}
    for label in ("entailment", "neutral", "contradiction"):
        assert abs(labels["image"][label] / decided["image"] - 1 / 3) < five_sigma(1 / 3, decided["image"])
    of_red = {row["digit"]: row["label"] for row in known if row["ink"] == "red"}
    assert of_red == {d: "entailment" if d < 3 else "neutral" if d < 6 else "contradiction" for d in range(10)}


number_words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
big_words = ["big", "large", "high", "huge", "heavy", "giant", "tall", "grand"]
small_words = ["small", "little", "low", "tiny", "light", "short", "slim", "petite"]


def test_snli_ve_claims_are_true_of_the_card_if_entailed_and_false_if_contradicted():
    _, records, known = drawn("snli_ve", "train", 1000)
    for record, card in zip(records, known):
        words = record["sentence2"].split()
        if record["decided_by"] == "both":
            if "ink" in words:
                true = words[-1] == card["ink"]
            elif words[-1] in number_words:
                true = number_words.index(words[-1]) == card["digit"]
            else:
                true = bool(set(words) & set(big_words if card["digit"] >= 5 else small_words))
            assert record["gold_label"] == ("entailment" if true else "contradiction")


def test_vqa_answers_are_true_of_the_card():
    _, records, known = drawn("vqa_v2", "train2014", 1000)
    truth = {
        "digit": lambda words, card: str(card["digit"]),
        "ink": lambda words, card: card["ink"],
        "size": lambda words, card: "yes" if (words[-1] in big_words) == (card["digit"] >= 5) else "no",
        "check": lambda words, card: "yes" if number_words.index(words[-1]) == card["digit"] else "no",
        "sum": lambda words, card: str(number_words.index(words[2]) + number_words.index(words[4])),
    }
    for record, card in zip(records, known):
        assert card["label"] == truth[card["kind"]](record["question"]["question"].rstrip("?").split(), card)


def test_vqa_asks_each_kind_as_often_and_ten_people_answer_with_a_tenth_at_random():
    _, records, known = drawn("vqa_v2", "train2014", 3000)
    kinds = Counter(row["kind"] for row in known)
    assert all(abs(kinds[kind] / 3000 - 0.2) < five_sigma(0.2, 3000) for kind in ("digit", "ink", "size", "check", "sum"))
    answers = [[a["answer"] for a in record["annotation"]["answers"]] for record in records]
    assert {len(ten) for ten in answers} == {10}
    assert len({answer for ten in answers for answer in ten}) == 16
    right = np.mean([answer == row["label"] for ten, row in zip(answers, known) for answer in ten])
    assert abs(right - (0.9 + 0.1 / 16)) < five_sigma(0.906, 30_000)
    commonest = [record["annotation"]["multiple_choice_answer"] for record in records]
    assert commonest == [Counter(ten).most_common(1)[0][0] for ten in answers]
    assert np.mean([c == row["label"] for c, row in zip(commonest, known)]) > 0.999


@pytest.mark.parametrize(("answer", "kind"), [("7", "number"), ("blue", "other"), ("yes", "yes/no"), ("no", "yes/no")])
def test_vqa_answers_have_the_official_types(answer, kind):
    _, records, _ = drawn("vqa_v2", "train2014", 600)
    annotations = [record["annotation"] for record in records]
    assert {a["answer_type"] for a in annotations if a["multiple_choice_answer"] == answer} == {kind}


@pytest.mark.parametrize(
    ("genre", "in_plot", "on_poster"), [(g, *s) for g, s in zip(GENRES, [(0.9, 0.1)] * 3 + [(0.1, 0.95)] * 3 + [(0.6, 0.7)] * 4)]
)
def test_a_genre_shows_in_plot_and_poster_as_often_as_it_should(films, genre, in_plot, on_poster):
    having = [film for film in films if genre in film["genres"]]
    assert len(having) > 200
    assert abs(np.mean([genre in film["in_plot"] for film in having]) - in_plot) < five_sigma(in_plot, len(having))
    assert abs(np.mean([genre in film["on_poster"] for film in having]) - on_poster) < five_sigma(on_poster, len(having))


@pytest.fixture(scope="module")
def films():
    return drawn("mm_imdb", "train", 3000)[2]


def test_plots_tell_the_genres_that_the_oracle_names():
    genre_of = {word: name for name, genre in GENRES.items() for word in genre.words}
    assert len(genre_of) == 80
    assert not set(genre_of) & set(COMMON_WORDS)
    _, records, known = drawn("mm_imdb", "train", 600)
    told = [{genre_of[w] for w in r["film"]["plot"][0].split() if w in genre_of} for r in records]
    assert all(set(row["in_plot"]) <= genres for row, genres in zip(known, told))
    stray = [genres - set(row["in_plot"]) for row, genres in zip(known, told)]
    assert max(map(len, stray)) == 1
    assert 0.3 < np.mean([len(s) for s in stray]) < 0.5  # half of the plots have a stray word, some of them of a genre they tell


def test_posters_show_at_least_the_genres_that_the_oracle_names():
    images, _, known = drawn("mm_imdb", "train", 300, noise=0.0)
    filled = images.reshape(300, 2, 8, 2, 8, 3).any(axis=(2, 4, 5)).sum(axis=(1, 2))
    shown = np.array([len(row["on_poster"]) for row in known])
    assert (filled >= shown).all()
    strays, empty = (filled - shown).sum(), (4 - shown).sum()
    assert abs(strays / empty - 0.25) < five_sigma(0.25, empty)


def test_common_genres_are_common_and_the_mix_makes_them_so():
    _, records, _ = drawn("mm_imdb", "train", 500, mix={"Horror": 0.5, "Family": 0.5})
    assert {genre for record in records for genre in record["film"]["genres"]} == {"Horror", "Family"}
    _, records, _ = drawn("mm_imdb", "train", 1500)
    counts = Counter(genre for record in records for genre in record["film"]["genres"])
    assert counts.most_common(1)[0][0] == "Drama"


# Wrong labels


@pytest.mark.parametrize("num_labels", [2, 3, 16])
def test_spoiled_labels_are_other_ones_and_as_many_as_asked(num_labels):
    labels = np.arange(20_000) % num_labels
    spoiled = spoil(labels, num_labels, 0.3, np.random.default_rng(0))
    assert set(spoiled) == set(range(num_labels))
    assert abs((spoiled != labels).mean() - 0.3) < five_sigma(0.3, 20_000)


@pytest.mark.parametrize(("split", "share"), [("train", 0.2), ("dev_seen", 0.0), ("test_seen", 0.0)])
def test_only_training_labels_are_spoiled_and_the_oracle_keeps_the_truth(split, share):
    _, records, known = drawn("hateful_memes", split, 2000, label_noise=0.2)
    wrong = np.mean([record["label"] != row["label"] for record, row in zip(records, known)])
    assert abs(wrong - share) <= five_sigma(share, 2000)


def test_label_noise_changes_labels_and_nothing_else():
    clean, spoiled = (drawn("hateful_memes", "train", 300, label_noise=share) for share in (0.0, 0.3))
    assert_array_equal(clean[0], spoiled[0])
    assert [r["text"] for r in clean[1]] == [r["text"] for r in spoiled[1]]
    assert [r["label"] for r in clean[1]] != [r["label"] for r in spoiled[1]]


def test_spoiled_genres_leave_every_film_a_genre():
    _, records, known = drawn("mm_imdb", "train", 500, label_noise=0.3)
    assert min(len(record["film"]["genres"]) for record in records) >= 1
    assert any(record["film"]["genres"] != row["genres"] for record, row in zip(records, known))


# The same options, the same world


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_options_give_the_same_bytes(tmp_path, layout):
    sizes = dict.fromkeys(LAYOUTS[layout].splits, 3)
    first, second = (make_world(layout, tmp_path / name, seed=5, sizes=sizes).folder for name in "ab")
    assert contents(first) == contents(second)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_seeds_and_splits_give_other_rows(layout):
    one, two, *_ = LAYOUTS[layout].splits
    images = [drawn(layout, split, 20, seed=seed)[0] for split, seed in ((one, 0), (one, 1), (two, 0))]
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, 255, 257])
def test_a_larger_split_begins_with_the_smaller_one(layout, size):
    split = next(iter(LAYOUTS[layout].splits))
    small, large = drawn(layout, split, size), drawn(layout, split, 300)
    assert_array_equal(small[0], large[0][:size])
    assert small[1] == large[1][:size]
    assert small[2] == large[2][:size]


@pytest.mark.parametrize(
    ("layout", "digest"),
    [("hateful_memes", "283492146c76"), ("mm_imdb", "164ec5d6487a"), ("snli_ve", "8f0051b5c8c1"), ("vqa_v2", "07d3275c4a47")],
)
def test_seed_0_gives_the_same_rows_with_every_version_of_numpy(layout, digest):
    records = drawn(layout, next(iter(LAYOUTS[layout].splits)), 300)[1]
    assert hashlib.sha256(json.dumps(records).encode()).hexdigest()[:12] == digest


def test_the_default_sizes_are_those_of_the_first_run():
    sizes = {split: s.size for split, s in LAYOUTS["hateful_memes"].splits.items() if s.size}
    assert sizes == {"train": 3000, "dev_seen": 500, "test_seen": 2000}


# The folder


def make(folder, **options):
    return make_world("snli_ve", folder, **{"sizes": {"train": 2, "dev": 0, "test": 0}, **options})


def test_the_same_world_is_reused(tmp_path):
    first = make(tmp_path / "world")
    marker = tmp_path / "world" / "snli_ve_train.jsonl"
    before = marker.stat().st_mtime_ns
    second = make(tmp_path / "world")
    assert (first.reused, second.reused) == (False, True)
    assert first.plan == second.plan
    assert marker.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seed": 1}, "seed is 0, wanted 1"),
        ({"noise": 0.2}, "noise is 0.1, wanted 0.2"),
        ({"mix": {"text": 1}}, "mix is .* wanted {'text': 1.0"),
        ({"label_noise": 0.5}, "label_noise is 0.0, wanted 0.5"),
        ({"sizes": {"train": 3, "dev": 0, "test": 0}}, "sizes is .*'train': 2.* wanted .*'train': 3"),
    ],
)
def test_another_world_is_refused_with_what_differs(tmp_path, options, text):
    make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(DataError, match=f"holds another made world: {text}.*overwrite=true"):
        make(tmp_path, **options)
    assert contents(tmp_path) == before


def test_another_world_is_replaced_if_asked(tmp_path):
    make(tmp_path / "world")
    summary = make(tmp_path / "world", seed=1, overwrite=True)
    assert not summary.reused
    assert json.loads((tmp_path / "world/world.json").read_text())["seed"] == 1
    assert os.listdir(tmp_path) == ["world"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_touched(tmp_path, overwrite):
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"no made world \(it has no world.json\). Choose another folder"):
        make(tmp_path, overwrite=overwrite)
    assert os.listdir(tmp_path) == ["train.jsonl"]


def test_an_empty_folder_is_filled(tmp_path):
    assert not make(tmp_path).reused
    assert (tmp_path / "world.json").is_file()


def test_a_world_that_is_not_finished_leaves_nothing(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "world", progress=stop)
    assert os.listdir(tmp_path) == []


def test_progress_counts_all_rows(tmp_path):
    calls = []
    make(tmp_path / "world", sizes={"train": 300, "dev": 1, "test": 0}, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(256, 301), (300, 301), (301, 301)]


def test_a_split_of_size_0_is_left_out(tmp_path):
    make(tmp_path)
    assert not (tmp_path / "snli_ve_dev.jsonl").exists()


# Wrong options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"layout": "hatefull_memes"},
            r"layout: no layout is named 'hatefull_memes'. Did you mean 'hateful_memes'\? Known: .*vqa_v2",
        ),
        ({"sizes": {"dev_sen": 3}}, r"sizes.dev_sen: hateful_memes has no such split. Did you mean 'dev_seen'\? Known: train, "),
        ({"mix": {"benig": 1}}, r"mix.benig: hateful_memes has no such kind of row. Did you mean 'benign'\? Known: both, "),
        ({"sizes": {"train": -1}}, "sizes.train: wanted a number of at least 0 and at most 1,000,000, got -1."),
        ({"sizes": {"train": 1_000_001}}, "sizes.train: wanted a number of at least 0 and at most 1,000,000, got 1000001."),
        ({"sizes": {"train": 2.5}}, "sizes.train: wanted int, got 2.5"),
        ({"sizes": 400}, r"sizes: wanted dict\[str, anything\], got 400"),
        ({"sizes": {"train": 0, "dev_seen": 0, "test_seen": 0}}, "sizes: every split has size 0"),
        ({"mix": {"benign": -1}}, "mix.benign: wanted a number of at least 0, got -1."),
        ({"mix": {"benign": 0}}, "mix: the shares sum to 0. Give at least one of both, "),
        ({"mix": {}}, "mix: the shares sum to 0"),
        ({"noise": -0.1}, "noise: wanted a number of at least 0, got -0.1."),
        ({"noise": float("nan")}, "noise: wanted a number of at least 0, got nan."),
        ({"noise": float("inf")}, "noise: wanted a number of at least 0, got inf."),
        ({"label_noise": 1.5}, "label_noise: wanted a number of at least 0 and at most 1, got 1.5."),
        ({"seed": -1}, "seed: wanted a number of at least 0, got -1."),
        ({"seed": "0"}, "seed: wanted int, got '0'"),
    ],
)
def test_a_wrong_option_is_told_in_a_sentence(tmp_path, options, text):
    with pytest.raises(ConfigError, match=text):
        make_world(**{"layout": "hateful_memes", "folder": tmp_path / "world", **options})
    assert not (tmp_path / "world").exists()


def test_all_wrong_options_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        make_world("snli_ve", tmp_path / "world", seed=-1, noise=-1.0, sizes={"trian": 1}, mix={"txt": 1})
    assert [problem.path for problem in caught.value.problems] == ["seed", "noise", "sizes.trian", "mix.txt"]


# The oracle

shares = st.lists(st.floats(0.02, 1), min_size=7, max_size=7)


@given(shares=shares, seed=st.integers(0, 1000))
@settings(max_examples=4, derandomize=True)
def test_posteriors_are_the_frequencies_of_what_is_drawn(shares, seed):
    mix = {kind: share / sum(shares) for kind, share in zip(MEMES.kinds, shares)}
    memes = draw_signs(50_000, mix, seed)
    exact = memes.posteriors(mix)
    text, red = memes.signs["text"], memes.signs["image"] >= 2
    shown = {
        "text": text,
        "image": 10 * red + memes.digits,  # each digit apart: more than the oracle looks at, and the same answer
        "full": 100 * text + 10 * red + memes.digits,
    }
    for view, what in shown.items():
        for value in np.unique(what):
            rows = what == value
            p = exact[view][rows][0]
            assert_array_equal(exact[view][rows], p)
            assert abs(memes.labels[rows].mean() - p) <= five_sigma(p, rows.sum()) + 1e-12


@given(shares=shares)
@settings(max_examples=20, derandomize=True)
def test_the_joint_sums_to_1_and_the_full_view_is_certain(shares):
    mix = {kind: share / sum(shares) for kind, share in zip(MEMES.kinds, shares)}
    assert_allclose(MEMES.joint(mix).sum(), 1)
    memes = draw_signs(200, mix, seed=0)
    assert_array_equal(memes.posteriors(mix)["full"], memes.labels)


def test_posteriors_of_the_default_mix_are_those_counted_by_hand():
    signs = {"image": np.array([1, 3]), "text": np.array([1, 0])}
    memes = SignedRows(MEMES, ["both", "image"], signs, digits=np.array([7, 9]))
    found = memes.posteriors(HatefulMemesLayout.mix)
    assert_allclose(found["text"], [(0.30 + 0.05) / (0.30 + 0.20 + 0.05 + 0.025), 0.05 / (0.20 + 0.05 + 0.05 + 0.025)])
    assert_allclose(found["image"], [(0.30 + 0.05) / (0.30 + 0.05 + 0.20), 1.0])


@pytest.mark.parametrize(("view", "accuracy"), [("full", 1.0), ("text", 0.725), ("image", 0.75)])
def test_the_best_accuracy_of_a_view_is_the_documented_one(view, accuracy):
    memes = draw_signs(200_000, HatefulMemesLayout.mix, seed=0)
    p = memes.posteriors(HatefulMemesLayout.mix)[view]
    assert abs(((p > 0.5) == memes.labels).mean() - accuracy) <= five_sigma(accuracy, 200_000)


def test_saliency_is_the_divergence_of_the_full_view_from_the_view_without():
    from scipy.stats import entropy

    p = {"full": np.array([1.0, 0.0, 0.3]), "image": np.array([0.5, 0.2, 0.6]), "text": np.array([1.0, 0.9, 0.3])}
    found = oracle.saliency(p)
    for modality, without in (("image", "text"), ("text", "image")):
        expected = [entropy([a, 1 - a], [b, 1 - b]) for a, b in zip(p["full"], p[without])]
        assert_allclose(found[modality], expected, atol=1e-12)  # float64 and a handful of operations


def test_the_modality_that_decides_is_the_salient_one(worlds):
    rows = read_oracle(worlds["hateful_memes"], "train").values()
    for row in rows:
        if row.decided_by == "text":
            assert row.saliency["text"] > row.saliency["image"] == 0
        if row.decided_by == "image":
            assert row.saliency["image"] > row.saliency["text"] == 0
        if row.decided_by == "both":
            assert min(row.saliency.values()) > 0
    assert len(rows) == 300


def test_the_oracle_is_keyed_by_the_ids_of_the_split(worlds):
    folder = worlds["hateful_memes"]
    rows = lines(folder / "test_seen.jsonl")
    known = read_oracle(folder, "test_seen")
    assert [str(row["id"]) for row in rows] == list(known)
    assert [row["label"] for row in rows] == [row.label for row in known.values()]
    assert [row["decided_by"] for row in rows] == [row.decided_by for row in known.values()]


def test_a_meme_that_cannot_occur_has_no_posterior():
    memes = draw_signs(3, {"text": 1.0}, seed=0)
    with pytest.raises(ValueError, match="some rows cannot occur under this mix"):
        memes.posteriors({"image": 1.0})


def test_a_folder_without_an_oracle_is_told(tmp_path, worlds):
    with pytest.raises(DataError, match=r"oracle_train\.jsonl: no such file"):
        read_oracle(tmp_path, "train")
    (tmp_path / "oracle_train.jsonl").write_text('{"id": 1, "label": "neutral"}\n')  # as it was written once
    with pytest.raises(DataError, match=r"it has no posteriors, as an earlier version wrote it\. Make the world anew"):
        read_oracle(tmp_path, "train")


def best_accuracy(rows):
    """That of a reader who knows how often each answer occurs where the same is shown, of (what is shown, answer's scores)."""
    seen = {}
    for shown, scores in rows:
        seen[shown] = seen.get(shown, 0) + np.asarray(scores, dtype=float)
    return sum(scores.max() for scores in seen.values()) / len(rows)


def test_the_best_accuracy_on_image_and_length_in_snli_ve_is_the_documented_one():
    generator, shares = np.random.default_rng(0), snli_ve.SnliVeLayout.mix
    pairs = [snli_ve.KINDS[kind](generator) for kind in generator.choice(list(shares), 20_000, p=list(shares.values()))]
    rows = [((pair.digit, pair.ink, len(pair.hypothesis.split())), np.eye(3)[pair.label]) for pair in pairs]
    assert abs(best_accuracy(rows) - 0.755) < 0.0115  # three standard errors, and what counting overrates


def test_the_best_accuracy_on_image_and_length_in_vqa_is_the_documented_one():
    generator = np.random.default_rng(0)
    rows = []
    for kind in generator.choice(list(vqa.KINDS), 20_000):
        digit, ink = int(generator.integers(10)), int(generator.integers(4))
        question = vqa.KINDS[kind](digit, ink, generator)
        right = vqa.ANSWERS.index(question.answer)
        given = np.where(generator.random(10) < vqa.ANNOTATOR_NOISE, generator.integers(16, size=10), right)
        votes = np.bincount(given, minlength=16)
        scores = (votes * np.minimum(1, (votes - 1) / 3) + (10 - votes) * np.minimum(1, votes / 3)) / 10  # the official accuracy
        rows.append(((digit, ink, len(question.text.split())), scores))
    assert abs(best_accuracy(rows) - 0.618) < 0.0115


def most_likely(joint, *shown):
    """How often the likeliest label is right where some of the signs are shown."""
    cells: dict[tuple[str, ...], dict[str, float]] = {}
    for (label, *signs), share in joint.items():
        cell = cells.setdefault(tuple(signs[i] for i in shown), {})
        cell[label] = cell.get(label, 0) + share
    return sum(max(cell.values()) for cell in cells.values())


def test_what_occurs_together_in_snli_ve_is_counted_as_it_is_drawn():
    joint, generator = snli_ve.joint(snli_ve.SnliVeLayout.mix), np.random.default_rng(1)
    assert sum(joint.values()) == pytest.approx(1)
    assert most_likely(joint, 0) == pytest.approx(0.5)
    assert most_likely(joint, 1) == pytest.approx(0.3 + 0.25 + 0.2 / 3)  # neutral, a half of claims, a third on red cards
    assert most_likely(joint, 0, 1) == pytest.approx(1)
    shares, drawn = snli_ve.SnliVeLayout.mix, Counter()
    for kind in generator.choice(list(shares), 20_000, p=list(shares.values())):
        pair = snli_ve.KINDS[kind](generator)
        drawn[snli_ve.LABELS[pair.label], cards.card_sign(pair.digit, pair.ink), pair.claim] += 1
    assert_as_often(joint, drawn)


def test_what_occurs_together_in_vqa_is_counted_as_it_is_drawn():
    joint, generator, drawn = vqa.joint(vqa.VqaLayout.mix), np.random.default_rng(1), Counter()
    assert sum(joint.values()) == pytest.approx(1)
    assert most_likely(joint, 0, 1) == pytest.approx(1)
    for kind in generator.choice(list(vqa.KINDS), 20_000):
        digit, ink = int(generator.integers(10)), int(generator.integers(4))
        question = vqa.KINDS[kind](digit, ink, generator)
        drawn[question.answer, cards.card_sign(digit, ink), question.asks] += 1
    assert_as_often(joint, drawn)


def assert_as_often(joint, drawn):
    """Nothing is drawn that cannot be, and all of it about as often as it should: chi squared, p above 1e-4."""
    assert set(drawn) <= set(joint)
    expected = np.array([joint[key] for key in joint]) * drawn.total()
    found = np.array([drawn[key] for key in joint])
    common = expected >= 5
    pooled = [np.append(x[common], x[~common].sum()) for x in (found, expected)]
    assert stats.chisquare(*pooled).pvalue > 1e-4


def test_probabilities_of_genres_are_as_often_right_as_they_say():
    generator, genres = np.random.default_rng(0), mm_imdb.GENRES.values()
    mix = [genre.share / mm_imdb.GENRES_PER_FILM for genre in genres]
    films = mm_imdb._draw_genres(4000, mix, generator)
    in_plot = films & (generator.random(films.shape) < [genre.in_plot for genre in genres])
    on_poster = films & (generator.random(films.shape) < [genre.on_poster for genre in genres])
    digits = mm_imdb.digits_of(mm_imdb._lay_out(on_poster, generator))
    words = mm_imdb.words_of([mm_imdb._plot(own, generator) for own in in_plot])
    rows = list(mm_imdb.GenreReader(mix).posteriors(words, digits))
    losses = {}
    for view in ("full", "image", "text"):
        p = np.array([list(row[view].values()) for row in rows])
        losses[view] = -np.log(np.where(films, p, 1 - p).clip(1e-12)).mean()
        for low in (0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
            own = (p >= low) & (p < (1.01 if low == 0.9 else {0: 0.02, 0.02: 0.1}.get(low, low + 0.2)))
            error = np.sqrt((p[own] * (1 - p[own])).sum()) + 1e-9
            assert abs((films[own] - p[own]).sum()) < 4.5 * error + 0.5
    assert losses["full"] < min(losses["image"], losses["text"]) - 0.05


def test_the_length_of_a_meme_or_a_plot_tells_nothing_of_its_label(worlds):
    _, memes, _ = drawn("hateful_memes", "train", 4000)
    lengths = np.array([len(meme["text"].split()) for meme in memes])
    hateful = np.array([meme["label"] for meme in memes], bool)
    assert abs(lengths[hateful].mean() - lengths[~hateful].mean()) < 4 * lengths.std() / np.sqrt(1000)  # of two halves of 2,000
    films = [json.loads(path.read_text()) for path in (worlds["mm_imdb"] / "dataset").glob("*.json")]
    assert {len(film["plot"][0].replace(".", "").split()) for film in films} == {12}
