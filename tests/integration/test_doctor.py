"""``msd doctor``: every fault that is planted in a pair is found, and a healthy pair ends in OK."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from msd_framework.cli import main
from msd_framework.commands import doctor
from msd_framework.commands.doctor import DoctorConfig
from msd_framework.engine.checkpoint import _sha256, find_checkpoint
from msd_framework.errors import ConfigError
from msd_framework.maskers.base import Masker
from msd_framework.models.late_fusion import LateFusion
from msd_framework.run import run
from msd_framework.structures import Inputs, ModalityInputs, ModelOutput
from tests.conftest import TINY_RUN
from tests.integration.test_docs import ROOT, blocks
from tests.runs import started_together

HERE = "tests.integration.test_doctor"
ROWS = 48


class Blind(LateFusion):
    """Looks at no image."""

    def forward(self, inputs: Inputs) -> ModelOutput:
        return super().forward({m: x for m, x in inputs.items() if m != "image"})

    def forward_views(self, views: Sequence[Inputs]) -> ModelOutput:
        return super().forward_views([{m: x for m, x in view.items() if m != "image"} or view for view in views])


class Restless(LateFusion):
    """Stays in training mode, whatever it is told."""

    def train(self, mode: bool = True) -> Restless:
        super().train(True)
        return self


class Noisy(LateFusion):
    """Adds noise in eval mode."""

    def classify(self, summary: Tensor) -> Tensor:
        return super().classify(summary + 0.1 * torch.randn_like(summary))


class HalfMasker(Masker):
    """Hides half of it."""

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        mask = inputs.mask.clone()
        mask[:, ::2] &= inputs.special[:, ::2]
        shown = inputs.values if modality == "text" else inputs.values * 0.5
        return ModalityInputs(shown, mask if modality == "text" else inputs.mask, inputs.extras)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """A run whose label the image shows, and the text in two rows of three."""
    from PIL import Image

    root = tmp_path_factory.mktemp("pair") / "world"
    (root / "img").mkdir(parents=True)
    for s, split in enumerate(("train", "dev_seen", "test_seen")):
        rows = [
            {
                "id": f"{s}{i:03}",
                "img": f"img/{s}{i:03}.png",
                "label": i % 2,
                "text": f"{('no', 'yes', 'so')[2 if i % 3 else i % 2]} {i}",
            }
            for i in range(ROWS)
        ]
        for i, row in enumerate(rows):
            Image.new("RGB", (8, 8), (5 * i, 200 * (i % 2), 90)).save(root / row["img"])
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = root.parent / "pair.yaml"
    text = TINY_RUN.replace("WORLD", str(root)).replace("max_updates: 2, batch_size: 4", "max_updates: 30, batch_size: 16")
    path.write_text(text + "optimizer: {lr: 1.0e-2}\nevaluation: {every_updates: 30}\n")
    return path


@pytest.fixture(scope="module")
def teacher(config) -> Path:
    folder = config.parent / "teacher"
    run(config, [f"env.save_dir={folder}", "model.hidden_size=12"])
    return folder


def taught(teacher: Path, folder: Path, *more: str) -> list[str]:
    objective = "objective={type: distillation, views: [full, image, text]}"
    return [objective, f"teacher.checkpoint={teacher}", f"data.processors_from={teacher}", f"env.save_dir={folder}", *more]


def diagnosis(config: Path, words: Sequence[str], out: Path) -> dict[str, Any]:
    """What the doctor writes, which must be what it returns."""
    code = doctor.main([f"config={config}", *words, f"out={out}"])
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["ok"] is (code == 0)
    return found


def faults(found: dict[str, Any]) -> list[str]:
    return [f["sentence"] for f in found["findings"] if f["is_fault"]]


def changed(teacher: Path, folder: Path, file: str, change: Callable[[Path], None]) -> Path:
    """A copy of a run with a file of its best checkpoint changed, as if it had been written so."""
    shutil.copytree(teacher, folder, symlinks=True)
    best = find_checkpoint(folder)
    change(best / file)
    listed = json.loads((best / "files.json").read_text())
    listed["sha256"][file] = _sha256(best / file)
    (best / "files.json").write_text(json.dumps(listed))
    return folder


def weights_changed(teacher: Path, folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    def write(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file({k: t.contiguous() for k, t in tensors.items()}, path)

    return changed(teacher, folder, "model.safetensors", write)


def card_changed(teacher: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    def write(path: Path) -> None:
        card = json.loads(path.read_text())
        change(card)
        path.write_text(json.dumps(card))

    return changed(teacher, folder, "card.json", write)


def rebuilt_as(name: str) -> Callable[[dict[str, Any]], None]:
    def change(card: dict[str, Any]) -> None:
        card["rebuild"]["type"] = card["model"]["type"] = f"{HERE}.{name}"

    return change


# ---- healthy pairs ----


@pytest.fixture(scope="module")
def healthy(config, teacher, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("healthy")
    return diagnosis(config, taught(teacher, folder / "student"), folder / "out" / "doctor.json")


def test_a_healthy_pair_ends_in_ok_and_exit_0(config, teacher, tmp_path, capsys):
    assert main(["doctor", f"config={config}", *taught(teacher, tmp_path / "student")]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "OK"
    assert (tmp_path / "student" / "doctor.json").is_file()
    assert [p.name for p in (tmp_path / "student").iterdir()] == ["doctor.json"]
    run(config, [*taught(teacher, tmp_path / "student"), "training.max_updates=1"])  # the folder is free for the run


def test_what_is_measured_is_what_is_there(healthy):
    assert (healthy["rows"], healthy["task"]) == (16, "single_label")
    image, text = healthy["shapes"]
    assert (image["modality"], image["values"]) == ("image", [16, 3, 8, 8])
    assert (text["special"], text["most"]) == (2, 2)
    student, teacher = healthy["models"]
    assert (student["who"], teacher["who"]) == ("student", "teacher")
    assert (teacher["trained"], teacher["logits"], teacher["repeats"]) == (0, [16, 2], 0)
    assert {e["modality"] for e in student["effects"]} == {"image", "text"}
    assert all(e["swap"] > 0 and e["leak"] == 0 for m in healthy["models"] for e in m["effects"])
    assert healthy["classes"] == "2, of the same names in the same order for all"
    assert healthy["step"]["teacher_seconds"] > 0
    assert healthy["step"]["activations"] > 0


def test_the_teacher_scores_what_its_run_recorded(healthy, teacher):
    (score,) = healthy["scores"]
    recorded = json.loads((teacher / "report.json").read_text())["metrics"]["validation/accuracy"]
    assert score["scores"] == score["recorded"] == {"accuracy": pytest.approx(recorded)}
    assert recorded > 0.9  # so that what follows can be told from chance
    assert (score["rows"], score["of"], score["compared"], score["off"]) == (ROWS, ROWS, ROWS, 0)


def test_a_score_of_some_rows_says_so_and_may_lie_further_off(config, teacher, tmp_path):
    found = diagnosis(config, taught(teacher, tmp_path, "validation_rows=12"), tmp_path / "doctor.json")
    (score,) = found["scores"]
    assert found["ok"]
    assert (score["rows"], score["of"], score["compared"]) == (12, ROWS, 12)
    assert score["allowed"] == pytest.approx(1 / 12 + 0.002 + 1.5 / 12**0.5 * 0.75**0.5)


def test_a_run_without_a_teacher_is_looked_at_as_well(config, tmp_path):
    found = diagnosis(config, [f"env.save_dir={tmp_path}"], tmp_path / "doctor.json")
    assert found["ok"]
    assert [m["who"] for m in found["models"]] == ["student"]
    assert (found["scores"], found["pairs"], found["step"]["teacher_seconds"]) == ([], [], None)
    assert [t["name"] for t in found["terms"]] == ["loss"]


def test_several_teachers_are_looked_at_one_by_one(config, teacher, tmp_path):
    other = weights_changed(teacher, tmp_path / "other", _flip)
    several = [f"teacher.checkpoint=[{teacher}, {other}]"]
    found = diagnosis(config, [*taught(teacher, tmp_path / "student"), *several], tmp_path / "doctor.json")
    assert [m["who"] for m in found["models"]] == ["student", "teacher 1", "teacher 2"]
    assert {f["where"] for f in found["findings"] if f["is_fault"]} == {f"teacher 2 ({other})"}


def test_a_view_of_two_rows_is_measured_as_a_term_and_scored_nowhere(config, teacher, tmp_path):
    words = ["objective={type: distillation, views: [full, image+text*]}", "masker=partial"]
    found = diagnosis(config, taught(teacher, tmp_path, *words), tmp_path / "doctor.json")
    assert found["ok"]
    assert [list(score["right"]) for score in found["scores"]] == [["full"]]
    assert [t["name"] for t in found["terms"]] == ["task", "distill/full", "distill/image+text*"]
    assert [e["leak"] for m in found["models"] for e in m["effects"]] == [None] * 4  # `partial` shows a part on purpose


def test_class_weights_are_counted_as_a_run_counts_them(config, teacher, tmp_path):
    words = ["objective.task_loss={type: cross_entropy, class_weights: balanced}"]
    found = diagnosis(config, taught(teacher, tmp_path, *words), tmp_path / "doctor.json")
    assert found["ok"]


def test_an_average_of_the_student_needs_no_checkpoint(config, tmp_path):
    objective = "objective={type: distillation, views: [full]}"
    found = diagnosis(config, [objective, "teacher={ema: 0.9}", f"env.save_dir={tmp_path}"], tmp_path / "doctor.json")
    assert found["ok"]
    assert found["models"][1]["who"] == "teacher (average of the student)"
    assert found["scores"] == []


def test_features_are_listed_with_their_adaptors(config, teacher, tmp_path, healthy):
    could = {(p["student"], p["adaptor"]) for p in healthy["pairs"] if not p["used"]}
    assert ("image.projected", "linear 8 -> 12") in could
    terms = "objective.features=[{loss: hint, student: image.projected}, {loss: sp, student: text.last.mean, weight: 0.1}]"
    found = diagnosis(config, taught(teacher, tmp_path, terms), tmp_path / "doctor.json")
    assert [(p["student"], p["adaptor"], p["used"]) for p in found["pairs"]] == [
        ("image.projected", "linear 8 -> 12", True),
        ("text.last.mean", "none", True),
    ]
    assert [t["option"] for t in found["terms"][-2:]] == ["objective.features[0].weight", "objective.features[1].weight"]


@pytest.mark.parametrize("only_summaries", [False, True])
def test_cached_answers_are_compared_and_never_filled(config, teacher, tmp_path, only_summaries, monkeypatch):
    if only_summaries:
        monkeypatch.setattr("msd_framework.build.cache_key.LARGE", 1)  # classes beyond which a store keeps no logits
    caches = tmp_path / "caches"
    words = taught(teacher, tmp_path / "student", f"teacher.cache_dir={caches}", "teacher.cache_precision=fp32", "data.test=null")
    found = diagnosis(config, [*words, "teacher.cache=true"], tmp_path / "doctor.json")
    assert found["ok"]
    assert not caches.exists()
    assert len(found["cache"]) == 2
    assert all("is not all there" in line for line in found["cache"])
    caches.mkdir()
    found = diagnosis(config, [*words, "teacher.cache=read"], tmp_path / "doctor.json")
    assert any("holds no answers to the split 'train'" in text for text in faults(found))
    assert main(["cache", "build", f"config={config}", *words]) == 0
    found = diagnosis(config, [*words, "teacher.cache=read"], tmp_path / "doctor.json")
    assert found["ok"]
    assert all("16 rows compared" in line for line in found["cache"])


# ---- planted faults ----


def test_a_student_that_is_blind_to_the_image_is_found(config, teacher, tmp_path, capsys):
    words = taught(teacher, tmp_path, f"model.type={HERE}.Blind", *_same_model())
    assert main(["doctor", f"config={config}", *words, f"out={tmp_path / 'doctor.json'}"]) == 1
    said = capsys.readouterr().out
    assert "fix: student, image: the answers are the same with the image of another row: it is blind to it" in said
    assert re.search(r"^1 to fix, in [\d.]+ s\.$", said, re.MULTILINE)


def test_a_masker_that_leaks_is_found(config, teacher, tmp_path, healthy):
    leaking = diagnosis(config, taught(teacher, tmp_path, f"masker={HERE}.HalfMasker"), tmp_path / "doctor.json")
    # a teacher is scored on the views that a run would measure, whatever it trains on
    assert leaking["scores"][0]["right"] == healthy["scores"][0]["right"]
    found = faults(leaking)
    for who in ("student", "teacher"):
        for modality in ("image", "text"):
            wanted = f"{who}, {modality}: hidden by the masker, its content still changes the answers"
            assert any(text.startswith(wanted) for text in found)


def test_classes_of_other_names_or_in_another_order_are_found(config, teacher, tmp_path):
    other = card_changed(teacher, tmp_path / "other", lambda card: card["facts"]["class_names"].reverse())
    (text,) = faults(diagnosis(config, taught(other, tmp_path / "student"), tmp_path / "doctor.json"))
    assert "the teacher's classes are hateful, benign and the data set's benign, hateful" in text


def _flip(weights: dict[str, Tensor]) -> None:
    for name in ("classifier.4.weight", "classifier.4.bias"):
        weights[name] = weights[name].flip(0)


def test_outputs_in_another_order_than_their_names_are_found(config, teacher, tmp_path):
    other = weights_changed(teacher, tmp_path / "other", _flip)
    found = faults(diagnosis(config, taught(other, tmp_path / "student"), tmp_path / "doctor.json"))
    assert any("its outputs fit the labels far better in another order: 0 means 1, 1 means 0" in text for text in found)
    assert any("answers on dev_seen are not those that its run wrote down" in text for text in found)
    assert any(re.search(r"accuracy on 48 of 48 rows of dev_seen is 0.0\d+; wanted ", text) for text in found)


def test_a_score_that_its_checkpoint_does_not_reach_is_found(config, teacher, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(teacher, other, symlinks=True)
    report = json.loads((other / "report.json").read_text())
    report["metrics"]["validation/accuracy"] -= 0.3
    (other / "report.json").write_text(json.dumps(report))
    (text,) = faults(diagnosis(config, taught(other, tmp_path / "student"), tmp_path / "doctor.json"))
    assert re.search(r"accuracy on 48 of 48 rows of dev_seen is [\d.]+; wanted [\d.]+ \+- 0.0228, which its checkpoint", text)


def test_a_run_that_left_no_report_is_held_against_its_best_checkpoint(config, teacher, tmp_path):
    other = changed(
        teacher, tmp_path / "other", "state.json", lambda p: p.write_text(json.dumps({**json.loads(p.read_text()), "best": 0.5}))
    )
    for name in ("report.json", "predictions_dev_seen.csv"):
        (other / name).unlink()
    (text,) = faults(diagnosis(config, taught(other, tmp_path / "student"), tmp_path / "doctor.json"))
    assert "wanted 0.5000 +- 0.0228, which its checkpoint recorded" in text


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Restless", "teacher: the model, encoders, encoders.image and"),
        ("Noisy", "teacher: two passes over the same rows differ by"),
    ],
)
def test_a_teacher_that_is_not_still_is_found(config, teacher, tmp_path, name, wanted):
    other = card_changed(teacher, tmp_path / "other", rebuilt_as(name))
    words = taught(other, tmp_path / "student", f"allow=[{HERE}.{name}]")
    found = faults(diagnosis(config, words, tmp_path / "doctor.json"))
    assert any(text.startswith(wanted) for text in found)


def test_weights_that_are_not_finite_are_found_and_so_is_what_they_lead_to(config, teacher, tmp_path):
    other = weights_changed(teacher, tmp_path / "other", lambda w: w["classifier.4.bias"].fill_(torch.nan))
    found = diagnosis(config, taught(other, tmp_path / "student"), tmp_path / "doctor.json")
    assert any("teacher: classifier.4.bias of its weights hold NaN or infinity; wanted finite numbers." in t for t in faults(found))
    assert any(text.startswith("objective: the loss is nan, by distill/full, distill/image") for text in faults(found))
    assert found["scores"] == []


def test_a_damaged_checkpoint_is_told(config, teacher, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(teacher, other, symlinks=True)
    with (find_checkpoint(other) / "model.safetensors").open("ab") as file:
        file.write(b"more")
    (text,) = faults(diagnosis(config, taught(other, tmp_path / "student"), tmp_path / "doctor.json"))
    assert text.startswith("teacher.checkpoint: ")
    assert "is damaged: its content is not what was written" in text


@pytest.mark.parametrize(
    ("terms", "wanted"),
    [
        ("[{loss: hint, student: image.projected, adaptor: none}]", "adaptor=none leaves 8 features beside 12"),
        ("[{loss: hint, student: image.9.hidden}]", "objective.features[0].student: it offers no 'image.9.hidden'"),
        ("[{loss: hint, student: image.projected, teacher: image.last.hidden}]", "'image.last.hidden' is hidden"),
    ],
)
def test_features_that_cannot_be_compared_are_found(config, teacher, tmp_path, terms, wanted):
    found = diagnosis(config, taught(teacher, tmp_path, f"objective.features={terms}"), tmp_path / "doctor.json")
    assert any(wanted in text for text in faults(found))


def test_a_term_that_drowns_the_others_is_found_with_a_weight_that_does_not(config, teacher, tmp_path):
    terms = "objective.features=[{{loss: hint, student: image.projected, weight: {}}}]"
    found = diagnosis(config, taught(teacher, tmp_path, terms.format(1e6)), tmp_path / "doctor.json")
    (text,) = faults(found)
    assert re.match(r"objective\.features\[0\]\.weight: feature/hint/image\.projected pulls \d+ times as hard .* as task;", text)
    weight = re.search(r"Set objective\.features\[0\]\.weight to ([\d.e+-]+) \(now 1e\+06\)", text)[1]
    found = diagnosis(config, taught(teacher, tmp_path, terms.format(float(weight))), tmp_path / "doctor.json")
    assert found["ok"]
    assert found["terms"][-1]["ratio"] == pytest.approx(1, rel=0.01)  # three digits are told


def test_what_a_run_would_refuse_is_said_as_the_run_says_it(config, teacher, tmp_path, capsys):
    words = taught(teacher, tmp_path, "optimizer.lrr=1", f"out={tmp_path / 'doctor.json'}")
    assert main(["doctor", f"config={config}", *words]) == 1
    assert "fix: command line: optimizer.lrr: adamw has no such option. Did you mean 'lr'?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("validation_rows=0", "validation_rows: must be at least 1, got 0"),
        ("training_rows=many", "training_rows: wanted int, got 'many'"),
    ],
)
def test_words_that_are_wrong_are_sentences(config, tmp_path, word, text):
    with pytest.raises(ConfigError, match=text):
        doctor.main([f"config={config}", f"env.save_dir={tmp_path}", word])


def test_it_looks_at_one_process(config, tmp_path, monkeypatch):
    started_together(monkeypatch, 2)
    with pytest.raises(ConfigError, match="start it without torchrun"):
        doctor.main([f"config={config}", f"env.save_dir={tmp_path}"])


def _same_model() -> list[str]:
    """The options of the model, which a change of its type would forget."""
    text = "{type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}"
    image = "{type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}"
    return [f"model.encoders={{text: {text}, image: {image}}}", "model.hidden_size=8"]


# ---- the page ----


def test_the_page_can_be_followed_and_shows_what_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "doctor.md"
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
    for command in commands[:-1]:
        assert main(shlex.split(command)[1:]) == 0
    capsys.readouterr()
    assert main(shlex.split(commands[-1])[1:]) == 0
    said = capsys.readouterr().out
    (sample,) = blocks(page, "text")
    assert _shape(sample) == _shape(said)


def _shape(text: str) -> list[str]:
    """The lines without numbers, widths, notes and empty lines."""
    lines = (re.sub(r"\s+", " ", re.sub(r"[-+\d.,%e]+|[─]+", "", line)).strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("not: ")]  # no digit, and no e


def test_the_page_names_every_option():
    page = (ROOT / "docs" / "doctor.md").read_text()
    for name in DoctorConfig.__dataclass_fields__:
        assert f"`{name}`" in page


def test_a_word_that_is_no_option_is_told_with_the_nearest_one(config, capsys):
    assert main(["doctor", f"config={config}", "validaton_rows=4"]) == 2
    assert capsys.readouterr().err == (
        "command line: validaton_rows: no such option. Did you mean 'validation_rows'? "
        "It takes: out, training_rows, validation_rows, and the options of a run.\n"
    )


def test_a_teacher_no_better_than_the_commonest_answer_is_a_fault(config, teacher, tmp_path, capsys):
    def silence(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            if "classifier" in name:
                tensors[name].zero_()

    silent = weights_changed(teacher, tmp_path / "teacher", silence)
    words = [f"teacher.checkpoint={silent}", "objective={type: distillation, views: [full, image]}"]
    assert main(["doctor", f"config={config}", f"env.save_dir={tmp_path / 'run'}", *words]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"it is right about 0\.5000 of the labels, and the commonest answer alone about 0\.5000; wanted more", said)


def test_a_learning_rate_that_moves_nothing_is_noted(config, tmp_path, capsys):
    main(["doctor", f"config={config}", f"env.save_dir={tmp_path / 'run'}", "optimizer={type: adamw, lr: 1.0e-7}"])
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"optimizer\.lr: 10 updates on one batch take its loss from .* at 1e-07 so next to nothing moves", said)


def test_what_a_model_cannot_take_is_told_by_the_doctor_as_by_a_run(config, tmp_path, capsys):
    inputs = "{text: input_ids, image: pixel_values}"
    model = f"model={{type: module, target: tests.integration.mistakes_first_rows.Failing, inputs: {inputs}}}"
    assert main(["doctor", f"config={config}", f"env.save_dir={tmp_path / 'run'}", model, "masker=attention"]) == 1
    assert "the third gear is stuck" in " ".join(capsys.readouterr().out.split())
