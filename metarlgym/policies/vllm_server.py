"""VLLMServerPolicy: acts through one or several vLLM servers, token ids in and token ids out.

Every process of a training run talks to the servers directly and never to the other processes: trials take different
numbers of turns, and a collective call inside the rollout would wait for a process that has finished its trials.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any, Literal

import orjson

from metarlgym.policies.server_pool import Server, ServerPool
from metarlgym.policies.temperature import check_temperature
from metarlgym.rollout.protocol import ActReply, ActRequest, Callback, Policy, PolicyLost
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.reply import Reply, continued_seed, part_seed

CLAMPED = -9999.0
"""vLLM's API value for a log-probability of minus infinity."""


class _Context:
    """A context's server, its ids as JSON, and its pending request."""

    __slots__ = ("home", "known", "task", "text")

    def __init__(self) -> None:
        self.home: Server | None = None
        self.text = bytearray()
        self.known = 0
        """Number of ids already written to `text`."""
        self.task: asyncio.Task[None] | None = None

    def prompt(self, ids: list[int]) -> bytes:
        """`ids` as a JSON list. A context only grows, so only new ids have to be written."""
        if self.known < len(ids):
            new = orjson.dumps(ids[self.known :])
            self.text[-1:] = b"," + new[1:] if self.known else new
            self.known = len(ids)
        return bytes(self.text)


class VLLMServerPolicy(Policy):
    """Samples from vLLM's `/v1/completions`.

    Log-probabilities are those of the sampling distribution, which requires a server started with `--logprobs-mode
    processed_logprobs`. A context stays with one server, which has its prefix cached.

    Args:
        pool: the servers.
        renderer: defines which tokens end an action.
        temperature: sampling temperature, above 0.
        greedy: take the most likely token instead.
        truncation: `top_p`, `top_k` or `min_p`, to truncate the sampling distribution.
    """

    follows_updates = True

    def __init__(
        self,
        pool: ServerPool,
        renderer: Renderer,
        temperature: float = 1.0,
        greedy: bool = False,
        truncation: Mapping[str, float] | None = None,
    ) -> None:
        check_temperature(temperature)
        self.pool = pool
        self.renderer = renderer
        self._fixed = renderer.fixed_action_tokens
        self._contexts: dict[int, _Context] = {}
        # Set everything that the model's own generation_config could change; otherwise the server would sample from a
        # different distribution than the one being trained.
        settings: dict[str, Any] = {
            "temperature": 0.0 if greedy else temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "logprobs": 0,
            "return_token_ids": True,
            "stop_token_ids": sorted(renderer.end_ids),
            "ignore_eos": True,  # stop_token_ids lists all end tokens
            "skip_special_tokens": False,
            "add_special_tokens": False,
            **(truncation or {}),
        }
        self._settings = orjson.dumps(settings)[1:]

    @property
    def version(self) -> int | None:  # type: ignore[override]
        """Optimizer step of the weights that the servers hold now."""
        return self.pool.gate.version

    async def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        await super().begin(loop)
        await self.pool.open()

    async def end(self) -> None:
        tasks = [context.task for context in self._contexts.values() if context.task is not None]
        self._contexts.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.pool.close()

    def submit(self, request: ActRequest, done: Callback) -> None:
        context = self._contexts.get(request.context)
        if context is None:
            context = self._contexts[request.context] = _Context()
        # Keep a strong reference to the task: the event loop holds only weak ones.
        context.task = self.loop.create_task(self._act(context, request, done))

    def forget(self, context: int) -> None:
        known = self._contexts.pop(context, None)
        if known is not None and known.task is not None:
            known.task.cancel()  # its trial has ended; canceling a finished task does nothing

    async def _act(self, context: _Context, request: ActRequest, done: Callback) -> None:
        try:
            reply = await self._reply(context, request)
        except Exception as error:
            context.task = None
            done(error)
        else:
            context.task = None  # `done` may submit the next request, or forget the context
            done(reply)

    async def _reply(self, context: _Context, request: ActRequest) -> ActReply:
        reply = Reply.to(request, self.renderer)
        if reply is None:
            ids, logprobs, versions, stopped = await self._ask(context, request.ids, request.max_tokens, request.seed)
            finish: Literal["end", "length"] = "end" if stopped or len(ids) == self._fixed else "length"
            return ActReply(ids, logprobs, finish, versions=versions)
        # One request is enough unless a limit closes the thought, or the thought leaves too little for the action.
        for part in itertools.count():
            context_ids = request.ids + reply.ids if reply.ids else request.ids
            seed = part_seed(request.seed, part)
            ids, logprobs, versions, _ = await self._ask(context, context_ids, reply.allowance, seed)
            if not ids:
                raise PolicyLost(f"{context.home.url if context.home else 'the server'} answered with no tokens")
            if reply.extend(ids, logprobs, versions):
                break
        return reply.reply

    async def _ask(
        self, context: _Context, context_ids: list[int], max_tokens: int, seed: int
    ) -> tuple[list[int], list[float], list[int] | None, bool]:
        """Tokens sampled by servers, their log-probabilities and versions, and whether an end token stopped them.

        A request that an update of the weights breaks off is continued with the new weights, after the tokens so far.
        """
        ids: list[int] = []
        logprobs: list[float] = []
        versions: list[int] = []
        while True:
            more, scores, version, finish = await self._request(
                context,
                context_ids + ids if ids else context_ids,
                max_tokens - len(ids),
                continued_seed(seed, len(ids)),
            )
            ids += more
            logprobs += scores
            if version is not None:
                versions += [version] * len(more)
            stopped = finish == "stop" or (bool(ids) and ids[-1] in self.renderer.end_ids)
            if finish != "abort" or stopped or len(ids) >= max_tokens:
                return ids, logprobs, versions or None, stopped

    async def _request(
        self, context: _Context, context_ids: list[int], max_tokens: int, seed: int
    ) -> tuple[list[int], list[float], int | None, str]:
        """One request: tokens, log-probabilities, version of the weights, and vLLM's reason for the end."""
        prompt = context.prompt(context_ids)

        def body(server: Server) -> bytes:
            return b'{"model":%b,"prompt":%b,"max_tokens":%d,"seed":%d,%b' % (
                orjson.dumps(server.model),
                prompt,
                max_tokens,
                seed,
                self._settings,
            )

        if context.home is None:
            context.home = self.pool.choose(None)
        answer = await self.pool.post("/v1/completions", body, context.home)
        context.home = answer.server
        try:
            data = orjson.loads(answer.body)
            choice = data["choices"][0]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            seen = data["usage"]["prompt_tokens"]
        except (KeyError, IndexError, TypeError, ValueError):
            raise PolicyLost(
                f"{context.home.url} answered without readable token_ids and logprobs, so it is not a vLLM server "
                f"of a known version: {answer.body[:200].decode(errors='replace')}"
            ) from None
        finish = choice["finish_reason"]
        continues = finish == "abort" and self.pool.gate.interrupted(answer.version)
        if finish not in ("stop", "length") and not continues:
            raise PolicyLost(
                f"{context.home.url} broke a request off (finish_reason {finish!r}): it was "
                "stopped, or given other weights by another training run"
            )
        if seen != len(context_ids):
            raise PolicyLost(f"{context.home.url} read {seen} prompt tokens where {len(context_ids)} were sent")
        if len(ids) != len(logprobs) or not all(value is not None and value > CLAMPED for value in logprobs):
            raise PolicyLost(
                f"{context.home.url} answered with log-probabilities that are missing or not finite: the weights have "
                "diverged (lower learning_rate), or the server's cannot be used"
            )
        return ids, logprobs, answer.version, finish
