"""YAML files and words to values that know where they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from msd_framework.config.load import Source, find_file, load, located, parse_override, resolve
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import structured
from msd_framework.errors import ConfigError, Problem


@pytest.fixture
def file(tmp_path):
    def write(text: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("a=true", True),
        ("a=False", False),
        ("a=null", None),
        ("a=", ""),
        ("a=3", 3),
        ("a=1e-4", 1e-4),
        ("a=5.0e-5", 5e-5),
        ("a=text", "text"),
        ('a="3"', "3"),
        ("a=[full, image]", ["full", "image"]),
        ("a={type: kl, temperature: 2}", {"type": "kl", "temperature": 2}),
        ("a=x=y", "x=y"),
        ("a=~text", "~text"),
    ],
)
def test_a_value_on_the_command_line_is_yaml(word, value):
    found = parse_override(word).values["a"]
    assert found == value
    assert type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.none())
def test_any_number_or_truth_survives_the_command_line(value):
    word = yaml.safe_dump(value).splitlines()[0]
    assert parse_override(f"a={word}").values["a"] == value


def test_a_dotted_key_makes_a_nest_and_every_key_of_it_was_written_there():
    source = parse_override("a.b={c: {d: 1}}")
    assert source.values == {"a": {"b": {"c": {"d": 1}}}}
    assert {source.origin(p) for p in ("a", "a.b", "a.b.c", "a.b.c.d", "a.b[0]")} == {"command line"}


@pytest.mark.parametrize("word", ["a", "=1", "a b=1", ".a=1", "a.=1", "a..b=1", "a[0]=1", "--a=1"])
def test_a_word_that_is_no_assignment_is_refused(word):
    with pytest.raises(ConfigError, match=r"is not of the form key=value, such as training\.max_updates=100"):
        parse_override(word)


@pytest.mark.parametrize("word", ["a=[1", "a={b: ", 'a="'])
def test_a_value_that_is_no_yaml_is_refused(word):
    with pytest.raises(ConfigError, match=r"command line: a: the value .* is not valid YAML\. A text is given in quotes: "):
        parse_override(word)


def test_all_wrong_words_are_told_at_once(file):
    with pytest.raises(ConfigError) as raised:
        load(file("seed: 1"), ["a", "b", "seed=2"])
    assert len(raised.value.problems) == 2


def test_later_files_and_then_the_command_line_win(file):
    file("seed: 1\nname: base\ntraining: {batch_size: 1, max_updates: 1}\n", "base.yaml")
    file("seed: 2\ntraining: {batch_size: 2}\n", "second.yaml")
    source = load(file("base: [base.yaml, second.yaml]\ntraining: {log_every: 3}\n"), ["training.batch_size=4"])
    assert (source.values["seed"], source.values["name"]) == (2, "base")
    assert source.values["training"] == {"batch_size": 4, "max_updates": 1, "log_every": 3}
    assert "base" not in source.values


def test_a_problem_of_a_files_section_names_the_options_that_words_write_over_it():
    source = Source({}, {"data.dataset": "a.yaml:3", "data.dataset.root": "command line", "model": "a.yaml:9"})
    placed = [str(located(Problem(path, "is wrong."), source)) for path in ("data.dataset", "data.dataset.root", "model")]
    assert placed == [
        "a.yaml:3, with data.dataset.root of the command line: data.dataset: is wrong.",
        "command line: data.dataset.root: is wrong.",
        "a.yaml:9: model: is wrong.",
    ]


def test_every_value_knows_the_file_and_line_that_it_was_written_at(file):
    base = file("seed: 1\ntraining:\n  batch_size: 1\n  max_updates: 1\n", "base.yaml")
    run = file("base: base.yaml\nobjective:\n  views:\n  - full\n  - image\ntraining: {log_every: 3}\n")
    source = load(run, ["training.batch_size=4"])
    assert source.origin("seed") == f"{base}:1"
    assert source.origin("training.max_updates") == f"{base}:4"
    assert source.origin("training.log_every") == f"{run}:6"
    assert source.origin("training.batch_size") == "command line"
    assert source.origin("objective.views[1]") == f"{run}:5"
    assert source.origin("objective.views[1].x.y") == f"{run}:5"
    assert source.origin("nowhere.to.be.found") == ""


def test_includes_is_another_word_for_base_and_may_name_files_of_other_folders(file):
    file("seed: 7\n", "other/base.yaml")
    assert load(file("includes: [other/base.yaml]\n")).values["seed"] == 7
    file("base: ../other/base.yaml\n", "third/run.yaml")
    assert load(file("base: third/run.yaml\n")).values["seed"] == 7


def test_what_a_base_expects_to_come_out_is_not_expected_of_what_is_over_it(file):
    base = file("seed: 7\nexpected: {test/auroc: 0.9}\n", "base.yaml")
    assert load(base).values["expected"] == {"test/auroc": 0.9}
    assert "expected" not in load(file("base: base.yaml\n")).values
    assert load(file("base: base.yaml\nexpected: {test/accuracy: 0.8}\n")).values["expected"] == {"test/accuracy": 0.8}


def test_a_base_may_also_be_named_from_the_projects_root(file):
    assert "model" in load(file("base: configs/models/visual_bert_small.yaml\n")).values


def test_a_file_that_two_others_have_as_base_is_no_circle(file):
    file("seed: 1\n", "root.yaml")
    file("base: root.yaml\nname: a\n", "a.yaml")
    file("base: root.yaml\nseed: 2\n", "b.yaml")
    assert load(file("base: [a.yaml, b.yaml]\n")).values["seed"] == 2


def test_a_circle_of_files_is_refused(file):
    file("base: run.yaml\n", "a.yaml")
    with pytest.raises(ConfigError, match=r"includes itself, through run\.yaml -> a\.yaml -> run\.yaml\. Take one"):
        load(file("base: a.yaml\n"))


def test_a_missing_file_is_told_with_the_nearest_name(file, monkeypatch):
    monkeypatch.chdir(file("seed: 1\n").parent)
    assert find_file("run.yaml") == Path("run.yaml")
    with pytest.raises(ConfigError, match=r"there is no file rum\.yaml\. Did you mean 'run\.yaml'\?"):
        find_file("rum.yaml")


def test_a_missing_base_is_told_with_the_nearest_name_and_its_line(file):
    file("", "base.yaml")
    with pytest.raises(ConfigError, match=r"run\.yaml:2: base: there is no file .*bsae\.yaml\. Did you mean 'base\.yaml'\?"):
        load(file("seed: 1\nbase: bsae.yaml\n"))


def test_a_component_of_another_type_is_replaced_and_one_of_the_same_type_merged(file):
    run = file("masker: {type: noise, standard_deviation: 2.0}\n")
    assert load(run, ["masker.standard_deviation=3.0"]).values["masker"] == {"type": "noise", "standard_deviation": 3.0}
    assert load(run, ["masker={type: noise}"]).values["masker"] == {"type": "noise", "standard_deviation": 2.0}
    assert load(run, ["masker.type=drop"]).values["masker"] == {"type": "drop"}
    assert load(run, ["masker=drop"]).values["masker"] == "drop"


def test_a_nested_component_of_another_type_is_replaced(file):
    run = file("objective: {type: distillation, views: [full], distill_loss: {type: kl, temperature: 2}}\n")
    values = load(run, ["objective.distill_loss.type=mse"]).values["objective"]
    assert values == {"type": "distillation", "views": ["full"], "distill_loss": {"type": "mse"}}


def test_what_was_replaced_is_no_origin_any_more(file):
    run = file("masker:\n  type: noise\n  standard_deviation: 2.0\n")
    assert load(run, []).origin("masker.standard_deviation") == f"{run}:3"
    assert load(run, ["masker.type=drop"]).origin("masker.standard_deviation") == f"{run}:1"


@pytest.mark.parametrize("text", ["", "optimizer: {lr: 1.0}\n", "optimizer: adamw\n"], ids=["default", "options", "name"])
def test_options_over_a_name_are_options_of_that_component(text, file):
    source = load(file(text), ["optimizer.lr=0.5"])
    assert source.values["optimizer"] == {"type": "adamw", "lr": 0.5}


def test_a_component_that_nobody_named_is_a_default(file):
    source = load(file("seed: 1\n"), ["optimizer.lr=0.5"])
    assert (source.origin("masker"), source.origin("optimizer.type"), source.origin("optimizer.lr")) == (
        "default",
        "default",
        "command line",
    )


def test_another_schema_has_no_components_of_a_run(file):
    class Other:
        pass

    import dataclasses

    assert load(file("seed: 1\n"), (), dataclasses.dataclass(Other)).values == {"seed": 1}


def test_interpolations_are_filled_in_whoever_wrote_their_parts(file):
    source = resolve(load(file("name: a\nenv: {save_dir: 'runs/${name}/seed_${seed}'}\nseed: 0\n"), ["seed=3"]))
    assert source.values["env"]["save_dir"] == "runs/a/seed_3"


def test_a_run_goes_into_a_folder_of_its_name_unless_told_otherwise(tiny_config):
    for words, folder in ((["name=mine"], "runs/mine"), (["name=mine", "env.save_dir=there"], "there"), ([], "runs/run")):
        assert resolve(load(tiny_config, words)).values["env"]["save_dir"] == folder


def test_an_interpolation_of_nothing_is_told_with_its_place(file):
    with pytest.raises(ConfigError, match=r"run\.yaml:2: env\.save_dir: the interpolation cannot be filled in: .*nmae"):
        resolve(load(file("name: a\nenv: {save_dir: 'runs/${nmae}'}\n")))


def test_a_saved_configuration_says_the_same(file, tiny_config):
    source = resolve(load(tiny_config, ["env.save_dir=runs/a", "optimizer.lr=1e-4", "objective.modality_dropout=0.1"]))
    again = resolve(load(file(yaml.safe_dump(source.values, sort_keys=False), "saved.yaml")))
    assert structured(again.values, RunConfig) == structured(source.values, RunConfig)


def test_a_problem_is_located_unless_nobody_wrote_it():
    source = Source({}, {"a": "x.yaml:3", "b": "default"})
    assert str(located(Problem("a.c", "is wrong."), source)) == "x.yaml:3: a.c: is wrong."
    assert str(located(Problem("b", "is wrong."), source)) == "b: is wrong."
    assert str(located(Problem("c", "is wrong."), source)) == "c: is wrong."


def test_a_file_that_cannot_be_opened_is_told(file, monkeypatch):
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    path = file("seed: 1\n")
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match=r"run\.yaml: cannot be read: Permission denied\."):
        load(path)


def test_a_dict_and_a_config_of_omegaconf_are_read_as_the_file_that_holds_the_same(file):
    text = "name: mine\ndata: {train: a, dataset: {type: csv, root: data}}\nmodel: {type: late_fusion, hidden_size: 8}\nseed: 3\n"
    wanted = load(file(text), ["model.hidden_size=16", "env.device=cpu", "masker=noise"]).values
    values = yaml.safe_load(text)
    overrides = {"model.hidden_size": 16, "env": {"device": "cpu"}, "masker": "noise"}
    assert load(values, overrides).values == wanted
    assert load(OmegaConf.create(values), OmegaConf.create(overrides)).values == wanted


def test_paths_and_tuples_of_a_dict_are_what_a_file_holds(tmp_path):
    found = load({"data": {"dataset": {"type": "csv", "root": tmp_path}}, "evaluation": {"views": ("full", "text")}}).values
    assert found["data"]["dataset"]["root"] == str(tmp_path)
    assert found["evaluation"]["views"] == ["full", "text"]


def test_an_interpolation_of_a_dict_is_filled_in_with_what_is_written_over_it():
    source = resolve(load({"name": "a", "env": {"save_dir": "runs/${name}"}}, {"name": "b"}))
    assert source.values["env"]["save_dir"] == "runs/b"


def test_a_dict_has_bases_as_a_file_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("seed: 4\nname: base\n")
    config = {"base": "base.yaml", "name": "mine"}
    found = load(config).values
    assert (found["seed"], found["name"]) == (4, "mine")
    assert config == {"base": "base.yaml", "name": "mine"}
    with pytest.raises(ConfigError, match=r"config: base: there is no file bas.yaml\. Did you mean 'base.yaml'"):
        load({"base": "bas.yaml"})


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("seed=1", r"wanted a list of words such as \['seed=1'\], or a dict, got a text"),
        ({"model": {"hidden_size": object()}}, r"command line: model.hidden_size: .*not a supported"),
        ({"views[0]": "full"}, r"'views\[0\]' is not of the form key=value"),
    ],
)
def test_what_cannot_be_written_over_a_configuration_is_a_sentence(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load({"name": "a"}, overrides)
