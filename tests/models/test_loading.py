"""Models, tokenizers and renderers by name: what loads, and one line for what does not."""

from __future__ import annotations

import json

import pytest
from tiny import byte_parts, terse, word_parts
from transformers import LlamaConfig, Phi3Config, Qwen3Config

from metarlgym import ConfigError, TaskGroup
from metarlgym.models.end_tokens import end_tokens, load_end_tokens
from metarlgym.models.loading import check_model_path, context_room, load_model, load_tokenizer
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.rollout.render import ChatRenderer, PlainRenderer

DOORS = terse("Doors-v0")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model, tokenizer, _ = word_parts(DOORS)
    model.save_pretrained(folder / "final")
    tokenizer.save_pretrained(folder / "final")
    return folder


def test_a_saved_model_loads(saved):
    model = load_model(str(saved / "final"))
    assert model.num_parameters() == word_parts(DOORS)[0].num_parameters()
    assert context_room(model.config) == 128


def test_a_missing_folder_is_told_before_a_hub_is_asked(tmp_path):
    for name in ("runs/no-such-run/final", "./nowhere", str(tmp_path / "gone"), "a/b/c"):
        with pytest.raises(ConfigError, match="no such folder"):
            check_model_path(name)


def test_a_hub_id_is_not_taken_for_a_folder():
    check_model_path("Qwen/Qwen3-0.6B")


def test_a_run_folder_names_the_models_in_it(saved):
    with pytest.raises(ConfigError, match=r"folder without config.json. It holds final: name one of them"):
        load_model(str(saved))


def test_broken_weights_are_one_line(saved, tmp_path):
    import shutil

    shutil.copytree(saved / "final", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        load_model(str(tmp_path / "broken"))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_pad_gets_the_end_token(tmp_path):
    model, tokenizer, _ = byte_parts()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token_id == tokenizer.eos_token_id


# ---------------------------------------------------------------------- renderers


def test_word_tokenizers_act_in_the_groups_fixed_number_of_words():
    _, tokenizer, _ = word_parts(DOORS)
    renderer = make_renderer("auto", tokenizer, DOORS)
    assert (renderer.fixed_action_tokens, renderer.separator) == (1, "")


def test_a_word_tokenizer_of_another_group_is_refused():
    _, tokenizer, _ = word_parts(DOORS)
    with pytest.raises(ConfigError, match=r"does not know the words of GuessNumber-v0's rules"):
        make_renderer("auto", tokenizer, terse("GuessNumber-v0"))


def test_byte_tokenizers_end_their_actions():
    _, tokenizer, _ = byte_parts()
    renderer = make_renderer("auto", tokenizer, DOORS)
    assert isinstance(renderer, PlainRenderer)
    assert renderer.fixed_action_tokens is None


def test_a_template_makes_a_chat():
    _, tokenizer, _ = byte_parts()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    turns = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}assistant: {% endif %}"
    chat = TaskGroup("Doors-v0")
    assert isinstance(make_renderer("auto", tokenizer, chat), ChatRenderer)
    assert isinstance(make_renderer("plain", tokenizer, chat), PlainRenderer)


def test_chat_without_a_template_is_refused():
    _, tokenizer, _ = byte_parts()
    with pytest.raises(ConfigError, match="no chat template"):
        make_renderer("chat", tokenizer, DOORS)


@pytest.mark.parametrize(
    ("content", "found"),
    [(None, {7}), ({}, {7}), ({"eos_token_id": 3}, {3, 7}), ({"eos_token_id": [3, 4]}, {3, 4, 7})],
)
def test_end_tokens_of_a_models_configuration(content, found, tmp_path):
    if content is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
    config = Qwen3Config(eos_token_id=7)
    assert load_end_tokens(str(tmp_path), config, revision="main") == found
    assert end_tokens(config, Qwen3Config(eos_token_id=[8, 9]), Qwen3Config(eos_token_id=None), None) == {7, 8, 9}


def test_a_generation_config_of_another_form_is_refused(tmp_path):
    (tmp_path / "generation_config.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"generation_config\.json cannot be loaded .* correct it, or delete it"):
        load_end_tokens(str(tmp_path), None)


def test_room_ends_where_a_rotary_embedding_would_change():
    kinds = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
    phi = Phi3Config(
        **{"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 64},
        max_position_embeddings=1024,
        original_max_position_embeddings=64,
        rope_parameters=kinds,
    )
    assert context_room(phi) == 64
    dynamic = LlamaConfig(max_position_embeddings=256, rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    assert context_room(dynamic) == 256
    assert context_room(LlamaConfig(max_position_embeddings=256)) == 256
