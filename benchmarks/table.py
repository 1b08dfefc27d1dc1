"""The ratios that are claimed, each with the bar it must reach: one measured quantity over another.

python -m benchmarks.table FILE prints the table of a written report, in Markdown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Ratio:
    """One quantity over another.

    Args:
        key: what it is called.
        over: the name of a measured quantity.
        under: the name of the one it is divided by.
        at_most: the bar that it must not exceed.
        at_least: the bar that it must reach.
    """

    key: str
    over: str
    under: str
    at_most: float | None = None
    at_least: float | None = None

    def of(self, measured: Mapping[str, float]) -> float:
        return measured[self.over] / measured[self.under]

    @property
    def bar(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}" if self.at_least is not None else ""

    def holds(self, value: float) -> bool:
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


PADDED, LONGEST = "transformers plain, padded", "transformers plain, padded to the longest"
NAIVE, NAIVE_LONGEST = "transformers naive msd, padded", "transformers naive msd, padded to the longest"
TORCHDISTILL = "torchdistill kd, padded"

BARS = (
    Ratio("msd_over_plain", "msd cached fp32", "plain fp32", at_most=1.95),
    Ratio("msd_over_hf_padded_fp32", "msd cached fp32", f"{PADDED} fp32", at_most=0.60),
    Ratio("msd_over_hf_padded_onednn", "msd cached onednn", f"{PADDED} fp32", at_most=0.45),
    Ratio("msd_over_hf_padded_bf16", "msd cached bf16", f"{PADDED} fp32", at_most=0.28),
    Ratio("naive_over_msd_bf16", f"{NAIVE} fp32", "msd cached bf16", at_least=50),
    Ratio("naive_over_msd_fp32", f"{NAIVE} fp32", "msd cached fp32", at_least=24),
    Ratio("naive_over_msd_run_bf16", f"{NAIVE}, 10 epochs fp32", "msd cached, 10 epochs bf16", at_least=40),
    Ratio("naive_over_msd_run_fp32", f"{NAIVE}, 10 epochs fp32", "msd cached, 10 epochs fp32", at_least=18),
    Ratio("naive_over_live_bf16", f"{NAIVE} fp32", "msd live bf16", at_least=10),
    Ratio("naive_over_live_fp32", f"{NAIVE} fp32", "msd live fp32", at_least=4),
    Ratio("torchdistill_over_kd_cached", f"{TORCHDISTILL} fp32", "kd cached auto", at_least=10),
    Ratio("torchdistill_over_kd_live", f"{TORCHDISTILL} fp32", "kd live auto", at_least=3),
    Ratio("memory_over_naive", "memory of msd cached fp32", f"memory of {NAIVE} fp32", at_most=0.2),
    Ratio("learned_over_msd", "learned weights fp32", "msd cached fp32", at_most=1.6),
    Ratio("learned_quarter_over_msd", "learned weights, a quarter held out fp32", "msd cached fp32", at_most=1.3),
    Ratio("second_order_over_learned", "learned weights by second derivatives fp32", "learned weights fp32", at_least=1.8),
    Ratio("cache_lookup_share", "cache look-up", "msd cached auto", at_most=0.01),
    Ratio("cache_gradient_error", "gradient off with cached logits", "gradient with exact logits", at_most=1e-3),
    Ratio("resident_1e6_over_1e3", "memory of a run, 1e6 examples", "memory of a run, 1e3 examples", at_most=1.1),
    Ratio("useful_over_peak_mkl", "useful operations a second fp32", "matmul peak fp32", at_least=0.60),
    Ratio("useful_over_peak_onednn", "useful operations a second onednn", "matmul peak onednn", at_least=0.50),
    Ratio("useful_over_peak_bf16", "useful operations a second bf16", "matmul peak bf16", at_least=0.40),
)

BESIDE = (
    Ratio("msd_over_plain_onednn", "msd cached onednn", "plain onednn"),
    Ratio("msd_over_plain_bf16", "msd cached bf16", "plain bf16"),
    Ratio("msd_over_hf_padded_onednn_same_precision", "msd cached onednn", f"{PADDED} onednn"),
    Ratio("msd_over_hf_padded_bf16_same_precision", "msd cached bf16", f"{PADDED} bf16"),
    Ratio("learned_over_msd_bf16", "learned weights bf16", "msd cached bf16"),
    Ratio("msd_over_hf_longest_fp32", "msd cached fp32", f"{LONGEST} fp32"),
    Ratio("msd_over_hf_longest_bf16", "msd cached bf16", f"{LONGEST} fp32"),
    Ratio("naive_over_msd_bf16_same_precision", f"{NAIVE} bf16", "msd cached bf16"),
    Ratio("naive_over_live_bf16_same_precision", f"{NAIVE} bf16", "msd live bf16"),
    Ratio("naive_longest_over_msd_fp32", f"{NAIVE_LONGEST} fp32", "msd cached fp32"),
    Ratio("naive_longest_over_live_fp32", f"{NAIVE_LONGEST} fp32", "msd live fp32"),
    Ratio("torchdistill_over_kd_cached_fp32", f"{TORCHDISTILL} fp32", "kd cached fp32"),
    Ratio("torchdistill_over_kd_live_fp32", f"{TORCHDISTILL} fp32", "kd live fp32"),
    Ratio("unpacked_over_packed_plain_fp32", "plain, packed: false fp32", "plain fp32"),
    Ratio("unpacked_over_packed_msd_fp32", "msd cached, packed: false fp32", "msd cached fp32"),
)
"""What no bar is set for, told beside where it was measured: the same precision on both sides, less padding on theirs."""


def ratios(measured: Mapping[str, float], wanted: tuple[Ratio, ...]) -> dict[str, float]:
    """The ratios of which both quantities were measured."""
    return {r.key: r.of(measured) for r in wanted if r.over in measured and r.under in measured}


def rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Each key of a report with what was measured, its bar and whether it holds."""
    found = report["ratios"] | report["beside"]
    derived = {run["name"] for run in report["runs"] if run.get("derived")}
    for ratio in (r for r in BARS + BESIDE if r.key in found):
        mark = " (derived)" if {ratio.over, ratio.under} & derived else ""
        verdict = ("yes" if ratio.holds(found[ratio.key]) else "no") if ratio.bar else ""
        yield ratio.key, f"{found[ratio.key]:.3g}{mark}", ratio.bar, verdict


HEAD = ("key", "measured", "bar", "holds?")


def table(report: Mapping[str, Any]) -> Table:
    """A report to be looked at in a terminal."""
    shown = Table(*HEAD, box=None)
    for row in rows(report):
        shown.add_row(*row, style="red" if row[-1] == "no" else None)
    return shown


def markdown(report: Mapping[str, Any]) -> str:
    """A report to be put on a page.

    >>> print(markdown({"ratios": {"msd_over_plain": 1.5}, "beside": {}, "runs": []}))
    | key | measured | bar | holds? |
    |---|---|---|---|
    | `msd_over_plain` | 1.5 | <= 1.95 | yes |
    """
    body = [(f"`{key}`", *rest) for key, *rest in rows(report)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (HEAD, *body)).replace("|\n", "|\n|---|---|---|---|\n", 1)


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
