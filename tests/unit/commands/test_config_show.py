"""What users see when they look: options with origins, components with options."""

from __future__ import annotations

import re

import pytest
import yaml

from msd_framework.commands.components import show_components
from msd_framework.commands.show import show_config
from msd_framework.config.load import load
from msd_framework.errors import ConfigError
from msd_framework.registry import REGISTRIES


def shown(text: str) -> dict[str, tuple[str, str]]:
    """Value and origin by key."""
    return {k: (v, o) for k, v, o in re.findall(r"^(\S+): +(.*?) *# (.*)$", text, re.MULTILINE)}


def test_each_option_is_shown_with_its_value_and_its_place(tiny_config):
    lines = shown(show_config(tiny_config, ["optimizer.lr=1e-3", "name=mine"]))
    assert lines["name"] == ("mine", "command line")
    assert lines["optimizer.lr"] == ("0.001", "command line")
    assert lines["optimizer.type"] == ("adamw", "default")
    assert lines["optimizer.weight_decay"] == ("0.01", "default")
    assert lines["training.batch_size"] == ("4", f"{tiny_config}:15")
    assert lines["training.accumulate"] == ("1", "default")
    assert lines["env.save_dir"] == ("runs/mine", "default")


def test_options_of_nested_components_are_shown_flat_with_the_constructors_defaults(tiny_config):
    lines = shown(show_config(tiny_config))
    assert lines["model.encoders.text.hidden_size"] == ("8", f"{tiny_config}:12")
    assert lines["model.encoders.text.dropout"] == ("0.1", "default")
    assert lines["model.encoders.text.vocab_size"] == ("", "the run")
    assert lines["data.processors.image.channels"] == ("3", "default")
    assert lines["evaluation.metrics[0].type"] == ("accuracy", "default")


def test_keys_stand_in_the_order_of_the_schema_and_below_each_other(tiny_config):
    text = show_config(tiny_config)
    assert text.startswith("data.dataset.type:")
    # a value of more than 48 characters, such as the long path of a data set, moves its own line's comment alone
    values = [line.split("  # ")[0].partition(": ")[2].strip() for line in text.splitlines()]
    assert len({line.index("  # ") for line, value in zip(text.splitlines(), values) if len(value) <= 48}) == 1


def test_what_is_shown_can_be_given_back(tiny_config):
    lines = shown(show_config(tiny_config))
    words = [f"{k}={v}" for k, (v, o) in lines.items() if o != "the run" and "[" not in k]
    values = load(tiny_config, words).values
    assert values["model"]["encoders"]["text"]["hidden_size"] == 8
    assert values["training"]["clip_norm"] == 1.0


def test_a_configuration_with_an_option_that_does_not_exist_is_not_shown(tiny_config):
    with pytest.raises(ConfigError, match=r"command line: sed: no such option\. Did you mean 'seed'\?"):
        show_config(tiny_config, ["sed=3"])


def test_all_components_of_all_kinds_are_listed():
    text = show_components()
    for plural, registry in REGISTRIES.items():
        assert f"{plural}:" in text
        assert all(re.search(rf"^  {name} +\S", text, re.MULTILINE) for name in registry.names())


@pytest.mark.parametrize("kind", ["maskers", "masker", "task_losses", "task loss", "task_loss"])
def test_a_kind_is_found_by_its_plural_and_its_singular(kind):
    assert show_components(kind).splitlines()[0] == ("maskers:" if kind.startswith("masker") else "task_losses:")


def test_a_component_is_shown_with_types_defaults_sentences_and_its_module():
    text = show_components("distillation_losses", "kl")
    assert text.startswith("kl: distillation loss, msd_framework.losses.logits.SoftenedKL\n")
    assert re.search(r"^  temperature  float \| dict\[str, float \| str\]  = 1\.0  T, above 0", text, re.MULTILINE)


@pytest.mark.parametrize("plural", REGISTRIES)
def test_every_line_to_copy_is_right_once_it_is_filled_in(plural):
    registry = REGISTRIES[plural]
    for name in registry.names():
        line = show_components(plural, name).splitlines()[-1]
        (value,) = yaml.safe_load(line).values()
        spec = value[0] if isinstance(value, list) else value["image"] if set(value) == {"image"} else value
        assert spec["type"] == name
        context = ("model", "teacher", "masker", "split", "on_error", "max_examples")
        facts = ("num_classes", "vocab_size", "feature_size", "image_size", "sample_rate")
        problems = registry.check(spec, "x", facts=facts, context=context)
        assert [p for p in problems if spec[p.path.split(".")[1]] != "???"] == []


def test_an_option_that_the_run_fills_in_says_so():
    assert re.search(r"^  num_classes +int +.*= the run's ", show_components("models", "late_fusion"), re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("maskrs",), r"there is no kind of component 'maskrs'\. Did you mean 'maskers'\?"),
        (("maskers", "drp"), r"no masker is named 'drp'\. Did you mean 'drop'\? Known: "),
    ],
)
def test_an_unknown_kind_or_name_is_told_with_the_nearest(words, text):
    with pytest.raises(ConfigError, match=text):
        show_components(*words)
