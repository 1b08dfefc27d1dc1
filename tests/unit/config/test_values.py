"""Values as users write them are read as they stand."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from msd_framework.config.load import load, parse, parse_override
from msd_framework.config.values import as_word, dump, expand, flow
from msd_framework.errors import ConfigError

TEXTS = [
    "runs/attempt #2",
    "memes #2",
    "#",
    "a: b",
    "a:",
    ": ",
    " x ",
    "%x",
    "@x",
    "`x`",
    "!x",
    "!!python/object:os.system",
    "&a",
    "*",
    "*/x",
    "|",
    ">",
    "- a",
    "-",
    "?",
    "...",
    "---",
    "=",
    "a=b",
    "<<",
    "a\nb",
    "a\\b",
    "C:\\runs\\x",
    "it's",
    'say "x"',
    "x]",
    "x}",
    "runs/[a]",
    "kd [lr=3e-3]",
    "010",
    "1:30",
    "2024-01-01",
    "é ☃",
    "a,b",
    "${env.save_dir}/x #2",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_on_the_command_line_is_the_text(text):
    assert parse_override(f"name={text}").values == {"name": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("1", 1),
        (" 1 ", 1),
        ("-3", -3),
        ("1e-4", 1e-4),
        ("1e5", 1e5),
        (".5", 0.5),
        (".inf", float("inf")),
        ("1_000", 1000),
        ("[full, image]", ["full", "image"]),
        ("{a: 1, b: [x, 'y #']}", {"a": 1, "b": ["x", "y #"]}),
        ("'1'", "1"),
        ('"a\\tb"', "a\tb"),
        ("[]", []),
        ("{}", {}),
        ("''", ""),
    ],
)
def test_numbers_lists_and_texts_in_quotes_are_yaml(text, value):
    parsed = parse_override(f"x={text}").values["x"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "text", ["[a", "{a: 1", "[a, b] c", "{a: 1} # x", "'a", "'a' b", "[a #b]", "{a: b: c}", "[!!python/name:os.system]"]
)
def test_what_begins_as_yaml_and_is_none_is_told_with_a_copy_that_works(text):
    with pytest.raises(ConfigError, match="is not valid YAML") as error:
        parse_override(f"name={text}")
    copy = str(error.value).partition("A text is given in quotes: ")[2]
    (given_word,) = shlex.split(copy)
    assert parse_override(given_word).values == {"name": text}


def test_what_is_no_interpolation_and_what_is_no_utf_8_is_told():
    with pytest.raises(ConfigError, match=r"has a \$\{ that begins no interpolation"):
        parse_override("name=a ${")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        parse_override("name=\udcff")


@settings(max_examples=200)
@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12))
def test_any_text_gets_through_the_command_line_in_quotes(text):
    escaped = text.replace("${", "")  # which is an interpolation in any text
    assert parse_override(as_word("name", escaped)).values == {"name": escaped}


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_to_be_copied_comes_through_a_shell_as_it_was(text):
    done = subprocess.run(["sh", "-c", f"printf %s {shlex.quote(as_word('name', text))}"], capture_output=True, check=True)
    assert parse_override(done.stdout.decode()).values == {"name": text}


@pytest.mark.parametrize("text", [*TEXTS, "1e5", "1", "true", "null", "~", ".inf", "0x1f", "1_0"])
def test_what_is_written_down_reads_as_the_same_value(text):
    if "${" not in text:
        assert OmegaConf.to_container(OmegaConf.create(dump({"a": text, "b": [text]}))) == {"a": text, "b": [text]}
        assert OmegaConf.to_container(OmegaConf.create(f"a: {flow({'x': text})}")) == {"a": {"x": text}}
    assert yaml.safe_load(dump({"a": (1, 2)})) == {"a": [1, 2]}


# a user's own folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("at", "text", "found"),
    [
        ("env.save_dir", "~/runs/x", "/runs/x"),
        ("env.save_dir", "~", ""),
        ("teacher.checkpoint[1]", "~/t", "/t"),
        ("data.dataset.root", "~/d", "/d"),
        ("data.dataset.images.image", "~/photos/{photo}.png", "/photos/{photo}.png"),
        ("model.encoders.text.name", "~/bert", "/bert"),
        ("base", "~/a.yaml", "/a.yaml"),
        ("user_dir", "~/mine", "/mine"),
    ],
)
def test_a_path_below_the_users_own_folder_is_filled_in(home, at, text, found):
    assert expand(text, at) == f"{home}{found}"


def test_a_folder_of_features_with_its_kind_in_front_is_filled_in(home):
    assert expand({"image": {"folder": "lmdb:~/x"}}, "data.processors") == {"image": {"folder": f"lmdb:{home}/x"}}


@pytest.mark.parametrize("text", ["~text", "~image+text", "a~b", "runs/~/x", "x~"])
def test_views_and_other_texts_are_left_alone(text):
    assert expand({"views": [text], "teacher": text}) == {"views": [text], "teacher": text}


@pytest.mark.parametrize(
    ("at", "text", "said"),
    [
        ("env.save_dir", "~nobody-here/x", "there is no user 'nobody-here'"),
        ("env.save_dir", "~nobody-here", "there is no user 'nobody-here'"),
        (
            "data.dataset.root",
            "$HOME/x",
            r"holds \$HOME, which is not filled in here; write the path itself. For your own folder, write ~",
        ),
        ("env.save_dir", "a/$SCRATCH/x", r"holds \$SCRATCH"),
        ("model.encoders.text.name", "$HOME/x", r"holds \$HOME"),
    ],
)
def test_what_nobody_can_fill_in_is_told(home, at, text, said):
    with pytest.raises(ConfigError, match=said):
        expand(text, at)


def test_a_dollar_in_a_name_is_a_dollar(home):
    assert expand({"label": "$class", "name": "a $HOME"}) == {"label": "$class", "name": "a $HOME"}
    assert expand("runs/a$b", "env.save_dir") == "runs/a$b"


def test_files_and_words_are_filled_in_and_told_with_their_place(home, tmp_path):
    home.mkdir()
    (home / "base.yaml").write_text("name: below\n")
    file = home / "mine.yaml"
    file.write_text("base: ~/base.yaml\nenv: {save_dir: ~/runs/x}\n")
    found = load("~/mine.yaml", ["data.dataset.root=~/d"]).values
    assert (found["name"], found["env"]["save_dir"], found["data"]["dataset"]["root"]) == ("below", f"{home}/runs/x", f"{home}/d")
    file.write_text("name: x\nenv:\n  save_dir: ~nobody-here/x\n")
    with pytest.raises(ConfigError, match=rf"{file}:3: env\.save_dir: '~nobody-here/x'"):
        parse(file)
    with pytest.raises(ConfigError, match=r"command line: env\.save_dir: '~nobody-here/x'"):
        parse_override("env.save_dir=~nobody-here/x")
