"""Log-probability probe: checks that servers and trainer agree on the continuation of a fixed prompt.

A mismatch means that rollouts are sampled from a different policy than the one being trained: a different model, a part
that was not updated (such as a head tied to the embedding), or a different precision. Training would silently go wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import requests
import torch

from metarlgym.datatypes import MetaRLGymError
from metarlgym.serving.handshake import HTTP

PROMPT_LENGTH = 32
CONTINUATION_LENGTH = 32
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.02}
"""Maximum mean absolute difference of log-probabilities in nats, by the trainer's dtype."""


class ProbeMismatch(MetaRLGymError):
    """A server does not hold the trainer's weights."""


@dataclass(frozen=True)
class ProbeResult:
    """Absolute differences in nats over the tokens of the continuation."""

    mean: float
    largest: float


def probe_prompt(vocabulary: int, special: Sequence[int], length: int = PROMPT_LENGTH, seed: int = 0) -> list[int]:
    """A fixed prompt of random non-special tokens, shape `(length,)`; covers more of the embedding than text would."""
    rng = random.Random(seed)
    ordinary = sorted(set(range(vocabulary)) - set(special)) or list(range(vocabulary))
    return [rng.choice(ordinary) for _ in range(length)]


def server_continuation(
    url: str, model: str, prompt: list[int], length: int, temperature: float, timeout: float
) -> tuple[list[int], list[float]]:
    """The server's sampled continuation of `prompt` and its log-probabilities, each of shape `(length,)`."""
    body = {"model": model, "prompt": prompt, "max_tokens": length, "temperature": temperature, "seed": 0}
    body |= {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
    body |= {"logprobs": 0, "return_token_ids": True, "add_special_tokens": False}
    try:
        answer = HTTP.post(f"{url}/v1/completions", json=body, timeout=timeout)
    except requests.RequestException as error:
        raise MetaRLGymError(f"{url}: the probe got no answer in {timeout:g} s ({type(error).__name__})") from None
    if answer.status_code != 200:
        raise MetaRLGymError(f"{url}: the probe got HTTP {answer.status_code}: {answer.text[:200]}")
    choice = answer.json()["choices"][0]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"]


def compare(url: str, server: list[float], trainer: list[float], tolerance: float) -> ProbeResult:
    """Compare the log-probabilities of server and trainer.

    Raises:
        ProbeMismatch: if the mean difference exceeds `tolerance` or is NaN.
    """
    gaps = [abs(a - b) for a, b in zip(server, trainer, strict=True)]
    result = ProbeResult(sum(gaps) / len(gaps), max(gaps))
    if not result.mean <= tolerance:  # also catches NaN
        raise ProbeMismatch(
            f"{url} does not hold the trainer's weights: on a continuation of {len(gaps)} tokens its "
            f"log-probabilities differ by {result.mean:.3g} on average (at most {result.largest:.3g}), "
            f"probe_tolerance={tolerance:g}. It serves another model, another precision, or did not take the last "
            "update. Start it again with `metarlgym serve` and the run's model, or raise probe_tolerance if the "
            "precision is meant to differ"
        )
    return result
