"""Components in a YAML: gone through, and compared."""

from __future__ import annotations

import pytest

from msd_framework.components.specs import Spec, differences
from msd_framework.registry import MASKERS, OBJECTIVES, OPTIMIZERS, WEIGHTINGS


def test_a_component_comes_after_those_inside_it():
    spec = {"type": "distillation", "views": ["full"], "weighting": {"type": "instance", "saliency": "drop"}}
    found = [(p.path, p.registry.kind, p.name) for p in Spec("o", OBJECTIVES, spec).with_nested]
    assert found == [
        ("o.weighting.saliency", "saliency", "drop"),
        ("o.weighting", "weighting", "instance"),
        ("o", "objective", "distillation"),
    ]


@pytest.mark.parametrize(
    ("registry", "here", "there", "text"),
    [
        (OPTIMIZERS, "adamw", {"type": "adamw", "lr": None}, ""),
        (OPTIMIZERS, "adamw", {"type": "adamw", "lr": 1e-3}, "lr is None here and 0.001 there"),
        (OPTIMIZERS, "adamw", "sgd", "type is 'adamw' here and 'sgd' there"),
        (WEIGHTINGS, {"type": "instance", "saliency": "drop"}, {"type": "instance", "saliency": {"type": "drop"}}, ""),
        (
            MASKERS,
            {"type": "by_modality", "maskers": {"a": "drop"}},
            {"type": "by_modality", "maskers": {"a": {"type": "drop"}}},
            "",
        ),
    ],
)
def test_differences_look_through_spellings_and_defaults(registry, here, there, text):
    assert differences(registry, here, there) == text
