"""`msd data check`: what is said of folders that are whole, incomplete and damaged."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from msd_framework.cli import main
from msd_framework.commands.data import check_folder
from msd_framework.data.processors.audio import write_wav
from msd_framework.data.sets.hateful_memes import HatefulMemes
from msd_framework.errors import ConfigError


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return header + struct.pack(">I", 9) + b"IDAT"


def encoded(mode: str, kind: str) -> bytes:
    file = io.BytesIO()
    random = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    image = Image.fromarray(random[..., 0] * np.uint16(257)) if mode == "I;16" else Image.fromarray(random).convert(mode)
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(HatefulMemes, "published", {"train": 4, "dev_seen": 2})
    (tmp_path / "img").mkdir()
    for split, count in {"train": 4, "dev_seen": 2}.items():
        lines = [{"id": f"{split}{i}", "img": f"img/{split}{i}.png", "label": i % 2, "text": "look"} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for line in lines:
            (tmp_path / line["img"]).write_bytes(encoded("RGB", "PNG"))
    return tmp_path


def told(root: Path, **options) -> dict[str, list[str]]:
    return {split.name: split.wrong for split in check_folder("hateful_memes", {"root": str(root)}, **options)}


def test_a_whole_folder_is_right(root, capsys):
    assert main(["data", "check", "hateful_memes", f"root={root}"]) == 0
    shown = {cells[0]: cells[1:] for cells in map(str.split, capsys.readouterr().out.splitlines()) if cells}
    assert shown["train"] == ["4", "4", "0", "0", "4", "ok"]
    assert shown["dev_seen"] == ["2", "2", "0", "0", "2", "ok"]
    assert shown["test"] == ["not", "there"]


def test_what_is_wrong_is_told_and_the_exit_code_is_1(root, capsys):
    with (root / "train.jsonl").open("a") as file:
        file.write('{"id": "x"\n')
    (root / "img/train1.png").unlink()
    (root / "img/train2.png").write_bytes(b"")
    assert main(["data", "check", "hateful_memes", f"root={root}", "splits=[train, test_seen]"]) == 1
    said = capsys.readouterr().out
    assert "train: " in said
    assert f"{root}/train.jsonl:5: is not JSON" in said
    assert f"{root}/train.jsonl:2: {root}/img/train1.png: no such file" in said
    assert said.count("train1.png: no such file") == 1
    assert f"{root}/train.jsonl:3: {root}/img/train2.png: is not an image (0 bytes)" in said
    assert "test_seen: " in said
    assert "test_seen.jsonl is missing: download the data set from" in said


def test_the_publishers_count_is_compared(root, monkeypatch):
    monkeypatch.setattr(HatefulMemes, "published", {"train": 5})
    assert told(root)["train"] == ["train has 4 examples, and its publisher says 5."]


def test_all_files_are_looked_for_and_only_samples_are_read(root):
    for i in range(4):
        (root / f"img/train{i}.png").write_bytes(b"garbage")
    (root / "img/train3.png").unlink()
    assert len(told(root, samples=0)["train"]) == 1
    assert sum("is not an image" in text for text in told(root, samples=99)["train"]) == 3
    assert told(root, samples=2, seed=0) == told(root, samples=2, seed=0)


def test_many_mistakes_of_one_kind_are_cut_short(root):
    (root / "train.jsonl").write_text((root / "train.jsonl").read_text() + "{\n" * 20)
    wrong = told(root)["train"]
    assert len(wrong) == 6
    assert wrong[-1] == "... and 15 more like that"


DAMAGE = {
    "zero bytes": (b"", "is not an image"),
    "half a png": (encoded("RGB", "PNG")[:-100], "cannot be read as an image"),
    "half a jpeg": (encoded("RGB", "JPEG")[:-200], "cannot be read as an image"),
    "a text": (b"hello", "is not an image"),
    "100 megapixels": (png_header(10_001, 10_000), "has too many pixels"),
    "a gigapixel": (png_header(60_000, 60_000), "has too many pixels"),
    "CMYK": (encoded("CMYK", "JPEG"), ""),
    "a palette": (encoded("P", "PNG"), ""),
    "a palette in a GIF": (encoded("P", "GIF"), ""),
    "16 bits": (encoded("I;16", "PNG"), ""),
    "grey": (encoded("L", "JPEG"), ""),
}


@pytest.mark.parametrize(("content", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_image_is_named_and_any_mode_is_read(root, content, sentence):
    (root / "img/train1.png").write_bytes(content)
    wrong = told(root)["train"]
    assert (len(wrong) == 1 and f"train.jsonl:2: {root}/img/train1.png: {sentence}" in wrong[0]) if sentence else wrong == []


GOOD = encoded("RGB", "JPEG")


@settings(max_examples=30)
@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), length=st.integers(0, len(GOOD)))
def test_any_damage_to_an_image_is_read_or_named(tmp_path_factory, at, byte, length):
    root = tmp_path_factory.getbasetemp() / "damage"
    (root / "img").mkdir(parents=True, exist_ok=True)
    (root / "train.jsonl").write_text('{"id": 1, "img": "img/1.png", "label": 0, "text": "x"}\n')
    (root / "img/1.png").write_bytes((GOOD[:at] + bytes([byte]) + GOOD[at + 1 :])[:length])
    wrong = [text for text in told(root, splits=["train"])["train"] if "publisher" not in text]
    assert wrong == [] or (len(wrong) == 1 and f"{root}/img/1.png: " in wrong[0])


def test_rows_that_two_splits_share_are_told_as_a_run_tells_them(root, monkeypatch, capsys):
    (root / "dev_seen.jsonl").write_text("".join((root / "train.jsonl").read_text().splitlines(keepends=True)[:2]))
    (text,) = told(root)["dev_seen"]
    assert text.startswith("2 of its 2 rows are rows of train too ('train0' at ")
    assert "set data.shared_rows=true to say that you know" in text
    words = ["data", "check", "hateful_memes", f"root={root}"]
    assert [main(words), main([*words, "shared_rows=true"]), main([*words, "allow_overlap=true"])] == [1, 0, 0]
    monkeypatch.setattr(HatefulMemes, "overlapping", ({"train", "dev_seen"},))
    assert told(root)["dev_seen"] == []


def test_a_split_that_cannot_be_opened_is_wrong(root):
    (root / "train.jsonl").write_text("{}\n")
    assert "holds no example that can be read: " in told(root)["train"][0]


def test_empty_texts_and_files_and_damaged_sounds_are_wrong(tmp_path):
    (tmp_path / "train.csv").write_text("text,sound,label\nhi,a.wav,0\n ,b.wav,1\nho,c.wav,1\n")
    (tmp_path / "a.wav").write_bytes(b"")
    write_wav(tmp_path / "b.wav", torch.zeros(8), 8000)
    (tmp_path / "c.wav").write_bytes(b"x")
    options = {"root": str(tmp_path), "texts": {"text": "text"}, "audio": {"audio": "sound"}, "label": "label"}
    (train, *_) = check_folder("csv", options)
    assert train.wrong == [
        f"{tmp_path}/train.csv:2: {tmp_path}/a.wav: is empty",
        f"{tmp_path}/train.csv:3: text is empty",
        f"{tmp_path}/train.csv:4: {tmp_path}/c.wav: cannot be read as a PCM .wav file (EOFError)",
    ]


def test_nothing_there_is_exit_code_1(tmp_path, capsys):
    assert main(["data", "check", "snli_ve", f"root={tmp_path}"]) == 1
    assert "Nothing of it is there." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "msd data takes check, got nothing"),
        (["chek"], "msd data takes check, got chek"),
        (["check"], r"wanted one data set, such as `msd data check hateful_memes root=PATH`, got \[\]; known: av_digits"),
        (["check", "hateful_mems"], r"no dataset is named 'hateful_mems'. Did you mean 'hateful_memes'\?"),
        (["check", "hateful_memes", "rot=x", "samples=-1"], "(?s)samples: wanted a whole number.+rot: .+Did you mean 'root'"),
        (["check", "hateful_memes", "splits=train"], r"splits: wanted a list of splits, such as \[train\], got 'train'"),
        (["check", "hateful_memes", "split=train"], "split: hateful_memes has no such option"),
    ],
)
def test_wrong_words_are_named(words, sentence, capsys):
    import re

    assert main(["data", *words]) == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_options_that_do_not_go_together_are_named():
    with pytest.raises(ConfigError, match="no column is a modality"):
        check_folder("csv", {"label": "x", "classes": ["a", "b"]})
