"""Metrics: against scikit-learn, and the fidelity report against numpy and torch's distributions."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence

from msd_framework.errors import ConfigError
from msd_framework.metrics.fidelity import compare
from msd_framework.registry import METRICS

with warnings.catch_warnings():  # some versions of what torchmetrics imports warn of each other
    warnings.simplefilter("ignore")
    import torchmetrics.functional.classification  # noqa: F401

seeds = st.integers(0, 10_000)


def logits(seed: int, n: int = 40, classes: int = 4, ties: bool = True) -> Tensor:
    z = 3 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))
    return z.mul(4).round().div(4) if ties else z


def one_label(seed: int, n: int = 40, classes: int = 4) -> Tensor:
    drawn = torch.randint(classes, (n - classes,), generator=torch.Generator().manual_seed(seed))
    return torch.cat([torch.arange(classes), drawn])


def labels(seed: int, n: int = 40, classes: int = 4) -> Tensor:
    drawn = torch.rand(n - 2, classes, generator=torch.Generator().manual_seed(seed)) < 0.4
    return torch.cat([torch.zeros(1, classes), torch.ones(1, classes), drawn.float()])


def near(wanted: float) -> object:
    """Torchmetrics adds up in float32, which over 40 examples is right to a few 1e-7."""
    return pytest.approx(wanted, abs=2e-6)


@settings(max_examples=20)
@given(seeds)
def test_accuracy_is_that_of_sklearn(seed: int) -> None:
    z, y = logits(seed, ties=False), one_label(seed)
    assert METRICS.build("accuracy")(z, y) == near(oracle.accuracy_score(y, z.argmax(1)))


@pytest.mark.parametrize(
    ("name", "sklearn_metric"), [("auroc", oracle.roc_auc_score), ("average_precision", oracle.average_precision_score)]
)
@settings(max_examples=20)
@given(seed=seeds)
def test_ranking_metrics_of_two_classes_are_those_of_sklearn(name: str, sklearn_metric: object, seed: int) -> None:
    z, y = logits(seed, classes=2), one_label(seed, classes=2)
    assert METRICS.build(name)(z, y) == near(sklearn_metric(y, z.double().softmax(1)[:, 1].numpy().round(12)))


@pytest.mark.parametrize(
    ("name", "sklearn_metric"), [("auroc", oracle.roc_auc_score), ("average_precision", oracle.average_precision_score)]
)
@settings(max_examples=20)
@given(seed=seeds)
def test_ranking_metrics_of_several_labels_are_those_of_sklearn(name: str, sklearn_metric: object, seed: int) -> None:
    z, y = logits(seed), labels(seed)
    assert METRICS.build(name)(z, y) == near(sklearn_metric(y, z, average="macro"))


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_ranking_does_not_saturate_with_the_probabilities(name: str) -> None:
    z = torch.tensor([[0.0, 50.0], [0.0, 60.0], [0.0, 70.0], [0.0, 80.0]])  # all of probability 1 in float32
    assert METRICS.build(name)(z, torch.tensor([0, 0, 1, 1])) == 1.0
    assert METRICS.build(name)(z, torch.tensor([1, 0, 0, 1])) < 1.0


@settings(max_examples=20)
@given(seeds)
def test_the_mean_average_precision_is_that_of_sklearn_over_the_labels_that_some_example_has(seed: int) -> None:
    z, y = logits(seed), labels(seed)
    y[:, 1] = 0
    there = [0, 2, 3]
    assert METRICS.build("map")(z, y) == near(oracle.average_precision_score(y[:, there], z[:, there], average="macro"))
    assert np.isnan(METRICS.build("map")(z, torch.zeros_like(y)))


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Guo et al. (ICML 2017), equation 3."""
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for place in np.unique(places):
        inside = places == place
        error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


@pytest.mark.parametrize("bins", [5, 15])
@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_the_calibration_error_is_that_of_the_paper(bins: int, seed: int) -> None:
    metric = METRICS.build({"type": "ece", "bins": bins})
    z, y = logits(seed, ties=False).double(), one_label(seed)
    p = z.softmax(1).numpy()
    assert metric(z, y) == near(calibration_error(p.max(1), p.argmax(1) == y.numpy(), bins))
    several, q = labels(seed), z.sigmoid().numpy()
    of_each = [calibration_error(q[:, c], several[:, c].numpy(), bins) for c in range(q.shape[1])]
    assert metric(z, several) == near(np.mean(of_each))


def test_who_is_sure_and_always_right_is_calibrated_and_who_is_sure_and_wrong_is_not() -> None:
    z = torch.tensor([[30.0, 0.0], [0.0, 30.0]])
    assert METRICS.build("ece")(z, torch.tensor([0, 1])) == near(0)
    assert METRICS.build("ece")(z, torch.tensor([1, 0])) == near(1)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "samples"])
@settings(max_examples=20)
@given(seed=seeds)
def test_f1_is_that_of_sklearn(average: str, seed: int) -> None:
    z, y = logits(seed), labels(seed)
    decided = (z.sigmoid() > 0.5).int()
    assert METRICS.build(f"f1_{average}")(z, y) == near(oracle.f1_score(y, decided, average=average, zero_division=0))


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_f1_of_a_single_label_is_that_of_its_positives(average: str) -> None:
    z, y = logits(0, classes=1), labels(0, classes=1)
    assert METRICS.build(f"f1_{average}")(z, y) == near(oracle.f1_score(y[:, 0], z[:, 0] > 0))


def test_a_label_that_never_occurs_counts_zero_in_macro_f1() -> None:
    z = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    assert METRICS.build("f1_macro")(z, (z > 0).float()) == 0.5


@settings(max_examples=20)
@given(seeds)
def test_cross_entropy_is_the_log_loss_of_sklearn(seed: int) -> None:
    z, y = logits(seed), one_label(seed)
    metric = METRICS.build("cross_entropy")
    assert metric(z, y) == pytest.approx(oracle.log_loss(y, z.double().softmax(1)), rel=1e-9)  # both in float64


def test_cross_entropy_and_the_calibration_error_are_better_when_lower() -> None:
    assert [name for name in METRICS.names() if not METRICS.get(name).larger_is_better] == ["cross_entropy", "ece"]


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
@pytest.mark.parametrize("label", [0, 1])
def test_ranking_examples_of_one_class_is_not_defined(name: str, label: int) -> None:
    assert np.isnan(METRICS.build(name)(torch.randn(5, 2), torch.full((5,), label)))


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_ranking_by_a_label_that_is_always_the_same_is_not_defined(name: str) -> None:
    y = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert np.isnan(METRICS.build(name)(torch.randn(5, 3), y))
    assert not np.isnan(METRICS.build(name)(torch.randn(5, 2), y[:, :2]))


@pytest.mark.parametrize("average", [None, "macro", "micro", "weighted"])
@pytest.mark.parametrize("score", ["precision", "recall", "f1"])
@pytest.mark.parametrize("classes", [2, 3, 4])
@settings(max_examples=5)
@given(seed=seeds)
def test_decisions_on_one_label_are_scored_as_by_sklearn(classes: int, score: str, average: str | None, seed: int) -> None:
    z, y = logits(seed, 30, classes, ties=False), one_label(seed, 30, classes)
    by_hand = getattr(oracle, f"{score}_score")
    if average:
        assert METRICS.build(f"{score}_{average}")(z, y) == near(by_hand(y, z.argmax(1), average=average, zero_division=0))
    for positive in range(classes) if average is None else ():
        built = METRICS.build({"type": score, "positive": positive}, "", {"num_classes": classes})
        assert built(z, y) == near(by_hand(y == positive, z.argmax(1) == positive, zero_division=0))


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("score", ["precision", "recall"])
@settings(max_examples=10)
@given(seed=seeds)
def test_decisions_on_several_labels_are_scored_as_by_sklearn(score: str, average: str, seed: int) -> None:
    z, y = logits(seed), labels(seed)
    wanted = getattr(oracle, f"{score}_score")(y, (z > 0).int(), average=average, zero_division=0)
    assert METRICS.build(f"{score}_{average}")(z, y) == near(wanted)


@pytest.mark.parametrize("name", ["precision_macro", "recall_macro", "f1_macro"])
def test_a_class_that_is_neither_true_nor_taken_is_no_class_of_the_split(name: str) -> None:
    z, y = torch.tensor([[3.0, 0, 0, 0], [0, 3, 0, 0], [0, 3, 0, 0]]), torch.tensor([0, 1, 0])
    wanted = getattr(oracle, f"{name.partition('_')[0]}_score")(y, z.argmax(1), average="macro")
    assert METRICS.build(name)(z, y) == near(wanted)
    assert METRICS.build(name)(z[:2], y[:2]) == 1.0


def test_of_two_classes_the_second_is_the_positive_one_and_others_are_named() -> None:
    z, y = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 0, 1])
    facts = {"num_classes": 2, "class_names": ("benign", "hateful")}
    assert (
        METRICS.build("recall", "", facts)(z, y) == METRICS.build({"type": "recall", "positive": "hateful"}, "", facts)(z, y) == 0.5
    )
    assert METRICS.build({"type": "recall", "positive": "benign"}, "", facts)(z, y) == 0.0
    numbered = {"num_classes": 2, "class_names": ("1", "0")}
    assert METRICS.build({"type": "recall", "positive": 1}, "", numbered)(z, y) == 0.0  # the class that is called 1


@pytest.mark.parametrize(
    ("spec", "facts", "said"),
    [
        ("f1", {"num_classes": 3}, "is of one class, and there are 3: give positive, one of 0 to 2; or take an average"),
        ({"type": "f1", "positive": 3}, {"num_classes": 3}, "positive is 3, wanted a class: 0 to 2"),
        ({"type": "f1", "positive": -1}, {"num_classes": 3}, "positive is -1, wanted a class"),
        (
            {"type": "f1", "positive": "hatful"},
            {"num_classes": 2, "class_names": ("benign", "hateful")},
            "positive is 'hatful', wanted a class: benign, hateful. Did you mean 'hateful'",
        ),
    ],
)
def test_a_class_that_is_not_there_is_told(spec: object, facts: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        METRICS.build(spec, "evaluation.metrics[0]", facts)


@pytest.mark.parametrize("classes", [3, 5])
@settings(max_examples=10)
@given(seed=seeds)
def test_ranking_of_more_than_two_classes_is_one_against_the_rest(classes: int, seed: int) -> None:
    z, y = logits(seed, classes=classes, ties=False).double(), one_label(seed, classes=classes)
    p, each = z.softmax(1), torch.eye(classes)[y]
    assert METRICS.build("auroc")(z, y) == near(oracle.roc_auc_score(y, p, multi_class="ovr", average="macro"))
    assert METRICS.build("average_precision")(z, y) == near(oracle.average_precision_score(each, p, average="macro"))


def test_one_against_the_rest_does_not_saturate_with_the_probabilities() -> None:
    z = torch.tensor([[0.0, 50.0, 0.0], [0.0, 60.0, 0.0], [0.0, 70.0, 0.0], [9.0, 80.0, 0.0], [9.0, 0.0, 9.5]])
    found = METRICS.build("auroc")(z, torch.tensor([0, 0, 1, 1, 2]))
    lower = METRICS.build("auroc")(z, torch.tensor([1, 0, 0, 1, 2]))
    assert lower < found


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_ranking_where_one_of_several_classes_never_occurs_is_not_defined(name: str) -> None:
    assert np.isnan(METRICS.build(name)(torch.randn(5, 3), torch.tensor([0, 1, 0, 0, 1])))


# Fidelity


@settings(max_examples=20)
@given(seeds)
def test_fidelity_for_one_label_follows_its_formulas(seed: int) -> None:
    s, t = logits(seed, classes=2, ties=False), logits(seed + 1, classes=2, ties=False)
    p, q = Categorical(logits=t.double()), Categorical(logits=s.double())
    report = compare(s, t, "single_label").report()
    assert report["agreement"] == pytest.approx(oracle.accuracy_score(t.argmax(1), s.argmax(1)), abs=1e-12)
    assert report["kl"] == pytest.approx(float(kl_divergence(p, q).mean()), abs=1e-10)
    assert report["total_variation"] == pytest.approx(float((p.probs[:, 1] - q.probs[:, 1]).abs().mean()), abs=1e-12)
    assert report["pearson"] == pytest.approx(np.corrcoef(p.probs[:, 1], q.probs[:, 1])[0, 1], abs=1e-9)


@settings(max_examples=20)
@given(seeds)
def test_fidelity_for_several_labels_follows_its_formulas(seed: int) -> None:
    s, t = logits(seed, ties=False), logits(seed + 1, ties=False)
    p, q = Bernoulli(logits=t.double()), Bernoulli(logits=s.double())
    report = compare(s, t, "multi_label").report()
    assert report["agreement"] == pytest.approx(1 - oracle.hamming_loss(t > 0, s > 0), abs=1e-12)
    assert report["kl"] == pytest.approx(float(kl_divergence(p, q).sum(1).mean()), abs=1e-9)
    assert report["total_variation"] == pytest.approx(float((p.probs - q.probs).abs().mean()), abs=1e-12)
    columns = [np.corrcoef(p.probs[:, c], q.probs[:, c])[0, 1] for c in range(4)]
    assert report["pearson"] == pytest.approx(np.mean(columns), abs=1e-9)


@pytest.mark.parametrize("task", ["single_label", "multi_label", "soft_target"])
@settings(max_examples=20)
@given(seed=seeds, cuts=st.lists(st.integers(1, 39), max_size=5, unique=True).map(sorted))
def test_fidelity_by_batch_is_that_of_all_at_once(task: str, seed: int, cuts: list[int]) -> None:
    s, t = logits(seed), logits(seed + 1)
    first, *rest = (compare(a, b, task) for a, b in zip(s.tensor_split(cuts), t.tensor_split(cuts)))
    assert sum(rest, first).report() == pytest.approx(compare(s, t, task).report(), abs=1e-12)


def test_a_prediction_that_never_varies_has_no_correlation_however_it_is_cut() -> None:
    s, t = torch.tensor([[0.1, 0.7, 0.3]]).repeat(40, 1), logits(0, 40, 3)
    first, *rest = (compare(a, b, "single_label") for a, b in zip(s.tensor_split([1, 4, 11]), t.tensor_split([1, 4, 11])))
    assert np.isnan(sum(rest, first).report()["pearson"])


def test_fidelity_for_soft_targets_agrees_on_the_best_answer() -> None:
    s, t = torch.tensor([[-1.0, -2.0], [3.0, 4.0]]), torch.tensor([[5.0, 4.0], [-3.0, -4.0]])
    assert compare(s, t, "soft_target").report()["agreement"] == 0.5


@pytest.mark.parametrize("task", ["single_label", "multi_label", "soft_target"])
def test_a_teacher_is_faithful_to_itself(task: str) -> None:
    z = logits(0)
    assert compare(z, z, task).report() == pytest.approx({"agreement": 1, "kl": 0, "total_variation": 0, "pearson": 1}, abs=1e-9)


def test_a_prediction_that_never_varies_has_no_correlation() -> None:
    assert np.isnan(compare(torch.zeros(3, 2), logits(0, 3, 2), "single_label").report()["pearson"])


@pytest.mark.parametrize(("student", "teacher"), [((3, 2), (2, 2)), ((0, 2), (0, 2))])
def test_fidelity_of_different_or_no_examples_is_refused(student: tuple[int, int], teacher: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"fidelity compares logits \[N, C\] of the same examples, got"):
        compare(torch.zeros(student), torch.zeros(teacher), "single_label")
