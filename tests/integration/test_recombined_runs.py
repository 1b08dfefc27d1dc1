"""Runs in which rows meet other rows: a cached teacher says what a live one does, two processes do what one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from msd_framework.errors import ConfigError
from msd_framework.run import run
from msd_framework.testing import run_processes
from tests.runs import losses

NO_DROPOUT = ["dropout", "encoders.text.dropout", "encoders.text.attention_dropout", "encoders.image.dropout"]


def given(teacher: Path, folder: Path, *more: str) -> list[str]:
    return [
        "objective={type: distillation, views: [full, image+text*, image^+text^, text]}",
        f"teacher.checkpoint={teacher}",
        f"teacher.cache_dir={folder.parent / 'caches'}",
        f"env.save_dir={folder}",
        "data.partners=2",
        "data.processors.image.size=4",  # other tensors than the teacher's
        "training.max_updates=10",  # 3 epochs and a part
        "training.log_every=1",
        *(f"model.{name}=0" for name in NO_DROPOUT),
        *more,
    ]


def test_a_cached_teacher_says_of_each_turn_what_a_live_one_does(tiny_config, tiny_teacher, tmp_path, images):
    run(tiny_config, given(tiny_teacher, tmp_path / "live"))
    run(tiny_config, given(tiny_teacher, tmp_path / "filled", "teacher.cache=true"))
    assert losses(tmp_path / "filled") == pytest.approx(losses(tmp_path / "live"), abs=1e-3)  # logits are kept in float16
    images.clear()
    other_seed = ["seed=3", "evaluation.every_updates=10"]
    run(tiny_config, given(tiny_teacher, tmp_path / "again", "teacher.cache=read", *other_seed))
    # two rows of each split are compared with the teacher: each with its own image and those of two turns
    assert images[8] <= 3 * 2 * 3
    fewer = ["objective.views=[full, image+text*, image^+text^]", "data.partners=1"]
    run(tiny_config, given(tiny_teacher, tmp_path / "fewer", "teacher.cache=read", *fewer))


def test_other_rows_in_each_epoch_are_for_a_live_teacher(tiny_config, tiny_teacher, tmp_path):
    run(tiny_config, given(tiny_teacher, tmp_path / "fresh", "data.partners=null"))
    run(tiny_config, given(tiny_teacher, tmp_path / "fixed"))
    assert losses(tmp_path / "fresh")[-1] != losses(tmp_path / "fixed")[-1]
    wanted = (
        r"data\.partners: null takes other rows in each epoch, so answers to 'image\+text\*' cannot be kept\. Give a number, or"
    )
    with pytest.raises(ConfigError, match=wanted):
        run(tiny_config, given(tiny_teacher, tmp_path / "kept", "data.partners=null", "teacher.cache=true"))


def _train(config: str, words: list[str]) -> None:
    run(config, words)


def test_two_processes_make_the_updates_of_one(tiny_config, tiny_teacher, tmp_path):
    run(tiny_config, given(tiny_teacher, tmp_path / "one"))
    run_processes(_train, 2, str(tiny_config), given(tiny_teacher, tmp_path / "two"))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-6)


def test_a_run_that_goes_on_meets_the_rows_that_it_would_have_met(tiny_config, tiny_teacher, tmp_path):
    run(tiny_config, given(tiny_teacher, tmp_path / "whole"))
    run(tiny_config, given(tiny_teacher, tmp_path / "part", "training.max_updates=5"))
    run(tiny_config, given(tiny_teacher, tmp_path / "part", "checkpoint.resume=true"))
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")


def test_a_row_made_of_two_is_measured_by_nothing(tiny_config, tiny_teacher, tmp_path):
    wanted = (
        r"evaluation\.views\[1\]: view 'image\+text\*' shows another row's modality, and such a row has no label to be measured by"
    )
    with pytest.raises(ConfigError, match=wanted):
        run(tiny_config, given(tiny_teacher, tmp_path / "run", "evaluation.views=[full, image+text*]"))
