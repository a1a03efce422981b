"""A causal transformer with the relative positions of Transformer-XL (Dai et al. 2019, arXiv:1901.02860), without its
memory of earlier segments. No maintained causal model in transformers has these positions.

The score of query i and key j <= i is `(q_i + u) . k_j + (q_i + v) . r_{i-j}`: r is a linear map of the distance's
sinusoidal encoding, and u and v are learned per head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutput

from metarlgym.datatypes import ConfigError
from metarlgym.models.causal_model import CausalModel


class RelativeConfig(PreTrainedConfig):
    """Settings of `RelativeForCausalLM`.

    Args:
        vocab_size: number of tokens.
        hidden_size: width.
        num_hidden_layers: number of blocks.
        num_attention_heads: number of heads; must divide the width.
        widening: ratio of the MLPs' hidden width to `hidden_size`.
        dropout: dropout in attention and MLPs.
        sliding_window: number of tokens, including itself, that a token attends to; None: all preceding tokens.
        max_position_embeddings: maximum context length; None: unlimited.
    """

    model_type = "metarlgym_relative"

    def __init__(
        self,
        vocab_size: int = 2,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        widening: int = 4,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        max_position_embeddings: int | None = None,
        initializer_range: float | None = None,
        **kwargs: Any,
    ) -> None:
        if hidden_size % num_attention_heads or hidden_size % 2:
            raise ConfigError(
                f"hidden_size={hidden_size} must be even and a multiple of num_attention_heads={num_attention_heads}."
            )
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.widening = widening
        self.dropout = dropout
        self.sliding_window = sliding_window
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = hidden_size**-0.5 if initializer_range is None else initializer_range
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


class RelativeAttention(nn.Module):
    """Causal self-attention with relative positions."""

    def __init__(self, config: RelativeConfig) -> None:
        super().__init__()
        self.heads, self.width = config.num_attention_heads, config.hidden_size
        self.size = self.width // self.heads
        self.dropout, self.window = config.dropout, config.sliding_window
        self.qkv = nn.Linear(self.width, 3 * self.width, bias=False)
        self.distance = nn.Linear(self.width, self.width, bias=False)
        self.out = nn.Linear(self.width, self.width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(self.heads, 1, self.size))
        self.distance_bias = nn.Parameter(torch.zeros(self.heads, 1, self.size))

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        cache: Any = None,
        layer: int = 0,
    ) -> torch.Tensor:
        """Map `(B, T, width)` to the same shape.

        Args:
            x: hidden states of the tokens.
            mask: bool, `(B or 1, T or 1, keys)`, True at keys a token may attend to, in addition to the causal mask.
            positions: positions of the tokens among the keys, `(B or 1, T)`; None: 0..T-1.
            cache: takes the new keys and values and returns all of them.
            layer: index of the layer in the cache.
        """
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.update(k, v, layer)
        keys = k.shape[2]
        far = self.distance(_sinusoids(keys, self.width, x)).view(keys, self.heads, self.size).transpose(0, 1)
        # Row i, column d: the score at distance d, gathered below into columns j = i - d.
        by_distance = (q + self.distance_bias) @ far.transpose(1, 2)
        steps = torch.arange(keys, device=x.device)
        apart = (steps if positions is None else positions)[..., None] - steps
        seen = apart >= 0 if self.window is None else (apart >= 0) & (apart < self.window)
        if mask is not None:
            seen = (seen & mask) | (apart == 0)  # padding attends to itself, to avoid NaN; its output is unused
        apart, seen = (x[:, None] if x.dim() == 3 else x for x in (apart, seen))
        bias = by_distance.gather(3, apart.clamp(min=0).expand(B, self.heads, T, keys)) / math.sqrt(self.size)
        bias = bias.masked_fill(~seen, -torch.inf)
        dropout = self.dropout if self.training else 0.0
        found = functional.scaled_dot_product_attention(q + self.content_bias, k, v, bias, dropout)
        return self.out(found.transpose(1, 2).reshape(B, T, self.width))


class RelativeBlock(nn.Module):
    """Pre-norm transformer block: attention and MLP, each with a residual connection."""

    def __init__(self, config: RelativeConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = RelativeAttention(config)
        inner = config.widening * width
        self.mlp = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width), nn.Dropout(config.dropout)
        )

    def forward(self, x: torch.Tensor, *where: Any) -> torch.Tensor:
        x = x + self.attention(self.before_attention(x), *where)
        return x + self.mlp(self.before_mlp(x))


@dataclass
class RelativeOutput(CausalLMOutput):
    """Output of a forward pass."""

    last_hidden_state: torch.Tensor | None = None
    """Input of the output head, `(B, T, width)`."""


class RelativeForCausalLM(CausalModel):
    """A causal language model with relative positions. `generate` works without a cache."""

    config_class = RelativeConfig
    _supports_sdpa = True

    def __init__(self, config: RelativeConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(RelativeBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        if isinstance(module, RelativeAttention):
            nn.init.zeros_(module.content_bias)
            nn.init.zeros_(module.distance_bias)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> RelativeOutput:
        """Logits `(B, T, vocab_size)`, and the loss if labels are given (shifted internally, as in Hugging Face).

        Args:
            input_ids: `(B, T)`.
            attention_mask: `(B, T)`, 0 at padding; or `(B or 1, 1, T, keys)`, 0.0 at keys that may be attended to.
            labels: `(B, T)`; -100 is ignored.
            output_hidden_states: also return the input of each block and the final norm's output, each `(B, T, width)`.
            position_ids: positions of the tokens among the keys; used only with `past_key_values`.
            past_key_values: an object whose `update` takes a layer's new keys and values and returns all of them.
            logits_to_keep: compute logits only for this many last tokens; 0: all.
        """
        mask = None
        if attention_mask is not None and attention_mask.dim() == 4:
            mask = attention_mask[:, 0] == 0
        elif attention_mask is not None and not bool(attention_mask[:, 0].all()):
            mask = attention_mask[:, None] != 0  # right padding is hidden by causality
        positions = None if past_key_values is None else position_ids
        x = self.embedding(input_ids)
        hidden = [x]
        for i, block in enumerate(self.blocks):
            x = block(x, mask, positions, past_key_values, i)
            hidden.append(x)
        last = self.norm(x)
        logits, loss = self.logits_and_loss(last, labels, logits_to_keep, **kwargs)
        kept = (*hidden[:-1], last) if output_hidden_states else None
        return RelativeOutput(loss=loss, logits=logits, hidden_states=kept, last_hidden_state=last)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Pass the full sequence at every step."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def _sinusoids(length: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Sinusoidal encodings of the distances 0..length-1, `(length, width)`."""
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10_000.0) / width))
    angles = torch.arange(length, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1).to(like.dtype)


AutoConfig.register(RelativeConfig.model_type, RelativeConfig)
AutoModelForCausalLM.register(RelativeConfig, RelativeForCausalLM)
