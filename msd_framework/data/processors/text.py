"""Text as token ids, with a tokenizer that is trained on the spot or one that a pretrained model was trained with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from msd_framework.data.base import PROCESSORS, Processor
from msd_framework.errors import CheckpointError, DataError
from msd_framework.files import write_text
from msd_framework.ranges import MOST_WORDS
from msd_framework.reading import read_json, read_text
from msd_framework.structures import ModalityInputs

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
THREADS = "TOKENIZERS_PARALLELISM"
FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
BLANKS = " \t\n\u0120\u2581"  # as tokenizers write them: themselves, and the marks of GPT-2's kind and of SentencePiece
VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")  # that transformers reads by itself


@PROCESSORS.register("tokenizer")
class Tokenizer(Processor):
    """Text as the ids of its tokens, between the tokens that mark its beginning and its end.

    Without a ``name`` the vocabulary is learnt from the training texts: the most frequent words (``wordlevel``) or pieces of
    words (``wordpiece``, Schuster & Nakajima, ICASSP 2012), the same for the same texts. A text is ``[CLS] text [SEP]``.

    Args:
        name: a model of the Hugging Face hub, a folder or a `tokenizer.json` whose tokenizer to use; if left out, one is learnt.
        max_vocabulary: how many different tokens to learn at most (wordpiece keeps every character even so).
        min_frequency: how often a word or piece must be seen to be learnt.
        algorithm: what to learn, whole words or pieces of words.
        lowercase: whether capital letters and accents are dropped before learning and reading.
        max_length: how many tokens to keep of a text, those that mark its beginning and end included.

    >>> tokenizer = Tokenizer(max_length=4)
    >>> tokenizer.fit(["look how many people love you", "love"])
    >>> batch = tokenizer.collate([tokenizer.load("love you how"), tokenizer.load("love")])
    >>> batch.values
    tensor([[ 2,  5, 10,  3],
            [ 2,  5,  3,  0]])
    """

    kind = "tokens"

    def __init__(
        self,
        name: str | None = None,
        max_vocabulary: int = 8000,
        min_frequency: int = 1,
        algorithm: Literal["wordlevel", "wordpiece"] = "wordlevel",
        lowercase: bool = True,
        max_length: int = 128,
    ):
        if max_length < 3:
            raise ValueError(f"max_length is {max_length}, wanted at least 3: a beginning, a token and an end")
        if max_vocabulary <= len(SPECIAL_TOKENS):
            raise ValueError(f"max_vocabulary is {max_vocabulary}, wanted more than the {len(SPECIAL_TOKENS)} special tokens")
        if min_frequency < 1:
            raise ValueError(f"min_frequency is {min_frequency}, wanted at least 1")
        self.name, self.max_vocabulary, self.min_frequency = name, max_vocabulary, min_frequency
        self.algorithm, self.lowercase, self.max_length = algorithm, lowercase, max_length
        self._tokenizer: Any = None

    def fit(self, values: Iterable[Any]) -> None:
        """Learns the vocabulary from texts, which are kept only if they can be gone through but once; or reads the named one."""
        self._use(_learn(values, self) if self.name is None else read_tokenizer(self.name))

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> list[str]:
        name = options.get("name")
        unused = [key for key in ("max_vocabulary", "min_frequency", "algorithm", "lowercase") if key in options]
        if name is not None and unused:
            return [f"{', '.join(unused)} is for a tokenizer that is learnt, and this one is that of {name}; leave it out."]
        is_path = isinstance(name, str) and (name.startswith((".", "/", "~")) or name.endswith(".json"))
        if not is_path or Path(str(name)).expanduser().exists():
            return []
        return [f"there is no tokenizer at {name}; wanted a folder or a tokenizer.json, or a name of the Hugging Face hub."]

    def load(self, value: Any) -> Tensor:
        """A text's token ids and, below each, whether it belongs to the model rather than to the text, int32 [2, L]."""
        encoding = self._encoded(value)
        return torch.tensor([encoding.ids, encoding.special_tokens_mask], dtype=torch.int32)

    def length(self, value: Any) -> int:
        return len(self._encoded(value))

    def is_present(self, value: Any) -> bool:
        return not all(self._encoded(value).special_tokens_mask)

    def _encoded(self, value: Any) -> Any:
        text, tokenizer = _text(value), self.tokenizer
        try:
            return tokenizer.encode(text)
        except Exception as error:  # the library raises nothing narrower, such as for a word that it has no unknown token for
            raise DataError(f"the tokenizer cannot read {text[:60]!r}: {error}") from error

    def collate(self, loaded: Sequence[Tensor]) -> ModalityInputs:
        """Ids int64 [B, L], padded to the longest of the batch; ``special`` is True at the model's own tokens, not at padding.

        Where no text of the batch has a token, L is 1: models want a position, be it a masked one.
        """
        padding = self.tokenizer.padding["pad_id"]
        both = pad_sequence([x.T for x in loaded], batch_first=True, padding_value=padding)  # [B, L, 2]
        if not both.shape[1]:
            both = both.new_full((len(both), 1, 2), padding)
        mask = torch.arange(both.shape[1]) < torch.tensor([x.shape[1] for x in loaded])[:, None]  # [B, L]
        special = both[..., 1].bool() & mask
        return ModalityInputs(both[..., 0].long(), mask, {"special": special}, int(special.sum(1).max()))

    def blank(self) -> Tensor:
        """The marks of beginning and end, with nothing in between; a tokenizer without them has a place of padding."""
        marks = self.load("")  # [2, L]
        return marks if marks.shape[1] else torch.tensor([[self.tokenizer.padding["pad_id"]], [0]], dtype=torch.int32)

    @property
    def facts(self) -> dict[str, Any]:
        """With ``cls_id`` and ``sep_id`` where the tokenizer marks beginning and end."""
        ids, special = self._encoded_word()
        facts = {"vocab_size": max(self.tokenizer.get_vocab().values()) + 1, "pad_id": self.tokenizer.padding["pad_id"]}
        if special[0]:
            facts["cls_id"] = ids[0]
        if special[-1]:
            facts["sep_id"] = ids[-1]
        return facts

    def problem_with(self, texts: Iterable[str]) -> str:
        """Why this is not the tokenizer for texts; empty if it knows a word of one of them, or all are empty."""
        unknown, example, tokens = getattr(self.tokenizer.model, "unk_token", None), "", "no token"
        for text in texts:
            if not text.strip():
                continue
            example, encoding = text, self._encoded(text)
            for token, special in zip(encoding.tokens, encoding.special_tokens_mask):
                if special or not token.strip(BLANKS):
                    continue
                if token != unknown:
                    return ""
                tokens = f"only {unknown}"
        text = f"makes {tokens} of texts such as {example[:60]!r}: it knows none of their words"
        return f"{text}. Take another tokenizer, or options." if example else ""

    @property
    def needs_known_words(self) -> bool:
        """Whether a word that is not in the vocabulary cannot be read, since there is no token for unknown ones."""
        try:
            self.load("\u2603\u2047 zqxj")
        except DataError:
            return True
        return False

    def _encoded_word(self) -> tuple[list[int], list[bool]]:
        """The ids of a text of one known word, and which of them are special."""
        vocabulary = self.tokenizer.get_vocab()
        for word in ("a", *sorted(vocabulary, key=vocabulary.__getitem__)):
            try:
                ids, special = self.load(word).tolist()
            except DataError:
                continue
            if not all(special):
                return ids, special
        raise DataError(f"the tokenizer {self.name} can read no word of its own vocabulary of {len(vocabulary)}")

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()  # truncation to max_length is part of the text

    def save(self, folder: Path) -> None:
        write_text(folder / FILE, self.tokenizer.to_str())

    def restore(self, folder: Path) -> None:
        try:
            self._use(_read(folder / FILE))
        except DataError as error:
            raise CheckpointError(str(error)) from error

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the `tokenizers` library, truncating to ``max_length``."""
        if self._tokenizer is None and self.name is not None:
            self._use(read_tokenizer(self.name))
        if self._tokenizer is None:
            raise RuntimeError("this tokenizer has no vocabulary yet: call fit with the training texts, or restore")
        return self._tokenizer

    def _use(self, tokenizer: Any) -> None:
        if tokenizer.padding is None:
            # the padding token by its usual names; else the end mark, else the first token: padding is masked, so any will do
            vocabulary = tokenizer.get_vocab()
            names = ["[PAD]", "<pad>", *reversed(tokenizer.encode("").tokens), min(vocabulary, key=vocabulary.__getitem__)]
            name = next(name for name in names if name in vocabulary)
            padding = {"pad_id": vocabulary[name], "pad_token": name}
        else:
            padding = {key: tokenizer.padding[key] for key in ("pad_id", "pad_token")}
        tokenizer.enable_padding(**padding)  # one text alone is never padded
        tokenizer.enable_truncation(self.max_length)
        self._tokenizer = tokenizer


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"wanted a text, got {value!r} ({type(value).__name__})")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"wanted whole Unicode characters, got {value!r}") from error
    return value


def _learn(values: Iterable[Any], options: Tokenizer) -> Any:
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

    values = list(values) if isinstance(values, Iterator) else values
    if next(map(_text, values), None) is None:
        raise DataError("a tokenizer cannot learn its vocabulary from no text at all")
    is_of_words = options.algorithm == "wordlevel"
    model: Any = models.WordLevel if is_of_words else models.WordPiece
    trainer: Any = trainers.WordLevelTrainer if is_of_words else trainers.WordPieceTrainer
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=options.lowercase), pre_tokenizers.BertPreTokenizer()

    def pipeline(untrained: Any) -> Any:
        result = Pipeline(untrained)
        result.normalizer, result.pre_tokenizer = normalizer, pre_tokenizer
        return result

    # The trainer of pieces numbers characters in the order of a randomly seeded hash map and breaks ties by number. Listed
    # beforehand, they are numbered by us, and equal texts give equal vocabularies.
    first, later = set[str](), set[str]()
    for text in () if is_of_words else map(_text, values):
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)):
            first.update(word)
            later.update(f"##{character}" for character in word[1:])
    training: dict[str, Any] = {"vocab_size": options.max_vocabulary, "min_frequency": options.min_frequency}
    training |= {"special_tokens": [*SPECIAL_TOKENS, *sorted(first), *sorted(later)], "show_progress": False}
    learner = pipeline(model(unk_token="[UNK]"))  # noqa: S106
    threads = os.environ.get(THREADS)
    os.environ[THREADS] = "false"  # else the library complains in the loader's processes that are forked later
    try:
        learner.train_from_iterator(map(_text, values), trainer(**training))
    finally:
        del os.environ[THREADS]
        if threads is not None:
            os.environ[THREADS] = threads
    vocabulary = learner.get_vocab()
    learned = pipeline(model(vocabulary, unk_token="[UNK]"))  # noqa: S106
    learned.add_special_tokens(list(SPECIAL_TOKENS))
    marks = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    learned.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    return learned


def read_tokenizer(name: str) -> Any:
    path = Path(name)
    if path.is_file() or path.suffix == ".json":
        return _read(path)
    if (path / FILE).is_file():
        _check_agreement(path)
        return _read(path / FILE)
    for file in map(path.joinpath, VOCABULARIES):
        if file.is_file() and read_text(file, keep_mark=True).startswith("\ufeff"):
            raise DataError(f"{file}: begins with a byte order mark, which would be a part of its first word; save it without")
    from transformers import AutoTokenizer

    try:
        pretrained = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
    except Exception as error:  # a damaged folder can make it raise anything
        wanted = "wanted a model of the hub, a folder or a tokenizer.json"
        raise DataError(f"no tokenizer can be loaded from {name!r}, {wanted}: {error}") from error
    if not pretrained.is_fast:
        raise DataError(f"the tokenizer {name!r} exists in Python only, wanted one with a tokenizer.json")
    tokenizer = pretrained.backend_tokenizer
    if pretrained.pad_token is not None:
        tokenizer.enable_padding(pad_id=pretrained.pad_token_id, pad_token=pretrained.pad_token)
    return tokenizer


def _check_agreement(folder: Path) -> None:
    """Refuses a folder whose two files disagree on capital letters: transformers reads the one, we the other."""
    config = read_json(folder / CONFIG).get("do_lower_case") if (folder / CONFIG).is_file() else None
    normalizer = read_json(folder / FILE).get("normalizer")
    file = normalizer.get("lowercase") if isinstance(normalizer, dict) else None
    if isinstance(config, bool) and isinstance(file, bool) and config != file:
        text = f"{folder}: {CONFIG} says do_lower_case={str(config).lower()} and {FILE} lowercase={str(file).lower()}"
        raise DataError(f"{text}; make them agree on what the model was trained with")


def _read(file: Path) -> Any:
    from tokenizers import Tokenizer as Pipeline

    if not file.is_file():
        raise DataError(f"{file}: no such file, wanted a tokenizer.json")
    text = read_text(file)
    try:
        tokenizer = Pipeline.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{file}: is not a tokenizer.json ({error})") from error
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= MOST_WORDS:
        raise DataError(f"{file}: has the id {largest:,}, wanted ids of tokens below {MOST_WORDS:,}")
    if not tokenizer.get_vocab_size():
        raise DataError(f"{file}: has an empty vocabulary")
    return tokenizer
