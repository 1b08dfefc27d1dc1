"""What a program imports from the package: models that predict rows in memory, runs of a dict, parts for a loop of one's own."""

from __future__ import annotations

import ast
import csv
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

import msd_framework
from msd_framework import ConfigError, DataError, MSDError, check, components, load, run
from msd_framework.build.facts import RunFacts
from msd_framework.build.run import build
from msd_framework.checks.run import checked
from msd_framework.config.load import load as load_config
from msd_framework.data.sets.hateful_memes import HatefulMemes
from msd_framework.engine import checkpoint
from msd_framework.engine.distributed import World
from msd_framework.errors import CheckpointError
from msd_framework.maskers.base import MASKERS

ROOT = Path(__file__).parents[2]
VIEWS = ["full", "image", "text"]


def rows_of(world: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a split of `tiny_world`, as its data set hands them out."""
    lines = [json.loads(line) for line in (world / f"{split}.jsonl").read_text().splitlines()]
    return [{"id": line["id"], "text": line["text"], "image": world / line["img"]} for line in lines]


def written(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def assert_equal_to_file(found: dict[str, Any], file: Path, class_names: tuple[str, ...]) -> None:
    """Predictions are those that the run has written, with six decimals; empty where a view shows nothing."""
    table = written(file)
    for view, predictions in found.items():
        at = "" if view == "full" else f"{view}/"
        for i, row in enumerate(table):
            if not predictions.shown[i]:
                assert (row[f"{at}prediction"], predictions.classes[i]) == ("", None)
                assert predictions.logits[i].isnan().all()
                continue
            names = predictions.classes[i]
            assert row[f"{at}prediction"] == (";".join(names) if isinstance(names, list) else names)
            wanted = torch.tensor([float(row[f"{at}{name}"]) for name in class_names])
            torch.testing.assert_close(predictions.probabilities[i], wanted, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def runs(tiny_config, tmp_path_factory) -> Any:
    """Finished runs on `tiny_world` by their masker, each trained once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def finished(masker: str) -> Path:
        if masker not in made:
            made[masker] = folder / masker
            spec = {"type": "by_modality", "maskers": {"image": "mean", "text": "drop"}} if masker == "mean" else masker
            run(tiny_config, {"env.save_dir": made[masker], "evaluation.masker": spec, "evaluation.views": VIEWS})
        return made[masker]

    return finished


@pytest.fixture(scope="module")
def finished(runs) -> Path:
    return runs("drop")


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of a finished run, to be edited."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))


# ---- predictions ----


@pytest.mark.parametrize("masker", ["drop", "attention", "constant", "mean", "noise", "other"])
def test_rows_are_predicted_as_the_run_has_written(runs, tiny_world, masker):
    model = load(runs(masker), device="cpu")
    found = model.predict(rows_of(tiny_world, "test_seen"), views=VIEWS)
    assert list(found) == VIEWS
    assert_equal_to_file(found, runs(masker) / "predictions_test_seen.csv", model.class_names)


def test_rows_are_predicted_alike_in_batches_of_any_size_and_from_a_checkpoint_alone(finished, tiny_world):
    rows = rows_of(tiny_world, "test_seen")
    wanted = load(finished, device="cpu").predict(rows, views=VIEWS)
    one_checkpoint = load(finished / "checkpoints" / "best", device="cpu")
    for found in (one_checkpoint.predict(rows, VIEWS), one_checkpoint.predict(rows, VIEWS, batch_size=5)):
        for view in VIEWS:
            torch.testing.assert_close(found[view].logits, wanted[view].logits, atol=1e-6, rtol=0)


def test_images_in_memory_and_a_single_row_are_predicted_as_files(finished, tiny_world):
    model, rows = load(finished, device="cpu"), rows_of(tiny_world, "test_seen")
    wanted = model.predict(rows)["full"].logits
    opened = [{**row, "image": Image.open(row["image"])} for row in rows]
    arrays = [{**row, "image": np.asarray(Image.open(row["image"]))} for row in rows]
    assert torch.equal(model.predict(opened)["full"].logits, wanted)
    assert torch.equal(model.predict(arrays)["full"].logits, wanted)
    torch.testing.assert_close(model.predict(rows[3])["full"].logits, wanted[3:4], atol=1e-6, rtol=0)


class Frame:
    """What of pandas' DataFrame is asked for."""

    def __init__(self, records):
        self.records, self.columns = records, list(records[0])

    @property
    def iloc(self):
        return [Row(record) for record in self.records]

    def to_dict(self, orient):
        assert orient == "records"
        return self.records


class Row:
    """What of pandas' Series is asked for, as a row of a DataFrame is one."""

    iloc = None

    def __init__(self, record):
        self.record = record

    def to_dict(self):
        return self.record


def test_a_data_frame_is_its_records_in_which_nan_stands_for_nothing(finished, tiny_world):
    model, rows = load(finished, device="cpu"), rows_of(tiny_world, "test_seen")
    records = [{**row, "label": 0} for row in rows]
    assert torch.equal(model.predict(Frame(records))["full"].logits, model.predict(rows)["full"].logits)
    rows[0]["image"] = None
    wanted = model.predict(rows)["full"].logits
    for nothing in (float("nan"), np.float32("nan"), np.float64("nan")):
        records[0]["image"] = nothing
        assert torch.equal(model.predict(Frame(records))["full"].logits, wanted)


def test_a_row_of_a_data_frame_is_a_single_row(finished, tiny_world):
    model, rows = load(finished, device="cpu"), rows_of(tiny_world, "test_seen")
    assert torch.equal(model.predict(Frame(rows).iloc[3])["full"].logits, model.predict(rows[3])["full"].logits)


def test_the_examples_of_a_data_set_are_rows(finished, tiny_world):
    dataset, model = HatefulMemes("test_seen", str(tiny_world)), load(finished, device="cpu")
    wanted = model.predict(rows_of(tiny_world, "test_seen"))["full"].logits
    assert torch.equal(model.predict([dataset[i] for i in range(len(dataset))])["full"].logits, wanted)


def test_a_batch_holds_the_targets_that_it_is_given_and_one_for_each_row(finished, tiny_world):
    model, rows = load(finished, device="cpu"), rows_of(tiny_world, "test_seen")
    batch = model.batch(rows, targets=[i % 2 for i in range(12)])
    assert batch.targets.tolist() == [i % 2 for i in range(12)]
    assert torch.equal(model.model(batch.inputs).logits, model.predict(rows)["full"].logits)
    with pytest.raises(DataError, match="there are 12 rows and 3 targets, wanted one for each row"):
        model.batch(rows, targets=[0, 1, 0])


def test_a_model_that_was_put_into_training_predicts_in_eval_mode(finished, tiny_world):
    model, rows = load(finished, device="cpu"), rows_of(tiny_world, "test_seen")
    wanted = model.predict(rows)["full"].logits
    model.model.train()
    assert torch.equal(model.predict(rows)["full"].logits, wanted)


def test_to_predict_leaves_model_and_masker_in_the_modes_that_they_were_in(finished, tiny_world):
    model, rows = load(finished, device="cpu"), rows_of(tiny_world, "test_seen")
    model.model.train()
    model.masker.train()
    frozen = next(model.model.children()).eval()
    modes = [part.training for part in model.model.modules()]
    model.predict(rows, VIEWS)
    assert [part.training for part in model.model.modules()] == modes
    assert model.model.training
    assert not frozen.training
    assert model.masker.training
    with pytest.raises(DataError):
        model.predict([*rows[:2], {"text": 3, "image": None}], batch_size=1)
    assert [part.training for part in model.model.modules()] == modes


TABLE = """\
data:
  dataset: {type: jsonl, root: ROOT, texts: {text: words}, images: {image: photo}, label: label, task: TASK, classes: [a, b, c]}
  processors: {text: {type: tokenizer, max_length: 8}, image: {type: pixels, size: 8}}
  train: train
  test: test
  shared_rows: true
model:
  type: late_fusion
  encoders:
    text: {type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}
    image: {type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}
  hidden_size: 8
training: {max_updates: 2, batch_size: 4}
evaluation: {metrics: [METRIC], views: [full, image, text]}
env: {device: cpu}
"""


@pytest.mark.parametrize(
    ("task", "metric"), [("single_label", "accuracy"), ("multi_label", "f1_micro"), ("soft_target", "vqa_accuracy")]
)
def test_rows_that_lack_a_modality_are_predicted_as_in_the_run_for_every_kind_of_target(tmp_path, task, metric):
    labels = {"single_label": "a", "multi_label": "a|c", "soft_target": {"a": 1.0, "b": 0.3}}
    lines = []
    for i in range(9):
        Image.new("RGB", (8, 8), (25 * i, 90, 90)).save(tmp_path / f"{i}.png")
        photo, words = None if i % 3 == 1 else f"{i}.png", None if i % 3 == 2 else f"what a {i} day"
        lines.append({"words": words, "photo": photo, "label": labels[task]})
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = TABLE.replace("ROOT", str(tmp_path)).replace("TASK", task).replace("METRIC", metric)
    run(yaml.safe_load(text), {"env.save_dir": tmp_path / "run"})
    model = load(tmp_path / "run", device="cpu")
    rows = [{"text": x["words"], "image": x["photo"] and tmp_path / x["photo"]} for x in lines]
    found = model.predict(rows, views=VIEWS)
    assert found["image"].shown.tolist() == [i % 3 != 1 for i in range(9)]
    assert_equal_to_file(found, tmp_path / "run" / "predictions_test.csv", ("a", "b", "c"))
    lean = [{m: value for m, value in row.items() if value is not None} for row in rows]
    assert torch.equal(model.predict(lean)["full"].logits, found["full"].logits)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"txt": "a", "image": None},
            r"^rows\[1\]: has no 'text', only 'txt', 'image'; what a row lacks is None there\. Did you mean 'txt'\?$",
        ),
        ({"caption": "a", "photo": "b"}, r"^rows\[1\]: has no 'image', only 'caption', 'photo'; what a row lacks is None there\.$"),
        ({"id": 3}, r"^rows\[1\]: has no 'image', only 'id'; what a row lacks is None there\.$"),
        ("a text", r"^rows\[1\]: is a str, wanted a dict such as \{'image': \.\.\., 'text': \.\.\.\}$"),
        ({"text": None, "image": None}, r"^rows\[1\]: the example '1' has no image and text, and nothing else"),
        ({"text": 3, "image": None}, r"^rows\[1\]: text: wanted a text, got 3 \(int\)$"),
        ({"text": "a", "image": "gone.png"}, r"^rows\[1\]: image: gone.png: no such image file"),
        ({"text": "a", "image": np.zeros((2, 2))}, r"^rows\[1\]: image: an image is an array of float64 \[2, 2\], wanted uint8"),
    ],
)
def test_a_wrong_row_is_a_sentence_with_its_place_and_the_nearest_key(finished, tiny_world, row, sentence):
    rows = rows_of(tiny_world, "test_seen")
    with pytest.raises(DataError, match=sentence) as error:
        load(finished, device="cpu").predict([rows[0], row, rows[1]])
    assert len(str(error.value).splitlines()) == 1


class Schema:
    """An object with a `to_dict` that is no table."""

    def to_dict(self):
        return {"text": "a"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([], "full"), "there are no rows to predict"),
        (([{"text": "a"}], []), r"^views: wanted names of views, such as \['full'\], got \[\]\.$"),
        (([{"text": "a"}], [3]), r"^views: wanted names of views, such as \['full'\], got \[3\]\.$"),
        (([{"text": "a"}], "full", 0), r"^batch_size: wanted a whole number above 0, got 0\.$"),
        (([{"text": "a"}], "full", -4), r"^batch_size: wanted a whole number above 0, got -4\.$"),
        (([{"text": "a"}], "full", 2.5), r"^batch_size: wanted a whole number above 0, got 2\.5\.$"),
        ((Schema(), "full"), "^rows is a Schema, wanted a dict, a list of them, or a DataFrame$"),
        (("rows.csv", "full"), "rows is a str, wanted a dict, a list of them, or a DataFrame"),
        (
            ([{"text": "a"}], "imge"),
            r"views: view 'imge' names 'imge', which is not one of the modalities image, text\. Did you mean 'image'\?",
        ),
        (([{"text": "a"}], ["full", "~image+text"]), "views: view '~image.text' hides every modality"),
    ],
)
def test_a_wrong_question_is_a_sentence(finished, arguments, sentence):
    with pytest.raises(MSDError, match=sentence):
        load(finished, device="cpu").predict(*arguments)


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ([7], r"^targets\[0\]: is 7, wanted a class from 0 to 1, or None$"),
        ([-1], r"^targets\[0\]: is -1, wanted a class from 0 to 1, or None$"),
        ([1.0], r"^targets\[0\]: is 1\.0, wanted a class from 0 to 1, or None$"),
        (["1"], r"^targets\[0\]: is '1', wanted a class from 0 to 1, or None$"),
        (torch.tensor([[0.5, 0.5]]), r"^targets\[0\]: is \[0\.5, 0\.5\], wanted a class from 0 to 1, or None$"),
        ("1", "^targets is a str, wanted a list of one for each row$"),
        (1, "^targets is a int, wanted a list of one for each row$"),
    ],
)
def test_a_wrong_target_is_a_sentence(finished, targets, sentence):
    with pytest.raises(DataError, match=sentence):
        load(finished, device="cpu").batch({"text": "a", "image": None}, targets)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda numbers: [torch.tensor(number) for number in numbers]])
def test_targets_are_numbers_in_a_list_an_array_or_a_tensor(finished, tiny_world, kind):
    targets = load(finished, device="cpu").batch(rows_of(tiny_world, "test_seen"), kind([1, 0] * 6)).targets
    assert (targets.tolist(), targets.dtype) == ([1, 0] * 6, torch.int64)


def test_a_batch_of_no_rows_is_a_sentence(finished):
    with pytest.raises(DataError, match=r"^there are no rows, wanted at least one$"):
        load(finished, device="cpu").batch([])


def test_whatever_a_processor_raises_of_a_row_is_a_sentence_with_its_place(finished, tiny_world, monkeypatch):
    model, rows = load(finished, device="cpu"), rows_of(tiny_world, "test_seen")

    def fail(*arguments):
        raise TypeError("not\nthis")

    class Opaque:
        pass

    sentence = r"^rows\[1\]: image: a Opaque cannot be read \(TypeError: not this\)$"
    monkeypatch.setattr(model.processors["image"], "load", fail)
    monkeypatch.setattr(model.processors["image"], "is_there", fail)
    for ask in (model.predict, model.batch):
        with pytest.raises(DataError, match=sentence):
            ask([{**rows[0], "image": None}, {**rows[1], "image": Opaque()}])


def test_a_device_that_is_not_there_is_a_sentence(finished):
    for other in ("meta", "mps", torch.device("meta")):
        with pytest.raises(
            ConfigError, match=r"^device: (meta|mps) cannot be used: models are run on cpu and cuda alone\. Take cpu, or auto\.$"
        ):
            load(finished, device=other)
    with pytest.raises(ConfigError, match=r"^device: None cannot be used: .*\. Take cpu, or auto\.$"):
        load(finished, device=None)
    with pytest.raises(ConfigError, match=r"^device: cuda:99 cannot be used: .*\. Take cpu, or auto\.$"):
        load(finished, device="cuda:99")
    with pytest.raises(ConfigError, match=r"^device: gpu cannot be used: .*\. Take cpu, or auto\.$"):
        load(finished, device="gpu")


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_a_folder_that_is_no_run_is_a_sentence(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="wanted the folder of a finished run, or one of its checkpoints"):
        load(tmp_path / name)


# ---- folders of strangers ----


def edit_json(file: Path, change: Any) -> None:
    """Edits a file of a checkpoint, and the hash that was written with it."""
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))
    listed = json.loads((file.parent / "files.json").read_text())
    listed["sha256"][file.name] = checkpoint._sha256(file)
    (file.parent / "files.json").write_text(json.dumps(listed))


@pytest.fixture
def traces(tmp_path, monkeypatch) -> Path:
    """A file that a stranger's module would write if it were imported."""
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\nclass Thing: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "trace"


def name_a_class(card: dict[str, Any]) -> None:
    card["model"] = card["rebuild"] = {"type": "stranger.Thing"}


def name_a_processor(card: dict[str, Any]) -> None:
    card["processors"]["text"]["spec"] = "stranger.Thing"


@pytest.mark.parametrize("change", [name_a_class, name_a_processor])
def test_a_card_that_names_code_is_refused_and_nothing_is_imported(copied, traces, change):
    edit_json(checkpoint.find_checkpoint(copied) / "card.json", change)
    sentence = (
        r"'stranger.Thing', which is code and no registered component.* allow it: load\(\.\.\., allow=\['stranger.Thing'\]\)\.$"
    )
    with pytest.raises(CheckpointError, match=sentence):
        load(copied)
    assert not traces.exists()


def test_a_class_that_is_allowed_is_imported_whether_it_is_named_alone_or_in_a_list(copied, traces):
    edit_json(checkpoint.find_checkpoint(copied) / "card.json", name_a_class)
    for allow in ("stranger.Thing", ["stranger.Thing"]):
        with pytest.raises(CheckpointError, match=r"stranger\.Thing is no model"):
            load(copied, allow=allow)
        assert traces.exists()
        traces.unlink()
        del sys.modules["stranger"]


@pytest.mark.parametrize(
    "lines", ["masker: stranger.Thing", "masker: {type: by_modality, maskers: {text: stranger.Thing}}", "imports: [stranger]"]
)
def test_a_configuration_that_names_code_imports_nothing(copied, traces, lines):
    config = copied / "config.yaml"
    values = yaml.safe_load(config.read_text()) | yaml.safe_load(lines)
    config.write_text(yaml.safe_dump(values))
    if "masker" in lines:
        with pytest.raises(CheckpointError, match=r"masker of its config.yaml names 'stranger\.Thing', which is code"):
            load(copied)
    else:
        load(copied, device="cpu")
    assert not traces.exists()


def test_a_pickle_in_place_of_weights_is_never_opened(copied):
    found = checkpoint.find_checkpoint(copied)
    torch.save({"weights": torch.ones(2)}, found / "model.safetensors")
    edit_json(found / "card.json", lambda card: None)
    listed = json.loads((found / "files.json").read_text())
    listed["sha256"]["model.safetensors"] = checkpoint._sha256(found / "model.safetensors")
    (found / "files.json").write_text(json.dumps(listed))
    with pytest.raises(CheckpointError, match=r"model.safetensors: is damaged"):
        load(copied)


def enlarge(card: dict[str, Any]) -> None:
    card["rebuild"]["hidden_size"] = 2**40


def rename_classes(card: dict[str, Any]) -> None:
    card["facts"]["class_names"] = ["only one"]


def break_processor(card: dict[str, Any]) -> None:
    card["processors"]["image"]["spec"] = {"type": "pixels", "size": -1}


def change_processor(card: dict[str, Any]) -> None:
    card["processors"]["image"]["spec"] = {"type": "pixels", "size": 16}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (enlarge, "hidden_size is 1099511627776, more than any model has"),
        (rename_classes, "its card.json describes another model than it rebuilds"),
        (break_processor, "its processor of image cannot be made: .*size"),
        (change_processor, "its processor of image makes other tensors than it was trained on"),
    ],
)
def test_a_card_that_was_edited_is_a_sentence(copied, change, sentence):
    edit_json(checkpoint.find_checkpoint(copied) / "card.json", change)
    with pytest.raises(CheckpointError, match=sentence):
        load(copied)


@pytest.mark.parametrize("precision", ["fp7", 3, {"name": ["fp32"], "line": ""}, {"name": "fp7", "line": ""}])
def test_a_precision_that_was_edited_is_a_sentence(copied, precision):
    config = copied / "config.yaml"
    values = yaml.safe_load(config.read_text())
    values["training"]["precision"] = "auto"
    config.write_text(yaml.safe_dump(values))
    edit_json(checkpoint.find_checkpoint(copied) / "state.json", lambda state: state.update(precision=precision))
    with pytest.raises(CheckpointError, match=r"state.json: its precision is .*, wanted one of fp32, medium, bf16, fp16"):
        load(copied)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "config.yaml: is missing, which says how views hide a modality; copy the whole folder"),
        ("- a\n", "config.yaml: cannot be read: .*wanted a mapping"),
        ("model: {type: late_fusion}\n", "config.yaml: is not that of a run of this version: data: must be given"),
        ("masker: {type: noise, size: 3}\n", "masker of its config.yaml cannot be made: masker.size"),
        ("masker: nothing\n", "masker of its config.yaml cannot be made: .*nothing"),
        ("evaluation: {batch_size: 0}\n", r"config.yaml: evaluation.batch_size must be above 0, got 0\.$"),
    ],
)
def test_a_configuration_that_is_gone_or_damaged_is_a_sentence(copied, text, sentence):
    config = copied / "config.yaml"
    whole = yaml.safe_load(config.read_text())
    config.unlink()
    if text is not None:
        config.write_text(yaml.safe_dump(whole | yaml.safe_load(text)) if text.startswith(("masker", "evaluation")) else text)
    with pytest.raises(CheckpointError, match=sentence):
        load(copied)


def test_a_masker_whose_statistics_are_not_in_the_checkpoint_is_a_sentence(copied):
    config = copied / "config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"evaluation": {"masker": "mean"}}))
    with pytest.raises(CheckpointError, match="learns from the training examples, and nothing that it learned"):
        load(copied)


# ---- runs ----


def test_a_run_of_a_dict_is_the_run_of_its_file(tiny_config, tiny_teacher, tmp_path):
    values = OmegaConf.create(yaml.safe_load(tiny_config.read_text()))
    report = run(values, {"env": {"save_dir": tmp_path / "run"}})
    assert report["metrics"] == json.loads((tiny_teacher / "report.json").read_text())["metrics"]
    mine, theirs = (checkpoint.read(checkpoint.find_checkpoint(f)).model for f in (tmp_path / "run", tiny_teacher))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_check_tells_every_problem_and_trains_nothing(tiny_config, tmp_path):
    overrides = {"env.save_dir": tmp_path / "run"}
    assert check(tiny_config, overrides) is None
    with pytest.raises(ConfigError) as error:
        check(tiny_config, {**overrides, "model.hiden_size": 8, "training.max_updates": -1})
    assert {problem.path.split(": ")[-1] for problem in error.value.problems} == {"model.hiden_size", "training.max_updates"}
    assert not (tmp_path / "run").exists()


def test_components_are_what_the_command_shows(capsys):
    from msd_framework.cli import main

    for words in ([], ["maskers"], ["maskers", "noise"]):
        assert main(["components", *words]) == 0
        assert capsys.readouterr().out.strip() == components(*words).strip()


FIRST = "from msd_framework import {name}"
SECOND = "from {home} import {function} as function; import msd_framework.{name} as module"
SAME = "import inspect, msd_framework; assert msd_framework.{name} is module is {name}; "
SAME += "assert inspect.signature({name}) == inspect.signature(function)"
CALLED = [("components", "msd_framework.commands.components", "show_components"), ("run", "msd_framework.run", "run")]


def test_a_function_and_a_module_of_one_name_are_both_had_in_any_order():
    """Both orders in one process, which forgets the package in between and keeps what that has imported."""
    lines = ["import sys"]
    for order in ((FIRST, SECOND), (SECOND, FIRST)):
        for name, home, function in CALLED:
            lines += ["; ".join([*order, SAME]).format(name=name, home=home, function=function)]
        lines += ["for name in [n for n in sys.modules if n.startswith('msd_framework')]: del sys.modules[name]"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_the_function_of_the_module_is_the_one_that_is_called(monkeypatch):
    import msd_framework.run

    monkeypatch.setattr(msd_framework.run, "run", lambda config, overrides=(): (config, overrides))
    assert msd_framework.run("a.yaml", ["b=1"]) == ("a.yaml", ["b=1"])


# ---- names ----


def test_every_name_is_there_and_type_checkers_see_the_same_ones():
    assert set(msd_framework.__all__) <= set(dir(msd_framework))
    assert all(getattr(msd_framework, name) is not None for name in msd_framework.__all__)
    tree = ast.parse(inspect.getsource(msd_framework))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname}
    assert typed | {"components"} == set(msd_framework.__all__)


@pytest.mark.parametrize(
    "kind",
    ["objectives", "maskers", "task_losses", "distillation_losses", "feature_losses", "saliencies", "weightings", "modulations"],
)
def test_every_part_of_a_loss_is_there_by_name(kind):
    from msd_framework.registry import REGISTRIES

    for name in REGISTRIES[kind].names():
        cls = REGISTRIES[kind].get(name)
        if cls.__module__.startswith("msd_framework."):
            assert getattr(msd_framework, cls.__name__) is cls


def test_a_name_that_is_not_there_is_an_error_of_python():
    with pytest.raises(AttributeError, match="has no attribute 'Distillation'"):
        msd_framework.Distillation  # noqa: B018
    with pytest.raises(ImportError):
        from msd_framework import Distillation  # noqa: F401


def test_the_masker_of_a_run_is_a_registered_one(finished):
    assert MASKERS.name_of(load(finished, device="cpu").masker) == "drop"


# ---- pages ----


def code_of(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def beside_a_teacher(tiny_teacher, tmp_path, monkeypatch) -> Path:
    """A folder to work in with a finished run in `runs/teacher`."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "teacher").symlink_to(tiny_teacher)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def test_the_page_can_be_followed(beside_a_teacher, tiny_config, capsys):
    blocks = code_of("docs/python.md")
    assert len(blocks) == 2
    (beside_a_teacher / "img").mkdir()
    Image.new("RGB", (8, 8)).save("img/01.png")
    shutil.copy(tiny_config, "student.yaml")
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)  # noqa: S102
    assert names["answers"]["image"].shown.tolist() == [True, False]
    assert names["report"]["name"] == "mine"
    assert "standard_deviation" in capsys.readouterr().out


def test_the_lines_of_the_readme_can_be_followed(beside_a_teacher, tiny_world, tiny_config, monkeypatch):
    (code,) = code_of("README.md")
    assert len(code.splitlines()) <= 7
    (beside_a_teacher / "img").symlink_to(tiny_world / "img")
    code = code.replace("projects/quickstart/configs/teacher.yaml", str(tiny_config)).replace("data/cards", str(tiny_world))
    code = code.replace("img/01.png", "img/0001.png").replace("runs/teacher", "runs/mine")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    assert list(names["answers"]) == ["full", "image", "text"]


@pytest.mark.filterwarnings("ignore")  # of other libraries, about loggers, workers and what they will change
@pytest.mark.parametrize(
    ("page", "packages", "options"),
    [
        ("own_loop", [], {"distill_loss": {"type": "kl", "temperature": 2.0}}),
        ("lightning", ["lightning"], {}),
        ("accelerate", ["accelerate"], {}),
        ("trainer", ["transformers", "accelerate"], {}),
    ],
)
def test_a_page_trains_a_student_by_the_loss_of_a_run(beside_a_teacher, tiny_config, page, packages, options):
    for package in packages:
        pytest.importorskip(package)
    (code,) = code_of(f"docs/{page}.md")
    assert len(code.splitlines()) < 40
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "page"}
    exec(code, names)  # noqa: S102
    losses, fifth = names["losses"], len(names["losses"]) // 5
    assert sum(losses[-fifth:]) < 0.8 * sum(losses[:fifth])
    batch = names["teacher"].batch(names["rows"], [row["label"] for row in names["rows"]])
    # a run of the same parts, with a student of the same weights
    values = {
        "env.save_dir": "runs/student",
        "model.hidden_size": 16,
        "teacher.checkpoint": "runs/teacher",
        "objective": {"type": "distillation", "views": VIEWS, **options},
    }
    built = build(RunFacts(checked(load_config(tiny_config, values))), World())
    built.model.load_state_dict(names["student"].state_dict())
    # the page's schedule has ended, at what a run without one has all along
    wanted = built.training.objective.eval()(batch).loss
    torch.testing.assert_close(names["objective"].eval()(batch).loss, wanted)
