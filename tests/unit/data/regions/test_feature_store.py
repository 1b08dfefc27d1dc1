"""Our own store of region features: written, read, resumed, damaged, shared, and made by a command."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_framework.array_files import key_of
from msd_framework.cli import main
from msd_framework.commands import convert_features
from msd_framework.data.regions import draft as drafts
from msd_framework.data.regions.base import Regions
from msd_framework.data.regions.convert import convert, plan_of
from msd_framework.data.regions.draft import Plan, StoreDraft
from msd_framework.data.regions.npy import NpyFolder
from msd_framework.data.regions.store import FeatureStore
from msd_framework.errors import ConfigError, DataError

D = 6
PLAN = Plan("fp32", D, True, {"made": "here"})


def regions(seed: int, num_regions: int = 3) -> Regions:
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.random((num_regions, 2, 2)) * 30, 1).reshape(num_regions, 4).astype(np.float32)
    return Regions(rng.normal(size=(num_regions, D)).astype(np.float32), boxes, (40.0, 30.0))


def made(folder: Path, num_images: int = 5, plan: Plan = PLAN) -> FeatureStore:
    draft = StoreDraft(folder, plan)
    with draft.shard(0) as shard:
        for i in range(num_images):
            shard.add(f"{i:03}", regions(i))
    return draft.commit()


def same(a: Regions, b: Regions) -> bool:
    return np.array_equal(a.features, b.features) and np.array_equal(a.boxes, b.boxes) and a.size == b.size


# Written and read


@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 5), min_size=1, max_size=12),
    st.sampled_from(["fp32", "fp16"]),
    st.integers(1, 3),
)
@settings(max_examples=20)
def test_what_was_written_is_read_whatever_the_names_and_however_many_shards(tmp_path_factory, counts, precision, num_shards):
    draft = StoreDraft(tmp_path_factory.mktemp("store") / "features", Plan(precision, D, True, {}))
    for number in range(num_shards):
        with draft.shard(number) as shard:
            for i, (name, count) in enumerate(counts.items()):
                if i % num_shards == number:
                    shard.add(name, regions(i, count))
    store = draft.commit()
    assert sorted(store.names()) == sorted(counts)
    assert len(store) == len(counts)
    for i, (name, count) in enumerate(counts.items()):
        read, wanted = store.read(name, boxes=True), regions(i, count)
        assert np.array_equal(read.features, wanted.features.astype({"fp32": "f4", "fp16": "f2"}[precision]))
        assert np.array_equal(read.boxes, wanted.boxes)
        assert read.size == (40.0, 30.0)
        assert store.count(name) == count
        store.verify(name)
    assert "\0 never" not in store


def test_a_look_up_takes_about_one_step():
    names = [f"COCO_train2014_{i:012}" for i in range(20_000)]
    slots = drafts._slots(names, Path("x"))
    assert len(slots) & (len(slots) - 1) == 0
    assert 2 * len(names) <= len(slots) <= 4 * len(names)
    assert np.count_nonzero(slots) == len(names)
    last = len(slots) - 1
    found = [int(np.flatnonzero(slots == 1 + i)[0]) for i in range(500)]
    far = [(slot - drafts.store.slot_of(key_of(name), last)) & last for slot, name in zip(found, names)]
    assert np.mean(far) < 1  # steps beyond the first


def test_the_files_are_plain_arrays_that_numpy_maps(tmp_path):
    store = made(tmp_path / "s")
    features = np.load(store.path / "features_0.npy", mmap_mode="r", allow_pickle=False)
    boxes = np.load(store.path / "boxes_0.npy", mmap_mode="r", allow_pickle=False)
    assert np.array_equal(features, np.concatenate([regions(i).features for i in range(5)]))
    assert np.array_equal(boxes, np.concatenate([regions(i).boxes for i in range(5)]))
    assert sorted(file.name for file in store.path.iterdir()) == [
        "boxes_0.npy", "entries.npy", "features_0.npy", "index.json", "names.txt", "slots.npy",
    ]  # fmt: skip


def test_writing_to_what_was_read_changes_no_file(tmp_path):
    store = made(tmp_path / "s")
    store.read("000").features[:] = 0
    assert same(FeatureStore(store.path).read("000", boxes=True), regions(0))


def test_pages_that_were_read_are_let_go_and_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr("msd_framework.data.regions.store.RESIDENT", 100)
    store = made(tmp_path / "s")
    kept = store.read("001")
    for _ in range(3):
        assert all(same(store.read(f"{i:03}", boxes=True), regions(i)) for i in range(5))
    assert np.array_equal(kept.features, regions(1).features)


def test_boxes_may_be_left_out(tmp_path):
    store = made(tmp_path / "s", plan=Plan("fp16", D, False, {}))
    assert not store.has_boxes
    assert not (store.path / "boxes_0.npy").exists()


# What cannot be stored


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (Regions(np.ones((2, 7)), np.ones((2, 4))), r"'a' has features of 7 numbers, those before have 6"),
        (Regions(np.ones((2, D))), r"'a' has no boxes, though others have; take boxes=false to leave them out"),
        (
            Regions(np.full((2, D), 7e4), np.ones((2, 4))),
            "'a' has a number beyond 65,504, too large for fp16; take precision",
        ),
    ],
)
def test_what_does_not_fit_is_told_and_leaves_nothing(tmp_path, wrong, sentence):
    draft = StoreDraft(tmp_path / "s", Plan("fp16", D, True, {}))
    with draft.shard(0) as shard:
        with pytest.raises(DataError, match=sentence):
            shard.add("a", wrong)
        shard.add("b", regions(1))
    assert list(draft.commit().names()) == ["b"]


def test_a_name_that_is_there_twice_is_told(tmp_path):
    draft = StoreDraft(tmp_path / "s", PLAN)
    for number in range(2):
        with draft.shard(number) as shard:
            shard.add("a", regions(number))
    with pytest.raises(DataError, match=r"s: the image 'a' is there twice; names must differ"):
        draft.commit()


def test_a_store_without_images_is_none(tmp_path):
    with pytest.raises(DataError, match="s: there is no image to store"):
        StoreDraft(tmp_path / "s", PLAN).commit()


def test_a_folder_that_is_taken_is_left_alone(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine.txt").touch()
    with pytest.raises(DataError, match="s is there already; name another place, or remove it"):
        StoreDraft(tmp_path / "s", PLAN)


# Interrupted


def test_a_store_is_not_there_before_it_is_whole(tmp_path):
    draft = StoreDraft(tmp_path / "s", PLAN)
    with draft.shard(0) as shard:
        shard.add("a", regions(0))
    assert not (tmp_path / "s").exists()
    assert not FeatureStore.claims(tmp_path / "s")
    draft.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("left", [b"", b'["2', b'["2", 3, 1, 40.0, 30.0]'])
@pytest.mark.parametrize("behind", [0, 5, 24 * D])
def test_what_a_killed_process_left_half_written_does_not_count(tmp_path, left, behind):
    draft = StoreDraft(tmp_path / "s", PLAN)
    with draft.shard(0) as shard:
        shard.add("0", regions(0))
        shard.add("1", regions(1))
    for file, more in (("features_0.npy", bytes(behind)), ("boxes_0.npy", bytes(behind // 2)), ("journal_0.jsonl", left)):
        with (draft.part / file).open("ab") as opened:
            opened.write(more)
    again = StoreDraft(tmp_path / "s", PLAN)
    assert again.done() == {"0", "1"}
    with again.shard(0) as shard:
        shard.add("2", regions(2))
    store = again.commit()
    assert all(same(store.read(str(i), boxes=True), regions(i)) for i in range(3))
    assert len(store) == 3


def test_features_that_were_cut_off_are_not_gone_on_with(tmp_path):
    draft = StoreDraft(tmp_path / "s", PLAN)
    with draft.shard(0) as shard:
        shard.add("0", regions(0))
    os.truncate(draft.part / "features_0.npy", 150)
    with pytest.raises(DataError, match=r"features_0\.npy: was cut off, so that nobody can go on with it; remove .*\.s\.draft"):
        StoreDraft(tmp_path / "s", PLAN).shard(0)


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (Plan("fp16", D, True, {"made": "here"}), "precision is fp32 there and fp16 here"),
        (Plan("fp32", 9, True, {"made": "here"}), "feature_size is 6 there and 9 here"),
        (Plan("fp32", D, True, {"made": "there"}), "made is here there and there here"),
    ],
)
def test_what_another_command_left_is_not_gone_on_with(tmp_path, plan, sentence):
    StoreDraft(tmp_path / "s", PLAN)
    with pytest.raises(DataError, match=rf"\.s\.draft was left by a command that made something else: {sentence}; remove it"):
        StoreDraft(tmp_path / "s", plan)


def test_a_conversion_that_was_interrupted_reads_nothing_twice(tmp_path, source, monkeypatch):
    read: list[str] = []
    plain_read = NpyFolder.read

    def counted(self: NpyFolder, name: str, *arguments: Any, **more: Any) -> Regions:
        if len(read) == 4:
            raise KeyboardInterrupt
        read.append(name)
        return plain_read(self, name, *arguments, **more)

    reader = NpyFolder(source)
    plan = plan_of(reader, "fp32", None)
    monkeypatch.setattr(NpyFolder, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        convert(reader, StoreDraft(tmp_path / "s", plan))
    assert read == ["0", "1", "2", "3"]
    read.clear()
    found = convert(reader, StoreDraft(tmp_path / "s", plan))
    assert (found.begun, read) == (4, ["4", "5"])
    assert all(np.array_equal(found.store.read(str(i)).features, regions(i, 2 + i % 3).features) for i in range(6))


# Damaged


def rewrite(file: Path, change: Any) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda s: (s / "index.json").unlink(), r"index\.json: is missing; this store of features cannot be trusted, make it anew"),
        (lambda s: (s / "index.json").write_text("{"), r"index\.json: is damaged \(Expecting"),
        (lambda s: (s / "index.json").write_text("[]"), r"index\.json: is damaged \(wanted an object, got a list"),
        (lambda s: rewrite(s / "index.json", lambda c: c.update(format=9)), r"index\.json: is of format 9, wanted 1"),
        (lambda s: rewrite(s / "index.json", lambda c: c.update(images=4)), r"index\.json: is not what was written"),
        (
            lambda s: os.truncate(s / "features_0.npy", 200),
            r"features_0\.npy: holds 200 bytes, wanted 488: it was cut off; .* make it anew",
        ),
        (lambda s: os.truncate(s / "boxes_0.npy", 0), r"boxes_0\.npy: holds 0 bytes, wanted 368"),
        (lambda s: os.truncate(s / "boxes_0.npy", 400), r"boxes_0\.npy: holds 400 bytes, wanted 368: it belongs to another store"),
        (lambda s: (s / "features_0.npy").unlink(), r"features_0\.npy: is missing"),
        (lambda s: os.truncate(s / "entries.npy", 200), r"entries\.npy: cannot be read"),
        (lambda s: np.save(s / "slots.npy", np.zeros(4, "<u4")), r"slots\.npy: holds uint32 \[4\], wanted uint32 \[16\]"),
        (lambda s: (s / "slots.npy").write_bytes(pickle.dumps([1])), r"slots\.npy: cannot be read"),
    ],
)
def test_a_damaged_store_is_refused_with_its_file(tmp_path, damage, sentence):
    damage(made(tmp_path / "s").path)
    with pytest.raises(DataError, match=sentence):
        FeatureStore(tmp_path / "s")


def test_names_that_cannot_be_read_are_told(tmp_path):
    store = made(tmp_path / "s")
    (store.path / "names.txt").write_text("001\n")
    with pytest.raises(DataError, match=r"names\.txt: cannot be read .*wanted a name a line"):
        list(store.names())


@pytest.mark.parametrize("file", ["features_0.npy", "boxes_0.npy"])
def test_a_changed_number_is_found(tmp_path, file):
    store = made(tmp_path / "s")
    content = bytearray((store.path / file).read_bytes())
    content[-1] ^= 1
    (store.path / file).write_bytes(content)
    store = FeatureStore(tmp_path / "s")
    store.verify("000")
    with pytest.raises(DataError, match=r"s: '004': is not what was written; make the store anew"):
        store.verify("004")


# Shared


def private_bytes() -> int:
    """What this process alone has of its memory, and its share of what it shares (PSS), in bytes."""
    told = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(re.findall(r"^Pss: +(\d+) kB", told, re.MULTILINE)[0])


def look_everywhere(store: FeatureStore, begin: Any, grown: Any, done: Any) -> None:
    begin.wait()
    before = private_bytes()
    for i in range(0, len(store), 7):
        assert f"{i:07}" in store
    done.wait()  # both hold what they hold at once
    grown.put(private_bytes() - before)
    done.wait()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="PSS is told on Linux only")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_share_the_index(tmp_path):
    draft = StoreDraft(tmp_path / "s", Plan("fp16", 1, False, {}))
    one, num_images = Regions(np.ones((1, 1))), 80_000
    with draft.shard(0) as shard:
        for i in range(num_images):
            shard.add(f"{i:07}", one)
    store = draft.commit()
    index = sum((store.path / name).stat().st_size for name in ("entries.npy", "slots.npy"))
    assert index > 4_000_000
    context = multiprocessing.get_context("fork")
    begin, done, grown = context.Barrier(2), context.Barrier(2), context.SimpleQueue()
    workers = [context.Process(target=look_everywhere, args=(store, begin, grown, done)) for _ in range(2)]
    for worker in workers:
        worker.start()
    both = [grown.get() for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sum(both) < 1.3 * index  # two copies would be twice the index, Python's objects ten times


# The command


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "npy"
    folder.mkdir()
    for i in range(6):
        one = regions(i, 2 + i % 3)
        np.save(folder / f"{i}.npy", one.features)
        np.save(folder / f"{i}_info.npy", {"bbox": one.boxes, "image_width": 40, "image_height": 30})
    return folder


def test_features_become_a_store_and_the_summary_says_what_it_holds(tmp_path, source, capsys):
    words = [f"source={source}", f"store={tmp_path / 's'}", "precision=fp16"]
    assert main(["convert-features", *words]) == 0
    told = capsys.readouterr().out
    assert "images:   6, 2 to 4 regions each, 18 in all" in told
    assert "features: 6 numbers, fp16, with boxes" in told
    assert f"use:      'data.processors.image={{type: region_features, folder: {tmp_path / 's'}}}'" in told
    store = FeatureStore(tmp_path / "s")
    for i in range(6):
        read, one = store.read(str(i), boxes=True), regions(i, 2 + i % 3)
        assert np.array_equal(read.features, one.features.astype(np.float16))
        assert np.array_equal(read.boxes, one.boxes)
    assert main(["convert-features", *words]) == 0
    assert "holds these features already" in capsys.readouterr().out
    assert main(["convert-features", *words[:2]]) == 2
    assert "s is there already; name another place, or remove it" in capsys.readouterr().err


def test_a_store_becomes_a_store_of_another_precision(tmp_path, source):
    convert_features.main([f"source={source}", f"store={tmp_path / 's'}"])
    convert_features.main([f"source=store:{tmp_path / 's'}", f"store={tmp_path / 'half'}", "precision=fp16", "boxes=false"])
    half = FeatureStore(tmp_path / "half")
    assert np.array_equal(half.read("3").features, regions(3, 2).features.astype(np.float16))
    assert not half.has_boxes


def test_an_image_that_cannot_be_read_stops_a_conversion_or_is_left_out_and_named(tmp_path, source, capsys):
    np.save(source / "0.npy", np.full((2, D), np.nan))
    np.save(source / "2.npy", np.ones((4, 9)))
    words = [f"source={source}", f"store={tmp_path / 's'}"]
    with pytest.raises(DataError, match=r"0\.npy|0_info\.npy: holds numbers that are no finite float32"):
        convert_features.main(words)
    convert_features.main([*words, "on_error=skip"])
    told = capsys.readouterr().out
    assert "2 images were left out:" in told
    assert "'2' has features of 9 numbers, those before have 6" in told
    assert len(FeatureStore(tmp_path / "s")) == 4


def test_a_check_reads_all_and_writes_nothing(tmp_path, source, capsys):
    convert_features.main([f"source={source}", "--check"])
    assert capsys.readouterr().out == f"6 images of {source} read, nothing is wrong with them.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["npy"]


def test_a_check_compares_a_store_with_what_it_was_made_of(tmp_path, source, capsys):
    words = [f"source={source}", f"store={tmp_path / 's'}"]
    convert_features.main(words)
    convert_features.main([*words, "--check"])
    assert capsys.readouterr().out.endswith(f"nothing is wrong with them, and {tmp_path / 's'} holds them.\n")
    np.save(source / "1.npy", regions(9).features)
    np.save(source / "4.npy", np.ones(3))
    np.save(source / "7.npy", np.ones((2, D)))
    wrong = r"(?s)3 of 7 images are wrong:.+'1': is not what it was made of.+4\.npy: holds.+7_info\.npy: no such"
    with pytest.raises(DataError, match=wrong):
        convert_features.main([*words, "check=true"])


def test_a_check_of_a_store_alone_compares_its_checksums(tmp_path):
    store = made(tmp_path / "s")
    content = bytearray((store.path / "features_0.npy").read_bytes())
    content[-1] ^= 1
    (store.path / "features_0.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"1 of 5 images are wrong:\n  .*s: '004': is not what was written"):
        convert_features.main([f"source={store.path}", "--check"])


def test_a_check_finds_images_that_are_not_in_the_source(tmp_path, source):
    words = [f"source={source}", f"store={tmp_path / 's'}"]
    convert_features.main(words)
    (source / "5.npy").unlink()
    (source / "5_info.npy").unlink()
    with pytest.raises(DataError, match=r"s: holds 6 images, .*npy 5"):
        convert_features.main([*words, "--check"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sorce=a"], r"sorce: no such option\. Did you mean 'source'\?"),
        (["store=a"], "source: must be given"),
        (["source=.", "precision=fp8"], "precision: wanted 'fp32' | 'fp16', got 'fp8'"),
    ],
)
def test_wrong_words_are_told(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        convert_features.main(words)


def test_a_store_must_be_named(source):
    with pytest.raises(ConfigError, match="store: must be given: the folder that the store takes"):
        convert_features.main([f"source={source}"])


def test_a_store_does_not_lie_among_what_it_is_made_of(source):
    with pytest.raises(ConfigError, match=r"store: .*npy/s lies in .*npy, whose images its files would be; name another"):
        convert_features.main([f"source={source}", f"store={source / 's'}"])


def test_a_source_without_features_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no features that can be read"):
        convert_features.main([f"source={tmp_path / 'empty'}", f"store={tmp_path / 's'}"])


def test_a_terminal_shows_how_far_it_is(tmp_path, source, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take a pipe for a terminal
    convert_features.main([f"source={source}", f"store={tmp_path / 's'}"])
    assert "converting" in capsys.readouterr().err
