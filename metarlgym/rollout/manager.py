"""RolloutManager: one event loop that plays all trials concurrently. There is no lock-step version.

The loop keeps no task per trial: a policy's reply is a callback that steps one trial and submits its next request, so
trials advance independently and none waits for another.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from metarlgym.datatypes import MetaTrajectory
from metarlgym.rollout.background import BackgroundRollout
from metarlgym.rollout.choices import Choices
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.meter import Meter
from metarlgym.rollout.protocol import Policy
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.rollout import Rollout, TrialSpec

__all__ = ["RolloutManager", "TrialSpec"]


class RolloutManager:
    """Plays trials against a policy.

    Args:
        policy: chooses the actions.
        renderer: text to tokens; None for policies that work on text.
        limits: see `Limits`.
        concurrency: maximum number of concurrent trials; None for all.
        choices: records where actions chose among legal ones, in `Transcript.choices`.
        on_trial: called with the index in `specs` and the trajectory of each trial as it ends.
        meter: counts trials, turns and tokens as they happen; may be shared by several managers that play in turn.
    """

    def __init__(
        self,
        policy: Policy,
        renderer: Renderer | None = None,
        limits: Limits | None = None,
        concurrency: int | None = None,
        choices: Choices | None = None,
        on_trial: Callable[[int, MetaTrajectory], None] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.choices = choices
        self.policy = policy
        self.renderer = renderer
        self.limits = limits or Limits()
        self.concurrency = concurrency
        self.on_trial = on_trial
        self.meter = meter or Meter()

    def run(self, specs: Sequence[TrialSpec]) -> list[MetaTrajectory]:
        """Play all trials and return their trajectories in the order of `specs`."""
        try:
            asyncio.get_running_loop()
            running = True
        except RuntimeError:
            running = False
        play = self.run_async(specs)
        return _run_beside(play) if running else asyncio.run(play)

    async def run_async(self, specs: Sequence[TrialSpec], pause_collection: bool = True) -> list[MetaTrajectory]:
        """Like `run`, inside a running event loop.

        Args:
            specs: the trials.
            pause_collection: pause garbage collection meanwhile, in the whole process.
        """
        results: dict[int, MetaTrajectory] = {}

        def ended(index: int, trajectory: MetaTrajectory) -> None:
            results[index] = trajectory
            if self.on_trial is not None:
                self.on_trial(index, trajectory)

        with _no_garbage_collection() if pause_collection else nullcontext():
            await self.play_async(specs, len(specs), ended)
        return [results[index] for index in range(len(specs))]

    async def play_async(
        self,
        specs: Iterable[TrialSpec],
        total: int,
        ended: Callable[[int, MetaTrajectory], None],
        started: Callable[[Rollout], None] | None = None,
    ) -> None:
        """Play trials that are made as they are needed.

        Args:
            specs: the trials; the next is taken when there is a place for it.
            total: their number.
            ended: called with the index and the trajectory of each trial as it ends.
            started: called once with what plays them, before the first.
        """
        loop = asyncio.get_running_loop()
        self.policy.context_limit = self.limits.context_tokens
        await self.policy.begin(loop)
        try:
            rollout = Rollout(
                specs, total, self.policy, self.renderer, self.limits, self.concurrency, ended, self.meter, loop
            )
            rollout.choices = self.choices
            self.meter.begin(total, self.policy, rollout.in_flight)
            if started is not None:
                started(rollout)
            await rollout.play()
        finally:
            self.meter.end()
            await self.policy.end()


def _run_beside(play: Coroutine[Any, Any, list[MetaTrajectory]]) -> list[MetaTrajectory]:
    """Run a rollout in a thread with its own event loop: in a notebook a loop is already running."""
    rollout = BackgroundRollout(play)
    try:
        return rollout.result()
    except KeyboardInterrupt:
        rollout.cancel(0)  # otherwise it would continue in the background
        raise


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause garbage collection, which took 40% of the time; a rollout creates many small objects but no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
