"""What a step of modality-specific distillation costs: against a step from labels alone, and against transformers with padding.

Variants are run in turn within one process, on one thread; what is compared are medians of CPU seconds of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_framework.maskers.drop import DropMasker
from msd_framework.models.patches import Patches
from msd_framework.models.visual_bert import VisualBert
from msd_framework.objectives.base import Objective
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.supervised import SupervisedObjective
from msd_framework.structures import Batch, ModalityInputs, ModelOutput
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.live import LiveTeacher

VIEWS = ["full", "image", "text"]
TEACHER = {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "intermediate_size": 3072}
STUDENT = {"hidden_size": 312, "num_layers": 4, "num_heads": 12, "intermediate_size": 1200}
NUM_CLASSES = 3
MAX_WORDS, MAX_REGIONS = 128, 100  # what scripts that pad every batch alike pad to

Step = Callable[[], None]


class GivenTeacher(Teacher):
    """Says what it was given, as a cache does."""

    def __init__(self, logits: Tensor):
        self.logits, self.modalities, self.num_classes = logits, ("image", "text"), logits.shape[-1]

    def predict(self, batch: Batch, views: Sequence[str]) -> ModelOutput:
        return ModelOutput(self.logits)


class TransformersModel(nn.Module):
    """transformers' VisualBertModel with a linear classifier; it takes padded inputs."""

    def __init__(self, sizes: dict[str, int]):
        super().__init__()
        import transformers

        names = {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
        config = transformers.VisualBertConfig(visual_embedding_dim=2048, **{names.get(k, k): v for k, v in sizes.items()})
        self.body = transformers.VisualBertModel(config)
        self.head = nn.Linear(config.hidden_size, NUM_CLASSES)

    def forward(self, ids: Tensor, words: Tensor, features: Tensor, regions: Tensor) -> Tensor:
        output = self.body(input_ids=ids, attention_mask=words, visual_embeds=features, visual_attention_mask=regions)
        return self.head(output.pooler_output)


def make_batch(num_examples: int, seed: int) -> Batch:
    """Texts of about 27 words in 8..128 and 36..100 regions, padded to the longest of the batch."""
    g = torch.Generator().manual_seed(seed)
    num_words = (torch.randn(num_examples, generator=g) * 0.35 + 3.2958).exp().round().clamp(8, MAX_WORDS).long()
    num_regions = torch.randint(36, MAX_REGIONS + 1, (num_examples,), generator=g)
    place = torch.arange(int(num_words.max()))
    mask = place < num_words[:, None]
    special = (place == 0) | (place == num_words[:, None] - 1)
    ids = torch.randint(1000, 30000, mask.shape, generator=g).masked_fill(~mask, 0)
    shown = torch.arange(int(num_regions.max())) < num_regions[:, None]
    regions = torch.randn(*shown.shape, 2048, generator=g) * shown[..., None]
    inputs = {"image": ModalityInputs(regions, shown), "text": ModalityInputs(ids, mask, {"special": special}, 2)}
    return Batch(inputs, torch.randint(NUM_CLASSES, (num_examples,), generator=g), tuple(map(str, range(num_examples))))


def padded_views(batch: Batch, num_words: int, num_regions: int) -> list[tuple[Tensor, ...]]:
    """The full, the image and the text view as transformers takes them: each at full length, hidden by its masks."""
    text, image = batch.inputs["text"], batch.inputs["image"]
    more_words, more_regions = num_words - text.mask.shape[1], num_regions - image.mask.shape[1]
    ids, words = F.pad(text.values, (0, more_words)), F.pad(text.mask.long(), (0, more_words))
    marks = F.pad((text.mask & text.special).long(), (0, more_words))
    features, regions = F.pad(image.values, (0, 0, 0, more_regions)), F.pad(image.mask.long(), (0, more_regions))
    return [(ids, words, features, regions), (ids, marks, features, regions), (ids, words, features, torch.zeros_like(regions))]


def step_of(objective: Objective, batch: Batch) -> Step:
    """One update of our objective."""
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-5, fused=True)
    objective.train()

    def step() -> None:
        optimizer.zero_grad()
        objective(batch).loss.backward()
        optimizer.step()

    return step


def transformers_step(model: TransformersModel, loss: Callable[[], Tensor]) -> Step:
    """One update of transformers' model, with the same optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def measure(variants: dict[str, Step], rounds: int) -> dict[str, float]:
    """Medians of CPU milliseconds, the variants in turn; a first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds + 1):
        for name, step in variants.items():
            started = time.process_time()
            step()
            times[name] += [1e3 * (time.process_time() - started)] if i else []
    return {name: statistics.median(values) for name, values in times.items()}


def published_sizes(num_examples: int, naive: bool) -> dict[str, Step]:
    """Steps at BERT-base as the teacher and four layers of 312 as the student."""
    batch = make_batch(num_examples, seed=1)
    torch.manual_seed(0)
    logits = torch.randn(len(VIEWS), num_examples, NUM_CLASSES)

    def student(**options: bool) -> VisualBert:
        return VisualBert(NUM_CLASSES, **STUDENT, **options)

    def distillation(teacher: Teacher, **options: bool) -> Objective:
        return DistillationObjective(student(**options), teacher, DropMasker(), list(VIEWS))

    theirs = TransformersModel(STUDENT).train()
    longest = batch.inputs["text"].mask.shape[1], batch.inputs["image"].mask.shape[1]

    def from_labels(sizes: tuple[int, int]) -> Step:
        full = padded_views(batch, *sizes)[0]
        return transformers_step(theirs, lambda: F.cross_entropy(theirs(*full), batch.targets))

    steps = {
        "plain": step_of(SupervisedObjective(student()), batch),
        "plain, packed: false": step_of(SupervisedObjective(student(packed=False)), batch),
        "msd cached": step_of(distillation(GivenTeacher(logits)), batch),
        "msd cached, packed: false": step_of(distillation(GivenTeacher(logits), packed=False), batch),
        "msd cached, share_embedding_dropout: false": step_of(
            distillation(GivenTeacher(logits), share_embedding_dropout=False), batch
        ),
        "transformers plain, padded to 128 + 100": from_labels((MAX_WORDS, MAX_REGIONS)),
        "transformers plain, padded to the longest": from_labels(longest),
    }
    if naive:
        teacher = TransformersModel(TEACHER).eval().requires_grad_(False)
        views = padded_views(batch, MAX_WORDS, MAX_REGIONS)

        def naive_loss() -> Tensor:
            with torch.no_grad():
                taught = [teacher(*view) for view in views]
            seen = [theirs(*view) for view in views]
            kl = [
                F.kl_div(F.log_softmax(s / 2, -1), F.log_softmax(t / 2, -1), reduction="batchmean", log_target=True)
                for s, t in zip(seen, taught)
            ]
            return F.cross_entropy(seen[0], batch.targets) + 4 * sum(kl)

        steps["msd live"] = step_of(distillation(LiveTeacher(VisualBert(NUM_CLASSES, **TEACHER), DropMasker())), batch)
        steps["naive msd on transformers"] = transformers_step(theirs, naive_loss)
    return steps


def quickstart_sizes() -> dict[str, Step]:
    """Steps of projects/quickstart: 16 x 16 pixels in four patches, short texts, a student of 32 features and one layer."""
    torch.manual_seed(0)
    num_words = torch.randint(8, 15, (32,))
    place = torch.arange(14)
    mask = place < num_words[:, None]
    special = ((place == 0) | (place == num_words[:, None] - 1)) & mask
    text = ModalityInputs(torch.randint(5, 60, mask.shape) * mask, mask, {"special": special}, 2)
    image = ModalityInputs(torch.randn(32, 3, 16, 16), torch.ones(32, 1, dtype=torch.bool))
    batch = Batch({"image": image, "text": text}, torch.randint(2, (32,)), tuple(map(str, range(32))))

    def model(packed: bool, width: int, num_layers: int, num_heads: int) -> VisualBert:
        sizes: dict[str, Any] = {"hidden_size": width, "num_layers": num_layers, "num_heads": num_heads, "max_positions": 16}
        patches = Patches(image_size=16, hidden_size=width)
        return VisualBert(
            2, vocab_size=60, intermediate_size=2 * width, image_encoder=patches, cls_id=2, sep_id=3, packed=packed, **sizes
        )

    steps = {}
    for packed in (True, False):
        form = "packed" if packed else "plain form"
        teacher = LiveTeacher(model(packed, 64, 2, 4), DropMasker())
        student = model(packed, 32, 1, 2)
        steps[f"quickstart teacher, {form}"] = step_of(SupervisedObjective(model(packed, 64, 2, 4)), batch)
        steps[f"quickstart ce, {form}"] = step_of(SupervisedObjective(student), batch)
        steps[f"quickstart msd, {form}"] = step_of(DistillationObjective(student, teacher, DropMasker(), list(VIEWS)), batch)
        evaluated = model(packed, 32, 1, 2).eval()

        def look(evaluated: VisualBert = evaluated) -> None:
            with torch.no_grad():
                evaluated.forward_views([DropMasker().view(batch, view).inputs for view in VIEWS])

        steps[f"quickstart evaluation, {form}"] = look
    return steps


def ratios(ms: dict[str, float]) -> dict[str, float]:
    """The claims, each a ratio of two medians."""
    named = {
        "msd_over_plain": ("msd cached", "plain"),
        "msd_over_plain_without_shared_dropout": ("msd cached, share_embedding_dropout: false", "plain"),
        "msd_over_hf_padded": ("msd cached", "transformers plain, padded to 128 + 100"),
        "msd_over_hf_padded_to_longest": ("msd cached", "transformers plain, padded to the longest"),
        "naive_over_msd": ("naive msd on transformers", "msd cached"),
        "naive_over_live": ("naive msd on transformers", "msd live"),
        "unpacked_over_packed_msd": ("msd cached, packed: false", "msd cached"),
        "unpacked_over_packed_plain": ("plain, packed: false", "plain"),
    }
    return {name: ms[a] / ms[b] for name, (a, b) in named.items() if a in ms and b in ms}


def main() -> None:
    """Prints tables and, if asked, writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--no-naive", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "medium", "bf16"])
    parser.add_argument("--quickstart", action="store_true", help="only the tiny models of projects/quickstart")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    report: dict[str, Any] = {"torch": torch.__version__, "machine": machine(), "threads": 1}
    report |= {"rounds": options.rounds, "examples": options.examples, "unit": "CPU ms of the process, median"}
    if not options.quickstart:
        steps = published_sizes(options.examples, not options.no_naive)
        for precision in options.precisions:
            torch.set_float32_matmul_precision("medium" if precision == "medium" else "highest")
            cast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
            with cast:
                ms = measure(steps, options.rounds)
            report[precision] = {"ms": ms, "ratios": ratios(ms)}
            print_table(precision, ms)
            print_table("", ratios(ms))
        torch.set_float32_matmul_precision("highest")
    report["quickstart"] = {"ms": measure(quickstart_sizes(), 40 * options.rounds)}
    print_table("quickstart", report["quickstart"]["ms"])
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def machine() -> str:
    """The CPU, where the system says."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def print_table(title: str, numbers: dict[str, float]) -> None:
    for name, number in numbers.items():
        print(f"{title:8s} {name:45s} {number:10.2f}", flush=True)


if __name__ == "__main__":
    main()
