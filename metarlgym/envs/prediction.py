"""Prediction games: the common base of the sequence-world environments.

A task is a source (a language, a grammar, a switching law). An episode shows the beginning of a new stretch of it and
asks for the next token, again and again; or it shows stretches with one hidden position and asks for the token there.
The correct tokens are shown after each answer, so that a policy can learn from the stream within an episode and over a
trial.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from metarlgym.datatypes import JSON, ConfigError, Step
from metarlgym.env import Env
from metarlgym.envs.wording import choices
from metarlgym.whole_numbers import check_whole

MIX = 0.01
"""Weight of the uniform distribution mixed into stated probabilities, so that every score is finite."""
SUM_TOLERANCE = 0.01
"""How far from 1 the sum of stated probabilities may be; they are then divided by their sum."""
SURE = (0.25, 0.4, 0.55, 0.7, 0.85, 0.95, 1.0)
"""Probabilities stated by random play. In terse style, a model trained from scratch knows no other statements."""
HIDDEN = "?"
REST = "*"
"""In stated probabilities: all tokens not listed."""
_SHOWN = re.compile(r"(?:Stream|Next|Hidden):((?: \S+)*)")


class PredictionGame(Env):
    """One episode of prediction. A subclass defines the words of the tokens and draws stretches.

    Every question has a score of at most 1/`questions`. With `token` answers, the correct token earns all of it. Stated
    probabilities earn `1 + log((1 - e) p + e / V) / log(V / e)` of it, where p is the probability given to the correct
    token, V the number of possible tokens and e = 0.01: a proper score between 0 and 1. An answer that cannot be
    parsed, is negative or does not sum to 1 earns 0.

    Args:
        chunk: tokens shown before the first question (`ask="next"`), or of each stretch (`ask="fill"`).
        questions: questions per episode.
        stride: tokens shown after each answer, starting with the one that was asked for; `ask="next"` only.
        ask: `next`: the next token; `fill`: the token at a hidden position, given the tokens before and after it.
        answer: `token`, or `probabilities` such as `[3: 0.7, 5: 0.2, *: 0.1]`, * sharing its part among all others.
    """

    action_words = 1
    visible_task = True
    subject: str = "a source of tokens"
    """The source of the stream, as named in the rules of the game."""
    constant: str = "It is the same in every episode."
    """A sentence of the rules: what an episode shares with the next."""
    legend: str = ""
    """Meaning of the tokens that are not numbers, for the rules of the game."""
    word: str = "stream"
    """The rules in terse style."""

    def __init__(
        self,
        chunk: int,
        questions: int,
        stride: int = 1,
        ask: Literal["next", "fill"] = "next",
        answer: Literal["token", "probabilities"] = "token",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_counts(chunk=chunk, questions=questions, stride=stride)
        if ask not in ("next", "fill"):
            raise ConfigError(f"ask={ask!r} is not known: use 'next' or 'fill'.")
        if answer not in ("token", "probabilities"):
            raise ConfigError(f"answer={answer!r} is not known: use 'token' or 'probabilities'.")
        if ask == "fill" and stride != 1:
            raise ConfigError(f"stride={stride} goes with ask='next' only: leave it out.")
        self.chunk, self.questions, self.stride = chunk, questions, stride
        self.ask, self.answer = ask, answer
        self.max_turns = questions
        self.stretch = chunk + questions * stride if ask == "next" else chunk
        """Tokens of one stretch."""
        words = self.words()
        self._words = words
        self._outcomes = self.outcomes()
        self._index = {words[symbol]: i for i, symbol in enumerate(self._outcomes)}
        asked = "comes next" if ask == "next" else "is hidden"
        self._question = f"Which token {asked}"
        self._question += f", {self._replies()}?" if answer == "token" else "? Probabilities in brackets:"

    # ------------------------------------------------------------------ what a subclass writes

    def words(self) -> Sequence[str]:
        """The word for each symbol, by its number."""
        raise NotImplementedError

    def outcomes(self) -> Sequence[int]:
        """The symbols that can be the correct answer."""
        raise NotImplementedError

    def draw(self, params: JSON, index: int) -> tuple[Sequence[int], Sequence[int]]:
        """Stretch number `index` of a task: the symbols shown, and the symbols to predict."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the game

    def rules(self) -> str:
        if self.style == "terse":
            return self.word
        times = "once" if self.questions == 1 else f"{self.questions} times"
        if self.ask == "next":
            told = "the next token is" if self.stride == 1 else f"the next {self.stride} tokens are"
            asked = (
                f"see the beginning of a new stream. {times.capitalize()}, you say which token comes next. After each "
                f"answer {told}"
            )
        else:
            asked = f"see a new stretch in which {HIDDEN} hides one token, and say which. After each answer it is"
            if self.questions > 1:
                asked = (
                    f"see {self.questions} new stretches, one after another. In each, {HIDDEN} hides one token, "
                    "and you say which. After each answer it is"
                )
        if self.answer == "token":
            points = "Each right token pays the same; an episode pays at most 1 point."
            how = f"Reply with one token in brackets, {self._replies(quoted=True)}."
        else:
            points = "The more probable you called the right token, the more points; an episode pays at most 1 point."
            how = (
                f"The tokens are {', '.join(self._words[s] for s in self._outcomes)}. Reply with probabilities in "
                f'brackets that sum to 1, for example "{self._example()}"; {REST} stands for all tokens not named.'
            )
        return (
            f"A stream of tokens comes from {self.subject}. {self.constant} In each episode you {asked} shown. "
            f"{self.legend}{points} {how}"
        )

    def _replies(self, quoted: bool = False) -> str:
        """The possible tokens in brackets: the numbers from 1, then the others."""
        words = [self._words[s] for s in self._outcomes]
        numbers = next((n for n, word in enumerate(words) if word != str(n + 1)), len(words))
        return choices(numbers, *words[numbers:], quoted=quoted)

    def _example(self) -> str:
        """Probabilities that call all tokens equally probable: an example that favors none."""
        words = [self._words[s] for s in self._outcomes]
        stated = [f"{word}: {1 / len(words):.3g}" for word in words[:2]]
        return f"[{', '.join(stated)}, {REST}: {1 - 2 / len(words):.3g}]"

    def on_reset(self, params: JSON, rng: random.Random) -> str:
        self._params, self._rng = params, rng
        self._asked, self._right = 0, 0
        self._new_stretch()
        if self.ask == "fill":
            return self._fill_question()
        self._at = self.chunk
        shown = self._text(self._seen[: self.chunk])
        return shown if self.style == "terse" else f"Stream: {shown}\n{self._question}"

    def on_step(self, action: str) -> Step:
        given = self._read(action)
        target = self._index[self._words[self._clean[self._at]]]
        score, best = 0.0, False
        if isinstance(given, int):
            best = given == target
            score = float(best)
        elif given is not None:
            score = log_score(given[target], len(given))
            best = given[target] == max(given) and given.count(given[target]) == 1  # a tie is not a success
        self._right += best
        self._asked += 1
        over = self._asked == self.questions
        text = self._answer(over)
        if given is None and self.style == "chat":
            form = "one token in brackets" if self.answer == "token" else f'"{self._example()}"'
            text = f"That is no answer. Reply with {form}.\n{text}"
        won = over and self._right == self.questions
        return Step(text, score / self.questions, over, False, {"valid": given is not None, "success": won})

    def _answer(self, over: bool) -> str:
        """Show the token that was asked for, and ask again."""
        terse = self.style == "terse"
        if self.ask == "fill":
            shown = self._words[self._seen[self._at]]
            told = shown if terse else f"Hidden: {shown}"
            if over:
                return told
            self._new_stretch()
            return f"{told}{' ' if terse else chr(10)}{self._fill_question()}"
        shown = self._text(self._seen[self._at : self._at + self.stride])
        self._at += self.stride
        if terse:
            return shown
        return f"Next: {shown}" if over else f"Next: {shown}\n{self._question}"

    def _new_stretch(self) -> None:
        self._seen, self._clean = self.draw(self._params, self._rng.getrandbits(62))

    def _fill_question(self) -> str:
        self._at = self._rng.randrange(self.stretch)
        words = [HIDDEN if i == self._at else self._words[s] for i, s in enumerate(self._seen)]
        shown = " ".join(words)
        return shown if self.style == "terse" else f"Stream: {shown}\n{self._question}"

    def _text(self, symbols: Sequence[int]) -> str:
        return " ".join(self._words[s] for s in symbols)

    # ------------------------------------------------------------------ answers

    def random_action(self, rng: random.Random) -> str:
        """A uniformly random token; as probabilities, with one of the `SURE` numbers."""
        word = self._words[self._outcomes[rng.randrange(len(self._outcomes))]]
        return self.write(word if self.answer == "token" else self._statement(word, SURE[rng.randrange(len(SURE))]))

    def legal_actions(self) -> Sequence[str] | None:
        """The tokens; None if the answers are probabilities."""
        return [self.write(self._words[s]) for s in self._outcomes] if self.answer == "token" else None

    def _statement(self, word: str, prob: float) -> str:
        """One token with its probability, the others sharing the rest; a single word in terse style."""
        parts = {word: f"{prob:g}"} if prob == 1 else {word: f"{prob:g}", REST: f"{1 - prob:.2g}"}
        return self._stated(parts)

    def _stated(self, parts: dict[str, str]) -> str:
        """Probabilities as written between the brackets."""
        colon, comma = (":", ",") if self.style == "terse" else (": ", ", ")
        return comma.join(f"{word}{colon}{prob}" for word, prob in parts.items())

    def write(self, answer: str) -> str:
        """An answer as the policy writes it."""
        return answer if self.style == "terse" else f"[{answer}]"

    def write_best(self, probs: np.ndarray) -> str:
        """The best answer given these probabilities of the outcomes, `(len(outcomes),)`.

        As probabilities in terse style, the best of the few that a model trained from scratch knows: those of
        `random_action`.
        """
        best = int(probs.argmax())
        if self.answer == "token":
            return self.write(self._words[self._outcomes[best]])
        if self.style == "terse":

            def value(p: float) -> float:
                size = len(probs)
                rest = log_score((1 - p) / (size - 1), size)
                return float(probs[best] * log_score(p, size) + (1 - probs[best]) * rest)

            return self.write(self._statement(self._words[self._outcomes[best]], max(SURE, key=value)))
        stated = best_statement(probs[None])[0]
        parts = {self._words[s]: f"{p:.6f}" for s, p in zip(self._outcomes, stated, strict=True) if p > 0}
        return self.write(self._stated(parts))

    def _read(self, action: str) -> int | list[float] | None:
        """The outcome answered, or the probabilities of all outcomes; None if it is neither."""
        if self.answer == "token":
            found = None if self.strict else self._index.get(action)
            return self._index.get(self.parse(action, self._index)) if found is None else found
        stated: dict[str, float] = {}
        for part in self.parse(action).split(","):
            word, colon, number = part.rpartition(":")
            word = word.strip()
            number = number.strip()
            percent = number.endswith("%") and self.style == "chat" and not self.strict
            try:
                value = float(number[:-1]) / 100 if percent else float(number)
            except ValueError:
                return None
            if not colon or word in stated or not (word in self._index or word == REST) or not 0 <= value <= 1.01:
                return None
            stated[word] = value
        total = sum(stated.values())
        if not abs(total - 1) <= SUM_TOLERANCE:
            return None
        named = len(stated) - (REST in stated)
        if REST in stated and named == len(self._outcomes) and stated[REST] > 0:
            return None  # no token is left for *
        rest = stated.get(REST, 0.0) / max(1, len(self._outcomes) - named)
        return [stated.get(word, rest) / total for word in self._index]


def check_counts(**counts: Any) -> None:
    """Check that named values are integers of at least 1.

    Raises:
        ConfigError: naming the value.
    """
    for name, value in counts.items():
        check_whole(name, value, 1)


def log_score(p: float, outcomes: int) -> float:
    """The score of a stated probability: 1 + log((1 - e) p + e / V) / log(V / e), in [0, 1]."""
    score = 1 + math.log((1 - MIX) * p + MIX / outcomes) / math.log(outcomes / MIX)
    return min(1.0, max(0.0, score))


def best_statement(probs: np.ndarray) -> np.ndarray:
    """The stated probabilities with the highest expected score under the beliefs `probs`, `(N, V)`.

    Not `probs` themselves: the score already mixes in e / V, so less probable outcomes are stated as 0. The mixture m
    = (1 - e) p + e / V that maximizes sum q log m over m >= e / V, sum m = 1, is m = max(c q, e / V) (water-filling; c
    is found by removing the least probable outcomes one at a time).
    """
    size = probs.shape[1]
    floor = MIX / size
    order = np.sort(probs, 1)[:, ::-1]
    kept = np.cumsum(order, 1)
    count = np.arange(1, size + 1)
    scale = (1 - (size - count) * floor) / np.maximum(kept, 1e-300)
    fits = scale * order >= floor
    last = size - 1 - fits[:, ::-1].argmax(1)
    mixed = np.maximum(scale[np.arange(len(scale)), last][:, None] * probs, floor)
    stated = np.maximum((mixed / mixed.sum(1, keepdims=True) - floor) / (1 - MIX), 0)
    return stated / stated.sum(1, keepdims=True)


def best_scores(probs: np.ndarray, answer: str) -> np.ndarray:
    """Expected score `(N,)` of the best answers if the beliefs `probs`, `(N, V)`, are correct."""
    if answer == "token":
        return probs.max(1)
    size = probs.shape[1]
    mixed = (1 - MIX) * best_statement(probs) + MIX / size
    return 1 + (probs * np.log(mixed)).sum(1) / math.log(size / MIX)


def shown_words(text: str, style: str) -> list[str]:
    """The tokens shown in a text of the game, including hidden ones."""
    if style == "terse":
        return text.split()
    return [word for part in _SHOWN.findall(text) for word in part.split()]
