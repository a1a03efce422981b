"""Padding check: left-padded rows must get the same log-probabilities as unpadded ones.

TRL pads prompts on the left and passes the model a mask but no positions. Models with relative positions are unaffected
and others derive positions from the mask. For those that use column indices (GPT-2, XGLM), a hook sets the positions.
"""

from __future__ import annotations

import inspect
import random
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel

from metarlgym.datatypes import ConfigError
from metarlgym.policies.self_check import compare
from metarlgym.runtime.agreement import agree

SHORT, LONG, COMPLETION = 3, 8, 16
"""Lengths in tokens of the two prompts and of their completions."""


def check_padding(trainer: Any, dtype: torch.dtype) -> None:
    """Compare TRL's scores of a row alone and in a padded batch; fix the positions if that helps. Collective.

    Args:
        trainer: a `GRPOTrainer`.
        dtype: the dtype it computes in.

    Raises:
        ConfigError: if the model's log-probabilities depend on padding; AgreedError with several processes.
    """
    problem = _problem(trainer, dtype)
    if problem is not None:
        models = [trainer.model, trainer.ref_model]
        bases = [_base(trainer.accelerator.unwrap_model(model)) for model in models if model is not None]
        if all("position_ids" in inspect.signature(base.forward).parameters for base in bases):
            for base in bases:
                base.register_forward_pre_hook(_positions_from_mask, with_kwargs=True)
            problem = _problem(trainer, dtype)
    agree(ConfigError(problem) if problem is not None else None)


def _problem(trainer: Any, dtype: torch.dtype) -> str | None:
    """A description of the problem, identical on all processes, or None."""
    kind = trainer.model.config.get_text_config().model_type
    try:
        padded, alone = _scores(trainer)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # any error must reach the other processes
        line = f"{type(error).__name__}: {error}".split("\n", 1)[0]
        problem: str | None = f"model type {kind!r} cannot be trained by GRPO: scoring a padded row failed ({line})."
    else:
        problem = compare(padded, alone, dtype)
        if problem is not None:
            problem = (
                f"model type {kind!r} cannot be trained by GRPO: log-probabilities of a row that is padded on the left "
                f"{problem} from those of the row alone. Train a model that skips padding, such as Qwen3 or Llama."
            )
    return next((text for text in gather_object([problem]) if text), None)


def _scores(trainer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a completion in a padded batch and alone, each with shape `(n,)`."""
    text = trainer.model.config.get_text_config()
    room = getattr(text, "max_position_embeddings", None) or 2**20
    long = max(2, min(LONG, room // 2))
    short = min(SHORT, long - 1)
    length = max(1, min(COMPLETION, room - long))
    rng = random.Random(0)

    def draw(count: int) -> list[int]:
        return rng.choices(range(text.vocab_size), k=count)

    row, other = draw(short) + draw(length), draw(long) + draw(length)
    pad = [0] * (long - short)
    batch = torch.tensor([pad + row, other], device=trainer.accelerator.device)
    mask = torch.ones_like(batch)
    mask[0, : len(pad)] = 0
    model, training = trainer.model, trainer.model.training
    model.eval()
    try:
        with torch.no_grad():
            padded, _, _ = trainer._get_per_token_logps_and_entropies(model, batch, mask, length)
            alone, _, _ = trainer._get_per_token_logps_and_entropies(
                model, batch[:1, len(pad) :], mask[:1, len(pad) :], length
            )
    finally:
        model.train(training)
    return padded[0].float().cpu(), alone[0].float().cpu()


def _base(model: Any) -> Any:
    return (model.get_base_model() if isinstance(model, PeftModel) else model).base_model


def _positions_from_mask(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mask = kwargs.get("attention_mask")
    if mask is None or mask.dim() != 2 or kwargs.get("position_ids") is not None or kwargs.get("past_key_values"):
        return None
    return args, kwargs | {"position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0)}


def precision(args: Any, model: Any) -> torch.dtype:
    """The dtype in which a trainer with these arguments computes."""
    if args.bf16:
        return torch.bfloat16
    return torch.float16 if args.fp16 else model.dtype
