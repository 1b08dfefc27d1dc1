"""What holds for all tests."""

import re
from pathlib import Path

from hypothesis import settings


def test_no_test_has_a_deadline() -> None:
    assert settings().deadline is None
    others = [path for path in Path(__file__).parents[1].rglob("*.py") if path.name != "conftest.py" and path != Path(__file__)]
    assert others
    assert [path.name for path in others if re.search(r"deadline=(?!None)", path.read_text(encoding="utf-8"))] == []
