"""A data set's files: paths that leave the root, and the sentences of what is missing."""

import pytest

from msd_framework.data.files import files_below, inside, missing, unknown_split
from msd_framework.errors import DataError


@pytest.mark.parametrize("relative", ["img/1.png", "img/../1.png", "./a", "img/..png", "link_within/1.png", "loop"])
def test_a_path_within_the_root_is_kept(tmp_path, relative):
    (tmp_path / "img").mkdir()
    (tmp_path / "link_within").symlink_to(tmp_path / "img")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert inside(tmp_path, relative) == tmp_path / relative


@pytest.mark.parametrize(
    "relative", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "img/../../x", "link_out/passwd", "link_file", "../root2/x"]
)
def test_a_path_never_leaves_the_root(tmp_path, relative):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link_out").symlink_to("/etc")
    (root / "link_file").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="does not lie inside"):
        inside(root, relative)


def test_an_absolute_path_is_refused_even_within_the_root(tmp_path):
    with pytest.raises(DataError, match="does not lie inside"):
        inside(tmp_path, str(tmp_path / "1.png"))


def test_a_root_that_is_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "root", "1.png") == tmp_path / "root" / "1.png"


def test_a_path_that_no_file_can_have_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"'a\\x00b' is not a file name"):
        inside(tmp_path, "a\0b")


def test_a_missing_file_says_where_to_get_it_and_what_the_root_holds(tmp_path):
    (sentence,) = missing(tmp_path / "a.jsonl", "https://example.org", ["a.jsonl", "img/"])
    assert sentence == (
        f"{tmp_path}/a.jsonl is missing: download the data set from https://example.org "
        "and unpack it so that its root holds a.jsonl, img/."
    )
    (tmp_path / "a.jsonl").touch()
    assert missing(tmp_path / "a.jsonl", "https://example.org", []) == []


def test_files_below_a_folder_are_those_behind_links_that_stay_in_it_too(tmp_path):
    for name in ("b/2.png", "b/c/1.png", "a.png"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    (tmp_path / "root" / "again").symlink_to(tmp_path / "root" / "b")
    (tmp_path / "root" / "b" / "loop").symlink_to(tmp_path / "root")
    found = ["a.png", "again/2.png", "again/c/1.png", "b/2.png", "b/c/1.png"]
    assert list(files_below(tmp_path / "root")) == found
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "3.png").touch()
    (tmp_path / "root" / "out").symlink_to(tmp_path / "disk")
    with pytest.raises(DataError, match=r"'out' does not lie inside .+ a link leads to .+disk\. To follow it, set allow_roots=\["):
        list(files_below(tmp_path / "root"))
    assert list(files_below(tmp_path / "root", [tmp_path / "disk"])) == [*found, "out/3.png"]


def test_an_unknown_split_names_the_nearest():
    assert unknown_split("nlvr", "dve", ["train", "dev"]) == [
        "nlvr has no split 'dve'. Did you mean 'dev'? Its splits: train, dev."
    ]
    assert unknown_split("nlvr", "dev", ["train", "dev"]) == []
