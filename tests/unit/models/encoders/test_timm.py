"""The encoders of timm, against timm's own models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from msd_framework.models.encoders.timm import Timm
from msd_framework.structures import ModalityInputs

timm = pytest.importorskip("timm")

EXACT = {"atol": 1e-5, "rtol": 1e-5}  # float32, the same sums in another order


def their_network(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=5, **options).eval()


def images(size: int = 32) -> ModalityInputs:
    values = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return ModalityInputs(values, torch.tensor([[True], [False]]))


@pytest.mark.parametrize(
    ("name", "options", "positions", "suffix"),
    [
        ("test_efficientnet", {}, 1, "safetensors"),  # a grid [B, D, h, w]
        ("test_vit", {"img_size": 32}, 1 + 4, "pth"),  # tokens [B, L, D], the class token among them
    ],
)
def test_a_classifier_on_the_summary_is_the_model_of_timm(
    tmp_path: Path, name: str, options: dict[str, Any], positions: int, suffix: str
) -> None:
    reference, file = their_network(name, **options), tmp_path / f"weights.{suffix}"
    save_file(reference.state_dict(), file) if suffix == "safetensors" else torch.save(reference.state_dict(), file)
    encoder, x = Timm(name, weights=str(file), image_size=32).eval(), images()
    encoded, classifier = encoder(x), reference.get_classifier()
    assert encoded.tokens.shape == (2, positions, encoder.width)
    torch.testing.assert_close(classifier(encoded.pooled[0]), reference(x.values)[0], **EXACT)
    assert not encoded.pooled[1].any()  # hidden
    assert encoded.mask.tolist() == [[True] * positions, [False] * positions]


def test_a_token_is_a_cell_of_the_grid() -> None:
    encoder, x = Timm("swin_tiny_patch4_window7_224", image_size=64).eval(), images(64)
    grid = encoder.network.forward_features(x.values)  # [B, h, w, D], as the only one of these networks
    assert torch.equal(encoder(x).tokens[0, 2], grid[0, 1, 0])
    encoder = Timm("test_efficientnet").eval()
    grid = encoder.network.forward_features(x.values)  # [B, D, 2, 2]
    assert torch.equal(encoder(x).tokens[0, 2], grid[0, :, 1, 0])


def test_the_summary_is_the_only_token_where_the_classifier_reads_another_width() -> None:
    encoder, x = Timm("mobilenetv3_small_050").eval(), images(64)
    encoded, network = encoder(x), encoder.network
    assert network.num_features != network.head_hidden_size == encoder.width
    assert torch.equal(encoded.pooled[0], network(x.values)[0])
    assert torch.equal(encoded.tokens[:, 0], encoded.pooled)


def test_frozen_batch_norms_keep_their_statistics() -> None:
    x = images()
    frozen, loose = Timm("test_efficientnet", freeze_batch_norm=True).train(), Timm("test_efficientnet").train()
    alone = ModalityInputs(x.values[:1], x.mask[:1])
    torch.testing.assert_close(frozen(x).pooled[:1], frozen(alone).pooled, **EXACT)
    before = loose.network.bn1.running_mean.clone()
    loose(x)
    assert not torch.equal(loose.network.bn1.running_mean, before)


def test_the_published_weights_are_those_that_timm_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    published = {n: t for n, t in their_network("test_efficientnet").state_dict().items() if not n.startswith("classifier.")}
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(published))
    encoder = Timm("test_efficientnet", weights="DEFAULT")
    assert torch.equal(encoder.network.conv_stem.weight, published["conv_stem.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "test_efficientnett"}, "timm has no model 'test_efficientnett'. Did you mean 'test_efficientnet'"),
        ({"name": "test_vit", "weights": "IMAGENET"}, "weights are DEFAULT or a file that ends in .safetensors or .pth, got 'IMAG"),
        ({"name": "test_vit", "weights": "/nowhere/x.pth"}, "there is no weight file /nowhere/x.pth"),
        ({"name": "test_efficientnet", "image_channels": 0}, "image_channels must be above 0, got 0"),
        ({"name": "test_vit.of_ours", "weights": "DEFAULT"}, "timm cannot make test_vit.of_ours: Invalid pretrained tag"),
    ],
)
def test_what_timm_does_not_have_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Timm(**options)


def test_weights_of_another_network_are_told(tmp_path: Path) -> None:
    save_file({"conv_stem.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"do not fit: it lacks .*; of another shape conv_stem\.weight \[1\], wanted"):
        Timm("test_efficientnet", weights=str(tmp_path / "x.safetensors"))


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm is not installed; install it with: pip install 'msd_framework\[timm\]'"):
        Timm("test_vit")
