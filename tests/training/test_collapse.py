"""The watch for a policy of which all trials score alike."""

from __future__ import annotations

import pytest
from tiny import make_trainer, terse

from metarlgym import registry
from metarlgym.envs.doors import Doors
from metarlgym.training.collapse import CollapseWatch


def watch(stop_after=None, optimum=2.5):
    told = []
    return CollapseWatch(stop_after, lambda: optimum, told.append), told


def test_a_warning_comes_once_and_names_what_to_change():
    collapse, told = watch()
    for _ in range(12):
        collapse.note(1.0, 1.5)
    assert len(told) == 1 and not collapse.ends_run
    assert told[0].startswith("for 5 rollouts in a row all trials of a task scored alike")
    assert "return 1.50, the optimum 2.50" in told[0] and "exploration_coef" in told[0]


def test_a_signal_starts_the_count_anew():
    collapse, told = watch(stop_after=3)
    for share in (1.0, 1.0, 0.5, 1.0, 1.0):
        collapse.note(share, 1.0)
    assert not told and not collapse.ends_run
    collapse.note(1.0, 1.0)
    assert told and "The run ends after 3 such rollouts." in told[0] and collapse.ends_run


class SameForAll(Doors):
    """Every reply pays half a point, so no group has a signal."""

    def on_step(self, action):
        return super().on_step(action)._replace(reward=0.5)


@pytest.fixture
def same_for_all(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    registry.register("SameForAll-v0", SameForAll)
    return terse("SameForAll-v0", doors=2)


def test_a_run_ends_when_nothing_is_left_to_learn(tmp_path, same_for_all):
    group = same_for_all
    trainer = make_trainer(tmp_path, group, stop_on_collapse=2, max_steps=6)
    told = []
    trainer.collapse.notify = told.append
    trainer.train()
    assert trainer.state.global_step == 2 and len(told) == 2
    assert told[1].startswith("the run ends at step 2: 2 rollouts in a row")
    assert (tmp_path / "checkpoint-2").is_dir(), "what is trained is saved"
    trainer = make_trainer(tmp_path / "on", group, max_steps=6)
    trainer.collapse.notify = told.append
    trainer.train()
    assert trainer.state.global_step == 6 and len(told) == 3
