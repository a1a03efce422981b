"""ActingMixin: the policy that plays a trainer's rollouts, with the weights as they are now.

Three backends: the model in this process, a vLLM engine in this process (colocate), or vLLM servers. Servers are given
the weights before each rollout by TRL; whether that worked is agreed on between all processes before anyone plays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from trl.models import unwrap_model_for_generation

from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.policies.self_check import self_check
from metarlgym.policies.server_pool import Server, ServerPool
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.protocol import Policy
from metarlgym.rollout.render import Renderer
from metarlgym.runtime.agreement import AgreedError, agree
from metarlgym.runtime.checkpoint import COMPLETE
from metarlgym.serving.handshake import ServerInfo, check_for_training, check_tokenizer, inspect, wait_for_server
from metarlgym.serving.logprob_probe import (
    CONTINUATION_LENGTH,
    PROMPT_LENGTH,
    TOLERANCE,
    compare,
    probe_prompt,
    server_continuation,
)
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.padding import check_padding


def connect(
    args: MetaGRPOConfig, tokenizer: Any, texts: Sequence[str], tell: Callable[[str], None] | None = None
) -> list[ServerInfo]:
    """Wait for the run's servers and see that they can be trained with; every process asks for itself.

    Args:
        args: names the servers.
        tokenizer: that of the model to be trained.
        texts: what its tokenizer and the servers' must turn into the same ids.
        tell: told when there is something to wait for.

    Raises:
        AgreedError: one is missing, lacks what training needs, or has another tokenizer.
    """
    if not args.server_urls:
        return []
    servers: list[ServerInfo] = []
    problem: Exception | None = None
    deadline = time.monotonic() + args.vllm_server_timeout
    try:
        for url in args.server_urls:
            wait_for_server(url, max(0.0, deadline - time.monotonic()), tell)
            info = inspect(url)
            check_for_training(info, "nccl" if args.device.type == "cuda" else "gloo")
            check_tokenizer(info, tokenizer, texts)
            servers.append(info)
    except Exception as error:  # whatever it is, the other processes must hear of it
        problem = error
    agree(problem)
    return servers


class ActingMixin:
    """Part of `MetaGRPOTrainer`; `_init_acting` is called after the trainer is made."""

    args: MetaGRPOConfig
    accelerator: Any
    model: Any
    model_wrapped: Any
    state: Any
    temperature: float
    renderer: Renderer
    limits: Limits
    vllm_generation: Any
    _last_loaded_step: int

    def _init_acting(self, policy: Callable[[Any, Renderer, float], Policy] | None, servers: list[ServerInfo]) -> None:
        self._given_policy = policy
        self._bare_model: Any = None
        self._proved = False
        self._syncs = 0
        self._settled_step = -1
        self._pool = None
        args = self.args
        if servers:
            # Equally busy servers are taken in order: each process begins with another one.
            first = self.accelerator.process_index % len(servers)
            self._pool = ServerPool(
                [Server(info.url, info.model) for info in servers[first:] + servers[:first]],
                args.server_concurrency,
                args.server_request_timeout,
                args.server_retry_seconds,
            )
        if policy is None and not args.use_vllm and self.accelerator.distributed_type == "FSDP":
            raise ConfigError(
                "use_vllm=false with FSDP: the in-process policy needs whole weights. Use vLLM, ZeRO, or one process."
            )

    # ------------------------------------------------------------------ the policy

    @contextmanager
    def acting(self) -> Iterator[Policy]:
        """The policy with the weights as they are now. All processes enter together, and inside none waits for another.

        Under ZeRO-3 the in-process policy has the weights gathered once for the whole of it.
        """
        args = self.args
        self._prove()
        truncation = {"top_p": args.top_p, "top_k": args.top_k, "min_p": args.min_p or 0.0}
        if self._given_policy is not None:
            yield self._given_policy(self._whole_model(), self.renderer, self.temperature)
        elif self._pool is not None:
            from metarlgym.policies.vllm_server import VLLMServerPolicy

            self.sync_servers()
            self._pool.stats = type(self._pool.stats)()
            yield VLLMServerPolicy(self._pool, self.renderer, self.temperature, truncation=truncation)
        elif args.use_vllm:
            from metarlgym.policies.vllm_engine import VLLMEnginePolicy

            self._load_weights()
            yield VLLMEnginePolicy(self.vllm_generation.llm, self.renderer, self.temperature, truncation)
        else:
            with self._gathered():
                yield InProcessPolicy(self._whole_model(), self.renderer, self.temperature)

    def _prove(self) -> None:
        """Once, before anything is played: the model's log-probabilities do not depend on how they are computed."""
        if self._proved:
            return
        check_padding(self, _precision(self.args, self.model))
        if self._given_policy is None and not self.args.use_vllm:
            problem = None
            with self._gathered():
                try:
                    self_check(self._whole_model())
                except MetaRLGymError as error:
                    problem = error
            agree(problem)
        self._proved = True

    def _whole_model(self) -> Any:
        if self._bare_model is None:  # unwrapping looks for DeepSpeed each time, which takes 20 ms
            self._bare_model = self.accelerator.unwrap_model(self.model)
        return self._bare_model

    def _gathered(self) -> Any:
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        if plugin is None or plugin.zero_stage != 3:
            return nullcontext()
        return unwrap_model_for_generation(self.model_wrapped, self.accelerator)

    # ------------------------------------------------------------------ servers

    def _load_weights(self) -> None:
        """TRL's own rule: once for each optimizer step."""
        if self.state.global_step != self._last_loaded_step:
            try:
                self.vllm_generation.sync_weights()
            finally:
                self._unmerge()
            self._last_loaded_step = self.state.global_step

    def sync_servers(self) -> None:
        """Give the servers the weights as they are now, unless they have them, and see that all went well."""
        self._load_weights()
        if self._settled_step == self.state.global_step:
            return
        client = self.vllm_generation.vllm_client if self.accelerator.is_main_process else None
        # This gathering is also the barrier that keeps other processes from asking a server in the middle of an update.
        told = gather_object([(client.failure, client.version) if client else None])
        failure, version = next(pair for pair in told if pair)
        if failure:
            self.stop_run(f"the vLLM servers did not get the weights: {failure}")
        assert self._pool is not None
        self._pool.weights = version
        if client is not None:
            self._metrics["train"]["server/sync_seconds"].append(client.seconds)  # type: ignore[attr-defined]
        every = self.args.probe_every
        if every and self._syncs % every == 0:
            self._probe()
        self._syncs += 1
        self._settled_step = self.state.global_step

    def _probe(self) -> None:
        """Compare each server with the trainer on what it samples after a fixed prompt."""
        assert self._pool is not None
        args, servers = self.args, self._pool.servers
        config = self.model.config.get_text_config()
        room = self.limits.context_tokens or PROMPT_LENGTH + CONTINUATION_LENGTH
        length = max(1, min(CONTINUATION_LENGTH, room // 2))
        special = self.renderer.tokenizer.all_special_ids
        prompt = probe_prompt(config.vocab_size, special, max(1, min(PROMPT_LENGTH, room // 2 - 1)))
        sampled: list[tuple[list[int], list[float]]] = []
        problem = None
        if self.accelerator.is_main_process:
            try:
                timeout = args.weight_sync_timeout  # a server's first request can be slow: it is not a rollout's
                for server in servers:
                    sampled.append(
                        server_continuation(server.url, server.model, prompt, length, self.temperature, timeout)
                    )
            except (MetaRLGymError, OSError) as error:
                problem = str(error)
        self._stop_if(problem)
        # The forward pass is TRL's own, and under ZeRO-3 every process takes part in it: one of another form would
        # leave the weights that DeepSpeed fetches ahead in flight.
        rows = next(rows for rows in gather_object([sampled]) if rows)
        tokens = torch.tensor([prompt + ids for ids, _ in rows], device=self.accelerator.device)
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            scored, _, _ = self._get_per_token_logps_and_entropies(  # type: ignore[attr-defined]
                self.model, tokens, torch.ones_like(tokens), length
            )
        self.model.train(training)
        try:
            tolerance = args.probe_tolerance or TOLERANCE.get(_precision(args, self.model), 0.05)
            for server, (_, logprobs), trainer in zip(servers, rows, scored.float().tolist(), strict=True):
                result = compare(server.url, logprobs, trainer, tolerance)
                self._metrics["train"]["server/probe_mean"].append(result.mean)  # type: ignore[attr-defined]
                self._metrics["train"]["server/probe_max"].append(result.largest)  # type: ignore[attr-defined]
        except MetaRLGymError as error:
            problem = str(error)
        self._stop_if(problem)

    def _stop_if(self, problem: str | None) -> None:
        """Collective: stop the run if any process has a problem."""
        told = next((text for text in gather_object([problem]) if text), None)
        if told is not None:
            self.stop_run(told)

    def count_faults(self) -> None:
        """Log what went wrong between this rollout and the servers, summed over the processes. Collective."""
        assert self._pool is not None
        stats = self._pool.stats
        counts = torch.tensor([stats.retries, stats.deadlines, stats.overflows], dtype=torch.float32)
        total = self.accelerator.reduce(counts.to(self.accelerator.device), "sum").tolist()
        for name, value in zip(("retries", "deadlines", "overflows"), total, strict=True):
            self._metrics["train"][f"server/{name}"].append(value)  # type: ignore[attr-defined]

    def _unmerge(self) -> None:
        """After a sync that broke off, an adapter may still be merged into the weights: take it out again."""
        model = self._whole_model()
        if isinstance(model, PeftModel) and any(getattr(module, "merged", False) for module in model.modules()):
            with ExitStack() as stack:
                if self.accelerator.state.deepspeed_plugin is not None:
                    stack.enter_context(self.vllm_generation._dist.gather_params(list(model.parameters())))
                model.unmerge_adapter()

    # ------------------------------------------------------------------ stopping

    def stop_run(self, problem: str, detail: str = "", cause: BaseException | None = None) -> NoReturn:
        """End the run with an error that all processes agree on, after writing a checkpoint of what is done.

        Raises:
            AgreedError: always.
        """
        step = self.state.global_step
        folder = Path(self.args.output_dir or ".")
        # The main process looks for all: saving is collective, and another node may not see a new file yet.
        missing = not (folder / f"checkpoint-{step}" / COMPLETE).exists()
        if step and gather_object([missing])[0]:
            self._save_checkpoint(self.model, trial=None)  # type: ignore[attr-defined]
        resume = f" Mend it and go on from step {step} with --resume." if step else ""
        raise AgreedError(f"{problem.rstrip('.')}.{resume}\n{detail}".rstrip()) from cause


def _precision(args: MetaGRPOConfig, model: Any) -> torch.dtype:
    if args.bf16:
        return torch.bfloat16
    return torch.float16 if args.fp16 else model.dtype
