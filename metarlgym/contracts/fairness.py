"""Contracts: breaking the rules never pays, and nothing leaks the hidden task."""

from __future__ import annotations

import itertools
import math
from typing import Any

from metarlgym.contracts.leaks import public_state, revealed
from metarlgym.contracts.subject import (
    JUNK,
    UNLIMITED,
    Log,
    Subject,
    always,
    defines,
    difference,
    ended,
    games,
    mixed,
    play,
    replay,
    shorten,
)


def junk(s: Subject) -> str | None:
    """Junk actions do not raise, and breaking the rules never pays."""
    best_step, best_game = -math.inf, -math.inf
    for env, _, log in games(s, 0.0):
        if defines(env, "random_action"):
            best_step = max([best_step, *(e[2] for e in log[1:] if e[5].get("valid"))])
            best_game = max(best_game, sum(e[2] for e in log))
    step_bound = min(0.0, best_step) if best_step > -math.inf else 0.0
    game_bound = min(0.0, best_game) if best_game > -math.inf else 0.0
    for style, action in itertools.product(s.styles, JUNK):
        for i, here in enumerate(s.tasks[:2]):
            env, log = s.make(style), []
            try:
                log = play(env, here, i, always(action))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # the fault being tested for
                return f"action {shorten(action)!r} raises {type(error).__name__}: answer it with valid=False."
            if not all(isinstance(e[2], float) for e in log[1:]):
                return f"action {shorten(action)!r} pays {log[-1][2]!r}: every reward must be a float."
            broken = [e for e in log[1:] if not e[5].get("valid", True)]
            if any(e[2] > step_bound for e in broken):
                worst = max(e[2] for e in broken)
                return f"invalid action {shorten(action)!r} pays {worst:g}: give at most {step_bound:g}."
            if len(broken) == len(log) - 1 and (env.success or sum(e[2] for e in broken) > game_bound):
                return f"a game of invalid actions {shorten(action)!r} is a success or pays: it must do neither."
    for _, _, log in games(s, 0.5):
        for action, _, reward, _, _, about in log[1:]:
            if not about.get("valid", True) and reward > step_bound:
                return f"invalid action {shorten(action)!r} pays {reward:g} in mid-game: give at most {step_bound:g}."
    return None


def secret_text(s: Subject) -> str | None:
    """No text leaks the task: not the first, not the responses to invalid actions, not the end of a lost game."""
    env = s.make()
    if env.visible_task:
        return None
    hint = "do not show the task, or set visible_task = True where it is meant to be seen."
    for style in s.styles:
        texts: list[tuple[Any, str, Any, str]] = []
        last_texts: list[bool] = []
        for i, (one, two) in enumerate(s.pairs):
            env, other = s.make(style), s.make(style)
            for action in JUNK[i % len(JUNK)], JUNK[0]:
                a, b = play(env, one, i, always(action)), play(other, two, i, always(action))
                if a[0] != b[0]:
                    return f"the first text or info depends on the task ({difference(a[:1], b[:1])}): {hint}"
                if not any(e[5].get("valid", True) for e in a[1:] + b[1:]) and (found := difference(a, b)):
                    return f"a game of invalid actions depends on the task ({found}): {hint}"
            a = play(env, one, i, mixed(s.rng("secret", i), 0.0))
            b = play(other, two, i, replay([e[0] for e in a[1:]]))
            if ended(a) and ended(b) and not env.success and not other.success:
                texts.append((one.params, _all_text(a), two.params, _all_text(b)))
            if defines(env, "random_action") and len(a) > 1:
                a, b = play(env, one, i, always(a[1][0])), play(other, two, i, always(a[1][0]))
                lost = ended(a) and ended(b) and not env.success and not other.success
                if lost and len(a) == len(b) > 2 and a[:-1] == b[:-1]:
                    last_texts.append(a[-1][1] != b[-1][1])
        if place := revealed(texts):
            return f"the texts of a lost game reveal {place}: a lost episode must not reveal the secret."
        if len(last_texts) >= 4 and all(last_texts):
            return "the last text of a lost game always depends on the task: a lost episode must not reveal the secret."
    return None


def _all_text(log: Log) -> str:
    return "\n".join(entry[1] for entry in log)


def secret_info(s: Subject) -> str | None:
    """`info` contains no task parameter."""
    if s.make().visible_task:
        return None
    seen: list[tuple[Any, str, Any, str]] = []
    for i, (one, two) in enumerate(s.pairs):
        a = play(s.make(), one, i, mixed(s.rng("info", i), 0.0))
        b = play(s.make(), two, i, replay([entry[0] for entry in a[1:]]))
        for here, log in ((one, a), (two, b)):
            for entry in log:
                for key, value in entry[5].items():
                    if value == here.params and value not in (None, True, False, 0, 1):
                        return f"info[{key!r}] holds the task's parameters: take it out."
                    if isinstance(here.params, dict) and key in here.params and value == here.params[key]:
                        return f"info[{key!r}] holds the task's parameter of that name: take it out."
        seen.append((one.params, _all_info(a), two.params, _all_info(b)))
    place = revealed(seen)
    return f"info reveals {place}: take it out." if place else None


def _all_info(log: Log) -> str:
    return "\n".join(str({k: v for k, v in e[5].items() if k not in ("valid", "success", "episode")}) for e in log)


def secret_state(s: Subject) -> str | None:
    """Public attributes, `repr` and `rules()` do not depend on the task."""
    for i, (one, two) in enumerate(s.pairs[:4]):
        for actions in [], ["junk"] * UNLIMITED:
            env, other = s.make(), s.make()
            before = env.rules()
            a, b = play(env, one, i, replay(actions)), play(other, two, i, replay(actions))
            if env.rules() != before:
                return "rules() changes when an episode begins: it must be the same before and after."
            if actions and any(entry[5].get("valid", True) for entry in a[1:] + b[1:]):
                continue
            mine, its = public_state(env), public_state(other)
            for name in mine.keys() | its.keys():
                if mine.get(name) != its.get(name):
                    return f"{name} depends on the hidden task: begin its name with an underscore, keep it out of repr."
    return None
