"""A mock vLLM server with predetermined latencies, so that the ideal time of any rollout can be computed.

It answers `/v1/completions` in vLLM's format with `return_token_ids` and `logprobs: 0`, after a lognormal latency that
depends only on the request's `seed`, so that all clients of a comparison see the same latencies. It accepts any number
of concurrent requests without slowing down any of them. The answer also depends only on the seed.
`/v1/chat/completions` is for clients that send text and no seed: the seed is derived from the first message's text and
the number of messages. `/stats` reports how late answers were, so that a client is not blamed for a slow server.

It runs in its own process: it reads its settings as one line of JSON from stdin, writes its port to stdout, and exits
when stdin is closed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from metarlgym.policies.scripted import DelayedPolicy, ScriptedPolicy
from metarlgym.rollout.render import ChatRenderer
from metarlgym.seeding import derive

MODEL = "policy"
BACKLOG = 4096
"""Connection backlog, since a thousand clients connect at once."""


@dataclass(frozen=True)
class Utterance:
    """One possible answer of the policy."""

    text: str
    ids: list[int]
    tokens: list[str]
    logprobs: list[float]


def make_renderer() -> ChatRenderer:
    """One token per byte: contexts of a few hundred to two thousand ids, as long as real ones."""
    from metarlgym.models.scratch import chat_tokenizer  # imports torch, which `verifiers` does not need

    return ChatRenderer(chat_tokenizer())


def utterances(low: int, high: int) -> list[Utterance]:
    """Guesses as a server would return them, with log-probabilities of the usual number of digits."""
    renderer = make_renderer()
    said = []
    for guess in range(low, high + 1):
        text = f"My guess is [{guess}]."
        ids = [*renderer.encode(text), renderer.end_id]
        rng = random.Random(guess)
        said.append(Utterance(text, ids, renderer.tokenizer.convert_ids_to_tokens(ids), [-rng.random() for _ in ids]))
    return said


@dataclass(frozen=True)
class Answers:
    """Answers and latencies as functions of a request's seed.

    Args:
        utterances: possible answers, equally likely.
        mean: mean latency in seconds.
        sigma: standard deviation of the latency's logarithm.
    """

    utterances: Sequence[Utterance]
    mean: float = 0.2
    sigma: float = 0.8
    delayed: DelayedPolicy = field(init=False, repr=False)

    def __post_init__(self) -> None:
        silent = ScriptedPolicy(lambda trial, rng: "")
        object.__setattr__(self, "delayed", DelayedPolicy(silent, self.mean, self.sigma))

    def latency(self, seed: int) -> float:
        return self.delayed.latency(seed)

    def say(self, seed: int) -> Utterance:
        return self.utterances[seed % len(self.utterances)]


def completion(prompt: list[int], said: Utterance, seed: int) -> dict[str, Any]:
    """A response body as vLLM writes it, with all fields, including null ones."""
    places = [0]
    for token in said.tokens[:-1]:
        places.append(places[-1] + len(token))
    return {
        "id": f"cmpl-{seed:032x}",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "text": said.text,
                "logprobs": {
                    "text_offset": places,
                    "token_logprobs": said.logprobs,
                    "tokens": said.tokens,
                    "top_logprobs": [{t: p} for t, p in zip(said.tokens, said.logprobs, strict=True)],
                },
                "finish_reason": "stop",
                "stop_reason": said.ids[-1],
                "token_ids": said.ids,
                "prompt_logprobs": None,
                "prompt_token_ids": prompt,
            }
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {
            "prompt_tokens": len(prompt),
            "total_tokens": len(prompt) + len(said.ids),
            "completion_tokens": len(said.ids),
            "prompt_tokens_details": None,
        },
        "kv_transfer_params": None,
    }


def chat_seed(messages: list[dict[str, Any]]) -> int:
    """The seed of a chat request; message contents are texts, or lists of parts whose first is the text."""
    first = messages[0]["content"]
    return derive("chat", first if isinstance(first, str) else first[0]["text"], len(messages))


def chat_completion(said: Utterance, seed: int) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{seed:032x}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": said.text},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "total_tokens": 1 + len(said.ids), "completion_tokens": len(said.ids)},
    }


def stream_of(answer: dict[str, Any]) -> bytes:
    """A chat completion as server-sent events, for clients that requested streaming: everything in one event."""
    choice = answer["choices"][0]
    part = {"index": 0, "delta": choice["message"], "logprobs": None, "finish_reason": choice["finish_reason"]}
    chunk = {**answer, "object": "chat.completion.chunk", "choices": [part]}
    return b"data: %b\n\ndata: [DONE]\n\n" % orjson.dumps(chunk)


class LatencyServer:
    """The request handlers. Latency counts from when a request's body has been read."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.late: list[float] = []
        self.cpu = time.process_time()
        self.bytes = [0, 0]

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/stats", self.stats)
        return app

    async def completions(self, request: web.Request) -> web.Response:
        body = await request.read()
        data = orjson.loads(body)
        seed = data["seed"]
        return await self._answer(body, completion(data["prompt"], self.answers.say(seed), seed), seed)

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.read()
        data = orjson.loads(body)
        seed = chat_seed(data["messages"])
        return await self._answer(body, chat_completion(self.answers.say(seed), seed), seed, data.get("stream", False))

    async def _answer(self, body: bytes, answer: dict[str, Any], seed: int, stream: bool = False) -> web.Response:
        clock = asyncio.get_running_loop().time
        due = clock() + self.answers.latency(seed)
        text = stream_of(answer) if stream else orjson.dumps(answer)
        self.bytes[0] += len(body)
        self.bytes[1] += len(text)
        await asyncio.sleep(due - clock())
        self.late.append(clock() - due)
        return web.Response(body=text, content_type="text/event-stream" if stream else "application/json")

    async def stats(self, request: web.Request) -> web.Response:
        """Statistics since the last call."""
        late, cpu = sorted(self.late) or [0.0], time.process_time()
        calls = max(1, len(self.late))
        answer = {
            "calls": len(self.late),
            "cpu_ms_per_call": (cpu - self.cpu) / calls * 1e3,
            "late_mean_ms": sum(late) / len(late) * 1e3,
            "late_p99_ms": late[int(0.99 * (len(late) - 1))] * 1e3,
            "request_bytes": self.bytes[0] / calls,
            "response_bytes": self.bytes[1] / calls,
        }
        self.late, self.cpu, self.bytes = [], cpu, [0, 0]
        return web.Response(body=orjson.dumps(answer), content_type="application/json")


async def serve(answers: Answers) -> None:
    """Serve until stdin is closed, which also happens when the parent process is gone."""
    runner = web.AppRunner(LatencyServer(answers).app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG)
    await site.start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


@contextmanager
def running(answers: Answers) -> Iterator[str]:
    """Run a server in a separate process; yields its URL."""
    settings = {"mean": answers.mean, "sigma": answers.sigma, "utterances": [asdict(u) for u in answers.utterances]}
    command = [sys.executable, str(Path(__file__).resolve())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(settings) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the latency server did not start; its message stands above")
            yield f"http://127.0.0.1:{json.loads(line)['port']}"
        finally:
            process.stdin.close()
            process.wait(10)


def allow_files() -> None:
    """Raise the limit of open files: a thousand connections exceed the usual one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    allow_files()
    settings = json.loads(sys.stdin.readline())
    said = [Utterance(**utterance) for utterance in settings.pop("utterances")]
    gc.disable()  # a garbage collection pause would count against the client
    asyncio.run(serve(Answers(said, **settings)))


if __name__ == "__main__":
    main()
