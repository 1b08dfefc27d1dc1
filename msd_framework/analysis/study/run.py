"""Methods by seeds: the runs of a study, each done once, and what they show together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from msd_framework.analysis.saliency.config import label
from msd_framework.analysis.saliency.scores import run_saliency
from msd_framework.analysis.study.config import TEACHER, StudyConfig, load_study, needs_teacher
from msd_framework.analysis.study.report import write_report
from msd_framework.analysis.study.workers import Task, work
from msd_framework.checks.resume import leaves
from msd_framework.components.specs import complete
from msd_framework.config.load import load, resolve
from msd_framework.config.values import as_word
from msd_framework.errors import ConfigError, TrainingError
from msd_framework.files import split_file
from msd_framework.reading import read_json
from msd_framework.registry import PROCESSORS
from msd_framework.run import run
from msd_framework.screen import progress_bar, say
from msd_framework.worlds import make_world
from msd_framework.worlds.make import MANIFEST

NO_NUMBERS = ("name", "expected", "env")  # keys that change no number of a run


@dataclass(frozen=True)
class StudyRun:
    """One method, or the teacher, with one seed of the run and of its world."""

    name: str
    seed: int
    config: str  # its YAML
    folder: Path
    words: tuple[str, ...]  # what the study sets over its YAML, over what its method does
    options: tuple[str, ...] = ()  # what its method sets over its YAML

    @property
    def title(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def is_done(self) -> bool:
        return (self.folder / "report.json").is_file()

    def differences(self) -> list[str]:
        """The options that its folder was made with and that would give other numbers than the study asks for."""
        written = self.folder / "config.yaml"
        if not written.is_file():
            return []
        here = resolve(load(self.config, (*self.options, *self.words))).values
        prefixes = [f"{key}." for key in NO_NUMBERS]
        for word in self.words:  # which name the study's folders, and those may have been moved
            prefixes.append(f"{word.partition('=')[0]}.")
        texts = []
        for key, text in _differences(load(written).values, here):
            if not f"{key}.".startswith(tuple(prefixes)):
                texts.append(text)
        return texts

    def report(self) -> dict[str, Any]:
        return {**read_json(self.folder / "report.json"), "name": self.name, "seed": self.seed}


def run_study(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Runs every method with every seed, and compares them; returns what `summary.json` holds."""
    config = load_study(path, overrides)
    runs = list(planned(config))
    refuse_others(config, runs)
    if config.run_type == "check":
        return {}
    do([*tasks(config, runs), *saliency_tasks(config, runs)], config)
    saliency_files = [saliency_file(r) for r in runs if config.saliency and r.name == TEACHER]
    return write_report(config, list(map(StudyRun.report, runs)), saliency_files)


def planned(config: StudyConfig) -> Iterator[StudyRun]:
    """All runs of a study: seed by seed, the teacher first."""
    needs_it, processors = {}, {}
    for name, file in config.run_files.items():
        values = load(file, config.words(name)).values
        has_own_teacher = (values.get("teacher") or {}).get("ema") is not None  # an average of the student
        needs_it[name] = needs_teacher(values["objective"]) and not has_own_teacher
        processors[name] = {m: complete(PROCESSORS, spec) for m, spec in values["data"]["processors"].items()}
    for seed in config.seed_list:
        teacher = config.folder / TEACHER / f"seed_{seed}"
        for name, file in config.run_files.items():
            folder = config.folder / name / f"seed_{seed}"
            settings = {"seed": seed, "env.save_dir": str(folder), "checkpoint.resume": True}
            if config.world is not None:
                settings["data.dataset.root"] = str(_world_folder(config, seed))
            if config.teacher is not None and name != TEACHER:
                # a student that does not learn from the teacher may have other inputs, and then shares nothing with it
                if needs_it[name] or processors[name] == processors[TEACHER]:
                    settings["data.processors_from"] = str(teacher)
                if needs_it[name]:
                    settings["teacher.checkpoint"] = str(teacher)
            words = tuple(as_word(key, value) for key, value in settings.items())
            yield StudyRun(name, seed, file, folder, words, config.words(name))


def refuse_others(config: StudyConfig, runs: Iterable[StudyRun]) -> None:
    """Refuses folders of runs and of their worlds in which something lies that is not of this study."""
    problems = []
    for one in runs:
        if texts := one.differences():
            text = f"{one.folder} holds a run of another configuration: {'; '.join(texts)}."
            problems.append(f"{text} Name another env.save_dir, or delete that folder.")
    for seed in config.seed_list:
        folder = _world_folder(config, seed)
        if config.world is not None and (folder / MANIFEST).is_file():
            differences = _differences(read_json(folder / MANIFEST), asdict(config.world.plan(seed)), None)
            if texts := [f"world.{text}" for _, text in differences]:
                text = f"{folder} holds another made world, and the runs here are of that one: {'; '.join(texts)}."
                problems.append(f"{text} Name another env.save_dir, or delete {config.folder}.")
    if problems:
        raise ConfigError(*problems)


def tasks(config: StudyConfig, runs: Iterable[StudyRun]) -> list[Task]:
    """What is left to do: the runs that are not done, and before them the worlds that they read."""
    left: dict[str, Task] = {}
    for one in runs:
        if one.is_done:
            continue
        world = f"world, seed {one.seed}"
        if config.world is not None and world not in left:
            folder = _world_folder(config, one.seed)
            log = folder.with_name(f"{folder.name}.log.txt")
            make = partial(make_world, folder=folder, seed=one.seed, **asdict(config.world))
            left[world] = Task(world, make, (), log)
        needs = tuple(sorted(left.keys() & {world, f"{TEACHER}, seed {one.seed}"}))
        call = (run, one.config, (*one.options, *one.words))
        left[one.title] = Task(one.title, in_one_thread, call, one.folder / "log.txt", needs)
    return list(left.values())


def saliency_tasks(config: StudyConfig, runs: Iterable[StudyRun]) -> Iterator[Task]:
    """The seeds' teachers whose modalities are not scored yet."""
    wanted = set(map(label, config.saliency))
    options = {"split": "test", "examples": 1, "resamples": 0, "scores": config.saliency}
    for one in runs:
        if not wanted or one.name != TEACHER:
            continue
        file = saliency_file(one)
        if file.is_file() and set(read_json(file)["scores"]) == wanted:
            continue
        words = (*one.options, *one.words, *(as_word(key, value) for key, value in options.items()))
        needs = () if one.is_done else (one.title,)
        call, log = (run_saliency, one.config, words), one.folder / "saliency.log.txt"
        yield Task(f"saliency, seed {one.seed}", in_one_thread, call, log, needs)


def saliency_file(teacher: StudyRun) -> Path:
    split = resolve(load(teacher.config, teacher.words)).values["data"]["test"]
    return split_file(teacher.folder / "saliency", "saliency", split, "json")


def do(left: list[Task], config: StudyConfig) -> None:
    """Does what is left, with a line and a step of the bar for each task; raises a TrainingError once all is tried."""
    if not left:
        return
    running: dict[str, None] = {}
    sentences, num_failed = list[str](), 0
    bar = progress_bar("running", remaining=False)
    with closing(work(left, config.jobs)) as events, bar:
        shown = bar.add_task(config.name, total=len(left), running="")
        for event in events:
            if event.happened == "started":
                running[event.task.name] = None
            else:
                running.pop(event.task.name, None)
                num_failed += bool(event.error)
                if event.happened == "failed":
                    sentences.append(f"{event.task.name} failed: {event.error} Its output is in {event.task.log}.")
                bar.advance(shown)
                took = f"done in {event.seconds:.1f} s" if event.happened == "done" else f"{event.happened}: {event.error}"
                say(f"{event.task.name}: {took}", bar.console)
            bar.update(shown, running=" | ".join(running))
    if num_failed:
        sentences.append(f"{len(left) - num_failed} of {len(left)} tasks are done and will not be done again.")
        raise TrainingError("\n".join(sentences))


def in_one_thread(function: Callable[[str, tuple[str, ...]], object], config: str, words: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    function(config, words)


def _world_folder(config: StudyConfig, seed: int) -> Path:
    return config.folder / "world" / f"seed_{seed}"


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], absent: Any = "not given") -> Iterator[tuple[str, str]]:
    """The keys in which two nests differ, each with a sentence."""
    before, now = dict(leaves(there, "")), dict(leaves(here, ""))
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            yield key, f"{key} is {before.get(key, absent)} there and {now.get(key, absent)} here"
