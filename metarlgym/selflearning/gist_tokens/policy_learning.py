"""Phase B: an actor learns from how near its own continuations are to the true ones, in token or in gist space.

Score-function gradient as in GRPO: G continuations of each prompt, advantages leave-one-out within them, one scale for
the batch. Sampling has no gradient, and a relaxation of it would be biased, so this is the form that can be trusted.
The true loss is watched from outside: whoever raises the score by anything but better predictions shows there.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from metarlgym.seeding import derive
from metarlgym.selflearning.experiment import Log
from metarlgym.selflearning.gist_tokens.config import Config
from metarlgym.selflearning.gist_tokens.model import GistModel, draw, held_out_loss, make_source, train_gists
from metarlgym.selflearning.gist_tokens.sampling import sample
from metarlgym.selflearning.gist_tokens.scores import Judge, token_score
from metarlgym.selflearning.gist_tokens.verdicts import verdicts
from metarlgym.training.credit import batch_scale, leave_one_out

SMALLEST = 1e-12
"""Probabilities of the source below this count as this: a symbol may be as good as impossible."""


class Course:
    """The checks of a run on a fixed held-out slice, with the same random numbers each time.

    Args:
        config: sizes.
        seed: of the random numbers.
        judge: the scorer.
    """

    def __init__(self, config: Config, seed: int, judge: Judge) -> None:
        self.config, self.seed, self.judge = config, seed, judge
        self.first, self.second, self.theta = held_out(config, config.check_sequences)
        self.checks: list[dict[str, Any]] = []
        self._start: Tensor | None = None

    @torch.no_grad()
    def check(self, step: int) -> dict[str, Any]:
        """Measure, and keep the result in `checks`.

        Returns:
            `score`, `gain` and `gain_se` (over the start, by prompt); `gist_score` under the encoder of the start and
            `token_score`, whatever the variant's own; `true_loss` on chunk 2, nats; `entropy` of the policy along its
            own samples, nats; `bigrams`, distinct ones over all; `likelihood` of samples under the source, nats a
            symbol; `state_std`, over its start, and `state_alike` of the gist states of true chunks, see `Judge`.
        """
        config, actor, group = self.config, self.judge.actor, self.config.check_samples
        generator = torch.Generator().manual_seed(derive(self.seed, "check") % 2**63)
        own = sample(actor, self.first, config.n2, group, generator)
        first, true, theta = (x.repeat_interleave(group, 0) for x in (self.first, self.second, self.theta))
        score = self.judge.score(own, true).view(-1, group).mean(1)
        self._start = score if self._start is None else self._start
        gain = score - self._start
        chances = actor.logits(first, own)[1].softmax(-1)
        pairs = torch.unique(own[:, :-1] * config.alphabet + own[:, 1:]).numel()
        found = {
            "score": float(score.mean()),
            "gain": float(gain.mean()),
            "gain_se": float(gain.std() / len(gain) ** 0.5),
            "gist_score": float(self.judge.similarity(self.judge.at_start, own, true).mean()),
            "token_score": float(token_score(own, true).mean()),
            "true_loss": float(held_out_loss(actor, self.first, self.second, self.theta).mean()),
            "entropy": float(-torch.special.xlogy(chances, chances).sum(-1).mean()),
            "bigrams": pairs / (own.shape[0] * (own.shape[1] - 1)),
            "likelihood": float(theta.gather(1, own).clamp(min=SMALLEST).log().mean()),
            "state_std": self.judge.state_std(self.second),
            "state_alike": self.judge.state_alike(self.second),
        }
        self.checks.append({"step": step, **{name: round(value, 6) for name, value in found.items()}})
        return self.checks[-1]


def held_out(config: Config, count: int) -> tuple[Tensor, ...]:
    """The first held-out sequences, the same for all variants; as `draw`."""
    return draw(config, make_source(config, derive(config.world, "held-out")), 0, count, "eval")


def run_space(config: Config, space: str, seed: int, log: Log) -> dict[str, Any]:
    """One variant of phase B, after a phase A of its own, which is the same for all spaces of a seed.

    Args:
        config: settings.
        space: what the score is, see `scores.py`.
        seed: of everything.
        log: takes training losses and checks.

    Returns:
        `space`, `seed`, `checks` in order, and the verdicts on them.
    """
    total = config.space_warm_steps + config.space_steps
    actor = _after_phase_a(config, seed, log, total)
    judge = Judge(space, actor, held_out(config, config.check_sequences)[1], config.tau)
    course = Course(config, seed, judge)
    source = make_source(config, derive(seed, "space-train"))
    generator = torch.Generator().manual_seed(derive(seed, "space-samples") % 2**63)
    optimizer = torch.optim.AdamW(actor.parameters(), lr=config.space_lr, weight_decay=0.0)
    log(config.space_warm_steps, total, phase="B", **_logged(course.check(0)))
    for step in range(1, config.space_steps + 1):
        first, second, _ = draw(config, source, (step - 1) * config.prompts, config.prompts)
        own = sample(actor, first, config.n2, config.group, generator)
        first, true = first.repeat_interleave(config.group, 0), second.repeat_interleave(config.group, 0)
        logs = actor.logits(first, own)[1].log_softmax(-1)
        chosen = logs.gather(2, own[..., None])[..., 0]
        worth = advantages(judge.score(own, true, generator), config.group)
        loss = -(worth[:, None] * chosen).mean()
        if judge.differentiable:
            loss = loss + judge.live_loss(own, true, config.score_weight, config.guard_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
        optimizer.step()
        judge.after_step()
        if step % config.check_every == 0 or step == config.space_steps:
            log(config.space_warm_steps + step, total, phase="B", **_logged(course.check(step)))
    return {"space": space, "seed": seed, "checks": course.checks, **verdicts(course.checks)}


_STARTS: dict[tuple[str, int], GistModel] = {}
"""Ends of phase A of this process, by settings and seed."""


def _after_phase_a(config: Config, seed: int, log: Log, total: int) -> GistModel:
    key = repr(config), seed
    if key not in _STARTS:
        _STARTS[key] = train_gists(config, config.space_gists, "gist", seed, config.space_warm_steps, log, total)
    return copy.deepcopy(_STARTS[key])


def advantages(scores: Tensor, group: int) -> Tensor:
    """Each score less the mean of the others of its group, by the root mean square of all; `(P * G,)` to the same."""
    groups = torch.arange(len(scores)) // group
    apart = (scores - leave_one_out(scores, groups, torch.ones(len(scores), dtype=torch.bool)))[:, None]
    return batch_scale(apart, torch.ones_like(apart, dtype=torch.bool))[:, 0]


def _logged(check: dict[str, Any]) -> dict[str, Any]:
    return {"check": check["step"], **{name: value for name, value in check.items() if name != "step"}}
