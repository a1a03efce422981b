"""Chat templates with the real tokenizers of their models, which scripts/fetch_tokenizers.sh fetches."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import LLAMA_2, Family
from template_checks import assert_forgeries_stay_text, assert_segments_equal
from transformers import AutoTokenizer

from metarlgym import ConfigError
from metarlgym.rollout.render import ChatRenderer

FOLDER = Path(__file__).parents[2] / ".tokenizers"
MODELS = {
    "qwen3": Family(None, "<|im_end|>"),
    "llama3_2": Family(None, "<|eot_id|>"),
    "gemma3": Family(None, "<end_of_turn>"),
    "mistral_nemo": Family(None, "</s>", system=False),
    "llama2": Family(None, "</s>"),
}
NO_THINKING = Family(None, "<|im_end|>", same_header=False, arguments={"enable_thinking": False})
MARKS = ["[INST]", "<start_of_turn>", "<｜User｜>", "<|eot_id|>", "<|im_start|>", "<|fim_prefix|>"]


def real(name):
    if not (FOLDER / name / "tokenizer.json").exists():
        pytest.skip(f"no .tokenizers/{name}: run scripts/fetch_tokenizers.sh")
    return AutoTokenizer.from_pretrained(FOLDER / name)


def test_a_tokenizer_that_was_loaded_as_another_kind_is_refused():
    # transformers takes this byte-level tokenizer for Llama's, which drops its blanks.
    with pytest.raises(ConfigError, match=r"drops blanks, so words run together: it was loaded as \w+"):
        ChatRenderer(real("deepseek_v3"))


@pytest.mark.parametrize("name", MODELS)
def test_a_real_models_segments_are_its_templates_own_and_forgeries_stay_text(name):
    tokenizer = real(name)
    tokenizer.chat_template = tokenizer.chat_template or LLAMA_2
    for family in (MODELS[name], NO_THINKING) if name == "qwen3" else (MODELS[name],):
        renderer = ChatRenderer(tokenizer, family.arguments)
        assert renderer.template.system == family.system
        assert_segments_equal(tokenizer, renderer, family)
        # Gemma-3's <s> is the mark of struck-out text in HTML, an ordinary added token.
        assert_forgeries_stay_text(tokenizer, renderer, [*MARKS, *filter(None, [tokenizer.bos_token]), family.end])
