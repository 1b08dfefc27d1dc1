"""Films with genres: what each layout of MM-IMDB gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from msd_framework.data.base import Example
from msd_framework.data.rows.rows import OnError

# The 23 genres of the task, the commonest first, as the authors number them.
GENRES = (
    *("Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror", "Documentary", "Mystery", "Sci-Fi"),
    *("Fantasy", "Family", "Biography", "War", "History", "Music", "Animation", "Musical", "Western", "Sport", "Short"),
    "Film-Noir",
)
DROPPED = ("News", "Adult", "Talk-Show", "Reality-TV")  # of less than 100 films, which are not part of the task


class Films(ABC):
    """The films of a split in one layout."""

    ids: list[str]
    skipped: list[str]  # a sentence for each film that was left out
    fingerprint: str

    @abstractmethod
    def __init__(self, root: Path, split: str, limit: int | None, on_error: OnError, allowed: Sequence[str] | None = None): ...

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def __getitem__(self, index: int) -> Example: ...
