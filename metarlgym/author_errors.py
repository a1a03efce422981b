"""Exceptions raised by environment code: rendered safely as text, and kept from ending the program."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from metarlgym.datatypes import ConfigError, MetaRLGymError


def error_text(error: BaseException) -> str:
    """The text of an exception, even if its `__str__` raises; always encodable as UTF-8."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as second:  # `__str__` is the author's code too
        text = f"(no text: its __str__ raised {type(second).__name__})"
    return _encodable(text)


def error_line(error: BaseException) -> str:
    """Type and text of an exception, such as `ValueError: no`; multi-line if the text is."""
    text = error_text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def error_detail(error: BaseException) -> str:
    """The traceback of an exception."""
    return _encodable("".join(traceback.format_exception(error)))


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Turn `sys.exit()` and the like in an author's code into errors; Ctrl-C and SIGTERM pass through.

    Args:
        what: describes the code that runs, as the subject of the message.

    Raises:
        MetaRLGymError: for an exception that is neither an `Exception` nor a `KeyboardInterrupt`.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise MetaRLGymError(f"{what} raised {error_line(error)}: raise an Exception instead.") from error


def split_module(field: str, name: str) -> str:
    """Import the module of `package.module:NAME`, and return NAME; other names are returned as they are.

    Args:
        field: what the user calls the name.
        name: as the user gave it.

    Raises:
        ConfigError: if the module cannot be imported.
    """
    module, _, short = name.rpartition(":")
    if module:
        try:
            with contained(f"{field}={name!r}: importing {module!r}"):
                importlib.import_module(module)
        except (ImportError, TypeError, ValueError) as error:  # a relative or empty name is not an ImportError
            reason = error_text(error)
            raise ConfigError(f"{field}={name!r}: the module {module!r} cannot be imported ({reason}).") from error
    return short


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
