"""What the views of a batch add to the statistics of batch norms, as docs/methods.md says."""

from typing import Any

import pytest
import torch
from torch import nn

from msd_framework.maskers.base import Views
from msd_framework.registry import MASKERS, MODELS
from msd_framework.structures import Batch, ModalityInputs

FACTS = {"num_classes": 3, "vocab_size": 9, "pad_id": 0, "cls_id": 2, "sep_id": 3, "image_channels": 3, "image_size": 32}
TEXT = {"type": "transformer", "hidden_size": 8, "num_heads": 1, "num_layers": 1}
NAMES = ("full", "image", "text")


def batch() -> Batch:
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 8, 3], [2, 4, 4, 3], [2, 8, 5, 3]])
    text = ModalityInputs(ids, torch.ones_like(ids, dtype=torch.bool), {"special": ids < 4})
    image = ModalityInputs(1 + torch.rand(4, 3, 32, 32), torch.ones(4, 1, dtype=torch.bool))
    return Batch({"image": image, "text": text}, torch.zeros(4, dtype=torch.int64), tuple("abcd"))


def after_views(model: Any, masker: str) -> Any:
    shown = Views(MASKERS.build(masker, facts=FACTS), batch())
    model.train().forward_views([shown[name].inputs for name in NAMES])
    return model


@pytest.mark.parametrize(("masker", "runs"), [("drop", 2), ("attention", 3), ("constant", 3)])
def test_hidden_images_count_in_an_encoder_s_statistics_unless_they_are_dropped(masker: str, runs: int) -> None:
    encoders = {"text": TEXT, "image": {"type": "resnet"}}
    model = MODELS.build({"type": "late_fusion", "encoders": encoders, "hidden_size": 8}, facts=FACTS)
    norm = next(m for m in after_views(model, masker).modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.num_batches_tracked.item() == runs


def test_behind_the_encoders_every_view_counts_in_its_turn() -> None:
    """The running mean is moved by a tenth of its way to the mean of each view's summaries, one view after the other."""
    encoders = {"text": TEXT, "image": {"type": "patches", "patch_size": 16, "hidden_size": 8, "num_heads": 1}}
    spec = {"type": "logit_fusion", "encoders": encoders, "hidden_size": 4, "num_layers": 1, "batch_norm": True, "dropout": 0.0}
    torch.manual_seed(0)
    model = MODELS.build(spec, facts=FACTS)
    norm = next(m for m in model.projections["image"].modules() if isinstance(m, nn.BatchNorm1d))
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach().mean(0)))
    after_views(model, "attention")
    wanted = torch.zeros(4)
    for mean in seen:
        wanted = 0.9 * wanted + 0.1 * mean
    assert len(seen) >= 2
    torch.testing.assert_close(norm.running_mean, wanted)
