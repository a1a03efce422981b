"""Exploration bonus: entropy over the legal actions, where a language model's own entropy is over 49,000 tokens.

At a branching point of the legal actions (`rollout.choices`) the policy's distribution is restricted to the legal
tokens and renormalized; the bonus is its entropy. TRL's entropy bonus is over the whole vocabulary, and makes a chat
model write gibberish before it makes it explore.

The loss is `-(sum of A * ratio + coefficient * sum of H) / N` with N the number of action tokens, so the coefficient
has the unit of an advantage (whose root mean square over the batch is 1) per nat, whatever else an action spells. The
head's rows are held fixed: the bonus trains everything below the head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from trl.trainer.utils import maybe_gather_lm_head_ctx

from metarlgym.author_errors import contained, error_line
from metarlgym.datatypes import ConfigError
from metarlgym.rollout.transcript import Transcript
from metarlgym.tasks import TaskGroup
from metarlgym.trial import Trial

FACTORS = {"logit_scale": 1, "output_multiplier": 1, "lm_head_multiplier": 1, "logits_scaling": -1}
"""Config fields by which some architectures multiply (1) or divide (-1) their logits."""


def lists_actions(group: TaskGroup, make_trial: Callable[[], Trial]) -> bool:
    """Whether the environment lists its legal actions when a trial begins.

    Raises:
        ConfigError: its `legal_actions()` raised.
    """
    trial = make_trial()
    trial.reset(options={"task": group.task(0), "episode_seed": 0})
    try:
        with contained("legal_actions()"):
            return trial.legal_actions() is not None
    except Exception as error:  # an author's code may raise anything
        raise ConfigError(
            f"legal_actions() of {group.env_id} raised {error_line(error)}: return a list of texts, or None."
        ) from error


def check_choices(group: TaskGroup, make_trial: Callable[[], Trial]) -> None:
    """Refuse an exploration bonus for an environment that lists no legal actions.

    Raises:
        ConfigError: naming the environment.
    """
    if not lists_actions(group, make_trial):
        raise ConfigError(
            f"exploration_coef is an entropy bonus over legal actions, which {group.env_id} does not list with "
            f"{group.env_args or 'its defaults'}: leave it out (entropy_coef is over all tokens), or define "
            "legal_actions() in the environment."
        )


def choice_tensors(rows: list[Transcript], device: torch.device) -> dict[str, torch.Tensor]:
    """The rows' branching points as tensors that TRL can shuffle and split.

    Returns:
        `choice_positions`, shape `(B, P)`: index in the completion, -1 for none; `choice_ids`, shape `(B, P, L)`: legal
        tokens there, padded with -1.
    """
    points = max((len(row.choices) for row in rows), default=0)
    width = max((len(ids) for row in rows for ids in row.choices.values()), default=0)
    positions = torch.full((len(rows), max(points, 1)), -1, dtype=torch.long)
    legal = torch.full((len(rows), max(points, 1), max(width, 1)), -1, dtype=torch.long)
    for i, row in enumerate(rows):
        for k, (position, ids) in enumerate(row.choices.items()):
            positions[i, k] = position
            legal[i, k, : len(ids)] = torch.tensor(ids)
    return {"choice_positions": positions.to(device), "choice_ids": legal.to(device)}


class LegalEntropy:
    """Computes the entropy over legal tokens from the hidden states of the loss's own forward pass.

    Args:
        model: the causal language model, without the wrappers of accelerate, DeepSpeed and PEFT.
        temperature: the sampling temperature, which divides the logits.

    Raises:
        ConfigError: the model has no separate head.
    """

    def __init__(self, model: Any, temperature: float) -> None:
        self.model = model
        self.temperature = temperature
        backbone = model.base_model
        if backbone is model or model.get_output_embeddings() is None:
            raise ConfigError(
                f"exploration_coef needs a model with a separate head, and {type(model).__name__} has none: set "
                "exploration_coef to 0, or use entropy_coef."
            )
        text = model.config.get_text_config()
        self._cap = getattr(text, "final_logit_softcapping", None)
        self._scale = 1.0
        for name, power in FACTORS.items():
            self._scale *= float(getattr(text, name, None) or 1.0) ** power
        self._armed = False
        self._hidden: torch.Tensor | None = None
        backbone.register_forward_hook(self._keep)

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        if self._armed:
            self._hidden = output.last_hidden_state

    def arm(self) -> None:
        """Keep the hidden states of the next forward pass."""
        self._armed, self._hidden = True, None

    def entropies(self, positions: torch.Tensor, legal: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Entropy in nats at each branching point of the last forward pass; collective under ZeRO-3.

        Args:
            positions: see `choice_tensors`.
            legal: see `choice_tensors`.
            index: shape `(B, T)`: where each completion token is predicted, in hidden states flattened to `(tokens,
                width)`.

        Returns:
            Shape `(number of branching points,)`, connected to the model.
        """
        hidden, self._hidden, self._armed = self._hidden, None, False
        assert hidden is not None, "the loss made no forward pass"
        here = positions >= 0
        row, _ = here.nonzero(as_tuple=True)
        ids = legal[here]
        head = self.model.get_output_embeddings()
        tokens, order = ids.clamp(min=0).unique(return_inverse=True)
        with maybe_gather_lm_head_ctx(head.weight, head.bias):
            weight = head.weight.full_tensor() if isinstance(head.weight, DTensor) else head.weight
            rows = weight.detach()[tokens].float()
            bias = 0.0 if head.bias is None else head.bias.detach()[tokens].float()
        if not len(ids):
            return hidden.new_zeros(0, dtype=torch.float32)
        states = hidden.flatten(0, 1)[index.to(hidden.device)[row, positions[here]]].float()
        with torch.autocast(states.device.type, enabled=False):
            logits = (states @ rows.T + bias) * self._scale
            if self._cap:
                logits = self._cap * torch.tanh(logits / self._cap)
            chosen = (logits / self.temperature).gather(1, order).masked_fill(ids < 0, -torch.inf)
            logp = chosen.log_softmax(-1)
            return -(logp.exp() * logp.masked_fill(ids < 0, 0.0)).sum(-1)
