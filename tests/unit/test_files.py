"""Files that are written whole or not at all."""

import errno
import json
import math
from pathlib import Path

import pytest

from msd_framework.files import draft, split_file, write_json, write_text


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path):
    for text in ("old", "new"):
        write_text(tmp_path / "deep" / "file.json", text)
    assert (tmp_path / "deep" / "file.json").read_text() == "new"
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["file.json"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with draft(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_what_goes_wrong_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError), draft(path) as file:
        file.writelines(["half", "\ud800"])
    assert path.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["file.txt"]


def test_lines_end_as_they_are_written(tmp_path):
    write_text(tmp_path / "file.csv", "a\r\nb\né")
    assert (tmp_path / "file.csv").read_bytes() == "a\r\nb\né".encode()


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="No space left on device") as raised, draft(path):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it, without a name
    assert raised.value.filename == str(path)
    assert [f.name for f in tmp_path.iterdir()] == ["file.txt"]


def test_a_place_that_cannot_be_written_to_is_told_by_the_name_that_was_asked_for(tmp_path):
    (tmp_path / "folder").write_text("")
    with pytest.raises(FileExistsError) as raised:
        write_text(tmp_path / "folder" / "file.txt", "text")
    assert raised.value.filename == str(tmp_path / "folder")


def test_json_has_null_for_a_number_that_is_not_finite(tmp_path):
    write_json(tmp_path / "report.json", {"auroc": math.nan, "scores": (math.inf, 2)})
    assert json.loads((tmp_path / "report.json").read_text()) == {"auroc": None, "scores": [None, 2]}


def test_the_file_of_a_split_lies_in_the_folder_whatever_the_split_is_called():
    assert split_file(Path("runs/kd"), "predictions", "shards/test", "csv") == Path("runs/kd/predictions_shards_test.csv")
