"""Linear probes: does a network's state encode when the source last changed, as the exact Bayesian posterior does?

The targets are log2(1 + age) of the current segment: its mean under the exact predictor's posterior, and the true
value. A probe is a ridge regression on the last hidden layer, fitted on one half of the held-out sequences and
evaluated on the other by R^2. Two controls show what the probe itself can do: the same network before training, and the
last symbols together with the position.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.predictors import exact_predictor
from metarlgym.sequences.sources import Source

RECENT = 16
"""Number of symbols that the control without a network sees."""
RIDGE = 1e-2
"""Ridge penalty, for features of unit variance."""


def find_log_ages(source: Source) -> Callable[[Any], np.ndarray]:
    """`log_ages` of the exact predictor of a source with segments: posterior mean of log2(1 + age), `(B, T)`.

    Raises:
        ConfigError: the predictor has none.
    """
    predictor = exact_predictor(source)
    found = getattr(predictor, "log_ages", None)
    if found is None:
        raise ConfigError(
            f"source={type(source).__name__} has segments (in_segments), but its exact predictor, "
            f"{type(predictor).__name__}, has no log_ages: define it, or leave in_segments out."
        )
    return found


def probe(
    model: Any, source: Source, sequences: int = 400, start: int = 50_000, batch_size: int = 50
) -> dict[str, dict[str, float]]:
    """Fit linear probes and compute their R^2 on the second half of the sequences.

    Args:
        model: a causal model whose token ids are the source's symbols.
        source: a source with segments (`in_segments`).
        sequences: number of held-out sequences.
        start: index of the first sequence.
        batch_size: sequences per forward pass.

    Returns:
        `posterior`: R^2 of `network`, `untrained` and `recent_symbols` for the exact posterior's mean log-age; `truth`:
        the same for the true log-age, together with `exact_posterior`, the upper bound.
    """
    columns = source.columns(start, sequences, "eval")
    tokens, switches = columns["tokens"], columns["switches"]
    believed = find_log_ages(source)(tokens)[:, 1:]
    true = _true_log_ages(switches)[:, 1:]
    features = {
        "network": _states(model, tokens[:, :-1], batch_size),
        "untrained": _states(_untrained(model), tokens[:, :-1], batch_size),
        "recent_symbols": _recent(tokens[:, :-1], source.vocab_size),
    }
    found = {
        "posterior": {name: _r2_of_fit(values, believed) for name, values in features.items()},
        "truth": {name: _r2_of_fit(values, true) for name, values in features.items()},
    }
    found["truth"]["exact_posterior"] = _r2_of_fit(believed[..., None], true)
    return found


def _untrained(model: Any) -> Any:
    """The same network with fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type(model)(copy.deepcopy(model.config)).to(model.device)


def _true_log_ages(switches: np.ndarray) -> np.ndarray:
    times = np.broadcast_to(np.arange(switches.shape[1]), switches.shape)
    began = np.maximum.accumulate(np.where(switches, times, 0), axis=1)
    return np.log2(1.0 + times - began)


def _states(model: Any, tokens: np.ndarray, batch_size: int) -> np.ndarray:
    """Last hidden states, `(B, T, width)`."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        parts = [
            model(input_ids=ids.to(model.device), output_hidden_states=True).hidden_states[-1].float().cpu()
            for ids in torch.from_numpy(tokens).split(batch_size)
        ]
    model.train(was_training)
    return torch.cat(parts).numpy().astype(np.float64)


def _recent(tokens: np.ndarray, alphabet: int) -> np.ndarray:
    """The last symbols, one-hot encoded, and the logarithm of the position."""
    padded = np.pad(tokens, ((0, 0), (RECENT - 1, 0)), constant_values=alphabet)
    windows = np.lib.stride_tricks.sliding_window_view(padded, RECENT, axis=1)
    hot = np.eye(alphabet + 1)[windows].reshape(*tokens.shape, -1)
    places = np.broadcast_to(np.log2(1.0 + np.arange(tokens.shape[1]))[None, :, None], (*tokens.shape, 1))
    return np.concatenate([hot, places], 2)


def _r2_of_fit(features: np.ndarray, targets: np.ndarray) -> float:
    half = len(features) // 2
    x, y = features[:half].reshape(-1, features.shape[2]), targets[:half].ravel()
    mean, spread = x.mean(0), x.std(0) + 1e-9
    x = (x - mean) / spread
    level = y.mean()
    weights = np.linalg.solve(x.T @ x / len(x) + RIDGE * np.eye(x.shape[1]), x.T @ (y - level) / len(x))
    test = (features[half:].reshape(-1, features.shape[2]) - mean) / spread @ weights + level
    aim = targets[half:].ravel()
    return float(1 - ((test - aim) ** 2).mean() / aim.var())
