"""Which examples have a modality that a teacher alone sees, where its inputs are made and where its answers are cached."""

from pathlib import Path

import numpy as np
import pytest
import torch

from msd_framework.data.base import Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.reader import ExampleReader, NotMade, TeacherOverrides
from msd_framework.data.processors.features import RegionFeatures
from msd_framework.data.processors.text import Tokenizer
from msd_framework.data.sets.tables import Table
from msd_framework.structures import Batch, DatasetInfo

INFO = DatasetInfo({"image": "pixels", "text": "tokens"}, 2, "single_label", ("a", "b"))


def regions(folder: Path) -> Processor:
    for name, count in {"none": 0, "two": 2}.items():
        np.save(folder / f"{name}.npy", np.ones((count, 4), np.float32))
    return RegionFeatures(str(folder), feature_size=4)


def words(folder: Path) -> Processor:
    tokenizer = Tokenizer()
    tokenizer.fit(["look at this"])
    return tokenizer


def batch(folder: Path, overrides: TeacherOverrides) -> Batch:
    (folder / "train.csv").write_text("t,i,l\nlook,none.png,a\n   ,two.png,b\nlook at,two.png,a\n\u200b,two.png,b\n")
    table = Table("train", str(folder), texts={"text": "t"}, images={"image": "i"}, label="l", classes=["a", "b"])
    reader = ExampleReader(table, {}, teacher_overrides=overrides)
    loaded = [reader(i) for i in range(len(table))]
    return Collator({}, INFO, teacher_overrides=overrides)([one for one in loaded if one is not None])


@pytest.mark.parametrize(("modality", "make"), [("image", regions), ("text", words)])
def test_a_cached_teacher_lacks_what_it_lacked_when_its_inputs_were_made(tmp_path, modality, make):
    processor = make(tmp_path)
    key = (modality, (0,))
    live, cached = batch(tmp_path, {key: processor}), batch(tmp_path, {key: NotMade(processor)})
    assert cached.teacher_inputs == {key: None}
    assert live.teacher_having[key].tolist() == cached.teacher_having[key].tolist()
    assert not live.teacher_having[key].all()


def test_files_that_are_gone_once_their_answers_are_cached_were_there(tmp_path):
    processor = regions(tmp_path)
    (tmp_path / "two.npy").unlink()
    key = ("image", (0,))
    having = batch(tmp_path, {key: NotMade(processor)}).teacher_having[key]
    assert torch.equal(having, torch.tensor([False, True, True, True]))
