"""Question: when does a model hack a self-generated reward, and what can be learned from such a reward?

Runs the three experiments of `metarlgym selflearn` in full (`configs/selflearning/`), an hour on two cores, and keeps
their summaries. Finished variants are kept in `--runs`, so a killed benchmark resumes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from common import commit, cpu_model, versions
from rich.console import Console

from metarlgym.selflearning.html_report import cell
from metarlgym.selflearning.run import EXPERIMENTS, parse, run_selflearning

TITLES = {
    "self_critic": "Self-critic: critics that may be hacked",
    "gist_tokens": "Gist tokens and learning in their space",
    "learned_loss": "Learned losses",
}


def main() -> None:
    """Run the remaining variants, and write the result files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/selflearning"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    args, extra = parser.parse_known_args()
    console = Console(highlight=False)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.experiments:
        folder = args.runs / name
        arguments = ["--config", name, "--output_dir", str(folder), *extra]
        arguments += ["--resume"] if (folder / "config.yaml").exists() else []
        begun = folder / "commit"
        if not folder.exists():  # the commit of the variants may be older than this page
            folder.mkdir(parents=True)
            begun.write_text(commit())
        elif not begun.exists():
            begun.write_text("unknown")
        summary = run_selflearning(parse(arguments), console)
        stem = args.out / f"selflearning_{name}"
        shutil.copy(folder / "summary.json", stem.with_suffix(".json"))
        pictures: list[str] = []
        for place, picture in enumerate(sorted(folder.glob("*.png")), 1):
            shutil.copy(picture, f"{stem}_{place}.png")
            pictures.append(f"{stem.name}_{place}.png")
        stem.with_suffix(".md").write_text(render(name, summary, begun.read_text(), pictures))
        console.print(f"written: {stem}.json, .md")


def render(experiment: str, summary: dict[str, Any], begun: str, pictures: list[str]) -> str:
    """Render the result as Markdown: the table, the plots, and how they were made."""
    names = list(summary["table"][0])
    lines = [f"# {TITLES[experiment]}", ""]
    lines += ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(cell(row[name]) for name in names) + " |" for row in summary["table"]]
    for picture in pictures:
        lines += ["", f"![{' '.join(picture.split('.')[0].split('_'))}]({picture})"]
    minutes = sum(summary["variant_seconds"].values()) / 60
    lines += [
        "",
        f"- Command: `python benchmarks/selflearning.py --experiments {experiment}`",
        f"- Date: {time.strftime('%Y-%m-%d')}",
    ]
    lines += [f"- Hardware: {cpu_model()}, one thread a variant; {minutes:.0f} minutes of one core in all"]
    lines += [f"- Versions: {', '.join(versions())}", f"- Commit: {begun}, this page {commit()}"]
    lines += [f"- Settings: `{json.dumps(summary['config'])}`", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
