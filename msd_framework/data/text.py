"""What scripts outside the library import from here; the code is in `processors/text.py`."""

from msd_framework.data.processors.text import Tokenizer

__all__ = ["Tokenizer"]
