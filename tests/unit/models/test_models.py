"""Late fusion, unimodal models, and what importing any model costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from msd_framework.errors import ConfigError
from msd_framework.models.encoders.region_features import RegionFeatures
from msd_framework.models.late_fusion import FUSIONS, Gated, LateFusion
from msd_framework.models.unimodal import UnimodalImage, UnimodalText
from msd_framework.registry import MODELS
from msd_framework.structures import ModalityInputs


def regions(mask: list[list[bool]]) -> ModalityInputs:
    seen = torch.tensor(mask)
    return ModalityInputs(torch.randn(*seen.shape, 4), seen)


def late_fusion(fusion: str = "concat") -> LateFusion:
    return LateFusion({m: RegionFeatures(4, 8) for m in ("left", "right")}, num_classes=3, fusion=fusion, hidden_size=8).eval()


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)  # float64: sums in another order


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("concat", lambda a, b: torch.cat([a, b], 1)),
        ("sum", lambda a, b: a + b),
        ("mean", lambda a, b: (a + b) / 2),
    ],
)
def test_fusion_is_its_formula(name: str, formula: object) -> None:
    a, b = torch.randn(2, 5, 6, dtype=torch.float64)
    fusion = FUSIONS[name](2, 6)
    fused = fusion(torch.stack([a, b], 1))
    same(fused, formula(a, b))  # type: ignore[operator]
    assert fused.shape == (5, fusion.width)


def test_gated_fusion_of_two_is_the_published_unit() -> None:
    gated = Gated(2, 6).double()
    a, b = torch.randn(2, 5, 6, dtype=torch.float64)
    gate_a, gate_b = gated.gates(torch.cat([a, b], 1)).chunk(2, 1)
    z = torch.sigmoid(gate_a - gate_b)
    same(gated(torch.stack([a, b], 1)), z * a.tanh() + (1 - z) * b.tanh())


def test_an_example_without_a_modality_gets_the_learned_vector() -> None:
    model = late_fusion()
    left, right = regions([[True, True], [True, True]]), regions([[True, False], [False, False]])
    both, missing = model({"left": left, "right": right}).logits, model({"left": left}).logits
    assert torch.equal(both[1], missing[1])
    assert not torch.allclose(both[0], missing[0])
    with torch.no_grad():
        model.missing["right"].add_(1.0)
    moved = model({"left": left, "right": right}).logits
    assert torch.equal(moved[0], both[0])
    assert not torch.allclose(moved[1], both[1])


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_every_parameter_has_a_gradient_whoever_lacks_what(fusion: str) -> None:
    everyone, nobody = [[True], [True]], [[False], [False]]
    for left, right in ((everyone, everyone), (everyone, nobody), (nobody, everyone)):
        model = late_fusion(fusion)
        model({"left": regions(left), "right": regions(right)}).logits.sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_a_modality_that_is_left_out_leaves_only_its_encoder_without_gradients() -> None:
    model = late_fusion()
    model({"left": regions([[True]])}).logits.sum().backward()
    without = {n.rsplit(".", 1)[0].split(".right")[0] for n, p in model.named_parameters() if p.grad is None}
    assert without == {"encoders", "projections"}


@pytest.mark.parametrize(("with_batch_norm", "calls"), [(False, 2), (True, 4)])
def test_what_views_show_alike_is_encoded_once_unless_a_batch_norm_learns(with_batch_norm: bool, calls: int) -> None:
    model = late_fusion().train()
    if with_batch_norm:
        for encoder in model.encoders.values():
            encoder.norm = torch.nn.BatchNorm1d(3)
    seen: list[Tensor] = []
    for encoder in model.encoders.values():
        encoder.register_forward_hook(lambda module, inputs, output: seen.append(output.pooled))
    a, b = (regions([[True, True], [True, False]]) for _ in range(2))
    model.forward_views([{"left": a, "right": b}, {"left": a}, {"right": b}])
    assert len(seen) == calls


def test_views_together_equal_views_apart() -> None:
    model = late_fusion()
    a, b = (regions([[True, True], [True, False]]) for _ in range(2))
    views = [{"left": a, "right": b}, {"left": a}, {"right": b}]
    same(model.forward_views(views).logits, torch.stack([model(view).logits for view in views]))


def test_late_fusion_refuses_what_it_cannot_fuse() -> None:
    with pytest.raises(ValueError, match="encoders must name at least one modality, got none"):
        LateFusion({}, num_classes=2)
    with pytest.raises(ValueError, match="hidden_size must be above 0, got 0"):
        LateFusion({"image": RegionFeatures(feature_size=4)}, num_classes=2, hidden_size=0)


def test_a_yaml_says_the_modalities_without_building() -> None:
    options = {"encoders": {"text": "bert", "audio": "features"}}
    assert MODELS.get("late_fusion").modalities_of(options) == ("audio", "text")
    assert MODELS.get("visual_bert").modalities_of({}) == ("image", "text")
    assert UnimodalText.modalities_of({}) == ("text",)
    assert UnimodalImage.modalities_of({}) == ("image",)


def test_a_yaml_with_a_wrong_encoder_says_where() -> None:
    spec = {"type": "late_fusion", "encoders": {"image": {"type": "features", "hiden_size": 8}}}
    with pytest.raises(
        ConfigError, match=r"model\.encoders\.image\.hiden_size: features has no such option\. Did you mean 'hidden_size'"
    ):
        MODELS.build(spec, facts={"num_classes": 2, "feature_size": 4})
