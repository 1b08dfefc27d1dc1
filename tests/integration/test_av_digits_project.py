"""Sounds that teach images: the project's own configurations on tones for digits, Algorithm 1 from run to run, and its page."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from msd_framework.analysis.experiment import run_experiment
from msd_framework.analysis.mfh.channels import draw_permutations
from msd_framework.analysis.mfh.experiment import ChannelSaliency, ModelOnView
from msd_framework.build.data import build_data
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import build_maskers
from msd_framework.build.splits import content
from msd_framework.build.teacher_cache import CachedSplit
from msd_framework.build.teachers import cached_split, trained_teachers
from msd_framework.checks.run import checked
from msd_framework.cli import main
from msd_framework.config.load import load
from msd_framework.engine.distributed import World
from msd_framework.errors import ConfigError, DataError
from msd_framework.models.layers.layer import Layer
from msd_framework.run import run
from tests.integration.test_docs import ROOT, blocks
from tests.sounds import write_fsdd
from tests.unit.analysis.test_mfh import algorithm_1

CONFIGS = ROOT / "projects" / "av_digits" / "configs"
SMALL = {"small_kd", "small_msd", "small_msd_population", "small_msd_instance"}
NAMES = {
    "audio",
    "image",
    "both",
    "agree",
    "channels",
    "kd",
    "kd_both",
    "general",
    "specific",
    "random",
    "regular",
    "small",
    *SMALL,
}
QUICK = (
    "training.max_epochs=null",
    "training.max_updates=3",
    "training.batch_size=8",
    "data.max_train_examples=40",
    "data.max_eval_examples=20",
    "env.device=cpu",
)
TEACHER = {"kd": "audio", "kd_both": "both", "general": "agree", "specific": "agree", "random": "agree", "regular": "agree"}
TEACHER |= dict.fromkeys(SMALL, "both")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recordings, the runs that teach, and the saliency of the channels of seed 0."""
    folder = tmp_path_factory.mktemp("av_digits")
    write_fsdd(folder / "fsdd", numbers=[0, 1, 2, 5, 6, 7, 10, 11, 12], speakers=["ann"])
    for name in ("audio", "both", "agree"):
        quick(name, folder)
    saliency(folder)
    return folder


def quick(name: str, folder: Path, *more: str) -> dict[str, Any]:
    """A few updates of one of the project's configurations, everything else of it unchanged."""
    words = [f"data.dataset.root={folder / 'fsdd'}", f"env.save_dir={folder / name}", *QUICK]
    if name in TEACHER:
        words += [f"teacher.checkpoint={folder / TEACHER[name]}", f"teacher.cache_dir={folder / 'caches'}"]
    if name in ("general", "specific"):
        words += [f"teacher.channels.saliency={folder / 'channels' / 'seed_0'}"]
    return run(CONFIGS / f"{name}.yaml", [*words, *more])


def saliency(folder: Path, *more: str) -> dict[str, Any]:
    words = [f"experiment.run={folder / 'agree'}", f"env.save_dir={folder / 'channels'}", "experiment.num_examples=20"]
    return run_experiment(CONFIGS / "channels.yaml", [*words, "experiment.num_permutations=3", *more])


def scores(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "channels" / "seed_0" / "channel_saliency.json").read_text())
    return found


def test_every_configuration_of_the_project_is_tested_here() -> None:
    assert {path.stem for path in CONFIGS.rglob("*.yaml")} == NAMES | {"study"}
    assert {"audio", "image", "both", "agree", "channels", "small", *TEACHER} == NAMES


def test_the_recordings_are_where_a_user_would_put_them_and_nothing_is_chosen_by_the_test_split() -> None:
    data = yaml.safe_load((CONFIGS / "audio.yaml").read_text())["data"]
    assert data["dataset"]["root"] == "data/fsdd"
    assert (data["train"], data["validation"], data["test"]) == ("train", "validation", "test")


@pytest.mark.parametrize("name", ["image", *sorted(TEACHER.keys() - SMALL)])
def test_a_student_sees_images_alone_and_learns_from_its_teacher(name: str, runs: Path) -> None:
    report = quick(name, runs)
    assert report["updates"] == 3
    assert report["parameters"] == 3498
    assert {"validation/accuracy", "test/accuracy"} <= set(report["metrics"])
    assert ("test/agreement" in report["metrics"]) == (name in TEACHER)
    facts = (runs / name / "predictions_test.csv").read_text().splitlines()
    assert facts[0].startswith("id,speaker,label,prediction,0,1")
    assert facts[1].split(",")[1] == "ann"


@pytest.mark.parametrize("name", ["small", *sorted(SMALL)])
def test_a_small_model_of_both_is_measured_on_every_view(name: str, runs: Path) -> None:
    report = quick(name, runs)
    assert 3 * report["parameters"] < json.loads((runs / "both" / "report.json").read_text())["parameters"]
    assert {f"test/{view}accuracy" for view in ("", "audio/", "image/")} <= set(report["metrics"])
    assert ("test/agreement" in report["metrics"]) == (name in TEACHER)


def test_the_scores_of_a_run_are_those_of_algorithm_1(runs: Path) -> None:
    found = scores(runs)
    shown = [ModelOnView.open(str(runs / "agree"), view, 20) for view in ("audio", "image")]
    layer, model = Layer(shown[0].run.model, "projections.audio"), shown[0].run.model
    with torch.no_grad():
        h = layer.read(shown[0].logits)

        def answer(channels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = model.classifiers["audio"](channels)  # type: ignore[operator, union-attr]
            return logits

        wanted = algorithm_1(answer, h, shown[1].logits(), draw_permutations(3, 64, 20, seed=0))
    assert h.shape == (20, 64)
    torch.testing.assert_close(torch.tensor(found["saliency"]), wanted, atol=1e-4, rtol=0)  # float32
    assert (found["layer"], found["view"], found["against"]) == ("projections.audio", "audio", "image")


def test_every_example_has_a_row_of_its_own_where_recordings_repeat(runs: Path) -> None:
    """40 examples of 10 digits with 3 recordings each: a model encodes each recording once, Algorithm 1 shuffles examples."""
    found = ChannelSaliency(str(runs / "agree"), "projections.audio", "audio", "image", num_permutations=2, num_examples=200)
    assert found.scores(0).shape == (64,)


def test_a_pair_of_runs_is_scored_as_one_is(runs: Path) -> None:
    options: dict[str, Any] = {"num_permutations": 2, "num_examples": 20}
    audio, image = str(runs / "audio"), str(runs / "image_of_a_pair")
    quick("image", runs, f"env.save_dir={image}")
    found = ChannelSaliency(audio, "encoder.project", "full", "full", other_run=image, **options).scores(0)
    one_at_a_time = ChannelSaliency(audio, "encoder.project", "full", "full", other_run=image, at_once=1, **options).scores(0)
    assert found.shape == (64,)
    torch.testing.assert_close(found, one_at_a_time, atol=1e-4, rtol=0)  # float32
    conv = ChannelSaliency(audio, "encoder.first", "full", "full", other_run=image, channel_dim=1, **options).scores(0)
    assert conv.shape == (16,)
    quick("image", runs, f"env.save_dir={runs / 'other_pairing'}", "data.dataset.pairing_seed=1")
    others = ChannelSaliency(audio, "encoder.project", "full", "full", other_run=str(runs / "other_pairing"), **options)
    with pytest.raises(DataError, match="were not trained on the same examples in the same order"):
        others.scores(0)


def asked(runs: Path, *more: str) -> CachedSplit:
    """The training split of a run of the general teacher's student, and the answers to it."""
    there = [f"teacher.checkpoint={runs / 'agree'}", f"data.dataset.root={runs / 'fsdd'}", f"env.save_dir={runs / 'unused'}"]
    words = [*there, f"teacher.channels.saliency={runs / 'channels' / 'seed_0'}", *QUICK, *more]
    config = checked(load(CONFIGS / "general.yaml", words))
    data = build_data(RunFacts(config), World())
    maskers = build_maskers(data)
    (teacher,) = trained_teachers(data, maskers)
    return cached_split(teacher, "train", data, maskers, content(data.facts, data.splits, "train"))


@pytest.mark.parametrize("by", ["general", "specific"])
def test_a_teacher_of_a_run_keeps_its_quarter_of_the_channels(runs: Path, by: str) -> None:
    order = torch.tensor(scores(runs)["saliency"]).argsort(descending=by == "general", stable=True)
    split = asked(runs, f"teacher.channels.by={by}")
    teacher, (batch, *_) = split.teacher(), split.batches(split.dataset)
    seen = Layer(teacher.model, "projections.audio").read(lambda: teacher.predict(batch, ["audio"]))
    assert not seen[:, order[16:]].any()
    assert seen[:, order[:16]].any(0).sum() > 4  # a rectified channel may be silent by itself


def test_kept_answers_are_not_those_of_other_channels(runs: Path) -> None:
    """A cache that has the answers of one teacher's channels does not answer for others, nor for all of them."""
    words = (".by=general", ".by=specific", "=null", ".share=0.5")
    questions = [asked(runs, f"teacher.channels{word}").key for word in words]
    assert len({q.lock for q in questions}) == 4
    assert asked(runs).key.lock == questions[0].lock
    assert any("teacher.channels by general -> specific" in text for text in questions[1].differences(questions[0].card("fp32")))


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("teacher.channels.share=0", "teacher.channels.share: must be above 0 and at most 1, got 0"),
        ("teacher.channels.saliency=null", "teacher.channels.saliency: must be given for general channels"),
        ("teacher.channels.saliency=nowhere", "teacher.channels.saliency: nowhere/channel_saliency.json cannot be read"),
        ("teacher.channels.layer=projections.image", "is of layer 'projections.audio', and channels of 'projections.image'"),
    ],
)
def test_a_mistake_about_channels_is_told_before_the_run(runs: Path, word: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        quick("general", runs, f"env.save_dir={runs / 'never'}", word)
    assert not (runs / "never").exists()


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("experiment.run=nowhere", "experiment.run: there is no finished run in nowhere. Train it first"),
        ("experiment.layer=projections.adio", "experiment.layer: there is no layer 'projections.adio'. Did you mean"),
        ("experiment.view=sound", "experiment.view: view 'sound' names 'sound', which is not one of the modalities"),
        ("experiment.num_permutations=0", "experiment: num_permutations must be above 0"),
    ],
)
def test_a_mistake_about_the_experiment_is_told(runs: Path, word: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        saliency(runs, f"env.save_dir={runs / 'elsewhere'}", word)


def test_the_real_recordings_teach_an_image_student(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "fsdd").symlink_to(shared_data / "fsdd")
    few = ("data.max_train_examples=48", "data.max_eval_examples=60")
    quick("audio", tmp_path, *few)
    report = quick("kd", tmp_path, *few)
    assert report["examples"] == {"validation": 60, "test": 60}


def test_the_page_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_fsdd(tmp_path / "data" / "fsdd", numbers=[0, 1, 2, 5, 6, 7, 10, 11, 12], speakers=["ann"])
    page = ROOT / "docs" / "mfh.md"
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        program, verb, *words = shlex.split(command)
        experiment = ["experiment.num_epochs=5", "expected=null"] if "mfh_gauss" in words[0] else ["experiment.num_examples=20"]
        quicker = experiment if {"mfh_gauss", "channels.yaml"} & set(words[0].split("/")) else list(QUICK)
        assert (program, main([verb, *words, *quicker])) == ("msd", 0), f"{command}\n{capsys.readouterr().err}"
    (written,) = (yaml.safe_load(block) for block in blocks(page, "yaml"))
    config = checked(load(CONFIGS / "general.yaml", ["env.save_dir=never", *QUICK]))
    assert config.teacher is not None
    assert config.teacher.channels is not None
    assert (config.teacher.checkpoint, vars(config.teacher.channels) | written["teacher"]["channels"]) == (
        written["teacher"]["checkpoint"],
        vars(config.teacher.channels),
    )
    exec("\n".join(blocks(page, "python")), {"__name__": "page"})  # noqa: S102
