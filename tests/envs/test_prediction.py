"""The prediction games: texts, answers, scores, optimum."""

import math
import random
import re

import gymnasium
import numpy as np
import pytest

import metarlgym
from metarlgym import ConfigError, TaskGroup, Trial, check_env
from metarlgym.datatypes import EpisodeOver
from metarlgym.envs.prediction import MIX, best_scores, best_statement, log_score
from metarlgym.policies.scripted import OraclePolicy
from metarlgym.rollout.manager import RolloutManager, TrialSpec
from metarlgym.sequences.sources import MetaLM

GAMES = ["MetaLM-v0", "RLM-v0", "Piecewise-v0"]
MODES = [{"ask": ask, "answer": answer} for ask in ("next", "fill") for answer in ("token", "probabilities")]


def _one_mode_each() -> list:
    """Every game and every mode once; the other pairs take half a minute."""
    pairs = [(game, mode) for game in range(len(GAMES)) for mode in range(1, len(MODES))]
    slow = {pair: () if pair[1] == pair[0] + 1 else pytest.mark.slow for pair in pairs}
    return [
        pytest.param(
            GAMES[game], MODES[mode], id="-".join([GAMES[game], *MODES[mode].values()]), marks=slow[game, mode]
        )
        for game, mode in pairs
    ]


@pytest.mark.parametrize(("env_id", "mode"), _one_mode_each())
def test_contracts_of_every_mode(env_id, mode):
    """The default modes are checked with the registry."""
    check_env(lambda **kwargs: metarlgym.make(env_id, **mode, **kwargs))


class TestGame:
    def test_terse_stream_is_the_source(self):
        env = metarlgym.make("RLM-v0", v=5, L=3, style="terse")
        shown = env.reset(seed=3)[0].split()
        for _ in range(4):
            observation, *_ = env.step("1")
            shown += observation.split()
        assert len(shown) == 8 and set(shown) <= set("12345")

    def test_right_tokens_pay_and_win(self):
        env = metarlgym.make("MetaLM-v0", e=0.0, style="terse", chunk=4, questions=3)
        env.reset(seed=5)
        twin = metarlgym.make("MetaLM-v0", e=0.0, style="terse", chunk=4, questions=3)
        twin.reset(seed=5)
        answers = [twin.step("1")[0] for _ in range(3)]  # without noise what is told is what was asked for
        steps = [env.step(answer) for answer in answers]
        assert [step.reward for step in steps] == pytest.approx([1 / 3] * 3)
        assert steps[-1].terminated and steps[-1].info["success"] and not steps[0].info["success"]

    def test_target_is_clean(self):
        """What is told afterwards is noisy; what pays is the clean token."""
        env = metarlgym.make("MetaLM-v0", e=1.0, chunk=1, questions=20, style="terse")
        task = env.new_task(1)
        elements = {str(s) for element in task.params["elements"] for s in element} | {"|"}
        paid = set()
        for answer in [*map(str, range(1, 12)), "|"]:
            env.reset(options={"task": task, "episode_seed": 1})
            if any(env.step(answer).reward > 0 for _ in range(20)):
                paid.add(answer)
        assert paid <= elements and len(paid) > 3

    def test_stride(self):
        env = metarlgym.make("MetaLM-v0", chunk=3, questions=2, stride=5, style="terse")
        assert len(env.reset(seed=0)[0].split()) == 3
        assert len(env.step("1")[0].split()) == 5
        assert len(env.step("1")[0].split()) == 5 and not env.live

    def test_fill_shows_one_hidden_place_and_tells_it(self):
        env = metarlgym.make("RLM-v0", ask="fill", questions=2, style="terse")
        first = env.reset(seed=0)[0].split()
        assert len(first) == 8 and first.count("?") == 1
        told, *second = env.step("1")[0].split()
        assert told.isdigit() and len(second) == 8 and second.count("?") == 1
        assert len(env.step("1")[0].split()) == 1

    def test_chat_reads_well(self):
        env = metarlgym.make("MetaLM-v0", answer="probabilities")
        assert "the same in every episode" in env.rules() and "|" in env.rules()
        assert env.reset(seed=0)[0].splitlines()[-1].startswith("Which token comes next")
        told, following = env.step("hm")[0].splitlines()[:2]
        assert told == 'That is no answer. Reply with "[1: 0.0833, 2: 0.0833, *: 0.833]".'
        assert following.startswith("Next: ")

    @pytest.mark.parametrize("env_id", ["MetaLM-v0", "RLM-v0", "Piecewise-v0"])
    def test_the_example_is_an_answer_that_favors_no_token(self, env_id):
        env = metarlgym.make(env_id, answer="probabilities")
        example = re.search(r'"(\[[^"]+\])"', env.rules())[1]
        env.reset(seed=0)
        probabilities = env._read(example)
        assert max(probabilities) - min(probabilities) < 0.001

    def test_percentages_are_understood(self):
        for args, valid in (({}, True), ({"strict": True}, False), ({"style": "terse"}, False)):
            env = metarlgym.make("RLM-v0", answer="probabilities", **args)
            env.reset(seed=0)
            assert env.step("[2: 70%, *: 30%]").info["valid"] == valid

    def test_the_law_reads_well(self):
        rules = metarlgym.make("Piecewise-v0", laws=["regular:3"]).rules()
        assert "A hidden law, the same in every episode, says when a segment ends. It is this: every 3 tokens." in rules


class TestProbabilities:
    @pytest.fixture
    def env(self):
        env = metarlgym.make("Piecewise-v0", alphabet=4, questions=12, answer="probabilities")
        env.reset(seed=0)
        return env

    @pytest.mark.parametrize(
        ("action", "stated"),
        [
            ("[1: 0.5, 2: 0.5]", [0.5, 0.5, 0, 0]),
            ("[*: 1]", [0.25] * 4),
            ("I think [3:0.7,*:0.3]", [0.1, 0.1, 0.7, 0.1]),
            ("1:0,2:0,3:0,4:1,*:0", [0, 0, 0, 1]),
            ("[1: 1.004]", [1, 0, 0, 0]),
            ("[1:1e0]", [1, 0, 0, 0]),
        ],
    )
    def test_read(self, env, action, stated):
        assert env._read(action) == pytest.approx(stated)
        assert env.step(action).info["valid"]

    @pytest.mark.parametrize(
        "action",
        [
            "",
            "1",
            "[1]",
            "[1: 0.5]",
            "[1: 1.02]",
            "[1: -0.5, 2: 1.5]",
            "[1: nan]",
            "[1: inf]",
            "[9: 1]",
            "[1: 1, 1: 0]",
            "[1: 0.5; 2: 0.5]",
            "[:1]",
            "[1:0.25,2:0.25,3:0.25,4:0.24,*:0.01]",
            "[1: -0.0001, 2: 1.0001]",
            "<think>[1:1]",
        ],
    )
    def test_invalid_pays_nothing(self, env, action):
        step = env.step(action)
        assert not step.info["valid"] and step.reward == 0.0

    def test_hedging_is_no_success(self, env):
        for _ in range(12):
            step = env.step("[*: 1]")
        assert step.terminated and step.reward > 0 and not step.info["success"]

    def test_random_play_states_what_terse_models_learn(self):
        env = metarlgym.make("Piecewise-v0", style="terse")
        words = {env.random_action(random.Random(i)) for i in range(400)}
        assert len(words) == 28 and all(len(word.split()) == 1 for word in words)
        for word in words:
            env.reset(seed=0)
            assert env.step(word).info["valid"]

    def test_score_bounds_and_formula(self):
        assert log_score(1.0, 7) == pytest.approx(1 + math.log(1 - MIX + MIX / 7) / math.log(7 / MIX))
        assert log_score(0.0, 7) == pytest.approx(0.0, abs=1e-12)
        assert 0.8 < log_score(0.5, 2) < log_score(0.9, 2) < log_score(1.0, 2) <= 1

    @pytest.mark.parametrize("size", [2, 3, 9])
    def test_best_statement_beats_all_others(self, size):
        rng = np.random.default_rng(0)
        for alpha in (0.02, 0.3, 2.0):
            q = rng.dirichlet(np.full(size, alpha))
            best = best_scores(q[None], "probabilities")[0]

            def value(p, q=q):
                return sum(qa * log_score(pa, size) for qa, pa in zip(q, p))

            stated = best_statement(q[None])[0]
            assert stated.sum() == pytest.approx(1) and (stated >= 0).all()
            assert value(stated) == pytest.approx(best, abs=1e-9)
            assert best >= value(q) - 1e-12
            for _ in range(300):
                near = np.abs(stated + rng.normal(0, 0.02, size))
                assert value(near / near.sum()) <= best + 1e-12


class TestOptimum:
    @pytest.mark.parametrize("style", ["chat", "terse"])
    @pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(mode.values()))
    def test_piecewise_oracle_reaches_it(self, mode, style):
        """The oracle reads the texts alone, the optimum is computed from arrays: two ways to the same number."""
        settings = {"alphabet": 3, "chunk": 6, "questions": 2, "style": style, **mode}
        count = 200
        group = TaskGroup("Piecewise-v0", settings, seed=1)
        specs = [
            TrialSpec(lambda: Trial(group.make_env(), 4), group.task(i, "eval"), i, ("oracle", i)) for i in range(count)
        ]
        found = np.array([t.returns for t in RolloutManager(OraclePolicy()).run(specs)])
        total, best = found.sum(1), group.env.optimal_returns(4)
        se = math.hypot(total.std() / math.sqrt(count), best.se)
        # In terse style only a few probabilities can be stated.
        lost = 0.05 if style == "terse" and mode["answer"] == "probabilities" else 0.0
        assert best.kind == "simulated"
        assert -4 * se - lost < total.mean() - best.total < 4 * se

    def test_piecewise_curve_rises_and_memory_matters(self):
        env = metarlgym.make("Piecewise-v0")
        best = env.optimal_returns(5)
        assert best.curve[0] + 0.005 < best.curve[-1]
        assert env.no_memory_bound(5) < best.total
        assert env.optimal_returns(5, 4).total == pytest.approx(best.curve[-1])

    def test_piecewise_with_one_law_is_its_own_predictor(self):
        """With the law known there is nothing to adapt to."""
        best = metarlgym.make("Piecewise-v0", laws=["static"], alphabet=2, concentration=0.5).optimal_returns(6)
        assert best.curve[0] == pytest.approx(best.curve[-1], abs=0.02)

    @pytest.mark.parametrize("env_id", GAMES[:2])
    @pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(mode.values()))
    def test_upper_bounds_are_flat_and_above_random(self, env_id, mode):
        env = metarlgym.make(env_id, **mode)
        best = env.optimal_returns(3)
        assert best.kind == "upper_bound" and len(set(best.curve)) == 1 and 0 < best.curve[0] <= 1
        chance = 1 / len(env.outcomes())
        assert best.curve[0] > 2 * chance

    def test_known_language_bound_is_reached_by_one_who_knows(self):
        """The right word for a language of one element without noise is always known: the bound is 1."""
        env = metarlgym.make("MetaLM-v0", n=1, e=0.0, V=64, l=30, chunk=4)
        assert env.optimal_returns(1).total == pytest.approx(1.0)

    def test_noise_free_grammar_bound(self):
        """At beta 0 every token is uniform, whatever is known."""
        assert metarlgym.make("RLM-v0", beta=0.0, v=8).optimal_returns(1).total == pytest.approx(1 / 8, abs=1e-9)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "told"),
    [
        ("MetaLM-v0", {"V": 1}, "V=1"),
        ("MetaLM-v0", {"V": 2}, "V=2"),
        ("MetaLM-v0", {"e": 1.5}, "e=1.5"),
        ("MetaLM-v0", {"chunk": 0}, "chunk=0"),
        ("MetaLM-v0", {"questions": -1}, "questions=-1"),
        ("MetaLM-v0", {"ask": "guess"}, "ask='guess'"),
        ("MetaLM-v0", {"answer": "words"}, "answer='words'"),
        ("MetaLM-v0", {"ask": "fill", "stride": 2}, "stride=2"),
        ("RLM-v0", {"v": 1}, "v=1"),
        ("RLM-v0", {"L": 0}, "L=0"),
        ("RLM-v0", {"chunk": 5, "questions": 4}, "chunk=5"),
        ("Piecewise-v0", {"laws": []}, "laws=[]"),
        ("Piecewise-v0", {"laws": ["static", "lin", "static"]}, "holds a law twice"),
        ("Piecewise-v0", {"laws": ["often"]}, "'often'"),
        ("Piecewise-v0", {"laws": ["regular"]}, "'regular'"),
        ("Piecewise-v0", {"laws": ["regular:0"]}, "period=0"),
        ("Piecewise-v0", {"laws": ["random:5-2"]}, "high=2"),
        ("Piecewise-v0", {"alphabet": 1}, "alphabet=1"),
    ],
)
def test_bad_settings(env_id, kwargs, told):
    with pytest.raises(ConfigError) as error:
        metarlgym.make(env_id, **kwargs)
    assert told in str(error.value) and "\n" not in str(error.value)


class TestGenerator:
    @pytest.mark.parametrize("name", ["meta-lm-v0", "metarlgym/meta-lm-v0"])
    def test_as_in_metagym(self, name):
        env = gymnasium.make(name, V=64, n=10, l=64, e=0.10, L=512)
        obs, label = env.data_generator()
        batch_obs, batch_label = env.batch_generator(3)
        assert obs.shape == label.shape == (512,) and batch_obs.shape == batch_label.shape == (3, 512)
        assert obs.dtype == np.int64

    def test_seeded_like_the_source(self):
        env = gymnasium.make("meta-lm-v0", L=64, seed=7)
        x, y = MetaLM(L=64, seed=7).batch(0, 2)
        assert (env.data_generator()[0] == x[0]).all() and (env.data_generator()[1] == y[1]).all()

    def test_one_step_scores_a_sequence(self):
        env = gymnasium.make("meta-lm-v0", L=64)
        obs, _ = env.reset(seed=7)
        x, y = MetaLM(L=64, seed=7).data_generator()
        assert (obs == x).all()
        guess = y.copy()
        guess[:16] = 0
        _, reward, terminated, _, info = env.step(guess)
        assert reward == 0.75 and terminated and (info["label"] == y).all()
        with pytest.raises(EpisodeOver):
            env.step(guess)

    def test_not_in_our_registry(self):
        assert not any("meta-lm" in spec.env_id for spec in metarlgym.list_envs())


def test_random_actions_are_uniform():
    env = metarlgym.make("MetaLM-v0", style="terse")
    rng = random.Random(0)
    words = [env.random_action(rng) for _ in range(1200)]
    assert len(set(words)) == 12 and min(map(words.count, set(words))) > 60
