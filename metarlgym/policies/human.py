"""A human policy, and a way to watch other policies: prints the trial in the terminal as it happens."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from metarlgym.datatypes import Episode, MetaRLGymError, StopReason
from metarlgym.rollout.protocol import ActReply, ActRequest, Callback, Policy
from metarlgym.trial import Trial

Show = Callable[[str, str], None]
"""`show(kind, text)`; kinds are `rules`, `text` (of the environment), `action` (of the policy) and `note` (ours)."""

QUIT = "quit"


class PlayerQuit(MetaRLGymError):
    """The player ended the trial."""


def plain(kind: str, text: str) -> None:
    """Print without any style."""
    print({"action": "> ", "note": "    "}.get(kind, "") + text)


class Narrator:
    """Prints what is new in a trial: rules, openings, responses, and the running returns.

    Args:
        show: prints one text.
        echo: print actions too; leave it off if the player has just typed them.
    """

    def __init__(self, show: Show = plain, echo: bool = False) -> None:
        self.show = show
        self.echo = echo
        self._trial: Trial | None = None
        self._history: list[Episode] | None = None
        self._episode = self._turn = 0
        self._open = False

    def follow(self, trial: Trial | None = None) -> None:
        """Print everything that happened since the last call, in this trial or, if None, in the last one."""
        if trial is not None and trial.history is not self._history:  # a reset makes a new history
            self.follow()  # the last response in the previous trial
            self._trial, self._history = trial, trial.history
            self._episode = self._turn = 0
            self._open = False
        if self._trial is None:
            return
        history = self._history or []
        while self._episode < len(history):
            episode = history[self._episode]
            if not self._open:
                self._open = True
                self._opening(self._trial, self._episode)
            for turn in episode.turns[self._turn :]:
                if self.echo:
                    self.show("action", turn.action)
                if turn.observation:
                    self.show("text", turn.observation)
            self._turn = len(episode.turns)
            if episode.stop is None:
                return
            self.show("note", self._summary(self._trial, self._episode))
            self._episode, self._turn, self._open = self._episode + 1, 0, False

    @staticmethod
    def _summary(trial: Trial, index: int) -> str:
        history, free = trial.history, trial.free_shots
        episode = history[index]
        text = f"episode {index + 1}: return {episode.ret:g}"
        if episode.stop is StopReason.ERROR:
            text += ", not finished"
        elif episode.stop not in (StopReason.TERMINATED, StopReason.MAX_TURNS):
            text += f", cut by {episode.stop}"
        if index < free:
            return f"{text}, a free shot"
        return f"{text}; so far {sum(e.ret for e in history[free : index + 1]):g}"

    def _opening(self, trial: Trial, index: int) -> None:
        if index and not trial.one_context and index == len(trial.history) - 1:
            self.show("note", "a new context; the policy sees only what follows")
            for role, text in trial.messages:
                if text:
                    self.show({"system": "rules", "user": "text", "assistant": "action"}[role], text)
            return
        if index == 0 and (rules := trial.rules()):
            self.show("rules", rules)
        if trial.history[index].opening:
            self.show("text", trial.history[index].opening)


class HumanPolicy(Policy):
    """A person chooses the actions. Play one trial at a time (`concurrency=1`).

    Reading blocks the event loop: with one trial there is nothing else to do, and Ctrl-C works as usual.

    Args:
        read: returns the next line without its line break; EOFError, or the line `quit`, ends the trial. Empty lines
            prompt again.
        show: prints a text; see `Show`.
    """

    wants_tokens = False

    def __init__(self, read: Callable[[], str] | None = None, show: Show = plain) -> None:
        self.read = read or (lambda: input("> "))
        self.narrator = Narrator(show)

    def submit(self, request: ActRequest, done: Callback) -> None:
        self.loop.call_soon(self._ask, request, done)

    def _ask(self, request: ActRequest, done: Callback) -> None:
        try:
            self.narrator.follow(request.trial)
            with _interruptible():
                while not (line := self.read().strip()):
                    pass
            if line.lower() == QUIT:
                raise EOFError
        except EOFError:
            done(PlayerQuit("the player ended the trial"))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the environment's code may run here
            done(error)
        else:
            done(ActReply([], [], "end", line))

    async def end(self) -> None:
        self.narrator.follow()


class WatchedPolicy(Policy):
    """Prints the trials of another text-based policy."""

    wants_tokens = False

    def __init__(self, policy: Policy, show: Show = plain) -> None:
        self.policy = policy
        self.narrator = Narrator(show, echo=True)

    async def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        await super().begin(loop)
        await self.policy.begin(loop)

    def submit(self, request: ActRequest, done: Callback) -> None:
        self.narrator.follow(request.trial)
        self.policy.submit(request, done)

    async def end(self) -> None:
        self.narrator.follow()
        await self.policy.end()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the reading at once: under asyncio the first one would only mark the task as canceled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
