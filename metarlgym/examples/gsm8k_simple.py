"""Train Qwen2.5-Math-1.5B-Instruct on GSM8K by GRPO over whole trials: three attempts at each problem.

Start a generation server in one terminal and two training processes in another (settings may follow, such as
`--max_steps 50`):

    CUDA_VISIBLE_DEVICES=2 metarlgym serve --model Qwen/Qwen2.5-Math-1.5B-Instruct
    CUDA_VISIBLE_DEVICES=0,1 accelerate launch --config-file configs/zero3.yaml --num-processes 2 \
        metarlgym/examples/gsm8k_simple.py
"""

import json
import sys
from dataclasses import dataclass

from trl import TrlParser

from metarlgym import ConfigError, MetaRLGymError, TaskGroup
from metarlgym.models.end_tokens import end_tokens
from metarlgym.models.loading import load_model, load_tokenizer
from metarlgym.rollout.make_renderer import make_renderer
from metarlgym.training.config import MetaGRPOConfig
from metarlgym.training.trainer import MetaGRPOTrainer


@dataclass
class Arguments(MetaGRPOConfig):
    model_name_or_path: str = "Qwen/Qwen2.5-Math-1.5B-Instruct"
    env_args: str = '{"data": "openai/gsm8k"}'  # {"data": "bundled"} needs no download
    output_dir: str | None = "runs/gsm8k_simple"
    episodes: int = 3  # attempts per problem
    trials_per_task: int = 8  # trials per problem, compared with each other
    credit: str = "return_to_go"  # an attempt is credited with its own and all later rewards
    max_action_tokens: int = 512
    eval_trials: int = 32  # problems of the test split, used if eval_strategy enables evaluation
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 8
    max_steps: int = 200
    learning_rate: float = 1e-6
    bf16: bool = True
    gradient_checkpointing: bool = True
    use_vllm: bool = True


def main() -> None:
    (args,) = TrlParser((Arguments,)).parse_args_and_config()
    try:
        group = TaskGroup("GSM8K-v0", json.loads(args.env_args))
    except json.JSONDecodeError as error:
        raise ConfigError(f'env_args={args.env_args!r} is not JSON ({error}): write {{"data": "bundled"}}.') from None
    tokenizer = load_tokenizer(args.model_name_or_path)
    model = load_model(args.model_name_or_path, dtype="float32")  # bf16 only for the passes, not for weight updates
    renderer = make_renderer("auto", tokenizer, group)
    renderer.end_also_with(end_tokens(model.generation_config, model.config))
    trainer = MetaGRPOTrainer(model, args, group, processing_class=tokenizer, renderer=renderer)
    trainer.train()
    trainer.save_model(f"{args.output_dir}/final")


if __name__ == "__main__":
    try:
        main()
    except MetaRLGymError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
