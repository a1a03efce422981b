"""A request to a server whose machine has lost its network ends long before its own time limit."""

import re
import subprocess
import sys

from metarlgym.policies.watched_socket import SILENT_SECONDS
from tests.e2e.servers.conftest import ENVIRONMENT

SERVER = """
import socket, sys

with socket.create_server((sys.argv[1], 8010)) as door:
    print("open", flush=True)
    connection, _ = door.accept()
    connection.recv(1000)
    print("asked", flush=True)
    sys.stdin.read()  # and never answers
"""
CLIENT = """
import asyncio, sys, time
from metarlgym.policies.server_pool import Server, ServerPool
from metarlgym.rollout.protocol import PolicyLost


async def ask():
    pool = ServerPool([Server(f"http://{sys.argv[1]}:8010", "model")], request_timeout=600, retry_seconds=5)
    await pool.open()
    begin = time.monotonic()
    try:
        await pool.post("/v1/completions", lambda server: b"{}")
    except PolicyLost as error:
        print(f"lost after {time.monotonic() - begin:.1f} s: {error}")
    await pool.close()


asyncio.run(ask())
"""


def test_a_server_that_vanishes_is_not_a_slow_one(nodes):
    def begin(node, code):
        command = nodes.inside(node, [sys.executable, "-c", code, nodes.addresses["server"]])
        return subprocess.Popen(
            command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    running = [server := begin("server", SERVER)]
    try:
        assert server.stdout.readline() == "open\n"
        running.append(client := begin("node1", CLIENT))
        assert server.stdout.readline() == "asked\n"
        nodes.cut("server")
        said, _ = client.communicate(timeout=SILENT_SECONDS + 60)
    finally:
        nodes.mend("server")
        for process in running:
            process.kill()
            process.communicate()
    print(said)
    took = re.match(r"lost after ([\d.]+) s: http://\S+ did not answer for 5 s of retries", said)
    assert took and SILENT_SECONDS - 5 < float(took[1]) < SILENT_SECONDS + 25
