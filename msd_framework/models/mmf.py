"""Any model that is registered in MMF, as teacher or student; MMF is imported when one is built, and nowhere else."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from msd_framework.components.registry import raised_at
from msd_framework.errors import did_you_mean
from msd_framework.models.base import MODELS, MultimodalModel
from msd_framework.models.pretrained.adapters import blanked
from msd_framework.models.pretrained.published import read_published
from msd_framework.models.pretrained.weights import load_exactly
from msd_framework.models.vilbert import with_area
from msd_framework.ranges import positive
from msd_framework.structures import Inputs, ModalityInputs, ModalityKind, ModelOutput, Setting

HOW_TO_INSTALL = (
    "the model type mmf needs MMF, which is not installed: `git clone https://github.com/facebookresearch/mmf`, put that folder on "
    "PYTHONPATH, and install what docs/mmf.md lists (the mmf of PyPI lacks its YAML files)"
)

USUAL_FIELDS = {"image": "image_feature_0", "text": "input_ids"}  # what carries each modality if nobody says
# the fields that MMF's data sets fill, and what they hold; any other field gets the values as they are
KINDS: Mapping[str, ModalityKind] = {"input_ids": "tokens", "image_feature_0": "features", "image": "pixels"}
Patches: TypeAlias = Mapping[tuple[type, str], Callable[..., Any]]  # methods by the class that they are of, and their names


@MODELS.register("mmf")
class MmfModel(MultimodalModel):
    r"""A model of MMF (Singh et al., 2020), numerically what MMF computes: it gets a SampleList, and its ``scores`` are the logits.

    A hidden modality is what MMF knows of hiding: words become [PAD] and leave ``input_mask``, regions become zeros and leave
    ``max_features``, pixels become zeros, for which MMF has no mask. A text that is left out is [CLS] [SEP]; an image, one region
    that does not count, or zeros. ``targets`` are not handed over, and MMF's own losses are not computed.

    Args:
        name: what it is registered as in MMF, such as visual_bert.
        num_classes: C; MMF's `num_labels`, and the `out_dim` of its classifiers, unless `config` says them.
        config: its part of an MMF configuration, `model_config.<name>`, written over MMF's own defaults for it.
        inputs: the field of the SampleList of each modality; `{text: input_ids, image: image_feature_0}` if left out.
        output: the entry of what it returns that holds the logits [B, C].
        num_regions: regions that every image is filled up to with zeros, where the model wants a fixed number.
        dataset_name: what the SampleList says where the examples come from.
        pretrained: a file of weights as MMF saves them.
        pad_id: the id of [PAD], which stands wherever no word is.
        cls_id: the id of [CLS], used only where the text is left out.
        sep_id: the id of [SEP], used only where the text is left out.
        feature_size: features a region, used only where the image is left out.
        image_size: height and width, used only where an image of pixels is left out.
        image_channels: its channels.
    """

    reads = frozenset({"name", "pretrained"})
    no_text: Tensor

    def __init__(
        self,
        name: str,
        num_classes: int,
        config: dict[str, Any] | None = None,
        inputs: dict[str, str] | None = None,
        output: str = "scores",
        num_regions: int | None = None,
        dataset_name: str = "msd",
        pretrained: str | None = None,
        pad_id: int = 0,
        cls_id: int = 101,
        sep_id: int = 102,
        feature_size: int = 2048,
        image_size: int | list[int] = 224,
        image_channels: int = 3,
    ):
        super().__init__()
        positive(num_classes=num_classes, num_regions=num_regions, feature_size=feature_size)
        self.name, self.num_classes, self.output, self.num_regions = name, num_classes, output, num_regions
        self.pad_id, self.dataset_name = pad_id, dataset_name
        self.fields = fields_of(inputs)
        self.modalities = tuple(self.fields)
        self.register_buffer("no_text", torch.tensor([cls_id, sep_id]), persistent=False)
        height, width = [image_size] * 2 if isinstance(image_size, int) else image_size
        self.absent = {"image_feature_0": (1, feature_size), "image": (image_channels, height, width)}
        self.sample_list = imported("mmf.common.sample").SampleList
        self.model, self.patches = build(name, config or {}, num_classes)
        if pretrained is not None:
            load_tensors(self.model, read_published(pretrained).tensors, pretrained)

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(fields_of(options.get("inputs")))

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        problems = [] if importlib.util.find_spec("mmf") else [f"type: {HOW_TO_INSTALL}."]
        for modality, field in fields_of(options.get("inputs")).items():
            kind, wanted = setting.kinds.get(modality), KINDS.get(field)
            if kind and wanted and kind != wanted:
                problems.append(f"inputs.{modality}: {field!r} carries {wanted}, and the processor of {modality!r} makes {kind}.")
        return problems

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**options, "pretrained": None}

    def forward(self, inputs: Inputs) -> ModelOutput:
        with swapped(self.patches):
            output = self.model(self.sample_list(self._sample(self.own(inputs))))
        scores = output.get(self.output) if isinstance(output, Mapping) else None
        if not isinstance(scores, Tensor):
            got = ", ".join(map(str, output)) if isinstance(output, Mapping) else type(output).__name__
            raise ValueError(f"MMF's {self.name} gives {got or 'nothing'}, in which {self.output!r} is no tensor; set output")
        if scores.ndim != 2 or scores.shape[1] != self.num_classes:
            shape = f"{self.output!r} of MMF's {self.name} has the shape {list(scores.shape)}, wanted [B, {self.num_classes}]"
            raise ValueError(f"{shape}; say in config how many classes there are")
        return ModelOutput(scores)  # [B, C]

    def _sample(self, own: Mapping[str, ModalityInputs]) -> dict[str, Any]:
        like = next(iter(own.values())).mask
        sample: dict[str, Any] = {}
        for modality, field in self.fields.items():
            x = blanked(own[modality] if modality in own else self._absent(field, like), self.pad_id)
            if field == "input_ids":  # `text` is what bags of words read
                segments = x.extras.get("segments", torch.zeros_like(x.values))
                sample |= {field: x.values, "input_mask": x.mask.long(), "segment_ids": segments, "text": x.values}
            elif field == "image_feature_0":
                sample |= regions(x, self.num_regions)
            else:
                sample[field] = x.values
        return sample | {"dataset_name": self.dataset_name, "dataset_type": "train" if self.training else "val"}

    def _absent(self, field: str, like: Tensor) -> ModalityInputs:
        if field == "input_ids":
            ids = self.no_text.expand(len(like), -1)  # [B, 2]
            return ModalityInputs(ids, torch.ones_like(ids, dtype=torch.bool))
        if field not in self.absent:
            raise ValueError(f"MMF's {self.name} needs {field!r}, which was left out; hide it by another masker, such as attention")
        dtype = next(self.parameters()).dtype
        zeros = torch.zeros(len(like), *self.absent[field], dtype=dtype, device=like.device)
        return ModalityInputs(zeros, torch.zeros(len(like), 1, dtype=torch.bool, device=like.device))


def regions(image: ModalityInputs, num_regions: int | None = None) -> dict[str, Any]:
    """The fields of an image's regions [B, L, D], those that are there in front, as MMF counts them."""
    front = (~image.mask).long().argsort(dim=1, stable=True)[..., None]  # [B, L, 1]
    boxes = image.extras.get("boxes")
    whole = image.values.new_tensor([0.0, 0.0, 1.0, 1.0, 1.0])
    places = whole.expand(*image.mask.shape, 5) if boxes is None else with_area(boxes).to(image.values.dtype)  # [B, L, 5]
    places = places.masked_fill(~image.mask[..., None], 0.0)
    features, boxes = image.values.take_along_dim(front, 1), places.take_along_dim(front, 1)
    if num_regions is not None:
        more = num_regions - features.shape[1]
        if more < 0:
            raise ValueError(f"an image has {features.shape[1]} regions, and num_regions is {num_regions}")
        features, boxes = pad(features, (0, 0, 0, more)), pad(boxes, (0, 0, 0, more))
    return {"image_feature_0": features, "image_info_0": {"max_features": image.mask.sum(1), "bbox": boxes}}


def imported(module: str) -> Any:
    if importlib.util.find_spec("mmf") is None:
        raise ValueError(HOW_TO_INSTALL)
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package of that age may raise anything beside newer ones
        reason = f"{module} cannot be imported ({raised_at(error)}); docs/mmf.md says what it needs"
        raise ValueError(f"MMF is there, and {reason}") from error


def build(name: str, config: Mapping[str, Any], num_classes: int) -> tuple[nn.Module, Patches]:
    """A model of MMF with its own first weights, and the methods of transformers that it runs with."""
    imported("mmf.models")
    registry = imported("mmf.common.registry").registry
    cls = registry.get_model_class(name)
    if cls is None:
        names = sorted(registry.mapping["model_name_mapping"])
        raise ValueError(f"MMF has no model {name!r}; it has {', '.join(names)}.{did_you_mean(name, names)}")
    before = bert_methods()
    try:
        model = cls(configured(cls, name, config, num_classes))
        model.build()
        patches = {place: method for place, method in bert_methods().items() if method is not before.get(place)}
    except Exception as error:  # nothing narrower: downloads, configurations and old code may raise anything
        raise ValueError(f"MMF cannot build {name} with config {dict(config)}: {raised_at(error)}") from error
    finally:
        _set(before)
    model.is_pretrained = True  # it returns what it computes, and no losses
    model.is_pl_enabled = True  # it leaves its inputs on the device that they are on
    return model, patches


def bert_methods() -> Patches:
    """The methods of transformers' BERT that MMF replaces for the whole process when it builds some of its models."""
    layers = sys.modules.get("mmf.modules.hf_layers")
    methods = {}
    for owner, attribute in (name.split(".") for name in getattr(layers, "patch_functions", ())):
        cls = getattr(layers, owner)
        if hasattr(cls, attribute):
            methods[cls, attribute] = getattr(cls, attribute)
    return methods


@contextmanager
def swapped(patches: Patches) -> Iterator[None]:
    """Runs with other methods and puts back those that were there, so that the other models of a run keep theirs."""
    before = {(owner, attribute): getattr(owner, attribute) for owner, attribute in patches}
    try:
        _set(patches)
        yield
    finally:
        _set(before)


def _set(methods: Patches) -> None:
    for (owner, attribute), method in methods.items():
        setattr(owner, attribute, method)


def configured(cls: Any, name: str, config: Mapping[str, Any], num_classes: int) -> Any:
    """MMF's defaults for a model, what follows from the number of classes, and what a user says, each over the one before."""
    from omegaconf import OmegaConf

    path = cls.config_path()
    whole = OmegaConf.create() if path is None else imported("mmf.utils.configuration").load_yaml(path)
    usual: Any = OmegaConf.to_container(whole)
    defaults = (usual.get("model_config") or {}).get(name) or {}
    known: dict[str, Any] = {"num_labels": num_classes}
    if "training_head_type" in defaults:
        known["training_head_type"] = "classification"
    for key, part in defaults.items():
        if isinstance(part, Mapping) and "out_dim" in (part.get("params") or {}) and "classifier" in key:
            known[key] = {"params": {"out_dim": num_classes}}
    return OmegaConf.merge(whole, {"model_config": {name: known}}, {"model_config": {name: dict(config)}}).model_config[name]


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Gives a model of MMF its weights; ``position_ids``, which some versions of transformers save, are counted anew."""
    rename = getattr(model, "format_state_key", lambda name: name)
    own = {n: t for n, t in model.state_dict().items() if n.endswith("position_ids")}
    theirs = {rename(n): t for n, t in tensors.items() if not n.endswith("position_ids")}
    load_exactly(model, own | theirs, source)


def fields_of(inputs: Mapping[str, str] | None) -> dict[str, str]:
    return dict(sorted((inputs or USUAL_FIELDS).items()))
