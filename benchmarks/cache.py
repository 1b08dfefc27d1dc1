"""The teacher cache: how long a look-up takes, and how far off a gradient is that comes from what is stored."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.made import NUM_CLASSES, VIEWS
from benchmarks.quantities import SECONDS, Quantity, quantity
from msd_framework.losses.logits import SoftenedKL
from msd_framework.structures import Batch, ModelOutput
from msd_framework.teachers.cached import CachedTeacher, Opened
from msd_framework.teachers.store import Card, Layout, TeacherStore, Writer

MODALITIES = ("image", "text")
MOST_CLASSES, NUM_ROWS = 23, 100_000


def quantities(num_examples: int) -> list[Quantity]:
    """A look-up of a batch in a large store, and the gradient's error where it is largest of some numbers of classes."""
    off, exact = max((gradient_error(c) for c in (2, NUM_CLASSES, MOST_CLASSES)), key=lambda norms: norms[0] / norms[1])
    return [
        quantity("cache look-up", look_up_seconds(NUM_ROWS, num_examples), SECONDS, rows=NUM_ROWS, examples=num_examples),
        quantity("gradient off with cached logits", off, "norm"),
        quantity("gradient with exact logits", exact, "norm"),
    ]


def new_store(folder: Path, ids: Sequence[str], num_classes: int) -> TeacherStore:
    """A store with a row for each id, and nothing in the rows."""
    store = TeacherStore.create(folder, Card({"made": folder.name}, {}, Layout(VIEWS, num_classes, 0), ""))
    store.add(ids)
    return store


def teacher_of(store: TeacherStore) -> CachedTeacher:
    """A teacher that says what a store holds."""
    return CachedTeacher(MODALITIES, store.layout.num_classes, lambda: Opened(store))


def filled(ids: Sequence[str], logits: Tensor) -> CachedTeacher:
    """A cached teacher that says these logits [V, N, C] of the ids; its files have no names any more, and go when it does."""
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(Path(folder), ids, logits.shape[-1])
        with Writer(store) as writer:
            for rows in torch.arange(len(ids)).split(1 << 16):
                writer.write(rows.numpy(), ModelOutput(logits[:, rows]))
    return teacher_of(store)


def look_up_seconds(num_rows: int, num_examples: int, num_looks: int = 200) -> float:
    """CPU seconds of asking a cache about a batch of random examples, when it has been asked before: the median."""
    names = [f"example {i}" for i in range(num_rows)]
    generator = torch.Generator().manual_seed(0)
    taken = [torch.randint(num_rows, (num_examples,), generator=generator).tolist() for _ in range(2 * num_looks)]
    batches = [Batch({}, torch.zeros(num_examples), tuple(names[i] for i in places), tuple(places)) for places in taken]
    teacher = filled(names, torch.randn(len(VIEWS), num_rows, MOST_CLASSES))
    seconds = []
    for batch in batches:
        started = time.process_time()
        teacher.predict(batch, VIEWS)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[num_looks:])


def gradient_error(num_classes: int, num_examples: int = 4096) -> tuple[float, float]:
    """How far the gradient of distillation by stored logits is from that by exact ones, and how large the latter is.

    Both with respect to the student's logits, in float64; the norms over all examples. Logits are normal with a standard
    deviation of 3.
    """
    generator = torch.Generator().manual_seed(0)
    exact = 3 * torch.randn(len(VIEWS), num_examples, num_classes, generator=generator, dtype=torch.float64)
    student = 3 * torch.randn(len(VIEWS), num_examples, num_classes, generator=generator, dtype=torch.float64)
    names = tuple(map(str, range(num_examples)))
    stored = filled(names, exact).predict(Batch({}, torch.zeros(num_examples), names), VIEWS).logits.double()
    wanted, found = (gradient(student, logits) for logits in (exact, stored))
    return float((found - wanted).norm()), float(wanted.norm())


def gradient(student: Tensor, teacher: Tensor) -> Tensor:
    student = student.detach().requires_grad_()
    # a loss takes a row for each target: here one for each view of each example
    loss = SoftenedKL()(ModelOutput(student.flatten(0, 1)), ModelOutput(teacher.flatten(0, 1))).sum()
    return torch.autograd.grad(loss, student)[0]
