"""register, make and list; gymnasium's registry; plugins."""

from __future__ import annotations

import os
import subprocess
import sys

import gymnasium
import pytest

from metarlgym import ConfigError, Env, MetaRLGymError, Trial, check_env, list_envs, make, register, registry
from metarlgym.envs.doors import Doors


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Every test has its own copy of the two registries."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(registry, "_announced", set())
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


def test_a_module_is_not_credited_with_environments_of_others():
    for name in ("os:system", "os:Mastermind", "json.decoder:Doors-v1"):
        module = name.partition(":")[0]
        with pytest.raises(ConfigError) as caught:
            make(name)
        assert str(caught.value) == (
            f"env={name!r} is not registered. The module {module!r} registers no such environment: give one that does, "
            "or an id of metarlgym list."
        )


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
    with pytest.raises(
        ConfigError, match=r"env_args=\{'rooms': 3\}: Doors-v0 has no argument 'rooms': use doors, safe, "
    ):
        make("Doors-v0", rooms=3)
    register("Picky-v0", _picky)
    with pytest.raises(ConfigError) as caught:
        make("Picky-v0")
    assert str(caught.value).endswith("give rooms.")


def test_unknown_arguments_are_named_beside_the_known_ones():
    class Middle(Doors):
        def __init__(self, width=1, **kwargs):
            super().__init__(**kwargs)

    class Closed(Doors):
        def __init__(self, height=1):
            super().__init__()

    register("Middle-v0", Middle)
    register("Closed-v0", Closed)
    register("Function-v0", lambda depth=1: Doors())
    for name, known in (
        ("Middle", "width, doors, safe, style, split, strict"),
        ("Closed", "height"),
        ("Function", "depth"),
    ):
        with pytest.raises(ConfigError) as caught:
            make(f"{name}-v0", pegs=6, pins=2)
        line = f"env_args={{'pegs': 6, 'pins': 2}}: {name}-v0 has no argument 'pegs' and no 'pins': use {known}."
        assert str(caught.value) == line
    assert make("Middle-v0", width=2, doors=7).doors == 7


def test_an_environment_too_large_for_the_memory():
    def too_large(**_):
        raise MemoryError

    register("Large-v0", too_large)
    with pytest.raises(ConfigError, match=r"env_args=\{'size': 9\}: there is not enough memory for such a Large-v0"):
        make("Large-v0", size=9)


def test_an_unregistered_id_of_a_module_is_told_as_given():
    with pytest.raises(
        ConfigError, match=r"env='metarlgym.envs.doors:Doors' is not registered\. Did you mean metarlgym"
    ):
        make("metarlgym.envs.doors:Doors")


def _picky(**kwargs):
    raise TypeError("give rooms.")


def test_what_is_made_must_be_an_env():
    register("List-v0", list)
    with pytest.raises(MetaRLGymError, match="List-v0"):
        make("List-v0")


def test_gymnasium_make_returns_the_bare_class():
    env = gymnasium.make("metarlgym/Doors-v0", doors=5)
    assert type(env) is Doors
    assert (env.doors, env.spec.id) == (5, "metarlgym/Doors-v0")
    assert env.reset(seed=1) == ("Which door: [1], [2], [3], [4], [5] or [safe]?", {})
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


@pytest.mark.parametrize("trial", ["", "-Trial"])
def test_ansi_rendering_is_the_last_text(trial):
    env = gymnasium.make(f"metarlgym/Doors{trial}-v0", render_mode="ansi")
    first, _ = env.reset(seed=1)
    assert env.render() == first
    text = env.step("[1]").observation
    assert env.render() == text
    assert env.render_mode in env.metadata["render_modes"]


def test_other_rendering_is_refused():
    with pytest.raises(ConfigError, match="render_mode='human' is not known to Doors-v0, whose output is text"):
        gymnasium.make("metarlgym/Doors-v0", render_mode="human")
    assert gymnasium.make("metarlgym/Doors-v0").render_mode is None


def test_gymnasium_records_the_statistics_of_a_trial():
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("metarlgym/Doors-Trial-v0"))
    env.reset(seed=1)
    rewards = [env.step("[safe]") for _ in range(3)]
    info = rewards[-1][4]
    assert info["episode"]["l"] == 3
    assert info["episode"]["r"] == pytest.approx(sum(step[1] for step in rewards))
    assert [step[4]["episode_index"] for step in rewards] == [0, 1, 2]


def test_vectors_of_environments():
    """Text of any length does not fit gymnasium's shared memory, and gymnasium says what to do."""
    make_vec = gymnasium.make_vec
    with pytest.raises(ValueError, match="shared_memory=False"):
        make_vec("metarlgym/Doors-v0", num_envs=2, vectorization_mode="async")
    for mode, kwargs in (("sync", {}), ("async", {"shared_memory": False})):
        envs = make_vec("metarlgym/Doors-Trial-v0", num_envs=2, vectorization_mode=mode, vector_kwargs=kwargs)
        texts, _ = envs.reset(seed=1)
        assert len(texts) == 2 and all("Which door" in text for text in texts)
        assert envs.step(["[1]", "[2]"])[1].shape == (2,)
        envs.close()


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


def install(site, name, code, entry="register_all", points=None):
    """Install a distribution; `points` names its entry points, by default one with the distribution's own name."""
    (site / f"plugin_{name}.py").write_text(code)
    info = site / f"plugin_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plugin-{name}\nVersion: 1.0\n")
    lines = [f"{point} = plugin_{name}:{entry}" for point in points or [name]]
    (info / "entry_points.txt").write_text("\n".join(["[metarlgym.envs]", *lines, ""]))


GOOD = '''
from metarlgym import register
from metarlgym.envs.doors import Doors

class Gates(Doors):
    """Doors with another name."""

def register_all():
    register("Gates-v0", "plugin_good:Gates", summary="Doors elsewhere.")
'''


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


def test_a_class_is_a_plugin_under_its_entry_points_name(site):
    install(site, "good", GOOD, entry="Gates", points=["Portals-v0"])
    assert type(make("Portals-v0")).__name__ == "Gates"
    assert registry.spec("Portals-v0").summary == "Doors with another name."
    assert type(gymnasium.make("metarlgym/Portals-v0")).__name__ == "Gates"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("NUMBER", "neither a subclass of metarlgym.Env nor a function"),
        ("Other", "neither a subclass of metarlgym.Env nor a function"),
        ("make_one", "it returned Gates, which is ignored: call metarlgym.register in it"),
        ("Gates", "env_id='good' has no version"),
    ],
)
def test_an_entry_point_that_registers_nothing_is_told(site, entry, problem):
    code = GOOD + "\nNUMBER = 3\n\nclass Other:\n    pass\n\ndef make_one():\n    return Gates()\n"
    install(site, "good", code, entry=entry)
    with pytest.warns(UserWarning, match=f"plugin good .*{problem}"):
        list_envs()


def test_gymnasium_knows_a_plugin_by_its_name_before_it_is_imported(site, recwarn):
    install(site, "good", GOOD, points=["Gates-v0", "Twins-v0"])  # two ids registered by one function
    install(site, "bad", "raise RuntimeError('no license')", points=["Bad-v0", "Doors-v0"])
    registry.announce_plugins()
    assert "plugin_good" not in sys.modules
    assert type(gymnasium.make("metarlgym/Gates-v0")).__name__ == "Gates"
    assert isinstance(gymnasium.make("metarlgym/Gates-Trial-v0"), Trial)
    assert type(gymnasium.make("metarlgym/Doors-v0")) is Doors
    with pytest.raises(ConfigError, match="env='Bad-v0' is not registered"):
        gymnasium.make("metarlgym/Bad-v0")
    assert not [w for w in recwarn if "verrid" in str(w.message)]  # no id was registered with gymnasium twice


def test_importing_metarlgym_announces_plugins(site):
    install(site, "good", GOOD, points=["Gates-v0"])
    code = "import metarlgym, gymnasium; print(type(gymnasium.make('metarlgym/Gates-v0')).__name__)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Gates"


def test_broken_plugin_hides_nothing(site):
    install(site, "bad", "raise RuntimeError('no license')")
    install(site, "good", GOOD)
    with pytest.raises(ConfigError, match=r"plugin bad .*RuntimeError: no license"):
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
    with pytest.raises(ConfigError, match=r"Did you mean metarlgym\.envs:Mastermind-v0 or "):
        make("metarlgym.envs:Mastermid-v0")
    with pytest.raises(ConfigError, match="module 'no_such_envs' cannot be imported"):
        make("no_such_envs:Elsewhere-v0")
    registry._REGISTRY.pop("Elsewhere-v0")
