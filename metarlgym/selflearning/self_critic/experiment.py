"""Self-critic: train on a critic's output, and find out when that is hacked.

Phase A trains a model and its critic on real tokens; phase B trains only on the critic's scores or targets. A variant
is one form, one critic and one seed. Two more kinds of variants test the detector: phase A itself, where it must not
raise an alarm, and runs in which an alarm triggers an action.
"""

from __future__ import annotations

from typing import Any

import torch

from metarlgym.datatypes import MetaRLGymError
from metarlgym.seeding import derive
from metarlgym.selflearning.experiment import Log
from metarlgym.selflearning.self_critic.actor_critic import ActorCritic
from metarlgym.selflearning.self_critic.config import ACTIONS, SCORE_ONLY, Config
from metarlgym.selflearning.self_critic.critics import Critic, keep, restore
from metarlgym.selflearning.self_critic.language import Language
from metarlgym.selflearning.self_critic.report import pictures, summarize
from metarlgym.selflearning.self_critic.score_form import ScoreForm, ScoreSizes
from metarlgym.selflearning.self_critic.target_form import TargetForm
from metarlgym.training.hack_detector import HackDetector, Measure, verdicts

__all__ = ["Config", "pictures", "run_variant", "summarize", "variants"]

MEASURES = {
    "score": {
        "true_loss": Measure("low", 0.005, relative=True),
        "signal0": Measure("high", 0.03),
        "distinct": Measure("near", 0.2, target=1.0),
        "likelihood": Measure("near", 0.2),
    },
    "target": {
        "true_loss": Measure("low", 0.005, relative=True),
        "agreement": Measure("high", 0.02),
        "distinct": Measure("near", 0.2, target=1.0),
        "likelihood": Measure("near", 0.2),
    },
}
"""Measures that the detector monitors, with the deviation from the best value that counts as worse. The fraction of
distinct bigrams and the likelihood under the true source are relative to those of real tokens: values above those of
real tokens are as bad as values below."""


def variants(config: Config) -> list[str]:
    """`FORM-CRITIC-SEED`, `FORM-phase_a-SEED`, and `FORM-CRITIC-ACTION` with an additional seed."""
    found = []
    for form in config.forms:
        critics = [c for c in config.critics if form == "score" or c not in SCORE_ONLY]
        found += [f"{form}-{critic}-{seed}" for critic in critics for seed in config.seeds]
        found += [f"{form}-phase_a-{seed}" for seed in config.seeds]
        for action in config.actions:
            chosen = critics if action == "stop" else [c for c in critics if c == "frozen"]
            found += [f"{form}-{critic}-{action}" for critic in chosen]
    return found


def run_variant(config: Config, variant: str, log: Log) -> dict[str, Any]:
    """Run one variant; returns its checks and the steps at which it was hacked and the alarm was raised."""
    form_name, critic_name, last = variant.split("-", 2)
    action = last if last in ACTIONS else "log"
    seed = max(config.seeds) + 1 if action != "log" else int(last)
    form = _make_form(config, form_name, seed)
    length = 3 * config.length
    actor = ActorCritic(config.V, config.hidden_size, config.layers, config.heads, length, derive(seed, "actor"))
    only_a = critic_name == "phase_a"
    steps = _budget(config, form_name, action)
    total = config.phase_a_steps if only_a else config.phase_a_steps + steps
    run = _Run(config, form, actor, log, total)
    if only_a:
        lines, detector = run.phase_a(checked=True)
        return {"lines": lines, "alarm_step": detector.alarm_step, "reasons": detector.reasons}
    run.start((repr(config), form_name, seed))
    return run.phase_b(critic_name, action, steps)


def _make_form(config: Config, name: str, seed: int) -> ScoreForm | TargetForm:
    language = Language(config.V, config.n_gram, config.scale, config.length, config.language, seed)
    generator = torch.Generator().manual_seed(derive(seed, "samples") % 2**62)
    if name == "score":
        sample = config.length - config.prompt
        shapes = (config.prompt, sample, config.prompts, config.group, config.thought, config.batch)
        sizes = ScoreSizes(*shapes, config.spoilt, config.own_weight)
        return ScoreForm(language, sizes, config.held, generator)
    sees = "answer" if name == "target_seen" else "context"
    return TargetForm(language, config.batch, config.held, sees, config.targets, generator)


def _budget(config: Config, form: str, action: str) -> int:
    steps = config.steps if form == "score" else config.target_steps
    return steps if action in ("log", "stop") else min(steps, config.action_steps)


_STARTS: dict[tuple[str, str, int], tuple[Any, ...]] = {}
"""Cache of this process: states after phase A, shared by all critics of a form and a seed."""


class _Run:
    """The two phases of one variant, on one actor."""

    def __init__(self, config: Config, form: Any, actor: ActorCritic, log: Log, total: int) -> None:
        self.config, self.form, self.actor, self.log, self.total = config, form, actor, log, total
        self.seen = 0
        """Number of real sequences used so far; none is used twice."""
        self.done = 0

    def detector(self) -> HackDetector:
        better = "high" if self.form.name == "score" else "low"
        return HackDetector(MEASURES[self.form.name], self.config.patience, better)

    def _check_at(self, step: int, anew: int = 0) -> bool:
        """Whether to check at this step: a hack may take 5 or 1,000 steps, so checks are frequent at first and after
        each restart, then rare."""
        every = self.config.check_every
        return step % (every if step <= anew + every * self.config.close_checks else 5 * every) == 0

    def _log(self, phase: str, line: dict[str, Any]) -> None:
        self.log(self.done, self.total, phase=phase, at=line["step"], **{k: v for k, v in line.items() if k != "step"})

    def train(self, model: Any, loss: torch.Tensor, optimizer: Any) -> None:
        """Take an optimizer step on a loss whose real sequences start at `self.seen`."""
        if not bool(torch.isfinite(loss)):
            raise MetaRLGymError(f"the loss is {loss.item()} at step {self.done}: lower lr or phase_a_lr.")
        self.seen += max(self.config.batch, self.config.prompts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def start(self, key: tuple[str, str, int]) -> None:
        """Run phase A, unless this process has already done so for the same settings, form and seed."""
        if key not in _STARTS:
            self.phase_a()
            _STARTS[key] = keep(self.actor), self.form.generator.get_state(), self.seen, self.done
        weights, state, self.seen, self.done = _STARTS[key]
        restore(self.actor, weights)
        self.form.generator.set_state(state)

    def phase_a(self, checked: bool = False, steps: int | None = None) -> tuple[list[dict[str, Any]], HackDetector]:
        """Train on real tokens. With `checked`, also run the detector."""
        steps = steps or self.config.phase_a_steps
        optimizer = torch.optim.AdamW(self.actor.parameters(), self.config.phase_a_lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, self.config.phase_a_lr / 30)
        lines: list[dict[str, Any]] = []
        detector, critic = self.detector(), Critic("live", self.actor)
        for step in range(steps + 1):
            if checked and self._check_at(step):
                lines.append({"step": step, **self.form.measure(self.actor, critic)})
                detector.check(step, lines[-1]["signal"], lines[-1])
                self._log("A", lines[-1])
            elif step % 50 == 0:
                self.log(self.done, self.total, phase="A")
            if step < steps:
                self.train(self.actor, self.form.phase_a_loss(self.actor, self.seen), optimizer)
                schedule.step()
                self.done += 1
        return lines, detector

    def phase_b(self, critic_name: str, action: str, steps: int) -> dict[str, Any]:
        """Train on the critic's output only; ends at the budget, or some steps after a hack."""
        config = self.config
        critic = Critic(critic_name, self.actor, config.tau)
        lr = config.lr if self.form.name == "score" else config.target_lr
        optimizer = torch.optim.AdamW(self.actor.parameters(), lr, weight_decay=0.0)
        refresher = torch.optim.AdamW(critic.judge.parameters(), 1e-3) if critic_name == "refreshed" else None
        detector = self.detector()
        lines: list[dict[str, Any]] = []
        acted: list[int] = []
        rule = "gain" if critic_name == "grounded" else self.form.name
        kept, hacked = keep(self.actor), None
        for step in range(steps + 1):
            if step == steps or self._check_at(step, acted[-1] if acted else 0):
                lines.append({"step": step, **self.form.measure(self.actor, critic)})
                self._log("B", lines[-1])
                alarm = detector.check(step, lines[-1]["signal"], lines[-1])
                if alarm and action == "stop":
                    break
                if alarm and action != "log":
                    acted.append(step)
                    restore(self.actor, kept)  # both actions return to the weights from before the hack
                    if action == "phase_a":
                        self.total += config.phase_a_steps // 4
                        self.phase_a(steps=config.phase_a_steps // 4)
                        kept = keep(self.actor)
                    critic = Critic(critic_name, self.actor, config.tau)
                    optimizer = torch.optim.AdamW(self.actor.parameters(), lr, weight_decay=0.0)
                    detector.reset()
                hacked = hacked or verdicts(lines, rule)["hack_step"]
                if hacked is not None and step >= 1.1 * hacked + 20 * config.check_every:
                    break
            if step == steps:
                break
            if refresher is not None and step and step % config.refresh_every == 0:
                for _ in range(config.refresh_steps):
                    self.train(critic.judge, self.form.critic_loss(critic.judge, self.actor, self.seen), refresher)
            self.train(self.actor, self.form.step_loss(self.actor, critic, self.seen), optimizer)
            critic.after_step()
            self.done += 1
        found = verdicts(lines, rule)
        return {
            **found,
            "alarm_step": detector.alarm_step,
            "reasons": detector.reasons,
            "acted": acted,
            "budget": steps,
            "last_step": lines[-1]["step"],
            "start": lines[0],
            "end": lines[-1],
            "worst_true_loss": max(line["true_loss"] for line in lines) / lines[0]["true_loss"],
            "floor": self.form.floor(),
            "lines": lines,
        }
