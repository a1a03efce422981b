"""Checkpointing of a reference model that tracks the policy (`sync_ref_model`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model

from metarlgym.datatypes import ConfigError
from metarlgym.training.config import MetaGRPOConfig

REFERENCE = "ref_model.safetensors"


def check_reference(args: MetaGRPOConfig, use_peft: bool) -> None:
    """Refuse a reference model that cannot be saved in checkpoints.

    Raises:
        ConfigError: if another setting is incompatible with `sync_ref_model`.
    """
    if not args.sync_ref_model:
        return
    if args.beta == 0:
        raise ConfigError("sync_ref_model=True needs beta above 0: without a KL term there is no reference model.")
    if use_peft:
        raise ConfigError("sync_ref_model=True cannot go with use_peft: leave one of them out.")
    if args.deepspeed_plugin is not None or getattr(args, "fsdp_plugin_args", None):
        raise ConfigError(
            "sync_ref_model=True cannot go with DeepSpeed or FSDP: the reference model is in shards and would be "
            "missing from checkpoints. Leave it out, or launch without them."
        )


class ReferenceMixin:
    """Saves and loads the reference model with each checkpoint if it changes during training."""

    def _save_more(self, path: Path) -> None:
        if self.args.sync_ref_model:  # type: ignore[attr-defined]
            save_model(self._reference, str(path / REFERENCE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        if not self.args.sync_ref_model:  # type: ignore[attr-defined]
            return
        path = Path(resume_from_checkpoint) / REFERENCE
        if not path.is_file():
            raise ConfigError(
                f"{path} is missing: this checkpoint was written without sync_ref_model, so one with it cannot resume "
                "from there exactly; leave sync_ref_model out, or begin again."
            )
        load_model(self._reference, str(path))

    @property
    def _reference(self) -> Any:
        return self.accelerator.unwrap_model(self.ref_model)  # type: ignore[attr-defined]
