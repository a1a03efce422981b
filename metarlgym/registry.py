"""Environment registry: register, make and list, here and in gymnasium.

`register("Name-v0", "module:Class")` also registers `metarlgym/Name-v0` with gymnasium (checks and order enforcement
off, so `gym.make` returns the bare class).

Other distributions add environments through the entry-point group `metarlgym.envs`. An entry point is either a subclass
of `Env`, registered under the entry point's name, or a function without arguments that calls `register`. Plugins are
imported by `list_envs` and when an unknown id is requested. An entry point named like an id (`Wordle-v0`) is known to
gymnasium as soon as `metarlgym` is imported, without importing the plugin; several may refer to one function.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Container
from dataclasses import dataclass, field, fields
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import gymnasium

from metarlgym.author_errors import contained, error_line, error_text, split_module
from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.env import Env
from metarlgym.trial import TrialSettings

ENTRY_POINT_GROUP = "metarlgym.envs"


@dataclass(frozen=True)
class EnvSpec:
    """One registered environment."""

    env_id: str
    entry_point: str | Callable[..., Env]
    kwargs: dict[str, Any] = field(default_factory=dict)
    summary: str = ""
    """One line for `metarlgym list`."""
    trial: dict[str, Any] = field(default_factory=dict)
    """Defaults of its trials: fields of `TrialSettings`."""

    def trial_defaults(self, given: Container[str] = ()) -> dict[str, Any]:
        """The defaults of its trials for settings that are not given."""
        return {name: value for name, value in self.trial.items() if name not in given}


_REGISTRY: dict[str, EnvSpec] = {}
_plugins_loaded = False
_announced: set[str] = set()
"""Plugin ids that gymnasium knows by name only; their plugin has not registered them yet."""


def register(
    env_id: str,
    entry_point: str | Callable[..., Env],
    *,
    kwargs: dict[str, Any] | None = None,
    summary: str = "",
    trial: dict[str, Any] | None = None,
) -> None:
    """Register an environment class under `Name-vN`.

    Args:
        env_id: name and version; a change of behavior requires a new version.
        entry_point: `"module:Class"`, imported on first use, or the class itself.
        kwargs: default keyword arguments.
        summary: one line.
        trial: what its trials have where nothing else is asked for, such as `{"episodes": 3, "max_total_turns": 9}`;
            fields of `TrialSettings`. Taken over by `play`, `eval`, `train`, `make` and gymnasium's `-Trial` form.

    Raises:
        ConfigError: the id has no version or is taken, or a trial has no such setting.
    """
    name, _, version = env_id.rpartition("-v")
    if not name or not version.isdigit():
        raise ConfigError(f"env_id={env_id!r} has no version: write it as {env_id.rstrip('-')}-v0.")
    if env_id in _REGISTRY:
        raise ConfigError(f"env_id={env_id!r} is registered already ({_REGISTRY[env_id].entry_point}): use a new one.")
    known = [each.name for each in fields(TrialSettings)]
    for setting in trial or {}:
        if setting not in known:
            raise ConfigError(f"trial={trial!r}: trials have no setting {setting!r}: use {', '.join(known)}.")
    _REGISTRY[env_id] = EnvSpec(env_id, entry_point, dict(kwargs or {}), summary, dict(trial or {}))
    if env_id in _announced:
        _announced.remove(env_id)
    else:
        _register_in_gymnasium(env_id)


def _register_in_gymnasium(env_id: str) -> None:
    """Register an environment and its trial with gymnasium; `gym.make` then calls `make` here."""
    name, _, version = env_id.rpartition("-v")
    for gym_id, trial in ((f"metarlgym/{env_id}", False), (f"metarlgym/{name}-Trial-v{version}", True)):
        gymnasium.register(
            gym_id,
            entry_point=_make_for_gymnasium,
            order_enforce=False,
            disable_env_checker=True,
            kwargs={"env_id": env_id, "trial": trial},
        )


def _make_for_gymnasium(*, env_id: str = "", trial: bool = False, render_mode: str | None = None, **kwargs: Any) -> Env:
    if render_mode not in (None, "ansi"):
        raise ConfigError(f"render_mode={render_mode!r} is not known to {env_id}, whose output is text: use 'ansi'.")
    if trial:
        kwargs.setdefault("episodes", spec(env_id).trial.get("episodes", TrialSettings.episodes))
    env = make(env_id, **kwargs)
    env.render_mode = render_mode
    return env


def _plugins() -> list[EntryPoint]:
    try:
        return list(entry_points(group=ENTRY_POINT_GROUP))
    except Exception as error:  # a distribution's entry_points.txt cannot be parsed
        warnings.warn(f"entry points cannot be read, so plugins are missing: {error!r}", stacklevel=3)
        return []


def announce_plugins() -> None:
    """Register plugins named like an id with gymnasium, without importing any."""
    for point in _plugins():
        if re.fullmatch(r"[\w:.-]+-v\d+", point.name) and f"metarlgym/{point.name}" not in gymnasium.registry:
            _announced.add(point.name)
            _register_in_gymnasium(point.name)


def load_plugins() -> list[str]:
    """Load the environments of other distributions, once; returns the problems, one line each."""
    global _plugins_loaded
    if _plugins_loaded:
        return []
    _plugins_loaded = True
    problems, called = [], []
    for point in _plugins():
        try:
            with contained("importing it"):
                plugin = point.load()
            if plugin in called:
                continue  # several names may share a function
            if inspect.isfunction(plugin):
                called.append(plugin)
            with contained("calling it"):
                _load_plugin(point.name, plugin)
        except Exception as error:  # one broken plugin must not hide the others; the caller shows the line
            problems.append(f"plugin {point.name} ({point.value}): {error_line(error)}")
    return problems


def _load_plugin(name: str, plugin: Any) -> None:
    """Register an environment class, or call the function that registers.

    Raises:
        ConfigError: the entry point is neither.
    """
    if isinstance(plugin, type) and issubclass(plugin, Env):
        lines = (plugin.__doc__ or "").strip().splitlines()
        register(name, plugin, summary=lines[0].strip() if lines else "")
    elif callable(plugin) and not isinstance(plugin, type):
        made = plugin()
        if made is not None:
            raise ConfigError(f"it returned {type(made).__name__}, which is ignored: call metarlgym.register in it.")
    else:
        raise ConfigError("it is neither a subclass of metarlgym.Env nor a function that calls metarlgym.register.")


def spec(env_id: str) -> EnvSpec:
    """The registration of an id; `metarlgym/Name-v0` and `Name-v0` are equivalent.

    Raises:
        ConfigError: unknown id; the message suggests the closest matches.
    """
    given = env_id
    env_id = env_id.removeprefix("metarlgym/")
    module = env_id.rpartition(":")[0]
    before = set(_REGISTRY)
    env_id = split_module("env", env_id)  # gymnasium's `module:Name-v0` form: import the module, then look
    problems = [] if env_id in _REGISTRY else load_plugins()
    if env_id not in _REGISTRY:
        known = {each.lower(): each for each in _REGISTRY}
        if module:
            known = {
                low: f"{module}:{each}" for low, each in known.items() if each not in before or _is_in(each, module)
            }
        near = [known[m] for m in difflib.get_close_matches(env_id.lower(), known, n=3, cutoff=0.4)]
        if near:
            hint = f"Did you mean {' or '.join(near)}?"
        elif module:
            hint = (
                f"The module {module!r} registers no such environment: give one that does, or an id of metarlgym list."
            )
        else:
            hint = f"Known: {', '.join(sorted(_REGISTRY))}."
        raise ConfigError(f"env={given!r} is not registered. {hint}" + "".join(f" ({p})" for p in problems))
    return _REGISTRY[env_id]


def trial_defaults(env_id: str, given: Container[str]) -> dict[str, Any]:
    """What the trials of an environment have for settings that are not given; nothing for an unknown id."""
    try:
        return spec(env_id).trial_defaults(given)
    except ConfigError:  # told when the environment is made
        return {}


def _is_in(env_id: str, module: str) -> bool:
    """Whether an environment's class is in a module or, for a package, below it."""
    entry = _REGISTRY[env_id].entry_point
    home = entry.partition(":")[0] if isinstance(entry, str) else entry.__module__
    return f"{home}.".startswith(f"{module}.")


def make(env_id: str, *, episodes: int | None = None, **kwargs: Any) -> Env:
    """Build an environment, or a `Trial` of it if `episodes` is given.

    Args:
        env_id: registered id.
        episodes: H; with it, `free_shots`, `memory`, `stop_on_success` and `max_total_turns` go to the trial, which
            has the id's own defaults where they are not given. `max_total_turns` alone makes a trial of as many
            episodes as the budget allows.
        **kwargs: keyword arguments of the environment.
    """
    entry = spec(env_id)
    trial_kwargs = {}
    is_trial = episodes is not None or "max_total_turns" in kwargs
    if is_trial:
        trial_names = ("free_shots", "memory", "stop_on_success", "max_total_turns")
        trial_kwargs = {name: kwargs.pop(name) for name in trial_names if name in kwargs}
        trial_kwargs = entry.trial_defaults({"episodes", *trial_kwargs}) | trial_kwargs
    cls: Any = entry.entry_point
    if isinstance(cls, str):
        module, _, name = cls.partition(":")
        with contained(f"{entry.env_id}: importing {module!r}"):
            cls = getattr(importlib.import_module(module), name)
    try:
        with contained(f"{entry.env_id}: making the environment"):
            env = cls(**{**entry.kwargs, **kwargs})
    except TypeError as error:
        reason = error_text(error).rstrip(".")
        known = _arguments(cls)
        unknown = [name for name in kwargs if name not in known]
        if unknown and "unexpected keyword argument" in reason:
            raise ConfigError(
                f"env_args={kwargs!r}: {entry.env_id} has no argument {' and no '.join(map(repr, unknown))}: "
                f"use {', '.join(known) or 'none'}."
            ) from error
        raise ConfigError(f"env_args={kwargs!r} do not fit {entry.env_id}: {reason}.") from error
    except MemoryError as error:
        raise ConfigError(
            f"env_args={kwargs!r}: there is not enough memory for such a {entry.env_id}: use smaller arguments."
        ) from error
    if not isinstance(env, Env):
        raise MetaRLGymError(f"{entry.env_id}: {cls!r} made {type(env).__name__}, which is not a metarlgym.Env.")
    env.env_id = entry.env_id
    if not is_trial:
        return env
    return TrialSettings(episodes, **trial_kwargs).make(env)


def _arguments(maker: Callable[..., Env]) -> list[str]:
    """Names of the keyword arguments accepted by an environment class or factory."""
    makers: list[Any] = [vars(cls).get("__init__") for cls in maker.__mro__] if isinstance(maker, type) else [maker]
    names: list[str] = []
    for each in filter(None, makers):
        try:
            parameters = inspect.signature(each).parameters.values()
        except (TypeError, ValueError):  # not every callable has a signature
            break
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names += [p.name for p in parameters if p.kind in kinds and p.name not in ("self", *names)]
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters):
            break  # no **kwargs: nothing is passed on to the base class
    return names


def list_envs() -> list[EnvSpec]:
    """All registered environments including plugins, sorted by id; warns about plugins that cannot be loaded."""
    for problem in load_plugins():
        warnings.warn(problem, stacklevel=2)
    return [_REGISTRY[key] for key in sorted(_REGISTRY)]
