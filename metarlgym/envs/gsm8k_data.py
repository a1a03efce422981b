"""Word problems in the format of openai/gsm8k: rows of a `question` and an `answer` that ends with `#### 42`."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from metarlgym.datatypes import ConfigError
from metarlgym.envs.math_answer import read_number
from metarlgym.files import expand

BUNDLED = "bundled"
"""Name of the problems bundled with the package: few and easy, for tests and first runs."""
CONFIG = "main"
"""Configuration of the hub's data set, and the name of its folder."""
ENDINGS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
"""Supported file extensions, and the names of their formats in `datasets`."""


class Problem(NamedTuple):
    """A question and its answer, a bare number as returned by `read_number`."""

    question: str
    answer: str


class Problems(NamedTuple):
    """The two splits of a data set; they share no question and contain no duplicates."""

    train: tuple[Problem, ...]
    test: tuple[Problem, ...] | None
    """None if the data have only one split."""


@cache
def load_problems(data: str) -> Problems:
    """Read a data set, once per process.

    Args:
        data: `bundled`; or a folder that contains files `train*` and `test*` (`.parquet`, `.jsonl` or `.json`),
            directly or in its folder `main`; or one such file, which then has only one split; or the id of a data set
            on the hub.

    Raises:
        ConfigError: the data do not exist, or have another format.
    """
    if data == BUNDLED:
        folder = Path(__file__).parent / "data" / "gsm8k"
        rows = {split: _lines(folder / f"{split}.jsonl") for split in ("train", "test")}
    else:
        rows = _local_rows(Path(expand(data)), data) if _is_local(data) else _hub_rows(data)
    if "train" not in rows:
        raise ConfigError(f"data={data!r} has no train split, only {', '.join(map(str, rows))}: give data with one.")
    test = _problems(data, "test", rows["test"]) if "test" in rows else None
    known = {problem.question for problem in test or ()}
    train = tuple(p for p in _problems(data, "train", rows["train"]) if p.question not in known)
    for split, problems in (("train", train), ("test", test)):
        if problems is not None and not problems:
            raise ConfigError(f"data={data!r} has no problem in its {split} split: give data with some.")
    return Problems(train, test)


def _problems(data: str, split: str, rows: Iterable[Mapping[str, Any]]) -> tuple[Problem, ...]:
    """The validated rows of a split; of duplicate questions the first."""
    found: dict[str, Problem] = {}
    for number, row in enumerate(_decoded(data, split, rows), start=1):
        place = f"data={data!r}: row {number} of {split}"
        for column in ("question", "answer"):
            if not isinstance(row.get(column), str):
                raise ConfigError(
                    f"{place} has no text in column {column!r} (its columns: {', '.join(row) or 'none'}): rename the "
                    "columns to 'question' and 'answer'."
                )
        _, mark, final = row["answer"].rpartition("####")
        answer = read_number(final.replace(",", ""))
        if not mark or answer is None:
            shown = " ".join((final if mark else row["answer"]).split())[-40:]
            raise ConfigError(f"{place} has no answer after '####' that is a number ({shown!r}): write '#### 42'.")
        question = row["question"].strip()
        found.setdefault(question, Problem(question, answer.rstrip("%")))
    return tuple(found.values())


def _decoded(data: str, split: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The rows; those of Parquet files may contain bytes that are not UTF-8."""
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise ConfigError(f"data={data!r}: a text of {split} is not UTF-8 ({error}): write the file again.") from error


def _is_local(data: str) -> bool:
    """Whether `data` is a path: it exists, or cannot be the id of a data set."""
    looks_local = data.startswith((".", "/", "~")) or data.count("/") > 1 or Path(data).suffix in ENDINGS
    return looks_local or Path(expand(data)).exists()


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _local_rows(path: Path, data: str) -> dict[str, Any]:
    """Rows by split, from a file or a folder."""
    if path.is_file():
        if path.suffix not in ENDINGS:
            raise ConfigError(f"data={data!r} is a file of an unknown kind: give {', '.join(ENDINGS)} or a folder.")
        return _load(data, ENDINGS[path.suffix], data_files={"train": [str(path)]})
    if not path.is_dir():
        raise ConfigError(f"data={data!r}: no such file or folder. Give a path, a hub id, or {BUNDLED!r}.")
    folder = path / CONFIG if (path / CONFIG).is_dir() else path
    for ending, kind in ENDINGS.items():
        files = {split: sorted(map(str, folder.glob(f"{split}*{ending}"))) for split in ("train", "test")}
        if files["train"]:
            return _load(data, kind, data_files={split: names for split, names in files.items() if names})
    raise ConfigError(f"data={data!r}: no file train*.parquet, train*.jsonl or train*.json in {str(folder)!r}: add it.")


def _hub_rows(data: str) -> dict[str, Any]:
    """Rows by split, from a data set on the hub."""
    return _load(data, data, name=CONFIG)


def _load(data: str, path: str, **kwargs: Any) -> dict[str, Any]:
    """`datasets.load_dataset`; imported lazily, because it takes a second and the bundled problems do not need it."""
    import datasets

    local = path in ENDINGS.values()
    for file in itertools.chain.from_iterable(kwargs["data_files"].values()) if local else ():
        if problem := _file_problem(Path(file)):
            raise ConfigError(f"data={data!r}: {file} {problem}.")
    try:
        with _quiet(datasets) if local else contextlib.nullcontext():
            return datasets.load_dataset(path, **kwargs)
    # Missing data, no network and malformed files raise errors of all these kinds; StopIteration is raised for an empty
    # file.
    except (OSError, ValueError, datasets.exceptions.DatasetsError, StopIteration) as error:
        cause = error.__cause__ or error  # "An error occurred while generating the dataset" is uninformative
        reason = " ".join(str(cause).split()) or ("no rows" if isinstance(error, StopIteration) else repr(error))
        raise ConfigError(
            f"data={data!r} cannot be loaded ({reason[:200].rstrip('.')}): give the path of a folder with train and "
            f"test files, the id of a hub data set that can be reached, or {BUNDLED!r}."
        ) from error


def _file_problem(path: Path) -> str | None:
    """The problem with a file of rows and the fix, phrased to follow its name in a message; None if it can be read.

    `datasets` silently reads some broken files, and reports neither file nor line for others.
    """
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            pq.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            return (
                f"is not a Parquet file that can be read ({' '.join(str(error).split()).rstrip('.')}): write it again"
            )
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return f"is not UTF-8 ({error.reason} {error.object[error.start]:#04x} at byte {error.start}): save it as UTF-8"
    decoder, place = json.JSONDecoder(), _next_value(text, 0)
    while place < len(text):
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", place)) + 1
            return f"is not JSON ({getattr(error, 'msg', 'nested too deeply')} in line {line}): correct that line"
        for row in value if isinstance(value, list) else [value]:
            if not isinstance(row, dict):
                line = text.count("\n", 0, place) + 1
                return (
                    f"holds {str(row)[:40]!r} in line {line}, which is not a row: "
                    'write {"question": "...", "answer": "... #### 42"}'
                )
        place = _next_value(text, end)
    return None


def _next_value(text: str, place: int) -> int:
    """Index of the first non-whitespace character at or after `place`."""
    while place < len(text) and text[place].isspace():
        place += 1
    return place


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Hide the progress bars and log lines of `datasets`."""
    shown, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    if shown:
        datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()
