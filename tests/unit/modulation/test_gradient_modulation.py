"""Gradient modulation: its formula written apart, what it claims, parts and processes, and resumption."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msd_framework.callbacks.base import Callback
from msd_framework.engine.precision import probe_objective
from msd_framework.engine.resume import resume
from msd_framework.errors import ConfigError
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.base import MultimodalModel
from msd_framework.models.encoders.region_features import RegionFeatures
from msd_framework.models.late_fusion import LateFusion
from msd_framework.models.logit_fusion import LogitFusion
from msd_framework.modulation.ogm_ge import OnTheFlyModulation, right_class, right_labels, summed_confidence
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.supervised import SupervisedObjective
from msd_framework.registry import MODULATIONS, WEIGHTINGS
from msd_framework.run import run
from msd_framework.schedules import Progress
from msd_framework.structures import Batch, DatasetInfo, ModalityInputs, ModelOutput, Setting
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch, take
from tests.runs import tiny_model, tiny_runner

SIZES = {"image": 6, "sound": 4}
FUSIONS = {"late_fusion": LateFusion, "logit_fusion": LogitFusion}
every_fusion = pytest.mark.parametrize("fusion", FUSIONS)


def separable(fusion: str = "late_fusion", dropout: float = 0.0, sizes: dict[str, int] = SIZES) -> MultimodalModel:
    torch.manual_seed(2)
    encoders: dict[str, Any] = {m: RegionFeatures(size, hidden_size=8, dropout=dropout) for m, size in sizes.items()}
    built: MultimodalModel = FUSIONS[fusion](encoders, num_classes=3, hidden_size=8, dropout=dropout)
    return built.double()


def features_of(batch: Batch, sizes: dict[str, int] = SIZES) -> Batch:
    """Other features for the same targets, of which each modality knows more than the one before."""
    generator = torch.Generator().manual_seed(5)
    inputs = {}
    for i, (m, size) in enumerate(sorted(sizes.items())):
        known = nn.functional.one_hot(batch.targets, size).double() * (i + 0.3)
        values = (known + 0.3 * torch.randn(len(batch), size, generator=generator))[:, None]
        inputs[m] = ModalityInputs(values, torch.ones(len(batch), 1, dtype=torch.bool))
    return batch.with_inputs(inputs)


def objective(modulation: OnTheFlyModulation | None, model: MultimodalModel | None = None) -> SupervisedObjective:
    return SupervisedObjective(model or separable(), modulation=modulation).train()


def alone(value: Tensor) -> Tensor:
    """The mean over the processes where there is one."""
    return value


def gradients(built: SupervisedObjective, parts: list[Batch], update: int = 0) -> dict[str, Tensor]:
    """The gradients of an update, as an optimizer sees them."""
    built.begin_update(Progress(update, 10))
    built.zero_grad()
    for part in parts:
        (built(part).loss / len(parts)).backward()
    built.after_backward(alone)
    return {name: p.grad.clone() for name, p in built.model.named_parameters() if p.grad is not None}


def scores(model: MultimodalModel, batch: Batch) -> dict[str, float]:
    """The sum of the right classes' probabilities for each modality alone, example by example."""
    model.eval()
    found = dict.fromkeys(model.modalities, 0.0)
    for m in model.modalities:
        for z, y in zip(model({m: batch.inputs[m]}).logits.tolist(), batch.targets.tolist()):
            found[m] += math.exp(z[y]) / sum(map(math.exp, z))
    model.train()
    return found


# The formula


@every_fusion
@pytest.mark.parametrize("alpha", [0.1, 0.8])
def test_gradients_of_encoders_are_scaled_by_the_paper_s_coefficients_and_no_others(fusion: str, alpha: float) -> None:
    batch = features_of(made_batch(12))
    plain = gradients(objective(None, separable(fusion)), [batch])
    model = separable(fusion)
    found = gradients(objective(OnTheFlyModulation(alpha, noise=False), model), [batch])
    s = scores(model, batch)
    ratio = {"image": s["image"] / s["sound"], "sound": s["sound"] / s["image"]}
    k = {m: 1 - math.tanh(alpha * r) if r > 1 else 1.0 for m, r in ratio.items()}
    assert sorted(value < 1 for value in k.values()) == [False, True]
    for name, gradient in plain.items():
        modality = name.split(".")[1] if name.startswith("encoders.") else ""
        torch.testing.assert_close(found[name], gradient * k.get(modality, 1.0), rtol=1e-12, atol=0)


def test_with_three_modalities_each_is_compared_with_the_mean_of_the_others() -> None:
    sizes = {"image": 6, "sound": 4, "text": 5}
    model, batch = separable(sizes=sizes), features_of(made_batch(12), sizes)
    modulation = OnTheFlyModulation(0.5, noise=False)
    gradients(objective(modulation, model), [batch])
    s = list(scores(model, batch).values())
    rho = [s[0] / ((s[1] + s[2]) / 2), s[1] / ((s[0] + s[2]) / 2), s[2] / ((s[0] + s[1]) / 2)]
    wanted = [1 - math.tanh(0.5 * r) if r > 1 else 1.0 for r in rho]
    torch.testing.assert_close(modulation.coefficients, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)


def test_noise_is_as_large_as_the_gradient_that_it_is_added_to() -> None:
    model, batch = separable(), features_of(made_batch(12))
    scaled = gradients(objective(OnTheFlyModulation(0.5, noise=False), model), [batch])
    plain = gradients(objective(None, separable()), [batch])
    draws = [gradients(objective(OnTheFlyModulation(0.5, seed=seed), separable()), [batch]) for seed in range(60)]
    for name, gradient in plain.items():
        if name.startswith("encoders."):
            noise = torch.stack([d[name] - scaled[name] for d in draws])
            spread = gradient.std(correction=0)
            assert noise.std() == pytest.approx(spread.item(), rel=0.2)
            assert noise.mean().abs() < 5 * spread / noise.numel() ** 0.5
        else:
            assert all(torch.equal(d[name], gradient) for d in draws)


def test_noise_is_that_of_the_seed_and_the_update() -> None:
    batch = features_of(made_batch(12))
    name = "encoders.image.perceptron.0.weight"
    of = lambda seed, update: gradients(objective(OnTheFlyModulation(seed=seed)), [batch], update)[name]  # noqa: E731
    assert torch.equal(of(1, 3), of(1, 3))
    assert not torch.equal(of(1, 3), of(1, 4))
    assert not torch.equal(of(1, 3), of(2, 3))


def test_nothing_is_changed_after_its_part_of_the_run() -> None:
    batch, built = features_of(made_batch(12)), objective(OnTheFlyModulation(until=0.5))
    plain = gradients(objective(None), [batch])
    for update, same in ((4, False), (5, True)):
        found = gradients(built, [batch], update)
        assert all(torch.equal(found[name], plain[name]) for name in plain) is same
        coefficients = {k: v.item() for k, v in built(batch).terms.items() if k.startswith("modulation/")}
        assert (coefficients == {"modulation/image": 1.0, "modulation/sound": 1.0}) is same


def test_a_missing_modality_is_the_other_s_advantage() -> None:
    """An encoder that no example reaches has no gradient, and nothing breaks."""
    batch = features_of(made_batch(6))
    empty = replace(batch.inputs["sound"], mask=torch.zeros(6, 1, dtype=torch.bool))
    found = gradients(objective(OnTheFlyModulation()), [batch.with_inputs({**batch.inputs, "sound": empty})])
    assert all(g.isfinite().all() for g in found.values())


class TwoAnswers(nn.Module):
    """A model with a row of logits for each target, the same for each modality alone but for its sign."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits, self.separable = logits, True
        self.encoders = nn.ModuleDict({m: nn.Linear(1, 1) for m in SIZES})

    def forward_views(self, views: list[Any]) -> ModelOutput:
        return ModelOutput(torch.stack([self.logits, -self.logits]))


def test_a_long_answer_counts_as_much_as_a_short_one() -> None:
    logits, targets = torch.randn(4, 3, dtype=torch.float64), torch.tensor([2, 0, -100, 1])
    batch = replace(features_of(made_batch(2)), targets=targets, example_of=torch.tensor([0, 0, 0, 1]))
    batch = replace(batch, having={"image": torch.tensor([True, True]), "sound": torch.tensor([True, True])})
    modulation = OnTheFlyModulation(noise=False).train()
    modulation.prepare(tuple(sorted(SIZES)))
    modulation.begin_update(Progress(0, 10))
    modulation(TwoAnswers(logits), batch)  # type: ignore[arg-type]
    p, q = logits.softmax(1), (-logits).softmax(1)
    expected = [(x[0, 2] + x[1, 0]) / 2 + x[3, 1] for x in (p, q)]
    torch.testing.assert_close(summed_confidence(modulation.scores[0]), torch.stack(expected), rtol=1e-12, atol=0)


def test_examples_without_a_label_have_no_say() -> None:
    logits, targets = torch.randn(4, 3, dtype=torch.float64), torch.tensor([2, -100, 0, -100])
    found = right_class(logits, targets)
    torch.testing.assert_close(found, logits.softmax(1)[range(4), [2, 0, 0, 0]] * torch.tensor([1, 0, 1, 0]))


def test_several_labels_are_known_by_the_mean_probability_of_those_that_are_there() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64)
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 0.5, 1], [math.nan] * 3])
    p = logits.sigmoid()
    wanted = torch.stack([(p[0, 0] + p[0, 2]) / 2, 0 * p[0, 0], (0.5 * p[2, 1] + p[2, 2]) / 1.5, 0 * p[0, 0]])
    torch.testing.assert_close(right_labels(logits, targets), wanted)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "ogm_ge", "alpha": -1.0}, "alpha must be 0 or more, got -1.0"),
        ({"type": "ogm_ge", "until": 1.5}, "until must lie between 0 and 1, got 1.5"),
    ],
)
def test_options_out_of_range_are_refused(spec: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MODULATIONS.build(spec)


# What it claims


def unequal(seed: int, size: int = 60) -> Batch:
    """Targets that the image tells by far features and the sound by near and noisy ones."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (size,), generator=generator)
    inputs = {}
    for m, (strength, noise) in {"image": (2.0, 0.3), "sound": (0.7, 0.5)}.items():
        values = strength * nn.functional.one_hot(targets, SIZES[m]) + noise * torch.randn(size, SIZES[m], generator=generator)
        inputs[m] = ModalityInputs(values.double()[:, None], torch.ones(size, 1, dtype=torch.bool))
    return Batch(inputs, targets, tuple(map(str, range(size))))


def discrepancy(modulation: OnTheFlyModulation | None, seed: int) -> float:
    """How much better one modality alone knows the answer than the other, after training on both."""
    torch.manual_seed(seed)
    encoders: dict[str, Any] = {m: RegionFeatures(size, hidden_size=8, dropout=0.0) for m, size in SIZES.items()}
    model = LateFusion(encoders, num_classes=3, hidden_size=8, dropout=0.0).double()
    built, batch = objective(modulation, model), unequal(seed)
    optimizer = torch.optim.SGD(built.parameters(), lr=0.3)
    for update in range(60):
        built.begin_update(Progress(update, 60))
        optimizer.zero_grad()
        built(batch).loss.backward()
        built.after_backward(alone)
        optimizer.step()
    s = scores(model, batch)
    return s["image"] / s["sound"]


@pytest.mark.parametrize("noise", [False, True])
def test_a_modulated_student_learns_its_modalities_more_alike(noise: bool) -> None:
    plain = [discrepancy(None, seed) for seed in range(4)]
    balanced = [discrepancy(OnTheFlyModulation(1.0, noise=noise, until=1.0, seed=seed), seed) for seed in range(4)]
    assert min(plain) > 1.1
    assert sum(b < p for b, p in zip(balanced, plain)) >= 3
    assert sum(balanced) < sum(plain)


# In a run


class Rows(Callback):
    """Keeps what is logged of the modulation and of the loss."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, runner, terms) -> None:
        self.rows.append({k: v for k, v in terms.items() if k.startswith(("modulation/", "loss"))})


def run_of(
    accumulate: int = 1, modulation: OnTheFlyModulation | None = None, dropout: float = 0.0, **options: Any
) -> tuple[Any, Rows]:
    modulation = modulation or OnTheFlyModulation(0.5, until=0.75)
    runner, _ = tiny_runner(
        options.pop("world", None), accumulate, objective=objective(modulation, separable(dropout=dropout)), **options
    )
    runner.batches.data = features_of(runner.batches.data)
    rows = Rows()
    runner.callbacks = [rows]
    return runner, rows


def weights(runner: Any) -> Tensor:
    return nn.utils.parameters_to_vector(runner.objective.parameters()).detach()


def test_parts_of_a_batch_are_modulated_as_the_whole() -> None:
    (whole, rows), (parts, others) = run_of(), run_of(accumulate=4)
    whole.fit()
    parts.fit()
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-8)  # Adam enlarges the order of float64 sums
    for ours, theirs in zip(others.rows, rows.rows, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)
    assert min(row["modulation/sound"] for row in rows.rows) < 0.7


def test_parts_in_which_some_examples_lack_a_modality_or_a_label_are_modulated_as_the_whole() -> None:
    """Of the four examples with a label three have a sound, of whose scores the whole takes 4 / 3."""
    batch = features_of(made_batch(6))
    batch = replace(batch, targets=batch.targets.where(torch.arange(6) < 4, -100))
    having, found = torch.tensor([True, False, True, True, False, False]), []
    for parts in ([range(6)], [range(2), range(2, 6)], [range(2), range(2, 4), range(4, 6)]):
        modulation = OnTheFlyModulation(0.5, noise=False)
        built = objective(modulation)
        gradients(built, [replace(take(batch, [*rows]), having={"sound": having[[*rows]]}) for rows in parts])
        found.append(modulation.coefficients.clone())
        wanted = scores(built.model, take(batch, [0, 2, 3]))["sound"] * 4 / 3
        s = summed_confidence(torch.stack(modulation.scores).sum(0))
        assert s.tolist() == pytest.approx([scores(built.model, take(batch, [0, 1, 2, 3]))["image"], wanted], rel=1e-12)
    assert found[0].min() < 1
    torch.testing.assert_close(torch.stack(found[1:]), found[0].expand(2, -1), rtol=1e-12, atol=0)  # the order of float64 sums


def test_looking_changes_no_bit_of_a_run() -> None:
    """Without strength and noise it is the plain run, dropout and all."""
    looked, _ = run_of(modulation=OnTheFlyModulation(0.0, noise=False, until=1.0), dropout=0.3)
    looked.fit()
    runner, _ = tiny_runner(objective=objective(None, separable(dropout=0.3)))
    runner.batches.data = features_of(runner.batches.data)
    runner.fit()
    assert torch.equal(weights(looked), weights(runner))


@pytest.mark.parametrize("precision", ["bf16"])
def test_looking_under_autocast_loses_no_gradient(precision: str) -> None:
    built = objective(OnTheFlyModulation(0.0, noise=False), separable().float())
    batch = features_of(made_batch(6))
    single = batch.with_inputs({m: replace(x, values=x.values.float()) for m, x in batch.inputs.items()})
    built.begin_update(Progress(0, 10))
    with torch.autocast("cpu", torch.bfloat16):
        built(single)
        loss = built(single).loss  # weights that were cast without a gradient must not be taken again
    loss.backward()
    assert all(p.grad is not None and p.grad.ne(0).any() for n, p in built.model.named_parameters() if n.startswith("encoders."))


class InterruptionError(BaseException):
    pass


class InterruptAt(Callback):
    def on_step_end(self, runner, output) -> None:
        if runner.update == 7:
            raise InterruptionError


def test_a_resumed_run_ends_in_the_bits_of_one_that_was_not_interrupted(tmp_path: Path) -> None:
    whole, rows = run_of(dropout=0.3)
    whole.fit()
    cut, _ = run_of(dropout=0.3, folder=tmp_path, save_at=frozenset({5}))
    cut.callbacks = [InterruptAt()]
    with suppress(InterruptionError):
        cut.fit()
    resumed, rest = run_of(dropout=0.3, folder=tmp_path)
    assert resume(resumed)
    resumed.fit()
    assert rest.rows == rows.rows[5:]
    assert torch.equal(weights(resumed), weights(whole))


def test_measuring_precisions_beforehand_does_not_disturb_it() -> None:
    (plain, rows), (probed, others) = run_of(), run_of()
    plain.fit()
    probe_objective(probed.objective, probed.batches.starting_at(0), rounds=1)
    torch.manual_seed(3)
    probed.fit()
    assert others.rows == rows.rows


def test_it_is_one_line_of_a_configuration(tiny_config, tiny_teacher, tmp_path) -> None:
    words = ["objective={type: distillation, views: [full, image, text], modulation: {type: ogm_ge, alpha: 0.8}}"]
    words += [f"teacher.checkpoint={tiny_teacher}", f"env.save_dir={tmp_path / 'run'}", "training.log_every=1"]
    assert run(tiny_config, words)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("train/modulation/image" in row for row in rows)


# Models that it is not for

NOT_SEPARABLE = (
    r"objective\.modulation: needs a model with an encoder of its own for each modality\. Take late_fusion or logit_fusion, or"
)


def test_a_model_without_encoders_is_told_before_anything_is_loaded(tiny_config, tmp_path) -> None:
    model = "{type: visual_bert, hidden_size: 8, num_layers: 1, num_heads: 2, image_encoder: {type: patches, patch_size: 4}}"
    words = [f"model={model}", "objective={type: supervised, modulation: ogm_ge}", f"env.save_dir={tmp_path}", "run_type=check"]
    with pytest.raises(ConfigError, match=NOT_SEPARABLE):
        run(tiny_config, words)


def test_a_model_of_one_modality_has_nothing_to_balance() -> None:
    kinds = {"image": "pixels", "text": "tokens"}
    setting = Setting(DatasetInfo(kinds, 3, "single_label"), ("image",), None, kinds)  # type: ignore[arg-type]
    wanted = "balances modalities, and this model takes image alone. Leave it out."
    assert OnTheFlyModulation.check({}, setting, LateFusion) == [wanted]
    assert OnTheFlyModulation.check({}, replace(setting, student_modalities=("image", "text")), LateFusion) == []


def test_a_model_without_encoders_is_told_at_the_first_step() -> None:
    built = SupervisedObjective(tiny_model(0), modulation=OnTheFlyModulation())
    built.begin_update(Progress(0, 10))
    with pytest.raises(
        ValueError, match=r"ogm_ge needs a model with an encoder of its own for each modality, and VisualBert is not\."
    ):
        built(made_batch(3))


def test_learned_weights_want_the_gradient_as_it_is() -> None:
    masker, model = DropMasker(), separable()
    teacher = LiveTeacher(separable(), masker)
    with pytest.raises(ValueError, match=r"and a modulation changes it\. Take one of the two\."):
        DistillationObjective(
            model, teacher, masker, ["full", "image"], weighting=WEIGHTINGS.build("learned"), modulation=OnTheFlyModulation()
        )
