"""What hides a modality where a run is measured: the same for students that were trained with different maskers."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from msd_framework.build.data import build_data
from msd_framework.build.facts import RunFacts, needs_all
from msd_framework.build.models import build_maskers
from msd_framework.checks.run import checked
from msd_framework.config.load import load
from msd_framework.engine.distributed import World
from msd_framework.errors import CacheError, CheckpointError, ConfigError
from msd_framework.report import masker_line
from msd_framework.run import run
from msd_framework.trained import load as load_trained

VIEWS = "evaluation.views=[full, image, text]"
MEANS = "{type: by_modality, maskers: {image: mean, text: drop}}"
MSD = ["objective={type: distillation, views: [full, image, text], distill_weight: 0.5}", "training.max_updates=2", VIEWS]


@pytest.fixture
def msd(tiny_config, tiny_teacher, tmp_path):
    """Runs a student, and its report."""

    def made(name: str, *words: str) -> dict:
        return run(tiny_config, [*MSD, f"teacher.checkpoint={tiny_teacher}", f"env.save_dir={tmp_path / name}", *words])

    return made


def maskers_of(tiny_config, words):
    data = build_data(RunFacts(checked(load(tiny_config, words))), World.alone("cpu"))
    return build_maskers(data)


def test_the_same_weights_get_the_same_numbers_whatever_masker_they_were_trained_with(msd, tmp_path):
    dropped = msd("dropped")
    for masker in ("constant", "noise", "other"):
        again = msd("again", f"masker={masker}", "run_type=test", f"checkpoint.load={tmp_path / 'dropped'}")
        assert again["metrics"] == {k: v for k, v in dropped["metrics"].items() if k.startswith("test/")}
        assert again["maskers"] == {"student": "drop", "teacher": "drop"}
    other = msd("other", "run_type=test", f"checkpoint.load={tmp_path / 'dropped'}", "evaluation.masker=constant")
    assert other["metrics"]["test/accuracy"] == dropped["metrics"]["test/accuracy"]
    assert other["metrics"]["test/image/kl"] != dropped["metrics"]["test/image/kl"]
    assert masker_line(other["maskers"]) in (tmp_path / "other" / "report_test.md").read_text()


def test_teacher_and_student_are_compared_on_the_same_views(tiny_config, tiny_teacher, tmp_path):
    given = [
        *MSD,
        f"teacher.checkpoint={tiny_teacher}",
        "masker=noise",
        "teacher.masker=attention",
        f"env.save_dir={tmp_path / 'none'}",
    ]
    maskers = maskers_of(tiny_config, given)
    assert maskers.of("train") is maskers
    assert maskers.of("validation").student is maskers.of("test").teachers[0]
    assert type(maskers.of("test").student).__name__ == "DropMasker"
    same = maskers_of(tiny_config, [*given, "masker=drop"])
    assert same.of("test").student is same.student
    assert same.of("test").teachers[0] is not same.teachers[0]


def test_a_cache_keeps_a_validation_split_as_it_is_measured(msd, tmp_path):
    msd("constant", "masker=constant", "teacher.cache=true", f"teacher.cache_dir={tmp_path / 'caches'}")
    words = ["masker=attention", "run_type=test", f"checkpoint.load={tmp_path / 'constant'}"]
    read = [*words, "teacher.cache=read", f"teacher.cache_dir={tmp_path / 'caches'}"]
    assert msd("read", *read)["metrics"] == pytest.approx(msd("live", *words)["metrics"], abs=1e-3)  # a cache keeps float16
    with pytest.raises(CacheError, match=r"masker spec type drop -> constant"):
        msd("other", *read, "evaluation.masker=constant")


@pytest.mark.parametrize("masker", ["noise", "other"])
def test_what_is_drawn_anew_cannot_be_cached_for_an_evaluation(msd, masker):
    with pytest.raises(ConfigError, match=rf"evaluation\.masker: {masker} draws .* such as evaluation\.masker=drop, or set"):
        msd("cached", "teacher.cache=true", f"evaluation.masker={masker}")


def test_what_it_learned_is_saved_with_the_run_and_read_by_all_that_evaluates(msd, tiny_config, tiny_world, tmp_path):
    report = msd("means", f"evaluation.masker={MEANS}")
    saved = load_file(tmp_path / "means" / "checkpoints" / "last" / "objective.safetensors")
    assert [name for name in saved if "mean_image" in name] == ["evaluation_masker.student.maskers.image.mean_image"]
    words = ["run_type=test", f"checkpoint.load={tmp_path / 'means'}", f"evaluation.masker={MEANS}"]
    assert msd("again", *words)["metrics"] == {k: v for k, v in report["metrics"].items() if k.startswith("test/")}
    assert type(load_trained(tmp_path / "means", device="cpu").masker).__name__ == "ModalityMasker"
    msd("dropped")
    with pytest.raises(CheckpointError, match=r"dropped.*: holds nothing that `evaluation\.masker` has learned"):
        msd("again", *words, f"checkpoint.load={tmp_path / 'dropped'}")
    with pytest.raises(ConfigError, match=r"evaluation\.masker: .*in the run that is gone on with"):
        msd("means", "checkpoint.resume=true", "training.max_updates=3")


def test_a_model_that_needs_every_modality_is_measured_as_it_was_trained(tiny_config, tmp_path):
    model = "model={type: module, target: torchvision.models.shufflenet_v2_x0_5, options: {num_classes: 2}, inputs: {image: x}}"
    facts = RunFacts(
        checked(load(tiny_config, [model, "masker=constant", "evaluation.views=[full]", f"env.save_dir={tmp_path / 'none'}"]))
    )
    assert facts.masker_of("test") == facts.masker_of("train") == ("masker", "constant")
    assert not needs_all(takes_subsets=False, kinds={"text": "tokens"})  # of which [CLS] and [SEP] stay


def test_predictions_from_python_are_made_by_the_same_rule(msd, tmp_path):
    msd("noisy", "masker=noise")
    model = load_trained(tmp_path / "noisy", device="cpu")
    assert type(model.masker).__name__ == "DropMasker"
    assert json.loads((tmp_path / "noisy" / "report.json").read_text())["maskers"]["student"] == "drop"
