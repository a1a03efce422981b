"""A quick check before a run: a few random trials against the contracts that training relies on most."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from metarlgym.author_errors import error_line, error_text
from metarlgym.author_values import RewardError, checked_text
from metarlgym.contracts.optional import list_problem
from metarlgym.contracts.subject import (
    JUNK,
    Chooser,
    Log,
    defines,
    difference,
    play,
    replay,
    shorten,
    unchanged_globals,
)
from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.seeding import stream
from metarlgym.trial import Trial

if TYPE_CHECKING:
    from metarlgym.tasks import TaskGroup

SECONDS = 2.0
PATIENCE = 8.0
"""Seconds after which a single step counts as hanging."""
TRIALS = 6
STEPS = 60
"""Maximum number of actions per trial."""


def quick_check(
    group: TaskGroup, make_trial: Callable[[], Trial], seconds: float = SECONDS, patience: float = PATIENCE
) -> ConfigError | None:
    """Play random trials, twice each; returns the environment's problem in one line with the contract, or None.

    No step starts after `seconds`, so a slow environment is checked only as far as time allows. If a step hangs for
    another `patience` seconds, its thread is abandoned. The global random generators are left unchanged.

    In training, an exception in the environment costs only its own trial, so it is an error here only if every trial
    raises. Environments that wait for something (`blocking`) need not be reproducible.
    """
    check = _Check(group, make_trial, monotonic() + seconds)
    with unchanged_globals():
        thread = threading.Thread(target=check.run, name="quick check", daemon=True)
        thread.start()
        thread.join(seconds + patience)
        check.over = True
    if check.problem is None:
        return None
    contract, text = check.problem
    name = group.env_id
    return ConfigError(
        f"contract {contract!r} broken by {name}: {text.removeprefix(f'{name}: ').rstrip('.')}. "
        f"`metarlgym check {name}` says more."
    )


class _Check:
    def __init__(self, group: TaskGroup, make_trial: Callable[[], Trial], deadline: float) -> None:
        self.group, self.make_trial, self.deadline = group, make_trial, deadline
        self.over = False
        """Set by the waiting thread: stop playing."""
        self.problem: tuple[str, str] | None = None
        """The contract, and the problem with its fix."""
        self.listed: tuple[str, str] | None = None
        """The same, if a list of legal actions is wrong."""

    def run(self) -> None:
        try:
            self.problem = self._problem()
        except BaseException as error:  # outside a trial: rules, tasks, building the environment
            self.problem = "interface", f"raises {shorten(error_line(error), 200)}"

    def late(self) -> bool:
        return self.over or monotonic() > self.deadline

    def _problem(self) -> tuple[str, str] | None:
        rules = self.group.env.rules()
        checked_text(self.group.env_id, "rules() returned", rules)
        used = self.make_trial()
        raised = []
        for i in range(TRIALS):
            if self.late():
                return None
            task = self.group.task(i)
            trial = self.make_trial()
            try:
                log = play(trial, task, i, self._random(i))
                problem = self.listed or self._actions(trial, log, i)
                if problem is None and not trial.blocking:
                    again = play(used, task, i, self._unless_late(replay([entry[0] for entry in log[1:]])))
                    problem = None if self.late() else self._same(log, again)
                if problem is not None:
                    return problem
            except RewardError as error:
                return "rewards", error_text(error)
            except MetaRLGymError as error:
                return "interface", error_text(error)
            except BaseException as error:  # environment code may raise anything; Ctrl-C only reaches the main thread
                raised.append(shorten(error_line(error), 200))
            used = trial
        if len(raised) == TRIALS:
            return "interface", f"every one of {TRIALS} random trials raised, the first {raised[0]}."
        return None

    def _random(self, i: int) -> Chooser:
        rng = stream("quick_check", i)

        def choose(n: int, env: Trial) -> str | None:
            if n == STEPS:
                return None
            drawn = env.random_action(rng) if defines(env, "random_action") else None
            legal = env.legal_actions() if defines(env, "legal_actions") else None
            if found := list_problem(legal, drawn):
                self.listed = "legal_actions", found
                return None
            if legal is not None and (drawn is None or self._from_list(i)):
                return rng.choice(legal)
            return rng.choice(JUNK) if drawn is None else drawn

        return self._unless_late(choose)  # type: ignore[arg-type]

    def _unless_late(self, choose: Chooser) -> Chooser:
        return lambda n, env: None if self.late() else choose(n, env)

    @staticmethod
    def _from_list(i: int) -> bool:
        """Whether trial i is played by listed actions, where there is a list."""
        return i % 2 == 1

    def _actions(self, trial: Trial, log: Log, i: int) -> tuple[str, str] | None:
        """Actions drawn and listed are legal and have the stated number of words."""
        if not defines(trial, "random_action"):
            return None
        listed = defines(trial, "legal_actions") and self._from_list(i)
        words = trial.action_words if trial.style == "terse" else None
        for entry in log[1:]:
            if isinstance(entry[0], str) and not entry[5]["valid"] and listed:
                return (
                    "legal_actions",
                    f"legal_actions() lists {shorten(entry[0])!r}, which is invalid: list legal actions only.",
                )
            if not isinstance(entry[0], str) or not entry[5]["valid"]:
                return (
                    "random_action",
                    f"random_action() returned {shorten(entry[0])!r}, which is invalid: return a legal action.",
                )
            if words and len(entry[0].split()) != words:
                return "styles", f"the terse action {entry[0]!r} does not have action_words={words} words: correct one."
        return None

    def _same(self, log: Log, again: Log) -> tuple[str, str] | None:
        """The same task, noise and actions give the same trial in an environment that has been played before."""
        found = difference(log, again)
        if found is None:
            return None
        return "second_reset", (
            f"playing a task again in a used environment gives something else ({found}): on_reset must set every "
            "attribute that an episode uses, and all randomness come from its rng."
        )
