"""VLLMServerPolicy and ServerPool against a real HTTP server that fails on demand."""

import resource
import threading
import time

import pytest
import requests

from metarlgym.datatypes import ConfigError, StopReason
from metarlgym.policies import server_pool
from metarlgym.policies.server_pool import Server, ServerPool
from metarlgym.policies.vllm_server import VLLMServerPolicy
from metarlgym.policies.weight_gate import WeightGate
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager
from metarlgym.rollout.protocol import PolicyLost
from tests.fake_vllm import FakeVLLM
from tests.tiny import TaskGroup, byte_parts, specs, terse, tokens, trial_maker, word_parts


@pytest.fixture
def fake():
    made = []

    def start(**settings):
        made.append(FakeVLLM(**settings))
        return made[-1]

    yield start
    for server in made:
        server.stop()


GROUP = TaskGroup("GuessNumber-v0")
_, TOKENIZER, RENDERER = byte_parts()


def play(servers, trials=8, concurrency=None, limits=None, renderer=RENDERER, group=GROUP, temperature=1.0, **pool):
    pool = ServerPool([Server(server.url, "fake") for server in servers], **pool)
    policy = VLLMServerPolicy(pool, renderer, temperature)
    limits = limits or Limits(action_tokens=6)
    played = RolloutManager(policy, renderer, limits, concurrency).run(specs(group, trial_maker(group, 2), trials))
    return played, pool


def test_what_is_sent(fake):
    server = fake()
    played, pool = play([server], trials=2, temperature=0.7)
    first = server.bodies[0]
    assert first["model"] == "fake" and first["temperature"] == 0.7
    assert (first["top_p"], first["top_k"], first["min_p"], first["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)
    assert first["stop_token_ids"] == sorted(RENDERER.end_ids) and first["ignore_eos"] is True
    assert first["return_token_ids"] is True and first["logprobs"] == 0 and first["max_tokens"] == 6
    assert len({body["seed"] for body in server.bodies}) == len(server.bodies) == pool.stats.requests
    # Every prompt is the start of the row that its trial ended with: the context only grew.
    rows = [row.ids for trajectory in played for row in trajectory.rows]
    for body in server.bodies:
        assert any(row[: len(body["prompt"])] == body["prompt"] for row in rows)


def test_replies_become_actions(fake):
    server = fake()
    played, _ = play([server], trials=16)
    for trajectory in played:
        assert trajectory.error is None
        row = trajectory.rows[0]
        for token, logprob, own in zip(row.completion_ids, row.logprobs, row.action_mask):
            assert not own or logprob == -1.0 - token / 100
    assert any(t.truncated_actions for t in played)


def test_actions_of_fixed_length_end_by_themselves(fake):
    group = terse("Doors-v0")
    _, tokenizer, renderer = word_parts(group)
    server = fake(vocabulary=len(tokenizer))
    played, _ = play([server], renderer=renderer, group=group)
    assert {body["max_tokens"] for body in server.bodies} == {1}
    assert not any(t.truncated_actions for t in played)


def test_the_same_whatever_the_concurrency_and_the_number_of_servers(fake):
    alone, _ = play([fake()], trials=24, concurrency=1)
    together, _ = play([fake(), fake(fault=lambda n: 0.01 * (n % 3))], trials=24)
    assert tokens(alone) == tokens(together)


def test_requests_in_flight_are_bounded(fake):
    server = fake(fault=lambda n: 0.02)
    play([server], trials=12)
    assert server.most_at_once == 12
    bounded = fake(fault=lambda n: 0.02)
    pool = ServerPool([Server(bounded.url, "fake")], concurrency=3)
    RolloutManager(VLLMServerPolicy(pool, RENDERER), RENDERER, Limits(action_tokens=6)).run(
        specs(GROUP, trial_maker(GROUP, 2), 12)
    )
    assert bounded.most_at_once == 3


def test_servers_share_the_trials_and_keep_them(fake):
    servers = [fake(fault=lambda n: 0.01), fake(fault=lambda n: 0.01)]
    play(servers, trials=16)
    shares = [len(server.bodies) for server in servers]
    assert min(shares) > 0.25 * sum(shares)
    # A trial's later prompts go where its earlier ones went: the prefix is cached there.
    opening = min(len(body["prompt"]) for server in servers for body in server.bodies)  # common to all trials
    for server, other in (servers, servers[::-1]):
        longest = sorted((body["prompt"] for body in server.bodies), key=len)[-3:]
        for prompt in longest:
            shared = [b for b in other.bodies if prompt[: len(b["prompt"])] == b["prompt"]]
            assert all(len(b["prompt"]) == opening for b in shared)


def test_bursts_of_500_lose_no_trial(fake):
    expected, _ = play([fake()], trials=24)
    played, pool = play([fake(fault=lambda n: 500 if n % 5 == 0 else None)], trials=24)
    assert tokens(played) == tokens(expected)
    assert pool.stats.retries > 10


@pytest.mark.parametrize("fault", ["drop", 429, 503])
def test_faults_that_pass_are_tried_again(fault, fake):
    played, pool = play([fake(fault=lambda n: fault if n in (3, 4, 7) else None)])
    assert pool.stats.retries == 3 and all(t.error is None for t in played)


def test_a_slow_request_truncates_its_trial(fake):
    slow = 5
    played, pool = play([fake(fault=lambda n: 3.0 if n == slow else None)], request_timeout=0.3)
    stopped = [t for t in played if t.stop is StopReason.TIME_LIMIT]
    assert len(stopped) == pool.stats.deadlines == 1 and stopped[0].truncated
    assert all(t.stop is StopReason.TERMINATED for t in played if t is not stopped[0])


def test_a_server_that_stays_away_ends_the_rollout(fake):
    server = fake(fault=lambda n: "drop" if n >= 6 else None)
    with pytest.raises(PolicyLost, match=r"did not answer for 1 s of retries .*Start the server again"):
        play([server], retry_seconds=1.0)


@pytest.mark.parametrize("fault", ["drop", 60.0])
def test_a_pool_in_a_hurry_waits_for_no_server(fault, fake, monkeypatch):
    """After SIGTERM a server may be gone, or hold its connections open and answer nothing."""
    monkeypatch.setattr(server_pool, "LAST_SECONDS", 0.1)
    pool = ServerPool([Server(fake(fault=lambda n: fault).url, "fake")], retry_seconds=3600.0)
    manager = RolloutManager(VLLMServerPolicy(pool, RENDERER), RENDERER, Limits(action_tokens=6))
    threading.Timer(0.5, pool.hurry).start()
    begin = time.monotonic()
    with pytest.raises(PolicyLost, match="did not answer" if fault == "drop" else r"longer than 0\.1 s after SIGTERM"):
        manager.run(specs(GROUP, trial_maker(GROUP, 2), 4))
    assert time.monotonic() - begin < 50, "the fake server would answer after 60 s"


@pytest.mark.parametrize("fault", ["drop", 503])
def test_with_two_servers_the_other_takes_over(fault, fake):
    lost, kept = fake(fault=lambda n: fault if n >= 3 else None), fake()
    expected, _ = play([fake()], trials=16)
    played, pool = play([lost, kept], trials=16, retry_seconds=2.0)
    assert tokens(played) == tokens(expected) and pool.stats.retries > 0


def test_a_server_started_again_is_not_taken_for_the_one_before(fake):
    server = fake(fault=lambda n: "drop" if n == 5 else None)

    def play_with(weights):
        pool = ServerPool([Server(server.url, "fake")])
        pool.gate.weights = weights
        policy = VLLMServerPolicy(pool, RENDERER)
        return RolloutManager(policy, RENDERER, Limits(action_tokens=6)).run(specs(GROUP, trial_maker(GROUP, 2), 8))

    server.weights = "w1"
    assert all(t.error is None for t in play_with("w1"))
    server.bodies.clear()
    server.weights = "default"  # what a fresh vLLM server says
    with pytest.raises(PolicyLost, match="was started again in the middle of a rollout"):
        play_with("w1")


def test_the_limit_on_open_files_bounds_the_concurrency(fake, monkeypatch):
    limits = [(300, 350)]
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda what, pair: limits.append(pair))
    _, pool = play([fake()], trials=2)
    assert limits[-1] == (350, 350) and pool.concurrency == 150


def test_a_refusal_ends_the_rollout_with_the_servers_words(fake):
    with pytest.raises(PolicyLost, match=r"refused a request with HTTP 404: .*injected"):
        play([fake(fault=lambda n: 404)])


def test_a_server_of_another_kind_is_told(fake):
    server = fake()
    server._answer = lambda body: {"choices": [{"text": "hello"}], "usage": {"prompt_tokens": len(body["prompt"])}}
    with pytest.raises(PolicyLost, match="without readable token_ids and logprobs"):
        play([server])


def test_a_prompt_changed_by_the_server_is_told(fake):
    server = fake()
    inner = server._answer
    server._answer = lambda body: inner(body) | {"usage": {"prompt_tokens": len(body["prompt"]) + 1}}
    with pytest.raises(PolicyLost, match=r"read \d+ prompt tokens where \d+ were sent"):
        play([server])


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "missing or not finite"), (-9999.0, "missing or not finite"), (float("nan"), "readable")],
)
def test_logprobs_that_are_no_numbers_are_told(value, words, fake):
    server = fake()

    def answer(body):
        choice = {"token_ids": [5], "logprobs": {"token_logprobs": [value]}, "finish_reason": "length"}
        return {"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"])}}

    server._answer = answer
    with pytest.raises(PolicyLost, match=words):
        play([server])


def test_a_request_that_the_server_broke_off_is_no_short_action(fake):
    server = fake()

    def answer(body):
        choice = {"token_ids": [5], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "abort"}
        return {"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"])}}

    server._answer = answer
    with pytest.raises(PolicyLost, match=r"broke a request off \(finish_reason 'abort'\)"):
        play([server])


def test_a_trial_ended_by_its_time_limit_is_not_waited_for(fake):
    server = fake(fault=lambda n: 60.0 if n == 2 else None)
    played, _ = play([server], limits=Limits(action_tokens=6, trial_seconds=0.5))
    assert server.open_requests == 1  # it still waits
    assert [t.stop for t in played].count(StopReason.TIME_LIMIT) == 1


def test_temperature_must_be_positive():
    with pytest.raises(ConfigError, match="temperature=0"):
        VLLMServerPolicy(ServerPool([Server("http://x", "fake")]), RENDERER, 0.0)


class Updates(threading.Thread):
    """Updates the weights of servers under a rollout, as a trainer does, every tenth of a second."""

    def __init__(self, gate, servers, settle=True):
        super().__init__(daemon=True)
        self.gate, self.servers, self.settle = gate, servers, settle
        self.ended, self.count = threading.Event(), 0
        gate.open(0, None)

    def run(self):
        while not self.ended.wait(0.1):
            self.gate.close()
            for server in self.servers:
                requests.post(f"{server.url}/pause", timeout=10)
            self.gate.settle()
            self.count += 1
            self.gate.open(self.count, None)
            for server in self.servers:
                requests.post(f"{server.url}/resume", timeout=10)


@pytest.mark.parametrize("servers", [1, 2])
def test_updates_under_a_rollout(servers, fake):
    """Each token has the version that was at the server when it was sampled, and no token is lost or sampled twice."""
    running = [fake() for _ in range(servers)]
    for server in running:
        server.seconds_per_token = 0.01
    gate = WeightGate()
    updates = Updates(gate, running)
    updates.start()
    try:
        played, pool = play(running, trials=8, limits=Limits(action_tokens=24), gate=gate)
    finally:
        updates.ended.set()
        updates.join(10)
    assert all(t.error is None for t in played) and pool.stats.retries == 0
    assert updates.count > 5
    bodies = {(tuple(body["prompt"]), body["seed"], body["max_tokens"]) for server in running for body in server.bodies}
    split = 0
    for trajectory in played:
        (row,) = trajectory.rows
        versions = [v for v, sampled in zip(row.version, row.action_mask) if sampled]
        assert versions == sorted(versions) and versions[0] >= 0 and versions[-1] <= updates.count
        assert all(v == -1 for v, sampled in zip(row.version, row.action_mask) if not sampled)
        actions = {}
        for place, (sampled, episode, turn) in enumerate(zip(row.action_mask, row.episode, row.turn)):
            if sampled:
                actions.setdefault((episode, turn), []).append(place)
        for places in actions.values():
            assert len(places) <= 24
            split += len({row.version[place] for place in places}) > 1
            for place in places[1:]:
                if row.version[place] > row.version[place - 1]:  # it went on from here, with the rest of its limit
                    context = tuple(row.ids[: row.prompt_len + place])
                    rest = 24 - (place - places[0])
                    assert any(prompt == context and left == rest for prompt, _, left in bodies)
    assert split > 5
    assert len({seed for _, seed, _ in bodies}) >= len(bodies) - updates.count * 8  # none sampled yet: the same again


def test_an_answer_that_someone_else_broke_off_is_an_error(fake):
    server = fake()
    server.seconds_per_token = 5.0

    def pause():
        while server.open_requests < 2:
            time.sleep(0.01)
        requests.post(f"{server.url}/pause", timeout=10)

    threading.Thread(target=pause, daemon=True).start()
    with pytest.raises(PolicyLost, match="broke a request off"):
        play([server], trials=2)
