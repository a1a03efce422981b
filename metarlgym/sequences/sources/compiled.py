"""Compiled functions: numba's, loaded and compiled when they are first called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import cached_property
from typing import Any


class Compiled:
    """A function that numba compiles when it is first called: importing numba takes longer than most commands do.

    Args:
        function: in Python; functions of this kind that it calls by name are compiled with it.
        options: of `numba.njit`.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.function, self.options = function, options
        functools.update_wrapper(self, function)

    @cached_property
    def dispatcher(self) -> Any:
        """Numba's own object, with a cache on disk where there is a place for one."""
        from numba import njit

        from metarlgym.sequences.sources.numba_cache import optional_cache

        known = self.function.__globals__
        for name in self.function.__code__.co_names:
            if isinstance(other := known.get(name), Compiled):
                known[name] = other.dispatcher  # numba knows its own objects only
        dispatcher = njit(**self.options)(self.function)
        try:
            dispatcher._cache = optional_cache(self.function)  # what njit(cache=True) does, with numba's own class
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
        return dispatcher

    def __call__(self, *args: Any) -> Any:
        return self.dispatcher(*args)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """`numba.njit(**options)`, put off until the first call, with an optional cache on disk."""
    return lambda function: Compiled(function, options)
