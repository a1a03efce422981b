"""Dry run: a run's resolved settings, and estimates of its rows, tokens and memory from a few random trials."""

from __future__ import annotations

from dataclasses import dataclass

import yaml
from rich.console import Group as RenderGroup
from rich.syntax import Syntax
from rich.table import Table

from metarlgym.training.footprint import Rows, Shape, memory, random_rows, thought_room
from metarlgym.training.prefixes.attention import SDPA
from metarlgym.training.prefixes.check import configured_obstacle
from metarlgym.training.prefixes.tree import WORTH
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
    """Estimate a run's rows, tokens and memory; plays random trials, and loads the model's config but no weights."""
    settings, group = run.settings, run.group
    args = settings.grpo
    rows = args.generation_batch_size
    trials = rows // args.rows_per_trial
    shape = Shape.of(run.start.config, args.trust_remote_code)
    played = random_rows(group, run.make_trial, run.start.renderer)
    longest = _longest_row(run, played)
    given = run.settings.model.attn_implementation
    shares = args.share_prefixes and given in (None, SDPA) and configured_obstacle(run.start.config, args) is None
    sampled = longest
    if played is not None and args.share_prefixes:
        most = run.start.renderer.fixed_action_tokens or args.max_action_tokens
        sampled = min(longest, played.sampled_at_most(most, thought_room(settings, run.start.renderer)))
    common = played.common if played is not None and shares and played.common >= WORTH else 0
    need = memory(settings, shape, longest, sampled, common)
    micro = args.per_device_train_batch_size or 1
    numbers = {
        "task group": f"{group.env_id} {group.env_args or ''}, split by {group.env.split}",
        "trials a rollout": f"{trials} ({trials // args.trials_per_task} tasks x {args.trials_per_task} trials)",
        "rows a rollout": f"{rows} ({args.rows_per_trial} a trial)",
        "optimizer steps": f"{args.max_steps}",
        "trials in all": f"{trials * args.max_steps * args.gradient_accumulation_steps // args.steps_per_generation:,}",
        "model": f"{shape.parameters:,} parameters, width {shape.width}, {shape.layers} layers, "
        f"vocabulary {shape.vocabulary}",
        "tokens a row": _described(played, longest),
        "tokens a step, at most": f"{longest * micro * args.gradient_accumulation_steps:,} a process"
        + (f"; {common} at the start of all rows are forwarded once in each micro-batch" if common else ""),
        "memory a process, about": f"{_gib(need.peak)} (program {_gib(need.program)}, states {_gib(need.states)}, "
        f"activations {_gib(need.activations)}, logits {_gib(need.logits)}; rollout {_gib(need.cache)})",
        "results in": str(args.output_dir),
    }
    return Plan(yaml.safe_dump(settings.resolved(), sort_keys=False, allow_unicode=True), numbers)


def _longest_row(run: Run, played: Rows | None) -> int:
    """Tokens of the longest row to expect."""
    args = run.settings.grpo
    positions = getattr(run.start.config.get_text_config(), "max_position_embeddings", None)
    room = min((n for n in (args.max_context_tokens, positions) if n), default=None)
    if played is None:  # without random play the rows may take all there is
        return room or context_needed(run.start.renderer, run.group, run.make_trial, run.play.limits)
    renderer = run.start.renderer
    thought = thought_room(run.settings, renderer)
    longest = played.at_most(renderer.fixed_action_tokens or args.max_action_tokens, thought)
    return min(longest, room) if room else longest


def _described(played: Rows | None, longest: int) -> str:
    if played is None:
        return f"at most {longest:,} (the environment has no random play to measure)"
    return (
        f"{played.mean:.0f} in random play, of which {played.prompt} are the first prompt; "
        f"at most {longest:,} if every action takes all its tokens"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
