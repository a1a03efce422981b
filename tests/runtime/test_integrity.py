"""Damaged checkpoints are recognized, named, and passed over."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from metarlgym import ConfigError
from metarlgym.runtime.integrity import COMPLETE, damage, mark_complete
from metarlgym.runtime.open_run import newest_sound


def checkpoint(folder, step, marked=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"w": torch.zeros(500_000)}, path / "model.safetensors")
    torch.save({"state": torch.zeros(400_000)}, path / "optimizer.pt")
    torch.save({"rng": 1}, path / "rng_state.pth")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (path / "chat_template.jinja").touch()
    if marked:
        mark_complete(path, step)
    else:
        (path / COMPLETE).write_text(f"{step}\n")  # as earlier versions wrote it
    return path


def cut(path):
    os.truncate(path, 100)


def empty(path):
    os.truncate(path, 0)


def scramble(path):
    path.write_bytes(b"x" * path.stat().st_size)


@pytest.mark.parametrize("marked", [True, False], ids=["sizes known", "sizes unknown"])
@pytest.mark.parametrize("how", [cut, empty, scramble])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_damaged_file_is_named(file, how, marked, tmp_path):
    path = checkpoint(tmp_path, 2, marked)
    assert damage(path) is None
    how(path / file)
    if how is cut and file == "trainer_state.json":
        (path / file).write_text('{"global_')
    assert damage(path).startswith(file)


def test_missing_files_are_named(tmp_path):
    path = checkpoint(tmp_path, 2)
    (path / "optimizer.pt").unlink()
    assert damage(path) == "optimizer.pt is missing"
    path = checkpoint(tmp_path, 3, marked=False)
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert damage(path) == "model-00001-of-00002.safetensors is missing"


def test_files_that_a_user_put_there_do_not_count(tmp_path):
    path = checkpoint(tmp_path, 2)
    (path / "notes.json").write_text("// not JSON")
    (path / "empty.pt").touch()
    assert damage(path) is None


def test_the_newest_sound_one_is_taken(tmp_path):
    for step in (2, 4, 6):
        checkpoint(tmp_path, step)
    shutil.copytree(tmp_path / "checkpoint-6", tmp_path / "checkpoint-8")
    (tmp_path / "checkpoint-8" / COMPLETE).unlink()
    cut(tmp_path / "checkpoint-6" / "optimizer.pt")
    found, skipped = newest_sound(tmp_path)
    assert found == tmp_path / "checkpoint-4"
    assert (
        "checkpoint-8 is incomplete" in skipped[0] and "checkpoint-6 is damaged (optimizer.pt has 100 b" in skipped[1]
    )
    for step in (2, 4):
        empty(tmp_path / f"checkpoint-{step}" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"no checkpoint can be resumed \(.*checkpoint-6: optimizer.pt has 100 bytes"):
        newest_sound(tmp_path)


def test_without_a_complete_one_a_run_begins_again(tmp_path):
    checkpoint(tmp_path, 2)
    (tmp_path / "checkpoint-2" / COMPLETE).unlink()
    found, skipped = newest_sound(tmp_path)
    assert found is None and len(skipped) == 1


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_have_the_permissions_of_other_files(umask, mode, tmp_path):
    users = tmp_path / "checkpoint-1" / "mine.safetensors"
    users.parent.mkdir()
    users.touch()
    users.chmod(0o400)
    before = os.umask(umask)
    try:
        path = checkpoint(tmp_path / "run", 1)
        (path / "adapter").mkdir()
        save_file({"w": torch.zeros(2)}, path / "adapter" / "adapter_model.safetensors")
        os.link(users, path / "mine.safetensors")
        mark_complete(path, 1, {path / "mine.safetensors": users.lstat().st_mtime_ns})
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.rglob("*") if file.is_file()}
    assert modes.pop("mine.safetensors") == 0o400  # which the run did not write
    assert modes.pop("adapter_model.safetensors") == mode
    assert set(modes.values()) == {mode}
    assert not [name for name in modes if "permissions" in name]
