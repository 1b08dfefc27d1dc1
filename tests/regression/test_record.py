"""Some of the recorded runs, repeated."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.regression.record import RECORDED, ROOT, changes, compare
from tests.regression.recorded_runs import QUICK


def test_runs_end_with_the_recorded_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    how, changed = compare(QUICK, tmp_path)
    assert not changed, how


EDITS: dict[str, Callable[[Any], Any]] = {
    "weights: all of them": lambda run: run["weights"].update({"all of them": "0"}),
    "numbers: report metrics test/auroc": lambda run: run["numbers"].pop("report metrics test/auroc"),
    "predictions: predictions_test_seen.csv": lambda run: run["predictions"].update({"predictions_test_seen.csv": "0"}),
    "files: report.md": lambda run: run["files"].remove("report.md"),
}


@pytest.mark.parametrize("what", EDITS)
def test_each_kind_of_change_is_told(what: str) -> None:
    was = json.loads(RECORDED.read_text())["runs"]["msd"]
    now = copy.deepcopy(was)
    EDITS[what](now)
    assert [change[:2] for change in changes("msd", was, now)] == [("msd", what)]
