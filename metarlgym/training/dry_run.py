"""Dry run: a run's resolved settings and estimates of its rows, tokens and memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import yaml
from rich.console import Group as RenderGroup
from rich.syntax import Syntax
from rich.table import Table
from transformers import AutoModelForCausalLM

from metarlgym.training.resolve import Run
from metarlgym.training.start import context_needed


@dataclass
class Plan:
    """The resolved config of a run and its key figures."""

    config: str
    numbers: dict[str, str]

    def render(self) -> RenderGroup:
        table = Table(show_header=False, title="plan")
        for name, value in self.numbers.items():
            table.add_row(name, value)
        return RenderGroup(Syntax(self.config, "yaml", background_color="default"), table)


def make_plan(run: Run) -> Plan:
    """Estimate a run's rows, tokens and memory; loads the model's config but no weights."""
    settings, group = run.settings, run.group
    args = settings.grpo
    rows = args.generation_batch_size
    trials = rows // args.rows_per_trial
    parameters, width, layers, vocabulary, context = _model_numbers(run)
    tokens = min(args.max_context_tokens or context, context)
    micro = args.per_device_train_batch_size
    size = 2 if args.bf16 else 4
    # Model states: weights, gradients and AdamW's two moments in float32 (bfloat16 weights and gradients plus a float32
    # copy take as much), before ZeRO shards them. Logits: three float32 copies (value, softmax, gradient). Activations:
    # about 16 x width values per token and layer, kept for the backward pass.
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


def _model_numbers(run: Run) -> tuple[int, int, int, int, int]:
    """Parameter count, width, layers, vocabulary size and context length of the model."""
    args, config = run.settings.grpo, run.start.config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=args.trust_remote_code)
        parameters = model.num_parameters()
    text = config.get_text_config()
    room = text.max_position_embeddings or args.max_context_tokens
    if room is None:  # recurrent networks and relative positions have no maximum context length
        room = context_needed(run.start.renderer, run.group, run.make_trial, run.play.limits)
    return parameters, text.hidden_size, text.num_hidden_layers, text.vocab_size, room
