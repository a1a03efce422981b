"""Requests and updates of the weights exclude each other, and requests at paused servers come back."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from metarlgym.datatypes import MetaRLGymError
from metarlgym.policies import weight_gate
from metarlgym.policies.weight_gate import WeightGate


async def request(gate, server):
    """What `post` does: wait, enter, ask, leave; asks again where it was recalled."""
    asked = 0
    while True:
        await gate.opened()
        recalled = False
        asked += 1
        try:
            async with asyncio.timeout(30) as deadline:
                if not gate.enter(deadline):
                    continue
                version = gate.version
                try:
                    await server(version)
                finally:
                    recalled = gate.leave(deadline)
                return version, asked
        except TimeoutError:
            assert recalled


def in_thread(main):
    found = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(main())))
    thread.start()
    return thread, found


def test_a_request_that_a_paused_server_holds_is_recalled_and_made_again():
    gate = WeightGate()
    gate.open(1, "a")
    held = threading.Event()

    async def server(version):
        if version == 1:
            held.set()
            await asyncio.sleep(30)

    thread, found = in_thread(lambda: request(gate, server))
    assert held.wait(5)
    gate.close()
    start = time.monotonic()
    gate.settle()
    assert weight_gate.GRACE <= time.monotonic() - start < 5
    assert not found
    gate.open(2, "b")
    thread.join(5)
    assert found == [(2, 2)]
    assert gate.interrupted(1) and not gate.interrupted(2)


def test_settling_waits_for_answers_that_come():
    gate = WeightGate()
    gate.open(1, None)

    async def server(version):
        await asyncio.sleep(0.2)

    async def many():
        return await asyncio.gather(*(request(gate, server) for _ in range(20)))

    thread, found = in_thread(many)
    time.sleep(0.1)
    gate.close()
    gate.settle()
    gate.open(2, None)
    thread.join(5)
    assert found == [[(1, 1)] * 20]


def test_who_comes_to_a_closed_gate_waits():
    gate = WeightGate()
    gate.close()
    gate.settle()

    async def server(version):
        pass

    thread, found = in_thread(lambda: request(gate, server))
    time.sleep(0.1)
    assert not found
    gate.open(7, None)
    thread.join(5)
    assert found == [(7, 1)]


def test_an_event_loop_that_is_blocked(monkeypatch):
    monkeypatch.setattr(weight_gate, "GRACE", 0.05)
    monkeypatch.setattr(weight_gate, "RECALL_SECONDS", 0.1)
    gate = WeightGate()
    gate.open(1, None)
    blocked = threading.Event()

    async def server(version):
        blocked.set()
        time.sleep(1)

    thread, found = in_thread(lambda: request(gate, server))
    assert blocked.wait(5)
    gate.close()
    with pytest.raises(MetaRLGymError, match=r"1 request\(s\) did not return"):
        gate.settle()
    thread.join(5)
    assert found == [(1, 1)], "an answer that came by the old weights counts"
