"""The file of predictions: a row an example, written a few rows at a time."""

from types import SimpleNamespace

import pytest
import torch

from msd_framework import run
from msd_framework.data.base import Example
from msd_framework.engine.evaluation import Predictions
from msd_framework.structures import DatasetInfo

DATASET = [
    Example("08", {}, 1, "f:1", {"decided_by": "text"}),
    Example("9", {}, 0, "f:2"),
    Example("a,b", {}, None, "f:3", {"source": "here", "decided_by": "both"}),
    Example("left out", {}, 0, "f:4", {"decided_by": "image"}),
    Example("é", {}, 0, "f:5"),
]
HALF = torch.zeros(4, 2)


def written(folder, predictions: Predictions, info: DatasetInfo) -> str:
    assembly = SimpleNamespace(
        config=SimpleNamespace(data=SimpleNamespace(test="dev/rest"), env=SimpleNamespace(save_dir=str(folder))),
        info=info,
        evaluation={"test": SimpleNamespace(reader=SimpleNamespace(dataset=DATASET))},
    )
    run.write_predictions(assembly, "test", predictions)
    assert [f.name for f in folder.iterdir()] == ["predictions_dev_rest.csv"]
    return (folder / "predictions_dev_rest.csv").read_bytes().decode()


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 1024])
def test_a_row_has_the_id_what_is_kept_the_label_and_each_views_probabilities(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(run, "ROWS", at_once)
    logits = {"full": torch.tensor([0.0, 1.0, -1.0, 0.0])[:, None] * torch.tensor([0.0, 3.0]).exp(), "image": HALF}
    info = DatasetInfo({}, 2, "single_label", ("benign", "hateful"))
    first, *found = written(tmp_path, Predictions(torch.tensor([0, 1, 2, 4]), torch.tensor([1, 0, -100, 0]), logits), info).split(
        "\r\n"
    )
    assert first == "id,decided_by,source,label,benign,hateful,image/benign,image/hateful"
    p = [f"{a:.6f},{b:.6f},0.500000,0.500000" for a, b in logits["full"].softmax(1).tolist()]
    assert found == [f"08,text,,1,{p[0]}", f"9,,,0,{p[1]}", f'"a,b",both,here,,{p[2]}', f"é,,,0,{p[3]}", ""]


def test_several_labels_are_written_side_by_side_and_classes_without_names_are_numbered(tmp_path):
    targets = torch.tensor([[1.0, 0.0], [0.5, 1.0], [float("nan")] * 2, [0.0, 0.0]])
    predictions = Predictions(torch.tensor([0, 1, 2, 4]), targets, {"full": HALF})
    rows = written(tmp_path, predictions, DatasetInfo({}, 2, "multi_label")).split("\r\n")
    assert rows[0] == "id,decided_by,source,label,0,1"
    assert [r.rsplit(",", 3)[1] for r in rows[1:5]] == ["1 0", "0.5 1", "", "0 0"]
    assert all(r.endswith(",0.500000,0.500000") for r in rows[1:5])


@pytest.mark.parametrize("at_once", [1, 1024])
def test_of_very_many_classes_the_best_is_written(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(run, "ROWS", at_once)
    monkeypatch.setattr(run, "MOST_COLUMNS", 2)
    targets = torch.tensor([[0.0, 0.5, 1.0], [float("nan")] * 3])
    logits = {"full": torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 9.0]]), "image": torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, -1.0]])}
    predictions = Predictions(torch.tensor([0, 4]), targets, logits)
    rows = written(tmp_path, predictions, DatasetInfo({}, 3, "soft_target", ("no", "red", "a b"))).split("\r\n")
    assert rows[0] == "id,decided_by,source,label,prediction,probability,image/prediction,image/probability"
    assert rows[1] == "08,text,,red:0.5 a b:1,red,0.880797,no,0.731059"
    assert rows[2] == "é,,,,a b,0.999877,no,0.500000"
