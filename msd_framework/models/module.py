"""Any torch module as a model: which of its arguments carries what, and where it puts its logits."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast, get_type_hints

from torch import Tensor, nn

from msd_framework.components.registry import import_named, look_here, raised_at
from msd_framework.errors import did_you_mean
from msd_framework.models.base import MODELS, MultimodalModel
from msd_framework.models.pretrained.adapters import blanked
from msd_framework.ranges import positive
from msd_framework.structures import Inputs, ModelOutput, Setting


@MODELS.register("module")
class TorchModule(MultimodalModel):
    """Any `nn.Module`, whether or not it knows of this library.

    It gets each modality's values under the name of an argument, with zeros and [PAD] where something is hidden, and its mask where
    it takes one. A modality that is left out is not given to it, which needs an argument with a default.

    Args:
        target: the dotted name of a class of `nn.Module`, or of a function annotated to return one.
        inputs: the argument of its forward that carries each modality, such as `{text: input_ids, image: pixel_values}`.
        num_classes: C; handed on to the target if it names an argument `num_classes`.
        options: what the target is made with.
        masks: the argument that gets a modality's mask, int64 [B, L] of 0 and 1, such as `{text: attention_mask}`.
        output: where its logits [B, C] are: a key, an attribute, or the place in a sequence. A tensor is the logits themselves.
        summary_size: D, if what stands there is no logits but a summary [B, D], which a linear layer then classifies.
        pad_id: the id of [PAD], which stands wherever no word is.
    """

    takes_subsets: ClassVar[bool] = False
    code: ClassVar[frozenset[str]] = frozenset({"target"})

    def __init__(
        self,
        target: str,
        inputs: dict[str, str],
        num_classes: int,
        options: dict[str, Any] | None = None,
        masks: dict[str, str] | None = None,
        output: str = "logits",
        summary_size: int | None = None,
        pad_id: int = 0,
    ):
        super().__init__()
        if not inputs:
            raise ValueError("inputs must name at least one modality, got none")
        positive(num_classes=num_classes, summary_size=summary_size)
        self.target, self.output, self.pad_id, self.num_classes = target, output, pad_id, num_classes
        self.modalities, self.inputs, self.masks = tuple(sorted(inputs)), dict(sorted(inputs.items())), masks or {}
        for modality in self.masks:
            if modality not in inputs:
                raise ValueError(f"masks.{modality}: inputs has no such modality, only {', '.join(self.modalities)}")
        self.module = build(target, options or {}, num_classes)
        arguments = inspect.signature(self.module.forward).parameters
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self.required = [name for name, p in arguments.items() if p.default is p.empty and p.kind not in variable]
        self._refuse_arguments(arguments)
        self.classifier = None if summary_size is None else nn.Linear(summary_size, num_classes)

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(sorted(options["inputs"]))

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        look_here()
        top, dot, _ = str(options.get("target")).partition(".")
        if dot and top not in sys.modules and importlib.util.find_spec(top) is None:
            return [f"target: there is no module {top!r}. Install it, or name it under imports."]
        return super().check(options, setting)

    def forward(self, inputs: Inputs) -> ModelOutput:
        output = self._tensor(self.module(**self._arguments(inputs)))
        wanted = self.num_classes if self.classifier is None else self.classifier.in_features
        shape = f"{self.output!r} of {self.target} has the shape {list(output.shape)}, wanted [B, {wanted}]"
        if output.ndim == 3 and self.classifier is None:
            why = "an answer at each place is that of a model that writes texts, and generative models are not supported yet"
            raise ValueError(f"{shape}: {why}")
        if output.ndim != 2 or output.shape[-1] != wanted:
            hint = "say in options how many classes there are, or give summary_size for an output that is not the logits"
            raise ValueError(f"{shape}; {hint}")
        return ModelOutput(output if self.classifier is None else self.classifier(output))  # [B, C]

    def _arguments(self, inputs: Inputs) -> dict[str, Tensor]:
        own, arguments = self.own(inputs), {}
        for modality, argument in self.inputs.items():
            if modality in own:
                arguments[argument] = blanked(own[modality], self.pad_id).values
                if modality in self.masks:
                    arguments[self.masks[modality]] = own[modality].mask.long()
            elif argument in self.required:
                hint = "hide it by another masker, such as attention"
                raise ValueError(f"{self.target} needs {argument!r} and {modality!r} was left out; {hint}")
        return arguments

    def _tensor(self, output: Any) -> Tensor:
        if isinstance(output, Tensor):
            return output
        entries = _entries(output)
        tensor = entries.get(self.output)
        if not isinstance(tensor, Tensor):
            hint = did_you_mean(self.output, entries)
            got = f"{type(output).__name__} of {', '.join(entries)}" if entries else type(output).__name__
            raise ValueError(f"{self.target} gives a {got}, in which {self.output!r} is no tensor; set output.{hint}")
        return tensor

    def _refuse_arguments(self, arguments: Mapping[str, inspect.Parameter]) -> None:
        takes_any = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
        for option, carriers in (("inputs", self.inputs), ("masks", self.masks)):
            for modality, argument in carriers.items():
                if argument not in arguments and not takes_any:
                    hint = did_you_mean(argument, arguments)
                    key, has = f"{option}.{modality}", ", ".join(arguments)
                    raise ValueError(f"{key}: the forward of {self.target} has no {argument!r}, only {has}.{hint}")
        carried = [*self.inputs.values(), *self.masks.values()]
        lacking = [name for name in self.required if name not in carried]
        if lacking:
            raise ValueError(f"the forward of {self.target} needs {', '.join(lacking)}, which no input or mask carries")


def _entries(output: Any) -> dict[str, Any]:
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if hasattr(output, "_asdict"):
        return dict(output._asdict())
    if isinstance(output, Sequence):
        return {str(i): value for i, value in enumerate(output)}
    return dict(vars(output)) if hasattr(output, "__dict__") else {}


def imported(target: str) -> Callable[..., nn.Module]:
    """What a dotted name stands for: a class of modules, or a function that is annotated to return one."""
    module, _, attribute = target.rpartition(".")
    if not module or target.startswith("."):
        raise ValueError(f"target must be a dotted name such as package.Class, got {target!r}")
    try:
        package = import_named(module)
    except (Exception, SystemExit) as error:  # a module of a user's may raise anything, and end the program
        raise ValueError(f"target {target!r} cannot be imported: {raised_at(error)}") from error
    if not hasattr(package, attribute):
        raise ValueError(f"target {target!r}: {module} has no {attribute!r}.{did_you_mean(attribute, vars(package))}")
    factory = getattr(package, attribute)
    returned = factory
    if inspect.isfunction(factory):
        try:
            returned = get_type_hints(factory).get("return")
        except Exception:  # an annotation of a user's may name anything
            returned = None
    if not (isinstance(returned, type) and issubclass(returned, nn.Module)) or inspect.isabstract(returned):
        what = f"the class {factory.__qualname__}" if isinstance(factory, type) else f"of type {type(factory).__name__}"
        wanted = "a class of nn.Module, or a function annotated to return one (-> nn.Module)"
        raise ValueError(f"target {target!r} must be {wanted}, and is {what}")
    return cast("Callable[..., nn.Module]", factory)


def build(target: str, options: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The module that a class or function makes of options, and of the number of classes if it takes it by name."""
    factory = imported(target)
    takes = inspect.signature(factory).parameters
    given = {"num_classes": num_classes, **options} if "num_classes" in takes else dict(options)
    if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        for name in given:
            if name not in takes:
                hint = did_you_mean(name, takes)
                raise ValueError(f"options.{name}: {target} has no such argument, only {', '.join(takes)}.{hint}")
    try:
        return factory(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{target} cannot be made with options {given}: {error}") from error
