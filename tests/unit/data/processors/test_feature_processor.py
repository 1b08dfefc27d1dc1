"""Region features from files, against numpy."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from msd_framework.build.processors import RawInputs
from msd_framework.commands.convert_features import convert_features
from msd_framework.data.base import Example
from msd_framework.data.files import FilesThatAreThere
from msd_framework.data.processors.features import RegionFeatures
from msd_framework.errors import CheckpointError, DataError

GRID = np.linspace(-2, 2, 5 * 8).reshape(5, 8)


def write(folder: Path, name: str, array: np.ndarray) -> None:
    np.save(folder / f"{name}.npy", array, allow_pickle=True)


@pytest.fixture
def features(tmp_path) -> RegionFeatures:
    return RegionFeatures(str(tmp_path), max_regions=4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_batch_is_float32_and_padded_to_its_longest(tmp_path, features, dtype, order):
    arrays = {"a": GRID[:3].astype(dtype, order=order), "b": GRID[:2].astype(dtype, order=order)}
    for name, array in arrays.items():
        write(tmp_path, name, array)
    batch = features.collate([features.load(Path("img/a.png")), features.load("img/b.jpg")])
    expected = np.stack([arrays["a"], np.vstack([arrays["b"], np.zeros((1, 8))])]).astype(np.float32)
    assert batch.values.dtype == torch.float32
    assert np.array_equal(batch.values.numpy(), expected)
    assert batch.mask.tolist() == [[True, True, True], [True, True, False]]
    assert not batch.special.any()


def test_the_first_regions_are_kept(tmp_path, features):
    write(tmp_path, "a", GRID.astype(np.float16))
    loaded = features.load("a.png").features
    assert np.array_equal(loaded.numpy(), GRID[:4].astype(np.float16))
    assert loaded.dtype == torch.float16  # small in memory


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="open mappings are listed on Linux only")
def test_a_loaded_file_is_closed(tmp_path, features):
    write(tmp_path, "closed", GRID)
    loaded = features.load("closed.png")
    assert "closed.npy" not in Path("/proc/self/maps").read_text()
    assert loaded.features.shape == (4, 8)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros(8), r"shape \[8\], wanted floats \[N, D\]"),
        (np.zeros((1, 5, 8)), r"shape \[1, 5, 8\]"),
        (np.zeros((5, 0)), r"shape \[5, 0\]"),
        (np.zeros((5, 8), dtype=np.int64), "holds int64, wanted floats"),
        (np.zeros((5, 8), dtype=complex), "holds complex128"),
        (np.zeros((5, 8), dtype=np.longdouble), "holds (float128|float96)"),
        (np.full((5, 8), np.nan), "no finite float32"),
        (np.full((5, 8), np.inf), "no finite float32"),
        (np.full((5, 8), 1e300), "no finite float32"),
        (np.array([{"features": 1}], dtype=object), "is not a plain array that can be read without unpickling"),
    ],
)
def test_anything_but_finite_floats_is_refused(tmp_path, features, array, sentence):
    write(tmp_path, "a", array)
    with pytest.raises(DataError, match=rf"a.npy: .*({sentence})"):
        features.load("a.png")


@pytest.mark.parametrize("length", [0, 5, 60, 200])
def test_a_truncated_file_is_refused(tmp_path, features, length):
    write(tmp_path, "a", GRID)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:length])
    with pytest.raises(DataError, match=r"a.npy: is not a plain array"):
        features.load("a.png")


def test_an_archive_of_arrays_is_refused(tmp_path, features):
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, a=GRID)
    with pytest.raises(DataError, match=r"a.npy: holds several arrays"):
        features.load("a.png")


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_pickle_under_the_name_of_an_array_is_never_run(tmp_path, features):
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Touch(tmp_path / "was_run")))
    with pytest.raises(DataError, match=r"a.npy: is not a plain array that can be read without unpickling"):
        features.load("a.png")
    assert not (tmp_path / "was_run").exists()


def test_a_missing_file_is_named(tmp_path, features):
    with pytest.raises(DataError, match=r"gone.npy: no such feature file"):
        features.load("img/gone.png")


@pytest.mark.parametrize("value", ["../../outside.png", "/etc/outside.png", "..", "img/.."])
def test_no_name_leads_out_of_the_folder(tmp_path, value):
    folder = tmp_path / "features"
    folder.mkdir()
    write(tmp_path, "outside", GRID)
    with pytest.raises(DataError, match=rf"{folder}/.+: no such feature file"):
        RegionFeatures(str(folder)).load(value)


def test_no_link_leads_out_of_the_folder(tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    write(tmp_path, "outside", GRID)
    (folder / "a.npy").symlink_to(tmp_path / "outside.npy")
    with pytest.raises(DataError, match=r"'a.npy' does not lie inside"):
        RegionFeatures(str(folder)).load("a.png")


@pytest.mark.parametrize("allowed", [[], ["disk"], ["disk/deep"], ["elsewhere"]])
def test_links_are_followed_to_folders_that_are_allowed(tmp_path, allowed):
    folder, disk = tmp_path / "features", tmp_path / "disk" / "deep"
    folder.mkdir()
    disk.mkdir(parents=True)
    write(disk, "a", GRID)
    (folder / "b.npy").symlink_to(disk / "a.npy")
    (folder / "train").symlink_to(disk)
    features = RegionFeatures(str(folder), allow_roots=[str(tmp_path / name) for name in allowed])
    for one in (features, pickle.loads(pickle.dumps(features))):  # noqa: S301
        for name in ("train/a.png", "b.png"):
            if allowed and allowed != ["elsewhere"]:
                assert one.load(name).features.shape == GRID.shape
                assert list(one.reader.names()) == ["b", "train/a"]
                continue
            stem = name.replace("png", "npy")
            hint = re.escape(f": a link leads to {disk}/a.npy. To follow it, set allow_roots=[{disk}]")
            with pytest.raises(DataError, match=rf"'{stem}' does not lie inside {folder}{hint}"):
                one.load(name)
            with pytest.raises(DataError, match=r"'b\.npy' does not lie inside"):
                list(one.reader.names())


@pytest.mark.parametrize("kind", ["npy", "hdf5", "hdf5 of groups"])
def test_features_of_another_size_are_found_without_reading_them(tmp_path, kind, monkeypatch):
    arrays = {"a": np.ones((2, 8), np.float32), "b": np.ones((2, 3), np.float32), "none": np.zeros((0, 8), np.float32)}
    source = tmp_path / ("features" if kind == "npy" else "features.h5")
    if kind == "npy":
        source.mkdir()
        for name, array in arrays.items():
            write(source, name, array)
    else:
        with pytest.importorskip("h5py").File(source, "w") as file:
            for name, array in arrays.items():
                file[name if kind == "hdf5" else f"{name}/image_feat"] = array
    features = RegionFeatures(str(source), feature_size=8)
    monkeypatch.setattr(type(features.reader), "read", None)
    found = {name: features.is_there(f"img/{name}.png", FilesThatAreThere()) for name in (*arrays, "gone")}
    assert found == {"a": True, "b": False, "none": True, "gone": False}


def test_a_store_and_an_array_of_all_images_are_of_one_size(tmp_path):
    write(tmp_path, "a", np.ones((2, 3), np.float32))
    convert_features(str(tmp_path), str(tmp_path.with_name("store")), boxes=False)
    with pytest.importorskip("h5py").File(tmp_path / "all.h5", "w") as file:
        file["ids"], file["features"] = ["a"], np.ones((1, 2, 3), np.float32)
    for source in (tmp_path.with_name("store"), tmp_path / "all.h5"):
        sizes = (3, 4)
        assert [RegionFeatures(str(source), feature_size=n).is_there("a.png", FilesThatAreThere()) for n in sizes] == [True, False]


def test_links_are_not_for_a_store(tmp_path):
    made = tmp_path / "made.h5"
    made.touch()
    told = f"allow_roots is for links in a folder of .npy files, and {made} is of kind hdf5; leave it out."
    assert RegionFeatures.check({"folder": str(made), "allow_roots": ["/mnt"]}) == [told]


def test_a_given_feature_size_is_checked(tmp_path):
    write(tmp_path, "a", GRID)
    with pytest.raises(DataError, match=r"shape \[5, 8\], wanted floats \[N, 2048\]"):
        RegionFeatures(str(tmp_path), feature_size=2048).load("a.png")


def test_the_feature_size_is_that_of_the_first_image_and_later_ones_must_agree(tmp_path, features):
    write(tmp_path, "a", GRID)
    write(tmp_path, "b", GRID[:, :3])
    assert features.facts == {}
    features.fit(iter(["a.png", "missing.png"]))
    assert features.facts == {"feature_size": 8}
    with pytest.raises(DataError, match=r"shape \[5, 3\], wanted floats \[N, 8\]"):
        features.load("b.png")


def test_a_later_run_knows_the_feature_size(tmp_path, features):
    write(tmp_path, "a", GRID)
    features.fit(["a.png"])
    features.save(tmp_path / "saved")
    again = RegionFeatures(str(tmp_path), max_regions=4)
    again.restore(tmp_path / "saved")
    assert again.facts == {"feature_size": 8}
    assert again.fingerprint == features.fingerprint


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_a_damaged_checkpoint_is_named(tmp_path, features, content):
    if content is not None:
        (tmp_path / "region_features.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"region_features.json: cannot be read"):
        features.restore(tmp_path)


def test_other_options_are_another_fingerprint_and_files_that_were_touched_or_copied_are_not(tmp_path, features):
    write(tmp_path, "a", GRID)
    before = features.fingerprint
    os.utime(tmp_path / "a.npy", ns=(1, 1))
    assert features.fingerprint == before
    assert RegionFeatures(str(tmp_path / "copy"), max_regions=4).fingerprint == before
    assert RegionFeatures(str(tmp_path), max_regions=5).fingerprint != before
    assert RegionFeatures(str(tmp_path), max_regions=4, feature_size=8).fingerprint != before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"max_regions": 0}, "max_regions is 0, wanted at least 1"), ({"feature_size": 0}, "feature_size is 0, wanted at least 1")],
)
def test_numbers_out_of_range_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        RegionFeatures("features", **options)


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("photos\\train-1", "data/photos/train-1.png"),
        ("photos\\train-1.png", "data/photos/train-1.png"),
        ("42", "train2014/COCO_train2014_000000000042.jpg"),
        ("000000000042", "img/42.jpg"),
        ("000000000042.jpg", "img/COCO_val2014_000000000042.jpg"),
    ],
)
def test_names_as_other_programs_write_them_are_found(tmp_path, features, stored, asked):
    write(tmp_path, stored, GRID)
    assert np.array_equal(features.load(Path(asked)).features.numpy(), GRID[:4])
    assert features.length(Path(asked)) == 4


def test_a_name_that_is_not_there_is_told_with_names_that_are(tmp_path, features):
    for name in ("train-10", "train-11", "train-12", "train-13"):
        write(tmp_path, name, GRID)
    wanted = r"train_13\.npy: no such feature file; they are called 'train-10', .+, \.\.\.\. Did you mean 'train-13'\?"
    with pytest.raises(DataError, match=wanted):
        features.load("photos/train_13.png")


@pytest.mark.parametrize("sorted_out", [True, False])
def test_a_first_file_that_is_broken_is_left_out_where_a_run_leaves_files_out(tmp_path, features, sorted_out):
    (tmp_path / "0.npy").write_bytes(b"no array")
    write(tmp_path, "1", GRID)
    examples = [Example(str(i), {"image": Path(f"{i}.png")}, 0, f"row {i}") for i in range(2)]
    inputs = RawInputs(examples, "image", features if sorted_out else None)
    if not sorted_out:
        with pytest.raises(DataError, match=r"0\.npy: is not a plain array"):
            features.fit(inputs)
        return
    features.fit(inputs)
    assert features.facts == {"feature_size": 8}


def test_features_in_memory_are_seen_as_their_file_and_need_no_folder(tmp_path, features):
    write(tmp_path, "a", GRID)
    elsewhere = RegionFeatures(str(tmp_path / "gone"), max_regions=4)
    from_memory, from_file = (p.collate([p.load(value)]) for p, value in ((elsewhere, GRID), (features, "a")))
    assert torch.equal(from_memory.values, from_file.values)
    assert elsewhere.length(GRID) == features.length("a") == 4
    assert elsewhere.is_there(GRID, FilesThatAreThere())


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(GRID[::-1].copy()[::-1], id="negative strides"),
        pytest.param(np.asfortranarray(GRID), id="columns first"),
        pytest.param(GRID.astype(">f4"), id="big-endian"),
        pytest.param(GRID.astype(np.longdouble), id="longdouble"),
        pytest.param(torch.tensor(GRID, requires_grad=True), id="tensor with gradient"),
        pytest.param(torch.tensor(GRID, dtype=torch.bfloat16), id="bfloat16"),
    ],
)
def test_features_in_memory_are_read_in_any_layout_and_precision(value):
    features = RegionFeatures("nowhere", max_regions=4)
    loaded = features.load(value).features
    exact = GRID[:4].astype(np.float32)
    wanted = torch.from_numpy(exact)
    if getattr(value, "dtype", None) == torch.bfloat16:
        wanted = wanted.bfloat16().float()
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, wanted)
    assert torch.equal(features.collate([features.load(value)]).values[0], wanted)


@pytest.mark.parametrize(
    ("value", "boxes", "sentence"),
    [
        (GRID.astype(int), False, r"an array of int64 \[5, 8\], wanted floats \[N, 8\]"),
        (GRID[:, :3], False, r"an array of float64 \[5, 3\], wanted floats \[N, 8\]"),
        (GRID[0], False, r"an array of float64 \[8\], wanted floats \[N, 8\]"),
        (np.full((5, 8), np.nan), False, "numbers that are not finite"),
        (np.full((5, 8), 1e300), False, "numbers that are not finite"),
        (GRID, True, "its boxes are read with its features"),
    ],
)
def test_what_are_no_features_in_memory_is_a_sentence(value, boxes, sentence):
    with pytest.raises(DataError, match=sentence):
        RegionFeatures("nowhere", feature_size=8, boxes=boxes).load(value)
