"""Studies: every run done once, whatever ends it, and compared with the others."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from msd_framework.analysis.study.config import load_study
from msd_framework.analysis.study.run import planned, run_study
from msd_framework.cli import main
from msd_framework.config.load import load, resolve
from msd_framework.data.sets.hateful_memes import HatefulMemes
from msd_framework.errors import ConfigError, TrainingError
from msd_framework.structures import DatasetInfo
from msd_framework.testing import start_method

QUICKSTART = Path(__file__).parents[2] / "projects" / "quickstart" / "configs"

FILES = {
    "teacher": {"training": {"max_epochs": None, "max_updates": 6}, "evaluation": {"every_updates": 3}},
    "ce": {"training": {"max_updates": 4}, "evaluation": {"every_updates": 2}, "data": {"max_train_examples": 16}},
    "kd": {"training": {"max_updates": 4}, "evaluation": {"every_updates": 2}, "data": {"max_train_examples": 16}},
    "msd": {"training": {"max_updates": 4}, "evaluation": {"every_updates": 2}, "data": {"max_train_examples": 16}},
}

IMAGE_ALONE = {"type": "fixed", "weights": {"full": 0.0, "text": 0.0}}


def write(folder: Path, **changes) -> Path:
    """A study of 2 seeds with runs of a few updates; changes are over the study's own options."""
    for name, options in FILES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"base": str(QUICKSTART / f"{name}.yaml"), **options}))
    study = {
        "name": "tiny",
        "seeds": 2,
        "world": {"layout": "hateful_memes", "sizes": {"train": 64, "dev_seen": 32, "test_seen": 32}},
        "teacher": "teacher.yaml",
        "methods": {"ce": "ce.yaml", "kd": "kd.yaml", "msd": "msd.yaml"},
        "baselines": ["ce", "kd"],
        "metrics": ["test/auroc", "test/image/auroc", "test/kl"],
        "densities": ["teacher", "kd", "msd"],
        "note": "Nothing: it is too small.",
        "env": {"save_dir": str(folder / "runs")},
        **changes,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def done(tmp_path_factory, forked_workers):
    """A study that has been run, and its summary."""
    file = write(tmp_path_factory.mktemp("study"))
    return file, run_study(file)


def test_summary_holds_every_run_as_it_reported(done):
    file, _ = done
    written = json.loads((file.parent / "runs" / "summary.json").read_text())
    assert [(r["name"], r["seed"]) for r in written["runs"]] == [(n, s) for s in (0, 1) for n in ("teacher", "ce", "kd", "msd")]
    for r in written["runs"]:
        report = json.loads((file.parent / "runs" / r["name"] / f"seed_{r['seed']}" / "report.json").read_text())
        assert {key: report[key] for key in ("metrics", "parameters", "seconds")}.items() <= r.items()
        assert report["seed"] == r["seed"]


def test_table_and_differences_are_of_the_runs(done):
    _, summary = done
    auroc = {(r["name"], r["seed"]): r["metrics"]["test/auroc"] for r in summary["runs"]}
    row = next(row for row in summary["table"] if row["name"] == "kd")
    assert row["metrics"]["test/auroc"]["mean"] == pytest.approx((auroc["kd", 0] + auroc["kd", 1]) / 2)
    found = {(d["method"], d["baseline"]): d for d in summary["differences"] if d["metric"] == "test/auroc"}
    assert list(found) == [("kd", "ce"), ("msd", "ce"), ("msd", "kd")]
    pairs = np.array([auroc["msd", s] - auroc["kd", s] for s in (0, 1)])
    assert found["msd", "kd"]["mean"] == pytest.approx(pairs.mean())
    assert found["msd", "kd"]["verdict"] == "2 seeds are too few to tell"


def test_what_is_possible_in_a_made_world_stands_below_what_was_reached(done):
    file, summary = done
    reports = [json.loads((file.parent / "runs" / "kd" / f"seed_{s}" / "report.json").read_text()) for s in (0, 1)]
    possible = [report["bayes"]["test/image/auroc"] for report in reports]
    assert all(0.5 < value < 1 for value in possible)
    assert summary["possible"]["test/auroc"]["mean"] == 1
    assert summary["possible"]["test/image/auroc"]["mean"] == pytest.approx(sum(possible) / 2)
    assert summary["possible"]["test/kl"] is None
    page = (file.parent / "runs" / "summary.md").read_text()
    assert page.count("| possible | 100.0 ± 0.0 |") == 2
    assert "| metric | value | expected | possible |" in (file.parent / "runs" / "kd" / "seed_0" / "report.md").read_text()


def test_students_without_a_teacher_are_compared_in_what_they_have(done):
    file, summary = done
    fidelity = [(d["method"], d["baseline"]) for d in summary["differences"] if d["metric"] == "test/kl"]
    assert fidelity == [("msd", "kd")]
    assert "| ce | " in (page := (file.parent / "runs" / "summary.md").read_text())
    assert next(line for line in page.splitlines() if line.startswith("| ce |")).count(" - ") == 1


def test_page_tells_what_the_numbers_do_not_show(done):
    file, _ = done
    page = (file.parent / "runs" / "summary.md").read_text()
    assert "Nothing: it is too small." in page
    for name in ("runs.png", "densities.png"):
        assert f"({name})" in page
        assert (file.parent / "runs" / name).stat().st_size > 5000


def test_students_read_as_their_teacher_does(done):
    file, _ = done
    vocabularies = [(file.parent / "runs" / n / "seed_0" / "processors/text/tokenizer.json").read_text() for n in ("teacher", "ce")]
    assert vocabularies[0] == vocabularies[1]


def test_finished_study_runs_nothing_again(done, capsys):
    file, summary = done
    reports = sorted((file.parent / "runs").glob("*/seed_*/*"))
    before = {p: p.stat().st_mtime_ns for p in reports}
    again = run_study(file)
    assert {p: p.stat().st_mtime_ns for p in reports} == before
    assert again["runs"] == summary["runs"]
    assert "msd - kd: " in capsys.readouterr().out


@pytest.fixture(scope="module")
def empirical(tmp_path_factory, forked_workers):
    """A study with a grid and saliency that has been run, and its summary."""
    grid = [{"of": "msd", "over": {"masker": ["attention"], "objective.weighting": {"image": IMAGE_ALONE}}}]
    scores = ["drop", {"type": "keep", "distance": "mse"}]
    options = {
        "seeds": [3],
        "methods": {"msd": "msd.yaml"},
        "baselines": ["msd"],
        "densities": [],
        "grid": grid,
        "saliency": scores,
    }
    file = write(tmp_path_factory.mktemp("empirical"), **options)
    return file, run_study(file)


def test_a_grid_runs_every_combination_with_its_values(empirical):
    file, summary = empirical
    assert [r["name"] for r in summary["runs"]] == ["teacher", "msd", "msd-attention-image"]
    ran = yaml.safe_load((file.parent / "runs" / "msd-attention-image" / "seed_3" / "config.yaml").read_text())
    assert ran["masker"] == "attention" or ran["masker"]["type"] == "attention"
    assert ran["objective"]["weighting"] == IMAGE_ALONE
    assert [(d["method"], d["baseline"]) for d in summary["differences"]][:1] == [("msd-attention-image", "msd")]


def test_values_of_a_grid_that_changed_are_refused(empirical):
    file, _ = empirical
    study = yaml.safe_load(file.read_text())
    study["grid"][0]["over"]["objective.weighting"]["image"] = IMAGE_ALONE | {"weights": {"full": 3.0}}
    file.with_name("changed.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(
        ConfigError, match=r"msd-attention-image.seed_3 holds a run of another configuration: .*weights.full is 0.0 there"
    ):
        run_study(file.with_name("changed.yaml"))


def test_tables_by_view_are_of_what_the_runs_reported(empirical):
    file, summary = empirical
    reports = {r["name"]: r["metrics"] for r in summary["runs"]}
    reports["possible"] = json.loads((file.parent / "runs" / "teacher" / "seed_3" / "report.json").read_text())["bayes"]
    for found in summary["views"]:
        use, _, name = found["metric"].partition("/")
        assert found["views"] == ("full", "image", "text")
        for method, cells in found["rows"].items():
            keys = [found["metric"], f"{use}/image/{name}", f"{use}/text/{name}"]
            assert [cell["mean"] for cell in cells] == [reports[method][key] for key in keys]
    assert [found["title"] for found in summary["views"]] == [
        "With a modality missing",
        "As the teacher says",
        "Divergence from the teacher",
    ]
    assert "## With a modality missing: test/auroc" in (page := (file.parent / "runs" / "summary.md").read_text())
    assert "## What each modality is to the teacher" in page


def test_saliency_of_the_teachers_is_that_of_its_command(empirical):
    file, summary = empirical
    told = json.loads((file.parent / "runs/teacher/seed_3/saliency/saliency_test_seen.json").read_text())["scores"]
    assert list(summary["saliency"]["most_salient"]) == list(told) == ["drop", "keep mse"]
    for label, found in told.items():
        for modality, summed in summary["saliency"]["most_salient"][label].items():
            assert summed["mean"] == found["classes"]["all"][modality]["most_salient"]
        assert {k: v["mean"] for k, v in summary["saliency"]["truth"][label].items()} == {
            k: v["value"] for k, v in found["truth"].items()
        }


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the study's processes in /proc")
def test_killed_study_ends_its_processes_and_goes_on_to_the_same_numbers(done, tmp_path):
    _, summary = done
    file = write(tmp_path, seeds=[0], methods={"kd": "kd.yaml"}, baselines=[], densities=[])
    study = multiprocessing.get_context(start_method()).Process(target=run_study, args=(file, ["jobs=1"]))
    study.start()
    last = tmp_path / "runs" / "kd" / "seed_0" / "checkpoints" / "last"
    while not last.exists():
        assert study.is_alive()
        time.sleep(0.002)
    children = [int(p) for p in Path(f"/proc/{study.pid}/task/{study.pid}/children").read_text().split()]
    study.kill()
    study.join()
    assert children
    deadline = time.monotonic() + 60
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_alive(child) for child in children)

    teacher = (tmp_path / "runs" / "teacher" / "seed_0" / "report.json").stat().st_mtime_ns
    (metrics,) = [r["metrics"] for r in run_study(file)["runs"] if r["name"] == "kd"]
    assert metrics == next(r["metrics"] for r in summary["runs"] if r["name"] == "kd")  # the same bits
    assert (tmp_path / "runs" / "teacher" / "seed_0" / "report.json").stat().st_mtime_ns == teacher


def test_failed_run_is_told_with_its_log_and_the_others_go_on(done, tmp_path):
    file = write(tmp_path, seeds=1, jobs=1, methods={"kd": "kd.yaml", "msd": "msd.yaml"}, baselines=[], densities=[])
    options = yaml.safe_load((tmp_path / "kd.yaml").read_text())
    options["data"]["train"] = "trian"
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(options))
    with pytest.raises(TrainingError, match=r"kd, seed 0 failed: .*'trian'(.|\n)*/kd/seed_0/log.txt.\n3 of 4 tasks are done"):
        run_study(file)
    assert (tmp_path / "runs" / "msd" / "seed_0" / "report.json").is_file()
    assert "'trian'" in (tmp_path / "runs" / "kd" / "seed_0" / "log.txt").read_text()


def test_run_of_another_configuration_is_refused(done):
    file, _ = done
    kd = file.parent / "kd.yaml"
    before = kd.read_text()
    options = yaml.safe_load(before)
    kd.write_text(yaml.safe_dump({**options, "objective": {"distill_weight": 0.5}, "seed": 7, "expected": {"test/auroc": 1.0}}))
    try:
        with pytest.raises(ConfigError) as raised:
            run_study(file)
    finally:
        kd.write_text(before)
    assert str(raised.value).splitlines() == [
        f"{file.parent}/runs/kd/seed_{seed} holds a run of another configuration: "
        f"objective.distill_weight is 0.7 there and 0.5 here. Name another env.save_dir, or delete that folder."
        for seed in (0, 1)
    ]


def test_runs_of_another_world_are_refused_though_they_are_done(done):
    file, _ = done
    with pytest.raises(ConfigError) as raised:
        run_study(file, ["world.noise=0.9", "world.sizes.train=65"])
    assert str(raised.value).splitlines() == [
        f"{file.parent}/runs/world/seed_{seed} holds another made world, and the runs here are of that one: world.sizes.train is "
        f"64 there and 65 here; world.noise is 0.1 there and 0.9 here. Name another env.save_dir, or delete {file.parent}/runs."
        for seed in (0, 1)
    ]


def test_runs_of_other_data_of_their_own_are_refused(tmp_path):
    only = {"methods": {"ce": "ce.yaml"}, "baselines": [], "densities": [], "metrics": ["test/auroc"]}
    file = write(tmp_path, world=None, teacher=None, seeds=1, **only)
    (tmp_path / "runs" / "ce" / "seed_0").mkdir(parents=True)
    (made,) = planned(load_study(file))
    values = resolve(load(made.config, made.words)).values
    values["data"]["dataset"]["root"] = "elsewhere"
    (made.folder / "config.yaml").write_text(yaml.safe_dump(values))
    assert made.differences() == ["data.dataset.root is elsewhere there and runs/quickstart/world/seed_0 here"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sedes": 3}, r"study.yaml:\d+: sedes: no such option. Did you mean 'seeds'\?"),
        ({"seeds": "three"}, r"study.yaml:2: seeds: wanted int \| list\[int\], got 'three'"),
        ({"seeds": 0}, r"study.yaml:2: seeds: wanted 1 or more, or a list of different seeds from 0 to 2\*\*63 - 1, got 0."),
        ({"seeds": [1, 1]}, r"seeds: wanted 1 or more, or a list of different seeds from 0 to 2\*\*63 - 1, got \[1, 1\]."),
        ({"jobs": 0}, r"jobs: must be 1 or more, got 0."),
        ({"methods": {}, "baselines": [], "densities": []}, "methods: wanted at least one method, got none."),
        ({"metrics": []}, "metrics: wanted at least one metric, got none."),
        ({"methods": {"teacher": "kd.yaml"}, "baselines": [], "densities": []}, "'teacher' cannot be the name of a method"),
        ({"methods": {"a/b": "kd.yaml"}, "baselines": [], "densities": []}, "'a/b' cannot be the name of a method"),
        ({"methods": {"kd": "kb.yaml"}}, r"methods.kd: there is no file .*/kb.yaml. Did you mean 'kd.yaml'\?"),
        ({"baselines": ["dk"]}, r"baselines\[0\]: 'dk' is none of ce, kd, msd."),
        ({"densities": ["teachr"]}, r"densities\[0\]: 'teachr' is none of teacher, ce, kd, msd. Did you mean 'teacher'\?"),
        ({"metrics": ["test/aurco"]}, r"metrics\[0\]: 'test/aurco' is none of .* Did you mean 'test/auroc'\?"),
        ({"world": {"layout": "hatefull_memes"}}, r"world.layout: no layout .* Did you mean 'hateful_memes'\?"),
        (
            {"world": {"layout": "hateful_memes", "sizes": {"trian": 9}}},
            r"world.sizes.trian: hateful_memes has no such split. Did you mean 'train'\?",
        ),
        (
            {"world": {"layout": "hateful_memes", "mix": {"bot": 1}}},
            r"world.mix.bot: hateful_memes has no such kind of row. Did you mean 'both'\?",
        ),
        ({"world": {"layout": "vqa_v2", "noise": -3}}, r"world.noise: wanted a number of at least 0, got -3."),
        (
            {"world": {"layout": "hateful_memes", "sizes": {"train": -5}}},
            r"world.sizes.train: wanted a number of at least 0 .*got -5.",
        ),
        (
            {"grid": [{"of": "mds", "over": {"masker": ["noise"]}}]},
            r"grid\[0\].of: 'mds' is none of ce, kd, msd. Did you mean 'msd'\?",
        ),
        ({"grid": [{"of": "msd", "ovr": {}}]}, r"grid\[0\].ovr: no such option. Did you mean 'over'\?"),
        ({"grid": [{"of": "msd", "over": {"masker": []}}]}, r"grid\[0\].over.masker: wanted at least one alternative, got none."),
        ({"grid": [{"of": "msd", "over": {"masker": ["drop", "drop"]}}]}, r"grid: two methods would be called 'msd-drop'"),
        ({"grid": [{"of": "msd", "over": {"masker": ["nois"]}}]}, r"masker: .*'nois'.* Did you mean 'noise'\?"),
        ({"saliency": ["dorp"]}, r"saliency\[0\]: .*'dorp'.* Did you mean 'drop'\?"),
        (
            {"saliency": ["drop"], "teacher": None, "methods": {"ce": "ce.yaml"}, "baselines": [], "densities": []},
            "saliency: is asked of the study's teacher",
        ),
        ({"seeds": [2**63]}, r"seeds: wanted 1 or more, .* got \[9223372036854775808\]."),
        ({"world": {"layot": "hateful_memes"}}, r"world.layot: no such option. Did you mean 'layout'\?"),
    ],
)
def test_mistakes_in_a_study_are_sentences(tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_study(write(tmp_path, **changes))


def test_mistakes_in_the_runs_of_a_study_are_told_before_anything_is_run(tmp_path):
    file = write(tmp_path)
    (tmp_path / "msd.yaml").write_text("base: kd.yaml\nobjective: {views: [full], distill_wieght: 0.5}\n")
    with pytest.raises(ConfigError, match=r"msd.yaml:2: objective.distill_wieght: .* Did you mean 'distill_weight'\?"):
        run_study(file)
    assert not (tmp_path / "runs").exists()


def test_a_check_runs_nothing(tmp_path, capsys):
    assert main(["study", f"config={write(tmp_path)}", "run_type=check"]) == 0
    assert "study.yaml: nothing is wrong with it." in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    assert main(["study", f"config={write(tmp_path)}", "run_type=check", "world.noise=-3"]) == 2
    assert "world.noise: wanted a number of at least 0, got -3." in capsys.readouterr().err


def test_outputs_that_are_not_predicted_cannot_be_drawn(tmp_path):
    file = write(tmp_path, metrics=["validation/auroc"], densities=["teacher"])
    (tmp_path / "teacher.yaml").write_text(f"base: {QUICKSTART / 'teacher.yaml'}\ndata: {{test: null}}\n")
    with pytest.raises(ConfigError, match=r"densities\[0\]: teacher predicts no test split. Name one in its data.test."):
        load_study(file)


def test_outputs_for_three_classes_cannot_be_drawn(tmp_path, monkeypatch):
    three = DatasetInfo({"image": "pixels", "text": "tokens"}, 3, "single_label")
    monkeypatch.setattr(HatefulMemes, "describe", lambda options: three)
    with pytest.raises(ConfigError, match=r"densities\[1\]: kd tells 3 classes apart, and densities are drawn for two."):
        load_study(write(tmp_path))


def test_runs_keep_their_own_data_and_teachers_where_the_study_has_none(tmp_path):
    file = write(tmp_path, world=None, teacher=None, densities=[])
    words = {r.name: " ".join(r.words) for r in planned(load_study(file))}
    assert not any("data." in w or "teacher.checkpoint" in w for w in words.values())


def test_a_student_without_a_teacher_that_sees_other_inputs_takes_none_of_the_teachers_processors(tmp_path):
    file = write(tmp_path, densities=[])
    for name in ("ce", "kd"):
        options = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
        options["data"]["processors"] = {"text": {"max_length": 14}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(options))
    words = {r.name: " ".join(r.words) for r in planned(load_study(file))}
    assert "data.processors_from" not in words["ce"]
    assert all("data.processors_from" in words[name] for name in ("kd", "msd"))


def test_a_study_writes_under_its_name_if_nothing_else_is_said(tmp_path):
    assert load_study(write(tmp_path, env={})).folder == Path("runs/tiny")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"
