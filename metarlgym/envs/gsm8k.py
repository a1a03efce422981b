r"""Word problems as a meta-environment: several attempts at one problem, with feedback on correctness after each.

The problems have the form of GSM8K (Cobbe et al. 2021, arXiv:2110.14168). One episode is one attempt: reasoning and a
number in `\boxed{}`. Within a trial, a policy can learn to drop an answer that was wrong and to repeat one that was
right.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Literal, get_args

from metarlgym.datatypes import JSON, ConfigError, Optimum, Step
from metarlgym.env import Env
from metarlgym.envs.gsm8k_data import BUNDLED, Problem, load_problems
from metarlgym.envs.math_answer import compare, last_answer, read_number

Feedback = Literal["verdict", "direction", "none"]

_OUTCOMES = {
    "right": "Your answer {} is right. 1 point.",
    "wrong": "Your answer {} is wrong. 0 points.",
    "high": "Your answer {} is wrong: it is too high. 0 points.",
    "low": "Your answer {} is wrong: it is too low. 0 points.",
    "invalid": "No answer found. 0 points. Put one number within \\boxed{}.",
}
"""The feedback after an attempt, by its word in terse style; {} is the answer."""


class GSM8K(Env):
    r"""One attempt at a word problem; a correct answer pays 1. A wrong attempt does not reveal the answer.

    Train tasks are the data's train split, eval tasks their test split.

    Args:
        data: `bundled` (40 and 32 easy problems that come with the package), a hub id such as `openai/gsm8k`, or a
            local file or folder of that form; see `gsm8k_data.load_problems`.
        feedback: shown after an attempt: `verdict` says whether it was right; `direction` also whether a wrong number
            was too high or too low; `none` says nothing.
    """

    max_turns = 1
    action_words = 1
    split = "content"
    visible_task = True

    def __init__(self, data: str = BUNDLED, feedback: Feedback = "verdict", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if feedback not in get_args(Feedback):
            raise ConfigError(f"feedback={feedback!r} is not known: use 'verdict', 'direction' or 'none'.")
        if not isinstance(data, str) or not data:
            raise ConfigError(f"data={data!r} must be {BUNDLED!r}, a path or a hub id.")
        self.data = data
        self.feedback = feedback
        load_problems(data)  # fail now on invalid data, not at the first task

    def rules(self) -> str:
        if self.style == "terse":
            return "solve"
        told = {
            "verdict": " After each attempt you are told whether your answer was right.",
            "direction": " After each attempt you are told whether your answer was right, too high or too low.",
            "none": "",
        }[self.feedback]
        return (
            "Solve a word problem whose answer is a number. Reason step by step, and put your final answer within "
            "\\boxed{}. An episode is one attempt, and the problem is the same in every episode."
            f"{told} A right answer is worth 1 point."
        )

    def sample_task(self, rng: random.Random) -> JSON:
        return rng.choice(load_problems(self.data).train)._asdict()

    def all_tasks(self) -> Iterable[JSON]:
        return [problem._asdict() for problem in load_problems(self.data).train]

    def held_out_tasks(self) -> Iterable[JSON] | None:
        test = load_problems(self.data).test
        return None if test is None else [problem._asdict() for problem in test]

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        problem = Problem(**params)
        answer = read_number(problem.answer)
        if answer is None:
            raise ConfigError(f"answer={problem.answer!r} of a task is not a number: write it as '42'.")
        self._answer = answer
        return problem.question

    def on_step(self, action: str) -> Step:
        answer = last_answer(action, self.strict)
        if answer is None:
            return Step(self._feedback("invalid"), 0.0, True, False, {"valid": False, "success": False})
        order = compare(answer, self._answer)
        right = order == 0
        if self.feedback == "direction" and not right:
            text = self._feedback("high" if order > 0 else "low", answer)
        else:
            text = self._feedback("right" if right else "wrong", answer)
        return Step(text, 1.0 if right else 0.0, True, False, {"valid": True, "success": right})

    def random_action(self, rng: random.Random) -> str:
        number = rng.randrange(100)
        return str(number) if self.style == "terse" else f"\\boxed{{{number}}}"

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Only an upper bound: a policy that can solve every problem is right in every attempt."""
        return Optimum(float(episodes - free_shots), (1.0,) * episodes, "upper_bound")

    def _feedback(self, outcome: str, answer: str = "") -> str:
        if self.feedback == "none":
            return ""
        return outcome if self.style == "terse" else _OUTCOMES[outcome].replace("{}", answer, bool(answer))
