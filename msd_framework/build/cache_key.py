"""What a teacher's cached answers depend on, and in what a run asks for others than there are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from msd_framework.components.specs import complete
from msd_framework.config.cards import card_of
from msd_framework.config.schema import ChannelsConfig, RunConfig, TeacherConfig
from msd_framework.data.base import Processor
from msd_framework.engine.checkpoint import find_checkpoint, read_json
from msd_framework.errors import CacheError
from msd_framework.maskers.base import Masker
from msd_framework.registry import DATASETS, MASKERS, PROCESSORS
from msd_framework.teachers.masked import read_saliency
from msd_framework.teachers.store import FORMAT, SUMMARY, Card, Layout
from msd_framework.views import FULL

LARGE = 768
"""Classes beyond which a store keeps the summary that the classifier reads in place of logits, if the teacher tells it."""

PLACES = ("root", "split", "max_examples", "on_error")
"""Options of a data set that say where and how much is read, not what: the content has a part of its own."""

HIDDEN = "special tokens first"
"""What hiding a text means: [SEP] moves to position 1. Caches of before do not say so: their answers tell how long a text was."""

WIDER = ("views", "summary", "precision", "masker")
"""Parts in which a store may hold more than is asked."""


@dataclass(frozen=True)
class Question:
    """What a run asks its teacher about a split.

    Args:
        use: what the run uses the split for: `train`, `validation` or `test`.
        parts: all that the answers depend on but for the precision.
        notes: what helps to name a difference.
        layout: what is stored of an example.
        precisions: what the answers may be computed in.
    """

    use: str
    parts: Mapping[str, Any]
    notes: Mapping[str, Any]
    layout: Layout
    precisions: tuple[str, ...]

    @property
    def lock(self) -> str:
        """The name of the lock that is held by whoever fills a store for this question."""
        return lock_name(self.parts)

    def card(self, precision: str) -> Card:
        """The card of a store that is made for this question."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return Card({**self.parts, "precision": precision}, self.notes, self.layout, now)

    def is_answered_by(self, card: Card) -> bool:
        """Whether a store's answers are those that are asked for, perhaps among others."""
        there = card.parts
        same = there.keys() - {"precision"} == self.parts.keys()
        same = same and all(there[k] == v for k, v in self.parts.items() if k not in WIDER)
        return (
            same
            and set(there["views"]) >= set(self.parts["views"])
            and self.parts["summary"] in (0, there["summary"])
            and self.parts["masker"] in (None, there["masker"])
            and there["precision"] in self.precisions
        )

    def differences(self, card: Card) -> list[str]:
        """In what a store's answers differ from those that are asked for: what was -> what is wanted."""
        if self.is_answered_by(card):
            return []
        there, here = {**card.parts}, {**self.parts, "precision": " or ".join(self.precisions)}
        if there.get("precision") in self.precisions:
            there["precision"] = here["precision"]
        names = [k for k in {**there, **here} if there.get(k) != here.get(k)]
        return [text for k in names for text in _difference(k, there.get(k), here.get(k), card.notes, self.notes)]

    def is_near(self, card: Card) -> bool:
        """Whether a store is about the same teacher and split, though perhaps in another state."""
        there, here = card.parts, self.parts
        same_teacher = there["teacher.weights"] == here["teacher.weights"] or card.notes["teacher"] == self.notes["teacher"]
        same_data = there["data.dataset"]["type"] == here["data.dataset"]["type"] and there["data.split"] == here["data.split"]
        return bool(same_teacher and same_data)


def question(
    config: RunConfig,
    use: str,
    content: str,
    folder: str,
    processors: Mapping[str, Processor],
    processor_specs: Mapping[str, Any],
    masker: Masker,
    layout: Layout,
) -> Question:
    """What a run asks a teacher about a split.

    Args:
        config: what the run is.
        use: what it uses the split for: `train`, `validation` or `test`.
        content: what stands for the content of the whole split.
        folder: where the teacher comes from.
        processors: how each modality becomes tensors for the teacher.
        processor_specs: what the YAML, or the teacher's checkpoint, says of them.
        masker: how views hide a modality from the teacher; it has learned what it asks for.
        layout: what is stored of an example, in the views that are asked about.
    """
    teacher = config.teacher
    assert teacher is not None
    checkpoint = find_checkpoint(folder)
    card = card_of(checkpoint, config)
    read = {m: processors[m] for m in card["modalities"]}
    specs = {m: complete(PROCESSORS, processor_specs[m]) for m in read}
    dataset = {k: v for k, v in complete(DATASETS, config.data.dataset).items() if k not in PLACES}
    hides = any(view != FULL for view in layout.views)
    hidden = {"spec": complete(MASKERS, teacher.masker or config.masker), "state": _state(masker), "meaning": HIDDEN}
    parts = {
        "format": FORMAT,
        "teacher.weights": read_json(checkpoint / "files.json")["sha256"]["model.safetensors"],
        "teacher.model": {"rebuild": card["rebuild"], "facts": card["facts"]},
        "data.dataset": dataset,
        "data.split": getattr(config.data, use),
        "data.content": content,
        **{f"data.processors.{m}": p.deterministic().fingerprint for m, p in read.items()},
        **{f"data.processors.{m}.files": p.files for m, p in read.items() if p.files},
        # what no view hides depends on no masker
        "masker": hidden if hides else None,
        "views": list(layout.views),
        **({"teacher.channels": kept_channels(teacher.channels)} if teacher.channels else {}),
        "dtype": "float16",
        "logits": layout.num_classes,
        "summary": layout.summary_size,
    }
    notes = {"teacher": folder, **{f"data.processors.{m}": spec for m, spec in specs.items()}}
    wanted = teacher.cache_precision
    return Question(use, _in_json(parts), _in_json(notes), layout, ("fp32", "bf16") if wanted == "auto" else (wanted,))


def stores(folder: Path) -> Iterator[tuple[Path, Card | CacheError]]:
    """Every store of a folder with its card, or with what is wrong with it."""
    for path in sorted(p for p in folder.glob("[!.]*") if p.is_dir()):
        try:
            yield path, Card.read(path)
        except CacheError as error:
            yield path, error


def lock_name(parts: Mapping[str, Any]) -> str:
    """The same for all stores that differ in precision alone."""
    same = json.dumps({k: v for k, v in parts.items() if k != "precision"}, sort_keys=True)
    return hashlib.sha256(same.encode()).hexdigest()[:16]


def nearest(asked: Question, folder: Path) -> str:
    """In what a question differs from the store that comes nearest to it, as a sentence; empty if none comes near."""
    cards = [card for _, card in stores(folder) if isinstance(card, Card) and asked.is_near(card) and asked.differences(card)]
    if not cards:
        return ""
    latest_first = sorted(cards, key=lambda card: card.created, reverse=True)
    card = min(latest_first, key=lambda card: len(asked.differences(card)))
    return f"differs from the cache of {card.created[:10]} in: {'; '.join(asked.differences(card))}."


def layout_of(teacher: TeacherConfig, views: Sequence[str], num_classes: int, summary_size: Callable[[], int | None]) -> Layout:
    """What is stored of an example: logits, or where there are many classes the summary that they are made of.

    Args:
        teacher: how it is asked.
        views: what it is asked about.
        num_classes: C.
        summary_size: what the teacher's classifier reads, if the teacher tells; asking it loads its weights.

    Raises:
        CacheError: if features are to be kept that the teacher does not tell.
    """
    size = summary_size() if teacher.cache_features or num_classes > LARGE else None
    if teacher.cache_features and size is None:
        raise CacheError(f"teacher.cache_features: the teacher does not tell its {SUMMARY}. Leave cache_features out.")
    only_summary = size is not None and num_classes > max(LARGE, size)
    keeps_summary = only_summary or bool(teacher.cache_features)
    return Layout(tuple(views), 0 if only_summary else num_classes, size or 0 if keeps_summary else 0)


def _state(masker: nn.Module) -> str:
    """A hash of what a masker was fitted to; empty if it was not."""
    state: Mapping[str, Tensor] = masker.state_dict()
    digest = hashlib.sha256()
    for name, values in sorted(state.items()):
        digest.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest() if state else ""


def kept_channels(channels: ChannelsConfig) -> dict[str, Any]:
    """What decides which channels a teacher keeps: the scores themselves, wherever they lie."""
    scores = None if channels.saliency is None else read_saliency(channels.saliency, channels.layer).tolist()
    return {**asdict(channels), "saliency": scores}


def _in_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they will be read again: tuples as lists, keys as texts."""
    read: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return read


def _difference(key: str, there: Any, here: Any, notes_there: Mapping[str, Any], notes_here: Mapping[str, Any]) -> list[str]:
    """A sentence's worth on a part that differs."""
    if key == "data.content":
        return ["the examples (the data set's files have changed)"]
    if key == "teacher.weights":
        return [f"the teacher's weights {str(there)[:8]} -> {str(here)[:8]}"]
    if key in notes_here:
        there, here = notes_there.get(key), notes_here[key]
        return _leaf_differences(key, there, here) or [f"{key} (what it learned, such as its vocabulary)"]
    if key == "masker" and there and here and there.get("meaning") != here["meaning"]:
        return ["masker (what hiding means: in this cache [SEP] stands where it stood and tells how long the hidden text was)"]
    if key == "masker" and there and here and there["spec"] == here["spec"]:
        return ["masker (what it was fitted to)"]
    return _leaf_differences(key, there, here)


def _leaf_differences(key: str, there: Any, here: Any) -> list[str]:
    before, after = dict(_leaves(there)), dict(_leaves(here))
    changed = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    return [f"{' '.join([key, *k])} {_shown(before.get(k))} -> {_shown(after.get(k))}" for k in changed]


def _leaves(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*at, key))
    else:
        yield at, value


def _shown(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else "nothing" if value is None else str(value)
