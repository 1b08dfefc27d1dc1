"""What scripts outside the library import from here; the code is in `sets/snli_ve.py`."""

from msd_framework.data.sets.snli_ve import SNLIVE

__all__ = ["SNLIVE"]
