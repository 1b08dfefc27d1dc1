"""What pages say of results is what the committed files of the studies say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from msd_framework.analysis.study.tables import BLOCK, rebuilt_page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from compare_studies import moved  # noqa: E402

PAGES = [
    path
    for path in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("projects/*/README.md")]
    if BLOCK.search(path.read_text())
]


def summary(project: str) -> Any:
    return json.loads((ROOT / "projects" / project / "results" / "summary.json").read_text())


def difference(project: str, method: str, baseline: str) -> Any:
    """The comparison of two methods in a study's main metric."""
    study = summary(project)
    metric = next(iter(study["table"][0]["metrics"]))
    for found in study["differences"]:
        if (found["method"], found["baseline"], found["metric"]) == (method, baseline, metric):
            return found
    raise AssertionError(f"{project} does not compare {method} with {baseline}")


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
    assert sentence.startswith("msd: test/auroc is 0.8")
