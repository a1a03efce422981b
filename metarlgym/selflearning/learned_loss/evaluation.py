"""Evaluation of a learner and its learned loss: clean held-out loss, and how well weights identify wrong targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarlgym.selflearning.learned_loss.data import elements_of, read_chunk
from metarlgym.selflearning.learned_loss.learner import LearnedLoss, Learner
from metarlgym.selflearning.learned_loss.noise_posterior import auc, growing_dictionary, known_dictionary
from metarlgym.sequences.sources import MetaLM

BINS = 25
FIRST_HELD_OUT = 10_000
"""Held-out sequences with lower indices are used for checks during training and for choosing a learning rate."""


class Judge:
    """Evaluates learners on the held-out part of a stream.

    Args:
        source: the stream.
        count: number of held-out chunks.
        trained: number of sequences of the stream that a learner trains on.

    An element counts as seen if it occurred earlier in the learner's data: in the training stream if the language is
    fixed, or earlier in the same sequence if each sequence has its own language.
    """

    def __init__(self, source: MetaLM, count: int, trained: int) -> None:
        self.chunk = read_chunk(source, FIRST_HELD_OUT, count, "eval")
        noisy, clean = source.tokens(FIRST_HELD_OUT, count, "eval"), source.clean(FIRST_HELD_OUT, count, "eval")
        books = source.dictionaries(FIRST_HELD_OUT, count, "eval")
        ids, seen = elements_of(source, clean, books)
        if source.fixed is not None:
            met, _ = elements_of(source, source.clean(0, trained), source.dictionaries(0, trained))
            seen = np.isin(ids, np.unique(met))
        self.seen = seen[:, 1:]
        self.wrong = self.chunk.corrupted.numpy()
        posterior, self.floor = known_dictionary(source, noisy, clean, books)
        self.ceilings = {"ceiling": auc(posterior, self.wrong), "ceiling_seen": self._among_seen(posterior)}
        if source.fixed is None:
            learned = growing_dictionary(source, noisy, clean, ids)
            self.ceilings |= {
                "ceiling_learning": auc(learned, self.wrong),
                "ceiling_learning_seen": self._among_seen(learned),
            }

    def _among_seen(self, scores: np.ndarray) -> float | None:
        return auc(scores[self.seen], self.wrong[self.seen])

    def learner(self, learner: Learner, loss: LearnedLoss | None = None) -> dict[str, Any]:
        """Figures of a learner, and of its loss if that was learned.

        `auc_of_loss` is the AUC of the learner's plain loss on a target as a score for the target being wrong.
        """
        bare = learner.token_losses(self.chunk)
        found: dict[str, Any] = {
            "val_loss": learner.true_loss(self.chunk),
            "floor": self.floor,
            "auc_of_loss": self._among_seen(bare),
            "auc_of_loss_all": auc(bare, self.wrong),
            "seen_share": float(self.seen.mean()),
            "wrong_share": float(self.wrong.mean()),
            **self.ceilings,
        }
        if loss is not None:
            weights = learner.token_weights(self.chunk, loss)
            edges = np.linspace(0, 1, BINS + 1)
            found |= {
                "auc": self._among_seen(1 - weights),
                "auc_all": auc(1 - weights, self.wrong),
                "weight_clean": float(weights[~self.wrong].mean()),
                "weight_wrong": float(weights[self.wrong].mean()),
                "histogram": {
                    "clean": np.histogram(weights[~self.wrong], edges)[0].tolist(),
                    "wrong": np.histogram(weights[self.wrong], edges)[0].tolist(),
                },
            }
        return found
