"""Names to classes."""

from __future__ import annotations

import importlib
import sys
import types
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from msd_framework.commands.components import settable
from msd_framework.components import registry as registry_module
from msd_framework.components.facts import agreed, narrowed
from msd_framework.components.options import summary
from msd_framework.components.registry import Registry, nested, plain, split
from msd_framework.errors import ConfigError
from msd_framework.registry import MASKERS, MODELS, REGISTRIES


class Cup:
    """A cup."""

    def __init__(self, size: int = 1):
        if size < 1:
            raise ValueError(f"size must be 1 or more, got {size}.")
        self.size = size


class Mug(Cup):
    pass


class Tray:
    """Holds cups.

    Args:
        first: the one in front.
        others: those behind.
        named: those with a name.
        seed: of all chance.
    """

    def __init__(
        self,
        first: Cup | None = None,
        others: list[Cup] | None = None,
        named: dict[str, Cup] | None = None,
        seed: int = 0,
        owner: str = "",
    ):
        self.first, self.others, self.named, self.seed, self.owner = first, others, named, seed, owner


@pytest.fixture
def cups(monkeypatch):
    """Two registries whose package is empty."""
    monkeypatch.setitem(sys.modules, "empty_cupboard", package := types.ModuleType("empty_cupboard"))
    package.__path__ = []
    cups: Registry[Cup] = Registry("cup", "cups", Cup, package="empty_cupboard")
    trays: Registry[Tray] = Registry("tray", "trays", Tray, package="empty_cupboard")
    cups.register("cup")(Cup)
    cups.register("mug")(Mug)
    trays.register("tray")(Tray)
    return cups, trays


def test_a_component_is_built_by_its_name_or_its_options(cups):
    assert isinstance(cups[0].build("mug"), Mug)
    assert cups[0].build({"type": "mug", "size": 3}).size == 3


def test_components_are_built_inside_components(cups):
    spec = {"type": "tray", "first": "mug", "others": ["cup", {"type": "mug", "size": 2}], "named": {"a": "mug"}}
    tray = cups[1].build(spec)
    assert isinstance(tray.first, Mug)
    assert [c.size for c in tray.others] == [1, 2]
    assert isinstance(tray.named["a"], Mug)
    assert cups[1].build({"type": "tray", "first": None}).first is None


def test_facts_fill_in_what_the_user_left_out_and_context_what_only_the_run_knows(cups):
    assert cups[1].build("tray", facts={"seed": 7}).seed == 7
    assert cups[1].build({"type": "tray", "seed": 1}, facts={"seed": 7}).seed == 1
    assert cups[1].build("tray", owner="me", nobody="x").owner == "me"


def test_context_cannot_be_written_in_a_yaml(cups):
    (problem,) = cups[1].check({"type": "tray", "owner": "me"}, context=("owner",))
    assert problem.path == "tray.owner"
    assert "tray has no such option" in problem.message


def test_everything_that_is_wrong_is_found_at_once(cups):
    spec = {"type": "tray", "first": {"type": "mug", "sice": 2}, "others": [3, "cap"], "seed": "x", "named": ["cup"]}
    found = {p.path: p.message for p in cups[1].check(spec, "t")}
    assert list(found) == ["t.first.sice", "t.others[0]", "t.others[1]", "t.seed", "t.named"]
    assert found["t.first.sice"] == "mug has no such option. Did you mean 'size'? It takes: size."
    assert found["t.others[0]"].startswith("wanted a cup: its name, or {type: name, option: value}; known: cup, mug; got 3.")
    assert found["t.others[1]"].startswith("no cup is named 'cap'. Did you mean 'cup'? Known: cup, mug.")
    assert found["t.seed"] == "wanted int, got 'x' (str)."
    assert found["t.named"] == "wanted a dict of cups, got ['cup']."


def test_what_a_constructor_refuses_is_told_with_its_key(cups):
    with pytest.raises(ConfigError, match=r"^here\.first: size must be 1 or more, got 0\.$"):
        cups[1].build({"type": "tray", "first": {"type": "cup", "size": 0}}, "here")


def test_a_missing_option_is_told_with_its_sentence():
    (problem,) = REGISTRIES["models"].check("unimodal_text", "model", facts=("num_classes",))
    assert (problem.path, problem.message) == ("model.encoder", "unimodal_text needs this option: makes a summary of the modality.")


def test_a_name_given_twice_raises_with_both_places(cups):
    with pytest.raises(ConfigError, match=r"cup 'mug' is registered twice: by .*\.Mug and by .*\.Cup\. Rename one\."):
        cups[0].register("mug")(Cup)
    cups[0].register("mug")(Mug)  # the same class again, as after a reload, is no conflict


def test_a_dotted_name_needs_no_registration(cups):
    assert cups[0].get(f"{__name__}.Mug") is Mug


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "no_such_module.Cup",
            r"cup 'no_such_module\.Cup' cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (f"{__name__}.Cop", "cannot be imported: AttributeError"),
        (f"{__name__}.cups", "is not a class but of type"),
        (f"{__name__}.Tray", r"Tray is no cup: it does not extend .*\.Cup\. It is a tray\. It stands at .*test_registry\.py:\d+\."),
    ],
)
def test_a_dotted_name_that_is_no_such_component_is_told(cups, name, text):
    with pytest.raises(ConfigError, match=text):
        cups[0].get(name)


def test_a_dotted_name_whose_module_raises_is_told_with_file_and_line(cups, tmp_path, monkeypatch):
    (tmp_path / "broken_cups.py").write_text("x = 1\nraise KeyError('handle')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"broken_cups\.py:2: KeyError: 'handle'"):
        cups[0].get("broken_cups.Cup")


def offer(monkeypatch, value: str, name: str = "plugged") -> None:
    """Installs an entry point of the group of cups."""
    point = EntryPoint(name, value, "msd_framework.cups")
    monkeypatch.setattr(registry_module, "_installed", lambda: EntryPoints([point]))


def test_an_installed_entry_point_has_a_name(cups, monkeypatch):
    offer(monkeypatch, f"{__name__}:Mug")
    assert cups[0].get("plugged") is Mug
    assert cups[0].names() == ["cup", "mug", "plugged"]


def test_an_entry_point_that_cannot_be_loaded_is_told_each_time(cups, monkeypatch):
    offer(monkeypatch, "no_such_package:Cup")
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"entry point plugged = no_such_package:Cup \(msd_framework\.cups\) cannot be loaded: .*No module"
        ):
            cups[0].names()


def test_an_entry_point_that_takes_a_name_raises_with_both_places(cups, monkeypatch):
    offer(monkeypatch, f"{__name__}:Mug", name="cup")
    with pytest.raises(ConfigError, match=r"registered twice: by .*\.Cup and by .*\.Mug"):
        cups[0].names()


@pytest.mark.parametrize("spec", [3, None, {"size": 1}, ["cup"], {"type": 3}])
def test_what_is_neither_name_nor_options_is_refused(cups, spec):
    with pytest.raises(ConfigError, match=r"wanted a cup: its name, or \{type: name, option: value\}"):
        split(spec, "c", cups[0])


def test_a_name_alone_and_a_name_with_options_are_the_same_thing():
    assert plain("drop") == plain({"type": "drop"}) == {"type": "drop"}


@pytest.mark.parametrize("plural", REGISTRIES)
def test_every_registered_class_extends_its_contract_and_says_what_its_options_are(plural):
    registry = REGISTRIES[plural]
    assert registry.names()
    for name in registry.names():
        cls = registry.get(name)
        assert registry.get(f"{cls.__module__}.{cls.__qualname__}") is cls  # which refuses what does not extend the contract
        assert summary(cls).endswith((".", "?")), name
        assert [o.name for o in settable(registry, name) if not o.doc] == [], name


@pytest.mark.parametrize("plural", REGISTRIES)
def test_a_kind_is_known_by_the_class_that_an_option_is_annotated_with(plural):
    registry = REGISTRIES[plural]
    assert nested(registry.contract | None) == (registry, None)
    assert nested(dict[str, registry.contract]) == (registry, dict)
    assert nested(list[registry.contract]) == (registry, list)


def test_components_are_found_in_all_packages_within_that_of_their_contract(tmp_path, monkeypatch):
    (tmp_path / "cupboard" / "shelf").mkdir(parents=True)
    (tmp_path / "cupboard" / "base.py").write_text(
        "from msd_framework.components.registry import Registry\nclass Bowl: pass\nBOWLS = Registry('bowl', 'bowls', Bowl)\n"
    )
    (tmp_path / "cupboard" / "shelf" / "deep.py").write_text(
        "from cupboard.base import BOWLS, Bowl\n@BOWLS.register('deep')\nclass Deep(Bowl): pass\n"
    )
    for folder in ("cupboard", "cupboard/shelf"):
        (tmp_path / folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("cupboard.base").BOWLS.names() == ["deep"]


MODALITIES = {"text": {"vocab_size": 9, "pad_id": 0}, "title": {"vocab_size": 7, "pad_id": 0}, "image": {"image_size": 8}}
FACTS = {"seed": 0, "modalities": MODALITIES}


def test_facts_that_modalities_agree_on_are_told_to_all_and_others_to_none():
    known, disputed = agreed(FACTS)
    assert known == {"seed": 0, "pad_id": 0, "image_size": 8}
    assert disputed == {"vocab_size": "must be given: that of text is 9 and that of title is 7."}


@pytest.mark.parametrize(("modality", "size"), [("text", 9), ("title", 7)])
def test_a_component_of_one_modality_is_told_the_facts_of_that_one(modality, size):
    masker = MASKERS.build({"type": "by_modality", "maskers": {modality: "noise"}, "otherwise": "drop"}, facts=FACTS)
    assert masker.maskers[modality].vocab_size == size


def test_a_component_of_all_modalities_must_be_given_what_they_differ_in():
    with pytest.raises(ConfigError, match=r"masker\.vocab_size: must be given: that of text is 9 and that of title is 7\."):
        MASKERS.build("noise", facts=FACTS)
    assert MASKERS.build({"type": "noise", "vocab_size": 5}, facts=FACTS).vocab_size == 5


def test_an_option_named_after_a_modality_is_told_the_facts_of_that_one():
    facts = {"num_classes": 2, "modalities": {"image": {"feature_size": 6}, "text": {"vocab_size": 9, "feature_size": 4}}}
    sizes = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "feature_size": 4}
    model = MODELS.build({"type": "visual_bert", **sizes, "image_encoder": {"type": "features", "hidden_size": 8}}, facts=facts)
    assert model.image_encoder.perceptron[0].in_features == 6


def test_facts_of_modalities_of_which_nothing_is_known_stay_as_they_are():
    assert narrowed(FACTS, ["sound"]) == FACTS
    assert narrowed({"seed": 0}, ["text"]) == {"seed": 0}


def test_a_model_is_told_the_facts_of_its_own_modalities():
    encoder = {"type": "transformer", "hidden_size": 8, "num_layers": 1, "num_heads": 2}
    model = MODELS.build({"type": "unimodal_text", "encoder": encoder}, facts={"num_classes": 2, **FACTS})
    assert model.encoder.word.num_embeddings == 9
