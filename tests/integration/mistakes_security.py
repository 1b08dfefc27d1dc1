"""Mistakes with numbers beyond all bounds, damaged checkpoints, and what a stranger's files name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from tests.integration.mistakes import Mistake, copied, module, student

LONG = "9" * 5000


def signed(name: str, change: Callable[[dict], object]) -> Callable[[Path, Path, Path], None]:
    """Copies the teacher and edits a JSON file of its checkpoint, with hashes that fit."""

    def prepare(here: Path, world: Path, teacher: Path) -> None:
        checkpoint = copied(teacher, here)
        values = json.loads((checkpoint / name).read_text())
        change(values)
        (checkpoint / name).write_text(json.dumps(values))
        files = json.loads((checkpoint / "files.json").read_text())
        files["sha256"][name] = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
        (checkpoint / "files.json").write_text(json.dumps(files))

    return prepare


def card(change: Callable[[dict], object]) -> Callable[[Path, Path, Path], None]:
    return signed("card.json", change)


def text(name: str, content: str | bytes) -> Callable[[Path, Path, Path], None]:
    def prepare(here: Path, world: Path, teacher: Path) -> None:
        (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def base(content: str | bytes) -> Callable[[Path, Path, Path], None]:
    return text("own.yaml", content)


def folder_of_model(**files: str | bytes) -> Callable[[Path, Path, Path], None]:
    """A folder in the layout of transformers, with files that are not right."""

    def prepare(here: Path, world: Path, teacher: Path) -> None:
        (here / "model").mkdir()
        for name, content in files.items():
            path = here / "model" / name.replace("__", ".")
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


COPY = student("teacher.checkpoint=<here>/copy")
BERT = json.dumps(
    {
        "model_type": "bert",
        "vocab_size": 30,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
)
OWN = ["user_dir=<here>/mine", "optimizer=mine"]
PUBLISHED = "model.encoders.text={type: bert, name: <here>/model}"

NUMBERS = [
    Mistake(
        "updates without end", ["training.max_updates=1000000000000"], r"training\.max_updates: must be at most 1,000,000,000, got"
    ),
    Mistake(
        "epochs without end",
        ["training.max_updates=null", "training.max_epochs=.inf"],
        r"training\.max_epochs: must be at most .*got inf",
    ),
    Mistake(
        "a batch of all the world", ["training.batch_size=1000000000"], r"training\.batch_size: must be at most 1,000,000, got"
    ),
    Mistake(
        "a batch of evaluation", ["evaluation.batch_size=1000000000"], r"evaluation\.batch_size: must be at most 1,000,000, got"
    ),
    Mistake("more threads than there are", ["env.threads=100000"], r"env\.threads: must be at most \d+, got 100,000\."),
    Mistake("more workers than there are", ["data.workers=500"], r"data\.workers: must be at most \d+, got 500\."),
    Mistake(
        "layers without end",
        ["model.encoders.text.num_layers=100000"],
        r"model\.encoders\.text\.num_layers: must be at most 1,000, got 100,000\.",
    ),
    Mistake(
        "a width beyond memory",
        ["model.hidden_size=2000000000"],
        r"model: (needs more memory than there is|its weights take [\d,]+ GiB)",
    ),
    Mistake(
        "a number of thousands of digits",
        [f"seed={LONG}"],
        r"command line: seed: the value '9+\.\.\.9+' has a number of more than 4,300 digits",
    ),
    Mistake("a number of many bits", [f"seed=0x{'f' * 4000}"], r"seed: wanted int, got a number of 16,000 bits; 64 are the most\."),
    Mistake("a width of many bits", [f"optimizer.lr=0x{'f' * 400}"], r"optimizer\.lr: wanted float, got a number of 1,600 bits"),
    Mistake(
        "validations without end",
        ["training.max_updates=900000000", "evaluation.every_updates=1"],
        r"evaluation\.every_updates: a validation every 1 of 900,000,000 updates is more than 1,000,000 of them\.",
    ),
]

FILES = [
    Mistake(
        "a number of thousands of digits in a file",
        ["config=<here>/own.yaml"],
        r"own\.yaml: holds a value that cannot be read: Exceeds the limit",
        base(f"seed: {LONG}\n"),
    ),
    Mistake(
        "an object of Python",
        ["config=<here>/own.yaml"],
        r"own\.yaml:1: is not valid YAML: could not determine a constructor",
        base("seed: !!python/object/apply:os.system ['true']\n"),
    ),
    Mistake(
        "a file nested without end", ["config=<here>/own.yaml"], r"own\.yaml: is nested too deep", base("[" * 3000 + "]" * 3000)
    ),
    Mistake(
        "aliases that stand for millions",
        ["config=<here>/own.yaml"],
        r"own\.yaml: its aliases \(\*name\) stand for more than 100,000 values",
        base("a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))),
    ),
]

CHECKPOINTS = [
    Mistake(
        "a card that names a function",
        COPY,
        r"teacher\.checkpoint: .*card\.json: rebuild names 'os\.system', which is code .*add `allow: \[os\.system\]`",
        card(lambda c: c.update(rebuild={"type": "module", "target": "os.system", "inputs": {"text": "command"}})),
    ),
    Mistake(
        "a card that names a class",
        COPY,
        r"card\.json: model names 'a\.B', which is code and no registered component.*add `allow: \[a\.B\]` to your YAML\.",
        card(lambda c: c["model"].update(type="a.B")),
    ),
    Mistake("a class that needs not be allowed", ["allow=[late_fusion]"], r"allow\[0\]: wanted the dotted name of a class"),
    Mistake(
        "a card of no facts",
        COPY,
        r"card\.json does not describe a model \(num_classes: wanted int, got 'two'",
        card(lambda c: c["facts"].update(num_classes="two")),
    ),
    Mistake(
        "a card of endless layers",
        COPY,
        r"card\.json: rebuild\.encoders\.text\.num_layers is 1000000, more than any model has",
        card(lambda c: c["rebuild"]["encoders"]["text"].update(num_layers=10**6)),
    ),
    Mistake(
        "a card of a width of text",
        COPY,
        r"no model can be made of its card\.json: model\.hidden_size: wanted int, got 'wide'",
        card(lambda c: c["rebuild"].update(hidden_size="wide")),
    ),
    Mistake(
        "a card of a model of another library",
        COPY,
        r"card\.json: rebuild: no model is named 'others'",
        card(lambda c: c["rebuild"].update(type="others")),
    ),
]

OTHERS = [
    Mistake(
        "a module that ends the program",
        OWN,
        r"user_dir: '.*' cannot be imported: .*parts\.py:1: SystemExit",
        module("raise SystemExit(0)\n"),
    ),
    Mistake(
        "a target that is no class",
        ["model={type: module, target: subprocess.getoutput, inputs: {text: cmd, image: x}}", "masker=attention"],
        r"model: target 'subprocess\.getoutput' must be a class of nn\.Module",
    ),
    Mistake(
        "a target that is not there",
        ["model={type: module, target: no_such_package.Model, inputs: {text: a, image: b}}", "masker=attention"],
        r"model\.target: there is no module 'no_such_package'\.",
    ),
    Mistake(
        "a folder of a model whose configuration is torn",
        [PUBLISHED],
        r"model.*config\.json: is not JSON",
        folder_of_model(config__json=BERT[:40], model__safetensors=b""),
    ),
    Mistake(
        "a folder of a model whose configuration is a list",
        [PUBLISHED],
        r"config\.json: is \[\] \(list\), wanted an object",
        folder_of_model(config__json="[]"),
    ),
    Mistake(
        "a folder of a model whose weights are torn",
        [PUBLISHED],
        r"not a safetensors file|transformers finds no weights of",
        folder_of_model(config__json=BERT, model__safetensors=b"\x40\x00\x00\x00\x00\x00\x00\x00{"),
    ),
    Mistake(
        "a folder of a model whose torch file is torn",
        [PUBLISHED],
        r"not a file of tensors alone|transformers finds no weights of",
        folder_of_model(config__json=BERT, pytorch_model__bin=b"PK\x03\x04 torn"),
    ),
    Mistake(
        "a folder of a model that needs code of its own",
        [PUBLISHED],
        r"needs code of its own \(auto_map\), which is never run",
        folder_of_model(
            config__json=json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "a.B", "AutoModel": "a.C"}}),
            model__safetensors=b"\x02" + bytes(7) + b"{}",
        ),
    ),
    Mistake(
        "a folder of a model of endless layers",
        [PUBLISHED],
        r"num_hidden_layers is 1000000, which is more than any model has",
        folder_of_model(config__json=BERT.replace('layers": 1', 'layers": 1000000'), model__safetensors=b""),
    ),
    Mistake(
        "weights that are a program",
        ["model.encoders.image={type: resnet, name: resnet18, weights: <here>/bomb.pth}"],
        r"bomb\.pth is not a file of tensors alone, so it is not read",
        text("bomb.pth", b"cos\nsystem\n(S'touch it_was_run'\ntR."),
    ),
]

MISTAKES = [*NUMBERS, *FILES, *CHECKPOINTS, *OTHERS]
