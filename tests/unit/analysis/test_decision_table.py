"""The decision table: which rows a run gets, what it shows of them, and that page, table and sources say the same."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.analysis.advise import advice
from msd_framework.analysis.decision_table import FEW, ROWS, USUAL, as_markdown

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "does_it_help.md").read_text(encoding="utf-8")
TELLS = {"alone": {"image/auroc": 0.74, "image/accuracy": 0.67, "text/auroc": 0.51}, "chance": {"auroc": 0.5, "accuracy": 0.5}}

# the changes to USUAL, a run of 400 labelled rows, that give a row; and a neighbour that does not get it
CASES = {
    "few_labels": ({"teacher_rows": 3000}, {"teacher_rows": 400}),
    "unlabelled": ({"rows": 3000}, {"rows": 800}),
    "all_labels": ({"rows": FEW + 1, "labelled": FEW + 1}, {"rows": FEW, "labelled": FEW}),
    "missing_in_use": ({"missing": True}, {"missing": True, "student": ("image",)}),
    "teacher_kept_all": ({"teacher_lost_modalities": False}, {"teacher_lost_modalities": None}),
    "teacher_guesses": (TELLS, {**TELLS, "alone": {**TELLS["alone"], "text/accuracy": 0.6}}),
    "other_modalities": ({"student": ("image",)}, {"student": ("image", "text")}),
    "saliency_weights": ({"weighting": "instance"}, {"weighting": "learned"}),
}


def names(**changes) -> list[str]:
    return [row.name for row in advice(replace(USUAL, **changes))]


def test_each_row_has_a_case():
    assert list(CASES) == [row.name for row in ROWS]


@pytest.mark.parametrize("name", CASES)
def test_a_row_applies_to_its_case_and_not_to_the_neighbour(name):
    case, neighbour = CASES[name]
    assert name in names(**case)
    assert name not in names(**neighbour)


def test_weights_by_saliency_are_not_dissuaded_from_where_the_teacher_guesses():
    assert "saliency_weights" not in names(weighting="instance", **TELLS)


MODALITIES = st.sets(st.sampled_from(["audio", "image", "text"]), min_size=1).map(sorted).map(tuple)


@given(st.integers(1, 5000), st.floats(0, 1), st.none() | st.integers(1, 5000), MODALITIES, MODALITIES)
def test_one_of_the_first_three_rows_applies_where_two_modalities_are_shared_or_labels_are_not_few(
    rows, share, teacher_rows, student, teacher
):
    run = replace(USUAL, rows=rows, labelled=round(share * rows), teacher_rows=teacher_rows, student=student, teacher=teacher)
    given = {"few_labels", "unlabelled", "all_labels"} & {row.name for row in advice(run)}
    is_few = run.has_few and run.unlabelled <= run.labelled
    assert len(given) == (0 if is_few and len(run.shared) < 2 else 1)


@pytest.mark.parametrize(
    ("name", "student", "views"),
    [
        ("few_labels", ("depth", "inertial"), ["full", "depth", "inertial", "depth+inertial*"]),
        ("few_labels", ("a", "b", "c"), ["full", "a", "b", "c", "a+b*+c*"]),
        ("other_modalities", ("depth",), [{"teacher": "full", "student": "depth"}, "depth"]),
        ("other_modalities", ("depth", "inertial"), ["full", "depth", "inertial"]),
        ("other_modalities", ("sound",), [{"teacher": "full", "student": "sound"}]),
    ],
)
def test_lines_are_of_the_modalities_of_the_run(name, student, views):
    (row,) = [row for row in ROWS if row.name == name]
    run = replace(USUAL, student=student, teacher=("a", "b", "c", "depth", "inertial"))
    assert yaml.safe_load(row.yaml(run))["objective"]["views"] == views


def test_the_page_shows_the_table():
    assert as_markdown() in PAGE, "put what decision_table.as_markdown() returns into docs/does_it_help.md"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_number_that_was_measured_stands_in_a_page_of_its_source(row):
    pages, headings = "", []
    for source in row.sources:
        path, _, section = source.partition("#")
        text = (ROOT / path).read_text(encoding="utf-8")
        headings += [(section, re.findall(r"^#+ (.*)$", text, re.MULTILINE))]
        pages += text
    for section, titles in headings:
        assert section in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
    known = set(re.findall(r"\d[\d,]*(?:\.\d+)?", pages))
    assert [x for x in re.findall(r"\d[\d,]*\.\d+|\d,\d{3}", row.measured) if x not in known] == []


def test_each_number_of_the_page_s_own_text_stands_in_a_project_that_it_links():
    text = PAGE[PAGE.index("## When it helps") : PAGE.index("## Tune")]
    pages = [(ROOT / "docs" / link).read_text(encoding="utf-8") for link in re.findall(r"\]\((\S+?)\)", text)]
    numbers = re.findall(r"\d[\d,]*\.\d+", text)
    assert len(numbers) > 8
    assert [x for x in numbers if not any(re.search(rf"(?<![\d.]){re.escape(x)}(?!\d)", page) for page in pages)] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_a_row_s_command_names_is_there(row):
    (config,) = re.findall(r"config=(\S+)", row.command)
    assert (ROOT / config).is_file()
