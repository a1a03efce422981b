"""Chat templates with the real tokenizers of their models, which scripts/fetch_tokenizers.sh fetches."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import LLAMA_2, Family, trl_template
from template_checks import assert_forgeries_stay_text, assert_segments_equal
from transformers import AutoTokenizer

from metarlgym import ConfigError
from metarlgym.rollout.render import ChatRenderer

FOLDER = Path(__file__).parents[2] / ".tokenizers"
TEMPLATES_OF = {"gemma2": "gemma"}
"""Templates of TRL for tokenizers that are packaged without one."""
MODELS = {
    "qwen3": Family(None, "<|im_end|>"),
    "qwen2_5": Family(None, "<|im_end|>"),
    "llama3": Family(None, "<|eot_id|>"),
    "llama3_1": Family(None, "<|eot_id|>"),
    "llama3_2": Family(None, "<|eot_id|>"),
    "gemma2": Family(None, "<end_of_turn>", system=False),
    "gemma3": Family(None, "<end_of_turn>"),
    "mistral_nemo": Family(None, "</s>", system=False),
    "llama2": Family(None, "</s>"),
}
NO_THINKING = Family(None, "<|im_end|>", same_header=False, arguments={"enable_thinking": False})
MARKS = ["[INST]", "<start_of_turn>", "<｜User｜>", "<|eot_id|>", "<|im_start|>", "<|fim_prefix|>"]


def real(name):
    if not (FOLDER / name / "tokenizer.json").exists():
        pytest.skip(f"no .tokenizers/{name}: run scripts/fetch_tokenizers.sh")
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / name)
    if not tokenizer.chat_template:
        tokenizer.chat_template = trl_template(TEMPLATES_OF[name]) if name in TEMPLATES_OF else LLAMA_2
    return tokenizer


def test_a_tokenizer_that_was_loaded_as_another_kind_is_refused():
    # transformers takes this byte-level tokenizer for Llama's, which drops its blanks.
    with pytest.raises(ConfigError, match=r"drops blanks, so words run together: it was loaded as \w+"):
        ChatRenderer(real("deepseek_v3"))


@pytest.mark.parametrize("name", MODELS)
def test_a_real_models_segments_are_its_templates_own_and_forgeries_stay_text(name):
    tokenizer = real(name)
    for family in (MODELS[name], NO_THINKING) if name == "qwen3" else (MODELS[name],):
        renderer = ChatRenderer(tokenizer, family.arguments)
        assert renderer.template.system == family.system
        assert_segments_equal(tokenizer, renderer, family)
        # Gemma-3's <s> is the mark of struck-out text in HTML, an ordinary added token.
        assert_forgeries_stay_text(tokenizer, renderer, [*MARKS, *filter(None, [tokenizer.bos_token]), family.end])


def of_model_type(name, model_type, folder):
    """A tokenizer beside the config of its model, from which transformers knows that its class is another one."""
    if not (FOLDER / name / "tokenizer.json").exists():
        pytest.skip(f"no .tokenizers/{name}: run scripts/fetch_tokenizers.sh")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).symlink_to((FOLDER / name / file).resolve())
    (folder / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("template", [None, "deepseekv3", "deepseek_r1_distill"])
def test_deepseek(template, tmp_path):
    """R1 has two more tokens, those of thoughts."""
    tokenizer = of_model_type("deepseek_v3", "deepseek_v3", tmp_path)
    family = Family(None, "<｜end▁of▁sentence｜>", same_header=template is None)
    if template is not None:
        tokenizer.chat_template = trl_template(template)
        tokenizer.add_tokens(["<think>", "</think>"])
    renderer = ChatRenderer(tokenizer)
    assert_segments_equal(tokenizer, renderer, family)
    assert_forgeries_stay_text(tokenizer, renderer, [*MARKS, tokenizer.bos_token, family.end])
    thinking = renderer.thinking
    if template is None:
        assert thinking is None
    else:
        assert thinking.opened
        assert tokenizer.decode(thinking.close_ids) == "\n</think>\n\n"


def test_qwen3_closes_thoughts_with_its_own_tokens():
    tokenizer = real("qwen3")
    thinking = ChatRenderer(tokenizer).thinking
    assert list(thinking.close_ids) == tokenizer.encode("\n</think>\n\n")
    assert len(thinking.close_ids) == 3
    assert not thinking.opened


@pytest.mark.parametrize(("name", "end"), [("llama3", "<|eot_id|>"), ("gemma2", "<end_of_turn>")])
def test_end_marks_that_only_added_tokens_declare_special_end_actions(name, end):
    tokenizer = real(name)
    mark = tokenizer.convert_tokens_to_ids(end)
    assert mark not in tokenizer.all_special_ids
    assert ChatRenderer(tokenizer).end_ids == {mark, tokenizer.eos_token_id}
