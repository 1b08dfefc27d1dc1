"""Mistakes with components of one's own, with how logits are read, and with weights by saliency."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from tests.integration.mistakes import Mistake, edit_card, module, student

OWN = "user_dir=<here>/mine"
IMPORTS = """\
import torch
from torch import nn

from msd_framework.callbacks.base import Callback
from msd_framework.data.base import MultimodalDataset, Processor
from msd_framework.engine.optim import OptimizerRecipe, Schedule
from msd_framework.losses.base import FeatureLoss, TaskLoss
from msd_framework.maskers.base import Masker
from msd_framework.metrics.base import Metric
from msd_framework.models.base import Encoder, MultimodalModel
from msd_framework.registry import CALLBACKS, DATASETS, ENCODERS, FEATURE_LOSSES, MASKERS, METRICS, MODELS, OPTIMIZERS
from msd_framework.registry import PROCESSORS, SALIENCIES, SCHEDULERS, TASK_LOSSES, WEIGHTINGS
from msd_framework.saliency.base import Saliency
from msd_framework.structures import ModelOutput
from msd_framework.weighting.base import WeightingStrategy

"""
PLACE = r"\(.*/mine/parts\.py:\d+\)"


def own(name: str, code: str, said: str, *words: str) -> Mistake:
    """A class of one's own that is wrong."""
    return Mistake(name, [OWN, *words], said, module(IMPORTS + code))


REGISTERED = [
    own(
        "a model without its methods",
        "@MODELS.register('m1')\nclass Mine(MultimodalModel): ...\n",
        rf"user_dir: model 'm1': the class Mine {PLACE} lacks the methods forward, modalities_of, which .*Model asks for\.",
    ),
    own(
        "a masker without hide",
        "@MASKERS.register('m2')\nclass Mine(Masker):\n    def hides(self, modality, inputs): ...\n",
        rf"user_dir: masker 'm2': the class Mine {PLACE} lacks the method hide, which msd_framework\.maskers\.base\.Masker asks",
    ),
    own(
        "a hook that no run calls",
        "@CALLBACKS.register('m6b')\nclass Mine(Callback):\n    def on_epoch_end(self, runner): ...\n",
        rf"callback 'm6b': the class Mine {PLACE} has on_epoch_end, which nothing asks for\. It may have on_fit_start, ",
    ),
    own(
        "a masker among the weightings",
        "@WEIGHTINGS.register('m3')\nclass Mine(Masker):\n    def hide(self, modality, inputs): ...\n",
        rf"weighting 'm3': the class Mine {PLACE} is no weighting: it does not extend .*WeightingStrategy\. It is a masker\.",
    ),
    own(
        "a callback that extends nothing",
        "@CALLBACKS.register('m4')\nclass Mine:\n    def on_log(self, runner, terms): ...\n",
        rf"callback 'm4': the class Mine {PLACE} is no callback: it does not extend msd_framework\.callbacks\.base\.Callback\.",
    ),
    own(
        "a module of torch as an encoder",
        "@ENCODERS.register('m5')\nclass Mine(nn.Module):\n    def forward(self, inputs): ...\n",
        rf"encoder 'm5': the class Mine {PLACE} is no encoder: it does not extend msd_framework\.models\.base\.Encoder\.",
    ),
    own(
        "a function that is registered",
        "@METRICS.register('m6')\ndef mine(logits, targets): ...\n",
        r"metric 'm6': 'm6' is not a class but of type function\.",
    ),
    own(
        "modalities_of that is no class method",
        "@MODELS.register('m7')\nclass Mine(MultimodalModel):\n    def forward(self, inputs): ...\n"
        "    def modalities_of(self, options): ...\n",
        rf"model 'm7': the class Mine {PLACE} has a method modalities_of that must be a @classmethod\.",
    ),
    own(
        "hide that takes the inputs alone",
        "@MASKERS.register('m8')\nclass Mine(Masker):\n    def hide(self, inputs): ...\n",
        rf"Mine {PLACE} has a method hide that is called with \(self, modality, inputs\) and takes \(self, inputs\)\.",
    ),
    own(
        "a loss that wants more than there is",
        "@TASK_LOSSES.register('m9')\nclass Mine(TaskLoss):\n    def forward(self, output, targets, weights): ...\n",
        r"has a method forward that is called with \(self, output, targets\) and takes \(self, output, targets, weights\)\.",
    ),
    own(
        "a weighting that takes no evidence",
        "@WEIGHTINGS.register('m10')\nclass Mine(WeightingStrategy):\n    def forward(self): ...\n",
        r"has a method forward that is called with \(self, evidence\) and takes \(self\)\.",
    ),
    own(
        "a saliency that does not say whether it can be negative",
        "@SALIENCIES.register('m11')\nclass Mine(Saliency):\n    def views(self, modalities): ...\n"
        "    def forward(self, predictions, targets, modalities): ...\n",
        r"does not say non_negative, as a class of .*Saliency must\. Set non_negative = \.\.\. in the class\.",
    ),
    own(
        "a feature loss that does not say what it takes",
        "@FEATURE_LOSSES.register('m12')\nclass Mine(FeatureLoss):\n    def forward(self, student, teacher, batch): ...\n",
        r"does not say takes, as a class of msd_framework\.losses\.base\.FeatureLoss must\.",
    ),
    own(
        "a metric that does not say its tasks",
        "@METRICS.register('m13')\nclass Mine(Metric):\n    def __call__(self, logits, targets): ...\n",
        r"does not say tasks, as a class of msd_framework\.metrics\.base\.Metric must\.",
    ),
    own(
        "a data set without the names of its splits",
        "@DATASETS.register('m14')\nclass Mine(MultimodalDataset):\n    def __len__(self): ...\n"
        "    def __getitem__(self, index): ...\n    @classmethod\n    def describe(cls, options): ...\n"
        "    @classmethod\n    def check(cls, options, split): ...\n",
        r"does not say splits, as a class of msd_framework\.data\.base\.MultimodalDataset must\.",
    ),
    own(
        "a processor without its methods",
        "@PROCESSORS.register('m15')\nclass Mine(Processor):\n    kind = 'tokens'\n",
        rf"processor 'm15': the class Mine {PLACE} lacks the methods .*, which msd_framework\.data\.base\.Processor asks for\.",
    ),
]
MADE = [
    own(
        "a masker whose constructor raises",
        "@MASKERS.register('m16')\nclass Mine(Masker):\n    def __init__(self):\n        super().__init__()\n        None + 1\n"
        "    def hide(self, modality, inputs): ...\n",
        r"masker: m16 cannot be made: .*/mine/parts\.py:\d+: TypeError: unsupported operand",
        "masker=m16",
    ),
    own(
        "a masker that does not begin as a module",
        "@MASKERS.register('m17')\nclass Mine(Masker):\n    def __init__(self): ...\n    def hide(self, modality, inputs): ...\n",
        rf"masker: m17 {PLACE} does not call super\(\)\.__init__\(\)\. Its __init__ must, before all else\.",
        "masker=m17",
    ),
    own(
        "a model whose modalities are none",
        "@MODELS.register('m18')\nclass Mine(MultimodalModel):\n    def forward(self, inputs): ...\n"
        "    @classmethod\n    def modalities_of(cls, options): ...\n",
        r"model: modalities_of of m18 must return the names of modalities, got None\.",
        "model=m18",
    ),
    own(
        "a data set that describes nothing",
        "@DATASETS.register('m19')\nclass Mine(MultimodalDataset):\n    splits = ('train',)\n    def __len__(self): ...\n"
        "    def __getitem__(self, index): ...\n    @classmethod\n    def describe(cls, options): ...\n"
        "    @classmethod\n    def check(cls, options, split): return []\n",
        r"data\.dataset: describe of m19 must return a DatasetInfo, got None\.",
        "data.dataset=m19",
    ),
    own(
        "a data set whose description fails",
        "@DATASETS.register('m20')\nclass Mine(MultimodalDataset):\n    splits = ('train',)\n    def __len__(self): ...\n"
        "    def __getitem__(self, index): ...\n    @classmethod\n    def describe(cls, options): return options['classes']\n"
        "    @classmethod\n    def check(cls, options, split): return []\n",
        r"data\.dataset: describe of m20 failed: .*/mine/parts\.py:\d+: KeyError: 'classes'",
        "data.dataset=m20",
    ),
    own(
        "a limit that a data set does not keep to",
        "from msd_framework.data.sets.hateful_memes import HatefulMemes\n"
        "@DATASETS.register('m21')\nclass Mine(HatefulMemes):\n"
        "    def __init__(self, split: str, root: str):\n        super().__init__(split, root)\n",
        r"data\.max_eval_examples: m21 cannot read a part of a split: its __init__ takes no max_examples\.",
        "data.dataset={type: m21, root: <world>}",
        "data.max_eval_examples=4",
    ),
    Mistake(
        "the contract itself as a masker",
        ["masker=msd_framework.maskers.base.Masker"],
        r"masker: msd_framework\.maskers\.base\.Masker lacks the method hide, .* It stands at .*base\.py:\d+\.",
    ),
    Mistake(
        "a loss as a masker",
        ["masker=msd_framework.losses.task.CrossEntropy"],
        r"masker: msd_framework\.losses\.task\.CrossEntropy is no masker: it does not extend .*\.Masker\. It is a task loss\.",
    ),
]


def soft_scores(here: Path, world: Path, teacher: Path) -> None:
    """Three splits of rows whose two classes have scores."""
    for split in ("train", "dev", "test"):
        rows = ["key,text,photo,benign,hateful"]
        for i in range(4):
            name = f"{split}{i}.png"
            Image.new("RGB", (8, 8), (30 * i, len(split), 9)).save(here / name)
            rows.append(f"{split}{i},words {i},{name},0.{i},0.{9 - i}")
        (here / f"{split}.csv").write_text("\n".join(rows) + "\n")


SOFT = [
    "data.dataset={type: csv, root: <here>, texts: {text: text}, images: {image: photo}, task: soft_target}",
    "data.dataset.labels=[benign, hateful]",
    "data.dataset.id_column=key",
    "data.validation=dev",
    "data.test=test",
    "evaluation={metrics: [vqa_accuracy]}",
]
READ = [
    Mistake(
        "a softmax for single labels' scores",
        ["objective.task_loss=soft_cross_entropy"],
        r"objective\.task_loss: soft_cross_entropy is for soft_target targets, and the data set's are single_label\.",
    ),
    Mistake(
        "a distillation loss of sigmoids beside a task loss of a softmax",
        [*SOFT, *student("objective.task_loss=soft_cross_entropy", "objective.distill_loss=bernoulli_kl")],
        r"objective\.distill_loss: bernoulli_kl reads each class by a sigmoid, and objective\.task_loss trains a softmax\.",
        soft_scores,
    ),
    Mistake(
        "a saliency distance of sigmoids beside a task loss of a softmax",
        [
            *SOFT,
            *student("objective.task_loss=soft_cross_entropy"),
            "objective.weighting={type: instance, saliency: {type: drop, distance: bernoulli_tvd}}",
        ],
        r"objective\.weighting\.saliency\.distance: bernoulli_tvd reads each class by a sigmoid",
        soft_scores,
    ),
    Mistake(
        "a teacher's card that says another reading of logits",
        ["teacher.checkpoint=<here>/copy", "objective={type: distillation, views: [full]}"],
        r"teacher\.checkpoint: .*its card\.json does not describe a model \(outcomes: wanted .*'tanh'",
        lambda here, world, teacher: edit_card(teacher, here, lambda card: card["facts"].update(outcomes="tanh")),
    ),
    Mistake(
        "a floor of all that there is",
        student("objective.weighting={type: instance, floor: 1.5}"),
        r"objective\.weighting: floor must be 0 or more and below 1, got 1\.5\.",
    ),
    Mistake(
        "a floor of weights that are the same for all examples",
        student("objective.weighting={type: population, floor: 0.1}"),
        r"objective\.weighting\.floor: population has no such option\.",
    ),
]
METRIC = (
    "@METRICS.register('{}')\nclass Mine(Metric):\n    tasks = frozenset({{'single_label'}})\n"
    "    def __call__(self, logits, targets): {}\n"
)
LOSS = "@TASK_LOSSES.register('{}')\nclass Mine(TaskLoss):\n    {}\n    def forward(self, output, targets): {}\n"
MASKER = "@MASKERS.register('{}')\nclass Mine(Masker):\n    def hide(self, modality, inputs): {}\n"
MODEL = (
    "@MODELS.register('{}')\nclass Mine(MultimodalModel):\n    def __init__(self, num_classes: int):\n        super().__init__()\n"
    "        self.modalities, self.num_classes, self.out = ('image', 'text'), num_classes, torch.nn.Linear(3, 7)\n"
    "    @classmethod\n    def modalities_of(cls, options): return ('image', 'text')\n"
    "    def forward(self, inputs): return ModelOutput(self.out(inputs['image'].values.mean((2, 3))))\n"
)
SCHEDULE = "@SCHEDULERS.register('{}')\nclass Mine(Schedule):\n    def factor(self, update, num_updates): return {}\n"
TRIED = [
    own(
        "a metric that raises",
        METRIC.format("n1", "return {}['x']"),
        r"evaluation\.metrics\[1\]: n1: .*/mine/parts\.py:\d+: KeyError: 'x'\.",
        "evaluation.metrics=[accuracy, n1]",
    ),
    own(
        "a metric that gives nothing",
        METRIC.format("n2", "..."),
        r"evaluation\.metrics\[1\]: n2 gives None, wanted a number\.",
        "evaluation.metrics=[accuracy, n2]",
    ),
    own(
        "a loss of all examples together",
        LOSS.format("n3", "outcomes = 'softmax'", "return output.logits.mean()"),
        r"objective: a training step .*: Mine gives torch\.float32 \[\] for \d+ examples, wanted a float of each",
        "objective.task_loss=n3",
    ),
    own(
        "a loss for one task in no set",
        LOSS.format("n4", "tasks = 'single_label'", "..."),
        r"task loss 'n4': the class Mine .* says tasks: wanted a set of .*got 'single_label'\.",
    ),
    own(
        "a loss that reads logits in no known way",
        LOSS.format("n5", "outcomes = 'softmx'", "..."),
        r"task loss 'n5': the class Mine .* says outcomes: wanted .*got 'softmx'\. Did you mean 'softmax'\?",
    ),
    own(
        "a masker that loses examples",
        "from dataclasses import replace\n" + MASKER.format("n6", "return replace(inputs, values=inputs.values[:1])"),
        r"evaluation\.masker: Mine makes values \[1, \d+\] and a mask \[\d+, \d+\] of \d+ examples of text in the view 'image'\.",
        "evaluation.masker=n6",
        "evaluation.views=[full, image]",
    ),
    own(
        "a masker that leaves a modality out without saying so",
        MASKER.format("n7", "..."),
        r"evaluation\.masker: Mine leaves text out of the view 'image'\. If it may, set removes = True\.",
        "evaluation.masker=n7",
        "evaluation.views=[full, image]",
    ),
    own(
        "a model with more logits than there are classes",
        MODEL.format("n8"),
        r"model: Mine gives logits \[1, 1, 7\] of torch\.float32, wanted floats \[1, 1, 2\]",
        "model=n8",
    ),
    own(
        "a model that predicts no numbers",
        MODEL.format("n8a").replace("3, 7", "3, num_classes").replace("ModelOutput(", "ModelOutput(float('nan') * "),
        r"model: the student's prediction of the row .* on the view 'full' is not finite, before any update\.",
        "model=n8a",
    ),
    own(
        "a loss that is infinite from the start",
        LOSS.format("n3a", "outcomes = 'softmax'", "return output.logits.sum(-1) / 0"),
        r"objective: the loss of rows such as .* is (nan|-?inf), before any update\.",
        "objective.task_loss=n3a",
    ),
    own(
        "a schedule that raises at a later update",
        SCHEDULE.format("n9", "[1.0][update]"),
        r"scheduler: factor of Mine at update 1: .*/mine/parts\.py:\d+: IndexError",
        "scheduler=n9",
    ),
    own(
        "a schedule of no number",
        SCHEDULE.format("n10", "float('nan')"),
        r"scheduler: factor of Mine at update 0 is nan, wanted a number from 0 on\.",
        "scheduler=n10",
    ),
    own(
        "a recipe that makes no optimizer",
        "@OPTIMIZERS.register('n11')\nclass Mine(OptimizerRecipe):\n    def build(self, module): ...\n",
        r"optimizer: build of Mine returns a NoneType, no optimizer of torch\.",
        "optimizer=n11",
    ),
    replace(
        own(
            "a callback that raises",
            "@CALLBACKS.register('n12')\nclass Mine(Callback):\n    def on_step_end(self, runner, output): None + 1\n",
            r"callbacks: on_step_end of n12 at update 1: .*/mine/parts\.py:\d+: TypeError",
            "callbacks=[n12]",
        ),
        while_training=True,
    ),
]
MISTAKES = [*REGISTERED, *MADE, *READ, *TRIED]
