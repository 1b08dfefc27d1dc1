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
    """A data set of MMF's among ours."""

    type: str  # our name of it
    root: str  # its folder below MMF's data folder, or the folder of the original release if MMF's files are pickles
    task: str  # how its targets are read
    store: str  # where a detector's features lie, below MMF's data folder
    metrics: tuple[str, ...]  # what is measured where none of MMF's metrics is ours
    annotations: str = "{}.jsonl"  # the name of MMF's file of a split, with `{}` in place of our name of the split
    splits: tuple[str, ...] = ("train", "dev", "test")  # our names of its splits
    usual: tuple[str, str, str] = ("train", "dev", "test")  # those that MMF takes for train, val and test by default
    features: bool = False  # whether MMF takes a detector's features by default

    @property
    def files(self) -> dict[str, str]:
        """Our names of the splits, by MMF's files."""
        return {self.annotations.format(split): split for split in self.splits}


# the data sets of MMF that are ours as well, by MMF's names
PLACES: Mapping[str, Place] = {
    "hateful_memes": Place(
        type="hateful_memes",
        root="datasets/hateful_memes",
        task="single_label",
        store="datasets/hateful_memes/defaults/features/detectron.lmdb",
        metrics=("auroc", "accuracy"),
        splits=("train", "dev_seen", "dev_unseen", "test_seen", "test_unseen", "dev", "test"),
        usual=("train", "dev_unseen", "test_unseen"),
    ),
    "mmimdb": Place(
        type="mm_imdb",
        root="datasets/mmimdb",
        task="multi_label",
        store="datasets/mmimdb/defaults/features/features.lmdb",
        metrics=("f1_macro", "f1_micro"),
    ),
    "visual_entailment": Place(
        type="snli_ve",
        root="datasets/visual_entailment",
        task="single_label",
        store="datasets/flickr30k/defaults/features/detectron.lmdb",
        metrics=("accuracy",),
        annotations="snli_ve_{}.jsonl",
        features=True,
    ),
    "vqa2": Place(
        type="vqa2",
        root="vqa2",
        task="soft_target",
        store="datasets/coco/defaults/features/trainval2014.lmdb",
        metrics=("vqa_accuracy",),
        annotations="imdb_{}.npy",
        splits=("train2014", "val2014", "test2015"),
        usual=("train2014", "val2014", "test2015"),
        features=True,
    ),
}

# our names of MMF's metrics, and the tasks that they are for
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

# MMF's names of what our tasks minimise if nobody says
LOSSES = {"single_label": "cross_entropy", "multi_label": "logit_bce", "soft_target": "logit_bce"}
NUM_LABELS = {"hateful_memes": 2, "mm_imdb": 23, "snli_ve": 3, "vqa2": 3129}  # classes that each data set usually has

# why some keys have no place here
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

# what MMF takes off an image's pixels and divides them by, for every data set of these
MMF_PIXELS = {"mean": [0.46777044, 0.44531429, 0.40661017], "std": [0.12221994, 0.12145835, 0.14380469]}


class Options(Mapping[str, Any]):
    """A nest of options that notes which of them were read.

    Args:
        nest: the options.
        at: how their dotted paths begin.
        read: the paths that were read; nests below share it.
    """

    def __init__(self, nest: Mapping[str, Any], at: str = "", read: set[str] | None = None):
        self.nest, self.at, self.read = nest, at, set() if read is None else read

    def __getitem__(self, key: str) -> Any:
        value, path = self.nest[key], f"{self.at}{key}"
        if isinstance(value, Mapping) and value:
            return Options(value, f"{path}.", self.read)
        self.read.add(path)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.nest)

    def __len__(self) -> int:
        return len(self.nest)

    def find(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path."""
        value: Any = self
        for key in path.split("."):
            if not isinstance(value, Mapping) or key not in value:
                return default
            value = value[key]
        return default if value is None else value

    def ignore(self, *paths: str) -> None:
        """Counts options as read which say what ours do anyway."""
        self.read.update(f"{self.at}{path}" for path in paths)

    def unread(self) -> dict[str, Any]:
        """The values that were not read, by their dotted paths."""
        rest: dict[str, Any] = {}
        for key, value in self.nest.items():
            path = f"{self.at}{key}"
            if isinstance(value, Mapping) and value:
                rest |= Options(value, f"{path}.", self.read).unread()
            elif path not in self.read:
                rest[path] = value
        return rest


@dataclass
class Converted:
    """A configuration of ours."""

    values: dict[str, Any] = field(default_factory=dict)  # what our YAML says
    left: dict[str, str] = field(default_factory=dict)  # what was not carried over: a key of MMF's, and why


def read_project(path: str, mmf: str | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """A YAML of MMF over what it includes, and the includes that are nowhere.

    An include is looked for in MMF's folder first, as MMF does, then beside the file that names it.

    Args:
        path: the YAML.
        mmf: the folder that holds `configs/`; if left out, that of the MMF that can be imported or that the file lies in.
    """
    file, lost = Path(path).expanduser(), dict[str, str]()
    return filled_in(_with_includes(file, _places(mmf, file), lost)), lost


def usual_values(dataset: str | None, mmf: str | None = None, near: str = "") -> dict[str, Any]:
    """MMF's own defaults, those of a data set included, if its source is at hand: in `mmf`, installed, or above a file."""
    values: dict[str, Any] = {}
    for place in _places(mmf, Path(near))[:1]:
        for file in (place / "configs/defaults.yaml", place / f"configs/datasets/{dataset}/defaults.yaml"):
            if file.is_file():
                values = _merged_values(values, parse(file).values)
    return values


def filled_in(config: Any) -> dict[str, Any]:
    """A configuration with its interpolations filled in, or as it is where one of them leads nowhere."""
    try:
        values = resolved(config)
    except OmegaConfBaseException:
        return dict(config)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}


def _merged_values(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = OmegaConf.to_container(OmegaConf.merge(under, over), resolve=False)
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def _places(mmf: str | None, file: Path) -> list[Path]:
    """Folders in which MMF looks for what is included."""
    if mmf:
        folder = Path(mmf).expanduser()
        if not (folder / "configs").is_dir():
            raise ConfigError(Problem("mmf", f"{mmf} holds no `configs/`; wanted the folder `mmf` of MMF's source."))
        return [folder]
    spec = importlib.util.find_spec("mmf")
    installed = list(map(Path, spec.submodule_search_locations or ())) if spec else []
    around = [folder / "mmf" for folder in file.resolve().parents]
    return [folder for folder in [*installed, *around] if (folder / "configs").is_dir()]


def _with_includes(file: Path, places: Sequence[Path], lost: dict[str, str], stack: tuple[Path, ...] = ()) -> dict[str, Any]:
    if file in stack:
        raise ConfigError(f"{file}: includes itself, through {', '.join(p.name for p in stack)}.")
    if not stack and not file.is_file():
        raise ConfigError(Problem("config", f"there is no file {file}; wanted a YAML of MMF's."))
    values = dict(parse(file).values)
    includes = values.pop("includes", None) or []
    if not isinstance(includes, list):
        raise ConfigError(f"{file}: includes must be a list of files, got {includes!r}.")
    under: dict[str, Any] = {}
    for name in includes:
        candidates = [folder / str(name) for folder in (*places, file.parent)]
        included = next((path for path in candidates if path.is_file()), None)
        if included is None:
            lost[f"includes: {name}"] = "is not here; give mmf=FOLDER, the folder `mmf` of MMF's source"
        else:
            under = _merged_values(under, _with_includes(included.resolve(), places, lost, (*stack, file)))
    return _merged_values(under, values)


def convert(
    values: Mapping[str, Any],
    dataset: str | None = None,  # MMF's name of the data set, if the YAML has several
    model: str | None = None,  # likewise of the model
    root: str = "data",  # MMF's data folder
    usual: Mapping[str, Any] | None = None,  # MMF's own defaults; a key that says the same is not mentioned
) -> Converted:
    """A configuration of MMF, with its includes, as one of ours."""
    options, out = Options(values), Converted()
    name = dataset_of(options, dataset)
    family = family_of({}, options, model)
    place, own = PLACES[name], options_of_model(family, options)
    out.left |= other_options(family, own) | left_sizes(family, own)
    settings = Options((values.get("dataset_config") or {}).get(name) or {}, f"dataset_config.{name}.", options.read)
    _model(out, family, own, place)
    _data(out, family, settings, place, root)
    _evaluation(out, options, place, name)
    _training(out, options)
    defaults = Options(usual or {}).unread()
    for key, value in options.unread().items():
        if key in defaults and defaults[key] == value:
            continue
        reasons = [why for idle, why in IDLE.items() if f"{key}.".startswith(f"{idle}.")]
        out.left.setdefault(key, f"{value!r}: {reasons[0] if reasons else 'has no counterpart here'}")
    return out


def dataset_of(values: Mapping[str, Any], given: str | None = None) -> str:
    """MMF's name of the one data set of ours that a configuration of MMF's is about."""
    written = values.get("datasets") or values.get("dataset_config") or ()
    names = [given] if given else [written] if isinstance(written, str) else list(written)
    known = [name for name in names if name in PLACES]
    if len(known) != 1:
        has = ", ".join(names) or "none"
        hint = did_you_mean(names[0], PLACES) if names else ""
        raise ConfigError(Problem("dataset", f"wanted one of {', '.join(PLACES)}, and the YAML has {has}; say which.{hint}"))
    return known[0]


def _model(out: Converted, family: str, own: Mapping[str, Any], place: Place) -> None:
    out.values["model"] = FAMILIES[family].begun(own)
    at, classes = f"model_config.{family}", own.get("num_labels")
    if classes == 24 and place.type == "mm_imdb":
        out.left[f"{at}.num_labels"] = "24: ours has the 23 genres, and no output for <unk>"
    elif classes not in (None, NUM_LABELS[place.type]):
        out.left[f"{at}.num_labels"] = f"{classes!r}: ours has as many outputs as the data set has classes"
    wanted = LOSSES[place.task]
    losses = list(map(_type_of, own.get("losses") or [wanted]))
    if losses != [wanted]:
        out.left[f"{at}.losses"] = f"{losses}: this data set is learned with {wanted}; see `msd components task_losses`"


def _type_of(component: Any) -> Any:
    """The name of a component that MMF takes by its name alone or as a mapping."""
    return component.get("type") if isinstance(component, Mapping) else component


def _data(out: Converted, family: str, settings: Options, place: Place, root: str) -> None:
    at = settings.at.removesuffix(".")
    data: dict[str, Any] = {"dataset": {"type": place.type, "root": f"{root}/{place.root}"}}
    if place.type == "snli_ve":
        data["dataset"]["images"] = "../../../flickr30k/defaults/images/flickr30k_images"
    uses_features = settings.find("use_features", place.features)
    if uses_features and family in ("late_fusion", "concat_bert", "mmbt"):
        out.left[f"{at}.use_features"] = "this model reads pixels unless direct_features_input is set"
        uses_features = False
    data["processors"] = {
        "text": _tokenizer(out, settings),
        "image": _regions(out, family, settings, place, root) if uses_features else _pixels(out, settings),
    }
    settings.ignore("use_images", "return_features_info")
    for use, theirs, usual in zip(("train", "validation", "test"), ("train", "val", "test"), place.usual):
        files = settings.find(f"annotations.{theirs}", place.annotations.format(usual))
        files = [files] if isinstance(files, str) else list(files)
        name = PurePosixPath(files[0]).name
        if name in place.files:
            data[use] = place.files[name]
        else:
            out.left[f"{at}.annotations.{theirs}"] = f"{files[0]!r}: is none of {', '.join(place.files)}"
        if len(files) > 1:
            out.left[f"{at}.annotations.{theirs}"] = f"{files}: a run takes one split for each use; the first is taken"
    if place.type == "vqa2":
        out.left[f"{at}.annotations"] = "imdb_*.npy: pickles of MMF's; data.dataset.root is the folder of the original release"
        data.pop("test", None)  # it has no answers to be reported on
        out.left[f"{at}.annotations.test"] = "its answers are not public; run_type=predict data.test=test2015 writes the submission"
    out.values["data"] = data


def _tokenizer(out: Converted, settings: Options) -> dict[str, Any]:
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
    return {"type": "tokenizer", "name": name, "max_length": params.get("max_seq_length", 128)}


def _regions(out: Converted, family: str, settings: Options, place: Place, root: str) -> dict[str, Any]:
    stores = []
    for use in ("train", "val", "test"):
        files = settings.find(f"features.{use}")
        if files:
            stores.append(str(files if isinstance(files, str) else files[0]))
    if len(set(stores)) > 1:
        one = "a run reads one; `msd convert-features` makes one store of them"
        out.left[f"{settings.at}features"] = f"{sorted(set(stores))}: {one}"
    folder = stores[0] if stores else place.store
    folder = folder if folder.startswith("datasets/") else f"datasets/{folder}"
    at = "processors.transformer_bbox_processor"
    settings.ignore(at, *(f"{at}.params.{key}" for key in ("bbox_key", "image_width_key", "image_height_key")), f"{at}.type")
    settings.ignore("processors.bbox_processor.type", "processors.bbox_processor.params.max_length")
    regions = {"type": "region_features", "folder": f"lmdb:{root}/{folder}", "max_regions": settings.find("max_features", 100)}
    return regions | ({"boxes": True} if family == "vilbert" else {})


def _pixels(out: Converted, settings: Options) -> dict[str, Any]:
    at = "processors.image_processor"
    kind, steps = settings.find(f"{at}.type", "torchvision_transforms"), {}
    for step in settings.find(f"{at}.params.transforms") or []:
        steps[_type_of(step)] = {} if isinstance(step, str) else step.get("params") or {}
    if kind != "torchvision_transforms":
        out.left[f"{settings.at}{at}"] = f"{kind}: ours is `pixels`"
    norm, side = steps.get("Normalize", MMF_PIXELS), (steps.get("CenterCrop") or steps.get("Resize") or {}).get("size", 224)
    if "CenterCrop" in steps or not steps:
        out.left[f"{settings.at}{at}.params.transforms"] = "Resize, CenterCrop: ours resizes the whole image and cuts nothing off"
    other = sorted(steps.keys() - {"Resize", "CenterCrop", "ToTensor", "GrayScaleTo3Channels", "Normalize"})
    if other:
        out.left[f"{settings.at}{at}.params.transforms"] = f"{', '.join(other)}: ours has augment: crop_flip only"
    size = side if isinstance(side, int) else list(side)
    return {"type": "pixels", "size": size, "mean": list(norm["mean"]), "std": list(norm["std"])}


def _evaluation(out: Converted, options: Options, place: Place, dataset: str) -> None:
    metrics: list[str] = []
    for theirs in map(str, map(_type_of, options.find("evaluation.metrics", []))):
        ours, tasks = METRICS.get(theirs, ("", ()))
        if place.task not in tasks:
            why = f"is no metric of ours for {place.task}; `msd components metrics` lists them"
            out.left[f"evaluation.metrics: {theirs}"] = why
        elif ours not in metrics:
            metrics.append(ours)
    metrics = metrics or list(place.metrics)
    criteria = str(options.find("training.early_stop.criteria", ""))
    monitored, _ = METRICS.get(criteria.removeprefix(f"{dataset}/"), ("", ()))
    if options.find("training.early_stop.minimize", False):
        out.left["training.early_stop.minimize"] = "True: every metric knows itself whether less is better"
    if monitored in metrics:  # the first one chooses the best checkpoint
        metrics.remove(monitored)
        metrics.insert(0, monitored)
    elif criteria:
        out.left["training.early_stop.criteria"] = f"{criteria!r}: is none of {', '.join(metrics)}; {metrics[0]} chooses the best"
    every = options.find("training.evaluation_interval", 1000)
    out.values["evaluation"] = {"metrics": metrics, "every_updates": every}
    patience = options.find("training.early_stop.patience", 4000)
    if options.find("training.early_stop.enabled", False):
        out.values["callbacks"] = [{"type": "early_stopping", "patience": max(1, patience // every)}]


def _training(out: Converted, options: Options) -> None:
    training: dict[str, Any] = {"batch_size": options.find("training.batch_size", 512)}
    epochs, updates = options.find("training.max_epochs"), options.find("training.max_updates", 22000)
    training |= {"max_epochs": epochs} if epochs else {"max_updates": updates}
    accumulate = options.find("training.update_frequency", 1)
    if accumulate != 1:
        # MMF's batch is that of a backward pass, ours that of an update
        training |= {"accumulate": accumulate, "batch_size": training["batch_size"] * accumulate}
    clips, norm = options.find("training.clip_gradients", False), options.find("training.max_grad_l2_norm", 0.25)
    training["clip_norm"] = norm if clips else None
    if options.find("training.fp16", False):
        training["precision"] = "fp16"
    if (log := options.find("training.log_interval", 50)) != 50:
        training["log_every"] = log
    out.values["training"] = training
    if (seed := options.find("training.seed", -1)) >= 0:
        out.values["seed"] = seed
    if workers := options.find("training.num_workers"):
        out.values["data"]["workers"] = workers
    _optimizer(out, options)
    _scheduler(out, options, None if epochs else updates)


def _optimizer(out: Converted, options: Options) -> None:
    kind, params = options.find("optimizer.type", "adam_w"), options.find("optimizer.params", {})
    if kind not in ("adam_w", "adamw", "AdamW"):
        out.left["optimizer.type"] = f"{kind!r}: adamw is taken; `msd components optimizers` lists ours"
    values = {key: float(params[key]) for key in ("lr", "eps", "weight_decay") if key in params}
    if betas := params.get("betas"):
        values |= {"beta1": float(betas[0]), "beta2": float(betas[1])}
    out.values["optimizer"] = {"type": "adamw", **values}


def _scheduler(out: Converted, options: Options, updates: int | None) -> None:
    kind, params = options.find("scheduler.type"), options.find("scheduler.params", {})
    is_used = options.find("training.lr_scheduler", False) and kind is not None
    if not is_used or kind not in ("warmup_linear", "warmup_cosine"):
        if is_used:
            out.left["scheduler.type"] = f"{kind!r}: the learning rate stays as it is; `msd components schedulers` lists ours"
        out.values["scheduler"] = "constant"
        return
    steps = params.get("num_training_steps", updates)
    out.values["scheduler"] = {"type": kind, "warmup": params.get("num_warmup_steps", 0)}
    if isinstance(steps, int) and updates and steps != updates:
        out.left["scheduler.params.num_training_steps"] = f"{steps}: ours falls to 0 at the last update, {updates}"
