"""A vLLM server and ZeRO-3 with two processes train the same as one process does, to the last digits."""

import pytest
import requests
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.servers.conftest import DOORS, LETTERS, ONE, ZERO3_TRAIN, metrics, run, training, trials

TASKS = {"doors": DOORS, "tied": LETTERS}
LORA = ["--use_peft", "true", "--lora_r", "8", "--lora_target_modules", "q_proj", "v_proj", "down_proj"]
PROMPTS = 32


def train(launcher, name, server, folder, rows, extra):
    done = run(training(launcher, TASKS[name], server.model, server.url, folder, rows, *extra))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-20000:]
    return metrics(folder)


def greedy_answers(model, prompts):
    out = []
    for ids in prompts:
        tokens = torch.tensor([ids])
        with torch.no_grad():
            made = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=8)
        out.append(made[0, len(ids) :].tolist())
    return out


def served_answers(server, prompts, end):
    out = []
    for ids in prompts:
        body = {"model": str(server.model), "prompt": ids, "max_tokens": 8, "temperature": 0, "return_token_ids": True}
        body |= {"stop_token_ids": [end], "ignore_eos": True}
        answer = requests.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
        out.append(answer["choices"][0]["token_ids"])
    return out


def check_last_sync(server, final):
    """The server holds what the run ended with."""
    model = AutoModelForCausalLM.from_pretrained(final).eval()
    tokenizer = AutoTokenizer.from_pretrained(final)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(4, len(tokenizer), (5 + i,), generator=generator).tolist() for i in range(PROMPTS)]
    assert served_answers(server, prompts, tokenizer.eos_token_id) == greedy_answers(model, prompts)


@pytest.mark.parametrize(
    ("name", "extra"),
    [("doors", []), ("tied", []), ("tied", LORA)],
    ids=["Doors, untied head", "chat, tied head", "chat, tied head, LoRA"],
)
def test_zero3_with_two_processes_equals_one_process(name, extra, serve, tmp_path):
    server = serve(name)
    two = train(ZERO3_TRAIN, name, server, tmp_path / "two", 4, extra)
    check_last_sync(server, tmp_path / "two" / "final")
    one = train(ONE, name, server, tmp_path / "one", 8, extra)
    check_last_sync(server, tmp_path / "one" / "final")

    assert len(one) == len(two) == 10
    worst = max(entry["sampling/sampling_logp_difference/max"] for entry in one + two)
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-4), a["step"]
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4, abs=1e-6), a["step"]
    assert any(entry["grad_norm"] > 1e-3 for entry in one)  # otherwise equality would mean nothing
    assert worst <= 1e-4
    # The main process writes the trials it played itself: the first half of them under two processes.
    steps = [trials(tmp_path / folder) for folder in ("one", "two")]
    firsts = [line for i, line in enumerate(steps[0]) if i % 8 < 4]
    assert firsts == steps[1]
    weights = [load_file(tmp_path / folder / "final" / "model.safetensors") for folder in ("one", "two")]
    gap = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])
    moved = load_file(server.model / "model.safetensors")
    distance = max(float((weights[0][name] - moved[name]).abs().max()) for name in moved)
    print(f"logp difference at most {worst:.2g}; final weights apart {gap:.2g}, moved {distance:.2g}")
    assert gap <= 1e-4 < distance
