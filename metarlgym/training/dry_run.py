"""What a run will do, before it does it: the resolved settings, rows, tokens and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml
from rich.console import Group as RenderGroup
from rich.syntax import Syntax
from rich.table import Table

from metarlgym.tasks import TaskGroup
from metarlgym.training.arguments import Settings


@dataclass
class Plan:
    """A run in numbers."""

    config: str
    numbers: dict[str, str]

    def render(self) -> RenderGroup:
        table = Table(show_header=False, title="plan")
        for name, value in self.numbers.items():
            table.add_row(name, value)
        return RenderGroup(Syntax(self.config, "yaml", background_color="default"), table)


def make_plan(settings: Settings, group: TaskGroup) -> Plan:
    """Rows, tokens and memory of a run; loads a model's config but no weights."""
    args = settings.grpo
    rows = args.generation_batch_size
    trials = rows // args.rows_per_trial
    parameters, width, layers, vocabulary, context = _model_numbers(settings, group)
    tokens = min(args.max_context_tokens or context, context)
    micro = args.per_device_train_batch_size
    size = 2 if args.bf16 else 4
    # Weights, gradients and AdamW's two moments in float32 (or bfloat16 weights and gradients beside a float32 copy,
    # which is as much), before ZeRO spreads them over the processes; logits in float32 three times (value, softmax,
    # gradient); about 16 values of the width per token and layer kept for the backward pass.
    states = 16 * parameters
    logits = 3 * 4 * micro * tokens * vocabulary
    activations = 16 * size * micro * tokens * width * layers
    numbers = {
        "task group": f"{group.env_id} {group.env_args or ''}, split by {group.env.split}",
        "trials a rollout": f"{trials} ({trials // args.trials_per_task} tasks x {args.trials_per_task} trials)",
        "rows a rollout": f"{rows} ({args.rows_per_trial} a trial)",
        "optimizer steps": f"{args.max_steps}",
        "trials in all": f"{trials * args.max_steps * args.gradient_accumulation_steps // args.steps_per_generation:,}",
        "model": f"{parameters:,} parameters, width {width}, {layers} layers, vocabulary {vocabulary}",
        "tokens a row, at most": f"{tokens:,}",
        "tokens a step, at most": f"{tokens * micro * args.gradient_accumulation_steps:,} a process",
        "memory a process, at most": f"{(states + logits + activations) / 2**30:.2f} GiB "
        f"(states {states / 2**30:.2f}, logits {logits / 2**30:.2f}, activations {activations / 2**30:.2f})",
        "results in": str(args.output_dir),
    }
    return Plan(yaml.safe_dump(settings.resolved(), sort_keys=False, allow_unicode=True), numbers)


def _model_numbers(settings: Settings, group: TaskGroup) -> tuple[int, int, int, int, int]:
    """Parameters, width, layers, vocabulary and context of the model."""
    from transformers import AutoModelForCausalLM

    from metarlgym.models import scratch
    from metarlgym.rollout.make_renderer import make_renderer
    from metarlgym.training import run, start

    config: Any
    if settings.model.model_name_or_path:
        config, _, renderer = start.inspect_model(settings, group)
    else:
        make_trial = run._trial_maker(settings, group)
        texts = scratch.sample_text(group, make_trial)
        word = settings.scratch.scratch_tokenizer == "word"
        tokenizer = scratch.word_tokenizer(texts) if word else scratch.byte_tokenizer()
        renderer = make_renderer("plain", tokenizer, group)
        context = settings.grpo.max_context_tokens or start.context_needed(
            renderer, group, make_trial, settings.grpo.max_action_tokens
        )
        config = scratch.scratch_model(settings.scratch, tokenizer, context, 0).config
    import torch

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=settings.grpo.trust_remote_code)
        parameters = model.num_parameters()
    text = config.get_text_config()
    room = text.max_position_embeddings or settings.grpo.max_context_tokens
    if room is None:  # recurrent networks and relative positions know no longest context
        room = start.context_needed(renderer, group, run._trial_maker(settings, group), settings.grpo.max_action_tokens)
    return parameters, text.hidden_size, text.num_hidden_layers, text.vocab_size, room
