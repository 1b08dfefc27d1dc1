"""Whether a study's means lie where a committed one has them: ``python tools/compare_studies.py NEW COMMITTED`` (summary.json).

Each metric of each method that both have must lie within three standard deviations over the committed seeds, divided by the
root of the new number of seeds. The exit code is 1, with a sentence for each that does not.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

WIDTH = 3.0  # standard deviations


def moved(new: Mapping[str, Any], committed: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each mean that left its interval."""
    before = {row["name"]: row["metrics"] for row in committed["table"]}
    for row in new["table"]:
        for metric, summary in row["metrics"].items():
            old = before.get(row["name"], {}).get(metric)
            if old is None:
                continue
            room = WIDTH * old["sd"] * math.sqrt(1 / len(new["seeds"]) + 1 / len(committed["seeds"]))
            if not abs(summary["mean"] - old["mean"]) <= room:
                yield f"{row['name']}: {metric} is {summary['mean']:.4f}, and was {old['mean']:.4f} ± {room:.4f}."


def main(new: str, committed: str) -> int:
    sentences = list(moved(*(json.loads(Path(path).read_text(encoding="utf-8")) for path in (new, committed))))
    print("\n".join(sentences) or "Every mean lies where it did.")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
