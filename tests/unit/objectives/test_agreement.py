"""Learning to say the same with each modality, against the formula written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from msd_framework.maskers.drop import DropMasker
from msd_framework.objectives.agreement import AgreementObjective
from msd_framework.structures import DatasetInfo, Setting
from msd_framework.testing import made_batch
from tests.runs import tiny_model

INFO = DatasetInfo({"image": "features", "text": "tokens"}, 3, "single_label")


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_loss_and_its_gradient_are_those_of_algorithm_1(weight: float) -> None:
    batch, ours, theirs = made_batch(6), tiny_model(2), tiny_model(2)
    output = AgreementObjective(ours, DropMasker(), agree_weight=weight)(batch)
    output.loss.backward()

    image, text = (theirs(DropMasker().view(batch, m).inputs).logits for m in ("image", "text"))
    apart = F.mse_loss(image, text)
    loss = F.cross_entropy(image, batch.targets) + F.cross_entropy(text, batch.targets) + weight * apart
    loss.backward()
    assert output.loss.item() == pytest.approx(loss.item(), abs=1e-12)  # float64, another order of sums
    assert output.terms["apart"].item() == pytest.approx(apart.item(), abs=1e-12)
    assert output.terms["task"].item() == pytest.approx((loss - weight * apart).item(), abs=1e-12)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-12, rtol=0)
    torch.testing.assert_close(output.output.logits, theirs(batch.inputs).logits, atol=1e-12, rtol=0)


def test_training_brings_the_modalities_logits_together() -> None:
    torch.manual_seed(0)
    apart = {}
    for weight in (0.0, 10.0):
        objective, batch = AgreementObjective(tiny_model(2), DropMasker(), agree_weight=weight), made_batch(12)
        optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
        for _ in range(30):
            output = objective(batch)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
        apart[weight] = output.terms["apart"].item()
    assert apart[10.0] < 0.5 * apart[0.0]


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="agree_weight must be 0 or more, got -1"):
        AgreementObjective(tiny_model(2), DropMasker(), agree_weight=-1)


def test_one_modality_has_nobody_to_agree_with() -> None:
    assert AgreementObjective.check({}, Setting(INFO, ("image", "text"), None, {})) == []
    (text,) = AgreementObjective.check({}, Setting(INFO, ("image",), None, {}))
    assert text == "agreement is between two modalities or more, and the model takes image alone."
