"""TaskGroup: a distribution over tasks with train and eval splits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from metarlgym.datatypes import JSON, ConfigError, Optimum, Task
from metarlgym.env import Env
from metarlgym.registry import make, spec
from metarlgym.seeding import derive
from metarlgym.trial import Trial, TrialSettings

EVAL_SHARE = 5
"""One task in this many of a `content` group goes to the eval split."""
DECK_LIMIT = 10_000
"""Larger families are drawn: a deck of this size makes little difference to a batch."""


class TaskGroup:
    """The tasks of one environment.

    Groups with `split = "trial"` draw train and eval tasks from the same prior, so that an optimum over the prior holds
    for both; only the trial and episode seeds are held out. Groups with `split = "content"` keep the two disjoint by
    `Task.key`: the eval tasks are the environment's `held_out_tasks`, or else one in five of `all_tasks`.

    The train tasks of a finite family whose tasks are equally likely (`Env.uniform_tasks`) are dealt like a deck of
    cards that is shuffled anew for each round, so that every batch is as balanced as it can be. Drawn with
    replacement, most tasks of a small batch are often alike, and a language model learns that at once.

    Args:
        env_id: registered id, such as `Doors-v0`.
        env_args: keyword arguments of the environment.
        seed: seed for the task streams of both splits.
    """

    def __init__(self, env_id: str, env_args: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        self.env_id = spec(env_id).env_id
        self.env_args = dict(env_args or {})
        self.seed = seed
        self.env = self.make_env()
        self._last_order: tuple[int, list[int]] = (-1, [])

    def make_env(self) -> Env:
        """A fresh environment of this group."""
        return make(self.env_id, **self.env_args)

    def make_trial(self, settings: TrialSettings) -> Trial:
        """A fresh trial on a fresh environment of this group."""
        return settings.make(self.make_env())

    def optimum(self, settings: TrialSettings) -> Optimum | None:
        """The best expected return of such trials; None if it is not known.

        It is not known where tasks are not drawn from the whole prior, or a budget of turns buys episodes.
        """
        if self.content_split or settings.max_total_turns is not None:
            return None
        optimum = self.env.optimal_returns(settings.most_episodes, settings.free_shots)
        return optimum if optimum.total is not None else None

    @property
    def content_split(self) -> bool:
        return self.env.split == "content"

    @property
    def held_out(self) -> int | None:
        """Number of tasks in the eval split of a `content` group; None where there is no end of them."""
        return len(self._content["eval"]) if self.content_split else None

    @cached_property
    def _content(self) -> dict[str, list[Task]]:
        everything = self.env.all_tasks()
        if everything is None:
            raise ConfigError(f"{self.env_id}: split='content' needs all_tasks(); use split='trial' or define it.")
        tasks = self._ordered(everything)
        own = self.env.held_out_tasks()
        if own is None:
            if len(tasks) < 2:
                raise ConfigError(
                    f"{self.env_id}: split='content' needs 2 tasks or more, all_tasks() has {len(tasks)}."
                )
            size = max(1, len(tasks) // EVAL_SHARE)
            held_out, tasks = tasks[:size], tasks[size:]
        else:
            held_out = self._ordered(own)
            keys = {task.key for task in held_out}
            tasks = [task for task in tasks if task.key not in keys]
            if not (held_out and tasks):
                raise ConfigError(
                    f"{self.env_id}: split='content' needs a task or more in each split; held_out_tasks() has "
                    f"{len(held_out)}, all_tasks() {len(tasks)} others."
                )
        return {"eval": [Task(t.env_id, t.params, "eval") for t in held_out], "train": tasks}

    @cached_property
    def _deck(self) -> list[Task] | None:
        """The tasks to deal; None if they must be drawn, because they are not equally likely or too many to list."""
        if not self.env.uniform_tasks or (everything := self.env.all_tasks()) is None:
            return None
        listed = list(itertools.islice(everything, DECK_LIMIT + 1))
        return self._ordered(listed) if 0 < len(listed) <= DECK_LIMIT else None

    def _ordered(self, everything: Iterable[JSON]) -> list[Task]:
        """Tasks without duplicates, ordered by a hash of the key.

        Neither the enumeration order nor the seed affects what is held out, so a model trained with one seed can be
        evaluated with another.
        """
        unique = {task.key: task for task in (Task(self.env_id, params) for params in everything)}
        return sorted(unique.values(), key=lambda task: derive(task.key, "split"))

    def _order(self, epoch: int, size: int) -> list[int]:
        """The order of the train tasks in one epoch; the last result is cached."""
        if self._last_order[0] != epoch:
            self._last_order = epoch, sorted(range(size), key=lambda i: derive(self.seed, "epoch", epoch, i))
        return self._last_order[1]

    def task(self, index: int, split: str = "train") -> Task:
        """Task number `index` of a split, independent of anything else drawn."""
        dealt = self._content[split] if self.content_split else self._deck if split == "train" else None
        if dealt is not None:
            # Each epoch goes through the tasks in a new order.
            epoch, place = divmod(index, len(dealt))
            return dealt[self._order(epoch, len(dealt))[place] if split == "train" else place]
        return self.env.new_task(split, self.seed, index, split=split)

    def tasks(self, n: int, split: str = "train") -> list[Task]:
        """The first `n` tasks of a split.

        Raises:
            ConfigError: a `content` group has fewer eval tasks than requested.
        """
        if self.content_split and split == "eval" and n > len(self._content["eval"]):
            have, others = len(self._content["eval"]), len(self._content["train"])
            problem = f"eval_trials={n}: {self.env_id} has only {have} held-out tasks"
            if self.env.held_out_tasks() is not None:  # split='trial' would evaluate on train tasks
                raise ConfigError(f"{problem}, the eval split of its data. Ask for at most {have}.")
            raise ConfigError(
                f"{problem} ({have + others} in all, one in {EVAL_SHARE} held out). Ask for at most {have}, or use "
                "split='trial'."
            )
        return [self.task(i, split) for i in range(n)]
