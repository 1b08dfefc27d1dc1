"""Where the stand-in for MMF is found while a test runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAND_INS = Path(__file__).parent / "stand_ins"


def _forget() -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "mmf"]:
        del sys.modules[name]


@contextmanager
def mmf_stand_in() -> Iterator[None]:
    """Lets `import mmf` find the stand-in, and forgets it afterwards."""
    _forget()
    sys.path.insert(0, str(STAND_INS))
    try:
        yield
    finally:
        sys.path.remove(str(STAND_INS))
        _forget()
