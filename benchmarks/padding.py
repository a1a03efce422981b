"""Claim: with `micro_batch_tokens: 2000`, at most 10% of the tokens that an update forwards are padding, and the update
takes less time than with TRL's micro-batches.

64 rows with lognormal lengths (median 400, sigma 0.8) between 50 and 2,000 tokens, 20 to 40 of them a prompt. TRL deals
rows out at random, equally many to each micro-batch, and pads all of them to the longest of the rollout: eight of them
are up to 16,000 tokens, and 2,000 tokens are one row. "Sorted in eights" sorts the rows, and cuts each eight of them to
their own longest. Shares are over 20 draws of the rows.

Times are of the update alone, of `MetaGRPOTrainer` on one of these draws with a model from scratch of one layer and
width 32: its second step, since memory is touched for the first time in the first. The variants run in turn in one
process and end in the same weights, which is checked. Torch uses one thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import math
import random
import tempfile
from typing import Any

import torch
from common import Report, Seconds, interleave, now, ratios, run
from transformers import PrinterCallback, TrainerCallback

from metarlgym import TaskGroup
from metarlgym.models.scratch import ScratchArguments, byte_tokenizer, scratch_model
from metarlgym.rollout.render import PlainRenderer
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.micro_batches import Lengths, partition
from metarlgym.training.trainer import MetaGRPOTrainer

ROWS, LIMIT, DRAWS = 64, 2000, 20
SHORTEST, MEDIAN, SIGMA = 50, 400, 0.8
IDS = 200
"""Token ids that rows are drawn from."""


def draw(seed: int, longest: int) -> Lengths:
    """Lengths of the rows of one step."""
    rng = random.Random(seed)
    prompts = [rng.randint(20, 40) for _ in range(ROWS)]
    rows = [round(min(longest, max(SHORTEST, rng.lognormvariate(math.log(MEDIAN), SIGMA)))) for _ in range(ROWS)]
    return Lengths(prompts, [row - prompt for row, prompt in zip(rows, prompts, strict=True)])


def padding(lengths: Lengths, parts: list[list[int]]) -> float:
    """Share of padding where micro-batches are cut to their own longest rows."""
    return 1 - sum(map(lengths.tokens, parts)) / sum(map(lengths.padded, parts))


def in_eights(lengths: Lengths) -> list[list[int]]:
    order = sorted(range(ROWS), key=lambda i: lengths.tokens([i]))
    return [order[i : i + 8] for i in range(0, ROWS, 8)]


def tensors(lengths: Lengths, seed: int) -> dict[str, torch.Tensor]:
    """A rollout as TRL pads it."""
    generator = torch.Generator().manual_seed(seed)
    prompts, completions = (torch.tensor(part)[:, None] for part in lengths)
    wide, long = int(prompts.max()), int(completions.max())
    prompt_mask = (torch.arange(wide) >= wide - prompts).long()
    completion_mask = (torch.arange(long) < completions).long()
    sampled = (torch.rand(ROWS, long, generator=generator) < 0.3).long()
    return {
        "prompt_ids": torch.randint(4, IDS, (ROWS, wide), generator=generator) * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": torch.randint(4, IDS, (ROWS, long), generator=generator) * completion_mask,
        "completion_mask": completion_mask,
        "tool_mask": sampled,
        "advantages": torch.randn(ROWS, long, generator=generator),
        "num_items_in_batch": (sampled * completion_mask).sum(),
    }


class FixedRows(MetaGRPOTrainer):
    """Trains on given rows in place of rollouts."""

    rows: dict[str, torch.Tensor]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.args.micro_batch_tokens is None:
            self._log_padding(self.rows)
        return dict(self.rows)


class Stopwatch(TrainerCallback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.steps: list[Seconds] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.append(now() - self._start)


def update(lengths: Lengths, micro: int, limit: int | None) -> tuple[Seconds, float, torch.Tensor]:
    """Train two steps; returns the time of the second, the share of padding, and the weights.

    Args:
        lengths: of the rows.
        micro: rows of a micro-batch of TRL's.
        limit: `micro_batch_tokens`.
    """
    group, tokenizer = TaskGroup("Doors-v0", {"style": "terse"}), byte_tokenizer()
    sizes = ScratchArguments(scratch_hidden_size=32, scratch_layers=1, scratch_heads=2)
    with tempfile.TemporaryDirectory() as folder:
        args = MetaGRPOConfig(
            output_dir=folder,
            trials_per_task=8,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=ROWS // micro,
            micro_batch_tokens=limit,
            share_prefixes=False,
            max_steps=2,
            optim="sgd",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        )
        model = scratch_model(sizes, tokenizer, 4096, 0)
        trainer = FixedRows(model, args, group, tokenizer, PlainRenderer(tokenizer))
        trainer.rows = tensors(lengths, 0)
        watch = Stopwatch()
        trainer.add_callback(watch)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    shares = [line["padding_share"] for line in trainer.state.log_history if "padding_share" in line]
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    return watch.steps[-1], shares[-1], weights


def main(quick: bool) -> int:
    torch.set_num_threads(1)
    longest, repetitions = (400, 1) if quick else (2000, 2)
    claim, _, method = (__doc__ or "").strip().partition("\n\n")
    report = Report("padding", " ".join(claim.split()), f"{' '.join(method.split())} {repetitions} repetitions.", quick)
    draws = [draw(seed, longest) for seed in range(DRAWS)]
    report.add(
        "padding, TRL: random order, all as wide as the longest",
        [1 - d.tokens(range(ROWS)) / d.padded(range(ROWS)) for d in draws],
    )
    report.add("padding, sorted in eights", [padding(d, in_eights(d)) for d in draws])
    bounded = [partition(d, LIMIT) for d in draws]
    report.add("padding, micro_batch_tokens 2000", [padding(d, parts) for d, parts in zip(draws, bounded)], at_most=0.1)
    report.add("forward passes, micro_batch_tokens 2000", [float(len(parts)) for parts in bounded])
    names = {"TRL, 8 rows": (8, None), "TRL, 1 row": (1, None), "micro_batch_tokens 2000": (8, LIMIT)}
    variants = {name: lambda given=given: update(draws[0], *given) for name, given in names.items()}
    found = interleave(variants, repetitions)
    *others, last = found.values()
    for runs in others:
        torch.testing.assert_close(runs[0][2], last[0][2], rtol=0, atol=1e-6)
    for name, runs in found.items():
        report.add(f"{name}: padding of the timed rows, as the run logs it", runs[0][1])
        for kind in ("wall", "cpu"):
            report.add(f"{name}: update, {kind} time", [getattr(seconds, kind) for seconds, _, _ in runs], "s")
    for name in list(found)[:-1]:
        for kind in ("wall", "cpu"):
            pairs = [[getattr(seconds, kind) for seconds, _, _ in found[n]] for n in (name, "micro_batch_tokens 2000")]
            report.add(f"{name} over micro_batch_tokens 2000, {kind} time", ratios(*pairs), "x")
    return report.finish()


if __name__ == "__main__":
    run(main, __doc__)
