"""What a user runs without the framework: transformers' VisualBertModel, each view padded and for itself; and torchdistill."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.made import FEATURE_SIZE, MAX_REGIONS, MAX_WORDS, NUM_CLASSES, Sizes
from benchmarks.timing import CPU, Step, update
from msd_framework.engine.precision import Precision
from msd_framework.structures import Batch

Padded = dict[str, Tensor]
"""Inputs of transformers' VisualBertModel, by name."""


class TransformersModel(nn.Module):
    """transformers' VisualBertModel with a linear classifier."""

    def __init__(self, sizes: Mapping[str, int]):
        super().__init__()
        import transformers

        names = {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
        config = transformers.VisualBertConfig(visual_embedding_dim=FEATURE_SIZE, **{names.get(k, k): v for k, v in sizes.items()})
        self.body = transformers.VisualBertModel(config)
        self.head = nn.Linear(config.hidden_size, NUM_CLASSES)

    def forward(self, **inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(**inputs).pooler_output)  # [B, C]
        return logits


class Theirs:
    """Steps of users' scripts; the student and its optimizer are shared among them, since they run in turn.

    Args:
        sizes: the sizes of student and teacher.
    """

    def __init__(self, sizes: Sizes):
        self.sizes = sizes

    @cached_property
    def student(self) -> TransformersModel:
        return TransformersModel(self.sizes.student).train()

    @cached_property
    def teacher(self) -> TransformersModel:
        return TransformersModel(self.sizes.teacher).eval().requires_grad_(False)

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.student.parameters(), lr=1e-5, fused=True)

    def plain(self, batch: Batch, precision: Precision, longest: bool = False) -> Step:
        """One update from labels."""
        full, *_ = padded_views(batch, longest)
        return update(self.optimizer, precision, lambda: F.cross_entropy(self.student(**full), batch.targets))

    def naive(self, batch: Batch, precision: Precision, longest: bool = False) -> Step:
        """One update of modality-specific distillation as it is written down: a forward pass a view, of either model."""
        views = padded_views(batch, longest)

        def loss() -> Tensor:
            with torch.no_grad():
                taught = [self.teacher(**view) for view in views]
            seen = [self.student(**view) for view in views]
            return F.cross_entropy(seen[0], batch.targets) + sum(divergence(s, t) for s, t in zip(seen, taught))

        return update(self.optimizer, precision, loss)

    def torchdistill(self, batch: Batch, precision: Precision) -> Step:
        """One update of torchdistill's distillation on the full view."""
        full, *_ = padded_views(batch)
        box = self.box

        def step() -> None:
            box.pre_forward_process()
            with precision.autocast(CPU):
                loss = box.forward_process(sample_batch=full, targets=batch.targets, supp_dict={})
            box.post_forward_process(loss=loss)

        return step

    @cached_property
    def box(self) -> Any:
        """torchdistill's DistillationBox, as a YAML of its users would configure it.

        Raises:
            SystemExit: if torchdistill is not installed.
        """
        try:
            from torchdistill.core.distillation import get_distillation_box
        except ImportError as error:
            raise SystemExit("torchdistill is not installed: pip install 'msd_framework[bench]'") from error
        logging.getLogger("torchdistill").setLevel(logging.WARNING)
        student = TransformersModel(self.sizes.student)
        box = get_distillation_box(self.teacher, student, {}, torchdistill_config(), torch.device("cpu"), None, False, 1)
        box.pre_epoch_process(epoch=0)
        return box


def torchdistill_config() -> dict[str, Any]:
    """Hinton et al.'s loss on what comes out of both classifiers."""
    model = {"forward_proc": "forward_batch_only_as_kwargs", "forward_hook": {"input": [], "output": ["head"]}}
    hooked = {"path": "head", "io": "output"}
    logits = {f"{who}_module_{what}": value for who in ("student", "teacher") for what, value in hooked.items()}
    kd = {"key": "KDLoss", "kwargs": {**logits, "temperature": 1, "alpha": 0.5, "reduction": "batchmean"}}
    return {
        "num_epochs": 1,
        "teacher": {**model, "requires_grad": False},
        "student": model,
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-5, "fused": True}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}},
    }


def padded_views(batch: Batch, longest: bool = False) -> list[Padded]:
    """The full, the image and the text view as transformers takes them: each at full length, hidden by its masks.

    Args:
        batch: padded to the longest of its examples.
        longest: leaves it at that; if not, it is padded to `MAX_WORDS` and `MAX_REGIONS`.
    """
    text, image = batch.inputs["text"], batch.inputs["image"]
    more_words, more_regions = (0, 0) if longest else (MAX_WORDS - text.mask.shape[1], MAX_REGIONS - image.mask.shape[1])
    words, marks = (F.pad(mask.long(), (0, more_words)) for mask in (text.mask, text.mask & text.special))
    regions = F.pad(image.mask.long(), (0, more_regions))
    values = {"input_ids": F.pad(text.values, (0, more_words)), "visual_embeds": F.pad(image.values, (0, 0, 0, more_regions))}
    masks = [(words, regions), (marks, regions), (words, torch.zeros_like(regions))]
    return [{**values, "attention_mask": w, "visual_attention_mask": r} for w, r in masks]


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)
