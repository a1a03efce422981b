"""Contracts: optional methods, and the cost of construction."""

from __future__ import annotations

import copy
import itertools
import math
import random
import warnings
from collections.abc import Callable, Sequence
from time import perf_counter

from metarlgym.contracts.subject import Subject, defines, difference, inner, limit_of, mixed, play, replay, shorten
from metarlgym.datatypes import Optimum
from metarlgym.env import Env
from metarlgym.trial import Trial, TrialSettings

SLOW = 0.05
"""Seconds that construction and reset may take before a warning."""


def styles(s: Subject) -> str | None:
    """Both styles run and give equal rewards for equal actions; terse actions have `action_words` words."""
    if None in s.styles:
        return None
    for i, here in enumerate([*s.tasks] * 4):
        chat, terse = s.make("chat"), s.make("terse")
        a = play(chat, here, i, mixed(s.rng("style", i), 0.1))
        b = play(terse, here, i, replay([entry[0] for entry in a[1:]]))
        if found := difference([(e[0], "", *e[2:5], {}) for e in a], [(e[0], "", *e[2:5], {}) for e in b]):
            return f"chat and terse differ in more than text ({found}): rules and rewards must be the same."
        if terse.action_words and defines(terse, "random_action"):
            for entry in play(terse, here, i, mixed(s.rng("style", i), 0.0))[1:]:
                if len(entry[0].split()) != terse.action_words:
                    return f"terse action {entry[0]!r} does not have action_words={terse.action_words} words: fix one."
    return None


def random_action(s: Subject) -> str | None:
    """`random_action` is always valid, depends only on `rng`, and has no side effects."""
    if not defines(s.make(), "random_action"):
        return None
    for style, (i, here) in itertools.product(s.styles, enumerate(s.tasks)):
        rng = s.rng("random", i)

        def choose(_: int, env: Env, rng: random.Random = rng) -> str:
            twin = copy.deepcopy(rng)
            action = env.random_action(rng)
            if env.random_action(twin) != action or twin.getstate() != rng.getstate():
                raise ValueError("random_action() depends on more than its rng: draw everything from rng.")
            return action

        try:
            log = play(s.make(style), here, i, choose)
        except ValueError as error:
            return str(error)
        for entry in log[1:]:
            if not isinstance(entry[0], str) or not entry[5].get("valid"):
                return f"random_action() returned {shorten(entry[0])!r}, which is invalid: return a legal action."
        if found := difference(log, play(s.make(style), here, i, replay([entry[0] for entry in log[1:]]))):
            return f"calling random_action() changes the game ({found}): it must change nothing."
    return None


def list_problem(legal: object, drawn: object = None) -> str | None:
    """What is wrong with a value of `legal_actions()`, and the fix; None if nothing is.

    Args:
        legal: the value.
        drawn: what `random_action()` returned in the same state; None if it is not defined.
    """
    if legal is None:
        return None
    listed = isinstance(legal, Sequence) and not isinstance(legal, str)
    actions = list(legal) if listed and isinstance(legal, Sequence) else []
    if not actions or not all(isinstance(action, str) and action for action in actions) or repeated(actions):
        return f"legal_actions() returned {shorten(legal)!r}: return a list of texts with each action once, or None."
    if drawn is not None and drawn not in actions:
        return (
            f"random_action() returned {shorten(drawn)!r}, which legal_actions() lacks: list every legal action "
            "exactly as random_action writes it."
        )
    return None


def repeated(values: Sequence[object]) -> bool:
    return len(set(values)) < len(values)


def legal_actions(s: Subject) -> str | None:
    """`legal_actions`, if defined, lists valid actions only, those of `random_action` included, and changes nothing."""
    if not defines(s.make(), "legal_actions"):
        return None
    for style, (i, here) in itertools.product(s.styles, enumerate(s.tasks)):
        rng = s.rng("legal", i)

        listed: list[bool] = []

        def choose(_: int, env: Env, rng: random.Random = rng, listed: list[bool] = listed) -> str:
            legal = env.legal_actions()
            drawn = env.random_action(rng) if defines(env, "random_action") else None
            listed.append(legal is not None)
            if legal is None:
                return drawn or ""
            if found := list_problem(legal, drawn):
                raise ValueError(found)
            return rng.choice(legal)

        try:
            log = play(s.make(style), here, i, choose)
        except ValueError as error:
            return str(error)
        for entry, checked in zip(log[1:], listed, strict=False):
            if checked and not entry[5].get("valid"):
                return f"legal_actions() lists {shorten(entry[0])!r}, which is invalid: list legal actions only."
        if found := difference(log, play(s.make(style), here, i, replay([entry[0] for entry in log[1:]]))):
            return f"calling legal_actions() changes the game ({found}): it must change nothing."
    return None


def oracle(s: Subject) -> str | None:
    """`oracle`, if defined, plays valid actions and starts the same way on every task."""
    if not defines(s.make(), "oracle"):
        return None

    def trial_of(style: str | None) -> Trial:
        env = s.make(style)
        return env if isinstance(env, Trial) else TrialSettings(s.episodes).make(env)

    for style, (i, here) in itertools.product(s.styles, enumerate(s.tasks)):
        trial = trial_of(style)
        log = play(trial, here, i, lambda _, env: env.oracle(env.history))  # type: ignore[attr-defined]
        for entry in log[1:]:
            if not entry[5]["valid"]:
                return f"oracle() played {shorten(entry[0])!r}, which is invalid: return a legal action."
    for i, (one, two) in enumerate(s.pairs):
        a, b = trial_of(None), trial_of(None)
        first = a.reset(options={"task": one, "episode_seed": i}), b.reset(options={"task": two, "episode_seed": i})
        if first[0] == first[1] and a.oracle(a.history) != b.oracle(b.history):
            return "oracle() knows the task before it has seen anything: use the history only."
    return None


def optimum(s: Subject) -> str | None:
    """`optimal_returns` is consistent: shapes, sums, bounds, and no lower than the result of a weaker player."""
    env = s.make()
    if not defines(env, "optimal_returns"):
        return None
    found: dict[tuple[int, int], Optimum] = {}
    for episodes, free in sorted({(1, 0), (s.episodes, 0), (s.episodes, s.episodes - 1)}):
        best = found[episodes, free] = env.optimal_returns(episodes, free)
        call = f"optimal_returns({episodes}, {free})"
        if not isinstance(best, Optimum) or best.kind not in ("exact", "simulated", "upper_bound", "none"):
            return f"{call} returned {shorten(best)}: return an Optimum of a known kind."
        if (best.kind == "none") != (best.total is None) or (best.total is None and best.curve is not None):
            return f"{call} has kind {best.kind!r} and total {best.total}: only kind 'none' has no total."
        if best.lower is not None and best.kind != "upper_bound":
            return f"{call} has lower={best.lower} and kind {best.kind!r}: a lower bound belongs to kind 'upper_bound'."
        if best.total is None:
            continue
        if best.lower is not None and not best.lower <= best.total + 1e-6 + 5 * (best.lower_se or 0.0):
            return f"{call} has lower={best.lower} above its upper bound {best.total}."
        low, high = env.reward_range
        turns = limit_of(inner(env)) or math.inf
        least, most = (min(0.0, low) * turns if low < 0 else 0.0), (high * turns if high > 0 else 0.0)
        values = [best.total / (episodes - free), *(best.curve or ())]
        if not all(math.isfinite(v) and least - 1e-9 <= v <= most + 1e-9 for v in values):
            return f"{call} has {shorten(values)}, outside the possible {least:g} to {most:g} an episode."
        if best.curve is not None and len(best.curve) != episodes:
            return f"{call} has a curve of length {len(best.curve)}: give one value for each episode."
        if best.curve is not None and abs(sum(best.curve[free:]) - best.total) > 1e-6 * max(1.0, abs(best.total)):
            return f"{call} has total {best.total}, its curve sums to {sum(best.curve[free:])}: they must agree."
    one, whole, last = found[1, 0], found[s.episodes, 0], found[s.episodes, s.episodes - 1]
    slack = 1e-6 + 5 * sum(best.se or 0.0 for best in found.values())
    bound = env.no_memory_bound(s.episodes) if defines(env, "no_memory_bound") else None
    if whole.total is not None:
        if bound is not None and whole.total < bound - slack:
            return f"the optimum {whole.total} is below no_memory_bound {bound}: a learner can ignore its memory."
        if one.total is not None and env.reward_range[0] >= 0 and whole.total < one.total - slack:
            return f"the optimum of {s.episodes} episodes {whole.total} is below that of one, {one.total}."
        final = whole.curve[-1] if whole.curve and "upper_bound" not in (whole.kind, last.kind) else -math.inf
        if last.total is not None and last.total < final - slack:
            return f"with free shots the last episode is worth {last.total}, below {final} without them."
    return None


def measured(call: Callable[[], object], repeat: int = 3) -> float:
    """Runtime in seconds of the fastest of a few calls."""
    best = float("inf")
    for _ in range(repeat):
        start = perf_counter()
        call()
        best = min(best, perf_counter() - start)
    return best


def cheap(s: Subject) -> str | None:
    """Construction and reset take less than 50 ms; a slower environment gets a warning and still passes."""
    seconds = measured(lambda: s.make().reset(options={"task": s.tasks[0], "episode_seed": 0}))
    if seconds > SLOW:
        warnings.warn(f"{s.name}: constructor and reset take {1000 * seconds:.0f} ms.", stacklevel=2)
    return None
