"""Session: one trial in play, as a state machine between the environment and a policy.

The manager passes it replies; it returns the next request, or None when the trial is over. Any failure inside an
environment is recorded as an error of this trial.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from metarlgym.author_errors import error_detail, error_line
from metarlgym.datatypes import Episode, MetaRLGymError, MetaTrajectory, StopReason, Task, Turn
from metarlgym.rollout.choices import Choices
from metarlgym.rollout.control_tokens import THOUGHT_START
from metarlgym.rollout.limits import THOUGHT_TOKENS, Limits
from metarlgym.rollout.protocol import ActReply, ActRequest
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.reply import shortest_reply
from metarlgym.rollout.transcript import Transcript
from metarlgym.seeding import derive
from metarlgym.trial import Trial

_contexts = itertools.count()
# Odd constants that spread (episode, turn) over 63 bits; every user of a request's seed hashes it once more.
_EPISODE_MIX, _TURN_MIX, _MASK = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, (1 << 63) - 1


class Session:
    """Plays `trial` on `task`.

    Args:
        trial: a fresh trial, owned by the session.
        task: the hidden task.
        seed: seed for the noise of the episodes.
        policy_seed: seed parts of the policy's sampling streams, such as (run seed, step, row).
        renderer: text to tokens; None for policies that work on text.
        limits: see `Limits`.
        choices: records where actions chose among legal ones; None to record nothing.
    """

    def __init__(
        self,
        trial: Trial,
        task: Task,
        seed: int,
        policy_seed: Sequence[int | str],
        renderer: Renderer | None,
        limits: Limits,
        choices: Choices | None = None,
    ) -> None:
        self.trial = trial
        self.choices = choices
        self.renderer = renderer
        self.limits = limits
        self._unhurried = limits.counts_no_turns_or_time
        self._timed = limits.counts_time
        self._policy_seed = derive(*policy_seed)
        self._shortest = 1 if renderer is None else shortest_reply(renderer)
        self._thought_tokens: int | None = None
        if renderer is not None and renderer.thinking is not None and not renderer.fixed_action_tokens:
            self._thought_tokens = THOUGHT_TOKENS if limits.thought_tokens is None else limits.thought_tokens
        self._opened = self._thought_tokens is not None and renderer.thinking.opened  # type: ignore[union-attr]
        self.trajectory = MetaTrajectory(task, seed, [], trial.episodes)
        self.context = -1
        self.retired: list[int] = []
        """Contexts that have ended since the manager last checked."""
        self._transcript: Transcript | None = None
        self._mark: tuple[str, int, int, int, int, int, int] | None = None
        """If time is limited, the state at the last action passed to the environment: its text, episode, turn, context,
        and the number of rows, ids and completion tokens of the last row, including the action. No step changes
        anything below these lengths, so it can be read while a step runs in another thread.
        """
        self._turn = 0
        self._episode = 0
        self._episode_start = 0
        self._clock = self._episode_clock = time.monotonic()
        self.over = False

    # ------------------------------------------------------------------ called by the manager

    def begin(self) -> ActRequest | None:
        """Reset the trial and request the first action."""
        self._episode_clock = time.monotonic()  # the trial's clock started with its timer, on construction
        try:
            if self.trial.abandoned:
                raise MetaRLGymError("an earlier step of this trial was cut off and may still run: make a new trial.")
            self.trial.reset(options={"task": self.trajectory.task, "episode_seed": self.trajectory.seed})
            self.trajectory.episodes = self.trial.history
            self._open_context()
            self._episode_start = len(self._transcript.ids) if self._transcript is not None else 0
            return self._request()
        except KeyboardInterrupt:  # also SIGTERM
            raise
        except BaseException as error:  # sys.exit() in an environment ends its trial, not the program
            self.fail(error)
            return None

    def receive(self, reply: ActReply) -> ActRequest | None:
        """Apply the policy's action to the trial and request the next action."""
        try:
            return self._receive(reply)
        except KeyboardInterrupt:  # also SIGTERM
            raise
        except BaseException as error:  # sys.exit() in an environment ends its trial, not the program
            self.fail(error)
            return None

    def fail(self, error: BaseException) -> None:
        """End the trial with a recorded error; what was played is kept."""
        self.trajectory.error = error_line(error)
        self.trajectory.error_detail = error_detail(error)
        self.stop(StopReason.ERROR)

    def stop(self, reason: StopReason) -> None:
        """End the trial now."""
        if self.over:
            return
        self.trial.truncate(reason)
        self._finish(reason)

    def abandon(self) -> MetaTrajectory:
        """End the trial while one of its steps is still running in another thread; the trial is never used again.

        Returns:
            What was played so far, as copies that the running step cannot change. An action without a response is kept,
            with an empty observation and reward 0: the policy sampled it, so it belongs in the gradient.
        """
        self.trial.abandoned = True
        played = MetaTrajectory(
            self.trajectory.task, self.trajectory.seed, [], self.trajectory.max_episodes, stop=StopReason.TIME_LIMIT
        )
        played.seconds = time.monotonic() - self._clock
        if self._mark is None:  # the first reset has not returned
            return played
        action, index, turn, _, rows, ids, completion = self._mark
        for count in ("truncated_actions", "thoughts", "cut_thoughts", "thought_tokens"):
            setattr(played, count, getattr(self.trajectory, count))
        for n, episode in enumerate(list(self.trial.history)):
            copy = Episode(episode.opening, stop=episode.stop)  # read `stop` first: the step sets it last
            for answered in list(episode.turns):
                copy.add(answered)
            if copy.stop is not None:
                copy.success = episode.success
            elif n == index:
                copy.success = self.trial.env.success
                if len(copy.turns) == turn:
                    copy.add(Turn(action, "", 0.0))
            copy.stop = copy.stop or StopReason.TIME_LIMIT
            played.episodes.append(copy)
        if rows:
            assert self.renderer is not None
            *closed, last = self.trajectory.rows[:rows]
            last = last.cut(ids, completion)
            last.close(self.renderer.end_ids, self.renderer.end_id)
            played.rows = [*closed, last]
        return played

    @property
    def marked_context(self) -> int | None:
        """The context of the last action passed to the environment; None if there is none."""
        return self._mark[3] if self._mark is not None and self._transcript is not None else None

    @property
    def between_episodes(self) -> bool:
        """Whether an episode has ended and the next has not started; thread-safe while a step runs."""
        history = self.trial.history
        return self._mark is not None and bool(history) and history[-1].stop is not None

    @property
    def episode_age(self) -> float:
        """Seconds since the current episode began."""
        return time.monotonic() - self._episode_clock

    # ------------------------------------------------------------------ inside

    def _open_context(self) -> None:
        if self.renderer is None:
            return
        if self._transcript is not None:
            self._close_row()
        self.context = next(_contexts)
        index = len(self.trial.history) - 1
        self._transcript = Transcript.open(self.renderer.prompt(self.trial.messages), index)
        self.trajectory.rows.append(self._transcript)

    def _drop_unused(self) -> None:
        """Remove the row of a context that was opened after a turn and in which a limit allows no action."""
        rows, row = self.trajectory.rows, self._transcript
        if self._turn and row is not None and not row.action_mask and rows[-1] is row:
            rows.pop()

    def _close_row(self) -> None:
        assert self._transcript is not None and self.renderer is not None
        self._transcript.close(self.renderer.end_ids, self.renderer.end_id)
        self.retired.append(self.context)

    def _request(self) -> ActRequest | None:
        """The next request, unless a limit prevents it."""
        limits = self.limits
        transcript = self._transcript
        max_tokens = limits.action_tokens
        left: int | None = None
        if transcript is not None:
            assert self.renderer is not None
            max_tokens = self.renderer.fixed_action_tokens or max_tokens
            if limits.context_tokens is not None:
                # One place is reserved for the end token that closes the row.
                left = room = limits.context_tokens - len(transcript.ids) - 1
                if room < self._shortest:
                    self.stop(StopReason.CONTEXT_LIMIT)
                    return None
                max_tokens = min(max_tokens, room)
            if limits.episode_tokens is not None:
                room = limits.episode_tokens - (len(transcript.ids) - self._episode_start)
                if room < self._shortest:
                    return self._limit_episode(StopReason.TOKEN_LIMIT)
                left = room if left is None else min(left, room)
                max_tokens = min(max_tokens, room)
        if self._unhurried:
            return self._ask(max_tokens, left)
        if limits.trial_turns is not None and self.trial.turns >= limits.trial_turns:
            self.stop(StopReason.TURN_LIMIT)
            return None
        if limits.episode_turns is not None and self._turn >= limits.episode_turns:
            return self._limit_episode(StopReason.TURN_LIMIT)
        if limits.trial_seconds is not None and time.monotonic() - self._clock > limits.trial_seconds:
            self.stop(StopReason.TIME_LIMIT)
            return None
        if limits.episode_seconds is not None and time.monotonic() - self._episode_clock > limits.episode_seconds:
            return self._limit_episode(StopReason.TIME_LIMIT)
        return self._ask(max_tokens, left)

    def _ask(self, max_tokens: int, room: int | None) -> ActRequest:
        seed = (self._policy_seed + self._episode * _EPISODE_MIX + self._turn * _TURN_MIX) & _MASK
        ids = [] if self._transcript is None else self._transcript.ids
        return ActRequest(self.trial, self.context, ids, max_tokens, seed, self._thought_tokens, room)

    def _limit_episode(self, reason: StopReason) -> ActRequest | None:
        """End the episode because of a limit and continue with the next one."""
        self._drop_unused()
        self.trial.end_episode(reason)
        if not self.trial.live:
            self._finish(self.trial.trial_stop or reason)
            return None
        self._next_episode(ended=True, bridge=self.trial.opening or "")
        return self._request()

    def _receive(self, reply: ActReply) -> ActRequest | None:
        ended = reply.finish == "end"
        if not ended:
            self.trajectory.truncated_actions += 1
        if self._transcript is None:
            text = reply.text or ""
        else:
            if not reply.ids:
                raise MetaRLGymError("the policy replied with no tokens: an action has at least one.")
            assert self.renderer is not None
            if self.choices is not None:
                start = len(self._transcript.action_mask)
                for place, legal in self.choices.of(self.trial, reply.ids):
                    self._transcript.choices[start + place] = legal
            thought = reply.thought
            if thought is None:
                self._transcript.add_action(reply.ids, reply.logprobs, self._episode, self._turn, reply.versions)
            else:
                self._transcript.add_reply(
                    reply.ids, reply.logprobs, thought.forced, self._episode, self._turn, reply.versions
                )
                self.trajectory.thoughts += 1
                self.trajectory.cut_thoughts += thought.cut
                self.trajectory.thought_tokens += thought.tokens
            text = self.renderer.decode_action(reply.ids)
            if self._opened:  # so that the environment knows what is thought, and that a thought may be unfinished
                text = THOUGHT_START + text
        if self._timed:
            row = self._transcript
            lengths = (0, 0, 0) if row is None else (len(self.trajectory.rows), len(row.ids), len(row.action_mask))
            self._mark = (text, self._episode, self._turn, self.context, *lengths)
        step = self.trial.step(text)
        self._turn += 1
        if not self.trial.live:
            self._finish(self.trial.trial_stop or StopReason.TERMINATED)
            return None
        if len(self.trial.history) - 1 > self._episode:
            self._next_episode(ended, bridge=step.observation)
        elif self._transcript is not None:
            assert self.renderer is not None
            ids = self.renderer.bridge(step.observation, ended)
            if self.trial.keep_thoughts == "none":
                used = len(self._transcript.ids) + len(ids) - self._episode_start
                self._open_context()
                self._episode_start = len(self._transcript.ids) - used
            else:
                self._transcript.add_environment(ids, self._episode, self._turn)
        return self._request()

    def _next_episode(self, ended: bool, bridge: str) -> None:
        if self.limits.episode_seconds is not None:
            self._episode_clock = time.monotonic()
        self._turn = 0
        self._episode += 1
        if self._transcript is None:
            return
        if self.trial.one_context:
            assert self.renderer is not None
            # The text that ends one episode and opens the next belongs to the next: it contains no sampled token.
            self._transcript.add_environment(self.renderer.bridge(bridge, ended), self._episode, 0)
        else:
            self._open_context()
        self._episode_start = len(self._transcript.ids)

    def _finish(self, reason: StopReason) -> None:
        self.over = True
        self.trajectory.stop = reason
        self.trajectory.seconds = time.monotonic() - self._clock
        if self._transcript is not None:
            self._drop_unused()
            self._close_row()
