"""An optional disk cache for numba: the package may be installed in a read-only location.

When it compiles a function, numba chooses where to cache the code: in `NUMBA_CACHE_DIR` if set, next to the module, or
in the user's cache folder. If none of these is writable, it raises an error. Here, a per-user temporary folder comes
next, and then no cache at all: functions are then recompiled in every process.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserWideCacheLocator


class _TemporaryLocator(UserWideCacheLocator):
    """A per-user folder in the system's temporary folder."""

    def __init__(self, function: Any, file: str) -> None:
        super().__init__(function, file)
        self._cache_path = str(_own_folder() / self.get_suitable_cache_subpath(file))

    @classmethod
    def from_function(cls, function: Any, file: str) -> Any:
        with contextlib.suppress(OSError):  # no private temporary folder
            return super().from_function(function, file)
        return None


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [*CompileResultCacheImpl._locator_classes, _TemporaryLocator]


class _OptionalCache(FunctionCache):
    _impl_class = _Implementation

    def load_overload(self, *args: Any) -> Any:
        with contextlib.suppress(OSError):  # unreadable: compile instead
            return super().load_overload(*args)
        return None

    def save_overload(self, *args: Any) -> None:
        with contextlib.suppress(OSError):  # the disk is full: the next process recompiles
            super().save_overload(*args)


def optional_cache(function: Any) -> FunctionCache:
    """The cache of a function.

    Raises:
        RuntimeError: there is no writable place for one.
    """
    return _OptionalCache(function)


def _own_folder() -> Path:
    """A private folder: cached code gets executed, so nobody else may have write access.

    Raises:
        OSError: it cannot be created, or belongs to another user.
    """
    folder = Path(tempfile.gettempdir()) / f"metarlgym-numba-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not private")
    return folder
