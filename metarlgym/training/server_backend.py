"""Server backend: vLLM servers play the rollouts and receive the current weights before each one.

TRL sends the weights; all processes agree on whether that succeeded before any of them plays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from accelerate.utils import gather_object

from metarlgym.datatypes import MetaRLGymError
from metarlgym.policies.server_pool import PoolStats, Server, ServerPool
from metarlgym.policies.vllm_server import VLLMServerPolicy
from metarlgym.policies.weight_gate import WeightGate
from metarlgym.rollout.protocol import Policy
from metarlgym.runtime.agreement import agree
from metarlgym.serving.handshake import ServerInfo, check_for_training, check_tokenizer, inspect, wait_for_server
from metarlgym.serving.logprob_probe import (
    CONTINUATION_LENGTH,
    PROMPT_LENGTH,
    TOLERANCE,
    compare,
    probe_prompt,
    server_continuation,
)
from metarlgym.training.backends import VLLMBackend
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.padding import precision

if TYPE_CHECKING:
    from metarlgym.training.trainer import MetaGRPOTrainer


def connect(
    args: MetaGRPOConfig, tokenizer: Any, texts: Sequence[str], notify: Callable[[str], None] | None = None
) -> list[ServerInfo]:
    """Wait for the run's servers and check that they are suitable for training; every process does this itself.

    Args:
        args: provides the server URLs.
        tokenizer: tokenizer of the model to be trained.
        texts: texts that this tokenizer and the servers' tokenizers must encode to the same ids.
        notify: called with a message while waiting.

    Raises:
        AgreedError: if a server is missing, lacks what training needs, or has a different tokenizer.
    """
    if not args.server_urls:
        return []
    servers: list[ServerInfo] = []
    problem: Exception | None = None
    deadline = time.monotonic() + args.vllm_server_timeout
    try:
        for url in args.server_urls:
            wait_for_server(url, max(0.0, deadline - time.monotonic()), notify)
            info = inspect(url)
            check_for_training(info, "nccl" if args.device.type == "cuda" else "gloo")
            check_tokenizer(info, tokenizer, texts)
            servers.append(info)
    except Exception as error:  # any error must reach the other processes
        problem = error
    agree(problem)
    return servers


class Servers(VLLMBackend):
    """One or more servers, which share the trials of all processes."""

    def __init__(self, trainer: MetaGRPOTrainer, servers: list[ServerInfo]) -> None:
        super().__init__(trainer)
        self.servers = servers
        self.gate = WeightGate()
        self._hurried = False
        self._pools: WeakSet[ServerPool] = WeakSet()
        self._updates = 0
        self._settled_step = -1

    @contextmanager
    def acting(self) -> Iterator[Policy]:
        self.update()
        trainer = self.trainer
        yield VLLMServerPolicy(self._pool(), trainer.renderer, trainer.temperature, truncation=self.truncation)

    def _pool(self) -> ServerPool:
        """Connections of one policy: its event loop, its thread and its counts are its own."""
        args, servers = self.trainer.args, self.servers
        # The pool breaks ties between equally busy servers by order, so each process starts with a different one.
        first = self.trainer.accelerator.process_index % len(servers)
        pool = ServerPool(
            [Server(info.url, info.model) for info in servers[first:] + servers[:first]],
            args.server_concurrency,
            args.server_request_timeout,
            args.server_retry_seconds,
            self.gate,
        )
        self._pools.add(pool)
        if self._hurried:
            pool.hurry()
        return pool

    def hurry(self) -> None:
        self._hurried = True
        for pool in self._pools:
            pool.hurry()

    def update(self) -> None:
        """Send the current weights to the servers, unless they already have them, and verify that this succeeded."""
        trainer = self.trainer
        if self._settled_step == trainer.state.global_step:
            return
        if trainer.args.updates_in_flight and trainer.state.global_step != trainer._last_loaded_step:
            self._break_off()
        self.load_weights()
        client = trainer.vllm_generation.vllm_client if trainer.accelerator.is_main_process else None
        # This gather is also the barrier that keeps other processes from querying a server during an update.
        states = gather_object([(client.failure, client.version) if client else None])
        failure, weights = next(pair for pair in states if pair)
        if failure:
            trainer.stop_run(f"the vLLM servers did not get the weights: {failure}")
        self.gate.open(trainer.state.global_step, weights)
        if client is not None:
            self._log("server/sync_seconds", client.seconds)
        every = trainer.args.probe_every
        if every and self._updates % every == 0:
            self._probe()
        self._updates += 1
        self._settled_step = trainer.state.global_step

    def _break_off(self) -> None:
        """Get all requests of all processes back from the servers, where they were answered by the weights so far."""
        trainer = self.trainer
        self.gate.close()
        trainer.accelerator.wait_for_everyone()  # from here on nobody makes a request
        problem: Exception | None = None
        if trainer.accelerator.is_main_process:
            try:
                trainer.vllm_generation.vllm_client.pause()
            except Exception as error:  # any error must reach the other processes
                problem = error
        self._stop_if(None if problem is None else f"the vLLM servers could not be paused: {problem}")
        try:
            self.gate.settle()
        except MetaRLGymError as error:
            problem = error
        self._stop_if(None if problem is None else str(problem))

    def begin_counts(self, policy: Policy) -> Any:
        stats = PoolStats()
        if isinstance(policy, VLLMServerPolicy):  # else random play, which asks no server
            policy.pool.stats = stats
        return stats

    def after_rollout(self, counts: Any) -> None:
        """Log the server failures of this rollout, summed over processes."""
        accelerator = self.trainer.accelerator
        own = torch.tensor([counts.retries, counts.deadlines, counts.overflows], dtype=torch.float32)
        total = accelerator.reduce(own.to(accelerator.device), "sum").tolist()
        for name, value in zip(("retries", "deadlines", "overflows"), total, strict=True):
            self._log(f"server/{name}", value)

    def after_training(self) -> None:
        """Send the final weights, because TRL sends weights only before rollouts. With `load_best_model_at_end` they
        may be older than the last step's."""
        self.trainer._last_loaded_step = self._settled_step = -1
        self.update()

    def _log(self, name: str, value: float) -> None:
        self.trainer._metrics["train"][name].append(value)

    def _probe(self) -> None:
        """Compare each server's log-probabilities with the trainer's on the server's continuation of a fixed prompt."""
        trainer = self.trainer
        args, servers = trainer.args, self.servers
        config = trainer.model.config.get_text_config()
        room = trainer.limits.context_tokens or PROMPT_LENGTH + CONTINUATION_LENGTH
        length = max(1, min(CONTINUATION_LENGTH, room // 2))
        special = trainer.renderer.tokenizer.all_special_ids
        prompt = probe_prompt(config.vocab_size, special, max(1, min(PROMPT_LENGTH, room // 2 - 1)))
        sampled: list[tuple[list[int], list[float]]] = []
        problem = None
        if trainer.accelerator.is_main_process:
            try:
                timeout = args.weight_sync_timeout  # not the rollout timeout: a server's first request can be slow
                for server in servers:
                    sampled.append(
                        server_continuation(server.url, server.model, prompt, length, trainer.temperature, timeout)
                    )
            except (MetaRLGymError, OSError) as error:
                problem = str(error)
        self._stop_if(problem)
        # Use TRL's own forward pass, on every process: under ZeRO-3, a pass that runs other modules would leave
        # DeepSpeed's prefetched weights in flight.
        rows = next(rows for rows in gather_object([sampled]) if rows)
        tokens = torch.tensor([prompt + ids for ids, _ in rows], device=trainer.accelerator.device)
        training = trainer.model.training
        trainer.model.eval()
        with torch.no_grad():
            scored, _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model, tokens, torch.ones_like(tokens), length
            )
        trainer.model.train(training)
        try:
            tolerance = args.probe_tolerance or TOLERANCE.get(precision(args, trainer.model), 0.05)
            for server, (_, logprobs), own in zip(servers, rows, scored.float().tolist(), strict=True):
                result = compare(server.url, logprobs, own, tolerance)
                self._log("server/probe_mean", result.mean)
                self._log("server/probe_max", result.largest)
        except MetaRLGymError as error:
            problem = str(error)
        self._stop_if(problem)

    def _stop_if(self, problem: str | None) -> None:
        """Stop the run if any process has a problem. Collective."""
        first = next((text for text in gather_object([problem]) if text), None)
        if first is not None:
            self.trainer.stop_run(first)
