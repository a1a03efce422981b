"""`metarlgym new-model --pretrained smollm2`: the model that comes out is the real one."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import GenerationConfig

from metarlgym.datatypes import Message
from metarlgym.models.loading import load_model, load_tokenizer
from metarlgym.rollout.render import ChatRenderer
from tests.e2e.launchers import ROOT

pytestmark = pytest.mark.e2e

QUESTION = (Message("system", "Answer in one word."), Message("user", "What is the capital of France?"))


def test_tokenizer_and_settings_are_smollm2s(smollm2):
    tokenizer = load_tokenizer(str(smollm2))
    assert len(tokenizer) == 49_152 and tokenizer.model_max_length == 8192
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>" and tokenizer.eos_token_id == 2
    # Digits stand alone, and blanks and bytes come back as they were.
    assert [tokenizer.decode(i) for i in tokenizer.encode("door 2048")] == ["door", " ", "2", "0", "4", "8"]
    for text in ("a  b\n\n c.", "naïve café, 東京 🙂", " [1] , .", "it 's"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    generation = GenerationConfig.from_pretrained(smollm2)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)
    assert ChatRenderer(tokenizer).end_id == 2


@pytest.mark.parametrize("name", ["smollm2", "smollm2_bf16"])
def test_the_model_speaks(name, request):
    folder = request.getfixturevalue(name)
    model, tokenizer = load_model(str(folder), dtype="auto"), load_tokenizer(str(folder))
    assert model.dtype == (torch.bfloat16 if name == "smollm2_bf16" else torch.float32)
    assert model.num_parameters() == 134_515_008 and model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    prompt = torch.tensor([ChatRenderer(tokenizer).prompt(QUESTION)])
    answer = model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
    assert "Paris" in tokenizer.decode(answer) and answer[-1] == 2


def test_eval(smollm2, tmp_path):
    arguments = ["--env-args", '{"doors": 2}', "--episodes", "3", "--trials", "4", "--max-action-tokens", "16"]
    command = ["-m", "metarlgym.cli.main", "eval", "--model", str(smollm2), "--env", "Doors-v0", *arguments]
    report = tmp_path / "eval.json"
    done = subprocess.run(
        [sys.executable, *command, "--json", str(report)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert 0 < found["return_mean"] < 2.5 == found["optimum"]
    assert all(found["controls"][name]["curve"] for name in ("no_memory", "shuffled"))
