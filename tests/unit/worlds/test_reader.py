"""What a reader who mistakes nothing has: against the sign rules of the made memes, by hand, and scikit-learn's ranking."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from msd_framework.engine.evaluation import Predictions, measure
from msd_framework.registry import METRICS
from msd_framework.worlds import make_world
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


def exact(world, modalities=BOTH, names=()):
    """The reader's metrics, a batch of all rows."""
    reader, rows = ExactReader.of(world, "test_seen", modalities, names), rows_of(world)
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
    make_world("snli_ve", tmp_path / "entailed", sizes={"train": 1, "dev": 1, "test": 1})
    assert ExactReader.of(str(tmp_path / "entailed"), "test", BOTH, ()) is None  # of three classes no posteriors are written
    assert ExactReader.of(str(tmp_path), "test", BOTH, ()) is None
    assert ExactReader.of(None, "test", BOTH, ()) is None
    assert ExactReader.of(world, "test_seen", ("smell", "text"), ()) is None
