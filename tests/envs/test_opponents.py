import copy
import pickle

import pytest

from metarlgym import Task
from metarlgym.envs.opponents import Opponent, OpponentGame
from metarlgym.envs.prisoners_dilemma import PrisonersDilemma
from metarlgym.trial import Trial


class TitForTwoTats(Opponent):
    """The example of the module's docstring."""

    name = "tit_for_two_tats"

    def move(self, seen):
        return "defect" if [player for player, _ in seen[-2:]] == ["defect", "defect"] else "cooperate"


class Thinker(Opponent):
    """Like a second policy: a player of its own for each episode, which remembers and draws from its noise."""

    name = "thinker"
    deterministic = False

    def begin(self, params, rng):
        player = Thinker()
        player.rng, player.asked = rng, 0
        return player

    def move(self, seen):
        self.asked += 1
        assert self.asked == len(seen) + 1
        return self.rng.choice(["cooperate", "defect"])


class MyDilemma(PrisonersDilemma):
    kinds = (*PrisonersDilemma.kinds, TitForTwoTats(), Thinker())


def test_a_new_opponent_is_part_of_tasks_optimum_and_oracle(harness):
    names = ["all_c", "tit_for_tat", "tit_for_two_tats"]
    trial = Trial(MyDilemma(rounds=3, opponents=names), 2)
    assert [params["opponent"] for params in trial.all_tasks()] == names
    optimum = trial.optimal_returns()
    assert optimum.kind == "exact"
    assert harness.mean_curve(trial) == pytest.approx(list(optimum.curve))
    # Whoever knows it defects in every other round.
    alone = MyDilemma(rounds=3, opponents=["tit_for_two_tats"])
    assert alone.optimal_returns(1).total == pytest.approx(1 + 0.6 + 1)


def test_an_opponent_with_a_mind_of_its_own():
    env = MyDilemma(opponents=["thinker"])
    assert env.optimal_returns(3).kind == "none"
    task = Task(env.env_id, {"opponent": "thinker"})
    env.reset(options={"task": task, "episode_seed": 1})
    env.step("[defect]")
    twins = [env, copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    rest = [[twin.step("[defect]").observation for _ in range(4)] for twin in twins]
    assert rest[0] == rest[1] == rest[2]
    env.reset(options={"task": task, "episode_seed": 2})  # a fresh player
    env.step("[defect]")


def test_what_must_be_defined():
    with pytest.raises(NotImplementedError, match="Opponent must define move"):
        Opponent().move(())
    assert Opponent().digest([("a", "b")]) == (("a", "b"),)
    assert OpponentGame.kinds == ()
