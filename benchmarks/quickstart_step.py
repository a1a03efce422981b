"""Claim: with the quickstart's settings at most half of a training step is spent outside the model's forward and
backward passes, and a step takes at most 1.3 times as long as one of a bare TRL loop on the same rows.

Ours is `MetaGRPOTrainer` exactly as `--config quickstart` sets it up, on a model from scratch without warm-up. The
bare loop is TRL's `GRPOTrainer` with the same settings and a `rollout_func` that plays the quickstart's Doors for all
rows at once: arrays instead of environments, one rectangular cache instead of slots, no per-request seeds, no sessions,
no trajectories. Its rows have the same layout (checked), its advantages are TRL's `(B,)` ones, and its entropy bonus is
on.

Segments of several training steps of each run in turn in one process, each on a fresh copy of the same model; the first
steps of a segment are dropped. The time of a step is attributed, as exclusive time, to the methods wrapped below;
"model" is `model.forward` (in rollouts and in the loss, including TRL's log-probabilities and entropies) and
`accelerator.backward`. Torch uses one thread, as in the quickstart.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import functools
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bare_trl import BareRollout, bare_trainer
from common import Report, Seconds, interleave, now, ratios, run
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from metarlgym import TaskGroup, Trial
from metarlgym.models.scratch import scratch_model, word_tokenizer
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.runtime.launch import quiet
from metarlgym.runtime.metrics_file import MetricsFile
from metarlgym.training.arguments import Settings, parse
from metarlgym.training.callbacks import TrialSamples
from metarlgym.training.trainer import MetaGRPOTrainer
from metarlgym.training.warmup import sample_text

DROPPED = 3
"""Number of initial steps of a segment to drop, in which memory is touched for the first time."""
MODEL = ("forward, rollout", "forward, loss", "backward")


NOTHING = Seconds(0.0, 0.0)


class Stopwatch(TrainerCallback):
    """Records the exclusive time of named sections by step, and the time of whole steps."""

    def __init__(self) -> None:
        self.sections: list[dict[str, Seconds]] = []
        self.steps: list[Seconds] = []
        self._now: dict[str, Seconds] = {}
        self._inner = [NOTHING]
        self._mark: Seconds | None = None

    def wrap(self, owner: Any, method: str, name: str | Callable[[], str]) -> None:
        function = getattr(owner, method)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            label = name if isinstance(name, str) else name()
            self._inner.append(NOTHING)
            start = now()
            try:
                return function(*args, **kwargs)
            finally:
                taken = now() - start
                self._now[label] = self._now.get(label, NOTHING) + (taken - self._inner.pop())
                self._inner[-1] += taken

        setattr(owner, method, timed)

    def watch(self, trainer: GRPOTrainer) -> None:
        forward = lambda: "forward, loss" if torch.is_grad_enabled() else "forward, rollout"  # noqa: E731
        self.wrap(trainer.model, "forward", forward)
        self.wrap(trainer.accelerator, "backward", "backward")
        self.wrap(trainer.accelerator, "clip_grad_norm_", "optimizer")
        self.wrap(trainer, "compute_loss", "loss")
        self.wrap(trainer, "_generate_and_score_completions", "rows and scores")
        self.wrap(trainer, "rollout_func", "rollout")
        self.wrap(trainer, "log", "logging")
        trainer.add_callback(self)
        trainer.remove_callback(PrinterCallback)

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self.wrap(optimizer, "step", "optimizer")

    def on_step_end(self, *_: Any, **__: Any) -> None:
        mark = now()
        if self._mark is not None:
            self.steps.append(mark - self._mark)
            self.sections.append(self._now)
        self._mark, self._now = mark, {}

    def step(self, kind: str) -> float:
        """Mean `wall` or `cpu` seconds per step, including work done only in some steps (garbage collection, logs)."""
        return statistics.mean(getattr(seconds, kind) for seconds in self.steps[DROPPED:])

    def shares(self, kind: str) -> dict[str, float]:
        """Each section's fraction of the time; the remainder is `rest of TRL and transformers`."""
        total = sum(getattr(seconds, kind) for seconds in self.steps[DROPPED:])
        out: dict[str, float] = defaultdict(float)
        for step in self.sections[DROPPED:]:
            for name, seconds in step.items():
                out[name] += getattr(seconds, kind) / total
        out["rest of TRL and transformers"] = 1 - sum(out.values())
        return out

    def outside(self, kind: str) -> float:
        """Fraction of the time spent outside the model."""
        return 1 - sum(share for name, share in self.shares(kind).items() if name in MODEL)


class Bench:
    """The quickstart's parts, and a segment of training with each trainer."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        env_args = settings.run.env_args
        assert isinstance(env_args, dict)
        self.group = TaskGroup(settings.run.env_id, env_args, settings.run.task_seed)
        texts = sample_text(self.group, lambda: Trial(self.group.make_env(), settings.grpo.episodes))
        self.tokenizer = word_tokenizer(texts)
        self.renderer = make_renderer("plain", self.tokenizer, self.group)
        self.bare_rollout = BareRollout(self.tokenizer, env_args["doors"], env_args["safe"], settings.grpo.episodes)
        self.layout: dict[str, Any] = {}

    def model(self) -> Any:
        return scratch_model(self.settings.scratch, self.tokenizer, 64, 0)

    def train(self, trainer: GRPOTrainer, name: str) -> Stopwatch:
        watch = Stopwatch()
        play = trainer.rollout_func

        def rollout(prompts: list[Any], owner: GRPOTrainer) -> dict[str, Any]:
            out = play(prompts, owner)
            longest = max(out["env_mask"], key=len)  # a row whose last action is the end token is one token shorter
            self.layout[name] = out["prompt_ids"], longest, len(out["completion_ids"][out["env_mask"].index(longest)])
            return out

        trainer.rollout_func = rollout
        watch.watch(trainer)
        trainer.train()
        return watch

    def ours(self) -> Stopwatch:
        args, run_args = self.settings.grpo, self.settings.run
        folder = Path(str(args.output_dir))
        trainer = MetaGRPOTrainer(
            model=self.model(),
            args=args,
            group=self.group,
            processing_class=self.tokenizer,
            renderer=self.renderer,
            on_trials=TrialSamples(folder, run_args.sample_every, run_args.sample_trials),
            callbacks=[MetricsFile(folder)],
        )
        return self.train(trainer, "ours")

    def bare(self) -> Stopwatch:
        return self.train(bare_trainer(self.settings.grpo, self.model(), self.tokenizer, self.bare_rollout), "bare")


def main(quick: bool) -> int:
    torch.set_num_threads(1)
    steps, repetitions = (8, 1) if quick else (33, 4)
    with tempfile.TemporaryDirectory() as folder:
        given = f"--config quickstart --output_dir {folder} --max_steps {steps} --save_strategy no"
        settings = parse(given.split())
        settings.grpo.disable_tqdm = True
        quiet()
        bench = Bench(settings)
        report = Report(
            "quickstart_step",
            "A training step of the quickstart: at most half of it outside the model's forward and backward passes, "
            "and at most 1.3 times the step of a bare TRL loop on the same rows.",
            f"{settings.grpo.per_device_train_batch_size} trials of {settings.grpo.episodes} episodes a step; "
            f"{repetitions} interleaved segments of {steps} steps of each loop after one to warm up, in each the first "
            f"{DROPPED + 1} steps dropped; one torch thread. A segment's step is the mean of its steps.",
            quick,
        )
        segments = interleave({"ours": bench.ours, "bare": bench.bare}, repetitions + 1)
        segments = {name: watches[1:] for name, watches in segments.items()}  # the first one is a warm-up
    assert bench.layout["ours"] == bench.layout["bare"], f"the two loops' rows differ: {bench.layout}"
    ours, bare = segments["ours"], segments["bare"]
    for name, watches in segments.items():
        for kind in ("wall", "cpu"):
            report.add(f"{name}: step, {kind} time", [w.step(kind) for w in watches], "s")
    for kind in ("wall", "cpu"):
        bound = {"at_most": 1.3} if kind == "wall" else {}
        slower = ratios([w.step(kind) for w in ours], [w.step(kind) for w in bare])
        report.add(f"ours/bare, {kind} time", slower, "x", **bound)
    for name, watches in segments.items():
        for kind in ("wall", "cpu"):
            bound = {"at_most": 0.5} if (name, kind) == ("ours", "wall") else {}
            report.add(f"{name}: share outside the model, {kind} time", [w.outside(kind) for w in watches], **bound)
    for name, watches in segments.items():
        tables = [w.shares("cpu") for w in watches]
        step = statistics.median(w.step("cpu") for w in watches) * 1e3
        for section in sorted(tables[0], key=lambda s: -tables[0][s]):
            values = [table[section] * step for table in tables]
            report.add(f"{name}: {section}, cpu time", values, "ms/step")
    return report.finish()


if __name__ == "__main__":
    run(main, __doc__)
