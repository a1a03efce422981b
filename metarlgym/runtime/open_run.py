"""A run of `train` or `pretrain` in its folder: claimed by the main process, resumed, and stopped in one line."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from transformers import TrainerCallback

from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.runtime.agreement import agree
from metarlgym.runtime.checkpoint import COMPLETE, checkpoints, latest_complete
from metarlgym.runtime.integrity import damage
from metarlgym.runtime.interrupt import Interrupted, status_of, stopped_by
from metarlgym.runtime.log_lines import cut_lines
from metarlgym.runtime.run_folder import Mode, RunFolder


@dataclass
class OpenRun(TrainerCallback):
    """A run in its folder; as a callback of its trainer it takes the first step as the end of the start."""

    path: Path
    command: str
    """`train` or `pretrain`."""
    arguments: Sequence[str]
    texts: Mapping[str, str]
    """What to write into the folder once the run has started, by file name."""
    folder: RunFolder | None = None
    """None on all processes but the main one."""
    resume_from: Path | None = None
    stage: str = "start"
    """`start`, `training`, or `final` after it."""
    step: int = 0
    steps: int = 0
    saved: Path | None = None
    """The final model, once it is written whole."""
    made: bool = field(default=False)
    """Whether the starting model is kept."""

    @property
    def first_step(self) -> int:
        """The step that training goes on from."""
        return int(self.resume_from.name.rpartition("-")[2]) if self.resume_from else 0

    def keep(self) -> None:
        """The starting model is made: from now on Ctrl-C leaves a run that can be resumed."""
        self.made = True
        if self.folder is not None:
            self.folder.keep(self.texts)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step, self.steps, self.stage = state.global_step, state.max_steps, "training"
        state.compute_steps(
            args, state.max_steps
        )  # those of the checkpoint would win over other logging_steps and such
        if self.first_step and getattr(args, "eval_on_start", False):
            args.eval_on_start = False  # a start from a checkpoint has been evaluated at its step
        if self.folder is not None and self.folder.resumed:
            cut_lines(self.path / "metrics.jsonl", self.first_step, summary=self.first_step >= state.max_steps)
            cut_lines(self.path / "trials.jsonl", self.first_step - 1)  # a trial's step is the one before it counts
            self.folder.commit(self.texts)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step = state.global_step
        if self.folder is not None:
            if not self.folder.committed:
                self.folder.commit(self.texts)
            self.folder.check()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.stage = "final"

    def stopped(self, by: type[BaseException]) -> Interrupted:
        """What a stop by signal says: how far the run came, what is saved, how to go on."""
        status = status_of(by)
        last, _ = latest_complete(self.path)
        kept = f"the last complete checkpoint is {last}" if last else "no checkpoint is written yet"
        if PartialState().num_processes > 1:
            again = "the same command and --resume"
        else:
            again = go_on(self.command, self.arguments)
        if self.stage == "final":
            saved = f"the final model is {self.saved}" if self.saved else kept
            return Interrupted(f"training is done, the evaluation is not: {saved}; go on with: {again}", status)
        began = self.folder is None or self.folder.committed or self.folder.resumed
        if not began and not self.made:
            return Interrupted(f"before the first step was done: {self.path} is left as it was.", status)
        step = f"step {self.step} of {self.steps}; " if self.steps else ""
        return Interrupted(f"{step}{kept}; go on with: {again}", status)


def go_on(command: str, arguments: Sequence[str]) -> str:
    """The command line that goes on with a run which these arguments started."""
    drop = {"--resume", "--overwrite"}
    kept = [word for i, word in enumerate(arguments) if not _is_flag(arguments, i, drop)]
    return shlex.join(["metarlgym", command, *kept, "--resume"])


def _is_flag(words: Sequence[str], i: int, flags: set[str]) -> bool:
    """Whether a word is one of the flags, or the value of one."""
    if words[i].split("=")[0] in flags:
        return True
    return i > 0 and words[i - 1] in flags and not words[i].startswith("--")


def newest_sound(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be resumed, and a line for each newer one that was passed over.

    Raises:
        ConfigError: there are complete ones, and all are damaged.
    """
    skipped: list[str] = []
    damaged = ""
    for path in reversed(checkpoints(folder)):
        if not (path / COMPLETE).exists():
            skipped.append(f"{path} is incomplete (the run ended while writing it): passed over")
            continue
        wrong = damage(path)
        if wrong is None:
            return path, skipped
        damaged = damaged or f"{path}: {wrong}"
        skipped.append(f"{path} is damaged ({wrong}): passed over")
    if damaged:
        raise ConfigError(
            f"no checkpoint can be resumed ({damaged}): bring its files back, or remove the damaged checkpoints to "
            "start from the beginning."
        )
    return None, skipped


@contextmanager
def open_run(
    run: OpenRun, mode: Mode, inputs: Mapping[str, Any], check: Callable[[Path], None], console: Console
) -> Iterator[OpenRun]:
    """Claim the run's folder, find the checkpoint to go on from, and let go of the folder at the end. Collective.

    Args:
        run: the run, its folder not claimed yet.
        mode: what to do with a run that is there.
        inputs: what the run reads, by setting.
        check: refuses, or warns of, settings that differ from those of the run in the folder.
        console: says what is resumed and passed over.

    Raises:
        Interrupted: a signal stopped it.
        ConfigError: the folder cannot be had; on all processes.
    """
    problem: Exception | None = None
    ended: BaseException | None = None
    try:
        if PartialState().is_main_process:
            try:
                _claim(run, mode, inputs, check, console)
            except MetaRLGymError as error:
                problem = error
            except OSError as error:
                problem = ConfigError(f"output_dir={str(run.path)!r} cannot be read or written: {error}.")
        agree(problem)
        found = [run.resume_from]
        if PartialState().num_processes > 1:
            broadcast_object_list(found)
        run.resume_from = found[0]
        yield run
    except BaseException as error:
        ended = error
        by = stopped_by(error)
        if by is None:
            raise
        ended = by()
        raise run.stopped(by) from None
    finally:
        if run.folder is not None:
            run.folder.close(ended)


def _claim(
    run: OpenRun, mode: Mode, inputs: Mapping[str, Any], check: Callable[[Path], None], console: Console
) -> None:
    run.folder = RunFolder.claim(run.path, run.command, mode, inputs)
    if mode != "resume":
        return
    if run.folder.resumed:
        run.resume_from, skipped = newest_sound(run.path)
        check(run.path)
        for line in skipped:
            console.print(line, highlight=False, soft_wrap=True)
    if run.resume_from is not None:
        console.print(f"resuming from {run.resume_from}", highlight=False, soft_wrap=True)
    elif run.folder.resumed:
        console.print(
            f"no complete checkpoint in {run.path}: starting from the beginning", highlight=False, soft_wrap=True
        )
