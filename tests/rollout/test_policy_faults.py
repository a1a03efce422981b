"""What a policy answers instead of an action: a limit ends its trial, a lost server ends the rollout."""

import pytest

from metarlgym import StopReason
from metarlgym.rollout.manager import RolloutManager
from metarlgym.rollout.protocol import PolicyLost, PolicyStop
from tests.tiny import Speaker, TaskGroup, byte_parts, specs, trial_maker

GROUP = TaskGroup("GuessNumber-v0")
_, _, RENDERER = byte_parts()


def play(say):
    policy = Speaker(RENDERER, say)
    return RolloutManager(policy, RENDERER).run(specs(GROUP, trial_maker(GROUP, 2), 6)), policy


@pytest.mark.parametrize("reason", [StopReason.TIME_LIMIT, StopReason.CONTEXT_LIMIT])
def test_a_limit_of_the_policy_truncates_its_trial_alone(reason):
    stopped = []

    def say(trial):
        if len(trial.history) == 2 and not stopped:
            stopped.append(trial)
            return PolicyStop(reason, "too slow")
        return "[3]"

    played, policy = play(say)
    ended = [t for t in played if t.stop is reason]
    assert len(ended) == 1 and ended[0].truncated and ended[0].error is None
    assert len(ended[0].episodes) == 2 and ended[0].rows[0].ids[-1] == RENDERER.end_id
    assert all(t.stop is StopReason.TERMINATED for t in played if t is not ended[0])
    assert len(set(policy.forgotten)) == 6


def test_a_lost_server_ends_the_rollout():
    with pytest.raises(PolicyLost, match="gone"):
        play(lambda trial: PolicyLost("gone"))
