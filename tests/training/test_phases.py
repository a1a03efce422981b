"""Where the time of a step goes."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest
from tiny import logged, make_trainer, terse

from metarlgym.policies.scripted import RandomTokenPolicy
from metarlgym.training.backends import GivenPolicy
from metarlgym.training.phases import EVALUATION, ROLLOUT, TRAIN, WEIGHTS, PhaseClock

DOORS = terse("Doors-v0")
NAMES = ["time/rollout", "time/train", "time/weight_update"]


def test_an_inner_phase_interrupts_the_outer_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("metarlgym.training.phases.time.monotonic", lambda: now[0])
    clock = PhaseClock()
    now[0] = 1
    with clock.during(ROLLOUT):
        now[0] = 3
        with clock.during(WEIGHTS):
            now[0] = 3.5
            assert (clock.phase, clock.age) == (WEIGHTS, 0.5)
        now[0] = 4
        assert (clock.phase, clock.age) == (ROLLOUT, 0.5)
    now[0] = 10
    assert clock.restart() == {TRAIN: 7, ROLLOUT: 2.5, WEIGHTS: 0.5}
    assert clock.restart() == {TRAIN: 0} and clock.phase == TRAIN


def test_a_phase_ends_with_an_error():
    clock = PhaseClock()
    with pytest.raises(ValueError), clock.during(ROLLOUT):
        raise ValueError
    assert clock.phase == TRAIN


def slow_trainer(folder, monkeypatch, **settings):
    """Weights take 0.1 s, an action 0.05 s at most."""

    @contextmanager
    def acting(self):
        time.sleep(0.1)
        yield self.make_policy(None, self.trainer.renderer, 1.0)

    monkeypatch.setattr(GivenPolicy, "acting", acting)

    def policy(model, renderer, temperature):
        return Slow(renderer)

    return make_trainer(folder, DOORS, None, {"policy": policy}, **settings)


class Slow(RandomTokenPolicy):
    def submit(self, request, done):
        time.sleep(0.01)
        super().submit(request, done)


def test_every_step_logs_its_seconds(tmp_path, monkeypatch):
    settings = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "eval_trials": 40, "save_strategy": "no"}
    trainer = slow_trainer(tmp_path, monkeypatch, **settings)
    trainer.train()
    rollout, update, weights = (logged(trainer, name) for name in NAMES)
    assert len(rollout) == len(update) == len(weights) == 2
    for times in zip(rollout, update, weights, logged(trainer, "step_time")):
        assert times[0] >= 8 * 3 * 0.01 and times[2] >= 0.1 and times[1] > 0
        assert sum(times[:3]) >= times[3] - 0.01  # transformers' own time ends before the optimizer's step
        assert sum(times[:3]) < times[3] + 1.0  # and the evaluation, 1.2 s, is no part of it
    for tokens, seconds in zip(logged(trainer, "rollout/tokens_per_second"), rollout):
        assert tokens == pytest.approx(24 / seconds, rel=0.5)
    assert trainer.clock.phase == TRAIN and trainer.clock.seconds[EVALUATION] >= 1.2  # the last one's


def test_steps_without_a_rollout_take_no_time_for_it(tmp_path, monkeypatch):
    trainer = slow_trainer(tmp_path, monkeypatch, max_steps=2, num_iterations=2)
    trainer.train()
    first, second = logged(trainer, "time/rollout")
    assert first > 0.2 and second == 0
    assert len(logged(trainer, "rollout/tokens_per_second")) == 1
