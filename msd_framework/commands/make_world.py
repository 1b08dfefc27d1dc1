"""layout=NAME folder=PATH [seed=0 sizes.train=3000 ...]: writes the made vision-language world."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext

from msd_framework.checks.words import read_words
from msd_framework.config.load import locating
from msd_framework.config.values import flow
from msd_framework.screen import progress_bar, put
from msd_framework.worlds import LAYOUTS, WorldSummary, make_world


def main(words: Sequence[str]) -> int:
    source = read_words(words, make_world, ["progress"])
    bar = progress_bar()
    with locating(source), nullcontext() if bar.disable else bar:
        task = bar.add_task("making cards")
        made = make_world(**source.values, progress=lambda done, total: bar.update(task, completed=done, total=total))
    put(_contents(made))
    return 0


def _contents(summary: WorldSummary) -> str:
    plan = summary.plan
    rows = ", ".join(f"{split} {size:,}" for split, size in plan.sizes.items() if size)
    mix = ", ".join(f"{kind} {share:g}" for kind, share in plan.mix.items() if share)
    verb = "holds this world already" if summary.reused else "now holds a made world"
    dataset = {**LAYOUTS[plan.layout].dataset, "root": str(summary.folder)}
    return (
        f"{summary.folder} {verb} in the format of {plan.layout} (seed {plan.seed}).\n"
        f"  rows: {rows}\n  mix:  {mix}\n"
        f"  use:  {shlex.quote(f'data.dataset={flow(dataset)}')}"
    )
