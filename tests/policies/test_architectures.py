"""Sliding windows, recurrent layers, ALiBi: log-probabilities are those of a plain forward pass, on the right path."""

from __future__ import annotations

import pytest
import torch
import transformers
from tiny import full_logprobs, play, specs, terse, tokens, trial_maker, word_parts

from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.policies.kv_cache import KVStore
from metarlgym.policies.native_cache import NativeStore
from metarlgym.policies.self_check import self_check
from metarlgym.policies.supported import check_config, slow_path, window_of

GUESS = terse("GuessNumber-v0", numbers=9, guesses=3)
VOCABULARY = 40
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**BASE, "num_key_value_heads": 2, "head_dim": 8}
LINEAR = {
    **GROUPED,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
WINDOW = {"sliding_window": 5}
SLOTS = {
    "MistralForCausalLM": {**GROUPED, **WINDOW},
    "Phi3ForCausalLM": {**BASE, **WINDOW},
    "Starcoder2ForCausalLM": {**BASE, **WINDOW},
    "Qwen2ForCausalLM": {
        **BASE,
        **WINDOW,
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "max_window_layers": 2,
        "initializer_range": 0.3,
    },
    "Qwen3ForCausalLM": {**GROUPED, **WINDOW, "use_sliding_window": True, "max_window_layers": 2},
    "Gemma2ForCausalLM": {**GROUPED, **WINDOW, "query_pre_attn_scalar": 8},
    "Gemma3ForCausalLM": {
        **GROUPED,
        **WINDOW,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "Cohere2ForCausalLM": {**BASE, **WINDOW},
    "Olmo3ForCausalLM": {**BASE, **WINDOW},
    "GptOssForCausalLM": {**GROUPED, **WINDOW, **EXPERTS},
    "SmolLM3ForCausalLM": {**BASE, **WINDOW, "use_sliding_window": True},
}
"""Windows, played with a mask."""
NATIVE = {
    "Qwen3NextForCausalLM": {
        **LINEAR,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "Qwen3_5ForCausalLM": LINEAR,
    "Lfm2ForCausalLM": {**BASE, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"] * 2},
    "Mamba2ForCausalLM": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 4,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 1,
        "chunk_size": 8,  # its plain implementation pads to whole chunks
        "initializer_range": 0.5,
    },
    "Llama4ForCausalLM": {**GROUPED, "attention_chunk_size": 5, "intermediate_size_mlp": 64, "num_local_experts": 2},
    "GPTNeoForCausalLM": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "initializer_range": 0.3,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
    },
    "BloomForCausalLM": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "FalconForCausalLM": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "pad_token_id": 0,
        "alibi": True,
    },
}
"""Played with Hugging Face's own cache."""
ALL = {**SLOTS, **NATIVE}


def make(name):
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    return kind(kind.config_class(**ALL[name])).eval()


@pytest.fixture(scope="module")
def renderer():
    renderer = word_parts(GUESS)[2]
    assert len(renderer.tokenizer) <= VOCABULARY
    return renderer


def trials(count=10):
    return specs(GUESS, trial_maker(GUESS, 3), count)


def check_logprobs(model, played):
    for row in (row for trajectory in played for row in trajectory.rows):
        expected = full_logprobs(model, row.ids)[row.prompt_len - 1 :]
        sampled = torch.tensor(row.action_mask).bool()
        torch.testing.assert_close(torch.tensor(row.logprobs)[sampled], expected[sampled], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_logprobs_are_those_of_a_plain_forward_pass(name, renderer):
    model = make(name)
    check_config(model.config)
    store = InProcessPolicy(model, renderer)._store
    assert type(store) is (KVStore if name in SLOTS else NativeStore)
    assert (slow_path(model.config) is None) == (name in SLOTS)
    played, policy = play(model, renderer, trials(), concurrency=7)
    rows = [row for trajectory in played for row in trajectory.rows]
    assert len({len(row.ids) for row in rows}) > 1
    assert name not in SLOTS or max(len(row.ids) for row in rows) > window_of(model.config)
    check_logprobs(model, played)
    # No token is encoded twice: all but the last action of a row, and at least seven prompts are shared.
    needed = sum(len(row.ids) - 1 - (not row.action_mask[-1]) for row in rows)
    assert policy.encoded_tokens <= needed - 6 * rows[0].prompt_len


@pytest.mark.parametrize("name", ALL)
def test_the_self_check_passes(name):
    self_check(make(name))


@pytest.mark.parametrize("name", ["Gemma3ForCausalLM", "MistralForCausalLM"])
def test_the_self_check_notices_a_window_that_is_ignored(name, monkeypatch):
    from metarlgym import ConfigError
    from metarlgym.policies import kv_cache

    monkeypatch.setattr(kv_cache, "window_of", lambda config: None)
    with pytest.raises(ConfigError, match="differ by"):
        self_check(make(name))


@pytest.mark.parametrize("name", ["Qwen3_5ForCausalLM", "Llama4ForCausalLM"])
def test_samples_do_not_depend_on_the_batch(name, renderer):
    model = make(name)
    one, _ = play(model, renderer, trials(), concurrency=1)
    many, _ = play(model, renderer, trials())
    assert tokens(many) == tokens(one)


def test_a_cache_with_lora(renderer):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        make("Qwen3_5ForCausalLM"), LoraConfig(r=4, target_modules=["q_proj", "in_proj_qkv"], init_lora_weights=False)
    )
    played, _ = play(model, renderer, trials(4))
    check_logprobs(model.eval(), played)


def test_a_slot_is_not_disturbed_by_one_that_shares_its_batch():
    """Copies of a prompt read the same row; the first to go on must leave it as it was for the others."""
    model = make("Llama4ForCausalLM")
    store = NativeStore(model)
    prompt, words = [1, 5, 6, 7, 8, 9, 10], [11, 12, 13]
    with torch.no_grad():
        store.encode([0], [0], [prompt])
        store.copy(0, [1, 2], len(prompt))
        for slot, word in enumerate(words):
            logits = store.encode([slot], [len(prompt)], [[word]])
            torch.testing.assert_close(logits[0], model(torch.tensor([[*prompt, word]])).logits[0, -1])
        # In another order, two of them in one batch, then with a third of another length.
        store.encode([2, 0], [8, 8], [[20], [21]])
        logits = store.encode([0, 1, 2], [9, 8, 9], [[22], [23], [24, 25]])
        for row, ids in enumerate([[11, 21, 22], [12, 23], [13, 20, 24, 25]]):
            torch.testing.assert_close(logits[row], model(torch.tensor([[*prompt, *ids]])).logits[0, -1])


def test_memory_of_ended_contexts_is_freed(renderer):
    model = make("Llama4ForCausalLM")
    store = NativeStore(model)
    with torch.no_grad():
        store.encode([0, 1], [0, 0], [[1, 2], [3, 4]])
        store.release(0)
        store.encode([1], [2], [[5]])
    (batch, row), *others = store._places.values()
    assert not others and row == 0 and batch.cache.layers[0].keys.shape[0] == 1


@pytest.mark.parametrize("name", ["Llama4ForCausalLM", "MistralForCausalLM"])
def test_an_evaluation_says_once_that_it_is_slow(name, renderer):
    import io

    from rich.console import Console

    from metarlgym.evaluation.evaluate import EvalSettings
    from metarlgym.evaluation.run import evaluate_model
    from metarlgym.trial import TrialSettings

    out = io.StringIO()
    settings = EvalSettings(TrialSettings(episodes=2), trials=3, controls=False, baselines=False)
    evaluate_model(GUESS, make(name), renderer, settings, Console(file=out, width=300), name)
    assert out.getvalue().count("Hugging Face's own cache") == (name in NATIVE)
