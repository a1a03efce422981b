"""Transcript: the append-only tokens of one context, which becomes one training row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

UNKNOWN = -1
"""Version of a token that no known weights sampled."""


@dataclass(slots=True)
class Transcript:
    """Token ids of one context with per-token data.

    The first `prompt_len` ids are the row's prompt. The lists `action_mask`, `logprobs`, `episode`, `turn` and
    `version` cover the completion, that is `ids[prompt_len:]`. Ids are only ever appended: sampled tokens are never
    decoded and re-encoded.
    """

    ids: list[int]
    prompt_len: int
    first_episode: int = 0
    """Index of the episode for which this context was opened."""
    action_mask: list[int] = field(default_factory=list)
    """1 at tokens sampled by the policy, 0 at tokens of the environment and at those that closed a thought by force."""
    logprobs: list[float] = field(default_factory=list)
    """Log-probability of each sampled token under the policy that sampled it, at its temperature; 0.0 elsewhere."""
    episode: list[int] = field(default_factory=list)
    """Index of the episode each token belongs to."""
    turn: list[int] = field(default_factory=list)
    """Index of the turn within the episode."""
    version: list[int] = field(default_factory=list)
    """Version of the weights that sampled each token; -1 for tokens that were not sampled and where it is unknown."""
    choices: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Where sampled tokens chose among legal actions, if that is recorded: index in the completion to the ids of the
    legal tokens there; see `rollout.choices`.
    """

    @classmethod
    def open(cls, prompt_ids: Sequence[int], first_episode: int = 0) -> Transcript:
        return cls(list(prompt_ids), len(prompt_ids), first_episode)

    @classmethod
    def filler(cls, prompt_ids: Sequence[int], end_id: int, episode: int) -> Transcript:
        """The row of an episode that was not played: one end token outside the loss."""
        row = cls.open(prompt_ids, episode)
        row.add_environment([end_id], episode, 0)
        return row

    def add_action(
        self,
        ids: Sequence[int],
        logprobs: Sequence[float],
        episode: int,
        turn: int,
        versions: Sequence[int] | None = None,
    ) -> None:
        self._append(ids, logprobs, 1, episode, turn)
        self.version.extend(versions or [UNKNOWN] * len(ids))

    def add_reply(
        self,
        ids: Sequence[int],
        logprobs: Sequence[float],
        forced: tuple[int, int] | None,
        episode: int,
        turn: int,
        versions: Sequence[int] | None = None,
    ) -> None:
        """Like `add_action`, where the ids from `forced[0]` to `forced[1]` were not sampled."""
        start, end = forced or (0, 0)
        versions = versions or [UNKNOWN] * len(ids)
        self.version += [*versions[:start], *[UNKNOWN] * (end - start), *versions[end:]]
        self._append(ids[:start], logprobs[:start], 1, episode, turn)
        self._append(ids[start:end], logprobs[start:end], 0, episode, turn)
        self._append(ids[end:], logprobs[end:], 1, episode, turn)

    def add_environment(self, ids: Sequence[int], episode: int, turn: int) -> None:
        self._append(ids, [0.0] * len(ids), 0, episode, turn)
        self.version += [UNKNOWN] * len(ids)

    def _append(self, ids: Sequence[int], logprobs: Sequence[float], mask: int, episode: int, turn: int) -> None:
        if len(ids) == 1:  # the usual case for models trained from scratch
            self.ids.append(ids[0])
            self.action_mask.append(mask)
            self.logprobs.append(logprobs[0])
            self.episode.append(episode)
            self.turn.append(turn)
            return
        n = len(ids)
        self.ids.extend(ids)
        self.action_mask.extend([mask] * n)
        self.logprobs.extend(logprobs)
        self.episode.extend([episode] * n)
        self.turn.extend([turn] * n)

    def cut(self, ids: int, completion: int) -> Transcript:
        """A copy of the first `ids` ids, of which the last `completion` are the completion."""
        return Transcript(
            self.ids[:ids],
            self.prompt_len,
            self.first_episode,
            self.action_mask[:completion],
            self.logprobs[:completion],
            self.episode[:completion],
            self.turn[:completion],
            self.version[:completion],
            {position: legal for position, legal in self.choices.items() if position < completion},
        )

    def close(self, end_ids: frozenset[int], end_id: int) -> None:
        """End the row with an end token: drop what follows the last action and add the token if it is missing.

        TRL counts a row as truncated unless its last token is an end token.
        """
        keep = len(self.action_mask)
        while keep and not self.action_mask[keep - 1]:
            keep -= 1
        for values in (self.action_mask, self.logprobs, self.episode, self.turn, self.version):
            del values[keep:]
        del self.ids[self.prompt_len + keep :]
        if not keep or self.ids[-1] not in end_ids:
            place = (self.episode[-1], self.turn[-1]) if keep else (self.first_episode, 0)
            self.add_environment([end_id], *place)

    @property
    def completion_ids(self) -> list[int]:
        return self.ids[self.prompt_len :]

    def to_dict(self, decode: Any = None) -> dict[str, Any]:
        """A JSON-serialisable view; `decode` (ids -> text) adds the text."""
        data: dict[str, Any] = {
            "ids": self.ids,
            "prompt_len": self.prompt_len,
            "action_mask": self.action_mask,
            "logprobs": self.logprobs,
            "episode": self.episode,
            "turn": self.turn,
            "version": self.version,
        }
        if decode:
            data["text"] = decode(self.ids)
        return data
