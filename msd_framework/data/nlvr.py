"""What scripts outside the library import from here; the code is in `sets/nlvr.py`."""

from msd_framework.data.sets.nlvr import NLVR

__all__ = ["NLVR"]
