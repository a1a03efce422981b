"""Whatever an environment raises is an error of its trial alone, in every way of playing it."""

import pytest

from metarlgym import Env, MetaRLGymError, Step, Task, TaskGroup, Trial, check_env, register, registry
from metarlgym.author_errors import contained, error_detail, error_line
from metarlgym.contracts.check_env import run_checks
from metarlgym.contracts.quick_check import quick_check
from metarlgym.datatypes import StopReason
from metarlgym.policies.scripted import OraclePolicy, RandomPolicy, ScriptedPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.rollout.manager import RolloutManager, TrialSpec


class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")


class Leaving(Exception):
    def __str__(self):
        raise SystemExit(3)


class Raising(Env):
    max_turns = 1

    def __init__(self, where="", error=None, text="", **kwargs):
        super().__init__(**kwargs)
        self.where, self.error, self.text = where, error, text

    def at(self, where):
        if where == self.where and self.error is not None:
            raise self.error
        return self.text if where == self.where else "."

    def rules(self):
        return self.at("rules")

    def sample_task(self, rng):
        return {"side": rng.randrange(2)}

    def boundary(self, episode, episodes):
        return self.at("boundary")

    def on_reset(self, params, rng):
        return self.at("reset")

    def on_step(self, action):
        return Step(self.at("step"), 0.0, True, False)

    def random_action(self, rng):
        return self.at("random_action")

    def oracle(self, history):
        return self.at("oracle")


class Waiting(Raising):
    blocking = True


PATHS = {"direct": (Raising, None), "timed": (Raising, Limits(trial_seconds=30)), "blocking": (Waiting, None)}
ERRORS = {
    "SystemExit: 3": SystemExit(3),
    "GeneratorExit": GeneratorExit(),
    "StopIteration": StopIteration(),
    "BaseException: odd": BaseException("odd"),
    "Mute: (no text: its __str__ raised ValueError)": Mute(),
    "Leaving: (no text: its __str__ raised SystemExit)": Leaving(),
    "ValueError: \\ud800": ValueError("\ud800"),
}


def play(path, policy=None, **broken):
    """The trials of a rollout, of which the second is broken."""
    cls, limits = PATHS[path]

    def spec(i):
        return TrialSpec(lambda: Trial(cls(**(broken if i == 1 else {})), 2), Task("x", {"side": 0}, key="x"), i)

    policy = policy or ScriptedPolicy(lambda session, rng: str(session.messages and "a"))
    return RolloutManager(policy, None, limits).run([spec(i) for i in range(3)])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("where", ["step", "reset", "rules", "boundary"])
@pytest.mark.parametrize("line", ERRORS)
def test_an_error_of_any_kind_ends_its_trial_alone(path, where, line):
    first, broken, last = play(path, where=where, error=ERRORS[line])
    assert (broken.stop, broken.error) == (StopReason.ERROR, line)
    broken.error_detail.encode()
    assert "Traceback" in broken.error_detail
    assert first.error is last.error is None and len(last.episodes) == 2


@pytest.mark.parametrize("policy", [OraclePolicy, RandomPolicy])
def test_baselines_that_leave_end_their_trial_alone(policy):
    where = "oracle" if policy is OraclePolicy else "random_action"
    first, broken, last = play("direct", policy(), where=where, error=SystemExit(3))
    assert broken.error == "SystemExit: 3" and first.error is last.error is None


@pytest.mark.parametrize("path", PATHS)
def test_ctrl_c_still_ends_the_rollout(path):
    with pytest.raises(KeyboardInterrupt):
        play(path, where="step", error=KeyboardInterrupt())


def test_a_constructor_that_leaves_is_an_error_of_the_rollout():
    def leave():
        raise SystemExit(3)

    with pytest.raises(MetaRLGymError, match=r"environment raised SystemExit: 3"):
        RolloutManager(RandomPolicy()).run([TrialSpec(leave, Task("x", {}, key="x"), 0)])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("where", ["step", "reset", "rules", "boundary"])
def test_a_text_that_cannot_be_encoded_is_an_error_of_its_trial_by_name(path, where):
    first, broken, last = play(path, where=where, text="Wro\ud800ng")
    assert broken.stop is StopReason.ERROR and first.error is last.error is None
    assert "'Wro\\ud800ng', which holds a lone surrogate" in broken.error
    assert {"step": "the observation", "reset": "on_reset"}.get(where, f"{where}()") in broken.error


def test_texts_beyond_ascii_are_as_good_as_any():
    for played in play("direct", where="step", text="é 漢 🎲"):
        assert played.error is None


@pytest.fixture
def broken_group(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(registry, "_register_in_gymnasium", lambda env_id: None)
    register("Raising-v0", Raising)

    def group(**broken):
        return TaskGroup("Raising-v0", broken)

    return group


@pytest.mark.parametrize("where", ["step", "reset", "rules", "random_action"])
@pytest.mark.parametrize("error", [SystemExit(3), Mute()], ids=["exit", "mute"])
def test_the_quick_check_sees_it(broken_group, where, error):
    group = broken_group(where=where, error=error)
    problem = quick_check(group, lambda: Trial(group.make_env(), 2))
    assert problem is not None and error_line(error) in str(problem)


def test_the_quick_check_names_a_text_that_cannot_be_encoded(broken_group):
    group = broken_group(where="rules", text="\ud800")
    assert "lone surrogate" in str(quick_check(group, lambda: Trial(group.make_env(), 2)))


def test_the_contracts_see_it():
    found = dict(run_checks(lambda: Raising("step", SystemExit(3)), trials=2))
    assert found["rewards"] == "raises SystemExit: 3" and "raises SystemExit" in found["junk"]
    with pytest.raises(MetaRLGymError, match="__str__"):
        check_env(lambda: Raising("step", Mute()), trials=2)


class Leaver(Raising):
    def __init__(self, **kwargs):
        raise SystemExit(3)


def test_an_environment_that_cannot_be_made_for_it_says_so(broken_group, monkeypatch, tmp_path):
    register("Leaver-v0", Leaver)
    with pytest.raises(MetaRLGymError, match="Leaver-v0: making the environment raised SystemExit: 3"):
        registry.make("Leaver-v0")
    (tmp_path / "leaving_module.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MetaRLGymError, match="importing 'leaving_module' raised SystemExit: 3"):
        registry.make("leaving_module:X-v0")


def test_words_for_errors():
    with pytest.raises(ValueError, match="as it is"), contained("this"):
        raise ValueError("as it is")
    with pytest.raises(KeyboardInterrupt), contained("this"):
        raise KeyboardInterrupt
    assert error_line(ValueError("a\nb")) == "ValueError: a\nb"
    error_detail(ValueError("\ud800")).encode()
