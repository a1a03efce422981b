"""A network with gist tokens and its training: `[chunk 1][gists][chunk 2]`, next-symbol loss, bottleneck mask.

The source draws symbols i.i.d. from a hidden distribution, so chunk 1 helps to predict chunk 2 through its information
about that distribution, and the exact amount is known. Gists are extra vocabulary entries after the symbols. They are
never predicted: logits cover only the symbols.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import Qwen3ForCausalLM

from metarlgym.models.networks import NetworkArguments, make_network
from metarlgym.seeding import derive
from metarlgym.selflearning.experiment import Log
from metarlgym.selflearning.gist_tokens.config import Config
from metarlgym.selflearning.gist_tokens.mask import gist_mask
from metarlgym.sequences.sources import Piecewise


class GistModel(nn.Module):
    """A transformer from scratch that reads `[chunk 1][gists][chunk 2]` under one of the views of `gist_mask`.

    Args:
        config: sizes.
        gists: number k of gist tokens.
        view: what chunk 2 sees, see `gist_mask`.
        seed: seed of the weights.
    """

    def __init__(self, config: Config, gists: int, view: str, seed: int) -> None:
        super().__init__()
        sizes = NetworkArguments(hidden_size=config.hidden_size, num_layers=config.layers, num_heads=config.heads)
        context = config.n1 + gists + config.n2
        # Fewer key-value heads than query heads: they set the width of a gist independently of the model's width, so
        # that the bottleneck and not the model limits how much passes through.
        shape = make_network(sizes, config.alphabet + gists, context, seed).config
        shape.num_key_value_heads = config.kv_heads
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "weights") % 2**31)
            self.network = Qwen3ForCausalLM(shape)
        self.alphabet, self.gists, self.view = config.alphabet, gists, view

    def ids(self, first: Tensor, second: Tensor) -> Tensor:
        """Chunk 1, gists, chunk 2 as one sequence of ids, `(B, n1 + k + n2)`."""
        marks = torch.arange(self.alphabet, self.alphabet + self.gists, device=first.device)
        return torch.cat([first, marks.expand(len(first), -1), second], dim=1)

    def mask(self, before: int, length: int) -> Tensor:
        """The mask of sequences with their gists after `before` symbols, `(1, 1, length, length)`."""
        place = torch.arange(length)
        return gist_mask(((place >= before) & (place < before + self.gists))[None], self.view)

    def logits(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the symbols of both chunks, each given the preceding tokens.

        Returns:
            `(B, n1 - 1, A)`: chunk 1 without its first symbol, which is not predicted; `(B, n2, A)`: chunk 2.
        """
        ids = self.ids(first, second)
        found = self.network(
            input_ids=ids, attention_mask=self.mask(first.shape[1], ids.shape[1]), use_cache=False
        ).logits[..., : self.alphabet]
        start = first.shape[1] + self.gists - 1
        return found[:, : first.shape[1] - 1], found[:, start:-1]

    def states(self, chunk: Tensor) -> Tensor:
        """The gist states of a chunk: everything that tokens after its gists can read of it.

        These are the inputs of all layers except the first (whose input is the gist's embedding, independent of the
        chunk).

        Args:
            chunk: `(B, n)`.

        Returns:
            `(B, k, (layers - 1) * width)`.
        """
        ids = self.ids(chunk, chunk[:, :0])
        hidden = self.network.model(
            input_ids=ids,
            attention_mask=self.mask(chunk.shape[1], ids.shape[1]),
            use_cache=False,
            output_hidden_states=True,
        ).hidden_states
        return torch.cat([layer[:, -self.gists :] for layer in hidden[1:-1]], dim=-1)


def make_source(config: Config, seed: int) -> Piecewise:
    """The source: chunk 1 and chunk 2 of a sequence share one hidden distribution."""
    return Piecewise(
        "static", T=config.n1 + config.n2, alphabet=config.alphabet, concentration=config.concentration, seed=seed
    )


def draw(config: Config, source: Piecewise, start: int, count: int, split: str = "train") -> tuple[Tensor, ...]:
    """Draw sequences `start` to `start + count - 1`.

    Returns:
        chunk 1 `(B, n1)`, chunk 2 `(B, n2)`, and the true distribution of each sequence, `(B, A)` float32.
    """
    batch = source.batch(start, count, split)
    tokens = torch.from_numpy(batch.tokens)
    theta = torch.from_numpy(batch.theta[:, 0]).float()
    return tokens[:, : config.n1], tokens[:, config.n1 :], theta


def expected_loss(logits: Tensor, theta: Tensor) -> Tensor:
    """Expected cross-entropy of each prediction under the truth, in nats.

    Args:
        logits: `(B, n, A)`.
        theta: `(B, A)`.

    Returns:
        `(B, n)`.
    """
    return -(theta[:, None] * logits.log_softmax(-1)).sum(-1)


@torch.no_grad()
def held_out_loss(model: GistModel, first: Tensor, second: Tensor, theta: Tensor, rows: int = 256) -> Tensor:
    """Expected loss on chunk 2 of each sequence in nats per symbol, `(B,)`; evaluates `rows` sequences at a time."""
    parts = []
    for part in range(0, len(first), rows):
        cut = slice(part, part + rows)
        parts.append(expected_loss(model.logits(first[cut], second[cut])[1], theta[cut]).mean(1))
    return torch.cat(parts)


def train_gists(config: Config, gists: int, view: str, seed: int, steps: int, log: Log, total: int = 0) -> GistModel:
    """Phase A: learn to predict both chunks; with view `gist`, chunk 1 reaches chunk 2 only through the gists.

    Args:
        config: sizes and settings.
        gists: number k of gist tokens.
        view: see `gist_mask`.
        seed: seed of weights and data, which do not otherwise depend on view and k.
        steps: number of AdamW steps, with linear warm-up and cosine decay of the learning rate.
        log: receives the training losses.
        total: total steps of the variant if it continues after phase A; 0 if it does not.
    """
    model = GistModel(config, gists, view, seed)
    source = make_source(config, derive(seed, "gist-train"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0, betas=(0.9, 0.99))
    warm = max(1, min(config.warmup_steps, steps // 5))
    schedule = LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warm) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps))),
    )
    seen: list[Tensor] = []
    for step in range(steps):
        first, second, _ = draw(config, source, step * config.batch, config.batch)
        one, two = model.logits(first, second)
        losses = [
            functional.cross_entropy(found.flatten(0, 1), target.flatten())
            for found, target in ((one, first[:, 1:]), (two, second))
        ]
        optimizer.zero_grad(set_to_none=True)
        (losses[0] + losses[1]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen.append(torch.stack(losses).detach())
        if (step + 1) % config.log_every == 0 or step + 1 == steps:
            mean = torch.stack(seen).mean(0).tolist()
            log(step + 1, total or steps, **_named(mean))
            seen.clear()
    return model


def _named(losses: list[float]) -> dict[str, Any]:
    return {"phase": "A", "chunk_1_loss": round(losses[0], 5), "chunk_2_loss": round(losses[1], 5)}
