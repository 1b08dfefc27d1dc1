"""Mistakes with weights of classes, with parts of a model that learn in their own way, and with rows that lack a modality."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.mistakes import Mistake, student


def rows(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path, Path, Path], object]:
    """Makes a copy of the made data set's rows beside its images, in which some lack something."""

    def write(here: Path, world: Path, teacher: Path) -> None:
        shutil.copytree(world / "img", here / "poor" / "img")
        for split in ("train", "dev_seen", "test_seen"):
            made = [json.loads(line) for line in (world / f"{split}.jsonl").read_text().splitlines()]
            if split == "train":
                change(made)
            (here / "poor" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))

    return write


def poor(images: str = "img", **options: str) -> list[str]:
    more = "".join(f", {key}: {value}" for key, value in options.items())
    columns = f"texts: {{text: text}}, images: {{image: {images}}}, label: label, classes: [0, 1], id_column: id"
    return [f"data.dataset={{type: jsonl, root: <here>/poor, {columns}{more}}}"]


WEIGHTED = "objective={{type: supervised, task_loss: {{type: cross_entropy, class_weights: {}}}}}"

MISTAKES = [
    Mistake("a weight too many", [WEIGHTED.format("[1, 2, 3]")], r"class_weights: wanted a number for each of 2 classes, got 3\."),
    Mistake("a weight below 0", [WEIGHTED.format("[1, -2]")], r"class_weights: that of class .* of 0 or more, got -2"),
    Mistake("a weight that is no number", [WEIGHTED.format("[1, .nan]")], r"class_weights: that of class .* of 0 or more, got nan"),
    Mistake("weights of 0", [WEIGHTED.format("[0, 0]")], r"class_weights: wanted a number above 0 for at least one class"),
    Mistake("weight of another class", [WEIGHTED.format("{hatefull: 2}")], r"'hatefull' is none of .*Did you mean 'hateful'\?"),
    Mistake("a kind of weights", [WEIGHTED.format("balancd")], r"class_weights: wanted 'balanced', got 'balancd'\. Did you mean"),
    Mistake("one weight for all", [WEIGHTED.format("3")], r"class_weights: wanted list\[float\] .*got 3 \(int\)"),
    Mistake(
        "pos_weight of one label",
        ["objective={type: supervised, task_loss: {type: cross_entropy, pos_weight: [1, 2]}}"],
        r"task_loss\.pos_weight: cross_entropy has no such option.*class_weights",
    ),
    Mistake(
        "a student's weights",
        student("objective.task_loss={type: cross_entropy, class_weights: [1]}"),
        r"objective\.task_loss: class_weights: wanted a number for each of 2 classes, got 1\.",
    ),
    Mistake("group", ["optimizer.groups={encodrs: 0.1}"], r"optimizer: groups: 'encodrs' is no part .*Did you mean 'encoders'\?"),
    Mistake("rate of 0", ["optimizer.groups={encoders: 0}"], r"groups\.encoders: lr must be above 0, got 0.*stands in frozen"),
    Mistake("rate below 0", ["optimizer.groups={encoders: -1}"], r"groups\.encoders: lr must be above 0, got -1"),
    Mistake("rate that is no number", ["optimizer.groups={encoders: .nan}"], r"groups\.encoders: lr must be above 0, got nan"),
    Mistake("rate as text", ["optimizer.groups={encoders: slow}"], r"optimizer\.groups: encoders: wanted float"),
    Mistake(
        "option of a group", ["optimizer.groups={encoders: {rl: 0.1}}"], r"groups\.encoders\.rl: no such option; a group has lr"
    ),
    Mistake("a list of groups", ["optimizer.groups=[encoders]"], r"optimizer\.groups: wanted dict.*got \['encoders'\]"),
    Mistake(
        "a group with nothing in it",
        ["optimizer.groups={encoders: 0.1, encoders.text: 0.1, encoders.image: 0.1}"],
        r"groups\.encoders: has no parameter of its own",
    ),
    Mistake(
        "frozen part", ["optimizer.frozen=[encoders.txt]"], r"frozen: 'encoders\.txt' is no part .*Did you mean 'encoders\.text'"
    ),
    Mistake("frozen part as text", ["optimizer.frozen=encoders"], r"optimizer\.frozen: wanted list\[str\].*got 'encoders'"),
    Mistake("all frozen", ["optimizer.frozen=[model]"], r"frozen: nothing of the model is left that learns without model\."),
    Mistake(
        "frozen and in a group",
        ["optimizer={type: sgd, frozen: [encoders], groups: {encoders: 0.1}}"],
        r"groups: 'encoders' is no part of the model that learns",
    ),
    Mistake("layer decay above 1", ["optimizer.layer_decay=1.1"], r"layer_decay must be above 0 and at most 1, got 1\.1"),
    Mistake("no layer decay", ["optimizer.layer_decay=0"], r"layer_decay must be above 0 and at most 1, got 0"),
    Mistake(
        "layers of a model without",
        ["model={type: unimodal_image, encoder: {type: patches, patch_size: 4}}", "optimizer.layer_decay=0.5"],
        r"layer_decay: the model has no stack of layers with attention",
    ),
    Mistake(
        "no truth for freeze",
        ["model.encoders.text={type: bert, config: {model_type: bert}, freeze: 1}"],
        r"model\.encoders\.text\.freeze: wanted bool, got 1",
    ),
    Mistake(
        "column that no row has",
        poor("imgg"),
        r"train\.jsonl:1: has no 'imgg', only .*Did you mean 'img'\?",
        rows(lambda made: None),
    ),
    Mistake(
        "row with nothing in it",
        poor(),
        r"train\.jsonl:4: has no image and no text, so there is nothing to look at",
        rows(lambda made: made[3].update(img=None, text=None)),
    ),
    Mistake(
        "photo that is a number",
        poor(),
        r"train\.jsonl:4: img is 5 \(int\), wanted a text",
        rows(lambda made: made[3].update(img=5)),
    ),
    Mistake(
        "no photo at all",
        [*poor(), "model={type: unimodal_image, encoder: {type: patches, patch_size: 4}}"],
        r"data\.train: no example of 'train' has 'image', which is to be learned from",
        rows(lambda made: [row.update(img=None) for row in made]),
    ),
    Mistake(
        "no text to learn words from",
        poor(),
        r"data\.train: no example of 'train' has 'text', which is to be learned from",
        rows(lambda made: [row.update(text=None) for row in made]),
    ),
]
