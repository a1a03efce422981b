"""Choices: at which sampled tokens the policy chose among legal actions, and what it could have chosen.

Legal actions, encoded, form a tree of token ids. An action that follows this tree passes points where several legal
actions branch; an entropy bonus over the branches explores among legal actions, whereas one over the whole vocabulary
explores among all texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from metarlgym.author_values import checked_text
from metarlgym.datatypes import MetaRLGymError
from metarlgym.rollout.render import Renderer
from metarlgym.trial import Trial

MOST_ACTIONS = 4096
"""More legal actions than this are no list to choose from."""
_KEPT = 256

Branches = dict[tuple[int, ...], tuple[int, ...]]
"""Token ids that legal actions continue with, by the ids of the action so far; only where there are several."""


class Choices:
    """Finds the branching points of actions.

    Args:
        renderer: encodes the legal actions.
    """

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self._trees: dict[tuple[str, ...], Branches] = {}

    def of(self, trial: Trial, action: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
        """The branching points of an action that the policy is about to take.

        Args:
            trial: in the state in which the action was chosen.
            action: its token ids.

        Returns:
            Pairs of (index in `action`, ids of the legal tokens there), as far as the action agrees with a legal one.

        Raises:
            MetaRLGymError: the environment lists no legal actions here.
        """
        legal = trial.legal_actions()
        if legal is None:
            raise MetaRLGymError(f"{trial.env_id} lists no legal actions here (legal_actions() returned None).")
        if len(legal) > MOST_ACTIONS:
            raise MetaRLGymError(
                f"{trial.env_id} lists {len(legal):,} legal actions, more than {MOST_ACTIONS:,}: return None instead."
            )
        key = tuple(legal)
        branches = self._trees.get(key)
        if branches is None:
            if len(self._trees) >= _KEPT:
                self._trees.clear()
            branches = self._trees[key] = self._tree(trial.env_id, key)
        start = self._after_thought(action)
        found = []
        for i in range(start, len(action)):
            after = branches.get(tuple(action[start:i]))
            if after is not None:
                found.append((i, after))
                if action[i] not in after:
                    break
        return found

    def _after_thought(self, reply: Sequence[int]) -> int:
        """Where the action begins in a reply: after the thought and the blanks that close it, if it has one."""
        thinking = self.renderer.thinking
        if thinking is None:
            return 0
        if thinking.end_id not in reply:  # an unfinished thought holds no action
            return len(reply) if thinking.opened or thinking.start_id in reply else 0
        blanks = thinking.close_ids[thinking.close_ids.index(thinking.end_id) + 1 :]
        start = len(reply) - list(reply)[::-1].index(thinking.end_id)
        return start + len(blanks) if tuple(reply[start : start + len(blanks)]) == blanks else start

    def _tree(self, env_id: str, legal: Sequence[str]) -> Branches:
        end = [] if self.renderer.fixed_action_tokens else [self.renderer.end_id]
        after: dict[tuple[int, ...], set[int]] = {}
        for text in legal:
            ids = [*self.renderer.encode(checked_text(env_id, "legal_actions() returned", text)), *end]
            for i, token in enumerate(ids):
                after.setdefault(tuple(ids[:i]), set()).add(token)
        return {prefix: tuple(sorted(tokens)) for prefix, tokens in after.items() if len(tokens) > 1}
