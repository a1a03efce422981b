"""MetaLM-v0: predict the clean tokens of a hidden language of repeating noisy elements."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from metarlgym.datatypes import JSON, ConfigError, Optimum
from metarlgym.envs.prediction import PredictionGame, best_scores
from metarlgym.seeding import derive
from metarlgym.sequences.predictors import MetaLMFilter
from metarlgym.sequences.sources import MetaLM

LANGUAGES = 2000
"""Number of languages used to compute the optimum."""
BLOCK = 50
"""Number of languages processed at once."""


class MetaLMGame(PredictionGame):
    """Prediction on a MetaLM language (`metarlgym.sequences.sources.metalm`) that is the same in all episodes.

    Every stretch begins at the start of an element. The tokens shown are noisy, the tokens to predict are clean.

    Args:
        V: content symbols 1..V-1.
        n: elements of the language.
        l: mean length of an element before the minimum of 3 is applied.
        e: probability that a shown symbol is corrupted.
        chunk: see `PredictionGame`.
        questions: see `PredictionGame`.
    """

    subject = "a hidden language of a few words, repeated in random order with misprints"
    constant = "The words are the same in every episode."
    word = "metalm"

    def __init__(
        self,
        V: int = 12,
        n: int = 3,
        l: float = 6,  # noqa: E741 (the published name)
        e: float = 0.1,
        chunk: int = 16,
        questions: int = 8,
        **kwargs: Any,
    ) -> None:
        self.V, self.n, self.l, self.e = V, n, l, e
        MetaLM(V, n, l, e, 1, seed=0)  # rejects invalid settings
        if V < 3:
            raise ConfigError(f"V={V} has one content symbol, nothing to predict: use at least 3.")
        super().__init__(chunk, questions, **kwargs)
        self.legend = (
            "A word is made of numbers, | stands after each word, and _ is a number that cannot be read. You are asked "
            "for the token without misprint; what is shown may be misprinted. "
        )

    def words(self) -> Sequence[str]:
        return ["_", *map(str, range(1, self.V)), "", "|"]  # id V is never used

    def outcomes(self) -> Sequence[int]:
        return [*range(1, self.V), self.V + 1]

    def sample_task(self, rng: random.Random) -> JSON:
        return {"elements": MetaLM(self.V, self.n, self.l, self.e, 1, seed=rng.getrandbits(62)).language()}

    def draw(self, params: JSON, index: int) -> tuple[Sequence[int], Sequence[int]]:
        source = MetaLM(self.V, e=self.e, L=self.stretch, seed=0, elements=params["elements"])
        return source.tokens(index, 1)[0].tolist(), source.clean(index, 1)[0].tolist()

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Upper bound: a predictor that knows the language. No learner reaches it, as the language must be learned."""
        value, se = _known_language(
            self.V, self.n, self.l, self.e, self.chunk, self.questions, self.stride, *self._mode
        )
        counted = episodes - free_shots
        return Optimum(counted * value, (value,) * episodes, "upper_bound", counted * se)

    @property
    def _mode(self) -> tuple[str, str]:
        return self.ask, self.answer


@lru_cache(maxsize=16)
def _known_language(
    V: int, n: int, mean: float, e: float, chunk: int, questions: int, stride: int, ask: str, answer: str
) -> tuple[float, float]:
    """Expected return of an episode for a predictor that knows the language, and its standard error."""
    stretch = chunk + questions * stride if ask == "next" else chunk
    source = MetaLM(V, n, mean, e, stretch, seed=derive("MetaLM-v0", "optimum") % 2**62)
    outcomes = [*range(1, V), V + 1]
    scores = []
    for first in range(0, LANGUAGES, BLOCK):
        x = source.tokens(first, BLOCK)
        known = MetaLMFilter(source, source.dictionaries(first, BLOCK))
        if ask == "next":
            probs = known.predictions(x)[:, chunk + stride * np.arange(questions)]
        else:
            probs = known.fill(x, np.random.default_rng(first).integers(stretch, size=BLOCK))
        found = best_scores(probs[..., outcomes].reshape(-1, len(outcomes)), answer)
        scores.append(found.reshape(BLOCK, -1).mean(1))
    means = np.concatenate(scores)
    return float(means.mean()), float(means.std() / np.sqrt(LANGUAGES))
