"""Components of a user's own that cannot work are told when they are registered or named: which class, where, and what it lacks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from textwrap import dedent, indent

import pytest

from msd_framework.checks.run import checked
from msd_framework.cli import main
from msd_framework.components.contract import place
from msd_framework.config.load import load
from msd_framework.errors import ConfigError
from msd_framework.registry import REGISTRIES
from msd_framework.run import run

CONTRACTS = {plural: place(registry.contract) for plural, registry in REGISTRIES.items()}
ABSTRACT = {
    "models": ("forward", "modalities_of"),
    "encoders": ("forward",),
    "maskers": ("hide",),
    "task_losses": ("forward",),
    "distillation_losses": ("forward",),
    "feature_losses": ("forward",),
    "saliencies": ("forward", "views"),
    "weightings": ("forward",),
    "modulations": ("forward",),
    "objectives": ("forward",),
    "combinations": ("weights",),
    "datasets": ("__getitem__", "__len__", "check", "describe"),
    "processors": ("collate", "load"),
    "metrics": ("__call__",),
    "optimizers": ("build",),
    "schedulers": ("factor",),
    "experiments": ("run",),
}
"""What a class of each kind must at least write itself."""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module of a user's own and returns its folder; what it registers is forgotten afterwards."""
    for registry in REGISTRIES.values():
        registry.names()
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))

    def write(code: str) -> Path:
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / "mine.py").write_text(dedent(code))
        return tmp_path / "own"

    return write


def a_class(plural: str, body: str = "pass", base: str | None = None) -> str:
    module, _, contract = CONTRACTS[plural].rpartition(".")
    head = f"from {module} import {contract}\nfrom msd_framework import registry\n\n"
    name = f"@registry.{plural.upper()}.register('mine')\nclass Mine({contract if base is None else base}):\n"
    return head + name + indent(dedent(body), "    ") + "\n"


@pytest.mark.parametrize("plural", ABSTRACT)
def test_a_class_without_the_methods_of_its_kind_is_told_with_its_place(plural, own, capsys):
    folder = own(a_class(plural))
    assert main(["components", plural, "mine", f"user_dir={folder}"]) == 2
    told = capsys.readouterr().err
    assert len(told.strip().splitlines()) == 1
    assert f"the class Mine ({folder}/mine.py:4) lacks the method" in told
    assert CONTRACTS[plural] in told
    for method in ABSTRACT[plural]:
        assert re.search(rf"\b{method}\b", told)


@pytest.mark.parametrize("plural", CONTRACTS)
def test_a_class_of_another_base_is_told_with_the_one_that_is_wanted(plural, own, capsys):
    folder = own(a_class(plural, base="object"))
    assert main(["components", plural, f"user_dir={folder}"]) == 2
    assert (
        f"the class Mine ({folder}/mine.py:4) is no {REGISTRIES[plural].kind}: it does not extend {CONTRACTS[plural]}."
        in capsys.readouterr().err
    )


def test_a_class_in_the_wrong_registry_is_told_which_kind_it_is(own, capsys):
    code = """\
    from msd_framework.maskers.base import Masker
    from msd_framework.registry import WEIGHTINGS

    @WEIGHTINGS.register("mine")
    class Mine(Masker):
        def hide(self, modality, inputs):
            return inputs
    """
    assert main(["components", "maskers", f"user_dir={own(code)}"]) == 2
    assert (
        "is no weighting: it does not extend msd_framework.weighting.base.WeightingStrategy. It is a masker."
        in capsys.readouterr().err
    )


def test_a_function_is_no_component(own, capsys):
    folder = own("from msd_framework.registry import MASKERS\n\n@MASKERS.register('mine')\ndef mine(): pass\n")
    assert main(["components", "maskers", f"user_dir={folder}"]) == 2
    assert "user_dir: masker 'mine': 'mine' is not a class but of type function." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("plural", "body", "text"),
    [
        (
            "models",
            "def forward(self, inputs): ...\ndef modalities_of(cls, options): ...",
            "has a method modalities_of that must be a @classmethod.",
        ),
        (
            "maskers",
            "def hide(self, inputs): ...",
            "has a method hide that is called with (self, modality, inputs) and takes (self, inputs).",
        ),
        (
            "task_losses",
            "def forward(self, output, targets, extra): ...",
            "has a method forward that is called with (self, output, targets) and takes (self, output, targets, extra).",
        ),
        ("feature_losses", "def forward(self, student, teacher, batch): ...", "does not say takes, as a class of"),
        (
            "saliencies",
            "def views(self, modalities): ...\ndef forward(self, predictions, targets, modalities): ...",
            "does not say non_negative, as a class of",
        ),
    ],
)
def test_what_could_not_be_called_is_told(plural, body, text, own, capsys):
    assert main(["components", plural, f"user_dir={own(a_class(plural, body))}"]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("plural", "body"),
    [
        ("maskers", "def hide(self, modality, inputs, strength=1.0): ..."),
        ("maskers", "def hide(self, *arguments): ..."),
        ("models", "def forward(self, inputs): ...\n@classmethod\ndef modalities_of(cls, options): ..."),
        ("models", "def forward(self, inputs): ...\n@staticmethod\ndef modalities_of(options): ..."),
    ],
)
def test_what_can_be_called_is_taken(plural, body, own, capsys):
    assert main(["components", plural, "mine", f"user_dir={own(a_class(plural, body))}"]) == 0, capsys.readouterr().err


DESCRIBED = """\
splits = ("train",)
@classmethod
def describe(cls, options): ...
@classmethod
def check(cls, options, split): return []
def __len__(self): return 3
def __getitem__(self, index): ...
"""


@pytest.mark.parametrize(
    ("plural", "body", "text"),
    [
        (
            "datasets",
            "def write_submission(self, file): ...",
            "has write_submission, which nothing asks for any more: write submission",
        ),
        (
            "models",
            "@classmethod\ndef modalities_of(cls, options): ...\ndef forward(self, inputs): ...\n@property\ndef offered(self): ...",
            "has offered, which nothing asks for any more: write feature_kinds",
        ),
        (
            "combinations",
            "def weights(self, teachers, log_p): ...\ndef asked(self, view, seeing): ...",
            "has asked, which nothing asks for any more: write choose",
        ),
        (
            "saliencies",
            "non_negative = True\nasks_labels = True\ndef views(self, modalities): ...\n"
            "def forward(self, predictions, targets, modalities): ...",
            "has asks_labels, which nothing asks for any more: write needs_labels",
        ),
        (
            "weightings",
            "asks_labels = True\ndef forward(self, evidence): ...",
            "has asks_labels, which nothing asks for any more: write needs_labels",
        ),
        (
            "modulations",
            "def forward(self, model, batch): ...\ndef change_gradients(self, mean): ...",
            "has change_gradients, which nothing asks for any more: write after_backward",
        ),
        (
            "weightings",
            "def forward(self, evidence): ...\ndef change_gradients(self, mean): ...",
            "has change_gradients, which nothing asks for any more: write after_backward",
        ),
        (
            "objectives",
            "def forward(self, batch): ...\nlooks_ahead = True",
            "has looks_ahead, which nothing asks for any more: write rehearses",
        ),
        (
            "datasets",
            "def submission_entry(self, places, logits): ...",
            "has submission_entry, which nothing asks for. Did you mean",
        ),
        ("datasets", "def chek_together(cls, options, splits): ...", "Did you mean 'check_together'? Rename it, or begin its name"),
        ("datasets", "may_shares_rows = True", "has may_shares_rows, which nothing asks for. Did you mean 'may_share_rows'?"),
        ("datasets", "@property\ndef finger_print(self): return 'a'", "Did you mean 'fingerprint'?"),
        (
            "callbacks",
            "def on_epoch_end(self, runner): ...",
            "has on_epoch_end, which nothing asks for. It may have on_fit_start, on_",
        ),
        ("callbacks", "needs_validations = True", "Did you mean 'needs_validation'?"),
    ],
)
def test_what_nothing_asks_for_is_told_with_what_is_asked_for(plural, body, text, own, capsys):
    code = own(a_class(plural, DESCRIBED * (plural == "datasets") + body))
    assert main(["components", plural, f"user_dir={code}"]) == 2
    told = capsys.readouterr().err
    assert len(told.strip().splitlines()) == 1
    assert text in told
    assert "mine.py:4" in told


def test_a_method_that_is_nearly_that_of_its_kind_is_told_beside_what_is_lacking(own, capsys):
    assert main(["components", "maskers", f"user_dir={own(a_class('maskers', 'def hide_it(self, modality, inputs): ...'))}"]) == 2
    assert (
        "lacks the method hide, which msd_framework.maskers.base.Masker asks for. Did you mean 'hide_it'?"
        in capsys.readouterr().err
    )


def test_names_of_a_class_s_own_use_are_taken(own, capsys):
    body = "def hide(self, modality, inputs): return (lambda: self.hiden_in())()\ndef hiden_in(self): ...\ndef _viev(self): ...\n"
    assert main(["components", "maskers", "mine", f"user_dir={own(a_class('maskers', body))}"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("plural", CONTRACTS)
def test_the_library_s_own_components_would_be_taken_from_a_user(plural, monkeypatch):
    registry = REGISTRIES[plural]
    for cls in map(registry.get, registry.names()):
        for base in cls.__mro__:
            if base.__module__.startswith("msd_framework.") and base is not registry.contract:
                monkeypatch.setattr(base, "__module__", f"user.{base.__module__}")
        assert registry._misfit(cls) == ""
        monkeypatch.undo()


MODEL = """\
from torch import nn
from msd_framework.models.base import MultimodalModel
from msd_framework.registry import MODELS

@MODELS.register("mine")
class Mine(MultimodalModel):
    @classmethod
    def modalities_of(cls, options):
        {told}

    def __init__(self, num_classes: int):
        {made}

    def forward(self, inputs): ...
"""


@pytest.mark.parametrize(
    ("told", "made", "text"),
    [
        ("return None", "pass", "model: modalities_of of mine must return the names of modalities, got None."),
        ("return options['inputs']", "pass", "model: modalities_of of mine failed: "),
        ("return ('text',)", "pass", "does not call super().__init__(). Its __init__ must, before all else."),
        ("return ('text',)", "self.layer = nn.Linear(1, 1)", "mine cannot be made: "),
        (
            "return ('text',)",
            "super().__init__(); self.modalities = ('text',)",
            "does not set self.num_classes. Its __init__ must.",
        ),
    ],
)
def test_a_model_that_tells_or_sets_nothing_is_told_before_the_first_update(told, made, text, own, tiny_config, tmp_path):
    folder = own(MODEL.format(told=told, made=made))
    with pytest.raises(ConfigError) as error:
        run(
            tiny_config,
            [f"user_dir={folder}", "model=mine", f"env.save_dir={tmp_path / 'out'}", "data.processors={text: tokenizer}"],
        )
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_a_data_set_that_describes_nothing_is_told(own, tiny_config, tmp_path):
    body = """\
    splits = ("train",)
    @classmethod
    def describe(cls, options): ...
    @classmethod
    def check(cls, options, split): return []
    def __len__(self): return 3
    def __getitem__(self, index): ...
    """
    words = [f"user_dir={own(a_class('datasets', body))}", "data.dataset=mine", f"env.save_dir={tmp_path / 'out'}"]
    with pytest.raises(ConfigError, match=r"data\.dataset: describe of mine must return a DatasetInfo, got None\."):
        run(tiny_config, words)


def test_a_dotted_name_of_an_abstract_class_is_told():
    with pytest.raises(ConfigError, match=r"lacks the method hide, which msd_framework\.maskers\.base\.Masker asks for"):
        REGISTRIES["maskers"].build("msd_framework.maskers.base.Masker", "masker")


def test_a_masker_that_asks_for_the_classes_hides_from_a_cached_teacher(own, tiny_config, tiny_teacher, tmp_path):
    body = """
    def __init__(self, num_classes: int):
        super().__init__()

    def hide(self, modality, inputs):
        return inputs
    """
    words = [
        f"user_dir={own(a_class('maskers', body))}",
        "masker=mine",
        "objective={type: distillation, views: [full, image]}",
        f"teacher={{checkpoint: {tiny_teacher}, cache: true, cache_dir: {tmp_path / 'cache'}}}",
        f"env.save_dir={tmp_path / 'run'}",
    ]
    assert checked(load(tiny_config, words)).teacher.cache is True


def test_a_processor_and_a_combination_may_ask_for_the_classes(own, tiny_config, tiny_teacher, tmp_path):
    code = """
    from msd_framework.data.processors.images import Pixels
    from msd_framework.registry import COMBINATIONS, PROCESSORS
    from msd_framework.teachers.ensemble import MeanOfTeachers

    @PROCESSORS.register("mine")
    class Mine(Pixels):
        def __init__(self, num_classes: int, size: int = 8):
            super().__init__(size)
            assert num_classes == 2

    @COMBINATIONS.register("mine")
    class Mean(MeanOfTeachers):
        def __init__(self, num_classes: int):
            assert num_classes == 2
    """
    shutil.copytree(tiny_teacher, tmp_path / "second")
    words = [f"user_dir={own(code)}", "run_type=check", f"env.save_dir={tmp_path / 'run'}"]
    run(tiny_config, [*words, "data.processors.image={type: mine}"])
    two = f"teacher={{checkpoint: [{tiny_teacher}, {tmp_path / 'second'}], combine: mine}}"
    run(tiny_config, [*words, "objective={type: distillation, views: [full, image]}", two])


DATASET = '''\
from pathlib import Path
from msd_framework.data.base import Example, MultimodalDataset
from msd_framework.registry import DATASETS
from msd_framework.structures import DatasetInfo

@DATASETS.register("lines")
class Lines(MultimodalDataset):
    """A text a line.

    Args:
        split: train alone.
        root: its folder.
    """

    splits = ("train",)

    def __init__(self, split: str, root: str):
        self.lines = (Path(root) / f"{split}.txt").read_text().splitlines()

    @classmethod
    def describe(cls, options):
        return DatasetInfo({"text": "tokens"}, 2, "single_label")

    @classmethod
    def check(cls, options, split):
        return [] if (Path(options["root"]) / f"{split}.txt").exists() else [f"there is no {split}.txt"]

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index):
        return Example(str(index), {"text": self.lines[index]}, len(self.lines[index]) % 2, "train.txt")
'''


def test_a_data_set_of_one_s_own_is_checked(own, tmp_path, capsys):
    (tmp_path / "train.txt").write_text("a\nbc\n")
    assert main(["data", "check", "lines", f"root={tmp_path}", f"user_dir={own(DATASET)}"]) == 0, capsys.readouterr().err
    assert "train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("right", "wrong", "text"),
    [
        (
            'return Example(str(index), {"text"',
            'return Example(str(index), {"txt"',
            "name 'txt', and not 'text'.+Did you mean 'txt'",
        ),
        (
            "len(self.lines[index]) % 2",
            "self.lines[index].length % 2",
            r"Lines\[0\] cannot be read: .+mine\.py:\d+: AttributeError",
        ),
        ("len(self.lines[index]) % 2", "7", "the target of example '0' is 7, wanted a class from 0 to 1"),
        ("return Example(str", "return (str", r"Lines\[0\] .+"),
        ("return Example(str(index)", "return Example(index", r"the id 0 \(int\) of an example of Lines is no text"),
        ("return len(self.lines)", "return self.length", r"split 'train' of Lines failed: .+mine\.py:\d+: AttributeError"),
        ("(Path(root) /", "(Path(rot) /", r"split 'train' of Lines failed: .+mine\.py:\d+: NameError"),
        ("    def __len__", "    row_keys = property(lambda self: 1 / 0)\n    def __len__", "of Lines failed: .+ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_a_data_set_of_one_s_own_is_a_sentence(own, right, wrong, text, tmp_path, capsys):
    (tmp_path / "train.txt").write_text("a\nbc\n")
    assert DATASET.count(right) == 1
    folder = own(DATASET.replace(right, wrong))
    assert main(["data", "check", "lines", f"root={tmp_path}", f"user_dir={folder}"]) == 1
    assert re.search(rf"(?m)^train: .*{text}", capsys.readouterr().out)


def test_components_of_a_module_of_one_s_own_are_listed(own, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(own(DATASET)))
    assert main(["components", "datasets", "imports=[mine]"]) == 0
    assert re.search(r"^  lines +A text a line\.", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["components", "maskers", "user_dir=nowhere"], "command line: user_dir: there is no folder nowhere."),
        (["components", "maskers", "imports=mine"], "imports: wanted list[str], got 'mine' (str)."),
        (["components", "maskers", "imports=[no_such_module]"], "imports[0]: there is no module 'no_such_module'."),
        (["components", "maskers", "user_dr=own"], "beside user_dir and imports; got maskers user_dr=own."),
        (["data", "check", "lines", "user_dir=nowhere"], "command line: user_dir: there is no folder nowhere."),
    ],
)
def test_words_that_name_no_modules_are_told(words, text, capsys):
    assert main(words) == 2
    assert text in capsys.readouterr().err
