"""Models whose weights are left empty: they are built to be asked what they are, without data, files and random numbers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch.nn import init
from torch.overrides import TorchFunctionMode

from msd_framework.components.facts import agreed
from msd_framework.components.options import options_of
from msd_framework.components.registry import Registry, map_nested
from msd_framework.components.specs import Spec, code_options
from msd_framework.registry import ENCODERS

RANDOM_FILLS = {"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_"}
TRUNCATED = "_no_grad_trunc_normal_"  # what draws truncated normal numbers in `torch.nn.init`
LARGE_VOCABULARY = 2**18  # stands in for one that is not learned yet: larger than published ones

ANY_ENCODER = {"type": "features", "feature_size": 1}  # stands in for an encoder whose sizes are in files


class Unfilled(TorchFunctionMode):
    """A context in which weights get no first numbers, so that memory is only set aside and a big model costs no time.

    The device `meta` is for this as well, but its first operation imports torch's compiler: 2.1 s of CPU time for a
    layer of a transformer in place of 0.004 (torch 2.14; 0.6 s with 2.6). `trunc_normal_` is replaced in
    `torch.nn.init` because this mode does not see it, and it draws until all numbers lie in their range, which empty
    memory may never do.
    """

    def __enter__(self) -> Unfilled:
        self.truncated = getattr(init, TRUNCATED)
        setattr(init, TRUNCATED, lambda tensor, *_, **__: tensor)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        setattr(init, TRUNCATED, self.truncated)

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if getattr(function, "__name__", "") in RANDOM_FILLS:
            return arguments[0] if arguments else options["tensor"]
        return function(*arguments, **(options or {}))


def reads_files(spec: Spec) -> bool:
    """Whether a constructor reads files or published weights, or imports modules of Python that are not loaded."""
    return any(spec.options.get(key) is not None for key in spec.cls.reads) or names_unloaded_code(spec)


def names_unloaded_code(spec: Spec) -> bool:
    """Whether a component's options name code that nobody has imported yet."""
    return any(str(spec.options[key]).rpartition(".")[0] not in sys.modules for key in code_options(spec.cls))


def without_files(registry: Registry[Any], value: Any, facts: Mapping[str, Any], stand_ins: Mapping[str, Any]) -> dict[str, Any]:
    """A component's part of a YAML, with stand-ins for what it must be given, is unknown yet or would be read."""
    spec = Spec("", registry, value)
    if registry is ENCODERS and reads_files(spec):
        return ANY_ENCODER
    known, disputed = agreed(facts)
    filled: dict[str, Any] = {"type": spec.name}
    options = options_of(spec.cls)
    for name, option in options.items():
        if option.required and name in stand_ins and name not in {*known, *disputed}:
            filled[name] = stand_ins[name]
    for key, given in spec.options.items():
        filled[key] = map_nested(options[key], given, lambda inner, one, _: without_files(inner, one, facts, stand_ins))
    return filled
