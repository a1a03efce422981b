"""Self-critic at tiny sizes: the language's truth, both forms, the critics, and what a run leaves."""

import json
import os
import traceback

import numpy as np
import pytest
import torch

from metarlgym import ConfigError, MetaRLGymError
from metarlgym.cli.main import main
from metarlgym.selflearning.self_critic import experiment as self_critic
from metarlgym.selflearning.self_critic.actor_critic import ActorCritic
from metarlgym.selflearning.self_critic.config import Config
from metarlgym.selflearning.self_critic.critics import Critic
from metarlgym.selflearning.self_critic.language import Language, distinct
from metarlgym.selflearning.self_critic.score_form import ScoreForm, ScoreSizes
from metarlgym.selflearning.self_critic.target_form import TargetForm
from metarlgym.selflearning.workers import in_turn, side_by_side

LANGUAGE = Language(V=5, n_gram=3, scale=1.5, length=12, language=0, seed=0)
TINY = {"V": 5, "length": 10, "prompt": 4, "hidden_size": 8, "layers": 1, "batch": 4, "held": 8, "thought": 2}
TINY |= {"phase_a_steps": 4, "steps": 6, "target_steps": 6, "prompts": 2, "group": 2, "check_every": 2}
TINY |= {"refresh_every": 2, "refresh_steps": 1}


def actor(seed=0, V=5):
    return ActorCritic(V, 16, 1, 2, 48, seed)


def generator():
    return torch.Generator().manual_seed(0)


def test_truth_is_that_of_the_source():
    tokens = LANGUAGE.tokens(0, 3)
    truth = LANGUAGE.truth(tokens)
    for b in range(3):
        for t in range(1, 12):
            context = np.array([0, *tokens[b, t - 1 : t + 1].tolist()])
            assert truth[b, t].numpy() == pytest.approx(LANGUAGE.source.distribution(context), abs=1e-6)
    _, probs = LANGUAGE.source.batch(0, 3)
    expected = np.log(probs[:, 5:]).mean()
    assert LANGUAGE.log_likelihood(tokens[:, :5], tokens[:, 5:]) == pytest.approx(expected, abs=1e-5)


def test_the_true_loss_of_the_truth_is_the_entropy():
    tokens = LANGUAGE.tokens(0, 4)
    logits = LANGUAGE.truth(tokens).log()
    assert LANGUAGE.true_loss(logits, tokens) == pytest.approx(LANGUAGE.entropy(tokens), abs=1e-6)
    assert LANGUAGE.true_loss(torch.zeros_like(logits), tokens) == pytest.approx(np.log(5), abs=1e-6)


class Truth(torch.nn.Module):
    """In place of an actor, the source itself."""

    def logits(self, tokens):
        return LANGUAGE.truth(tokens).clamp_min(1e-30).log()

    def sample(self, prompts, count, generator):
        return torch.randint(5, (len(prompts), count), generator=generator)

    def score(self, tokens, after):
        return torch.full((len(tokens),), 0.5)


@pytest.mark.parametrize("name", ["score", "target"])
def test_the_source_itself_reaches_the_floor(name):
    """Each form's true loss and floor are over the same places, each with the tokens before it."""
    form = score_form() if name == "score" else target_form()
    if name == "target":
        form.verdict = lambda judge, real, logits: logits
    truth = Truth()
    found = form.measure(truth, Critic("frozen", truth))
    assert found["true_loss"] == pytest.approx(form.floor(), abs=1e-5)
    assert form.floor() < np.log(5) - 0.1


def test_checks_leave_training_alone():
    ends = []
    for every in (2, 3):
        given = Config(**{**TINY, "check_every": every, "close_checks": 1})
        found = self_critic.run_variant(given, "score-frozen-0", lambda *_, **__: None)
        ends.append((found["end"]["step"], found["end"]["signal"], found["end"]["true_loss"]))
    assert ends[0] == ends[1] and ends[0][0] == 6


def test_distinct():
    assert distinct(torch.tensor([[0, 1, 0, 1, 0]])) == 2 / 4


def test_samples_follow_the_network():
    made, prompts = actor(), torch.tensor([[1, 2]]).expand(4000, 2)
    drawn = made.sample(prompts, 2, generator())
    probs = made.logits(prompts[:1])[0, -1].softmax(-1)
    counts = torch.bincount(drawn[:, 0], minlength=5) / 4000
    assert torch.allclose(counts, probs, atol=0.04)
    # The second token is drawn given the first.
    after = made.logits(torch.tensor([[1, 2, 3]]))[0, -1].softmax(-1)
    given = drawn[drawn[:, 0] == 3, 1]
    assert torch.allclose(torch.bincount(given, minlength=5) / len(given), after, atol=0.1)


def score_form():
    return ScoreForm(LANGUAGE, ScoreSizes(4, 8, 3, 4, 2, 4, 0.6, 0.1), 16, generator())


def test_only_a_live_critic_gets_a_gradient():
    form = score_form()
    gradients = {}
    for name in ("live", "live_detached", "frozen", "ema_0.9", "refreshed"):
        made = actor()
        torch.nn.init.normal_(made.head.weight)
        critic = Critic(name, made)
        form.step_loss(made, critic, 0).backward()
        gradients[name] = made.head.weight.grad
        assert all(p.grad is None for p in critic.at_start.parameters())
    assert gradients.pop("live").abs().sum() > 0
    assert all(g is None or g.abs().sum() == 0 for g in gradients.values())


def test_who_judges():
    made = actor()
    assert Critic("live", made).judge is Critic("grounded", made).judge is made
    frozen, ema, refreshed = Critic("frozen", made), Critic("ema_0.9", made), Critic("refreshed", made)
    with torch.no_grad():
        made.head.bias += 1
    for critic in (frozen, ema, refreshed):
        critic.after_step()
    assert float(frozen.judge.head.bias.detach()) == 0 and float(refreshed.judge.head.bias.detach()) == 0
    assert float(ema.judge.head.bias.detach()) == pytest.approx(1.0)  # `AveragedModel` copies at first
    with torch.no_grad():
        made.head.bias += 1
    ema.after_step()
    assert float(ema.judge.head.bias.detach()) == pytest.approx(0.9 * 1 + 0.1 * 2)


def test_grounded_scores_real_tokens():
    """Its loss moves the plain prediction of real tokens: the policy gradient alone would not."""
    form, made = score_form(), actor()
    critic = Critic("grounded", made)
    before = form.measure(made, critic)
    optimizer = torch.optim.AdamW(made.parameters(), 1e-2)
    for step in range(40):
        optimizer.zero_grad()
        form.step_loss(made, critic, 100 * step).backward()
        optimizer.step()
        critic.after_step()
    after = form.measure(made, critic)
    assert after["true_loss"] < before["true_loss"] - 0.1 and "thought_gain" in after


def target_form(sees="context", targets="argmax"):
    return TargetForm(LANGUAGE, 4, 8, sees, targets, generator())


def test_the_answer_is_out_of_the_critics_view():
    """`context`: the verdict on a place does not depend on what comes there; `answer`: it does."""
    made = actor()
    real = LANGUAGE.tokens(0, 2)
    logits = made.logits(real)[:, :-1]
    other = real.clone()
    other[:, 6] = (other[:, 6] + 1) % 5
    for sees, same in (("context", True), ("answer", False)):
        form = target_form(sees)
        one, two = form.verdict(made, real, logits), form.verdict(made, other, logits)
        assert one.shape == (2, 11, 5)
        assert torch.equal(one[:, :5], two[:, :5])
        assert torch.allclose(one[:, 5], two[:, 5], atol=1e-6) == same


def test_targets_have_no_gradient():
    form, made = target_form(), actor()
    critic = Critic("live", made)
    loss = form.step_loss(made, critic, 0)
    real = LANGUAGE.tokens(0, 4)
    logits = made.logits(real)[:, :-1]
    target = form.targets_of(form.verdict(made, real, logits), generator()).detach()
    by_hand = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
    one = torch.autograd.grad(loss, made.lm.parameters(), allow_unused=True)
    two = torch.autograd.grad(by_hand, made.lm.parameters(), allow_unused=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, two, strict=True) if a is not None)


def test_variants():
    config = Config(forms=["score", "target"], critics=["live", "frozen", "grounded"], seeds=[0, 1])
    found = self_critic.variants(config)
    assert "score-grounded-0" in found and "target-grounded-0" not in found
    assert {"score-phase_a-1", "score-live-stop", "score-frozen-reanchor", "target-frozen-phase_a"} <= set(found)
    assert "score-live-reanchor" not in found and len(found) == len(set(found))


@pytest.mark.parametrize("form", ["score", "target", "target_seen"])
@pytest.mark.parametrize("critic", ["live", "refreshed", "ema_0.9", "phase_a"])
def test_every_arm_runs(form, critic):
    told = []
    found = self_critic.run_variant(
        Config(**TINY), f"{form}-{critic}-0", lambda step, total, **values: told.append((step, total))
    )
    assert told[-1][0] <= told[-1][1] and found["lines"] and json.dumps(found)


def test_a_shared_phase_a_changes_nothing():
    """Variants of one seed begin with the same phase A, whether this process has done it before or not."""
    found = []
    for _ in range(2):
        self_critic._STARTS.clear()
        found.append(self_critic.run_variant(Config(**TINY), "score-frozen-0", lambda *_, **__: None)["lines"])
        self_critic.run_variant(Config(**TINY), "score-live-0", lambda *_, **__: None)
        found.append(self_critic.run_variant(Config(**TINY), "score-frozen-0", lambda *_, **__: None)["lines"])
    assert all(each == found[0] for each in found)


def test_actions_follow_an_alarm(monkeypatch):
    """With a detector that always cries, `stop` ends the run and the others go on from what was good."""
    monkeypatch.setattr("metarlgym.training.hack_detector.HackDetector.check", lambda self, step, *_: step == 2)
    ends = {}
    for action in ("stop", "reanchor", "phase_a"):
        found = self_critic.run_variant(Config(**TINY), f"score-frozen-{action}", lambda *_, **__: None)
        ends[action] = found["last_step"], found["acted"]
    assert ends == {"stop": (2, []), "reanchor": (6, [2]), "phase_a": (6, [2])}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"forms": ["text"]}, "'text'"),
        ({"critics": ["dead"]}, "'dead'"),
        ({"critics": ["ema_2"]}, "'ema_2'"),
        ({"actions": ["run"]}, "'run'"),
        ({"seeds": []}, "seeds"),
        ({"group": 1}, "group=1"),
        ({"prompt": 24}, "prompt=24"),
        ({"check_every": 0}, "check_every=0"),
        ({"tau": 1.0}, "tau=1.0"),
        ({"targets": "mean"}, "targets='mean'"),
    ],
)
def test_bad_settings(changes, told):
    with pytest.raises(ConfigError) as error:
        Config(**changes)
    assert told in str(error.value) and "\n" not in str(error.value)


def flags(folder, **changes):
    given = {**TINY, "forms": "score", "critics": "live", "seeds": 0, "actions": "stop", "workers": 1, **changes}
    return ["selflearn", "--experiment", "self_critic", "--output_dir", str(folder)] + [
        str(part)
        for name, value in given.items()
        for part in (f"--{name}", *(value if isinstance(value, tuple) else (value,)))
    ]


def test_a_run_and_its_resume(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(flags(folder, workers=2)) == 0  # side by side; what is left below runs in this process
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["critics"]["live"]) == ["hack_step"] and len(summary["critics"]["live"]["hack_step"]) == 1
    assert summary["forms"]["score"]["closed_loop"].keys() == {"live-stop"}
    page = (folder / "report.html").read_text()
    assert "data:image/png;base64," in page and "<th>hack_step</th>" in page
    assert main(flags(folder)) == 2 and "holds another run" in capsys.readouterr().err
    assert main([*flags(folder, steps=8), "--resume"]) == 2 and "steps=8 was 6" in capsys.readouterr().err
    (folder / "variants" / "score-live-0.json").unlink()
    before = (folder / "variants" / "score-phase_a-0.json").stat().st_mtime_ns
    assert main([*flags(folder), "--resume"]) == 0
    assert (folder / "variants" / "score-phase_a-0.json").stat().st_mtime_ns == before
    again = json.loads((folder / "summary.json").read_text())
    assert again["forms"] == summary["forms"]


def test_damaged_results_of_a_variant_are_made_again(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(flags(folder)) == 0
    summary = json.loads((folder / "summary.json").read_text())
    variants = folder / "variants"
    kept = (variants / "score-live-stop.json").stat().st_mtime_ns
    os.truncate(variants / "score-live-0.json", 10)
    (variants / "score-phase_a-0.json").write_text("{}")
    capsys.readouterr()
    assert main([*flags(folder), "--only", "score-live-stop", "--resume"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "score-live-0.json is damaged: this variant is left out of the summary; it runs again without --only" in told
    assert main([*flags(folder), "--resume"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for variant in ("score-live-0", "score-phase_a-0"):
        assert f"{variant}.json is damaged: this variant runs again" in told
    assert "score-live-stop.json is damaged" not in told
    assert (variants / "score-live-stop.json").stat().st_mtime_ns == kept
    again = json.loads((folder / "summary.json").read_text())
    assert again["forms"] == summary["forms"] and again["critics"] == summary["critics"]
    (folder / "config.yaml").unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main([*flags(folder, steps=8), "--resume"]) == 2
    assert "holds neither settings.json nor config.yaml" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_only_adds_to_what_is_there(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*flags(folder), "--only", "score-live-0"]) == 0
    assert main([*flags(folder), "--only", "score-phase_a-0", "--resume"]) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["variant_seconds"]) == {"score-live-0", "score-phase_a-0"}
    assert "only:" not in (folder / "config.yaml").read_text()
    assert main([*flags(folder), "--resume", "--overwrite"]) == 2 and "exclude each other" in capsys.readouterr().err


def test_overwrite_spares_what_is_not_a_run(tmp_path, capsys):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    assert main([*flags(folder), "--overwrite"]) == 2 and "holds no run to overwrite" in capsys.readouterr().err
    assert (folder / "chapter.txt").read_text() == "years of work"
    (folder / "variants").mkdir()
    (folder / "variants" / "notes.md").write_text("mine")
    assert main([*flags(folder), "--overwrite"]) == 2 and "holds variants, which a run would" in capsys.readouterr().err
    assert (folder / "variants" / "notes.md").read_text() == "mine" and len(list(folder.iterdir())) == 2


def test_overwrite_replaces_the_run_and_keeps_the_users_files(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    assert main([*flags(folder), "--only", "score-live-0"]) == 0
    pictures = sorted(path.name for path in folder.glob("*.png"))
    for name in ("notes.md", "variants/notes.md", "0_mine.png"):
        (folder / name).write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main([*flags(folder), "--overwrite"]) == 2 and "holds '0_mine.png', not written" in capsys.readouterr().err
    (folder / "0_mine.png").rename(folder / "mine.png")
    assert main([*flags(folder), "--overwrite"]) == 2 and "holds 'variants/notes.md'" in capsys.readouterr().err
    (folder / "mine.png").rename(folder / "0_mine.png")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert main([*flags(folder), "--only", "score-live-0", "--resume"]) == 0  # writes the report again
    assert (folder / "0_mine.png").read_text() == "mine"
    (folder / "0_mine.png").unlink()
    (folder / "variants" / "notes.md").unlink()

    def broken(*_):
        raise MetaRLGymError("no variant came to its end")

    with monkeypatch.context() as patch:
        patch.setattr("metarlgym.selflearning.run._run_all", broken)
        assert main([*flags(folder), "--overwrite"]) == 2  # fails: the old one is back
    assert json.loads((folder / "summary.json").read_text())["variant_seconds"].keys() == {"score-live-0"}
    assert main([*flags(folder, seeds="1"), "--only", "score-live-1", "--overwrite"]) == 0
    assert [path.name for path in (folder / "variants").glob("*.json")] == ["score-live-1.json"]
    assert (folder / "notes.md").read_text() == "mine" and sorted(p.name for p in folder.glob("*.png")) == pictures


def test_a_variant_that_fails_is_named(tmp_path, capsys):
    assert main(flags(tmp_path / "run", phase_a_lr="1e30", phase_a_steps=20)) == 2
    told = capsys.readouterr().err
    assert "variant score-" in told and "lower lr or phase_a_lr" in told


def test_several_plans(tmp_path, monkeypatch, capsys):
    """`--config *.yaml` runs each; nothing runs where one of them is wrong."""
    for name, seed in (("one", 0), ("two", 1)):
        settings = {
            "experiment": "self_critic",
            **TINY,
            "forms": ["score"],
            "critics": ["live"],
            "seeds": [seed],
            "actions": [],
        }
        (tmp_path / f"{name}.yaml").write_text(json.dumps(settings))
    monkeypatch.chdir(tmp_path)
    assert main(["selflearn", "--config", "one.yaml", "three.yaml", "--workers", "1"]) == 2
    assert "three.yaml" in capsys.readouterr().err and not (tmp_path / "runs").exists()
    assert main(["selflearn", "--config", "one.yaml", "two.yaml", "--output_dir", "here"]) == 2
    assert "--output_dir is for one experiment" in capsys.readouterr().err
    assert main(["selflearn", "--config", "one.yaml", "two.yaml", "--workers", "1"]) == 0
    assert all((tmp_path / "runs" / name / "summary.json").exists() for name in ("one", "two"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"only": "score-dead-0"}, "not a variant"),
        ({"seeds": (0, 0)}, "twice"),
        ({"workers": 0}, "workers=0"),
        ({"speed": 3}, "'speed'"),
    ],
)
def test_bad_input(changes, told, tmp_path, capsys):
    assert main(flags(tmp_path / "run", **changes)) == 2
    line = capsys.readouterr().err
    assert told in line and line.strip().count("\n") == 0


def test_an_unknown_plan(capsys):
    assert main(["selflearn", "--experiment", "7"]) == 2 and "experiment='7'" in capsys.readouterr().err


def broken_module(tmp_path, monkeypatch):
    (tmp_path / "broken_experiment.py").write_text(
        "def run_variant(config, name, log):\n    raise ValueError('in the worker')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "variants").mkdir()
    import broken_experiment

    return broken_experiment


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crash_keeps_its_traceback(workers, tmp_path, monkeypatch):
    module = broken_module(tmp_path, monkeypatch)
    run = (
        in_turn(module, None, ["a"], tmp_path, print)
        if workers == 1
        else side_by_side(module, None, ["a", "b"], tmp_path, print, workers)
    )
    with pytest.raises(ValueError, match="in the worker") as error:
        list(run)
    shown = "".join(traceback.format_exception(error.value))
    assert "in run_variant" in shown and "in variant" in shown and "--resume runs the others" in shown


def test_a_run_of_an_earlier_version(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(flags(folder)) == 0
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("experiment: self_critic", "plan: '1'"))
    assert main([*flags(folder), "--resume"]) == 2
    assert "holds a run of an earlier version (plan)" in capsys.readouterr().err


def test_an_experiment_is_a_word(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("experiment: [self_critic]\n")
    assert main(["selflearn", "--config", str(tmp_path / "a.yaml")]) == 2
    assert "experiment=['self_critic'] is not known" in capsys.readouterr().err
