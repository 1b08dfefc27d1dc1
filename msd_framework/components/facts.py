"""What a run knows and components may ask for by name; some of it of one modality alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# what a run fills in where a component asks for it by name, as far as it is not known before data is read
STAND_INS = {
    "num_classes": 2,
    "task": "single_label",
    "outcomes": None,
    "class_names": (),
    "vocab_size": 2**31 - 1,  # large, so that no id is refused that may be there
    "pad_id": 0,
    "cls_id": 2,
    "sep_id": 3,
    "image_size": 224,
    "image_channels": 3,
    "feature_size": 2048,
    "sample_rate": 16000,
    "seed": 0,
    "fine_tunes": False,
}
# arguments that only the run can give, by the kind of component that takes them
CONTEXT = {"objectives": ("model", "teacher", "masker"), "datasets": ("split", "on_error", "max_examples", "unlabelled")}


def narrowed(facts: Mapping[str, Any], modalities: Iterable[str]) -> Mapping[str, Any]:
    """Facts without those of other modalities; as they are, if nothing is known of any of these.

    >>> narrowed({"seed": 0, "modalities": {"text": {"vocab_size": 9}, "title": {"vocab_size": 7}}}, ["text"])
    {'seed': 0, 'modalities': {'text': {'vocab_size': 9}}}
    """
    known = facts.get("modalities", {})
    kept = {m: known[m] for m in modalities if m in known}
    return {**facts, "modalities": kept} if kept else facts


def named(facts: Mapping[str, Any], option: str) -> Mapping[str, Any]:
    """The facts for an option, narrowed if it begins with a modality's name, as `image_encoder` does."""
    return narrowed(facts, [m for m in facts.get("modalities", {}) if option.startswith(f"{m}_")])


def agreed(facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What is known whatever the modality, and a sentence on each fact that modalities differ in.

    >>> agreed({"seed": 0, "modalities": {"text": {"pad_id": 0, "vocab_size": 9}, "title": {"pad_id": 0, "vocab_size": 7}}})
    ({'seed': 0, 'pad_id': 0}, {'vocab_size': 'must be given: that of text is 9 and that of title is 7.'})
    """
    by_name: dict[str, dict[str, Any]] = {}
    for modality, own in facts.get("modalities", {}).items():
        for name, value in own.items():
            by_name.setdefault(name, {})[modality] = value
    known, disputed = {**facts}, {}
    known.pop("modalities", None)
    for name, values in by_name.items():
        first, *others = values.values()
        if others.count(first) == len(others):
            known[name] = first
        else:
            disputed[name] = f"must be given: {' and '.join(f'that of {m} is {v}' for m, v in values.items())}."
    return known, disputed
