"""Train a tiny transformer on fresh sequences, then score its predictions: does it learn in context as Bayes would?

uv run python -m metarlgym.examples.reading_mode --steps 400
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from transformers import Trainer, TrainingArguments

from metarlgym.models.networks import NetworkArguments, make_network
from metarlgym.sequences.data.torch_dataset import SequenceStream
from metarlgym.sequences.scoring.log_loss import SymbolCodec, read_in_process
from metarlgym.sequences.scoring.report import plot_reading, report, yardstick_losses
from metarlgym.sequences.sources import Piecewise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--law", default="lin", help="static, regular, random, ptw or lin")
    parser.add_argument("--sequences", type=int, default=1000, help="number of sequences to score afterwards")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("runs/reading_mode"))
    args = parser.parse_args()
    torch.set_num_threads(1)

    source = Piecewise(args.law, 256, seed=0)
    model = make_network(NetworkArguments(), source.alphabet, 256)
    settings = TrainingArguments(
        output_dir=str(args.out),
        max_steps=args.steps,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        logging_steps=100,
        save_strategy="no",
        report_to="none",
    )
    Trainer(model, settings, train_dataset=SequenceStream(source, labels="shifted", rank=0, world_size=1)).train()
    model.save_pretrained(args.out / "final")

    held_out = source.tokens(0, args.sequences, "eval")
    losses = read_in_process(model, SymbolCodec(None, source.alphabet), held_out)
    found = report(losses, yardstick_losses(source, 0, args.sequences, with_labels=False))
    plot_reading(found, f"{model.num_parameters():,} parameters read {args.law}", args.out / "read.png")
    console = Console(highlight=False)
    for line in found.values():
        if "by_position" in line:
            console.print(f"{line['mean']:.4f} nats a symbol  {line['what']}")
    above = found["above_floor"]
    console.print(f"above the floor: {above['mean']:.4f} ± {above['mean_se']:.4f} nats, {above['total']:.2f} in all")
    console.print(f"written: {args.out}/final, {args.out}/read.png")


if __name__ == "__main__":
    main()
