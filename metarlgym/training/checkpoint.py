"""Checkpoints that are either complete or known not to be.

A checkpoint holds model, optimizer, schedule and RNG states as transformers writes them. Task order and all sampling
are functions of the seed and the step, so nothing else is needed to go on exactly. The file `COMPLETE` comes last.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

from metarlgym.datatypes import MetaRLGymError

COMPLETE = "COMPLETE"


def checkpoints(folder: str | Path) -> list[Path]:
    """Checkpoint folders under a run folder by step, complete or not."""
    found = [p for p in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def latest_complete(folder: str | Path) -> tuple[Path | None, list[Path]]:
    """The newest complete checkpoint and the incomplete ones that were passed over."""
    skipped: list[Path] = []
    for path in reversed(checkpoints(folder)):
        if (path / COMPLETE).exists():
            return path, skipped
        skipped.append(path)
    return None, skipped


class CheckpointMixin:
    """Adds the `COMPLETE` mark to `transformers.Trainer` checkpoints and says what to do when the disk is full."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)  # type: ignore[attr-defined]
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            path = folder / f"checkpoint-{self.state.global_step}"  # type: ignore[attr-defined]
            self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]
            if self.args.should_save:  # type: ignore[attr-defined]
                mark = path / (COMPLETE + ".part")
                mark.write_text(f"{self.state.global_step}\n")  # type: ignore[attr-defined]
                mark.replace(path / COMPLETE)
        except Exception as error:  # safetensors has an exception class of its own
            if not _is_disk_error(error):
                raise
            last, _ = latest_complete(folder)
            kept = f"the last complete checkpoint is {last}" if last else "there is no complete checkpoint yet"
            raise MetaRLGymError(
                f"output_dir={str(folder)!r}: could not write checkpoint {self.state.global_step} "  # type: ignore[attr-defined]
                f"({error}); {kept}. Free space there and start again with --resume."
            ) from error


def _is_disk_error(error: BaseException) -> bool:
    """Disk full, quota or write failure, as the operating system, safetensors or torch report it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return True
    text = str(error).lower()
    marks = ("no space left", "disk quota", "file too large", "unexpected pos", "iostream error", "write")
    return any(mark in text for mark in marks)
