"""Methods by seeds: the runs of a study, each done once, and what they show together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from msd_framework.analysis.saliency.config import label
from msd_framework.analysis.saliency.scores import run_saliency
from msd_framework.analysis.study.config import TEACHER, StudyConfig, WorldConfig, load_study, needs_teacher
from msd_framework.analysis.study.report import write_report
from msd_framework.analysis.study.workers import Event, Task, work
from msd_framework.components.specs import complete
from msd_framework.config.load import load, resolve
from msd_framework.config.values import as_word
from msd_framework.errors import ConfigError, TrainingError
from msd_framework.reading import read_json
from msd_framework.registry import PROCESSORS
from msd_framework.run import run
from msd_framework.screen import progress_bar, say
from msd_framework.worlds import make_world
from msd_framework.worlds.make import MANIFEST

NO_NUMBERS = ("name", "expected", "env")
"""Keys that change no number of a run."""


@dataclass(frozen=True)
class Run:
    """One method with one seed.

    Args:
        name: the method, or ``teacher``.
        seed: the seed of the run and of its world.
        config: its YAML.
        folder: where it writes.
        words: what the study sets.
        options: what its method sets over the YAML.
    """

    name: str
    seed: int
    config: str
    folder: Path
    words: tuple[str, ...]
    options: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def is_done(self) -> bool:
        return (self.folder / "report.json").is_file()

    def differences(self) -> list[str]:
        """What its folder was made with, where that is not what the study asks for and would give other numbers."""
        made = self.folder / "config.yaml"
        if not made.is_file():
            return []
        there = dict(_flat(load(made).values))
        here = dict(_flat(resolve(load(self.config, (*self.options, *self.words))).values))
        free = (*NO_NUMBERS, *(word.partition("=")[0] for word in self.words))  # folders of the study, which may have been moved
        keys = [k for k in {**there, **here} if not any(k == own or k.startswith(f"{own}.") for own in free)]
        return [
            f"{k} is {there.get(k, 'not given')} there and {here.get(k, 'not given')} here"
            for k in keys
            if there.get(k) != here.get(k)
        ]

    def report(self) -> dict[str, Any]:
        """What it has reported."""
        found: dict[str, Any] = read_json(self.folder / "report.json")
        return found


def run_study(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Runs every method with every seed, unless that is done already, and compares them.

    Args:
        path: a study's YAML.
        overrides: words ``a.b=value`` over it.

    Returns:
        The summary, which is also written to `summary.json`; empty for ``run_type=check``.

    Raises:
        MSDError: if the user can mend what is wrong.
    """
    config = load_study(path, overrides)
    runs = list(planned(config))
    refuse_others(config, runs)
    if config.run_type == "check":
        return {}
    do([*tasks(config, runs), *saliency_tasks(config, runs)], config)
    asked = [saliency_file(r) for r in runs if config.saliency and r.name == TEACHER]
    return write_report(config, [{**r.report(), "name": r.name, "seed": r.seed} for r in runs], asked)


def planned(config: StudyConfig) -> Iterator[Run]:
    """All runs of a study: seed by seed, the teacher first."""
    values = {n: load(file, config.words(n)).values for n, file in config.run_files.items()}
    own = {n for n, v in values.items() if (v.get("teacher") or {}).get("ema") is not None}  # taught by an average of the student
    taught = {n: needs_teacher(v["objective"]) and n not in own for n, v in values.items()}
    made = {n: {m: complete(PROCESSORS, spec) for m, spec in v["data"]["processors"].items()} for n, v in values.items()}
    for seed in config.seed_list:
        teacher = config.folder / TEACHER / f"seed_{seed}"
        for name, file in config.run_files.items():
            folder = config.folder / name / f"seed_{seed}"
            settings = {"seed": seed, "env.save_dir": str(folder), "checkpoint.resume": True}
            if config.world is not None:
                settings["data.dataset.root"] = str(_world_folder(config, seed))
            if config.teacher is not None and name != TEACHER:
                # a student of other inputs than the teacher's that is not taught by it shares nothing with it
                if taught[name] or made[name] == made[TEACHER]:
                    settings["data.processors_from"] = str(teacher)
                if taught[name]:
                    settings["teacher.checkpoint"] = str(teacher)
            words = tuple(as_word(key, value) for key, value in settings.items())
            yield Run(name, seed, file, folder, words, config.words(name))


def refuse_others(config: StudyConfig, runs: Iterable[Run]) -> None:
    """Makes sure that what lies in the folders of the runs and of their worlds is of this study.

    Raises:
        ConfigError: if something is not, with what differs.
    """
    differing = [(r, r.differences()) for r in runs]
    problems = [
        f"{r.folder} holds a run of another configuration: {'; '.join(texts)}. Name another env.save_dir, or delete that folder."
        for r, texts in differing
        if texts
    ]
    for seed in config.seed_list if config.world else ():
        folder = _world_folder(config, seed)
        if texts := _world_differences(config, seed):
            text = f"{folder} holds another made world, and the runs here are of that one: {'; '.join(texts)}."
            problems.append(f"{text} Name another env.save_dir, or delete {config.folder}.")
    if problems:
        raise ConfigError(*problems)


def tasks(config: StudyConfig, runs: Iterable[Run]) -> list[Task]:
    """What is left to do: the runs that are not done, and before them the worlds that they read."""
    left = [r for r in runs if not r.is_done]
    found: list[Task] = []
    for run_left in left:
        world = f"world, seed {run_left.seed}"
        if config.world is not None and all(t.name != world for t in found):
            folder = _world_folder(config, run_left.seed)
            log = folder.with_name(f"{folder.name}.log.txt")
            found.append(Task(world, make_seed_world, (config.world, folder, run_left.seed), log))
        before = {world, f"{TEACHER}, seed {run_left.seed}"}.intersection(t.name for t in found)
        log = run_left.folder / "log.txt"
        found.append(
            Task(run_left.title, do_run, (run_left.config, (*run_left.options, *run_left.words)), log, tuple(sorted(before)))
        )
    return found


def saliency_tasks(config: StudyConfig, runs: Iterable[Run]) -> Iterator[Task]:
    """What each seed's teacher is still to be asked about its modalities."""
    wanted = {label(spec) for spec in config.saliency}
    for teacher in (r for r in runs if config.saliency and r.name == TEACHER):
        file = saliency_file(teacher)
        if file.is_file() and set(read_json(file)["scores"]) == wanted:
            continue
        asked = {"split": "test", "examples": 1, "resamples": 0, "scores": config.saliency}
        words = (*teacher.options, *teacher.words, *(as_word(key, value) for key, value in asked.items()))
        before = () if teacher.is_done else (teacher.title,)
        yield Task(
            f"saliency, seed {teacher.seed}", ask_saliency, (teacher.config, words), teacher.folder / "saliency.log.txt", before
        )


def saliency_file(teacher: Run) -> Path:
    """Where what a teacher says of its modalities is written."""
    split = resolve(load(teacher.config, teacher.words)).values["data"]["test"]
    return teacher.folder / "saliency" / f"saliency_{split.replace('/', '_')}.json"


def do(left: list[Task], config: StudyConfig) -> None:
    """Does what is left, with a line and a step of the bar for each task.

    Raises:
        TrainingError: if something failed, once all else is done.
    """
    if not left:
        return
    running: list[str] = []
    failed: list[Event] = []
    bar = progress_bar("running", remaining=False)
    with closing(work(left, config.jobs)) as events, bar:
        shown = bar.add_task(config.name, total=len(left), running="")
        for event in events:
            if event.happened == "started":
                running.append(event.task.name)
            else:
                running = [name for name in running if name != event.task.name]
                failed += [event] if event.error else []
                bar.advance(shown)
                say(line(event), bar.console)
            bar.update(shown, running=" | ".join(running))
    if failed:
        causes = [e for e in failed if e.happened == "failed"]
        sentences = [f"{e.task.name} failed: {e.error} Its output is in {e.task.log}." for e in causes]
        rest = f"{len(left) - len(failed)} of {len(left)} tasks are done and will not be done again."
        raise TrainingError("\n".join([*sentences, rest]))


def line(event: Event) -> str:
    """What happened to a task, in words.

    >>> line(Event(Task("kd, seed 0", print, (), Path("log.txt")), "done", seconds=12.31))
    'kd, seed 0: done in 12.3 s'
    """
    if event.happened == "done":
        return f"{event.task.name}: done in {event.seconds:.1f} s"
    return f"{event.task.name}: {event.happened}: {event.error}"


def make_seed_world(world: WorldConfig, folder: Path, seed: int) -> None:
    """Makes the world of a seed, in a worker."""
    make_world(folder=folder, seed=seed, **asdict(world))


def do_run(config: str, words: Iterable[str]) -> None:
    """Does a run, in a worker."""
    torch.set_num_threads(1)
    run(config, words)


def ask_saliency(config: str, words: Iterable[str]) -> None:
    """Asks a teacher what each modality is to it, in a worker."""
    torch.set_num_threads(1)
    run_saliency(config, tuple(words))


def _world_folder(config: StudyConfig, seed: int) -> Path:
    return config.folder / "world" / f"seed_{seed}"


def _world_differences(config: StudyConfig, seed: int) -> list[str]:
    """What the world of a seed was made with, where that is not what the study asks for."""
    made = _world_folder(config, seed) / MANIFEST
    if config.world is None or not made.is_file():
        return []
    there = dict(_flat(read_json(made)))
    here = dict(_flat(asdict(config.world.plan(seed))))
    return [f"world.{k} is {there.get(k)} there and {here.get(k)} here" for k in {**there, **here} if there.get(k) != here.get(k)]


def _flat(values: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(values, Mapping):
        yield at, values
        return
    for key, value in values.items():
        yield from _flat(value, f"{at}.{key}" if at else str(key))
