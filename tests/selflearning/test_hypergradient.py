"""Hypergradients: a closed form, finite differences in float64, and what the learner must not move through."""

import math

import pytest
import torch

from metarlgym.selflearning.learned_loss.data import language_source, read_chunk
from metarlgym.selflearning.learned_loss.gist_loss import GistLoss
from metarlgym.selflearning.learned_loss.hypergradient import finite_difference_error, hypergradient, inner_steps
from metarlgym.selflearning.learned_loss.learner import Learner
from metarlgym.selflearning.learned_loss.token_weights import View, WeightNet

NOISE = {"V": 8, "n": 2, "l": 4.0, "e": 0.3}


def leaf(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def tiny(vocab=10, length=12):
    return Learner(vocab, length, 8, 1, 2, 0.3, 0).double()


def moved(loss):
    """Away from the start, where the last layer is 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in loss.parameters():
            part.add_(0.3 * torch.randn(part.shape, generator=generator, dtype=part.dtype))
    return loss


def test_closed_form():
    theta, phi, rate = leaf(1.5), leaf(0.7), 0.1

    def inner(params, held, k):
        return phi * params["w"] ** 2 / 2

    found = hypergradient(inner, lambda params: (params["w"] - 1) ** 2 / 2, {"w": theta}, [phi], rate, steps=3)
    after = 1.5 * (1 - rate * 0.7) ** 3
    slope = (after - 1) * 1.5 * 3 * (1 - rate * 0.7) ** 2 * -rate
    assert found.params["w"].item() == pytest.approx(after) and found.params["w"].is_leaf
    assert found.slopes[0].item() == pytest.approx(slope)
    assert found.inner == pytest.approx(0.7 * 1.5**2 / 2) and found.outer == pytest.approx((after - 1) ** 2 / 2)


def test_what_is_held_is_not_moved_through_but_counts_for_phi():
    """inner = phi w_held w: moving w, w' = w - r phi w_held; held depends on phi from the second step on."""
    theta, phi, rate = leaf(2.0), leaf(0.5), 0.1

    def inner(params, held, k):
        return phi * (held["w"].detach() if held["w"].is_leaf else held["w"]) * params["w"]

    found = hypergradient(inner, lambda params: params["w"], {"w": theta}, [phi], rate, steps=2)
    assert found.outer == pytest.approx(2 * (1 - rate * 0.5) ** 2)
    assert found.slopes[0].item() == pytest.approx(2 * 2 * (1 - rate * 0.5) * -rate)


def test_phi_that_is_not_used_has_slope_zero():
    theta, phi, other = leaf(1.0), leaf(1.0), leaf([1.0, 2.0])
    found = hypergradient(lambda p, h, k: phi * p["w"], lambda p: p["w"], {"w": theta}, [phi, other], 0.1)
    assert found.slopes[0].item() == pytest.approx(-0.1) and found.slopes[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("name", ["weights", "gist", "gist_ce"])
def test_finite_differences(name, steps):
    learner = tiny()
    loss = WeightNet(4) if name == "weights" else GistLoss(10, 8, 4, 3, name == "gist_ce", 4)
    loss = moved(loss.double())
    source = language_source(NOISE, 12, 0, False)
    chunks = [read_chunk(source, 3 * k, 3) for k in range(3)]
    before = [part.detach().clone() for part in loss.parameters()]
    error = finite_difference_error(
        learner.inner(loss, chunks[:2]),
        learner.outer(chunks[2]),
        learner.params,
        list(loss.parameters()),
        0.3,
        torch.Generator().manual_seed(1),
        steps,
    )
    assert error < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(before, loss.parameters(), strict=True))


def test_learner_does_not_move_through_what_weights_are_made_of():
    """Its step is the one that constant weights of the same values give."""
    learner, loss = tiny(), moved(WeightNet(4).double())
    chunk = read_chunk(language_source(NOISE, 12, 0, False), 0, 3)
    after, _ = inner_steps(learner.inner(loss, [chunk]), learner.params, 0.3)
    weights = torch.from_numpy(learner.token_weights(chunk, loss))
    assert weights.std() > 1e-4
    learner.fixed_step(chunk, lambda chunk: weights)
    assert all(torch.allclose(after[name], learner.params[name], atol=1e-12) for name in after)


def test_learned_step_takes_the_full_step_whatever_is_judged():
    chunk, follows = (read_chunk(language_source(NOISE, 12, 0, False), k, 3) for k in (0, 3))
    ends = []
    for lookahead in (1.0, 0.1):
        learner, loss = tiny(), moved(WeightNet(4).double())
        start = [part.detach().clone() for part in loss.parameters()]
        own = learner.learned_step(chunk, follows, loss, torch.optim.SGD(loss.parameters(), 1.0), lookahead)
        assert math.isfinite(own) and not all(map(torch.equal, start, loss.parameters()))
        ends.append(learner.params)
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-10) for name in ends[0])


def test_gist_of_equal_tokens_is_no_distance():
    """Certain and right predictions: the two gists are the same; wrong ones are apart."""
    targets = torch.tensor([[1, 2, 3, 4, 5]])
    logits = 40.0 * torch.nn.functional.one_hot(targets, 10).double()
    view = View(logits, torch.zeros(1, 5, 8, dtype=torch.float64), targets)
    loss = moved(GistLoss(10, 8, 4, 2).double())
    assert loss(view, view).item() == pytest.approx(0, abs=1e-12)
    wrong = View(logits.roll(1, 1), view.hidden, targets)
    assert loss(wrong, wrong).item() > 0.01
