"""The file of predictions: a row an example, written as they come."""

from __future__ import annotations

import csv
import io

import pytest
import torch

from msd_framework import report
from msd_framework.data.base import Example, SubmissionFile
from msd_framework.engine import prediction_table
from msd_framework.engine.evaluation import Predictions
from msd_framework.engine.prediction_table import PredictionTable
from msd_framework.structures import DatasetInfo

DATASET = [
    Example("08", {}, 1, "f:1", {"decided_by": "text"}),
    Example("9", {}, 0, "f:2"),
    Example("a,b", {}, None, "f:3", {"source": "here", "decided_by": "both"}),
    Example("left out", {}, 0, "f:4", {"decided_by": "image"}),
    Example("é", {}, 0, "f:5"),
]
HALF = torch.zeros(4, 2)
SUBMISSION = SubmissionFile("submission.json", "[", ", ", "]")


def written(folder, predictions: Predictions, info: DatasetInfo, at_once: int = 1024) -> str:
    table = PredictionTable(DATASET, info, list(predictions.logits))  # type: ignore[arg-type]
    with report.prediction_files(folder / "predictions_test.csv", table.header, None) as write:
        for rows in torch.arange(len(predictions.places)).split(at_once):
            for row in table.rows(predictions.at(rows)):
                write(row, "")
    assert [f.name for f in folder.iterdir()] == ["predictions_test.csv"]
    return (folder / "predictions_test.csv").read_bytes().decode()


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 1024])
def test_a_row_has_the_id_what_is_kept_the_label_and_each_views_prediction(tmp_path, at_once):
    logits = {"full": torch.tensor([0.0, 1.0, -1.0, 0.0])[:, None] * torch.tensor([0.0, 3.0]).exp(), "image": HALF}
    info = DatasetInfo({}, 2, "single_label", ("benign", "hateful"))
    found = Predictions(torch.tensor([0, 1, 2, 4]), torch.tensor([1, 0, -100, 0]), logits)
    first, *found = written(tmp_path, found, info, at_once).split("\r\n")
    assert first == "id,decided_by,source,label,prediction,benign,hateful,image/prediction,image/benign,image/hateful"
    names = ["benign", "hateful", "benign", "benign"]
    p = [f"{n},{a:.6f},{b:.6f},benign,0.500000,0.500000" for n, (a, b) in zip(names, logits["full"].softmax(1).tolist())]
    assert found == [f"08,text,,1,{p[0]}", f"9,,,0,{p[1]}", f'"a,b",both,here,,{p[2]}', f"é,,,0,{p[3]}", ""]


def test_several_labels_are_written_side_by_side_and_classes_without_names_are_numbered(tmp_path):
    targets = torch.tensor([[1.0, 0.0], [0.5, 1.0], [float("nan")] * 2, [0.0, 0.0]])
    logits = torch.tensor([[1.0, -1.0], [0.5, 0.5], [-1.0, -1.0], [0.0, 2.0]])
    predictions = Predictions(torch.tensor([0, 1, 2, 4]), targets, {"full": logits})
    rows = list(csv.DictReader(io.StringIO(written(tmp_path, predictions, DatasetInfo({}, 2, "multi_label")))))
    assert list(rows[0]) == ["id", "decided_by", "source", "label", "prediction", "0", "1"]
    assert [r["label"] for r in rows] == ["1 0", "0.5 1", "", "0 0"]
    assert [r["prediction"] for r in rows] == ["0", "0;1", "", "1"]  # above 0.5, as the metrics decide
    assert [r["0"] for r in rows] == [f"{p:.6f}" for p in logits[:, 0].sigmoid().tolist()]


@pytest.mark.parametrize("at_once", [1, 1024])
def test_of_very_many_classes_the_best_is_written(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(prediction_table, "MOST_COLUMNS", 2)
    targets = torch.tensor([[0.0, 0.5, 1.0], [float("nan")] * 3])
    logits = {"full": torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 9.0]]), "image": torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, -1.0]])}
    predictions = Predictions(torch.tensor([0, 4]), targets, logits)
    rows = written(tmp_path, predictions, DatasetInfo({}, 3, "soft_target", ("no", "red", "a b")), at_once).split("\r\n")
    assert rows[0] == "id,decided_by,source,label,prediction,probability,image/prediction,image/probability"
    assert rows[1] == "08,text,,red:0.5 a b:1,red,0.880797,no,0.731059"
    assert rows[2] == "é,,,,a b,0.999877,no,0.500000"


@pytest.mark.parametrize(("entries", "text"), [(["1"], "[1]"), (["1", "2", "3"], "[1, 2, 3]")])
def test_what_a_server_takes_is_written_beside_it(tmp_path, entries, text):
    with report.prediction_files(tmp_path / "predictions_test.csv", ["id"], SUBMISSION) as write:
        for entry in entries:
            write([entry], entry)
            assert not (tmp_path / "submission.json").exists()
    assert (tmp_path / "submission.json").read_text() == text
    assert (tmp_path / "predictions_test.csv").read_text().split() == ["id", *entries]


def test_what_goes_wrong_on_the_way_leaves_no_half_a_file(tmp_path):
    def fails() -> None:
        with report.prediction_files(tmp_path / "predictions_test.csv", ["id"], SUBMISSION) as write:
            write(["1"], "1")
            raise ValueError("gone")

    with pytest.raises(ValueError, match="gone"):
        fails()
    assert list(tmp_path.iterdir()) == []
