"""A published model's own settings of images and texts: used, written by the user, or told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from msd_framework.build.facts import RunFacts
from msd_framework.checks.pretrained import images_and_lengths
from msd_framework.config.schema import DataConfig, RunConfig
from msd_framework.data.processors.text import Tokenizer
from msd_framework.errors import DataError

HALF = [0.5, 0.5, 0.5]
VILT = {"image_mean": HALF, "image_std": HALF, "size": {"shortest_edge": 384}, "resample": 3, "do_resize": True}
WRITTEN = {"size": 384, "mean": HALF, "std": HALF, "interpolation": "bicubic"}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vilt"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(VILT))
    return tmp_path


def problems(folder: Path, spec, model=None, **options) -> list[str]:
    inputs = {"text": "input_ids", "image": "pixel_values"}
    model = model or {"type": "huggingface", "name": str(folder), "inputs": inputs}
    config = RunConfig(data=DataConfig("hateful_memes", {"text": "tokenizer", "image": spec}), model=model, **options)
    return [str(problem) for problem in images_and_lengths(RunFacts(config))]


def test_defaults_that_are_others_than_the_models_are_told_with_what_to_write(folder):
    (told,) = problems(folder, "pixels")
    assert told.startswith(
        f"data.processors.image: {folder} was trained on images with mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5], "
    )
    assert told.endswith(
        "Write mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], size: [384, 384], interpolation: bicubic, or the values that you want."
    )
    assert "would see mean [0.485, 0.456, 0.406]" in told


@pytest.mark.parametrize(("run_type", "asked"), [("check", False), ("train", True)])
def test_only_a_run_asks_the_hub_for_the_settings_of_a_model_that_is_not_on_this_disk(run_type, asked, monkeypatch):
    downloads = []

    def cached_file(name, file, local_files_only=False):
        downloads.append(not local_files_only)
        raise OSError("not there")

    monkeypatch.setattr("transformers.utils.hub.cached_file", cached_file)
    assert not problems(Path("dandelin/vilt-b32-mlm"), "pixels", run_type=run_type)
    assert any(downloads) is asked


def test_what_the_yaml_says_is_taken(folder):
    assert not problems(folder, {"type": "pixels", **WRITTEN})
    assert not problems(folder, {"type": "pixels", "size": 32, "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "box"})
    (told,) = problems(folder, {"type": "pixels", **WRITTEN, "mean": None})
    assert not told.startswith("nothing")


@pytest.mark.parametrize("missing", sorted(WRITTEN))
def test_each_setting_is_compared(folder, missing):
    (told,) = problems(folder, {"type": "pixels"} | {key: value for key, value in WRITTEN.items() if key != missing})
    assert told.count(f"{missing}: ") == 1
    assert not any(f"{key}: " in told for key in WRITTEN if key != missing)


def test_a_trained_model_that_is_evaluated_is_left_as_it_was(folder):
    assert not problems(folder, "pixels", run_type="test")


@pytest.mark.parametrize("said", [{}, {"size": 224, "resample": 2, "image_mean": None}, {"size": {"height": 224, "width": 224}}])
def test_a_model_that_says_no_other_thing_is_no_problem(folder, said):
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    assert not problems(folder, "pixels")
    (folder / "preprocessor_config.json").unlink()
    assert not problems(folder, "pixels")


def test_pixels_that_are_not_normalised_and_are_cropped_are_told(folder):
    said = {"do_normalize": False, "do_center_crop": True, "size": 256, "crop_size": {"height": 192, "width": 160}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    (told,) = problems(folder, "pixels")
    assert "Write mean: [0.0, 0.0, 0.0], std: [1.0, 1.0, 1.0], size: [192, 160], or" in told


@pytest.mark.parametrize("wrong", ["{", '{"size": "big"}'])
def test_a_damaged_file_is_told(folder, wrong):
    (folder / "preprocessor_config.json").write_text(wrong)
    with pytest.raises(DataError, match=r"preprocessor_config\.json: (is not JSON|size is 'big')"):
        problems(folder, "pixels")


@pytest.mark.parametrize(("spec", "told"), [("tokenizer", 128), ({"type": "tokenizer", "max_length": 17}, 17)])
@pytest.mark.parametrize("model", ["huggingface", "bert"])
def test_texts_longer_than_those_that_a_model_was_trained_on_are_told(folder, spec, told, model):
    encoder = {"type": "late_fusion", "encoders": {"text": {"type": "bert", "name": str(folder)}}}
    config = RunConfig(data=DataConfig("hateful_memes", {"text": spec}), model=encoder)
    if model == "huggingface":
        config = replace(config, model={"type": "huggingface", "name": str(folder), "inputs": {"text": "input_ids"}})
    for said in (16, 16.0):
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": said}))
        assert [str(problem) for problem in images_and_lengths(RunFacts(config))] == [
            f"data.processors.text.max_length: is {told}, and {folder} was trained on texts of at most {said} tokens "
            f"(model_max_length in its tokenizer_config.json). Lower it to {said}."
        ]
    for said in ({}, {"model_max_length": None}, {"model_max_length": 10**30}, {"model_max_length": told}):
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
        assert not list(images_and_lengths(RunFacts(config)))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": "long"}')
    with pytest.raises(DataError, match=r"tokenizer_config\.json: model_max_length is 'long', wanted a number of tokens"):
        list(images_and_lengths(RunFacts(config)))


def test_options_of_a_learnt_tokenizer_are_refused_for_a_named_one():
    told = Tokenizer.check({"name": "bert-base-uncased", "lowercase": False})
    assert told == ["lowercase is for a tokenizer that is learnt, and this one is that of bert-base-uncased; leave it out."]


@pytest.mark.parametrize("says", [True, False])
def test_a_folder_that_contradicts_itself_on_capital_letters_is_refused(tmp_path, says):
    learnt = Tokenizer(lowercase=True)
    learnt.fit(["Yes no"])
    learnt.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": says}))
    named = Tokenizer(name=str(tmp_path))
    if says:
        named.fit([])
        assert named.load("YES").tolist() == learnt.load("yes").tolist()
        return
    with pytest.raises(DataError, match=r"tokenizer_config\.json says do_lower_case=false and tokenizer\.json lowercase=true"):
        named.fit([])


@pytest.mark.parametrize(
    ("weights", "written", "count"), [("DEFAULT", {}, 1), (None, {}, 0), ("DEFAULT", {"mean": HALF, "std": HALF}, 0)]
)
def test_images_that_weights_of_timm_never_saw_so_are_told(weights, written, count):
    pytest.importorskip("timm")
    image = {"type": "timm", "name": "tf_efficientnet_lite0", "weights": weights}
    model = {"type": "late_fusion", "encoders": {"image": image, "text": "transformer"}}
    told = problems(Path("unused"), {"type": "pixels", **written}, model)
    assert len(told) == count
    for sentence in told:
        assert "tf_efficientnet_lite0 was trained on images with mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]" in sentence
        assert sentence.endswith("Write mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], or the values that you want.")
