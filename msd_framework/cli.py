"""The command line: ``msd <command> key=value ...``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from msd_framework.errors import ConfigError, MSDError, Problem, did_you_mean, mendable
from msd_framework.escaping import visible
from msd_framework.launch import is_first
from msd_framework.screen import accept_any_text


def run(words: Sequence[str]) -> int:
    """config=FILE [key=value ...]: train, evaluate, predict or check, as run_type says; or an experiment."""
    from msd_framework.analysis.experiment import is_experiment, run_experiment
    from msd_framework.run import run as run_config

    config, overrides = take(words, "config")
    report = (run_experiment if is_experiment(config) else run_config)(config, overrides)
    if not report:
        put(f"{config}: nothing is wrong with it.")
    return 0


def show(words: Sequence[str]) -> int:
    """config=FILE [key=value ...]: every option of a run and where its value comes from."""
    from msd_framework.commands.show import show_config

    config, overrides = take(words, "config")
    put(show_config(config, overrides))
    return 0


def components(words: Sequence[str]) -> int:
    """[KIND] [NAME] [user_dir=FOLDER imports=[MODULE]]: what can be named in a YAML, with options, types and defaults."""
    from msd_framework.commands.show import show_components
    from msd_framework.config.imports import import_from_words

    named = import_from_words(words)
    if len(named) > 2 or any("=" in word for word in named):
        example = "`msd components maskers noise`"
        text = f"wanted a kind and a name at most, such as {example}, beside user_dir and imports; got {' '.join(named)}."
        raise ConfigError(text)
    put(show_components(*named))
    return 0


def make_world(words: Sequence[str]) -> int:
    """layout=NAME folder=PATH [seed=0 sizes.train=3000 ...]: writes the made vision-language world."""
    from msd_framework.commands.make_world import make_world_from_words

    put(make_world_from_words(words))
    return 0


def study(words: Sequence[str]) -> int:
    """config=FILE [seeds=10 ...]: methods by seeds, compared."""
    from msd_framework.analysis.study.run import run_study

    config, overrides = take(words, "config")
    if not run_study(config, overrides):
        put(f"{config}: nothing is wrong with it.")
    return 0


def cache(words: Sequence[str]) -> int:
    """info|build|verify|prune [config=FILE ... | dir=PATH ...]: the answers of teachers that are kept on disk."""
    from msd_framework.commands.cache import cache_from_words

    name, *rest = words or [""]
    config, rest = take(rest, "config") if name in ("build", "verify") else ("", rest)
    told = cache_from_words(name, rest, config)
    if is_first():
        put(told)
    return 0


def convert_features(words: Sequence[str]) -> int:
    """source=PATH store=PATH [precision=fp16 --check ...]: region features of .npy files, LMDB or HDF5 as one store."""
    from msd_framework.commands.features import convert_from_words

    put(convert_from_words(words))
    return 0


def convert_mmf(words: Sequence[str]) -> int:
    """checkpoint=PATH|config=FILE out=PATH [run=FILE classes=FILE ...]: a checkpoint of MMF as a teacher, or its YAML as ours."""
    from msd_framework.commands.convert_mmf import convert_from_words

    put(convert_from_words(words))
    return 0


def extract_features(words: Sequence[str]) -> int:
    """images=FOLDER store=PATH backbone=torchvision:resnet50 [...]: what a network says of each cell of each image."""
    from msd_framework.commands.features import extract_from_words

    told = extract_from_words(words)
    if is_first():
        put(told)
    return 0


def data(words: Sequence[str]) -> int:
    """check NAME [root=PATH samples=20 user_dir=FOLDER ...]: whether a folder holds a data set as its publisher says."""  # noqa: D403
    from msd_framework.commands.data import check_from_words
    from msd_framework.config.imports import import_from_words

    if words[:1] != ["check"]:
        raise ConfigError(f"msd data takes check, got {words[0] if words else 'nothing'}.")
    told, is_right = check_from_words(import_from_words(words[1:]))
    put(told)
    return 0 if is_right else 1


def saliency(words: Sequence[str]) -> int:
    """config=FILE [split=validation ...]: what each modality is to a run's teacher, and which one decides an example."""
    from msd_framework.analysis.saliency.scores import run_saliency

    config, overrides = take(words, "config")
    run_saliency(config, overrides)
    return 0


def layers(words: Sequence[str]) -> int:
    """config=FILE [student_layers=text.*.hidden ...]: how alike the layers of student and teacher are, and a map of them."""
    from msd_framework.analysis.layers import run_layers

    config, overrides = take(words, "config")
    run_layers(config, overrides)
    return 0


def doctor(words: Sequence[str]) -> int:
    """config=FILE [validation_rows=512 out=FILE ...]: whether teacher, student and data of a run fit, on one batch."""
    from msd_framework.commands.doctor import run_doctor

    config, overrides = take(words, "config")
    return 0 if run_doctor(config, overrides) else 1


def quickstart(words: Sequence[str]) -> int:
    """[env.save_dir=PATH seeds=3 ...]: a teacher and three students on the made world, in minutes."""
    return study(["config=projects/quickstart/configs/quickstart.yaml", *words])


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": run,
    "show": show,
    "components": components,
    "make-world": make_world,
    "study": study,
    "cache": cache,
    "data": data,
    "convert-features": convert_features,
    "convert-mmf": convert_mmf,
    "extract-features": extract_features,
    "saliency": saliency,
    "layers": layers,
    "doctor": doctor,
    "quickstart": quickstart,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; a mistake of the user's is a sentence and exit code 2."""
    accept_any_text()
    code = 0
    try:
        code = _main(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()  # what is left would fail where nobody can catch it, when Python ends
    except BrokenPipeError:  # whoever reads the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _main(words: list[str]) -> int:
    if not words or {"-h", "--help", "help"} & set(words):
        print(usage())
        return 0
    if words[0] not in COMMANDS and "=" in words[0]:
        words.insert(0, "run")
    try:
        if words[0] not in COMMANDS:
            raise ConfigError(f"there is no command {words[0]!r}.{did_you_mean(words[0], COMMANDS)} See `msd help`.")
        return COMMANDS[words[0]](words[1:])
    except BrokenPipeError:
        raise
    except (MSDError, OSError, RuntimeError, ValueError, MemoryError) as error:
        sentence = mendable(error)
        if not sentence:
            raise
        if not isinstance(error, ConfigError) or is_first(of_machine=True):  # every process finds the same mistakes
            put(sentence, sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped. A run goes on with checkpoint.resume=true, a study with the same command.", file=sys.stderr)
        return 130


def put(text: str, stream: TextIO | None = None) -> None:
    """Prints lines, with nothing in them that a terminal would obey."""
    print(visible(text), file=stream or sys.stdout)


def usage() -> str:
    """What the commands are."""
    lines = [f"  msd {name} {command.__doc__}" for name, command in COMMANDS.items()]
    return "usage: msd COMMAND key=value ...\n\n" + "\n".join(lines)


def take(words: Sequence[str], key: str) -> tuple[str, list[str]]:
    """The value of a word ``key=value`` that must be there, and the other words.

    Raises:
        ConfigError: if it is missing or there twice.
    """
    found = [w.partition("=")[2] for w in words if w.startswith(f"{key}=")]
    if len(found) != 1 or not found[0]:
        files = [w for w in words if "=" not in w and w.endswith((".yaml", ".yml"))]
        hint = f" Did you mean {shlex.quote(f'{key}={files[0]}')}?" if files else ""
        raise ConfigError(Problem(key, f"wanted {key}=FILE once, got {' '.join(words) or 'nothing'}.{hint}"))
    return found[0], [w for w in words if not w.startswith(f"{key}=")]


if __name__ == "__main__":
    sys.exit(main())
