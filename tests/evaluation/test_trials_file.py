"""The trials of an evaluation on disk: each at once, and a whole file at the end."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from tiny import terse

from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.evaluation import trials_file
from metarlgym.evaluation.evaluate import EvalSettings, evaluate
from metarlgym.evaluation.trials_file import TrialsFile, keeping
from metarlgym.evaluation.watch import Watch
from metarlgym.policies.scripted import DelayedPolicy, RandomPolicy
from metarlgym.rollout.records import record
from metarlgym.runtime.interrupt import Interrupted
from metarlgym.trial import TrialSettings

DOORS = terse("Doors-v0")


class Stop(Watch):
    """Hands trials of the main pass to a file; raises `error` after some trials of a pass."""

    def __init__(self, file, name="main", after=10**9, error=KeyboardInterrupt):
        super().__init__()
        self.file, self.name, self.after, self.error = file, name, after, error

    def trial(self, name, index, trajectory):
        if name == "main":
            self.file.add(index, trajectory)
        if name == self.name:
            self.after -= 1
            if self.after == 0:
                raise self.error


def play(path, **stop):
    said, played = [], []
    file = TrialsFile(path, lambda trial: record(trial, "the rules"), said.append)
    settings = EvalSettings(TrialSettings(2), 20, baselines=False)
    policy = DelayedPolicy(RandomPolicy(), 0.002)  # so that they end in any order
    with keeping(file, played):
        evaluate(DOORS, policy, None, settings, watch=Stop(file, **stop), keep=played)
    file.finish(played)
    return played, said


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_whole_file_is_ordered_and_the_partial_one_gone(tmp_path):
    played, said = play(tmp_path / "t.jsonl")
    written = lines(tmp_path / "t.jsonl")
    assert written == [{"trial": i, "rules": "the rules", **t.to_dict()} for i, t in enumerate(played)]
    assert [p.name for p in tmp_path.iterdir()] == ["t.jsonl"] and not said


def test_an_interrupted_evaluation_leaves_what_was_played_and_the_old_file(tmp_path):
    (tmp_path / "t.jsonl").write_text("old\n")
    with pytest.raises(Interrupted, match=r"the 7 trials that ended are in .*t\.jsonl\.partial") as stopped:
        play(tmp_path / "t.jsonl", after=7)
    assert stopped.value.status == 130
    left = lines(tmp_path / "t.jsonl.partial")
    assert len(left) == len({line["trial"] for line in left}) == 7
    assert (tmp_path / "t.jsonl").read_text() == "old\n"
    play(tmp_path / "t.jsonl")  # the same trials again, all of them
    whole = lines(tmp_path / "t.jsonl")
    assert len(whole) == 20 and all(whole[line["trial"]] == line for line in left)
    assert not (tmp_path / "t.jsonl.partial").exists()


def test_interrupted_in_a_control_the_file_is_complete(tmp_path):
    with pytest.raises(Interrupted, match=r"all 20 trials are in .*t\.jsonl\. The same command"):
        play(tmp_path / "t.jsonl", name="no_memory", after=3)
    assert len(lines(tmp_path / "t.jsonl")) == 20
    assert [p.name for p in tmp_path.iterdir()] == ["t.jsonl"]


def test_errors_say_where_the_trials_are(tmp_path):
    with pytest.raises(MetaRLGymError, match=r"the server is gone; the 2 trials that ended are in"):
        play(tmp_path / "t.jsonl", after=2, error=MetaRLGymError("the server is gone."))


def test_a_configuration_error_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match="no room"):
        play(tmp_path / "t.jsonl", after=2, error=ConfigError("no room."))
    assert not list(tmp_path.iterdir())


def test_interrupted_before_the_first_trial(tmp_path):
    file = TrialsFile(tmp_path / "t.jsonl", lambda trial: {}, print)
    with pytest.raises(KeyboardInterrupt), keeping(file, []):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "t.jsonl").symlink_to(tmp_path / "there" / "real.jsonl")
    with pytest.raises(Interrupted):
        play(tmp_path / "t.jsonl", after=7)
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["real.jsonl.partial"]
    play(tmp_path / "t.jsonl")
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["real.jsonl"]


def test_a_partial_file_that_cannot_be_written_is_told_once(tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metarlgym.evaluation.trials_file.new_file", full)
    _, said = play(tmp_path / "t.jsonl")
    assert len(said) == 1 and "No space left on device" in said[0]
    assert len(lines(tmp_path / "t.jsonl")) == 20  # by now there is room again


def test_a_link_in_the_place_of_the_partial_file_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "t.jsonl.partial").symlink_to(tmp_path / "mine")
    _, said = play(tmp_path / "t.jsonl")
    assert len(said) == 1 and "is in the way" in said[0]
    assert (tmp_path / "mine").read_text() == "mine" and len(lines(tmp_path / "t.jsonl")) == 20


def test_a_file_that_cannot_be_written_leaves_the_partial_one(tmp_path, monkeypatch):
    def full(path):
        raise MetaRLGymError("no space.")

    monkeypatch.setattr("metarlgym.evaluation.trials_file.write_whole", full)
    with pytest.raises(MetaRLGymError, match=r"no space; 20 trials are in .*t\.jsonl\.partial"):
        play(tmp_path / "t.jsonl")
    assert len(lines(tmp_path / "t.jsonl.partial")) == 20


def test_the_partial_file_gives_way_where_the_disk_has_room_for_one_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    places = []
    write = trials_file.write_whole

    def watched(path):
        places.extend(p.name for p in tmp_path.iterdir())
        return write(path)

    monkeypatch.setattr("metarlgym.evaluation.trials_file.write_whole", watched)
    play(tmp_path / "t.jsonl")
    assert not places and len(lines(tmp_path / "t.jsonl")) == 20


def test_a_device_is_written_at_the_end(tmp_path, capfd):
    from pathlib import Path

    play(Path("/dev/stdout"))
    assert len(capfd.readouterr().out.splitlines()) == 20
