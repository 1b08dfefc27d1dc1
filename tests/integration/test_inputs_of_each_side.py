"""A teacher and a student of two tokenizers and two sizes of images: each sees its own tensors of the same examples."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from msd_framework.analysis.saliency.scores import run_saliency
from msd_framework.build.data import build_data
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import build_maskers
from msd_framework.checks.run import checked
from msd_framework.commands import doctor
from msd_framework.config.load import load
from msd_framework.config.schema import RunConfig
from msd_framework.engine.distributed import World
from msd_framework.errors import ConfigError, DataError
from msd_framework.maskers.resample import NoiseMasker
from msd_framework.run import run
from msd_framework.testing import run_processes
from tests.runs import losses

OTHER = ["data.processors.image.size=4", "data.processors.text={type: tokenizer, max_length: 6, algorithm: wordpiece}"]


def words(teacher: Path, folder: Path, *more: str) -> list[str]:
    """A student of a teacher that sees other tensors, with views of both modalities."""
    views = "objective={type: distillation, views: [full, image, text], weighting: instance}"
    log, caches = "training.log_every=1", f"teacher.cache_dir={folder.parent / 'caches'}"
    return [views, f"teacher.checkpoint={teacher}", f"env.save_dir={folder}", log, caches, *OTHER, *more]


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved_weights(folder: Path) -> bytes:
    return (folder / "checkpoints" / "last" / "model.safetensors").read_bytes()


def test_the_teacher_says_of_its_own_tensors_what_it_said_when_it_was_trained(tiny_config, tiny_teacher, tmp_path):
    report = run(tiny_config, words(tiny_teacher, tmp_path / "student"))

    def decided(folder: Path) -> list[str]:
        with (folder / "predictions_test_seen.csv").open() as file:
            return [row["prediction"] for row in csv.DictReader(file)]

    mine, theirs = decided(tmp_path / "student"), decided(tiny_teacher)
    assert report["metrics"]["test/agreement"] == pytest.approx(sum(a == b for a, b in zip(mine, theirs)) / len(mine))


def test_a_cached_teacher_says_what_a_live_one_says_and_then_makes_no_inputs(tiny_config, tiny_teacher, tmp_path, images):
    live = run(tiny_config, words(tiny_teacher, tmp_path / "live"))
    filled = run(tiny_config, words(tiny_teacher, tmp_path / "filled", "teacher.cache=true"))
    # logits are kept in float16
    assert losses(tmp_path / "filled") == pytest.approx(losses(tmp_path / "live"), abs=2e-3)
    assert filled["metrics"]["test/agreement"] == live["metrics"]["test/agreement"]
    images.clear()
    run(tiny_config, words(tiny_teacher, tmp_path / "read", "teacher.cache=read"))
    assert losses(tmp_path / "read") == losses(tmp_path / "filled")
    assert images[8] <= 2 * 3  # two rows of each split are compared with the teacher when its store is opened
    assert images[4] > 30


def test_what_both_sides_see_is_made_once(tiny_config, tiny_teacher, tmp_path, images):
    same = [word for word in words(tiny_teacher, tmp_path / "same") if word not in OTHER]
    run(tiny_config, [*same, "data.cache_mb=0"])
    once = images.copy()
    images.clear()
    named = "teacher.processors.image={type: pixels, size: 8}"
    run(tiny_config, [*same, f"env.save_dir={tmp_path / 'named'}", "data.cache_mb=0", named])
    assert images == once
    assert saved_weights(tmp_path / "named") == saved_weights(tmp_path / "same")


def test_a_student_may_be_augmented_whose_teacher_sees_whole_images_and_is_cached(tiny_config, tiny_world, tiny_teacher, tmp_path):
    shutil.copytree(tiny_world, tmp_path / "world")
    chance = np.random.default_rng(0)
    for path in sorted((tmp_path / "world" / "img").iterdir()):  # a crop of one colour would be the image itself
        Image.fromarray(chance.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    elsewhere = f"data.dataset.root={tmp_path / 'world'}"
    same = [word for word in words(tiny_teacher, tmp_path / "run", "data.cache_mb=0", elsewhere) if word not in OTHER]
    given = ["data.processors.image.augment=crop_flip", "teacher.processors.image={type: pixels, size: 8}"]
    run(tiny_config, [*same, *given, "teacher.cache=true"])
    run(tiny_config, [*same, *given, f"env.save_dir={tmp_path / 'live'}"])
    run(tiny_config, [*same, *given[:1], f"env.save_dir={tmp_path / 'both'}"])
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "live"), abs=2e-3)
    assert losses(tmp_path / "both") != pytest.approx(losses(tmp_path / "live"), abs=1e-5)  # there the teacher sees the crops


@pytest.mark.parametrize("cache", ["false", "true"])
def test_a_run_that_goes_on_is_the_run_that_was_not_interrupted(tiny_config, tiny_teacher, tmp_path, cache):
    more = [f"teacher.cache={cache}", "masker=constant", "checkpoint.resume=true"]
    run(tiny_config, words(tiny_teacher, tmp_path / "whole", *more, "training.max_updates=4"))
    run(tiny_config, words(tiny_teacher, tmp_path / "cut", *more, "training.max_updates=2"))
    run(tiny_config, words(tiny_teacher, tmp_path / "cut", *more, "training.max_updates=4"))
    assert saved_weights(tmp_path / "cut") == saved_weights(tmp_path / "whole")


def _train(config: str, given: list[str]) -> None:
    run(config, given)


def test_two_processes_make_the_updates_of_one(tiny_config, tiny_teacher, tmp_path):
    dropouts = ["dropout", "encoders.text.dropout", "encoders.text.attention_dropout", "encoders.image.dropout"]
    exact = [f"model.{name}=0" for name in dropouts]
    run(tiny_config, words(tiny_teacher, tmp_path / "one", *exact))
    run_processes(_train, 2, str(tiny_config), words(tiny_teacher, tmp_path / "two", *exact))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)  # float32 sums in another order


def test_each_side_has_a_masker_of_its_own_vocabulary(tiny_config, tiny_teacher, tmp_path):
    given = words(tiny_teacher, tmp_path / "run", "masker=noise")
    config: RunConfig = checked(load(tiny_config, given))
    world = World.alone("cpu")
    data = build_data(RunFacts(config), world)
    maskers = build_maskers(data)
    assert isinstance(maskers.student, NoiseMasker)
    (of_teacher,) = maskers.teachers
    assert isinstance(of_teacher, NoiseMasker)
    sizes = data.processors["text"].facts["vocab_size"], data.teacher_processors(0)["text"].facts["vocab_size"]
    assert (maskers.student.vocab_size, of_teacher.vocab_size) == sizes
    assert sizes[0] != sizes[1]


def test_another_row_stands_in_for_a_modality_on_both_sides_alike(tiny_config, tiny_teacher, tmp_path):
    config = checked(load(tiny_config, words(tiny_teacher, tmp_path / "run", "masker=other")))
    data = build_data(RunFacts(config), World.alone("cpu"))
    maskers = build_maskers(data)
    batch = next(iter(data.evaluation["validation"]))
    mine, theirs = maskers.student.view(batch, "text"), maskers.teachers[0].view(batch.teacher_side, "text")
    assert mine.inputs["image"].values.shape[2:] == (4, 4)
    assert theirs.inputs["image"].values.shape[2:] == (8, 8)
    for seen, whole in ((mine, batch), (theirs, batch.teacher_side)):
        torch.testing.assert_close(seen.inputs["image"].values, whole.inputs["image"].values.roll(1, 0))


def test_means_that_stand_in_are_those_of_each_sides_own_images(tiny_config, tiny_teacher, tmp_path):
    means = "masker={type: by_modality, maskers: {image: mean, text: drop}}"
    config = checked(load(tiny_config, words(tiny_teacher, tmp_path / "run", means, "teacher.cache=true")))
    data = build_data(RunFacts(config), World.alone("cpu"))
    maskers = build_maskers(data)
    maskers.fit(data.all_training_examples())
    shapes = [tuple(m.state_dict()["maskers.image.mean_image"].shape) for m in (maskers.student, *maskers.teachers)]
    assert shapes == [(3, 4, 4), (3, 8, 8)]


def test_the_doctor_and_a_check_find_nothing_wrong(tiny_config, tiny_teacher, tmp_path):
    run(tiny_config, words(tiny_teacher, tmp_path / "run", "run_type=check"))
    doctor.main([f"config={tiny_config}", *words(tiny_teacher, tmp_path / "run"), f"out={tmp_path / 'found.json'}"])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [f["sentence"] for f in found["findings"] if f["is_fault"]] == []
    shapes = {one["modality"]: one["values"][1:] for one in found["shapes"]}
    assert shapes["image"] == [3, 4, 4]
    assert shapes["image of the teacher"] == [3, 8, 8]
    adaptors = {one["student"]: one["adaptor"] for one in found["pairs"]}
    assert adaptors["text.1.hidden"] == "summaries alone"  # as a run refuses hint on them
    assert adaptors["fused.pooled"] == "none"


def test_the_saliency_of_a_teacher_is_that_of_its_own_tensors(tiny_config, tiny_teacher, tmp_path):
    same = [word for word in words(tiny_teacher, tmp_path / "run") if word not in OTHER]
    options = ["split=test", "scores=[drop]", "examples=1", "resamples=5", "teacher.cache=true"]
    wanted = run_saliency(tiny_config, [*same, *options, f"folder={tmp_path / 'same'}"])["test"]
    found = run_saliency(tiny_config, [*words(tiny_teacher, tmp_path / "run"), *options, f"folder={tmp_path / 'other'}"])["test"]
    assert found["scores"]["drop"]["classes"] == wanted["scores"]["drop"]["classes"]


def test_maps_of_the_attention_over_words_are_not_compared_across_tokenizers(tiny_config, tiny_teacher, tmp_path):
    features = "objective.features=[{loss: attention_transfer, student: text.1.attention}]"
    with pytest.raises(ConfigError, match="student and teacher see other tensors of text, and it compares position by position"):
        run(tiny_config, words(tiny_teacher, tmp_path / "run", features))


def test_hidden_states_of_texts_are_not_compared_across_tokenizers(tiny_config, tiny_teacher, tmp_path):
    features = "objective.features=[{loss: hint, student: text.last.hidden}]"
    with pytest.raises(ConfigError, match="student and teacher see other tensors of text, and it compares position by position"):
        run(tiny_config, words(tiny_teacher, tmp_path / "run", features))
    summaries = "objective.features=[{loss: sp, student: text.last.hidden}, {loss: hint, student: fused.pooled}]"
    run(tiny_config, words(tiny_teacher, tmp_path / "run", summaries))


def test_hidden_states_of_images_of_two_sizes_are_compared_as_grids(tiny_config, tiny_teacher, tmp_path):
    features = "objective.features=[{loss: hint, student: image.last.hidden}]"
    run(tiny_config, words(tiny_teacher, tmp_path / "run", features, "training.max_updates=1"))
    assert losses(tmp_path / "run")


CROSSMODAL = [
    "model={type: unimodal_text, encoder: {type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}}",
    "objective={type: distillation, views: [{teacher: full, student: full}]}",
]


@pytest.fixture
def config_of_text(tiny_config, tmp_path) -> Path:
    """The configuration of runs whose data has a processor of the text alone."""
    given = yaml.safe_load(tiny_config.read_text())
    del given["data"]["processors"]["image"]
    del given["model"]
    (tmp_path / "text.yaml").write_text(yaml.safe_dump(given))
    return tmp_path / "text.yaml"


def of_text(teacher: Path, folder: Path, *more: str) -> list[str]:
    """A student of the text alone, whose teacher sees the image as well."""
    return [*(word for word in words(teacher, folder) if word not in OTHER), *CROSSMODAL, *more]


def test_a_student_of_one_modality_needs_no_processor_of_the_teachers_other_one(config_of_text, tiny_teacher, tmp_path):
    for cache in ("false", "true"):
        run(config_of_text, of_text(tiny_teacher, tmp_path / cache, f"teacher.cache={cache}"))
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), abs=2e-3)


WEIGHTINGS = {
    "uniform": CROSSMODAL[1],
    "population": "objective={type: distillation, views: [{teacher: full, student: full}, text], weighting: population}",
}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_row_that_only_the_teacher_cannot_read_is_left_out_live_and_cached_alike(
    config_of_text, tiny_world, tiny_teacher, tmp_path, weighting
):
    shutil.copytree(tiny_world, tmp_path / "world")
    for name in ("0002", "0003", "0005", "0006", "0008", "0009", "1001", "1004", "1007"):
        (tmp_path / "world" / "img" / f"{name}.png").write_bytes(b"no image")
    given = [f"data.dataset.root={tmp_path / 'world'}", WEIGHTINGS[weighting]]
    reports = {}
    for cache in ("false", "true", "read"):
        more = [*given, f"teacher.cache={cache}", "data.on_error=skip"]
        reports[cache] = run(config_of_text, of_text(tiny_teacher, tmp_path / cache, *more))
    assert [len(report["skipped"]) for report in reports.values()] == [9, 9, 9]
    assert all("the teacher" in text for text in reports["read"]["skipped"])
    assert losses(tmp_path / "true") == losses(tmp_path / "read")
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), abs=2e-3)
    for cache, report in reports.items():  # what a run watches is what it reports, of 9 rows of the 12
        logged = [row["validation/accuracy"] for row in lines(tmp_path / cache) if "validation/accuracy" in row]
        assert report["metrics"]["validation/accuracy"] in logged
        assert report["metrics"]["validation/accuracy"] * 9 == pytest.approx(round(report["metrics"]["validation/accuracy"] * 9))
    with pytest.raises(DataError, match=r"could not read it\. Mend it, or set data\.on_error=skip"):
        run(config_of_text, of_text(tiny_teacher, tmp_path / "raises", *given, "teacher.cache=read"))
    assert not (tmp_path / "raises" / "metrics.jsonl").exists()


def lacking(config: Path, world: Path, folder: Path, key: str) -> tuple[Path, Path]:
    """The configurations of runs on rows of JSON that are whole, and on the same rows of which two a split lack a modality."""
    files = {"train": "train", "dev_seen": "validation", "test_seen": "test"}
    found = []
    for name, without in (("whole", ()), ("lacking", (2, 5))):
        shutil.copytree(world, folder / name)
        for old, new in files.items():
            rows = [json.loads(line) for line in (world / f"{old}.jsonl").read_text().splitlines()]
            for i in without:
                rows[i][key] = None
            (folder / name / f"{new}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = yaml.safe_load(config.read_text())
        columns = {"texts": {"text": "text"}, "images": {"image": "img"}, "label": "label", "id_column": "id", "classes": [0, 1]}
        given["data"] |= {
            "dataset": {"type": "jsonl", "root": str(folder / name), **columns},
            **{use: use for use in files.values()},
        }
        found.append(folder / f"{name}.yaml")
        found[-1].write_text(yaml.safe_dump(given))
    return found[0], found[1]


@pytest.mark.parametrize("cache", ["false", "true"])
def test_rows_without_the_students_modality_are_validated_as_they_are_tested(
    tiny_config, config_of_text, tiny_world, tmp_path, cache
):
    run(lacking(tiny_config, tiny_world, tmp_path / "both", "text")[0], [f"env.save_dir={tmp_path / 'teacher'}"])
    _, student = lacking(config_of_text, tiny_world, tmp_path / "text", "text")
    report = run(student, of_text(tmp_path / "teacher", tmp_path / "run", f"teacher.cache={cache}"))
    assert report["skipped"] == []
    assert report["lacking"]["validation"]["text"] == report["lacking"]["test"]["text"] == 2


def test_rows_without_all_that_the_teacher_takes_are_kept_live_and_cached(tiny_config, tiny_world, tmp_path):
    whole, student = lacking(tiny_config, tiny_world, tmp_path, "img")
    encoder = "{type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}"
    of_image = yaml.safe_load(whole.read_text())
    del of_image["model"]
    whole.write_text(yaml.safe_dump(of_image))
    run(whole, [f"model={{type: unimodal_image, encoder: {encoder}}}", f"env.save_dir={tmp_path / 'teacher'}"])
    objective = "objective={type: distillation, views: [full], weighting: uniform}"
    skipped = []
    for cache in ("false", "true"):
        given = [f"teacher.checkpoint={tmp_path / 'teacher'}", f"teacher.cache_dir={tmp_path / 'caches'}", f"teacher.cache={cache}"]
        report = run(student, [objective, *given, "training.log_every=1", f"env.save_dir={tmp_path / cache}"])
        skipped.append(report["skipped"])
    assert skipped == [[], []]
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), abs=2e-3)


def test_a_file_that_only_the_teacher_reads_is_missed_before_anything_is_asked(config_of_text, tiny_world, tiny_teacher, tmp_path):
    shutil.copytree(tiny_world, tmp_path / "world")
    (tmp_path / "world" / "img" / "2003.png").unlink()
    given = [f"data.dataset.root={tmp_path / 'world'}", "teacher.cache=true"]
    with pytest.raises(DataError, match=r"2003\.png"):
        run(config_of_text, of_text(tiny_teacher, tmp_path / "run", *given))
    assert not any((tmp_path / "caches").glob("*/card.json"))


@pytest.mark.parametrize("cache", ["true", "read"])
def test_a_check_looks_for_what_only_a_teacher_reads_whose_cache_is_to_be_filled(
    config_of_text, tiny_world, tiny_teacher, tmp_path, cache
):
    shutil.copytree(tiny_world, tmp_path / "world")
    (tmp_path / "world" / "img" / "0007.png").unlink()
    (tmp_path / "caches").mkdir()
    given = of_text(tiny_teacher, tmp_path / "run", f"teacher.cache={cache}", f"data.dataset.root={tmp_path / 'world'}")
    if cache == "read":
        run(config_of_text, [*given, "run_type=check"])
        return
    with pytest.raises(DataError, match=r"train\.jsonl:8: .*0007\.png"):
        run(config_of_text, [*given, "run_type=check"])
