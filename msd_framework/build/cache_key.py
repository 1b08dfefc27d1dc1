"""What a teacher's cached outputs depend on, and how the outputs that a run needs differ from those that are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from msd_framework.array_files import digest
from msd_framework.components.specs import complete
from msd_framework.config.cards import card_of
from msd_framework.config.schema import ChannelsConfig, Component, RunConfig, TeacherConfig
from msd_framework.data.base import Processor
from msd_framework.engine.checkpoint import find_checkpoint, read_json
from msd_framework.errors import CacheError
from msd_framework.maskers.base import Masker
from msd_framework.registry import DATASETS, MASKERS, PROCESSORS
from msd_framework.teachers.masked import read_saliency
from msd_framework.teachers.store import FORMAT, SUMMARY, Card, Layout
from msd_framework.views import visible_modalities

LARGE = 768  # classes beyond which a store keeps what the classifier reads in place of logits, if it is given
PLACES = ("root", "split", "max_examples", "on_error")  # options that say where and how much is read, not what
# hiding a text moves [SEP] to position 1; in caches that do not say so, outputs show how long a hidden text was
HIDDEN = "special tokens first"
WIDER = ("views", "summary", "precision", "masker")  # parts in which a store may hold more than a run needs


@dataclass(frozen=True)
class CacheKey:
    """The outputs of a teacher for a split that a run needs."""

    use: str  # what the run uses the split for
    parts: Mapping[str, Any]  # all that the outputs depend on but for the precision
    notes: Mapping[str, Any]  # what helps to name a difference
    layout: Layout  # what is stored of an example
    precisions: tuple[str, ...]  # what the outputs may be computed in

    @property
    def lock(self) -> str:
        """The name of the lock that a run holds while it fills a store of this key."""
        return lock_name(self.parts)

    def card(self, precision: str) -> Card:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return Card({**self.parts, "precision": precision}, self.notes, self.layout, now)

    def matches(self, card: Card) -> bool:
        """Whether a store's outputs are those of this key, perhaps among others."""
        there = card.parts
        if there.keys() - {"precision"} != self.parts.keys():
            return False
        return (
            all(there[key] == value for key, value in self.parts.items() if key not in WIDER)
            and set(there["views"]) >= set(self.parts["views"])
            and self.parts["summary"] in (0, there["summary"])
            and self.parts["masker"] in (None, there["masker"])
            and there["precision"] in self.precisions
        )

    def differences(self, card: Card) -> list[str]:
        """How a store's outputs differ from those of this key: what was -> what is wanted."""
        if self.matches(card):
            return []
        there, here = {**card.parts}, {**self.parts, "precision": " or ".join(self.precisions)}
        if there.get("precision") in self.precisions:
            there["precision"] = here["precision"]
        sentences = []
        for key in {**there, **here}:
            if there.get(key) != here.get(key):
                sentences += _difference(key, there.get(key), here.get(key), card.notes, self.notes)
        return sentences

    def is_near(self, card: Card) -> bool:
        """Whether a store is about the same teacher and split, though perhaps in another state."""
        there, here = card.parts, self.parts
        same_teacher = there["teacher.weights"] == here["teacher.weights"] or card.notes["teacher"] == self.notes["teacher"]
        same_data = there["data.dataset"]["type"] == here["data.dataset"]["type"] and there["data.split"] == here["data.split"]
        return bool(same_teacher and same_data)


def cache_key(
    config: RunConfig,
    use: str,
    content: str,
    folder: str,
    processors: Mapping[str, Processor],
    processor_specs: Mapping[str, Any],
    masker: Masker,
    masker_spec: Component,
    layout: Layout,
    partners: Mapping[str, Any] | None = None,
) -> CacheKey:
    """The key of one teacher's outputs for one split, of which `content` is the hash; the masker must be fitted."""
    teacher = config.teacher
    assert teacher is not None
    checkpoint = find_checkpoint(folder)
    card = card_of(checkpoint, config)
    dataset = {k: v for k, v in complete(DATASETS, config.data.dataset).items() if k not in PLACES}
    parts: dict[str, Any] = {
        # a store of another format is never read as one of this
        "format": FORMAT,
        # the weights by their hash, so that a teacher that is trained anew into the same folder is another one
        "teacher.weights": read_json(checkpoint / "files.json")["sha256"]["model.safetensors"],
        # the same weights may be run by a model of other options, such as another pooling
        "teacher.model": {"rebuild": card["rebuild"], "facts": card["facts"]},
        "data.dataset": dataset,
        "data.split": getattr(config.data, use),
        # which examples, and what is in their files: a data set that moves to another folder keeps its outputs
        "data.content": content,
    }
    notes: dict[str, Any] = {"teacher": folder}
    for modality in card["modalities"]:
        processor, part = processors[modality], f"data.processors.{modality}"
        # without random transforms: the teacher is run once for all epochs
        parts[part] = processor.deterministic().fingerprint
        if processor.files:
            parts[f"{part}.files"] = processor.files
        notes[part] = complete(PROCESSORS, processor_specs[modality])
    # what no view hides depends on no masker
    parts["masker"] = None
    if any(len(visible_modalities(view, card["modalities"])) < len(card["modalities"]) for view in layout.views):
        spec = complete(MASKERS, masker_spec)
        parts["masker"] = {"spec": spec, "state": _state(masker), "meaning": HIDDEN}
    parts["views"] = list(layout.views)
    if partners is not None:
        parts["partners"] = partners
    if teacher.channels:
        parts["teacher.channels"] = kept_channels(teacher.channels)
    parts |= {"dtype": "float16", "logits": layout.num_classes, "summary": layout.summary_size}
    wanted = teacher.cache_precision
    return CacheKey(use, _in_json(parts), _in_json(notes), layout, ("fp32", "bf16") if wanted == "auto" else (wanted,))


def stores(folder: Path) -> Iterator[tuple[Path, Card | CacheError]]:
    """Every store of a folder with its card, or with what is wrong with it."""
    for path in sorted(p for p in folder.glob("[!.]*") if p.is_dir()):
        try:
            yield path, Card.read(path)
        except CacheError as error:
            yield path, error


def lock_name(parts: Mapping[str, Any]) -> str:
    """The same for all stores that differ in precision alone."""
    return digest({k: v for k, v in parts.items() if k != "precision"})[:16]


def nearest(key: CacheKey, folder: Path) -> str:
    """How a key differs from the store that comes nearest to it, as the rest of a sentence; empty if none comes near."""
    found: list[tuple[Card, list[str]]] = []
    for _, card in stores(folder):
        if isinstance(card, Card) and key.is_near(card) and (differences := key.differences(card)):
            found.append((card, differences))
    if not found:
        return ""
    found.sort(key=lambda one: one[0].created, reverse=True)
    card, differences = min(found, key=lambda one: len(one[1]))  # of several, the latest
    return f"differs from the cache of {card.created[:10]} in: {'; '.join(differences)}."


def layout_of(teacher: TeacherConfig, views: Sequence[str], num_classes: int, summary_size: Callable[[], int | None]) -> Layout:
    """What is stored of an example: logits, or where there are many classes the summary that they are computed from."""
    size = summary_size() if teacher.cache_features or num_classes > LARGE else None
    if teacher.cache_features and size is None:
        raise CacheError(f"teacher.cache_features: the teacher does not tell its {SUMMARY}. Leave cache_features out.")
    only_summary = size is not None and num_classes > max(LARGE, size)
    keeps_summary = only_summary or bool(teacher.cache_features)
    return Layout(tuple(views), 0 if only_summary else num_classes, size or 0 if keeps_summary else 0)


def _state(masker: nn.Module) -> str:
    """A hash of what a masker was fitted to; empty if it was not."""
    state: Mapping[str, Tensor] = masker.state_dict()
    if not state:
        return ""
    content = hashlib.sha256()
    for name, values in sorted(state.items()):
        content.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        content.update(values.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def kept_channels(channels: ChannelsConfig) -> dict[str, Any]:
    """What decides which channels a teacher keeps: the scores themselves, wherever they lie."""
    scores = None if channels.saliency is None else read_saliency(channels.saliency, channels.layer).tolist()
    return {**asdict(channels), "saliency": scores}


def _in_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they will be read again: tuples as lists, keys as texts."""
    read: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return read


def _difference(key: str, there: Any, here: Any, notes_there: Mapping[str, Any], notes_here: Mapping[str, Any]) -> list[str]:
    if key == "data.content":
        return ["the examples (the data set's files have changed)"]
    if key == "teacher.weights":
        return [f"the teacher's weights {str(there)[:8]} -> {str(here)[:8]}"]
    if key in notes_here:
        differences = _leaf_differences(key, notes_there.get(key), notes_here[key])
        return differences or [f"{key} (what it learned, such as its vocabulary)"]
    if key == "masker" and there and here:
        if there.get("meaning") != here["meaning"]:
            return ["masker (what hiding means: in this cache [SEP] stands where it stood and tells how long the hidden text was)"]
        if there["spec"] == here["spec"]:
            return ["masker (what it was fitted to)"]
    return _leaf_differences(key, there, here)


def _leaf_differences(key: str, there: Any, here: Any) -> list[str]:
    before, after = dict(_leaves(there)), dict(_leaves(here))
    changed = [place for place in {**before, **after} if before.get(place) != after.get(place)]
    return [f"{' '.join([key, *place])} {_text(before.get(place))} -> {_text(after.get(place))}" for place in changed]


def _leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*place, key))
    else:
        yield place, value


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
