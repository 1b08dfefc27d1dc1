"""What a benchmark ran on: the processor and what it can do, the versions, the date."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
"""Instructions that matter for matrix products."""

PACKAGES = ("torch", "transformers", "torchdistill", "numpy", "msd_framework")


def describe() -> dict[str, Any]:
    """The machine, as far as the system tells."""
    info = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in read("/proc/cpuinfo").splitlines())}
    flags = set(info.get("flags", info.get("Features", "")).split())
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "family": [int(info[k]) for k in ("cpu family", "model", "stepping") if info.get(k, "").isdigit()],
        "cores": os.cpu_count(),
        "caches": caches(),
        "flags": [f for f in FLAGS if f in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "blas": "mkl" if torch.backends.mkl.is_available() else "other",
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def caches() -> dict[str, str]:
    """The sizes of the first core's caches."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (read(folder / name).strip() for name in ("level", "type", "size"))
        found[f"L{level} {kind.lower()}"] = size
    return found


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The commit that is checked out, with a + if something was changed since."""
    said = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return said.stdout.strip()


def read(file: str | Path) -> str:
    return Path(file).read_text() if Path(file).is_file() else ""
