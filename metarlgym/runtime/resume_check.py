"""Checks on resume that a run keeps the settings it was started with: all of them, not only those given."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metarlgym.datatypes import ConfigError
from metarlgym.settings.old_names import under_new_names

SETTINGS = "settings.json"
PROCESSES = "processes"
FREE = re.compile(
    r"output_dir|run_name|project|trackio_\w+|log\w*|num_completions_to_print|report_to|disable_tqdm|threads|resume"
    r"|overwrite|eval_\w+|per_device_eval_batch_size|prediction_loss_only|batch_eval_metrics|include_\w+"
    r"|(bf16|fp16)_full_eval|final_eval_\w+|sample_\w+|save_\w+|checkpoints|push_to_hub|hub_\w+|dataloader_\w+|ddp_\w+"
    r"|debug|skip_memory_metrics|do_(train|eval|predict)|resume_from_checkpoint|local_rank|ignore_data_skip|use_cpu"
    r"|label_names|remove_unused_columns|torch_empty_cache_steps|greater_is_better|metric_for_best_model|processes"
    r"|vllm_server_\w+|vllm_group_port|server_\w+|weight_sync_timeout|probe_\w+|only|workers|num_train_epochs"
)
"""Settings that do not affect what is learned: output, speed, paths, processes and server addresses."""


def everything(parts: Iterable[Any], plain: Callable[[Any], Any], processes: int) -> dict[str, Any]:
    """All fields of dataclass instances as JSON values, and the number of processes.

    Args:
        parts: dataclass instances.
        plain: converts a value to one that JSON supports.
        processes: number of processes in the launch.
    """
    found = {item.name: plain(getattr(part, item.name)) for part in parts for item in dataclasses.fields(part)}
    secret = {name for name in found if "token" in name and name.startswith("hub")}
    return {name: value for name, value in found.items() if name not in secret} | {PROCESSES: processes}


def as_text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, sort_keys=True) + "\n"


def held_settings(folder: Path) -> dict[str, Any]:
    """The settings a run was started with: all of them, or those in `config.yaml` for runs of earlier versions.

    Raises:
        ConfigError: if they are missing or damaged.
    """
    for name, read in ((SETTINGS, json.loads), ("config.yaml", yaml.safe_load)):
        try:
            content = read((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (ValueError, yaml.YAMLError):
            content = None
        if not isinstance(content, dict):
            raise ConfigError(f"{folder / name} is damaged: the settings of the run to resume are unknown.")
        return under_new_names(content)
    raise ConfigError(
        f"{folder} holds neither {SETTINGS} nor config.yaml: the settings of the run to resume are unknown. Bring one "
        "back, or start a new run in another --output_dir."
    )


def differences(
    held: Mapping[str, Any], now: Mapping[str, Any], free: re.Pattern[str] = FREE
) -> list[tuple[str, Any, Any]]:
    """(name, before, now) of the settings that differ, except for those that are free to change.

    Batch sizes are compared over all processes, so a run may resume with more or fewer processes.
    """
    now = json.loads(json.dumps(now))
    found = []
    for name in now:
        if name not in held or free.fullmatch(name):
            continue
        before, after = held[name], now[name]
        if name == "per_device_train_batch_size" and PROCESSES in held:
            before, after = before * held[PROCESSES], after * now[PROCESSES]
        if before != after and not _same_path(before, after):
            found.append((name, held[name], now[name]))
    return found


def check_same(folder: Path, now: Mapping[str, Any], may_change: Sequence[str], free: re.Pattern[str] = FREE) -> None:
    """Refuse to resume with different settings.

    Raises:
        ConfigError: on the first setting that differs.
    """
    for name, before, after in differences(held_settings(folder), now, free):
        if name not in may_change:
            raise refusal(folder, name, before, after, may_change)


def refusal(folder: Path, name: str, before: Any, after: Any, may_change: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"{name}={after!r} was {before!r} in {folder}: --resume needs the same settings; give the old one, or "
        f"another --output_dir. What may change: {', '.join(may_change)}, and what is logged, saved and evaluated."
    )


def _same_path(before: Any, after: Any) -> bool:
    return isinstance(before, str) and isinstance(after, str) and _resolved(before) == _resolved(after)


def _resolved(text: str) -> str:
    path = Path(text)
    return str(path.resolve()) if "/" in text and path.exists() else text
