"""A data set of a user's own may hand out anything: what is no right example is told by its place, before it is read."""

import pytest

from msd_framework.data.base import Example, MultimodalDataset
from msd_framework.data.batches.reader import ExampleReader, read_example
from msd_framework.data.overlap import survey
from msd_framework.data.processors.text import Tokenizer
from msd_framework.errors import DataError
from msd_framework.structures import DatasetInfo

INFO = DatasetInfo({"image": "pixels", "text": "tokens"}, 2, "single_label", ("benign", "hateful"))
INPUTS = {"image": None, "text": "a"}


class Given(MultimodalDataset):
    """What it is given."""

    splits = ("train",)

    def __init__(self, *examples):
        self.examples = examples

    @classmethod
    def describe(cls, options):
        return INFO

    @classmethod
    def check(cls, options, split):
        return []

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        example = self.examples[index]
        if isinstance(example, Exception):
            raise example
        return example


def example(name="a", target=0, **inputs):
    return Example(name, {**INPUTS, **inputs}, target, f"rows:{name}")


def test_right_examples_are_taken():
    survey(Given(example(), example("b", image="b.png")), INFO)


@pytest.mark.parametrize(
    ("second", "text"),
    [
        (({"text": "a"}, 0), r"^Given\[1\] is a tuple, wanted an Example, of msd_framework\.data\.base$"),
        (None, r"^Given\[1\] is a NoneType, wanted an Example"),
        (KeyError("colour"), r"^Given\[1\] cannot be read: .*test_examples_of_own\.py:\d+: KeyError: 'colour'\.$"),
        (Example("b", {"text": "a", "imgae": None}, 0, "rows:b"), r"^rows:b: .*not 'image'.*Did you mean 'imgae'\?$"),
        (example("b", sound=None), r"^rows:b: example 'b' has an input 'sound', which describe\(\) of Given does not name\."),
        (example(7), r"^rows:7: the id 7 \(int\) of an example of Given is no text"),
        (example(), r"^rows:a: examples 0 and 1 of Given have the id 'a'; ids must differ$"),
        (example("b", 2), r"^rows:b: the target of example 'b' is 2, wanted a class from 0 to 1, or None$"),
    ],
)
def test_what_is_no_right_example_is_told_with_its_place(second, text):
    with pytest.raises(DataError, match=text):
        survey(Given(example(), second), INFO)


def test_an_error_that_is_a_sentence_already_stays_as_it_is():
    with pytest.raises(DataError, match=r"^rows:9: no label$"):
        read_example(Given(DataError("rows:9: no label")), 0, ())


def test_what_a_data_set_raises_is_a_sentence_for_whoever_reads_it():
    reader = ExampleReader(Given(KeyError("colour")), {"text": Tokenizer()})
    for read in (reader, reader.length):
        with pytest.raises(DataError, match=r"^Given\[0\] cannot be read: .*KeyError"):
            read(0)
