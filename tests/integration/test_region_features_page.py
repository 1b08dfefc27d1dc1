"""What the page on region features tells a user to type works."""

from __future__ import annotations

import shlex

from msd_framework.cli import main
from tests.integration.test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "region_features.md"


def test_the_page_of_region_features_can_be_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        assert main([*shlex.split(command)[1:]]) == 0, f"{command}\n{capsys.readouterr().err}"
    (code,) = blocks(PAGE, "python")
    exec(code, {"__name__": "page"})  # noqa: S102
