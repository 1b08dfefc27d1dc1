"""ResNet: torchvision's convolutional image encoders, whose grid cells are the tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from msd_framework.models.base import ENCODERS, Encoded, LayeredEncoder
from msd_framework.models.features import Features, within
from msd_framework.models.layers.pooling import masked_mean, visible
from msd_framework.models.pretrained.weights import is_weight_file, load_exactly, read_tensors
from msd_framework.structures import FeatureKind, ModalityInputs


@ENCODERS.register("resnet")
class ResNet(LayeredEncoder):
    """A torchvision ResNet without its classifier: a token for each cell of the last grid, and the mean over them.

    It has batch norms, which mix the examples of a batch in training, unless they are frozen. What a masked image holds
    never matters, but in training it stands as zeros in their statistics, where an image that was dropped does not stand
    at all: the maskers `attention` and `drop` then give other numbers. Freeze the batch norms where they shall be the same.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016.

    Args:
        name: how deep; 18 and 34 give 512 features, the others 2048.
        weights: a name of torchvision's, such as IMAGENET1K_V1 or DEFAULT, or a file, .safetensors or .pth; random if left out.
        freeze_batch_norm: whether the batch norms keep the statistics and scales of the weights.
        grid_size: rows and columns to which the last grid is averaged, such as [3, 1]; as it is if left out.
        freeze: whether it does not learn, batch norms included.
    """

    reads = frozenset({"weights"})
    kinds = frozenset({"pixels"})

    def __init__(
        self,
        name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet18",
        weights: str | None = None,
        freeze_batch_norm: bool = False,
        grid_size: list[int] | None = None,
        freeze: bool = False,
    ):
        super().__init__()
        if grid_size is not None and (len(grid_size) != 2 or min(grid_size) < 1):
            raise ValueError(f"grid_size must be [rows, columns] of 1 or more, got {grid_size}")
        self.cells = nn.Identity() if grid_size is None else nn.AdaptiveAvgPool2d((grid_size[0], grid_size[1]))
        network = _network(name, weights, freeze_batch_norm)
        self.width = network.fc.in_features
        self.grid = nn.Sequential(OrderedDict((n, m) for n, m in network.named_children() if n not in ("avgpool", "fc")))
        if weights is not None and is_weight_file(weights):
            tensors = read_tensors(Path(weights).expanduser())
            load_exactly(self.grid, {n: t for n, t in tensors.items() if not n.startswith("fc.")}, weights)
        self.requires_grad_(not freeze)

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**options, "weights": None}

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        kinds = super().feature_kinds
        for stage in range(1, 5):
            kinds |= {f"{stage}.hidden": "hidden", f"{stage}.mean": "pooled"}
        return kinds

    def forward_features(self, inputs: ModalityInputs, wanted: Collection[str]) -> tuple[Encoded, Features]:
        grid, stages = visible(inputs.values, inputs.mask), {}
        try:
            for name, module in self.grid.named_children():
                grid = module(grid)  # [B, D, height, width]
                if name.startswith("layer"):
                    stages[name.removeprefix("layer")] = grid
        except ValueError as error:
            raise ValueError(f"{error}; raise training.batch_size or the image's size, or set freeze_batch_norm") from error
        encoded = _cells(self.cells(grid), inputs.mask)
        features = encoded.features(wanted)
        for number, grid in stages.items():
            # a stage has `hidden` and `mean`, which are those of a last grid of its own
            stage = _cells(grid, inputs.mask)
            for what in within(number, wanted):
                features[f"{number}.{what}"] = stage.features([f"last.{what}"])[f"last.{what}"]
        return encoded, features


def _cells(grid: Tensor, mask: Tensor) -> Encoded:
    tokens = grid.flatten(2).transpose(1, 2)  # [B, L, D]
    mask = mask.expand(tokens.shape[:2])  # [B, L]
    return Encoded(tokens, mask, masked_mean(tokens, mask))


def _network(name: str, weights: str | None, freeze_batch_norm: bool) -> Any:
    from torchvision.models import get_model, get_model_weights
    from torchvision.ops import FrozenBatchNorm2d

    known = None if weights is None or is_weight_file(weights) else weights
    names = get_model_weights(name).__members__
    if known is not None and known not in names:
        wanted = ", ".join(names)
        raise ValueError(f"torchvision's weights of {name} are {wanted}, got {known!r}; a file ends in .safetensors or .pth")
    return get_model(name, weights=known, norm_layer=FrozenBatchNorm2d if freeze_batch_norm else nn.BatchNorm2d)
