"""What is shown on the screen is shown as it is, and never ends what is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from msd_framework import screen
from msd_framework.screen import Screen, progress_bar, say
from msd_framework.table import Table as OurTable

NAMES = ["kd [/data/set2] T=4", "kd [lr=3e-3]", "[bold]x[/bold]", "[/]", ":smile:", "a\\[b]", "100%"]
SHOW = """
from rich.table import Table
from msd_framework.screen import Screen, progress_bar, say
table = Table(title="kd \\u2603 [/x]")
table.add_column("m\\u00e9thode [/y]")
table.add_row("\\udcff")
Screen().print(table)
say("\\u2603 [/z]")
bar = progress_bar("values")
bar.add_task("\\u2603 [/w]", total=2, values="[/v]")
with bar:
    pass
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is(name, capsys):
    table = Table(title=name, caption=name)
    table.add_column(name)
    table.add_row(name)
    Screen().print(table)
    assert capsys.readouterr().out.count(name) == 4
    Screen().show(OurTable([name], [[name]], name, name, bold=[(0, 0)]))
    assert capsys.readouterr().out.count(name) == 4
    say(name)
    assert capsys.readouterr().err == f"{name}\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_bar_shows_names_as_they_are(name, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take a pipe for a terminal
    monkeypatch.setenv("COLUMNS", "200")
    bar = progress_bar("values")
    bar.add_task(name, total=2, values=name)
    with bar:
        pass
    assert capsys.readouterr().err.count(name) >= 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("force", ["", "1"])
def test_what_a_terminal_cannot_encode_is_shown_by_its_number(encoding, force):
    variables = {**os.environ, "PYTHONIOENCODING": encoding, "FORCE_COLOR": force, "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, check=True, env=variables)
    assert b"\\udcff" in done.stdout
    assert ("☃".encode() if encoding == "utf-8" else b"\\u2603") in done.stdout
    assert b"[/z]" in done.stderr


def test_a_line_that_nobody_reads_ends_nothing(monkeypatch):
    class Gone:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stderr", Gone())
    say("update 3/3")
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError):  # which the command line takes for the end
        Screen().print("a table")


def test_nothing_else_opens_a_screen():
    library = Path(screen.__file__).parent
    users = {p.name for p in library.rglob("*.py") if "rich.console" in p.read_text(encoding="utf-8")}
    assert users == {"screen.py"}
    assert not [p for p in library.rglob("*.py") if "Progress(*" in p.read_text(encoding="utf-8") and p.name != "screen.py"]


def test_columns_of_numbers_are_aligned_on_the_right_and_control_characters_are_shown(capsys):
    Screen().show(OurTable(["name", "value", "note"], [["1\x1b[31m", "-0.5", "1"], ["b", "undefined", "x"]], bold=[(0, 1)]))
    *_, first, second, _ = capsys.readouterr().out.splitlines()
    assert "1\\x1b[31m" in first
    assert first.index("-0.5") + len("-0.5") == second.index("undefined") + len("undefined")
    assert first.index("1", first.index("-0.5") + 4) == second.index("x")
