"""Writes easy-VQA as tables of questions beside the images that they ask about, for the data set `jsonl`.

    pip install --no-deps easy-vqa==1.0 && python projects/easy_vqa/make.py data/easy_vqa    # from the package (MIT, 3 MB)
    python projects/easy_vqa/make.py data/easy_vqa easy_vqa.npz                              # from its arrays in one file

The questions about the last 500 of the 4,000 training images are the split `validation`; the publisher's test split is `test`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HELD_OUT = 500  # training images whose questions choose checkpoints


def from_arrays(file: str, split: str) -> tuple[list[Image.Image], list[tuple[int, str, str]]]:
    """The images of a split, and for each question its image, its text and its answer."""
    arrays = np.load(file, allow_pickle=False)
    columns = (arrays[f"{name}_{split}"].tolist() for name in ("image_id", "question", "answer"))
    return [Image.fromarray(pixels) for pixels in arrays[f"image_{split}"]], list(zip(*columns))


def from_package(split: str) -> tuple[list[Image.Image], list[tuple[int, str, str]]]:
    """The same, from the package that its author has published."""
    import easy_vqa

    texts, answers, ids = getattr(easy_vqa, f"get_{split}_questions")()
    paths = getattr(easy_vqa, f"get_{split}_image_paths")()
    return [Image.open(paths[i]).convert("RGB") for i in sorted(paths)], list(zip(ids, texts, answers))


def make(folder: Path, file: str | None = None) -> dict[str, int]:
    """Writes all splits; how many questions each has."""
    counts = {}
    for split in ("train", "test"):
        images, questions = from_arrays(file, split) if file else from_package(split)
        (folder / "img" / split).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            image.save(folder / "img" / split / f"{number}.png")
        first = len(images) - HELD_OUT if len(images) > HELD_OUT else len(images) // 2
        for name, rows in _parts(split, first, questions):
            lines = [json.dumps(row) for row in rows]
            (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            counts[name] = len(lines)
    return counts


def _parts(split: str, first: int, questions: list[tuple[int, str, str]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    rows = []
    for number, (image, text, answer) in enumerate(questions):
        rows.append({"id": f"{split}-{number}", "image": f"img/{split}/{image}.png", "question": text, "answer": answer})
    if split == "test":
        yield "test", rows
        return
    yield "train", [row for row, (image, _, _) in zip(rows, questions) if image < first]
    yield "validation", [row for row, (image, _, _) in zip(rows, questions) if image >= first]


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    print(", ".join(f"{name}: {count:,} questions" for name, count in make(Path(sys.argv[1]), *sys.argv[2:]).items()))
