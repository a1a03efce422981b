"""Claim: a training step of MetaGRPOTrainer with SmolLM2 takes at most 1.1 times as long as one of TRL's
own GRPOTrainer on the same rows, with at most 1.03 times the peak memory.

Ours is `MetaGRPOTrainer` as `--config chat_doors_smollm2` sets it up, with `share_prefixes: false`; random legal play
stands in for the model's actions, so that nothing is generated: trials are played, rendered and credited as in a run.
TRL's trainer gets the very same rows from a `rollout_func` that returns them, with its own advantages `(B,)`, and the
same settings otherwise.

Each measurement is a process of its own, because peak memory (VmHWM) belongs to a process; the two trainers take turns,
ours first, since it writes the rows that the other replays. A step is the time from the end of one step to the end of
the next; the first, in which memory is touched for the first time, is dropped. Torch uses one thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import itertools
import json
import pickle
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import HERE, Report, now, ratios, run

MODEL = HERE.parent / "runs" / "smollm2"
STEPS, REPETITIONS = 3, 3
SHAPE = ""
"""Settings that change the config's rows, for a busy machine: a step of 24 rows takes a minute of one core."""
SMALL = "--trials_per_task 6 --per_device_train_batch_size 6 --gradient_accumulation_steps 1"
CONFIG = HERE.parent / "configs" / "grpo" / "chat_doors_smollm2.yaml"


def measure(variant: str, model: str, rows: Path, steps: int, shape: str) -> dict[str, Any]:
    """Train for some steps in this process; returns times in seconds, peak memory in GB, and the rows' shape."""
    import torch
    from bare_trl import bare_trainer
    from transformers import PrinterCallback, TrainerCallback

    from metarlgym import TaskGroup
    from metarlgym.models.loading import load_model, load_tokenizer
    from metarlgym.policies.scripted import RandomTokenPolicy
    from metarlgym.runtime.launch import quiet
    from metarlgym.training.arguments import parse
    from metarlgym.training.trainer import MetaGRPOTrainer

    quiet()
    warnings.simplefilter("ignore")  # settings of the file without effect here
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        given = f"--output_dir {folder} --model_name_or_path {model} --max_steps {steps} --save_strategy no {shape}"
        given += " --format_steps 0"  # whose loss TRL does not have
        given += " --share_prefixes false"  # TRL's own passes; train_step.py measures what sharing saves
        settings = parse(["--config", str(CONFIG), *given.split()])
        args = settings.grpo
        args.disable_tqdm = True
        tokenizer = load_tokenizer(model)
        network = load_model(model, dtype=getattr(torch, str(settings.model.dtype)))
        played: list[dict[str, Any]] = pickle.loads(rows.read_bytes()) if variant == "bare" else []
        if variant == "ours":
            assert isinstance(settings.run.env_args, dict)
            group = TaskGroup(settings.run.env_id, settings.run.env_args, settings.run.task_seed)
            renderer = settings.play.make_renderer(model, tokenizer, group)
            policy = lambda model, renderer, temperature: RandomTokenPolicy(renderer)  # noqa: E731
            trainer: Any = MetaGRPOTrainer(network, args, group, tokenizer, renderer, policy)
            trainer.rollout_func = recorded(trainer.rollout_func, played)
        else:
            replay = iter(played)
            trainer = bare_trainer(args, network, tokenizer, lambda prompts, trainer: next(replay))
        ends: list[Any] = []

        class Stopwatch(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(now())

        trainer.add_callback(Stopwatch())
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if variant == "ours":
        rows.write_bytes(pickle.dumps(played))
    taken = [end - start for start, end in itertools.pairwise(ends)]
    lengths = [len(p) + len(c) for out in played for p, c in zip(out["prompt_ids"], out["completion_ids"], strict=True)]
    actions = [sum(mask) for out in played for mask in out["env_mask"]]
    return {
        "wall": sum(step.wall for step in taken) / len(taken),
        "cpu": sum(step.cpu for step in taken) / len(taken),
        "peak": peak_memory(),
        "rows": len(played[0]["prompt_ids"]),
        "micro": args.per_device_train_batch_size,
        "length": sum(lengths) / len(lengths),
        "actions": sum(actions) / len(actions),
        "dtype": settings.model.dtype,
    }


def recorded(play: Callable[..., dict[str, Any]], played: list[dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A `rollout_func` whose results are kept."""

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        played.append(play(prompts, trainer))
        return played[-1]

    return rollout


def peak_memory() -> float:
    """Largest resident memory of this process so far (VmHWM), in GB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e9


def model_folder(folder: Path) -> Path:
    """`runs/smollm2` if it is there, otherwise made in `folder`."""
    if (MODEL / "config.json").exists():
        return MODEL
    command = ["-m", "metarlgym.cli.main", "new-model", "--pretrained", "smollm2", "--out", str(folder / "smollm2")]
    subprocess.run([sys.executable, *command], check=True)
    return folder / "smollm2"


def main(quick: bool) -> int:
    steps, repetitions, shape = (2, 1, SMALL) if quick else (STEPS, REPETITIONS, SHAPE)
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, rows = model_folder(folder), folder / "rows.pickle"
        for _ in range(repetitions):
            for variant, results in found.items():
                command = [sys.executable, __file__, "--variant", variant, str(model), str(rows), str(steps), shape]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
                print(variant, {key: round(results[-1][key], 2) for key in ("wall", "cpu", "peak")}, flush=True)
    first = found["ours"][0]
    claim, _, method = (__doc__ or "").strip().partition("\n\n")
    report = Report(
        "chat_train_step",
        " ".join(claim.split()),
        f"{' '.join(method.split())} {first['rows']} rows of {first['length']:.0f} tokens on average, "
        f"{first['actions']:.1f} of them in actions, in micro-batches of {first['micro']}, {first['dtype']}; "
        f"{repetitions} processes of {steps} steps each.",
        quick,
    )
    names = {"ours": "MetaGRPOTrainer", "bare": "GRPOTrainer"}
    for variant, results in found.items():
        for kind in ("wall", "cpu"):
            report.add(f"{names[variant]}: step, {kind} time", [one[kind] for one in results], "s")
        report.add(f"{names[variant]}: peak memory", [one["peak"] for one in results], "GB")
    for kind, bound in (("wall", {"at_most": 1.1}), ("cpu", {}), ("peak", {"at_most": 1.03})):
        title = "peak memory" if kind == "peak" else f"step, {kind} time"
        pairs = ratios([one[kind] for one in found["ours"]], [one[kind] for one in found["bare"]])
        report.add(f"{title}, ours over TRL's", pairs, "x", **bound)
    return report.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--variant"]:
        variant, model, rows, steps, shape = sys.argv[2:]
        print(json.dumps(measure(variant, model, Path(rows), int(steps), shape)))
    else:
        run(main, __doc__)
