"""YAML files below the package's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def load_yaml(name: str) -> Any:
    return OmegaConf.load(Path(__file__).parents[1] / name)
