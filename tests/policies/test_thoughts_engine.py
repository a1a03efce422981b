"""Thoughts with an engine in this process: the same requests, one part after another."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from metarlgym.policies.vllm_engine import VLLMEnginePolicy
from metarlgym.policies.vllm_server import VLLMServerPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager
from metarlgym.rollout.protocol import PolicyLost
from tests.policies.test_thoughts_server import GUESS, TOKENIZER, ModelServer, Server, ServerPool
from tests.thinkers import ThinkingRenderer
from tests.tiny import specs, tokens, trial_maker


class Engine:
    """Stands for `vllm.LLM`: answers a request with what the model's server would."""

    def __init__(self, server):
        self.llm_engine = self
        self.server = server
        self.queue = {}
        self.asked = []

    def add_request(self, name, prompt, settings):
        self.asked.append(settings)
        body = {**vars(settings), "prompt": prompt["prompt_token_ids"]}
        self.queue[name] = self.server._answer(body)["choices"][0]

    def abort_request(self, names):
        for name in names:
            self.queue.pop(name, None)

    def step(self):
        done, self.queue = self.queue, {}
        for name, choice in done.items():
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            rows = [{token: SimpleNamespace(logprob=value)} for token, value in zip(ids, logprobs, strict=True)]
            output = SimpleNamespace(token_ids=ids, logprobs=rows, finish_reason=choice["finish_reason"])
            yield SimpleNamespace(request_id=name, outputs=[output], finished=True)


@pytest.mark.parametrize("opened", [False, True], ids=["sampled", "opened"])
def test_an_engine_plays_as_a_server_does(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=lambda **given: SimpleNamespace(**given)))
    renderer, limits = ThinkingRenderer(TOKENIZER, opened), Limits(3, 2)
    server = ModelServer()
    try:
        engine = Engine(server)
        policies = (
            VLLMEnginePolicy(engine, renderer),
            VLLMServerPolicy(ServerPool([Server(server.url, "fake")]), renderer),
        )
        played = []
        for policy in policies:
            server.begun.clear()
            trials = specs(GUESS, trial_maker(GUESS, 2), 4)
            played.append(RolloutManager(policy, renderer, limits).run(trials))
    finally:
        server.stop()
    assert tokens(played[0]) == tokens(played[1])
    assert sum(t.cut_thoughts for t in played[0]) > 4
    assert len(engine.asked) == len(server.bodies)
    assert [s.max_tokens for s in engine.asked].count(3) >= sum(t.cut_thoughts for t in played[0])


def test_an_engine_that_refuses_the_second_part_ends_the_rollout(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=lambda **given: SimpleNamespace(**given)))
    server = ModelServer()

    class Refusing(Engine):
        def add_request(self, name, prompt, settings):
            if any(name.startswith(known) for known in self.queue) or len(self.asked) >= 4:
                raise ValueError("the prompt is too long")
            super().add_request(name, prompt, settings)

    try:
        policy = VLLMEnginePolicy(Refusing(server), ThinkingRenderer(TOKENIZER, True))
        manager = RolloutManager(policy, policy.renderer, Limits(3, 2, trial_seconds=60))
        with pytest.raises(PolicyLost, match="ValueError: the prompt is too long"):
            manager.run(specs(GUESS, trial_maker(GUESS, 2), 4))
    finally:
        server.stop()
