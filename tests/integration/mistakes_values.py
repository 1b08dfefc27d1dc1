"""Mistakes with metrics of a class, with values on the command line, and with paths below a user's own folder."""

from __future__ import annotations

from pathlib import Path

from tests.integration.mistakes import Mistake, student


def yaml(text: str):
    """Writes a configuration, <here>/mine.yaml."""

    def write(here: Path, world: Path, teacher: Path) -> None:
        (here / "mine.yaml").write_text(text)

    return write


MINE = ["config=<here>/mine.yaml"]
NO_USER = r"there is no user 'nobody-here'; write the path itself\."

MISTAKES = [
    # metrics
    Mistake(
        "a class that is not there", ["evaluation.metrics=[{type: f1, positive: hatefull}]"], r"'hatefull'.*Did you mean 'hateful'"
    ),
    Mistake(
        "a number of no class", ["evaluation.metrics=[{type: f1, positive: 2}]"], r"metrics\[0\]: positive is 2, wanted a class"
    ),
    Mistake("a class below 0", ["evaluation.metrics=[{type: recall, positive: -1}]"], r"positive is -1, wanted a class"),
    Mistake(
        "a class as a share", ["evaluation.metrics=[{type: precision, positive: 0.5}]"], r"positive: wanted int \| str.*got 0\.5"
    ),
    Mistake(
        "a class of an average", ["evaluation.metrics=[{type: f1_macro, positive: 1}]"], r"positive: f1_macro has no such option"
    ),
    Mistake("f1 by a wrong name", ["evaluation.metrics=[macro_f1]"], r"no metric is named 'macro_f1'"),
    Mistake("precision by a wrong name", ["evaluation.metrics=[precison_macro]"], r"Did you mean 'precision_macro'\?"),
    Mistake("f1 of examples", ["evaluation.metrics=[f1_samples]"], r"f1_samples is for multi_label targets"),
    Mistake(
        "a mark of a comment in a list",
        ["data.train=[a, b #2]"],
        r"""data\.train: .*is not valid YAML\. A list of such texts is 'data\.train=\["a", "b #2"\]'\. A text is""",
    ),
    Mistake("a metric nobody computes", ["evaluation.monitor=f1"], r"evaluation\.monitor: 'f1' is none of the metrics"),
    Mistake(
        "expected of another average", ["expected={test/f1_macro: 0.5}"], r"expected\.test/f1_macro: no such metric is reported"
    ),
    Mistake(
        "ranking of one class",
        ["evaluation.metrics=[auroc]", "data.max_eval_examples=1"],
        r"auroc is undefined on the validation split",
        while_training=True,
    ),
    # values
    Mistake("a list without its end", ["evaluation.views=[full, image"], r"evaluation\.views: the value .* is not valid YAML"),
    Mistake("a mapping without its end", ["masker={type: drop"], r"masker: the value '\{type: drop' is not valid YAML"),
    Mistake("a quote without its end", ["name='kd"], r"name: the value \"'kd\" is not valid YAML.*in quotes: "),
    Mistake(
        "a list with a remark", ["evaluation.views=[full] # one"], r"something stands behind its end\. A text is given in quotes: "
    ),
    Mistake("a remark in a list", ["evaluation.views=[full #one]"], r"evaluation\.views: the value .* is not valid YAML"),
    Mistake("a remark behind a number", ["training.max_updates=2 # few"], r"training\.max_updates: wanted int.*got '2 # few'"),
    Mistake("a number with a nought", ["training.max_updates=010"], r"training\.max_updates: wanted int.*got '010'"),
    Mistake("minutes and seconds", ["training.max_updates=1:30"], r"training\.max_updates: wanted int.*got '1:30'"),
    Mistake("an interpolation without its end", ["name=${env.save_dir"], r"has a \$\{ that begins no interpolation"),
    Mistake("a tag", ["training.max_updates=!!int 1"], r"training\.max_updates: wanted int.*got '!!int 1'"),
    Mistake("code as a value", ["masker=[!!python/name:os.system]"], r"masker: the value .* is not valid YAML"),
    Mistake("a name that is a number", ["name=2024"], r"name: wanted str, got 2024 \(int\)"),
    Mistake("a name that is true", ["name=on"], r"name: wanted str, got True \(bool\)"),
    Mistake("a folder that is true", ["env.save_dir=yes"], r"env\.save_dir: wanted str, got True \(bool\)\. Put it in quotes if"),
    Mistake(
        "a key twice in a file", MINE, r"mine\.yaml:2: is not valid YAML: found duplicate key seed", yaml("seed: 1\nseed: 2\n")
    ),
    Mistake(
        "a key twice in braces",
        ["optimizer={type: sgd, lr: 0.1, lr: 0.2}"],
        r"command line: optimizer: the value .* is not valid YAML",
    ),
    Mistake(
        "a word that does not go with its section in the file",
        ["training.max_epochs=2"],
        r"\.yaml:\d+, with training\.max_epochs of the command line: training: wanted either max_updates or max_epochs, got both",
    ),
    Mistake("what is not UTF-8", ["name=\udcff"], r"name: the value '\\udcff' is not UTF-8"),
    # paths
    Mistake("a run of nobody", ["env.save_dir=~nobody-here/x"], rf"command line: env\.save_dir: '~nobody-here/x' .*{NO_USER}"),
    Mistake("the folder of nobody", ["env.save_dir=~nobody-here"], NO_USER),
    Mistake("data of nobody", ["data.dataset.root=~nobody-here/d"], rf"data\.dataset\.root: .*{NO_USER}"),
    Mistake("a teacher of nobody", student("teacher.checkpoint=~nobody-here/t"), rf"teacher\.checkpoint: .*{NO_USER}"),
    Mistake(
        "several teachers", student("teacher.checkpoint=[<teacher>, ~nobody-here/t]"), rf"teacher\.checkpoint\[1\]: .*{NO_USER}"
    ),
    Mistake(
        "a variable of the shell", ["env.save_dir=$HOME/runs"], r"'\$HOME/runs' holds \$HOME, .*For your own folder, write ~\."
    ),
    Mistake(
        "another variable", ["data.dataset.root=/x/$SCRATCH/d"], r"data\.dataset\.root: .* holds \$SCRATCH, which is not filled in"
    ),
    Mistake("no base there", MINE, r"base: there is no file .*gone\.yaml", yaml("base: ~/gone.yaml\n")),
    Mistake("a base of nobody", MINE, rf"mine\.yaml:1: base: .*{NO_USER}", yaml("base: ~nobody-here/a.yaml\n")),
    Mistake("in a file", MINE, rf"mine\.yaml:2: env\.save_dir: .*{NO_USER}", yaml("env:\n  save_dir: ~nobody-here/x\n")),
    Mistake("the sign alone", ["env.save_dir=~"], r"command line: env\.save_dir: wanted str, got None"),
    Mistake("a variable in a file", MINE, r"mine\.yaml:1: user_dir: '\$HOME/mine' holds \$HOME", yaml("user_dir: $HOME/mine\n")),
    Mistake("no file there", ["config=~/gone.yaml"], r"config: there is no file ~/gone\.yaml"),
]
