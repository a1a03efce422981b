"""The probe's comparison: what passes, what stops a run."""

import math

import pytest

from metarlgym.serving.logprob_probe import ProbeMismatch, compare, probe_prompt, server_continuation
from tests.fake_vllm import FakeVLLM


def test_equal_within_tolerance():
    result = compare("http://a", [-1.0, -2.0, -3.0], [-1.0, -2.0006, -3.0], 1e-3)
    assert result.mean == pytest.approx(0.0002) and result.largest == pytest.approx(0.0006)


@pytest.mark.parametrize("other", [-1.01, math.nan, -math.inf])
def test_a_mismatch_says_what_may_be_wrong(other):
    with pytest.raises(ProbeMismatch, match=r"http://a does not hold the trainer's weights.*probe_tolerance=0.001"):
        compare("http://a", [-1.0, -1.0], [other, -1.01], 1e-3)


def test_the_prompt_is_fixed_and_ordinary():
    ids = probe_prompt(100, [0, 1, 2])
    assert ids == probe_prompt(100, [0, 1, 2]) and len(ids) == 32
    assert min(ids) >= 3 and max(ids) < 100
    assert len(probe_prompt(3, [0, 1, 2])) == 32  # nothing ordinary: better special tokens than none


def test_a_continuation_is_as_long_as_asked_for():
    server = FakeVLLM()
    inner = server._answer
    server._answer = lambda body: inner(body | {"stop_token_ids": []})
    try:
        ids, logprobs = server_continuation(server.url, "fake", [1, 2, 3], 12, 0.5, 10)
    finally:
        server.stop()
    assert len(ids) == len(logprobs) == 12
    assert server.bodies[0]["temperature"] == 0.5 and server.bodies[0]["prompt"] == [1, 2, 3]
