"""Losses on held-out sequences: losses and regrets against hand-made predictors and the predictors' own tables."""

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import CausalLMOutput

from metarlgym import ConfigError
from metarlgym.sequences.predictors import LIN, RLMPredictor, regret
from metarlgym.sequences.scoring.expected_loss import HeldOutLoss, Line, curves, summarize
from metarlgym.sequences.sources import RLM, MetaLM, Piecewise, PseudoLanguage


class Exact(torch.nn.Module):
    """A model that says what a predictor says."""

    device = torch.device("cpu")

    def __init__(self, predict):
        super().__init__()
        self.predict = predict

    def forward(self, input_ids):
        probs = self.predict(input_ids.numpy())
        return CausalLMOutput(logits=torch.from_numpy(np.log(np.maximum(probs, 1e-300))))


def after(predictor):
    """What a predictor says after each symbol, from what it says before each."""

    def predict(ids):
        return predictor.predictions(np.pad(ids, ((0, 0), (0, 1))))[:, 1:]

    return predict


def test_a_model_that_is_the_exact_predictor():
    held_out = HeldOutLoss(Piecewise("lin", 60, seed=0), 40)
    line = held_out.model(Exact(after(LIN())), batch_size=16)
    summary = summarize(line, held_out.exact)
    assert summary["gap"] == pytest.approx(0, abs=1e-9) and summary["regret_ratio"] == pytest.approx(1)
    assert summary["above"]["LIN"]["mean"] == pytest.approx(0, abs=1e-9)
    assert summary["above"]["KT"]["mean"] < 0 and summary["positions"] == 59


def test_regret_is_that_of_the_predictors():
    source = Piecewise("regular", 50, period=10, seed=3)
    held_out = HeldOutLoss(source, 30)
    batch = source.batch(0, 30, "eval")
    by_hand = regret(batch.theta, LIN().predictions(batch.tokens))[:, 1:]
    assert np.allclose(held_out.exact["LIN"].regret, by_hand)
    found = curves(held_out.exact["LIN"], held_out.exact)
    assert found["model"]["cumulative_regret"][-1] == pytest.approx(by_hand.sum(1).mean())


def test_rlm_last_token_and_whole():
    source = RLM(5, 3, 2.0)
    tokens = source.tokens(0, 50, "eval")
    entropy = RLMPredictor(source).entropy(tokens)
    whole = HeldOutLoss(source, 50).exact["floor"]
    last = HeldOutLoss(source, 50, last_only=True).exact["floor"]
    assert np.allclose(whole.loss, entropy[:, 1:]) and np.allclose(last.loss[:, 0], entropy[:, -1])
    line = HeldOutLoss(source, 50, last_only=True).model(Exact(after(RLMPredictor(source))))
    assert np.allclose(line.loss, last.loss) and np.allclose(line.regret, 0, atol=1e-9)


def test_metalm_floor_is_of_clean_labels():
    source = MetaLM(V=8, n=2, l=4, L=50, seed=0)
    held_out = HeldOutLoss(source, 20)
    line = held_out.exact["floor"]
    assert line.loss.shape == (20, 50) and np.allclose(line.regret, 0)
    uniform = held_out.model(Exact(lambda ids: np.full((*ids.shape, 10), 0.1)))
    assert uniform.loss == pytest.approx(np.log(10)) and uniform.entropy == pytest.approx(np.log(10))


def test_tokens_beyond_the_alphabet_are_left_out():
    def predict(ids):
        return np.tile([0.25, 0.25, 0.5], (*ids.shape, 1))

    line = HeldOutLoss(Piecewise("static", 10, seed=0), 5).model(Exact(predict))
    assert line.entropy == pytest.approx(np.log(2))


def test_line_at_probabilities_0_and_1():
    line = Line.of(np.array([[[1.0, 0.0], [0.5, 0.5]]]), np.array([[[1.0, 0.0], [1.0, 0.0]]]))
    assert line.loss[0, 0] == 0 and line.regret[0, 0] == 0 and line.accuracy[0, 0] == 1
    assert np.isinf(line.loss[0, 1]) and line.entropy[0, 1] == 0


def test_blocks_change_nothing(monkeypatch):
    source = Piecewise("ptw", 20, seed=1)
    whole = HeldOutLoss(source, 30).exact
    monkeypatch.setattr("metarlgym.sequences.scoring.expected_loss.CELLS", 200)
    parts = HeldOutLoss(source, 30).exact
    for name, line in whole.items():
        assert np.array_equal(line.regret, parts[name].regret)


def test_a_source_without_exact_predictor():
    with pytest.raises(ConfigError, match="PseudoLanguage"):
        HeldOutLoss(PseudoLanguage(L=10, seed=0), 5)
