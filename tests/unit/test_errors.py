"""Sentences about mistakes, and the nearest name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.errors import CheckpointError, ConfigError, DataError, MSDError, Problem, TrainingError, did_you_mean, nearest


@pytest.mark.parametrize("error", [ConfigError("a"), DataError("a"), CheckpointError("a"), TrainingError("a")])
def test_every_mistake_is_one_that_the_tools_print(error):
    assert isinstance(error, MSDError)
    assert str(error) == "a"


def test_a_config_error_keeps_each_problem_and_prints_a_line_each():
    error = ConfigError(Problem("a.b", "is wrong."), "something else is wrong.")
    assert [p.path for p in error.problems] == ["a.b", ""]
    assert str(error) == "a.b: is wrong.\nsomething else is wrong."


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("temprature", ["temperature", "weight"], "temperature"),
        ("VisualBERT", ["visual_bert", "late_fusion"], "visual_bert"),
        ("AUROC", ["auroc"], "auroc"),
        ("xyz", ["temperature"], ""),
        ("a", [], ""),
    ],
)
def test_the_nearest_name_is_found_whatever_its_capitals(name, options, found):
    assert nearest(name, options) == found
    assert did_you_mean(name, options) == (f" Did you mean {found!r}?" if found else "")


@given(st.lists(st.text(min_size=1), min_size=1, unique_by=str.casefold), st.data())
def test_a_name_that_is_there_is_its_own_nearest(options, data):
    name = data.draw(st.sampled_from(options))
    assert nearest(name, options) == name
