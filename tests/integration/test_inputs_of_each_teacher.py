"""Two teachers of two tokenizers and two sizes of images teach a student of a third: each sees tensors of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from msd_framework import load as load_model
from msd_framework.analysis.saliency.scores import run_saliency
from msd_framework.build.data import build_data
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import build_maskers
from msd_framework.build.run import Run, build
from msd_framework.checks.run import checked
from msd_framework.commands import doctor
from msd_framework.config.load import load
from msd_framework.engine.distributed import World
from msd_framework.errors import CheckpointError, ConfigError
from msd_framework.run import run
from msd_framework.testing import run_processes
from tests.runs import losses

VIEWS = ["full", "image", "text"]
MEANS = "masker={type: by_modality, maskers: {image: mean, text: drop}}"


@pytest.fixture(scope="module")
def other_teacher(tiny_config, tmp_path_factory) -> Path:
    """The folder of a finished run on larger images and other tokens."""
    folder = tmp_path_factory.mktemp("other") / "teacher"
    words = "data.processors.text={type: tokenizer, max_length: 5, algorithm: wordpiece}"
    long = ["training.max_updates=40", "optimizer.lr=0.01"]
    run(tiny_config, [f"env.save_dir={folder}", "data.processors.image.size=12", words, *long])
    return folder


@pytest.fixture(scope="module")
def of_image(tiny_config, tmp_path_factory) -> Path:
    """The folder of a finished run on larger images alone."""
    folder = tmp_path_factory.mktemp("of_image") / "teacher"
    values = yaml.safe_load(tiny_config.read_text())
    del values["data"]["processors"]["text"]
    encoder = {"type": "patches", "patch_size": 4, "hidden_size": 8, "num_heads": 2}
    values["model"] = {"type": "unimodal_image", "encoder": encoder}
    (folder.parent / "image.yaml").write_text(yaml.safe_dump(values))
    run(folder.parent / "image.yaml", [f"env.save_dir={folder}", "data.processors.image.size=12"])
    return folder


def given(teachers: list[Path], folder: Path, *more: str) -> list[str]:
    """A student of inputs of its own."""
    return [
        "objective={type: distillation, views: [full, image, text], weighting: instance}",
        f"teacher.checkpoint=[{', '.join(map(str, teachers))}]",
        f"teacher.cache_dir={folder.parent / 'caches'}",
        f"env.save_dir={folder}",
        f"evaluation.views=[{', '.join(VIEWS)}]",
        "training.log_every=1",
        "data.processors.image.size=4",
        "data.processors.text={type: tokenizer, max_length: 6, algorithm: wordpiece}",
        *more,
    ]


def built(config: Path, words: list[str]) -> Run:
    return build(RunFacts(checked(load(config, words))), World.alone("cpu"))


def test_their_common_output_is_the_mean_of_what_each_predicts_from_its_own_inputs(
    tiny_config, tiny_world, tiny_teacher, other_teacher, tmp_path
):
    student = built(tiny_config, given([tiny_teacher, other_teacher], tmp_path / "run"))
    together = student.ask_teacher("test", student.data.evaluation["test"]).together()
    lines = [json.loads(line) for line in (tiny_world / "test_seen.jsonl").read_text().splitlines()]
    rows = [{"id": line["id"], "text": line["text"], "image": tiny_world / line["img"]} for line in lines]
    alone = [load_model(str(folder)).predict(rows, views=VIEWS) for folder in (tiny_teacher, other_teacher)]
    for view in VIEWS:
        first, second = (torch.as_tensor(predictions[view].logits).softmax(-1) for predictions in alone)
        assert not torch.allclose(first, second, atol=1e-4)
        torch.testing.assert_close(together.logits[view].softmax(-1), (first + second) / 2, atol=1e-6, rtol=0)


def test_cached_teachers_teach_what_live_ones_teach_and_read_the_caches_of_runs_with_one(
    tiny_config, tiny_teacher, other_teacher, tmp_path, images
):
    both = [tiny_teacher, other_teacher]
    live = run(tiny_config, given(both, tmp_path / "live"))
    run(tiny_config, given([tiny_teacher], tmp_path / "alone", "teacher.cache=true"))
    alone = {path.parent.name for path in (tmp_path / "caches").glob("*/card.json")}
    filled = run(tiny_config, given(both, tmp_path / "filled", "teacher.cache=true"))
    stores = {path.parent.name for path in (tmp_path / "caches").glob("*/card.json")}
    assert len(alone) == 3
    assert alone < stores
    assert len(stores) == 6
    assert losses(tmp_path / "filled") == pytest.approx(losses(tmp_path / "live"), abs=2e-3)  # logits are kept in float16
    assert filled["metrics"]["test/agreement"] == live["metrics"]["test/agreement"]
    images.clear()
    run(tiny_config, given(both, tmp_path / "read", "teacher.cache=read"))
    assert losses(tmp_path / "read") == losses(tmp_path / "filled")
    # two rows of each split are compared with each teacher when its store is opened
    assert max(images[8], images[12]) <= 2 * 3
    assert images[4] > 30


def test_what_two_sides_see_alike_is_made_once(tiny_config, tiny_teacher, other_teacher, tmp_path, images):
    shutil.copytree(other_teacher, tmp_path / "copy")
    more = ["data.cache_mb=0", "training.max_updates=1"]
    run(tiny_config, given([tiny_teacher, other_teacher], tmp_path / "two", *more))
    of_two = images.copy()
    images.clear()
    run(tiny_config, given([tiny_teacher, other_teacher, tmp_path / "copy"], tmp_path / "three", *more))
    assert images == of_two
    images.clear()
    own = ["data.processors.image.size=12"]  # now the student sees the images of the second teacher
    run(tiny_config, given([tiny_teacher, other_teacher], tmp_path / "shared", *more, *own))
    assert images[12] == of_two[4]
    assert images[8] == of_two[8]


def test_each_teacher_has_a_masker_of_its_own_tensors_that_a_later_evaluation_takes_over(
    tiny_config, tiny_teacher, other_teacher, tmp_path
):
    words = given([tiny_teacher, other_teacher], tmp_path / "run", MEANS, f"evaluation.{MEANS}")
    report = run(tiny_config, words)
    elsewhere = [*words, f"env.save_dir={tmp_path / 'elsewhere'}"]
    data = build_data(RunFacts(checked(load(tiny_config, elsewhere))), World())
    maskers = build_maskers(data)
    maskers.fit(data.all_training_examples())
    shapes = [tuple(masker.state_dict()["maskers.image.mean_image"].shape) for masker in (maskers.student, *maskers.teachers)]
    assert shapes == [(3, 4, 4), (3, 8, 8), (3, 12, 12)]
    again = run(tiny_config, [*words, "run_type=test", f"checkpoint.load={tmp_path / 'run'}", f"env.save_dir={tmp_path / 'again'}"])
    for name in ("test/agreement", "test/image/agreement"):
        assert again["metrics"][name] == report["metrics"][name]


def test_maskers_that_were_learned_go_with_what_a_teacher_sees_in_whichever_order_it_is_listed(tiny_config, tiny_teacher, tmp_path):
    # of the same shape as the other's: a mean of the wrong teacher would fit
    brighter, processor = tmp_path / "brighter", "data.processors.image={type: pixels, size: 8, mean: [0.1, 0.1, 0.1]}"
    run(tiny_config, [f"env.save_dir={brighter}", processor])
    first, second = (given(order, tmp_path / "run", MEANS) for order in ([tiny_teacher, brighter], [brighter, tiny_teacher]))
    run(tiny_config, first)
    later = ["run_type=test", f"checkpoint.load={tmp_path / 'run'}"]
    reports = [run(tiny_config, [*words, *later, f"env.save_dir={tmp_path / str(i)}"]) for i, words in enumerate((first, second))]
    assert reports[0]["metrics"] == pytest.approx(reports[1]["metrics"], abs=1e-7)
    resumed = [*second, "checkpoint.resume=true", "training.max_updates=5"]
    run(tiny_config, resumed)
    saved = load_file(tmp_path / "run" / "checkpoints" / "last" / "objective.safetensors")
    learned = [tensor for name, tensor in saved.items() if name.startswith("teacher_masker.")]
    assert len(learned) == 2
    assert not torch.allclose(*learned)


def test_one_of_the_teachers_is_found_in_the_checkpoint_and_another_one_is_not(
    tiny_config, tiny_teacher, other_teacher, of_image, tmp_path
):
    run(tiny_config, given([tiny_teacher, other_teacher], tmp_path / "run", MEANS))
    later = ["run_type=test", f"checkpoint.load={tmp_path / 'run'}", f"env.save_dir={tmp_path / 'later'}"]
    report = run(tiny_config, [*given([other_teacher], tmp_path / "run", MEANS), *later])
    assert "test/text/kl" in report["metrics"]
    stranger = tmp_path / "stranger"
    run(tiny_config, [f"env.save_dir={stranger}", "data.processors.image.size=16"])
    with pytest.raises(CheckpointError, match=r"run.*: holds nothing that a masker has learned from what these teachers see"):
        run(tiny_config, [*given([stranger], tmp_path / "run", MEANS), *later])


def test_a_masker_learns_from_the_tensors_of_its_own_side_alone(tiny_config, tiny_teacher, other_teacher, tmp_path, images):
    words = given([tiny_teacher, other_teacher], tmp_path / "run", MEANS, "data.cache_mb=0")
    data = build_data(RunFacts(checked(load(tiny_config, words))), World())
    images.clear()
    build_maskers(data).fit(data.all_training_examples())
    assert images[8] == images[12]
    assert images[8] <= 2 * 12  # batches as a student's are read with all that their own reader makes, and then with one side's


def test_a_teacher_of_fewer_modalities_goes_with_the_first_that_takes_the_others(
    tiny_config, tiny_teacher, other_teacher, of_image, tmp_path
):
    teachers = [of_image, tiny_teacher, other_teacher]
    data = build_data(RunFacts(checked(load(tiny_config, given(teachers, tmp_path / "run")))), World())
    sides = [data.teacher_processors(number) for number in range(3)]
    assert [side["image"].size[0] for side in sides] == [12, 8, 12]
    assert [side["text"].max_length for side in sides] == [8, 8, 5]
    assert sorted(data.teacher_overrides) == [("image", (0, 2)), ("image", (1,)), ("text", (0, 1)), ("text", (2,))]
    run(tiny_config, given(teachers, tmp_path / "run"))
    assert losses(tmp_path / "run")


def _train(config: str, words: list[str]) -> None:
    run(config, words)


def test_two_processes_make_the_updates_of_one(tiny_config, tiny_teacher, other_teacher, tmp_path):
    dropouts = ["dropout", "encoders.text.dropout", "encoders.text.attention_dropout", "encoders.image.dropout"]
    exact, both = [f"model.{name}=0" for name in dropouts], [tiny_teacher, other_teacher]
    run(tiny_config, given(both, tmp_path / "one", *exact))
    run_processes(_train, 2, str(tiny_config), given(both, tmp_path / "two", *exact))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)  # float32 sums in another order


def test_the_doctor_and_a_check_find_nothing_wrong(tiny_config, tiny_teacher, other_teacher, tmp_path):
    words = given([tiny_teacher, other_teacher], tmp_path / "run")
    run(tiny_config, [*words, "run_type=check"])
    doctor.main([f"config={tiny_config}", *words, f"out={tmp_path / 'found.json'}"])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [f["sentence"] for f in found["findings"] if f["is_fault"]] == []
    shapes = {one["modality"]: one["values"][1:] for one in found["shapes"]}
    images = [shapes[name] for name in ("image", "image of teacher 1", "image of teacher 2")]
    assert images == [[3, 4, 4], [3, 8, 8], [3, 12, 12]]


def test_processors_that_are_named_for_all_teachers_must_be_those_of_each(tiny_config, tiny_teacher, other_teacher, tmp_path):
    words = given([tiny_teacher, other_teacher], tmp_path / "run", "teacher.processors.image={type: pixels, size: 8}")
    sentence = rf"teacher\.processors\.image: {other_teacher} was trained on other tensors: size is 8 here and 12 there"
    with pytest.raises(ConfigError, match=sentence):
        run(tiny_config, words)


def test_the_report_of_saliency_names_each_teacher(tiny_config, tiny_teacher, other_teacher, tmp_path):
    run(tiny_config, given([tiny_teacher, other_teacher], tmp_path / "run"))
    few = ["split=test", "scores=[drop]", "resamples=0", f"folder={tmp_path / 'saliency'}"]
    result = run_saliency(tmp_path / "run" / "config.yaml", few)["test"]
    assert result["teacher"] == f"{tiny_teacher}, {other_teacher}"
    (page,) = (tmp_path / "saliency").glob("*.md")
    assert str(other_teacher) in page.read_text().replace("\\", "")
