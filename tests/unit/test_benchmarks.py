"""What the benchmark says is what it measures: operations are counted right, both sides compute the same, every key is there."""

from __future__ import annotations

import doctest
import importlib
import json
import mmap
import pkgutil
import sys
from dataclasses import replace
from itertools import chain

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import benchmarks
from benchmarks import (
    bench,
    cache,
    epochs,
    evaluation,
    flops,
    machine,
    made,
    memory,
    regions,
    scale,
    table,
    theirs,
    timing,
    variants,
)
from benchmarks.made import VIEWS, Sizes, make_batch, make_batches, transformer
from benchmarks.ours import Ours
from benchmarks.table import BARS, BESIDE, Ratio
from benchmarks.theirs import Theirs, TransformersModel, padded_views
from benchmarks.timing import PRECISIONS, Variant, interleaved
from msd_framework.models.layers import packed

TINY = Sizes(transformer(1, 24, 2, 32), transformer(2, 48, 2, 64), num_examples=2)
FP32 = PRECISIONS["fp32"]


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


@pytest.fixture
def batch():
    return make_batch(TINY.num_examples, seed=1)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("views", [("full",), ("full", "text"), VIEWS], ids="+".join)
def test_operations_are_those_that_torch_counts_where_nothing_is_padded(monkeypatch, views, num_layers):
    monkeypatch.setattr(packed, "BLOCK_COST", 0)  # rows of different lengths are not padded to share a block
    sizes, one = Sizes(transformer(num_layers, 24, 2, 32), TINY.teacher), make_batch(1, seed=1)
    ours = Ours(sizes)
    step = ours.step(ours.objective(ours.cached, views), one, FP32)
    with FlopCounterMode(display=False) as counter:
        step()
    # [CLS] and [SEP] of a hidden text are embedded on their own, though one could share them with the full view's
    projections = 2 if num_layers == 1 else 3  # the queries of a last layer are those of its rows
    repeated = 3 * ("image" in views) * flops.NUM_SPECIAL * projections * 2 * 24**2
    assert counter.get_total_flops() == flops.step_flops(sizes.student, flops.lengths_of(one), views) + repeated


def test_both_sides_see_the_same_views_and_compute_the_same_logits(tmp_path, batch):
    import transformers

    ours = Ours(TINY).student.eval()
    ours.save_transformers(tmp_path)
    model = TransformersModel(TINY.student).eval()
    model.body = transformers.VisualBertModel.from_pretrained(tmp_path).eval()
    model.head.load_state_dict(ours.head.state_dict())
    masker = Ours(TINY).masker
    with torch.no_grad():
        wanted = ours.forward_views([masker.view(batch, v).inputs for v in VIEWS]).logits
        for longest in (False, True):
            found = torch.stack([model(**view) for view in padded_views(batch, longest)])
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)  # float32, summed in another order


def test_scripts_pad_to_128_words_and_100_regions(batch):
    for view in padded_views(batch):
        assert view["input_ids"].shape == view["attention_mask"].shape == (2, 128)
        assert view["visual_embeds"].shape[:2] == view["visual_attention_mask"].shape == (2, 100)


def test_torchdistill_minimises_the_loss_that_ours_does(batch):
    pytest.importorskip("torchdistill")
    box = Theirs(TINY).box
    student, teacher = box.student_model.eval(), box.teacher_model
    (full, *_) = padded_views(batch)
    loss = box.forward_process(sample_batch=full, targets=batch.targets, supp_dict={})
    with torch.no_grad():
        logits, taught = student(**full), teacher(**full)
    divergence = F.kl_div(logits.log_softmax(-1), taught.softmax(-1), reduction="batchmean")
    torch.testing.assert_close(loss.detach(), 0.5 * F.cross_entropy(logits, batch.targets) + 0.5 * divergence)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


def test_torchdistill_updates_its_student(batch):
    pytest.importorskip("torchdistill")
    other = Theirs(TINY)
    before = other.box.student_model.head.weight.clone()
    other.torchdistill(batch, FP32)()
    assert not torch.equal(before, other.box.student_model.head.weight)


@pytest.mark.parametrize("quick", [True, False])
def test_every_ratio_is_made_of_what_is_measured(quick):
    names = {v.full_name for v in variants.step_variants(TINY, "bf16", quick)}
    names |= {f"{q} {p}" for q in ("matmul peak", "useful operations a second") for p in PRECISIONS}
    names |= {"kd cached auto", "kd live auto", "msd cached auto", "cache look-up"}
    names |= {"gradient off with cached logits", "gradient with exact logits"}
    names |= {f"memory of {v}" for v in memory.MEASURED} | {f"memory of a run, {scale.power(n)} examples" for n in scale.ENDS}
    names |= {q["name"] for q in epochs.derived(TINY, dict.fromkeys(names, 1.0))}
    wanted = BARS if quick else BARS + BESIDE
    assert set(chain.from_iterable((r.over, r.under) for r in wanted)) <= names


def test_keys_are_unique():
    keys = [r.key for r in BARS + BESIDE]
    assert len(keys) == len(set(keys))


def test_a_report_has_the_same_keys_whether_it_is_quick_or_not(monkeypatch, tmp_path):
    pytest.importorskip("torchdistill")
    monkeypatch.setitem(made.SIZES, "tiny", TINY)
    monkeypatch.setattr(variants, "WIDTH", 32)
    monkeypatch.setattr(cache, "NUM_ROWS", 100)
    # a process that has run other tests holds memory enough for a tiny step
    monkeypatch.setattr(memory, "said", lambda name, size: str(1 + memory.extra_memory(name, size)))
    monkeypatch.setattr(scale, "python_says", lambda *numbers: json.dumps([{"examples": int(n), "peak": 1000} for n in numbers]))
    all_variants = variants.step_variants
    monkeypatch.setattr(bench, "step_variants", lambda *words: [replace(v, rounds=1) for v in all_variants(*words)])
    quick, full = (json.loads(json.dumps(bench.measure("tiny", quick, lambda text: None))) for quick in (True, False))

    assert list(quick["ratios"]) == list(full["ratios"]) == [r.key for r in BARS]
    assert {r.key for r in BESIDE} == set(full["beside"]) >= set(quick["beside"])
    assert quick["machine"]["threads"] == torch.get_num_threads()
    for report in (quick, full):
        assert all({"name", "value", "unit"} <= set(run) for run in report["runs"])
        assert [key for key, value in (report["ratios"] | report["beside"]).items() if not value > 0] == []
        names = [run["name"] for run in report["runs"]]
        assert len(names) == len(set(names))
        timed = [run for run in report["runs"] if "wall_s" in run]
        assert all({"precision", "rounds", "cpu_s", "min", "max", "examples"} <= set(run) for run in timed)
    assert all(run.get("derived") for run in quick["runs"] if "10 epochs" in run["name"])
    assert not any(run.get("derived") for run in full["runs"])


def test_a_derived_run_is_ten_epochs_of_steps_and_one_pass_of_the_teacher():
    ours = {"msd cached": 1.0, "teacher's pass": 3.0}
    measured = {f"{name} {p}": seconds for p in ("fp32", "bf16") for name, seconds in ours.items()} | {f"{table.NAIVE} fp32": 7.0}
    found = {q["name"]: q["value"] for q in epochs.derived(TINY, measured)}
    assert found["msd cached, 10 epochs bf16"] == epochs.NUM_BATCHES * 13
    assert found[f"{table.NAIVE}, 10 epochs fp32"] == epochs.NUM_BATCHES * 70


def test_a_ratio_says_whether_its_bar_holds():
    most, least = Ratio("a", "x", "y", at_most=2.0), Ratio("b", "x", "y", at_least=2.0)
    assert most.of({"x": 3.0, "y": 2.0}) == 1.5
    assert most.holds(2.0)
    assert least.holds(2.0)
    assert not most.holds(2.1)
    assert not least.holds(1.9)
    assert (most.bar, least.bar, Ratio("c", "x", "y").bar) == ("<= 2", ">= 2", "")


def test_a_ratio_is_left_out_where_a_part_of_it_was_not_measured():
    assert table.ratios({"x": 1.0}, (Ratio("a", "x", "y"),)) == {}


def test_variants_run_in_turn_there_and_back_on_new_batches_and_the_long_ones_less_often():
    order = []

    def writes(name):
        return lambda batch, precision: lambda: order.append((name, batch.ids))

    short = [Variant(name, "fp32", writes(name), 3) for name in "ab"]
    batches = make_batches(4, num_examples=2)
    timings = interleaved([*short, Variant("c", "fp32", writes("c"), 1, long=True)], batches, lambda text: None)
    warm, timed = order[:3], order[3:]
    assert warm == [("a", ("0", "1")), ("b", ("0", "1")), ("c", ("0",))]
    assert [name for name, _ in timed] == ["a", "b", "b", "a", "a", "b", "c"]
    assert [ids for _, ids in timed] == [("2", "3")] * 2 + [("4", "5")] * 2 + [("6", "7")] * 3
    assert [t.batch for t in timings] == [[1, 2, 3], [1, 2, 3], [3]]
    assert [len(t.cpu) for t in timings] == [3, 3, 1]


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_precision_is_set_for_its_step_alone(name, batch):
    seen = []
    look = Variant("look", name, lambda batch, precision: lambda: seen.append(torch.get_float32_matmul_precision()), 1)
    before = torch.get_float32_matmul_precision()
    look.step(batch)()
    assert seen == [PRECISIONS[name].float32_products]
    assert torch.get_float32_matmul_precision() == before


def test_lengths_are_those_of_the_description():
    words, regions = zip(*flops.lengths_of(make_batch(200, seed=0)))
    assert min(words) >= 8
    assert max(words) <= made.MAX_WORDS
    assert 26 < sum(words) / 200 < 31  # a log-normal's mean lies above its median of 27
    assert min(regions) >= 36
    assert 60 < sum(regions) / 200 < 76
    assert max(regions) <= made.MAX_REGIONS


def test_memory_of_a_step_is_that_of_what_it_holds():
    size = 2**28
    before = memory.resident()
    memory.forget_peak()
    with mmap.mmap(-1, size) as held:  # not by way of the C library, which may hand out pages that this process holds already
        for page in range(0, size, mmap.PAGESIZE):
            held[page] = 1
        assert memory.peak() - before > 0.9 * size


def test_the_machine_is_described():
    found = machine.describe()
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    json.dumps(found)


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(benchmarks.__path__)])
def test_every_module_is_imported(name):
    importlib.import_module(f"benchmarks.{name}")


def test_every_step_but_torchdistill_s_runs_without_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdistill", None)
    for variant in variants.step_variants(TINY, "fp32", quick=False):
        if variant.precision == "fp32" and variant.name not in ("matmul", table.TORCHDISTILL):
            variant.step(make_batch(TINY.num_examples, seed=1))()


def test_whole_runs_fill_a_cache_and_learn_from_it(monkeypatch):
    monkeypatch.setattr(epochs, "NUM_EPOCHS", 1)
    for run in (epochs.naive_run(TINY), epochs.cached_run(TINY, "fp32")):
        run(make_batches(1, TINY.num_examples))


def test_what_a_cache_costs_is_measured(monkeypatch):
    monkeypatch.setattr(cache, "NUM_ROWS", 100)
    look_up, off, exact = (found["value"] for found in cache.quantities(TINY.num_examples))
    assert look_up > 0
    assert 0 < off < 1e-3 * exact


def test_facts_of_scale_are_found(monkeypatch):
    monkeypatch.setattr(scale, "python_says", lambda *words: json.dumps({"peak": 1000}))
    (found,) = scale.measure([2 * scale.BATCH_SIZE])
    assert (found["examples"], found["peak"]) == (64, 1000)
    assert all(value > 0 for value in found.values())


def test_an_evaluation_of_which_memory_is_measured_runs():
    assert isinstance(evaluation.extra_memory(2), int)


def test_region_features_are_read_both_ways(monkeypatch, tmp_path):
    monkeypatch.setattr(regions, "FEATURES", 8)
    monkeypatch.setattr(regions, "timed", lambda read: read() or 1.0)
    assert regions.measure(tmp_path / "store", "fp32", num_regions=3, num_images=2 * regions.BATCH, rounds=1)["share"] == 1.0


@pytest.mark.parametrize("module", [table, timing, scale, theirs], ids=lambda m: m.__name__)
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0
