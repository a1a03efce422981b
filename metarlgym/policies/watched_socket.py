"""Sockets of requests to servers, which notice when the machine at the other end is gone."""

from __future__ import annotations

import socket
from typing import Any

SILENT_SECONDS = 30
"""A connection is lost when the other machine has been silent for so long, that is, its kernel: a server may take as
long as it likes for an answer."""
_OPTIONS = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": SILENT_SECONDS * 1000}


def watched_socket(address: tuple[Any, ...]) -> socket.socket:
    """A TCP socket for `aiohttp.TCPConnector(socket_factory=...)`.

    Otherwise a request whose server lost power or network would wait for its answer until its own time limit, because
    a connection on which nothing is sent does not fail.

    Args:
        address: an item of `socket.getaddrinfo`.
    """
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if hasattr(socket, name):  # Linux has them all
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
