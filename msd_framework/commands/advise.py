"""config=FILE [missing=true out=FILE ...]: what to run for what a run has, by docs/does_it_help.md; trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from msd_framework.analysis.advise import advice, described, has_lines, shown, situation
from msd_framework.analysis.apart import begun_anew
from msd_framework.build.facts import RunFacts
from msd_framework.checks.run import checked
from msd_framework.checks.words import own_options, take
from msd_framework.config.load import load, locating, resolve
from msd_framework.files import write_json
from msd_framework.screen import put


@dataclass(frozen=True)
class AdviseConfig:
    """What ``msd advise`` takes beside the options of the run."""

    missing: bool = False
    """Whether a modality may be missing when the student is used."""
    out: str | None = None
    """The JSON file that it writes; none if null."""


def main(words: Sequence[str]) -> int:
    path, words = take(words, "config")
    options, _, of_run = own_options(words, AdviseConfig)
    with begun_anew(resolve(load(path, of_run))) as source, locating(source):
        config = checked(source)
        run = situation(RunFacts(config), options.missing)
    rows = advice(run)
    for line in described(run):
        put(line)
    for row in rows:
        put("\n" + "\n".join(shown(row, run, config)))
    if not rows:
        put("\nNo row of docs/does_it_help.md applies: nothing like it was measured.")
    if options.out is not None:
        of_rows = []
        for row in rows:
            texts = {key: value for key, value in vars(row).items() if key not in ("applies", "lines")}
            of_rows.append({**texts, "yaml": row.yaml(run), "already": has_lines(row, run, config)})
        write_json(Path(options.out), {"run": asdict(run), "rows": of_rows})
    return 0
