"""Contracts: types, call order, limits and silence of the interface."""

from __future__ import annotations

import contextlib
import io
import itertools
import math

from metarlgym.author_errors import error_text
from metarlgym.author_values import RewardError, checked_text
from metarlgym.contracts.subject import Subject, difference, ended, games, limit_of, mixed, play, replay, shorten
from metarlgym.datatypes import EpisodeOver, MetaRLGymError, Step
from metarlgym.env import Env


def interface(s: Subject) -> str | None:
    """`reset` returns (str, dict) and `step` a `Step` whose parts have the right types."""
    env = s.make()
    if not isinstance(env, Env):
        return f"is a {type(env).__name__}, no metarlgym.Env: subclass Env."
    try:
        checked_text(env.env_id, "rules() returned", env.rules())
    except MetaRLGymError as error:
        return error_text(error)
    start = env.reset(options={"task": s.tasks[0], "episode_seed": 0})
    if not (isinstance(start, tuple) and len(start) == 2 and type(start[0]) is str and type(start[1]) is dict):
        return f"reset() returned {shorten(start)}: on_reset must return a str."
    choose = mixed(s.rng("interface"), 0.0)
    for i in range(limit_of(env) or 20):
        try:
            step = env.step(choose(i, env) or "")
        except RewardError:  # reported by the rewards contract
            return None
        except MetaRLGymError as error:
            return error_text(error)
        if not isinstance(step, Step):
            return f"step() returned a {type(step).__name__}: on_step must return a metarlgym.Step."
        if type(step.observation) is not str:
            return f"step() gave an observation of type {type(step.observation).__name__}: it must be a str."
        if type(step.terminated) is not bool or type(step.truncated) is not bool:
            return f"terminated={step.terminated!r}, truncated={step.truncated!r}: both must be of type bool."
        if env.live == (step.terminated or step.truncated):
            return "env.live contradicts terminated and truncated: leave step() to Env."
        if not env.live:
            return None
    return None


def lifecycle(s: Subject) -> str | None:
    """`step` and `get_observation` raise before `reset`, `step` raises after the end."""
    env = s.make()
    if not env.live and env._observation is None:  # a given instance may already have been played
        for name, call in (("step()", lambda: env.step("")), ("get_observation()", env.get_observation)):
            with contextlib.suppress(EpisodeOver):
                call()
                return f"{name} before reset() does not raise EpisodeOver: leave step() and get_observation() to Env."
    for env, _, log in games(s):
        if ended(log):
            with contextlib.suppress(EpisodeOver):
                env.step("")
                return "step() after the end does not raise EpisodeOver: leave step() to Env."
    return None


def observation(s: Subject) -> str | None:
    """`get_observation` returns the last text and has no side effects."""
    for i, task in enumerate(s.tasks):
        script, env = s.script(i, task), s.make()
        seen: list[str] = []

        def observe(env: Env = env, seen: list[str] = seen) -> None:
            env.get_observation()
            seen.append(env.get_observation())

        log = play(env, task, i, replay(script), observe)
        observe()
        if seen != [entry[1] for entry in log]:
            return "get_observation() is not the text that reset() or step() returned last: leave it to Env."
        if found := difference(play(s.make(), task, i, replay(script)), log):
            return f"reading get_observation() changes the game ({found}): reading must change nothing."
    return None


def rewards(s: Subject) -> str | None:
    """Every reward is a finite float inside `reward_range`."""
    try:
        for env, _, log in games(s, 0.0):
            low, high = env.reward_range
            for _, _, reward, *_ in log[1:]:
                if not isinstance(reward, float) or not math.isfinite(reward) or not low <= reward <= high:
                    return (
                        f"reward {reward!r} of type {type(reward).__name__} is not a finite float inside "
                        f"reward_range={env.reward_range}: return a float, or widen reward_range."
                    )
    except MetaRLGymError as error:
        return error_text(error)
    return None


def info(s: Subject) -> str | None:
    """`valid` and `success` are in `info` on every step, as bools; a success persists in `result()`."""
    for env, _, log in games(s):
        for entry in log[1:]:
            for key in ("valid", "success"):
                if type(entry[5].get(key)) is not bool:
                    return f"info[{key!r}]={entry[5].get(key)!r} must be True or False on every step."
        if env.success != any(entry[5]["success"] for entry in log[1:]):
            return "env.success contradicts info['success'] of the steps: leave step() to Env."
    return None


def gymnasium_api(s: Subject) -> str | None:
    """gymnasium's own `check_env` passes."""
    from gymnasium.utils.env_checker import check_env

    try:
        check_env(s.make(), skip_render_check=True)
    except Exception as error:  # it raises many kinds of errors
        return f"gymnasium's check_env says: {shorten(error_text(error), 200)}"
    return None


def turn_limit(s: Subject) -> str | None:
    """No game has more than `max_turns` actions, and none is truncated earlier."""
    limit = limit_of(s.make())
    if limit is not None and (type(limit) is not int or limit < 1):
        return f"max_turns={limit!r} must be a whole number of at least 1, or None."
    players = [lambda i: mixed(s.rng("turns", i), 0.0), lambda i: mixed(s.rng("turns", i), 1.0)]
    for player, (i, here) in itertools.product(players, enumerate(s.tasks)):
        env = s.make()
        log = play(env, here, i, player(i))
        taken = len(log) - 1
        if limit_of(env) != limit:
            return f"max_turns changes from {limit} to {limit_of(env)} in a game: set it in the constructor."
        if limit is not None and (taken > limit or (taken == limit and env.live)):
            return f"a game continues after max_turns={limit} actions: leave step() to Env."
        if log[-1][4] and taken != limit:
            return f"truncated after {taken} actions where max_turns={limit}: use terminated, or state the limit."
    return None


def silent(s: Subject) -> str | None:
    """Nothing is printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for env, _, _ in games(s):
            for call in (env.get_observation, env.rules, env.result, env.close):
                call()
    printed = out.getvalue() + err.getvalue()
    return f"prints {shorten(printed)!r}: take the print out." if printed else None
