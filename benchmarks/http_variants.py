"""The variants of `rollout_http`: clients that play the same trials against the same server, one process per run:

    python benchmarks/http_variants.py ours '{"url": "http://127.0.0.1:8000", "trials": 8}'

so that each measures its own CPU time and peak memory.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from latency_server import MODEL, Answers, allow_files, make_renderer
from rollout_http import TURNS, Case, system_text

from metarlgym import MetaTrajectory
from metarlgym.policies.server_pool import Server, ServerPool
from metarlgym.policies.vllm_server import VLLMServerPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.protocol import ActReply, ActRequest, Callback, Policy
from metarlgym.rollout.render import ChatRenderer
from metarlgym.rollout.session import Session
from metarlgym.seeding import derive

LIMITS = Limits(action_tokens=32)


def server_policy(case: Case, renderer: ChatRenderer) -> VLLMServerPolicy:
    return VLLMServerPolicy(ServerPool([Server(case.url, MODEL)], case.concurrency), renderer)


def open_session(spec: TrialSpec, renderer: ChatRenderer) -> Session:
    return Session(spec.make_trial(), spec.task, spec.seed, spec.policy_seed, renderer, LIMITS)


def ours(case: Case) -> list[MetaTrajectory]:
    """The rollout manager starts a new trial whenever one ends."""
    renderer = make_renderer()
    policy = server_policy(case, renderer)
    return RolloutManager(policy, renderer, LIMITS, case.concurrency).run(case.specs)


def pooled(case: Case) -> list[MetaTrajectory]:
    """All trials run concurrently and their requests queue for a limited number of slots, as in training."""
    renderer = make_renderer()
    policy = server_policy(case, renderer)
    return RolloutManager(policy, renderer, LIMITS).run(case.specs)


class AnswersHere(Policy):
    """The server's answers without the server; what remains is the cost of the loop itself."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    def submit(self, request: ActRequest, done: Callback) -> None:
        self.loop.call_later(self.answers.latency(request.seed), self._reply, request.seed, done)

    def _reply(self, seed: int, done: Callback) -> None:
        said = self.answers.say(seed)
        done(ActReply(said.ids, said.logprobs))


def loop_alone(case: Case) -> list[MetaTrajectory]:
    return RolloutManager(AnswersHere(case.answers), make_renderer(), LIMITS, case.concurrency).run(case.specs)


def lock_step(case: Case) -> list[MetaTrajectory]:
    """Send turn t of all trials together and await all answers, as loops over batched environments do; our HTTP
    client."""
    renderer = make_renderer()
    policy = server_policy(case, renderer)

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
            asked = {i: request for i, request in enumerate(requests) if request is not None}
            replies = await asyncio.gather(*map(ask, asked.values()))
            requests = [None] * len(sessions)
            for i, reply in zip(asked, replies, strict=True):
                requests[i] = sessions[i].receive(reply)
        await policy.end()
        return [session.trajectory for session in sessions]

    return asyncio.run(play())


def openai_client(case: Case, tuned: bool = False) -> list[MetaTrajectory]:
    """One task per trial around the `openai` package's client, with a semaphore as limit and the same sessions.

    Tuned: with its aiohttp transport, without a connection limit, and bypassing its validation of every token id.
    """
    import openai

    renderer = make_renderer()
    settings = {"return_token_ids": True, "stop_token_ids": sorted(renderer.end_ids), "skip_special_tokens": False}
    options: dict[str, Any] = {}
    if tuned:
        import httpx2

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


def verifiers_client(case: Case, in_process: bool = True) -> list[MetaTrajectory]:
    """An `Agent` of the `verifiers` package with the environment as its user, through chat completions.

    The package's text-only harness, `null`, starts a program for every turn. A harness may also run in process; the one
    here only sends a turn's messages to the endpoint that verifiers provides.
    """
    import verifiers.v1 as vf
    from verifiers.v1.dialects.chat import message_to_wire
    from verifiers.v1.harnesses.null import NullHarness
    from verifiers.v1.runtimes import ProgramResult, SubprocessConfig

    class InProcess(NullHarness):
        http: aiohttp.ClientSession

        async def setup(self, runtime: Any) -> None: ...

        async def launch(self, ctx, trace, runtime, endpoint, secret, urls, data, *_, **__):  # type: ignore[no-untyped-def]
            messages = [{"role": "system", "content": data.system_prompt}, *map(message_to_wire, data.prompt)]
            body = orjson.dumps({"model": MODEL, "messages": messages})
            headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
            async with self.http.post(endpoint + "/chat/completions", data=body, headers=headers) as response:
                return ProgramResult(int(response.status != 200), "", await response.text())

    async def play() -> list[MetaTrajectory]:
        slots = asyncio.Semaphore(case.concurrency)
        client = vf.EvalClientConfig(base_url=case.url + "/v1", api_key_var="HOME")  # the key may be any text
        config = vf.AgentConfig(harness={"id": "null"}, runtime=SubprocessConfig(), model=MODEL, client=client)

        async def one(index: int, spec: TrialSpec) -> MetaTrajectory:
            trial = spec.make_trial()
            async with slots:
                text, _ = trial.reset(options={"task": spec.task, "episode_seed": spec.seed})
                row = vf.TaskData(idx=index, prompt=None, system_prompt=system_text(case, index))
                async with agent.interaction(vf.Task(row)) as interaction:
                    while trial.live:
                        segment = await interaction.turn(text)
                        if segment.terminated:
                            raise RuntimeError(f"verifiers ended a trial: {interaction.trace.errors}")
                        text = trial.step(segment.last_reply).observation
            return MetaTrajectory(spec.task, spec.seed, trial.history, trial.episodes)

        connector = aiohttp.TCPConnector(limit=0)
        async with vf.Agent(config) as agent, aiohttp.ClientSession(connector=connector) as http:
            if in_process:
                agent.harness = InProcess(agent.harness.config)
                agent.harness.http = http
            return list(await asyncio.gather(*(one(i, spec) for i, spec in enumerate(case.specs))))

    return asyncio.run(play())


def bare_client(case: Case) -> list[MetaTrajectory]:
    """aiohttp alone: posts and reads bodies of an average turn's size, without playing or parsing."""
    prompt = [100 + i % 150 for i in range(700)]

    async def play() -> None:
        headers = {"Content-Type": "application/json"}

        async def one(index: int) -> None:
            for turn in range(TURNS):
                body = orjson.dumps({"prompt": prompt, "seed": derive("bare", index, turn)})
                async with session.post(case.url + "/v1/completions", data=body, headers=headers) as response:
                    await response.read()

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*map(one, range(case.trials)))

    asyncio.run(play())
    return []


Variant = Callable[[Case], list[MetaTrajectory]]
VARIANTS: dict[str, Variant] = {
    "ours": ours,
    "pooled": pooled,
    "loop": loop_alone,
    "bare": bare_client,
    "lock_step": lock_step,
    "openai": openai_client,
    "openai_tuned": partial(openai_client, tuned=True),
    "verifiers": verifiers_client,
    "verifiers_null": partial(verifiers_client, in_process=False),
}


@dataclass(frozen=True)
class Measurement:
    """One run of a variant."""

    wall: float
    cpu: float
    """CPU time of all threads of the client process and its child processes, user and system."""
    calls: int
    peak_mib: float
    """Peak memory of the client process, including imports."""


def measure(variant: str, case: Case) -> Measurement:
    """Measure a variant's run, after a warm-up of one trial."""
    VARIANTS[variant](replace(case, trials=1, repetition=-1))
    # Exclude imported objects from garbage collection, or variants with more imports would pay more.
    gc.collect()
    gc.freeze()
    cpu, start = processor_time(), time.perf_counter()
    played = VARIANTS[variant](case)
    wall, cpu = time.perf_counter() - start, processor_time() - cpu
    for trajectory in played:
        if trajectory.error is not None:
            raise RuntimeError(f"a trial failed: {trajectory.error}")
    calls = sum(t.turns for t in played) or case.trials * TURNS
    return Measurement(wall, cpu, calls, peak_mib())


def processor_time() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_mib() -> float:
    """Peak memory. `ru_maxrss` would include the parent's peak, since a process starts as a copy of it."""
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    allow_files()
    variant, settings = sys.argv[1:]
    print(json.dumps(asdict(measure(variant, Case(**json.loads(settings))))))


if __name__ == "__main__":
    main()
