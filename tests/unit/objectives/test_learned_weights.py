"""Learned weights: their gradient against second derivatives by autograd, what is planted for them to find, held-out examples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from msd_framework.analysis.study.trajectory import weight_trajectories
from msd_framework.callbacks.base import Callback
from msd_framework.data.batches.plan import hold_out
from msd_framework.engine.distributed import World
from msd_framework.engine.look_ahead import LookAhead, OptimizerStep
from msd_framework.engine.optim import AdamWRecipe, SGDRecipe
from msd_framework.engine.precision import BF16, FP32, Precision, probe_objective
from msd_framework.engine.resume import resume
from msd_framework.engine.runner import Runner
from msd_framework.errors import ConfigError, MSDError
from msd_framework.losses.dist import ClassRelations
from msd_framework.models import visual_bert
from msd_framework.models.layers import packed, recorded
from msd_framework.models.layers.recorded import called_with
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.supervised import SupervisedObjective
from msd_framework.objectives.traced import Recorded, Replayed
from msd_framework.registry import OBJECTIVES, WEIGHTINGS
from msd_framework.run import run
from msd_framework.schedules import Progress
from msd_framework.structures import Batch, ModelOutput, tree_map
from msd_framework.testing import made_batch
from msd_framework.views import View
from msd_framework.weighting.base import Evidence
from msd_framework.weighting.learned import Adam, LearnedWeights, WeightInputs
from tests.learned_runs import LAMBDA, VIEWS, Weights, learned_run, objective, result, student
from tests.runs import started_together

LR = 0.05
RECIPES = {
    "sgd": SGDRecipe(lr=LR, weight_decay=0.1),
    "momentum": SGDRecipe(lr=LR, momentum=0.9),
    "nesterov": SGDRecipe(lr=LR, momentum=0.9, nesterov=True),
    "adamw": AdamWRecipe(lr=LR, weight_decay=0.1),
}


class OneAfterAnother:
    """Batches, one an update."""

    def __init__(self, batches: Sequence[Batch]):
        self.batches = batches

    def starting_at(self, update: int) -> Iterator[Batch]:
        return iter(self.batches[update:])


# The gradient
#
# Claim: the slopes that the weights learn from are w * dL/dw, L the held-out loss after the optimizer's step.
# Input: three updates of a tiny student.
# Oracle: autograd through the loss of the update, and through the optimizer's formula written out here.


@dataclass
class Update:
    """The slopes of one update, and what they must be.

    Args:
        slopes: what the library gave to the weighting, [V, B].
        gradient: the oracle's dL/dw, [V, B].
        weights: w, [V, B].
    """

    slopes: Tensor
    gradient: Tensor
    weights: Tensor

    @property
    def expected(self) -> Tensor:
        return self.weights * self.gradient


class Watched:
    """Keeps the weights that a weighting gives and the slopes that it gets."""

    def __init__(self, weighting: LearnedWeights):
        self.weights, self.slopes = list[Tensor](), list[Tensor]()
        self.give, self.get = weighting.forward, weighting.learn
        weighting.forward, weighting.learn = self.forward, self.learn  # type: ignore[method-assign]

    def forward(self, evidence: Evidence) -> Tensor:
        weights = self.give(evidence)
        self.weights.append(weights.detach())
        return weights

    def learn(self, slopes: Sequence[Tensor], mean: Any) -> None:
        self.slopes.extend(slopes)
        self.get(slopes, mean)


def updates_of(
    built: DistillationObjective, recipe: Any, clip: float | None, kind: type, updates: int = 3, precision: Precision = FP32
) -> Iterator[Update]:
    """Makes updates as the runner does, and asks the oracle about each before it is made."""
    optimizer = recipe.build(built)
    held_out = OneAfterAnother([made_batch(5, seed=100 + i) for i in range(updates)])
    look_ahead = LookAhead(built, held_out, optimizer, clip_norm=clip)
    watched = Watched(built.weighting)
    torch.manual_seed(0)
    built.train()
    for update in range(updates):
        batch = made_batch(6, seed=update)
        built.begin_update(Progress(update, updates))
        random_before = torch.get_rng_state()
        output = built(batch)
        assert type(built.traced[0]) is kind

        weights = watched.weights[-1]
        weights = weights if weights.ndim == 2 else weights[:, None].expand(-1, len(batch))
        random_after = torch.get_rng_state()
        torch.set_rng_state(random_before)  # the oracle drops the same features
        gradient = held_out_gradient(built, optimizer, batch, held_out.batches[update], weights, clip, kind)
        torch.set_rng_state(random_after)

        output.loss.backward()
        norm = nn.utils.clip_grad_norm_(built.parameters(), torch.inf if clip is None else clip)
        optimizer.step()
        built.after_step(OptimizerStep(update, precision, norm, World(), look_ahead))
        optimizer.zero_grad()
        built.end_update(lambda x: x)
        yield Update(watched.slopes[-1], gradient, weights)


def held_out_gradient(
    built: DistillationObjective, optimizer: Any, batch: Batch, held_out: Batch, weights: Tensor, clip: float | None, kind: type
) -> Tensor:
    """The oracle: dL/dw, [V, B], by second derivatives. It leaves the model as it is."""
    model = built.model
    names, theta = zip(*((n, p.detach().clone().requires_grad_()) for n, p in model.named_parameters() if p.requires_grad))
    w = weights.clone().requires_grad_()

    loss = weighted_loss(built, batch, w, dict(zip(names, theta)), kind)
    gradients = torch.autograd.grad(loss, theta, create_graph=True)
    if clip is not None:
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        gradients = [g * (clip / (norm + 1e-6)).clamp(max=1) for g in gradients]
    moved = {n: after_step(optimizer, model.get_parameter(n), t, g) for n, t, g in zip(names, theta, gradients)}

    model.eval()
    after = F.cross_entropy(functional_call(model, moved, (held_out.inputs,)).logits, held_out.targets)
    built.train()
    return torch.autograd.grad(after, w)[0]


def weighted_loss(built: DistillationObjective, batch: Batch, w: Tensor, theta: dict[str, Tensor], kind: type) -> Tensor:
    """The objective's equation, as a function of the weights [V, B] and of the student's parameters."""
    model = built.model
    inputs = [built.masker.view(batch, v).inputs for v in built.student_views]

    def logits_of_views() -> Tensor:
        if kind is Recorded:  # with its rows in the same order, it drops the same features
            return model.record_views(inputs, {i for i in built.own_rows() if i is not None}).logits
        return model.forward_views(inputs).logits

    student = built.by_view(called_with(model, theta, logits_of_views))
    task = F.cross_entropy(student[0], batch.targets, reduction="none")
    distill = []
    for logits, view in zip(student[1:], built.views):
        with torch.no_grad():
            teacher = built.teacher.predict(batch, [view.teacher]).logits[0]
        distill.append(built.distill_loss(ModelOutput(logits), ModelOutput(teacher)))
    return ((1 - LAMBDA) * task + LAMBDA * (w * torch.stack(distill)).sum(0)).mean()


def after_step(optimizer: Any, parameter: nn.Parameter, theta: Tensor, gradient: Tensor) -> Tensor:
    """A parameter after a step of AdamW or SGD, by their formulas, with the optimizer's own options and state."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    state = optimizer.state.get(parameter, {})
    if "betas" in group:
        b1, b2 = group["betas"]
        step = float(state.get("step", 0)) + 1
        m = b1 * state.get("exp_avg", 0.0) + (1 - b1) * gradient
        v = b2 * state.get("exp_avg_sq", 0.0) + (1 - b2) * gradient**2
        # the square root has no derivative at 0
        root = torch.where(v > 0, (v.where(v > 0, 1.0) / (1 - b2**step)).sqrt(), 0.0)
        return theta * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * (m / (1 - b1**step)) / (root + group["eps"])
    gradient = gradient + group["weight_decay"] * theta
    if group["momentum"]:
        old = state.get("momentum_buffer")
        buffer = gradient if old is None else group["momentum"] * old + gradient
        gradient = gradient + group["momentum"] * buffer if group["nesterov"] else buffer
    return theta - group["lr"] * gradient


EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.mark.parametrize(("per", "dropout"), [("example", 0.3), ("view", 0.3), ("example", 0.0)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_inner_products_are_the_gradient_through_a_step_of_the_optimizer(recipe: str, per: str, dropout: float) -> None:
    built = objective(student(dropout), per=per, lr=0.05)
    for update in updates_of(built, RECIPES[recipe], None, Recorded):
        torch.testing.assert_close(update.slopes[1:], update.expected[1:], **EXACT)
        assert update.gradient[1:].abs().max() > 1e-6


@pytest.mark.parametrize("clip", [0.02, 1e3])
@pytest.mark.parametrize("recipe", ["momentum", "adamw"])
def test_clipping_is_part_of_the_gradient(recipe: str, clip: float) -> None:
    built = objective(student(0.3), lr=0.05)
    for update in updates_of(built, RECIPES[recipe], clip, Recorded):
        torch.testing.assert_close(update.slopes[1:], update.expected[1:], **EXACT)


@pytest.mark.parametrize("kind", [Recorded, Replayed])
@pytest.mark.parametrize("recipe", [AdamWRecipe, SGDRecipe])
def test_the_gradient_is_exact_where_parts_learn_at_their_own_rate_or_not_at_all(recipe: Any, kind: type) -> None:
    groups = {"embeddings": {"lr": 0.2, "weight_decay": 0.3}, "encoder.layers.1": 0.01}
    made = recipe(lr=LR, groups=groups, frozen=["embeddings.word", "encoder.layers.0", "head.bias"], layer_decay=0.5)
    model = student(0.3, packed=kind is Recorded)
    made.parts.freeze(model)
    built = objective(model, lr=0.05)
    assert {group["lr"] for group in made.build(built).param_groups if group["params"]} == {LR, 0.2 * 0.5**3, 0.01 * 0.5}
    for update in updates_of(built, made, 0.02, kind):
        torch.testing.assert_close(update.slopes[1:], update.expected[1:], **EXACT)
        assert update.gradient[1:].abs().max() > 1e-6


def test_the_gradient_is_exact_where_nobody_can_look_at_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (packed, recorded, visual_bert):
        monkeypatch.setattr(module, "can_look", lambda tensor: False)
    built = objective(student(0.3), lr=0.05)
    for update in updates_of(built, RECIPES["adamw"], None, Recorded):
        torch.testing.assert_close(update.slopes[1:], update.expected[1:], **EXACT)


CROSSMODAL = ["image", {"teacher": "text", "student": "image"}, {"teacher": "image", "student": "full"}]


@pytest.mark.parametrize(
    ("options", "views", "kind"),
    [
        ({"num_layers": 1, "head": "transform"}, VIEWS, Recorded),
        ({"share_embedding_dropout": False}, ["text", "image"], Recorded),
        ({"num_layers": 3}, ["full", {"teacher": "image", "student": "text"}], Recorded),
        ({"packed": False}, VIEWS, Replayed),
        ({}, CROSSMODAL, Replayed),
    ],
    ids=["one layer", "dropout of its own", "three layers", "padded", "views that share what the student sees"],
)
def test_the_gradient_is_exact_for_every_form_of_a_student(options: dict[str, Any], views: list[Any], kind: type) -> None:
    built = objective(student(0.3, **options), views, lr=0.05)
    learned = torch.tensor([v != "full" for v in views])
    for update in updates_of(built, RECIPES["adamw"], None, kind):
        torch.testing.assert_close(update.slopes[learned], update.expected[learned], **EXACT)


@pytest.mark.parametrize("options", [{"full_weight": None}, {"loss": ClassRelations()}], ids=["full view", "relations"])
def test_the_gradient_is_exact_where_rows_have_more_than_one_loss_and_losses_more_than_one_row(options: dict[str, Any]) -> None:
    built = objective(student(0.3), lr=0.05, **options)
    learned = slice(0 if "full_weight" in options else 1, None)
    for update in updates_of(built, RECIPES["momentum"], None, Replayed):
        torch.testing.assert_close(update.slopes[learned], update.expected[learned], **EXACT)


def test_bfloat16_gives_the_slopes_of_float32_but_for_its_rounding() -> None:
    def slopes(precision: Precision) -> Tensor:
        built = objective(student(0.0)).float()
        built.teacher.model.float()  # type: ignore[attr-defined]
        optimizer = RECIPES["momentum"].build(built)
        batch, held_out = (tree_map(lambda x: x.float() if x.is_floating_point() else x, made_batch(6, seed)) for seed in (0, 1))
        found: list[Tensor] = []
        built.weighting.learn = lambda slopes, mean: found.extend(slopes)  # type: ignore[method-assign]
        built.train().begin_update(Progress(0, 1))
        with precision.autocast(torch.device("cpu")):
            loss = built(batch).loss
        loss.backward()
        optimizer.step()
        look_ahead = LookAhead(built, OneAfterAnother([held_out]), optimizer)
        built.after_step(OptimizerStep(0, precision, torch.zeros(()), World(), look_ahead))
        return found[0][1:]

    wanted, found = slopes(FP32), slopes(BF16)
    assert found.dtype == torch.float32
    assert F.cosine_similarity(found.flatten(), wanted.flatten(), 0) > 0.98  # 8 bits of each product, summed over a step and back


# The optimizer of the net


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([1e-6, 1.0, 1e3]), st.sampled_from([0.0, 0.1]))
def test_the_net_s_optimizer_is_torch_s(seed: int, scale: float, decay: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours = torch.randn(5, generator=generator, dtype=torch.float64)
    theirs, adam = nn.Parameter(ours.clone()), Adam(5, lr=0.01, weight_decay=decay).double()
    optimizer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=decay, eps=1e-12)
    for _ in range(5):
        theirs.grad = scale * torch.randn(5, generator=generator, dtype=torch.float64)
        optimizer.step()
        ours = adam(ours, theirs.grad)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-9)


# What the net is shown


NAMES = tuple(View.parse(v) for v in VIEWS)


def evidence(num_examples: int = 4, **changed: Any) -> Evidence:
    g = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(3, num_examples, 3, generator=g) for _ in range(2))
    losses, teacher_losses = (torch.rand(3, num_examples, generator=g) for _ in range(2))
    targets = torch.zeros(num_examples, dtype=torch.int64)
    return replace(Evidence(NAMES, ("image", "text"), teacher, student, losses, teacher_losses, None, targets), **changed)


def test_the_net_is_shown_what_it_asks_for() -> None:
    names = ["view", "loss", "teacher_loss", "entropy", "probabilities", "saliency"]
    seen = evidence(saliency=torch.rand(4, 2))
    found = WeightInputs(names, num_views=3, num_classes=3, task="single_label")(seen)
    p = seen.teacher.softmax(-1)
    salient = torch.stack([seen.saliency.sum(1), seen.saliency[:, 0], seen.saliency[:, 1]])
    columns = [seen.losses, seen.teacher_losses, torch.distributions.Categorical(p).entropy()]
    wanted = [torch.eye(3)[:, None].expand(-1, 4, -1), *(c[..., None] for c in columns), p, salient[..., None]]
    torch.testing.assert_close(found, torch.cat(wanted, -1))


def test_several_labels_have_an_entropy_each() -> None:
    seen = evidence()
    found = WeightInputs(["entropy", "probabilities"], num_views=3, num_classes=3, task="multi_label")(seen)
    p = seen.teacher.sigmoid()
    torch.testing.assert_close(found[..., 0], torch.distributions.Bernoulli(p).entropy().mean(-1))
    torch.testing.assert_close(found[..., 1:], p)


@pytest.mark.parametrize(("per", "shape"), [("example", (3, 4)), ("view", (3,))])
def test_weights_begin_at_half_their_largest_and_the_full_view_keeps_its_own(per: str, shape: tuple[int, ...]) -> None:
    weighting = LearnedWeights(per=per, largest=3.0, full_weight=1.4)  # type: ignore[arg-type]
    weighting.prepare(NAMES)
    found = weighting(evidence())
    assert found.shape == shape
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.flatten(1) if found.ndim == 2 else found[:, None], torch.tensor([[1.4], [1.5], [1.5]]).expand(3, found[0].numel())
    )


def test_the_net_goes_where_the_slopes_point() -> None:
    weighting = LearnedWeights(lr=0.01)
    weighting.prepare(NAMES)
    for update in range(30):
        weighting.begin_update(Progress(update, 30))
        weighting(evidence())
        weighting.learn([torch.tensor([[0.0], [1e-7], [-1e-7]]).expand(3, 4)], lambda x: x)  # the image's weights raise the loss
    _, image, text = weighting(evidence())
    assert (image < 0.95).all()
    assert (text > 1.05).all()


def test_the_run_s_random_numbers_know_nothing_of_the_net() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    LearnedWeights(seed=5).prepare(NAMES)
    assert torch.equal(torch.rand(3), wanted)


# In a run


@pytest.mark.parametrize("options", [{}, {"per": "view"}, {"order": "before"}, {"packed": False, "every": 3}], ids=str)
def test_parts_of_a_batch_learn_the_weights_of_the_whole(options: dict[str, Any]) -> None:
    found, wanted = (result(*fitted(accumulate=parts, **options)) for parts in (2, 1))
    for ours, theirs in zip(found["rows"], wanted["rows"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)
    np.testing.assert_allclose(found["parameters"], wanted["parameters"], rtol=0, atol=1e-7)
    weights = [row["weight/text"] for row in wanted["rows"]]
    assert max(weights) - min(weights) > 0.02


def fitted(**options: Any) -> tuple[Runner, Weights]:
    runner, weights = learned_run(**options)
    runner.fit()
    return runner, weights


def test_a_rehearsed_update_learns_before_it_is_made() -> None:
    before, after = (fitted(order=order, dropout=0.3)[1].rows for order in ("before", "after"))
    assert after[0]["weight/text"] == 1.0
    assert before[0]["weight/text"] != 1.0


def test_an_update_that_is_rehearsed_drops_the_same_features_and_starts_from_the_same_optimizer() -> None:
    runner, _ = learned_run(order="before", dropout=0.3, packed=False)
    plain, _ = learned_run(order="after", dropout=0.3, packed=False)
    for one in (runner, plain):
        torch.manual_seed(3)
        one.objective.weighting.learn = lambda slopes, mean: setattr(one.objective.weighting, "looks_ahead", False)  # noqa: B023
        one.fit()
    for a, b in zip(runner.objective.model.parameters(), plain.objective.model.parameters()):
        assert torch.equal(a, b)


class InterruptionError(BaseException):
    pass


class InterruptAt(Callback):
    def __init__(self, update: int):
        self.update = update

    def on_step_end(self, runner, output) -> None:
        if runner.update == self.update:
            raise InterruptionError


@pytest.mark.parametrize("options", [{}, {"per": "view", "every": 3}, {"order": "before", "packed": False}], ids=str)
def test_a_resumed_run_ends_in_the_bits_of_one_that_was_not_interrupted(options: dict[str, Any], tmp_path: Path) -> None:
    whole, weights = fitted(dropout=0.3, **options)
    cut, _ = learned_run(folder=tmp_path, dropout=0.3, save_at=frozenset({4}), **options)
    cut.callbacks = [InterruptAt(6)]
    with suppress(InterruptionError):
        cut.fit()
    resumed, rest = learned_run(folder=tmp_path, dropout=0.3, **options)
    assert resume(resumed)
    resumed.fit()
    assert rest.rows == weights.rows[4:]
    assert result(resumed, rest)["parameters"] == result(whole, weights)["parameters"]


def test_measuring_precisions_beforehand_does_not_disturb_the_weights() -> None:
    (plain, weights), (probed, others) = learned_run(dropout=0.3), learned_run(dropout=0.3)
    plain.fit()
    probe_objective(probed.objective, probed.batches.starting_at(0), rounds=1)
    torch.manual_seed(3)
    probed.fit()
    assert others.rows == weights.rows


# Held-out examples


@settings(max_examples=25)
@given(st.integers(2, 200), st.floats(0.01, 0.99), st.integers(0, 5))
def test_an_example_is_either_trained_on_or_held_out(num_examples: int, share: float, seed: int) -> None:
    rest, held_out = hold_out(num_examples, share, seed)
    assert sorted([*rest, *held_out]) == list(range(num_examples))
    assert len(held_out) == round(share * num_examples)
    assert [x.tolist() for x in hold_out(num_examples, share, seed)] == [rest.tolist(), held_out.tolist()]


def test_a_run_s_batches_hold_none_of_the_examples_that_are_held_out(tiny_config, tiny_teacher, tmp_path, monkeypatch) -> None:
    seen: dict[str, set[str]] = {"trained on": set(), "held out": set()}
    forward, held_out_loss, fit = DistillationObjective.forward, DistillationObjective.held_out_loss, Runner.fit

    def fitted(self):
        seen["trained on"].clear()  # what was tried out before the first update left no trace
        fit(self)

    def told(self, batch):
        seen["trained on"] |= set(batch.ids)
        return forward(self, batch)

    def told_held_out(self, batch):
        seen["held out"] |= set(batch.ids)
        return held_out_loss(self, batch)

    monkeypatch.setattr(Runner, "fit", fitted)
    monkeypatch.setattr(DistillationObjective, "forward", told)
    monkeypatch.setattr(DistillationObjective, "held_out_loss", told_held_out)
    spec = {"type": "learned", "held_out": 0.25, "held_out_batch_size": 2}
    words = ["objective={type: distillation, views: [full, image, text]}", f"objective.weighting={json.dumps(spec)}"]
    words += [f"teacher.checkpoint={tiny_teacher}", f"env.save_dir={tmp_path / 'run'}", "training.max_updates=6"]
    words += ["teacher.cache=true", f"teacher.cache_dir={tmp_path / 'cache'}", "training.log_every=2"]
    assert run(tiny_config, words)
    assert len(seen["held out"]) == 3
    assert len(seen["trained on"]) == 9
    assert not seen["held out"] & seen["trained on"]
    trajectory = weight_trajectories(tmp_path / "run")
    assert list(trajectory) == ["full", "image", "text"]
    assert [update for update, _ in trajectory["text"]] == [2, 4, 6]
    assert trajectory["full"][0] == (2, 1.0)


# Refusals


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"held_out": 0.0}, "held_out must be above 0 and below 1, got 0.0"),
        ({"held_out": 1.0}, "held_out must be above 0 and below 1, got 1.0"),
        ({"held_out_batch_size": 0}, "held_out_batch_size must be above 0, got 0"),
        ({"every": 0}, "every must be above 0, got 0"),
        ({"largest": 0.0}, "largest must be above 0, got 0.0"),
        ({"full_weight": -1.0}, "full_weight must be 0 or more, got -1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more, got -1.0"),
        ({"inputs": ["los"]}, "Did you mean 'loss'"),
        ({"inputs": ["loss"], "saliency": "keep"}, "saliency is given and not among the inputs loss"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WEIGHTINGS.build({"type": "learned", **options})


def test_a_net_that_is_shown_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"inputs must name at least one of view, loss, .*, got none"):
        WeightInputs([], num_views=3, num_classes=3, task="single_label")
    with pytest.raises(ValueError, match=r"inputs must be of view, loss, .*, got 'los'. Did you mean 'loss'"):
        WeightInputs(["los"], num_views=3, num_classes=3, task="single_label")


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (lambda p: torch.optim.Adagrad(p), "a step of SGD or AdamW, not of Adagrad"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "not of AdamW with amsgrad"),
    ],
)
def test_an_optimizer_whose_step_is_not_known_is_refused(optimizer: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LookAhead(objective(student(0.0)), OneAfterAnother([]), optimizer([nn.Parameter(torch.ones(1))]))


def test_modulated_gradients_are_refused() -> None:
    built = objective(student(0.0))
    built.modulation = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="do not know what `modulation` does to the gradients"):
        LookAhead(built, OneAfterAnother([]), RECIPES["sgd"].build(built))


def test_a_runner_must_have_what_is_held_out() -> None:
    runner, _ = learned_run()
    with pytest.raises(ValueError, match="learns from held-out examples, and the runner was given none"):
        Runner(runner.objective, runner.batches, runner.optimizer, runner.scheduler, runner.plan)


def test_an_objective_that_learns_from_no_held_out_examples_has_none() -> None:
    plain = SupervisedObjective(student(0.0))
    assert plain.held_out is None
    assert not plain.rehearses
    step = OptimizerStep(0, FP32, torch.zeros(()), World(), None)
    plain.after_step(step)  # asks for none
    with pytest.raises(ValueError, match="there are no held-out examples"):
        step.look_ahead(lambda batch: torch.zeros(()))


def test_an_objective_of_a_user_that_learns_in_the_old_way_is_told_the_new_one() -> None:
    class Old(SupervisedObjective):
        def learn(self, direction: Any, mean: Any) -> None: ...

    with pytest.raises(ConfigError, match="has learn, which nothing asks for any more: write after_step in its place"):
        OBJECTIVES.register("old")(Old)


def test_a_batch_norm_that_learns_is_refused() -> None:
    model = student(0.0)
    model.head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"a batch norm that learns mixes those of a batch. Freeze it"):
        objective(model)


RESNET = "model={type: late_fusion, encoders: {text: {type: transformer, hidden_size: 8, num_heads: 2}, image: resnet}}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training.precision=fp16"], "training.precision: learned weights go back through a step's gradients, which fp16 scales"),
        ([RESNET], "model: learned weights ask what each example does to an update, and a batch norm"),
        (["objective.weighting.held_out_batch_size=3"], "held_out_batch_size: must be a multiple of the 2 processes, got 3"),
        (["objective.views=[full]"], "full_weight: there is no view but `full`"),
        (
            ["optimizer=tests.learned_runs.Adagrad"],
            "optimizer: learned weights look ahead by a step of SGD or AdamW, not of Adagrad",
        ),
        (["objective.weighting.held_out=0.01"], "holding 0.01 of 12 training examples out leaves 12 and 0 of them"),
    ],
    ids=["fp16", "batch norm", "processes", "full view alone", "optimizer", "nothing held out"],
)
def test_what_stands_in_the_way_is_told(words: list[str], said: str, tiny_config, tiny_teacher, tmp_path, monkeypatch) -> None:
    if "held_out_batch_size" in said:
        started_together(monkeypatch, 2)
    given = ["objective={type: distillation, views: [full, image, text], weighting: {type: learned}}"]
    given += [f"teacher.checkpoint={tiny_teacher}", f"env.save_dir={tmp_path / 'run'}"]
    check = [] if "holding" in said else ["run_type=check"]
    with pytest.raises(MSDError, match=re.escape(said)):
        run(tiny_config, [*given, *check, *words])
