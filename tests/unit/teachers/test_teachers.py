"""Several teachers that answer as one, by hand and in runs; and students that see less than their teacher."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from msd_framework.checks.run import checked
from msd_framework.config.load import load
from msd_framework.errors import ConfigError
from msd_framework.maskers.base import Views
from msd_framework.maskers.drop import DropMasker
from msd_framework.maskers.resample import NoiseMasker
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.registry import COMBINATIONS
from msd_framework.run import run
from msd_framework.saliency.prediction import DropSaliency
from msd_framework.structures import Batch, ModelOutput, Task
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.ensemble import (
    Combination,
    EnsembleTeacher,
    MeanOfTeachers,
    SurestTeachers,
    TeacherOfEachView,
    WeightedTeachers,
    names_by_teacher,
)
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch
from msd_framework.weighting.base import Evidence, WeightingStrategy
from tests.runs import tiny_model

VIEWS = ("full", "image", "text")
TASKS: list[Task] = ["single_label", "multi_label", "soft_target"]


class Said(Teacher):
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self, seed: int, modalities: tuple[str, ...] = ("image", "text"), scale: float = 3.0, num_classes: int = 4):
        self.seed, self.modalities, self.scale, self.num_classes = seed, modalities, scale, num_classes
        self.asked: list[tuple[str, ...]] = []

    def says(self, view: str, num_examples: int) -> Tensor:
        number = self.seed * 100 + sum(map(ord, view))
        noise = torch.Generator().manual_seed(number)
        return self.scale * torch.randn(num_examples, self.num_classes, generator=noise, dtype=torch.float64)

    def predict(self, batch: Batch, views: Any, shown: Views | None = None) -> ModelOutput:
        self.asked.append(tuple(views))
        return ModelOutput(torch.stack([self.says(view, len(batch)) for view in views]))


def probabilities(logits: Tensor, task: Task) -> Tensor:
    return logits.softmax(-1) if task == "single_label" else logits.sigmoid()


def together(combination: Combination, *teachers: Said, task: Task = "single_label", views: Any = VIEWS) -> Tensor:
    return EnsembleTeacher(teachers, combination, task).predict(made_batch(5), views).logits  # [V, B, C]


# --- what they say together -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_the_mean_is_that_of_the_probabilities(task: Task) -> None:
    teachers = [Said(k) for k in range(3)]
    found = together(MeanOfTeachers(), *teachers, task=task)
    for v, view in enumerate(VIEWS):
        wanted = sum(probabilities(t.says(view, 5), task) for t in teachers) / 3
        torch.testing.assert_close(probabilities(found[v], task), wanted, atol=1e-12, rtol=0)  # float64, another order of sums


@settings(max_examples=25)
@given(st.lists(st.floats(0.01, 50), min_size=2, max_size=4), st.sampled_from(TASKS))
def test_weights_count_in_proportion(weights: list[float], task: Task) -> None:
    teachers = [Said(k) for k in range(len(weights))]
    found = together(WeightedTeachers(weights), *teachers, task=task)
    wanted = sum(w * probabilities(t.says("image", 5), task) for w, t in zip(weights, teachers)) / sum(weights)
    torch.testing.assert_close(probabilities(found[1], task), wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("combination", [MeanOfTeachers(), WeightedTeachers([3.0, 1.0]), SurestTeachers(0.2), SurestTeachers(0)])
def test_teachers_that_agree_say_together_what_each_says_the_level_of_its_logits_included(task: Task, combination: Any) -> None:
    one = Said(0)
    torch.testing.assert_close(
        together(combination, one, one, task=task), torch.stack([one.says(v, 5) for v in VIEWS]), atol=1e-10, rtol=0
    )


def test_each_view_is_taught_by_the_teacher_that_is_named_for_it_and_the_others_by_that_of_full() -> None:
    whole, image, text = Said(0), Said(1), Said(2)
    found = together(TeacherOfEachView(["full", "image", "text"]), whole, image, text)
    for said, teacher, view in zip(found, (whole, image, text), VIEWS):
        assert torch.equal(said, teacher.says(view, 5))
    found = together(TeacherOfEachView(["full", "image"]), whole, image)
    assert torch.equal(found[2], whole.says("text", 5))
    assert whole.asked == [("full",), ("full", "text")]


@pytest.mark.parametrize("task", TASKS)
def test_the_surest_teacher_of_each_example_teaches_it(task: Task) -> None:
    teachers = [Said(k, scale=1.0 + k) for k in range(3)]
    said = torch.stack([t.says("full", 5) for t in teachers])  # [K, B, C]
    family = Categorical(logits=said).entropy() if task == "single_label" else Bernoulli(logits=said).entropy().mean(-1)
    unsure = family / math.log(4 if task == "single_label" else 2)
    surest = said[unsure.argmin(0), torch.arange(5)]
    assert len(set(unsure.argmin(0).tolist())) > 1  # not one teacher for all
    found = together(SurestTeachers(0), *teachers, task=task, views=["full"])[0]
    torch.testing.assert_close(found, surest, atol=1e-10, rtol=0)
    w = (-unsure / 0.3).softmax(0)[..., None]  # [K, B, 1]
    found = together(SurestTeachers(0.3), *teachers, task=task, views=["full"])[0]
    torch.testing.assert_close(probabilities(found, task), (w * probabilities(said, task)).sum(0), atol=1e-12, rtol=0)
    found = together(SurestTeachers(1e9), *teachers, task=task, views=["full"])[0]
    torch.testing.assert_close(probabilities(found, task), probabilities(said, task).mean(0), atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", COMBINATIONS.names())
@pytest.mark.parametrize("task", TASKS)
def test_every_combination_gives_probabilities_between_those_of_its_teachers(name: str, task: Task) -> None:
    options: dict[str, Any] = {"weighted": {"weights": [1.0, 2.0]}, "by_view": {"views": ["full", "full"]}}.get(name, {})
    combination = COMBINATIONS.build({"type": name, **options})
    assert combination.problems([("image", "text")] * 2) == []
    a, b = Said(0, scale=30.0), Said(1, scale=30.0)
    found = probabilities(together(combination, a, b, task=task), task)
    each = torch.stack([probabilities(torch.stack([t.says(v, 5) for v in VIEWS]), task) for t in (a, b)])
    assert found.isfinite().all()
    assert ((found >= each.amin(0) - 1e-12) & (found <= each.amax(0) + 1e-12)).all()


# --- teachers that see different things -----------------------------------------------------------------------------------------


def test_a_view_shows_an_example_to_the_teacher_that_is_named_for_it_or_to_nobody() -> None:
    batch, key = made_batch(3), ("image", (1,))
    lacks = torch.tensor([True, False, True])
    batch = replace(batch, teacher_inputs={key: batch.inputs["image"]}, teacher_having={key: lacks})
    of_view = EnsembleTeacher([Said(0), Said(1)], TeacherOfEachView(["full", "image"]))
    of_all = EnsembleTeacher([Said(0), Said(1)], MeanOfTeachers())
    shown = of_view.shown(batch, "image")
    assert shown is not None
    assert torch.equal(shown, lacks)
    assert of_view.shown(batch, "text") is None
    assert of_all.shown(batch, "image") is None  # the first teacher sees all of them


def test_a_teacher_is_shown_its_own_part_of_a_view_and_not_asked_about_what_it_cannot_see() -> None:
    both, image, sound = ("image", "text"), ("image",), ("audio", "image", "text")
    mean = MeanOfTeachers()
    assert names_by_teacher("image", [both, image], mean) == {0: "image", 1: "full"}
    assert names_by_teacher("~audio", [both, image, sound], mean) == {0: "full", 1: "full", 2: "~audio"}
    assert names_by_teacher("audio+text", [both, image, sound], mean) == {0: "text", 2: "audio+text"}
    teachers = [Said(0), Said(1, image)]
    ensemble = EnsembleTeacher(teachers, mean)
    assert ensemble.modalities == ("image", "text")
    logits = ensemble.predict(made_batch(5), VIEWS).logits
    assert [t.asked for t in teachers] == [[VIEWS], [("full",)]]  # the image and the whole are one question to it
    assert torch.equal(logits[2], teachers[0].says("text", 5))
    wanted = (teachers[0].says("image", 5).softmax(-1) + teachers[1].says("full", 5).softmax(-1)) / 2
    torch.testing.assert_close(logits[1].softmax(-1), wanted, atol=1e-12, rtol=0)


def test_teachers_of_other_classes_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="teachers must tell the same classes apart, got 3 and 4 of them"):
        EnsembleTeacher([Said(0), Said(1, num_classes=3)], MeanOfTeachers())


class Watching(WeightingStrategy):
    """Keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.saliency = DropSaliency()

    def forward(self, evidence: Evidence) -> Tensor:
        self.seen = evidence
        return evidence.losses.new_ones(len(evidence.views))


def test_saliency_and_losses_ask_the_teachers_together() -> None:
    masker, batch = DropMasker(), made_batch(6)
    live = [LiveTeacher(tiny_model(seed, 16), masker) for seed in (1, 5)]
    ensemble = EnsembleTeacher(live, MeanOfTeachers())
    views: list[Any] = list(VIEWS)
    weighting = Watching()
    DistillationObjective(tiny_model(2), ensemble, masker, views, weighting=weighting)(batch)
    seen = weighting.seen
    p = torch.stack([t.predict(batch, VIEWS).logits.softmax(-1) for t in live]).mean(0)  # [V, B, C]
    drop = [(p[0] * (p[0].log() - p[v].log())).sum(-1) for v in (2, 1)]  # without the image, without the text
    assert seen.saliency is not None
    torch.testing.assert_close(seen.saliency, torch.stack(drop, -1), atol=1e-12, rtol=0)
    torch.testing.assert_close(seen.teacher.softmax(-1), p, atol=1e-12, rtol=0)


def test_all_teachers_and_the_student_see_the_same_noise() -> None:
    masker, twin = NoiseMasker(vocab_size=20), tiny_model(1, 16)
    ensemble = EnsembleTeacher([LiveTeacher(twin, masker), LiveTeacher(twin, masker)], MeanOfTeachers())
    views: list[Any] = list(VIEWS)
    loss = DistillationObjective(tiny_model(1, 16), ensemble, masker, views, distill_weight=1.0)(made_batch(5)).loss
    assert loss.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: WeightedTeachers([1.0, 0.0]), r"weights\[1\] must be above 0, got 0\.0"),
        (lambda: SurestTeachers(-1.0), "temperature must be 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# --- in runs --------------------------------------------------------------------------------------------------------------------


class Taught:
    """Students on the tiny world, of a teacher, another one of another seed, and one that sees the image alone."""

    def __init__(self, config: Path, folder: Path, seeds: Path, image: Path):
        self.config, self.folder, self.seeds, self.image, self.number = config, folder, seeds, image, 0

    def words(self, *more: str) -> list[str]:
        self.number += 1
        known = {"SEEDS": str(self.seeds), "IMAGE": str(self.image)}
        for name, folder in known.items():
            more = tuple(word.replace(name, folder) for word in more)
        return [
            "objective={type: distillation, views: [full, image, text]}",
            f"teacher.cache_dir={self.folder / 'caches'}",
            f"env.save_dir={self.folder / f'student_{self.number}'}",
            "training.log_every=1",
            *more,
        ]

    def run(self, *more: str) -> tuple[list[float], dict[str, Any]]:
        report = run(self.config, self.words(*more))
        log = (self.folder / f"student_{self.number}" / "metrics.jsonl").read_text().splitlines()
        return [row["train/loss"] for line in log if "train/loss" in (row := json.loads(line))], report

    def problems(self, *more: str) -> list[str]:
        try:
            checked(load(self.config, self.words("run_type=check", *more)))
        except ConfigError as error:
            return [str(p) for p in error.problems]
        return []


@pytest.fixture(scope="module")
def more_teachers(tiny_config: Path, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("teachers")
    (folder / "both").mkdir()
    (folder / "both" / "seed_0").symlink_to(tiny_teacher)
    vocabulary = f"data.processors_from={tiny_teacher}"
    run(tiny_config, [f"env.save_dir={folder / 'both' / 'seed_1'}", "seed=1", vocabulary])
    encoder = "{type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}"
    run(tiny_config, [f"env.save_dir={folder / 'image'}", f"model={{type: unimodal_image, encoder: {encoder}}}"])
    return folder / "both", folder / "image"


@pytest.fixture
def taught(tiny_config: Path, more_teachers: tuple[Path, Path], tmp_path: Path) -> Taught:
    return Taught(tiny_config, tmp_path, *more_teachers)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[tuple[str, ...], str]]:
    """How many examples a live teacher was asked about in each view."""
    count: Counter[tuple[tuple[str, ...], str]] = Counter()
    predict = LiveTeacher.predict

    def counting(self: LiveTeacher, batch: Batch, views: Any, shown: Any = None) -> ModelOutput:
        count.update((self.modalities, view) for view in views for _ in batch.ids)
        return predict(self, batch, views, shown)

    monkeypatch.setattr(LiveTeacher, "predict", counting)
    return count


LIST = "teacher.checkpoint=[SEEDS/seed_0, SEEDS/seed_1]"
PATTERN = "teacher.checkpoint=SEEDS/seed_*"


def test_an_ensemble_of_seeds_is_one_line_a_list_or_a_pattern(taught: Taught) -> None:
    listed, report = taught.run(LIST)
    matched, _ = taught.run(PATTERN)
    assert listed == matched  # the same runs, in the same order
    assert {"test/agreement", "test/accuracy"} <= set(report["metrics"])
    alone = [taught.run(f"teacher.checkpoint=SEEDS/seed_{seed}")[0] for seed in (0, 1)]
    assert listed not in alone
    kept = (taught.folder / "student_2" / "config.yaml").read_text()
    assert "seed_*" not in kept  # what a pattern matches later changes nothing
    assert "seed_1" in kept


def test_a_cached_ensemble_reads_what_each_of_its_teachers_said_to_anybody(taught: Taught, asked: Counter[Any]) -> None:
    live, _ = taught.run(LIST)
    taught.run("teacher.checkpoint=SEEDS/seed_0", "teacher.cache=true")
    asked.clear()
    cached, _ = taught.run(LIST, "teacher.cache=true")
    assert live == pytest.approx(cached, abs=1e-3)  # float16 answers
    first = sum(asked.values())
    asked.clear()
    again, _ = taught.run(LIST, "teacher.cache=read", "teacher.combine=confidence")
    assert again != cached
    assert sum(asked.values()) < first  # two rows of each store are compared, and no more are asked about
    stores = [p for p in (taught.folder / "caches").glob("[!.]*") if p.is_dir()]
    assert len(stores) == 6  # two teachers, three splits


@pytest.mark.parametrize("cache", ["false", "true"])
def test_a_view_can_be_taught_by_a_teacher_of_one_modality(taught: Taught, asked: Counter[Any], cache: str) -> None:
    by_view = "teacher.combine={type: by_view, views: [full, image]}"
    losses, report = taught.run(
        "teacher.checkpoint=[SEEDS/seed_0, IMAGE]", by_view, f"teacher.cache={cache}", "evaluation.views=[full, image]"
    )
    assert all(map(math.isfinite, losses))
    assert set(asked) == {(("image", "text"), "full"), (("image", "text"), "text"), (("image",), "full")}
    assert "test/image/agreement" in report["metrics"]


def test_weights_and_saliency_run_on_teachers_of_different_modalities(taught: Taught) -> None:
    words = ["teacher.checkpoint=[SEEDS/seed_0, IMAGE]", "teacher.combine={type: weighted, weights: [2, 1]}"]
    for weighting in ("instance", "population"):
        losses, _ = taught.run(*words, f"objective.weighting={weighting}")
        assert all(map(math.isfinite, losses))


WRONG: dict[str, tuple[list[str], str]] = {
    "nothing there": (["teacher.checkpoint=SEEDS/none_*"], r"teacher\.checkpoint: no folder matches '.*none_\*'\."),
    "no teacher": (["teacher.checkpoint=[]"], r"teacher\.checkpoint: must be given: The folder of a finished run"),
    "one missing": (["teacher.checkpoint=[SEEDS/seed_0, SEEDS/seed_9]"], r"teacher\.checkpoint: there is no folder .*seed_9"),
    "twice": (["teacher.checkpoint=[IMAGE, SEEDS/seed_0, IMAGE]"], r"image is listed twice\. To let a teacher count more, take"),
    "one to combine": (
        ["teacher.checkpoint=SEEDS/seed_0", "teacher.combine=mean"],
        r"teacher\.combine: is for several teachers, and there",
    ),
    "name": ([LIST, "teacher.combine=maen"], r"teacher\.combine: no combination is named 'maen'\. Did you mean 'mean'\?"),
    "option": ([LIST, "teacher.combine={type: confidence, temprature: 1}"], r"combine\.temprature: .*Did you mean 'temperature'"),
    "range": (
        [LIST, "teacher.combine={type: weighted, weights: [1, -1]}"],
        r"teacher\.combine: weights\[1\] must be above 0, got -1",
    ),
    "number": (
        [LIST, "teacher.combine={type: weighted, weights: [1]}"],
        r"teacher\.combine\.weights: wanted one for each of the 2 teachers, in their order, got 1\.",
    ),
    "view": (
        [LIST, "teacher.combine={type: by_view, views: [full, txt]}"],
        r"teacher\.combine\.views\[1\]: view 'txt' names 'txt', .*Did you mean 'text'",
    ),
    "blind teacher": (
        ["teacher.checkpoint=[SEEDS/seed_0, IMAGE]", "teacher.combine={type: by_view, views: [full, text]}"],
        r"teacher\.combine\.views\[1\]: the view 'text' hides all that its teacher takes, image\.",
    ),
    "nobody": (
        [LIST, "teacher.combine={type: by_view, views: [image, text]}"],
        r"teacher\.combine: no teacher answers for the view 'full'\. Name one for it, or one for full\.",
    ),
    "idle": (
        [LIST, "teacher.combine={type: by_view, views: [full, image]}", "objective.views=[full, text]"],
        r"teacher\.combine: .*seed_1 is asked about none of the objective's views\.",
    ),
    "channels": (
        [LIST, "teacher.channels={layer: x, by: random}"],
        r"teacher\.channels: are those of one teacher, and there are 2",
    ),
    "type": (["teacher.checkpoint=3"], r"teacher\.checkpoint: wanted str \| list\[str\] \| None, got 3"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_teachers_that_do_not_go_together_are_told_in_one_sentence(taught: Taught, words: list[str], said: str) -> None:
    (found,) = taught.problems(*words)
    assert re.search(said, found), found


def test_another_number_of_teachers_cannot_go_on_with_a_run(taught: Taught) -> None:
    taught.run(LIST)
    save = f"env.save_dir={taught.folder / 'student_1'}"
    again = [save, "run_type=train", "checkpoint.resume=true"]
    assert taught.problems(PATTERN, *again) == []
    (found,) = taught.problems("teacher.checkpoint=SEEDS/seed_0", *again)
    assert "teacher.checkpoint: names 1 teachers here and 2 there" in found


# --- students that see less than their teacher ----------------------------------------------------------------------------------

ENCODER = "{type: patches, patch_size: 4, hidden_size: 8, num_heads: 2, dropout: 0}"
IMAGE_STUDENT = f"model={{type: unimodal_image, dropout: 0, encoder: {ENCODER}}}"


def test_a_student_of_one_modality_learns_from_a_teacher_of_both(taught: Taught, asked: Counter[Any]) -> None:
    losses, report = taught.run(
        "teacher.checkpoint=SEEDS/seed_0", IMAGE_STUDENT, "objective.views=[{teacher: full, student: image}]"
    )
    assert all(map(math.isfinite, losses))
    assert {view for _, view in asked} == {"full"}
    assert "test/agreement" in report["metrics"]
    same, _ = taught.run("teacher.checkpoint=SEEDS/seed_0", IMAGE_STUDENT, "objective.views=[full]")
    assert same == pytest.approx(losses, abs=1e-6)  # all that it sees is its image


@pytest.mark.parametrize("view", ["text", "{teacher: full, student: text}", "~image"])
def test_a_view_that_the_student_cannot_see_is_refused(taught: Taught, view: str) -> None:
    (found,) = taught.problems("teacher.checkpoint=SEEDS/seed_0", IMAGE_STUDENT, f"objective.views=[{view}]")
    assert re.search(r"objective\.views\[0\]: view '.*' (names 'text', which is not one of|hides every modality)", found), found


# --- what the page says ---------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[3] / "docs" / "teachers.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_block_of_the_page_is_right(taught: Taught, number: int) -> None:
    text = BLOCKS[number].replace("runs/teacher", str(taught.seeds)).replace("runs/image", str(taught.image))
    file = taught.folder / "page.yaml"
    file.write_text(f"base: {taught.config}\n{text}")
    assert checked(load(file, [f"env.save_dir={taught.folder / 'page'}"]))


def test_the_page_names_every_combination() -> None:
    assert len(BLOCKS) >= 8
    assert all(re.search(rf"^\| `(\{{type: )?{name}\b", PAGE, re.MULTILINE) for name in COMBINATIONS.names())
