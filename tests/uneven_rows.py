"""Training rows of lognormal lengths, given to a trainer in place of rollouts."""

from __future__ import annotations

import math

import torch

PROMPT = 40
"""Tokens of a prompt that several rows have."""


def uneven_batch(rows, vocabulary, seed, longest=60, median=12.0, prompts=None):
    """TRL's tensors for rows whose prompts and completions have lognormal lengths, padded as TRL pads them.

    With a number of `prompts` each row begins with one of so many, all of the same length.
    """
    draw = torch.Generator().manual_seed(seed)

    def lengths(scale):
        drawn = torch.exp(math.log(scale) + 0.8 * torch.randn(rows, generator=draw))
        return drawn.round().long().clamp(2, longest)

    before, completions = lengths(median / 3), lengths(median)
    before = torch.full_like(before, PROMPT) if prompts else before
    width, long = int(before.max()) + 3, int(completions.max()) + 3  # as wide as other processes' rows would make them
    prompt_mask = (torch.arange(width) >= width - before[:, None]).long()
    completion_mask = (torch.arange(long) < completions[:, None]).long()
    sampled = torch.rand(rows, long, generator=draw) < 0.6
    sampled[torch.arange(rows), completions - 1] = True
    sampled[0] = False  # nothing of this row is learned

    def ids(shape):
        return torch.randint(4, vocabulary, shape, generator=draw)

    prompt_ids = ids((rows, width))
    if prompts:
        prompt_ids = prompt_ids[:prompts][torch.randint(0, prompts, (rows,), generator=draw)]
    return {
        "prompt_ids": prompt_ids * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": ids((rows, long)) * completion_mask,
        "completion_mask": completion_mask,
        "tool_mask": sampled.long(),
        "advantages": torch.randn(rows, long, generator=draw),
        "noise": 0.2 * torch.randn(2, rows, long, generator=draw),
    }


def feed(trainer, longest_first=False, prompts=None):
    """Let a trainer train on such rows; with several processes, each takes its part of one batch.

    Args:
        trainer: a `MetaGRPOTrainer`.
        longest_first: sort the rows, so that the first process has the longest.
        prompts: number of different prompts, if rows are to share them.
    """
    args = trainer.args
    share = args.per_device_train_batch_size * args.steps_per_generation
    fed = []

    def generate(inputs):
        if prompts:
            trainer._check_model()
        rank, world = trainer.accelerator.process_index, trainer.accelerator.num_processes
        whole = uneven_batch(share * world, trainer.model.config.vocab_size, len(fed), prompts=prompts)
        tokens = (whole["completion_mask"] * whole["tool_mask"]).sum()
        noise = whole.pop("noise")
        if longest_first:
            order = whole["completion_mask"].sum(1).argsort(descending=True)
            whole, noise = {name: value[order] for name, value in whole.items()}, noise[:, order]
        own = slice(rank * share, (rank + 1) * share)
        batch = {name: value[own].contiguous() for name, value in whole.items()}
        batch["num_items_in_batch"] = tokens
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        with torch.no_grad():
            logps, _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, mask, batch["completion_ids"].shape[1], batch_size=share
            )
        batch["old_per_token_logps"] = logps + noise[0, own]
        if args.beta:
            batch["ref_per_token_logps"] = logps + noise[1, own]
        fed.append(batch)
        return dict(batch)

    trainer._generate_and_score_completions = generate
    return fed
