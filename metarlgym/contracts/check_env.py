"""check_env: the executable contract of an environment.

    metarlgym.check_env("Doors-v0")        # a registered environment, in both styles
    metarlgym.check_env(MyEnv)             # a class or another factory
    metarlgym.check_env(MyEnv(size=3))     # one instance; it is copied, never played

Each contract is one small function of `metarlgym.contracts`. Most compare two games that must be equal: against a fresh
environment, alongside other environments, in another process, after a copy, on another task.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout

from metarlgym.author_errors import error_line
from metarlgym.contracts import fairness, interface, optional, reproducibility
from metarlgym.contracts.subject import Subject, shorten, unchanged_globals
from metarlgym.datatypes import MetaRLGymError
from metarlgym.env import Env
from metarlgym.registry import spec


class ContractError(MetaRLGymError, AssertionError):
    """An environment breaks a contract; the message is one line with the contract, the environment and the fix."""


Contract = Callable[[Subject], str | None]
"""Returns one line with the problem and its fix, or None."""

CONTRACTS: list[tuple[str, Contract]] = [
    ("task_json", reproducibility.task_json),
    ("interface", interface.interface),
    ("rewards", interface.rewards),
    ("junk", fairness.junk),
    ("info", interface.info),
    ("lifecycle", interface.lifecycle),
    ("turn_limit", interface.turn_limit),
    ("silent", interface.silent),
    ("global_rng", reproducibility.global_rng),
    ("deterministic", reproducibility.deterministic),
    ("observation", interface.observation),
    ("task", reproducibility.task),
    ("all_tasks", reproducibility.all_tasks),
    ("second_reset", reproducibility.second_reset),
    ("copies", reproducibility.copies),
    ("secret_text", fairness.secret_text),
    ("secret_info", fairness.secret_info),
    ("secret_state", fairness.secret_state),
    ("random_action", optional.random_action),
    ("legal_actions", optional.legal_actions),
    ("styles", optional.styles),
    ("oracle", optional.oracle),
    ("optimum", optional.optimum),
    ("gymnasium", interface.gymnasium_api),
    ("hash_seed", reproducibility.hash_seed),
    ("cheap", optional.cheap),
]
"""Name and function of each contract, simplest first."""


def run_checks(
    env_or_id: str | Env | Callable[..., Env], *, episodes: int = 3, trials: int = 8, seed: int = 0
) -> Iterator[tuple[str, str | None]]:
    """Run the contracts one by one.

    Args:
        env_or_id: a registered id, an instance, or a factory (such as the class).
        episodes: H of the trials used for oracle and optimum.
        trials: number of tasks per contract.
        seed: seed for tasks and actions.

    Yields:
        The name of a contract, and its problem or None.

    Raises:
        ConfigError: the id is not registered.
    """
    if isinstance(env_or_id, str):
        spec(env_or_id)
    subject = Subject(env_or_id, episodes=episodes, trials=trials, seed=seed)
    for name, contract in CONTRACTS:
        with ExitStack() as stack:
            stack.enter_context(unchanged_globals())
            if contract is not optional.cheap:  # which reports by warning
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                stack.enter_context(redirect_stdout(io.StringIO()))  # hides what the environment prints
                stack.enter_context(redirect_stderr(io.StringIO()))
            try:
                problem = contract(subject)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # environment code may raise anything
                problem = f"raises {shorten(error_line(error), 200)}"
        yield name, problem


def check_env(env_or_id: str | Env | Callable[..., Env], *, episodes: int = 3, trials: int = 8, seed: int = 0) -> None:
    """Check every contract; arguments as for `run_checks`.

    Raises:
        ContractError: the first contract that is broken.
    """
    for name, problem in run_checks(env_or_id, episodes=episodes, trials=trials, seed=seed):
        if problem:
            label = Subject(env_or_id).name
            raise ContractError(f"contract {name!r} broken by {label}: {problem}")
