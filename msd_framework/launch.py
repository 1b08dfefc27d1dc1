"""Whether this process was started together with others, as the environment says, without asking torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from msd_framework.errors import ConfigError

ALONE = "To run alone: unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT."


@dataclass(frozen=True)
class Launch:
    """The place of this process among those that were started with it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def launched() -> Launch:
    """What ``torchrun`` has written into the environment; alone where it has not, whatever a cluster left there."""
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        return Launch()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        text = f"WORLD_SIZE={size} is in the environment, and {' and '.join(missing)} not, so the other processes cannot be found."
        raise ConfigError(f"{text} Start all of them with torchrun. {ALONE}")
    found = Launch(_number("RANK", 0), size, _number("LOCAL_RANK", 0))
    if found.rank >= size:
        raise ConfigError(f"RANK={found.rank} is in the environment, wanted a number below WORLD_SIZE={size}. {ALONE}")
    return found


def is_first(of_machine: bool = False) -> bool:
    """Whether this process is the one that prints: the first of all, or of its machine."""
    try:
        found = launched()
    except ConfigError:  # told by whoever would start
        return True
    return (found.local_rank if of_machine else found.rank) == 0


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or (name == "WORLD_SIZE" and int(text) == 0):
        raise ConfigError(f"{name}={text} is in the environment, wanted a whole number. {ALONE}")
    return int(text)
