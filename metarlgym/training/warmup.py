"""Warm-up of a model from scratch: next-token loss on full transcripts of uniformly random legal play.

The loss includes environment tokens, so the model learns the format and the dynamics (a door that paid pays again) but
no strategy: afterwards the policy is uniform over legal actions and scores the random baseline, which a test checks. A
pretrained language model already has these abilities; a randomly initialized network must acquire them.

Progress is measured by the loss on late outcomes: environment tokens in the last third of the episodes. Without using
its context, a model can at best reach their entropy given the preceding action; a loss below that shows that in-context
lookup has formed. The warm-up ends when the loss has dropped below that and plateaued, or at `imitation_max_steps`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from metarlgym.datatypes import ConfigError
from metarlgym.env import Env
from metarlgym.models.scratch import ScratchArguments
from metarlgym.policies.scripted import OraclePolicy, RandomPolicy, RandomTokenPolicy
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.transcript import Transcript
from metarlgym.seeding import derive
from metarlgym.tasks import TaskGroup
from metarlgym.trial import Trial

HELD_OUT = 512
CHECK_EVERY = 50
ORACLE_TRIALS = 32
"""Trials of the oracle whose words a vocabulary has."""
FALLEN = 0.97
"""The late-outcome loss has dropped when it is below this fraction of the best loss without memory."""
STILL = 0.01
"""It has plateaued when three consecutive checks improve the best value by less than this fraction."""


def random_play(
    group: TaskGroup, make_trial: Callable[[], Trial], renderer: Renderer, trials: int, seed: int
) -> list[Transcript]:
    """Transcripts of uniformly random legal play on train tasks, in exactly the format of rollouts."""
    specs = [
        TrialSpec(make_trial, group.task(i, "train"), derive(seed, "warmup", i), (seed, "warmup", i))
        for i in range(trials)
    ]
    played = RolloutManager(RandomTokenPolicy(renderer), renderer, concurrency=1024).run(specs)
    return [row for trajectory in played for row in trajectory.rows]


@dataclass
class LateOutcomes:
    """Held-out transcripts and the positions of their late-outcome tokens."""

    ids: torch.Tensor
    """Shape `(n, length)`, padded with 0."""
    mask: torch.Tensor
    """Bool, same shape: True at late outcomes that are predicted from their predecessor."""
    memoryless: float
    """Entropy of these tokens given the preceding token, in nats: the best loss without looking further back."""

    @classmethod
    def of(cls, rows: list[Transcript]) -> LateOutcomes:
        length = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        last = max(max(row.episode) for row in rows)
        counts: dict[int, Counter[int]] = defaultdict(Counter)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            for j, (episode, sampled) in enumerate(zip(row.episode, row.action_mask, strict=True)):
                position = row.prompt_len + j
                if not sampled and 3 * episode >= 2 * last and position < len(row.ids) - 1:
                    mask[i, position] = True
                    counts[row.ids[position - 1]][row.ids[position]] += 1
        total = sum(sum(c.values()) for c in counts.values())
        entropy = -sum(n * math.log(n / sum(c.values())) for c in counts.values() for n in c.values())
        return cls(ids, mask, entropy / max(1, total))

    @torch.no_grad()
    def loss(self, model: Any) -> float:
        """Mean cross-entropy on late outcomes, in nats."""
        training = model.training
        model.eval()
        ids, mask = self.ids.to(model.device), self.mask.to(model.device)
        logprobs = torch.log_softmax(model(input_ids=ids).logits[:, :-1].float(), -1)
        chosen = logprobs.gather(-1, ids[:, 1:, None])[..., 0]
        model.train(training)
        return float(-chosen[mask[:, 1:]].mean()) if bool(mask.any()) else 0.0


class _StopWhenLearned(TrainerCallback):
    def __init__(self, late: LateOutcomes, report: Callable[[int, float], None]) -> None:
        self.late, self.report = late, report
        self.best = math.inf
        self.quiet = 0

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step % CHECK_EVERY:
            return
        loss = self.late.loss(model)
        self.report(state.global_step, loss)
        self.quiet = 0 if loss < (1 - STILL) * self.best else self.quiet + 1
        self.best = min(self.best, loss)
        if self.quiet >= 3 and self.best < FALLEN * self.late.memoryless:
            control.should_training_stop = True


def warm_up(
    model: Any,
    tokenizer: Any,
    group: TaskGroup,
    make_trial: Callable[[], Trial],
    renderer: Renderer,
    args: ScratchArguments,
    seed: int,
    folder: str,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, float]:
    """Train `model` in place.

    Args:
        report: called with (step, late-outcome loss) every few steps.

    Returns:
        `steps`, `late_loss` and `memoryless_loss`.
    """
    rows = random_play(group, make_trial, renderer, args.imitation_trials + HELD_OUT, seed)
    late = LateOutcomes.of(rows[:HELD_OUT])
    data = Dataset.from_dict({"input_ids": [row.ids for row in rows[HELD_OUT:]]})
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=folder,
            max_steps=args.imitation_max_steps,
            per_device_train_batch_size=args.imitation_batch_size,
            learning_rate=args.imitation_learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=20,
            weight_decay=0.0,
            max_length=None,
            packing=False,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[_StopWhenLearned(late, report)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return {
        "steps": float(trainer.state.global_step),
        "late_loss": late.loss(model),
        "memoryless_loss": late.memoryless,
    }


def sample_text(group: TaskGroup, make_trial: Callable[[], Trial], trials: int = 512) -> list[str]:
    """Sample texts of a task group as they appear in rollouts: rules, openings, actions and observations.

    They are those of random legal play and of the oracle if there is one: some games are next to never won at random.
    """
    specs = [
        TrialSpec(make_trial, group.task(i, "train"), derive("vocabulary", i), ("vocabulary", i)) for i in range(trials)
    ]
    texts = [group.env.rules()]
    played = RolloutManager(RandomPolicy()).run(specs)
    for trajectory in played:
        if trajectory.error:
            raise ConfigError(f"env_id={group.env_id!r} fails under random legal play: {trajectory.error}.")
    if type(group.env).oracle is not Env.oracle:
        played += RolloutManager(OraclePolicy()).run(specs[:ORACLE_TRIALS])  # up to where it may not know how to go on
    for trajectory in played:
        for episode in trajectory.episodes:
            texts.append(episode.opening)
            for turn in episode.turns:
                texts += [turn.action, turn.observation]
    return texts
