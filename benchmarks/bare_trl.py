"""The bare TRL loop of `quickstart_step.py`: `GRPOTrainer` with a minimal vectorised rollout of Doors."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from transformers import DynamicCache
from trl import GRPOConfig, GRPOTrainer

from metarlgym.training.config import MetaGRPOConfig

SAME = [
    *("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "num_generations"),
    *("max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "max_grad_norm", "weight_decay", "seed"),
    *("loss_type", "beta", "temperature", "entropy_coef", "gradient_checkpointing", "bf16", "use_cpu", "optim"),
    *("logging_steps", "disable_tqdm", "output_dir"),
]
"""Settings that the bare loop shares."""


class BareRollout:
    """Plays Doors for all rows at once."""

    def __init__(self, tokenizer: Any, doors: int, safe: float, episodes: int) -> None:
        ids = tokenizer.convert_tokens_to_ids
        self.doors, self.safe, self.episodes, self.end = doors, safe, episodes, tokenizer.eos_token_id
        self.prompt = [tokenizer.bos_token_id, ids("doors")]
        self.choice = torch.full((len(tokenizer),), doors + 1)  # all other tokens are invalid
        for action in range(doors + 1):
            self.choice[ids(str(action + 1) if action < doors else "safe")] = action
        self.prize, self.nothing, self.sure, self.invalid = map(ids, ("prize", "nothing", "sure", "invalid"))

    def __call__(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        n, model, cache = len(prompts), trainer.model, DynamicCache(config=trainer.model.config)
        prize = torch.tensor([int(prompt) * 7919 % self.doors for prompt in prompts])
        feed = torch.tensor([self.prompt] * n)
        total, columns, logprobs = torch.zeros(n), [], []
        model.eval()
        with torch.no_grad():
            for _ in range(self.episodes):
                logits = model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
                scores = torch.log_softmax(logits[:, -1], -1)
                token = torch.multinomial(scores.exp(), 1)
                logprobs.append(scores.gather(-1, token))
                choice = self.choice[token[:, 0]]
                won, safe = choice == prize, choice == self.doors
                total += won.float() + self.safe * safe.float()
                answer = torch.full((n,), self.nothing).masked_fill(choice > self.doors, self.invalid)
                answer = answer.masked_fill(won, self.prize).masked_fill(safe, self.sure)
                feed = torch.cat([token, answer[:, None]], 1)
                columns.append(feed)
        model.train()
        rows = torch.cat(columns, 1)
        rows[:, -1] = self.end
        spread = torch.zeros(rows.shape).index_copy_(1, torch.arange(0, rows.shape[1], 2), torch.cat(logprobs, 1))
        return {
            "prompt_ids": [self.prompt] * n,
            "completion_ids": rows.tolist(),
            "logprobs": spread.tolist(),
            "env_mask": [[1, 0] * self.episodes] * n,
            "trial_return": total.tolist(),
        }


def trial_return(prompts: list[Any], trial_return: list[float], **_: Any) -> list[float]:
    return trial_return


def bare_trainer(args: MetaGRPOConfig, model: Any, tokenizer: Any, rollout: BareRollout) -> GRPOTrainer:
    """A GRPOTrainer with our settings where TRL has them; advantages `(B,)`, scaled over the batch."""
    same = {name: getattr(args, name) for name in SAME}
    rows = args.generation_batch_size // args.num_generations * args.max_steps
    return GRPOTrainer(
        model=model,
        reward_funcs=[trial_return],
        args=GRPOConfig(**same, scale_rewards="batch", save_strategy="no", report_to="none"),
        train_dataset=Dataset.from_dict({"prompt": [str(i) for i in range(rows)]}),
        processing_class=tokenizer,
        rollout_func=rollout,
    )
