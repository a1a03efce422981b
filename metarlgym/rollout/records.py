"""Trials as JSON objects to read: what was asked, what was answered and, on request, what the model saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from metarlgym.datatypes import MetaTrajectory
from metarlgym.rollout.render import Renderer

Decode = Callable[[Sequence[int]], str]


def decode_with(renderer: Renderer) -> Decode:
    """The function that shows token ids as the model sees them, special tokens included."""

    def decode(ids: Sequence[int]) -> str:
        return renderer.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    return decode


def record(trajectory: MetaTrajectory, rules: str, decode: Decode | None = None) -> dict[str, Any]:
    """A trial as a JSON-serialisable object.

    Args:
        trajectory: the trial.
        rules: the text of the rules as the policy saw it.
        decode: if given, `contexts` is added: for each context of the trial its text, token ids, mask of sampled
            tokens and log-probabilities. A context ends with the last action: what came after it was never read.
    """
    line = {"rules": rules, **trajectory.to_dict()}
    if decode is not None:
        line["contexts"] = [row.to_dict(decode) for row in trajectory.rows]
    return line
