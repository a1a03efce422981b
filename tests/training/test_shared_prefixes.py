"""Updates that forward what rows share once: the gradient of whole rows, and where whole rows are kept."""

from __future__ import annotations

import pytest
import torch
from tiny import logged, make_trainer, terse, word_parts
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen3Config, Qwen3MoeConfig
from transformers.integrations import sdpa_attention
from uneven_rows import uneven_batch

from metarlgym import TaskGroup
from metarlgym.models.scratch import byte_tokenizer
from metarlgym.rollout.render import PlainRenderer
from metarlgym.training.prefixes import tree
from metarlgym.training.prefixes.attention import TreeAttention, install
from metarlgym.training.prefixes.trainer import ROWS, TREES, TRL

SGD = {"optim": "sgd", "learning_rate": 0.3, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
GUESS = terse("GuessNumber-v0", numbers=9, guesses=4)
WORDS = TaskGroup("Doors-v0", {"style": "chat", "doors": 2})
SIZES = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}
CONFIGS = {
    "qwen3": Qwen3Config(**SIZES, **HEADS, head_dim=8),
    "llama": LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True),
    "gpt2": GPT2Config(
        vocab_size=259,
        n_positions=2048,
        n_embd=32,
        n_layer=2,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    ),
}


def parts(kind, seed=0, folder=None):
    """Chat Doors in bytes: rows of some 700 tokens, of which 500 are the rules."""
    tokenizer = byte_tokenizer()
    config = CONFIGS[kind] if isinstance(kind, str) else kind
    config.vocab_size = len(tokenizer)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # large enough that rows differ
        for p in model.parameters():
            p.mul_(2.0)
    if folder is not None:  # from which TRL loads the reference
        model.save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
    return model, tokenizer, PlainRenderer(tokenizer)


def trainer_of(folder, kind="qwen3", **settings):
    lines = []
    given = {"max_action_tokens": 6, "trials_per_task": 4, **settings}
    trainer = make_trainer(folder, WORDS, parts(kind, folder=folder / "model" if given.get("beta") else None), **given)
    trainer.tell = lines.append
    trainer.told = lines
    return trainer


def batch_of(trainer):
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = trainer.args.per_device_train_batch_size * trainer.args.steps_per_generation
    each = trainer.args.num_generations
    prompts = [dict(row) for row in trainer.train_dataset.select(range(rows // each)) for _ in range(each)]
    return trainer._generate_and_score_completions(prompts)


def gradient(trainer, inputs):
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, dict(inputs))
    loss.backward()
    found = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
    trainer.model.zero_grad()
    return float(loss.detach()), found


def close(one, other, error=1e-5):
    assert float(other.norm()) > 1e-6
    assert float((one - other).norm() / other.norm()) <= error


VARIANTS = {
    "plain": {},
    "last_1": {"memory": "last_1", "episodes": 4, "per_device_train_batch_size": 16},
    "checkpointing": {"gradient_checkpointing": True},
    "reference": {"beta": 0.1, "num_iterations": 2},
    "entropy": {"entropy_coef": 0.1, "loss_type": "bnpo"},
    "exploration": {"exploration_coef": "0.5"},
    "sequence": {"importance_sampling_level": "sequence", "loss_type": "grpo"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_the_gradient_is_that_of_whole_rows(tmp_path, kind, variant):
    trainer = trainer_of(tmp_path, kind, **VARIANTS[variant])
    batch = batch_of(trainer)
    assert trainer.path == TREES
    if variant == "reference":  # ratios that are not 1
        noise = torch.randn(batch["completion_ids"].shape, generator=torch.Generator().manual_seed(0))
        batch["old_per_token_logps"] = batch["old_per_token_logps"] + 0.1 * noise
        batch["ref_per_token_logps"] = batch["ref_per_token_logps"] + 0.1 * noise.flip(1)
    batch["advantages"] = torch.randn(batch["completion_ids"].shape, generator=torch.Generator().manual_seed(1))
    loss, ours = gradient(trainer, batch)
    forwarded = sum(logged_now(trainer, "forward/tokens"))
    assert forwarded < 0.6 * sum(logged_now(trainer, "forward/row_tokens"))
    trainer.path = TRL
    expected, whole = gradient(trainer, batch)
    assert loss == pytest.approx(expected, rel=1e-4, abs=1e-6)
    close(ours, whole)
    trainer.path = ROWS
    close(gradient(trainer, batch)[1], whole, 1e-6)


def logged_now(trainer, name):
    return trainer._metrics["train"][name]


def test_scores_of_old_and_reference_models_are_those_of_whole_rows(tmp_path):
    found = {}
    for share in (False, True):
        trainer = trainer_of(tmp_path, "llama", beta=0.1, num_iterations=2, share_prefixes=share)
        found[share] = batch_of(trainer)
    assert torch.equal(found[True]["completion_ids"], found[False]["completion_ids"])
    sampled = (found[True]["completion_mask"] * found[True]["tool_mask"]).bool()
    for name in ("old_per_token_logps", "ref_per_token_logps"):
        torch.testing.assert_close(found[True][name][sampled], found[False][name][sampled], rtol=0, atol=1e-5)
        assert not found[True][name][~sampled].any(), "nothing else is scored"


def test_whole_rows_in_which_all_is_sampled(tmp_path):
    """Nothing shared and nothing to skip: the same to rounding errors of one order of operations."""
    trainer = trainer_of(tmp_path)
    batch = batch_of(trainer)
    draw = torch.Generator().manual_seed(0)
    for name in ("prompt_ids", "completion_ids"):
        batch[name] = torch.randint(0, 200, batch[name].shape, generator=draw)
    for name in ("prompt_mask", "completion_mask", "tool_mask"):
        batch[name] = torch.ones_like(batch[name])
    batch["advantages"] = torch.randn(batch["completion_ids"].shape, generator=draw)
    _, ours = gradient(trainer, batch)
    trainer.path = TRL
    close(ours, gradient(trainer, batch)[1], 1e-6)


def test_tokens_of_the_environment_get_no_gradient(tmp_path):
    trainer = trainer_of(tmp_path)
    batch = batch_of(trainer)
    _, before = gradient(trainer, batch)
    masked = (batch["completion_mask"] * batch["tool_mask"]) == 0
    assert masked.any()
    batch["advantages"] = batch["advantages"].masked_fill(masked, 1e9)
    _, after = gradient(trainer, batch)
    assert torch.equal(before, after)
    trainer._forwarded = None
    scores = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        batch["completion_ids"].shape[1],
        batch_size=3,
    )[0]
    assert not scores[masked].any() and (scores[~masked] < 0).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"exploration_coef": "0.3"},
        {"beta": 0.1, "num_iterations": 2, "max_steps": 4},
        {"memory": "none", "rollouts_ahead": 1},
        {"skip_zero_signal": True, "loss_type": "grpo"},
        {"memory": "last_1", "steps_per_generation": 4, "max_steps": 3},
        {"loss_type": "bnpo", "entropy_coef": 0.1},
        {"format_steps": 1, "max_steps": 2},
        {"micro_batch_tokens": 100},
        {"micro_batch_tokens": 100, "beta": 0.1, "num_iterations": 2, "max_steps": 4},
        {"micro_batch_tokens": 60, "memory": "last_1", "exploration_coef": "0.3"},
    ],
    ids=str,
)
def test_runs_end_at_the_same_weights(tmp_path, monkeypatch, settings):
    """Small prompts, so small prefixes count here."""
    monkeypatch.setattr(tree, "WORTH", 1)
    model, tokenizer, renderer = word_parts(GUESS)
    model.save_pretrained(tmp_path / "model")
    found = []
    for share in (False, True):
        given = {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 2, "max_steps": 2, **SGD, **settings}
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        trainer = make_trainer(
            tmp_path / str(share), GUESS, (model, tokenizer, renderer), share_prefixes=share, **given
        )
        trials = []
        trainer.on_trials = lambda step, played, trials=trials: trials.extend(t.rows[0].ids for t in played)
        trainer.train()
        weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        found.append((trainer, trials, weights))
    (before, trials, expected), (after, others, weights) = found
    assert before.path == TRL and after.path == TREES
    assert others == trials
    torch.testing.assert_close(weights, expected, rtol=0, atol=5e-6)
    assert not logged(before, "forward/tokens") and not logged(after, "padding_share")
    steps = len(logged(after, "forward/tokens"))
    assert steps == given["max_steps"]
    assert sum(logged(after, "forward/tokens")) < 0.85 * sum(logged(after, "forward/row_tokens"))
    assert all(0 < share < 1 for share in logged(after, "forward/head_share"))
    for name in ("entropy", "grad_norm", "legal_entropy", "kl"):
        if "micro_batch_tokens" not in settings or name == "grad_norm":
            # TRL's metrics are means of its micro-batches', whatever the number of their tokens.
            error = 1e-3 if name == "grad_norm" else 1e-2
            assert logged(after, name) == pytest.approx(logged(before, name), rel=error, abs=1e-5), name


def test_adapters_are_trained_alike(tmp_path):
    from peft import LoraConfig

    found = []
    for share in (False, True):
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        trainer = make_trainer(
            tmp_path / str(share),
            WORDS,
            parts("qwen3"),
            {"peft_config": lora},
            max_action_tokens=6,
            share_prefixes=share,
            beta=0.1,
            **SGD,
        )
        trainer.train()
        assert trainer.path == (TREES if share else TRL)
        found.append({n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad})
    before, after = found
    assert max(float((before[n] - after[n]).abs().max()) for n in before) < 1e-5


def test_bfloat16(tmp_path):
    """As far from float32 as whole rows are."""
    errors = {}
    trainer = trainer_of(tmp_path, "llama", bf16=True)
    batch = batch_of(trainer)
    batch["advantages"] = torch.randn(batch["completion_ids"].shape, generator=torch.Generator().manual_seed(1))
    assert trainer.path == TREES
    for path in (TREES, TRL):
        trainer.path = path
        errors[path] = gradient(trainer, batch)[1]
    trainer.accelerator.state._mixed_precision = "no"
    trainer.accelerator.native_amp = False
    exact = gradient(trainer, batch)[1]
    far = {path: float((found - exact).norm() / exact.norm()) for path, found in errors.items()}
    assert 0 < far[TREES] < 1.5 * far[TRL] < 0.1


# ---------------------------------------------------------------------- where whole rows are kept


@pytest.mark.parametrize(
    ("config", "settings", "reason"),
    [
        (MistralConfig(**SIZES, **HEADS, sliding_window=64), {}, "it has layers of type sliding_attention"),
        (LlamaConfig(**SIZES, **HEADS, attn_implementation="eager"), {}, "its attention is eager, not sdpa"),
        (
            LlamaConfig(**SIZES, **HEADS, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            {},
            "its positions depend on the longest row",
        ),
        (LlamaConfig(**SIZES, **{**HEADS, "max_position_embeddings": 2048}), {"torch_compile": True}, "torch_compile"),
        (
            Qwen3MoeConfig(
                **SIZES, **HEADS, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
            ),
            {"router_aux_loss_coef": 0.1},
            "load-balancing loss counts each token",
        ),
    ],
    ids=["window", "eager", "rope", "compiled", "experts"],
)
def test_the_reason_is_told_once(tmp_path, config, settings, reason):
    if reason.startswith("load"):
        config.output_router_logits = True
    trainer = trainer_of(tmp_path, config)
    for name, value in settings.items():
        setattr(trainer.args, name, value)
    if "eager" in reason:
        trainer.model.set_attn_implementation("eager")
    trainer._check_model()
    trainer._check_model()
    (line,) = trainer.told
    assert line.startswith("updates forward whole rows: prefixes cannot be shared with model type")
    assert reason in line
    assert trainer.path == ROWS
    batch = uneven_batch(8, 250, seed=0)
    batch |= {"num_items_in_batch": torch.tensor(50), "old_per_token_logps": None}
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    _, ours = gradient(trainer, batch)
    trainer.path = TRL
    close(ours, gradient(trainer, batch)[1], 1e-6)


def test_a_model_that_ignores_the_tree_is_found_out(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    install()
    from transformers import AttentionInterface

    monkeypatch.setitem(
        AttentionInterface._global_mapping,
        "sdpa",
        lambda *args, tree=None, **kwargs: sdpa_attention.sdpa_attention_forward(*args[:4], None, **kwargs),
    )
    monkeypatch.setattr("metarlgym.training.prefixes.check.install", lambda: None)
    trainer.choose_path(torch.float32)
    assert trainer.path == ROWS and "only 0 of its 2 layers follow a tree" in trainer.told[0]


def test_other_log_probabilities_are_found_out(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    inner = TreeAttention.__call__
    monkeypatch.setattr(TreeAttention, "__call__", lambda self, m, q, k, v, **rest: inner(self, m, q, k, -v, **rest))
    trainer.choose_path(torch.float32)
    assert trainer.path == ROWS and "log-probabilities differ by" in trainer.told[0]


def test_a_model_that_cannot_be_called_with_a_tree_is_found_out(tmp_path):
    trainer = trainer_of(tmp_path)
    inner = trainer.model.forward

    def forward(input_ids=None, attention_mask=None, labels=None, fused_lm_head=False, **others):
        assert not others
        return inner(input_ids=input_ids, attention_mask=attention_mask, labels=labels, fused_lm_head=fused_lm_head)

    trainer.model.forward = forward
    trainer.choose_path(torch.float32)
    assert trainer.path == ROWS and "it cannot be called with a tree (AssertionError" in trainer.told[0]


def test_a_model_that_can_is_told_so_once(tmp_path):
    trainer = trainer_of(tmp_path, "gpt2", max_steps=2)
    trainer.train()
    assert trainer.told == ["updates forward what rows share once"]
