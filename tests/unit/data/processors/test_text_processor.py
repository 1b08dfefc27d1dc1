"""Text as token ids, against transformers and against counting by hand."""

import json
import os
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.data.processors.text import Tokenizer
from msd_framework.errors import CheckpointError, DataError

TEXTS = [f"The quick fox number {i} jumps over {i % 7} lazy dogs, naïvely" for i in range(60)] + ["the end", "the start"]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "fox", "jump", "##s", "over", "love", "##ly", "!", "a"]


def trained(**options) -> Tokenizer:
    tokenizer = Tokenizer(**options)
    tokenizer.fit(TEXTS)
    return tokenizer


def batch(tokenizer: Tokenizer, texts: list[str]):
    return tokenizer.collate([tokenizer.load(text) for text in texts])


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory) -> Path:
    """What an old checkpoint of BERT has: a vocabulary, and no tokenizer.json."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(SPECIALS + WORDS))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    return folder


def test_learnt_words_are_the_most_frequent_ones():
    counts = Counter(" ".join(TEXTS).lower().replace(",", " , ").replace("ï", "i").split())
    by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
    vocabulary = trained(max_vocabulary=12).tokenizer.get_vocab()
    assert sorted(vocabulary, key=vocabulary.get) == SPECIALS + by_frequency[:7]


def test_rare_words_are_unknown():
    tokenizer = trained(min_frequency=2)
    assert tokenizer.load("the start")[0].tolist()[2:] == [1, 3]


@pytest.mark.parametrize("algorithm", ["wordlevel", "wordpiece"])
def test_equal_texts_give_equal_tokenizers(algorithm):
    prints = {trained(algorithm=algorithm, max_vocabulary=90).fingerprint for _ in range(4)}
    assert len(prints) == 1


def test_pieces_spell_words_that_were_never_seen():
    tokenizer = trained(algorithm="wordpiece", max_vocabulary=100)
    ids = tokenizer.load("foxes jumped")[0]
    assert 1 not in ids
    assert tokenizer.tokenizer.decode(ids.tolist()).replace(" ##", "").replace(" ", "") == "foxesjumped"


def test_capital_letters_are_kept_if_wanted():
    small, capital = (trained(lowercase=False).load(word)[0][1] for word in ("the", "The"))
    assert small != capital
    assert trained().load("the").equal(trained().load("The"))


def test_a_batch_is_padded_to_its_longest_and_special_tokens_are_marked():
    tokenizer = trained()
    inputs = batch(tokenizer, ["the fox", "the"])
    the, fox = tokenizer.tokenizer.token_to_id("the"), tokenizer.tokenizer.token_to_id("fox")
    assert inputs.values.tolist() == [[2, the, fox, 3], [2, the, 3, 0]]
    assert inputs.values.dtype == torch.int64
    assert inputs.mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert inputs.special.tolist() == [[True, False, False, True], [True, False, True, False]]
    assert inputs.special.dtype == inputs.mask.dtype == torch.bool


def test_an_empty_text_is_absent():
    assert batch(trained(), ["", "the"]).present.tolist() == [False, True]


def test_special_tokens_that_a_user_types_are_content():
    inputs = batch(trained(), ["the [SEP] fox"])
    assert inputs.values[0, 2] == 3
    assert inputs.special[0].tolist() == [True, False, False, False, True]


def test_a_long_text_is_cut_and_keeps_its_end_mark():
    ids, special = trained(max_length=5).load("the quick fox jumps over")
    assert (len(ids), ids[0], ids[-1]) == (5, 2, 3)
    assert special.tolist() == [1, 0, 0, 0, 1]


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=4))
def test_any_text_becomes_a_batch_with_its_marks(texts):
    inputs = batch(ALPHABET, texts)
    assert inputs.values.shape == inputs.mask.shape == inputs.special.shape
    assert (inputs.special.sum(1) == 2).all()
    assert (inputs.values[~inputs.mask] == 0).all()
    assert inputs.values.shape[1] <= 10


ALPHABET = trained(algorithm="wordpiece", max_length=10)


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["a"], Path("a")])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(DataError, match="wanted a text, got"):
        ALPHABET.load(value)
    with pytest.raises(DataError, match="wanted a text, got"):
        Tokenizer().fit(["a", value])


def test_half_a_character_is_refused():
    with pytest.raises(DataError, match="wanted whole Unicode characters"):
        ALPHABET.load("\ud800")


def test_nothing_can_be_learnt_from_no_text():
    with pytest.raises(DataError, match="cannot learn its vocabulary from no text"):
        Tokenizer().fit([])


def test_using_it_before_it_learnt_is_an_error():
    with pytest.raises(RuntimeError, match="no vocabulary yet: call fit"):
        Tokenizer().load("a")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_length": 2}, "max_length is 2, wanted at least 3"),
        ({"max_vocabulary": 5}, "max_vocabulary is 5, wanted more than the 5 special tokens"),
        ({"min_frequency": 0}, "min_frequency is 0, wanted at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Tokenizer(**options)


def test_a_model_is_told_the_ids():
    tokenizer = trained()
    size = len(tokenizer.tokenizer.get_vocab())
    assert tokenizer.facts == {"vocab_size": size, "pad_id": 0, "cls_id": 2, "sep_id": 3}


def test_what_was_learnt_is_restored(tmp_path):
    tokenizer, again = trained(algorithm="wordpiece"), Tokenizer()
    tokenizer.save(tmp_path / "text")
    again.restore(tmp_path / "text")
    assert again.fingerprint == tokenizer.fingerprint
    assert again.facts == tokenizer.facts
    assert all(again.load(t).equal(tokenizer.load(t)) for t in TEXTS)


def test_another_length_or_vocabulary_is_another_fingerprint():
    prints = {trained(**o).fingerprint for o in ({}, {"max_length": 9}, {"max_vocabulary": 12}, {"lowercase": False})}
    assert len(prints) == 4


@pytest.mark.parametrize("content", [None, "{}", '{"version": "1.0"'])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: (no such file|is not a tokenizer.json)"):
        Tokenizer().restore(tmp_path)


def test_a_worker_process_gets_the_same_tokenizer():
    tokenizer = trained()
    assert pickle.loads(pickle.dumps(tokenizer)).load("the fox").equal(tokenizer.load("the fox"))  # noqa: S301


def test_learning_leaves_the_environment_alone(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    trained()
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    trained()
    assert "TOKENIZERS_PARALLELISM" not in os.environ


@pytest.mark.parametrize("at", ["", "tokenizer.json"])
def test_a_folder_or_file_is_read_as_it_is(tmp_path, at):
    learnt = trained()
    learnt.save(tmp_path)
    named = Tokenizer(name=str(tmp_path / at))
    assert named.load("the fox").equal(learnt.load("the fox"))
    named.fit(["other words"])
    assert named.fingerprint == learnt.fingerprint


def test_a_transformers_folder_gives_the_batches_of_transformers(bert_folder):
    from transformers import AutoTokenizer

    texts = ["The fox jumps over!", "love", "", "lovely foxes"]
    theirs = AutoTokenizer.from_pretrained(bert_folder)(texts, padding=True, truncation=True, max_length=5, return_tensors="pt")
    tokenizer = Tokenizer(name=str(bert_folder), max_length=5)
    ours = batch(tokenizer, texts)
    assert ours.values.equal(theirs["input_ids"])
    assert ours.mask.long().equal(theirs["attention_mask"])
    assert tokenizer.facts == {"vocab_size": len(SPECIALS + WORDS), "pad_id": 0, "cls_id": 2, "sep_id": 3}


def write_json(path: Path, padding=None, template=None, vocabulary=("a", "b", "<s>", "</s>")) -> Path:
    """A tokenizer.json of words, as other libraries write them."""
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models, pre_tokenizers, processors

    pipeline = Pipeline(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="a"))  # noqa: S106
    pipeline.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        marks = [(t, pipeline.token_to_id(t)) for t in template.split() if t != "$A"]
        pipeline.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
    if padding:
        pipeline.enable_padding(**padding)
    pipeline.save(str(path))
    return path


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"template": "<s> $A </s>"}, {"pad_id": 3, "cls_id": 2, "sep_id": 3}),
        ({"template": "$A </s>"}, {"pad_id": 3, "sep_id": 3}),
        ({}, {"pad_id": 0}),
        ({"padding": {"pad_id": 1, "pad_token": "b", "length": 64}}, {"pad_id": 1}),
        ({"vocabulary": ("a", "<pad>")}, {"pad_id": 1}),
    ],
)
def test_marks_and_padding_are_found_in_any_tokenizer(tmp_path, options, facts):
    file = write_json(tmp_path / "words.json", **options)
    tokenizer = Tokenizer(name=str(file))
    assert {k: v for k, v in tokenizer.facts.items() if k != "vocab_size"} == facts
    inputs = batch(tokenizer, ["a a a", "a"])
    assert inputs.values[1, -1] == facts["pad_id"]
    assert (~inputs.mask).sum() == 2


def test_a_vocabulary_of_nothing_is_an_error(tmp_path):
    with pytest.raises(DataError, match="has an empty vocabulary"):
        Tokenizer(name=str(write_json(tmp_path / "words.json", vocabulary=()))).fit([])


def test_a_name_that_leads_nowhere_is_told(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.json: no such file, wanted a tokenizer.json"):
        Tokenizer(name=str(tmp_path / "nowhere.json")).fit([])
    with pytest.raises(DataError, match=r"no tokenizer can be loaded from '.+', wanted a model of the hub, a folder"):
        Tokenizer(name=str(tmp_path)).fit([])


def test_a_tokenizer_of_python_only_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a</w>": 0, "<unk>": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "ctrl"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}))
    with pytest.raises(DataError, match=r"exists in Python only, wanted one with a tokenizer.json"):
        Tokenizer(name=str(tmp_path)).fit([])


@pytest.mark.parametrize("algorithm", ["wordlevel", "wordpiece"])
def test_texts_that_are_read_again_give_the_vocabulary_of_texts_in_memory(algorithm):
    class Read:
        def __iter__(self):
            return (f"word {i % 37} of {i % 11} texts" for i in range(2000))

    learned = []
    for texts in (list(Read()), Read(), iter(Read())):
        tokenizer = Tokenizer(algorithm=algorithm)
        tokenizer.fit(texts)
        learned.append(tokenizer.tokenizer.to_str())
    assert learned[0] == learned[1] == learned[2]
