"""evaluate: the oracle reaches the optimum, the controls fall where memory matters, and the report is complete."""

from __future__ import annotations

import json
import time

import pytest
from tiny import terse, word_parts

from metarlgym import ConfigError, TaskGroup
from metarlgym.evaluation.choice import choose, duration
from metarlgym.evaluation.evaluate import EvalSettings, evaluate
from metarlgym.evaluation.watch import Watch
from metarlgym.policies.scripted import OraclePolicy, RandomPolicy, ScriptedPolicy
from metarlgym.rollout.limits import Limits
from metarlgym.trial import TrialSettings

DOORS = terse("Doors-v0")

# definitions.md 4, but for what evaluate_policy adds: decode, model, version
FIELDS = {
    "task_group",
    "env_args",
    "episodes",
    "trials",
    "return_mean",
    "return_ci95",
    "curve",
    "curve_ci95",
    "slope",
    "optimum",
    "optimum_kind",
    "optimum_curve",
    "random",
    "random_ci95",
    "no_memory_bound",
    "normalized_score",
    "controls",
    "invalid_rate",
    "truncation_rate",
    "episode_cut_rate",
    "action_cut_rate",
    "errors",
    "memory",
    "free_shots",
    "seed",
    "task_keys_hash",
}


def run(group=DOORS, policy=None, trials=400, episodes=6, **settings):
    names = ("memory", "free_shots", "stop_on_success", "max_total_turns")
    trial = TrialSettings(episodes, **{name: settings.pop(name) for name in names if name in settings})
    return evaluate(group, policy or OraclePolicy(), None, EvalSettings(trial, trials, **settings)).to_dict()


@pytest.fixture(scope="module")
def oracle():
    return run(trials=2000)


# ---------------------------------------------------------------------- numbers


def test_the_oracle_reaches_the_optimum_of_doors(oracle):
    assert oracle["optimum"] == 4.5
    assert oracle["optimum_kind"] == "exact"
    assert oracle["optimum_curve"] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    low, high = oracle["return_ci95"]
    slack = (high - low) / 2  # twice the interval: four standard errors
    assert low - slack <= 4.5 <= high + slack
    for value, best in zip(oracle["curve"], oracle["optimum_curve"], strict=True):
        assert value == pytest.approx(best, abs=0.05)
    assert oracle["slope"] == pytest.approx(0.75, abs=0.05)


def test_scores_are_measured_against_random_play(oracle):
    assert oracle["random"] == pytest.approx(1.68, abs=0.1)  # 6 x (1 + .4)/5
    assert oracle["random_ci95"][0] < oracle["random"] < oracle["random_ci95"][1]
    expected = (oracle["return_mean"] - oracle["random"]) / (4.5 - oracle["random"])
    assert oracle["normalized_score"] == pytest.approx(expected)
    assert oracle["no_memory_bound"] == pytest.approx(2.4)


def test_without_memory_the_oracle_explores_for_ever(oracle):
    wiped = oracle["controls"]["no_memory"]
    assert wiped["return_mean"] == pytest.approx(1.5, abs=0.1)  # 6 x 1/4
    assert wiped["curve"] == pytest.approx([0.25] * 6, abs=0.05)


def test_with_another_tasks_history_it_is_lost(oracle):
    mixed = oracle["controls"]["shuffled"]
    assert mixed["curve"][0] == pytest.approx(0.25, abs=0.05)  # nothing is shown yet
    assert max(mixed["curve"][3:]) <= 0.25  # it opens the other task's door


def test_a_policy_that_ignores_its_history_does_not_notice_the_controls():
    safe = ScriptedPolicy(lambda trial, rng: "safe")
    report = run(policy=safe)
    assert report["return_mean"] == report["controls"]["no_memory"]["return_mean"] == pytest.approx(2.4)
    assert report["controls"]["shuffled"]["return_mean"] == pytest.approx(2.4)
    assert report["slope"] == 0.0
    assert report["controls"]["shuffled"]["curve"] == pytest.approx([0.4] * 6)


def test_bandits_without_memory_are_played_at_random():
    report = run(terse("Bandit-v0", arms=5), trials=1500, episodes=10, baselines=False)
    assert report["curve"][-1] > report["curve"][0] + 0.1
    assert report["controls"]["no_memory"]["return_mean"] == pytest.approx(5.0, abs=0.25)


# ---------------------------------------------------------------------- the report


def test_every_field_is_there(oracle):
    assert set(oracle) == FIELDS
    assert set(oracle["controls"]) == {"no_memory", "shuffled"}
    assert len(oracle["curve"]) == len(oracle["curve_ci95"]) == 6
    assert all(low <= value <= high for value, (low, high) in zip(oracle["curve"], oracle["curve_ci95"], strict=True))
    assert sum(oracle["curve"]) == pytest.approx(oracle["return_mean"])
    assert (oracle["errors"], oracle["invalid_rate"], oracle["truncation_rate"]) == (0, 0.0, 0.0)


def test_the_report_is_json(oracle):
    assert json.loads(json.dumps(oracle)) == oracle


def test_without_controls_and_baselines_the_keys_stay():
    report = run(controls=False, baselines=False)
    assert set(report) - {"random_ci95"} == FIELDS - {"random_ci95"}
    assert report["controls"] == {"no_memory": None, "shuffled": None}
    assert report["random"] is report["normalized_score"] is None


def test_free_shots_add_a_weighted_mean_and_change_no_other():
    plain, shots = run(controls=False), run(controls=False, free_shots=2)
    assert shots["return_mean"] == pytest.approx(sum(shots["curve"]))
    assert shots["return_weighted_mean"] == pytest.approx(sum(shots["curve"][2:]))
    assert "return_weighted_mean" not in plain
    assert shots["optimum"] == plain["optimum"] == 4.5


def test_optimum_and_score_are_null_together_where_random_play_is_optimal():
    report = run(terse("Doors-v0", doors=2, safe=0.5), episodes=1, policy=RandomPolicy())
    # Each door pays .5 in the mean. Random play's mean is measured, so the two coincide only nearly: not null.
    assert report["optimum"] == pytest.approx(0.5)
    sure = terse("GuessNumber-v0", numbers=2, guesses=1)
    assert run(sure, episodes=1)["optimum"] == pytest.approx(0.5)


def test_an_optimum_over_the_prior_does_not_hold_for_a_split_by_content():
    group = TaskGroup("GuessNumber-v0", {"style": "terse", "numbers": 40, "split": "content"})
    report = run(group, trials=8, episodes=2)
    assert report["optimum"] is report["normalized_score"] is report["optimum_curve"] is None
    assert report["optimum_kind"] == "none"


def test_nor_where_the_budget_of_turns_is_shared():
    report = run(terse("GuessNumber-v0"), episodes=4, max_total_turns=6)
    assert report["optimum"] is None


def test_errors_are_counted_and_score_0():
    broken = ScriptedPolicy(lambda trial, rng: 1 / 0 if len(trial.history) > 1 else "safe")
    report = run(policy=broken, trials=10, controls=False)
    assert report["errors"] == 10
    assert report["curve"] == pytest.approx([0.4, 0, 0, 0, 0, 0])


def test_invalid_actions_are_counted():
    def act(trial, rng):
        return "safe" if len(trial.history) % 2 else "open sesame"

    assert run(policy=ScriptedPolicy(act), trials=10, controls=False)["invalid_rate"] == 0.5


@pytest.mark.parametrize(("rule", "expected"), [("repeat", [0.0, 1.0, 1.0]), ("zero", [0.0, 1.0, 0.0])])
def test_after_success(rule, expected):
    group = terse("GuessNumber-v0", numbers=2, guesses=1)
    second = ScriptedPolicy(lambda trial, rng: _answer(trial) if len(trial.history) == 2 else _other(trial))
    report = run(group, second, 20, 3, stop_on_success=True, after_success=rule, controls=False, baselines=False)
    assert report["curve"] == expected


def _answer(trial):
    return str(trial.task.params["number"])


def _other(trial):
    return str(3 - trial.task.params["number"])


# ---------------------------------------------------------------------- trials


def test_the_same_seed_plays_the_same_trials():
    first, second, other = run(policy=RandomPolicy()), run(policy=RandomPolicy()), run(policy=RandomPolicy(), seed=1)
    assert first == second
    assert first["return_mean"] != other["return_mean"]


def test_two_policies_meet_the_same_tasks_and_luck():
    kept = []
    for policy in (OraclePolicy(), RandomPolicy()):
        trajectories = []
        evaluate(DOORS, policy, None, EvalSettings(TrialSettings(2), trials=20, controls=False), keep=trajectories)
        kept.append([(t.task.key, t.seed) for t in trajectories])
    assert kept[0] == kept[1]


def test_eval_tasks_are_not_train_tasks():
    group = terse("GuessNumber-v0", numbers=900)
    assert [t.params for t in group.tasks(20, "eval")] != [t.params for t in group.tasks(20, "train")]


def test_shards_make_the_whole():
    whole = []
    evaluate(
        DOORS,
        RandomPolicy(),
        None,
        EvalSettings(TrialSettings(2), 11, controls=False, baselines=False),
        keep=whole,
    )
    parts = []
    for rank in range(3):
        evaluate(
            DOORS,
            RandomPolicy(),
            None,
            EvalSettings(TrialSettings(2), 11, controls=False, baselines=False),
            shard=(rank, 3),
            gather=lambda played: played if played == [None] else parts.extend(played) or whole,  # [None]: no failure
        )
    assert [t.to_dict() for t in parts] == [t.to_dict() for t in whole]


def test_shuffled_is_null_for_groups_of_one_task():
    from metarlgym import register, registry
    from metarlgym.envs.guess_number import GuessNumber

    class One(GuessNumber):
        def sample_task(self, rng):
            return {"number": 3}

    register("OneTask-v0", One)
    try:
        report = run(terse("OneTask-v0"), trials=10, episodes=2)
    finally:
        del registry._REGISTRY["OneTask-v0"]
    assert report["controls"]["shuffled"] is None
    assert "all trials are of one task" in report["controls_missing"]["shuffled"]
    assert report["controls"]["no_memory"] is not None


def test_too_few_held_out_tasks_is_an_error_that_tells_how_many_there_are():
    group = TaskGroup("GuessNumber-v0", {"style": "terse", "numbers": 40, "split": "content"})
    with pytest.raises(ConfigError, match="only 8 held-out tasks"):
        run(group, trials=9)


def test_no_trials_is_an_error():
    with pytest.raises(ConfigError, match="trials=0 must be at least 1"):
        run(trials=0)


class Notes(Watch):
    """A watch that keeps what it was told."""

    def __init__(self):
        super().__init__()
        self.passes, self.ended, self.choices = [], [], []

    def begin(self, name, trials):
        self.passes.append((name, trials))

    def trial(self, name, index, trajectory):
        self.ended.append((name, index))

    def chosen(self, choice):
        self.choices.append(choice)


def test_a_watch_is_told_of_passes_and_trials():
    notes = Notes()
    evaluate(DOORS, OraclePolicy(), None, EvalSettings(TrialSettings(2), trials=5), watch=notes)
    assert notes.passes == [("main", 5), ("random", 5), ("no_memory", 5), ("shuffled", 5)]
    assert sorted(notes.ended) == sorted((name, i) for name, _ in notes.passes for i in range(5))
    assert (notes.meter.trials, notes.meter.turns) == (15, 30) and not notes.choices  # without random play


def test_a_shard_tells_of_its_own_trials():
    notes = Notes()
    settings = EvalSettings(TrialSettings(2), 11, controls=False, baselines=False)
    evaluate(DOORS, RandomPolicy(), None, settings, shard=(1, 3), gather=lambda part: part, watch=notes)
    assert notes.passes == [("main", 4)] and sorted(i for _, i in notes.ended) == [3, 4, 5, 6]


# ---------------------------------------------------------------------- a number of trials to end in time


class Slow(ScriptedPolicy):
    """Takes `seconds` for each action, whatever else is played meanwhile."""

    def __init__(self, seconds):
        super().__init__(lambda trial, rng: time.sleep(seconds) or rng.choice(["safe", "1", "2"]))


def timed(policy, seconds, most=2000, **settings):
    notes, played = Notes(), []
    chosen = EvalSettings(TrialSettings(2), most, seconds=seconds, baselines=False, **settings)
    report = evaluate(DOORS, policy, None, chosen, watch=notes, keep=played)
    return report, notes, played


def test_the_number_of_trials_follows_from_the_time_they_take():
    report, notes, played = timed(Slow(0.001), 0.8)
    (choice,) = notes.choices
    assert report.trials == len(played) == choice.trials and 8 < choice.trials < 200
    assert 0.1 < choice.seconds < 1.5 and choice.seconds_of_most > 8
    assert f"{choice.trials} trials, about 1 s; --trials 2000 would take" in str(choice)
    assert [n for n in notes.passes if n[0] != "main"] == [("no_memory", report.trials), ("shuffled", report.trials)]
    main = [i for name, i in notes.ended if name == "main"]
    assert sorted(main) == list(range(report.trials))  # none is played twice


def test_the_chosen_trials_are_the_first_of_many():
    _, _, some = timed(RandomPolicy(), 1e-6, controls=False)
    whole = []
    settings = EvalSettings(TrialSettings(2), 100, controls=False, baselines=False)
    evaluate(DOORS, RandomPolicy(), None, settings, keep=whole)
    assert len(some) == 8 and [t.to_dict() for t in some] == [t.to_dict() for t in whole[:8]]


def test_all_are_played_where_there_is_time():
    report, notes, _ = timed(RandomPolicy(), 600, most=150)
    assert report.trials == 150 and "--trials" not in str(notes.choices[0])
    assert timed(RandomPolicy(), 600, most=9)[0].trials == 9


@pytest.mark.parametrize(
    ("each", "passes", "expected"),
    [
        (0.125, 3, 800),
        (1.0, 3, 100),
        (1.4, 3, 71),
        (3.125, 3, 32),
        (5.0, 3, 20),
        (60, 3, 16),
        (0.01, 1, 2000),
    ],
)
def test_choice(each, passes, expected):
    """As many as end in time; never fewer than are played already."""
    assert choose(16, each, passes, 300, 2000) == expected


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (240, "4 min"), (9000, "2.5 h")])
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_several_processes_play_a_given_number():
    with pytest.raises(ConfigError, match="seconds=300 is for one process"):
        evaluate(DOORS, RandomPolicy(), None, EvalSettings(TrialSettings(2), 5, seconds=300), gather=lambda part: part)


def test_a_models_trials_under_the_controls_differ_only_in_what_is_shown():
    """In the first episode nothing is shown yet: main pass and shuffled control read the same tokens."""
    model, _, renderer = word_parts(DOORS)
    from metarlgym.policies.in_process import InProcessPolicy

    policy = InProcessPolicy(model, renderer)
    report = evaluate(DOORS, policy, renderer, EvalSettings(TrialSettings(3), trials=64)).to_dict()
    assert report["errors"] == 0
    assert report["controls"]["no_memory"]["curve"][0] == pytest.approx(report["curve"][0], abs=0.25)
    assert report["invalid_rate"] > 0


@pytest.mark.parametrize(
    ("limits", "trials", "episodes"),
    [({"trial_turns": 3}, 1.0, 1.0), ({"episode_turns": 1}, 0.0, 1.0), ({"trial_turns": 5}, 1.0, 0.5), ({}, 0.0, 0.0)],
    ids=str,
)
def test_cut_trials_and_episodes_are_counted_apart(limits, trials, episodes):
    group = terse("GuessNumber-v0", numbers=9, guesses=4)
    wrong = ScriptedPolicy(lambda trial, rng: str(trial.task.params["number"] % 9 + 1))
    report = run(group, wrong, 20, 2, limits=Limits(**limits), controls=False, baselines=False)
    assert (report["truncation_rate"], report["episode_cut_rate"], report["action_cut_rate"]) == (trials, episodes, 0.0)


def test_cut_actions_do_not_count_as_cut_trials():
    model, _, renderer = word_parts(DOORS)
    renderer.fixed_action_tokens = None  # so that a token is an action that nothing ended
    from metarlgym.policies.in_process import InProcessPolicy

    settings = EvalSettings(TrialSettings(3), 32, limits=Limits(action_tokens=1), controls=False, baselines=False)
    kept = []
    report = evaluate(DOORS, InProcessPolicy(model, renderer), renderer, settings, keep=kept)
    assert report.action_cut_rate == sum(t.truncated_actions for t in kept) / sum(t.turns for t in kept) > 0.5
    assert (report.truncation_rate, report.episode_cut_rate) == (0.0, 0.0)
