"""Any model teaches any other: every pair of kinds, for every task, and with every way to hide a modality on either side."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, reduce
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from msd_framework.build.data import build_data
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import Maskers, build_maskers, build_model, build_recipe, card_of_student
from msd_framework.build.teachers import Teachers, trained_teachers
from msd_framework.build.training import build_objective
from msd_framework.checks.run import checked
from msd_framework.config.load import Source
from msd_framework.config.schema import RunConfig, TeacherConfig
from msd_framework.engine.checkpoint import Checkpoint, write
from msd_framework.engine.distributed import World
from msd_framework.errors import ConfigError
from msd_framework.maskers.base import Masker, Views
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import Objective
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.registry import MASKERS, MODELS, OPTIMIZERS
from msd_framework.structures import Batch, ModelOutput, Task
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.live import LiveTeacher

TASKS: tuple[Task, ...] = get_args(Task)
NUM_EXAMPLES, NUM_CLASSES, NUM_STEPS, SIDE = 6, 3, 3, 8


class Plain(nn.Module):
    """A module that knows nothing of this library: both of its inputs must be there."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.words, self.pixels = nn.Embedding(40, width), nn.Linear(3, width)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> dict[str, Tensor]:
        text = (self.words(input_ids) * attention_mask[..., None]).mean(1).tanh()
        return {"logits": self.head(torch.cat([text, self.pixels(pixel_values.mean((2, 3))).tanh()], 1))}


MODEL_YAML = f"""
visual_bert:
  type: visual_bert
  image_encoder: &patches {{type: patches, patch_size: 4, hidden_size: WIDTH, num_heads: 2, dropout: 0.0}}
  <<: &bert
    hidden_size: WIDTH
    num_layers: 1
    num_heads: 2
    intermediate_size: WIDTH
    max_positions: 16
    dropout: 0.0
    attention_dropout: 0.0
vilbert:
  type: vilbert
  image_encoder: *patches
  <<: *bert
  image_hidden_size: WIDTH
  image_num_layers: 1
  image_num_heads: 2
  image_intermediate_size: WIDTH
  co_hidden_size: WIDTH
  co_num_heads: 2
  num_connections: 1
mmbt: {{type: mmbt, image_encoder: *patches, num_segments: 3, <<: *bert}}
unimodal_text:
  type: unimodal_text
  encoder: &transformer
    type: transformer
    hidden_size: WIDTH
    num_layers: 1
    num_heads: 2
    max_positions: 16
    dropout: 0.0
    attention_dropout: 0.0
  dropout: 0.0
unimodal_image: {{type: unimodal_image, encoder: *patches, dropout: 0.0}}
late_fusion: {{type: late_fusion, encoders: {{image: *patches, text: *transformer}}, hidden_size: WIDTH, dropout: 0.0}}
concat_bert:
  {{type: concat_bert, text_encoder: *transformer, image_encoder: *patches, num_layers: 1, hidden_size: WIDTH, dropout: 0.0}}
module:
  type: module
  target: {__name__}.Plain
  options: {{width: WIDTH}}
  output: logits
  inputs: {{text: input_ids, image: pixel_values}}
  masks: {{text: attention_mask}}
vilt:
  type: huggingface
  config:
    model_type: vilt
    patch_size: 4
    max_position_embeddings: 16
    <<: &published
      hidden_size: WIDTH
      num_hidden_layers: 1
      num_attention_heads: 2
      intermediate_size: WIDTH
      hidden_dropout_prob: 0.0
      attention_probs_dropout_prob: 0.0
clip:
  type: huggingface
  config:
    model_type: clip
    projection_dim: WIDTH
    text_config: &published_text {{max_position_embeddings: 16, <<: *published}}
    vision_config: &published_image {{patch_size: 4, <<: *published}}
flava:
  type: huggingface
  config:
    model_type: flava
    projection_dim: WIDTH
    text_config: *published_text
    image_config: *published_image
    multimodal_config: *published
"""
"""A tiny model of each kind. Images are pixels, and nothing drops out, so that each step leads down."""


@cache
def models(width: int) -> dict[str, dict[str, Any]]:
    """The models of `MODEL_YAML`, as wide as is asked."""
    specs: dict[str, dict[str, Any]] = yaml.safe_load(MODEL_YAML.replace("WIDTH", str(width)))
    return specs


TEACHERS = ("visual_bert", "vilbert", "late_fusion", "mmbt", "concat_bert", "vilt", "flava", "module")
STUDENTS = ("visual_bert", "late_fusion", "unimodal_text", "unimodal_image", "vilt", "clip")
WAYS: dict[str, Any] = {
    "drop": "drop",
    "attention": "attention",
    "constant": "constant",
    "mean": {"type": "by_modality", "maskers": {"image": "mean"}, "otherwise": {"type": "constant", "token": 3}},
    "noise": "noise",
    "other": "other",
}
"""How a view hides a modality: every masker, `mean` of images beside another one of texts."""

HIDING = ("drop", "attention")
"""Those that show nothing in its place."""

METRIC: dict[Task, str] = {"single_label": "accuracy", "multi_label": "f1_micro", "soft_target": "vqa_accuracy"}

VIEWS: dict[tuple[str, ...], list[Any]] = {
    ("image", "text"): ["full", "image", "text"],
    ("text",): ["full", {"teacher": "text", "student": "full"}, {"teacher": "image", "student": "full"}],
    ("image",): ["full", {"teacher": "text", "student": "full"}, {"teacher": "image", "student": "full"}],
}


def takes(name: str, way: str) -> bool:
    """Whether a model says that views of this kind are for it."""
    return MODELS.get(models(2)[name]["type"]).takes_subsets or not MASKERS.build(WAYS[way]).removes


def pairs() -> Iterator[Any]:
    """Each pair with every masker of the student's, and twice with every task.

    The task and the masker of the teacher's go round, so that each pair meets each task, and each masker each other one.
    """
    for t, teacher in enumerate(TEACHERS):
        ways = [way for way in WAYS if takes(teacher, way)]
        for s, student in enumerate(STUDENTS):
            for i, way in enumerate(WAYS):
                task = TASKS[(i + t + s) % len(TASKS)]
                yield pytest.param(task, teacher, student, way, ways[(i + s) % len(ways)], id=f"{task}-{teacher}-{student}-{way}")


PAIRS = list(pairs())


# What a run is made of


class Remembered(Teacher):
    """A teacher that is asked once about a view: it answers the same ever after, for it is frozen.

    Args:
        live: the teacher.
    """

    def __init__(self, live: LiveTeacher):
        self.live, self.modalities, self.num_classes = live, live.modalities, live.num_classes
        self.said: dict[str, Tensor] = {}
        self.before = {name: tensor.clone() for name, tensor in live.model.state_dict().items()}

    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        new = [name for name in views if name not in self.said]
        self.said |= dict(zip(new, self.live.predict(batch, new, shown).logits)) if new else {}
        return ModelOutput(torch.stack([self.said[name] for name in views]))

    @property
    def is_as_it_was(self) -> bool:
        return all(torch.equal(tensor, self.before[name]) for name, tensor in self.live.model.state_dict().items())


class Bench:
    """The parts of runs of one task that all pairs share: data, and trained teachers.

    Args:
        folder: where the files go.
        task: how targets are read.
    """

    def __init__(self, folder: Path, task: Task):
        write_data(folder / "data", task)
        table = {"type": "jsonl", "root": str(folder / "data"), "texts": {"text": "text"}, "images": {"image": "image"}}
        table |= {"label": "label", "task": task, "classes": list("abc")}
        processors = {"text": {"type": "tokenizer", "max_length": 8}, "image": {"type": "pixels", "size": SIDE}}
        self.folder = folder
        self.values = {
            "data": {"dataset": table, "processors": processors, "train": "train"},
            "optimizer": {"type": "adamw", "lr": 0.003},
            "training": {"max_updates": NUM_STEPS, "batch_size": NUM_EXAMPLES},
            "evaluation": {"metrics": [METRIC[task]]},
            "env": {"device": "cpu"},
            "allow": [f"{__name__}.Plain"],
        }
        for teacher in TEACHERS:
            self.write_teacher(teacher)
        self.data = build_data(RunFacts(self.config(model=models(8)["late_fusion"])), World())
        self.batch: Batch = next(iter(self.data.in_order(self.data.training_reader)))
        self.students: dict[str, tuple[MultimodalModel, dict[str, Tensor]]] = {}
        self.models: dict[str, MultimodalModel] = {}
        self.maskers: dict[str, Masker] = {}
        self.teachers: dict[tuple[str, str], Remembered] = {}

    def values_of(self, teacher: str, student: str, taught: str, shown: str) -> dict[str, Any]:
        """What is written in the file of a run of a pair."""
        spec = models(8)[student]
        views = VIEWS[MODELS.get(spec["type"]).modalities_of(spec)]
        return {
            "model": spec,
            "objective": {"type": "distillation", "views": views, "distill_weight": 0.9},
            "masker": WAYS[shown],
            "teacher": {"checkpoint": str(self.folder / teacher), "masker": WAYS[taught]},
        }

    def config(self, **given: Any) -> RunConfig:
        """A run's configuration as it is read of a file."""
        return checked(Source({**self.values, **given}))

    def write_teacher(self, teacher: str) -> None:
        """A checkpoint, as a run of it would leave behind."""
        config = self.config(model=models(16)[teacher], env={"save_dir": str(self.folder / teacher)})
        data = build_data(RunFacts(config), World())
        model = opinionated(build_model(data, build_recipe(data)))
        checkpoint = Checkpoint(model.state_dict(), {}, {}, {}, {"update": 0}, card_of_student(data, model))
        write(checkpoint, self.folder / teacher / "checkpoints" / "best")

    def objective(self, teacher: str, student: str, taught: str, shown: str) -> Objective:
        """The objective of a pair, ready for its first step. What is read of files, built or learned is so but once."""
        written = self.values_of(teacher, student, taught, shown)
        config = replace(self.data.config, **written | {"teacher": TeacherConfig(**written["teacher"])})
        data, maskers = replace(self.data, facts=RunFacts(config)), Maskers(self.masker(shown), [self.masker(taught)])
        if student not in self.students:
            torch.manual_seed(1)
            built = build_model(data, build_recipe(data))
            self.students[student] = built, copy.deepcopy(built.state_dict())
        if (teacher, taught) not in self.teachers:
            (one,) = trained_teachers(data, maskers)
            self.teachers[teacher, taught] = Remembered(one.live())
        model, first = self.students[student]
        model.load_state_dict(first)
        return build_objective(data, model, Teachers(by_use={"train": self.teachers[teacher, taught]}), maskers)

    def opinionated(self, kind: str) -> MultimodalModel:
        if kind not in self.models:
            data = replace(self.data, facts=RunFacts(replace(self.data.config, model=models(16)[kind])))
            self.models[kind] = opinionated(build_model(data, build_recipe(data)))
        return self.models[kind]

    def masker(self, way: str) -> Masker:
        if way not in self.maskers:
            maskers = build_maskers(replace(self.data, facts=RunFacts(replace(self.data.config, masker=WAYS[way]))))
            maskers.fit(self.data.all_training_examples())
            self.maskers[way] = maskers.student
        return self.maskers[way]


class Benches:
    """A bench a task, made when it is first asked for.

    Args:
        folder: where their files go.
    """

    def __init__(self, folder: Path):
        self.folder, self.made = folder, dict[str, Bench]()

    def __getitem__(self, task: Task) -> Bench:
        if task not in self.made:
            self.made[task] = Bench(self.folder / task, task)
        return self.made[task]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Benches:
    return Benches(tmp_path_factory.mktemp("pairs"))


def opinionated(model: MultimodalModel) -> MultimodalModel:
    """The model with random weights that are large enough for what it sees to matter."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
    return model


def write_data(folder: Path, task: Task) -> None:
    """Random words, noise for images, and targets as the task has them."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for i in range(NUM_EXAMPLES):
        Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / f"{i}.png")
        words = [f"w{w}" for w in draw.integers(0, 20, 2 + i % 4)]
        labels = {
            "single_label": "abc"[i % 3],
            "multi_label": ["abc"[i % 3], "abc"[(i + 1) % 3]][: 1 + i % 2],
            "soft_target": {c: round(float(draw.random()), 2) for c in "abc"},
        }
        rows.append({"image": f"{i}.png", "text": " ".join(words), "label": labels[task]})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# What holds of every pair


@pytest.mark.parametrize(("task", "teacher", "student", "way", "teachers_way"), PAIRS)
def test_a_pair_distils(benches: Benches, task: Task, teacher: str, student: str, way: str, teachers_way: str) -> None:
    bench = benches[task]
    objective = bench.objective(teacher, student, teachers_way, way).train()
    assert isinstance(objective, DistillationObjective)
    optimizer = OPTIMIZERS.build(bench.data.config.optimizer, "optimizer", bench.data.known).build(objective)
    torch.manual_seed(2)
    distilled = []
    for _ in range(NUM_STEPS):
        step = objective(bench.batch)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        assert set(step.terms) == {"task", *(f"{part}/{v.name}" for part in ("distill", "weight") for v in objective.views)}
        assert torch.stack([step.loss, *step.terms.values()]).isfinite().all()
        distilled.append(sum(float(term) for name, term in step.terms.items() if name.startswith("distill/")))
    assert len(objective.views) == 3
    assert 0 < distilled[-1] < distilled[0]

    first = bench.students[student][1]
    for name, parameter in objective.model.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.any()) and not torch.equal(parameter, first[name])
        idle = name.startswith("missing.") and way not in HIDING  # stands for what is then never hidden
        assert learns != idle if parameter.requires_grad else parameter.grad is None, name
    assert bench.teachers[teacher, teachers_way].is_as_it_was


def test_every_masker_and_task_is_among_the_pairs() -> None:
    ours = {name for name in MASKERS.names() if MASKERS.get(name).__module__.startswith("msd_framework.")}
    assert ours == {"by_modality", "partial", *WAYS}  # `partial` leaves a part of what it hides
    seen = [p.values for p in PAIRS]
    assert len(seen) == len(set(seen)) == len(TEACHERS) * len(STUDENTS) * len(WAYS)
    assert {(teacher, student, way) for _, teacher, student, way, _ in seen} == set(product(TEACHERS, STUDENTS, WAYS))
    assert {(task, teacher, student) for task, teacher, student, _, _ in seen} == set(product(TASKS, TEACHERS, STUDENTS))
    assert {(task, way) for task, _, _, way, _ in seen} == set(product(TASKS, WAYS))
    both = {(teacher, way, taught) for _, teacher, _, way, taught in seen}
    assert both == {(t, way, taught) for t in TEACHERS for way in WAYS for taught in WAYS if takes(t, taught)}


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("student", STUDENTS)
def test_a_configuration_of_a_pair_is_right(benches: Benches, teacher: str, student: str) -> None:
    way = list(WAYS)[(TEACHERS.index(teacher) + STUDENTS.index(student)) % len(WAYS)]
    bench = benches["single_label"]
    config = bench.config(**bench.values_of(teacher, student, way if takes(teacher, way) else "noise", way))
    assert config.model == models(8)[student]


# What holds of each model alone

BOTH = sorted({*TEACHERS, *STUDENTS} - {"unimodal_text", "unimodal_image"})


@pytest.mark.parametrize(
    ("kind", "way", "hidden"), [(k, w, m) for k in BOTH for w in WAYS if takes(k, w) for m in ("image", "text")]
)
def test_what_a_view_hides_of_an_example_does_not_change_what_is_said_of_it(
    benches: Benches, kind: str, way: str, hidden: str
) -> None:
    bench = benches["single_label"]
    model, masker = bench.opinionated(kind).eval(), bench.masker(way).eval()
    changed = with_other_content(bench.batch, hidden)
    assert not changed.inputs[hidden].values[0].equal(bench.batch.inputs[hidden].values[0])
    with torch.no_grad():
        full, changed_full = (model(batch.inputs).logits[0] for batch in (bench.batch, changed))
        seen, changed_seen = (model(masker.view(batch, f"~{hidden}").inputs).logits[0] for batch in (bench.batch, changed))
    masker.train()
    assert (full - changed_full).abs().max() > 1e-3
    assert (full - seen).abs().max() > 1e-3
    torch.testing.assert_close(seen, changed_seen, atol=1e-6, rtol=1e-6)  # zeros may be added up in another order


def with_other_content(batch: Batch, modality: str) -> Batch:
    """The batch with other words or another image in its first example."""
    inputs = batch.inputs[modality]
    values = inputs.values.clone()
    content = (inputs.mask & ~inputs.special)[0]
    values[0] = torch.where(content, values[1].max() - values[0] % 3, values[0]) if modality == "text" else -values[0]
    return batch.with_inputs({**batch.inputs, modality: replace(inputs, values=values)})


# What is impossible, and what is said of it

REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "a module that needs all of its inputs, as a teacher": (
        "module",
        "late_fusion",
        {"teacher.masker": "drop"},
        "teacher.masker: leaves modalities out, and the teacher needs all of them. Take teacher.masker=attention, or constant.",
    ),
    "the same as a student": (
        "late_fusion",
        "module",
        {"masker": "drop"},
        "masker: leaves modalities out, and the model needs all of them. Take masker=attention, or constant.",
    ),
    "the mean of words": (
        "late_fusion",
        "late_fusion",
        {"masker": "mean"},
        "masker: MeanMasker cannot hide 'text', whose values are tokens; it hides features, pixels, waveform. "
        "Take another masker for it: {type: by_modality, maskers: {text: drop, ...}}.",
    ),
    "the mean of words, of the teacher's views": (
        "late_fusion",
        "unimodal_image",
        {"teacher.masker": "mean"},
        "teacher.masker: MeanMasker cannot hide 'text', whose values are tokens; it hides features, pixels, waveform. "
        "Take another masker for it: {type: by_modality, maskers: {text: drop, ...}}.",
    ),
    "a view of what a text model does not see": (
        "visual_bert",
        "unimodal_text",
        {"objective.views": ["full", "image"]},
        "objective.views[1]: view 'image' names 'image', which is not one of the modalities text.",
    ),
    "a view that hides all that an image model sees": (
        "visual_bert",
        "unimodal_image",
        {"objective.views": ["full", "~image"]},
        "objective.views[1]: view '~image' hides every modality of image.",
    ),
    "a view of a text model that is the whole": (
        "visual_bert",
        "unimodal_text",
        {"objective.views": [{"teacher": "text", "student": "full"}, "text"]},
        "objective.views[1]: 'text' shows the same as 'text>full'.",
    ),
    "an image that the teacher saw in another size": (
        "module",
        "unimodal_text",
        {"data.processors.image.size": 16},
        "data.processors.image: the student does not take 'image', and the teacher was trained on other tensors: size is 16 here "
        "and 8 there. Leave it out, for the teacher's checkpoint says how image becomes tensors.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_impossible_pair_is_one_sentence(benches: Benches, name: str) -> None:
    teacher, student, over, sentence = REFUSED[name]
    bench = benches["single_label"]
    values = copy.deepcopy({**bench.values, **bench.values_of(teacher, student, "noise", "noise")})
    for key, value in over.items():
        *path, last = key.split(".")
        reduce(dict.__getitem__, path, values)[last] = value
    with pytest.raises(ConfigError) as caught:
        checked(Source(values))
    assert str(caught.value) == sentence
