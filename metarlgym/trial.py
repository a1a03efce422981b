"""Trial: several episodes of one hidden task. It is itself an Env, so it can be played like a single episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium

from metarlgym.author_values import checked_text
from metarlgym.datatypes import ConfigError, Episode, EpisodeOver, Message, Optimum, Step, StopReason, Task, Turn
from metarlgym.env import Env
from metarlgym.memory import FullHistory, Memory, make_memory
from metarlgym.parsing import spoken
from metarlgym.whole_numbers import check_whole

MOST_EPISODES = 100_000
"""Maximum number of episodes of a trial."""
KEEP_THOUGHTS = ("all", "episode", "none")
"""Which thoughts stay in the policy's context."""


def _described(env: object) -> str:
    """Describe what was given instead of an environment, and what to give."""
    if isinstance(env, gymnasium.Wrapper) and isinstance(env.unwrapped, Env):
        return f"{env} is a gymnasium wrapper, which a trial would bypass: give env.unwrapped, and wrap the Trial"
    return f"{env!r} is not a metarlgym.Env: give an instance of a subclass of Env"


class Trial(Env):
    """H episodes of one task (a lifetime).

    When an action ends an episode, `step` returns that episode's last text, a boundary, and the next episode's first
    text; `terminated` is True only at the end of the trial. Rewards are raw: discounts and free-shot weights are
    applied only in `training.credit`.

    Args:
        env: plays one episode.
        episodes: H, the maximum number of episodes; None only with `max_total_turns`.
        free_shots: the first F episodes are exploration and have weight 0; `0 <= free_shots < episodes`.
        memory: what the policy sees of earlier episodes; here it only decides whether boundaries show the index.
        stop_on_success: end the trial when an episode succeeds.
        max_total_turns: turn budget over all episodes. Finishing an episode early then leaves room for more episodes,
            up to `episodes`.
        keep_thoughts: which of the policy's thoughts it sees again: `all`; `episode`: those of the current episode;
            or `none`. What is not kept is the part of an action up to `</think>`.

    Raises:
        ConfigError: the arguments contradict each other.
    """

    abandoned: bool = False
    """A step was cut off and may still be running in a thread: the trial must not be reused."""

    def __init__(
        self,
        env: Env,
        episodes: int | None = 3,
        *,
        free_shots: int = 0,
        memory: Memory | None = None,
        stop_on_success: bool = False,
        max_total_turns: int | None = None,
        keep_thoughts: str = "all",
    ) -> None:
        if not isinstance(env, Env):
            raise ConfigError(f"env={_described(env)}.")
        super().__init__(style=env.style)
        self._announced = episodes  # not announced if it only follows from the turn budget
        if episodes is None:
            if max_total_turns is None:
                raise ConfigError("episodes=None needs a budget: give max_total_turns, or a number of episodes.")
            episodes = check_whole("max_total_turns", max_total_turns, 1, MOST_EPISODES, " where episodes is not given")
        episodes = check_whole("episodes", episodes, 1, MOST_EPISODES)
        if not 0 <= free_shots < episodes:
            raise ConfigError(
                f"free_shots={free_shots} must be at least 0 and below episodes={episodes}: at least one must count."
            )
        if max_total_turns is not None and max_total_turns < 1:
            raise ConfigError(f"max_total_turns={max_total_turns} must be at least 1.")
        if keep_thoughts not in KEEP_THOUGHTS:
            raise ConfigError(f"keep_thoughts={keep_thoughts!r} is not known: use one of {', '.join(KEEP_THOUGHTS)}.")
        self.env = env
        self.env_id = env.env_id
        env.horizon, env.horizon_free = episodes, free_shots
        self.episodes = episodes
        self.free_shots = free_shots
        self.memory = memory or FullHistory()
        self.stop_on_success = stop_on_success
        self.max_total_turns = max_total_turns
        self.keep_thoughts = keep_thoughts
        self.one_context = self.memory.one_context and keep_thoughts == "all"
        """Whether the policy's context only grows, so that one trial is one training row."""
        self.reward_range = env.reward_range  # type: ignore[misc]
        self.blocking = env.blocking  # type: ignore[misc]
        self.visible_task = env.visible_task  # type: ignore[misc]
        self.action_words = env.action_words
        self.split = env.split
        self.history: list[Episode] = []
        """The episodes so far; the last is the one being played."""
        self.closing = ""
        """Last text of the episode that just ended."""
        self.opening: str | None = None
        """After an episode's end: boundary and first text of the next; None if the trial is over."""

    # ------------------------------------------------------------------ what the trial adds

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each episode, shape `(H,)`: 0 for free shots, else 1."""
        return (0.0,) * self.free_shots + (1.0,) * (self.episodes - self.free_shots)

    @property
    def trial_stop(self) -> StopReason | None:
        """Why the trial ended; None while it is running."""
        return self._stop

    @property
    def visible(self) -> list[Episode]:
        """The episodes as the policy sees them: those recalled by its memory, then the current one."""
        return [*self.memory.recall(self.history[:-1]), self.history[-1]]

    @property
    def messages(self) -> list[Message]:
        """The conversation as the policy sees it now: the rules, then the visible episodes.

        The text that ends one episode and the text that opens the next form one user message. Actions are without
        their thoughts unless `keep_thoughts` is `all`.
        """
        messages = [Message("system", rules)] if (rules := self.rules()) else []
        pending = ""
        for episode in self.visible:
            pending = self.join(pending, episode.opening)
            for turn in episode.turns:
                action = turn.action if self.keep_thoughts == "all" else spoken(turn.action).strip()
                messages += [Message("user", pending), Message("assistant", action)]
                pending = turn.observation
        return [*messages, Message("user", pending)]

    def end_episode(self, reason: StopReason) -> None:
        """End the current episode from outside because a limit was reached, and begin the next if there is one."""
        if not self._live:
            raise EpisodeOver(f"{self.env_id}: the trial is over, it has no episode to end.")
        self.closing = ""
        self.env.truncate(reason)
        self._finish_episode(reason)
        self._observation = self.opening or ""

    # ------------------------------------------------------------------ Env

    def rules(self) -> str:
        """The environment's rules; in chat style followed by the goal of the trial."""
        rules = checked_text(self.env_id, "rules() returned", self.env.rules())
        return f"{rules} {self._goal()}".strip() if self.env.style == "chat" and self.episodes > 1 else rules

    def _goal(self) -> str:
        """How many episodes there are and what counts, in a sentence or two."""
        budget = f"{self.max_total_turns} action{'s' if self.max_total_turns != 1 else ''} in total"
        if self.max_total_turns is None:
            length = f"{self.episodes} episodes"
        elif self._announced is None:
            length = f"episodes until you have used {budget}"
        else:
            length = f"up to {self.episodes} episodes, with {budget}"
        if self.stop_on_success:
            length = length.replace("episodes", "episodes, until the first success", 1)
            length = length if length.startswith(("up to", "episodes")) else f"up to {length}"
        goal = f"You play {length}. Your goal is the highest total of points over all episodes"
        if not self.free_shots:
            return f"{goal}."
        practice = "the first is" if self.free_shots == 1 else f"the first {self.free_shots} are"
        return f"{goal} that count; {practice} practice."

    def sample_task(self, rng: Any) -> Any:
        return self.env.sample_task(rng)

    def all_tasks(self) -> Any:
        return self.env.all_tasks()

    def held_out_tasks(self) -> Any:
        return self.env.held_out_tasks()

    def random_action(self, rng: Any) -> str:
        return self.env.random_action(rng)

    def legal_actions(self) -> Sequence[str] | None:
        return self.env.legal_actions()

    def oracle(self, history: Sequence[Episode]) -> str:
        return self.env.oracle(history)

    def optimal_returns(self, episodes: int | None = None, free_shots: int | None = None) -> Optimum:
        return self.env.optimal_returns(
            self.episodes if episodes is None else episodes, self.free_shots if free_shots is None else free_shots
        )

    def no_memory_bound(self, episodes: int | None = None) -> float | None:
        return self.env.no_memory_bound(self.episodes if episodes is None else episodes)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin a trial. `options["episode_seed"]` seeds the noise of all its episodes."""
        options = options or {}
        task = options.get("task")
        trial_seed = options.get("episode_seed")
        if seed is not None or task is None or trial_seed is None:
            super(Env, self).reset(seed=seed)
        if task is None:
            task = self.env.new_task(int(self.np_random.integers(2**62)))
        self.task: Task = task
        self.trial_seed: int = int(self.np_random.integers(2**62) if trial_seed is None else trial_seed)
        self.history = []
        self._turns = 0
        self._return = 0.0
        self._success = False
        self._stop = None
        self._live = False  # remains False if the environment's on_reset raises
        self.closing = ""
        self._observation = self.opening = self._begin_episode()
        self._live = True
        return self._observation, {}

    def step(self, action: str) -> Step:  # type: ignore[override]
        if not self._live:
            raise EpisodeOver(f"{self.env_id}: the trial is over. Call reset() to begin another.")
        observation, reward, terminated, truncated, info = step = self.env.step(action)
        self._turns += 1
        self._return += reward
        episode = self._episode
        episode.add(Turn(action, observation, reward, info["valid"]))  # type: ignore[index]
        info["episode_index"] = len(self.history) - 1  # type: ignore[index]
        out_of_turns = self._turns == self.max_total_turns
        if not (terminated or truncated or out_of_turns):
            self._observation = observation
            return step
        return self._answer_episode_end(step, out_of_turns)

    def result(self) -> dict[str, Any]:
        """`returns` (unweighted, by episode), `successes`, `turns`, `invalid`, and the trial's `return` and `stop`."""
        return {
            "returns": [episode.ret for episode in self.history],
            "successes": [episode.success for episode in self.history],
            "turns": self._turns,
            "invalid": sum(episode.invalid for episode in self.history),
            "return": self._return,
            "success": self._success,
            "stop": self._stop,
        }

    def close(self) -> None:
        self.env.close()

    # ------------------------------------------------------------------ inside

    def _begin_episode(self) -> str:
        index = len(self.history)
        first = self.env._begin(self.task, (self.trial_seed, index))
        boundary = self.env.boundary(index, self._announced) if self.memory.numbered else ""
        if boundary:
            boundary = checked_text(self.env_id, "boundary() returned", boundary)
        opening = self.join(boundary, first)
        self._episode = Episode(opening)
        self.history.append(self._episode)
        return opening

    def _answer_episode_end(self, step: Step, out_of_turns: bool) -> Step:
        reason = StopReason.TERMINATED if step.terminated else StopReason.MAX_TURNS
        cut = out_of_turns and not (step.terminated or step.truncated)
        if cut:
            reason = StopReason.TURN_LIMIT
            self.env.truncate(reason)
        self.closing = step.observation
        info = step.info
        assert info is not None
        info["episode_end"] = True
        info["episode_return"] = self.env._return
        self._finish_episode(reason, cut)
        if self._live:
            text = self._observation = self.join(step.observation, self.opening)  # type: ignore[arg-type]
            return Step(text, step.reward, False, False, info)
        self._observation = step.observation
        truncated = self._stop is StopReason.TURN_LIMIT
        return Step(step.observation, step.reward, not truncated, truncated, info)

    def _finish_episode(self, reason: StopReason, cut: bool = False) -> None:
        """`cut`: the turn budget ran out in mid-episode."""
        success = self.env._success
        self._episode.success = success
        self._episode.stop = reason
        if success:
            self._success = True
        if success and self.stop_on_success:
            self._end(StopReason.SUCCESS)
        elif len(self.history) == self.episodes and not cut:
            self._end(StopReason.TERMINATED)
        elif self.max_total_turns is not None and self._turns >= self.max_total_turns:
            self._end(StopReason.TURN_LIMIT)
        else:
            self.opening = self._begin_episode()

    def _end(self, reason: StopReason) -> None:
        self._live = False
        self._stop = reason
        self.opening = None

    def truncate(self, reason: StopReason) -> None:
        """End the trial from outside."""
        if self._live:
            self.env.truncate(reason)
            self._episode.success = self.env.success
            self._episode.stop = reason
            self._success = self._success or self.env.success
            self._end(reason)

    def join(self, first: str, second: str) -> str:
        """Join two texts of one response: as lines in chat style, as words in terse style."""
        if not first or not second:
            return first or second
        return f"{first} {second}" if self.style == "terse" else f"{first}\n{second}"


@dataclass(frozen=True)
class TrialSettings:
    """How trials are made: the arguments of `Trial`, with the memory as a name or an object."""

    episodes: int | None = 3
    free_shots: int = 0
    memory: str | Memory = "full"
    stop_on_success: bool = False
    max_total_turns: int | None = None
    keep_thoughts: str = "all"

    @property
    def most_episodes(self) -> int:
        """Maximum number of episodes of a trial."""
        return self.episodes or self.max_total_turns or 1

    def make(self, env: Env) -> Trial:
        """A trial on a fresh environment.

        Raises:
            ConfigError: the settings contradict each other.
        """
        memory = make_memory(self.memory) if isinstance(self.memory, str) else self.memory
        return Trial(
            env,
            self.episodes,
            free_shots=self.free_shots,
            memory=memory,
            stop_on_success=self.stop_on_success,
            max_total_turns=self.max_total_turns,
            keep_thoughts=self.keep_thoughts,
        )
