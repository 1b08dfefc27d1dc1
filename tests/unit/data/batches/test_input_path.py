"""From files to tensors on the device: nothing is decoded, padded, encoded or waited for more often than it must be."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from msd_framework.build.data import room_for_decoded
from msd_framework.config.schema import DataConfig, RunConfig
from msd_framework.data.base import Example, MultimodalDataset, Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.lengths import LengthPools, measure_lengths
from msd_framework.data.batches.loader import EvaluationBatches, TrainingBatches
from msd_framework.data.batches.plan import TrainingPlan, stream_seed
from msd_framework.data.batches.reader import DecodedInputs, ExampleReader, Loaded, num_bytes
from msd_framework.data.processors.features import RegionFeatures
from msd_framework.data.processors.images import Pixels
from msd_framework.data.processors.text import Tokenizer
from msd_framework.engine.distributed import World
from msd_framework.engine.optim import CosineSchedule, SGDRecipe
from msd_framework.engine.precision import FP32
from msd_framework.errors import DataError
from msd_framework.maskers.base import Masker
from msd_framework.maskers.modality_dropout import modality_dropout
from msd_framework.models.base import Encoded, Encoder
from msd_framework.models.encoders.region_features import RegionFeatures as RegionEncoder
from msd_framework.models.encoders.text_transformer import TextTransformer
from msd_framework.models.late_fusion import LateFusion
from msd_framework.models.unimodal import UnimodalImage
from msd_framework.objectives.supervised import SupervisedObjective
from msd_framework.registry import MASKERS
from msd_framework.structures import Batch, DatasetInfo, Distinct, ModalityInputs
from msd_framework.testing import made_batch
from tests.runs import tiny_objective, tiny_runner

EXACT = {"rtol": 0, "atol": 1e-12}  # float64: the same sums in another order
INFO = DatasetInfo({"image": "pixels", "text": "tokens"}, 2, "single_label")
IMAGES_OF = ["cat", "dog", "cat", "owl", "dog", "cat", "emu", "owl"]


class Questions(MultimodalDataset):
    """Questions about images, several about each."""

    splits = ("all",)

    def __init__(self, images, broken=()):
        self.images, self.broken = images, broken

    @classmethod
    def describe(cls, options):
        return INFO

    @classmethod
    def check(cls, options, split):
        return []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = "broken" if index in self.broken else self.images[index]
        return Example(str(index), {"image": Path(image), "text": f"question {index}"}, index % 2, f"questions:{index + 1}")


class Counting(Processor):
    """Counts what it loads: a name becomes as many rows as it has letters."""

    kind = "features"

    def __init__(self, random=False):
        self.loads, self.collated, self.random = Counter(), [], random

    def load(self, value):
        self.loads[str(value)] += 1
        if str(value) == "broken":
            raise DataError("wanted another image")
        return torch.tensor([[ord(c), 1.0] for c in str(value)], dtype=torch.float64)

    def collate(self, loaded):
        self.collated.append(len(loaded))
        values = nn.utils.rnn.pad_sequence(list(loaded), batch_first=True)
        return ModalityInputs(values, values[..., 1] > 0)


def reader(images=IMAGES_OF, cache_mb=0.0, **options):
    dataset = Questions(images, options.pop("broken", ()))
    processors = {"image": Counting(**options.pop("image", {})), "text": Counting()}
    return ExampleReader(dataset, processors, DecodedInputs(cache_mb), **options)


def in_order(made, batch_size, workers=0):
    return list(EvaluationBatches(made, Collator(made.processors, INFO), batch_size, workers=workers))


def plan(length, batch_size, num_updates, pools=None, accumulate=1, rank=0, size=1, seed=0):
    return TrainingPlan(length, batch_size, num_updates, accumulate, rank, size, seed, pools)


def lognormal_lengths(number):
    """Lengths of captions: about 27 words, from 8 to 128."""
    return np.random.default_rng(0).lognormal(3.2958, 0.35, number).clip(8, 128).astype(np.int32)


def pad_ratio(made, lengths, updates):
    """Positions of padded batches for each position that holds something."""
    batches = [lengths[list(made.batch(u))] for u in range(updates)]
    return sum(b.max() * len(b) for b in batches) / sum(b.sum() for b in batches)


# Batches of similar length


@pytest.mark.parametrize("num_examples", [3200, 3217, 600])
def test_pooled_batches_of_captions_are_padded_by_less_than_a_fifth_and_others_by_far_more(num_examples):
    lengths, updates = lognormal_lengths(num_examples), 3 * num_examples // 32
    pooled = plan(num_examples, 32, updates, LengthPools(lengths, 16))
    assert pad_ratio(pooled, lengths, updates) < 1.2
    assert pad_ratio(plan(num_examples, 32, updates), lengths, updates) > 1.7


@given(
    length=st.integers(1, 60),
    batch_size=st.integers(1, 40),
    pool=st.integers(1, 5),
    seed=st.integers(0, 3),
    longest=st.integers(1, 9),
)
def test_every_epoch_of_pooled_batches_holds_each_example_once(length, batch_size, pool, seed, longest):
    pools = LengthPools(np.random.default_rng(seed).integers(1, longest + 1, length).astype(np.int32), pool)
    updates = -(-3 * length // batch_size)
    made = plan(length, batch_size, updates, pools, seed=seed)
    stream = [i for u in range(updates) for i in made.batch(u)]
    assert len(stream) == updates * batch_size
    for epoch in range(3):
        assert sorted(stream[epoch * length : (epoch + 1) * length]) == list(range(length))


@given(length=st.integers(1, 30), width=st.integers(1, 4), accumulate=st.integers(1, 3), size=st.integers(1, 3))
def test_processes_and_parts_share_out_the_pooled_batches_of_one_process_wherever_they_start(length, width, accumulate, size):
    batch_size, updates, pools = width * accumulate * size, 6, LengthPools(lognormal_lengths(length), 2)
    alone = plan(length, batch_size, updates, pools)
    batches = [Counter(alone.batch(update)) for update in range(updates)]
    for start in (0, 4):
        ranks = [plan(length, batch_size, updates, pools, accumulate, rank, size) for rank in range(size)]
        for rank in ranks:
            rank.start = start
        parts = [list(rank) for rank in ranks]
        for update in range(start, updates):
            mine = slice((update - start) * accumulate, (update - start + 1) * accumulate)
            assert Counter(i for rank in parts for part in rank[mine] for i in part.indices) == batches[update]


def test_parts_of_a_pooled_batch_are_dealt_short_and_long_examples_alike():
    lengths = lognormal_lengths(960)
    ranks = [list(plan(960, 32, 30, LengthPools(lengths, 10), 2, rank, 2)) for rank in range(2)]
    for update in range(30):
        parts = [lengths[list(part.indices)] for rank in ranks for part in rank[2 * update : 2 * update + 2]]
        batch = np.concatenate(parts)
        totals = [part.sum() for part in parts]
        assert max(totals) - min(totals) <= batch.max() - batch.min()  # as if cards were dealt from a sorted deck


def test_short_and_long_batches_come_in_random_order_and_another_one_each_epoch():
    lengths = np.arange(640, dtype=np.int32)
    made = plan(640, 32, 40, LengthPools(lengths, 20))
    first, second = ([min(made.batch(u)) for u in range(e * 20, e * 20 + 20)] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(0, 640, 32))  # one pool: the epoch sorted and cut
    assert first != sorted(first)
    assert first != second


def test_the_batch_that_two_epochs_share_has_examples_of_one_length_from_both():
    lengths = lognormal_lengths(3216)  # 100 batches and a half
    made = plan(3216, 32, 2010, LengthPools(lengths, 16))
    shared = [lengths[list(made.batch(u))] for u in range(100, 2010, 201)]
    assert np.mean([b.max() * 32 / b.sum() for b in shared]) < 1.4  # 1.9 at random, 1.1 inside an epoch


def test_without_pools_batches_are_what_they_were():
    orders = [torch.randperm(10, generator=torch.Generator().manual_seed(stream_seed(0, e))).tolist() for e in range(2)]
    made = plan(10, 4, 5)
    assert [i for u in range(5) for i in made.batch(u)] == orders[0] + orders[1]


# Lengths


def test_the_length_of_a_text_is_the_number_of_its_tokens():
    tokenizer = Tokenizer(max_length=6)
    tokenizer.fit(["look how many people love you"])
    for text in ("love", "look how many people love you", ""):
        assert tokenizer.length(text) == tokenizer.load(text).shape[1]


def test_the_length_of_region_features_is_read_from_the_head_of_the_file(tmp_path):
    features = RegionFeatures(str(tmp_path), max_regions=4)
    for rows in (3, 4, 7):
        np.save(tmp_path / f"{rows}.npy", np.full((rows, 2), np.nan, np.float32))  # what loading would refuse
        assert features.length(f"{rows}.png") == min(rows, 4)
    np.save(tmp_path / "flat.npy", np.zeros(3, np.float32))
    with pytest.raises(DataError, match=r"flat\.npy: holds an array of shape"):
        features.length("flat.png")


def test_the_length_of_an_image_is_known_without_reading_it():
    assert Pixels(size=4).length("nowhere.png") == 1


def test_a_processor_that_says_nothing_of_lengths_is_measured_by_what_it_makes():
    assert Counting().length("abcde") == 5


@pytest.mark.parametrize("size", [1, 3])
def test_processes_measure_the_lengths_of_a_split_together(size):
    lengths = np.zeros(8, np.int32)
    for rank in range(size):
        lengths[rank::size] = measure_lengths(reader(), rank, size)
    assert lengths.dtype == np.int32
    assert lengths.tolist() == [len("cat") + len("question 0")] * 8


def test_lengths_that_take_long_are_shown_on_a_terminal_and_only_there(monkeypatch, capsys):
    monkeypatch.setattr("msd_framework.data.batches.lengths.PATIENCE", 0.0)
    measure_lengths(reader())
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take a pipe for a terminal
    measure_lengths(reader())
    assert "measuring lengths" in capsys.readouterr().err


def test_an_example_that_cannot_be_measured_stops_or_is_left_out_as_in_reading():
    with pytest.raises(DataError, match="questions:3: wanted another image"):
        measure_lengths(reader(broken=[2]))
    made = reader(broken=[2], skip_errors=True)
    lengths = measure_lengths(made)
    assert lengths[2] == 0
    collator = Collator(made.processors, INFO)
    batches = TrainingBatches(made, collator, plan(8, 4, 2, LengthPools(lengths, 2)))
    assert [len(batch) for batch in batches.starting_at(0)] == [4, 4]
    assert list(made.skipped.values()) == ["questions:3: wanted another image"]


# Decoded once


def test_an_image_of_several_examples_is_decoded_and_kept_once():
    made = reader(cache_mb=1)
    for _ in range(3):
        in_order(made, 3)
    assert set(made.processors["image"].loads.values()) == {1}
    assert sorted(key[-1] for key in made.decoded.kept if key[0] == "image") == ["cat", "dog", "emu", "owl"]


def test_an_image_of_several_examples_of_a_batch_is_decoded_once_even_if_nothing_is_kept():
    made = reader()
    in_order(made, 4)
    assert made.processors["image"].loads == {"cat": 2, "dog": 2, "owl": 2, "emu": 1}
    assert made.decoded.kept == {}


def test_splits_share_what_was_decoded():
    first, second = reader(cache_mb=1), reader()
    second.decoded = first.decoded
    in_order(first, 4)
    in_order(second, 4)
    assert second.processors["image"].loads == {}


def test_only_modalities_with_random_transforms_are_decoded_each_time():
    made = reader(cache_mb=1, image={"random": True})
    for _ in range(2):
        in_order(made, 8)
    assert made.processors["image"].loads == {"cat": 6, "dog": 4, "owl": 4, "emu": 2}
    assert set(made.processors["text"].loads.values()) == {1}


def test_memory_that_is_full_stays_as_it_is():
    made = reader([f"image {i}" for i in range(9)])
    made.processors.pop("text")
    made.decoded.room = 5 * 2000  # four of nearly 2 kB each, and the beginning of a fifth
    for _ in range(3):
        for i in range(9):
            made(i)
    kept = [key[-1] for key in made.decoded.kept]
    assert kept == [f"image {i}" for i in range(len(kept))]
    assert 4 <= len(kept) <= 6
    assert all(count == (1 if name in kept else 3) for name, count in made.processors["image"].loads.items())
    assert made.decoded.room >= 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux how much memory the process holds")
def test_what_is_kept_takes_no_more_memory_than_it_is_said_to():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    room = 40 * 2**20
    kept, before = DecodedInputs(40), resident()
    for i in range(20_000):
        kept.load("text", Counting(), f"some text of usual length, number {i:06}", {})
    assert kept.room > 0
    assert resident() - before <= (room - kept.room) * 1.05


def test_a_slice_is_said_to_take_what_it_was_cut_from():
    assert num_bytes(torch.zeros(1000, dtype=torch.uint8)[:1]) >= 1000
    assert num_bytes({"a": [np.zeros(1000, np.uint8)]}) >= 1000


@pytest.mark.parametrize(("workers", "share"), [(0, 1), (1, 3), (4, 12)])
def test_workers_of_all_splits_share_the_memory_out(workers, share):
    data = DataConfig("hateful_memes", {}, train="train", validation="dev_seen", test="test_seen", workers=workers, cache_mb=120)
    assert room_for_decoded(RunConfig(data, "late_fusion")).room == 120 * 2**20 // share


# Encoded once


def test_a_batch_knows_which_of_its_inputs_are_the_same():
    made = reader()
    (batch,) = in_order(made, 8)
    same = batch.inputs["image"].distinct
    assert same.of.tolist() == [0, 1, 0, 2, 1, 0, 3, 2]
    assert same.first.tolist() == [0, 1, 3, 6]
    assert batch.inputs["text"].distinct is None
    assert made.processors["image"].collated == [4]
    rows = ["".join(chr(int(c)) for c in row[:, 0]) for row in batch.inputs["image"].values]
    assert rows == IMAGES_OF


def test_inputs_with_random_transforms_are_never_the_same():
    (batch,) = in_order(reader(image={"random": True}), 8)
    assert batch.inputs["image"].distinct is None


def test_values_that_have_no_name_are_never_the_same():
    examples = [Loaded(Example(str(i), {"image": [1, 2]}, 0, ""), {"image": torch.ones(1, 2)}, {}) for i in range(2)]
    assert Collator({"image": Counting()}, INFO)(examples).inputs["image"].distinct is None


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_know_it_too(workers):
    first, second = in_order(reader(cache_mb=1), 4, workers)
    assert first.inputs["image"].distinct.of.tolist() == [0, 1, 0, 2]
    assert second.inputs["image"].distinct is None


def test_what_is_known_moves_with_the_batch():
    batch = marked().to(torch.device("meta"))
    assert batch.inputs["image"].distinct.of.device.type == "meta"
    assert batch.with_inputs(batch.inputs).inputs["image"].distinct is not None


def marked(encoded_once=True, rows=(0, 1, 0, 2, 1, 0)) -> Batch:
    """Six texts about three images; float64."""
    batch, of = made_batch(len(rows)), torch.tensor(rows)
    texts, images = batch.inputs["text"], batch.inputs["image"]
    same = Distinct(torch.tensor([rows.index(u) for u in range(max(rows) + 1)]), of)
    repeated = ModalityInputs(images.values[of], images.mask[of], distinct=same if encoded_once else None)
    return batch.with_inputs({"image": repeated, "text": replace(texts, num_special=2)})


def model(encoder=None, dropout=0.0) -> LateFusion:
    torch.manual_seed(0)
    words = TextTransformer(vocab_size=20, hidden_size=8, num_heads=2, num_layers=1, dropout=dropout, attention_dropout=dropout)
    encoders = {"image": encoder or RegionEncoder(feature_size=6, hidden_size=8, dropout=dropout), "text": words}
    return LateFusion(encoders, num_classes=3, hidden_size=8, dropout=dropout).double()


class Normed(Encoder):
    """Has a batch norm."""

    def __init__(self, track=True):
        super().__init__()
        self.norm, self.width = nn.BatchNorm1d(6, track_running_stats=track), 6

    def forward(self, inputs):
        pooled = self.norm(inputs.values.mean(1))
        return Encoded(inputs.values, inputs.mask, pooled)


def rows_seen(encoder):
    seen = []
    encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0].values)))
    return seen


def logits_and_gradients(built, batch, view, masker):
    torch.manual_seed(1)
    built.zero_grad()
    logits = built.forward_views([masker.view(batch, "full").inputs, masker.view(batch, view).inputs]).logits
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    return logits.detach(), [p.grad.clone() for p in built.parameters() if p.grad is not None]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "view"),
    [*product(["attention", "constant", "drop", "noise", "other", "partial", "by_modality"], ["image", "text"]), ("mean", "text")],
)
def test_logits_and_gradients_are_those_of_a_batch_of_which_nothing_is_known(name, view, training):
    spec = {"type": name, "maskers": {"image": "noise", "text": "attention"}} if name == "by_modality" else name
    masker = MASKERS.build(spec, facts={"vocab_size": 20}).train(training)
    masker.fit([marked()])
    built = model().train(training)
    found, wanted = (logits_and_gradients(built, marked(once), view, masker) for once in (True, False))
    torch.testing.assert_close(found, wanted, **EXACT)


def test_every_masker_is_looked_at():
    ours = {name for name in MASKERS.names() if MASKERS.get(name).__module__.startswith("msd_framework.")}
    assert ours == {"attention", "constant", "drop", "mean", "noise", "other", "partial", "by_modality"}


def test_an_image_encoder_runs_once_an_image():
    built = model().eval()
    seen = rows_seen(built.encoders["image"])
    masker = MASKERS.build("drop")
    built.forward_views([masker.view(marked(), name).inputs for name in ("full", "image")])
    assert seen == [3, 3]
    single = UnimodalImage(RegionEncoder(feature_size=6, hidden_size=8), num_classes=3).double().eval()
    seen = rows_seen(single.encoder)
    torch.testing.assert_close(single(marked().inputs).logits, single(marked(False).inputs).logits, **EXACT)
    assert seen == [3, 6]


class EveryOther(Masker):
    """Somebody's own masker, who knows nothing of repeated inputs."""

    def hide(self, modality, inputs):
        rows = torch.arange(len(inputs.mask)) % 2 == 0
        return replace(inputs, mask=inputs.mask & rows[:, None])


def test_a_masker_that_says_nothing_of_repeated_inputs_is_not_trusted_with_them():
    built = model().eval()
    found, wanted = (logits_and_gradients(built, marked(once), "text", EveryOther()) for once in (True, False))
    torch.testing.assert_close(found, wanted, **EXACT)


def test_inputs_that_lose_a_modality_by_chance_are_no_longer_the_same():
    torch.manual_seed(0)
    assert modality_dropout(marked(), 0.4).inputs["image"].distinct is None


def test_same_inputs_lose_the_same_features_in_training():
    built = model(RegionEncoder(feature_size=6, hidden_size=8, dropout=0.5)).train()
    pooled = marked().inputs["image"].once(lambda x: built.encoders["image"](x).pooled)
    assert torch.equal(pooled[0], pooled[2])
    apart = built.encoders["image"](marked(False).inputs["image"]).pooled
    assert not torch.equal(apart[0], apart[2])


@pytest.mark.parametrize(("track", "training", "rows"), [(True, True, 6), (True, False, 3), (False, False, 6)])
def test_a_batch_norm_that_learns_sees_every_row(track, training, rows):
    found, wanted = [], []
    for once, results in ((True, found), (False, wanted)):
        built = model(Normed(track)).train(training)
        seen = rows_seen(built.encoders["image"])
        results += [built(marked(once).inputs).logits.detach(), *built.encoders["image"].norm.buffers()]
        assert seen == [rows if once else 6]
    torch.testing.assert_close(found, wanted, **EXACT)


# Nothing waits for the device


META = torch.device("meta")  # holds no values, so reading one, or a shape that depends on one, is an error


def step_on_a_device_that_cannot_be_read(objective, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no such device
    runner, _ = tiny_runner(world=World(device=META), objective=objective.to(META))
    runner.optimizer = SGDRecipe(0.1).build(objective)  # no fused AdamW on it
    runner.scheduler = CosineSchedule(0.2).build(runner.optimizer, 3)
    return runner.make_update(objective.train(), iter([marked()]), FP32)


def distillation():
    objective = tiny_objective(dropout=0.1)
    objective.teacher.model.to(META)
    return objective


@pytest.mark.parametrize("make", [distillation, lambda: SupervisedObjective(model(dropout=0.1), modality_dropout=0.1)])
def test_nothing_in_a_step_waits_for_the_device(make, monkeypatch):
    assert step_on_a_device_that_cannot_be_read(make(), monkeypatch).loss.device == META


@pytest.mark.parametrize(
    "look",
    [lambda x: x.sum().item(), lambda x: x.cpu(), lambda x: x.tolist(), lambda x: x[x > 0], lambda x: bool(x.any()), torch.nonzero],
)
def test_a_step_that_waits_for_the_device_would_be_found(look, monkeypatch):
    objective = SupervisedObjective(model())
    objective.model.register_forward_hook(lambda *found: look(found[-1].logits) and None)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|Meta"):
        step_on_a_device_that_cannot_be_read(objective, monkeypatch)
