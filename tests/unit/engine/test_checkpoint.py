"""Checkpoints appear whole or not at all, and damage is found."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from msd_framework.engine.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    find_checkpoint,
    holds_run,
    read,
    read_json,
    write,
)
from msd_framework.engine.distributed import World
from msd_framework.errors import CheckpointError


def made(value: float = 1.0) -> Checkpoint:
    return Checkpoint({"weight": torch.full((3, 2), value)}, state={"update": int(value)}, card={"model": {"type": "x"}})


def test_what_is_written_is_read_back_to_the_bit(tmp_path):
    tensors = {"a": torch.randn(3, 2, dtype=torch.float64), "b": torch.randint(9, (4,)), "c": torch.randn(2).bfloat16()}
    state = {"update": 7, "best": 0.1 + 0.2, "nested": {"x": [1, None, True]}}
    write(Checkpoint(tensors, tensors, tensors, tensors, state, {"model": {"type": "x"}}), tmp_path / "c")
    found = read(tmp_path / "c")
    for name in ("model", "objective", "optimizer", "random"):
        assert all(torch.equal(getattr(found, name)[k], t) for k, t in tensors.items())
    assert found.state == state
    assert found.card == {"model": {"type": "x"}}


def test_tied_weights_are_written_and_read(tmp_path):
    shared = torch.randn(3)
    write(Checkpoint({"a": shared, "b": shared}), tmp_path / "c")
    found = read(tmp_path / "c").model
    assert torch.equal(found["a"], shared)
    assert torch.equal(found["b"], shared)


def test_best_and_last_are_kept_and_so_many_others(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    for update, best in [(1, True), (2, False), (3, False), (4, False)]:
        folder.save(made(update), update, best)
    assert sorted(p.name for p in tmp_path.glob("update_*")) == ["update_00000001", "update_00000003", "update_00000004"]
    assert folder.path("best").name == "update_00000001"
    assert read(folder.path("last")).state["update"] == 4


@pytest.mark.parametrize("keep", [0, 1, 3, 5])
def test_as_many_others_are_kept_as_asked(tmp_path, keep):
    folder = CheckpointFolder(tmp_path, keep)
    for update in range(1, 11):
        folder.save(made(update), update, best=update == 1)
    assert len(list(tmp_path.glob("update_*"))) == keep + 2


def test_an_update_that_is_made_again_gets_a_checkpoint_of_its_own(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(made(1), 5, best=True)
    folder.save(made(2), 5, best=False)
    assert read(folder.path("last")).state["update"] == 2
    assert read(folder.path("best")).state["update"] == 1


def test_only_what_is_asked_for_is_read_and_verified(tmp_path):
    write(made(), tmp_path / "c")
    (tmp_path / "c" / "optimizer.safetensors").write_bytes(b"")
    assert torch.equal(read(tmp_path / "c", ("model",)).model["weight"], torch.ones(3, 2))


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "card.json", "random.safetensors"])
@settings(max_examples=12)
@given(data=st.data())
def test_a_changed_byte_anywhere_is_found(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp("damaged") / "c"
    write(made(), folder)
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=f"{name}: is damaged"):
        read(folder)


def test_a_truncated_file_is_found(tmp_path):
    write(made(), tmp_path / "c")
    path = tmp_path / "c" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged"):
        read(tmp_path / "c")


def test_a_missing_file_is_found(tmp_path):
    write(made(), tmp_path / "c")
    (tmp_path / "c" / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: is missing, so this checkpoint is incomplete"):
        read(tmp_path / "c")


def test_a_folder_without_its_list_of_files_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"files\.json: is missing"):
        read(tmp_path)


@pytest.mark.parametrize(("text", "sentence"), [("{", "is damaged"), ("[]", "wanted an object, got a list")])
def test_a_list_of_files_that_is_no_json_object_is_found(tmp_path, text, sentence):
    (tmp_path / "files.json").write_text(text)
    with pytest.raises(CheckpointError, match=sentence):
        read(tmp_path)


def test_another_format_is_refused(tmp_path):
    write(made(), tmp_path / "c")
    (tmp_path / "c" / "files.json").write_text(json.dumps({"format": 99, "sha256": {}}))
    with pytest.raises(CheckpointError, match="is of format 99, wanted 1"):
        read(tmp_path / "c")


def test_a_user_may_name_a_run_or_a_checkpoint(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    folder.save(made(1), 1, best=True)
    folder.save(made(2), 2, best=False)
    assert find_checkpoint(tmp_path).name == "update_00000001"
    assert find_checkpoint(tmp_path / "checkpoints" / "last").name == "update_00000002"
    assert read_json(find_checkpoint(tmp_path) / "card.json") == {"model": {"type": "x"}}


def test_no_folder_and_no_checkpoint_are_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no folder .*nowhere"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)


def test_an_optimizer_goes_on_from_what_was_written(tmp_path):
    def two_steps(optimizer, parameter, seed):
        torch.manual_seed(seed)
        for _ in range(2):
            parameter.grad = torch.randn(4)
            optimizer.step()

    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    two_steps(optimizer, parameter, 0)
    tensors, rest = World().optimizer_state_of(optimizer)
    write(Checkpoint({"p": parameter}, optimizer=tensors, state=rest), tmp_path / "c")
    found = read(tmp_path / "c")
    again = torch.nn.Parameter(found.model["p"])
    other = torch.optim.AdamW([again], lr=0.5)
    World().load_optimizer_state(other, found.optimizer, found.state)
    two_steps(optimizer, parameter, 1)
    two_steps(other, again, 1)
    assert torch.equal(parameter, again)


SAVE_FOREVER = """
import sys, torch
from pathlib import Path
from msd_framework.engine.checkpoint import Checkpoint, CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]), keep=1)
for update in range(1, 10**6):
    tensors = {str(i): torch.full((64, 64), float(update)) for i in range(20)}
    folder.save(Checkpoint(tensors, state={"update": update}), update, best=update % 3 == 0)
    print(update, flush=True)
"""


@pytest.mark.parametrize("after", [2, 5])
def test_a_process_killed_while_it_writes_leaves_a_whole_last_and_best(tmp_path, after):
    process = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(after):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    folder = CheckpointFolder(tmp_path)
    for name in ("last", *(["best"] if after >= 3 else [])):
        path = folder.path(name)
        assert path is not None
        found = read(path)
        assert (found.model["7"] == found.state["update"]).all()
    folder.save(made(9), 10**7, best=False)
    assert not list(Path(tmp_path).glob(".update_*"))  # what the killed process left half-written


def saved_run(folder: Path, keep: int = 1) -> CheckpointFolder:
    """Updates 1, 2 and 3, of which 2 is the best."""
    checkpoints = CheckpointFolder(folder / "checkpoints", keep)
    for update in (1, 2, 3):
        checkpoints.save(made(update), update, best=update < 3)
    return checkpoints


def drop_links(folder: Path) -> None:
    for name in ("best", "last"):
        (folder / "checkpoints" / name).unlink()


def refuse_links(*_, **__):
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def test_best_and_last_are_found_without_links(tmp_path):
    checkpoints = saved_run(tmp_path)
    drop_links(tmp_path)
    assert checkpoints.newest_whole()[0].name == "update_00000003"
    assert find_checkpoint(tmp_path).name == "update_00000002"
    assert find_checkpoint(tmp_path / "checkpoints" / "last").name == "update_00000003"
    assert find_checkpoint(tmp_path / "checkpoints" / "best").name == "update_00000002"


def test_a_link_that_leads_elsewhere_is_not_believed(tmp_path):
    saved_run(tmp_path)
    drop_links(tmp_path)
    (tmp_path / "checkpoints" / "best").symlink_to("update_00000001")
    (tmp_path / "checkpoints" / "last").symlink_to("nowhere")
    assert find_checkpoint(tmp_path).name == "update_00000002"
    assert find_checkpoint(tmp_path / "checkpoints" / "last").name == "update_00000003"


def test_a_disk_without_links_keeps_a_run_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "symlink", refuse_links)
    saved_run(tmp_path)
    assert not (tmp_path / "checkpoints" / "last").exists()
    assert find_checkpoint(tmp_path).name == "update_00000002"
    assert find_checkpoint(tmp_path / "checkpoints" / "last").name == "update_00000003"


def test_copies_of_what_links_led_to_are_checkpoints_and_never_out_of_date(tmp_path):
    saved_run(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")  # follows links, as many tools do
    checkpoints = CheckpointFolder(tmp_path / "copy" / "checkpoints")
    last, _ = checkpoints.newest_whole()
    checkpoints.go_on_from(read(last).state)
    checkpoints.save(made(4), 4, best=False)
    assert read(tmp_path / "copy" / "checkpoints" / "last").state["update"] == 4
    assert read(find_checkpoint(tmp_path / "copy")).state["update"] == 2


def test_a_run_of_which_only_copies_of_best_and_last_are_left_is_found(tmp_path):
    saved_run(tmp_path / "run")
    for name in ("best", "last"):
        shutil.copytree(tmp_path / "run" / "checkpoints" / name, tmp_path / "copy" / "checkpoints" / name)
    assert read(find_checkpoint(tmp_path / "copy")).state["update"] == 2
    assert CheckpointFolder(tmp_path / "copy" / "checkpoints").newest_whole()[0].name == "last"


def test_a_best_checkpoint_that_is_gone_is_told_with_those_that_are_there(tmp_path):
    saved_run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "update_00000002")
    with pytest.raises(CheckpointError, match=r"update_00000002: the best checkpoint of this run is missing.*update_00000003"):
        find_checkpoint(tmp_path)


def test_a_run_of_an_older_version_has_the_best_checkpoint_that_first_reached_its_value(tmp_path):
    for update, best in [(4, 0.5), (8, 0.7), (12, 0.7)]:
        write(Checkpoint({}, state={"update": update, "best": best}), tmp_path / "checkpoints" / f"update_{update:08d}")
    assert find_checkpoint(tmp_path).name == "update_00000008"


@pytest.mark.parametrize("harm", ["truncated", "missing", "without hashes", "without a list"])
def test_a_damaged_last_checkpoint_is_passed_over_and_told(tmp_path, harm):
    checkpoints = saved_run(tmp_path)
    broken = tmp_path / "checkpoints" / "update_00000003"
    harms = {
        "truncated": lambda: (broken / "optimizer.safetensors").write_bytes(b""),
        "missing": lambda: (broken / "random.safetensors").unlink(),
        "without hashes": lambda: (broken / "files.json").write_text('{"format": 1}'),
        "without a list": lambda: (broken / "files.json").unlink(),
    }
    harms[harm]()
    found, damaged = checkpoints.newest_whole()
    assert found.name == "update_00000002"
    assert ["update_00000003" in text for text in damaged] == [True]


def test_a_folder_whose_checkpoints_are_all_damaged_is_no_beginning(tmp_path):
    checkpoints = saved_run(tmp_path)
    for path in (tmp_path / "checkpoints").glob("update_*"):
        (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds no whole checkpoint to go on from: .*model\.safetensors: is damaged"):
        checkpoints.newest_whole()


def test_nothing_is_deleted_that_the_run_did_not_write(tmp_path):
    checkpoints = saved_run(tmp_path, keep=0)
    foreign = ["update_00000000", "update_best", "notes", "update_00000002_of_mine"]
    for name in foreign:
        write(made(1), tmp_path / "checkpoints" / name)
    again = CheckpointFolder(tmp_path / "checkpoints", keep=0)
    again.go_on_from(read(checkpoints.path("last")).state)
    for update in range(4, 9):
        again.save(made(update), update, best=False)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if not p.is_symlink())
    assert names == sorted([*foreign, "update_00000002", "update_00000008"])


def test_names_of_other_places_in_a_state_delete_nothing(tmp_path):
    (tmp_path / "precious").mkdir()
    checkpoints = CheckpointFolder(tmp_path / "run" / "checkpoints", keep=0)
    checkpoints.go_on_from({"written": ["../../precious", "../precious", str(tmp_path / "precious")], "best_checkpoint": None})
    for update in (1, 2, 3):
        checkpoints.save(made(update), update, best=False)
    assert (tmp_path / "precious").is_dir()


def test_what_another_living_process_is_writing_is_left_alone(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    drafts = [f".update_00000009.{os.getppid()}", f".update_00000009.{gone.pid}", ".update_of_mine"]
    for name in drafts:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    saved_run(tmp_path)
    assert [(tmp_path / "checkpoints" / name).exists() for name in drafts] == [True, False, True]


def test_the_best_by_another_metric_stays_as_a_file_and_is_no_longer_the_best(tmp_path):
    checkpoints = saved_run(tmp_path, keep=0)
    again = CheckpointFolder(tmp_path / "checkpoints", keep=0)
    again.go_on_from(read(checkpoints.path("last")).state, keeps_best=False)
    for update in (4, 5, 6):
        again.save(made(update), update, best=update == 4)
    assert find_checkpoint(tmp_path).name == "update_00000004"
    assert (tmp_path / "checkpoints" / "update_00000002").is_dir()


@pytest.mark.parametrize("where", ["tensors of older versions", "tensors", "JSON"])
def test_a_full_disk_is_a_sentence_and_spoils_nothing(tmp_path, monkeypatch, where):
    checkpoints = saved_run(tmp_path)
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    full = OSError(errno.ENOSPC, "No space left on device")
    errors = {
        "tensors of older versions": SafetensorError('IoError(Os { code: 28, message: "No space left on device" })'),
        "tensors": SafetensorError("I/O error: No space left on device (os error 28)"),
        "JSON": full,
    }

    def fail(*_, **__):
        raise errors[where]

    with monkeypatch.context() as patched:
        if where == "JSON":
            patched.setattr(Path, "write_text", fail)
        else:
            patched.setattr("msd_framework.engine.checkpoint.save_file", fail)
        with pytest.raises(CheckpointError, match=r"cannot be written: the disk is full\. Make room, or"):
            checkpoints.save(made(4), 4, best=True)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == before
    assert find_checkpoint(tmp_path).name == "update_00000002"
    checkpoints.save(made(4), 4, best=True)
    assert find_checkpoint(tmp_path).name == "update_00000004"


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_all_files_of_a_checkpoint_are_as_readable_as_the_umask_lets_them(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(made(), tmp_path / "c")
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "c").iterdir()} == {0o666 & ~umask}


def test_a_run_whose_checkpoints_are_gone_is_known_by_its_log_a_line_that_was_cut_included(tmp_path):
    logged = ['{"update": 4, "train/loss": 1.0}', '{"update": 4, "validation/accuracy": 0.5}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(logged))
    assert not holds_run(tmp_path)  # it may have ended before its first checkpoint
    (tmp_path / "metrics.jsonl").write_text("\n".join([*logged, '{"update": 8, "train/loss": 0.9}', '{"update": 12, "tra']))
    assert holds_run(tmp_path)
