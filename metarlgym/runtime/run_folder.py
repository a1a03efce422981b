"""The folder of a run: claimed by one process, replaced or resumed as a whole, and restored after a failed start.

A run folder is identified by `run.json`, which holds the run's id and the state of its start:

* `starting`: nothing to keep yet. If the process dies, the next one to claim the folder undoes the start.
* `made`: the starting model exists, which may have taken minutes. An exception undoes the start; a stop keeps it.
* `running`: the first step is done.

When a run replaces another, the old run stays in `.replaced-ID` until the new one is `running`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from metarlgym.datatypes import ConfigError, MetaRLGymError
from metarlgym.files import expand, replacing
from metarlgym.runtime.layout import LAYOUTS, RUN, entries, foreign, remove, remove_tree
from metarlgym.runtime.lock import LOCK, STALE, Lock
from metarlgym.version import __version__

Mode = Literal["new", "resume", "overwrite"]
KIND_KEYS = {"train": "env_id", "pretrain": "source", "selflearn": "experiment"}
"""A setting that identifies each kind of run by its config.yaml, for runs without `run.json`."""
ELSEWHERE = "give another --output_dir"


class RunFolder:
    """A claimed run folder; created by `claim`, released by `close`.

    Attributes:
        path: the given path with `~` expanded.
        kind: `train`, `pretrain` or `selflearn`.
        resumed: whether it holds a run that is being resumed.
    """

    def __init__(self, path: Path, kind: str, made: list[Path], lock: Lock) -> None:
        self.path, self.kind, self.resumed = path, kind, False
        self._made, self._lock = made, lock
        self._state: dict[str, Any] = {}

    @classmethod
    def claim(cls, path: str | Path, kind: str, mode: Mode, inputs: Mapping[str, Any] | None = None) -> Self:
        """Claim a run folder.

        Args:
            path: the run folder; need not exist.
            kind: the kind of run.
            mode: how to treat an existing run: refuse it (`new`), resume it, or replace it (`overwrite`).
            inputs: what the run reads, by setting: paths, or values containing strings that may be paths.

        Raises:
            ConfigError: if the folder cannot be claimed; nothing was changed.
        """
        root = Path(expand(path))
        check_place(root)
        check_inputs(root, inputs or {}, mode)
        made: list[Path] = []
        lock = None
        try:
            for folder in (*reversed(root.parents), root):
                if not folder.exists():
                    with contextlib.suppress(FileExistsError):  # another process was faster
                        folder.mkdir()
                        made.append(folder)
            lock = Lock(root)
            run = cls(root, kind, made, lock)
            run._recover()
            try:
                run._begin(mode)
            except BaseException:
                run._recover()
                raise
        except BaseException as error:
            if lock is not None:
                lock.release()
            _remove_empty(made)
            if isinstance(error, OSError):
                raise ConfigError(
                    f"output_dir={str(path)!r} cannot be written ({error.strerror}): {ELSEWHERE}."
                ) from error
            raise
        return run

    @property
    def committed(self) -> bool:
        return self._state.get("state") == "running"

    def keep(self, texts: Mapping[str, str]) -> None:
        """Mark the start as `made`, so that a stop keeps it for a resume; writes `texts` by file name."""
        if self._state["state"] == "starting":
            self._write(texts)
            self._set("made")

    def commit(self, texts: Mapping[str, str]) -> None:
        """Mark the run as `running` and delete the run it replaces; writes `texts` by file name."""
        self._write(texts)
        self._set("running")
        self._drop_replaced()

    def check(self) -> None:
        """Raise `MetaRLGymError` if another process has taken over the folder."""
        self._lock.check()

    def close(self, error: BaseException | None = None) -> None:
        """Release the folder; undoes a failed start.

        Args:
            error: the error that ended the run, if any. If it is not an `Exception` (Ctrl-C), a start that is `made`
                is kept.
        """
        try:
            if self._state.get("state") == "made" and error is not None and not isinstance(error, Exception):
                self._set("running")
                self._drop_replaced()
            if not self.committed and not self.resumed and not self._lock.lost:
                self._undo()
        finally:
            self._lock.release()
            if not self.committed:
                _remove_empty(self._made)

    # ------------------------------------------------------------------ the start

    def _begin(self, mode: Mode) -> None:
        root, tree = self.path, LAYOUTS[self.kind]
        held = self._read()
        if held is not None and held["kind"] != self.kind:
            raise ConfigError(f"output_dir={str(root)!r} holds a run of `metarlgym {held['kind']}`: {ELSEWHERE}.")
        if held is None:
            ours = next((p for p in entries(root, tree) if p.name != LOCK and not _is_stop(p)), None)
            if ours is not None and not (mode == "resume" and self._holds_old_run()):
                raise ConfigError(
                    f"output_dir={str(root)!r} holds {ours.name}, which a run would write, but no {RUN} of a run: "
                    f"nothing there is touched; {ELSEWHERE}, or move it away."
                )
            others = [p for p in root.iterdir() if p.name != LOCK and not p.name.startswith(f".{LOCK}")]
            if ours is None and others and mode == "overwrite":
                raise ConfigError(
                    f"output_dir={str(root)!r} holds no run to overwrite, but {min(others).name}: {ELSEWHERE}, or "
                    "leave --overwrite out."
                )
            self.resumed = ours is not None
        elif mode == "new":
            raise ConfigError(
                f"output_dir={str(root)!r} holds another run: {ELSEWHERE}, resume it with --resume, or replace it "
                "by --overwrite."
            )
        else:
            self.resumed = mode == "resume"
        stop = root / "STOP"
        if tree.named("STOP") and (_is_stop(stop) or (held and stop.is_file() and not stop.is_symlink())):
            stop.unlink()  # left from an earlier start; a later one stops this run after its first step
        if self.resumed:
            self._state = held or self._new_state("running")
            return
        if held is not None and held["state"] == "made":
            self._state = held
            self._undo()  # restores the run that it was to replace
            held = self._read()
        new = self._new_state("starting")
        if held is not None:
            self._set_aside(new["id"])
        self._state = new
        self._save_state()

    def _new_state(self, state: str) -> dict[str, Any]:
        started = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
        return {
            "id": uuid.uuid4().hex,
            "kind": self.kind,
            "version": __version__,
            "started": started,
            "state": state,
        }

    def _holds_old_run(self) -> bool:
        """Whether the folder holds a run of an older version, which wrote no `run.json`."""
        try:
            config = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return False
        return isinstance(config, dict) and KIND_KEYS[self.kind] in config

    def _set_aside(self, new: str) -> None:
        """Move the existing run to `.replaced-NEW`, its `run.json` last.

        Raises:
            ConfigError: if its files include one that no run wrote.
        """
        tree = LAYOUTS[self.kind]
        found = foreign(self.path, tree)
        if found is not None:
            what = "a link" if found.is_symlink() else "not written by a run"
            raise ConfigError(
                f"output_dir={str(self.path)!r} holds {str(found.relative_to(self.path))!r}, {what}: --overwrite "
                f"would remove it, so nothing is touched; move it away, or {ELSEWHERE}."
            )
        aside = self.path / f".replaced-{new}"
        aside.mkdir()
        for path in sorted(entries(self.path, tree), key=lambda p: p.name == RUN):
            if path.name != LOCK:
                path.rename(aside / path.name)

    # ------------------------------------------------------------------ undoing

    def _recover(self) -> None:
        """Undo a start whose process died; finish one that only had the replaced run left to delete."""
        held = self._read()
        for path in self.path.glob(f".{LOCK}.*"):
            # Left by a process killed while acquiring the lock; recent ones may still be acquiring it.
            if (self.path / LOCK).stat().st_mtime - path.stat().st_mtime > STALE:
                path.unlink(missing_ok=True)
        if held is not None and held["state"] == "starting":
            self._state = held
            self._undo()
            held = self._state = {}
        for aside in self.path.glob(".replaced-*"):
            if not re.fullmatch(r"\.replaced-[0-9a-f]{32}", aside.name) or aside.is_symlink() or not aside.is_dir():
                continue
            if held and aside.name == f".replaced-{held['id']}":
                if held["state"] == "running":  # otherwise keep it: the new run may still be undone
                    remove_tree(aside, LAYOUTS[held["kind"]])
            else:
                self._put_back(aside)

    def _undo(self) -> None:
        """Remove what this start wrote, `run.json` last, and restore the run that it was to replace."""
        tree = LAYOUTS[self._state["kind"]]
        remove(self.path, tree, keep=(RUN, LOCK))
        (self.path / RUN).unlink(missing_ok=True)
        aside = self._replaced
        if aside.is_dir():
            self._put_back(aside)

    def _put_back(self, aside: Path) -> None:
        for path in sorted(aside.iterdir(), key=lambda p: p.name != RUN):
            place = self.path / path.name
            if place.exists() or place.is_symlink():
                raise ConfigError(
                    f"{path} belongs to a run that was to be replaced, and {place} stands in its place: move one away."
                )
            path.rename(place)
        aside.rmdir()

    # ------------------------------------------------------------------ files

    @property
    def _replaced(self) -> Path:
        return self.path / f".replaced-{self._state['id']}"

    def _drop_replaced(self) -> None:
        if self._replaced.is_dir():
            remove_tree(self._replaced, LAYOUTS[self.kind])

    def _read(self) -> dict[str, Any] | None:
        """The contents of `run.json`, or None if it does not exist.

        Raises:
            ConfigError: if a run did not write it, or it is damaged.
        """
        path = self.path / RUN
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["kind"] not in LAYOUTS or not re.fullmatch(r"[0-9a-f]{32}", held["id"]):
                raise ValueError("not of a run")
            return {"state": "running", **held}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"output_dir={str(self.path)!r}: its {RUN} is damaged, or not of a run: nothing there is touched; "
                f"{ELSEWHERE}."
            ) from None

    def _set(self, state: str) -> None:
        if self._state["state"] != state or not (self.path / RUN).exists():
            self._state["state"] = state
            self._save_state()

    def _save_state(self) -> None:
        self._write({RUN: json.dumps(self._state, indent=2) + "\n"})

    def _write(self, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            try:
                replace_text(self.path / name, text)
            except OSError as error:
                raise MetaRLGymError(f"{self.path / name} cannot be written ({error.strerror}).") from error


def replace_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically; raises OSError."""
    with replacing(path, path.with_name(path.name + ".part")) as file:
        file.write(text.encode())


def _is_stop(path: Path) -> bool:
    """Whether a file is an empty `STOP`, which asks a run to stop."""
    return path.name == "STOP" and path.is_file() and not path.is_symlink() and path.stat().st_size == 0


def _remove_empty(folders: list[Path]) -> None:
    for folder in reversed(folders):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def check_place(root: Path) -> None:
    """Refuse an unusable path for a run folder.

    Raises:
        ConfigError: if it is a file, lies below one, is a dangling link, or is not writable.
    """
    what = f"output_dir={str(root)!r}"
    for folder in (*reversed(root.parents), root):
        where = "" if folder == root else f" lies below {str(folder)!r}, which"
        if folder.is_symlink() and not folder.exists():
            target = folder.readlink()
            raise ConfigError(f"{what}{where} is a link to {str(target)!r}, which does not exist: make it first.")
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{what}{where} is a file: {ELSEWHERE}.")
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{what} cannot be written: permission denied for {str(there)!r}; {ELSEWHERE}.")


def check_inputs(root: Path, inputs: Mapping[str, Any], mode: Mode) -> None:
    """Refuse to write to a folder that the run also reads from.

    Raises:
        ConfigError: if an input lies in the run folder; states which setting.
    """
    target = root.resolve()
    for name, value in inputs.items():
        if name == "config" and mode == "resume":
            continue
        for text in _strings(value):
            if not text or len(text) > 4096 or "\0" in text:
                continue
            try:
                path = Path(expand(text))
                exists = path.exists()
            except OSError:
                continue  # too long for a file name: not a path
            if exists and path.resolve().is_relative_to(target):
                raise ConfigError(
                    f"{name}={text!r} lies in output_dir={str(root)!r}, where the run writes: {ELSEWHERE}, or move it."
                )


def _strings(value: Any) -> list[str]:
    if isinstance(value, str | Path):
        return [str(value)]
    if isinstance(value, Mapping):
        return [text for part in value.values() for text in _strings(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in _strings(part)]
    return []
