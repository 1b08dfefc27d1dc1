"""What a process makes of an environment in which variables of other launches were left."""

from __future__ import annotations

import pytest
import torch

from msd_framework.cli import main
from msd_framework.engine.distributed import World
from msd_framework.errors import ConfigError
from msd_framework.launch import Launch, is_first, launched
from tests.runs import started_together

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "left",
    [
        {},
        {"RANK": "0"},
        {"RANK": "3"},
        {"LOCAL_RANK": "5"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "2", "WORLD_SIZE": "1", "LOCAL_RANK": "2"},
        {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "gone.example", "MASTER_PORT": "29500"},
        {"MASTER_ADDR": "gone.example"},
        {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "3", "SLURM_JOB_ID": "17"},
        {"RANK": "", "WORLD_SIZE": ""},
        {"RANK": "first"},
    ],
    ids=str,
)
def test_a_process_runs_alone_whatever_one_process_left(left, monkeypatch):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert launched() == Launch()
    assert is_first()
    with World.join("cpu") as world:
        assert (world.rank, world.size, world.device) == (0, 1, torch.device("cpu"))


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ({"WORLD_SIZE": "2"}, r"WORLD_SIZE=2 is in the environment, and RANK and MASTER_ADDR and MASTER_PORT not"),
        (
            {"WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3"},
            r"WORLD_SIZE=8 is .*, and MASTER_ADDR and MASTER_PORT not",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}, r"and MASTER_PORT not, so the other processes cannot"),
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE=two is in the environment, wanted a whole number"),
        ({"WORLD_SIZE": "0"}, r"WORLD_SIZE=0 is in the environment, wanted a whole number"),
        ({"WORLD_SIZE": "-1"}, r"WORLD_SIZE=-1 is in the environment, wanted a whole number"),
    ],
    ids=str,
)
def test_several_processes_that_cannot_find_each_other_are_a_sentence(left, said, monkeypatch, tiny_config, tmp_path, capsys):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert main(["run", f"config={tiny_config}", f"env.save_dir={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("To run alone: unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT.")
    with pytest.raises(ConfigError, match=said):
        launched()


@pytest.mark.parametrize(("name", "value", "said"), [("RANK", "2", r"below WORLD_SIZE=2"), ("LOCAL_RANK", "x", r"LOCAL_RANK=x")])
def test_a_place_that_there_is_not_is_told(name, value, said, monkeypatch):
    started_together(monkeypatch, 2)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said):
        launched()


def test_a_meeting_place_that_cannot_be_used_is_told(monkeypatch):
    started_together(monkeypatch, 2)
    monkeypatch.setenv("MASTER_PORT", "no port")
    said = r"the 2 processes that the environment names do not meet at 127\.0\.0\.1:no port: "
    with pytest.raises(ConfigError, match=said), World.join("cpu"):
        pass
