"""The options of a run, a sentence each. A component's own options are its constructor's signature."""

# ruff: noqa: RUF009 -- component() is dataclasses.field() under a name of ours

from __future__ import annotations

import ast
import inspect
import os
import textwrap
from dataclasses import dataclass, field
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import Any, Literal, TypeAlias

from msd_framework.engine.checkpoint import holds_run

Component: TypeAlias = str | dict[str, Any]
"""A registered or dotted name, or ``{type: name, option: value, ...}``."""

USES = ("train", "validation", "test")  # of a split
# those that a run evaluates a trained model on, by its `run_type`; one that is not listed trains and reads all of them
USED_SPLITS = {"val": ("validation",), "test": ("test",), "predict": ("test",)}


def component(kind: str, **default: Any) -> Any:
    """A field that holds a component, or a list or mapping of components, of a registry."""
    return field(metadata={"kind": kind}, **default)


@dataclass(frozen=True)
class EnvConfig:
    """Where a run writes and what it runs on."""

    save_dir: str = "runs/${name}"
    """The folder that a run writes everything to."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What computes: auto takes a GPU where there is one."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch its own choice."""


@dataclass(frozen=True)
class DataConfig:
    """What is learned from, and how it becomes tensors."""

    dataset: Component = component("datasets")
    """The data set, such as `{type: hateful_memes, root: data/hateful_memes}`."""
    processors: dict[str, Component] = component("processors")
    """How each modality becomes tensors, by its name, such as `{text: tokenizer, image: {type: pixels, size: 224}}`."""
    processors_from: str | None = None
    """The folder of a run whose processors' learned part is taken; if null, the teacher's where both make the same tensors."""
    train: str | None = None
    """The split that is trained on."""
    validation: str | None = None
    """The split that chooses the best checkpoint; never the one that is reported."""
    test: str | None = None
    """The split that the best checkpoint is reported on at the end."""
    max_train_examples: int | None = None
    """Trains on the first so many examples of the split; all of them if null."""
    max_eval_examples: int | None = None
    """Evaluates on the first so many examples of each split; all of them if null."""
    unlabelled: bool = False
    """Whether training examples may lack a label: those are distilled, and the task loss is the mean over those that have one."""
    labelled_share: float = 1.0
    """The share of training examples that keep their label, drawn by `seed`; the others count as unlabelled."""
    partners: int | None = 8
    """How many other rows an example meets, one an epoch in turn, in views such as `image+text*`; null takes another one in each
    epoch, for which a teacher cache keeps no answers."""
    shared_rows: bool = False
    """Whether splits of one run may have rows in common; a run whose splits do is refused otherwise."""
    on_error: Literal["raise", "skip"] = "raise"
    """What a broken line or file does: stops the run with its name, or is left out and counted at the end."""
    workers: int = 0
    """Processes that read ahead; 0 reads in the run's own process."""
    cache_mb: int = 1024
    """Memory for inputs that were decoded once, in MB, in each process of a run, which its workers share out; 0 keeps none."""
    length_pool: int = 0
    """Batches out of which examples are pooled, sorted by length and dealt out as batches of similar length, in random order; 0
    leaves batches as they come."""


@dataclass(frozen=True)
class ChannelsConfig:
    """The channels of a teacher's layer that it teaches with; the others are zeros."""

    layer: str
    """The layer of the teacher, as its `named_modules` has it, such as `projections.audio`."""
    by: Literal["general", "specific", "random"] = "general"
    """Which channels are kept: those most of use to the other modality, those least of use, or any."""
    share: float = 0.5
    """The share of channels that are kept, above 0 and at most 1."""
    saliency: str | None = None
    """The folder that holds the `channel_saliency.json` of the layer; random channels need none."""
    seed: int = 0
    """Chooses random channels."""
    channel_dim: int = -1
    """Where the channels stand in what the layer puts out: -1 for features, 1 for a convolution."""


@dataclass(frozen=True)
class TeacherConfig:
    """The model that teaches: one that a run has trained, several of them, or an average of the student itself."""

    checkpoint: str | list[str] | None = None
    """The folder of a finished run, or of one of its checkpoints, from which the model is rebuilt; several teachers are a list of
    them, or a pattern such as `runs/teacher/seed_*`."""
    combine: Component | None = component("combinations", default=None)
    """How several teachers answer as one, such as `{type: weighted, weights: [2, 1]}`; by their mean if null."""
    ema: float | dict[str, float | str] | None = None
    """In place of a checkpoint: the teacher is a moving average of the student, of which this share stays in each update, such as
    0.999, or `{start: 0.9, end: 0.999, over: 0.1}`."""
    processors: dict[str, Component] = component("processors", default_factory=dict)
    """How modalities become tensors for the teacher, by their names, where files that its checkpoint names have moved; as it was
    trained if left out."""
    masker: Component | None = component("maskers", default=None)
    """How the teacher's views hide a modality; the student's way if null."""
    channels: ChannelsConfig | None = None
    """What it keeps of the channels of a layer (a modality-general teacher); all of it if null."""
    cache: bool | Literal["read"] = False
    """Whether it is asked once about each example and its answers are kept on disk; read takes what is there and asks nothing."""
    cache_dir: str = "caches/teachers"
    """The folder of all caches of teachers' answers; runs share it, and so must all processes of a run."""
    cache_features: list[str] = field(default_factory=list)
    """Features of the teacher that are kept beside its logits: `fused.pooled`, what its classifier reads."""
    cache_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What the answers are computed in; auto measures whether bf16 is faster here and close enough."""

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the runs that teach, patterns filled in; one that nothing matches stands for itself."""
        folders: list[str] = []
        for path in [self.checkpoint] if isinstance(self.checkpoint, str) else self.checkpoint or []:
            is_pattern = has_magic(path) and not os.path.exists(path)
            matches = [found for found in sorted(glob(path)) if os.path.isdir(found)] if is_pattern else []
            folders += matches or [path]
        return tuple(folders)


@dataclass(frozen=True)
class InitConfig:
    """What the model's first weights are taken from, in place of random ones."""

    checkpoint: str | None = None
    """The folder of a finished run, or of one of its checkpoints; the teacher's if null."""
    layers: Literal["even", "first", "last"] | list[int] = "even"
    """Which of its layers are taken where the model has fewer: every so many, the first or last ones, or those of a list."""
    cut: Literal["slice", "svd"] = "slice"
    """What is kept of attention heads that get smaller: their first features, or the best approximation of what they compute."""
    only: list[str] = field(default_factory=list)
    """Parts of the model that are taken, such as `[embeddings, encoder]`; all of it if empty."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long a run trains and what one update is."""

    max_updates: int | None = None
    """Optimizer updates of the run; give this or `max_epochs`."""
    max_epochs: float | None = None
    """Passes over the training split; give this or `max_updates`."""
    batch_size: int = 32
    """Examples an update sees, over all processes and all of `accumulate`."""
    accumulate: int = 1
    """Parts that each process computes its share of a batch in, one after another, to save memory."""
    clip_norm: float | None = 1.0
    """The largest norm of the gradient; null does not clip."""
    precision: Literal["auto", "fp32", "medium", "bf16", "fp16"] = "fp32"
    """What matrix products are computed in, in training and evaluation; weights stay float32. auto measures what pays here."""
    log_every: int = 50
    """Updates between two lines of metrics.jsonl."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, how often, and what counts as best."""

    metrics: list[Component] = component("metrics", default_factory=lambda: ["accuracy"])
    """What is computed for each split, once on all of its predictions."""
    monitor: str | None = None
    """The metric that chooses the best checkpoint, such as `auroc` or `image/accuracy`; the first one if null."""
    every_updates: int | None = None
    """Updates between two validations; an epoch if null."""
    views: list[str] = field(default_factory=lambda: ["full"])
    """The views that predictions and metrics are made for; metrics of others than full get their view's name in front."""
    masker: Component | None = component("maskers", default=None)
    """How these views hide a modality, from student and teacher alike; if null, `drop` from a model that can do without one, and
    as in training from one that cannot."""
    batch_size: int = 256
    """Examples that are predicted at once, in each process."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept, and what a run starts from."""

    resume: bool = False
    """Goes on from `checkpoints/last` of the run's folder, to the same bits; starts afresh if there is none."""
    every_updates: int | None = None
    """Updates between two checkpoints; at every validation if null."""
    keep: int = 1
    """Checkpoints kept beside the best and the last one."""
    load: str | None = None
    """A checkpoint that `run_type` val, test and predict take in place of the run's best one."""


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on."""

    data: DataConfig
    """What is learned from."""
    model: Component = component("models")
    """The model that is trained: the student, or a teacher of its own runs."""
    objective: Component = component("objectives", default="supervised")
    """What is minimised: `supervised`, or `{type: distillation, views: [full, image, text]}`."""
    name: str = "run"
    """What the run is called, in its folder's name and in reports."""
    run_type: Literal["train", "val", "test", "predict", "check"] = "train"
    """What is done: train and report, evaluate a split, predict the test split, or only check this configuration."""
    seed: int = 0
    """The seed of weights, order and noise; 0 is a seed like any other."""
    teacher: TeacherConfig | None = None
    """What teaches, for objectives that need it."""
    init: InitConfig | None = None
    """What the model starts from, such as `{layers: even}` of its teacher; the weights that it has by itself if null."""
    masker: Component = component("maskers", default="drop")
    """How a view hides a modality."""
    optimizer: Component = component("optimizers", default="adamw")
    """How weights are changed."""
    scheduler: Component = component("schedulers", default="constant")
    """How the learning rate goes over the run."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How long, and in what steps."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is measured."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """What is kept and resumed."""
    callbacks: list[Component] = component("callbacks", default_factory=list)
    """What watches the run beside the progress bar and the logs, such as `{type: early_stopping, patience: 3}`."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """Where it writes and what it runs on."""
    imports: list[str] = field(default_factory=list)
    """Modules of your own that register components."""
    user_dir: str | None = None
    """A folder of Python files of your own that register components."""
    allow: list[str] = field(default_factory=list)
    """Classes of your own that the card of a checkpoint may name, such as `[package.Model]`; a card may come from anybody."""
    expected: dict[str, float] = field(default_factory=dict)
    """Metrics that this configuration was measured to reach, shown beside what it reaches now."""

    @property
    def is_evaluated(self) -> bool:
        """Whether a trained model is evaluated, so that nothing is needed that only training needs."""
        return self.run_type in USED_SPLITS

    @property
    def evaluated(self) -> str:
        return self.checkpoint.load or self.env.save_dir

    @property
    def uses(self) -> tuple[str, ...]:
        """What the run uses splits for, of those uses that a split is named for."""
        return tuple(use for use in USED_SPLITS.get(self.run_type, USES) if getattr(self.data, use) is not None)

    @property
    def teacher_folders(self) -> tuple[str, ...]:
        return self.teacher.folders if self.teacher is not None else ()

    @property
    def has_teacher(self) -> bool:
        """Whether there is a teacher to ask: what evaluates a student does without one whose folder is gone."""
        there = all(Path(folder).exists() for folder in self.teacher_folders)
        return self.teacher is not None and (there or not self.is_evaluated)

    @property
    def init_folder(self) -> str | None:
        """The run whose model is started from; None if it is not clear."""
        if self.init is not None and self.init.checkpoint:
            return self.init.checkpoint
        return self.teacher_folders[0] if len(self.teacher_folders) == 1 else None

    @property
    def starts_from(self) -> str | None:
        """The run whose weights the model starts from; None where it has its own, is evaluated or goes on."""
        return None if self.init is None or self.is_evaluated or self.goes_on else self.init_folder

    @property
    def goes_on(self) -> bool:
        return not self.is_evaluated and self.checkpoint.resume and holds_run(Path(self.env.save_dir))


@cache
def field_docs(schema: type) -> dict[str, str]:
    """The sentence under each field of a schema, by the field's name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for named, text in zip(body.body, body.body[1:]):
        if not (isinstance(named, ast.AnnAssign) and isinstance(named.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[named.target.id] = " ".join(str(text.value.value).split())
    return docs
