"""Piecewise-v0: predict the symbols of a source whose switching law is hidden."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from metarlgym.datatypes import JSON, ConfigError, Episode, Optimum
from metarlgym.envs.prediction import HIDDEN, PredictionGame, best_scores, shown_words
from metarlgym.seeding import derive
from metarlgym.sequences.predictors import Predictor, exact_predictor
from metarlgym.sequences.sources import Piecewise
from metarlgym.sequences.sources.piecewise import LAWS as LAW_NAMES

TRIALS = {"next": 8000, "fill": 1000}
"""Number of trials used to compute the optimum; `fill` takes far longer."""
BLOCK = 250
"""Number of trials processed at once."""
LAWS = ("regular:2", "regular:3", "regular:4", "regular:5")


class PiecewiseGame(PredictionGame):
    """Prediction on a piecewise-stationary source (see its module) whose switching law is hidden.

    The set of possible laws is given; the actual one, and the distribution of every segment, is not. The Bayes mixture
    over the laws' exact predictors is the best learner, so the optimum is exact up to the simulation that averages it.

    With `token` answers, knowing the law helps little, because the next token after a switch is unpredictable even if
    the switch is expected: with the settings below, the score is 0.618 in the first episode and 0.621 once the law is
    known. Stated probabilities, the default here, show more of it: 0.836 and 0.851.

    Args:
        laws: each `static`, `lin`, `ptw`, `regular:PERIOD` or `random:LOW-HIGH`; equally likely.
        alphabet: number of symbols.
        concentration: of the segments' Dirichlet; small numbers give segments of nearly one symbol.
        chunk: see `PredictionGame`.
        questions: see `PredictionGame`.
        answer: see `PredictionGame`.
    """

    word = "piecewise"
    uniform_tasks = True

    def __init__(
        self,
        laws: Sequence[str] = LAWS,
        alphabet: int = 4,
        concentration: float = 0.1,
        chunk: int = 1,
        questions: int = 12,
        answer: Literal["token", "probabilities"] = "probabilities",
        **kwargs: Any,
    ) -> None:
        if isinstance(laws, str) or not laws or not all(isinstance(law, str) for law in laws):
            raise ConfigError(f"laws={laws!r} must be a list of laws, such as ['static', 'regular:5'].")
        if not isinstance(concentration, int | float) or isinstance(concentration, bool):
            raise ConfigError(f"concentration={concentration!r} must be one number.")
        if len(set(laws)) < len(laws):
            raise ConfigError(f"laws={list(laws)!r} holds a law twice: all are equally likely; leave one out.")
        self.laws = tuple(laws)
        self.alphabet, self.concentration = alphabet, concentration
        for law in self.laws:
            _source(law, 1, alphabet, concentration)  # rejects invalid settings
        super().__init__(chunk, questions, answer=answer, **kwargs)
        self._every = tuple(_predictor(law, self.stretch, alphabet, concentration) for law in self.laws)
        described = "; ".join(_describe(law) for law in self.laws)
        self.subject = "a source whose hidden probabilities are drawn anew for each segment of the stream"
        self.constant = (
            "A hidden law, the same in every episode, says when a segment ends. It is "
            f"{'this' if len(self.laws) == 1 else 'one of these'}: {described}."
        )

    def words(self) -> Sequence[str]:
        return [str(symbol) for symbol in range(1, self.alphabet + 1)]

    def outcomes(self) -> Sequence[int]:
        return range(self.alphabet)

    def sample_task(self, rng: random.Random) -> JSON:
        return {"law": self.laws[rng.randrange(len(self.laws))]}

    def all_tasks(self) -> Iterable[JSON]:
        return [{"law": law} for law in self.laws]

    def draw(self, params: JSON, index: int) -> tuple[Sequence[int], Sequence[int]]:
        source = _source(params["law"], self.stretch, self.alphabet, self.concentration)
        tokens = source.tokens(index, 1)[0].tolist()
        return tokens, tokens

    def oracle(self, history: Sequence[Episode]) -> str:
        """The best answer of the Bayes mixture over the laws, given everything shown in the trial."""
        numbers = {word: symbol for symbol, word in enumerate(self.words())}
        logs = np.zeros(len(self.laws))
        stretch: list[int] = []
        hidden = -1
        for episode in history:
            stretch, hidden = [], -1
            for text in (episode.opening, *(turn.observation for turn in episode.turns)):
                for word in shown_words(text, self.style):
                    if word == HIDDEN:
                        hidden = len(stretch)
                        stretch.append(0)
                    elif word not in numbers:
                        continue  # the mark between episodes
                    elif hidden >= 0 and len(stretch) == self.stretch:
                        stretch[hidden], hidden = numbers[word], -1
                    else:
                        stretch.append(numbers[word])
                    if len(stretch) == self.stretch and hidden < 0:
                        logs -= self._losses(stretch)
                        stretch = []
            if stretch and hidden < 0 and episode is not history[-1]:
                logs -= self._losses(stretch)  # an episode that was cut short
        if self.ask == "next":
            hidden, stretch = len(stretch), [*stretch, 0]
        probs = _mixture(self._every, np.array([stretch]), np.array([hidden]), logs[None])
        return self.write_best(probs[0])

    def _losses(self, stretch: Sequence[int]) -> np.ndarray:
        return _stretch_losses(self.laws, self.alphabet, self.concentration, self.stretch, tuple(stretch))

    def optimal_returns(self, episodes: int, free_shots: int = 0) -> Optimum:
        """The Bayes mixture over the laws, simulated. What is shown does not depend on the answers, so the best learner
        answers as if each question were the last.
        """
        asked = self.chunk, self.questions, self.stride, self.ask, self.answer
        scores = _bayes(self.laws, self.alphabet, float(self.concentration), *asked, episodes)
        totals = scores[:, free_shots:].sum(1)
        curve = tuple(scores.mean(0).tolist())
        return Optimum(float(totals.mean()), curve, "simulated", float(totals.std() / np.sqrt(len(totals))))

    def no_memory_bound(self, episodes: int) -> float:
        """The Bayes mixture, restarted in each episode."""
        first = self.optimal_returns(1).total
        assert first is not None
        return episodes * first


def _source(law: str, T: int, alphabet: int, concentration: float) -> Piecewise:
    name, _, numbers = law.partition(":")
    settings: dict[str, int] = {}
    try:
        if name == "regular":
            settings["period"] = int(numbers)
        elif name == "random":
            settings["low"], settings["high"] = map(int, numbers.split("-"))
        elif numbers or name not in LAW_NAMES:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"laws: {law!r} is not known: use static, lin, ptw, regular:PERIOD or random:LOW-HIGH."
        ) from None
    return Piecewise(name, T, alphabet, concentration, seed=0, **settings)  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _predictor(law: str, T: int, alphabet: int, concentration: float) -> Predictor:
    return exact_predictor(_source(law, T, alphabet, concentration))


@lru_cache(maxsize=4096)
def _stretch_losses(
    laws: tuple[str, ...], alphabet: int, concentration: float, T: int, stretch: tuple[int, ...]
) -> np.ndarray:
    """Loss of a stretch under each law's predictor; cached because the oracle needs it at every turn."""
    return np.array([_predictor(law, T, alphabet, concentration).log_loss([stretch]).sum() for law in laws])


def _describe(law: str) -> str:
    name, _, numbers = law.partition(":")
    low, _, high = numbers.partition("-")
    return {
        "static": "never",
        "regular": f"every {numbers} tokens",
        "random": f"after a random number of tokens from {low} to {high}",
        "lin": "after its m-th token with probability 1/(2m)",
        "ptw": "by halving: the stream is cut in two with probability 1/2, each half again, and so on",
    }[name]


def _mixture(
    predictors: Sequence[Predictor], sequences: np.ndarray, places: np.ndarray, logs: np.ndarray
) -> np.ndarray:
    """Distribution of the symbol at one position of each sequence, under a mixture of predictors.

    Args:
        predictors: J of them.
        sequences: `(N, T)`; the symbols at the given positions are ignored.
        places: `(N,)`, the positions.
        logs: `(N, J)` log weights before the sequence.

    Returns:
        `(N, A)`.
    """
    size = predictors[0].alphabet
    rows = np.arange(len(sequences))
    found = np.empty((len(sequences), len(predictors), size))
    for j, predictor in enumerate(predictors):
        for a in range(size):
            candidate = sequences.copy()
            candidate[rows, places] = a
            found[:, j, a] = logs[:, j] - predictor.log_loss(candidate).sum(1)
    with np.errstate(divide="ignore"):
        found = np.exp(found - found.max((1, 2), keepdims=True)).sum(1)
    return found / found.sum(1, keepdims=True)


@lru_cache(maxsize=32)
def _bayes(
    laws: tuple[str, ...],
    alphabet: int,
    concentration: float,
    chunk: int,
    questions: int,
    stride: int,
    ask: str,
    answer: str,
    episodes: int,
) -> np.ndarray:
    """Expected return of each episode of simulated trials for the best learner, `(trials, episodes)`."""
    game = laws, alphabet, concentration, chunk, questions, stride, ask, answer, episodes
    return np.concatenate([_bayes_block(*game, first) for first in range(0, TRIALS[ask], BLOCK)])


def _bayes_block(
    laws: tuple[str, ...],
    alphabet: int,
    concentration: float,
    chunk: int,
    questions: int,
    stride: int,
    ask: str,
    answer: str,
    episodes: int,
    first: int,
) -> np.ndarray:
    """`_bayes` for trials `first` to `first + BLOCK - 1`."""
    T = chunk + questions * stride if ask == "next" else chunk
    predictors = [_predictor(law, T, alphabet, concentration) for law in laws]
    hidden = np.array([derive("Piecewise-v0", "optimum", first + i) % len(laws) for i in range(BLOCK)])
    logs = np.zeros((BLOCK, len(laws)))
    scores = np.zeros((BLOCK, episodes))
    rng = np.random.default_rng(first)
    stretches = 1 if ask == "next" else questions
    for round_ in range(episodes * stretches):
        tokens = np.empty((BLOCK, T), np.int64)
        for j, law in enumerate(laws):
            mine = hidden == j
            start = 10**9 * (1 + round_) + first
            tokens[mine] = _source(law, T, alphabet, concentration).tokens(start, int(mine.sum()))
        if ask == "fill":
            probs = _mixture(predictors, tokens, rng.integers(T, size=BLOCK), logs)
            scores[:, round_ // stretches] += best_scores(probs, answer) / questions
        predicted = np.stack([p.predictions(tokens) for p in predictors], 1)  # (N, J, T, A)
        with np.errstate(divide="ignore"):
            gains = np.log(np.take_along_axis(predicted, tokens[:, None, :, None], 3)[..., 0])
        if ask == "next":
            for k in range(questions):
                place = chunk + k * stride
                weights = logs + gains[:, :, :place].sum(2)
                weights = np.exp(weights - weights.max(1, keepdims=True))
                weights /= weights.sum(1, keepdims=True)
                probs = np.einsum("nj,nja->na", weights, predicted[:, :, place])
                scores[:, round_] += best_scores(probs, answer) / questions
        logs += gains.sum(2)
    return scores
