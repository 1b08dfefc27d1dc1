"""MM-IMDB in its three layouts, made here."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from msd_framework.data.processors.vectors import TokenIds, Vectors
from msd_framework.data.sets.films import GENRES
from msd_framework.data.sets.mm_imdb import MMIMDB
from msd_framework.errors import CheckpointError, DataError
from msd_framework.registry import METRICS, PROCESSORS

SPLIT = {"train": ["0000008", "0000010", "0000192"], "dev": ["0000439"], "test": ["0000942"]}


def film(number: int, **changes) -> dict:
    plots = ["short", f"the longest plot of film {number}", "another"]
    return {"title": f"Film {number}", "plot": plots, "genres": ["Comedy", GENRES[number % 23], "News"], "year": 1900} | changes


def write(root: Path, name: str, record) -> None:
    (root / "dataset").mkdir(exist_ok=True)
    (root / f"dataset/{name}.json").write_text(json.dumps(record))


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "split.json").write_text(json.dumps(SPLIT))
    for names in SPLIT.values():
        for name in names:
            write(tmp_path, name, film(int(name)))
    return tmp_path


def opened(root: Path, split: str = "train", **options) -> MMIMDB:
    return MMIMDB(split, str(root), **options)


@pytest.mark.parametrize("suffix", ["json", "jpeg"])
def test_a_link_to_a_film_or_poster_is_followed_where_it_is_allowed(root, tmp_path_factory, suffix):
    disk, file = tmp_path_factory.mktemp("disk"), root / f"dataset/0000010.{suffix}"
    (disk / file.name).write_text(json.dumps(film(10)))
    file.unlink(missing_ok=True)
    file.symlink_to(disk / file.name)
    with pytest.raises(
        DataError, match=rf"'{file.name}' does not lie inside .+dataset: a link leads to .+data\.dataset\.allow_roots=\["
    ):
        opened(root)
    assert opened(root, allow_roots=[str(disk)])[1].id == "0000010"


def labels(*genres: str) -> list[float]:
    return [float(genre in genres) for genre in GENRES]


def ids(dataset: MMIMDB) -> list[str]:
    return [dataset[i].id for i in range(len(dataset))]


def test_a_film_is_its_poster_its_longest_plot_and_23_labels(root):
    example = opened(root)[0]
    assert (example.id, example.source) == ("0000008", f"{root}/dataset/0000008.json")
    assert example.inputs == {"image": root / "dataset/0000008.jpeg", "text": "the longest plot of film 8"}
    assert list(example.target) == labels("Comedy", GENRES[8])  # News is dropped
    assert example.facts == {"title": "Film 8"}
    assert ids(opened(root)) == SPLIT["train"]
    assert ids(opened(root, "test")) == SPLIT["test"]
    assert len(opened(root, max_examples=2)) == 2


def test_there_are_23_classes_without_an_unknown_one():
    info = MMIMDB.describe({"layout": "json"})
    assert (info.num_classes, len(info.class_names), info.task) == (23, 23, "multi_label")
    assert len(set(info.class_names)) == 23


def test_macro_f1_is_that_of_sklearn_and_1_for_a_perfect_prediction(root):
    for i, name in enumerate(ids := [f"{i:07}" for i in range(60)]):
        write(root, name, film(i, genres=[GENRES[i % 23], GENRES[(7 * i) % 23]]))
    (root / "split.json").write_text(json.dumps({"train": ids, "dev": ["1000001"], "test": ["1000002"]}))
    dataset = opened(root)
    targets = torch.tensor([dataset[i].target for i in range(60)])
    macro = METRICS.build("f1_macro")
    assert macro(targets - 0.5, targets) == pytest.approx(1, abs=1e-6)  # a mean of 23 ones in float32
    logits = torch.randn(60, 23, generator=torch.Generator().manual_seed(0))
    assert macro(logits, targets) == pytest.approx(
        f1_score(targets, logits > 0, average="macro", zero_division=0), abs=1e-6
    )  # float32


def test_one_set_of_plots_has_one_fingerprint(root, tmp_path_factory):
    assert opened(root).fingerprint == opened(root, on_error="skip").fingerprint != opened(root, "dev").fingerprint
    write(root, "0000008", film(8, plot="another plot"))
    before = opened(root).fingerprint
    write(root, "0000008", film(8))
    assert opened(root).fingerprint != before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"plot": []}, r"0000010.json:1: plot is \[\] \(list\), wanted a text, or a list of texts"),
        ({"plot": [3]}, r"0000010.json:1: plot is \[3\] \(list\), wanted a text"),
        ({"plot": "\ud800"}, r"0000010.json:1: plot is .+ wanted a text"),
        ({"genres": "Drama"}, r"0000010.json:1: genres is 'Drama' \(str\), wanted a list of genres"),
        ({"genres": ["Dramma"]}, r"0000010.json:1: there is no genre 'Dramma'. Did you mean 'Drama'\? Genres: Drama, .+Reality-TV"),
    ],
)
def test_a_wrong_film_is_named_or_left_out(root, changes, sentence):
    write(root, "0000010", film(10, **changes))
    with pytest.raises(DataError, match=sentence):
        opened(root)
    dataset = opened(root, on_error="skip")
    assert (ids(dataset), len(dataset.skipped)) == (["0000008", "0000192"], 1)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"plot": ["a"', r"0000010.json: is not JSON \(.+\), wanted an object"),
        (b"", r"0000010.json: is not JSON"),
        (json.dumps(film(10)).encode("utf-16"), r"0000010.json: is not UTF-8"),
        (b"[1]", r"0000010.json: is \[1\] \(list\), wanted an object"),
        (None, r"0000010.json: cannot be read \(No such file or directory\), and split.json lists 0000010"),
    ],
)
def test_a_damaged_file_of_a_film_is_named(root, content, sentence):
    if content is None:
        (root / "dataset/0000010.json").unlink()
    else:
        (root / "dataset/0000010.json").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        opened(root)
    assert ids(opened(root, on_error="skip")) == ["0000008", "0000192"]


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        ({**SPLIT, "test": ["0000008"]}, "split.json: film 0000008 is listed in train and again in test"),
        ({**SPLIT, "dev": ["../etc"]}, r"split.json: dev lists '../etc', wanted an id in digits"),
        ({**SPLIT, "dev": [8]}, r"split.json: dev lists 8, wanted an id in digits"),
        ({"train": ["1"]}, r"split.json: has no list 'dev', only 'train'"),
        ([], r"split.json: is \[\] \(list\), wanted an object"),
    ],
)
def test_a_wrong_list_of_splits_is_named(root, split, sentence):
    (root / "split.json").write_text(json.dumps(split))
    with pytest.raises(DataError, match=sentence):
        opened(root)


def test_where_no_film_can_be_read_that_is_said(root):
    write(root, "0000439", {})
    with pytest.raises(DataError, match=r"no film of dev can be read: .+0000439.json:1: has no 'plot'"):
        opened(root, "dev", on_error="skip")


def test_a_missing_folder_and_an_unknown_split_are_named(tmp_path):
    assert (
        "split.json is missing: download the data set from https://archive.org" in MMIMDB.check({"root": str(tmp_path)}, "dev")[0]
    )
    assert "multimodal_imdb.hdf5 is missing" in MMIMDB.check({"root": str(tmp_path), "layout": "hdf5"}, "dev")[0]
    assert MMIMDB.check({}, "tes")[0].startswith("mm_imdb has no split 'tes'. Did you mean 'test'?")
    with pytest.raises(DataError, match=r"split.json is missing"):
        opened(tmp_path)
    with pytest.raises(ValueError, match="max_examples is 0"):
        opened(tmp_path, max_examples=0)


def mmf(root: Path, *lines) -> None:
    (root / "defaults/annotations").mkdir(parents=True, exist_ok=True)
    (root / "defaults/images/mmimdb/dataset").mkdir(parents=True, exist_ok=True)
    (root / "defaults/annotations/train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    "image", [{"image_id": "0000008"}, {"image_name": "0000008.jpeg"}, {"image_path": "dataset/0000008.jpeg"}, {"id": 8}]
)
def test_mmfs_layout_is_read(tmp_path, image):
    mmf(tmp_path, image | {"plot": ["a"], "genres": ["Drama"]})
    example = opened(tmp_path)[0]
    assert example.id == "0000008"
    assert example.inputs == {"image": tmp_path / "defaults/images/mmimdb/dataset/0000008.jpeg", "text": "a"}
    assert example.source.endswith("train.jsonl:1")


def test_a_film_that_mmf_repeats_for_each_plot_is_one_example_with_the_longest(tmp_path):
    plots = ["short", "the longest", "medium"]
    mmf(tmp_path, *({"image_id": "8", "plot": p, "genres": ["Drama"]} for p in plots), {"image_id": "9", "plot": "x", "genres": []})
    dataset = opened(tmp_path)
    assert [(e.id, e.inputs["text"]) for e in (dataset[i] for i in range(2))] == [("0000008", "the longest"), ("0000009", "x")]
    assert len(opened(tmp_path, max_examples=1)) == 1
    assert dataset.fingerprint == opened(tmp_path).fingerprint


def test_a_film_with_two_sets_of_genres_is_an_error(tmp_path):
    mmf(tmp_path, *({"image_id": "8", "plot": "x", "genres": [g]} for g in ("Drama", "War")))
    with pytest.raises(DataError, match=r"train.jsonl:2: film 0000008 has other genres here than in an earlier line"):
        opened(tmp_path)


NAMES = [f"{i:07}" for i in (8, 10, 192, 439, 942, 1000)]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "genres": random.integers(0, 2, (6, 23), np.int32),
        "imdb_ids": np.array(NAMES, "S7"),
        "images": random.integers(0, 256, (6, 3, 8, 5), np.int32),
        "vgg_features": random.random((6, 7), np.float32),
        "features": random.random((6, 3), np.float32),
    }


SHUFFLED = sorted(GENRES)


def write_hdf5(root: Path, arrays, rows=(("train", 0, 3), ("dev", 3, 4), ("test", 4, 6)), names=SHUFFLED, leave_out="") -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(root / "multimodal_imdb.hdf5", "w") as file:
        for name, array in arrays.items():
            if name != leave_out:
                file[name] = array
        texts = file.create_dataset("sequences", (6,), h5py.special_dtype(vlen=np.dtype("int32")))
        for i in range(6):
            texts[i] = np.arange(i + 1, dtype=np.int32)
        if "genres" in file:
            file["genres"].attrs["target_names"] = json.dumps(names) if isinstance(names, list) else names
        fields = [("split", "S5"), ("source", "S12"), ("start", np.int64), ("stop", np.int64), ("available", bool)]
        table = [(s.encode(), source, a, b, True) for s, a, b in rows for source in (b"features", b"genres")]
        if table:
            file.attrs["split"] = np.array(table, fields)


def test_hdf5_holds_the_films_of_each_split_as_arrays(tmp_path, arrays):
    write_hdf5(tmp_path, arrays)
    dataset = opened(tmp_path, "test")
    assert ids(dataset) == NAMES[4:]
    example = dataset[1]
    assert set(example.inputs) == {"image", "text", "vgg", "word2vec"} == set(MMIMDB.describe({"root": str(tmp_path)}).modalities)
    assert np.array_equal(example.inputs["image"], arrays["images"][5].transpose(1, 2, 0))
    assert example.inputs["text"].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(example.inputs["vgg"], arrays["vgg_features"][5])
    assert np.array_equal(example.inputs["word2vec"], arrays["features"][5])
    assert list(example.target) == [arrays["genres"][5, SHUFFLED.index(genre)] for genre in GENRES]
    assert len(opened(tmp_path, max_examples=2)) == 2
    with pytest.raises(KeyError):
        example.inputs["audio"]


def test_hdf5_goes_through_processors_and_pickles(tmp_path, arrays):
    write_hdf5(tmp_path, arrays)
    dataset = pickle.loads(pickle.dumps(opened(tmp_path)))  # noqa: S301
    specs = {
        "image": {"type": "pixel_array", "size": [8, 5], "channels": 3},
        "text": "token_ids",
        "vgg": "vectors",
        "word2vec": "vectors",
    }
    for modality, spec in specs.items():
        processor = PROCESSORS.build(spec, modality)
        values = [dataset[i].inputs[modality] for i in range(3)]
        processor.fit(values)
        batch = processor.collate([processor.load(value) for value in values])
        assert len(batch.values) == 3
        assert batch.mask[:, 0].all()


@pytest.mark.parametrize(
    ("changed", "options", "sentence"),
    [
        ({"genres": np.zeros((6, 24), np.int32)}, {}, r"genres has the shape \[6, 24\], wanted \[films, 23\]"),
        ({"images": np.zeros((6, 3, 8), np.int32)}, {}, r"images has the shape \[6, 3, 8\], wanted \[films, 3, any, any\]"),
        ({"vgg_features": np.zeros((5, 7), np.float32)}, {}, r"vgg_features has the shape \[5, 7\], wanted \[films, any\]"),
        ({"imdb_ids": np.array("x", "S7")}, {}, r"imdb_ids has the shape \[\], wanted \[films\]"),
        ({"genres": np.full((6, 23), 2)}, {}, "genres holds other numbers than 0 and 1"),
        ({"imdb_ids": np.array([NAMES[0]] * 6, "S7")}, {}, "film 0000008 is there twice; ids must differ"),
        ({}, {"leave_out": "images"}, "has no array 'images', only 'features', 'genres'"),
        ({}, {"leave_out": "genres"}, "has no array 'genres', only"),
        ({}, {"names": [*GENRES[:22], "News"]}, r"has the genres \[.+\], wanted Drama, Comedy"),
        ({}, {"names": "{"}, "genres has no attribute 'target_names' that lists the genres"),
        ({}, {"rows": ()}, "has no attribute 'split' that says which rows are of which split"),
        ({}, {"rows": (("dev", 0, 3),)}, "its attribute 'split' says nothing of train"),
        ({}, {"rows": (("train", 0, 9),)}, "train is rows 0 to 9, and there are 6"),
    ],
)
def test_another_hdf5_file_is_named(tmp_path, arrays, changed, options, sentence):
    write_hdf5(tmp_path, arrays | changed, **options)
    with pytest.raises(DataError, match=f"multimodal_imdb.hdf5: {sentence}"):
        opened(tmp_path)


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_truncated_hdf5_file_is_named(tmp_path, arrays, size):
    write_hdf5(tmp_path, arrays)
    file = tmp_path / "multimodal_imdb.hdf5"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DataError, match="is no HDF5 file that can be read"):
        opened(tmp_path)


def test_without_h5py_it_is_said_what_to_install(tmp_path, arrays, monkeypatch):
    write_hdf5(tmp_path, arrays)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(DataError, match=r"pip install 'msd_framework\[hdf5\]'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("processor", "value", "sentence"),
    [
        (TokenIds(num_words=3), [0.5], r"a text is an array of float64 \[1\], wanted the ids of its words"),
        (TokenIds(num_words=3), [-1], "wanted the ids of its words, whole numbers from 0"),
        (TokenIds(num_words=3), [], "wanted the ids of its words"),
        (Vectors(3), [1.0, 2.0], r"features are an array of float64 \[2\], wanted finite numbers \[3\] or \[N, 3\]"),
        (Vectors(), ["a"], "wanted finite numbers"),
        (Vectors(), [float("nan")], "features hold numbers that are no finite float32"),
    ],
)
def test_other_numbers_than_wanted_are_named(processor, value, sentence):
    with pytest.raises(DataError, match=sentence):
        processor.load(value)


@pytest.mark.parametrize(("made", "fact"), [(TokenIds, {"pad_id": 0, "vocab_size": 11}), (Vectors, {"feature_size": 2})])
def test_what_a_processor_learns_is_kept(tmp_path, made, fact):
    learned, again = made(), made()
    learned.fit([np.array([3, 8])])
    assert learned.facts == fact
    learned.save(tmp_path)
    again.restore(tmp_path)
    assert (again.facts, again.fingerprint) == (fact, learned.fingerprint)
    with pytest.raises(CheckpointError, match=r"none/.+\.json: cannot be read .+ of a run"):
        made().restore(tmp_path / "none")


def test_ids_need_to_know_how_many_there_are():
    with pytest.raises(RuntimeError, match="it is not known how many words there are"):
        TokenIds().load([1])
    assert TokenIds(max_length=2, num_words=9).length([1, 2, 3]) == 2
    assert Vectors().length([[1.0], [2.0]]) == 2
