"""What pages say of results is what the committed files of the studies say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from msd_framework.analysis.study.report import number
from msd_framework.analysis.study.tables import BLOCK, rebuilt_page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from compare_studies import moved  # noqa: E402

MARKDOWN = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("projects/*/README.md")]
PAGES = [path for path in MARKDOWN if BLOCK.search(path.read_text(encoding="utf-8"))]


FILES = {"utd_mhad": "evidence.json"}  # of studies beside others of their project


def summary(project: str) -> Any:
    return json.loads((ROOT / "projects" / project / "results" / FILES.get(project, "summary.json")).read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_table_is_that_of_the_files_that_it_names(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert rebuilt_page(page.read_text(), page.name) == page.read_text(), f"run `msd tables pages=[{page.relative_to(ROOT)}]`"


def test_a_mean_that_moves_out_of_its_interval_is_noticed() -> None:
    study = summary("quickstart")
    assert list(moved(study, study)) == []
    worse = json.loads(json.dumps(study))
    for row in worse["table"]:
        if row["name"] == "msd":
            row["metrics"]["test/auroc"]["mean"] -= 0.1
    (sentence,) = moved(worse, study)
    assert sentence.startswith("msd: test/auroc is ")


def interval(project: str, method: str, baseline: str, metric: str) -> str:
    """A difference as sentences have it: `+1.2 (-0.4 to 3.0)`."""
    for found in summary(project)["differences"]:
        if (found["method"], found["baseline"], found["metric"]) == (method, baseline, metric):
            mean, low, high = (number(metric, found[key]) for key in ("mean", "low", "high"))
            return f"{'+' if found['mean'] > 0 else ''}{mean} ({low} to {high})"
    raise AssertionError(f"{project} does not compare {method} with {baseline} in {metric}")


CLAIMS = [
    ("README.md", "MSD is better than tuned KD by {}", ("utd_mhad", "msd", "kd", "test/accuracy")),
    ("README.md", "recombined rows by {}", ("utd_mhad", "recombined", "kd", "test/accuracy")),
    ("docs/does_it_help.md", "MSD - KD is {}", ("utd_mhad", "msd", "kd", "test/accuracy")),
    ("docs/does_it_help.md", "recombined - KD {}", ("utd_mhad", "recombined", "kd", "test/accuracy")),
    ("docs/does_it_help.md", "both - KD {}", ("utd_mhad", "msd_recombined", "kd", "test/accuracy")),
    ("docs/does_it_help.md", "labels on each modality - KD {}", ("utd_mhad", "labels_on_views", "kd", "test/accuracy")),
    ("docs/does_it_help.md", "MSD - KD is {}", ("utd_mhad", "msd", "kd", "test/skeleton/accuracy")),
    ("docs/does_it_help.md", "(`task_views`) - KD {}", ("utd_mhad", "labels_on_views", "kd", "test/skeleton/accuracy")),
    ("README.md", "MSD is better than tuned KD by {}", ("quickstart", "msd", "kd_tuned", "test/auroc")),
    ("README.md", "recombined rows by {}", ("quickstart", "recombined", "kd_tuned", "test/auroc")),
    ("README.md", "both together by {}", ("quickstart", "msd_recombined", "kd_tuned", "test/auroc")),
    ("README.md", "better than MSD by {}", ("quickstart", "msd_recombined", "msd", "test/auroc")),
    ("README.md", "the recombined student is better than KD by {}", ("emoji", "recombined", "kd", "test/text/accuracy")),
    ("README.md", "one that learns from all views by {}", ("emoji", "msd_recombined", "kd", "test/text/accuracy")),
    ("docs/does_it_help.md", "MSD - KD is {}", ("emoji", "msd", "kd", "test/accuracy")),
    ("docs/does_it_help.md", "recombined - KD {}", ("emoji", "recombined", "kd", "test/accuracy")),
    ("docs/does_it_help.md", "both - KD {}", ("emoji", "msd_recombined", "kd", "test/accuracy")),
    ("docs/does_it_help.md", "recombined - KD is {}", ("emoji", "recombined", "kd", "test/text/accuracy")),
    ("docs/does_it_help.md", "both - KD {}", ("emoji", "msd_recombined", "kd", "test/text/accuracy")),
]


@pytest.mark.parametrize(("page", "sentence", "compared"), CLAIMS)
def test_each_claim_has_the_numbers_of_its_study(page: str, sentence: str, compared: tuple[str, str, str, str]) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split()).replace("points (", "(")
    assert sentence.format(interval(*compared)) in text or sentence.format(interval(*compared).removeprefix("+")) in text


def test_nothing_is_said_to_beat_tuned_distillation_on_emoji_that_does_not() -> None:
    study = {(d["method"], d["metric"]): d for d in summary("emoji")["differences"] if d["baseline"] == "kd"}
    methods = ("msd", "recombined", "msd_recombined")
    assert all(study[method, "test/accuracy"]["low"] <= 0 for method in methods)  # else README must say so
    assert all(study[method, "test/text/accuracy"]["p_holm"] < 0.05 for method in methods[1:])
    assert "On the full input nothing is shown to beat tuned KD" in (ROOT / "README.md").read_text()


def test_what_beats_tuned_distillation_on_utd_mhad_does_so_after_correction_and_labels_do_not() -> None:
    study = {(d["method"], d["metric"]): d for d in summary("utd_mhad")["differences"] if d["baseline"] == "kd"}
    for method in ("msd", "recombined", "msd_recombined"):
        assert study[method, "test/accuracy"]["low"] > 0
        assert study[method, "test/accuracy"]["p_holm"] < 0.05
    assert study["labels_on_views", "test/accuracy"]["low"] < 0 < study["labels_on_views", "test/accuracy"]["high"]
