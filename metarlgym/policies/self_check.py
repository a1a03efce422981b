"""self_check: before playing, the in-process policy compares its log-probabilities with those of a plain forward pass.

A model may ignore the mask, positions or cache passed to it; its log-probabilities are then wrong without any error. A
few contexts of fixed ids go through everything that a rollout uses: left padding, a shared prompt, appending several
tokens to cached contexts, and single tokens.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.policies.in_process import InProcessPolicy, inference
from metarlgym.policies.supported import WAY_OUT
from metarlgym.rollout.protocol import ActReply, ActRequest

PROMPTS = (9, 9, 4, 14, 1, 6)
"""Lengths of the contexts' prompts; the first two prompts are identical."""
BRIDGES = (3, 1, 2, 4, 1, 5)
"""Number of tokens appended after the first action."""
ACTION = 3
"""Number of tokens of each of the two actions."""


@dataclass(frozen=True)
class Tolerance:
    """Largest |difference| of log-probabilities in nats, over tokens."""

    mean: float
    largest: float
    share: float
    """Additional bound on the mean difference, relative to the standard deviation of the log-probabilities over tokens;
    ten times as much for the largest. With small random weights log-probabilities are nearly constant, so that a wrong
    model would pass the absolute bounds.
    """


FULL = Tolerance(1e-4, 1e-3, 0.002)
HALF = {torch.float16: Tolerance(0.02, 0.25, 0.02), torch.bfloat16: Tolerance(0.1, 1.0, 0.08)}
"""In bfloat16, correct models differ by up to 0.02 of the standard deviation, wrong ones by 0.2 and more."""


def self_check(model: Any, dtype: torch.dtype | None = None) -> None:
    """Play a short batch and compare. Draws no random numbers and leaves the model unchanged.

    Args:
        model: as for `InProcessPolicy`, with all its weights (not sharded).
        dtype: the number type it computes in, where autocast makes it another than the weights'.

    Raises:
        ConfigError: a difference above the tolerance, or a forward pass that fails; one line with the fix.
    """
    policy = InProcessPolicy(model, _FixedLength())  # type: ignore[arg-type]
    policy.pack_after = 0
    kind = model.config.get_text_config().model_type
    try:
        contexts = _play(policy, _contexts(model))
        plain = _plain(model, contexts)
    except (MetaRLGymError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        line = f"{type(error).__name__}: {error}".split("\n", 1)[0]
        raise ConfigError(f"model type {kind!r} cannot be played in this process ({line}). {WAY_OUT}") from error
    ours = torch.tensor([value for context in contexts for value in context.logprobs])
    problem = compare(ours, plain, dtype or model.dtype)
    if problem:
        raise ConfigError(
            f"model type {kind!r}: the in-process policy's log-probabilities {problem} from those of a plain forward "
            f"pass, so training would go wrong. {WAY_OUT}"
        )


def compare(ours: torch.Tensor, plain: torch.Tensor, dtype: torch.dtype) -> str | None:
    """Describe the discrepancy between log-probabilities of shape `(n,)` that should be equal; None if within
    tolerance.

    Args:
        ours: the values under test.
        plain: the reference values.
        dtype: the number type they were computed in.
    """
    gaps = (ours - plain).abs()
    mean, largest = float(gaps.mean()), float(gaps.max())
    spread = float(plain.std()) if len(plain) > 1 else math.inf
    limits = HALF.get(dtype, FULL)
    mean_at_most = min(limits.mean, limits.share * spread + 1e-6)
    at_most = min(limits.largest, 10 * limits.share * spread + 1e-5)
    if mean <= mean_at_most and largest <= at_most:  # False for NaN too
        return None
    return f"differ by {mean:.2g} on average and {largest:.2g} at most (allowed: {mean_at_most:.2g}, {at_most:.2g})"


class _FixedLength:
    """A minimal renderer for the policy: every action has the same length."""

    end_ids: frozenset[int] = frozenset()
    fixed_action_tokens = ACTION


@dataclass
class _Context:
    ids: list[int]
    bridge: list[int]
    """Environment tokens after the first action."""
    prompt_len: int
    places: list[int]
    """Positions of the sampled tokens."""
    logprobs: list[float]


def _contexts(model: Any) -> list[_Context]:
    """Random tokens from a separate stream, as many as fit the model."""
    text = model.config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or 2**20
    rng = random.Random(0)
    contexts = []
    for prompt, bridge in zip(PROMPTS, BRIDGES, strict=True):
        prompt = max(1, min(prompt, longest - ACTION))
        bridge = max(0, min(bridge, longest - prompt - 2 * ACTION))
        ids = rng.choices(range(text.vocab_size), k=prompt)
        added = rng.choices(range(text.vocab_size), k=bridge)
        contexts.append(_Context(ids, added, prompt, [], []))
    contexts[1].ids = list(contexts[0].ids)
    return contexts


def _play(policy: InProcessPolicy, contexts: list[_Context]) -> list[_Context]:
    """Play two actions in each context, with the bridge between them."""
    loop = _Loop()
    policy.loop = loop  # type: ignore[assignment]
    failures: list[BaseException] = []

    def ask(i: int, turns: int) -> None:
        context = contexts[i]

        def answered(reply: ActReply | BaseException) -> None:
            if isinstance(reply, BaseException):
                failures.append(reply)
                return
            start = len(context.ids)
            context.places += range(start, start + len(reply.ids))
            context.logprobs += reply.logprobs
            context.ids += reply.ids
            if turns > 1 and context.bridge:
                context.ids += context.bridge
                ask(i, turns - 1)

        policy.submit(ActRequest(None, i, context.ids, ACTION, seed=i), answered)  # type: ignore[arg-type]

    policy.open()
    try:
        for i in range(len(contexts)):
            ask(i, 2)
        loop.run()
    finally:
        policy.close()
    if failures:
        raise failures[0]
    return contexts


def _plain(model: Any, contexts: list[_Context]) -> torch.Tensor:
    """Log-probabilities of the sampled tokens, each full context on its own, without padding and cache."""
    found = []
    with inference(model):
        for context in contexts:
            ids = torch.tensor([context.ids], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            logprobs = torch.log_softmax(logits, -1).gather(-1, ids[0, 1:, None])[:, 0].cpu()
            found.append(logprobs[torch.tensor(context.places) - 1])
    return torch.cat(found)


class _Loop:
    """The only part of an event loop that the policy uses; works even if another loop is already running."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()

    def call_soon(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def run(self) -> None:
        while self._calls:
            self._calls.popleft()()
