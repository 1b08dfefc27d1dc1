"""Parts of a model that learn at a rate of their own, or not at all, by their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from torch import nn

from msd_framework.errors import did_you_mean
from msd_framework.ranges import not_negative, positive

# what names of modules and parameters look like that come before a stack of layers
BELOW = re.compile(r"embed|_token$|^(word|position|segment|feature_extractor|feature_projection)s?$")


@dataclass(frozen=True)
class ModelParts:
    """How parts of a model learn in another way than the rest.

    A part is named as `named_parameters` of the model does, such as `encoders.text`, or of the objective, such as `features`.
    """

    # the learning rate of parts, or `{lr: .., weight_decay: ..}`; the part with the longest name has a parameter
    groups: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    frozen: Collection[str] = ()  # parts that do not learn
    layer_decay: float | None = None  # what the learning rate of a layer is multiplied by with each layer above it

    def __post_init__(self) -> None:
        for part in self.groups:
            options = self._options(part)
            for key in options:
                if key not in ("lr", "weight_decay"):
                    hint = did_you_mean(key, ("lr", "weight_decay"))
                    raise ValueError(f"groups.{part}.{key}: no such option; a group has lr and weight_decay.{hint}")
            if not options:
                raise ValueError(f"groups.{part}: wanted a learning rate, or lr and weight_decay, got none.")
            if options.get("lr") == 0:
                raise ValueError(f"groups.{part}: lr must be above 0, got 0. What does not learn stands in frozen.")
            positive(**{f"groups.{part}: lr": options.get("lr")})
            not_negative(**{f"groups.{part}: weight_decay": options.get("weight_decay")})
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}.")

    def _options(self, part: str) -> Mapping[str, float]:
        given = self.groups[part]
        return given if isinstance(given, Mapping) else {"lr": given}

    def freeze(self, model: nn.Module) -> None:
        """Keeps the frozen parts of a model from learning."""
        parameters = dict(model.named_parameters(prefix="model"))
        for part in self.frozen:
            for name in _within(_start("frozen", part, parameters), parameters):
                parameters[name].requires_grad_(False)
        if not any(p.requires_grad for p in parameters.values()):
            frozen = f" without {', '.join(self.frozen)}" if self.frozen else ""
            raise ValueError(f"frozen: nothing of the model is left that learns{frozen}.")

    def options_of(self, module: nn.Module) -> dict[str, dict[str, Any]]:
        """What the parameters of a module that learn in another way than the rest are given, by their names.

        The options are those of an optimizer's group, with the group's name as `part`; `factor` multiplies the learning rate.
        """
        names = [n for n, p in module.named_parameters() if p.requires_grad]
        starts = {_start("groups", part, names): part for part in self.groups}
        by_name: dict[str, dict[str, Any]] = {}
        for start in sorted(starts, key=len):  # the longest name comes last, and so has the parameter
            part = starts[start]
            for name in _within(start, names):
                by_name[name] = {"part": part, **self._options(part)}
        used = {options["part"] for options in by_name.values()}
        for part in self.groups:
            if part not in used:
                raise ValueError(f"groups.{part}: has no parameter of its own; all of them are in other groups. Leave it out.")
        if self.layer_decay is not None:
            for name, factor in layer_factors(module, self.layer_decay).items():
                by_name.setdefault(name, {})["factor"] = factor
        return by_name


def layer_factors(module: nn.Module, decay: float) -> dict[str, float]:
    r"""What the learning rate of each parameter in or below a stack of transformer layers is multiplied by.

    .. math:: \gamma^{L - l}, \quad l = 0, \ldots, L - 1, \qquad \gamma^{L + 1} \text{ below}

    with l the number of a layer in its stack of L, as in BEiT (Bao et al., ICLR 2022, arXiv:2106.08254; its `optim_factory.py`):
    the embeddings, which lie below, learn slowest, and what is in no stack, such as a head, learns as fast as ever. Each stack of a
    model counts its own layers; embeddings belong to the stack whose name begins most like theirs, the highest one of several.

    >>> layers = [nn.TransformerEncoderLayer(4, 2) for _ in range(2)]
    >>> model = nn.ModuleDict({"embed": nn.Embedding(3, 4), "layers": nn.ModuleList(layers), "head": nn.Linear(4, 2)})
    >>> factors = layer_factors(model, 0.5)
    >>> factors["embed.weight"], factors["layers.0.linear1.bias"], factors["layers.1.linear1.bias"], "head.weight" in factors
    (0.125, 0.25, 0.5, False)
    """
    stacks = _stacks(module)
    if not stacks:
        raise ValueError("layer_decay: the model has no stack of layers with attention. Leave it out, or name parts in groups.")
    factors: dict[str, float] = {}
    for name, _ in module.named_parameters():
        words = name.split(".")
        for stack, num_layers in stacks.items():
            if name.startswith(f"{stack}."):
                layer = int(words[stack.count(".") + 1])
                factors[name] = decay ** (num_layers - layer)
                break
        else:
            if any(map(BELOW.search, words)):
                nearest = max(stacks, key=lambda s: (_num_shared(words, s.split(".")), stacks[s]))
                factors[name] = decay ** (stacks[nearest] + 1)
    return factors


def _stacks(module: nn.Module) -> dict[str, int]:
    """The number of layers of each stack by its path; a stack within another one is a part of that."""
    stacks: dict[str, int] = {}
    for path, part in module.named_modules():
        if not isinstance(part, (nn.ModuleList, nn.Sequential)) or not len(part):
            continue
        if all(map(_has_attention, part)) and not any(path.startswith(f"{outer}.") for outer in stacks):
            stacks[path] = len(part)
    return stacks


def _start(option: str, part: str, names: Collection[str]) -> str:
    """How the names of a part's parameters begin: among those of the model first, then of the objective that has it."""
    for start in (f"model.{part}", part):
        if _within(start, names):
            return start
    known: dict[str, None] = {}
    parts: dict[str, None] = {}
    for name in names:
        words = name.removeprefix("model.").split(".")
        parts[words[0]] = None
        for i in range(1, len(words) + 1):
            known[".".join(words[:i])] = None
    learning = " that learns" if option == "groups" else ""
    hint = did_you_mean(part, known)
    raise ValueError(f"{option}: {part!r} is no part of the model{learning}.{hint} Its parts: {', '.join(parts)}.")


def _within(start: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name == start or name.startswith(f"{start}.")]


def _has_attention(layer: nn.Module) -> bool:
    return any("attention" in type(part).__name__.lower() for part in layer.modules())


def _num_shared(words: Sequence[str], others: Sequence[str]) -> int:
    """How many words two names begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(words, others)))
