"""Lazily compiled functions: numba is imported, and a function compiled, on its first call."""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Callable
from functools import cached_property
from typing import Any


class Compiled:
    """A function that numba compiles on its first call, because importing numba takes longer than most commands.

    Pickled like a function, by module and name.

    Args:
        function: Python function at the top level of a module; `Compiled` functions that it calls by name are compiled
            with it.
        options: options of `numba.njit`.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.function, self.options = function, options
        functools.update_wrapper(self, function)

    @cached_property
    def dispatcher(self) -> Any:
        """Numba's dispatcher, with a cache on disk if there is a writable place for one."""
        from numba import njit

        from metarlgym.sequences.sources.numba_cache import optional_cache

        known = self.function.__globals__
        for name in self.function.__code__.co_names:
            if isinstance(other := known.get(name), Compiled):
                known[name] = other.dispatcher  # numba accepts only its own objects
        dispatcher = njit(**self.options)(self.function)
        try:
            dispatcher._cache = optional_cache(self.function)  # as njit(cache=True) does, but with an optional cache
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
        return dispatcher

    def __call__(self, *args: Any) -> Any:
        return self.dispatcher(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self.function.__module__, self.function.__qualname__)


def _load(module: str, name: str) -> Callable[..., Any]:
    """The function of this name: a `Compiled`, or numba's dispatcher where a caller has put that in its place."""
    return operator.attrgetter(name)(importlib.import_module(module))


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Like `numba.njit(**options)`, but deferred until the first call and with an optional cache on disk."""
    return lambda function: Compiled(function, options)
