"""MetaGRPOConfig: TRL's GRPOConfig extended with settings for trials. All fields are flat, so that a single YAML file
or the command line can set any of them."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field

import torch
from trl import GRPOConfig

from metarlgym.datatypes import ConfigError
from metarlgym.memory import make_memory
from metarlgym.runtime.launch import check_launch
from metarlgym.serving.handshake import parse_urls
from metarlgym.settings.ranges import check_values
from metarlgym.training.ahead_checks import DEFAULT_STALENESS, check_ahead, check_share, rollouts_ahead
from metarlgym.training.credit import RULES
from metarlgym.training.schedule import Schedule

TASKS = 4
"""Tasks in a batch by default: with one task there is no reason to adapt, only to play what pays there."""


def _micro_batch(rows: int, rows_per_trial: int, parts: int, steps: int) -> int:
    """The smallest micro-batch with which a batch holds whole groups of at least `TASKS` tasks.

    Args:
        rows: rows of a group.
        rows_per_trial: rows of a trial, which stay on one process.
        parts: micro-batches of a batch, over all processes.
        steps: micro-batches of one process.
    """
    size = -(-TASKS * rows // parts)
    while size * parts % rows or size * steps % rows_per_trial:
        size += 1
    return size


@dataclass
class MetaGRPOConfig(GRPOConfig):
    r"""
    Configuration of the [`MetaGRPOTrainer`]. Every field of [`~trl.GRPOConfig`] can be set too; `num_generations` and
    `num_generations_eval` are set from `trials_per_task`.

    Parameters:
        episodes (`int`): H, the number of episodes in a trial.
        trials_per_task (`int`): G, the number of trials of one task in a GRPO group.
        memory (`str`): what the policy sees of earlier episodes: `full`, `none` or `last_K`. All but `full` give one
            training row per episode.
        keep_thoughts (`str`): which thoughts the policy sees again: `all`, `episode` (those of the current episode) or
            `none`. All but `all` give one training row per episode.
        credit (`str`): rule that turns returns into advantages; see `metarlgym.training.credit`.
        gamma (`float` or schedule): discount from one episode to the next.
        gamma_step (`float`, *optional*): discount from one turn to the next; setting it enables per-turn credit.
        free_shots (`str`): number of initial episodes with weight 0: a number, or a schedule such as `"0:5, 800:0"`,
            whose interpolated values are rounded.
        entropy_schedule (`str`, *optional*): schedule of `entropy_coef`.
        exploration_coef (`str`): weight of an entropy bonus over the legal actions, a number or a schedule; in units of
            the advantages, whose root mean square is 1, per nat. See `metarlgym.training.exploration`.
        format_steps (`int`): first optimizer steps that imitate random legal play; see
            `metarlgym.training.format_steps`.
        stop_on_collapse (`int`, *optional*): end the run after this many rollouts in a row without a learning signal.
        common_noise (`bool`): all trials of a group see the same episode noise (common random numbers).
        skip_zero_signal (`bool`): exclude groups whose advantages are all zero from the loss and its denominator.
        rollouts_ahead (`str`): number of rollouts that are played while the trainer learns, or `continuous`; see
            `metarlgym.training.rollouts` and `metarlgym.training.continuous`.
        weight_update (`str`, *optional*): whether an update of the weights waits for rollouts in flight (`drain`) or
            happens under them (`in_flight`).
        max_staleness (`int`, *optional*): with `continuous`, maximum number of updates between the weights that begin a
            group and those that train on it; 4 by default.
        micro_batch_tokens (`int`, *optional*): maximum number of tokens in a forward pass of the update; see
            `metarlgym.training.micro_batches`.
        share_prefixes (`bool`): forward what rows share once in updates; see `metarlgym.training.prefixes`.
    """

    episodes: int = field(default=3, metadata={"help": "Number of episodes in a trial (H)."})
    trials_per_task: int = field(default=8, metadata={"help": "Number of trials of one task in a GRPO group (G)."})
    memory: str = field(
        default="full", metadata={"help": "What the policy sees of earlier episodes: full, none, last_K."}
    )
    keep_thoughts: str = field(
        default="all",
        metadata={
            "help": "Thoughts that stay in the context: all, episode (the current episode's; one training row per "
            "episode), none (for episodes of one turn)."
        },
    )
    stop_on_success: bool = field(default=False, metadata={"help": "End a trial as soon as an episode succeeds."})
    max_total_turns: int | None = field(
        default=None,
        metadata={"help": "Turn budget of a trial; finishing episodes early leaves room for more episodes."},
    )
    credit: str = field(default="return_to_go", metadata={"help": f"Credit rule: {', '.join(RULES)}."})
    gamma: str = field(
        default="1.0", metadata={"help": "Discount from one episode to the next: a number or a schedule."}
    )
    gamma_step: float | None = field(
        default=None, metadata={"help": "Discount from one turn to the next; setting it enables per-turn credit."}
    )
    anchor_weight: float = field(default=1.0, metadata={"help": "Weight of the anchor term in credit=gigpo."})
    free_shots: str = field(
        default="0",
        metadata={"help": 'Number of initial episodes with weight 0: a number or a schedule such as "0:5, 800:0".'},
    )
    entropy_schedule: str | None = field(
        default=None, metadata={"help": 'Schedule of the entropy coefficient, such as "0:0.05, 300:0.01".'}
    )
    exploration_coef: str = field(
        default="0",
        metadata={
            "help": "Weight of an entropy bonus over the legal actions: a number or a schedule; 0.03 is a start."
        },
    )
    format_steps: int = field(
        default=0,
        metadata={"help": "Imitate random legal play in rollouts before this step: it teaches the format."},
    )
    stop_on_collapse: int | None = field(
        default=None,
        metadata={"help": "End the run after this many rollouts in a row in which no group has a learning signal."},
    )
    common_noise: bool = field(
        default=False, metadata={"help": "Use the same episode noise for all trials of a group."}
    )
    skip_zero_signal: bool = field(
        default=False,
        metadata={"help": "Exclude groups whose advantages are all zero from the loss and its denominator."},
    )
    micro_batch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens, padding included, in a forward and backward pass of a process; the rows "
            "of a step are sorted by length. Default: per_device_train_batch_size rows, in random order."
        },
    )
    share_prefixes: bool = field(
        default=True,
        metadata={
            "help": "Forward what the rows of a micro-batch share once in updates, where the model allows it, and "
            "compute the head at sampled tokens alone; false: whole rows and all positions, as TRL does."
        },
    )
    max_action_tokens: int = field(
        default=64,
        metadata={
            "help": "Maximum number of tokens in an action. For chat models and legal actions that are listed, the "
            "default is 4 times the longest, at least 16."
        },
    )
    max_thought_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens in a thought, after which it is closed; default: 512 if the tokenizer "
            "marks thoughts. 0 closes each thought at once."
        },
    )
    max_context_tokens: int | None = field(
        default=None, metadata={"help": "Maximum number of tokens in a context; default: the model's limit."}
    )
    max_episode_tokens: int | None = field(default=None, metadata={"help": "Maximum number of tokens in an episode."})
    max_episode_turns: int | None = field(default=None, metadata={"help": "Maximum number of turns in an episode."})
    max_episode_seconds: float | None = field(default=None, metadata={"help": "Wall-clock limit of an episode."})
    max_trial_seconds: float | None = field(default=None, metadata={"help": "Wall-clock limit of a trial."})
    rollout_concurrency: int | None = field(
        default=None, metadata={"help": "Maximum number of concurrent trials; default: all that fit into memory."}
    )
    rollouts_ahead: str = field(
        default="0",
        metadata={
            "help": "Number of rollouts that are played in advance, in the background. 0: each is played when it is "
            "due, by the current weights. continuous: trials are always played, and groups are trained on as they end."
        },
    )
    weight_update: str | None = field(
        default=None,
        metadata={
            "help": "Whether an update of the weights waits for the rollouts in flight (drain, the default), or "
            "happens under them (in_flight, the default and only choice for rollouts_ahead: continuous)."
        },
    )
    max_staleness: int | None = field(
        default=None,
        metadata={
            "help": "For rollouts_ahead: continuous: maximum number of updates between the oldest weights that played "
            "a group and those that train on it; default: 4."
        },
    )
    eval_trials: int = field(
        default=512, metadata={"help": "Number of held-out trials in each evaluation during training."}
    )

    force_truncated_sampling: bool = field(
        default=False, metadata={"help": "Allow top_p, top_k and min_p in training even though they bias the gradient."}
    )
    server_request_timeout: float = field(
        default=600.0, metadata={"help": "Seconds a server may take for one action before the trial is truncated."}
    )
    server_retry_seconds: float = field(
        default=60.0, metadata={"help": "How long to retry lost connections and HTTP 5xx before the run stops."}
    )
    server_concurrency: int = field(
        default=1024, metadata={"help": "Maximum number of requests in flight per process."}
    )
    weight_sync_timeout: float = field(
        default=300.0, metadata={"help": "Timeout in seconds for connecting to the servers and for each weight update."}
    )
    probe_every: int = field(
        default=50,
        metadata={
            "help": "Compare the servers' log-probabilities with the trainer's every N weight updates; 0: never."
        },
    )
    probe_tolerance: float | None = field(
        default=None,
        metadata={"help": "Maximum mean absolute difference of log-probabilities; the default depends on the dtype."},
    )

    # Defaults that differ from TRL's; docs/decisions.md gives the reasons.
    scale_rewards: str | None = field(
        default=None, metadata={"help": "For credit=trial only: group, batch or none, as in TRL."}
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations in the backward pass to save memory."}
    )
    shuffle_dataset: bool | None = field(
        default=False, metadata={"help": "Leave False: the order of tasks is already seeded."}
    )
    vllm_mode: str = field(
        default="server", metadata={"help": "Where vLLM runs: on a server, or in the training processes (colocate)."}
    )
    vllm_server_base_url: str | None = field(
        default=None,
        metadata={"help": "URL of the vLLM server; rollouts are shared among several, separated by commas."},
    )
    vllm_importance_sampling_mode: str = field(
        default="token_truncate", metadata={"help": "As in TRL; sequence modes mask or scale long trials as a whole."}
    )
    per_device_train_batch_size: int | None = field(
        default=None,
        metadata={"help": "Rows in a micro-batch of one process; default: the rows of 4 tasks, over all processes."},
    )
    steps_per_generation: int | None = field(default=None, metadata={"help": "Number of micro-batches per rollout."})
    num_generations: int | None = field(default=None, metadata={"help": "Derived from trials_per_task; leave it out."})
    save_only_model: bool = field(default=False, metadata={"help": "Leave False: resuming needs the optimizer state."})

    def __post_init__(self) -> None:
        if self.max_steps == -1:  # TRL's default, which means whole epochs of a dataset
            raise ConfigError("max_steps is missing: tasks never run out, so say how many steps to train, such as 400.")
        self.rollouts_ahead = rollouts_ahead(self.rollouts_ahead)
        check_values(self)
        self._check_trial()
        self._check_credit()
        self._check_micro_batches()
        self._check_server()
        check_ahead(self)
        self._check_correction()
        if not torch.cuda.is_available():
            self.bf16: bool | None = bool(self.bf16)  # where TRL's default is on for a GPU
            self.use_cpu = True
        rows = self.trials_per_task * self.rows_per_trial
        for name in ("num_generations", "num_generations_eval"):
            given = getattr(self, name)
            if given is not None and given != rows:
                raise ConfigError(
                    f"{name}={given} contradicts trials_per_task={self.trials_per_task} with {self.rows_per_trial} "
                    f"row(s) a trial, which make {rows}: leave {name} out."
                )
            setattr(self, name, rows)
        world = int(os.environ.get("WORLD_SIZE", "1"))  # TRL's own world_size exists only after its __post_init__
        if self.steps_per_generation is None and self.generation_batch_size is None:
            self.steps_per_generation = self.gradient_accumulation_steps
        if self.per_device_train_batch_size is None:
            steps = self.steps_per_generation or self.gradient_accumulation_steps
            self.per_device_train_batch_size = _micro_batch(rows, self.rows_per_trial, world * steps, steps)
        self.per_device_eval_batch_size = self.per_device_train_batch_size
        if self.entropy_schedule is not None:
            schedule = Schedule.parse("entropy_schedule", self.entropy_schedule)
            # TRL decides once, from the initial value, whether the bonus is enabled.
            self.entropy_coef = max(schedule.values)
        share = self.per_device_train_batch_size * (self.steps_per_generation or 1)
        if share * world % rows:
            raise ConfigError(
                f"per_device_train_batch_size={self.per_device_train_batch_size} x steps_per_generation="
                f"{self.steps_per_generation} x {world} process(es) = {share * world} rows hold no "
                f"whole number of groups of {rows} rows (trials_per_task={self.trials_per_task} x "
                f"{self.rows_per_trial}): make it a multiple of {rows}."
            )
        if share % self.rows_per_trial:
            raise ConfigError(
                f"per_device_train_batch_size={self.per_device_train_batch_size} x steps_per_generation="
                f"{self.steps_per_generation} must be a multiple of episodes={self.episodes} with memory="
                f"{self.memory!r} and keep_thoughts={self.keep_thoughts!r}: a trial's rows stay on one process."
            )
        check_share(self, share, rows)
        super().__post_init__()
        check_launch(self.world_size)
        self._check_checkpoints()
        trials = share // self.rows_per_trial
        waves = -(-trials // min(trials, self.rollout_concurrency or trials))
        waves *= 2 if self.continuous else max(1, self.ahead)  # so many rollouts are in flight at the start
        if self.max_trial_seconds is not None and self.ddp_timeout < waves * self.max_trial_seconds + 300:
            times = f"{waves} x " if waves > 1 else ""
            raise ConfigError(
                f"ddp_timeout={self.ddp_timeout} is shorter than {times}max_trial_seconds={self.max_trial_seconds:g} + "
                "300: processes that finished their trials would give up on the others; raise ddp_timeout."
            )
        if self.server_urls and self.ddp_timeout < max(self.weight_sync_timeout, self.vllm_server_timeout) + 60:
            raise ConfigError(
                f"ddp_timeout={self.ddp_timeout} is shorter than weight_sync_timeout={self.weight_sync_timeout:g} or "
                f"vllm_server_timeout={self.vllm_server_timeout:g} + 60: other processes would give up on the one that "
                "waits for the servers; raise ddp_timeout."
            )
        if self.loss_type in ("grpo", "bnpo") and self.world_size > 1:
            warnings.warn(
                f"loss_type={self.loss_type!r} normalizes on each process, so results depend on their number; "
                "'dapo' does not.",
                stacklevel=2,
            )

    @property
    def continuous(self) -> bool:
        """Whether trials are played all the time."""
        return self.rollouts_ahead == "continuous"

    @property
    def ahead(self) -> int:
        """Number of whole rollouts that are played in advance."""
        return 0 if self.continuous else int(self.rollouts_ahead)

    @property
    def plays_ahead(self) -> bool:
        """Whether trials are played while the trainer learns."""
        return self.rollouts_ahead != "0"

    @property
    def updates_in_flight(self) -> bool:
        """Whether weights are updated under trials in flight."""
        return self.continuous or self.weight_update == "in_flight"

    @property
    def staleness(self) -> int:
        """Maximum number of updates between the weights that play and those that learn."""
        if not self.continuous:
            return self.ahead
        return DEFAULT_STALENESS if self.max_staleness is None else self.max_staleness

    @property
    def rows_per_trial(self) -> int:
        """Training rows per trial: 1 if the context only grows, else one per episode."""
        grows = make_memory(self.memory).one_context and self.keep_thoughts == "all"
        return 1 if grows else self.episodes

    def free_shots_at(self, step: int) -> int:
        """Number of free shots at an optimizer step."""
        return round(Schedule.parse("free_shots", self.free_shots)(step))

    def gamma_at(self, step: int) -> float:
        return Schedule.parse("gamma", self.gamma)(step)

    def exploration_at(self, step: int) -> float:
        """The coefficient of the exploration bonus at an optimizer step."""
        return Schedule.parse("exploration_coef", self.exploration_coef)(step)

    @property
    def explores(self) -> bool:
        """Whether the run has an exploration bonus over legal actions."""
        return any(Schedule.parse("exploration_coef", self.exploration_coef).values)

    def _check_trial(self) -> None:
        if not make_memory(self.memory).one_context and self.max_total_turns is not None:
            raise ConfigError(
                f"max_total_turns={self.max_total_turns} with memory={self.memory!r}: a budget that buys episodes "
                "needs one growing context; use memory='full'."
            )
        if self.keep_thoughts != "all" and self.max_total_turns is not None:
            raise ConfigError(
                f"max_total_turns={self.max_total_turns} with keep_thoughts={self.keep_thoughts!r}: a budget that buys "
                "episodes needs one growing context; use keep_thoughts='all'."
            )
        if self.keep_thoughts != "all" and self.memory == "none":
            raise ConfigError(
                f"keep_thoughts={self.keep_thoughts!r} would have no effect with memory='none', which shows no earlier "
                "episode: leave it out."
            )
        for value in Schedule.parse("free_shots", self.free_shots).values:
            if not (0 <= value < self.episodes and value == int(value)):
                raise ConfigError(
                    f"free_shots={self.free_shots!r}: {value:g} must be a whole number, at least 0 and below "
                    f"episodes={self.episodes}, so that at least one episode counts."
                )
        for value in Schedule.parse("exploration_coef", self.exploration_coef).values:
            if value < 0:
                raise ConfigError(f"exploration_coef={self.exploration_coef!r}: {value:g} must be at least 0.")
        if self.format_steps >= self.max_steps and self.format_steps:
            raise ConfigError(
                f"format_steps={self.format_steps} leaves no step of max_steps={self.max_steps} to learn from trials: "
                "raise max_steps, or lower format_steps."
            )
        for value in Schedule.parse("gamma", self.gamma).values:
            if not 0 <= value <= 1:
                raise ConfigError(f"gamma={self.gamma!r}: {value:g} must lie in [0, 1].")
        if (self.top_p, self.top_k, self.min_p) != (1.0, 0, None) and not self.force_truncated_sampling:
            raise ConfigError(
                f"top_p={self.top_p}, top_k={self.top_k}, min_p={self.min_p}: truncating samplers bias the gradient; "
                "leave them at 1.0, 0 and None, or set force_truncated_sampling."
            )
        for name, plain in (
            ("repetition_penalty", 1.0),
            ("generation_kwargs", None),
            ("vllm_structured_outputs_regex", None),
        ):
            if getattr(self, name) not in (plain, {}):
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is not known to rollouts: trials are sampled from the model's own "
                    "distribution at `temperature`. Leave it out."
                )
        if self.force_truncated_sampling and not self.use_vllm:
            raise ConfigError(
                "force_truncated_sampling=True needs use_vllm: the in-process policy samples untruncated."
            )

    def _check_correction(self) -> None:
        corrects = self.vllm_importance_sampling_correction and (self.use_vllm or self.plays_ahead)
        if self.vllm_importance_sampling_mode.startswith("sequence") and corrects:
            warnings.warn(
                f"vllm_importance_sampling_mode={self.vllm_importance_sampling_mode!r} sums over the tokens of a whole "
                "trial, so long trials are masked or scaled whole; 'token_truncate' is not.",
                stacklevel=3,
            )

    def _check_server(self) -> None:
        if not self.use_vllm:
            return
        if self.vllm_mode == "colocate" and not torch.cuda.is_available():
            raise ConfigError("vllm_mode='colocate' needs a GPU: use vllm_mode='server', or use_vllm=false.")
        if self.vllm_mode == "colocate" and (self.vllm_tensor_parallel_size > 1 or self.vllm_enable_sleep_mode):
            raise ConfigError(
                f"vllm_tensor_parallel_size={self.vllm_tensor_parallel_size}, vllm_enable_sleep_mode="
                f"{self.vllm_enable_sleep_mode}: with vllm_mode='colocate' each process plays its own trials on its "
                "own engine; leave them at 1 and false, or use vllm_mode='server'."
            )
        if self.vllm_mode == "server":
            host = "127.0.0.1" if self.vllm_server_host == "0.0.0.0" else self.vllm_server_host
            given: str = self.vllm_server_base_url or f"http://{host}:{self.vllm_server_port}"
            self.vllm_server_base_url = ",".join(parse_urls(given))

    @property
    def server_urls(self) -> list[str]:
        """URLs of the run's vLLM servers; empty if it uses none."""
        served = self.use_vllm and self.vllm_mode == "server"
        return parse_urls(self.vllm_server_base_url) if served and self.vllm_server_base_url else []

    def _check_credit(self) -> None:
        if self.credit not in RULES:
            raise ConfigError(f"credit={self.credit!r} is not known: use one of {', '.join(RULES)}.")
        if self.credit == "trial":
            self.scale_rewards = "group" if self.scale_rewards is None else self.scale_rewards
        elif self.scale_rewards is not None:
            raise ConfigError(
                f"scale_rewards={self.scale_rewards!r} has no meaning with credit={self.credit!r}, which has one scale "
                "for the batch: leave it out, or use credit='trial'."
            )
        else:
            self.scale_rewards = "none"
        if self.gamma_step is not None and self.credit not in ("return_to_go", "gigpo"):
            raise ConfigError(
                f"gamma_step={self.gamma_step} credits turns, which credit={self.credit!r} does not: use "
                "'return_to_go' or 'gigpo', or leave it out."
            )

    def _check_micro_batches(self) -> None:
        if self.micro_batch_tokens is not None and self.top_entropy_quantile < 1:
            raise ConfigError(
                f"top_entropy_quantile={self.top_entropy_quantile:g} with micro_batch_tokens="
                f"{self.micro_batch_tokens}: a quantile within a micro-batch, which would hold rows of one length. "
                "Leave one of them out."
            )

    def _check_checkpoints(self) -> None:
        cycle = self.steps_per_generation * self.num_iterations
        save_strategy = getattr(self.save_strategy, "value", self.save_strategy)
        if save_strategy != "steps" or self.save_steps < 1:
            return
        if int(self.save_steps) * self.gradient_accumulation_steps % cycle:
            raise ConfigError(
                f"save_steps={self.save_steps} x gradient_accumulation_steps={self.gradient_accumulation_steps} is no "
                f"multiple of steps_per_generation={self.steps_per_generation} x num_iterations={self.num_iterations}: "
                "a checkpoint would fall inside a rollout and could not be resumed exactly."
            )
