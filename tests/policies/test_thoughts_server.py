"""Thoughts on a vLLM server: a forced close is a second request, and what is played is what the model itself plays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metarlgym.policies import vllm_server
from metarlgym.policies.sampling import sample, uniforms
from metarlgym.policies.server_pool import Server, ServerPool
from metarlgym.policies.vllm_server import VLLMServerPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager
from tests.fake_vllm import FakeVLLM
from tests.thinkers import GUESS, ThinkingRenderer, thinking_model, thinking_tokenizer
from tests.tiny import play, specs, tokens, trial_maker

TOKENIZER = thinking_tokenizer()
MODEL = thinking_model(TOKENIZER)
START, CLOSE, SO = TOKENIZER.convert_tokens_to_ids(["<think>", "</think>", "so"])
both = pytest.mark.parametrize("opened", [False, True], ids=["sampled", "opened"])


class ModelServer(FakeVLLM):
    """Answers with the model's own samples, from the random numbers that the in-process policy would use.

    A reply's parts then have to come with one seed; how many tokens a part begins after is read off its prompt.
    """

    def __init__(self, model=MODEL):
        super().__init__()
        self.model = model
        self.begun = {}
        self.answered = []

    def _answer(self, body):
        ids, seed = list(body["prompt"]), body["seed"]
        at_once = ids[-3:] == [START, SO, CLOSE]  # the prompt's thought was closed before the first request
        begin = self.begun.setdefault(seed, len(ids) - 2 * at_once)
        sampled, logprobs = [], []
        while len(sampled) < body["max_tokens"] and not (sampled and sampled[-1] in body["stop_token_ids"]):
            with torch.no_grad():
                logits = self.model.eval()(input_ids=torch.tensor([ids])).logits[:, -1]
            count = np.array([len(ids) - begin], dtype=np.uint64)
            (token,), (logprob,) = sample(logits, uniforms(np.array([seed], dtype=np.uint64), count))
            ids.append(token)
            sampled.append(token)
            logprobs.append(logprob)
        self.answered.append(sampled)
        reason = "stop" if sampled[-1] in body["stop_token_ids"] else "length"
        choice = {"token_ids": sampled, "logprobs": {"token_logprobs": logprobs}, "finish_reason": reason}
        return {"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"])}}


@pytest.fixture
def server():
    server = ModelServer()
    yield server
    server.stop()


def serve(server, opened, limits, trials=4, concurrency=None, model=MODEL, **trial):
    server.model = model
    renderer = ThinkingRenderer(TOKENIZER, opened)
    policy = VLLMServerPolicy(ServerPool([Server(server.url, "fake")]), renderer)
    return RolloutManager(policy, renderer, limits, concurrency).run(
        specs(GUESS, trial_maker(GUESS, 3, **trial), trials)
    )


@both
@pytest.mark.parametrize("thoughts", [0, 3, 40])
@pytest.mark.parametrize("rest", [{}, {"context_tokens": 30}], ids=["free", "bounded"])
def test_the_same_as_in_process(server, opened, thoughts, rest, monkeypatch):
    monkeypatch.setattr(vllm_server, "part_seed", lambda seed, part: seed)
    limits = Limits(3, thoughts, **rest)
    served = serve(server, opened, limits)
    own, _ = play(MODEL, ThinkingRenderer(TOKENIZER, opened), specs(GUESS, trial_maker(GUESS, 3), 4), limits)
    assert tokens(served) == tokens(own)
    for one, other in zip(served, own, strict=True):
        assert one.episodes == other.episodes and one.stop == other.stop
        counts = [(t.thoughts, t.cut_thoughts, t.thought_tokens, t.truncated_actions) for t in (one, other)]
        assert counts[0] == counts[1]
        for row, same in zip(one.rows, other.rows, strict=True):
            assert row.action_mask == same.action_mask
            assert row.logprobs == pytest.approx(same.logprobs, abs=1e-4)
    assert any(t.thoughts for t in served)


def test_a_model_that_opens_no_thought_costs_no_second_request(server):
    played = serve(server, False, Limits(3, 8), model=thinking_model(TOKENIZER, thinks=1e-9))
    turns = sum(t.turns for t in played)
    assert len(server.bodies) == turns and not any(t.thoughts for t in played)
    assert {body["max_tokens"] for body in server.bodies} == {3}


def test_a_thought_that_ends_in_time_costs_no_second_request(server):
    played = serve(server, True, Limits(3, 200))
    assert len(server.bodies) == sum(t.turns for t in played) == sum(t.thoughts for t in played)


@both
def test_a_forced_close_is_a_second_request(server, opened):
    played = serve(server, opened, Limits(3, 2))
    closed = [body for body in server.bodies if body["prompt"][-2:] == [SO, CLOSE]]
    assert len(closed) == sum(t.cut_thoughts for t in played) > 5
    assert all(body["max_tokens"] == 3 for body in closed)
    # A seed of its own for every request.
    assert len({body["seed"] for body in server.bodies}) == len(server.bodies)


@both
def test_the_same_whatever_the_concurrency(server, opened):
    alone = serve(server, opened, Limits(3, 3), concurrency=1)
    assert tokens(serve(server, opened, Limits(3, 3))) == tokens(alone)


@both
def test_contexts_without_earlier_thoughts(server, opened):
    played = serve(server, opened, Limits(3, 3), keep_thoughts="none")
    assert all(len(t.rows) == t.turns for t in played)


def test_a_retry_repeats_one_part_of_a_reply(server):
    expected = serve(server, True, Limits(3, 2))
    server.bodies.clear()
    server.fault = lambda n: 503 if n % 4 == 1 else None
    assert tokens(serve(server, True, Limits(3, 2))) == tokens(expected)
