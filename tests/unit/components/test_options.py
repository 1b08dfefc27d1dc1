"""A constructor's signature as the schema of a YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from msd_framework.components.options import argument_docs, mismatch, options_of, summary, type_name
from msd_framework.errors import ConfigError


class Documented(nn.Module):
    """Says what its options are,
    in two lines.

    Args:
        size: how large it is, in
            units of its own.
        name: what it is called: a word.

    Raises:
        ValueError: never.
    """

    def __init__(self, size: int, name: str | None = None):
        super().__init__()


class WithoutConstructor(nn.Module):
    pass


class Inherits(Documented):
    """Another one.

    Args:
        name: here it is a title.
    """


class Swallows(nn.Module):
    def __init__(self, **kwargs: Any):
        super().__init__()


class InheritsSwallows(Swallows):
    pass


class Unresolvable:
    def __init__(self, x: Nowhere):  # type: ignore[name-defined] # noqa: F821
        pass


def function(first: int, second: Mapping[str, float] | None = None) -> None:
    """Does nothing.

    Args:
        first: a number.
        second: numbers.
    """


def test_options_are_the_constructors_arguments_with_types_defaults_and_sentences():
    size, name = options_of(Documented).values()
    assert (size.name, size.annotation, size.required, size.doc) == ("size", int, True, "how large it is, in units of its own.")
    assert (name.annotation, name.default, name.doc) == (str | None, None, "what it is called: a word.")
    assert summary(Documented) == "Says what its options are, in two lines."


def test_an_inherited_constructor_counts():
    size, name = options_of(Inherits).values()
    assert (size.doc, name.doc) == ("how large it is, in units of its own.", "here it is a title.")


class Describes:
    """Has no such option itself.

    Args:
        size: how large its subclasses are.
    """


class IsDescribed(Describes):
    def __init__(self, size: int):
        self.size = size


def test_a_class_may_describe_the_options_of_those_that_extend_it():
    (size,) = options_of(IsDescribed).values()
    assert (size.doc, size.required) == ("how large its subclasses are.", True)


def test_a_module_without_a_constructor_has_no_options():
    assert options_of(WithoutConstructor) == {}
    assert options_of(object) == {}


def test_a_functions_arguments_are_options_too():
    assert [(o.name, o.required, o.doc) for o in options_of(function).values()] == [
        ("first", True, "a number."),
        ("second", False, "numbers."),
    ]


@pytest.mark.parametrize("cls", [Swallows, InheritsSwallows])
def test_a_constructor_that_takes_anything_is_refused(cls):
    with pytest.raises(ConfigError, match=rf"{cls.__name__} takes \*args or \*\*kwargs; a component must name each"):
        options_of(cls)


def test_an_annotation_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="Unresolvable has an annotation that cannot be resolved: name 'Nowhere'"):
        options_of(Unresolvable)


def test_a_docstring_without_arguments_has_none():
    assert argument_docs(WithoutConstructor) == {}


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (Any, "anything"),
        (int, "int"),
        (type(None), "None"),
        (str | None, "str | None"),
        (list[str], "list[str]"),
        (Sequence[int], "list[int]"),
        (tuple[int, ...], "list[int]"),
        (dict[str, float], "dict[str, float]"),
        (Mapping[str, Any], "dict[str, anything]"),
        (Literal["a", "b"], "'a' | 'b'"),
    ],
)
def test_a_type_is_named_as_a_user_would_write_it(annotation, name):
    assert type_name(annotation) == name


FITTING = [
    (1, int),
    (1, float),
    (1.5, float),
    (True, bool),
    ("a", str),
    (None, str | None),
    ([1, 2], list[int]),
    ([], list[int]),
    ({"a": 1}, dict[str, float]),
    ({"a": {"b": 1}}, dict[str, Any]),
    ("a", Literal["a", "b"]),
    (3, int | list[int]),
    ([3], int | list[int]),
    (["full", {"teacher": "a", "student": "b"}], list[str | dict[str, str]]),
    (object(), Any),
]


@pytest.mark.parametrize(("value", "annotation"), FITTING)
def test_what_fits_is_not_complained_about(value, annotation):
    assert mismatch(value, annotation) == ""


QUOTES = "Put it in quotes if it is a text; on a command line: 'key=\"text\"'."


@pytest.mark.parametrize(
    ("value", "annotation", "text"),
    [
        ("1", int, "wanted int, got '1' (str). Write it without quotes."),
        ("1e-4", float, "wanted float, got '1e-4' (str). Write it without quotes."),
        ("fast", float, "wanted float, got 'fast' (str)."),
        ("False", bool, "wanted bool, got 'False' (str). Write it without quotes."),
        (True, int, "wanted int, got True (bool)."),
        (True, float, "wanted float, got True (bool)."),
        (1, bool, "wanted bool, got 1 (int)."),
        (1.0, int, "wanted int, got 1.0 (float)."),
        (None, int, "wanted int, got None (NoneType)."),
        (3, str | None, f"wanted str | None, got 3 (int). {QUOTES}"),
        ("3", int | None, "wanted int | None, got '3' (str). Write it without quotes."),
        ("a", list[str], "wanted list[str], got 'a' (str)."),
        ([1, "b"], list[int], "item 1: wanted int, got 'b' (str)."),
        ([1, "b"], int | list[int], "item 1: wanted int, got 'b' (str)."),
        ({"a": "b"}, dict[str, float], "a: wanted float, got 'b' (str)."),
        ([1], dict[str, float], "wanted dict[str, float], got [1] (list)."),
        ({1: 2.0}, dict[str, float], f"1: wanted str, got 1 (int). {QUOTES}"),
        ("skp", Literal["raise", "skip"], "wanted 'raise' | 'skip', got 'skp'. Did you mean 'skip'?"),
        ("skp", Literal["raise", "skip"] | None, "wanted 'raise' | 'skip', got 'skp'. Did you mean 'skip'?"),
        (True, Literal[1, 2], "wanted 1 | 2, got True."),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(value, annotation, text):
    assert mismatch(value, annotation) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_a_value_fits_exactly_the_plain_types_that_it_is_of(value):
    plain = {bool: bool, int: int, float: (int, float), str: str}
    for annotation, types in plain.items():
        fits = isinstance(value, types) and (annotation is bool or not isinstance(value, bool))
        assert (mismatch(value, annotation) == "") == fits
