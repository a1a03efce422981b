"""TrialBatch: the trials of a rollout as rows for TRL, and their credit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object

from metarlgym.datatypes import LIMITS, MetaTrajectory, StopReason
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.thinking import thought_rates
from metarlgym.rollout.transcript import Transcript
from metarlgym.seeding import derive
from metarlgym.training import credit
from metarlgym.training.config import MetaGRPOConfig

NO_SIGNAL = 1e-12
"""Advantages of smaller magnitude are rounding errors."""


@dataclass
class Credit:
    """Advantages of this process's rows and metrics to log."""

    advantages: torch.Tensor
    """Shape `(B, T)`."""
    has_signal: torch.Tensor
    """Bool, shape `(B,)`: whether the row's group has a nonzero advantage."""
    metrics: dict[str, float]


@dataclass
class _Outcome:
    """The data of a trial that credit needs; sent to every process."""

    returns: list[float]
    alive: bool
    rewards: list[list[float]]
    anchors: list[list[int]]
    invalid: int
    turns: int
    cut_actions: int
    episodes: int
    cut_episodes: int
    cut: bool
    """Whether a limit ended the trial."""
    thoughts: tuple[int, int, int]
    """Number of thoughts, of cut thoughts, and of tokens inside thoughts."""


class TrialBatch:
    """The trials played by this process, in row order."""

    def __init__(self, trajectories: list[MetaTrajectory], args: MetaGRPOConfig, renderer: Renderer) -> None:
        self.trajectories = trajectories
        self.args = args
        self.renderer = renderer
        self.rows: list[Transcript] = []
        self.row_trial: list[int] = []
        for i, trajectory in enumerate(trajectories):
            # A context without sampled tokens has no training signal: a filler saves processing its prompt.
            rows = [
                row
                if any(row.action_mask)
                else Transcript.filler([renderer.end_id], renderer.end_id, row.first_episode)
                for row in trajectory.rows
            ]
            if not rows:  # the environment failed before its opening
                rows = [Transcript.filler([renderer.end_id], renderer.end_id, 0)]
            prompt = rows[0].ids[: rows[0].prompt_len]
            while len(rows) < args.rows_per_trial:
                rows.append(Transcript.filler(prompt, renderer.end_id, len(rows)))
            self.rows += rows
            self.row_trial += [i] * len(rows)

    def rollout_output(self) -> dict[str, list[Any]]:
        """The dict that TRL expects from a `rollout_func`, with one entry per row."""
        totals = [None if t.stop is StopReason.ERROR else t.total for t in self.trajectories]
        return {
            "prompt_ids": [row.ids[: row.prompt_len] for row in self.rows],
            "completion_ids": [row.completion_ids for row in self.rows],
            "logprobs": [row.logprobs for row in self.rows],
            "env_mask": [row.action_mask for row in self.rows],
            "trial_return": [totals[i] for i in self.row_trial],
        }

    def sampled(self, length: int) -> torch.Tensor:
        """Which completion tokens the policy sampled: bool, shape `(B, length)`."""
        mask = torch.zeros(len(self.rows), length, dtype=torch.bool)
        for i, row in enumerate(self.rows):
            mask[i, : len(row.action_mask)] = torch.tensor(row.action_mask, dtype=torch.bool)
        return mask

    def credit(self, weights: list[float], gamma: float, rank: int, length: int) -> Credit:
        """Per-token advantages for this process's rows, with baselines and scale computed over all processes."""
        by_turn = self.args.gamma_step is not None or self.args.credit == "gigpo"
        outcomes: list[_Outcome] = gather_object([self._outcome(t, by_turn) for t in self.trajectories])
        returns = torch.tensor([o.returns for o in outcomes], dtype=torch.float32)
        alive = torch.tensor([o.alive for o in outcomes])
        groups = torch.arange(len(outcomes)) // self.args.trials_per_task
        weight = torch.tensor(weights, dtype=torch.float32)
        if by_turn:
            rewards = _pad([o.rewards for o in outcomes], self.args.episodes, math.nan)
            anchors = None
            if self.args.credit == "gigpo":
                anchors = _pad([o.anchors for o in outcomes], self.args.episodes, -1, dtype=torch.long)
            step = 1.0 if self.args.gamma_step is None else self.args.gamma_step
            values = credit.turn_advantages(
                rewards, groups, alive, weight, gamma, step, anchors, self.args.anchor_weight
            )
        else:
            values = credit.episode_advantages(
                self.args.credit, returns, groups, alive, weight, gamma, str(self.args.scale_rewards)
            )
        strength = values.abs().flatten(1).amax(1).view(-1, self.args.trials_per_task).amax(1)
        signal = (strength > NO_SIGNAL).repeat_interleave(self.args.trials_per_task)
        own = torch.tensor(self.row_trial) + rank * len(self.trajectories)
        painted = credit.paint(
            values[own],
            [row.episode for row in self.rows],
            [row.turn for row in self.rows],
            [row.action_mask for row in self.rows],
            length,
        )
        metrics = _metrics(outcomes, returns, alive, strength)
        if self.renderer.thinking is not None:
            metrics |= thought_rates(sum(o.turns for o in outcomes), *map(sum, zip(*(o.thoughts for o in outcomes))))
        return Credit(painted, signal[own], metrics)

    @staticmethod
    def _outcome(trajectory: MetaTrajectory, by_turn: bool) -> _Outcome:
        rewards, anchors = [], []
        if by_turn:
            for episode in trajectory.episodes:
                rewards.append([turn.reward for turn in episode.turns])
                seen = [episode.opening, *(turn.observation for turn in episode.turns)]
                anchors.append([derive("anchor", text) for text in seen[: len(episode.turns)]])
        return _Outcome(
            trajectory.returns,
            trajectory.stop is not StopReason.ERROR,
            rewards,
            anchors,
            sum(episode.invalid for episode in trajectory.episodes),
            trajectory.turns,
            trajectory.truncated_actions,
            len(trajectory.episodes),
            sum(episode.stop in LIMITS for episode in trajectory.episodes),
            trajectory.stop in LIMITS,
            (trajectory.thoughts, trajectory.cut_thoughts, trajectory.thought_tokens),
        )


def _pad(rows: list[list[list[Any]]], episodes: int, fill: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Pad ragged (trial, episode, turn) lists to a tensor of shape `(N, E, T)`."""
    turns = max((len(episode) for row in rows for episode in row), default=1) or 1
    out = torch.full((len(rows), episodes, turns), fill, dtype=dtype)
    for i, row in enumerate(rows):
        for n, episode in enumerate(row):
            out[i, n, : len(episode)] = torch.tensor(episode, dtype=dtype)
    return out


def _metrics(
    outcomes: list[_Outcome], returns: torch.Tensor, alive: torch.Tensor, strength: torch.Tensor
) -> dict[str, float]:
    played = torch.nan_to_num(returns[alive], nan=0.0)
    turns = max(1, sum(o.turns for o in outcomes))
    metrics = {
        "zero_signal_groups": float((strength <= NO_SIGNAL).float().mean()),
        "invalid_rate": sum(o.invalid for o in outcomes) / turns,
        "truncation_rate": sum(o.cut for o in outcomes) / len(outcomes),
        "episode_cut_rate": sum(o.cut_episodes for o in outcomes) / max(1, sum(o.episodes for o in outcomes)),
        "action_cut_rate": sum(o.cut_actions for o in outcomes) / turns,
        "error_rate": sum(not o.alive for o in outcomes) / len(outcomes),
    }
    if len(played):
        curve = played.mean(0).tolist()
        metrics |= {f"episode_{n + 1}/return": value for n, value in enumerate(curve)}
        metrics["trial_return"] = sum(curve)
        metrics["adaptation_slope"] = curve[-1] - curve[0]
    return metrics
