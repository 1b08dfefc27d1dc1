"""Every key of a checkpoint's card and state is edited in turn, with hashes that fit: a sentence or a right run, nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from msd_framework.analysis.doctor.recorded import read_recorded
from msd_framework.build.facts import RunFacts
from msd_framework.checks.resume import resumption
from msd_framework.checks.run import checked
from msd_framework.config.cards import card_of, rebuilt
from msd_framework.config.load import load
from msd_framework.engine.checkpoint import read
from msd_framework.engine.resume import resume
from msd_framework.errors import MSDError
from tests.runs import tiny_runner


def keys(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values of a nest, of a list and of numbered things those of the first alone."""
    inner = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, one in inner[:1] if str(inner[:1]).strip("[('")[:1].isdigit() else inner:
        yield (*at, key)
        yield from keys(one, (*at, key))


def edits(values: dict[str, Any], given: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The values with one place changed, for each place and each new value."""
    for place in keys(values):
        for new in [*given, "delete"]:
            edited = copy.deepcopy(values)
            holder = edited
            for key in place[:-1]:
                holder = holder[key]
            if new == "delete":
                del holder[place[-1]]
            else:
                holder[place[-1]] = new
            if edited != values:
                yield f"{'.'.join(map(str, place))} = {new!r}", edited


def outcome(name: str, use: Callable[[], object]) -> str:
    """Whether what was edited can be used, or is told in one line; anything else fails."""
    try:
        use()
    except MSDError as error:
        return "sentence" if len(str(error).splitlines()) == 1 else pytest.fail(f"{name}: {error}")
    except Exception as error:
        pytest.fail(f"{name}: {type(error).__name__}: {error}")
    return "used"


def test_an_edited_card_is_a_model_or_a_sentence(tiny_teacher, tiny_config, tmp_path):
    shutil.copytree(tiny_teacher, tmp_path / "copy")
    config = checked(load(tiny_config, [f"env.save_dir={tmp_path / 'run'}", "run_type=check"]))
    folder = next((tmp_path / "copy" / "checkpoints").glob("update_*"))
    card = json.loads((folder / "card.json").read_text())
    found = Counter[str]()
    for name, edited in edits(card, [None, 10**30]):
        (folder / "card.json").write_text(json.dumps(edited))
        found[outcome(name, lambda: rebuilt(card_of(folder, config), folder))] += 1
    assert min(found["sentence"], found["used"]) > 10, found


MORE = {
    "evaluation": {"metrics": ["accuracy", {"type": "auroc"}], "monitor": "accuracy", "views": ["full"]},
    "callbacks": [{"type": "early_stopping", "patience": 2}],
    "checkpoint": {"resume": False},
    "expected": {"test/accuracy": 0.5},
    "allow": ["a.B"],
}
"""What the configuration of the run does not say, for it to be edited too."""


def test_an_edited_configuration_of_a_run_is_gone_on_with_or_a_sentence(tiny_teacher, tiny_config, tmp_path):
    shutil.copytree(tiny_teacher, tmp_path / "run")
    config = checked(load(tiny_config, [f"env.save_dir={tmp_path / 'run'}", "checkpoint.resume=true", "run_type=check"]))
    file, found = tmp_path / "run" / "config.yaml", Counter[str]()
    values = yaml.safe_load(file.read_text())
    for name, edited in edits({**values, **MORE}, [[{}]]):
        file.write_text(json.dumps(edited))  # which is YAML too
        texts: list[str] = []
        outcome(name, lambda texts=texts: texts.extend(map(str, resumption(RunFacts(config)))))
        assert not [text for text in texts if len(text.splitlines()) > 1]
        found["told" if texts else "gone on with"] += 1
        found["read" if read_recorded(str(tmp_path / "run"), config).metrics else "not read"] += 1
    assert min(found.values()) > 10, found


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"\x00", b"\xff\xfe", b"a: [", b"a: &a [*a]", b"data: {train: 2020-01-01}", b"- 1\n: 2"]
)
def test_a_configuration_of_a_run_that_is_none_is_a_sentence(raw, tiny_teacher, tiny_config, tmp_path):
    shutil.copytree(tiny_teacher, tmp_path / "run")
    config = checked(load(tiny_config, [f"env.save_dir={tmp_path / 'run'}", "checkpoint.resume=true", "run_type=check"]))
    (tmp_path / "run" / "config.yaml").write_bytes(raw)
    (problem,) = resumption(RunFacts(config))
    assert "config.yaml" in str(problem)
    assert len(str(problem).splitlines()) == 1
    assert read_recorded(str(tmp_path / "run"), config).why_not == "its run's folder has no config.yaml that can be read"


@pytest.mark.parametrize(
    "edit", [[], {"metrics": 3}, {"metrics": {"validation/accuracy": [1]}}, {"examples": {"validation": "all"}}]
)
def test_an_edited_report_of_a_teacher_is_compared_as_far_as_it_can_be(edit, tiny_teacher, tiny_config, tmp_path):
    shutil.copytree(tiny_teacher, tmp_path / "run")
    config = checked(load(tiny_config, [f"env.save_dir={tmp_path / 'other'}", "run_type=check"]))
    (tmp_path / "run" / "report.json").write_text(json.dumps({"precision": "fp32", **edit} if isinstance(edit, dict) else edit))
    found = read_recorded(str(tmp_path / "run"), config)
    assert (found.why_not, found.rows, found.precision) == ("", None, "fp32")


def test_metrics_of_a_teacher_s_run_import_nothing(tiny_teacher, tiny_config, tmp_path):
    shutil.copytree(tiny_teacher, tmp_path / "run")
    config = checked(load(tiny_config, [f"env.save_dir={tmp_path / 'other'}", "run_type=check"]))
    file = tmp_path / "run" / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "evaluation": {"metrics": ["antigravity.Metric"]}}))
    assert read_recorded(str(tmp_path / "run"), config).why_not == "its run's folder has no config.yaml that can be read"
    assert "antigravity" not in sys.modules


def resumed(folder: Path) -> None:
    """Goes on for one update."""
    runner, _ = tiny_runner(folder=folder)
    assert resume(runner)
    runner.checkpoints = None
    runner.plan = replace(runner.plan, num_updates=runner.update + 1)
    runner.fit()


def test_an_edited_state_is_gone_on_with_or_a_sentence(tmp_path):
    runner, _ = tiny_runner(folder=tmp_path, num_updates=2, save_at=frozenset({2}))
    runner.fit()
    (folder,) = tmp_path.glob("update_*")
    state, files = read(folder).state, json.loads((folder / "files.json").read_text())
    found = Counter[str]()
    for name, edited in edits(state, ["text", 10**30]):
        text = json.dumps(edited)
        (folder / "state.json").write_text(text)
        files["sha256"]["state.json"] = hashlib.sha256(text.encode()).hexdigest()
        (folder / "files.json").write_text(json.dumps(files))
        found[outcome(name, lambda: resumed(tmp_path))] += 1
    assert min(found["sentence"], found["used"]) > 10, found
