"""How much memory is free, and how many trials fit into it."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import psutil
import torch

from metarlgym.rollout.protocol import ActRequest

SHARE = 0.6
"""Share of the free memory that contexts may take: the rest is for activations, and for estimates that were too low."""
EARLY = 16
"""Number of finished contexts from which on their lengths are trusted: those that end first may be short."""
UNKNOWN_POSITIONS = 8192
"""Taken to be the longest context of models without a limit, as long as nothing better is known."""
BYTES_PER_LOGIT = 24
"""What sampling needs for each token of the vocabulary: logits, log-probabilities, and their running sum in float64."""

_V2 = ("memory.max", "memory.current")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate on the device; processes of one launch share a CPU's memory."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = min(psutil.virtual_memory().available, _free_in_cgroup())
    return int(free / int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def _free_in_cgroup(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Bytes left of the limits of this process's control groups (v1 and v2); infinite without a limit."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return math.inf
    left = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, names, cache = (
            (root / "memory", _V1, "total_inactive_file") if controllers else (root, _V2, "inactive_file")
        )
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):  # in a container the path can be the host's; the top is always there
            left = min(left, _left(folder, names, cache))
            if folder == top:
                break
    return left


def _left(folder: Path, names: tuple[str, str], cache: str) -> float:
    try:
        limit, used = ((folder / name).read_text().strip() for name in names)
        if limit == "max":
            return math.inf
        # The kernel drops these cached files before it refuses memory.
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - int(used) + int(counts.get(cache, 0)))
    except (OSError, ValueError):
        return math.inf


class Room:
    """Decides whether one more trial fits into memory, from the lengths of the contexts seen so far.

    Every context is taken to be as long as the longest: that is what a `SlotCache` allocates. Until contexts have
    finished, a trial is taken to fill the context that its turns and texts could fill.

    Args:
        config: the model's config.
        budget: bytes for contexts.
        itemsize: bytes of one number of the model's.
    """

    def __init__(self, config: Any, budget: float, itemsize: int) -> None:
        text = config.get_text_config()
        self.budget = budget
        self.limit: float = math.inf
        """Limit on the tokens of a context."""
        self.positions = getattr(text, "max_position_embeddings", None) or UNKNOWN_POSITIONS
        self.per_token = _bytes_per_token(text, itemsize)
        self.per_trial = BYTES_PER_LOGIT * (getattr(text, "vocab_size", None) or 0)
        self.longest = 0
        """Length of the longest context so far."""
        self.finished = 0
        """Number of contexts that have ended."""
        self._guess = 0.0
        """The most tokens that a trial may need, by its rules."""

    def saw(self, request: ActRequest) -> None:
        """Take note of a context's first request."""
        self.longest = max(self.longest, len(request.ids) + request.max_tokens + (request.thought_tokens or 0))
        if not self._guess:
            self._guess = min(self.positions, self.limit, _most_tokens(request))

    @property
    def tokens(self) -> float:
        """Number of tokens to reserve for a trial."""
        most = min(self.positions, self.limit)
        if not self.finished:
            return min(most, max(self.longest, self._guess or most))
        return min(most, self.longest * (1.25 if self.finished >= EARLY else 2.0))

    def fits(self, trials: int) -> bool:
        return trials * (self.tokens * self.per_token + self.per_trial) <= self.budget


def _bytes_per_token(text: Any, itemsize: int) -> int:
    """Size of a token's keys and values in all layers."""
    layers = getattr(text, "num_hidden_layers", None) or 0
    heads = getattr(text, "num_attention_heads", None) or 1
    width = getattr(text, "head_dim", None) or (getattr(text, "hidden_size", None) or 0) // heads
    return 2 * layers * (getattr(text, "num_key_value_heads", None) or heads) * width * itemsize


def _most_tokens(request: ActRequest) -> float:
    """An upper estimate of a trial's tokens: every turn an action of full length and a text as long as the prompt."""
    trial = request.trial
    per_turn = len(request.ids) + request.max_tokens + (request.thought_tokens or 0)
    turns = trial.max_total_turns if trial is not None else 1
    if turns is None:
        turns = trial.episodes * trial.env.max_turns if trial.env.max_turns else None
    return math.inf if turns is None else per_turn * (turns + 1)
