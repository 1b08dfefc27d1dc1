"""Writing a made world: image files, JSON, and a folder that is there as a whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_framework.files import naming

SCALE = 8  # how many pixels of the file one pixel of the canvas becomes, each way; it is also the side of a JPEG block
_JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}
_QUALITY: dict[str, dict[str, Any]] = {".png": {"compress_level": 1}, ".jpg": _JPEG, ".jpeg": _JPEG}


def write_image(canvas: NDArray[np.uint8], path: Path) -> None:
    """Writes a canvas, uint8 [16, 16, 3], each pixel as a square of 8 x 8, so that a box filter gives it back.

    A ``.png`` is exact, a ``.jpg`` or ``.jpeg`` but for the rounding of colours.
    """
    from PIL import Image

    Image.fromarray(canvas.repeat(SCALE, axis=0).repeat(SCALE, axis=1)).save(path, **_QUALITY[path.suffix])


def write_json_lines(records: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes a record a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into that takes the place of another one when all went well, and vanishes otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    making, leaving = beside.with_name(f"{beside.name}.new"), beside.with_name(f"{beside.name}.old")
    making.mkdir()
    try:
        with naming(folder):
            yield making
        if folder.exists():
            os.rename(folder, leaving)
        os.rename(making, folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    shutil.rmtree(leaving, ignore_errors=True)
