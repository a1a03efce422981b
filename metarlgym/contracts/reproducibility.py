"""Contracts: tasks are values, and the same seeds give the same game everywhere."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from metarlgym.author_errors import error_line
from metarlgym.contracts.subject import (
    UNLIMITED,
    Subject,
    defines,
    difference,
    disturb,
    global_state,
    go_on,
    inner,
    limit_of,
    mixed,
    play,
    replay,
    shorten,
)
from metarlgym.contracts.subprocesses import transcripts, transcripts_elsewhere
from metarlgym.datatypes import Task
from metarlgym.env import Env
from metarlgym.trial import Trial, TrialSettings

MAX_TASKS = 100_000
"""Families with more tasks than this are not enumerated."""
MAX_UNIFORM = 2_000
"""Families with more tasks than this are not tested for equal probabilities."""
DRAWS = 50
"""Draws for each task of such a family."""


def task_json(s: Subject) -> str | None:
    """The parameters returned by `sample_task` are JSON, and a task survives the round trip with its key."""
    env = s.make()
    for i in range(s.trials):
        params = env.sample_task(s.rng("json", i))
        try:
            text = json.dumps(params, allow_nan=False)
        except (TypeError, ValueError) as error:
            return f"task parameters {shorten(params)} are no JSON ({error}): use dict, list, str, numbers, bool."
        here = Task(env.env_id, params)
        again = Task.from_json(here.to_json())
        if json.loads(text) != params or again != here or again.key != here.key:
            return f"task parameters {shorten(params)} change on a round trip by JSON: use lists and str keys."
    return None


def task(s: Subject) -> str | None:
    """`sample_task` is a pure function of `rng`; playing leaves a task unchanged, and one from JSON plays the same."""
    env = s.make()
    for i, here in enumerate(s.tasks):
        text, again = json.dumps(here.params), Task.from_json(here.to_json())
        fresh = s.make().new_task("check", s.seed, i)
        if fresh != here or env.new_task("check", s.seed, i) != here:
            return "sample_task() depends on more than its rng: draw everything from rng, change nothing on self."
        script = s.script(i, here)
        log = play(s.make(), here, i, replay(script))
        play(env, here, i, replay(script))
        if json.loads(text) != here.params:
            return "playing changes the task's parameters: copy what on_reset keeps and changes."
        if env.new_task("check", s.seed, i) != here:
            return "sample_task() depends on the game played before: draw everything from rng."
        if found := difference(log, play(s.make(), again, i, replay(script))):
            return f"a task from JSON plays otherwise ({found}): do not depend on the type or order of parameters."
    return None


def all_tasks(s: Subject) -> str | None:
    """`all_tasks`, if given, contains every task that can be drawn, without duplicates."""
    env = s.make()
    everything = env.all_tasks()
    if everything is None:
        if env.split == "content":
            return "split='content' needs all_tasks(): define it, or use split='trial'."
        return None
    params = list(itertools.islice(everything, MAX_TASKS + 1))
    if len(params) > MAX_TASKS:
        return None
    keys = {Task(env.env_id, p).key for p in params}
    if len(keys) < len(params):
        return f"all_tasks() lists {len(params) - len(keys)} tasks twice: list each once."
    for i in range(10 * s.trials):
        if (drawn := env.new_task("all", s.seed, i)).key not in keys:
            return f"all_tasks() lacks {shorten(drawn.params)}, which sample_task() draws: list every task."
    return _unequal(s, env, len(params)) if env.uniform_tasks else None


def _unequal(s: Subject, env: Env, size: int) -> str | None:
    """Whether some task is drawn far more or less often than the others, for families that promise otherwise."""
    if size > MAX_UNIFORM:
        return None
    counts = Counter(env.new_task("uniform", s.seed, i).key for i in range(DRAWS * size))
    # Six standard deviations: a fair family fails once in 10^8 checks.
    worst = max(abs(count - DRAWS) for count in (*counts.values(), *([0] if len(counts) < size else [])))
    if worst > 6 * math.sqrt(DRAWS):
        return (
            f"uniform_tasks is True, but in {DRAWS * size} draws from {size} tasks the count of one is off by {worst}: "
            "leave uniform_tasks out."
        )
    return None


def global_rng(s: Subject) -> str | None:
    """No call touches a global random number generator."""

    def calls() -> Iterator[tuple[str, Callable[[], object]]]:
        env = s.make()
        yield "the constructor", s.make
        yield "sample_task()", lambda: env.sample_task(s.rng("global"))
        yield "all_tasks()", lambda: list(itertools.islice(env.all_tasks() or (), 1000))
        yield "rules()", env.rules
        yield "optimal_returns()", lambda: env.optimal_returns(s.episodes)
        for i, here in enumerate(s.tasks):
            yield "on_reset()", partial(env.reset, options={"task": here, "episode_seed": i})
            if defines(env, "random_action"):
                yield "random_action()", partial(env.random_action, s.rng("global", i))
            choose = mixed(s.rng("global", i), 0.2)
            for turn in range(limit_of(env) or 20):
                if env.live:
                    yield "on_step()", partial(env.step, choose(turn, env) or "")
        if defines(env, "oracle"):
            trial = env if isinstance(env, Trial) else TrialSettings(s.episodes).make(env)
            trial.reset(options={"task": s.tasks[0], "episode_seed": 0})
            yield "oracle()", lambda: trial.oracle(trial.history)

    for name, call in calls():
        before = global_state()
        call()
        after = global_state()
        for module, state in after.items():
            if module in before and state != before[module]:
                return f"{name} uses the global generator of {module}: draw from the rng that is handed in."
    return None


def deterministic(s: Subject) -> str | None:
    """The same task, seeds and actions give byte-identical texts, whatever else runs in the process."""
    neighbor, other = s.make(), s.make()
    for i, here in enumerate(s.tasks):
        script = s.script(i, here)
        log = play(s.make(), here, i, replay(script))
        if found := difference(log, play(s.make(), here, i, replay(script))):
            return f"the same game played twice differs ({found}): draw all randomness from the rng handed in."
        rng = s.rng("neighbour", i)

        def meddle(i: int = i, rng: random.Random = rng) -> None:
            for env in (neighbor, other):
                if not env.live:
                    env.reset(options={"task": s.tasks[rng.randrange(len(s.tasks))], "episode_seed": i + 1})
                env.step(mixed(rng, 0.2)(0, env) or "")
            disturb(rng.randrange(2**31))

        if found := difference(log, play(s.make(), here, i, replay(script), meddle)):
            return f"a game differs when others run beside it ({found}): keep all state on self."
    return None


def hash_seed(s: Subject) -> str | None:
    """The same in any process, under any PYTHONHASHSEED."""
    here = transcripts(s)
    used = os.environ.get("PYTHONHASHSEED")
    for there in transcripts_elsewhere(s, [seed for seed in ("1", "2", "3") if seed != used][:2]):
        if there is not None and there != here:
            part = next((p for p, a, b in zip(("all_tasks()", "rules()"), here, there) if a != b), "a game")
            return f"{part} differs in another process: do not use hash(), the order of a set, or id()."
    return None


def second_reset(s: Subject) -> str | None:
    """A second reset is equivalent to a fresh environment."""
    env = s.make()
    for i, here in enumerate(s.tasks):
        script = s.script(i, here)
        env.reset(options={"task": s.tasks[i - 1], "episode_seed": 1000 + i})
        choose = mixed(s.rng("second", i), 0.2)
        for turn in range(i % 4 if i % 2 else UNLIMITED):
            if env.live:
                env.step(choose(turn, env) or "")
        if found := difference(play(s.make(), here, i, replay(script)), play(env, here, i, replay(script))):
            return f"a second reset() is not like a fresh environment ({found}): set all state in on_reset."
    return None


def copies(s: Subject) -> str | None:
    """`deepcopy` and pickle in mid-game give an independent environment that continues in the same way."""
    ways: list[tuple[str, Callable[[Env], Env]]] = [("copy.deepcopy", copy.deepcopy)]
    if "<locals>" not in type(inner(s.make())).__qualname__:  # pickle finds classes by name
        ways.append(("pickle", lambda env: pickle.loads(pickle.dumps(env))))
    for i, here in enumerate(s.tasks):
        script = s.script(i, here)
        whole = play(s.make(), here, i, replay(script))
        middle = i % max(1, len(script))
        for name, way in ways:
            env = s.make()
            log = play(env, here, i, replay(script[:middle]))
            try:
                twin = way(env)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # any part of the environment may raise anything
                return f"{name} fails ({shorten(error_line(error))}): keep only plain values on self."
            for which, each in (("the copy", twin), ("the original", env)):
                if found := difference(whole, go_on(each, copy.deepcopy(log), replay(script))):
                    return f"after {name}, {which} continues differently ({found}): keep all state on self, share none."
    return None
