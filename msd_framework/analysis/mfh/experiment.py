"""Channel saliency of trained models: which channels of one of them are of use to another, of another modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from msd_framework.analysis.mfh.channels import draw_permutations, layer_saliency
from msd_framework.build.facts import RunFacts
from msd_framework.build.run import Run, build
from msd_framework.checks.run import checked
from msd_framework.config.load import load
from msd_framework.config.values import as_word
from msd_framework.engine.checkpoint import find_checkpoint, read_json
from msd_framework.engine.distributed import World
from msd_framework.errors import ConfigError, DataError
from msd_framework.experiment import EXPERIMENTS, Experiment, Row
from msd_framework.files import write_json
from msd_framework.models.layers.layer import Layer
from msd_framework.ranges import positive
from msd_framework.structures import Batch, ModelOutput
from msd_framework.teachers.masked import SALIENCY_FILE

SEED = "{seed}"  # stands for the seed in the name of a run's folder


@EXPERIMENTS.register("channel_saliency")
class ChannelSaliency(Experiment):
    """How general the channels of a model's layer are to another modality, for a teacher that keeps some of them.

    The two models must have been trained to agree, as the objective `agreement` does. The scores of each seed are written to
    `seed_<seed>/channel_saliency.json`, which `teacher.channels.saliency` takes.

    Source: Xue et al., The Modality Focusing Hypothesis, ICLR 2023 (arXiv:2206.06487), Algorithm 1.

    Args:
        run: the folder of the finished run of the model, with `{seed}` in place of the seed.
        layer: the layer, as the model's `named_modules` has it, such as `projections.audio`.
        view: what the model is shown, such as `audio`.
        against: what the other model is shown, such as `image`.
        other_run: the folder of the other model's run; the same model if null.
        num_permutations: M, how often each channel is shuffled.
        num_examples: how many examples of the training split are used, the first of it.
        channel_dim: where the layer's channels stand: -1 for features, 1 for a convolution.
        at_once: how many shuffles are answered at once, by `torch.func.vmap`; 1 is for a model that it cannot take.
    """

    def __init__(
        self,
        run: str,
        layer: str,
        view: str,
        against: str,
        other_run: str | None = None,
        num_permutations: int = 100,
        num_examples: int = 512,
        channel_dim: int = -1,
        at_once: int = 1024,
    ):
        positive(num_permutations=num_permutations, num_examples=num_examples, at_once=at_once)
        self.folders = (run, other_run or run)
        self.layer, self.views, self.num_permutations = layer, (view, against), num_permutations
        self.num_examples, self.channel_dim, self.at_once = num_examples, channel_dim, at_once

    def run(self, seeds: Sequence[int], folder: Path) -> list[Row]:
        rows: list[Row] = []
        for seed in seeds:
            scores = self.scores(seed)
            checkpoint = find_checkpoint(self.folders[0].replace(SEED, str(seed)))
            saliency = {
                "layer": self.layer,
                "view": self.views[0],
                "against": self.views[1],
                "saliency": scores.tolist(),
                "weights": read_json(checkpoint / "files.json")["sha256"]["model.safetensors"],
            }
            write_json(folder / f"seed_{seed}" / SALIENCY_FILE, saliency)
            mean, above = scores.mean().item(), (scores > 0.5).sum().item()
            rows.append({"seed": str(seed), "channels": str(len(scores)), "mean": mean, "above a half": str(above)})
        return rows

    def scores(self, seed: int) -> Tensor:
        """The saliency of each channel, float [D]."""
        both = []
        for folder, view in zip(self.folders, self.views):
            both.append(ModelOnView.open(folder.replace(SEED, str(seed)), view, self.num_examples))
        first, second = both
        if first.batch.ids != second.batch.ids:
            raise DataError(f"{self.folders[0]} and {self.folders[1]} were not trained on the same examples in the same order.")
        try:
            layer = Layer(first.run.model, self.layer, self.channel_dim)
            draw = partial(draw_permutations, self.num_permutations, num_examples=len(first.batch), seed=seed)
            with torch.no_grad():
                return layer_saliency(layer, first.logits, second.logits(), draw, self.at_once)
        except ValueError as error:
            raise ConfigError(f"experiment.layer: {error}") from error


@dataclass(frozen=True)
class ModelOnView:
    """A run with its trained model, and a view of some examples."""

    run: Run
    batch: Batch

    @classmethod
    def open(cls, folder: str, view: str, num_examples: int) -> ModelOnView:
        """The model of a finished run and the first examples of its training split."""
        path = Path(folder) / "config.yaml"
        if not path.is_file():
            raise ConfigError(f"experiment.run: there is no finished run in {folder}. Train it first.")
        data = load(path).values.get("data")
        split = data.get("train") if isinstance(data, Mapping) else None
        if not isinstance(split, str):
            raise ConfigError(f"{path}: data.train is {split!r}, wanted the split that the run was trained on.")
        evaluated = ["run_type=val", f"env.save_dir={folder}", "env.device=cpu", as_word("data.validation", split)]
        limits = [f"data.max_eval_examples={num_examples}", f"evaluation.batch_size={num_examples}"]
        run = build(RunFacts(checked(load(path, [*evaluated, *limits]))), World())
        run.load_trained()
        run.model.eval()
        (batch,) = run.data.evaluation["validation"]
        each = {m: replace(x, distinct=None) for m, x in batch.inputs.items()}  # a row of the layer for every example
        try:
            return cls(run, run.maskers.student.view(batch.with_inputs(each), view))
        except ValueError as error:
            raise ConfigError(f"experiment.view: {error}") from error

    def logits(self) -> Tensor:
        output: ModelOutput = self.run.model(self.batch.inputs)
        return output.logits
