"""A model made from scratch that thinks in a toy grammar, and renderers for it.

A reply is `<think> hm hm ... </think> 2 <end>`, with a thought of random length, or just `2 <end>`.
"""

from __future__ import annotations

import math

import torch

from metarlgym.models.scratch import word_tokenizer
from metarlgym.rollout.render import PlainRenderer
from metarlgym.rollout.thinking import Thinking
from metarlgym.training.warmup import sample_text
from tests.tiny import make_model, terse, trial_maker

GUESS = terse("GuessNumber-v0", numbers=4, guesses=3)
"""Episodes of up to three turns."""
DOORS = terse("Doors-v0", doors=3)
"""Episodes of one turn."""
NUMBERS = ["1", "2", "3"]


def thinking_tokenizer(group=GUESS):
    return word_tokenizer([*sample_text(group, trial_maker(group), 64), "<think> </think> hm so invalid 1 2 3"])


class ThinkingRenderer(PlainRenderer):
    """Thoughts are closed by `so </think>`; with `opened`, what invites an action opens one."""

    def __init__(self, tokenizer, opened=False):
        super().__init__(tokenizer, None, "")
        start, end, so = tokenizer.convert_tokens_to_ids(["<think>", "</think>", "so"])
        self.thinking = Thinking(start, end, (so, end), opened)
        self.invitation = [start] if opened else []

    def _prompt(self, messages):
        return super()._prompt(messages) + self.invitation

    def bridge(self, text, ended):
        return super().bridge(text, ended) + self.invitation


def thinking_model(tokenizer, thinks=0.6, goes_on=0.8, seed=0):
    """A transformer whose next token follows the grammar, and a little the rest of its context.

    Args:
        thinks: probability of opening a thought.
        goes_on: probability of another word in a thought.
    """
    vocabulary = len(tokenizer)
    width = 4 * math.ceil(vocabulary / 4)  # at least one dimension for each token before
    model = make_model(tokenizer, width, 2, 256, seed)
    start, end, hm = tokenizer.convert_tokens_to_ids(["<think>", "</think>", "hm"])
    numbers = tokenizer.convert_tokens_to_ids(NUMBERS)
    table = torch.full((vocabulary, vocabulary), 1e-7)  # row: the token before
    table[:, start] = thinks
    table[:, numbers] = (1 - thinks) / len(numbers)
    table[start], table[hm], table[end], table[numbers] = 1e-7, 1e-7, 1e-7, 1e-7
    table[start, hm] = 1.0
    table[hm, hm], table[hm, end] = goes_on, 1 - goes_on
    table[end, numbers] = 1 / len(numbers)
    table[numbers, tokenizer.eos_token_id] = 0.9
    for number in numbers:
        table[number, numbers] = 0.1 / len(numbers)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(vocabulary, width))
        model.lm_head.weight[:, :vocabulary] = table.log().T / math.sqrt(width)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 0.02
            layer.mlp.down_proj.weight *= 0.02
    return model


def thinking_parts(group=GUESS, opened=False, **settings):
    """(model, tokenizer, renderer)."""
    tokenizer = thinking_tokenizer(group)
    return thinking_model(tokenizer, **settings), tokenizer, ThinkingRenderer(tokenizer, opened)
