"""A good environment, and for each contract of `check_env` some that break it alone."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from metarlgym import Env, Optimum, Step, parse_action


class Safe(Env):
    """A good citizen: open a safe with a hidden digit; four tries an episode, wrong digits say no more than no."""

    max_turns = 4
    action_words = 1

    def rules(self):
        return "" if self.style == "terse" else "Open the safe: answer with one digit in brackets, [0] to [9]."

    def sample_task(self, rng):
        return {"digit": rng.randrange(10), "spare": [rng.randrange(100, 200)]}

    def on_reset(self, params, rng):
        self._params = params
        self._tries = []
        return rng.choice(["a", "b"]) if self.style == "terse" else f"The safe is {rng.choice(['red', 'blue'])}."

    def on_step(self, action):
        word = parse_action(action)
        if word not in tuple("0123456789"):
            return Step("What?", 0.0, False, False, {"valid": False, "success": False})
        self._tries.append(word)
        won = int(word) == self._params["digit"]
        return Step("It opens!" if won else "No.", float(won), won, False, {"valid": True, "success": won})

    def random_action(self, rng):
        return self.write(rng.randrange(10))

    def legal_actions(self):
        return [self.write(digit) for digit in range(10)]

    def oracle(self, history):
        tried = {parse_action(turn.action): turn.reward for episode in history for turn in episode.turns}
        return self.write(next((d for d, r in tried.items() if r), None) or min(set("0123456789") - tried.keys()))

    def optimal_returns(self, episodes, free_shots=0):
        curve = tuple(min(1.0, 0.4 * (n + 1)) for n in range(episodes))
        return Optimum(sum(curve[free_shots:]), curve, "exact")

    def no_memory_bound(self, episodes):
        return 0.4 * episodes

    def write(self, digit):
        return f"{digit}" if self.style == "terse" else f"[{digit}]"


BROKEN: list[tuple[str, type[Env]]] = []


def breaks(contract):
    def note(cls):
        BROKEN.append((contract, cls))
        return cls

    return note


@breaks("interface")
class NoText(Safe):
    def on_reset(self, params, rng):
        super().on_reset(params, rng)


@breaks("interface")
class PlainTuple(Safe):
    def on_step(self, action):
        return tuple(super().on_step(action))


@breaks("rewards")
class RewardOutOfRange(Safe):
    reward_range = (0.0, 0.5)


@breaks("rewards")
class NanReward(Safe):
    def on_step(self, action):
        return super().on_step(action)._replace(reward=float("nan"))


@breaks("junk")
class RaisesOnJunk(Safe):
    def on_step(self, action):
        word = parse_action(action)
        int(word if word.isdigit() else "0")  # "²".isdigit() is True
        return super().on_step(action)


@breaks("junk")
class PaysForJunk(Safe):
    def on_step(self, action):
        step = super().on_step(action)
        return step if step.info["valid"] else step._replace(reward=0.25)


@breaks("junk")
class JunkWins(Safe):
    def on_step(self, action):
        step = super().on_step(action)
        return step if step.info["valid"] else step._replace(info={"valid": False, "success": True})


@breaks("junk")
class JunkCostsLess(Safe):
    """Every legal step costs, breaking the rules is free."""

    reward_range = (-1.0, 0.0)

    def on_step(self, action):
        step = super().on_step(action)
        return step._replace(reward=-0.1 if step.info["valid"] else 0.0)


@breaks("interface")
class SuccessIsReward(Safe):
    def on_step(self, action):
        step = super().on_step(action)
        return step._replace(info={"valid": True, "success": step.reward})


@breaks("info")
class HidesSuccess(Safe):
    def step(self, action):
        step = super().step(action)
        return step._replace(info={"valid": step.info["valid"]})


@breaks("lifecycle")
class StepsAfterTheEnd(Safe):
    def step(self, action):
        return super().step(action) if self.live else Step("It is over.")


@breaks("observation")
class ObservationIsUsedUp(Safe):
    def get_observation(self):
        text, self._observation = super().get_observation(), ""
        return text


@breaks("silent")
class Prints(Safe):
    def on_step(self, action):
        print("DEBUG", action)
        return super().on_step(action)


@breaks("global_rng")
class GlobalRandom(Safe):
    def on_step(self, action):
        random.random()
        return super().on_step(action)


@breaks("global_rng")
class GlobalNumpy(Safe):
    def sample_task(self, rng):
        np.random.seed(rng.randrange(100))
        return super().sample_task(rng)


@breaks("deterministic")
class OwnNoise(Safe):
    def on_step(self, action):
        return super().on_step(action)._replace(observation=f"{random.Random().random()}")


@breaks("deterministic")
class SharedState(Safe):
    """Two environments of one process write into the same list."""

    said: list[str] = []

    def on_reset(self, params, rng):
        self.said.clear()
        return super().on_reset(params, rng)

    def on_step(self, action):
        self.said.append(action)
        return super().on_step(action)._replace(observation=f"{len(self.said)}")


@breaks("task_json")
class TupleParams(Safe):
    def sample_task(self, rng):
        return super().sample_task(rng) | {"pair": (1, 2)}


@breaks("task_json")
class NumpyParams(Safe):
    def sample_task(self, rng):
        return {"digit": np.int64(rng.randrange(10))}


@breaks("task")
class CountsTasks(Safe):
    count = 0

    def sample_task(self, rng):
        self.count += 1
        return {"digit": rng.randrange(10), "number": self.count}


@breaks("task")
class ChangesTheTask(Safe):
    def on_step(self, action):
        self._params["spare"].append(1)
        return super().on_step(action)


class Digits(Safe):
    def sample_task(self, rng):
        return {"digit": rng.randrange(10)}


@breaks("all_tasks")
class MissesTasks(Digits):
    def all_tasks(self):
        return [{"digit": d} for d in range(5)]


@breaks("all_tasks")
class ListsTwice(Digits):
    def all_tasks(self):
        return [{"digit": d % 10} for d in range(20)]


@breaks("all_tasks")
class OneMoreOften(Digits):
    uniform_tasks = True

    def sample_task(self, rng):
        return {"digit": min(rng.randrange(12), 9)}

    def all_tasks(self):
        return [{"digit": d} for d in range(10)]


@breaks("all_tasks")
class ContentWithoutTasks(Safe):
    split = "content"


@breaks("second_reset")
class KeepsScore(Safe):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._wins = 0

    def on_step(self, action):
        step = super().on_step(action)
        self._wins += step.info["success"]
        return step._replace(observation=f"{step.observation} {self._wins}")


@breaks("copies")
class HoldsGenerator(Safe):
    def on_reset(self, params, rng):
        self._steps = iter(x for x in range(10))
        return super().on_reset(params, rng)


@breaks("copies")
class HoldsLambda(Safe):
    def on_reset(self, params, rng):
        self._judge = lambda word: word == params["digit"]
        return super().on_reset(params, rng)


class Counter:
    """Its copies are itself."""

    value = 0

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return Counter, ()


@breaks("copies")
class CopySharesState(Safe):
    def on_reset(self, params, rng):
        self._counter = Counter()
        return super().on_reset(params, rng)

    def on_step(self, action):
        self._counter.value += 1
        return super().on_step(action)._replace(observation=f"{self._counter.value}")


@breaks("turn_limit")
class StopsShort(Safe):
    def on_step(self, action):
        return super().on_step(action)._replace(truncated=self.turns == 3)


@breaks("turn_limit")
class MovesTheLimit(Safe):
    def on_step(self, action):
        self.max_turns = 6
        return super().on_step(action)


@breaks("secret_text")
class OpensWithSecret(Safe):
    def on_reset(self, params, rng):
        return super().on_reset(params, rng) + f" (digit {params['digit']})"


@breaks("secret_text")
class AnswersJunkWithSecret(Safe):
    def on_step(self, action):
        step = super().on_step(action)
        return step if step.info["valid"] else step._replace(observation=f"Not {self._params['digit']}, that!")


@breaks("secret_text")
class RevealsWhenLost(Safe):
    """The usual fault: 'You lost. It was 7.'"""

    def on_step(self, action):
        step = super().on_step(action)
        if step.info["valid"] and not step.terminated and self.turns_left == 0:
            return step._replace(observation=f"Lost. It was {self._params['digit']}.")
        return step


@breaks("secret_text")
class RevealsInOtherWords(Safe):
    """As above, in words that are not in the parameters."""

    NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

    def on_step(self, action):
        step = super().on_step(action)
        if step.info["valid"] and not step.terminated and self.turns_left == 0:
            return step._replace(observation=f"Lost. It was {self.NAMES[self._params['digit']]}.")
        return step


@breaks("secret_text")
class RevealsInTerse(Safe):
    def on_step(self, action):
        step = super().on_step(action)
        terse = self.style == "terse" and not step.info["valid"]
        return step._replace(observation=f"no {self._params['digit']}") if terse else step


@breaks("secret_info")
class InfoHoldsSecret(Safe):
    def on_step(self, action):
        step = super().on_step(action)
        return step._replace(info=step.info | ({"digit": self._params["digit"]} if step.info["valid"] else {}))


@breaks("secret_info")
class InfoHoldsSecretUnderOtherName(Safe):
    def on_step(self, action):
        step = super().on_step(action)
        return step._replace(info=step.info | ({"note": [self._params["spare"]]} if step.info["valid"] else {}))


@breaks("secret_state")
class PublicSecret(Safe):
    def on_reset(self, params, rng):
        self.digit = params["digit"]
        return super().on_reset(params, rng)


@breaks("secret_state")
class PublicProperty(Safe):
    @property
    def answer(self):
        return self._params["digit"]


@breaks("secret_state")
class ReprTells(Safe):
    def __repr__(self):
        return f"Safe({getattr(self, '_params', None)})"


@breaks("secret_state")
class RulesTell(Safe):
    def rules(self):
        return super().rules() + str(getattr(self, "_params", ""))


@breaks("random_action")
class IllegalRandomAction(Safe):
    def random_action(self, rng):
        return self.write(rng.randrange(30))


@breaks("random_action")
class RandomActionCounts(Safe):
    drawn = 0

    def random_action(self, rng):
        self.drawn += 1
        return self.write(self.drawn % 10)


@breaks("legal_actions")
class ListsTooFew(Safe):
    def legal_actions(self):
        return [self.write(digit) for digit in range(9)]


@breaks("legal_actions")
class ListsTooMany(Safe):
    def legal_actions(self):
        return [self.write(digit) for digit in range(30)]


@breaks("legal_actions")
class ListsActionsTwice(Safe):
    def legal_actions(self):
        return [self.write(digit) for digit in range(10)] * 2


@breaks("legal_actions")
class ListsOneText(Safe):
    def legal_actions(self):
        return self.write(3)


@breaks("legal_actions")
class ListsAGenerator(Safe):
    def legal_actions(self):
        return (self.write(digit) for digit in range(10))


@breaks("legal_actions")
class ListingSkipsATry(Safe):
    def legal_actions(self):
        self._turns += 1
        return [self.write(digit) for digit in range(10)]


@breaks("styles")
class TersePaysLess(Safe):
    def on_step(self, action):
        step = super().on_step(action)
        return step._replace(reward=step.reward / 2) if self.style == "terse" else step


@breaks("styles")
class MoreWords(Safe):
    action_words = 2


@breaks("oracle")
class OracleKnows(Safe):
    def oracle(self, history):
        return self.write(self._params["digit"])


@breaks("oracle")
class OracleBabbles(Safe):
    def oracle(self, history):
        return "I am sure"


@breaks("optimum")
class ShortCurve(Safe):
    def optimal_returns(self, episodes, free_shots=0):
        return Optimum(1.0, (1.0,), "exact")


@breaks("optimum")
class WrongSum(Safe):
    def optimal_returns(self, episodes, free_shots=0):
        return Optimum(0.5, (0.4,) * episodes, "exact")


@breaks("optimum")
class ForgetsFreeShots(Safe):
    def optimal_returns(self, episodes, free_shots=0):
        return super().optimal_returns(episodes, 0)


@breaks("optimum")
class BelowNoMemory(Safe):
    def optimal_returns(self, episodes, free_shots=0):
        return Optimum(0.1 * (episodes - free_shots), (0.1,) * episodes, "exact")


@breaks("optimum")
class LowerBoundOfAnExactOptimum(Safe):
    def optimal_returns(self, episodes, free_shots=0):
        return replace(super().optimal_returns(episodes, free_shots), lower=0.0)


@breaks("optimum")
class LowerBoundAboveTheUpper(Safe):
    def optimal_returns(self, episodes, free_shots=0):
        best = super().optimal_returns(episodes, free_shots)
        return replace(best, kind="upper_bound", lower=best.total + 1)


@breaks("gymnasium")
class SharesInfo(Safe):
    INFO = {"valid": False, "success": False}

    def on_step(self, action):
        step = super().on_step(action)
        return step if step.info["valid"] else step._replace(info=self.INFO)


@breaks("hash_seed")
class UsesHash(Safe):
    def on_step(self, action):
        return super().on_step(action)._replace(observation=f"{hash('word')}")
