"""Atomic checkpoints: a `COMPLETE` marker is written last.

A checkpoint holds the model, optimizer, schedule and RNG states as written by transformers. Task order and all sampling
are functions of the seed and the step, so nothing else is needed to resume exactly.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from metarlgym.datatypes import MetaRLGymError
from metarlgym.runtime.integrity import COMPLETE, begin, damage, mark_complete
from metarlgym.runtime.layout import CHECKPOINT, remove_tree, written

__all__ = ["COMPLETE", "CheckpointMixin", "checkpoints", "is_disk_error", "latest_complete"]


def checkpoints(folder: str | Path) -> list[Path]:
    """Checkpoint folders in a run folder, sorted by step, whether complete or not."""
    found = [p for p in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def latest_complete(folder: str | Path) -> tuple[Path | None, list[Path]]:
    """The newest complete, undamaged checkpoint, and the newer ones that were skipped."""
    skipped: list[Path] = []
    for path in reversed(checkpoints(folder)):
        if (path / COMPLETE).exists() and damage(path) is None:
            return path, skipped
        skipped.append(path)
    return None, skipped


class CheckpointMixin:
    """Adds to `transformers.Trainer`: the `COMPLETE` marker, a `save_total_limit` that removes only what a run wrote, a
    helpful message when the disk is full, and on resume the currently given learning rate."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        args: Any = self.args  # type: ignore[attr-defined]
        step: int = self.state.global_step  # type: ignore[attr-defined]
        folder = Path(args.output_dir)
        path = folder / f"checkpoint-{step}"
        limit, args.save_total_limit = (
            args.save_total_limit,
            None,
        )  # else old ones are removed before this one is complete
        try:
            if args.should_save:
                users = begin(path, CHECKPOINT)  # a damaged one that was skipped may exist
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            if args.should_save:
                self._save_more(path)
            self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]
            if args.should_save:
                mark_complete(path, step, users)
                best = self.state.best_model_checkpoint  # type: ignore[attr-defined]
                _rotate(folder, limit, {path, Path(best or path)})
        except Exception as error:  # safetensors has its own exception class
            if not is_disk_error(error):
                raise
            last, _ = latest_complete(folder)
            kept = f"the last complete checkpoint is {last}" if last else "there is no complete checkpoint yet"
            raise MetaRLGymError(
                f"output_dir={str(folder)!r}: could not write checkpoint {step} ({error}); {kept}. Free space there "
                "and start again with --resume."
            ) from error
        finally:
            args.save_total_limit = limit

    def _save_more(self, path: Path) -> None:
        """Write additional files of a checkpoint; called on the main process before it is marked complete."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load as transformers does, then apply the given learning rate, which may differ from the checkpoint's."""
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        scheduler: Any = self.lr_scheduler  # type: ignore[attr-defined]
        schedule = getattr(scheduler, "scheduler", scheduler)
        peak: float = self.args.learning_rate  # type: ignore[attr-defined]
        if checkpoint is None or not isinstance(schedule, LambdaLR) or all(rate == peak for rate in schedule.base_lrs):
            return
        schedule.base_lrs = [peak for _ in schedule.base_lrs]
        for group, rate in zip(schedule.optimizer.param_groups, schedule.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = peak, peak * rate(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]


def _rotate(folder: Path, limit: int | None, kept: set[Path]) -> None:
    """Remove the oldest checkpoints beyond `limit`, except for files that a user put there."""
    if limit is None or limit <= 0:
        return
    complete = [path for path in checkpoints(folder) if (path / COMPLETE).exists()]
    every = sorted(complete, key=lambda path: path.stat().st_mtime)
    excess = len(every) - max(limit, len(kept))
    for path in [path for path in every if path not in kept][: max(0, excess)]:
        tree = written(path, CHECKPOINT)
        (path / COMPLETE).unlink(missing_ok=True)  # first, because a partly removed checkpoint is not complete
        remove_tree(path, tree)


def is_disk_error(error: BaseException) -> bool:
    """Whether the error is a full disk, an exceeded quota or a failed write, from the OS, safetensors or torch."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return True
    text = str(error).lower()
    marks = ("no space left", "disk quota", "file too large", "unexpected pos", "iostream error", "write")
    return any(mark in text for mark in marks)
