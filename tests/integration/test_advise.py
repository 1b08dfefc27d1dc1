"""``msd advise``: what it finds out of a run and its teacher's run, its sentences, and the page that shows it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from msd_framework.analysis.advise import situation
from msd_framework.analysis.decision_table import ROWS
from msd_framework.build.facts import RunFacts
from msd_framework.checks.run import checked
from msd_framework.cli import main
from msd_framework.config.load import load
from tests.integration.test_docs import ROOT, blocks

KD = "objective={type: distillation, views: [full]}"


def found(config, teacher, *words, missing=False):
    return situation(RunFacts(checked(load(config, [KD, f"teacher.checkpoint={teacher}", *words]))), missing)


def edited(teacher: Path, folder: Path, change) -> Path:
    """A copy of a teacher's run whose config.yaml was changed."""
    shutil.copytree(teacher, folder, symlinks=True)
    values = yaml.safe_load((folder / "config.yaml").read_text())
    change(values)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def test_a_run_and_its_teacher_are_described(tiny_config, tiny_teacher):
    run = found(
        tiny_config, tiny_teacher, "data.max_train_examples=8", "training={max_updates: null, max_epochs: 3, batch_size: 4}"
    )
    assert (run.rows, run.labelled, run.updates, run.passes) == (8, 8, 6, 3.0)
    assert run.student == run.teacher == ("image", "text")
    assert (run.teacher_rows, run.teacher_lost_modalities) == (12, False)
    assert (run.views, run.weighting) == (("full",), "uniform")
    assert run.alone == {}  # that teacher measured the full view alone


@pytest.mark.parametrize(("share", "labelled"), [(0.25, 3), (1.0, 12)])
def test_labels_are_counted(tiny_config, tiny_teacher, share, labelled):
    run = found(tiny_config, tiny_teacher, f"data.labelled_share={share}")
    assert (run.rows, run.labelled, run.unlabelled) == (12, labelled, 12 - labelled)


def test_what_the_teacher_s_run_says_is_read(tiny_config, tiny_teacher, tmp_path):
    def change(values):
        values["objective"] = {"type": "supervised", "modality_dropout": 0.1}
        values["data"]["max_train_examples"] = 5

    teacher = edited(tiny_teacher, tmp_path / "teacher", change)
    report = json.loads((teacher / "report.json").read_text())
    report["metrics"] |= {"validation/text/accuracy": 0.5, "validation/image/accuracy": 0.9, "test/text/accuracy": 0.9}
    (teacher / "report.json").write_text(json.dumps(report))
    run = found(tiny_config, teacher, "objective.weighting={type: instance, saliency: drop}")
    assert (run.teacher_rows, run.teacher_lost_modalities, run.weighting) == (5, True, "instance")
    assert run.alone == {"text/accuracy": 0.5, "image/accuracy": 0.9}
    assert run.guesses


@pytest.mark.parametrize(
    ("change", "known"),
    [
        (lambda v: v["data"].update(train="dev_seen"), (None, False)),
        (lambda v: v.update(objective={"type": "supervised", "modality_dropout": "much"}), (12, None)),
        (lambda v: v.update(objective={"type": "distillation", "views": ["full"]}), (12, None)),
        (lambda v: v.update(nonsense=1), (None, None)),
    ],
)
def test_what_nobody_can_tell_of_a_teacher_is_not_known(tiny_config, tiny_teacher, tmp_path, change, known):
    run = found(tiny_config, edited(tiny_teacher, tmp_path / "teacher", change))
    assert (run.teacher_rows, run.teacher_lost_modalities) == known


def test_an_average_of_the_student_is_a_teacher_of_which_no_run_says_anything(tiny_config):
    run = situation(RunFacts(checked(load(tiny_config, [KD, "teacher.ema=0.9"]))))
    assert (run.teacher, run.teacher_rows, run.alone) == (("image", "text"), None, {})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_lines_of_a_row_can_be_pasted(row, tiny_config, tiny_teacher, tmp_path):
    path = tmp_path / "pasted.yaml"
    head = f"base: {tiny_config}\nteacher: {{checkpoint: {tiny_teacher}}}\n"
    text = row.yaml().replace("{weighting: uniform}", "{type: distillation, views: [full], weighting: uniform}")
    path.write_text(head + text)
    assert checked(load(path, []))
    for other in re.findall(r"^# .*?(\{.*\})$", text, re.MULTILINE):  # what a comment says that one may write in its place
        words = [f"objective={other}", *(["teacher=null"] if "supervised" in other else [])]
        path.write_text(head.splitlines()[0] + "\n" if "supervised" in other else head)
        assert checked(load(path, words))


def test_rows_are_printed_and_written_and_what_is_there_is_said(tiny_config, tiny_teacher, tmp_path, capsys):
    out, save_dir = tmp_path / "advice.json", tmp_path / "run"
    words = [f"config={tiny_config}", KD, f"teacher.checkpoint={tiny_teacher}", f"env.save_dir={save_dir}"]
    assert main(["advise", *words, "missing=true", f"out={out}"]) == 0
    shown, written = capsys.readouterr().out, json.loads(out.read_text())
    assert [(row["name"], row["already"]) for row in written["rows"]] == [
        ("all_labels", True),
        ("missing_in_use", False),
        ("teacher_kept_all", False),
    ]
    for row in written["rows"]:
        assert all(row[key] in shown for key in ("have", "do", "measured", "why", "command"))
        assert all(line in shown for line in row["yaml"].splitlines())
    assert shown.count("The configuration says so already.") == 1
    assert written["run"]["rows"] == 12
    assert not save_dir.exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "config: wanted config=FILE once, got nothing."),
        (
            ["config=CONFIG"],
            "teacher: must be given, for advice is on what a student learns from it. Add teacher.checkpoint=FOLDER",
        ),
        (["config=CONFIG", "mising=true"], "mising: no such option. Did you mean 'missing'? It takes: missing, out, and the"),
        (["config=CONFIG", "missing=3"], "missing: wanted bool, got 3"),
        (["config=CONFIG", KD, "teacher.checkpoint=nowhere"], "teacher.checkpoint: there is no folder nowhere;"),
    ],
)
def test_a_mistake_is_a_sentence(words, text, tiny_config, capsys):
    assert main(["advise", *(word.replace("CONFIG", str(tiny_config)) for word in words)]) == 2
    said = capsys.readouterr().err
    assert text in said
    assert "Traceback" not in said


def test_the_page_can_be_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "does_it_help.md"
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert len(commands) == 5
    for name in ("teacher", "kd"):
        data = "data: {dataset: {root: data/cards}}"
        Path(f"{name}.yaml").write_text(f"base: {ROOT}/projects/quickstart/configs/{name}.yaml\n{data}\n")
    Path("tune_kd.yaml").write_text(blocks(page, "yaml")[-1])
    for command in commands[:4]:
        assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
    shown = capsys.readouterr().out
    assert "few_labels: " in shown
    assert "tune_kd.yaml: nothing is wrong with it." in shown
    assert commands[4] == "msd study config=tune_kd.yaml"  # a study of that form is run by the page of studies
