"""Every YAML of the tree goes through every check that needs neither data nor weights."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from msd_framework.analysis.experiment import ExperimentConfig, checked_experiment, is_experiment
from msd_framework.analysis.study.config import load_study
from msd_framework.build.facts import dataset_info, known_facts
from msd_framework.checks.run import checked, understood
from msd_framework.components.facts import STAND_INS
from msd_framework.components.registry import plain, split
from msd_framework.config.load import load, parse, resolve
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import structured
from msd_framework.errors import ConfigError
from msd_framework.models.base import MultimodalModel
from msd_framework.registry import MODELS, PROCESSORS
from msd_framework.teachers.masked import SALIENCY_FILE

ROOT = Path(__file__).parents[2]
FILES = sorted(p for folder in ("configs", "projects") for p in (ROOT / folder).rglob("*.y*ml"))
STUDIES = [p for p in FILES if "\nmethods:" in p.read_text()]
EXPERIMENTS = [p for p in FILES if "\nexperiment:" in p.read_text()]
DEFAULTS = [p for p in FILES if p.is_relative_to(ROOT / "configs")]
RUNS = [p for p in FILES if p not in STUDIES and p not in EXPERIMENTS and p not in DEFAULTS]

ON_DISK = (
    "data.dataset.root",
    "model.encoders.text.name",
    "model.encoders.image.weights",
    "data.train",
    "data.validation",
    "data.test",
    "data.processors_from",
    "teacher.checkpoint",
    "teacher.channels.saliency",
)
"""Keys that may be wrong here: what they name is made or downloaded by whoever runs the file."""

NO_FEATURES = "there is no folder features/"
"""What is said of region features, which are made by whoever runs the file."""

PUBLISHED = {
    "bert-base-uncased": {},
    "huawei-noah/TinyBERT_General_4L_312D": {
        "hidden_size": 312,
        "num_hidden_layers": 4,
        "num_attention_heads": 12,
        "intermediate_size": 1200,
    },
    "data/emoji_weights/minilm": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
}
"""Sizes of published text encoders, where they are not those of BERT."""


@pytest.fixture(scope="module", autouse=True)
def _each_file_is_parsed_once() -> Iterator[None]:
    """Most files stand on the same bases."""
    parsed = cache(parse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msd_framework.config.load.parse", lambda path: copy.deepcopy(parsed(path)))
        yield


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def problems(path: Path, words: list[str]) -> list[str]:
    """What is wrong with a run's file beside what is not on this disk."""
    try:
        checked(load(path, words))
    except ConfigError as error:
        found = [p for p in error.problems if not str(p.path).endswith(ON_DISK)]
        return [str(p) for p in found if not p.message.startswith(NO_FEATURES)]
    return []


def test_no_file_is_overlooked():
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "configs", "projects"], capture_output=True, text=True, check=False
    )
    listed = {line for line in tracked.stdout.splitlines() if line.endswith((".yaml", ".yml")) and (ROOT / line).exists()}
    assert listed <= {name(p) for p in FILES}
    assert len(FILES) == len(STUDIES) + len(EXPERIMENTS) + len(DEFAULTS) + len(RUNS)
    assert min(len(STUDIES), len(EXPERIMENTS), len(DEFAULTS), len(RUNS)) > 0


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_begins_with_a_comment_that_says_what_it_is(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_every_run_is_right_but_for_what_is_not_on_this_disk_and_goes_together_with_its_teacher(path, tmp_path):
    """With the card of its teacher in the place of a checkpoint, views, weights and losses are checked as well."""
    values = resolve(load(path)).values
    words, teacher = [f"env.save_dir={tmp_path / 'run'}"], values.get("teacher") or {}
    if teacher.get("checkpoint"):
        write_card(tmp_path / "teacher", teacher_of(values))
        words.append(f"teacher.checkpoint={tmp_path / 'teacher'}")
    if channels := teacher.get("channels"):
        (tmp_path / SALIENCY_FILE).write_text(json.dumps({"layer": channels["layer"], "saliency": [0.0, 1.0]}))
        words += [f"teacher.channels.saliency={tmp_path}"] if channels.get("saliency") else []
    assert problems(path, words) == []


def teacher_of(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of the run that makes a run's teacher; one of its own kind where a study makes it."""
    return next((run for run in all_runs() if run["env"]["save_dir"] == values["teacher"]["checkpoint"]), values)


@cache
def all_runs() -> list[Mapping[str, Any]]:
    return [resolve(load(p)).values for p in RUNS]


def write_card(folder: Path, values: Mapping[str, Any]) -> None:
    """What is read of a checkpoint of these options before anything is loaded."""
    info = dataset_info(values["data"]["dataset"])
    name, options = split(values["model"], "model", MODELS)
    card = {
        "model": values["model"],
        "modalities": MODELS.get(name).modalities_of(options),
        "facts": {"num_classes": info.num_classes, "class_names": info.class_names},
        "processors": {m: {"spec": spec} for m, spec in values["data"]["processors"].items()},
    }
    folder.mkdir()
    (folder / "files.json").write_text("{}")
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize("path", STUDIES, ids=name)
def test_every_study_is_right(path):
    assert load_study(path).methods


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_every_experiment_is_right(path, tmp_path):
    assert is_experiment(path)
    assert checked_experiment(resolve(load(path, [f"env.save_dir={tmp_path}"], ExperimentConfig)))[0].seed_list


@pytest.mark.parametrize("path", DEFAULTS, ids=name)
def test_every_default_is_right_as_far_as_it_goes(path):
    found = understood(resolve(load(path)).values)[1]
    assert [p for p in found if p.path.partition(".")[0] not in ("data", "model") or "must be given" not in p.message] == []


def build_on_nothing(path: Path) -> MultimodalModel:
    """The model of a run without memory for its weights, where those are not to be downloaded."""
    config = structured(resolve(load(path)).values, RunConfig)
    facts = STAND_INS | known_facts(dataset_info(config.data.dataset))
    for modality, spec in config.data.processors.items():
        if PROCESSORS.get(plain(spec)["type"]).kind == "pixels":
            facts |= PROCESSORS.build(spec, modality).facts
    with torch.device("meta"):
        return MODELS.build(at_random(config.model), "model", facts)


def at_random(spec: Any) -> Any:
    """A model's part of a YAML that asks for random weights in the place of published ones, of the same sizes."""
    if not isinstance(spec, Mapping):
        return spec
    if spec.get("type") == "bert" and "name" in spec:
        return {"type": "bert", "config": {"model_type": "bert", **PUBLISHED[spec["name"]]}}
    return {key: at_random(value) for key, value in spec.items() if key not in ("pretrained", "weights")}


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_every_model_can_be_built_on_the_images_of_its_run(path):
    if "type: timm" in path.read_text():
        pytest.importorskip("timm")
    assert sum(p.numel() for p in build_on_nothing(path).parameters()) > 0


DOWNLOADED = ("pretrained:", "{type: bert, name:", "type: huggingface")
"""What a model's file has where building it downloads weights."""


def defaults(folder: str) -> list[Path]:
    return [p for p in DEFAULTS if p.parent.name == folder]


@pytest.mark.parametrize(
    "files", list(product(defaults("data"), defaults("models"), defaults("training"))), ids=lambda f: "+".join(p.stem for p in f)
)
def test_all_defaults_go_together(files, tmp_path):
    (tmp_path / "run.yaml").write_text(f"base: [{', '.join(map(str, files))}]\nenv: {{save_dir: {tmp_path / 'run'}}}\n")
    assert problems(tmp_path / "run.yaml", []) == []
    if not any(word in files[1].read_text() for word in DOWNLOADED):
        wanted = dataset_info(resolve(load(tmp_path / "run.yaml")).values["data"]["dataset"]).num_classes
        assert build_on_nothing(tmp_path / "run.yaml").num_classes == wanted
