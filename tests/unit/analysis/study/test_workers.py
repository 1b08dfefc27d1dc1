"""Processes that do tasks; each test's functions are the standard library's, which a new process imports fast."""

import multiprocessing
import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from msd_framework.analysis.study import workers
from msd_framework.analysis.study.workers import Task, work
from msd_framework.config.load import find_file


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "logs" / "log.txt"


def happenings(tasks, num_workers=2):
    return [(e.task.name, e.happened) for e in work(tasks, num_workers)]


def test_tasks_start_in_order_and_after_what_they_need(log):
    tasks = [
        Task("teacher", time.sleep, (0.2,), log),
        Task("student", time.sleep, (0,), log, ("teacher",)),
        Task("alone", time.sleep, (0,), log),
    ]
    found = happenings(tasks)
    assert found.index(("student", "started")) > found.index(("teacher", "done"))
    assert found[:2] == [("teacher", "started"), ("alone", "started")]
    assert len(found) == 6


def test_output_goes_to_the_log(log, capfd):
    assert happenings([Task("one", print, ("here",), log), Task("two", os.system, ("echo there",), log)], 1)[-1] == ("two", "done")
    assert log.read_text() == "here\nthere\n"
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
@pytest.mark.parametrize(("log", "said"), [("/dev/full", "No space left on device. Make room"), ("/proc/log.txt", "No such file")])
def test_a_log_that_cannot_be_written_is_a_sentence_and_the_worker_goes_on(log, said, capfd):
    events = list(work([Task("one", print, ("here",), Path(log)), Task("two", print, (), Path("/dev/null"))], 1))
    assert [e.happened for e in events] == ["started", "failed", "started", "done"]
    assert said in events[1].error
    assert capfd.readouterr() == ("", "")


def test_a_failure_takes_down_those_that_need_it_alone(log):
    tasks = [
        Task("teacher", int, ("x",), log),
        Task("student", print, (), log, ("teacher",)),
        Task("after", print, (), log, ("student",)),
        Task("other", print, ("fine",), log),
    ]
    events = list(work(tasks, 1))
    assert [(e.task.name, e.happened, e.error) for e in events] == [
        ("teacher", "started", ""),
        ("teacher", "failed", "ValueError: invalid literal for int() with base 10: 'x'"),
        ("student", "skipped", "needs teacher"),
        ("after", "skipped", "needs student"),
        ("other", "started", ""),
        ("other", "done", ""),
    ]
    assert "Traceback" in log.read_text()


def test_a_mistake_of_the_users_is_told_without_a_traceback(log):
    events = list(work([Task("run", find_file, ("nothing.yaml",), log)], 1))
    assert events[-1].error == "config: there is no file nothing.yaml."
    assert log.read_text() == events[-1].error + "\n"


@pytest.mark.parametrize(
    ("function", "arguments", "ending"),
    [(os._exit, (3,), "exit code 3"), (os.abort, (), r"signal 6 (SIGABRT), which is often a lack of memory")],
)
def test_a_process_that_dies_fails_its_task_and_is_replaced(function, arguments, ending, log):
    events = list(work([Task("dies", function, arguments, log), Task("lives", print, (), log)], 1))
    assert events[1].error == f"its process ended with {ending}"
    assert events[-1].happened == "done"


def test_a_process_that_ends_before_it_reads_its_task_fails_it(log, monkeypatch):
    begin = workers._Worker.start

    def begin_too_late(worker, task):
        worker.process.kill()
        worker.process.join()
        begin(worker, task)

    monkeypatch.setattr(workers._Worker, "start", begin_too_late)
    *_, event = work([Task("a", print, (), log)], 1)
    assert event.error.startswith("its process ended with signal 9")


def test_whatever_ends_the_iteration_ends_the_processes(log):
    with closing(work([Task("long", time.sleep, (60,), log)], 1)) as events:
        next(events)
        (process,) = multiprocessing.active_children()
    assert not process.is_alive()
    assert multiprocessing.active_children() == []
