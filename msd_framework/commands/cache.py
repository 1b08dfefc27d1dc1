"""info|build|verify|prune [config=FILE ... | dir=PATH ...]: the answers of teachers that are kept on disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from msd_framework.analysis.apart import apart
from msd_framework.build.cache_key import lock_name, stores
from msd_framework.build.data import build_data
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import build_maskers
from msd_framework.build.splits import content
from msd_framework.build.teacher_cache import CachedSplit
from msd_framework.build.teachers import cached_split, trained_teachers
from msd_framework.checks.run import checked
from msd_framework.checks.words import parted, read_words, take
from msd_framework.config.load import load, resolve
from msd_framework.config.schema import TeacherConfig
from msd_framework.config.values import as_word
from msd_framework.engine.locks import try_lock
from msd_framework.errors import CacheError, ConfigError, Problem, did_you_mean
from msd_framework.files import size_of
from msd_framework.launch import is_first
from msd_framework.screen import Screen, shown_bytes
from msd_framework.table import Table
from msd_framework.teachers.store import USED, Card, TeacherStore

DAY = 24 * 3600
WIDE = 200  # columns of what is no terminal
COLUMNS = ("store", "teacher", "data", "views", "rows", "precision", "size", "created", "last used")


def main(words: Sequence[str]) -> int:
    name, *rest = words or [""]
    if name not in COMMANDS:
        raise ConfigError(f"msd cache takes {', '.join(COMMANDS)}, got {name or 'nothing'}.{did_you_mean(name, COMMANDS)}")
    lines = COMMANDS[name](rest)
    if is_first():
        Screen(width=WIDE).show(*lines)
    return 0


def info(dir: str = TeacherConfig.cache_dir) -> Iterator[str | Table]:
    """A table of the stores of a folder."""
    cards = dict(stores(_folder(dir)))
    if not cards:
        yield f"{dir} holds no teacher cache."
        return
    yield Table(COLUMNS, [_row(path, card) for path, card in cards.items()], dir)
    yield from (f"{path.name[:12]}: {card}" for path, card in cards.items() if isinstance(card, CacheError))


def _row(path: Path, card: Card | CacheError) -> list[str]:
    size, used = shown_bytes(size_of(path)), _ago(_last_used(path))
    if isinstance(card, CacheError):
        return [path.name[:12], "damaged", "", "", "", "", size, "", used]
    parts, views, store = card.parts, ", ".join(card.layout.views), _opened(path)
    rows = f"{store.num_done:,}/{store.num_rows:,}" if store is not None else "damaged"
    data = f"{parts['data.dataset']['type']} {parts['data.split']}"
    return [path.name[:12], str(card.notes["teacher"]), data, views, rows, parts["precision"], size, card.created[:10], used]


def prune(
    dir: str = TeacherConfig.cache_dir, older_than_days: float = 30, only: str | None = None, yes: bool = False
) -> Iterator[str]:
    """Removes stores that nobody has used for a time, damaged ones, and what was left behind by processes that were killed.

    Args:
        older_than_days: how long ago a store must have been used last.
        only: the name of one store, which then goes whatever its age, and no other.
        yes: whether to do it; what would go is listed without.
    """
    folder = _folder(dir)
    cards = dict(stores(folder))
    if only:
        old = [path for path in cards if path.name.startswith(only)]
        if len(old) != 1:
            hint = "" if old else did_you_mean(only, (path.name for path in cards))
            raise ConfigError(Problem("only", f"{len(old) or 'no'} stores of {dir} have names that begin with {only!r}.{hint}"))
    else:
        old = []
        for path, card in cards.items():
            if _last_used(path) < time.time() - older_than_days * DAY or isinstance(card, CacheError) or _opened(path) is None:
                old.append(path)
        for kind in ("new", "removed", "building"):  # what killed processes left behind
            old += [path for path in sorted(folder.glob(f".{kind}-*")) if path.stat().st_mtime < time.time() - DAY]
    if not old:
        yield f"nothing in {dir} has not been used for {older_than_days:g} days."
        return
    yield f"removed from {dir}:" if yes else f"would go from {dir}; yes=true removes them:"
    for path in old:
        line = f"  {path.name}  {shown_bytes(size_of(path))}, last used {_ago(_last_used(path))}"
        is_left = yes and not _removed(path, cards.get(path))
        yield f"  {path.name} is being filled and was left alone." if is_left else line


def build(words: Sequence[str]) -> list[str]:
    """Fills the stores that a run will read."""
    config, overrides = take(words, "config")
    with _splits(config, overrides) as splits:
        for split in splits:
            split.open()
        return [f"{s.description}: {len(s.dataset):,} examples in {s.from_first(s.find_complete)}" for s in splits]


def verify(words: Sequence[str]) -> list[str]:
    """Compares some rows of the stores that a run will read with the teacher's outputs now."""
    config, words = take(words, "config")
    mine, overrides = parted(words, lambda word: word.startswith("rows="))
    num_rows = read_words(mine, _compared, ["split"]).values.get("rows", 100)
    with _splits(config, overrides) as splits:
        return [_compared(split, num_rows) for split in splits]


def _compared(split: CachedSplit, rows: int = 100) -> str:
    """How far some rows of a split's store lie from the teacher's outputs now."""
    path = split.from_first(split.find_complete)
    if path is None:
        raise split.missing_error()
    count, largest, share = 0, 0.0, 0.0
    for part in split.from_first(lambda: split.verify(TeacherStore(path), rows)) or []:
        count, largest, share = count + part.stored.shape[1], max(largest, part.largest), max(share, 100 * part.share)
    difference = f"the largest difference is {largest:.1e}, {share:.0f} % of what rounding allows"
    return f"{split.description}: {count} rows compared, {difference}."


COMMANDS: dict[str, Callable[[Sequence[str]], Iterable[str | Table]]] = {
    "info": lambda words: info(**read_words(words, info).values),
    "build": build,
    "verify": verify,
    "prune": lambda words: prune(**read_words(words, prune).values),
}


@contextmanager
def _splits(file: str, words: Sequence[str]) -> Iterator[list[CachedSplit]]:
    """The splits that a run's teachers are asked about, in a folder beside that of the run."""
    overrides = [*words, "teacher.cache=true", "run_type=train", "checkpoint.resume=false"]
    teacher = resolve(load(file, overrides)).values["teacher"]
    place = Path(teacher.get("cache_dir", TeacherConfig.cache_dir)) / ".building"
    source = load(file, [*overrides, as_word("env.save_dir", str(place))])
    config = checked(source)
    with apart(config, source) as (config, world):
        data = build_data(RunFacts(config), world)
        maskers = build_maskers(data)
        maskers.fit(data.all_training_examples())
        teachers = trained_teachers(data, maskers)
        splits: list[CachedSplit] = []
        for use in data.splits:
            whole = content(data.facts, data.splits, use)
            for one in teachers:
                if one.views[use]:
                    splits.append(cached_split(one, use, data, maskers, whole))
        yield splits


def _folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise ConfigError(Problem("dir", f"there is no folder {name}; the caches of a run are in its teacher.cache_dir."))
    return Path(name)


def _opened(path: Path) -> TeacherStore | None:
    try:
        return TeacherStore(path)
    except CacheError:
        return None


def _removed(path: Path, card: Card | CacheError | None) -> bool:
    """Removes a store at once, unless it is being filled."""
    name = f".lock-{lock_name(card.parts)}" if isinstance(card, Card) else ".lock-prune"
    lock = FileLock(path.with_name(name), mode=0o666)
    if not try_lock(lock):
        return False
    try:
        gone = path.with_name(f".removed-{path.name}-{os.getpid()}")
        path.rename(gone)
        shutil.rmtree(gone)
        return True
    finally:
        lock.release()


def _last_used(path: Path) -> float:
    return (path / USED if (path / USED).exists() else path).stat().st_mtime


def _ago(moment: float) -> str:
    days = int((time.time() - moment) // DAY)
    return f"{days} day{'s' * (days > 1)} ago" if days else "today"
