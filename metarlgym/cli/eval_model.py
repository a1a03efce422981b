"""How `metarlgym eval` loads a model, and at which temperature it samples."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

from metarlgym.cli.model_options import find_device, model_errors
from metarlgym.cli.run_settings import RunSettings
from metarlgym.datatypes import ConfigError
from metarlgym.policies.temperature import check_temperature
from metarlgym.rollout.play_settings import PlaySettings
from metarlgym.tasks import TaskGroup

TINY = 20_000_000
"""A model with fewer parameters is faster on one thread, and plays thousands of turns per second."""


def find_temperature(run: RunSettings, given: float | None, greedy: bool) -> float:
    """The sampling temperature; 1 for greedy play, where it only affects the log-probabilities that are recorded."""
    if greedy:
        if given is not None:
            raise ConfigError(f"temperature={given:g} has no effect with --greedy: leave out one of them.")
        return 1.0
    return check_temperature(float(run.trained_with("temperature", given, 1.0)), "--greedy")


def is_tiny(model: Any) -> bool:
    return sum(parameter.numel() for parameter in model.parameters()) < TINY


def action_tokens_of(group: TaskGroup, play: PlaySettings, renderer: Any, console: Console) -> int:
    """The limit on an action's tokens where none was given: training's default, told if it is not the usual one."""
    from metarlgym.training.footprint import random_rows
    from metarlgym.training.model_defaults import default_action_tokens

    with console.status("playing random trials, to learn how long actions are"):
        found = default_action_tokens(renderer, random_rows(group, lambda: group.make_trial(play.trial), renderer))
    if found is None:
        return play.limits.action_tokens
    console.print(f"max_action_tokens {found}, as the longest legal action suggests", soft_wrap=True)
    return found


def load_for(
    name: str,
    group: TaskGroup,
    play: PlaySettings,
    device: str,
    threads: int | None,
    trust_remote_code: bool,
) -> tuple[Any, Any]:
    """The model on its device, and the renderer."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from transformers.utils import logging

    from metarlgym.models.chat_templates import use_chat_template
    from metarlgym.models.end_tokens import end_tokens
    from metarlgym.models.loading import check_model_path, check_vocabulary, load_model, load_tokenizer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    with model_errors():
        check_model_path(name)
        place = find_device(device)
        tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
        use_chat_template(tokenizer, play.chat_template)
        renderer = play.make_renderer(name, tokenizer, group)
        loaded = load_model(name, dtype="auto", trust_remote_code=trust_remote_code)
        check_vocabulary(name, tokenizer, loaded.config)
        renderer.end_also_with(end_tokens(loaded.generation_config, loaded.config))
        if threads is None and is_tiny(loaded):
            torch.set_num_threads(1)
        return loaded.to(place).eval(), renderer
