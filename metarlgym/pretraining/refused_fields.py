"""Fields of transformers' TrainingArguments that a pretraining run rejects, always or depending on other settings.

All other fields have an effect, as a test shows for each. Only fields set by the user are rejected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metarlgym.datatypes import ConfigError
from metarlgym.models.networks import NetworkArguments
from metarlgym.settings.given import Given
from metarlgym.settings.needs import Needs, check_needs
from metarlgym.settings.training_arguments import UNUSED, WITHOUT_SETTINGS, check_training, training_needs

if TYPE_CHECKING:
    from metarlgym.pretraining.run import PretrainSettings

REFUSED: dict[str, str] = {
    **UNUSED,
    "per_device_eval_batch_size": "is not used: evaluations have batches of their own; leave it out.",
    "data_seed": "is not used: sequences come from source_seed, weights from seed; set those.",
    "logging_first_step": "is not used: the first step has a checkpoint, and so a line, always; leave it out.",
    **dict.fromkeys(
        ("eval_strategy", "eval_steps", "eval_delay", "eval_on_start"),
        "is not used: the model is evaluated at every one of its `checkpoints`; set checkpoints.",
    ),
    **dict.fromkeys(
        ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        "is not used: the model with the lowest held-out loss is kept in best/; leave it out.",
    ),
    **dict.fromkeys(
        ("gradient_checkpointing", "gradient_checkpointing_kwargs"),
        "is not supported: lower per_device_train_batch_size and raise gradient_accumulation_steps instead.",
    ),
}
"""Fields that no run uses, with the text that follows `name=value` in the error message."""

NETWORK = " ".join(NetworkArguments.__annotations__)


def _optim(s: Any) -> str:
    return str(getattr(s.config.optim, "value", s.config.optim))


def _schedule(s: Any) -> str:
    return str(getattr(s.config.lr_scheduler_type, "value", s.config.lr_scheduler_type))


NEEDS: tuple[Needs, ...] = (
    *training_needs(lambda s: s.config),
    Needs("momentum", "optim=sgd", "optim", lambda s: _optim(s) == "sgd"),
    Needs("optim_args", "optim=adagrad or rmsprop", "optim", lambda s: _optim(s) in ("adagrad", "rmsprop")),
    Needs(
        "decay_steps min_lr_rate", "lr_scheduler_type=cosine", "lr_scheduler_type", lambda s: _schedule(s) == "cosine"
    ),
    Needs(
        "lr_scheduler_kwargs",
        "a schedule that has settings, such as lr_scheduler_type=cosine_with_min_lr (cosine has min_lr_rate)",
        "lr_scheduler_type",
        lambda s: _schedule(s) not in (*WITHOUT_SETTINGS, "cosine"),
    ),
    Needs("words_args", "words_of", "words_of", lambda s: s.config.words_of is not None),
    Needs(
        f"{NETWORK} context",
        "a network made from scratch (no model_name_or_path)",
        "model_name_or_path",
        lambda s: not s.run.model_name_or_path,
    ),
)
"""Fields that only some runs use."""


def check_conditions(given: Given, changed: dict[str, Any], settings: PretrainSettings) -> set[str]:
    """Reject settings that this run does not use.

    Args:
        given: settings from the file and the command line.
        changed: those that differ from the defaults.
        settings: all settings, resolved.

    Returns:
        Settings of the file that have no effect because of the command line.

    Raises:
        ConfigError: names the field, its value and the remedy.
    """
    check_training(settings.config)
    if "use_liger_kernel" in changed and not settings.run.model_name_or_path:
        raise ConfigError("use_liger_kernel=True is for models given by model_name_or_path: leave it out.")
    return check_needs(given, changed, NEEDS, settings)
