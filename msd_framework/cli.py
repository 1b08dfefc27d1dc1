"""The command line: ``msd <command> key=value ...``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from msd_framework.errors import ConfigError, MSDError, did_you_mean, mendable
from msd_framework.launch import is_first
from msd_framework.screen import accept_any_text, put

# the order of the help; a command that is not named here stands behind them
ORDER = (
    *("run", "show", "components", "make-world", "study", "cache", "data"),
    *("convert-features", "convert-mmf", "extract-features", "saliency", "layers", "doctor", "quickstart"),
)


def commands() -> dict[str, str]:
    """The files of `commands/`, a command each, and their first lines: what the command takes and what it does."""
    lines = {}
    for file in Path(__file__).with_name("commands").glob("[!_]*.py"):
        lines[file.stem.replace("_", "-")] = file.read_text(encoding="utf-8").splitlines()[0].strip('"')
    others = sorted(lines.keys() - set(ORDER))
    return {name: lines[name] for name in (*ORDER, *others)}


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
        lines = [f"  msd {name} {text}" for name, text in commands().items()]
        print("usage: msd COMMAND key=value ...\n\n" + "\n".join(lines))
        return 0
    known = commands()
    if words[0] not in known and "=" in words[0]:
        words.insert(0, "run")
    try:
        if words[0] not in known:
            raise ConfigError(f"there is no command {words[0]!r}.{did_you_mean(words[0], known)} See `msd help`.")
        code: int = import_module(f"msd_framework.commands.{words[0].replace('-', '_')}").main(words[1:])
        return code
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


if __name__ == "__main__":
    sys.exit(main())
