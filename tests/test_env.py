"""Env: one episode of one task."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from metarlgym import ConfigError, Env, EpisodeOver, MetaRLGymError, Step, StopReason, Task


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
