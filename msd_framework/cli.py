"""The command line: ``msd <command> key=value ...``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from msd_framework.errors import ConfigError, MSDError, did_you_mean


def run(words: Sequence[str]) -> int:
    """config=FILE [key=value ...]: train, evaluate, predict or check, as run_type says."""
    from msd_framework.run import run as run_config

    config, overrides = take(words, "config")
    report = run_config(config, overrides)
    if not report:
        print(f"{config}: nothing is wrong with it.")
    return 0


def show(words: Sequence[str]) -> int:
    """config=FILE [key=value ...]: every option of a run and where its value comes from."""
    from msd_framework.config.show import show_config

    config, overrides = take(words, "config")
    print(show_config(config, overrides))
    return 0


def components(words: Sequence[str]) -> int:
    """[KIND] [NAME]: what can be named in a YAML, with options, types and defaults."""
    from msd_framework.config.show import show_components

    print(show_components(*words[:2]))
    return 0


def make_world(words: Sequence[str]) -> int:
    """layout=NAME folder=PATH [seed=0 sizes.train=3000 ...]: writes the made vision-language world."""
    from msd_framework.config.world import make_world_from_words

    print(make_world_from_words(words))
    return 0


def study(words: Sequence[str]) -> int:
    """config=FILE [seeds=10 ...]: methods by seeds, compared."""
    from msd_framework.analysis.study import run_study

    config, overrides = take(words, "config")
    run_study(config, overrides)
    return 0


def quickstart(words: Sequence[str]) -> int:
    """[env.save_dir=PATH seeds=3 ...]: a teacher and three students on the made world, in minutes."""
    return study(["config=projects/quickstart/configs/quickstart.yaml", *words])


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": run,
    "show": show,
    "components": components,
    "make-world": make_world,
    "study": study,
    "quickstart": quickstart,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; a mistake of the user's is a sentence and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] not in COMMANDS and "=" in words[0]:
        words.insert(0, "run")
    try:
        if words[0] not in COMMANDS:
            raise ConfigError(f"there is no command {words[0]!r}.{did_you_mean(words[0], COMMANDS)}\n\n{usage()}")
        return COMMANDS[words[0]](words[1:])
    except MSDError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; checkpoint.resume=true goes on from the last checkpoint.", file=sys.stderr)
        return 130


def usage() -> str:
    """What the commands are."""
    lines = [f"  msd {name} {command.__doc__}" for name, command in COMMANDS.items()]
    return "usage: msd COMMAND key=value ...\n\n" + "\n".join(lines)


def take(words: Sequence[str], key: str) -> tuple[str, list[str]]:
    """The value of a word ``key=value`` that must be there, and the other words.

    Raises:
        ConfigError: if it is missing.
    """
    found = [w.partition("=")[2] for w in words if w.startswith(f"{key}=")]
    if len(found) != 1 or not found[0]:
        raise ConfigError(f"wanted {key}=FILE once, got {' '.join(words) or 'nothing'}.")
    return found[0], [w for w in words if not w.startswith(f"{key}=")]


if __name__ == "__main__":
    sys.exit(main())
