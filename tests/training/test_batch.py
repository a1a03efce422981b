"""TrialBatch: the trials of a rollout as TRL rows, one per trial or one per episode, and their credit."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import make_config, make_trainer, terse, word_parts

from metarlgym import Episode, MetaTrajectory, StopReason, Task, Turn
from metarlgym.rollout.transcript import Transcript
from metarlgym.training.batch import TrialBatch

END = 2


class Renderer:
    end_id = END
    thinking = None


def trial(rewards, episodes=3, memory="full", stop=StopReason.TERMINATED):
    """A trial that earned `rewards` in its episodes of one turn; one token an action, one an observation."""
    played = [Episode("", [Turn("a", f"o{r}", r)], stop=StopReason.TERMINATED) for r in rewards]
    rows = []
    for n in range(len(rewards)):
        if not rows or memory == "none":
            rows.append(Transcript.open([1, 9], n))
        elif n:
            rows[-1].add_environment([8], n, 0)
        rows[-1].add_action([7], [-0.5], n, 0)
    for row in rows:
        row.close(frozenset([END]), END)
    return MetaTrajectory(Task("Doors-v0", {"prize": 0}), 0, played, episodes, rows, stop)


def batch(folder, trials, **settings):
    args = make_config(folder, trials_per_task=2, per_device_train_batch_size=12, **settings)
    return TrialBatch(trials, args, Renderer())


def test_full_memory_gives_one_row_a_trial(tmp_path):
    rows = batch(tmp_path, [trial([0, 1, 1]), trial([0, 0])])
    out = rows.rollout_output()
    assert out["prompt_ids"] == [[1, 9], [1, 9]]
    assert out["completion_ids"] == [[7, 8, 7, 8, 7, END], [7, 8, 7, END]]
    assert out["env_mask"] == [[1, 0, 1, 0, 1, 0], [1, 0, 1, 0]]
    assert out["logprobs"][1] == [-0.5, 0.0, -0.5, 0.0]
    assert out["trial_return"] == [2, 0]


def test_no_memory_gives_one_row_an_episode_and_fillers_for_those_that_never_happened(tmp_path):
    rows = batch(tmp_path, [trial([0, 1], memory="none"), trial([0, 0, 0], memory="none")], memory="none")
    out = rows.rollout_output()
    assert out["completion_ids"] == [[7, END], [7, END], [END], [7, END], [7, END], [7, END]]
    assert out["env_mask"] == [[1, 0], [1, 0], [0], [1, 0], [1, 0], [1, 0]]
    assert [row.episode[0] for row in rows.rows] == [0, 1, 2, 0, 1, 2]
    assert rows.row_trial == [0, 0, 0, 1, 1, 1]
    assert out["trial_return"] == [1, 1, 1, 0, 0, 0]


def test_rows_of_episodes_get_the_advantages_of_their_episode(tmp_path):
    rows = batch(tmp_path, [trial([0, 1], memory="none"), trial([0, 0, 0], memory="none")], memory="none")
    painted = rows.credit([1.0, 1.0, 1.0], 1.0, 0, 2).advantages
    # To go: 1 1 0 and 0 0 0. Advantages 1 1 (none) and -1 -1 0; mean square over the five that happened 4/5.
    a = 1 / math.sqrt(0.8)
    expected = [[a, 0], [a, 0], [0, 0], [-a, 0], [-a, 0], [0, 0]]
    torch.testing.assert_close(painted, torch.tensor(expected))


def test_full_memory_paints_episodes_within_the_row(tmp_path):
    rows = batch(tmp_path, [trial([0, 1, 1]), trial([0, 0])])
    painted = rows.credit([1.0, 1.0, 1.0], 1.0, 0, 7).advantages
    # To go: 2 2 1 and 0 0 (0). Advantages +-2 +-2 and 1; mean square (4 x 4 + 1)/5.
    a = 1 / math.sqrt(17 / 5)
    torch.testing.assert_close(painted[0], torch.tensor([2 * a, 0, 2 * a, 0, a, 0, 0]))
    torch.testing.assert_close(painted[1], torch.tensor([-2 * a, 0, -2 * a, 0, 0, 0, 0]))


def test_an_environment_that_failed_before_its_first_text_has_a_row(tmp_path):
    dead = MetaTrajectory(Task("Doors-v0", {"prize": 0}), 0, [], 3, [], StopReason.ERROR, "OSError: x")
    out = batch(tmp_path, [trial([1, 1, 1]), dead]).rollout_output()
    assert out["completion_ids"][1] == [END]
    assert out["env_mask"][1] == [0]
    assert out["trial_return"] == [3, None]


def test_what_counts_as_signal(tmp_path):
    rows = batch(tmp_path, [trial([0, 0, 0]), trial([0, 0, 0]), trial([0, 0, 0]), trial([0, 0, 1])])
    result = rows.credit([1.0] * 3, 1.0, 0, 6)
    assert result.has_signal.tolist() == [False, False, True, True]
    assert result.metrics["zero_signal_groups"] == 0.5


def test_metrics_count_unplayed_episodes_as_0(tmp_path):
    metrics = batch(tmp_path, [trial([1, 1, 1]), trial([1])]).credit([1.0] * 3, 1.0, 0, 6).metrics
    assert [metrics[f"episode_{n}/return"] for n in (1, 2, 3)] == [1.0, 0.5, 0.5]
    assert metrics["adaptation_slope"] == -0.5
    assert metrics["trial_return"] == 2.0


@pytest.mark.parametrize("credit", ["return_to_go", "gigpo"])
def test_turn_credit_of_ragged_trials(tmp_path, credit):
    long = trial([0, 1, 1])
    long.episodes[0].add(Turn("b", "o", 0.0))
    painted = batch(tmp_path, [long, trial([0])], credit=credit, gamma_step=0.9).credit([1.0] * 3, 1.0, 0, 6)
    assert torch.isfinite(painted.advantages).all()
    assert painted.advantages[0].any()


def test_a_success_that_ends_trials_leaves_filler_rows_in_real_rollouts(tmp_path):
    group = terse("GuessNumber-v0", numbers=2, guesses=1)
    trainer = make_trainer(
        tmp_path,
        group,
        word_parts(group),
        memory="none",
        stop_on_success=True,
        per_device_train_batch_size=48,
        max_steps=1,
    )
    trainer.train()
    rows = trainer._batch
    assert len(rows.rows) == 48
    short = [i for i, t in enumerate(rows.trajectories) if len(t.episodes) < 3]
    assert short
    for i, trajectory in enumerate(rows.trajectories):
        mine = rows.rows[3 * i : 3 * i + 3]
        assert [any(row.action_mask) for row in mine] == [n < len(trajectory.episodes) for n in range(3)]
        assert all(row.ids[-1] in trainer.renderer.end_ids for row in mine)
