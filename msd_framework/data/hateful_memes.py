"""What scripts outside the library import from here; the code is in `sets/hateful_memes.py`."""

from msd_framework.data.sets.hateful_memes import HatefulMemes

__all__ = ["HatefulMemes"]
