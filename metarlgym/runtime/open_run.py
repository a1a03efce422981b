"""An open run of `train` or `pretrain`: claims its folder on the main process, resumes it, and reports stops."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from transformers import TrainerCallback

from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.files import expand
from metarlgym.runtime.agreement import agree
from metarlgym.runtime.checkpoint import COMPLETE, checkpoints, latest_complete
from metarlgym.runtime.integrity import damage
from metarlgym.runtime.interrupt import Interrupted, status_of, stopped_by
from metarlgym.runtime.log_lines import cut_lines
from metarlgym.runtime.resume_check import SETTINGS, as_text
from metarlgym.runtime.run_folder import Mode, RunFolder
from metarlgym.version import __version__


@dataclass
class OpenRun(TrainerCallback):
    """A run in its folder; as a trainer callback, it commits the folder after the first step."""

    path: Path
    command: str
    """`train` or `pretrain`."""
    arguments: Sequence[str]
    texts: Mapping[str, str]
    """Texts to write to the folder once the run has started, by file name."""
    folder: RunFolder | None = None
    """None on all processes except the main one."""
    resume_from: Path | None = None
    stage: str = "start"
    """`start`, `training`, or `final` after training."""
    step: int = 0
    steps: int = 0
    saved: Path | None = None
    """The final model, once it is completely written."""
    made: bool = field(default=False)
    """Whether the starting model is kept."""

    @classmethod
    def of(
        cls,
        output_dir: str | None,
        command: str,
        arguments: Sequence[str],
        config: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> OpenRun:
        """A run whose folder is not claimed yet.

        Args:
            output_dir: the run's folder.
            command: `train` or `pretrain`.
            arguments: the command line as given.
            config: content of `config.yaml`, which reproduces the run.
            settings: all settings, with which a resumed run is compared.
        """
        texts = {
            "config.yaml": yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
            SETTINGS: as_text(settings),
            "version.txt": f"metarlgym {__version__}\n",
        }
        return cls(Path(expand(str(output_dir))), command, arguments, texts)

    @property
    def first_step(self) -> int:
        """The step from which training continues."""
        return int(self.resume_from.name.rpartition("-")[2]) if self.resume_from else 0

    def keep(self) -> None:
        """Record that the starting model exists: from now on, Ctrl-C leaves a resumable run."""
        self.made = True
        if self.folder is not None:
            self.folder.keep(self.texts)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step, self.steps, self.stage = state.global_step, state.max_steps, "training"
        state.compute_steps(
            args, state.max_steps
        )  # else the checkpoint's logging_steps etc. take precedence over the given ones
        if self.first_step and getattr(args, "eval_on_start", False):
            args.eval_on_start = False  # the checkpoint's step has already been evaluated
        if self.folder is not None and self.folder.resumed:
            cut_lines(self.path / "metrics.jsonl", self.first_step, summary=self.first_step >= state.max_steps)
            cut_lines(self.path / "trials.jsonl", self.first_step - 1)  # a trial's step is the one before its update
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
        """The exception for a stop by signal; it reports the progress, what is saved, and how to resume."""
        status = status_of(by)
        last, _ = latest_complete(self.path)
        kept = f"the last complete checkpoint is {last}" if last else "no checkpoint is written yet"
        if PartialState().num_processes > 1:
            again = "the same command and --resume"
        else:
            again = go_on(self.command, self.arguments)
        if self.stage == "final":
            saved = f"the final model is {self.saved}" if self.saved else kept
            return Interrupted(f"training is done, the evaluation is not: {saved}; resume with: {again}", status)
        began = self.folder is None or self.folder.committed or self.folder.resumed
        if not began and not self.made:
            return Interrupted(f"before the first step was done: {self.path} is left as it was.", status)
        step = f"step {self.step} of {self.steps}; " if self.steps else ""
        return Interrupted(f"{step}{kept}; resume with: {again}", status)


def go_on(command: str, arguments: Sequence[str]) -> str:
    """The command line that resumes a run started with these arguments."""
    drop = {"--resume", "--overwrite"}
    kept = [word for i, word in enumerate(arguments) if not _is_flag(arguments, i, drop)]
    return shlex.join(["metarlgym", command, *kept, "--resume"])


def _is_flag(words: Sequence[str], i: int, flags: set[str]) -> bool:
    """Whether a word is one of the flags or a flag's value."""
    if words[i].split("=")[0] in flags:
        return True
    return i > 0 and words[i - 1] in flags and not words[i].startswith("--")


def newest_sound(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest resumable checkpoint, and a message for each newer one that was skipped.

    Raises:
        ConfigError: if there are complete checkpoints but all are damaged.
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
    """Claim the run's folder, find the checkpoint to resume from, and release the folder at the end. Collective.

    Args:
        run: the run, with its folder not claimed yet.
        mode: how to treat an existing run.
        inputs: what the run reads, by setting.
        check: refuses, or warns about, settings that differ from those of the run in the folder.
        console: reports which checkpoints are resumed or skipped.

    Raises:
        Interrupted: if a signal stopped the run.
        ConfigError: on all processes, if the folder cannot be claimed.
    """
    problem: Exception | None = None
    with closing_folder(lambda: run.folder, run.stopped):
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


@contextmanager
def closing_folder(
    folder: Callable[[], RunFolder | None], stopped: Callable[[type[BaseException]], Interrupted]
) -> Iterator[None]:
    """Close a run's folder at the end, however it comes, and turn a stop by signal into a one-line error.

    Args:
        folder: returns the folder, or None if it is not claimed (yet, or by this process).
        stopped: makes the error from `KeyboardInterrupt` or `Terminated`.
    """
    ended: BaseException | None = None
    try:
        yield
    except BaseException as error:
        ended = error
        by = stopped_by(error)
        if by is None:
            raise
        ended = by()
        raise stopped(by) from None
    finally:
        if (claimed := folder()) is not None:
            claimed.close(ended)


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
