"""Attention with shared keys equals that of transformers, which repeats them."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from metarlgym.policies.grouped_attention import SHARED_KEYS, shared_keys_attention, shares_keys
from metarlgym.policies.in_process import inference


class Layer(torch.nn.Module):
    num_key_value_groups = 3
    is_causal = True


def parts(batch, queries, keys, dtype=torch.float32):
    torch.manual_seed(0)
    query = torch.randn(batch, 9, queries, 16, dtype=dtype)
    key, value = torch.randn(2, batch, 3, keys, 16, dtype=dtype)
    visible = torch.rand(batch, 1, queries, keys) < 0.7
    visible[..., 0] = True
    return query, key, value, visible


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "queries", "keys"), [(1, 1, 7), (5, 1, 40), (4, 6, 33)])
@pytest.mark.parametrize("boolean", [True, False])
def test_the_same_as_with_repeated_keys(batch, queries, keys, boolean, dtype):
    query, key, value, visible = parts(batch, queries, keys, dtype)
    mask = visible if boolean else torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, -1e9)
    found, _ = shared_keys_attention(Layer(), query, key, value, mask, scaling=0.3)
    expected, _ = sdpa_attention_forward(Layer(), query, key, value, mask, scaling=0.3)
    assert found.shape == (batch, queries, 9, 16)
    assert torch.allclose(found, expected, atol=1e-5 if dtype == torch.float32 else 2e-2)


def test_a_causal_pass_without_a_mask():
    query, key, value, _ = parts(2, 6, 6)
    found, _ = shared_keys_attention(Layer(), query, key, value, None)
    expected, _ = sdpa_attention_forward(Layer(), query, key, value, None)
    assert torch.equal(found, expected)


def llama(shared):
    sizes = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=shared))


def test_it_is_used_while_a_model_acts_and_no_longer():
    model = llama(2)
    with inference(model):
        assert model.config._attn_implementation == SHARED_KEYS
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_others_keep_their_attention(kernel):
    model = llama(4 if kernel == "sdpa" else 2)
    model.set_attn_implementation(kernel)
    assert shares_keys(model) == (kernel == "eager")
    with inference(model):
        assert model.config._attn_implementation == kernel
