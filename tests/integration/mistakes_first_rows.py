"""Mistakes that show only when data goes through a model: they are told before the first update."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.integration.mistakes import Mistake, student

HERE = "tests.integration.mistakes_first_rows"
PIXELS = 3 * 8 * 8


class Own(nn.Module):
    """A right one: the mean of its words and its pixels."""

    def __init__(self, num_classes: int = 2, words: int = 500, pixels: int = PIXELS):
        super().__init__()
        self.words, self.pixels = nn.Embedding(words, 4), nn.Linear(pixels, 4)
        self.out = nn.Linear(8, num_classes)

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.cat([self.words(input_ids).mean(1), self.pixels(pixel_values.flatten(1))], -1))
        return logits


class Failing(Own):
    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        raise RuntimeError("the third gear is stuck")


class FailingInTraining(Own):
    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("no gear while training")
        return super().forward(input_ids, pixel_values)


class FailingInEvaluation(Own):
    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        if not self.training:
            raise KeyError("statistics")
        return super().forward(input_ids, pixel_values)


class OfFourRows(Own):
    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        return super().forward(input_ids, pixel_values.reshape(4, PIXELS))


class Convolved(Own):
    def __init__(self, num_classes: int = 2, kernel: int = 3):
        super().__init__(num_classes, pixels=4)
        self.convolution = nn.Conv2d(3, 4, kernel)

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        return super().forward(input_ids, self.convolution(pixel_values).mean((2, 3)))


class Placed(Own):
    def __init__(self, num_classes: int = 2):
        super().__init__(num_classes)
        self.places = nn.Embedding(5, 4)

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        places = self.places(torch.arange(input_ids.shape[1])).mean(0)
        return super().forward(input_ids, pixel_values) + places.sum()


class Writing(Own):
    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        return self.out(self.words(input_ids).repeat(1, 1, 2))


class Greedy(Own):
    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        return torch.empty(len(input_ids), 2**50)


class Normed(Own):
    def __init__(self, num_classes: int = 2):
        super().__init__(num_classes)
        self.norm = nn.BatchNorm1d(num_classes)

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        return self.norm(super().forward(input_ids, pixel_values))


class Detached(Own):
    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        return super().forward(input_ids, pixel_values).detach()


def own(name: str, *words: str, options: str = "{}") -> list[str]:
    inputs = "inputs: {text: input_ids, image: pixel_values}"
    return [f"model={{type: module, target: {HERE}.{name}, options: {options}, {inputs}}}", "masker=attention", *words]


VISUAL_BERT = (
    "model={type: visual_bert, hidden_size: 8, num_layers: 1, num_heads: 2, intermediate_size: 16, "
    "image_encoder: {type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}}"
)
SIZES = "hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16"
NORMED = (
    "model={type: concat_bert, text_encoder: {type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}, "
    "image_encoder: {type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}, hidden_size: 8, batch_norm: true}"
)


SHORT_BERT = (
    f"model={{type: huggingface, config: {{model_type: bert, {SIZES}, max_position_embeddings: 6}}, inputs: {{text: input_ids}}}}"
)
T5 = "{model_type: t5, d_model: 8, num_layers: 1, num_heads: 2, d_kv: 4, d_ff: 16}"


def vit(more: str) -> str:
    return f"model={{type: huggingface, config: {{model_type: vit, {SIZES}, {more}}}, inputs: {{image: pixel_values}}}}"


def tokenizer(words: list[str], unknown: bool = True, name: str = "words.json"):
    """Writes a tokenizer of whole words."""

    def write(here: Path, world: Path, teacher: Path) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers

        tokens = (["[UNK]"] if unknown else []) + words
        made = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))  # noqa: S106
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.save(str(here / name))

    return write


def of_letters(here: Path, world: Path, teacher: Path) -> None:
    """Writes a tokenizer of Cyrillic letters that has no unknown token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(["тёплая вещь"], trainers.BpeTrainer(vocab_size=40, show_progress=False))
    made.save(str(here / "words.json"))


def bert_folder(here: Path, world: Path, teacher: Path) -> None:
    """Writes a BERT with its weights and its tokenizer."""
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "day", "a", "what", "0", "1", "2", "3", "4"]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertModel(BertConfig(vocab_size=20, **sizes))
    model.config.save_pretrained(here / "bert")
    save_file(model.state_dict(), here / "bert" / "model.safetensors", metadata={"format": "pt"})
    tokenizer(words, unknown=False, name="bert/tokenizer.json")(here, world, teacher)
    tokenizer(words[::-1], unknown=False)(here, world, teacher)


def bert_of_short_texts(here: Path, world: Path, teacher: Path) -> None:
    """Writes a BERT whose tokenizer says how long its texts were."""
    bert_folder(here, world, teacher)
    (here / "bert" / "tokenizer_config.json").write_text('{"model_max_length": 6}')


def writer_folder(here: Path, world: Path, teacher: Path) -> None:
    """Writes the config.json of a GPT-2."""
    (here / "gpt").mkdir()
    (here / "gpt" / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))


NAMED = "data.processors.text={type: tokenizer, name: <here>/words.json, max_length: 8}"
BERT = "model.encoders.text={type: bert, name: <here>/bert}"
ROW = r"the row \w+ \(.*train\.jsonl:\d+\)"

MISTAKES = [
    Mistake(
        "texts longer than the positions of a model",
        [VISUAL_BERT, "data.processors.text.max_length=600"],
        r"data\.processors\.text\.max_length: lets texts of 600 tokens through, and the positions of model are 512\. Lower it",
    ),
    Mistake(
        "texts longer than the positions of an encoder",
        ["model.encoders.text.max_positions=4"],
        r"data\.processors\.text\.max_length: lets texts of 8 tokens through, and the positions of model are 4\.",
    ),
    Mistake(
        "texts longer than the positions of a model of transformers",
        [SHORT_BERT],
        r"data\.processors\.text\.max_length: lets texts of 8 tokens through, and the positions of model are 6\.",
    ),
    Mistake(
        "texts longer than those that a published model was trained on",
        [BERT, "data.processors.text={type: tokenizer, name: <here>/bert, max_length: 8}"],
        r"data\.processors\.text\.max_length: is 8, and .*bert was trained on texts of at most 6 tokens \(model_max_length in its",
        bert_of_short_texts,
    ),
    Mistake(
        "images of another size than a vision transformer's",
        [vit("image_size: 32, patch_size: 8"), "data.processors.image={type: pixels, size: 48}"],
        rf"data\.processors\.image: the student cannot take {ROW}, image \[1, 3, 48, 48\]: .*doesn't match model",
    ),
    Mistake(
        "images of other colours than a vision transformer's",
        [vit("image_size: 8, patch_size: 4, num_channels: 1")],
        rf"the student cannot take {ROW}, .*channel dimension",
    ),
    Mistake(
        "batch norm and batches of one",
        [NORMED, "training.batch_size=1"],
        r"training\.batch_size: 1 examples in 1 parts leaves one example to a part, and a batch norm that learns needs two",
    ),
    Mistake(
        "batch norm and parts of one",
        [NORMED, "training.accumulate=4"],
        r"training\.batch_size: 4 examples in 4 parts leaves one example to a part",
    ),
    Mistake(
        "batch norm of one's own and parts of one",
        own("Normed", "training.accumulate=4"),
        r"training\.batch_size: 4 examples in 4 parts leaves one example to a part",
    ),
    Mistake(
        "batch norm of a student and parts of one",
        student(NORMED, "training.accumulate=4", "teacher.cache=true", "teacher.cache_dir=<here>/caches"),
        r"training\.batch_size: 4 examples in 4 parts leaves one example to a part",
    ),
    Mistake(
        "an embedding of fewer words than the tokenizer has",
        own("Own", options="{words: 4}"),
        r"the student cannot take .*IndexError: index out of range",
    ),
    Mistake(
        "an embedding without the last words of the tokenizer",
        own("Own", NAMED, options="{words: 11}"),
        r"data\.processors\.text: makes tokens from 0 to 12, and the student has no embedding for the last one",
        tokenizer(["what", "a", "0", "1", "2", "3", "4", "day", "b", "c", "d", "e"]),
    ),
    Mistake(
        "a module that fails",
        own("Failing"),
        rf"model: the student cannot take {ROW}, .*the third gear is stuck \(.*mistakes_first_rows\.py:\d+\)\.$",
    ),
    Mistake(
        "a module that fails in training",
        own("FailingInTraining"),
        r"objective: a training step cannot take .*no gear while train",
    ),
    Mistake(
        "a module that fails in evaluation",
        own("FailingInEvaluation"),
        rf"model: the student cannot take {ROW}, .*'statis",
    ),
    Mistake("a module for batches of one size", own("OfFourRows"), rf"model: the student cannot take {ROW}, .*shape '\[4, 192\]'"),
    Mistake(
        "a kernel larger than the image",
        own("Convolved", options="{kernel: 16}"),
        rf"the student cannot take {ROW}, .*Kernel size can't be greater",
    ),
    Mistake(
        "grey images for a convolution of colours",
        own("Convolved", "data.processors.image={type: pixels, size: 8, channels: 1}"),
        rf"the student cannot take {ROW}, .*to have 3 channels, but got 1",
    ),
    Mistake(
        "images of another size than a layer's",
        own("Own", "data.processors.image={type: pixels, size: 16}"),
        rf"the student cannot take {ROW}, image \[1, 3, 16, 16\], .*shapes cannot be multiplied",
    ),
    Mistake(
        "texts longer than the places of a module",
        own("Placed"),
        rf"the student cannot take {ROW}, .*text \[1, 6\]: IndexError",
    ),
    Mistake("a module that writes texts", own("Writing"), r"the student cannot take .*generative models are not supported yet"),
    Mistake("memory that there is not", own("Greedy"), r"training\.batch_size: memory is full in the student of 1 of the longest"),
    Mistake(
        "logits without a gradient",
        own("Detached"),
        r"objective: a training step cannot take .*does not require grad",
    ),
    Mistake(
        "a tokenizer of another alphabet",
        [NAMED],
        r"data\.processors\.text: makes no token of texts such as 'what a . day': it knows none of their words",
        of_letters,
    ),
    Mistake(
        "a tokenizer of other words",
        [NAMED],
        r"data\.processors\.text: makes only \[UNK\] of texts such as 'what a . day': it knows none of their words",
        tokenizer(["kocht", "Suppe"]),
    ),
    Mistake(
        "words that must be seen more often than any is",
        ["data.processors.text.min_frequency=1000"],
        r"data\.processors\.text: makes only \[UNK\] of texts such as",
    ),
    Mistake(
        "a tokenizer without a token for one unknown word",
        [NAMED],
        r"(train|dev_seen)\.jsonl:\d+: .*the tokenizer cannot read 'what a 4 day': .*, as it has no token for unknown words",
        tokenizer(["what", "a", "0", "1", "2", "3", "day"], unknown=False),
    ),
    Mistake(
        "a pretrained text encoder and a tokenizer that is learned",
        [BERT],
        r"data\.processors\.text\.name: must be .*bert: the model's weights there know the words of that folder's tokenizer",
        bert_folder,
    ),
    Mistake(
        "a pretrained text encoder and the tokenizer of another",
        [BERT, NAMED],
        r"data\.processors\.text\.name: \d+ of the 12 words of .*words\.json, such as '.*', have another number in the vocabulary",
        bert_folder,
    ),
    Mistake(
        "an encoder with a decoder",
        [f"model.encoders.text={{type: bert, config: {T5}}}"],
        r"model\.encoders\.text: config is a model that writes texts \(it is an encoder with a decoder\)",
    ),
    Mistake(
        "a folder of a model that writes texts",
        ["model={type: huggingface, name: <here>/gpt, inputs: {text: input_ids}}"],
        r"model: .*gpt is a model that writes texts \(GPT2LMHeadModel\), and generative models are not supported yet",
        writer_folder,
    ),
    Mistake(
        "a teacher that takes shorter texts",
        student("teacher.processors.text={type: tokenizer, max_length: 12}"),
        r"teacher\.processors\.text: the teacher was trained on other tensors: max_length is 12 here and 8 there",
    ),
]
