"""Execution of variants: in this process, or in parallel worker processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metarlgym.datatypes import MetaRLGymError
from metarlgym.runtime.run_folder import replace_text
from metarlgym.selflearning.experiment import Experiment
from metarlgym.selflearning.results import progress, result_path

NOTE = "in variant {name}; finished ones are kept, --resume runs the others"
Notify = Callable[[str], None]
"""Callback with the currently running variants, for a progress bar."""


def in_turn(
    experiment: Experiment, config: Any, names: list[str], folder: Path, notify: Notify
) -> Generator[str, None, None]:
    """Run variants sequentially in this process, on one thread; yields the name of each finished variant.

    Raises:
        MetaRLGymError: a variant failed.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        for name in names:
            torch.set_num_threads(1)
            try:
                run_one(experiment, config, name, folder, lambda step, total: notify(f"{name} {step}/{total}"))  # noqa: B023
            except MetaRLGymError as error:
                raise type(error)(f"variant {name}: {error}") from error
            except Exception as error:
                error.add_note(NOTE.format(name=name))
                raise
            yield name
    finally:
        torch.set_num_threads(threads)


def side_by_side(
    experiment: Experiment, config: Any, names: list[str], folder: Path, notify: Notify, workers: int
) -> Generator[str, None, None]:
    """Run variants in `workers` processes, one thread each; yields the name of each finished variant.

    Raises:
        MetaRLGymError: a variant failed; the others are terminated.
    """
    # Spawn rather than fork: the state of torch, matplotlib and the console must not be shared.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow, initargs=(os.getpid(),))
    module = experiment.__name__  # type: ignore[attr-defined]
    try:
        with _ignored_by_children():
            waiting: dict[Future[None], str] = {
                pool.submit(_run_by_name, module, config, name, str(folder)): name for name in names
            }
        left = set(waiting)
        while left:
            finished, left = wait(left, timeout=1.0, return_when="FIRST_COMPLETED")
            for future in finished:
                name = waiting[future]
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise MetaRLGymError(f"variant {name}: its process died; --resume runs what is left.")
                if isinstance(error, MetaRLGymError):
                    raise type(error)(f"variant {name}: {error}") from error
                if error is not None:
                    error.add_note(NOTE.format(name=name))
                    raise error  # its cause is the traceback in the other process
                yield name
            notify(", ".join(progress(folder, waiting[f]) for f in left if f.running()))
    finally:
        processes = list((pool._processes or {}).values())  # shutdown drops these references
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(5)  # none may write into the folder after it is released


def run_one(
    experiment: Experiment, config: Any, name: str, folder: Path, notify: Callable[[int, int], None] | None = None
) -> None:
    """Run a variant, and write its measurements and its result."""
    place = folder / "variants" / f"{name}.jsonl"
    start = time.monotonic()
    with place.open("w", encoding="utf-8") as file:

        def log(step: int, total: int, **values: Any) -> None:
            seconds = round(time.monotonic() - start, 2)
            file.write(json.dumps({"step": step, "of": total, "seconds": seconds, **values}) + "\n")
            file.flush()
            if notify is not None:
                notify(step, total)

        result = experiment.run_variant(config, name, log)
    # Written atomically: if the file exists, the variant is done.
    replace_text(result_path(folder, name), json.dumps({**result, "seconds": round(time.monotonic() - start, 1)}))


def _run_by_name(module: str, config: Any, name: str, folder: str) -> None:
    """Entry point of a worker process."""
    import importlib

    import torch

    torch.set_num_threads(1)
    experiment: Any = importlib.import_module(module)
    run_one(experiment, config, name, Path(folder))


@contextmanager
def _ignored_by_children() -> Iterator[None]:
    """Processes started in this context ignore Ctrl-C, which reaches all processes: the parent terminates them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(parent: int) -> None:
    """End this process when its parent is gone, since another run may then write into the folder."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
