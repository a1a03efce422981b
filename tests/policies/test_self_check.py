"""self_check: a model that ignores the mask, the positions or the cache it is handed is refused before it plays."""

from __future__ import annotations

import pytest
import torch
import transformers
from tiny import make_trainer, terse, word_parts

from metarlgym import ConfigError
from metarlgym.models.networks import NetworkArguments, make_network
from metarlgym.policies import in_process, self_check
from metarlgym.policies.supported import check_config

V = 24
SIZES = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
FALCON = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
RIGHT = {
    "Qwen3ForCausalLM": {**SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "LlamaForCausalLM": SIZES,
    "GemmaForCausalLM": {**SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "PhiForCausalLM": SIZES,
    "MistralForCausalLM": {**SIZES, "sliding_window": None, "num_key_value_heads": 2},
    "FalconForCausalLM": {**FALCON, "alibi": False, "initializer_range": 0.3},
    "OPTForCausalLM": {
        "vocab_size": V,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "init_std": 0.3,
        "pad_token_id": 0,
    },
    "GPT2LMHeadModel": GPT,
    "XGLMForCausalLM": {
        "vocab_size": V,
        "d_model": 32,
        "ffn_dim": 64,
        "num_layers": 2,
        "attention_heads": 4,
        "max_position_embeddings": 64,
        "init_std": 0.3,
    },
}
WRONG = {
    "RwkvForCausalLM": {
        "vocab_size": V,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "attention_hidden_size": 32,
        "context_length": 64,
    },
    "DogeForCausalLM": {**SIZES, "num_key_value_heads": 2},
}
OWN = [{"network": name} for name in ("rnn", "lstm", "stack_rnn")]
OWN += [{"positions": "relative"}, {"positions": "relative", "sliding_window": 4}]
OWN += [{"positions": "sinusoidal"}, {"positions": "learned"}]


def make(name, settings):
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    return kind(kind.config_class(**settings))


@pytest.mark.parametrize("name", RIGHT)
def test_models_with_plain_attention_pass(name):
    self_check.self_check(make(name, RIGHT[name]))


@pytest.mark.parametrize("settings", OWN, ids=str)
def test_networks_of_ours_pass(settings):
    self_check.self_check(make_network(NetworkArguments(hidden_size=16, **settings), V, 64))


@pytest.mark.parametrize("name", WRONG)
def test_known_types_are_refused_by_their_config(name):
    kind = getattr(transformers, name)
    config = kind.config_class(**WRONG[name])
    with pytest.raises(ConfigError) as error:
        check_config(config)
    assert f"model type {config.model_type!r}" in str(error.value) and "\n" not in str(error.value)
    assert "use another" in str(error.value)


def test_layers_with_an_unknown_cache_are_refused():
    config = transformers.LlamaConfig(**SIZES)
    config.layer_types = ["full_attention", "something_new"]
    with pytest.raises(ConfigError, match=r"layers of type \['something_new'\].*Serve it with vLLM.*use_vllm=true"):
        check_config(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("small", [False, True], ids=["", "small weights"])
@pytest.mark.parametrize("name", WRONG)
def test_unknown_types_are_found_out(name, small, dtype, monkeypatch):
    """The same models, were their types not known."""
    monkeypatch.setattr(in_process, "check_config", lambda config: None)
    model = make(name, WRONG[name]).to(dtype)
    if small:
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data *= 0.06
    with pytest.raises(ConfigError) as error:
        self_check.self_check(model)
    assert repr(model.config.model_type) in str(error.value) and "\n" not in str(error.value)
    assert "use_vllm=true" in str(error.value)
    assert "differ by" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["Qwen3ForCausalLM", "LlamaForCausalLM", "GPT2LMHeadModel"])
def test_rounding_passes(name, dtype):
    self_check.self_check(make(name, RIGHT[name]).to(dtype))


def test_leaves_no_trace():
    model = make("Qwen3ForCausalLM", RIGHT["Qwen3ForCausalLM"])
    model.train()
    state, weights = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    self_check.self_check(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and torch.is_grad_enabled()
    assert all(p.grad is None and torch.equal(p, before) for p, before in zip(model.parameters(), weights, strict=True))


def test_uses_all_the_policys_paths(monkeypatch):
    seen = []
    inner = self_check.InProcessPolicy._encode

    def encode(policy, group):
        seen.append(({p.need for p in group}, {p.cached for p in group}))
        return inner(policy, group)

    monkeypatch.setattr(self_check.InProcessPolicy, "_encode", encode)
    self_check.self_check(make("LlamaForCausalLM", SIZES))
    first, *_ = (needs for needs, cached in seen if len(needs) > 1 and cached == {0})
    assert len(first) > 2  # prompts padded on the left
    assert any(len(needs) > 1 and 0 not in cached for needs, cached in seen)  # cached contexts that go on
    assert any(needs == {1} and len(cached) > 1 for needs, cached in seen)  # single tokens at different places


@pytest.mark.parametrize("positions", [4, 8, 16])
def test_short_contexts_are_enough(positions):
    self_check.self_check(make("GPT2LMHeadModel", {**GPT, "n_positions": positions}))


def test_a_difference_that_is_no_number_is_refused():
    nothing = torch.tensor([float("nan"), 0.0])
    assert "differ by nan" in self_check.compare(nothing, torch.zeros(2), torch.float32)


# ---------------------------------------------------------------------- in a trainer


DOORS = terse("Doors-v0")


def parts(model):
    _, tokenizer, renderer = word_parts(DOORS)
    return model, tokenizer, renderer


def test_a_trainer_checks_once(tmp_path, monkeypatch):
    from metarlgym.training import backends

    calls = []
    monkeypatch.setattr(backends, "self_check", lambda model, dtype: calls.append(dtype))
    make_trainer(tmp_path, DOORS, eval_strategy="steps", eval_steps=1, eval_trials=4).train()
    assert calls == [torch.float32]


@pytest.mark.parametrize("name", ["RwkvForCausalLM", "DogeForCausalLM"])
def test_a_trainer_refuses_in_one_line(name, tmp_path):
    trainer = make_trainer(tmp_path, DOORS, parts(make(name, WRONG[name])))
    with pytest.raises(ConfigError) as error:
        trainer.train()
    assert repr(trainer.model.config.model_type) in str(error.value) and "\n" not in str(error.value)
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "XGLMForCausalLM"])
def test_models_that_count_columns_are_trained_with_right_positions(name, tmp_path):
    """TRL pads prompts on the left and hands over no positions: GPT-2's log-probabilities were 6 nats off."""
    trainer = make_trainer(tmp_path, DOORS, parts(make(name, RIGHT[name])))
    rows = [[1, 5, 6, 7], [1, 4, 4, 4, 4, 8, 9]]
    padded = torch.tensor([[0, 0, 0, *rows[0]], rows[1]])
    mask = torch.tensor([[0] * 3 + [1] * 4, [1] * 7])

    def gap():
        score = trainer._get_per_token_logps_and_entropies
        with torch.no_grad():
            alone = score(trainer.model.eval(), torch.tensor([rows[0]]), torch.ones(1, 4, dtype=torch.long), 2)[0]
            return float((score(trainer.model, padded, mask, 2)[0][0] - alone[0]).abs().max())

    assert gap() > 0.1
    trainer.train()
    assert gap() < 1e-5
