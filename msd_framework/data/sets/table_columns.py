"""The columns of a table that hold the inputs of a modality: a column, or a pattern that names some."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msd_framework.data.files import DataFolder
from msd_framework.data.rows.row import Record, RowBatch
from msd_framework.structures import ModalityKind

KINDS: dict[str, ModalityKind] = {"texts": "tokens", "images": "pixels", "features": "features", "audio": "waveform"}  # by option
_BRACES = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class ModalityColumn:
    """Where the input of a modality stands in a row."""

    pattern: str  # the column, or a text with columns in braces
    kind: ModalityKind

    @property
    def is_file(self) -> bool:
        return self.kind != "tokens"

    @property
    def is_pattern(self) -> bool:
        return "{" in self.pattern

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(_BRACES.findall(self.pattern)) or (self.pattern,)

    def is_lacking(self, record: Record) -> bool:
        nothing = ("", None) if self.is_file or self.is_pattern else (None,)
        return any(record.get(key) in nothing for key in self.keys)

    def inputs(self, rows: RowBatch) -> list[Any]:
        """The input of each row, None where the row lacks it. Slashes of Windows' paths are turned."""
        if self.is_pattern:
            inputs = [None if self.is_lacking(record) else self._fill(record) for record in rows.records]
        else:
            inputs = rows.column(self.pattern)
        return [(value or "").replace("\\", "/") or None for value in inputs] if self.is_file else inputs

    def _fill(self, record: Record) -> str:
        return _BRACES.sub(lambda found: str(record[found[1]]), self.pattern)

    def check(self, rows: RowBatch, folder: DataFolder) -> list[str | None]:
        """The inputs of rows, each a text, and none of them a path that leaves the folder."""
        there = rows
        if any(None in rows.column(key) or "" in rows.column(key) for key in self.keys):
            having = [row for row in rows if not self.is_lacking(row.record)]
            there = RowBatch([row.record for row in having], rows.file, [row.number for row in having])
        for key in self.keys:
            there.ids(key) if self.is_pattern else there.texts(key)
        inputs = self.inputs(rows)
        if self.is_file:
            there.paths(folder, inputs if there is rows else self.inputs(there))
        return inputs


def columns_of(options: Mapping[str, Any]) -> dict[str, ModalityColumn]:
    found: dict[str, ModalityColumn] = {}
    for option, kind in KINDS.items():
        for name, pattern in (options.get(option) or {}).items():
            if name in found:
                raise ValueError(f"{name!r} is a modality of two kinds, one of them in {option}; give each modality another name")
            found[name] = ModalityColumn(pattern, kind)
    if not found:
        raise ValueError(f"no column is a modality; name some in {', '.join(KINDS)}, such as texts: {{text: caption}}")
    return dict(sorted(found.items()))
