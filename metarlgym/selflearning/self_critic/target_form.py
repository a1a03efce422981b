"""Self-generated targets: a model is trained by cross-entropy on the tokens that its critic predicts to be right.

The form of METALEARN's first experiment. The model predicts; for every position a triple of tokens is formed, and the
critic, a network of the same kind, predicts the right token at the third token of each triple (a mark).

| `critic_sees` | triple | |
|---|---|---|
| `context` | (last token seen, the model's best guess, mark) | default: the critic cannot see the answer |
| `answer` | (the model's best guess, the right next token, mark) | as in the original: the critic may copy the answer |

Phase A: cross-entropy of prediction and verdict with the real tokens. Phase B: cross-entropy of the prediction with the
critic's target, which has no gradient; by default the target is the critic's most probable token, as in the original.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from metarlgym.selflearning.self_critic.actor_critic import ActorCritic
from metarlgym.selflearning.self_critic.critics import Critic
from metarlgym.selflearning.self_critic.language import Language, distinct
from metarlgym.training.hack_detector import CHECK_SEED


class TargetForm:
    """Losses and measures of the form, on one language.

    Args:
        language: source of the real sequences.
        batch: sequences per step.
        held: number of held-out sequences.
        critic_sees: `context` or `answer`.
        targets: `argmax`, or `sample` from the critic's verdict.
        generator: random generator for sampled targets.
    """

    name = "target"

    def __init__(
        self,
        language: Language,
        batch: int,
        held: int,
        critic_sees: str,
        targets: str,
        generator: torch.Generator,
    ) -> None:
        self.language, self.batch, self.critic_sees, self.targets = language, batch, critic_sees, targets
        self.generator = generator
        self.held = language.tokens(0, held, "eval")

    def phase_a_loss(self, model: ActorCritic, start: int) -> Tensor:
        """Cross-entropy of predictions and verdicts with real tokens."""
        real = self.language.tokens(start, self.batch)
        logits = model.logits(real)[:, :-1]
        return _cross_entropy(logits, real[:, 1:]) + self._verdict_loss(model, real, logits)

    def critic_loss(self, judge: ActorCritic, actor: ActorCritic, start: int) -> Tensor:
        """Loss of a refreshed critic: verdicts on the actor's current guesses."""
        real = self.language.tokens(start, self.batch)
        with torch.no_grad():
            logits = actor.logits(real)[:, :-1]
        return self._verdict_loss(judge, real, logits)

    def _verdict_loss(self, model: ActorCritic, real: Tensor, logits: Tensor) -> Tensor:
        return _cross_entropy(self.verdict(model, real, logits), real[:, 1:])

    def verdict(self, judge: ActorCritic, real: Tensor, logits: Tensor) -> Tensor:
        """The critic's logits of the right next tokens, `(B, T - 1, V)`.

        Args:
            judge: the critic.
            real: `(B, T)`.
            logits: the model's predictions of `real[:, 1:]`, `(B, T - 1, V)`.
        """
        guess = logits.argmax(-1)
        mark = torch.full_like(guess, self.language.V)
        triple = (real[:, :-1], guess, mark) if self.critic_sees == "context" else (guess, real[:, 1:], mark)
        woven = torch.stack(triple, 2).flatten(1)
        return judge.logits(woven)[:, 2::3]

    def targets_of(self, verdict: Tensor, generator: torch.Generator) -> Tensor:
        """Pseudo-targets `(B, T - 1)` from the critic's logits."""
        if self.targets == "argmax":
            return verdict.argmax(-1)
        probs = verdict.softmax(-1)
        return torch.multinomial(probs.flatten(0, 1), 1, generator=generator).view(probs.shape[:2])

    def step_loss(self, actor: ActorCritic, critic: Critic, start: int) -> Tensor:
        """Loss of a phase B step; it contains no real next token, unless the critic copied one."""
        real = self.language.tokens(start, self.batch)
        logits = actor.logits(real)[:, :-1]
        with torch.no_grad():
            target = self.targets_of(self.verdict(critic.judge, real, logits), self.generator)
        return _cross_entropy(logits, target)

    @torch.no_grad()
    def measure(self, actor: ActorCritic, critic: Critic) -> dict[str, float]:
        """One check: the self-loss, the same with the targets of the initial critic, and the truth."""
        generator = torch.Generator().manual_seed(CHECK_SEED)
        logits = actor.logits(self.held)[:, :-1]
        verdict = self.verdict(critic.judge, self.held, logits)
        target = self.targets_of(verdict, generator)
        target0 = self.targets_of(self.verdict(critic.at_start, self.held, logits), generator)
        each = _cross_entropy(logits, target, "none").view(target.shape).mean(1)
        own = actor.sample(self.held[:, :2], self.held.shape[1] - 2, generator)
        counts = torch.bincount(target.flatten(), minlength=self.language.V).float()
        shares = counts / counts.sum()
        return {
            "signal": float(each.mean()),
            "signal_se": float(each.std() / len(each) ** 0.5),
            "signal0": float(_cross_entropy(logits, target0)),
            "true_loss": self.language.true_loss(logits, self.held[:, :-1]),
            "agreement": float((target == self.held[:, 1:]).float().mean()),
            "target_entropy": float(-torch.special.xlogy(shares, shares).sum()),
            "verdict_entropy": _entropy(verdict),
            "distinct": distinct(own) / distinct(self.held[:, 2:]),
            "likelihood": self.language.log_likelihood(self.held[:, :2], own)
            - self.language.log_likelihood(self.held[:, :2], self.held[:, 2:]),
        }

    def floor(self) -> float:
        """Lowest possible true loss, in nats per token."""
        return self.language.entropy(self.held[:, :-1])


def _cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Any:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)


def _entropy(logits: Tensor) -> float:
    probs = logits.softmax(-1)
    return float(-torch.special.xlogy(probs, probs).sum(-1).mean())
