"""One-line messages for faults of the machine or the installation. All other errors are bugs and keep a traceback."""

from __future__ import annotations

import errno
import os
import re
import sys

from metarlgym.author_errors import error_text

PLACE = "check its permissions, or choose another place"
SPACE = "free some space, or choose another place"
EXTRA = {
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "peft",
    "safetensors",
    "tokenizers",
    "aiohttp",
    "requests",
}
"""Packages of the extra `train` that commands import directly."""
LAST_PYTHON = (3, 12)
"""The newest Python that training supports; the gym alone supports newer ones."""
FIXES = {
    errno.EACCES: PLACE,
    errno.EPERM: PLACE,
    errno.EROFS: PLACE,
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EFBIG: SPACE,
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file, not a folder",
    errno.ELOOP: "a link leads to itself; remove it",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "raise the limit with ulimit -n",
    errno.ENOMEM: "close other programs, or make the run smaller",
}

_SOURCE_LINE = re.compile(r"\[\S+/gloo/\S+\] ")


def describe_fault(error: BaseException) -> str | None:
    """One line that gives the fault and its fix; None for a bug.

    Faults are file-system errors, lack of memory, missing or broken packages, an unknown matplotlib backend, and other
    processes of the run that cannot be reached.
    """
    if _lost_peer(error):
        return (
            f"the run's other processes do not answer ({_SOURCE_LINE.sub('', _line(error))}). A process, a node or the "
            "network between them has failed: see the other processes' output, then continue from the last checkpoint "
            "with --resume."
        )
    if isinstance(error, MemoryError):
        why = f" ({text})" if (text := error_text(error)) else ""
        return f"not enough memory{why}: make it smaller (model, batches, sequences, environment), or free some memory."
    if type(error).__name__ == "SafetensorError" and "I/O error" in error_text(error):
        return f"{_line(error)}; {SPACE}."
    if isinstance(error, ImportError):
        if (error.name or "").partition(".")[0] == "metarlgym":
            return None
        if isinstance(error, ModuleNotFoundError) and error.name in EXTRA:
            return f"models and training need {error.name}, which is not installed: {_install_train()}."
        return f"{_line(error)}: this package is missing or broken; install it again."
    if isinstance(error, OSError):
        files = [repr(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        what = " to ".join(files)
        why = error.strerror or _line(error)
        fix = FIXES.get(error.errno or 0)
        return (f"{what}: " if what else "") + why + (f"; {fix}." if fix else ".")
    if isinstance(error, ValueError) and _raised_by_matplotlib(error) and "backend" in error_text(error):
        return backend_fault()
    return None


def _install_train() -> str:
    install = "pip install 'metarlgym[train]'"
    if sys.version_info[:2] > LAST_PYTHON:
        this, last = (".".join(map(str, version)) for version in (sys.version_info[:2], LAST_PYTHON))
        return f"{install} under Python 3.11 or {last}; this is {this}"
    return install


def describe_exit(error: SystemExit) -> str:
    """One line about a `sys.exit()` in code run by a command: an environment, a plugin or a library."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"sys.exit({error.code!r}) was called{place}, in the middle of this command: raise an Exception there."


def backend_fault() -> str:
    """One line about an unknown matplotlib backend."""
    named = os.environ.get("MPLBACKEND")
    if named is None:
        return "matplotlib's settings name a backend that does not exist: fix matplotlibrc, or set MPLBACKEND=agg."
    return f"MPLBACKEND={named!r} is not a backend of matplotlib: unset it, or set MPLBACKEND=agg."


def _raised_by_matplotlib(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "matplotlib"


def _lost_peer(error: BaseException) -> bool:
    """Whether a collective operation failed. gloo has no exception type of its own."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
        or "/gloo/transport/" in error_text(error)
    )


def _line(error: BaseException, most: int = 300) -> str:
    text = " ".join(error_text(error).split()).rstrip(".")
    return (text or type(error).__name__) if len(text) <= most else f"{text[:most]} ..."
