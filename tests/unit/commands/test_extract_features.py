"""Grid features of image networks, against the networks' own outputs, and the command that stores them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Barrier
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from msd_framework.checks.words import read_words
from msd_framework.cli import main
from msd_framework.commands import extract_features
from msd_framework.data.processors.features import RegionFeatures
from msd_framework.data.processors.images import Pixels
from msd_framework.data.regions.store import FeatureStore
from msd_framework.engine.distributed import World
from msd_framework.errors import ConfigError, DataError
from msd_framework.models.encoders.grid_backbone import (
    IMAGENET,
    GridBackbone,
    Sight,
    _last_grid,
    as_grid,
    build_backbone,
    cell_boxes,
    torchvision_backbone,
    transformers_backbone,
)

SIGHT = Sight((32, 32), *IMAGENET)


def pixels(height: int = 32, width: int = 32, number: int = 2) -> Tensor:
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(0))


# torchvision


@pytest.mark.parametrize(
    ("name", "side", "shape"),
    [
        ("resnet18", 64, (2, 2, 512)),
        ("mobilenet_v3_small", 64, (2, 2, 576)),
        ("shufflenet_v2_x0_5", 64, (2, 2, 1024)),
        ("squeezenet1_1", 64, (3, 3, 512)),
        ("shufflenet_v2_x0_5", 32, (1, 1, 1024)),
    ],
)
def test_the_last_grid_before_the_head_is_found(name, side, shape):
    backbone = torchvision_backbone(name, "random", size=(side, side))
    assert backbone(pixels(side, side)).shape == (2, *shape)


def tiny_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 8, [1, 1], [1, 2], [2, 2])


def tiny_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16)


@pytest.mark.parametrize(("network", "shape"), [(tiny_swin(), (4, 4, 16)), (tiny_vit(), (4, 4, 16))], ids=["swin", "vit"])
def test_transformers_of_torchvision_have_a_grid(network, shape):
    backbone = GridBackbone(network, _last_grid(network, (32, 32)), SIGHT, getattr(network, "patch_size", None))
    assert backbone(pixels()).shape == (2, *shape)


def test_a_grid_is_what_the_head_averages():
    from torchvision.models import resnet18

    network = resnet18(num_classes=4).eval()
    grid = GridBackbone(network, _last_grid(network, (64, 96)), SIGHT)(pixels(64, 96))  # [B, 2, 3, 512]
    assert grid.shape == (2, 2, 3, 512)
    with torch.no_grad():
        assert torch.allclose(network.fc(grid.mean((1, 2))), network(pixels(64, 96)), atol=1e-6)


def test_a_layer_may_be_named():
    backbone = torchvision_backbone("shufflenet_v2_x0_5", "random", layer="stage2", size=(64, 64))
    assert backbone(pixels(64, 64)).shape == (2, 8, 8, 48)


def test_weights_may_be_a_file(tmp_path):
    from safetensors.torch import save_file
    from torchvision.models import shufflenet_v2_x0_5

    network = shufflenet_v2_x0_5().eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    grid = torchvision_backbone("shufflenet_v2_x0_5", str(tmp_path / "weights.safetensors"), size=(32, 32))(pixels())
    assert grid.shape == (2, 1, 1, 1024)
    with torch.no_grad():
        assert torch.allclose(network.fc(grid.mean((1, 2))), network(pixels()), atol=1e-6)


# transformers


def configurations() -> dict[str, tuple[Any, tuple[int, int, int], int]]:
    """Tiny models: a configuration, its grid, and how many tokens are in front of it."""
    import transformers as t

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    text = {**sizes, "vocab_size": 50}
    swin = t.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2)
    return {
        "vit": (t.ViTConfig(**vision), (4, 4, 16), 1),
        "deit": (t.DeiTConfig(**vision), (4, 4, 16), 2),
        "dinov2": (t.Dinov2Config(**{**vision, "patch_size": 8}), (4, 4, 16), 1),
        "beit": (t.BeitConfig(**vision), (4, 4, 16), 1),
        "clip_vision": (t.CLIPVisionConfig(**vision), (4, 4, 16), 1),
        "clip": (t.CLIPConfig(text_config=text, vision_config=vision), (4, 4, 16), 1),
        "siglip_vision": (t.SiglipVisionConfig(**vision), (4, 4, 16), 0),
        "swin": (swin, (4, 4, 16), 0),
        "resnet": (t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]), (4, 4, 16), 0),
        "convnext": (t.ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1]), (1, 1, 16), 0),
    }


@pytest.mark.parametrize("name", configurations())
def test_any_image_model_of_transformers_has_a_grid(tmp_path, name):
    config, shape, num_special = configurations()[name]
    config.save_pretrained(tmp_path)
    torch.manual_seed(0)
    backbone = transformers_backbone(str(tmp_path), "random", size=(32, 32))
    grid = backbone(pixels())
    assert grid.shape == (2, *shape)
    with torch.no_grad():
        seen = backbone.network(pixel_values=pixels()).last_hidden_state
    expected = seen.permute(0, 2, 3, 1) if seen.ndim == 4 else seen[:, num_special:].reshape(2, *shape)
    assert torch.equal(grid, expected)


def test_published_weights_are_used_and_the_model_says_how_it_wants_to_see_images(tmp_path):
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    published = ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8)).eval()
    published.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}')
    backbone = build_backbone(f"transformers:{tmp_path}")
    assert backbone.sight == Sight((16, 16), (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    with torch.no_grad():
        expected = published(pixels(16, 16)).last_hidden_state[:, 1:].reshape(2, 2, 2, 16)
    assert torch.allclose(backbone(pixels(16, 16)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [('{"shortest_edge": 48}', (48, 48)), ('{"height": 32, "width": 64}', (32, 64)), ("40", (40, 40))],
)
def test_the_size_of_images_may_be_that_of_the_preprocessing(tmp_path, size, wanted):
    from transformers import ResNetConfig

    ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(f'{{"size": {size}}}')
    assert transformers_backbone(str(tmp_path), "random").sight.size == wanted


def test_a_damaged_preprocessing_is_no_missing_one(tmp_path):
    from transformers import ResNetConfig

    ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1,')
    with pytest.raises(DataError, match=r"preprocessor_config\.json: is not JSON"):
        transformers_backbone(str(tmp_path), "random")


# Grids and boxes


class Brightness(nn.Module):
    """The mean brightness of each patch, as tokens after two special ones, or as a map."""

    def __init__(self, as_tokens: bool):
        super().__init__()
        self.pool, self.as_tokens = nn.AvgPool2d(8), as_tokens

    def forward(self, images: Tensor) -> Tensor:
        grid = self.pool(images)  # [B, 3, h, w]
        tokens = grid.flatten(2).transpose(1, 2)  # [B, h w, 3]
        return torch.cat([torch.zeros(len(tokens), 2, 3), tokens], 1) if self.as_tokens else grid


@pytest.mark.parametrize("as_tokens", [True, False])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 40), (40, 16)])
@pytest.mark.parametrize("patch_size", [None, 8])
def test_a_cell_lies_where_its_box_says(as_tokens, height, width, patch_size):
    backbone = GridBackbone(Brightness(as_tokens), "", SIGHT, patch_size)
    rows, columns = height // 8, width // 8
    boxes = cell_boxes(rows, columns, width, height)
    for place in range(rows * columns):
        x1, y1, x2, y2 = (int(x) for x in boxes[place])
        image = torch.zeros(1, 3, height, width)
        image[:, :, y1:y2, x1:x2] = 1
        grid = backbone(image).flatten(1, 2)[0]  # [h w, 3]
        assert grid.mean(1).tolist() == [float(i == place) for i in range(rows * columns)]


def test_cells_cover_an_image_and_do_not_overlap():
    boxes = cell_boxes(3, 5, 641, 480)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert torch.isclose(areas.sum(), torch.tensor(641.0 * 480))
    assert boxes.amin(0).tolist()[:2] == [0, 0]
    assert boxes.amax(0).tolist()[2:] == [641, 480]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (torch.zeros(2, 5), r"the layer says \[2, 5\] of images, wanted \[B, D, h, w\] or \[B, L, D\]"),
        (torch.zeros(2, 44, 5), r"the layer says 44 tokens of images of 32 x 64 pixels, which are no grid; name another"),
    ],
)
def test_what_is_no_grid_is_told(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        as_grid(values, (32, 64))


@pytest.mark.parametrize(
    ("backbone", "options", "sentence"),
    [
        ("resnet18", {}, r"backbone is 'resnet18', wanted torchvision:NAME or transformers:FOLDER_OR_HUB_NAME"),
        ("torchvison:resnet18", {}, r"Did you mean 'torchvision'\?"),
        ("torchvision:", {}, "wanted torchvision:NAME"),
        ("torchvision:resnet19", {}, r"torchvision has no image classifier 'resnet19'\. Did you mean 'resnet18'\?"),
        ("torchvision:resnet18", {"weights": "IMAGENET"}, r"torchvision's weights of resnet18 are IMAGENET1K_V1, DEFAULT, random"),
        ("torchvision:resnet18", {"weights": "gone.pth"}, "there is no weight file gone.pth"),
        (
            "torchvision:resnet18",
            {"weights": "random", "layer": "layer5"},
            r"no layer 'layer5'\. Did you mean 'layer4",
        ),
        ("transformers:./nowhere", {"weights": "random"}, r"transformers finds no model './nowhere'"),
        ("transformers:./nowhere", {"weights": "V1"}, r"weights of a model of transformers are DEFAULT or random, got 'V1'"),
    ],
)
def test_a_backbone_that_is_not_there_is_told(backbone, options, sentence, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=sentence):
        build_backbone(backbone, **options)


def test_a_model_that_reads_texts_is_refused(tmp_path):
    from transformers import BertConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertConfig(**sizes, vocab_size=10).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="takes input_ids, wanted a model that takes pixel_values"):
        transformers_backbone(str(tmp_path), "random")


def test_an_image_size_that_the_network_cannot_take_is_told():
    with pytest.raises(ValueError, match=r"the network cannot see images of 40 x 40 pixels .+; name its image_size"):
        GridBackbone(tiny_vit(), "encoder", SIGHT, 8)(pixels(40, 40))


def test_a_layer_that_says_no_tensor_or_nothing_is_told():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Identity()

        def forward(self, images: Tensor) -> tuple[str]:
            return ("grid",)

    with pytest.raises(ValueError, match="the layer says a tuple, wanted a tensor; name another"):
        GridBackbone(Odd(), "", SIGHT)(pixels())
    with pytest.raises(ValueError, match="the layer 'unused' was not used for an image; name another"):
        GridBackbone(Odd(), "unused", SIGHT)(pixels())
    with pytest.raises(ValueError, match="no layer of the network says a grid of features; name one"):
        _last_grid(Odd(), (8, 8))


# The command


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "train").mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        width, height = 30 + i, 40 - i
        picture = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        picture.save(folder / ("train" if i % 2 else ".") / f"{i}.{'png' if i % 3 else 'jpg'}")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(folder)
    return folder


def words(images: Path, model: Path, store: Path, *more: str) -> list[str]:
    return [f"images={images}", f"store={store}", f"backbone=transformers:{model}", "device=cpu", "precision=fp32", *more]


def extracted(line: list[str]) -> str:
    """What `msd extract-features` says."""
    return extract_features.extract_features(**read_words(line, extract_features.extract_features).values)


@pytest.fixture(scope="module")
def store(images, model, tmp_path_factory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("store") / "features"
    extracted(words(images, model, folder, "batch_size=3"))
    return FeatureStore(folder)


def equal(a: FeatureStore, b: FeatureStore) -> bool:
    """Whether two stores hold the same of each image; other batches round otherwise."""
    names = sorted(a.names())
    pairs = [(a.read(name, boxes=True), b.read(name, boxes=True)) for name in names]
    close = [np.allclose(x.features, y.features, atol=1e-5) for x, y in pairs]
    boxes = [np.array_equal(x.boxes, y.boxes) and x.size == y.size for x, y in pairs]
    return names == sorted(b.names()) and all(close) and all(boxes)


def test_a_store_holds_what_the_network_says_of_each_image(images, model, store):
    assert sorted(store.names()) == ["0", "2", "4", "6", "train/1", "train/3", "train/5"]
    backbone = build_backbone(f"transformers:{model}")
    see = Pixels([16, 16], interpolation="bicubic")
    for i in range(7):
        file = next(images.rglob(f"{i}.*"))
        grid = backbone(see.collate([see.load(file)]).values)[0]
        read = store.read(file.relative_to(images).with_suffix("").as_posix(), boxes=True)
        assert np.allclose(read.features, grid.flatten(0, 1).numpy(), atol=1e-5)  # other batches
        assert np.array_equal(read.boxes, cell_boxes(2, 2, 30 + i, 40 - i).numpy())
        assert read.size == (30 + i, 40 - i)


def test_a_store_of_cells_takes_the_place_of_the_images(images, store):
    processor = RegionFeatures(f"store:{store.path}", boxes=True)
    batch = processor.collate([processor.load(file) for file in sorted(images.rglob("*.png"))])
    assert batch.values.shape[1:] == (4, 16)
    assert torch.allclose(batch.extras["boxes"][0, 3], torch.tensor([0.5, 0.5, 1, 1, 0.25]))


@pytest.mark.parametrize("more", [["batch_size=7"], ["workers=2", "batch_size=2"]])
def test_batches_and_workers_change_nothing(images, model, store, tmp_path, more):
    extracted(words(images, model, tmp_path / "s", *more))
    assert equal(FeatureStore(tmp_path / "s"), store)


def test_an_extraction_that_was_interrupted_goes_on(images, model, store, tmp_path, monkeypatch):
    plain_load, seen = Pixels.load_sized, list[str]()

    def load(self: Pixels, value: Any) -> tuple[Tensor, tuple[int, int]]:
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(Path(value).stem)
        return plain_load(self, value)

    monkeypatch.setattr(Pixels, "load_sized", load)
    with pytest.raises(KeyboardInterrupt):
        extracted(words(images, model, tmp_path / "s", "batch_size=2"))
    assert not (tmp_path / "s").exists()
    monkeypatch.setattr(Pixels, "load_sized", lambda self, value: seen.append(Path(value).stem) or plain_load(self, value))
    told = extracted(words(images, model, tmp_path / "s", "batch_size=2"))
    assert "4 images had been written before." in told
    assert sorted(seen) == [str(i) for i in range(7)]
    assert equal(FeatureStore(tmp_path / "s"), store)
    assert "holds these features already" in extracted(words(images, model, tmp_path / "s"))


class Rank(World):
    """One of several threads that stand for processes."""

    said: ClassVar[list[Any]] = [None, None]
    both: ClassVar[Barrier] = Barrier(2, timeout=20)

    def gather(self, value: Any) -> list[Any]:
        self.said[self.rank] = value
        self.wait()
        values = list(self.said)
        self.wait()
        return values

    def wait(self) -> None:
        self.both.wait()


def test_processes_write_the_same_store_together(images, tmp_path, monkeypatch):
    monkeypatch.setattr(extract_features, "build_backbone", lambda *_: GridBackbone(Brightness(False), "", SIGHT))
    line = [f"images={images}", "backbone=torchvision:any", "batch_size=2", "device=cpu"]
    extracted([*line, f"store={tmp_path / 'alone'}"])
    ranks = iter([Rank(0, 2), Rank(1, 2)])
    monkeypatch.setattr(World, "join", lambda device: nullcontext(next(ranks)))
    with ThreadPoolExecutor(2) as threads:
        told = list(threads.map(extracted, [[*line, f"store={tmp_path / 'together'}"]] * 2))
    assert all("images:   7, 16 regions each, 112 in all" in one for one in told)
    together = FeatureStore(tmp_path / "together")
    assert [rows for _, rows in together.card["shards"]] == [64, 48]
    assert equal(together, FeatureStore(tmp_path / "alone"))


def test_an_image_that_cannot_be_read_is_named_or_left_out(images, model, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    (tmp_path / "images" / "good.png").write_bytes(next(images.rglob("1.png")).read_bytes())
    with pytest.raises(DataError, match=r"bad\.png: is not an image .+ Take on_error=skip to leave such images out\."):
        extracted(words(tmp_path / "images", model, tmp_path / "s"))
    told = extracted(words(tmp_path / "images", model, tmp_path / "s", "on_error=skip"))
    assert "1 images were left out:" in told
    assert "bad.png: is not an image" in told
    assert list(FeatureStore(tmp_path / "s").names()) == ["good"]


def test_another_backbone_does_not_go_on_with_a_store(images, model, tmp_path, monkeypatch):
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(extract_features, "cell_boxes", stop)
    with pytest.raises(KeyboardInterrupt):
        extracted(words(images, model, tmp_path / "s"))
    with pytest.raises(DataError, match=r"\.s\.draft was left by .+: weights is DEFAULT there and random 0 here"):
        extracted(words(images, model, tmp_path / "s", "weights=random"))


def test_the_command_runs_from_the_command_line(images, tmp_path, capsys):
    line = [f"images={images}", f"store={tmp_path / 's'}", "backbone=torchvision:squeezenet1_1", "weights=random", "image_size=64"]
    assert main(["extract-features", *line, "device=cpu"]) == 0
    assert "features: 512 numbers, fp16, with boxes" in capsys.readouterr().out
    assert main(["extract-features", *line[:2], "backbone=torchvision:squeeze"]) == 2
    assert "torchvision has no image classifier 'squeeze'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["batch_size=0"], r"batch_size: is out of range, got 0"),
        (["workers=-1"], r"workers: is out of range, got -1"),
        (["image_size=[3]"], r"image_size: is out of range, got \[3\]"),
        (["bacth_size=3"], r"Did you mean 'batch_size'\?"),
    ],
)
def test_wrong_words_are_told(images, model, tmp_path, more, sentence):
    with pytest.raises(ConfigError, match=sentence):
        extracted(words(images, model, tmp_path / "s", *more))


def test_a_folder_without_images_is_told(tmp_path, model):
    with pytest.raises(DataError, match=r"there is no folder .*gone; wanted one with images"):
        extracted(words(tmp_path / "gone", model, tmp_path / "s"))
    with pytest.raises(DataError, match=r"holds no image; wanted files \.bmp"):
        extracted(words(tmp_path, model, tmp_path / "s"))


def test_images_whose_features_would_have_one_name_are_told(images, model, tmp_path):
    for suffix in ("png", "jpg"):
        (tmp_path / f"a.{suffix}").touch()
    with pytest.raises(DataError, match=r"a\.png and .*a\.jpg would have features of one name; rename one"):
        extracted(words(tmp_path, model, tmp_path / "s"))
