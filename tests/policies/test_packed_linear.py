"""Packed weights: same results up to rounding, always those of the present weights, and only in large models."""

from __future__ import annotations

import pytest
import torch
from tiny import full_logprobs, play, specs, terse, trial_maker, word_parts

from metarlgym.policies import in_process, packed_linear
from metarlgym.policies.packed_linear import packed
from metarlgym.processor import multiplies_bfloat16

GUESS = terse("GuessNumber-v0", numbers=9, guesses=3)


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(packed_linear, "SMALLEST", 1)
    monkeypatch.setattr(in_process, "PACK_AFTER", 10)
    model, _, renderer = word_parts(GUESS, width=32, layers=2)
    return model, renderer


def linears(model):
    return [module for module in model.modules() if type(module) is torch.nn.Linear]


def check(model, played):
    for row in (row for trajectory in played for row in trajectory.rows):
        expected = full_logprobs(model, row.ids)[row.prompt_len - 1 :]
        sampled = torch.tensor(row.action_mask).bool()
        torch.testing.assert_close(torch.tensor(row.logprobs)[sampled], expected[sampled], atol=1e-5, rtol=1e-5)


def test_the_policy_packs_and_unpacks(parts, monkeypatch):
    model, renderer = parts
    calls, inner = [], packed_linear._forward
    monkeypatch.setattr(packed_linear, "_forward", lambda *args: calls.append(args) or inner(*args))
    trials = specs(GUESS, trial_maker(GUESS, 3), 12)
    check(model, play(model, renderer, trials)[0])
    assert len({id(args[0]) for args in calls}) == len(linears(model))
    counts = []
    for start in (0, 10, 10**6):
        monkeypatch.setattr(in_process, "PACK_AFTER", start)
        calls.clear()
        check(model, play(model, renderer, trials[:1])[0])
        counts.append(len(calls))
    assert counts[0] > counts[1] > counts[2] == 0
    assert not any("forward" in module.__dict__ for module in linears(model))
    with torch.no_grad():
        model.lm_head.weight.neg_()
    check(model, play(model, renderer, trials)[0])  # with the new weights


def test_weights_are_restored_after_a_failure(parts):
    model, _ = parts
    with pytest.raises(KeyError), torch.no_grad(), packed(model):
        raise KeyError
    assert not any("forward" in module.__dict__ for module in linears(model))
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (40, 1), (2, 7)])
def test_products_are_those_of_linear(bias, dtype, shape, monkeypatch):
    monkeypatch.setattr(packed_linear, "SMALLEST", 1)

    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.dtype = dtype
            self.layer = torch.nn.Linear(48, 33, bias=bias).to(dtype)

    torch.manual_seed(0)
    model, x = Model(), torch.randn(*shape, 48).to(dtype)
    with torch.no_grad():
        expected = model.layer(x)
        with packed(model):
            assert "forward" in model.layer.__dict__
            found = model.layer(x)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)


def test_lora_is_added_to_packed_weights(parts):
    from peft import LoraConfig, get_peft_model

    model, renderer = parts
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    check(model, play(model, renderer, specs(GUESS, trial_maker(GUESS, 3), 6))[0])


def test_without_memory_weights_are_left_alone(parts, monkeypatch):
    model, _ = parts
    monkeypatch.setattr(packed_linear, "free_memory", lambda device: 1000)
    with torch.no_grad(), packed(model):
        assert not any("forward" in module.__dict__ for module in linears(model))


def test_small_models_are_left_alone():
    model, _, _ = word_parts(GUESS, width=128, layers=2)
    with torch.no_grad(), packed(model):
        assert not any("forward" in module.__dict__ for module in linears(model))


@pytest.mark.skipif(not multiplies_bfloat16(), reason="no instructions for bfloat16")
def test_under_autocast_the_layers_own_product_is_used(parts):
    """As accelerate trains with bf16: the policy acts with a model whose forward pass is autocast."""
    model, _ = parts
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(input_ids=ids).logits
        with packed(model):
            assert torch.equal(model(input_ids=ids).logits, plain)
