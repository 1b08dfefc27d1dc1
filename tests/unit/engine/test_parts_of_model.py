"""Parts of a model that learn at rates of their own, or not at all: for every optimizer, in steps, runs and processes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from msd_framework.engine.distributed import World
from msd_framework.engine.optim import AdamWRecipe, SGDRecipe, decay_groups
from msd_framework.engine.parts_of_model import ModelParts, layer_factors
from msd_framework.errors import ConfigError
from msd_framework.models.encoders.bert import Bert
from msd_framework.models.unimodal import UnimodalText
from msd_framework.registry import ENCODERS, OPTIMIZERS
from msd_framework.run import run
from msd_framework.structures import ModalityInputs
from msd_framework.testing import run_processes
from tests.runs import tiny_objective, tiny_runner
from tests.unit.models.test_models_contract import ENCODER_CASES, FACTS

BERT = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}


class Small(nn.Module):
    """Two encoders and a head, under the name that an objective has its model by."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict(
            {"encoders": nn.ModuleDict({"text": nn.Linear(2, 3), "image": nn.Linear(2, 3)}), "head": nn.Linear(3, 2)}
        )


def rates(groups: list[dict[str, Any]], module: nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate and decay by the names of parameters."""
    names = {p: n for n, p in module.named_parameters()}
    return {names[p]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_optimizer_has_groups_of_the_longest_names_and_decays_no_bias(name: str) -> None:
    module = Small()
    spec = {"type": name, "lr": 0.1, "weight_decay": 0.2}
    groups = {"encoders": 0.01, "model.encoders.text": {"lr": 0.02, "weight_decay": 0.5}, "head": {"weight_decay": 0.0}}
    optimizer = OPTIMIZERS.build(spec | {"groups": groups}).build(module)
    assert rates(optimizer.param_groups, module) == {
        "model.encoders.image.weight": (0.01, 0.2),
        "model.encoders.image.bias": (0.01, 0.0),
        "model.encoders.text.weight": (0.02, 0.5),
        "model.encoders.text.bias": (0.02, 0.0),
        "model.head.weight": (0.1, 0.0),
        "model.head.bias": (0.1, 0.0),
    }


def test_a_step_with_groups_is_that_of_an_optimizer_a_part() -> None:
    torch.manual_seed(0)
    module, x = Small().double(), torch.randn(5, 2, dtype=torch.float64)
    theirs = Small().double()
    theirs.load_state_dict(module.state_dict())
    ours = AdamWRecipe(lr=0.1, weight_decay=0.0, groups={"encoders.text": 0.01}).build(module)
    text, others = theirs.model["encoders"]["text"], (theirs.model["encoders"]["image"], theirs.model["head"])
    apart = [
        torch.optim.AdamW(text.parameters(), lr=0.01, weight_decay=0),
        torch.optim.AdamW([p for m in others for p in m.parameters()], lr=0.1, weight_decay=0),
    ]
    for _ in range(3):
        for one, optimizers in ((module, [ours]), (theirs, apart)):
            encoders = one.model["encoders"]
            one.model["head"]((encoders["text"](x) * encoders["image"](x)).tanh()).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    for a, b in zip(module.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_without_parts_the_groups_are_two_as_ever() -> None:
    module = Small()
    assert [sorted(g) for g in decay_groups(module, 0.1)] == [["params", "weight_decay"]] * 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"groups": {"encoder": 0.1}},
            "groups: 'encoder' is no part of the model that learns. Did you mean 'encoders'? Its parts: enc",
        ),
        ({"groups": {"encoders.txt": 0.1}}, "Did you mean 'encoders.text'?"),
        ({"groups": {"encoders": 0.0}}, "groups.encoders: lr must be above 0, got 0. What does not learn stands in frozen."),
        ({"groups": {"encoders": -1.0}}, "groups.encoders: lr must be above 0, got -1"),
        ({"groups": {"encoders": {"weight_decay": -1.0}}}, "groups.encoders: weight_decay must be 0 or more, got -1"),
        (
            {"groups": {"encoders": {"Lr": 1.0}}},
            "groups.encoders.Lr: no such option; a group has lr and weight_decay. Did you mean",
        ),
        ({"groups": {"encoders": {}}}, "groups.encoders: wanted a learning rate"),
        (
            {"groups": {"encoders": 0.1, "encoders.text": 0.1, "encoders.image": 0.1}},
            "groups.encoders: has no parameter of its own; all of them are in other groups.",
        ),
        ({"frozen": ["encoders.txt"]}, "frozen: 'encoders.txt' is no part of the model. Did you mean 'encoders.text'?"),
        ({"frozen": ["encoders", "head"]}, "frozen: nothing of the model is left that learns without encoders, head."),
        ({"frozen": ["head"], "groups": {"head": 0.1}}, "groups: 'head' is no part of the model that learns."),
        ({"layer_decay": 0.5}, "layer_decay: the model has no stack of layers with attention."),
        ({"layer_decay": 0.0}, "layer_decay must be above 0 and at most 1, got 0"),
        ({"layer_decay": 1.5}, "layer_decay must be above 0 and at most 1, got 1.5"),
    ],
)
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_parts_that_are_none_are_refused(name: str, options: dict[str, Any], sentence: str) -> None:
    def made() -> None:
        module, recipe = Small(), OPTIMIZERS.build({"type": name, **options})
        recipe.parts.freeze(module.model)
        recipe.build(module)

    with pytest.raises(ValueError, match=re.escape(sentence)):
        made()


# Layer-wise decay


def beits_layer(name: str, num_layers: int) -> int:
    """What BEiT's `get_num_layer_for_vit` says, with the names of transformers' BERT."""
    if "embeddings" in name:
        return 0
    found = re.search(r"encoder\.layer\.(\d+)\.", name)
    return int(found[1]) + 1 if found else num_layers + 1


def test_layer_decay_is_beits_on_bert_with_a_head() -> None:
    model = UnimodalText(Bert(config={"model_type": "bert", **BERT}, vocab_size=20), num_classes=2)
    factors = layer_factors(model, 0.75)
    for name, _ in model.named_parameters():
        assert factors.get(name, 1.0) == pytest.approx(0.75 ** (4 - beits_layer(name, 3)))
    assert factors["encoder.model.embeddings.word_embeddings.weight"] == pytest.approx(0.75**4)
    assert "classifier.weight" not in factors


def test_every_stack_counts_its_own_layers_and_has_its_own_embeddings() -> None:
    def bert(layers: int) -> dict[str, Any]:
        return {"type": "bert", "config": {"model_type": "bert", **BERT, "num_hidden_layers": layers}, "vocab_size": 20}

    model = nn.ModuleDict({"text": ENCODERS.build(bert(3)), "title": ENCODERS.build(bert(1)), "head": nn.Linear(2, 2)})
    factors = layer_factors(model, 0.5)
    assert factors["text.model.embeddings.LayerNorm.bias"] == 0.5**4
    assert factors["title.model.embeddings.LayerNorm.bias"] == 0.5**2
    assert factors["text.model.encoder.layer.2.output.dense.weight"] == 0.5
    assert factors["title.model.encoder.layer.0.output.dense.weight"] == 0.5
    assert not any(name.startswith("head") for name in factors)


def test_layer_decay_multiplies_the_rate_of_a_group_and_leaves_its_decay() -> None:
    objective = tiny_objective()
    groups = AdamWRecipe(lr=0.1, weight_decay=0.3, groups={"encoder": 0.01}, layer_decay=0.5).build(objective).param_groups
    found = rates(groups, objective)
    assert found["model.encoder.layers.0.attention.query.weight"] == (0.005, 0.3)
    assert found["model.encoder.layers.0.attention.query.bias"] == (0.005, 0.0)
    assert found["model.embeddings.word.weight"] == (0.025, 0.3)
    assert found["model.head.weight"] == (0.1, 0.3)


# Frozen parts


def test_a_frozen_part_drops_nothing_in_training_and_the_rest_does() -> None:
    objective = tiny_objective(dropout=0.5)
    ModelParts(frozen=["encoder"]).freeze(objective.model)
    objective.train()
    model = objective.model
    assert not any(m.training for m in model.encoder.modules())  # type: ignore[union-attr]
    assert model.training
    assert model.embeddings.training
    objective.eval()
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("name", ["bert", "resnet"])
def test_an_encoder_that_is_frozen_has_nothing_to_learn_and_is_the_same_in_training(name: str) -> None:
    spec = {"bert": {"config": {"model_type": "bert", **BERT}, "vocab_size": 20}, "resnet": {}}[name]
    encoder = ENCODERS.build({"type": name, "freeze": True, **spec})
    assert not any(p.requires_grad for p in encoder.parameters())
    objective = tiny_objective()
    objective.model.add_module("another", encoder)
    objective.train()
    assert not encoder.training
    before = {n: b.clone() for n, b in encoder.named_buffers()}
    values = torch.randint(20, (3, 4)) if name == "bert" else torch.randn(3, 3, 32, 32)
    encoder(ModalityInputs(values, torch.ones(3, 4 if name == "bert" else 1, dtype=torch.bool)))
    assert all(torch.equal(before[n], b) for n, b in encoder.named_buffers())


@pytest.mark.parametrize("name", [n for n in ENCODERS.names() if ENCODERS.get(n).__module__.startswith("msd_framework.")])
def test_every_encoder_can_be_frozen(name: str) -> None:
    case = ENCODER_CASES[name][0]
    encoder = ENCODERS.build({**case.spec, "freeze": True}, facts=FACTS)
    assert not any(p.requires_grad for p in encoder.parameters())


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "checkpoints" / "last" / "model.safetensors")


def test_a_run_leaves_frozen_parts_as_they_were_and_goes_on_to_the_same_bits(tiny_config: Path, tmp_path: Path) -> None:
    parts = "optimizer={type: adamw, lr: 0.01, frozen: [encoders.text], groups: {encoders: 0.001}, layer_decay: 0.9}"

    def made(name: str, updates: int) -> dict[str, Tensor]:
        words = [f"env.save_dir={tmp_path / name}", parts, f"training.max_updates={updates}", "checkpoint.resume=true"]
        run(tiny_config, words)
        return weights(tmp_path / name)

    two, four = made("cut", 2), made("whole", 4)
    learned = {name for name, tensor in two.items() if not torch.equal(tensor, four[name])}
    assert learned == {name for name in two if not name.startswith(("encoders.text.", "missing."))}  # no row lacks a modality
    again = made("cut", 4)
    assert all(torch.equal(again[name], tensor) for name, tensor in four.items())


def test_a_run_says_how_many_parameters_are_frozen(tiny_config: Path, tmp_path: Path) -> None:
    report = run(tiny_config, [f"env.save_dir={tmp_path}", "optimizer.frozen=[encoders]"])
    saved = weights(tmp_path)
    assert report["frozen_parameters"] == sum(t.numel() for n, t in saved.items() if n.startswith("encoders."))
    assert "of them frozen" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["optimizer.groups={encoders.txt: 0.1}"], "optimizer: groups: 'encoders.txt' is no part of the model that learns. Did"),
        (["optimizer.frozen=[encoder]"], "optimizer: frozen: 'encoder' is no part of the model. Did you mean 'encoders'?"),
        (["optimizer.frozen=[encoders, projections, missing, classifier, fusion]"], "'fusion' is no part of the model"),
        (["optimizer.frozen=[encoders, projections, missing, classifier]"], "nothing of the model is left that learns"),
        (["optimizer.layer_decay=2"], "optimizer: layer_decay must be above 0 and at most 1"),
        (["optimizer.groups={encoders: {rate: 0.1}}"], "groups.encoders.rate: no such option"),
        (["optimizer.groups={encoders: fast}"], "optimizer.groups: encoders: wanted float"),
    ],
)
def test_a_check_knows_the_parts_of_the_model(tiny_config: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        run(tiny_config, [f"env.save_dir={tmp_path / 'out'}", "run_type=check", *words])


def test_parts_of_the_objective_may_be_named(tiny_config: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    student = ["objective={type: distillation, views: [full, image], weighting: uncertainty}", f"teacher.checkpoint={tiny_teacher}"]
    words = [*student, f"env.save_dir={tmp_path / 'out'}", "run_type=check"]
    assert run(tiny_config, [*words, "optimizer.groups={weighting: 0.1}"]) == {}
    with pytest.raises(ConfigError, match=r"'wighting' is no part of the model that learns\. Did you mean 'weighting'"):
        run(tiny_config, [*words, "optimizer.groups={wighting: 0.1}"])


def _fit(folder: str) -> None:
    with World.join("cpu") as world:
        objective = tiny_objective()
        ModelParts(frozen=["embeddings"]).freeze(objective.model)
        runner, recorder = tiny_runner(world, objective=objective)
        runner.fit()
        (Path(folder) / f"{world.rank}.json").write_text(json.dumps(recorder.losses))


def test_two_processes_with_a_frozen_part_make_the_losses_of_one(tmp_path: Path) -> None:
    run_processes(_fit, 2, str(tmp_path))
    objective = tiny_objective()
    ModelParts(frozen=["embeddings"]).freeze(objective.model)
    runner, recorder = tiny_runner(objective=objective)
    runner.fit()
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert max(abs(a - b) for a, b in zip(found, recorder.losses, strict=True)) <= 1e-10  # order of float64 sums


def test_sgd_and_a_schedule_keep_the_ratio_of_rates() -> None:
    objective = tiny_objective()
    runner, _ = tiny_runner(objective=objective)
    optimizer = SGDRecipe(lr=0.1, groups={"embeddings": 0.01}).build(objective)
    scheduler = type(runner.scheduler)(optimizer, lambda update: 0.5)
    assert sorted(set(scheduler.get_last_lr())) == [0.005, 0.05]
