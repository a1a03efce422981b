"""Self-generated scores: an actor maximizes its critic's score with the group-relative policy gradient of GRPO.

Phase A: next-token loss on real tokens, while the critic learns to distinguish real continuations from the actor's own.
Phase B: no targets. The actor samples G continuations of each real prefix; the score is the critic's output in [0, 1];
advantages are leave-one-out within the group, with one scale for the batch. If the critic is `live`, its score is also
differentiated, as in METALEARN, where loss and learner are one network. `grounded` scores real tokens instead: the gain
in their log-likelihood from a sampled thought, over a moving average of the actor without thought (RLP, Hatamizadeh et
al. 2025, arXiv:2510.01265); one member of each group is the empty thought, so that the plain prediction is trained too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from metarlgym.selflearning.self_critic.actor_critic import ActorCritic
from metarlgym.selflearning.self_critic.critics import Critic
from metarlgym.selflearning.self_critic.language import Language, distinct
from metarlgym.training.credit import batch_scale, leave_one_out
from metarlgym.training.hack_detector import CHECK_SEED


@dataclass
class ScoreSizes:
    """Shapes of the form.

    Attributes:
        prompt: real tokens before a sample.
        sample: length of a sample in tokens.
        prompts: prompts per step.
        group: samples per prompt.
        thought: length of a thought in tokens (`grounded`).
        batch: real sequences per step of phase A.
        spoilt: corruption rate of the critic's negatives.
        own_weight: loss weight of self-generated negatives, relative to real and corrupted sequences.
    """

    prompt: int
    sample: int
    prompts: int
    group: int
    thought: int
    batch: int
    spoilt: float
    own_weight: float


class ScoreForm:
    """Losses and measures of the form, on one language.

    Args:
        language: source of the real sequences.
        sizes: shapes.
        held: number of held-out sequences for the true loss.
        generator: random generator for sampling.
    """

    name = "score"

    def __init__(self, language: Language, sizes: ScoreSizes, held: int, generator: torch.Generator) -> None:
        self.language, self.sizes, self.generator = language, sizes, generator
        self.held = language.tokens(0, held, "eval")
        self.real = self.held[:, sizes.prompt :]

    def phase_a_loss(self, model: ActorCritic, start: int) -> Tensor:
        """Loss on real sequences from `start` on: next-token prediction, and real against own continuations."""
        s = self.sizes
        real = self.language.tokens(start, s.batch)
        logits, verdict = model.both(real)
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), real[:, 1:].flatten())
        return loss + self._verdict_loss(model, real, verdict)

    def critic_loss(self, judge: ActorCritic, actor: ActorCritic, start: int) -> Tensor:
        """Loss of a refreshed critic: real sequences against the actor's current samples."""
        real = self.language.tokens(start, self.sizes.batch)
        return self._verdict_loss(judge, real, judge.both(real)[1], actor)

    def _verdict_loss(self, model: ActorCritic, real: Tensor, verdict: Tensor, actor: Any = None) -> Tensor:
        """Binary classification of real tokens against the actor's samples and random tokens in real sequences."""
        s = self.sizes
        own = (actor or model).sample(real[:, : s.prompt], s.sample, self.generator)
        on_own = model.both(torch.cat([real[:, : s.prompt], own], 1))[1][:, s.prompt :]
        spoilt = torch.rand(real.shape, generator=self.generator) < s.spoilt
        other = torch.randint(self.language.V, real.shape, generator=self.generator)
        on_spoilt = model.both(torch.where(spoilt, other, real))[1][:, s.prompt :]
        loss = functional.binary_cross_entropy_with_logits
        return (
            loss(verdict[:, s.prompt :], torch.ones(len(real), s.sample))
            + loss(on_spoilt, (~spoilt).float()[:, s.prompt :])
            + s.own_weight * loss(on_own, torch.zeros(len(real), s.sample))
        ) / (2 + s.own_weight)

    def step_loss(self, actor: ActorCritic, critic: Critic, start: int) -> Tensor:
        """Loss of a phase B step."""
        s = self.sizes
        real = self.language.tokens(start, s.prompts).repeat_interleave(s.group, 0)
        if critic.name == "grounded":
            return self._grounded_loss(actor, critic, real)
        prompts = real[:, : s.prompt]
        whole = torch.cat([prompts, actor.sample(prompts, s.sample, self.generator)], 1)
        if critic.differentiable:
            logits, verdict = actor.both(whole)
            score = torch.sigmoid(verdict)[:, s.prompt :].mean(1)
        else:
            logits = actor.logits(whole)
            with torch.no_grad():
                score = critic.judge.score(whole, s.prompt)
        loss = self._policy_loss(logits, whole, score.detach())
        return loss - score.mean() if critic.differentiable else loss

    def _policy_loss(self, logits: Tensor, whole: Tensor, score: Tensor) -> Tensor:
        s = self.sizes
        logs = torch.log_softmax(logits[:, s.prompt - 1 : -1], -1)
        chosen = logs.gather(2, whole[:, s.prompt :, None])[..., 0]
        return -(self._advantages(score)[:, None] * chosen).mean()

    def _advantages(self, score: Tensor) -> Tensor:
        groups = torch.arange(len(score)) // self.sizes.group
        alive = torch.ones(len(score), dtype=torch.bool)
        apart = (score - leave_one_out(score, groups, alive))[:, None]
        return batch_scale(apart, torch.ones_like(apart, dtype=torch.bool))[:, 0]

    def _grounded_loss(self, actor: ActorCritic, critic: Critic, real: Tensor) -> Tensor:
        """Score-function gradient on thoughts, plus the gradient of the gain itself, a log-likelihood of real
        tokens."""
        s = self.sizes
        chosen, after = self._with_thoughts(actor, real, self.generator)
        plain = _log_likelihood(actor, real, s.prompt)
        with torch.no_grad():
            base = _log_likelihood(critic.average.module, real, s.prompt)
        empty = torch.arange(len(real)) % s.group == 0
        gain = torch.where(empty, plain, after) - base
        loss = -(self._advantages(gain.detach()) * torch.where(empty, 0.0, chosen)).mean() / s.thought
        return loss - gain.mean()

    def _with_thoughts(self, actor: ActorCritic, real: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Log-probability of a sampled thought, and mean log-probability of the real tokens after it, each `(B,)`."""
        s = self.sizes
        prompts, rest = real[:, : s.prompt], real[:, s.prompt :]
        mark = torch.full((len(real), 1), self.language.V)
        thoughts = actor.sample(torch.cat([prompts, mark], 1), s.thought, generator)
        whole = torch.cat([prompts, mark, thoughts, mark + 1, rest], 1)
        logs = torch.log_softmax(actor.logits(whole), -1)
        first = s.prompt + 1
        chosen = logs[:, first - 1 : first - 1 + s.thought].gather(2, thoughts[..., None])[..., 0].sum(1)
        return chosen, logs[:, first + s.thought : -1].gather(2, rest[..., None])[..., 0].mean(1)

    @torch.no_grad()
    def measure(self, actor: ActorCritic, critic: Critic) -> dict[str, float]:
        """One check: the signal, the same signal under the initial critic, and the truth.

        Signals are scores in [0, 1]; for `grounded`, the gain with a thought over the moving average without one, in
        nats per token.
        """
        s = self.sizes
        generator = torch.Generator().manual_seed(CHECK_SEED)
        prompts = self.held[:, : s.prompt]
        own = actor.sample(prompts, s.sample, generator)
        whole = torch.cat([prompts, own], 1)
        more: dict[str, float] = {}
        if critic.name == "grounded":
            after = self._with_thoughts(actor, self.held, generator)[1]
            score = after - _log_likelihood(critic.average.module, self.held, s.prompt)
            score0 = after - _log_likelihood(critic.at_start, self.held, s.prompt)
            more["thought_gain"] = float((after - _log_likelihood(actor, self.held, s.prompt)).mean())
        else:
            score = critic.judge.score(whole, s.prompt)
            score0 = critic.at_start.score(whole, s.prompt)
        logits = actor.logits(self.held)
        probs = torch.softmax(actor.logits(whole)[:, s.prompt - 1 : -1], -1)
        return {
            "signal": float(score.mean()),
            "signal_se": float(score.std() / len(score) ** 0.5),
            "signal0": float(score0.mean()),
            "true_loss": self.language.true_loss(logits, self.held, s.prompt - 1),
            "agreement": float((logits[:, s.prompt - 1 : -1].argmax(-1) == self.real).float().mean()),
            "entropy": float(-torch.special.xlogy(probs, probs).sum(-1).mean()),
            "distinct": distinct(own) / distinct(self.real),
            "likelihood": self.language.log_likelihood(prompts, own) - self._real_likelihood(),
            **more,
        }

    def floor(self) -> float:
        """Lowest possible true loss, in nats per token."""
        return self.language.entropy(self.held, self.sizes.prompt - 1)

    def _real_likelihood(self) -> float:
        return self.language.log_likelihood(self.held[:, : self.sizes.prompt], self.real)


def _log_likelihood(model: ActorCritic, real: Tensor, prompt: int) -> Tensor:
    """Mean log-probability of the tokens from `prompt` on, `(B,)`."""
    logs = torch.log_softmax(model.logits(real)[:, prompt - 1 : -1], -1)
    return logs.gather(2, real[:, prompt:, None])[..., 0].mean(1)
