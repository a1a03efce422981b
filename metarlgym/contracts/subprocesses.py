"""Play the same games in other processes, under other values of PYTHONHASHSEED."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metarlgym.contracts.subject import Subject, play, replay, shorten
from metarlgym.datatypes import ConfigError
from metarlgym.registry import EnvSpec, register, spec

IN_CHILD = "METARLGYM_CHECK_CHILD"


def transcripts(subject: Subject) -> list[Any]:
    """Parameters and logs of the subject's trials, as JSON data."""
    env = subject.make()
    logs = [[task.params, play(env, task, i, replay(subject.script(i, task)))] for i, task in enumerate(subject.tasks)]
    return json.loads(json.dumps([list(env.all_tasks() or [])[:1000], env.rules(), logs], default=repr))


def transcripts_elsewhere(subject: Subject, hash_seeds: Sequence[str]) -> list[list[Any] | None]:
    """`transcripts` from new processes with other PYTHONHASHSEEDs.

    None if the subject cannot be sent to another process (it is defined in a function, a lambda, or the running
    script), and inside such a process, where a module that checks its own environments on import
    would spawn processes forever.

    Raises:
        RuntimeError: the other process failed.
    """
    if IN_CHILD in os.environ:
        return [None] * len(hash_seeds)
    origin: Any = subject.origin
    if isinstance(origin, str):
        origin = spec(origin)
    try:
        message = pickle.dumps((origin, subject.trials, subject.seed))
    except Exception:  # pickle may raise anything
        return [None] * len(hash_seeds)
    path = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", "from metarlgym.contracts.subprocesses import child; child()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path, IN_CHILD: "1"},
        )
        for hash_seed in hash_seeds
    ]
    answers: list[list[Any] | None] = []
    try:
        for process in children:
            out, err = process.communicate(message, timeout=120)
            if process.returncode:
                raise RuntimeError(
                    shorten((err.decode(errors="replace").strip() or "no message").splitlines()[-1], 200)
                )
            answers.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in children:
            process.kill()
            process.wait()
    return answers


def child() -> None:
    """Entry point of the other process: reads a subject from stdin, prints its transcripts as the last stdout line."""
    message = sys.stdin.buffer.read()
    try:
        origin, trials, seed = pickle.loads(message)
    except (AttributeError, ImportError):
        print("null")
        return
    if isinstance(origin, EnvSpec):
        try:
            spec(origin.env_id)
        except ConfigError:  # registered only by the running script
            register(origin.env_id, origin.entry_point, kwargs=origin.kwargs)
        origin = origin.env_id
    print("\n" + json.dumps(transcripts(Subject(origin, trials=trials, seed=seed))))
