"""C2KD with its proxies: loss and gradients example by example with scipy's rank correlation, a run, and what it refuses."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import kendalltau
from torch import Tensor

from msd_framework.build.models import problems_of
from msd_framework.callbacks.base import Callback
from msd_framework.engine.resume import resume
from msd_framework.errors import ConfigError
from msd_framework.maskers.drop import DropMasker
from msd_framework.objectives.c2kd import ProxyObjective
from msd_framework.registry import OBJECTIVES
from msd_framework.run import run
from msd_framework.structures import Batch, DatasetInfo, Setting
from msd_framework.teachers.cached import CachedTeacher
from msd_framework.teachers.ema import EmaTeacher
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch, take
from tests.runs import tiny_model, tiny_runner

VIEW = {"teacher": "image", "student": "text"}


def objective(**options: Any) -> ProxyObjective:
    masker, student, teacher = DropMasker(), tiny_model(2), tiny_model(1, 16)
    with torch.no_grad():
        for matrix in (p for model in (student, teacher) for p in model.parameters() if p.ndim >= 2):
            matrix.mul_(20)  # so that examples differ by much
    torch.manual_seed(11)  # proxies that agree on some examples
    context = {"model": student, "teacher": LiveTeacher(teacher, masker), "masker": masker}
    built = OBJECTIVES.build({"type": "c2kd", "view": VIEW, **options}, **context)
    assert isinstance(built, ProxyObjective)
    built.dry_run(made_batch(4))
    return built.eval()  # without dropout


def logits_of(built: ProxyObjective, batch: Batch) -> dict[str, Tensor]:
    """What both models and both proxies say of their sides of the view, and the student of everything."""
    image, text = ({m: batch.inputs[m]} for m in ("image", "text"))
    found = {"full": built.model(batch.inputs).logits, "s": built.model(text).logits, "t": built.peer(image).logits}
    for name, model, proxy, inputs in (
        ("us", built.model, built.student_proxy, text),
        ("ut", built.peer, built.teacher_proxy, image),
    ):
        _, (features,) = model.forward_features([inputs], [{"fused.pooled"}])
        found[name] = proxy(features["fused.pooled"].values)
    return found


def plain(built: ProxyObjective, batch: Batch, lam: float, threshold: float) -> tuple[Tensor, float]:
    """The loss as the paper has it, example by example, and the share of examples whose classes both proxies rank alike."""
    z, total, kept = logits_of(built, batch), torch.zeros((), dtype=torch.float64), 0
    for i, y in enumerate(batch.targets.tolist()):
        p = {name: values[i].softmax(0) for name, values in z.items()}
        total = total - (1 - lam) * (p["full"][y].log() + p["t"][y].log())
        for learns, fixed in (("s", "us"), ("us", "s"), ("t", "ut"), ("ut", "t")):
            q = p[fixed].detach()
            total = total + lam * (q * (q.log() - p[learns].log())).sum()
        if kendalltau(z["us"][i].detach(), z["ut"][i].detach()).statistic > threshold:
            kept += 1
            wrong = [c for c in range(3) if c != y]
            for learns, fixed in (("us", "ut"), ("ut", "us")):
                q, a = p[fixed][wrong].detach(), p[learns][wrong]
                q, a = q / q.sum(), a / a.sum()
                total = total + lam * (q * (q.log() - a.log())).sum()
    return total / len(batch), kept / len(batch)


@pytest.mark.parametrize(("lam", "threshold"), [(0.5, 0.0), (0.3, -0.5)])
def test_loss_and_gradients_of_both_models_and_proxies_are_the_paper_s(lam: float, threshold: float) -> None:
    batch = made_batch(8)
    built = objective(distill_weight=lam, threshold=threshold)
    output = built(batch)
    output.loss.backward()
    found = {name: p.grad for name, p in built.named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in found} == {"model", "peer", "student_proxy", "teacher_proxy"}
    other = objective(distill_weight=lam, threshold=threshold)
    wanted, kept = plain(other, batch, lam, threshold)
    wanted.backward()
    torch.testing.assert_close(output.loss, wanted, rtol=1e-9, atol=0)  # float64, in another order
    for name, p in other.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-6, atol=1e-10)
    assert output.terms["kept"].item() == pytest.approx(kept)
    assert 0 < kept < 1
    assert sum(term.contribution for term in output.loss_terms).item() == pytest.approx(output.loss.item())


def test_the_finished_teacher_is_not_changed() -> None:
    built = objective()
    before = [p.clone() for p in built.teacher.model.parameters()]
    optimizer = torch.optim.SGD(built.parameters(), lr=0.1)
    built(made_batch(6)).loss.backward()
    optimizer.step()
    assert all(torch.equal(b, p) for b, p in zip(before, built.teacher.model.parameters()))
    assert any(not torch.equal(p, q) for p, q in zip(built.teacher.model.parameters(), built.peer.parameters()))


def test_what_the_teacher_s_run_had_frozen_stays_as_it_is_in_the_copy() -> None:
    masker, student, teacher = DropMasker(), tiny_model(2, dropout=0.5), tiny_model(1, 16, dropout=0.5)
    frozen = {name for name, _ in teacher.named_parameters() if name.startswith("embeddings.")}
    assert frozen
    teacher.embeddings.requires_grad_(False)
    live = LiveTeacher(teacher, DropMasker()).with_masker(masker)
    built = ProxyObjective(student, live, masker, VIEW)
    built.dry_run(made_batch(4))
    assert {name for name, p in built.peer.named_parameters() if not p.requires_grad} == frozen
    built.train()
    assert built.peer.training
    assert not any(part.training for part in built.peer.embeddings.modules() if list(part.parameters()))
    assert built.model.embeddings.training
    before = {name: p.clone() for name, p in built.peer.named_parameters()}
    built(made_batch(6)).loss.backward()
    torch.optim.SGD(built.parameters(), lr=0.1).step()
    moved = {name for name, p in built.peer.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert not moved & frozen


def test_of_examples_that_one_side_does_not_show_only_labels_count() -> None:
    batch, built = made_batch(5), objective()
    having = {"image": torch.tensor([True, False, True, True, False])}
    found = built(replace(batch, having=having))
    terms = {term.name: term.values for term in found.loss_terms}
    everything = {term.name: term.values for term in built(batch).loss_terms}
    for name in ("proxies", "across", "teacher_task"):
        torch.testing.assert_close(terms[name], everything[name].where(having["image"], 0.0))
    assert torch.equal(terms["task"], everything["task"])


def test_an_example_without_a_label_is_distilled() -> None:
    batch, built = made_batch(4), objective()
    num_labelled = torch.tensor(3.0, dtype=torch.float64)
    unlabelled = replace(batch, targets=batch.targets.where(torch.arange(4) != 1, -100), num_labelled=num_labelled)
    terms = {term.name: term.values for term in built(unlabelled).loss_terms}
    assert terms["task"][1] == terms["teacher_task"][1] == 0
    assert terms["proxies"][1] > 0


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    batch, built = made_batch(6), objective()
    halves = [built(take(batch, rows)).loss for rows in ([0, 1, 2], [3, 4, 5])]
    torch.testing.assert_close(sum(halves) / 2, built(batch).loss)


def test_several_labels_leave_those_out_that_are_right() -> None:
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]], dtype=torch.float64)
    built, batch = objective(task="multi_label", threshold=-1.0 + 1e-9), replace(made_batch(3), targets=targets)
    z = logits_of(built, batch)
    p = {name: values.sigmoid() for name, values in z.items()}
    each = sum(p[b] * (p[b] / p[a]).log() + (1 - p[b]) * ((1 - p[b]) / (1 - p[a])).log() for a, b in (("us", "ut"), ("ut", "us")))
    kept = torch.tensor([bool(kendalltau(a.detach(), b.detach()).statistic > -1 + 1e-9) for a, b in zip(z["us"], z["ut"])])
    terms = {term.name: term.values for term in built(batch).loss_terms}
    torch.testing.assert_close(terms["across"], (each * (1 - targets)).sum(1) * kept)


REFUSED = [
    ({"distill_weight": 1.5}, "distill_weight must lie between 0 and 1, got 1.5"),
    ({"threshold": 1.0}, "threshold must be at least -1 and below 1, got 1.0"),
    (
        {"student_summary": "fused.poled"},
        r"objective\.student_summary: wanted a summary of the VisualBert, got 'fused\.poled'\. Did",
    ),
    ({"teacher_summary": "image.1.hidden"}, r"objective\.teacher_summary: wanted a summary of the VisualBert"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_options_that_do_not_fit_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        objective(**options)


@pytest.mark.parametrize("kind", ["ema", "cached"])
def test_a_teacher_that_does_not_run_live_is_refused(kind: str) -> None:
    masker, model = DropMasker(), tiny_model(2)
    teacher = EmaTeacher(model, masker) if kind == "ema" else CachedTeacher(("image", "text"), 3, lambda: None)  # type: ignore[arg-type]
    built = ProxyObjective(model, teacher, masker)
    with pytest.raises(ConfigError, match=r"teacher: c2kd trains a copy of one finished run that runs live .*set cache=false"):
        built.dry_run(made_batch(4))


class Interrupted(BaseException):
    pass


class InterruptAt(Callback):
    def on_step_end(self, runner: Any, output: Any) -> None:
        if runner.update == 7:
            raise Interrupted


def test_a_resumed_run_ends_in_the_bits_of_one_that_was_not_interrupted(tmp_path: Path) -> None:
    def weights(runner: Any) -> Tensor:
        return torch.nn.utils.parameters_to_vector(runner.objective.parameters()).detach()

    whole, _ = tiny_runner(objective=objective())
    whole.fit()
    cut, _ = tiny_runner(objective=objective(), folder=tmp_path, save_at=frozenset({5}))
    cut.callbacks = [InterruptAt()]
    with suppress(Interrupted):
        cut.fit()
    resumed, _ = tiny_runner(objective=objective(), folder=tmp_path)
    assert resume(resumed)
    resumed.fit()
    assert torch.equal(weights(resumed), weights(whole))
    assert not torch.equal(weights(whole), weights(tiny_runner(objective=objective())[0]))


def test_data_and_views_that_do_not_fit_are_told() -> None:
    kinds: Any = {"image": "pixels", "text": "tokens"}

    def check(task: Any, num_classes: int, view: Any = "full") -> list[str]:
        setting = Setting(DatasetInfo(kinds, num_classes, task), ("image",), ("image", "text"), kinds)
        return ProxyObjective.check({"view": view}, setting)

    assert check("single_label", 3) == check("multi_label", 2) == []
    assert check("single_label", 2)[0].startswith("type: c2kd needs three classes or more, got 2")
    assert check("soft_target", 5)[0].startswith("type: c2kd leaves the right class out, and soft targets have several")
    for view in ("image+text*", {"teacher": "full", "student": "image^"}, {"teacher": "image+text*", "student": "image"}):
        assert "shows another row's modality, and such a row has no label" in check("single_label", 3, view)[0]
    assert check("single_label", 3, "txt")[0].startswith("view: view 'txt' names 'txt'")
    view = {"teacher": "image+text*", "student": "image"}
    assert check("single_label", 3, view)[0].startswith("view: view 'image+text*>image' shows another row's modality")


def test_the_student_s_view_is_among_those_that_a_dry_run_tries() -> None:
    assert objective().student_views == ("full", "text")
    assert objective(view="full").student_views == ("full",)


COPIED_OTHERWISE = [
    (["teacher.ema=0.9"], r"teacher\.ema: c2kd trains a copy of one finished run, and the average of the student is none\."),
    (["teacher.checkpoint=[{0}, {1}]"], r"teacher\.checkpoint: c2kd trains a copy of one finished run, and there are 2\."),
    (
        ["teacher.checkpoint={0}", "teacher.cache=true"],
        r"teacher\.cache: c2kd trains a copy .*keeps what it said before\. Set teacher\.cache=false, or",
    ),
]


@pytest.mark.parametrize(("words", "said"), COPIED_OTHERWISE)
def test_teachers_that_cannot_be_copied_are_refused_before_anything_is_loaded(
    tiny_config, tiny_teacher, tmp_path, monkeypatch, words: list[str], said: str
) -> None:
    monkeypatch.setattr("msd_framework.run.try_out", lambda config: pytest.fail("it came as far as the dry run"))
    second = shutil.copytree(tiny_teacher, tmp_path / "second")
    words = [word.format(tiny_teacher, second) for word in words]
    with pytest.raises(ConfigError, match=said) as error:
        run(tiny_config, [*words, "objective=c2kd", "run_type=check", f"env.save_dir={tmp_path / 'run'}"])
    assert not [problem for problem in error.value.problems if problem.path.startswith("objective.features")]


def test_a_teacher_whose_logits_are_read_in_another_way_is_refused(tiny_config, tiny_teacher, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("msd_framework.checks.teacher.read_as", lambda card: "bernoulli")
    words = [f"teacher.checkpoint={tiny_teacher}", "objective=c2kd", "run_type=check", f"env.save_dir={tmp_path}"]
    with pytest.raises(ConfigError, match=r"teacher\.checkpoint: c2kd compares .* by bernoulli, the student's by softmax"):
        run(tiny_config, words)


def test_what_a_dry_run_refuses_keeps_the_key_that_it_names() -> None:
    with pytest.raises(ConfigError) as error, problems_of("objective.features"):
        objective(student_summary="fused.poled")
    assert [problem.path for problem in error.value.problems] == ["objective.student_summary"]


def test_a_run_trains_both_and_its_checkpoint_holds_the_teacher_s_copy(tiny_config, tiny_world, tmp_path) -> None:
    world = shutil.copytree(tiny_world, tmp_path / "world")
    for split in ("train", "dev_seen"):
        rows = [json.loads(line) for line in (world / f"{split}.jsonl").read_text().splitlines()]
        lines = [json.dumps(row | {"label": "abc"[i % 3]}) + "\n" for i, row in enumerate(rows)]
        (world / f"{split}.jsonl").write_text("".join(lines))
    columns = "texts: {text: text}, images: {image: img}, label: label, classes: [a, b, c]"
    data = [f"data.dataset={{type: jsonl, root: {world}, {columns}}}", "data.test=null", "training.log_every=1"]
    run(tiny_config, [*data, f"env.save_dir={tmp_path / 'teacher'}"])
    words = [*data, f"teacher.checkpoint={tmp_path / 'teacher'}", "objective={type: c2kd, view: {teacher: text, student: image}}"]
    run(tiny_config, [*words, f"env.save_dir={tmp_path / 'run'}"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= row["train/kept"] <= 1 for row in rows if "train/kept" in row)
    (first, second) = (row["train/proxies"] for row in rows if "train/proxies" in row)
    assert first != second
    saved = load_file(tmp_path / "run" / "checkpoints" / "last" / "objective.safetensors")
    finished = load_file(tmp_path / "teacher" / "checkpoints" / "last" / "model.safetensors")
    moved = [name for name, value in finished.items() if not torch.equal(saved[f"peer.{name}"], value)]
    assert moved
