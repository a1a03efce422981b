"""Expected loss and regret of a network by position, compared with the truth and with exact predictors.

All values are expectations over the next symbol given the symbols so far, not sampled losses; the expectation is taken
under the source's own distribution (`truth`). The only noise comes from the choice of sequences. Network and predictors
see the same sequences, so the difference between them is far more precise than either value.

| source | truth | floor |
|---|---|---|
| Piecewise | the segment's distribution | the exact predictor of the law, which has to infer the segments |
| RLM | the exact prediction given the grammar | the same |
| MetaLM | the exact prediction of the clean symbol given the dictionary | the same |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from metarlgym.sequences.predictors import Predictor, exact_predictor, references
from metarlgym.sequences.sources import Source

CELLS = 2**24
"""Maximum number of values held for one block of sequences and one predictor."""


@dataclass
class Line:
    """Results of one predictor on the evaluation sequences, by position, starting at the first predicted one."""

    loss: np.ndarray
    """`(N, P)` expected loss in nats."""
    regret: np.ndarray
    """`(N, P)` expected loss above that of the truth, in nats: KL(truth || predicted)."""
    accuracy: np.ndarray
    """`(N, P)` true probability of the symbol predicted as the most probable one."""
    entropy: np.ndarray
    """`(N, P)` entropy of the prediction in nats."""

    @staticmethod
    def of(truth: np.ndarray, predicted: np.ndarray) -> Line:
        """Compute a line from distributions `(N, P, A)`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(predicted)
            loss = -np.where(truth > 0, truth * logs, 0.0).sum(-1)
            own = -np.where(truth > 0, truth * np.log(truth), 0.0).sum(-1)
            entropy = -np.where(predicted > 0, predicted * logs, 0.0).sum(-1)
        best = predicted.argmax(-1)[..., None]
        return Line(loss, loss - own, np.take_along_axis(truth, best, -1)[..., 0], entropy)

    @staticmethod
    def join(lines: list[Line]) -> Line:
        return Line(
            *(
                np.concatenate([getattr(line, name) for line in lines])
                for name in ("loss", "regret", "accuracy", "entropy")
            )
        )


@dataclass
class Block:
    """A block of evaluation sequences with their ground truth."""

    inputs: np.ndarray
    """`(n, P)` inputs of the network; its output at position t predicts `truth[:, t]`."""
    truth: np.ndarray
    """`(n, P, A)` true distributions."""
    others: dict[str, np.ndarray]
    """Exact predictors' distributions, `(n, P, A)`; `floor` is one of them."""


@dataclass
class HeldOutLoss:
    """Evaluation on a fixed set of held-out sequences, of models and of the exact predictors.

    Args:
        source: generates the sequences, from its eval split.
        sequences: number of sequences N.
        start: index of the first sequence.
        last_only: evaluate only the last symbol of each sequence (RLM).
    """

    source: Source
    sequences: int
    start: int = 0
    last_only: bool = False

    def __post_init__(self) -> None:
        exact_predictor(self.source)  # fail early if there is none

    def blocks(self) -> Iterator[Block]:
        """Iterate over the sequences in blocks that fit into memory."""
        size = max(1, CELLS // (self.source.length * self.source.vocab_size))
        for first in range(0, self.sequences, size):
            yield self._block(self.start + first, min(size, self.sequences - first))

    def _block(self, start: int, count: int) -> Block:
        source = self.source
        columns = source.columns(start, count, "eval", optional=True)
        tokens, drawn_from = columns["tokens"], columns.get("theta")
        if source.labelled:
            known: Any = exact_predictor(source, start, count, "eval")  # predicts the target after each token
            truth = known.predictions(tokens, after=True)
            return Block(tokens, truth, {"floor": truth})
        others = {name: p.predictions(tokens)[:, 1:] for name, p in self._predictors.items()}
        return Block(tokens[:, :-1], others["floor"] if drawn_from is None else drawn_from[:, 1:], others)

    @cached_property
    def _predictors(self) -> dict[str, Predictor]:
        others = {name: predictor for name, predictor in references(self.source).items() if not predictor.slow}
        return {"floor": exact_predictor(self.source), **others}

    @cached_property
    def exact(self) -> dict[str, Line]:
        """Lines of the exact predictors, computed once."""
        found: dict[str, list[Line]] = {}
        for block in self.blocks():
            for name, predicted in block.others.items():
                found.setdefault(name, []).append(self._line(block.truth, predicted))
        return {name: Line.join(lines) for name, lines in found.items()}

    def model(self, model: Any, batch_size: int = 64, prefix: Sequence[int] = ()) -> Line:
        """Line of a causal model. Its token ids are the symbols; tokens outside the alphabet are masked.

        Args:
            model: a transformers model, whose logits at position t predict the next symbol.
            batch_size: sequences per forward pass.
            prefix: token ids prepended to each sequence.
        """
        size = self.source.vocab_size
        lines = []
        was_training = model.training
        model.eval()
        with torch.no_grad():  # not inference_mode: ZeRO-3 reuses the gathered parameters in the next backward pass
            for block in self.blocks():
                probs = []
                for first in range(0, len(block.inputs), batch_size):
                    ids = torch.from_numpy(block.inputs[first : first + batch_size]).to(model.device)
                    if prefix:
                        before = torch.tensor(prefix, device=ids.device).expand(len(ids), -1)
                        ids = torch.cat([before, ids], 1)
                    logits = model(input_ids=ids).logits[:, len(prefix) :, :size].double()
                    if self.last_only:
                        logits = logits[:, -1:]
                    probs.append(logits.softmax(-1).cpu().numpy())
                truth = block.truth[:, -1:] if self.last_only else block.truth
                lines.append(Line.of(truth, np.concatenate(probs)))
        model.train(was_training)
        return Line.join(lines)

    def _line(self, truth: np.ndarray, predicted: np.ndarray) -> Line:
        return Line.of(truth[:, -1:], predicted[:, -1:]) if self.last_only else Line.of(truth, predicted)


def summarize(line: Line, exact: dict[str, Line]) -> dict[str, Any]:
    """The figures of `summary.json`.

    Returns:
        `final_loss` and `floor` (mean nats per symbol), `gap = final_loss / floor - 1`, `accuracy` and
        `floor_accuracy`, `entropy`; `cumulative_regret` relative to the true source (sum over positions, mean over
        sequences) with its standard error, the same for the floor, and the ratio of the two if the floor's regret is
        not 0; and `above`: for each predictor, the model's cumulative regret minus the predictor's.
    """
    floor = exact["floor"]
    total, best = line.regret.sum(1), floor.regret.sum(1)
    loss, least = float(line.loss.mean()), float(floor.loss.mean())
    found: dict[str, Any] = {
        "final_loss": loss,
        "floor": least,
        "gap": loss / least - 1 if least > 0 else None,
        "accuracy": float(line.accuracy.mean()),
        "floor_accuracy": float(floor.accuracy.mean()),
        "entropy": float(line.entropy.mean()),
        "sequences": len(total),
        "positions": line.loss.shape[1],
        "cumulative_regret": float(total.mean()),
        "cumulative_regret_se": _se(total),
        "floor_regret": float(best.mean()),
        "regret_ratio": float(total.mean() / best.mean()) if best.mean() > 1e-9 else None,
        "above": {},
    }
    for name, other in exact.items():
        apart = total - other.regret.sum(1)
        found["above"][name] = {"mean": float(apart.mean()), "se": _se(apart)}
    return found


def _se(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def curves(line: Line, exact: dict[str, Line]) -> dict[str, Any]:
    """Means by position of the model and the exact predictors: loss, instantaneous and cumulative regret."""
    return {
        name: {
            "loss": each.loss.mean(0).tolist(),
            "regret": each.regret.mean(0).tolist(),
            "cumulative_regret": each.regret.cumsum(1).mean(0).tolist(),
        }
        for name, each in {"model": line, **exact}.items()
    }
