"""What scripts outside the library import from here; the code is in `sets/vqa2.py`."""

from msd_framework.data.sets.vqa2 import VQA2

__all__ = ["VQA2"]
