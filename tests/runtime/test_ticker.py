"""Calls at intervals from another thread, and none after the end."""

import threading
import time

from metarlgym.runtime.ticker import Ticker


def test_it_ticks_until_it_is_closed():
    calls, three = [], threading.Event()

    def tick():
        calls.append(threading.current_thread())
        if len(calls) == 3:
            three.set()

    with Ticker(tick, first=0.001, every=0.001):
        assert three.wait(10)
    count = len(calls)
    time.sleep(0.02)
    assert len(calls) == count and threading.main_thread() not in calls


def test_it_can_be_closed_before_the_first_call():
    calls = []
    ticker = Ticker(lambda: calls.append(1), first=60)
    ticker.close()  # before it starts
    with Ticker(lambda: calls.append(1), first=60):
        pass
    assert not calls
