"""Any image network of torchvision or transformers as a grid of features, one vector a cell of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msd_framework.errors import did_you_mean
from msd_framework.models.pretrained.transformers import load_published, reason_of
from msd_framework.models.pretrained.weights import find_file, is_weight_file, load_exactly, read_tensors
from msd_framework.reading import read_json

# what torchvision calls the parts of a network that come after its grid
HEADS = frozenset({"classifier", "head", "heads", "fc", "avgpool", "global_pool"})
# what transformers calls the part of a model that sees images, where another one reads texts
TOWERS = ("vision_model", "image_model", "vision_tower")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGE_SIZE = 224
MAX_SPECIAL = 8  # tokens before the cells, such as [CLS] and registers, at most


@dataclass(frozen=True)
class Sight:
    """How images are prepared for a network."""

    size: tuple[int, int]  # height and width in pixels
    mean: tuple[float, ...]  # what is taken off each channel, of pixels between 0 and 1
    std: tuple[float, ...]  # what each channel is divided by then


class GridBackbone(nn.Module):
    r"""The features of each cell of an image, from one layer of a network, [B, H / s, W / s, D] for a stride of s pixels.

    Of tokens [B, S + h w, D], the S special ones in front are left out: h and w follow from the size of the patches, or else from
    the sides of the image, with S as small as can be. An empty name of a layer is the network's own output.
    """

    def __init__(self, network: nn.Module, layer: str, sight: Sight, patch_size: int | None = None):
        super().__init__()
        modules = dict(network.named_modules())
        if layer not in modules:
            last = ", ".join([*modules][-5:])
            raise ValueError(f"the network has no layer {layer!r}.{did_you_mean(layer, modules)} Its last ones: {last}")
        self.network, self.layer, self.sight, self.patch_size = network.eval(), layer, sight, patch_size
        self._outputs: list[Any] = []
        modules[layer].register_forward_hook(lambda module, inputs, output: self._outputs.append(output))

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] to features [B, h, w, D]."""
        self._outputs.clear()
        try:
            self.network(pixels)
        except (RuntimeError, ValueError, AssertionError) as error:
            if "memory" in str(error):
                raise
            size = f"{pixels.shape[2]} x {pixels.shape[3]}"
            reason = f"the network cannot see images of {size} pixels ({str(error).splitlines()[0]}); name its image_size"
            raise ValueError(reason) from error
        if not self._outputs:
            raise ValueError(f"the layer {self.layer!r} was not used for an image; name another")
        return as_grid(_tensor(self._outputs.pop()), (pixels.shape[2], pixels.shape[3]), self.patch_size)


def as_grid(values: Tensor, sides: tuple[int, int], patch_size: int | None = None) -> Tensor:
    """The output of a layer, [B, D, h, w], [B, h, w, D] or tokens [B, S + h w, D], as a grid [B, h, w, D]."""
    height, width = sides
    if values.ndim == 4:
        channels_last = _alike(values.shape[1:3], sides) and not _alike(values.shape[2:4], sides)
        return values if channels_last else values.permute(0, 2, 3, 1)
    if values.ndim != 3:
        raise ValueError(f"the layer says {list(values.shape)} of images, wanted [B, D, h, w] or [B, L, D]; name another")
    length = values.shape[1]
    grids = [(height // patch_size, width // patch_size)] if patch_size else []
    guess = math.sqrt(length * height / width)
    grids += [(h, round(h * width / height)) for h in range(math.floor(guess), 0, -1)]
    for h, w in grids:
        if 0 <= length - h * w <= MAX_SPECIAL and _alike((h, w), sides):
            return values[:, length - h * w :].reshape(len(values), h, w, -1)
    raise ValueError(f"the layer says {length} tokens of images of {height} x {width} pixels, which are no grid; name another")


def cell_boxes(height: int, width: int, image_width: float, image_height: float) -> Tensor:
    """The cells of a grid as boxes, x1, y1, x2 and y2 in pixels, row by row, float32 [h w, 4]."""
    ys, xs = torch.linspace(0, image_height, height + 1), torch.linspace(0, image_width, width + 1)
    y1, x1 = torch.meshgrid(ys[:-1], xs[:-1], indexing="ij")  # [h, w]
    y2, x2 = torch.meshgrid(ys[1:], xs[1:], indexing="ij")
    return torch.stack([x1, y1, x2, y2], -1).flatten(0, 1)


def torchvision_backbone(
    name: str, weights: str = "DEFAULT", layer: str | None = None, size: tuple[int, int] | None = None
) -> GridBackbone:
    """An image classifier of torchvision; weights are a name of torchvision's, a file, or ``random``."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no image classifier {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
    published = models.get_model_weights(name)
    is_file = is_weight_file(weights)
    if not is_file and weights != "random" and weights not in published.__members__:
        names = ", ".join([*published.__members__, "random"])
        raise ValueError(f"torchvision's weights of {name} are {names}, got {weights!r}; a file ends in .safetensors or .pth")
    chosen = None if is_file or weights == "random" else published[weights]
    without = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") and chosen is None else {}
    network = models.get_model(name, weights=chosen, **without)
    if is_file:
        load_exactly(network, read_tensors(Path(weights).expanduser()), weights)
    (mean, std), side = IMAGENET, IMAGE_SIZE
    if chosen is not None:
        transforms = chosen.transforms()
        mean, std, side = tuple(transforms.mean), tuple(transforms.std), transforms.crop_size[0]
    sight = Sight(size or (getattr(network, "image_size", side),) * 2, mean, std)
    layer = layer if layer is not None else _last_grid(network, sight.size)
    return GridBackbone(network, layer, sight, getattr(network, "patch_size", None))


def transformers_backbone(
    name: str, weights: str = "DEFAULT", layer: str | None = None, size: tuple[int, int] | None = None
) -> GridBackbone:
    """An image model of transformers, from a folder or hub name; of one that reads texts as well, the part that sees."""
    from transformers import AutoConfig, AutoModel

    if weights not in ("DEFAULT", "random"):
        raise ValueError(f"weights of a model of transformers are DEFAULT or random, got {weights!r}")
    try:
        if weights == "random":
            built = AutoConfig.from_pretrained(name, trust_remote_code=False)
            network = AutoModel.from_config(built, trust_remote_code=False)
        else:
            network = load_published(name)
    except Exception as error:  # a damaged folder can make it raise anything
        raise ValueError(f"transformers finds no model {name!r}: {reason_of(error)}") from error
    network = next((getattr(network, tower) for tower in TOWERS if hasattr(network, tower)), network).float()
    if getattr(network, "main_input_name", "pixel_values") != "pixel_values":
        raise ValueError(f"{name} takes {network.main_input_name}, wanted a model that takes pixel_values")
    try:
        preparation: Path | None = find_file(name, "preprocessor_config.json")
    except ValueError:  # a model need not say how images are prepared for it
        preparation = None
    given = {} if preparation is None else read_json(preparation)
    mean, std = tuple(given.get("image_mean", IMAGENET[0])), tuple(given.get("image_std", IMAGENET[1]))
    side, patch = getattr(network.config, "image_size", None), getattr(network.config, "patch_size", None)
    sight = Sight(size or _sides(side or given.get("crop_size") or given.get("size") or IMAGE_SIZE), mean, std)
    return GridBackbone(network, layer or "", sight, patch if isinstance(patch, int) else None)


# where networks come from, by the word before the colon of a backbone's name
LIBRARIES = {"torchvision": torchvision_backbone, "transformers": transformers_backbone}


def build_backbone(
    backbone: str, weights: str = "DEFAULT", layer: str | None = None, size: tuple[int, int] | None = None
) -> GridBackbone:
    """A network from ``torchvision:<name>`` or ``transformers:<folder or hub name>``."""
    library, _, name = backbone.partition(":")
    if library not in LIBRARIES or not name:
        hint = did_you_mean(library, LIBRARIES)
        raise ValueError(f"backbone is {backbone!r}, wanted torchvision:NAME or transformers:FOLDER_OR_HUB_NAME.{hint}")
    return LIBRARIES[library](name, weights, layer, size)


def _last_grid(network: nn.Module, sides: tuple[int, int]) -> str:
    """The last module before the head whose output is a grid, from a look at a blank image."""
    grids: list[str] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4):
            grids.append(names[module])

    names = {m: name for name, m in network.named_modules() if name and name.partition(".")[0] not in HEADS}
    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *sides))
    finally:
        for hook in hooks:
            hook.remove()
    if not grids:
        raise ValueError("no layer of the network says a grid of features; name one")
    return grids[-1]


def _tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    values = getattr(output, "last_hidden_state", None)
    if values is None:
        values = next(iter(output.values() if isinstance(output, Mapping) else output), None)
    if not isinstance(values, Tensor):
        raise ValueError(f"the layer says a {type(output).__name__}, wanted a tensor; name another")
    return values


def _alike(grid: Any, sides: tuple[int, int]) -> bool:
    """Whether a grid has the sides of an image, up to a cell."""
    stride = max(1.0, math.sqrt(sides[0] * sides[1] / max(1, grid[0] * grid[1])))
    return all(abs(cells - side / stride) < 1 for cells, side in zip(grid, sides))


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        side = size.get("shortest_edge", IMAGE_SIZE)
        return int(size.get("height", side)), int(size.get("width", side))
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
