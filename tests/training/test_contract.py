"""The seams of TRL that the trainer hangs on. A release that moves one fails here first, and says so."""

from __future__ import annotations

import inspect
from importlib.metadata import requires, version

import pytest
import torch
import trl
from packaging.requirements import Requirement
from packaging.version import Version
from tiny import make_trainer, terse, word_parts
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from metarlgym import MetaRLGymError
from metarlgym.training.micro_batches import COMPLETION, PROMPT, WHOLE
from metarlgym.training.prefixes.forward import scored_only
from metarlgym.training.trainer import _rollout

MOVED = "the seam moved: TRL changed "


class Recorder:
    """A rollout_func that keeps how it was called and answers with fixed rows: action, observation, end token."""

    def __init__(self, tokenizer):
        self.end = tokenizer.eos_token_id
        self.calls = []

    def __call__(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        n = len(args[0])
        return {
            "prompt_ids": [[1, 4]] * n,
            "completion_ids": [[5, 6, 7, self.end][i % 2 :] for i in range(n)],
            "logprobs": [[-1.0, 0.0, -1.0, -1.0][i % 2 :] for i in range(n)],
            "env_mask": [[1, 0, 1, 1][i % 2 :] for i in range(n)],
            "score": [float(i) for i in range(n)],
            "extra": [f"row {i}" for i in range(n)],
        }


SEEN = {}


def score(prompts, score, **kwargs):
    SEEN.update(kwargs)
    return score


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """TRL's own trainer with a recording rollout_func, after one generation."""
    from datasets import Dataset

    model, tokenizer, _ = word_parts(terse("Doors-v0"))
    recorder = Recorder(tokenizer)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[score],
        args=GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("contract")),
            per_device_train_batch_size=4,
            steps_per_generation=2,
            gradient_accumulation_steps=2,
            num_generations=4,
            max_steps=1,
            learning_rate=0.0,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            bf16=False,
            use_cpu=True,
            entropy_coef=0.1,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a", "b"], "task_index": [0, 1]}),
        processing_class=tokenizer,
        rollout_func=recorder,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.recorder = recorder
    trainer.outputs = []
    inner = trainer._generate_and_score_completions

    def watched(inputs):
        trainer.outputs.append((inputs, inner(inputs)))
        return trainer.outputs[-1][1]

    trainer._generate_and_score_completions = watched
    trainer.train()
    return trainer


def test_trl_is_in_the_pinned_range():
    pin = next(r for r in map(Requirement, requires("metarlgym")) if r.name == "trl")
    assert Version(trl.__version__) in pin.specifier, f"trl {trl.__version__} is outside the tested range {pin}"
    assert version("trl") == trl.__version__


def test_the_method_we_override():
    signature = inspect.signature(GRPOTrainer._generate_and_score_completions)
    assert list(signature.parameters) == ["self", "inputs"], MOVED + "_generate_and_score_completions(self, inputs)"


def test_the_arguments_we_construct_with():
    names = set(inspect.signature(GRPOTrainer.__init__).parameters)
    wanted = {"model", "reward_funcs", "args", "train_dataset", "eval_dataset", "processing_class", "rollout_func"}
    assert wanted <= names, MOVED + f"GRPOTrainer(...): no {wanted - names}"


def test_rollout_func_is_called_with_prompts_and_trainer(plain):
    (args, kwargs), *more = plain.recorder.calls
    assert not kwargs and len(args) == 2 and args[1] is plain, MOVED + "the call rollout_func(prompts, trainer)"
    assert not more, MOVED + "how often rollout_func is called in a generation"


def test_prompts_come_repeated_for_each_generation(plain):
    prompts = plain.recorder.calls[0][0][0]
    assert len(prompts) == 8, MOVED + "how many prompts a generation has: per-device batch x steps_per_generation"
    assert prompts in (["a"] * 4 + ["b"] * 4, ["b"] * 4 + ["a"] * 4), MOVED + "RepeatSampler: groups are not in a row"


def test_the_override_sees_the_columns_of_the_dataset(plain):
    inputs, _ = plain.outputs[0]
    assert all("task_index" in row for row in inputs), MOVED + "the inputs of _generate_and_score_completions"
    assert len({id(row) for row in inputs}) == len(inputs), MOVED + "rows: repeated rows are one shared dict"


def test_the_keys_we_read_and_replace(plain):
    _, out = plain.outputs[0]
    wanted = {"advantages", "completion_ids", "completion_mask", "tool_mask", "num_items_in_batch"}
    assert wanted <= set(out), MOVED + f"the output of _generate_and_score_completions: no {wanted - set(out)}"
    assert out["completion_ids"].shape == out["tool_mask"].shape == (8, 4), MOVED + "the padding of completions"
    assert out["advantages"].shape == (8,), MOVED + "the shape of its advantages"


def test_the_tensors_that_we_deal_again(plain):
    _, out = plain.outputs[0]
    assert set(out) <= {*PROMPT, *COMPLETION, *WHOLE}, (
        MOVED + "what it trains on: micro_batches must know how to cut it"
    )
    for method, names in {
        "training_step": ["self", "model", "inputs", "num_items_in_batch"],
        "_prepare_inputs": ["self", "generation_batch"],
        "_compute_loss": ["self", "model", "inputs"],
    }.items():
        signature = inspect.signature(getattr(GRPOTrainer, method))
        assert list(signature.parameters) == names, MOVED + f"{method}({', '.join(names)})"


def test_env_mask_becomes_the_tool_mask(plain):
    _, out = plain.outputs[0]
    assert (out["tool_mask"] * out["completion_mask"])[0].tolist() == [1, 0, 1, 1], MOVED + "env_mask"
    assert (out["tool_mask"] * out["completion_mask"])[1].tolist() == [0, 1, 1, 0], MOVED + "env_mask or padding side"
    assert int(out["num_items_in_batch"]) == 4 * 3 + 4 * 2, MOVED + "num_items_in_batch: it counts environment tokens"


def test_extra_fields_reach_the_reward_functions(plain):
    assert SEEN["extra"] == [f"row {i}" for i in range(8)], MOVED + "how extra fields of rollout_func travel"


def test_shuffle_and_split_carry_wide_advantages(plain):
    _, out = plain.outputs[0]
    out = {**out, "advantages": out["completion_ids"].float()}  # a mark that tells whose row it is
    plain._generate_and_score_completions = lambda inputs: out
    plain._buffered_inputs, plain._step = None, 0
    plain.model.train()
    parts = [plain._prepare_inputs([])]
    plain._step = 1
    parts.append(plain._prepare_inputs([]))
    for part in parts:
        assert part["advantages"].shape == (4, 4), MOVED + "the split of a generation batch"
        assert torch.equal(part["advantages"], part["completion_ids"].float()), MOVED + "the shuffle: rows are mixed up"


def test_attributes_we_read_and_write(plain):
    names = ["_metrics", "entropy_coef", "temperature", "accelerator", "state", "_buffered_inputs", "_step", "beta"]
    for name in [*names, "loss_type", "current_gradient_accumulation_steps", "_current_train_step_time"]:
        assert hasattr(plain, name), MOVED + f"the attribute {name}"
    assert hasattr(plain._metrics["train"]["new"], "append"), MOVED + "_metrics['train'][name] is no list by default"


def test_the_entropy_bonus_reads_the_attribute_at_each_step(plain):
    inputs = plain.outputs[0][1]
    plain.model.train()
    losses = []
    for coefficient in (0.0, 1.0):
        plain.entropy_coef = coefficient
        losses.append(float(plain.compute_loss(plain.model, inputs).detach()))
    assert losses[1] < losses[0] - 0.1, MOVED + "entropy_coef: setting the attribute has no effect"


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"])
def test_constant_wide_advantages_give_the_loss_of_narrow_ones(plain, loss_type):
    out = dict(plain.outputs[0][1])
    plain.loss_type, plain.entropy_coef = loss_type, 0.0
    narrow = plain.compute_loss(plain.model, out)
    out["advantages"] = out["advantages"][:, None].expand(-1, out["completion_ids"].shape[1]).clone()
    wide = plain.compute_loss(plain.model, out)
    assert torch.equal(narrow, wide), MOVED + f"the loss {loss_type}: (B, T) advantages are not taken as (B,) ones"


def test_wide_advantages_weigh_tokens(plain):
    """Each token's own advantage, not a mean of its row: with advantage only at one token, only its logit moves."""
    out = dict(plain.outputs[0][1])
    plain.loss_type, plain.entropy_coef = "dapo", 0.0
    advantages = torch.zeros_like(out["completion_ids"], dtype=torch.float32)
    advantages[0, 2] = 1.0
    out["advantages"] = advantages
    kept = []
    hook = plain.model.model.norm.register_forward_hook(lambda m, a, o: kept.append(o) or o.retain_grad())
    plain.compute_loss(plain.model, out).backward()
    hook.remove()
    moved = kept[0].grad.abs().sum(-1).nonzero().tolist()
    assert moved == [[0, 2 + out["prompt_ids"].shape[1] - 1]], MOVED + "what (B, T) advantages mean"


def test_the_head_can_be_computed_at_labelled_positions_alone(plain, monkeypatch):
    from trl.trainer import utils

    rows = []
    inner = utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", lambda h, *rest: rows.append(len(h)) or inner(h, *rest))
    ids = torch.tensor([[1, 4, 5, 6, 7]])
    labels = torch.tensor([[-100, 5, -100, 7, -100]])
    call = {"input_ids": ids, "shift_labels": labels, "fused_lm_head": True}
    whole = plain.model(**call)
    with scored_only():
        some = plain.model(**call)
    assert rows == [5, 2], MOVED + "_use_triton in trl.trainer.utils decides which positions are computed"
    assert torch.equal(some.log_probs[0, [0, 2, 4]], torch.zeros(3)), MOVED + "shift_labels or its -100"
    torch.testing.assert_close(some.log_probs, whole.log_probs)
    torch.testing.assert_close(some.entropy, whole.entropy)


def test_the_method_that_scores(plain):
    names = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert names[:8] == [
        *("self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"),
        *("compute_entropy", "compute_aux_loss"),
    ], MOVED + "_get_per_token_logps_and_entropies"
    for name in ("aux_loss_enabled", "top_entropy_quantile", "_entropy_bonus_enabled"):
        assert hasattr(plain, name), MOVED + f"the attribute {name}"


def test_a_mismatch_of_rows_is_reported(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer._rows = [{"task_index": 0}]
    with pytest.raises(MetaRLGymError, match="seam has moved"):
        _rollout(["Doors-v0"] * 8, trainer)
