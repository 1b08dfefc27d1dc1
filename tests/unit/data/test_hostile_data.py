"""Files of data, features and weights that are programs, or lead elsewhere: read as what they should be, or refused."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import msd_framework
from msd_framework.analysis.saliency.report import gallery
from msd_framework.config.load import Source, parse, resolve
from msd_framework.data.processors.images import read_image
from msd_framework.data.regions.open import open_features
from msd_framework.errors import ConfigError, DataError
from msd_framework.models.pretrained.weights import read_tensors

MARK = "it_was_run"


class Bomb:
    """What runs a command when it is read as a pickle."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {MARK}",)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / MARK).exists()


def torch_zip() -> bytes:
    """A file as torch.save writes it, whose pickle is a program."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"weight": Bomb()}))
        archive.writestr("a/version", "3\n")
    return file.getvalue()


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.pt"])
@pytest.mark.parametrize("content", [pickle.dumps(Bomb()), torch_zip(), b"PK\x03\x04", b"", b"\x80\x04", b"garbage"])
def test_weights_that_are_a_program_are_not_read(here, name, content):
    (here / name).write_bytes(content)
    with pytest.raises(ValueError, match="is not a file of tensors alone"):
        read_tensors(here / name)


def test_features_that_are_a_program_are_not_read(here):
    np.save(here / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.save(here / "b.npy", np.zeros((2, 4), np.float32))
    np.save(here / "b_info.npy", np.array(Bomb(), dtype=object), allow_pickle=True)
    regions = open_features(str(here))
    for name in ("a", "b"):
        with pytest.raises((DataError, ValueError)):
            regions.read(name, boxes=True)


def test_an_lmdb_that_is_a_program_is_not_read(here):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(here / "f.lmdb"), map_size=1 << 20) as opened, opened.begin(write=True) as write:
        write.put(b"a", pickle.dumps(Bomb()))
        write.put(b"keys", pickle.dumps([b"a"]))
    with pytest.raises((DataError, ValueError)):
        open_features(str(here / "f.lmdb")).read("a", boxes=True)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['touch it_was_run']", "a: !!python/name:os.system ''"])
def test_an_object_of_python_in_a_yaml_is_none(here, text):
    (here / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml:1: is not valid YAML"):
        parse(here / "a.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:PASSWORD}",
        "${oc.env:PASSWORD,nothing}",
        "${oc.${part}:PASSWORD}",
        "${oc.decode:'${oc.env:PASSWORD}'}",
        "${oc.create:{a:'${oc.env:PASSWORD}'}}",
    ],
)
def test_an_environment_variable_that_may_be_a_secret_is_not_read(monkeypatch, text):
    monkeypatch.setenv("PASSWORD", "hush")
    with pytest.raises(ConfigError, match="the environment variable PASSWORD is not read"):
        resolve(Source({"part": "env", "name": text}))


def test_stated_environment_variables_are_read_and_omegaconf_is_left_as_it_was(monkeypatch):
    from omegaconf import OmegaConf

    monkeypatch.setenv("MSD_DATA", "/data")
    monkeypatch.setenv("PASSWORD", "hush")
    assert resolve(Source({"a": "${oc.env:MSD_DATA}/x", "b": "${oc.env:MSD_NONE,2}"})).values == {"a": "/data/x", "b": "2"}
    assert OmegaConf.create({"a": "${oc.env:PASSWORD}"}).a == "hush"


@pytest.mark.parametrize("kind", ["pipe", "text", "nul", "folder", "bomb"])
def test_a_file_that_is_no_image_is_told(here, kind, monkeypatch):
    path = here / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "text":
        path.write_text("<html>")
    if kind == "folder":
        path.mkdir()
    if kind == "bomb":
        monkeypatch.setattr("msd_framework.data.processors.images.MAX_PIXELS", 100)
        Image.new("RGB", (200, 200)).save(path)
    with pytest.raises(DataError):
        read_image(Path("a\0.png") if kind == "nul" else path)


def page(inputs: dict[str, str], pictures: list[str]) -> str:
    example = {"id": "<i>1", "label": 0, "scores": {"drop": {"text": 1.0, "image": 0.0}}, "inputs": inputs, "facts": {"<b>": "<u>"}}
    found = {"split": "<s>", "picked_by": "drop", "picked": {"text": [example]}, "modalities": ["text", "image"]}
    return gallery("<run>", {**found, "pictures": pictures})


def test_the_gallery_shows_what_the_run_reads_as_a_picture_and_no_path_in_a_text(here):
    Image.new("RGB", (4, 4)).save(here / "secret.png")
    secret = str(here / "secret.png")
    assert "data:image/png" in page({"image": secret, "text": "hello"}, ["image"])
    shown = page({"text": secret, "image": "none.png"}, ["image"])
    assert "data:image/png" not in shown
    assert "secret.png" in shown


def test_the_gallery_shows_markup_as_text():
    shown = page({"text": "<script>alert(1)</script>", "image": "a\0b"}, ["image"])
    for tag in ("<script", "<i>", "<u>", "<b>", "<s>", "<run>"):
        assert tag not in shown


@pytest.mark.parametrize("relative", ["../secret.png", "/etc/passwd", "link.png", "folder/../../secret.png", "a\0.png"])
def test_a_path_in_data_stays_in_its_folder(here, relative):
    from msd_framework.data.files import inside

    (here / "root" / "folder").mkdir(parents=True)
    (here / "secret.png").touch()
    (here / "root" / "link.png").symlink_to(here / "secret.png")
    with pytest.raises(DataError):
        inside(here / "root", relative)


def test_every_call_of_transformers_says_that_no_code_of_others_is_run():
    lacking = []
    for file in Path(msd_framework.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            owner = ast.unparse(call.func.value)
            if call.func.attr in ("from_pretrained", "from_config") and owner.startswith("Auto"):
                given = {k.arg: k.value for k in call.keywords}
                value = given.get("trust_remote_code")
                if not (isinstance(value, ast.Constant) and value.value is False):
                    lacking.append(f"{file.name}:{call.lineno}")
    assert lacking == []


@pytest.mark.parametrize("own", ["config.json", "tokenizer_config.json"])
def test_code_that_a_folder_of_transformers_brings_is_not_run(here, own):
    from msd_framework.models.pretrained.transformers import load_published

    (here / "m").mkdir()
    (here / "m" / "evil.py").write_text(f"open({MARK!r}, 'w')\n")
    names = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.T", "evil.T"]}
    (here / "m" / own).write_text(json.dumps({"model_type": "mine", "tokenizer_class": "T", "auto_map": names}))
    torch.save({}, here / "m" / "pytorch_model.bin")
    if own == "config.json":
        with pytest.raises(ValueError, match=r"needs code of its own \(auto_map\), which is never run"):
            load_published(str(here / "m"))
    else:
        from msd_framework.data.processors.text import Tokenizer

        with pytest.raises(DataError, match="no tokenizer can be loaded"):
            Tokenizer(name=str(here / "m")).fit(["a"])


def test_an_id_of_a_word_that_no_vocabulary_has_is_told_before_an_embedding_is_made(here):
    from msd_framework.data.processors.text import Tokenizer
    from msd_framework.data.processors.vectors import TokenIds

    with pytest.raises(DataError, match=r"has the id 2,147,483,648, wanted ids of words below 16,777,216"):
        TokenIds().fit([[1, 2**31]])
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "[PAD]": 1, "a": 2**31}, "unk_token": "[UNK]"}
    (here / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    with pytest.raises(DataError, match=r"tokenizer\.json: has the id 2,147,483,648, wanted ids of tokens below"):
        Tokenizer(name=str(here)).fit(["a"])


def test_numbers_of_a_run_that_are_not_utf8_or_json_are_told_with_their_line(here):
    from msd_framework.analysis.study.trajectory import weight_trajectories

    (here / "metrics.jsonl").write_bytes(b'{"update": 1}\n{"update"')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: is not JSON"):
        weight_trajectories(here)
    (here / "metrics.jsonl").write_bytes(b'{"update": "\xff"}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: is not UTF-8"):
        weight_trajectories(here)


@pytest.mark.parametrize("key", ["feature_size", "depths", "precision", "images", "slots", "shards", "boxes"])
@pytest.mark.parametrize("value", [None, "text", -1, 10**30, [["a"]], "delete"])
def test_an_edited_card_of_a_store_of_features_is_told(here, key, value):
    from msd_framework.array_files import digest
    from msd_framework.data.regions.store import CARD, FeatureStore
    from tests.unit.data.regions.test_feature_readers import IMAGES, write_store

    store = Path(write_store(here, IMAGES))
    card = json.loads((store / CARD).read_text())
    card.pop("sha256")
    card.pop(key) if value == "delete" else card.update({key: value})
    (store / CARD).write_text(json.dumps({**card, "sha256": digest(card)}))
    with pytest.raises(DataError):
        FeatureStore(store)


@pytest.mark.parametrize("key", ["parts", "notes", "layout", "created", "fingerprint"])
@pytest.mark.parametrize("value", [None, [], "delete"])
def test_an_edited_card_of_a_teacher_cache_is_told(here, key, value):
    from msd_framework.array_files import digest
    from msd_framework.errors import CacheError
    from msd_framework.teachers.store import CARD, FORMAT, Card

    layout = {"views": ["full"], "num_classes": 2, "summary_size": None}
    values = {"format": FORMAT, "fingerprint": "x", "parts": {}, "notes": {}, "layout": layout, "created": "now"}
    values.pop(key) if value == "delete" else values.update({key: value})
    (here / "x").mkdir()
    (here / "x" / CARD).write_text(json.dumps({**values, "sha256": digest(values)}))
    with pytest.raises(CacheError):
        Card.read(here / "x")
