"""The results of the gist-tokens experiment in words, including negative ones."""

from __future__ import annotations

from typing import Any


def reading(summary: dict[str, Any]) -> str:
    """A paragraph based only on the summary's figures.

    Args:
        summary: the figures that `summarise` has so far.
    """
    return " ".join([*_phase_a(summary), *_phase_b(summary)])


def _phase_a(summary: dict[str, Any]) -> list[str]:
    losses, none, free = (summary[name] for name in ("loss_by_gist_tokens", "no_gist", "no_bottleneck"))
    found = []
    if losses:
        falls = [b < a for a, b in zip(list(losses.values())[:-1], list(losses.values())[1:])]
        course = "falls with every further gist" if all(falls) else "does not fall with every further gist"
        values = ", ".join(f"{loss:.3f} ({k})" for k, loss in losses.items())
        found.append(f"Loss on chunk 2 by number of gists {course}: {values} nats a symbol.")
    if summary["gap_closed"]:
        best, share = max(summary["gap_closed"].items(), key=lambda item: item[1])
        found.append(
            f"Without gists it is {none:.3f}, without the bottleneck {free:.3f}: {best} gists close {share:.0%} of "
            "that gap."
        )
    if free is not None:
        exact = summary["exact"]["full_context"]
        found.append(f"The model without the bottleneck is itself {free - exact:.3f} above the exact {exact:.3f}.")
    if summary["leak_max_abs"] is not None:
        passes = (
            "nothing passes beside the gists" if summary["leak_max_abs"] == 0 else "SOMETHING PASSES BESIDE THE GISTS"
        )
        found.append(
            f"Largest gradient from chunk 2 to chunk 1 with gists cut off: {summary['leak_max_abs']:g}, {passes}."
        )
    return found


def _phase_b(summary: dict[str, Any]) -> list[str]:
    spaces, budget = summary["space"], summary["budget"]
    found = []
    if summary["harder_space"] is not None:
        steps = {name: _step(spaces[name]["median_hack_step"], budget) for name in ("frozen", "token")}
        verdict = {
            "gist": "gist space was harder to hack",
            "token": "token space was harder to hack",
            "neither": "neither space was harder to hack in all seeds",
        }[summary["harder_space"]]
        found.append(
            f"Median hack step {steps['frozen']} in gist space (frozen encoder) and {steps['token']} in token space: "
            f"{verdict}."
        )
    if "noise" in spaces:
        drift = spaces["noise"]["loss_ratio_end"] - 1
        when = ", ".join("never" if step is None else f"{step}" for step in spaces["noise"]["data_side_step"])
        found.append(
            f"Random scores alone change the true loss by {drift:+.1%} within the budget (5% worse at step {when}): at "
            "this step size part of any harm may be the update's noise and not the score's."
        )
    spaces = {name: each for name, each in spaces.items() if name != "noise"}
    better = [name for name, each in spaces.items() if each["loss_ratio_best"] < 0.99]
    if spaces and not better:
        found.append("No variant lowered the true loss by 1% at any check: nothing was learned.")
    elif better:
        named = ", ".join(f"{name} ({1 - spaces[name]['loss_ratio_best']:.1%})" for name in better)
        found.append(f"True loss was lower than at the start, at its best, in: {named}.")
    for name, each in spaces.items():
        found.extend(_arm(name, each))
    return found


def _arm(name: str, each: dict[str, Any]) -> list[str]:
    found = []
    r, rise = each["correlation"], each["score_end"] - each["score_start"]
    if r is not None:
        found.append(
            f"{name}: own and true loss correlate with r = {each['correlation_from_start']:.2f} in their change since "
            f"the start, {r:.2f} from check to check."
        )
    if rise <= 0:
        found.append(f"{name}: the score did not rise ({each['score_start']:.3f} to {each['score_end']:.3f}).")
    elif each["gist_score_gain"] < 0.5 * rise:
        gain = each["gist_score_gain"]
        found.append(f"{name}: the score rose by {rise:.3f}, that under the gist encoder of the start by {gain:.3f}.")
    alike = each["state_alike_end"] - each["state_alike_start"]
    if each["state_std_end"] < 0.5 or alike > 0.1:
        found.append(
            f"{name}: gist states collapse: unrelated chunks score {each['state_alike_end']:.2f} "
            f"(from {each['state_alike_start']:.2f}), deviation {each['state_std_end']:.2f} of the start."
        )
    return found


def _step(step: float, budget: int) -> str:
    return f"{step:g}" if step < budget else f"{budget} or more (the budget)"
