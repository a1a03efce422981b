"""The kernel watches connections to servers. (tests/e2e/nodes shows what happens when a cable is cut.)"""

import asyncio
import socket
import sys

import pytest

from metarlgym.policies import server_pool
from metarlgym.policies.server_pool import Server, ServerPool
from metarlgym.policies.watched_socket import SILENT_SECONDS, watched_socket
from tests.fake_vllm import FakeVLLM


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems lack some of the options")
def test_requests_are_sent_over_watched_connections(monkeypatch):
    made = []

    def noted(address):
        made.append(watched_socket(address))
        return made[-1]

    async def ask(url):
        pool = ServerPool([Server(url, "model")])
        await pool.open()
        await pool.post(
            "/v1/completions", lambda server: b'{"prompt": [5], "max_tokens": 1, "seed": 1, "stop_token_ids": []}'
        )
        (used,) = made
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * SILENT_SECONDS
        idle, between, probes = (
            used.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + between * probes == SILENT_SECONDS
        await pool.close()

    monkeypatch.setattr(server_pool, "watched_socket", noted)
    server = FakeVLLM()
    try:
        asyncio.run(ask(server.url))
    finally:
        server.stop()
