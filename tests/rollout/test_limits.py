"""Every limit that is hit becomes a stop reason; an episode's limit goes on with the next episode."""

from __future__ import annotations

import time

import pytest
from tiny import Speaker, terse

from metarlgym import ConfigError, StopReason, make
from metarlgym.models.scratch import byte_tokenizer, word_tokenizer
from metarlgym.policies.scripted import ScriptedPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.rollout.protocol import Policy
from metarlgym.rollout.render import PlainRenderer

GROUP = terse("GuessNumber-v0", numbers=9, guesses=4)
WORDS = word_tokenizer(["guess / 1 2 3 4 5 6 7 8 9 higher lower correct invalid"])


def play(limits, policy=None, say="9", renderer=None, task=None, episodes=3, **trial_args):
    """A trial on the number 1 whose guesses are all wrong, one token each (prompt: <bos> guess)."""
    from metarlgym import Task, Trial

    renderer = renderer or PlainRenderer(WORDS, 1, "")
    spec = TrialSpec(
        lambda: Trial(GROUP.make_env(), episodes, **trial_args), task or Task(GROUP.env_id, {"number": 1}), 0
    )
    return RolloutManager(policy or Speaker(renderer, lambda trial: say), renderer, Limits(**limits)).run([spec])[0]


def turns(trajectory):
    return [len(episode.turns) for episode in trajectory.episodes]


def stops(trajectory):
    return [episode.stop for episode in trajectory.episodes]


def test_without_limits_the_environment_ends_everything():
    played = play({})
    assert turns(played) == [4, 4, 4]
    assert stops(played) == [StopReason.MAX_TURNS] * 3
    assert played.stop is StopReason.TERMINATED
    assert not played.truncated


def test_episode_turns_end_the_episode_and_the_trial_goes_on():
    played = play({"episode_turns": 2})
    assert turns(played) == [2, 2, 2]
    assert stops(played) == [StopReason.TURN_LIMIT] * 3
    assert played.stop is StopReason.TERMINATED
    assert played.truncated


def test_after_an_episodes_limit_its_last_text_is_still_seen():
    row = play({"episode_turns": 2}).rows[0]
    assert WORDS.decode(row.ids) == "<bos> guess 9 lower 9 lower / 9 lower 9 lower / 9 lower 9 <end>"
    assert row.episode == [0] * 4 + [1] * 5 + [2] * 5  # the mark belongs to the episode it opens


def test_episode_tokens_count_both_sides_and_the_same_in_every_episode():
    # A turn is two tokens: actions are taken at 0, 2 and 4 of 5; at 6 none is left. Prompt and marks do not count.
    played = play({"episode_tokens": 5})
    assert turns(played) == [3, 3, 3]
    assert stops(played) == [StopReason.TOKEN_LIMIT] * 3
    assert played.stop is StopReason.TERMINATED


def test_trial_turns_end_the_trial():
    played = play({"trial_turns": 5})
    assert turns(played) == [4, 1]
    assert played.stop is StopReason.TURN_LIMIT
    assert stops(played) == [StopReason.MAX_TURNS, StopReason.TURN_LIMIT]


@pytest.mark.parametrize("room", range(3, 16))
def test_a_context_never_grows_beyond_its_limit(room):
    played = play({"context_tokens": room})
    assert played.stop is StopReason.CONTEXT_LIMIT
    assert len(played.rows[0].ids) <= room
    assert played.rows[0].ids[-1] == WORDS.eos_token_id
    assert played.truncated


def test_a_context_limit_is_one_of_each_context():
    from metarlgym import NoMemory

    played = play({"context_tokens": 12}, memory=NoMemory())
    assert played.stop is StopReason.TERMINATED
    assert turns(played) == [4, 4, 4]


def test_action_tokens_cut_the_action_and_the_environment_gets_what_there_is():
    renderer = PlainRenderer(byte_tokenizer())
    played = play({"action_tokens": 3}, say="12345", renderer=renderer)
    assert {turn.action for episode in played.episodes for turn in episode.turns} == {"123"}
    assert played.truncated_actions == 12
    assert played.truncated
    assert played.stop is StopReason.TERMINATED
    row = played.rows[0]
    start = row.prompt_len
    assert row.action_mask[:4] == [1, 1, 1, 0]
    assert row.ids[start + 3] == renderer.end_id  # the bridge ended it, so it is no token of the policy


def test_little_room_shortens_the_last_action():
    renderer = PlainRenderer(byte_tokenizer())
    prompt = len(play({"trial_turns": 1}, renderer=renderer).rows[0].ids[: len("guess\n") + 1])
    played = play({"context_tokens": prompt + 3}, say="12345", renderer=renderer)
    assert [turn.action for turn in played.episodes[0].turns] == ["12"]
    assert played.stop is StopReason.CONTEXT_LIMIT


def test_episode_seconds():
    class Slow(ScriptedPolicy):
        pass

    def act(trial, rng):
        time.sleep(0.03)
        return "9"

    played = play({"episode_seconds": 0.05}, Slow(act))
    assert stops(played) == [StopReason.TIME_LIMIT] * 3
    assert all(1 <= n < 4 for n in turns(played))
    assert played.stop is StopReason.TERMINATED


def test_trial_seconds_between_actions():
    played = play({"trial_seconds": 0.05}, ScriptedPolicy(lambda trial, rng: time.sleep(0.03) or "9"))
    assert played.stop is StopReason.TIME_LIMIT
    assert len(played.episodes) < 3


def test_trial_seconds_while_the_policy_never_answers():
    class Silent(Policy):
        def submit(self, request, done):
            pass

    played = play({"trial_seconds": 0.05}, Silent())
    assert played.stop is StopReason.TIME_LIMIT
    assert turns(played) == [0]
    assert played.rows[0].action_mask == [0]


def test_an_answer_that_comes_too_late_is_ignored():
    class Late(ScriptedPolicy):
        def submit(self, request, done):
            self.loop.call_later(0.15 if request.trial.trial_seed else 0.3, self._reply, request, done)

    from metarlgym import Task, Trial

    specs = [TrialSpec(lambda: Trial(GROUP.make_env(), 1), Task(GROUP.env_id, {"number": 9}), seed) for seed in (0, 1)]
    late, punctual = RolloutManager(Late(lambda s, r: "9"), None, Limits(trial_seconds=0.2)).run(specs)
    assert (late.stop, turns(late)) == (StopReason.TIME_LIMIT, [0])
    assert punctual.total == 1.0


@pytest.mark.parametrize("name", ["action_tokens", "episode_turns", "context_tokens", "trial_seconds"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_must_be_positive(name, value):
    default = "64" if name == "action_tokens" else "no limit"
    wanted = f"{name}={value} must be above 0; leave it out for {default}."
    with pytest.raises(ConfigError) as caught:
        Limits(**{name: value})
    assert str(caught.value) == wanted
    with pytest.raises(ConfigError) as caught:  # as run settings and options name them
        PlaySettings.of({"env_id": "Doors-v0", f"max_{name}": value})
    assert str(caught.value) == f"max_{wanted}"


def test_thoughts_may_have_no_tokens():
    assert Limits(thought_tokens=0).thought_tokens == 0
    with pytest.raises(ConfigError, match="max_thought_tokens=-1 must be at least 0; leave it out for 512 where"):
        PlaySettings.of({"env_id": "Doors-v0", "max_thought_tokens": -1})


def test_budget_of_turns_is_the_trials_own():
    trial = make("GuessNumber-v0", episodes=9, max_total_turns=6, numbers=9, guesses=4, style="terse")
    assert trial.episodes == 9
    played = play({}, episodes=9, max_total_turns=6)
    assert turns(played) == [4, 2]
    assert played.stop is StopReason.TURN_LIMIT
