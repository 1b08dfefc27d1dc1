"""A net chooses, for each example, which of the teachers teach it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from msd_framework.randomness import random_numbers_apart
from msd_framework.ranges import positive
from msd_framework.structures import Setting
from msd_framework.views import View, rows_shown
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy, mean_of_shown

SMALLEST = 1e-12  # the least share that a logarithm is taken of


@WEIGHTINGS.register("routed")
class RoutedTeachers(WeightingStrategy):
    r"""An example is taught on the k views that a net chooses by what the student predicts.

    .. math::
        \sum_v w_v D_v + \frac{b}{V} \, \mathrm{KL}\left(\tfrac1V \,\Big\Vert\, \tfrac1N \textstyle\sum_n g(z_n)\right), \qquad
        w_v = \begin{cases} 1 / k & \text{if } g_v(z) \text{ is among the largest k} \\ 0 & \text{else} \end{cases}

    with :math:`z` the student's logits, and :math:`g` the softmax of two linear maps, of C to 2 C to V numbers, bias included. The
    V views differ in their teacher's side and have the same side of the student: each view is a teacher, such as `{teacher:
    full, student: image}`, `{teacher: audio, student: image}` and `image`, and with several teachers (`by_view`) another model.
    Source: Li et al., MST-Distill: Mixture of Specialized Teachers for Cross-Modal Knowledge Distillation, ACM Multimedia
    2025 (arXiv:2507.07015), its routing; choices, weights and the balance are those of the released code. **The balance alone
    teaches the net**, there as here: choosing the largest passes no gradient. `weight/<view>` in the log is the share of the
    examples that a view teaches, divided by k.

    **What differs from the paper.** Teachers are finished runs: they do not train along with the student at first, and no mask
    nets in their layers adapt them to it. In the released code the balance moves the student as well, through its logits;
    here it moves the net alone. The balance is that of one process and one part of `training.accumulate`.

    Args:
        num_teachers: k, the views that teach an example.
        balance: b, above 0: how strongly all views are to be chosen equally often.
        num_classes: C.
        seed: of the net's first weights.
    """

    def __init__(self, num_teachers: int = 1, balance: float = 1.0, num_classes: int = 2, seed: int = 0):
        super().__init__()
        positive(num_teachers=num_teachers, balance=balance)
        self.num_teachers, self.balance, self.num_classes, self.seed = num_teachers, balance, num_classes, seed
        self.load = torch.zeros(())  # the mean of g over the targets of the last forward pass, [V]

    def prepare(self, views: tuple[View, ...]) -> None:
        if self.num_teachers > len(views):
            raise ValueError(f"num_teachers must be at most the {len(views)} views, got {self.num_teachers}.")
        with random_numbers_apart(self.seed):  # all processes make the same net
            self.net = nn.Sequential(nn.Linear(self.num_classes, 2 * self.num_classes), nn.Linear(2 * self.num_classes, len(views)))

    def forward(self, evidence: Evidence) -> Tensor:
        z = evidence.student[0].to(next(self.net.parameters()))  # [N, C], the same on all views
        with torch.autocast(z.device.type, enabled=False):
            gates = self.net(z).softmax(-1).T  # [V, N]
        counted = None if evidence.shown is None else evidence.shown.any(0).expand_as(gates)
        self.load = mean_of_shown(gates, counted)
        if evidence.shown is not None:
            gates = gates.where(evidence.shown, -1.0)
        chosen = torch.zeros_like(gates).scatter(0, gates.topk(self.num_teachers, 0).indices, 1.0)
        if evidence.shown is not None:
            chosen = chosen.where(evidence.shown, 0.0)
        return (chosen / chosen.sum(0).clamp(min=1)).to(evidence.losses)

    def penalty(self) -> Tensor:
        num_views = len(self.load)
        load, self.load = self.load, self.load.detach()  # its graph is for one backward pass
        divergence = -(math.log(num_views) + load.clamp(min=SMALLEST).log().mean())  # of the load from equal shares
        return self.balance * divergence / num_views

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting, views: tuple[View, ...]) -> list[str]:
        problems = []
        k = options.get("num_teachers", 1)
        if k > len(views):
            problems.append(f"num_teachers: wanted at most the {len(views)} views, got {k}.")
        sides = {tuple(rows_shown(v.student, setting.student_modalities).items()): v.student for v in views}
        if len(sides) > 1:
            first, second = list(sides.values())[:2]
            text = f"chooses among teachers of one prediction of the student, and the views have those of {first!r} and {second!r}"
            problems.append(f"type: routed {text}. Write {{teacher: .., student: {first}}} in each.")
        return problems
