"""Memory: how much is free, how many trials fit, and that fewer at once change nothing."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import play, specs, terse, tokens, trial_maker, word_parts

from metarlgym.policies import in_process, memory
from metarlgym.policies.in_process import InProcessPolicy
from metarlgym.policies.kv_cache import SlotCache
from metarlgym.policies.memory import Room, _free_in_cgroup, free_memory
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager
from metarlgym.rollout.protocol import ActRequest

GUESS = terse("GuessNumber-v0", numbers=9, guesses=3)


@pytest.fixture(scope="module")
def words():
    model, _, renderer = word_parts(GUESS, layers=2)
    return model, renderer, specs(GUESS, trial_maker(GUESS, 3), 40)


def cgroup(tmp_path, lines, **groups):
    """(root, own) of a cgroup file system; each group is {file: text}."""
    own = tmp_path / "own"
    own.write_text("\n".join(lines))
    for name, files in groups.items():
        folder = tmp_path / name.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text)
    return tmp_path, own


def test_limits_of_control_groups(tmp_path):
    stat = "anon 5\ninactive_file 30\ntotal_inactive_file 30\n"
    v2 = {"memory.max": "100\n", "memory.current": "90\n", "memory.stat": stat}
    assert _free_in_cgroup(*cgroup(tmp_path / "a", ["0::/job"], job=v2)) == 40
    assert _free_in_cgroup(*cgroup(tmp_path / "b", ["0::/job/step"], job=v2, job__step={})) == 40  # the parent's
    assert _free_in_cgroup(*cgroup(tmp_path / "c", ["0::/"], job=v2)) == math.inf
    unlimited = {**v2, "memory.max": "max\n"}
    assert _free_in_cgroup(*cgroup(tmp_path / "d", ["0::/job"], job=unlimited)) == math.inf
    v1 = {"memory.limit_in_bytes": "70\n", "memory.usage_in_bytes": "90\n", "memory.stat": stat}
    lines = ["4:memory:/host/path", "3:cpuset:/", "0::/"]
    assert _free_in_cgroup(*cgroup(tmp_path / "e", lines, memory=v1)) == 10
    assert _free_in_cgroup(tmp_path, tmp_path / "nothing") == math.inf


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in "abcde":
        (tmp_path / name).mkdir()


def test_processes_of_a_launch_share_a_cpus_memory(monkeypatch):
    monkeypatch.setattr(memory, "_free_in_cgroup", lambda: 1000)
    assert free_memory(torch.device("cpu")) == 1000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(torch.device("cpu")) == 250


# ---------------------------------------------------------------------- how many trials


def make_room(model, contexts, length):
    """Room for so many contexts of a length."""
    room = Room(model.config, 0, 4)
    room.budget = contexts * (length * room.per_token + room.per_trial)
    return room


def request(trial, prompt, action=1):
    return ActRequest(trial, 0, list(range(prompt)), action, 0)


def test_bytes_of_a_token_are_those_of_the_cache(words):
    model, renderer, trials = words
    policy = InProcessPolicy(model, renderer)
    seen = []
    inner = policy._encode
    policy._encode = lambda group: (inner(group), seen.append((policy._store.cache, policy._room)))[0]
    RolloutManager(policy, renderer).run(trials[:4])
    cache, room = seen[0]
    assert cache._bytes(1, 0) == room.per_token == 2 * 2 * 16 * 4


def test_before_a_trial_has_ended_its_rules_say_how_long_it_may_become(words):
    model, _, _ = words
    room = make_room(model, 3, 120)
    assert room.tokens == 128  # all positions of the model, as long as nothing is known
    trial = trial_maker(GUESS, 3)()
    room.saw(request(trial, 11))
    assert room.tokens == (11 + 1) * (3 * 3 + 1)
    assert room.fits(3) and not room.fits(4)
    room.saw(request(trial, 60))  # the guess is made once; what is seen counts at least
    assert room.tokens == 120
    trial.env.max_turns = None
    room = make_room(model, 3, 128)
    room.saw(request(trial, 11))
    assert room.tokens == 128


def test_what_is_measured_counts_once_contexts_have_ended(words):
    model, _, _ = words
    room = make_room(model, 3, 100)
    room.saw(request(trial_maker(GUESS, 3)(), 39))
    room.finished = 1
    assert room.tokens == 80
    room.finished = memory.EARLY
    assert room.tokens == 50
    room.saw(request(None, 119))
    assert room.tokens == 128  # the model has no more positions


def test_recurrent_networks_need_no_room():
    from metarlgym.models.networks import NetworkArguments, make_network

    _, tokenizer, renderer = word_parts(GUESS)
    model = make_network(NetworkArguments(network="lstm", hidden_size=16), len(tokenizer), 128)
    policy = InProcessPolicy(model, renderer)
    policy.open()
    assert policy.room(10**9)
    policy.close()


# ---------------------------------------------------------------------- in a rollout


@pytest.mark.parametrize("limits", [None, Limits(trial_seconds=100)], ids=["", "timed"])
@pytest.mark.parametrize("contexts", [0.5, 2.5, 10])
def test_less_memory_means_fewer_trials_at_once_and_the_same_results(words, contexts, limits, monkeypatch):
    model, renderer, trials = words
    expected, _ = play(model, renderer, trials)
    room = make_room(model, contexts, max(len(row.ids) for t in expected for row in t.rows))
    monkeypatch.setattr(in_process, "free_memory", lambda device: room.budget / in_process.SHARE)
    live, ended = [], []

    class Watched(InProcessPolicy):
        def _tick(self):
            live.append(len(self._contexts))
            super()._tick()

        def forget(self, context):
            super().forget(context)
            ended.append(context)

    policy = Watched(model, renderer)
    for _ in range(2):  # the second time, lengths are known from the start
        played = RolloutManager(policy, renderer, limits).run(trials)
        assert tokens(played) == tokens(expected)
    assert 1 <= max(live) <= max(1, contexts)
    assert max(live) > 1 or contexts < 2.5
    bounded = RolloutManager(Watched(model, renderer), renderer, concurrency=1)
    live.clear()
    bounded.run(trials[:5])
    assert max(live) == 1


def test_slots_held_back_are_filled_when_lengths_turn_out_short(words, monkeypatch):
    """At first only three trials fit by the rules; later more than three by what was measured."""
    model, renderer, trials = words
    trial = trials[0].make_trial()
    trial.reset(options={"task": trials[0].task, "episode_seed": 0})
    first = len(renderer.prompt(trial.messages))
    guess = (first + 1) * 10
    room = make_room(model, 3, guess)
    monkeypatch.setattr(in_process, "free_memory", lambda device: room.budget / in_process.SHARE)
    live = []

    class Watched(InProcessPolicy):
        longest = 0

        def _tick(self):
            live.append(len(self._contexts))
            super()._tick()

        def forget(self, context):
            super().forget(context)
            self._room.longest, self._room.finished = 8, memory.EARLY  # as if they were short

    RolloutManager(Watched(model, renderer), renderer).run(trials)
    assert live[0] == 3 and max(live) > 3


def test_with_enough_memory_all_trials_begin_at_once(words):
    model, renderer, trials = words
    live = []

    class Watched(InProcessPolicy):
        def _tick(self):
            live.append(len(self._contexts))
            super()._tick()

    RolloutManager(Watched(model, renderer), renderer).run(trials)
    assert live[0] == len(trials)


# ---------------------------------------------------------------------- slots


def filled(budget):
    cache = SlotCache(budget)
    cache.reserve(4, 32)
    for layer in range(3):
        cache.aim(None, 4, torch.arange(32)[None], 0, 32)
        new = torch.arange(4.0 * 2 * 32 * 8).reshape(4, 2, 32, 8) + layer
        cache.update(new, -new, layer)
    return cache


def test_slots_double_while_the_budget_allows_it():
    cache = filled(10**9)
    cache.reserve(5, 33)
    assert (cache.slots, cache.length) == (8, 64)


def test_beyond_the_budget_slots_grow_by_what_is_needed():
    cache = filled(filled(math.inf)._bytes(6, 80))
    cache.reserve(5, 70)  # doubled it would be 8 x 70
    assert (cache.slots, cache.length) == (5, 128)
    cache.reserve(6, 128)
    assert (cache.slots, cache.length) == (6, 128)
    for layer in range(3):
        expected = torch.arange(4.0 * 2 * 32 * 8).reshape(4, 2, 32, 8) + layer
        assert torch.equal(cache._keys[layer][:4, :, :32], expected)
        assert torch.equal(cache._values[layer][:4, :, :32], -expected)


def test_layers_grow_one_after_the_other(monkeypatch):
    cache = filled(math.inf)
    alive, inner = [], torch.Tensor.new_zeros

    def new_zeros(self, *shape, **kwargs):
        grown = {t.shape for t in (*cache._keys, *cache._values)}
        alive.append(sorted(shape[2] for shape in grown))
        return inner(self, *shape, **kwargs)

    monkeypatch.setattr(torch.Tensor, "new_zeros", new_zeros)
    cache.reserve(4, 40)
    assert alive[0] == [33] and alive[-1] == [33, 65] and len(alive) == 6
