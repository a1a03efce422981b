"""Collects training results by config and seed from run folders into `results/NAME.md`.

    python benchmarks/training_runs.py runs/quickstart runs/doors_k6_seed1 ...
    python benchmarks/training_runs.py --name chat_learning runs/chat_doors_smollm2 ...

Each folder is one finished `metarlgym train` run; its `eval.json`, `config.yaml` and `metrics.jsonl` are read.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

import yaml
from common import HERE, commit, cpu_model, versions


def row(folder: Path, name: str | None = None) -> str:
    report = json.loads((folder / "eval.json").read_text())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    seconds = max(json.loads(line)["seconds"] for line in (folder / "metrics.jsonl").read_text().splitlines())
    low, high = report["return_ci95"]
    curve = " ".join(f"{value:.2f}" for value in report["curve"])
    wiped, mixed = (report["controls"][name] for name in ("no_memory", "shuffled"))
    mixed_last = "-" if mixed is None else f"{mixed['curve'][-1]:.2f}"
    model = config.get("model_name_or_path")
    model = "from scratch" if model is None else name or Path(model).name
    precision = "bfloat16 autocast" if config.get("bf16") else config.get("dtype") or "float32"
    settings = f"{config['episodes']} episodes, gamma {config['gamma']}, {config['max_steps']} steps"
    if str(config.get("rollouts_ahead", 0)) != "0":
        settings += f", rollouts_ahead {config['rollouts_ahead']}"
    score = "-" if report["normalized_score"] is None else f"{report['normalized_score']:.3f}"
    return (
        f"| {model}, {precision} | {report['task_group']} {report['env_args']}, {settings} | {config.get('seed', 42)} "
        f"| {report['return_mean']:.3f} [{low:.3f}, {high:.3f}] | {report['optimum']:.3f} | {score} | {curve} "
        f"| {wiped['return_mean']:.2f}, {wiped['curve'][-1]:.2f} | {mixed_last} | {report['trials']:,} "
        f"| {seconds:.0f} |"
    )


def accelerator() -> str | None:
    """Name of the GPU, if there is one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="training_runs", help="Name of the result file.")
    parser.add_argument("--hardware", help="Where the runs were made, if elsewhere.")
    parser.add_argument("--model", help="Name of the pretrained model, if its folder has another.")
    parser.add_argument("--note", help="A remark below the table.")
    parser.add_argument("--commit", help="Commit that made the runs, if it is not this one.")
    parser.add_argument("folders", nargs="+", type=Path)
    asked = parser.parse_args()
    rows = [row(folder, asked.model) for folder in asked.folders]
    head = "| model | task, settings | seed | return, 95% CI | optimum | score | curve | memory wiped, last "
    head += "| other's history, last "
    head += "| trials | s |"
    lines = [
        f"# {asked.name}",
        "",
        "Returns of held-out trials after training; `score` is 0 at random play and 1 at the optimum; `memory wiped` "
        "gives the return of the control and that of its last episode; `s` is the wall time of training without the "
        "evaluation, with other runs beside it.",
        "",
        head,
        "|" + "---|" * 11,
        *rows,
        "",
        *([asked.note, ""] if asked.note else []),
        f"- Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- Hardware: {asked.hardware or accelerator() or cpu_model()}",
        f"- Versions: {', '.join(versions())}",
        f"- Commit: {asked.commit or commit()}",
    ]
    path = HERE / "results" / f"{asked.name}.md"
    path.write_text("\n".join(lines) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
