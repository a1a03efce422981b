"""Atomic file writes that follow symbolic links."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from metarlgym.datatypes import ConfigError, MetaRLGymError


def expand(path: str | Path) -> str:
    """A path or model name with `~` expanded to the home folder."""
    return os.path.expanduser(path)  # noqa: PTH111 (pathlib's version raises for unknown users)


def real_path(path: Path) -> Path:
    """`path`, or its target if it is a symbolic link, whether or not the target exists."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def place_problem(path: Path) -> str | None:
    """Why `path` cannot be written and the fix, phrased to follow the path in a message; None if it can be written."""
    if is_special(path) and not path.is_dir():
        return None if os.access(path, os.W_OK) else "cannot be written: permission denied; choose another place"
    real = real_path(path)
    leads = f" (a link to {str(real)!r})" if real is not path else ""
    if real.is_symlink():
        return "is a link that leads to itself; remove it, or choose another place"
    if real.is_dir():
        return f"is a folder{leads}; name a file in it"
    if not real.absolute().parent.is_dir():
        return f"cannot be written{leads}: {str(real.parent)!r} is not a folder; create it first"
    if not all(os.access(there, os.W_OK) for there in (real.absolute().parent, *([real] if real.exists() else []))):
        return f"cannot be written{leads}: permission denied; choose another place"
    return None


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` once it is complete and on disk; otherwise `path` is left unchanged.

    A link is followed and stays a link; a device or a pipe is written to directly.

    Raises:
        MetaRLGymError: it cannot be written, with the reason.
    """
    if is_special(path):
        with _one_line_errors(path), os.fdopen(_open_special(path), "wb") as file:
            yield file
        return
    real = real_path(path)
    part = real.with_name(f".{real.name[:100]}.{os.getpid()}.tmp")
    with _one_line_errors(path, part, real), replacing(real, part) as file:
        yield file


@contextlib.contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """Open a file named `temporary` that replaces `path` once it is complete and on disk.

    A file left at `temporary` by an earlier attempt is removed.

    Raises:
        ConfigError: something else is there, such as a link.
    """
    remove_leftover(temporary)
    try:
        with new_file(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except BaseException as error:  # Ctrl-C, too, which may come while the file is being opened
        made_by_another = isinstance(error, FileExistsError) and str(error.filename) == str(temporary)
        if not made_by_another:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise


def remove_leftover(path: Path) -> None:
    """Remove the file that an earlier attempt has left at `path`.

    Raises:
        ConfigError: something else is there, such as a link.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"{str(path)!r} is in the way, a link or a folder where a file is to be: move it away.")
    path.unlink(missing_ok=True)


def new_file(path: Path) -> BinaryIO:
    """Open a new file that no other process has open and no link leads to."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with write_whole(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def write_json(value: Any, path: Path, indent: int = 2) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def is_special(path: Path) -> bool:
    """Whether `path` is a device, a pipe or an open file descriptor, which cannot be replaced by renaming."""
    return str(path.absolute()).startswith(("/dev/std", "/dev/fd/", "/proc/")) or (path.exists() and not path.is_file())


def _open_special(path: Path) -> int:
    """A file descriptor that adds to what is there: behind /dev/stdout may be a file of the user's."""
    standard = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
    name = str(path.absolute())
    own = re.fullmatch(r"(?:/dev/fd|/proc/self/fd)/(\d+)", name)
    if own or name in standard:
        # Opened anew, it would have a position of its own, and what is printed next would overwrite it.
        sys.stdout.flush()
        sys.stderr.flush()
        return os.dup(int(own[1]) if own else standard[name])
    return os.open(path, os.O_WRONLY | os.O_APPEND)


@contextlib.contextmanager
def _one_line_errors(path: Path, *others: Path) -> Iterator[None]:
    """Turn the operating system's errors about these files into one line that names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(str(error.filename)) not in (path, *others):
            raise
        raise MetaRLGymError(
            f"{str(path)!r} cannot be written ({error.strerror or error}): free some space there, or choose another "
            "place."
        ) from error
