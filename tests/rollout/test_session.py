"""Session: one trial. What goes wrong in it is recorded and never reaches the rest of the batch."""

from __future__ import annotations

import pytest
from tiny import Speaker

from metarlgym import MetaRLGymError, Step, StopReason, Task, Trial
from metarlgym.envs.guess_number import GuessNumber
from metarlgym.models.scratch import word_tokenizer
from metarlgym.policies.scripted import ScriptedPolicy
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.protocol import ActReply, Policy
from metarlgym.rollout.render import PlainRenderer

WORDS = word_tokenizer(["guess / 1 2 3 4 5 6 7 8 9 higher lower correct invalid"])
RENDERER = PlainRenderer(WORDS, 1, "")


class Breaking(GuessNumber):
    """Fails on the guess 3; where `number` is 4, already at the start of an episode."""

    def __init__(self, **kwargs):
        super().__init__(numbers=9, guesses=2, style="terse", **kwargs)

    def on_reset(self, params, rng):
        if params["number"] == 4:
            raise OSError("no number")
        return super().on_reset(params, rng)

    def on_step(self, action):
        if action == "3":
            raise RuntimeError("three is broken")
        if action == "5":
            return Step("higher", float("nan"))
        return super().on_step(action)


def play(policy, numbers, env=Breaking, renderer=RENDERER):
    specs = [TrialSpec(lambda: Trial(env(), 2), Task("Breaking", {"number": n}), n) for n in numbers]
    return RolloutManager(policy, renderer).run(specs)


def guess(numbers):
    """Every guess is the task's number: told by the trial's seed, as tests may."""
    return Speaker(RENDERER, lambda trial: str(numbers.get(trial.trial_seed, trial.trial_seed)))


# ---------------------------------------------------------------------- errors


def test_an_error_in_a_step_ends_its_trial_alone():
    played = play(guess({}), [1, 3, 2])
    assert [t.stop for t in played] == [StopReason.TERMINATED, StopReason.ERROR, StopReason.TERMINATED]
    assert played[1].error == "RuntimeError: three is broken"
    assert "on_step" in played[1].error_detail
    assert [t.total for t in played] == [2.0, 0.0, 2.0]


def test_what_was_played_before_an_error_stays():
    def say(trial):
        return "3" if len(trial.history) == 2 else "1"

    (played,) = play(Speaker(RENDERER, say), [1])
    assert played.stop is StopReason.ERROR
    assert [e.ret for e in played.episodes] == [1.0, 0.0]
    assert played.returns == [1.0, 0.0]
    assert played.rows[0].ids[-1] == RENDERER.end_id


def test_an_error_at_the_start_leaves_a_trial_without_rows():
    (played,) = play(guess({}), [4])
    assert (played.stop, played.error, played.rows) == (StopReason.ERROR, "OSError: no number", [])
    assert played.episodes == []


def test_a_reward_outside_its_range_is_an_error_of_the_trial():
    (played,) = play(guess({1: 5}), [1])
    assert played.stop is StopReason.ERROR
    assert "outside reward_range" in played.error


def test_an_error_of_the_policy_ends_its_trial_alone():
    def say(trial):
        return ValueError("no idea") if trial.trial_seed == 1 else "2"

    failed, fine = play(Speaker(RENDERER, say), [1, 2])
    assert (failed.stop, failed.error) == (StopReason.ERROR, "ValueError: no idea")
    assert fine.total == 2.0


def test_an_error_of_a_script_ends_its_trial_alone():
    def act(trial, rng):
        return str(1 // (trial.trial_seed - 1) + 1)

    failed, fine = play(ScriptedPolicy(act), [1, 2], renderer=None)
    assert failed.error.startswith("ZeroDivisionError")
    assert fine.total == 2.0


def test_an_action_without_tokens_is_an_error():
    class Mute(Policy):
        def submit(self, request, done):
            self.loop.call_soon(done, ActReply([], []))

    (played,) = play(Mute(), [1])
    assert "no tokens" in played.error


def test_a_policy_that_cannot_even_take_a_request_fails_the_rollout():
    class Broken(Policy):
        def submit(self, request, done):
            raise MetaRLGymError("server gone")

    with pytest.raises(MetaRLGymError, match="server gone"):
        play(Broken(), [1, 2])


def test_a_trial_that_cannot_be_made_fails_the_rollout():
    def env():
        raise TypeError("bad arguments")

    with pytest.raises(TypeError, match="bad arguments"):
        play(guess({}), [1], env)


# ---------------------------------------------------------------------- rows


def test_tokens_of_a_trial_in_the_order_they_came():
    def say(trial):
        return {(1, 0): "9", (1, 1): "2", (2, 0): "2"}[len(trial.history), len(trial.history[-1].turns)]

    (played,) = play(Speaker(RENDERER, say), [2])
    (row,) = played.rows
    assert WORDS.decode(row.ids) == "<bos> guess 9 lower 2 correct / 2 <end>"
    assert row.prompt_len == 2
    assert row.action_mask == [1, 0, 1, 0, 0, 1, 0]
    assert row.episode == [0, 0, 0, 1, 1, 1, 1]
    assert row.turn == [0, 1, 1, 0, 0, 0, 0]
    assert row.logprobs == [-1.0, 0.0, -1.0, 0.0, 0.0, -1.0, 0.0]


def test_every_action_of_every_trial_has_a_seed_of_its_own():
    def seeds(say):
        class Noting(Speaker):
            def submit(self, request, done):
                place = (request.trial.trial_seed, len(request.trial.history), len(request.trial.history[-1].turns))
                self.seen[place] = request.seed
                super().submit(request, done)

        policy = Noting(RENDERER, say)
        policy.seen = {}
        specs = [
            TrialSpec(lambda: Trial(Breaking(), 2), Task("Breaking", {"number": n}), n, ("run", 0, n))
            for n in (1, 2, 6)
        ]
        RolloutManager(policy, RENDERER).run(specs)
        return policy.seen

    wrong, right = seeds(lambda trial: "9"), seeds(lambda trial: str(trial.trial_seed))
    assert len(wrong) == len(set(wrong.values())) == 3 * 2 * 2
    # A function of run, row, episode and turn: what was played before plays no part.
    assert len(right) == 3 * 2
    assert right.items() <= wrong.items()


def test_policies_on_text_make_no_rows():
    (played,) = play(ScriptedPolicy(lambda trial, rng: "2"), [2])
    assert played.rows == []
    assert played.total == 2.0


def test_contexts_that_ended_are_forgotten():
    policy = guess({})
    played = play(policy, [1, 3, 2])
    assert len(policy.forgotten) == len(set(policy.forgotten)) == sum(len(t.rows) for t in played) == 3


def test_messages_are_the_conversation_so_far():
    seen = []

    def act(trial, rng):
        seen.append([tuple(message) for message in trial.messages])
        return "9" if len(seen) == 1 else "2"

    play(ScriptedPolicy(act), [2], renderer=None)
    assert seen[0] == [("system", "guess"), ("user", "")]
    assert seen[1] == [*seen[0], ("assistant", "9"), ("user", "lower")]
    assert seen[2] == [*seen[1], ("assistant", "2"), ("user", "correct /")]
