"""The structure of a configuration, its own modules, and what does not follow from what."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass

import pytest
import torch

from msd_framework.build.empty import Unfilled
from msd_framework.build.facts import RunFacts
from msd_framework.checks import numbers
from msd_framework.checks.components import component_problems
from msd_framework.checks.run import apply_rules, checked, understood
from msd_framework.components.specs import Spec
from msd_framework.config.imports import import_problems
from msd_framework.config.load import load
from msd_framework.config.schema import RunConfig, field_docs
from msd_framework.config.structure import (
    component_specs,
    hints_of,
    section_of,
    structure_problems,
    structured,
    without,
)
from msd_framework.errors import ConfigError
from msd_framework.registry import DATASETS, MASKERS, SALIENCIES, WEIGHTINGS
from tests.runs import started_together

RIGHT = {"data": {"dataset": "nlvr", "processors": {"text": "tokenizer"}, "train": "train"}, "model": "late_fusion"}


def schemas(schema: type = RunConfig) -> list[type]:
    inner = [s for annotation in hints_of(schema).values() if (s := section_of(annotation))]
    return [schema, *(s for section in inner for s in schemas(section))]


@pytest.mark.parametrize("schema", schemas(), ids=lambda s: s.__name__)
def test_every_option_has_a_sentence(schema):
    assert is_dataclass(schema)
    docs = field_docs(schema)
    assert list(docs) == [f.name for f in fields(schema)]
    assert all(text.endswith(".") for text in docs.values())


def test_a_right_structure_becomes_frozen_sections():
    assert structure_problems(RIGHT, RunConfig) == []
    config = structured(RIGHT | {"teacher": {"checkpoint": "a"}, "training": {"max_updates": 3}}, RunConfig)
    assert (config.data.train, config.teacher.checkpoint, config.training.max_updates) == ("train", "a", 3)
    assert config.training.batch_size == 32
    with pytest.raises(AttributeError):
        config.seed = 3


def test_null_is_right_where_a_section_is_optional_and_wrong_where_it_is_not():
    assert structure_problems(RIGHT | {"teacher": None}, RunConfig) == []
    (problem,) = structure_problems(RIGHT | {"training": None}, RunConfig)
    assert problem.path == "training"
    assert "wanted a mapping of options" in problem.message


@pytest.mark.parametrize(("key", "value"), [("model", None), ("masker", None)])
def test_a_component_that_must_be_there_cannot_be_null(key, value):
    (problem,) = structure_problems(RIGHT | {key: value}, RunConfig)
    assert (problem.path, problem.message) == (key, f"must be given: {key} cannot be null.")


def test_a_misplaced_option_is_sent_to_its_place_within_its_own_schema():
    @dataclass(frozen=True)
    class Section:
        depth: int = 0
        """How deep."""

    @dataclass(frozen=True)
    class Other:
        inner: Section = field(default_factory=Section)
        """A part."""

    globals().update(Section=Section)  # where its annotation is looked up
    (problem,) = structure_problems({"depth": 1}, Other)
    assert problem.message.startswith("no such option. Did you mean 'inner.depth'?")


def test_specs_are_all_components_with_their_paths_defaults_included():
    values = RIGHT | {
        "evaluation": {"metrics": ["auroc", {"type": "accuracy"}]},
        "teacher": {"checkpoint": "runs/a", "masker": "drop"},
    }
    found = [(s.path, s.registry.plural) for s in component_specs(values)]
    assert found == [
        ("data.dataset", "datasets"),
        ("data.processors.text", "processors"),
        ("model", "models"),
        ("objective", "objectives"),
        ("teacher.masker", "maskers"),
        ("masker", "maskers"),
        ("optimizer", "optimizers"),
        ("scheduler", "schedulers"),
        ("evaluation.metrics[0]", "metrics"),
        ("evaluation.metrics[1]", "metrics"),
    ]


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("a", {"b": {"c": 1, "d": [1]}}),
        ("b.c", {"a": 0, "b": {"d": [1]}}),
        ("b.d[0]", {"a": 0, "b": {"c": 1}}),
        ("b.d[0].e", {"a": 0, "b": {"c": 1}}),
        ("b.x", {"a": 0, "b": {"c": 1, "d": [1]}}),
        ("x.y", {"a": 0, "b": {"c": 1, "d": [1]}}),
    ],
)
def test_a_wrong_key_is_taken_out(path, left):
    assert without({"a": 0, "b": {"c": 1, "d": [1]}}, path) == left


def test_a_refusal_inside_a_component_is_told_once():
    spec = Spec("w", WEIGHTINGS, {"type": "instance", "saliency": {"type": "drop", "distance": {"type": "kl", "temperature": 0}}})
    (problem,) = component_problems([spec])
    assert problem.path == "w.saliency.distance"


def test_components_are_tried_with_the_data_sets_own_facts():
    specs = [
        Spec("data.dataset", DATASETS, {"type": "hateful_memes"}),
        Spec("s", SALIENCIES, {"type": "loss", "task_loss": "binary_cross_entropy"}),
    ]
    (problem,) = component_problems(specs)
    assert problem.message == "task_loss: BinaryCrossEntropy is for multi_label, soft_target, and the task is single_label."


def test_what_is_left_without_the_wrong_keys_is_a_configuration():
    config, problems = understood(RIGHT | {"sed": 1, "seed": 2, "optimizer": {"type": "adamw", "lr": "x"}})
    assert config.seed == 2
    assert {p.path for p in problems} == {"sed", "model.encoders", "optimizer.lr"}


def test_nothing_is_left_where_a_whole_part_is_wrong():
    config, problems = understood({"model": "late_fusoin"})
    assert config is None
    assert {p.path for p in problems} == {"model", "data"}


def test_a_right_file_becomes_its_configuration(tiny_config, tmp_path):
    config = checked(load(tiny_config, [f"env.save_dir={tmp_path}", "training.max_updates=3"]))
    assert (config.training.max_updates, config.env.save_dir) == (3, str(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "follows"),
    [
        ("training.max_updates=x", "training"),
        ("data.processors.text.max_lenth=3", "data.processors"),
        ("evaluation.metrcs=[auroc]", "evaluation.monitor"),
        ("masker=drpo", "masker.maskers"),
    ],
)
def test_what_follows_from_a_mistake_is_not_told(wrong, follows, tiny_config, tmp_path):
    words = [f"env.save_dir={tmp_path}", "evaluation.monitor=accuracy", wrong]
    with pytest.raises(ConfigError) as raised:
        checked(load(tiny_config, words))
    (problem,) = raised.value.problems
    assert follows not in problem.message


def test_processes_share_a_batch(tiny_config, tmp_path, monkeypatch):
    started_together(monkeypatch, 3)
    config = structured(load(tiny_config, [f"env.save_dir={tmp_path}"]).values, RunConfig)
    (problem,) = apply_rules(RunFacts(config), numbers.lengths)
    assert problem.message == "must be a multiple of processes times training.accumulate, 3 x 1, got 4."


@pytest.mark.parametrize("run_type", ["val", "test", "predict"])
def test_an_evaluation_needs_no_length(run_type, tiny_config, tmp_path):
    words = [f"env.save_dir={tmp_path}", f"run_type={run_type}", "training.max_updates=null"]
    assert apply_rules(RunFacts(structured(load(tiny_config, words).values, RunConfig)), *numbers.RULES) == []


MASKER = """
from msd_framework.maskers.base import Masker
from msd_framework.registry import DATASETS, MASKERS, SALIENCIES, WEIGHTINGS
from . import amounts

@MASKERS.register("{name}")
class Mine(Masker):
    strength = amounts.STRENGTH

    def hide(self, modality, inputs):
        return inputs
"""


@pytest.fixture
def registered(monkeypatch):
    """Takes back what a test registers."""
    MASKERS.names()
    monkeypatch.setattr(MASKERS, "_classes", dict(MASKERS._classes))


def test_files_of_a_users_folder_register_components_and_may_import_each_other(tmp_path, registered):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine.py").write_text(MASKER.format(name="mine_of_folder").replace("from . import", "from .. import"))
    (tmp_path / "amounts.py").write_text("STRENGTH = 3\n")
    assert import_problems([], str(tmp_path)) == []
    assert MASKERS.get("mine_of_folder").strength == 3
    assert import_problems([], str(tmp_path)) == []  # again, as in a study: nothing is imported twice


def test_two_folders_may_have_files_of_the_same_name(tmp_path, registered):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(MASKER.format(name=f"mine_{name}"))
        (tmp_path / name / "amounts.py").write_text(f"STRENGTH = '{name}'\n")
        assert import_problems([], str(tmp_path / name)) == []
    assert (MASKERS.get("mine_one").strength, MASKERS.get("mine_two").strength) == ("one", "two")


def test_a_module_by_name_registers_components(tmp_path, registered, monkeypatch):
    (tmp_path / "my_package_of_maskers").mkdir()
    (tmp_path / "my_package_of_maskers" / "amounts.py").write_text("STRENGTH = 1\n")
    (tmp_path / "my_package_of_maskers" / "parts.py").write_text(MASKER.format(name="mine_of_package"))
    monkeypatch.syspath_prepend(tmp_path)
    assert import_problems(["my_package_of_maskers.parts"], None) == []
    assert "mine_of_package" in MASKERS.names()


def test_a_module_that_lacks_another_names_the_other(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import json\nimport no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = import_problems(["needs_more"], None)
    assert problem.path == "imports[0]"
    assert problem.message.endswith("needs_more.py:2: ModuleNotFoundError: No module named 'no_such_thing'.")


def test_weights_that_are_left_empty_are_never_drawn_until_they_fit(monkeypatch):
    """Torch draws truncated normal numbers again and again until all of them lie in their range."""
    monkeypatch.setattr(torch, "empty_like", lambda tensor: torch.full_like(tensor, 9.0))
    weights = torch.full((3,), 9.0)
    with Unfilled():
        torch.nn.init.trunc_normal_(weights, std=0.02)
        torch.nn.init.trunc_normal_(weights, std=1.0)
    assert weights.tolist() == [9.0] * 3
    assert torch.nn.init.trunc_normal_(weights, std=1.0).abs().max() <= 2  # and afterwards as before
