"""The probe: do the servers give a fixed prompt the log-probabilities that the trainer gives it?

A mismatch means that rollouts are sampled from another policy than the one trained: another model, a part that was not
updated (a head tied to the embedding, say), or another precision. Training would go on and learn the wrong thing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import requests
import torch

from metarlgym.datatypes import MetaRLGymError

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Largest mean |difference| of log-probabilities in nats, by the coarser of both sides' number types."""


class ProbeMismatch(MetaRLGymError):
    """A server does not hold the trainer's weights."""


@dataclass(frozen=True)
class ProbeResult:
    """Differences in nats over the tokens of the prompt."""

    mean: float
    largest: float


def probe_tokens(vocabulary: int, special: Sequence[int], length: int, seed: int = 0) -> list[int]:
    """A fixed prompt of random ordinary tokens, shape `(length,)`: it meets more of the embedding than text would."""
    rng = random.Random(seed)
    ordinary = sorted(set(range(vocabulary)) - set(special)) or list(range(vocabulary))
    return [rng.choice(ordinary) for _ in range(length)]


def server_logprobs(url: str, model: str, ids: list[int], timeout: float) -> list[float]:
    """Log-probability of every token but the first, given those before it; shape `(length - 1,)`."""
    body = {"model": model, "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0, "add_special_tokens": False}
    answer = requests.post(f"{url}/v1/completions", json=body, timeout=timeout)
    if answer.status_code != 200:
        raise MetaRLGymError(f"{url}: the probe got HTTP {answer.status_code}: {answer.text[:200]}")
    rows = answer.json()["choices"][0]["prompt_logprobs"]
    return [row[str(token)]["logprob"] for row, token in zip(rows[1:], ids[1:], strict=True)]


@torch.no_grad()
def trainer_logprobs(model: Any, ids: list[int], device: torch.device) -> list[float]:
    """As `server_logprobs`, from one forward pass. Under ZeRO-3 every process must take part."""
    training = model.training
    model.eval()
    try:
        tokens = torch.tensor([ids], device=device)
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    finally:
        model.train(training)
    logprobs = torch.log_softmax(logits[0, :-1].float(), -1)
    return logprobs.gather(-1, tokens[0, 1:, None])[:, 0].tolist()


def compare(url: str, server: list[float], trainer: list[float], tolerance: float) -> ProbeResult:
    """Compare both sides.

    Raises:
        ProbeMismatch: the mean difference is above `tolerance`, or not a number.
    """
    gaps = [abs(a - b) for a, b in zip(server, trainer, strict=True)]
    result = ProbeResult(sum(gaps) / len(gaps), max(gaps))
    if not result.mean <= tolerance:  # also catches NaN
        raise ProbeMismatch(
            f"{url} does not hold the trainer's weights: on a fixed prompt of {len(gaps) + 1} tokens its "
            f"log-probabilities differ by {result.mean:.3g} on average (at most {result.largest:.3g}), "
            f"probe_tolerance={tolerance:g}. It serves another model, another precision, or did not take the last "
            "update. Start it again with `metarlgym serve` and the run's model, or raise probe_tolerance if the "
            "precision is meant to differ"
        )
    return result
