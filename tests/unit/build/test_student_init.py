"""Students that start from their teacher: the same numbers where sizes match, and stated parts of it where they do not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd_framework.build.data import build_data
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import build_model, build_recipe
from msd_framework.checks.run import checked
from msd_framework.config.load import load
from msd_framework.engine.distributed import World
from msd_framework.errors import CheckpointError, ConfigError
from msd_framework.models.base import MultimodalModel
from msd_framework.models.layers.transformer import SelfAttention
from msd_framework.models.pretrained.inherit import Inheritance, choose_layers, low_rank, smaller_attention
from msd_framework.models.visual_bert import VisualBert
from msd_framework.run import run
from msd_framework.testing import made_batch

# --- the parts ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "wanted"), [("even", [0, 4, 8]), ("first", [0, 1, 2]), ("last", [9, 10, 11]), ([0, 3, 11], [0, 3, 11])]
)
def test_layers_are_chosen_as_stated(layers: Any, wanted: list[int]) -> None:
    assert choose_layers(layers, 3, 12) == wanted


@pytest.mark.parametrize("layers", ["even", "first", "last"])
def test_a_stack_of_as_many_layers_takes_each(layers: Any) -> None:
    assert choose_layers(layers, 5, 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("layers", "taken", "said"),
    [
        ("even", 13, "wanted at most as many layers as the 12 of what it starts from, got 13"),
        ([0, 1], 3, r"wanted 3 numbers of layers between 0 and 11, got \[0, 1\]"),
        ([0, 1, 12], 3, r"wanted 3 numbers of layers between 0 and 11, got \[0, 1, 12\]"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers: Any, taken: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        choose_layers(layers, taken, 12)


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.data())
def test_a_map_of_low_rank_is_the_best_one_that_numpy_finds(m: int, n: int, inner: int, data: st.DataObject) -> None:
    inner = min(inner, m, n)
    rank = data.draw(st.integers(1, inner))
    draw = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    left, right = draw.normal(size=(m, inner)), draw.normal(size=(inner, n))
    a, b = low_rank(torch.from_numpy(left), torch.from_numpy(right), rank)
    assert (a.shape, b.shape) == ((m, rank), (rank, n))
    u, s, v = np.linalg.svd(left @ right, full_matrices=False)
    np.testing.assert_allclose((a @ b).numpy(), u[:, :rank] * s[:rank] @ v[:rank], atol=1e-9 * s[0])
    np.testing.assert_allclose(np.linalg.norm(left @ right - (a @ b).numpy()), np.linalg.norm(s[rank:]), atol=1e-9 * s[0])


def attention(width: int, heads: int, seed: int = 0) -> SelfAttention:
    torch.manual_seed(seed)
    return SelfAttention(width, heads, 0.0).double()


def cut_down(source: SelfAttention, width: int, heads: int, cut: Any) -> SelfAttention:
    small = attention(width, heads, seed=1)
    small.load_state_dict(smaller_attention(small, source, cut))
    return small


def maps(layer: SelfAttention, width: int) -> list[tuple[Tensor, Tensor]]:
    """The linear maps of each head on the first features: that of the scores, biases included, and that of what is read."""
    size = layer.query.out_features // layer.num_heads
    found = []
    for h in range(layer.num_heads):
        rows = slice(h * size, (h + 1) * size)
        q, k = (torch.cat([x.weight[rows, :width], x.bias[rows, None]], 1) for x in (layer.query, layer.key))
        found.append((q.T @ k / size**0.5, layer.output.weight[:width, rows] @ layer.value.weight[rows, :width]))
    return found


def test_smaller_heads_compute_the_best_approximation_of_what_the_larger_ones_did() -> None:
    source = attention(24, 2)
    small, sliced = cut_down(source, 12, 2, "svd"), cut_down(source, 12, 2, "slice")
    for theirs, ours, others in zip(maps(source, 12), maps(small, 12), maps(sliced, 12), strict=True):
        for wanted, found, other in zip(theirs, ours, others):
            s = np.linalg.svd(wanted.detach().numpy(), compute_uv=False)
            error = (wanted - found).norm().item()
            assert error == pytest.approx(np.linalg.norm(s[6:]), abs=1e-9)  # nothing of rank 6 is nearer
            assert error < (wanted - other).norm().item()


def test_heads_that_need_no_more_features_than_they_keep_go_on_computing_the_same() -> None:
    source = attention(24, 2)
    with torch.no_grad():
        for h in range(2):  # rank 6 on the first 12 features, spread over all 12 features of a head
            rows, mix = slice(12 * h, 12 * h + 12), torch.randn(12, 6, dtype=torch.float64)
            for layer in (source.query, source.key, source.value):
                layer.weight[rows] = mix @ torch.randn(6, 24, dtype=torch.float64)
                layer.bias[rows] = mix @ torch.randn(6, dtype=torch.float64)
            source.output.weight[:, rows] = torch.randn(24, 6, dtype=torch.float64) @ mix.T
    x = torch.randn(3, 5, 12, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [3], [4]])
    wanted = source(torch.cat([x, torch.zeros_like(x)], -1), mask)[..., :12]
    found = cut_down(source, 12, 2, "svd")(x, mask)
    torch.testing.assert_close(found[mask], wanted[mask], atol=1e-9, rtol=0)
    sliced = cut_down(source, 12, 2, "slice")(x, mask)
    assert (sliced - wanted)[mask].abs().max() > 1e-2


def test_whole_heads_that_are_kept_are_the_first_ones() -> None:
    source = attention(24, 4)
    for cut in ("slice", "svd"):
        small = cut_down(source, 12, 2, cut)
        assert torch.equal(small.query.weight, source.query.weight[:12, :12])
        assert torch.equal(small.value.bias, source.value.bias[:12])
        assert torch.equal(small.output.weight, source.output.weight[:12, :12])


# --- visual_bert from visual_bert -----------------------------------------------------------------------------------------------


def visual_bert(seed: int, **options: Any) -> VisualBert:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 4, "num_heads": 2, "intermediate_size": 32, "vocab_size": 20}
    sizes |= {"feature_size": 6, "cls_id": 2, "sep_id": 3, "max_positions": 16, "num_classes": 3, **options}
    return VisualBert(**sizes).double().eval()


def started(model: MultimodalModel, source: MultimodalModel, **options: Any) -> MultimodalModel:
    taken = Inheritance(model, source, **options).tensors()
    model.load_state_dict(taken, strict=False)
    return model


@pytest.mark.parametrize("cut", ["slice", "svd"])
@pytest.mark.parametrize("head", ["linear", "transform"])
def test_a_student_of_its_teachers_sizes_says_what_the_teacher_says(cut: Any, head: str) -> None:
    teacher, student, batch = visual_bert(0, head=head), visual_bert(1, head=head), made_batch(5)
    assert not torch.equal(student(batch.inputs).logits, teacher(batch.inputs).logits)
    started(student, teacher, cut=cut)
    assert torch.equal(student(batch.inputs).logits, teacher(batch.inputs).logits)
    student.load_state_dict({n: t + 1 for n, t in student.state_dict().items()})
    assert not torch.equal(student(batch.inputs).logits, teacher(batch.inputs).logits)  # a copy, not the same memory


@pytest.mark.parametrize(("layers", "kept"), [("even", [0, 2]), ("first", [0, 1]), ("last", [2, 3]), ([1, 3], [1, 3])])
def test_a_student_of_fewer_layers_takes_those_of_its_teacher(layers: Any, kept: list[int]) -> None:
    teacher, student, batch = visual_bert(0), visual_bert(1, num_layers=2), made_batch(5)
    started(student, teacher, layers=layers)
    teacher.encoder.layers = torch.nn.ModuleList([teacher.encoder.layers[i] for i in kept])
    torch.testing.assert_close(student(batch.inputs).logits, teacher(batch.inputs).logits, atol=1e-12, rtol=0)


@pytest.mark.parametrize("cut", ["slice", "svd"])
def test_a_narrower_student_takes_the_first_features_of_its_teacher(cut: Any) -> None:
    narrow: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 12, "num_layers": 2, "max_positions": 12}
    teacher, student = visual_bert(0), visual_bert(1, **narrow)
    before = {name: tensor.shape for name, tensor in student.state_dict().items()}
    started(student, teacher, cut=cut)
    own, theirs = student.state_dict(), teacher.state_dict()
    assert {name: tensor.shape for name, tensor in own.items()} == before
    assert student(made_batch(5).inputs).logits.isfinite().all()
    for name, rows, columns in [
        ("embeddings.word.weight", 20, 8),
        ("embeddings.position.weight", 12, 8),
        ("embeddings.visual_projection.weight", 8, 6),
        ("pooler.weight", 8, 8),
        ("head.weight", 3, 8),
    ]:
        assert torch.equal(own[name], theirs[name][:rows, :columns])
    for ours, layer in ((0, 0), (1, 2)):
        expand = f"encoder.layers.{layer}.expand.weight"
        assert torch.equal(own[f"encoder.layers.{ours}.expand.weight"], theirs[expand][:12, :8])
        query = own[f"encoder.layers.{ours}.attention.query.weight"].view(2, 4, 8)
        sliced = theirs[f"encoder.layers.{layer}.attention.query.weight"].view(2, 8, 16)[:, :4, :8]
        assert torch.equal(query, sliced) == (cut == "slice")  # the first features of each head, or a mixture of all


def test_some_parts_can_be_taken_alone() -> None:
    teacher, student = visual_bert(0, num_classes=5), visual_bert(1)
    own, theirs = {n: t.clone() for n, t in student.state_dict().items()}, teacher.state_dict()
    started(student, teacher, only=["embeddings", "encoder"])
    for name, tensor in student.state_dict().items():
        taken = name.startswith(("embeddings.", "encoder."))
        assert torch.equal(tensor, theirs[name] if taken else own[name]), name


@pytest.mark.parametrize(
    ("options", "given", "said"),
    [
        ({"num_layers": 5}, {}, r"^layers: encoder\.layers: wanted at most as many layers as the 4"),
        ({}, {"layers": [0, 1]}, r"^layers: encoder\.layers: wanted 4 numbers of layers between 0 and 3"),
        ({"hidden_size": 32}, {}, r"is \[20, 32\] here and \[20, 16\] in what it starts from\. Only a smaller model"),
        ({"num_heads": 4}, {}, r"has 4 heads of 4 features, and what it starts from 2 of 8: neither may be more\. Take another"),
        ({"num_heads": 1}, {}, r"has 1 heads of 16 features, and what it starts from 2 of 8: neither may be more"),
        ({"num_classes": 2}, {}, r"tells 3 classes apart and the model 2\. Name the parts to take in only"),
        ({"head": "transform"}, {}, r"what it starts from has no head\.0\.weight \(6 of \d+ tensors are missing there\)"),
        ({}, {"only": ["embedings"]}, r"only\[0\]: the model has no part 'embedings'; it has embeddings, encoder, head, pooler"),
    ],
)
def test_what_does_not_fit_is_told(options: dict[str, Any], given: dict[str, Any], said: str) -> None:
    inheritance = Inheritance(visual_bert(1, **options), visual_bert(0), **given)
    assert len(inheritance.problems) == 1
    with pytest.raises(ValueError, match=said):
        inheritance.tensors()


# --- in runs --------------------------------------------------------------------------------------------------------------------

TEACH = "objective={type: distillation, views: [full]}"


def first_model(config: Path, *words: str) -> MultimodalModel:
    run_config = checked(load(config, words))
    data = build_data(RunFacts(run_config), World())
    torch.manual_seed(0)
    return build_model(data, build_recipe(data))


def weights(model: MultimodalModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_any_model_of_the_same_sizes_starts_as_its_teacher_ended_and_draws_the_same_random_numbers(
    tiny_config: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    words = [TEACH, f"teacher.checkpoint={tiny_teacher}", f"env.save_dir={tmp_path / 'run'}"]
    found = weights(first_model(tiny_config, *words, "init={}"))
    drawn, saved = torch.rand(3), load_weights(tiny_teacher)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in found.items())
    other = weights(first_model(tiny_config, *words))
    assert torch.equal(torch.rand(3), drawn)
    assert any(not torch.equal(found[n], t) for n, t in other.items())


def test_a_run_without_a_teacher_may_start_from_another_run(tiny_config: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    model = first_model(tiny_config, f"env.save_dir={tmp_path / 'run'}", f"init.checkpoint={tiny_teacher}")
    saved = load_weights(tiny_teacher)
    assert all(torch.equal(t, saved[n]) for n, t in model.state_dict().items())


def load_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "checkpoints" / "best" / "model.safetensors")


def test_a_run_that_goes_on_does_not_start_again(tiny_config: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_teacher, tmp_path / "start", symlinks=True)
    words = [f"init.checkpoint={tmp_path / 'start'}", "scheduler=constant", "checkpoint.keep=9"]
    run(tiny_config, [*words, f"env.save_dir={tmp_path / 'whole'}", "training.max_updates=4"])
    cut = [*words, f"env.save_dir={tmp_path / 'cut'}"]
    run(tiny_config, [*cut, "training.max_updates=2"])
    shutil.rmtree(tmp_path / "start")
    run(tiny_config, [*cut, "training.max_updates=4", "checkpoint.resume=true"])
    whole, resumed = (load_weights_of_last(tmp_path / name) for name in ("whole", "cut"))
    assert all(torch.equal(whole[n], t) for n, t in resumed.items())
    run(tiny_config, [*cut, "run_type=test"])  # nor does an evaluation


def load_weights_of_last(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "checkpoints" / "last" / "model.safetensors")


WRONG: dict[str, tuple[list[str], str]] = {
    "no teacher": (
        ["init={}"],
        r"init\.checkpoint: must be given, since there is no trained teacher: the folder of a finished run",
    ),
    "average": (
        ["init={}", TEACH, "teacher={ema: 0.9}"],
        r"init\.checkpoint: must be given, since there is no trained teacher",
    ),
    "nothing there": (["init.checkpoint=runs/none"], r"init\.checkpoint: there is no folder runs/none"),
    "sizes": (["init.checkpoint=TEACHER", "model.hidden_size=4"], r"init: .* is \[.*\] here and \[.*\] in what it starts from"),
    "part": (["init={checkpoint: TEACHER, only: [encoder]}"], r"init\.only\[0\]: the model has no part 'encoder'; it has"),
    "kind": (
        [
            "init.checkpoint=TEACHER",
            "model={type: unimodal_text, encoder: {type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}}",
        ],
        r"init: what it starts from has no .* Start from a model of the same kind",
    ),
    "layers": (["init={checkpoint: TEACHER, layers: [0, 1]}"], r"init\.layers: .*wanted 1 numbers of layers between 0 and 0, got"),
    "word": (["init={checkpoint: TEACHER, layers: evn}"], r"init\.layers: wanted .* got 'evn'\. Did you mean 'even'"),
    "processors": (
        ["init.checkpoint=TEACHER", "data.processors.text.max_length=7"],
        r"data\.processors\.text: what the model starts from was trained on other tensors: max_length is 7 here and 8 there",
    ),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_a_start_that_cannot_be_is_told_in_one_sentence(
    words: list[str], said: str, tiny_config: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    words = [word.replace("TEACHER", str(tiny_teacher)) for word in words]
    with pytest.raises(ConfigError) as raised:
        checked(load(tiny_config, [f"env.save_dir={tmp_path / 'x'}", *words]))
    (found,) = raised.value.problems
    assert re.search(said, str(found)), found


def test_weights_for_another_vocabulary_are_refused_in_the_run(
    tiny_config: Path, tiny_teacher: Path, tiny_world: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_world, tmp_path / "world")
    file = tmp_path / "world" / "train.jsonl"
    file.write_text(file.read_text().replace("what a", "quite another"))
    run(tiny_config, [f"data.dataset.root={tmp_path / 'world'}", f"env.save_dir={tmp_path / 'own'}", "training.max_updates=1"])
    words = [f"env.save_dir={tmp_path / 'run'}", f"data.processors_from={tmp_path / 'own'}", f"init.checkpoint={tiny_teacher}"]
    with pytest.raises(
        CheckpointError, match=r"init: the model of .* was trained on other text tensors than this run makes\. Set data"
    ):
        run(tiny_config, [*words, f"data.dataset.root={tmp_path / 'world'}"])
