"""Texts from data reach a terminal, a spreadsheet and a page as texts."""

from __future__ import annotations

import csv
import io

import pytest
from rich.table import Table

from msd_framework.cli import main
from msd_framework.escaping import CsvWriter, cell, markdown, visible
from msd_framework.screen import Screen, say

ESCAPES = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "a\rb", "\x7f", "\u202egnp.exe", "\u2066x\u2069", "\u061c"]


@pytest.mark.parametrize("text", ESCAPES)
def test_a_terminal_is_given_nothing_to_obey(text, capsys):
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    Screen().print(table)
    say(text)
    assert main(["run", f"config={text}.yaml"]) == 2
    captured = capsys.readouterr()
    for shown in (captured.out, captured.err, visible(text)):
        assert shown
        assert not any((ord(c) < 32 and c not in "\n\t") or 126 < ord(c) < 160 or c in "\u202e\u2066\u2069\u061c" for c in shown)


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1+cmd", "-2+3+cmd", "@SUM(1)", "\tx", "\rx", "\n=1", "\uff1d1"])
def test_a_spreadsheet_is_given_no_formula(text):
    file = io.StringIO()
    CsvWriter(file).writerow([text])
    ((read,),) = csv.reader(io.StringIO(file.getvalue()))
    assert read[0] == "'"
    assert read[1:] == visible(text)


@pytest.mark.parametrize("value", ["-0.25", "+1e-3", "-inf", "a=b", "", "1-2", -3, 0.5])
def test_numbers_and_plain_texts_stay_as_they_are(value):
    assert cell(value) == value


@pytest.mark.parametrize(
    "text", ["a | b", "<script>x</script>", "[a](javascript:x)", "![](http://x)", "`a`", "a\nb", "&lt;b&gt;", "**x**", "\\|"]
)
def test_a_page_shows_markup_as_text(text):
    shown = markdown(text)
    assert "<" not in shown
    assert "\n" not in shown
    assert "](" not in shown
    for mark in "|`*":
        before = shown.split(mark)[:-1]
        assert all((len(part) - len(part.rstrip("\\"))) % 2 for part in before)
