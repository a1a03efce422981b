"""Claim: an update that forwards what rows share once, and computes the head at actions alone, takes at most 0.5 times
as long as TRL's own on rows of chat Doors, 0.35 times where long prompts are shared, and no longer where nothing is;
its peak memory beyond weights, gradients and optimizer is at most 0.5 times TRL's on rows of chat Doors.

SmolLM2 in float32. Ours is `MetaGRPOTrainer`, the other TRL's `GRPOTrainer`; both get the same rows and advantages in
the same micro-batches, and AdamW; in (b) SGD, since TRL's pass leaves no room for AdamW's states in 24 GB. (a) 32 rows
in one micro-batch that share 110 of 185 tokens, with 9 action tokens each; (b) 8 rows in one micro-batch that share
1,000 tokens and have 200 of their own, half of them actions; (c) 8 rows in one micro-batch that share nothing, half of
whose completion tokens are actions; (d) the 32 rows of 8 trials of 4 episodes of chat Doors with `memory: last_1`, by
random legal play, in 4 micro-batches of 8 rows. (a) to (c) are random tokens.

Each trainer runs in a process of its own, because peak memory (VmHWM) belongs to a process: a first step, in which
memory is touched for the first time, then those that are timed. A time is that of the forward and backward passes of a
step. Torch uses one thread. Gradients are compared after the first step's passes, before clipping.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from chat_train_step import model_folder, peak_memory
from common import Report, Seconds, now, ratios

CASES = {"a": "rows of chat Doors", "b": "long shared prompts", "c": "nothing shared", "d": "last_1"}
STEPS = 3
TIME = {"a": 0.5, "b": 0.35, "c": 1.0, "d": 0.5}
"""Bounds on the time, relative to TRL's."""


def random_rows(case: str, quick: bool) -> dict[str, Any]:
    """A batch as TRL makes it: tensors by name."""
    import torch

    rows, prompt, shared, length, actions = {
        "a": (32, 110, 110, 185, 9),
        "b": (8, 1000, 1000, 1200, 100),
        "c": (8, 60, 0, 185, 62),
    }[case]
    rows = 4 if quick else rows
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 40_000, (rows, length), generator=draw)
    ids[:, :shared] = ids[:1, :shared]
    completion = ids[:, prompt:]
    sampled = torch.zeros_like(completion)
    for row in sampled:
        row[torch.randperm(len(row), generator=draw)[:actions]] = 1
    return {
        "prompt_ids": ids[:, :prompt],
        "prompt_mask": torch.ones_like(ids[:, :prompt]),
        "completion_ids": completion,
        "completion_mask": torch.ones_like(completion),
        "tool_mask": sampled,
        "advantages": torch.randn(completion.shape, generator=draw) * sampled,
        "num_items_in_batch": sampled.sum(),
    }


def measure(variant: str, case: str, model: str, folder: str, steps: int, quick: bool) -> dict[str, Any]:
    """Run one trainer in this process; returns times in seconds and memory in GB."""
    import torch
    from transformers import PrinterCallback

    from metarlgym import TaskGroup
    from metarlgym.models.loading import load_model, load_tokenizer
    from metarlgym.policies.scripted import RandomTokenPolicy
    from metarlgym.rollout.make_renderer import make_renderer
    from metarlgym.runtime.launch import quiet
    from metarlgym.training.config import MetaGRPOConfig
    from metarlgym.training.trainer import MetaGRPOTrainer

    quiet()
    torch.set_num_threads(1)
    by_trial = case == "d"
    size = 8 if by_trial else len(random_rows(case, quick)["prompt_ids"])
    args = MetaGRPOConfig(
        output_dir=folder,
        episodes=4 if by_trial else 1,
        trials_per_task=4 if by_trial else size,
        memory="last_1" if by_trial else "full",
        per_device_train_batch_size=size,
        gradient_accumulation_steps=4 if by_trial else 1,
        max_steps=1 + steps,
        learning_rate=1e-6,
        optim="sgd" if case == "b" else "adamw_torch",
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        max_action_tokens=8,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    tokenizer = load_tokenizer(model)
    group = TaskGroup("Doors-v0", {"doors": 2, "safe": 0.4}, 0)
    network = load_model(model, dtype=torch.float32)
    renderer = make_renderer("chat", tokenizer, group)
    policy = lambda model, renderer, temperature: RandomTokenPolicy(renderer)  # noqa: E731
    batch_file = Path(folder) / "batch.pt"
    trainer: Any
    if variant == "ours":
        trainer = MetaGRPOTrainer(network, args, group, tokenizer, renderer, policy)
        if by_trial:
            trainer._generate_and_score_completions = once(trainer._generate_and_score_completions, batch_file)
        else:
            batch = random_rows(case, quick)
            trainer._generate_and_score_completions = lambda inputs: trainer._check_model() or dict(batch)
    else:
        from bare_trl import bare_trainer

        trainer = bare_trainer(args, network, tokenizer, lambda prompts, trainer: {})
        batch = torch.load(batch_file) if by_trial else random_rows(case, quick)
        trainer._generate_and_score_completions = lambda inputs: dict(batch)
    del network
    taken: list[Any] = []
    inner = trainer.compute_loss
    backward = trainer.accelerator.backward
    begun: list[Any] = []

    def compute_loss(*given: Any, **named: Any) -> Any:
        begun.append(now())
        return inner(*given, **named)

    def timed_backward(*given: Any, **named: Any) -> None:
        backward(*given, **named)
        taken.append(now() - begun[-1])

    trainer.compute_loss, trainer.accelerator.backward = compute_loss, timed_backward

    passes = args.gradient_accumulation_steps
    clip = trainer.accelerator.clip_grad_norm_

    def keep_gradient(parameters: Any, *given: Any, **named: Any) -> Any:
        if len(taken) == passes:
            torch.save([p.grad for p in trainer.model.parameters()], Path(folder) / f"{variant}.pt")
        return clip(parameters, *given, **named)

    trainer.accelerator.clip_grad_norm_ = keep_gradient
    trainer.remove_callback(PrinterCallback)
    each = 4 if case == "b" else 12  # bytes of a gradient, and of AdamW's two moments
    gradient_and_optimizer = each * sum(p.numel() for p in trainer.model.parameters())
    before = psutil.Process().memory_info().rss + gradient_and_optimizer  # the weights are there
    trainer.train()
    by_step = [sum(taken[i : i + passes], start=Seconds(0.0, 0.0)) for i in range(0, len(taken), passes)][1:]
    log = trainer.state.log_history[0]
    return {
        "wall": [step.wall for step in by_step],
        "cpu": [step.cpu for step in by_step],
        "memory": peak_memory() - before / 1e9,
        "rows": size * passes,
        "forwarded": log.get("forward/tokens", 0.0),
        "row_tokens": log.get("forward/row_tokens", 0.0),
    }


def once(generate: Callable[[Any], dict[str, Any]], kept: Path) -> Callable[[Any], dict[str, Any]]:
    """Rollouts that are the first one again, which is also written to a file."""
    import torch

    def again(inputs: Any) -> dict[str, Any]:
        if not kept.exists():
            torch.save(generate(inputs), kept)
        return dict(torch.load(kept))

    return again


def difference(folder: Path) -> float:
    """Relative difference of the two trainers' gradients."""
    import torch

    ours, bare = (torch.load(folder / f"{variant}.pt", mmap=True) for variant in ("ours", "bare"))
    apart = sum(float((one - other).norm()) ** 2 for one, other in zip(ours, bare, strict=True))
    return float((apart / sum(float(other.norm()) ** 2 for other in bare)) ** 0.5)


def main(quick: bool, cases: str) -> int:
    steps = 1 if quick else STEPS
    claim, _, method = (__doc__ or "").strip().partition("\n\n")
    method = f"{' '.join(method.split())} {steps} timed steps."
    report = Report("train_step", " ".join(claim.split()), method, quick)
    with tempfile.TemporaryDirectory() as name:
        model = model_folder(Path(name))
        for case in cases:
            folder = Path(name) / case
            folder.mkdir()
            found = {}
            for variant in ("ours", "bare"):
                command = [sys.executable, __file__, "--variant", variant, case, str(model), str(folder)]
                done = subprocess.run([*command, str(steps), str(int(quick))], stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    sys.exit(f"{variant} of case {case} failed")
                found[variant] = json.loads(done.stdout.splitlines()[-1])
                print(case, variant, found[variant], flush=True)
            ours, bare = found["ours"], found["bare"]
            title = f"({case}) {CASES[case]}"
            report.remarks.append(
                f"({case}): {ours['rows']} rows a step; {ours['forwarded']:,.0f} tokens forwarded, whole rows are "
                f"{ours['row_tokens']:,.0f} with padding."
            )
            report.add(f"{title}: MetaGRPOTrainer, wall time", ours["wall"], "s")
            report.add(f"{title}: GRPOTrainer, wall time", bare["wall"], "s")
            report.add(
                f"{title}: wall time, ours over TRL's", ratios(ours["wall"], bare["wall"]), "x", at_most=TIME[case]
            )
            report.add(f"{title}: CPU time, ours over TRL's", ratios(ours["cpu"], bare["cpu"]), "x")
            report.add(f"{title}: memory beyond the states, MetaGRPOTrainer", ours["memory"], "GB")
            report.add(f"{title}: memory beyond the states, GRPOTrainer", bare["memory"], "GB")
            bound = {"at_most": 0.5} if case == "a" else {}
            report.add(f"{title}: the same, ours over TRL's", ours["memory"] / bare["memory"], "x", **bound)
            report.add(f"{title}: relative difference of the gradients", difference(folder), "", at_most=1e-5)
    return report.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--variant"]:
        variant, case, model, folder, steps, quick = sys.argv[2:]
        print(json.dumps(measure(variant, case, model, folder, int(steps), quick == "1")))
    else:
        parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", 1)[0])
        parser.add_argument("--quick", action="store_true", help="few rows, one step, no file")
        parser.add_argument("--cases", default="".join(CASES), help="which cases; (b) takes 23 GB of memory")
        asked = parser.parse_args()
        sys.exit(main(asked.quick, asked.cases))
