"""RolloutManager: the same trials whatever runs beside them, in the order they were asked for."""

from __future__ import annotations

import asyncio
import gc
import random
import threading

import numpy as np
import pytest
import torch
from tiny import byte_parts, specs, terse, tokens, trial_maker

from metarlgym import StopReason, Task, Trial
from metarlgym.envs.guess_number import GuessNumber
from metarlgym.policies.scripted import DelayedPolicy, OraclePolicy, RandomPolicy, RandomTokenPolicy, ScriptedPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec

GROUP = terse("GuessNumber-v0", numbers=20, guesses=3)
TRIALS = 1100


def plain(trajectories):
    return [t.to_dict() for t in trajectories]


@pytest.fixture(scope="module")
def reference():
    """Random play, all at once."""
    return plain(RolloutManager(RandomPolicy()).run(specs(GROUP, trial_maker(GROUP), TRIALS)))


# ---------------------------------------------------------------------- determinism


@pytest.mark.parametrize("concurrency", [1, 64, 1024])
def test_concurrency_changes_nothing(reference, concurrency):
    manager = RolloutManager(RandomPolicy(), concurrency=concurrency)
    assert plain(manager.run(specs(GROUP, trial_maker(GROUP), TRIALS))) == reference


def test_order_of_answers_changes_nothing(reference):
    policy = DelayedPolicy(RandomPolicy(), mean=0.002)
    assert plain(RolloutManager(policy).run(specs(GROUP, trial_maker(GROUP), 200))) == reference[:200]


def test_foreign_random_numbers_change_nothing_and_are_not_touched(reference):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()

    def noisy(trial, rng):
        before = random.getstate()
        random.seed(trial.trial_seed)  # another library that uses the global stream
        random.setstate(before)
        return trial.random_action(rng)

    assert plain(RolloutManager(ScriptedPolicy(noisy)).run(specs(GROUP, trial_maker(GROUP), 200))) == reference[:200]
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])


def test_trials_do_not_depend_on_which_others_are_played(reference):
    some = specs(GROUP, trial_maker(GROUP), TRIALS)[7:300:13]
    assert plain(RolloutManager(RandomPolicy()).run(some)) == reference[7:300:13]


def test_other_rollouts_in_the_process_change_nothing(reference):
    results = {}

    def work(name, group):
        results[name] = plain(RolloutManager(RandomPolicy()).run(specs(group, trial_maker(group), 300)))

    others = [threading.Thread(target=work, args=(i, terse("Doors-v0"))) for i in range(2)]
    mine = threading.Thread(target=work, args=("mine", GROUP))
    for thread in [*others, mine]:
        thread.start()
    for thread in [*others, mine]:
        thread.join()
    assert results["mine"] == reference[:300]
    assert results[0] == results[1]


def test_token_rollouts_do_not_depend_on_concurrency():
    _, _, renderer = byte_parts()
    played = [
        RolloutManager(RandomTokenPolicy(renderer), renderer, concurrency=n).run(specs(GROUP, trial_maker(GROUP), 40))
        for n in (1, 7, None)
    ]
    assert tokens(played[0]) == tokens(played[1]) == tokens(played[2])


# ---------------------------------------------------------------------- order and progress


def test_results_come_in_the_order_of_the_specs():
    played = RolloutManager(DelayedPolicy(OraclePolicy(), mean=0.002), concurrency=16).run(
        specs(GROUP, trial_maker(GROUP), 50)
    )
    assert [t.task.key for t in played] == [GROUP.task(i).key for i in range(50)]


def test_slow_trials_hold_nobody_up():
    """Sixteen trials of which one gets no answer until the others are done."""
    waiting = []

    class OneSlow(ScriptedPolicy):
        def submit(self, request, done):
            if request.trial.trial_seed == slow and len(finished) < 15:
                waiting.append((request, done))
            else:
                super().submit(request, done)

    def ended(index, trajectory):
        finished.append(index)
        if len(finished) == 15:
            policy.submit(*waiting.pop())

    trials = specs(GROUP, trial_maker(GROUP, 1), 16)
    slow = trials[0].seed
    finished, policy = [], OneSlow(lambda s, r: "1")
    played = RolloutManager(policy, limits=Limits(trial_seconds=60), on_trial=ended).run(trials)
    assert sorted(finished) == list(range(16)) and not waiting
    assert all(t.stop is StopReason.TERMINATED for t in played)  # the slow one by no time limit


def test_each_trial_is_handed_over_as_it_ends():
    seen = {}
    played = RolloutManager(RandomPolicy(), concurrency=3, on_trial=seen.__setitem__).run(
        specs(GROUP, trial_maker(GROUP), 10)
    )
    assert [seen[i] for i in range(10)] == played


def test_no_trials_are_no_trajectories():
    assert RolloutManager(RandomPolicy()).run([]) == []


def test_no_more_trials_live_than_allowed():
    live = []
    most = []

    def make():
        live.append(1)
        most.append(len(live))
        return Trial(GROUP.make_env(), 1)

    manager = RolloutManager(DelayedPolicy(RandomPolicy(), 0.001), concurrency=4, on_trial=lambda i, t: live.pop())
    manager.run(specs(GROUP, make, 20))
    assert max(most) == 4


def test_a_long_chain_of_trials_that_end_at_once_does_not_grow_the_stack():
    class Broken(GuessNumber):
        def on_reset(self, params, rng):
            raise OSError

    trials = [TrialSpec(lambda: Trial(Broken(), 1), Task("x", {}), 0) for _ in range(3000)]
    assert len(RolloutManager(RandomPolicy(), concurrency=1).run(trials)) == 3000


# ---------------------------------------------------------------------- the event loop


def test_a_rollout_inside_a_running_loop_works_as_in_a_notebook(reference):
    async def notebook():
        return RolloutManager(RandomPolicy()).run(specs(GROUP, trial_maker(GROUP), 100))

    assert plain(asyncio.run(notebook())) == reference[:100]


def test_run_async_shares_the_loop(reference):
    async def both():
        trials = specs(GROUP, trial_maker(GROUP), 100)
        runs = [RolloutManager(DelayedPolicy(RandomPolicy(), 0.001)).run_async(trials[i::2]) for i in (0, 1)]
        return await asyncio.gather(*runs)

    even, odd = asyncio.run(both())
    assert plain(even) == reference[0:100:2]
    assert plain(odd) == reference[1:100:2]


def test_errors_inside_a_running_loop_are_raised():
    async def notebook():
        def broken():
            raise TypeError("bad arguments")

        return RolloutManager(RandomPolicy()).run(specs(GROUP, broken, 1))

    with pytest.raises(TypeError, match="bad arguments"):
        asyncio.run(notebook())


class Waiting(GuessNumber):
    """Each step waits, as a browser or a container does: here for the steps of three other trials."""

    blocking = True
    threads = set()
    barrier = threading.Barrier(4)

    def on_step(self, action):
        self.barrier.wait(60)
        self.threads.add(threading.current_thread().name)
        return super().on_step(action)


def test_environments_that_block_run_in_threads_side_by_side():
    Waiting.threads.clear()
    trials = [TrialSpec(lambda: Trial(Waiting(style="terse"), 2), Task("x", {"number": 20}), i, (i,)) for i in range(4)]
    played = RolloutManager(ScriptedPolicy(lambda s, r: "1")).run(trials)
    assert threading.main_thread().name not in Waiting.threads
    assert all(t.error is None and t.turns == 6 for t in played)


def test_garbage_collection_is_on_again_after_a_rollout_even_one_that_fails():
    def broken():
        raise TypeError

    assert gc.isenabled()
    RolloutManager(RandomPolicy()).run(specs(GROUP, trial_maker(GROUP), 2))
    with pytest.raises(TypeError):
        RolloutManager(RandomPolicy()).run(specs(GROUP, broken, 1))
    assert gc.isenabled()


def test_the_policy_is_told_when_a_rollout_begins_and_ends():
    class Told(RandomPolicy):
        calls = []

        async def begin(self, loop):
            await super().begin(loop)
            self.calls.append("begin")

        async def end(self):
            self.calls.append("end")

    RolloutManager(Told()).run(specs(GROUP, trial_maker(GROUP), 2))

    def broken():
        raise TypeError

    with pytest.raises(TypeError):
        RolloutManager(Told()).run(specs(GROUP, broken, 1))
    assert Told.calls == ["begin", "end"] * 2
