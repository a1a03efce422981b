"""Estimates of the rows and the memory of a run, from a few random trials and the shape of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

from metarlgym.models.loading import loading_alone
from metarlgym.policies.scripted import RandomTokenPolicy
from metarlgym.rollout.limits import THOUGHT_TOKENS, Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.render import Renderer
from metarlgym.seeding import derive
from metarlgym.tasks import TaskGroup
from metarlgym.training.arguments import Settings
from metarlgym.training.exploration import lists_actions
from metarlgym.trial import Trial

PLAYED = 16
"""Random trials that are played to measure the rows."""
KEPT_PER_LAYER = (14, 5)
"""Values that a layer keeps for the backward pass for each token: 14 times the width and 5 times the width of the
feed-forward part; measured on Llama-type models with PyTorch's fused attention.
"""
HEAD_TILE = 4096, 32_768
"""Positions and columns of the head that TRL computes at a time."""
TILES_ON_CPU = 8
"""Copies of such a tile during its backward pass on a CPU; on a GPU a kernel works in place."""


@dataclass(frozen=True)
class Rows:
    """Lengths of rows and actions in tokens, over random legal trials."""

    prompt: int
    longest: int
    """Longest row."""
    mean: float
    turns: int
    """Most turns in a row."""
    action: int
    """Longest action, with its end token."""

    shortest: int
    """Shortest action, with its end token."""

    listed: bool
    """Whether the environment lists its legal actions, so that an action needs no room for reasoning."""

    common: int = 0
    """Tokens with which all rows begin."""

    def at_most(self, max_action_tokens: int, thought: int = 0) -> int:
        """Length of the longest row if every action took as many tokens as it may.

        Args:
            max_action_tokens: limit on an action.
            thought: tokens that each action may take for a thought.
        """
        return self.longest + self.turns * (thought + max(0, max_action_tokens - self.action))

    def sampled_at_most(self, max_action_tokens: int, thought: int = 0) -> int:
        """Tokens of a row that the policy samples if it takes as many as it may; arguments as for `at_most`."""
        return self.turns * (thought + max(self.action, max_action_tokens))


def random_rows(group: TaskGroup, make_trial: Callable[[], Trial], renderer: Renderer) -> Rows | None:
    """Play random legal trials; None if the environment has no random play, or it fails."""
    specs = [TrialSpec(make_trial, group.task(i), derive("footprint", i), ("footprint", i)) for i in range(PLAYED)]
    limits = Limits(trial_seconds=20.0)
    played = RolloutManager(RandomTokenPolicy(renderer), renderer, limits).run(specs)
    rows = [row for trajectory in played for row in trajectory.rows if any(row.action_mask)]
    if not rows or any(trajectory.error for trajectory in played):
        return None
    actions = [_runs(row.action_mask) for row in rows]
    return Rows(
        max(row.prompt_len for row in rows),
        max(len(row.ids) for row in rows),
        sum(len(row.ids) for row in rows) / len(rows),
        max(len(lengths) for lengths in actions),
        max(max(lengths) for lengths in actions),
        min(min(lengths) for lengths in actions),
        lists_actions(group, make_trial),
        _common([row.ids for row in rows]),
    )


def _common(rows: list[list[int]]) -> int:
    """Tokens with which all rows begin."""
    first, last = min(rows), max(rows)
    differ = (k for k, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return next(differ, min(len(first), len(last)))


def thought_room(settings: Settings, renderer: Renderer) -> int:
    """Tokens that each action may take for a thought; 0 for models that do not think."""
    thinking, kwargs = renderer.thinking, settings.grpo.chat_template_kwargs or {}
    if thinking is None or (kwargs.get("enable_thinking") is False and not thinking.opened):
        return 0
    limit = settings.grpo.max_thought_tokens
    return (THOUGHT_TOKENS if limit is None else limit) + len(thinking.close_ids)


def _runs(mask: list[int]) -> list[int]:
    """Lengths of the stretches of ones."""
    lengths, count = [], 0
    for value in [*mask, 0]:
        if value:
            count += 1
        elif count:
            lengths.append(count)
            count = 0
    return lengths


@dataclass(frozen=True)
class Shape:
    """Sizes of a causal language model."""

    parameters: int
    width: int
    inner: int
    """Width of the feed-forward part."""
    layers: int
    vocabulary: int
    key_values: int
    """Keys and values of one token in all layers: numbers, not bytes."""

    @classmethod
    def of(cls, config: Any, trust_remote_code: bool = False) -> Shape:
        """The shape, without loading weights."""
        with torch.device("meta"), loading_alone():
            parameters = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code).num_parameters()
        text = config.get_text_config()
        heads = getattr(text, "num_attention_heads", 1) or 1
        kv = getattr(text, "num_key_value_heads", None) or heads
        size = getattr(text, "head_dim", None) or text.hidden_size // heads
        inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
        layers = text.num_hidden_layers
        return cls(parameters, text.hidden_size, inner, layers, text.vocab_size, 2 * kv * size * layers)

    def kept(self, tokens: int, size: int) -> int:
        """Bytes that a forward pass over `tokens` positions keeps for the backward pass, at `size` bytes a number."""
        wide, inner = KEPT_PER_LAYER
        return tokens * self.layers * (wide * self.width + inner * self.inner) * size

    def checkpointed(self, tokens: int, size: int) -> int:
        """The same with gradient checkpointing: each layer's input, and one layer's interior."""
        one = self.kept(tokens, size) // max(1, self.layers)
        return tokens * self.layers * self.width * size + one


@dataclass(frozen=True)
class Memory:
    """Bytes of one training process at its peak."""

    program: int
    """Python and its libraries."""
    states: int
    """Weights, gradients and optimizer."""
    activations: int
    logits: int
    cache: int
    """Keys and values of a rollout in this process."""
    at_once: bool = False
    """Whether the rollout is in flight during the update."""

    @property
    def peak(self) -> int:
        update = self.activations + self.logits
        return self.program + self.states + (update + self.cache if self.at_once else max(update, self.cache))


def memory(settings: Settings, shape: Shape, tokens: int, sampled: int, common: int = 0) -> Memory:
    """Estimate for one process.

    Args:
        settings: the run's.
        shape: the model's.
        tokens: tokens of a row.
        sampled: tokens of a row that the policy samples; `tokens` if the head is computed at all.
        common: tokens that all rows share and that are forwarded once; 0 for whole rows.
    """
    args, peft = settings.grpo, settings.model.use_peft
    size = 2 if args.bf16 or settings.model.dtype in ("bfloat16", "float16") else 4
    weights = 2 if settings.model.dtype in ("bfloat16", "float16") else 4
    # AdamW: a gradient and two moments for each trained weight. With LoRA these are few.
    trained = 0 if peft else shape.parameters
    states = weights * shape.parameters + 3 * weights * trained
    if args.beta and not peft:  # the reference model; LoRA's is the base model
        states += weights * shape.parameters
    if args.plays_ahead and not args.use_vllm:  # the copy that plays
        states += weights * shape.parameters
    shards = args.world_size if _zero(args) == 3 else 1
    together = args.per_device_train_batch_size or 1
    micro = common + together * (tokens - common)
    if args.micro_batch_tokens is not None:
        # The rows of a step are dealt again: as many together as fit.
        together *= args.gradient_accumulation_steps or 1
        micro = min(common + together * (tokens - common), max(tokens, args.micro_batch_tokens))
        together = min(together, 1 + (micro - tokens) // max(1, tokens - common))
    kept = shape.checkpointed(micro, size) if args.gradient_checkpointing else shape.kept(micro, size)
    if common:  # keys and values are gathered for each row
        kept += together * tokens * shape.key_values * size // (shape.layers if args.gradient_checkpointing else 1)
    positions, columns = HEAD_TILE
    tile = 4 * min(together * sampled, positions) * min(shape.vocabulary, columns)
    on_gpu = torch.cuda.is_available()
    logits = (1 if on_gpu else TILES_ON_CPU) * tile + 4 * shape.vocabulary * shape.width
    rows = (args.per_device_train_batch_size or 1) * (args.steps_per_generation or 1)
    cache = 0 if args.use_vllm else rows * tokens * shape.key_values * weights
    program = 0 if on_gpu else psutil.Process().memory_info().rss
    return Memory(program, states // shards, kept, logits, cache, args.plays_ahead)


def _zero(args: Any) -> int:
    plugin = getattr(args, "deepspeed_plugin", None)
    return int(plugin.zero_stage) if plugin is not None else 0
