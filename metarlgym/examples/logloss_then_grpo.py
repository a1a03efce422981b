"""Train on MetaLM by log-loss, then by GRPO on the MetaLM-v0 game: does the outer loop improve on log-loss?

uv run python -m metarlgym.examples.logloss_then_grpo
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

GAME = {"V": 12, "n": 3, "l": 6, "e": 0.1, "style": "terse"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--trials", type=int, default=2000, help="number of trials of each evaluation")
    parser.add_argument("--pretrain-steps", default="1500")
    parser.add_argument("--steps", default="80", help="number of GRPO steps")
    args = parser.parse_args()
    before, after = args.out / "metalm_game_pretrained", args.out / "metalm_game"

    def run(*words: object, folder: Path | None = None) -> None:
        resume = ["--resume"] if folder and folder.exists() else []
        command = [sys.executable, "-m", "metarlgym.cli.main", *map(str, words), *resume]
        if status := subprocess.run(command, check=False).returncode:
            raise SystemExit(status)

    if not (before / "summary.json").exists():
        steps = ("--max_steps", args.pretrain_steps)
        run("pretrain", "--config", "metalm_words", "--output_dir", before, *steps, folder=before)
    if not (after / "eval.json").exists():
        start = ("--model_name_or_path", before / "final", "--max_steps", args.steps)
        trials = ("--final_eval_trials", args.trials)
        run("train", "--config", "metalm_game", "--output_dir", after, *trials, *start, folder=after)
    table = Table("network", "return of 3 episodes", "by episode")
    for name, folder in (("log-loss alone", before), ("then GRPO", after)):
        for decoding in ("sampled", "greedy"):
            path = args.out / f"eval_{folder.name}_{decoding}.json"
            flags = ["--greedy"] if decoding == "greedy" else []
            env = ("--env", "MetaLM-v0", "--env-args", json.dumps(GAME), "--episodes", 3, "--trials", args.trials)
            run("eval", "--model", folder / "final", *env, "--json", path, *flags)
            found = json.loads(path.read_text())
            curve = " ".join(f"{value:.3f}" for value in found["curve"])
            low, high = found["return_ci95"]
            table.add_row(f"{name}, {decoding}", f"{found['return_mean']:.3f} [{low:.3f}, {high:.3f}]", curve)
    table.add_row("upper bound: the language known", f"{found['optimum']:.3f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
