"""VLLMEnginePolicy: acts with a vLLM engine held in this process (TRL's `vllm_mode: colocate`).

The engine is stepped on the event loop: each step advances all waiting requests by one token.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

from metarlgym.policies.temperature import check_temperature
from metarlgym.rollout.protocol import ActReply, ActRequest, Callback, Policy, PolicyLost
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.reply import Reply, part_seed


class _Waiting:
    """A request in the engine; a reply whose thought was closed by force takes several, one after another."""

    __slots__ = ("done", "part", "reply", "request")

    def __init__(self, request: ActRequest, done: Callback, reply: Reply | None) -> None:
        self.request, self.done, self.reply = request, done, reply
        self.part = 0


class VLLMEnginePolicy(Policy):
    """Samples from a `vllm.LLM`.

    Args:
        llm: created with `logprobs_mode="processed_logprobs"`.
        renderer: defines which tokens end an action.
        temperature: sampling temperature, above 0.
        truncation: `top_p`, `top_k` or `min_p`, to truncate the sampling distribution.
    """

    def __init__(
        self, llm: Any, renderer: Renderer, temperature: float = 1.0, truncation: Mapping[str, float] | None = None
    ) -> None:
        check_temperature(temperature)
        self.engine = llm.llm_engine
        self.renderer = renderer
        self._settings: dict[str, Any] = {
            "temperature": temperature,
            "logprobs": 0,
            "ignore_eos": True,
            "detokenize": False,
        }
        self._settings |= {"stop_token_ids": sorted(renderer.end_ids), **(truncation or {})}
        self._numbers = itertools.count()
        self._waiting: dict[str, _Waiting] = {}
        self._scheduled = False

    def submit(self, request: ActRequest, done: Callback) -> None:
        self._add(_Waiting(request, done, Reply.to(request, self.renderer)))
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._step)

    def _add(self, waiting: _Waiting) -> None:
        """Hand the next part of a reply to the engine."""
        from vllm import SamplingParams

        request, reply = waiting.request, waiting.reply
        name = f"act-{next(self._numbers)}"
        ids, most = list(request.ids), request.max_tokens
        if reply is not None:
            ids, most = ids + reply.ids, reply.allowance
        settings = SamplingParams(max_tokens=most, seed=part_seed(request.seed, waiting.part), **self._settings)
        self._waiting[name] = waiting
        self.engine.add_request(name, {"prompt_token_ids": ids}, settings)

    def forget(self, context: int) -> None:
        gone = [name for name, waiting in self._waiting.items() if waiting.request.context == context]
        for name in gone:
            del self._waiting[name]
        if gone:
            self.engine.abort_request(gone)

    async def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        await super().begin(loop)
        self._scheduled = False

    async def end(self) -> None:
        if self._waiting:
            self.engine.abort_request(list(self._waiting))
            self._waiting.clear()

    def _step(self) -> None:
        """One step of the engine; then the trials whose action is complete move on."""
        current: _Waiting | None = None
        try:
            finished = [(output.request_id, output.outputs[0]) for output in self.engine.step() if output.finished]
            for name, completion in finished:
                if name in self._waiting:  # absent if its trial has ended in the meantime
                    current = self._waiting.pop(name)
                    self._settle(current, completion)
        except Exception as error:
            lost = PolicyLost(f"the vLLM engine failed with {type(error).__name__}: {error}")
            waiting, self._waiting = [*self._waiting.values(), *([current] if current else [])], {}
            for lone in waiting:
                lone.done(lost)
            return
        if self._waiting:
            self.loop.call_soon(self._step)
        else:
            self._scheduled = False

    def _settle(self, waiting: _Waiting, completion: Any) -> None:
        """Reply, or ask for the next part."""
        ids = list(completion.token_ids)
        logprobs = [row[token].logprob for row, token in zip(completion.logprobs, ids, strict=True)]
        if waiting.reply is None:
            ended = completion.finish_reason == "stop" or len(ids) == self.renderer.fixed_action_tokens
            waiting.done(ActReply(ids, logprobs, "end" if ended else "length"))
        elif waiting.reply.extend(ids, logprobs):
            waiting.done(waiting.reply.reply)
        elif not ids:
            waiting.done(PolicyLost("the vLLM engine answered with no tokens"))
        else:
            waiting.part += 1
            self._add(waiting)
