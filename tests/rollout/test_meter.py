"""What a meter counts while a rollout is played."""

import time

import pytest
from tiny import specs, terse, trial_maker, word_parts

from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.policies.scripted import DelayedPolicy, RandomPolicy, ScriptedPolicy
from metarlgym.rollout.manager import RolloutManager
from metarlgym.rollout.meter import Meter

DOORS = terse("Doors-v0")


def test_counts_are_those_of_the_trajectories():
    model, _, renderer = word_parts(DOORS)
    policy, meter = InProcessPolicy(model, renderer), Meter()
    manager = RolloutManager(policy, renderer, meter=meter)
    played = manager.run(specs(DOORS, trial_maker(DOORS), 7)) + manager.run(specs(DOORS, trial_maker(DOORS), 5))
    assert (meter.trials, meter.planned, meter.in_flight) == (12, 12, 0)
    assert meter.turns == sum(t.turns for t in played)
    assert meter.sampled_tokens == sum(sum(row.action_mask) for t in played for row in t.rows) > 0
    assert meter.encoded_tokens == policy.encoded_tokens > 0
    assert f"{meter.turns} turns" in meter.summary() and "encoded" in meter.summary()


def test_trials_in_flight_count_by_their_episodes():
    seen = []

    def look(trial, rng):
        seen.append((len(trial.history), meter.trials + meter.in_flight, meter.turns))
        return "safe"

    meter = Meter()
    RolloutManager(ScriptedPolicy(look), concurrency=1, meter=meter).run(specs(DOORS, trial_maker(DOORS, 4), 2))
    assert [done for _, done, _ in seen] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75])
    assert [turns for *_, turns in seen] == list(range(8))


def test_time_passes_only_while_a_rollout_is_played():
    meter = Meter()
    RolloutManager(DelayedPolicy(RandomPolicy(), 0.01), meter=meter).run(specs(DOORS, trial_maker(DOORS), 2))
    spent = meter.seconds
    assert spent > 0
    time.sleep(0.02)
    assert meter.seconds == spent
    assert meter.sampled_tokens == meter.encoded_tokens == 0 and "token" not in meter.summary()


def test_every_trial_is_handed_over_as_it_ends():
    ended = {}
    played = RolloutManager(DelayedPolicy(RandomPolicy(), 0.001), on_trial=ended.__setitem__).run(
        specs(DOORS, trial_maker(DOORS), 9)
    )
    assert [ended[i] for i in range(9)] == played
