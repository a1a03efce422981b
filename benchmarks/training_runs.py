"""Collects training results by config and seed from run folders into `results/training_runs.md`.

    python benchmarks/training_runs.py runs/quickstart runs/doors_k6_seed1 ...

Each folder is one finished `metarlgym train` run; its `eval.json`, `config.yaml` and `metrics.jsonl` are read.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import yaml
from common import HERE, commit, cpu_model, versions


def row(folder: Path) -> str:
    report = json.loads((folder / "eval.json").read_text())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    seconds = max(json.loads(line)["seconds"] for line in (folder / "metrics.jsonl").read_text().splitlines())
    low, high = report["return_ci95"]
    curve = " ".join(f"{value:.2f}" for value in report["curve"])
    wiped, mixed = (report["controls"][name] for name in ("no_memory", "shuffled"))
    settings = f"{config['episodes']} episodes, gamma {config['gamma']}, {config['max_steps']} steps"
    score = "-" if report["normalized_score"] is None else f"{report['normalized_score']:.3f}"
    return (
        f"| {report['task_group']} {report['env_args']}, {settings} | {config.get('seed', 42)} "
        f"| {report['return_mean']:.3f} [{low:.3f}, {high:.3f}] | {report['optimum']:.3f} | {score} | {curve} "
        f"| {wiped['return_mean']:.2f} | {mixed['curve'][-1]:.2f} | {report['trials']:,} | {seconds:.0f} |"
    )


def main() -> None:
    rows = [row(Path(name)) for name in sys.argv[1:]]
    head = "| task, settings | seed | return, 95% CI | optimum | score | curve | memory wiped | other's history, last "
    head += "| trials | s |"
    lines = [
        "# training_runs",
        "",
        "Returns of held-out trials after training a model from scratch; `score` is 0 at random play and 1 at the "
        "optimum; `s` is the GRPO part's wall time, on shared cores with other runs beside it.",
        "",
        head,
        "|" + "---|" * 10,
        *rows,
        "",
        f"- Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- Hardware: {cpu_model()}",
        f"- Versions: {', '.join(versions())}",
        f"- Commit: {commit()}",
    ]
    path = HERE / "results" / "training_runs.md"
    path.write_text("\n".join(lines) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
