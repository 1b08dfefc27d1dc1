"""Runs that compare what goes on inside student and teacher, from a YAML."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from msd_framework.cli import main
from msd_framework.commands.layers import run_layers
from msd_framework.errors import ConfigError
from msd_framework.run import run
from tests.integration.test_docs import blocks

ROOT = Path(__file__).parents[2]
NARROW = ["model.encoders.text.hidden_size=4", "model.encoders.image.hidden_size=4"]
FEATURES = "objective.features=[{loss: hint, student: text.*.hidden}, {loss: rkd, student: fused.pooled}]"


def words(teacher: Path, folder: Path, *more: str) -> list[str]:
    taught = [f"teacher.checkpoint={teacher}", "objective.type=distillation", "objective.views=[full]"]
    return [*taught, *NARROW, f"env.save_dir={folder}", *more]


def test_terms_are_logged_and_what_they_learn_stays_out_of_the_model(tiny_config, tiny_teacher, tmp_path):
    run(tiny_config, words(tiny_teacher, tmp_path, FEATURES))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in lines if "train/feature/hint/text.1.hidden" in line)
    assert logged["train/feature/rkd/fused.pooled"] > 0
    last = tmp_path / "checkpoints" / "last"
    assert not any("features" in name for name in load_file(last / "model.safetensors"))
    assert "features.pairs.0.adaptor.inner.map.weight" in load_file(last / "objective.safetensors")
    report = run(tiny_config, words(tiny_teacher, tmp_path, FEATURES, "run_type=test"))
    assert "test/accuracy" in report["metrics"]


def test_a_run_that_was_cut_goes_on_to_the_same_bits(tiny_config, tiny_teacher, tmp_path):
    longer = [FEATURES, "training.max_updates=4", "checkpoint.every_updates=2", "model.dropout=0.3"]
    run(tiny_config, words(tiny_teacher, tmp_path / "whole", *longer))
    run(tiny_config, words(tiny_teacher, tmp_path / "cut", *longer))
    folder = tmp_path / "cut" / "checkpoints"
    shutil.rmtree(folder / "update_00000004")
    run(tiny_config, words(tiny_teacher, tmp_path / "cut", *longer, "checkpoint.resume=true"))
    for name in ("model", "objective"):
        ours, theirs = (load_file(tmp_path / f / "checkpoints" / "last" / f"{name}.safetensors") for f in ("cut", "whole"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (
            "objective.features=[{loss: hint, student: text.3.hiden}]",
            "objective.features[0].student: it offers no 'text.3.hiden'. Did you mean 'text.1.hidden'? It offers ",
        ),
        (
            "objective.features=[{loss: hint, student: text.1.hidden, teacher: txt.*.hidden}]",
            "objective.features[0]: both names or none must have a *",
        ),
        ("objective.features=[{loss: hnt, student: fused.pooled}]", "objective.features[0].loss: no feature loss is named 'hnt'"),
        ("objective.features=[{loss: hint, studnt: fused.pooled}]", "objective.features[0].studnt: feature has no such option"),
        ("objective.features=[{loss: pkd, student: text.*.hidden}]", "objective.features[0].loss: pkd compares pooled"),
        (
            "objective.features=[{loss: hint, student: image.pooled, view: text}]",
            "objective.features[0].student: 'image.pooled' belongs to image, which the view 'text' hides",
        ),
    ],
)
def test_a_mistake_is_found_before_anything_is_loaded(tiny_config, tiny_teacher, tmp_path, option, text):
    with pytest.raises(ConfigError) as error:
        run(tiny_config, words(tiny_teacher, tmp_path / "new", option, "run_type=check"))
    assert text in str(error.value)
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_compared_is_told_with_its_key(tiny_config, tiny_teacher, tmp_path):
    option = "objective.features=[{loss: hint, student: text.last.hidden, adaptor: none}]"
    with pytest.raises(ConfigError, match=r"objective\.features: hint/text\.last\.hidden: adaptor=none leaves 4 features beside 8"):
        run(tiny_config, words(tiny_teacher, tmp_path, option))


def test_a_teacher_cache_serves_the_summary_that_it_keeps_and_refuses_the_rest(tiny_config, tiny_teacher, tmp_path):
    cached = ["teacher.cache=true", f"teacher.cache_dir={tmp_path / 'caches'}"]
    with pytest.raises(ConfigError) as error:
        run(tiny_config, words(tiny_teacher, tmp_path / "no", FEATURES, *cached))
    assert "features[0].student: a teacher cache does not keep 'text.1.hidden'. Set teacher.cache=false, or compare" in str(
        error.value
    )
    assert "features[1].student: a teacher cache does not keep 'fused.pooled'. Set teacher.cache=false, or set" in str(error.value)
    summary = "objective.features=[{loss: rkd, student: fused.pooled}, {loss: hint, student: fused.pooled}]"
    logged = []
    for name, more in {"live": [], "kept": [*cached, "teacher.cache_features=[fused.pooled]"]}.items():
        run(tiny_config, words(tiny_teacher, tmp_path / name, summary, *more, "seed=3"))
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        logged.append({k: v for line in lines for k, v in line.items() if k.startswith("train/feature/")})
    assert logged[1] == pytest.approx(logged[0], rel=1e-2)  # what is kept is in float16
    assert len(logged[0]) == 2


def test_several_teachers_have_no_features_in_common(tiny_config, tiny_teacher, tmp_path):
    two = f"teacher.checkpoint=[{tiny_teacher}, {tiny_teacher / 'checkpoints' / 'last'}]"
    with pytest.raises(ConfigError, match=r"features\[0\]: several teachers answer as one and have no intermediates in common"):
        run(tiny_config, words(tiny_teacher, tmp_path, FEATURES, two))


# ---- a map of layers ----


def test_layers_are_compared_without_a_trace(tiny_config, tiny_teacher, tmp_path, capsys):
    given = words(tiny_teacher, tmp_path / "no", "student_layers=text.*.hidden", "examples=6")
    found = run_layers(tiny_config, given)
    assert found.student == found.teacher == ("text.1.hidden",)
    assert 0 <= found.cka.item() <= 1
    assert found.layers == {1: 1}
    assert main(["layers", f"config={tiny_config}", *given]) == 0
    assert "layers: {1: 1}" in capsys.readouterr().out
    assert not (tmp_path / "no").exists()


def test_layers_of_a_model_without_shared_ones_are_those_of_its_first_modality(tiny_config, tiny_teacher, tmp_path):
    found = run_layers(tiny_config, words(tiny_teacher, tmp_path, "examples=6"))
    assert found.student == found.teacher == ("text.1.hidden",)


def test_a_run_is_its_own_twin(tiny_config, tiny_teacher, tmp_path):
    taught = [f"teacher.checkpoint={tiny_teacher}", "objective.type=distillation", "objective.views=[full]"]
    more = [f"weights={tiny_teacher}", "student_layers=text.*.hidden", "split=test", f"env.save_dir={tmp_path}"]
    assert run_layers(tiny_config, [*taught, *more]).cka.item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (
            "student_layers=audio.*.hidden",
            "student_layers: there are no layers with states of the name 'audio.*.hidden'. Did you mean",
        ),
        ("teacher_layers=text.*.attention", "teacher_layers: there are no layers with states of the name 'text.*.attention'"),
        ("student_layers=txt.*.hidden", "the name 'txt.*.hidden'. Did you mean 'text.*.hidden'?"),
        ("spilt=test", "command line: spilt: no such option. Did you mean 'split'?"),
        ("split=dev", "split: wanted train, validation, test, got 'dev'"),
        ("examples=1", "examples: must be at least 2, got 1"),
        ("data.train=train data.test=null split=test", "split: data.test names no split of the data set"),
        ("objective=supervised teacher=null", "teacher.checkpoint: must be given: whose layers are compared"),
    ],
)
def test_a_mistake_about_layers_is_a_sentence(tiny_config, tiny_teacher, tmp_path, option, text):
    given = words(tiny_teacher, tmp_path, "student_layers=text.*.hidden")
    if "teacher=null" in option:
        given = [f"env.save_dir={tmp_path}", *NARROW]
    with pytest.raises(ConfigError) as error:
        run_layers(tiny_config, [*given, *option.split()])
    assert text in str(error.value)


def test_the_page_can_be_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks(ROOT / "docs" / "features.md", "bash") for line in block.splitlines()]
    assert len(commands) == 4
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
    assert "layers: {1: " in capsys.readouterr().out
