"""Image files as pixels, against torchvision, numpy and closed forms."""

import io
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from msd_framework.data.processors.images import IMAGENET_MEAN, IMAGENET_STD, Pixels, read_image, to_rgb
from msd_framework.errors import DataError

RED, WHITE = (255, 0, 0), (255, 255, 255)
GRADIENT = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


@pytest.fixture
def photo(tmp_path) -> Path:
    Image.fromarray(GRADIENT).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return header + struct.pack(">I", 9) + b"IDAT"


def size_or_sentence(file: Path) -> tuple[int, int] | str:
    try:
        return read_image(file).size
    except DataError as error:
        return str(error)


def saved(image: Image.Image, folder: Path, suffix: str = ".png", **options) -> Path:
    image.save(folder / f"image{suffix}", **options)
    return folder / f"image{suffix}"


@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [8, [16, 40]])
def test_pixels_are_those_of_torchvision(photo, interpolation, size):
    from torchvision import transforms

    shape = [size, size] if isinstance(size, int) else size
    resize = transforms.Resize(shape, transforms.InterpolationMode(interpolation))
    theirs = transforms.Compose([resize, transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    pixels = Pixels(size, interpolation=interpolation)
    batch = pixels.collate([pixels.load(photo)] * 2)
    torch.testing.assert_close(batch.values[1], theirs(Image.open(photo)), rtol=0, atol=1e-6)  # the same float32 operations
    assert batch.mask.tolist() == [[True], [True]]
    assert batch.present.all()


def test_a_box_filter_undoes_a_magnification(tmp_path):
    card = GRADIENT[:16, :16]
    magnified = saved(Image.fromarray(card.repeat(8, 0).repeat(8, 1)), tmp_path)
    assert np.array_equal(Pixels(16, interpolation="box").load(magnified).permute(1, 2, 0).numpy(), card)


def test_what_is_kept_of_an_image_is_small(photo):
    pixels = Pixels([4, 5]).load(photo)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 4, 5))


def test_grey_is_one_channel_with_the_average_statistics(photo):
    pixels = Pixels([20, 30], channels=1)
    values = pixels.collate([pixels.load(photo)]).values
    grey = torch.from_numpy(np.asarray(Image.open(photo).convert("L")).astype(np.float64))
    expected = (grey / 255 - np.mean(IMAGENET_MEAN)) / np.mean(IMAGENET_STD)
    torch.testing.assert_close(values[0, 0].double(), expected, rtol=0, atol=1e-6)  # float32 against float64


def test_statistics_are_per_channel(photo):
    pixels = Pixels([20, 30], mean=[0, 0.5, 1], std=[1, 0.5, 2])
    values = pixels.collate([pixels.load(photo)]).values[0].double()
    expected = (
        torch.from_numpy(GRADIENT).permute(2, 0, 1).double() / 255 - torch.tensor([0, 0.5, 1]).view(3, 1, 1)
    ) / torch.tensor([1, 0.5, 2]).view(3, 1, 1)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)  # float32 against float64


def paletted(transparent: bool) -> Image.Image:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    if transparent:
        image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("RGB", (4, 4), RED), RED),
        (Image.new("RGBA", (4, 4), (*RED, 255)), RED),
        (Image.new("RGBA", (4, 4), (*RED, 0)), WHITE),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 51)), (255, 204, 204)),  # a fifth red on white
        (Image.new("L", (4, 4), 7), (7, 7, 7)),
        (Image.new("LA", (4, 4), (7, 255)), (7, 7, 7)),
        (Image.new("LA", (4, 4), (7, 0)), WHITE),
        (Image.new("1", (4, 4), 1), WHITE),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), RED),
        (Image.new("I", (4, 4), 0x1234), (0x12,) * 3),
        (Image.new("I", (4, 4), 10**9), WHITE),
        (Image.fromarray(np.full((4, 4), 0xFFFF, dtype=np.uint16)), WHITE),
        (paletted(transparent=False), RED),
        (paletted(transparent=True), WHITE),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_becomes_the_colour_that_is_seen(image, colour):
    result = to_rgb(image)
    assert result.mode == "RGB"
    assert np.array_equal(np.asarray(result), np.broadcast_to(colour, (4, 4, 3)))


@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("RGBA", ".png", {}),
        ("LA", ".png", {}),
        ("P", ".png", {"transparency": b"\x00\x80"}),
        ("P", ".gif", {"transparency": 0}),
        ("1", ".png", {}),
        ("L", ".png", {"transparency": 0}),
        ("RGB", ".png", {"transparency": (0, 0, 0)}),
        ("CMYK", ".jpg", {}),
        ("L", ".jpg", {}),
        ("RGBA", ".webp", {}),
        ("RGB", ".bmp", {}),
        ("CMYK", ".tiff", {}),
        ("I;16", ".png", {}),
        ("I;16", ".tiff", {}),
        ("RGB", ".ppm", {}),
    ],
)
def test_every_kind_of_file_is_read_without_a_warning(tmp_path, mode, suffix, options):
    image = (
        Image.fromarray(np.zeros((4, 6), dtype=np.uint16))
        if mode == "I;16"
        else (Image.new("RGB", (6, 4)).quantize(4) if mode == "P" else Image.new(mode, (6, 4)))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Pixels([4, 6]).load(saved(image, tmp_path, suffix, **options)).shape == (3, 4, 6)


def test_floating_point_pixels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"image.tiff: cannot be read as an image \(its values are floating-point"):
        Pixels().load(saved(Image.new("F", (4, 4)), tmp_path, ".tiff"))
    with pytest.raises(ValueError, match="floating-point numbers of no known range, wanted 8 or 16 bits"):
        to_rgb(Image.new("F", (4, 4)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.png: no such image file"):
        Pixels().load(tmp_path / "gone.png")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(DataError, match="cannot be read as an image"):
        Pixels().load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an image at all", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "text.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"text.png: is not an image \({len(content)} bytes\), wanted one of PNG, JPEG"):
        Pixels().load(tmp_path / "text.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tiff", ".webp"])
@given(data=st.data())
def test_a_truncated_file_is_an_image_or_an_error(tmp_path_factory, suffix, data):
    content = io.BytesIO()
    Image.fromarray(GRADIENT).save(content, {".jpg": "jpeg"}.get(suffix, suffix[1:]))
    whole = content.getvalue()
    file = tmp_path_factory.getbasetemp() / f"cut{suffix}"
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert size_or_sentence(file) == (30, 20) or str(file) in size_or_sentence(file)


@given(place=st.integers(0, 200), byte=st.integers(0, 255))
def test_a_damaged_file_is_an_image_or_an_error(tmp_path_factory, place, byte):
    content = io.BytesIO()
    Image.fromarray(GRADIENT).save(content, "tiff")
    damaged = bytearray(content.getvalue())
    damaged[-place if place else 0] = byte  # the directory of a TIFF stands at its end
    file = tmp_path_factory.getbasetemp() / "damaged.tiff"
    file.write_bytes(damaged)
    assert isinstance(size_or_sentence(file), tuple) or str(file) in size_or_sentence(file)


def test_half_an_image_is_an_error(photo):
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    with pytest.raises(DataError, match=r"photo.png: cannot be read as an image \(.+\)"):
        Pixels().load(photo)


@pytest.mark.parametrize(("width", "height"), [(100_001, 1000), (20_000, 20_000)])
def test_too_many_pixels_are_refused_before_they_are_read(tmp_path, width, height):
    (tmp_path / "bomb.png").write_bytes(png_header(width, height))
    with pytest.raises(DataError, match=r"bomb.png: has too many pixels \(.+\), wanted at most 100,000,000"):
        Pixels().load(tmp_path / "bomb.png")


def test_a_large_image_below_the_limit_is_tried_without_a_warning(tmp_path):
    (tmp_path / "large.png").write_bytes(png_header(10_000, 9_500))  # PIL warns above 89 million
    with pytest.raises(DataError, match=r"large.png: cannot be read as an image"):
        Pixels().load(tmp_path / "large.png")


def test_augmentation_depends_on_the_random_state_alone(photo):
    pixels = Pixels(8, augment="crop_flip")

    def draw(seed: int) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return pixels.load(photo)

    assert draw(0).equal(draw(0))
    assert not draw(0).equal(draw(1))
    assert draw(0).shape == (3, 8, 8)


def test_augmented_inputs_are_random_and_their_evaluation_is_not(photo):
    pixels = Pixels(8, augment="crop_flip", mean=[0.1, 0.2, 0.3], std=[1, 2, 3], interpolation="box")
    still = pixels.deterministic()
    plain = Pixels(8, mean=[0.1, 0.2, 0.3], std=[1, 2, 3], interpolation="box")
    assert pixels.random
    assert not still.random
    assert still.fingerprint == plain.fingerprint != pixels.fingerprint
    assert still.load(photo).equal(plain.load(photo))


@pytest.mark.parametrize(("size", "fact"), [(16, 16), ([16, 16], 16), ([8, 16], [8, 16])])
def test_a_model_is_told_the_size(size, fact):
    assert Pixels(size, channels=1).facts == {"image_size": fact, "image_channels": 1}


@pytest.mark.parametrize(
    "options", [{"size": 9}, {"channels": 1}, {"mean": [0, 0, 0]}, {"std": [1, 1, 1]}, {"interpolation": "box"}]
)
def test_other_pixels_have_another_fingerprint(options):
    assert Pixels(**options).fingerprint != Pixels().fingerprint == Pixels().fingerprint


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 0}, "size is 0, wanted a positive number"),
        ({"size": [1, 2, 3]}, r"size is \[1, 2, 3\], wanted a positive number, or \[height, width\]"),
        ({"size": []}, r"size is \[\], wanted"),
        ({"channels": 4}, "channels is 4, wanted 3 for colour or 1 for grey"),
        ({"mean": [0.5]}, r"mean is \[0.5\] and std is .+, wanted 3 of each"),
        ({"std": [0, 1, 1]}, "wanted 3 of each, the latter positive"),
        ({"std": []}, "wanted 3 of each"),
    ],
)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Pixels(**options)


def test_a_worker_process_gets_the_same_transforms(photo):
    assert pickle.loads(pickle.dumps(Pixels(8))).load(photo).equal(Pixels(8).load(photo))  # noqa: S301


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What a viewer shows of pixels that a camera has stored, by the definition of the EXIF standard (2.32, table 6)."""
    # where the first row and the first column of what is stored are seen
    return {
        1: pixels,  # top, left
        2: pixels[:, ::-1],  # top, right
        3: pixels[::-1, ::-1],  # bottom, right
        4: pixels[::-1],  # bottom, left
        5: pixels.transpose(1, 0, 2),  # left, top
        6: pixels.transpose(1, 0, 2)[:, ::-1],  # right, top
        7: pixels[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: pixels.transpose(1, 0, 2)[::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_a_photo_that_was_held_turned_is_seen_upright(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if suffix == ".webp" else {}
    photo = saved(Image.fromarray(GRADIENT), tmp_path, suffix, exif=exif, **lossless)
    wanted = turned(GRADIENT, orientation)
    assert np.array_equal(np.asarray(read_image(photo)), wanted)
    pixels, size = Pixels(list(wanted.shape[:2])).load_sized(photo)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), wanted)
    assert size == wanted.shape[1::-1]
    if suffix != ".tif":  # which PIL turns by itself
        assert np.array_equal(np.asarray(read_image(photo, "ignore")), GRADIENT)


def test_damaged_metadata_do_not_turn_a_photo(tmp_path):
    photo = saved(Image.fromarray(GRADIENT), tmp_path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(np.asarray(read_image(photo)), GRADIENT)


def test_an_orientation_that_is_ignored_is_part_of_what_is_compared():
    assert Pixels(exif="ignore").fingerprint != Pixels().fingerprint
    assert Pixels(exif="ignore", augment="crop_flip").deterministic().exif == "ignore"


@pytest.mark.parametrize("highest", [255, 65535, 2**31 - 1])
def test_whole_numbers_of_32_bits_are_refused(tmp_path, highest):
    scan = saved(Image.fromarray(np.linspace(0, highest, 256).reshape(16, 16).astype(np.int32)), tmp_path, ".tif")
    with pytest.raises(DataError, match=r"image\.tif: .+32-bit whole numbers of no known range, wanted 8 or 16 bits"):
        read_image(scan)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_that_would_all_be_black_are_refused(tmp_path, suffix):
    values = np.arange(16, dtype=np.uint16).reshape(4, 4)
    for highest in (15, 15 * 273):  # 4 and 12 bits of 16
        with pytest.raises(DataError, match=rf"its 16-bit values reach {highest} of 65535, which is black or nearly so"):
            read_image(saved(Image.fromarray(values * (highest // 15)), tmp_path, suffix))
    assert np.asarray(read_image(saved(Image.fromarray(values * 0), tmp_path, suffix))).max() == 0
    assert np.asarray(read_image(saved(Image.fromarray(values * 4096), tmp_path, suffix)))[..., 0].ravel().tolist() == [
        16 * i for i in range(16)
    ]


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ("Photo 1.JPG", "photo 1.jpg"),
        ("photo.jpeg", "photo.jpg"),
        ("a b.png", "a%20b.png"),
        ("a%20b.png", "a b.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("photo_17.png", "photo17.png"),
    ],
)
def test_an_image_that_is_not_there_is_told_with_the_nearest_name(tmp_path, there, asked):
    Image.fromarray(GRADIENT).save(tmp_path / there, "PNG")
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / asked)
    assert str(caught.value) == f"{tmp_path / asked}: no such image file; {tmp_path} holds 1 names. Did you mean {there!r}?"


def test_a_folder_of_images_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: no such image file; there is no folder .+photos$"):
        read_image(tmp_path / "photos" / "a.png")


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_a_pil_image_is_seen_as_its_file(tmp_path, orientation, exif):
    camera = Image.Exif()
    camera[0x0112] = orientation
    Image.fromarray(GRADIENT).save(tmp_path / "photo.png", exif=camera)
    pixels = Pixels(size=[20, 30], exif=exif)
    with Image.open(tmp_path / "photo.png") as opened:
        assert torch.equal(pixels.load(opened), pixels.load(tmp_path / "photo.png"))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_an_array_is_seen_as_the_file_that_it_was_read_from(tmp_path, mode):
    image = Image.fromarray(GRADIENT).convert(mode)
    image.save(tmp_path / "photo.png")
    pixels = Pixels(size=8)
    assert torch.equal(pixels.load(np.asarray(image)), pixels.load(tmp_path / "photo.png"))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (GRADIENT.astype(float), r"an array of float64 \[20, 30, 3\], wanted uint8 \[H, W\] or \[H, W, 3 or 4\]"),
        (GRADIENT.transpose(2, 0, 1), r"an array of uint8 \[3, 20, 30\], wanted"),
        (np.zeros((0, 3), np.uint8), r"an array of uint8 \[0, 3\], wanted"),
        (3, "an image is a int, wanted the path of a file, a PIL image or an array"),
        (Image.new("F", (2, 2)), "an image of 2 x 2 pixels cannot be read .*floating-point"),
        (Image.new("1", (10_001, 10_000)), "cannot be read .10001 x 10000"),
    ],
)
def test_what_is_no_image_in_memory_is_a_sentence(value, sentence):
    with pytest.raises(DataError, match=sentence):
        Pixels(size=4).load(value)
