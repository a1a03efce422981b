"""Trials that are played all the time: what is trained on, by which weights, and how it ends and resumes."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from test_rollouts_ahead import STEPS
from tiny import logged, make_config, make_trainer, terse, word_parts
from transformers import TrainerCallback

from metarlgym import ConfigError
from metarlgym.policies.scripted import RandomTokenPolicy
from metarlgym.runtime.agreement import AgreedError
from metarlgym.seeding import derive, stream

DOORS = terse("Doors-v0", doors=3)
GROUPS = 2
"""Groups in a batch."""


class Waiting(RandomTokenPolicy):
    """Random play that takes a lognormal time for each trial."""

    follows_updates = True
    mean = 0.01

    def submit(self, request, done):
        wait = self.mean * stream(request.trial.trial_seed, "wait").lognormvariate(0, 1)
        self.loop.call_later(wait, self._reply, request, done)


def continuous(folder, policy=Waiting, callbacks=(), **settings):
    settings = {"max_steps": STEPS, "rollouts_ahead": "continuous", **settings}
    return make_trainer(
        folder,
        DOORS,
        word_parts(DOORS),
        trainer_args={
            "policy": policy and (lambda model, renderer, temperature: policy(renderer)),
            "callbacks": list(callbacks),
        },
        **settings,
    )


class Slow(TrainerCallback):
    """Steps that take their time, and end the training after one of them."""

    def __init__(self, seconds=0.02, last=None):
        self.seconds, self.last = seconds, last

    def on_step_end(self, args, state, control, **_):
        time.sleep(self.seconds)
        control.should_training_stop = state.global_step == self.last


def trained(trainer):
    """(step, task, seed, versions) of each trial, in the order of the rows."""
    trials = []

    def keep(step, trajectories):
        for t in trajectories:
            versions = [v for row in t.rows for v in row.version if v >= 0]
            trials.append((step, t.task.key, t.seed, (min(versions), max(versions))))

    trainer.on_trials = keep
    return trials


def all_seeds(steps=STEPS, groups=GROUPS, size=4, seed=0):
    return Counter(derive(seed, "group", number, i) for number in range(steps * groups) for i in range(size))


def no_threads():
    return not [thread for thread in threading.enumerate() if thread.name == "rollouts"]


@pytest.mark.parametrize("staleness", [1, 4])
def test_each_group_is_trained_on_once_and_in_time(tmp_path, staleness):
    trainer = continuous(tmp_path, callbacks=[Slow()], max_staleness=staleness, max_steps=20)
    trials = trained(trainer)
    trainer.train()
    assert Counter(seed for _, _, seed, _ in trials) == all_seeds(20)
    assert Counter(step for step, *_ in trials) == dict.fromkeys(range(20), 8)
    for i in range(0, len(trials), 4):  # groups are whole
        assert len({(step, key) for step, key, *_ in trials[i : i + 4]}) == 1
    ages = [step - oldest for step, _, _, (oldest, _) in trials]
    assert 0 < max(ages) <= staleness
    assert any(newest > oldest for *_, (oldest, newest) in trials), "weights changed under a trial"
    assert max(logged(trainer, "off_policy/updates_max")) == max(ages)
    assert no_threads()


def test_order_is_that_of_the_ends(tmp_path):
    trainer = continuous(tmp_path, callbacks=[Slow()], max_steps=20)
    trials = trained(trainer)
    trainer.train()
    numbers = {derive(0, "group", number, 0): number for number in range(40)}
    order = [numbers[seed] for _, _, seed, _ in trials if seed in numbers]
    assert sorted(order) == list(range(40)) and order != sorted(order)


def test_places_stay_in_use_while_the_trainer_learns(tmp_path):
    trainer = continuous(tmp_path, callbacks=[Slow(0.3)], max_steps=8, rollout_concurrency=4)
    trained(trainer)
    trainer.train()
    # The first step waits for its trials; then there are enough, up to the bound.
    assert all(value < 0.2 for value in logged(trainer, "time/wait_for_rollout")[1:])
    assert logged(trainer, "idle/rollout")[1] < 0.9
    assert all(0 <= value <= 1 for value in logged(trainer, "idle/rollout"))


def test_format_steps_come_first(tmp_path):
    trainer = continuous(tmp_path, format_steps=2)
    trials = []
    trainer.on_trials = lambda step, played: trials.extend((step, t.task.key, t.seed) for t in played)
    trainer.train()
    assert [step for step, *_ in trials] == [step for step in range(STEPS) for _ in range(8)]
    later = [seed for step, _, seed in trials if step >= 2]
    assert Counter(later) == Counter(derive(0, "group", number, i) for number in range(4, 12) for i in range(4))


def test_a_stopped_run_goes_on_with_the_groups_that_were_in_flight(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 12}
    first = continuous(tmp_path, callbacks=[Slow(last=5)], **settings)
    before = trained(first)
    first.train()
    assert no_threads()
    second = continuous(tmp_path, callbacks=[Slow()], **settings)
    after = trained(second)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    survived = [trial for trial in before if trial[0] < 4]
    assert Counter(seed for _, _, seed, _ in survived + after) == all_seeds(12)
    assert [step for step, *_ in after] == [step for step in range(4, 12) for _ in range(8)]


def test_what_a_policy_raises_ends_the_run(tmp_path):
    from metarlgym.rollout.protocol import PolicyLost

    class Lost(Waiting):
        def submit(self, request, done):
            if self.version == 3:
                self.loop.call_soon(done, PolicyLost("the server is gone"))
            else:
                super().submit(request, done)

    trainer = continuous(tmp_path, Lost, callbacks=[Slow()], max_steps=20)
    with pytest.raises(AgreedError, match="the rollout failed: the server is gone"):
        trainer.train()
    assert no_threads()


def test_trained_twice(tmp_path):
    trainer = continuous(tmp_path)
    trials = trained(trainer)
    trainer.train()
    trainer.train()
    assert Counter(seed for _, _, seed, _ in trials) == all_seeds() + all_seeds()


def test_an_evaluation_beside_it(tmp_path):
    trainer = continuous(tmp_path, callbacks=[Slow()], eval_strategy="steps", eval_steps=2, eval_trials=8)
    trials = trained(trainer)
    trainer.train()
    assert len(logged(trainer, "eval_return")) == 3
    assert Counter(seed for _, _, seed, _ in trials) == all_seeds()


def test_in_flight_updates_with_whole_rollouts(tmp_path):
    trainer = continuous(tmp_path, rollouts_ahead=1, weight_update="in_flight", max_steps=5)
    trainer.backend.make_policy = lambda model, renderer, temperature: Slower(renderer)
    trials = trained(trainer)
    trainer.train()
    assert {step - oldest for step, _, _, (oldest, _) in trials} <= {0, 1}
    assert any(newest == oldest + 1 for *_, (oldest, newest) in trials)


class Slower(Waiting):
    mean = 0.1


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rollouts_ahead": "always"}, "rollouts_ahead='always' must be a whole number from 0 to 64, or 'continuous'"),
        ({"rollouts_ahead": 1.5}, "rollouts_ahead=1.5 must"),
        ({"weight_update": "in_flight"}, "no effect with rollouts_ahead=0"),
        ({"rollouts_ahead": 1, "weight_update": "keep"}, "must be 'drain' or 'in_flight'"),
        ({"rollouts_ahead": 1, "max_staleness": 2}, "no effect with rollouts_ahead=1"),
        ({"rollouts_ahead": "continuous", "max_staleness": 0}, "max_staleness=0 must be at least 1"),
        ({"rollouts_ahead": "continuous", "weight_update": "drain"}, "always in flight"),
        ({"rollouts_ahead": "continuous", "num_iterations": 2}, "one batch of groups"),
        ({"rollouts_ahead": "continuous", "steps_per_generation": 2}, "one batch of groups"),
    ],
)
def test_settings_that_contradict_it(tmp_path, settings, problem):
    with pytest.raises(ConfigError, match=problem):
        make_config(tmp_path, **settings)


def test_groups_stay_on_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="no whole number of groups of 4 rows"):
        make_config(tmp_path, rollouts_ahead="continuous", per_device_train_batch_size=2)


@pytest.mark.parametrize(
    "settings", [{"rollouts_ahead": "continuous"}, {"rollouts_ahead": 1, "weight_update": "in_flight"}]
)
def test_the_in_process_policy_is_refused(tmp_path, settings):
    with pytest.raises(ConfigError, match="weights of the in-process policy cannot change while it plays"):
        continuous(tmp_path, None, **settings)
