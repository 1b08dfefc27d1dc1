"""What scripts outside the library import from here; the code is in `sets/mm_imdb.py`."""

from msd_framework.data.sets.mm_imdb import MMIMDB

__all__ = ["MMIMDB"]
