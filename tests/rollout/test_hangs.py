"""Environments whose steps hang: their trials end at the limit and no others, and nothing waits for them.

Bounds on wall time are part of what is promised here. Steps "hang" until the end of their test at the latest.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time

import gymnasium
import pytest
from tiny import Speaker, byte_parts, make_trainer, play, specs, terse, trial_maker

from metarlgym import Env, NoMemory, Step, StopReason, Task, TaskGroup, Trial, register, registry
from metarlgym.models.scratch import byte_tokenizer
from metarlgym.policies.scripted import ScriptedPolicy
from metarlgym.rollout import stepping
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.protocol import PolicyLost
from metarlgym.rollout.render import PlainRenderer

LIMIT = 0.4
MARGIN = 3.0
"""For loaded machines. Steps hang for 20 s, and 12 limits one after the other take longer too."""
TIME = {"trial_seconds": LIMIT}
kinds = pytest.mark.parametrize("blocking", [False, True], ids=["plain", "blocking"])


class Counting(Env):
    """Three turns of reward 0.25; hangs where its task says so: (place, episode, turn)."""

    max_turns = 3
    release = threading.Event()
    hanging = 0

    def sample_task(self, rng):
        return {"hang": None, "slow": 0.0}

    def rules(self):
        return "count"

    def on_reset(self, params, rng):
        self.params = params
        self.episode = getattr(self, "episode", -1) + 1
        self.wait("reset", 0)
        return "go"

    def on_step(self, action):
        self.wait("step", self.turns)
        time.sleep(self.params["slow"])
        return Step(f"{self.turns}", 0.25)

    def random_action(self, rng):
        return str(rng.randint(0, 9))

    def wait(self, place, turn):
        if self.params["hang"] == [place, self.episode, turn]:
            Counting.hanging += 1
            self.release.wait(20)


class Blocking(Counting):
    blocking = True


@pytest.fixture(autouse=True)
def end_of_hanging():
    Counting.release.clear()
    Counting.hanging = 0
    yield
    Counting.release.set()
    Counting.release = threading.Event()


def hanging_specs(blocking, number, hanging, hang, slow=0.0, episodes=2, **trial_args):
    env = Blocking if blocking else Counting
    return [
        TrialSpec(
            lambda: Trial(env(), episodes, **trial_args),
            Task("Counting", {"hang": hang if i in hanging else None, "slow": slow}),
            i,
            (i,),
        )
        for i in range(number)
    ]


def rollout(trials, limits=TIME, policy=None, renderer=None, within=None):
    policy = policy or ScriptedPolicy(lambda trial, rng: "1")
    start = time.monotonic()
    played = RolloutManager(policy, renderer, Limits(**limits)).run(trials)
    seconds = time.monotonic() - start
    assert seconds < (LIMIT + MARGIN if within is None else within)
    return played


def turns(trajectory):
    return [len(episode.turns) for episode in trajectory.episodes]


def check(played, hanging):
    """Those that hang are cut off, all others untouched."""
    for i, trajectory in enumerate(played):
        if i in hanging:
            assert trajectory.stop is StopReason.TIME_LIMIT
            assert trajectory.truncated
            assert trajectory.error is None
        else:
            assert trajectory.stop is StopReason.TERMINATED
            assert turns(trajectory) == [3, 3]
            assert not trajectory.truncated


# ---------------------------------------------------------------------- its own trial and no other


@kinds
@pytest.mark.parametrize("hang", [["step", 0, 2], ["step", 1, 3], ["reset", 0, 0], ["reset", 1, 0]], ids=str)
def test_a_step_that_hangs_ends_its_own_trial_and_no_other(blocking, hang):
    played = rollout(hanging_specs(blocking, 8, {3}, hang))
    check(played, {3})
    place, episode, turn = hang
    # The action that was not answered is kept; a reset that hangs loses nothing of the episode before it.
    expected = [3] * episode + ([turn] if place == "step" else [])
    assert turns(played[3]) == expected
    assert played[3].total == 0.25 * (sum(expected) - (place == "step"))
    stops = [episode.stop for episode in played[3].episodes]
    assert stops == [StopReason.MAX_TURNS] * episode + [StopReason.TIME_LIMIT] * (place == "step")


def test_the_example_of_one_second():
    played = rollout(hanging_specs(False, 8, {0}, ["step", 0, 1]), {"trial_seconds": 1}, within=1 + MARGIN)
    check(played, {0})


@kinds
@pytest.mark.parametrize("hang", [["step", 0, 1], ["reset", 0, 0]], ids=str)
def test_sixteen_of_sixty_four(blocking, hang):
    hanging = set(range(1, 64, 4))
    check(rollout(hanging_specs(blocking, 64, hanging, hang)), hanging)
    assert Counting.hanging == 16


@kinds
def test_steps_that_hang_one_after_the_other(blocking):
    """In every tick other ones."""
    trials = [hanging_specs(blocking, 12, {i}, ["step", i // 6, i % 3 + 1])[i] for i in range(12)]
    trials += hanging_specs(blocking, 10, set(), None)
    check(rollout(trials), set(range(12)))


@kinds
def test_places_of_hanging_trials_are_taken_by_others(blocking):
    trials = hanging_specs(blocking, 12, {0, 1}, ["step", 0, 1])
    policy = ScriptedPolicy(lambda trial, rng: "1")
    start = time.monotonic()
    played = RolloutManager(policy, None, Limits(**TIME), concurrency=2).run(trials)
    assert time.monotonic() - start < LIMIT + MARGIN
    check(played, {0, 1})


@kinds
def test_inside_a_running_loop(blocking):
    async def notebook():
        return rollout(hanging_specs(blocking, 8, {3}, ["step", 0, 2]))

    check(asyncio.run(notebook()), {3})


# ---------------------------------------------------------------------- what is left behind changes nothing


@kinds
@pytest.mark.parametrize("memory", [None, NoMemory()], ids=["full", "none"])
@pytest.mark.parametrize("hang", [["step", 1, 2], ["reset", 1, 0]], ids=str)
def test_a_step_that_comes_back_late_changes_nothing(blocking, memory, hang):
    renderer = PlainRenderer(byte_tokenizer())
    policy = Speaker(renderer, lambda trial: "12")
    trials = hanging_specs(blocking, 4, {1}, hang, memory=memory)
    made = []
    trials = [
        TrialSpec(lambda make=spec.make_trial: made.append(make()) or made[-1], spec.task, spec.seed) for spec in trials
    ]
    played = rollout(trials, policy=policy, renderer=renderer)
    check(played, {1})
    cut = played[1]

    def everything():
        return cut.to_dict(), [row.to_dict() for row in cut.rows], cut.truncated_actions

    before = everything()
    Counting.release.set()
    trial = made[1]
    deadline = time.monotonic() + 60
    while len(trial.history[-1].turns) < (2 if hang[0] == "step" else 0) or len(trial.history) < 2:
        assert time.monotonic() < deadline, "the step did not come back"
        time.sleep(0.01)
    time.sleep(0.05)
    assert everything() == before
    # Rows are closed, and hold the tokens of all actions and no others.
    assert all(row.ids[-1] in renderer.end_ids for row in cut.rows)
    assert sum(sum(row.action_mask) for row in cut.rows) == 3 * cut.turns  # two digits and the end token
    for row in cut.rows:
        lengths = {len(row.action_mask), len(row.logprobs), len(row.episode), len(row.turn)}
        assert lengths == {len(row.ids) - row.prompt_len}
    if memory is not None:
        assert [row.first_episode for row in cut.rows] == list(range(len(cut.episodes)))
    # The policy was told to forget every context: one a row.
    assert len(policy.forgotten) == sum(len(trajectory.rows) for trajectory in played)


def test_an_abandoned_trial_is_not_played_again():
    trial = Trial(Counting(), 2)
    spec = TrialSpec(lambda: trial, Task("Counting", {"hang": ["step", 0, 1], "slow": 0.0}), 0)
    check(rollout([spec]), {0})
    (again,) = rollout([spec])
    assert again.stop is StopReason.ERROR
    assert again.error.startswith("MetaRLGymError: an earlier step of this trial was cut off")
    assert again.episodes == []


@kinds
def test_the_trainer_replaces_a_trial_that_was_cut_off(tmp_path, blocking):
    """Rollout 2 wakes the step that hung in rollout 1: it must not land in a trial of rollout 2."""

    class Waking(Counting):
        first = True

        def sample_task(self, rng):
            return {"hang": None, "slow": 0.0, "x": rng.randint(0, 9)}

        def on_step(self, action):
            if Waking.first and self.turns == 3:
                Waking.first = False
                self.release.wait(20)
            elif rollouts:
                self.release.set()
                time.sleep(0.005)
            return Step(f"{self.turns}", 0.25)

    Waking.blocking = blocking
    register("Waking-v0", Waking)
    try:
        trainer = make_trainer(
            tmp_path, TaskGroup("Waking-v0"), byte_parts(), max_trial_seconds=1.0, episodes=1, max_steps=2
        )
        rollouts = []
        trainer.on_trials = lambda step, trajectories: rollouts.append(trajectories)
        trainer.train()
    finally:
        del registry._REGISTRY["Waking-v0"]
        for name in ("Waking-v0", "Waking-Trial-v0"):
            del gymnasium.registry[f"metarlgym/{name}"]
    first, second = rollouts
    assert [t.stop for t in first].count(StopReason.TIME_LIMIT) == 1
    assert all(t.error is None and t.stop is StopReason.TERMINATED for t in second)
    assert [turns(t) for t in second] == [[3]] * 8
    assert [t.total for t in second] == [0.75] * 8
    assert trainer.state.log_history[0]["truncation_rate"] >= 1 / 8
    assert trainer.state.log_history[0]["error_rate"] == 0


# ---------------------------------------------------------------------- slow is not hanging


@kinds
def test_a_slow_step_still_ends_its_trial_in_order(blocking):
    """Each step takes 0.15 s: the third ends after the limit, and its reward counts."""
    (played,) = rollout(hanging_specs(blocking, 1, set(), None, slow=0.15))
    assert played.stop is StopReason.TIME_LIMIT
    assert turns(played) == [3, 0]
    assert played.total == 0.75


@kinds
def test_an_episodes_limit_ends_the_episode_where_the_step_returns(blocking):
    (played,) = rollout(hanging_specs(blocking, 1, set(), None, slow=0.12), {"episode_seconds": 0.2})
    assert turns(played) == [2, 2]
    assert [episode.stop for episode in played.episodes] == [StopReason.TIME_LIMIT] * 2
    assert played.stop is StopReason.TERMINATED


@kinds
@pytest.mark.parametrize("hang", [["step", 0, 2], ["reset", 0, 0], ["reset", 1, 0]], ids=str)
def test_an_episodes_limit_ends_the_trial_where_the_step_hangs(blocking, hang):
    played = rollout(hanging_specs(blocking, 8, {3}, hang), {"episode_seconds": 0.2}, within=0.4 + MARGIN)
    check(played, {3})


# ---------------------------------------------------------------------- faults


@kinds
def test_an_error_in_a_timed_step_is_recorded_and_one_of_the_process_is_raised(blocking):
    class Raising(Blocking if blocking else Counting):
        def on_step(self, action):
            raise self.params["error"]

    def trial(error):
        return [TrialSpec(lambda: Trial(Raising(), 1), Task("x", {"hang": None, "error": error}, key="x"), 0)]

    (played,) = rollout(trial(ValueError("no")))
    assert (played.stop, played.error) == (StopReason.ERROR, "ValueError: no")
    (played,) = rollout(trial(SystemExit(3)))
    assert (played.stop, played.error) == (StopReason.ERROR, "SystemExit: 3")
    with pytest.raises(KeyboardInterrupt):
        rollout(trial(KeyboardInterrupt()))


@kinds
def test_a_rollout_that_fails_does_not_wait_for_steps_that_hang(blocking):
    """What was still running then is not used again either."""

    class Lost(ScriptedPolicy):
        def submit(self, request, done):
            if request.trial.trial_seed == 0:
                super().submit(request, done)
            else:
                self.loop.call_later(0.4, done, PolicyLost("the policy is gone"))

    made = []
    trials = [
        TrialSpec(lambda make=spec.make_trial: made.append(make()) or made[-1], spec.task, spec.seed)
        for spec in hanging_specs(blocking, 2, {0}, ["step", 0, 1])
    ]
    start = time.monotonic()
    with pytest.raises(PolicyLost, match="the policy is gone"):
        RolloutManager(Lost(lambda trial, rng: "1"), None, Limits(trial_seconds=10)).run(trials)
    assert time.monotonic() - start < 8  # the limit is 10 s
    assert [trial.abandoned for trial in made] == [True, False]


SCRIPT = """
import signal, sys, time
from metarlgym import Env, Step, Task, Trial
from metarlgym.policies.scripted import ScriptedPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.rollout.protocol import PolicyLost

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background

class Sleepy(Env):
    blocking = sys.argv[1] == "blocking"
    def on_reset(self, params, rng): return "go"
    def on_step(self, action):
        sys.stdout.write("begun" + chr(10))  # one write: threads share the stream
        sys.stdout.flush()
        time.sleep(60)

limits = Limits(trial_seconds=float(sys.argv[2]))
spec = TrialSpec(lambda: Trial(Sleepy(), 1), Task("x", {}), 0)
played = RolloutManager(ScriptedPolicy(lambda trial, rng: "1"), None, limits).run([spec] * 4)
print(*(t.stop.value for t in played), flush=True)
"""


def start(blocking, seconds):
    command = [sys.executable, "-c", SCRIPT, "blocking" if blocking else "plain", str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@kinds
def test_the_process_ends_although_steps_hang(blocking):
    with start(blocking, 0.3) as process:
        lines = [process.stdout.readline().strip() for _ in range(5)]
        process.communicate(timeout=30)  # steps sleep for 60 s
    assert sorted(lines) == ["begun"] * 4 + ["time_limit time_limit time_limit time_limit"]
    assert process.returncode == 0


@kinds
def test_ctrl_c_while_a_step_hangs(blocking):
    with start(blocking, 60) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert errors.rstrip().endswith("KeyboardInterrupt")


class Late(Env):
    """Begins late, takes one slow step, and then hangs."""

    max_turns = 10

    def __init__(self, number):
        super().__init__(style="terse")
        self.number = number

    def on_reset(self, params, rng):
        time.sleep(0.15 if self.number == 1 else 0.05)  # longer than the grace: those behind it go on beside it
        self.steps = 0
        return "go"

    def on_step(self, action):
        self.steps += 1
        if self.number == 2:
            time.sleep(0.45 if self.steps == 1 else 20)  # runs when the limit passes, and returns soon after
        return Step("x", 0.0, self.steps >= 3)


def test_a_trial_that_began_late_has_no_later_limit():
    trials = [TrialSpec(lambda i=i: Trial(Late(i), 1), Task("Late", {}), i) for i in range(3)]
    start = time.monotonic()
    policy = ScriptedPolicy(lambda trial, rng: "1")
    played = RolloutManager(policy, None, Limits(trial_seconds=0.5)).run(trials)
    assert time.monotonic() - start < 10  # the last step sleeps for 20 s
    assert [t.stop.value for t in played] == ["terminated", "terminated", "time_limit"]


# ---------------------------------------------------------------------- healthy environments


def test_healthy_trials_are_the_same_with_and_without_a_time_limit_to_the_last_bit():
    group = terse("GuessNumber-v0", numbers=50, guesses=3)
    model, _, renderer = byte_parts(context=128)
    trials = specs(group, trial_maker(group, 2, memory=NoMemory()), 12)

    def run(concurrency, **limits):
        played, policy = play(model, renderer, trials, Limits(action_tokens=3, **limits), concurrency)
        return [t.to_dict() for t in played], [r.to_dict() for t in played for r in t.rows], policy.encoded_tokens

    for concurrency in (None, 5):
        assert run(concurrency) == run(concurrency, trial_seconds=100) == run(concurrency, episode_seconds=100)


def test_replies_and_requests_keep_their_order():
    group = terse("GuessNumber-v0", numbers=20, guesses=3)

    def run(**limits):
        log = []

        class Logged(ScriptedPolicy):
            def submit(self, request, done):
                log.append(("request", request.trial.trial_seed, request.seed))
                super().submit(request, done)

            def _reply(self, request, done):
                log.append(("reply", request.trial.trial_seed, request.seed))
                super()._reply(request, done)

        policy = Logged(lambda trial, rng: trial.random_action(rng))
        played = RolloutManager(policy, None, Limits(**limits)).run(specs(group, trial_maker(group), 100))
        kinds = [[entry[1:] for entry in log if entry[0] == kind] for kind in ("request", "reply")]
        return [t.to_dict() for t in played], kinds

    assert run() == run(trial_seconds=100)


@kinds
def test_a_rollout_of_plain_steps_uses_one_thread_and_blocking_ones_reuse_theirs(blocking):
    threads = set()

    class Named(Blocking if blocking else Counting):
        def on_step(self, action):
            threads.add(threading.current_thread())
            return super().on_step(action)

    trials = [TrialSpec(lambda: Trial(Named(), 3), Task("x", {"hang": None, "slow": 0.0}), i) for i in range(4)]
    rollout(trials)
    assert 1 <= len(threads) <= (4 if blocking else 1)
    assert threading.current_thread() not in threads
    for thread in threads:  # they end with the rollout
        thread.join(2)
        assert not thread.is_alive()


def test_where_the_system_allows_few_threads_steps_wait_for_one(monkeypatch):
    starting = threading.Thread.start
    count = []

    def start(thread):
        if thread.name == "metarlgym-step":
            count.append(thread)
            if len(count) > 2:
                raise RuntimeError("can't start new thread")
        starting(thread)

    monkeypatch.setattr(stepping.threading.Thread, "start", start)
    check(rollout(hanging_specs(True, 8, set(), None, slow=0.005)), set())
    assert len(count) > 2
