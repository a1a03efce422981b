"""What limits the tokens of a context in a run, and whether a task group's first prompts fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from metarlgym.models.scratch import byte_tokenizer, word_tokenizer
from metarlgym.rollout.context_limits import check_room
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.serving.handshake import ServerInfo
from metarlgym.tasks import TaskGroup
from metarlgym.training.arguments import Settings
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.warmup import sample_text
from metarlgym.trial import Trial


def context_rooms(args: MetaGRPOConfig, config: Any, servers: Sequence[ServerInfo] = ()) -> dict[str, int | None]:
    """Tokens of a context by the name of what limits it."""
    rooms = {
        "max_context_tokens": args.max_context_tokens,
        "the model's positions": getattr(config.get_text_config(), "max_position_embeddings", None),
    }
    rooms |= {f"max_model_len of {server.url}": server.max_model_len for server in servers}
    if args.use_vllm:
        rooms["vllm_max_model_length"] = args.vllm_max_model_length
    return rooms


def check_scratch_room(settings: Settings, group: TaskGroup, make_trial: Callable[[], Trial]) -> None:
    """`check_room` for a model that is yet to be made, whose context is as long as `max_context_tokens` says.

    Raises:
        ConfigError: no prompt leaves room for an action.
    """
    limit = settings.grpo.max_context_tokens
    if limit is None:
        return  # the context is made to fit
    word = settings.scratch.scratch_tokenizer == "word"
    tokenizer = word_tokenizer(sample_text(group, make_trial)) if word else byte_tokenizer()
    check_room(group, make_trial, make_renderer("plain", tokenizer, group), {"max_context_tokens": limit})
