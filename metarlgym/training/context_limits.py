"""The limits on a run's context length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metarlgym.models.loading import context_room
from metarlgym.serving.handshake import ServerInfo
from metarlgym.training.config import MetaGRPOConfig


def context_rooms(args: MetaGRPOConfig, config: Any, servers: Sequence[ServerInfo] = ()) -> dict[str, int | None]:
    """Limits on the context length in tokens, by name; None: unlimited."""
    rooms = {
        "max_context_tokens": args.max_context_tokens,
        "the model's positions": context_room(config),
    }
    rooms |= {f"max_model_len of {server.url}": server.max_model_len for server in servers}
    if args.use_vllm:
        rooms["vllm_max_model_length"] = args.vllm_max_model_length
    return rooms
