"""Claim: a small transformer, trained by log-loss on fresh MetaLM sequences, learns each sequence's language in
context. At V 64, n 10, l 32, e 0.1 its loss matches that of the published Transformer-XL over the first 128 positions,
is lower at 512, and at 1,024 is lower than the published final value at 4,096; at n 5, on which it was not trained, it
is higher up to 512. The published LSTM is far worse than both.

A curriculum of `metarlgym pretrain` runs, each starting from the previous network: first few short elements, where
copying pays off immediately, then longer and more elements, with noise. Then loss by position on held-out sequences
with clean labels, compared with the known-dictionary floor. Finished stages are kept in `--runs`; a killed one resumes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import commit, cpu_model, versions
from rich.console import Console
from transformers import AutoModelForCausalLM

from metarlgym.files import write_json
from metarlgym.models import networks as _networks  # noqa: F401  (registers the recurrent models)
from metarlgym.pretraining.run import parse, run_pretraining
from metarlgym.sequences.scoring.expected_loss import HeldOutLoss
from metarlgym.sequences.scoring.plots_sources import PUBLISHED, Published, metalm_losses, plot_metalm
from metarlgym.sequences.sources import MetaLM


class Stage(NamedTuple):
    """One run of the curriculum."""

    source: dict[str, float]
    batch: int
    steps: int
    rate: float


STAGES = (
    Stage({"n": 2, "l": 8, "e": 0.02, "L": 128}, 32, 1500, 2e-3),
    Stage({"n": 5, "l": 16, "e": 0.05, "L": 512}, 8, 1500, 2e-3),
    Stage({"n": 10, "l": 32, "e": 0.1, "L": 1024}, 4, 1500, 1e-3),
)
SIZES = ["--hidden_size", "128", "--num_layers", "3", "--num_heads", "4"]
CONTEXT = 4096
FIVE = Published("Transformer-XL (published, e .05 or .1: its labels contradict)", (128, 512, 4096), (3.2, 0.91, 0.84))
"""n = 5, from the same plot as `PUBLISHED`."""
BINS = ((0, 128), (128, 256), (384, 512), (896, 1024))


def train(stages: tuple[Stage, ...], runs: Path, extra: list[str], console: Console) -> Path:
    """Train the remaining stages; returns the folder of the last stage's network."""
    model: Path | None = None
    for number, stage in enumerate(stages):
        folder = runs / f"stage{number}"
        if not (folder / "summary.json").exists():
            arguments = ["--config", "metalm", "--source_args", json.dumps({"V": 64, **stage.source})]
            arguments += ["--output_dir", str(folder), "--source_seed", str(number)]
            arguments += ["--per_device_train_batch_size", str(stage.batch), "--max_steps", str(stage.steps)]
            arguments += ["--learning_rate", str(stage.rate), "--eval_sequences", "32", "--final_eval_sequences", "64"]
            arguments += ["--model_name_or_path", str(model)] if model else ["--context", str(CONTEXT), *SIZES]
            arguments += ["--resume"] if folder.exists() else []
            run_pretraining(parse([*arguments, *extra]), console)
        model = folder / "final"
    assert model is not None
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/metalm_curves"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "metalm_curves")
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="smoke test: a few steps only")
    args, extra = parser.parse_known_args()
    torch.set_num_threads(1)
    console = Console(highlight=False)
    stages = STAGES
    if args.quick:  # keep the real runs and results untouched
        stages = tuple(stage._replace(steps=3) for stage in STAGES)
        args.runs, args.out = args.runs.with_name("metalm_curves_quick"), args.runs.with_name("metalm_curves_quick")
    start = time.monotonic()
    model = AutoModelForCausalLM.from_pretrained(train(stages, args.runs, extra, console))
    seconds = time.monotonic() - start
    results: dict[str, Any] = {}
    for n, l, e in ((10, 32, 0.1), (5, 32, 0.1)):  # noqa: E741 (the published name)
        source = MetaLM(V=64, n=n, l=l, e=e, L=1024, seed=100)
        line = HeldOutLoss(source, args.sequences).model(model, batch_size=8)
        losses = {f"transformer, {model.num_parameters():,} parameters": line.loss}
        losses |= metalm_losses(source, args.sequences, split="eval")
        by_name = {name: [float(v[:, a:b].mean()) for a, b in BINS] for name, v in losses.items()}
        results[f"n={n}, l={l}, e={e}"] = by_name
        if n == 10:
            plot_metalm(source, losses, args.out.with_suffix(".png"))
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": cpu_model(),
        "versions": versions(),
        "commit": commit(),
        "parameters": model.num_parameters(),
        "seconds": round(seconds),
    }
    write_json({"about": about, "bins": BINS, "results": results}, args.out.with_suffix(".json"))
    args.out.with_suffix(".md").write_text(render(results, about))
    console.print(f"written: {args.out}.json, .md, .png")


def render(results: dict[str, Any], about: dict[str, Any]) -> str:
    """Render the table as Markdown."""
    lines = ["# metalm_curves", "", " ".join((__doc__ or "").split()), ""]
    for settings, rows in results.items():
        heads = [f"{a + 1}..{b}" for a, b in BINS]
        lines += [f"Nats a clean token by position, {settings}:", "", f"| | {' | '.join(heads)} |", "|---" * 5 + "|"]
        lines += [f"| {name} | {' | '.join(f'{v:.3f}' for v in values)} |" for name, values in rows.items()]
        for published in PUBLISHED if settings.startswith("n=10") else (FIVE,):
            losses_at = dict(zip(published.positions, published.losses, strict=True))
            lines += [f"| {published.name} | {losses_at[128]} | | {losses_at[512]} | {losses_at[4096]} (at 4096) |"]
        lines += [""]
    lines += [f"- Date: {about['date']}; training took {about['seconds']:,} s in the last run of this script"]
    lines += [f"- Hardware: {about['hardware']}, one thread", f"- Versions: {', '.join(about['versions'])}"]
    return "\n".join([*lines, f"- Commit: {about['commit']}", ""])


if __name__ == "__main__":
    main()
