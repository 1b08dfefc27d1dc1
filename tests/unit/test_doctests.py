"""The examples in docstrings give what they say. (pytest itself would look for some in each test file too.)"""

from __future__ import annotations

import doctest
import importlib

import pytest

from tests.unit.test_imports import LIBRARY

MODULES = []
for path in sorted(LIBRARY.rglob("*.py")):
    if ">>> " in path.read_text(encoding="utf-8"):
        MODULES.append(".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts).removesuffix(".__init__"))


def test_there_are_examples() -> None:
    assert len(MODULES) > 50


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted
    assert not results.failed
