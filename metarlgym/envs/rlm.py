"""RLM-v0: predict the tokens of sentences from a Random Language Model whose grammar is hidden."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from metarlgym.datatypes import JSON, ConfigError, Optimum
from metarlgym.envs.prediction import PredictionGame, best_scores, check_counts
from metarlgym.seeding import derive
from metarlgym.sequences.predictors import RLMPredictor, fill
from metarlgym.sequences.sources import RLM

KEPT_BYTES = 2**29
"""Memory limit for the grammars of tasks in play."""
GRAMMARS, SENTENCES = 200, 50
"""Number of grammars used to compute the optimum, and of sentences per grammar."""


class RLMGame(PredictionGame):
    """Prediction on sentences of a Random Language Model (see its module) with one grammar in all episodes.

    Args:
        v: vocabulary size.
        L: depth of the trees; a sentence has 2^L tokens.
        beta: inverse temperature of the rules; higher is more regular.
        chunk: tokens shown before the first question; with `ask="next"`, `chunk + questions * stride` must be 2^L.
            Default: half the sentence.
        questions: default: the rest of the sentence; 1 with `ask="fill"`.
    """

    subject = "sentences of equal length that a hidden grammar makes"
    constant = "The grammar is the same in every episode."
    word = "rlm"

    def __init__(
        self,
        v: int = 8,
        L: int = 3,
        beta: float = 2.5,
        chunk: int | None = None,
        questions: int | None = None,
        **kwargs: Any,
    ) -> None:
        RLM(v, L, beta)  # rejects invalid settings
        self.v, self.L, self.beta = v, L, beta
        given = {"chunk": chunk, "questions": questions, "stride": kwargs.get("stride")}
        check_counts(**{name: value for name, value in given.items() if value is not None})
        asks_next = kwargs.get("ask", "next") == "next"
        if chunk is None:
            chunk = 2**L // 2 if asks_next else 2**L
        if questions is None:
            questions = max(1, (2**L - chunk) // kwargs.get("stride", 1)) if asks_next else 1
        super().__init__(chunk, questions, **kwargs)
        if self.stretch != 2**L:
            parts = f"chunk={chunk} + questions={questions} * stride={self.stride}" if asks_next else f"chunk={chunk}"
            raise ConfigError(f"{parts} = {self.stretch} must be the length of a sentence, 2^L = {2**L}.")

    def words(self) -> Sequence[str]:
        return [str(symbol) for symbol in range(1, self.v + 1)]

    def outcomes(self) -> Sequence[int]:
        return range(self.v)

    def sample_task(self, rng: random.Random) -> JSON:
        return {"grammar": rng.getrandbits(48)}

    def draw(self, params: JSON, index: int) -> tuple[Sequence[int], Sequence[int]]:
        tokens = _source(self.v, self.L, self.beta, params["grammar"]).tokens(index, 1)[0].tolist()
        return tokens, tokens

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """Upper bound: a predictor that knows the grammar. No learner reaches it, as the grammar must be learned."""
        places = tuple(range(self.chunk, self.stretch, self.stride)) if self.ask == "next" else ()
        value, se = _known_grammar(self.v, self.L, self.beta, places, self.answer)
        counted = episodes - free_shots
        return Optimum(counted * value, (value,) * episodes, "upper_bound", counted * se)


def _source(v: int, L: int, beta: float, grammar: int) -> RLM:
    """A task's source. All trials of a group play the same grammar, so the most recent ones are cached."""
    return _kept_sources(v)(L, beta, grammar)


@lru_cache(maxsize=8)
def _kept_sources(v: int) -> Callable[[int, float, int], RLM]:
    @lru_cache(maxsize=max(2, KEPT_BYTES // (16 * v**3)))
    def make(L: int, beta: float, grammar: int) -> RLM:
        return RLM(v, L, beta, seed_rules=grammar, seed_samples=0)

    return make


@lru_cache(maxsize=16)
def _known_grammar(v: int, L: int, beta: float, places: tuple[int, ...], answer: str) -> tuple[float, float]:
    """Expected return of an episode for a predictor that knows the grammar, and its standard error over grammars.

    Args:
        places: the positions asked for in turn; empty for one hidden position, drawn uniformly.
    """
    means = []
    rng = np.random.default_rng(0)
    for g in range(GRAMMARS):
        source = RLM(v, L, beta, seed_rules=derive("RLM-v0", "optimum", g) % 2**48, seed_samples=1)
        known, tokens = RLMPredictor(source), source.tokens(0, SENTENCES)
        if places:
            probs = known.predictions(tokens)[:, list(places)].reshape(-1, v)
        else:
            at = rng.integers(2**L, size=SENTENCES)
            probs = np.stack([fill(known, row, int(place)) for row, place in zip(tokens, at, strict=True)])
        means.append(best_scores(probs, answer).mean())
    return float(np.mean(means)), float(np.std(means) / np.sqrt(GRAMMARS))
