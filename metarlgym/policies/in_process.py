"""InProcessPolicy: the model in this process acts, on CPU or GPU, and keeps its cache across turns.

At every tick of the event loop, all waiting requests advance together: contexts that need several tokens encoded go
first, then all that need one. No token is encoded twice, and a prompt shared by several contexts is encoded once.
`docs/decisions.md` has measurements against transformers' continuous batching.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from metarlgym.datatypes import MetaRLGymError
from metarlgym.policies.context_store import ContextStore
from metarlgym.policies.grouped_attention import SHARED_KEYS, shares_keys
from metarlgym.policies.kv_cache import KVStore
from metarlgym.policies.memory import SHARE, Room, free_memory
from metarlgym.policies.native_cache import NativeStore
from metarlgym.policies.packed_linear import packed
from metarlgym.policies.recurrent_state import StateStore
from metarlgym.policies.sampling import sample, uniforms
from metarlgym.policies.supported import check_config, uses_slots
from metarlgym.policies.temperature import check_temperature
from metarlgym.rollout.protocol import ActReply, ActRequest, Callback, Policy
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.reply import Reply

PACK_AFTER = 256
"""Packing SmolLM2's weights takes as long as encoding some 100 tokens: a single short trial is over before it pays."""


class _Context:
    """A context's slot and its pending request."""

    __slots__ = ("cached", "done", "key", "logprobs", "need", "reply", "request", "sampled", "slot")

    def __init__(self, key: int, slot: int) -> None:
        self.key = key
        self.slot = slot
        self.cached = 0
        """Number of encoded tokens."""

    def wait(self, request: ActRequest, done: Callback, reply: Reply | None) -> None:
        self.request = request
        self.done = done
        self.reply = reply
        """Follows the thought of the reply; None where there are no thoughts."""
        self.sampled: list[int] = [] if reply is None else reply.ids
        """The reply so far, with the tokens that closed its thought by force."""
        self.logprobs: list[float] = []
        self.need = 0
        """Number of tokens to encode before the next can be sampled; set at each tick."""

    def feed(self) -> list[int]:
        """The tokens to encode."""
        if self.need == 1 and self.sampled:
            return self.sampled[-1:]
        return (self.request.ids + self.sampled)[self.cached :] if self.sampled else self.request.ids[self.cached :]


class InProcessPolicy(Policy):
    """Acts with a causal language model held in this process.

    Args:
        model: a transformers causal model, with or without LoRA; not wrapped by DDP.
        renderer: defines which tokens end an action.
        temperature: sampling temperature, above 0.
        greedy: take the most likely token instead; log-probabilities are still those at `temperature`.
        max_batch_tokens: maximum number of tokens in one forward pass, including padding.

    Raises:
        ConfigError: an architecture whose cache is not known; see `supported`.
    """

    def __init__(
        self,
        model: Any,
        renderer: Renderer,
        temperature: float = 1.0,
        greedy: bool = False,
        max_batch_tokens: int = 16_384,
    ) -> None:
        check_config(model.config)
        check_temperature(temperature)
        self.model = model
        self.renderer = renderer
        self.temperature = temperature
        self.greedy = greedy
        self.max_batch_tokens = max_batch_tokens
        self.encoded_tokens = 0
        """Number of tokens encoded by the model since the policy was created."""
        self.memory_share = SHARE
        """Share of the free memory that contexts may take."""
        self.pack_after = PACK_AFTER
        """Number of tokens of a rollout after which large models act with packed weights (`packed_linear`)."""
        self._contexts: dict[int, _Context] = {}
        self._free: list[int] = []
        self._store: ContextStore = self._new_store()
        self._room: Room | None = None
        self._pending: list[_Context] = []
        self._scheduled = False
        self._stack: Any = None

    # ------------------------------------------------------------------ Policy

    async def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        await super().begin(loop)
        self.open()

    async def end(self) -> None:
        self.close()

    def open(self) -> None:
        """Prepare the model for acting; called by `begin`, and directly by callers without an event loop."""
        self._stack = ExitStack()
        self._stack.enter_context(inference(self.model))
        self._pack_at: float = self.encoded_tokens + self.pack_after
        budget = self.memory_share * free_memory(self.model.device)
        self._store = self._new_store(budget)
        if not hasattr(self.model, "state_batch_dim"):  # a recurrent state does not grow
            seen = self._room
            self._room = Room(self.model.config, budget, self.model.dtype.itemsize)
            self._room.limit = self.context_limit or math.inf
            if seen is not None:  # the same policy plays again: what it knows about lengths holds
                self._room.longest, self._room.finished = seen.longest, seen.finished

    def close(self) -> None:
        """Undo `open`, and forget all contexts."""
        self._stack.close()
        # The cache is as large as the rollout was and the weights change next, so nothing in it can be reused.
        self._store = self._new_store()
        self._contexts.clear()
        self._free.clear()
        self._pending.clear()
        self._scheduled = False

    def submit(self, request: ActRequest, done: Callback) -> None:
        context = self._contexts.get(request.context)
        if context is None:
            slot = self._free.pop() if self._free else len(self._contexts)
            context = self._contexts[request.context] = _Context(request.context, slot)
            if self._room is not None:
                self._room.saw(request)
        context.wait(request, done, Reply.to(request, self.renderer))
        self._pending.append(context)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._tick)

    def forget(self, context: int) -> None:
        known = self._contexts.pop(context, None)
        if known is not None:
            self._free.append(known.slot)
            self._store.release(known.slot)
            if self._room is not None:
                self._room.finished += 1

    def room(self, trials: int) -> bool:
        return self._room is None or self._room.fits(trials + 1)

    # ------------------------------------------------------------------ inside

    def _new_store(self, budget: float = math.inf) -> ContextStore:
        if hasattr(self.model, "state_batch_dim"):
            return StateStore(self.model)
        return KVStore(self.model, budget) if uses_slots(self.model.config) else NativeStore(self.model)

    def _tick(self) -> None:
        """One forward pass over the waiting contexts; then their trials move on and their next requests wait too."""
        waiting, self._pending = self._pending, []
        contexts = self._contexts
        group: list[_Context] = []
        single: list[_Context] = []
        for pending in waiting:
            # A trial may have ended while it waited; its slot can belong to another context by now.
            if contexts.get(pending.key) is pending:
                pending.need = len(pending.request.ids) + len(pending.sampled) - pending.cached
                (group if pending.need > 1 else single).append(pending)
        if group:
            self._pending = single
        else:
            group = single
        for chunk in self._chunks(group):
            try:
                self._extend(chunk)
            except Exception as error:
                for pending in chunk:
                    pending.done(error)
                continue
            self._settle(chunk)
        if self._pending:
            self.loop.call_soon(self._tick)
        else:
            self._scheduled = False

    def _chunks(self, group: list[_Context]) -> Iterator[list[_Context]]:
        """Chunks of at most `max_batch_tokens`, grouping contexts with similar needs."""
        if not group:
            return
        needs = [p.need for p in group]
        if max(needs) > min(needs):
            group = sorted(group, key=lambda p: p.need)
        start = 0
        while start < len(group):
            end = start + 1
            while end < len(group) and (end + 1 - start) * group[end].need <= self.max_batch_tokens:
                end += 1
            yield group[start:end]
            start = end

    def _settle(self, chunk: list[_Context]) -> None:
        """Reply to contexts whose action is complete; the others wait for their next token."""
        end_ids, fixed = self.renderer.end_ids, self.renderer.fixed_action_tokens
        for pending in chunk:
            sampled = pending.sampled
            if pending.reply is not None:
                if pending.reply.finish is not None:
                    pending.done(pending.reply.reply)
                else:
                    self._pending.append(pending)
            elif sampled[-1] in end_ids or len(sampled) == fixed:
                pending.done(ActReply(sampled, pending.logprobs, "end"))
            elif len(sampled) >= pending.request.max_tokens:
                pending.done(ActReply(sampled, pending.logprobs, "length"))
            else:
                self._pending.append(pending)

    def _extend(self, chunk: list[_Context]) -> None:
        """Encode the missing tokens of each context and sample one token for each."""
        longest = max(p.cached + p.need for p in chunk)
        if self._room is not None and longest > self._room.longest:
            self._room.longest = longest
        self._store.reserve(max(p.slot for p in chunk) + 1, longest)
        leaders, followers = _share_prompts(chunk)
        logits = self._encode(leaders)
        if followers:
            order = {id(leader): i for i, leader in enumerate(leaders)}
            rows = list(range(len(leaders)))
            by_leader: dict[int, list[_Context]] = {}
            for follower, leader in followers:
                rows.append(order[id(leader)])
                by_leader.setdefault(order[id(leader)], []).append(follower)
            for index, group in by_leader.items():
                leader = leaders[index]
                self._store.copy(leader.slot, [p.slot for p in group], leader.cached)
                for follower in group:
                    follower.cached = leader.cached
            logits = logits[torch.tensor(rows, device=logits.device)]
        chunk = leaders + [follower for follower, _ in followers]
        if not torch.isfinite(logits).all():
            raise MetaRLGymError("the model's logits are not finite: the weights have diverged; lower learning_rate.")
        seeds = np.array([p.request.seed for p in chunk], dtype=np.uint64)
        counts = np.array([len(p.sampled) for p in chunk], dtype=np.uint64)
        tokens, logprobs = sample(logits, uniforms(seeds, counts), self.temperature, self.greedy)
        for pending, token, logprob in zip(chunk, tokens, logprobs, strict=True):
            if pending.reply is not None:
                pending.reply.add(token, logprob)
                continue
            pending.sampled.append(token)
            pending.logprobs.append(logprob)

    def _encode(self, group: list[_Context]) -> torch.Tensor:
        """Encode `feed` of each; returns logits at the last position, shape `(n, vocabulary)`."""
        if self.encoded_tokens >= self._pack_at:
            self._stack.enter_context(packed(self.model))
            self._pack_at = math.inf
        logits = self._store.encode([p.slot for p in group], [p.cached for p in group], [p.feed() for p in group])
        for pending in group:
            pending.cached += pending.need
            self.encoded_tokens += pending.need
        return logits


def _share_prompts(chunk: list[_Context]) -> tuple[list[_Context], list[tuple[_Context, _Context]]]:
    """The contexts to encode, and those whose entire new context equals another's (follower, leader)."""
    if len(chunk) < 2 or chunk[0].cached or len(chunk[0].request.ids) < 2:
        return chunk, []
    leaders: list[_Context] = []
    followers: list[tuple[_Context, _Context]] = []
    first: dict[tuple[int, ...], _Context] = {}
    for pending in chunk:
        if pending.cached or pending.sampled:
            leaders.append(pending)
            continue
        leader = first.setdefault(tuple(pending.request.ids), pending)
        if leader is pending:
            leaders.append(pending)
        else:
            followers.append((pending, leader))
    return leaders, followers


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """No gradients, no dropout, and an attention kernel that accepts a mask; all restored afterwards."""
    training = model.training
    kernel = model.config._attn_implementation
    acting = kernel if kernel == "eager" else SHARED_KEYS if shares_keys(model) else "sdpa"
    switch = kernel != acting
    if switch:
        model.set_attn_implementation(acting)
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if switch:
            model.set_attn_implementation(kernel)
        model.train(training)
