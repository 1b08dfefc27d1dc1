"""Files of a stranger's: what they name is never run. docs/security.md lists them."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from msd_framework.cli import main
from tests.integration.mistakes import DISTILLATION

MARK = "it_was_run"
"""The file in the working folder that hostile code makes."""

EVIL = f"""\
from pathlib import Path
from torch import nn
Path({MARK!r}).touch()
from msd_framework.models.late_fusion import LateFusion
class Evil(LateFusion):
    pass
class Net(nn.Module):
    pass
"""

GETOUTPUT = {"type": "module", "target": "subprocess.getoutput", "inputs": {"text": "x"}, "options": {"cmd": f"touch {MARK}"}}


def signed(checkpoint: Path, change: Callable[[dict[str, Any]], object], name: str = "card.json") -> None:
    """Edits a JSON file of a checkpoint, and writes hashes that fit."""
    values = json.loads((checkpoint / name).read_text())
    change(values)
    (checkpoint / name).write_text(json.dumps(values))
    files = json.loads((checkpoint / "files.json").read_text())
    files["sha256"][name] = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    (checkpoint / "files.json").write_text(json.dumps(files))


def in_rebuild(card: dict[str, Any]) -> None:
    card["rebuild"] = GETOUTPUT


def in_model(card: dict[str, Any]) -> None:
    card["model"] = GETOUTPUT


def as_dotted_name(card: dict[str, Any]) -> None:
    card["rebuild"]["type"] = card["model"]["type"] = "evil.Evil"


def in_an_encoder(card: dict[str, Any]) -> None:
    card["rebuild"]["encoders"]["text"] = {"type": "evil.Evil"}


def as_the_name_of_an_encoder(card: dict[str, Any]) -> None:
    card["model"]["encoders"]["text"] = "evil.Evil"


def in_a_processor(card: dict[str, Any]) -> None:
    card["processors"]["text"]["spec"] = {"type": "evil.Evil"}


CARDS = [in_rebuild, in_model, as_dotted_name, in_an_encoder, as_the_name_of_an_encoder, in_a_processor]

COMMANDS: dict[str, list[str]] = {
    "teacher": ["run", *DISTILLATION],
    "check of a teacher": ["run", *DISTILLATION, "run_type=check"],
    "doctor": ["doctor", *DISTILLATION],
    "init": ["run", "init.checkpoint=<teacher>"],
    "check of init": ["run", "init.checkpoint=<teacher>", "run_type=check"],
    "processors_from": ["run", "data.processors_from=<teacher>"],
    "load": ["run", "run_type=test", "checkpoint.load=<teacher>"],
    "own folder": ["run", "run_type=test", "env.save_dir=<teacher>"],
    "saliency": ["saliency", *DISTILLATION],
    "saliency of the run's own model": ["saliency", "env.save_dir=<teacher>"],
    "layers": ["layers", *DISTILLATION],
    "cache": ["cache", "build", *DISTILLATION, "teacher.cache=true"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module in it that leaves a mark if it is ever imported."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("evil", "mine"):
        sys.modules.pop(name, None)


@pytest.fixture
def stranger(here: Path, tiny_teacher: Path) -> Path:
    """A copy of a finished run, to be made hostile."""
    shutil.copytree(tiny_teacher, here / "stranger", symlinks=True)
    return here / "stranger"


def told(words: list[str], config: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that a command ends with; the doctor's is a finding."""
    words = [w.replace("<teacher>", str(folder)) for w in words]
    where = [] if any(w.startswith("env.save_dir") for w in words) else ["env.save_dir=run"]
    position = 2 if words[0] == "cache" else 1
    assert main([*words[:position], f"config={config}", *where, *words[position:]]) == (1 if words[0] == "doctor" else 2)
    captured = capsys.readouterr()
    return captured.out if words[0] == "doctor" else captured.err


@pytest.mark.parametrize(
    ("command", "change"),
    [*((command, in_rebuild) for command in COMMANDS), *(("check of a teacher", change) for change in CARDS[1:])],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_code_that_a_card_names_is_not_run(command, change, here, stranger, tiny_config, capsys):
    signed((stranger / "checkpoints" / "best").resolve(), change)
    sentence = told(COMMANDS[command], tiny_config, stranger, capsys)
    assert not (here / MARK).exists()
    assert "which is code and no registered component" in sentence
    assert "add `allow: [" in sentence


def test_a_module_of_the_folder_is_not_found_by_what_the_library_imports(here, stranger, tiny_config):
    (here / "lmdb.py").write_text(EVIL)
    (here / "tensorboard.py").write_text(EVIL)
    assert main(["run", f"config={tiny_config}", "env.save_dir=run"]) == 0
    assert not (here / MARK).exists()


def test_a_class_of_a_card_is_taken_where_the_yaml_allows_that_class(here, stranger, tiny_config):
    signed((stranger / "checkpoints" / "best").resolve(), as_dotted_name)
    words = [w.replace("<teacher>", str(stranger)) for w in DISTILLATION]
    assert main(["run", f"config={tiny_config}", "env.save_dir=run", *words, "allow=[other.Evil]"]) == 2
    assert not (here / MARK).exists()
    assert main(["run", f"config={tiny_config}", "env.save_dir=run", *words, "allow=[evil.Evil]"]) == 0
    assert (here / MARK).exists()


OWN = """\
from torch import nn

class Mine(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.words, self.sight = nn.Embedding(500, num_classes), nn.Linear(3 * 8 * 8, num_classes)

    def forward(self, input_ids, pixel_values):
        return self.words(input_ids).mean(1) + self.sight(pixel_values.flatten(1))
"""


def test_a_run_whose_yaml_names_a_module_teaches_is_evaluated_and_resumed(here, tiny_config):
    (here / "mine.py").write_text(OWN)
    model = "model={type: module, target: mine.Mine, inputs: {text: input_ids, image: pixel_values}}"
    words = [f"config={tiny_config}", model, "masker=attention"]
    yaml_of_own = yaml.safe_load(tiny_config.read_text())
    assert main(["run", *words, "run_type=check", "env.save_dir=run"]) == 0
    assert main(["run", *words, "env.save_dir=run"]) == 0
    assert main(["run", *words, "env.save_dir=run", "run_type=test"]) == 0
    assert main(["run", *words, "env.save_dir=run", "checkpoint.resume=true", "training.max_updates=3"]) == 0
    student = [w.replace("<teacher>", "run") for w in DISTILLATION]
    assert main(["run", *words, "env.save_dir=same", *student]) == 0
    other = ["run", f"config={tiny_config}", "masker=attention", "env.save_dir=other", *student]
    assert yaml_of_own["model"]["type"] == "late_fusion"
    assert main(other) == 2
    assert main([*other, "allow=[mine.Mine]"]) == 0


def test_a_module_in_a_yaml_is_not_imported_by_a_check(here, tiny_config, capsys):
    model = "{type: module, target: evil.Net, inputs: {text: x, image: y}}"
    words = ["run", f"config={tiny_config}", f"model={model}", "masker=attention", "env.save_dir=run"]
    assert main([*words, "run_type=check"]) == 0
    assert not (here / MARK).exists()


def test_what_is_no_module_is_not_called(here, tiny_config, capsys):
    words = ["run", f"config={tiny_config}", "masker=attention", "env.save_dir=run"]
    model = {**GETOUTPUT, "inputs": {"text": "cmd", "image": "y"}}
    for run_type in ("check", "train"):
        assert main([*words, f"run_type={run_type}", f"model={json.dumps(model)}"]) == 2
        assert not (here / MARK).exists()
        assert "must be a class of nn.Module" in capsys.readouterr().err


def test_the_configuration_kept_in_a_run_s_folder_names_no_code(here, stranger, tiny_config, capsys):
    kept = yaml.safe_load((stranger / "config.yaml").read_text())
    (stranger / "config.yaml").write_text(yaml.safe_dump({**kept, "model": {"type": "evil.Evil"}}))
    sentence = told(["run", "checkpoint.resume=true", "env.save_dir=<teacher>"], tiny_config, stranger, capsys)
    assert "names 'evil.Evil', which is code" in sentence
    assert not (here / MARK).exists()
