"""Games whose hidden task is an opponent: the player meets the same one in every episode and has to find out who it is.

A new opponent is one small class with a name and a method that gives its move:

    class TitForTwoTats(Opponent):
        name = "tit_for_two_tats"

        def move(self, seen):                    # seen: (player's move, own move) of each round of this episode
            defected = [player for player, _ in seen[-2:]] == ["defect", "defect"]
            return "defect" if defected else "cooperate"

A game that knows it is one subclass more, registered like any other environment:

    class MyDilemma(PrisonersDilemma):
        kinds = (*PrisonersDilemma.kinds, TitForTwoTats())

Its optimum and its oracle then take the new opponent into account. The game asks for moves through `begin` and `move`
alone, so an opponent may as well be a second policy: `begin` returns a player for one episode, `move` asks it.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, ClassVar

from metarlgym.datatypes import JSON, ConfigError
from metarlgym.env import Env


class Opponent:
    """One kind of opponent, without state: every episode begins with `begin`, and `move` sees all that has happened."""

    name: str = ""
    """What the argument `opponents` and the task call it."""
    by_default: bool = True
    """Whether it plays where `opponents` is not given."""
    deterministic: bool = True
    """Whether `move` depends on `seen` alone. If not, optimum and oracle do not know how to play against it."""

    def draw(self, rng: random.Random) -> dict[str, JSON]:
        """Parameters of a task beyond the opponent's name."""
        return {}

    def begin(self, params: JSON, rng: random.Random) -> Opponent:
        """The opponent for one episode of the task `params`; `rng` is the noise of the episode."""
        return self

    def move(self, seen: Sequence[Any]) -> str:
        """Its next move.

        Args:
            seen: what it knows of the episode so far, in the game's own terms.
        """
        raise NotImplementedError(f"{type(self).__name__} must define move(seen)")

    def digest(self, seen: Sequence[Any]) -> Hashable:
        """The part of `seen` on which its later moves depend: the smaller, the faster is the search for the optimum.

        The digest after a round must follow from that round and the digest before it.
        """
        return tuple(seen)


class OpponentGame(Env):
    """A game against one of several opponents; which one is the task, each equally likely.

    Args:
        opponents: names of the opponents that may be met. Default: all, except those that must be asked for.
    """

    kinds: ClassVar[tuple[Opponent, ...]] = ()
    """The opponents that the game knows."""
    uniform_tasks = True

    def __init__(self, opponents: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        known = {kind.name: kind for kind in self.kinds}
        if opponents is None:
            opponents = [name for name, kind in known.items() if kind.by_default]
        if isinstance(opponents, str) or not isinstance(opponents, Sequence) or not opponents:
            raise ConfigError(f"opponents={opponents!r} must be a list of names out of {', '.join(known)}.")
        for name in opponents:
            if name not in known:
                raise ConfigError(f"opponents has {name!r}, which is not known: use {', '.join(known)}.")
        if len(set(opponents)) < len(opponents):
            raise ConfigError(f"opponents={list(opponents)!r} names one twice: name each once.")
        self.opponents = tuple(opponents)

    @property
    def _pool(self) -> tuple[Opponent, ...]:
        """The opponents that may be met; looked up in the class, so that copies of an environment share them."""
        known = {kind.name: kind for kind in self.kinds}
        return tuple(known[name] for name in self.opponents)

    @property
    def _all_deterministic(self) -> bool:
        return all(kind.deterministic for kind in self._pool)

    def sample_task(self, rng: random.Random) -> JSON:
        kind = rng.choice(self._pool)
        return {"opponent": kind.name, **kind.draw(rng)}

    def all_tasks(self) -> Iterable[JSON] | None:
        if any(kind.draw(random.Random(0)) for kind in self._pool):
            return None
        return [{"opponent": name} for name in self.opponents]

    def _begin_opponent(self, params: JSON, rng: random.Random) -> Opponent:
        """The opponent of an episode."""
        name = params["opponent"]
        return next(kind for kind in self.kinds if kind.name == name).begin(params, rng)
