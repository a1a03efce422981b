"""Exact posteriors of the noise in a MetaLM stream (the probability that a target is wrong), and AUC."""

from __future__ import annotations

import math

import numpy as np

from metarlgym.sequences.predictors import MetaLMFilter
from metarlgym.sequences.sources import MetaLM
from metarlgym.sequences.sources.metalm import MASK, MASK_SHARE, MIN_ELEMENT, Dictionary


def auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive scores above a negative, ties counting half; None unless there are both.

    Args:
        scores: array of any shape.
        positive: bool array of the same shape.
    """
    scores, positive = np.asarray(scores, float).ravel(), np.asarray(positive, bool).ravel()
    count = int(positive.sum())
    if count in (0, len(positive)):
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    others = len(positive) - count
    return float((ranks[inverse][positive].sum() - count * (count + 1) / 2) / (count * others))


def known_dictionary(
    source: MetaLM, noisy: np.ndarray, clean: np.ndarray, books: Dictionary
) -> tuple[np.ndarray, float]:
    """The exact posterior given the dictionary, the noisy past and the noisy target.

    Args:
        source: defines V and e.
        noisy, clean: sequences from their start, `(B, T)`.
        books: their languages.

    Returns:
        Posterior probability that symbols 1..T-1 are corrupted into a different one, `(B, T - 1)`; and the floor: the
        mean loss, in nats, of the exact prediction of clean symbols 1..T-1 from the noisy past.
    """
    right = MetaLMFilter(source, books).predictions(noisy, after=True)[:, :-1]
    seen = MetaLMFilter(source, books, noisy=True).predictions(noisy, after=True)[:, :-1]
    targets = noisy[:, 1:, None]
    intact = np.take_along_axis(right, targets, 2)[..., 0]
    intact = np.where(noisy[:, 1:] == source.separator, intact, intact * _kept(source))
    posterior = 1 - intact / np.take_along_axis(seen, targets, 2)[..., 0]
    floor = -np.log(np.take_along_axis(right, clean[:, 1:, None], 2)).mean()
    return posterior, float(floor)


def growing_dictionary(source: MetaLM, noisy: np.ndarray, clean: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The posterior of an ideal learner of the dictionary: an upper bound for redrawn dictionaries.

    An element is known, without noise, once it has occurred; the others follow the prior over symbols and lengths. It
    is a bound, since a real learner sees the earlier elements with noise.

    Args:
        source: defines V, n, l and e; its dictionary must be redrawn, since the prior over lengths is that of l.
        noisy, clean: sequences from their start, `(B, T)`.
        ids: index of the element at each position.

    Returns:
        Posterior probability that symbols 1..T-1 are corrupted into a different one, `(B, T - 1)`.
    """
    lengths = _length_prior(source.l, noisy.shape[1])
    out = np.empty((len(noisy), noisy.shape[1] - 1))
    for b in range(len(noisy)):
        known: dict[int, np.ndarray] = {}
        ends = [*(np.flatnonzero(clean[b] == source.separator) + 1).tolist(), noisy.shape[1]]
        start = 0
        for end in ends:
            posterior = _in_element(source, noisy[b, start:end], list(known.values()), lengths)
            out[b, max(start - 1, 0) : end - 1] = posterior[1 if start == 0 else 0 :]
            if end > start:
                known.setdefault(int(ids[b, start]), clean[b, start:end])
            start = end
    return out


def _in_element(source: MetaLM, seen: np.ndarray, known: list[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """Posterior probability that each of an element's noisy symbols is wrong, given the previous ones."""
    e, symbols = source.e, source.V - 1
    odd = (1 - MASK_SHARE) * e / symbols
    shares = np.array([1.0] * len(known) + [source.n - len(known)])
    tail = lengths[::-1].cumsum()[::-1]
    out = np.empty(len(seen))
    for m, symbol in enumerate(seen):
        right, whole = np.zeros(len(shares)), np.zeros(len(shares))
        for k, element in enumerate(known):
            truth = element[m] if m < len(element) else -1
            if symbol == source.separator or truth in (source.separator, -1):
                right[k] = whole[k] = symbol == truth
            else:
                right[k] = _kept(source) if symbol == truth else 0.0
                whole[k] = MASK_SHARE * e if symbol == MASK else right[k] if symbol == truth else odd
        stops = lengths[m] / tail[m] if tail[m] > 0 else 1.0
        if symbol == source.separator:
            right[-1] = whole[-1] = stops
        else:
            right[-1] = 0.0 if symbol == MASK else (1 - stops) * _kept(source) / symbols
            whole[-1] = (1 - stops) * (MASK_SHARE * e if symbol == MASK else (1 - MASK_SHARE * e) / symbols)
        total = (shares * whole).sum()
        out[m] = 1 - (shares * right).sum() / total
        shares = shares * whole / total
    return out


def _kept(source: MetaLM) -> float:
    """Probability that a content symbol is observed unchanged."""
    return 1 - source.e + (1 - MASK_SHARE) * source.e / (source.V - 1)


def _length_prior(mean: float, most: int) -> np.ndarray:
    """Probabilities of element lengths 0..most; the last one covers all lengths from `most` on."""
    probs = np.array([math.exp(k * math.log(mean) - mean - math.lgamma(k + 1.0)) for k in range(most)])
    probs[MIN_ELEMENT] = probs[: MIN_ELEMENT + 1].sum()
    probs[:MIN_ELEMENT] = 0.0
    return np.append(probs, max(0.0, 1 - probs.sum()))
