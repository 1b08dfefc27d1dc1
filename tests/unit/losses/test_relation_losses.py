"""Losses on relations between examples: released code, the papers' formulas written apart in float64, and what they lower."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd_framework.errors import ConfigError
from msd_framework.losses.base import FeatureLoss
from msd_framework.losses.crd import ContrastiveRepresentation
from msd_framework.losses.relations import (
    Affinity,
    ModalityAffinity,
    ProbabilisticTransfer,
    RelationalDistances,
    SimilarityPreserving,
    summary,
)
from msd_framework.registry import FEATURE_LOSSES
from msd_framework.run import run
from msd_framework.structures import Batch, Feature, FeatureShape
from msd_framework.testing import made_batch

SPECS = {
    "rkd": {"type": "rkd", "distance_weight": 0.7, "angle_weight": 1.3},
    "sp": {"type": "sp"},
    "pkt": {"type": "pkt"},
    "affinity": {"type": "affinity", "temperature": 0.3},
}
every_relation = pytest.mark.parametrize("name", SPECS)
cases = st.tuples(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 5), st.floats(0.1, 10))


def points(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(case: tuple[int, int, int, float]) -> tuple[Tensor, Tensor]:
    seed, batch, width, scale = case
    return points(batch, width, seed=seed, scale=scale), points(batch, width + 2, seed=seed + 1)


def examples(size: int, first: int = 0) -> Batch:
    return replace(made_batch(size), places=tuple(range(first, first + size)))


def value(loss: FeatureLoss, student: Tensor, teacher: Tensor) -> Tensor:
    """The value of summaries [B, D] or, without a mask, of hidden states [B, M, D]."""
    found: Tensor = loss(Feature(student), Feature(teacher), examples(len(student)))
    return found


def built(name: str) -> FeatureLoss:
    return FEATURE_LOSSES.build(SPECS[name])


def exactly(found: Tensor, wanted: Tensor) -> None:
    """Two float64 computations of the same formula: only rounding may differ."""
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def released(name: str, student: Tensor, teacher: Tensor, *options: object) -> Tensor:
    """The value of a loss of torchdistill."""
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    found: Tensor = getattr(mid_level, name)(*options)({".": {"output": student}}, {".": {"output": teacher}})
    return found


# What they share


@every_relation
def test_hidden_states_are_compared_by_their_mean_over_the_positions_that_count(name: str) -> None:
    mask = torch.tensor([[True, True, False], [True, False, True], [True, True, True], [False, True, False]])
    student, teacher = points(4, 3, 5), points(4, 3, 6, seed=1)
    found = built(name)(Feature(student, mask), Feature(teacher, mask), examples(4))
    means = [torch.stack([row[kept].mean(0) for row, kept in zip(x, mask)]) for x in (student, teacher)]
    exactly(found, value(built(name), *means))


def test_what_stands_in_masked_positions_does_not_count() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    clean, dirty = points(2, 2, 3), points(2, 2, 3)
    dirty[0, 1] = torch.tensor([math.nan, math.inf, 1e9])
    exactly(summary(Feature(dirty, mask)), summary(Feature(clean, mask)))


@every_relation
@settings(max_examples=15)
@given(case=cases)
def test_a_student_that_is_its_teacher_has_value_zero_and_any_other_one_above(name: str, case: tuple) -> None:
    student, teacher = pair(case)
    loss = built(name)
    # The logarithm of the released PKT lets single values be below 0 by its epsilon; the sum over a row is not.
    assert (value(loss, student, teacher) >= -1e-6).all()
    torch.testing.assert_close(value(loss, teacher, teacher), torch.zeros(len(teacher), dtype=torch.float64), rtol=0, atol=1e-12)


@every_relation
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    loss, teacher = built(name), points(4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda s: value(loss, s, teacher), points(4, 3, seed=2).requires_grad_())


@every_relation
@settings(max_examples=20)
@given(
    rows=st.lists(st.integers(0, 3), min_size=2, max_size=6),
    empty=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_gradient_is_finite_and_of_usual_size_where_rows_are_the_same_or_empty(
    name: str, rows: list[int], empty: bool, dtype: torch.dtype
) -> None:
    student = points(4, 3, seed=5).to(dtype)[rows]
    teacher = points(4, 4, seed=6).to(dtype)[rows]
    if empty:
        student[0], teacher[-1] = 0.0, 0.0
    student.requires_grad_()
    found = value(built(name), student, teacher)
    found.sum().backward()
    assert found.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1e3


@every_relation
def test_the_order_of_examples_does_not_matter(name: str) -> None:
    student, teacher, order = points(5, 3), points(5, 4, seed=1), torch.tensor([3, 1, 4, 0, 2])
    exactly(value(built(name), student[order], teacher[order]), value(built(name), student, teacher)[order])


@every_relation
def test_a_turned_space_is_the_same_space(name: str) -> None:
    student, teacher = points(5, 3), points(5, 4, seed=1)
    turn = torch.linalg.qr(points(3, 3, seed=2)).Q
    exactly(value(built(name), student @ turn, teacher), value(built(name), student, teacher))


@every_relation
def test_the_size_of_a_space_does_not_count(name: str) -> None:
    student, teacher = points(5, 3), points(5, 4, seed=1)
    exactly(value(built(name), 40 * student, 0.1 * teacher), value(built(name), student, teacher))


# Their formulas


@settings(max_examples=20)
@given(case=cases, distance_weight=st.floats(0, 2), angle_weight=st.floats(0, 2))
def test_the_mean_of_rkd_is_that_of_the_released_code(case: tuple, distance_weight: float, angle_weight: float) -> None:
    student, teacher = pair(case)
    wanted = released("RKDLoss", student, teacher, ".", ".", distance_weight, angle_weight, "mean")
    found = value(RelationalDistances(distance_weight, angle_weight), student, teacher).mean()
    # Its distances come of squares and products, which lose some digits of near points.
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=torch.float64), rtol=1e-5, atol=1e-8)


def test_an_example_has_its_own_distances_and_the_angles_whose_vertex_it_is() -> None:
    student, teacher = points(4, 3), points(4, 2, seed=1)

    def relations(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        mean = torch.stack([(x[j] - x[k]).norm() for j in range(4) for k in range(j)]).mean()
        unit = [F.normalize(x[j] - x[i], dim=0) if j != i else torch.zeros_like(x[i]) for j in range(4)]
        return torch.stack([(x[j] - x[i]).norm() / mean for j in range(4)]), torch.stack([a @ b for a in unit for b in unit])

    wanted = []
    for i in range(4):
        distances, angles = zip(relations(student, i), relations(teacher, i))
        wanted.append(0.5 * F.smooth_l1_loss(*distances) + 2 * F.smooth_l1_loss(*angles))
    exactly(value(RelationalDistances(0.5, 2.0), student, teacher), torch.stack(wanted))


@settings(max_examples=20)
@given(case=cases)
def test_the_mean_of_sp_is_the_paper_s_loss(case: tuple) -> None:
    """Not compared with torchdistill 1.1.5, whose rows have absolute values that add up to 1 (`normalize(G, 1)`)."""
    student, teacher = pair(case)
    rows = [F.normalize(x @ x.T, p=2, dim=1) for x in (student, teacher)]
    found = value(SimilarityPreserving(), student, teacher)
    exactly(found, (rows[0] - rows[1]).square().mean(1))
    exactly(found.mean(), (rows[0] - rows[1]).norm() ** 2 / len(student) ** 2)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 6))
def test_the_mean_of_pkt_is_the_batch_times_that_of_the_released_code(seed: int, batch: int) -> None:
    student, teacher = points(batch, 6, seed=seed), points(batch, 8, seed=seed + 1)
    wanted = len(student) * released("PKTLoss", student.clone(), teacher.clone(), ".", "output", ".", "output")
    # It adds 1e-7 to lengths, too.
    torch.testing.assert_close(value(ProbabilisticTransfer(), student, teacher).mean(), wanted, rtol=1e-5, atol=1e-6)


def test_pkt_is_a_divergence_of_choices_of_neighbours() -> None:
    student, teacher = points(4, 3), points(4, 5, seed=1)
    kernels = [1 + F.cosine_similarity(x[:, None], x[None], dim=2) for x in (teacher, student)]
    p, q = (k / k.sum(1, keepdim=True) for k in kernels)
    wanted = F.kl_div(q.log(), p, reduction="none").sum(1)
    torch.testing.assert_close(value(ProbabilisticTransfer(), student, teacher), wanted, rtol=1e-4, atol=1e-6)  # the epsilons


def test_affinity_is_a_divergence_of_softmaxes_over_the_other_examples() -> None:
    student, teacher = points(4, 3), points(4, 5, seed=1)
    wanted = []
    for i in range(4):
        others = [j for j in range(4) if j != i]
        p, q = (F.cosine_similarity(x[i][None], x[others]).div(0.3).softmax(0) for x in (teacher, student))
        wanted.append(F.kl_div(q.log(), p, reduction="sum"))
    exactly(value(Affinity(0.3), student, teacher), torch.stack(wanted))


def clip_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The relational loss of CLIP-KD for images [:, 0] and texts [:, 1]."""
    logits = [F.normalize(x[:, 0], dim=1) @ F.normalize(x[:, 1], dim=1).T / temperature for x in (student, teacher)]
    both = [(logits[0], logits[1]), (logits[0].T, logits[1].T)]
    return sum(F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean") for s, t in both) / 2


@settings(max_examples=15)
@given(case=cases, temperature=st.floats(0.05, 2))
def test_the_affinity_of_image_and_text_is_that_of_clip_kd(case: tuple, temperature: float) -> None:
    seed, batch, width, scale = case
    student, teacher = points(batch, 2, width, seed=seed, scale=scale), points(batch, 2, width + 1, seed=seed + 1)
    exactly(value(ModalityAffinity(temperature), student, teacher).mean(), clip_kd(student, teacher, temperature))


def test_the_affinity_of_three_modalities_is_the_mean_over_their_pairs() -> None:
    student, teacher = points(5, 3, 4), points(5, 3, 6, seed=1)
    pairs = [[0, 1], [0, 2], [1, 2]]
    wanted = torch.stack([value(ModalityAffinity(0.5), student[:, p], teacher[:, p]) for p in pairs]).mean(0)
    exactly(value(ModalityAffinity(0.5), student, teacher), wanted)


def test_examples_that_lack_a_modality_are_left_out_of_its_affinity() -> None:
    student, teacher = points(5, 2, 4), points(5, 2, 6, seed=1)
    mask = torch.tensor([[True, True]] * 3 + [[True, False], [False, False]])
    found = ModalityAffinity(0.5)(Feature(student, mask), Feature(teacher, mask), examples(5))
    # The first three are asked about all images and texts that are there: four images and three texts.
    s, t = (
        torch.einsum("id,jd->ij", F.normalize(x[:, 0], dim=1)[:4], F.normalize(x[:, 1], dim=1)[:3]) / 0.5
        for x in (student, teacher)
    )
    rows = F.kl_div(s.log_softmax(1), t.log_softmax(1), log_target=True, reduction="none").sum(1)
    columns = F.kl_div(s.T.log_softmax(1), t.T.log_softmax(1), log_target=True, reduction="none").sum(1)
    exactly(found[:3], (rows[:3] + columns) / 2)
    exactly(found[3], rows[3])
    assert found[4] == 0


def test_features_of_another_number_of_modalities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the same of both, and the student's feature has 2 where the teacher's has 3\."):
        ModalityAffinity().prepare(FeatureShape("hidden", 4, 2), FeatureShape("hidden", 4, 3))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "rkd", "distance_weight": -1.0}, "distance_weight must be 0 or more, got -1.0"),
        ({"type": "rkd", "angle_weight": -1.0}, "angle_weight must be 0 or more, got -1.0"),
        ({"type": "affinity", "temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"type": "modality_affinity", "temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"type": "crd", "num_negatives": 0}, "num_negatives must be above 0, got 0"),
        ({"type": "crd", "embedding_size": 0}, "embedding_size must be above 0, got 0"),
        ({"type": "crd", "temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"type": "crd", "momentum": 1.0}, "momentum must be 0 or more and below 1, got 1.0"),
    ],
)
def test_options_out_of_range_are_refused(spec: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FEATURE_LOSSES.build(spec)


# What they lower


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def distances(x: Tensor) -> Tensor:
    return torch.pdist(x)


def cosines(x: Tensor) -> Tensor:
    return F.cosine_similarity(x[:, None], x[None], dim=2)[~torch.eye(len(x), dtype=torch.bool)]


LIKENESS: dict[str, Callable[[Tensor], Tensor]] = {"rkd": distances, "sp": cosines, "pkt": cosines, "affinity": cosines}


@every_relation
def test_following_the_gradient_makes_examples_related_as_the_teacher_has_them(name: str) -> None:
    loss, teacher, likeness = built(name), points(12, 3, seed=1), LIKENESS[name]
    student = points(12, 6, seed=2).requires_grad_()
    before = correlation(likeness(student.detach()), likeness(teacher))
    start = value(loss, student, teacher).mean().item()
    optimizer = torch.optim.Adam([student], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        value(loss, student, teacher).mean().backward()
        optimizer.step()
    assert value(loss, student, teacher).mean().item() < 0.2 * start
    assert before < 0.4
    assert correlation(likeness(student.detach()), likeness(teacher)) > 0.9


def test_following_the_modality_affinity_lets_images_find_the_texts_that_the_teacher_finds() -> None:
    loss, teacher = ModalityAffinity(0.1), points(12, 2, 6, seed=1)
    student = points(12, 2, 8, seed=2).requires_grad_()
    found = lambda x: torch.einsum("id,jd->ij", F.normalize(x[:, 0], dim=1), F.normalize(x[:, 1], dim=1)).argmax(1)  # noqa: E731
    optimizer = torch.optim.Adam([student], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        value(loss, student, teacher).mean().backward()
        optimizer.step()
    assert (found(student.detach()) == found(teacher)).double().mean() > 0.9


# Contrast


def contrast(num_examples: int = 20, student: int = 5, teacher: int = 7, **options: float) -> ContrastiveRepresentation:
    torch.manual_seed(0)
    loss = ContrastiveRepresentation(**{"num_negatives": 6, "embedding_size": 8, "temperature": 0.5, **options})  # type: ignore[arg-type]
    loss.prepare(
        FeatureShape("pooled", student, num_examples=num_examples), FeatureShape("pooled", teacher, num_examples=num_examples)
    )
    return loss.double()


def embedded(loss: ContrastiveRepresentation, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return F.normalize(loss.student_map(student), dim=1), F.normalize(loss.teacher_map(teacher), dim=1)


def test_crd_is_that_of_torchdistill_over_several_steps() -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    ours = contrast()
    theirs = mid_level.CRDLoss("s", "e", "t", 8, 20, 6, 20, temperature=0.5, momentum=0.5).double()
    theirs.memory_v1.copy_(ours.student_memory)
    theirs.memory_v2.copy_(ours.teacher_memory)
    for step in range(3):
        student, teacher, places = points(4, 5, seed=step), points(4, 7, seed=9 + step), torch.arange(4) * (step + 2)
        s, t = embedded(ours, student, teacher)
        torch.manual_seed(step)
        drawn = ours.draw(places)
        chosen = {"pos_idx": places, "contrast_idx": torch.cat([places[:, None], drawn], 1)}
        wanted = theirs({"s": {"output": s}, "e": {"input": chosen}}, {"t": {"output": t}})
        torch.manual_seed(step)
        found = ours(Feature(student), Feature(teacher), replace(made_batch(4), places=tuple(places.tolist())))
        # Its constants Z are float32 tensors.
        torch.testing.assert_close(found.mean(), wanted[0].detach().double(), rtol=1e-5, atol=0, check_dtype=False)
        torch.testing.assert_close(ours.student_memory, theirs.memory_v1, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ours.teacher_memory, theirs.memory_v2, rtol=1e-9, atol=1e-12)


def test_crd_of_an_example_is_the_formula() -> None:
    loss, student, teacher = contrast(), points(3, 5), points(3, 7, seed=1)
    s, t = embedded(loss, student, teacher)
    torch.manual_seed(4)
    drawn = loss.draw(torch.arange(3))
    wanted = torch.zeros(3, dtype=torch.float64)
    for anchors, memory in ((s, loss.teacher_memory.clone()), (t, loss.student_memory.clone())):
        scores = torch.stack([(memory[[i, *drawn[i].tolist()]] @ anchors[i] / 0.5).exp() for i in range(3)])
        h = scores / (scores.mean() * 20)
        probability = h / (h + 6 / 20)
        wanted -= probability[:, 0].log() + (1 - probability[:, 1:]).log().sum(1)
    torch.manual_seed(4)
    torch.testing.assert_close(value(loss, student, teacher), wanted, rtol=1e-5, atol=1e-5)  # 1e-7 is added to denominators


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(2, 6))
def test_the_right_example_is_never_a_negative_one_and_all_others_are(seed: int, num_examples: int) -> None:
    loss, places = contrast(num_examples, num_negatives=400), torch.arange(num_examples)
    torch.manual_seed(seed)
    drawn = loss.draw(places)
    for place, row in zip(places.tolist(), drawn):
        assert set(row.tolist()) == set(range(num_examples)) - {place}


def test_only_training_changes_what_crd_remembers() -> None:
    loss, student, teacher = contrast().eval(), points(3, 5), points(3, 7, seed=1)
    before = {name: b.clone() for name, b in loss.named_buffers()}
    value(loss, student, teacher)
    assert all(torch.equal(b, before[name]) for name, b in loss.named_buffers())
    value(loss.train(), student, teacher)
    assert not any(torch.equal(b, before[name]) for name, b in loss.named_buffers())
    assert torch.equal(loss.student_memory[3:], before["student_memory"][3:])


def test_the_gradient_of_crd_is_finite_at_rows_that_are_the_same_or_empty() -> None:
    student = torch.zeros(4, 5, dtype=torch.float64).index_fill_(0, torch.tensor([1, 2]), 1.0).requires_grad_()
    loss = contrast()
    value(loss, student, torch.zeros(4, 7, dtype=torch.float64)).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_following_crd_lets_a_student_find_its_teacher_s_vector_among_all() -> None:
    loss, teacher = contrast(16, student=6, num_negatives=12, temperature=0.1), points(16, 7, seed=1)
    student = points(16, 6, seed=2)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.03)

    def found() -> float:
        s, t = embedded(loss, student, teacher)
        return ((s @ t.T).argmax(1) == torch.arange(16)).double().mean().item()

    before = found()
    torch.manual_seed(3)
    for _ in range(150):
        optimizer.zero_grad()
        value(loss, student, teacher).mean().backward()
        optimizer.step()
    assert before < 0.3
    assert found() > 0.9


def test_crd_must_know_how_many_examples_there_are() -> None:
    with pytest.raises(ValueError, match=r"nobody said how many there are\. Take another feature loss\."):
        ContrastiveRepresentation().prepare(FeatureShape("pooled", 5), FeatureShape("pooled", 7))
    with pytest.raises(ValueError, match=r"compares a training example with others, and there is 1\."):
        contrast(num_examples=1)


def test_crd_must_know_which_examples_it_sees() -> None:
    with pytest.raises(ValueError, match=r"crd must know where .* this batch has no places\."):
        contrast()(Feature(points(3, 5)), Feature(points(3, 7)), made_batch(3))


def test_relations_are_lines_of_a_configuration(tiny_config, tiny_teacher, tmp_path) -> None:
    terms = [f"{{loss: {name}, student: fused.pooled}}" for name in ("rkd", "sp", "pkt")]
    terms += ["{loss: affinity, student: text.last.hidden}", "{loss: modality_affinity, student: fused.projected}"]
    terms += ["{loss: {type: crd, num_negatives: 4, embedding_size: 8}, student: image.projected}"]
    words = [f"objective={{type: distillation, views: [full], features: [{', '.join(terms)}]}}", "training.log_every=1"]
    assert run(tiny_config, [*words, f"teacher.checkpoint={tiny_teacher}", f"env.save_dir={tmp_path / 'run'}"])
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    found = {key.split("/")[2]: number for key, number in row.items() if key.startswith("train/feature/")}
    assert set(found) == {"rkd", "sp", "pkt", "affinity", "modality_affinity", "crd"}
    assert all(number > 0 for number in found.values())
