"""Both steps that the benchmark of learned weights compares find the same gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.held_out import HeldOutOf
from benchmarks.made import VIEWS, Sizes, make_batch, transformer
from benchmarks.ours import Ours
from benchmarks.second_order import Passes, second_order
from benchmarks.timing import PRECISIONS
from msd_framework.weighting.learned import LearnedWeights

TINY = Sizes(transformer(1, 24, 2, 32), transformer(2, 48, 2, 64), num_examples=3)
FP32 = PRECISIONS["fp32"]


def test_a_learned_step_and_second_derivatives_find_the_same_gradient(monkeypatch) -> None:
    found: list[Tensor] = []
    learn = LearnedWeights.learn
    monkeypatch.setattr(LearnedWeights, "learn", lambda self, slopes, mean: (found.extend(slopes), learn(self, slopes, mean)))
    batch = make_batch(3, seed=1)
    torch.manual_seed(0)
    ours = Ours(TINY)
    for module in ours.student.modules():
        if hasattr(module, "p"):
            module.p = 0.0  # the two put rows in another order, and so would drop other features
    start = {n: t.clone() for n, t in ours.student.state_dict().items()}
    ours.learned(batch, FP32)()
    ours.student.load_state_dict(start)
    ours.optimizer.state.clear()
    passes = Passes(ours.student.train(), ours.masker, batch)
    wanted = second_order(passes, ours.optimizer, ours.cached, HeldOutOf(batch).batch, FP32)
    learned = slice(1, len(VIEWS))
    # float32, and AdamW's first step is nearly the sign of a gradient: what is left of it is a small difference
    assert torch.nn.functional.cosine_similarity(found[0][learned].flatten(), wanted[learned].flatten(), 0) > 0.999
