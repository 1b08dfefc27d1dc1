"""Images by the name that scripts outside the library import them by; the code is in `processors/images.py`."""

from msd_framework.data.processors.images import Pixels, read_image

__all__ = ["Pixels", "read_image"]
