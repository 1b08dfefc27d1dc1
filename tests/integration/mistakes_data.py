"""Mistakes in files of data: their encoding, their columns, their labels, rows that splits share, links, and published settings."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.integration.mistakes import Mistake

SIZES = {"train": 12, "validation": 6, "test": 6}
DATASET = "type: csv, root: <here>/data, texts: {text: title}, images: {image: photo}, label: colour"
USES = ["data.train=train", "data.validation=validation", "data.test=test"]

Rows = list[dict[str, object]]


def words(more: str = "", *others: str) -> list[str]:
    """A run on rows of one's own."""
    return [f"data.dataset={{{DATASET}{', ' * bool(more)}{more}}}", *USES, *others]


def rows(split: str) -> Rows:
    colours = ("red", "blue")
    return [
        {"key": f"{split}-{i}", "title": f"{split} thing {i}", "photo": f"photos/{i % 2}.png", "colour": colours[i % 2]}
        for i in range(SIZES[split])
    ]


def as_csv(table: Rows, delimiter: str = ",") -> bytes:
    lines = [list(table[0]), *(list(row.values()) for row in table)]
    return "".join(delimiter.join(map(str, line)) + "\n" for line in lines).encode()


def as_lines(table: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def written(here: Path, suffix: str = ".csv", **contents: bytes) -> None:
    """The files of all splits, these contents in the place of what is right."""
    data = here / "data"
    (data / "photos").mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (8, 8), (200 * i, 30, 90)).save(data / "photos" / f"{i}.png")
    make = as_csv if suffix == ".csv" else as_lines
    for split in SIZES:
        (data / f"{split}{suffix}").write_bytes(contents.get(split) or make(rows(split)))


def without_last_photo(here: Path) -> None:
    """Lets the last row of the test split name a photo that is not there."""
    table = rows("test")
    table[-1]["photo"] = "photos/last.png"
    (here / "data" / "test.csv").write_bytes(as_csv(table))


def features_of_two_sizes(here: Path, world: Path, teacher: Path) -> None:
    """Features in place of photos, of which the last one has another size."""
    table = rows("test")
    table[-1]["photo"] = "photos/2.png"
    written(here, test=as_csv(table))
    (here / "regions").mkdir()
    for i, size in enumerate((4, 4, 3)):
        np.save(here / "regions" / f"{i}.npy", np.ones((2, size), np.float32))


def changed(split: str, place: int, **values: object) -> Callable[[Path, Path, Path], object]:
    """Files in which one row has other values."""
    table = rows(split)
    table[place] |= values
    return lambda here, world, teacher: written(here, **{split: as_csv(table)})


def raw(suffix: str = ".csv", **contents: bytes) -> Callable[[Path, Path, Path], object]:
    return lambda here, world, teacher: written(here, suffix, **contents)


def in_one_file(table: Rows) -> Callable[[Path, Path, Path], object]:
    def write(here: Path, world: Path, teacher: Path) -> None:
        written(here)
        (here / "data" / "all.csv").write_bytes(as_csv(table))

    return write


def linked(here: Path, world: Path, teacher: Path) -> None:
    written(here)
    shutil.move(here / "data" / "photos", here / "disk")
    os.symlink(here / "disk", here / "data" / "photos")


def published(said: dict[str, object]) -> Callable[[Path, Path, Path], object]:
    def write(here: Path, world: Path, teacher: Path) -> None:
        (here / "vilt").mkdir()
        (here / "vilt" / "config.json").write_text(json.dumps({"model_type": "vilt"}))
        (here / "vilt" / "preprocessor_config.json").write_text(json.dumps(said))

    return write


def saved(image: Image.Image, suffix: str) -> Callable[[Path, Path, Path], object]:
    """All rows show one image."""

    def write(here: Path, world: Path, teacher: Path) -> None:
        table = {split: as_csv([row | {"photo": f"photos/one{suffix}"} for row in rows(split)]) for split in SIZES}
        written(here, **table)
        image.save(here / "data" / "photos" / f"one{suffix}")

    return write


def features(*names: str) -> Callable[[Path, Path, Path], object]:
    def write(here: Path, world: Path, teacher: Path) -> None:
        written(here)
        (here / "regions").mkdir()
        for name in names:
            np.save(here / "regions" / f"{name}.npy", np.ones((2, 4), np.float32))

    return write


def with_mark(here: Path, world: Path, teacher: Path) -> None:
    (here / "words").mkdir()
    (here / "words" / "vocab.txt").write_bytes(b"\xef\xbb\xbf[PAD]\n[UNK]\n[CLS]\n[SEP]\nyes\n")


MOVED = [row | {"colour": "blue"} for row in rows("train")[3:8]]
RENAMED = [row | {"key": f"other-{i}"} for i, row in enumerate(rows("train")[:4])]
EDITED = [row | {"title": f"{row['title']}!"} for row in rows("train")[:6]]
FOLDS = [row | {"fold": i % 3} for i, row in enumerate(rows("train"))]
RARE = [row | {"colour": "green" if i == 5 else row["colour"]} for i, row in enumerate(rows("train"))]
REGIONS = "data.processors.image={type: region_features, folder: <here>/regions}"
REGION_MODEL = "model={type: visual_bert, hidden_size: 8, num_layers: 1, num_heads: 2, intermediate_size: 16}"
VILT = "model={type: huggingface, name: <here>/vilt, inputs: {text: input_ids, image: pixel_values}}"
ONE_FILE = "file: all.csv, "
SHARES = "split_shares: {train: 0.6, validation: 0.2, test: 0.2}"

MISTAKES = [
    Mistake(
        "a key twice in a line",
        words(),
        r"test\.jsonl:2: has the key 'title' twice, wanted it once",
        raw(".jsonl", test=as_lines(rows("test")).replace(b'"photo": "photos/1.png"', b'"title": "other"', 1)),
    ),
    Mistake(
        "label of the test split", words(), r"test\.csv:5: colour is 'Red'.*Did you mean 'red'\?", changed("test", 3, colour="Red")
    ),
    Mistake(
        "label of the validation split", words(), r"validation\.csv:2: colour is 'bleu'", changed("validation", 0, colour="bleu")
    ),
    Mistake(
        "label of the test split in a check",
        words("", "run_type=check"),
        r"test\.csv:3: colour is 'rot', which is none of the classes",
        changed("test", 1, colour="rot"),
    ),
    Mistake("no label in a test that is not blind", words(), r"test\.csv:4: colour is ''", changed("test", 2, colour="")),
    Mistake(
        "the same file twice",
        words("files: {train: train.csv, validation: validation.csv, test: train.csv}"),
        r"data\.test: 12 of its 12 rows are rows of data\.train too \(.+ at .+train\.csv:2 and .+set data\.shared_rows=true",
        raw(),
    ),
    Mistake(
        "the same rows with other labels",
        words(),
        r"data\.test: 5 of its 5 rows are rows of data\.train too",
        raw(test=as_csv(MOVED)),
    ),
    Mistake(
        "the same rows under other ids",
        words("id_column: key"),
        r"data\.validation: 4 of its 4 rows are rows of data\.train too \('other-0' at .+ and 'train-0' at ",
        raw(validation=as_csv(RENAMED)),
    ),
    Mistake(
        "the same ids of rows that were edited",
        words("id_column: key"),
        r"data\.test: 6 of its 6 ids are ids of data\.train too, for rows of another content",
        raw(test=as_csv(EDITED)),
    ),
    Mistake(
        "shared rows in a check",
        words("", "run_type=check"),
        r"data\.test: 12 of its 12 rows are rows of data\.train too",
        raw(test=as_csv(rows("train"))),
    ),
    Mistake(
        "shared rows of JSON lines",
        words(),
        r"data\.test: 6 of its 6 rows are rows of data\.validation too",
        raw(".jsonl", test=as_lines(rows("validation"))),
    ),
    Mistake(
        "UTF-16",
        words(),
        r"train\.csv: is not UTF-8 but UTF-16 text.+iconv",
        raw(train=as_csv(rows("train")).decode().encode("utf-16")),
    ),
    Mistake(
        "UTF-16 without a mark",
        words(),
        r"test\.csv: is not UTF-8 but UTF-16LE text",
        raw(test=as_csv(rows("test")).decode().encode("utf-16-le")),
    ),
    Mistake(
        "Windows-1252",
        words(),
        r"test\.csv:8: is not UTF-8 .+in Windows-1252 it would read .*Müll",
        raw(test=as_csv(rows("test")) + "x,Müll,photos/0.png,red\n".encode("cp1252")),
    ),
    Mistake(
        "line ends of old Macs",
        words(),
        r"train\.csv:1: .+carriage return alone",
        raw(train=as_csv(rows("train")).replace(b"\n", b"\r")),
    ),
    Mistake(
        "JSON lines of old Macs",
        words(),
        r"test\.jsonl:1: .+carriage return alone",
        raw(".jsonl", test=as_lines(rows("test")).replace(b"\n", b"\r")),
    ),
    Mistake(
        "a workbook called .csv",
        words(),
        r"train\.csv: is a zip archive or an Excel workbook",
        raw(train=b"PK\x03\x04" + bytes(40)),
    ),
    Mistake("a file that was packed", words(), r"test\.csv: is compressed with gzip", raw(test=b"\x1f\x8b\x08" + bytes(40))),
    Mistake(
        "a quotation mark that is never closed",
        words(),
        r"test\.csv:8: is not CSV",
        raw(test=as_csv(rows("test")) + b'x,"open,photos/0.png,red\n'),
    ),
    Mistake(
        "a column twice",
        words(),
        r"test\.csv:1: is .+each another one",
        raw(test=b"title,title,photo,colour\na,b,c,red\n"),
    ),
    Mistake("a header and no row", words(), r"test\.csv: holds no example", raw(test=b"key,title,photo,colour\n")),
    Mistake("an empty file", words(), r"test\.csv:1: is \[\], wanted the names of the columns", raw(test=b"\n")),
    Mistake(
        "a cell too many",
        words(),
        r"test\.csv:8: has 5 values, wanted 4",
        raw(test=as_csv(rows("test")) + b"a,b,photos/0.png,red,x\n"),
    ),
    Mistake(
        "another delimiter than is named", words("delimiter: ';'"), r"train\.csv.+has no 'colour'.+key,title,photo,colour", raw()
    ),
    Mistake("two characters for a delimiter", words("delimiter: '::'"), r"delimiter is '::', wanted one character", raw()),
    Mistake(
        "features of another size in a later file",
        words(
            "",
            "data.processors.image={type: region_features, folder: <here>/regions}",
            "model.encoders.image={type: features, hidden_size: 8}",
        ),
        r"test\.csv:7: .*regions/2\.npy: holds an array of shape \[2, 3\], wanted floats \[N, 4\]",
        features_of_two_sizes,
    ),
    Mistake(
        "an encoding that nobody knows",
        words("encoding: windws-1252"),
        r"data\.dataset: encoding is 'windws-1252', wanted that of a text file, .+Did you mean 'windows_1252'",
    ),
    Mistake(
        "an encoding in which a file is other letters",
        words("encoding: latin-1"),
        r"test\.csv: is UTF-8, wanted latin-1",
        raw(test=as_csv(rows("test")).replace(b"thing", "ö".encode())),
    ),
    Mistake("a folder of photos that is a link", words(), r"train\.csv:2: .+a link leads to .+allow_roots=\[", linked),
    Mistake(
        "a link to another folder than is allowed", words("allow_roots: [<here>/other]"), r"train\.csv:2: .+a link leads to", linked
    ),
    Mistake(
        "one file and no way to split it",
        words(ONE_FILE + "id_column: key"),
        r"split_column .+ or split_shares",
        in_one_file(FOLDS),
    ),
    Mistake(
        "a column of splits that is not there",
        words(ONE_FILE + "split_column: flod"),
        r"has no 'flod'.+Did you mean 'fold'",
        in_one_file(FOLDS),
    ),
    Mistake(
        "values of splits that are never there",
        words(ONE_FILE + "split_column: fold, split_values: {train: [0, 1], validation: 2, test: 3}"),
        r"all\.csv: no row is of split 'test': fold is never '3', only '0', '1', '2'",
        in_one_file(FOLDS),
    ),
    Mistake(
        "a split without values",
        words(ONE_FILE + "split_column: fold, split_values: {train: [0], validation: 1}"),
        r"data\.test: there is no split 'test'\. Its splits: train, validation",
        in_one_file(FOLDS),
    ),
    Mistake(
        "shares above 1",
        words(ONE_FILE + SHARES.replace("0.6", "0.9")),
        r"split_shares are .+1 in all",
        in_one_file(FOLDS),
    ),
    Mistake(
        "a label too rare to be dealt out",
        words(ONE_FILE + SHARES),
        r"colour 'green' has 1 rows, fewer .+stratify=false",
        in_one_file(RARE),
    ),
    Mistake(
        "files and one file",
        words(ONE_FILE + SHARES + ", files: {train: train.csv}"),
        r"wanted files .+ or file .+got both",
        in_one_file(FOLDS),
    ),
    Mistake(
        "groups in several splits",
        words(ONE_FILE + "split_column: fold, split_values: {train: 0, validation: 1, test: 2}, group: photo"),
        r"2 groups of photo have rows in 'train' and in another split",
        in_one_file(FOLDS),
    ),
    Mistake(
        "an image of 32-bit numbers",
        words(),
        r"train\.csv:\d+: .+one\.tif: .+32-bit whole numbers of no known range",
        saved(Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8)), ".tif"),
    ),
    Mistake(
        "an image of 16 bits that is black",
        words(),
        r"one\.png: .+16-bit values reach 63 of 65535",
        saved(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), ".png"),
    ),
    Mistake(
        "names of features",
        words("", REGIONS, REGION_MODEL),
        r"0\.npy: no such feature file; they are called 'train-1', 'train-2'",
        features("train-1", "train-2"),
    ),
    Mistake(
        "features that the last row of the test split lacks",
        words("", REGIONS, REGION_MODEL),
        r"data/test\.csv:7: .*last\.npy: no such feature file",
        lambda here, world, teacher: (features("0", "1")(here, world, teacher), without_last_photo(here)),
    ),
    Mistake(
        "a photo that the last row of the test split lacks",
        words(),
        r"data/test\.csv:7: .*last\.png: no such image file",
        lambda here, world, teacher: (written(here), without_last_photo(here)),
    ),
    Mistake(
        "a photo of the test split that is gone when it is evaluated",
        ["run_type=test", "checkpoint.load=<teacher>", "data.dataset.root=<here>/world"],
        r"world/test_seen\.jsonl:12: .*2011\.png: no such image file",
        lambda here, world, teacher: (shutil.copytree(world, here / "world"), (here / "world" / "img" / "2011.png").unlink()),
    ),
    Mistake(
        "a model that is evaluated on other classes",
        words("", "run_type=test", "checkpoint.load=<teacher>"),
        r"data\.dataset: the trained model's classes are .* and the data set's blue, red\. Its classes must be named as",
        lambda here, world, teacher: written(here),
    ),
    Mistake(
        "a model trained on other pixels",
        [VILT],
        r"data\.processors\.image: .+vilt was trained on images with mean \[0\.5, .+Write mean: \[0\.5, 0\.5, 0\.5\]",
        published({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 8, "resample": 2}),
    ),
    Mistake(
        "options of a learnt tokenizer for a named one",
        ["data.processors.text={type: tokenizer, name: bert-base-uncased, lowercase: false}"],
        r"data\.processors\.text: lowercase is for a tokenizer that is learnt",
    ),
    Mistake(
        "a vocabulary with a byte order mark",
        ["data.processors.text={type: tokenizer, name: <here>/words}"],
        r"vocab\.txt: begins with a byte order mark",
        with_mark,
    ),
    Mistake(
        "orientation",
        ["data.processors.image={type: pixels, size: 8, exif: ignroe}"],
        r"exif: wanted 'apply' \| 'ignore'.+Did you mean 'ignore'",
    ),
    Mistake("shared rows as text", ["data.shared_rows=maybe"], r"data\.shared_rows: wanted bool, got 'maybe'"),
]
