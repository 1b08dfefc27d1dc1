"""How fast region features are read, against the same bytes by a plain memory map.

Both copy the regions of images, in random order, into a float32 batch of 32 that is there already: ours by the processor, from
the paths of images; plain from a mapped array, by number. The files are in the system's cache. Seconds are those of the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from msd_framework.data.processors.features import RegionFeatures
from msd_framework.data.regions.base import Regions
from msd_framework.data.regions.draft import Plan, StoreDraft

FEATURES = 2048
BATCH = 32
KINDS = [("fp32", 100, 640), ("fp16", 100, 1280), ("fp32", 36, 1600), ("fp16", 36, 3200)]
"""Precision, regions an image, images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", default=None, help="where the files are written; the system's own if left out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = {f"{kind[0]}_{kind[1]}": measure(Path(folder) / f"{kind[0]}_{kind[1]}", *kind, arguments.rounds) for kind in KINDS}
    print(json.dumps(found, indent=1))


def measure(folder: Path, precision: str, num_regions: int, num_images: int, rounds: int) -> dict[str, float]:
    """Gigabytes that are read a second, and ours as a share of plain's."""
    write(folder, precision, num_regions, num_images)
    order = np.random.default_rng(0).permutation(num_images).reshape(-1, BATCH)
    paths = [[f"data/img/{i:012}.jpg" for i in batch] for batch in order]
    values = torch.empty(BATCH, num_regions, FEATURES)
    processor, mapped = RegionFeatures(f"store:{folder}"), np.load(folder / "features_0.npy", mmap_mode="c")

    def ours() -> None:
        for batch in paths:
            for row, path in zip(values, batch):
                row.copy_(processor.load(path).features)

    def plain() -> None:
        for batch in order:
            for row, i in zip(values, batch):
                row.copy_(torch.from_numpy(mapped[i * num_regions : (i + 1) * num_regions]))

    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for number in range(rounds + 1):
        for read in (ours, plain) if number % 2 else (plain, ours):
            took = timed(read)
            if number:  # the first round fills the caches
                seconds[read.__name__].append(took)
    size = num_images * num_regions * FEATURES * mapped.dtype.itemsize / 1e9
    speed = {name: round(size / statistics.median(took), 2) for name, took in seconds.items()}
    return {**speed, "share": round(statistics.median(p / o for o, p in zip(seconds["ours"], seconds["plain"])), 3)}


def write(folder: Path, precision: str, num_regions: int, num_images: int) -> None:
    features = np.random.default_rng(0).random((num_regions, FEATURES), np.float32)
    draft = StoreDraft(folder, Plan(precision, FEATURES, False, {}))  # type: ignore[arg-type]
    with draft.shard(0) as shard:
        for i in range(num_images):
            shard.add(f"{i:012}", Regions(features))
    draft.commit()


def timed(function: Callable[[], None]) -> float:
    begun = time.process_time()
    function()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
