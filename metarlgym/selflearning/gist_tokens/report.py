"""`summary.json` of the gist-tokens experiment: capacity of k gists, and the space whose score is harder to hack."""

from __future__ import annotations

import math
from statistics import fmean, median
from typing import Any

from metarlgym.selflearning.gist_tokens.config import Config
from metarlgym.selflearning.gist_tokens.verdicts import correlation

Results = dict[str, dict[str, Any]]


def summarize(config: Config, results: Results) -> dict[str, Any]:
    """The summary of the available variants.

    Returns:
        Phase A: `loss_by_gist_tokens`, `no_bottleneck`, `no_gist`, `exact`: loss on chunk 2 in nats per symbol, means
        over seeds; `bits_kept`: bits of chunk 1 that benefit chunk 2; `bits_per_gist`; `gap_closed`: fraction of the
        gap between `no_gist` and `no_bottleneck`; `leak_max_abs`, `gradient_max_abs`; `loss_by_seed`. Phase B: `space`,
        by variant, and `harder_space`: `gist` (scored by the frozen encoder), `token`, or `neither`. Also
        `table`. Figures whose variants are missing are None.
    """
    found = _phase_a(config, results)
    spaces = {space: _space(config, results, space) for space in config.spaces}
    found["space"] = {space: each for space, each in spaces.items() if each["hack_step"]}
    found["budget"] = config.space_steps
    found["harder_space"] = _harder(found["space"])
    found["table"] = [
        {
            "space": space,
            "hack step": each["hack_step"],
            "true loss +5% at": each["data_side_step"],
            "score, start and end": [each["score_start"], each["score_end"]],
            "true loss over start, end": each["loss_ratio_end"],
            "deviation of gist states over start, end": each["state_std_end"],
            "score of unrelated chunks, start and end": [each["state_alike_start"], each["state_alike_end"]],
            "r(own loss, true loss), check to check": each["correlation"],
            "since the start": each["correlation_from_start"],
        }
        for space, each in found["space"].items()
    ]
    return found


def _phase_a(config: Config, results: Results) -> dict[str, Any]:
    variants = [each for each in results.values() if "view" in each]
    by_view: dict[str, list[float]] = {}
    for each in variants:
        name = str(each["gists"]) if each["view"] == "gist" else each["view"]
        by_view.setdefault(name, []).append(round(each["loss"], 5))
    mean = {name: round(fmean(losses), 5) for name, losses in by_view.items()}
    gists = {str(k): mean[str(k)] for k in config.gists if str(k) in mean}
    none, free = mean.get("no_gist"), mean.get("no_bottleneck")
    bits = {} if none is None else {k: (none - loss) * config.n2 / math.log(2) for k, loss in gists.items()}
    closed = {}
    if none is not None and free is not None and none != free:
        closed = {k: round((none - loss) / (none - free), 4) for k, loss in gists.items()}
    leaks = [each["leak_max_abs"] for each in variants if each["view"] != "no_bottleneck"]
    wholes = [each["gradient_max_abs"] for each in variants if each["view"] == "gist"]
    return {
        "loss_by_gist_tokens": gists,
        "no_bottleneck": free,
        "no_gist": none,
        "exact": {name: round(value, 5) for name, value in variants[0]["exact"].items()} if variants else None,
        "bits_kept": {k: round(value, 3) for k, value in bits.items()},
        "bits_per_gist": {k: round(value / int(k), 3) for k, value in bits.items()},
        "gap_closed": closed,
        "leak_max_abs": max(leaks, default=None),
        "gradient_max_abs": min(wholes, default=None),
        "loss_by_seed": by_view,
        "loss_se": round(max((each["loss_se"] for each in variants), default=math.nan), 5) if variants else None,
    }


def _space(config: Config, results: Results, space: str) -> dict[str, Any]:
    runs = [each for each in results.values() if each.get("space") == space]
    runs.sort(key=lambda each: each["seed"])
    checks = [each["checks"] for each in runs]

    def ends(name: str, place: int) -> list[float]:
        return [each[place][name] for each in checks]

    hacks = [each["hack_step"] for each in runs]
    losses = [[check["true_loss"] / each[0]["true_loss"] for check in each] for each in checks]
    return {
        "hack_step": hacks,
        "data_side_step": [each["data_side_step"] for each in runs],
        # Runs that were not hacked count as the budget, which is a lower bound.
        "median_hack_step": median([config.space_steps if step is None else step for step in hacks]) if hacks else None,
        "correlation": correlation(checks) if checks else None,
        "correlation_from_start": correlation(checks, from_start=True) if checks else None,
        "score_start": _mean(ends("score", 0)),
        "score_end": _mean(ends("score", -1)),
        "gist_score_gain": _mean([b - a for a, b in zip(ends("gist_score", 0), ends("gist_score", -1))]),
        "token_score_gain": _mean([b - a for a, b in zip(ends("token_score", 0), ends("token_score", -1))]),
        "loss_start": _mean(ends("true_loss", 0)),
        "loss_ratio_best": _mean([min(each) for each in losses]),
        "loss_ratio_end": _mean([each[-1] for each in losses]),
        "entropy_end": _mean(ends("entropy", -1)),
        "bigrams_end": _mean(ends("bigrams", -1)),
        "likelihood_end": _mean(ends("likelihood", -1)),
        "state_std_end": _mean(ends("state_std", -1)),
        "state_alike_start": _mean(ends("state_alike", 0)),
        "state_alike_end": _mean(ends("state_alike", -1)),
    }


def _mean(values: list[float]) -> float | None:
    return round(fmean(values), 4) if values else None


def _harder(spaces: dict[str, dict[str, Any]]) -> str | None:
    """The harder space if all seeds agree, else `neither`. Both scorers are fixed, so they differ only in the space."""
    if not {"token", "frozen"} <= set(spaces):
        return None
    never = math.inf
    token, gist = (
        [never if step is None else step for step in spaces[name]["hack_step"]] for name in ("token", "frozen")
    )
    return "gist" if min(gist) > max(token) else "token" if min(token) > max(gist) else "neither"
