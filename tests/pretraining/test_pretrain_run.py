"""Pretraining runs at tiny sizes: what is written, resume, schedules, chunks, losses that are no number."""

import hashlib
import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from base_runs import PRETRAIN
from random_settings import command_line
from safetensors.torch import load_file

from metarlgym import ConfigError, MetaRLGymError
from metarlgym.cli.main import main
from metarlgym.models.networks import NetworkArguments, make_network
from metarlgym.pretraining.run import parse, run_pretraining
from metarlgym.pretraining.trainer import PretrainTrainer, spaced_steps

SMALL = {
    **PRETRAIN,
    "logging_steps": 1,
    "checkpoints": 3,
    "eval_sequences": 8,
    "final_eval_sequences": 20,
    "threads": 1,
}


def flags(folder, *flags_, **changes):
    given = "model_name_or_path" in changes
    small = {k: v for k, v in SMALL.items() if not given or k not in ("hidden_size", "num_layers", "num_heads")}
    return [*command_line({**small, "output_dir": folder, **changes}), *flags_]


def train(folder, *flags_, **changes):
    return run_pretraining(parse(flags(folder, *flags_, **changes)))


def metrics(folder, name="loss"):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


def weights(folder):
    return weights_of(Path(folder) / "final")


def trainer(folder, network="lstm", **changes):
    settings = parse(flags(folder, **changes))
    source = settings.config.make_source()
    network = make_network(NetworkArguments(network=network, hidden_size=8), source.vocab_size, 16)
    return PretrainTrainer(network, settings.config)


def test_what_a_run_leaves(tmp_path):
    summary = train(tmp_path / "run")
    folder = tmp_path / "run"
    written = json.loads((folder / "summary.json").read_text())
    assert written == json.loads(json.dumps(summary))
    assert {"final_loss", "floor", "gap", "parameters", "cumulative_regret", "data_share"} <= summary.keys()
    assert summary["gap"] == pytest.approx(summary["final_loss"] / summary["floor"] - 1) and summary["gap"] > 0
    for name in ("curves.json", "curves.png", "dynamics.png", "config.yaml", "final/config.json", "best/config.json"):
        assert (folder / name).exists(), name
    assert sorted(metrics(folder)) == [1, 2, 3, 4, 5, 6]
    assert sorted(metrics(folder, "eval_loss")) == [1, 2, 6]
    assert summary["best_eval_loss"] == pytest.approx(min(metrics(folder, "eval_loss").values()))
    with pytest.raises(ConfigError, match="holds another run"):
        train(folder)
    again = run_pretraining(parse(["--config", str(folder / "config.yaml"), "--output_dir", str(tmp_path / "again")]))
    assert again["final_loss"] == summary["final_loss"]


def interrupted(folder, **changes):
    """A run that ended after step 6 of 12."""

    class Stop(Exception):
        pass

    def stop(self, args, state, control, **_):
        if state.global_step == 7:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarlgym.pretraining.progress.PretrainProgress.on_step_end", stop)
        with pytest.raises(Stop):
            train(folder, max_steps=12, checkpoints=12, **changes)


def test_goes_on_with_a_lower_rate(tmp_path):
    interrupted(tmp_path / "run", lr_scheduler_type="cosine")
    before = weights_of(tmp_path / "run" / "checkpoint-6")
    train(tmp_path / "run", "--resume", max_steps=12, checkpoints=12, learning_rate=1e-12)
    after = weights(tmp_path / "run")
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)
    assert max(metrics(tmp_path / "run", "learning_rate")[step] for step in range(8, 13)) <= 1e-12


@pytest.mark.parametrize(
    "changes",
    [{"source_args": '{"law": "static", "T": 16}'}, {"per_device_train_batch_size": 2}, {"hidden_size": 16}],
)
def test_does_not_go_on_with_another_run(changes, tmp_path):
    interrupted(tmp_path / "run")
    with pytest.raises(ConfigError, match=next(iter(changes))):
        train(tmp_path / "run", "--resume", max_steps=12, checkpoints=12, **changes)


def tree(folder):
    """Hashes of all files below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_setting_counts_when_a_run_goes_on(tmp_path):
    """In both directions, those of libraries too, and nothing is written by a start that is refused."""
    train(tmp_path / "run", weight_decay=0.5, max_steps=3, checkpoints=2)
    before = tree(tmp_path)
    same = {"weight_decay": 0.5, "max_steps": 9, "checkpoints": 2}
    for name, now, was in (
        ("gradient_accumulation_steps", 2, 1),
        ("weight_decay", 0.0, 0.5),
        ("optim", "sgd", "adamw_torch(_fused)?"),
        ("adam_beta2", 0.9, 0.999),
        ("lr_scheduler_type", "linear", "cosine"),
    ):
        with pytest.raises(ConfigError, match=rf"{name}=.* was '?{was}'? in") as caught:
            train(tmp_path / "run", "--resume", **{**same, name: now})
        assert "What may change: max_steps" in str(caught.value) and tree(tmp_path) == before
    del same["weight_decay"]  # left out, it is another one
    with pytest.raises(ConfigError, match=r"weight_decay=0\.0 was 0\.5"):
        train(tmp_path / "run", "--resume", **same)
    assert tree(tmp_path) == before
    train(
        tmp_path / "run", "--resume", weight_decay=0.5, max_steps=5, checkpoints=3, learning_rate=1e-4, logging_steps=2
    )


def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys):
    train(tmp_path / "run")
    whole = weights(tmp_path / "run")
    os.truncate(tmp_path / "run" / "checkpoint-6" / "optimizer.pt", 100)
    train(tmp_path / "run", "--resume")
    assert "checkpoint-6 is damaged (optimizer.pt has 100 bytes of" in " ".join(capsys.readouterr().out.split())
    assert all(torch.equal(whole[name], found) for name, found in weights(tmp_path / "run").items())


def test_overwrite_leaves_what_is_not_the_runs(tmp_path):
    folder = tmp_path / "run"
    (folder / "src").mkdir(parents=True)
    (folder / "config.yaml").write_text("a: 1")
    (folder / "src" / "thesis.tex").write_text("years")
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match="which a run would write"):
        train(folder, "--overwrite")
    assert tree(tmp_path) == before
    (folder / "config.yaml").unlink()
    train(folder)
    train(folder, "--overwrite", max_steps=2)
    assert (folder / "src" / "thesis.tex").read_text() == "years" and not (folder / "checkpoint-6").exists()
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=r"model_name_or_path=.* lies in output_dir"):
        train(folder, "--overwrite", model_name_or_path=folder / "final")
    assert tree(tmp_path) == before


def test_a_start_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("cannot be made")

    monkeypatch.setattr("metarlgym.pretraining.run.make_network", broken)
    with pytest.raises(RuntimeError, match="cannot be made"):
        train(tmp_path / "a" / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", ["evaluate", "_save_checkpoint", "training_step"])
def test_ctrl_c_is_one_line(moment, tmp_path, monkeypatch, capfd):
    inner = getattr(PretrainTrainer, moment)

    def press(self, *args, **kwargs):
        if self.state.global_step >= 2:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(PretrainTrainer, moment, press)
    assert main(["pretrain", *flags(tmp_path / "run")]) == 130
    error = capfd.readouterr().err
    line = error[error.index("stopped:") :]
    last = tmp_path / "run" / "checkpoint-1" if moment != "training_step" else tmp_path / "run" / "checkpoint-2"
    assert f"step 2 of 6; the last complete checkpoint is {last}; resume with: metarlgym pretrain" in line
    assert line.rstrip().endswith("--resume") and line.count("\n") == 1 and "Traceback" not in error
    monkeypatch.undo()
    assert main(["pretrain", *flags(tmp_path / "run", "--resume")]) == 0


def test_loss_that_is_no_number_stops_with_the_last_checkpoint(tmp_path):
    wild = {"network": "rnn", "num_heads": 4, "max_grad_norm": 0, "optim": "sgd"}
    interrupted(tmp_path / "run", **wild)
    with pytest.raises(MetaRLGymError) as error:
        train(tmp_path / "run", "--resume", max_steps=12, checkpoints=2, learning_rate=1e38, **wild)
    told = str(error.value)
    assert told.startswith("the loss is ") and "checkpoint-6" in told and "learning_rate" in told and "\n" not in told
    assert not list((tmp_path / "run").glob("checkpoint-1[0-9]"))
    with pytest.raises(MetaRLGymError, match=r"held-out loss is (inf|nan) at step 1\. Begin again"):
        train(tmp_path / "new", learning_rate=1e38, **wild)


@pytest.mark.parametrize("network", ["transformer", "lstm", "stack_rnn"])
def test_chunks_of_the_whole_length_are_the_whole(network, tmp_path):
    """One chunk gives the gradient of plain backpropagation, several another one of about its size."""
    gradients = {}
    for chunk in (None, 16, 4):
        changes = {} if chunk is None else {"gradient_chunk": chunk}
        made = trainer(tmp_path / str(chunk), network, **changes)
        batch = next(iter(made.get_train_dataloader()))
        made.current_gradient_accumulation_steps = 1
        loss = made.training_step(made.model, batch)
        gradients[chunk] = torch.cat([p.grad.flatten() for p in made.model.parameters()]), float(loss)
    assert gradients[16][1] == pytest.approx(gradients[None][1], abs=1e-6)
    assert gradients[4][1] == pytest.approx(gradients[None][1], abs=1e-5)  # the same forward pass
    assert torch.allclose(gradients[16][0], gradients[None][0], atol=1e-6)
    apart = (gradients[4][0] - gradients[None][0]).norm() / gradients[None][0].norm()
    assert 1e-4 < apart < 1


def test_chunks_need_a_memory(tmp_path):
    made = trainer(tmp_path, "transformer", gradient_chunk=4)
    made.model = make_network(NetworkArguments(positions="relative", hidden_size=8, num_heads=2), 2, 16)
    made.current_gradient_accumulation_steps = 1
    with pytest.raises(ConfigError, match="keeps no state"):
        made.training_step(made.model, next(iter(made.get_train_dataloader())))


def test_loss_on_the_last_symbol(tmp_path):
    changes = {"source": "rlm", "source_args": '{"v": 5, "L": 2}', "loss_on": "last"}
    made = trainer(tmp_path, **changes)
    batch = next(iter(made.get_train_dataloader()))
    inputs, targets = made.source.tokens(0, 4)[:, :-1], made.source.tokens(0, 4)[:, -1]
    logits = made.model(input_ids=torch.from_numpy(inputs)).logits[:, -1]
    by_hand = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets))
    assert made.compute_loss(made.model, batch).item() == pytest.approx(by_hand.item(), abs=1e-6)


def test_sgd_with_momentum_and_a_cosine_of_its_own_length(tmp_path):
    made = trainer(tmp_path, optim="sgd", momentum=0.8, decay_steps=100, warmup_steps=10, min_lr_rate=0.1)
    made.create_optimizer_and_scheduler(30)
    assert isinstance(made.optimizer, torch.optim.SGD) and made.optimizer.defaults["momentum"] == 0.8
    rates = []
    for _ in range(120):
        rates.append(made.lr_scheduler.get_last_lr()[0] / 1e-3)
        made.optimizer.step()
        made.lr_scheduler.step()
    assert rates[0] == pytest.approx(0.1) and rates[10] == pytest.approx(1)
    assert rates[55] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert rates[100] == pytest.approx(0.1) and rates[119] == pytest.approx(0.1)


def test_variable_lengths_are_powers_of_two(tmp_path):
    made = trainer(tmp_path, variable_length="true")
    lengths = set()
    for step in range(40):
        made.state.global_step = step
        lengths.add(made._length())
    assert lengths == {2, 4, 8, 16}


def test_spaced_steps():
    assert spaced_steps(1000, 4) == [1, 10, 100, 1000]
    assert spaced_steps(5, 20) == [1, 2, 3, 4, 5] and spaced_steps(7, 1) == [1, 7]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"source": "wiki"}, "source='wiki'"),
        ({"source_args": '{"T": 0}'}, "T=0"),
        ({"source_args": '{"speed": 1}'}, "speed"),
        ({"source_args": "[1]"}, "source_args="),
        ({"loss_on": "first"}, "loss_on='first'"),
        ({"loss_on": "last"}, "loss_on='last'"),
        ({"source": "rlm", "source_args": '{"v": 5}', "loss_on": "last", "variable_length": "true"}, "variable_length"),
        ({"final_eval_sequences": 1}, "final_eval_sequences=1"),
        ({"mlp_after": -1}, "mlp_after=-1"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"gradient_chunk": 0}, "gradient_chunk=0"),
        ({"momentum": 1.5}, "momentum=1.5"),
        ({"network": "cnn"}, "network='cnn'"),
        ({"learning": 1}, "'learning'"),
        ({"model_name_or_path": "runs/none"}, "runs/none"),
    ],
)
def test_bad_input(changes, told, tmp_path, capsys):
    assert main(["pretrain", *flags(tmp_path / "run", **changes)]) == 2
    line = capsys.readouterr().err
    assert told in line and line.strip().count("\n") == 0
    assert not (tmp_path / "run" / "final").exists()


def test_goes_on_from_a_model(tmp_path):
    first = train(tmp_path / "one")
    second = train(tmp_path / "two", model_name_or_path=tmp_path / "one" / "final", learning_rate=1e-9)
    assert second["final_loss"] == pytest.approx(first["final_loss"], abs=1e-4)
    with pytest.raises(ConfigError, match=r"token ids 0\.\.1"):
        train(
            tmp_path / "three",
            model_name_or_path=tmp_path / "one" / "final",
            source="rlm",
            source_args='{"v": 5, "L": 2}',
        )


def test_a_run_that_is_done_stays_as_it_is_when_it_is_resumed(tmp_path):
    """transformers would take a step more."""
    folder = tmp_path / "run"
    train(folder, lr_scheduler_type="constant")
    names = ("metrics.jsonl", "final/model.safetensors", "best/model.safetensors", "curves.json")
    before = {name: (folder / name).read_bytes() for name in names}
    train(folder, "--resume", lr_scheduler_type="constant")
    assert {name: (folder / name).read_bytes() for name in names} == before
