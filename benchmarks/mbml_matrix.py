"""Question: do networks with memory, trained by log-loss on a piecewise-stationary source, behave like the Bayesian
predictor of that source? The target is at most 1.15 times its cumulative regret (binary, T = 256) for the LSTM and the
transformer on the PTW and LIN priors, with the RNN behind them.

Trains the networks of `configs/pretrain/mbml_*.yaml` on four sources, evaluates each on all four with 2,000 held-out
sequences (expected regret relative to the true source, t = 2..T), and on longer sequences of its own source. Finished
runs are kept in `--runs` and not repeated, so a killed matrix resumes.
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
from transformers import AutoModelForCausalLM

from metarlgym.files import write_json
from metarlgym.models import networks as _networks  # noqa: F401  (registers the recurrent models)
from metarlgym.pretraining.linear_probe import probe
from metarlgym.pretraining.run import parse, run_pretraining
from metarlgym.sequences.scoring.expected_loss import HeldOutLoss, summarize
from metarlgym.sequences.sources import Piecewise

LAWS = ("ptw", "lin", "regular", "random")
T = 256
SEQUENCES = 2000
LONGER = (512, 1024)
PLAN = {"lstm": LAWS, "transformer": ("ptw", "lin"), "rnn": ("ptw", "lin")}
"""Runs that two CPU cores finish in an hour; `--all` trains every network on every source."""


RECIPES = {
    ("lstm", "ptw"): ["--timescale", "256", "--per_device_train_batch_size", "32", "--max_steps", "8000"],
    ("transformer", "ptw"): [
        *("--positions", "learned", "--learning_rate", "2e-3"),
        *("--per_device_train_batch_size", "32", "--max_steps", "3000"),
    ],
}
"""Differences from the configs. PTW's segments begin at multiples of powers of two, so a network must track the time,
which takes longer to learn; a transformer needs suitable position encodings, an LSTM units that remember."""


def source(law: str, length: int = T) -> Piecewise:
    """The source of a law; `regular` has period 20, `random` gaps of 1..39."""
    return Piecewise(law, length, seed=0)


def train(network: str, law: str, seed: int, runs: Path, extra: list[str], console: Console) -> Path:
    """Train a network, unless this is done; returns its folder, where `seconds` holds the training time."""
    folder = runs / f"{network}_{law}_{seed}"
    if not (folder / "summary.json").exists():
        arguments = ["--config", f"mbml_{network}", "--output_dir", str(folder), "--seed", str(seed)]
        arguments += ["--source_args", json.dumps({"law": law, "T": T}), "--source_seed", str(seed)]
        arguments += [*RECIPES.get((network, law), []), *extra, *(["--resume"] if folder.exists() else [])]
        start = time.monotonic()
        run_pretraining(parse(arguments), console)
        (folder / "seconds").write_text(f"{time.monotonic() - start:.0f}\n")
    return folder


def evaluate(folder: Path, law: str) -> dict[str, Any]:
    """Cumulative regret on every source, and on longer sequences of its own."""
    path = folder / "matrix.json"
    if path.exists():
        return json.loads(path.read_text())
    model = AutoModelForCausalLM.from_pretrained(folder / "final")
    found: dict[str, Any] = {"parameters": model.num_parameters(), "on": {}, "longer": {}}
    for other in LAWS:
        held_out = HeldOutLoss(source(other), SEQUENCES, start=10_000)
        found["on"][other] = summarize(held_out.model(model), held_out.exact)
    room = getattr(model.config, "max_position_embeddings", None)
    for length in LONGER:
        held_out = HeldOutLoss(source(law, length), 200, start=20_000)
        if room is not None and room < length:
            if model.config.model_type == "gpt2":  # its learned positions end here
                continue
            model.config.max_position_embeddings = length  # others have no limit
        line = held_out.model(model, batch_size=16)
        total, best = line.regret.cumsum(1).mean(0), held_out.exact["floor"].regret.cumsum(1).mean(0)
        places = [p for p in (128, 256, 384, 512, 768, 1024) if p <= length]
        found["longer"][length] = {p: [float(total[p - 2]), float(best[p - 2])] for p in places}
    found["probe"] = probe(model, source(law))
    write_json(found, path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/mbml"))
    parser.add_argument("--all", action="store_true", help="every network on every source")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mbml_matrix")
    args, extra = parser.parse_known_args()
    torch.set_num_threads(1)
    console = Console(highlight=False)
    results: dict[str, Any] = {}
    for network, laws in PLAN.items():
        for law in LAWS if args.all else laws:
            for seed in range(args.seeds):
                console.print(f"[bold]{network} on {law}, seed {seed}")
                folder = train(network, law, seed, args.runs, extra, console)
                seconds = int((folder / "seconds").read_text()) if (folder / "seconds").exists() else None
                results[f"{network}/{law}/{seed}"] = evaluate(folder, law) | {"seconds": seconds}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"date": time.strftime("%Y-%m-%d"), "hardware": cpu_model(), "versions": versions(), "commit": commit()}
    write_json({"about": about, "results": results}, args.out.with_suffix(".json"))
    args.out.with_suffix(".md").write_text(render(results, about))
    heat_map(results, args.out.with_suffix(".png"))
    console.print(f"written: {args.out}.json, .md, .png")


def render(results: dict[str, Any], about: dict[str, Any]) -> str:
    """Render the tables as Markdown."""
    lines = ["# mbml_matrix", "", " ".join((__doc__ or "").split()), ""]
    lines += ["| network, trained on | parameters | " + " | ".join(LAWS) + " | own / oracle | seconds |"]
    lines += ["|---" * (len(LAWS) + 4) + "|"]
    first = next(iter(results.values()))
    oracles = [f"{first['on'][law]['floor_regret']:.2f}" for law in LAWS]
    lines += [f"| exact predictor of the source | | {' | '.join(oracles)} | 1 | |"]
    for name, found in results.items():
        network, law, seed = name.split("/")
        cells = [f"{found['on'][other]['cumulative_regret']:.2f}" for other in LAWS]
        own = found["on"][law]["regret_ratio"]
        cells = [f"**{cell}**" if other == law else cell for cell, other in zip(cells, LAWS, strict=True)]
        label = f"{network}, {law}" + (f" (seed {seed})" if seed != "0" else "")
        lines += [f"| {label} | {found['parameters']:,} | {' | '.join(cells)} | {own:.3f} | {found['seconds']} |"]
    lines += [
        "",
        "Past the training length of 256: cumulative regret on the own source at T = 1024, the exact predictor's in",
        "brackets. (A longer `ptw` source is cut at other times: its tree is deeper.)",
        "",
    ]
    lines += [
        "| network, trained on | " + " | ".join(f"t = {p}" for p in (128, 256, 512, 1024)) + " |",
        "|---" * 5 + "|",
    ]
    for name, found in results.items():
        network, law, _ = name.split("/")
        if not found["longer"]:
            lines += [f"| {network}, {law} | its positions end at 256 | | | |"]
            continue
        longest = found["longer"][max(found["longer"], key=int)]
        cells = []
        for place in (128, 256, 512, 1024):
            total, best = longest.get(place) or longest[str(place)]
            cells.append(f"{total:.1f} ({best:.1f})")
        lines += [f"| {network}, {law} | {' | '.join(cells)} |"]
    lines += [
        "",
        "Does the state know when the source last changed? R^2 of a linear probe of the last hidden layer for",
        "log2(1 + age) of the segment: as exact Bayes believes it to be, and as it is. In brackets: the same network",
        "untrained, and the last 16 symbols with the position.",
        "",
        "| network, trained on | Bayes' belief | the truth | the truth, from Bayes' belief |",
        "|---" * 4 + "|",
    ]
    for name, found in results.items():
        network, law, _ = name.split("/")
        read, true = found["probe"]["posterior"], found["probe"]["truth"]
        controls = [f"({part['untrained']:.2f}, {part['recent_symbols']:.2f})" for part in (read, true)]
        lines += [
            f"| {network}, {law} | {read['network']:.2f} {controls[0]} | {true['network']:.2f} {controls[1]} | "
            f"{true['exact_posterior']:.2f} |"
        ]
    lines += ["", f"- Date: {about['date']}"]
    lines += [f"- Hardware: {about['hardware']}, one thread; most runs had others beside them"]
    return "\n".join([*lines, f"- Versions: {', '.join(about['versions'])}", f"- Commit: {about['commit']}", ""])


def heat_map(results: dict[str, Any], path: Path) -> None:
    """Plot regret relative to that of each source's exact predictor."""
    import numpy as np
    from matplotlib.figure import Figure

    names = list(results)
    ratios = np.array([[results[name]["on"][law]["regret_ratio"] for law in LAWS] for name in names])
    figure = Figure(figsize=(6.5, 1.2 + 0.45 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(np.log(ratios), cmap="viridis_r", aspect="auto", vmin=0)
    for i, j in np.ndindex(*ratios.shape):
        dark = np.log(ratios[i, j]) > 0.6 * np.log(ratios).max()
        axes.text(j, i, f"{ratios[i, j]:.2f}", ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(LAWS)), LAWS)
    axes.set_yticks(range(len(names)), [" on ".join(name.split("/")[:2]) for name in names])
    axes.set_xlabel("evaluated on")
    axes.set_title("cumulative regret over the exact predictor's", fontsize=10)
    figure.colorbar(image, label="log of it")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
