"""Trial: several episodes of one task."""

from __future__ import annotations

import copy
import pickle

import gymnasium
import pytest

from metarlgym import ConfigError, Env, EpisodeOver, LastK, NoMemory, Step, StopReason, Task, Trial, make
from metarlgym.envs.doors import Doors


class Talk(Env):
    """`win` ends with success, `end` without, anything else goes on; at most three turns."""

    max_turns = 3
    reward_range = (0.0, 2.0)
    action_words = 1

    def sample_task(self, rng):
        return {"n": rng.randrange(1000)}

    def on_reset(self, params, rng):
        self._noise = rng.randrange(10**6)
        return f"hello {params['n']} {self._noise}"

    def on_step(self, action):
        won = action == "win"
        return Step(
            f"<{action}>", float(won), action in ("win", "end"), False, {"valid": action != "bad", "success": won}
        )


TASK = Task("Talk", {"n": 7})


def begin(episodes=3, *, style="chat", seed=1, **kwargs):
    trial = Trial(Talk(style=style), episodes, **kwargs)
    trial.reset(options={"task": TASK, "episode_seed": seed})
    return trial


def play(trial, *actions):
    return [trial.step(action) for action in actions]


def test_h_episodes():
    trial = begin(3)
    steps = play(trial, "a", "win", "end", "a", "bad", "c")
    assert [step.reward for step in steps] == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert [step.terminated for step in steps] == [False] * 5 + [True]
    assert not any(step.truncated for step in steps)
    assert [step.info["episode_index"] for step in steps] == [0, 0, 1, 2, 2, 2]
    assert [step.info.get("episode_return") for step in steps] == [None, 1.0, 0.0, None, None, 0.0]
    assert trial.result() == {
        "returns": [1.0, 0.0, 0.0],
        "successes": [True, False, False],
        "turns": 6,
        "invalid": 1,
        "return": 1.0,
        "success": True,
        "stop": StopReason.TERMINATED,
    }
    assert [episode.stop for episode in trial.history] == [
        StopReason.TERMINATED,
        StopReason.TERMINATED,
        StopReason.MAX_TURNS,
    ]
    with pytest.raises(EpisodeOver):
        trial.step("a")


def test_one_task_new_noise():
    trial = begin(3)
    openings = [trial.opening.split()[-2:]]
    for _ in range(2):
        trial.step("end")
        openings.append(trial.opening.split()[-2:])
    assert {n for n, _ in openings} == {"7"}
    assert len({noise for _, noise in openings}) == 3


def test_texts_of_an_episode_end():
    trial = begin(2)
    assert trial.get_observation().startswith("--- Episode 1 of 2 ---\nhello 7 ")
    step = trial.step("end")
    closing, boundary, first = step.observation.split("\n")
    assert (closing, boundary) == ("<end>", "--- Episode 2 of 2 ---")
    assert trial.closing == closing
    assert trial.opening == f"{boundary}\n{first}" == trial.history[1].opening
    assert trial.get_observation() == step.observation
    last = trial.step("end")
    assert (last.observation, trial.closing, trial.opening) == ("<end>", "<end>", None)


def test_terse_texts():
    trial = begin(2, style="terse")
    assert trial.get_observation().startswith("hello 7 ")
    assert trial.step("end").observation.startswith("<end> / hello 7 ")
    doors = make("Doors-v0", episodes=2, style="terse")
    assert doors.reset(seed=1)[0] == ""
    assert doors.step("safe").observation == "sure"


def test_history():
    trial = begin(2)
    play(trial, "a", "bad", "end", "x")
    first, second = trial.history
    assert [turn.action for turn in first.turns] == ["a", "bad", "end"]
    assert [turn.observation for turn in first.turns] == ["<a>", "<bad>", "<end>"]
    assert [turn.valid for turn in first.turns] == [True, False, True]
    assert (first.ret, first.invalid, first.stop, second.stop) == (0.0, 1, StopReason.TERMINATED, None)
    assert [turn.action for turn in second.turns] == ["x"]
    assert first.to_dict()["turns"][1] == {"action": "bad", "observation": "<bad>", "reward": 0.0, "valid": False}


@pytest.mark.parametrize("free_shots", [-1, 3, 4])
def test_free_shots_are_checked(free_shots):
    with pytest.raises(ConfigError, match=f"free_shots={free_shots}"):
        Trial(Talk(), 3, free_shots=free_shots)


def test_weights():
    assert Trial(Talk(), 3, free_shots=2).weights == (0.0, 0.0, 1.0)
    assert Trial(Talk(), 2).weights == (1.0, 1.0)


def test_free_shots_do_not_touch_rewards():
    trial = begin(3, free_shots=2)
    assert [step.reward for step in play(trial, "win", "win", "win")] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kwargs", [{"episodes": 0}, {"episodes": None}, {"episodes": 2, "max_total_turns": 0}])
def test_contradicting_arguments(kwargs):
    with pytest.raises(ConfigError, match=r"episodes=|max_total_turns="):
        Trial(Talk(), **kwargs)


def test_stop_on_success():
    trial = begin(5, stop_on_success=True)
    trial.step("end")
    step = trial.step("win")
    assert (step.terminated, step.truncated, step.observation) == (True, False, "<win>")
    assert (trial.trial_stop, trial.opening, len(trial.history)) == (StopReason.SUCCESS, None, 2)


def test_turn_budget_buys_episodes():
    quick, slow = begin(None, max_total_turns=6), begin(None, max_total_turns=6)
    quick_steps, slow_steps = play(quick, *["win"] * 6), play(slow, *["a"] * 6)
    assert (len(quick.history), quick.result()["return"]) == (6, 6.0)
    assert (len(slow.history), slow.result()["return"]) == (2, 0.0)
    assert not any(step.terminated or step.truncated for step in (*quick_steps[:-1], *slow_steps[:-1]))
    assert slow_steps[-1].truncated
    assert slow.trial_stop is StopReason.TURN_LIMIT
    assert quick.get_observation() == "<win>"


def test_budget_ends_an_episode_in_the_middle():
    trial = begin(4, max_total_turns=4)
    steps = play(trial, "a", "a", "a", "a")
    assert (steps[-1].terminated, steps[-1].truncated) == (False, True)
    assert [episode.stop for episode in trial.history] == [StopReason.MAX_TURNS, StopReason.TURN_LIMIT]
    assert not trial.env.live


def test_budget_in_the_last_episode():
    """Cut in its middle the trial met its limit; ended by itself it is complete."""
    cut, whole = begin(2, max_total_turns=4), begin(2, max_total_turns=4)
    assert play(cut, "a", "end", "a", "a")[-1].truncated
    assert cut.trial_stop is StopReason.TURN_LIMIT
    assert play(whole, "a", "end", "a", "end")[-1].terminated
    assert whole.trial_stop is StopReason.TERMINATED


def test_budget_alone_tells_no_number_of_episodes():
    assert begin(None, max_total_turns=6).get_observation().startswith("--- Episode 1 ---\n")
    assert begin(4, max_total_turns=6).get_observation().startswith("--- Episode 1 of 4 ---\n")


@pytest.mark.parametrize(
    ("settings", "goal"),
    [
        ({"episodes": 1}, ""),
        ({"episodes": 3}, " You play 3 episodes. Your goal is the highest total of points over all episodes."),
        (
            {"episodes": 3, "free_shots": 1},
            " You play 3 episodes. Your goal is the highest total of points over all episodes that count; the first is "
            "practice.",
        ),
        (
            {"episodes": 4, "free_shots": 2, "max_total_turns": 9},
            " You play up to 4 episodes, with 9 actions in total. Your goal is the highest total of points over all "
            "episodes that count; the first 2 are practice.",
        ),
        (
            {"episodes": 3, "stop_on_success": True},
            " You play up to 3 episodes, until the first success. Your goal is the highest total of points over all "
            "episodes.",
        ),
        (
            {"episodes": None, "max_total_turns": 9},
            " You play episodes until you have used 9 actions in total. Your goal is the highest total of points over "
            "all episodes.",
        ),
    ],
)
def test_rules_tell_the_goal(settings, goal):
    for style in ("chat", "terse"):
        env = Doors(style=style)
        assert Trial(env, **settings).rules() == env.rules() + (goal if style == "chat" else "")


def test_end_episode():
    trial = begin(2)
    trial.step("a")
    trial.end_episode(StopReason.TOKEN_LIMIT)
    assert [episode.stop for episode in trial.history] == [StopReason.TOKEN_LIMIT, None]
    assert trial.closing == ""
    assert trial.get_observation() == trial.opening == trial.history[1].opening
    trial.step("a")
    trial.end_episode(StopReason.TIME_LIMIT)
    assert (trial.live, trial.opening, trial.trial_stop) == (False, None, StopReason.TERMINATED)
    with pytest.raises(EpisodeOver):
        trial.end_episode(StopReason.TIME_LIMIT)
    assert len(trial.history) == 2


def test_truncate():
    trial = begin(3)
    play(trial, "win", "a")
    trial.truncate(StopReason.CONTEXT_LIMIT)
    assert (trial.live, trial.env.live, trial.trial_stop) == (False, False, StopReason.CONTEXT_LIMIT)
    assert [episode.stop for episode in trial.history] == [StopReason.TERMINATED, StopReason.CONTEXT_LIMIT]
    trial.truncate(StopReason.TIME_LIMIT)
    assert trial.trial_stop is StopReason.CONTEXT_LIMIT


def test_success_before_the_end_survives_truncation():
    class WinsOn(Talk):
        def on_step(self, action):
            return super().on_step(action)._replace(terminated=False)

    trial = Trial(WinsOn(), 2)
    trial.reset(seed=1)
    trial.step("win")
    trial.truncate(StopReason.TIME_LIMIT)
    assert trial.success and trial.history[0].success


def test_determinism():
    actions = ["a", "win", "end", "a", "a", "a"]

    def texts(**kwargs):
        trial = begin(**kwargs)
        return [trial.get_observation(), *play(trial, *actions)]

    assert texts() == texts()
    assert texts(seed=2) != texts()
    trial = begin()
    play(trial, "a", "end", "b")
    trial.reset(options={"task": TASK, "episode_seed": 1})
    assert [trial.get_observation(), *play(trial, *actions)] == texts()


def test_seed_gives_task_and_noise():
    one, two = Trial(Talk(), 2), Trial(Talk(), 2)
    assert one.reset(seed=5) == two.reset(seed=5)
    assert (one.task, one.trial_seed) == (two.task, two.trial_seed)
    assert one.reset() == two.reset()
    assert one.reset()[0] != one.reset()[0]


def test_copies_go_on_alike():
    trial = begin(3)
    play(trial, "a", "end")
    twins = [copy.deepcopy(trial), pickle.loads(pickle.dumps(trial))]
    expected = play(trial, "a", "win", "end")
    for twin in twins:
        assert play(twin, "a", "win", "end") == expected
        assert twin.result() == trial.result()


def test_memory_without_index():
    """A policy that forgets must not learn from a number that it has played before."""
    trial = begin(3, memory=NoMemory())
    texts = [trial.opening]
    for _ in range(2):
        trial.step("end")
        texts.append(trial.opening)
    assert all(text.startswith("hello 7 ") for text in texts)
    assert begin(3, memory=LastK(2)).opening.startswith("--- Episode 1 of 3 ---")


def test_failed_reset_leaves_no_live_trial():
    trial = begin(2)
    trial.step("end")
    with pytest.raises(KeyError):
        trial.reset(options={"task": Task("Talk", {}), "episode_seed": 0})
    with pytest.raises(EpisodeOver):
        trial.step("a")
    trial.reset(seed=1)
    assert (trial.live, trial.closing, len(trial.history)) == (True, "", 1)


def test_oracle_is_told_the_horizon():
    """Doors with 6 doors and a sure 0.4: exploring pays in 4 episodes, not in 3 (definitions, 2)."""
    first = {}
    for episodes in (3, 4):
        trial = make("Doors-v0", episodes=episodes, doors=6)
        trial.reset(seed=1)
        assert (trial.env.horizon, trial.env.horizon_free) == (episodes, 0)
        first[episodes] = trial.oracle(trial.history)
    assert first == {3: "[safe]", 4: "[1]"}
    free = make("Doors-v0", episodes=2, doors=6, free_shots=1)
    free.reset(seed=1)
    assert free.oracle(free.history) == "[1]"


def test_optimum_of_its_own_length():
    trial = make("Doors-v0", episodes=6)
    assert trial.optimal_returns().total == pytest.approx(4.5)
    assert trial.optimal_returns(1).total == pytest.approx(0.4)
    assert trial.no_memory_bound() == pytest.approx(2.4)


def test_a_trial_is_an_env():
    env = Talk(style="terse", split="content")
    trial = Trial(env)
    assert (trial.env_id, trial.style, trial.split, trial.reward_range) == ("Talk", "terse", "content", (0.0, 2.0))
    assert (trial.action_words, trial.blocking, trial.visible_task) == (1, False, False)
    assert trial.new_task(3) == env.new_task(3)
    trial.reset(seed=1)
    assert not trial.result()["turns"]
    trial.close()


def test_a_trial_of_something_else_is_refused():
    wrapped = gymnasium.wrappers.TimeLimit(Doors(), 3)
    with pytest.raises(ConfigError, match=r"TimeLimit.* is a gymnasium wrapper.*give env.unwrapped"):
        Trial(wrapped)
    assert Trial(wrapped.unwrapped).env is wrapped.unwrapped
    with pytest.raises(ConfigError, match=r"env='Doors-v0' is not a metarlgym\.Env"):
        Trial("Doors-v0")


@pytest.mark.parametrize(
    ("episodes", "budget", "line"),
    [
        (100_001, None, "episodes=100001 must be at most 100000."),
        (0, None, "episodes=0 must be at least 1."),
        (2.5, None, "episodes=2.5 must be a whole number of at least 1."),
        (None, 100_001, "max_total_turns=100001 must be at most 100000 where episodes is not given."),
    ],
)
def test_the_number_of_episodes_is_bounded(episodes, budget, line):
    with pytest.raises(ConfigError) as caught:
        Trial(Doors(), episodes, max_total_turns=budget)
    assert str(caught.value) == line
    assert Trial(Doors(), 2, max_total_turns=10**9).episodes == 2
