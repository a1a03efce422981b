"""Credit assignment: turns the returns of trials into advantages. Pure functions, independent of the trainer.

Shapes: N trials, E episodes, T turns. `returns[i, n]` is the raw return of episode n of trial i, NaN if it was not
played. `groups[i]` is the GRPO group of trial i. `alive[i]` is False for trials that ended in an error: they get
advantage 0 and are excluded from every baseline. Discounts and free-shot weights are applied only in this module.

Pitfalls that the rules avoid (notes and tests refer to them):

* An episode that was not played counts as 0 in sums, and its trial stays in the baseline of that episode index. A
  baseline over the remaining trials only is biased as soon as the policy can end a trial.
* Baselines leave out the trial itself, so that they do not depend on its actions.
* There is one scale for the whole batch, never one per group or episode index: dividing by a group's standard deviation
  weights tasks by difficulty and amplifies noise once late episodes are solved.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from metarlgym.datatypes import ConfigError

GROUP_STD_EPS = 1e-4
"""The constant that TRL adds to the group standard deviation."""


def return_to_go(returns: Tensor, gamma: float, weights: Tensor) -> Tensor:
    """`G[i, n] = sum_{m >= n} gamma^(m-n) * weights[m] * returns[i, m]`, with NaN counted as 0. Shape `(N, E)`."""
    rewards = torch.nan_to_num(returns, nan=0.0) * weights
    out = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for n in reversed(range(rewards.shape[1])):
        running = rewards[:, n] + gamma * running
        out[:, n] = running
    return out


def leave_one_out(values: Tensor, groups: Tensor, alive: Tensor) -> Tensor:
    """Leave-one-out baseline of each trial, with the shape `(N, ...)` of `values`.

    The mean over the other valid (`alive`) trials of the same group; if there are none, over the valid trials of the
    other groups; if there are none either, 0.
    """
    mask = alive.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
    kept = torch.where(mask > 0, values, torch.zeros_like(values))
    _, index = torch.unique(groups, return_inverse=True)
    count = int(index.max()) + 1
    sums = values.new_zeros(count, *values.shape[1:]).index_add_(0, index, kept)
    sizes = values.new_zeros(count, *mask.shape[1:]).index_add_(0, index, mask)
    own_sum, own_size = sums[index], sizes[index]
    others = own_size - mask
    elsewhere = sizes.sum(0) - own_size
    same = (own_sum - kept) / others.clamp(min=1)
    rest = (sums.sum(0) - own_sum) / elsewhere.clamp(min=1)
    return torch.where(others > 0, same, torch.where(elsewhere > 0, rest, torch.zeros_like(rest)))


def batch_scale(advantages: Tensor, cells: Tensor) -> Tensor:
    """Divide by the root mean square over `cells` (bool, same shape), unless it is 0. All other entries become 0."""
    kept = torch.where(cells, advantages, torch.zeros_like(advantages))
    rms = (kept.square().sum() / cells.sum().clamp(min=1)).sqrt()
    return kept / rms if rms > 0 else kept


def _cells(returns: Tensor, alive: Tensor) -> Tensor:
    return alive[:, None] & ~torch.isnan(returns)


def _spread(per_trial: Tensor, like: Tensor) -> Tensor:
    return per_trial[:, None].expand_as(like).clone()


# ---------------------------------------------------------------------- the rules


def rule_return_to_go(returns: Tensor, groups: Tensor, alive: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """`A[i, n] = G[i, n] - mean_{j != i} G[j, n]`: credits an episode with its own and all later returns.

    The default. MR-Search (arXiv:2603.11327) and CoD (arXiv:2606.20002) use it up to scale.
    """
    togo = return_to_go(returns, gamma, weights)
    return batch_scale(togo - leave_one_out(togo, groups, alive), _cells(returns, alive))


def rule_return_to_go_zscore(returns: Tensor, groups: Tensor, alive: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """`(G[i, n] - mean) / (std + eps)` over the group at the same episode index; kept for comparison."""
    togo = return_to_go(returns, gamma, weights)
    out = torch.zeros_like(togo)
    for group in torch.unique(groups):
        rows = (groups == group) & alive
        if int(rows.sum()) > 1:
            values = togo[rows]
            out[rows] = (values - values.mean(0)) / (values.std(0) + GROUP_STD_EPS)
    return batch_scale(out, _cells(returns, alive))


def rule_trial_rloo(returns: Tensor, groups: Tensor, alive: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """The trial's weighted return minus the mean of the others', for all its episodes (RLOO, arXiv:2402.14740)."""
    total = (torch.nan_to_num(returns, nan=0.0) * weights).sum(1)
    return batch_scale(_spread(total - leave_one_out(total, groups, alive), returns), _cells(returns, alive))


def rule_final_episode(returns: Tensor, groups: Tensor, alive: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """The last episode's return minus the mean of the others', for all episodes: earlier ones are pure exploration."""
    last = torch.nan_to_num(returns[:, -1], nan=0.0)
    return batch_scale(_spread(last - leave_one_out(last, groups, alive), returns), _cells(returns, alive))


def rule_differential(returns: Tensor, groups: Tensor, alive: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """Return-to-go of `r[n] - r[n-1]` (MAGE, arXiv:2603.03680); with gamma=1 it telescopes to `r[E-1] - r[n-1]`.

    The term `-r[n-1]` is noise that no per-index baseline removes; kept for comparison.
    """
    played = torch.nan_to_num(returns, nan=0.0) * weights  # weights first, so that a good free shot is not penalized
    change = torch.cat([played[:, :1], played[:, 1:] - played[:, :-1]], dim=1)
    change = torch.where(torch.isnan(returns), torch.zeros_like(change), change)
    togo = return_to_go(change, gamma, torch.ones_like(weights))
    return batch_scale(togo - leave_one_out(togo, groups, alive), _cells(returns, alive))


EPISODE_RULES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]] = {
    "return_to_go": rule_return_to_go,
    "return_to_go_zscore": rule_return_to_go_zscore,
    "trial_rloo": rule_trial_rloo,
    "final_episode": rule_final_episode,
    "differential": rule_differential,
}
RULES = ("trial", *EPISODE_RULES, "gigpo")


def rule_trial(returns: Tensor, groups: Tensor, alive: Tensor, weights: Tensor, scale_rewards: str = "group") -> Tensor:
    """Plain GRPO on the summed return, for all episodes (ORBIT, arXiv:2602.04089). Shape `(N, E)`.

    With one episode it equals TRL's own advantages bit for bit: it computes mean and standard deviation over the rows
    as TRL does, so groups must be consecutive and of equal size.
    """
    total = (torch.nan_to_num(returns, nan=0.0) * weights).sum(1)
    total = torch.where(alive, total, torch.full_like(total, torch.nan))
    size = int((groups == groups[0]).sum())
    if total.numel() % size or not bool((groups.view(-1, size) == groups.view(-1, size)[:, :1]).all()):
        raise ConfigError("credit='trial' needs groups of one size, one after the other.")
    grouped = total.view(-1, size)
    mean = torch.nanmean(grouped, dim=1).repeat_interleave(size, dim=0)
    advantages = total - mean
    if scale_rewards == "group":
        advantages = advantages / (_nanstd(grouped, 1).repeat_interleave(size, dim=0) + GROUP_STD_EPS)
    elif scale_rewards == "batch":
        advantages = advantages / (_nanstd(total).expand_as(total) + GROUP_STD_EPS)
    spread = _spread(torch.nan_to_num(advantages, nan=0.0), returns)
    return torch.where(torch.isnan(returns), torch.zeros_like(spread), spread)


def _nanstd(values: Tensor, dim: int | None = None) -> Tensor:
    from trl.trainer.utils import nanstd  # TRL's own function, to match its GRPO exactly

    return nanstd(values) if dim is None else nanstd(values, dim=dim)


def episode_advantages(
    rule: str,
    returns: Tensor,
    groups: Tensor,
    alive: Tensor | None = None,
    weights: Tensor | None = None,
    gamma: float = 1.0,
    scale_rewards: str = "group",
) -> Tensor:
    """Per-episode advantages under a rule; shape `(N, E)`, 0 for episodes that were not played.

    Args:
        rule: any of `RULES` except `gigpo`.
        returns: raw returns, shape `(N, E)`, NaN for episodes that were not played.
        groups: integers, shape `(N,)`.
        alive: bool, shape `(N,)`; None: all True.
        weights: weight of each episode, shape `(E,)`: 0 for free shots; None: all 1.
        gamma: discount from one episode to the next.
        scale_rewards: for rule `trial`: TRL's `group`, `batch` or `none`.
    """
    alive = torch.ones(len(returns), dtype=torch.bool, device=returns.device) if alive is None else alive
    weights = returns.new_ones(returns.shape[1]) if weights is None else weights.to(returns)
    if rule == "trial":
        return rule_trial(returns, groups, alive, weights, scale_rewards)
    if rule not in EPISODE_RULES:
        raise ConfigError(f"credit={rule!r} is not known: use one of {', '.join(RULES)}.")
    return EPISODE_RULES[rule](returns, groups, alive, weights, gamma)


# ---------------------------------------------------------------------- turns inside episodes


def turn_returns_to_go(turn_rewards: Tensor, weights: Tensor, gamma: float, gamma_step: float) -> Tensor:
    """Return-to-go at every turn, shape `(N, E, T)`; NaN where no turn was taken.

    `G[n, t] = sum_{t' >= t} gamma_step^(t'-t) * w[n] * r[n, t'] + gamma * G[n+1, 0]` (LaMer, arXiv:2512.16848; as in
    the paper, later episodes are not discounted by the remaining turns of this one).

    Args:
        turn_rewards: shape `(N, E, T)`, NaN where no turn was taken.
    """
    rewards = torch.nan_to_num(turn_rewards, nan=0.0) * weights[None, :, None]
    out = torch.zeros_like(rewards)
    later = torch.zeros_like(rewards[:, 0, 0])
    for n in reversed(range(rewards.shape[1])):
        running = torch.zeros_like(later)
        for t in reversed(range(rewards.shape[2])):
            running = rewards[:, n, t] + gamma_step * running
            out[:, n, t] = running + gamma * later
        later = out[:, n, 0].clone()
    return torch.where(torch.isnan(turn_rewards), torch.full_like(out, torch.nan), out)


def turn_advantages(
    turn_rewards: Tensor,
    groups: Tensor,
    alive: Tensor,
    weights: Tensor,
    gamma: float,
    gamma_step: float,
    anchors: Tensor | None = None,
    anchor_weight: float = 1.0,
) -> Tensor:
    """Per-turn advantages, shape `(N, E, T)`, 0 where no turn was taken.

    The baseline is the others' return-to-go at the START of the same episode index: a baseline per turn index would be
    biased, because the policy decides how many turns an episode has.

    Args:
        turn_rewards: shape `(N, E, T)`, NaN where no turn was taken.
        anchors: integers of the same shape, equal where trials of a group saw the same observation. If given, the rule
            is `gigpo` (arXiv:2505.10978), which adds `anchor_weight` times the return-to-go minus its mean over the
            other trials' turns at the same anchor, or nothing for anchors that no other trial shares.
    """
    togo = turn_returns_to_go(turn_rewards, weights, gamma, gamma_step)
    cells = alive[:, None, None] & ~torch.isnan(togo)
    start = torch.nan_to_num(togo[:, :, 0], nan=0.0)
    advantages = torch.nan_to_num(togo, nan=0.0) - leave_one_out(start, groups, alive)[:, :, None]
    if anchors is not None:
        advantages = advantages + anchor_weight * _anchor_advantages(togo, groups, cells, anchors)
    return batch_scale(advantages, cells)


def _anchor_advantages(togo: Tensor, groups: Tensor, cells: Tensor, anchors: Tensor) -> Tensor:
    """Return-to-go minus its mean over OTHER trials' turns with the same (group, anchor)."""
    out = torch.zeros_like(togo)
    trial = torch.arange(len(togo), device=togo.device)[:, None, None].expand_as(togo)[cells]
    keys = torch.stack([groups[:, None, None].expand_as(anchors)[cells], anchors[cells]])
    values = togo[cells]
    _, key = torch.unique(keys, dim=1, return_inverse=True)
    _, own = torch.unique(torch.stack([key, trial]), dim=1, return_inverse=True)

    def totals(index: Tensor) -> tuple[Tensor, Tensor]:
        size = int(index.max()) + 1
        ones = torch.ones_like(values)
        return (
            values.new_zeros(size).index_add_(0, index, values)[index],
            values.new_zeros(size).index_add_(0, index, ones)[index],
        )

    all_sum, all_count = totals(key)
    own_sum, own_count = totals(own)
    others = all_count - own_count
    out[cells] = torch.where(others > 0, values - (all_sum - own_sum) / others.clamp(min=1), torch.zeros_like(values))
    return out


# ---------------------------------------------------------------------- onto tokens


def paint(
    advantages: Tensor,
    episodes: Sequence[Sequence[int]],
    turns: Sequence[Sequence[int]],
    masks: Sequence[Sequence[int]],
    length: int,
) -> Tensor:
    """Broadcast advantages to the tokens of each row.

    Args:
        advantages: one entry per row: shape `(B, E)`, or `(B, E, T)` for per-turn advantages.
        episodes, turns, masks: episode index, turn index and env mask of each completion token, by row.
        length: padded completion length.

    Returns:
        Shape `(B, length)`; 0 at environment tokens and padding.
    """
    rows = len(episodes)
    episode = torch.from_numpy(_rectangle(episodes, length))
    mask = torch.from_numpy(_rectangle(masks, length)) > 0
    index = torch.arange(rows)[:, None]
    episode, mask, index = (x.to(advantages.device) for x in (episode, mask, index))
    if advantages.dim() == 3:
        turn = torch.from_numpy(_rectangle(turns, length)).to(advantages.device)
        painted = advantages[index, episode, turn.clamp(max=advantages.shape[2] - 1)]
    else:
        painted = advantages[index, episode]
    return torch.where(mask, painted, torch.zeros_like(painted))


def _rectangle(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Pad ragged integer lists with 0 on the right to a rectangular array."""
    out = np.zeros((len(rows), length), dtype=np.int64)
    sizes = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    flat = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64, count=int(sizes.sum()))
    out[np.arange(length)[None, :] < sizes[:, None]] = flat
    return out
