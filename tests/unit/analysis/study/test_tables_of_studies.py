"""Tables of several studies: a column a study, a row a method; pages are rebuilt from the files that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from msd_framework.analysis.study.tables import rebuilt_page, table_of, tables
from msd_framework.commands import tables as command
from msd_framework.errors import ConfigError


def study(folder: Path, name: str, means: dict[str, float], **more: Any) -> str:
    """The summary of a study in accuracy and AUROC, with `msd` compared with `kd`."""
    rows = []
    for method, mean in means.items():
        accuracy, auroc = {"mean": mean, "sd": 0.01}, {"mean": mean + 0.1, "sd": 0.02}
        rows.append({"name": method, "metrics": {"test/accuracy": accuracy, "test/auroc": auroc}})
    compared = {"method": "msd", "baseline": "kd", "metric": "test/accuracy", "mean": 0.05, "low": 0.02, "high": 0.08}
    compared |= {"wins": 9, "losses": 1, "p_holm": 0.01, "verdict": "better"}
    summary = {"name": name, "seeds": list(range(10)), "table": rows, "differences": [compared], **more}
    (folder / name).mkdir()
    (folder / name / "summary.json").write_text(json.dumps(summary))
    return str(folder / name)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    return [study(tmp_path, "cards", {"kd": 0.5, "msd": 0.6}), study(tmp_path, "emoji", {"ce": 0.3, "kd": 0.4})]


def test_a_row_is_a_method_and_a_column_a_study(two: list[str]) -> None:
    table = table_of("means", [two[0], f"{two[1]}/summary.json#test/auroc"])
    assert table.columns == ["", "cards, accuracy", "emoji, auroc"]
    assert table.rows == [["kd", "50.0 ± 1.0", "50.0 ± 2.0"], ["msd", "60.0 ± 1.0", "-"], ["ce", "-", "40.0 ± 2.0"]]


def test_differences_have_their_interval_and_how_many_seeds_were_better(two: list[str]) -> None:
    assert table_of("differences", two[:1]).rows == [["msd - kd", "+5.0 [+2.0, +8.0], 9 of 10"]]


def test_a_page_is_rebuilt_between_its_marks_alone(two: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    block = f"<!-- msd tables means {two[0]} -->\n| old |\n<!-- end of the table -->"
    page.write_text(f"before\n\n{block}\n\nafter\n")
    assert command.main([f"pages=[{page}]"]) == 0
    lines = page.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert "| msd | 60.0 ± 1.0 |" in lines
    assert "| old |" not in lines
    assert rebuilt_page(page.read_text(), "page") == page.read_text()


def test_the_table_is_written_as_markdown_and_json(two: list[str], tmp_path: Path) -> None:
    tables(studies=two, out=str(tmp_path / "table.md"))
    assert (tmp_path / "table.md").read_text().startswith("|  | cards, accuracy | emoji, accuracy |")
    assert json.loads((tmp_path / "table.json").read_text())[1] == {
        "": "msd",
        "cards, accuracy": "60.0 ± 1.0",
        "emoji, accuracy": "-",
    }


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], "studies: give either studies=.* or pages="),
        (["studies=[nowhere.json]"], r"studies: nowhere\.json cannot be read"),
        (["studies=[{broken}]"], r"studies: .*broken\.json is no summary\.json of a study"),
        (
            ["studies=['{0}#test/acuracy']"],
            r"studies: cards has no metric 'test/acuracy', only test/accuracy, test/auroc\. Did you",
        ),
        (["studies=[{0}]", "kind=difference"], r"kind: 'difference' is none of means, differences\. Did you mean 'differences'\?"),
        (["pages=[{broken}]"], r"pages: .*broken\.json has no table between"),
        (["pages=[{broken}]", "kind=differences"], r"kind: is for studies=\[FILE, \.\.\.\]; the marks in a page say"),
        (["pages=[{broken}]", "out=t.md"], r"out: is for studies=\[FILE, \.\.\.\]; the marks in a page say"),
        (["studies=[{0}]", "out=t.json"], r"out: is for Markdown, and the JSON would be written over it: t\.json\. Take"),
    ],
)
def test_a_mistake_is_a_sentence(two: list[str], tmp_path: Path, words: list[str], wanted: str) -> None:
    (tmp_path / "broken.json").write_text('{"name": "x"}')
    with pytest.raises(ConfigError, match=wanted):
        command.main([word.format(*two, broken=tmp_path / "broken.json") for word in words])


@pytest.mark.parametrize("mark", ["means {0}", "differences {0}", "means"])
def test_a_table_without_its_end_swallows_no_text(two: list[str], tmp_path: Path, mark: str) -> None:
    page, whole = tmp_path / "page.md", f"<!-- msd tables means {two[0]} -->\n<!-- end of the table -->\n"
    for text in (
        f"<!-- msd tables {mark.format(*two)} -->\nkept\n{whole}",
        f"{whole}<!-- msd tables {mark.format(*two)} -->\nkept\n",
    ):
        page.write_text(text)
        with pytest.raises(ConfigError, match=r"pages: .*page\.md begins 2 tables, of which 1 name their files and end\. Put"):
            tables(pages=[str(page)])
        assert page.read_text() == text


@pytest.mark.parametrize(
    ("more", "kind", "wanted"),
    [
        ({"table": []}, "means", r"\(ValueError: its table has no metric\)"),
        ({"table": [{"name": "kd", "metrics": {"test/accuracy": {}}}]}, "means", r"\(KeyError: 'mean'\)"),
        ({"table": [{"name": "kd", "metrics": {"test/accuracy": {"mean": 0.5}}}]}, "means", r"\(KeyError: 'sd'\)"),
        ({"differences": [{"metric": "test/accuracy"}]}, "differences", r"\(KeyError: 'wins'\)"),
        ({"differences": None}, "differences", r"\(TypeError: "),
    ],
)
def test_a_summary_without_what_a_table_shows_is_a_sentence(tmp_path: Path, more: dict[str, Any], kind: str, wanted: str) -> None:
    file = study(tmp_path, "cards", {"kd": 0.5}, **more)
    with pytest.raises(ConfigError, match=rf"studies: .*summary\.json is no summary\.json of a study {wanted}"):
        table_of(kind, [file])
