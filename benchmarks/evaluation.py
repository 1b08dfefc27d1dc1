"""How much memory it takes to evaluate a split of many classes: the peak of a process of its own, for a short and a long split.

python -m benchmarks.evaluation prints both, in bytes: 3,129 answers, three views, a teacher, and the files that a run writes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.memory import forget_peak, peak, resident
from msd_framework.data.base import Example, SubmissionFile
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import PredictedBatches
from msd_framework.metrics.vqa import VQAAccuracy
from msd_framework.report import evaluate_split
from msd_framework.structures import Batch, DatasetInfo, ModalityInputs

ROWS = (2_000, 20_000)
CLASSES, VIEWS, BATCH = 3129, ("full", "image", "text"), 250


class Questions:
    """A split of questions that are made when they are asked for."""

    submission = SubmissionFile("submission.json", "[", ", ", "]")

    def __init__(self, num_rows: int):
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> Example:
        return Example(str(index), {}, None, str(index))

    def submission_entries(self, places: list[int], logits: torch.Tensor) -> list[str]:
        return [str(answer) for answer in logits.argmax(1).tolist()]


class Batches:
    """Its batches; people gave three answers to each question."""

    def __init__(self, num_rows: int):
        self.reader = SimpleNamespace(dataset=Questions(num_rows))

    def __iter__(self):
        for first in range(0, len(self.reader.dataset), BATCH):
            places = tuple(range(first, min(first + BATCH, len(self.reader.dataset))))
            text = ModalityInputs(torch.zeros(len(places), 1).long(), torch.ones(len(places), 1).bool())
            scores = torch.zeros(len(places), CLASSES)
            scores[:, :3] = 0.3
            yield Batch({"text": text}, scores, tuple(map(str, places)), places)


def extra_memory(num_rows: int) -> int:
    """The peak of evaluating so many rows over what the process held before."""
    batches = Batches(num_rows)

    def ask(batch, views):
        return torch.randn(len(views), len(batch), CLASSES)

    with tempfile.TemporaryDirectory() as folder:
        info, splits = DatasetInfo({}, CLASSES, "soft_target"), {"test": batches.reader.dataset}
        evaluated = SimpleNamespace(
            data=SimpleNamespace(info=info, splits=splits, evaluation={"test": batches}),
            world=World(),
            metrics={"vqa_accuracy": VQAAccuracy()},
            config=SimpleNamespace(run_type="test", data=SimpleNamespace(test="test", dataset="vqa2")),
            folder=Path(folder),
            predict=lambda share: PredictedBatches(ask, share, VIEWS, World()),
            ask_teacher=lambda use, share: PredictedBatches(ask, share, VIEWS, World()),
        )
        before = resident()
        forget_peak()
        evaluate_split(evaluated, "test")
    return peak() - before


def said(num_rows: int) -> int:
    """What a fresh process of this module prints."""
    command = [sys.executable, "-m", "benchmarks.evaluation", str(num_rows)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]).stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:]:
        print(extra_memory(int(sys.argv[1])))
    else:
        short, long = map(said, ROWS)
        print(f"{ROWS[0]:,} rows: {short:,} bytes; {ROWS[1]:,} rows: {long:,} bytes; {long / short:.2f} times as much")
