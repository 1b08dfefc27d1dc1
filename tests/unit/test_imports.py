"""What an import brings along, and who may import what."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "msd_framework"
HEAVY = (
    "transformers",
    "torchvision",
    "mmf",
    "sklearn",
    "matplotlib",
    "PIL",
    "tokenizers",
    "torchmetrics",
    "tensorboard",
    "lmdb",
    "h5py",
    "timm",
)
HUB = ("huggingface_hub", "safetensors")
STEPS = {
    "the made worlds": ("import msd_framework.worlds", HEAVY),
    "models and encoders": ("from msd_framework.registry import MODELS, ENCODERS; MODELS.names(), ENCODERS.names()", HEAVY + HUB),
    "every component": ("from msd_framework.registry import REGISTRIES; [r.names() for r in REGISTRIES.values()]", HEAVY),
    "run and command line": ("import msd_framework.run, msd_framework.cli", HEAVY),
    "studies": ("import msd_framework.analysis.study.run", HEAVY),
    "msd components": (
        "from msd_framework.commands.components import show_components as show; show(); show('models', 'visual_bert')",
        HEAVY,
    ),
    "msd advise": (
        "from msd_framework.cli import main\n"
        "assert main(['advise', f'config={CONFIG}', 'objective={type: distillation, views: [full]}', 'teacher.ema=0.9']) == 0",
        HEAVY,
    ),
    "msd show": ("from msd_framework.commands.show import show_config; show_config(CONFIG)", HEAVY),
}
"""What is done, and what it must not import. Each goes on where the last one has left off."""


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def loaded(code: str) -> set[str]:
    """The top-level packages that are imported after running some code in a fresh process."""
    script = f"{code}\nimport json, sys; print(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_nothing_heavy_is_imported_before_it_is_used(tiny_config):
    lines = ["import json, sys", f"CONFIG = {str(tiny_config)!r}", "found = {}"]
    for name, (code, _) in STEPS.items():
        lines += [code, f"found[{name!r}] = sorted({{m.partition('.')[0] for m in sys.modules}})"]
    script = "\n".join([*lines, "print(json.dumps(found))"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    brought = {name: set(unwanted).intersection(found[name]) for name, (_, unwanted) in STEPS.items()}
    assert {name: heavy for name, heavy in brought.items() if heavy} == {}
    assert "torch" in found["every component"]


def test_the_package_alone_does_not_even_import_torch():
    assert loaded("import msd_framework").isdisjoint([*HEAVY, "torch"])


def test_the_help_does_not_import_torch():
    assert "torch" not in loaded("from msd_framework.cli import main; main(['--help'])")


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_only_distributed_and_testing_talk_to_other_processes(path):
    names = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    talks = any(n.startswith(("torch.distributed", "torch.nn.parallel")) for n in names)
    assert talks == (path.relative_to(LIBRARY).as_posix() == "engine/distributed.py")


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_no_pickle_eval_or_unchecked_load(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name == "pickle.loads" and path.name == "distributed.py":
                continue  # what the processes of a run send each other, as torch.distributed.all_gather_object does
            assert name not in ("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler")
            if name == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)


def test_editors_and_python_find_the_same_names_in_the_package() -> None:
    tree = ast.parse((LIBRARY / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    shown = {(node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    package = importlib.import_module("msd_framework")
    homes = {(module, name) for name, module in package._HOME_OF.items()}
    assert shown == homes | set(package._CALLED.values())


def test_the_package_is_imported_from_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "library.zip", "w") as archive:
        for file in LIBRARY.rglob("*.py"):
            archive.write(file, file.relative_to(LIBRARY.parent))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'library.zip')!r}); import msd_framework as m; print(m.__file__, m.Hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "library.zip" in done.stdout
