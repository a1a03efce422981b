"""The arms of `rollout_http`: ways to play the same trials against the same server. Each measurement is one process:

    python benchmarks/http_arms.py ours '{"url": "http://127.0.0.1:8000", "trials": 8}'

so that its processor time and its peak memory are its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import aiohttp
import orjson
from latency_server import MODEL, Answers, Utterance
from rollout_latency import EPISODES, GUESSES

from metarlgym import MetaTrajectory, Task, Trial, make
from metarlgym.policies.server_pool import Server, ServerPool
from metarlgym.policies.vllm_server import VLLMServerPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.protocol import ActReply, ActRequest, Callback, Policy
from metarlgym.rollout.render import ChatRenderer
from metarlgym.rollout.session import Session
from metarlgym.training.scratch import chat_tokenizer

LIMITS = Limits(action_tokens=32)


@dataclass(frozen=True)
class Case:
    """What is played, and against which server."""

    url: str = ""
    trials: int = 256
    concurrency: int = 256
    repetition: int = 0
    """Names the latencies."""
    mean: float = 0.2
    guesses: tuple[int, int] = (1, 10)
    """What the policy guesses; up to 10 it never wins, and all trials are equally long."""

    @property
    def specs(self) -> list[TrialSpec]:
        return [
            TrialSpec(make_trial, Task("GuessNumber-v0", {"number": 11 + i % 10}), i, ("http", self.repetition, i))
            for i in range(self.trials)
        ]

    @property
    def answers(self) -> Answers:
        return Answers(utterances(*self.guesses), self.mean)


def make_trial() -> Trial:
    return make("GuessNumber-v0", guesses=GUESSES, episodes=EPISODES)  # type: ignore[return-value]


def make_renderer() -> ChatRenderer:
    """One token per byte: contexts of some hundred to two thousand ids, the length that real ones have."""
    return ChatRenderer(chat_tokenizer())


def utterances(low: int, high: int) -> list[Utterance]:
    """Guesses as a server would say them, with log-probabilities of the usual number of digits."""
    renderer = make_renderer()
    said = []
    for number in range(low, high + 1):
        text = f"My guess is [{number}]."
        ids = [*renderer.encode(text), renderer.end_id]
        rng = random.Random(number)
        said.append(Utterance(text, ids, renderer.tokenizer.convert_ids_to_tokens(ids), [-rng.random() for _ in ids]))
    return said


def server_policy(case: Case, renderer: ChatRenderer, in_flight: int = 4096) -> VLLMServerPolicy:
    return VLLMServerPolicy(ServerPool([Server(case.url, MODEL)], concurrency=in_flight), renderer)


def open_session(spec: TrialSpec, renderer: ChatRenderer) -> Session:
    return Session(spec.make_trial(), spec.task, spec.seed, spec.policy_seed, renderer, LIMITS)


# ---------------------------------------------------------------------- ours


def ours(case: Case) -> list[MetaTrajectory]:
    """The manager starts a trial whenever one ends."""
    renderer = make_renderer()
    policy = server_policy(case, renderer)
    return RolloutManager(policy, renderer, LIMITS, case.concurrency).run(case.specs)


def pooled(case: Case) -> list[MetaTrajectory]:
    """All trials are alive and their requests queue for the limited places, as in training."""
    renderer = make_renderer()
    policy = server_policy(case, renderer, case.concurrency)
    return RolloutManager(policy, renderer, LIMITS).run(case.specs)


class AnswersHere(Policy):
    """The server's answers without the server: what is left is the cost of the loop itself."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    def submit(self, request: ActRequest, done: Callback) -> None:
        self.loop.call_later(self.answers.latency(request.seed), self._reply, request.seed, done)

    def _reply(self, seed: int, done: Callback) -> None:
        said = self.answers.say(seed)
        done(ActReply(said.ids, said.logprobs))


def loop_alone(case: Case) -> list[MetaTrajectory]:
    return RolloutManager(AnswersHere(case.answers), make_renderer(), LIMITS, case.concurrency).run(case.specs)


# ---------------------------------------------------------------------- others


def lock_step(case: Case) -> list[MetaTrajectory]:
    """Turn t of all trials is sent together and all are awaited: loops over batched environments. Our HTTP client."""
    renderer = make_renderer()
    policy = server_policy(case, renderer, case.concurrency)

    async def ask(request: ActRequest) -> ActReply:
        future: asyncio.Future[ActReply | BaseException] = asyncio.get_running_loop().create_future()
        policy.submit(request, future.set_result)
        reply = await future
        if isinstance(reply, BaseException):
            raise reply
        return reply

    async def play() -> list[MetaTrajectory]:
        await policy.begin(asyncio.get_running_loop())
        sessions = [open_session(spec, renderer) for spec in case.specs]
        requests = [session.begin() for session in sessions]
        while any(requests):
            asked = [request for request in requests if request is not None]
            replies = await asyncio.gather(*map(ask, asked))
            requests = [request.session.receive(reply) for request, reply in zip(asked, replies, strict=True)]
        await policy.end()
        return [session.trajectory for session in sessions]

    return asyncio.run(play())


def openai_client(case: Case, tuned: bool = False) -> list[MetaTrajectory]:
    """One task per trial around the `openai` package's client, a semaphore for the limit; the same sessions.

    Tuned: its aiohttp transport, without a limit on connections, and the ids go past its checks of every single one.
    """
    import httpx2
    import openai

    renderer = make_renderer()
    settings = {"return_token_ids": True, "stop_token_ids": sorted(renderer.end_ids), "skip_special_tokens": False}
    options: dict[str, Any] = {}
    if tuned:
        options["http_client"] = openai.DefaultAioHttpClient(limits=httpx2.Limits(max_connections=None))

    async def play() -> list[MetaTrajectory]:
        slots = asyncio.Semaphore(case.concurrency)

        async def one(spec: TrialSpec) -> MetaTrajectory:
            async with slots:
                session = open_session(spec, renderer)
                request = session.begin()
                while request is not None:
                    answer = await client.completions.create(
                        model=MODEL,
                        prompt="" if tuned else request.ids,
                        max_tokens=request.max_tokens,
                        seed=request.seed,
                        temperature=1.0,
                        logprobs=0,
                        extra_body={**settings, "prompt": request.ids} if tuned else settings,
                    )
                    choice: Any = answer.choices[0]
                    end = "end" if choice.finish_reason == "stop" else "length"
                    request = session.receive(ActReply(choice.token_ids, choice.logprobs.token_logprobs, end))
                return session.trajectory

        async with openai.AsyncOpenAI(base_url=case.url + "/v1", api_key="none", max_retries=0, **options) as client:
            return list(await asyncio.gather(*map(one, case.specs)))

    return asyncio.run(play())


def bare_client(case: Case) -> list[MetaTrajectory]:
    """aiohttp alone: the bodies of an average turn are posted and read, nothing is played or parsed."""
    prompt = [100 + i % 150 for i in range(700)]
    specs, turns = case.specs, EPISODES * GUESSES

    async def play() -> None:
        slots = asyncio.Semaphore(case.concurrency)
        headers = {"Content-Type": "application/json"}

        async def one(index: int) -> None:
            async with slots:
                for turn in range(turns):
                    seed = index * turns + turn
                    body = orjson.dumps({"prompt": prompt, "seed": seed})
                    async with session.post(case.url + "/v1/completions", data=body, headers=headers) as response:
                        await response.read()

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*map(one, range(len(specs))))

    asyncio.run(play())
    return []


Arm = Callable[[Case], list[MetaTrajectory]]
ARMS: dict[str, Arm] = {
    "ours": ours,
    "pooled": pooled,
    "loop": loop_alone,
    "lock_step": lock_step,
    "openai": openai_client,
    "openai_tuned": partial(openai_client, tuned=True),
    "bare": bare_client,
}


@dataclass(frozen=True)
class Measurement:
    """One run of an arm."""

    wall: float
    cpu: float
    """Of all threads of the client process, in user and system mode."""
    calls: int
    peak_mib: float
    """Of the client process, with what it imports."""


def measure(arm: str, case: Case) -> Measurement:
    # What was imported is left out of garbage collection, or arms would pay by how much of it there is.
    gc.collect()
    gc.freeze()
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    played = ARMS[arm](case)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    check(played)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    calls = sum(t.turns for t in played) or case.trials * EPISODES * GUESSES
    return Measurement(wall, cpu, calls, after.ru_maxrss / 1024)


def check(played: Sequence[MetaTrajectory]) -> None:
    for trajectory in played:
        if trajectory.error is not None:
            raise RuntimeError(f"a trial failed: {trajectory.error}")


def main() -> None:
    arm, settings = sys.argv[1:]
    print(json.dumps(asdict(measure(arm, Case(**json.loads(settings))))))


if __name__ == "__main__":
    main()
