"""WeightGate: no request is at a server while its weights change, so that every answer comes from one version.

A training thread closes the gate, has the servers paused (which answers requests with what they have sampled so far),
recalls the requests that did not come back, sends the weights and opens the gate. Requests are made on event loops in
other threads; each waits at the gate and learns there which version will answer it.
"""

from __future__ import annotations

import asyncio
import threading

from metarlgym.datatypes import MetaRLGymError

GRACE = 0.5
"""Seconds in which paused servers answer."""
RECALL_SECONDS = 10.0
"""How long a recalled request may take to come back: its event loop can be busy with an environment's step."""


class WeightGate:
    """One gate serves all rollouts of a process."""

    def __init__(self) -> None:
        self.version: int | None = None
        """Optimizer step of the weights that the servers hold."""
        self.weights: str | None = None
        """Their id at the servers; None if unknown."""
        self._open = True
        self._changed = threading.Condition()
        self._out: dict[asyncio.Timeout, asyncio.AbstractEventLoop] = {}
        self._recalled: set[asyncio.Timeout] = set()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    # ------------------------------------------------------------------ requests, on an event loop

    async def opened(self) -> None:
        """Wait until the gate is open."""
        while True:
            with self._changed:
                if self._open:
                    return
                event = asyncio.Event()
                self._waiting.append((asyncio.get_running_loop(), event))
            await event.wait()

    def enter(self, deadline: asyncio.Timeout) -> bool:
        """Begin a request, unless the gate has been closed; `version` holds for it until `leave`.

        Args:
            deadline: the running time limit of the request, by which it is recalled.
        """
        with self._changed:
            if self._open:
                self._out[deadline] = asyncio.get_running_loop()
            return self._open

    def leave(self, deadline: asyncio.Timeout) -> bool:
        """End a request; returns whether it was recalled and has to be made again."""
        with self._changed:
            self._out.pop(deadline, None)
            recalled = deadline in self._recalled
            self._recalled.discard(deadline)
            self._changed.notify_all()
        return recalled

    def interrupted(self, version: int | None) -> bool:
        """Whether an update has broken off, or may have broken off, requests made to `version`."""
        return not self._open or self.version != version

    # ------------------------------------------------------------------ updates, on the training thread

    def close(self) -> None:
        """From now on no request begins."""
        with self._changed:
            self._open = False

    def settle(self) -> None:
        """Wait until the requests have come back from servers that are paused; recall those that do not.

        A request that reached a server after the pause would be answered after the update, by weights of which nobody
        knows the version.

        Raises:
            MetaRLGymError: one does not come back even then.
        """
        with self._changed:
            if self._changed.wait_for(lambda: not self._out, GRACE):
                return
            self._recalled |= self._out.keys()
            for deadline, loop in self._out.items():
                loop.call_soon_threadsafe(self._recall, deadline)
            if not self._changed.wait_for(lambda: not self._out, RECALL_SECONDS):
                raise MetaRLGymError(
                    f"{len(self._out)} request(s) did not return within {RECALL_SECONDS:g} s before an update of the "
                    "weights: a step of an environment blocks the rollout. Set `blocking = True` in the environment, "
                    "or weight_update: drain."
                )

    def open(self, version: int, weights: str | None) -> None:
        """Let requests begin again.

        Args:
            version: optimizer step of the weights that the servers now hold.
            weights: their id at the servers.
        """
        with self._changed:
            self.version, self.weights, self._open = version, weights, True
            waiting, self._waiting = self._waiting, []
            for loop, event in waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    def _recall(self, deadline: asyncio.Timeout) -> None:
        if deadline in self._out:  # it has not come back meanwhile
            deadline.reschedule(asyncio.get_running_loop().time())
