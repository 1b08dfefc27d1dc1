"""Logits are read as the model was trained: by a softmax or by a sigmoid a class, whatever the task is called."""

import csv
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from msd_framework.analysis.saliency.scores import run_saliency
from msd_framework.commands import doctor
from msd_framework.config.cards import read_as
from msd_framework.engine.checkpoint import find_checkpoint
from msd_framework.errors import ConfigError
from msd_framework.losses import default_distillation_loss, default_task_loss
from msd_framework.metrics.fidelity import compare
from msd_framework.modulation.ogm_ge import right_labels
from msd_framework.run import run
from msd_framework.saliency.prediction import DropSaliency, KeepSaliency
from msd_framework.saliency.shapley import ShapleySaliency
from msd_framework.structures import DatasetInfo, ModelOutput
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.ensemble import EnsembleTeacher, MeanOfTeachers
from msd_framework.teachers.marginals import MarginalsTeacher, marginals
from msd_framework.testing import made_batch
from msd_framework.views import View
from msd_framework.weighting.base import Evidence
from msd_framework.weighting.learned import WeightInputs
from msd_framework.weighting.saliency import InstanceWeights
from tests.conftest import TINY_RUN

FULL = np.array([2.0, 0.0, -1.0])
HIDDEN = np.array([0.0, 1.0, 0.5])


def softmax(z):
    e = np.exp(np.asarray(z, float))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    return float((p * np.log(p / q)).sum())


def output(z):
    return ModelOutput(torch.tensor(np.atleast_2d(z)))


class Says(Teacher):
    """Says the same of each view of each example."""

    modalities, num_classes = ("image", "text"), 3

    def __init__(self, logits):
        self.logits = torch.tensor(logits)

    def predict(self, batch, views, shown=None):
        return ModelOutput(self.logits.expand(len(views), len(batch), 3))


def test_the_usual_losses_are_those_of_what_logits_are_read_as():
    names = {
        ("single_label", None): ("CrossEntropy", "SoftenedKL"),
        ("multi_label", None): ("BinaryCrossEntropy", "BernoulliKL"),
        ("soft_target", None): ("BinaryCrossEntropy", "BernoulliKL"),
        ("soft_target", "bernoulli"): ("BinaryCrossEntropy", "BernoulliKL"),
        ("soft_target", "softmax"): ("SoftCrossEntropy", "SoftenedKL"),
    }
    for (task, outcomes), (loss, distance) in names.items():
        assert type(default_task_loss(task, outcomes)).__name__ == loss
        assert type(default_distillation_loss(task, outcomes)).__name__ == distance


def test_fidelity_of_soft_targets_trained_by_a_softmax_is_that_of_the_softmax():
    s, t = np.random.default_rng(0).normal(size=(2, 6, 4))
    found = compare(torch.tensor(s), torch.tensor(t), "soft_target", "softmax").report()
    p, q = softmax(t), softmax(s)
    assert found["kl"] == pytest.approx((p * np.log(p / q)).sum(1).mean())
    assert found["total_variation"] == pytest.approx(np.abs(p - q).sum(1).mean() / 2)
    assert found["pearson"] == pytest.approx(np.mean([np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(4)]))
    assert found["agreement"] == (s.argmax(1) == t.argmax(1)).mean()


def test_the_level_of_a_softmax_changes_nothing_of_fidelity():
    s, t = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, other = (compare(z, t, "soft_target", "softmax").report() for z in (s, s + 7))
    assert one == pytest.approx(other)


@pytest.mark.parametrize("kind", [DropSaliency, KeepSaliency])
def test_a_saliency_by_prediction_moves_by_the_divergence_of_softmaxes(kind):
    seen = {"full": output(FULL), "image": output(FULL), "text": output(HIDDEN)}
    found = kind(task="soft_target", outcomes="softmax")(seen, torch.zeros(1, 3), ["image", "text"])[0].tolist()
    moved = kl(softmax(FULL), softmax(HIDDEN))
    wanted = [moved, 0.0] if kind is DropSaliency else [0.0, -moved]
    assert found == pytest.approx(wanted)


def test_weights_by_saliency_take_the_saliency_of_the_softmax():
    def weights(**how):
        strategy = InstanceWeights(task="soft_target", **how)
        seen = {"full": output(FULL), "image": output(HIDDEN), "text": output([1.0, 1.0, 0.0])}
        return strategy.saliency(seen, torch.zeros(1, 3), ["image", "text"])[0].tolist()

    assert weights(outcomes="softmax") == pytest.approx([kl(softmax(FULL), softmax(z)) for z in ([1.0, 1.0, 0.0], HIDDEN)])
    assert weights() != pytest.approx(weights(outcomes="softmax"))


def test_what_is_shown_to_learned_weights_are_the_softmax_and_its_entropy():
    z = torch.tensor(np.array([[FULL, HIDDEN]]))  # one view of two examples
    views, nothing = (View.parse("full"),), torch.zeros(1, 2, dtype=torch.float64)
    evidence = Evidence(views, ("image", "text"), z, z, nothing, nothing, None, torch.zeros(2, 3))
    found = WeightInputs(["entropy", "probabilities"], 1, 3, "soft_target", "softmax")(evidence)[0].numpy()
    p = softmax([FULL, HIDDEN])
    np.testing.assert_allclose(found, np.concatenate([-(p * np.log(p)).sum(1, keepdims=True), p], 1))


def test_several_teachers_of_soft_targets_mean_their_softmaxes():
    together = EnsembleTeacher([Says(FULL), Says(HIDDEN)], MeanOfTeachers(), "soft_target", "softmax")
    said = together.predict(made_batch(2), ["full"]).logits[0, 0].numpy()
    np.testing.assert_allclose(softmax(said), (softmax(FULL) + softmax(HIDDEN)) / 2)


def test_a_shapley_value_shown_nothing_predicts_the_prior_of_a_softmax():
    with pytest.raises(ValueError, match=r"prior: wanted probabilities that add up to 1, got 1\.5\."):
        ShapleySaliency(prior=[0.5, 0.5, 0.5], task="soft_target", outcomes="softmax")
    prior = ShapleySaliency(prior=[0.2, 0.3, 0.5], task="soft_target", outcomes="softmax").prior
    np.testing.assert_allclose(softmax(prior.numpy()), [0.2, 0.3, 0.5])


def test_how_well_a_softmax_knows_its_labels_is_read_by_a_softmax():
    found = right_labels(torch.tensor(np.atleast_2d(FULL)), torch.tensor([[1.0, 0.5, 0.0]]), "softmax")
    p = softmax(FULL)
    assert found.item() == pytest.approx((p[0] + p[1] / 2) / 1.5)


def test_the_sigmoids_of_marginals_are_the_softmax():
    z = 3 * torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(marginals(z).sigmoid(), z.softmax(-1))


def test_marginals_of_a_sure_answer_are_not_lost_to_rounding():
    found = marginals(torch.tensor([60.0, 0.0, 0.0]))  # in float32, where its probability is 1
    assert found.tolist() == pytest.approx([60 - math.log(2), -60, -60])


def test_marginals_of_half_precision_are_made_in_float32():
    assert marginals(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_labels_of_their_own_of_which_one_alone_is_right_follow_the_softmax_of_the_same_logits():
    """Why nothing is done to a teacher of sigmoids whose student is trained by a softmax."""
    yes = 1 / (1 + np.exp(-FULL))
    chance = {y: np.prod([p if on else 1 - p for p, on in zip(yes, y)]) for y in itertools.product([0, 1], repeat=3)}
    one = np.array([chance[y] for y in [(1, 0, 0), (0, 1, 0), (0, 0, 1)]])
    np.testing.assert_allclose(one / one.sum(), softmax(FULL))


def test_a_teacher_of_marginals_passes_on_what_goes_on_inside_the_other():
    taught = MarginalsTeacher(Says(FULL))
    found, inner = taught.predict_features(made_batch(2), ["full", "text"], [[], []])
    np.testing.assert_allclose(torch.sigmoid(found.logits[1, 1]), softmax(FULL))
    assert (inner, taught.feature_kinds, taught.modalities) == ([{}, {}], {}, ("image", "text"))


def test_a_card_that_is_older_than_the_fact_is_read_as_is_usual_for_its_task():
    assert read_as({"facts": {"task": "single_label"}}) == "softmax"
    assert read_as({"facts": {"task": "soft_target"}}) == "bernoulli"
    assert read_as({"facts": {"task": "soft_target", "outcomes": "softmax"}}) == "softmax"


def test_a_data_set_alone_is_read_as_is_usual_for_its_task():
    assert DatasetInfo({}, 2, "soft_target").outcomes == "bernoulli"


@pytest.fixture(scope="module")
def soft(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of a run on soft targets of three classes, and beside it a teacher that was trained by a softmax."""
    root = tmp_path_factory.mktemp("soft")
    for split, there in {"train": "train", "validation": "dev_seen", "test": "test_seen"}.items():
        rows = [json.loads(line) for line in (tiny_world / f"{there}.jsonl").read_text().splitlines()]
        scores = [(0.6, 0.4, 0.0), (0.1, 0.2, 0.7)]
        with (root / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "photo", "text", "a", "b", "c"])
            writer.writerows([split + r["id"], f"{there}/{Path(r['img']).name}", r["text"], *scores[r["label"]]] for r in rows)
        (root / there).mkdir()
        for row in rows:
            (root / there / Path(row["img"]).name).write_bytes((tiny_world / row["img"]).read_bytes())
    config = yaml.safe_load(TINY_RUN)
    config["data"] |= {"train": "train", "validation": "validation", "test": "test"}
    dataset = {"type": "csv", "root": str(root), "texts": {"text": "text"}, "images": {"image": "photo"}, "id_column": "id"}
    config["data"]["dataset"] = {**dataset, "task": "soft_target", "labels": ["a", "b", "c"]}
    config["evaluation"] = {"metrics": ["vqa_accuracy"], "views": ["full", "image", "text"]}
    path = root / "soft.yaml"
    path.write_text(yaml.safe_dump(config))
    run(path, [f"env.save_dir={root / 'teacher'}", "objective={type: supervised, task_loss: soft_cross_entropy}"])
    return path


def told(folder: Path, name: str = "predictions_test.csv") -> np.ndarray:
    """The probabilities that a run wrote down, [N, V, C]."""
    with (folder / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [[prefix + c for c in "abc"] for prefix in ("", "image/", "text/")]
    return np.array([[[float(row[name]) for name in names] for names in columns] for row in rows])


def test_a_run_by_soft_cross_entropy_writes_probabilities_that_add_up_to_1_and_says_so_in_its_card(soft):
    folder = soft.parent / "teacher"
    np.testing.assert_allclose(told(folder).sum(-1), 1, atol=1e-5)
    assert json.loads((find_checkpoint(folder) / "card.json").read_text())["facts"]["outcomes"] == "softmax"


def test_a_checkpoint_is_evaluated_as_it_was_trained_whatever_the_yaml_leaves_out(soft, tmp_path):
    teacher = soft.parent / "teacher"
    run(soft, [f"env.save_dir={tmp_path}", "run_type=test", f"checkpoint.load={teacher}"])  # the objective's loss is not named
    np.testing.assert_allclose(told(tmp_path), told(teacher), atol=1e-5)


def test_a_card_that_says_another_reading_is_none(soft, tmp_path):
    shutil.copytree(soft.parent / "teacher", tmp_path / "edited")
    folder = find_checkpoint(tmp_path / "edited")
    card = json.loads((folder / "card.json").read_text())
    card["facts"]["outcomes"] = "tanh"
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match=r"checkpoint\.load: .*(outcomes: wanted|card\.json)"):
        run(soft, [f"env.save_dir={tmp_path}", "run_type=test", f"checkpoint.load={tmp_path / 'edited'}"])


def distil(soft: Path, folder: Path, *more: str) -> dict:
    teacher = soft.parent / "teacher"
    given = [f"env.save_dir={folder}", f"teacher.checkpoint={teacher}", f"data.processors_from={teacher}"]
    return run(soft, [*given, "objective.type=distillation", "objective.views=[full]", *more])["metrics"]


@pytest.mark.parametrize("cache", ["false", "true"])
def test_a_student_of_sigmoids_is_told_the_softmax_of_its_teacher_class_by_class(soft, tmp_path, cache):
    """The student starts from the teacher's weights and is not moved, so that both say the same but for how they are read."""
    more = ["training.max_updates=1", "optimizer.lr=1e-12", "objective.distill_weight=1.0", f"teacher.cache={cache}"]
    found = distil(
        soft, tmp_path / "out", *more, f"teacher.cache_dir={tmp_path / 'cache'}", f"init.checkpoint={soft.parent / 'teacher'}"
    )
    teacher, student = told(soft.parent / "teacher")[:, 0], told(tmp_path / "out")[:, 0]
    assert found["test/total_variation"] == pytest.approx(np.abs(teacher - student).mean(), abs=1e-4)
    divergence = teacher * np.log(teacher / student) + (1 - teacher) * np.log((1 - teacher) / (1 - student))
    assert found["test/kl"] == pytest.approx(divergence.sum(1).mean(), abs=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert next(v for line in lines for k, v in line.items() if k.endswith("distill/full")) > 0.01


def test_a_student_of_the_same_softmax_is_as_its_teacher(soft, tmp_path):
    more = ["training.max_updates=1", "optimizer.lr=1e-12", "objective.task_loss=soft_cross_entropy"]
    found = distil(soft, tmp_path, *more, f"init.checkpoint={soft.parent / 'teacher'}")
    assert found["test/kl"] == pytest.approx(0, abs=1e-6)
    assert found["test/total_variation"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("option", "at"),
    [
        ("distill_loss=bernoulli_kl", "objective.distill_loss"),
        ("distill_loss=bernoulli_js", "objective.distill_loss"),
        ("weighting={type: instance, saliency: {type: drop, distance: bernoulli_tvd}}", "objective.weighting.saliency.distance"),
        (
            "weighting={type: instance, normalise: softmax, saliency: {type: gap, task_loss: binary_cross_entropy}}",
            "objective.weighting.saliency.task_loss",
        ),
    ],
)
def test_a_loss_of_sigmoids_is_refused_beside_one_of_a_softmax(soft, tmp_path, option, at):
    with pytest.raises(ConfigError, match=r"reads each class by a sigmoid, and objective\.task_loss trains a softmax") as error:
        distil(soft, tmp_path, "objective.task_loss=soft_cross_entropy", f"objective.{option}", "run_type=check")
    assert at in str(error.value)


def test_the_saliency_command_reads_a_teacher_of_a_softmax_by_its_softmax(soft, tmp_path):
    """Of the teacher itself, and of the same teacher in the YAML of a student of sigmoids."""
    teacher = soft.parent / "teacher"
    for words in ([f"env.save_dir={teacher}"], [f"env.save_dir={tmp_path}", f"teacher.checkpoint={teacher}"]):
        few = ["split=test", "scores=[{type: drop, distance: tvd}]", "resamples=0", "examples=1"]
        found = run_saliency(soft, [*words, *few, f"folder={tmp_path / 'saliency'}"])
        assert list(found["test"]["scores"]) == ["drop tvd"]
        with (tmp_path / "saliency" / "scores_test.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        p = told(teacher)
        wanted = np.abs(p[:, 0] - p[:, 2]).sum(1) / 2  # the image's: how far the text alone is from both
        np.testing.assert_allclose([float(row["drop tvd/image"]) for row in rows], wanted, atol=1e-4)


def test_the_doctor_looks_at_a_teacher_of_a_softmax_and_a_student_of_sigmoids(soft, tmp_path, capsys):
    teacher = soft.parent / "teacher"
    words = [f"env.save_dir={tmp_path}", f"teacher.checkpoint={teacher}", f"data.processors_from={teacher}"]
    more = ["objective.type=distillation", "objective.views=[full]", f"out={tmp_path / 'found.json'}"]
    doctor.main([f"config={soft}", *words, *more])
    assert "of a probability" not in capsys.readouterr().out
    (score,) = json.loads((tmp_path / "found.json").read_text())["scores"]
    assert (score["compared"], score["off"]) == (12, 0)  # beside what its own run wrote down
