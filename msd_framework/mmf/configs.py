"""A configuration of MMF as one of ours, and what of it has no place here, key by key."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from msd_framework.config.load import parse
from msd_framework.config.values import resolved
from msd_framework.errors import ConfigError, Problem, did_you_mean
from msd_framework.mmf.models import FAMILIES, family_of, left_sizes, options_of_model, other_options


@dataclass(frozen=True)
class Place:
    """Where a data set of MMF's is among ours.

    Args:
        type: our name of it.
        root: its folder below MMF's data folder, or the folder of the original release if MMF's files are pickles.
        task: how its targets are read.
        splits: our names of its splits, by the files that MMF reads them from.
        usual: the splits that MMF takes for train, val and test if nobody says.
        features: whether MMF takes a detector's features if nobody says.
        store: where those lie, below MMF's data folder.
        metrics: what is measured if nothing of it can be.
    """

    type: str
    root: str
    task: str
    splits: Mapping[str, str]
    usual: tuple[str, str, str]
    features: bool
    store: str
    metrics: tuple[str, ...]


PLACES: Mapping[str, Place] = {
    "hateful_memes": Place(
        "hateful_memes",
        "datasets/hateful_memes",
        "single_label",
        {f"{s}.jsonl": s for s in ("train", "dev_seen", "dev_unseen", "test_seen", "test_unseen", "dev", "test")},
        ("train.jsonl", "dev_unseen.jsonl", "test_unseen.jsonl"),
        False,
        "datasets/hateful_memes/defaults/features/detectron.lmdb",
        ("auroc", "accuracy"),
    ),
    "mmimdb": Place(
        "mm_imdb",
        "datasets/mmimdb",
        "multi_label",
        {f"{s}.jsonl": s for s in ("train", "dev", "test")},
        ("train.jsonl", "dev.jsonl", "test.jsonl"),
        False,
        "datasets/mmimdb/defaults/features/features.lmdb",
        ("f1_macro", "f1_micro"),
    ),
    "visual_entailment": Place(
        "snli_ve",
        "datasets/visual_entailment",
        "single_label",
        {f"snli_ve_{s}.jsonl": s for s in ("train", "dev", "test")},
        ("snli_ve_train.jsonl", "snli_ve_dev.jsonl", "snli_ve_test.jsonl"),
        True,
        "datasets/flickr30k/defaults/features/detectron.lmdb",
        ("accuracy",),
    ),
    "vqa2": Place(
        "vqa2",
        "vqa2",
        "soft_target",
        {f"imdb_{s}.npy": s for s in ("train2014", "val2014", "test2015")},
        ("imdb_train2014.npy", "imdb_val2014.npy", "imdb_test2015.npy"),
        True,
        "datasets/coco/defaults/features/trainval2014.lmdb",
        ("vqa_accuracy",),
    ),
}
"""The data sets of MMF that are ours as well, by MMF's names."""

METRICS = {
    "accuracy": ("accuracy", ("single_label",)),
    "roc_auc": ("auroc", ("single_label", "multi_label")),
    "macro_roc_auc": ("auroc", ("single_label", "multi_label")),
    "binary_ap": ("average_precision", ("single_label", "multi_label")),
    "macro_ap": ("average_precision", ("single_label", "multi_label")),
    "binary_f1": ("f1", ("single_label",)),
    "macro_f1": ("f1_macro", ("single_label",)),
    "micro_f1": ("f1_micro", ("single_label",)),
    "multilabel_macro_f1": ("f1_macro", ("multi_label",)),
    "multilabel_micro_f1": ("f1_micro", ("multi_label",)),
    "vqa_accuracy": ("vqa_accuracy", ("soft_target",)),
}
"""Our names of MMF's metrics, and the tasks that they are for."""

LOSSES = {"single_label": "cross_entropy", "multi_label": "logit_bce", "soft_target": "logit_bce"}
"""MMF's names of what our tasks minimise if nobody says."""

NUM_LABELS = {"hateful_memes": 2, "mm_imdb": 23, "snli_ve": 3, "vqa2": 3129}
"""How many classes each data set usually has."""

IDLE = {
    "training.find_unused_parameters": "not needed: the objective is wrapped, not the student",
    "training.experiment_name": "name the run by `name`",
    "training.tensorboard": "not needed: a run writes TensorBoard's files, and metrics.jsonl, wherever TensorBoard is installed",
    "training.logger_level": "not needed: a run says little, and writes all numbers to metrics.jsonl",
    "training.should_not_log": "not needed: a run says little, and writes all numbers to metrics.jsonl",
    "training.checkpoint_interval": "give checkpoint.every_updates to the run; if left out, there is one at every validation",
    "training.evaluate_metrics": "not needed: metrics are computed at every validation",
    "checkpoint.pretrained_state_mapping": "not needed: model.pretrained finds the names by itself",
    "checkpoint.resume_zoo": "download that model, and convert it: `msd convert-mmf checkpoint=...`",
    "checkpoint.resume_file": "convert it: `msd convert-mmf checkpoint=...`",
    "env.save_dir": "give env.save_dir to the run",
    "env.data_dir": "give it as root=FOLDER",
}
"""Why some keys have no place here."""


class Read(Mapping[str, Any]):
    """A nest of options that knows which of them were looked at."""

    def __init__(self, values: Mapping[str, Any], at: str = "", used: set[str] | None = None):
        self.values_, self.at, self.used = values, at, set() if used is None else used

    def __getitem__(self, key: str) -> Any:
        value, path = self.values_[key], f"{self.at}{key}"
        if isinstance(value, Mapping) and value:
            return Read(value, f"{path}.", self.used)
        self.used.add(path)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)

    def find(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path."""
        found: Any = self
        for key in path.split("."):
            if not isinstance(found, Mapping) or key not in found:
                return default
            found = found[key]
        return default if found is None else found

    def unread(self) -> dict[str, Any]:
        """What nobody looked at, by its dotted path."""
        found: dict[str, Any] = {}
        for key, value in self.values_.items():
            path = f"{self.at}{key}"
            if isinstance(value, Mapping) and value:
                found |= Read(value, f"{path}.", self.used).unread()
            elif path not in self.used:
                found[path] = value
        return found


@dataclass
class Converted:
    """A configuration of ours.

    Args:
        values: what our YAML says.
        left: what was not carried over: a key of MMF's, and why.
    """

    values: dict[str, Any] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def read_project(path: str, mmf: str | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """A YAML of MMF over what it includes, and the includes that are nowhere.

    An include is looked for in MMF's folder first, as MMF does, then beside the file that names it.

    Args:
        path: the YAML.
        mmf: the folder that holds `configs/`; if left out, that of the MMF that can be imported or that the file lies in.

    Raises:
        ConfigError: if a file cannot be read, or includes itself.
    """
    file, lost = Path(path).expanduser(), dict[str, str]()
    return _filled_in(_merged(file, _places(mmf, file), lost, ())), lost


def usual_values(dataset: str | None, mmf: str | None = None, near: str = "") -> dict[str, Any]:
    """MMF's own defaults, those of a data set included, if its source is at hand.

    Args:
        dataset: MMF's name of the data set.
        mmf: MMF's folder, if it is told.
        near: a file that may lie in it.
    """
    names = ["configs/defaults.yaml", *([f"configs/datasets/{dataset}/defaults.yaml"] if dataset else [])]
    found = [place / name for place in _places(mmf, Path(near))[:1] for name in names]
    merged = OmegaConf.merge(OmegaConf.create(), *(parse(file).values for file in found if file.is_file()))
    values = OmegaConf.to_container(merged, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _places(mmf: str | None, file: Path) -> list[Path]:
    """Folders in which MMF looks for what is included."""
    spec = None if mmf else importlib.util.find_spec("mmf")
    installed = [Path(p) for p in spec.submodule_search_locations or ()] if spec else []
    places = [Path(mmf).expanduser()] if mmf else [*installed, *(p / "mmf" for p in file.resolve().parents)]
    found = [p for p in places if (p / "configs").is_dir()]
    if mmf and not found:
        raise ConfigError(Problem("mmf", f"{mmf} holds no `configs/`; wanted the folder `mmf` of MMF's source."))
    return found


def _filled_in(merged: dict[str, Any]) -> dict[str, Any]:
    """Options with their interpolations filled in, where all of them can be."""
    try:
        values = resolved(merged)
    except OmegaConfBaseException:
        return merged
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _merged(file: Path, places: Sequence[Path], lost: dict[str, str], stack: tuple[Path, ...]) -> dict[str, Any]:
    if file in stack:
        raise ConfigError(f"{file}: includes itself, through {', '.join(p.name for p in stack)}.")
    if len(stack) == 0 and not file.is_file():
        raise ConfigError(Problem("config", f"there is no file {file}; wanted a YAML of MMF's."))
    values = dict(parse(file).values)
    includes = values.pop("includes", None) or []
    if not isinstance(includes, list):
        raise ConfigError(f"{file}: includes must be a list of files, got {includes!r}.")
    under: Any = OmegaConf.create()
    for name in includes:
        found = next((p for p in [*(place / str(name) for place in places), file.parent / str(name)] if p.is_file()), None)
        if found is None:
            lost[f"includes: {name}"] = "is not here; give mmf=FOLDER, the folder `mmf` of MMF's source"
        else:
            under = OmegaConf.merge(under, _merged(found.resolve(), places, lost, (*stack, file)))
    merged = OmegaConf.to_container(OmegaConf.merge(under, values), resolve=False)
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def convert(
    values: Mapping[str, Any],
    dataset: str | None = None,
    model: str | None = None,
    root: str = "data",
    usual: Mapping[str, Any] | None = None,
) -> Converted:
    """A configuration of MMF as one of ours.

    Args:
        values: what MMF's YAML says, with its includes.
        dataset: MMF's name of the data set, if the YAML has several.
        model: MMF's name of the model, if the YAML has several.
        root: MMF's data folder.
        usual: MMF's own defaults; a key that says the same is not mentioned.

    Raises:
        ConfigError: if its data set or its model is none of ours.
    """
    read, out = Read(values), Converted()
    name = dataset_of(read, dataset)
    family = family_of({}, read, model)
    place, own = PLACES[name], options_of_model(family, read)
    out.left |= other_options(family, own) | left_sizes(family, own)
    settings = Read((values.get("dataset_config") or {}).get(name) or {}, f"dataset_config.{name}.", read.used)
    _model(out, family, own, place)
    _data(out, family, settings, place, root)
    _evaluation(out, read, place, name)
    _training(out, read)
    said = Read(usual or {}).unread()
    for key, value in read.unread().items():
        if key in said and said[key] == value:
            continue
        reason = next((why for idle, why in IDLE.items() if key == idle or key.startswith(f"{idle}.")), None)
        out.left.setdefault(key, f"{value!r}: {reason or 'has no counterpart here'}")
    return out


def dataset_of(values: Mapping[str, Any], given: str | None = None) -> str:
    """MMF's name of the data set that a configuration of MMF's is about.

    Raises:
        ConfigError: if there is none of ours, or more than one.
    """
    written = values.get("datasets")
    names = (
        [given] if given else [str(written)] if isinstance(written, str) else list(written or values.get("dataset_config") or ())
    )
    known = [name for name in names if name in PLACES]
    if len(known) != 1:
        told = ", ".join(names) or "none"
        hint = did_you_mean(names[0], PLACES) if names else ""
        raise ConfigError(Problem("dataset", f"wanted one of {', '.join(PLACES)}, and the YAML has {told}; say which.{hint}"))
    return known[0]


def _model(out: Converted, family: str, own: Mapping[str, Any], place: Place) -> None:
    out.values["model"] = FAMILIES[family].begun(own)
    classes = own.get("num_labels")
    if classes == 24 and place.type == "mm_imdb":
        out.left[f"model_config.{family}.num_labels"] = "24: ours has the 23 genres, and no output for <unk>"
    elif classes not in (None, NUM_LABELS[place.type]):
        out.left[f"model_config.{family}.num_labels"] = f"{classes!r}: ours has as many outputs as the data set has classes"
    wanted = LOSSES[place.task]
    names = [loss.get("type") if isinstance(loss, Mapping) else loss for loss in own.get("losses") or [wanted]]
    if names != [wanted]:
        out.left[f"model_config.{family}.losses"] = (
            f"{names}: this data set is learned with {wanted}; see `msd components task_losses`"
        )


def _data(out: Converted, family: str, settings: Read, place: Place, root: str) -> None:
    at = settings.at.removesuffix(".")
    data: dict[str, Any] = {"dataset": {"type": place.type, "root": f"{root}/{place.root}"}}
    if place.type == "snli_ve":
        data["dataset"]["images"] = "../../../flickr30k/defaults/images/flickr30k_images"
    if place.type == "vqa2":
        out.left[f"{at}.annotations"] = "imdb_*.npy: pickles of MMF's; data.dataset.root is the folder of the original release"
    data["processors"] = {
        "text": _tokenizer(out, settings),
        "image": _regions(out, family, settings, place, root)
        if settings.find("use_features", place.features)
        else _pixels(out, settings),
    }
    if family in ("late_fusion", "concat_bert", "mmbt") and data["processors"]["image"]["type"] == "region_features":
        data["processors"]["image"] = _pixels(out, settings)
        out.left[f"{at}.use_features"] = "this model reads pixels unless direct_features_input is set"
    settings.find("use_images"), settings.find("return_features_info")
    for use, theirs, usual in zip(("train", "validation", "test"), ("train", "val", "test"), place.usual):
        files = settings.find(f"annotations.{theirs}", [usual])
        files = [files] if isinstance(files, str) else list(files)
        split = place.splits.get(PurePosixPath(files[0]).name)
        if split is None:
            out.left[f"{at}.annotations.{theirs}"] = f"{files[0]!r}: is none of {', '.join(place.splits)}"
        else:
            data[use] = split
        if len(files) > 1:
            out.left[f"{at}.annotations.{theirs}"] = f"{files}: a run takes one split for each use; the first is taken"
    if place.type == "vqa2":
        data.pop("test", None)  # it has no answers to be reported on
        out.left[f"{at}.annotations.test"] = "its answers are not public; run_type=predict data.test=test2015 writes the submission"
    out.values["data"] = data


def _tokenizer(out: Converted, settings: Read) -> dict[str, Any]:
    at = f"{settings.at}processors.text_processor"
    kind = settings.find("processors.text_processor.type", "vocab")
    params = settings.find("processors.text_processor.params", {})
    if kind != "bert_tokenizer":
        out.left[at] = f"{kind}: a vocabulary of words with vectors; the tokenizer of ours learns one from the training texts"
        return {"type": "tokenizer", "max_length": int(params.get("max_length", 14)) + 2}
    tokenizer = params.get("tokenizer_config") or {}
    if params.get("mask_probability"):
        out.left[f"{at}.params.mask_probability"] = f"{params['mask_probability']}: words are masked for pretraining only"
    name = tokenizer.get("type", "bert-base-uncased")
    lower = (tokenizer.get("params") or {}).get("do_lower_case")
    if lower is not None and bool(lower) != ("uncased" in name):
        key = f"{at}.params.tokenizer_config.params.do_lower_case"
        out.left[key] = f"{lower!r}: {name} says itself whether letters are made small"
    return {
        "type": "tokenizer",
        "name": name,
        "max_length": params.get("max_seq_length", 128),
    }


def _regions(out: Converted, family: str, settings: Read, place: Place, root: str) -> dict[str, Any]:
    found = {use: settings.find(f"features.{use}") for use in ("train", "val", "test")}
    stores = {str(f if isinstance(f, str) else f[0]) for f in found.values() if f}
    chosen = place.store
    if stores:
        first = found["train"] or next(f for f in found.values() if f)
        first = str(first if isinstance(first, str) else first[0])
        chosen = next((f"{top}{first}" for top in ("datasets/",) if not first.startswith(top)), first)
    if len(stores) > 1:
        out.left[f"{settings.at}features"] = f"{sorted(stores)}: a run reads one; `msd convert-features` makes one store of them"
    settings.find("processors.bbox_processor.type"), settings.find("processors.bbox_processor.params.max_length")
    boxes = settings.find("processors.transformer_bbox_processor")
    for key in () if boxes is None else ("bbox_key", "image_width_key", "image_height_key"):
        settings.find(f"processors.transformer_bbox_processor.params.{key}")
    settings.find("processors.transformer_bbox_processor.type")
    with_boxes = {"boxes": True} if family == "vilbert" else {}
    return {
        "type": "region_features",
        "folder": f"lmdb:{root}/{chosen}",
        "max_regions": settings.find("max_features", 100),
        **with_boxes,
    }


def _pixels(out: Converted, settings: Read) -> dict[str, Any]:
    at = "processors.image_processor"
    kind, steps = settings.find(f"{at}.type", "torchvision_transforms"), settings.find(f"{at}.params.transforms") or []
    found = {s if isinstance(s, str) else s["type"]: {} if isinstance(s, str) else s.get("params") or {} for s in steps}
    if kind != "torchvision_transforms":
        out.left[f"{settings.at}{at}"] = f"{kind}: ours is `pixels`"
    norm, side = found.get("Normalize", MMF_PIXELS), (found.get("CenterCrop") or found.get("Resize") or {}).get("size", 224)
    if "CenterCrop" in found or not found:
        out.left[f"{settings.at}{at}.params.transforms"] = "Resize, CenterCrop: ours resizes the whole image and cuts nothing off"
    other = sorted(found.keys() - {"Resize", "CenterCrop", "ToTensor", "GrayScaleTo3Channels", "Normalize"})
    if other:
        out.left[f"{settings.at}{at}.params.transforms"] = f"{', '.join(other)}: ours has augment: crop_flip only"
    size = side if isinstance(side, int) else list(side)
    return {"type": "pixels", "size": size, "mean": list(norm["mean"]), "std": list(norm["std"])}


MMF_PIXELS = {"mean": [0.46777044, 0.44531429, 0.40661017], "std": [0.12221994, 0.12145835, 0.14380469]}
"""What MMF takes off an image's pixels and divides them by, for every data set of these."""


def _evaluation(out: Converted, read: Read, place: Place, dataset: str) -> None:
    metrics: list[str] = []
    for metric in read.find("evaluation.metrics", []):
        theirs = str(metric["type"] if isinstance(metric, Mapping) else metric)
        ours, tasks = METRICS.get(theirs, ("", ()))
        if place.task in tasks:
            metrics += [ours] if ours not in metrics else []
        else:
            out.left[f"evaluation.metrics: {theirs}"] = (
                f"is no metric of ours for {place.task}; `msd components metrics` lists them"
            )
    metrics = metrics or list(place.metrics)
    criteria = str(read.find("training.early_stop.criteria", ""))
    monitored = METRICS.get(criteria.removeprefix(f"{dataset}/"), ("", ()))[0]
    if read.find("training.early_stop.minimize", False):
        out.left["training.early_stop.minimize"] = "True: every metric knows itself whether less is better"
    if monitored in metrics:
        metrics = [monitored, *(m for m in metrics if m != monitored)]  # the first one chooses the best checkpoint
    elif criteria:
        out.left["training.early_stop.criteria"] = f"{criteria!r}: is none of {', '.join(metrics)}; {metrics[0]} chooses the best"
    every = read.find("training.evaluation_interval", 1000)
    out.values["evaluation"] = {"metrics": metrics, "every_updates": every}
    patience = read.find("training.early_stop.patience", 4000)
    if read.find("training.early_stop.enabled", False):
        out.values["callbacks"] = [{"type": "early_stopping", "patience": max(1, patience // every)}]


def _training(out: Converted, read: Read) -> None:
    training: dict[str, Any] = {"batch_size": read.find("training.batch_size", 512)}
    epochs, updates = read.find("training.max_epochs"), read.find("training.max_updates", 22000)
    training |= {"max_epochs": epochs} if epochs else {"max_updates": updates}
    accumulate = read.find("training.update_frequency", 1)
    training |= {"accumulate": accumulate, "batch_size": training["batch_size"] * accumulate} if accumulate != 1 else {}
    clips, norm = read.find("training.clip_gradients", False), read.find("training.max_grad_l2_norm", 0.25)
    training["clip_norm"] = norm if clips else None
    if read.find("training.fp16", False):
        training["precision"] = "fp16"
    if (log := read.find("training.log_interval", 50)) != 50:
        training["log_every"] = log
    out.values["training"] = training
    if (seed := read.find("training.seed", -1)) >= 0:
        out.values["seed"] = seed
    workers = read.find("training.num_workers")
    out.values["data"] |= {"workers": workers} if workers else {}
    _optimizer(out, read)
    _scheduler(out, read, None if epochs else updates)


def _optimizer(out: Converted, read: Read) -> None:
    kind, params = read.find("optimizer.type", "adam_w"), read.find("optimizer.params", {})
    if kind not in ("adam_w", "adamw", "AdamW"):
        out.left["optimizer.type"] = f"{kind!r}: adamw is taken; `msd components optimizers` lists ours"
    found = {
        ours: params[theirs]
        for ours, theirs in (("lr", "lr"), ("eps", "eps"), ("weight_decay", "weight_decay"))
        if theirs in params
    }
    if betas := params.get("betas"):
        found |= {"beta1": betas[0], "beta2": betas[1]}
    out.values["optimizer"] = {"type": "adamw", **{key: float(value) for key, value in found.items()}}


def _scheduler(out: Converted, read: Read, updates: int | None) -> None:
    kind, params = read.find("scheduler.type"), read.find("scheduler.params", {})
    ours = {"warmup_linear": "warmup_linear", "warmup_cosine": "warmup_cosine"}.get(str(kind))
    if not read.find("training.lr_scheduler", False) or kind is None:
        ours, params = None, {}
    elif ours is None:
        out.left["scheduler.type"] = f"{kind!r}: the learning rate stays as it is; `msd components schedulers` lists ours"
    warmup, steps = params.get("num_warmup_steps", 0), params.get("num_training_steps", updates)
    out.values["scheduler"] = {"type": ours, "warmup": warmup} if ours else "constant"
    if ours and isinstance(steps, int) and updates and steps != updates:
        out.left["scheduler.params.num_training_steps"] = f"{steps}: ours falls to 0 at the last update, {updates}"
