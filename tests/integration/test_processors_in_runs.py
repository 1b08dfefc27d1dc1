"""What processors learn, through whole runs: whose it is, where it is kept, and who takes it from there."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from msd_framework.analysis.plots import read_log_odds
from msd_framework.data.base import Example, MultimodalDataset
from msd_framework.data.processors.images import Pixels
from msd_framework.engine.checkpoint import find_checkpoint, read, read_json
from msd_framework.errors import CheckpointError, ConfigError
from msd_framework.registry import MODELS
from msd_framework.run import run
from msd_framework.structures import DatasetInfo

HERE = "test_processors_in_runs"
SIZES = {"image": 6, "sound": 4}
"""Features of each region, by modality."""


class Clips(MultimodalDataset):
    """Two texts and two sets of features, all of different sizes.

    Args:
        split: train or test.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def __init__(self, split: str, max_examples: int | None = None, on_error: str = "raise"):
        self.split = split

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        kinds = {"image": "features", "sound": "features", "text": "tokens", "title": "tokens"}
        return DatasetInfo(kinds, 2, "single_label", ("no", "yes"))  # type: ignore[arg-type]

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        return []

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Example:
        files = dict.fromkeys(SIZES, f"{index}.png")
        order = range(5) if self.split == "train" else reversed(range(5))  # no split has a row of another
        text = " ".join(f"word{index}{i}" for i in order)  # 40 words, of which a title has none
        return Example(f"{self.split}{index}", {**files, "text": text, "title": f"title {index % 2}"}, index % 2, f"line {index}")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A configuration of a run on `Clips`, and the files of its features."""
    root = tmp_path_factory.mktemp("clips")
    generator = np.random.default_rng(0)
    for modality, size in SIZES.items():
        (root / modality).mkdir()
        for i in range(8):
            np.save(root / modality / f"{i}.npy", generator.normal(size=(3, size)).astype(np.float32))
    text = {"type": "transformer", "hidden_size": 8, "num_layers": 1, "num_heads": 2}
    values = {
        "data": {
            "dataset": f"{HERE}.Clips",
            "processors": {
                **{m: {"type": "region_features", "folder": str(root / m)} for m in SIZES},
                **{m: {"type": "tokenizer", "max_length": 8} for m in ("text", "title")},
            },
            "train": "train",
            "test": "test",
        },
        "model": {"type": "late_fusion", "hidden_size": 8, "encoders": {"text": text, "title": text}},
        "training": {"max_updates": 2, "batch_size": 4},
        "env": {"device": "cpu"},
    }
    values["model"]["encoders"] |= {m: {"type": "features", "hidden_size": 8} for m in SIZES}
    (root / "clips.yaml").write_text(yaml.safe_dump(values))
    return root / "clips.yaml"


def in_folder(folder: Path, *more: str) -> list[str]:
    return [f"env.save_dir={folder}", *more]


def probabilities(folder: Path, split: str = "test_seen") -> list[list[float]]:
    with (folder / f"predictions_{split}.csv").open() as file:
        return [[float(r["benign"]), float(r["hateful"])] for r in csv.DictReader(file)]


ONE_TEXT = "model={type: unimodal_text, encoder: {type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}}"
ONE_IMAGE = "model={type: unimodal_image, encoder: {type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}}"
DISTILLED = "objective={type: distillation, views: [full]}"
CROSSMODAL = "objective={type: distillation, views: [{teacher: image, student: text}]}"
AUGMENTED = "data.processors.image={type: pixels, size: 8, augment: crop_flip}"


def test_each_encoder_is_told_the_facts_of_its_own_modality(clips, tmp_path):
    run(clips, in_folder(tmp_path / "run"))
    weights = load_file(tmp_path / "run" / "checkpoints" / "last" / "model.safetensors")
    # 5 special tokens and the words of the training split: 40 in the texts; "title", "0" and "1" in the titles
    assert [len(weights[f"encoders.{m}.word.weight"]) for m in ("text", "title")] == [5 + 40, 5 + 3]
    assert [weights[f"encoders.{m}.perceptron.0.weight"].shape[1] for m in SIZES] == list(SIZES.values())


def test_a_model_is_rebuilt_from_its_card_with_facts_of_several_modalities(clips, tmp_path):
    run(clips, in_folder(tmp_path / "run"))
    saved = read(find_checkpoint(tmp_path / "run"))
    model = MODELS.build(saved.card["rebuild"], "model", saved.card["facts"])
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in saved.model.items()}


def test_a_teacher_of_several_modalities_of_a_kind_teaches(clips, tmp_path):
    run(clips, in_folder(tmp_path / "teacher"))
    report = run(clips, in_folder(tmp_path / "student", ONE_TEXT, DISTILLED, f"teacher.checkpoint={tmp_path / 'teacher'}"))
    assert "test/agreement" in report["metrics"]
    weights = load_file(tmp_path / "student" / "checkpoints" / "last" / "model.safetensors")
    assert len(weights["encoder.word.weight"]) == 45


def test_a_fact_that_modalities_differ_in_must_be_given_to_what_is_for_all_of_them(clips, tmp_path):
    with pytest.raises(ConfigError, match=r"masker\.vocab_size: must be given: that of text is 45 and that of title is 8\."):
        run(clips, in_folder(tmp_path / "run", "masker=noise"))
    run(clips, in_folder(tmp_path / "each", "masker={type: by_modality, maskers: {text: noise, title: noise}, otherwise: drop}"))


def test_modalities_that_nobody_takes_are_neither_read_nor_learned(clips, tmp_path):
    words = [ONE_TEXT, "data.processors.image.folder=nowhere"]
    run(clips, in_folder(tmp_path / "run", *words))
    assert [p.name for p in (tmp_path / "run" / "processors").iterdir()] == ["text"]
    assert list(read_json(find_checkpoint(tmp_path / "run") / "card.json")["processors"]) == ["text"]


@pytest.fixture(scope="module")
def image_teacher(tiny_config, tmp_path_factory) -> Path:
    """A finished run of the image alone, whose processor learns nothing."""
    folder = tmp_path_factory.mktemp("image") / "teacher"
    run(tiny_config, in_folder(folder, ONE_IMAGE, AUGMENTED))
    return folder


@pytest.mark.parametrize(
    "words",
    [[ONE_TEXT, CROSSMODAL], [DISTILLED], [ONE_IMAGE, DISTILLED], [ONE_IMAGE, DISTILLED, AUGMENTED]],
    ids=["text", "both", "image", "augmented"],
)
def test_a_teacher_of_the_image_alone_teaches(tiny_config, image_teacher, tmp_path, words):
    words = [*words, f"teacher.checkpoint={image_teacher}"]
    trained = run(tiny_config, in_folder(tmp_path / "student", *words))
    assert 0 <= trained["metrics"]["test/agreement"] <= 1
    tested = run(tiny_config, in_folder(tmp_path / "student", *words, "run_type=test"))
    assert tested["metrics"] == {k: v for k, v in trained["metrics"].items() if k.startswith("test/")}


def test_a_run_whose_processors_learn_nothing_is_evaluated_again(tiny_config, image_teacher):
    before = json.loads((image_teacher / "report.json").read_text())["metrics"]
    report = run(tiny_config, in_folder(image_teacher, ONE_IMAGE, "run_type=test"))
    assert report["metrics"] == {k: v for k, v in before.items() if k.startswith("test/")}


def other_words(world: Path, folder: Path) -> Path:
    """The same data set, with other words in its training split."""
    shutil.copytree(world, folder)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    rows = [row | {"text": f"day a {i} b c d what"} for i, row in enumerate(rows)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_checkpoint_is_evaluated_with_its_own_processors_and_not_with_those_of_the_folder(
    tiny_config, tiny_world, tiny_teacher, tmp_path
):
    world = other_words(tiny_world, tmp_path / "world")
    run(tiny_config, in_folder(tmp_path / "a", f"data.dataset.root={world}"))
    own = (tmp_path / "a" / "processors" / "text" / "tokenizer.json").read_text()
    run(tiny_config, in_folder(tmp_path / "a", "run_type=test", f"checkpoint.load={tiny_teacher}"))
    assert probabilities(tmp_path / "a") == probabilities(tiny_teacher)
    assert (tmp_path / "a" / "processors" / "text" / "tokenizer.json").read_text() == own


def test_a_checkpoint_of_other_tensors_is_refused(tiny_config, tiny_teacher, tmp_path):
    words = ["run_type=test", f"checkpoint.load={tiny_teacher}", "data.processors.text.max_length=4"]
    with pytest.raises(CheckpointError, match=r"trained on other text tensors .*data\.processors\.text .*max_length: 8"):
        run(tiny_config, in_folder(tmp_path / "out", *words))


def test_a_run_that_nobody_taught_is_compared_with_a_teacher_of_another_modality(tiny_config, image_teacher, tmp_path):
    run(tiny_config, in_folder(tmp_path / "text", ONE_TEXT))
    words = [ONE_TEXT, CROSSMODAL, f"teacher.checkpoint={image_teacher}", "run_type=test"]
    assert "test/agreement" in run(tiny_config, in_folder(tmp_path / "text", *words))["metrics"]


def test_what_a_data_set_keeps_with_its_examples_is_written_with_the_predictions(tiny_config, tiny_world, tiny_teacher, tmp_path):
    shutil.copytree(tiny_world, tmp_path / "world")
    file = tmp_path / "world" / "test_seen.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["decided_by"] = "both"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"data.dataset.root={tmp_path / 'world'}", f"checkpoint.load={tiny_teacher}", "run_type=test"]
    run(tiny_config, in_folder(tmp_path / "out", *words))
    with (tmp_path / "out" / "predictions_test_seen.csv").open() as written:
        assert [row["decided_by"] for row in csv.DictReader(written)] == ["", "both", *[""] * 10]
    outputs = [read_log_odds(folder / "predictions_test_seen.csv")["full"] for folder in (tmp_path / "out", tiny_teacher)]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("objective", ["supervised", "distillation"])
def test_what_maskers_learned_is_kept_with_the_checkpoint(clips, tmp_path, objective):
    teacher = tmp_path / "teacher"
    means = "{type: by_modality, maskers: {image: mean, sound: mean}, otherwise: drop}"
    words = [f"masker={means}", f"evaluation.masker={means}", "evaluation.views=[full, text]"]
    if objective == "distillation":
        run(clips, in_folder(teacher))
        words = ["objective={type: distillation, views: [full, text]}", f"teacher.checkpoint={teacher}", "masker=drop"]
        words += [f"teacher.masker={means}", f"evaluation.masker={means}", "evaluation.views=[full, text]"]
    trained = run(clips, in_folder(tmp_path / "run", *words))
    tested = run(clips, in_folder(tmp_path / "run", *words, "run_type=test"))
    assert tested["metrics"] == {k: v for k, v in trained["metrics"].items() if k.startswith("test/")}
    resumed = run(clips, in_folder(tmp_path / "run", *words, "checkpoint.resume=true"))
    assert resumed["metrics"] == trained["metrics"]
    prefix = {"supervised": "masker", "distillation": "teacher_masker"}[objective]
    saved = load_file(tmp_path / "run" / "checkpoints" / "last" / "objective.safetensors")
    regions = np.concatenate([np.load(clips.parent / "sound" / f"{i}.npy") for i in range(8)])
    # means of 24 numbers in float32
    torch.testing.assert_close(saved[f"{prefix}.maskers.sound.mean_sound"], torch.from_numpy(regions.mean(0)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("option", ["max_length=4", "lowercase=false"])
def test_processors_of_another_run_must_have_been_made_with_the_same_options(tiny_config, tiny_teacher, tmp_path, option):
    words = [f"data.processors_from={tiny_teacher}", f"data.processors.text.{option}"]
    name = option.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"data\.processors\.text: .*processors_from was made with other options: {name} is"):
        run(tiny_config, in_folder(tmp_path / "out", *words))


def test_processors_of_a_run_without_a_description_are_refused(tiny_config, tiny_teacher, tmp_path):
    shutil.copytree(tiny_teacher, tmp_path / "copy", symlinks=True)
    card = (tmp_path / "copy" / "checkpoints" / "best" / "card.json").resolve()
    card.write_text("{}")
    with pytest.raises(ConfigError, match=r"data\.processors_from: .*copy.*: its card\.json does not describe a model"):
        run(tiny_config, in_folder(tmp_path / "out", f"data.processors_from={tmp_path / 'copy'}"))


def test_training_may_be_augmented_where_the_run_that_gives_the_processors_was_not(tiny_config, tiny_teacher, tmp_path):
    run(tiny_config, in_folder(tmp_path / "out", f"data.processors_from={tiny_teacher}", AUGMENTED))
    assert Pixels(8, augment="crop_flip").deterministic().fingerprint == Pixels(8).fingerprint


def test_a_split_that_is_not_asked_for_need_not_be_there(tiny_config, tiny_world, tiny_teacher, tmp_path):
    shutil.copytree(tiny_world, tmp_path / "world")
    (tmp_path / "world" / "dev_seen.jsonl").unlink()
    (tmp_path / "world" / "train.jsonl").unlink()
    words = [f"data.dataset.root={tmp_path / 'world'}", f"checkpoint.load={tiny_teacher}", "run_type=test"]
    report = run(tiny_config, in_folder(tmp_path / "out", *words))
    assert list(report["examples"]) == ["test"]
    assert probabilities(tmp_path / "out") == probabilities(tiny_teacher)


@pytest.mark.parametrize("run_type", ["val", "test", "predict"])
def test_a_finished_student_is_evaluated_once_its_teacher_is_gone(tiny_config, tiny_teacher, tmp_path, run_type):
    shutil.copytree(tiny_teacher, tmp_path / "teacher", symlinks=True)
    words = [DISTILLED, f"teacher.checkpoint={tmp_path / 'teacher'}", f"data.processors_from={tmp_path / 'teacher'}"]
    run(tiny_config, in_folder(tmp_path / "student", *words))
    before = probabilities(tmp_path / "student")
    shutil.rmtree(tmp_path / "teacher")
    report = run(tiny_config, in_folder(tmp_path / "student", *words, f"run_type={run_type}"))
    assert not [name for name in report["metrics"] if name.endswith("agreement")]
    assert probabilities(tmp_path / "student") == before
    with pytest.raises(ConfigError, match=r"teacher\.checkpoint: there is no folder"):
        run(tiny_config, in_folder(tmp_path / "another", *words))
