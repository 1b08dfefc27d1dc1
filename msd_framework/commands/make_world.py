"""The words of ``msd make-world``: checked, then a made world in a public data set's format."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from msd_framework.checks.words import read_words
from msd_framework.config.load import located
from msd_framework.config.values import flow, to_copy
from msd_framework.errors import ConfigError
from msd_framework.screen import progress_bar
from msd_framework.worlds import LAYOUTS, WorldSummary, make_world


def make_world_from_words(words: Sequence[str]) -> str:
    """Makes a world of digit cards, with a bar on the screen, and says what it holds.

    Args:
        words: ``layout=hateful_memes folder=data/world``, and whatever else `make_world` takes.

    Raises:
        ConfigError: with every word that is wrong.
        DataError: if the folder holds something else.
    """
    source = read_words(words, make_world, ["progress"])
    bar = progress_bar()
    try:
        with nullcontext() if bar.disable else bar:
            task = bar.add_task("making cards")
            return _told(make_world(**source.values, progress=lambda done, total: bar.update(task, completed=done, total=total)))
    except ConfigError as error:
        raise ConfigError(*(located(p, source) for p in error.problems)) from error


def _told(summary: WorldSummary) -> str:
    """What a world holds and how to use it."""
    plan = summary.plan
    rows = ", ".join(f"{split} {size:,}" for split, size in plan.sizes.items() if size)
    mix = ", ".join(f"{kind} {share:g}" for kind, share in plan.mix.items() if share)
    verb = "holds this world already" if summary.reused else "now holds a made world"
    dataset = {**LAYOUTS[plan.layout].dataset, "root": str(summary.folder)}
    return "\n".join(
        [
            f"{summary.folder} {verb} in the format of {plan.layout} (seed {plan.seed}).",
            f"  rows: {rows}",
            f"  mix:  {mix}",
            f"  use:  {to_copy(f'data.dataset={flow(dataset)}')}",
        ]
    )
