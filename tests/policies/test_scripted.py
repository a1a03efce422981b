"""Scripted policies: baselines that see what a policy may see, and nothing else."""

from __future__ import annotations

import statistics

import pytest
from tiny import byte_parts, specs, terse, trial_maker, word_parts

from metarlgym.policies.scripted import (
    DelayedPolicy,
    OracleAndRandom,
    OraclePolicy,
    RandomPolicy,
    RandomTokenPolicy,
    ScriptedPolicy,
)
from metarlgym.rollout.manager import RolloutManager

DOORS = terse("Doors-v0")


def mean(policy, trials=2000, episodes=6):
    played = RolloutManager(policy).run(specs(DOORS, trial_maker(DOORS, episodes), trials))
    return statistics.fmean(t.total for t in played)


def test_the_oracle_reaches_the_optimum_and_random_play_does_not():
    assert mean(OraclePolicy()) == pytest.approx(4.5, abs=0.1)
    # One of five doors at random: (1 + .4)/5 each of 6 times.
    assert mean(RandomPolicy()) == pytest.approx(6 * 1.4 / 5, abs=0.1)


def test_baselines_by_name():
    assert isinstance(OracleAndRandom.make("oracle"), OraclePolicy)
    assert isinstance(OracleAndRandom.make("random"), RandomPolicy)


def test_each_action_has_a_stream_of_its_own():
    drawn = []
    policy = ScriptedPolicy(lambda trial, rng: drawn.append(rng.random()) or "1")
    RolloutManager(policy).run(specs(DOORS, trial_maker(DOORS, 6), 50))
    assert len(set(drawn)) == 300


@pytest.mark.parametrize("parts", [byte_parts, lambda: word_parts(DOORS)], ids=["bytes", "words"])
def test_random_tokens_are_random_play_in_tokens(parts):
    _, _, renderer = parts()
    trials = specs(DOORS, trial_maker(DOORS, 6), 30)
    text = RolloutManager(RandomPolicy()).run(trials)
    spoken = RolloutManager(RandomTokenPolicy(renderer), renderer).run(trials)
    assert [t.to_dict() for t in spoken] == [t.to_dict() for t in text]
    assert not any(t.truncated_actions for t in spoken)


def test_delays_are_seeded_and_have_the_mean_they_say():
    policy = DelayedPolicy(RandomPolicy(), mean=0.2, sigma=0.8)
    assert policy.latency(3) == policy.latency(3)
    assert statistics.fmean(policy.latency(i) for i in range(20_000)) == pytest.approx(0.2, rel=0.05)
