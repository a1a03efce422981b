"""Sequence networks made from scratch: causal transformers with five kinds of positions, RNN, LSTM, Stack-RNN.

Where possible, transformers come from the transformers library: Qwen3 (rotary; Mistral with a sliding window), XGLM
(sinusoidal), GPT-2 (learned), Bloom (ALiBi). Relative positions and the recurrent networks are implemented here. All
are Hugging Face models with `generate`, `save_pretrained` and `from_pretrained`. Token ids are the source's symbols.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    XGLMConfig,
    XGLMForCausalLM,
)

from metarlgym.datatypes import ConfigError
from metarlgym.models.recurrent import CELLS, RecurrentConfig, RecurrentForCausalLM
from metarlgym.models.relative import RelativeConfig, RelativeForCausalLM
from metarlgym.seeding import derive
from metarlgym.settings.ranges import check_heads, check_values

POSITIONS = ("rotary", "sinusoidal", "learned", "alibi", "relative")
NETWORKS = ("transformer", *CELLS)

BELONGS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("transformer",): ("positions", "num_heads", "widening", "dropout", "sliding_window", "init_std"),
    CELLS: ("mlp_before", "mlp_after"),
    ("stack_rnn",): ("stacks", "stack_cells"),
    ("lstm",): ("timescale",),
}
"""Settings that apply only to some networks."""


@dataclass
class NetworkArguments:
    """A network made from scratch, used if no `model_name_or_path` is given."""

    network: str = field(default="transformer", metadata={"help": f"One of {', '.join(NETWORKS)}."})
    positions: str = field(default="rotary", metadata={"help": f"transformer: one of {', '.join(POSITIONS)}."})
    hidden_size: int = field(default=64, metadata={"help": "Hidden size (width)."})
    num_layers: int = field(default=2, metadata={"help": "Number of transformer blocks or recurrent layers."})
    num_heads: int = field(
        default=4, metadata={"help": "transformer: number of attention heads; must divide the width."}
    )
    widening: int = field(default=4, metadata={"help": "transformer: ratio of the MLPs' hidden width to the width."})
    dropout: float = field(default=0.0, metadata={"help": "transformer: dropout (not with rotary positions)."})
    sliding_window: int | None = field(
        default=None, metadata={"help": "transformer with rotary or relative positions: attention window in tokens."}
    )
    mlp_before: int = field(default=0, metadata={"help": "Recurrent: number of MLP layers before the core."})
    mlp_after: int = field(default=0, metadata={"help": "Recurrent: number of MLP layers after the core."})
    stacks: int = field(default=4, metadata={"help": "stack_rnn: number of stacks."})
    stack_cells: int = field(default=64, metadata={"help": "stack_rnn: number of cells per stack."})
    timescale: int | None = field(
        default=None, metadata={"help": "lstm: longest memory timescale set by the gate initialization."}
    )
    init_std: float | None = field(
        default=None,
        metadata={"help": "transformer: standard deviation of the initial weights; default: 1/sqrt(width)."},
    )

    def __post_init__(self) -> None:
        check_values(self)
        if self.network not in NETWORKS:
            raise ConfigError(f"network={self.network!r} is not known: use one of {', '.join(NETWORKS)}.")
        if self.positions not in POSITIONS:
            raise ConfigError(f"positions={self.positions!r} is not known: use one of {', '.join(POSITIONS)}.")
        for networks, names in BELONGS.items():
            for name in names:
                value, default = getattr(self, name), getattr(type(self), name)
                if self.network not in networks and value != default:
                    raise ConfigError(
                        f"{name}={value} is for network={' or '.join(networks)}, not {self.network}: leave it out, or "
                        f"at its default, {default}, where a config sets it."
                    )
        if self.network != "transformer":
            return
        check_heads("num_heads", self.num_heads, "hidden_size", self.hidden_size)
        if self.sliding_window is not None and self.positions not in ("rotary", "relative"):
            raise ConfigError(
                f"sliding_window={self.sliding_window} goes with positions rotary or relative, not {self.positions}."
            )
        if self.widening != 4 and self.positions == "alibi":  # Bloom's MLPs are always four times as wide
            raise ConfigError(f"widening={self.widening} must be 4 with positions=alibi.")
        if self.dropout and self.positions == "rotary":
            raise ConfigError(f"dropout={self.dropout} goes with the other kinds of positions, not with rotary.")


def make_network(args: NetworkArguments, vocab_size: int, context: int, seed: int = 0) -> PreTrainedModel:
    """A network with random weights.

    The initialization of transformers scales with the width: at widths below 100, the library default of 0.02 is so
    small that attention never forms.

    Args:
        args: architecture and sizes.
        vocab_size: number of tokens.
        context: maximum sequence length, for kinds of positions that have one.
        seed: seed for the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights") % 2**31)
        return _make(args, vocab_size, context)


def _make(args: NetworkArguments, vocab_size: int, context: int) -> PreTrainedModel:
    width, heads, std = args.hidden_size, args.num_heads, args.init_std or args.hidden_size**-0.5
    marks: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    marks["tie_word_embeddings"] = False
    if args.network != "transformer":
        recurrent = RecurrentConfig(
            vocab_size=vocab_size,
            cell=args.network,
            hidden_size=width,
            num_hidden_layers=args.num_layers,
            mlp_before=args.mlp_before,
            mlp_after=args.mlp_after,
            stacks=args.stacks,
            stack_cells=args.stack_cells,
            timescale=args.timescale,
            **marks,
        )
        return RecurrentForCausalLM(recurrent)
    if args.positions == "relative":
        relative = RelativeConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            num_hidden_layers=args.num_layers,
            num_attention_heads=heads,
            widening=args.widening,
            dropout=args.dropout,
            sliding_window=args.sliding_window,
            initializer_range=std,
            **marks,
        )
        return RelativeForCausalLM(relative)
    if args.positions == "alibi":
        bloom = BloomConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            n_layer=args.num_layers,
            n_head=heads,
            initializer_range=std,
            hidden_dropout=args.dropout,
            attention_dropout=args.dropout,
            **marks,
        )
        return BloomForCausalLM(bloom)
    if args.positions == "learned":
        gpt2 = GPT2Config(
            vocab_size=vocab_size,
            n_positions=context,
            n_embd=width,
            n_inner=args.widening * width,
            n_layer=args.num_layers,
            n_head=heads,
            initializer_range=std,
            resid_pdrop=args.dropout,
            embd_pdrop=args.dropout,
            attn_pdrop=args.dropout,
            **marks,
        )
        return GPT2LMHeadModel(gpt2)
    if args.positions == "sinusoidal":
        xglm = XGLMConfig(
            vocab_size=vocab_size,
            max_position_embeddings=context,
            d_model=width,
            ffn_dim=args.widening * width,
            num_layers=args.num_layers,
            attention_heads=heads,
            dropout=args.dropout,
            attention_dropout=args.dropout,
            init_std=std,
            **marks,
        )
        return XGLMForCausalLM(xglm)
    rotary: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": args.widening * width,
        "num_hidden_layers": args.num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": width // heads,
        "max_position_embeddings": context,
        "initializer_range": std,
        **marks,
    }
    if args.sliding_window is not None:
        return MistralForCausalLM(MistralConfig(sliding_window=args.sliding_window, **rotary))
    return Qwen3ForCausalLM(Qwen3Config(**rotary))
