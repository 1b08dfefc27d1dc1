"""checkpoint=PATH|config=FILE out=PATH [run=FILE classes=FILE ...]: a checkpoint of MMF as a teacher, or its YAML as ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msd_framework.checks.run import understood
from msd_framework.checks.words import read_words
from msd_framework.config.load import load, resolve
from msd_framework.config.values import dump, flow
from msd_framework.errors import ConfigError, Problem
from msd_framework.files import write_text
from msd_framework.mmf.checkpoints import MmfCheckpoint, read_checkpoint
from msd_framework.mmf.configs import Converted, convert, dataset_of, read_project, usual_values
from msd_framework.mmf.models import family_of, left_sizes, options_of_model
from msd_framework.mmf.teacher import Teacher, make_teacher, save_teacher
from msd_framework.screen import put, shortened

SHOWN = 12  # names of tensors that are printed; the rest is counted


def main(words: Sequence[str]) -> int:
    put(convert_mmf(**read_words(words, convert_mmf).values))
    return 0


def convert_mmf(
    out: str,
    checkpoint: str | None = None,
    config: str | None = None,
    run: str | None = None,
    model: str | None = None,
    dataset: str | None = None,
    classes: str | None = None,
    options: dict[str, Any] | None = None,
    keep: bool = False,
    root: str = "data",
    mmf: str | None = None,
) -> str:
    """A checkpoint of MMF as the folder of a run, or a YAML of MMF as one of ours.

    Args:
        out: the folder that a checkpoint becomes, or the YAML.
        checkpoint: a .pth or .ckpt of MMF, or the folder of a model of its zoo.
        config: a YAML of an MMF project.
        run: a YAML of ours that says what the checkpoint was trained on; made of its own configuration if left out.
        model: MMF's name of the model, where it is not told.
        dataset: MMF's name of the data set, where it is not told.
        classes: a file with a class a line, as MMF numbers them; or `data` if they are in the data set's order.
        options: options of MMF's model that no file tells, such as `options.num_attention_heads=12`.
        keep: keeps MMF's own model, which needs MMF to be installed.
        root: MMF's data folder, where the YAML looks for data.
        mmf: the folder `mmf` of MMF's source, where includes are looked for.
    """
    if (checkpoint is None) == (config is None):
        raise ConfigError(Problem("checkpoint", "give either checkpoint, to make a teacher, or config, to make a YAML."))
    if Path(out).exists():
        raise ConfigError(Problem("out", f"{out} is there already; name another place."))
    if config is not None:
        values, lost = read_project(config, mmf)
        made = convert(values, dataset, model, root, usual_values(dataset_of(values, dataset), mmf, config))
        made.left = lost | made.left
        _, problems = understood(made.values)
        if problems:
            raise ConfigError(*problems)
        write_text(Path(out), _page(made, config))
        return "\n".join([f"{out} is written.", *_list("not carried over", made.left)])
    theirs = read_checkpoint(str(checkpoint))
    given = _run_of(theirs, run, dataset, model, root, mmf)
    teacher = make_teacher(theirs, given.values, model, classes, options, keep)
    folder = Path(out)
    save_teacher(teacher, theirs, folder)
    write_text(folder / "config.yaml", dump(dict(teacher.values)))
    return "\n".join([*_summary(theirs, teacher, folder), *_list("not carried over", given.left)])


def _run_of(
    theirs: MmfCheckpoint, run: str | None, dataset: str | None, model: str | None, root: str, mmf: str | None
) -> Converted:
    """What a checkpoint was trained on, as a user says or as its own configuration does; without how it was trained."""
    if run is not None:
        return Converted(resolve(load(run)).values)
    if not theirs.config:
        text = f"a YAML of ours with the data that {theirs.source} was trained on, for it has no configuration with it."
        raise ConfigError(Problem("run", f"must be given: {text}"))
    made = convert(theirs.config, dataset, model, root, usual_values(dataset_of(theirs.config, dataset), mmf))
    family = family_of({}, theirs.config, model)
    by_tensors = left_sizes(family, options_of_model(family, theirs.config))  # the sizes are the tensors' own
    for key in list(made.left):
        if key in by_tensors or not key.startswith(("dataset_config.", "model_config.")):
            del made.left[key]
    return made


def _page(made: Converted, source: str) -> str:
    """The YAML, with what it lacks on top."""
    lines = [f"From {source} of MMF.", "Not carried over:" if made.left else "Everything was carried over."]
    for key, why in made.left.items():
        lines.append(f"  {key}: {why}")
    lines = [" ".join(f"# {line}".splitlines()) for line in lines]  # a key with a line end would end its comment
    return "\n".join([*lines, dump({"name": Path(source).stem, **made.values})])


def _summary(theirs: MmfCheckpoint, teacher: Teacher, folder: Path) -> list[str]:
    classes = teacher.info.class_names
    names = f": {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}" if classes else ""
    score = "says no score" if theirs.score is None else f"reached {theirs.monitored} {theirs.score:.6g}"
    after = "" if theirs.updates is None else f" after {theirs.updates} updates"
    numbers = sum(p.numel() for p in teacher.model.parameters())
    model = teacher.card["model"]["type"]
    return [
        f"{folder}: {model} with {numbers:,} parameters, {teacher.info.num_classes} classes{names}.",
        f"{theirs.source} {score}{after}; nothing that the model needs was missing.",
        *_list("unused tensors", dict.fromkeys(teacher.unused, "")),
        f"To teach: `teacher: {flow({'checkpoint': str(folder)})}`.",
    ]


def _list(title: str, entries: Mapping[str, str]) -> list[str]:
    if not entries:
        return [f"{title}: none."]
    shown = [f"  {key}: {why}" if why else f"  {key}" for key, why in entries.items()]
    limit = len(shown) if any(entries.values()) else SHOWN
    return [f"{title}: {len(shown)}", *shortened(shown, limit, "  and {} more")]
