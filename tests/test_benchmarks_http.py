"""The latency server's answers and delays follow a request's seed; all variants of the HTTP benchmark play the same."""

import asyncio
import importlib.util
import sys
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from http_variants import VARIANTS, bare_client, lock_step, loop_alone, ours, pooled
from latency_server import chat_seed, running
from rollout_http import TURNS, Case, chat_sums, seeded_sums, system_text
from tiny import tokens

# Guesses that can be right, so that trials differ in length and in what they return.
CASE = Case(trials=6, concurrency=3, mean=0.002, guesses=(1, 20))


@pytest.fixture(scope="module")
def url():
    with running(CASE.answers) as url:
        yield url


def post(url, path, *bodies):
    """[(seconds, answer)] of requests sent one after the other."""

    async def ask():
        answers = []
        async with aiohttp.ClientSession() as session:
            for body in bodies:
                start = time.perf_counter()
                async with session.post(url + path, json=body) as response:
                    answer = await (response.text() if body.get("stream") else response.json())
                answers.append((time.perf_counter() - start, answer))
        return answers

    return asyncio.run(ask())


def signature(trajectories):
    return [(t.returns, [[turn.action for turn in e.turns] for e in t.episodes]) for t in trajectories]


def test_what_is_said_follows_from_the_seed(url):
    bodies = [{"prompt": [5, 6, 7], "seed": seed} for seed in (3, 4, 3)]
    first, second, again = (answer for _, answer in post(url, "/v1/completions", *bodies))
    assert first == again != second
    said = CASE.answers.say(3)
    choice = first["choices"][0]
    assert (choice["token_ids"], choice["text"], choice["finish_reason"]) == (said.ids, said.text, "stop")
    assert choice["logprobs"]["token_logprobs"] == said.logprobs
    assert len(choice["logprobs"]["top_logprobs"]) == len(said.ids) == first["usage"]["completion_tokens"]
    assert choice["prompt_token_ids"] == [5, 6, 7] and first["usage"]["prompt_tokens"] == 3


def test_latency_follows_from_the_seed():
    answers = replace(CASE, mean=0.1).answers
    seeds = sorted(range(50), key=answers.latency)
    seeds = [seeds[0], seeds[40], seeds[0]]
    with running(answers) as url:
        post(url, "/v1/completions", {"prompt": [1], "seed": 0})
        for seed, (seconds, _) in zip(
            seeds, post(url, "/v1/completions", *({"prompt": [1], "seed": s} for s in seeds))
        ):
            assert answers.latency(seed) <= seconds < answers.latency(seed) + 1.0


def test_chat_is_seeded_by_the_first_message_and_the_length(url):
    messages = [{"role": "system", "content": system_text(CASE, 0)}, {"role": "user", "content": "hello"}]
    said = CASE.answers.say(chat_seed(messages)).text
    (_, whole), (_, stream) = post(
        url, "/v1/chat/completions", {"messages": messages}, {"messages": messages, "stream": True}
    )
    assert whole["choices"][0]["message"]["content"] == said
    assert said in stream and stream.endswith("data: [DONE]\n\n")
    assert chat_seed(messages) != chat_seed([*messages, messages[1]])
    assert len(chat_sums(CASE, CASE.answers)) == CASE.trials


def test_arms_play_the_same(url):
    case = replace(CASE, url=url)
    played = ours(case)
    assert all(t.error is None for t in played)
    assert len({t.turns for t in played}) > 1 and len({t.total for t in played}) > 1
    others = {
        "sequential": ours(replace(case, concurrency=1)),
        "pooled": pooled(case),
        "lock_step": lock_step(case),
        "loop": loop_alone(case),
    }
    if importlib.util.find_spec("openai"):
        others |= {name: VARIANTS[name](case) for name in ("openai", "openai_tuned")}
    for name, trajectories in others.items():
        assert signature(trajectories) == signature(played), name
        assert tokens(trajectories) == tokens(played), name
        assert [r.logprobs for t in trajectories for r in t.rows] == [r.logprobs for t in played for r in t.rows], name


def test_trials_of_the_benchmark_are_equally_long(url):
    case = replace(CASE, url=url, trials=2, guesses=(1, 10))
    with running(case.answers) as url:
        assert [t.turns for t in ours(replace(case, url=url))] == [TURNS] * 2
        assert bare_client(replace(case, url=url)) == []
    assert len(seeded_sums(case, case.answers)) == 2


def test_verifiers_plays_whole_trials(url):
    pytest.importorskip("verifiers.v1")
    played = VARIANTS["verifiers"](replace(CASE, url=url, trials=2))
    assert all(len(t.episodes) == t.max_episodes for t in played)
