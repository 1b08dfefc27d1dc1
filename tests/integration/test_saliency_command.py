"""``msd saliency``: tables, pictures, examples and the truth of a made world, from one command."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from msd_framework.analysis.saliency.scores import run_saliency
from msd_framework.cli import main
from msd_framework.errors import ConfigError, DataError
from tests.integration.test_docs import ROOT, blocks
from tests.integration.test_run import QUICKSTART, student, teacher, words, world  # noqa: F401  (fixtures)

ALL = ["drop", "drop tvd", "drop mse", "keep", "keep tvd", "keep mse", "loss", "gap", "shapley", "shapley loss"]
LOOKING = ["gradient_x_input", "attention_rollout"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def found(world, teacher, tmp_path_factory):  # noqa: F811
    """The folder and the summary of all scores on the test split."""
    folder = tmp_path_factory.mktemp("saliency")
    options = ["split=test", "examples=3", "resamples=20", f"folder={folder}"]
    return folder, run_saliency(QUICKSTART / "teacher.yaml", words(world, teacher, *options))["test"]


def test_all_that_is_promised_is_written(found):
    folder, summary = found
    names = {p.name for p in folder.iterdir()}
    kinds = {f"saliency_test_seen.{s}" for s in ("json", "csv", "md", "png")}
    assert names == {*kinds, "scores_test_seen.csv", "examples_test_seen.html"}
    assert json.loads((folder / "saliency_test_seen.json").read_text())["scores"].keys() == summary["scores"].keys()
    assert list(summary["scores"]) == [*ALL, *LOOKING]
    assert {r["class"] for r in rows(folder / "saliency_test_seen.csv")} == {"all", "benign", "hateful"}


def test_the_table_is_that_of_the_scores_that_were_written(found):
    folder, summary = found
    written = rows(folder / "scores_test_seen.csv")
    assert len(written) == summary["examples"] == 41
    for label in [*ALL, *LOOKING]:
        image, text = ([float(r[f"{label}/{m}"]) for r in written] for m in ("image", "text"))
        table = summary["scores"][label]["classes"]["all"]
        assert table["image"]["mean"] == pytest.approx(sum(image) / 41, rel=1e-6)
        assert table["image"]["most_salient"] + table["text"]["most_salient"] == pytest.approx(1)
        assert len(image) == len(text)


def test_how_well_a_score_tells_what_decides_an_example_is_sklearns_area(found):
    folder, summary = found
    written = rows(folder / "scores_test_seen.csv")
    for kind, needless in {"image": "text", "text": "image"}.items():
        wanted = roc_auc_score([r["decided_by"] == kind for r in written], [-float(r[f"drop/{needless}"]) for r in written])
        truth = summary["scores"]["drop"]["truth"][kind]
        assert truth["value"] == pytest.approx(wanted, abs=1e-9)  # nine digits are all that float32 has
        assert truth["low"] <= truth["value"] <= truth["high"]


def test_examples_are_those_with_the_largest_scores_and_the_gallery_shows_their_pictures(found):
    folder, summary = found
    written = {r["id"]: r for r in rows(folder / "scores_test_seen.csv")}
    first = summary["picked"]["text"][0]
    assert summary["picked_by"] == "drop"
    assert float(written[first["id"]]["drop/image"]) == min(float(r["drop/image"]) for r in written.values())
    assert {len(examples) for examples in summary["picked"].values()} == {3}
    page = (folder / "examples_test_seen.html").read_text()
    assert page.count("data:image/png;base64,") == 9
    assert first["facts"]["decided_by"] in ("image", "text", "both")


def test_shapley_values_start_from_the_shares_of_the_training_targets(world, teacher, found, tmp_path):  # noqa: F811
    labels = [json.loads(line)["label"] for line in (world / "train.jsonl").read_text().splitlines()]
    prior = [(labels.count(c) + 1) / (len(labels) + 2) for c in (0, 1)]
    options = [f"folder={tmp_path}", "split=test", "resamples=0", f"scores=[{{type: shapley, prior: {prior}}}]"]
    (told,) = run_saliency(QUICKSTART / "teacher.yaml", words(world, teacher, *options))["test"]["scores"].values()
    wanted = found[1]["scores"]["shapley"]["classes"]["all"]
    for m in ("image", "text"):
        assert told["classes"]["all"][m]["mean"] == pytest.approx(wanted[m]["mean"], rel=1e-6)


def test_the_runs_own_folder_is_left_alone(world, teacher, tmp_path):  # noqa: F811
    before = {p: p.stat().st_mtime_ns for p in teacher.rglob("*")}
    run_saliency(QUICKSTART / "teacher.yaml", words(world, teacher, f"folder={tmp_path}", "scores=[keep]", "resamples=0"))
    assert {p: p.stat().st_mtime_ns for p in teacher.rglob("*")} == before
    assert not list(tmp_path.glob(".*"))


def test_a_cached_teacher_gives_the_same_scores_and_cannot_be_looked_at(world, teacher, found, tmp_path):  # noqa: F811
    cached = [
        f"teacher.cache_dir={tmp_path / 'caches'}",
        "teacher.cache=true",
        f"folder={tmp_path / 'out'}",
        "split=test",
        "resamples=0",
    ]
    run = student(world, teacher, tmp_path / "student", *cached)
    scores = run_saliency(QUICKSTART / "msd.yaml", run)["test"]["scores"]
    assert list(scores) == ALL
    for label in ALL:
        for m, told in scores[label]["classes"]["all"].items():
            wanted = found[1]["scores"][label]["classes"]["all"][m]["mean"]
            assert told["mean"] == pytest.approx(wanted, rel=1e-2, abs=1e-3)  # answers are kept in float16
    assert not (tmp_path / "student").exists()
    with pytest.raises(ConfigError, match=r"scores\[0\]: attention_rollout looks at the teacher itself, of which a teacher cache"):
        run_saliency(QUICKSTART / "msd.yaml", [*run, "scores=[attention_rollout]"])


def test_a_teacher_without_one_transformer_for_all_is_not_looked_at(tiny_config, tiny_teacher, tmp_path):
    run = [f"env.save_dir={tiny_teacher}", f"folder={tmp_path}", "split=[validation, test]", "resamples=0"]
    found = run_saliency(tiny_config, run)
    assert list(found) == ["validation", "test"]
    assert list(found["test"]["scores"]) == ALL
    assert "truth" not in found["test"]["scores"]["drop"]
    with pytest.raises(ConfigError, match="looks inside one transformer for all modalities, and the teacher is a late_fusion"):
        run_saliency(tiny_config, [*run, "scores=[gradient_x_input]"])


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("split=valdation", "split: wanted train, validation, test, got 'valdation'. Did you mean 'validation'"),
        ("split=[]", "split: wanted at least one of train, validation, test, got none"),
        ("data.test=null", "split: data.test names no split of the data set"),
        ("examples=0", "examples: must be at least 1, got 0"),
        ("resamples=-1", "resamples: must be at least 0, got -1"),
        ("scores=[drop, drop]", "scores: drop is listed twice"),
        ("scores=[dorp]", "no saliency is named 'dorp'. Did you mean 'drop'"),
        ("scores=[{type: drop, distance: bernoulli_kl}]", "BernoulliKL is for multi_label, soft_target"),
        ("env.save_dir=/nowhere", "holds no teacher, nor a model of the run's own: there is no folder /nowhere"),
    ],
)
def test_a_mistake_is_a_sentence(world, teacher, option, text):  # noqa: F811
    with pytest.raises(ConfigError) as error:
        run_saliency(QUICKSTART / "teacher.yaml", words(world, teacher, "split=test", option))
    assert text in str(error.value)


def test_a_teacher_of_one_modality_has_nothing_to_compare(tiny_config, tmp_path):
    from msd_framework.run import run

    text = ["model={type: unimodal_text, encoder: {type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}}"]
    run(tiny_config, [*text, f"env.save_dir={tmp_path}"])
    with pytest.raises(ConfigError, match="the teacher takes text alone; saliency compares two modalities or more"):
        run_saliency(tiny_config, [*text, f"env.save_dir={tmp_path}"])


def test_a_blind_split_is_refused(tiny_config, tiny_teacher, tiny_world, tmp_path):
    lines = [json.loads(line) for line in (tiny_world / "test_seen.jsonl").read_text().splitlines()]
    blind = "".join(json.dumps({k: v for k, v in line.items() if k != "label"}) + "\n" for line in lines)
    root = shutil.copytree(tiny_world, tmp_path / "world")  # other tests want that split to be missing
    (root / "test_unseen.jsonl").write_text(blind)
    words = [f"env.save_dir={tiny_teacher}", f"folder={tmp_path}", f"data.dataset.root={root}"]
    with pytest.raises(DataError, match="no example of the split for test has a label, as in a blind test"):
        run_saliency(tiny_config, [*words, "data.test=test_unseen", "split=test"])


def test_the_page_can_be_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "saliency.md"
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert len(commands) == 4
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
    assert "Saliency of quickstart_teacher" in capsys.readouterr().out
    (code,) = blocks(page, "python")
    exec(code, {"__name__": "page"})  # noqa: S102
