"""Processors of features, whose size is given or taken from the first training input and kept in a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from msd_framework.data.base import Processor
from msd_framework.errors import CheckpointError, DataError
from msd_framework.files import write_text


class FeatureProcessor(Processor):
    """A processor whose values are vectors of D features; `fit` sets D unless it was given."""

    kind = "features"
    fits_on_loaded = True
    feature_size: int | None
    size_file: ClassVar[str]  # of a checkpoint, which D is written to

    def known_size(self) -> int:
        """D, where an example has no features."""
        if self.feature_size is None:
            raise DataError("an example has no features, and none that was read before says how long they are; give feature_size")
        return self.feature_size

    @property
    def facts(self) -> dict[str, Any]:
        return {} if self.feature_size is None else {"feature_size": self.feature_size}

    def save(self, folder: Path) -> None:
        write_text(folder / self.size_file, json.dumps({"feature_size": self.feature_size}))

    def restore(self, folder: Path) -> None:
        self.feature_size = self.feature_size or read_number(folder / self.size_file, "feature_size")


def read_number(file: Path, key: str) -> int:
    """A whole number that a processor has written into a checkpoint."""
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error!r}), wanted the {key} of a run") from error
