"""Weightings that follow the run: their papers' formulas written apart, what they claim, two processes, and resumption."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from msd_framework.callbacks.base import Callback
from msd_framework.engine.distributed import World
from msd_framework.engine.optim import AdamWRecipe, SGDRecipe, decay_groups
from msd_framework.engine.precision import probe_objective
from msd_framework.engine.resume import resume
from msd_framework.errors import ConfigError
from msd_framework.losses.logits import SoftenedKL
from msd_framework.maskers.attention import AttentionMasker
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.visual_bert import VisualBert
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.registry import MODELS, WEIGHTINGS
from msd_framework.run import run
from msd_framework.schedules import Progress
from msd_framework.structures import DatasetInfo, Setting
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch, run_processes
from msd_framework.views import View
from msd_framework.weighting.base import Evidence, WeightingStrategy
from tests.runs import SIZES, tiny_model, tiny_runner
from tests.unit.models.test_models_contract import Case, build_model, every_model, hide, make_inputs

NAMES = ("full", "image", "text")
VIEWS = tuple(View.parse(v) for v in NAMES)
ADAPTIVE: dict[str, Any] = {
    "uncertainty": {"type": "uncertainty", "lr_factor": 5.0},
    "dwa": {"type": "dwa", "window": 2, "temperature": 0.1},
    "gradnorm": {"type": "gradnorm", "lr": 0.1, "every": 2},
    "scheduled": {"type": "scheduled", "start": {"image": 0.0}, "end": {"image": 2.0, "text": 0.5}, "over": 0.8},
}

every_strategy = pytest.mark.parametrize("name", ADAPTIVE)


def evidence(losses: Tensor, gradients: Tensor | None = None) -> Evidence:
    """What a strategy sees; losses [V, B]."""
    logits = torch.zeros(*losses.shape, 2)
    targets = torch.zeros(losses.shape[1], dtype=torch.int64)
    return Evidence(VIEWS, ("image", "text"), logits, logits, losses, losses, None, targets, gradients)


def alone(value: Tensor) -> Tensor:
    """The mean over the processes where there is one."""
    return value


def prepared(spec: Any) -> WeightingStrategy:
    strategy = WEIGHTINGS.build(spec)
    strategy.prepare(VIEWS)
    return strategy


def steps(strategy: WeightingStrategy, losses: Tensor, gradients: Tensor | None = None) -> Tensor:
    """The weights before each update and after the last one, [U + 1, V], for losses [U, V] that all examples share."""
    found = []
    for update, now in enumerate(losses):
        strategy.begin_update(Progress(update, len(losses)))
        seen = evidence(now[:, None].expand(-1, 4), None if gradients is None else gradients[update])
        found.append(strategy(seen))
        strategy.end_update(alone)
    return torch.stack([*found, strategy(seen)]).detach()


loss_tables = st.integers(0, 1000).map(
    lambda seed: torch.rand(12, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01
)


def sure_teacher() -> nn.Module:
    """A teacher whose views differ by much."""
    model = tiny_model(1, 16)
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.ndim >= 2):
            matrix.mul_(30)
    return model


def objective(spec: Any, **options: Any) -> DistillationObjective:
    masker = DropMasker()
    teacher = LiveTeacher(sure_teacher(), masker)
    built = DistillationObjective(tiny_model(2), teacher, masker, list(NAMES), weighting=WEIGHTINGS.build(spec), **options)
    return built.double()


# Any of them


@every_strategy
@settings(max_examples=15)
@given(losses=loss_tables, scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_weights_are_finite_and_not_negative_whatever_the_losses(name: str, losses: Tensor, scale: float) -> None:
    gradients = losses[:, :, None].expand(-1, -1, 5) * scale
    weights = steps(prepared(ADAPTIVE[name]), losses * scale, gradients)
    assert weights.shape == (13, 3)
    assert weights.isfinite().all()
    assert (weights >= 0).all()


@every_strategy
def test_losses_that_are_all_zero_leave_the_weights_finite(name: str) -> None:
    weights = steps(prepared(ADAPTIVE[name]), torch.zeros(6, 3).double(), torch.zeros(6, 3, 5).double())
    assert weights.isfinite().all()


@pytest.mark.parametrize("name", ["dwa", "gradnorm"])
@settings(max_examples=15)
@given(losses=loss_tables)
def test_weights_that_share_out_average_to_one(name: str, losses: Tensor) -> None:
    weights = steps(prepared(ADAPTIVE[name]), losses, losses[:, :, None].expand(-1, -1, 5))
    torch.testing.assert_close(weights.mean(1), torch.ones(13, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["uncertainty", "dwa", "gradnorm"])
def test_every_view_counts_one_at_first(name: str) -> None:
    assert prepared(ADAPTIVE[name])(evidence(torch.rand(3, 4))).tolist() == [1, 1, 1]


@every_strategy
def test_weights_have_the_precision_of_the_losses_at_least_and_no_more_than_float32_needs(name: str) -> None:
    assert prepared(ADAPTIVE[name])(evidence(torch.rand(3, 4))).dtype == torch.float32


# Uncertainty


def test_uncertainty_weights_and_their_penalty_are_kendall_s() -> None:
    strategy = prepared("uncertainty")
    s = torch.tensor([0.3, -0.7, 1.1])
    with torch.no_grad():
        strategy.log_variance.copy_(s)
    torch.testing.assert_close(strategy(evidence(torch.rand(3, 4))), 1 / s.exp().sqrt() ** 2)
    torch.testing.assert_close(strategy.penalty(), s.exp().sqrt().log().sum())  # the sum of log sigma


def test_the_penalty_is_part_of_the_loss_and_teaches_the_variances() -> None:
    batch, lam = made_batch(6), 0.7
    learned, fixed = objective("uncertainty", distill_weight=lam), objective("uniform", distill_weight=lam)
    s = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    with torch.no_grad():
        learned.weighting.log_variance.copy_(s)
    output, plain = learned(batch), fixed(batch)
    d = torch.stack([plain.terms[f"distill/{v}"] for v in NAMES])
    wanted = (1 - lam) * plain.terms["task"] + lam * ((-s).exp() * d).sum() + lam * s.sum() / 2
    assert abs(output.loss.item() - wanted.item()) <= 1e-12
    output.loss.backward()
    torch.testing.assert_close(learned.weighting.log_variance.grad, lam * (0.5 - (-s).exp() * d), rtol=1e-10, atol=1e-12)


def test_uncertainty_weights_tend_to_one_over_twice_the_loss() -> None:
    strategy, losses = prepared("uncertainty"), torch.tensor([2.0, 0.5, 0.1])
    optimizer = torch.optim.Adam(strategy.parameters(), lr=0.02)
    for _ in range(800):
        optimizer.zero_grad()
        (strategy(evidence(losses[:, None])) * losses).sum().add(strategy.penalty()).backward()
        optimizer.step()
    torch.testing.assert_close(strategy(evidence(losses[:, None])).detach(), 1 / (2 * losses), rtol=1e-2, atol=0)


@pytest.mark.parametrize("recipe", [AdamWRecipe(lr=1e-3), SGDRecipe(lr=1e-3)])
def test_the_variances_learn_at_a_rate_of_their_own_without_decay(recipe) -> None:
    built = objective({"type": "uncertainty", "lr_factor": 30.0})
    optimizer = recipe.build(built)
    own = [g for g in optimizer.param_groups if any(p is built.weighting.log_variance for p in g["params"])]
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in own] == [(pytest.approx(0.03), 0.0, 1)]
    assert {g["lr"] for g in optimizer.param_groups if g is not own[0]} == {1e-3}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(built.parameters()))


def test_parameters_without_a_rate_of_their_own_are_in_the_usual_two_groups() -> None:
    assert len(decay_groups(objective("uniform"), 0.1, 1e-3)) == 2


# Dynamic weight average


@settings(max_examples=20)
@given(loss_tables, st.sampled_from([1, 2, 3, 4]), st.floats(0.2, 5))
def test_dwa_weights_are_the_softmax_of_the_ratios_of_the_last_two_windows(losses: Tensor, window: int, t: float) -> None:
    found = steps(prepared({"type": "dwa", "window": window, "temperature": t}), losses).numpy()
    means = losses.numpy().reshape(-1, window, 3).mean(1)  # by window
    for update in range(13):
        done = update // window
        r = means[done - 1] / means[done - 2] if done >= 2 else np.ones(3)
        wanted = 3 * np.exp(r / t) / np.exp(r / t).sum()
        np.testing.assert_allclose(found[update], wanted, rtol=1e-6, atol=1e-9)  # 1e-12 is added to losses of 0.01 and more


def test_a_window_below_one_is_a_share_of_the_run() -> None:
    losses = torch.rand(12, 3, dtype=torch.float64)
    share, whole = (steps(prepared({"type": "dwa", "window": w}), losses) for w in (0.25, 3))
    assert torch.equal(share, whole)


def test_dwa_gives_more_to_a_view_whose_loss_does_not_fall() -> None:
    falling = torch.linspace(1, 0.1, 12, dtype=torch.float64)
    weights = steps(prepared({"type": "dwa", "window": 2}), torch.stack([falling, falling, torch.ones_like(falling)], 1))[-1]
    assert weights[2] > weights[0] == weights[1]


# GradNorm


def gradnorm_by_autograd(losses: Tensor, gradients: Tensor, alpha: float, lr: float) -> Tensor:
    """Algorithm 1 of Chen et al., with the slope of L_grad found by autograd and divided by the mean norm."""
    w, first = torch.ones(3, dtype=torch.float64), losses[0]
    for now, g in zip(losses, gradients):
        w = w.clone().requires_grad_()
        norms = w * g.norm(dim=1)
        mean = norms.mean().detach()
        r = (now / first) / (now / first).mean()
        l_grad = (norms - mean * r**alpha).abs().sum()
        (slope,) = torch.autograd.grad(l_grad, w)
        w = (w - lr * slope / mean).detach().clamp(min=0)
        w = 3 * w / w.sum()
    return w


@settings(max_examples=20)
@given(loss_tables, st.floats(0, 2), st.sampled_from([0.01, 0.1]))
def test_gradnorm_weights_are_those_of_the_paper_s_algorithm(losses: Tensor, alpha: float, lr: float) -> None:
    gradients = torch.randn(12, 3, 7, generator=torch.Generator().manual_seed(int(1e6 * losses[0, 0])), dtype=torch.float64)
    found = steps(prepared({"type": "gradnorm", "alpha": alpha, "lr": lr}), losses, gradients)[-1]
    torch.testing.assert_close(found, gradnorm_by_autograd(losses, gradients, alpha, lr), rtol=1e-8, atol=1e-8)


def test_gradnorm_makes_views_pull_alike_where_alpha_is_zero() -> None:
    gradients = torch.diag(torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)).expand(400, 3, 3)
    weights = steps(prepared({"type": "gradnorm", "alpha": 0.0, "lr": 0.01}), torch.ones(400, 3).double(), gradients)[-1]
    pulls = weights * torch.tensor([1.0, 4.0, 0.5])
    assert pulls.max() / pulls.min() < 1.15  # it oscillates by lr
    assert (torch.tensor([1.0, 4.0, 0.5]).max() / torch.tensor([1.0, 4.0, 0.5]).min()) == 8


def test_gradnorm_gives_more_to_a_view_that_learns_slowly() -> None:
    falling = torch.linspace(1, 0.2, 100, dtype=torch.float64)
    losses = torch.stack([falling, torch.ones_like(falling), falling], 1)
    weights = steps(prepared({"type": "gradnorm", "alpha": 1.5}), losses, torch.eye(3).double().expand(100, 3, 3))[-1]
    assert weights[1] > 1.3 * weights[0]


def test_gradnorm_looks_at_the_last_layer_every_so_many_updates() -> None:
    strategy, model = prepared({"type": "gradnorm", "every": 3}), tiny_model(0)
    looked = []
    for update in range(7):
        strategy.begin_update(Progress(update, 7))
        looked.append([p is model.head.weight for p in strategy.watched(model)])
    assert looked == [[True], [], [], [True], [], [], [True]]


@every_model
def test_each_view_reaches_what_gradnorm_looks_at_in_every_model(case: Case) -> None:
    strategy, model, inputs = prepared("gradnorm"), build_model(case), make_inputs(case)
    strategy.begin_update(Progress(0, 1))
    watched = strategy.watched(model)
    assert {p.shape[0] for p in watched} == {3}
    for modality in model.modalities:
        others = tuple(m for m in model.modalities if m != modality)
        shown = hide(inputs, others, AttentionMasker())
        found = torch.autograd.grad(model(shown).logits.square().sum(), watched, materialize_grads=True)
        assert any(g.ne(0).any() for g in found)


@every_model
def test_what_gradnorm_looks_at_is_all_that_gives_the_logits(case: Case) -> None:
    """Without those weights and their biases a model says 0 of every example, and without one of them it says something else."""
    model, inputs = build_model(case), make_inputs(case)
    layers = model.output_layers()
    logits = model(inputs).logits
    for layer in layers:
        for parameter in layer.parameters():
            parameter.data.zero_()
        assert not torch.equal(model(inputs).logits, logits)
    assert not model(inputs).logits.any()


class HiddenAsWideAsClasses(nn.Module):
    """Has layers with C outputs before the last one, and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last((self.first(x) * self.gate(x).sigmoid()).relu())
        return logits


def test_hidden_layers_as_wide_as_there_are_classes_are_not_looked_at() -> None:
    encoders = {m: {"type": "transformer", "hidden_size": 3, "num_heads": 1, "num_layers": 1} for m in ("text", "title")}
    three = {"num_classes": 3, "vocab_size": 9, "pad_id": 0, "cls_id": 1, "sep_id": 2}
    specs = {"type": "late_fusion", "encoders": encoders, "hidden_size": 3}, {"type": "logit_fusion", "encoders": encoders}
    late, mean = (MODELS.build(spec, facts=three) for spec in specs)
    assert late.output_layers() == [late.classifier[-1]]
    assert mean.output_layers() == list(mean.classifiers.values())
    wide = VisualBert(num_classes=8, hidden_size=8, num_layers=1, head="transform", **SIZES)
    assert wide.output_layers() == [wide.head[-1]]
    own = MODELS.build({"type": "module", "target": f"{__name__}.HiddenAsWideAsClasses", "inputs": {"sound": "x"}}, facts=three)
    assert own.output_layers() == [own.module.last]


def test_gradnorm_tells_of_a_model_whose_last_layer_does_not_learn() -> None:
    strategy, model = prepared("gradnorm"), tiny_model(0)
    model.head.requires_grad_(False)
    strategy.begin_update(Progress(0, 1))
    with pytest.raises(ValueError, match=r"give the 3 logits, and VisualBert has none that learns\. Take another weighting"):
        strategy.watched(model)


def test_the_gradients_in_the_evidence_are_those_of_each_view_s_mean_loss() -> None:
    seen: list[Evidence] = []

    class Watcher(WeightingStrategy):
        def watched(self, model: nn.Module) -> list[nn.Parameter]:
            return [model.head.weight, model.head.bias]

        def forward(self, evidence: Evidence) -> Tensor:
            seen.append(evidence)
            return evidence.losses.new_ones(3)

    batch, built = made_batch(5), objective("uniform", distill_loss=SoftenedKL(2.0))
    built.weighting = Watcher()
    built(batch).loss.backward()  # the graph is still there
    masker, loss = DropMasker(), SoftenedKL(2.0)
    for v, name in enumerate(NAMES):
        student, shown = tiny_model(2), masker.view(batch, name).inputs
        teacher = sure_teacher().eval()(shown)
        loss(student(shown), teacher).mean().backward()
        wanted = torch.cat([student.head.weight.grad.flatten(), student.head.bias.grad])
        torch.testing.assert_close(seen[0].gradients[v], wanted, rtol=0, atol=1e-12)
    with torch.no_grad():
        built(batch)
    assert seen[1].gradients is None


# Scheduled


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_scheduled_weights_go_from_start_to_end(shape: str) -> None:
    spec = {"type": "scheduled", "start": {"image": 0.0}, "end": {"text": 3.0}, "begin": 0.25, "over": 0.5, "shape": shape}
    weights = steps(prepared(spec), torch.ones(8, 3))
    assert weights[:, 0].tolist() == [1] * 9
    assert weights[[0, 2, 4, 6, 7]][:, 1].tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert weights[[0, 2, 4, 6, 7]][:, 2].tolist() == pytest.approx([1, 1, 2, 3, 3])


def test_scheduled_weights_of_no_view_are_told_with_the_nearest_name() -> None:
    kinds = {"image": "pixels", "text": "tokens"}
    setting = Setting(DatasetInfo(kinds, 3, "single_label"), ("image", "text"), ("image", "text"), kinds)
    found = WEIGHTINGS.get("scheduled").check({"start": {"imagee": 1.0}, "end": {"text": 1.0, "txt": 0.0}}, setting, VIEWS)
    assert found == [
        "start: 'imagee' is not one of the views full, image, text. Did you mean 'image'?",
        "end: 'txt' is not one of the views full, image, text. Did you mean 'text'?",
    ]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "uncertainty", "lr_factor": 0.0}, "lr_factor must be above 0, got 0.0"),
        ({"type": "dwa", "window": 0.0}, "window must be above 0, got 0.0"),
        ({"type": "dwa", "temperature": -1.0}, "temperature must be above 0, got -1.0"),
        ({"type": "gradnorm", "alpha": -1.0}, "alpha must be 0 or more, got -1.0"),
        ({"type": "gradnorm", "lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"type": "gradnorm", "every": 0}, "every must be above 0, got 0"),
        ({"type": "scheduled", "start": {"image": -1.0}}, "start: the weight of 'image' must be at least 0, got -1.0"),
        ({"type": "scheduled", "end": {"image": -1.0}}, "end: the weight of 'image' must be at least 0, got -1.0"),
        ({"type": "scheduled", "over": 2.0}, "over must be above 0 and at most 1, got 2.0"),
        ({"type": "scheduled", "shape": "cosin"}, "Did you mean 'cosine'"),
    ],
)
def test_options_out_of_range_are_refused(spec: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WEIGHTINGS.build(spec)


# In a run


class Weights(Callback):
    """Keeps the weights and the losses that are logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, runner, terms) -> None:
        self.rows.append({k: v for k, v in terms.items() if k.startswith(("weight/", "loss"))})


def run_of(name: str, world: World | None = None, accumulate: int = 1, **options: Any) -> tuple[Any, Weights]:
    """A run whose weights, temperature and lambda all follow it."""
    loss, weight = SoftenedKL({"start": 4.0, "end": 1.0, "over": 0.7}), {"start": 0.9, "end": 0.3, "shape": "cosine"}
    built = objective(ADAPTIVE[name], distill_loss=loss, distill_weight=weight)
    runner, _ = tiny_runner(world, accumulate, objective=built, **options)
    weights = Weights()
    runner.callbacks = [weights]
    return runner, weights


def result(runner: Any, weights: Weights) -> dict[str, Any]:
    return {"rows": weights.rows, "weights": nn.utils.parameters_to_vector(runner.objective.parameters()).tolist()}


def _train_all(folder: str) -> None:
    with World.join("cpu") as world:
        for name in ADAPTIVE:
            runner, weights = run_of(name, world, accumulate=2)
            runner.fit()
            (Path(folder) / f"{name}_{world.rank}.json").write_text(json.dumps(result(runner, weights)))


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    run_processes(_train_all, 2, str(folder))
    return folder


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Weights and losses in the same float64 numbers, but for the order of sums."""
    assert len(found["rows"]) == len(wanted["rows"])
    for ours, theirs in zip(found["rows"], wanted["rows"]):
        assert ours == pytest.approx(theirs, abs=1e-9)
    np.testing.assert_allclose(found["weights"], wanted["weights"], rtol=0, atol=1e-8)


@every_strategy
def test_the_weights_change_in_a_run(name: str) -> None:
    runner, weights = run_of(name)
    runner.fit()
    changes = [max(row[f"weight/{v}"] for row in weights.rows) - min(row[f"weight/{v}"] for row in weights.rows) for v in NAMES]
    assert max(changes) > 0.05


@every_strategy
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_with_two_parts_each_have_the_weights_of_one(name: str, rank: int, of_two_processes: Path) -> None:
    runner, weights = run_of(name)
    runner.fit()
    found = json.loads((of_two_processes / f"{name}_{rank}.json").read_text())
    same(found, result(runner, weights))


@every_strategy
def test_parts_of_a_batch_have_the_weights_of_the_whole(name: str) -> None:
    (whole, weights), (parts, others) = run_of(name), run_of(name, accumulate=4)
    whole.fit()
    parts.fit()
    same(result(parts, others), result(whole, weights))


class InterruptionError(BaseException):
    pass


class InterruptAt(Callback):
    def __init__(self, update: int):
        self.update = update

    def on_step_end(self, runner, output) -> None:
        if runner.update == self.update:
            raise InterruptionError


@every_strategy
@pytest.mark.parametrize("saved", [3, 6])  # within a window and at its end, between two looks and at one
def test_a_resumed_run_ends_in_the_bits_of_one_that_was_not_interrupted(name: str, saved: int, tmp_path: Path) -> None:
    whole, weights = run_of(name)
    whole.fit()

    cut, _ = run_of(name, folder=tmp_path, save_at=frozenset({saved}))
    cut.callbacks = [InterruptAt(8)]
    with suppress(InterruptionError):
        cut.fit()
    resumed, rest = run_of(name, folder=tmp_path)
    assert resume(resumed)
    resumed.fit()
    assert rest.rows == weights.rows[saved:]
    assert result(resumed, rest)["weights"] == result(whole, weights)["weights"]


@every_strategy
def test_measuring_precisions_beforehand_does_not_disturb_the_weights(name: str) -> None:
    (plain, weights), (probed, others) = run_of(name), run_of(name)
    plain.fit()
    probe_objective(probed.objective, probed.batches.starting_at(0), rounds=1)
    torch.manual_seed(3)
    probed.fit()
    assert others.rows == weights.rows


@every_strategy
def test_a_strategy_is_one_line_of_a_configuration(name: str, tiny_config, tiny_teacher, tmp_path) -> None:
    spec = ADAPTIVE[name] | {"type": name}
    words = ["objective={type: distillation, views: [full, image, text]}", f"objective.weighting={json.dumps(spec)}"]
    assert run(tiny_config, [*words, f"teacher.checkpoint={tiny_teacher}", f"env.save_dir={tmp_path / 'run'}"])
