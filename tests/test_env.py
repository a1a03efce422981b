"""Env: one episode of one task."""

from __future__ import annotations

import json
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch

from metarlgym import ConfigError, Env, EpisodeOver, MetaRLGymError, Step, StopReason, Task, Trial


class Count(Env):
    """Says how often it was spoken to; `bad` is invalid, `end` ends, `win` wins, `big` pays too much."""

    max_turns = 3

    def sample_task(self, rng):
        return {"n": rng.randrange(1000)}

    def on_reset(self, params, rng):
        self._noise = rng.randrange(1000)
        self._n = params["n"]
        return f"start {self._noise}"

    def on_step(self, action):
        if action == "bare":
            return Step("bare")
        if action == "cut":
            return Step("cut", 0.0, False, True)
        info = {"valid": action != "bad"}
        if action == "win":
            info["success"] = True
        return Step(
            f"{self.turns} {self.turns_left}", {"win": 1.0, "big": 2.0}.get(action, 0.0), action == "end", False, info
        )


TASK = Task("Count", {"n": 5})


def begin(seed=0, **kwargs):
    env = Count(**kwargs)
    env.reset(options={"task": TASK, "episode_seed": seed})
    return env


def test_episode():
    env = begin()
    assert env.step("a") == ("1 2", 0.0, False, False, {"valid": True, "success": False})
    step = env.step("b")
    assert (step.observation, step.terminated, env.turns, env.turns_left) == ("2 1", False, 2, 1)
    assert env.live
    assert env.step("c")[2:4] == (False, True)
    assert not env.live
    assert env.result() == {"return": 0.0, "success": False, "turns": 3, "invalid": 0, "stop": StopReason.MAX_TURNS}


def test_result_stays_readable_after_close():
    env = begin()
    env.step("win")
    env.step("bad")
    env.step("end")
    env.close()
    assert env.result() == {"return": 1.0, "success": True, "turns": 3, "invalid": 1, "stop": StopReason.TERMINATED}
    assert env.success


def test_info_is_filled_in():
    env = begin()
    assert env.step("bare") == Step("bare", 0.0, False, False, {"valid": True, "success": False})
    assert env.step("cut") == Step("cut", 0.0, False, True, {"valid": True, "success": False})
    assert env.result()["stop"] is StopReason.MAX_TURNS


def test_end_on_the_last_turn_is_no_truncation():
    env = begin()
    env.step("a")
    env.step("a")
    assert env.step("end")[2:4] == (True, False)
    assert env.result()["stop"] is StopReason.TERMINATED


def test_no_limit():
    env = begin()
    env.max_turns = None
    assert env.turns_left == math.inf
    for _ in range(50):
        assert not env.step("a").truncated


def test_step_needs_a_live_episode():
    env = Count()
    with pytest.raises(EpisodeOver, match=r"Count.*reset"):
        env.step("a")
    with pytest.raises(EpisodeOver):
        env.get_observation()
    env = begin()
    env.step("end")
    with pytest.raises(EpisodeOver):
        env.step("a")
    assert env.get_observation() == "1 2"


@pytest.mark.parametrize("reward", [2.0, -0.1, float("nan"), float("inf")])
def test_reward_out_of_range_raises_and_ends(reward):
    class Pays(Count):
        def on_step(self, action):
            return Step("", reward)

    env = Pays()
    env.reset(seed=1)
    with pytest.raises(MetaRLGymError, match="reward_range"):
        env.step("a")
    assert not env.live


def test_observation_is_idempotent():
    env = begin()
    assert env.get_observation() == env.get_observation() == f"start {env._noise}"
    step = env.step("a")
    assert env.get_observation() == step.observation == env.get_observation()


def test_seed_gives_task_and_noise():
    def play(*seeds):
        env = Count()
        return [(env.reset(seed=seed)[0], env._n) for seed in seeds]

    assert play(1, None, None) == play(1, None, None)
    assert len(set(play(1, None, None, 2))) == 4
    assert play(2, 1)[1] == play(1)[0]


def test_episode_seed_gives_noise_alone():
    texts = {begin(seed).get_observation() for seed in range(20)}
    assert len(texts) > 15
    assert begin(3).get_observation() == begin(3).get_observation() == begin(np.int64(3)).get_observation()


def test_new_task_depends_on_its_parts_alone():
    env = Count()
    tasks = [env.new_task("train", 0, i) for i in range(5)]
    random.seed(3)
    assert [Count().new_task("train", 0, i) for i in reversed(range(5))] == tasks[::-1]
    assert env.new_task(1) != env.new_task("1")
    assert env.new_task(1, split="eval").split == "eval"


def test_options_are_checked():
    with pytest.raises(ConfigError, match="is not a Task"):
        Count().reset(options={"task": {"n": 1}})
    with pytest.raises(ConfigError, match="style='loud'"):
        Count(style="loud")
    with pytest.raises(ConfigError, match="split='half'"):
        Count(split="half")
    assert Count(split="content").split == "content"


def test_failed_reset_leaves_no_live_episode():
    env = begin()
    with pytest.raises(KeyError):
        env.reset(options={"task": Task("Count", {}), "episode_seed": 0})
    with pytest.raises(EpisodeOver):
        env.step("a")


def test_truncate():
    env = begin()
    env.truncate(StopReason.TIME_LIMIT)
    assert not env.live
    assert env.result()["stop"] is StopReason.TIME_LIMIT


def test_optional_methods_say_what_to_define():
    env = Count()
    with pytest.raises(MetaRLGymError, match="random_action"):
        env.random_action(random.Random(0))
    with pytest.raises(MetaRLGymError, match="oracle"):
        env.oracle([])
    assert env.optimal_returns(3).kind == "none"
    assert env.no_memory_bound(3) is env.all_tasks() is None
    assert env.rules() == ""
    for call in (lambda: Env().sample_task(None), lambda: Env().on_reset(None, None), lambda: Env().on_step("")):
        with pytest.raises(NotImplementedError, match="must define"):
            call()


def test_boundary():
    assert Count().boundary(0, 3) == "--- Episode 1 of 3 ---"
    assert Count().boundary(1, None) == "--- Episode 2 ---"
    terse = Count(style="terse")
    assert (terse.boundary(0, 3), terse.boundary(1, 3)) == ("", "/")
    terse.max_turns = 1
    assert terse.boundary(1, 3) == ""


def test_task_key_is_a_content_hash():
    assert Task("A-v0", {"a": 1, "b": 2}).key == Task("A-v0", {"b": 2, "a": 1}, "eval").key
    assert Task("A-v0", {"a": 1}).key != Task("B-v0", {"a": 1}).key
    assert Task("A-v0", {"a": 1}).key == "4f6b9773b00eee5ac13f1f137655bffd"  # b2sum -l 128 of ["A-v0",{"a":1}]
    again = Task.from_json(TASK.to_json())
    assert (again, again.key) == (TASK, TASK.key)
    assert Task.from_json({"env_id": "A-v0", "params": [1]}).split == "train"


# ---------------------------------------------------------------------- what on_step may return


class Returns(Env):
    """Answers with whatever it is given."""

    def __init__(self, answer, first="start"):
        super().__init__()
        self.answer, self.first = answer, first

    def on_reset(self, params, rng):
        return self.first

    def on_step(self, action):
        return self.answer


def answer(value, first="start"):
    env = Returns(value, first)
    env.reset(options={"task": Task("Returns", {})})
    return env, env.step("x")


@pytest.mark.parametrize(
    "reward",
    [
        1,
        True,
        np.float32(1),
        np.float64(1),
        np.int64(1),
        np.array(1.0),
        torch.tensor(1.0),
        torch.tensor(1),
        Fraction(1),
    ],
    ids=repr,
)
def test_numbers_become_floats(reward):
    env, step = answer(Step("text", reward))
    assert type(step.reward) is float and step.reward == 1.0
    assert type(env.result()["return"]) is float
    assert json.dumps(step.reward) == "1.0"


@pytest.mark.parametrize("true", [True, 1, np.bool_(True), np.int64(1), np.array(True), torch.tensor(True)], ids=repr)
def test_flags_become_bools(true):
    env, step = answer(Step("text", 0.0, true, true != true, {"valid": true, "success": true}))
    assert step == Step("text", 0.0, True, False, {"valid": True, "success": True})
    assert all(type(flag) is bool for flag in (step.terminated, step.truncated, *step.info.values()))
    assert env.success is True


@pytest.mark.parametrize(
    ("reward", "shown"),
    [
        ("1", "'1'"),
        (None, "None"),
        (1j, "1j"),
        (np.array([1.0]), "array([1.])"),
        (torch.ones(2), "tensor([1., 1.])"),
        (np.str_("1"), "np.str_('1')"),
    ],
    ids=repr,
)
def test_other_rewards_are_refused_by_name(reward, shown):
    with pytest.raises(MetaRLGymError) as caught:
        answer(Step("text", reward))
    assert str(caught.value) == f"Returns: on_step returned reward={shown}, which is not a number: return a float."


@pytest.mark.parametrize("reward", [float("nan"), np.float32("nan"), 1.5, np.float64(-1), float("inf")], ids=repr)
def test_rewards_out_of_range_are_refused(reward):
    with pytest.raises(MetaRLGymError, match=r"outside reward_range=\(0.0, 1.0\)"):
        answer(Step("text", reward))


@pytest.mark.parametrize("flag", [None, "yes", 2, 1.0, np.array([True]), []], ids=repr)
@pytest.mark.parametrize("name", ["terminated", "truncated", "valid", "success"])
def test_other_flags_are_refused_by_name(name, flag):
    in_info = name in ("valid", "success")
    step = Step("text", info={name: flag}) if in_info else Step("text")._replace(**{name: flag})
    with pytest.raises(MetaRLGymError, match="must be True or False") as caught:
        answer(step)
    assert (f"info['{name}']=" if in_info else f"{name}=") in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "Returns: on_step returned None: return a metarlgym.Step."),
        (("a", 0.0, False, False, {}), "of type tuple: return a metarlgym.Step."),
        ("text", "'text' of type str: return a metarlgym.Step."),
        (Step(None), "on_step returned the observation None: return a str, which may be empty."),
        (Step(b"text"), "the observation b'text' of type bytes: return a str"),
        (Step(["a"]), "the observation ['a'] of type list: return a str"),
        (Step("text", info=[]), "on_step returned info=[]: it must be a dict or None."),
    ],
)
def test_what_is_not_a_step_is_refused(value, message):
    env = Returns(value)
    env.reset(options={"task": Task("Returns", {})})
    with pytest.raises(MetaRLGymError) as caught:
        env.step("x")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(EpisodeOver):
        env.step("x")


@pytest.mark.filterwarnings("error")
def test_a_coroutine_is_refused():
    class Waits(Returns):
        async def on_step(self, action):
            return Step("text")

    env = Waits(None)
    env.reset(options={"task": Task("Returns", {})})
    with pytest.raises(MetaRLGymError, match=r"on_step returned a coroutine \(environments are not async: write `def`"):
        env.step("x")


@pytest.mark.parametrize("first", [None, b"start", 3, ["start"]])
def test_a_first_text_that_is_not_a_str_is_refused(first):
    with pytest.raises(MetaRLGymError, match=r"Returns: on_reset returned .*: return a str, which may be empty"):
        answer(Step("text"), first)
    _, step = answer(Step(np.str_("text")), np.str_("start"))
    assert type(step.observation) is str


def test_trials_of_numpy_numbers_are_json():
    trial = Trial(Returns(Step("text", np.float32(1), np.bool_(True), False, {"success": np.bool_(True)})), 2)
    trial.reset(options={"task": Task("Returns", {}), "episode_seed": 0})
    trial.step("x")
    trial.step("x")
    assert [json.loads(json.dumps(episode.to_dict()))["return"] for episode in trial.history] == [1.0, 1.0]


@pytest.mark.parametrize("params", [{"n": np.int64(1)}, {"n": {1, 2}}, {(1, 2): 3}, np.zeros(2)], ids=repr)
def test_task_parameters_that_are_not_json_are_refused(params):
    with pytest.raises(ConfigError, match=r"Returns: the task parameters .* are not JSON .*int\(x\)") as caught:
        Task("Returns", params)
    assert "\n" not in str(caught.value)
