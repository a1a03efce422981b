"""TaskGroup: splits of a distribution over tasks."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from metarlgym import ConfigError, Env, Step, TaskGroup, registry


class Words(Env):
    """A finite family whose enumeration can be turned round."""

    split = "content"

    def __init__(self, size=50, turned=False, **kwargs):
        super().__init__(**kwargs)
        self.size, self.turned = size, turned

    def sample_task(self, rng):
        return {"word": rng.randrange(self.size)}

    def all_tasks(self):
        tasks = [{"word": i} for i in range(self.size)]
        return tasks[::-1] if self.turned else tasks

    def on_reset(self, params, rng):
        return ""

    def on_step(self, action):
        return Step("")


class Split(Words):
    """A family whose data come with an eval split: the `held` words from `first` on."""

    def __init__(self, first=50, held=8, **kwargs):
        super().__init__(**kwargs)
        self.first, self.held = first, held

    def held_out_tasks(self):
        tasks = [{"word": i} for i in range(self.first, self.first + self.held)] * 2
        return tasks[::-1] if self.turned else tasks


@pytest.fixture(autouse=True)
def words(monkeypatch):
    specs = {"Words-v0": registry.EnvSpec("Words-v0", Words), "Split-v0": registry.EnvSpec("Split-v0", Split)}
    monkeypatch.setattr(registry, "_REGISTRY", {**registry._REGISTRY, **specs})


def keys(tasks):
    return [task.key for task in tasks]


def test_content_split_is_disjoint_and_complete():
    group = TaskGroup("Words-v0")
    train, held_out = group.tasks(40), group.tasks(10, "eval")
    assert len(set(keys(train))) == 40
    assert len(set(keys(held_out))) == 10
    assert not set(keys(train)) & set(keys(held_out))
    assert {task.split for task in train} == {"train"}
    assert {task.split for task in held_out} == {"eval"}


def test_content_split_is_the_same_for_every_seed_and_order():
    """A model trained with seed 0 may be evaluated with seed 1."""
    groups = [TaskGroup("Words-v0"), TaskGroup("Words-v0", seed=1), TaskGroup("Words-v0", {"turned": True}, seed=2)]
    assert len({tuple(keys(group.tasks(10, "eval"))) for group in groups}) == 1
    assert keys(TaskGroup("Words-v0", seed=1).tasks(40)) != keys(TaskGroup("Words-v0").tasks(40))


def test_content_train_tasks_come_in_epochs():
    group = TaskGroup("Words-v0")
    three = keys(group.tasks(120))
    epochs = [three[:40], three[40:80], three[80:]]
    assert len({frozenset(epoch) for epoch in epochs}) == 1
    assert epochs[0] != epochs[1] != epochs[2]
    assert keys([group.task(i) for i in range(119, -1, -1)]) == three[::-1]


def test_too_few_eval_tasks():
    with pytest.raises(ConfigError, match=r"eval_trials=11: Words-v0 has only 10 held-out tasks \(50 in all"):
        TaskGroup("Words-v0").tasks(11, "eval")
    assert len(TaskGroup("Words-v0", {"split": "trial"}).tasks(100, "eval")) == 100


@pytest.mark.parametrize("size", [0, 1])
def test_a_family_too_small_to_split(size):
    with pytest.raises(ConfigError, match="needs 2 tasks or more"):
        TaskGroup("Words-v0", {"size": size}).task(0)


def test_smallest_family_that_splits():
    group = TaskGroup("Words-v0", {"size": 2})
    assert {group.task(0).key, group.task(0, "eval").key} == {group.task(1).key, group.task(1, "eval").key}
    assert group.task(0) != group.task(0, "eval")


def test_content_needs_all_tasks(monkeypatch):
    monkeypatch.setattr(Words, "all_tasks", Env.all_tasks)
    with pytest.raises(ConfigError, match=r"all_tasks\(\)"):
        TaskGroup("Words-v0").tasks(1)


def said(tasks):
    return sorted(task.params["word"] for task in tasks)


def test_the_eval_split_of_the_data():
    group = TaskGroup("Split-v0")
    train, held_out = group.tasks(50), group.tasks(8, "eval")
    assert said(train) == list(range(50))
    assert said(held_out) == list(range(50, 58))
    assert {task.split for task in train} == {"train"}
    assert {task.split for task in held_out} == {"eval"}
    again = TaskGroup("Split-v0", {"turned": True}, seed=5)
    assert keys(again.tasks(8, "eval")) == keys(held_out)
    assert keys(again.tasks(50)) != keys(train)


def test_what_is_in_both_splits_is_held_out():
    group = TaskGroup("Split-v0", {"first": 45})
    assert said(group.tasks(45)) == list(range(45))
    assert said(group.tasks(8, "eval")) == list(range(45, 53))


def test_too_few_tasks_in_the_eval_split_of_the_data():
    with pytest.raises(ConfigError) as raised:
        TaskGroup("Split-v0").tasks(9, "eval")
    assert str(raised.value) == (
        "eval_trials=9: Split-v0 has only 8 held-out tasks, the eval split of its data. Ask for at most 8."
    )


@pytest.mark.parametrize(
    ("args", "sizes"), [({"held": 0}, (0, 50)), ({"size": 3, "first": 0, "held": 5}, (5, 0)), ({"size": 0}, (8, 0))]
)
def test_an_empty_split(args, sizes):
    with pytest.raises(ConfigError, match=r"held_out_tasks\(\) has {}, all_tasks\(\) {} others".format(*sizes)):
        TaskGroup("Split-v0", args).task(0)


def test_a_family_may_have_one_task_beside_its_eval_split():
    assert said(TaskGroup("Split-v0", {"size": 1}).tasks(3)) == [0, 0, 0]


@pytest.mark.parametrize("args", [{}, {"split": "trial"}])
def test_a_task_is_the_same_whatever_else_was_drawn(args):
    alone = TaskGroup("Words-v0", args).task(17)
    group = TaskGroup("Words-v0", args)
    random.seed(1)
    group.tasks(30)
    group.tasks(5, "eval")
    group.env.reset(seed=4)
    assert group.task(17) == alone == group.tasks(18)[17]


def test_trial_split_uses_other_streams():
    group = TaskGroup("Bandit-v0", {"split": "trial"})
    train, held_out = group.tasks(20), group.tasks(20, "eval")
    assert keys(train) != keys(held_out)
    assert {task.split for task in held_out} == {"eval"}
    assert keys(TaskGroup(group.env_id, {"split": "trial"}, seed=1).tasks(20)) != keys(train)


def test_trial_split_keeps_the_prior():
    for split in ("train", "eval"):
        prizes = [task.params["prize"] for task in TaskGroup("Doors-v0").tasks(4000, split)]
        assert all(abs(prizes.count(door) / 4000 - 0.25) < 0.04 for door in range(4))


def test_tasks_are_the_same_in_any_process():
    code = "from metarlgym import TaskGroup; print(*[t.key for t in TaskGroup('Doors-v0', seed=3).tasks(5)])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == keys(TaskGroup("Doors-v0", seed=3).tasks(5))


def test_environment_of_the_group():
    group = TaskGroup("metarlgym/Doors-v0", {"doors": 7})
    assert (group.env_id, group.make_env().doors, group.content_split) == ("Doors-v0", 7, False)
    assert group.make_env() is not group.make_env()
    with pytest.raises(ConfigError, match="is not registered"):
        TaskGroup("Dors-v0")


def test_equally_likely_tasks_are_dealt(monkeypatch):
    for uniform, counts in ((True, {8}), (False, None)):
        monkeypatch.setattr(Words, "uniform_tasks", uniform)
        drawn = keys(TaskGroup("Words-v0", {"size": 5, "split": "trial"}).tasks(40))
        rounds = [set(drawn[i : i + 5]) for i in range(0, 40, 5)]
        assert all(len(round_) == 5 for round_ in rounds) == uniform
        assert ({drawn.count(key) for key in set(drawn)} == counts) == uniform
    group = TaskGroup("Doors-v0", {"doors": 2})
    train = [task.params["prize"] for task in group.tasks(200)]
    assert all(set(train[i : i + 2]) == {0, 1} for i in range(0, 200, 2))
    assert len({tuple(train[i : i + 2]) for i in range(0, 200, 2)}) == 2  # shuffled anew in each round
    evaluated = [task.params["prize"] for task in group.tasks(200, "eval")]  # independent draws: intervals rely on it
    assert any(len(set(evaluated[i : i + 2])) == 1 for i in range(0, 200, 2))


def test_families_that_cannot_be_listed_are_drawn(monkeypatch):
    monkeypatch.setattr(Words, "uniform_tasks", True)
    monkeypatch.setattr("metarlgym.tasks.DECK_LIMIT", 4)
    drawn = keys(TaskGroup("Words-v0", {"size": 5, "split": "trial"}).tasks(40))
    assert any(len(set(drawn[i : i + 5])) < 5 for i in range(0, 40, 5))
