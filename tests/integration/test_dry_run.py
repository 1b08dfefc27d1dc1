"""A run is tried out before its first update: what cannot work is told then, and what works comes out to the same bits."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from msd_framework.build.dry_run import DryRun
from msd_framework.build.facts import RunFacts
from msd_framework.checks import components
from msd_framework.checks.run import checked
from msd_framework.config.load import load
from msd_framework.data.base import Example, MultimodalDataset
from msd_framework.errors import ConfigError
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.base import MultimodalModel
from msd_framework.registry import DATASETS, OPTIMIZERS
from msd_framework.run import run
from msd_framework.structures import DatasetInfo, ModelOutput
from msd_framework.testing import made_batch
from tests.integration.mistakes import DISTILLATION

NORMED = (
    "model={type: concat_bert, text_encoder: {type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2, dropout: 0.3}, "
    "image_encoder: {type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}, hidden_size: 8, batch_norm: true, dropout: 0.3}"
)
"""A model with dropout and batch norms, whose statistics change with every batch in training mode."""

KINDS = {
    "batch norms, dropout, random crops": [NORMED, "data.processors.image={type: pixels, size: 8, augment: crop_flip}"],
    "a teacher, weights by its gradients": [
        *DISTILLATION,
        NORMED,
        "objective.weighting={type: gradnorm}",
    ],
    "an average of the student": ["objective={type: distillation, views: [full, image, text]}", "teacher.ema=0.9", NORMED],
    "learned weights": [*DISTILLATION, "objective.weighting={type: learned, held_out: 0.5, held_out_batch_size: 2}"],
    "views by noise": [*DISTILLATION, "masker={type: noise}", "data.length_pool=2"],
}


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_a_run_that_was_tried_out_comes_out_to_the_same_bits(words, monkeypatch, tmp_path, tiny_config, tiny_teacher):
    words = [word.replace("<teacher>", str(tiny_teacher)) for word in words]
    tried = run(tiny_config, [*words, f"env.save_dir={tmp_path / 'tried'}"])
    for name in ("student", "teacher", "training_mode", "step"):
        monkeypatch.setattr(DryRun, name, lambda self, *parts: None)
    at_once = run(tiny_config, [*words, f"env.save_dir={tmp_path / 'at_once'}"])
    assert tried["metrics"] == at_once["metrics"]
    ours, theirs = (tmp_path / name / "checkpoints" / "last" for name in ("tried", "at_once"))
    for file in ("model", "optimizer", "random"):
        left, right = (load_file(folder / f"{file}.safetensors") for folder in (ours, theirs))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), file


@pytest.fixture
def rows_of_all_lengths(tiny_world, tmp_path):
    """The tiny world with one text of 700 words in the middle of the training split."""
    import shutil

    shutil.copytree(tiny_world, root := tmp_path / "world")
    lines = [json.loads(line) for line in (root / "train.jsonl").read_text().splitlines()]
    lines[7]["text"] = "day " * 700
    (root / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.mark.parametrize("run_type", ["train", "check"])
def test_the_longest_text_is_tried_and_told_with_its_line(run_type, rows_of_all_lengths, monkeypatch, tmp_path, tiny_config):
    monkeypatch.setattr(components, "_positions", lambda *arguments: [])  # as of a model that does not tell its positions
    words = [
        f"data.dataset.root={rows_of_all_lengths}",
        "data.processors.text.max_length=600",
        "model={type: visual_bert, hidden_size: 8, num_layers: 1, num_heads: 2, intermediate_size: 16, "
        "image_encoder: {type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}}",
    ]
    with pytest.raises(ConfigError, match=r"data\.processors\.text: .*train\.jsonl:8\), .*a text has 600 positions .*takes 512"):
        run(tiny_config, [*words, f"env.save_dir={tmp_path / 'run'}", f"run_type={run_type}"])


def test_a_check_tries_nothing_that_would_load_code_which_is_only_named(monkeypatch, tmp_path, tiny_config):
    (tmp_path / "mine_that_nobody_loads.py").write_text("raise SystemError('loaded')\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = "model={type: module, target: mine_that_nobody_loads.Net, inputs: {text: input_ids, image: pixel_values}}"
    run(tiny_config, ["run_type=check", f"env.save_dir={tmp_path / 'run'}", module, "masker=attention"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "lr"), [([], 1e-3), (["optimizer.lr=0.1"], 0.1), (["model.encoders.text={type: bert, name: a/b}"], 5e-5)]
)
def test_the_learning_rate_goes_by_whether_something_is_pretrained(words, lr, tmp_path, tiny_config):
    config = checked(load(tiny_config, [*words, f"env.save_dir={tmp_path / 'run'}"]))
    facts = {"fine_tunes": RunFacts(config).may_be_pretrained}
    assert OPTIMIZERS.build(config.optimizer, "optimizer", facts).lr == lr


@DATASETS.register("test_dry_run_words")
class _Words(MultimodalDataset):
    """A vector, and a text that is given as ids of words: no token of it is special."""

    splits = ("train", "validation")

    def __init__(self, split: str, max_examples: int | None = None):
        self.split = split

    @classmethod
    def describe(cls, options):
        return DatasetInfo({"image": "features", "text": "tokens"}, 2, "single_label", ("no", "yes"))

    @classmethod
    def check(cls, options, split):
        return []

    def __len__(self):
        return 12

    def __getitem__(self, index):
        generator = np.random.default_rng([len(self.split), index])
        inputs = {"image": generator.normal(size=4).astype(np.float32), "text": generator.integers(0, 9, 1 + index % 3)}
        return Example(f"{self.split}{index}", inputs, index % 2, f"row {index}")

    @property
    def fingerprint(self):
        return self.split


def test_drop_hides_a_text_of_word_ids_which_has_no_special_tokens(tmp_path):
    text = {"type": "transformer", "hidden_size": 8, "num_layers": 1, "num_heads": 2}
    config = {
        "data": {
            "dataset": "test_dry_run_words",
            "processors": {"text": "token_ids", "image": "vectors"},
            "train": "train",
            "validation": "validation",
        },
        "model": {"type": "late_fusion", "encoders": {"text": text, "image": "features"}},
        "objective": "supervised",
        "masker": "drop",
        "training": {"max_updates": 2, "batch_size": 4},
        "evaluation": {"metrics": ["accuracy"], "views": ["full", "image", "text"]},
        "env": {"save_dir": str(tmp_path), "device": "cpu"},
    }
    assert {"validation/accuracy", "validation/image/accuracy"} <= run(config)["metrics"].keys()


def test_a_student_may_predict_several_targets_of_an_example():
    class TwoTargets(MultimodalModel):
        modalities, num_classes = ("image",), 3

        @classmethod
        def modalities_of(cls, options):
            return ("image",)

        def forward(self, inputs):
            return ModelOutput(torch.zeros(2 * len(inputs["image"].values), 3))  # [N, C]

    batch = made_batch(4)
    targets = torch.zeros(8, dtype=torch.int64)
    several = replace(batch, targets=targets, example_of=torch.arange(4).repeat_interleave(2))
    info = DatasetInfo({"image": "features"}, 3, "single_label")
    for rows, fits in ((several, True), (batch, False)):
        side = SimpleNamespace(alone=[], together=rows, processors=[])
        found = SimpleNamespace(info=info, of_student=side, device=torch.device("cpu"), source=lambda batch: "these rows")
        trial = DryRun(SimpleNamespace(init=None, training=SimpleNamespace(precision="fp32")), found)
        wrong = pytest.raises(ConfigError, match=r"gives logits \[1, 8, 3\] of torch.float32, wanted floats \[1, 4, 3\]")
        with nullcontext() if fits else wrong:
            trial.student(TwoTargets(), DropMasker(), ["full"], {})
