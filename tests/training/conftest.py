"""Runs and models that tests of the settings of `train` share."""

from __future__ import annotations

import json

import pytest
from field_runs import Run
from transformers import GPT2Config, GPT2LMHeadModel

from metarlgym.models.scratch import ScratchArguments, chat_tokenizer, scratch_model


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Makes runs; the same settings are run once."""
    known = {}

    def run(**settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in known:
            known[key] = Run(tmp_path_factory.mktemp("fields") / "run", settings)
        return known[key]

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of tiny models: `chat` (ChatML), `dropout` (GPT-2)."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = chat_tokenizer()
    sizes = ScratchArguments(scratch_hidden_size=16, scratch_layers=1, scratch_heads=2)
    marks = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    gpt2 = GPT2Config(vocab_size=len(tokenizer), n_positions=512, n_embd=16, n_layer=1, n_head=2, **marks)
    for name, model in (("chat", scratch_model(sizes, tokenizer, 1024, 0)), ("dropout", GPT2LMHeadModel(gpt2))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder
