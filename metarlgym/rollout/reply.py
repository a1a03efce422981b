"""Reply: a policy's reply in the making, with separate limits for its thought and its action.

Policies add sampled tokens one at a time or in chunks, wherever they come from. At the thought's limit the closing
tokens are appended without being sampled, and sampling continues with the action's own limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from metarlgym.rollout.protocol import ActReply, ActRequest, Thought
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.thinking import Thinking

_PART_MIX, _TOKEN_MIX, _MASK = 0xD6E8FEB86659FD93, 0xA0761D6478BD642F, (1 << 63) - 1
_UNLIMITED = 2**62


def part_seed(seed: int, part: int) -> int:
    """The sampling seed of the part-th request for one reply; part 0 has the reply's own seed."""
    return (seed + part * _PART_MIX) & _MASK


def shortest_reply(renderer: Renderer) -> int:
    """Tokens of context that a reply needs at least, without an end token.

    Where thoughts are possible, there is room for opening one, closing it, and one token of an action.
    """
    if renderer.fixed_action_tokens:
        return renderer.fixed_action_tokens
    thinking = renderer.thinking
    return 1 if thinking is None else len(thinking.close_ids) + 1 + (not thinking.opened)


def continued_seed(seed: int, tokens: int) -> int:
    """The sampling seed of a request that goes on after the first `tokens` tokens of its answer."""
    return (seed + tokens * _TOKEN_MIX) & _MASK


class Reply:
    """The tokens of a reply so far. Only the first thought of a reply counts as one.

    Args:
        request: with a limit on thoughts (`thought_tokens`).
        thinking: the control tokens around thoughts.
        end_ids: tokens that end the reply, also inside a thought.
    """

    def __init__(self, request: ActRequest, thinking: Thinking, end_ids: frozenset[int]) -> None:
        assert request.thought_tokens is not None
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.versions: list[int] = []
        """Version of the weights of each id; -1 if it is unknown or was not sampled."""
        self.finish: Literal["end", "length"] | None = None
        """How the reply ended; None while it is incomplete."""
        self.open = thinking.opened
        """Whether a thought is open."""
        self.thought = self.said = 0
        """Sampled tokens inside the thought, with those that open and close it; and outside."""
        self._limits = request.thought_tokens, request.max_tokens, request.room or _UNLIMITED
        self._start, self._end, self._close = thinking.start_id, thinking.end_id, thinking.close_ids
        self._end_ids = end_ids
        self._thoughts = thinking.opened
        self._cut = False
        self._forced: tuple[int, int] | None = None
        self._check()

    def add(self, token: int, logprob: float, version: int = -1) -> bool:
        """Append a sampled token; returns whether the reply is complete."""
        self.ids.append(token)
        self.versions.append(version)
        self.logprobs.append(logprob)
        if token in self._end_ids:
            self.finish = "end"
            return True
        if self.open:
            self.thought += 1
            self.open = token != self._end
        elif token == self._start and not self._thoughts:
            self.thought, self.open, self._thoughts = 1, True, True
        else:
            self.said += 1
        self._check()
        return self.finish is not None

    def extend(self, ids: Sequence[int], logprobs: Iterable[float], versions: Iterable[int] | None = None) -> bool:
        """Append sampled tokens, up to the first that a limit excludes; returns whether the reply is complete."""
        for token, logprob, version in zip(ids, logprobs, versions or [-1] * len(ids), strict=True):
            before = self._forced
            if self.add(token, logprob, version) or self._forced is not before:
                break  # what follows was sampled without the closing tokens
        return self.finish is not None

    @classmethod
    def to(cls, request: ActRequest, renderer: Renderer) -> Reply | None:
        """An empty reply, or None where the renderer's tokenizer marks no thoughts."""
        if request.thought_tokens is None or renderer.thinking is None:
            return None
        return cls(request, renderer.thinking, renderer.end_ids)

    @property
    def allowance(self) -> int:
        """How many tokens to sample next: at least 1, and none of them wasted unless a thought is closed or opened."""
        thought, action, room = self._limits
        left = room - len(self.ids)
        return min(thought - self.thought, left - len(self._close) - 1) if self.open else min(action - self.said, left)

    @property
    def reply(self) -> ActReply:
        """The complete reply."""
        assert self.finish is not None
        thought = Thought(self.thought, self._forced, self._cut) if self._thoughts else None
        versions = self.versions if max(self.versions) >= 0 else None
        return ActReply(self.ids, self.logprobs, self.finish, thought=thought, versions=versions)

    def _check(self) -> None:
        thought, action, room = self._limits
        left = room - len(self.ids)
        if not self.open:
            if self.said >= action or left <= 0:
                self.finish = "length"
        elif self.thought >= thought or left <= len(self._close) + 1:
            self._cut = thought > 0  # a limit of 0 asks for no thoughts, and cuts none
            if left <= len(self._close):  # the thought began too late to be closed
                self.finish = "length"
                return
            self._forced = len(self.ids), len(self.ids) + len(self._close)
            self.ids.extend(self._close)
            self.logprobs.extend([0.0] * len(self._close))
            self.versions.extend([-1] * len(self._close))
            self.open = False
