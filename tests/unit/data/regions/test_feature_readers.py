"""Region features from .npy files, LMDB, HDF5 and our own store, against the numbers that were written."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_framework.data.processors.features import RegionFeatures, locations
from msd_framework.data.regions.base import FeatureReader, Regions, checked, names_of
from msd_framework.data.regions.draft import Plan, StoreDraft
from msd_framework.data.regions.hdf5 import Hdf5
from msd_framework.data.regions.lmdb import Lmdb
from msd_framework.data.regions.npy import NpyFolder
from msd_framework.data.regions.open import open_features, parse_source, source_problems
from msd_framework.data.regions.store import FeatureStore
from msd_framework.errors import DataError

Images = Mapping[str, dict[str, Any]]
D = 6


def image(seed: int, num_regions: int, width: float = 40, height: float = 30) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((num_regions, 2, 2)), axis=1).reshape(num_regions, 4) * [width, height, width, height]
    features = rng.normal(size=(num_regions, D)).astype(np.float32)
    return {"features": features, "bbox": corners.astype(np.float32), "image_width": width, "image_height": height}


IMAGES: Images = {"42953": image(0, 4), "train/8291": image(1, 2), "caf\xe9": image(2, 7, 200, 100)}


def write_npy(folder: Path, images: Images) -> str:
    for name, fields in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", fields["features"])
        info = {key: value for key, value in fields.items() if key != "features"}
        if info:
            np.save(folder / f"{name}_info.npy", info)
    return str(folder)


def write_lmdb(folder: Path, images: Images, keys: Any = None) -> str:
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for name, fields in images.items():
            transaction.put(name.encode(), pickle.dumps(fields))
        if keys is not False:
            transaction.put(b"keys", pickle.dumps([name.encode() for name in images] if keys is None else keys))
    return str(folder)


def write_hdf5(folder: Path, images: Images) -> str:
    folder.mkdir(parents=True)
    with h5py.File(folder / "features.h5", "w") as file:
        for name, fields in images.items():
            group = file.create_group(name.replace("/", "_"))
            for key, value in fields.items():
                if np.ndim(value):
                    group[key] = value
                else:
                    group.attrs[key] = value
    return str(folder / "features.h5")


def write_store(folder: Path, images: Images) -> str:
    draft = StoreDraft(folder, Plan("fp32", D, True, {}))
    with draft.shard(0) as shard:
        for name, fields in images.items():
            shard.add(name, Regions(fields["features"], fields["bbox"], (fields["image_width"], fields["image_height"])))
    draft.commit()
    return str(folder)


WRITERS: dict[str, Callable[[Path, Images], str]] = {"npy": write_npy, "lmdb": write_lmdb, "hdf5": write_hdf5, "store": write_store}


@pytest.fixture(scope="module", params=WRITERS)
def source(request, tmp_path_factory) -> str:
    return WRITERS[request.param](tmp_path_factory.mktemp("features") / request.param, IMAGES)


def stored_as(reader: FeatureReader, name: str) -> str:
    return name.replace("/", "_") if reader.kind == "hdf5" else name


# All kinds


def test_every_kind_is_recognised_and_can_be_named(source):
    kind, path = parse_source(source)
    reader = open_features(f"{kind}:{source}")
    assert type(open_features(source)) is type(reader)
    assert reader.kind == kind
    assert reader.path == path
    assert source_problems(source) == []


@pytest.mark.parametrize("name", IMAGES)
def test_every_kind_gives_the_numbers_that_were_written(source, name):
    reader, fields = open_features(source), IMAGES[name]
    read = reader.read(stored_as(reader, name), boxes=True)
    assert read.features.dtype == np.float32
    assert np.array_equal(read.features, fields["features"])
    assert np.array_equal(read.boxes, fields["bbox"])
    assert read.size == (fields["image_width"], fields["image_height"])
    assert reader.count(stored_as(reader, name)) == len(fields["features"])


def test_every_kind_lists_its_images_and_knows_them(source):
    reader = open_features(source)
    names = [stored_as(reader, name) for name in IMAGES]
    assert sorted(reader.names()) == sorted(names)
    assert len(reader) == len(IMAGES)
    assert all(name in reader for name in names)
    assert reader.has_boxes
    assert not any(name in reader for name in ("nobody", "4295", "42953x"))


def test_every_kind_reads_no_more_regions_than_asked_for_and_boxes_only_if_asked(source):
    reader = open_features(source)
    read = reader.read("42953", limit=3)
    assert np.array_equal(read.features, IMAGES["42953"]["features"][:3])
    assert read.boxes is None
    assert np.array_equal(reader.read("42953", limit=3, boxes=True).boxes, IMAGES["42953"]["bbox"][:3])


def test_every_kind_names_an_image_that_is_not_there(source):
    reader = open_features(source)
    with pytest.raises(DataError, match=r"nobody\.npy: no such feature file|has no features of 'nobody' among 3 images"):
        reader.read("nobody")


def test_every_kind_can_be_opened_twice(source):
    first, second = open_features(source), open_features(source)
    assert np.array_equal(first.read("42953").features, second.read("42953").features)
    del first
    assert second.read("42953").features.shape == (4, D)


def read_in_child(reader: FeatureReader, results: Any) -> None:
    results.put(reader.read("42953").features.sum().item())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_every_kind_can_be_read_in_a_forked_process_once_it_was_read_here(source):
    reader = open_features(source)
    here = reader.read("42953").features.sum().item()
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=read_in_child, args=(reader, results))
    child.start()
    assert results.get() == here
    child.join()


def test_every_kind_can_be_sent_to_another_process(source):
    reader = open_features(source)
    reader.read("42953")
    again = pickle.loads(pickle.dumps(reader))  # noqa: S301
    assert np.array_equal(again.read("42953").features, IMAGES["42953"]["features"])


def test_every_kind_makes_the_same_batch(source):
    processor = RegionFeatures(source, max_regions=3, boxes=True)
    reader = processor.reader
    batch = processor.collate([processor.load(f"img/{stored_as(reader, name)}.png") for name in IMAGES])
    for row, fields in enumerate(IMAGES.values()):
        kept, width, height = min(3, len(fields["features"])), fields["image_width"], fields["image_height"]
        assert np.array_equal(batch.values[row, :kept].numpy(), fields["features"][:3])
        assert batch.mask[row].tolist() == [i < kept for i in range(3)]
        x1, y1, x2, y2 = fields["bbox"][:3].astype(np.float64).T
        expected = np.stack([x1 / width, y1 / height, x2 / width, y2 / height, (x2 - x1) * (y2 - y1) / (width * height)], 1)
        assert np.allclose(batch.extras["boxes"][row, :kept], expected, atol=1e-6)  # float32 rounds
        assert not batch.values[row, kept:].any()
        assert not batch.extras["boxes"][row, kept:].any()
    assert batch.extras["boxes"].dtype == torch.float32
    assert processor.length("42953.png") == 3


# What is wrong with one image


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"features": np.full((2, D), np.nan, np.float32)}, "holds numbers that are no finite float32"),
    "too large": ({"features": np.full((2, D), 1e300)}, "holds numbers that are no finite float32"),
    "one dimension": ({"features": np.zeros(D)}, r"holds an array of shape \[6\], wanted floats \[N, D\]"),
    "three dimensions": ({"features": np.zeros((1, 2, D))}, r"holds an array of shape \[1, 2, 6\], wanted floats"),
    "whole numbers": ({"features": np.zeros((2, D), np.int64)}, "holds int64, wanted floats"),
    "fewer boxes": ({"bbox": np.zeros((1, 4))}, r"holds boxes \[1, 4\] for 2 regions, wanted \[2, 4\]"),
    "wide boxes": ({"bbox": np.zeros((2, 5))}, r"holds boxes \[2, 5\] for 2 regions"),
    "NaN boxes": ({"bbox": np.full((2, 4), np.nan)}, "holds boxes that are no finite numbers"),
    "boxes of texts": ({"bbox": np.array([["a"] * 4] * 2, dtype="S1")}, r"holds boxes of \|S1, wanted numbers"),
    "box that ends before it begins": (
        {"bbox": np.tile([9.0, 0, 8, 1], (2, 1))},
        "holds a box whose end lies before its beginning",
    ),
    "box outside": ({"bbox": np.tile([0.0, 0, 80, 1], (2, 1))}, r"holds a box that leaves the image of 40 x 30 pixels"),
    "boxes as shares": ({"bbox": np.tile([0.1, 0.1, 0.5, 0.9], (2, 1))}, "holds boxes .+ they seem to be shares of the image"),
    "no width": ({"image_width": None}, r"has no image_width or image_w, only .*image_height"),
    "negative width": ({"image_width": -3}, r"the image's width is .*-3.*, wanted a positive number of pixels"),
    "two heights": ({"image_height": np.ones(2)}, r"the image's height is .*, wanted a positive number of pixels"),
    "no boxes": ({"bbox": None}, r"has no bbox or boxes or image_bb"),
}


@pytest.mark.parametrize("kind", ["npy", "lmdb", "hdf5"])
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_an_image_is_told_with_its_place(tmp_path, kind, case):
    change, sentence = WRONG[case]
    fields = {key: value for key, value in (image(0, 2) | change).items() if value is not None}
    reader = open_features(WRITERS[kind](tmp_path / "wrong", {"bad": fields}))
    with pytest.raises(DataError, match=rf"bad.*: ({sentence})"):
        reader.read("bad", boxes=True)


def test_one_pixel_beside_the_image_is_not_outside():
    assert checked("a", np.ones((1, 2)), [[-1.0, -1, 41, 31]], (40, 30)).boxes is not None


@given(st.data())
@settings(max_examples=100)
def test_boxes_are_taken_just_where_they_fit(data):
    corners = np.array(data.draw(st.lists(st.lists(st.integers(-3, 13), min_size=4, max_size=4), min_size=1, max_size=3)))
    fits = all(-1 <= a <= c <= 11 and -1 <= b <= d <= 9 for a, b, c, d in corners.tolist()) and corners.max() > 1
    try:
        taken = checked("a", np.ones((len(corners), 2)), corners, (10, 8)).boxes is not None
    except DataError:
        taken = False
    assert taken == fits


@given(st.floats(1, 2000), st.floats(1, 2000), st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5))
@settings(max_examples=100)
def test_locations_are_shares_of_the_image(width, height, shares):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in shares]
    corners = torch.tensor([[[a * width, b * height, c * width, d * height] for a, b, c, d in boxes]])
    found = locations(corners, torch.tensor([[width, height]]))
    expected = torch.tensor([[[a, b, c, d, (c - a) * (d - b)] for a, b, c, d in boxes]])
    assert torch.allclose(found, expected, atol=1e-6)  # in float32


# One kind each


@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
@settings(max_examples=60)
def test_a_damaged_npy_file_is_refused_or_read_and_nothing_else(tmp_path_factory, place, byte, cut):
    folder = tmp_path_factory.mktemp("npy")
    content = bytearray(Path(write_npy(folder, {"a": image(0, 3)})).joinpath("a.npy").read_bytes())
    place %= len(content)
    content = content[:place] if cut else content[:place] + bytes([byte]) + content[place + 1 :]
    (folder / "a.npy").write_bytes(content)
    try:
        read = NpyFolder(folder).read("a")
        assert not cut
        assert np.isfinite(read.features).all()
    except DataError as error:
        assert "a.npy: " in str(error)  # noqa: PT017


def test_an_npy_file_without_boxes_is_told_where_they_are_wanted(tmp_path):
    write_npy(tmp_path, {"a": {"features": np.ones((2, D))}})
    assert not NpyFolder(tmp_path).has_boxes
    with pytest.raises(DataError, match=r"a_info\.npy: no such file, wanted one with the boxes of a\.npy"):
        NpyFolder(tmp_path).read("a", boxes=True)


def test_boxes_that_are_no_dict_are_told(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, D)))
    np.save(tmp_path / "a_info.npy", np.array([[1, 2]], dtype=object)[:, :1])
    with pytest.raises(DataError, match=r"a_info\.npy: holds a int, wanted a dict with bbox"):
        NpyFolder(tmp_path).read("a", boxes=True)


def test_a_name_that_ends_in_info_is_an_image_if_there_is_no_other(tmp_path):
    for name in ("a", "a_info", "b_info"):
        np.save(tmp_path / f"{name}.npy", np.ones((1, D)))
    assert list(NpyFolder(tmp_path).names()) == ["a", "b_info"]


def test_an_lmdb_without_a_list_of_keys_lists_all(tmp_path):
    reader = Lmdb(Path(write_lmdb(tmp_path / "x.lmdb", IMAGES, keys=False)))
    assert sorted(reader.names()) == sorted(IMAGES)


def test_a_key_of_an_lmdb_that_is_listed_and_not_there_is_named(tmp_path):
    reader = Lmdb(Path(write_lmdb(tmp_path / "x.lmdb", IMAGES, keys=["42953", b"gone"])))
    assert list(reader.names()) == ["42953", "gone"]
    with pytest.raises(DataError, match=r"x\.lmdb: has no features of 'gone' among 2 images"):
        reader.read("gone")
    assert "" not in reader
    assert "keys" not in reader


@pytest.mark.parametrize("keys", [{"a": 1}, [1, 2], "abc"])
def test_a_list_of_keys_that_is_none_is_told(tmp_path, keys):
    with pytest.raises(DataError, match=r"'keys' holds a (dict|list|str), wanted a list of the keys of images"):
        len(Lmdb(Path(write_lmdb(tmp_path / "x.lmdb", IMAGES, keys=keys))))


def test_a_value_of_an_lmdb_that_is_no_dict_is_told(tmp_path):
    with pytest.raises(DataError, match=r"x\.lmdb: 'a': holds a list, wanted a dict with features"):
        Lmdb(Path(write_lmdb(tmp_path / "x.lmdb", {"a": [1, 2]}))).read("a")  # type: ignore[dict-item]


def test_a_field_under_another_name_is_told_with_the_nearest(tmp_path):
    path = write_lmdb(tmp_path / "x.lmdb", {"a": {"feature": np.ones((2, D))}})
    with pytest.raises(DataError, match=r"'a': has no features or .+, only feature\. Did you mean 'feature'\?"):
        Lmdb(Path(path)).read("a")


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("where", ["value", "keys"])
def test_a_bomb_in_an_lmdb_does_not_go_off(tmp_path, where):
    bomb = Touch(tmp_path / "was_run")
    images: Any = {"a": {"features": bomb if where == "value" else np.ones((2, D))}}
    reader = Lmdb(Path(write_lmdb(tmp_path / "x.lmdb", images, keys=[bomb] if where == "keys" else None)))
    with pytest.raises(DataError, match=r"x\.lmdb: '(a|keys)': wants to load \S+, which is refused, for it could run any code"):
        [reader.read(name) for name in reader.names()]
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(("count", "kept"), [(2, 2), (np.int64(4), 4), (np.array([1]), 1)])
def test_regions_beyond_their_number_are_padding(tmp_path, count, kept):
    path = write_lmdb(tmp_path / "x.lmdb", {"a": image(0, 4) | {"num_boxes": count}})
    read = Lmdb(Path(path)).read("a", boxes=True)
    assert len(read.features) == len(read.boxes) == kept


@pytest.mark.parametrize("count", [-1, 5, 1.5, "two"])
def test_a_number_of_regions_that_cannot_be_is_told(tmp_path, count):
    path = write_lmdb(tmp_path / "x.lmdb", {"a": image(0, 4) | {"num_boxes": count}})
    with pytest.raises(DataError, match=r"'a': num_boxes is .+ for features of 4 regions"):
        Lmdb(Path(path)).read("a")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_an_lmdb_that_was_cut_off_is_refused(tmp_path, share):
    file = Path(write_lmdb(tmp_path / "x.lmdb", {str(i): image(i, 30) for i in range(20)})) / "data.mdb"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"x\.lmdb: (is no LMDB that can be read|holds [\d,]+ bytes, wanted [\d,]+: it was)"):
        Lmdb(file.parent).read("0")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_an_hdf5_file_that_was_cut_off_is_refused(tmp_path, share):
    file = Path(write_hdf5(tmp_path / "x", IMAGES))
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"features\.h5: is no HDF5 file that can be read"):
        Hdf5(file).read("42953")


def hdf5_of(path: Path, **arrays: Any) -> Hdf5:
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return Hdf5(path)


@pytest.mark.parametrize("ids", [["7", "8"], [7, 8], np.array([b"7", b"8"])])
def test_all_images_of_an_hdf5_file_may_be_in_one_array(tmp_path, ids):
    both = [image(0, 3), image(1, 3)]
    stacked = {key: np.stack([fields[key] for fields in both]) for key in both[0]}
    reader = hdf5_of(tmp_path / "x.h5", **stacked, ids=ids, num_boxes=[3, 2])
    assert list(reader.names()) == ["7", "8"]
    assert reader.has_boxes
    read = reader.read("8", boxes=True)
    assert np.array_equal(read.features, both[1]["features"][:2])
    assert np.array_equal(read.boxes, both[1]["bbox"][:2])
    with pytest.raises(DataError, match=r"has no features of '9' among 2 images"):
        reader.read("9")


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (
            {"features": np.ones((2, 3, D))},
            "has no ids or image_ids or image_id, so nobody knows",
        ),
        ({"features": np.ones((2, 3, D)), "ids": [1, 2, 3]}, "holds 3 ids for features of 2 images"),
        ({"features": np.ones((2, 3, D)), "ids": [1, 1]}, "the id '1' is there twice; ids must differ"),
        ({"features": np.ones((2, D)), "ids": [1, 2]}, r"features are \[2, 6\], wanted \[M, N, D\] for M images"),
        (
            {"features": np.ones((2, 3, D)), "ids": [1, 2], "bbox": np.ones((1, 3, 4))},
            r"bbox is \[1, 3, 4\], wanted a row for each image",
        ),
        ({"features": np.ones((2, 3, D)), "ids": [1, 2], "bbox": 3}, r"bbox is \[\], wanted a row for each image"),
    ],
)
def test_an_hdf5_file_of_wrong_shapes_is_told(tmp_path, arrays, sentence):
    with pytest.raises(DataError, match=sentence):
        hdf5_of(tmp_path / "x.h5", **arrays).read("2", boxes=True)


def test_an_array_an_image_has_no_boxes(tmp_path):
    reader = hdf5_of(tmp_path / "x.h5", **{"7": np.ones((3, D), np.float16)})
    assert reader.read("7", limit=2).features.shape == (2, D)
    assert not reader.has_boxes
    with pytest.raises(DataError, match=r"'7': is an array of features alone, wanted a group with features, bbox"):
        reader.read("7", boxes=True)


@pytest.mark.parametrize("link", [h5py.ExternalLink("other.h5", "/7"), h5py.SoftLink("/8")], ids=["external", "soft"])
def test_a_link_out_of_an_hdf5_file_is_not_followed(tmp_path, link):
    hdf5_of(tmp_path / "other.h5", **{"7": np.ones((3, D))})
    reader = hdf5_of(tmp_path / "x.h5", **{"7": link, "8": np.ones((3, D))})
    with pytest.raises(DataError, match=r"x\.h5: '7' leads elsewhere \((ExternalLink|SoftLink)\), wanted the numbers themselves"):
        reader.read("7")


def test_numbers_of_an_hdf5_file_that_lie_in_another_are_not_read(tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(8 * 3 * D))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("7", (3, D), "f8", external=[(str(tmp_path / "secret.bin"), 0, 8 * 3 * D)])
    with pytest.raises(DataError, match=r"x\.h5: '7' leads elsewhere"):
        Hdf5(tmp_path / "x.h5").read("7")


@pytest.mark.parametrize(("package", "kind"), [("lmdb", "lmdb"), ("h5py", "hdf5")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, package, kind):
    path = WRITERS[kind](tmp_path / "x", IMAGES)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"the package {package} is not installed; .+ pip install 'msd_framework\[{kind}\]'"):
        open_features(path).read("42953")


# Finding images


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nowhere", "there is no folder nowhere; wanted one with a `<image>.npy` for each image"),
        ("lmdb:nowhere", "there is no folder nowhere"),
        ("lmbd:nowhere", r"features are of the kinds store, lmdb, hdf5, npy, got 'lmbd:nowhere'\. Did you mean 'lmdb'\?"),
        (__file__, "is no features that can be read; wanted a folder of .npy files, a store"),
    ],
)
def test_what_is_no_source_of_features_is_told_before_a_run(source, sentence):
    with pytest.raises(DataError, match=sentence):
        open_features(source)
    assert RegionFeatures.check({"folder": source}) == source_problems(source) != []


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("42953", ["42953"]),
        ("img/42953.png", ["img/42953", "42953", "img/42953.png", "42953.png"]),
        (Path("/data/x/y/z.tar.gz"), ["x/y/z.tar", "y/z.tar", "z.tar", "x/y/z.tar.gz", "y/z.tar.gz", "z.tar.gz"]),
        ("../a/../b.png", ["b", "b.png"]),
        ("..", [".", ".."]),
    ],
)
def test_an_image_is_known_by_the_last_parts_of_its_path(value, names):
    assert names_of(value) == names


def test_the_most_telling_name_wins(tmp_path):
    write_npy(tmp_path, {"7": image(0, 1), "val/7": image(1, 2), "train/7": image(2, 3)})
    processor = RegionFeatures(str(tmp_path))
    assert [processor.length(value) for value in ("7.png", "data/val/7.png", "data/train/7.png", "test/7.png")] == [1, 2, 3, 1]


def test_a_column_may_name_the_features_themselves(source):
    processor = RegionFeatures(source)
    for value in ("42953", "42953.npy", "features/42953.npy", Path("42953.jpg")):
        assert np.array_equal(processor.load(value).features, IMAGES["42953"]["features"])


def test_boxes_are_part_of_what_a_teacher_saw_and_the_folder_is_not(tmp_path):
    plain, boxes = RegionFeatures("a"), RegionFeatures("store:b", boxes=True)
    assert plain.fingerprint == RegionFeatures("store:b").fingerprint != boxes.fingerprint
    assert boxes.files == str(Path("b").resolve())


def test_a_store_of_another_width_is_told(tmp_path):
    processor = RegionFeatures(write_store(tmp_path / "s", IMAGES), feature_size=9)
    with pytest.raises(DataError, match=r"s: '42953': holds an array of shape \[4, 6\], wanted floats \[N, 9\]"):
        processor.load("42953")


def test_a_store_without_boxes_says_so(tmp_path):
    draft = StoreDraft(tmp_path / "s", Plan("fp16", D, False, {}))
    with draft.shard(0) as shard:
        shard.add("a", Regions(np.ones((2, D))))
    assert not draft.commit().has_boxes
    with pytest.raises(DataError, match=r"s: 'a': has no boxes; the store was made of features alone"):
        FeatureStore(tmp_path / "s").read("a", boxes=True)
