"""Claim: a one-block transformer reaches the exact floor of the Random Language Model with L = 1: within 2% at the
published default (V 128, beta 2) with AdamW, within 5% with the published SGD. For L = 2 and 3, three-block
transformers are compared with the inside-outside floor, without a bound.

The gap over training steps is measured on the checkpoints' held-out sequences, the final gap on others. The runs of
`metarlgym pretrain` are kept in `--runs` and not repeated; a killed one resumes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from common import commit, cpu_model, versions
from rich.console import Console

from metarlgym.files import write_json
from metarlgym.pretraining.run import parse, run_pretraining

DEEP = ["--hidden_size", "64", "--num_heads", "4", "--num_layers", "3", "--learning_rate", "2e-3"]
SMALLER = ["--per_device_train_batch_size", "512", "--max_steps", "3000"]


def _runs() -> dict[str, tuple[str, dict[str, Any], list[str]]]:
    """By name: config, source settings, additional flags."""
    found: dict[str, tuple[str, dict[str, Any], list[str]]] = {
        "default, SGD (V 128, L 1, beta 2)": ("rlm_seed004", {"v": 128, "L": 1, "beta": 2.0}, []),
        "default, AdamW (V 128, L 1, beta 2)": ("rlm_adamw", {"v": 128, "L": 1, "beta": 2.0}, []),
    }
    for depth in (2, 3):
        found[f"AdamW, V 32, L {depth}, beta 2, last token"] = (
            "rlm_adamw",
            {"v": 32, "L": depth, "beta": 2.0},
            [*DEEP, *SMALLER],
        )
    for beta in (0.8, 1.2, 1.8, 2.4):
        found[f"AdamW, V 32, L 1, beta {beta}"] = ("rlm_adamw", {"v": 32, "L": 1, "beta": beta}, SMALLER)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/rlm_floor"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rlm_floor")
    args, extra = parser.parse_known_args()
    torch.set_num_threads(1)
    console = Console(highlight=False)
    results: dict[str, Any] = {}
    for name, (config, source, flags) in _runs().items():
        console.print(f"[bold]{name}")
        folder = args.runs / "".join(c if c.isalnum() else "_" for c in name)
        if not (folder / "summary.json").exists():
            arguments = ["--config", config, "--output_dir", str(folder)]
            arguments += ["--source_args", json.dumps({"seed_rules": 12345, **source}), *flags, *extra]
            arguments += ["--resume"] if folder.exists() else []
            start = time.monotonic()
            run_pretraining(parse(arguments), console)
            (folder / "seconds").write_text(f"{time.monotonic() - start:.0f}\n")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        gaps = {line["step"]: line["eval_gap"] for line in lines if "eval_gap" in line}
        seconds = (folder / "seconds").read_text().strip() if (folder / "seconds").exists() else "?"
        results[name] = json.loads((folder / "summary.json").read_text()) | {"gaps": gaps, "seconds": seconds}
    about = {"date": time.strftime("%Y-%m-%d"), "hardware": cpu_model(), "versions": versions(), "commit": commit()}
    write_json({"about": about, "results": results}, args.out.with_suffix(".json"))
    args.out.with_suffix(".md").write_text(render(results, about))
    plot(results, args.out.with_suffix(".png"))
    console.print(f"written: {args.out}.json, .md, .png")


def render(results: dict[str, Any], about: dict[str, Any]) -> str:
    """Render the table as Markdown."""
    lines = ["# rlm_floor", "", " ".join((__doc__ or "").split()), ""]
    lines += ["| run | parameters | steps | loss | floor | gap | seconds |", "|---" * 7 + "|"]
    for name, found in results.items():
        lines += [
            f"| {name} | {found['parameters']:,} | {found['steps']:,} | {found['final_loss']:.4f} | "
            f"{found['floor']:.4f} | {found['gap']:.2%} | {found['seconds']} |"
        ]
    lines += ["", f"- Date: {about['date']}", f"- Hardware: {about['hardware']}, one thread"]
    return "\n".join([*lines, f"- Versions: {', '.join(about['versions'])}", f"- Commit: {about['commit']}", ""])


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot the gap to the floor by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for name, found in results.items():
        steps = sorted(found["gaps"], key=int)
        axes.plot([int(s) for s in steps], [100 * found["gaps"][s] for s in steps], "o-", markersize=3, label=name)
    axes.axhline(2, color="black", linestyle="--", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss over the exact floor, %")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
