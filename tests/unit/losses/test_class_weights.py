"""Weights of classes against torch's and scikit-learn's, and what is refused of them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from msd_framework.errors import ConfigError
from msd_framework.losses.class_weights import balanced_answers, balanced_labels
from msd_framework.losses.task import BinaryCrossEntropy, CrossEntropy, SoftCrossEntropy
from msd_framework.registry import TASK_LOSSES
from msd_framework.run import run
from msd_framework.structures import ModelOutput

W = [0.5, 0.0, 3.0, 1.0]


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_weighted_cross_entropy_is_that_of_torch_without_reduction(label_smoothing: float) -> None:
    z, y = logits(6, 4), torch.tensor([0, 1, 2, 3, 2, -100])
    weight = torch.tensor(W, dtype=torch.float64)
    wanted = F.cross_entropy(z, y, weight, reduction="none", label_smoothing=label_smoothing)
    torch.testing.assert_close(CrossEntropy(label_smoothing, W)(ModelOutput(z), y), wanted, atol=1e-12, rtol=0)


def test_the_mean_of_torch_divides_by_the_weights_of_the_examples_and_ours_by_their_number() -> None:
    z, y, weight = logits(5, 4), torch.tensor([0, 1, 2, 3, 2]), torch.tensor(W, dtype=torch.float64)
    ours = CrossEntropy(class_weights=W)(ModelOutput(z), y)
    torch.testing.assert_close(ours.sum() / weight[y].sum(), F.cross_entropy(z, y, weight), atol=1e-12, rtol=0)


def test_pos_weight_is_that_of_torch() -> None:
    z, y, weight = logits(5, 4), torch.rand(5, 4).double(), torch.tensor(W, dtype=torch.float64)
    each = F.binary_cross_entropy_with_logits(z, y, reduction="none", pos_weight=weight)
    torch.testing.assert_close(BinaryCrossEntropy(pos_weight=W)(ModelOutput(z), y), each.sum(1), atol=1e-12, rtol=0)
    torch.testing.assert_close(BinaryCrossEntropy("mean", pos_weight=W)(ModelOutput(z), y), each.mean(1), atol=1e-12, rtol=0)


def test_weighted_scores_that_compete_are_those_of_torch() -> None:
    z, y, weight = logits(5, 4), torch.rand(5, 4).double().softmax(-1), torch.tensor(W, dtype=torch.float64)
    wanted = F.cross_entropy(z, y, weight, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(SoftCrossEntropy(0.1, class_weights=W)(ModelOutput(z), y), wanted, atol=1e-12, rtol=0)


def test_weights_by_name_leave_the_others_at_one() -> None:
    loss = TASK_LOSSES.build(
        {"type": "cross_entropy", "class_weights": {"b": 3}}, facts={"num_classes": 3, "class_names": ("a", "b", "c")}
    )
    assert loss.weights.tolist() == [1, 3, 1]  # type: ignore[attr-defined]
    loss = TASK_LOSSES.build({"type": "cross_entropy", "class_weights": {0: 2}}, facts={"num_classes": 2, "class_names": ()})
    assert loss.weights.tolist() == [2, 1]  # type: ignore[attr-defined]


def test_balanced_classes_are_scikit_learns() -> None:
    y = np.array([0] * 7 + [1] * 2 + [2] * 11)
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=y)
    found = balanced_labels(torch.tensor([7.0, 2.0, 11.0], dtype=torch.float64), 20)
    torch.testing.assert_close(found, torch.from_numpy(wanted), atol=1e-12, rtol=0)


def test_balanced_answers_give_yes_and_no_the_same_weight_in_all() -> None:
    found = balanced_answers(torch.tensor([5.0, 0.0, 20.0], dtype=torch.float64), 20)
    assert (found * torch.tensor([5, 0, 20])).tolist() == [15, 0, 20]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([1, 2, 3], "class_weights: wanted a number for each of 2 classes, got 3"),
        ([], "class_weights: wanted a number for each of 2 classes, got 0"),
        ([1, -1], "class_weights: that of class right must be a finite number of 0 or more, got -1"),
        ([math.nan, 1], "class_weights: that of class left must be a finite number of 0 or more, got nan"),
        ([math.inf, 1], "class_weights: that of class left must be a finite number"),
        ([0, 0], "class_weights: wanted a number above 0 for at least one class"),
        ({"rigth": 2}, "class_weights: 'rigth' is none of the classes left, right. Did you mean 'right'?"),
    ],
)
@pytest.mark.parametrize("name", ["cross_entropy", "soft_cross_entropy"])
def test_weights_that_are_no_weights_are_refused(name: str, given: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        TASK_LOSSES.build({"type": name, "class_weights": given}, "task_loss", {"num_classes": 2, "class_names": ("left", "right")})


def test_balanced_weights_come_from_the_labels_of_the_training_split_and_are_kept(tiny_config: Path, tmp_path: Path) -> None:
    def weights(*words: str) -> list[float]:
        folder = tmp_path / str(len(words))
        run(tiny_config, [f"env.save_dir={folder}", "objective.task_loss={type: cross_entropy, class_weights: balanced}", *words])
        return load_file(folder / "checkpoints" / "last" / "objective.safetensors")["task_loss.weights"].tolist()

    assert weights("data.max_train_examples=5") == pytest.approx([5 / 6, 5 / 4])
    # of 12 examples, 6 each, these are what the seed leaves labelled
    hidden = weights("data.labelled_share=0.4", "seed=1")
    assert sorted(hidden) != [1, 1]
    assert 5 / hidden[0] / 2 + 5 / hidden[1] / 2 == pytest.approx(5)


def test_a_weighted_run_goes_on_to_the_same_losses(tiny_config: Path, tmp_path: Path) -> None:
    def losses(folder: str, *words: str) -> list[float]:
        given = ["objective.task_loss={type: cross_entropy, class_weights: balanced}", "data.max_train_examples=5"]
        more = ["training.log_every=1", "checkpoint.resume=true", *words]
        run(tiny_config, [f"env.save_dir={tmp_path / folder}", *given, *more])
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["train/loss"] for line in lines if "train/loss" in line]

    whole = losses("whole", "training.max_updates=4")
    losses("cut", "training.max_updates=2")
    assert losses("cut", "training.max_updates=4") == whole


def test_weights_are_not_counted_where_nobody_knows_the_classes(tmp_path: Path) -> None:
    weighted = "{type: supervised, task_loss: {type: cross_entropy, class_weights: [1, 2, 3]}}"
    (tmp_path / "run.yaml").write_text(
        "data: {dataset: {type: jsonl, root: nowhere, texts: {text: t}, label: y}, processors: {text: tokenizer}}\n"
        f"model: {{type: unimodal_text, encoder: transformer}}\nobjective: {weighted}\n"
    )
    with pytest.raises(ConfigError, match=r"nowhere/train\.jsonl is missing") as refused:
        run(tmp_path / "run.yaml", [])
    assert "class_weights" not in str(refused.value)
