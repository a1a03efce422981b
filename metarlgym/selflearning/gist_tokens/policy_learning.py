"""Phase B: an actor is rewarded for the similarity of its continuations to the true ones, in token or gist space.

Uses the score-function gradient as in GRPO: G continuations per prompt, leave-one-out advantages within the group, and
one scale for the batch. Sampling has no gradient and a relaxation would be biased, so this is the reliable form. The
true loss is monitored separately: an actor that raises the score by other means than better predictions shows up there.
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
"""Lower clamp for the source's probabilities, since a symbol may be nearly impossible."""


class Course:
    """The checks of a run on a fixed held-out set, with the same random numbers each time.

    Args:
        config: sizes.
        seed: seed of the random numbers.
        judge: the scorer.
    """

    def __init__(self, config: Config, seed: int, judge: Judge) -> None:
        self.config, self.seed, self.judge = config, seed, judge
        self.first, self.second, self.theta = held_out(config, config.check_sequences)
        self.checks: list[dict[str, Any]] = []
        self._start: Tensor | None = None

    @torch.no_grad()
    def check(self, step: int) -> dict[str, Any]:
        """Run a check and append the result to `checks`.

        Returns:
            `score`; its `gain` over the start, with standard error `gain_se` over prompts; `gist_score` under the
            initial encoder and `token_score`, whatever the variant's own score; `true_loss` on chunk 2, in nats;
            `entropy` of the policy along its own samples, in nats; `bigrams`, the fraction of distinct ones;
            `likelihood`, the samples' mean log-probability under the source in nats per symbol; `state_std`, relative
            to the start, and `state_alike` of the gist states of true chunks, see `Judge`.
        """
        config, actor, group = self.config, self.judge.actor, self.config.check_samples
        generator = torch.Generator().manual_seed(derive(self.seed, "check") % 2**63)
        own = sample(actor, self.first, config.n2, group, generator)
        first, true, theta = (x.repeat_interleave(group, 0) for x in (self.first, self.second, self.theta))
        score = self.judge.score(own, true).view(-1, group).mean(1)
        self._start = score if self._start is None else self._start
        gain = score - self._start
        probs = actor.logits(first, own)[1].softmax(-1)
        pairs = torch.unique(own[:, :-1] * config.alphabet + own[:, 1:]).numel()
        found = {
            "score": float(score.mean()),
            "gain": float(gain.mean()),
            "gain_se": float(gain.std() / len(gain) ** 0.5),
            "gist_score": float(self.judge.similarity(self.judge.at_start, own, true).mean()),
            "token_score": float(token_score(own, true).mean()),
            "true_loss": float(held_out_loss(actor, self.first, self.second, self.theta).mean()),
            "entropy": float(-torch.special.xlogy(probs, probs).sum(-1).mean()),
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
    """Run one variant of phase B after its phase A, which is the same for all spaces of a seed.

    Args:
        config: settings.
        space: the score, see `scores.py`.
        seed: seed of everything.
        log: receives training losses and checks.

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
"""Cache of this process: models after phase A, by settings and seed."""


def _after_phase_a(config: Config, seed: int, log: Log, total: int) -> GistModel:
    key = repr(config), seed
    if key not in _STARTS:
        _STARTS[key] = train_gists(config, config.space_gists, "gist", seed, config.space_warm_steps, log, total)
    return copy.deepcopy(_STARTS[key])


def advantages(scores: Tensor, group: int) -> Tensor:
    """Each score minus the mean of the others in its group, divided by the root mean square of all, `(P * G,)`."""
    groups = torch.arange(len(scores)) // group
    apart = (scores - leave_one_out(scores, groups, torch.ones(len(scores), dtype=torch.bool)))[:, None]
    return batch_scale(apart, torch.ones_like(apart, dtype=torch.bool))[:, 0]


def _logged(check: dict[str, Any]) -> dict[str, Any]:
    return {"check": check["step"], **{name: value for name, value in check.items() if name != "step"}}
