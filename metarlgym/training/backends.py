"""Backends: provide the policy that plays a trainer's rollouts, with the current weights.

Either the model in this process, a vLLM engine in this process (colocate), or vLLM servers (`server_backend.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

import torch
from peft import PeftModel
from trl.models import unwrap_model_for_generation

from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.policies.self_check import self_check
from metarlgym.rollout.protocol import Policy
from metarlgym.rollout.render import Renderer
from metarlgym.runtime.agreement import agree
from metarlgym.training.padding import precision

if TYPE_CHECKING:
    from accelerate import Accelerator

    from metarlgym.training.config import MetaGRPOConfig
    from metarlgym.training.trainer import MetaGRPOTrainer

MakePolicy = Callable[[Any, Renderer, float], Policy]
"""Factory that makes a policy from (model, renderer, temperature)."""


class Backend:
    """Base class. All processes call its methods together.

    Args:
        trainer: the trainer whose rollouts are played.
    """

    def __init__(self, trainer: MetaGRPOTrainer) -> None:
        self.trainer = trainer
        self._whole: Any = None

    def prove(self) -> None:
        """Called once before the first rollout; raises if log-probabilities depend on how they are computed."""

    @contextmanager
    def acting(self) -> Iterator[Policy]:
        """The policy with the current weights. Inside, no process waits for another.

        Where rollouts are played ahead, the policy also acts after the block, until it is entered again.
        """
        raise NotImplementedError
        yield

    def update(self) -> None:
        """Called before a training rollout is taken up: policies that follow updates get the current weights."""

    def hurry(self) -> None:
        """From now on, wait for nobody who does not answer. Called in a signal handler."""

    def begin_counts(self, policy: Policy) -> Any:
        """Called where a training rollout begins, maybe in another thread; what is returned counts while it plays."""

    def after_rollout(self, counts: Any) -> None:
        """Called for each training rollout that is taken up, with what `begin_counts` returned for it."""

    def after_training(self) -> None:
        """Called at the end of a run that was not stopped early."""

    @property
    def model(self) -> Any:
        """The trainer's model without the wrappers of accelerate and DeepSpeed."""
        if self._whole is None:  # cached: unwrapping looks for DeepSpeed each time, which takes 20 ms
            self._whole = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return self._whole

    @property
    def truncation(self) -> dict[str, Any]:
        """Truncated-sampling parameters in vLLM's format."""
        args = self.trainer.args
        return {"top_p": args.top_p, "top_k": args.top_k, "min_p": args.min_p or 0.0}


class LocalBackend(Backend):
    """Base of the backends whose policies act with a model in this process.

    Where rollouts are played ahead it is a copy, so that the optimizer does not change the weights of a rollout that is
    in flight.

    Raises:
        ConfigError: rollouts ahead under ZeRO-3, whose processes hold shards.
    """

    def __init__(self, trainer: MetaGRPOTrainer) -> None:
        super().__init__(trainer)
        self._copy: Any = None
        plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
        if trainer.args.plays_ahead and plugin is not None and plugin.zero_stage == 3:
            raise ConfigError(
                f"rollouts_ahead={trainer.args.rollouts_ahead} with ZeRO-3 and use_vllm=false: the policy would need a "
                "whole copy of the sharded weights. Use vLLM servers, or set rollouts_ahead to 0."
            )

    def playing(self) -> Any:
        """The model to act with, with the current weights. A copy keeps them until the next call."""
        if not self.trainer.args.plays_ahead:
            return self.model
        if self._copy is None:
            self._copy = _independent_copy(self.model, self.trainer.accelerator)
        else:
            with torch.no_grad():
                for mine, now in zip(_tensors(self._copy), _tensors(self.model), strict=True):
                    mine.copy_(now)
        return self._copy


class GivenPolicy(LocalBackend):
    """A policy made by a factory that the caller of the trainer passes in."""

    def __init__(self, trainer: MetaGRPOTrainer, make_policy: MakePolicy) -> None:
        super().__init__(trainer)
        self.make_policy = make_policy
        self._policies: WeakSet[Policy] = WeakSet()

    @contextmanager
    def acting(self) -> Iterator[Policy]:
        policy = self.make_policy(self.playing(), self.trainer.renderer, self.trainer.temperature)
        policy.version = self.trainer.state.global_step
        if self.trainer.args.updates_in_flight and not policy.follows_updates:
            _refuse_updates(self.trainer.args, f"the weights of a {type(policy).__name__} cannot change while it plays")
        self._policies.add(policy)
        yield policy

    def update(self) -> None:
        if self.trainer.args.updates_in_flight and self._policies:
            self.playing()
            for policy in self._policies:
                policy.version = self.trainer.state.global_step


class InProcess(LocalBackend):
    """The model itself acts. Under ZeRO-3 the weights are gathered once per rollout.

    Raises:
        ConfigError: under FSDP, which does not provide unsharded weights.
    """

    def __init__(self, trainer: MetaGRPOTrainer) -> None:
        super().__init__(trainer)
        self._policy: InProcessPolicy | None = None
        if trainer.accelerator.distributed_type == "FSDP":
            raise ConfigError(
                "use_vllm=false with FSDP: the in-process policy needs whole weights. Use vLLM, ZeRO, or one process."
            )
        check_in_process(trainer.args)

    def prove(self) -> None:
        problem = None
        with self._gathered():
            try:
                self_check(self.model, precision(self.trainer.args, self.model))
            except MetaRLGymError as error:
                problem = error
        agree(problem)

    @contextmanager
    def acting(self) -> Iterator[Policy]:
        with self._gathered():
            model = self.playing()
            if self._policy is None:  # kept: what it has learned about lengths bounds the next rollout's memory
                self._policy = InProcessPolicy(model, self.trainer.renderer, self.trainer.temperature)
                if self.trainer.args.plays_ahead:  # the update takes memory at the same time
                    self._policy.memory_share /= 2
            self._policy.version = self.trainer.state.global_step
            yield self._policy

    def _gathered(self) -> Any:
        plugin = getattr(self.trainer.accelerator.state, "deepspeed_plugin", None)
        if plugin is None or plugin.zero_stage != 3:
            return nullcontext()
        return unwrap_model_for_generation(self.trainer.model_wrapped, self.trainer.accelerator)


def check_in_process(args: MetaGRPOConfig) -> None:
    """Refuse settings that the in-process policy cannot follow.

    Raises:
        ConfigError: its weights would have to change while it plays.
    """
    if args.updates_in_flight:
        _refuse_updates(args, "the weights of the in-process policy cannot change while it plays")


def _refuse_updates(args: MetaGRPOConfig, why: str) -> NoReturn:
    continuous = args.continuous
    setting, instead = ("rollouts_ahead", "rollouts_ahead: 1") if continuous else ("weight_update", "drain")
    value = "continuous" if continuous else "in_flight"
    raise ConfigError(f"{setting}={value!r}: {why}. Use vLLM servers (use_vllm: true), or {instead}.")


def _independent_copy(model: Any, accelerator: Accelerator) -> Any:
    """A copy that computes with its own weights, under the same autocast."""
    copied = deepcopy(model).requires_grad_(False)
    for module in copied.modules():
        # TRL and accelerate replace `forward` of the instance by functions that would go on calling the original model;
        # DeepSpeed's hooks belong to its engine.
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            module.__dict__.pop(name, None)
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if str(getattr(hook, "__module__", "")).startswith("deepspeed"):
                    del hooks[key]
    if accelerator.mixed_precision != "no":
        accelerator.prepare_model(copied, evaluation_mode=True)
        accelerator._models.remove(copied)  # or it would be saved in checkpoints
    return copied


def _tensors(model: Any) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


class VLLMBackend(Backend):
    """Base of the vLLM backends, with TRL's weight transfer."""

    def load_weights(self) -> None:
        """Update vLLM's weights once per optimizer step, as TRL does."""
        trainer = self.trainer
        if trainer.state.global_step != trainer._last_loaded_step:
            try:
                trainer.vllm_generation.sync_weights()
            finally:
                self._unmerge()
            trainer._last_loaded_step = trainer.state.global_step

    def _unmerge(self) -> None:
        """Unmerge an adapter that an aborted update may have left merged into the weights."""
        model = self.model
        if isinstance(model, PeftModel) and any(getattr(module, "merged", False) for module in model.modules()):
            with ExitStack() as stack:
                if self.trainer.accelerator.state.deepspeed_plugin is not None:
                    stack.enter_context(self.trainer.vllm_generation._dist.gather_params(list(model.parameters())))
                model.unmerge_adapter()


class Colocate(VLLMBackend):
    """A vLLM engine in this process that plays the process's trials."""

    @contextmanager
    def acting(self) -> Iterator[Policy]:
        from metarlgym.policies.vllm_engine import VLLMEnginePolicy

        trainer = self.trainer
        self.load_weights()
        policy = VLLMEnginePolicy(trainer.vllm_generation.llm, trainer.renderer, trainer.temperature, self.truncation)
        policy.version = trainer.state.global_step
        yield policy
