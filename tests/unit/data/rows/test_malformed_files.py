"""Files that are not what they should be: each is read for what it holds, or refused in one sentence that names it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from msd_framework.data.processors.images import MAX_PIXELS, read_image
from msd_framework.data.regions.hdf5 import Hdf5
from msd_framework.data.regions.lmdb import Lmdb
from msd_framework.data.rows.csv_rows import CsvFile
from msd_framework.data.rows.json_array import JsonArray
from msd_framework.data.rows.json_lines import JsonLines
from msd_framework.data.rows.row import Row, RowBatch
from msd_framework.data.sets.films import GENRES
from msd_framework.data.sets.mm_imdb import MMIMDB
from msd_framework.errors import DataError

D = 4
few = settings(max_examples=25)


def read_or_told(file: Path, read: Callable[[Path], Any]) -> tuple[Any, str]:
    """What a reader finds in a file, or the one sentence that it says of it."""
    try:
        return read(file), ""
    except DataError as error:
        assert str(file) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        return None, str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("malformed")


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file that was cut off, or some of whose bytes are others."""
    if draw(st.booleans()):
        return whole[: draw(st.integers(0, len(whole) - 1))]
    content = bytearray(whole)
    for place, byte in draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=5)):
        content[place] = byte
    return bytes(content)


# Images


def encoded(mode: str, kind: str) -> bytes:
    content, draw = io.BytesIO(), np.random.default_rng(0)
    colours = Image.fromarray(draw.integers(0, 256, (20, 30, 3), np.uint8))
    deep = Image.fromarray(draw.integers(0, 65536, (20, 30)).astype(np.uint16))
    (deep if mode == "I;16" else colours.convert(mode)).save(content, kind)
    return content.getvalue()


MODES = [
    "CMYK JPEG",
    "CMYK TIFF",
    "P PNG",
    "P GIF",
    "P BMP",
    "1 PNG",
    "1 TIFF",
    "L PPM",
    "LA PNG",
    "RGBA WEBP",
    "I;16 PNG",
]


@pytest.mark.parametrize("kind", MODES)
@few
@given(data=st.data())
def test_a_damaged_image_of_any_mode_is_an_image_or_named(folder: Path, kind: str, data: st.DataObject) -> None:
    whole = encoded(*kind.split())
    file = folder / "image"
    file.write_bytes(whole)
    assert read_image(file).size == (30, 20)
    file.write_bytes(data.draw(damaged(whole)))
    image, sentence = read_or_told(file, read_image)
    assert sentence or image.mode == "RGB"


def header(kind: str, width: int, height: int) -> bytes:
    """A file that says it is an image of this size, and is a few bytes long."""
    whole = bytearray(encoded("L", kind))
    sizes = {"BMP": (18, "<ii", (width, height)), "GIF": (6, "<HH", (width, height))}
    if kind == "PPM":
        return f"P5 {width} {height} 255\n".encode()
    place, form, size = sizes.get(kind, (whole.find(b"\xff\xc0") + 5, ">HH", (height, width)))  # JPEG: where its frame begins
    struct.pack_into(form, whole, place, *size)
    return bytes(whole)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PPM"])
@few
@given(width=st.integers(2_000, 65_500), height=st.integers(2_000, 65_500))
def test_an_image_of_more_than_100_megapixels_is_refused_before_it_is_decoded(
    folder: Path, kind: str, width: int, height: int
) -> None:
    assume(width * height > MAX_PIXELS)
    (folder / "bomb").write_bytes(header(kind, width, height))
    _, sentence = read_or_told(folder / "bomb", read_image)
    assert "has too many pixels (" in sentence
    assert sentence.endswith("wanted at most 100,000,000")


# Texts: encodings, cut files, ids that repeat


def text_of(row: Row) -> str:
    return row.text("text")


def texts_of(rows: RowBatch) -> None:
    rows.texts("text")


def write_jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_csv(rows: list[dict[str, Any]]) -> str:
    content = io.StringIO()
    csv.writer(content).writerows([["id", "text"], *([row["id"], row["text"]] for row in rows)])
    return content.getvalue()


def write_array(rows: list[dict[str, Any]]) -> str:
    return json.dumps({"info": "", "list": rows}, ensure_ascii=False)


FORMATS: dict[str, tuple[Callable[[list[dict[str, Any]]], str], Callable[[Path], Any]]] = {
    "lines.jsonl": (write_jsonl, lambda file: JsonLines(file).open("id", texts_of)),
    "table.csv": (write_csv, lambda file: CsvFile(file).open("id", texts_of)),
    "list.json": (write_array, lambda file: JsonArray(file, "list").open("id", texts_of)),
}
words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "shift-jis", "gb18030", "utf-7"]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(texts=st.lists(words, min_size=1, max_size=4), encoding=st.sampled_from(ENCODINGS))
def test_a_file_in_another_encoding_is_named_unless_it_is_utf8_as_well(
    folder: Path, name: str, texts: list[str], encoding: str
) -> None:
    write, read = FORMATS[name]
    content = write([{"id": i, "text": text} for i, text in enumerate(texts)])
    raw = content.encode(encoding, "replace")
    (folder / name).write_bytes(raw)
    rows, sentence = read_or_told(folder / name, lambda file: [text_of(row) for row in read(file)])
    if encoding in ("utf-8", "utf-8-sig"):
        assert rows == texts
    elif rows is not None:  # bytes that are right in both
        assert raw.decode("utf-8")
    else:
        assert sentence


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40)
@given(ids=st.lists(st.integers(0, 6), min_size=1, max_size=8))
def test_an_id_that_repeats_is_named_with_its_first_place_in_every_format(folder: Path, name: str, ids: list[int]) -> None:
    write, read = FORMATS[name]
    (folder / name).write_text(write([{"id": i, "text": "a"} for i in ids]))
    rows, sentence = read_or_told(folder / name, lambda file: [row.identifier("id") for row in read(file)])
    if len(set(ids)) == len(ids):
        assert rows == list(map(str, ids))
    else:
        again = next(i for place, i in enumerate(ids) if i in ids[:place])
        assert f"id '{again}' is already that of {folder / name}" in sentence


FILM = {"plot": ["Zażółć gęślą jaźń"], "genres": ["Drama"], "title": "é"}
SPLIT = {"train": ["1", "2"], "dev": ["3"], "test": ["4"]}


def write_films(folder: Path) -> None:
    (folder / "dataset").mkdir(parents=True, exist_ok=True)
    (folder / "split.json").write_text(json.dumps(SPLIT))
    for name in "12":
        (folder / f"dataset/{name}.json").write_text(json.dumps(FILM, ensure_ascii=False), encoding="utf-8")


@pytest.mark.parametrize("name", ["split.json", "dataset/2.json"])
@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_json_file_of_mm_imdb_is_read_or_named(folder: Path, name: str, data: st.DataObject) -> None:
    write_films(folder / "films")
    file = folder / "films" / name
    whole = file.read_bytes()
    content = data.draw(damaged(whole) | st.sampled_from(ENCODINGS[2:]).map(lambda e: whole.decode().encode(e, "replace")))
    file.write_bytes(content)
    _, sentence = read_or_told(folder / "films", lambda root: [MMIMDB("train", str(root), "json")[i] for i in range(2)])
    assert not sentence or name in sentence or content == whole or "split.json lists" in sentence
    if len(content) < len(whole) and whole.startswith(content):
        assert f"{name}: is not JSON (" in sentence or f"{name}: is not UTF-8 (" in sentence


@settings(max_examples=40)
@given(train=st.lists(st.integers(1, 5), min_size=1, max_size=4), dev=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_film_that_is_listed_twice_is_named(folder: Path, train: list[int], dev: list[int]) -> None:
    write_films(folder / "listed")
    for i in range(1, 6):
        (folder / f"listed/dataset/{i}.json").write_text(json.dumps(FILM))
    split = {"train": [str(i) for i in train], "dev": [str(i) for i in dev], "test": ["6"]}
    (folder / "listed/split.json").write_text(json.dumps(split))
    films, sentence = read_or_told(folder / "listed", lambda root: MMIMDB("train", str(root), "json"))
    listed = [*train, *dev]
    if len(set(listed)) == len(listed):
        assert [films[i].id for i in range(len(films))] == split["train"]
    else:
        again = next(i for place, i in enumerate(listed) if i in listed[:place])
        assert f"split.json: film {again} is listed in " in sentence


# Region features


def fields(num_regions: int) -> dict[str, Any]:
    corners = np.tile(np.array([1.0, 1, 8, 8]), (num_regions, 1))
    return {"features": np.ones((num_regions, D), np.float32), "bbox": corners, "image_width": 40.0, "image_height": 30.0}


def write_groups(file: Path) -> None:
    with h5py.File(file, "w") as opened:
        for name in ("7", "8"):
            for key, value in fields(3).items():
                opened[f"{name}/{key}"] = value


def write_together(file: Path) -> None:
    with h5py.File(file, "w") as opened:
        for key, value in fields(3).items():
            opened[key] = np.stack([value, value])
        opened["ids"] = ["7", "8"]


def read_all(file: Path) -> list[Any]:
    reader = Hdf5(file)
    try:
        assert len(reader) == len(list(reader.names()))
        return [reader.has_boxes, *(reader.read(name, boxes=True) for name in reader.names() if name in reader)]
    finally:
        with contextlib.suppress(DataError):
            reader._file.close()


@pytest.mark.parametrize("write", [write_groups, write_together])
@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_hdf5_file_of_features_is_read_or_named(folder: Path, write: Callable[[Path], None], data: st.DataObject) -> None:
    file = folder / "features.h5"
    write(file)
    assert len(read_all(file)) == 3
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    read_or_told(file, read_all)


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
types = st.sampled_from(["f2", "f4", "f8", "i4", "u1", "S3", "c8"])


@settings(max_examples=60)
@given(shape=shapes, of=types, boxes=shapes)
def test_hdf5_features_of_any_shape_and_type_are_read_just_where_they_fit(
    folder: Path, shape: tuple[int, ...], of: str, boxes: tuple[int, ...]
) -> None:
    file = folder / "shapes.h5"
    with h5py.File(file, "w") as opened:
        for key, value in (fields(1) | {"features": np.zeros(shape, of), "bbox": np.full(boxes, 2.0)}).items():
            opened[f"7/{key}"] = value
    found, sentence = read_or_told(file, read_all)
    found_nothing = shape in ((0,), (0, 0)) or (len(shape) == 2 and shape[0] == 0)
    found_regions = len(shape) == 2 and 0 not in shape and boxes == (shape[0], 4)
    fits = of[0] == "f" and (found_nothing or found_regions)
    assert (sentence == "") == fits
    assert found is None or found[1].features.shape == shape


@settings(max_examples=60)
@given(features=shapes, ids=st.lists(st.integers(0, 5), max_size=4), boxes=shapes)
def test_hdf5_features_of_all_images_in_one_array_are_read_just_where_their_shapes_and_ids_fit(
    folder: Path, features: tuple[int, ...], ids: list[int], boxes: tuple[int, ...]
) -> None:
    file = folder / "together.h5"
    with h5py.File(file, "w") as opened:
        opened["features"], opened["bbox"], opened["ids"] = np.zeros(features), np.full(boxes, 2.0), np.array(ids, np.int64)
        opened["image_width"] = opened["image_height"] = np.full(len(ids), 9.0)
    found, sentence = read_or_told(file, read_all)
    fits = len(features) == 3 and features[0] == len(ids) == len(set(ids))
    fits = fits and (not ids or (0 not in features and boxes[:1] >= (len(ids),) and boxes[1:] == (features[1], 4)))
    assert (sentence == "") == fits
    assert found is None or len(found) == 1 + len(ids)
    if len(features) == 3 and features[0] == len(ids) > len(set(ids)):
        assert any(f"the id '{i}' is there twice; ids must differ" in sentence for i in ids)


@settings(max_examples=40)
@given(stored=st.sets(st.sampled_from("abcdé")), listed=st.none() | st.lists(st.sampled_from("abcdéf"), max_size=6))
def test_an_lmdb_names_each_key_that_is_listed_and_missing(
    tmp_path_factory: pytest.TempPathFactory, stored: set[str], listed: list[str] | None
) -> None:
    path = tmp_path_factory.mktemp("lmdb") / "x.lmdb"
    with lmdb.open(str(path), map_size=2**20) as opened, opened.begin(write=True) as transaction:
        for name in stored:
            transaction.put(name.encode(), pickle.dumps(fields(2)))
        if listed is not None:
            transaction.put(b"keys", pickle.dumps([name.encode() for name in listed]))
    reader = Lmdb(path)
    wanted = sorted(stored) if listed is None else listed
    assert list(reader.names()) == wanted
    for name in wanted:
        assert (name in reader) == (name in stored)
        found, sentence = read_or_told(path, lambda _, name=name: reader.read(name, boxes=True))
        assert sentence == "" if name in stored else f"has no features of {name!r} among {len(wanted)} images" in sentence
        assert found is None or found.features.shape == (2, D)


def test_a_damaged_page_of_an_lmdb_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.lmdb"
    with lmdb.open(str(path), map_size=2**20) as opened, opened.begin(write=True) as transaction:
        transaction.put(b"a", pickle.dumps(fields(2)))
        page = opened.stat()["psize"]
    content = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(content[: 2 * page] + bytes(len(content) - 2 * page))  # all but its two heads
    with pytest.raises(DataError, match=r"x\.lmdb: is no LMDB that can be read \(mdb_.+\)"):
        Lmdb(path).read("a")
    with pytest.raises(DataError, match=r"x\.lmdb: is no LMDB that can be read \(mdb_.+\)"):
        len(Lmdb(path))


# The HDF5 file of MM-IMDB


def film_arrays(**changed: Any) -> dict[str, Any]:
    return {
        "genres": np.zeros((4, len(GENRES)), np.int32),
        "imdb_ids": np.array(["1", "2", "3", "4"], "S7"),
        "images": np.zeros((4, 3, 2, 2), np.int32),
        "vgg_features": np.zeros((4, 5), np.float32),
        "features": np.zeros((4, 3), np.float32),
        "sequences": np.zeros(4),
        **changed,
    }


def write_film_arrays(file: Path, arrays: dict[str, Any]) -> None:
    with h5py.File(file, "w") as opened:
        for name, array in arrays.items():
            opened[name] = array
        opened["genres"].attrs["target_names"] = json.dumps(GENRES)
        fields = [("split", "S5"), ("source", "S12"), ("start", np.int64), ("stop", np.int64)]
        rows = [(split, b"genres", i, i + 1) for i, split in enumerate((b"train", b"dev", b"test"))]
        opened.attrs["split"] = np.array(rows, fields)


def read_film(root: Path) -> list[Any]:
    dataset = MMIMDB("dev", str(root), "hdf5")
    try:
        return [dataset[0].id, *dataset[0].inputs.values()]
    finally:
        dataset.films.file.root.close()  # type: ignore[attr-defined]


@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_hdf5_file_of_films_is_read_or_named(folder: Path, data: st.DataObject) -> None:
    file = folder / "multimodal_imdb.hdf5"
    write_film_arrays(file, film_arrays())
    assert read_film(folder)[0] == "2"
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    read_or_told(file, lambda file: read_film(file.parent))


@settings(max_examples=50)
@given(name=st.sampled_from(list(film_arrays())), shape=shapes)
def test_films_of_wrong_shapes_are_named(folder: Path, name: str, shape: tuple[int, ...]) -> None:
    file, given_shape = folder / "multimodal_imdb.hdf5", film_arrays()[name].shape
    write_film_arrays(file, film_arrays(**{name: np.zeros(shape, film_arrays()[name].dtype)}))
    found, sentence = read_or_told(file, lambda file: read_film(file.parent))
    if name != "imdb_ids" and shape == given_shape:
        assert found is not None
    if len(shape) != len(given_shape) or shape[0] != 4:
        assert f"{file}: " in sentence
        assert "has the shape " in sentence
