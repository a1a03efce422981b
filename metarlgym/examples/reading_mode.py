"""Train a tiny transformer on fresh sequences of a source, then let it read: does it learn in context as Bayes would?

    uv run python -m metarlgym.examples.reading_mode --steps 400

A Qwen3-type model of some 100 thousand parameters predicts binary piecewise-stationary sequences (each segment a coin
of its own, ending at random: Willems' LIN prior). Minimising log-loss over many sequences should make it act like the
exact Bayesian predictor of that source. The picture shows its loss by position against that predictor, against KT,
which believes in one coin for ever, and against PTW, which is exact for another prior.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments

from metarlgym.evaluation.reading import SymbolCodec, read_in_process
from metarlgym.evaluation.reading_report import plot_reading, report, yardstick_losses
from metarlgym.pretraining.streams import SequenceStream
from metarlgym.sources import Piecewise


def tiny_model(alphabet: int, context: int, width: int = 64, layers: int = 2) -> Qwen3ForCausalLM:
    """A model whose token ids are the symbols."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=alphabet,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=width // 4,
        max_position_embeddings=context,
        initializer_range=width**-0.5,
        tie_word_embeddings=False,
    )
    return Qwen3ForCausalLM(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--law", default="lin", help="static, regular, random, ptw or lin")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/reading_mode"))
    args = parser.parse_args()
    torch.set_num_threads(1)

    source = Piecewise(args.law, args.length, seed=0)
    model = tiny_model(source.alphabet, args.length)
    settings = TrainingArguments(
        output_dir=str(args.out),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        logging_steps=100,
        save_strategy="no",
        report_to="none",
        disable_tqdm=not Console().is_terminal,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
    )
    Trainer(model, settings, train_dataset=SequenceStream(source, labels="shifted", rank=0, world_size=1)).train()
    model.save_pretrained(args.out / "final")

    held_out = source.tokens(0, 1000, "eval")
    losses = read_in_process(model, SymbolCodec(None, source.alphabet), held_out)
    found = report(losses, yardstick_losses(source, 0, 1000, with_labels=False))
    title = f"{model.num_parameters():,} parameters read {args.law}, 1,000 sequences"
    plot_reading(found, title, args.out / "read.png")
    console = Console(highlight=False)
    for line in found.values():
        if "by_position" in line:
            console.print(f"{line['mean']:.4f} nats a symbol  {line['what']}")
    above = found["above_floor"]
    console.print(f"above the floor: {above['mean']:.4f} ± {above['mean_se']:.4f} nats, {above['total']:.2f} in all")
    console.print(f"written: {args.out / 'final'}, {args.out / 'read.png'}")


if __name__ == "__main__":
    main()
