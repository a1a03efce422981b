"""register, make and list; gymnasium's registry; plugins."""

from __future__ import annotations

import sys

import gymnasium
import pytest

from metarlgym import ConfigError, Env, MetaRLGymError, Trial, check_env, list_envs, make, register, registry
from metarlgym.envs.doors import Doors


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Every test has its own copy of the two registries."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    before = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def test_make():
    env = make("Doors-v0", doors=3, style="terse")
    assert (type(env), env.env_id, env.doors, env.style) == (Doors, "Doors-v0", 3, "terse")
    assert type(make("metarlgym/Doors-v0")) is Doors


def test_make_trial():
    trial = make("Doors-v0", episodes=4, free_shots=1, stop_on_success=True, max_total_turns=3, doors=3)
    assert isinstance(trial, Trial)
    assert (trial.episodes, trial.free_shots, trial.stop_on_success, trial.max_total_turns) == (4, 1, True, 3)
    assert (trial.env_id, trial.env.doors) == ("Doors-v0", 3)


@pytest.mark.parametrize("wrong", ["Dors-v0", "doors-v0", "Doors-v1", "metarlgym/Door-v0"])
def test_unknown_id_names_the_nearest(wrong):
    with pytest.raises(ConfigError, match=r"is not registered\. Did you mean .*Doors-v0") as caught:
        make(wrong)
    assert "\n" not in str(caught.value)


def test_unknown_id_far_from_all_names_lists_them():
    with pytest.raises(ConfigError, match=r"Known: .*Doors-v0"):
        make("zzzzzzzzzzzzzzzz")


@pytest.mark.parametrize("name", ["Doors", "Doors-v", "Doors-vx", "-v0", "Doors-v0.1"])
def test_an_id_needs_a_version(name):
    with pytest.raises(ConfigError, match="has no version"):
        register(name, Doors)


def test_an_id_is_taken_once():
    with pytest.raises(ConfigError, match="registered already"):
        register("Doors-v0", Doors)


def test_register_a_class_with_defaults():
    register("Closet-v3", Doors, kwargs={"doors": 2, "safe": 0.1}, summary="Two doors.")
    assert (make("Closet-v3").doors, make("Closet-v3", doors=5).doors, make("Closet-v3").safe) == (2, 5, 0.1)
    assert "Closet-v3" in [spec.env_id for spec in list_envs()]
    assert registry.spec("Closet-v3").summary == "Two doors."
    check_env("Closet-v3")


def test_wrong_arguments_name_the_environment():
    with pytest.raises(ConfigError, match=r"env_args=\{'rooms': 3\} do not fit Doors-v0"):
        make("Doors-v0", rooms=3)


def test_what_is_made_must_be_an_env():
    register("List-v0", list)
    with pytest.raises(MetaRLGymError, match="List-v0"):
        make("List-v0")


def test_gymnasium_make_returns_the_bare_class():
    env = gymnasium.make("metarlgym/Doors-v0", doors=5)
    assert type(env) is Doors
    assert (env.doors, env.spec.id) == (5, "metarlgym/Doors-v0")
    assert env.reset(seed=1) == ("Which door do you open?", {})
    assert len(env.step("[1]")) == 5


def test_gymnasium_make_trial():
    trial = gymnasium.make("metarlgym/Doors-Trial-v0")
    assert isinstance(trial, Trial)
    assert (trial.episodes, trial.spec.id) == (3, "metarlgym/Doors-Trial-v0")
    trial = gymnasium.make("metarlgym/Doors-Trial-v0", episodes=5, free_shots=2, doors=3)
    assert (trial.episodes, trial.free_shots, trial.env.doors) == (5, 2, 3)
    trial.reset(seed=1)
    for _ in range(4):
        assert not trial.step("[safe]").terminated
    assert trial.step("[safe]").terminated


def test_all_are_in_gymnasium():
    for spec in list_envs():
        name, _, version = spec.env_id.rpartition("-")
        assert {f"metarlgym/{spec.env_id}", f"metarlgym/{name}-Trial-{version}"} <= gymnasium.registry.keys()
        assert spec.summary
        assert isinstance(make(spec.env_id), Env)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed distributions, none of which has been looked at."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_plugins_loaded", False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
            del sys.modules[name]


def install(site, name, code, entry="register_all"):
    (site / f"plugin_{name}.py").write_text(code)
    info = site / f"plugin_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plugin-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[metarlgym.envs]\n{name} = plugin_{name}:{entry}\n")


GOOD = """
from metarlgym import register
from metarlgym.envs.doors import Doors

class Gates(Doors):
    pass

def register_all():
    register("Gates-v0", "plugin_good:Gates", summary="Doors elsewhere.")
"""


def test_plugin_is_loaded_by_an_unknown_id(site):
    install(site, "good", GOOD)
    make("Doors-v0")
    assert "plugin_good" not in sys.modules
    assert type(make("Gates-v0")).__name__ == "Gates"
    assert type(gymnasium.make("metarlgym/Gates-v0")).__name__ == "Gates"
    check_env("Gates-v0")


def test_plugin_is_loaded_by_list_envs(site):
    install(site, "good", GOOD)
    assert "Gates-v0" in [spec.env_id for spec in list_envs()]


def test_broken_plugin_hides_nothing(site):
    install(site, "bad", "raise RuntimeError('no licence')")
    install(site, "good", GOOD)
    with pytest.raises(ConfigError, match=r"plugin bad .*RuntimeError: no licence"):
        make("Nothing-v0")
    assert type(make("Gates-v0")).__name__ == "Gates"
    assert registry.load_plugins() == []


def test_an_id_may_name_the_module_that_registers_it(tmp_path, monkeypatch):
    (tmp_path / "elsewhere_envs.py").write_text(
        "from metarlgym import register\nregister('Elsewhere-v0', 'metarlgym.envs.doors:Doors')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert make("elsewhere_envs:Elsewhere-v0").env_id == "Elsewhere-v0"
    assert make("Elsewhere-v0").env_id == "Elsewhere-v0"
    with pytest.raises(ConfigError, match="module 'no_such_envs' cannot be imported"):
        make("no_such_envs:Elsewhere-v0")
    registry._REGISTRY.pop("Elsewhere-v0")
