"""Curves of trained models where a share of the examples lacks a modality."""

from __future__ import annotations

import json
import shutil

import pytest

from msd_framework.analysis.missing import NUM_DRAWS, draw, measured
from msd_framework.cli import main
from msd_framework.errors import DataError
from msd_framework.run import run


def test_curves_begin_at_the_full_input_and_end_at_the_view_without_the_modality(tiny_config, tmp_path, capsys):
    folders = [tmp_path / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        run(tiny_config, [f"env.save_dir={folder}", f"seed={seed}", "evaluation.views=[full, image, text]"])
    before = sorted(folders[0].iterdir())
    words = [f"runs=[{folders[0]}, {folders[1]}]", "points=3", f"folder={tmp_path / 'out'}"]
    assert main(["missing", *words]) == 0
    assert "lack a modality" in capsys.readouterr().out
    assert sorted(folders[0].iterdir()) == before
    found = json.loads((tmp_path / "out" / "missing.json").read_text())
    assert found["shares"] == [0, 0.5, 1]
    assert list(found["missing"]) == ["image", "text", "any one"]
    for folder in folders:
        metrics = json.loads((folder / "report.json").read_text())["metrics"]
        for lacking, left in (("image", "text"), ("text", "image")):
            curve = found["missing"][lacking][folder.name]
            assert curve[0] == pytest.approx(metrics["test/accuracy"])
            assert curve[2] == pytest.approx(metrics[f"test/{left}/accuracy"])
    one = measured(str(folders[0]), "test", None)
    # which examples lack it is decided by their ids, so a curve that is made again, or a part of it, is the same
    assert one.at("text", 0.5) == found["missing"]["text"]["first"][1]


def test_what_lacks_a_modality_at_a_share_lacks_it_at_all_larger_ones_and_is_as_many_as_it_says():
    draws = [draw(f"{i:05}", number)[0] for i in range(2000) for number in range(NUM_DRAWS)]
    for share in (0.1, 0.5, 0.9):
        assert sum(x < share for x in draws) / len(draws) == pytest.approx(share, abs=0.015)  # four standard errors
    assert draw("a", 0) == draw("a", 0) != draw("a", 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["runs=[nowhere]"], "runs: there is no finished run in nowhere, which has no config.yaml"),
        (["runs=[]"], "runs: names no run"),
        (["runs=[a/x, b/x]"], "runs: two of the folders have the same last part"),
        (["runs=[x]", "points=1"], "points: wanted at least 2, got 1"),
        (["runs=[x]", "split=train"], "split: wanted validation or test, got 'train'"),
        (["points=3"], "runs: must be given"),
        (
            ["runs=[RUN]", "metric=map"],
            "metric: map does not fit the data set's single_label targets. Those that do: accuracy, auroc",
        ),
        (["runs=[RUN]", "metric=vqa_accuracy"], "metric: vqa_accuracy does not fit the data set's single_label targets."),
        (["runs=[RUN]", "metric=acuracy"], "metric: no metric is named 'acuracy'. Did you mean 'accuracy'?"),
    ],
)
def test_mistakes_are_sentences(words, sentence, tiny_teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["missing", *(word.replace("RUN", str(tiny_teacher)) for word in words)]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_blind_test_is_no_curve(tiny_config, tiny_world, tmp_path):
    world = tmp_path / "world"
    shutil.copytree(tiny_world, world)
    run(tiny_config, [f"env.save_dir={tmp_path / 'run'}", f"data.dataset.root={world}"])
    rows = [json.loads(line) for line in (world / "test_seen.jsonl").read_text().splitlines()]
    lines = [json.dumps({key: value for key, value in row.items() if key != "label"}) for row in rows]
    (world / "test_seen.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="has a label, as in a blind test"):
        measured(str(tmp_path / "run"), "test", None)
