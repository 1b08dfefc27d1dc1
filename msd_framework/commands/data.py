"""check NAME [root=PATH samples=20 user_dir=FOLDER ...]: whether a folder holds a data set as its publisher says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from msd_framework.build.facts import call_class_method, dataset_info
from msd_framework.build.splits import shared_splits
from msd_framework.checks.words import import_from_words, parted, read
from msd_framework.components.facts import CONTEXT
from msd_framework.components.options import options_of
from msd_framework.config.load import refuse
from msd_framework.data.base import Example, MultimodalDataset, RowKeys
from msd_framework.data.batches.reader import read_example
from msd_framework.data.mat_files import read_mat
from msd_framework.data.overlap import survey
from msd_framework.data.processors.audio import read_wav
from msd_framework.data.processors.images import read_image
from msd_framework.errors import ConfigError, DataError, MSDError, Problem, did_you_mean
from msd_framework.registry import DATASETS
from msd_framework.screen import Screen, shortened
from msd_framework.structures import DatasetInfo
from msd_framework.table import Table

SAMPLES = 20
MOST_SHOWN, MORE = 5, "... and {} more like that"  # mistakes of one kind that are listed of a split


@dataclass
class SplitCheck:
    """A split of a data set, filled in as its examples are read."""

    name: str
    published: int | None = None  # how many examples the publisher says there are; None if it says nothing
    num_examples: int | None = None  # None if they cannot be read
    skipped: int = 0  # records that cannot be read
    absent: int = 0  # files that are not there
    sampled: int = 0  # examples that were read whole
    wrong: list[str] = field(default_factory=list)
    is_there: bool = True  # whether any file of it is
    lacking: dict[str, int] = field(default_factory=dict)  # how many examples lack each modality, of those that some lack
    rows: tuple[MultimodalDataset, RowKeys] | None = field(default=None, repr=False)  # the split and what its rows are known by


def main(words: Sequence[str]) -> int:
    if words[:1] != ["check"]:
        raise ConfigError(f"msd data takes check, got {words[0] if words else 'nothing'}.")
    words = import_from_words(words[1:])
    given, names = parted(words, lambda word: "=" in word)
    if len(names) != 1:
        known = ", ".join(DATASETS.names())
        raise ConfigError(f"wanted one data set, such as `msd data check hateful_memes root=PATH`, got {names}; known: {known}.")
    source = read(given)
    options, name = dict(source.values), names[0]
    defaults = {"splits": None, "samples": SAMPLES, "seed": 0, "shared_rows": False}
    wanted = {key: options.pop(key, default) for key, default in defaults.items()}
    problems = _word_problems(wanted)
    if name in DATASETS.names() or "." in name:
        for problem in DATASETS.check({"type": name, **options}, "dataset", context=CONTEXT["datasets"]):
            problems.append(Problem(problem.path.removeprefix("dataset").lstrip("."), problem.message))
    else:
        problems.append(Problem("", f"no dataset is named {name!r}.{did_you_mean(name, DATASETS.names())}"))
    refuse(problems, source)
    checks = check_folder(name, options, **wanted)
    is_there = any(check.is_there for check in checks)
    Screen().show(_table(name, options, checks), *_lines(checks), *([] if is_there else ["Nothing of it is there."]))
    return 0 if is_there and not any(check.wrong for check in checks) else 1


def check_folder(
    name: str,
    options: Mapping[str, Any],
    splits: Sequence[str] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    shared_rows: bool = False,
) -> list[SplitCheck]:
    """What each split of a data set holds, and which rows two of them share that the publisher keeps apart.

    Args:
        splits: the splits to look at; if left out, all, and one that is not there is no mistake.
        samples: how many examples of a split, chosen by the seed, to read whole.
        shared_rows: whether splits may have rows in common.
    """
    dataset = DATASETS.get(name)
    info = dataset_info({**options, "type": name}, at="")
    checks = {}
    for split in splits or dataset.splits:
        check = checks[split] = SplitCheck(split, dataset.published.get(split))
        missing = call_class_method(partial(dataset.check, options, split), f"check of {dataset.__name__}", "")
        if missing:
            check.is_there, check.wrong = False, missing if splits is not None else []
            continue
        given = {**options, "split": split, "on_error": "skip"}
        accepted = {key: value for key, value in given.items() if key in options_of(dataset)}
        what = f"split {split!r} of {dataset.__name__}"
        try:
            examples: MultimodalDataset = call_class_method(partial(dataset, **accepted), what, "")
            call_class_method(partial(_look_at, examples, check, info, samples, seed), what, "")
        except MSDError as error:
            check.wrong.append(str(error))
    if not shared_rows:
        opened = {split: check.rows for split, check in checks.items() if check.rows is not None}
        for split, text in shared_splits(opened, dataset.overlapping):
            checks[split].wrong.append(text)
    return list(checks.values())


def _look_at(examples: MultimodalDataset, check: SplitCheck, info: DatasetInfo, samples: int, seed: int) -> None:
    skipped: list[str] = getattr(examples, "skipped", [])
    check.num_examples, check.skipped = len(examples), len(skipped)
    check.wrong += shortened(skipped, MOST_SHOWN, MORE)
    if check.published is not None and check.num_examples != check.published:
        check.wrong.append(f"{check.name} has {check.num_examples:,} examples, and its publisher says {check.published:,}.")
    check.rows = (examples, examples.row_keys or survey(examples, info))
    absent: dict[PurePath, str] = {}
    for index in range(len(examples)):
        example = read_example(examples, index, info.modalities)
        if not isinstance(example.inputs, dict):
            break  # arrays, which are read only when they are asked for
        for modality, value in example.inputs.items():
            if value is None:
                check.lacking[modality] = check.lacking.get(modality, 0) + 1
            elif isinstance(value, PurePath) and value not in absent:
                absent[value] = "" if Path(value).is_file() else _absent(example, value)
    texts = list(filter(None, absent.values()))
    check.absent = len(texts)
    check.wrong += shortened(texts, MOST_SHOWN, MORE)
    chosen = np.random.default_rng(seed).permutation(len(examples))[:samples].tolist()
    for index in sorted(chosen):
        check.sampled += 1
        check.wrong += [text for text in _read(examples, index, info) if text not in texts]


def _absent(example: Example, value: PurePath) -> str:
    return f"{example.source}: {value}: no such file"


def _read(examples: MultimodalDataset, index: int, info: DatasetInfo) -> list[str]:
    """What is wrong with the inputs of an example, read whole."""
    example, wrong = read_example(examples, index, info.modalities), list[str]()
    for modality, kind in info.modalities.items():
        value = example.inputs[modality]
        if isinstance(value, str) and not value.strip():
            wrong.append(f"{example.source}: {modality} is empty")
        if not isinstance(value, PurePath):
            continue
        file = Path(value)
        if not file.is_file():
            wrong.append(_absent(example, value))
            continue
        try:
            if kind == "pixels":
                read_image(file)
            elif not file.stat().st_size:
                wrong.append(f"{example.source}: {value}: is empty")
            elif kind == "waveform":
                read_wav(file)
            elif file.suffix == ".mat":
                read_mat(file)
        except DataError as error:
            wrong.append(f"{example.source}: {error}")
    return wrong


def _word_problems(wanted: Mapping[str, Any]) -> list[Problem]:
    problems, splits = [], wanted["splits"]
    if splits is not None and not (isinstance(splits, list) and splits and all(isinstance(s, str) for s in splits)):
        problems.append(Problem("splits", f"wanted a list of splits, such as [train], got {splits!r}."))
    for key in ("samples", "seed"):
        if type(wanted[key]) is not int or wanted[key] < 0:
            problems.append(Problem(key, f"wanted a whole number of 0 or more, got {wanted[key]!r}."))
    if not isinstance(wanted["shared_rows"], bool):
        problems.append(Problem("shared_rows", f"wanted true or false, got {wanted['shared_rows']!r}."))
    return problems


def _table(name: str, options: Mapping[str, Any], checks: Sequence[SplitCheck]) -> Table:
    rows = []
    for check in checks:
        numbers, state = [check.num_examples, check.published, check.skipped, check.absent, check.sampled], "ok"
        if not check.is_there:
            numbers, state = [None, check.published, None, None, None], "not there"
        if check.wrong:
            state = "wrong" if check.is_there else "missing"
        rows.append([check.name, *("" if n is None else f"{n:,}" for n in numbers), state])
    columns = ("split", "examples", "publisher's", "left out", "files missing", "read whole", "state")
    return Table(columns, rows, f"{name} in {options.get('root', 'its default root')}")


def _lines(checks: Sequence[SplitCheck]) -> Iterator[str]:
    for check in checks:
        for modality, count in check.lacking.items():
            yield f"{check.name}: {count:,} of {check.num_examples:,} examples have no {modality}."
        for text in check.wrong:
            yield f"{check.name}: {text}"
