"""One command from a YAML to a trained model and its report."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, roc_auc_score

from msd_framework.errors import ConfigError
from msd_framework.run import run
from msd_framework.testing import start_method
from msd_framework.worlds import make_world

QUICKSTART = Path(__file__).parents[2] / "projects" / "quickstart" / "configs"
SMALL = [
    "model.hidden_size=16",
    "model.num_layers=1",
    "model.num_heads=2",
    "model.intermediate_size=16",
    "model.image_encoder.hidden_size=16",
    "training.max_epochs=null",
    "training.max_updates=12",
    "training.batch_size=16",
    "training.log_every=4",
    "evaluation.every_updates=6",
    "data.max_train_examples=null",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "world"
    make_world("hateful_memes", folder, seed=1, sizes={"train": 96, "dev_seen": 40, "test_seen": 41})
    return folder


def words(world: Path, folder: Path, *more: str) -> list[str]:
    return [f"data.dataset.root={world}", f"env.save_dir={folder}", *SMALL, *more]


@pytest.fixture(scope="module")
def teacher(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    run(QUICKSTART / "teacher.yaml", words(world, folder))
    return folder


def student(world: Path, teacher: Path, folder: Path, *more: str) -> list[str]:
    return words(world, folder, f"teacher.checkpoint={teacher}", f"data.processors_from={teacher}", *more)


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / name / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_that_is_promised(teacher):
    names = {str(p.relative_to(teacher)) for p in teacher.rglob("*") if p.is_file()}
    for name in ("config.yaml", "report.json", "report.md", "metrics.jsonl", "environment.json", "predictions_test_seen.csv"):
        assert name in names
    for link in ("best", "last"):
        assert (teacher / "checkpoints" / link / "model.safetensors").is_file()
    assert json.loads((teacher / "environment.json").read_text())["packages"]["torch"] == torch.__version__.split("+")[0]


def test_reported_metrics_are_those_of_the_predictions_that_were_written(teacher):
    report = json.loads((teacher / "report.json").read_text())["metrics"]
    found = rows(teacher / "predictions_test_seen.csv")
    assert len(found) == 41
    labels = [int(r["label"]) for r in found]
    for view, prefix in (("", ""), ("image/", "image/"), ("text/", "text/")):
        hateful = [float(r[f"{prefix}hateful"]) for r in found]
        assert report[f"test/{view}accuracy"] == pytest.approx(accuracy_score(labels, [p > 0.5 for p in hateful]), abs=1e-6)
        # probabilities are written with six digits, so a tie may be made of two that differ by less
        assert report[f"test/{view}auroc"] == pytest.approx(roc_auc_score(labels, hateful), abs=2e-3)


def test_the_saved_configuration_makes_the_same_run_again(teacher, tmp_path):
    run(teacher / "config.yaml", [f"env.save_dir={tmp_path / 'again'}"])
    assert same(weights(teacher), weights(tmp_path / "again"))
    first, again = (json.loads((f / "report.json").read_text()) for f in (teacher, tmp_path / "again"))
    assert first["metrics"] == again["metrics"]


def test_another_seed_is_another_run_and_seed_0_is_a_seed(world, teacher, tmp_path):
    run(QUICKSTART / "teacher.yaml", words(world, tmp_path / "one", "seed=1"))
    assert not same(weights(teacher), weights(tmp_path / "one"))


def test_a_student_is_taught_and_compared_with_its_teacher(world, teacher, tmp_path):
    report = run(QUICKSTART / "msd.yaml", student(world, teacher, tmp_path / "msd"))
    assert {"test/agreement", "test/image/kl", "test/text/auroc"} <= set(report["metrics"])
    assert 0 <= report["metrics"]["test/agreement"] <= 1
    logged = [json.loads(line) for line in (tmp_path / "msd" / "metrics.jsonl").read_text().splitlines()]
    assert {"train/distill/image", "train/weight/text", "train/task", "train/loss", "train/lr"} <= set(logged[0])
    assert (tmp_path / "msd" / "processors" / "text" / "tokenizer.json").read_bytes() == (
        teacher / "processors" / "text" / "tokenizer.json"
    ).read_bytes()


@pytest.mark.parametrize("run_type", ["val", "test", "predict"])
def test_a_finished_run_is_evaluated_again_to_the_same_numbers(world, teacher, run_type):
    before = json.loads((teacher / "report.json").read_text())["metrics"]
    report = run(QUICKSTART / "teacher.yaml", words(world, teacher, f"run_type={run_type}"))
    split = {"val": "validation", "test": "test", "predict": "predict"}[run_type]
    assert report["metrics"] == {k: v for k, v in before.items() if k.startswith(f"{split}/")}


def test_blind_examples_are_predicted_and_not_scored(world, teacher, tmp_path):
    blind = tmp_path / "blind"
    blind.mkdir()
    shutil.copytree(world / "img", blind / "img")
    lines = [json.loads(line) for line in (world / "test_seen.jsonl").read_text().splitlines()]
    (blind / "test_seen.jsonl").write_text("".join(json.dumps({k: r[k] for k in ("id", "img", "text")}) + "\n" for r in lines))
    for name in ("train.jsonl", "dev_seen.jsonl"):
        shutil.copy(world / name, blind / name)
    overrides = words(blind, tmp_path / "out", f"checkpoint.load={teacher}")
    report = run(QUICKSTART / "teacher.yaml", [*overrides, "run_type=predict"])
    assert report["metrics"] == {}
    found = rows(tmp_path / "out" / "predictions_test_seen.csv")
    assert {r["label"] for r in found} == {""}
    theirs = rows(teacher / "predictions_test_seen.csv")
    assert [r["hateful"] for r in found] == [r["hateful"] for r in theirs]


def test_a_run_killed_with_9_goes_on_to_the_same_bits(world, teacher, tmp_path):
    def overrides(name: str) -> list[str]:
        more = ["training.max_updates=40", "checkpoint.every_updates=5", "checkpoint.resume=true", "training.log_every=1"]
        return student(world, teacher, tmp_path / name, *more)

    run(QUICKSTART / "msd.yaml", overrides("whole"))
    process = multiprocessing.get_context(start_method()).Process(target=run, args=(QUICKSTART / "msd.yaml", overrides("cut")))
    process.start()
    log = tmp_path / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and len(log.read_text().splitlines()) >= 13):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert (tmp_path / "cut" / "checkpoints" / "last").exists()
    assert not (tmp_path / "cut" / "report.json").exists()
    run(QUICKSTART / "msd.yaml", overrides("cut"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert same(weights(tmp_path / "whole", "best"), weights(tmp_path / "cut", "best"))
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == log.read_text()


def _tool(words):
    """The script that torchrun is given, in a process that it has started."""
    sys.argv = ["run.py", *words]
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(Path(__file__).parents[2] / "tools" / "run.py"), run_name="__main__")
    assert not ended.value.code


@pytest.fixture
def torchrun():
    """What `torchrun --standalone --nproc-per-node=2` does with a function; its processes begin with torch imported."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    network = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
    yield elastic_launch(LaunchConfig(1, 1, 2, max_restarts=0, monitor_interval=0.1, start_method=start_method(), **network), _tool)
    for number, handler in handlers.items():  # which the launcher has replaced
        signal.signal(number, handler)


def test_two_processes_under_torchrun_make_the_run_of_one(world, teacher, tmp_path, torchrun):
    config = f"config={QUICKSTART / 'msd.yaml'}"
    exact = ["model.dropout=0.0", "model.attention_dropout=0.0"]  # each process draws its own
    run(QUICKSTART / "msd.yaml", student(world, teacher, tmp_path / "one", *exact))
    torchrun([config, *student(world, teacher, tmp_path / "two", *exact)])
    one, two = (json.loads((tmp_path / n / "report.json").read_text())["metrics"] for n in ("one", "two"))
    assert one.keys() == two.keys()
    ours, theirs = (
        [
            json.loads(line)["train/loss"]
            for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()
            if "train/loss" in line
        ]
        for n in ("one", "two")
    )
    # float32 sums in another order; Adam makes full steps of the noise where a gradient is 0 (the biases of attention's keys)
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert len(rows(tmp_path / "two" / "predictions_test_seen.csv")) == 41


def test_broken_examples_are_left_out_and_counted_if_asked(world, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(world, broken)
    first = json.loads((broken / "train.jsonl").read_text().splitlines()[0])
    (broken / first["img"]).write_bytes(b"not an image")
    with (broken / "dev_seen.jsonl").open("a") as file:
        file.write('{"id": 1, "img": "img/x')
    overrides = words(broken, tmp_path / "out", "data.on_error=skip")
    report = run(QUICKSTART / "teacher.yaml", overrides)
    assert len(report["skipped"]) == 2
    assert any("train.jsonl:1" in text for text in report["skipped"])
    assert any("dev_seen.jsonl:41" in text for text in report["skipped"])


def test_a_folder_that_holds_a_run_is_not_written_over(world, teacher):
    before = weights(teacher)
    with pytest.raises(ConfigError, match="already holds a run"):
        run(QUICKSTART / "teacher.yaml", words(world, teacher))
    assert same(before, weights(teacher))


def test_check_writes_nothing(world, tmp_path):
    assert run(QUICKSTART / "teacher.yaml", words(world, tmp_path / "out", "run_type=check")) == {}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("optimizer.lr=1e-9", "optimizer"),
        ("optimizer=sgd", "optimizer"),
        ("seed=7", "seed"),
        ("data.max_train_examples=50", "data.max_train_examples"),
        ("training.precision=bf16", "training.precision"),
        ("masker=noise", "masker"),
        ("model.hidden_size=8", "model"),
        ("objective=supervised", "objective"),
    ],
)
def test_a_run_that_is_gone_on_with_keeps_what_its_weights_depend_on(world, teacher, word, key):
    before = (teacher / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=rf"{key}.*in the run that is gone on with"):
        run(QUICKSTART / "teacher.yaml", words(world, teacher, "checkpoint.resume=true", word))
    assert (teacher / "config.yaml").read_bytes() == before


def test_a_default_that_is_written_out_is_no_change(world, teacher):
    run(
        QUICKSTART / "teacher.yaml",
        words(world, teacher, "checkpoint.resume=true", "model.dropout=0.1", "optimizer.eps=1e-8", "run_type=check"),
    )


@pytest.mark.parametrize("installed", [True, False])
def test_the_absence_of_tensorboard_is_said_once(tiny_config, tmp_path, monkeypatch, capsys, installed):
    monkeypatch.setattr("msd_framework.run.tensorboard_is_installed", lambda: installed)
    run(tiny_config, [f"env.save_dir={tmp_path / 'run'}", "training.max_updates=2", "evaluation.every_updates=1"])
    said = [line for line in capsys.readouterr().err.splitlines() if "TensorBoard" in line]
    assert said == ([] if installed else ["TensorBoard is not installed, so it gets no files; metrics.jsonl has all numbers."])


def test_a_metric_without_a_value_is_told_as_undefined(tiny_config, tmp_path, capsys):
    words = ["evaluation.metrics=[accuracy, auroc]", "data.max_eval_examples=1", "training.max_updates=1"]
    report = run(tiny_config, [f"env.save_dir={tmp_path / 'run'}", *words])
    assert math.isnan(report["metrics"]["test/auroc"])
    assert "| test/auroc | undefined |" in (tmp_path / "run" / "report.md").read_text()
    assert json.loads((tmp_path / "run" / "report.json").read_text())["metrics"]["test/auroc"] is None
    assert "undefined" in capsys.readouterr().out
