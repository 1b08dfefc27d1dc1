"""Mistakes that a user can mend, each told in a sentence that says what to change."""

from __future__ import annotations

import difflib
import errno
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class MSDError(Exception):
    """Base of every mistake that a user can mend; the tools print it without a traceback and exit with 2."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration."""

    path: str  # the dotted key, such as objective.views[1]; empty for the whole configuration
    message: str  # a sentence: what was got, what was wanted, the nearest valid name

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(MSDError, ValueError):
    """A configuration that cannot be run, with every problem that was found in it."""

    def __init__(self, *problems: Problem | str):
        self.problems = tuple(p if isinstance(p, Problem) else Problem("", p) for p in problems)
        super().__init__("\n".join(map(str, self.problems)))


class DataError(MSDError, ValueError):
    """A data file that cannot be read, with the file and the line."""


class CheckpointError(MSDError, RuntimeError):
    """A checkpoint that is missing, incomplete, or of something else."""


class CacheError(MSDError, RuntimeError):
    """A cache of a teacher's answers that is damaged, out of date, or not there."""


class TrainingError(MSDError, RuntimeError):
    """A run that cannot go on, such as one whose loss is not a number."""


def is_ours(error: BaseException) -> bool:
    """Whether this library raised it: then it is a sentence about a bad argument, such as a text that is too long."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and is_of_this_library(frames[-1].f_code.co_filename)


def is_of_this_library(file: str) -> bool:
    """Whether a file is one of this package's."""
    return Path(file).is_relative_to(Path(__file__).parent)


def is_memory(error: BaseException) -> bool:
    """Whether memory was full, of a GPU or of the machine."""
    named = type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for a command that has no use for it
    return isinstance(error, MemoryError) or named or "DefaultCPUAllocator" in str(error)


def mendable(error: BaseException) -> str:
    """What a user can do about an error, or an empty string if it is a fault of the program's."""
    if isinstance(error, MSDError) or (isinstance(error, ValueError) and is_ours(error)):
        return str(error)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in REMEDIES):
        return f"{error.filename or 'the disk'}: {error.strerror}. {REMEDIES.get(error.errno or 0, 'Name another file or folder.')}"
    if is_memory(error):
        return "memory is full. Lower training.batch_size or evaluation.batch_size, or raise training.accumulate."
    return ""


_ROOM, _RIGHT = "Make room, or name another place to write to.", "Give yourself the right to it, or name another place."
# what to do where another file or folder is not all that helps
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EACCES: _RIGHT,
    errno.EPERM: _RIGHT,
    errno.ENAMETOOLONG: "Name a shorter one.",
    errno.ELOOP: "Its links lead to each other: name the file that is meant.",
    errno.ENOTDIR: "A part of it is a file: name a folder.",
    errno.EROFS: "Name a place that can be written to.",
}


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """The closest option as a question, or an empty string; capital letters make no difference."""
    found = nearest(name, options)
    return f" Did you mean {found!r}?" if found else ""


def nearest(name: str, options: Iterable[str]) -> str:
    """The option that a name is a misspelling of, or an empty string."""
    spelled = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(name.casefold(), spelled, n=1, cutoff=0.6)
    return spelled[close[0]] if close else ""
