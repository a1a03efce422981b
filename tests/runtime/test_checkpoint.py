"""Checkpoints: resuming is exact, incomplete ones are passed over, a full disk is one line that says what to do."""

from __future__ import annotations

import copy
import json
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from tiny import logged, make_trainer, terse, tokens, word_parts

from metarlgym import ConfigError, MetaRLGymError
from metarlgym.models.loading import load_model
from metarlgym.runtime.checkpoint import COMPLETE, checkpoints, latest_complete
from metarlgym.runtime.integrity import mark_complete

DOORS = terse("Doors-v0")
GUESS = terse("GuessNumber-v0", numbers=3, guesses=2)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def loaded(folder, seed=0):
    """Parts of a model that lies in a folder, as a reference model needs it."""
    model, tokenizer, renderer = word_parts(DOORS, seed=seed)
    if not folder.exists():
        model.save_pretrained(folder)
    return load_model(str(folder)), tokenizer, renderer


def prepared(folder, group=DOORS, parts=None, **settings):
    defaults = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    trainer = make_trainer(folder, group, parts, **{**defaults, **settings})
    trainer.kept = {}
    trainer.on_trials = lambda step, trajectories: trainer.kept.update({step: tokens(trajectories)})
    return trainer


# ---------------------------------------------------------------------- resuming


@pytest.mark.parametrize(
    ("group", "settings"),
    [
        (DOORS, {}),
        (GUESS, {"memory": "none", "per_device_train_batch_size": 12, "stop_on_success": True}),
        (DOORS, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
        (DOORS, {"per_device_train_batch_size": 4, "steps_per_generation": 3, "trials_per_task": 6}),
        (GUESS, {"credit": "gigpo", "gamma_step": 0.9, "entropy_schedule": "0:0.1, 6:0", "free_shots": "0:1, 5:0"}),
    ],
    ids=["plain", "no memory", "accumulation", "rollout of 3 steps", "schedules"],
)
def test_resuming_is_bitwise_exact(tmp_path, group, settings):
    whole = prepared(tmp_path, group, lr_scheduler_type="cosine", **settings)
    whole.train()
    # As a new process would: other weights at first, nothing carried over.
    resumed = prepared(tmp_path, group, word_parts(group, seed=9), lr_scheduler_type="cosine", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.kept
    assert all(step >= 3 and played == whole.kept[step] for step, played in resumed.kept.items())
    assert max(whole.kept) == max(resumed.kept)
    assert logged(resumed, "grad_norm")[-3:] == logged(whole, "grad_norm")[-3:]
    assert torch.equal(weights(resumed), weights(whole))


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    short = prepared(tmp_path, max_steps=3, lr_scheduler_type="constant")
    short.train()
    whole = prepared(tmp_path / "whole", max_steps=6, lr_scheduler_type="constant")
    whole.train()
    longer = prepared(tmp_path, max_steps=6, lr_scheduler_type="constant")
    longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert {step: whole.kept[step] for step in (3, 4, 5)} == longer.kept
    assert torch.equal(weights(longer), weights(whole))


def test_a_reference_model_that_follows_is_resumed_exactly(tmp_path):
    synced = {"beta": 0.5, "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5}
    whole = prepared(tmp_path, parts=loaded(tmp_path / "model"), **synced)
    whole.train()
    resumed = prepared(tmp_path, parts=loaded(tmp_path / "model"), **synced)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert logged(resumed, "kl")[-3:] == logged(whole, "kl")[-3:] and max(logged(whole, "kl")) > 0
    assert float((weights(resumed) - weights(whole)).abs().max()) == 0.0
    for mine, other in zip(resumed.ref_model.parameters(), whole.ref_model.parameters()):
        assert torch.equal(mine, other)


def test_a_lower_learning_rate_counts_from_the_checkpoint_on(tmp_path):
    prepared(tmp_path, max_steps=3, lr_scheduler_type="constant").train()
    lower = prepared(tmp_path, max_steps=6, lr_scheduler_type="constant", learning_rate=1e-12)
    lower.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert logged(lower, "learning_rate")[-3:] == [1e-12] * 3


def test_a_checkpoint_without_the_reference_that_follows_is_refused(tmp_path):
    prepared(tmp_path, max_steps=3).train()
    synced = prepared(tmp_path, parts=loaded(tmp_path / "model"), max_steps=6, beta=0.1, sync_ref_model=True)
    with pytest.raises(ConfigError, match=r"ref_model.safetensors is missing: .* leave sync_ref_model out"):
        synced.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_old_checkpoints_go_only_when_a_newer_one_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "metarlgym.runtime.checkpoint.mark_complete",
        lambda path, *rest: (
            complete_at_mark.append([p.name for p in checkpoints(tmp_path)]) or mark_complete(path, *rest)
        ),
    )
    complete_at_mark = []
    prepared(tmp_path, save_steps=1, max_steps=3, save_total_limit=1).train()
    assert complete_at_mark == [["checkpoint-1"], ["checkpoint-1", "checkpoint-2"], ["checkpoint-2", "checkpoint-3"]]
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-3"]


def test_a_users_file_in_an_old_checkpoint_stays(tmp_path):
    prepared(tmp_path, save_steps=1, max_steps=2, save_total_limit=2).train()
    (tmp_path / "checkpoint-1" / "notes.md").write_text("mine")
    again = prepared(tmp_path, save_steps=1, max_steps=3, save_total_limit=1)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [p.name for p in (tmp_path / "checkpoint-1").iterdir()] == ["notes.md"]
    assert not (tmp_path / "checkpoint-2").exists() and latest_complete(tmp_path)[0].name == "checkpoint-3"


# ---------------------------------------------------------------------- complete or not


def test_a_complete_checkpoint_is_marked_last(tmp_path):
    prepared(tmp_path).train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-6"]
    for path in checkpoints(tmp_path):
        mark = path / COMPLETE
        written = json.loads(mark.read_text())
        assert written["step"] == int(path.name.split("-")[1])
        assert {"model.safetensors", "optimizer.pt", "trainer_state.json"} < written["files"].keys()
        assert all(mark.stat().st_mtime_ns >= file.stat().st_mtime_ns for file in path.iterdir())


def make_checkpoint(folder, step, complete=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    if complete:
        (path / COMPLETE).write_text(f"{step}\n")
    return path


def test_the_latest_is_the_one_of_the_highest_step(tmp_path):
    for step in (10, 9, 100):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-old").mkdir()
    assert latest_complete(tmp_path) == (tmp_path / "checkpoint-100", [])


def test_incomplete_checkpoints_are_passed_over_and_named(tmp_path):
    whole = make_checkpoint(tmp_path, 2)
    broken = [make_checkpoint(tmp_path, step, complete=False) for step in (4, 6)]
    assert latest_complete(tmp_path) == (whole, broken[::-1])


def test_without_a_complete_checkpoint_there_is_none(tmp_path):
    broken = make_checkpoint(tmp_path, 1, complete=False)
    assert latest_complete(tmp_path) == (None, [broken])
    assert latest_complete(tmp_path / "nowhere") == (None, [])


@pytest.mark.parametrize("moment", ["_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_run_killed_while_it_writes_leaves_an_incomplete_checkpoint(tmp_path, moment):
    pid = os.fork()
    if pid == 0:  # the child dies as by `kill -9`, in the middle of its second checkpoint
        try:
            trainer = prepared(tmp_path)
            inner = getattr(trainer, moment)

            def write(*args):
                if trainer.state.global_step == 6:
                    os.kill(os.getpid(), signal.SIGKILL)
                return inner(*args)

            setattr(trainer, moment, write)
            trainer.train()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert latest_complete(tmp_path) == (tmp_path / "checkpoint-3", [tmp_path / "checkpoint-6"])


# ---------------------------------------------------------------------- a full disk


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "trainer_state.json", "training_args.bin"])
def test_no_space_left_is_one_line_that_says_what_to_do(tmp_path, file):
    trainer = prepared(tmp_path)
    (tmp_path / "checkpoint-6").mkdir()
    (tmp_path / "checkpoint-6" / file).symlink_to("/dev/full")  # every write to it fails as on a full disk
    with pytest.raises(MetaRLGymError) as caught:
        trainer.train()
    message = str(caught.value)
    assert message.startswith(f"output_dir={str(tmp_path)!r}: could not write checkpoint 6 (")
    assert f"the last complete checkpoint is {tmp_path / 'checkpoint-3'}" in message
    assert "Free space there and start again with --resume." in message
    assert "\n" not in message
    assert latest_complete(tmp_path) == (tmp_path / "checkpoint-3", [tmp_path / "checkpoint-6"])


@pytest.mark.parametrize("size", [4_000, 12_000])
def test_a_size_limit_is_one_line_too(tmp_path, size):
    trainer = prepared(tmp_path, parts=copy.deepcopy(word_parts(DOORS)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # python ignores SIGXFSZ: writes raise
    try:
        with pytest.raises(MetaRLGymError, match=r"could not write checkpoint 3 .*there is no complete checkpoint yet"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_other_errors_while_saving_are_not_called_a_full_disk(tmp_path):
    trainer = prepared(tmp_path)

    def broken(*_):
        raise RuntimeError("shapes differ")

    trainer._save_optimizer_and_scheduler = broken
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        trainer.train()


def test_after_a_full_disk_the_run_resumes(tmp_path):
    whole = prepared(tmp_path / "whole")
    whole.train()
    trainer = prepared(tmp_path / "full")
    (tmp_path / "full" / "checkpoint-6").mkdir(parents=True)
    (tmp_path / "full" / "checkpoint-6" / "optimizer.pt").symlink_to("/dev/full")
    with pytest.raises(MetaRLGymError):
        trainer.train()
    (tmp_path / "full" / "checkpoint-6" / "optimizer.pt").unlink()
    again = prepared(tmp_path / "full", parts=word_parts(DOORS, seed=9))
    latest, _ = latest_complete(tmp_path / "full")
    again.train(resume_from_checkpoint=str(latest))
    assert torch.equal(weights(again), weights(whole))
    assert latest_complete(tmp_path / "full")[0].name == "checkpoint-6"
