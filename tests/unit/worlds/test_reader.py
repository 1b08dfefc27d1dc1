"""What a reader who mistakes nothing has: against the sign rules of the made memes, by hand, and scikit-learn's ranking."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from msd_framework.data.batches.collate import Collator
from msd_framework.engine.evaluation import Predictions, measure
from msd_framework.registry import DATASETS, METRICS
from msd_framework.structures import DatasetInfo
from msd_framework.worlds import LAYOUTS, make_world
from msd_framework.worlds.reader import ExactReader

VIEWS = ("full", "image", "text")
BOTH = ("image", "text")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memes")
    make_world("hateful_memes", folder, sizes={"train": 1, "dev_seen": 1, "test_seen": 400})
    return str(folder)


def rows_of(world):
    with open(f"{world}/oracle_test_seen.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def memes(names=()):
    return DatasetInfo({"image": "pixels", "text": "tokens"}, 2, "single_label", names)


def exact(world, modalities=BOTH, names=()):
    """The reader's metrics, a batch of all rows."""
    reader, rows = ExactReader.of(world, "test_seen", modalities, memes(names)), rows_of(world)
    targets = torch.tensor([row["label"] for row in rows])
    if names == ("1", "0"):
        targets = 1 - targets
    views = [view for view in VIEWS if view == "full" or set(modalities) == set(BOTH)]
    model = Predictions(torch.arange(len(rows)), targets, {view: torch.zeros(len(rows), 2) for view in views})
    ids = [str(row["id"]) for row in rows]
    assert reader.knows(ids)
    assert not reader.knows([*ids, "stranger"])
    return measure(reader.predict(ids, model), {name: METRICS.build(name) for name in ("accuracy", "auroc")})


def test_it_decides_and_ranks_by_what_each_modality_says(world):
    found, rows = exact(world), rows_of(world)
    y = np.array([row["label"] for row in rows])
    # docs/made_world.md: p(hateful) of a text by its adjective, of an image by its ink and digit
    text = np.array([{"good": 0.154, "pointed": 0.609, "bad": 1.0}[row["adjective"]] for row in rows])
    image = np.array([((0.167, 0.636), (0, 1))[row["ink"] == "red"][row["digit"] >= 5] for row in rows])
    assert found["accuracy"] == found["auroc"] == 1
    for view, p in (("text", text), ("image", image)):
        assert found[f"{view}/accuracy"] == pytest.approx(((p > 0.5) == y).mean())
        assert found[f"{view}/auroc"] == pytest.approx(roc_auc_score(y, p), abs=1e-6)


def test_to_a_model_of_one_modality_the_full_view_is_that_one(world):
    both = exact(world)
    assert exact(world, ("image",))["accuracy"] == both["image/accuracy"]


def test_classes_that_are_named_the_other_way_round_are_read_so(world):
    assert exact(world, names=("0", "1")) == exact(world)
    assert exact(world, names=("1", "0")) == pytest.approx(exact(world), abs=1e-6)  # ranks are added up in float32


def test_there_is_none_where_nothing_is_known(world, tmp_path):
    assert ExactReader.of(str(tmp_path), "test", BOTH, memes()) is None
    assert ExactReader.of(None, "test", BOTH, memes()) is None
    assert ExactReader.of(world, "test_seen", ("smell", "text"), memes()) is None


@pytest.mark.parametrize(
    ("layout", "split", "metric", "more", "bounds"),
    [
        ("snli_ve", "test", "accuracy", {}, {"full": 1.0, "image": 0.5, "text": 0.617}),
        ("vqa_v2", "test2015", "vqa_accuracy", {"min_count": 1}, {"full": 1.0, "image": 0.236, "text": 0.490}),
        ("mm_imdb", "test", "f1_micro", {}, {"full": 0.843, "image": 0.624, "text": 0.651}),  # of 20,000 films
    ],
)
def test_what_is_possible_on_other_layouts_is_what_their_pages_say(layout, split, metric, more, bounds, tmp_path):
    sizes = dict.fromkeys(LAYOUTS[layout].splits, 100) | {split: 600}
    make_world(layout, tmp_path, sizes=sizes)
    options = {"root": str(tmp_path), **more}
    name = LAYOUTS[layout].dataset["type"]
    dataset, info = DATASETS.get(name)(split, **options), DATASETS.get(name).describe(options)
    reader = ExactReader.of(str(tmp_path), split, BOTH, info)
    examples = [dataset[i] for i in range(len(dataset))]
    targets = Collator({}, info).targets(examples)
    model = Predictions(torch.arange(600), targets, {view: torch.zeros(600, info.num_classes) for view in VIEWS})
    found = measure(reader.predict([example.id for example in examples], model), {metric: METRICS.build(metric)})
    for view, bound in bounds.items():
        value = found[metric if view == "full" else f"{view}/{metric}"]
        assert value == pytest.approx(bound, abs=1e-3 if bound == 1 else 0.06)  # three standard errors of 600
