"""Recurrent causal language models as Hugging Face models: RNN, LSTM and Stack-RNN, with MLPs before and after.

The networks of Genewein et al. 2023: embedding, MLP, recurrent core, MLP, logits. They train with
`transformers.Trainer`, and `generate`, `save_pretrained` and `from_pretrained` work as with any other model; generation
carries the recurrent state from token to token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import ModelOutput

from metarlgym.datatypes import ConfigError
from metarlgym.models.causal_model import CausalModel
from metarlgym.models.stack_rnn import StackRNN

CELLS = ("rnn", "lstm", "stack_rnn")


class RecurrentConfig(PreTrainedConfig):
    """Settings of `RecurrentForCausalLM`.

    Args:
        vocab_size: number of tokens.
        cell: `rnn`, `lstm` or `stack_rnn`.
        hidden_size: width of the embedding, the core and the MLPs.
        num_hidden_layers: number of layers in the core.
        mlp_before: number of hidden layers between embedding and core.
        mlp_after: number of hidden layers between core and logits.
        stacks: stack_rnn: number of stacks.
        stack_cells: stack_rnn: number of cells per stack.
        timescale: lstm: longest memory timescale set by the chrono initialization (Tallec and Ollivier 2018, "Can
            recurrent neural networks warp time?", arXiv:1804.11188): forget-gate biases are log(uniform in
            1..timescale - 1), input-gate biases their negatives. None: forget-gate biases are 1.
        max_position_embeddings: None: a recurrent network has no maximum context length.
    """

    model_type = "metarlgym_recurrent"

    def __init__(
        self,
        vocab_size: int = 2,
        cell: str = "lstm",
        hidden_size: int = 64,
        num_hidden_layers: int = 1,
        mlp_before: int = 0,
        mlp_after: int = 0,
        stacks: int = 4,
        stack_cells: int = 64,
        timescale: int | None = None,
        max_position_embeddings: int | None = None,
        **kwargs: Any,
    ) -> None:
        if cell not in CELLS:
            raise ConfigError(f"cell={cell!r} is not known: use one of {', '.join(CELLS)}.")
        self.vocab_size = vocab_size
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.mlp_before = mlp_before
        self.mlp_after = mlp_after
        self.stacks = stacks
        self.stack_cells = stack_cells
        self.timescale = timescale
        self.max_position_embeddings = max_position_embeddings
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


@dataclass
class RecurrentOutput(ModelOutput):
    """Output of a forward pass."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    """`(B, T, vocab_size)`."""
    state: Any = None
    """Recurrent state after the last token, to pass as `state=` to the next call."""
    hidden_states: tuple[torch.Tensor, ...] | None = None
    """With `output_hidden_states`: outputs of embedding, core and last hidden layer, each `(B, T, hidden_size)`."""
    last_hidden_state: torch.Tensor | None = None
    """Input of the output head, `(B, T, hidden_size)`."""


class RecurrentForCausalLM(CausalModel):
    """A recurrent causal language model."""

    config_class = RecurrentConfig
    _is_stateful = True  # a state cannot be rolled back, so no assisted generation

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.before = _mlp(width, config.mlp_before)
        if config.cell == "stack_rnn":
            self.core: nn.Module = nn.ModuleList(
                StackRNN(width, width, config.stacks, config.stack_cells) for _ in range(config.num_hidden_layers)
            )
        else:
            kind = nn.LSTM if config.cell == "lstm" else nn.RNN
            self.core = kind(width, width, config.num_hidden_layers, batch_first=True)
        self.after = _mlp(width, config.mlp_after)
        self.lm_head = nn.Linear(width, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # torch's own initialization, which scales with the width, except for the LSTM gates that control its memory.
        if isinstance(module, nn.Linear | nn.Embedding | nn.RNN | nn.LSTM):
            module.reset_parameters()
        if isinstance(module, nn.LSTM):
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    if not name.startswith("bias_ih"):
                        continue
                    gates = parameter.view(4, -1)  # input, forget, cell, output
                    if self.config.timescale is None:
                        gates[1] = 1.0
                    else:
                        gates[1].uniform_(1, max(2, self.config.timescale - 1)).log_()
                        gates[0] = -gates[1]

    @property
    def state_batch_dim(self) -> int:
        """Batch dimension of the state tensors."""
        return 0 if self.config.cell == "stack_rnn" else 1

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        state: Any = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> RecurrentOutput:
        """Logits, and the loss if labels are given.

        Args:
            input_ids: `(B, T)`.
            attention_mask: `(B, T)`, 0 at padding. Left padding is skipped and its outputs are meaningless. Right
                padding affects only the state.
            labels: `(B, T)`, shifted internally, as in Hugging Face; -100 is ignored.
            state: state returned by an earlier call, to continue from.
            output_hidden_states: also return the hidden states.
            logits_to_keep: compute logits only for this many last tokens; 0: all.
        """
        order = None
        lengths = None
        if attention_mask is not None and attention_mask.shape == input_ids.shape and not attention_mask[:, 0].all():
            order, lengths = _padding_last(attention_mask)
            input_ids = input_ids.gather(1, order)
        embedded = self.embedding(input_ids)
        entered = self.before(embedded)
        if isinstance(self.core, nn.ModuleList):
            states = []
            cored = entered
            for i, layer in enumerate(self.core):
                cored, after = layer(cored, None if state is None else state[i], lengths)
                states.append(after)
            state = tuple(states)
        elif lengths is None:
            cored, state = self.core(entered, state)
        else:
            packed = pack_padded_sequence(entered, lengths.cpu(), batch_first=True, enforce_sorted=False)
            found, state = self.core(packed, state)
            cored, _ = pad_packed_sequence(found, batch_first=True, total_length=entered.shape[1])
        last = self.after(cored)
        if order is not None:
            back = order.argsort(1)[..., None]
            embedded, cored, last = (x.gather(1, back.expand_as(x)) for x in (embedded, cored, last))
        logits, loss = self.logits_and_loss(last, labels, logits_to_keep, **kwargs)
        hidden = (embedded, cored, last) if output_hidden_states else None
        return RecurrentOutput(loss=loss, logits=logits, state=state, hidden_states=hidden, last_hidden_state=last)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, state: Any = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Pass the full prompt first, then one token at a time with the state."""
        if state is None:
            return {"input_ids": input_ids, "attention_mask": attention_mask}
        return {"input_ids": input_ids[:, -1:], "state": state}

    def _update_model_kwargs_for_generation(
        self, outputs: ModelOutput, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        kept = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        kept["state"] = outputs.get("state")
        return kept


def _padding_last(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Column order, `(B, T)`, that moves each row's leading padding to its end, and the lengths without it, `(B,)`.

    A row of only padding keeps its order and full length.
    """
    columns = mask.shape[1]
    leading = (mask.cumsum(1) == 0).sum(1) % columns
    order = (torch.arange(columns, device=mask.device) + leading[:, None]) % columns
    return order, columns - leading


def _mlp(width: int, layers: int) -> nn.Module:
    parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*parts) if parts else nn.Identity()


AutoConfig.register(RecurrentConfig.model_type, RecurrentConfig)
AutoModelForCausalLM.register(RecurrentConfig, RecurrentForCausalLM)
