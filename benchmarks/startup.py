"""How long a user waits before anything happens: imports, and the check of a configuration.

The variants are run in turn, each in a fresh process; what is printed are medians of wall seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "projects" / "quickstart" / "configs" / "teacher.yaml"


def seconds(arguments: list[str]) -> float:
    """Wall seconds of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - started


def main() -> None:
    """Prints a table and, if asked, writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        sizes = ["sizes.train=8", "sizes.dev_seen=8", "sizes.test_seen=8"]
        seconds(["-m", "msd_framework.cli", "make-world", "layout=hateful_memes", f"folder={world}", *sizes])
        check = [f"config={CONFIG}", f"data.dataset.root={world}", f"env.save_dir={folder}/run", "run_type=check"]
        variants = {
            "python": ["-c", "pass"],
            "import torch": ["-c", "import torch"],
            "import torch, msd_framework": ["-c", "import torch, msd_framework"],
            "... and list every registry": [
                "-c",
                "import torch\nfrom msd_framework.registry import REGISTRIES\nfor r in REGISTRIES.values(): r.names()",
            ],
            "run_type=check": ["-m", "msd_framework.cli", "run", *check],
        }
        times: dict[str, list[float]] = {name: [] for name in variants}
        for i in range(options.rounds + 1):
            for name, arguments in variants.items():
                found = seconds(arguments)
                times[name] += [found] if i else []  # the first round warms the file cache
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:34s} {value:6.2f} s   {value - medians['import torch']:+6.2f} s against import torch")
    if options.out:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
        options.out.write_text(json.dumps({"machine": machine, "medians": medians, "runs": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
