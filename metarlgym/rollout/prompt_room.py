"""Room for an action: checks and messages for contexts too short for a task group's prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from metarlgym.datatypes import ConfigError, MetaTrajectory, StopReason
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.render import Renderer
from metarlgym.rollout.reply import shortest_reply
from metarlgym.rollout.session import Session
from metarlgym.seeding import derive
from metarlgym.tasks import TaskGroup
from metarlgym.trial import Trial

Rooms = Mapping[str, int | None]
"""Context length in tokens by the name of its limit; None for no limit."""


def stuck(trajectories: Sequence[MetaTrajectory]) -> int | None:
    """Length in tokens of the longest prompt if no trial could act and at least one had no room; else None."""
    if any(t.turns for t in trajectories):
        return None
    prompts = [t.rows[0].prompt_len for t in trajectories if t.stop is StopReason.CONTEXT_LIMIT and t.rows]
    return max(prompts, default=None)


def no_room(prompt: int, action: int, rooms: Rooms) -> str:
    """One line with the numbers and what to change.

    Args:
        prompt: tokens of the longest prompt.
        action: tokens of the shortest action.
        rooms: the limits on the context.
    """
    known = {name: room for name, room in rooms.items() if room}
    needed = prompt + action + 1
    named = ", ".join(f"{name} {room}" for name, room in known.items()) or "unknown"
    text = (
        f"no trial has room to act: the longest prompt has {prompt} tokens and needs {action + 1} more for an action "
        f"and an end token; a context holds {min(known.values(), default=0)} ({named})."
    )
    short = [name for name, room in known.items() if room < needed]
    if short == ["max_context_tokens"]:
        return f"{text} Set max_context_tokens to at least {needed}, and better to what whole trials need."
    return f"{text} Raise it, take a model with more positions, or give the tasks shorter texts."


def check_room(
    group: TaskGroup, make_trial: Callable[[], Trial], renderer: Renderer, rooms: Rooms, openings: int = 8
) -> None:
    """Check on a few tasks that the prompts are not too long.

    Raises:
        ConfigError: none of them leaves room for an action.
    """
    room = min((room for room in rooms.values() if room), default=None)
    if room is None:
        return
    action = shortest_reply(renderer)
    prompts = list(_prompts(group, make_trial, renderer, openings, room - action - 1))
    if prompts and min(prompts) + action + 1 > room:
        raise ConfigError(no_room(max(prompts), action, rooms))


def _prompts(
    group: TaskGroup, make_trial: Callable[[], Trial], renderer: Renderer, count: int, enough: int
) -> Iterable[int]:
    """Lengths of first prompts, up to and including the first of at most `enough` tokens."""
    for i in range(count):
        session = Session(make_trial(), group.task(i), derive("room", i), ("room", i), renderer, Limits())
        request = session.begin()
        if request is None:
            continue  # a failing environment is reported when it is played
        yield len(request.ids)
        if len(request.ids) <= enough:
            return
