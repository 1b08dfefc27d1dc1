"""The files of a teacher cache, what is read of them, and how far that is from the teacher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd_framework.data.base import Example, MultimodalDataset
from msd_framework.data.processors.features import RegionFeatures as DetectorFeatures
from msd_framework.data.processors.images import Pixels
from msd_framework.errors import CacheError
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.encoders.region_features import RegionFeatures
from msd_framework.models.late_fusion import LateFusion
from msd_framework.structures import Batch, DatasetInfo, ModelOutput
from msd_framework.teachers.cached import CachedTeacher, Opened
from msd_framework.teachers.filling import compare, fill, only_head, outputs_to_store
from msd_framework.teachers.live import LiveTeacher
from msd_framework.teachers.store import (
    DONE,
    MISSING,
    RESIDENT,
    SUMMARY,
    UNREADABLE,
    Card,
    Layout,
    TeacherStore,
    Writer,
    encoded,
    hashes,
)
from msd_framework.testing import made_batch, take
from tests.runs import tiny_model
from tests.unit.models.test_models_contract import EXACT, MODEL_CASES, Case, build_model, make_inputs

VIEWS = ("full", "image", "text")


def card(views: tuple[str, ...] = VIEWS, num_classes: int = 3, summary_size: int = 0, **parts: Any) -> Card:
    return Card({"split": "train", **parts}, {"teacher": "runs/teacher"}, Layout(views, num_classes, summary_size), "2026-11-20")


def names(count: int, prefix: str = "x") -> list[str]:
    return [f"{prefix}{i:05}" for i in range(count)]


def said(count: int, num_classes: int = 3, scale: float = 3.0, summary_size: int = 0, seed: int = 0) -> ModelOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(len(VIEWS), count, num_classes, generator=generator)
    summary = torch.randn(len(VIEWS), count, max(1, summary_size), generator=generator).tanh()
    return ModelOutput(logits, {SUMMARY: summary})


def filled(parent: Path, count: int = 20, **options: Any) -> tuple[TeacherStore, ModelOutput]:
    store = TeacherStore.create(parent, card(**options))
    store.add(names(count))
    output = said(count, options.get("num_classes") or 3, summary_size=options.get("summary_size", 0))
    with Writer(store) as writer:
        writer.write(np.arange(count), output)
    store.settle()
    return store, output


def batch_of(ids: list[str], places: tuple[int, ...] = ()) -> Batch:
    return Batch({}, torch.zeros(len(ids), dtype=torch.long), tuple(ids), places)


def teacher_of(store: TeacherStore, classify: Any = None) -> CachedTeacher:
    return CachedTeacher(("image", "text"), 3, lambda: Opened(store, classify))


def half_error(x: Tensor) -> Tensor:
    """What rounding to float16 may change: half of the last of 11 binary digits, and half of the smallest number there is."""
    return x.abs() * 2.0**-11 + 2.0**-25


# --- what is read is what was written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [(7, 0, 19), ()], ids=["places", "hashes"])
def test_answers_are_read_to_the_rounding_of_float16(tmp_path: Path, places: tuple[int, ...]) -> None:
    store, output = filled(tmp_path)
    found = teacher_of(TeacherStore(store.folder)).predict(batch_of(["x00007", "x00000", "x00019"], places), VIEWS).logits
    wanted = output.logits[:, [7, 0, 19]]
    assert found.shape == (3, 3, 3)
    assert found.dtype == torch.float32
    below = wanted.amax(-1, keepdim=True) - wanted
    assert ((found - wanted).abs() <= half_error(below) + 2e-6).all()  # and the rounding of two float32 sums


def test_places_that_mislead_are_put_right_by_the_ids(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    right = teacher_of(store).predict(batch_of(["x00003", "x00004"]), VIEWS).logits
    for wrong in ((4, 3), (0, 1), (3, 10**6)):
        assert torch.equal(teacher_of(store).predict(batch_of(["x00003", "x00004"], wrong), VIEWS).logits, right)


def test_some_of_the_views_are_read_in_the_order_that_they_are_asked_in(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    batch = batch_of(names(5))
    every = teacher_of(store).predict(batch, VIEWS).logits
    assert torch.equal(teacher_of(store).predict(batch, ("text", "full")).logits, every[[2, 0]])


def test_a_summary_is_read_beside_the_logits_as_a_feature(tmp_path: Path) -> None:
    store, output = filled(tmp_path, summary_size=6)
    found = teacher_of(store).predict(batch_of(names(4)), VIEWS)
    wanted = output.features[SUMMARY][:, :4]
    assert ((found.features[SUMMARY] - wanted).abs() <= half_error(wanted)).all()
    assert teacher_of(filled(tmp_path)[0]).predict(batch_of(names(4)), VIEWS).features == {}


def test_logits_are_made_of_summaries_where_no_logits_are_stored(tmp_path: Path) -> None:
    store, output = filled(tmp_path, num_classes=0, summary_size=6)
    head = torch.nn.Linear(6, 50)
    found = teacher_of(store, head).predict(batch_of(names(4)), VIEWS).logits
    torch.testing.assert_close(found, head(output.features[SUMMARY][:, :4].half().float()), atol=1e-6, rtol=0)
    assert not found.requires_grad
    assert sorted(store.columns) == ["summary"]


def test_a_head_is_not_rounded_down_by_the_students_precision(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, num_classes=0, summary_size=6)
    teacher, batch = teacher_of(store, torch.nn.Linear(6, 50)), batch_of(names(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(
            teacher.predict(batch, VIEWS).logits, teacher_of(store, teacher.opened.classify).predict(batch, VIEWS).logits
        )
        found = teacher.predict(batch, VIEWS).logits
    assert torch.equal(found, teacher.predict(batch, VIEWS).logits)


@settings(max_examples=30)
@given(st.floats(-4e4, 4e4), st.floats(0.1, 3e4), st.integers(0, 99))
def test_no_logit_becomes_infinite_and_the_largest_stays_the_largest(shift: float, scale: float, seed: int) -> None:
    logits = shift + scale * torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(seed))
    stored = encoded(ModelOutput(logits), Layout(("full",), 5, 0))
    assert stored["logits"].isfinite().all()
    assert torch.equal(stored["logits"].amax(-1), torch.zeros(1, 6, dtype=torch.float16))
    assert torch.equal(stored["maximum"], logits.amax(-1))


def test_a_class_that_is_ruled_out_stays_ruled_out() -> None:
    stored = encoded(ModelOutput(torch.tensor([[[1.0, -torch.inf]]])), Layout(("full",), 2, 0))["logits"]
    assert stored.isfinite().all()
    assert stored.float().softmax(-1)[0, 0, 1] == 0


@pytest.mark.parametrize(("value", "layout"), [(torch.nan, (3, 0)), (torch.inf, (3, 0)), (7e4, (0, 2))])
def test_what_is_not_finite_is_refused(tmp_path: Path, value: float, layout: tuple[int, int]) -> None:
    store = TeacherStore.create(tmp_path, card(num_classes=layout[0], summary_size=layout[1]))
    store.add(names(2))
    output = said(2, summary_size=2)
    output.logits[1, 1, 0] = output.features[SUMMARY][1, 1, 0] = value
    with (
        Writer(store) as writer,
        pytest.raises(CacheError, match=r"the teacher's (logits|maximum|summary) of row 0 .*Take another teacher"),
    ):
        writer.write(np.arange(2), output)
    assert store.num_done == 0


# --- how much a student's gradient is off ---------------------------------------------------------------------------------------


def gradient(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """T^2 KL(p_t || p_s) by the student's logits, in closed form and float64: T (p_s - p_t)."""

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp((z - z.max(-1, keepdims=True)) / temperature)
        return e / e.sum(-1, keepdims=True)

    return temperature * (softmax(student) - softmax(teacher))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("scale", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("num_classes", [2, 3, 23])
def test_a_students_gradient_is_off_by_a_thousandth_at_most(
    tmp_path: Path, num_classes: int, scale: float, temperature: float
) -> None:
    store = TeacherStore.create(tmp_path, card(num_classes=num_classes))
    store.add(names(200))
    output = said(200, num_classes, scale)
    with Writer(store) as writer:
        writer.write(np.arange(200), output)
    found = teacher_of(TeacherStore(store.folder)).predict(batch_of(names(200)), VIEWS).logits
    student = scale * torch.randn(3, 200, num_classes, generator=torch.Generator().manual_seed(9)).double().numpy()
    exact = gradient(student, output.logits.double().numpy(), temperature)
    error = np.linalg.norm(gradient(student, found.double().numpy(), temperature) - exact) / np.linalg.norm(exact)
    assert 0 < error <= 1e-3


def test_a_students_gradient_is_off_by_a_thousandth_at_most_with_a_head_of_3129_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    store = TeacherStore.create(tmp_path, card(num_classes=0, summary_size=64))
    store.add(names(50))
    head, output = torch.nn.Linear(64, 3129), said(50, summary_size=64)
    torch.nn.init.normal_(head.weight, std=0.5)
    with Writer(store) as writer:
        writer.write(np.arange(50), output)
    found = teacher_of(TeacherStore(store.folder), head).predict(batch_of(names(50)), VIEWS).logits
    weight, bias = (p.detach().double().numpy() for p in (head.weight, head.bias))
    teacher = output.features[SUMMARY].double().numpy() @ weight.T + bias  # the head in float64
    student = 3 * torch.randn(3, 50, 3129, generator=torch.Generator().manual_seed(9)).double().numpy()
    exact = gradient(student, teacher, 2.0)
    error = np.linalg.norm(gradient(student, found.double().numpy(), 2.0) - exact) / np.linalg.norm(exact)
    assert 0 < error <= 1e-3
    assert np.ptp(teacher, -1).min() > 5  # the teacher is no uniform one


# --- rows -----------------------------------------------------------------------------------------------------------------------


def test_rows_are_added_later_and_keep_what_was_written(tmp_path: Path) -> None:
    store, output = filled(tmp_path, 400)
    before = teacher_of(store).predict(batch_of(names(400)), VIEWS).logits
    store.add(names(3000))
    assert store.num_rows == 3000
    assert store.num_done == 400
    assert np.array_equal(store.rows(names(3000)), np.arange(3000))
    assert torch.equal(teacher_of(TeacherStore(store.folder)).predict(batch_of(names(400)), VIEWS).logits, before)
    more = said(2600, seed=1)
    with Writer(store) as writer:
        writer.write(np.arange(400, 3000), more)
    store.settle()
    assert TeacherStore(store.folder).num_done == 3000
    assert {p.name for p in store.folder.glob("index_*")} == {"index_3000.bin"}
    assert output.logits.shape[1] == 400


def test_rows_that_are_known_are_not_added_again(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    store.add(names(20))
    assert store.num_rows == 20
    store.add(["new", *names(20)])
    assert store.rows(["new", "x00000"]).tolist() == [20, 0]


def test_an_id_that_is_there_twice_is_told(tmp_path: Path) -> None:
    store = TeacherStore.create(tmp_path, card())
    with pytest.raises(CacheError, match="examples 2 and 5 of the split have the same id; ids must differ"):
        store.add(["a", "b", "c", "d", "b"])
    store.add(["a", "b"])  # nothing of the first attempt is left
    assert TeacherStore(store.folder).num_rows == 2


@settings(max_examples=25)
@given(st.lists(st.text(max_size=6), unique=True, min_size=1, max_size=40), st.data())
def test_any_id_is_found_and_no_other(tmp_path_factory: pytest.TempPathFactory, ids: list[str], data: st.DataObject) -> None:
    store = TeacherStore.create(tmp_path_factory.mktemp("ids"), card())
    cut = data.draw(st.integers(0, len(ids)))
    store.add(ids[:cut])
    store.add(ids)
    asked = data.draw(st.lists(st.sampled_from(ids) | st.text(max_size=6), min_size=1))
    assert store.rows(asked).tolist() == [ids.index(name) if name in ids else -1 for name in asked]


def test_an_example_without_an_answer_is_told_with_its_name(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    with pytest.raises(CacheError, match=r"no answer for the example 'elsewhere': .*msd cache prune dir=.* only=\w{32} yes=true"):
        teacher_of(store).predict(batch_of(["x00001", "elsewhere"]), VIEWS)
    store.add([*names(20), "later"])
    with pytest.raises(CacheError, match="no answer for the example 'later'"):
        teacher_of(store).predict(batch_of(["x00001", "later"]), VIEWS)
    with pytest.raises(CacheError, match="no answer for the example 'any'"):
        teacher_of(TeacherStore.create(tmp_path, card(other=1))).predict(batch_of(["any"]), VIEWS)


def test_a_view_that_is_not_stored_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"view '~text' is not in the teacher cache .*, only full, image, text"):
        teacher_of(filled(tmp_path)[0]).predict(batch_of(names(1)), ("full", "~text"))


def test_an_answer_is_marked_once_it_is_flushed_and_not_before(tmp_path: Path) -> None:
    store = TeacherStore.create(tmp_path, card())
    store.add(names(6))
    with Writer(store) as writer:
        writer.write(np.array([1, 2, 5]), said(3))
        assert store.marks.tolist() == [MISSING] * 6
        writer.flush()
        assert store.marks.tolist() == [MISSING, DONE, DONE, MISSING, MISSING, DONE]


def test_no_python_object_is_kept_a_row(tmp_path: Path) -> None:
    """A process that looks answers up in a store of 400,000 rows (28 MB) takes as much memory as one that does so in 1,000."""
    script = """if True:
        import sys
        from pathlib import Path
        import numpy as np
        from msd_framework.teachers.store import TeacherStore
        store, chance = TeacherStore(Path(sys.argv[1])), np.random.default_rng(0)
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        def look():
            places = chance.integers(0, store.num_rows, 32).tolist()
            store.read(store.rows([f"x{i:05}" for i in places], places), ("full",))
        look()
        before = resident()
        for _ in range(2000):
            look()
        print(resident() - before)
    """
    store = TeacherStore.create(tmp_path, card(num_classes=4))
    store.add(f"x{i:05}" for i in range(400_000))
    assert store.num_rows * store.layout.row_bytes > 24e6
    done = subprocess.run([sys.executable, "-c", script, str(store.folder)], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= RESIDENT + 4e6


# --- damage ---------------------------------------------------------------------------------------------------------------------


def cut(store: TeacherStore, name: str) -> None:
    file = store.folder / name
    os.truncate(file, file.stat().st_size - 1)


def edit(store: TeacherStore, name: str, **values: Any) -> None:
    file = store.folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


DAMAGE = {
    "logits cut off": (lambda s: cut(s, "logits.bin"), r"logits\.bin: holds 359 bytes, wanted 360: it was cut off"),
    "maximum cut off": (lambda s: cut(s, "maximum.bin"), r"maximum\.bin: holds 239 bytes, wanted 240"),
    "ids cut off": (lambda s: cut(s, "ids.bin"), r"ids\.bin: holds 319 bytes, wanted 320"),
    "index cut off": (lambda s: cut(s, "index_20.bin"), r"index_20\.bin: holds 159 bytes"),
    "marks cut off": (lambda s: cut(s, "done.bin"), r"done\.bin: holds 19 bytes, wanted 20"),
    "a file gone": (lambda s: (s.folder / "logits.bin").unlink(), r"logits\.bin: is missing"),
    "marks lost": (lambda s: (s.folder / "done.bin").write_bytes(bytes(20)), r"done\.bin: marks 0 rows as done, wanted 20"),
    "card gone": (lambda s: (s.folder / "card.json").unlink(), r"card\.json: is missing"),
    "card cut off": (lambda s: cut(s, "card.json"), r"card\.json: is damaged \(.*\)"),
    "card no object": (
        lambda s: (s.folder / "card.json").write_text("[]"),
        r"card\.json: is damaged \(wanted an object, got a list\)",
    ),
    "card edited": (lambda s: edit(s, "card.json", parts={"split": "test"}), r"card\.json: is not what was written"),
    "card of another version": (lambda s: edit(s, "card.json", format=0), r"card\.json: is of format 0, wanted 1"),
    "state gone": (lambda s: (s.folder / "state.json").unlink(), r"state\.json: is missing"),
    "more rows than there are": (lambda s: edit(s, "state.json", rows=21), r"ids\.bin: holds 320 bytes, wanted 336"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_with_the_file_and_the_remedy(tmp_path: Path, name: str) -> None:
    damage, text = DAMAGE[name]
    store, _ = filled(tmp_path)
    damage(store)
    with pytest.raises(
        CacheError, match=rf"{text}.*, so this teacher cache cannot be trusted\. Remove it with `msd cache prune dir="
    ):
        TeacherStore(store.folder)


def test_a_store_under_another_name_is_told(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    other = store.folder.rename(tmp_path / ("0" * 32))
    with pytest.raises(CacheError, match=r"card\.json: is that of the store \w{32}, in a folder of another name"):
        TeacherStore(other)


def test_what_a_process_that_was_killed_left_behind_is_no_damage(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    for name in ("ids.bin", "logits.bin", "maximum.bin", "done.bin"):  # files are made longer before the rows count
        with (store.folder / name).open("ab") as file:
            file.write(b"\1" * 320)
    (store.folder / "index_40.bin").write_bytes(bytes(320))
    again = TeacherStore(store.folder)
    assert again.num_rows == again.num_done == 20
    again.add(names(40))
    assert again.rows(names(40)).tolist() == list(range(40))
    assert again.marks.tolist() == [DONE] * 20 + [MISSING] * 20


def test_a_store_of_others_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = filled(tmp_path)

    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    store.touch()


def test_a_store_is_made_once_and_then_found(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    again = TeacherStore.create(tmp_path, replace(card(), created="2027-01-01"))
    assert again.folder == store.folder
    assert again.card.created == "2026-11-20"
    assert [p.name for p in tmp_path.iterdir()] == [store.folder.name]


def test_hashes_are_those_of_blake2b() -> None:
    """From `printf x | b2sum -l 128`."""
    assert hashes(["x"]).tobytes().hex() == "442a44457137672b3218c1007dc8f76a"


# --- a teacher is asked, and compared -------------------------------------------------------------------------------------------


class Counting(LiveTeacher):
    """Counts how often it is asked about each view of each example."""

    def __init__(self, model: Any, masker: Any):
        super().__init__(model, masker)
        self.count: Counter[tuple[str, str]] = Counter()

    def predict(self, batch: Batch, views: Any, shown: Any = None) -> ModelOutput:
        self.count.update((name, view) for name in batch.ids for view in views)
        return super().predict(batch, views, shown)


def tiny_fusion(num_classes: int = 3) -> LateFusion:
    torch.manual_seed(0)
    encoders: Any = {"image": RegionFeatures(feature_size=6, hidden_size=8)}
    return LateFusion(encoders, num_classes, hidden_size=8).double()


def test_every_example_is_asked_about_once_and_what_is_read_is_what_was_said(tmp_path: Path) -> None:
    data, teacher = made_batch(11), Counting(tiny_model(1, 16), DropMasker())
    store = TeacherStore.create(tmp_path, card())
    store.add(data.ids)
    batches = [replace(take(data, list(part)), places=part) for part in ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9))]
    advanced: list[int] = []
    with Writer(store) as writer:
        fill(writer, lambda batch: outputs_to_store(teacher, batch, store.layout), batches, np.arange(11), advanced.append)
    assert set(teacher.count.values()) == {1}
    assert len(teacher.count) == 10 * 3
    assert advanced == [4, 4, 2]
    assert store.marks.tolist() == [DONE] * 10 + [UNREADABLE]
    first = take(data, list(range(10)))
    torch.testing.assert_close(
        teacher_of(store).predict(first, VIEWS).logits.double(), teacher.predict(first, VIEWS).logits, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(("num_classes", "summary_size"), [(3, 0), (3, 8), (0, 8)])
def test_a_changed_answer_is_noticed_and_an_equal_one_is_not(tmp_path: Path, num_classes: int, summary_size: int) -> None:
    data, teacher = made_batch(6), LiveTeacher(tiny_fusion(), DropMasker())
    layout = Layout(("full",), num_classes, summary_size)
    store = TeacherStore.create(tmp_path, Card({}, {}, layout, ""))
    store.add(data.ids)
    with Writer(store) as writer:
        writer.write(np.arange(6), outputs_to_store(teacher, data, layout))
    assert not compare(store, np.arange(6), outputs_to_store(teacher, data, layout), ("full",), "fp32").wrong.any()
    data.inputs["image"].values[4] += 1.0
    compared = compare(store, np.arange(6), outputs_to_store(teacher, data, layout), ("full",), "fp32")
    assert compared.wrong.tolist() == [[False] * 4 + [True, False]]
    assert compared.share > 1
    assert compared.largest > 1e-3


def test_a_head_alone_says_the_same_and_weighs_no_more_than_itself() -> None:
    model = tiny_fusion(900).requires_grad_(False).eval()
    data = made_batch(4)
    with torch.no_grad():
        summary, logits = model.summarise_views([data.inputs]), model.forward_views([data.inputs]).logits
    classify = only_head(model)
    assert torch.equal(classify(summary), logits)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.classifier.parameters())
    assert not any(p.requires_grad for p in model.parameters())


TELLING = [
    pytest.param(case, id=f"{name}-{i}") for name in ("visual_bert", "late_fusion") for i, case in enumerate(MODEL_CASES[name])
]


@pytest.mark.parametrize("case", TELLING)
def test_logits_are_those_of_the_summaries_that_a_model_tells(case: Case) -> None:
    model = build_model(case).eval()
    views = [make_inputs(case), {m: x for m, x in make_inputs(case).items() if m == "image"}, make_inputs(case, seed=1)]
    summary = model.summarise_views(views)
    assert summary.shape == (3, 4, model.summary_size)
    torch.testing.assert_close(model.classify(summary), model.forward_views(views).logits, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("name", ["unimodal_text", "unimodal_image"])
def test_a_model_that_does_not_tell_its_summary_says_so(name: str) -> None:
    model = build_model(MODEL_CASES[name][0])
    assert model.summary_size is None
    for method in (model.summarise_views, model.classify):
        with pytest.raises(NotImplementedError, match=r"Unimodal\w+ does not tell its summary"):
            method(torch.zeros(1))


# --- what stands for the content of a data set -----------------------------------------------------------------------------------


class Made(MultimodalDataset):
    """Examples that are given, under a root that does not matter."""

    def __init__(self, root: str, rows: list[tuple[str, str, str]]):
        self.root, self.rows = Path(root), rows

    @classmethod
    def describe(cls, options: Any) -> DatasetInfo:
        raise NotImplementedError

    @classmethod
    def check(cls, options: Any, split: str) -> list[str]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        name, text, image = self.rows[index]
        return Example(name, {"text": text, "image": self.root / image}, index, f"row {index}")


ROWS = [("a", "one", "a.png"), ("b", "two", "b.png")]


def test_a_data_set_that_moves_has_the_same_content() -> None:
    assert Made("here", ROWS).fingerprint == Made("there", ROWS).fingerprint


@pytest.mark.parametrize(
    "rows",
    [ROWS[::-1], ROWS[:1], [("c", "one", "a.png"), ROWS[1]], [("a", "One", "a.png"), ROWS[1]], [("a", "one", "c.png"), ROWS[1]]],
    ids=["order", "number", "id", "text", "image"],
)
def test_other_examples_are_another_content(rows: list[tuple[str, str, str]]) -> None:
    assert Made("here", rows).fingerprint != Made("here", ROWS).fingerprint


def test_features_of_another_folder_are_other_files(tmp_path: Path) -> None:
    first, second = (DetectorFeatures(str(tmp_path / name), feature_size=4) for name in ("one", "two"))
    assert first.fingerprint == second.fingerprint
    assert first.files != second.files
    assert not Pixels(8).files
