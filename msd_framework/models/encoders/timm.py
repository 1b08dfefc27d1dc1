"""Any image network of timm, whose last features are the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from msd_framework.errors import did_you_mean
from msd_framework.models.base import ENCODERS, Encoded, Encoder
from msd_framework.models.layers.pooling import visible
from msd_framework.models.pretrained.weights import is_weight_file, load_exactly, read_tensors
from msd_framework.ranges import positive
from msd_framework.structures import ModalityInputs


@ENCODERS.register("timm")
class Timm(Encoder):
    """An image network of timm without its classifier: a token for each cell of its last grid, or each of its own tokens.

    Its summary is what its classifier would read, such as the mean over the grid or the token [CLS]; where that has another width
    than the cells (MobileNetV3), it is the only token. Batch norms that learn mix the examples of a batch, as those of `resnet` do.

    Source: Wightman, PyTorch Image Models, 2019.

    Args:
        name: what timm calls it, such as tf_efficientnet_lite0, or with the name of its weights, vit_tiny_patch16_224.augreg_in21k.
        weights: a file, .safetensors or .pth, with timm's names, with or without a classifier; or DEFAULT, timm's own, which it
            downloads; random if left out.
        image_size: pixels of a side, or [height, width], for networks that take one size alone; others take images of any size.
        image_channels: colours.
        freeze_batch_norm: whether the batch norms keep the statistics and scales of the weights.
        freeze: whether it does not learn, batch norms included.
    """

    reads = frozenset({"weights"})
    kinds = frozenset({"pixels"})

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        image_size: int | list[int] | None = None,
        image_channels: int = 3,
        freeze_batch_norm: bool = False,
        freeze: bool = False,
    ):
        super().__init__()
        positive(image_channels=image_channels)
        self.network = _network(name, weights, image_size, image_channels)
        if freeze_batch_norm:
            from timm.layers import freeze_batch_norm_2d

            self.network = freeze_batch_norm_2d(self.network)
        self.width = self.network.head_hidden_size
        self.has_tokens = self.network.num_features == self.width
        self.channels_last = getattr(self.network, "output_fmt", "") == "NHWC"  # as Swin's grids are
        self.requires_grad_(not freeze)

    @classmethod
    def shown_images(cls, options: Mapping[str, Any]) -> Mapping[str, list[float]]:
        if options.get("weights") is None:
            return {}
        import timm

        published = timm.get_pretrained_cfg(options["name"])
        return {"mean": list(published.mean), "std": list(published.std)}

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**options, "weights": None}

    def forward(self, inputs: ModalityInputs) -> Encoded:
        features = self.network.forward_features(visible(inputs.values, inputs.mask))
        pooled = self.network.forward_head(features, pre_logits=True)  # [B, D]
        pooled = torch.where(inputs.mask, pooled, torch.zeros_like(pooled))
        tokens = features if self.has_tokens else pooled[:, None]  # [B, L, D] of a network of tokens
        if tokens.ndim == 4:
            tokens = tokens.flatten(1, 2) if self.channels_last else tokens.flatten(2).transpose(1, 2)
        return Encoded(tokens, inputs.mask.expand(tokens.shape[:2]), pooled)


def _network(name: str, weights: str | None, image_size: int | list[int] | None, image_channels: int) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ValueError("the package timm is not installed; install it with: pip install 'msd_framework[timm]'") from error
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}.{did_you_mean(name, timm.list_models())}")
    is_file = weights is not None and is_weight_file(weights)
    if weights not in (None, "DEFAULT") and not is_file:
        raise ValueError(f"weights are DEFAULT or a file that ends in .safetensors or .pth, got {weights!r}")
    sizes: dict[str, Any] = {"in_chans": image_channels}
    try:
        if image_size is not None and timm.get_pretrained_cfg(name).fixed_input_size:
            sizes["img_size"] = image_size
        network = timm.create_model(name, pretrained=weights == "DEFAULT", num_classes=0, **sizes)
    except Exception as error:  # each network refuses what it cannot be in a way of its own
        raise ValueError(f"timm cannot make {name}: {str(error).splitlines()[0]}") from error
    if is_file:
        tensors, heads = read_tensors(Path(str(weights)).expanduser()), network.default_cfg["classifier"]
        heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        load_exactly(network, {n: t for n, t in tensors.items() if not n.startswith(heads)}, str(weights))
    return network
