"""The command line, and the words of make-world."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from importlib import import_module

import pytest
import torch

from msd_framework import cli
from msd_framework.checks.words import take
from msd_framework.commands import show
from msd_framework.errors import ConfigError
from msd_framework.views import View

SMALL = ["layout=hateful_memes", "sizes.train=6", "sizes.dev_seen=0", "sizes.test_seen=4"]


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["run", "-h"]])
def test_help_names_every_command(words, capsys):
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert all(f"msd {name} " in shown for name in cli.commands())
    assert shown.index("msd run ") < shown.index("msd show ") < shown.index("msd quickstart ")


@pytest.mark.parametrize("name", cli.commands())
def test_a_file_of_commands_is_a_command(name):
    assert callable(import_module(f"msd_framework.commands.{name.replace('-', '_')}").main)


def test_an_unknown_command_is_told_with_the_nearest(capsys):
    assert cli.main(["shwo", "config=a"]) == 2
    assert capsys.readouterr().err == "there is no command 'shwo'. Did you mean 'show'? See `msd help`.\n"


def test_words_without_a_command_are_those_of_run(tiny_config, tmp_path, capsys):
    assert cli.main([f"config={tiny_config}", "run_type=check", f"env.save_dir={tmp_path / 'run'}"]) == 0
    assert capsys.readouterr().out == f"{tiny_config}: nothing is wrong with it.\n"


def test_a_file_without_its_key_is_told(capsys):
    assert cli.main(["run", "mine.yaml"]) == 2
    assert "wanted config=FILE once, got mine.yaml. Did you mean config=mine.yaml?" in capsys.readouterr().err


def test_show_and_components_print(tiny_config, capsys):
    assert cli.main(["show", f"config={tiny_config}"]) == 0
    assert "optimizer.lr:" in capsys.readouterr().out
    assert cli.main(["components", "maskers", "drop"]) == 0
    assert "masker: {type: drop}" in capsys.readouterr().out
    assert cli.main(["components", "a", "b", "c"]) == 2
    assert "wanted a kind and a name at most" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), "runs/a: No space left on device. Make room"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk: No space left on device. Make room"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), "runs/a: Permission denied. Give yourself"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 9), "aaaaaaaaa: File name too long. Name a shorter one."),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x"),
            "/proc/x: No such file or directory. Name another",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory is full. Lower training.batch_size"),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(error, said, monkeypatch, capsys):
    monkeypatch.setattr(show, "main", raiser(error))
    assert cli.main(["show"]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_a_bad_argument_that_the_library_names_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(show, "main", lambda words: View.parse({}))
    assert cli.main(["show"]) == 2
    assert capsys.readouterr().err.startswith("a view is a name or")


@pytest.mark.parametrize("error", [ValueError("ours to mend"), FileNotFoundError(2, "none"), RuntimeError("no"), KeyError("x")])
def test_a_fault_of_the_programs_keeps_its_traceback(error, monkeypatch):
    monkeypatch.setattr(show, "main", raiser(error))
    with pytest.raises(type(error)):
        cli.main(["show"])


def test_a_stopped_run_says_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr(show, "main", raiser(KeyboardInterrupt()))
    assert cli.main(["show"]) == 130
    assert "checkpoint.resume=true" in capsys.readouterr().err


def raiser(error: BaseException):
    def command(words: object) -> int:
        raise error

    return command


@pytest.mark.parametrize("words", ["components", "help"])
def test_a_reader_that_leaves_early_is_no_error(words):
    command = f"{sys.executable} -m msd_framework.cli {words} | head -c 0; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0"]
    assert done.stderr == ""


def test_a_config_must_be_named_once():
    with pytest.raises(ConfigError, match="wanted config=FILE once, got nothing"):
        take([], "config")
    assert take(["config=a", "b=1"], "config") == ("a", ["b=1"])


def test_make_world_makes_what_its_words_say_and_tells_how_to_use_it(tmp_path, capsys):
    folder = tmp_path / "world"
    assert cli.main(["make-world", *SMALL, f"folder={folder}", "mix={both: 1, text: 1}", "noise=0"]) == 0
    told = capsys.readouterr().out
    assert "rows: train 6, test_seen 4\n" in told
    assert "mix:  both 0.5, text 0.5\n" in told
    assert f"data.dataset={{type: hateful_memes, root: {folder}}}" in told
    assert json.loads((folder / "world.json").read_text())["noise"] == 0
    assert cli.main(["make-world", *SMALL, f"folder={folder}", "mix={both: 1, text: 1}", "noise=0"]) == 0
    assert "holds this world already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["folder=w"], ["layout: must be given: the data set whose format"]),
        (
            ["layout=hateful_meme", "folder=w"],
            ["command line: layout: no layout is named 'hateful_meme'. Did you mean 'hateful_memes'?"],
        ),
        (["layout=vqa_v2", "folder=w", "sed=1"], ["command line: sed: no such option. Did you mean 'seed'?"]),
        (["layout=vqa_v2", "folder=w", "sizez.train=1"], ["command line: sizez: no such option. Did you mean 'sizes'?"]),
        (
            ["layout=vqa_v2", "folder=w", "seed=x", "overwrite=1"],
            ["command line: seed: wanted int", "command line: overwrite: wanted bool"],
        ),
        (["layout=vqa_v2", "folder=w", "progress=1"], ["command line: progress: no such option."]),
        (
            [*SMALL, "folder=w", "sizes.tran=1"],
            ["command line: sizes.tran: hateful_memes has no such split. Did you mean 'train'?"],
        ),
        ([*SMALL, "folder=w", "noise=-1"], ["command line: noise: wanted a number of at least 0, got -1."]),
        ([*SMALL, "folder"], ["command line: 'folder' is not of the form key=value"]),
    ],
)
def test_make_world_tells_mistakes_in_sentences(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["make-world", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(text) for line, text in zip(lines, said))
    assert not (tmp_path / "w").exists()
