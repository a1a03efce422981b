"""The warning about memory: once, for the right reason, with the setting to lower."""

import pytest

from metarlgym.runtime.memory_watch import MemoryState, MemoryWatch, memory_state

GB = 2**30


def warnings(*states):
    said = []
    watch = MemoryWatch(said.append, "--concurrency", iter(states).__next__)
    for _ in states[1:]:
        watch()
    return said


def test_it_warns_once_when_memory_is_nearly_full():
    (line,) = warnings(MemoryState(16 * GB, 8 * GB, 0), *[MemoryState(16 * GB, GB // 2, 0)])
    assert "0.5 GiB of 16.0 GiB left" in line and "lower --concurrency" in line


def test_it_warns_once_when_the_machine_begins_to_swap():
    start = MemoryState(16 * GB, 8 * GB, 3 * GB)
    watch = MemoryWatch((said := []).append, "it", iter([start, *[MemoryState(16 * GB, 8 * GB, 4 * GB)] * 3]).__next__)
    watch()
    watch()
    assert len(said) == 1 and "1.0 GiB more than at the start" in said[0]


def test_it_is_silent_otherwise():
    assert warnings(MemoryState(16 * GB, 8 * GB, 3 * GB), MemoryState(16 * GB, GB, 3 * GB)) == []
    assert warnings(None, MemoryState(16 * GB, 0, 0)) == []


@pytest.fixture
def proc(tmp_path):
    text = (
        "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\nSwapTotal: 2048 kB\nSwapFree: 1024 kB\nHugePages_Total: 0\n"
    )
    (tmp_path / "meminfo").write_text(text)
    return tmp_path


def test_the_machines_state(proc, tmp_path):
    assert memory_state(proc, tmp_path / "none") == MemoryState(16 * GB, 8 * GB, 1024**2)
    assert memory_state(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("limit", "state"), [(4 * GB, (4 * GB, 2 * GB)), ("max", (16 * GB, 8 * GB))])
def test_a_containers_limit_counts(proc, limit, state):
    (proc / "memory.max").write_text(f"{limit}\n")
    (proc / "memory.current").write_text(f"{3 * GB}\n")
    (proc / "memory.stat").write_text(f"anon 1\ninactive_file {GB}\n")
    found = memory_state(proc, proc)
    assert (found.total, found.available) == state
