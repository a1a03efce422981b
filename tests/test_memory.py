"""Memory: which earlier episodes the policy sees."""

from __future__ import annotations

import pytest

from metarlgym import ConfigError, Episode, FullHistory, LastK, Memory, NoMemory, Shuffled, make_memory, register_memory

EARLIER = [Episode(f"episode {i}") for i in range(4)]


def test_what_is_recalled():
    assert FullHistory().recall(EARLIER) == EARLIER
    assert list(NoMemory().recall(EARLIER)) == []
    assert LastK(2).recall(EARLIER) == EARLIER[2:]
    assert LastK(9).recall(EARLIER) == EARLIER
    assert list(LastK(1).recall([])) == []


def test_shuffled_shows_as_many_episodes_of_another_task():
    donor = [Episode(f"donor {i}") for i in range(3)]
    memory = Shuffled(donor)
    assert list(memory.recall(EARLIER[:0])) == []
    assert memory.recall(EARLIER[:2]) == donor[:2]
    assert memory.recall(EARLIER) == donor


def test_only_full_history_keeps_one_context():
    memories = [FullHistory(), LastK(1), NoMemory(), Shuffled()]
    assert [memory.one_context for memory in memories] == [True, False, False, False]
    assert [memory.numbered for memory in memories] == [True, True, False, True]


def test_make_memory():
    assert make_memory("full") == FullHistory()
    assert make_memory("none") == NoMemory()
    assert make_memory("last_3") == LastK(3)


@pytest.mark.parametrize("name", ["", "last", "last_", "last_x", "last_-1", "everything"])
def test_unknown_names(name):
    with pytest.raises(ConfigError, match="use 'full', 'none' or 'last_K'"):
        make_memory(name)


def test_a_memory_from_outside_is_named_like_the_others(tmp_path, monkeypatch):
    (tmp_path / "my_memories.py").write_text(
        "from dataclasses import dataclass\n"
        "from metarlgym import Memory, register_memory\n"
        "@dataclass(frozen=True)\n"
        "class First(Memory):\n"
        "    k: int = 1\n"
        "    def recall(self, earlier):\n"
        "        return earlier[: self.k]\n"
        "register_memory('first', lambda k: First(int(k or 1)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="'first_2' is not known"):
        make_memory("first_2")
    memory = make_memory("my_memories:first_2")
    episodes = [Episode(str(i)) for i in range(3)]
    assert list(memory.recall(episodes)) == episodes[:2]
    assert make_memory("first_2") == memory and make_memory("first").k == 1
    with pytest.raises(ConfigError, match="memory name 'last' is registered already"):
        register_memory("last", lambda k: None)
    with pytest.raises(ConfigError, match="module 'no_such' cannot be imported"):
        make_memory("no_such:first")


def test_last_0_is_refused():
    with pytest.raises(ConfigError, match="k=0"):
        make_memory("last_0")


def test_base_class_recalls_nothing_by_itself():
    with pytest.raises(NotImplementedError):
        Memory().recall(EARLIER)
